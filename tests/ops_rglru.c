/* ops_rglru.c - tests of the gated linear recurrence and of the rotary embedding
 * SPDX-License-Identifier: MIT
 *
 * References: the recurrence in double, the rotation in long double. Tolerances, relative to the largest element of
 * the tensor: a gate is off by 2.5 ulp, a state sums a few dozen of its own roundings (a slow one, hundreds), and
 * a gradient multiplies four such numbers.
 */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "ops.h"

#define FWD_TOL 2e-6
#define GRAD_TOL 5e-6

struct rglru_case {
    int64_t B, T, C;
    const int32_t *start;
    bool cut_off; /* the loss is one whose derivative is the cut-off one: dm/du as it was at u0 */
    double *u0;   /* [B*T,C] */
    struct mat *x, *gx, *ga, *p, *h0, *y, *hT, *dy, *dhT, *dx, *dgx, *dga, *dp, *dp0, *dh0;
};

static struct rglru_case make_case(int64_t B, int64_t T, int64_t C, bool h0, int64_t pad)
{
    struct rglru_case c = { .B = B, .T = T, .C = C };
    int64_t M = B * T;

    c.x = mat_rand(M, C, pad, -2, 2);
    c.gx = mat_rand(M, C, pad, -4, 4);
    c.ga = mat_rand(M, C, pad, -4, 4);
    c.p = mat_rand(1, C, 0, -9, 2); /* a from 0.9998 to 1e-7 */
    c.y = mat_new(M, C, pad);
    c.hT = mat_new(B, C, pad);
    c.dy = mat_rand(M, C, pad, -1, 1);
    c.dx = mat_new(M, C, pad);
    c.dgx = mat_new(M, C, pad);
    c.dga = mat_new(M, C, pad);
    c.dp = mat_rand(1, C, 0, -1, 1);
    c.dp0 = mat_copy(c.dp);
    if (h0) {
        c.h0 = mat_rand(B, C, pad, -1, 1);
        c.dh0 = mat_new(B, C, pad);
        c.dhT = mat_rand(B, C, pad, -1, 1);
    }
    return c;
}

static struct rglru args(const struct rglru_case *c)
{
    struct rglru a = { .B = c->B,
                       .T = c->T,
                       .C = c->C,
                       .start = c->start,
                       .x = mat_tensor(c->x),
                       .gate_x = mat_tensor(c->gx),
                       .gate_a = mat_tensor(c->ga),
                       .a_param = mat_tensor(c->p),
                       .h0 = mat_tensor(c->h0),
                       .y = mat_tensor(c->y),
                       .hT = mat_tensor(c->hT),
                       .dy = mat_tensor(c->dy),
                       .dhT = mat_tensor(c->dhT),
                       .dx = mat_tensor(c->dx),
                       .dgate_x = mat_tensor(c->dgx),
                       .dgate_a = mat_tensor(c->dga),
                       .da_param = mat_tensor(c->dp),
                       .dh0 = mat_tensor(c->dh0) };
    size_t bytes = ops_be->rglru_work(&a);

    a.work = ops_bytes(bytes);
    memset(a.work, 0xff, bytes); /* NaN: nothing may rely on what it finds there */
    return a;
}

static void run(const struct rglru_case *c)
{
    struct rglru a = args(c);

    ops_be->rglru_fwd(&a);
    ops_be->rglru_bwd(&a);
}

static double sigmoid(double z) { return 1 / (1 + exp(-z)); }

static double rglru_loss(void *ctx)
{
    struct rglru_case *c = ctx;

    for (int64_t b = 0; b < c->B; b++)
        for (int64_t k = 0; k < c->C; k++) {
            double h = c->h0 ? c->h0->d[b * c->C + k] : 0;

            for (int64_t t = 0; t < c->T; t++) {
                int64_t at = (b * c->T + t) * c->C + k;
                double log_a = -8 * sigmoid(c->ga->d[at]) * log1p(exp(c->p->d[k]));
                double a = exp(log_a), u = -expm1(2 * log_a), m = sqrt(u);

                if (c->cut_off && c->u0)
                    m = sqrt(c->u0[at]) + (u - c->u0[at]) / sqrt(fmax(4 * c->u0[at], 1e-6));
                if ((c->start && c->start[b * c->T + t] == t) || (t == 0 && !c->h0)) {
                    a = 0;
                    m = 1;
                }
                h = a * h + m * sigmoid(c->gx->d[at]) * c->x->d[at];
                c->y->d[at] = h;
            }
            c->hT->d[b * c->C + k] = h;
        }
    return mat_dot(c->y->d, c->dy) + (c->dhT ? mat_dot(c->hT->d, c->dhT) : 0);
}

