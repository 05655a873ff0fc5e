#!/bin/sh
# 9310-bcp.t - a pipeline as a job of Base Command: its JSON and command line, what must lie in the workspace, the job's own script
# SPDX-License-Identifier: MIT
#
# No live platform: bcprun and mpirun are stand-ins that note how they were called. slurm/bcp/example.json and golden/slurm/bcp.txt are
# written by 'GOLDEN=write SSM_BIN=... sh tests/cli/9310-bcp.t'.
SSM_TOP=${SSM_TOP:-$(cd "${0%/*}/../.." && pwd)}
golden=$(cd "${0%/*}/../golden" 2>/dev/null && pwd)/slurm
. "${0%/*}/../tiny.sh"
. "${0%/*}/../tap.sh"
OMP_NUM_THREADS=1
export OMP_NUM_THREADS SSM_BIN
unset SSM_MPIEXEC SSM_SITE SSM_HOME SSM_LAUNCH SSM_RANKS SSM_WRAP SSM_CONTAINER SSM_THREADS SSM_RANKS_PER_NODE SSM_MAX_RETRIES
for v in $(env | sed -n 's/^\(NGC_[A-Z_]*\)=.*/\1/p'); do unset "$v"; done
if [ ! -e "$SSM_TOP/slurm/submit.sh" ]; then
    skip 'slurm/' 'no source tree'
    done_testing
