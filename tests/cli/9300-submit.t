#!/bin/sh
# 9300-submit.t - slurm/submit.sh and the jobs it writes, without Slurm: scripts, ids, dependencies; job.sh's decisions; shares
# SPDX-License-Identifier: MIT
#
# What the scripts hold is compared with tests/golden/slurm/; 'GOLDEN=write SSM_BIN=... sh tests/cli/9300-submit.t' writes that anew.
# sbatch, squeue, scancel, scontrol, srun and ssmtrain are stand-ins here that note how they were called.
SSM_TOP=${SSM_TOP:-$(cd "${0%/*}/../.." && pwd)}
golden=$(cd "${0%/*}/../golden" 2>/dev/null && pwd)/slurm
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS SSM_BIN
unset SSM_MPIEXEC SSM_SITE SSM_HOME SSM_LAUNCH SSM_RANKS SSM_WRAP SSM_CONTAINER SSM_THREADS
for v in $(env | sed -n 's/^\(SLURM_[A-Z_]*\)=.*/\1/p'); do unset "$v"; done
real_bin=$SSM_BIN
if [ ! -e "$SSM_TOP/slurm/submit.sh" ]; then
    skip 'slurm/' 'no source tree'
    done_testing
fi
submit() { timeout -k 5 60 "$SSM_TOP/slurm/submit.sh" "$@"; }
# says CODE TEXT ARGUMENT...: that exit code and one line on stderr, which holds TEXT
says() {
    code=$1 text=$2
    shift 2
    must_exit "$code" submit "$@" >out 2>err || { cat err; return 1; }
    [ "$(wc -l <err)" -eq 1 ] && grep -q -e "$text" err || { cat err; return 1; }
}

# ---- stand-ins ----
mkdir fake tools
cat >fake/sbatch <<'SH'
#!/bin/sh
# ids from 101; each call is a line of $CALLS
n=$(($(cat "$CALLS.id" 2>/dev/null || echo 100) + 1))
[ ! -e "$CALLS.full" ] || { echo "sbatch: error: full" >&2; exit 1; }
echo $n >"$CALLS.id"
echo "$n: $*" >>"$CALLS"
echo "$n;cluster"
SH
cat >fake/squeue <<'SH'
#!/bin/sh
# knows the ids of $CALLS.alive; the others are too old to be known
[ ! -e "$CALLS.mute" ] || { echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1; }
grep -x "$3" "$CALLS.alive" 2>/dev/null || { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }
SH
cat >fake/scancel <<'SH'
#!/bin/sh
echo "scancel $*" >>"$CALLS"
SH
cat >fake/scontrol <<'SH'
#!/bin/sh
case $1 in
show) echo "JobId=$4 PreemptTime=${PREEMPTED:-None} Restarts=${RESTARTS:-0} BatchFlag=1" ;;
*) echo "scontrol $*" >>"$CALLS"; [ ! -e "$CALLS.forbidden" ] ;;
esac
SH
printf '#!/bin/sh\necho "sleep $*" >>"$CALLS"\n' >fake/sleep
cat >fake/srun <<'SH'
#!/bin/sh
# srun OPTION... -n N PROGRAM...: starts it once; its code is $SRUN_CODE where that is set
echo "srun $*" >>"$CALLS"
while [ "$1" != -n ]; do shift; done
shift 2
case $1 in apptainer) while [ "$1" != ssmtrain ] && [ "${1##*/}" != ssmtrain ]; do shift; done ;; esac
"$@" & child=$!
trap 'kill -USR1 $child' USR1
code=0; wait $child || code=$?
[ $code -lt 128 ] || { code=0; wait $child || code=$?; }
exit "${SRUN_CODE:-$code}"
SH
cat >tools/ssmtrain <<'SH'
#!/bin/sh
# ssmtrain -o RUN ...: what $FAKE says, "WORD CODE [STEP]": the state, the exit code, a checkpoint; 'usage': the options are bad; 'wait': until USR1
run=$2
set -- $FAKE
[ "$1" != usage ] || exit 2
n=$(ls "$run" 2>/dev/null | wc -l)
inc=$run/inc-$(printf %04d $((n + 1)))
mkdir -p "$inc"
echo "running 0" >"$inc/state"
[ -z "${3:-}" ] || { mkdir -p "$inc/step-$(printf %010d "$3")" && : >"$inc/step-$(printf %010d "$3")/index.h5"; }
if [ "$1" = wait ]; then
    trap 'echo "again 7" >"$inc/state"; exit 75' USR1
    : >"$inc/ready" && echo yes >"$inc/ready"
    while :; do /bin/sleep 0.05; done
