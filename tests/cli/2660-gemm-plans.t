#!/bin/sh
# 2660-gemm-plans.t - algorithms of matrix products: measured, taken, kept by the run (on the emulated device, which has two)
# SPDX-License-Identifier: MIT
. "${0%/*}/../training.sh"

base="--model ./tiny.conf --batch 4 --micro-batch 2 --seq-len 16 --steps 4 --warmup 0 --lr 1e-2 --save-every 0"
mpi="timeout 100 ${MPIEXEC:-mpiexec}"
tune() { "$SSM_BIN/ssmtrain" $base --tune-gemm "$@" data; }
gpu() { train --device cuda "$@"; }
# warned TEXT: one line, which has it
warned() { one_line err && { grep -qF -e "$1" err || { cat err; return 1; }; }; }
silent() { [ ! -s err ] || { cat err; return 1; }; }

ok 'the CPU has nothing to choose: 2, one line, no file' '
    must_exit 2 tune none.tsv --device cpu 2>err && warned "--tune-gemm: the device, '"'cpu'"', has no algorithms" && [ ! -e none.tsv ]'
ok 'there --gemm-plans is told, and kept for a device that has some' '
    echo words >any.tsv && train --device cpu -o cpu --gemm-plans any.tsv 2>err && warned "any.tsv'"'"' is not used: the device" && cmp any.tsv cpu/inc-0001/gemm-plans.tsv'
if [ ! -e "${SSM_CUDA:-}" ]; then
    skip 'the emulated backend' 'no SSM_CUDA'
    done_testing
fi

gpu -o plain || exit 1
ok '--tune-gemm: a file, a line, no run' '
    tune plans.tsv --device cuda >out 2>err && [ ! -s out ] && grep -q "^ssmtrain: [1-9][0-9]* matrix products measured; a micro-batch spends [1-9].* ms .* by the fastest (50.0% less)" err &&
    grep -qx "# cuBLASLt emulated, CUDA emulated on the CPU" plans.tsv && ls -d inc-* 2>/dev/null | cmp - /dev/null && ls plans.tsv* | wc -l | grep -qx 1'