static void check_case(struct rglru_case *c)
{
    run(c);
    rglru_loss(c);
    mat_close("rglru y", c->y, NULL, c->y->d, FWD_TOL);
    mat_close("rglru hT", c->hT, NULL, c->hT->d, FWD_TOL);
    mat_check_grad("rglru x", rglru_loss, c, c->x, c->dx, NULL, 60, GRAD_TOL);
    mat_check_grad("rglru gate_x", rglru_loss, c, c->gx, c->dgx, NULL, 60, GRAD_TOL);
    mat_check_grad("rglru gate_a", rglru_loss, c, c->ga, c->dga, NULL, 60, GRAD_TOL);
    mat_check_grad("rglru a_param", rglru_loss, c, c->p, c->dp, c->dp0, 60, GRAD_TOL);
    if (c->h0)
        mat_check_grad("rglru h0", rglru_loss, c, c->h0, c->dh0, NULL, 60, GRAD_TOL);
}

void test_rglru(void **state)
{
    static const int64_t shape[][3] = {
        { 1, 1, 1 }, { 2, 3, 5 }, { 3, 67, 17 }, { 1, 150, 131 }, { 2, 20, 300 }
    };

    (void)state;
    ops_seed(60);
    for (size_t i = 0; i < sizeof(shape) / sizeof(shape[0]); i++)
        for (int kind = 0; kind < 4; kind++) {
            struct rglru_case c =
                make_case(shape[i][0], shape[i][1], shape[i][2], kind & 1, kind & 2 ? 3 : 0);
            int64_t first = 0;

            check_case(&c);
            c.dp0 = mat_copy(c.dp);
            c.start =
                ops_documents(c.B, c.T, kind != 3, -9); /* 3: a document begins with the row, h0 is not it */
            check_case(&c);
            for (int64_t m = 0; m < c.B * c.T; m++)
                if (c.start[m] == m % c.T || (m % c.T == 0 && !c.h0))
                    for (int64_t k = 0; k < c.C; k++, first++)
                        assert_true(c.dga->f[m * c.dga->ld + k] == 0);
            assert_true(first > 0 || c.T < 18);
            ops_teardown(NULL);
        }
}

/* a so near to 1 that the square root's derivative is cut off, in two thirds of the elements. dy is large, so that
 * the gradients of the gates stand far above the least scale of mat_check_grad. */
void test_rglru_cut_off(void **state)
{
    struct rglru_case c;
    int64_t cut = 0, n = 2 * 5 * 33;

    (void)state;
    ops_seed(61);
    c = make_case(2, 5, 33, true, 0);
    c.ga = mat_rand(10, 33, 0, -12, -5);
    c.p = mat_rand(1, 33, 0, -9.5, -8.5);
    c.dy = mat_rand(10, 33, 0, -1e6, 1e6);
    c.h0 = mat_rand(2, 33, 0, -1e-4, 1e-4); /* as small as m: otherwise da hides dm */
    c.cut_off = true;
    c.u0 = ops_bytes((size_t)n * sizeof(double));
    for (int64_t i = 0; i < n; i++) {
        c.u0[i] = -expm1(-16 * sigmoid(c.ga->d[i]) * log1p(exp(c.p->d[i % 33])));
        cut += 4 * c.u0[i] < 1e-6;
    }
    assert_true(cut > n / 4 && cut < 3 * n / 4);
    check_case(&c);
}

/* m = sqrt(1 - a^2) keeps its digits however near a is to 1; a state with a memory of thousands of tokens follows
 * the reference, which it would not with a rounded to a float (5e-5 here). */
