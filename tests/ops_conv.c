/* ops_conv.c - tests of the causal convolution
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "ops.h"

#define TOL 3e-6 /* sums of W products; of T products for dw, whose largest element grows alike */

struct conv_case {
    int64_t B, T, C, W;
    bool silu;
    const int32_t *start;
    struct mat *x, *w, *bias, *halo, *y, *out, *dy, *dx, *dw, *dbias, *dhalo, *dw0, *dbias0;
};

static struct conv_case make_case(int64_t B, int64_t T, int64_t C, int64_t W, bool silu, bool bias, bool halo,
                                  int64_t pad)
{
    struct conv_case c = { .B = B, .T = T, .C = C, .W = W, .silu = silu };

    c.x = mat_rand(B * T, C, pad, -2, 2);
    c.w = mat_rand(C, W, pad, -1, 1);
    c.y = mat_new(B * T, C, pad);
    c.dy = mat_rand(B * T, C, pad, -1, 1);
    c.dx = mat_new(B * T, C, pad);
    c.dw = mat_rand(C, W, pad, -1, 1);
    c.dw0 = mat_copy(c.dw);
    if (bias) {
        c.bias = mat_rand(1, C, 0, -1, 1);
        c.dbias = mat_rand(1, C, 0, -1, 1);
        c.dbias0 = mat_copy(c.dbias);
    }
    if (halo && W > 1) {
        c.halo = mat_rand(B * (W - 1), C, pad, -2, 2);
        c.dhalo = mat_new(B * (W - 1), C, pad);
    }
    if (W > 1)
        c.out = mat_new(B * (W - 1), C, pad);
    return c;
}

static struct conv1d args(const struct conv_case *c)
{
    struct conv1d a = { .B = c->B,
                        .T = c->T,
                        .C = c->C,
                        .W = c->W,
                        .silu = c->silu,
                        .start = c->start,
                        .x = mat_tensor(c->x),
                        .w = mat_tensor(c->w),
                        .bias = mat_tensor(c->bias),
                        .halo = mat_tensor(c->halo),
                        .y = mat_tensor(c->y),
                        .halo_out = mat_tensor(c->out),
                        .dy = mat_tensor(c->dy),
                        .dx = mat_tensor(c->dx),
                        .dw = mat_tensor(c->dw),
                        .dbias = mat_tensor(c->dbias),
                        .dhalo = mat_tensor(c->dhalo) };

    a.work = ops_bytes(ops_be->conv1d_work(&a));
    return a;
}

static void run(const struct conv_case *c)
{
    struct conv1d a = args(c);

    ops_be->conv1d_fwd(&a);
    ops_be->conv1d_bwd(&a);
}

static double conv_loss(void *ctx)
{
    struct conv_case *c = ctx;

    for (int64_t b = 0; b < c->B; b++)
        for (int64_t t = 0; t < c->T; t++)
            for (int64_t k = 0; k < c->C; k++) {
                double v = c->bias ? c->bias->d[k] : 0;

                for (int64_t j = 0; j < c->W; j++) {
                    int64_t from = t - j;
                    double x = 0;

                    if (c->start && from < c->start[b * c->T + t])
                        break;
                    if (from >= 0)
                        x = c->x->d[(b * c->T + from) * c->C + k];
                    else if (c->halo)
                        x = c->halo->d[(b * (c->W - 1) + c->W - 1 + from) * c->C + k];
                    v += c->w->d[k * c->W + c->W - 1 - j] * x;
                }
                c->y->d[(b * c->T + t) * c->C + k] = c->silu ? v / (1 + exp(-v)) : v;
            }
    return mat_dot(c->y->d, c->dy);
}

static void check_case(struct conv_case *c)
{
    run(c);
    conv_loss(c);
    mat_close("conv y", c->y, NULL, c->y->d, TOL);
    mat_check_grad("conv x", conv_loss, c, c->x, c->dx, NULL, 60, TOL);
    mat_check_grad("conv w", conv_loss, c, c->w, c->dw, c->dw0, 40, TOL);
    if (c->bias)
        mat_check_grad("conv bias", conv_loss, c, c->bias, c->dbias, c->dbias0, 40, TOL);
    if (c->halo)
        mat_check_grad("conv halo", conv_loss, c, c->halo, c->dhalo, NULL, 40, TOL);
    for (int64_t i = 0; i < c->B * (c->W - 1); i++)
        for (int64_t k = 0; k < c->C; k++) {
            int64_t b = i / (c->W - 1), t = c->T - (c->W - 1) + i % (c->W - 1);
            double x = 0;

            if (t >= 0)
                x = c->x->d[(b * c->T + t) * c->C + k];
            else if (c->halo)
                x = c->halo->d[(b * (c->W - 1) + c->W - 1 + t) * c->C + k];
            assert_true(c->out->f[i * c->out->ld + k] == (float)x);
        }
}

