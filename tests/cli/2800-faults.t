#!/bin/sh
# 2800-faults.t - a run on a cluster: what it leaves for the batch script, and starts that meet
# SPDX-License-Identifier: MIT
. "${0%/*}/../training.sh"

base="--model ./tiny.conf --batch 4 --seq-len 16 --lr 1e-2 --warmup 0"

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

# ---- a later attempt of the same job takes over ----
long="--steps 1000000 --time-limit 1" # what does not stop as it should ends by itself
lines() { wc -l <"$1"; }
# attempt N command: as the N-th restart of job 7
attempt() { restart=$1; shift; SLURM_JOB_ID=7 SLURM_RESTART_COUNT=$restart "$@"; }
start() { # RUN SAVE-EVERY: an endless run in the background, as the first attempt
    dir=$1
    SLURM_JOB_ID=7 SLURM_RESTART_COUNT=0 "$SSM_BIN/ssmtrain" -q $base $long --save-every "$2" --keep 2 -o "$dir" data 2>old.err & pid=$!
    wait_for "$dir/inc-0001/metrics.jsonl"
}
ok 'another job, the same attempt, and no job are refused; the run goes on' '
    start other 0
    for e in "SLURM_JOB_ID=8 SLURM_RESTART_COUNT=1" "SLURM_JOB_ID=7 SLURM_RESTART_COUNT=0" "SLURM_JOB_ID="; do
        must_exit 1 env $e "$SSM_BIN/ssmtrain" -q $base $long -o other data 2>err && one_line err && grep -q "is alive.*job 7, attempt 0.0" err || { kill -KILL $pid; exit 1; }
    done; kill -TERM $pid; must_exit 75 wait $pid && [ ! -e other/inc-0002 ]'
ok 'a later attempt takes over, and the older start ends with 1 and a line, within a step' '
    start over 0
    attempt 1 must_exit 75 train $long --stop-at 3 -o over 2>err; rc=$?
    must_exit 1 wait $pid && [ $rc -eq 0 ] && grep -q "warning: .*taken over from incarnation 1.*(0.0) of job 7" err && one_line old.err &&
    grep -q "taken over by incarnation 2.*attempt 0.1: this one, 1, ends" old.err && [ "$(cat over/inc-0001/state)" = "running 0" ] && ! ls -d over/inc-0001/step-* 2>/dev/null'
# Stopped anywhere, it may have a line or a checkpoint under way, and no more.
ok 'an older start that wakes up later writes, publishes and removes nothing, and takes no word' '
    start wake 1
    kill -STOP $pid; n=$(lines wake/inc-0001/metrics.jsonl)
    attempt 1 must_exit 75 train $long --stop-at $((n + 40)) --save-every 1 --keep 2 -o wake 2>err || { kill -KILL $pid; cat err; exit 1; }
    find wake/inc-0002 -name index.h5 | sort >before; echo jump >wake/control; kill -CONT $pid
    must_exit 1 wait $pid && one_line old.err && [ "$(lines wake/inc-0001/metrics.jsonl)" -le $((n + 1)) ] && [ "$(find wake/inc-0001 -name index.h5 | wc -l)" -le 1 ] &&
    [ "$(cat wake/control)" = jump ] && find wake/inc-0002 -name index.h5 | sort | cmp - before && "$SSM_BIN/ckmerge" verify -q wake'
ok 'told to stop after the take-over, the older start publishes nothing' '
    start stop 0
    kill -STOP $pid; attempt 1 must_exit 75 train $long --stop-at 3 -o stop 2>err; kill -TERM $pid; kill -CONT $pid
    must_exit 1 wait $pid && ! find stop/inc-0001 -name index.h5 | grep -q .'
if ${MPIEXEC:-mpiexec} -n 2 true 2>/dev/null; then
    ok 'two ranks are taken over from, by two' '
        two() { timeout 60 ${MPIEXEC:-mpiexec} -n 2 "$SSM_BIN/ssmtrain" -q $base $long --save-every 0 "$@" data; }
        attempt 0 two -o pair 2>old.err & pid=$!
        wait_for pair/inc-0001/metrics.jsonl; attempt 1 must_exit 75 two --stop-at 3 -o pair 2>err; rc=$?
        wait $pid; [ $? -ne 0 ] && [ $rc -eq 0 ] && one_line old.err && grep -q "taken over by incarnation 2" old.err && ! find pair/inc-0001 -name index.h5 | grep -q .'
else
    skip 'two ranks are taken over from' 'no mpiexec'
fi

# ---- --hang-limit ----
ok '--hang-limit: a run that goes on is left alone' 'train --steps 300 --save-every 50 --hang-limit 20 -o fine && state fine 0001 "done 300"'
if ${MPIEXEC:-mpiexec} -n 2 true 2>/dev/null; then
    ok '--hang-limit: a rank stands still; the other says where it waits, and the job ends' '
        timeout -k 5 30 ${MPIEXEC:-mpiexec} -n 2 "$SSM_BIN/ssmtrain" -q $base $long --save-every 0 --hang-limit 1.5 -o hang data 2>err & pid=$!
        wait_for hang/inc-0001/metrics.jsonl && read -r _ rank _ <hang/inc-0001/lock && kill -STOP "$rank"
        wait $pid; rc=$?; kill -KILL "$rank" 2>/dev/null
        [ $rc -eq 75 ] && [ "$(grep -c "hangs: rank" err)" -eq 1 ] && grep -q "hangs: rank 1 on .*, step [0-9]*, [a-z ]* for [0-9.]* s: more than --hang-limit 1.5" err && state hang 0001 "running 0" || { echo "$rc"; cat err; exit 1; }'
else
    skip '--hang-limit' 'no mpiexec'
fi
ok '--hang-limit: the process ends with 75' '
    must_exit 75 timeout 60 "$SSM_BIN/ssmtrain" -q --model ./tiny.conf --batch 64 --seq-len 1024 --steps 100000 --hang-limit 0.02 -o alone data 2>err &&
    one_line err && grep -q "hangs: rank 0 on " err && state alone 0001 "running 0"'
done_testing
