#!/bin/sh
# 4030-synth.t - phone books, needles, variables, words: what is asked for is there, lengths are kept, 'tasks' takes them
# SPDX-License-Identifier: MIT
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS
E=$SSM_BIN/ssmeval MK=${SSM_TESTS:-$SSM_BIN/../tests} G=$SSM_TOP/tests/golden/tokenizer
kinds='phonebook phonebook-reversed needle needle-keys needle-values needle-queries variables common-words frequent-words'

synth() { timeout -k 5 60 "$E" synth -q "$@"; }
says() { # CODE TEXT ARGUMENT...: that exit code and one line on stderr, which holds TEXT
    code=$1 text=$2
    shift 2
    must_exit "$code" timeout -k 5 60 "$E" "$@" >out 2>err || { cat err; return 1; }
    [ "$(wc -l <err)" -eq 1 ] && grep -q -e "$text" err || { cat err; return 1; }
}
# Contexts of a task, each between lines of "=="; its targets, a line a document.
contexts() { sed -n 's/^{"context":"\(.*\)","target":.*/==\\n\1/p' "$1" | sed 's/\\n/\n/g'; }
targets() { sed -n 's/.*"target":\["\(.*\)"\]}$/\1/p' "$1" | sed 's/","/ /g'; }
bytes() { sed -n 's/^{"context":"\(.*\)","target":.*/\1/p' "$1" | sed 's/\\n/~/g' | awk '{ print length($0) }'; }
room() { sed -n '1s/.*"max_gen_toks":\([0-9]*\).*/\1/p' "$1"; }

for k in $kinds; do synth --length 1500 --count 12 -o "$k" $k; done
ok 'a line that describes the task, and --count documents' 'for k in $kinds; do [ "$(wc -l <$k)" -eq 13 ] && head -n 1 $k | grep -q "\"task\":\"$k-1500\"" && [ "$(tail -n +2 $k | sort -u | wc -l)" -eq 12 ] || exit 1; done'
ok 'the same seed, the same bytes; another, another; more documents begin with the fewer' '
    for k in $kinds; do
        synth --length 1500 --count 12 --seed 1 $k | cmp - $k && synth --length 1500 --count 12 --seed 2 $k >x && ! cmp -s x $k && synth --length 1500 --count 3 $k | tail -n +2 >y && sed -n 2,4p $k | cmp y - || exit 1
    done'
# A unit is an entry, a sentence or some words.
ok 'documents and answers are as long as told, but for less than a unit' '
    for k in $kinds; do
        bytes $k | awk -v room="$(room $k)" "{ n = \$1 + room; if (n > 1500 || n < 1400) { print n; exit 1 } }" || { echo $k; exit 1; }
    done; synth --length 3000 --count 5 needle >x; bytes x | awk -v room="$(room x)" "{ n = \$1 + room; if (n > 3000 || n < 2950) exit 1 }"'
ok 'lengths between --shortest and --length' '
    synth --shortest 300 --length 3000 --count 60 phonebook >x && bytes x | awk -v r="$(room x)" "{ n = \$1 + r; if (n > 3000 || n < 270) exit 1; if (n < 1000) a++; if (n > 2300) b++ } END { exit !(a > 5 && b > 5) }"'
ok 'the tokens are those of --tokenizer' '
    synth --length 1500 --count 3 --tokenizer "$G/gpt2" phonebook >x && bytes x | awk "{ if (\$1 < 1600) exit 1 }" &&
    sed -n "s/.*\"context\":\(\".*\"\),\"target.*/{\"text\":\1}/p" x >x.jsonl && "$SSM_BIN/tokshard" encode -q --tokenizer "$G/gpt2" -o gpt2set x.jsonl &&
    n=$("$SSM_BIN/tokshard" stat gpt2set | sed -n "s/^tokens	//p") && [ "$n" -le $((3 * (1500 - 16 + 1))) ] && [ "$n" -gt $((3 * 1440)) ]'
