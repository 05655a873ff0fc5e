/* scan_bwd.c - selective scan: backward
 * SPDX-License-Identifier: MIT
 *
 * The algorithm, its layout, and the names of its quantities stand at the top of scan_block.h. A chunk
 * of several tiles is first run through once, to have the states that enter its tiles.
 */
#include "scan_block.h"

/* What a group of a sequence hands from span to span; in `work`. */
struct carry {
    float *dS, *da;    /* [SCAN_VECS,N,SCAN_VL]: gradient of the state; sum of w dt */
    float *dbias, *dD; /* [SCAN_WIDE] */
};

struct bwd_scratch {
    float *A2, *da;               /* [SCAN_VECS,N,SCAN_VL]; da of one tile */
    float *enter;                 /* [per, SCAN_VECS,N,SCAN_VL]: the states that enter the chunk's tiles */
    float *dt, *u, *dy, *gB, *wA; /* [SCAN_TILE,SCAN_WIDE]; gB = sum_n g B, wA = sum_n w A2 */
    float *E;                     /* [SCAN_TILE, N,SCAN_VL]: decays of one block */
    float *S;                     /* [SCAN_TILE+1, N,SCAN_VL]: state before the tile, then after each token */
    float *dB, *dC;               /* [SCAN_TILE, N,SCAN_VL]: sums over the blocks so far, lane by lane */
};

static struct carry find_carry(const struct scan_plan *p, float *w, int64_t job)
{
    float *k = w + p->carry + job * p->keep;

    return (struct carry){ k, k + p->state, k + 2 * p->state, k + 2 * p->state + SCAN_WIDE };
}

static struct bwd_scratch find_scratch(const struct scan *a, const struct scan_plan *p, float *own)
{
    int64_t row = SCAN_TILE * SCAN_WIDE, tile = SCAN_TILE * a->N * SCAN_VL;
    struct bwd_scratch z = { .A2 = own, .da = own + p->state, .enter = own + 2 * p->state };

    z.dt = z.enter + p->per * p->state;
    z.u = z.dt + row;
    z.dy = z.u + row;
    z.gB = z.dy + row;
    z.wA = z.gB + row;
    z.E = z.wA + row;
    z.dB = z.E + tile;
    z.dC = z.dB + tile;
    z.S = z.dC + tile;
    return z;
}

/* The state of one block after n tokens; dt and u are the block's columns. */
static void pass_block(const struct scan *a, int64_t m, int64_t t0, int64_t n, const float *dt,
                       const float *u, const float *A2, const float *from, float *to)
{
    int64_t N = a->N;

    memcpy(to, from, (size_t)(N * SCAN_VL) * sizeof(float));
    for (int64_t t = 0; t < n; t++) {
        const float *B = cpu_row(&a->Bm, m + t);
        gemm_vec d = scan_load(dt + t * SCAN_WIDE), in = scan_load(u + t * SCAN_WIDE);

        if (scan_resets(a, m, t0, t))
            memset(to, 0, (size_t)(N * SCAN_VL) * sizeof(float));
        for (int64_t k = 0; k < N; k++)
            scan_store(to + k * SCAN_VL,
                       scan_decay(d, scan_load(A2 + k * SCAN_VL)) * scan_load(to + k * SCAN_VL) + in * B[k]);
    }
}

/* The states and decays of the tokens of one block; S[0] is given. */
static void make_states(const struct scan *a, int64_t m, int64_t t0, int64_t n, const float *dt,
                        const float *u, const float *A2, float *S, float *E)
{
    int64_t N = a->N;

    for (int64_t t = 0; t < n; t++) {
        const float *B = cpu_row(&a->Bm, m + t), *old = S + t * N * SCAN_VL;
        float *now = S + (t + 1) * N * SCAN_VL, *e = E + t * N * SCAN_VL;
        gemm_vec d = scan_load(dt + t * SCAN_WIDE), in = scan_load(u + t * SCAN_WIDE);

        if (scan_resets(a, m, t0, t)) {
            for (int64_t k = 0; k < N; k++)
                scan_store(now + k * SCAN_VL, in * B[k]);
            continue;
        }
        for (int64_t k = 0; k < N; k++) {
            gemm_vec keep = scan_decay(d, scan_load(A2 + k * SCAN_VL));

            scan_store(e + k * SCAN_VL, keep);
            scan_store(now + k * SCAN_VL, keep * scan_load(old + k * SCAN_VL) + in * B[k]);
        }
    }
}

