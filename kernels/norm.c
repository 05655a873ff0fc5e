/* norm.c - RMSNorm and LayerNorm
 * SPDX-License-Identifier: MIT
 *
 * y = w h + bias,  h = (x - mean) r,  r = (mean((x - mean)^2) + eps)^(-1/2);  RMSNorm: mean = 0
 * (Zhang & Sennrich 2019, eq. 4; Ba et al. 2016, eq. 4). With v = w dy:
 *   dx = r (v - mean(v) - h mean(v h)), RMSNorm without mean(v);  dw = sum over rows of dy h;  dbias = that of dy.
 * LayerNorm reads a row thrice: its mean, the deviations from it, y. A mean in float is off by its rounding,
 * which where mean >> deviation would shift the whole row; so t = x - mean (exact there, as x is near mean) is
 * centered once more: h = (t - mean(t)) r, mean((x - mean)^2) = mean(t^2) - mean(t)^2, and in this difference
 * nothing cancels, since mean(t) is but a rounding error.
 * The rows are cut into pieces; dw and dbias are summed per piece, then over the pieces in order.
 */
#include <math.h>
#include <string.h>

#include "cpu.h"

#define LEAST 32 /* rows of a piece: fewer make the sums over pieces costly */

#define INLINE static inline __attribute__((always_inline)) /* its bools are constants in every loop */

/* With room for dbias whether it is there or not: a caller may ask before it knows its gradients. */
size_t cpu_norm_work(const struct norm *a)
{
    int64_t pieces = cpu_most_pieces(a->M, LEAST);

    return (size_t)(2 * pieces * cpu_round(a->D)) * sizeof(float) + CPU_SLACK;
}

static void check(const struct norm *a, const char *op)
{
    CPU_NEED(op, a, x);
    CPU_NEED(op, a, w);
    if (!a->rstd)
        cpu_fault(op, "rstd", "is absent");
    if (a->center && !a->mean)
        cpu_fault(op, "mean", "is absent");
}

INLINE void fwd_row(const struct norm *a, int64_t m, const bool center, const bool plus_one,
                    const bool biased)
{
    const float *x = cpu_row(&a->x, m), *w = a->w.data, *bias = a->bias.data;
    float *y = cpu_row(&a->y, m), sum = 0, mean = 0, rest = 0, r;
    int64_t D = a->D;
    double var;

    if (center) {
        float squares = 0, t_sum = 0;

#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < D; c++)
            sum += x[c];
        mean = sum / (float)D;
#pragma omp simd reduction(+ : squares, t_sum)
        for (int64_t c = 0; c < D; c++) {
            float t = x[c] - mean;

            t_sum += t;
            squares += t * t;
        }
        rest = t_sum / (float)D;
        a->mean[m] = mean + rest;
        var = (double)squares / (double)D - (double)rest * (double)rest;
        var = var < 0 ? 0 : var; /* equal channels; a NaN stays */
    } else {
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < D; c++)
            sum += x[c] * x[c];
        var = (double)sum / (double)D;
    }
    r = (float)(1.0 / sqrt(var + a->eps));
    a->rstd[m] = r;
#pragma omp simd
    for (int64_t c = 0; c < D; c++) {
        float h = center ? (x[c] - mean - rest) * r : x[c] * r;
        float g = (plus_one ? w[c] + 1.0f : w[c]) * h;

        y[c] = biased ? g + bias[c] : g;
    }
}

void cpu_norm_fwd(const struct norm *a)
{
    bool center = a->center, plus_one = a->plus_one, biased = a->bias.data != NULL;

    check(a, "norm_fwd");
    CPU_NEED("norm_fwd", a, y);
    CPU_ALLOW("norm_fwd", a, bias);
#pragma omp parallel for schedule(static)
    for (int64_t m = 0; m < a->M; m++) {
        if (!center && !plus_one && !biased)
            fwd_row(a, m, false, false, false);
        else if (!center && !plus_one)
            fwd_row(a, m, false, false, true);
        else if (!center && !biased)
            fwd_row(a, m, false, true, false);
        else if (!center)
            fwd_row(a, m, false, true, true);
        else if (!plus_one && !biased)
            fwd_row(a, m, true, false, false);
        else if (!plus_one)
            fwd_row(a, m, true, false, true);
        else if (!biased)
            fwd_row(a, m, true, true, false);
        else
            fwd_row(a, m, true, true, true);
    }
}

