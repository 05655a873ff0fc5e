/* ops_scan.c - tests of the selective scan
 * SPDX-License-Identifier: MIT
 *
 * The reference is the recurrence in double. Tolerances, relative to the largest element of the tensor:
 * forward, sums of N products in float of states that gather rounding (6e-8 each) over 1/(1 - decay) tokens,
 * some dozens here; gradients, sums over all channels or tokens of products of two such numbers. The errors
 * seen are a third of them (v2, which has no FMA) or less.
 */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops.h"

#define FWD_TOL 2e-6
#define GRAD_TOL 2e-5

struct scan_case {
    int64_t B, T, C, N, Q;
    const int32_t *start;
    struct mat *x, *dt, *Bm, *Cm, *bias, *A, *D, *h0, *y, *hT, *states, *dy, *dhT;
    struct mat *dx, *ddt, *dB, *dC, *dbias, *dA, *dD, *dh0, *dbias0, *dA0, *dD0;
};

static struct scan_case make_case(const int64_t *s, bool h0, int64_t pad)
{
    struct scan_case c = { .B = s[0], .T = s[1], .C = s[2], .N = s[3], .Q = s[4] };
    int64_t M = c.B * c.T, chunks = (c.T + c.Q - 1) / c.Q;

    c.x = mat_rand(M, c.C, pad, -1, 1);
    c.dt = mat_rand(M, c.C, 2 * pad, -2, 2);
    c.Bm = mat_rand(M, c.N, 3 * pad, -1, 1);
    c.Cm = mat_rand(M, c.N, pad, -1, 1);
    c.bias = mat_rand(1, c.C, 0, -4, -1);
    c.A = mat_rand(c.C, c.N, pad, -1, 2.7);
    c.D = mat_rand(1, c.C, 0, 0.5, 1.5);
    c.y = mat_new(M, c.C, pad);
    c.hT = mat_new(c.B * c.C, c.N, pad);
    c.states = mat_new(c.B * chunks * c.C, c.N, 0);
    c.dy = mat_rand(M, c.C, 2 * pad, -1, 1);
    c.dx = mat_new(M, c.C, pad);
    c.ddt = mat_new(M, c.C, 2 * pad);
    c.dB = mat_new(M, c.N, pad);
    c.dC = mat_new(M, c.N, 3 * pad);
    c.dbias = mat_rand(1, c.C, 0, -1, 1);
    c.dA = mat_rand(c.C, c.N, 2 * pad, -1, 1);
    c.dD = mat_rand(1, c.C, 0, -1, 1);
    c.dbias0 = mat_copy(c.dbias);
    c.dA0 = mat_copy(c.dA);
    c.dD0 = mat_copy(c.dD);
    if (h0) {
        c.h0 = mat_rand(c.B * c.C, c.N, pad, -1, 1);
        c.dh0 = mat_new(c.B * c.C, c.N, 2 * pad);
        c.dhT = mat_rand(c.B * c.C, c.N, 3 * pad, -1, 1);
    }
    return c;
}

static struct scan args(const struct scan_case *c)
{
    struct scan a = {
        .B = c->B,
        .T = c->T,
        .C = c->C,
        .N = c->N,
        .Q = c->Q,
        .start = c->start,
        .x = mat_tensor(c->x),
        .dt_raw = mat_tensor(c->dt),
        .Bm = mat_tensor(c->Bm),
        .Cm = mat_tensor(c->Cm),
        .A_log = mat_tensor(c->A),
        .dt_bias = mat_tensor(c->bias),
        .D = mat_tensor(c->D),
        .h0 = mat_tensor(c->h0),
        .y = mat_tensor(c->y),
        .hT = mat_tensor(c->hT),
        .states = c->states ? c->states->f : NULL,
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
    size_t bytes = ops_be->scan_work(&a);

