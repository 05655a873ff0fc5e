/* ops_ssd.c - tests of state-space duality
 * SPDX-License-Identifier: MIT
 *
 * The reference is the recurrence in double. Tolerances: products of up to 64 + N + P terms in float,
 * with states that sum over hundreds of tokens, relative to the largest element of the tensor.
 */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops.h"

#define FWD_TOL 5e-6
#define GRAD_TOL 2e-5

struct ssd_case {
    int64_t B, T, H, P, G, N, Q;
    double lo, hi;
    const int32_t *start;
    struct mat *x, *dt, *Bm, *Cm, *bias, *A, *D, *h0, *y, *hT, *states, *dy, *dhT;
    struct mat *dx, *ddt, *dB, *dC, *dbias, *dA, *dD, *dh0, *dbias0, *dA0, *dD0;
};

static struct ssd_case make_case(const int64_t *s, bool h0, int64_t pad)
{
    struct ssd_case c = {
        .B = s[0], .T = s[1], .H = s[2], .P = s[3], .G = s[4], .N = s[5], .Q = s[6], .lo = 0, .hi = INFINITY
    };
    int64_t M = c.B * c.T, chunks = (c.T + c.Q - 1) / c.Q;

    c.x = mat_rand(M, c.H * c.P, pad, -1, 1);
    c.dt = mat_rand(M, c.H, pad, -2, 2);
    c.Bm = mat_rand(M, c.G * c.N, pad, -1, 1);
    c.Cm = mat_rand(M, c.G * c.N, pad, -1, 1);
    c.bias = mat_rand(1, c.H, 0, -4, -1);
    c.A = mat_rand(1, c.H, 0, -1, 2.7);
    c.D = mat_rand(1, c.H, 0, 0.5, 1.5);
    c.y = mat_new(M, c.H * c.P, pad);
    c.hT = mat_new(c.B * c.H * c.P, c.N, pad);
    c.states = mat_new(c.B * chunks * c.H * c.P, c.N, 0);
    c.dy = mat_rand(M, c.H * c.P, pad, -1, 1);
    c.dx = mat_new(M, c.H * c.P, pad);
    c.ddt = mat_new(M, c.H, pad);
    c.dB = mat_new(M, c.G * c.N, pad);
    c.dC = mat_new(M, c.G * c.N, pad);
    c.dbias = mat_rand(1, c.H, 0, -1, 1);
    c.dA = mat_rand(1, c.H, 0, -1, 1);
    c.dD = mat_rand(1, c.H, 0, -1, 1);
    c.dbias0 = mat_copy(c.dbias);
    c.dA0 = mat_copy(c.dA);
    c.dD0 = mat_copy(c.dD);
    if (h0) {
        c.h0 = mat_rand(c.B * c.H * c.P, c.N, pad, -1, 1);
        c.dh0 = mat_new(c.B * c.H * c.P, c.N, pad);
        c.dhT = mat_rand(c.B * c.H * c.P, c.N, pad, -1, 1);
    }
    return c;
}

static struct ssd args(const struct ssd_case *c)
{
    struct ssd a = {
        .B = c->B,
        .T = c->T,
        .H = c->H,
        .P = c->P,
        .G = c->G,
        .N = c->N,
        .Q = c->Q,
        .dt_min = c->lo,
        .dt_max = c->hi,
        .start = c->start,
        .x = mat_tensor(c->x),
        .dt_raw = mat_tensor(c->dt),
        .Bm = mat_tensor(c->Bm),
        .Cm = mat_tensor(c->Cm),
        .dt_bias = mat_tensor(c->bias),
        .A_log = mat_tensor(c->A),
        .D = mat_tensor(c->D),
        .h0 = mat_tensor(c->h0),
        .y = mat_tensor(c->y),
        .hT = mat_tensor(c->hT),
        .states = mat_tensor(c->states),
        .dy = mat_tensor(c->dy),
        .dhT = mat_tensor(c->dhT),
        .dx = mat_tensor(c->dx),
        .ddt_raw = mat_tensor(c->ddt),
        .dBm = mat_tensor(c->dB),
        .dCm = mat_tensor(c->dC),
        .ddt_bias = mat_tensor(c->dbias),
        .dA_log = mat_tensor(c->dA),
        .dD = mat_tensor(c->dD),
        .dh0 = mat_tensor(c->dh0),
    };
    size_t bytes = ops_be->ssd_work(&a);

