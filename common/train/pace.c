/* pace.c - which rank is the slowest
 * SPDX-License-Identifier: MIT
 */
#include "pace.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/mem.h"

void pace_add(struct pace *p, double compute, double wait)
{
    p->steps++;
    p->compute += compute;
    p->wait += wait;
}

struct slowest pace_slowest(struct pace *p, struct comm *comm)
{
    double steps = p->steps > 0 ? (double)p->steps : 1;
    struct slowest mine = { .steps = p->steps,
                            .rank = comm->rank,
                            .compute = p->compute / steps,
                            .wait = p->wait / steps };
    snprintf(mine.host, sizeof mine.host, "?");
    gethostname(mine.host, sizeof mine.host - 1);
    struct slowest *all = xcalloc((size_t)comm->size, sizeof *all), *worst = all;
    comm_all_gather(comm, &mine, sizeof mine, all);
    double compute = 0, wait = 0;
    for (struct slowest *s = all; s < all + comm->size; s++) {
        compute += s->compute / comm->size;
        wait += s->wait / comm->size;
        if (s->compute + s->wait > worst->compute + worst->wait)
            worst = s;
    }
    struct slowest found = *worst;
    found.mean_compute = compute;
    found.mean_wait = wait;
    free(all);
    *p = (struct pace){ 0 };
    return found;
}
