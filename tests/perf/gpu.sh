#!/bin/sh
# gpu.sh - speed on a GPU, a line a figure in the form of tests/perf/h200.tsv
# SPDX-License-Identifier: MIT
#
# usage: gpu.sh [ops|train|tuned|ranks]...      (all of them)
#   ops     tests/device --perf: each op beside the copy bandwidth and the matrix rate of the same run
#   train   whole steps, bf16, no recompute: the median of the steps behind the tenth
#   tuned   the same by measured algorithms of matrix products (ssmtrain --tune-gemm)
#   ranks   the same on two GPUs, data parallel, beside one: batch of each GPU the same
# Text is made up here; what a token is does not change the time. Environment: SSM_BIN, SSM_TESTS, MODELS (NAME:BATCH:TOKENS ...),
# MPIEXEC, COMMIT, STEPS.
set -eu
: "${SSM_BIN:?}"
tests=${SSM_TESTS:-$SSM_BIN/../tests}
steps=${STEPS:-30}
mpiexec=${MPIEXEC:-mpiexec}
models=${MODELS:-mamba2-130m:16:2048 mamba2-1.3b:4:4096 mamba2-2.7b:2:4096}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/perf.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
gpu=$(nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem --format=csv,noheader 2>/dev/null | head -n 1 | sed 's/, /; /g')
day=$(date -u +%Y-%m-%d)
commit=${COMMIT:-$("$SSM_BIN/ssmtrain" --version | head -n 1 | sed 's/.*-g//')}
# line COMMAND WORK FIGURE UNIT
line() { printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$day" "${gpu:-no GPU}" "$commit" "$1" "$2" "$3" "$4"; }

awk 'BEGIN { srand(1); for (i = 0; i < 220000; i++) { s = ""; for (k = 0; k < 12; k++) { for (j = 3 * rand(); j >= 0; j--) s = s sprintf("%c", 97 + int(26 * rand())); s = s " " } print s } }' >"$tmp/text"
"$SSM_BIN/tokshard" encode -q -o "$tmp/data" "$tmp/text" 2>/dev/null

# median NAME: the middle of a metric over the steps behind the tenth
median() {
    sed 1,10d "$tmp/run/inc-0001/metrics.jsonl" | sed 's/.*"'"$1"'":\([^,}]*\).*/\1/' | sort -g | awk '{ x[NR] = $1 } END { print x[int((NR + 1) / 2)] }'
}
lines() { if [ -f "$1" ]; then wc -l <"$1"; else echo 0; fi; }
# train_one MODEL BATCH TOKENS [LAUNCHER...]: leaves $tmp/run; BATCH: of all ranks. It is killed behind the last step that
# counts: the checkpoint at the end is not wanted.
train_one() {
    name=$1 batch=$2 len=$3
    shift 3
    rm -rf "$tmp/run"
    setsid "$@" "$SSM_BIN/ssmtrain" -q --device cuda --precision bf16 --model "$name" --batch "$batch" --seq-len "$len" --steps 1000 --warmup 2 --save-every 0 \
        ${plans:+--gemm-plans "$plans"} -o "$tmp/run" "$tmp/data" >&2 &
    pid=$!
    while kill -0 $pid 2>/dev/null && [ "$(lines "$tmp/run/inc-0001/metrics.jsonl")" -lt "$steps" ]; do sleep 0.1; done
    [ -s "$tmp/run/inc-0001/metrics.jsonl" ] || { wait $pid || true; return 1; }
    kill -9 -$pid 2>/dev/null || true
    wait $pid 2>/dev/null || true
    sleep 1
}

[ $# -gt 0 ] || set -- ops train tuned ranks
for part; do
    plans=''
    case $part in
    ops) "$tests/device" --backend cuda --perf | while IFS= read -r l; do
            case $l in '#'*) echo "$l" ;; *) printf '%s\t%s\t%s\t%s\t%s\n' "$day" "${gpu:-no GPU}" "$commit" 'device --perf' "$l" ;; esac
        done ;;
    train | tuned) for m in $models; do
            name=${m%%:*} rest=${m#*:}
            if [ "$part" = tuned ]; then
                plans=$tmp/$name.plans
                "$SSM_BIN/ssmtrain" --device cuda --precision bf16 --model "$name" --batch "${rest%%:*}" --seq-len "${rest#*:}" --tune-gemm "$plans" "$tmp/data" >&2
            fi
            train_one "$name" "${rest%%:*}" "${rest#*:}" env || { echo "# $m failed" >&2; continue; }
            what="training step, $name, B${rest%%:*} x ${rest#*:}, bf16, no recompute${plans:+, measured products}"
            command="gpu.sh $part: ssmtrain --device cuda --precision bf16 --model $name --batch ${rest%%:*} --seq-len ${rest#*:}"
            line "$command" "$what" "$(median tokens_per_s)" tokens/s
            line "$command" "$what" "$(median flops_per_s | awk '{ printf "%.1f", $1 / 1e12 }')" 'model TFLOP/s'
        done ;;
    ranks) m=${RANKS_MODEL:-mamba2-1.3b:4:4096}
        name=${m%%:*} rest=${m#*:}
        train_one "$name" "${rest%%:*}" "${rest#*:}" env
        one=$(median tokens_per_s)
        train_one "$name" $((2 * ${rest%%:*})) "${rest#*:}" "$mpiexec" -n 2
        two=$(median tokens_per_s)
        command="gpu.sh ranks: mpiexec -n 2 ssmtrain --model $name --batch $((2 * ${rest%%:*})) --seq-len ${rest#*:}"
        line "$command" "data parallel, $name, B${rest%%:*} x ${rest#*:} a GPU, one GPU" "$one" tokens/s
        line "$command" "data parallel, $name, B${rest%%:*} x ${rest#*:} a GPU, two GPUs" "$two" tokens/s
        line "$command" "data parallel, $name, two GPUs over one" "$(echo "$one $two" | awk '{ printf "%.3f", $2 / $1 }')" times ;;
    *) echo "gpu.sh: '$part' is not one of ops, train, tuned, ranks" >&2; exit 2 ;;
    esac
done
