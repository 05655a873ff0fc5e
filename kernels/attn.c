/* attn.c - causal attention in tiles, grouped keys and values
 * SPDX-License-Identifier: MIT
 *
 * o = softmax(scale q k^T) v over the keys of the query's document up to the query itself
 * (Dao et al. 2022, alg. 1; backward: Dao 2023, alg. 2). A tile is TILE queries x TILE keys. Scores
 * are held transposed, [key][query]: then both products read keys and values as they lie, maximum
 * and sum over the keys run down the columns without sums across a vector, and only q is transposed,
 * once per tile of queries.
 *
 * Forward, per tile of queries: running maximum `top` and sum over the tiles of keys, the output
 * rescaled when the maximum grows. Backward: p = exp(score - lse); dv += p^T do, with
 * ds = p (do v^T - rowsum(do o)): dq += ds k scale, dk += ds^T q scale.
 *
 * A job of the backward pass is one or several query heads of one key head: it runs through its heads
 * and query tiles in order and adds to a dk, dv of its own; those are then added in order. There are
 * as many jobs as keep about LANES threads busy, a number that depends on the shape only.
 */
#include <math.h>
#include <string.h>

#include "cpu.h"
#include "gemm.h"
#include "vmath.h"

#define TILE 64
#define LANES 16
#define STEP 4         /* query heads that one thread steps together */
#define NEVER (-1e30f) /* a score that no real one is below: exp(NEVER - real) = 0 */

struct plan {
    int64_t dp, rep; /* head dim, padded; query heads of a key head */
    int64_t qtiles, ktiles, lanes;
    /* parts of `work`, in floats: keys and values, packed, [B,Hkv][2][S,dp]; partial dk and dv,
     * [B,Hkv,lanes][2][ktiles*TILE,dp]; scratch of each thread, and its size */
    int64_t packed, parts, thread, own, total;
};

static struct plan make_plan(const struct attn *a)
{
    struct plan p = { 0 };

    p.dp = gemm_pad(a->hd);
    p.rep = a->Hq / a->Hkv;
    p.qtiles = cpu_ceil(a->T, TILE);
    p.ktiles = cpu_ceil(a->S, TILE);
    p.lanes = 1;
    for (int64_t n = 2; n <= p.rep && n * a->B * a->Hkv <= LANES; n++)
        if (p.rep % n == 0)
            p.lanes = n;
    p.parts = a->B * a->Hkv * 2 * a->S * p.dp;
    p.thread = p.parts + a->B * a->Hkv * p.lanes * 2 * p.ktiles * TILE * p.dp;
    /* q, q^T, do, do^T, dq or o: [TILE,dp] or [hd,TILE]; scores, their gradient */
    p.own = 5 * TILE * p.dp + 2 * TILE * TILE;
    p.total = p.thread + cpu_threads() * p.own;
    return p;
}

size_t cpu_attn_work(const struct attn *a) { return (size_t)make_plan(a).total * sizeof(float) + CPU_SLACK; }

static void check(const struct attn *a, const char *op)
{
    CPU_NEED(op, a, q);
    CPU_NEED(op, a, k);
    CPU_NEED(op, a, v);
    CPU_NEED(op, a, o);
    if (a->Hkv < 1 || a->Hq % a->Hkv)
        cpu_fault(op, "Hkv", "does not divide Hq");
}

/* A tile of queries of one head. Positions are those of keys: query i stands at pos + i. */
struct tile {
    int64_t b, h, row, n; /* first row in q, number of queries */
    int64_t pos;
    int64_t first;    /* first key that any of them sees */
    int64_t lo[TILE]; /* first key that each sees */
};

static void find_tile(const struct attn *a, int64_t b, int64_t h, int64_t i, struct tile *u)
{
    u->b = b;
    u->h = h;
    u->row = b * a->T + i * TILE;
    u->n = cpu_min(TILE, a->T - i * TILE);
    u->pos = a->q0 + i * TILE;
    u->first = a->S;
    for (int64_t t = 0; t < TILE; t++) {
        u->lo[t] = cpu_max(0, a->q0 + cpu_start(a->start, u->row + cpu_min(t, u->n - 1)));
        u->first = cpu_min(u->first, u->lo[t]);
    }
}

