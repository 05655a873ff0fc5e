/* scan_block.h - selective scan (Mamba-1): the layout, and what its passes share
 * SPDX-License-Identifier: MIT
 *
 *   dt = softplus(dt_raw + dt_bias),  a[n] = -exp(A_log[n]),  S[t,n] = exp(dt a[n]) S[t-1,n] + dt x B[t,n],
 *   y = sum_n S[n] C[n] + D x                                (Gu & Dao 2023, alg. 2)
 *
 * Every (token, channel, n) has a decay of its own, so nothing can be a product of matrices: the work is
 * the exponentials. Channels lie in the lanes of a vector and n runs inside the token; then y needs no sum
 * across lanes, and B and C are single numbers that all lanes share.
 *
 *   block  SCAN_VL channels, one vector; its state is [N,SCAN_VL]
 *   group  SCAN_WIDE channels = SCAN_VECS blocks: the job of one thread, one sequence at a time
 *   tile   at most SCAN_TILE tokens of one chunk; dt and u = dt x [n,SCAN_WIDE] are made for a tile at once
 *
 * Lanes beyond C hold zeros. Decays are powers of two: A2 = a log2(e).
 *
 * Backward, with the states of a tile made again from the one that enters it, from the last token on:
 *   g[n] = dS[n] + dy C[n],  q[n] = exp(dt a[n]) g[n], dS of the token before,  w[n] = q[n] S[t-1,n]
 *   dC[n] = sum_c dy S[t,n],  dB[n] = sum_c g[n] u,  da[n] = sum_t w[n] dt
 *   dx = dt sum_n g[n] B[n] + D dy,  d dt = x sum_n g[n] B[n] + sum_n w[n] a[n]
 * dB and dC are summed over the blocks of a group lane by lane, then over the lanes, then over the groups,
 * in fixed order. The sums of groups are kept for a span of whole chunks, so their memory is that of a span,
 * for any T.
 */
#ifndef SSM_SCAN_BLOCK_H
#define SSM_SCAN_BLOCK_H

#include <math.h>
#include <string.h>

#include "cpu.h"
#include "gemm.h"
#include "vmath.h"

#define SCAN_VL GEMM_VL
#define SCAN_WIDE 64
#define SCAN_VECS (SCAN_WIDE / SCAN_VL)
#define SCAN_TILE 64
#define SCAN_SPAN 512 /* tokens that a span has at least, unless T is less */

/* Sizes, and where the parts of `work` begin (in floats). */
struct scan_plan {
    int64_t groups;      /* of channels */
    int64_t chunks, per; /* chunks of a sequence; tiles of a chunk */
    int64_t span, rows;  /* chunks and tokens of a span */
    int64_t state;       /* of a group: SCAN_WIDE N */
    int64_t carry, keep; /* [B,groups] of struct carry in scan_bwd.c, and the size of one */
    int64_t dB, dC;      /* [B,groups,rows,N]: sums over the channels of a group */
    int64_t part;        /* size of one of these [rows,N] */
    int64_t thread, own; /* scratch of each thread, and its size */
    int64_t total;
};

static inline struct scan_plan scan_make_plan(const struct scan *a)
{
    struct scan_plan p = { 0 };
    int64_t fwd, bwd;

    p.groups = cpu_ceil(a->C, SCAN_WIDE);
    p.chunks = cpu_ceil(a->T, a->Q);
    p.per = cpu_ceil(cpu_min(a->Q, a->T), SCAN_TILE);
    p.span = cpu_min(p.chunks, cpu_ceil(SCAN_SPAN, a->Q));
    p.rows = cpu_min(a->T, p.span * a->Q);
    p.state = SCAN_WIDE * a->N;
    p.keep = 2 * p.state + 2 * SCAN_WIDE;
    p.part = cpu_round(p.rows * a->N);
    p.dB = p.carry + a->B * p.groups * p.keep;
    p.dC = p.dB + a->B * p.groups * p.part;
    p.thread = p.dC + a->B * p.groups * p.part;
    /* as fwd_group and bwd_scratch have it */
    fwd = 2 * p.state + 3 * SCAN_TILE * SCAN_WIDE;
    bwd = (p.per + 2) * p.state + 5 * SCAN_TILE * SCAN_WIDE + cpu_round((4 * SCAN_TILE + 1) * a->N * SCAN_VL);
    p.own = cpu_max(fwd, bwd);
    p.total = p.thread + cpu_threads() * p.own;
    return p;
}

static inline void scan_check(const struct scan *a, const char *op)
{
    CPU_NEED(op, a, x);
    CPU_NEED(op, a, dt_raw);
    CPU_NEED(op, a, Bm);
    CPU_NEED(op, a, Cm);
    CPU_NEED(op, a, A_log);
    CPU_NEED(op, a, dt_bias);
    CPU_NEED(op, a, D);
    CPU_ALLOW(op, a, h0);
    CPU_ALLOW(op, a, hT);
    if (a->N < 1)
        cpu_fault(op, "N", "is less than 1");
}

