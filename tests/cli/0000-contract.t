#!/bin/sh
# 0000-contract.t - what all tools and all their commands promise alike
# SPDX-License-Identifier: MIT
SSM_TOP=${SSM_TOP:-$(cd "${0%/*}/../.." && pwd)}
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"
mpi="timeout -k 5 60 ${MPIEXEC:-mpiexec}"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS
tools='tokshard ssmtrain ckmerge ssmeval'
tab=$(printf '\t')

run() {
    run_tool=$1
    shift
    timeout -k 5 60 "$SSM_BIN/$run_tool" "$@"
}
one_line() { [ "$(wc -l <"$1")" -eq 1 ] || { cat "$1" >&2; return 1; }; }
empty() { [ ! -s "$1" ] || { cat "$1" >&2; return 1; }; }
# says CODE TEXT TOOL...: that exit code, nothing on stdout, one line on stderr that holds TEXT
says() {
    code=$1 text=$2
    shift 2
    must_exit "$code" run "$@" >out 2>err || { cat err; return 1; }
    empty out && one_line err && { grep -qF -e "$text" err || { cat err; return 1; }; }
}
each() { # COMMANDS: evaluates them for each tool and command in $c; all must hold
    while read -r c; do
        eval "$1" || { echo "with: $c"; return 1; }
    done <commands
}

# 'tool' or 'tool command', one a line
for t in $tools; do
    run $t --complete >words
    if grep -q '^--' words; then echo $t; else sed "s/^/$t /" words; fi
done >commands
dispatchers=$(sed -n 's/ .*//p' commands | sort -u)

# The table of a command out of its help: letter (or -), name, what follows '=', default
options() {
    run $1 --help | awk '
        function flush() { if (name) { def = ""; if (match(text, /\[[^][]*\]$/)) def = substr(text, RSTART + 1, RLENGTH - 2)
            printf "%s\t%s\t%s\t%s\n", letter, name, arg, def } name = "" }
        /^  (-.,|   ) --/ { flush(); letter = substr($0, 4, 1); if (letter == " ") letter = "-"
            rest = substr($0, 9); name = rest; sub(/[= ].*/, "", name); sub(/^[^= ]*/, "", rest)
            arg = ""; if (rest ~ /^=/) { arg = substr(rest, 2); sub(/ .*/, "", arg) } text = $0; next }
        { text = text $0 } END { flush() }'
}
each 'options "$c" >"table $c"'
page() { # the man page of a tool, without its markup
    sed 's/\\f\(.\|([A-Z][A-Z]\)//g; s/\\-/-/g' "$SSM_TOP/tools/$1.1"
}

# ---- words ----
ok 'each command has an option table' 'test "$(wc -l <commands)" -ge 13 && each "[ \$(wc -l <\"table \$c\") -ge 4 ]"'
ok '--help: on stdout, exit 0, begins with the usage' '
    each "must_exit 0 run \$c --help >out 2>err && empty err && head -n 1 out | grep -q \"^usage: \$c \" &&
          run \$c -h | cmp out -" &&
    for c in $dispatchers; do
        must_exit 0 run $c --help >out 2>err && empty err && head -n 1 out | grep -q "^usage: $c COMMAND" || exit 1
        for word in $(run $c --complete); do grep -q "^  $word " out || exit 1; done
    done'
ok '--complete names what --help names' '
    each "run \$c --complete | sed s/^--// | sort >a; cut -f 2 \"table \$c\" | sort >b; cmp a b"'
ok '--version: name and version on stdout, exit 0' '
    each "must_exit 0 run \$c --version >out 2>err && empty err && head -n 1 out | grep -q \"^\${c%% *} [0-9]*\\.[0-9]\" &&
          run \$c -V | cmp out - && run \${c%% *} --version | cmp out -"'
ok 'the same letter means the same everywhere' '
    cat table* | cut -f 1,2 | grep -v ^- | sort -u >letters &&
    for pair in f:force n:dry-run q:quiet v:verbose h:help V:version; do
        [ "$(grep "^${pair%:*}$tab" letters)" = "${pair%:*}$tab${pair#*:}" ] || { cat letters; exit 1; }
    done'

# ---- man pages ----
ok 'each option of a table stands in the man page, with its letter' '
    each "page \${c%% *} >page; while IFS=\$tab read -r letter name rest; do
        grep -q -e \"--\$name\\\\([^a-z0-9-]\\\\|\\\$\\\\)\" page || { echo \"no --\$name\"; exit 1; }
        [ \$letter = - ] || grep -q -e \"-\$letter\" page || { echo \"no -\$letter\"; exit 1; }
    done <\"table \$c\""'