void test_rglru_slow(void **state)
{
    struct rglru_case c;

    (void)state;
    ops_seed(62);
    c = make_case(1, 1, 400, true, 0);
    for (int64_t k = 0; k < 400; k++) {
        c.h0->f[k] = 0;
        c.x->f[k] = 1;
        c.x->d[k] = 1;
        c.h0->d[k] = 0;
        c.ga->f[k] = (float)(-(double)k / 10);
        c.ga->d[k] = (double)c.ga->f[k];
    }
    run(&c);
    rglru_loss(&c);
    for (int64_t k = 0; k < 400; k++)
        assert_true(fabs((double)c.y->f[k] / c.y->d[k] - 1) < 1e-6);
    c = make_case(1, 20000, 3, true, 0);
    c.p = mat_rand(1, 3, 0, -12, -9);
    run(&c);
    rglru_loss(&c);
    mat_close("slow y", c.y, NULL, c.y->d, 5e-6); /* hundreds of roundings */
    mat_check_grad("slow a_param", rglru_loss, &c, c.p, c.dp, c.dp0, 3, GRAD_TOL);
    mat_check_grad("slow h0", rglru_loss, &c, c.h0, c.dh0, NULL, 3, GRAD_TOL);
}

/* A view of tokens t0 .. t1-1 of the only sequence; outputs of its own. */
static struct rglru_case piece(const struct rglru_case *c, int64_t t0, int64_t t1)
{
    struct rglru_case p = make_case(1, t1 - t0, c->C, true, 0);
    size_t bytes = (size_t)((t1 - t0) * c->C) * sizeof(float);

    memcpy(p.x->f, c->x->f + t0 * c->C, bytes);
    memcpy(p.gx->f, c->gx->f + t0 * c->C, bytes);
    memcpy(p.ga->f, c->ga->f + t0 * c->C, bytes);
    memcpy(p.dy->f, c->dy->f + t0 * c->C, bytes);
    p.p = c->p;
    return p;
}

static void same_rows(const struct mat *piece, const struct mat *whole, int64_t t0)
{
    assert_memory_equal(piece->f, whole->f + t0 * whole->ld,
                        (size_t)(piece->rows * piece->cols) * sizeof(float));
}

static void same_grads(const struct rglru_case *p, const struct rglru_case *c, int64_t t0)
{
    same_rows(p->y, c->y, t0);
    same_rows(p->dx, c->dx, t0);
    same_rows(p->dgx, c->dgx, t0);
    same_rows(p->dga, c->dga, t0);
    for (int64_t k = 0; k < c->C; k++)
        c->dp->d[k] += (double)p->dp->f[k] - (double)p->dp0->f[k];
}

/* A sequence in two pieces, states and their gradients handed over, and token by token: the same bits. */
void test_rglru_pieces(void **state)
{
    static const int64_t cut[] = { 1, 2, 40, 89 };

    (void)state;
    ops_seed(63);
    for (size_t i = 0; i < sizeof(cut) / sizeof(cut[0]); i++) {
        struct rglru_case c = make_case(1, 90, 133, i != 2, 0), p, q;
        struct mat *h = c.h0 ? mat_copy(c.h0) : NULL;
        struct rglru a;

        run(&c);
        memset(c.dp->d, 0, 133 * sizeof(double));
        p = piece(&c, 0, cut[i]);
        p.h0 = c.h0;
        a = args(&p);
        ops_be->rglru_fwd(&a);
        q = piece(&c, cut[i], 90);
        q.h0 = mat_copy(p.hT);
        q.dhT = c.dhT;
        run(&q);
        p.dhT = q.dh0;
        if (!p.h0)
            p.dh0 = NULL;
        run(&p);
        mat_same_bits("hT", q.hT, c.hT);
        same_grads(&p, &c, 0);
        same_grads(&q, &c, cut[i]);
        if (c.h0)
            mat_same_bits("dh0", p.dh0, c.dh0);
        mat_close("da_param of two pieces", c.dp, c.dp0, c.dp->d, 1e-6);
        a = args(&q);
        a.hT = a.h0; /* the state may be updated in place */
        ops_be->rglru_fwd(&a);
        mat_same_bits("hT in place", q.h0, c.hT);
        a = args(&c);
        a.T = 1;
        a.y = mat_tensor(p.hT);
        if (!h) { /* the step continues a document: the first token of one is a row of its own */
            h = mat_new(1, 133, 0);
            a.hT = mat_tensor(h);
            ops_be->rglru_fwd(&a);
        }
        a.h0 = mat_tensor(h);
        for (int64_t t = c.h0 ? 0 : 1; t < 90; t++) {
            a.x.data = c.x->f + t * 133;
            a.gate_x.data = c.gx->f + t * 133;
            a.gate_a.data = c.ga->f + t * 133;
            ops_be->rglru_step(&a);
            same_rows(p.hT, c.y, t);
        }
        mat_same_bits("state after the last step", h, c.hT);
        ops_teardown(NULL);
    }
}

