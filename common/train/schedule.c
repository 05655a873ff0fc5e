/* schedule.c - the learning rate as a pure function of the step
 * SPDX-License-Identifier: MIT
 */
#include "schedule.h"

#include <math.h>

double schedule_rate(const struct schedule *s, int64_t step)
{
    if (step <= s->warmup)
        return s->peak * (double)step / (double)s->warmup;
    if (s->kind == SCHEDULE_CONSTANT)
        return s->peak;
    if (step >= s->steps)
        return s->floor;
    double x = (double)(step - s->warmup) / (double)(s->steps - s->warmup);
    double down = s->kind == SCHEDULE_LINEAR ? 1 - x : 0.5 * (1 + cos(3.141592653589793 * x));
    return s->floor + (s->peak - s->floor) * down;
}
