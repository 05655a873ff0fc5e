#!/bin/sh
# 2000-train.t - trainings on a GPU: the same bits twice, stop and resume, near the CPU, bf16 near fp32; each family
# SPDX-License-Identifier: MIT
# shellcheck source=tests/tiny.sh
. "${0%/*}/../tiny.sh"
# shellcheck source=tests/tap.sh
. "${0%/*}/../tap.sh"

tiny_text 60000 >text.txt
"$SSM_BIN/tokshard" encode -q --split para -o data text.txt 2>/dev/null
steps=40
# train MODEL OPTION...
train() {
    m=$1
    shift
    "$SSM_BIN/ssmtrain" -q --model "$m" --batch 8 --seq-len 256 --steps $steps --lr 1e-3 --save-every 0 "$@" data
}
same() { "$SSM_BIN/ckmerge" compare -q "$1" "$2"; }
loss() { cat "$1"/inc-*/metrics.jsonl | sed 's/.*"step":\([0-9]*\),.*"loss":\([^,}]*\).*/\1 \2/' | sort -n; }
# gap A B N MOST: over the first N steps the losses differ by at most MOST
gap() {
    loss "$1" >a.loss
    loss "$2" >b.loss
    paste a.loss b.loss | awk -v n="$3" -v most="$4" '$1 <= n { d = $2 - $4; d = d < 0 ? -d : d; if (!(d <= worst)) worst = d; seen++ }
        END { print "largest gap over", seen, "steps:", worst; exit !(seen == n && worst <= most) }'
}

for m in mamba2-demo mamba-demo hybrid-demo gpt-demo griffin-demo; do
    ok "$m: bf16 trains" 'train '$m' --device cuda --precision bf16 -o '$m'.bf16'
    ok "$m: a second time the same bits" 'train '$m' --device cuda --precision bf16 -o '$m'.again && same '$m'.bf16 '$m'.again'
    ok "$m: stopped and gone on, the same bits" 'must_exit 75 train '$m' --device cuda --precision bf16 --stop-at 15 -o '$m'.two &&
        train '$m' --device cuda --precision bf16 -o '$m'.two && same '$m'.bf16 '$m'.two'
    ok "$m: fp32 trains" 'train '$m' --device cuda --precision fp32 -o '$m'.fp32'
    # The loss falls from 5.5 to about 1.5 in these steps; a bf16 product is off by 2^-9 of its largest.
    ok "$m: bf16 within 0.05 nats of fp32" 'gap '$m'.bf16 '$m'.fp32 '$steps' 0.05'
    ok "$m: the residual stream in fp32" 'train '$m' --device cuda --precision bf16 --residual fp32 -o '$m'.res && gap '$m'.res '$m'.fp32 '$steps' 0.05'
    ok "$m: tf32 within 0.01 nats of fp32" 'train '$m' --device cuda --precision tf32 -o '$m'.tf32 && gap '$m'.tf32 '$m'.fp32 '$steps' 0.01'
    # Another order of sums; what it does grows with the steps.
    ok "$m: fp32 near the CPU over 10 steps" 'train '$m' --device cpu --stop-at 10 -o '$m'.cpu; gap '$m'.cpu '$m'.fp32 10 2e-3'
    ok "$m: full recompute, the same bits" 'train '$m' --device cuda --precision bf16 --recompute full -o '$m'.rec && same '$m'.bf16 '$m'.rec'
    ok "$m: checkpoints go between CPU and GPU" 'train '$m' --device cuda --precision fp32 --stop-at 12 -o '$m'.x; train '$m' --device cpu --stop-at 14 -o '$m'.x; [ "$(loss '$m'.x | wc -l)" -eq 14 ]'
    rm -rf ./*.bf16 ./*.again ./*.two ./*.fp32 ./*.res ./*.tf32 ./*.cpu ./*.rec ./*.x
done
ok 'algorithms of matrix products that were measured: the same bits twice, stopped and gone on; near the first choices' '
    train griffin-demo --device cuda --tune-gemm plans.tsv && cat plans.tsv && train griffin-demo --device cuda --gemm-plans plans.tsv -o tuned 2>err && [ ! -s err ] &&
    train griffin-demo --device cuda --gemm-plans plans.tsv -o tuned.again && same tuned tuned.again &&
    must_exit 75 train griffin-demo --device cuda --gemm-plans plans.tsv --stop-at 15 -o tuned.two && train griffin-demo --device cuda -o tuned.two && same tuned tuned.two &&
    train griffin-demo --device cuda -o first && gap tuned first $steps 0.05'
ok 'documents with their state, in a stream' 'train mamba2-demo --device cuda --precision bf16 --order stream -o stream &&
    must_exit 75 train mamba2-demo --device cuda --precision bf16 --order stream --stop-at 20 -o stream2 &&
    train mamba2-demo --device cuda --precision bf16 --order stream -o stream2 && same stream stream2'
done_testing
