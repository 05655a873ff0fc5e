#!/bin/sh
# 3000-ckmerge.t - checkpoints looked into, checked, compared, merged and split; damage is named
# SPDX-License-Identifier: MIT
# shellcheck disable=SC1091,SC2015,SC2016,SC2034  # ok evaluates its text, later
. "${0%/*}/../tap.sh"

C=$SSM_BIN/ckmerge
MK=${SSM_TESTS:-$SSM_BIN/../tests}/mkckpt

# one_line CODE TEXT COMMAND...: exits with CODE and says one line on stderr, which holds TEXT.
one_line() {
    code=$1 text=$2
    shift 2
    must_exit "$code" "$@" 2>err >/dev/null || { cat err; return 1; }
    test "$(wc -l <err)" -eq 1 && grep -qF -e "$text" err || { cat err; return 1; }
}
no_litter() { test -z "$(find "$1" -name '*.tmp.*' 2>/dev/null)"; }
quiet() { "$C" "$@" >/dev/null 2>&1; }
# change FILE OFFSET: another byte there
change() {
    old=$(od -An -tu1 -j"$2" -N1 "$1" | tr -d ' ')
    # shellcheck disable=SC2059
    printf "\\$(printf %03o $(((old + 1) % 256)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}
cut_file() { head -c "$2" "$1" >short && mv short "$1"; }

"$MK" one 1 1 && "$MK" three 1 3 && "$MK" other 2 3 || exit 1

# ---- ls, verify ----
ok 'ls: configuration, state, tensors' '
    "$C" ls three >out && grep -qx "#config.d_model=16" out && grep -qx "#state.step=1" out &&
    grep -qx "model/embeddings.weight	f32	101x16	3" out && grep -qx "#members=3" out &&
    test "$(grep -vc "^#" out)" -eq 11 && grep -qx "#parameters=2932" out'
ok 'verify: silent on stdout, all is well' 'test -z "$("$C" verify -q one three)"'
ok 'a checkpoint that is none' '
    mkdir void && : >file && one_line 1 "void" "$C" ls void && one_line 1 "No such file" "$C" ls nowhere &&
    one_line 1 "file" "$C" ls file && one_line 1 "no index.h5" "$C" verify void'
ok 'usage' '
    one_line 2 "which command" "$C" && one_line 2 "unknown command" "$C" lost && one_line 2 "--lost" "$C" ls --lost one &&
    one_line 2 "too few" "$C" ls && one_line 2 "no output" "$C" merge one &&
    one_line 2 "parts" "$C" split --parts 0 -o x one && one_line 2 "tolerance" "$C" compare --tolerance -1 one one'
ok 'a full standard output' '
    test ! -e /dev/full || { must_exit 1 "$C" ls one >/dev/full 2>err && grep -q "standard output" err; }'

# ---- compare ----
ok 'compare: the layout does not matter' 'quiet compare one three && quiet compare three one'
ok 'compare: what differs is said' '
    must_exit 1 "$C" compare one other >out && grep -q "^state	step	-	-	1 / 2$" out &&
    grep -q "^tensor	model/norm_f.weight	16	[0-9.]*	.0. " out && test "$(grep -c ^tensor out)" -eq 11'
ok 'compare: tolerance' '
    must_exit 1 "$C" compare --tolerance 100 one other >out && ! grep -q ^tensor out &&
    quiet compare --tolerance 100 --model-only one other && must_exit 1 quiet compare --tolerance 0.1 --model-only one other'
ok 'compare: shapes and names' '
    "$MK" p 1 1 model/a=3x4 model/b=5 && "$MK" q 1 1 model/a=4x3 model/c=5 && must_exit 1 "$C" compare p q >out &&
    grep -q "model/a.*another shape" out && grep -q "model/b.*only in the first" out &&
    grep -q "model/c.*only in the second" out && test "$(grep -c ^tensor out)" -eq 3'

# ---- merge, split ----
ok 'merge(split(x)) = x' '
    for n in 1 2 7 64; do
        quiet split -o s$n --parts $n three && quiet merge -o m$n s$n && test "$(find s$n -name "part-*" | wc -l)" -eq $n &&
        quiet compare one s$n && quiet compare one m$n && quiet verify s$n m$n || exit 1
    done'
ok 'split shares evenly' '
    "$C" split -n -o none --parts 4 three >out && test ! -e none &&
    awk "/^[0-9]/ { s += \$3; if (\$3 < 1500 || \$3 > 1660) bad = 1 } END { exit bad || s != 6316 }" out'
if command -v h5dump >/dev/null; then
    ok 'the history grows by a line' '
    test "$(h5dump -w 0 -a /history m7/index.h5 | grep -c "ckmerge")" -ge 1 &&
    h5dump -w 0 -a /history m7/index.h5 | grep -q "mkckpt.* three 1 3"'
    ok 'plain HDF5 tools see the whole' '
    h5dump -d /model/norm_f.weight s7/index.h5 | sed 1d >a && h5dump -d /model/norm_f.weight one/index.h5 | sed 1d >b && test -s a && cmp a b &&
    ! grep -q "0, 0, 0" a'
else
    skip 'the history grows by a line' 'no h5dump'
    skip 'plain HDF5 tools see the whole' 'no h5dump'
fi
ok 'a flipped bit is not merged, split or carried on' '
    cp -r three flip && f=$(ls flip/part-* | head -n 1) && printf "\\377" | dd of="$f" bs=1 seek=5003 conv=notrunc 2>/dev/null &&
    one_line 1 "checksum" "$C" merge -q -o fm flip && one_line 1 "checksum" "$C" split -q --parts 2 -o fs flip && test ! -e fm/index.h5 && test ! -e fs/index.h5'
ok '--drop-optimizer leaves the model' '
    quiet merge --drop-optimizer -o model three && "$C" ls model >out && ! grep -q "^optim" out && ! grep -q "^#state" out &&
    ! grep -q "^state" out && test "$(grep -c ^model out)" -eq 6 && quiet compare --model-only model one &&
    must_exit 1 quiet compare model one'
ok 'an existing output needs --force' '
    one_line 1 "--force" "$C" merge -o m1 other && quiet compare m1 one && one_line 1 "--force" "$C" merge -n -o m1 other &&
    quiet merge -f -o m1 other && quiet compare m1 other'
ok '--force leaves other files, and takes all of the old ones' '
    quiet split -o mine --parts 5 one && : >mine/notes && quiet merge -f -o mine other && test -e mine/notes &&
    test "$(find mine -name "part*" | wc -l)" -eq 1 && quiet compare mine other'
ok 'input and output are the same' '
    one_line 1 "both input and output" "$C" merge -f -o three three && one_line 1 "both" "$C" merge -f -o ./three/ three &&
    ln -s three link && one_line 1 "both" "$C" merge -f -o link three && quiet verify three'
ok 'a run folder: the newest checkpoint that opens' '
    mkdir -p run/inc-0001 run/inc-0002 && cp -r one run/inc-0001/step-00000010 && cp -r other run/inc-0002/step-00000020 &&
    quiet merge -o newest run && quiet compare newest other && cp -r one run/inc-0002/step-00000030 &&
    rm run/inc-0002/step-00000030/part* && cp -r one run/inc-0002/step-00000040 && rm run/inc-0002/step-00000040/index.h5 &&
    "$C" ls run >out 2>err && grep -q "^#path=run/inc-0002/step-00000020" out && grep -q "warning.*step-00000030" err &&
    must_exit 1 "$C" merge -f -o run run 2>err && grep -q "both input and output" err'

# ---- damage ----
ok 'a missing or shortened member' '
    cp -r three d1 && rm d1/part-00001* && one_line 1 "d1/part-00001-of-00003.h5" "$C" verify d1 &&
    cp -r three d2 && cut_file d2/part-00002-of-00003.h5 5000 && one_line 1 "has 5000 bytes" "$C" merge -o no d2 && test ! -e no'
ok 'a changed byte in data' '
    cp -r one d3 && f=d3/part-00000-of-00001.h5 && change $f $(($(wc -c <$f) / 2)) && one_line 1 "$f" "$C" verify d3 &&
    grep -q checksum err'
ok 'a changed byte in the index' '
    n=$(wc -c <three/index.h5) && i=0 && while [ $i -lt 40 ]; do
        rm -rf d4 && cp -r three d4 && change d4/index.h5 $((n * i / 40)) &&
        if "$C" verify d4 2>err; then quiet compare d4 three || exit 1
        else test $? -eq 1 && test "$(wc -l <err)" -eq 1 || exit 1; fi
        i=$((i + 1))
    done'
ok 'a shortened index' '
    cp -r three d5 && cut_file d5/index.h5 4000 && one_line 1 "d5/index.h5" "$C" verify d5 &&
    one_line 1 "d5/index.h5" "$C" compare one d5'
ok 'members of two checkpoints mixed' '
    cp -r three d6 && cp other/part-00001* d6 && one_line 1 "d6/part-00001-of-00003.h5" "$C" verify d6'
ok 'another kind of file' '
    mkdir d7 && cp one/part* d7/index.h5 && one_line 1 "d7/index.h5" "$C" ls d7'

# ---- a full disk, kills ----
"$MK" big 3 1 model/w=1000x500 model/u=3000x100
ok 'a disk that is full: one line, no index, no litter' '
    (trap "" XFSZ; ulimit -f 1000; one_line 1 "full/part-" "$C" merge -o full big) && test ! -e full/index.h5 && no_litter full'
ok 'a folder that cannot be written' '
    test "$(id -u)" -eq 0 && ro=/proc/none || { mkdir ro && chmod 555 ro && ro=ro/x; }; one_line 1 "$ro" "$C" merge -o $ro one'
ok 'kill -9 leaves the whole or nothing under a final name' '
    i=1 && while [ $i -le 12 ]; do
        rm -rf k; "$C" split -q -o k --parts 9 big & pid=$!
        sleep 0.00$((i * 7 % 10))$i; kill -9 $pid 2>/dev/null; wait $pid 2>/dev/null
        if [ -e k/index.h5 ]; then quiet compare k big || exit 1; else test ! -e k || ! quiet ls k || exit 1; fi
        i=$((i + 1))
    done && quiet split -f -o k --parts 9 big && quiet compare k big && no_litter k'

done_testing
