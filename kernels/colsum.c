/* colsum.c - sums of columns: the gradient of a bias
 * SPDX-License-Identifier: MIT
 *
 * The rows are cut into pieces; each piece is summed on its own, then the pieces in order.
 */
#include <string.h>

#include "cpu.h"

#define LEAST 32 /* rows of a piece, as in norm.c */

size_t cpu_colsum_work(const struct colsum *a)
{
    int64_t pieces = cpu_most_pieces(a->M, LEAST);

    return (size_t)(pieces * cpu_round(a->D)) * sizeof(float) + CPU_SLACK;
}

void cpu_colsum(const struct colsum *a)
{
    int64_t rows = cpu_piece(a->M, LEAST), pieces = cpu_ceil(a->M, rows), ld = cpu_round(a->D);
    float *part = cpu_scratch("colsum", a->work);

    CPU_NEED("colsum", a, x);
    CPU_NEED("colsum", a, y);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < pieces; p++) {
        float *sum = part + p * ld;

        memset(sum, 0, (size_t)a->D * sizeof(float));
        for (int64_t m = p * rows; m < cpu_min(a->M, (p + 1) * rows); m++) {
            const float *x = cpu_row(&a->x, m);

#pragma omp simd
            for (int64_t c = 0; c < a->D; c++)
                sum[c] += x[c];
        }
    }
    cpu_add_parts(pieces, a->D, part, ld, a->y.data);
}
