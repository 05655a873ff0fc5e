/* ops_linear.c - tests of matmul, colsum, embed, xent
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops.h"

/* Float rounding of K products in any order: sqrt(K) 6e-8 typically; the largest element is of the
 * order sqrt(K) itself, so a constant does. */
#define TOL 2e-6

/* kind: bits 0 and 1 transpose, bit 2 adds to c, bit 3 adds another matrix, bit 4 a bias; batch: products that lie in
 * columns of a and c beside each other, as a block-diagonal layer has them. */
static void one_matmul(int64_t M, int64_t N, int64_t K, int kind, int64_t pad, int64_t batch)
{
    bool ta = kind & 1, tb = kind & 2, acc = kind & 4, other = kind & 8, biased = kind & 16;
    int64_t ka = (ta ? M : K), kb = (tb ? N * K : K * N);
    struct mat *a = mat_rand(ta ? K : M, ka * batch, pad, -1, 1);
    struct mat *b = mat_rand(batch * (tb ? N : K), tb ? K : N, 0, -1, 1);
    struct mat *c = acc ? mat_rand(M, N * batch, pad, -1, 1) : mat_new(M, N * batch, pad);
    struct mat *base = acc ? mat_copy(c) : NULL, *ref = mat_new(M, N * batch, 0);
    struct mat *add = other ? mat_rand(M, N * batch, pad + 2, -1, 1) : NULL;
    struct mat *bias = biased ? mat_rand(1, N * batch, 0, -1, 1) : NULL;
    char what[100];

    for (int64_t i = 0; i < batch; i++)
        for (int64_t m = 0; m < M; m++)
            for (int64_t n = 0; n < N; n++) {
                const double *pa = a->d + i * ka, *pb = b->d + i * kb;
                double sum = (other ? add->d[m * N * batch + i * N + n] : 0) + (biased ? bias->d[i * N + n] : 0);

                for (int64_t k = 0; k < K; k++)
                    sum += pa[ta ? k * ka * batch + m : m * ka * batch + k] * (tb ? pb[n * K + k] : pb[k * N + n]);
                ref->d[m * N * batch + i * N + n] = sum;
            }
    ops_be->matmul(&(struct matmul){ .M = M,
                                     .N = N,
                                     .K = K,
                                     .trans_a = ta,
                                     .trans_b = tb,
                                     .batch = batch,
                                     .step_a = ka,
                                     .step_b = kb,
                                     .step_c = N,
                                     .step_bias = N,
                                     .add = acc ? mat_tensor(c) : mat_tensor(add),
                                     .bias = mat_tensor(bias),
                                     .a = mat_tensor(a),
                                     .b = mat_tensor(b),
                                     .c = mat_tensor(c) });
    snprintf(what, sizeof(what), "matmul %lldx%lldx%lld batch %lld kind %d", (long long)M, (long long)N,
             (long long)K, (long long)batch, kind);
    mat_close(what, c, base, ref->d, TOL);
}

void test_matmul(void **state)
{
    static const int64_t shape[][3] = { { 1, 1, 1 }, { 1, 37, 19 },  { 33, 1, 7 },
                                        { 5, 6, 1 }, { 17, 31, 64 }, { 70, 65, 130 } };

    (void)state;
    ops_seed(1);
    for (int kind = 0; kind < 32; kind++) {
        if ((kind & 12) == 12)
            continue; /* one matrix is added, not two */
        for (size_t i = 0; i < sizeof(shape) / sizeof(shape[0]); i++)
            one_matmul(shape[i][0], shape[i][1], shape[i][2], kind, i % 2 ? 3 : 0, 1 + (int64_t)(i % 3));
        ops_teardown(NULL);
    }
}

/* A block-diagonal linear layer as the models run it: x, y [M,n*d] with the blocks in columns, w [n,d,d] one
 * behind the other. Forward w transposed, dx not, dw += dy^T x with both operands' blocks in columns. */