    a.work = ops_bytes(bytes);
    memset(a.work, 0xff, bytes); /* NaN: nothing may rely on what it finds there */
    return a;
}

static void run(const struct scan_case *c, bool bwd)
{
    struct scan a = args(c);

    ops_be->scan_fwd(&a);
    if (bwd)
        ops_be->scan_bwd(&a);
}

static double softplus(double x) { return fmax(x, 0) + log1p(exp(-fabs(x))); }

/* The recurrence; also fills y->d, hT->d and, at the chunks' beginnings, states->d. */
static double scan_loss(void *ctx)
{
    struct scan_case *c = ctx;
    int64_t chunks = (c->T + c->Q - 1) / c->Q, N = c->N;

    for (int64_t i = 0; i < c->B * c->C; i++) {
        int64_t b = i / c->C, ch = i % c->C;
        double *S = c->hT->d + i * N, a[256];

        for (int64_t n = 0; n < N; n++) {
            a[n] = -exp(c->A->d[ch * N + n]);
            S[n] = c->h0 ? c->h0->d[i * N + n] : 0;
        }
        for (int64_t t = 0; t < c->T; t++) {
            int64_t m = b * c->T + t;
            double dt = softplus(c->dt->d[m * c->C + ch] + c->bias->d[ch]);
            double x = c->x->d[m * c->C + ch], y = c->D->d[ch] * x;

            if (t % c->Q == 0 && c->states)
                memcpy(c->states->d + ((b * chunks + t / c->Q) * c->C + ch) * N, S,
                       (size_t)N * sizeof(double));
            if (c->start && c->start[m] == t)
                memset(S, 0, (size_t)N * sizeof(double));
            for (int64_t n = 0; n < N; n++) {
                S[n] = exp(dt * a[n]) * S[n] + dt * x * c->Bm->d[m * N + n];
                y += S[n] * c->Cm->d[m * N + n];
            }
            c->y->d[m * c->C + ch] = y;
        }
    }
    return mat_dot(c->y->d, c->dy) + (c->dhT ? mat_dot(c->hT->d, c->dhT) : 0);
}

static void check_fwd(struct scan_case *c)
{
    scan_loss(c);
    mat_close("scan y", c->y, NULL, c->y->d, FWD_TOL);
    mat_close("scan hT", c->hT, NULL, c->hT->d, FWD_TOL);
}

static void check_grads(struct scan_case *c, int probes)
{
    mat_check_grad("x", scan_loss, c, c->x, c->dx, NULL, probes, GRAD_TOL);
    mat_check_grad("dt_raw", scan_loss, c, c->dt, c->ddt, NULL, probes, GRAD_TOL);
    mat_check_grad("B", scan_loss, c, c->Bm, c->dB, NULL, probes, GRAD_TOL);
    mat_check_grad("C", scan_loss, c, c->Cm, c->dC, NULL, probes, GRAD_TOL);
    mat_check_grad("dt_bias", scan_loss, c, c->bias, c->dbias, c->dbias0, probes, GRAD_TOL);
    mat_check_grad("A_log", scan_loss, c, c->A, c->dA, c->dA0, probes, GRAD_TOL);
    mat_check_grad("D", scan_loss, c, c->D, c->dD, c->dD0, probes, GRAD_TOL);
    if (c->h0)
        mat_check_grad("h0", scan_loss, c, c->h0, c->dh0, NULL, probes, GRAD_TOL);
}

/* B, T, C, N, Q: blocks of channels full and not, several groups, tiles, chunks and spans */
static const int64_t shapes[][5] = {
    { 1, 1, 1, 1, 64 },     { 2, 7, 3, 5, 64 },     { 1, 65, 64, 16, 64 },   { 1, 80, 70, 16, 64 },
    { 2, 100, 17, 3, 16 },  { 1, 300, 5, 24, 256 }, { 1, 50, 130, 3, 20 },   { 1, 30, 3, 2, 1 },
    { 1, 70, 3, 256, 100 }, { 2, 1100, 6, 4, 100 }, { 1, 200, 33, 1, 1000 },
};

#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

/* Documents; a carried one began two tokens before the row. */
static const int32_t *documents(const struct scan_case *c, bool carry, int64_t every)
{
    int32_t *start = ops_documents(c->B, c->T, carry, every);

    for (int64_t m = 0; m < c->B * c->T; m++)
        if (start[m] < 0)
            start[m] = -2;
    return start;
}

void test_scan_forward(void **state)
{
    (void)state;
    ops_seed(60);
    for (size_t i = 0; i < SHAPES; i++)
        for (int kind = 0; kind < 4; kind++) {
            struct scan_case c = make_case(shapes[i], kind & 1, kind & 2 ? 3 : 0);
            struct mat *y;

            if (kind & 2)
                c.start = documents(&c, kind & 1, -40);
            run(&c, false);
            check_fwd(&c);
            mat_close("scan states", c.states, NULL, c.states->d, FWD_TOL);
            y = mat_copy(c.y);
            c.states = NULL;
            c.hT = kind & 1 ? c.h0 : c.hT; /* the state may be updated in place */
            run(&c, false);
            mat_same_bits("scan y without states", c.y, y);
            ops_teardown(NULL);
        }
}

void test_scan_gradients(void **state)
{
    (void)state;
    ops_seed(61);
    for (size_t i = 0; i < SHAPES; i++)
        for (int kind = 0; kind < 4; kind++) {
            struct scan_case c = make_case(shapes[i], kind & 1, kind == 3 ? 5 : 0);

            if (kind & 2)
                c.start = documents(&c, kind & 1, -20);
            run(&c, true);
            check_grads(&c, c.T * c.C * c.N > 10000 ? 4 : 20);
            ops_teardown(NULL);
        }
}

/* All outputs and gradients of one run, as doubles to compare another run with. */
static void against(const struct scan_case *c, const struct scan_case *ref)
{
    const struct mat *got[] = { c->y, c->hT, c->dx, c->ddt, c->dB, c->dC, c->dbias, c->dA, c->dD, c->dh0 };
    const struct mat *want[] = { ref->y,  ref->hT,    ref->dx, ref->ddt, ref->dB,
                                 ref->dC, ref->dbias, ref->dA, ref->dD,  ref->dh0 };
    static const char *const name[] = { "y",  "hT",       "dx",     "ddt_raw", "dB",
                                        "dC", "ddt_bias", "dA_log", "dD",      "dh0" };

    for (size_t i = 0; i < sizeof(got) / sizeof(got[0]); i++) {
        double *d = ops_bytes((size_t)(got[i]->rows * got[i]->cols) * sizeof(double));

        for (int64_t k = 0; k < got[i]->rows * got[i]->cols; k++)
            d[k] = want[i]->f[k / got[i]->cols * want[i]->ld + k % got[i]->cols];
        mat_close(name[i], got[i], NULL, d, GRAD_TOL);
    }
}

/* The size of the chunk changes nothing forward, and backward nothing but the order of sums over tokens. */
void test_scan_chunks(void **state)
{
    static const int64_t Q[] = { 1, 7, 16, 64, 100, 256, 1000 };
    int64_t s[5] = { 2, 203, 75, 9, 0 };
    struct scan_case ref = { 0 };

    (void)state;
    for (size_t i = 0; i < sizeof(Q) / sizeof(Q[0]); i++) {
        struct scan_case c;

        ops_seed(62);
        s[4] = Q[i];
        c = make_case(s, true, 0);
        c.start = documents(&c, true, -50);
        run(&c, true);
        if (ref.B) {
            mat_same_bits("y of other chunks", c.y, ref.y);
            mat_same_bits("hT of other chunks", c.hT, ref.hT);
            against(&c, &ref);
        }
        ref = c;
    }
}

/* Tokens t0 .. t1-1 of a case with B = 1 and no padding; shared parameters, outputs of its own. */
static struct scan_case piece(const struct scan_case *c, int64_t t0, int64_t t1)
{
    int64_t s[5] = { 1, t1 - t0, c->C, c->N, c->Q };
    struct scan_case p = make_case(s, true, 0);
    struct mat *to[] = { p.x, p.dt, p.Bm, p.Cm, p.dy };
    const struct mat *from[] = { c->x, c->dt, c->Bm, c->Cm, c->dy };

