/* ssd_tile.h - state-space duality (Mamba-2): the algorithm in chunks, and what its passes share
 * SPDX-License-Identifier: MIT
 *
 *   dt = clamp(softplus(dt_raw + dt_bias)),  a = -exp(A_log),  S[t] = exp(dt a) S[t-1] + dt x (x) B,
 *   y = S C + D x                                        (Dao & Gu 2024, eq. 16 and sect. 6)
 *
 * A chunk of Q tokens is cut into tiles of at most SSD_TILE. With cum[t] the sum of dt a from the tile's
 * first token to t, and d[t,s] = exp(cum[t] - cum[s]) for s <= t of one document, else 0:
 *   y[t]   = sum_s (C B^T)[t,s] d[t,s] dt[s] x[s]  +  exp(cum[t]) C[t] S_in  +  D x[t]
 *   S_out  = exp(cum[last]) S_in + sum_s d[last,s] dt[s] B[s] (x) x[s]
 * Differences of cum are <= 0, so no exp overflows. Tokens whose document began inside the tile do
 * not see S_in.
 *
 * Backward, G[t,s] = dy[t] . dt[s] x[s], and R[t,s] = G d (C B^T) for s < t:
 *   d(C B^T)[t,s] = G d, summed over the heads of a group before it is multiplied by B and C;
 *   d(dt a)[j] = sum of R[t,s] over s < j <= t, plus what reaches past j through S_in and S_out.
 * The sum over R adds just these terms; it is never a difference of two cumulative sums, which cancel.
 *
 * Work is done in spans of whole chunks, in phases between which the threads meet:
 *   1 per tile:  B, C packed, C B^T per group, dt and cum of all heads
 *   2 per head (backward: per few heads of a group): the tiles in order, the state carried along
 *   3 backward, per tile and group: dB and dC, summed over the heads in fixed order
 * So memory for C B^T and for the partial sums is that of a span, for any T.
 * Scratch tiles are padded with zeros to whole vectors: Pp, Np are P, N rounded up.
 */
#ifndef SSM_SSD_TILE_H
#define SSM_SSD_TILE_H

#include <math.h>
#include <string.h>

#include "cpu.h"
#include "gemm.h"
#include "vmath.h"

#define SSD_TILE 64
#define SSD_SPAN 256 /* tokens that a span has at least, unless T is less */
#define SSD_LANES 16 /* independent pieces of phase 2 that the backward pass aims at */
#define SSD_HEADS 64 /* heads whose dt is made at once, on the stack */

/* Sizes, and where the parts of `work` begin (in floats). */
struct ssd_plan {
    int64_t Pp, Np, rep; /* rep = heads of a group */
    int64_t chunks, per; /* chunks of a sequence; tiles of a chunk */
    int64_t span, tiles; /* chunks and tiles of a span */
    int64_t lanes;       /* pieces that the heads of a group are cut into, divides rep */
    int64_t Bp, Cp, CB;  /* [B,G,tiles,SSD_TILE,Np] twice, [B,G,tiles,SSD_TILE,SSD_TILE] */
    int64_t dt;          /* [B,H,tiles, 3,SSD_TILE]: dt, upper and lower part of cum */
    int64_t carry;       /* [B,H,N,Pp] forward: S; [B,H,P,Np] backward: dS */
    int64_t dCB, dB, dC; /* [B,G,lanes,tiles, SSD_TILE,SSD_TILE or SSD_TILE,Np]: partial sums */
    int64_t ddt;         /* [B,H,tiles,SSD_TILE] */
    int64_t sums;        /* [B,H,4] of double: dA_log, ddt_bias, dD, unused */
    int64_t thread, own; /* scratch of each thread, and its size */
    int64_t total;
};

