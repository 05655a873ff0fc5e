/* ops_attn.c - tests of causal attention
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "ops.h"

/* Scores of hd products, a softmax (exp doubles the relative error of a score of size 1..3), sums
 * over up to S keys; relative to the largest element. */
#define TOL 5e-6
#define GRAD_TOL 1e-5

struct attn_case {
    int64_t B, T, q0, Smax, Hq, Hkv, hd;
    double scale;
    const int32_t *start;
    struct mat *q, *k, *v, *o, *lse, *dout, *dq, *dk, *dv;
};

static struct attn_case make_case(const int64_t *s, int64_t pad)
{
    struct attn_case c = { .B = s[0],
                           .T = s[1],
                           .q0 = s[2],
                           .Smax = s[1] + s[2] + s[3],
                           .Hq = s[4],
                           .Hkv = s[5],
                           .hd = s[6],
                           .scale = 1 / sqrt((double)s[6]) };

    c.q = mat_rand(c.B * c.T, c.Hq * c.hd, pad, -2, 2);
    c.k = mat_rand(c.B * c.Smax, c.Hkv * c.hd, pad, -2, 2);
    c.v = mat_rand(c.B * c.Smax, c.Hkv * c.hd, pad, -1, 1);
    c.o = mat_new(c.B * c.T, c.Hq * c.hd, pad);
    c.lse = mat_new(c.B * c.Hq, c.T, 0);
    c.dout = mat_rand(c.B * c.T, c.Hq * c.hd, pad, -1, 1);
    c.dq = mat_new(c.B * c.T, c.Hq * c.hd, pad);
    c.dk = mat_new(c.B * c.Smax, c.Hkv * c.hd, pad);
    c.dv = mat_new(c.B * c.Smax, c.Hkv * c.hd, pad);
    return c;
}

static struct attn args(const struct attn_case *c)
{
    struct attn a = { .B = c->B,
                      .T = c->T,
                      .S = c->q0 + c->T,
                      .q0 = c->q0,
                      .Smax = c->Smax,
                      .Hq = c->Hq,
                      .Hkv = c->Hkv,
                      .hd = c->hd,
                      .scale = c->scale,
                      .start = c->start,
                      .q = mat_tensor(c->q),
                      .k = mat_tensor(c->k),
                      .v = mat_tensor(c->v),
                      .o = mat_tensor(c->o),
                      .lse = c->lse->f,
                      .dout = mat_tensor(c->dout),
                      .dq = mat_tensor(c->dq),
                      .dk = mat_tensor(c->dk),
                      .dv = mat_tensor(c->dv) };
    size_t bytes = ops_be->attn_work(&a);

    a.work = ops_bytes(bytes);
    memset(a.work, 0xff, bytes);
    return a;
}

static void run(const struct attn_case *c, bool bwd)
{
    struct attn a = args(c);

    ops_be->attn_fwd(&a);
    if (bwd)
        ops_be->attn_bwd(&a);
}

static double attn_loss(void *ctx)
{
    struct attn_case *c = ctx;
    double *p = malloc((size_t)(c->q0 + c->T) * sizeof(double));

    for (int64_t i = 0; i < c->B * c->T * c->Hq; i++) {
        int64_t m = i / c->Hq, h = i % c->Hq, b = m / c->T, t = m % c->T;
        int64_t g = h / (c->Hq / c->Hkv), last = c->q0 + t, first = 0;
        const double *q = c->q->d + i * c->hd;
        double *o = c->o->d + i * c->hd, sum = 0;

        if (c->start && c->start[m] + c->q0 > 0)
            first = c->start[m] + c->q0;
        for (int64_t s = first; s <= last; s++) {
            const double *k = c->k->d + ((b * c->Smax + s) * c->Hkv + g) * c->hd;

            p[s] = 0;
            for (int64_t e = 0; e < c->hd; e++)
                p[s] += q[e] * k[e] * c->scale;
            p[s] = exp(p[s]);
            sum += p[s];
        }
        c->lse->d[(b * c->Hq + h) * c->T + t] = log(sum);
        for (int64_t e = 0; e < c->hd; e++) {
            o[e] = 0;
            for (int64_t s = first; s <= last; s++)
                o[e] += p[s] / sum * c->v->d[((b * c->Smax + s) * c->Hkv + g) * c->hd + e];
        }
    }
    free(p);
    return mat_dot(c->o->d, c->dout);
}

