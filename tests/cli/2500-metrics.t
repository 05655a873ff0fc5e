#!/bin/sh
# 2500-metrics.t - what a run tells: lines, metrics, event files, reports, and the job's time
# SPDX-License-Identifier: MIT
SSM_TOP=${SSM_TOP:-$(cd "${0%/*}/../.." && pwd)}
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS
unset SLURM_JOB_END_TIME
report() { timeout -k 5 60 "$SSM_TOP/pipelines/report.sh" "$@"; }

tiny_text 900 >text.txt
for take in train valid; do "$SSM_BIN/tokshard" encode -q --split para --take $take --valid-share 0.1 -o $take text.txt 2>/dev/null; done
tiny_model 'M-' >tiny.conf
base="--model ./tiny.conf --batch 4 --seq-len 16 --lr 1e-2 --warmup 0"
train() { "$SSM_BIN/ssmtrain" -q $base "$@" train; }
same() { "$SSM_BIN/ckmerge" compare -q "$1" "$2"; }

ok 'a line a step, with all that is promised' '
    train -o run --steps 12 && [ "$(wc -l <run/inc-0001/metrics.jsonl)" -eq 12 ] && for k in step samples tokens loss lr grad_norm loss_z grad_norm_z skip skipped rewinds seconds tokens_per_s flops_per_s data_wait memory eta; do
        [ "$(grep -c "\"$k\":-*[0-9.e+-]*[,}]" run/inc-0001/metrics.jsonl)" -eq 12 ] || { echo "no $k"; exit 1; }
    done; [ "$(grep -c "\"limit\":null}" run/inc-0001/metrics.jsonl)" -eq 12 ] && tail -n 1 run/inc-0001/metrics.jsonl | grep -q "\"eta\":0.0"'
ok '--time-limit: looks at held-out sets take their part of it' '
    v=train; for k in 1 2; do v=$v,$v; done
    must_exit 75 timeout 60 "$SSM_BIN/ssmtrain" -q $base --steps 100000000 --save-every 0 --time-limit 0.05 --valid $v --valid-every 1 -o looks train &&
    tail -n 1 looks/inc-0001/metrics.jsonl | sed "s/.*limit.:\([-0-9.]*\).*/\1/" | awk "{ print; exit !(\$1 > 0) }" && wc -l <looks/inc-0001/metrics.jsonl && find looks -name index.h5 | grep -q .'
ok '--time-limit: saved and left with 75 in time; --log-every: seconds between lines' '
    timeout 60 "$SSM_BIN/ssmtrain" $base --steps 100000000 --save-every 0 --time-limit 0.06 --log-every 1 -o limit train 2>often & a=$!
    must_exit 75 timeout 60 "$SSM_BIN/ssmtrain" $base --steps 100000000 --save-every 0 --time-limit 0.06 --log-every 100000 -o limit2 train 2>seldom
    b=$?; must_exit 75 wait $a && [ $b -eq 0 ] && [ -e limit/inc-0001/step-*/index.h5 ] && grep -q "limit [0-9]" often && grep -q "more starts are needed" often &&
    [ "$(grep -c "tok/s" often)" -ge 2 ] && [ "$(grep -c "tok/s" seldom)" -eq 1 ] && ! grep -q "\"limit\":null" limit/inc-0001/metrics.jsonl'
ok 'the end of a Slurm job is heeded too' '
    SLURM_JOB_END_TIME=$(($(date +%s) + 2)) && export SLURM_JOB_END_TIME && must_exit 75 timeout 60 "$SSM_BIN/ssmtrain" -q $base -o slurm train --steps 100000000 --save-every 0 && [ -e slurm/inc-0001/step-*/index.h5 ]'
ok '--tensorboard writes an event file, and changes nothing' '
    train -o board --steps 12 --tensorboard --valid valid && same run board && f=$(echo board/inc-0001/events.out.tfevents.*) && [ -s "$f" ] && ! ls run/inc-0001 | grep -q tfevents &&
    [ "$(grep -ao "train/loss" "$f" | wc -l)" -ge 12 ] && grep -aq "valid/loss/valid" "$f" && grep -aq "brain.Event:2" "$f"'

