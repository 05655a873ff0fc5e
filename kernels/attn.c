/* attn.c - causal attention in tiles, grouped keys and values
 * SPDX-License-Identifier: MIT
 *
 * o = softmax(f(scale q k^T)) v over the keys of the query's document and window up to the query itself
 * (Dao et al. 2022, alg. 1; backward: Dao 2023, alg. 2). A tile is TILE queries x TILE keys. Scores
 * are held transposed, [key][query]: then both products read keys and values as they lie, maximum
 * and sum over the keys run down the columns without sums across a vector, and only q is transposed,
 * once per tile of queries. Tiles lie at multiples of TILE, counted from the first key, whatever the
 * window; tiles of keys that no query of a tile sees are passed over.
 *
 * Forward, per tile of queries: running maximum `top` and sum over the tiles of keys, the output
 * rescaled when the maximum grows. Backward: p = exp(score - lse); dv += p^T do, with
 * ds = p (do v^T - rowsum(do o)) f': dq += ds k scale, dk += ds^T q scale. With r = s/softcap, where
 * s is the capped score, f' = 1 - r^2.
 *
 * A job of the backward pass is a lane of one key head: a run of query tiles of its query heads, head by
 * head. It adds to a dk, dv of its own; those are then added in order. Lanes are of about the same cost, and
 * there are as many as keep about LANES threads busy: numbers that depend on the shape only.
 */
#include <math.h>
#include <string.h>

#include "cpu.h"
#include "gemm.h"
#include "vmath.h"

#define TILE 64
#define LANES 16
#define LEAST 4        /* pairs of tiles of a lane for each tile of its dk, dv, which costs about 0.4 pairs */
#define STEP 4         /* query heads that one thread steps together */
#define NEVER (-1e30f) /* a score that no real one is below: exp(NEVER - real) = 0 */

struct plan {
    int64_t dp, rep; /* head dim, padded; query heads of a key head */
    int64_t first;   /* the first key that a query may see, a multiple of TILE */
    int64_t qtiles, ktiles, lanes;
    int64_t cost; /* pairs of tiles of one query head, for lanes */
    /* `work`, in floats: keys and values from `first` on, packed, [B,Hkv][2][room,dp]; partial dk and dv,
     * [B,Hkv,lanes][2][room,dp]; scratch of each thread, and its size */
    int64_t room, packed, parts, thread, own, total;
};

static int64_t first_in_window(const struct attn *a, int64_t pos)
{
    return a->window ? cpu_max(0, pos - a->window + 1) : 0;
}

/* Tiles of keys that query tile i runs over, documents aside. */
static int64_t tiles_of(const struct attn *a, int64_t i)
{
    int64_t pos = a->q0 + i * TILE, end = a->q0 + cpu_min(a->T, (i + 1) * TILE);

    return cpu_ceil(end, TILE) - first_in_window(a, pos) / TILE;
}

static struct plan make_plan(const struct attn *a)
{
    struct plan p = { 0 };
    int64_t rows = a->S, pairs; /* pairs of tiles for each tile of keys, q0 aside */
    int64_t bh = a->B * a->Hkv, most;

    p.dp = gemm_pad(a->hd);
    p.rep = a->Hq / a->Hkv;
    p.first = first_in_window(a, a->q0) / TILE * TILE;
    p.qtiles = cpu_ceil(a->T, TILE);
    p.ktiles = cpu_ceil(a->S - p.first, TILE);
    for (int64_t i = 0; i < p.qtiles; i++)
        p.cost += tiles_of(a, i);
    pairs = p.rep * cpu_min(p.qtiles + 1, a->window ? 2 * cpu_ceil(a->window, TILE) : p.qtiles + 1) / 2;
    p.lanes = cpu_max(1, cpu_min(LANES / cpu_max(1, a->B * a->Hkv), pairs / LEAST));
    /* At least S - first, and never less for a larger q0: a caller may reserve for the longest row. */
    if (a->window)
        rows = cpu_min(rows, a->T + a->window + TILE - 2);
    p.room = cpu_ceil(rows, TILE) * TILE;
    p.parts = a->B * a->Hkv * 2 * p.room * p.dp;
    /* All lanes; not fewer for a greater B, since a caller may reserve for the largest batch. */
    most = cpu_max(bh, cpu_min(LANES, bh * cpu_max(1, pairs / LEAST)));
    p.thread = p.parts + most * 2 * p.room * p.dp;
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
    if (a->window < 0)
        cpu_fault(op, "window", "is negative");
    if (!(a->softcap >= 0))
        cpu_fault(op, "softcap", "is negative");
}

static void check_rows(const struct attn *a, const char *op)
{
    check(a, op);
    if (a->S != a->q0 + a->T)
        cpu_fault(op, "S", "is not q0 + T");
    if (a->S > a->Smax)
        cpu_fault(op, "S", "is more than Smax");
}

/* A tile of queries of one head. Positions are those of keys: query i stands at pos + i. */
struct tile {
    int64_t b, h, row, n; /* first row in q, number of queries */
    int64_t pos;
    int64_t first;    /* first key that any of them sees */
    int64_t all;      /* first key that all of them see, if they stand behind it */
    int64_t lo[TILE]; /* first key that each sees */
};

