/* schedule.h - the learning rate as a pure function of the step
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_SCHEDULE_H
#define SSM_SCHEDULE_H

#include <stdint.h>

enum schedule_kind { SCHEDULE_COSINE, SCHEDULE_LINEAR, SCHEDULE_CONSTANT };

struct schedule {
    int kind;               /* enum schedule_kind */
    double peak, floor;     /* learning rates */
    int64_t warmup, steps;  /* linear from 0 over `warmup` steps; the floor is reached at `steps` */
};

/* Rate of step 1, 2, ... `steps`. Pure. */
double schedule_rate(const struct schedule *s, int64_t step);

#endif
