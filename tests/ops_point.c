/* ops_point.c - tests of the vector functions, activations and norms
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops.h"
#include "vmath.h"

/* Error of got against the exact value, in units in the last place of float */
static double ulps(float got, double exact)
{
    double unit = fmax(ldexp(1, ilogb(fabs(exact) + 1e-300) - 23), 0x1p-149);

    return fabs((double)got - exact) / unit;
}

void test_vmath(void **state)
{
    double worst[4] = { 0 };

    (void)state;
    for (int i = 0; i <= 1000000; i++) {
        double at = -86.64 + (88.72 + 86.64) * i / 1e6;
        float x = (float)at;

        worst[0] = fmax(worst[0], ulps(vmath_exp(x), exp((double)x)));
        x /= 4; /* 1/(1+exp) and log1p: where the result is not yet the limit */
        worst[1] = fmax(worst[1], ulps(vmath_sigmoid(x), 1 / (1 + exp(-(double)x))));
        worst[2] = fmax(worst[2], ulps(vmath_softplus(x), log1p(exp((double)x))));
        x = (float)(3.0 * i / 1e6);
        worst[3] = fmax(worst[3], fabs((double)vmath_erfc_pos(x) / erfc((double)x) - 1));
    }
    if (getenv("OPS_VERBOSE"))
        print_message("exp %.2f sigmoid %.2f softplus %.2f ulp, erfc %.2g\n", worst[0], worst[1], worst[2],
                      worst[3]);
    assert_true(worst[0] < 1.5);
    assert_true(worst[1] < 3);
    assert_true(worst[2] < 3);
    assert_true(worst[3] < 1e-6);

    assert_true(vmath_exp(0) == 1);
    assert_true(vmath_exp(-INFINITY) == 0);
    assert_true(vmath_exp(-100) == 0);
    assert_true(vmath_exp(-3e38f) == 0);
    assert_true(isinf(vmath_exp(INFINITY)));
    assert_true(isinf(vmath_exp(89)));
    assert_true(isfinite(vmath_exp(88.722f)));
    assert_true(isnan(vmath_exp(NAN)));
    assert_true(isnan(vmath_sigmoid(NAN)));
    assert_true(isnan(vmath_softplus(NAN)));
    assert_true(isnan(vmath_normcdf(NAN)));
    assert_true(vmath_softplus(INFINITY) == INFINITY);
    assert_true(vmath_softplus(-INFINITY) == 0);
    assert_true(vmath_sigmoid(-INFINITY) == 0);
    assert_true(vmath_sigmoid(INFINITY) == 1);
    assert_true(vmath_normcdf(20) == 1);
    assert_true(vmath_normcdf(-20) == 0);
}

static double act_value(enum act kind, double x)
{
    switch (kind) {
    case ACT_GELU:
        return x * 0.5 * erfc(-x / sqrt(2.0));
    case ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case ACT_RELU2:
        return x > 0 ? x * x : 0;
    default:
        return x / (1 + exp(-x));
    }
}

struct act_case {
    enum act kind;
    struct mat *x, *y, *dy;
};

static double act_loss(void *ctx)
{
    struct act_case *c = ctx;

    for (int64_t i = 0; i < c->x->rows * c->x->cols; i++)
        c->y->d[i] = act_value(c->kind, c->x->d[i]);
    return mat_dot(c->y->d, c->dy);
}

void test_act(void **state)
{
    (void)state;
    ops_seed(10);
    for (enum act kind = ACT_GELU; kind <= ACT_SILU; kind++) {
        struct act_case c = { kind, mat_rand(3, 701, 2, -8, 8), mat_new(3, 701, 1),
                              mat_rand(3, 701, 0, -1, 1) };
        struct mat *dx = mat_new(3, 701, 5), *same = mat_copy(c.x), *grad = mat_copy(c.dy);
        struct activation a = { .kind = kind,
                                .M = 3,
                                .D = 701,
                                .x = mat_tensor(c.x),
                                .y = mat_tensor(c.y),
                                .dy = mat_tensor(c.dy),
                                .dx = mat_tensor(dx) };

        ops_be->act_fwd(&a);
        ops_be->act_bwd(&a);
        act_loss(&c);
        mat_close("act y", c.y, NULL, c.y->d, 5e-7);
        mat_check_grad("act x", act_loss, &c, c.x, dx, NULL, 2103, 2e-6);
        a.dx = a.dy = mat_tensor(grad);
        ops_be->act_bwd(&a);
        mat_same_bits("act dx in place", grad, dx);
        a.x = a.y = mat_tensor(same);
        ops_be->act_fwd(&a);
        mat_same_bits("act y in place", same, c.y);
        c.x->f[3] = NAN;
        a.x = mat_tensor(c.x);
        a.y = mat_tensor(c.y);
        ops_be->act_fwd(&a);
        assert_true(isnan(c.y->f[3]));
    }
}

