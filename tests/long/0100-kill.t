#!/bin/sh
# 0100-kill.t - kill -9 at 50 random moments of each tool: nothing half-made under a final name, and it goes on
# SPDX-License-Identifier: MIT
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"
mpi="timeout 120 ${MPIEXEC:-mpiexec}"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS
kills=${KILLS:-50}
# A pause in [0, $2) seconds that depends on the number $1 alone.
pause() { sleep "$(awk -v s="$1" -v m="$2" 'BEGIN { srand(s); rand(); printf "%.3f", rand() * m }')"; }

awk 'BEGIN { srand(5); for (i = 0; i < 60000; i++) { s = ""; for (k = 0; k < 60; k++) s = s sprintf("%c", 97 + int(26 * rand() * rand())); print s; if (i % 9 == 8) print "" } }' >text.txt
tiny_model 'M-*' >tiny.conf
"$SSM_BIN/tokshard" encode -q --split para -o whole text.txt 2>/dev/null
"$SSM_BIN/tokshard" cat whole >whole.txt

# Kills all processes of the job that $1 started, by its process group.
kill_job() { kill -9 -- "-$1" 2>/dev/null; wait "$1" 2>/dev/null; }
# start CMD...: runs in a process group of its own; sets $job
start() { setsid "$@" >/dev/null 2>&1 & job=$!; }