static inline struct ssd_plan ssd_make_plan(const struct ssd *a)
{
    struct ssd_plan p = { 0 };
    int64_t state, most, bg = a->B * a->G, bh = a->B * a->H;

    p.Pp = gemm_pad(a->P);
    p.Np = gemm_pad(a->N);
    p.rep = a->H / a->G;
    p.chunks = cpu_ceil(a->T, a->Q);
    p.per = cpu_ceil(cpu_min(a->Q, a->T), SSD_TILE);
    p.span = cpu_min(p.chunks, cpu_ceil(SSD_SPAN, a->Q));
    p.tiles = p.span * p.per;
    p.lanes = 1;
    for (int64_t n = 2; n <= p.rep && n * bg <= SSD_LANES; n++)
        if (p.rep % n == 0)
            p.lanes = n;
    most = cpu_max(bg, cpu_min(SSD_LANES, bg * p.rep)); /* >= bg lanes, and never less for a greater B */
    state = cpu_max(a->N * p.Pp, a->P * p.Np);
    p.Cp = p.Bp + bg * p.tiles * SSD_TILE * p.Np;
    p.CB = p.Cp + bg * p.tiles * SSD_TILE * p.Np;
    p.dt = p.CB + bg * p.tiles * SSD_TILE * SSD_TILE;
    p.carry = p.dt + bh * p.tiles * 3 * SSD_TILE;
    p.dCB = p.carry + bh * cpu_round(state);
    p.dB = p.dCB + most * p.tiles * SSD_TILE * SSD_TILE;
    p.dC = p.dB + most * p.tiles * SSD_TILE * p.Np;
    p.ddt = p.dC + most * p.tiles * SSD_TILE * p.Np;
    p.sums = p.ddt + bh * p.tiles * SSD_TILE;
    p.thread = p.sums + cpu_round(bh * 8);
    /* as struct bwd_scratch has it; forward and phase 1 need less */
    p.own = 6 * SSD_TILE * p.Pp + 2 * SSD_TILE * SSD_TILE + SSD_TILE * p.Np + cpu_round(state) * (p.per + 1);
    p.total = p.thread + cpu_threads() * p.own;
    return p;
}

static inline void ssd_check(const struct ssd *a, const char *op)
{
    CPU_NEED(op, a, x);
    CPU_NEED(op, a, dt_raw);
    CPU_NEED(op, a, Bm);
    CPU_NEED(op, a, Cm);
    CPU_NEED(op, a, dt_bias);
    CPU_NEED(op, a, A_log);
    CPU_NEED(op, a, D);
    CPU_ALLOW(op, a, h0);
    CPU_ALLOW(op, a, hT);
    if (a->G < 1 || a->H % a->G)
        cpu_fault(op, "G", "does not divide H");
}

/* One tile of one sequence: where it is, and how its documents lie. */
struct ssd_tile {
    int64_t b, t0, n;     /* tokens t0 .. t0+n-1 */
    int64_t slot;         /* its place in the span's buffers */
    int64_t lo[SSD_TILE]; /* first row of the tile that token t may see */
    bool in[SSD_TILE];    /* token t sees the state that enters the tile */
    bool docs;            /* some token does not see all before it */
};

/* Tile k (0 .. tiles-1) of the span that begins at chunk c0; false when it holds no token. */
static inline bool ssd_find_tile(const struct ssd *a, const struct ssd_plan *p, int64_t b, int64_t c0,
                                 int64_t k, struct ssd_tile *u)
{
    int64_t first = (c0 + k / p->per) * a->Q, t0 = first + k % p->per * SSD_TILE;
    int64_t end = cpu_min(cpu_min(first + a->Q, a->T), t0 + SSD_TILE);

    if (t0 >= end)
        return false;
    u->b = b;
    u->t0 = t0;
    u->n = end - t0;
    u->slot = k;
    u->docs = false;
    for (int64_t i = 0; i < u->n; i++) {
        int64_t begin = cpu_start(a->start, b * a->T + t0 + i);

        u->lo[i] = cpu_max(0, begin - t0);
        u->in[i] = begin < t0;
        u->docs |= !u->in[i];
    }
    return true;
}

static inline float *ssd_group_tile(const struct ssd *a, const struct ssd_plan *p, float *w, int64_t part,
                                    const struct ssd_tile *u, int64_t g, int64_t size)
{
    return w + part + ((u->b * a->G + g) * p->tiles + u->slot) * size;
}

static inline float *ssd_head_tile(const struct ssd *a, const struct ssd_plan *p, float *w, int64_t part,
                                   const struct ssd_tile *u, int64_t h, int64_t size)
{
    return w + part + ((u->b * a->H + h) * p->tiles + u->slot) * size;
}

static inline float ssd_clamp(float v, float lo, float hi)
{
    v = v < lo ? lo : v;
    return v > hi ? hi : v;
}

/* dt [SSD_TILE] and its running sum times a, as the sum of two floats [2,SSD_TILE], for all heads of a tile;
 * rows beyond n are zero. With the lower part a difference of two sums keeps its digits however strong
 * the decay between them and the tile's first token is. */
