#!/bin/sh
# 1000-tokshard.t - text and JSONL to shards and back: cuts, bad inputs, kills
# SPDX-License-Identifier: MIT
# shellcheck disable=SC1091,SC2015,SC2016,SC2034,SC2059  # ok evaluates its text, later
SSM_TOP=${SSM_TOP:-$(cd "${0%/*}/../.." && pwd)}
. "${0%/*}/../tap.sh"

T=$SSM_BIN/tokshard
MPIEXEC=${MPIEXEC:-mpiexec}

# one_line CODE TEXT COMMAND...: exits with CODE and says one line on stderr, which holds TEXT.
one_line() {
    code=$1 text=$2
    shift 2
    must_exit "$code" "$@" 2>err >/dev/null || { cat err; return 1; }
    test "$(wc -l <err)" -eq 1 && grep -qF -e "$text" err || { cat err; return 1; }
}
encode() { "$T" encode -q "$@"; }
# The fields of `stat`, `encode -n`: value DIR NAME
value() { "$T" stat "$1" | sed -n "s/^$2	//p"; }
no_litter() { test -z "$(find "$1" -name '*.tmp.*' 2>/dev/null)"; }

# ---- inputs: awkward line ends, a file without a last one, an empty one, one without documents ----
printf 'One\n  two\r\n\r\n \t\nThree\n\n\nFour' >a.txt
: >empty.txt
printf '\n\n \r\n' >blank.txt
i=0
while [ $i -lt 700 ]; do
    printf 'document %d says\n%*s.\r\nEND\n' $i $((i % 90)) x
    [ $((i % 7)) -ne 0 ] || printf '\nEND\r\n'
    [ $((i % 5)) -ne 0 ] || printf '\n'
    i=$((i + 1))
done >b.txt
{ head -c 3000 /dev/zero; printf '\377\376\nEND\nlast\377'; } >c.bin
ALL='a.txt empty.txt b.txt blank.txt c.bin'

ok 'a file is a document, byte for byte' '
    encode -o file $ALL && cat $ALL >want && "$T" cat file >got && cmp want got &&
    test "$(value file documents)" -eq 4 && test "$(value file bytes)" -eq "$(wc -c <want)"'
ok 'lines: blank ones are none, line ends do not count' '
    encode -o line --split line a.txt && printf "One|  two|Three|Four|" >want &&
    "$T" cat --sep "|" line >got && cmp want got'
ok 'paragraphs keep their inner line ends' '
    encode -o para --split para a.txt && printf "One\n  two|Three|Four|" >want &&
    "$T" cat --sep "\x7c" para >got && cmp want got'
ok 'separator lines, with CR or not' '
    printf "END\na\n\nEND\r\nEND\n\nb\r\nEND \nEND" >s.txt &&
    encode -o sep --split sep --separator END s.txt && printf "a\n<>\nb\r\nEND <>" >want &&
    "$T" cat --sep "<>" sep >got && cmp want got'
ok 'one document, counted from 0' '
    printf "  two" >want && "$T" cat --doc 1 line >got && cmp want got &&
    printf Four >want && "$T" cat --doc 3 line >got && cmp want got'
ok 'ids are bytes and 256 at the end' '
    printf "84 104 114 101 101 256\n" >want && "$T" cat --ids --doc 2 line >got && cmp want got'
ok 'check finds nothing wrong' '"$T" check -q file >out 2>&1 && "$T" check -q sep && ! test -s out'
ok 'stat: counts and entropy' '
    printf "aabb" >e.txt && encode -o ent e.txt && test "$(value ent tokens)" -eq 5 &&
    test "$(value ent unigram_bits_per_token)" = 1.521928 &&
    test "$(value ent unigram_bits_per_byte)" = 1.902410'

# ---- any number of parts and ranks ----
for split in file line para sep; do
    sep=
    [ $split != sep ] || sep='--separator END'
    ok "--split $split: three --part and index give what one process gives" '
        encode -o one-$split --split $split $sep $ALL &&
        for i in 1 2 3; do encode -o three-$split --split $split $sep --part $i/3 $ALL || exit 1; done &&
        one_line 1 "index.h5" "$T" cat three-$split &&
        "$T" index -q three-$split && "$T" check -q three-$split &&
        "$T" cat --sep "\0" one-$split >want && "$T" cat --sep "\0" three-$split >got && cmp want got &&
        "$T" cat --ids one-$split >want && "$T" cat --ids three-$split >got && cmp want got'