/* Packed documents give the bits of separate ones, forward and backward. */
void test_rglru_documents(void **state)
{
    struct rglru_case c;

    (void)state;
    ops_seed(64);
    c = make_case(1, 60, 33, true, 0);
    c.start = ops_documents(1, 60, false, 20);
    c.dhT = NULL;
    run(&c);
    memset(c.dp->d, 0, 33 * sizeof(double));
    for (int64_t d = 0; d < 3; d++) {
        struct rglru_case p = piece(&c, 20 * d, 20 * d + 20);

        p.h0 = p.dh0 = p.dhT = NULL;
        run(&p);
        same_grads(&p, &c, 20 * d);
    }
    mat_close("da_param of packed documents", c.dp, c.dp0, c.dp->d, 1e-6);
    for (int64_t k = 0; k < 33; k++)
        assert_true(c.dh0->f[k] == 0);
}

/* Saturated gates stay finite; NaN stays NaN, and no row without tokens moves the state. */
void test_rglru_extremes(void **state)
{
    static const float gate[] = { -INFINITY, -1000, -100, -88, 0, 88, 1000, INFINITY };
    static const float param[] = { -200, -88, -17, 0, 30, 1000 };
    struct rglru_case c;
    struct rglru a;

    (void)state;
    ops_seed(65);
    c = make_case(1, 64, 6, true, 0);
    for (int64_t m = 0; m < 64; m++)
        for (int64_t k = 0; k < 6; k++) {
            c.ga->f[m * 6 + k] = gate[m % 8];
            c.gx->f[m * 6 + k] = gate[m / 8];
            c.p->f[k] = param[k];
        }
    run(&c);
    assert_false(mat_has_nan(c.y));
    assert_false(mat_has_nan(c.dx));
    assert_false(mat_has_nan(c.dgx));
    assert_false(mat_has_nan(c.dga));
    assert_false(mat_has_nan(c.dp));
    assert_false(mat_has_nan(c.dh0));
    c = make_case(1, 4, 6, true, 0);
    for (int64_t k = 0; k < 4; k++)
        *(k == 0 ? c.x->f + 1 : k == 1 ? c.gx->f + 2 : k == 2 ? c.ga->f + 3 : c.p->f + 4) = NAN;
    run(&c);
    for (int64_t k = 0; k < 6; k++)
        assert_true((isnan(c.hT->f[k]) != 0) == (k >= 1 && k <= 4));
    for (int64_t k = 2; k < 5; k++)
        assert_true(isnan(c.dp->f[k]) || k == 2);
    c = make_case(2, 5, 6, true, 0);
    a = args(&c);
    a.T = 0;
    ops_be->rglru_fwd(&a);
    ops_be->rglru_bwd(&a);
    mat_same_bits("state after nothing", c.hT, c.h0);
    mat_same_bits("its gradient", c.dh0, c.dhT);
    mat_same_bits("da_param of nothing", c.dp, c.dp0);
}

void test_rglru_threads(void **state)
{
    int threads = omp_get_max_threads();
    struct rglru_case kept = { 0 };

    (void)state;
    for (int n = 1; n <= 3; n++) {
        struct rglru_case c;

        ops_seed(66);
        omp_set_num_threads(n);
        c = make_case(3, 100, 300, true, 0);
        c.start = ops_documents(3, 100, true, -40);
        run(&c);
        if (kept.B) {
            mat_same_bits("y", c.y, kept.y);
            mat_same_bits("hT", c.hT, kept.hT);
            mat_same_bits("dx", c.dx, kept.dx);
            mat_same_bits("dgate_x", c.dgx, kept.dgx);
            mat_same_bits("dgate_a", c.dga, kept.dga);
            mat_same_bits("da_param", c.dp, kept.dp);
            mat_same_bits("dh0", c.dh0, kept.dh0);
        }
        kept = c;
    }
    omp_set_num_threads(threads);
}

/* ---- rotary embedding ---- */

