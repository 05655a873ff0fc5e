#!/bin/sh
# run.sh - 'run' of a bundle: starts a program with the bundle's libraries, or tests it here ('./run check', './run check-gpu')
# SPDX-License-Identifier: MIT
here=$(dirname "$(readlink -f "$0")")
# The C++ library asks for a newer C library than all else here: a machine that is too old for it uses its own.
cxx=:$here/lib/cxx
LD_LIBRARY_PATH="$here/lib$cxx" "$here/bin/ssmtrain" --version >/dev/null 2>&1 || cxx=
export LD_LIBRARY_PATH="$here/lib$cxx${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export PATH="$here/bin:$here/share/ssmtools/pipelines:$PATH"
export SSM_BIN="$here/bin" HDF5_PLUGIN_PATH="$here/lib/hdf5/plugin" UCX_MODULE_DIR="$here/lib/ucx"

# check TEST...: each says 'ok' or 'not ok' a case; what failed is shown whole.
check() {
    export SSM_TESTS="$here/tests" SSM_TOP="$here/tests/top" SSM_PLUGIN="$here/lib/hdf5/plugin"
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" HYDRA_LAUNCHER=fork
    failed=0
    said=$(mktemp) || exit 1
    trap 'rm -f "$said"' EXIT
    for t; do
        case ${t##*/} in
        mk*) continue ;;
        *.t) timeout -k 10 600 sh "$t" >"$said" 2>&1 ;;
        *)
            if [ ! -f "$t" ] || [ ! -x "$t" ]; then continue; fi
            timeout -k 10 600 "$t" >"$said" 2>&1
            ;;
        esac
        code=$?
        counts=$(awk '/^ok / { ok++ } /^not ok / { bad++ } /^ok .*# SKIP/ { skip++ }
            /^not ok .*# SKIP/ { bad--; skip++ } # as cmocka says it
            END { printf "%d ok", ok; if (skip) printf " (%d skipped)", skip; if (bad) printf ", %d not ok", bad }' "$said")
        echo "${t##*/}: $counts"
        if [ $code -ne 0 ] || grep '^not ok ' "$said" | grep -qv '# SKIP' || ! grep -q '^1\.\.' "$said"; then
            failed=$((failed + 1))
            cat "$said"
            echo "${t##*/}: exit code $code"
        fi
    done
    [ $failed -eq 0 ] || { echo "check: $failed failed"; exit 1; }
    echo "check: all is well"
}

case ${1:-} in
'' | -h | --help)
    echo "usage: $0 PROGRAM [ARGUMENT...]"
    echo "programs: tokshard ssmtrain ckmerge ssmeval mpiexec h5dump pretrain.sh report.sh, or 'check', 'check-gpu'"
    [ $# -gt 0 ] || exit 2
    ;;
check) # on the emulation, also where there is a GPU
    export SSM_CUDA="$here/lib/libssmcuda-emulated.so"
    check "$here"/tests/* "$here"/tests/cli/*.t
    ;;
check-gpu) check "$here"/tests/gpu/*.t ;;
*) exec "$@" ;;
esac