void test_conv1d(void **state)
{
    static const int64_t shape[][4] = { { 1, 1, 1, 4 },    { 2, 3, 5, 4 },    { 1, 2, 70, 8 },
                                        { 2, 65, 67, 4 },  { 3, 131, 16, 3 }, { 1, 70, 9, 1 },
                                        { 1, 140, 130, 4 } };

    (void)state;
    ops_seed(20);
    for (size_t i = 0; i < sizeof(shape) / sizeof(shape[0]); i++)
        for (int kind = 0; kind < 4; kind++) {
            struct conv_case c = make_case(shape[i][0], shape[i][1], shape[i][2], shape[i][3], kind & 1,
                                           !(kind & 2), kind != 1, kind == 3 ? 5 : 0);

            check_case(&c);
            c.start = ops_documents(c.B, c.T, true, -5);
            c.dw0 = mat_copy(c.dw);
            if (c.bias)
                c.dbias0 = mat_copy(c.dbias);
            check_case(&c);
            ops_teardown(NULL);
        }
}

/* A view of tokens t0 .. t1-1 of the only sequence; outputs of its own. */
static struct conv_case piece(const struct conv_case *c, int64_t t0, int64_t t1)
{
    struct conv_case p = make_case(1, t1 - t0, c->C, c->W, c->silu, true, true, 0);

    memcpy(p.x->f, c->x->f + t0 * c->C, (size_t)((t1 - t0) * c->C) * sizeof(float));
    memcpy(p.dy->f, c->dy->f + t0 * c->C, (size_t)((t1 - t0) * c->C) * sizeof(float));
    p.w = c->w;
    p.bias = c->bias;
    return p;
}

/* A sequence in two pieces, the halo handed over, and token by token: the same bits. */
void test_conv1d_pieces(void **state)
{
    static const int64_t cut[] = { 1, 2, 40, 64 };

    (void)state;
    ops_seed(21);
    for (size_t i = 0; i < sizeof(cut) / sizeof(cut[0]); i++) {
        struct conv_case c = make_case(1, 90, 70, 4, true, true, true, 0), p, q;
        struct conv1d a;
        struct mat *halo = mat_copy(c.halo);

        run(&c);
        p = piece(&c, 0, cut[i]);
        p.halo = mat_copy(c.halo);
        p.out = p.halo; /* in place */
        a = args(&p);
        ops_be->conv1d_fwd(&a);
        q = piece(&c, cut[i], 90);
        q.halo = p.out;
        run(&q);
        mat_same_bits("halo of the second piece", q.out, c.out);
        assert_memory_equal(p.y->f, c.y->f, cut[i] * 70 * sizeof(float));
        assert_memory_equal(q.y->f, c.y->f + cut[i] * 70, (90 - cut[i]) * 70 * sizeof(float));
        a = args(&c);
        a.T = 1;
        a.halo = mat_tensor(halo);
        for (int64_t t = 0; t < 90; t++) {
            struct mat *y = mat_new(1, 70, 0);

            a.x.data = c.x->f + t * 70;
            a.y = mat_tensor(y);
            ops_be->conv1d_step(&a);
            assert_memory_equal(y->f, c.y->f + t * 70, 70 * sizeof(float));
        }
        mat_same_bits("halo after the last step", halo, c.out);
        ops_teardown(NULL);
    }
}

/* Packed documents give the bits of separate ones, forward and backward. */
void test_conv1d_documents(void **state)
{
    struct conv_case c;
    struct mat *dw;

    (void)state;
    ops_seed(22);
    c = make_case(1, 60, 33, 4, true, true, false, 0);
    c.start = ops_documents(1, 60, false, 20);
    run(&c);
    dw = mat_new(33, 4, 0);
    for (int64_t d = 0; d < 3; d++) {
        struct conv_case p = piece(&c, 20 * d, 20 * d + 20);

        p.halo = p.dhalo = NULL;
        run(&p);
        assert_memory_equal(p.y->f, c.y->f + d * 20 * 33, 20 * 33 * sizeof(float));
        assert_memory_equal(p.dx->f, c.dx->f + d * 20 * 33, 20 * 33 * sizeof(float));
        for (int64_t i = 0; i < 33 * 4; i++)
            dw->d[i] += (double)p.dw->f[i] - (double)p.dw0->f[i];
    }
    mat_close("dw of packed documents", c.dw, c.dw0, dw->d, 1e-6);
}

void test_conv1d_threads(void **state)
{
    int threads = omp_get_max_threads();
    struct conv_case kept = { 0 };

    (void)state;
    for (int n = 1; n <= 3; n++) {
        struct conv_case c;

        ops_seed(23);
        omp_set_num_threads(n);
        c = make_case(2, 300, 140, 4, true, true, true, 0);
        run(&c);
        if (kept.B) {
            mat_same_bits("y", c.y, kept.y);
            mat_same_bits("dx", c.dx, kept.dx);
            mat_same_bits("dw", c.dw, kept.dw);
            mat_same_bits("dbias", c.dbias, kept.dbias);
            mat_same_bits("dhalo", c.dhalo, kept.dhalo);
        }
        kept = c;
    }
    omp_set_num_threads(threads);
}
