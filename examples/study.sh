#!/bin/sh
# study.sh - NVIDIA's question in miniature: hybrid, Mamba-2 or transformer, at the same tokens?
# SPDX-License-Identifier: MIT
#
# usage: study.sh [STAGE...]      stages: data train tune eval table plot (default: all); what is done is skipped
#
# Trains three small models on the same sequences of a text in the same order; then, from these, on phone books made by 'ssmeval
# synth', of which only the answers count. Scores each at several context lengths: bits per byte of held-out text before the
# second training, and how many of the numbers that a phone book holds it can say after it.
# Environment: BIN tools; CORPUS text files, SPLIT how they are cut (tokshard encode); STUDY folder of everything made (./study);
# MODELS; STEPS, TUNE_STEPS, BATCH, RANKS of each training; AT_ONCE trainings side by side; LENGTHS; TRAIN, TUNE more options.
# With its numbers: an hour and a quarter on two cores.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
here=$top/pipelines
# shellcheck source=pipelines/stage.sh
. "$here/stage.sh"
bin=${BIN:-$top/build/release/bin}
study=${STUDY:-./study}
corpus=${CORPUS:?which text? CORPUS=FILE}
split=${SPLIT:---split para --utf8 replace}
models=${MODELS:-hybrid-demo mamba2-demo gpt-demo}
steps=${STEPS:-500}
tune_steps=${TUNE_STEPS:-600}
batch=${BATCH:-40}
ranks=${RANKS:-2}
at_once=${AT_ONCE:-1}
lengths=${LENGTHS:-64 128 256 512 1024 2048}
seq_len=512
export OMP_NUM_THREADS=1 SSM_MODELS="${SSM_MODELS:-$top/pipelines/models}"
say() { printf 'study: %s\n' "$*" >&2; }
many() { if [ "$1" -gt 1 ]; then "${SSM_MPIEXEC:-mpiexec}" -n "$@"; else shift; "$@"; fi; }
mkdir -p "$study"

# shellcheck disable=SC2086
data() {
    [ ! -e "$study/valid/index.h5" ] || return 0
    say 'phone books to train on, a vocabulary, shards'
    # for the vocabulary; lengths in bytes
    "$bin/ssmeval" synth phonebook --as text --length 1200 --shortest 100 --shots 30 --count 20000 --seed 1 -f -o "$study/books.jsonl"
    many "$ranks" "$bin/tokshard" train -q -f --vocab 4096 --pattern cl100k $split --valid-share 0.01 -o "$study/tokenizer.json" "$study/books.jsonl" $corpus
    for take in train valid; do
        many "$ranks" "$bin/tokshard" encode -q -f --tokenizer "$study/tokenizer.json" $split --take $take --valid-share 0.01 -o "$study/$take" $corpus
    done
}

# Books of a few names, with which looking up is learnt, and longer ones, each half of the rows. No book is seen twice.
books() {
    for kind in short:40:128:80000:2 long:128:$seq_len:24000:3; do
        IFS=: read -r name shortest longest count seed <<KIND
$kind
KIND
        [ ! -e "$study/$name/index.h5" ] || continue
        "$bin/ssmeval" synth phonebook --as messages --tokenizer "$study/tokenizer.json" --shortest "$shortest" --length "$longest" --shots 30 \
            --count "$count" --seed "$seed" -f -o "$study/$name.jsonl"
        "$bin/tokshard" pack -q -f --template bare --tokenizer "$study/tokenizer.json" --seq-len $seq_len -o "$study/$name" "$study/$name.jsonl"
    done
}