static void find_tile(const struct attn *a, int64_t b, int64_t h, int64_t tile, struct tile *u)
{
    u->b = b;
    u->h = h;
    u->row = b * a->T + tile * TILE;
    u->n = cpu_min(TILE, a->T - tile * TILE);
    u->pos = a->q0 + tile * TILE;
    u->first = a->S;
    u->all = 0;
    for (int64_t t = 0; t < TILE; t++) {
        int64_t i = cpu_min(t, u->n - 1);

        u->lo[t] = cpu_max(first_in_window(a, u->pos + i), a->q0 + cpu_start(a->start, u->row + i));
        u->first = cpu_min(u->first, u->lo[t]);
        u->all = cpu_max(u->all, u->lo[t]);
    }
}

/* Keys k0 .. k0+n-1: is every one seen by every query? */
static bool all_seen(const struct tile *u, int64_t k0, int64_t n)
{
    return u->all <= k0 && k0 + n - 1 <= u->pos;
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

/* s [count] = softcap tanh(s/softcap) */
static void cap_scores(const struct attn *a, int64_t count, float *s)
{
    float cap = (float)a->softcap, inv = (float)(1 / a->softcap);

#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        s[i] = cap * vmath_tanh(s[i] * inv);
}

/* Row `key` of the packed keys (part 0) or values (part 1) that head h of sequence b attends to. */
static float *packed_row(const struct attn *a, const struct plan *p, float *w, int64_t b, int64_t h,
                         int64_t part, int64_t key)
{
    return w + p->packed + (((b * a->Hkv + h / p->rep) * 2 + part) * p->room + key - p->first) * p->dp;
}

/* All keys and values as contiguous tiles, which every query tile then reads: in place their rows would
 * lie a multiple of some KiB apart, in few sets of the cache. To be called by all threads. */
static void pack_keys(const struct attn *a, const struct plan *p, float *w)
{
    int64_t each = a->Hkv * p->ktiles;

#pragma omp for schedule(static)
    for (int64_t job = 0; job < a->B * each; job++) {
        int64_t b = job / each, g = job % each / p->ktiles, k0 = p->first + job % p->ktiles * TILE;
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
        if (a->softcap > 0)
            cap_scores(a, n * TILE, s);
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

    check_rows(a, "attn_fwd");
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

/* Scores s [n,TILE], capped and masked, and do v^T in ds: become p and the gradient of the scores. */
static void bwd_scores(const struct attn *a, int64_t n, const float *lse, const float *delta, float *s,
                       float *ds)
{
    float inv = a->softcap > 0 ? (float)(1 / a->softcap) : 0.0f;

    for (int64_t j = 0; a->softcap > 0 && j < n; j++)
#pragma omp simd
        for (int64_t t = 0; t < TILE; t++) {
            float r = s[j * TILE + t] * inv, e = vmath_exp(s[j * TILE + t] - lse[t]);

            r = r < -1.0f ? -1.0f : r; /* NEVER squared would be infinite */
            s[j * TILE + t] = e;
            ds[j * TILE + t] = e * (ds[j * TILE + t] - delta[t]) * (1.0f - r * r);
        }
    for (int64_t j = 0; a->softcap == 0 && j < n; j++)
#pragma omp simd
        for (int64_t t = 0; t < TILE; t++) {
            float e = vmath_exp(s[j * TILE + t] - lse[t]);

            s[j * TILE + t] = e;
            ds[j * TILE + t] = e * (ds[j * TILE + t] - delta[t]);
        }
}

/* One tile of queries of one head: writes its dq, adds to dk, dv [room,dp] of the job. */
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
        if (a->softcap > 0)
            cap_scores(a, n * TILE, s);
        if (!all_seen(u, k0, n))
            mask(u, k0, n, s);
        gemm_small(n, TILE, a->hd, v, dp, 1, gT, TILE, 0.0f, ds, TILE);
        bwd_scores(a, n, lse, delta, s, ds);
        gemm_small(n, dp, u->n, s, TILE, 1, g, dp, 1.0f, dv + (k0 - p->first) * dp, dp);
        gemm_small(n, dp, u->n, ds, TILE, 1, q, dp, 1.0f, dk + (k0 - p->first) * dp, dp);
        gemm_small(u->n, dp, n, ds, 1, TILE, k, dp, k0 == u->first / TILE * TILE ? 0.0f : 1.0f, dq, dp);
    }
    for (int64_t t = 0; t < u->n; t++)
        gemm_pack(1, a->hd, dq + t * dp, dp, (float)a->scale, cpu_row(&a->dq, u->row + t) + u->h * a->hd,
                  a->hd);
}

/* The query tiles of a lane, counted over all query heads of a key head: [at[0], at[1]). The lane begins
 * where the cost of the tiles before reaches its share of the whole. */
static void find_lane(const struct attn *a, const struct plan *p, int64_t lane, int64_t at[2])
{
    for (int64_t i = 0; i < 2; i++) {
        int64_t left = p->rep * p->cost * (lane + i) / p->lanes, n = left / cpu_max(1, p->cost) * p->qtiles;

        left %= cpu_max(1, p->cost);
        for (int64_t k = 0; left > 0; k++, n++)
            left -= tiles_of(a, k);
        at[i] = n;
    }
}

/* Rows of dk and dv of one key: the lanes' parts in order; zero if no query sees it. */
static void add_lanes(const struct attn *a, const struct plan *p, const float *part, int64_t b, int64_t g,
                      int64_t key)
{
    int64_t half = p->room * p->dp;
    float *dst[2] = { cpu_row(&a->dk, b * a->Smax + key) + g * a->hd,
                      cpu_row(&a->dv, b * a->Smax + key) + g * a->hd };

    part += (b * a->Hkv + g) * p->lanes * 2 * half + (key - p->first) * p->dp;
    for (int64_t i = 0; i < 2; i++)
        for (int64_t l = 0; l < p->lanes; l++) {
            const float *from = part + (2 * l + i) * half;

            if (key < p->first)
                memset(dst[i], 0, (size_t)a->hd * sizeof(float));
            else if (l == 0)
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

    check_rows(a, "attn_bwd");
    CPU_NEED("attn_bwd", a, dout);
    CPU_NEED("attn_bwd", a, dq);
    CPU_NEED("attn_bwd", a, dk);
    CPU_NEED("attn_bwd", a, dv);
    if (!a->lse)
        cpu_fault("attn_bwd", "lse", "is absent");
    p = make_plan(a);
#pragma omp parallel
    {
        int64_t half = p.room * p.dp;
        float *own = w + p.thread + cpu_thread() * p.own;
        unsigned mode = cpu_flush_begin();
        struct tile u;

        pack_keys(a, &p, w);
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < a->B * a->Hkv * p.lanes; job++) {
            int64_t b = job / p.lanes / a->Hkv, h = job / p.lanes % a->Hkv * p.rep, at[2];
            float *dk = w + p.parts + job * 2 * half, *dv = dk + half;

            find_lane(a, &p, job % p.lanes, at);
            memset(dk, 0, (size_t)(p.ktiles * TILE * p.dp) * sizeof(float));
            memset(dv, 0, (size_t)(p.ktiles * TILE * p.dp) * sizeof(float));
            for (int64_t i = at[0]; i < at[1]; i++) {
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

/* Up to STEP query heads h .. h+n-1 of one key head over the keys in sight, a block of keys at a time with a
 * running maximum per head, so that a block is read from memory once. Blocks are cut by the keys' numbers,
 * not by their rows: the size of the ring does not change the result. acc: [STEP,hd] scratch */
static void step_heads(const struct attn *a, int64_t b, int64_t h, int64_t n, float *acc)
{
    int64_t col = h / (a->Hq / a->Hkv) * a->hd, hd = a->hd;
    float top[STEP], sum[STEP] = { 0 }, s[TILE];

    for (int64_t i = 0; i < n; i++)
        top[i] = NEVER;
    memset(acc, 0, (size_t)(n * hd) * sizeof(float));
    for (int64_t k0 = first_in_window(a, a->S - 1); k0 < a->S; k0 += TILE) {
        int64_t keys = cpu_min(TILE, a->S - k0), row[TILE];

        for (int64_t j = 0; j < keys; j++)
            row[j] = b * a->Smax + (k0 + j) % a->Smax;
        for (int64_t i = 0; i < n; i++) {
            const float *q = cpu_row(&a->q, b) + (h + i) * hd;
            float most = top[i], fade, *o = acc + i * hd;

            for (int64_t j = 0; j < keys; j++) {
                const float *kj = cpu_row(&a->k, row[j]) + col;
                float d = 0;

#pragma omp simd reduction(+ : d)
                for (int64_t c = 0; c < hd; c++)
                    d += q[c] * kj[c];
                s[j] = d * (float)a->scale;
            }
            if (a->softcap > 0)
                cap_scores(a, keys, s);
            for (int64_t j = 0; j < keys; j++)
                most = s[j] > most ? s[j] : most;
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
                const float *vj = cpu_row(&a->v, row[j]) + col;

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
    float *w = cpu_scratch("attn_step", a->work);
    int64_t rep, per, size = cpu_round(STEP * gemm_pad(a->hd));

    check(a, "attn_step");
    if (a->Smax < (a->window ? cpu_min(a->S, a->window) : a->S))
        cpu_fault("attn_step", "Smax", "is less than the keys in sight");
    rep = a->Hq / a->Hkv;
    per = cpu_ceil(rep, STEP); /* jobs of a key head */
#pragma omp parallel
    {
        unsigned mode = cpu_flush_begin();

#pragma omp for schedule(static)
        for (int64_t job = 0; job < a->B * a->Hkv * per; job++) {
            int64_t b = job / per / a->Hkv, first = job % per * STEP;

            /* at the front of the scratch, less than `own` of any plan: S may grow with the same scratch */
            step_heads(a, b, job / per % a->Hkv * rep + first, cpu_min(STEP, rep - first),
                       w + cpu_thread() * size);
        }
        cpu_flush_end(mode);
    }
}