    for (size_t i = 0; i < sizeof(to) / sizeof(to[0]); i++)
        memcpy(to[i]->f, from[i]->f + t0 * from[i]->ld, (size_t)((t1 - t0) * from[i]->ld) * sizeof(float));
    p.bias = c->bias;
    p.A = c->A;
    p.D = c->D;
    return p;
}

/* Two pieces with the state handed over, and its gradient handed back, are the whole: forward bit for bit,
 * and backward too when the cut is at a chunk's end. */
void test_scan_pieces(void **state)
{
    static const int64_t cut[] = { 64, 128, 1, 77 };
    const int64_t s[5] = { 1, 200, 75, 9, 64 };

    (void)state;
    ops_seed(63);
    for (size_t i = 0; i < sizeof(cut) / sizeof(cut[0]); i++) {
        struct scan_case c = make_case(s, true, 0), p, q;
        int64_t n = cut[i] * c.x->ld;
        struct scan a, b;
        struct mat *y = mat_new(200, 75, 0), *dx = mat_new(200, 75, 0);

        run(&c, true);
        p = piece(&c, 0, cut[i]);
        p.h0 = c.h0;
        q = piece(&c, cut[i], 200);
        q.h0 = p.hT;
        q.dhT = c.dhT;
        p.dhT = q.dh0;
        a = args(&p);
        b = args(&q);
        ops_be->scan_fwd(&a);
        ops_be->scan_fwd(&b);
        ops_be->scan_bwd(&b);
        ops_be->scan_bwd(&a);
        memcpy(y->f, p.y->f, (size_t)n * sizeof(float));
        memcpy(y->f + n, q.y->f, (size_t)(200 * 75 - n) * sizeof(float));
        memcpy(dx->f, p.dx->f, (size_t)n * sizeof(float));
        memcpy(dx->f + n, q.dx->f, (size_t)(200 * 75 - n) * sizeof(float));
        mat_same_bits("y in pieces", y, c.y);
        mat_same_bits("hT in pieces", q.hT, c.hT);
        if (cut[i] % c.Q == 0) {
            mat_same_bits("dx in pieces", dx, c.dx);
            mat_same_bits("dh0 in pieces", p.dh0, c.dh0);
        }
        for (int64_t k = 0; k < 200 * 75; k++)
            dx->d[k] = c.dx->f[k];
        mat_close("dx in pieces", dx, NULL, dx->d, GRAD_TOL);
        ops_teardown(NULL);
    }
}

void test_scan_steps(void **state)
{
    static const int64_t s[][5] = { { 2, 90, 70, 5, 32 }, { 1, 70, 24, 16, 64 }, { 3, 20, 1, 33, 64 } };

    (void)state;
    ops_seed(64);
    for (size_t i = 0; i < sizeof(s) / sizeof(s[0]); i++) {
        struct scan_case c = make_case(s[i], true, 1);
        struct scan a = args(&c);
        struct mat *y = mat_new(c.B * c.T, c.C, 1), *h = mat_copy(c.h0);

        scan_loss(&c);
        a.T = 1;
        a.h0 = mat_tensor(h);
        a.hT = (struct tensor){ NULL, 0, F32 };
        for (int64_t t = 0; t < c.T; t++) {
            /* the rows of all sequences at token t: one row of each, T rows apart */
            a.x = tensor_f32(c.x->f + t * c.x->ld, c.T * c.x->ld);
            a.dt_raw = tensor_f32(c.dt->f + t * c.dt->ld, c.T * c.dt->ld);
            a.Bm = tensor_f32(c.Bm->f + t * c.Bm->ld, c.T * c.Bm->ld);
            a.Cm = tensor_f32(c.Cm->f + t * c.Cm->ld, c.T * c.Cm->ld);
            a.y = tensor_f32(y->f + t * y->ld, c.T * y->ld);
            ops_be->scan_step(&a);
        }
        mat_close("y of steps", y, NULL, c.y->d, FWD_TOL);
        mat_close("state after the steps", h, NULL, c.hT->d, FWD_TOL);
        ops_teardown(NULL);
    }
}

/* Packed documents are separate documents: bit for bit when they begin with a chunk. */
void test_scan_documents(void **state)
{
    static const int64_t every[] = { 64, 37 };
    const int64_t s[5] = { 1, 192, 75, 9, 64 };

    (void)state;
    ops_seed(65);
    for (size_t i = 0; i < 2; i++) {
        struct scan_case c = make_case(s, true, 0);
        double *dA = ops_bytes(75 * 9 * sizeof(double)), *dbias = ops_bytes(75 * sizeof(double));

        c.start = ops_documents(1, 192, false, every[i]);
        run(&c, true);
        for (int64_t t0 = 0; t0 < 192; t0 += every[i]) {
            int64_t t1 = t0 + every[i] < 192 ? t0 + every[i] : 192;
            struct scan_case p = piece(&c, t0, t1);
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
                if (k == 0)
                    mat_same_bits("y of packed documents", part, want[k]);
            }
            for (int64_t k = 0; k < 75 * 9; k++)
                dA[k] += (double)p.dA->f[k] - (double)p.dA0->f[k];
            for (int64_t k = 0; k < 75; k++)
                dbias[k] += (double)p.dbias->f[k] - (double)p.dbias0->f[k];
            if (t1 == 192)
                mat_same_bits("state after the last document", c.hT, p.hT);
        }
        mat_close("dA_log of documents", c.dA, c.dA0, dA, GRAD_TOL);
        mat_close("ddt_bias of documents", c.dbias, c.dbias0, dbias, GRAD_TOL);
        for (int64_t k = 0; k < c.dh0->rows * c.dh0->cols; k++)
            assert_true(c.dh0->f[k] == 0); /* no token sees the state before the row */
        ops_teardown(NULL);
    }
}

