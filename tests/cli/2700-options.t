#!/bin/sh
# 2700-options.t - each option of ssmtrain that no other test would miss does something, and what it says
# SPDX-License-Identifier: MIT
. "${0%/*}/../training.sh"

"$SSM_BIN/tokshard" encode -q --split line -o lines text.txt 2>/dev/null
base="--model ./tiny.conf --batch 4 --seq-len 16 --steps 3 --schedule constant"
fixed() { train --warmup 0 --lr 1e-3 "$@"; }
same_model() { "$SSM_BIN/ckmerge" compare -q --model-only "$@"; }
# Biggest change of a weight from a to b is at most X, and more than X/1000
moved() { same_model --tolerance "$3" "$1" "$2" && ! same_model --tolerance "$(awk "BEGIN { print $3 / 1000 }")" "$1" "$2"; }

"$SSM_BIN/ssmtrain" -q $base --warmup 0 --lr 0 --min-lr 0 -o start data || exit 1
fixed -o plain || exit 1
one="--stop-at 1"
# One step from moments of 0: an element moves by lr g / (|g| + eps), whatever the betas are, and by lr decay p.
ok '--lr: the first step moves an element by at most that' '
    must_exit 75 fixed -o step1 $one --weight-decay 0 && moved start step1 1.001e-3 && ! same_model --tolerance 0.9e-3 start step1'
ok '--eps: a large one makes the step small' '
    must_exit 75 fixed -o eps $one --weight-decay 0 --eps 1 && same_model --tolerance 5e-4 start eps && ! same_model start eps'
ok '--beta1 and --beta2 do not show in the first step, and do in the third' '
    for b in "beta1 0.5" "beta2 0.5"; do
        must_exit 75 fixed -o "one-${b% *}" $one --${b% *} ${b#* } && must_exit 75 fixed -o "none-${b% *}" $one && same_model --tolerance 1e-6 "one-${b% *}" "none-${b% *}" &&
        fixed -o "three-${b% *}" --${b% *} ${b#* } && ! same_model --tolerance 1e-5 plain "three-${b% *}" || exit 1
    done; ! same_model --tolerance 1e-5 three-beta1 three-beta2'
ok '--beta1 0 --beta2 0: each step is lr in the direction of the sign' '
    fixed -o sign --beta1 0 --beta2 0 --weight-decay 0 && moved start sign 3.01e-3 && ! same_model --tolerance 2.9e-3 start sign'
ok '--weight-decay: of matrices only' '
    must_exit 75 fixed -o decay $one --weight-decay 10 && "$SSM_BIN/ckmerge" compare --model-only step1 decay 2>/dev/null >diff; grep -q embeddings.weight diff && ! grep -e A_log -e norm diff'
ok '--clip: to a tiny norm, with a large eps, nothing is left of a step' '
    must_exit 75 fixed -o clip $one --weight-decay 0 --eps 1 --clip 1e-6 && same_model --tolerance 1e-8 start clip && ! same_model --tolerance 1e-8 start eps &&
    [ "$(column clip grad_norm)" = "$(column plain grad_norm | head -n 1)" ]'
ok '--clip 0: never' 'train --warmup 0 --lr 1e-3 --eps 1 -o free --clip 0 && train --warmup 0 --lr 1e-3 --eps 1 -o held --clip 0.1 && ! same_model --tolerance 1e-7 free held'
ok '--min-lr' '"$SSM_BIN/ssmtrain" -q --model ./tiny.conf --batch 4 --seq-len 16 --steps 3 --warmup 0 --min-lr 5e-4 -o min data && column min lr | grep -qx "3 0.0005"'
ok '--seed: other weights, and another order' '
    fixed -o seed --seed 2 && [ "$(column seed loss | head -n 1)" != "$(column plain loss | head -n 1)" ] &&
    fixed -o order --init-from start --seed 2 && fixed -o order1 --init-from start && [ "$(column order loss | head -n 1)" != "$(column order1 loss | head -n 1)" ]'
ok '--order stream reads in order' 'fixed -o stream --order stream && [ "$(column stream loss | head -n 1)" != "$(column plain loss | head -n 1)" ]'
ok '--seq-len and --batch' '[ "$(column plain samples | tail -n 1)" = "3 12" ] && [ "$(column plain tokens | tail -n 1)" = "3 192" ]'
ok '--micro-batch and --recompute take less memory' '
    size() { "$SSM_BIN/ssmtrain" -n $base "$@" data | sed -n "s/^memory_saved=//p"; }
    a=$(size) && b=$(size --micro-batch 1) && c=$(size --recompute full) && [ "$b" -lt "$a" ] && [ "$c" -lt "$a" ] && fixed -o micro --micro-batch 1 && moved start micro 1e-2'
ok '--device, --precision, --residual: what the plan says, and what the CPU cannot' '
    "$SSM_BIN/ssmtrain" -n $base --device cpu data >plan && grep -qx device=cpu plan && grep -qx precision=fp32 plan && grep -qx residual=fp32 plan &&
    grep -qx memory_half=0 plan && "$SSM_BIN/ssmtrain" -n $base --device cpu --precision fp32 --residual fp32 data | cmp plan - &&
    for bad in "--precision bf16" "--precision tf32" "--residual bf16"; do
        must_exit 2 "$SSM_BIN/ssmtrain" -n $base --device cpu $bad data >out 2>err && [ ! -s out ] && [ "$(wc -l <err)" -eq 1 ] && grep -q "${bad#* }" err || exit 1
    done
    must_exit 1 env SSM_CUDA=/no/such/object "$SSM_BIN/ssmtrain" $base --device cuda -o cuda data >out 2>err && grep -q "no device .cuda." err && [ ! -e cuda ]'
ok '--threads' '
    "$SSM_BIN/ssmtrain" $base --threads 2 --warmup 0 --lr 1e-3 -o threads data 2>err && grep -q "1 rank x 2 threads" err && "$SSM_BIN/ssmtrain" $base --warmup 0 --lr 1e-3 -o thread data 2>err && grep -q "1 rank x 1 thread," err'
ok '--blend' 'printf "data 1\nlines 3\n" >mix && "$SSM_BIN/ssmtrain" $base --warmup 0 --lr 1e-3 -o blend --blend mix 2>err && grep -q "lines.: .*0.7500 of the samples" err'
ok 'each option of the table stands in a test' '
    cat "${SSM_TOP:?}"/tests/cli/*.t >tests && "$SSM_BIN/ssmtrain" --complete | grep -v -e "^--help" -e "^--version" -e "^--run" -e "^--quiet" -e "^--verbose" -e "^--dry-run" | while read -r name; do
        grep -q -e "$name[ =\"]" tests || { echo "$name"; exit 1; }
    done'
done_testing