ok 'a line for each product that the training makes, by name and number' '
    n=$(sed -n "s/^ssmtrain: \([0-9]*\) matrix.*/\1/p" err) && [ "$(grep -vc "^#" plans.tsv)" -eq $((n + 1)) ] &&
    awk -F "\t" "/^#/ { next } !names { names = NF; next } NF != names || \$(NF - 3) < 1 { print; bad = 1 } END { exit bad || names != 27 }" plans.tsv'
ok 'without a run directory, data, or with -n; a file that is there stays' '
    "$SSM_BIN/ssmtrain" -q $base --device cuda --tune-gemm again.tsv data && cmp plans.tsv again.tsv && tune dry.tsv --device cuda -n >/dev/null && [ ! -e dry.tsv ] &&
    must_exit 1 tune plans.tsv --device cuda 2>err && warned "plans.tsv'"'"' exists" && cmp plans.tsv again.tsv && must_exit 1 tune no/plans.tsv --device cuda 2>err && warned no/plans.tsv'
ok 'other precisions are other products' 'tune fp32.tsv -q --device cuda --precision fp32 && tune tf32.tsv -q --device cuda --precision tf32 && ! cmp -s fp32.tsv plans.tsv && ! cmp -s fp32.tsv tf32.tsv'

# ---- trainings go by it ----
ok '--gemm-plans: other bits, the same again, a copy in the run' '
    gpu -o tuned --gemm-plans plans.tsv 2>err && silent && gpu -o tuned.again --gemm-plans again.tsv && same tuned tuned.again && ! same tuned plain && cmp plans.tsv tuned/inc-0001/gemm-plans.tsv && [ ! -e plain/inc-0001/gemm-plans.tsv ]'
ok 'products that are not recorded: the first choice' 'gpu -o other --gemm-plans fp32.tsv 2>err && silent && same other plain'
# Part of the products is something between the two.
head -n 12 plans.tsv >part.tsv
ok 'stopped, and gone on with the copy: the same bits, whatever is said then' '
    gpu -o part --gemm-plans part.tsv && ! same part tuned && ! same part plain && must_exit 75 gpu -o two --gemm-plans part.tsv --stop-at 1 &&
    must_exit 75 gpu -o two --stop-at 2 2>err && silent && cmp part.tsv two/inc-0002/gemm-plans.tsv &&
    must_exit 75 gpu -o two --gemm-plans plans.tsv --stop-at 3 2>err && warned "plans.tsv'"'"' is not what the run began with: it goes on with" &&
    gpu -o two --gemm-plans gone.tsv 2>err && warned gone.tsv && cmp part.tsv two/inc-0004/gemm-plans.tsv && same two part'
ok 'begun without, it goes on without' '
    must_exit 75 gpu -o bare --stop-at 2 && gpu -o bare --gemm-plans plans.tsv 2>err && warned "the run began without --gemm-plans" && same bare plain && [ ! -e bare/inc-0002/gemm-plans.tsv ]'
ok 'a start that left no checkpoint was no begin' '
    mkdir -p anew/inc-0001 && cp part.tsv anew/inc-0001/gemm-plans.tsv && gpu -o anew --gemm-plans plans.tsv && same anew tuned'
if $mpi -n 2 true 2>/dev/null; then
    ok 'two ranks: each goes by it; measuring is for one' '
        two() { $mpi -n 2 "$SSM_BIN/ssmtrain" -q $base --device cuda "$@" data; } && two -o ranks.plain && two -o ranks --gemm-plans plans.tsv && ! same ranks ranks.plain && cmp plans.tsv ranks/inc-0001/gemm-plans.tsv &&
        must_exit 75 two -o ranks.two --gemm-plans plans.tsv --stop-at 2 && two -o ranks.two && same ranks ranks.two &&
        must_exit 2 two --tune-gemm two.tsv 2>err && grep -q "one rank, not 2" err && [ ! -e two.tsv ]'
else
    skip 'two ranks' 'no mpiexec'
fi

# ---- what cannot be gone by ----
ok 'of another library or GPU: a warning, and the first choices' '
    sed "s/^# cuBLASLt .*/# cuBLASLt 130100, NVIDIA H200/" plans.tsv >h200.tsv && gpu -o foreign --gemm-plans h200.tsv 2>err && warned "NVIDIA H200" && same foreign plain && cmp h200.tsv foreign/inc-0001/gemm-plans.tsv'
ok 'algorithms that the library refuses: a warning, and the first choice for these' '
    awk "!done && sub(/00000001 00000000/, \"00000002 00000000\") { done = 1 } 1" plans.tsv >odd.tsv && gpu -o odd --gemm-plans odd.tsv 2>err && warned "1 of $(($(grep -vc "^#" odd.tsv) - 1)) algorithms are refused" &&
    grep -v "00000002 00000000" odd.tsv >less.tsv && gpu -o less --gemm-plans less.tsv && same odd less'
ok 'garbage: 2, file and line, and why' '
    sed "6s/^[0-9]*/many/" plans.tsv >bad.tsv && must_exit 2 gpu -o bad --gemm-plans bad.tsv 2>err && warned "bad.tsv:6: '"'many' of 'M'"'" &&
    must_exit 2 gpu -o bad --gemm-plans text.txt 2>err && warned "text.txt:1: " && : >empty.tsv && must_exit 2 gpu -o bad --gemm-plans empty.tsv 2>err && warned "empty.tsv:1: " &&
    must_exit 2 gpu -o bad --gemm-plans nowhere.tsv 2>err && warned "nowhere.tsv" && ls -d bad/inc-*/step-* 2>/dev/null | cmp - /dev/null'
done_testing