#define ROPE_TOL 3e-7 /* four roundings of numbers up to 1, of which sine and cosine have one and a half */

static struct rope rope_args(struct mat *x, int64_t B, int64_t T, int64_t H, int64_t R)
{
    return (struct rope){ .B = B,
                          .T = T,
                          .H = H,
                          .hd = x->cols / H,
                          .R = R,
                          .rows = x->rows / B,
                          .base = 10000,
                          .x = mat_tensor(x) };
}

/* The formula, on x->d: what x->f was before the op. */
static void rope_reference(const struct rope *a, struct mat *x)
{
    for (int64_t b = 0; b < a->B; b++)
        for (int64_t t = 0; t < a->T; t++) {
            int64_t start = a->start ? a->start[b * a->T + t] : INT32_MIN;
            long double pos = (long double)(start < -(1 << 29) ? a->pos0 + t : t - start);

            for (int64_t i = 0; i < a->H * a->R / 2; i++) {
                int64_t k = i % (a->R / 2);
                double *u = x->d + (b * a->rows + t) * x->cols + i / (a->R / 2) * a->hd + k,
                       *v = u + a->R / 2;
                long double angle =
                    pos * powl((long double)a->base, -2.0L * (long double)k / (long double)a->R);
                long double c = cosl(angle), s = a->inverse ? -sinl(angle) : sinl(angle), p = *u, q = *v;

                *u = (double)(p * c - q * s);
                *v = (double)(q * c + p * s);
            }
        }
}

/* The elements that no angle belongs to: their bits. */
static void rope_untouched(const struct rope *a, const struct mat *x, const struct mat *before)
{
    for (int64_t r = 0; r < x->rows; r++)
        for (int64_t c = 0; c < x->cols; c++)
            if (r % a->rows >= a->T || c % a->hd >= a->R)
                assert_memory_equal(x->f + r * x->ld + c, before->f + r * x->ld + c, sizeof(float));
}

void test_rope(void **state)
{
    /* B, T, H, hd, R, rows more than T */
    static const int64_t shape[][6] = { { 1, 1, 1, 2, 2, 0 },   { 2, 7, 3, 16, 8, 0 },
                                        { 1, 70, 2, 10, 6, 3 }, { 2, 33, 5, 64, 64, 0 },
                                        { 3, 5, 1, 7, 2, 1 },   { 1, 3, 2, 600, 520, 0 },
                                        { 2, 9, 4, 26, 26, 2 }, { 1, 40, 2, 256, 128, 0 } };

    (void)state;
    ops_seed(67);
    for (size_t i = 0; i < sizeof(shape) / sizeof(shape[0]); i++)
        for (int kind = 0; kind < 4; kind++) {
            const int64_t *s = shape[i];
            struct mat *x = mat_rand(s[0] * (s[1] + s[5]), s[2] * s[3], kind & 1 ? 5 : 0, -1, 1),
                       *keep = mat_copy(x);
            struct rope a = rope_args(x, s[0], s[1], s[2], s[4]);

            a.pos0 = kind & 2 ? 3000 : 0;
            a.base = kind & 1 ? 10000 : 500000;
            if (kind == 3)
                a.start = ops_documents(a.B, a.T, true, -7);
            if (s[5] == 0 && kind & 1)
                a.rows = 0; /* the same */
            ops_be->rope(&a);
            a.rows = s[1] + s[5];
            rope_reference(&a, x);
            mat_close("rope", x, NULL, x->d, ROPE_TOL);
            rope_untouched(&a, x, keep);
            a.inverse = true;
            ops_be->rope(&a); /* backward: back to where it was */
            memcpy(x->d, keep->d, (size_t)(x->rows * x->cols) * sizeof(double));
            mat_close("rope back", x, NULL, x->d, 2 * ROPE_TOL);
            rope_untouched(&a, x, keep);
            a.x = mat_tensor(keep);
            ops_be->rope(&a); /* the transpose alone */
            rope_reference(&a, keep);
            mat_close("rope transposed", keep, NULL, keep->d, ROPE_TOL);
            ops_teardown(NULL);
        }
}

