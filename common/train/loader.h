/* loader.h - batches of this rank, read ahead by a thread
 * SPDX-License-Identifier: MIT
 *
 * The thread owns its sets of shards and fills the batch of the next step while the current one is computed.
 */
#ifndef SSM_LOADER_H
#define SSM_LOADER_H

#include <stdbool.h>
#include <stdint.h>

#include "order.h"
#include "ramp.h"

struct loaded {
    int64_t rows, T;                /* rows: of this step, growing with the batch */
    int32_t *ids, *targets, *start; /* [rows,T] as struct batch of model/net.h wants them */
    bool *carries;                  /* [rows] */
    int64_t n_targets;              /* scored tokens of these rows, may be 0 */
    int64_t n;                      /* samples taken before this step */
    int64_t batch;                  /* rows of all ranks in this step */
};

struct loader;
/* Reads rows [first, first+rows) of the full batch of `ramp`, and as large a share of a smaller one, starting with sample
 * n. `dirs`, `o` and `ramp` must outlive it. Dies when a set cannot be opened. */
struct loader *loader_create(const struct order *o, const char *const *dirs, int64_t first, int64_t rows,
                             const struct ramp *ramp, int64_t n);
/* The next step's rows; valid until the next call. Dies with the reader's reason. wait: seconds spent
 * waiting for data are added to it. */
const struct loaded *loader_next(struct loader *l, double *wait);
void loader_free(struct loader *l);

#endif
