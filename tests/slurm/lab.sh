#!/bin/sh
# lab.sh - a Slurm cluster of several nodes on one machine, to break
# SPDX-License-Identifier: MIT
#
#   lab.sh install            Debian packages that are missing (as root; else says which)
#   lab.sh why                why there can be no lab here; nothing when there can
#   lab.sh with N CMD...      a cluster of N nodes for as long as CMD runs; exits as CMD does, 77 when there can be none
#   lab.sh up [N]             the same in $LAB, to play with ...
#   lab.sh run CMD...         ... in which CMD runs, sbatch say ...
#   lab.sh down               ... until this
#   lab.sh status             nodes and jobs
#   lab.sh env                what the commands of Slurm and MPI need, for eval; 'run' and 'with' set it
#   lab.sh pids nK [NAME]     processes of a node, those called NAME
#   lab.sh kill-node nK       its plug is pulled: daemon, jobs, all gone        start-node nK    it boots, or its daemon does
#   lab.sh kill-slurmd nK     the daemon dies, jobs live on                     freeze nK, thaw nK  everything stops, goes on
#   lab.sh down-node nK       tells Slurm, which would take half a minute to notice
#
# Nothing is left: all processes live in one pid namespace, which dies as a whole with its first process; network and
# mounts are its own as well, so that ports are fixed and several labs run side by side. Each node is a pid, mount, IPC
# and host name namespace inside: its ranks share no memory with other nodes', and talk TCP. Needs root.
#
# Of Slurm: partitions 'main' (preempted by requeue, 10 s of grace) and 'urgent'; 4 CPUs a node, whatever there are; pmi2; no
# accounting. $LAB/small is a file system of 4 MiB that all nodes see, to fill up; $LAB/local one of each node alone.
set -u
: "${LAB:=/tmp/ssm-lab}"
export LAB
here=$(cd "$(dirname "$0")" && pwd)
self=$here/lab.sh
PATH=$PATH:/usr/sbin:/sbin
packages='slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge mpich iproute2 util-linux'

say() { echo "lab: $*" >&2; }
die() { say "$*"; exit 1; }

first_child() { tr -d ' ' <"/proc/$1/task/$1/children"; } # of an unshare, which has one

missing() {
    for p in $packages; do
        case $(dpkg-query -W -f '${Status}' "$p" 2>/dev/null) in *' installed') ;; *) printf '%s ' "$p" ;; esac
    done
}

# Why there can be no lab here; nothing when there can.
obstacle() {
    if ! command -v dpkg-query >/dev/null; then
        echo 'not a Debian system'
    elif [ -n "$(missing)" ]; then
        echo "packages are missing: $(missing)"
    elif [ "$(id -u)" -ne 0 ]; then
        echo 'namespaces need root'
    elif ! unshare -u -i -m -n -p -f --mount-proc true 2>/dev/null; then
        echo 'no namespaces can be made here'
    fi
}

# The packages' own daemons are kept from starting by a policy-rc.d of ours, unless there is one.
install_packages() {
    lacks=$(missing)
    [ -n "$lacks" ] || return 0
    [ "$(id -u)" -eq 0 ] || die "packages are missing; as root: apt-get install -y --no-install-recommends $lacks"
    say "installing $lacks"
    policy=/usr/sbin/policy-rc.d ours=
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy && ours=1; }
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086
    apt-get install -qy --no-install-recommends $lacks >/dev/null 2>&1 ||
        { apt-get update -q >/dev/null && apt-get install -qy --no-install-recommends $lacks >/dev/null; }
    code=$?
    [ -z "$ours" ] || rm $policy
    return $code
}

