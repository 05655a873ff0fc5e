#!/bin/sh
# 3000-twice.t - two starts of one run at a time, and a disk that fills up, under Slurm
# SPDX-License-Identifier: MIT
nodes=3
. "${0%/*}/slurm.sh"
project first 4 --steps 400
undisturbed 4 --steps 400
undisturbed 2 --steps 600

scenario 'a second job on the same run is refused, and leaves the first alone' '
    train first && a=$job && hold_at first 60 n1 && r=$held && train first && b=$job &&
    { poll 40 grep -qs "is alive" first/slurm/ssm-train-$b.out; rc=$?; let_go $r; [ $rc -eq 0 ]; } && job=$a && completed && restarted 0 && [ ! -e first/run/inc-0002/metrics.jsonl ] && same first ref-4 && { scancel $b; job=$b; ended; }'
# The first copy is held where it is while the second begins, and then let go: it finds itself in the middle of a step.
scenario 'a node that Slurm thinks dead goes on: the copy there is fenced out by the one that was requeued' '
    project split 2 --steps 600 && train split && hold_at split 120 n1 && [ "$(state BatchHost)" = n1 ] && $lab kill-slurmd n1 && $lab freeze n1 && reached=$(last_step split 1) &&
    find split/run/inc-0001 -name index.h5 | sort >before && $lab down-node n1 && starts split 2 && $lab thaw n1 &&
    poll 20 eval "[ -z \"\$(\$lab pids n1 ssmtrain)\" ]" && [ "$(last_step split 1)" -le $((reached + 1)) ] && find split/run/inc-0001 -name index.h5 | sort | cmp before - &&
    completed && resumed split 1 && same split ref-2'
$lab start-node n1
full() { dd if=/dev/zero of="$LAB/small/filler" bs=4k 2>/dev/null; :; }
project full 4 --steps 400
sed -i "s,^work = .*,work = $LAB/small/full," full.conf && echo "logs = $PWD/full/slurm" >>full.site && mkdir full/slurm
scenario 'the disk is full: the checkpoints before stay whole, and it goes on when there is room' '
    ln -sn "$LAB/small/full" run-of-full && cp -r shards "$LAB/small/full" && name=full && "$top/slurm/submit.sh" pretrain full.conf --site full.site --dry-run >plan.log 2>&1 &&
    job=$(sbatch --parsable "$LAB/small/full/slurm/train.sbatch") && at_step run-of-full 120 && full && poll 60 is_pending &&
    for i in run-of-full/run/inc-*/step-*/index.h5; do "$SSM_BIN/ckmerge" verify -q "${i%/*}" || exit 1; done &&
    grep -q "No space\|space left\|needs" full/slurm/*.out && rm "$LAB/small/filler" && completed && resumed run-of-full 1 && same run-of-full ref-4'
done_testing
