#!/bin/sh
# 1000-ops.t - every op on the GPU against the CPU (tests/device.c), and the messages of a device that cannot be had
# SPDX-License-Identifier: MIT
# shellcheck source=tests/tap.sh
. "${0%/*}/../tap.sh"
: "${SSM_TESTS:?}"
ok 'every op, every dtype' '"$SSM_TESTS/device" --backend cuda >out 2>&1 || { grep -v "^ok" out; false; }'
ok 'tensors of more than 2^31 elements' '"$SSM_TESTS/device" --backend cuda --huge >out 2>&1 || { grep -v "^ok" out; false; }'
ok 'no GPU to be seen' 'must_exit 1 env CUDA_VISIBLE_DEVICES= "$SSM_BIN/ssmtrain" -n --device cuda --model mamba2-130m 2>err; cat err; [ "$(wc -l <err)" -eq 1 ] && grep -q GPU err'
done_testing
