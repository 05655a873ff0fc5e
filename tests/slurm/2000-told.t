#!/bin/sh
# 2000-told.t - trainings that Slurm and people tell to stop: saved, and not one step lost
# SPDX-License-Identifier: MIT
nodes=3
. "${0%/*}/slurm.sh"
project made-way 4 --steps 400
undisturbed 4 --steps 400
scenario 'a more important job takes the nodes: saved in its grace, requeued, goes on when there is room' '
    train made-way && hold_at made-way 120 n2 && r=$held &&
    sbatch -p urgent -N 3 -n 12 -o urgent.out --wrap "sleep 2; date" && { poll 60 told $r TERM; rc=$?; let_go $r; [ $rc -eq 0 ]; } && completed && restarted 1 && seamless made-way 1 && same made-way ref-4 && [ -s urgent.out ]'
# Slurm sends the signal up to a minute before its time, perhaps before there is a rank to hold, perhaps to the next start too.
scenario 'the limit of time comes: USR1, saved, requeued' '
    project late 4 --steps 400 && train late --time=1 --signal=USR1@55 && starts late 1 && r=$(rank n2); [ -z "$r" ] || kill -STOP $r 2>/dev/null || r=""
    [ -z "$r" ] || { poll 60 told $r USR1; rc=$?; let_go $r; [ $rc -eq 0 ]; } && completed 150 && each_seamless late 400 && same late ref-4'
scenario 'TERM and USR1 at once, and again, to one rank: all stop after the same step' '
    project both 4 --steps 400 && train both && hold_at both 120 n2 2 && r=$held &&
    { kill -TERM $r; kill -USR1 $r; kill -TERM $r; kill -USR1 $r; let_go $r; } && completed && restarted 1 && seamless both 1 &&
    grep -q "exit code 75" both/slurm/*.out && same both ref-4'
scenario 'RUN/control: save, and goes on; stop, and is requeued' '
    project asked 4 --steps 400 && train asked && hold_at asked 60 n2 && echo save >asked/run/control && let_go $held && poll 20 [ ! -e asked/run/control ] &&
    hold_at asked 120 n2 && echo stop >asked/run/control && let_go $held && completed && restarted 1 && seamless asked 1 && same asked ref-4 &&
    ls -d asked/run/inc-0001/step-*[1-9] asked/run/inc-0001/step-*[1-46-9]0 2>/dev/null | grep -q step'
scenario 'signals that reach the batch script before its ranks have ended; scancel saves, and is the end; sent again it goes on' '
    project shell 4 --steps 400 && train shell && at_step shell 60 && scancel --signal=USR1 --batch $job && starts shell 2 && seamless shell 1 &&
    poll 60 eval "[ \"\$(last_step shell 2)\" -gt 120 ]" && scancel --signal=USR1 --full $job && starts shell 3 && seamless shell 2 &&
    at_step shell 200 && scancel $job && ended && [ "$(state JobState)" = CANCELLED ] && train shell && completed && seamless shell 3 && same shell ref-4'
scenario 'on one node instead of two: the same curve to rounding' '
    project fewer 4 --steps 400 && train fewer && at_step fewer 120 && scancel $job && ended &&
    sed -i "s/^ranks = .*/ranks = 2/" fewer.conf && train fewer && completed && [ "$(state NumNodes)" = 1 ] && seamless fewer 1 && like fewer ref-4'
done_testing
