#!/bin/sh
# 2200-start.t - what a run begins with, what of it trains, and the mean that it keeps
# SPDX-License-Identifier: MIT
. "${0%/*}/../training.sh"

tiny_model '-M' >other.conf
common="--batch 8 --seq-len 32 --lr 1e-2 --warmup 0"
base="--model ./tiny.conf $common"
train() { "$SSM_BIN/ssmtrain" -q $common "$@" data; }
still="--lr 0 --min-lr 0 --batch 8 --seq-len 32 --warmup 0 --steps 1"
# tensors of two checkpoints that differ
differ() { "$SSM_BIN/ckmerge" compare "$1" "$2" 2>/dev/null | grep -o -e '\(model\|optim/[a-z]*\)/[a-zA-Z0-9._]*' | sort -u; }
losses() { cat "$1"/inc-*/metrics.jsonl | sed 's/.*"step":\([0-9]*\),.*"loss":\([^,]*\),.*/\1 \2/' | sort -n; }
bad() { # CODE PATTERN options...: that exit code and one line that says why
    code=$1 pattern=$2
    shift 2
    must_exit "$code" "$SSM_BIN/ssmtrain" "$@" 2>err >out && [ "$(wc -l <err)" -eq 1 ] && grep -q -e "$pattern" err || { cat err; return 1; }
}

train --model ./tiny.conf -o first --steps 8 && "$SSM_BIN/ckmerge" merge -q --drop-optimizer -o model first || exit 1

# ---- --init-from ----
ok 'the weights of a merged model, and its configuration' '
    "$SSM_BIN/ssmtrain" -q $still --init-from model -o moved data && "$SSM_BIN/ckmerge" compare -q --model-only model moved &&
    losses moved | awk "{ exit !(\$2 < 5) }"'
ok 'a run, or one of its checkpoints; with --model it is checked' '
    "$SSM_BIN/ssmtrain" -q $still --init-from first/inc-0001/step-00000008 --model ./tiny.conf -o moved2 data && same moved moved2 &&
    bad 1 "another model: .pattern. differs" $still --init-from first --model ./other.conf -o r data && [ ! -e r ]'
# The other run lives, and publishes while the ranks start: the folder of rank 1 has a newer checkpoint already.
if ${MPIEXEC:-mpiexec} -n 2 true 2>/dev/null; then
    ok 'all ranks begin with the checkpoint that rank 0 sees' '
        mkdir -p ahead && cp -r first ahead/first && train --model ./tiny.conf -o ahead/first --steps 12 &&
        timeout 60 ${MPIEXEC:-mpiexec} -n 1 "$SSM_BIN/ssmtrain" -q $still --init-from first -o "$PWD/pair" "$PWD/data" : \
            -n 1 -wdir "$PWD/ahead" "$SSM_BIN/ssmtrain" -q $still --init-from first -o "$PWD/pair" "$PWD/data" &&
        "$SSM_BIN/ckmerge" compare -q --model-only first pair'
else
    skip 'all ranks begin with the checkpoint that rank 0 sees' 'no mpiexec'
fi
ok 'moments begin at 0, or are kept' '
    train --init-from first -o fresh --steps 3 && train --init-from first --keep-optimizer -o kept --steps 3 && losses fresh >a && losses kept >b &&
    [ "$(head -n 1 a)" = "$(head -n 1 b)" ] && ! cmp -s a b && train --init-from model -o fresh2 --steps 3 && same fresh fresh2'
ok 'kept moments count their updates' '
    "$SSM_BIN/ckmerge" ls kept | grep -qx "#state.updates=11" && "$SSM_BIN/ckmerge" ls fresh | grep -qx "#state.updates=3"'
# A set of one window: each step sees the same, so that where the data begin does not matter.
head -n 1 text.txt >line.txt && "$SSM_BIN/tokshard" encode -q --split file -o line line.txt 2>/dev/null
same_data() { "$SSM_BIN/ssmtrain" -q --batch 1 --seq-len 64 --lr 1e-2 --warmup 0 --schedule constant "$@" line; }
ok 'three steps, and three with kept moments, are six' '
    same_data --model ./tiny.conf -o six --steps 6 && same_data --model ./tiny.conf -o three --steps 3 && same_data --init-from three --keep-optimizer -o more --steps 3 &&
    "$SSM_BIN/ckmerge" compare -q --model-only six more && same_data --init-from three -o anew --steps 3 && ! "$SSM_BIN/ckmerge" compare -q --model-only six anew'
ok 'stopped and gone on: bit by bit, and what it began with is not asked for any more' '
    cp -r first gone && must_exit 75 train --init-from gone --keep-optimizer -o parts --steps 3 --stop-at 1 && rm -r gone &&
    train --init-from gone --keep-optimizer -o parts --steps 3 && same kept parts'
ok 'a run goes on without --model' '
    must_exit 75 train --model ./tiny.conf -o bare --steps 8 --stop-at 3 && train -o bare --steps 8 && same bare first'
