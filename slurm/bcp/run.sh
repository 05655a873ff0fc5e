#!/bin/sh
# run.sh - the command of a job of Base Command: a whole pipeline, going on until it is done or the job is told to end
# SPDX-License-Identifier: MIT
#
# usage: run.sh pretrain|finetune|extend FILE.conf
#
# Stages that are done are skipped, so a job that was preempted (RESUMABLE) or submitted again goes on where it was. All state is
# in the workspace. Told TERM, the training saves, and the exit code is 75; 0 done, 2 usage, 93 do not run again.
# shellcheck disable=SC2154
SSM_HOME=$(cd "$(dirname "$0")/../.." && pwd) || exit
SLURM_JOB_NAME=$1 SLURM_JOB_ID=${NGC_JOB_ID:-} # as job.sh's lines name them
export SSM_HOME
# shellcheck source=slurm/job.sh
. "$SSM_HOME/slurm/job.sh"
[ $# -eq 2 ] || usage_error "usage: run.sh pretrain|finetune|extend FILE.conf"
case $1 in pretrain | finetune | extend) ;; *) usage_error "no pipeline '$1' (pretrain, finetune, extend)" ;; esac
kind=$1 conf=$2 stage=train share='' conf_max_retries=${SSM_MAX_RETRIES:-3}
unset SLURM_JOB_NAME SLURM_JOB_ID
say() { printf '%s: %s %s: %s\n' "$(date '+%F %T')" "$kind" "${NGC_JOB_ID:-}" "$*" >&2; }

# The first node starts the ranks of all.
if [ "${NGC_ARRAY_INDEX:-0}" != 0 ]; then
    say "node $NGC_ARRAY_INDEX: the first one starts what runs here"
    exit 0
fi
export PATH="$SSM_HOME/slurm/bcp:$PATH" SSM_LAUNCH=launch.sh SSM_CONTAINER=bcp
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SSM_THREADS:-1}}"
work=$("$here/$kind.sh" "$conf" --work) || exit
while :; do
    trap - TERM USR1
    run_told "$here/$kind.sh" "$conf"
    case $code in
    0)
        rm -f "$work/slurm/$stage.tries"
        say "done"
        exit 0
        ;;
    2 | 93) say "exit code $code, not run again"; exit "$code" ;;
    esac
    [ -z "$told" ] || { say "told to end: exit code $code"; exit "$code"; }
    may_retry || { say "$conf_max_retries starts in a row without progress, not run again"; exit 93; }
    say "exit code $code; goes on"
done
