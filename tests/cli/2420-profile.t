#!/bin/sh
# 2420-profile.t - ssmtrain --profile: a table of the ops, and the same training
# SPDX-License-Identifier: MIT
. "${0%/*}/../training.sh"

base="--model ./tiny.conf --batch 4 --seq-len 16 --steps 6 --warmup 0 --lr 1e-3"
train -o plain >out 2>err || exit 1
ok 'without it nothing is printed' '[ ! -s out ]'
ok '--profile: a table on standard output, and the same weights' '
    train -o run --profile 2 >table && same plain run && head -n 1 table | grep -q "^# profile of steps 4 to 5 on CPU" &&
    sed -n 2p table | grep -q "^# op	calls	ms	share%	GFLOP/s	GB/s	limit%$" && [ "$(tail -n 1 table | cut -f 1,4)" = "step	100.0" ]'
ok 'it names the ops of the model, with calls a step' '
    for op in matmul ssd_fwd ssd_bwd norm_fwd norm_bwd gatednorm_fwd conv1d_bwd act_fwd xent embed_bwd adamw; do grep -q "^$op	[1-9]" table || { echo $op; exit 1; }; done
    grep -q "^ssd_fwd	1\.0	" table && ! grep -q "^scan" table'
ok 'the longest op comes first, and the shares are those of a step' '
    sed "1,2d" table | grep -v -e ^other -e ^step | cut -f 3 >ms && sort -rg ms | cmp - ms &&
    sed "1,2d" table | grep -v ^step | awk -F "\t" "{ s += \$4 } END { exit !(s > 99 && s < 101) }"'
ok 'products have a rate, and a device that tells no limits has no share of them' '
    grep "^matmul" table | awk -F "\t" "{ exit !(\$5 > 0 && \$6 > 0 && \$7 == \"-\") }"'
ok 'a run that ends early prints what there is; one that is too short says so' '
    train -o early --profile 100 >table && head -n 1 table | grep -q "steps 4 to 6" &&
    must_exit 75 train -o short --profile 2 --stop-at 2 >table && grep -q "^# no profile" table && one_line table'
ok 'on two ranks, rank 0 alone prints' '
    timeout 120 ${MPIEXEC:-mpiexec} -n 2 "$SSM_BIN/ssmtrain" -q $base -o ranks --profile 1 data >table 2>err && [ "$(grep -c "^# profile" table)" -eq 1 ]'
done_testing
