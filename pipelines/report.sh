#!/bin/sh
# report.sh - a self-contained HTML page of a training run: plots, scores, sample
# SPDX-License-Identifier: MIT
#
# usage: report.sh -o FILE.html [-t TITLE] RUN [TABLE.tsv|TEXT.txt]...
#
# Reads RUN/inc-*/metrics.jsonl (where two incarnations have the same step the later one counts), draws loss,
# learning rate, gradient norm and tokens/s with gnuplot as SVG inside the page, and adds the tables and texts.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=pipelines/stage.sh
. "$here/stage.sh"

out='' title='training run'
while getopts o:t: opt; do
    case $opt in
    o) out=$OPTARG ;;
    t) title=$OPTARG ;;
    *) usage_error "usage: report.sh -o FILE.html [-t TITLE] RUN [TABLE.tsv|TEXT.txt]..." ;;
    esac
done
shift $((OPTIND - 1))
if [ -z "$out" ] || [ $# -lt 1 ]; then usage_error "usage: report.sh -o FILE.html [-t TITLE] RUN [TABLE.tsv|TEXT.txt]..."; fi
run=$1
shift
[ ! -e "$out" ] || [ -f "$out" ] || fail "'$out' is not a plain file"
[ -d "$(dirname "$out")" ] || fail "no folder '$(dirname "$out")'"
command -v gnuplot >/dev/null || fail "gnuplot is missing"
set -- "$run" "$@"
ls "$run"/inc-*/metrics.jsonl >/dev/null 2>&1 || fail "no metrics in '$run'"
tmp=$(mktemp -d "${TMPDIR:-/tmp}/report.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM HUP

# step samples tokens loss lr grad_norm tokens_per_s seconds, by step
cat "$run"/inc-*/metrics.jsonl | awk '
    function num(key,  at, s) {
        at = index($0, "\"" key "\":")
        if (!at) return ""
        s = substr($0, at + length(key) + 3)
        sub(/[,}].*/, "", s)
        return s
    }
    /^\{.*\}$/ {
        s = num("step")
        row[s] = s " " num("samples") " " num("tokens") " " num("loss") " " num("lr") " " num("grad_norm") " " \
                 num("tokens_per_s") " " num("seconds")
    }
    END { for (s in row) print row[s] }' | sort -n >"$tmp/steps"
[ -s "$tmp/steps" ] || fail "the metrics in '$run' hold no step"

# A running mean beside the raw loss, so that the trend shows through the noise.
awk '{ m = NR == 1 ? $4 : 0.95 * m + 0.05 * $4; print $0, m }' "$tmp/steps" >"$tmp/data"

plot() { # FILE TITLE YLABEL SETTINGS PLOT
    gnuplot -e "
        set terminal svg size 640,320 font 'sans-serif,12' background rgb 'white';
        set output '$tmp/$1.svg';
        set title '$2'; set xlabel 'step'; set ylabel '$3'; set autoscale xfix; set grid lc rgb '#dddddd'; set border lc rgb '#666666';
        $4; plot $5" || fail "gnuplot failed"
}
plot loss 'loss' 'nats per token' 'set key top right' \
    "'$tmp/data' using 1:4 with lines lc rgb '#b8cce4' title 'step', '' using 1:9 with lines lw 2 lc rgb '#1f4e9c' title 'running mean'"
plot lr 'learning rate' '' 'unset key; set format y "%.1e"' "'$tmp/data' using 1:5 with lines lw 2 lc rgb '#1f4e9c'"
plot grad 'gradient norm (before clipping)' '' 'unset key; set logscale y' "'$tmp/data' using 1:6 with lines lc rgb '#1f4e9c'"
plot speed 'tokens/s' '' 'unset key; set yrange [0:*]; set format y "%.0s %c"' "'$tmp/data' using 1:7 with lines lc rgb '#1f4e9c'"

# A sample may hold any bytes; a page is UTF-8 without control characters.
escape() { iconv -c -f UTF-8 -t UTF-8 | tr -d '\000-\010\013-\037' | sed 's/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g'; }
{
    printf '<!DOCTYPE html>\n<html lang="en"><meta charset="utf-8"><title>%s</title>\n' "$(printf '%s' "$title" | escape)"
    cat <<'CSS'
<style>
body { font: 16px/1.5 sans-serif; max-width: 1340px; margin: 2em auto; padding: 0 1em; color: #222; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 1em; }
.plots svg { width: 100%; height: auto; border: 1px solid #ddd; }
table { border-collapse: collapse; margin: 1em 0; } td, th { padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; } pre { background: #f6f6f6; padding: 1em; white-space: pre-wrap; }
</style>
CSS
    printf '<h1>%s</h1>\n' "$(printf '%s' "$title" | escape)"
    awk 'NR == 1 { first = $1 } { tok = $3; loss = $9; sec += $8; last = $1 }
         END { printf "<p>Steps %d to %d, %.4g tokens, %.0f s of steps (%.4g tokens/s), last loss (running mean) %.4f nats per token.</p>\n", first, last, tok, sec, sec ? tok / sec : 0, loss }' "$tmp/data"
    printf '<div class="plots">\n'
    # gnuplot numbers its ids in each picture: make them, and what points to them, differ inside one page
    for p in loss lr grad speed; do
        sed "1,/<svg/{/<?xml/d;}; s/ id=\\([\"']\\)/ id=\\1${p}_/g; s/url(#/url(#${p}_/g; s/href=\\([\"']\\)#/href=\\1#${p}_/g" "$tmp/$p.svg"
    done
    printf '</div>\n'
    shift
    for f in "$@"; do
        printf '<h2>%s</h2>\n' "$(basename "$f" | sed 's/\.[a-z]*$//' | escape)"
        case $f in
        *.tsv)
            printf '<table>\n'
            escape <"$f" | awk -F '\t' '{ cell = /^#/ ? "th" : "td"; sub(/^# ?/, ""); printf "<tr>"
                for (i = 1; i <= NF; i++) printf "<%s>%s</%s>", cell, $i, cell; print "</tr>" }'
            printf '</table>\n'
            ;;
        *) printf '<pre>'; escape <"$f"; printf '</pre>\n' ;;
        esac
    done
    printf '<h2>options</h2>\n<pre>'
    for newest in "$run"/inc-*; do :; done
    cat "$newest/options.conf" "$newest/model.conf" 2>/dev/null | escape
    printf '</pre>\n'
} >"$out.tmp"
mv "$out.tmp" "$out"