fi
echo "$1 7" >"$inc/state"
exit "$2"
SH
for t in tokshard ckmerge ssmeval; do printf '#!/bin/sh\nexit 1\n' >tools/$t; done
chmod +x fake/* tools/*
CALLS=$tap_dir/calls
export CALLS

# ---- the scripts ----
cat >site.conf <<CONF
partition      = gpu
account        = it's "ours"#1   # quotes and # inside a word are part of a value
constraint     = [h100|h200]
options        = --reservation=week42 --nice=10
time           = 4:00:00
ranks_per_node = 4
cpus_per_rank  = 8
gpus_per_node  = 4
max_array      = 5
throttle       = 3
CONF
cat >chain.conf <<CONF
ranks_per_node = 2
launcher       = mpiexec
resume         = chain
chain_length   = 6
signal         = 600
logs           = $tap_dir/my logs/100%
CONF
cat >one.conf <<CONF
work  = $tap_dir/one
input = text/*.txt
model = tiny.conf
CONF
cat >eight.conf <<CONF
work      = $tap_dir/my 'work'/eight
input     = text/*.txt
tokenizer = train:300
parts     = 8
ranks     = 10
model     = tiny.conf
tasks     = a.jsonl b.jsonl
CONF
cat >tune.conf <<CONF
work     = $tap_dir/tune
init     = old
input    = talks.jsonl
template = chatml
parts    = 3
ranks    = 3
CONF
cat >extend.conf <<CONF
work    = $tap_dir/extend
init    = old
data    = set
valid   = set
seq_len = 64
ranks   = 4
CONF
# of GOLDEN-NAME ARGUMENT...: what --dry-run prints and writes
of() {
    name=$1
    shift
    SSM_BIN=$tap_dir/tools submit --dry-run "$@" >"$name.out" 2>"$name.err" || { cat "$name.err"; return 1; }
    [ ! -s "$name.err" ] || { cat "$name.err"; return 1; }
    dir=$(sed -n 's/^work *= *//p' "$2")/slurm
    [ -d "$dir" ] || dir=${dir%slurm}sweep/lr-1e-3,2e-3_seed-1,2/slurm
    {
        cat "$name.out"
        for f in "$dir"/*.sbatch; do
            printf '\n==== %s\n' "${f##*/}"
            cat "$f"
        done
    } | sed "s|$tap_dir/tools|@BIN@|g; s|$tap_dir|@WORK@|g; s|$SSM_TOP|@TOP@|g" >"$name.txt"
    for f in "$dir"/*.sbatch; do sh -n "$f" || return 1; done
    if [ "${GOLDEN:-}" = write ]; then mkdir -p "$golden" && cp "$name.txt" "$golden/$name.txt"; fi
    diff -u "$golden/$name.txt" "$name.txt"
}
if [ -n "${GOLDEN:-}" ] || [ -d "$golden" ]; then
    echo '# nothing' >plain.conf
    ok 'pretrain, one share, a site that says nothing' 'of pretrain pretrain one.conf --site plain.conf'
    ok 'pretrain: a tokenizer to learn, 8 shares in arrays of 5, tasks; all options of a site' 'of pretrain-8 pretrain eight.conf --site=site.conf'
    ok 'finetune: a chain of jobs, 3 ranks on nodes of 2, logs elsewhere' 'of finetune finetune tune.conf --site chain.conf && [ -d "my logs/100%" ]'
    ok 'extend: an array of lengths, GPUs' 'of extend extend extend.conf --site site.conf'
    sed 's/^train.*//; s/^work.*/work = swept/' one.conf >sweep.conf && echo 'train = --steps 5 --lr 1 --seed=7 --batch 2   # words' >>sweep.conf
    ok 'a sweep: arrays of combinations after the data that they share' 'sed "s|= swept|= $tap_dir/swept|" sweep.conf >s && mv s sweep.conf &&
        of sweep pretrain sweep.conf --site site.conf --sweep lr=1e-3,2e-3 --sweep=seed=1,2'
    ok 'a sweep: the values take the place of the words that were there' '
        printf "%s\n" lr-1e-3_seed-1 lr-2e-3_seed-1 lr-1e-3_seed-2 lr-2e-3_seed-2 | sed "s|.*|$tap_dir/swept/sweep/lr-1e-3,2e-3_seed-1,2/&/&.conf|" | diff - swept/sweep/*_seed-1,2/confs &&
        tail -n 1 swept/sweep/*/lr-2e-3_seed-1/*.conf | grep -qx -e "train = --steps 5 --batch 2 --lr=2e-3 --seed=1" && grep -qx "work = $tap_dir/swept/sweep/lr-1e-3,2e-3_seed-1,2/lr-2e-3_seed-1" swept/sweep/*/lr-2e-3_seed-1/*.conf &&
        mkdir swept/train && [ -d swept/sweep/*/lr-1e-3_seed-2/train/. ] && [ ! -L swept/sweep/*/lr-1e-3_seed-2/tokenizer.json ] &&
        says 2 "OPTION=VALUE" pretrain sweep.conf --site site.conf --sweep lr && says 2 "is an array already" pretrain sweep.conf --site chain.conf --sweep lr=1,2 &&
        says 2 "8 combinations are more than an array takes (5)" pretrain sweep.conf --site site.conf --sweep lr=1,2,3,4 --sweep seed=1,2'
    ok 'the directives in force: the last of each name' '
        dir="my '\''work'\''/eight/slurm" && last() { sed -n "s/^#SBATCH --$1=//p" "$dir/$2.sbatch" | tail -n 1; } &&
        [ "$(last ntasks train)/$(last nodes train)/$(last ntasks-per-node train)/$(last gpus-per-node train)" = 10/3/4/4 ] && [ "$(last signal train)" = USR1@300 ] &&
        [ "$(last ntasks share)" = 1 ] && [ "$(last array share)" = 1-5%3 ] && [ "$(last array share-5)" = 1-3%3 ] && [ "$(last array eval)" = 1-3%3 ] &&
        ! grep gpus "$dir/share.sbatch" && [ "$(last ntasks eval)" = 4 ] && [ "$(last account train)" = "\"it'\''s \\\"ours\\\"#1\"" ]'
else
    skip 'the scripts' 'no golden files'
fi
ok '--dry-run submits nothing, and needs no Slurm' '[ ! -e calls ] && [ ! -e one/slurm/jobs ]'
ok '--help' 'submit --help >out && grep -q "^usage: submit.sh" out && ! grep -q -e shellcheck -e "^#" out'
if command -v shellcheck >/dev/null && [ -e "$SSM_TOP/tests/lint.sh" ]; then
    ok 'shellcheck -x' '(cd "$SSM_TOP" && find slurm pipelines -name "*.sh" -o -name "*.sbatch" | xargs shellcheck -x)'
else
    skip 'shellcheck -x' 'no shellcheck, or no source tree'
fi

# ---- what will not do ----
bad() { { grep -v "^${1%% *} " site.conf; echo "$1"; } >bad.conf; says 2 "$2" pretrain one.conf --site bad.conf --dry-run; }
ok 'the command line' '
    says 2 "no pipeline .pretain" pretain one.conf && says 2 "usage: submit.sh" pretrain && says 2 "unknown option .--now" pretrain one.conf --now &&
    says 2 "one argument too many" pretrain one.conf two.conf && says 2 "needs a file" pretrain one.conf --site && says 2 "cannot read .nowhere" pretrain nowhere --site site.conf &&
    says 2 "cannot read .*/nowhere" pretrain one.conf --site nowhere'
ok 'a site.conf: unknown keys, doubled ones, bad values' '
    bad "partitoin = x" "unknown key .partitoin" && bad "ranks_per_node = 0" "number from 1" && bad "ranks_per_node = two" "two" && bad "gpus_per_node = all" "all. of .gpus_per_node" &&
    bad "max_retries = -1" "max_retries" && bad "signal = soon" "soon" && bad "launcher = ssh" "none of: srun mpiexec" && bad "resume = never" "none of" &&
    bad "container = docker" "none of" && bad "container = pyxis" "image. is missing" && bad "mounts = /a, /b" "has blanks" &&
    { cat site.conf; echo "account = a"; } >bad.conf && says 2 "stands here twice" pretrain one.conf --site bad.conf &&
    printf "container = pyxis\nlauncher = mpiexec\nimage = i\nbin = /b\n" >bad.conf && says 2 "needs .launcher = srun" pretrain one.conf --site bad.conf'
ok 'the keys of site.conf.example are all, and those of site.sh' '
    sed -n "s/^#* *\([a-z_]*\) *= .*/\1/p" "$SSM_TOP/slurm/site.conf.example" | sort >example && [ "$(wc -l <example)" -ge 25 ] && [ -z "$(uniq -d example)" ] &&
    sed -n "/conf_read/,/[^\\\\]\$/p" "$SSM_TOP/slurm/site.sh" | sed "s/^ *conf_read ..1. //" | tr -d "\\\\" | tr -s " " "\n" | sed "/^\$/d" | sort | diff - example'
ok 'a .conf that will not do is refused as by the pipeline' '
    sed /^model/d one.conf >bad2.conf && says 2 "model. is missing" pretrain bad2.conf --site site.conf --dry-run && echo "wrok = x" >>bad2.conf && says 2 "unknown key" pretrain bad2.conf --site site.conf'
ok 'no sbatch' '(PATH=$tap_dir/none:$PATH; mkdir -p none && for p in sh sed tr mkdir cat dirname grep date sort tail timeout mv rm env wc; do ln -sf "$(command -v $p)" none/; done
    PATH=$tap_dir/none SSM_BIN=$tap_dir/tools; says 1 "no sbatch here" pretrain one.conf --site site.conf)'