    a.work = ops_bytes(bytes);
    memset(a.work, 0xff, bytes); /* NaN: nothing may rely on what it finds there */
    return a;
}

static void run(const struct ssd_case *c, bool bwd)
{
    struct ssd a = args(c);

    ops_be->ssd_fwd(&a);
    if (bwd)
        ops_be->ssd_bwd(&a);
}

/* The recurrence; also fills y->d, hT->d and, at the chunks' beginnings, states->d. */
static double ssd_loss(void *ctx)
{
    struct ssd_case *c = ctx;
    int64_t PN = c->P * c->N, chunks = (c->T + c->Q - 1) / c->Q;

    for (int64_t i = 0; i < c->B * c->H; i++) {
        int64_t b = i / c->H, h = i % c->H, g = h / (c->H / c->G);
        double *S = c->hT->d + i * PN, a = -exp(c->A->d[h]);

        for (int64_t k = 0; k < PN; k++)
            S[k] = c->h0 ? c->h0->d[i * PN + k] : 0;
        for (int64_t t = 0; t < c->T; t++) {
            int64_t m = b * c->T + t;
            double raw = c->dt->d[m * c->H + h] + c->bias->d[h];
            double dt = fmin(fmax(log1p(exp(raw)), c->lo), c->hi), keep = exp(dt * a);
            const double *x = c->x->d + (m * c->H + h) * c->P;
            const double *B = c->Bm->d + (m * c->G + g) * c->N;
            const double *C = c->Cm->d + (m * c->G + g) * c->N;

            if (t % c->Q == 0 && c->states)
                memcpy(c->states->d + ((b * chunks + t / c->Q) * c->H + h) * PN, S,
                       (size_t)PN * sizeof(double));
            if (c->start && c->start[m] == t)
                memset(S, 0, (size_t)PN * sizeof(double));
            for (int64_t p = 0; p < c->P; p++) {
                double y = c->D->d[h] * x[p];

                for (int64_t n = 0; n < c->N; n++) {
                    S[p * c->N + n] = keep * S[p * c->N + n] + dt * x[p] * B[n];
                    y += S[p * c->N + n] * C[n];
                }
                c->y->d[(m * c->H + h) * c->P + p] = y;
            }
        }
    }
    return mat_dot(c->y->d, c->dy) + (c->dhT ? mat_dot(c->hT->d, c->dhT) : 0);
}

static void check_fwd(struct ssd_case *c)
{
    ssd_loss(c);
    mat_close("ssd y", c->y, NULL, c->y->d, FWD_TOL);
    mat_close("ssd hT", c->hT, NULL, c->hT->d, FWD_TOL);
}

static void check_grads(struct ssd_case *c, int probes)
{
    mat_check_grad("x", ssd_loss, c, c->x, c->dx, NULL, probes, GRAD_TOL);
    mat_check_grad("dt_raw", ssd_loss, c, c->dt, c->ddt, NULL, probes, GRAD_TOL);
    mat_check_grad("B", ssd_loss, c, c->Bm, c->dB, NULL, probes, GRAD_TOL);
    mat_check_grad("C", ssd_loss, c, c->Cm, c->dC, NULL, probes, GRAD_TOL);
    mat_check_grad("dt_bias", ssd_loss, c, c->bias, c->dbias, c->dbias0, probes, GRAD_TOL);
    mat_check_grad("A_log", ssd_loss, c, c->A, c->dA, c->dA0, probes, GRAD_TOL);
    mat_check_grad("D", ssd_loss, c, c->D, c->dD, c->dD0, probes, GRAD_TOL);
    if (c->h0)
        mat_check_grad("h0", ssd_loss, c, c->h0, c->dh0, NULL, probes, GRAD_TOL);
}

/* B, T, H, P, G, N, Q */
static const int64_t shapes[][7] = {
    { 1, 1, 1, 1, 1, 1, 64 },       { 2, 7, 2, 7, 1, 5, 64 },     { 1, 65, 2, 16, 2, 16, 64 },
    { 1, 150, 6, 80, 3, 32, 64 },   { 2, 100, 4, 7, 2, 5, 16 },   { 1, 300, 2, 16, 1, 24, 256 },
    { 1, 130, 2, 48, 1, 128, 100 }, { 1, 129, 3, 64, 1, 16, 48 }, { 1, 30, 1, 3, 1, 2, 1 },
};

#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