void test_matmul_blocks(void **state)
{
    const int64_t M = 37, n = 3, in = 19, out = 11;
    struct mat *x, *w, *bias, *y, *dy, *dx, *dw, *base;

    (void)state;
    ops_seed(8);
    x = mat_rand(M, n * in, 2, -1, 1);
    w = mat_rand(n * out, in, 0, -1, 1);
    bias = mat_rand(1, n * out, 0, -1, 1);
    y = mat_new(M, n * out, 3);
    dy = mat_rand(M, n * out, 1, -1, 1);
    dx = mat_new(M, n * in, 4);
    dw = mat_rand(n * out, in, 0, -1, 1);
    base = mat_copy(dw);
    struct matmul fwd = { .M = M,
                          .N = out,
                          .K = in,
                          .trans_b = true,
                          .a = mat_tensor(x),
                          .b = mat_tensor(w),
                          .c = mat_tensor(y),
                          .bias = mat_tensor(bias),
                          .batch = n,
                          .step_a = in,
                          .step_b = out * in,
                          .step_c = out,
                          .step_bias = out };
    struct matmul bwd = { .M = M,
                          .N = in,
                          .K = out,
                          .a = mat_tensor(dy),
                          .b = mat_tensor(w),
                          .c = mat_tensor(dx),
                          .batch = n,
                          .step_a = out,
                          .step_b = out * in,
                          .step_c = in };
    struct matmul weight = { .M = out,
                             .N = in,
                             .K = M,
                             .trans_a = true,
                             .a = mat_tensor(dy),
                             .b = mat_tensor(x),
                             .c = mat_tensor(dw),
                             .add = mat_tensor(dw),
                             .batch = n,
                             .step_a = out,
                             .step_b = in,
                             .step_c = out * in };

    for (int64_t i = 0; i < n; i++)
        for (int64_t o = 0; o < out; o++)
            for (int64_t m = 0; m < M; m++)
                y->d[m * n * out + i * out + o] = bias->d[i * out + o];
    memset(dx->d, 0, (size_t)(M * n * in) * sizeof(double));
    memset(dw->d, 0, (size_t)(n * out * in) * sizeof(double));
    for (int64_t i = 0; i < n; i++)
        for (int64_t o = 0; o < out; o++)
            for (int64_t k = 0; k < in; k++)
                for (int64_t m = 0; m < M; m++) {
                    int64_t at_x = m * n * in + i * in + k, at_y = m * n * out + i * out + o;
                    int64_t at_w = (i * out + o) * in + k;

                    y->d[at_y] += x->d[at_x] * w->d[at_w];
                    dx->d[at_x] += dy->d[at_y] * w->d[at_w];
                    dw->d[at_w] += dy->d[at_y] * x->d[at_x];
                }
    ops_be->matmul(&fwd);
    ops_be->matmul(&bwd);
    ops_be->matmul(&weight);
    mat_close("blocks y", y, NULL, y->d, TOL);
    mat_close("blocks dx", dx, NULL, dx->d, TOL);
    mat_close("blocks dw", dw, base, dw->d, TOL);
}

static void run_colsum(const struct mat *x, struct mat *y)
{
    struct colsum a = { .M = x->rows, .D = x->cols, .x = mat_tensor(x), .y = mat_tensor(y) };

    a.work = ops_bytes(ops_be->colsum_work(&a));
    ops_be->colsum(&a);
}