/* The gradients of a row, all from one reading of dy: dx may be dy. */
INLINE void bwd_row(const struct norm *a, int64_t m, float *dw, const bool center, const bool plus_one,
                    const bool accumulate)
{
    const float *x = cpu_row(&a->x, m), *dy = cpu_row(&a->dy, m), *w = a->w.data;
    float *dx = cpu_row(&a->dx, m), r = a->rstd[m], dot = 0;
    int64_t D = a->D;

    if (center) {
        float mean = a->mean[m], t_sum = 0, v_sum = 0, rest, shift, k;

#pragma omp simd reduction(+ : dot, t_sum, v_sum)
        for (int64_t c = 0; c < D; c++) {
            float v = (plus_one ? w[c] + 1.0f : w[c]) * dy[c], t = x[c] - mean;

            t_sum += t;
            v_sum += v;
            dot += v * t;
        }
        rest = t_sum / (float)D;
        shift = v_sum / (float)D;
        k = (dot - rest * v_sum) * r / (float)D;
#pragma omp simd
        for (int64_t c = 0; c < D; c++) {
            float g = dy[c], h = (x[c] - mean - rest) * r, d;

            dw[c] += g * h;
            d = r * ((plus_one ? w[c] + 1.0f : w[c]) * g - shift - k * h);
            dx[c] = accumulate ? dx[c] + d : d;
        }
    } else {
        float k;

#pragma omp simd reduction(+ : dot)
        for (int64_t c = 0; c < D; c++)
            dot += (plus_one ? w[c] + 1.0f : w[c]) * dy[c] * x[c];
        k = dot * r * r * r / (float)D;
#pragma omp simd
        for (int64_t c = 0; c < D; c++) {
            float g = dy[c], d;

            dw[c] += g * (x[c] * r);
            d = r * (plus_one ? w[c] + 1.0f : w[c]) * g - k * x[c];
            dx[c] = accumulate ? dx[c] + d : d;
        }
    }
}

/* Rows m0 <= m < m1 */
INLINE void bwd_rows(const struct norm *a, int64_t m0, int64_t m1, float *dw, float *dbias, const bool center,
                     const bool plus_one, const bool accumulate)
{
    for (int64_t m = m0; m < m1; m++) {
        const float *dy = cpu_row(&a->dy, m);

        if (dbias)
#pragma omp simd
            for (int64_t c = 0; c < a->D; c++)
                dbias[c] += dy[c];
        bwd_row(a, m, dw, center, plus_one, accumulate); /* last: dx may be dy */
    }
}

static void bwd_piece(const struct norm *a, int64_t m0, int64_t m1, float *dw, float *dbias)
{
    memset(dw, 0, (size_t)a->D * sizeof(float));
    if (dbias)
        memset(dbias, 0, (size_t)a->D * sizeof(float));
    if (!a->center && !a->plus_one && a->accumulate_dx)
        bwd_rows(a, m0, m1, dw, dbias, false, false, true);
    else if (!a->center && !a->plus_one)
        bwd_rows(a, m0, m1, dw, dbias, false, false, false);
    else if (!a->center && a->accumulate_dx)
        bwd_rows(a, m0, m1, dw, dbias, false, true, true);
    else if (!a->center)
        bwd_rows(a, m0, m1, dw, dbias, false, true, false);
    else if (!a->plus_one && a->accumulate_dx)
        bwd_rows(a, m0, m1, dw, dbias, true, false, true);
    else if (!a->plus_one)
        bwd_rows(a, m0, m1, dw, dbias, true, false, false);
    else if (a->accumulate_dx)
        bwd_rows(a, m0, m1, dw, dbias, true, true, true);
    else
        bwd_rows(a, m0, m1, dw, dbias, true, true, false);
}

void cpu_norm_bwd(const struct norm *a)
{
    int64_t rows = cpu_piece(a->M, LEAST), pieces = cpu_ceil(a->M, rows), ld = cpu_round(a->D);
    float *part = cpu_scratch("norm_bwd", a->work), *part_bias = part + pieces * ld;
    bool biased = a->dbias.data != NULL;

    check(a, "norm_bwd");
    CPU_NEED("norm_bwd", a, dy);
    CPU_NEED("norm_bwd", a, dx);
    CPU_NEED("norm_bwd", a, dw);
    CPU_ALLOW("norm_bwd", a, dbias);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < pieces; p++)
        bwd_piece(a, p * rows, cpu_min(a->M, (p + 1) * rows), part + p * ld,
                  biased ? part_bias + p * ld : NULL);
    cpu_add_parts(pieces, a->D, part, ld, a->dw.data);
    if (biased)
        cpu_add_parts(pieces, a->D, part_bias, ld, a->dbias.data);
}
