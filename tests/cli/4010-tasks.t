#!/bin/sh
# 4010-tasks.t - tasks: the harness' figures, sums that fit, results that do not depend on ranks or batches, bad files
# SPDX-License-Identifier: MIT
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"
mpi="timeout -k 5 60 ${MPIEXEC:-mpiexec}"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS
E=$SSM_BIN/ssmeval G=$SSM_TOP/tests/golden/tasks MK=${SSM_TESTS:-$SSM_BIN/../tests}

tasks() { timeout -k 5 60 "$E" tasks -q "$@"; }
says() { # CODE TEXT ARGUMENT...: that exit code and one line on stderr, which holds TEXT
    code=$1 text=$2
    shift 2
    must_exit "$code" timeout -k 5 60 "$E" "$@" >out 2>err || { cat err; return 1; }
    [ "$(wc -l <err)" -eq 1 ] && grep -q -e "$text" err || { cat err; return 1; }
}
# value FILE TASK METRIC: out of the table
value() { awk -F '\t' -v t="$2" -v m="$3" '$1 == t && $2 == m { print $3 }' "$1"; }
near() { awk -v a="$1" -v b="$2" -v lim="${3:-1e-5}" 'BEGIN { d = a - b; if (d < 0) d = -d; m = b < 0 ? -b : b; if (a == "" || d > lim * (m > 1 ? m : 1)) { print a, b; exit 1 } }'; }
# lls FILE: log-likelihoods (or texts) and greedy, a request a line, of a samples file
lls() { sed 's/.*"filtered_resps":\(\[.*\]\),"filter".*/\1/; s/^\[\[//; s/\]\]$//; s/\],\[/\n/g; s/^\["\(.*\)"\]$/"\1"/' "$1"; }

"$SSM_BIN/ckmerge" import -q -o golden "$G" && [ -s "$G/toy_last.jsonl" ] || exit 1
tiny_model 'MS*-RL' >tiny.conf
"$MK/mkckpt" model 5 1 ./tiny.conf'*0.2' || exit 1
b="--tokenizer bytes"
head='{"task": "t", "output_type": "loglikelihood"}'
mc='{"output_type": "multiple_choice"}'
ge='{"output_type": "generate_until"}'
ro='{"output_type": "loglikelihood_rolling"}'

