# shellcheck shell=sh disable=SC2154,SC2034
# stage.sh - what the pipelines share: reading a .conf, running a stage once, launching ranks
# SPDX-License-Identifier: MIT
# Sourced by the pipelines (POSIX sh). Needs $here: the folder of the pipelines.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
fail() { say "$*"; exit 1; }
usage_error() { say "$*"; exit 2; }

# Tools: $SSM_BIN, the installed ones, or those built in this tree.
find_tools() {
    if [ -n "${SSM_BIN:-}" ]; then bin=$SSM_BIN
    elif [ -x "$here/../../../bin/ssmtrain" ]; then bin=$here/../../../bin
    else bin=$here/../build/release/bin
    fi
    for t in tokshard ssmtrain ckmerge ssmeval; do
        [ -n "${SSM_CONTAINER:-}" ] || [ -x "$bin/$t" ] || fail "no $t in '$bin' (SSM_BIN says where the tools are; 'make' builds them)"
    done
}

# quoted TEXT, word TEXT: as the shell reads it back, the latter plain where it can be
quoted() { printf "'%s'" "$(printf %s "$1" | sed "s/'/'\\\\''/g")"; }
word() {
    case $1 in
    '' | *[!A-Za-z0-9_./=:,@%+-]*) quoted "$1" ;;
    *) printf %s "$1" ;;
    esac
}

# conf_read FILE KEY...: reads 'key = value' lines; only the named keys are known; each becomes conf_KEY.
conf_read() {
    conf_file=$1
    shift
    [ -r "$conf_file" ] || usage_error "cannot read '$conf_file'"
    conf_seen=' '
    conf_line=0
    while IFS= read -r line || [ -n "$line" ]; do
        conf_line=$((conf_line + 1))
        case $line in '#'*) continue ;; esac
        line=${line%%[[:space:]]#*} # a # inside a word is part of it
        case $line in
        *[![:space:]]*) ;;
        *) continue ;;
        esac
        case $line in
        *=*) ;;
        *) usage_error "$conf_file:$conf_line: '$line' is not 'key = value'" ;;
        esac
        key=$(printf '%s' "${line%%=*}" | tr -d '[:space:]')
        value=$(printf '%s' "${line#*=}" | sed 's/^[[:space:]]*//; s/[[:space:]]*$//')
        known=no
        for k in "$@"; do [ "$k" = "$key" ] && known=yes; done
        [ $known = yes ] || usage_error "$conf_file:$conf_line: unknown key '$key'"
        case $conf_seen in
        *" $key "*) usage_error "$conf_file:$conf_line: key '$key' stands here twice" ;;
        esac
        conf_seen="$conf_seen$key "
        eval "conf_$key=\$value"
    done <"$conf_file"
}

# need KEY...: these must be set by the .conf.
need() {
    for k in "$@"; do
        eval "v=\${conf_$k:-}"
        [ -n "$v" ] || usage_error "$conf_file: '$k' is missing"
    done
}

# number KEY...: these are whole numbers from 1.
number() {
    for k; do
        eval "v=\$conf_$k"
        case $v in
        '' | *[!0-9]* | 0*) usage_error "$conf_file: '$v' of '$k' is not a number from 1" ;;
        esac
    done
}

# ranks N CMD...: runs CMD with N MPI ranks; one rank needs no launcher. $SSM_MPIEXEC replaces 'mpiexec'. In a batch job (slurm/job.sh)
# $SSM_LAUNCH is the launcher, of one rank too, $SSM_RANKS how many the job has, and $SSM_WRAP what enters a container.
# shellcheck disable=SC2086
ranks() {
    n=$1
    shift
    say "$*"
    if [ -n "${SSM_LAUNCH:-}" ]; then launch $SSM_LAUNCH -n "${SSM_RANKS:-$n}" ${SSM_WRAP:-} "$@"
    elif [ "$n" -gt 1 ]; then "${SSM_MPIEXEC:-mpiexec}" -n "$n" "$@"
    else "$@"
    fi
}