void test_colsum(void **state)
{
    static const int64_t shape[][3] = { { 0, 5, 0 },   { 1, 1, 0 },   { 1, 37, 2 },    { 31, 3, 1 },
                                        { 33, 64, 0 }, { 97, 65, 5 }, { 3001, 129, 3 } };

    (void)state;
    ops_seed(9);
    for (size_t i = 0; i < sizeof(shape) / sizeof(shape[0]); i++) {
        struct mat *x = mat_rand(shape[i][0], shape[i][1], shape[i][2], -1, 1);
        struct mat *y = mat_rand(1, shape[i][1], 0, -1, 1), *base = mat_copy(y);

        memset(y->d, 0, (size_t)y->cols * sizeof(double));
        for (int64_t k = 0; k < x->rows * x->cols; k++)
            y->d[k % x->cols] += x->d[k];
        run_colsum(x, y);
        mat_close("colsum", y, base, y->d, TOL); /* random signs: the sum grows as its rounding does */
    }
    struct mat *x = mat_rand(50, 20, 0, -1, 1), *y = mat_rand(1, 20, 0, -1, 1);

    x->f[43 * 20 + 7] = NAN;
    run_colsum(x, y);
    assert_true(isnan(y->f[7]));
    assert_false(isnan(y->f[6]));
}

void test_colsum_threads(void **state)
{
    int threads = omp_get_max_threads();
    struct mat *kept = NULL;

    (void)state;
    for (int n = 1; n <= 3; n++) {
        struct mat *x, *y;

        ops_seed(9);
        omp_set_num_threads(n);
        x = mat_rand(517, 203, 1, -1, 1);
        y = mat_rand(1, 203, 0, -1, 1);
        run_colsum(x, y);
        if (kept)
            mat_same_bits("colsum", y, kept);
        kept = y;
    }
    omp_set_num_threads(threads);
}

static void one_embed(double scale)
{
    const int64_t M = 50, D = 71, V = 13;
    double by = scale == 0 ? 1 : scale;
    int32_t *ids = ops_bytes(M * sizeof(*ids));
    struct mat *table, *y, *dy, *dtable, *base, *ref;

    ops_seed(2);
    table = mat_rand(V, D, 2, -1, 1);
    dy = mat_rand(M, D, 3, -1, 1);
    dtable = mat_rand(V, D, 2, -1, 1);
    base = mat_copy(dtable);
    y = mat_new(M, D, 1);
    ref = mat_new(M > V ? M : V, D, 0);
    for (int64_t m = 0; m < M; m++)
        ids[m] = (int32_t)ops_below(V - 1); /* the last row is never used */
    struct embed e = { .M = M,
                       .D = D,
                       .V = V,
                       .scale = scale,
                       .ids = ids,
                       .table = mat_tensor(table),
                       .y = mat_tensor(y),
                       .dy = mat_tensor(dy),
                       .dtable = mat_tensor(dtable) };

    ops_be->embed_fwd(&e);
    for (int64_t m = 0; m < M; m++) {
        if (by == 1)
            assert_memory_equal(y->f + m * y->ld, table->f + ids[m] * table->ld, D * sizeof(float));
        for (int64_t c = 0; c < D; c++)
            y->d[m * D + c] = by * table->d[ids[m] * D + c];
    }
    mat_close("embed y", y, NULL, y->d, 2e-7); /* the scale's rounding and the product's */
    ops_be->embed_bwd(&e);
    memset(ref->d, 0, (size_t)(V * D) * sizeof(double));
    for (int64_t m = 0; m < M; m++)
        for (int64_t c = 0; c < D; c++)
            ref->d[ids[m] * D + c] += by * dy->d[m * D + c];
    mat_close("dtable", dtable, base, ref->d, 1e-6);
    assert_memory_equal(dtable->f + (V - 1) * dtable->ld, base->f + (V - 1) * base->ld, D * sizeof(float));
}

void test_embed(void **state)
{
    (void)state;
    one_embed(0);
    one_embed(1);
    one_embed(50.59644256269407); /* sqrt(2560) */
    one_embed(-0.3);
}

struct xent_case {
    int64_t M, D, V, Vpad;
    int32_t *target;
    struct mat *x, *w, *loss, *dx, *dw, *base;
    double softcap;
};

static struct xent_case make_xent(int64_t M, int64_t D, int64_t V, int64_t Vpad)
{
    struct xent_case c = { M,
                           D,
                           V,
                           Vpad,
                           ops_bytes((size_t)M * sizeof(int32_t)),
                           mat_rand(M, D, 1, -1, 1),
                           mat_rand(Vpad, D, 2, -1, 1),
                           mat_new(1, M, 0),
                           mat_new(M, D, 3),
                           mat_rand(Vpad, D, 1, -1, 1),
                           NULL,
                           0 };

