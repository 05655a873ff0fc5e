#!/bin/sh
# pretrain.sh - text -> shards -> trained model -> merged checkpoint -> scores, driven by one .conf
# SPDX-License-Identifier: MIT
#
# usage: pretrain.sh FILE.conf [STAGE...]     stages: data train merge eval report (default: all)
#
# Stages that are done are skipped, so the same command goes on after an interruption. Exit codes are those of the
# tools: 75 means the training was told to stop and saved; run the same command again.
#
# Keys of the .conf (options are passed on as words):
#   work       folder of everything that is made
#   input      files of text (blanks between them; patterns are expanded)
#   encode     more options of 'tokshard encode', e.g. --split para
#   tokenizer  what 'tokshard encode --tokenizer' takes (default bytes); train:N learns one of N tokens from the documents
#              that are not held out, and writes WORK/tokenizer.json
#   learn      more options of 'tokshard train', e.g. --pattern cl100k; those that say what a document is come from encode
#   valid      share of the documents held out, e.g. 0.01
#   ranks      MPI ranks of tokshard, ssmtrain, ssmeval (default 1)
#   model      preset or file
#   train      options of ssmtrain
#   eval       options of 'ssmeval ppl'
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
stages=${*:-data train merge eval report}
conf_ranks=1 conf_valid=0.01 conf_encode='' conf_train='' conf_eval='' conf_prompt='' conf_generate='' conf_tokenizer='' conf_learn=''
conf_read "$conf" work input tokenizer learn encode valid ranks model train eval prompt generate
need work input model
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

# shellcheck disable=SC2086,SC2046
learn() {
    case $conf_tokenizer in
    train:*)
        stage "data (tokenizer)" "$work/tokenizer.json" \
            ranks "$conf_ranks" "$bin/tokshard" train --vocab "${conf_tokenizer#train:}" --valid-share "$conf_valid" \
            $(documents $conf_encode) $conf_learn -o "$work/tokenizer.json" $conf_input
        ;;
    esac
}

# The options of the .conf are words: they are meant to be split, and patterns to be expanded.
# shellcheck disable=SC2154,SC2086
data() {
    learn
    for take in train valid; do
        stage "data ($take)" "$work/$take/index.h5" \
            ranks "$conf_ranks" "$bin/tokshard" encode ${spec:+"--tokenizer=$spec"} $conf_encode --take $take --valid-share "$conf_valid" \
            -o "$work/$take" $conf_input
    done
}

# ssmtrain itself knows whether the run is complete, and goes on where it was.
# shellcheck disable=SC2086
train() {
    if [ -e "$work/run.done" ]; then
        say "train: done already"
        return 0
    fi
    say "train: $conf_model"
    code=0
    ranks "$conf_ranks" "$bin/ssmtrain" --model "$conf_model" -o "$work/run" $conf_train "$work/train" || code=$?
    [ $code -eq 0 ] || exit $code
    : >"$work/run.done"
}

merge() {
    stage merge "$work/model/index.h5" "$bin/ckmerge" merge "$work/run" --drop-optimizer -o "$work/model"
}

# shellcheck disable=SC2086
score() { ranks "$conf_ranks" "$bin/ssmeval" ppl $conf_eval "$work/model" "$work/valid" >"$work/scores.tsv.tmp" &&
    mv "$work/scores.tsv.tmp" "$work/scores.tsv"; }
# shellcheck disable=SC2086
write_sample() { "$bin/ssmeval" generate ${spec:+"--tokenizer=$spec"} --prompt "$conf_prompt" $conf_generate "$work/model" >"$work/sample.txt.tmp" &&
    mv "$work/sample.txt.tmp" "$work/sample.txt"; }
evaluate() {
    stage eval "$work/scores.tsv" score
    [ -z "$conf_prompt" ] || stage sample "$work/sample.txt" write_sample
}

report() {
    set -- "$work/scores.tsv"
    [ -z "$conf_prompt" ] || set -- "$@" "$work/sample.txt"
    stage report "$work/report.html" "$here/report.sh" -o "$work/report.html" -t "$conf_model" "$work/run" "$@"
}

for s in $stages; do
    case $s in
    data | train | merge | report) "$s" ;;
    eval) evaluate ;;
    *) usage_error "unknown stage '$s' (data train merge eval report)" ;;
    esac
done