/* One token of one block. first: dB and dC are overwritten; resets: the token begins its document. */
static inline __attribute__((always_inline)) void
bwd_token(const bool first, const bool resets, int64_t N, gemm_vec d, gemm_vec in, gemm_vec dy,
          const float *B, const float *C, const float *A2, const float *E, const float *old, const float *now,
          float *dS, float *da, float *dB, float *dC, float *gB, float *wA)
{
    gemm_vec sum_g = { 0 }, sum_w = { 0 };

    for (int64_t i = 0; i < N * SCAN_VL; i += SCAN_VL) {
        int64_t k = i / SCAN_VL;
        gemm_vec g = scan_load(dS + i) + dy * C[k], q = { 0 }, b = g * in, c = dy * scan_load(now + i);

        if (!resets) {
            gemm_vec v;

            q = g * scan_load(E + i);
            v = q * scan_load(old + i);
            sum_w += v * scan_load(A2 + i);
            scan_store(da + i, scan_load(da + i) + v * d);
        }
        scan_store(dS + i, q);
        sum_g += g * B[k];
        scan_store(dB + i, first ? b : scan_load(dB + i) + b);
        scan_store(dC + i, first ? c : scan_load(dC + i) + c);
    }
    scan_store(gB, sum_g);
    scan_store(wA, sum_w);
}

/* One tile of the block whose first column is c, from its last token to its first. */
static void bwd_block(const struct scan *a, int64_t m, int64_t t0, int64_t n, int64_t c, float *dS,
                      const struct bwd_scratch *z)
{
    int64_t N = a->N, size = N * SCAN_VL;
    const float *A2 = z->A2 + c * N;
    float *da = z->da + c * N;

    for (int64_t t = n - 1; t >= 0; t--) {
        const float *B = cpu_row(&a->Bm, m + t), *C = cpu_row(&a->Cm, m + t);
        const float *E = z->E + t * size, *old = z->S + t * size, *now = old + size;
        float *dB = z->dB + t * size, *dC = z->dC + t * size;
        int64_t at = t * SCAN_WIDE + c;
        gemm_vec d = scan_load(z->dt + at), in = scan_load(z->u + at), dy = scan_load(z->dy + at);
        float *gB = z->gB + at, *wA = z->wA + at;

        if (scan_resets(a, m, t0, t)) {
            if (c == 0)
                bwd_token(true, true, N, d, in, dy, B, C, A2, E, old, now, dS, da, dB, dC, gB, wA);
            else
                bwd_token(false, true, N, d, in, dy, B, C, A2, E, old, now, dS, da, dB, dC, gB, wA);
        } else if (c == 0)
            bwd_token(true, false, N, d, in, dy, B, C, A2, E, old, now, dS, da, dB, dC, gB, wA);
        else
            bwd_token(false, false, N, d, in, dy, B, C, A2, E, old, now, dS, da, dB, dC, gB, wA);
    }
}

/* out [count] = the sums of count vectors over their lanes, four at a time */
static void sum_lanes(int64_t count, const float *v, float *out)
{
    int64_t i = 0;

    for (; i + 4 <= count; i += 4) {
        gemm_quad q[4], lo, hi;

#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            const float *from = v + (i + k) * SCAN_VL;

            q[k] = *(const gemm_qmem *)from;
#pragma GCC unroll 4
            for (int l = 4; l < SCAN_VL; l += 4)
                q[k] += *(const gemm_qmem *)(from + l);
        }
        lo =
            __builtin_shufflevector(q[0], q[1], 0, 4, 1, 5) + __builtin_shufflevector(q[0], q[1], 2, 6, 3, 7);
        hi =
            __builtin_shufflevector(q[2], q[3], 0, 4, 1, 5) + __builtin_shufflevector(q[2], q[3], 2, 6, 3, 7);
        *(gemm_qmem *)(out + i) =
            __builtin_shufflevector(lo, hi, 0, 1, 4, 5) + __builtin_shufflevector(lo, hi, 2, 3, 6, 7);
    }
    for (; i < count; i++) {
        float sum = 0;

        for (int64_t l = 0; l < SCAN_VL; l++)
            sum += v[i * SCAN_VL + l];
        out[i] = sum;
    }
}

