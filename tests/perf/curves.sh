#!/bin/sh
# curves.sh - loss curves of one data and one seed: bf16 and fp32 on the GPU, fp32 on the CPU
# SPDX-License-Identifier: MIT
#
# usage: curves.sh OUT [MODEL:BATCH:TOKENS...]
# Writes OUT/MODEL.tsv (step, bf16, fp32, CPU, CPU; the CPU's first 50 steps only) for mamba2-130m and one demo size a family, and
# says the largest gaps. The CPU runs twice, with its best instructions and with SSE alone: how far two right programs part by
# rounding alone. curves.gp (gnuplot) draws it all. Environment: SSM_BIN, STEPS (500), CPU_STEPS (50), CORPUS (a text file; made up without).
set -eu
: "${SSM_BIN:?}"
[ $# -ge 1 ] || { echo 'usage: curves.sh OUT [MODEL:BATCH:TOKENS...]' >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- mamba2-130m:1:512 mamba2-demo:8:512 mamba-demo:8:512 hybrid-demo:8:512 gpt-demo:8:512 griffin-demo:8:512
steps=${STEPS:-500} cpu=${CPU_STEPS:-50}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/curves.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
if [ -z "${CORPUS:-}" ]; then # sentences of a small grammar with names that come back: there is something to learn for a while
    awk 'BEGIN { srand(3); n = split("river stone garden winter letter captain forest market window doctor bridge summer kitchen mountain soldier village", s)
        m = split("sees finds keeps loses calls leaves builds paints remembers follows", v); k = split("the a every no some this her his", d)
        for (p = 0; p < 30000; p++) { who = s[int(rand()*n)+1]
            t = ""; for (i = 0; i < 4 + 6 * rand(); i++) t = t d[int(rand()*k)+1] " " (rand() < 0.4 ? who : s[int(rand()*n)+1]) " " v[int(rand()*m)+1] " " d[int(rand()*k)+1] " " s[int(rand()*n)+1] " " int(1000 * rand()) ". "
            print t; print "" } }' >"$tmp/text"
    CORPUS=$tmp/text
fi
"$SSM_BIN/tokshard" encode -q --split para -o "$tmp/data" "$CORPUS" 2>/dev/null
loss() { cat "$tmp/$1"/inc-*/metrics.jsonl | sed 's/.*"step":\([0-9]*\),.*"loss":\([^,}]*\).*/\1 \2/' | sort -n; }
for m; do
    name=${m%%:*} rest=${m#*:}
    train() { # RUN OPTION...
        run=$1
        shift
        "$SSM_BIN/ssmtrain" -q --model "$name" --batch "${rest%%:*}" --seq-len "${rest#*:}" --steps "$steps" --lr 6e-4 --save-every 0 -o "$tmp/$run" "$@" "$tmp/data"
    }
    cpu() { # RUN INSTRUCTIONS
        OMP_NUM_THREADS=$(($(nproc) > 3 ? $(nproc) / 2 - 1 : 1)) SSM_CPU=$2 train "$1" --device cpu --stop-at "$cpu" || [ $? -eq 75 ]
    }
    cpu cpu '' & # beside the GPU's
    one=$!
    cpu sse v2 &
    train bf16 --device cuda --precision bf16
    train fp32 --device cuda --precision fp32
    wait $one
    wait $!
    for run in bf16 fp32 cpu sse; do loss $run >"$tmp/$run.loss"; done
    { printf '# step\tbf16 on the GPU\tfp32 on the GPU\tfp32 on the CPU\tfp32 on the CPU, SSE\n'
        awk -v OFS='\t' 'FNR == 1 { file++ } { loss[file, $1] = $2 } file == 2 { n = $1 } function of(f, i) { return (f, i) in loss ? sprintf("%.10g", loss[f, i]) : "-" }
            END { for (i = 1; i <= n; i++) print i, of(1, i), of(2, i), of(3, i), of(4, i) }' "$tmp"/bf16.loss "$tmp"/fp32.loss "$tmp"/cpu.loss "$tmp"/sse.loss; } >"$out/$name.tsv"
    awk -v name="$name" 'function far(x, y) { return x > y ? x - y : y - x }
        /^#/ { next } { n++; d = far($2, $3); if (d > gap) { gap = d; at = $1 } last = $3 } n == 1 { first = $3 }
        $4 != "-" && $5 != "-" { e = far($3, $4); if (e > near) { near = e; where = $1 }; e = far($4, $5); if (e > cpus) { cpus = e; there = $1 }; k++ }
        END { printf "%s\tloss %.3f to %.3f\tbf16 from fp32, %d steps: at most %.4f (step %d)\tfp32 on the GPU from the CPU, %d steps: at most %.2e (step %d)\ttwo sets of instructions of the CPU: %.2e (step %d)\n", name, first, last, n, gap, at, k, near, where, cpus, there }' "$out/$name.tsv"
    rm -rf "$tmp/bf16" "$tmp/fp32" "$tmp/cpu" "$tmp/sse"
done
