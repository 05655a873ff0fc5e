#!/bin/sh
# 0010-tree.t - the shape of the tree: arrows go down, each library has one owner, files say what they are
# SPDX-License-Identifier: MIT
. "${0%/*}/../tap.sh"
top=${SSM_TOP:?}
cd "$top" || exit 1

# folder and what it may include of ours, beside itself
rules='kernels kernels/cuda cuda
kernels/cuda kernels
common/base
common/io common/base
common/text common/base
common/dist common/base kernels
common/prep common/base common/io common/text common/dist
common/model common/base common/io common/text common/dist kernels
common/train common/base common/io common/text common/dist common/prep common/model kernels
common/eval common/base common/io common/text common/dist common/model kernels
common/merge common/base common/io common/model kernels
common/exchange common/base common/io common/model kernels
tools common/base common/io common/text common/dist common/prep common/model common/train common/eval common/merge common/exchange kernels'

arrows() { # one line for each include that points up or sideways
    echo "$rules" | while read -r dir allowed; do
        for f in "$dir"/*.[ch] "$dir"/*.cu "$dir"/*.cuh "$dir"/*.cc; do
            [ -f "$f" ] || continue
            sed -n 's/^ *# *include "\([^"]*\)\/[^"/]*".*/\1/p' "$f" | while read -r to; do
                case " $dir $allowed " in
                *" $to "*) ;;
                *) echo "$f includes $to/" ;;
                esac
            done
        done
    done
}
owner() { # HEADER-PATTERN FILE...: files other than these that include it
    pattern=$1
    shift
    grep -rlE "^ *# *include <$pattern" common kernels tools --include='*.[ch]' --include='*.cc' --include='*.cu' --include='*.cuh' | while read -r f; do
        case " $* " in *" $f "*) ;; *) echo "$f includes $pattern" ;; esac
    done
}
strangers() { # files that include another room's X_private.h
    grep -rE '^ *# *include ".*_private\.h"' common kernels tools tests --include='*.[ch]' | while IFS=: read -r f line; do
        of=$(echo "$line" | sed 's/.*"\(.*\)_private\.h".*/\1/')
        case $f in "${f%/*}/$of".c | "${f%/*}/$of"_*.c | "tests/fuzz/${of##*/}.c") ;; *) echo "$f includes ${of}_private.h" ;; esac
    done
}
none() { out=$("$@"); [ -z "$out" ] || { echo "$out"; return 1; }; }

ok 'arrows go down' 'none arrows'
ok 'the check sees an arrow that goes up' '
    mkdir -p "$tap_dir/common/base" && cd "$tap_dir" && echo "#include \"common/io/h5.h\"" >common/base/x.c && [ -n "$(arrows)" ]'
ok 'HDF5 has its owners' 'none owner "(hdf5|H5)" common/io/h5_private.h common/io/h5zstd_plugin.c'
# Two rooms that do not know each other: io packs and unpacks chunks in memory, text unpacks streams of any length.
ok 'zstd' 'none owner zstd common/io/h5_chunks.c common/io/h5zstd_plugin.c common/text/unzstd.c'
ok 'zlib' 'none owner "zlib\.h" common/text/ungzip.c'
ok 'a private header is for the files of its name' 'none strangers'
ok 'the libraries of CUDA' 'none owner cublas kernels/cuda/gemm.c && none owner cudnn kernels/cuda/cudnn.cc && none owner nccl kernels/cuda/links.c &&
    none owner cuda_ kernels/device.cuh kernels/cuda/runtime.h'
ok 'MPI' 'none owner mpi.h common/dist/mpi.c'
ok 'matrix library' 'none owner "(oneapi|dnnl|cblas)" kernels/matmul.c'
ok 'SentencePiece' 'none owner sentencepiece common/text/sentencepiece_shim.cc'
ok 'jansson' 'none owner jansson common/base/json.c'
ok 'PCRE2' 'none owner pcre2 common/text/split_regex.c'
ok 'utf8proc' 'none owner utf8proc common/text/split_nfc.c'
ok 'xxHash' 'none owner xxhash common/base/hash.c'
ok 'nothing looks at tests' '! grep -rnE "include \"tests/" common kernels tools'
ok 'every source file opens with its name and its licence' '
    for f in common/*/*.[ch] kernels/*.[ch] kernels/*.cu kernels/*.cuh kernels/*.cc kernels/cuda/*.[ch] kernels/cuda/*.cc tools/*.c tests/*.[ch]; do
        head -n 1 "$f" | grep -q "^/\* ${f##*/} - " && head -n 3 "$f" | grep -q "SPDX-License-Identifier: MIT" || { echo "$f"; bad=1; }
    done; [ -z "$bad" ]'
ok 'no open ends' '! grep -rnE "\b(TODO|FIXME|XXX)\b" common kernels tools pipelines Makefile'
done_testing
