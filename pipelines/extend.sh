#!/bin/sh
# extend.sh - a trained model -> the same model at longer contexts -> scores at each length before and after, by one .conf
# SPDX-License-Identifier: MIT
#
# usage: extend.sh FILE.conf [STAGE...]     stages: train merge eval report (default: all)
#        extend.sh FILE.conf --list        stages for a batch system: name, tasks, ranks, 'done' or 'todo'
#
# Trains on with longer sequences, as NVIDIA's 8B models were taken from 4K to 16K, 32K and 128K tokens. States and
# convolutions know no positions; attention with rotary embedding sees positions that it has not seen before, so give a
# transformer a larger 'rope_theta' by a model file of its own (--model among 'train').
# Stages that are done are skipped. Exit codes are those of the tools: 75 means the training was told to stop and saved; run
# the same command again. 'eval' is eval:I/N for each of its N lengths, which may run one by one, and the table of them.
#
# Keys of the .conf (options are passed on as words):
#   work       folder of everything that is made
#   init       checkpoint or run to begin with
#   data       sets of shards to train on, SET or SET@WEIGHT; long documents, or none of this is of use
#   valid      set of shards to score
#   seq_len    tokens of a sequence
#   lengths    context lengths to score at (default: a quarter of seq_len, a half, seq_len, twice that)
#   ranks      MPI ranks of ssmtrain, ssmeval (default 1)
#   train      options of ssmtrain, e.g. --tokens 50G --batch 64 --micro-batch 1 --lr 3e-5 --recompute full
#   eval       options of 'ssmeval ppl'
# shellcheck disable=SC2154
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=pipelines/stage.sh
. "$here/stage.sh"

[ $# -ge 1 ] || usage_error "usage: extend.sh FILE.conf [STAGE...]"
conf=$1
shift
conf_ranks=1 conf_train='' conf_eval='' conf_lengths=''
conf_read "$conf" work init data valid seq_len lengths ranks train eval
need work init data valid seq_len
number seq_len ranks
lengths=${conf_lengths:-$((conf_seq_len / 4)) $((conf_seq_len / 2)) $conf_seq_len $((conf_seq_len * 2))}
find_tools
work=$conf_work
mkdir -p "$work"

# The options of the .conf are words: they are meant to be split.
# shellcheck disable=SC2086
stage_train() { train_run "$work/run" "$conf_ranks" --init-from "$conf_init" --seq-len "$conf_seq_len" $conf_train $conf_data; }
stage_merge() { merge_run; }

# score MODEL LENGTH FILE
# shellcheck disable=SC2086
score() { ranks "$conf_ranks" "$bin/ssmeval" ppl --seq-len "$2" $conf_eval "$1" "$conf_valid" >"$3.tmp" && mv "$3.tmp" "$3"; }
table() {
    printf '# context, tokens\tbits per byte before\tafter\n' >"$1.tmp"
    for length in $lengths; do
        printf '%s\t%s\t%s\n' "$length" "$(column bits_per_byte "$work/before-$length.tsv")" "$(column bits_per_byte "$work/after-$length.tsv")" >>"$1.tmp"
    done
    mv "$1.tmp" "$1"
}
length_files() { for length in $lengths; do echo "$work/before-$length.tsv" "$work/after-$length.tsv"; done; }
nth() { shift "$1"; echo "$1"; }
# shellcheck disable=SC2086
stage_eval() {
    n=$(set -- $lengths && echo $#)
    if [ -n "$1" ]; then
        share "$1" "$n"
        length=$(nth "${1%/*}" $lengths)
        stage "eval ($length tokens, before)" "$work/before-$length.tsv" score "$conf_init" "$length" "$work/before-$length.tsv"
        stage "eval ($length tokens, after)" "$work/after-$length.tsv" score "$work/model" "$length" "$work/after-$length.tsv"
    else
        each_share "$n" stage_eval
        stage "eval (table)" "$work/lengths.tsv" table "$work/lengths.tsv"
    fi
}

# shellcheck disable=SC2086
inputs() {
    printf '%s\n' "$conf_init" "$conf_valid"
    for f in $conf_data; do printf '%s\n' "${f%@*}"; done
}

stage_report() {
    stage "eval (table)" "$work/lengths.tsv" table "$work/lengths.tsv"
    stage report "$work/report.html" "$here/report.sh" -o "$work/report.html" -t "extended: ${conf_init##*/}" "$work/run" "$work/lengths.tsv"
}

# shellcheck disable=SC2086,SC2046
list() {
    row train 1 "$conf_ranks" "$work/run.done"
    row merge 1 1 "$work/model/index.h5"
    row eval "$(set -- $lengths && echo $#)" "$conf_ranks" $(length_files)
    row report 1 1 "$work/report.html"
}
stages "train merge eval report" "train merge eval report" "$@"
