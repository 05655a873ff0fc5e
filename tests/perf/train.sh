#!/bin/sh
# train.sh - speed of the tools on this machine, beside the limit and the peer of the same run ('make perf')
# SPDX-License-Identifier: MIT
#
# First the ops one by one, then whole models: trains each a few steps on text made up here and prints tokens/s and model
# FLOP/s (forward and backward, as 'ssmtrain -n' counts them) beside the best sgemm rate that the op benchmark measures
# in the same minute, of oneDNN and of OpenBLAS where it is installed. Last the peer: the same steps by PyTorch and
# transformers, if PYTHON can import them. Environment: SSM_BIN, SSM_TESTS, MODELS (NAME:BATCH:TOKENS ...), THREADS, PYTHON.
set -eu
: "${SSM_BIN:?}"
here=$(cd "$(dirname "$0")" && pwd)
tests=${SSM_TESTS:-$SSM_BIN/../tests}
threads=${THREADS:-$(nproc)}
models=${MODELS:-hybrid-demo:8:512 mamba2-demo:8:512 mamba-demo:8:512 gpt-demo:8:512 griffin-demo:8:512 mamba-130m:1:1024 mamba2-130m:1:1024}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/perf.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
awk 'BEGIN { srand(1); for (i = 0; i < 40000; i++) { s = ""; for (k = 0; k < 12; k++) { for (j = 3 * rand(); j >= 0; j--) s = s sprintf("%c", 97 + int(26 * rand())); s = s " " } print s } }' >"$tmp/text"
"$SSM_BIN/tokshard" encode -q -o "$tmp/data" "$tmp/text" 2>/dev/null
# OpenBLAS goes by the name of the CPU and takes an old kernel where it does not know it: the flags know better.
if [ -z "${OPENBLAS_CORETYPE:-}" ]; then
    if grep -qw avx512f /proc/cpuinfo; then export OPENBLAS_CORETYPE=SKYLAKEX
    elif grep -qw avx2 /proc/cpuinfo; then export OPENBLAS_CORETYPE=HASWELL; fi
fi
export OPENBLAS_NUM_THREADS="$threads"
OMP_NUM_THREADS=$threads "$tests/ops" --perf >"$tmp/ops"
cat "$tmp/ops"
peak=$(sed -n 's/^# variant.*sgemm \([0-9.]*\) .*/\1/p' "$tmp/ops")
printf '# model\tbatch\tseq_len\tthreads\ttokens/s\tGFLOP/s\tsgemm GFLOP/s\tshare\n'
names=
for m in $models; do
    name=${m%%:*} rest=${m#*:}
    batch=${rest%%:*} len=${rest#*:}
    names="$names $name"
    rm -rf "$tmp/run"
    OMP_NUM_THREADS=$threads "$SSM_BIN/ssmtrain" -q --model "$name" --batch "$batch" --seq-len "$len" --steps 6 --warmup 2 -o "$tmp/run" "$tmp/data"
    # the median step, without the first
    sed 1d "$tmp/run/inc-0001/metrics.jsonl" | sed 's/.*"tokens_per_s":\([^,]*\),"flops_per_s":\([^,]*\),.*/\1 \2/' | sort -n |
        awk -v name="$name" -v b="$batch" -v t="$len" -v th="$threads" -v peak="$peak" '{ tok[NR] = $1; fl[NR] = $2 }
            END { k = int((NR + 1) / 2); printf "%s\t%d\t%d\t%d\t%.0f\t%.1f\t%s\t%.0f %%\n", name, b, t, th, tok[k], fl[k] / 1e9, peak, peak ? 100 * fl[k] / 1e9 / peak : 0 }'
done
python=${PYTHON:-python3}
if "$python" -c 'import torch, transformers' 2>/dev/null; then
    # shellcheck disable=SC2086
    OMP_NUM_THREADS=$threads "$python" "$here/../oracle/peer.py" $names
else
    echo "# no peer: '$python' has no torch and transformers (PYTHON=...)"
fi
