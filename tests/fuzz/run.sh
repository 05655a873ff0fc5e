#!/bin/sh
# run.sh - runs fuzz targets, each for so many seconds, beginning with its seeds ('make fuzz')
# SPDX-License-Identifier: MIT
#
# run.sh BIN-FOLDER SECONDS TARGET...: prints libFuzzer's last line of each (executions, edges covered,
# corpus). What it finds, and the corpus it has grown, stay in BIN-FOLDER/NAME.*; the next run goes on with
# that corpus. Exit code 1 if there was a crash, a leak, a time-out or too much memory.
set -eu
cd "$(dirname "$0")/../.."
bin=$1 seconds=$2 bad=0
shift 2
for name; do
    corpus=$bin/$name.corpus log=$bin/$name.log seeds=$bin/$name.seeds
    rm -rf "$seeds"
    mkdir -p "$corpus" "$seeds"
    # The target's file says which names below tests/golden are its seeds.
    n=0
    sed -n 's/^ \* Seeds: //p' "tests/fuzz/$name.c" | tr ' ' '\n' | while read -r pattern; do
        find tests/golden -type f -name "$pattern"
    done >"$bin/$name.list"
    while read -r f; do
        n=$((n + 1))
        cp "$f" "$seeds/$n"
    done <"$bin/$name.list"
    # HDF5 loses some memory of its own when a file is not what it should be; what it has open is counted by the target.
    printf 'leak:libhdf5\n' >"$bin/leaks"
    if LSAN_OPTIONS="suppressions=$bin/leaks:print_suppressions=0" "$bin/$name" -max_total_time="$seconds" -max_len=65536 -timeout=20 -rss_limit_mb=2048 \
        -malloc_limit_mb=1024 -artifact_prefix="$bin/$name.found-" "$corpus" "$seeds" >"$log" 2>&1; then
        echo "$name: $n seeds, $(grep -a 'DONE  ' "$log" | tail -n 1)"
    else
        bad=1
        echo "$name: FAILED, see $log"
        grep -aE 'ERROR|SUMMARY|broken|Test unit written' "$log" || true
    fi
done
exit $bad
