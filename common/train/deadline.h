/* deadline.h - the end of the job's time, and what still fits before it
 * SPDX-License-Identifier: MIT
 *
 * Only rank 0's clock counts.
 */
#ifndef SSM_DEADLINE_H
#define SSM_DEADLINE_H

#include <stdbool.h>

struct deadline {
    double at;          /* when the job ends, by now_seconds(); INFINITY: it does not */
    double step, save;  /* seconds of the slowest step and checkpoint so far, or what these may take */
    double look;        /* of the slowest look at the held-out sets */
};

/* The job ends so many seconds from now (0: no limit), or when Slurm says (SLURM_JOB_END_TIME, seconds since
 * 1970), whichever comes first. */
struct deadline deadline_of_job(double seconds);
/* True when another step, the look after it when one is due, and the checkpoint after that, may not fit in any more. */
bool deadline_is_near(const struct deadline *d, bool look_is_due);

#endif