void test_ssd_forward(void **state)
{
    (void)state;
    ops_seed(30);
    for (size_t i = 0; i < SHAPES; i++)
        for (int kind = 0; kind < 4; kind++) {
            struct ssd_case c = make_case(shapes[i], kind & 1, kind & 2 ? 3 : 0);
            struct mat *y;

            if (kind & 2) {
                c.start = ops_documents(c.B, c.T, kind & 1, -40);
                c.lo = 0.02;
                c.hi = 0.2;
            }
            run(&c, false);
            check_fwd(&c);
            mat_close("ssd states", c.states, NULL, c.states->d, FWD_TOL);
            y = mat_copy(c.y);
            c.states = NULL;
            c.hT = kind & 1 ? c.h0 : c.hT; /* the state may be updated in place */
            run(&c, false);
            mat_same_bits("ssd y without states", c.y, y);
            ops_teardown(NULL);
        }
}

void test_ssd_gradients(void **state)
{
    (void)state;
    ops_seed(31);
    for (size_t i = 0; i < SHAPES; i++)
        for (int kind = 0; kind < 4; kind++) {
            struct ssd_case c = make_case(shapes[i], kind & 1, kind == 3 ? 5 : 0);

            if (kind & 2)
                c.start = ops_documents(c.B, c.T, kind & 1, -20);
            if (kind == 2) {
                c.lo = 0.02;
                c.hi = 0.2;
            }
            run(&c, true);
            check_grads(&c, c.T * c.H * c.P * c.N > 100000 ? 6 : 20);
            ops_teardown(NULL);
        }
}

/* All outputs and gradients of one run, as doubles to compare another run with. */
static void against(const struct ssd_case *c, const struct ssd_case *ref)
{
    const struct mat *got[] = { c->y, c->hT, c->dx, c->ddt, c->dB, c->dC, c->dbias, c->dA, c->dD, c->dh0 };
    const struct mat *want[] = { ref->y,  ref->hT,    ref->dx, ref->ddt, ref->dB,
                                 ref->dC, ref->dbias, ref->dA, ref->dD,  ref->dh0 };
    static const char *const name[] = { "y",  "hT",       "dx",     "ddt_raw", "dB",
                                        "dC", "ddt_bias", "dA_log", "dD",      "dh0" };

    for (size_t i = 0; i < sizeof(got) / sizeof(got[0]); i++) {
        double *d;

        if (!got[i])
            continue;
        d = ops_bytes((size_t)(got[i]->rows * got[i]->cols) * sizeof(double));
        for (int64_t k = 0; k < got[i]->rows * got[i]->cols; k++)
            d[k] = want[i]->f[k / got[i]->cols * want[i]->ld + k % got[i]->cols];
        mat_close(name[i], got[i], NULL, d, GRAD_TOL);
    }
}

/* The size of the chunk does not change the result. */
void test_ssd_chunks(void **state)
{
    static const int64_t Q[] = { 1, 7, 16, 64, 100, 256, 1000 };
    int64_t s[7] = { 2, 203, 4, 24, 2, 20, 0 };
    struct ssd_case ref = { 0 };

    (void)state;
    for (size_t i = 0; i < sizeof(Q) / sizeof(Q[0]); i++) {
        struct ssd_case c;

        ops_seed(32);
        s[6] = Q[i];
        c = make_case(s, true, 0);
        c.start = ops_documents(c.B, c.T, true, -50);
        run(&c, true);
        if (ref.B)
            against(&c, &ref);
        ref = c;
    }
}

/* Tokens t0 .. t1-1 of a case with B = 1 and no padding; shared parameters, outputs of its own. */
static struct ssd_case piece(const struct ssd_case *c, int64_t t0, int64_t t1)
{
    int64_t s[7] = { 1, t1 - t0, c->H, c->P, c->G, c->N, c->Q };
    struct ssd_case p = make_case(s, true, 0);
    struct mat *to[] = { p.x, p.dt, p.Bm, p.Cm, p.dy };
    const struct mat *from[] = { c->x, c->dt, c->Bm, c->Cm, c->dy };

    for (size_t i = 0; i < sizeof(to) / sizeof(to[0]); i++)
        memcpy(to[i]->f, from[i]->f + t0 * from[i]->ld, (size_t)((t1 - t0) * from[i]->ld) * sizeof(float));
    p.bias = c->bias;
    p.A = c->A;
    p.D = c->D;
    return p;
}

/* Two pieces with the state handed over, and its gradient handed back, are the whole: bit for bit when
 * the cut is at a chunk's end. */
