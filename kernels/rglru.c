/* rglru.c - the real-gated linear recurrent unit along the sequence
 * SPDX-License-Identifier: MIT
 *
 * With L = rate r, rate = 8 softplus(a_param), r = sigmoid(gate_a), i = sigmoid(gate_x):
 *   a = exp(-L),  gap = 1 - a,  u = 1 - a^2 = gap (1 + a),  m = sqrt(u),  h[t] = a h[t-1] + m i x[t].
 * Slow channels have an a so near to 1 that a float holds few digits of 1 - a. So the gap is computed without
 * that subtraction, m comes from it, and h moves by m i x - gap h. (To round a instead would be an error of
 * the same sign at every token: 3e-8/L of h, against a random walk of about 3e-8/sqrt(L).)
 *
 * Backward, from the last token on, g[t] = dy[t] + a[t+1] g[t+1] being the whole gradient of h[t]:
 *   dx = g m i,  di = g m x,  dL = g (i x dm/dL - a h[t-1]),  dm/dL = 2 a^2 / sqrt(max(4 u, 1e-6)),
 *   dr = dL rate,  da_param = 8 sigmoid(a_param) sum of dL r.
 *
 * A job is a block of channels of one sequence, token by token, vectorised over the channels. Sums over tokens are
 * kept in double by stretches of STRETCH tokens; those of the sequences are then added in order. No number depends
 * on the width of a block. It is as wide as the threads allow: a row of another token lies on other pages, and
 * narrow blocks visit every page many times (measured: 128 channels of 2560 take twice the time of 512).
 */
#include <math.h>
#include <string.h>

#include "cpu.h"
#include "vmath.h"

#define CB 1024
#define STRETCH 64

static void check(const struct rglru *a, const char *op)
{
    CPU_NEED(op, a, x);
    CPU_NEED(op, a, gate_x);
    CPU_NEED(op, a, gate_a);
    CPU_NEED(op, a, a_param);
    CPU_ALLOW(op, a, h0);
    CPU_NEED(op, a, y);
}

size_t cpu_rglru_work(const struct rglru *a)
{
    return (size_t)(a->B * cpu_round(a->C)) * sizeof(float) + CPU_SLACK;
}

/* Channels of one job, at most CB: so many that all threads have the same number of jobs. */
static int64_t block_width(const struct rglru *a)
{
    int64_t per = cpu_ceil(cpu_threads(), cpu_max(1, a->B)); /* jobs of a sequence are a multiple of this */
    int64_t blocks = cpu_ceil(cpu_ceil(a->C, CB), per) * per;

    return cpu_min(CB, cpu_max(64, cpu_round(cpu_ceil(a->C, blocks))));
}

/* sigmoid(z), and its derivative without the cancellation of 1 - sigmoid */
static inline float gate(float z, float *slope)
{
    float e = vmath_exp(z < 0.0f ? z : -z), q = 1.0f / (1.0f + e);

    *slope = e * q * q;
    return z < 0.0f ? e * q : q;
}

/* a h + in. Where a is small, a is what has the digits, else the gap. */
static inline float move(float a, float gap, float h, float in)
{
    float slow = h + (in - gap * h), fast = a * h + in;

    return gap < 0.5f ? slow : fast;
}

static void load_rate(const struct rglru *a, int64_t c0, int64_t n, float *restrict rate)
{
    const float *p = (const float *)a->a_param.data + c0;

#pragma omp simd
    for (int64_t c = 0; c < n; c++)
        rate[c] = 8.0f * vmath_softplus(p[c]);
}

/* One token: h [n] from the state before it, NULL where the token is the first of its document. */
static void fwd_row(int64_t n, const float *rate, const float *x, const float *gx, const float *ga,
                    const float *prior, float *restrict h)
{
    if (!prior) {
#pragma omp simd
        for (int64_t c = 0; c < n; c++) {
            float slope;

            h[c] = gate(gx[c], &slope) * x[c];
        }
        return;
    }
#pragma omp simd
    for (int64_t c = 0; c < n; c++) {
        float slope, gap, decay = vmath_exp_gap(-rate[c] * gate(ga[c], &slope), &gap);
        float m = sqrtf(gap * (1.0f + decay));

        h[c] = move(decay, gap, prior[c], m * gate(gx[c], &slope) * x[c]);
    }
}

