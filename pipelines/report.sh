#!/bin/sh
# report.sh - a self-contained HTML page of one training run or several: plots, scores, samples
# SPDX-License-Identifier: MIT
#
# usage: report.sh -o FILE.html [-t TITLE] RUN... [TABLE.tsv|TEXT.txt]...
#
# Reads RUN/inc-*/metrics.jsonl and valid.jsonl, draws loss, validation, learning rate, gradient norm and tokens/s with gnuplot
# as SVG inside the page, the runs in one picture, and adds the tables and texts. What an incarnation did from the step on
# at which a later one began is not shown, so no step is there twice; restarts are marked.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=pipelines/stage.sh
. "$here/stage.sh"

usage="usage: report.sh -o FILE.html [-t TITLE] RUN... [TABLE.tsv|TEXT.txt]..."
out='' title='training run'
while getopts o:t: opt; do
    case $opt in
    o) out=$OPTARG ;;
    t) title=$OPTARG ;;
    *) usage_error "$usage" ;;
    esac
done
shift $((OPTIND - 1))
if [ -z "$out" ] || [ $# -lt 1 ]; then usage_error "$usage"; fi
[ ! -e "$out" ] || [ -f "$out" ] || fail "'$out' is not a plain file"
[ -d "$(dirname "$out")" ] || fail "no folder '$(dirname "$out")'"
command -v gnuplot >/dev/null || fail "gnuplot is missing"
tmp=$(mktemp -d "${TMPDIR:-/tmp}/report.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' INT TERM HUP

# A sample may hold any bytes; a page is UTF-8 without control characters.
escape() { iconv -c -f UTF-8 -t UTF-8 | tr -d '\000-\010\013-\037' | sed 's/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g'; }

# Of several runs only: which one this is about.
label() { [ $runs -eq 1 ] || printf '%s' "$1"; }

# Reads lines of files in the order of the incarnations; drops what a later one, or the same after going back to a checkpoint,
# did again. once: a file has one line a step.
# shellcheck disable=SC2016 # awk
steps='
    function num(key,  at, s) {
        at = index($0, "\"" key "\":")
        if (!at) return ""
        s = substr($0, at + length(key) + 3)
        sub(/[,}].*/, "", s)
        return s == "null" ? "NaN" : s
    }
    /^\{.*\}$/ {
        s = num("step") + 0
        if (FILENAME != file || s < step[n] || (once && s == step[n])) {
            if (file != "") {
                for (i = n; i > 0 && step[i] >= s; i--) { }
                n = i
                if (FILENAME != file) restart[s] = 1
            }
            file = FILENAME
        }
        step[++n] = s
        keep()
    }'

# Each run: $tmp/N.data (step samples tokens loss lr grad_norm tokens_per_s seconds mfu mean), N.valid-K, N.restarts, N.rewinds
runs=0
for run in "$@"; do
    [ -d "$run" ] || break
    ls "$run"/inc-*/metrics.jsonl >/dev/null 2>&1 || fail "no metrics in '$run'"
    runs=$((runs + 1))
    awk -v once=1 -v restarts="$tmp/$runs.restarts" -v back="$tmp/$runs.rewinds" "$steps"'
        function share(x) { return x == "" ? "NaN" : x } # older runs tell none
        function keep() { row[n] = s " " num("samples") " " num("tokens") " " num("loss") " " num("lr") " " num("grad_norm") " " \
            num("tokens_per_s") " " num("seconds") " " share(num("mfu")); rewinds = num("rewinds") }
        END {
            print rewinds + 0 >back
            printf "" >restarts
            for (s in restart) print s >restarts
            for (i = 1; i <= n; i++) print row[i]
        }' "$run"/inc-*/metrics.jsonl |
        # A running mean beside the raw loss, so that the trend shows through the noise.
        awk '{ if ($4 != "NaN") { m = any ? 0.95 * m + 0.05 * $4 : $4; any = 1 } print $0, m }' >"$tmp/$runs.data"
    [ -s "$tmp/$runs.data" ] || fail "the metrics in '$run' hold no step"
    # gnuplot text: no quotes, no markup
    basename "$(cd "$run" && pwd)" | tr -d "'\"\\\\" >"$tmp/$runs.name"
    if ls "$run"/inc-*/valid.jsonl >/dev/null 2>&1; then
        awk "$steps"'
            function keep(  t) { t = $0; sub(/.*"set":"/, "", t); sub(/",".*/, "", t); gsub(/[\047"\\]/, "", t); set[n] = t; row[n] = s " " num("loss") " " num("bpb") }
            END {
                for (i = 1; i <= n; i++) {
                    if (!(set[i] in k)) { k[set[i]] = ++sets; print set[i] >(out ".sets") }
                    print row[i] >(out ".valid-" k[set[i]])
                }
            }' out="$tmp/$runs" "$run"/inc-*/valid.jsonl
    fi
done
[ $runs -gt 0 ] || fail "'$1' is no run"

strong() { echo "$1" | awk '{ split("#1f4e9c #c0392b #2e8b57 #8e44ad #d68910 #148f77 #7f8c8d #884ea0", c); print c[($1 - 1) % 8 + 1] }'; }
pale() { echo "$1" | awk '{ split("#b8cce4 #eebab4 #b9dcc8 #dcc6e6 #f3d9ae #b0dad2 #d4d8d9 #d7c4e2", c); print c[($1 - 1) % 8 + 1] }'; }

