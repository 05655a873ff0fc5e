#!/bin/sh
# train.sh - speed of the tools on this machine, beside the limit of the same run ('make perf')
# SPDX-License-Identifier: MIT
#
# First the ops one by one, then whole models: trains each a few steps on text made up here and prints tokens/s and model FLOP/s (forward and backward, as 'ssmtrain -n'
# counts them) beside the best sgemm rate that the op benchmark measures in the same minute. Environment: SSM_BIN,
# SSM_TESTS, MODELS, THREADS.
set -eu
: "${SSM_BIN:?}"
tests=${SSM_TESTS:-$SSM_BIN/../tests}
threads=${THREADS:-$(nproc)}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/perf.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
awk 'BEGIN { srand(1); for (i = 0; i < 40000; i++) { s = ""; for (k = 0; k < 12; k++) { for (j = 3 * rand(); j >= 0; j--) s = s sprintf("%c", 97 + int(26 * rand())); s = s " " } print s } }' >"$tmp/text"
"$SSM_BIN/tokshard" encode -q -o "$tmp/data" "$tmp/text" 2>/dev/null
OMP_NUM_THREADS=$threads "$tests/ops" --perf >"$tmp/ops"
cat "$tmp/ops"
peak=$(sed -n 's/^# variant.*sgemm \([0-9.]*\) .*/\1/p' "$tmp/ops")
printf '# model\tbatch\tseq_len\tthreads\ttokens/s\tGFLOP/s\tsgemm GFLOP/s\tshare\n'
for m in ${MODELS:-hybrid-demo:8:512 mamba2-130m:1:1024}; do
    name=${m%%:*} rest=${m#*:}
    batch=${rest%%:*} len=${rest#*:}
    rm -rf "$tmp/run"
    OMP_NUM_THREADS=$threads "$SSM_BIN/ssmtrain" -q --model "$name" --batch "$batch" --seq-len "$len" --steps 6 --warmup 2 -o "$tmp/run" "$tmp/data"
    # the median step, without the first
    sed 1d "$tmp/run/inc-0001/metrics.jsonl" | sed 's/.*"tokens_per_s":\([^,]*\),"flops_per_s":\([^,]*\),.*/\1 \2/' | sort -n |
        awk -v name="$name" -v b="$batch" -v t="$len" -v th="$threads" -v peak="$peak" '{ tok[NR] = $1; fl[NR] = $2 }
            END { k = int((NR + 1) / 2); printf "%s\t%d\t%d\t%d\t%.0f\t%.1f\t%s\t%.0f %%\n", name, b, t, th, tok[k], fl[k] / 1e9, peak, peak ? 100 * fl[k] / 1e9 / peak : 0 }'
done
