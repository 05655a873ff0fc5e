#!/bin/sh
# curves.sh - loss curves of one data and one seed: bf16 and fp32 on the GPU, fp32 on the CPU
# SPDX-License-Identifier: MIT
#
# usage: curves.sh OUT [MODEL:BATCH:TOKENS...]
# Writes OUT/MODEL.tsv (step, bf16, fp32, CPU; the CPU's first 50 steps only) for mamba2-130m and one demo size a family, and says
# the largest gaps. curves.gp draws them. Environment: SSM_BIN, STEPS (500), CPU_STEPS (50), CORPUS (a text file; made up without).
set -eu
: "${SSM_BIN:?}"
[ $# -ge 1 ] || { echo 'usage: curves.sh OUT [MODEL:BATCH:TOKENS...]' >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- mamba2-130m:4:512 mamba2-demo:8:512 mamba-demo:8:512 hybrid-demo:8:512 gpt-demo:8:512 griffin-demo:8:512
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
    { train cpu --device cpu --stop-at "$cpu" || [ $? -eq 75 ]; } & # beside the GPU's
    train bf16 --device cuda --precision bf16
    train fp32 --device cuda --precision fp32
    wait $!
    loss bf16 >"$tmp/1" && loss fp32 >"$tmp/2" && loss cpu >"$tmp/3"
    { printf '# step\tbf16 on the GPU\tfp32 on the GPU\tfp32 on the CPU\n'
        awk -v OFS='\t' 'FILENAME ~ /1$/ { a[$1] = $2 } FILENAME ~ /2$/ { b[$1] = $2; n = $1 } FILENAME ~ /3$/ { c[$1] = $2 } END { for (i = 1; i <= n; i++) print i, a[i], b[i], (i in c) ? c[i] : "-" }' "$tmp/1" "$tmp/2" "$tmp/3"; } >"$out/$name.tsv"
    awk -v name="$name" 'function far(x, y) { return x > y ? x - y : y - x }
        /^#/ { next } { d = far($2, $3); if (d > gap) { gap = d; at = $1 } last = $3 } NR == 2 { first = $3 } $4 != "-" { e = far($3, $4); if (e > near) near = e; k++ }
        END { printf "%s\tloss %.3f to %.3f\tbf16 from fp32, %d steps: at most %.4f (step %d)\tfp32 on the GPU from the CPU, %d steps: at most %.2e\n", name, first, last, NR - 1, gap, at, k, near }' "$out/$name.tsv"
    rm -rf "$tmp/bf16" "$tmp/fp32" "$tmp/cpu"
done
