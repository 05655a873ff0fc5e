#!/bin/sh
# submit.sh - a whole pipeline as jobs of Slurm that wait for each other, or as specs for Base Command
# SPDX-License-Identifier: MIT
#
# usage: submit.sh pretrain|finetune|extend FILE.conf [OPTION...]
#   --site FILE      the site's settings (default: site.conf beside this script, or $SSM_SITE)
#   --dry-run        write the scripts into WORK/slurm and print the commands, submit nothing
#   --cancel         take back what is queued or runs
#   --sweep OPTION=VALUE,VALUE...    a training for each value of an option of ssmtrain, as an array; several: all combinations
#   --bcp            one job of Base Command instead: write WORK/slurm/bcp/KIND.json, print what submits it
#
# FILE.conf is that of pipelines/KIND.sh, which also runs the stages inside the jobs. A line a stage is printed: name, job ids. What
# is done, queued or running is not submitted again, so the same command goes on after whatever happened. WORK/slurm holds
# the scripts as they were submitted, logs, and `jobs`: "STAGE ID" lines.
# shellcheck disable=SC2154
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
here=$top/pipelines
# shellcheck source=pipelines/stage.sh
. "$here/stage.sh"
# shellcheck source=slurm/site.sh
. "$top/slurm/site.sh"
# shellcheck source=slurm/sweep.sh
. "$top/slurm/sweep.sh"
say() { printf 'submit.sh: %s\n' "$*" >&2; }

kind='' conf='' site=${SSM_SITE:-$top/slurm/site.conf} dry='' cancel='' sweep='' bcp=''
while [ $# -gt 0 ]; do
    case $1 in
    --site) [ $# -ge 2 ] || usage_error "--site needs a file"; site=$2; shift ;;
    --site=*) site=${1#*=} ;;
    --dry-run) dry=yes ;;
    --cancel) cancel=yes ;;
    --sweep) [ $# -ge 2 ] || usage_error "--sweep needs OPTION=VALUE,VALUE..."; sweep="$sweep $2"; shift ;;
    --sweep=*) sweep="$sweep ${1#*=}" ;;
    --bcp) bcp=yes ;;
    -h | --help) sed -n '5,14s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) usage_error "unknown option '$1' (--help)" ;;
    *) if [ -z "$kind" ]; then kind=$1; elif [ -z "$conf" ]; then conf=$1; else usage_error "'$1' is one argument too many"; fi ;;
    esac
    shift
