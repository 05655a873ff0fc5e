/* adamw.c - the end of a step: sums of losses and squares, the verdict on them, the AdamW update
 * SPDX-License-Identifier: MIT
 *
 *   g = grad gscale;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
 *   p = p - lr ( (m/(1-b1^step)) / (sqrt(v/(1-b2^step)) + eps) + decay p )
 *   ema = ema + (1-ema_decay) (p - ema)
 * (Loshchilov & Hutter 2019, alg. 2.) The scalars are made in double, once.
 */
#include <math.h>

#include "cpu.h"
#include "judge.h"

#define BLOCK 4096 /* elements that one thread takes at a time: 16 KiB of each array */

static int what_of(const struct adamw *a, int64_t i)
{
    return a->mask ? a->mask[i / 16] : ADAMW_UPDATE | ADAMW_DECAY;
}

/* The end of the run of elements from i0 + k on that are treated alike, counted from i0, at most n. */
static int64_t run_end(const struct adamw *a, int64_t i0, int64_t k, int64_t n)
{
    int64_t end = k;

    if (!a->mask)
        return n;
    while (end < n && a->mask[(i0 + end) / 16] == a->mask[(i0 + k) / 16])
        end += 16;
    return cpu_min(end, n);
}

void cpu_adamw(const struct adamw *a)
{
    float b1 = (float)a->beta1, c1 = (float)(1.0 - a->beta1);
    float b2 = (float)a->beta2, c2 = (float)(1.0 - a->beta2);
    float lr_m = (float)(a->lr / (1.0 - pow(a->beta1, (double)a->step)));
    float scale_v = (float)(1.0 / (1.0 - pow(a->beta2, (double)a->step)));
    float lr_p = (float)(a->lr * a->decay);
    float eps = (float)a->eps, gscale = a->gscale ? *a->gscale : 1, c_ema = (float)(1.0 - a->ema_decay);

    if (a->step < 1)
        cpu_fault("adamw", "step", "is less than 1");
    if (a->half)
        cpu_fault("adamw", "half", "is given, and the CPU serves F32 only");
    if (gscale == 0)
        return;
#pragma omp parallel
    {
        unsigned mode = cpu_flush_begin();

#pragma omp for schedule(static)
        for (int64_t i0 = 0; i0 < a->n; i0 += BLOCK) {
            int64_t n = cpu_min(BLOCK, a->n - i0);

            for (int64_t k = 0; k < n;) {
                int64_t end = run_end(a, i0, k, n);
                int what = what_of(a, i0 + k);
                const float *restrict grad = a->grad + i0 + k;
                float *restrict p = a->p + i0 + k, *restrict m = a->m + i0 + k, *restrict v = a->v + i0 + k;
                float shrink = what & ADAMW_DECAY ? lr_p : 0;

                end -= k;
                k += end;
                if (!(what & ADAMW_UPDATE))
                    continue;
#pragma omp simd
                for (int64_t i = 0; i < end; i++) {
                    float g = grad[i] * gscale;
                    float mi = b1 * m[i] + c1 * g, vi = b2 * v[i] + c2 * g * g;

                    m[i] = mi;
                    v[i] = vi;
                    p[i] -= lr_m * mi / (sqrtf(vi * scale_v) + eps) + shrink * p[i];
                }
                if (a->ema) {
                    float *restrict ema = a->ema + (p - a->p);

#pragma omp simd
                    for (int64_t i = 0; i < end; i++)
                        ema[i] += c_ema * (p[i] - ema[i]);
                }
            }
        }
        cpu_flush_end(mode);
    }
}

static double sum_of(const float *x, int64_t n, bool square)
{
    double s = 0;

    if (square)
#pragma omp simd reduction(+ : s)
        for (int64_t i = 0; i < n; i++)
            s += (double)x[i] * (double)x[i];
    else
#pragma omp simd reduction(+ : s)
        for (int64_t i = 0; i < n; i++)
            s += (double)x[i];
    return s;
}

void cpu_total(const struct total *a)
{
    double part[64], sum = a->add ? *a->sum : 0;
    int64_t each = cpu_piece(a->n, BLOCK), pieces = cpu_ceil(a->n, each);

#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < pieces; k++)
        part[k] = sum_of(a->x + k * each, cpu_min(each, a->n - k * each), a->square);
    for (int64_t k = 0; k < pieces; k++)
        sum += part[k];
    *a->sum = sum;
}

void cpu_judge(const struct judge *a) { judge_step(a); }
