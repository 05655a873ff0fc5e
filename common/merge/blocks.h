/* blocks.h - a tensor of a checkpoint, a block of rows at a time
 * SPDX-License-Identifier: MIT
 *
 *   for (struct block b = block_begin(t, 0, t->shape[0]); block_next(&b);)
 *       block_read(c, t, &b, data);
 */
#ifndef SSM_BLOCKS_H
#define SSM_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/io/ckpt.h"

enum { BLOCK = 2 << 20 }; /* elements in memory at once, or one row where that is longer */

struct block {
    int64_t offset[CKPT_MAX_DIM], count[CKPT_MAX_DIM];
    int64_t end;   /* rows of the walk end here */
    int64_t width; /* elements a row */
};

/* A walk over the rows [first, end) of a tensor, and its next block; false behind the last one. */
struct block block_begin(const struct ckpt_tensor *t, int64_t first, int64_t end);
bool block_next(struct block *b);
static inline int64_t block_elements(const struct block *b) { return b->count[0] * b->width; }

/* Room for any block of any tensor of a checkpoint, `size` bytes an element. Free it. */
void *block_buffer(const struct ckpt *c, size_t size);
/* The values of a block. Dies when they cannot be read. */
void block_read(struct ckpt *c, const struct ckpt_tensor *t, const struct block *b, float *data);

/* Belongs to the model, and neither to the optimizer nor to the run's state. */
bool is_model_tensor(const struct ckpt_tensor *t);
/* As many dimensions, as long. */
bool same_shape(const struct ckpt_tensor *a, const struct ckpt_tensor *b);

#endif