# ---- submitting ----
PATH=$tap_dir/fake:$PATH
SSM_BIN=$tap_dir/tools
live() { printf '%s\n' "$@" >calls.alive; }
ok 'ids are kept; each stage waits for all jobs of the one before' '
    submit pretrain eight.conf --site site.conf >out && dir="my '\''work'\''/eight/slurm" &&
    printf "learn\t101\nshare\t102 103\nindex\t104\ntrain\t105\nmerge\t106\neval\t107\nreport\t108\n" | diff - out &&
    printf "learn 101\nshare 102\nshare 103\nindex 104\ntrain 105\nmerge 106\neval 107\nreport 108\n" | diff - "$dir/jobs" &&
    sed -n "s/:.*=\(afterok:[0-9:]*\) .*kill-on-invalid-dep=yes .*/ \1/p" calls >deps && printf "%s\n" "102 afterok:101" "103 afterok:101" "104 afterok:102:103" "105 afterok:104" "106 afterok:105" "107 afterok:106" "108 afterok:107" | diff - deps'
ok 'again: what is alive is left alone, the rest waits for it' '
    dir="my '\''work'\''/eight/slurm" && live 103 105 && : >calls && submit pretrain eight.conf --site site.conf >out && grep -qx "share	is queued or runs: 103" out && grep -qx "train	is queued or runs: 105" out &&
    sed -n "s/:.*afterok:\([0-9:]*\) .*/ \1/p" calls >deps && printf "%s\n" "110 103" "111 105" "112 111" "113 112" | diff - deps && grep -qx "index 110" "$dir/jobs" && [ "$(grep -c . "$dir/jobs")" -eq 8 ]'
