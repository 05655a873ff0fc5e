/* embed.c - token embedding: a row of the table per token
 * SPDX-License-Identifier: MIT
 *
 * The backward pass owns columns, not rows: each piece of columns walks all tokens in order, so that
 * a token that occurs twice is added twice in a fixed order without locks.
 */
#include <string.h>

#include "cpu.h"

static float scale_of(const struct embed *a) { return a->scale == 0 ? 1.0f : (float)a->scale; }

static void check_ids(const struct embed *a, const char *op)
{
    if (!a->ids)
        cpu_fault(op, "ids", "is absent");
    for (int64_t m = 0; m < a->M; m++)
        if (a->ids[m] < 0 || a->ids[m] >= a->V)
            cpu_fault(op, "ids", "holds an id outside the table");
}

void cpu_embed_fwd(const struct embed *a)
{
    float scale = scale_of(a);

    CPU_NEED("embed_fwd", a, table);
    CPU_NEED("embed_fwd", a, y);
    check_ids(a, "embed_fwd");
#pragma omp parallel for schedule(static)
    for (int64_t m = 0; m < a->M; m++) {
        const float *from = cpu_row(&a->table, a->ids[m]);
        float *y = cpu_row(&a->y, m);

        if (scale == 1.0f) {
            memcpy(y, from, (size_t)a->D * sizeof(float));
            continue;
        }
#pragma omp simd
        for (int64_t c = 0; c < a->D; c++)
            y[c] = scale * from[c];
    }
}

size_t cpu_embed_work(const struct embed *a)
{
    (void)a;
    return 0;
}

void cpu_embed_bwd(const struct embed *a)
{
    float scale = scale_of(a);

    CPU_NEED("embed_bwd", a, dy);
    CPU_NEED("embed_bwd", a, dtable);
    check_ids(a, "embed_bwd");
#pragma omp parallel for schedule(static)
    for (int64_t c0 = 0; c0 < a->D; c0 += 64) {
        int64_t c1 = cpu_min(a->D, c0 + 64);

        for (int64_t m = 0; m < a->M; m++) {
            const float *dy = cpu_row(&a->dy, m);
            float *d = cpu_row(&a->dtable, a->ids[m]);

#pragma omp simd
            for (int64_t c = c0; c < c1; c++)
                d[c] += scale * dy[c]; /* a product with 1 is exact */
        }
    }
}
