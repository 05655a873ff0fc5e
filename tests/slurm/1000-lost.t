#!/bin/sh
# 1000-lost.t - what a training loses ranks, nodes and checkpoints to, under Slurm
# SPDX-License-Identifier: MIT
nodes=3
. "${0%/*}/slurm.sh"
project rank 4 --steps 400
undisturbed 4 --steps 400

scenario 'a rank is killed: the job ends on all nodes within seconds, is requeued, and ends with the same bits' '
    train rank && hold_at rank 120 n2 && kill -KILL $held && poll 10 no_ranks &&
    completed && restarted 1 && resumed rank 1 && same rank ref-4'
scenario 'the newest checkpoint is cut short: the one before is taken, with a warning' '
    project cut 4 --steps 400 && train cut && hold_at cut 170 n1 && kill -KILL $held && poll 10 no_ranks &&
    newest=$(ls -d cut/run/inc-*/step-*/index.h5 | tail -n 1) && truncate -s -100 "${newest%/*}"/part-00002* &&
    completed && grep -q "passed over.*part-00002" cut/slurm/*.out && resumed cut 1 &&
    [ "$(first_step cut 2)" -lt "$(basename "${newest%/*}" | sed "s/step-0*//")" ] && same cut ref-4'
scenario 'a node loses power, that of the batch script: requeued on the others' '
    project power 4 --steps 400 && train power && hold_at power 120 n1 && $lab kill-node n1 && $lab down-node n1 &&
    completed && restarted 1 && resumed power 1 && same power ref-4 && [ "$(state NodeList)" = "n[2-3]" ]'
$lab start-node n1
# Whether mpiexec ends with 0 or 255 then is chance; this one always says 0. Slurm hears of the node as late as it would by
# itself: a job that is begun on a node again before its credential of the last time has expired (cred_expire) is failed by Slurm.
mkdir bin && printf '#!/bin/sh\n%s "$@" || :\n' "$(command -v mpiexec)" >bin/mpiexec && chmod +x bin/mpiexec
scenario 'mpiexec, which may end with 0 when a node is lost, is not believed' '
    project hydra 4 --steps 400 && echo "launcher = mpiexec" >>hydra.site && (PATH=$PWD/bin:$PATH && train hydra && echo $job >job) && read -r job <job &&
    hold_at hydra 120 n2 && $lab kill-node n2 && poll 60 restarted 1 && sleep 7 && $lab down-node n2 && completed && resumed hydra 1 && same hydra ref-4'
done_testing