# train_one RUN OPTION...
train_one() {
    run=$1 code=0
    shift
    many "$ranks" "$bin/ssmtrain" -o "$study/$run" --batch "$batch" --seq-len $seq_len --lr 3e-3 --warmup 50 --save-every 250 --log-every 30 "$@" \
        2>>"$study/$run.log" || code=$?
    [ $code -eq 0 ] || { say "$run: exit code $code, see $study/$run.log"; return $code; }
}
# each WHAT: WHAT MODEL for every model, AT_ONCE of them at a time
each() {
    n=0 pids='' failed=0
    for m in $models; do
        say "$1 $m"
        "$1" "$m" &
        pids="$pids $!" n=$((n + 1))
        [ $((n % at_once)) -ne 0 ] || { for p in $pids; do wait "$p" || failed=$?; done; pids=''; }
    done
    for p in $pids; do wait "$p" || failed=$?; done
    return $failed
}
# shellcheck disable=SC2086
train_model() { train_one "$1" --model "$1" --steps "$steps" ${TRAIN:-} "$study/train"; }
# shellcheck disable=SC2086
tune_model() { train_one "$1-tuned" --init-from "$study/$1" --steps "$tune_steps" ${TUNE:-} "$study/short@1" "$study/long@1"; }
train() { each train_model; }
tune() {
    books
    each tune_model
}

# score_model MODEL: bits per byte and accuracy at each length
score_model() {
    for l in $lengths; do
        [ -s "$study/$1-$l.tsv" ] || { many "$ranks" "$bin/ssmeval" ppl -q --seq-len "$l" --batch 8 "$study/$1" "$study/valid" >"$study/$1-$l.new" && mv "$study/$1-$l.new" "$study/$1-$l.tsv"; }
        [ -s "$study/$1-$l.books.tsv" ] || { many "$ranks" "$bin/ssmeval" tasks -q --bos --tokenizer "$study/tokenizer.json" --seq-len 4096 --batch 10 "$study/$1-tuned" "$study/phonebook-$l.jsonl" >"$study/$1-$l.new" &&
            mv "$study/$1-$l.new" "$study/$1-$l.books.tsv"; }
    done
}
evaluate() {
    for l in $lengths; do
        [ -s "$study/phonebook-$l.jsonl" ] || "$bin/ssmeval" synth phonebook --length "$l" --count 300 --seed 999 --tokenizer "$study/tokenizer.json" -o "$study/phonebook-$l.jsonl"
    done
    each score_model
}

table() {
    {
        printf '# context'
        for m in $models; do printf '\t%s, bits per byte' "$m"; done
        for m in $models; do printf '\t%s, phone book\t+-' "$m"; done
        printf '\n'
        for l in $lengths; do
            printf '%s' "$l"
            for m in $models; do printf '\t%s' "$(column bits_per_byte "$study/$m-$l.tsv")"; done
            for m in $models; do printf '\t%s\t%s' "$(column value "$study/$m-$l.books.tsv")" "$(column stderr "$study/$m-$l.books.tsv")"; done
            printf '\n'
        done
    } >"$study/study.tsv"
    cat "$study/study.tsv"
}

plot() {
    n=0 bits='' books=''
    # shellcheck disable=SC2086
    set -- $models
    for m; do
        n=$((n + 1))
        bits="$bits, '$study/study.tsv' using 1:$((n + 1)) with linespoints linewidth 2 pointtype 7 title '$m'"
        books="$books, '$study/study.tsv' using 1:$(($# + 2 * n)):$(($# + 2 * n + 1)) with yerrorlines linewidth 2 pointtype 7 title '$m'"
    done
    gnuplot <<PLOT
set terminal svg size 900,380 font 'sans,12' background rgb 'white'
set output '$study/study.svg'
set datafile separator '\t'
set multiplot layout 1,2
set logscale x 2
set grid
set key top right
set xlabel 'context, tokens'
set arrow from $seq_len, graph 0 to $seq_len, graph 1 nohead dashtype 2 linecolor rgb 'gray'
set label 'trained at' at $seq_len, graph 0.05 right offset -0.5,0 textcolor rgb 'gray'
set title 'held-out text'
set ylabel 'bits per byte'
plot ${bits#, }
set title 'phone book: numbers said right'
set ylabel 'accuracy'
set yrange [-0.05:1.05]
set key center right
plot ${books#, }
PLOT
    sed -i 's/[[:space:]]*$//' "$study/study.svg"
}

stages=${*:-data train tune eval table plot}
for s in $stages; do
    case $s in
    data | train | tune | table | plot) "$s" ;;
    eval) evaluate ;;
    *) say "unknown stage '$s'"; exit 2 ;;
    esac
done