/* Keys k0 .. k0+n-1, transposed scores [n,TILE]: is every key seen by every query? */
static bool all_seen(const struct tile *u, int64_t k0, int64_t n)
{
    bool yes = k0 + n - 1 <= u->pos;

    for (int64_t t = 0; yes && t < u->n; t++)
        yes = u->lo[t] <= k0;
    return yes;
}

/* s [n,TILE] = NEVER where the query does not see the key */
static void mask(const struct tile *u, int64_t k0, int64_t n, float *s)
{
    int32_t lo[TILE], hi[TILE];

    for (int64_t t = 0; t < TILE; t++) {
        lo[t] = (int32_t)cpu_min(TILE, cpu_max(0, u->lo[t] - k0));
        hi[t] = (int32_t)cpu_max(-1, cpu_min(TILE, u->pos + t - k0));
    }
    for (int32_t k = 0; k < n; k++)
#pragma omp simd
        for (int64_t t = 0; t < TILE; t++)
            s[k * TILE + t] = k < lo[t] || k > hi[t] ? NEVER : s[k * TILE + t];
}

/* Row `key` of the packed keys (part 0) or values (part 1) that head h of sequence b attends to. */
static float *packed_row(const struct attn *a, const struct plan *p, float *w, int64_t b, int64_t h,
                         int64_t part, int64_t key)
{
    return w + p->packed + (((b * a->Hkv + h / p->rep) * 2 + part) * a->S + key) * p->dp;
}

/* All keys and values as contiguous tiles, which every query tile then reads: in place their rows would
 * lie a multiple of some KiB apart, in few sets of the cache. To be called by all threads. */
static void pack_keys(const struct attn *a, const struct plan *p, float *w)
{
    int64_t each = a->Hkv * p->ktiles;

#pragma omp for schedule(static)
    for (int64_t job = 0; job < a->B * each; job++) {
        int64_t b = job / each, g = job % each / p->ktiles, k0 = job % p->ktiles * TILE;
        int64_t n = cpu_min(TILE, a->S - k0), row = b * a->Smax + k0;

        gemm_pack(n, a->hd, cpu_row(&a->k, row) + g * a->hd, a->k.ld, 1.0f,
                  packed_row(a, p, w, b, g * p->rep, 0, k0), p->dp);
        gemm_pack(n, a->hd, cpu_row(&a->v, row) + g * a->hd, a->v.ld, 1.0f,
                  packed_row(a, p, w, b, g * p->rep, 1, k0), p->dp);
    }
}

/* dst [dp rows of TILE]: the transpose of src [n,dp], zero columns beyond n */
static void transpose_queries(const struct attn *a, int64_t n, int64_t dp, const float *src, float *dst)
{
    if (n < TILE)
        memset(dst, 0, (size_t)(a->hd * TILE) * sizeof(float));
    gemm_transpose(n, a->hd, src, dp, dst, TILE);
}

