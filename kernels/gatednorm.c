/* gatednorm.c - gated grouped RMSNorm of Mamba-2
 * SPDX-License-Identifier: MIT
 *
 * u = x silu(z);  y = w u r,  r = (mean over the group of u^2 + eps)^(-1/2)
 * With v = w dy:  du = r v - u r^3 mean(v u);  dx = du silu(z);
 * dz = du x silu'(z),  silu'(z) = s + z s (1-s), s = sigmoid(z);  dw = sum over rows of dy u r.
 * The outputs' rows hold u (forward) and s (backward) between the two passes over a group.
 */
#include <string.h>

#include "cpu.h"
#include "vmath.h"

#define LEAST 32 /* rows of a piece, as in norm.c */

size_t cpu_gatednorm_work(const struct gatednorm *a)
{
    int64_t pieces = cpu_most_pieces(a->M, LEAST);

    return (size_t)(pieces * cpu_round(a->D)) * sizeof(float) + CPU_SLACK;
}

static void check(const struct gatednorm *a, const char *op)
{
    CPU_NEED(op, a, x);
    CPU_NEED(op, a, z);
    CPU_NEED(op, a, w);
    if (!a->rstd)
        cpu_fault(op, "rstd", "is absent");
    if (a->G < 1 || a->D % a->G)
        cpu_fault(op, "G", "does not divide D");
}

void cpu_gatednorm_fwd(const struct gatednorm *a)
{
    int64_t n = a->G > 0 ? a->D / a->G : 0;

    check(a, "gatednorm_fwd");
    CPU_NEED("gatednorm_fwd", a, y);
#pragma omp parallel for schedule(static)
    for (int64_t m = 0; m < a->M; m++)
        for (int64_t g = 0; g < a->G; g++) {
            const float *x = cpu_row(&a->x, m) + g * n, *z = cpu_row(&a->z, m) + g * n;
            const float *w = (const float *)a->w.data + g * n;
            float *y = cpu_row(&a->y, m) + g * n, sum = 0, r;

#pragma omp simd reduction(+ : sum)
            for (int64_t c = 0; c < n; c++) {
                float u = x[c] * (z[c] * vmath_sigmoid(z[c]));

                y[c] = u;
                sum += u * u;
            }
            r = (float)(1.0 / sqrt((double)sum / (double)n + a->eps));
            a->rstd[m * a->G + g] = r;
#pragma omp simd
            for (int64_t c = 0; c < n; c++)
                y[c] = w[c] * (y[c] * r);
        }
}

/* One group of one row: all pointers stand at its first channel. */
static void bwd_group(const struct gatednorm *a, int64_t m, int64_t g, float *dw)
{
    int64_t n = a->D / a->G, c0 = g * n;
    const float *x = cpu_row(&a->x, m) + c0, *z = cpu_row(&a->z, m) + c0;
    const float *dy = cpu_row(&a->dy, m) + c0, *w = (const float *)a->w.data + c0;
    float *dx = cpu_row(&a->dx, m) + c0, *dz = cpu_row(&a->dz, m) + c0;
    float r = a->rstd[m * a->G + g], dot = 0, k;

#pragma omp simd reduction(+ : dot)
    for (int64_t c = 0; c < n; c++) {
        float s = vmath_sigmoid(z[c]);

        dx[c] = s;
        dot += w[c] * dy[c] * (x[c] * (z[c] * s));
    }
    k = dot * r * r * r / (float)n;
#pragma omp simd
    for (int64_t c = 0; c < n; c++) {
        float s = dx[c], silu = z[c] * s, u = x[c] * silu;
        float du = r * w[c] * dy[c] - k * u;

        dw[c] += dy[c] * (u * r);
        dx[c] = du * silu;
        dz[c] = du * x[c] * (s + silu * (1.0f - s));
    }
}

void cpu_gatednorm_bwd(const struct gatednorm *a)
{
    int64_t rows = cpu_piece(a->M, LEAST), pieces = cpu_ceil(a->M, rows), ld = cpu_round(a->D);
    float *part = cpu_scratch("gatednorm_bwd", a->work);

    check(a, "gatednorm_bwd");
    CPU_NEED("gatednorm_bwd", a, dy);
    CPU_NEED("gatednorm_bwd", a, dx);
    CPU_NEED("gatednorm_bwd", a, dz);
    CPU_NEED("gatednorm_bwd", a, dw);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < pieces; p++) {
        memset(part + p * ld, 0, (size_t)a->D * sizeof(float));
        for (int64_t m = p * rows; m < cpu_min(a->M, (p + 1) * rows); m++)
            for (int64_t g = 0; g < a->G; g++)
                bwd_group(a, m, g, part + p * ld + g * (a->D / a->G));
    }
    cpu_add_parts(pieces, a->D, part, ld, a->dw.data);
}