# ---- the harness ----
golden="--tokenizer $G --seq-len 32 --bootstrap 2000"
ok 'figures and errors of lm-evaluation-harness, to 1e-5' '
    tasks $golden --log-samples -o all golden "$G"/toy_*.jsonl >table && [ "$(grep -vc "^#" table)" -eq "$(wc -l <"$G/figures.tsv")" ] &&
    while IFS="	" read -r t m v e; do
        near "$(value table $t $m)" "$v" || exit 1
        shown=$(awk -F "\t" -v t=$t -v m=$m "\$1 == t && \$2 == m { print \$4 }" table)
        if [ "$e" = N/A ]; then [ "$shown" = N/A ]; else near "$shown" "$e"; fi || exit 1
    done <"$G/figures.tsv"'
ok 'the harness: each request and each text' '
    cut -f 1 "$G/answers.tsv" | uniq | while read -r t; do
        awk -F "\t" -v t=$t "\$1 == t" "$G/answers.tsv" >want && lls all/samples_$t.jsonl >got && [ "$(wc -l <want)" -eq "$(wc -l <got)" ] || exit 1
        if [ $t = toy_tell ]; then cut -f 4 want | cmp - got || exit 1; continue; fi
        tr -d \" <got | tr , "\t" | paste want - | awk -F "\t" "{ d = \$4 - \$6; if (d < 0) d = -d; if (d > 1e-5 * (1 - \$4) || (\$5 != \"-\" && \$5 != \$7)) { print; bad = 1 } } END { exit bad }" || exit 1
    done'
ok 'the results file has the schema of the harness' '
    for k in results group_subtasks configs versions n-shot higher_is_better n-samples config git_hash date; do
        grep -q "^  \"$k\": " all/results.json || { echo "no $k"; exit 1; }
    done
    grep -q "\"acc_norm_stderr,none\": 0\." all/results.json && grep -q "\"word_perplexity_stderr,none\": \"N/A\"" all/results.json &&
    grep -q "\"toy_tell\": 1.5" all/results.json && grep -q "\"effective\": 10" all/results.json && grep -q "\"max_length\": 32" all/results.json'
plain() { grep -v -e '"date"' -e total_evaluation -e '"batch_size"' "$1"; }
ok 'any number of ranks: the same bits in results and samples' '
    for n in 2 3; do
        $mpi -n $n "$E" tasks -q $golden --log-samples -o r$n golden "$G"/toy_*.jsonl | cmp - table &&
        plain r$n/results.json >a && plain all/results.json | cmp - a || exit 1
        for f in all/samples_*; do cmp $f r$n/${f##*/} || exit 1; done
    done'
ok 'any --batch: the same to rounding; any --threads: the same' '
    for n in 1 7 100; do
        tasks $golden --batch $n --log-samples -f -o b golden "$G"/toy_*.jsonl >tb && [ "$(wc -l <tb)" -eq "$(wc -l <table)" ] || exit 1
        for t in last choose blank roll; do
            lls all/samples_toy_$t.jsonl | tr -d \" | cut -d , -f 1 >x; lls b/samples_toy_$t.jsonl | tr -d \" | cut -d , -f 1 | paste x - |
            awk "{ d = \$1 - \$2; if (d < 0) d = -d; if (d > 1e-5 * (1 - \$1)) { print; exit 1 } }" || exit 1
        done
        cmp all/samples_toy_tell.jsonl b/samples_toy_tell.jsonl || exit 1
    done
    tasks $golden --threads 2 golden "$G"/toy_*.jsonl | cmp - table'
ok '--seq-len cuts contexts on the left, and says so' '
    "$E" tasks --tokenizer "$G" --seq-len 16 golden "$G/toy_last.jsonl" 2>err >a && grep -q "[0-9]* requests are longer than --seq-len 16" err &&
    "$E" tasks --tokenizer "$G" golden "$G/toy_last.jsonl" 2>err >c && ! grep -q "longer than" err && ! cmp -s a c'
ok '--limit: the first documents; --bootstrap 0: no errors; another number: another error' '
    tasks $golden --limit 4 -o few golden "$G"/toy_last.jsonl >t4 && [ "$(sed -n 2p t4 | cut -f 5)" -eq 4 ] && grep -q "\"effective\": 4" few/results.json &&
    grep -q "\"original\": 10" few/results.json && { head -n 5 "$G/toy_last.jsonl"; } >four.jsonl && tasks $golden golden four.jsonl | cut -f 2- >x && cut -f 2- t4 | cmp - x &&
    tasks --tokenizer "$G" --bootstrap 0 golden four.jsonl >n && [ "$(grep -c "N/A" n)" -eq 2 ] &&
    tasks --tokenizer "$G" --bootstrap 100 golden four.jsonl >m && ! cmp -s m n'

# ---- what must hold of any model: bytes, so that a text cut anywhere has the tokens of the whole ----
ll() { # CONTEXT CONTINUATION OPTION...
    printf '%s\n{"context": "%s", "continuation": "%s"}\n' "$head" "$1" "$2" >ll.jsonl
    shift 2
    tasks $b --log-samples -f -o ll "$@" model ll.jsonl >/dev/null && lls ll/samples_t.jsonl | tr -d '"' | cut -d , -f 1
}
ok 'log-likelihoods add up along a text' '
    near "$(ll abcd efgh)" "$(awk -v a="$(ll abcd ef)" -v b="$(ll abcdef gh)" "BEGIN { print a + b }")"'
ok '--bos: the end of a document stands before every context; without a context it does always' '
    x=$(ll "" abcd) && near "$x" "$(ll "" abcd --bos)" && near "$x" "$(awk -v a="$(ll "" ab --bos)" -v b="$(ll ab cd --bos)" "BEGIN { print a + b }")" &&
    ! near "$x" "$(awk -v a="$(ll "" ab)" -v b="$(ll ab cd)" "BEGIN { print a + b }")" >/dev/null'
ok 'white space at the end of a context belongs to the continuation' '
    near "$(ll "ab  " cd)" "$(ll ab "  cd")" && near "$(ll "ab\u3000\u00a0" cd)" "$(ll ab "\u3000\u00a0cd")" && ! near "$(ll "ab  " cd)" "$(ll "ab x" cd)" >/dev/null'
ok 'a rolling text is scored as a continuation of nothing, and in windows, the last of them filled up' '
    text="a text_of some_length_that_is_longer_than_a_window" && n=${#text} && printf "%s\n{\"text\": \"%s\"}\n" "$ro" "$text" >roll.jsonl &&
    tasks $b --log-samples -f -o roll model roll.jsonl >w1 && x=$(lls roll/samples_roll.jsonl | tr -d \") && near "$x" "$(ll "" "$text")" &&
    near "$(value w1 roll byte_perplexity)" "$(awk -v x=$x -v n=$n "BEGIN { print exp(-x / n) }")" 1e-4 && near "$(value w1 roll word_perplexity)" "$(awk -v x=$x "BEGIN { print exp(-x / 3) }")" 1e-3 &&
    near "$(value w1 roll bits_per_byte)" "$(awk -v x="$(value w1 roll byte_perplexity)" "BEGIN { print log(x) / log(2) }")" 1e-4 &&
    tasks $b --seq-len 20 --log-samples -f -o roll model roll.jsonl >w2 && part() { echo "$text" | cut -c $1; } &&
    near "$(lls roll/samples_roll.jsonl | tr -d \")" "$(awk -v a="$(ll "" "$(part 1-20)")" -v b="$(ll "$(part 20)" "$(part 21-40)")" -v c="$(ll "$(part $((n - 20))-40)" "$(part 41-)")" "BEGIN { print a + b + c }")"'
ok 'words and bytes of a document can be given' '
    printf "%s\n{\"text\": \"%s\", \"words\": 2, \"bytes\": 4}\n" "{\"task\": \"t\", \"output_type\": \"loglikelihood_rolling\"}" "abc" >roll.jsonl && tasks $b model roll.jsonl >r &&
    x=$(ll "" abc) && near "$(value r t word_perplexity)" "$(awk -v x=$x "BEGIN { print exp(-x / 2) }")" 1e-4 && near "$(value r t byte_perplexity)" "$(awk -v x=$x "BEGIN { print exp(-x / 4) }")" 1e-4'
choose() { printf '{"task": "t", "output_type": "multiple_choice", "metrics": ["acc", "acc_norm", "acc_bytes"], "target_delimiter": "%s"}\n%s\n' "$1" "$2" >c.jsonl; shift 2; tasks $b model c.jsonl >c; }
# By hand: the choice of the greatest log-likelihood, over characters, over bytes.
ok 'choices: acc, acc_norm by characters, acc_bytes by bytes' '
    a=$(ll q "-\u00e9\u00e9\u00e9") && c=$(ll q "-xy") &&
    awk -v a=$a -v c=$c "BEGIN { print !(a > c), !(a / 3 > c / 2), !(a / 6 > c / 2) }" >best && read -r p n y <best &&
    choose - "{\"context\": \"q\", \"choices\": [\"\u00e9\u00e9\u00e9\", \"xy\"], \"gold\": 0}" &&
    [ "$(value c t acc)" = "$((1 - p)).000000" ] && [ "$(value c t acc_norm)" = "$((1 - n)).000000" ] && [ "$(value c t acc_bytes)" = "$((1 - y)).000000" ] &&
    choose - "{\"context\": \"q\", \"choices\": [\"\u00e9\u00e9\u00e9\", \"xy\"], \"gold\": [0, 1]}" && [ "$(value c t acc)" = 1.000000 ]'
ask() { printf '{"task": "t", "output_type": "generate_until", "metrics": ["exact_match", "contains_all", "contains_any"], %s}\n{"context": "the", "target": %s}\n' "$1" "$2" >g.jsonl; tasks --tokenizer "$G" --log-samples -f -o g golden g.jsonl >g.tsv; }
ok 'answers: stop strings and limits' '
    ask "\"max_gen_toks\": 12" "\"x\"" && whole=$(lls g/samples_t.jsonl) && [ ${#whole} -gt 12 ] && ask "\"max_gen_toks\": 3" "\"x\"" && part=$(lls g/samples_t.jsonl) && [ ${#part} -lt ${#whole} ] &&
    stop=$(echo "$whole" | cut -c 7-9) && ask "\"until\": [\"none of it\", \"$stop\"], \"max_gen_toks\": 12" "\"x\"" && [ "$(lls g/samples_t.jsonl)" = "${whole%%"$stop"*}\"" ]'
ok 'exact_match and what it takes away, contains_all, contains_any' '
    ask "\"max_gen_toks\": 6" "\"x\"" && got=$(lls g/samples_t.jsonl) && plain=${got#\"} && plain=${plain%\"} && [ "$(cut -f 3 g.tsv | tr "\n" " ")" = "value 0.000000 0.000000 0.000000 " ] &&
    ask "\"max_gen_toks\": 6" "$got" && [ "$(value g.tsv t exact_match)" = 1.000000 ] && loud=$(echo "$plain" | tr a-z A-Z) &&
    ask "\"max_gen_toks\": 6" "[\"$loud\", \"zzz\"]" && [ "$(cut -f 3 g.tsv | tr "\n" " ")" = "value 0.000000 0.500000 1.000000 " ] &&
    ask "\"max_gen_toks\": 6, \"ignore_case\": true" "\"$loud\"" && [ "$(value g.tsv t exact_match)" = 1.000000 ] &&
    ask "\"max_gen_toks\": 6, \"ignore_punctuation\": true" "\"$plain,!\"" && [ "$(value g.tsv t exact_match)" = 1.000000 ] &&
    ask "\"max_gen_toks\": 6, \"ignore_numbers\": true" "\"12$plain\"" && [ "$(value g.tsv t exact_match)" = 1.000000 ] &&
    ask "\"max_gen_toks\": 6, \"strip\": true" "\"$plain \\n\\u3000\"" && [ "$(value g.tsv t exact_match)" = 1.000000 ] && ask "\"max_gen_toks\": 6" "\"$plain \"" && [ "$(value g.tsv t exact_match)" = 0.000000 ]'

# ---- bad files ----
bad() { # TEXT LINE2 [LINE1]
    printf '%s\n' "${3:-$head}" "$2" >bad.jsonl
    says 1 "bad.jsonl:[12]: .*$1" tasks $b model bad.jsonl
}
ok 'a line that is no document: file, line, why' '
    bad "bad JSON" "{\"context\": \"a\"" && bad "not a JSON object" "[1]" && bad "context.* is missing" "{\"continuation\": \"a\"}" && bad "continuation.* is missing" "{\"context\": \"a\"}" &&
    bad "context.* is 1, not a string" "{\"context\": 1, \"continuation\": \"a\"}" && bad "continuation.* is empty" "{\"context\": \"a\", \"continuation\": \"\"}" &&
    bad "choices.* is empty" "{\"context\": \"a\", \"choices\": [], \"gold\": 0}" "$mc" && bad "choices\[1\].* is empty" "{\"context\": \"a\", \"choices\": [\"a\", \"\"], \"gold\": 0}" "$mc" &&
    bad "choices\[0\].* is 1, not a string" "{\"context\": \"a\", \"choices\": [1], \"gold\": 0}" "$mc" && bad "gold.* is 2, not an integer from 0 to 1" "{\"context\": \"a\", \"choices\": [\"a\", \"b\"], \"gold\": 2}" "$mc" &&
    bad "gold.* is -1" "{\"context\": \"a\", \"choices\": [\"a\", \"b\"], \"gold\": -1}" "$mc" && bad "gold.* is missing" "{\"context\": \"a\", \"choices\": [\"a\", \"b\"]}" "$mc" && bad "gold.* is empty" "{\"context\": \"a\", \"choices\": [\"a\", \"b\"], \"gold\": []}" "$mc" &&
    bad "both" "{\"context\": \"a\", \"contexts\": [\"a\"], \"choices\": [\"a\"], \"gold\": 0}" "$mc" && bad "1 .contexts. for 2 .choices." "{\"contexts\": [\"a\"], \"continuation\": \"x\", \"choices\": [\"a\", \"b\"], \"gold\": 0}" "$mc" &&
    bad "target.* is missing" "{\"context\": \"a\"}" "$ge" && bad "target.* is empty" "{\"context\": \"a\", \"target\": []}" "$ge" && bad "text.* is empty" "{\"text\": \"\"}" "$ro" && bad "words.* is 0" "{\"text\": \"a\", \"words\": 0}" "$ro"'
ok 'a first line that describes no task' '
    d="{\"context\": \"a\", \"continuation\": \"b\"}" && bad "output_type.* is missing" "$d" "$d" && bad "none of loglikelihood" "$d" "{\"output_type\": \"x\"}" && bad "no key .metric" "$d" "{\"output_type\": \"loglikelihood\", \"metric\": 1}" &&
    bad "which loglikelihood does not have" "$d" "{\"output_type\": \"loglikelihood\", \"metrics\": [\"acc_norm\"]}" && bad "metrics.* is empty" "$d" "{\"output_type\": \"loglikelihood\", \"metrics\": []}" &&
    bad "no name" "$d" "{\"task\": \"../x\", \"output_type\": \"loglikelihood\"}" && bad "until\[0\].* is empty" "$d" "{\"output_type\": \"generate_until\", \"until\": [\"\"]}" &&
    bad "until\[1\].* holds a NUL" "$d" "{\"output_type\": \"generate_until\", \"until\": [\"a\", \"b\\u0000c\"]}" &&
    bad "max_gen_toks" "$d" "{\"output_type\": \"generate_until\", \"max_gen_toks\": 0}" &&
    : >empty.jsonl && says 1 "empty.jsonl" tasks $b model empty.jsonl && echo "$head" >only.jsonl && says 1 "no documents" tasks $b model only.jsonl && says 1 nowhere tasks $b model nowhere.jsonl && says 1 "folder" tasks $b model .'
ok 'bytes that are no UTF-8, a file that ends early, a packed one, a CR, a blank line, a byte order mark' '
    { echo "$head"; printf "{\"context\": \"\377\", \"continuation\": \"b\"}\n"; } >bad.jsonl && says 1 "bad.jsonl:2: .*UTF-8" tasks $b model bad.jsonl &&
    { printf "\357\273\277%s\r\n\r\n" "$head"; printf "{\"context\": \"a\", \"continuation\": \"b\"}\r\n \n"; printf "{\"context\": \"a\", \"continuation\": \"c\"}"; } >good.jsonl && tasks $b model good.jsonl >x && [ "$(sed -n 2p x | cut -f 5)" -eq 2 ] &&
    gzip -k good.jsonl && tasks $b model good.jsonl.gz | cmp - x && head -c 40 good.jsonl.gz >cut.jsonl && says 1 "cut.jsonl" tasks $b model cut.jsonl &&
    head -c $(($(wc -c <good.jsonl) - 3)) good.jsonl >early.jsonl && says 1 "early.jsonl:5: bad JSON" tasks $b model early.jsonl'
# A sanitizer maps more memory than there is.
ok 'a line without end is refused, in bounded memory' '
    { echo "$head"; printf "{\"context\": \""; head -c 1G /dev/zero | tr "\0" x; } | ("$E" --version | grep -q "build: san" || ulimit -v 4000000; says 1 "standard input:2: the line is longer than 64 MiB" tasks $b model -)'
ok 'a request that cannot be' '
    printf "%s\n%s\n" "$head" "{\"context\": \"a\", \"continuation\": \"abcdef\"}" >x.jsonl && says 1 "x.jsonl:2: 6 tokens to score are more than --seq-len 5" tasks $b --seq-len 5 model x.jsonl &&
    printf "%s\n%s\n" "$ge" "{\"context\": \"a\", \"target\": \"a\"}" >y.jsonl && says 1 "max_gen_toks. 256 leaves no room" tasks $b --seq-len 256 model y.jsonl'
ok 'what exists stays, two tasks of one name, samples without a folder, no tokenizer' '
    says 1 "exists" tasks $b -o ll model ll.jsonl && says 1 "both called .t." tasks $b model ll.jsonl c.jsonl && says 2 "output" tasks $b --log-samples model ll.jsonl && says 1 "tokenizer" tasks model ll.jsonl &&
    tasks $b -o fresh model ll.jsonl >/dev/null && [ "$(ls fresh)" = results.json ]'
if $mpi -n 2 true 2>/dev/null; then
    ok 'standard input is one process, not several' '
        must_exit 2 $mpi -n 2 "$E" tasks -q $b model - <ll.jsonl 2>err && [ "$(wc -l <err)" -eq 1 ] && grep -q "standard input" err && tasks $b model - <ll.jsonl >/dev/null'
else
    skip 'standard input' 'no mpiexec'
fi
done_testing