static void fwd_tile(const struct attn *a, const struct plan *p, float *w, const struct tile *u, float *own)
{
    int64_t dp = p->dp, size = TILE * dp, last = cpu_min(a->S, u->pos + u->n);
    float *q = own, *qT = own + size, *o = own + 2 * size, *s = own + 5 * size;
    float top[TILE], sum[TILE], fade[TILE];

    gemm_pack(u->n, a->hd, cpu_row(&a->q, u->row) + u->h * a->hd, a->q.ld, (float)a->scale, q, dp);
    transpose_queries(a, u->n, dp, q, qT);
    for (int64_t t = 0; t < TILE; t++) {
        top[t] = NEVER;
        sum[t] = 0;
    }
    memset(o, 0, (size_t)size * sizeof(float));
    for (int64_t k0 = u->first / TILE * TILE; k0 < last; k0 += TILE) {
        int64_t n = cpu_min(TILE, last - k0);
        const float *k = packed_row(a, p, w, u->b, u->h, 0, k0);
        const float *v = packed_row(a, p, w, u->b, u->h, 1, k0);

        gemm_small(n, TILE, a->hd, k, dp, 1, qT, TILE, 0.0f, s, TILE);
        if (!all_seen(u, k0, n))
            mask(u, k0, n, s);
        memcpy(fade, top, sizeof(fade));
        for (int64_t j = 0; j < n; j++)
#pragma omp simd
            for (int64_t t = 0; t < TILE; t++)
                top[t] = s[j * TILE + t] > top[t] ? s[j * TILE + t] : top[t];
#pragma omp simd
        for (int64_t t = 0; t < TILE; t++) {
            fade[t] = vmath_exp(fade[t] - top[t]);
            sum[t] *= fade[t];
        }
        for (int64_t j = 0; j < n; j++)
#pragma omp simd
            for (int64_t t = 0; t < TILE; t++) {
                float e = s[j * TILE + t], m = top[t];

                /* a query that has seen no key yet has top = NEVER, and exp(0) would count */
                e = e == NEVER ? 0.0f : vmath_exp(e - m);
                s[j * TILE + t] = e;
                sum[t] += e;
            }
        for (int64_t t = 0; t < u->n; t++)
#pragma omp simd
            for (int64_t c = 0; c < dp; c++)
                o[t * dp + c] *= fade[t];
        gemm_small(u->n, dp, n, s, 1, TILE, v, dp, 1.0f, o, dp);
    }
    for (int64_t t = 0; t < u->n; t++) {
        gemm_pack(1, a->hd, o + t * dp, dp, 1.0f / sum[t], cpu_row(&a->o, u->row + t) + u->h * a->hd, a->hd);
        if (a->lse)
            a->lse[(u->b * a->Hq + u->h) * a->T + u->row - u->b * a->T + t] =
                (float)((double)top[t] + log((double)sum[t]));
    }
}

void cpu_attn_fwd(const struct attn *a)
{
    struct plan p;
    float *w = cpu_scratch("attn_fwd", a->work);

    check(a, "attn_fwd");
    p = make_plan(a);
#pragma omp parallel
    {
        float *own = w + p.thread + cpu_thread() * p.own;
        unsigned mode = cpu_flush_begin();
        struct tile u;

        pack_keys(a, &p, w);
        /* The last tiles cost most: they are handed out first, each to whoever is free. */
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < a->B * a->Hq * p.qtiles; job++) {
            int64_t bh = job % (a->B * a->Hq), i = p.qtiles - 1 - job / (a->B * a->Hq);

            find_tile(a, bh / a->Hq, bh % a->Hq, i, &u);
            fwd_tile(a, &p, w, &u, own);
        }
        cpu_flush_end(mode);
    }
}

