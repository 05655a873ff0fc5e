#!/bin/sh
# 0300-dist.t - groups of ranks: alone, on as many ranks as cores, on more
# SPDX-License-Identifier: MIT
. "${0%/*}/../tap.sh"
prog=${SSM_TESTS:-$SSM_BIN/../tests}/mkdist
mpi="timeout 60 ${MPIEXEC:-mpiexec}"

ok 'alone, without MPI' '[ "$("$prog")" = "ok 1 ranks" ] && ! ldd "$prog" | grep -q "not found"'
for n in 1 2 3 5; do
    ok "$n ranks" "[ \"\$($mpi -n $n \"$prog\")\" = 'ok $n ranks' ]"
done
ok 'over TCP, 4 ranks' '[ "$(UCX_TLS=tcp,self UCX_NET_DEVICES=lo $mpi -n 4 "$prog")" = "ok 4 ranks" ]'
# Of the ways to end a job, Hydra makes another exit code of some once in hundreds of times, and swallows the line with others.
ok 'a rank that dies ends the others with its exit code and one line, four times' '
    for i in 1 2 3 4; do
        must_exit 93 $mpi -n 3 "$prog" die >out 2>err && [ ! -s out ] && [ "$(wc -l <err)" -eq 1 ] && grep -q "mkdist\[2@.*on purpose" err || {
            cat out err
            exit 1
        }
    done'
ok 'tasks of Slurm without MPI are refused' '
    must_exit 2 env SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=4 "$prog" 2>err && grep -q "srun --mpi" err'
done_testing
