/* blocks.c - a tensor of a checkpoint, a block of rows at a time
 * SPDX-License-Identifier: MIT
 */
#include "blocks.h"

#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"

struct block block_begin(const struct ckpt_tensor *t, int64_t first, int64_t end)
{
    struct block b = { .end = end, .width = ckpt_elements(t->ndim, t->shape) / t->shape[0] };
    memcpy(b.count, t->shape, sizeof b.count);
    b.offset[0] = first;
    b.count[0] = 0;
    return b;
}

bool block_next(struct block *b)
{
    int64_t rows = b->width < BLOCK ? BLOCK / b->width : 1;
    b->offset[0] += b->count[0];
    b->count[0] = b->end - b->offset[0] < rows ? b->end - b->offset[0] : rows;
    return b->count[0] > 0;
}

void *block_buffer(const struct ckpt *c, size_t size)
{
    int64_t most = BLOCK;
    for (int i = 0; i < ckpt_tensors(c); i++) {
        const struct ckpt_tensor *t = ckpt_tensor(c, i);
        int64_t width = ckpt_elements(t->ndim, t->shape) / t->shape[0];
        most = width > most ? width : most;
    }
    return xmalloc(mul_size((size_t)most, size, "block of rows"));
}

void block_read(struct ckpt *c, const struct ckpt_tensor *t, const struct block *b, float *data)
{
    if (ckpt_try_read(c, t->name, b->offset, b->count, data) < 0)
        die("%s", err_last());
}

bool is_model_tensor(const struct ckpt_tensor *t) { return strncmp(t->name, "model/", 6) == 0; }

bool same_shape(const struct ckpt_tensor *a, const struct ckpt_tensor *b)
{
    return a->ndim == b->ndim && memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof *a->shape) == 0;
}