/* B, T, q0, Smax-S, Hq, Hkv, hd */
static const int64_t shapes[][7] = {
    { 1, 1, 0, 0, 1, 1, 1 },    { 2, 5, 0, 3, 4, 2, 16 },   { 1, 64, 0, 0, 2, 2, 64 },
    { 1, 65, 0, 0, 6, 2, 80 },  { 2, 70, 33, 5, 3, 1, 7 },  { 1, 130, 64, 0, 2, 1, 16 },
    { 1, 1, 100, 0, 4, 2, 16 }, { 1, 200, 0, 0, 1, 1, 48 },
};

#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

void test_attn_forward(void **state)
{
    (void)state;
    ops_seed(40);
    for (size_t i = 0; i < SHAPES; i++)
        for (int kind = 0; kind < 3; kind++) {
            struct attn_case c = make_case(shapes[i], kind == 1 ? 3 : 0);

            if (kind)
                c.start = ops_documents(c.B, c.T, kind == 1, -40);
            run(&c, false);
            attn_loss(&c);
            mat_close("o", c.o, NULL, c.o->d, TOL);
            mat_close("lse", c.lse, NULL, c.lse->d, TOL);
            c.q->f[c.hd - 1] = NAN;
            run(&c, false);
            assert_true(isnan(c.o->f[0]));
            ops_teardown(NULL);
        }
    /* scores of hundreds: no overflow */
    struct attn_case c = make_case(shapes[3], 0);

    c.scale = 60;
    run(&c, true);
    assert_false(mat_has_nan(c.o));
    assert_false(mat_has_nan(c.dq));
}

void test_attn_gradients(void **state)
{
    (void)state;
    ops_seed(41);
    for (size_t i = 0; i < SHAPES; i++)
        for (int kind = 0; kind < 3; kind++) {
            struct attn_case c = make_case(shapes[i], kind == 1 ? 3 : 0);
            int probes = c.T * c.hd > 4000 ? 10 : 25;

            if (kind)
                c.start = ops_documents(c.B, c.T, kind == 1, -30);
            run(&c, true);
            /* rows S .. Smax-1 are not the op's: the reference has no gradient there */
            for (int64_t b = 0; b < c.B; b++)
                for (int64_t s = c.q0 + c.T; s < c.Smax; s++)
                    for (int64_t e = 0; e < c.Hkv * c.hd; e++) {
                        assert_true(isnan(c.dk->f[(b * c.Smax + s) * c.dk->ld + e]));
                        c.dk->f[(b * c.Smax + s) * c.dk->ld + e] = 0;
                        c.dv->f[(b * c.Smax + s) * c.dv->ld + e] = 0;
                    }
            mat_check_grad("q", attn_loss, &c, c.q, c.dq, NULL, probes, GRAD_TOL);
            mat_check_grad("k", attn_loss, &c, c.k, c.dk, NULL, probes, GRAD_TOL);
            mat_check_grad("v", attn_loss, &c, c.v, c.dv, NULL, probes, GRAD_TOL);
            ops_teardown(NULL);
        }
}

/* The last queries alone, with q0 keys before them, are the tail of the whole. */
void test_attn_tail(void **state)
{
    static const int64_t cut[] = { 1, 64, 100, 149 };
    const int64_t s[7] = { 1, 150, 0, 0, 4, 2, 24 };

    (void)state;
    ops_seed(42);
    for (size_t i = 0; i < sizeof(cut) / sizeof(cut[0]); i++) {
        struct attn_case c = make_case(s, 0), p = c;
        int64_t n = 150 - cut[i];

        run(&c, false);
        p.T = n;
        p.q0 = cut[i];
        p.q = mat_new(n, 96, 0);
        memcpy(p.q->f, c.q->f + cut[i] * 96, (size_t)(n * 96) * sizeof(float));
        p.o = mat_new(n, 96, 0);
        p.lse = mat_new(4, n, 0);
        run(&p, false);
        for (int64_t k = 0; k < n * 96; k++)
            p.o->d[k] = c.o->f[cut[i] * 96 + k];
        mat_close("o of the tail", p.o, NULL, p.o->d, TOL);
    }
}