/* The state before token t in the channels from c0: NULL where it counts for nothing. */
static const float *before(const struct rglru *a, int64_t b, int64_t t, int64_t c0)
{
    if (cpu_start(a->start, b * a->T + t) == t)
        return NULL;
    if (t > 0)
        return cpu_row(&a->y, b * a->T + t - 1) + c0;
    return a->h0.data ? cpu_row(&a->h0, b) + c0 : NULL;
}

static void fwd_block(const struct rglru *a, int64_t b, int64_t c0, int64_t n)
{
    size_t bytes = (size_t)n * sizeof(float);
    float rate[CB];

    load_rate(a, c0, n, rate);
    for (int64_t t = 0; t < a->T; t++) {
        int64_t row = b * a->T + t;

        fwd_row(n, rate, cpu_row(&a->x, row) + c0, cpu_row(&a->gate_x, row) + c0,
                cpu_row(&a->gate_a, row) + c0, before(a, b, t, c0), cpu_row(&a->y, row) + c0);
    }
    if (!a->hT.data)
        return;
    if (a->T > 0)
        memcpy(cpu_row(&a->hT, b) + c0, cpu_row(&a->y, b * a->T + a->T - 1) + c0, bytes);
    else if (a->h0.data)
        memmove(cpu_row(&a->hT, b) + c0, cpu_row(&a->h0, b) + c0, bytes);
    else
        memset(cpu_row(&a->hT, b) + c0, 0, bytes);
}

void cpu_rglru_fwd(const struct rglru *a)
{
    int64_t width = block_width(a), blocks = cpu_ceil(a->C, width);

    check(a, "rglru_fwd");
    CPU_ALLOW("rglru_fwd", a, hT);
#pragma omp parallel
    {
        unsigned mode = cpu_flush_begin();

#pragma omp for schedule(static)
        for (int64_t job = 0; job < a->B * blocks; job++) {
            int64_t c0 = job % blocks * width;

            fwd_block(a, job / blocks, c0, cpu_min(width, a->C - c0));
        }
        cpu_flush_end(mode);
    }
}

struct grads {
    float *x, *gx, *ga; /* = [n] of this token */
    float *h;           /* [n] the gradient that later tokens hand to h[t]; then what this one hands on */
    float *sum;         /* += [n] dL r */
};

/* One token, backward; h is the state before it, as in fwd_row. */
static void bwd_row(int64_t n, const float *rate, const float *x, const float *gx, const float *ga,
                    const float *h, const float *dy, const struct grads *d)
{
    float *restrict dx = d->x, *restrict dgx = d->gx, *restrict dga = d->ga;
    float *restrict dh = d->h, *restrict sum = d->sum;

    if (!h) {
#pragma omp simd
        for (int64_t c = 0; c < n; c++) {
            float g = dy[c] + dh[c], slope_i, i = gate(gx[c], &slope_i);

            dx[c] = g * i;
            dgx[c] = g * x[c] * slope_i;
            dga[c] = 0.0f;
            dh[c] = 0.0f;
        }
        return;
    }
#pragma omp simd
    for (int64_t c = 0; c < n; c++) {
        float slope_i, slope_r, gap, g = dy[c] + dh[c];
        float i = gate(gx[c], &slope_i), r = gate(ga[c], &slope_r);
        float decay = vmath_exp_gap(-rate[c] * r, &gap), m = sqrtf(gap * (1.0f + decay));
        float root = 2.0f * m < 1e-3f ? 1e-3f : 2.0f * m; /* sqrt(max(4 u, 1e-6)) */
        float dL = g * (i * x[c] * (2.0f * decay * decay / root) - decay * h[c]);

        dx[c] = g * m * i;
        dgx[c] = g * m * x[c] * slope_i;
        dga[c] = dL * rate[c] * slope_r;
        sum[c] += dL * r;
        dh[c] = move(decay, gap, g, 0.0f);
    }
}

