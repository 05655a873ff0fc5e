#!/bin/sh
# 1100-inputs.t - what tokshard reads: packed files, the standard input, lists of names, ids, broken UTF-8
# SPDX-License-Identifier: MIT
# shellcheck disable=SC1091,SC2015,SC2016,SC2034,SC2059,SC3045  # ok evaluates its text, later
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
value() { "$T" stat "$1" | sed -n "s/^$2	//p"; }
# same DIR DIR: the same documents in the same order
same() { "$T" cat --ids "$1" >same.1 && "$T" cat --ids "$2" >same.2 && cmp same.1 same.2; }

i=0
while [ $i -lt 900 ]; do
    printf 'document %d says\n%*s \303\251.\r\nEND\n' $i $((i % 90)) x
    [ $((i % 7)) -ne 0 ] || printf '\nEND\r\n'
    [ $((i % 5)) -ne 0 ] || printf '\n'
    i=$((i + 1))
done >b.txt
printf 'One\n  two\r\n\r\n \t\nThree\n\n\nFour' >a.txt
{ head -c 3000 /dev/zero; printf '\377\376\nEND\nlast\377'; } >c.bin
awk 'BEGIN { for (i = 0; i < 500; i++) printf "{\"id\": \"doc-%d\", \"n\": %d, \"text\": \"text %d \\u00e9\\u0000\"}\n", i, i, i }' >j.jsonl
gzip -k a.txt b.txt c.bin j.jsonl
zstd -q a.txt b.txt c.bin j.jsonl
{ head -c 5000 b.txt | gzip; tail -c +5001 b.txt | gzip -9; } >two.txt.gz
{ head -c 5000 b.txt | zstd -q; tail -c +5001 b.txt | zstd -q; } >two.txt.zst

# ---- packed files ----
for split in file line para sep; do
    sep=
    [ $split != sep ] || sep='--separator END'
    encode -o plain-$split --split $split $sep a.txt b.txt c.bin j.jsonl
    ok "--split $split: gzip and zstd are the plain files' documents" '
        encode -o gz-$split --split $split $sep a.txt.gz two.txt.gz c.bin.gz j.jsonl.gz &&
        encode -o zst-$split --split $split $sep a.txt.zst two.txt.zst c.bin.zst j.jsonl.zst &&
        encode -o mix-$split --split $split $sep a.txt b.txt.zst c.bin.gz j.jsonl &&
        same plain-$split gz-$split && same plain-$split zst-$split && same plain-$split mix-$split'
    ok "--split $split: packed files in any number of parts" '
        for n in 2 3 7; do
            rm -rf parts-$split
            i=1; while [ $i -le $n ]; do
                encode -o parts-$split --split $split $sep --part $i/$n a.txt.gz two.txt.zst c.bin j.jsonl.gz || exit 1
                i=$((i + 1)); done
            "$T" index -q parts-$split && same plain-$split parts-$split || exit 1
        done'