ok 'what is done is not submitted' '
    : >calls && rm calls.alive && mkdir -p one/train one/valid && : >one/train/index.h5 && : >one/valid/index.h5 && : >one/run.done && submit pretrain one.conf --site site.conf >out &&
    grep -qx "train	done already" out && ! grep -q "train.sbatch" calls && head -n 1 calls | grep -q -v dependency && head -n 1 calls | grep -q "merge.sbatch"'
ok 'Slurm does not answer: nothing is done twice' ': >calls && : >calls.mute && says 1 "Unable to contact" pretrain one.conf --site site.conf && [ ! -s calls ]; code=$?; rm calls.mute; [ $code -eq 0 ]'
ok 'sbatch refuses' ': >calls.full && must_exit 1 submit pretrain one.conf --site site.conf 2>err; code=$?; rm calls.full; [ $code -eq 0 ] && grep -q "merge: sbatch failed" err'
ok '--cancel takes back what is alive; without jobs it says so' '
    dir="my '\''work'\''/eight/slurm" && live 110 112 && : >calls && submit pretrain eight.conf --site site.conf --cancel --dry-run >out && [ ! -s calls ] && [ -e "$dir/jobs" ] && grep -qx "scancel 110" out &&
    submit pretrain eight.conf --site site.conf --cancel >out && printf "scancel 110\nscancel 112\n" | diff - calls && [ ! -e "$dir/jobs" ] && grep -q "cancelled: 112" out && rm calls.alive &&
    says 1 "nothing was submitted" pretrain eight.conf --site site.conf --cancel'