done
if $MPIEXEC -n 2 true 2>/dev/null; then
    for split in file line para sep; do
        sep=
        [ $split != sep ] || sep='--separator END'
        ok "--split $split: two ranks give what one process gives" '
            $MPIEXEC -n 2 "$T" encode -q -o two-$split --split $split $sep $ALL &&
            test "$(value two-$split members)" -eq 2 && "$T" check -q two-$split &&
            "$T" cat --ids one-$split >want && "$T" cat --ids two-$split >got && cmp want got'
    done
    ok 'two parts of two ranks' '
        for i in 2 1; do
            $MPIEXEC -n 2 "$T" encode -q -o four --split line --part $i/2 $ALL || exit 1
        done &&
        "$T" index -q four && test "$(value four members)" -eq 4 &&
        "$T" cat --ids one-line >want && "$T" cat --ids four >got && cmp want got'
    ok 'a bad line on the second rank: exit 1' '
        { yes "{\"text\": \"x\"}" | head -n 1000; echo "{"; } >late.jsonl &&
        must_exit 1 $MPIEXEC -n 2 "$T" encode -q -o late late.jsonl 2>err && grep -q "late.jsonl:byte 14000: " err &&
        ! test -e late/index.h5'
    ok 'bad lines in all threads of the second rank: exit 1, one line' '
        yes "{\"text\": \"x\"}" | head -n 4000 >good.jsonl && yes "{\"text\": 12345}" | head -n 3500 >bad.jsonl &&
        for i in 1 2 3; do
            rm -rf threads-2 && must_exit 1 $MPIEXEC -n 2 "$T" encode -q --threads 4 -o threads-2 good.jsonl bad.jsonl 2>err &&
            test "$(wc -l <err)" -eq 1 && grep -q "bad.jsonl:.*not a string" err && no_litter threads-2 || exit 1
        done'
else
    skip 'ranks' "no $MPIEXEC"
fi

# ---- as many files as one likes, by whoever ----
hash_of() { "$T" check -q "$1" && value "$1" members && value "$1" hash; }
SHARDS='--split para --shards 7'
ok '--shards: the files do not depend on who makes them' '
    encode -o shards-1 $SHARDS $ALL && hash_of shards-1 >want && head -n 1 want | grep -qx 7 &&
    encode -o shards-t --threads 3 $SHARDS $ALL && hash_of shards-t >got && cmp want got &&
    for i in 3 1 2; do encode -o shards-p --threads 2 --part $i/3 $SHARDS $ALL || exit 1; done &&
    "$T" index -q shards-p && hash_of shards-p >got && cmp want got &&
    "$T" cat shards-1 >want && encode -o shards-n --split para $ALL && "$T" cat shards-n >got && cmp want got'
ok '--threads alone: a file each; more threads than files; fewer files than parts' '
    encode -o threads --threads 3 --split para $ALL && test "$(value threads members)" -eq 3 &&
    "$T" cat threads >got && cmp want got &&
    encode -o few --threads 9 --shards 2 --split para $ALL && test "$(value few members)" -eq 2 &&
    "$T" cat few >got && cmp want got &&
    for i in 1 2 3; do encode -o fewer --shards 2 --part $i/3 --split para $ALL || exit 1; done &&
    "$T" index -q fewer && test "$(value fewer members)" -eq 2 && "$T" cat fewer >got && cmp want got'
ok '--shards: those that are there are kept' '
    rm shards-t/index.h5 shards-t/part-00003-of-00007.h5 && "$T" encode -o shards-t --threads 2 $SHARDS $ALL 2>err &&
    grep -q "6 of 7 files were there already" err && hash_of shards-t >got && hash_of shards-1 >want && cmp want got'
ok 'threads: no documents at all, and a bad line in each' '
    one_line 1 "no documents" encode -o nothing --threads 3 blank.txt empty.txt --split line && no_litter nothing &&
    ! ls nothing/part* 2>/dev/null &&
    yes "{" | head -n 1000 >braces.jsonl && one_line 1 "braces.jsonl:" encode -o braces --threads 4 braces.jsonl && no_litter braces'