done
[ -n "$conf" ] || usage_error "usage: submit.sh pretrain|finetune|extend FILE.conf [--site FILE] [--dry-run] [--cancel] [--sweep OPTION=VALUE,...] [--bcp]"
case $kind in
pretrain | finetune | extend) ;;
*) usage_error "no pipeline '$kind' (pretrain, finetune, extend)" ;;
esac
[ -r "$conf" ] || usage_error "cannot read '$conf'"
case $site in /*) ;; *) site=$PWD/$site ;; esac
case $conf in /*) ;; *) conf=$PWD/$conf ;; esac
site_read "$site"
if [ -n "$conf_bin" ]; then export SSM_BIN="$conf_bin"; fi
export SSM_CONTAINER="${conf_container:-${bcp:+bcp}}"
work=$("$top/pipelines/$kind.sh" "$conf" --work) || exit
case $work in /*) ;; *) work=$PWD/$work ;; esac
rows=$("$top/pipelines/$kind.sh" "$conf" --list) || exit
dir=$work/slurm
if [ -n "$sweep" ]; then
    [ -z "$bcp" ] || usage_error "--sweep is for Slurm: Base Command has no arrays"
    [ "$conf_resume" != chain ] || usage_error "a sweep is an array already: it needs 'resume = requeue'"
    # shellcheck disable=SC2086
    root=$(sweep_root "$work" $sweep)
    # shellcheck disable=SC2086
    sweep_write "$conf" "$root" $sweep
    confs=$root/confs
    [ "$(wc -l <"$confs")" -le "$conf_max_array" ] || usage_error "$(wc -l <"$confs") combinations are more than an array takes ($conf_max_array)"
    rows=$(printf '%s\n' "$rows" | sweep_rows "$kind" "$confs")
    dir=$root/slurm
fi
jobs=$dir/jobs
logs=${conf_logs:-$dir}
tab=$(printf '\t')
if [ -n "$bcp" ]; then
    # shellcheck source=slurm/bcp/spec.sh
    . "$top/slurm/bcp/spec.sh"
    bcp_spec
    exit 0
fi
mkdir -p "$dir" "$logs"
[ -n "$dry" ] || command -v sbatch >/dev/null || fail "no sbatch here: is this a login node of the cluster? (--dry-run needs none)"

# alive ID: is that job still to run, or does it run? When Slurm does not answer nobody knows, and nothing is done.
alive() {
    if heard=$(squeue -h -j "$1" -o %i 2>&1); then
        [ -n "$heard" ]
    else
        case $heard in
        *'Invalid job id'*) return 1 ;;
        *) fail "squeue: $heard" ;;
        esac
    fi
}
# Ids of a stage's jobs that are alive.
living() {
    [ -r "$jobs" ] && [ -z "$dry" ] || return 0
    sed -n "s/^$1 //p" "$jobs" | while read -r id; do
        ! alive "$id" || printf '%s ' "$id"
    done
}

if [ -n "$cancel" ]; then
    [ -r "$jobs" ] || fail "'$jobs': nothing was submitted"
    while read -r stage id <&3; do
        if [ -n "$dry" ]; then
            echo "scancel $id"
        elif alive "$id"; then
            scancel "$id"
            echo "$stage	cancelled: $id"
        fi
    done 3<"$jobs"
    [ -n "$dry" ] || rm -f "$jobs"
    exit 0
fi

# write NAME TEMPLATE OPTIONS ARGUMENT...: the script WORK/slurm/NAME.sbatch. OPTIONS: lines of #SBATCH that win over the template's.
write() {
    script=$dir/$1.sbatch original=$top/slurm/$2.sbatch lines=$3
    shift 3
    {
        sed -n '1,/^$/{/^$/!p;}' "$original"
        printf '%s\n' "$lines"
        printf '\nexport SSM_HOME=%s SSM_SITE=%s SSM_BIN=%s\nset --' "$(quoted "$top")" "$(quoted "$site")" "$(quoted "${SSM_BIN:-}")"
        for a; do printf ' %s' "$(quoted "$a")"; done
        printf '\n'
        sed '1,/^$/d; /^# usage/,/^# from/d' "$original"
    } >"$script.tmp"
    mv "$script.tmp" "$script"
}
# directive NAME VALUE: a line of #SBATCH; blanks, quotes and # in it are part of the value
directive() {
    case $2 in
    *[[:space:]\"\'\\#]*) printf '#SBATCH --%s="%s"\n' "$1" "$(printf %s "$2" | sed 's/[\\"]/\\&/g')" ;;
    *) printf '#SBATCH --%s=%s\n' "$1" "$2" ;;
    esac
}
# #SBATCH lines of the site, and of a job with so many ranks on so many a node
site_options() { # RANKS A-NODE
    ranks=$1 each=$2
    [ "$ranks" -ge "$each" ] || each=$ranks
    for key in partition account qos constraint time mem; do
        eval "v=\$conf_$key"
        [ -z "$v" ] || directive $key "$v"
    done
    for o in $conf_options; do printf '#SBATCH %s\n' "$o"; done
    directive chdir "$PWD"
    printf '#SBATCH --ntasks=%s\n#SBATCH --nodes=%s\n#SBATCH --ntasks-per-node=%s\n#SBATCH --cpus-per-task=%s\n' \
        "$ranks" $(((ranks + each - 1) / each)) "$each" "$conf_cpus_per_rank"
}
# A node's GPUs are shared by its ranks; none for what needs none.
gpus() {
    [ "$conf_gpus_per_node" -eq 0 ] || printf '#SBATCH --gpus-per-node=%s\n' $((conf_gpus_per_node < $1 ? conf_gpus_per_node : $1))
}
# submit NAME: sbatch of its script after the jobs $after, as $how says; the id goes to $id
submit() {
    set -- "$1" --parsable ${after:+"--dependency=$how:$after"} ${after:+--kill-on-invalid-dep=yes} "$dir/$1.sbatch"
    name=$1
    shift
    if [ -n "$dry" ]; then
        printf sbatch
        for a; do printf ' ' && word "$a"; done
        printf '\n'
        id="<$name>"
    else
        rm -f "$work/slurm/$stage"*.tries "$work"/sweep/*/*/slurm/"$stage"*.tries # whoever submits anew has mended something
        id=$(sbatch "$@") || fail "$name: sbatch failed"
        id=${id%%;*}
        echo "$stage $id" >>"$jobs"
    fi
}

