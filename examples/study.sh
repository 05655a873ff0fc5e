#!/bin/sh
# study.sh - NVIDIA's question in miniature: hybrid, Mamba-2 or transformer, at the same tokens?
# SPDX-License-Identifier: MIT
#
# usage: study.sh [STAGE...]      stages: data train eval table plot (default: all); what is done is skipped
#
# Trains three small models on the same sequences in the same order: half of them from a text, half phone books made by
# 'ssmeval synth'. Scores each at several context lengths: bits per byte of held-out text, and how many of the numbers that a
# phone book holds it can say. Environment: BIN tools; CORPUS text files, SPLIT how they are cut (tokshard encode); STUDY folder
# of everything made (./study); MODELS, STEPS, BATCH, RANKS of each training; AT_ONCE trainings side by side; LENGTHS.
# With its numbers: 2 hours on two cores.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
bin=${BIN:-$top/build/release/bin}
study=${STUDY:-./study}
corpus=${CORPUS:?which text? CORPUS=FILE}
split=${SPLIT:---split para --utf8 replace}
models=${MODELS:-hybrid-demo mamba2-demo gpt-demo}
steps=${STEPS:-2000}
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
    "$bin/ssmeval" synth phonebook --text --length 1200 --shortest 100 --shots 30 --count 60000 --seed 1 -f -o "$study/books.jsonl"
    many "$ranks" "$bin/tokshard" train -q -f --vocab 4096 --pattern cl100k $split --valid-share 0.01 -o "$study/tokenizer.json" "$study/books.jsonl" $corpus
    for take in train valid; do
        many "$ranks" "$bin/tokshard" encode -q -f --tokenizer "$study/tokenizer.json" $split --take $take --valid-share 0.01 -o "$study/$take" $corpus
    done
    many "$ranks" "$bin/tokshard" encode -q -f --tokenizer "$study/tokenizer.json" -o "$study/books" "$study/books.jsonl"
}

train_one() {
    code=0
    # shellcheck disable=SC2086
    many "$ranks" "$bin/ssmtrain" --model "$1" -o "$study/$1" --steps "$steps" --batch "$batch" --seq-len $seq_len --lr 3e-3 --save-every 500 \
        --log-every 30 ${TRAIN:-} "$study/train@1" "$study/books@1" 2>>"$study/$1.log" || code=$?
    [ $code -eq 0 ] || { say "$1: exit code $code, see $study/$1.log"; return $code; }
}
train() {
    n=0 pids='' code=0
    for m in $models; do
        say "train $m: $steps steps of $batch x $seq_len tokens on $ranks ranks"
        train_one "$m" &
        pids="$pids $!" n=$((n + 1))
        [ $((n % at_once)) -ne 0 ] || { for p in $pids; do wait "$p" || code=$?; done; pids=''; }
    done
    for p in $pids; do wait "$p" || code=$?; done
    return $code
}

# score_one MODEL: bits per byte and accuracy at each length
score_one() {
    for l in $lengths; do
        [ -s "$study/$1-$l.tsv" ] || { many "$ranks" "$bin/ssmeval" ppl -q --seq-len "$l" --batch 8 "$study/$1" "$study/valid" >"$study/$1-$l.new" && mv "$study/$1-$l.new" "$study/$1-$l.tsv"; }
        [ -s "$study/$1-$l.books.tsv" ] || { many "$ranks" "$bin/ssmeval" tasks -q --bos --tokenizer "$study/tokenizer.json" --seq-len 4096 --batch 10 "$study/$1" "$study/phonebook-$l.jsonl" >"$study/$1-$l.new" &&
            mv "$study/$1-$l.new" "$study/$1-$l.books.tsv"; }
    done
}
evaluate() {
    for l in $lengths; do
        [ -s "$study/phonebook-$l.jsonl" ] || "$bin/ssmeval" synth phonebook --length "$l" --count 300 --seed 999 --tokenizer "$study/tokenizer.json" -o "$study/phonebook-$l.jsonl"
    done
    pids=''
    for m in $models; do
        say "score $m"
        score_one "$m" &
        if [ "$at_once" -gt 1 ]; then pids="$pids $!"; else wait $!; fi
    done
    for p in $pids; do wait "$p"; done
}

# Columns by their names, so that a tool may get more of them.
field() { awk -F '\t' -v name="$2" 'NR == 1 { sub(/^# /, "") ; for (i = 1; i <= NF; i++) if ($i == name) at = i } NR == 2 { print $at }' "$1"; }
table() {
    {
        printf '# context'
        for m in $models; do printf '\t%s, bits per byte' "$m"; done
        for m in $models; do printf '\t%s, phone book\t+-' "$m"; done
        printf '\n'
        for l in $lengths; do
            printf '%s' "$l"
            for m in $models; do printf '\t%s' "$(field "$study/$m-$l.tsv" bits_per_byte)"; done
            for m in $models; do printf '\t%s\t%s' "$(field "$study/$m-$l.books.tsv" value)" "$(field "$study/$m-$l.books.tsv" stderr)"; done
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
set key bottom left
set xlabel 'context, tokens'
set arrow from $seq_len, graph 0 to $seq_len, graph 1 nohead dashtype 2 linecolor rgb 'gray'
set label 'trained at' at $seq_len, graph 0.97 right offset -0.5,0 textcolor rgb 'gray'
set title 'held-out text'
set ylabel 'bits per byte'
plot ${bits#, }
set title 'phone book: numbers said right'
set ylabel 'accuracy'
set yrange [-0.02:1.02]
plot ${books#, }
PLOT
}

stages=${*:-data train eval table plot}
for s in $stages; do
    case $s in
    data | train | table | plot) "$s" ;;
    eval) evaluate ;;
    *) say "unknown stage '$s'"; exit 2 ;;
    esac
done