book_is_right() { # FILE EXAMPLES: each name once in the book, examples and the answer out of it
    contexts "$1" >c && targets "$1" >t && awk -v shots="$2" '
        FNR == NR { answer[++n] = $0; next }
        /^==$/ { finish(); d++; split("", number); part = 0; shown = 0; names = 0; next }
        /^Look up/ { sub("Look up the number of ", ""); sub(" in this phone book.", ""); first = $0; getline; next }
        /^$/ { part++; next }
        /: [6-9][0-9]*$/ && part == 0 { name = $0; sub(": .*", "", name); if (name in number || length($NF) != 10) bad("twice: " $0); number[name] = $NF; names++; next }
        / *: [0-9]*$/ { name = $0; sub(": .*", "", name); if (number[name] != $NF || name == last) bad("example: " $0); shown++; last = name; next }
        { asked = $0; sub(":$", "", asked) }
        function bad(why) { print why; failed = 1; exit 1 }
        function finish() { if (d && (number[asked] != answer[d] || asked == last || shown != shots || names < 10 || (first && first != asked))) bad("asked: " asked " " shown) }
        END { if (!failed) finish(); exit failed }' t c
}
ok 'phone books: names are different, the number asked for is in the book, so are the examples' 'book_is_right phonebook 2 && book_is_right phonebook-reversed 2'
ok '--shots' 'for n in 0 1 9; do synth --length 1500 --count 4 --shots $n phonebook >x && book_is_right x $n || exit 1; done; synth --length 150 --count 1 --shots 1000 --as text phonebook >x && [ -s x ]'
ok 'the number asked for stands anywhere in the book' '
    synth --length 1500 --count 60 --shots 0 phonebook >x && contexts x >c && awk "/^==/ { d++; n = 0; next } /: [6-9]/ { n++; at[d, \$1 \" \" \$2] = n; next } /:\$/ { print at[d, \$1 \" \" \$2] }" c | awk "\$1 < 15 { a++ } \$1 > 35 { b++ } END { exit !(a > 8 && b > 8) }"'
