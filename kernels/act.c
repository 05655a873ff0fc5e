/* act.c - activations: gelu, its tanh approximation, squared relu, silu, soft cap; with a gate or without
 * SPDX-License-Identifier: MIT
 *
 * y = f(x) u;  dx = dy u f'(x),  du = dy f(x);  without u it counts as 1.
 *   gelu       x Phi(x)                        derivative Phi(x) + x phi(x)
 *   gelu_tanh  x (1 + tanh g)/2 = x sig(2g),   g = sqrt(2/pi) (x + 0.044715 x^3)
 *   relu2      max(x,0)^2                      2 max(x,0)
 *   silu       x sig(x)                        s + x s (1-s)
 *   softcap    cap tanh(x/cap)                 1 - tanh(x/cap)^2
 * (Hendrycks & Gimpel 2016 for gelu.) Element by element, so outputs may be their inputs. f and f' share
 * their exponentials: the compiler sees the same expression twice.
 */
#include "cpu.h"
#include "vmath.h"

#define TANH_SCALE 1.595769122f /* 2 sqrt(2/pi) */
#define TANH_CUBE 0.044715f

#define INLINE static inline __attribute__((always_inline)) /* `kind` is a constant in every loop */

static float inverse_cap(const struct activation *a)
{
    return a->kind == ACT_SOFTCAP && a->cap > 0 ? (float)(1 / a->cap) : 0.0f;
}

/* f(x); inverse = 1/cap */
INLINE float value(const enum act kind, float x, float cap, float inverse)
{
    float pos = x < 0.0f ? 0.0f : x;

    switch (kind) {
    case ACT_GELU:
        return x * vmath_normcdf(x);
    case ACT_GELU_TANH:
        return x * vmath_sigmoid(TANH_SCALE * (x + TANH_CUBE * x * x * x));
    case ACT_RELU2:
        return pos * pos;
    case ACT_SILU:
        return x * vmath_sigmoid(x);
    case ACT_SOFTCAP:
        return cap * vmath_tanh(x * inverse);
    }
    return x;
}

/* f'(x) */
INLINE float slope(const enum act kind, float x, float inverse)
{
    float s;

    switch (kind) {
    case ACT_GELU:
        return vmath_normcdf(x) + x * (0.39894228f * vmath_exp(-0.5f * x * x));
    case ACT_GELU_TANH:
        s = vmath_sigmoid(TANH_SCALE * (x + TANH_CUBE * x * x * x));
        return s + x * s * (1.0f - s) * (TANH_SCALE * (1.0f + 3.0f * TANH_CUBE * x * x));
    case ACT_RELU2:
        return 2.0f * (x < 0.0f ? 0.0f : x);
    case ACT_SILU:
        s = vmath_sigmoid(x);
        return s + x * s * (1.0f - s);
    case ACT_SOFTCAP:
        s = vmath_tanh(x * inverse);
        return 1.0f - s * s;
    }
    return 1.0f;
}

INLINE void row_fwd(const enum act kind, const struct activation *a, float inverse, int64_t m)
{
    const float *x = cpu_row(&a->x, m), *u = a->u.data ? cpu_row(&a->u, m) : NULL;
    float *y = cpu_row(&a->y, m), cap = (float)a->cap;
    int64_t n = a->D;

    if (u) {
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            y[c] = value(kind, x[c], cap, inverse) * u[c];
    } else {
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            y[c] = value(kind, x[c], cap, inverse);
    }
}

/* dx may be dy: both gradients are made from one reading of it. */
INLINE void row_bwd(const enum act kind, const struct activation *a, float inverse, int64_t m)
{
    const float *x = cpu_row(&a->x, m), *u = a->u.data ? cpu_row(&a->u, m) : NULL, *dy = cpu_row(&a->dy, m);
    float *dx = cpu_row(&a->dx, m), *du = u ? cpu_row(&a->du, m) : NULL, cap = (float)a->cap;
    int64_t n = a->D;

    if (u) {
#pragma omp simd
        for (int64_t c = 0; c < n; c++) {
            float g = dy[c], v = x[c];

            du[c] = g * value(kind, v, cap, inverse);
            dx[c] = g * u[c] * slope(kind, v, inverse);
        }
    } else {
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            dx[c] = dy[c] * slope(kind, x[c], inverse);
    }
}

static void check(const struct activation *a, const char *op)
{
    CPU_NEED(op, a, x);
    CPU_ALLOW(op, a, u);
    if ((int)a->kind < ACT_GELU || a->kind > ACT_SOFTCAP)
        cpu_fault(op, "kind", "is unknown");
    if (a->kind == ACT_SOFTCAP && !(a->cap > 0))
        cpu_fault(op, "cap", "is not positive");
}

/* `call` with KIND as a constant */
#define EACH_KIND(kind, call)                                                                                \
    switch (kind) {                                                                                          \
    case ACT_GELU:                                                                                           \
        call(ACT_GELU, a, inverse, m);                                                                       \
        break;                                                                                               \
    case ACT_GELU_TANH:                                                                                      \
        call(ACT_GELU_TANH, a, inverse, m);                                                                  \
        break;                                                                                               \
    case ACT_RELU2:                                                                                          \
        call(ACT_RELU2, a, inverse, m);                                                                      \
        break;                                                                                               \
    case ACT_SILU:                                                                                           \
        call(ACT_SILU, a, inverse, m);                                                                       \
        break;                                                                                               \
    case ACT_SOFTCAP:                                                                                        \
        call(ACT_SOFTCAP, a, inverse, m);                                                                    \
        break;                                                                                               \
    }

void cpu_act_fwd(const struct activation *a)
{
    float inverse = inverse_cap(a);

    check(a, "act_fwd");
    CPU_NEED("act_fwd", a, y);
#pragma omp parallel for schedule(static)
    for (int64_t m = 0; m < a->M; m++)
        EACH_KIND(a->kind, row_fwd)
}

void cpu_act_bwd(const struct activation *a)
{
    float inverse = inverse_cap(a);

    check(a, "act_bwd");
    CPU_NEED("act_bwd", a, dy);
    CPU_NEED("act_bwd", a, dx);
    if (a->u.data)
        CPU_NEED("act_bwd", a, du);
#pragma omp parallel for schedule(static)
    for (int64_t m = 0; m < a->M; m++)
        EACH_KIND(a->kind, row_bwd)
}
