/* length.h - how long a run is, in steps, samples or tokens
 * SPDX-License-Identifier: MIT
 *
 * A sample is a sequence and counts as seq_len tokens, whatever is in it; a step takes as many samples as the
 * ramp says.
 */
#ifndef SSM_LENGTH_H
#define SSM_LENGTH_H

#include <stdint.h>

#include "ramp.h"

enum length_unit { LENGTH_STEPS, LENGTH_SAMPLES, LENGTH_TOKENS };

struct length {
    enum length_unit unit;
    int64_t n;          /* of the whole run, in that unit */
    int64_t seq_len;
    struct ramp ramp;   /* of the batch */
};

/* Where a run is after so many steps and samples, in the unit. Pure. */
int64_t length_position(const struct length *l, int64_t step, int64_t samples);
/* Steps to go from there, and (may be NULL) the samples that are taken then. Pure. */
int64_t length_steps_left(const struct length *l, int64_t step, int64_t samples, int64_t *end);
/* Samples of the whole run. Pure. */
int64_t length_samples(const struct length *l);

#endif