ok 'blanks and quotes in the name of a .conf and of a site.conf, relative paths' '
    mkdir -p "a b" && sed "s|^work.*|work = rel work|" one.conf >"a b/it'\''s \"x\".conf" && cp site.conf "a b/s ite.conf" && : >calls && submit pretrain "a b/it'\''s \"x\".conf" --site "a b/s ite.conf" >out &&
    grep -q "$tap_dir/rel work/slurm/data.sbatch" calls && f="rel work/slurm/data.sbatch" && sh -n "$f" && (SSM_HOME=; eval "$(sed -n "s/^set --/set --/p; /^export/p" "$f")" && [ "$3" = "$tap_dir/a b/it'\''s \"x\".conf" ] && [ "$SSM_SITE" = "$tap_dir/a b/s ite.conf" ])'

# ---- the job: what is decided after a stage ----
# job NAME: runs the script of the training as Slurm would; what it does is in calls and log
SLURM_JOB_ID=55 SLURM_JOB_NAME=ssm-train SLURM_NTASKS=2 SLURM_CPUS_PER_TASK=3
export SLURM_JOB_ID SLURM_JOB_NAME SLURM_NTASKS SLURM_CPUS_PER_TASK
fresh() { # SITE LINE...
    rm -rf one calls && mkdir -p one/train one/valid && : >one/train/index.h5 && : >one/valid/index.h5 && : >calls &&
        printf '%s\n' "$@" >job.conf && (export PATH && submit pretrain one.conf --site job.conf --dry-run >/dev/null) && : >calls
}
job() { timeout -k 5 60 sh one/slurm/train.sbatch >log 2>&1; }
requeued() { grep -qx "scontrol requeue 55" calls; }
# after CODE FAKE WORDS-OF-LOG: the job's end
after() {
    FAKE=$2
    export FAKE
    must_exit "$1" job || { cat log calls; return 1; }
    grep -q -e "$3" log || { cat log; return 1; }
}
ok 'done' 'fresh && after 0 "done 0" "train: done" && ! requeued && [ -e one/run.done ] && grep -q -e "^srun --kill-on-bad-exit=1 --wait=60 --mpi=pmi2 -n 2 $tap_dir/tools/ssmtrain -o $tap_dir/one/run " calls'
ok 'done, though the launcher says 143' 'fresh && SRUN_CODE=143 && export SRUN_CODE && after 0 "done 0" "train: done" && ! requeued'
ok 'the launcher says 0, but the run is not done: back into the queue' 'fresh && SRUN_CODE=0 && export SRUN_CODE && after 75 "running 9" "exit code 1" && requeued && [ ! -e one/run.done ]'
ok 'the launcher says 0 and no start was made' 'fresh && SRUN_CODE=0 && export SRUN_CODE && after 75 usage "exit code 1" && requeued'
ok '75: back into the queue, and this copy waits for its end' 'fresh && after 75 "again 75 3" "back into the queue" && requeued && grep -qx "sleep 60" calls'
ok 'the launcher hides a 75' 'fresh && SRUN_CODE=143 && export SRUN_CODE && after 75 "again 75 3" "exit code 75" && requeued'
ok '75, and requeue is forbidden: it says what to do' 'fresh && : >calls.forbidden && after 75 "again 75 3" "submit it again"; code=$?; rm calls.forbidden; [ $code -eq 0 ] && ! grep sleep calls'
ok 'Slurm has started the job anew elsewhere: this copy asks for nothing, and counts no try' '
    fresh && RESTARTS=1 && export RESTARTS && after 75 "again 75 3" "anew, this copy does nothing more" && ! requeued && after 1 "running 1" "anew" && [ ! -e one/slurm/train.tries ] &&
    SLURM_RESTART_COUNT=1 && export SLURM_RESTART_COUNT && after 75 "again 75 3" "back into" && requeued'
