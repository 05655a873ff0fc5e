#!/bin/sh
# 4000-ssmeval.t - scores that do not depend on how the work is cut, known losses, texts, bad input
# SPDX-License-Identifier: MIT
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"
mpi="timeout -k 5 60 ${MPIEXEC:-mpiexec}"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS

# Documents of a tiny grammar, and a model that has seen a little of it.
tiny_text 1000 >text.txt
tiny_model 'MS*-RL' >tiny.conf
tiny_model MS-R >ssm.conf
train="ssmtrain -q --batch 8 --seq-len 64"
E=$SSM_BIN/ssmeval
"$SSM_BIN/tokshard" encode -q --split para -o data text.txt &&
    "$SSM_BIN"/$train --model ./tiny.conf --steps 40 --warmup 4 --lr 5e-3 -o run data &&
    "$SSM_BIN"/$train --model ./ssm.conf --steps 10 --warmup 4 --lr 5e-3 -o ssm data &&
    "$SSM_BIN"/$train --model ./tiny.conf --steps 1 --warmup 0 --lr 0 -o raw data &&
    "$SSM_BIN/ckmerge" merge -q --drop-optimizer -o model run || exit 1

ppl() { timeout -k 5 60 "$E" ppl -q "$@"; }
field() { awk -F '\t' -v n="$2" '!/^#/ { print $n }' "$1"; }
gen() { timeout -k 5 60 "$E" generate -q "$@"; }
value() { "$SSM_BIN/tokshard" stat "$1" | sed -n "s/^$2	//p"; }
# says CODE TEXT ARGUMENT...: that exit code and one line on stderr, which holds TEXT
says() {
    code=$1 text=$2
    shift 2
    must_exit "$code" timeout -k 5 60 "$E" "$@" >out 2>err || { cat err; return 1; }
    [ "$(wc -l <err)" -eq 1 ] && grep -q -e "$text" err || { cat err; return 1; }
}
# near A B RELATIVE
near() { awk -v a="$1" -v b="$2" -v lim="$3" 'BEGIN { d = a - b; if (d < 0) d = -d; if (a == "" || d > lim * b) { print a, b; exit 1 } }'; }

# ---- scores ----
ok 'every token is scored once' '
    ppl model data >ref && [ "$(field ref 2)" -eq "$(value data tokens)" ] && [ "$(field ref 3)" -eq "$(value data documents)" ] &&
    [ "$(field ref 4)" -eq "$(value data bytes)" ]'
# Ten documents of 32 tokens: where windows end with documents, none loses what was before it.
"$SSM_BIN/tokshard" cat data | tr -d '\n' | fold -w 31 | head -n 10 >even.txt
"$SSM_BIN/tokshard" encode -q --split line -o even even.txt
ok 'the last window, half full, counts; also alone on its rank' '
    ppl --seq-len 320 model even >e320 && [ "$(field e320 2)" -eq 320 ] &&
    for s in 32 64 96 128 1024; do
        ppl --seq-len $s --batch 3 model even >e && near "$(field e 5)" "$(field e320 5)" 1e-6 || exit 1
    done
    for s in 32 48 96; do ppl --seq-len $s model even >e && $mpi -n 3 "$E" ppl -q --seq-len $s model even | cmp e - || exit 1; done'
