#!/bin/sh
# 9000-pipeline.t - pipelines/pretrain.sh from text to report: stages, skips, interruptions, bad .conf files
# SPDX-License-Identifier: MIT
#
# 'work' and 'prompt' of a .conf may hold blanks, and so may the folder of the .conf. 'input', 'encode', 'train', 'eval' and
# 'generate' are lists of words: a blank in a file name there is not supported. The report needs gnuplot.
SSM_TOP=${SSM_TOP:-$(cd "${0%/*}/../.." && pwd)}
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS SSM_BIN
unset SSM_MPIEXEC
pretrain() { timeout -k 5 100 "$SSM_TOP/pipelines/pretrain.sh" "$@"; }
report() { timeout -k 5 60 "$SSM_TOP/pipelines/report.sh" "$@"; }
# says CODE TEXT CONF...: that exit code and one line on stderr, which holds TEXT
says() {
    code=$1 text=$2
    shift 2
    must_exit "$code" pretrain "$@" >out 2>err || { cat err; return 1; }
    [ "$(wc -l <err)" -eq 1 ] && grep -q -e "$text" err || { cat err; return 1; }
}
if command -v gnuplot >/dev/null; then plots=yes; else plots=no; fi
needs_plots() { # TITLE COMMANDS
    if [ $plots = yes ]; then ok "$@"; else skip "$1" 'no gnuplot'; fi
}

mkdir texts 'my work'
awk 'BEGIN { srand(7); split("the a <one> every & no", d); split("cat dog bird stone river", n); split("sees eats likes fears", v)
    for (i = 0; i < 800; i++) { print d[int(rand()*6)+1], n[int(rand()*5)+1], v[int(rand()*4)+1], d[int(rand()*6)+1] "."
    if (i % 3 == 2) print "" > "texts/" i % 2 ".txt"; print d[i % 6 + 1], n[i % 5 + 1] > "texts/" i % 2 ".txt" } }' >texts/2.txt
tiny_model 'M-*' >tiny.conf
cat >whole.conf <<CONF
# a comment, and blanks around
  work = $PWD/my work/whole   # where it goes
