#!/bin/sh
# encode.sh - speed of the tokenizer on this machine, stage by stage, beside its peers in the same run ('make perf')
# SPDX-License-Identifier: MIT
#
# Environment: SSM_BIN, SSM_TESTS; CORPORA, a folder that tests/oracle/corpora.sh made: real text and GPT-2's vocabulary; without
# it text made up here and a vocabulary learnt from it, which say less. PYTHON with tokenizers, tiktoken, gigatoken (the peers
# that it can import take part). TIMES rounds (5), BYTES of text (100 MB).
set -eu
: "${SSM_BIN:?}"
here=$(cd "$(dirname "$0")" && pwd)
export SSM_BIN SSM_TESTS="${SSM_TESTS:-$SSM_BIN/../tests}"
tmp=$(mktemp -d "${TMPDIR:-/tmp}/perf.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
if [ -n "${CORPORA:-}" ]; then
    vocab=$CORPORA/gpt2.tiktoken
    head -c "${BYTES:-100000000}" "$CORPORA/english.txt" >"$tmp/english.txt"
    text=$tmp/english.txt
else
    vocab=$tmp/tokenizer.json text=$tmp/made-up.txt
    awk 'BEGIN { srand(1); for (i = 0; i < 30000; i++) { w = ""; for (j = 2 + 9 * rand(); j > 0; j--) w = w sprintf("%c", 97 + int(26 * rand() * rand())); word[i] = w }
        for (i = 0; i < 200000; i++) { s = ""; for (k = 0; k < 12; k++) s = s word[int(30000 * rand() ^ 4)] " "; print s } }' >"$text"
    "$SSM_BIN/tokshard" train -q --vocab 16384 --split line -o "$vocab" "$text"
fi
if command -v "${PYTHON:-python3}" >/dev/null; then
    "${PYTHON:-python3}" "$here/encode.py" "$vocab" "$text" "${TIMES:-5}"
elif [ "$vocab" = "$tmp/tokenizer.json" ]; then
    "$SSM_TESTS/mktokens" "$vocab" profile "${TIMES:-5}" "$text" "$tmp"
else
    echo "# no Python: no peers, no profile"
fi