ok '--shards and --threads out of range' '
    one_line 2 "shards" encode -o x --shards 100000 a.txt && one_line 2 "threads" encode -o x --threads 0 a.txt &&
    one_line 2 "is not I/N" encode -o x --shards 5 --part 9000000000000000000/9000000000000000000 a.txt &&
    one_line 1 "standard input is for one part" encode -o x --threads 2 - <a.txt'

ok 'blanks in front of a token that takes them are looked at once' '
    sed "s/\"lstrip\": *false/\"lstrip\": true/g" "$SSM_TOP/tests/golden/tokenizer/gpt2/tokenizer.json" >lstrip.json &&
    { printf x && head -c 60000000 /dev/zero | tr "\0" " " && printf "<|endoftext|>"; } >blanks.txt &&
    (ulimit -t 8 && encode --tokenizer lstrip.json --specials parse -o blanks blanks.txt) &&
    test "$("$T" cat --ids blanks | wc -w)" -eq 3 && rm blanks.txt'

ok 'a word of more than 64 MiB' '
    head -c 67108865 /dev/zero | tr "\0" a >huge.txt && G=$SSM_TOP/tests/golden/tokenizer/gpt2 &&
    one_line 1 "a word of 67108865 bytes is too long" encode --tokenizer "$G" -o huge huge.txt && no_litter huge && rm huge.txt'

# ---- JSONL ----
cat >good.jsonl <<'EOF'
{"text": "one\ntwo", "id": 1}

{"id": 2, "text": ""}
{"text": "\u00e9 \ud83d\ude00 \u0000 end", "x": {"text": "no"}}
{"text": "three"}
EOF
ok 'JSONL: escapes, empty text, blank line' '
    printf "one\ntwo|\303\251 \360\237\230\200 \0 end|three|" >want &&
    encode -o json good.jsonl && "$T" cat --sep "|" json >got && cmp want got &&
    "$T" encode -q -n -o no good.jsonl | grep -qx "empty	2" && ! test -e no'
ok 'JSONL: numbers that are too large, beside the text' '
    printf "{\"h\": 12345678901234567890, \"text\": \"a 98765432109876543210 \\u0000\", \"g\": [-99999999999999999999]}\n" >big.jsonl &&
    encode -o big big.jsonl && printf "a 98765432109876543210 \0" >want && "$T" cat big | cmp - want &&
    printf "{\"id\": 12345678901234567890, \"text\": \"a\"}\n" >bigid.jsonl && one_line 1 "neither a string nor an integer" encode --id-key id -o bigid bigid.jsonl'
ok 'JSONL: another key, another name' '
    printf "{\"body\": \"x\"}\n" >body.txt && encode -o body --format jsonl --text-key body body.txt &&
    test "$("$T" cat body)" = x'
bad() { # bad TITLE LINE REASON
    printf '{"text": "fine"}\n' >bad.jsonl
    printf "$2" >>bad.jsonl
    ok "bad JSONL: $1" '
        one_line 1 "bad.jsonl:2: $3" "$T" encode -o bad bad.jsonl && ! test -e bad/index.h5 && no_litter bad &&
        encode --skip-bad -f -o skipped bad.jsonl && test "$("$T" cat skipped)" = fine &&
        "$T" encode -q --skip-bad -n -o no bad.jsonl | grep -qx "bad	1"'
}
bad 'not JSON' 'text\n' 'bad JSON'
bad 'early end' '{"text": "half a l' 'bad JSON'
bad 'no key' '{"txt": "x"}\n' "there is no key 'text'"
bad 'no string' '{"text": ["x"]}\n' "the value of 'text' is not a string"
bad 'no object' '["text", "x"]\n' 'the line is not a JSON object'
bad 'invalid UTF-8' '{"text": "\377"}\n' 'bad JSON'
bad 'two objects on a line' '{"text": "x"}{"text": "y"}\n' 'bad JSON'
ok 'bad JSONL: a line over the limit' '
    printf "{\"text\": \"fine\"}\n{\"text\": \"%0300d\"}\n" 1 >bad.jsonl &&
    one_line 1 "bad.jsonl:2: the line has 312 bytes" "$T" encode --max-line 300 -o bad bad.jsonl &&
    encode -o bad312 --max-line 312 bad.jsonl'