static inline gemm_vec scan_load(const float *p) { return *(const gemm_mem *)p; }

static inline void scan_store(float *p, gemm_vec v) { *(gemm_mem *)p = v; }

/* 2^(d a), lane by lane. GCC turns the arrays into registers again. */
static inline gemm_vec scan_decay(gemm_vec d, gemm_vec a)
{
    float x[SCAN_VL], y[SCAN_VL];

    memcpy(x, &d, sizeof(x));
    memcpy(y, &a, sizeof(y));
#pragma omp simd
    for (int l = 0; l < SCAN_VL; l++)
        x[l] = vmath_decay(x[l], y[l]);
    memcpy(&d, x, sizeof(x));
    return d;
}

/* Channels of group g */
static inline int64_t scan_width(const struct scan *a, int64_t g)
{
    return cpu_min(SCAN_WIDE, a->C - g * SCAN_WIDE);
}

/* A2 [SCAN_VECS,N,SCAN_VL] of group g */
static inline void scan_load_decays(const struct scan *a, int64_t g, float *A2)
{
    memset(A2, 0, (size_t)(SCAN_WIDE * a->N) * sizeof(float));
    for (int64_t c = 0; c < scan_width(a, g); c++) {
        const float *from = cpu_row(&a->A_log, g * SCAN_WIDE + c);
        float *to = A2 + c / SCAN_VL * SCAN_VL * a->N + c % SCAN_VL;

        for (int64_t n = 0; n < a->N; n++)
            to[n * SCAN_VL] = -vmath_exp(from[n]) * VMATH_LOG2E;
    }
}

/* S [SCAN_VECS,N,SCAN_VL] = the rows of group g from h on, or zero where h is NULL; and back. */
static inline void scan_load_state(const struct scan *a, int64_t g, const float *h, int64_t ld, float *S)
{
    memset(S, 0, (size_t)(SCAN_WIDE * a->N) * sizeof(float));
    for (int64_t c = 0; h && c < scan_width(a, g); c += SCAN_VL)
        gemm_transpose(cpu_min(SCAN_VL, scan_width(a, g) - c), a->N, h + c * ld, ld, S + c * a->N, SCAN_VL);
}

static inline void scan_save_state(const struct scan *a, int64_t g, const float *S, float *h, int64_t ld)
{
    for (int64_t c = 0; c < scan_width(a, g); c += SCAN_VL)
        gemm_transpose(a->N, cpu_min(SCAN_VL, scan_width(a, g) - c), S + c * a->N, SCAN_VL, h + c * ld, ld);
}

/* The first row of the group in a tensor [B*C,N]; NULL when that is absent. */
static inline float *scan_state_row(const struct scan *a, const struct tensor *h, int64_t b, int64_t g)
{
    return h->data ? cpu_row(h, b * a->C + g * SCAN_WIDE) : NULL;
}

static inline float *scan_saved(const struct scan *a, const struct scan_plan *p, int64_t b, int64_t chunk,
                                int64_t g)
{
    return a->states + ((b * p->chunks + chunk) * a->C + g * SCAN_WIDE) * a->N;
}

/* dt [n,SCAN_WIDE] and u = dt x [n,SCAN_WIDE] of rows m .. m+n-1 */
static inline void scan_prepare(const struct scan *a, int64_t g, int64_t m, int64_t n, float *dt, float *u)
{
    int64_t c0 = g * SCAN_WIDE, width = scan_width(a, g);
    const float *bias = (const float *)a->dt_bias.data + c0;

    if (width < SCAN_WIDE) {
        memset(dt, 0, (size_t)(n * SCAN_WIDE) * sizeof(float));
        memset(u, 0, (size_t)(n * SCAN_WIDE) * sizeof(float));
    }
    for (int64_t t = 0; t < n; t++) {
        const float *raw = cpu_row(&a->dt_raw, m + t) + c0, *x = cpu_row(&a->x, m + t) + c0;
        float *d = dt + t * SCAN_WIDE, *v = u + t * SCAN_WIDE;

#pragma omp simd
        for (int64_t c = 0; c < width; c++) {
            float soft = vmath_softplus(raw[c] + bias[c]);

            d[c] = soft;
            v[c] = soft * x[c];
        }
    }
}

/* Token t of the tile that begins at row m = b T + t0 begins its document. */
static inline bool scan_resets(const struct scan *a, int64_t m, int64_t t0, int64_t t)
{
    return a->start && a->start[m + t] == t0 + t;
}

#endif
