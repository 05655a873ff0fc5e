/* act.c - activations: gelu, its tanh approximation, squared relu, silu
 * SPDX-License-Identifier: MIT
 *
 *   gelu       x Phi(x)                        derivative Phi(x) + x phi(x)
 *   gelu_tanh  x (1 + tanh u)/2 = x sig(2u),   u = sqrt(2/pi) (x + 0.044715 x^3)
 *   relu2      max(x,0)^2                      2 max(x,0)
 *   silu       x sig(x)                        s + x s (1-s)
 * (Hendrycks & Gimpel 2016 for gelu.) Element by element, so outputs may be their inputs.
 */
#include "cpu.h"
#include "vmath.h"

#define TANH_SCALE 1.595769122f /* 2 sqrt(2/pi) */
#define TANH_CUBE 0.044715f

static void row_fwd(enum act kind, int64_t n, const float *x, float *y)
{
    switch (kind) {
    case ACT_GELU:
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            y[c] = x[c] * vmath_normcdf(x[c]);
        break;
    case ACT_GELU_TANH:
#pragma omp simd
        for (int64_t c = 0; c < n; c++) {
            float v = x[c];

            y[c] = v * vmath_sigmoid(TANH_SCALE * (v + TANH_CUBE * v * v * v));
        }
        break;
    case ACT_RELU2:
#pragma omp simd
        for (int64_t c = 0; c < n; c++) {
            float v = x[c] < 0.0f ? 0.0f : x[c];

            y[c] = v * v;
        }
        break;
    case ACT_SILU:
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            y[c] = x[c] * vmath_sigmoid(x[c]);
        break;
    default:
        cpu_fault("act_fwd", "kind", "is unknown");
    }
}

static void row_bwd(enum act kind, int64_t n, const float *x, const float *dy, float *dx)
{
    switch (kind) {
    case ACT_GELU:
#pragma omp simd
        for (int64_t c = 0; c < n; c++) {
            float v = x[c], phi = 0.39894228f * vmath_exp(-0.5f * v * v);

            dx[c] = dy[c] * (vmath_normcdf(v) + v * phi);
        }
        break;
    case ACT_GELU_TANH:
#pragma omp simd
        for (int64_t c = 0; c < n; c++) {
            float v = x[c], s = vmath_sigmoid(TANH_SCALE * (v + TANH_CUBE * v * v * v));
            float du = TANH_SCALE * (1.0f + 3.0f * TANH_CUBE * v * v);

            dx[c] = dy[c] * (s + v * s * (1.0f - s) * du);
        }
        break;
    case ACT_RELU2:
#pragma omp simd
        for (int64_t c = 0; c < n; c++) {
            float v = x[c] < 0.0f ? 0.0f : x[c];

            dx[c] = dy[c] * 2.0f * v;
        }
        break;
    case ACT_SILU:
#pragma omp simd
        for (int64_t c = 0; c < n; c++) {
            float s = vmath_sigmoid(x[c]);

            dx[c] = dy[c] * (s + x[c] * s * (1.0f - s));
        }
        break;
    default:
        cpu_fault("act_bwd", "kind", "is unknown");
    }
}

void cpu_act_fwd(const struct activation *a)
{
    CPU_NEED("act_fwd", a, x);
    CPU_NEED("act_fwd", a, y);
#pragma omp parallel for schedule(static)
    for (int64_t m = 0; m < a->M; m++)
        row_fwd(a->kind, a->D, cpu_row(&a->x, m), cpu_row(&a->y, m));
}

void cpu_act_bwd(const struct activation *a)
{
    CPU_NEED("act_bwd", a, x);
    CPU_NEED("act_bwd", a, dy);
    CPU_NEED("act_bwd", a, dx);
#pragma omp parallel for schedule(static)
    for (int64_t m = 0; m < a->M; m++)
        row_bwd(a->kind, a->D, cpu_row(&a->x, m), cpu_row(&a->dy, m), cpu_row(&a->dx, m));
}
