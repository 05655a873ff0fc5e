/* ssd.c - state-space duality: forward, and one step
 * SPDX-License-Identifier: MIT
 *
 * The algorithm, and the names of its quantities, stand at the top of ssd_tile.h.
 */
#include <math.h>
#include <string.h>

#include "ssd_tile.h"

size_t cpu_ssd_work(const struct ssd *a)
{
    return (size_t)ssd_make_plan(a).total * sizeof(float) + CPU_SLACK;
}

struct fwd_scratch {
    float *xd, *M, *y; /* [SSD_TILE,Pp], [SSD_TILE,SSD_TILE], [SSD_TILE,Pp] */
};

/* One tile of one head, forward; S [N,Pp] goes from the tile's entry to its end. */
static void fwd_tile(const struct ssd *a, const struct ssd_plan *p, float *w, const struct ssd_tile *u,
                     int64_t h, float *S, const struct fwd_scratch *z)
{
    int64_t g = h / p->rep, row = u->b * a->T + u->t0, Pp = p->Pp, n = u->n;
    const float *Bp = ssd_group_tile(a, p, w, p->Bp, u, g, SSD_TILE * p->Np);
    const float *Cp = ssd_group_tile(a, p, w, p->Cp, u, g, SSD_TILE * p->Np);
    const float *CB = ssd_group_tile(a, p, w, p->CB, u, g, SSD_TILE * SSD_TILE);
    const float *dt = ssd_head_tile(a, p, w, p->dt, u, h, 3 * SSD_TILE), *cum = dt + SSD_TILE;
    const float *x = cpu_row(&a->x, row) + h * a->P;
    float *y = Pp == a->P ? cpu_row(&a->y, row) + h * a->P : z->y;
    int64_t ldy = Pp == a->P ? a->y.ld : Pp;
    float D = ((const float *)a->D.data)[h], d[SSD_TILE], f[SSD_TILE], keep;

    gemm_small(n, Pp, a->N, Cp, p->Np, 1, S, Pp, 0.0f, y, ldy);
    for (int64_t t = 0; t < n; t++) {
        const float *xt = x + t * a->x.ld, *CBt = CB + t * SSD_TILE;
        float *yt = y + t * ldy, *Mt = z->M + t * SSD_TILE, e = vmath_exp(cum[t]);

        if (u->in[t]) {
#pragma omp simd
            for (int64_t c = 0; c < a->P; c++)
                yt[c] = e * yt[c] + D * xt[c];
        } else {
#pragma omp simd
            for (int64_t c = 0; c < a->P; c++)
                yt[c] = D * xt[c];
        }
        ssd_decay_row(u, cum, t, Mt);
#pragma omp simd
        for (int64_t s = 0; s < (t | 15) + 1; s++)
            Mt[s] *= CBt[s];
    }
    ssd_scale_rows(u, dt, a->P, x, a->x.ld, z->xd, Pp);
    for (int64_t r = 0; r < n; r += 16)
        gemm_small(cpu_min(16, n - r), Pp, cpu_min(n, r + 16), z->M + r * SSD_TILE, SSD_TILE, 1, z->xd, Pp,
                   1.0f, y + r * ldy, ldy);
    for (int64_t t = 0; y == z->y && t < n; t++)
        memcpy(cpu_row(&a->y, row + t) + h * a->P, z->y + t * Pp, (size_t)a->P * sizeof(float));
    keep = ssd_tail_weights(u, dt, cum, d, f);
    ssd_scale_rows(u, f, a->P, x, a->x.ld, z->xd, Pp);
    gemm_small(a->N, Pp, n, Bp, 1, p->Np, z->xd, Pp, keep, S, Pp);
}

/* One head over a span, forward; S [N,Pp] is carried, the chunks' entering states are saved. */
static void fwd_span(const struct ssd *a, const struct ssd_plan *p, float *w, int64_t b, int64_t h,
                     int64_t c0, float *own)
{
    struct fwd_scratch z = { own, own + SSD_TILE * p->Pp, own + SSD_TILE * p->Pp + SSD_TILE * SSD_TILE };
    float *S = w + p->carry + (b * a->H + h) * cpu_round(cpu_max(a->N * p->Pp, a->P * p->Np));
    struct ssd_tile u;

    if (c0 == 0) {
        memset(S, 0, (size_t)(a->N * p->Pp) * sizeof(float));
        if (a->h0.data)
            gemm_transpose(a->P, a->N, cpu_row(&a->h0, (b * a->H + h) * a->P), a->h0.ld, S, p->Pp);
    }
    for (int64_t k = 0; k < p->tiles; k++) {
        if (!ssd_find_tile(a, p, b, c0, k, &u))
            continue;
        if (a->states.data && k % p->per == 0)
            gemm_transpose(a->N, a->P, S, p->Pp,
                           cpu_row(&a->states, ((b * p->chunks + c0 + k / p->per) * a->H + h) * a->P), a->states.ld);
        fwd_tile(a, p, w, &u, h, S, &z);
    }
    if (c0 + p->span >= p->chunks && a->hT.data)
        gemm_transpose(a->N, a->P, S, p->Pp, cpu_row(&a->hT, (b * a->H + h) * a->P), a->hT.ld);
}

void cpu_ssd_fwd(const struct ssd *a)
{
    struct ssd_plan p;
    float *w = cpu_scratch("ssd_fwd", a->work);

    ssd_check(a, "ssd_fwd");
    CPU_NEED("ssd_fwd", a, y);
    if (a->B < 1 || a->T < 1)
        return;
    p = ssd_make_plan(a);
#pragma omp parallel
    {
        float *own = w + p.thread + cpu_thread() * p.own;
        unsigned mode = cpu_flush_begin();
        struct ssd_tile u;

        for (int64_t c0 = 0; c0 < p.chunks; c0 += p.span) {
#pragma omp for schedule(static)
            for (int64_t job = 0; job < a->B * p.tiles; job++)
                if (ssd_find_tile(a, &p, job / p.tiles, c0, job % p.tiles, &u))
                    ssd_share_tile(a, &p, w, &u, own);
#pragma omp for schedule(static)
            for (int64_t job = 0; job < a->B * a->H; job++)
                fwd_span(a, &p, w, job / a->H, job % a->H, c0, own);
        }
        cpu_flush_end(mode);
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
    float dt = ssd_clamp(vmath_softplus(raw), (float)a->dt_min, (float)a->dt_max);
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
    ssd_check(a, "ssd_step");
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