/* One tile of queries of one head: writes its dq, adds to dk, dv [ktiles*TILE,dp] of the job. */
static void bwd_tile(const struct attn *a, const struct plan *p, float *w, const struct tile *u, float *dk,
                     float *dv, float *own)
{
    int64_t dp = p->dp, size = TILE * dp, last = cpu_min(a->S, u->pos + u->n);
    float *q = own, *qT = own + size, *g = own + 2 * size, *gT = own + 3 * size;
    float *dq = own + 4 * size, *s = own + 5 * size, *ds = s + TILE * TILE;
    float lse[TILE] = { 0 }, delta[TILE] = { 0 };
    const float *saved = a->lse + (u->b * a->Hq + u->h) * a->T + u->row - u->b * a->T;

    gemm_pack(u->n, a->hd, cpu_row(&a->q, u->row) + u->h * a->hd, a->q.ld, (float)a->scale, q, dp);
    gemm_pack(u->n, a->hd, cpu_row(&a->dout, u->row) + u->h * a->hd, a->dout.ld, 1.0f, g, dp);
    transpose_queries(a, u->n, dp, q, qT);
    transpose_queries(a, u->n, dp, g, gT);
    for (int64_t t = 0; t < u->n; t++) {
        const float *o = cpu_row(&a->o, u->row + t) + u->h * a->hd;
        float sum = 0;

#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < a->hd; c++)
            sum += g[t * dp + c] * o[c];
        delta[t] = sum;
        lse[t] = saved[t];
    }
    for (int64_t k0 = u->first / TILE * TILE; k0 < last; k0 += TILE) {
        int64_t n = cpu_min(TILE, last - k0);
        const float *k = packed_row(a, p, w, u->b, u->h, 0, k0);
        const float *v = packed_row(a, p, w, u->b, u->h, 1, k0);

        gemm_small(n, TILE, a->hd, k, dp, 1, qT, TILE, 0.0f, s, TILE);
        if (!all_seen(u, k0, n))
            mask(u, k0, n, s);
        gemm_small(n, TILE, a->hd, v, dp, 1, gT, TILE, 0.0f, ds, TILE);
        for (int64_t j = 0; j < n; j++)
#pragma omp simd
            for (int64_t t = 0; t < TILE; t++) {
                float e = vmath_exp(s[j * TILE + t] - lse[t]);

                s[j * TILE + t] = e;
                ds[j * TILE + t] = e * (ds[j * TILE + t] - delta[t]);
            }
        gemm_small(n, dp, u->n, s, TILE, 1, g, dp, 1.0f, dv + k0 * dp, dp);
        gemm_small(n, dp, u->n, ds, TILE, 1, q, dp, 1.0f, dk + k0 * dp, dp);
        gemm_small(u->n, dp, n, ds, 1, TILE, k, dp, k0 == u->first / TILE * TILE ? 0.0f : 1.0f, dq, dp);
    }
    for (int64_t t = 0; t < u->n; t++)
        gemm_pack(1, a->hd, dq + t * dp, dp, (float)a->scale, cpu_row(&a->dq, u->row + t) + u->h * a->hd,
                  a->hd);
}

/* Rows of dk and dv of one key: the lanes' parts in order. */
static void add_lanes(const struct attn *a, const struct plan *p, const float *part, int64_t b, int64_t g,
                      int64_t key)
{
    int64_t half = p->ktiles * TILE * p->dp;
    float *dst[2] = { cpu_row(&a->dk, b * a->Smax + key) + g * a->hd,
                      cpu_row(&a->dv, b * a->Smax + key) + g * a->hd };

    part += (b * a->Hkv + g) * p->lanes * 2 * half + key * p->dp;
    for (int64_t i = 0; i < 2; i++)
        for (int64_t l = 0; l < p->lanes; l++) {
            const float *from = part + (2 * l + i) * half;

            if (l == 0)
                memcpy(dst[i], from, (size_t)a->hd * sizeof(float));
            else
#pragma omp simd
                for (int64_t c = 0; c < a->hd; c++)
                    dst[i][c] += from[c];
        }
}

void cpu_attn_bwd(const struct attn *a)
{
    struct plan p;
    float *w = cpu_scratch("attn_bwd", a->work);

    check(a, "attn_bwd");
    CPU_NEED("attn_bwd", a, dout);
    CPU_NEED("attn_bwd", a, dq);
    CPU_NEED("attn_bwd", a, dk);
    CPU_NEED("attn_bwd", a, dv);
    if (!a->lse)
        cpu_fault("attn_bwd", "lse", "is absent");
    p = make_plan(a);
#pragma omp parallel
    {
        int64_t half = p.ktiles * TILE * p.dp, heads = p.rep / p.lanes;
        float *own = w + p.thread + cpu_thread() * p.own;
        unsigned mode = cpu_flush_begin();
        struct tile u;

        pack_keys(a, &p, w);
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < a->B * a->Hkv * p.lanes; job++) {
            int64_t b = job / p.lanes / a->Hkv, h = job % (a->Hkv * p.lanes) * heads;
            float *dk = w + p.parts + job * 2 * half, *dv = dk + half;

            memset(dk, 0, (size_t)(2 * half) * sizeof(float));
            for (int64_t i = 0; i < heads * p.qtiles; i++) {
                find_tile(a, b, h + i / p.qtiles, i % p.qtiles, &u);
                bwd_tile(a, &p, w, &u, dk, dv, own);
            }
        }
#pragma omp for schedule(static)
        for (int64_t job = 0; job < a->B * a->Hkv * a->S; job++)
            add_lanes(a, &p, w + p.parts, job / a->S / a->Hkv, job / a->S % a->Hkv, job % a->S);
        cpu_flush_end(mode);
    }
}

