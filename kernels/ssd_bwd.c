/* ssd_bwd.c - state-space duality: backward
 * SPDX-License-Identifier: MIT
 *
 * The algorithm, and the names of its quantities, stand at the top of ssd_tile.h. From the saved state of
 * a chunk the states that enter its tiles are made again; then the tiles are taken from the last to the
 * first, with the gradient of the state carried along.
 */
#include <math.h>
#include <string.h>

#include "ssd_tile.h"

struct bwd_scratch {
    float *x, *dy, *xd, *dxd, *dxs,
        *xdT;     /* [SSD_TILE,Pp] five times; [P,SSD_TILE], later edy [SSD_TILE,Pp] */
    float *M, *G; /* [SSD_TILE,SSD_TILE] */
    float *dC;    /* [SSD_TILE,Np] */
    float *dST;   /* [N,Pp]: dS transposed */
    float *S;     /* [per, P,Np]: the states that enter the chunk's tiles */
};

/* The scores of one head: M = C B^T d, dCB (+)= G d, and ddta[j] = sum of R[t,s] over s < j <= t. */
static void bwd_scores(const struct ssd_tile *u, const float *cum, const float *CB, float *G, float *M,
                       bool first, float *dCB, float *ddta)
{
    float col[SSD_TILE] = { 0 }, d[SSD_TILE];

    for (int64_t t = u->n - 1; t >= 0; t--) {
        int64_t wide = (t | 15) + 1;
        const float *CBt = CB + t * SSD_TILE, *Gt = G + t * SSD_TILE;
        float *Mt = M + t * SSD_TILE, *dCBt = dCB + t * SSD_TILE, sum = 0;

        ssd_decay_row(u, cum, t, d);
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
static void bwd_tile(const struct ssd *a, const struct ssd_plan *p, float *w, const struct ssd_tile *u,
                     int64_t h, int64_t lane, bool first, const float *S, float *dS,
                     const struct bwd_scratch *z, double *sums)
{
    int64_t g = h / p->rep, row = u->b * a->T + u->t0, Pp = p->Pp, Np = p->Np, n = u->n;
    int64_t part = ((u->b * a->G + g) * p->lanes + lane) * p->tiles + u->slot;
    const float *Bp = ssd_group_tile(a, p, w, p->Bp, u, g, SSD_TILE * Np);
    const float *Cp = ssd_group_tile(a, p, w, p->Cp, u, g, SSD_TILE * Np);
    const float *CB = ssd_group_tile(a, p, w, p->CB, u, g, SSD_TILE * SSD_TILE);
    const float *dt = ssd_head_tile(a, p, w, p->dt, u, h, 3 * SSD_TILE), *cum = dt + SSD_TILE;
    float *dCB = w + p->dCB + part * SSD_TILE * SSD_TILE, *dB = w + p->dB + part * SSD_TILE * Np;
    float *dC = w + p->dC + part * SSD_TILE * Np, *ddt = ssd_head_tile(a, p, w, p->ddt, u, h, SSD_TILE);
    float D = ((const float *)a->D.data)[h], A = -expf(((const float *)a->A_log.data)[h]);
    float bias = ((const float *)a->dt_bias.data)[h], lo = (float)a->dt_min, hi = (float)a->dt_max;
    float ddta[SSD_TILE], d[SSD_TILE], f[SSD_TILE], e[SSD_TILE], past[SSD_TILE], into[SSD_TILE], keep,
        through = 0, run;

    keep = ssd_tail_weights(u, dt, cum, d, f);
    for (int64_t t = 0; t < n; t++)
        e[t] = u->in[t] ? vmath_exp(cum[t]) : 0.0f;
    gemm_pack(n, a->P, cpu_row(&a->x, row) + h * a->P, a->x.ld, 1.0f, z->x, Pp);
    gemm_pack(n, a->P, cpu_row(&a->dy, row) + h * a->P, a->dy.ld, 1.0f, z->dy, Pp);
    ssd_scale_rows(u, dt, a->P, z->x, Pp, z->xd, Pp);

    /* inside the tile */
    if (n < SSD_TILE)
        memset(z->xdT, 0, (size_t)(a->P * SSD_TILE) * sizeof(float));
    gemm_transpose(n, a->P, z->xd, Pp, z->xdT, SSD_TILE);
    ssd_gemm_lower(n, a->P, z->dy, Pp, z->xdT, z->G);
    bwd_scores(u, cum, CB, z->G, z->M, first, dCB, ddta);
    for (int64_t s = 0; s < n; s += 16)
        gemm_small(cpu_min(16, n - s), Pp, n - s, z->M + s * SSD_TILE + s, 1, SSD_TILE, z->dy + s * Pp, Pp,
                   0.0f, z->dxd + s * Pp, Pp);

    /* through the state that leaves: dxs = d[last,s] dt[s] B dS, dB += d[last,s] dt[s] x dS */
    gemm_transpose(a->P, a->N, dS, Np, z->dST, Pp);
    gemm_small(n, Pp, a->N, Bp, Np, 1, z->dST, Pp, 0.0f, z->dxs, Pp);
    ssd_scale_rows(u, f, a->P, z->x, Pp, z->xd, Pp);
    gemm_small(n, Np, a->P, z->xd, Pp, 1, dS, Np, first ? 0.0f : 1.0f, dB, Np);
    for (int64_t s = 0; s < n; s++)
        past[s] = dot(a->P, z->xd + s * Pp, z->dxs + s * Pp);

    /* through the state that enters: dC += e dy S */
    ssd_scale_rows(u, e, a->P, z->dy, Pp, z->xdT, Pp);
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
static int64_t chunk_states(const struct ssd *a, const struct ssd_plan *p, float *w, int64_t b, int64_t h,
                            int64_t c0, int64_t first, const struct bwd_scratch *z)
{
    int64_t size = cpu_round(cpu_max(a->N * p->Pp, a->P * p->Np)), k = 0;
    int64_t chunk = c0 + first / p->per;
    float d[SSD_TILE], f[SSD_TILE], keep;
    struct ssd_tile u, next;

    if (!ssd_find_tile(a, p, b, c0, first, &u))
        return 0;
    gemm_pack(a->P, a->N, cpu_row(&a->states, ((b * p->chunks + chunk) * a->H + h) * a->P), a->states.ld, 1.0f, z->S,
              p->Np);
    for (k = 1; k < p->per && ssd_find_tile(a, p, b, c0, first + k, &next); k++) {
        const float *dt = ssd_head_tile(a, p, w, p->dt, &u, h, 3 * SSD_TILE), *cum = dt + SSD_TILE;
        float *S = z->S + k * size;

        keep = ssd_tail_weights(&u, dt, cum, d, f);
        ssd_scale_rows(&u, f, a->P, cpu_row(&a->x, b * a->T + u.t0) + h * a->P, a->x.ld, z->xd, p->Pp);
        memcpy(S, S - size, (size_t)(a->P * p->Np) * sizeof(float));
        gemm_small(a->P, p->Np, u.n, z->xd, 1, p->Pp,
                   ssd_group_tile(a, p, w, p->Bp, &u, h / p->rep, SSD_TILE * p->Np), p->Np, keep, S, p->Np);
        u = next;
    }
    return k;
}

/* One head over a span, backward: chunks and tiles from the last to the first. */
static void bwd_span(const struct ssd *a, const struct ssd_plan *p, float *w, int64_t b, int64_t h,
                     int64_t lane, bool first, int64_t c0, float *own)
{
    int64_t size = cpu_round(cpu_max(a->N * p->Pp, a->P * p->Np)), bh = b * a->H + h;
    int64_t xs = SSD_TILE * p->Pp, ts = SSD_TILE * SSD_TILE;
    struct bwd_scratch z = {
        .x = own,
        .dy = own + xs,
        .xd = own + 2 * xs,
        .dxd = own + 3 * xs,
        .dxs = own + 4 * xs,
        .xdT = own + 5 * xs,
        .M = own + 6 * xs,
        .G = own + 6 * xs + ts,
        .dC = own + 6 * xs + 2 * ts,
    };
    float *dS = w + p->carry + bh * size;
    double *sums = (double *)(void *)(w + p->sums) + bh * 4;
    struct ssd_tile u;

    z.dST = z.dC + SSD_TILE * p->Np;
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
            if (ssd_find_tile(a, p, b, c0, c * p->per + k, &u))
                bwd_tile(a, p, w, &u, h, lane, first, z.S + k * size, dS, &z, sums);
        }
    }
    if (c0 == 0 && a->dh0.data)
        for (int64_t r = 0; r < a->P; r++)
            memcpy(cpu_row(&a->dh0, bh * a->P + r), dS + r * p->Np, (size_t)a->N * sizeof(float));
}

/* dst [n], of lane 0, += the same elements of the other lanes, which lie stride apart, in order */
static void add_lanes(int64_t lanes, int64_t stride, int64_t n, float *dst)
{
    for (int64_t l = 1; l < lanes; l++)
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            dst[i] += dst[l * stride + i];
}

/* Phase 3: dB, dC and ddt_raw of one tile and group. */
static void bwd_group(const struct ssd *a, const struct ssd_plan *p, float *w, const struct ssd_tile *u,
                      int64_t g)
{
    int64_t part = (u->b * a->G + g) * p->lanes * p->tiles + u->slot, n = u->n, Np = p->Np;
    int64_t row = u->b * a->T + u->t0;
    const float *Bp = ssd_group_tile(a, p, w, p->Bp, u, g, SSD_TILE * Np);
    const float *Cp = ssd_group_tile(a, p, w, p->Cp, u, g, SSD_TILE * Np);
    float *dCB = w + p->dCB + part * SSD_TILE * SSD_TILE, *dB = w + p->dB + part * SSD_TILE * Np;
    float *dC = w + p->dC + part * SSD_TILE * Np;

    for (int64_t t = 0; t < n; t++)
        add_lanes(p->lanes, p->tiles * SSD_TILE * SSD_TILE, (t | 15) + 1, dCB + t * SSD_TILE);
    add_lanes(p->lanes, p->tiles * SSD_TILE * Np, n * Np, dB);
    add_lanes(p->lanes, p->tiles * SSD_TILE * Np, n * Np, dC);
    for (int64_t r = 0; r < n; r += 16) {
        int64_t m = cpu_min(16, n - r);

        gemm_small(m, Np, cpu_min(n, r + 16), dCB + r * SSD_TILE, SSD_TILE, 1, Bp, Np, 1.0f, dC + r * Np, Np);
        gemm_small(m, Np, n - r, dCB + r * SSD_TILE + r, 1, SSD_TILE, Cp + r * Np, Np, 1.0f, dB + r * Np, Np);
    }
    for (int64_t t = 0; t < n; t++) {
        float *to = cpu_row(&a->ddt_raw, row + t);

        memcpy(cpu_row(&a->dBm, row + t) + g * a->N, dB + t * Np, (size_t)a->N * sizeof(float));
        memcpy(cpu_row(&a->dCm, row + t) + g * a->N, dC + t * Np, (size_t)a->N * sizeof(float));
        for (int64_t h = g * p->rep; h < (g + 1) * p->rep; h++)
            to[h] = ssd_head_tile(a, p, w, p->ddt, u, h, SSD_TILE)[t];
    }
}

static void check_bwd(const struct ssd *a)
{
    ssd_check(a, "ssd_bwd");
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
    CPU_NEED("ssd_bwd", a, states);
}

void cpu_ssd_bwd(const struct ssd *a)
{
    struct ssd_plan p;
    float *w = cpu_scratch("ssd_bwd", a->work);
    const double *sums;

    check_bwd(a);
    if (a->B < 1 || a->T < 1)
        return;
    p = ssd_make_plan(a);
#pragma omp parallel
    {
        float *own = w + p.thread + cpu_thread() * p.own;
        unsigned mode = cpu_flush_begin();
        struct ssd_tile u;

        for (int64_t c0 = (p.chunks - 1) / p.span * p.span; c0 >= 0; c0 -= p.span) {
#pragma omp for schedule(static)
            for (int64_t job = 0; job < a->B * p.tiles; job++)
                if (ssd_find_tile(a, &p, job / p.tiles, c0, job % p.tiles, &u))
                    ssd_share_tile(a, &p, w, &u, own);
#pragma omp for schedule(static)
            for (int64_t job = 0; job < a->B * a->G * p.lanes; job++) {
                int64_t lane = job % p.lanes, g = job / p.lanes % a->G, b = job / p.lanes / a->G;
                int64_t heads = p.rep / p.lanes, h = g * p.rep + lane * heads;

                for (int64_t i = 0; i < heads; i++)
                    bwd_span(a, &p, w, b, h + i, lane, i == 0, c0, own);
            }
#pragma omp for schedule(static)
            for (int64_t job = 0; job < a->B * a->G * p.tiles; job++)
                if (ssd_find_tile(a, &p, job / p.tiles / a->G, c0, job % p.tiles, &u))
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