ok 'each option of a man page stands in a table' '
    for t in $tools; do
        cat "table $t"* | cut -f 2 | sort -u >have
        page $t | grep -o -e "--[a-z][a-z0-9-]*" | sed "s/^--//" | sort -u | comm -23 - have >lost
        empty lost || { echo "of $t"; exit 1; }
    done'
ok 'each command has its name in the synopsis, and sections are as agreed' '
    each "page \${c%% *} | sed -n \"/^\.SH SYNOPSIS/,/^\.SH DESC/p\" | grep -q \"\$c\"" &&
    for t in $tools; do
        for s in NAME SYNOPSIS DESCRIPTION "EXIT STATUS"; do
            [ "$(grep -c "^\.SH $s\$" "$SSM_TOP/tools/$t.1")" -eq 1 ] || { echo "$t: $s"; exit 1; }
        done
        page $t | grep -q "^$t - ." && grep -q "^\.TH $(echo $t | tr a-z A-Z) 1 " "$SSM_TOP/tools/$t.1" || exit 1
    done'
ok 'ssm-model(5) has every name of a model, and no other' '
    sed -n "/const struct opt table/,/OPT_END/s/.*OPT_[A-Z]*(0, \"\([a-z_]*\)\".*/\1/p" "$SSM_TOP/common/model/config.c" | sort >rows &&
    sed -n "/^.SH NAMES/,/^.SH EX/s/^.fB\([a-z_]*\).fR = .*/\1/p" "$SSM_TOP/tools/ssm-model.5" | sort >names && [ $(wc -l <rows) -gt 30 ] && diff rows names'
if command -v mandoc >/dev/null; then
    ok 'mandoc finds no fault' 'for f in "$SSM_TOP"/tools/*.[15]; do mandoc -T lint -W warning "$f" || exit 1; done'
else
    skip 'mandoc finds no fault' 'no mandoc'
fi

# ---- wrong words: 2, one line on stderr that says where help is ----
ok 'an unknown option, long and short' '
    each "says 2 \"--no-such\" \$c --no-such && grep -q \"try .\${c%% *}.*--help\" err && says 2 \"-Z\" \$c -Z &&
          says 2 \"--no-such\" \$c --no-such=1 && says 2 \"--help\" \$c --help=1"'
ok 'no command, an unknown one, an option in its place' '
    for c in $dispatchers; do
        says 2 "which command" $c && says 2 "nosuch" $c nosuch && says 2 "--no-such" $c --no-such || exit 1
    done'
# A value that the option takes: its default, the first choice, or a 1.
doubled() {
    while IFS=$tab read -r letter name arg def; do
        case $name in help | version | quiet | verbose) continue ;; esac
        v=
        if [ -n "$arg" ]; then
            case $arg in *"|"*) v="=${def:-${arg%%|*}}" ;; *) v="=${def:-1}" ;; esac
        fi
        says 2 "option '--$name' is given twice" $1 "--$name$v" "--$name$v" || return 1
        if [ "$letter" != - ]; then says 2 "option '--$name' is given twice" $1 -$letter ${v#=} "--$name$v" || return 1; fi
        [ -z "$arg" ] || says 2 "option '--$name' needs a value" $1 "--$name" || return 1
    done <"table $1"
}
ok 'an option twice, an option without its value' 'each "doubled \"\$c\""'
ok 'a number that is none, one out of range' '
    says 2 "1x" ssmtrain --lr 1x && says 2 "nan" ssmeval generate --top-p nan && says 2 "below" ckmerge split --parts 0 &&
    says 2 "above" ssmtrain --beta1 1 && says 2 "whole" tokshard encode --level 1.5 && says 2 "none of" ssmtrain --order up'
ok 'after -- all are operands' '
    each "! run \$c -- --no-a --no-b --no-c >out 2>err && one_line err && ! grep -q \"unknown option\" err"'

# ---- a small chain ----
awk 'BEGIN { for (i = 0; i < 400; i++) print "line", i * 7 % 13, "of many" }' >text
tiny_model 'M-*' >tiny.conf
train="ssmtrain --model ./tiny.conf --steps 2 --warmup 1 --batch 2 --seq-len 32"
{ run tokshard encode -q --split line -o set text && run tokshard encode -q --split line -o part --part 1/1 text &&
    run $train -q -o run set && run ckmerge merge -q -o model run; } || exit 1

