#!/bin/sh
# finetune.sh - conversations -> packed rows -> fine-tuned model -> merged checkpoint -> scores, driven by one .conf
# SPDX-License-Identifier: MIT
#
# usage: finetune.sh FILE.conf [STAGE...]     stages: pack train merge eval report (default: all)
#
# Stages that are done are skipped, so the same command goes on after an interruption. Exit codes are those of the
# tools: 75 means the training was told to stop and saved; run the same command again.
#
# Keys of the .conf (options are passed on as words):
#   work       folder of everything that is made
#   init       checkpoint or run to begin with: the 'model' of pretrain.sh, what 'ckmerge import' wrote, ...
#   input      JSONL files of conversations (blanks between them; patterns are expanded)
#   template   what 'tokshard pack --template' takes
#   tokenizer  what 'tokshard pack --tokenizer' takes (default bytes): that of the model
#   seq_len    tokens of a row (default 2048), in all stages
#   pack       more options of 'tokshard pack', e.g. --too-long truncate
#   valid      share of the conversations held out (default 0.05)
#   ranks      MPI ranks of tokshard, ssmtrain, ssmeval (default 1)
#   train      options of ssmtrain; --model is that of 'init' when it is not among them
#   eval       options of 'ssmeval ppl'
#   prompt     what the sample begins with; none: no sample
#   generate   options of 'ssmeval generate'
# shellcheck disable=SC2154
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=pipelines/stage.sh
. "$here/stage.sh"

[ $# -ge 1 ] || usage_error "usage: finetune.sh FILE.conf [STAGE...]"
conf=$1
shift
stages=${*:-pack train merge eval report}
conf_ranks=1 conf_valid=0.05 conf_seq_len=2048 conf_tokenizer=bytes conf_pack='' conf_train='' conf_eval='' conf_prompt='' conf_generate=''
conf_read "$conf" work init input template tokenizer seq_len pack valid ranks train eval prompt generate
need work init input template
find_tools
work=$conf_work
mkdir -p "$work"

# The options of the .conf are words: they are meant to be split, and patterns to be expanded.
# shellcheck disable=SC2086
pack() {
    for take in train valid; do
        stage "pack ($take)" "$work/$take/index.h5" \
            ranks "$conf_ranks" "$bin/tokshard" pack --template "$conf_template" --tokenizer "$conf_tokenizer" --seq-len "$conf_seq_len" $conf_pack \
            --take $take --valid-share "$conf_valid" -o "$work/$take" $conf_input
    done
}

# ssmtrain itself knows whether the run is complete, and goes on where it was.
# shellcheck disable=SC2086
train() {
    if [ -e "$work/run.done" ]; then
        say "train: done already"
        return 0
    fi
    say "train: from $conf_init"
    code=0
    ranks "$conf_ranks" "$bin/ssmtrain" --init-from "$conf_init" -o "$work/run" --seq-len "$conf_seq_len" $conf_train "$work/train" || code=$?
    [ $code -eq 0 ] || exit $code
    : >"$work/run.done"
}

merge() {
    stage merge "$work/model/index.h5" "$bin/ckmerge" merge "$work/run" --drop-optimizer -o "$work/model"
}

# score MODEL FILE: of the answers of the held-out conversations
# shellcheck disable=SC2086
score() { ranks "$conf_ranks" "$bin/ssmeval" ppl --seq-len "$conf_seq_len" $conf_eval "$1" "$work/valid" >"$2.tmp" && mv "$2.tmp" "$2"; }
# shellcheck disable=SC2086
write_sample() { "$bin/ssmeval" generate --tokenizer "$conf_tokenizer" --prompt "$conf_prompt" $conf_generate "$work/model" >"$work/sample.txt.tmp" &&
    mv "$work/sample.txt.tmp" "$work/sample.txt"; }
evaluate() {
    stage "eval (before)" "$work/before.tsv" score "$conf_init" "$work/before.tsv"
    stage "eval (after)" "$work/scores.tsv" score "$work/model" "$work/scores.tsv"
    [ -z "$conf_prompt" ] || stage sample "$work/sample.txt" write_sample
}

report() {
    set -- "$work/before.tsv" "$work/scores.tsv"
    [ -z "$conf_prompt" ] || set -- "$@" "$work/sample.txt"
    stage report "$work/report.html" "$here/report.sh" -o "$work/report.html" -t "fine-tuned: ${conf_init##*/}" "$work/run" "$@"
}

for s in $stages; do
    case $s in
    pack | train | merge | report) "$s" ;;
    eval) evaluate ;;
    *) usage_error "unknown stage '$s' (pack train merge eval report)" ;;
    esac
done
