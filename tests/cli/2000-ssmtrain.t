#!/bin/sh
# 2000-ssmtrain.t - training: learning, stopping and going on, layouts, bad input
# SPDX-License-Identifier: MIT
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"
mpi="timeout 120 ${MPIEXEC:-mpiexec}"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS

tiny_text 3000 >text.txt
"$SSM_BIN/tokshard" encode -q --split para -o data text.txt 2>/dev/null
tiny_model 'MS-*RL' >tiny.conf
tiny_model M-SRL >ssm.conf
common="--batch 8 --seq-len 64 --warmup 4 --lr 5e-3"
long="--model ./tiny.conf $common --steps 5000 --save-every 0"
base="--model ./tiny.conf $common --steps 24"
train() { "$SSM_BIN/ssmtrain" -q $base "$@" data; }
train2() { $mpi -n 2 "$SSM_BIN/ssmtrain" -q $base "$@" data; }
s="--model ./ssm.conf $common --steps 24 --order stream"
s2() { $mpi -n 2 "$SSM_BIN/ssmtrain" -q $s "$@" data; }
same() { "$SSM_BIN/ckmerge" compare -q "$1" "$2"; }
losses() { cat "$1"/inc-*/metrics.jsonl | sed 's/.*"step":\([0-9]*\),"samples":\([0-9]*\),.*"loss":\([^,]*\),.*/\1 \2 \3/' | sort -n; }
# like A B LIMIT: the same steps and samples, and losses within LIMIT of each other
like() { losses "$1" >a.loss && losses "$2" >b.loss && paste -d ' ' a.loss b.loss | awk -v lim="$3" '
    $1 != $4 || $2 != $5 { bad = 1 } { d = $3 - $6; if (d < 0) d = -d; if (d > lim) bad = 1; n++ }
    END { exit bad || n < 24 }'; }
one_line() { [ "$(wc -l <"$1")" -eq 1 ] || { cat "$1"; return 1; }; }

ok 'a run on two ranks learns' 'train2 -o whole && losses whole | awk "NR == 1 { first = \$3 } END { exit !(\$3 < 0.75 * first) }"'
ok 'the same run gives the same bits' 'train2 -o again && same whole again && losses whole >x && losses again | cmp x -'
ok 'a run that is complete is left alone' 'train2 -o whole && [ ! -e whole/inc-0002/metrics.jsonl ]'
ok 'stopped and gone on = run through, bit by bit' \
    'must_exit 75 train2 -o parts --stop-at 9 && must_exit 75 train2 -o parts --stop-at 10 && train2 -o parts && same whole parts && losses parts >y && losses whole | cmp - y'
ok 'two ranks go on as one: same order, same curve to rounding' \
    'must_exit 75 train2 -o one --stop-at 9 && train -o one && like whole one 2e-5'
ok 'two ranks go on as four' \
    'must_exit 75 train2 -o four --stop-at 9 && $mpi -n 4 "$SSM_BIN/ssmtrain" -q $base -o four data && like whole four 2e-5'
ok 'SIGTERM to one rank: all save and leave with 75' '
    $mpi -n 2 "$SSM_BIN/ssmtrain" -q $long -o term data & pid=$!
    wait_for term/inc-0001/metrics.jsonl
    read -r _ rank _ <term/inc-0001/lock && kill -TERM "$rank"
    must_exit 75 wait $pid && [ -e term/inc-0001/step-*/index.h5 ]'
ok 'SIGUSR1 without MPI does the same' '
    "$SSM_BIN/ssmtrain" -q $long -o usr data & pid=$!
    wait_for usr/inc-0001/metrics.jsonl
    kill -USR1 $pid; kill -TERM $pid; must_exit 75 wait $pid && [ -e usr/inc-0001/step-*/index.h5 ]'
ok 'full recompute gives the same bits' 'train2 -o full --recompute full && same whole full'
ok 'smaller micro-batches give the same curve' 'train2 -o micro --micro-batch 1 && like whole micro 2e-5'
ok 'a stream goes on bit by bit, with its states' '
    s2 -o stream && must_exit 75 s2 -o stream2 --stop-at 11 && s2 -o stream2 && same stream stream2 &&
    "$SSM_BIN/ckmerge" ls stream | grep -q "^state/layers.0.ssm	f32	8x"'
ok 'a stream resumed on one rank follows the curve' '
    must_exit 75 s2 -o stream1 --stop-at 11 && "$SSM_BIN/ssmtrain" -q $s -o stream1 data && like stream stream1 2e-5'
# One long document, weights that stand still: what a row sees does not depend on where rows are cut.
tr '\n' ' ' <text.txt | head -c 6000 >long.txt
"$SSM_BIN/tokshard" encode -q --split file -o long long.txt 2>/dev/null
tiny_model L-RLSM | sed 's/^window.*/window = 150/' >carry.conf
mean_loss() { "$SSM_BIN/ssmtrain" -q --model ./carry.conf --order stream --batch 1 --lr 1e-12 --min-lr 0 --warmup 0 --seq-len "$2" --steps $((2304 / $2)) -o "$1" long &&
    losses "$1" | awk '{ s += $3; n++ } END { printf "%.6f\n", s / n }'; }
ok 'a stream in short rows is the stream in long ones: state, window and positions go on' '
    a=$(mean_loss short 96) && b=$(mean_loss longer 384) && awk -v a="$a" -v b="$b" "BEGIN { d = a - b; exit !(d < 2e-5 && d > -2e-5 && a > 1) }" || { echo "$a $b"; exit 1; }'
ok 'merge(split(x)) = x, with the optimizer' '
    "$SSM_BIN/ckmerge" merge -q whole -o m && "$SSM_BIN/ckmerge" split -q m --parts 5 -o s5 && "$SSM_BIN/ckmerge" merge -q s5 -o m2 && same m m2 && same whole s5'
ok 'a split checkpoint in a run directory is gone on from' '
    must_exit 75 train2 -o re --stop-at 9 && "$SSM_BIN/ckmerge" split -q re --parts 3 -o s3 && rm -r re/inc-0001/step-00000009 &&
    mv s3 re/inc-0001/step-00000009 && train2 -o re && same whole re'
ok 'a damaged newest checkpoint is passed over, with a warning' '
    must_exit 75 train2 -o hurt --stop-at 9 && must_exit 75 train2 -o hurt --stop-at 15 &&
    for f in hurt/inc-0002/step-00000015/part-00001*; do truncate -s -100 "$f"; done &&
    train2 -o hurt 2>warn && grep -q "passed over" warn && same whole hurt'
ok 'when no checkpoint can be used the run does not begin anew' '
    must_exit 75 train2 -o none --stop-at 3 && rm none/inc-0001/step-*/part-00000* && must_exit 1 train2 -o none 2>err && grep -q "none of its 1 checkpoints" err'
ok 'only the newest checkpoints are kept' 'train -o keep --save-every 5 --keep 2 && [ "$(find keep -name index.h5 | wc -l)" -eq 2 ]'
ok '-n prints the plan and writes nothing' '
    "$SSM_BIN/ssmtrain" -n --model mamba2-hybrid-8b --batch 1 --seq-len 4096 >plan 2>err && grep -qx parameters=8654517248 plan && [ ! -s err ]'

bad() { # CODE PATTERN options...: that exit code and one line that says why
    code=$1 pattern=$2
    shift 2
    must_exit "$code" "$SSM_BIN/ssmtrain" "$@" 2>err >out && one_line err && grep -q -e "$pattern" err || { cat err >&2; return 1; }
}
ok 'no model' 'bad 2 "model is missing" -o r data'
ok 'no such model' 'bad 2 "no model .nosuch" --model nosuch -o r data'
ok 'no data' 'bad 2 "no data" --model mamba2-130m -o r'
ok 'batch 10x' 'bad 2 "10x.*not a whole number" --batch 10x --model ./tiny.conf -o r data'
ok 'lr nan' 'bad 2 "nan.*not a finite number" --lr nan --model ./tiny.conf -o r data'
ok 'unknown option' 'bad 2 "unknown option .--bach" --bach 10 --model ./tiny.conf -o r data'
ok 'an option twice' 'bad 2 "given twice" --batch 10 --batch 10 --model ./tiny.conf -o r data'
ok 'a config file: unknown key, doubled key' '
    printf "btach = 3\n" >c1 && bad 2 "c1:1: unknown key .btach" --config c1 --model ./tiny.conf -o r data &&
    printf "batch = 8\nbatch = 8\n" >c2 && bad 2 "c2:2: key .batch. stands here twice" --config c2 --model ./tiny.conf -o r data'
ok 'a config file is read, and the command line wins' '
    printf "batch = 8\nsteps = 3\nwarmup = 1\nseq-len = 64\n" >c3 && "$SSM_BIN/ssmtrain" -q --config c3 --steps 2 --model ./tiny.conf -o cfg data && [ "$(losses cfg | wc -l)" -eq 2 ]'
ok 'missing data folder' 'bad 1 "nowhere" --model ./tiny.conf --warmup 1 -o r nowhere'
ok 'token >= vocabulary' '(cat tiny.conf; echo vocab = 100) >v.conf && bad 1 "257 tokens.*vocab. is 100" --model ./v.conf -o r data'
ok 'a weight that is none' 'bad 2 "not a weight" --model ./tiny.conf -o r data@0'
ok 'checkpoint of another model' 'bad 1 "another model: .pattern. differs" --model ./ssm.conf $common --steps 24 -o whole data'
ok 'other data, other length' '
    bad 1 "cannot go on.*seq_len" --model ./tiny.conf --batch 8 --steps 24 --warmup 4 --seq-len 32 -o whole data && "$SSM_BIN/tokshard" encode -q --split line -o data2 text.txt && bad 1 "cannot go on.*data" $base -o whole data2'
ok 'two runs on one directory: the second is refused' '
    "$SSM_BIN/ssmtrain" -q $long -o busy data 2>/dev/null & pid=$!
    wait_for busy/inc-0001/metrics.jsonl
    bad 1 "busy" $base -o busy data; rc=$?; kill -TERM $pid; wait $pid; [ $rc -eq 0 ]'
ok 'a run directory that is a file' 'bad 1 "text.txt" $base -o text.txt data'
ok 'a batch that the ranks do not divide: one line' 'must_exit 2 $mpi -n 2 "$SSM_BIN/ssmtrain" --model ./tiny.conf --batch 3 -o r data 2>err && one_line err'
ok 'a limit on file sizes is a failed write' '
    (ulimit -f 20; must_exit 1 "$SSM_BIN/ssmtrain" -q $base -o limit data 2>err) && one_line err && ! find limit -name "*.tmp.*" | grep -q .'
ok 'sizes that overflow' 'bad 2 "too much to count" -n --model ./tiny.conf --steps 1000000000000 --batch 16Mi --seq-len 1Gi data'
ok 'a run that diverges leaves with 93' '
    sed "s/tied = true/tied = true\ninit_std = 10/" tiny.conf >wild.conf && must_exit 93 "$SSM_BIN/ssmtrain" -q --model ./wild.conf --batch 8 --seq-len 64 --steps 2000 --warmup 1 --lr 10 --clip 0 --weight-decay 10 -o wild data 2>err && one_line err && grep -q diverged err'
if [ "$(id -u)" -eq 0 ] && mkdir -p small && mount -t tmpfs -o size=256k none small 2>/dev/null; then
    ok 'a full disk under two ranks: exit 1, every time' '
        for k in 1 2 3 4; do rm -rf small/run; must_exit 1 train2 -o small/run 2>err || { cat err; exit 1; }; done; ! find small -name index.h5 | grep -q .'
    ok 'a full disk: one line, exit 1, no index' '
        must_exit 1 "$SSM_BIN/ssmtrain" -q $base -o small/run data 2>err; one_line err && ! find small -name index.h5 | grep -q .'
    umount small
else
    skip 'a full disk' 'no tmpfs can be mounted here'
fi
done_testing