ok '93 and 2: stays' 'fresh && after 93 "stay 93" "not run again" && ! requeued && after 2 usage "not run again" && ! requeued && SRUN_CODE=143 && export SRUN_CODE && after 93 "stay 93" "not run again" && ! requeued'
ok 'crashes without progress: so many, then 93; who submits it again may try as often' '
    fresh "max_retries = 2" && for i in 1 2; do : >calls; after 75 "running 9" "back into" && requeued || exit 1; done; : >calls
    after 93 "running 9" "2 starts in a row without progress" && ! requeued && after 75 "running 9" "back into" && requeued'
ok 'crashes with progress: any number' 'fresh "max_retries = 1" && for i in 1 20 300 4000; do : >calls; after 75 "running 9 $i" "back into" && requeued || exit 1; done; : >calls; after 93 "running 9" "without progress"'
ok 'max_retries = 0: none' 'fresh "max_retries = 0" && after 93 "running 9" "without progress" && ! requeued'
# told SIGNAL: the same with a training that waits for it; the signal goes to the batch shell alone
told() {
    FAKE='wait'
    export FAKE
    : >calls
    # sh ends by the signal's default when it comes before the trap is set: the training is there after that
    sh one/slurm/train.sbatch >log 2>&1 & pid=$!
    until [ -n "$(cat one/run/inc-*/ready 2>/dev/null)" ]; do /bin/sleep 0.05; done
    kill -"$1" $pid
    wait $pid
    code=$?
    rm -f one/run/inc-*/ready
    [ $code -eq "$2" ] && grep -q -e "$3" log || { echo "code $code"; cat log calls; return 1; }
}
ok 'told USR1: the training saves, and the job goes back' 'fresh && told USR1 75 "exit code 75; back" && requeued && grep -qx "again 7" one/run/inc-0001/state'
ok 'told TERM long before its end: cancelled, stays' 'fresh && told TERM 75 "cancelled" && ! requeued && grep -qx "again 7" one/run/inc-0001/state'
ok 'told TERM to make room: goes back, as often as it is' '
    fresh "max_retries = 1" && PREEMPTED=2026-01-01T00:00:00 && export PREEMPTED && for i in 1 2 3; do told TERM 75 "back into" && requeued || exit 1; done'
ok 'told TERM at the end of its time: goes back' 'fresh && SLURM_JOB_END_TIME=$(($(date +%s) + 2)) && export SLURM_JOB_END_TIME && told TERM 75 "back into" && requeued'
SLURM_ARRAY_JOB_ID=50 SLURM_ARRAY_TASK_MAX=3
ok 'a chain: the next job goes on, the last says that there is none, what must not go on takes back the rest' '
    export SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_MAX SLURM_ARRAY_TASK_ID && fresh "resume = chain" "chain_length = 3" && SLURM_ARRAY_TASK_ID=1 && after 0 "again 75 3" "next job of the chain" && ! requeued &&
    SLURM_ARRAY_TASK_ID=3 && after 75 "again 75 4" "last job of the chain" && ! requeued && ! grep scancel calls && SLURM_ARRAY_TASK_ID=2 && after 93 "stay 93" "not run again" &&
    grep -qx "scancel --state=PENDING 50" calls && : >calls && after 0 "done 0" done && ! grep scancel calls && SLURM_ARRAY_TASK_ID=3 && after 0 usage "done already"'
