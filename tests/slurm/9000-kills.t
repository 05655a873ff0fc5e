#!/bin/sh
# 9000-kills.t - one training, of four ranks on Slurm, that loses ranks and nodes again and again, also while it saves and publishes
# SPDX-License-Identifier: MIT
#
# KILLS=20 times; 'make check-slurm-long'. Tells of each what was lost: steps, and seconds until the run was where it had been.
nodes=3 patience=3000
. "${0%/*}/slurm.sh"
kills=${KILLS:-20}
options='--batch 16 --seq-len 256 --warmup 4 --lr 5e-3 --save-every 20 --keep 3 --log-every 5'
long="--steps $((kills * 100))"
project kills 4 $long
sed -i 's/^max_retries.*/max_retries = 20/' kills.site
undisturbed 4 $long

# A number below $2 that depends on $1 alone.
random() { awk -v s="$1" -v n="$2" 'BEGIN { srand(s); rand(); print int(rand() * n) }'; }
newest() { cat kills/run/inc-*/metrics.jsonl 2>/dev/null | sed -n 's/.*"step":\([0-9]*\),.*}$/\1/p' | sort -n | tail -n 1; }
latest() { for metrics in kills/run/inc-*/metrics.jsonl; do :; done && echo "$metrics"; }
# A later start than that of this file has made the step again; the older one may just have made it.
regained() { [ "$(latest)" != "$2" ] && grep -qs "\"step\":$1," "$(latest)"; }
past() { has_step kills $(($1 + 1)); }
# Returns at once when there is such a file: a part that is being written, an index about to be published, or one just there.
moment() { # PATTERN; 20 seconds at most
    tries=0
    while set -- "$1" kills/run/inc-*/step-*/$1 && [ ! -e "$2" ] && [ $tries -lt 40000 ]; do
        tries=$((tries + 1))
        [ $((tries % 200)) -ne 0 ] || sleep 0.001
        set -- "$1"
    done
    [ -e "$2" ]
}
# What the K-th kill hits, and when.
kill_one() { # K
    place=n$(($(random "$1" 3) + 1)) which=$(($(random "$(($1 + 100))" 2) + 1))
    victim=$(rank $place $which)
    [ -n "$victim" ] || { place=n1 && victim=$(rank n1 $which); }
    [ -n "$victim" ] || { place=n2 && victim=$(rank n2 $which); }
    [ -n "$victim" ] || { echo "nobody to kill"; return 1; }
    case $(($1 % 5)) in
    1) kind='a node' when='at any moment' victim=$(cat "$LAB/run/node-$place.pid") ;;
    2) kind='a rank' when='during a save' ;;
    3) kind='a rank' when='at publishing' && [ -z "$(rank n1)" ] || { place=n1 && victim=$(rank n1); } ;;
    4) kind='a node' when='during a save' victim=$(cat "$LAB/run/node-$place.pid") ;;
    *) kind='a rank' when='at any moment' ;;
    esac
    case $when in
    'during a save') moment 'part-*.tmp.*' || when='no save came' ;;
    'at publishing') moment 'index.h5.tmp.*' || when='no index came' ;;
    esac
    last=$(latest)
    kill -KILL "$victim"
    hit=$(now)
    reached=$(newest)
    case $kind in
    *node) $lab kill-node $place && $lab down-node $place && $lab start-node $place ;;
    esac
    poll 120 regained "$reached" "$last" || return 1
    begin=$(sed -n '1s/.*"step":\([0-9]*\),.*/\1/p' "$(latest)")
    echo "# kill $1: $kind on $place, $when: at step $reached, $((reached - begin + 1)) steps lost, $(since "$hit") s until it was back" >&3
}
all_kills() {
    { set +x; } 2>/dev/null
    train kills || return 1
    k=0 upto=0
    while [ $k -lt "$kills" ]; do
        upto=$(($(newest || echo 0) + 15 + $(random "$k" 40)))
        poll 120 past "$upto" && [ "$(state JobState)" != COMPLETED ] && kill_one $k || { echo "kill $k"; return 1; }
        k=$((k + 1))
        { set +x; } 2>/dev/null
    done
    completed 300 && same kills ref-4 && [ "$(state Restarts)" -ge "$kills" ]
}
exec 3>&1
scenario "$kills kills of ranks and nodes: each time it goes on, and ends with the same bits" all_kills
done_testing
