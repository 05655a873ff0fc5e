#!/bin/sh
# 2900-packed.t - fine-tuning: packed sets in ssmtrain and ssmeval; packed is separate, what does not count does nothing
# SPDX-License-Identifier: MIT
SSM_TOP=${SSM_TOP:-$(cd "${0%/*}/../.." && pwd)}
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"
mpi="timeout 120 ${MPIEXEC:-mpiexec}"
T=$SSM_BIN/tokshard
MK=${SSM_TESTS:-$SSM_BIN/../tests}/mkpacked
OMP_NUM_THREADS=1
export OMP_NUM_THREADS
q="'"

value() { "$T" stat "$1" | sed -n "s/^$2	//p"; } # value DIR NAME
field() { sed -n 2p "$1" | cut -f "$2"; }        # of a table of ppl
train() { "$SSM_BIN/ssmtrain" -q --model ./tiny.conf --warmup 0 --lr 2e-3 --weight-decay 0 --schedule constant "$@"; }
train2() { $mpi -n 2 "$SSM_BIN/ssmtrain" -q --model ./tiny.conf --warmup 0 --lr 2e-3 --weight-decay 0 --schedule constant "$@"; }
ppl() { "$SSM_BIN/ssmeval" ppl -q "$@"; }
# step, tokens, loss and gradient norm of each step
curve() { cat "$1"/inc-*/metrics.jsonl | sed 's/.*"step":\([0-9]*\),.*"tokens":\([0-9]*\),.*"loss":\([^,]*\),.*"grad_norm":\([^,]*\),.*/\1 \2 \3 \4/' | sort -n; }
# like A B STEPS LIMIT: the same steps and tokens, losses and gradients within LIMIT of their size
like() { curve "$1" >a.curve && curve "$2" >b.curve && paste -d ' ' a.curve b.curve | awk -v steps="$3" -v lim="$4" '
    function off(x, y) { return x - y > lim * (1 + x) || y - x > lim * (1 + x) }
    $1 != $5 || $2 != $6 || off($3, $7) || off($4, $8) { bad = 1; print } { n++ } END { exit bad || n != steps }'; }
near() { awk -v a="$1" -v b="$2" -v lim="$3" 'BEGIN { d = a - b; exit !(d <= lim && d >= -lim) }' || { echo "$1 and $2"; return 1; }; }
bad() { # CODE TEXT COMMAND...: that exit code and one line that says why
    code=$1 text=$2
    shift 2
    must_exit "$code" "$@" 2>err >out && [ "$(wc -l <err)" -eq 1 ] && grep -qF -e "$text" err || { cat err >&2; return 1; }
}

tiny_model 'MSRL*-' >tiny.conf
tiny_text 90 | awk 'NF { n++; a = $1 " " $2; $1 = ""; printf "{\"prompt\": \"%s?\", \"completion\": \"%s\"}\n", a, $0 }' >talks.jsonl
"$T" pack -q --template plain --seq-len 96 -o packed talks.jsonl && "$T" pack -q --template plain --seq-len 96 --rows single -o single talks.jsonl || exit 1
P=$(value packed samples) S=$(value single samples)

# ---- packed is separate: an epoch a step, so all conversations are in each ----
ok 'steps on packed rows are steps on each conversation alone: losses, gradients, and what they make of the weights' '
    [ "$P" -lt $((S / 2)) ] && [ "$S" -eq "$(wc -l <talks.jsonl)" ] && [ "$(value packed targets)" -eq "$(value single targets)" ] &&
    train --batch $P --seq-len 96 --steps 5 -o rp packed && train --batch $S --seq-len 96 --steps 5 -o rs single && like rp rs 5 2e-5'
ok 'padding does nothing: longer rows, the same curve' 'train --batch $P --seq-len 150 --steps 5 -o longer packed && like rp longer 5 2e-5'
ok 'only what counts is counted' '
    [ "$(curve rp | tail -n 1 | cut -d " " -f 2)" -eq $((5 * $(value packed targets))) ] && [ "$(value packed targets)" -lt "$(value packed tokens)" ]'
ok 'speeds count what is computed: whole rows, masked tokens and padding too' '
    flops=$("$SSM_BIN/ssmtrain" -n --model ./tiny.conf --batch $P --seq-len 150 packed | sed -n "s/^flops_per_token_training=//p") &&
    sed "s/.*\"seconds\":\([^,]*\),\"tokens_per_s\":\([^,]*\),\"flops_per_s\":\([^,]*\),.*/\1 \2 \3/" longer/inc-0001/metrics.jsonl >speed &&
    awk -v tokens=$((150 * P)) -v flops="$flops" "function near(x, y) { return x < 1.01 * y && y < 1.01 * x }
        !near(\$1 * \$2, tokens) || !near(\$3, \$2 * flops) { bad = 1; print } END { exit bad || NR != 5 }" speed'
ok 'the mask matters: --loss all trains on more, and to other weights' '
    "$T" pack -q --template plain --loss all --seq-len 96 -o everything talks.jsonl && train --batch $P --seq-len 96 --steps 5 -o re everything &&
    [ "$(curve re | head -n 1 | cut -d " " -f 2)" -eq "$(value packed tokens)" ] && ! like rp re 5 1e-3 >/dev/null'
ok 'micro-batches: the mean is over the targets of the whole batch' 'train --batch $P --micro-batch 1 --seq-len 96 --steps 5 -o micro packed && like rp micro 5 2e-5'

# ---- rows without targets ----
"$MK" none 12 'abcde.fGH!' 'abcdef.' 'abcd.' 'qrs.tuv.' || exit 1
ok 'rows and micro-batches without a target take no part' '
    "$T" check -q none && "$MK" one 12 "abcde.fGH!" && train --batch 4 --micro-batch 1 --seq-len 12 --steps 4 -o rn none && train --batch 1 --seq-len 12 --steps 4 -o r1 one &&
    like rn r1 4 2e-5 && [ "$(curve rn | tail -n 1 | cut -d " " -f 2)" -eq 12 ]'
ok 'a batch without any target: loss 0, no step into nowhere' '
    "$MK" nothing 12 "abcd." "efg." && train --batch 2 --seq-len 12 --steps 3 -o r0 nothing && [ "$(curve r0 | awk "{ print \$2, \$3, \$4 }" | sort -u)" = "0 0 0" ] && "$SSM_BIN/ckmerge" verify -q r0 &&
    for n in 1 3; do "$SSM_BIN/ssmtrain" -q --model ./tiny.conf --batch 2 --seq-len 12 --steps $n --weight-decay 0.5 --ema 0.5 -o r0$n nothing || exit 1; done &&
    for r in r01 r03; do "$SSM_BIN/ckmerge" merge -q --drop-optimizer -o $r.model $r || exit 1; done && "$SSM_BIN/ckmerge" compare -q r01.model r03.model'
if $mpi -n 2 true 2>/dev/null; then
    ok 'a rank without a target: the curve of one rank' 'train2 --batch 4 --seq-len 12 --steps 4 -o rn2 none && like rn rn2 4 2e-5'
    ok 'two ranks: the curve of one, and stopped and gone on the same bits' '
        b=$((P / 2 * 2)) && train --batch $b --seq-len 96 --steps 6 -o w1 packed && train2 --batch $b --seq-len 96 --steps 6 -o w2 packed && like w1 w2 6 2e-5 &&
        must_exit 75 train2 --batch $b --seq-len 96 --steps 6 --stop-at 4 -o stopped packed && train2 --batch $b --seq-len 96 --steps 6 -o stopped packed && "$SSM_BIN/ckmerge" compare -q w2 stopped'
    ok 'scores do not depend on ranks' 'ppl --seq-len 96 rp packed >a && $mpi -n 3 "$SSM_BIN/ssmeval" ppl -q --seq-len 96 rp packed | cmp a -'
else
    skip 'ranks' 'no mpiexec'
fi

# ---- blends, scores ----
tiny_text 200 >text.txt
"$T" encode -q --split para -o plain text.txt
ok 'packed and plain sets in one run' '
    train --batch 8 --seq-len 96 --steps 4 -o blend packed plain@3 && "$SSM_BIN/ssmtrain" -n --model ./tiny.conf --batch 8 --seq-len 96 --steps 100 packed plain@3 >plan &&
    awk -v p=$P "\$1 == \"packed\" { exit !(\$4 == 0.25 && \$5 > 200 / p - 0.1 && \$5 < 200 / p + 0.1) }" plan'
ok 'stat --blend counts a packed set with its padding' '
    printf "packed epochs=2\nplain epochs=1\n" >b.blend && "$T" stat --blend b.blend >b.tsv &&
    awk -v p=$P "\$1 ~ /packed/ { exit !(\$5 == 2 * 96 * p) }" b.tsv && "$T" stat --blend b.blend --budget $((2 * 96 * P + $(value plain tokens))) | grep -q "packed.*	2.0000\$"'
ok 'held-out packed sets: bits per byte are unknown' '
    "$SSM_BIN/ssmtrain" --model ./tiny.conf --batch 4 --seq-len 96 --steps 1 --valid packed,plain --tensorboard -o looks plain 2>log && grep -q "packed.*\"bpb\":null" looks/inc-0001/valid.jsonl &&
    grep -q "plain.*\"bpb\":[1-9]" looks/inc-0001/valid.jsonl && grep "valid .packed" log | grep -qv bits && grep "valid .plain" log | grep -q bits'
ok 'ppl scores what counts, and says so; --no-mask all' '
    "$SSM_BIN/ssmeval" ppl --seq-len 96 rp packed >masked 2>log && grep -q "counts $(value packed targets) of $(value packed tokens) tokens as targets" log && [ "$(field masked 2)" = "$(value packed targets)" ] &&
    [ "$(field masked 4)" = 0 ] && [ "$(field masked 8)" = nan ] &&
    ppl --seq-len 96 --no-mask rp packed >whole && [ "$(field whole 2)" = "$(value packed tokens)" ] && [ "$(field whole 4)" = "$(value packed bytes)" ] &&
    ppl --seq-len 96 rp everything >e && [ "$(field e 5)" = "$(field whole 5)" ] && [ "$(field e 8)" != nan ]'
ok 'ppl of packed rows is that of each conversation alone, and the loss of the next step' '
    ppl --seq-len 96 rp single >s && near "$(field masked 5)" "$(field s 5)" 2e-6 && train --batch $P --seq-len 96 --steps 6 -o next packed &&
    near "$(field masked 5)" "$(curve next | tail -n 1 | cut -d " " -f 3)" 2e-5'
ok 'ppl --limit: rows that end within it, one at least' '
    ppl --seq-len 96 --limit 1 --no-mask rp packed >l && [ "$(field l 2)" -le 96 ] && [ "$(field l 2)" -ge 5 ] && ppl --seq-len 96 --limit 250 --no-mask rp packed >l &&
    [ "$(field l 2)" -le 250 ] && [ "$(field l 2)" -gt 100 ] && bad 1 "is a target" ppl --seq-len 12 rp nothing'
ok 'rows that do not fit, also of a held-out set: told before anything is begun; streams' '
    bad 2 "${q}packed$q has samples of up to 96 tokens, $q--seq-len$q is 64" "$SSM_BIN/ssmtrain" --model ./tiny.conf --seq-len 64 -o no packed &&
    bad 1 "${q}packed$q has samples of up to 96 tokens, --seq-len is 64" "$SSM_BIN/ssmeval" ppl --seq-len 64 rp packed &&
    bad 1 "${q}packed$q has samples of up to 96 tokens, --seq-len is 64" "$SSM_BIN/ssmtrain" --model ./tiny.conf --seq-len 64 --valid packed -o no plain &&
    bad 2 "${q}packed$q is packed" "$SSM_BIN/ssmtrain" --model ./tiny.conf --seq-len 96 --order stream -o no plain packed && [ ! -e no ]'
done_testing