configure() { # nodes
    mkdir -p "$LAB/etc" "$LAB/run" "$LAB/log" "$LAB/state" "$LAB/local" "$LAB/small" || die "cannot write '$LAB'"
    [ ${#LAB} -lt 80 ] || die "'$LAB' is too long for the name of a socket"
    chmod 755 "$LAB" "$LAB"/*
    (umask 077 && head -c 128 /dev/urandom >"$LAB/etc/munge.key")
    { echo '127.0.0.1 localhost lab'; i=1; while [ $i -le "$1" ]; do echo "127.0.0.1 n$i"; i=$((i + 1)); done; } >"$LAB/etc/hosts"
    echo 'CgroupAutomount=no' >"$LAB/etc/cgroup.conf"
    # cred_expire: a requeued job waits for a second more than that (by itself two minutes; below 5 it is not taken)
    # config_overrides: more CPUs than there are; KillOnBadExit, WaitTime: else srun waits for ever for a rank that died
    cat >"$LAB/etc/slurm.conf" <<CONF
ClusterName=lab
SlurmctldHost=lab(127.0.0.1)
SlurmctldPort=6817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$LAB/run/munge.sock,cred_expire=5
StateSaveLocation=$LAB/state
SlurmdSpoolDir=$LAB/spool/%n
SlurmctldPidFile=$LAB/run/slurmctld.pid
SlurmdPidFile=$LAB/run/slurmd-%n.pid
SlurmctldLogFile=$LAB/log/slurmctld.log
SlurmdLogFile=$LAB/log/slurmd-%n.log
SrunPortRange=10000-20000
SlurmdParameters=config_overrides
ReturnToService=2
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$LAB/log/jobcomp.txt
SwitchType=switch/none
MpiDefault=pmi2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=100000
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
MinJobAge=3600
InactiveLimit=30
KillOnBadExit=1
WaitTime=30
MessageTimeout=10
SlurmdTimeout=10
BatchStartTimeout=10
NodeName=n[1-$1] NodeAddr=127.0.0.1 Port=[6821-$((6820 + $1))] CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=n[1-$1] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=10
PartitionName=urgent Nodes=n[1-$1] MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
}

environment() {
    export SLURM_CONF="$LAB/etc/slurm.conf" UCX_NET_DEVICES=lo
}

# ---- inside the namespaces ----

# First process of a node: starts its daemon when told so, and reaps what is left over (a shell that waits does).
node_init() { # nK
    hostname "$1"
    mount -t tmpfs -o size=1g tmpfs /dev/shm && mount -t tmpfs -o size=64m tmpfs "$LAB/local" || exit 1
    mkdir -p "$LAB/spool/$1"
    while :; do
        if [ -e "$LAB/run/start-$1" ]; then
            rm "$LAB/run/start-$1"
            nice slurmd -D -N "$1" >/dev/null 2>&1 & # and its jobs, which leave no core to the test otherwise
        fi
        sleep 0.3
    done
}

# The pid of a node's unshare, which takes the node with it; fails when the node is off.
node_pid() {
    pid=$(cat "$LAB/run/node-$1.pid" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = unshare ] && echo "$pid"
}

node_pids() { # nK [NAME]
    pid=$(node_pid "$1") || return 1
    ns=$(readlink "/proc/$(first_child "$pid")/ns/pid") || return 1
    find /proc/[0-9]*/ns/pid -prune -printf '%p %l\n' 2>/dev/null | while IFS=' /' read -r _ _ p _ _ link; do
        [ "$link" = "$ns" ] || continue
        [ -z "${2:-}" ] || [ "$(cat "/proc/$p/comm" 2>/dev/null)" = "$2" ] || continue
        grep -q '^State:[[:space:]]*[ZX]' "/proc/$p/status" 2>/dev/null || echo "$p"
    done
}

node_signal() { # SIGNAL nK [NAME]
    sig=$1
    shift
    set -- "$(node_pids "$@")"
    [ -n "$1" ] || return 1
    # shellcheck disable=SC2086
    kill -"$sig" $1 2>/dev/null || : # some may have ended just now
}

start_node() {
    [ -z "$(node_pids "$1" slurmd)" ] || return 0
    : >"$LAB/run/start-$1"
    if ! node_pid "$1" >/dev/null; then
        setsid unshare -u -i -m -p -f --kill-child --mount-proc sh "$self" _node "$1" </dev/null >"$LAB/log/node-$1.log" 2>&1 &
        echo $! >"$LAB/run/node-$1.pid"
    fi
}

kill_node() {
    pid=$(node_pid "$1") || return 0
    rm -f "$LAB/run/node-$1.pid" "$LAB/run/start-$1"
    kill -KILL "$pid"
    # Gone is gone: nobody is to see a rank write after this.
    tries=0
    while [ -e "/proc/$pid" ] && [ $tries -lt 50 ]; do sleep 0.05; tries=$((tries + 1)); done
}

# First process of the lab.
inside() { # nodes
    hostname lab
    # getaddrinfo() as Slurm calls it answers nothing on a machine that has a loopback address only.
    ip link set lo up && ip address add 10.0.0.1/32 dev lo || exit 1
    mount --bind "$LAB/etc/hosts" /etc/hosts && mount -t tmpfs -o size=4m tmpfs "$LAB/small" || exit 1
    munged --key-file="$LAB/etc/munge.key" --socket="$LAB/run/munge.sock" --pid-file="$LAB/run/munged.pid" \
        --log-file="$LAB/log/munged.log" --seed-file="$LAB/state/munge.seed" --num-threads=2 --force 2>/dev/null || exit 1
    slurmctld || exit 1
    i=1
    while [ $i -le "$1" ]; do start_node n$i; i=$((i + 1)); done
    tries=0
    until [ "$(sinfo -h -N -p main -t idle -o %N 2>/dev/null | sort -u | wc -l)" -eq "$1" ]; do
        tries=$((tries + 1))
        [ $tries -lt 150 ] || { sinfo; tail -n 3 "$LAB"/log/slurm*; exit 1; }
        sleep 0.2
    done
    : >"$LAB/run/up"
    while :; do sleep 1; done
}

# ---- outside ----

lab_init() { # pid of the lab's first process, as seen from outside
    pid=$(cat "$LAB/run/lab.pid" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = unshare ] || return 1
    first_child "$pid"
}

up() { # nodes; $tie: what a lab is started by that ends with us
    why=$(obstacle)
    [ -z "$why" ] || { say "$why"; return 77; }
    ! lab_init >/dev/null || die "'$LAB' is up"
    configure "$1"
    environment
    # shellcheck disable=SC2086
    setsid ${tie:-} unshare -u -m -n -p -f --kill-child --mount-proc sh "$self" _inside "$1" </dev/null >"$LAB/log/lab.log" 2>&1 &
    echo $! >"$LAB/run/lab.pid"
    until [ -e "$LAB/run/up" ]; do
        sleep 0.1
        [ "$(cat "/proc/$(cat "$LAB/run/lab.pid")/comm" 2>/dev/null)" = unshare ] || { cat "$LAB/log/lab.log" >&2; down; die 'the cluster does not start'; }
    done
}

# With the first process everything dies.
down() {
    pid=$(cat "$LAB/run/lab.pid" 2>/dev/null) || return 0
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != unshare ] || kill -KILL "$pid"
    tries=0
    while [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = unshare ] && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
    [ -n "${KEEP:-}" ] || rm -rf "$LAB"
}

run_inside() {
    environment
    [ -z "${LAB_INSIDE:-}" ] || exec "$@"
    init=$(lab_init) || die "no lab is up in '$LAB'"
    LAB_INSIDE=1 exec nsenter -t "$init" -u -m -n -p -- "$@"
}

# All that CMD leaves in $TMPDIR goes with the lab, however it ends.
with() { # nodes CMD...
    nodes=$1
    shift
    LAB=$(mktemp -d "${TMPDIR:-/tmp}/ssm-lab.XXXXXX") || exit 1
    [ -z "${KEEP:-}" ] || say "in $LAB"
    trap 'down; [ -n "${KEEP:-}" ] || rm -rf "$LAB"' EXIT
    trap 'exit 130' INT TERM HUP
    tie='setpriv --pdeathsig KILL' up "$nodes" || exit $?
    mkdir "$LAB/tmp"
    TMPDIR=$LAB/tmp sh "$self" run "$@" &
    wait $!
    exit $?
}

case ${1:-} in
kill-node | kill-slurmd | freeze | thaw | start-node | down-node | pids | status)
    [ -n "${LAB_INSIDE:-}" ] || run_inside sh "$self" "$@"
    environment
    ;;
esac
case ${1:-} in
install) install_packages ;;
why) obstacle ;;
with) shift && with "$@" ;;
up) up "${2:-3}" ;;
run) shift && run_inside "$@" ;;
down) down ;;
env) environment && for v in LAB SLURM_CONF UCX_NET_DEVICES; do eval "echo \"export $v='\$$v'\""; done ;;
status) sinfo -N -l && squeue ;;
pids) node_pids "$2" "${3:-}" ;;
kill-node) kill_node "$2" ;;
start-node) start_node "$2" ;;
down-node) scontrol update nodename="$2" state=down reason=test ;;
kill-slurmd) node_signal KILL "$2" slurmd ;;
freeze) node_signal STOP "$2" ;;
thaw) node_signal CONT "$2" ;;
_node) node_init "$2" ;;
_inside) inside "$2" ;;
*)
    sed -n '5,/^set -u/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
esac
