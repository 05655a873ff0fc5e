#!/bin/sh
# 2100-schedule.t - the length of a run, its learning rate and its batch
# SPDX-License-Identifier: MIT
. "${0%/*}/../training.sh"

base="--model ./tiny.conf --batch 8 --seq-len 32 --lr 1e-2"
# rate RUN STEP X: the learning rate of that step is X
rate() { column "$1" lr | awk -v s="$2" -v x="$3" '$1 == s { d = $2 - x; if (d < 0) d = -d; ok = d <= 1e-9 } END { exit !ok }' || { column "$1" lr; return 1; }; }
bad() { # CODE PATTERN options...: that exit code and one line that says why
    code=$1 pattern=$2
    shift 2
    must_exit "$code" "$SSM_BIN/ssmtrain" -n "$@" 2>err >out && [ "$(wc -l <err)" -eq 1 ] && grep -q -e "$pattern" err || { cat err; return 1; }
}

# ---- length and units ----
ok 'steps, samples and tokens measure the same run' '
    train -o steps --steps 20 --warmup 4 && train -o samples --samples 160 --warmup 32 && train -o tokens --tokens 5120 --warmup 1024 &&
    same steps samples && same steps tokens && [ "$(column steps lr | wc -l)" -eq 20 ] && rate steps 4 1e-2 && rate steps 20 1e-3 &&
    column samples lr | cut -d " " -f 2 >a && column steps lr | cut -d " " -f 2 | cmp a -'
ok 'the run ends with the step that reaches its length, and is complete then' '
    train -o short --samples 17 --warmup 0 && [ "$(column short loss | wc -l)" -eq 3 ] && train -o short --samples 17 --warmup 0 &&
    [ ! -e short/inc-0002/metrics.jsonl ] && train -o short --samples 32 --warmup 0 && [ "$(column short loss | wc -l)" -eq 4 ]'
ok 'one unit only; the command line wins over a config file' '
    bad 2 "give one of them" $base --steps 10 --tokens 4k data && echo "steps = 10" >c && train -o conf --config c --samples 16 --warmup 0 &&
    [ "$(column conf loss | wc -l)" -eq 2 ]'
ok 'the plan counts in steps' '"$SSM_BIN/ssmtrain" -n $base --tokens 1000 data >plan && grep -qx steps=4 plan && grep -qx tokens=1024 plan'
ok 'a warm-up that is too long' 'bad 2 "160.*warmup.*length of the run, 160" $base --samples 160 --warmup 160 data'

# ---- learning rate ----
w="--steps 20 --warmup 4"
ok 'cosine and linear fall over --lr-decay to --min-lr' '
    train -o cos $w --lr-decay 8 --min-lr 2e-3 && rate cos 8 6e-3 && rate cos 12 2e-3 && rate cos 20 2e-3 &&
    train -o lin $w --schedule linear --lr-decay 8 --min-lr 2e-3 && rate lin 6 8e-3 && rate lin 12 2e-3 && rate lin 13 2e-3'
ok 'inverse-sqrt' 'train -o inv $w --schedule inverse-sqrt && rate inv 2 5e-3 && rate inv 16 5e-3'
ok 'constant' 'train -o con $w --schedule constant && rate con 3 7.5e-3 && rate con 20 1e-2'
ok 'wsd: by default the last tenth, linear' '
    train -o wsd $w --schedule wsd --min-lr 0 && rate wsd 18 1e-2 && rate wsd 19 5e-3 && rate wsd 20 0'
ok 'wsd: length and style' '
    for s in linear:5e-3 cosine:5e-3 exponential:4.14213562e-3 minus-sqrt:2.92893219e-3; do
        train -o "wsd-$s" $w --schedule wsd --lr-decay 8 --lr-decay-style ${s%:*} --min-lr 0 && rate "wsd-$s" 12 1e-2 && rate "wsd-$s" 16 ${s#*:} || exit 1
    done; rate wsd-cosine:5e-3 14 8.53553391e-3'
ok 'what does not fit is refused' '
    bad 2 "lr-decay.*warmup.*more than" $base $w --schedule wsd --lr-decay 17 data && bad 2 "lr-decay. is for" $base $w --schedule constant --lr-decay 3 data &&
    bad 2 "lr-decay-style. is for" $base $w --lr-decay-style cosine data && bad 2 "min-lr" $base $w --min-lr 1 data'

# ---- batch ----
ramp="--samples 120 --warmup 8 --rampup-batch-size 2,2,40"
ok 'the batch grows with the samples taken' '
    train -o ramp $ramp && [ "$(column ramp samples | awk "{ printf \"%d \", \$2 - n; n = \$2 }")" = "2 2 2 2 2 2 2 4 4 4 4 6 6 8 8 8 8 8 8 8 8 8 8 " ] || { column ramp samples; exit 1; }'
ok 'the plan counts the steps of the ramp' '
    "$SSM_BIN/ssmtrain" -n $base $ramp data >plan && grep -qx steps=23 plan && grep -qx tokens=3904 plan && grep -qx micro_batch=2 plan'
ok 'stopped in the ramp and gone on: bit by bit, whatever the step' '
    for at in 1 7 8 10 12; do
        must_exit 75 train -o "ramp$at" $ramp --stop-at $at && train -o "ramp$at" $ramp && same ramp "ramp$at" || exit 1
    done'
ok 'the order of samples is that without a ramp' '
    still() { "$SSM_BIN/ssmtrain" -q --model ./tiny.conf --seq-len 32 --lr 0 --min-lr 0 --samples 128 --warmup 0 --micro-batch 1 "$@" data; }
    still -o level --batch 2 && still -o climb --batch 8 --rampup-batch-size 2,2,40 &&
    for r in level climb; do
        cat $r/inc-*/metrics.jsonl | sed "s/.*\"samples\":\([0-9]*\),.*\"loss\":\([^,]*\),.*/\1 \2/" |
            awk "{ s += \$2 * (\$1 - n); n = \$1; printf \"%d %.9g\\n\", n, s }" >$r.sum
    done
    awk "NR == FNR { s[\$1] = \$2; next } \$1 in s { d = s[\$1] - \$2; if (d < 0) d = -d; if (d > 5e-3) bad = 1; n++ } END { exit bad || n < 20 }" level.sum climb.sum || { cat level.sum climb.sum; exit 1; }'
if ${MPIEXEC:-mpiexec} -n 2 true 2>/dev/null; then
    ok 'two ranks follow the curve of one' '
        timeout 60 ${MPIEXEC:-mpiexec} -n 2 "$SSM_BIN/ssmtrain" -q $base $ramp -o two data && column ramp loss >a && column two loss | paste -d " " a - |
        awk "{ d = \$2 - \$4; if (d < 0) d = -d; if (\$1 != \$3 || d > 2e-5) bad = 1; n++ } END { exit bad || n != 23 }"'
else
    skip 'two ranks follow the curve of one' 'no mpiexec'
fi
ok 'ramps that do not fit' '
    bad 2 "rampup-batch-size" $base --rampup-batch-size 2,4,40 data && bad 2 "starts with 8" $base --rampup-batch-size 8,1,40 data &&
    bad 2 "three numbers" $base --rampup-batch-size 2,2 data && bad 2 "micro-batch.*increment" $base --rampup-batch-size 4,2,40 --micro-batch 4 data &&
    bad 2 "order stream" $base --order stream --rampup-batch-size 2,2,40 data'
done_testing