/* dx, ddt_raw and the sums over tokens of a tile, from gB and wA */
static void bwd_rows(const struct scan *a, int64_t g, int64_t m, int64_t n, const struct bwd_scratch *z,
                     const struct carry *k)
{
    int64_t c0 = g * SCAN_WIDE, width = scan_width(a, g);
    const float *bias = (const float *)a->dt_bias.data + c0, *D = (const float *)a->D.data + c0;
    float dbias[SCAN_WIDE] = { 0 }, dD[SCAN_WIDE] = { 0 };

    for (int64_t t = 0; t < n; t++) {
        const float *raw = cpu_row(&a->dt_raw, m + t) + c0, *x = cpu_row(&a->x, m + t) + c0;
        const float *dy = z->dy + t * SCAN_WIDE, *dt = z->dt + t * SCAN_WIDE;
        const float *gB = z->gB + t * SCAN_WIDE, *wA = z->wA + t * SCAN_WIDE;
        float *dx = cpu_row(&a->dx, m + t) + c0, *ddt = cpu_row(&a->ddt_raw, m + t) + c0;

#pragma omp simd
        for (int64_t c = 0; c < width; c++) {
            float d = (x[c] * gB[c] + VMATH_LN2 * wA[c]) * vmath_sigmoid(raw[c] + bias[c]);

            dx[c] = dt[c] * gB[c] + D[c] * dy[c];
            ddt[c] = d;
            dbias[c] += d;
            dD[c] += dy[c] * x[c];
        }
    }
    for (int64_t c = 0; c < SCAN_WIDE; c++) {
        k->dbias[c] += dbias[c];
        k->dD[c] += dD[c];
    }
}

/* Tile of a group; enter: the state before it. dB, dC: where the group's sums of these tokens go. */
static void bwd_tile(const struct scan *a, const struct scan_plan *p, int64_t g, int64_t m, int64_t t0,
                     int64_t n, const float *enter, const struct bwd_scratch *z, const struct carry *k,
                     float *dB, float *dC)
{
    int64_t width = scan_width(a, g);

    scan_prepare(a, g, m, n, z->dt, z->u);
    gemm_pack(n, width, cpu_row(&a->dy, m) + g * SCAN_WIDE, a->dy.ld, 1.0f, z->dy, SCAN_WIDE);
    memset(z->da, 0, (size_t)p->state * sizeof(float));
    for (int64_t c = 0; c < width; c += SCAN_VL) {
        memcpy(z->S, enter + c * a->N, (size_t)(a->N * SCAN_VL) * sizeof(float));
        make_states(a, m, t0, n, z->dt + c, z->u + c, z->A2 + c * a->N, z->S, z->E);
        bwd_block(a, m, t0, n, c, k->dS + c * a->N, z);
    }
    for (int64_t i = 0; i < p->state; i++)
        k->da[i] += z->da[i];
    sum_lanes(n * a->N, z->dB, dB);
    sum_lanes(n * a->N, z->dC, dC);
    bwd_rows(a, g, m, n, z, k);
}

/* One group of one sequence over the span that begins at chunk s0: chunks and tiles from last to first. */
static void bwd_span(const struct scan *a, const struct scan_plan *p, float *w, int64_t job, int64_t s0,
                     float *own)
{
    int64_t b = job / p->groups, g = job % p->groups, last = cpu_min(p->chunks, s0 + p->span) - 1;
    struct bwd_scratch z = find_scratch(a, p, own);
    struct carry k = find_carry(p, w, job);

    scan_load_decays(a, g, z.A2);
    if (last == p->chunks - 1) {
        memset(k.dS, 0, (size_t)p->keep * sizeof(float));
        scan_load_state(a, g, scan_state_row(a, &a->dhT, b, g), a->dhT.ld, k.dS);
    }
    for (int64_t chunk = last; chunk >= s0; chunk--) {
        int64_t t0 = chunk * a->Q, end = cpu_min(a->T, t0 + a->Q), tiles = cpu_ceil(end - t0, SCAN_TILE);

        scan_load_state(a, g, scan_saved(a, p, b, chunk, g), a->N, z.enter);
        for (int64_t i = 0; i + 1 < tiles; i++) {
            int64_t t = t0 + i * SCAN_TILE, m = b * a->T + t;
            float *from = z.enter + i * p->state;

            scan_prepare(a, g, m, SCAN_TILE, z.dt, z.u);
            for (int64_t c = 0; c < scan_width(a, g); c += SCAN_VL)
                pass_block(a, m, t, SCAN_TILE, z.dt + c, z.u + c, z.A2 + c * a->N, from + c * a->N,
                           from + p->state + c * a->N);
        }
        for (int64_t i = tiles - 1; i >= 0; i--) {
            int64_t t = t0 + i * SCAN_TILE, at = job * p->part + (t - s0 * a->Q) * a->N;

            bwd_tile(a, p, g, b * a->T + t, t, cpu_min(SCAN_TILE, end - t), z.enter + i * p->state, &z, &k,
                     w + p->dB + at, w + p->dC + at);
        }
    }
    if (s0 == 0 && a->dh0.data)
        scan_save_state(a, g, k.dS, scan_state_row(a, &a->dh0, b, g), a->dh0.ld);
}