"$SSM_BIN/ckmerge" import -q -o theirs "$SSM_TOP/tests/golden/mamba" 2>/dev/null
ok 'an imported model: its vocabulary is asked for' 'bad 1 "257 tokens.*vocab" $still --init-from theirs -o r data'
ok 'what cannot be begun with' '
    bad 1 "nowhere" $still --init-from nowhere -o r data && bad 2 "init-from is missing" $still --keep-optimizer --model ./tiny.conf -o r data &&
    bad 1 "no tensor .optim/m" $still --init-from model --keep-optimizer -o r data && bad 2 "model is missing" $still -o r2 data &&
    cp -r model hurt && for f in hurt/part*; do printf X | dd of="$f" bs=1 seek=20000 conv=notrunc 2>/dev/null; done &&
    must_exit 1 "$SSM_BIN/ssmtrain" -q $still --init-from hurt -o r data 2>err && grep -q "checksum" err'
ok 'data of another tokenizer are refused' '
    "$SSM_BIN/tokshard" train -q --vocab 257 -o tok.json text.txt && "$SSM_BIN/tokshard" encode -q --tokenizer tok.json -o other text.txt 2>/dev/null
    must_exit 1 "$SSM_BIN/ssmtrain" -q $still --init-from model -o r other 2>err && grep -q "tokenizer" err || { cat err; exit 1; }'

# ---- --freeze ----
ok 'frozen tensors, and their moments, keep every bit; all others train' '
    train --init-from first --keep-optimizer --freeze "embeddings.*,layers.0.mixer.[Ad]*" -o cold --steps 3 && differ first cold >d &&
    ! grep -e embeddings -e A_log -e dt_bias d && [ "$(grep -c "^model/" d)" -gt 4 ] &&
    for n in layers.0.mixer.in_proj.weight layers.0.mixer.D norm_f.weight; do grep -qx "model/$n" d && grep -qx "optim/m/$n" d || { cat d; exit 1; }; done'
ok 'frozen gradients count in no norm' '
    norm() { sed "s/.*\"grad_norm\":\([^,]*\),.*/\1/;q" "$1/inc-0001/metrics.jsonl"; } &&
    awk -v a="$(norm cold)" -v b="$(norm kept)" "BEGIN { exit !(a > 0 && a < b) }"'
ok 'frozen, stopped and gone on' '
    f="--init-from first --freeze embeddings.* --steps 4" && train $f -o cold1 && must_exit 75 train $f -o cold2 --stop-at 2 && train $f -o cold2 && same cold1 cold2'
ok 'the plan and the notes say how much trains' '
    "$SSM_BIN/ssmtrain" -n $base --freeze "embeddings.*" data >plan && all=$(sed -n "s/^parameters=//p" plan) &&
    rows=$(sed -n "s/^embeddings.weight	\([0-9]*\)x32	yes	no\$/\1/p" plan) && left=$((all - rows * 32)) && [ "$rows" -ge 257 ] &&
    grep -qx "parameters_trained=$left" plan &&
    "$SSM_BIN/ssmtrain" $still --init-from model --freeze "embeddings.*" -o told data 2>&1 | grep -q "$left of $all parameters train"'
ok 'patterns that meet nothing, or all' '
    bad 2 "no tensor is called .embedding." -n $base --freeze "embedding" data && bad 2 "nothing to train" -n $base --freeze "*" data'

# ---- --ema ----
ok 'the running mean is the mean of the weights, in closed form' '
    train --init-from model --ema 0.5 -o mean --steps 3 --save-every 1 --keep 9 && s=mean/inc-0001/step-0000000 &&
    "$SSM_BIN/ckmerge" average -q --weights 1,1,2,4 -o want model ${s}1 ${s}2 ${s}3 && "$SSM_BIN/ckmerge" merge -q --ema -o have mean &&
    "$SSM_BIN/ckmerge" compare -q --model-only --tolerance 1e-6 have want && ! "$SSM_BIN/ckmerge" compare -q --model-only --tolerance 1e-6 have ${s}3'
ok 'it changes nothing else' '
    train --init-from model -o plain --steps 3 && "$SSM_BIN/ckmerge" compare -q --model-only mean plain'
ok 'the mean as a model: no optimizer, no state, any type' '
    "$SSM_BIN/ckmerge" verify -q have && ! "$SSM_BIN/ckmerge" ls have | grep -e optim -e "#state" && "$SSM_BIN/ckmerge" merge -q --ema --dtype bf16 -o have16 mean &&
    "$SSM_BIN/ckmerge" ls have16 | grep -q "^model/embeddings.weight	bf16" && must_exit 1 "$SSM_BIN/ckmerge" merge -q --ema -o none plain 2>err && grep -q "no running mean" err'
ok 'stopped and gone on: bit by bit' '
    must_exit 75 train --init-from model --ema 0.5 -o mean2 --steps 3 --stop-at 2 && train --init-from model --ema 0.5 -o mean2 --steps 3 && same mean mean2'
ok 'it may begin, and end, on the way' '
    must_exit 75 train --model ./tiny.conf -o late --steps 4 --stop-at 2 && must_exit 75 train --ema 0.9 -o late --steps 4 --stop-at 3 &&
    "$SSM_BIN/ckmerge" ls late | grep -q "^optim/ema/norm_f.weight" && train -o late --steps 4 2>err && grep -q "ends here" err && ! "$SSM_BIN/ckmerge" ls late | grep -q optim/ema'
ok 'memory of the plan' 'a=$("$SSM_BIN/ssmtrain" -n $base --ema 0.9 data | sed -n "s/^memory_ema=//p") && [ "$a" -gt 10000 ]'
done_testing
