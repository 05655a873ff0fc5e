/* norm.c - root mean square normalisation
 * SPDX-License-Identifier: MIT
 *
 * y = w x r,  r = (mean(x^2) + eps)^(-1/2)          (Zhang & Sennrich 2019, eq. 4)
 * With v = w dy:  dx = r v - x r^3 mean(v x),  dw = sum over rows of dy x r.
 * The rows are cut into pieces; dw is summed per piece, then over the pieces in order.
 */
#include <math.h>
#include <string.h>

#include "cpu.h"

#define LEAST 32 /* rows of a piece: fewer make the sums over pieces costly */

size_t cpu_norm_work(const struct norm *a)
{
    int64_t pieces = cpu_ceil(a->M, cpu_piece(a->M, LEAST));

    return (size_t)(pieces * cpu_round(a->D)) * sizeof(float) + CPU_SLACK;
}

void cpu_norm_fwd(const struct norm *a)
{
    const float *w = a->w.data;

    CPU_NEED("norm_fwd", a, x);
    CPU_NEED("norm_fwd", a, w);
    CPU_NEED("norm_fwd", a, y);
    if (!a->rstd)
        cpu_fault("norm_fwd", "rstd", "is absent");
#pragma omp parallel for schedule(static)
    for (int64_t m = 0; m < a->M; m++) {
        const float *x = cpu_row(&a->x, m);
        float *y = cpu_row(&a->y, m), sum = 0, r;

#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < a->D; c++)
            sum += x[c] * x[c];
        r = (float)(1.0 / sqrt((double)sum / (double)a->D + a->eps));
        a->rstd[m] = r;
#pragma omp simd
        for (int64_t c = 0; c < a->D; c++)
            y[c] = w[c] * (x[c] * r);
    }
}

static void bwd_row(const struct norm *a, int64_t m, float *dw)
{
    const float *x = cpu_row(&a->x, m), *dy = cpu_row(&a->dy, m), *w = a->w.data;
    float *dx = cpu_row(&a->dx, m), r = a->rstd[m], dot = 0, k;
    int64_t D = a->D;

#pragma omp simd reduction(+ : dot)
    for (int64_t c = 0; c < D; c++)
        dot += w[c] * dy[c] * x[c];
    k = dot * r * r * r / (float)D;
    if (a->accumulate_dx) {
#pragma omp simd
        for (int64_t c = 0; c < D; c++) {
            dw[c] += dy[c] * (x[c] * r);
            dx[c] += r * w[c] * dy[c] - k * x[c];
        }
    } else {
#pragma omp simd
        for (int64_t c = 0; c < D; c++) {
            float g = dy[c];

            dw[c] += g * (x[c] * r);
            dx[c] = r * w[c] * g - k * x[c];
        }
    }
}

void cpu_norm_bwd(const struct norm *a)
{
    int64_t rows = cpu_piece(a->M, LEAST), pieces = cpu_ceil(a->M, rows), ld = cpu_round(a->D);
    float *part = cpu_scratch("norm_bwd", a->work);

    CPU_NEED("norm_bwd", a, x);
    CPU_NEED("norm_bwd", a, w);
    CPU_NEED("norm_bwd", a, dy);
    CPU_NEED("norm_bwd", a, dx);
    CPU_NEED("norm_bwd", a, dw);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < pieces; p++) {
        memset(part + p * ld, 0, (size_t)a->D * sizeof(float));
        for (int64_t m = p * rows; m < cpu_min(a->M, (p + 1) * rows); m++)
            bwd_row(a, m, part + p * ld);
    }
    cpu_add_parts(pieces, a->D, part, ld, a->dw.data);
}
