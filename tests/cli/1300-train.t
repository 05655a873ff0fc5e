#!/bin/sh
# 1300-train.t - tokenizers learnt from text: the same for any number of ranks, as Hugging Face learns them
# SPDX-License-Identifier: MIT
# shellcheck disable=SC1091,SC2015,SC2016,SC2034,SC2059  # ok evaluates its text, later
SSM_TOP=${SSM_TOP:-$(cd "${0%/*}/../.." && pwd)}
. "${0%/*}/../tap.sh"

T=$SSM_BIN/tokshard
G=$SSM_TOP/tests/golden/bpe_train
MPIEXEC=${MPIEXEC:-mpiexec}

one_line() { # CODE TEXT COMMAND...
    code=$1 text=$2
    shift 2
    must_exit "$code" "$@" 2>err >out || { cat err; return 1; }
    test "$(wc -l <err)" -eq 1 && ! test -s out && grep -qF -e "$text" err || { cat err; return 1; }
}
train() { "$T" train -q "$@"; }
no_litter() { test -z "$(find . -name '*.tmp.*')"; }

# Documents of all sizes, in text and JSONL, words of several alphabets
awk 'BEGIN {
    srand(3); split("low lower newest wider Stra\303\237e \320\266\320\270\320\267\320\275\321\214 \346\227\245\346\234\254 12 345 -- .. don'\''t", w, " ")
    for (i = 0; i < 3000; i++) {
        n = int(rand() * 9)
        for (k = 0; k < n; k++) printf "%s%s", (k ? " " : ""), w[1 + int(rand() * 12 * rand())]
        printf "\n%s", i % 7 ? "" : "\n"
    }
}' >a.txt
sed -n '1,400{/./s/.*/{"text": "&"}/p;}' a.txt >b.jsonl
: >empty.txt

ok 'learns, and says what' '
    "$T" train --vocab 300 -o t.json a.txt 2>err && grep -q "43 merges" err && test -s t.json && no_litter'
ok 'the file is a tokenizer.json with the special tokens first' '
    train --vocab 290 --specials "<s>,</s>" -o s.json a.txt &&
    grep -q "\"<s>\": *0, *\"</s>\": *1, *\"!\": *2" s.json && grep -q "\"id\": *1, *\"content\": *\"</s>\"" s.json'
ok 'no special tokens' 'train --vocab 260 --specials "" -o n.json a.txt && grep -q "\"!\": *0" n.json'
if $MPIEXEC -n 2 true 2>/dev/null; then
    for split in line file para; do
        ok "--split $split: one, two and three ranks write the same bytes" '
            train --vocab 400 --split $split -o one.json -f a.txt b.jsonl empty.txt &&
            for n in 2 3; do
                $MPIEXEC -n $n "$T" train -q -f --vocab 400 --split $split -o many.json a.txt b.jsonl empty.txt &&
                cmp one.json many.json || exit 1
            done'
    done
    ok 'two ranks: an input that is not there, exit 1' '
        must_exit 1 $MPIEXEC -n 2 "$T" train -q --vocab 400 -o late.json a.txt nowhere.txt 2>err &&
        grep -q "nowhere.txt" err && ! test -e late.json'
else
    skip 'ranks' "no $MPIEXEC"
fi
{ cat a.txt; printf 'caf\351 \377\376 caf\351 end\n'; } >dirty.txt
{ cat a.txt; printf 'caf\357\277\275 \357\277\275\357\277\275 caf\357\277\275 end\n'; } >mended.txt
ok '--utf8: what is not UTF-8 is refused with its place, mended as encode mends it, or skipped with its document' '
    size=$(wc -c <a.txt) && one_line 1 "dirty.txt:byte $((size + 3)): invalid UTF-8" train --vocab 400 --split line -o x.json dirty.txt &&
    ! test -e x.json && train --vocab 400 --split line --utf8 replace -o r.json dirty.txt &&
    train --vocab 400 --split line -o m.json mended.txt && cmp r.json m.json &&
    "$T" train --vocab 400 --split line --utf8 replace -f -o r.json dirty.txt 2>err && grep -q "U+FFFD put in: 4 times" err &&
    train --vocab 400 --split line --skip-bad -o s.json -f dirty.txt && train --vocab 400 --split line -o a.json a.txt &&
    cmp s.json a.json && one_line 2 "utf8" train --vocab 400 --utf8 keep -o x.json a.txt'
ok '--utf8 replace: what encode holds out is left out' '
    for x in dirty mended; do train --vocab 400 --split line --valid-share 0.5 --utf8 replace -o $x.json $x.txt || exit 1; done &&
    cmp dirty.json mended.json && ! cmp -s mended.json m.json'
ok 'the order of the inputs does not matter' '
    train --vocab 400 --split line -o ab.json a.txt b.jsonl && train --vocab 400 --split line -o ba.json b.jsonl a.txt &&
    cmp ab.json ba.json'