# ---- the report ----
if command -v gnuplot >/dev/null; then
    train -o "a <run>" --steps 40 --valid valid --valid-every 10 || exit 1
    # what was done after the checkpoint at 10 is done again
    must_exit 75 train -o b --steps 40 --stop-at 10 && must_exit 75 train -o b --steps 40 --stop-at 20 && rm -r b/inc-0002/step-* && train -o b --steps 40
    ok 'several runs on one page, restarts marked, no step twice' '
        report -o page.html -t "two" "a <run>" b && [ "$(grep -c "<svg" page.html)" -eq 5 ] && grep -q "a &lt;run&gt;: Steps 1 to 40, 2560 tokens" page.html &&
        grep -q "^<p>b: Steps 1 to 40, 2560 tokens.*, 1 restart\.</p>" page.html && grep -q "options of b" page.html && grep -q ">validation<" page.html &&
        [ "$(cat b/inc-*/metrics.jsonl | wc -l)" -eq 50 ] || { grep "<p>" page.html; exit 1; }'
    ok 'one run, tables behind it' '
        printf "#x\ty\n1\t<2\n" >t.tsv && report -o one.html b t.tsv && grep -q "<td>&lt;2</td>" one.html && [ "$(grep -c "<svg" one.html)" -eq 4 ] && grep -q ">running mean<" one.html'
    if command -v xmllint >/dev/null; then
        ok 'ids are unique' 'xmllint --html --noout page.html 2>&1 | grep -i "already defined" && exit 1; true'
    fi
    ok 'no run' 'must_exit 1 report -o x.html t.tsv 2>err && grep -q "is no run" err && [ ! -e x.html ]'
else
    skip 'reports' 'no gnuplot'
fi

# ---- --slowest-every ----
if ${MPIEXEC:-mpiexec} -n 2 true 2>/dev/null; then
    # Rank 1 is lent little of its time: stopped for 40 ms of 50. Steps are so long that they feel it.
    printf '%s\n' '"$@" & pid=$!' 'while kill -STOP $pid; do sleep 0.04; kill -CONT $pid; sleep 0.01; done 2>/dev/null' 'wait $pid' >slow.sh
    ok '--slowest-every: the rank that takes longest is told, with its host, and of how many steps' '
        t="$SSM_BIN/ssmtrain --model ./tiny.conf --warmup 0 --batch 64 --seq-len 256 --steps 12 --slowest-every 5 -o slow train" && timeout 100 ${MPIEXEC:-mpiexec} -n 1 $t : -n 1 sh slow.sh $t 2>err &&
        [ "$(sed "s/,\"compute.*//" slow/inc-0001/slowest.jsonl)" = "$(for s in 5 10; do echo "{\"step\":$s,\"steps\":5,\"rank\":1,\"host\":\"$(hostname)\""; done)" ] &&
        sed "s/.*compute\":\([0-9.]*\),\"data_wait\":\([0-9.]*\),\"mean_compute\":\([0-9.]*\),\"mean_data_wait\":\([0-9.]*\)}/\1 \2 \3 \4/" slow/inc-0001/slowest.jsonl |
            awk "NF != 4 || \$1 + \$2 <= \$3 + \$4 || \$1 + \$2 > 2 * (\$3 + \$4) + 2e-6 { bad = 1 } END { exit bad || NR != 2 }" && grep -c "slowest of 2 ranks is 1 on $(hostname): " err | grep -qx 2'
    ok '--slowest-every 0, and one rank: none' '
        timeout 100 ${MPIEXEC:-mpiexec} -n 2 "$SSM_BIN/ssmtrain" $base --steps 5 --slowest-every 0 -o nobody train 2>err && ! grep -q slowest err && [ ! -e nobody/inc-0001/slowest.jsonl ] &&
        train -o alone --steps 5 --slowest-every 1 && [ ! -e alone/inc-0001/slowest.jsonl ]'
else
    skip '--slowest-every' 'no mpiexec'
fi
done_testing
