/* act.cu - activations on the GPU: gelu, its tanh approximation, squared relu, silu, soft cap; with a gate or without
 * SPDX-License-Identifier: MIT
 *
 * Formulas: act.c. Every tensor is read or written once; in bf16 that leaves few instructions for an element.
 * So exponentials are 2^(x log2 e) in two of them, whose relative error of 1e-6 to 1e-5 (large arguments, where the
 * result is next to 0 or 1) adds to an activation what rounding to bf16 hides and what float training does not see.
 * f and f' share them.
 */
#include "cells.cuh"
#include "erfc.h"

namespace {

enum { FWD_PACKS = 2, BWD_PACKS = 2 };

constexpr float LOG2E = 1.442695041f;

/* Phi(x), the normal distribution function, and its density, by erfc.h: half of erfc(|x|/sqrt 2) is the tail. */
__device__ __forceinline__ float normal(float x, float *density)
{
    float t = fast_rcp(1.0f + 0.4f * 0.70710678f * fabsf(x)), e = fast_exp2(-0.5f * LOG2E * (x * x));
    float q = 0.5f * t * ERFC_FIT(t) * e;

    *density = 0.39894228f * e;
    return x < 0.0f ? q : 1.0f - q;
}

/* f(x), and f'(x), which costs nothing where it is not used. inverse = 1/cap */
template <int KIND> __device__ __forceinline__ float value(float x, float cap, float inverse, float *slope)
{
    if constexpr (KIND == ACT_GELU) {
        float density, p = normal(x, &density);
        *slope = p + x * density;
        return x * p;
    } else if constexpr (KIND == ACT_GELU_TANH) {
        float cube = 0.044715f * x * x;
        float s = sigmoid(1.595769122f * (x + cube * x)); /* 2 sqrt(2/pi) */
        *slope = s + x * s * (1.0f - s) * (1.595769122f * (1.0f + 3.0f * cube));
        return x * s;
    } else if constexpr (KIND == ACT_RELU2) {
        float pos = x < 0.0f ? 0.0f : x;
        *slope = 2.0f * pos;
        return pos * pos;
    } else if constexpr (KIND == ACT_SILU) {
        float s = sigmoid(x);
        *slope = s + x * s * (1.0f - s);
        return x * s;
    } else {
        float s = tanhf(x * inverse);
        *slope = 1.0f - s * s;
        return cap * s;
    }
}

template <int KIND, bool GATED, class T, int N>
__global__ void __launch_bounds__(CELL_THREADS)
    act_fwd_kernel(cells c, matrix<const T> x, matrix<const T> u, matrix<T> y, float cap)
{
    cell_walk<FWD_PACKS> walk(c);
    elements<T, N> xs[FWD_PACKS], us[FWD_PACKS];
    T *to[FWD_PACKS];
    float inverse = 1.0f / cap, slope;

#pragma unroll
    for (int k = 0; k < FWD_PACKS; k++) {
        int64_t row, p;
        to[k] = nullptr;
        if (!walk.at(k, &row, &p))
            continue;
        xs[k].read(x.at(row, p * N));
        if (GATED)
            us[k].read(u.at(row, p * N));
        to[k] = y.at(row, p * N);
    }
#pragma unroll
    for (int k = 0; k < FWD_PACKS; k++) {
        if (!to[k])
            continue;
        float v[N], gate[N];
        xs[k].get(v);
        if (GATED)
            us[k].get(gate);
#pragma unroll
        for (int i = 0; i < N; i++) {
            v[i] = value<KIND>(v[i], cap, inverse, &slope);
            if (GATED)
                v[i] *= gate[i];
        }
        write_floats(to[k], v);
    }
}

/* dx or du may be dy: a thread has read its packs before it writes them. */
template <int KIND, bool GATED, class T, int N>
__global__ void __launch_bounds__(CELL_THREADS)
    act_bwd_kernel(cells c, matrix<const T> x, matrix<const T> u, matrix<const T> dy, matrix<T> dx, matrix<T> du, float cap)
{
    cell_walk<BWD_PACKS> walk(c);
    elements<T, N> xs[BWD_PACKS], us[BWD_PACKS], gs[BWD_PACKS];
    float inverse = 1.0f / cap;
    int64_t row, p;

#pragma unroll
    for (int k = 0; k < BWD_PACKS; k++) {
        if (!walk.at(k, &row, &p))
            continue;
        xs[k].read(x.at(row, p * N));
        gs[k].read(dy.at(row, p * N));
        if (GATED)
            us[k].read(u.at(row, p * N));
    }
#pragma unroll
    for (int k = 0; k < BWD_PACKS; k++) {
        if (!walk.at(k, &row, &p))
            continue;
        float v[N], g[N], gate[N];
        xs[k].get(v);
        gs[k].get(g);
        if (GATED)
            us[k].get(gate);
#pragma unroll
        for (int i = 0; i < N; i++) {
            float slope, f = value<KIND>(v[i], cap, inverse, &slope);
            v[i] = GATED ? g[i] * gate[i] * slope : g[i] * slope;
            g[i] *= f;
        }
        write_floats(dx.at(row, p * N), v);
        if (GATED)
            write_floats(du.at(row, p * N), g);
    }
}

template <class T, int N, int KIND> void fwd(const struct activation *a)
{
    cells c = cells_of("act_fwd", a->M, a->D / N);
    auto x = matrix_of<const T>(&a->x), u = matrix_of<const T>(&a->u);
    auto y = matrix_of<T>(&a->y);
    float cap = (float)a->cap;

    if (a->u.data)
        LAUNCH((act_fwd_kernel<KIND, true, T, N>), cells_grid(c, FWD_PACKS), CELL_THREADS, 0, c, x, u, y, cap);
    else
        LAUNCH((act_fwd_kernel<KIND, false, T, N>), cells_grid(c, FWD_PACKS), CELL_THREADS, 0, c, x, u, y, cap);
}

template <class T, int N, int KIND> void bwd(const struct activation *a)
{
    cells c = cells_of("act_bwd", a->M, a->D / N);
    auto x = matrix_of<const T>(&a->x), u = matrix_of<const T>(&a->u), dy = matrix_of<const T>(&a->dy);
    auto dx = matrix_of<T>(&a->dx), du = matrix_of<T>(&a->du);
    float cap = (float)a->cap;

    if (a->u.data)
        LAUNCH((act_bwd_kernel<KIND, true, T, N>), cells_grid(c, BWD_PACKS), CELL_THREADS, 0, c, x, u, dy, dx, du, cap);
    else
        LAUNCH((act_bwd_kernel<KIND, false, T, N>), cells_grid(c, BWD_PACKS), CELL_THREADS, 0, c, x, u, dy, dx, du, cap);
}

void check(const struct activation *a, const char *op, const struct tensor *t, const char *field)
{
    cuda_need(op, field, t);
    if (t->dtype != a->x.dtype)
        cuda_fault(op, field, "has another dtype than x");
}

void check_kind(const struct activation *a, const char *op)
{
    if ((int)a->kind < ACT_GELU || a->kind > ACT_SOFTCAP)
        cuda_fault(op, "kind", "is unknown");
    if (a->kind == ACT_SOFTCAP && !(a->cap > 0))
        cuda_fault(op, "cap", "is not positive");
}

/* Rows can be read 16 bytes at a time; an absent tensor is no hindrance. */
bool wide(const struct activation *a, bool backward)
{
    const struct tensor *t[] = { &a->x, &a->u, &a->y, &a->dy, &a->dx, &a->du };

    for (int i = 0; i < 6; i++) {
        bool used = i < 2 || (i == 2) == !backward;
        if (used && t[i]->data && !aligned_rows(t[i], 16))
            return false;
    }
    return a->D % (a->x.dtype == BF16 ? 8 : 4) == 0;
}

}