void test_ssd_pieces(void **state)
{
    static const int64_t cut[] = { 64, 128, 1, 77 };
    const int64_t s[7] = { 1, 200, 4, 24, 2, 20, 64 };

    (void)state;
    ops_seed(33);
    for (size_t i = 0; i < sizeof(cut) / sizeof(cut[0]); i++) {
        struct ssd_case c = make_case(s, true, 0), p, q;
        int64_t n = cut[i] * c.x->ld;
        struct ssd a, b;
        struct mat *y = mat_new(200, 96, 0), *dx = mat_new(200, 96, 0);

        run(&c, true);
        p = piece(&c, 0, cut[i]);
        p.h0 = c.h0;
        q = piece(&c, cut[i], 200);
        q.h0 = p.hT;
        q.dhT = c.dhT;
        p.dhT = q.dh0;
        a = args(&p);
        b = args(&q);
        ops_be->ssd_fwd(&a);
        ops_be->ssd_fwd(&b);
        ops_be->ssd_bwd(&b);
        ops_be->ssd_bwd(&a);
        memcpy(y->f, p.y->f, (size_t)n * sizeof(float));
        memcpy(y->f + n, q.y->f, (size_t)(200 * 96 - n) * sizeof(float));
        memcpy(dx->f, p.dx->f, (size_t)n * sizeof(float));
        memcpy(dx->f + n, q.dx->f, (size_t)(200 * 96 - n) * sizeof(float));
        if (cut[i] % c.Q == 0) {
            mat_same_bits("y in pieces", y, c.y);
            mat_same_bits("hT in pieces", q.hT, c.hT);
            mat_same_bits("dx in pieces", dx, c.dx);
            mat_same_bits("dh0 in pieces", p.dh0, c.dh0);
        }
        for (int64_t k = 0; k < 200 * 96; k++) {
            y->d[k] = c.y->f[k];
            dx->d[k] = c.dx->f[k];
        }
        mat_close("y in pieces", y, NULL, y->d, FWD_TOL);
        mat_close("dx in pieces", dx, NULL, dx->d, GRAD_TOL);
        ops_teardown(NULL);
    }
}

void test_ssd_steps(void **state)
{
    static const int64_t s[][7] = { { 2, 90, 4, 7, 2, 5, 32 }, { 1, 70, 2, 64, 1, 128, 64 } };

    (void)state;
    ops_seed(34);
    for (size_t i = 0; i < 2; i++) {
        struct ssd_case c = make_case(s[i], true, 1);
        struct ssd a = args(&c);
        struct mat *y = mat_new(c.B * c.T, c.H * c.P, 1), *h = mat_copy(c.h0);

        c.lo = 0.01;
        c.hi = 0.3;
        a.dt_min = c.lo;
        a.dt_max = c.hi;
        ops_be->ssd_fwd(&a);
        ssd_loss(&c);
        a.T = 1;
        a.h0 = mat_tensor(h);
        for (int64_t t = 0; t < c.T; t++) {
            /* the rows of all sequences at token t: one row of each, T rows apart */
            a.x = tensor_f32(c.x->f + t * c.x->ld, c.T * c.x->ld);
            a.dt_raw = tensor_f32(c.dt->f + t * c.dt->ld, c.T * c.dt->ld);
            a.Bm = tensor_f32(c.Bm->f + t * c.Bm->ld, c.T * c.Bm->ld);
            a.Cm = tensor_f32(c.Cm->f + t * c.Cm->ld, c.T * c.Cm->ld);
            a.y = tensor_f32(y->f + t * y->ld, c.T * y->ld);
            ops_be->ssd_step(&a);
        }
        mat_close("y of steps", y, NULL, c.y->d, FWD_TOL);
        mat_close("state after the steps", h, NULL, c.hT->d, FWD_TOL);
    }
}