# ---- train and valid ----
ok '--take: two sets that share nothing and lack nothing' '
    encode -o train --split line --take train --valid-share 0.2 b.txt &&
    encode -o valid --split line --take valid --valid-share 0.2 b.txt &&
    "$T" cat --ids train | sort >train.ids && "$T" cat --ids valid | sort >valid.ids &&
    encode -o whole --split line b.txt && "$T" cat --ids whole | sort >want &&
    sort train.ids valid.ids >got && cmp want got && test -z "$(comm -12 train.ids valid.ids)" &&
    awk -v n="$(sort -u valid.ids | wc -l)" -v all="$(sort -u want | wc -l)" \
        "BEGIN { exit !(n > 0.12 * all && n < 0.28 * all) }"'
ok '--take needs a share, and the other way round' '
    one_line 2 "valid-share" "$T" encode --take train -o no a.txt &&
    one_line 2 "valid-share" "$T" encode --valid-share 0.1 -o no a.txt &&
    one_line 2 "valid-share" "$T" encode --take valid --valid-share 1 -o no a.txt'

# ---- inputs and outputs that will not do ----
ok 'inputs: missing, a folder, a device' '
    mkdir -p folder && one_line 1 "nowhere.txt" "$T" encode -o no nowhere.txt &&
    one_line 1 "is a folder" "$T" encode -o no folder && one_line 1 "not a plain file" "$T" encode -o no /dev/null'
if [ "$(id -u)" -ne 0 ]; then
    ok 'inputs: unreadable' 'cp a.txt u.txt && chmod 0 u.txt && one_line 1 "u.txt" "$T" encode -o no u.txt'
else
    skip 'inputs: unreadable' 'root reads everything'
fi
ok 'output is input, output is a file' '
    one_line 1 "both input and output" "$T" encode -o a.txt a.txt && one_line 1 "b.txt" "$T" encode -o b.txt a.txt &&
    cp file/part-00000-of-00001.h5 keep && one_line 1 "both input and output" \
        "$T" encode -f -o file file/part-00000-of-00001.h5 && cmp keep file/part-00000-of-00001.h5'
ok 'no documents at all' '
    one_line 1 "no documents in" "$T" encode -o none --split line empty.txt blank.txt &&
    one_line 1 "no documents in" "$T" encode -o none empty.txt && test -z "$(ls none)" &&
    encode -o none --part 1/1 empty.txt && one_line 1 "no documents" "$T" index none'
ok 'usage' '
    one_line 2 "-o DIR" "$T" encode a.txt && one_line 2 "too few" "$T" encode -o no &&
    one_line 2 "klingon" "$T" encode -o no --tokenizer klingon a.txt &&
    one_line 2 "separator" "$T" encode -o no --split sep a.txt &&
    one_line 2 "separator" "$T" encode -o no --separator x a.txt &&
    one_line 2 "separator" "$T" encode -o no --split sep --separator "" a.txt &&
    for p in 0/2 3/2 1 /2 1/ 1/x -1/2 1/100000; do one_line 2 part "$T" encode -o no --part=$p a.txt || exit 1; done &&
    one_line 2 "escape" "$T" cat --sep "\q" file && one_line 2 "--ids" "$T" cat --sep x --ids file &&
    one_line 2 "unknown command" "$T" frobnicate && one_line 1 "no document 4" "$T" cat --doc 4 file &&
    ! test -e no'
ok 'dry run: counts, and nothing written' '
    "$T" encode -q -n -o no --split line $ALL >out && ! test -e no &&
    test "$(sed -n "s/^tokens	//p" out)" -eq "$(value one-line tokens)" &&
    test "$(sed -n "s/^documents	//p" out)" -eq "$(value one-line documents)"'
ok 'a set that is there needs --force' '
    one_line 1 "--force" "$T" encode -o line --split line b.txt && one_line 1 "--force" "$T" index line &&
    one_line 1 "--force" "$T" encode -o line --split line --part 1/2 b.txt &&
    encode -f -o line --split line b.txt && "$T" index -q -f line && "$T" check -q line &&
    "$T" cat --ids line | sort >got && "$T" cat --ids whole | sort >want && cmp want got'
