/* threads.c - how many threads this process computes with
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "threads.h"

#include <omp.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

int threads_set(int asked, int local_ranks)
{
    if (asked < 1 && getenv("OMP_NUM_THREADS"))
        return omp_get_max_threads();
    if (asked < 1) {
        cpu_set_t mine;
        long all = sysconf(_SC_NPROCESSORS_ONLN);
        int may = sched_getaffinity(0, sizeof mine, &mine) == 0 ? CPU_COUNT(&mine) : (int)all;
        /* A launcher that binds gives each rank its own cores; one that does not lets all have all. */
        asked = may < all ? may : may / local_ranks;
        if (asked < 1)
            asked = 1;
    }
    omp_set_num_threads(asked);
    return asked;
}