# one CMD...: CMD as one process, which needs no ranks
one() { (SSM_RANKS=1 ranks 1 "$@"); }

# launch CMD...: waits for CMD through signals. Its ranks get those of the batch system themselves; what reaches this shell alone is
# passed on as USR1 (save, and end), since launchers take TERM for an order to kill. In a session of its own, out of TERM's way.
launch() {
    launched=$(command -v setsid || :)
    ${launched:+setsid} "$@" &
    launched=$!
    trap 'kill -USR1 $launched 2>/dev/null || :' TERM USR1
    launch_code=0
    await $launched || launch_code=$?
    trap - TERM USR1
    return "$launch_code"
}

# await PID: until that child has ended, through signals that are trapped; with its exit code
await() {
    while :; do
        await_code=0
        wait "$1" || await_code=$?
        kill -0 "$1" 2>/dev/null || return "$await_code"
    done
}

# plain DIGITS: without zeros in front, with which a shell takes them for octal; nothing for 0
plain() { printf '%s\n' "${1#"${1%%[1-9]*}"}"; }

# run_state RUN: what the newest start of a run wrote last, "NUMBER WORD STEP" (ssmtrain(1), FILES); nothing when there was none.
run_state() {
    for state in "$1"/inc-*/state; do
        number=${state%/state}
        number=${number##*/inc-}
        [ ! -r "$state" ] || printf '%s %s\n' "$(plain "$number")" "$(cat "$state")"
    done | sort -n | tail -n 1
}

# train_run RUN RANKS OPTION...: ssmtrain, until the run is complete; ends the pipeline otherwise. What the tool itself wrote counts,
# not the launcher's exit code, which may be 0 when a host was lost.
train_run() {
    run=$1 n=$2
    shift 2
    if [ -e "$run.done" ]; then
        say "train: done already"
        return 0
    fi
    say train
    before=$(run_state "$run") code=0
    ranks "$n" "$bin/ssmtrain" -o "$run" "$@" || code=$?
    # shellcheck disable=SC2046
    set -- $(run_state "$run")
    [ "${1:-0}" != "${before%% *}" ] || set -- '' none # it never began
    case ${2:-none} in
    done) : >"$run.done" && return 0 ;;
    again) code=75 ;;
    stay) code=93 ;;
    *) [ $code -ne 0 ] || code=1 ;;
    esac
    [ $code -eq 75 ] || say "train: exit code $code"
    exit $code
}

# ---- the sets that documents become, train and valid; make_set TAKE OPTION... makes one. WHAT: what this is called ----

sets_there() { [ -e "$work/train/index.h5" ] && [ -e "$work/valid/index.h5" ]; }
# share_sets WHAT I/N: these parts of both
share_sets() {
    share "$2" "$conf_parts"
    for take in train valid; do
        if [ -e "$work/$take/index.h5" ]; then
            say "$1 ($take, $2): done already"
        else
            say "$1 ($take, $2)"
            make_set $take --part "$2"
        fi
    done
}
index_sets() { for take in train valid; do stage "$1 ($take, index)" "$work/$take/index.h5" one "$bin/tokshard" index "$work/$take"; done; }
make_sets() {
    if [ "$conf_parts" -gt 1 ]; then
        sets_there || each_share "$conf_parts" share_sets "$1"
        index_sets "$1"
    else
        for take in train valid; do stage "$1 ($take)" "$work/$take/index.h5" make_set $take; done
    fi
}
list_sets() {
    set -- "$1" "$work/train/index.h5" "$work/valid/index.h5"
    if [ "$conf_parts" -gt 1 ]; then
        row share "$conf_parts" "$conf_ranks" "$2" "$3"
        row index 1 1 "$2" "$3"
    else
        row "$1" 1 "$conf_ranks" "$2" "$3"
    fi
}

# merge_run: the newest checkpoint of $work/run as one file without its optimizer
merge_run() { stage merge "$work/model/index.h5" one "$bin/ckmerge" merge "$work/run" --drop-optimizer -o "$work/model"; }