/* Up to STEP query heads h .. h+n-1 of one key head over S keys, a block of keys at a time with a running
 * maximum per head, so that a block is read from memory once. acc: [STEP,hd] scratch */
static void step_heads(const struct attn *a, int64_t b, int64_t h, int64_t n, float *acc)
{
    int64_t col = h / (a->Hq / a->Hkv) * a->hd, hd = a->hd;
    float top[STEP], sum[STEP] = { 0 }, s[TILE];

    for (int64_t i = 0; i < n; i++)
        top[i] = NEVER;
    memset(acc, 0, (size_t)(n * hd) * sizeof(float));
    for (int64_t k0 = 0; k0 < a->S; k0 += TILE) {
        int64_t keys = cpu_min(TILE, a->S - k0);
        const float *k = cpu_row(&a->k, b * a->Smax + k0) + col;
        const float *v = cpu_row(&a->v, b * a->Smax + k0) + col;

        for (int64_t i = 0; i < n; i++) {
            const float *q = cpu_row(&a->q, b) + (h + i) * hd;
            float most = top[i], fade, *o = acc + i * hd;

            for (int64_t j = 0; j < keys; j++) {
                const float *kj = k + j * a->k.ld;
                float d = 0;

#pragma omp simd reduction(+ : d)
                for (int64_t c = 0; c < hd; c++)
                    d += q[c] * kj[c];
                s[j] = d * (float)a->scale;
                most = s[j] > most ? s[j] : most;
            }
            fade = vmath_exp(top[i] - most);
            top[i] = most;
            sum[i] *= fade;
#pragma omp simd
            for (int64_t j = 0; j < keys; j++)
                s[j] = vmath_exp(s[j] - most);
#pragma omp simd
            for (int64_t c = 0; c < hd; c++)
                o[c] *= fade;
            for (int64_t j = 0; j < keys; j++) {
                const float *vj = v + j * a->v.ld;

                sum[i] += s[j];
#pragma omp simd
                for (int64_t c = 0; c < hd; c++)
                    o[c] += s[j] * vj[c];
            }
        }
    }
    for (int64_t i = 0; i < n; i++) {
        gemm_pack(1, hd, acc + i * hd, hd, 1.0f / sum[i], cpu_row(&a->o, b) + (h + i) * hd, hd);
        if (a->lse)
            a->lse[b * a->Hq + h + i] = (float)((double)top[i] + log((double)sum[i]));
    }
}

void cpu_attn_step(const struct attn *a)
{
    struct plan p;
    float *w = cpu_scratch("attn_step", a->work);
    int64_t per;

    check(a, "attn_step");
    p = make_plan(a);
    per = cpu_ceil(p.rep, STEP); /* jobs of a key head */
#pragma omp parallel
    {
        unsigned mode = cpu_flush_begin();

#pragma omp for schedule(static)
        for (int64_t job = 0; job < a->B * a->Hkv * per; job++) {
            int64_t b = job / per / a->Hkv, first = job % per * STEP;

            step_heads(a, b, job / per % a->Hkv * p.rep + first, cpu_min(STEP, p.rep - first),
                       w + p.thread + cpu_thread() * p.own);
        }
        cpu_flush_end(mode);
    }
}