/* Positions up to 2^31: the angle of the first pair is as large, and a double has 2.4e-7 of it there. */
void test_rope_far(void **state)
{
    static const int64_t pos0[] = { 1 << 20, 1 << 24, (1 << 24) + 12345, 1000000007, (1LL << 31) - 20 };

    (void)state;
    ops_seed(68);
    for (size_t i = 0; i < sizeof(pos0) / sizeof(pos0[0]); i++) {
        struct mat *x = mat_rand(20, 128, 0, -1, 1);
        struct rope a = rope_args(x, 1, 20, 2, 64);

        a.pos0 = pos0[i];
        ops_be->rope(&a);
        rope_reference(&a, x);
        mat_close("rope far away", x, NULL, x->d, pos0[i] < 1 << 30 ? ROPE_TOL : 2 * ROPE_TOL);
    }
    {
        struct mat *x = mat_rand(3, 8, 0, -1, 1), *keep = mat_copy(x);
        struct rope a = rope_args(x, 1, 3, 2, 0);

        ops_be->rope(&a); /* R = 0 */
        mat_same_bits("nothing to turn", x, keep);
    }
}

/* Scores of queries and keys depend on the distance only: the same for any pos0. */
void test_rope_shift(void **state)
{
    static const int64_t pos0[] = { 0, 1, 777, 100000 };
    struct mat *q, *k, *score;

    (void)state;
    ops_seed(69);
    q = mat_rand(9, 64, 0, -1, 1);
    k = mat_rand(9, 64, 0, -1, 1);
    score = mat_new(9, 9, 0);
    for (size_t n = 0; n < sizeof(pos0) / sizeof(pos0[0]); n++) {
        struct mat *u = mat_copy(q), *v = mat_copy(k);
        struct rope a = rope_args(u, 1, 9, 1, 64);

        a.pos0 = pos0[n];
        ops_be->rope(&a);
        a.x = mat_tensor(v);
        ops_be->rope(&a);
        for (int64_t i = 0; i < 81; i++) {
            double sum = 0;

            for (int64_t c = 0; c < 64; c++)
                sum += (double)u->f[i / 9 * 64 + c] * (double)v->f[i % 9 * 64 + c];
            score->f[i] = (float)sum;
            if (n == 0)
                score->d[i] = sum;
        }
        mat_close("scores", score, NULL, score->d, 1e-6); /* 64 products of numbers that are off by 2e-7 */
    }
}

/* Packed documents have the bits of separate ones; -(1 << 29) is the earliest start that counts. */
void test_rope_documents(void **state)
{
    static const int32_t edge[3] = { -(1 << 29), -(1 << 29) - 1, -3 };
    static const int64_t pos[3] = { 1 << 29, 51, 5 };
    struct mat *x, *y;
    struct rope a;

    (void)state;
    ops_seed(70);
    x = mat_rand(60, 48, 0, -1, 1);
    y = mat_copy(x);
    a = rope_args(x, 1, 60, 3, 16);
    a.start = ops_documents(1, 60, false, 20);
    a.pos0 = 99; /* of documents that began before everything only */
    ops_be->rope(&a);
    for (int64_t d = 0; d < 3; d++) {
        struct rope p = rope_args(y, 1, 20, 3, 16);

        p.rows = 0;
        p.x.data = y->f + d * 20 * 48;
        ops_be->rope(&p);
    }
    mat_same_bits("packed documents", x, y);
    x = mat_rand(3, 48, 0, -1, 1);
    y = mat_copy(x);
    a = rope_args(x, 1, 3, 3, 16);
    a.start = edge;
    a.pos0 = 50;
    ops_be->rope(&a);
    for (int64_t t = 0; t < 3; t++) {
        struct rope p = rope_args(y, 1, 1, 3, 16);

        p.x.data = y->f + t * 48;
        p.pos0 = pos[t];
        ops_be->rope(&p);
    }
    mat_same_bits("where documents began", x, y);
}

void test_rope_threads(void **state)
{
    int threads = omp_get_max_threads();
    struct mat *kept = NULL;

    (void)state;
    for (int n = 1; n <= 3; n++) {
        struct mat *x;
        struct rope a;

        ops_seed(71);
        omp_set_num_threads(n);
        x = mat_rand(2 * 53, 130, 3, -1, 1);
        a = rope_args(x, 2, 50, 2, 40);
        ops_be->rope(&a);
        if (kept)
            mat_same_bits("rope", x, kept);
        kept = x;
    }
    omp_set_num_threads(threads);
}