# ---- standard output that takes nothing ----
prints="tokshard encode -q -n -o x text
tokshard cat -q set
tokshard cat -q --ids set
tokshard stat -q set
$train -q -n set
ckmerge ls -q model
ckmerge compare -q run part-of-it
ckmerge merge -q -n -o x run
ckmerge split -q -n -o x --parts 2 run
ckmerge average -q -n -o x run run
ssmeval ppl -q --limit 40 model set
ssmeval tasks -q model task.jsonl
ssmeval generate -q --tokens 4 model
ssmeval generate -q --tokens 4 --prompts prompts.jsonl model
ssmeval synth -q --count 1 phonebook"
echo '{"output_type": "loglikelihood"}
{"context": "a", "continuation": "b"}' >task.jsonl
echo '{"prompt": "a"}' >prompts.jsonl
run ckmerge merge -q --drop-optimizer -o part-of-it run
echo "$prints" >printing
if [ -c /dev/full ]; then
    ok 'a full standard output: exit 1, one line' '
        { cat printing; sed "s/\$/ --help/; p; s/help\$/version/" commands; for t in $tools; do echo "$t --complete"; done; } >all &&
        while read -r c; do
            must_exit 1 run $c >/dev/full 2>err && one_line err && grep -q "standard output" err || { echo "with: $c"; exit 1; }
        done <all'
    ok 'a closed standard output is an error where something should go there, and only there' '
        while read -r c; do
            must_exit 1 run $c >&- 2>err && one_line err && grep -q "standard output" err || { echo "with: $c"; exit 1; }
        done <printing
        run tokshard encode -q --split line -o mute text >&- && run tokshard check -q mute &&
        run ckmerge merge -q -o mutemodel run >&- && run ckmerge verify -q mutemodel'
else
    skip 'a full standard output' 'no /dev/full'
fi
ok 'a closed standard error: no message lands in a file' '
    run $train -o deaf set 2>&- && run ckmerge verify -q deaf && ! grep -q ssmtrain: deaf/inc-0001/lock deaf/inc-0001/metrics.jsonl &&
    run tokshard encode --split line -o deafset text <&- >&- 2>&- && run tokshard check -q deafset'

# ---- what is there stays there ----
ok 'output that exists is refused without --force' '
    says 1 --force tokshard encode -o set text && says 1 --force tokshard encode -o set --part 1/1 text &&
    run tokshard index -q part && says 1 --force tokshard index part && run tokshard index -q -f part &&
    says 1 --force ckmerge merge -o model run && says 1 --force ckmerge split --parts 2 -o model run &&
    run ckmerge split -q --force --parts 2 -o part-of-it run && run ckmerge compare -q part-of-it run'
ok '-n writes nothing' '
    find . -printf "%p %s %T@\n" | grep -v -e "^./out " -e "^./err " -e "^. " -e "^./before " >before &&
    for c in "tokshard encode -q -n -o new text" "tokshard encode -n -f -o set text" "$train -n set" "$train -n -o run set" \
             "ckmerge merge -n -o new run" "ckmerge split -n --parts 3 -o new run" "ckmerge merge -n -f -o model run"; do
        must_exit 0 run $c >out 2>err && [ -s out ] || { echo "with: $c"; cat err; exit 1; }
    done &&
    find . -printf "%p %s %T@\n" | grep -v -e "^./out " -e "^./err " -e "^. " -e "^./before " | cmp before -'

# ---- ranks: only one speaks ----
if $mpi -n 2 true 2>/dev/null; then
    # ckmerge is one process and knows no ranks
    ok 'two ranks: an unknown option is told once' '
        each "case \$c in ckmerge*) continue ;; esac
              must_exit 2 $mpi -n 2 \"\$SSM_BIN/\"\$c --no-such >out 2>err </dev/null && empty out && one_line err && grep -q no-such err"'
    ok 'two ranks: help, version and names are printed once' '
        while read -r c; do
            run $c >want && must_exit 0 $mpi -n 2 "$SSM_BIN/"$c >out 2>err </dev/null && empty err && cmp want out || { echo "with: $c"; exit 1; }
        done <<WORDS
tokshard --help
tokshard encode --help
ssmtrain --version
ssmeval --complete
ssmeval ppl --complete
WORDS'
    ok 'two ranks: a command of one process refuses, once' '
        for c in "generate model" "synth needle"; do
            must_exit 2 $mpi -n 2 "$SSM_BIN/ssmeval" $c >out 2>err </dev/null && empty out && one_line err || exit 1
        done'
else
    skip 'two ranks' "no ${MPIEXEC:-mpiexec}"
fi
done_testing
