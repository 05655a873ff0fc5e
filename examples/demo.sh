#!/bin/sh
# demo.sh - the whole chain on real text, on this machine, in a few minutes ('make demo')
# SPDX-License-Identifier: MIT
#
# Environment: BIN tools, CORPUS text files (default: the dictionary of Debian's package dict-gcide),
# MODEL preset (default hybrid-demo), DEMO folder of everything made (default ./demo), STEPS of the training, VOCAB tokens of
# the vocabulary that is learnt (default 4096).
#
# What it shows beside the chain: the training is told to stop half-way by one SIGTERM to one rank, saves, exits with 75,
# and the same command goes on from there.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
bin=${BIN:-$top/build/release/bin}
demo=${DEMO:-$top/demo}
model=${MODEL:-}
[ -n "$model" ] || model=hybrid-demo
corpus=${CORPUS:-}
steps=${STEPS:-1300}
vocab=${VOCAB:-4096}
cores=$(env -u OMP_NUM_THREADS nproc)
export SSM_BIN="$bin" OMP_NUM_THREADS=1
[ "$cores" -ge 2 ] || echo "demo: one core: two ranks share it, this takes twice as long" >&2
started=$(date +%s)
lap() { printf '\n== %s (%d s)\n' "$1" $(($(date +%s) - started)) >&2; }
fail() { echo "demo: $*" >&2; exit 1; }

mkdir -p "$demo"
if [ -z "$corpus" ]; then
    corpus=$demo/gcide.txt
    split='--split sep --separator %% --utf8 replace' # some bytes of it are Latin-1
    prompt='Zymology'
    if [ ! -s "$corpus" ]; then
        lap 'the text: entries of the GNU dictionary of English (Debian package dict-gcide)'
        # Taken and unpacked, not installed: it would want a dictionary server.
        rm -rf "$demo/deb"
        mkdir -p "$demo/deb"
        (cd "$demo/deb" && { apt-get download dict-gcide >/dev/null 2>&1 ||
            { [ "$(id -u)" -eq 0 ] && apt-get update >/dev/null 2>&1 && apt-get download dict-gcide >/dev/null 2>&1; }; }) ||
            fail "cannot download the package dict-gcide; 'make demo CORPUS=my.txt' takes a text of yours"
        dpkg-deb -x "$demo"/deb/dict-gcide_*.deb "$demo/deb/x"
        # An entry begins with a word at the left edge after an empty line: put a line of its own before it.
        zcat <"$demo/deb/x/usr/share/dictd/gcide.dict.dz" |
            awk 'blank && /^[^ ]/ { print "%%" } { print; blank = /^ *$/ }' >"$corpus.tmp"
        mv "$corpus.tmp" "$corpus"
        rm -rf "$demo/deb"
    fi
    seen=gcide
else
    for f in $corpus; do [ -r "$f" ] || fail "cannot read the corpus '$f'"; done
    split='--split para'
    prompt='The '
    seen=$(printf '%s' "$corpus" | cksum | tr -d ' ')
fi
# Some hundred thousand bytes held out, or a tenth of a small text.
# shellcheck disable=SC2086
valid=$(cat $corpus | wc -c | awk '{ print ($1 > 4e6 ? 0.01 : 0.1) }')
work=$demo/$model-$vocab-$seen
mkdir -p "$work"
cat >"$work/demo.conf" <<CONF
work     = $work
input    = $corpus
tokenizer = train:$vocab
encode   = $split
valid    = $valid
ranks    = 2
model    = $model
train    = --steps $steps --batch 8 --seq-len 512 --lr 4e-3 --save-every 250 --log-every 10
eval     = --seq-len 1024
prompt   = $prompt
generate = --tokens 240 --past-end --temperature 0.7 --seed 3
CONF
pipeline() { "$top/pipelines/pretrain.sh" "$work/demo.conf" "$@"; }

lap "learn $vocab tokens and encode the text, with 2 MPI ranks"
pipeline data

if [ ! -e "$work/run.done" ]; then
    lap "train $model on 2 ranks; half-way one rank gets SIGTERM"
    pipeline train &
    pid=$!
    while kill -0 $pid 2>/dev/null; do
        done_steps=$(cat "$work"/run/inc-*/metrics.jsonl 2>/dev/null | wc -l)
        if [ "$done_steps" -ge $((steps / 2)) ]; then
            lock=$(find "$work/run" -name lock | sort | tail -n 1)
            read -r _ rank_pid _ <"$lock" && kill -TERM "$rank_pid" 2>/dev/null
            break
        fi
        sleep 0.2
    done
    code=0
    wait $pid || code=$?
    case $code in
    75) lap 'stopped with exit code 75; the same command goes on'; pipeline train ;;
    0) echo 'demo: the training was done before the signal came' >&2 ;;
    *) fail "the training ended with exit code $code" ;;
    esac
fi

lap 'merge the checkpoint, score held-out text, write a sample and the report'
pipeline merge eval

# The yardsticks: what general compressors need for the same held-out bytes, and what the frequencies of single
# tokens say.
"$bin/tokshard" cat --tokenizer "$work/tokenizer.json" "$work/valid" >"$work/valid.bytes"
bytes=$(wc -c <"$work/valid.bytes")
bits() { awk -v n="$1" -v b="$bytes" 'BEGIN { printf "%.3f", 8 * n / b }'; }
xz=$(xz -9 -e -c "$work/valid.bytes" | wc -c)
zs=$(zstd -19 -q -c "$work/valid.bytes" | wc -c)
unigram=$("$bin/tokshard" stat "$work/valid" | awk -F '\t' '$1 == "unigram_bits_per_byte" { print $2 }')
ours=$(awk -F '\t' '!/^#/ { print $8 }' "$work/scores.tsv")
{
    printf '# held-out text, %d bytes\tbits per byte\n' "$bytes"
    printf 'single tokens (unigram entropy)\t%.3f\n' "$unigram"
    printf 'zstd -19\t%s\nxz -9e\t%s\n' "$(bits "$zs")" "$(bits "$xz")"
    printf '%s\t%.3f\n' "$model" "$ours"
} >"$work/yardsticks.tsv"
rm -f "$work/report.html"
"$top/pipelines/report.sh" -o "$work/report.html" -t "$model" "$work/run" "$work/yardsticks.tsv" "$work/scores.tsv" \
    "$work/sample.txt"
lap 'done'
echo
cat "$work/sample.txt"
echo
column -t -s "$(printf '\t')" "$work/yardsticks.tsv" 2>/dev/null || cat "$work/yardsticks.tsv"
echo
echo "report: $work/report.html"
