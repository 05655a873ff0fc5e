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
for tool in memcheck racecheck initcheck; do
    # shellcheck disable=SC2034
    for op in ${OPS:-norm gatednorm colsum embed conv1d ssd scan rglru rope attn act xent cast adamw sumsq}; do
        ok "$tool: $op" 'compute-sanitizer --tool '$tool' --error-exitcode 9 "$SSM_TESTS/device" --backend cuda --only '$op' >out 2>&1 || { tail -n 30 out; false; }'
    done
done
done_testing