/* Packed documents are separate documents: bit for bit when they begin with a chunk. */
void test_ssd_documents(void **state)
{
    static const int64_t every[] = { 64, 37 };
    const int64_t s[7] = { 1, 192, 4, 24, 2, 20, 64 };

    (void)state;
    ops_seed(35);
    for (size_t i = 0; i < 2; i++) {
        struct ssd_case c = make_case(s, true, 0);
        struct mat *sums = mat_new(3, 4, 0);

        c.start = ops_documents(1, 192, false, every[i]);
        run(&c, true);
        for (int64_t t0 = 0; t0 < 192; t0 += every[i]) {
            int64_t t1 = t0 + every[i] < 192 ? t0 + every[i] : 192;
            struct ssd_case p = piece(&c, t0, t1);
            const struct mat *got[] = { c.y, c.dx, c.ddt, c.dB, c.dC };
            const struct mat *want[] = { p.y, p.dx, p.ddt, p.dB, p.dC };

            p.h0 = p.dh0 = NULL;
            p.dhT = t1 == 192 ? c.dhT : NULL;
            run(&p, true);
            for (size_t k = 0; k < 5; k++) {
                struct mat *part = mat_new(t1 - t0, got[k]->cols, 0);

                for (int64_t e = 0; e < part->rows * part->cols; e++) {
                    part->f[e] = got[k]->f[t0 * part->cols + e];
                    part->d[e] = want[k]->f[e];
                }
                mat_close("packed documents", part, NULL, part->d, GRAD_TOL);
                if (every[i] == 64)
                    mat_same_bits("packed documents", part, want[k]);
            }
            for (int64_t h = 0; h < 4; h++) {
                sums->d[h] += (double)p.dA->f[h] - (double)p.dA0->f[h];
                sums->d[4 + h] += (double)p.dbias->f[h] - (double)p.dbias0->f[h];
                sums->d[8 + h] += (double)p.dD->f[h] - (double)p.dD0->f[h];
            }
            if (t1 == 192 && every[i] == 64)
                mat_same_bits("state after the last document", c.hT, p.hT);
        }
        mat_close("dA_log of documents", c.dA, c.dA0, sums->d, GRAD_TOL);
        mat_close("ddt_bias of documents", c.dbias, c.dbias0, sums->d + 4, GRAD_TOL);
        mat_close("dD of documents", c.dD, c.dD0, sums->d + 8, GRAD_TOL);
        for (int64_t k = 0; k < c.dh0->rows * c.dh0->cols; k++)
            assert_true(c.dh0->f[k] == 0); /* no token sees the state before the row */
        ops_teardown(NULL);
    }
}

/* Decay so strong that exp underflows, and NaN: the first gives finite numbers, the second shows. */
void test_ssd_extremes(void **state)
{
    const int64_t s[7] = { 1, 150, 2, 16, 1, 16, 64 };
    struct ssd_case c;

    (void)state;
    ops_seed(36);
    c = make_case(s, true, 0);
    for (int64_t i = 0; i < c.T * c.H; i++)
        c.dt->f[i] = (float)(c.dt->d[i] = i % 3 ? 60 * ops_uniform() : -30);
    run(&c, true);
    check_fwd(&c);
    check_grads(&c, 20);
    c.x->f[70 * c.x->ld + 3] = NAN;
    run(&c, true);
    assert_true(isnan(c.y->f[70 * c.y->ld + 3]));
    assert_true(mat_has_nan(c.dC));
    c = make_case(s, false, 0);
    c.dt->f[20] = NAN;
    run(&c, true);
    assert_true(isnan(c.y->f[10 * c.y->ld]));
    assert_true(isnan(c.hT->f[0]));
    assert_true(mat_has_nan(c.dA));
}

void test_ssd_threads(void **state)
{
    const int64_t s[7] = { 2, 300, 6, 24, 2, 20, 64 };
    int threads = omp_get_max_threads();
    struct ssd_case kept = { 0 };

    (void)state;
    for (int n = 1; n <= 4; n++) { /* the fourth run repeats the third */
        struct ssd_case c;

        ops_seed(37);
        omp_set_num_threads(n < 3 ? n : 3);
        c = make_case(s, true, 0);
        c.start = ops_documents(c.B, c.T, true, -60);
        run(&c, true);
        if (kept.B) {
            mat_same_bits("y", c.y, kept.y);
            mat_same_bits("hT", c.hT, kept.hT);
            mat_same_bits("dx", c.dx, kept.dx);
            mat_same_bits("ddt_raw", c.ddt, kept.ddt);
            mat_same_bits("dB", c.dB, kept.dB);
            mat_same_bits("dC", c.dC, kept.dC);
            mat_same_bits("dA_log", c.dA, kept.dA);
            mat_same_bits("ddt_bias", c.dbias, kept.dbias);
            mat_same_bits("dD", c.dD, kept.dD);
            mat_same_bits("dh0", c.dh0, kept.dh0);
        }
        kept = c;
    }
    omp_set_num_threads(threads);
}
