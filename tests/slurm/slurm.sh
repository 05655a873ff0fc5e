# shellcheck shell=sh
# slurm.sh - what the tests of jobs share; source it first: nodes=3; . "${0%/*}/slurm.sh"
# SPDX-License-Identifier: MIT
#
# Runs the test anew inside a cluster of its own (lab.sh), or skips it where there can be none.
#
#   scenario 'title' 'commands'      ok() that shows what it did when it fails, and how long it took; ONLY=word runs those with it in their titles
#   project NAME RANKS [OPTION...]   a training of RANKS ranks, two a node: NAME.conf, NAME.site, work folder NAME with shards
#   train NAME [SBATCH OPTION...]    submits it by the scripts of slurm/; sets $job
#   undisturbed RANKS [OPTION...]    the same training as `project` without Slurm, in ref-RANKS
#   at_step NAME STEP                when it has come to this step
#   starts NAME N                    when its N-th start has made a step
#   ended [SECONDS]                  when $job is over; fails after that long [90]
#   completed                        and it was with success
#   hold_at NAME STEP nK [I]         when it has come to this step, rank nK I is held: it, and so its training, stands still,
#                                    however fast the machine is; the signals that it gets wait. Sets $held, its pid
#   let_go PID                       it goes on
#   told PID SIGNAL                  one of these does (TERM, USR1), or the rank has gone
#   seamless NAME N, resumed NAME N  its N-th start saved when told to, the next lost no step; the next began at a checkpoint
#   each_seamless NAME STEPS         all of its starts but the last did
#   rank nK [I]                      pid of the I-th [1] rank on this node
#   same NAME REF, like NAME REF     the tensors are the same to the bit; the losses of all steps are, to rounding

if [ -z "${LAB_INSIDE:-}" ]; then
    case ${SSM_BIN:?set SSM_BIN to the folder of the tools} in /*) ;; *) SSM_BIN=$PWD/$SSM_BIN && export SSM_BIN ;; esac
    lab=$(cd "${0%/*}" && pwd)/lab.sh
    why=$(sh "$lab" why)
    if [ -n "$why" ]; then
        echo "1..0 # SKIP $why"
        echo "skipped: ${0##*/}: $why" >&2 # prove shows this, and not the line above
        exit 0
    fi
    exec timeout "${patience:-500}" sh "$lab" with "${nodes:-3}" sh "${lab%/*}/${0##*/}"
fi
lab="sh ${0%/*}/lab.sh"
top=$(cd "${0%/*}/../.." && pwd)
# shellcheck source=tests/tiny.sh
. "$top/tests/tiny.sh"
# shellcheck source=tests/tap.sh
. "$top/tests/tap.sh"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS

tiny_text 3000 >text.txt
tiny_model 'M*-' >tiny.conf
# Steps of a hundredth of a second: time to find a rank before it is over.
options='--batch 16 --seq-len 256 --warmup 4 --lr 5e-3 --save-every 50 --keep 50 --log-every 1'

scenario() {
    case $1 in *"${ONLY:-}"*) ;; *) return 0 ;; esac
    begun=$(now)
    ok "$1" "trap show_logs EXIT; set -x; $2"
    echo "# $(since "$begun") s"
}

