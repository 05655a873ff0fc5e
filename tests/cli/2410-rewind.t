#!/bin/sh
# 2410-rewind.t - --on-spike rewind: back to a checkpoint, and past the samples since
# SPDX-License-Identifier: MIT
. "${0%/*}/../training.sh"

base="--model ./tiny.conf --batch 4 --seq-len 16 --lr 1e-2 --warmup 0 --schedule constant --ema 0.9"
# That so many losses are beyond it is the noise of small batches: of 400 steps 8 are refused, 4 of them on the way from one checkpoint.
spike="--skip-loss-z 1.8 --save-every 20 --on-spike rewind --max-skips 7"
# The lines of all starts in the order in which they were written: step samples tokens skip skipped rewinds
lines() { cat "$1"/inc-*/metrics.jsonl | sed 's/.*"step":\([0-9]*\),"samples":\([0-9]*\),"tokens":\([0-9]*\),.*"skip":\([01]\),"skipped":\([0-9]*\),"rewinds":\([0-9]*\),.*/\1 \2 \3 \4 \5 \6/'; }
# What counts of them in the end: the last line of each step, with its loss.
curve() { cat "$1"/inc-*/metrics.jsonl | sed 's/.*"step":\([0-9]*\),"samples":\([0-9]*\),.*"loss":\([^,]*\),.*/\1 \2 \3/' | awk '{ l[$1] = $0; if ($1 > n) n = $1 } END { for (i = 1; i <= n; i++) print l[i] }'; }

ok 'a refused step leads back to the newest checkpoint of --save-every, and on with the next samples; all is counted' '
    train $spike -o back --steps 400 && lines back >l && awk "
        NR > 1 { want = skip ? int((step - 1) / 20) * 20 + 1 : step + 1; if (\$1 != want) { print \"step \" \$1 \" not \" want; bad = 1 }; if (\$2 != samples + 4) { print \"samples at \" \$1; bad = 1 }
            if (\$3 <= tokens) bad = 1; if (\$6 != rewinds + skip) { print \"rewinds at \" \$1; bad = 1 } if (skip) n++ }
        { step = \$1; samples = \$2; tokens = \$3; skip = \$4; rewinds = \$6; if (\$5 != \$6 + skip) bad = 1 }
        END { print n, step, samples; exit bad || n < 4 || step != 400 || samples <= 1600 }" l &&
    "$SSM_BIN/ckmerge" ls back >ls && n=$(tail -n 1 l | cut -d " " -f 6) && grep -qx "#state.rewinds=$n" ls && grep -qx "#state.skipped=$n" ls && grep -qx "#state.updates=400" ls'
ok 'stopped on the way and gone on, with one checkpoint kept, also right before and after a rewind: the same bits' '
    s=$(awk "\$4 { print \$1; exit }" l) && for at in 7 131 200 271 $((s - 1)) $((s + 5)) 331 345; do must_exit 75 train $spike -o parts --keep 1 --steps 400 --stop-at $at || exit 1; done &&
    train $spike -o parts --keep 1 --steps 400 && same back parts && curve back >a && curve parts | cmp a -'
ok 'killed right after it has gone back: the same bits' '
    "$SSM_BIN/ssmtrain" $base $spike -o killed --steps 400 data 2>&1 | while read -r line; do case $line in *"goes back"*) kill -KILL "$(cut -d " " -f 2 killed/inc-0001/lock)"; break ;; esac; done
    [ "$(cat killed/inc-0001/state)" = "running 0" ] && lines killed | tail -n 1 | awk "{ exit !(\$1 < 320 && \$6 <= 1) }" && train $spike -o killed --steps 400 && same back killed && curve back >a && curve killed | cmp a -'
ok 'a checkpoint that was asked for on the way, and one made when stopping, is not gone back to, and is removed by going back' '
    s=$(awk "\$4 { print \$1; exit }" l) && must_exit 75 train $spike -o word --steps 400 --stop-at $((s - 1)) && [ -e word/inc-0001/step-$(printf %08d $((s - 1))) ] &&
    must_exit 75 train $spike -o word --steps 400 --stop-at $(((s - 1) / 20 * 20 + 20)) --keep 9 && [ ! -e word/inc-0001/step-$(printf %08d $((s - 1))) ]'
ok 'on two ranks the same steps are refused' '
    timeout 100 ${MPIEXEC:-mpiexec} -n 2 "$SSM_BIN/ssmtrain" -q $base $spike -o two --steps 400 data && lines two | cut -d " " -f 1,2,4- >2 && cut -d " " -f 1,2,4- l | cmp - 2'
ok 'in samples, the run ends with them' '
    train $spike -o samples --samples 1600 && lines samples >s && tail -n 1 s | grep -q "^[0-9]* 1600 " && [ "$(wc -l <s)" -eq 400 ] && [ "$(tail -n 1 s | cut -d " " -f 1)" -lt 400 ] &&
    grep -q "^done" samples/inc-0001/state'
ok 'without a checkpoint the step is skipped, and said so' '
    "$SSM_BIN/ssmtrain" $base --skip-loss-z 1.8 --save-every 1000 --on-spike rewind -o none --steps 400 data 2>err && grep -q "there is no checkpoint to go back to" err &&
    train --skip-loss-z 1.8 --save-every 1000 -o plain --steps 400 && same plain none'
ok 'again and again from one checkpoint: --max-skips ends it with 93, and the checkpoint is whole' '
    must_exit 93 train --skip-loss-z 0.01 --save-every 120 --on-spike rewind --max-skips 3 -o stay --steps 400 2>err && one_line err && grep -q "diverged: 3 times from one checkpoint on" err &&
    [ "$(lines stay | tail -n 1 | cut -d " " -f 5,6)" = "3 2" ] && grep -q "^stay " stay/inc-0001/state && "$SSM_BIN/ckmerge" verify -q stay'
ok 'the log says where it goes' '
    "$SSM_BIN/ssmtrain" $base $spike -o log --steps 400 data 2>err; grep -q "goes back from step [0-9]* to the checkpoint of step [0-9]*0, and on with sample [0-9]*; 1 times from there, 1 in all" err'
ok 'refused: with streams, and without checkpoints to go back to' '
    must_exit 2 train --on-spike rewind --order stream -o no --steps 4 2>err && one_line err && grep -q "on-spike" err && must_exit 2 train --on-spike rewind --save-every 0 -o no --steps 4 2>err && one_line err && grep -q "save-every" err && [ ! -e no ]'
done_testing