ok 'a chain: cancelled' 'export SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_MAX SLURM_ARRAY_TASK_ID && fresh "resume = chain" && SLURM_ARRAY_TASK_ID=1 && told TERM 75 cancelled && grep -qx "scancel --state=PENDING 50" calls'
ok 'a share of an array: task and offset; its failures are counted alone' '
    rm -rf "my '\''work'\''" && sed "s/^work.*/work = $(echo "$tap_dir" | sed "s/\//\\\\\//g")\/arr/; /^tokenizer/d" eight.conf >arr.conf && submit pretrain arr.conf --site site.conf --dry-run >/dev/null && : >calls &&
    SLURM_ARRAY_TASK_ID=2 SLURM_ARRAY_JOB_ID=50 SLURM_NTASKS=1 && export SLURM_ARRAY_TASK_ID SLURM_ARRAY_JOB_ID && must_exit 75 sh arr/slurm/share-5.sbatch >log 2>&1 && grep -q -e "--part 7/8" calls && requeued &&
    [ "$(cat arr/slurm/share-7.tries)" = "0 1" ]'
# launches SITE-LINE...: how the training is started
launches() {
    want=$1
    shift
    fresh "$@" && after 0 "done 0" "train: done" && head -n 1 calls >got && grep -q -x -e "$want" got || { cat got; return 1; }
}
cat >fake/mpiexec <<'SH'
#!/bin/sh
echo "mpiexec $*" >>"$CALLS"
shift 2
exec "$@"
SH
chmod +x fake/mpiexec
ok 'launchers and containers' '
    launches "srun --kill-on-bad-exit=1 --wait=60 --mpi=pmix --cpu-bind=cores -n 2 $tap_dir/tools/ssmtrain .*" "mpi = pmix" "bind = cores" &&
    launches "mpiexec -n 2 $tap_dir/tools/ssmtrain .*" "launcher = mpiexec" &&
    launches "srun .* --container-image=user@reg#img:1 --no-container-mount-home --container-mounts=/a,/b -n 2 $tap_dir/tools/ssmtrain .*" "container = pyxis" "image = user@reg#img:1" "mounts = /a,/b" "bin = $tap_dir/tools" &&
    launches "srun .* -n 2 apptainer exec --cleanenv=false --bind /a /i.sif $tap_dir/tools/ssmtrain .*" "container = apptainer" "image = /i.sif" "mounts = /a" "bin = $tap_dir/tools" &&
    launches "srun .* -n 2 apptainer exec --nv --cleanenv=false /i.sif $tap_dir/tools/ssmtrain .*" "container = apptainer" "image = /i.sif" "gpus_per_node = 2" "bin = $tap_dir/tools"'
ok 'modules and the environment file; threads' '
    printf "NCCL_X=a b\n" | sed "s/a b/\"a b\"/" >site.env && mkdir -p looking && cp tools/* looking/ && printf "#!/bin/sh\nenv >$tap_dir/saw\nexec $tap_dir/tools/ssmtrain \"\$@\"\n" >looking/ssmtrain &&
    fresh "environment = site.env" "bin = $tap_dir/looking" && after 0 "done 0" done && grep -qx "NCCL_X=a b" saw && grep -qx "OMP_NUM_THREADS=3" saw && grep -qx "SRUN_CPUS_PER_TASK=3" saw && grep -qx "SSM_RANKS=2" saw'

# ---- the stages one by one, with the tools ----
unset SLURM_JOB_ID SLURM_JOB_NAME SLURM_NTASKS SLURM_CPUS_PER_TASK SLURM_ARRAY_TASK_ID SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_MAX
PATH=${PATH#*:}
SSM_BIN=$real_bin
run() { pipeline=$1; shift; timeout -k 5 100 "$SSM_TOP/pipelines/$pipeline.sh" "$@" 2>>log; }
# same SET SET: the same documents, in the same order
same() { "$SSM_BIN/tokshard" cat "$1" >a.ids && "$SSM_BIN/tokshard" cat "$2" | cmp - a.ids; }
tiny_text 300 >text.txt
tiny_model 'M-*' >tiny.conf
printf '%s\n' '{"output_type": "multiple_choice"}' '{"context": "the cat", "choices": [" sees", " no"], "gold": 0}' >easy.jsonl
cat >p.conf <<CONF
work  = p
input = text.txt
encode = --split para
valid = 0.2
model = ./tiny.conf
train = --steps 4 --warmup 1 --batch 4 --seq-len 32 --lr 1e-3
CONF
sed 's/^work.*/work = p3/; $a parts = 3' p.conf >p3.conf
ok 'pretrain: --work, --list before and after' '
    [ "$(run pretrain p3.conf --work)" = p3 ] && run pretrain p3.conf --list >rows && printf "share\t3\t1\ttodo\nindex\t1\t1\ttodo\ntrain\t1\t1\ttodo\nmerge\t1\t1\ttodo\neval\t1\t1\ttodo\nreport\t1\t1\ttodo\n" | diff - rows'