# The stages in their order; each waits for all jobs of the one before.
after='' how=afterok # what the next one waits for
while IFS=$tab read -r stage tasks ranks state <&3; do
    if [ "$state" = 'done' ]; then
        [ -n "$dry" ] || echo "$stage	done already"
        continue
    fi
    ids=$(living "$stage") || exit
    if [ -n "$ids" ]; then
        echo "$stage	is queued or runs: ${ids% }"
        after=$(printf %s "${ids% }" | tr ' ' :)
        continue
    fi
    [ -n "$dry" ] || [ ! -r "$jobs" ] || { sed "/^$stage /d" "$jobs" >"$jobs.tmp" && mv "$jobs.tmp" "$jobs"; }
    extra='' node=$((ranks < conf_ranks_per_node ? ranks : conf_ranks_per_node)) # ranks of one node
    case $stage in
    share) template=tokshard ranks=1 ;;
    learn | data | pack) template=merge ranks=$node ;;
    train)
        extra=$(gpus "$ranks")
        template=train extra="#SBATCH --signal=USR1@$conf_signal${extra:+
$extra}"
        [ "$conf_resume" != chain ] || extra="$extra
#SBATCH --array=1-$conf_chain_length%1
#SBATCH --no-requeue"
        ;;
    eval | curve) template=eval ranks=$node extra=$(gpus "$ranks") ;;
    *) template=merge ranks=1 ;;
    esac
    in_sweep=''
    if [ -n "$sweep" ] && is_swept "$stage"; then in_sweep=yes; fi
    case $template$in_sweep in
    tokshard | eval | *yes) log=%x-%A_%a.out ;;
    *) log=%x-%j.out ;;
    esac
    options="$(site_options "$ranks" "$conf_ranks_per_node")
#SBATCH --job-name=ssm-$stage
$(directive output "$(printf %s "$logs" | sed s/%/%%/g)/$log")${extra:+
$extra}"
    case $template$in_sweep in
    *yes) # a task a combination, each after the same one's
        write "$stage" "$template" "$options
#SBATCH --array=1-$tasks%$conf_throttle" "$stage" "$kind" "$confs"
        submit "$stage"
        how=aftercorr
        ;;
    tokshard | eval)
        # as many arrays as it takes when there are more tasks than one may have
        offset=0 all=''
        while [ $offset -lt "$tasks" ]; do
            n=$((tasks - offset < conf_max_array ? tasks - offset : conf_max_array))
            name=$stage
            [ $offset -eq 0 ] || name=$stage-$offset
            write "$name" "$template" "$options
#SBATCH --array=1-$n%$conf_throttle" "$stage" "$kind" "$conf" $offset "$tasks"
            submit "$name"
            all=$all${all:+:}$id
            offset=$((offset + n))
        done
        id=$all
        ;;
    *)
        write "$stage" "$template" "$options" "$stage" "$kind" "$conf"
        submit "$stage"
        ;;
    esac
    [ -n "$dry" ] || echo "$stage	$(printf %s "$id" | tr : ' ')"
    after=$id
done 3<<ROWS
$rows
ROWS
