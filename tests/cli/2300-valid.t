#!/bin/sh
# 2300-valid.t - held-out sets on the way
# SPDX-License-Identifier: MIT
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS

tiny_text 900 >text.txt
for take in train valid; do "$SSM_BIN/tokshard" encode -q --split para --take $take --valid-share 0.1 -o $take text.txt 2>/dev/null; done
"$SSM_BIN/tokshard" encode -q --split line -o lines text.txt 2>/dev/null
tiny_model 'M-R' >tiny.conf
base="--model ./tiny.conf --batch 8 --seq-len 32 --lr 1e-2 --warmup 0 --steps 7"
train() { "$SSM_BIN/ssmtrain" -q $base "$@" train; }
same() { "$SSM_BIN/ckmerge" compare -q "$1" "$2"; }
look() { # RUN NAME [SET]: step and value of each look
    cat "$1"/inc-*/valid.jsonl | grep "\"set\":\"${3:-valid}\"" | sed 's/.*"step":\([0-9]*\),.*"'"$2"'":\([^,}]*\).*/\1 \2/'
}

train -o plain && train -o seen --valid valid,lines --valid-every 3 --valid-tokens 2000 || exit 1
ok 'the training stays the same to the bit' 'same plain seen && [ ! -e plain/inc-0001/valid.jsonl ]'
ok 'a line a set and look: every N steps, and at the end' '
    for s in valid lines; do [ "$(look seen loss $s | cut -d " " -f 1 | tr "\n" " ")" = "3 6 7 " ] || exit 1; done'
ok 'the loss falls, and perplexity and bits per byte go with it' '
    look seen loss | awk "{ x[NR] = \$2 } END { exit !(x[1] > x[2] && x[2] > x[3]) }" &&
    look seen loss >a && look seen ppl >b && look seen bpb >c && paste -d " " a b c | awk "{ d = exp(\$2) - \$4; if (d < 0) d = -d; if (d > 1e-6 * \$4 || !(\$6 > 0)) bad = 1 } END { exit bad || NR != 3 }"'
ok 'what is said at the end is what ssmeval ppl says of the checkpoint' '
    train -o all --valid valid --valid-every 0 && [ "$(look all loss | wc -l)" -eq 1 ] &&
    "$SSM_BIN/ssmeval" ppl -q --seq-len 32 all valid >tsv && awk -F "\t" -v loss="$(look all loss | cut -d " " -f 2)" -v bpb="$(look all bpb | cut -d " " -f 2)" "
        function near(a, b) { return a - b < 1e-4 && b - a < 1e-4 }
        !/^#/ { ok = near(\$5, loss) && near(\$8, bpb) } END { exit !ok }" tsv || { cat tsv all/inc-*/valid.jsonl; exit 1; }'
ok '--valid-tokens counts' '[ "$(look seen tokens | cut -d " " -f 2 | sort -u)" = 2000 ] && [ "$(look all tokens | cut -d " " -f 2)" -gt 2000 ]'
ok 'stopped and gone on: no look twice, the same values' '
    v="--valid valid,lines --valid-every 3 --valid-tokens 2000 --save-every 3" &&
    must_exit 75 train -o parts $v --stop-at 4 && train -o parts $v && look parts loss >a && look seen loss | cmp - a && same seen parts'
if ${MPIEXEC:-mpiexec} -n 2 true 2>/dev/null; then
    ok 'two ranks see the same' '
        timeout 60 ${MPIEXEC:-mpiexec} -n 2 "$SSM_BIN/ssmtrain" -q $base --valid valid --valid-every 3 -o two train && train -o one --valid valid --valid-every 3 &&
        look two loss >a && look one loss | paste -d " " - a | awk "{ d = \$2 - \$4; if (d < 0) d = -d; if (\$1 != \$3 || d > 2e-5) bad = 1 } END { exit bad || NR != 3 }"'
else
    skip 'two ranks see the same' 'no mpiexec'
fi
ok 'a set that cannot be looked at ends the run before it begins' '
    must_exit 1 train -o r --valid nowhere 2>err && grep -q nowhere err && [ "$(wc -l <err)" -eq 1 ] && [ ! -e r ]'
ok 'memory of the plan' 'a=$("$SSM_BIN/ssmtrain" -n $base --valid valid train | sed -n "s/^memory_valid=//p") && [ "$a" -gt 1000 ]'
done_testing