fi
bcp() { timeout -k 5 60 "$SSM_TOP/slurm/submit.sh" "$@" --bcp; }
# says TEXT ARGUMENT...: refused with one line, which holds TEXT
says() {
    text=$1
    shift
    must_exit 2 bcp "$@" >out 2>err || { cat err; return 1; }
    [ "$(wc -l <err)" -eq 1 ] && grep -q -e "$text" err || { cat err; return 1; }
}
mkdir -p ssm/text fake elsewhere
cd ssm || exit 1
cat >site.conf <<CONF
bin            = /opt/ssmtools/bin
ranks_per_node = 8
cpus_per_rank  = 16
bcp_ace        = my-ace
bcp_instance   = dgxa100.80g.8.norm
bcp_image      = my-org/ssmtools:0.1.0
bcp_workspace  = my-workspace
bcp_mount      = $tap_dir/ssm
bcp_datasets   = 1234:/data/text 77:/data/more
bcp_org        = my-org
bcp_team       = my-team
bcp_runtime    = 3d
bcp_labels     = ssm study
bcp_env        = NCCL_DEBUG=WARN A=b:c
CONF
cat >pretrain.conf <<CONF
work  = work
input = text/*.txt /data/text/*.jsonl
tokenizer = train:300
ranks = 32
model = mamba2-130m
CONF
here() { sed "s|$tap_dir/ssm|/mount/ssm|g; s|$SSM_TOP|@TOP@|g" "$@"; }
ok 'the JSON and both command lines' '
    bcp pretrain pretrain.conf --site site.conf >../said && here work/slurm/bcp/pretrain.json >../example.json && { here ../said && echo && here work/slurm/bcp/pretrain.sh; } >../bcp.txt &&
    { [ "${GOLDEN:-}" != write ] || { cp ../example.json "$SSM_TOP/slurm/bcp/example.json" && cp ../bcp.txt "$golden/bcp.txt"; }; } &&
    diff -u "$SSM_TOP/slurm/bcp/example.json" ../example.json && if [ -e "$golden/bcp.txt" ]; then diff -u "$golden/bcp.txt" ../bcp.txt; fi && sh -n work/slurm/bcp/pretrain.sh && [ ! -e work/slurm/jobs ]'
if command -v jq >/dev/null; then
    j=work/slurm/bcp/pretrain.json
    # The fields that are known of the job's JSON.
    ok 'known fields and no other, of the right types' '
        jq -e . $j >../out && jq -r "keys[]" $j | sort >../keys && printf "%s\n" aceId aceName aceInstance arrayType command datasetMounts dockerImageName envs jobOrder jobPriority name portMappings replicaCount \
            reservedLabels resultContainerMountPoint runPolicy systemLabels totalRuntime userLabels userSecretsSpec workspaceMounts | sort >../known && [ -z "$(comm -23 ../keys ../known)" ] &&
        jq -e "(.envs | all(keys == [\"name\", \"value\"])) and (.datasetMounts | all(keys == [\"containerMountPoint\", \"id\"])) and (.workspaceMounts | length == 1 and all(keys == [\"containerMountPoint\", \"id\", \"mountMode\"]))" $j &&
        jq -e ".runPolicy == {preemptClass: \"RESUMABLE\", totalRuntimeSeconds: 259200} and .replicaCount == 4 and .arrayType == \"MPI\" and .jobOrder == 50 and (.jobOrder | type) == \"number\"" $j'
    ok 'the options say what the JSON says' '
        printf "#!/bin/sh\nfor a; do echo \"\$a\"; done\n" >../fake/ngc && chmod +x ../fake/ngc && PATH=$tap_dir/fake:$PATH sh work/slurm/bcp/pretrain.sh >../args &&
        after() { sed -n "/^--$1\$/{n;p;}" ../args; } &&
        [ "$(after name)" = "$(jq -r .name $j)" ] && [ "$(after ace)" = "$(jq -r .aceName $j)" ] && [ "$(after instance)" = "$(jq -r .aceInstance $j)" ] && [ "$(after image)" = "$(jq -r .dockerImageName $j)" ] &&
        [ "$(after commandline)" = "$(jq -r .command $j)" ] && [ "$(after replicas)" = "$(jq -r .replicaCount $j)" ] && [ "$(after array-type)" = "$(jq -r .arrayType $j)" ] && [ "$(after priority)" = "$(jq -r .jobPriority $j)" ] &&
        [ "$(after order)" = "$(jq -r .jobOrder $j)" ] && [ "$(after preempt)" = "$(jq -r .runPolicy.preemptClass $j)" ] && [ "$(after total-runtime)" = "$(jq -r .runPolicy.totalRuntimeSeconds $j)s" ] &&
        [ "$(after result)" = "$(jq -r .resultContainerMountPoint $j)" ] && [ "$(after env-var)" = "$(jq -r ".envs[] | .name + \":\" + .value" $j)" ] && [ "$(after label)" = "$(jq -r ".userLabels[]" $j)" ] &&
        [ "$(after datasetid)" = "$(jq -r ".datasetMounts[] | .id + \":\" + .containerMountPoint" $j)" ] && [ "$(after workspace)" = "$(jq -r ".workspaceMounts[] | .id + \":\" + .containerMountPoint + \":\" + .mountMode" $j)" ] &&
        [ "$(after org)" = my-org ] && [ "$(after team)" = my-team ]'
    ok 'one node: no array; quotes, blanks and backslashes' '
        mkdir -p "a \"b\" \\c" && sed "s/^ranks.*/ranks = 2/" pretrain.conf >"a \"b\" \\c/it'\''s.conf" && grep -v -e datasets -e labels site.conf | sed "s/my-ace/my \\\\ \"ace\"/" >s2.conf && sed "s|/data[^ ]*||" -i "a \"b\" \\c/it'\''s.conf" &&
        bcp pretrain "a \"b\" \\c/it'\''s.conf" --site s2.conf >../said && jq -e "has(\"arrayType\") or has(\"replicaCount\") or has(\"datasetMounts\") or has(\"userLabels\") | not" $j && [ "$(jq -r .aceName $j)" = "my \\ \"ace\"" ] &&
        eval "set -- $(jq -r .command $j | sed "s/^cd .* && exec//")" && [ "$3" = "$PWD/a \"b\" \\c/it'\''s.conf" ] && [ "$1" = /opt/ssmtools/share/ssmtools/slurm/bcp/run.sh ]'
else
    skip 'the fields of the JSON' 'no jq'
fi
bad() { { grep -v "^${1%% *} " site.conf; echo "$1"; } >bad.conf; says "$2" pretrain pretrain.conf --site bad.conf; }
ok 'a site.conf that will not do' '
    bad "bcp_priority = URGENT" "none of: LOW" && bad "bcp_order = 100" "1 to 99" && bad "bcp_preempt = yes" "none of" && bad "bcp_mount = here" "absolute" && bad "bcp_runtime = long" "no time" && bad "bcp_runtime = 1w" "no time" &&
    bad "bcp_datasets = 12" "not ID:/FOLDER" && bad "bcp_env = x" "NAME=VALUE" && sed /^bcp_ace/d site.conf >bad.conf && says "bcp_ace. is missing" pretrain pretrain.conf --site bad.conf && bad "ranks_per_node = 5" "not whole nodes of 5"'