struct norm_case {
    int64_t M, D, G; /* G = 0: norm */
    double eps;
    struct mat *x, *z, *w, *y, *dy, *dx, *dz, *dw, *base, *rstd;
};

static double norm_loss(void *ctx)
{
    struct norm_case *c = ctx;
    int64_t G = c->G ? c->G : 1, n = c->D / G;

    for (int64_t m = 0; m < c->M; m++)
        for (int64_t g = 0; g < G; g++) {
            double sum = 0, *y = c->y->d + m * c->D + g * n;

            for (int64_t k = 0; k < n; k++) {
                double z = c->G ? c->z->d[m * c->D + g * n + k] : 0;

                y[k] = c->x->d[m * c->D + g * n + k] * (c->G ? z / (1 + exp(-z)) : 1);
                sum += y[k] * y[k];
            }
            c->rstd->d[m * G + g] = 1 / sqrt(sum / (double)n + c->eps);
            for (int64_t k = 0; k < n; k++)
                y[k] *= c->w->d[g * n + k] * c->rstd->d[m * G + g];
        }
    return mat_dot(c->y->d, c->dy);
}

static struct norm_case make_norm(int64_t M, int64_t D, int64_t G, int64_t pad)
{
    struct norm_case c = { .M = M, .D = D, .G = G, .eps = 1e-5 };

    c.x = mat_rand(M, D, pad, -2, 2);
    c.z = mat_rand(M, D, pad, -3, 3);
    c.w = mat_rand(1, D, 0, 0.5, 1.5);
    c.y = mat_new(M, D, pad);
    c.dy = mat_rand(M, D, pad, -1, 1);
    c.dx = mat_new(M, D, pad);
    c.dz = mat_new(M, D, pad);
    c.dw = mat_rand(1, D, 0, -1, 1);
    c.base = mat_copy(c.dw);
    c.rstd = mat_new(M, G ? G : 1, 0);
    return c;
}

static struct norm rms_args(const struct norm_case *c)
{
    struct norm a = { .M = c->M,
                         .D = c->D,
                         .eps = c->eps,
                         .x = mat_tensor(c->x),
                         .w = mat_tensor(c->w),
                         .y = mat_tensor(c->y),
                         .rstd = c->rstd->f,
                         .dy = mat_tensor(c->dy),
                         .dx = mat_tensor(c->dx),
                         .dw = mat_tensor(c->dw) };

    a.work = ops_bytes(ops_be->norm_work(&a));
    return a;
}

static struct gatednorm gated_args(const struct norm_case *c)
{
    struct gatednorm a = { .M = c->M,
                           .D = c->D,
                           .G = c->G,
                           .eps = c->eps,
                           .x = mat_tensor(c->x),
                           .z = mat_tensor(c->z),
                           .w = mat_tensor(c->w),
                           .y = mat_tensor(c->y),
                           .rstd = c->rstd->f,
                           .dy = mat_tensor(c->dy),
                           .dx = mat_tensor(c->dx),
                           .dz = mat_tensor(c->dz),
                           .dw = mat_tensor(c->dw) };

    a.work = ops_bytes(ops_be->gatednorm_work(&a));
    return a;
}

/* Sums over D (and M for dw) of floats, relative to the largest element */
#define NORM_TOL 3e-6

