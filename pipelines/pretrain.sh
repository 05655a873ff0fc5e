#!/bin/sh
# pretrain.sh - text -> shards -> trained model -> merged checkpoint -> scores, driven by one .conf
# SPDX-License-Identifier: MIT
#
# usage: pretrain.sh FILE.conf [STAGE...]     stages: data train merge eval report (default: all)
#        pretrain.sh FILE.conf --list        stages for a batch system: name, tasks, ranks, 'done' or 'todo'
#
# Stages that are done are skipped, so the same command goes on after an interruption. Exit codes are those of the
# tools: 75 means the training was told to stop and saved; run the same command again. 'data' is learn, share:I/N for every I up to
# 'parts' and index; 'eval' is eval:I/N for every one of its N tables, and curve:I/N. These may run one by one, each on a machine of its own.
#
# Keys of the .conf (options are passed on as words):
#   work       folder of everything that is made
#   input      files of text (blanks between them; patterns are expanded)
#   encode     more options of 'tokshard encode', e.g. --split para
#   tokenizer  what 'tokshard encode --tokenizer' takes (default bytes); train:N learns one of N tokens from the documents
#              that are not held out, and writes WORK/tokenizer.json
#   learn      more options of 'tokshard train', e.g. --pattern cl100k; those that say what a document is come from encode
#   valid      share of the documents held out, e.g. 0.01
#   parts      tokenise in so many shares (default 1), which may be jobs of an array
#   ranks      MPI ranks of tokshard, ssmtrain, ssmeval (default 1)
#   model      preset or file
#   train      options of ssmtrain
#   eval       options of 'ssmeval ppl'
#   curve      score every checkpoint that the run has kept too (ssmtrain --keep-every), in so many shares, which may be jobs of an array
#   tasks      files of tasks for 'ssmeval tasks'
#   task       options of 'ssmeval tasks'
#   prompt     what the sample begins with; none: no sample
#   generate   options of 'ssmeval generate'
# shellcheck disable=SC2154
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=pipelines/stage.sh
. "$here/stage.sh"

[ $# -ge 1 ] || usage_error "usage: pretrain.sh FILE.conf [STAGE...]"
conf=$1
shift
conf_parts=1 conf_ranks=1 conf_curve='' conf_valid=0.01 conf_encode='' conf_train='' conf_eval='' conf_tasks='' conf_task='' conf_prompt='' conf_generate=''
conf_tokenizer='' conf_learn=''
conf_read "$conf" work input tokenizer learn encode valid parts ranks model train eval curve tasks task prompt generate
need work input model
number parts ranks ${conf_curve:+curve}
find_tools
work=$conf_work
mkdir -p "$work"

# What of the options of 'encode' says which documents there are: 'train' takes these too.
documents() {
    while [ $# -gt 0 ]; do
        case $1 in
        --format=* | --split=* | --separator=* | --text-key=* | --max-line=* | --utf8=* | --skip-bad) printf '%s ' "$1" ;;
        --format | --split | --separator | --text-key | --max-line | --utf8)
            printf '%s %s ' "$1" "${2:-}"
            [ $# -lt 2 ] || shift
            ;;
        esac
        shift
    done
}

spec=$conf_tokenizer
case $conf_tokenizer in
train:*) spec=$work/tokenizer.json ;;
*) [ -z "$conf_learn" ] || usage_error "$conf: 'learn' needs 'tokenizer = train:N'" ;;
esac

# The options of the .conf are words: they are meant to be split, and patterns to be expanded.
# shellcheck disable=SC2086,SC2046
stage_learn() {
    case $conf_tokenizer in
    train:*)
        stage "data (tokenizer)" "$work/tokenizer.json" \
            ranks "$conf_ranks" "$bin/tokshard" train --vocab "${conf_tokenizer#train:}" --valid-share "$conf_valid" \
            $(documents $conf_encode) $conf_learn -o "$work/tokenizer.json" $conf_input
        ;;
    esac
}

# make_set TAKE OPTION...: one of the two sets, or a share of it
# shellcheck disable=SC2086
make_set() {
    take=$1
    shift
    ranks "$conf_ranks" "$bin/tokshard" encode ${spec:+"--tokenizer=$spec"} $conf_encode --take "$take" --valid-share "$conf_valid" ${SSM_THREADS:+"--threads=$SSM_THREADS"} "$@" \
        -o "$work/$take" $conf_input
}
stage_share() { share_sets data "$1"; }
stage_index() { index_sets data; }
stage_data() {
    stage_learn
    make_sets data
}