ok '--stride: with a document'"'"'s length of context in every window none loses what was before it' '
    for p in 70:30 66:31 100:1 45:13; do
        ppl --seq-len ${p%:*} model even >d && ! near "$(field d 5)" "$(field e320 5)" 1e-4 >/dev/null && ppl --seq-len ${p%:*} --stride ${p#*:} --batch 3 model even >e &&
        [ "$(field e 2)" -eq 320 ] && near "$(field e 5)" "$(field e320 5)" 1e-6 && $mpi -n 3 "$E" ppl -q --seq-len ${p%:*} --stride ${p#*:} --batch 3 model even | cmp e - || { echo $p; exit 1; }
    done'
ok '--stride as long as the window is none; less of it knows more; what is more is refused' '
    ppl --stride 1024 model data | cmp ref - && ppl --seq-len 32 model data >d && ppl --seq-len 32 --stride 8 model data >e && [ "$(field e 2)" -eq "$(field d 2)" ] &&
    awk -v a="$(field d 5)" -v b="$(field e 5)" "BEGIN { exit !(b < a) }" && ppl --seq-len 32 --stride 8 --limit 500 model data >e && [ "$(field e 2)" -eq 500 ] && says 2 "more than --seq-len" ppl --seq-len 32 --stride 33 model data'
ok 'the columns fit together' '
    head -n 1 ref | grep -qx "# data	tokens	documents	bytes	nats_per_token	perplexity	bits_per_token	bits_per_byte" &&
    awk -F "\t" "/^#/ { next } function bad(a, b) { return a / b > 1.00001 || b / a > 1.00001 }
        bad(\$6, exp(\$5)) || bad(\$7, \$5 / log(2)) || bad(\$8, \$7 * \$2 / \$4) { exit 1 }" ref'
ok 'it has learned' 'awk -v x="$(field ref 5)" "BEGIN { exit !(x < 2.5) }"'
for n in 2 3 5; do
    ok "$n ranks print the same numbers" "ppl model data >one && timeout -k 5 60 $mpi -n $n \"\$E\" ppl -q model data >many && cmp one many"
done
# A run that goes on publishes while the ranks start: the folder of rank 1 has a newer one already.
ok 'all ranks take the checkpoint that rank 0 sees' '
    mkdir -p ahead && cp -r run ahead/run && cp -r data ahead/data && "$SSM_BIN"/$train --model ./tiny.conf --steps 60 --warmup 4 --lr 5e-3 -o ahead/run data &&
    ppl run data >one && (timeout -k 5 60 ${MPIEXEC:-mpiexec} -n 1 "$E" ppl -q run data : -n 1 -wdir "$PWD/ahead" "$E" ppl -q run data) >many && cmp one many'
# 64 windows a time: more than there are of the last rank, so short batches occur; the rows of a batch do not see each other.
# The matrix library may add in another order for another number of rows: then the last digit may differ.
ok 'any --batch gives the same score, to rounding' '
    for b in 1 3 64; do
        ppl --seq-len 128 --batch $b model data >b$b && near "$(field b$b 5)" "$(field b1 5)" 1e-6 || exit 1
    done'
ok 'any --threads gives the same numbers' 'ppl --threads 2 model data | cmp ref -'
ok 'shorter windows know less, and score as many tokens' '
    for s in 7 32 250; do
        ppl --seq-len $s model data >s$s && [ "$(field s$s 2)" -eq "$(field ref 2)" ] || exit 1
    done
    awk -v a="$(field s7 5)" -v b="$(field s32 5)" -v c="$(field s250 5)" -v d="$(field ref 5)" \
        "BEGIN { print a, b, c, d; exit !(a > b && b > c && c > d - 0.05 && a < 1.6 * d) }"'
ok 'a window that holds all documents whole = one window for all' '
    head -c 700 text.txt >short.txt &&
    "$SSM_BIN/tokshard" encode -q --split para -o short short.txt && ppl --seq-len 701 model short >a &&
    ppl --seq-len 1024 model short >b && ppl --seq-len 5000 --batch 2 model short >c && near "$(field a 5)" "$(field b 5)" 1e-6 &&
    near "$(field c 5)" "$(field b 5)" 1e-6'
ok '--limit: the first tokens only' '
    ppl --limit 1 model data >l && [ "$(field l 2)" -eq 1 ] && ppl --limit 1000 --seq-len 64 model data >l1 &&
    [ "$(field l1 2)" -eq 1000 ] && $mpi -n 3 "$E" ppl -q --limit 1000 --seq-len 64 model data | cmp l1 - &&
    ppl --limit 100M model data | cmp ref -'
ok '--limit: the sum over the first half and the whole fit' '
    ppl --limit 1 --seq-len 1 model data >one1 && ppl --limit 2 --seq-len 1 model data >two &&
    awk -v a="$(field one1 5)" -v b="$(field two 5)" "BEGIN { exit !(2 * b > a) }"'
ok 'more ranks than windows' 'ppl --limit 100 model data >a && $mpi -n 3 "$E" ppl -q --limit 100 model data | cmp a -'
ok 'several sets: a line each' '
    ppl model data short >two && ppl model short >c3 && [ "$(wc -l <two)" -eq 3 ] && head -n 2 two | cmp ref - &&
    { head -n 1 ref && sed -n 3p two; } | cmp c3 -'
ok 'a run directory, its merge and its split score alike' '
    "$SSM_BIN/ckmerge" split -q --parts 5 -o five run && ppl run data | cmp ref - && ppl five data | cmp ref -'
# 8 and 11 bits of mantissa: relative errors of 2^-9 and 2^-12 in each weight.
ok 'a model in 16 bits scores nearly the same, and as its values in fp32' '
    for c in bf16:2e-3 f16:2e-4; do
        d=${c%:*} && "$SSM_BIN/ckmerge" merge -q --dtype $d -o $d model && "$SSM_BIN/ckmerge" merge -q --dtype f32 -o wide$d $d &&
        ppl $d data >s16 && near "$(field s16 5)" "$(field ref 5)" ${c#*:} && ! cmp -s s16 ref && ppl wide$d data | cmp s16 - || exit 1
    done'
ok 'the mean of two models is a model' '
    "$SSM_BIN/ckmerge" average -q -o soup model run && ppl soup data | cmp ref - &&
    "$SSM_BIN/ckmerge" average -q --dtype bf16 --weights 9,1 -o soup9 model raw && ppl soup9 data >x && awk -v x="$(field x 5)" "BEGIN { exit !(x < 5) }"'
# The head of a fresh model is close to 0: all 257 tokens are about as likely.
ok 'an untrained model knows nothing: ln 257' 'ppl raw data >x && near "$(field x 5)" 5.549076 0.05'

# ---- texts ----
ok 'the same seed gives the same text, another another' '
    gen --tokens 60 --seed 5 --prompt "the " model >a && gen --tokens 60 --seed 5 --prompt "the " model | cmp a - &&
    gen --tokens 60 --seed 5 --prompt "the " run | cmp a - &&
    gen --tokens 60 --seed 6 --prompt "the " model >b && ! cmp -s a b && head -c 4 a | grep -q "^the "'
ok 'temperature 0, top-k 1 and a tiny top-p: the likeliest, whatever the seed' '
    gen --tokens 40 --temperature 0 --prompt "a cat" model >a && gen --tokens 40 --temperature 0 --seed 9 --prompt "a cat" model | cmp a - &&
    gen --tokens 40 --temperature 3 --top-k 1 --seed 8 --prompt "a cat" model | cmp a - &&
    gen --tokens 40 --temperature 1 --top-p 1e-6 --seed 7 --prompt "a cat" model | cmp a -'
ok 'a prompt from a file, from standard input, from the command line' '
    printf "every " >p && gen --temperature 0 --tokens 30 --prompt "every " model >a &&
    gen --temperature 0 --tokens 30 --prompt-file p model | cmp a - &&
    gen --temperature 0 --tokens 30 --prompt-file - model <p | cmp a -'
ok 'no prompt: a new document' 'gen --tokens 30 --temperature 0 model >a && gen --tokens 30 --temperature 0 --prompt "" model | cmp a - && [ -s a ]'
ok 'any bytes in a prompt, also more than a piece of it' '
    printf "\000\377\nx" >p && gen --tokens 1 --past-end --prompt-file p model | head -c 4 | cmp p - &&
    head -c 5000 text.txt >p && gen --tokens 3 --past-end --prompt-file p model | head -c 5000 | cmp p -'
ok '--tokens is a limit; --past-end goes on to it' '
    for n in 1 2 50; do # the prompt is 1 byte, a token at most 1, the line end 1
        [ "$(gen --tokens $n --prompt x model | wc -c)" -le $((n + 2)) ] &&
        [ "$(gen --tokens $n --past-end --prompt x model | wc -c)" -eq $((n + 2)) ] || exit 1
    done'
# The step by step memory against the parallel form: the likeliest next byte after a prefix of a text that was made
# must be the next byte of that text.
ok 'a text goes on the same from any of its prefixes' '
    gen --temperature 0 --tokens 40 --past-end --prompt "the " model >whole &&
    for n in 5 13 29; do
        head -c $n whole >p && gen --temperature 0 --tokens $((44 - n)) --past-end --prompt-file p model | cmp whole - || exit 1
    done'
ok 'a model without attention' 'gen --tokens 20 --past-end --prompt x ssm >a && [ "$(wc -c <a)" -eq 22 ]'
ok 'the reader goes away: a quiet end' '
    timeout -k 5 20 sh -c "\"$E\" generate -q --tokens 1000000 --past-end model 2>err | head -c 10 >got"; [ $? -ne 124 ] &&
    [ "$(wc -c <got)" -eq 10 ] && [ ! -s err ]'

ok 'output that nobody takes ends the work: a full disk, a pipe without SIGPIPE' '
    test ! -c /dev/full || must_exit 1 timeout -k 5 20 "$E" generate -q --tokens 1000000 --past-end model >/dev/full 2>err || exit 1
    { trap "" PIPE; timeout -k 5 20 "$E" generate -q --tokens 1000000 --past-end model 2>err; echo $? >code; } | head -c 10 >got
    [ "$(cat code)" -eq 1 ] && [ "$(wc -l <err)" -eq 1 ]'

# ---- what will not do ----
ok 'no model, no data, both wrong way round' '
    says 1 "nowhere" ppl nowhere data && says 1 "nowhere" ppl model nowhere && says 1 "not .ssmtools checkpoint" ppl data model && says 1 "not .ssmtools checkpoint" generate data &&
    says 2 "too few" ppl model && says 2 "too few" generate && says 2 "unexpected argument" generate model data'
ok 'prompts that cannot be' '
    says 2 "exclude" generate --prompt x --prompt-file p model && says 1 "nowhere.txt" generate --prompt-file nowhere.txt model &&
    says 1 "data" generate --prompt-file data model'
ok 'garbage instead of a model' '
    mkdir -p junk && head -c 5000 /dev/urandom >junk/index.h5 && says 1 "junk" ppl junk data && says 1 "junk" generate junk &&
    : >junk/index.h5 && says 1 "junk" ppl junk data && cp -r model hurt && truncate -s -500 hurt/part-* && says 1 "hurt" ppl hurt data &&
    rm hurt/part-* && says 1 "hurt" generate hurt'
MK=${SSM_TESTS:-$SSM_BIN/../tests}
ok 'a checkpoint that is no model' '
    "$MK/mkckpt" strange 1 1 && says 1 "strange" ppl strange data && says 1 "strange" generate strange'
other() { rm -rf other && cp -r model other && "$MK/mkother" other "$@"; }
ok 'tensors that the model has no place for are refused' 'other pattern=M && says 1 "that the model does not have" ppl other data'
ok 'a model of another tokenizer is refused' '
    other tokenizer_hash=0123456789abcdef && says 1 "0123456789abcdef" ppl other data && says 1 "0123456789abcdef" generate other &&
    other tokenizer=klingon && says 1 "klingon" generate other &&
    other tokenizer= && says 1 "which tokenizer" generate other && other eod=-1 && says 1 "which tokenizer" generate other'
ok 'a model whose configuration is not that of its tensors' '
    for c in vocab=100 vocab=0 pattern=MMM d_model=64 n_heads=2 headdim=1024 vocab_multiple=64; do
        other $c && says 1 "other" ppl other data && says 1 "other" generate other || { echo "with: $c"; exit 1; }
    done
    other pattern= && says 1 "pattern" ppl other data && other pattern=MX* && says 1 "is none of" ppl other data &&
    other eod=300 && says 1 "300" generate other'
ok 'the chunk of a model changes its speed only' 'other chunk=5 && ppl other data >x && near "$(field x 5)" "$(field ref 5)" 1e-5'
G=$SSM_TOP/tests/golden/tokenizer
ok 'a model of a tokenizer.json: shown the file it scores and writes, shown another it says so' '
    "$SSM_BIN/tokshard" encode -q --split para --tokenizer "$G/gpt2" -o words text.txt &&
    "$SSM_BIN"/$train --model ./ssm.conf --steps 2 --warmup 1 -o worded words && ppl worded words >x && [ "$(field x 2)" -eq "$(value words tokens)" ] &&
    gen --tokenizer "$G/gpt2/tokenizer.json" --prompt "the fox" --tokens 20 worded >x && grep -q "^the fox" x &&
    says 1 "says where it is" generate worded && says 1 "another tokenizer" generate --tokenizer "$G/llama3" worded &&
    says 1 "ends documents" generate --tokenizer bytes worded && says 1 "nowhere" generate --tokenizer nowhere worded'
ok 'more than one rank cannot generate' 'must_exit 2 $mpi -n 2 "$E" generate model 2>err </dev/null && [ "$(wc -l <err)" -eq 1 ]'
done_testing
