#!/bin/sh
# 1100-sentencepiece.t - sets that are made with models of SentencePiece
# SPDX-License-Identifier: MIT
# shellcheck disable=SC1091,SC2015,SC2016,SC2034,SC2059  # ok evaluates its text, later
SSM_TOP=${SSM_TOP:-$(cd "${0%/*}/../.." && pwd)}
. "${0%/*}/../tap.sh"

T=$SSM_BIN/tokshard
G=$SSM_TOP/tests/golden/sentencepiece
[ -d "$G" ] || G=$SSM_TOP/golden/sentencepiece

one_line() { # CODE TEXT COMMAND...
    code=$1 text=$2
    shift 2
    must_exit "$code" "$@" 2>err >/dev/null || { cat err; return 1; }
    test "$(wc -l <err)" -eq 1 && grep -qF -e "$text" err || { cat err; return 1; }
}
printf 'The dog sleeps for 1234 hours.\nGr\303\266\303\237e  und <s>\n\360\237\216\211 ende\n' >a.txt
printf x >x.model
if "$T" --version | grep -q '^sentencepiece: none'; then
    ok 'without the library the kind is refused, and how to get it is said' '
        one_line 2 "make SENTENCEPIECE=1" "$T" encode -q -o none --tokenizer x.model a.txt && ! test -e none'
    skip 'models of SentencePiece' 'built without its library'
    done_testing
fi
[ -d "$G" ] || { skip 'models of SentencePiece' 'no golden models here'; done_testing; }

ok 'ids are those of the Python package' '
    printf "The quick brown fox jumps over the lazy dog, and then the dog sleeps for 1234 hours." >l.txt &&
    "$T" encode -q -o l --tokenizer "$G/bpe-bytes.model" l.txt &&
    "$T" cat --ids l | sed "s/ 2\$//; s/ /,/g" >ids && grep -qF "\"ids\":[$(cat ids)]," "$G/bpe-bytes.jsonl"'
ok 'cat gives the text back, with the model' '
    "$T" encode -q -o a --tokenizer "$G/bpe-bytes.model" a.txt && "$T" check -q a &&
    "$T" cat --tokenizer "$G/bpe-bytes.model" a >got && cmp a.txt got'
ok 'ranks and parts make the same set' '
    "$T" encode -q -o one --split line --tokenizer "$G/unigram.model" a.txt &&
    for i in 1 2 3; do
        "$T" encode -q -o three --split line --part $i/3 --tokenizer "$G/unigram.model" a.txt || exit 1
    done && "$T" index -q three && "$T" cat --ids one >want && "$T" cat --ids three >got && cmp want got'
ok 'cat without the model, or with another: one line' '
    one_line 1 "FILE says where it is" "$T" cat a && one_line 1 "made with another tokenizer" "$T" cat --tokenizer "$G/unigram.model" a'
ok 'no model: one line' '
    one_line 2 "is not a SentencePiece model" "$T" encode -o no --tokenizer x.model a.txt &&
    one_line 2 "cannot open" "$T" encode -o no --tokenizer nowhere.model a.txt && ! test -e no'
ok 'a document over 16 MiB is refused, and leaves nothing' '
    yes "a line" | head -c 16777217 >big.txt &&
    one_line 1 "more than 16 MiB" "$T" encode -q -o big --tokenizer "$G/unigram.model" big.txt &&
    ! test -e big/index.h5 && test -z "$(find big -name "*.tmp.*")"'
done_testing