ok 'a part that is there and right is kept, another is refused' '
    encode -o kept --split line --part 1/2 b.txt && cp -p kept/part-00000-of-00002.h5 keep &&
    "$T" encode -o kept --split line --part 1/2 b.txt 2>err && grep -q "there already" err &&
    cmp keep kept/part-00000-of-00002.h5 && test ! keep -ot kept/part-00000-of-00002.h5 &&
    one_line 1 "other inputs or options" "$T" encode -o kept --split para --part 1/2 b.txt &&
    touch -d "2001-02-03" b.txt &&
    one_line 1 "other inputs or options" "$T" encode -o kept --split line --part 1/2 b.txt &&
    encode -f -o kept --split line --part 1/2 b.txt && ! cmp -s keep kept/part-00000-of-00002.h5'
ok 'index: a missing part, parts of two sets, parts of two makings' '
    one_line 1 "part 2 of 2" "$T" index kept && one_line 1 "no part" "$T" index folder &&
    one_line 1 "nowhere" "$T" index nowhere && encode -o kept --split para --part 2/2 b.txt &&
    one_line 1 "different inputs or options" "$T" index kept &&
    encode -o kept --split line --part 3/3 b.txt && one_line 1 "remove those" "$T" index kept &&
    ! test -e kept/index.h5'

# ---- damage ----
ok 'check: a flipped byte, a short file, a missing file' '
    cp -r three-line hurt && f=hurt/part-00001-of-00003.h5 &&
    size=$(wc -c <$f) && printf "\252" | dd of=$f bs=1 seek=$((size / 2)) conv=notrunc 2>/dev/null &&
    one_line 1 "part-00001-of-00003.h5" "$T" check hurt &&
    printf "\252" | dd of=hurt/part-00002-of-00003.h5 bs=1 seek=600 conv=notrunc 2>/dev/null &&
    { must_exit 1 "$T" check hurt 2>err; test "$(wc -l <err)" -eq 2; } &&
    truncate -s -1 $f && one_line 1 "part-00001-of-00003.h5" "$T" check hurt &&
    rm $f && one_line 1 "part-00001-of-00003.h5" "$T" check hurt && one_line 1 "part-00001" "$T" cat hurt'

# ---- words ----
ok 'the man page knows every option and command' '
    for c in $("$T" --complete); do
        grep -q "^.B $c$" "$SSM_TOP/tools/tokshard.1" || { echo "$c"; exit 1; }
        for o in $("$T" $c --complete); do
            grep -qF -e "$(printf "%s" "$o" | sed "s/-/\\\\-/g")" "$SSM_TOP/tools/tokshard.1" || { echo "$o"; exit 1; }
        done
    done'

# ---- stdout and disk full, signals, kills ----
if [ -c /dev/full ]; then
    ok 'stdout on a full disk' '
        for c in "cat file" "cat --ids file" "stat file" "encode -n -o no a.txt" "encode --help" "--help"; do
            must_exit 1 "$T" $c >/dev/full 2>err && grep -q "standard output" err || exit 1
        done'
else
    skip 'stdout on a full disk' 'no /dev/full'
fi
awk 'BEGIN { s = 7; for (i = 0; i < 300000; i++) { s = (s * 16807) % 2147483647;
     printf "%d%s", s % 997, s % 11 ? " " : "\n" } }' >big.txt
# A folder of 256 KiB, where this system lets us.
mkdir -p small && if mount -t tmpfs -o size=256k none small 2>/dev/null; then
    ok 'a full disk: exit 1, one line, nothing under a final name' '
        one_line 1 "small/set/part-00000-of-00001.h5" "$T" encode -o small/set big.txt && test -z "$(ls small/set)"'
    umount small
else
    skip 'a full disk' 'may not mount a tmpfs'
fi
ok 'SIGTERM ends it by that signal, without litter' '
    cat big.txt big.txt big.txt big.txt >bigger.txt # one was over at times before the signal came
    for s in TERM INT; do
        env --default-signal=INT "$T" encode -q --level 19 -o sig bigger.txt & pid=$!
        while ! ls sig 2>/dev/null | grep -q tmp; do kill -0 $pid || exit 1; done
        kill -$s $pid; wait $pid; code=$?
        { test $code -eq 143 || test $code -eq 130; } && no_litter sig && ! test -e sig/index.h5 || exit 1
    done'