# column NAME FILE: of the first row of a table; columns are found by their names, so that a tool may get more of them
column() { awk -F '\t' -v name="$1" 'NR == 1 { sub(/^# */, ""); for (i = 1; i <= NF; i++) if ($i == name) at = i } NR == 2 { print at ? $at : "nan" }' "$2"; }

# ---- tables of 'eval': the first, and one for each file of tasks ----

tables() { echo $(($# + 1)); }
# Where they go; names with blanks are not supported.
task_files() { for f in $conf_tasks; do f=${f##*/}; echo "$work/tasks/${f%.jsonl}.tsv"; done; }
# task_table I MODEL OPTION...: table I
task_table() {
    task_i=$(($1 - 1))
    # shellcheck disable=SC2086
    task_of $task_i $conf_tasks
    task_out=$work/tasks/${task_file##*/}
    task_out=${task_out%.jsonl}
    shift
    mkdir -p "$work/tasks"
    stage "eval (${task_file##*/})" "$task_out.tsv" write_table "$@"
}
task_of() { shift "$1"; task_file=$1; }
# shellcheck disable=SC2086
write_table() {
    model=$1
    shift
    ranks "$conf_ranks" "$bin/ssmeval" tasks -f "$@" $conf_task -o "$task_out" "$model" "$task_file" >"$task_out.tsv.tmp" &&
        mv "$task_out.tsv.tmp" "$task_out.tsv"
}

# ---- stages by name ----

# row NAME TASKS RANKS FILE...: a line of --list. TASKS > 1: the stage may run as so many at once, NAME:1/TASKS and so on. FILE...: what
# is there when it is done.
row() {
    list_row=$1'	'$2'	'$3
    shift 3
    list_done='done'
    for f; do [ -e "$f" ] || list_done=todo; done
    printf '%s\t%s\n' "$list_row" $list_done
}

# stages KNOWN ALL STAGE...: calls stage_NAME ARG for each NAME[:ARG], or without any for ALL; --list calls list, --work says where all goes,
# --inputs calls inputs, which says what is read, a line each, patterns as they stand. KNOWN are the names.
stages() {
    known=$1 all=$2
    shift 2
    case ${1:-} in
    --list) list; return ;;
    --work) echo "$work"; return ;;
    --inputs) (set -f && inputs); return ;;
    esac
    # shellcheck disable=SC2086
    [ $# -gt 0 ] || set -- $all
    for s; do
        case " $known " in
        *" ${s%%:*} "*) ;;
        *) usage_error "unknown stage '$s' ($all)" ;;
        esac
    done
    for s; do
        arg=''
        case $s in *:*) arg=${s#*:} ;; esac
        "stage_${s%%:*}" "$arg"
    done
}

# share I/N MOST: dies unless that is a share of something with at most MOST parts.
share() {
    case $1 in
    [1-9]*/[1-9]*) ;;
    *) usage_error "'$1' is not I/N" ;;
    esac
    case ${1%/*}${1#*/} in *[!0-9]*) usage_error "'$1' is not I/N" ;; esac
    if [ "${1%/*}" -gt "${1#*/}" ] || [ "${1#*/}" -ne "$2" ]; then usage_error "'$1' is not a share of $2"; fi
}

# each_share N CMD...: CMD I/N for I from 1 to N
each_share() {
    share_n=$1 share_i=1
    shift
    while [ $share_i -le "$share_n" ]; do
        "$@" $share_i/"$share_n"
        share_i=$((share_i + 1))
    done
}

# stage NAME DONE-FILE CMD...: runs CMD unless DONE-FILE is there, which CMD's success must leave behind. Ends the pipeline
# with CMD's code when it fails; 75 (saved, run me again) passes through.
stage() {
    name=$1
    done_file=$2
    shift 2
    if [ -e "$done_file" ]; then
        say "$name: done already"
        return 0
    fi
    say "$name"
    code=0
    "$@" || code=$?
    [ $code -eq 0 ] || { say "$name: exit code $code"; exit $code; }
    [ -e "$done_file" ] || fail "$name: ended well but left no '$done_file'"
}