conf() { { grep -v "^${1%% *} " pretrain.conf; echo "$1"; } >bad.conf; says "$2" pretrain bad.conf --site site.conf; }
ok 'what is not in the workspace is refused: work, input, tasks, the .conf, the folder' '
    conf "work = $tap_dir/elsewhere/w" "elsewhere/w. is not below" && conf "work = ../elsewhere/w" "is not below" && conf "input = text/*.txt $tap_dir/elsewhere/*.txt" "elsewhere/\*.txt. is not below" && conf "input = /data/other/x" "nor in a dataset" &&
    conf "tasks = $tap_dir/t.jsonl" "t.jsonl. is not" && conf "model = ../m.conf" "m.conf" && cp pretrain.conf ../elsewhere/ && says "elsewhere/pretrain.conf. is not" pretrain ../elsewhere/pretrain.conf --site site.conf &&
    sed "s|^work.*|work = $tap_dir/ssm/w|" pretrain.conf >abs.conf && cd ../elsewhere && says "elsewhere. is not below" pretrain ../ssm/abs.conf --site ../ssm/site.conf || says "is not below" pretrain "$tap_dir/ssm/abs.conf" --site ../ssm/site.conf'
printf 'work = w\ninit = %s/old\ninput = text/a.jsonl\ntemplate = chatml\nranks = 8\n' "$tap_dir" >tune.conf
printf 'work = w\ninit = old\nvalid = text/v\ndata = text/a@2 %s/set@1\nseq_len = 32\nranks = 8\n' "$tap_dir" >ext.conf
ok 'finetune and extend: theirs too' 'says "/old. is not below" finetune tune.conf --site site.conf && says "/set. is not below" extend ext.conf --site site.conf && sed "s| [^ ]*/set@1||" ext.conf >ext2.conf && bcp extend ext2.conf --site site.conf >../said && [ -s w/slurm/bcp/extend.json ]'
cd .. || exit 1

# ---- the job ----
cat >fake/bcprun <<'SH'
#!/bin/sh
# starts the ranks of --cmd here
echo "$NGC_ARRAY_TYPE bcprun $*" >>"$CALLS"
case ${DIES:-}$* in yes*ssmtrain*) exit 9 ;; esac
while [ $# -gt 0 ]; do
    case $1 in --nnodes) nodes=$2 ;; --npernode) each=$2 ;; --cmd) cmd=$2 ;; --workdir) cd "$2" ;; esac
    shift 2