# shellcheck disable=SC2086
stage_train() { train_run "$work/run" "$conf_ranks" --model "$conf_model" $conf_train "$work/train"; }
stage_merge() { merge_run; }

# shellcheck disable=SC2086
score() { ranks "$conf_ranks" "$bin/ssmeval" ppl $conf_eval "$work/model" "$work/valid" >"$work/scores.tsv.tmp" &&
    mv "$work/scores.tsv.tmp" "$work/scores.tsv"; }
# shellcheck disable=SC2086
write_sample() { one "$bin/ssmeval" generate ${spec:+"--tokenizer=$spec"} --prompt "$conf_prompt" $conf_generate "$work/model" >"$work/sample.txt.tmp" &&
    mv "$work/sample.txt.tmp" "$work/sample.txt"; }
# Table 1: perplexity, and the sample; the others: a file of tasks each.
# shellcheck disable=SC2086
stage_eval() {
    if [ -z "$1" ]; then
        each_share "$(tables $conf_tasks)" stage_eval
        [ -z "$conf_curve" ] || each_share "$conf_curve" stage_curve
        return 0
    fi
    share "$1" "$(tables $conf_tasks)"
    if [ "${1%/*}" -eq 1 ]; then
        stage eval "$work/scores.tsv" score
        [ -z "$conf_prompt" ] || stage sample "$work/sample.txt" write_sample
    else
        task_table "${1%/*}" "$work/model" ${spec:+"--tokenizer=$spec"}
    fi
}

# The bits per byte of each checkpoint. Share I/N: every N-th of them.
curve_point() {
    # shellcheck disable=SC2086
    ranks "$conf_ranks" "$bin/ssmeval" ppl $conf_eval "$1" "$work/valid" >"$2.tmp" && mv "$2.tmp" "$2"
}
stage_curve() {
    share "$1" "$conf_curve"
    mkdir -p "$work/curve"
    curve_i=0
    for index in "$work"/run/inc-*/step-*/index.h5; do
        curve_i=$((curve_i + 1))
        [ $((curve_i % conf_curve)) -eq $((${1%/*} % conf_curve)) ] || continue
        step=${index%/index.h5}
        table=$work/curve/${step##*/}.tsv
        stage "curve (${step##*/})" "$table" curve_point "${index%/index.h5}" "$table"
    done
    : >"$work/curve/share-${1%/*}.done"
}
curve_marks() { each_share "${conf_curve:-0}" curve_mark; }
curve_mark() { echo "$work/curve/share-${1%/*}.done"; }
# Step by step, as one table
write_curve() {
    printf '# step\tbits_per_byte\n' >"$work/curve.tsv.tmp"
    for table in "$work"/curve/step-*.tsv; do
        step=${table##*/step-}
        step=${step%.tsv}
        printf '%s\t%s\n' "$(plain "$step")" "$(column bits_per_byte "$table")" >>"$work/curve.tsv.tmp"
    done
    mv "$work/curve.tsv.tmp" "$work/curve.tsv"
}

# shellcheck disable=SC2086
inputs() {
    printf '%s\n' $conf_input $conf_tasks
    for f in "$conf_model" "$spec"; do
        case $f in "$work"/*) ;; */*) printf '%s\n' "$f" ;; esac
    done
}

# shellcheck disable=SC2046
stage_report() {
    [ -z "$conf_curve" ] || stage "curve (table)" "$work/curve.tsv" write_curve
    set -- "$work/scores.tsv" ${conf_curve:+"$work/curve.tsv"} $(task_files)
    [ -z "$conf_prompt" ] || set -- "$@" "$work/sample.txt"
    stage report "$work/report.html" "$here/report.sh" -o "$work/report.html" -t "$conf_model" "$work/run" "$@"
}

# shellcheck disable=SC2086,SC2046
list() {
    case $conf_tokenizer in train:*) row learn 1 "$conf_ranks" "$work/tokenizer.json" ;; esac
    list_sets data
    row train 1 "$conf_ranks" "$work/run.done"
    row merge 1 1 "$work/model/index.h5"
    row eval "$(tables $conf_tasks)" "$conf_ranks" "$work/scores.tsv" $(task_files) ${conf_prompt:+"$work/sample.txt"}
    [ -z "$conf_curve" ] || row curve "$conf_curve" "$conf_ranks" $(curve_marks)
    row report 1 1 "$work/report.html"
}
stages "learn share index data train merge eval curve report" "data train merge eval report" "$@"
