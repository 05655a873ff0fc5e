#!/bin/sh
# 9200-extend.t - pipelines/extend.sh, and the recipes of examples/: what they name is known, what they ask for can be
# SPDX-License-Identifier: MIT
SSM_TOP=${SSM_TOP:-$(cd "${0%/*}/../.." && pwd)}
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS SSM_BIN
extend() { timeout -k 5 100 "$SSM_TOP/pipelines/extend.sh" "$@"; }
says() { # CODE TEXT CONF...: that exit code and one line on stderr, which holds TEXT
    code=$1 text=$2
    shift 2
    must_exit "$code" extend "$@" 2>err || { cat err; return 1; }
    [ "$(wc -l <err)" -eq 1 ] && grep -q -e "$text" err || { cat err; return 1; }
}

awk 'BEGIN { srand(2); for (i = 0; i < 3000; i++) { printf "%s%s", substr("the cat sat on a mat and ran off to sea", 1 + int(rand() * 20), 3 + int(rand() * 9)), i % 300 == 299 ? "\n\n" : " " } }' >text.txt
tiny_model 'M-*' >tiny.conf
"$SSM_BIN/tokshard" encode -q --split para -o set text.txt && "$SSM_BIN/ssmtrain" -q --model ./tiny.conf --steps 6 --batch 4 --seq-len 32 -o short set
cat >long.conf <<CONF
work    = work
init    = short
data    = set
valid   = set
seq_len = 128
lengths = 32 128
ranks   = 2
train   = --steps 5 --batch 2 --lr 1e-3 --warmup 1
eval    = --batch 2
CONF
ok 'trains on at the length, from the weights of the run, and scores each length before and after' '
    extend long.conf train merge eval 2>log || { cat log; exit 1; }
    "$SSM_BIN/ckmerge" verify -q work/model && [ "$(wc -l <work/run/inc-0001/metrics.jsonl)" -eq 5 ] && [ "$(wc -l <work/lengths.tsv)" -eq 3 ] &&
    for n in 32 128; do
        for m in short work/model; do "$SSM_BIN/ssmeval" ppl -q --seq-len $n --batch 2 $m set | tail -n 1 | cut -f 8; done | paste -s | sed "s/^/$n	/"
    done >want && sed 1d work/lengths.tsv | cmp want - && ! cut -f 2,3 want | grep -q nan'
ok 'what is done is left alone; a stage whose work is gone is made again' '
    extend long.conf train merge eval 2>log && ! grep "^extend.sh:" log | grep -qv "done already" && rm work/after-32.tsv work/lengths.tsv && extend long.conf eval 2>log &&
    [ "$(grep "^extend.sh:" log | grep -cv -e "done already" -e ssmeval)" -eq 2 ] && [ -s work/lengths.tsv ]'
ok 'a signal to the training passes through as 75, and it goes on' '
    sed "s/^work.*/work = stopped/; s/--warmup 1/& --stop-at 2/" long.conf >stop.conf && must_exit 75 extend stop.conf 2>log && [ ! -e stopped/model ] &&
    sed "s/ --stop-at 2//" stop.conf >go.conf && extend go.conf train merge 2>log && "$SSM_BIN/ckmerge" compare -q stopped/model work/model'
ok 'lengths by default: from a quarter to twice' '
    sed "/^lengths/d; s/^seq_len.*/seq_len = 64/; s/^work.*/work = default/" long.conf >default.conf && extend default.conf train merge eval 2>log &&
    [ "$(sed 1d default/lengths.tsv | cut -f 1 | paste -s -d " ")" = "16 32 64 128" ]'
ok 'a .conf that will not do' '
    sed /^init/d long.conf >bad.conf && says 2 "init. is missing" bad.conf && sed "s/= 128/= many/" long.conf >bad.conf && says 2 "many" bad.conf &&
    says 2 "unknown stage .pack" long.conf pack && sed "s/^data/date/" long.conf >bad.conf && says 2 "unknown key" bad.conf'

# ---- recipes ----
value() { sed -n "s/^$2 *= *//p" "$1"; }
# dry MODEL TRAIN-OPTIONS: what ssmtrain makes of them
dry() { eval "\"\$SSM_BIN/ssmtrain\" -n --model \"\$1\" $2 set"; }
SSM_MODELS=$SSM_TOP/pipelines/models
export SSM_MODELS
for f in "$SSM_TOP"/examples/recipes/*.conf; do
    name=${f##*/}
    case $name in
    *sft.conf) pipeline=finetune ;;
    *-32k.conf | *-128k.conf | *long.conf) pipeline=extend ;;
    *) pipeline=pretrain ;;
    esac
    ok "recipe $name: $pipeline.sh knows its keys, ssmtrain its options" '
        must_exit 2 timeout 20 "$SSM_TOP/pipelines/$pipeline.sh" "$f" nonsense 2>err && grep -q "unknown stage" err || { cat err; exit 1; }
        rmdir "$(value "$f" work)" && model=$(value "$f" model) && [ -n "$model" ] || model=$(value "$f" init) && model=${model%%/*} &&
        len=$(value "$f" seq_len) && dry "${model%-work}" "$(value "$f" train) ${len:+--seq-len $len}" >plan && grep -q "^parameters=" plan'
done
ok 'the table of recipes names each file' '
    for f in "$SSM_TOP"/examples/recipes/*.conf; do grep -qF "\`${f##*/}\`" "$SSM_TOP/examples/recipes/README.md" || { echo "${f##*/}"; exit 1; }; done'
done_testing