ok 'pretrain: shares in any order and index make the set that one process makes' '
    run pretrain p.conf data && for i in 3 1 2; do run pretrain p3.conf share:$i/3 || exit 1; done && [ ! -e p3/train/index.h5 ] && run pretrain p3.conf share:2/3 index && same p/train p3/train && same p/valid p3/valid &&
    run pretrain p3.conf --list | head -n 2 | grep -c done | grep -qx 2 && run pretrain p3.conf data'
ok 'pretrain: index before all shares are there fails' 'sed "s/^work.*/work = p4/" p3.conf >p4.conf && run pretrain p4.conf share:1/3 && must_exit 1 run pretrain p4.conf index && [ ! -e p4/train/index.h5 ]'
ok 'shares that are none' '
    for s in share share:0/3 share:4/3 share:1/2 share:a/3 share:1 share:1/3/3 eval:2/1; do must_exit 2 run pretrain p3.conf $s || exit 1; done'
ok 'pretrain: tables of eval one by one are those of all' '
    run pretrain p.conf train merge && { cat p.conf; echo "tasks = $tap_dir/easy.jsonl"; } >e.conf && run pretrain e.conf --list | grep -qx "eval	2	1	todo" &&
    run pretrain e.conf eval && mv p/scores.tsv all.tsv && mv p/tasks all.tasks && run pretrain e.conf eval:2/2 && [ ! -e p/scores.tsv ] && run pretrain e.conf eval:1/2 && cmp all.tsv p/scores.tsv && cmp all.tasks/easy.tsv p/tasks/easy.tsv'
tiny_text 200 | awk 'NF { a = $1 " " $2; $1 = ""; printf "{\"input\": \"%s?\", \"output\": \"%s\"}\n", a, toupper($0) }' >talks.jsonl
cat >f.conf <<CONF
work     = f
init     = p/run
input    = talks.jsonl
template = nemo
seq_len  = 80
valid    = 0.2
train    = --steps 3 --warmup 1 --batch 4 --lr 1e-3
CONF
sed 's/^work.*/work = f3/; $a parts = 3' f.conf >f3.conf
ok 'finetune: the same, but for rows, which no two shares have in common' '
    run finetune f.conf pack && for i in 2 3 1; do run finetune f3.conf share:$i/3 || exit 1; done && run finetune f3.conf index && for s in train valid; do
        "$SSM_BIN/tokshard" stat f/$s | grep -E "^(documents|tokens|bytes)	" >a && "$SSM_BIN/tokshard" stat f3/$s | grep -E "^(documents|tokens|bytes)	" | diff a - || exit 1; done
    [ "$(run finetune f3.conf --work)" = f3 ] && run finetune f3.conf --list | cut -f 1,2,4 | tr "\t\n" "  " | grep -qx "share 3 done index 1 done train 1 todo merge 1 todo eval 1 todo report 1 todo "'
cat >x.conf <<CONF
work    = x
init    = p/run
data    = p/train
valid   = p/valid
seq_len = 32
lengths = 16 32
train   = --steps 2 --warmup 1 --batch 2 --lr 1e-3
CONF
ok 'extend: lengths one by one, the table of them' '
    run extend x.conf --list | grep -qx "eval	2	1	todo" && run extend x.conf train merge && run extend x.conf eval:2/2 eval:1/2 && [ ! -e x/lengths.tsv ] && run extend x.conf --list | grep -qx "eval	2	1	done" && run extend x.conf eval &&
    [ "$(sed 1d x/lengths.tsv | cut -f 1 | paste -s -d " ")" = "16 32" ] && must_exit 2 run extend x.conf eval:1/3'
done_testing
