#!/bin/sh
# 5000-options.t - each option of tokshard, ckmerge and ssmeval does something: which test says what, and the rest
# SPDX-License-Identifier: MIT
SSM_TOP=${SSM_TOP:-$(cd "${0%/*}/../.." && pwd)}
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS
T=$SSM_BIN/tokshard C=$SSM_BIN/ckmerge E=$SSM_BIN/ssmeval MK=${SSM_TESTS:-$SSM_BIN/../tests}/mkckpt

value() { "$T" stat "$1" | sed -n "s/^$2	//p"; } # value DIR NAME
train() { "$T" train -q --vocab 270 "$@" 2>/dev/null; } # fewer tokens than that are a warning
smaller() { [ "$(cat "$1"/part-* | wc -c)" -lt "$(cat "$2"/part-* | wc -c)" ]; }
# lines N COMMAND...: with at least N lines of progress; N 0: without any
lines() {
    least=$1
    shift
    "$@" 2>err || { cat err; return 1; }
    n=$(grep -c " eta " err)
    if [ "$least" -eq 0 ]; then [ "$n" -eq 0 ]; else [ "$n" -ge "$least" ]; fi
}
awk 'BEGIN { for (i = 0; i < 4000; i++) print "line", i * 7 % 13, "of many,", i }' >many.txt
sed 's/.*/{"prompt": "&?", "completion": "yes"}/' many.txt >talks.jsonl
"$T" encode -q --split line -o many many.txt && "$T" export -q -o out many || exit 1

# ---- tokshard ----
ok '--log-every: time between lines of progress' '
    lines 2 "$T" encode --split line --log-every 0 -o log1 many.txt && lines 0 "$T" encode --split line --log-every 100 -o log2 many.txt &&
    lines 2 "$T" pack --template plain --log-every 0 -o log3 talks.jsonl && lines 0 "$T" pack --template plain --log-every 100 -o log4 talks.jsonl &&
    lines 2 "$T" train --vocab 300 --split line --log-every 0 -o log5 many.txt && lines 0 "$T" train --vocab 300 --split line --log-every 100 -o log6 many.txt'
ok '--level: fewer bytes, the same set' '
    "$T" encode -q --split line --level 19 -o many19 many.txt && smaller many19 many && "$T" cat many >want && "$T" cat many19 | cmp - want &&
    "$T" import -q --level 19 -o back19 out && smaller back19 many && "$T" cat back19 | cmp - want &&
    "$T" pack -q --template plain --level 19 -o talks19 talks.jsonl && "$T" pack -q --template plain -o talks talks.jsonl && smaller talks19 talks && "$T" cat talks >want && "$T" cat talks19 | cmp - want'
ok 'pack --shards, pack --threads: files of the set' '
    "$T" pack -q --template plain --shards 3 -o shards talks.jsonl && [ "$(value shards members)" -eq 3 ] &&
    "$T" pack -q --template plain --threads 3 -o threads talks.jsonl && [ "$(value threads members)" -eq 3 ] && [ "$(value threads documents)" -eq 4000 ]'
ok 'pack --eod: the token that ends a conversation' '
    train --specials "<|endoftext|>,<end>" -o two.json many.txt && head -n 1 talks.jsonl >talk.jsonl &&
    "$T" pack -q --tokenizer two.json --template plain -o eod0 talk.jsonl && "$T" cat --ids eod0 | grep -q " 0\$" &&
    "$T" pack -q --tokenizer two.json --template plain --eod "<end>" -o eod1 talk.jsonl && "$T" cat --ids eod1 | grep -q " 1\$"'
printf 'abab\nEND\nabab cdcd\nEND\ncdcd' >sep.txt
printf '{"%s": "abab", "other": "xyxy"}\n{"%s": "abab cdcd"}\n{"%s": "cdcd"}\n' text text text >docs.jsonl
sed 's/"text"/"body"/' docs.jsonl >bodies.jsonl
cp docs.jsonl named.txt
ok 'train --format, --text-key, --separator: the same words, the same tokenizer; --max-line: longer lines are bad' '
    train -o docs docs.jsonl && train --format jsonl -o named named.txt && cmp docs named && train --text-key body -o bodies bodies.jsonl && cmp docs bodies &&
    train --split sep --separator END -o sep sep.txt && cmp docs sep && train --split sep --separator never -o whole sep.txt && ! cmp -s docs whole &&
    must_exit 1 "$T" train --vocab 270 --max-line 30 -o short docs.jsonl 2>err && grep -q "docs.jsonl:1: the line has" err && train --max-line 35 -o long docs.jsonl && cmp docs long'
