/* pace.h - which rank is the slowest
 * SPDX-License-Identifier: MIT
 *
 * All ranks leave a step together, so its time says nothing of any of them. Each counts what it needs for itself: the
 * seconds of its own computing, and those for which its loader lets it wait.
 */
#ifndef SSM_PACE_H
#define SSM_PACE_H

#include <stdint.h>

#include "common/dist/comm.h"

struct pace { /* zero-initialise; this rank's, since it was last told */
    int64_t steps;
    double compute, wait;       /* seconds, sums */
};

struct slowest { /* by both together; the first of equals */
    int64_t steps;              /* that this is the mean of */
    int rank;
    char host[64];
    double compute, wait;       /* its seconds a step */
    double mean_compute, mean_wait; /* of all ranks */
};

void pace_add(struct pace *p, double compute, double wait);
/* Collective, after the same steps. Begins anew. */
struct slowest pace_slowest(struct pace *p, struct comm *comm);

#endif
