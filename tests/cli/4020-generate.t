#!/bin/sh
# 4020-generate.t - many texts at a time: neighbours, ranks, whole passes; filters, stop strings, bad prompts
# SPDX-License-Identifier: MIT
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"
mpi="timeout -k 5 60 ${MPIEXEC:-mpiexec}"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS
E=$SSM_BIN/ssmeval
tiny_text 1000 >text.txt
tiny_model 'MS*-RL' >tiny.conf
"$SSM_BIN/tokshard" encode -q --split para -o data text.txt &&
    "$SSM_BIN/ssmtrain" -q --batch 8 --seq-len 64 --model ./tiny.conf --steps 60 --warmup 4 --lr 5e-3 -o model data || exit 1

gen() { timeout -k 5 60 "$E" generate -q "$@"; }
says() { # CODE TEXT ARGUMENT...: that exit code and one line on stderr, which holds TEXT
    code=$1 text=$2
    shift 2
    must_exit "$code" timeout -k 5 60 "$E" "$@" >out 2>err </dev/null || { cat err; return 1; }
    [ "$(wc -l <err)" -eq 1 ] && grep -q -e "$text" err || { cat err; return 1; }
}
text_of() { sed 's/.*"text":"\(.*\)","tokens".*/\1/' "$1"; }
# Prompts of many lengths; the fifth is read in more than one piece, the sixth is empty.
long=$(head -c 2500 text.txt | tr '\n' ' ')
i=0
for p in the 'a cat sees' e 'no river likes the stone. every' "$long" '' 'the dog fears' 'one one one'; do
    printf '{"prompt": "%s", "id": "k%d"}\n' "$p" $i
    i=$((i + 1))
done >prompts.jsonl

gen --temperature 0 --tokens 25 --prompts prompts.jsonl model >greedy || exit 1
ok 'a line each, in order, with id, text, tokens, finish' '
    [ "$(wc -l <greedy)" -eq 8 ] && sed "s/{\"id\":\"\(k[0-7]\)\",\"text\":\".*\",\"tokens\":[0-9]*,\"finish\":\"[a-z]*\"}/\1/" greedy >ids && seq -f k%g 0 7 | cmp - ids &&
    sed "s/, \"id\": \"k.\"//" prompts.jsonl | gen --temperature 0 --tokens 25 --prompts - model | sed "s/\"id\":\([0-9]\)/\"id\":\"k\1\"/" | cmp - greedy'