    for (int64_t m = 0; m < M; m++)
        c.target[m] = m % 5 == 3 ? -1 : (int32_t)ops_below(V);
    c.base = mat_copy(c.dw);
    return c;
}

static void run_xent(struct xent_case *c, bool grad)
{
    struct xent a = { .M = c->M,
                      .D = c->D,
                      .V = c->V,
                      .softcap = c->softcap,
                      .target = c->target,
                      .x = mat_tensor(c->x),
                      .w = mat_tensor(c->w),
                      .loss = c->loss->f };

    if (grad) {
        a.dx = mat_tensor(c->dx);
        a.dw = mat_tensor(c->dw);
    }
    a.work = ops_bytes(ops_be->xent_work(&a));
    ops_be->xent(&a);
}

/* Losses of the double reference into c->loss->d; returns their sum. */
static double xent_loss(void *ctx)
{
    struct xent_case *c = ctx;
    double total = 0, *z = malloc((size_t)c->V * sizeof(double));

    for (int64_t m = 0; m < c->M; m++) {
        double top = -INFINITY, sum = 0;

        c->loss->d[m] = 0;
        if (c->target[m] < 0)
            continue;
        for (int64_t v = 0; v < c->V; v++) {
            z[v] = 0;
            for (int64_t k = 0; k < c->D; k++)
                z[v] += c->x->d[m * c->D + k] * c->w->d[v * c->D + k];
            if (c->softcap > 0)
                z[v] = c->softcap * tanh(z[v] / c->softcap);
            top = fmax(top, z[v]);
        }
        for (int64_t v = 0; v < c->V; v++)
            sum += exp(z[v] - top);
        c->loss->d[m] = log(sum) + top - z[c->target[m]];
        total += c->loss->d[m];
    }
    free(z);
    return total;
}

static void scale_inputs(struct xent_case *c, float by)
{
    for (int64_t i = 0; i < c->M * c->D; i++) {
        float *x = c->x->f + i / c->D * c->x->ld + i % c->D;

        *x *= by;
        c->x->d[i] = *x;
    }
}

void test_xent(void **state)
{
    static const int64_t shape[][4] = { { 1, 3, 2, 2 }, { 70, 24, 257, 272 }, { 9, 17, 1000, 1000 } };

    (void)state;
    ops_seed(3);
    for (size_t i = 0; i < sizeof(shape) / sizeof(shape[0]); i++) {
        struct xent_case c = make_xent(shape[i][0], shape[i][1], shape[i][2], shape[i][3]);
        struct mat *first;

        run_xent(&c, false);
        xent_loss(&c);
        mat_close("loss", c.loss, NULL, c.loss->d, 2e-6);
        first = mat_copy(c.loss);
        run_xent(&c, true);
        mat_same_bits("loss with and without gradient", c.loss, first);
    }
    /* logits of some hundreds: no overflow */
    struct xent_case c = make_xent(5, 8, 40, 40);

    scale_inputs(&c, 300);
    run_xent(&c, true);
    xent_loss(&c);
    mat_close("loss of large logits", c.loss, NULL, c.loss->d, 2e-6);
    assert_false(mat_has_nan(c.dx));
}