/* Steps so large that the decay underflows and so small that nothing moves give finite numbers; a NaN shows,
 * up to the end of its document and in no other. */
void test_scan_extremes(void **state)
{
    const int64_t s[5] = { 1, 150, 20, 16, 64 };
    struct scan_case c;

    (void)state;
    ops_seed(66);
    c = make_case(s, true, 0);
    for (int64_t i = 0; i < c.T * c.C; i++)
        c.dt->f[i] = (float)(c.dt->d[i] = i % 3 ? i % 7 ? 60 * ops_uniform() : 300 : -100 * ops_uniform());
    run(&c, true);
    check_fwd(&c);
    check_grads(&c, 20);
    ops_teardown(NULL);
    c = make_case(s, true, 0);
    c.start = ops_documents(1, c.T, true, 50);
    c.x->f[70 * c.C + 3] = NAN;
    c.dt->f[80 * c.C + 4] = NAN;
    run(&c, true);
    for (int64_t t = 0; t < c.T; t++)
        for (int64_t k = 0; k < c.C; k++) {
            bool bad = t < 100 && ((k == 3 && t >= 70) || (k == 4 && t >= 80));

            assert_int_equal(isnan(c.y->f[t * c.C + k]) != 0, bad);
            if (t < 50 || t >= 100)
                assert_false(isnan(c.dx->f[t * c.C + k]));
        }
    assert_false(mat_has_nan(c.hT));
    assert_false(mat_has_nan(c.dh0));
    assert_true(isnan(c.dC->f[75 * c.N]));
    assert_true(isnan(c.dA->f[4 * c.N]));
}

void test_scan_threads(void **state)
{
    const int64_t s[5] = { 2, 700, 150, 5, 64 };
    int threads = omp_get_max_threads();
    struct scan_case kept = { 0 };

    (void)state;
    for (int n = 1; n <= 4; n++) { /* the fourth run repeats the third */
        struct scan_case c;

        ops_seed(67);
        omp_set_num_threads(n < 3 ? n : 3);
        c = make_case(s, true, 0);
        c.start = documents(&c, true, -60);
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