if [ -d "$G" ]; then
    # What Hugging Face made of the same text; here as in tests/bpe_train.c, but with our words.
    field() { sed "s/\": /\":/g; s/, /,/g; s/.*\"$2\"://; s/,\"[a-z]*\":.*//; s/}*\$//" "$1"; }
    golden() { # NAME OPTION...
        name=$1
        shift
        train -o "$name.json" "$@" "$G/$name.txt" && field "$name.json" merges >got && field "$G/$name.json" merges >want &&
            test "$(wc -c <want)" -gt 1000 && cmp want got
    }
    ok 'merges are those of BpeTrainer' '
        golden plain --vocab 600 --specials "<|endoftext|>,<pad>" && golden runs --vocab 700 --min-frequency 1 --specials ""'
    ok 'special tokens that are words too' 'golden clash --vocab 400 --min-frequency 3 --specials "a,ka,Ġto,zz"'
else
    skip 'merges are those of BpeTrainer' 'no golden files here'
fi
ok 'each pattern cuts in its own way' '
    printf "1234567 defABC 1234567 defABC don'\''t Don'\''T\n\n\n" >p.txt &&
    for p in gpt2 cl100k o200k; do train --vocab 280 --pattern $p -o $p.json p.txt 2>/dev/null || exit 1; done &&
    ! cmp -s gpt2.json cl100k.json && ! cmp -s cl100k.json o200k.json &&
    grep -q "1234567" gpt2.json && ! grep -q "1234" cl100k.json && grep -q "defABC" cl100k.json && ! grep -q "defABC" o200k.json'
ok '--valid-share leaves out what encode --take valid takes' '
    "$T" encode -q -o kept --split line --take train --valid-share 0.3 a.txt &&
    "$T" cat --sep "\n" kept >kept.txt && train --vocab 350 --split line -o k1.json kept.txt &&
    train --vocab 350 --split line --valid-share 0.3 -o k2.json a.txt && cmp k1.json k2.json &&
    train --vocab 350 --split line -o k3.json a.txt && ! cmp -s k1.json k3.json'
ok 'a text that has no more pairs: fewer tokens and a warning' '
    printf "ab ab" >few.txt && "$T" train -q --vocab 300 -o few.json few.txt 2>err && grep -q "only 258 tokens, not 300" err'
ok 'what is not UTF-8 is refused, with its place; NUL bytes are text' '
    printf "good\n\nna\303\257ve\0 and \303(\n" >bin && must_exit 1 "$T" train --vocab 270 --split para -o bin.json bin 2>err && grep -q "bin:byte 18: .*0xc3" err && [ "$(wc -l <err)" -eq 1 ] && [ ! -e bin.json ] &&
    printf "a\0\0b \0\0\0c\n" >nul && train --vocab 258 -o nul.json nul'

# ---- refusals: one line each, nothing written ----
ok 'usage' '
    one_line 2 "-o FILE" "$T" train --vocab 300 a.txt && one_line 2 "--vocab N" "$T" train -o x.json a.txt &&
    one_line 2 "less than 256 bytes and 1 special" "$T" train --vocab 256 -o x.json a.txt &&
    one_line 2 "empty token" "$T" train --vocab 300 --specials "a,,b" -o x.json a.txt &&
    one_line 2 "empty token" "$T" train --vocab 300 --specials "a," -o x.json a.txt &&
    one_line 2 "not UTF-8" "$T" train --vocab 300 --specials "$(printf "\377")" -o x.json a.txt &&
    one_line 2 "need each other" "$T" train --vocab 300 --split sep -o x.json a.txt && ! test -e x.json'
ok 'inputs: not there, empty, bad JSONL, the output itself' '
    one_line 1 "nowhere.txt" "$T" train --vocab 300 -o x.json nowhere.txt &&
    one_line 1 "no documents" "$T" train --vocab 300 -o x.json empty.txt &&
    printf "{\"text\": \"fine\"}\n{\n" >bad.jsonl && one_line 1 "bad.jsonl:2: " "$T" train --vocab 300 -o x.json bad.jsonl &&
    "$T" train -q --skip-bad --vocab 257 -o y.json bad.jsonl &&
    cp a.txt same.txt && one_line 1 "both input and output" "$T" train -f --vocab 300 -o same.txt same.txt &&
    cmp a.txt same.txt && ! test -e x.json && no_litter'
ok 'what is there stays, but for --force' '
    echo old >old.json && one_line 1 "--force" "$T" train --vocab 300 -o old.json a.txt && test "$(cat old.json)" = old &&
    train -f --vocab 300 -o old.json a.txt && cmp t.json old.json'
ok 'more distinct words than --memory: one line' '
    one_line 1 "--memory" "$T" train --memory 1100 --vocab 300 -o x.json a.txt b.jsonl "$T" && ! test -e x.json && no_litter'
ok 'a folder that is not there, a full disk: one line, nothing left' '
    one_line 1 "no/such" "$T" train --vocab 300 -o no/such/x.json a.txt &&
    ( ulimit -f 1; trap "" XFSZ; one_line 1 "too large" "$T" train --vocab 400 -o full.json a.txt ) && ! test -e full.json &&
    no_litter'
done_testing
