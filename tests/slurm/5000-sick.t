#!/bin/sh
# 5000-sick.t - trainings under Slurm that hang, spike and diverge
# SPDX-License-Identifier: MIT
nodes=3
. "${0%/*}/slurm.sh"
project hang 4 --steps 400 --hang-limit 4
undisturbed 4 --steps 400

scenario 'a rank stands still: the others say where they wait, the job ends by itself, is requeued, and ends with the same bits' '
    train hang && hold_at hang 120 n2 && poll 30 grep -qs "hangs: rank [0-3] on n[12], step 1[0-9]*" hang/slurm/ssm-train-$job.out && completed && restarted 1 && resumed hang 1 && same hang ref-4'
spikes="--skip-loss-z 1.2 --on-spike rewind --max-skips 50 --slowest-every 50"
undisturbed 2 --steps 400 $spikes
scenario 'steps are refused, and a rank is killed after the training has gone back: the same bits; the slowest rank is told with its node' '
    project spiky 2 --steps 400 $spikes && sed -i "s/^ranks_per_node.*/ranks_per_node = 1/" spiky.site && train spiky && starts spiky 1 && held=$(rank n2) &&
    poll 60 grep -qs "\"rewinds\":1," spiky/run/inc-0001/metrics.jsonl && kill -KILL $held && completed && restarted 1 && "$SSM_BIN/ckmerge" compare -q spiky/run ref-2 && cat spiky/run/inc-*/slowest.jsonl | grep -q "\"steps\":50,\"rank\":[01],\"host\":\"n[12]\""'
scenario 'a training that diverges is not run again' '
    project wild 4 --steps 400 --clip 0 --weight-decay 10 --max-skips 3 && sed -i "s/--lr 5e-3/--lr 10/" wild.conf && sed "s/tied = true/tied = true\ninit_std = 10/" tiny.conf >wild.model && sed -i "s,^model = .*,model = $PWD/wild.model," wild.conf &&
    train wild && ended && [ "$(state JobState)" = FAILED ] && [ "$(state ExitCode)" = 93:0 ] && restarted 0 && case $(word wild 1) in stay*) ;; *) false ;; esac'
done_testing
