#!/bin/sh
# 9100-finetune.t - pipelines/finetune.sh from conversations to scores: stages, skips, interruptions, bad .conf files
# SPDX-License-Identifier: MIT
SSM_TOP=${SSM_TOP:-$(cd "${0%/*}/../.." && pwd)}
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS SSM_BIN
unset SSM_MPIEXEC
finetune() { timeout -k 5 100 "$SSM_TOP/pipelines/finetune.sh" "$@"; }
# says CODE TEXT CONF...: that exit code and one line on stderr, which holds TEXT
says() {
    code=$1 text=$2
    shift 2
    must_exit "$code" finetune "$@" >out 2>err || { cat err; return 1; }
    [ "$(wc -l <err)" -eq 1 ] && grep -q -e "$text" err || { cat err; return 1; }
}
field() { sed -n 2p "$1" | cut -f "$2"; }

# A model that knows questions, and answers other ones than those it is to learn.
tiny_text 300 >text.txt
tiny_model 'M-*' >tiny.conf
"$SSM_BIN/tokshard" encode -q --split para -o base text.txt &&
    "$SSM_BIN/ssmtrain" -q --model ./tiny.conf --steps 10 --warmup 2 --batch 4 --seq-len 64 --lr 5e-3 -o old base || exit 1
tiny_text 400 | awk 'NF { a = $1 " " $2; $1 = ""; printf "{\"input\": \"%s?\", \"output\": \"%s\"}\n", a, toupper($0) }' | split -l 200 - talks. &&
    for f in talks.*; do mv "$f" "$f.jsonl"; done
mkdir 'my work'
cat >whole.conf <<CONF
work     = $PWD/my work/whole   # where it goes
init     = $PWD/old
input    = talks.*.jsonl
template = nemo
seq_len  = 80
pack     = --too-long truncate
valid    = 0.2
ranks    = 2
train    = --steps 30 --warmup 2 --batch 8 --lr 5e-3
prompt   = the cat?
generate = --tokens 20 --temperature 0.7
CONF
w="my work/whole"

ok 'a .conf: unknown keys, a missing one, an unknown stage' '
    { cat whole.conf; echo "model = x"; } >bad.conf && says 2 "unknown key .model" bad.conf && sed /^init/d whole.conf >bad.conf && says 2 "init. is missing" bad.conf &&
    says 2 "unknown stage .data" whole.conf data && says 2 "usage" && says 2 nowhere.conf nowhere.conf'
ok 'pack: held-out conversations, once' '
    finetune whole.conf pack 2>log && for s in train valid; do "$SSM_BIN/tokshard" check -q "$w/$s" || exit 1; done &&
    n=$("$SSM_BIN/tokshard" stat "$w/train" | sed -n "s/^documents	//p") v=$("$SSM_BIN/tokshard" stat "$w/valid" | sed -n "s/^documents	//p") &&
    [ $((n + v)) -eq "$(cat talks.*.jsonl | wc -l)" ] && [ "$v" -gt 20 ] && finetune whole.conf pack 2>log && [ "$(grep -c "done already" log)" -eq 2 ]'
if "$SSM_BIN/ssmtrain" --complete | grep -qx -e --init-from; then
    ok 'train, merge, eval: the answers of others become likelier' '
        finetune whole.conf train merge eval 2>log || { cat log; exit 1; }
        "$SSM_BIN/ckmerge" verify -q "$w/model" && [ "$(field "$w/scores.tsv" 2)" = "$(field "$w/before.tsv" 2)" ] &&
        awk -v a="$(field "$w/before.tsv" 5)" -v b="$(field "$w/scores.tsv" 5)" "BEGIN { exit !(b < 0.8 * a) }" && head -n 1 "$w/sample.txt" | grep -qF "the cat?"'
    ok 'it began with the model that was there' '
        "$SSM_BIN/ssmtrain" -q --init-from old --batch 8 --seq-len 80 --steps 30 --warmup 2 --lr 5e-3 --stop-at 1 -o again "$w/train" || [ $? -eq 75 ]
        first() { sed -n "1s/.*\"loss\":\([0-9.]*\).*/\1/p" "$1"; } && a=$(first "$w/run/inc-0001/metrics.jsonl") b=$(first again/inc-0001/metrics.jsonl) &&
        awk -v a="$a" -v b="$b" "BEGIN { d = a - b; exit !(a > 1 && d < 2e-5 && d > -2e-5) }"'
    ok 'what is done is left alone' 'finetune whole.conf pack train merge eval 2>log && [ "$(grep -c "done already" log)" -eq 7 ] && [ "$(wc -l <log)" -eq 7 ]'
    ok 'told to stop: 75 passes through, the same command goes on' '
        sed "s/whole/parts/; s/^ranks.*/ranks = 1/; s/^train.*/& --stop-at 5/" whole.conf >stop.conf && must_exit 75 finetune stop.conf pack train merge eval 2>log && [ ! -e "my work/parts/model" ] &&
        sed "s/ --stop-at 5//" stop.conf >go.conf && finetune go.conf pack train merge eval 2>log && [ -s "my work/parts/scores.tsv" ] && [ "$(cat "my work/parts/run"/inc-*/metrics.jsonl | wc -l)" -eq 30 ]'
    if command -v gnuplot >/dev/null; then
        ok 'the report has both scores' 'finetune whole.conf report 2>log && [ "$(grep -c "nats_per_token" "$w/report.html")" -eq 2 ]'
    else
        skip 'the report' 'no gnuplot'
    fi
    ok 'no half files are left' '[ -z "$(find "my work" -name "*.tmp*")" ]'
else
    skip 'the other stages' 'this ssmtrain has no --init-from'
fi
done_testing
