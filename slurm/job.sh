# shellcheck shell=sh disable=SC2154
# job.sh - what every batch script here does: enters the launcher, runs a stage of a pipeline, decides what comes after it
# SPDX-License-Identifier: MIT
#
# Sourced by the .sbatch files, in a job. $SSM_HOME: the folder above this one. $SSM_SITE: the site's file.
# job STAGE KIND CONF [OFFSET SHARES]: runs stage STAGE of pipelines/KIND.sh CONF; of an array its task's share; of a sweep the task's
# own .conf.
set -eu
here=$SSM_HOME/pipelines
# shellcheck source=pipelines/stage.sh
. "$here/stage.sh"
# shellcheck source=slurm/site.sh
. "$SSM_HOME/slurm/site.sh"
say() { printf '%s: %s %s: %s\n' "$(date '+%F %T')" "${SLURM_JOB_NAME:-job}" "${SLURM_JOB_ID:-}" "$*" >&2; }

# What the tools of the job are started with.
site_enter() {
    if [ -n "$conf_modules" ]; then
        # shellcheck disable=SC2086
        module load $conf_modules
    fi
    if [ -n "$conf_environment" ]; then
        set -a
        # shellcheck disable=SC1090
        case $conf_environment in */*) . "$conf_environment" ;; *) . "./$conf_environment" ;; esac
        set +a
    fi
    if [ -n "$conf_bin" ]; then export SSM_BIN="$conf_bin"; fi
    export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}" SSM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
    export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # srun no longer takes it from sbatch
    export SSM_RANKS="${SLURM_NTASKS:-1}"
    # A rank that dies takes the others along; a rank that has ended waits for the others a minute.
    case $conf_launcher in
    srun) SSM_LAUNCH="srun --kill-on-bad-exit=1 --wait=60 --mpi=$conf_mpi${conf_bind:+ --cpu-bind=$conf_bind}" ;;
    mpiexec) SSM_LAUNCH=mpiexec ;;
    esac
    case $conf_container in
    pyxis) SSM_LAUNCH="$SSM_LAUNCH --container-image=$conf_image --no-container-mount-home${conf_mounts:+ --container-mounts=$conf_mounts}" SSM_CONTAINER=pyxis ;;
    apptainer) SSM_WRAP="apptainer exec$([ "$conf_gpus_per_node" -eq 0 ] || echo ' --nv') --cleanenv=false${conf_mounts:+ --bind $conf_mounts} $conf_image" SSM_CONTAINER=apptainer ;;
    esac
    export SSM_LAUNCH SSM_WRAP="${SSM_WRAP:-}" SSM_CONTAINER="${SSM_CONTAINER:-}"
}

# ---- a stage ----

# Runs CMD; TERM, which this shell may get before its ranks do, or alone, is passed on and remembered.
told=''
tell() {
    told="$told $1"
    kill -TERM "$child" 2>/dev/null || :
}
run_told() {
    "$@" &
    child=$!
    trap 'tell TERM' TERM
    trap 'tell USR1' USR1
    code=0
    await "$child" || code=$?
    trap '' TERM USR1 # what follows is short
}

# Why Slurm ends this job, when it was told TERM before its time was over: to make room for another, or because somebody cancelled it.
is_told_early() {
    case $told in *TERM*) ;; *) return 1 ;; esac
    [ "$(date +%s)" -lt $((${SLURM_JOB_END_TIME:-9999999999} - 10)) ]
}
is_preempted() { is_told_early && scontrol show job -o "$SLURM_JOB_ID" 2>/dev/null | grep -q 'PreemptTime=[0-9]'; }
is_cancelled() { is_told_early && ! is_preempted; }

# Has Slurm started this job anew while this copy lived on, on a node that it thought dead? Then the job's id is the new copy's,
# and so is all that follows.
is_superseded() {
    restarts=$(scontrol show job -o "$SLURM_JOB_ID" 2>/dev/null | sed -n 's/.* Restarts=\([0-9]*\).*/\1/p')
    [ "${restarts:-0}" -gt "${SLURM_RESTART_COUNT:-0}" ]
}

# again WHY: this job once more; in a chain its next job goes on.
again() {
    if [ "$conf_resume" = chain ] && [ "$stage" = train ] && [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
        if [ "$SLURM_ARRAY_TASK_ID" -ge "${SLURM_ARRAY_TASK_MAX:-0}" ]; then
            say "$1; this was the last job of the chain: submit it again"
            exit 75
        fi
        say "$1; the next job of the chain goes on"
        exit 0
    fi
    say "$1; back into the queue"
    if scontrol requeue "$SLURM_JOB_ID"; then
        trap - TERM USR1
        sleep 60 # until Slurm ends this copy
    else
        say "it cannot go back: submit it again (site.conf: resume = chain)"
    fi
    exit 75
}
# stay CODE WHY: the end of it, also of the jobs of the chain that are still to come.
stay() {
    say "$2"
    if [ "$conf_resume" = chain ] && [ -n "${SLURM_ARRAY_JOB_ID:-}" ] && [ "$stage" = train ]; then
        scancel --state=PENDING "$SLURM_ARRAY_JOB_ID" || :
    fi
    exit "$1"
}

# progress: how far the stage has come; something that grows. Of a training its newest checkpoint's step.
progress() {
    [ "$stage" = train ] || { echo 0; return; }
    for index in "$work"/run/inc-*/step-*/index.h5; do
        index=${index%/index.h5}
        index=${index##*/step-}
        case $index in *[!0-9]*) ;; *) plain "$index" ;; esac
    done | sort -n | tail -n 1
}
# Counts the starts that came no further than the one before; true while there are not too many.
may_retry() {
    tries=$work/slurm/$stage${share:+-${share%/*}}.tries
    now=$(progress) last='' count=0
    mkdir -p "$work/slurm"
    [ ! -r "$tries" ] || read -r last count <"$tries" || :
    [ "$last" = "${now:-0}" ] || count=0
    count=$((${count:-0} + 1))
    printf '%s %s\n' "${now:-0}" "$count" >"$tries.tmp.$$" && mv "$tries.tmp.$$" "$tries"
    [ "$count" -le "$conf_max_retries" ] || { rm -f "$tries"; return 1; } # who submits it again may try as often
}

# job STAGE KIND CONF [OFFSET SHARES]
job() {
    stage=$1 kind=$2 conf=$3 share=''
    case $conf in
    */confs) conf=$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$conf") ;;
    esac
    site_read "$SSM_SITE"
    if [ -n "${5:-}" ]; then share=$((SLURM_ARRAY_TASK_ID + $4))/$5; fi
    site_enter
    work=$("$here/$kind.sh" "$conf" --work) || exit
    say "$stage${share:+ $share} of $kind.sh $conf, start $((${SLURM_RESTART_COUNT:-0} + 1)), ${SLURM_JOB_NODELIST:-}"
    run_told "$here/$kind.sh" "$conf" "$stage${share:+:$share}"
    if [ "$code" -ne 0 ] && is_superseded; then
        say "$stage: exit code $code; Slurm has started this job anew, this copy does nothing more"
        exit "$code"
    fi
    case $code in
    0) rm -f "$work/slurm/$stage${share:+-${share%/*}}.tries" ;;
    2 | 93) stay "$code" "$stage: exit code $code, not run again" ;;
    *)
        ! is_cancelled || stay "$code" "$stage: cancelled"
        is_preempted || may_retry || stay 93 "$stage: $conf_max_retries starts in a row without progress, not run again"
        again "$stage: exit code $code"
        ;;
    esac
    say "$stage: done"
}
