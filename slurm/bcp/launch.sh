#!/bin/sh
# launch.sh - starts ranks over the nodes of a job of Base Command: by bcprun where it is, else by mpirun
# SPDX-License-Identifier: MIT
#
# usage: launch.sh -n N PROGRAM [ARGUMENT...]     one rank: without any launcher
#
# NGC_ARRAY_SIZE: nodes of the job. SSM_RANKS_PER_NODE, or else NGC_GPUS_PER_NODE: ranks of one. Told USR1, it stops a training by
# its control file, which needs no launcher that passes signals on, and anything else by TERM.
# shellcheck disable=SC2154
set -eu
here=$(cd "$(dirname "$0")/../../pipelines" && pwd)
# shellcheck source=pipelines/stage.sh
. "$here/stage.sh"
if [ $# -lt 3 ] || [ "$1" != -n ]; then usage_error "usage: launch.sh -n N PROGRAM [ARGUMENT...]"; fi
n=$2
shift 2
nodes=${NGC_ARRAY_SIZE:-1} each=${SSM_RANKS_PER_NODE:-${NGC_GPUS_PER_NODE:-0}}
[ "$nodes" -ge 1 ] || nodes=1
[ "$each" -ge 1 ] || each=$(((n + nodes - 1) / nodes))
[ "$n" -gt "$each" ] || each=$n
used=$(((n + each - 1) / each))
[ $((used * each)) -eq "$n" ] || usage_error "$n ranks are not whole nodes of $each"
[ "$used" -le "$nodes" ] || usage_error "$n ranks, $each a node, need $used nodes; the job has $nodes"

run=''
case ${1##*/}${2:-} in ssmtrain-o) run=$3 ;; esac
if [ "$n" -gt 1 ]; then
    set -- env "OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}" "HDF5_PLUGIN_PATH=${HDF5_PLUGIN_PATH:-}" "$@"
    if command -v bcprun >/dev/null; then
        cmd=''
        for a; do cmd="$cmd${cmd:+ }$(word "$a")"; done
        NGC_ARRAY_TYPE=MPIJob
        export NGC_ARRAY_TYPE
        set -- bcprun --nnodes "$used" --npernode "$each" --workdir "$PWD" --launcher 'mpirun --allow-run-as-root' --cmd "$cmd"
    elif mpirun --version 2>/dev/null | grep -qi hydra; then
        set -- mpirun -n "$n" -ppn "$each" "$@" # MPICH's takes root as it comes
    else
        set -- mpirun --allow-run-as-root -np "$n" -npernode "$each" "$@"
    fi
fi

asked='' child=''
# shellcheck disable=SC2317 # by the trap
ask() {
    asked=yes
    if [ -n "$run" ] && [ -d "$run" ]; then echo stop >"$run/control"; else kill -TERM "$child" 2>/dev/null || :; fi
}
trap ask USR1
"$@" &
child=$!
code=0
await "$child" || code=$?
if [ -n "$asked" ] && [ -n "$run" ]; then rm -f "$run/control"; fi # it may have ended before it read that
exit "$code"