restarts() { # lines where a start took over, in the colour of the run
    k=1
    while [ $k -le $runs ]; do
        while read -r at; do
            printf "set arrow from first %s, graph 0 to first %s, graph 1 nohead dt 3 lc rgb '%s'; " "$at" "$at" "$(strong $k)"
        done <"$tmp/$k.restarts"
        k=$((k + 1))
    done
}
curves() { # COLUMN: one line a run
    k=1 list=''
    while [ $k -le $runs ]; do
        list="$list${list:+, }'$tmp/$k.data' using 1:$1 with lines ${2:-} lc rgb '$(strong $k)' title '$(cat "$tmp/$k.name")'"
        k=$((k + 1))
    done
    echo "$list"
}
plot() { # FILE TITLE YLABEL SETTINGS PLOT
    gnuplot -e "
        set terminal svg size 640,320 font 'sans-serif,12' noenhanced background rgb 'white';
        set output '$tmp/$1.svg';
        set title '$2'; set xlabel 'step'; set ylabel '$3'; set autoscale xfix; set grid lc rgb '#dddddd'; set border lc rgb '#666666';
        $(restarts) $4; plot $5" || fail "gnuplot failed"
}
key='set key top right'
[ $runs -gt 1 ] || key='unset key'

k=1 raw='' mean=''
while [ $k -le $runs ]; do
    name=$(cat "$tmp/$k.name")
    raw="$raw${raw:+, }'$tmp/$k.data' using 1:4 with lines lc rgb '$(pale $k)' $([ $runs -gt 1 ] && echo notitle || echo "title 'step'")"
    mean="$mean, '$tmp/$k.data' using 1:10 with lines lw 2 lc rgb '$(strong $k)' title '$([ $runs -gt 1 ] && echo "$name" || echo 'running mean')'"
    k=$((k + 1))
done
plots=loss
plot loss 'loss' 'nats per token' 'set key top right' "$raw$mean"

list='' k=1
while [ $k -le $runs ]; do
    if [ -e "$tmp/$k.sets" ]; then
        j=1
        while read -r set; do
            name=$([ $runs -gt 1 ] && echo "$(cat "$tmp/$k.name"): $set" || echo "$set")
            list="$list${list:+, }'$tmp/$k.valid-$j' using 1:2 with linespoints pt $((j + 4)) ps 0.6 lc rgb '$(strong $((runs > 1 ? k : j)))' title '$name'"
            j=$((j + 1))
        done <"$tmp/$k.sets"
    fi
    k=$((k + 1))
done
if [ -n "$list" ]; then
    plots="$plots valid"
    plot valid 'validation' 'nats per token' 'set key top right' "$list"
fi
plot lr 'learning rate' '' "$key; set format y '%.1e'" "$(curves 5 'lw 2')"
plot grad 'gradient norm (before clipping)' '' "$key; set logscale y" "$(curves 6)"
plot speed 'tokens/s' '' "$key; set yrange [0:*]; set format y '%.0s %c'" "$(curves 7)"
plots="$plots lr grad speed"

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
    k=1
    while [ $k -le $runs ]; do
        awk -v name="$(label "$(escape <"$tmp/$k.name"): ")" -v again="$(wc -l <"$tmp/$k.restarts")" -v back="$(cat "$tmp/$k.rewinds")" '
            NR == 1 { first = $1 } { tok = $3; loss = $10; sec += $8; computed += $7 * $8; last = $1 } $9 != "NaN" { share += $9 * $8; known += $8 }
            END { printf "<p>%sSteps %d to %d, %.4g tokens, %.0f s of steps (%.4g tokens/s), last loss (running mean) %.4f nats per token", name, first, last, tok, sec, sec ? computed / sec : 0, loss
                  if (known) printf ", MFU %.1f %%", 100 * share / known
                  if (again > 0) printf ", %d restart%s", again, (again > 1 ? "s" : "")
                  if (back > 0) printf ", %d time%s back to a checkpoint", back, (back > 1 ? "s" : "")
                  print ".</p>" }' "$tmp/$k.data"
        k=$((k + 1))
    done
    printf '<div class="plots">\n'
    # gnuplot numbers its ids in each picture: make them, and what points to them, differ inside one page
    for p in $plots; do
        sed "1,/<svg/{/<?xml/d;}; s/ id=\\([\"']\\)/ id=\\1${p}_/g; s/url(#/url(#${p}_/g; s/href=\\([\"']\\)#/href=\\1#${p}_/g" "$tmp/$p.svg"
    done
    printf '</div>\n'
    n=0
    for f in "$@"; do
        n=$((n + 1))
        [ $n -gt $runs ] || continue
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
    n=0
    for run in "$@"; do
        n=$((n + 1))
        [ $n -le $runs ] || break
        printf '<h2>options%s</h2>\n<pre>' "$(label " of $(escape <"$tmp/$n.name")")"
        for newest in "$run"/inc-*; do :; done
        cat "$newest/options.conf" "$newest/model.conf" 2>/dev/null | escape
        printf '</pre>\n'
    done
} >"$out.tmp"
mv "$out.tmp" "$out"