ok 'the same as the texts that are streamed' '
    for p in the "a cat sees" "the dog fears"; do
        gen --temperature 0 --tokens 25 --prompt "$p" model >s && tail -c +$((${#p} + 1)) s | tr "\n" "~" | sed "s/~$//; s/~/\\\\\\\\n/g" >s1 && text_of greedy | grep -qxF -e "$(cat s1)" || { cat s1; exit 1; }
    done'
# The reading by whole passes and the steps after it, against one whole pass over prompt and text: each token the likeliest.
ok 'every token is the likeliest in a whole pass over all before it' '
    text_of greedy >texts && { echo "{\"task\": \"t\", \"output_type\": \"loglikelihood\"}"
    sed "s/{\"prompt\": \(.*\), \"id.*/\1/" prompts.jsonl | paste -d "\t" - texts | awk -F "\t" "{ p = \$1; t = \$2; while (p ~ / \"\$/) { p = substr(p, 1, length(p) - 2) \"\\\"\"; t = \" \" t } if (t != \"\") printf \"{\\\"context\\\": %s, \\\"continuation\\\": \\\"%s\\\"}\\n\", p, t }"; } >t.jsonl &&
    "$E" tasks -q --bos --seq-len 4096 --log-samples -o t model t.jsonl >/dev/null && [ "$(wc -l <t/samples_t.jsonl)" -ge 7 ] && ! grep -q "\"acc\":0" t/samples_t.jsonl'
ok 'the texts of a generate_until task are these, with --bos, as generate begins with the end of a document' '
    { echo "{\"task\": \"g\", \"output_type\": \"generate_until\", \"max_gen_toks\": 25}"; sed "s/\"prompt\"/\"target\": \"x\", \"context\"/" prompts.jsonl; } >g.jsonl &&
    for n in "" 2; do
        ${n:+$mpi -n $n} "$E" tasks -q --bos --seq-len 4096 --log-samples -f -o gen model g.jsonl >/dev/null && sed "s/.*\"filtered_resps\":\[\"\(.*\)\"\],\"filter\".*/\1/" gen/samples_g.jsonl >a && text_of greedy | cmp - a || exit 1
    done
    "$E" tasks -q --seq-len 4096 --log-samples -f -o gen model g.jsonl >/dev/null && sed "s/.*\"filtered_resps\":\[\"\(.*\)\"\],\"filter\".*/\1/" gen/samples_g.jsonl >b && ! cmp -s a b'
sampled="--temperature 1.1 --top-k 30 --top-p 0.95 --repetition-penalty 1.1 --tokens 20 --prompts prompts.jsonl model"
gen $sampled >drawn
ok 'any --batch, any number of ranks: the same texts' '
    for n in 1 3 16; do
        gen --batch $n --temperature 0 --tokens 25 --prompts prompts.jsonl model | cmp - greedy && gen --batch $n $sampled | cmp - drawn || exit 1
    done
    for n in 2 3; do $mpi -n $n "$E" generate -q $sampled | cmp - drawn || exit 1; done
    $mpi -n 2 "$E" generate -q $(echo "$sampled" | sed "s/prompts.jsonl/-/") <prompts.jsonl | cmp - drawn'
ok 'a text is its id'"'"'s, wherever it stands; another seed, another text' '
    tac prompts.jsonl >back && gen $(echo $sampled | sed s/prompts.jsonl/back/) | tac | cmp - drawn && gen --seed 2 $sampled >other && ! cmp -s other drawn && gen --seed 1 $sampled | cmp - drawn &&
    { echo "{\"prompt\": \"the\", \"id\": 1}"; echo "{\"prompt\": \"the\", \"id\": \"1\"}"; } >two && gen --tokens 30 --temperature 2 --prompts two model >x && [ "$(text_of x | sort -u | wc -l)" -eq 2 ]'
one() { gen --prompt "the" --tokens 30 "$@" model; }
ok 'each filter: min-p, repetition penalty, ties' '
    one --temperature 0 >g && one --temperature 2 --min-p 1 | cmp - g && one --temperature 2 >w && ! cmp -s g w && one --temperature 2 --min-p 1e-9 | cmp - w &&
    one --temperature 0 --repetition-penalty 50 --past-end >r && ! cmp -s r g && [ "$(head -c 20 r | fold -w 1 | sort | uniq -d | wc -l)" -le 2 ]'
ok '--stop: a text, a list; what may begin one is held back and comes out in the end' '
    w=$(tail -c +4 g | head -n 1) && s=$(printf %s "$w" | cut -c 5-7) && before=${w%%"$s"*} &&
    one --temperature 0 --stop "$s" >x && [ "$(cat x)" = "the$before" ] && one --temperature 0 --stop "[\"never\", \"$s\"]" | cmp - x && one --temperature 0 --stop "[\"never\"]" | cmp - g &&
    last=$(printf %s "$w" | tail -c 2) && one --temperature 0 --stop "$last never" | cmp - g &&
    gen --temperature 0 --tokens 25 --stop "$s" --prompts prompts.jsonl model >y && grep -q "\"finish\":\"stop\"" y && ! text_of y | grep -qF -e "$s" && gen --temperature 0 --tokens 1 --prompts prompts.jsonl model | grep -q "\"tokens\":1,\"finish\":\"length\""'
ok 'a document that ends, and --past-end' '
    "$SSM_BIN/ckmerge" merge -q -o m model && gen --temperature 1 --tokens 900 --prompts prompts.jsonl model >e && grep -q "\"finish\":\"end\"" e && gen --temperature 1 --past-end --tokens 60 --prompts prompts.jsonl model >e && [ "$(grep -c "\"tokens\":60,\"finish\":\"length\"" e)" -eq 8 ]'
ok 'broken characters are U+FFFD, so that the lines are UTF-8' '
    "${SSM_TESTS:-$SSM_BIN/../tests}/mkckpt" wild 5 1 ./tiny.conf*0.3 && gen --tokenizer bytes --temperature 3 --tokens 40 --prompts prompts.jsonl wild >u && iconv -f UTF-8 -t UTF-8 u | cmp - u && grep -q "$(printf "\357\277\275")" u'
bad() { printf '{"prompt": "x"}\n%s\n' "$2" >bad.jsonl; says 1 "bad.jsonl:2: .*$1" generate --prompts bad.jsonl model; }
ok 'prompts that cannot be: file, line, why' '
    bad "prompt.* is missing" "{\"id\": 1}" && bad "prompt.* is 7" "{\"prompt\": 7}" && bad "neither" "{\"prompt\": \"a\", \"id\": 1.5}" && bad "bad JSON" "{\"prompt\": " && says 1 nowhere generate --prompts nowhere model &&
    says 2 "excludes" generate --prompts bad.jsonl --prompt x model && says 2 "excludes" generate --prompts bad.jsonl --prompt-file x model && : >none && gen --prompts none model >x && [ ! -s x ]'
ok 'stop strings that cannot be' 'says 2 "empty" generate --stop "" model && says 2 "empty" generate --stop "[\"a\", \"\"]" model && says 2 "list" generate --stop "[1]" model && says 2 "list" generate --stop "[\"a\"" model'
done_testing
