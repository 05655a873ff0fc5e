#!/bin/sh
# 2600-save.t - checkpoints: in the background, which are kept, and no room for them
# SPDX-License-Identifier: MIT
. "${0%/*}/../training.sh"
mpi="timeout 60 ${MPIEXEC:-mpiexec}"

base="--model ./tiny.conf --batch 4 --seq-len 16 --lr 1e-2 --warmup 0"
kept() { for k in "$1"/inc-*/step-*/index.h5; do k=${k%/index.h5}; echo "${k##*-}"; done | sed 's/^0*//' | sort -n | tr '\n' ' '; }

train -o plain --steps 14 --save-every 0 || exit 1
for how in on off; do
    ok "--save-async $how: each checkpoint is that of a run which ends there" '
        train -o "all-'$how'" --steps 14 --save-every 2 --keep 9 --ema 0.9 --save-async '$how' && [ "$(kept "all-'$how'")" = "2 4 6 8 10 12 14 " ] &&
        for s in 2 8 12; do
            must_exit 75 train -o "at-$s-'$how'" --steps 14 --stop-at $s --save-every 0 --ema 0.9 &&
            same "all-'$how'/inc-0001/step-$(printf %08d $s)" "at-$s-'$how'" || exit 1
        done; "$SSM_BIN/ckmerge" verify -q "all-'$how'/inc-0001/step-00000002" "all-'$how'/inc-0001/step-00000010"'
done
ok 'the copy is in the plan' '
    a=$("$SSM_BIN/ssmtrain" -n $base data | sed -n "s/^memory_save=//p") && [ "$a" -gt 10000 ] && "$SSM_BIN/ssmtrain" -n $base --save-async off data | grep -qx memory_save=0'
ok '--keep and --keep-every' '
    train -o keep --steps 15 --save-every 2 --keep 1 --keep-every 6 && [ "$(kept keep)" = "6 12 15 " ] && train -o two --steps 15 --save-every 4 --keep 2 && [ "$(kept two)" = "12 15 " ]'
ok '--save-minutes' 'train -o minutes --steps 400 --save-every 0 --save-minutes 1e-5 --keep 1000 && set -- $(kept minutes) && [ $# -gt 2 ] && must_exit 0 train -o never --steps 400 --save-every 0 --keep 1000 && [ "$(kept never)" = "400 " ]'
if $mpi -n 2 true 2>/dev/null; then
    ok 'two ranks, in the background, stopped and gone on' '
        two() { $mpi -n 2 "$SSM_BIN/ssmtrain" -q $base --steps 14 --save-every 1 --keep 99 --batch 4 "$@" data; }
        base="--model ./tiny.conf --seq-len 16 --lr 1e-2 --warmup 0"
        two -o mpi1 && must_exit 75 two -o mpi2 --stop-at 5 && two -o mpi2 --save-async off && same mpi1 mpi2 && same mpi1/inc-0001/step-00000003 mpi2/inc-0001/step-00000003 &&
        [ "$(kept mpi1)" = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 " ] || { kept mpi1; exit 1; }'
else
    skip 'two ranks' 'no mpiexec'
fi
ok 'a write that fails in the background: one line, exit 1, no index, the one before stays valid' '
    must_exit 75 train -o limit --steps 2000 --save-every 0 --stop-at 3 &&
    (ulimit -f 20; must_exit 1 train -o limit --steps 100000 --save-every 5 2>err) && one_line err && grep -q "part-00000" err && [ "$(kept limit)" = "3 " ] &&
    "$SSM_BIN/ckmerge" verify -q limit && ! find limit -name "*.tmp.*" | grep -q .'
if [ "$(id -u)" -eq 0 ] && mkdir -p disk && mount -t tmpfs -o size=600k none disk 2>/dev/null; then
    ok 'no room: a warning, the training goes on, and fails at the end; with room it goes on from there' '
        must_exit 1 train -o disk/run --steps 14 --save-every 4 --keep 9 2>err; grep -q "training goes on.*needs.*left" err && tail -n 1 err | grep -q "step 14 is not saved: .*needs" &&
        [ "$(kept disk/run)" = "4 8 " ] && [ "$(wc -l <disk/run/inc-0001/metrics.jsonl)" -eq 14 ] && mount -o remount,size=8m disk && train -o disk/run --steps 14 && same disk/run plain || { cat err; kept disk/run; exit 1; }'
    umount disk
    ok 'no inodes' '
        mount -t tmpfs -o size=8m,nr_inodes=8 none disk && { must_exit 1 train -o disk/run --steps 3 2>err; one_line err && grep -q "inodes left" err; }; rc=$?; umount disk; exit $rc'
else
    skip 'no room' 'no tmpfs can be mounted here'
fi
done_testing
