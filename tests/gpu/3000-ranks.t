#!/bin/sh
# 3000-ranks.t - several GPUs: the device's transport against the host's, data parallel training against one GPU
# SPDX-License-Identifier: MIT
# shellcheck source=tests/tiny.sh
. "${0%/*}/../tiny.sh"
# shellcheck source=tests/tap.sh
. "${0%/*}/../tap.sh"

gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')
mpiexec=${MPIEXEC:-mpiexec}
if [ "$gpus" -lt 2 ]; then
    skip 'several GPUs' "there is $gpus"
    done_testing
fi
tiny_text 60000 >text.txt
"$SSM_BIN/tokshard" encode -q --split para -o data text.txt 2>/dev/null
# train RANKS OPTION...
train() {
    n=$1
    shift
    "$mpiexec" -n "$n" "$SSM_BIN/ssmtrain" -q --device cuda --model "$model" --batch 8 --seq-len 256 --steps "$steps" --lr 1e-3 --save-every 0 "$@" data
}
same() { "$SSM_BIN/ckmerge" compare -q "$1" "$2"; }
loss() { cat "$1"/inc-*/metrics.jsonl | sed 's/.*"step":\([0-9]*\),.*"loss":\([^,}]*\).*/\1 \2/' | sort -n; }

model=hybrid-demo steps=40
ok "each collective, $gpus ranks, like the host's" '"$mpiexec" -n '"$gpus"' "$SSM_TESTS/mklinks" | tee out && grep -q "ok '"$gpus"' ranks, device" out'
ok 'one rank' 'train 1 --precision fp32 -o one'
ok 'two ranks, the same losses to rounding' 'train 2 --precision fp32 -o two && loss one >1 && loss two >2 &&
    paste 1 2 | awk '\''{ d = $2 - $4; d = d < 0 ? -d : d; if (!(d <= worst)) worst = d } END { print worst; exit !(NR == 40 && worst < 2e-3) }'\'
ok 'two ranks, bf16, twice the same bits' 'train 2 --precision bf16 -o a && train 2 --precision bf16 -o b && same a b'
ok 'two ranks stopped, one rank goes on' 'must_exit 75 train 2 --precision fp32 --stop-at 20 -o s && train 1 --precision fp32 -o s && [ "$(loss s | wc -l)" -eq 40 ]'
# 50 million parameters: several buckets, so that products run beside their sums.
printf 'pattern = MMMMMMMM\nd_model = 1024\nn_heads = 32\nheaddim = 64\nn_groups = 1\nd_state = 64\nchunk = 128\ntied = true\n' >big.conf
model=./big.conf steps=6
ok 'sums beside the backward pass: the same losses to rounding, the same bits twice' 'train 1 --precision fp32 -o big1 && train 2 --precision fp32 -o big2 && loss big1 >1 && loss big2 >2 &&
    paste 1 2 | awk '\''{ d = $2 - $4; d = d < 0 ? -d : d; if (!(d <= worst)) worst = d } END { print worst; exit !(NR == 6 && worst < 2e-3) }'\'' &&
    train 2 --precision bf16 -o big3 && train 2 --precision bf16 -o big4 && same big3 big4'
done_testing
