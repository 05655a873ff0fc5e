/* ramp.h - the batch as a pure function of the samples taken
 * SPDX-License-Identifier: MIT
 *
 * A batch that grows at the begin of a run, as Megatron-LM's --rampup-batch-size: after n samples it is
 *   start + increment floor(n k / samples), k = (full - start) / increment, and `full` from n = samples on.
 * Which tokens a sample is does not depend on it (order.h): a ramp changes where steps end, not what is read.
 */
#ifndef SSM_RAMP_H
#define SSM_RAMP_H

#include <stdint.h>

struct ramp {
    int64_t full;               /* sequences of a step in the end */
    int64_t start, increment;   /* increment divides full - start */
    int64_t samples;            /* the full batch is reached after so many; 0: no ramp */
};

/* "START,INCREMENT,SAMPLES" for a ramp to r->full. 0, or -1 with err_last(). */
int ramp_try_parse(struct ramp *r, const char *text) __attribute__((warn_unused_result));
/* Sequences of the step that begins after n samples. Pure. */
int64_t ramp_batch(const struct ramp *r, int64_t n);
/* Steps from *n samples on, until at least `end` samples or `most` steps are taken; *n becomes the samples then. Pure. */
int64_t ramp_walk(const struct ramp *r, int64_t *n, int64_t end, int64_t most);

#endif