static void bwd_block(const struct rglru *a, int64_t b, int64_t c0, int64_t n, float *part)
{
    float rate[CB], dh[CB] = { 0 }, sum[CB] = { 0 };
    double total[CB] = { 0 };

    load_rate(a, c0, n, rate);
    if (a->dhT.data)
        memcpy(dh, cpu_row(&a->dhT, b) + c0, (size_t)n * sizeof(float));
    for (int64_t t = a->T - 1; t >= 0; t--) {
        int64_t row = b * a->T + t;
        struct grads d = { cpu_row(&a->dx, row) + c0, cpu_row(&a->dgate_x, row) + c0,
                           cpu_row(&a->dgate_a, row) + c0, dh, sum };

        bwd_row(n, rate, cpu_row(&a->x, row) + c0, cpu_row(&a->gate_x, row) + c0,
                cpu_row(&a->gate_a, row) + c0, before(a, b, t, c0), cpu_row(&a->dy, row) + c0, &d);
        if (t % STRETCH == 0)
#pragma omp simd
            for (int64_t c = 0; c < n; c++) {
                total[c] += (double)sum[c];
                sum[c] = 0.0f;
            }
    }
    for (int64_t c = 0; c < n; c++)
        part[c] = (float)(total[c] * 8.0 * (double)vmath_sigmoid(((const float *)a->a_param.data)[c0 + c]));
    if (a->dh0.data)
        memcpy(cpu_row(&a->dh0, b) + c0, dh, (size_t)n * sizeof(float));
}

void cpu_rglru_bwd(const struct rglru *a)
{
    int64_t width = block_width(a), blocks = cpu_ceil(a->C, width), ld = cpu_round(a->C);
    float *part = cpu_scratch("rglru_bwd", a->work);

    check(a, "rglru_bwd");
    CPU_NEED("rglru_bwd", a, dy);
    CPU_ALLOW("rglru_bwd", a, dhT);
    CPU_NEED("rglru_bwd", a, dx);
    CPU_NEED("rglru_bwd", a, dgate_x);
    CPU_NEED("rglru_bwd", a, dgate_a);
    CPU_NEED("rglru_bwd", a, da_param);
    CPU_ALLOW("rglru_bwd", a, dh0);
#pragma omp parallel
    {
        unsigned mode = cpu_flush_begin();

#pragma omp for schedule(static)
        for (int64_t job = 0; job < a->B * blocks; job++) {
            int64_t b = job / blocks, c0 = job % blocks * width;

            bwd_block(a, b, c0, cpu_min(width, a->C - c0), part + b * ld + c0);
        }
        cpu_flush_end(mode);
    }
    cpu_add_parts(a->B, a->C, part, ld, a->da_param.data);
}

void cpu_rglru_step(const struct rglru *a)
{
    int64_t width = block_width(a), blocks = cpu_ceil(a->C, width);

    check(a, "rglru_step");
    CPU_NEED("rglru_step", a, h0);
#pragma omp parallel
    {
        unsigned mode = cpu_flush_begin();

#pragma omp for schedule(static)
        for (int64_t job = 0; job < a->B * blocks; job++) {
            int64_t b = job / blocks, c0 = job % blocks * width, n = cpu_min(width, a->C - c0);
            float rate[CB], *h = cpu_row(&a->h0, b) + c0, *y = cpu_row(&a->y, b) + c0;

            load_rate(a, c0, n, rate);
            fwd_row(n, rate, cpu_row(&a->x, b) + c0, cpu_row(&a->gate_x, b) + c0, cpu_row(&a->gate_a, b) + c0,
                    h, y);
            memcpy(h, y, (size_t)n * sizeof(float));
        }
        cpu_flush_end(mode);
    }
}
