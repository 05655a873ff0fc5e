#!/bin/sh
# 4000-sanitizer.t - compute-sanitizer over the ops on small shapes
# SPDX-License-Identifier: MIT
# shellcheck source=tests/tap.sh
. "${0%/*}/../tap.sh"
: "${SSM_TESTS:?}"
if ! command -v compute-sanitizer >/dev/null; then
    skip 'compute-sanitizer' 'it is not installed'
    done_testing
fi
# Beside one another. Without cuDNN, whose kernels read rooms that they have not filled; of what is slow under a tool, some trials.
begin() { # TOOL OPTION...
    tool=$1
    shift
    SSM_CUDNN=0 compute-sanitizer --tool "$tool" --error-exitcode 9 --report-api-errors no "$SSM_TESTS/device" --backend cuda "$@" >"$tool.out" 2>&1 &
    eval "$tool=$!"
}
begin memcheck
begin racecheck --every 3
begin initcheck
for tool in memcheck racecheck initcheck; do
    eval "pid=\$$tool"
    # shellcheck disable=SC2154 # set by eval
    wait "$pid"
    # shellcheck disable=SC2034
    code=$?
    ok "$tool" '[ $code -eq 0 ] || { sed "s/+0x[0-9a-f]* in/ in/; s/\[[0-9]* hazards\]//" '$tool'.out | sort | uniq -c | sort -rn | cut -c1-300 | head -n 40; false; }'
done
done_testing