done
eval "exec mpiexec -n $((nodes * each)) $cmd"
SH
cat >fake/mpirun <<'SH'
#!/bin/sh
# Open MPI's, or MPICH's where $HYDRA
[ "$1" != --version ] || { echo "${HYDRA:-Open MPI}"; exit 0; }
echo "mpirun $*" >>"$CALLS"
while [ "$1" != env ]; do shift; done
exec mpiexec -n 2 "$@"
SH
chmod +x fake/*
CALLS=$tap_dir/calls
export CALLS
with() { (PATH=$tap_dir/fake:$PATH; export PATH; exec timeout -k 5 100 "$@"); }
launch() { with "$SSM_TOP/slurm/bcp/launch.sh" "$@"; }
ok 'bcprun: nodes, ranks of a node, the command as one word' '
    : >calls && NGC_ARRAY_SIZE=2 SSM_RANKS_PER_NODE=1 launch -n 2 printf "%s|" "it'\''s a" b >out && grep -q "^MPIJob bcprun --nnodes 2 --npernode 1 --workdir $PWD --launcher mpirun --allow-run-as-root --cmd env OMP_NUM_THREADS=1 " calls && [ "$(cat out)" = "it'\''s a|b|it'\''s a|b|" ]'
ok 'GPUs of a node when nothing else is said; one node is enough for few ranks' '
    : >calls && NGC_ARRAY_SIZE=4 NGC_GPUS_PER_NODE=2 launch -n 2 true && grep -q "nnodes 1 --npernode 2" calls && : >calls && NGC_ARRAY_SIZE=4 NGC_GPUS_PER_NODE=8 launch -n 1 echo hi >out && [ ! -s calls ] && [ "$(cat out)" = hi ]'
ok 'ranks that do not fit' '
    must_exit 2 env NGC_ARRAY_SIZE=2 SSM_RANKS_PER_NODE=2 "$SSM_TOP/slurm/bcp/launch.sh" -n 3 true 2>err && grep -q "not whole nodes of 2" err && must_exit 2 env NGC_ARRAY_SIZE=2 SSM_RANKS_PER_NODE=2 "$SSM_TOP/slurm/bcp/launch.sh" -n 6 true 2>err && grep -q "need 3 nodes; the job has 2" err'
mv fake/bcprun fake/no-bcprun
ok 'without bcprun: mpirun, Open MPI and MPICH' '
    : >calls && NGC_ARRAY_SIZE=2 SSM_RANKS_PER_NODE=1 launch -n 2 true && grep -q "^mpirun --allow-run-as-root -np 2 -npernode 1 env OMP" calls &&
    : >calls && HYDRA="HYDRA build" NGC_ARRAY_SIZE=2 SSM_RANKS_PER_NODE=1 launch -n 2 true && grep -q "^mpirun -n 2 -ppn 1 env OMP" calls'
mv fake/no-bcprun fake/bcprun
tiny_text 300 >text.txt
tiny_model 'M-*' >tiny.conf
cat >job.conf <<CONF
work   = job
input  = text.txt
encode = --split para
valid  = 0.2
ranks  = 2
model  = ./tiny.conf
train  = --steps 6 --warmup 1 --batch 4 --seq-len 32 --lr 1e-3 --save-every 1
CONF
NGC_ARRAY_SIZE=2 SSM_RANKS_PER_NODE=1 NGC_JOB_ID=4711
export NGC_ARRAY_SIZE SSM_RANKS_PER_NODE NGC_JOB_ID
job() { with "$SSM_TOP/slurm/bcp/run.sh" "$@"; }
if command -v gnuplot >/dev/null; then
    ok 'the whole pipeline; again: nothing to do' '
        : >calls && job pretrain job.conf >out 2>log && [ -s job/report.html ] && grep -q "pretrain 4711: done" log && grep -q "bcprun --nnodes 2 --npernode 1 .*ssmtrain" calls && : >calls && job pretrain job.conf 2>log && [ ! -s calls ]'
else
    skip 'the whole pipeline' 'no gnuplot'
fi
ok 'after 75 it goes on by itself, until all is done' '
    sed "s/^work.*/work = stop/; s/--steps 6/& --stop-at 4/" job.conf >stop.conf && with "$SSM_TOP/pipelines/pretrain.sh" stop.conf data 2>log && { job pretrain stop.conf 2>log || [ ! -e report.html ]; } &&
    [ "$(grep -c "exit code 75; goes on" log)" -eq 2 ] && grep -qx "again 5" stop/run/inc-0002/state && grep -qx "done 6" stop/run/inc-0003/state && [ -s stop/scores.tsv ]'
ok 'without progress only so often, then 93' '
    sed "s/^work.*/work = dies/" job.conf >dies.conf && DIES=yes SSM_MAX_RETRIES=2 && export DIES SSM_MAX_RETRIES && must_exit 93 job pretrain dies.conf 2>log && [ "$(grep -c "exit code 9; goes on" log)" -eq 2 ] && grep -q "2 starts in a row without progress" log'
ok 'a mistake is not repeated; a node that is not the first leaves it to that one; usage' '
    sed "s/^work.*/work = bad/; s/--warmup 1/--no-such/" job.conf >bad.conf && must_exit 2 job pretrain bad.conf 2>log && [ "$(grep -c "ssmtrain -o" log)" -eq 1 ] && : >calls && NGC_ARRAY_INDEX=1 job pretrain job.conf 2>log && [ ! -s calls ] &&
    must_exit 2 job pretrain 2>log && must_exit 2 job sleep job.conf 2>log'
# until a process ends; after 20 seconds its training is stopped by hand
ends() {
    tries=0
    while kill -0 "$1" 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || { echo stop >long/run/control; kill -KILL "$1"; return 1; }
        sleep 0.1
    done
}
ok 'TERM: the training saves, 75, and the next job goes on' '
    sed "s/^work.*/work = long/; s/--steps 6/--steps 100000/; s/--save-every 1/--save-every 0/" job.conf >long.conf && { (PATH=$tap_dir/fake:$PATH; exec "$SSM_TOP/slurm/bcp/run.sh" pretrain long.conf) 2>log & pid=$!; }
    wait_for long/run/inc-0001/metrics.jsonl && kill -TERM $pid && ends $pid && must_exit 75 wait $pid && grep -q "^again " long/run/inc-0001/state && grep -q "told to end: exit code 75" log && [ ! -e long/run/control ] && ls -d long/run/inc-0001/step-*'
done_testing