tokshard_kills() {
    i=0
    while [ $i -lt "$kills" ]; do
        start $mpi -n 2 "$SSM_BIN/tokshard" encode -q --split para --level 9 -o out text.txt
        pause $i 1.0
        kill_job "$job"
        if [ -e out/index.h5 ]; then
            "$SSM_BIN/tokshard" check out || { echo "kill $i: a set that is not whole"; return 1; }
            rm -r out
        fi
        i=$((i + 1))
    done
    $mpi -n 2 "$SSM_BIN/tokshard" encode -q --split para --level 9 -o out text.txt && "$SSM_BIN/tokshard" cat out | cmp - whole.txt
}
# file_kills NAME MOST CHECK COMMAND...: kills COMMAND, which makes NAME (a set, or an .idx), within MOST seconds of its
# start; what is there then must pass CHECK, and the same command goes on to a whole one.
file_kills() {
    name=$1 most=$2 check=$3 i=0
    shift 3
    while [ $i -lt "$kills" ]; do
        start "$@"
        pause $i "$most"
        kill_job "$job"
        if [ -e "$name" ]; then
            $check || { echo "kill $i: not whole: $*"; return 1; }
            rm -r "${name%/index.h5}"
        fi
        i=$((i + 1))
    done
    "$@" 2>/dev/null && $check
}
same_text() { "$SSM_BIN/tokshard" check -q "$1" && "$SSM_BIN/tokshard" cat "$1" | cmp - "$2"; }
is_threaded() { same_text threaded whole.txt; }
thread_kills() {
    file_kills threaded/index.h5 0.7 is_threaded "$SSM_BIN/tokshard" encode -q --split para --threads 3 --shards 7 --level 9 -o threaded text.txt
}
is_joined() { same_text joined whole.txt; }
is_merged() { same_text merged twice.txt; }
is_imported() { same_text imported whole.txt; }
is_exported() { cmp ids.bin killed.bin && cmp ids.idx killed.idx; }
other_kills() {
    cat whole.txt whole.txt >twice.txt
    for part in 1 2 3; do
        "$SSM_BIN/tokshard" encode -q --split para --part $part/3 -o joined text.txt 2>/dev/null || return 1
    done
    file_index() { # the parts stay
        i=0
        while [ $i -lt "$kills" ]; do
            start "$SSM_BIN/tokshard" index -q joined
            pause $i 0.05
            kill_job "$job"
            [ ! -e joined/index.h5 ] || { is_joined && rm joined/index.h5; } || { echo "kill $i of index"; return 1; }
            i=$((i + 1))
        done
        "$SSM_BIN/tokshard" index -q joined && is_joined
    }
    file_index && file_kills merged/index.h5 0.15 is_merged "$SSM_BIN/tokshard" merge -q -o merged whole joined &&
        "$SSM_BIN/tokshard" export -q -o ids whole &&
        file_kills imported/index.h5 0.5 is_imported "$SSM_BIN/tokshard" import -q --part-tokens 500k --level 5 -o imported ids &&
        file_kills killed.idx 0.15 is_exported "$SSM_BIN/tokshard" export -q -f -o killed whole
}
train="--model ./tiny.conf --batch 4 --seq-len 64 --steps 400 --warmup 4 --lr 3e-3 --save-every 3 --keep 2"
ssmtrain_kills() {
    i=0
    while [ $i -lt "$kills" ]; do
        start $mpi -n 2 "$SSM_BIN/ssmtrain" -q $train -o run whole
        pause $i 2.0
        kill_job "$job"
        for index in run/inc-*/step-*/index.h5; do
            [ -e "$index" ] || continue
            "$SSM_BIN/ckmerge" verify -q "${index%/index.h5}" || { echo "kill $i: a checkpoint that is not whole"; return 1; }
        done
        i=$((i + 1))
    done
    $mpi -n 2 "$SSM_BIN/ssmtrain" -q $train -o run whole && $mpi -n 2 "$SSM_BIN/ssmtrain" -q $train -o through whole &&
        "$SSM_BIN/ckmerge" compare run through
}
# Told to stop at random moments, by any of the signals, to one rank or the launcher: it saves, and goes on bit by bit.
ssmtrain_stops() {
    i=0
    while [ $i -lt "$kills" ]; do
        $mpi -n 2 "$SSM_BIN/ssmtrain" -q $train -o stops whole >/dev/null 2>stops.err &
        job=$!
        pause $i 1.0
        lock=$(find stops -name lock 2>/dev/null | sort | tail -n 1)
        case $((i % 3)) in 0) sig=TERM ;; 1) sig=USR1 ;; 2) sig=INT ;; esac
        [ -z "$lock" ] || { read -r _ rank _ <"$lock" && kill -$sig "$rank" 2>/dev/null; }
        wait "$job"
        code=$?
        case $code in 0 | 75) ;; *) echo "stop $i by $sig: exit code $code"; cat stops.err; return 1 ;; esac
        i=$((i + 1))
    done
    $mpi -n 2 "$SSM_BIN/ssmtrain" -q $train -o stops whole && "$SSM_BIN/ckmerge" compare stops through
}
one_rank_kills() {
    i=0
    while [ $i -lt 5 ]; do
        $mpi -n 2 "$SSM_BIN/ssmtrain" -q $train -o ranks whole >/dev/null 2>&1 &
        job=$!
        pause $i 2.0
        lock=$(find ranks -name lock 2>/dev/null | sort | tail -n 1)
        [ -n "$lock" ] && read -r _ rank _ <"$lock" && kill -9 "$rank" 2>/dev/null
        wait "$job" # all ranks end, and soon: $mpi has a time limit
        [ $? -ne 124 ] || { echo "kill $i: the other rank lives on"; return 1; }
        i=$((i + 1))
    done
    $mpi -n 2 "$SSM_BIN/ssmtrain" -q $train -o ranks whole && "$SSM_BIN/ckmerge" compare ranks through
}
ckmerge_kills() {
    "${SSM_TESTS:-$SSM_BIN/../tests}/mkckpt" big 3 7 model/a=3000x2000 model/b=1000x1000 model/c=17 >/dev/null || return 1
    i=0
    while [ $i -lt "$kills" ]; do
        case $((i % 2)) in
        0) start "$SSM_BIN/ckmerge" split -q big --parts 5 -o cut ;;
        1) start "$SSM_BIN/ckmerge" merge -q big -o cut ;;
        esac
        pause $i 0.25
        kill_job "$job"
        if [ -e cut/index.h5 ]; then
            "$SSM_BIN/ckmerge" compare -q big cut || { echo "kill $i: a copy that differs"; return 1; }
            rm -r cut
        fi
        i=$((i + 1))
    done
    rm -rf cut
    "$SSM_BIN/ckmerge" split -q big --parts 5 -o cut && "$SSM_BIN/ckmerge" compare -q big cut
}
ssmeval_kills() {
    "$SSM_BIN/ckmerge" merge -q through -o model || return 1
    find model whole -type f | sort | xargs cksum >before
    i=0
    while [ $i -lt "$kills" ]; do
        start $mpi -n 2 "$SSM_BIN/ssmeval" ppl -q --seq-len 64 model whole
        pause $i 1.5
        kill_job "$job"
        i=$((i + 1))
    done
    find model whole -type f | sort | xargs cksum | cmp - before && "$SSM_BIN/ssmeval" ppl -q --limit 5000 model whole
}
ok "tokshard, $kills kills" tokshard_kills
ok "tokshard encode with threads, $kills kills" thread_kills
ok "tokshard index, merge, import, export, $kills kills each" other_kills
ok "ssmtrain, $kills kills: the run ends with the bits of one that was left alone" ssmtrain_kills
ok "ssmtrain, told to stop $kills times" ssmtrain_stops
ok 'ssmtrain, one rank killed: the job ends, and goes on' one_rank_kills
ok "ckmerge, $kills kills" ckmerge_kills
ok "ssmeval, $kills kills: it changes nothing" ssmeval_kills
ok 'no temporaries are left beside what is whole' '
    left=$(find out threaded joined merged imported killed.* run through ranks cut -name "*.tmp.*" 2>/dev/null); [ -z "$left" ] || { echo "$left"; false; }'
done_testing
