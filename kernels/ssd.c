/* ssd.c - state-space duality (Mamba-2), chunked, forward, backward and one step
 * SPDX-License-Identifier: MIT
 *
 *   dt = clamp(softplus(dt_raw + dt_bias)),  a = -exp(A_log),  S[t] = exp(dt a) S[t-1] + dt x (x) B,
 *   y = S C + D x                                        (Dao & Gu 2024, eq. 16 and sect. 6)
 *
 * A chunk of Q tokens is cut into tiles of at most TILE. With cum[t] the sum of dt a from the tile's
 * first token to t, and d[t,s] = exp(cum[t] - cum[s]) for s <= t of one document, else 0:
 *   y[t]   = sum_s (C B^T)[t,s] d[t,s] dt[s] x[s]  +  exp(cum[t]) C[t] S_in  +  D x[t]
 *   S_out  = exp(cum[last]) S_in + sum_s d[last,s] dt[s] B[s] (x) x[s]
 * Differences of cum are <= 0, so no exp overflows. Tokens whose document began inside the tile do
 * not see S_in.
 *
 * Backward, G[t,s] = dy[t] . dt[s] x[s], and R[t,s] = G d (C B^T) for s < t:
 *   d(C B^T)[t,s] = G d, summed over the heads of a group before it is multiplied by B and C;
 *   d(dt a)[j] = sum of R[t,s] over s < j <= t, plus what reaches past j through S_in and S_out.
 * The sum over R is formed from positive-only ranges, never as a difference of two cumulative sums.
 *
 * Work is done in spans of whole chunks, in phases between which the threads meet:
 *   1 per tile:  B, C packed, C B^T per group, dt and cum of all heads
 *   2 per head (backward: per few heads of a group): the tiles in order, the state carried along
 *   3 backward, per tile and group: dB and dC, summed over the heads in fixed order
 * So memory for C B^T and for the partial sums is that of a span, for any T.
 * Scratch tiles are padded with zeros to whole vectors: Pp, Np are P, N rounded up.
 */
#include <math.h>
#include <string.h>

#include "cpu.h"
#include "gemm.h"
#include "vmath.h"

#define TILE 64
#define SPAN 256   /* tokens that a span has at least, unless T is less */
#define LANES 32   /* independent pieces of phase 2 that the backward pass aims at */
#define HEADS 64   /* heads whose dt is made at once, on the stack */

/* Sizes, and where the parts of `work` begin (in floats). */
struct plan {
    int64_t Pp, Np, rep;    /* rep = heads of a group */
    int64_t chunks, per;    /* chunks of a sequence; tiles of a chunk */
    int64_t span, tiles;    /* chunks and tiles of a span */
    int64_t lanes;          /* pieces that the heads of a group are cut into, divides rep */
    int64_t Bp, Cp, CB;     /* [B,G,tiles,TILE,Np] twice, [B,G,tiles,TILE,TILE] */
    int64_t dt;             /* [B,H,tiles, 3,TILE]: dt, upper and lower part of cum */
    int64_t carry;          /* [B,H,N,Pp] forward: S; [B,H,P,Np] backward: dS */
    int64_t dCB, dB, dC;    /* [B,G,lanes,tiles, TILE,TILE or TILE,Np]: partial sums */
    int64_t ddt;            /* [B,H,tiles,TILE] */
    int64_t sums;           /* [B,H,4] of double: dA_log, ddt_bias, dD, unused */
    int64_t thread, own;    /* scratch of each thread, and its size */
    int64_t total;
};

static struct plan make_plan(const struct ssd *a)
{
    struct plan p = { 0 };
    int64_t state, bg = a->B * a->G, bh = a->B * a->H;