static inline void ssd_make_decay(const struct ssd *a, const struct ssd_plan *p, float *w,
                                  const struct ssd_tile *u)
{
    const float *bias = a->dt_bias.data, *alog = a->A_log.data;
    float lo = (float)a->dt_min, hi = (float)a->dt_max;

    for (int64_t h0 = 0; h0 < a->H; h0 += SSD_HEADS) {
        int64_t n = cpu_min(SSD_HEADS, a->H - h0), step = p->tiles * 3 * SSD_TILE;
        float dt[SSD_HEADS], upper[SSD_HEADS], lower[SSD_HEADS], A[SSD_HEADS];
        float *to = ssd_head_tile(a, p, w, p->dt, u, h0, 3 * SSD_TILE);
        double cum[SSD_HEADS] = { 0 };

        for (int64_t h = 0; h < n; h++) {
            A[h] = -expf(alog[h0 + h]);
            if (u->n < SSD_TILE)
                memset(to + h * step, 0, 3 * SSD_TILE * sizeof(float));
        }
        for (int64_t i = 0; i < u->n; i++) {
            const float *raw = cpu_row(&a->dt_raw, u->b * a->T + u->t0 + i) + h0;

#pragma omp simd
            for (int64_t h = 0; h < n; h++) {
                dt[h] = ssd_clamp(vmath_softplus(raw[h] + bias[h0 + h]), lo, hi);
                cum[h] += (double)(dt[h] * A[h]);
                upper[h] = (float)cum[h];
                lower[h] = (float)(cum[h] - (double)upper[h]);
            }
            for (int64_t h = 0; h < n; h++) {
                to[h * step + i] = dt[h];
                to[h * step + SSD_TILE + i] = upper[h];
                to[h * step + 2 * SSD_TILE + i] = lower[h];
            }
        }
    }
}

/* Lower triangle of a product, by blocks of 16 rows: C [n,SSD_TILE] = A [n,K] B [K,SSD_TILE] up to the
 * diagonal's block. */
static inline void ssd_gemm_lower(int64_t n, int64_t K, const float *a, int64_t lda, const float *b, float *c)
{
    for (int64_t r = 0; r < n; r += 16)
        gemm_small(cpu_min(16, n - r), r + 16, K, a + r * lda, lda, 1, b, SSD_TILE, 0.0f, c + r * SSD_TILE,
                   SSD_TILE);
}

/* Phase 1: what all heads of a tile share. bt: scratch [N,SSD_TILE]. */
static inline void ssd_share_tile(const struct ssd *a, const struct ssd_plan *p, float *w,
                                  const struct ssd_tile *u, float *bt)
{
    int64_t row = u->b * a->T + u->t0;

    for (int64_t g = 0; g < a->G; g++) {
        float *Bp = ssd_group_tile(a, p, w, p->Bp, u, g, SSD_TILE * p->Np);
        float *Cp = ssd_group_tile(a, p, w, p->Cp, u, g, SSD_TILE * p->Np);

        gemm_pack(u->n, a->N, cpu_row(&a->Bm, row) + g * a->N, a->Bm.ld, 1.0f, Bp, p->Np);
        gemm_pack(u->n, a->N, cpu_row(&a->Cm, row) + g * a->N, a->Cm.ld, 1.0f, Cp, p->Np);
        if (u->n < SSD_TILE)
            memset(bt, 0, (size_t)(a->N * SSD_TILE) * sizeof(float));
        gemm_transpose(u->n, a->N, Bp, p->Np, bt, SSD_TILE);
        ssd_gemm_lower(u->n, a->N, Cp, p->Np, bt, ssd_group_tile(a, p, w, p->CB, u, g, SSD_TILE * SSD_TILE));
    }
    ssd_make_decay(a, p, w, u);
}

/* d[t,s] of one row t for s < ceil16(t+1), zero where t does not see s; cum [2,SSD_TILE] */
static inline void ssd_decay_row(const struct ssd_tile *u, const float *cum, int64_t t, float *d)
{
    int32_t lo = (int32_t)u->lo[t], hi = (int32_t)t;
    float upper = cum[t], lower = cum[SSD_TILE + t];

#pragma omp simd
    for (int32_t s = 0; s < (hi | 15) + 1; s++) {
        float e = vmath_exp((upper - cum[s]) + (lower - cum[SSD_TILE + s]));

        d[s] = s < lo || s > hi ? 0.0f : e;
    }
}

/* dst [n,Pp] = f[i] src [n,P] with zero padding */
static inline void ssd_scale_rows(const struct ssd_tile *u, const float *f, int64_t P, const float *src,
                                  int64_t lds, float *dst, int64_t ldd)
{
    for (int64_t i = 0; i < u->n; i++)
        gemm_pack(1, P, src + i * lds, lds, f[i], dst + i * ldd, ldd);
}

/* d[s] = d[last,s], f[s] = dt[s] d[s]; returns what is left of S_in at the tile's end */
static inline float ssd_tail_weights(const struct ssd_tile *u, const float *dt, const float *cum, float *d,
                                     float *f)
{
    int64_t last = u->n - 1;

    ssd_decay_row(u, cum, last, d);
    for (int64_t s = 0; s < u->n; s++)
        f[s] = dt[s] * d[s];
    return u->in[last] ? vmath_exp(cum[last]) : 0.0f;
}

#endif