void test_norm(void **state)
{
    static const int64_t shape[][3] = { { 1, 2, 0 }, { 1, 7, 0 }, { 37, 33, 3 }, { 130, 96, 0 } };

    (void)state;
    ops_seed(11);
    for (size_t i = 0; i < sizeof(shape) / sizeof(shape[0]); i++) {
        struct norm_case c = make_norm(shape[i][0], shape[i][1], 0, shape[i][2]);
        struct norm a = rms_args(&c);
        struct mat *first, *into = mat_rand(c.M, c.D, 1, -1, 1), *before = mat_copy(into);

        ops_be->norm_fwd(&a);
        norm_loss(&c);
        mat_close("norm y", c.y, NULL, c.y->d, NORM_TOL);
        mat_close("norm rstd", c.rstd, NULL, c.rstd->d, NORM_TOL);
        ops_be->norm_bwd(&a);
        mat_check_grad("norm x", norm_loss, &c, c.x, c.dx, NULL, 60, NORM_TOL);
        mat_check_grad("norm w", norm_loss, &c, c.w, c.dw, c.base, 60, NORM_TOL);
        first = mat_copy(c.dx);
        a.dx = mat_tensor(into);
        a.accumulate_dx = true;
        ops_be->norm_bwd(&a);
        for (int64_t m = 0; m < c.M; m++)
            for (int64_t k = 0; k < c.D; k++)
                first->d[m * c.D + k] = first->f[m * first->ld + k];
        mat_close("norm dx accumulated", into, before, first->d, 1e-6);
        a.accumulate_dx = false;
        a.dx = a.dy; /* in place */
        ops_be->norm_bwd(&a);
        mat_same_bits("norm dx in place of dy", c.dy, first);
    }
}

void test_gatednorm(void **state)
{
    static const int64_t shape[][4] = {
        { 1, 1, 1, 0 }, { 1, 15, 3, 0 }, { 37, 34, 2, 3 }, { 70, 96, 1, 1 }, { 70, 112, 7, 0 }
    };

    (void)state;
    ops_seed(12);
    for (size_t i = 0; i < sizeof(shape) / sizeof(shape[0]); i++) {
        struct norm_case c = make_norm(shape[i][0], shape[i][1], shape[i][2], shape[i][3]);
        struct gatednorm a = gated_args(&c);

        ops_be->gatednorm_fwd(&a);
        norm_loss(&c);
        mat_close("gatednorm y", c.y, NULL, c.y->d, NORM_TOL);
        mat_close("gatednorm rstd", c.rstd, NULL, c.rstd->d, NORM_TOL);
        ops_be->gatednorm_bwd(&a);
        mat_check_grad("gatednorm x", norm_loss, &c, c.x, c.dx, NULL, 60, NORM_TOL);
        mat_check_grad("gatednorm z", norm_loss, &c, c.z, c.dz, NULL, 60, NORM_TOL);
        mat_check_grad("gatednorm w", norm_loss, &c, c.w, c.dw, c.base, 60, NORM_TOL);
    }
}

void test_norm_nan(void **state)
{
    struct norm_case c;
    struct gatednorm g;
    struct norm a;

    (void)state;
    ops_seed(13);
    c = make_norm(3, 40, 2, 0);
    c.x->f[c.x->ld + 3] = NAN;
    a = rms_args(&c);
    ops_be->norm_fwd(&a);
    assert_false(isnan(c.y->f[0]));
    for (int64_t k = 0; k < c.D; k++)
        assert_true(isnan(c.y->f[c.y->ld + k]));
    g = gated_args(&c);
    ops_be->gatednorm_fwd(&g);
    assert_false(isnan(c.y->f[0]));
    assert_true(isnan(c.y->f[c.y->ld + 19]));
    assert_false(isnan(c.y->f[c.y->ld + 20])); /* the row's other group */
    c.x->f[c.x->ld + 3] = 0;
    c.z->f[c.z->ld + 3] = NAN;
    ops_be->gatednorm_fwd(&g);
    assert_true(isnan(c.y->f[c.y->ld + 19]));
}

/* The pieces of work depend on the shape only: any number of threads gives the same bits. */
void test_norm_threads(void **state)
{
    int threads = omp_get_max_threads();
    struct mat *kept[3] = { NULL };

    (void)state;
    for (int n = 1; n <= 3; n++) {
        struct norm_case c;
        struct gatednorm g;
        struct norm a;

        ops_seed(14);
        omp_set_num_threads(n);
        c = make_norm(301, 80, 2, 0);
        g = gated_args(&c);
        ops_be->gatednorm_fwd(&g);
        ops_be->gatednorm_bwd(&g);
        a = rms_args(&c);
        ops_be->norm_fwd(&a);
        ops_be->norm_bwd(&a);
        if (kept[0]) {
            mat_same_bits("y", c.y, kept[0]);
            mat_same_bits("dw", c.dw, kept[1]);
            mat_same_bits("dz", c.dz, kept[2]);
        }
        kept[0] = c.y;
        kept[1] = c.dw;
        kept[2] = c.dz;
    }
    omp_set_num_threads(threads);
}
