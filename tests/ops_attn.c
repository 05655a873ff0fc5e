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
    int64_t B, T, q0, Smax, Hq, Hkv, hd, window;
    double scale, softcap;
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
                      .window = c->window,
                      .scale = c->scale,
                      .softcap = c->softcap,
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

/* First key that query t of sequence b sees. */
static int64_t first_key(const struct attn_case *c, int64_t b, int64_t t)
{
    int64_t first = 0;

    if (c->start && c->start[b * c->T + t] + c->q0 > 0)
        first = c->start[b * c->T + t] + c->q0;
    if (c->window && c->q0 + t - c->window + 1 > first)
        first = c->q0 + t - c->window + 1;
    return first;
}

static double attn_loss(void *ctx)
{
    struct attn_case *c = ctx;
    double *p = malloc((size_t)(c->q0 + c->T) * sizeof(double));

    for (int64_t i = 0; i < c->B * c->T * c->Hq; i++) {
        int64_t m = i / c->Hq, h = i % c->Hq, b = m / c->T, t = m % c->T;
        int64_t g = h / (c->Hq / c->Hkv), last = c->q0 + t, first = first_key(c, b, t);
        const double *q = c->q->d + i * c->hd;
        double *o = c->o->d + i * c->hd, sum = 0;

        for (int64_t s = first; s <= last; s++) {
            const double *k = c->k->d + ((b * c->Smax + s) * c->Hkv + g) * c->hd;

            p[s] = 0;
            for (int64_t e = 0; e < c->hd; e++)
                p[s] += q[e] * k[e] * c->scale;
            p[s] = exp(c->softcap > 0 ? c->softcap * tanh(p[s] / c->softcap) : p[s]);
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
    { 1, 1, 100, 0, 4, 2, 16 }, { 1, 200, 0, 0, 1, 1, 48 }, { 1, 20, 70, 0, 3, 1, 256 },
    { 1, 300, 0, 0, 5, 1, 3 }, /* lanes that end inside a head */
};

#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

/* Scores are of size 1..4: a cap of 1.5 bends most of them. The slope of tanh is at most 1, so capped
 * scores have no larger errors. */
static const struct {
    int64_t window;
    double softcap;
} bounds[] = { { 0, 0 }, { 0, 1.5 }, { 1, 0 }, { 7, 0 }, { 64, 3 }, { 65, 0 }, { 90, 1.5 }, { 1000, 0 } };

#define BOUNDS (sizeof(bounds) / sizeof(bounds[0]))

void test_attn_forward(void **state)
{
    (void)state;
    ops_seed(40);
    for (size_t i = 0; i < SHAPES; i++)
        for (size_t n = 0; n < 3 * BOUNDS; n++) {
            int kind = (int)(n % 3);
            struct attn_case c = make_case(shapes[i], kind == 1 ? 3 : 0);

            c.window = bounds[n / 3].window;
            c.softcap = bounds[n / 3].softcap;
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

/* Rows of dk and dv that no query sees are zero; rows S .. Smax-1 are not the op's: the reference has no
 * gradient there. */
static void check_unseen(const struct attn_case *c)
{
    for (int64_t b = 0; b < c->B; b++)
        for (int64_t s = 0; s < c->Smax; s++) {
            bool seen = false;

            for (int64_t t = 0; t < c->T; t++)
                seen = seen || (first_key(c, b, t) <= s && s <= c->q0 + t);
            for (int64_t e = 0; !seen && e < c->Hkv * c->hd; e++) {
                float *dk = c->dk->f + (b * c->Smax + s) * c->dk->ld + e;
                float *dv = c->dv->f + (b * c->Smax + s) * c->dv->ld + e;

                if (s >= c->q0 + c->T) {
                    assert_true(isnan(*dk) && isnan(*dv));
                    *dk = *dv = 0;
                }
                assert_true(*dk == 0 && *dv == 0);
            }
        }
}

/* Does every query see one key only, its own? */
static bool all_alone(const struct attn_case *c)
{
    bool yes = true;

    for (int64_t m = 0; m < c->B * c->T; m++)
        yes = yes && first_key(c, m / c->T, m % c->T) == c->q0 + m % c->T;
    return yes;
}

void test_attn_gradients(void **state)
{
    (void)state;
    ops_seed(41);
    for (size_t i = 0; i < SHAPES; i++)
        for (size_t n = 0; n < BOUNDS + 2; n++) {
            /* without bounds all three kinds of documents, then one each */
            size_t bound = n < 3 ? 0 : n - 2;
            int kind = (int)(n % 3);
            struct attn_case c = make_case(shapes[i], kind == 1 ? 3 : 0);
            int probes = c.T * c.hd > 4000 ? 10 : 25;

            probes = bound ? (probes + 3) / 4 : probes;
            c.window = bounds[bound].window;
            c.softcap = bounds[bound].softcap;
            if (kind)
                c.start = ops_documents(c.B, c.T, kind == 1, -30);
            run(&c, true);
            check_unseen(&c);
            if (all_alone(&c)) { /* the softmax of one key is 1: only the rounding of hd products is left */
                for (int64_t e = 0; e < c.dq->rows * c.dq->cols; e++)
                    assert_true(fabsf(c.dq->f[e / c.dq->cols * c.dq->ld + e % c.dq->cols]) < 1e-5f);
                for (int64_t e = 0; e < c.dk->rows * c.dk->cols; e++)
                    assert_true(fabsf(c.dk->f[e / c.dk->cols * c.dk->ld + e % c.dk->cols]) < 1e-5f);
            } else {
                mat_check_grad("q", attn_loss, &c, c.q, c.dq, NULL, probes, GRAD_TOL);
                mat_check_grad("k", attn_loss, &c, c.k, c.dk, NULL, probes, GRAD_TOL);
            }
            mat_check_grad("v", attn_loss, &c, c.v, c.dv, NULL, probes, GRAD_TOL);
            ops_teardown(NULL);
        }
}

/* A window of all keys is no window, bit for bit; a softcap far above the scores changes them by
 * s^3 / (3 cap^2), here 3e-7 at most, and by the rounding of tanh. */
void test_attn_wide(void **state)
{
    const int64_t s[7] = { 2, 150, 30, 4, 4, 2, 24 };
    struct attn_case c;
    const int64_t window[] = { 180, 181, 1 << 20, 0 };

    (void)state;
    ops_seed(46);
    c = make_case(s, 1);
    c.start = ops_documents(c.B, c.T, true, -60);
    run(&c, true);
    for (size_t i = 0; i < 4; i++) {
        struct attn_case p = c;
        const struct mat *want[] = { c.o, c.lse, c.dq, c.dk, c.dv };
        struct mat **got[] = { &p.o, &p.lse, &p.dq, &p.dk, &p.dv };

        p.window = window[i];
        p.softcap = window[i] ? 0 : 1e4;
        for (size_t k = 0; k < 5; k++)
            *got[k] = mat_new(want[k]->rows, want[k]->cols, want[k]->ld - want[k]->cols);
        run(&p, true);
        check_unseen(&p);
        if (i == 0)
            check_unseen(&c);
        for (size_t k = 0; k < 5; k++)
            if (window[i])
                mat_same_bits("wide window", *got[k], want[k]);
            else {
                for (int64_t e = 0; e < want[k]->rows * want[k]->cols; e++)
                    want[k]->d[e] = want[k]->f[e / want[k]->cols * want[k]->ld + e % want[k]->cols];
                mat_close("high softcap", *got[k], NULL, want[k]->d, GRAD_TOL);
            }
    }
}

/* A row in pieces, each with the window - 1 keys before it (or all), is the whole row; the gradients of the
 * keys are the sums over the pieces. Documents begin where they do in the row: before later pieces. */
void test_attn_halo(void **state)
{
    static const int64_t cut[] = { 0, 100, 101, 165, 300 };
    const int64_t s[7] = { 1, 300, 0, 0, 6, 2, 24 };

    (void)state;
    for (int kind = 0; kind < 8; kind++) {
        struct attn_case c;
        struct mat *o, *dq, *dk, *dv;

        ops_seed(47);
        c = make_case(s, 0);
        c.window = kind & 1 ? 20 : 77;
        c.softcap = kind & 2 ? 2 : 0;
        c.start = ops_documents(1, 300, true, -90);
        run(&c, true);
        o = mat_new(300, 144, 0);
        dq = mat_new(300, 144, 0);
        dk = mat_new(300, 48, 0);
        dv = mat_new(300, 48, 0);
        memset(dk->d, 0, 300 * 48 * sizeof(double));
        memset(dv->d, 0, 300 * 48 * sizeof(double));
        for (size_t i = 0; i < 4; i++) {
            int64_t t0 = cut[i], n = cut[i + 1] - t0, halo = kind & 4 || t0 < c.window ? t0 : c.window - 1;
            int64_t shape[7] = { 1, n, halo, 0, 6, 2, 24 };
            struct attn_case p = make_case(shape, 0);
            int32_t *start = ops_bytes((size_t)n * sizeof(*start));

            p.window = c.window;
            p.softcap = c.softcap;
            p.start = start;
            for (int64_t t = 0; t < n; t++)
                start[t] = c.start[t0 + t] < -(1 << 29) ? c.start[t0 + t] : c.start[t0 + t] - (int32_t)t0;
            memcpy(p.q->f, c.q->f + t0 * 144, (size_t)(n * 144) * sizeof(float));
            memcpy(p.dout->f, c.dout->f + t0 * 144, (size_t)(n * 144) * sizeof(float));
            memcpy(p.k->f, c.k->f + (t0 - halo) * 48, (size_t)((halo + n) * 48) * sizeof(float));
            memcpy(p.v->f, c.v->f + (t0 - halo) * 48, (size_t)((halo + n) * 48) * sizeof(float));
            run(&p, true);
            check_unseen(&p);
            memcpy(o->f + t0 * 144, p.o->f, (size_t)(n * 144) * sizeof(float));
            memcpy(dq->f + t0 * 144, p.dq->f, (size_t)(n * 144) * sizeof(float));
            for (int64_t e = 0; e < (halo + n) * 48; e++) {
                dk->d[(t0 - halo) * 48 + e] += p.dk->f[e];
                dv->d[(t0 - halo) * 48 + e] += p.dv->f[e];
            }
        }
        for (int64_t e = 0; e < 300 * 144; e++) {
            o->d[e] = c.o->f[e];
            dq->d[e] = c.dq->f[e];
        }
        mat_close("o of pieces", o, NULL, o->d, TOL);
        mat_close("dq of pieces", dq, NULL, dq->d, GRAD_TOL);
        mat_close("dk of pieces", c.dk, NULL, dk->d, GRAD_TOL);
        mat_close("dv of pieces", c.dv, NULL, dv->d, GRAD_TOL);
        ops_teardown(NULL);
    }
}

/* Keys in tiles before every window are not read, and what lies before the window costs no scratch. */
void test_attn_skips(void **state)
{
    const int64_t s[7] = { 1, 130, 400, 0, 2, 1, 16 };
    struct attn_case c;
    struct attn a;
    size_t bytes;

    (void)state;
    ops_seed(48);
    c = make_case(s, 0);
    c.window = 70; /* the first query sees keys from 331 on; tiles begin at multiples of 64 */
    for (int64_t e = 0; e < 320 * 16; e++)
        c.k->f[e] = c.v->f[e] = NAN;
    run(&c, true);
    assert_false(mat_has_nan(c.o) || mat_has_nan(c.dq) || mat_has_nan(c.dk) || mat_has_nan(c.dv));
    check_unseen(&c);
    a = args(&c);
    bytes = ops_be->attn_work(&a);
    for (a.q0 = 330; a.q0 < 460; a.q0++) {
        a.S = a.Smax = a.q0 + a.T;
        assert_int_equal(ops_be->attn_work(&a), bytes);
    }
    a.q0 = 1 << 30;
    a.S = a.Smax = a.q0 + a.T;
    assert_int_equal(ops_be->attn_work(&a), bytes);
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

/* All tokens of c by steps into o, keys and values in rings of `room` rows. */
static void run_steps(const struct attn_case *c, int64_t room, struct mat *o)
{
    struct mat *k = mat_new(c->B * room, c->Hkv * c->hd, 2), *v = mat_new(c->B * room, c->Hkv * c->hd, 1);
    struct attn a = args(c);

    a.T = a.S = 1;
    a.q0 = 0;
    a.Smax = room;
    a.start = NULL;
    a.lse = NULL;
    a.k = mat_tensor(k);
    a.v = mat_tensor(v);
    a.work = ops_bytes(ops_be->attn_work(&a));
    for (int64_t t = 0; t < c->T; t++) {
        for (int64_t b = 0; b < c->B; b++)
            for (int64_t e = 0; e < k->cols; e++) {
                k->f[(b * room + t % room) * k->ld + e] = c->k->f[(b * c->Smax + t) * c->k->ld + e];
                v->f[(b * room + t % room) * v->ld + e] = c->v->f[(b * c->Smax + t) * c->v->ld + e];
            }
        a.q0 = t;
        a.S = t + 1;
        a.q = tensor_f32(c->q->f + t * c->q->ld, c->T * c->q->ld);
        a.o = tensor_f32(o->f + t * o->ld, c->T * o->ld);
        if (!c->window || room > c->T) /* scratch for a step of one key serves rings of any age */
            a.work = ops_bytes(ops_be->attn_work(&a));
        ops_be->attn_step(&a);
    }
}

void test_attn_steps(void **state)
{
    const int64_t s[7] = { 2, 100, 0, 7, 12, 2, 20 };

    (void)state;
    ops_seed(43);
    for (int capped = 0; capped < 2; capped++) {
        struct attn_case c = make_case(s, 1);
        struct mat *o = mat_new(200, 240, 1);

        c.softcap = capped ? 1.5 : 0;
        attn_loss(&c);
        run_steps(&c, 107, o);
        mat_close("o of steps", o, NULL, c.o->d, TOL);
    }
}

/* Rings that go round several times give the rows of the forward pass; their size does not change a bit. */
void test_attn_ring(void **state)
{
    static const int64_t shape[][7] = { { 2, 250, 0, 0, 10, 1, 20 }, { 1, 200, 0, 0, 3, 3, 33 } };
    static const int64_t window[] = { 1, 33, 64, 70 };

    (void)state;
    ops_seed(49);
    for (size_t i = 0; i < 8; i++) {
        struct attn_case c = make_case(shape[i % 2], 1);
        const int64_t room[] = { window[i / 2], window[i / 2] + 5, 128, c.T + 3 };
        struct mat *kept = NULL;

        c.window = window[i / 2];
        c.softcap = i / 2 % 2 ? 1.5 : 0;
        run(&c, false);
        for (int64_t e = 0; e < c.o->rows * c.o->cols; e++)
            c.o->d[e] = c.o->f[e / c.o->cols * c.o->ld + e % c.o->cols];
        for (size_t k = 0; k < 4; k++) {
            struct mat *o = mat_new(c.o->rows, c.o->cols, 1);

            run_steps(&c, room[k], o);
            mat_close("o of a ring", o, NULL, c.o->d, TOL);
            if (kept)
                mat_same_bits("o of rings", o, kept);
            kept = o;
        }
        ops_teardown(NULL);
    }
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
    /* the last two have lanes that end inside a head: 7 query heads, 16 lanes and 11 */
    static const int64_t shape[][7] = { { 2, 150, 20, 0, 6, 2, 24 },
                                        { 1, 700, 0, 0, 7, 1, 8 },
                                        { 1, 500, 100, 0, 7, 1, 8 } };
    int threads = omp_get_max_threads();

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct attn_case kept = { 0 };

        for (int n = 1; n <= 5; n++) { /* the last run repeats the one before */
            struct attn_case c;

            ops_seed(45);
            omp_set_num_threads(n < 4 ? n : 6);
            c = make_case(shape[i], 0);
            c.start = ops_documents(c.B, c.T, true, -60);
            if (i == 2) {
                c.window = 220;
                c.softcap = 2;
            }
            run(&c, true);
            if (kept.B) {
                mat_same_bits("o", c.o, kept.o);
                mat_same_bits("dq", c.dq, kept.dq);
                mat_same_bits("dk", c.dk, kept.dk);
                mat_same_bits("dv", c.dv, kept.dv);
            }
            kept = c;
        }
        ops_teardown(NULL);
    }
    omp_set_num_threads(threads);
}
