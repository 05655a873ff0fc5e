# shellcheck shell=sh disable=SC2154
# spec.sh - a pipeline as one job of Base Command: its JSON, and the lines that submit it
# SPDX-License-Identifier: MIT
# Sourced by submit.sh for --bcp. Written from public job files and guides; no live platform was at hand.

# A text of JSON.
json() { printf '"%s"' "$(printf %s "$1" | tr '\t' ' ' | sed 's/[\\"]/\\&/g')"; }

# inside PATH MOUNT...: is PATH, which may be relative, below one of these?
inside() {
    case $1 in /*) path=$1 ;; *) path=$PWD/$1 ;; esac
    shift
    case /$path/ in */../* | */./*) return 1 ;; esac
    for mount; do
        case $path in "${mount%/}"/?*) return 0 ;; esac
    done
    return 1
}

# seconds KEY: its value, a number of s, m, h or d, as seconds
seconds() {
    eval "v=\$conf_$1"
    case $v in
    [1-9]*[smhd]) n=${v%?} ;;
    *) n=x ;;
    esac
    case $n in *[!0-9]*) usage_error "$conf_file: '$v' of '$1' is no time such as 72h or 600s" ;; esac
    case $v in
    *s) echo "$n" ;;
    *m) echo $((n * 60)) ;;
    *h) echo $((n * 3600)) ;;
    *d) echo $((n * 86400)) ;;
    esac
}

# envs: NAME=VALUE lines of the job's environment
envs() {
    printf 'SSM_BIN=%s\n' "$conf_bin"
    printf 'SSM_RANKS_PER_NODE=%s\nSSM_THREADS=%s\nSSM_MAX_RETRIES=%s\n' "$conf_ranks_per_node" "$conf_cpus_per_rank" "$conf_max_retries"
    for e in $conf_bcp_env; do printf '%s\n' "$e"; done
}

# bcp_spec: writes WORK/slurm/bcp/KIND.json and KIND.sh, and prints what submits them
bcp_spec() {
    conf_file=$site
    need bin bcp_ace bcp_instance bcp_image bcp_workspace bcp_mount
    number bcp_order
    [ "$conf_bcp_order" -le 99 ] || usage_error "$site: 'bcp_order' goes from 1 to 99"
    one_of bcp_priority LOW NORMAL HIGH
    one_of bcp_preempt RUNONCE RESUMABLE
    case $conf_bcp_mount in /*) ;; *) usage_error "$site: 'bcp_mount' is no absolute path" ;; esac
    runtime=$(seconds bcp_runtime) || exit
    mounts=''
    for d in $conf_bcp_datasets; do
        case $d in ?*:/?*) mounts="$mounts ${d#*:}" ;; *) usage_error "$site: '$d' of 'bcp_datasets' is not ID:/FOLDER" ;; esac
    done
    for e in $conf_bcp_env; do
        case $e in [A-Za-z_]*=*) ;; *) usage_error "$site: '$e' of 'bcp_env' is not NAME=VALUE" ;; esac
    done
    # What is outside of the mounts is gone with the job, or was never there.
    for p in "$work" "$conf" "$PWD/."; do
        inside "${p%/.}" "$conf_bcp_mount" || [ "$p" = "${conf_bcp_mount%/}/." ] ||
            usage_error "'${p%/.}' is not below '$conf_bcp_mount', the mount of the workspace"
    done
    inputs=$("$top/pipelines/$kind.sh" "$conf" --inputs) || exit
    while IFS= read -r p; do
        # shellcheck disable=SC2086
        [ -z "$p" ] || inside "$p" "$conf_bcp_mount" $mounts || usage_error "'$p' is not below '$conf_bcp_mount', the mount of the workspace, nor in a dataset"
    done <<INPUTS
$inputs
INPUTS

    ranks=$(printf '%s\n' "$rows" | awk -F '\t' '$1 == "train" { print $3 }')
    nodes=$(((ranks + conf_ranks_per_node - 1) / conf_ranks_per_node))
    [ "$nodes" -eq 1 ] || [ $((nodes * conf_ranks_per_node)) -eq "$ranks" ] || usage_error "$conf: 'ranks = $ranks' are not whole nodes of $conf_ranks_per_node"
    name=ssm-$kind
    command="cd $(word "$PWD") && exec $(word "${conf_bin%/*}/share/ssmtools/slurm/bcp/run.sh") $kind $(word "$conf")"
    mkdir -p "$dir/bcp"
    file=$dir/bcp/$kind

    {
        printf '{\n  "name": %s,\n  "aceName": %s,\n  "aceInstance": %s,\n' "$(json "$name")" "$(json "$conf_bcp_ace")" "$(json "$conf_bcp_instance")"
        printf '  "dockerImageName": %s,\n  "command": %s,\n' "$(json "$conf_bcp_image")" "$(json "$command")"
        [ "$nodes" -eq 1 ] || printf '  "arrayType": "MPI",\n  "replicaCount": %s,\n' "$nodes"
        printf '  "envs": ['
        envs | {
            comma=''
            while IFS= read -r e; do
                printf '%s\n    {"name": %s, "value": %s}' "$comma" "$(json "${e%%=*}")" "$(json "${e#*=}")"
                comma=,
            done
        }
        printf '\n  ],\n  "jobPriority": %s,\n  "jobOrder": %s,\n' "$(json "$conf_bcp_priority")" "$conf_bcp_order"
        printf '  "runPolicy": {"preemptClass": %s, "totalRuntimeSeconds": %s},\n' "$(json "$conf_bcp_preempt")" "$runtime"
        printf '  "resultContainerMountPoint": %s,\n' "$(json "$conf_bcp_result")"
        if [ -n "$conf_bcp_datasets" ]; then
            comma=''
            printf '  "datasetMounts": ['
            for d in $conf_bcp_datasets; do
                printf '%s\n    {"containerMountPoint": %s, "id": %s}' "$comma" "$(json "${d#*:}")" "$(json "${d%%:*}")"
                comma=,
            done
            printf '\n  ],\n'
        fi
        if [ -n "$conf_bcp_labels" ]; then
            comma=''
            printf '  "userLabels": ['
            for l in $conf_bcp_labels; do
                printf '%s%s' "$comma" "$(json "$l")"
                comma=', '
            done
            printf '],\n'
        fi
        printf '  "workspaceMounts": [\n    {"containerMountPoint": %s, "id": %s, "mountMode": "RW"}\n  ]\n}\n' "$(json "$conf_bcp_mount")" "$(json "$conf_bcp_workspace")"
    } >"$file.json.tmp"
    mv "$file.json.tmp" "$file.json"

    {
        printf '#!/bin/sh\n# the job of %s.json by options\n' "$kind"
        printf 'ngc batch run' && options
        printf ' --name %s --ace %s --instance %s --image %s' "$(word "$name")" "$(word "$conf_bcp_ace")" "$(word "$conf_bcp_instance")" "$(word "$conf_bcp_image")"
        [ "$nodes" -eq 1 ] || printf ' --array-type MPI --replicas %s' "$nodes"
        envs | while IFS= read -r e; do printf ' --env-var %s' "$(word "${e%%=*}:${e#*=}")"; done
        printf ' --priority %s --order %s --preempt %s --total-runtime %ss --result %s' "$conf_bcp_priority" "$conf_bcp_order" "$conf_bcp_preempt" "$runtime" "$(word "$conf_bcp_result")"
        for d in $conf_bcp_datasets; do printf ' --datasetid %s' "$(word "$d")"; done
        for l in $conf_bcp_labels; do printf ' --label %s' "$(word "$l")"; done
        printf ' --workspace %s --commandline %s\n' "$(word "$conf_bcp_workspace:$conf_bcp_mount:RW")" "$(quoted "$command")"
    } >"$file.sh.tmp"
    mv "$file.sh.tmp" "$file.sh"
    printf 'ngc batch run' && options && printf ' -f %s\n' "$(word "$file.json")"
    tail -n 1 "$file.sh"
}
# What is no field of the job.
options() {
    [ -z "$conf_bcp_org" ] || printf ' --org %s' "$(word "$conf_bcp_org")"
    [ -z "$conf_bcp_team" ] || printf ' --team %s' "$(word "$conf_bcp_team")"
}