/* out [N] = sum over the groups of part [groups,size], in order */
static void sum_groups(const struct scan_plan *p, int64_t N, const float *part, float *out)
{
    memcpy(out, part, (size_t)N * sizeof(float));
    for (int64_t g = 1; g < p->groups; g++)
#pragma omp simd
        for (int64_t n = 0; n < N; n++)
            out[n] += part[g * p->part + n];
}

/* The parameters' gradients of channel c, from the sums over each sequence */
static void bwd_params(const struct scan *a, const struct scan_plan *p, float *w, int64_t c)
{
    int64_t g = c / SCAN_WIDE, l = c % SCAN_WIDE, first = l / SCAN_VL * SCAN_VL * a->N + l % SCAN_VL;
    const float *A = cpu_row(&a->A_log, c);
    float *dA = cpu_row(&a->dA_log, c);

    for (int64_t b = 0; b < a->B; b++) {
        struct carry k = find_carry(p, w, b * p->groups + g);

        for (int64_t n = 0; n < a->N; n++)
            dA[n] -= k.da[first + n * SCAN_VL] * vmath_exp(A[n]);
        ((float *)a->ddt_bias.data)[c] += k.dbias[l];
        ((float *)a->dD.data)[c] += k.dD[l];
    }
}

static void check(const struct scan *a)
{
    scan_check(a, "scan_bwd");
    CPU_NEED("scan_bwd", a, dy);
    CPU_NEED("scan_bwd", a, dx);
    CPU_NEED("scan_bwd", a, ddt_raw);
    CPU_NEED("scan_bwd", a, dBm);
    CPU_NEED("scan_bwd", a, dCm);
    CPU_NEED("scan_bwd", a, ddt_bias);
    CPU_NEED("scan_bwd", a, dA_log);
    CPU_NEED("scan_bwd", a, dD);
    CPU_ALLOW("scan_bwd", a, dhT);
    CPU_ALLOW("scan_bwd", a, dh0);
    if (!a->states)
        cpu_fault("scan_bwd", "states", "is absent");
}

void cpu_scan_bwd(const struct scan *a)
{
    struct scan_plan p;
    float *w = cpu_scratch("scan_bwd", a->work);

    check(a);
    if (a->B < 1 || a->T < 1)
        return;
    p = scan_make_plan(a);
#pragma omp parallel
    {
        float *own = w + p.thread + cpu_thread() * p.own;
        unsigned mode = cpu_flush_begin();

        for (int64_t s0 = (p.chunks - 1) / p.span * p.span; s0 >= 0; s0 -= p.span) {
            int64_t t0 = s0 * a->Q, n = cpu_min(a->T - t0, p.span * a->Q);

#pragma omp for schedule(static)
            for (int64_t job = 0; job < a->B * p.groups; job++)
                bwd_span(a, &p, w, job, s0, own);
#pragma omp for schedule(static)
            for (int64_t i = 0; i < a->B * n; i++) {
                int64_t b = i / n, t = i % n, at = b * p.groups * p.part + t * a->N;

                sum_groups(&p, a->N, w + p.dB + at, cpu_row(&a->dBm, b * a->T + t0 + t));
                sum_groups(&p, a->N, w + p.dC + at, cpu_row(&a->dCm, b * a->T + t0 + t));
            }
        }
#pragma omp for schedule(static)
        for (int64_t c = 0; c < a->C; c++)
            bwd_params(a, &p, w, c);
        cpu_flush_end(mode);
    }
}
