/* length.c - how long a run is, in steps, samples or tokens
 * SPDX-License-Identifier: MIT
 */
#include "length.h"

int64_t length_position(const struct length *l, int64_t step, int64_t samples)
{
    const int64_t at[] = { step, samples, samples * l->seq_len };
    return at[l->unit];
}

int64_t length_steps_left(const struct length *l, int64_t step, int64_t samples, int64_t *end)
{
    int64_t n = samples, steps;
    if (l->unit == LENGTH_STEPS)
        steps = ramp_walk(&l->ramp, &n, INT64_MAX, l->n > step ? l->n - step : 0);
    else
        steps = ramp_walk(&l->ramp, &n, l->unit == LENGTH_SAMPLES ? l->n : (l->n - 1) / l->seq_len + 1,
                          INT64_MAX);
    if (end)
        *end = n;
    return steps;
}

int64_t length_samples(const struct length *l)
{
    int64_t n;
    length_steps_left(l, 0, 0, &n);
    return n;
}
