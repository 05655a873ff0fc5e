#!/bin/sh
# 2800-faults.t - a run on a cluster: what it leaves for the batch script, and starts that meet
# SPDX-License-Identifier: MIT
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS

tiny_text 900 >text.txt
"$SSM_BIN/tokshard" encode -q --split para -o data text.txt 2>/dev/null
tiny_model 'M-' >tiny.conf
base="--model ./tiny.conf --batch 4 --seq-len 16 --lr 1e-2 --warmup 0"
train() { "$SSM_BIN/ssmtrain" -q $base "$@" data; }
one_line() { [ "$(wc -l <"$1")" -eq 1 ] || { cat "$1"; return 1; }; }

# ---- RUN/inc-NNNN/state ----
state() { [ "$(cat "$1/inc-$2/state")" = "$3" ] && [ "$(wc -l <"$1/inc-$2/state")" -eq 1 ] || { echo "$1 $2: $(cat "$1/inc-$2/state")"; return 1; }; }
ok 'state: again, done, and done when all was done already' '
    must_exit 75 train -o run --steps 9 --stop-at 4 && state run 0001 "again 4" && train -o run --steps 9 && state run 0002 "done 9" && train -o run --steps 9 && state run 0003 "done 9"'
ok 'state: running from the begin, and after a kill, with the step it went on from' '
    must_exit 75 train -o killed --steps 1000000 --save-every 0 --stop-at 4 &&
    { train -o killed --steps 1000000 --save-every 0 & pid=$!; wait_for killed/inc-0002/metrics.jsonl && state killed 0002 "running 4"; rc=$?; kill -KILL $(cut -d " " -f 2 killed/inc-0002/lock); wait $pid; [ $rc -eq 0 ]; } &&
    state killed 0002 "running 4"'
ok 'state: running when it failed' '(ulimit -f 20; must_exit 1 train -o limit --steps 9 2>err) && state limit 0001 "running 0"'
ok 'state: stay when the run has diverged' '
    tiny_model "M-" | sed "s/tied = true/tied = true\ninit_std = 10/" >wild.conf &&
    must_exit 93 "$SSM_BIN/ssmtrain" -q --model ./wild.conf --batch 8 --seq-len 64 --steps 2000 --warmup 1 --lr 10 --clip 0 --weight-decay 10 -o wild data 2>err && one_line err &&
    [ "$(sed "s/ .*//" wild/inc-0001/state)" = stay ]'
done_testing
