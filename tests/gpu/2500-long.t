#!/bin/sh
# 2500-long.t - whole Mamba-2 layers with 8 groups at 262,144 tokens a row
# SPDX-License-Identifier: MIT
# shellcheck source=tests/tiny.sh
. "${0%/*}/../tiny.sh"
# shellcheck source=tests/tap.sh
. "${0%/*}/../tap.sh"

tiny_text 60000 >text.txt
"$SSM_BIN/tokshard" encode -q -o data text.txt 2>/dev/null # one document
# model D_MODEL HEADS D_STATE
model() {
    printf 'pattern = M\nd_model = %s\nn_heads = %s\nheaddim = 64\nn_groups = 8\nd_state = %s\nchunk = 128\ntied = true\n' "$1" "$2" "$3" >m.conf
}
train() { "$SSM_BIN/ssmtrain" -q --model ./m.conf --batch 1 --seq-len 262144 --steps 2 --lr 1e-3 --save-every 0 "$@" data; }
loss() { sed 's/.*"loss":\([^,}]*\).*"grad_norm":\([^,}]*\).*/\1 \2/' "$1"/inc-0001/metrics.jsonl; }
model 256 8 64
ok 'd_model 256, fp32: losses and gradient norms of the CPU' 'train --device cuda --precision fp32 -o gpu && train --device cpu -o cpu && loss gpu >1 && loss cpu >2 && paste 1 2 &&
    [ "$(paste 1 2 | awk "function off(x, y) { return (x > y ? x - y : y - x) / y > 1e-4 } off(\$1, \$3) || off(\$2, \$4)" | wc -l)" -eq 0 ] && [ "$(wc -l <1)" -eq 2 ]'
model 4096 128 128
ok 'd_model 4096, bf16: runs; with full recompute the same bits' 'train --device cuda --precision bf16 -o big && loss big && [ "$(loss big | awk "\$1 > 4 && \$1 < 8" | wc -l)" -eq 2 ] &&
    train --device cuda --precision bf16 --recompute full -o again && "$SSM_BIN/ckmerge" compare -q big again'
done_testing