input    = texts/*.txt
encode = --split para
valid = 0.2
ranks = 2
model = ./tiny.conf

train = --steps 12 --warmup 2 --batch 4 --seq-len 64 --lr 5e-3
eval = --seq-len 128
prompt = the <cat> & "dog"
generate = --tokens 20 --temperature 0.7
CONF
w="my work/whole"

ok 'data, train, merge, eval: each leaves its work' '
    pretrain whole.conf data train merge eval 2>log || { cat log; exit 1; }
    for d in train valid model; do "$SSM_BIN/ckmerge" verify -q "$w/$d" 2>/dev/null || "$SSM_BIN/tokshard" check -q "$w/$d" || exit 1; done
    [ -e "$w/train/part-00001-of-00002.h5" ] && [ "$(wc -l <"$w/run/inc-0001/metrics.jsonl")" -eq 12 ] && [ ! -e "$w/report.html" ]'
ok 'the scores are those of the tool, the sample begins with the prompt' '
    [ "$(wc -l <"$w/scores.tsv")" -eq 2 ] && "$SSM_BIN/ssmeval" ppl -q --seq-len 128 "$w/model" "$PWD/$w/valid" | cmp "$w/scores.tsv" - &&
    head -n 1 "$w/sample.txt" | grep -qF "the <cat> & \"dog\""'
ok 'train and valid share no document and lack none' '
    for s in train valid; do "$SSM_BIN/tokshard" cat --ids "$w/$s" >$s.ids; done
    "$SSM_BIN/tokshard" encode -q --split para -o all texts/*.txt && "$SSM_BIN/tokshard" cat --ids all | sort >want &&
    sort train.ids valid.ids | cmp want - && [ -s valid.ids ] && [ "$(wc -l <valid.ids)" -lt "$(wc -l <train.ids)" ]'
needs_plots 'all stages: what is done is left alone, the rest is made' '
    find "my work" -type f -printf "%p %T@\n" | sort >before && pretrain whole.conf 2>log && [ "$(grep -c "done already" log)" -eq 6 ] &&
    [ -s "$w/report.html" ] && find "my work" -type f ! -name report.html -printf "%p %T@\n" | sort | cmp before -'
needs_plots 'once more: nothing to do' '
    pretrain whole.conf 2>log && [ "$(grep -c "done already" log)" -eq 7 ] && [ "$(wc -l <log)" -eq 7 ]'
ok 'a stage whose work is gone is made again, and only that' '
    rm "$w/scores.tsv" && pretrain whole.conf merge eval 2>log && [ "$(grep -c "done already" log)" -eq 2 ] && [ -s "$w/scores.tsv" ]'
ok 'no half files are left' '[ -z "$(find "my work" -name "*.tmp*")" ]'

# ---- the report ----
needs_plots 'the report: four pictures, tables and texts, nothing from elsewhere' '
    [ "$(grep -c "<svg" "$w/report.html")" -eq 4 ] && [ "$(grep -c "</svg>" "$w/report.html")" -eq 4 ] &&
    ! sed "s/xmlns[:a-z]*=\"[^\"]*\"//g" "$w/report.html" | grep -n -e "https*:" -e "src=" -e "@import" -e "url([^#]" &&
    grep -q "the &lt;cat&gt; &amp; \"dog\"" "$w/report.html" && ! grep -q "<cat>" "$w/report.html" &&
    grep -q "Steps 1 to 12" "$w/report.html" && grep -q "<th>nats_per_token</th>" "$w/report.html" && grep -q "pattern = M-" "$w/report.html"'
needs_plots 'the ids of the pictures differ' '
    tr "\047" "\042" <"$w/report.html" >quotes && grep -o " id=\"[^\"]*\"" quotes | sort >ids && [ "$(wc -l <ids)" -gt 40 ] &&
    uniq -d ids >twice && { [ ! -s twice ] || { cat twice; exit 1; }; } &&
    sed -n "s/.*href=\"#\([^\"]*\)\".*/\1/p; s/.*url(#\([^)]*\)).*/\1/p" quotes | sort -u >used && [ -s used ] &&
    while read -r id; do grep -qx " id=\"$id\"" ids || { echo "no $id"; exit 1; }; done <used'
if [ $plots = yes ] && command -v xmllint >/dev/null; then
    # The parser is older than HTML 5: it does not know svg's tags, and says nothing else.
    ok 'a strict parser reads the report' '
        xmllint --html --noout "$w/report.html" 2>&1 | grep "error :" | grep -v "Tag [a-zA-Z]* invalid" >faults; [ ! -s faults ] || { cat faults; exit 1; }
        sed -n "/<svg/,/<\/svg>/p" "$w/report.html" | sed "1s/.*/<all>&/; \$s/\$/<\/all>/" >svgs.xml && xmllint --noout svgs.xml'
else
    skip 'a strict parser reads the report' 'no gnuplot or xmllint'
fi
line() { echo "{\"step\":$1,\"samples\":$1,\"tokens\":$(($1 * 10)),\"loss\":$2,\"lr\":0.1,\"grad_norm\":1,\"seconds\":1,\"tokens_per_s\":10,\"flops_per_s\":1,\"data_wait\":0}"; }
needs_plots 'of a step in two files the later start counts' '
    mkdir -p two/inc-0001 two/inc-0002 && { line 1 5; line 2 5; printf "{\"step\":3,\"sam"; } >two/inc-0001/metrics.jsonl && { line 2 4; line 3 4; } >two/inc-0002/metrics.jsonl &&
    report -o two.html -t "a <title>" two && grep -q "Steps 1 to 3, 30 tokens, 3 s of steps (10 tokens/s)" two.html && grep -q "<h1>a &lt;title&gt;</h1>" two.html'
needs_plots 'of a step twice in one file the later line counts' '
    mkdir -p gone-back/inc-0001 && { line 1 5; line 2 5; line 3 5; line 2 4; line 2 3; line 3 3 | sed "s/\"lr\"/\"rewinds\":2,&/"; } >gone-back/inc-0001/metrics.jsonl && report -o back.html gone-back &&
    grep -q "Steps 1 to 3, 30 tokens, 3 s of steps.*per token, 2 times back to a checkpoint\.<" back.html'
needs_plots 'the page: tokens that are scored, and the speed of what is computed' '
    mkdir -p masked && cp -r two/inc-0001 masked && sed -i "s/\"tokens_per_s\":10/\"tokens_per_s\":40/" masked/inc-0001/metrics.jsonl &&
    report -o masked.html masked && grep -q " s of steps (40 tokens/s)" masked.html'
ok 'a report of nothing' '
    mkdir -p empty/inc-0001 && must_exit 2 report two 2>err && must_exit 2 report -x 2>err && [ "$(wc -l <err)" -le 2 ] &&
    must_exit 1 report -o e.html nowhere 2>err && [ "$(wc -l <err)" -eq 1 ] && must_exit 1 report -o e.html empty 2>err && : >empty/inc-0001/metrics.jsonl &&
    must_exit 1 report -o e.html empty 2>err && [ ! -e e.html ]'

# ---- interruption ----
sed "s/^ *work =.*/work = $(pwd | sed 's/\//\\\//g')\/parts/; s/^ranks.*/ranks = 1/; s/^\(train =.*\)/\1 --stop-at 5/" whole.conf >stop.conf
ok 'told to stop: 75 passes through, later stages wait, the same command goes on' '
    must_exit 75 pretrain stop.conf data train merge eval 2>log && [ ! -e parts/run.done ] && [ ! -e parts/model ] &&
    sed "s/ --stop-at 5//" stop.conf >go.conf && pretrain go.conf data train merge eval 2>log && [ -e parts/scores.tsv ] &&
    [ "$(cat parts/run/inc-*/metrics.jsonl | wc -l)" -eq 12 ]'
ok 'a signal to the training passes through as 75' '
    sed "s/--steps 12 --/--steps 100000 --save-every 0 --/; s/parts/long/" go.conf >long.conf &&
    pretrain long.conf data train merge 2>log & pid=$!
    wait_for long/run/inc-0001/metrics.jsonl && read -r _ trainer _ <long/run/inc-0001/lock && kill -TERM "$trainer"
    must_exit 75 wait $pid && [ ! -e long/run.done ] && [ ! -e long/model ]'
ok 'tokenizer = train:N learns one from the training documents, once' '
    sed "s/parts/learnt/; s/^encode *=/& --skip-bad --eod <eod>/" go.conf >learnt.conf && grep -q "^encode" learnt.conf &&
    { echo "tokenizer = train:300"; echo "learn = --specials <eod>"; } >>learnt.conf &&
    pretrain learnt.conf data 2>log &&
    grep -q "\"<eod>\"" learnt/tokenizer.json && grep -q -e "--vocab 300 --valid-share" log && grep -q -e "--tokenizer=" log &&
    pretrain learnt.conf data train merge eval 2>log && head -n 1 learnt/sample.txt | grep -qF "the <cat>" &&
    sed "/^tokenizer/d" learnt.conf >bad.conf && must_exit 2 pretrain bad.conf data 2>log && grep -q "needs .tokenizer = train:N" log'
ok 'curve: every checkpoint that was kept is scored, in shares' '
    sed "s/parts/bend/; s/^train = /&--save-every 4 --keep 5 /" go.conf >bend.conf && echo "curve = 2" >>bend.conf && pretrain bend.conf data train merge 2>log &&
    pretrain bend.conf curve:2/2 2>log && [ "$(ls bend/curve/*.tsv | wc -l)" -eq 1 ] && pretrain bend.conf --list | grep -qx "curve	2	1	todo" &&
    pretrain bend.conf eval 2>log && pretrain bend.conf --list | grep -qx "curve	2	1	done" && says 2 "not a share of 2" bend.conf curve:3/3 && [ "$(ls bend/curve/*.tsv | wc -l)" -eq 3 ] &&
    [ "$(sed -n 2p bend/scores.tsv | cut -f 2-)" = "$(sed -n 2p bend/curve/step-00000012.tsv | cut -f 2-)" ]'
ok 'a stage that fails ends the pipeline with its code and leaves no trace of a result' '
    sed "s/parts/fails/; s/^eval.*/eval = --seq-len 0/" go.conf >fails.conf && must_exit 2 pretrain fails.conf data train merge eval 2>log &&
    [ ! -e fails/scores.tsv ] && [ -e fails/model/index.h5 ] && grep -q "below 1" log'

# ---- a .conf that will not do ----
bad() { { cat go.conf; printf '%s\n' "$1"; } >bad.conf; says 2 "$2" bad.conf; }
ok 'a .conf: unknown and doubled keys, no equals sign, a missing one' '
    n=$(($(wc -l <go.conf) + 1)) && bad "wrok = x" "bad.conf:$n: unknown key .wrok" && bad "ranks = 2" "bad.conf:$n: key .ranks. stands here twice" &&
    bad "just words" "bad.conf:$n: .just words. is not" && bad "= x" "bad.conf:$n: unknown key" && bad "a.b = \$(touch ran)" "unknown key" && [ ! -e ran ] &&
    sed /^model/d go.conf >bad.conf && says 2 "model. is missing" bad.conf && says 2 "nowhere.conf" nowhere.conf && says 2 "usage" && says 2 "unknown stage .lunch" go.conf lunch'
ok 'values are words, never commands' '
    sed "s/^prompt.*/prompt = \$(touch ran) \`touch ran\`; touch ran/; s/parts/quoted/; s/^generate.*/generate = --tokens 3/" go.conf >quoted.conf &&
    pretrain quoted.conf data train merge eval 2>log && [ ! -e ran ] && grep -q "touch ran.; touch ran" quoted/sample.txt'
ok 'no tools' 'SSM_BIN=/nowhere says 1 "no tokshard in ./nowhere" go.conf'
ok 'a .conf without a last line end' 'printf %s "$(cat go.conf)" >cut.conf && pretrain cut.conf data train merge eval 2>log && ! grep -qv "done already" log'
done_testing