show_logs() { # when a scenario ends
    [ $? -ne 0 ] || return 0
    for log in "${name:-}"/slurm/*.out; do [ ! -s "$log" ] || tail -v -n 40 "$log"; done
}

project() {
    name=$1 ranks=$2
    shift 2
    cat >"$name.conf" <<CONF
work = $PWD/$name
input = $PWD/text.txt
encode = --split para
valid = 0.05
model = $PWD/tiny.conf
ranks = $ranks
train = $options $*
eval = --seq-len 64
CONF
    cat >"$name.site" <<CONF
partition = main
ranks_per_node = 2
cpus_per_rank = 1
time = 10
signal = 30
max_retries = 3
CONF
    [ -d shards ] || "$top/pipelines/pretrain.sh" "$name.conf" data >data.log 2>&1 || { cat data.log; return 1; }
    if [ -d shards ]; then mkdir -p "$name" && cp -r shards/* "$name"; else mkdir shards && cp -r "$name/train" "$name/valid" shards; fi
}

train() {
    name=$1
    shift
    "$top/slurm/submit.sh" pretrain "$name.conf" --site "$name.site" --dry-run >plan.log 2>&1 || { cat plan.log; return 1; }
    job=$(sbatch --parsable "$@" "$name/slurm/train.sbatch")
}

undisturbed() {
    ranks=$1
    shift
    # shellcheck disable=SC2086
    timeout 120 mpiexec -n "$ranks" "$SSM_BIN/ssmtrain" -q --model ./tiny.conf $options "$@" -o "ref-$ranks" shards/train
}

now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f\n", b - a }'; }

# poll SECONDS CONDITION...
poll() {
    { set +x; } 2>/dev/null
    polls=$(($1 * 5)) came=0
    shift
    until "$@" 2>/dev/null; do
        polls=$((polls - 1))
        [ $polls -gt 0 ] || { echo "not within the time: $*"; squeue; came=1; break; }
        sleep 0.2
    done
    set -x
    return $came
}
has_step() { grep -qs "\"step\":$2," "$1"/run/inc-*/metrics.jsonl; }
at_step() { poll 60 has_step "$1" "$2"; }
has_start() { [ -s "$(printf '%s/run/inc-%04d/metrics.jsonl' "$1" "$2")" ]; }
starts() { poll 60 has_start "$1" "$2"; }
state() { scontrol show job -o "$job" | sed -n "s/.*$1=\([^ ]*\).*/\1/p"; }
# Not PREEMPTED, NODE_FAIL and the like, which a job that is requeued may pass through, nor SIGNALING.
is_over() { case $(state JobState) in COMPLETED | FAILED | CANCELLED | TIMEOUT | DEADLINE | OUT_OF_MEMORY | BOOT_FAIL) ;; *) return 1 ;; esac; }
ended() { poll "${1:-90}" is_over; }
completed() {
    ended "$@" || return 1
    [ "$(state JobState)" = COMPLETED ] || { state JobState; return 1; }
}
restarted() { [ "$(state Restarts)" -eq "$1" ] || { echo "started again $(state Restarts) times, not $1"; return 1; }; }
rank() { $lab pids "$1" ssmtrain | sed -n "${2:-1}p"; }
# Looks at nothing but the file once it has the pid: a step may be a millisecond.
hold_at() {
    starts "$1" 1 && held=$(rank "$3" "${4:-1}") && [ -n "$held" ] || return 1
    { set +x; } 2>/dev/null
    waits=3000
    until has_step "$1" "$2"; do
        waits=$((waits - 1))
        [ $waits -gt 0 ] || { set -x; echo "not within a minute: step $2"; return 1; }
        sleep 0.02
    done
    set -x
    kill -STOP "$held"
}
let_go() { kill -CONT "$1" 2>/dev/null || :; }
told() {
    case $2 in TERM) bit=0x4000 ;; USR1) bit=0x200 ;; esac
    waiting=$(sed -n 's/^ShdPnd:[[:space:]]*//p' "/proc/$1/status" 2>/dev/null)
    [ -z "$waiting" ] || [ $((0x$waiting & bit)) -ne 0 ]
}
losses() { cat "$1"/inc-*/metrics.jsonl | sed 's/.*"step":\([0-9]*\),.*"loss":\([^,]*\),.*/\1 \2/' | sort -n -u; }
same() { "$SSM_BIN/ckmerge" compare -q "$1/run" "$2" && losses "$1/run" >a.loss && losses "$2" | cmp - a.loss; }
like() { losses "$1/run" >a.loss && losses "$2" >b.loss && join a.loss b.loss | awk -v n="$(wc -l <b.loss)" '
    { d = $2 - $3; if (d < 0) d = -d; if (d > 2e-5) bad = 1; k++ } END { exit bad || k < n }'; }
no_ranks() { for n in n1 n2 n3; do [ -z "$($lab pids $n ssmtrain)" ] || return 1; done; }
is_pending() { [ "$(state JobState)" = PENDING ]; }
# What its N-th start wrote last: "WORD STEP"; and its first, and its last step.
word() { cat "$1/run/inc-000$2/state"; }
first_step() { sed -n '1s/.*"step":\([0-9]*\),.*/\1/p' "$1/run/inc-000$2/metrics.jsonl"; }
last_step() { sed -n '$s/.*"step":\([0-9]*\),.*/\1/p' "$1/run/inc-000$2/metrics.jsonl"; }
# The N-th start saved when it was told to stop, and the next lost not one step.
seamless() {
    s=$(last_step "$1" "$2")
    [ "$(word "$1" "$2")" = "again $s" ] && [ "$(first_step "$1" $(($2 + 1)))" -eq $((s + 1)) ]
}
# All starts, two or more, but the last did, and no step of so many was lost or made twice.
each_seamless() {
    n=$(cat "$1"/run/inc-*/state | grep -c "^again ") && [ "$(cat "$1"/run/inc-*/state | wc -l)" -eq $((n + 1)) ] && [ "$(cat "$1"/run/inc-*/metrics.jsonl | wc -l)" -eq "$2" ]
}
# The N-th start was hit, and the next went on from a checkpoint.
resumed() { [ "$(word "$1" "$2")" != "done" ] && [ "$(first_step "$1" $(($2 + 1)))" -gt 1 ]; }