    p.Pp = gemm_pad(a->P);
    p.Np = gemm_pad(a->N);
    p.rep = a->H / a->G;
    p.chunks = cpu_ceil(a->T, a->Q);
    p.per = cpu_ceil(cpu_min(a->Q, a->T), TILE);
    p.span = cpu_min(p.chunks, cpu_ceil(SPAN, a->Q));
    p.tiles = p.span * p.per;
    p.lanes = 1;
    for (int64_t n = 2; n <= p.rep && n * bg <= LANES; n++)
        if (p.rep % n == 0)
            p.lanes = n;
    state = cpu_max(a->N * p.Pp, a->P * p.Np);
    p.Cp = p.Bp + bg * p.tiles * TILE * p.Np;
    p.CB = p.Cp + bg * p.tiles * TILE * p.Np;
    p.dt = p.CB + bg * p.tiles * TILE * TILE;
    p.carry = p.dt + bh * p.tiles * 3 * TILE;
    p.dCB = p.carry + bh * cpu_round(state);
    p.dB = p.dCB + bg * p.lanes * p.tiles * TILE * TILE;
    p.dC = p.dB + bg * p.lanes * p.tiles * TILE * p.Np;
    p.ddt = p.dC + bg * p.lanes * p.tiles * TILE * p.Np;
    p.sums = p.ddt + bh * p.tiles * TILE;
    p.thread = p.sums + cpu_round(bh * 8);
    /* as struct bwd_scratch has it; forward and phase 1 need less */
    p.own = 6 * TILE * p.Pp + 2 * TILE * TILE + TILE * p.Np + cpu_round(state) * (p.per + 1);
    p.total = p.thread + cpu_threads() * p.own;
    return p;
}

size_t cpu_ssd_work(const struct ssd *a)
{
    return (size_t)make_plan(a).total * sizeof(float) + CPU_SLACK;
}

static void check(const struct ssd *a, const char *op)
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
struct tile {
    int64_t b, t0, n;       /* tokens t0 .. t0+n-1 */
    int64_t slot;           /* its place in the span's buffers */
    int64_t lo[TILE];       /* first row of the tile that token t may see */
    bool in[TILE];          /* token t sees the state that enters the tile */
    bool docs;              /* some token does not see all before it */
};