count_lines() { grep -o "$1" | wc -l; }
ok 'needles: as many as the kind has, and the answers among them' '
    for p in needle:1:1 needle-keys:4:1 needle-values:4:4 needle-queries:4:4; do
        k=${p%%:*} many=${p#*:} asked=${p##*:} && many=${many%:*} && targets $k >t && tail -n +2 $k | paste -d "|" - t | while IFS="|" read -r doc want; do
            [ "$(echo "$doc" | sed "s/\",\"target.*//" | count_lines "umber of the [a-z]* [a-z]* is [0-9]\{7\}\.")" -eq $many ] && [ "$(echo $want | wc -w)" -eq $asked ] || { echo $k; exit 1; }
            for w in $want; do
                key=$(echo "$doc" | sed "s/.*umber of the \([a-z]* [a-z]*\) is $w.*/\1/") && echo "$doc" | sed "s/.*Question: //" | grep -q "$key" || { echo "$k: $w"; exit 1; }
            done
        done || exit 1
    done'
ok 'needles stand anywhere' 'synth --length 2000 --count 40 needle >x && sed -n "s/\(.*\) is [0-9]\{7\}\..*/\1/p" x | awk "{ if (length(\$0) < 700) a++; if (length(\$0) > 1300) b++ } END { exit !(a > 4 && b > 4) }"'
ok 'variables: a chain, in order' '
    targets variables >t && tail -n +2 variables | paste -d "|" - t | while IFS="|" read -r doc want; do
        chain=$(echo "$doc" | grep -o "Set [A-Z]* to [a-z ]*[0-9A-Z]*" | awk "{ if (NR > 1 && \$NF != last) exit 1; last = \$2; printf \"%s%s\", (NR > 1 ? \" \" : \"\"), \$2 }") && [ "$chain" = "$want" ] && [ "$(echo $chain | wc -w)" -eq 5 ] &&
        v=$(echo "$doc" | sed "s/.*to \([0-9]*\)\. .*/\1/") && echo "$doc" | grep -q "have the value $v?" || { echo "$chain != $want"; exit 1; }
    done'
ok 'words: those asked for come most often, and no other as often' '
    for k in common-words:10 frequent-words:3; do
        targets ${k%:*} >t && contexts ${k%:*} | awk -v many=${k#*:} "FNR == NR { want[++n] = \$0; next } /^==/ { d++; next } /^[0-9a-z][0-9a-z. ]*\$/ { split(\"\", c); for (i = 1; i <= NF; i++) if (\$i ~ /^[a-z]+\$/) c[\$i]++
            m = split(want[d], w, \" \"); least = 1e9; if (m != many) exit 1; for (i = 1; i <= m; i++) { if (c[w[i]] < least) least = c[w[i]]; delete c[w[i]] }
            for (x in c) if (c[x] >= least) { print d, x, c[x], least; exit 1 } seen++ } END { exit seen != 12 }" t - || exit 1
    done'
tiny_model 'MS' >tiny.conf
"$MK/mkckpt" model 5 1 ./tiny.conf'*0.2' || exit 1
ok 'tasks takes all of them; phone books are held exactly, the others part by part' '
    for k in $kinds; do synth --length 1500 --count 2 -o $k.jsonl $k || exit 1; done &&
    "$E" tasks -q --tokenizer bytes model *-*.jsonl needle.jsonl phonebook.jsonl variables.jsonl >x && [ "$(grep -c "contains_all" x)" -eq 7 ] && [ "$(grep -c "exact_match" x)" -eq 2 ]'
ok '--as text: documents with their answers, which tokshard takes' '
    for k in $kinds; do synth --length 1500 --count 5 --as text -o $k.text.jsonl $k && [ "$(grep -c "^{\"text\":\".*\"}\$" $k.text.jsonl)" -eq 5 ] || exit 1; done &&
    synth --length 1500 --count 5 phonebook >x && targets x >t && sed "s/.*: \([0-9]*\)\"}\$/\1/" phonebook.text.jsonl | cmp - t && tail -n 1 needle-queries.text.jsonl | grep -q "Answer: [0-9]*, [0-9]*, [0-9]*, [0-9]*\"}" &&
    "$SSM_BIN/tokshard" encode -q -o set phonebook.text.jsonl && [ "$("$SSM_BIN/tokshard" stat set | sed -n "s/^tokens	//p")" -le 7500 ]'
ok '--as messages: the same documents as conversations, every answer the assistant'\''s, which tokshard packs' '
    for k in $kinds; do synth --length 1500 --count 5 --as messages $k >$k.talk && [ "$(grep -c "^{\"messages\":\[{\"role\":\"user\".*\"assistant\".*}\]}\$" $k.talk)" -eq 5 ] || exit 1
        sed "s/\"},{\"role\":\"[a-z]*\",\"content\":\"//g; s/^{\"messages\":\[{\"role\":\"user\",\"content\":/{\"text\":/; s/\\\\n\"}\]}\$/\"}/" $k.talk | cmp - $k.text.jsonl || exit 1; done &&
    [ "$(grep -o "\"assistant\",\"content\":\" [0-9]\{10\}\\\\n\"" phonebook.talk | wc -l)" -eq 15 ] &&
    "$SSM_BIN/tokshard" pack -q --template bare --seq-len 1600 -o talk phonebook.talk && "$SSM_BIN/tokshard" cat --mask --doc 0 talk | tr -d " \n" | grep -q "^0*1\{12\}0*1\{12\}0*1\{12\}0\$"'
ok 'what cannot be' '
    says 1 "too few: the shortest .phonebook. has" synth --length 20 phonebook && says 2 "shortest" synth --shortest 2000 --length 1000 needle && says 2 "phone books" synth --shots 3 needle && says 2 "none of phonebook" synth haystack &&
    says 1 "exists" synth -o needle.jsonl needle && synth -f --count 1 -o needle.jsonl needle && [ "$(wc -l <needle.jsonl)" -eq 2 ] && says 1 "nowhere" synth --tokenizer nowhere.json needle && says 2 "too few" synth && says 1 "too many" synth --length 10M --count 1 phonebook'
done_testing
