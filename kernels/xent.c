/* xent.c - linear head and softmax cross-entropy, a block of rows at a time
 * SPDX-License-Identifier: MIT
 *
 * s = x w^T;  z = s, or cap tanh(s/cap);  loss = logsumexp(z) - z[target];
 * e = (softmax(z) - onehot(target)) dz/ds, zero rows where the target is negative;  dz/ds = 1 - (z/cap)^2;
 * dx = e w;  dw += e^T x. Only one block of z [rows,V] is in memory: at most LOGITS floats of it, but at
 * least 64 rows, below which the products become slow.
 */
#include <math.h>
#include <string.h>

#include "cpu.h"
#include "vmath.h"

#define LOGITS (8 << 20)
#define STRIP 1024 /* logits that are summed in float before the sum goes on in double */

static int64_t block_rows(const struct xent *a)
{
    int64_t rows = LOGITS / cpu_max(1, a->V) / 16 * 16;

    return cpu_max(1, cpu_min(a->M, cpu_min(1024, cpu_max(64, rows))));
}

size_t cpu_xent_work(const struct xent *a)
{
    return (size_t)(block_rows(a) * cpu_round(a->V)) * sizeof(float) + CPU_SLACK;
}

/* Largest of n logits, NaN left out. Lanes of its own: compilers do not vectorise a maximum that may
 * meet NaN by themselves. */
static float strip_max(int64_t n, const float *z)
{
    float lane[64], top = -INFINITY;
    int64_t v = 0;

    for (int i = 0; i < 64; i++)
        lane[i] = -INFINITY;
    for (; v + 64 <= n; v += 64)
#pragma omp simd
        for (int i = 0; i < 64; i++)
            lane[i] = z[v + i] > lane[i] ? z[v + i] : lane[i];
    for (int i = 0; i < 64; i++)
        top = lane[i] > top ? lane[i] : top;
    for (; v < n; v++)
        top = z[v] > top ? z[v] : top;
    return top;
}

/* d z/d s of a capped logit, from z; the rounding of z/cap must not turn its sign. */
static inline float cap_slope(float z, float inverse)
{
    float slope = 1.0f - z * inverse * (z * inverse);

    return slope < 0.0f ? 0.0f : slope;
}

/* Loss of one row of logits; with grad they become (softmax(z) - onehot(target)) dz/ds. The sum is taken
 * strip by strip, relative to the largest logit so far, so that the row is read once. cap = 0: none. */
static float row_loss(int64_t V, float *z, int32_t target, float cap, bool grad)
{
    float inverse = cap > 0.0f ? 1.0f / cap : 0.0f;
    float top = -INFINITY, zt;
    double sum = 0;

    if (target < 0) {
        if (grad)
            memset(z, 0, (size_t)V * sizeof(float));
        return 0.0f;
    }
    for (int64_t v0 = 0; v0 < V; v0 += STRIP) {
        int64_t n = cpu_min(STRIP, V - v0);
        float most, part = 0;

        if (cap > 0.0f)
#pragma omp simd
            for (int64_t v = v0; v < v0 + n; v++)
                z[v] = cap * vmath_tanh(z[v] * inverse);
        most = strip_max(n, z + v0);
        if (most > top) {
            sum *= exp((double)top - (double)most);
            top = most;
        }
#pragma omp simd reduction(+ : part)
        for (int64_t v = v0; v < v0 + n; v++)
            part += vmath_exp(z[v] - top);
        sum += (double)part;
    }
    zt = z[target];
    if (grad && cap > 0.0f) {
        float scale = (float)(1.0 / sum);

#pragma omp simd
        for (int64_t v = 0; v < V; v++)
            z[v] = vmath_exp(z[v] - top) * scale * cap_slope(z[v], inverse);
        z[target] -= cap_slope(zt, inverse);
    } else if (grad) {
        float scale = (float)(1.0 / sum);

#pragma omp simd
        for (int64_t v = 0; v < V; v++)
            z[v] = vmath_exp(z[v] - top) * scale;
        z[target] -= 1.0f;
    }
    return (float)(log(sum) + (double)top - (double)zt);
}

void cpu_xent(const struct xent *a)
{
    int64_t rows = block_rows(a), ld = cpu_round(a->V);
    bool grad = a->dx.data != NULL;
    float *z = cpu_scratch("xent", a->work), cap = (float)a->softcap;

    CPU_NEED("xent", a, x);
    CPU_NEED("xent", a, w);
    CPU_ALLOW("xent", a, dx);
    if (grad)
        CPU_NEED("xent", a, dw);
    if (a->softcap < 0)
        cpu_fault("xent", "softcap", "is negative");
    for (int64_t m = 0; m < a->M; m++)
        if (a->target[m] >= a->V)
            cpu_fault("xent", "target", "holds a token outside the vocabulary");
    for (int64_t m0 = 0; m0 < a->M; m0 += rows) {
        int64_t n = cpu_min(rows, a->M - m0);
        struct tensor zt = tensor_f32(z, ld), x = tensor_f32(cpu_row(&a->x, m0), a->x.ld);

        cpu_matmul(
            &(struct matmul){ .M = n, .N = a->V, .K = a->D, .trans_b = true, .a = x, .b = a->w, .c = zt });
#pragma omp parallel
        {
            unsigned mode = cpu_flush_begin(); /* the products should meet no denormals either */

#pragma omp for schedule(static)
            for (int64_t m = 0; m < n; m++)
                a->loss[m0 + m] = row_loss(a->V, z + m * ld, a->target[m0 + m], cap, grad);
            cpu_flush_end(mode);
        }
        if (!grad)
            continue;
        cpu_matmul(&(struct matmul){ .M = n,
                                     .N = a->D,
                                     .K = a->V,
                                     .a = zt,
                                     .b = a->w,
                                     .c = tensor_f32(cpu_row(&a->dx, m0), a->dx.ld) });
        cpu_matmul(&(struct matmul){
            .M = a->V, .N = a->D, .K = n, .trans_a = true, .a = zt, .b = x, .c = a->dw, .add = a->dw });
    }
}