ok 'merge --force: another set in its place' '
    "$T" merge -q -o all many many && must_exit 1 "$T" merge -q -o all many 2>/dev/null && "$T" merge -q -f -o all many && [ "$(value all documents)" -eq 4000 ] && "$T" check -q all'

# ---- ckmerge ----
"$MK" one 1 1 && "$MK" other 2 1 || exit 1
ok 'average --force: another model in its place' '
    "$C" average -q -o mean one one && must_exit 1 "$C" average -q -o mean other other 2>/dev/null && "$C" average -q -f -o mean other other && "$C" compare -q --model-only mean other'

# ---- ssmeval ----
tiny_model 'M*' >tiny.conf
"$MK" model 5 1 ./tiny.conf'*0.2' && "$T" encode -q -o data many.txt || exit 1
awk 'BEGIN { print "{\"task\": \"t\", \"output_type\": \"loglikelihood\"}"; for (i = 0; i < 12; i++) print "{\"context\": \"the\", \"continuation\": \" cat " i "\"}" }' >task.jsonl
awk 'BEGIN { for (i = 0; i < 12; i++) print "{\"prompt\": \"the\"}" }' >prompts.jsonl
# first COMMAND...: how much the first line of progress says is done
first() { "$E" "$@" 2>&1 >/dev/null | sed -n 's/^ssmeval: *[0-9]*% \([0-9]*\)\/.*/\1/p' | head -n 1; }
ok '--batch: so many are done after the first' '
    for b in 1 3 12; do
        [ "$(first ppl --seq-len 32 --limit 500 --batch $b model data)" -eq $b ] && [ "$(first tasks --tokenizer bytes --bootstrap 0 --batch $b model task.jsonl)" -eq $b ] &&
        [ "$(first generate --tokenizer bytes --tokens 2 --past-end --prompts prompts.jsonl --batch $b model)" -eq $b ] || { echo $b; exit 1; }
    done'
# OpenMP shows a line for each thread of a team.
team() { OMP_DISPLAY_AFFINITY=TRUE OMP_AFFINITY_FORMAT='team of %N' "$E" "$@" 2>&1 >/dev/null | grep -c '^team of 2$'; }
ok '--threads: so many compute' '
    [ "$(team ppl -q --limit 64 --threads 2 model data)" -ge 2 ] && [ "$(team ppl -q --limit 64 --threads 1 model data)" -eq 0 ] &&
    [ "$(team tasks -q --tokenizer bytes --bootstrap 0 --threads 2 model task.jsonl)" -ge 2 ] && [ "$(team tasks -q --tokenizer bytes --bootstrap 0 --threads 1 model task.jsonl)" -eq 0 ] &&
    [ "$(team generate -q --tokenizer bytes --tokens 2 --threads 2 model)" -ge 2 ] && [ "$(team generate -q --tokenizer bytes --tokens 2 --threads 1 model)" -eq 0 ]'