/* Tile k (0 .. tiles-1) of the span that begins at chunk c0; false when it holds no token. */
static bool find_tile(const struct ssd *a, const struct plan *p, int64_t b, int64_t c0, int64_t k,
                      struct tile *u)
{
    int64_t first = (c0 + k / p->per) * a->Q, t0 = first + k % p->per * TILE;
    int64_t end = cpu_min(cpu_min(first + a->Q, a->T), t0 + TILE);

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

static float *group_tile(const struct ssd *a, const struct plan *p, float *w, int64_t part,
                         const struct tile *u, int64_t g, int64_t size)
{
    return w + part + ((u->b * a->G + g) * p->tiles + u->slot) * size;
}

static float *head_tile(const struct ssd *a, const struct plan *p, float *w, int64_t part,
                        const struct tile *u, int64_t h, int64_t size)
{
    return w + part + ((u->b * a->H + h) * p->tiles + u->slot) * size;
}

static float clampf(float v, float lo, float hi)
{
    v = v < lo ? lo : v;
    return v > hi ? hi : v;
}

/* dt [TILE] and its running sum times a, as the sum of two floats [2,TILE], for all heads of a tile;
 * rows beyond n are zero. With the lower part a difference of two sums keeps its digits however strong
 * the decay between them and the tile's first token is. */
static void make_decay(const struct ssd *a, const struct plan *p, float *w, const struct tile *u)
{
    const float *bias = a->dt_bias.data, *alog = a->A_log.data;
    float lo = (float)a->dt_min, hi = (float)a->dt_max;

    for (int64_t h0 = 0; h0 < a->H; h0 += HEADS) {
        int64_t n = cpu_min(HEADS, a->H - h0), step = p->tiles * 3 * TILE;
        float dt[HEADS], upper[HEADS], lower[HEADS], A[HEADS];
        float *to = head_tile(a, p, w, p->dt, u, h0, 3 * TILE);
        double cum[HEADS] = { 0 };

        for (int64_t h = 0; h < n; h++) {
            A[h] = -expf(alog[h0 + h]);
            if (u->n < TILE)
                memset(to + h * step, 0, 3 * TILE * sizeof(float));
        }
        for (int64_t i = 0; i < u->n; i++) {
            const float *raw = cpu_row(&a->dt_raw, u->b * a->T + u->t0 + i) + h0;

#pragma omp simd
            for (int64_t h = 0; h < n; h++) {
                dt[h] = clampf(vmath_softplus(raw[h] + bias[h0 + h]), lo, hi);
                cum[h] += (double)(dt[h] * A[h]);
                upper[h] = (float)cum[h];
                lower[h] = (float)(cum[h] - (double)upper[h]);
            }
            for (int64_t h = 0; h < n; h++) {
                to[h * step + i] = dt[h];
                to[h * step + TILE + i] = upper[h];
                to[h * step + 2 * TILE + i] = lower[h];
            }
        }
    }
}

/* Lower triangle of a product, by blocks of 16 rows: C [n,TILE] = A [n,K] B [K,TILE] up to the
 * diagonal's block. */
static void gemm_lower(int64_t n, int64_t K, const float *a, int64_t lda, const float *b, float *c)
{
    for (int64_t r = 0; r < n; r += 16)
        gemm_small(cpu_min(16, n - r), r + 16, K, a + r * lda, lda, 1, b, TILE, 0.0f, c + r * TILE,
                   TILE);
}

/* Phase 1: what all heads of a tile share. bt: scratch [N,TILE]. */
static void share_tile(const struct ssd *a, const struct plan *p, float *w, const struct tile *u,
                       float *bt)
{
    int64_t row = u->b * a->T + u->t0;

    for (int64_t g = 0; g < a->G; g++) {
        float *Bp = group_tile(a, p, w, p->Bp, u, g, TILE * p->Np);
        float *Cp = group_tile(a, p, w, p->Cp, u, g, TILE * p->Np);

        gemm_pack(u->n, a->N, cpu_row(&a->Bm, row) + g * a->N, a->Bm.ld, 1.0f, Bp, p->Np);
        gemm_pack(u->n, a->N, cpu_row(&a->Cm, row) + g * a->N, a->Cm.ld, 1.0f, Cp, p->Np);
        if (u->n < TILE)
            memset(bt, 0, (size_t)(a->N * TILE) * sizeof(float));
        gemm_transpose(u->n, a->N, Bp, p->Np, bt, TILE);
        gemm_lower(u->n, a->N, Cp, p->Np, bt, group_tile(a, p, w, p->CB, u, g, TILE * TILE));
    }
    make_decay(a, p, w, u);
}

/* d[t,s] of one row t for s < ceil16(t+1), zero where t does not see s; cum [2,TILE] */
static inline void decay_row(const struct tile *u, const float *cum, int64_t t, float *d)
{
    int32_t lo = (int32_t)u->lo[t], hi = (int32_t)t;
    float upper = cum[t], lower = cum[TILE + t];

#pragma omp simd
    for (int32_t s = 0; s < (hi | 15) + 1; s++) {
        float e = vmath_exp((upper - cum[s]) + (lower - cum[TILE + s]));

        d[s] = s < lo || s > hi ? 0.0f : e;
    }
}

/* dst [n,Pp] = f[i] src [n,P] with zero padding */
static void scale_rows(const struct tile *u, const float *f, int64_t P, const float *src,
                       int64_t lds, float *dst, int64_t ldd)
{
    for (int64_t i = 0; i < u->n; i++)
        gemm_pack(1, P, src + i * lds, lds, f[i], dst + i * ldd, ldd);
}

/* d[s] = d[last,s], f[s] = dt[s] d[s]; returns what is left of S_in at the tile's end */
static float tail_weights(const struct tile *u, const float *dt, const float *cum, float *d,
                          float *f)
{
    int64_t last = u->n - 1;

    decay_row(u, cum, last, d);
    for (int64_t s = 0; s < u->n; s++)
        f[s] = dt[s] * d[s];
    return u->in[last] ? vmath_exp(cum[last]) : 0.0f;
}

struct fwd_scratch {
    float *xd, *M, *y;      /* [TILE,Pp], [TILE,TILE], [TILE,Pp] */
};

/* One tile of one head, forward; S [N,Pp] goes from the tile's entry to its end. */
static void fwd_tile(const struct ssd *a, const struct plan *p, float *w, const struct tile *u,
                     int64_t h, float *S, const struct fwd_scratch *z)
{
    int64_t g = h / p->rep, row = u->b * a->T + u->t0, Pp = p->Pp, n = u->n;
    const float *Bp = group_tile(a, p, w, p->Bp, u, g, TILE * p->Np);
    const float *Cp = group_tile(a, p, w, p->Cp, u, g, TILE * p->Np);
    const float *CB = group_tile(a, p, w, p->CB, u, g, TILE * TILE);
    const float *dt = head_tile(a, p, w, p->dt, u, h, 3 * TILE), *cum = dt + TILE;
    const float *x = cpu_row(&a->x, row) + h * a->P;
    float *y = Pp == a->P ? cpu_row(&a->y, row) + h * a->P : z->y;
    int64_t ldy = Pp == a->P ? a->y.ld : Pp;
    float D = ((const float *)a->D.data)[h], d[TILE], f[TILE], keep;

    gemm_small(n, Pp, a->N, Cp, p->Np, 1, S, Pp, 0.0f, y, ldy);
    for (int64_t t = 0; t < n; t++) {
        const float *xt = x + t * a->x.ld, *CBt = CB + t * TILE;
        float *yt = y + t * ldy, *Mt = z->M + t * TILE, e = vmath_exp(cum[t]);

        if (u->in[t]) {
#pragma omp simd
            for (int64_t c = 0; c < a->P; c++)
                yt[c] = e * yt[c] + D * xt[c];
        } else {
#pragma omp simd
            for (int64_t c = 0; c < a->P; c++)
                yt[c] = D * xt[c];
        }
        decay_row(u, cum, t, Mt);
#pragma omp simd
        for (int64_t s = 0; s < (t | 15) + 1; s++)
            Mt[s] *= CBt[s];
    }
    scale_rows(u, dt, a->P, x, a->x.ld, z->xd, Pp);
    for (int64_t r = 0; r < n; r += 16)
        gemm_small(cpu_min(16, n - r), Pp, cpu_min(n, r + 16), z->M + r * TILE, TILE, 1, z->xd, Pp,
                   1.0f, y + r * ldy, ldy);
    for (int64_t t = 0; y == z->y && t < n; t++)
        memcpy(cpu_row(&a->y, row + t) + h * a->P, z->y + t * Pp, (size_t)a->P * sizeof(float));
    keep = tail_weights(u, dt, cum, d, f);
    scale_rows(u, f, a->P, x, a->x.ld, z->xd, Pp);
    gemm_small(a->N, Pp, n, Bp, 1, p->Np, z->xd, Pp, keep, S, Pp);
}

/* One head over a span, forward; S [N,Pp] is carried, the chunks' entering states are saved. */
static void fwd_span(const struct ssd *a, const struct plan *p, float *w, int64_t b, int64_t h,
                     int64_t c0, float *own)
{
    struct fwd_scratch z = { own, own + TILE * p->Pp, own + TILE * p->Pp + TILE * TILE };
    float *S = w + p->carry + (b * a->H + h) * cpu_round(cpu_max(a->N * p->Pp, a->P * p->Np));
    struct tile u;

    if (c0 == 0) {
        memset(S, 0, (size_t)(a->N * p->Pp) * sizeof(float));
        if (a->h0.data)
            gemm_transpose(a->P, a->N, cpu_row(&a->h0, (b * a->H + h) * a->P), a->h0.ld, S, p->Pp);
    }
    for (int64_t k = 0; k < p->tiles; k++) {
        if (!find_tile(a, p, b, c0, k, &u))
            continue;
        if (a->states && k % p->per == 0)
            gemm_transpose(a->N, a->P, S, p->Pp,
                           a->states + ((b * p->chunks + c0 + k / p->per) * a->H + h) * a->P * a->N,
                           a->N);
        fwd_tile(a, p, w, &u, h, S, &z);
    }
    if (c0 + p->span >= p->chunks && a->hT.data)
        gemm_transpose(a->N, a->P, S, p->Pp, cpu_row(&a->hT, (b * a->H + h) * a->P), a->hT.ld);
}

void cpu_ssd_fwd(const struct ssd *a)
{
    struct plan p;
    float *w = cpu_scratch("ssd_fwd", a->work);

    check(a, "ssd_fwd");
    CPU_NEED("ssd_fwd", a, y);
    if (a->B < 1 || a->T < 1)
        return;
    p = make_plan(a);
#pragma omp parallel
    {
        float *own = w + p.thread + cpu_thread() * p.own;
        unsigned mode = cpu_flush_begin();
        struct tile u;

        for (int64_t c0 = 0; c0 < p.chunks; c0 += p.span) {
#pragma omp for schedule(static)
            for (int64_t job = 0; job < a->B * p.tiles; job++)
                if (find_tile(a, &p, job / p.tiles, c0, job % p.tiles, &u))
                    share_tile(a, &p, w, &u, own);
#pragma omp for schedule(static)
            for (int64_t job = 0; job < a->B * a->H; job++)
                fwd_span(a, &p, w, job / a->H, job % a->H, c0, own);
        }
        cpu_flush_end(mode);
    }
}

struct bwd_scratch {
    float *x, *dy, *xd, *dxd, *dxs, *xdT; /* [TILE,Pp] five times; [P,TILE], later edy [TILE,Pp] */
    float *M, *G;                         /* [TILE,TILE] */
    float *dC;                            /* [TILE,Np] */
    float *dST;                           /* [N,Pp]: dS transposed */
    float *S;                             /* [per, P,Np]: the states that enter the chunk's tiles */
};

/* The scores of one head: M = C B^T d, dCB (+)= G d, and ddta[j] = sum of R[t,s] over s < j <= t. */
static void bwd_scores(const struct tile *u, const float *cum, const float *CB, float *G, float *M,
                       bool first, float *dCB, float *ddta)
{
    float col[TILE] = { 0 }, d[TILE];

    for (int64_t t = u->n - 1; t >= 0; t--) {
        int64_t wide = (t | 15) + 1;
        const float *CBt = CB + t * TILE, *Gt = G + t * TILE;
        float *Mt = M + t * TILE, *dCBt = dCB + t * TILE, sum = 0;

        decay_row(u, cum, t, d);
#pragma omp simd
        for (int64_t s = 0; s < wide; s++) {
            Mt[s] = CBt[s] * d[s];
            d[s] *= Gt[s];
        }
        if (first)
            memcpy(dCBt, d, (size_t)wide * sizeof(float));
        else
#pragma omp simd
            for (int64_t s = 0; s < wide; s++)
                dCBt[s] += d[s];
#pragma omp simd reduction(+ : sum)
        for (int64_t s = 0; s < t; s++) {
            col[s] += d[s] * CBt[s];
            sum += col[s];
        }
        ddta[t] = sum;
    }
}

static float dot(int64_t n, const float *a, const float *b)
{
    float sum = 0;

#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* One tile of one head, backward. S [P,Np]: the entering state; dS [P,Np] goes from the gradient of
 * the tile's last state to that of its entering state. lane: the partial sums this head adds to. */
static void bwd_tile(const struct ssd *a, const struct plan *p, float *w, const struct tile *u,
                     int64_t h, int64_t lane, bool first, const float *S, float *dS,
                     const struct bwd_scratch *z, double *sums)
{
    int64_t g = h / p->rep, row = u->b * a->T + u->t0, Pp = p->Pp, Np = p->Np, n = u->n;
    int64_t part = ((u->b * a->G + g) * p->lanes + lane) * p->tiles + u->slot;
    const float *Bp = group_tile(a, p, w, p->Bp, u, g, TILE * Np);
    const float *Cp = group_tile(a, p, w, p->Cp, u, g, TILE * Np);
    const float *CB = group_tile(a, p, w, p->CB, u, g, TILE * TILE);
    const float *dt = head_tile(a, p, w, p->dt, u, h, 3 * TILE), *cum = dt + TILE;
    float *dCB = w + p->dCB + part * TILE * TILE, *dB = w + p->dB + part * TILE * Np;
    float *dC = w + p->dC + part * TILE * Np, *ddt = head_tile(a, p, w, p->ddt, u, h, TILE);
    float D = ((const float *)a->D.data)[h], A = -expf(((const float *)a->A_log.data)[h]);
    float bias = ((const float *)a->dt_bias.data)[h], lo = (float)a->dt_min, hi = (float)a->dt_max;
    float ddta[TILE], d[TILE], f[TILE], e[TILE], past[TILE], into[TILE], keep, through = 0, run;

    keep = tail_weights(u, dt, cum, d, f);
    for (int64_t t = 0; t < n; t++)
        e[t] = u->in[t] ? vmath_exp(cum[t]) : 0.0f;
    gemm_pack(n, a->P, cpu_row(&a->x, row) + h * a->P, a->x.ld, 1.0f, z->x, Pp);
    gemm_pack(n, a->P, cpu_row(&a->dy, row) + h * a->P, a->dy.ld, 1.0f, z->dy, Pp);
    scale_rows(u, dt, a->P, z->x, Pp, z->xd, Pp);

    /* inside the tile */
    if (n < TILE)
        memset(z->xdT, 0, (size_t)(a->P * TILE) * sizeof(float));
    gemm_transpose(n, a->P, z->xd, Pp, z->xdT, TILE);
    gemm_lower(n, a->P, z->dy, Pp, z->xdT, z->G);
    bwd_scores(u, cum, CB, z->G, z->M, first, dCB, ddta);
    for (int64_t s = 0; s < n; s += 16)
        gemm_small(cpu_min(16, n - s), Pp, n - s, z->M + s * TILE + s, 1, TILE, z->dy + s * Pp, Pp,
                   0.0f, z->dxd + s * Pp, Pp);

    /* through the state that leaves: dxs = d[last,s] dt[s] B dS, dB += d[last,s] dt[s] x dS */
    gemm_transpose(a->P, a->N, dS, Np, z->dST, Pp);
    gemm_small(n, Pp, a->N, Bp, Np, 1, z->dST, Pp, 0.0f, z->dxs, Pp);
    scale_rows(u, f, a->P, z->x, Pp, z->xd, Pp);
    gemm_small(n, Np, a->P, z->xd, Pp, 1, dS, Np, first ? 0.0f : 1.0f, dB, Np);
    for (int64_t s = 0; s < n; s++)
        past[s] = dot(a->P, z->xd + s * Pp, z->dxs + s * Pp);

    /* through the state that enters: dC += e dy S */
    scale_rows(u, e, a->P, z->dy, Pp, z->xdT, Pp);
    gemm_small(n, Np, a->P, z->xdT, Pp, 1, S, Np, 0.0f, z->dC, Np);
    for (int64_t t = 0; t < n; t++) {
        const float *from = z->dC + t * Np;
        float *to = dC + t * Np;

        into[t] = dot(a->N, Cp + t * Np, from);
#pragma omp simd
        for (int64_t c = 0; c < Np; c++)
            to[c] = first ? from[c] : to[c] + from[c];
    }
    if (u->in[n - 1])
        through = keep * dot(a->P * Np, S, dS);
    gemm_small(a->P, Np, n, z->xdT, 1, Pp, Cp, Np, keep, dS, Np);

    /* d(dt a)[j]: + S_in's part of later tokens, + earlier tokens' part of S_out, + S_in in S_out */
    run = 0;
    for (int64_t t = n - 1; t >= 0; t--) {
        run += into[t];
        ddta[t] += run + through;
    }
    run = 0;
    for (int64_t t = 0; t < n; t++) {
        ddta[t] += run;
        run += past[t];
    }

    for (int64_t t = 0; t < n; t++) {
        const float *x = z->x + t * Pp, *dy = z->dy + t * Pp, *dxs = z->dxs + t * Pp;
        const float *dxd = z->dxd + t * Pp;
        float *dx = cpu_row(&a->dx, row + t) + h * a->P, v = dt[t], tail = d[t];
        float raw = cpu_row(&a->dt_raw, row + t)[h] + bias, soft = vmath_softplus(raw);
        float gdt = 0, gD = 0;

#pragma omp simd reduction(+ : gdt, gD)
        for (int64_t c = 0; c < a->P; c++) {
            float gx = dxd[c] + tail * dxs[c];

            gdt += gx * x[c];
            gD += dy[c] * x[c];
            dx[c] = v * gx + D * dy[c];
        }
        gdt += A * ddta[t];
        ddt[t] = soft < lo || soft > hi ? 0.0f : gdt * vmath_sigmoid(raw);
        sums[0] += (double)(ddta[t] * v * A);
        sums[1] += (double)ddt[t];
        sums[2] += (double)gD;
    }
}

/* The states [P,Np] that enter the tiles of a chunk, from the saved one. first: the chunk's tile 0 */
static int64_t chunk_states(const struct ssd *a, const struct plan *p, float *w, int64_t b,
                            int64_t h, int64_t c0, int64_t first, const struct bwd_scratch *z)
{
    int64_t size = cpu_round(cpu_max(a->N * p->Pp, a->P * p->Np)), k = 0;
    int64_t chunk = c0 + first / p->per;
    float d[TILE], f[TILE], keep;
    struct tile u, next;

    if (!find_tile(a, p, b, c0, first, &u))
        return 0;
    gemm_pack(a->P, a->N, a->states + ((b * p->chunks + chunk) * a->H + h) * a->P * a->N, a->N, 1.0f,
              z->S, p->Np);
    for (k = 1; k < p->per && find_tile(a, p, b, c0, first + k, &next); k++) {
        const float *dt = head_tile(a, p, w, p->dt, &u, h, 3 * TILE), *cum = dt + TILE;
        float *S = z->S + k * size;

        keep = tail_weights(&u, dt, cum, d, f);
        scale_rows(&u, f, a->P, cpu_row(&a->x, b * a->T + u.t0) + h * a->P, a->x.ld, z->xd, p->Pp);
        memcpy(S, S - size, (size_t)(a->P * p->Np) * sizeof(float));
        gemm_small(a->P, p->Np, u.n, z->xd, 1, p->Pp,
                   group_tile(a, p, w, p->Bp, &u, h / p->rep, TILE * p->Np), p->Np, keep, S, p->Np);
        u = next;
    }
    return k;
}

/* One head over a span, backward: chunks and tiles from the last to the first. */
static void bwd_span(const struct ssd *a, const struct plan *p, float *w, int64_t b, int64_t h,
                     int64_t lane, bool first, int64_t c0, float *own)
{
    int64_t size = cpu_round(cpu_max(a->N * p->Pp, a->P * p->Np)), bh = b * a->H + h;
    int64_t xs = TILE * p->Pp, ts = TILE * TILE;
    struct bwd_scratch z = {
        .x = own, .dy = own + xs, .xd = own + 2 * xs, .dxd = own + 3 * xs, .dxs = own + 4 * xs,
        .xdT = own + 5 * xs, .M = own + 6 * xs, .G = own + 6 * xs + ts, .dC = own + 6 * xs + 2 * ts,
    };
    float *dS = w + p->carry + bh * size;
    double *sums = (double *)(void *)(w + p->sums) + bh * 4;
    struct tile u;

    z.dST = z.dC + TILE * p->Np;
    z.S = z.dST + size;
    if (c0 + p->span >= p->chunks) {
        memset(dS, 0, (size_t)(a->P * p->Np) * sizeof(float));
        memset(sums, 0, 4 * sizeof(double));
        if (a->dhT.data)
            gemm_pack(a->P, a->N, cpu_row(&a->dhT, bh * a->P), a->dhT.ld, 1.0f, dS, p->Np);
    }
    for (int64_t c = p->span - 1; c >= 0; c--) {
        int64_t k = chunk_states(a, p, w, b, h, c0, c * p->per, &z);

        while (--k >= 0) {
            find_tile(a, p, b, c0, c * p->per + k, &u);
            bwd_tile(a, p, w, &u, h, lane, first, z.S + k * size, dS, &z, sums);
        }
    }
    if (c0 == 0 && a->dh0.data)
        for (int64_t r = 0; r < a->P; r++)
            memcpy(cpu_row(&a->dh0, bh * a->P + r), dS + r * p->Np, (size_t)a->N * sizeof(float));
}

/* dst [n,size] += the lanes 1.. of the same tile, in order; rows are TILE-strided lane blocks */
static void add_lanes(int64_t lanes, int64_t stride, int64_t n, float *dst)
{
    for (int64_t l = 1; l < lanes; l++)
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            dst[i] += dst[l * stride + i];
}

/* Phase 3: dB, dC and ddt_raw of one tile and group. */
static void bwd_group(const struct ssd *a, const struct plan *p, float *w, const struct tile *u,
                      int64_t g)
{
    int64_t part = (u->b * a->G + g) * p->lanes * p->tiles + u->slot, n = u->n, Np = p->Np;
    int64_t row = u->b * a->T + u->t0;
    const float *Bp = group_tile(a, p, w, p->Bp, u, g, TILE * Np);
    const float *Cp = group_tile(a, p, w, p->Cp, u, g, TILE * Np);
    float *dCB = w + p->dCB + part * TILE * TILE, *dB = w + p->dB + part * TILE * Np;
    float *dC = w + p->dC + part * TILE * Np;

    for (int64_t t = 0; t < n; t++)
        add_lanes(p->lanes, p->tiles * TILE * TILE, (t | 15) + 1, dCB + t * TILE);
    add_lanes(p->lanes, p->tiles * TILE * Np, n * Np, dB);
    add_lanes(p->lanes, p->tiles * TILE * Np, n * Np, dC);
    for (int64_t r = 0; r < n; r += 16) {
        int64_t m = cpu_min(16, n - r);

        gemm_small(m, Np, cpu_min(n, r + 16), dCB + r * TILE, TILE, 1, Bp, Np, 1.0f, dC + r * Np,
                   Np);
        gemm_small(m, Np, n - r, dCB + r * TILE + r, 1, TILE, Cp + r * Np, Np, 1.0f, dB + r * Np,
                   Np);
    }
    for (int64_t t = 0; t < n; t++) {
        float *to = cpu_row(&a->ddt_raw, row + t);

        memcpy(cpu_row(&a->dBm, row + t) + g * a->N, dB + t * Np, (size_t)a->N * sizeof(float));
        memcpy(cpu_row(&a->dCm, row + t) + g * a->N, dC + t * Np, (size_t)a->N * sizeof(float));
        for (int64_t h = g * p->rep; h < (g + 1) * p->rep; h++)
            to[h] = head_tile(a, p, w, p->ddt, u, h, TILE)[t];
    }
}

static void check_bwd(const struct ssd *a)
{
    check(a, "ssd_bwd");
    CPU_NEED("ssd_bwd", a, dy);
    CPU_ALLOW("ssd_bwd", a, dhT);
    CPU_NEED("ssd_bwd", a, dx);
    CPU_NEED("ssd_bwd", a, ddt_raw);
    CPU_NEED("ssd_bwd", a, dBm);
    CPU_NEED("ssd_bwd", a, dCm);
    CPU_NEED("ssd_bwd", a, ddt_bias);
    CPU_NEED("ssd_bwd", a, dA_log);
    CPU_NEED("ssd_bwd", a, dD);
    CPU_ALLOW("ssd_bwd", a, dh0);
    if (!a->states)
        cpu_fault("ssd_bwd", "states", "is absent");
}

void cpu_ssd_bwd(const struct ssd *a)
{
    struct plan p;
    float *w = cpu_scratch("ssd_bwd", a->work);
    const double *sums;

    check_bwd(a);
    if (a->B < 1 || a->T < 1)
        return;
    p = make_plan(a);
#pragma omp parallel
    {
        float *own = w + p.thread + cpu_thread() * p.own;
        unsigned mode = cpu_flush_begin();
        struct tile u;

        for (int64_t c0 = (p.chunks - 1) / p.span * p.span; c0 >= 0; c0 -= p.span) {
#pragma omp for schedule(static)
            for (int64_t job = 0; job < a->B * p.tiles; job++)
                if (find_tile(a, &p, job / p.tiles, c0, job % p.tiles, &u))
                    share_tile(a, &p, w, &u, own);
#pragma omp for schedule(static)
            for (int64_t job = 0; job < a->B * a->G * p.lanes; job++) {
                int64_t lane = job % p.lanes, g = job / p.lanes % a->G, b = job / p.lanes / a->G;
                int64_t heads = p.rep / p.lanes, h = g * p.rep + lane * heads;

                for (int64_t i = 0; i < heads; i++)
                    bwd_span(a, &p, w, b, h + i, lane, i == 0, c0, own);
            }
#pragma omp for schedule(static)
            for (int64_t job = 0; job < a->B * a->G * p.tiles; job++)
                if (find_tile(a, &p, job / p.tiles / a->G, c0, job % p.tiles, &u))
                    bwd_group(a, &p, w, &u, job / p.tiles % a->G);
        }
        cpu_flush_end(mode);
    }
    sums = (const double *)(void *)(w + p.sums);
    for (int64_t h = 0; h < a->H; h++)
        for (int64_t b = 0; b < a->B; b++) {
            const double *s = sums + (b * a->H + h) * 4;

            ((float *)a->dA_log.data)[h] += (float)s[0];
            ((float *)a->ddt_bias.data)[h] += (float)s[1];
            ((float *)a->dD.data)[h] += (float)s[2];
        }
}

/* One head of one sequence, one token. */
static void step_head(const struct ssd *a, int64_t b, int64_t h)
{
    int64_t g = h / (a->H / a->G), bh = b * a->H + h;
    const float *x = cpu_row(&a->x, b) + h * a->P;
    const float *Bv = cpu_row(&a->Bm, b) + g * a->N, *Cv = cpu_row(&a->Cm, b) + g * a->N;
    float *y = cpu_row(&a->y, b) + h * a->P, D = ((const float *)a->D.data)[h];
    float raw = cpu_row(&a->dt_raw, b)[h] + ((const float *)a->dt_bias.data)[h];
    float dt = clampf(vmath_softplus(raw), (float)a->dt_min, (float)a->dt_max);
    float keep = vmath_exp(-expf(((const float *)a->A_log.data)[h]) * dt);

    for (int64_t r = 0; r < a->P; r++) {
        float *S = cpu_row(&a->h0, bh * a->P + r), in = dt * x[r], sum = 0;

#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < a->N; c++) {
            S[c] = keep * S[c] + in * Bv[c];
            sum += S[c] * Cv[c];
        }
        y[r] = sum + D * x[r];
    }
}

void cpu_ssd_step(const struct ssd *a)
{
    check(a, "ssd_step");
    CPU_NEED("ssd_step", a, y);
    CPU_NEED("ssd_step", a, h0);
#pragma omp parallel
    {
        unsigned mode = cpu_flush_begin();

#pragma omp for schedule(static)
        for (int64_t job = 0; job < a->B * a->H; job++)
            step_head(a, job / a->H, job % a->H);
        cpu_flush_end(mode);
    }
}