void test_attn_steps(void **state)
{
    const int64_t s[7] = { 2, 100, 0, 7, 12, 2, 20 };
    struct attn_case c;
    struct attn a;
    struct mat *o;

    (void)state;
    ops_seed(43);
    c = make_case(s, 1);
    run(&c, false);
    attn_loss(&c);
    o = mat_new(200, 240, 1);
    a = args(&c);
    a.T = 1;
    for (int64_t t = 0; t < c.T; t++) {
        a.q0 = t;
        a.S = t + 1;
        a.q = tensor_f32(c.q->f + t * c.q->ld, c.T * c.q->ld);
        a.o = tensor_f32(o->f + t * o->ld, c.T * o->ld);
        a.lse = NULL;
        a.work = ops_bytes(ops_be->attn_work(&a));
        ops_be->attn_step(&a);
    }
    mat_close("o of steps", o, NULL, c.o->d, TOL);
}

/* Packed documents are separate documents: bit for bit when they begin with a tile of 64. */
void test_attn_documents(void **state)
{
    static const int64_t every[] = { 64, 45 };
    const int64_t s[7] = { 1, 192, 0, 0, 4, 2, 24 };

    (void)state;
    ops_seed(44);
    for (size_t i = 0; i < 2; i++) {
        struct attn_case c = make_case(s, 0);

        c.start = ops_documents(1, 192, false, every[i]);
        run(&c, true);
        for (int64_t t0 = 0; t0 < 192; t0 += every[i]) {
            int64_t n = t0 + every[i] < 192 ? every[i] : 192 - t0;
            int64_t shape[7] = { 1, n, 0, 0, 4, 2, 24 };
            struct attn_case p = make_case(shape, 0);
            struct mat *to[] = { p.q, p.k, p.v, p.dout };
            const struct mat *from[] = { c.q, c.k, c.v, c.dout };
            const struct mat *got[] = { c.o, c.dq, c.dk, c.dv };
            const struct mat *want[] = { p.o, p.dq, p.dk, p.dv };

            for (size_t k = 0; k < 4; k++)
                memcpy(to[k]->f, from[k]->f + t0 * to[k]->cols, (size_t)(n * to[k]->cols) * sizeof(float));
            run(&p, true);
            for (size_t k = 0; k < 4; k++) {
                struct mat *part = mat_new(n, got[k]->cols, 0);

                for (int64_t e = 0; e < n * part->cols; e++) {
                    part->f[e] = got[k]->f[t0 * part->cols + e];
                    part->d[e] = want[k]->f[e];
                }
                mat_close("packed documents", part, NULL, part->d, GRAD_TOL);
                if (every[i] == 64)
                    mat_same_bits("packed documents", part, want[k]);
            }
        }
        ops_teardown(NULL);
    }
}

void test_attn_threads(void **state)
{
    const int64_t s[7] = { 2, 150, 20, 0, 6, 2, 24 };
    int threads = omp_get_max_threads();
    struct attn_case kept = { 0 };

    (void)state;
    for (int n = 1; n <= 4; n++) { /* the fourth run repeats the third */
        struct attn_case c;

        ops_seed(45);
        omp_set_num_threads(n < 3 ? n : 3);
        c = make_case(s, 0);
        c.start = ops_documents(c.B, c.T, true, -60);
        run(&c, true);
        if (kept.B) {
            mat_same_bits("o", c.o, kept.o);
            mat_same_bits("dq", c.dq, kept.dq);
            mat_same_bits("dk", c.dk, kept.dk);
            mat_same_bits("dv", c.dv, kept.dv);
        }
        kept = c;
    }
    omp_set_num_threads(threads);
}