#define EACH_KIND(launch, T, N)                  \
    switch (a->kind) {                           \
    case ACT_GELU:                               \
        return launch<T, N, ACT_GELU>(a);        \
    case ACT_GELU_TANH:                          \
        return launch<T, N, ACT_GELU_TANH>(a);   \
    case ACT_RELU2:                              \
        return launch<T, N, ACT_RELU2>(a);       \
    case ACT_SILU:                               \
        return launch<T, N, ACT_SILU>(a);        \
    case ACT_SOFTCAP:                            \
        return launch<T, N, ACT_SOFTCAP>(a);     \
    }

void cuda_act_fwd(const struct activation *a)
{
    check(a, "act_fwd", &a->x, "x");
    check(a, "act_fwd", &a->y, "y");
    if (a->u.data)
        check(a, "act_fwd", &a->u, "u");
    check_kind(a, "act_fwd");
    if (a->M <= 0 || a->D <= 0)
        return;
    if (wide(a, false))
        WITH_TYPE(a->x.dtype, T, EACH_KIND(fwd, T, 16 / sizeof(T)));
    else
        WITH_TYPE(a->x.dtype, T, EACH_KIND(fwd, T, 1));
}

void cuda_act_bwd(const struct activation *a)
{
    check(a, "act_bwd", &a->x, "x");
    check(a, "act_bwd", &a->dy, "dy");
    check(a, "act_bwd", &a->dx, "dx");
    if (a->u.data) {
        check(a, "act_bwd", &a->u, "u");
        check(a, "act_bwd", &a->du, "du");
    }
    check_kind(a, "act_bwd");
    if (a->M <= 0 || a->D <= 0)
        return;
    if (wide(a, true))
        WITH_TYPE(a->x.dtype, T, EACH_KIND(bwd, T, 16 / sizeof(T)));
    else
        WITH_TYPE(a->x.dtype, T, EACH_KIND(bwd, T, 1));
}
