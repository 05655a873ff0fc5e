#!/bin/sh
# finetune.sh - conversations -> packed rows -> fine-tuned model -> merged checkpoint -> scores, driven by one .conf
# SPDX-License-Identifier: MIT
#
# usage: finetune.sh FILE.conf [STAGE...]     stages: pack train merge eval report (default: all)
#        finetune.sh FILE.conf --list        stages for a batch system: name, tasks, ranks, 'done' or 'todo'
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
#   parts      pack in so many shares (default 1), share:I/N and index, which may be jobs of an array
#   ranks      MPI ranks of tokshard, ssmtrain, ssmeval (default 1)
#   train      options of ssmtrain; --model is that of 'init' when it is not among them
#   eval       options of 'ssmeval ppl'
#   tasks      files of tasks for 'ssmeval tasks'
#   task       options of 'ssmeval tasks'
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
conf_parts=1 conf_ranks=1 conf_valid=0.05 conf_tasks='' conf_task='' conf_seq_len=2048 conf_tokenizer=bytes conf_pack='' conf_train='' conf_eval='' conf_prompt='' conf_generate=''
conf_read "$conf" work init input template tokenizer seq_len pack valid parts ranks train eval tasks task prompt generate
need work init input template
number parts ranks seq_len
find_tools
work=$conf_work
mkdir -p "$work"

# The options of the .conf are words: they are meant to be split, and patterns to be expanded.
# make_set TAKE OPTION...: one of the two sets, or a share of it
# shellcheck disable=SC2086
make_set() {
    take=$1
    shift
    ranks "$conf_ranks" "$bin/tokshard" pack --template "$conf_template" --tokenizer "$conf_tokenizer" --seq-len "$conf_seq_len" $conf_pack \
        --take "$take" --valid-share "$conf_valid" ${SSM_THREADS:+"--threads=$SSM_THREADS"} "$@" -o "$work/$take" $conf_input
}
stage_share() { share_sets pack "$1"; }
stage_index() { index_sets pack; }
stage_pack() { make_sets pack; }

# shellcheck disable=SC2086
stage_train() { train_run "$work/run" "$conf_ranks" --init-from "$conf_init" --seq-len "$conf_seq_len" $conf_train "$work/train"; }
stage_merge() { merge_run; }

# score MODEL FILE: of the answers of the held-out conversations
# shellcheck disable=SC2086
score() { ranks "$conf_ranks" "$bin/ssmeval" ppl --seq-len "$conf_seq_len" $conf_eval "$1" "$work/valid" >"$2.tmp" && mv "$2.tmp" "$2"; }
# shellcheck disable=SC2086
write_sample() { one "$bin/ssmeval" generate --tokenizer "$conf_tokenizer" --prompt "$conf_prompt" $conf_generate "$work/model" >"$work/sample.txt.tmp" &&
    mv "$work/sample.txt.tmp" "$work/sample.txt"; }
# Table 1: the answers, before and after, and the sample; the others: a file of tasks each.
# shellcheck disable=SC2086
stage_eval() {
    if [ -z "$1" ]; then
        each_share "$(tables $conf_tasks)" stage_eval
        return 0
    fi
    share "$1" "$(tables $conf_tasks)"
    if [ "${1%/*}" -eq 1 ]; then
        stage "eval (before)" "$work/before.tsv" score "$conf_init" "$work/before.tsv"
        stage "eval (after)" "$work/scores.tsv" score "$work/model" "$work/scores.tsv"
        [ -z "$conf_prompt" ] || stage sample "$work/sample.txt" write_sample
    else
        task_table "${1%/*}" "$work/model" --tokenizer "$conf_tokenizer"
    fi
}

# shellcheck disable=SC2086
inputs() {
    printf '%s\n' "$conf_init" $conf_input $conf_tasks
    for f in "$conf_template" "$conf_tokenizer"; do
        case $f in */*) printf '%s\n' "$f" ;; esac
    done
}

stage_report() {
    # shellcheck disable=SC2046
    set -- "$work/before.tsv" "$work/scores.tsv" $(task_files)
    [ -z "$conf_prompt" ] || set -- "$@" "$work/sample.txt"
    stage report "$work/report.html" "$here/report.sh" -o "$work/report.html" -t "fine-tuned: ${conf_init##*/}" "$work/run" "$@"
}

# shellcheck disable=SC2086,SC2046
list() {
    list_sets pack
    row train 1 "$conf_ranks" "$work/run.done"
    row merge 1 1 "$work/model/index.h5"
    row eval "$(tables $conf_tasks)" "$conf_ranks" "$work/before.tsv" "$work/scores.tsv" $(task_files) ${conf_prompt:+"$work/sample.txt"}
    row report 1 1 "$work/report.html"
}
stages "share index pack train merge eval report" "pack train merge eval report" "$@"
