/* deadline.c - the end of the job's time, and what still fits before it
 * SPDX-License-Identifier: MIT
 */
#include "deadline.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "common/base/meter.h"
#include "common/base/opt.h"

struct deadline deadline_of_job(double seconds)
{
    double now = now_seconds();
    struct deadline d = { .at = seconds > 0 ? now + seconds : INFINITY };
    const char *slurm = getenv("SLURM_JOB_END_TIME");
    int64_t at;
    if (slurm && *slurm && parse_int(slurm, &at) == 0)
        d.at = fmin(d.at, now + (double)(at - (int64_t)time(NULL)));
    return d;
}

bool deadline_is_near(const struct deadline *d, bool look_is_due)
{
    return now_seconds() + 2 * d->step + 2 * d->save + (look_is_due ? 2 * d->look : 0) >= d->at;
}
