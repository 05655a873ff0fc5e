# shellcheck shell=sh
# training.sh - what tests of ssmtrain share; source it first: . "${0%/*}/../training.sh"
# SPDX-License-Identifier: MIT
#
# With tiny.sh and tap.sh; in the scratch folder then lie text.txt, the set 'data' of it, and the model tiny.conf.
#
#   train OPTION...       ssmtrain with the options of $base on it
#   same A B              two runs or checkpoints have the same bits
#   column RUN NAME       the step and that value of the metrics, a line a step
#   one_line FILE         that is all there is in it

# shellcheck source=tests/tiny.sh
. "${0%/*}/../tiny.sh"
# shellcheck source=tests/tap.sh
. "${0%/*}/../tap.sh"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS

tiny_text 900 >text.txt
"$SSM_BIN/tokshard" encode -q --split para -o data text.txt 2>/dev/null
tiny_model 'M-' >tiny.conf
# shellcheck disable=SC2086,SC2154
train() { "$SSM_BIN/ssmtrain" -q $base "$@" data; }
same() { "$SSM_BIN/ckmerge" compare -q "$1" "$2"; }
column() { cat "$1"/inc-*/metrics.jsonl | sed 's/.*"step":\([0-9]*\),.*"'"$2"'":\([^,}]*\).*/\1 \2/' | sort -n; }
one_line() { [ "$(wc -l <"$1")" -eq 1 ] || { cat "$1"; return 1; }; }
