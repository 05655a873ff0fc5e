#!/bin/sh
# 0200-exact.t - ids of gigabytes of real text: ours are those of tiktoken, tokenizers and sentencepiece
# SPDX-License-Identifier: MIT
#
# Needs PyPI and Debian's mirror, python3-venv, 10 GB in $TMPDIR for an hour at most; or CORPORA, a folder that oracle/corpora.sh
# made, and PYTHON, a Python that has the packages. The table is left in $TABLE, if that is set.
# shellcheck disable=SC1091,SC2016,SC2086
. "${0%/*}/../tap.sh"
oracle=$SSM_TOP/tests/oracle
tests=${SSM_TESTS:-$SSM_BIN/../tests}
python=${PYTHON:-$PWD/venv/bin/python}
folder=${CORPORA:-$PWD/corpora}

prepare() {
    [ -n "${PYTHON:-}" ] || { python3 -m venv venv && "$python" -m pip -q install tokenizers==0.23.3 tiktoken sentencepiece numpy; } || return 1
    PYTHON=$python sh "$oracle/corpora.sh" "$folder"
}
# same BYTES-OF-GENERATED-TEXT OPTION... VOCAB...: on all three corpora
same() {
    generated=$1
    shift
    "$python" "$oracle/token_ids.py" check --mktokens "$tests/mktokens" --pieces 65536 --generated "$generated" \
        --file "$folder/code.txt" --file "$folder/multi.txt" --file "$folder/english.txt" "$@" >>table 2>err || { tail -n 3 err; return 1; }
}
if prepare >prepare.log 2>&1; then
    ok 'tiktoken, GPT-2: all of it' 'same 4000000 tiktoken:gpt2="$folder/gpt2.tiktoken"'
    ok 'tiktoken, p50k, cl100k, o200k' '
        for v in p50k cl100k o200k; do same 2000000 --bytes 100000000 "tiktoken:$v=$folder/$v.tiktoken" || exit 1; done'
    ok 'tokenizers, GPT-NeoX' 'same 4000000 --bytes 60000000 neox="$folder/neox.json"'
    ok 'tokenizers, DeepSeek' 'same 1000000 --bytes 30000000 --eod "<｜end▁of▁sentence｜>" deepseek="$folder/deepseek.json"'
    ok 'tokenizers, GPT-2 and cl100k, whose merges are not in the rank file' '
        same 1000000 --bytes 30000000 hf:gpt2="$folder/gpt2.tiktoken" hf:cl100k="$folder/cl100k.tiktoken"'
    ok 'sentencepiece, Mistral' 'same 1000000 --bytes 30000000 spm:mistral="$folder/mistral.model"'
    ok 'a gigabyte and more was compared' '
        awk -F "\t" "!/^#/ { bytes += \$5; bad += \$7 } END { print bytes, bad; exit !(bytes >= 1e9 && bad == 0) }" table'
    [ -z "${TABLE:-}" ] || cp table "$TABLE"
else
    skip 'exact ids' "no packages or no network: $(tail -n 1 prepare.log)"
fi
done_testing