void test_xent_gradients(void **state)
{
    static const int64_t shape[][4] = { { 1, 3, 2, 2 }, { 70, 24, 257, 272 }, { 66, 5, 31, 31 } };

    (void)state;
    ops_seed(4);
    for (size_t i = 0; i < sizeof(shape) / sizeof(shape[0]); i++) {
        struct xent_case c = make_xent(shape[i][0], shape[i][1], shape[i][2], shape[i][3]);

        run_xent(&c, true);
        mat_check_grad("x", xent_loss, &c, c.x, c.dx, NULL, 40, 5e-6);
        mat_check_grad("w", xent_loss, &c, c.w, c.dw, c.base, 40, 5e-6);
        for (int64_t m = 0; m < c.M; m++)
            for (int64_t k = 0; c.target[m] < 0 && k < c.D; k++)
                assert_true(c.dx->f[m * c.dx->ld + k] == 0);
        for (int64_t v = c.V; v < c.Vpad; v++)
            assert_memory_equal(c.dw->f + v * c.dw->ld, c.base->f + v * c.base->ld, c.D * sizeof(float));
    }
}

/* Logits of +-6 and a cap of 2.5: from the straight part to where it is nearly flat; more than one strip. */
void test_xent_softcap(void **state)
{
    static const int64_t shape[][4] = { { 1, 3, 2, 2 }, { 70, 24, 257, 272 }, { 6, 20, 2500, 2501 } };
    struct xent_case c;
    struct mat *first;

    (void)state;
    ops_seed(18);
    for (size_t i = 0; i < sizeof(shape) / sizeof(shape[0]); i++) {
        c = make_xent(shape[i][0], shape[i][1], shape[i][2], shape[i][3]);
        c.softcap = 2.5;
        run_xent(&c, false);
        xent_loss(&c);
        mat_close("capped loss", c.loss, NULL, c.loss->d, 2e-6);
        first = mat_copy(c.loss);
        run_xent(&c, true);
        mat_same_bits("capped loss with and without gradient", c.loss, first);
        mat_check_grad("x under a cap", xent_loss, &c, c.x, c.dx, NULL, 40, 5e-6);
        mat_check_grad("w under a cap", xent_loss, &c, c.w, c.dw, c.base, 40, 5e-6);
    }
    /* Logits of 1e4: finite. Those few near the cap carry the products' rounding, 1e4 6e-8 = 6e-4, of 2 cap. */
    c = make_xent(50, 8, 400, 400);
    c.softcap = 30;
    scale_inputs(&c, 1e4f);
    run_xent(&c, true);
    xent_loss(&c);
    mat_close("capped loss of large logits", c.loss, NULL, c.loss->d, 2e-5);
    assert_false(mat_has_nan(c.dx));
    assert_false(mat_has_nan(c.dw));
    mat_check_grad("w under a cap, large logits", xent_loss, &c, c.w, c.dw, c.base, 200, 2e-4);
    /* All saturated: the loss is that of equal logits or 2 cap away, the gradient exactly 0. */
    c = make_xent(1, 1, 4, 4);
    c.softcap = 30;
    c.target[0] = 2;
    c.x->f[0] = 1e4f;
    for (int64_t v = 0; v < 4; v++)
        c.w->f[v * c.w->ld] = v < 2 ? 1 : -1;
    run_xent(&c, true);
    assert_true(fabs((double)c.loss->f[0] - (60 + log(2))) < 1e-4);
    assert_true(c.dx->f[0] == 0);
    for (int64_t v = 0; v < 4; v++)
        assert_true(c.dw->f[v * c.dw->ld] == c.base->f[v * c.base->ld]);
}

void test_xent_nan(void **state)
{
    struct xent_case c;

    (void)state;
    ops_seed(5);
    c = make_xent(6, 8, 300, 300);
    c.x->f[2 * c.x->ld + 1] = NAN;
    c.x->f[4 * c.x->ld + 1] = INFINITY;
    run_xent(&c, true);
    assert_true(isnan(c.loss->f[2]));
    assert_true(isnan(c.loss->f[4]) || isinf(c.loss->f[4]));
    assert_false(isnan(c.loss->f[1]));
    assert_true(isnan(c.dx->f[2 * c.dx->ld]));
    c.softcap = 3;
    run_xent(&c, true);
    assert_true(isnan(c.loss->f[2]));
    assert_true(isnan(c.dx->f[2 * c.dx->ld]));
    assert_false(isnan(c.loss->f[1]));
}