ok 'kill -9 at any moment: a whole set or none, and the next run makes it' '
    encode --level 9 -o ref --split line big.txt && "$T" cat --ids ref >want &&
    for wait in 0.01 0.03 0.05 0.08 0.1 0.15 0.2 0.3; do
        "$T" encode -q --level 9 -o killed --split line big.txt & pid=$!
        sleep $wait; kill -9 $pid 2>/dev/null; wait $pid 2>/dev/null
        if test -e killed/index.h5; then "$T" check -q killed || exit 1
        else encode --level 9 -o killed --split line big.txt || exit 1; fi
        no_litter killed && "$T" cat --ids killed >got && cmp want got || exit 1
        rm -r killed
    done'

ok 'two at once on one folder: one is refused, or finds it done' '
    awk "BEGIN { for (i = 0; i < 20000; i++) print i, i * i }" >one.txt; awk "BEGIN { for (i = 0; i < 20000; i++) print i }" >two.txt
    for k in 1 2 3; do
        rm -rf er; "$SSM_BIN/tokshard" encode -q --split line -o er one.txt 2>/dev/null & a=$!
        "$SSM_BIN/tokshard" encode -q --split line -o er two.txt 2>/dev/null & b=$!
        wait $a; ca=$?; wait $b; cb=$?
        [ $((ca + cb)) -eq 1 ] && "$SSM_BIN/tokshard" check er || { echo "exit codes $ca $cb"; exit 1; }
    done'
# ---- tokenizers: their ids are tests/bpe.c's business ----
G=$SSM_TOP/tests/golden/tokenizer
printf 'The quick brown fox<|endoftext|> d\303\251j\303\240 vu, 1234  \n\n\tx<|endoftext|>' >tok.txt
ok 'text through a tokenizer.json and back, by file and by folder' '
    encode -o gpt2 --tokenizer "$G/gpt2/tokenizer.json" tok.txt && "$T" cat --tokenizer "$G/gpt2" gpt2 >got && cmp tok.txt got &&
    test "$(value gpt2 tokenizer)" = gpt2 && test "$(value gpt2 tokens)" -lt "$(wc -c <tok.txt)" && "$T" check -q gpt2'
ok 'the end token is one, in a document it is text unless asked' '
    test "$("$T" cat --ids gpt2 | tr " " "\n" | grep -cx 700)" -eq 1 &&
    encode -o parsed --specials parse --tokenizer "$G/gpt2" tok.txt &&
    test "$("$T" cat --ids parsed | tr " " "\n" | grep -cx 700)" -eq 3 && "$T" cat --tokenizer "$G/gpt2" parsed >got &&
    test "$(wc -c <got)" -eq $(($(wc -c <tok.txt) - 26))'
ok 'another end token' '
    encode -o bang --eod "!" --tokenizer "$G/gpt2" tok.txt && test "$("$T" cat --ids bang | tr " " "\n" | tail -n 1)" -eq 0 &&
    "$T" cat --tokenizer "$G/gpt2" bang >got && cmp tok.txt got'
ok 'the same set wherever the tokenizer lies, another with other options' '
    cp -r "$G/gpt2" elsewhere && cp elsewhere/tokenizer.json gpt2.json && "$T" encode -o part --part 1/1 --tokenizer "$G/gpt2" tok.txt 2>/dev/null &&
    "$T" encode -o part --part 1/1 --tokenizer gpt2.json tok.txt 2>err && grep -q "there already" err &&
    one_line 1 "other inputs or options" "$T" encode -q -o part --part 1/1 --tokenizer gpt2.json --specials parse tok.txt'
ok 'what cannot be' '
    one_line 2 nowhere "$T" encode -q -o no --tokenizer nowhere tok.txt && one_line 2 "not a plain file" "$T" encode -q -o no --tokenizer /dev/null tok.txt &&
    one_line 2 "--eod" "$T" encode -q -o no --tokenizer "$G/gpt2" --eod "<none>" tok.txt && one_line 2 cl100k "$T" encode -q -o no --tokenizer tiktoken:x:y tok.txt &&
    one_line 2 line "$T" encode -q -o no --tokenizer tok.txt tok.txt && one_line 1 "--tokenizer" "$T" cat gpt2 &&
    one_line 1 "another tokenizer" "$T" cat --tokenizer "$G/llama3" gpt2'
done_testing