done
if $MPIEXEC -n 2 true 2>/dev/null; then
    ok 'two ranks' '$MPIEXEC -n 2 "$T" encode -q -o ranks --split line a.txt.gz two.txt.zst c.bin j.jsonl.gz && same plain-line ranks'
    ok 'parts and ranks: the bytes of the four files depend on their number alone' '
        in="a.txt b.txt two.txt.gz c.bin j.jsonl"
        for i in 1 2; do $MPIEXEC -n 2 "$T" encode -q -o p2r2 --split line --part $i/2 $in || exit 1; done
        for i in 1 2 3 4; do encode -o p4r1 --split line --part $i/4 $in || exit 1; done
        "$T" index -q p2r2 && "$T" index -q p4r1 &&
        test "$(value p2r2 hash)" = "$(value p4r1 hash)" && same p2r2 p4r1 && command -v h5dump >/dev/null || exit 0
        for f in p2r2/part-*; do
            h5dump -A $f | sed "1d;/history/,/^   }/d" >one && h5dump -A p4r1/${f##*/} | sed "1d;/history/,/^   }/d" >two &&
            cmp one two && test "$(wc -c <$f)" -gt 0 || exit 1
        done'
    ok 'one rank for the standard input, lists for all' '
        one_line 1 "one part" $MPIEXEC -n 2 "$T" encode -q -o no - </dev/null &&
        printf "a.txt.gz\ntwo.txt.zst\nc.bin\nj.jsonl.gz\n" >list &&
        $MPIEXEC -n 2 "$T" encode -q -o list2 --split line --files-from list && same plain-line list2'
else
    skip 'ranks' "no $MPIEXEC"
fi
ok 'a name does not say it: bytes do' 'cp b.txt.gz unnamed && encode -o unnamed.set unnamed && encode -o named b.txt && same unnamed.set named'
ok 'names that are not true, formats that are not read' '
    cp b.txt lie.gz && one_line 1 "is not packed" "$T" encode -o no lie.gz &&
    cp b.txt.zst lie2.gz && one_line 1 "named as gzip and is zstd" "$T" encode -o no lie2.gz &&
    : >empty.gz && one_line 1 "cut off" "$T" encode -o no empty.gz &&
    printf "\3757zXZ\0\0\0" >x.xz && one_line 1 "is xz" "$T" encode -o no x.xz &&
    one_line 1 "is xz" "$T" encode -o no - <x.xz && encode -o xz --compression none x.xz && test "$(value xz bytes)" -eq 8 &&
    encode -o raw --compression none b.txt.gz && "$T" cat raw | cmp - b.txt.gz && ! test -e no/index.h5'
ok 'damage: cut off, a flipped byte, junk behind: one line with file, offset, reason' '
    for f in two.txt.gz two.txt.zst; do
        size=$(wc -c <$f)
        for n in 9 20 $((size / 2)) $((size - 1)); do
            head -c $n $f >cut.txt.${f##*.}
            one_line 1 "cut.txt.${f##*.}'"'"': damaged at byte" "$T" encode -f -o no --split line cut.txt.${f##*.} &&
            grep -q "ends early" err || exit 1
        done
        for at in 40 $((size / 3)) $((size - 3)); do
            cp $f hurt.txt.${f##*.}; printf "\252" | dd of=hurt.txt.${f##*.} bs=1 seek=$at conv=notrunc 2>/dev/null
            one_line 1 "damaged at byte" "$T" encode -f -o no --split line hurt.txt.${f##*.} || exit 1
        done
        { cat $f; echo junk; } >junk.txt.${f##*.}
        one_line 1 "byte $size of the" "$T" encode -f -o no junk.txt.${f##*.} && grep -q "something else follows" err || exit 1
    done; ! test -e no/index.h5'
ok 'gzip: zeros behind the end are padding; empty members' '
    { cat two.txt.gz; head -c 1000 /dev/zero; } >pad.txt.gz && encode -o pad --split line pad.txt.gz &&
    { gzip </dev/null; cat two.txt.gz; gzip </dev/null; } >e.txt.gz && encode -o e --split line e.txt.gz &&
    encode -o b --split line b.txt && same b pad && same b e &&
    gzip </dev/null >nothing.gz && one_line 1 "no documents" "$T" encode -o nothing nothing.gz'
ok 'zstd: a window of more than 128 MiB is refused' '
    head -c 300000000 /dev/zero | zstd -q --long=29 -o wide.zst && one_line 1 "window of more than 128 MiB" "$T" encode -o no wide.zst &&
    head -c 1000 b.txt | zstd -q --long=27 -o ok.zst && encode -o ok27 ok.zst'

# ---- long documents in bounded memory ----
peak() { # peak MIB COMMAND...: the command's address space, a bound on its memory, is small
    kib=$(($1 * 1024))
    shift
    (ulimit -v $kib && "$@")
}
case $("$T" --version) in
*san,*) skip 'bounded memory' 'sanitizers take address space' ;;
*)
    awk 'BEGIN { s = 7; for (i = 0; i < 20000; i++) { s = (s * 16807) % 2147483647; printf "%d word %d ", s, i } }' >unit
    i=0; while [ $i -lt 340 ]; do cat unit; i=$((i + 1)); done >long.txt # 130 MB on one line
    { echo first; cat long.txt; echo; echo; cat long.txt; echo; echo last; } | zstd -q -1 >long.txt.zst
    ok 'documents of 130 MB in a zstd stream: twice looked at, no more memory' '
        peak 600 "$T" encode -q -o long --split para --take train --valid-share 0.000001 long.txt.zst &&
        test "$(value long documents)" -eq 2 && test "$(value long bytes)" -eq $((2 * $(wc -c <long.txt) + 11)) &&
        "$T" cat --doc 1 long | head -c $(wc -c <long.txt) | cmp - long.txt'
    ok 'a line of 130 MB of JSONL: refused by --max-line, without the memory for it; skipped' '
        { echo "{\"text\": \"a\"}"; printf "{\"text\": \""; cat long.txt; echo "\"}"; echo "{\"text\": \"z\"}"; } >long.jsonl && gzip -1 -k long.jsonl &&
        for f in long.jsonl long.jsonl.gz; do
            one_line 1 "$f:2: the line has" peak 500 "$T" encode --max-line 1M -o no $f &&
            peak 500 "$T" encode -q -f --max-line 1M --skip-bad -o az $f && test "$("$T" cat az)" = az || exit 1
        done
        peak 500 "$T" encode -q -f --max-line 1M --skip-bad -o az - --format jsonl <long.jsonl && test "$("$T" cat az)" = az'
    ok 'the standard input holds a document in memory, up to --max-line' '
        one_line 1 "--max-line" peak 500 "$T" encode --max-line 20M -o no - <long.txt && encode -o in - <long.txt && "$T" cat in | cmp - long.txt'
    rm -f long.txt* long.jsonl* unit wide.zst
    ;;
esac

# ---- the standard input, lists ----
ok 'the standard input: plain, packed, from a pipe' '
    encode -o s1 --split line - <b.txt && encode -o s2 --split line - <two.txt.gz && cat two.txt.zst | encode -o s3 --split line - &&
    same b s1 && same b s2 && same b s3 && encode -o s4 --format jsonl - <j.jsonl.gz && encode -o s5 j.jsonl && same s4 s5 &&
    encode -o s6 --split line a.txt - c.bin j.jsonl <b.txt && same plain-line s6 &&
    one_line 1 "no documents" "$T" encode -o s7 - </dev/null && one_line 1 "damaged" "$T" encode -f -o s7 - <cut.txt.gz &&
    one_line 1 "one part" "$T" encode -o s7 --part 1/2 - <b.txt && one_line 1 "named twice" "$T" encode -o s7 - - <b.txt &&
    one_line 1 "--force" "$T" encode -o s1 --split line - <b.txt'
ok '--files-from: names by line, by NUL, from the standard input, behind operands' '
    printf "b.txt.zst\n\nc.bin\nj.jsonl" >list && encode -o l1 --split line --files-from list a.txt && same plain-line l1 &&
    printf "a.txt\0b.txt\0c.bin\0j.jsonl\0" | encode -o l2 --split line --null --files-from - && same plain-line l2 &&
    mv a.txt "a
 b.txt" && printf "a\n b.txt\0b.txt\0c.bin\0j.jsonl" >list0 && encode -o l3 --split line --null --files-from list0 && same plain-line l3 &&
    mv "a
 b.txt" a.txt && printf -- "-\n" >dash && encode -o l4 --split line --files-from dash <b.txt && same b l4'
ok '--files-from: what is refused' '
    one_line 1 "no names in" "$T" encode -o no --files-from /dev/null && one_line 1 "nowhere" "$T" encode -o no --files-from nowhere &&
    echo "*.txt" >glob && one_line 1 "*.txt" "$T" encode -o no --files-from glob &&
    one_line 1 "list for --null" "$T" encode -o no --files-from list0 && one_line 1 "no list for --null" "$T" encode -o no --null --files-from list &&
    echo - | one_line 1 "list that is the standard input" "$T" encode -o no --files-from - &&
    one_line 2 "--null" "$T" encode -o no --null a.txt && one_line 2 "too few" "$T" encode -o no && ! test -e no/index.h5'
ok 'folders are refused with a hint; a file named twice is told and taken twice' '
    mkdir -p folder && one_line 1 "find " "$T" encode -o no folder &&
    must_exit 0 "$T" encode -q -o twice --split line a.txt ./a.txt 2>err && grep -q "one file" err && test "$(value twice documents)" -eq 8 &&
    must_exit 0 "$T" encode -q -o twice2 a.txt a.txt b.txt b.txt 2>err && grep -q "named more than once.*so are others" err'

# ---- UTF-8 ----
printf 'fine \303\251\nbad \303( \342\202\nmore \377\n' >u.txt
ok '--utf8: bytes keep all; reject tells file, offset and byte' '
    encode -o keep u.txt && "$T" cat keep | cmp - u.txt && encode -o keep2 --utf8 keep u.txt && same keep keep2 &&
    one_line 1 "u.txt:byte 12: invalid UTF-8: byte 0xc3" "$T" encode -o no --utf8 reject u.txt &&
    one_line 1 "u.txt:byte 12: invalid UTF-8: byte 0xc3" "$T" encode -f -o no --utf8 reject --split line u.txt &&
    gzip -k u.txt && one_line 1 "u.txt.gz:byte 12: invalid UTF-8: byte 0xc3" "$T" encode -f -o no --utf8 reject u.txt.gz'
ok '--utf8 reject --skip-bad: documents are skipped whole, and counted' '
    encode -o skip --utf8 reject --skip-bad --split line u.txt && printf "fine \303\251" >want && "$T" cat skip | cmp - want &&
    "$T" encode -q -n -o no --utf8 reject --skip-bad --split line u.txt | grep -qx "bad	2"'
ok '--utf8 replace: U+FFFD as Python has it, counted in the summary and in the set' '
    printf "fine \303\251\nbad \357\277\275( \357\277\275\nmore \357\277\275\n" >want && "$T" encode -o rep --utf8 replace u.txt 2>err &&
    "$T" cat rep | cmp - want && grep -q "U+FFFD put in: 3 times" err && test "$(value rep replaced)" -eq 3 && test "$(value rep bytes)" -eq "$(wc -c <want)" &&
    encode -o rep1 --utf8 replace --part 1/2 --split line u.txt u.txt.gz && encode -o rep1 --utf8 replace --part 2/2 --split line u.txt u.txt.gz &&
    "$T" index -q rep1 && test "$(value rep1 replaced)" -eq 6 && test "$(value keep replaced)" -eq 0'
ok '--utf8 replace: a document falls on the side that its mended bytes say' '
    for s in train valid; do
        encode -o $s-u --utf8 replace --split line --take $s --valid-share 0.5 u.txt b.txt && encode -o $s-w --split line --take $s --valid-share 0.5 want b.txt &&
        same $s-u $s-w || exit 1
    done'
ok '--utf8 replace in JSONL: bytes and lone surrogates' '
    printf "{\"text\": \"a\\\\ud800b\\\\ud83d\\\\ude00\\377\"}\n" >s.jsonl && one_line 1 "s.jsonl:1: invalid UTF-8: byte 0xff" "$T" encode -o no s.jsonl &&
    encode -o sur --utf8 replace s.jsonl && printf "a\357\277\275b\360\237\230\200\357\277\275" >want && "$T" cat sur | cmp - want && test "$(value sur replaced)" -eq 2'

# ---- ids ----
ok '--id-key: bad lines are told by id' '
    { cat j.jsonl; echo "{\"id\": \"here\", \"text\": 7}"; } >k.jsonl && one_line 1 "k.jsonl:501 (id '"'here'"'): the value of" "$T" encode -o no --id-key id k.jsonl &&
    one_line 1 "there is no key '"'"'nix'"'"'" "$T" encode -o no --id-key nix j.jsonl && one_line 1 "text and has no ids" "$T" encode -o no --id-key id a.txt'
ok '--take-ids, --drop-ids: strings and integers, any part' '
    printf "doc-3\r\ndoc-77\ndoc-499\nunknown\n" >ids && encode -o t1 --id-key id --take-ids ids j.jsonl.gz && test "$(value t1 documents)" -eq 3 &&
    grep -E "\"id\": \"doc-(3|77|499)\"" j.jsonl >t.jsonl && encode -o t2 t.jsonl && same t1 t2 &&
    grep -vE "\"id\": \"doc-(3|77|499)\"" j.jsonl >d.jsonl && encode -o d2 d.jsonl && encode -o d1 --id-key id --drop-ids ids j.jsonl && same d1 d2 &&
    printf "3\n77\n499\n" >nums && for i in 1 2 3; do encode -o d3 --id-key n --drop-ids nums --part $i/3 j.jsonl || exit 1; done && "$T" index -q d3 && same d3 d2 &&
    "$T" encode -q -n -o no --id-key id --drop-ids ids j.jsonl | grep -qx "dropped	3" &&
    one_line 1 "no documents" "$T" encode -n -o no --id-key id --drop-ids ids --take-ids ids j.jsonl'
ok 'ids: another list is another set; what is refused' '
    encode -o pt --id-key id --drop-ids ids --part 1/2 j.jsonl && cp ids ids2 && encode -o pt --id-key id --drop-ids ids2 --part 1/2 j.jsonl &&
    echo doc-9 >>ids2 && one_line 1 "other inputs or options" "$T" encode -o pt --id-key id --drop-ids ids2 --part 1/2 j.jsonl &&
    one_line 2 "--id-key" "$T" encode -o no --take-ids ids j.jsonl && one_line 1 "no ids in" "$T" encode -o no --id-key id --take-ids /dev/null j.jsonl &&
    one_line 1 "nowhere" "$T" encode -o no --id-key id --take-ids nowhere j.jsonl'

# ---- odd bytes ----
ok 'NUL bytes stay, a byte order mark stays in text and goes in JSONL' '
    printf "\357\273\277a\0b\n" >bom.txt && encode -o bom bom.txt && "$T" cat bom | cmp - bom.txt &&
    printf "\357\273\277{\"text\": \"a\\\\u0000b\"}\n" >bom.jsonl && gzip -k bom.jsonl && printf "a\0b" >want &&
    for f in bom.jsonl bom.jsonl.gz; do encode -f -o bomj $f && "$T" cat bomj | cmp - want || exit 1; done &&
    printf "\357\273\277" >only.jsonl && one_line 1 "no documents" "$T" encode -o no only.jsonl'
ok 'JSON that ends early, in a packed file too' '
    printf "{\"text\": \"x\"}\n{\"text\": \"half" | gzip >half.jsonl.gz && one_line 1 "half.jsonl.gz:2: bad JSON" "$T" encode -o no half.jsonl.gz'
done_testing