# On the CPU: fp32 and nothing else; no GPU is there where none is.
ok '--device, --precision' '
    "$E" ppl -q --limit 64 model data >want && "$E" ppl -q --limit 64 --device cpu --precision fp32 model data | cmp want - &&
    must_exit 2 "$E" ppl --device cpu --precision bf16 model data 2>err && grep -q "bf16" err &&
    must_exit 2 "$E" tasks --device cpu --precision tf32 --tokenizer bytes model task.jsonl 2>err && grep -q "tf32" err &&
    must_exit 2 "$E" generate --device cpu --precision bf16 --tokenizer bytes model 2>err && grep -q "bf16" err &&
    for c in "ppl model data" "tasks model task.jsonl" "generate model"; do
        must_exit 1 env SSM_CUDA=/no/such/object "$E" ${c%% *} --device cuda ${c#* } 2>err && grep -q "no device .cuda." err || exit 1
    done'

# ---- of all commands, read in one place ----
ok '--quiet: not a word but of what is wrong; --verbose: each bad line' '
    echo "{" >>docs.jsonl && "$T" encode --skip-bad -o words docs.jsonl 2>err && [ -s err ] && ! grep -q "docs.jsonl:4" err &&
    "$T" encode --quiet --skip-bad -f -o words docs.jsonl 2>err && [ ! -s err ] && "$T" encode --verbose --skip-bad -f -o words docs.jsonl 2>err && grep -q "skipped docs.jsonl:4: bad JSON" err &&
    "$C" verify one 2>err && [ -s err ] && "$C" verify --quiet one 2>err && [ ! -s err ]'

# ---- the table ----
# tool, command (or what a test calls it), test that would fail if the option were read and left at that, options.
# The word of the command and the option stand on one line of that test. The options that every command has are read in
# common/base/opt.c for all of them: two are at encode, --help and --version in 0000-contract.t. ssmtrain: 2700-options.t.
cat >rows <<'ROWS'
tokshard encode 1000-tokshard.t output tokenizer specials eod format split separator text-key max-line skip-bad id-key part shards threads take valid-share force dry-run
tokshard encode 1100-inputs.t compression files-from null utf8 take-ids drop-ids
tokshard encode 5000-options.t level log-every quiet verbose
tokshard pack|bad|dry|common 1400-pack.t output template shape loss seq-len too-long rows window seed tokenizer compression files-from null max-line skip-bad utf8 part take valid-share force dry-run
tokshard pack 5000-options.t eod shards threads level log-every
tokshard train|golden 1300-train.t output vocab pattern min-frequency specials valid-share split skip-bad utf8 memory force
tokshard train 5000-options.t format separator text-key max-line log-every
tokshard index 1000-tokshard.t force
tokshard cat 1000-tokshard.t doc ids sep tokenizer
tokshard cat 1400-pack.t mask
tokshard stat 1200-exchange.t blend budget
tokshard merge 1200-exchange.t output
tokshard merge 5000-options.t force
tokshard import 1200-exchange.t output format tokenizer specials vocab eod tokenizer-hash append-eod sequences part-tokens log-every force
tokshard import 5000-options.t level
tokshard export 1200-exchange.t output format dtype drop-eod file-tokens force
ckmerge compare 3000-ckmerge.t tolerance model-only
ckmerge merge 2200-start.t ema
ckmerge merge 3000-ckmerge.t output force dry-run drop-optimizer dtype
ckmerge split 0000-contract.t force
ckmerge split 3000-ckmerge.t output parts dry-run drop-optimizer
ckmerge average 3000-ckmerge.t output weights dtype dry-run
ckmerge average 5000-options.t force
ckmerge import 3100-exchange.t output as ignore parts force
ckmerge export 3100-exchange.t output to dtype shard-size force
ssmeval ppl 2900-packed.t no-mask
ssmeval ppl 4000-ssmeval.t seq-len stride limit
ssmeval ppl 5000-options.t batch threads device precision
ssmeval tasks|golden 4010-tasks.t tokenizer seq-len limit bootstrap output log-samples force
ssmeval tasks 4020-generate.t bos
ssmeval tasks 5000-options.t batch threads device precision
ssmeval generate|gen 4000-ssmeval.t prompt prompt-file tokenizer tokens temperature top-k top-p seed
ssmeval generate|gen|one 4020-generate.t prompts min-p repetition-penalty stop past-end
ssmeval generate 5000-options.t batch threads device precision
ssmeval synth 4030-synth.t length shortest count seed shots as tokenizer output force
ROWS
ok 'each option of --help is in the table once, and no other' '
    for t in tokshard ckmerge ssmeval; do
        for c in $("$SSM_BIN/$t" --complete); do
            "$SSM_BIN/$t" "$c" --help | sed -n "s/^  \(-\(.\),\|   \) --\([a-z0-9-]*\).*/$t $c \3 \2/p"
        done
    done | grep -v -e " help h\$" -e " version V\$" >letters && [ "$(wc -l <letters)" -gt 150 ] &&
    grep -v -e " quiet q\$" -e " verbose v\$" letters | cut -d " " -f 1-3 >want && echo "tokshard encode quiet
tokshard encode verbose" >>want && sort want >help &&
    sed "s/|[^ ]*//" rows | while read -r t c file names; do for o in $names; do echo "$t $c $o"; done; done | sort >table && diff help table'
ok 'each option stands in the test that the table names, beside its command' '
    while read -r t c file names; do
        for o in $names; do
            letter=$(sed -n "s/^$t ${c%%|*} $o \(.\)\$/\1/p" letters) &&
            grep -qE -e "(^|[^a-z-])($c)([^a-z-].*)?[ \"]-(-$o${letter:+|$letter})([ =\"]|\$)" "$SSM_TOP/tests/cli/$file" || { echo "$t $c --$o: not in $file"; exit 1; }
        done
    done <rows'
done_testing
