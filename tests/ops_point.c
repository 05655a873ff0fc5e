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
    enum { EXP, SIGMOID, SOFTPLUS, ERFC, EXP_GAP, GAP, SINCOS, TANH, DECAY, FUNCTIONS };
    double worst[FUNCTIONS] = { 0 };
    float gap;

    (void)state;
    for (int i = 0; i <= 1000000; i++) {
        double at = -86.64 + (88.72 + 86.64) * i / 1e6;
        float x = (float)at;

        float s, c, y = x * (float)exp(-i % 40), turn = (float)(i / 1e6 - 0.5); /* y: any size */
        const double half_pi = 2 * atan(1.0);

        worst[EXP] = fmax(worst[EXP], ulps(vmath_exp(x), exp((double)x)));
        y = fmaxf(y > 0 ? -y : y, -86.6f);
        worst[EXP_GAP] = fmax(worst[EXP_GAP], ulps(vmath_exp_gap(y, &s), exp((double)y)));
        worst[GAP] = fmax(worst[GAP], ulps(s, -expm1((double)y)));
        vmath_sincos_quarter(turn, &s, &c);
        worst[SINCOS] = fmax(worst[SINCOS], ulps(s, sin(half_pi * (double)turn)));
        worst[SINCOS] = fmax(worst[SINCOS], ulps(c, cos(half_pi * (double)turn)));
        if (x <= 0) /* products down to -9.2 */
            worst[DECAY] = fmax(worst[DECAY], ulps(vmath_decay(x / 16, 1.7f), exp2((double)(x / 16) * (double)1.7f)));
        x /= 4; /* 1/(1+exp) and log1p: where the result is not yet the limit */
        worst[SIGMOID] = fmax(worst[SIGMOID], ulps(vmath_sigmoid(x), 1 / (1 + exp(-(double)x))));
        worst[SOFTPLUS] = fmax(worst[SOFTPLUS], ulps(vmath_softplus(x), log1p(exp((double)x))));
        x = (float)(3.0 * i / 1e6);
        worst[ERFC] = fmax(worst[ERFC], fabs((double)vmath_erfc_pos(x) / erfc((double)x) - 1));
        x = (float)(11.0 * i / 1e6); /* beyond saturation, and down to where x^3 does not count */
        worst[TANH] = fmax(worst[TANH], ulps(vmath_tanh(x), tanh((double)x)));
        x *= 1e-4f;
        worst[TANH] = fmax(worst[TANH], ulps(vmath_tanh(-x), -tanh((double)x)));
    }
    if (getenv("OPS_VERBOSE"))
        print_message("exp %.2f sigmoid %.2f softplus %.2f tanh %.2f exp_gap %.2f %.2f sincos %.2f decay %.2f ulp, erfc %.2g\n",
                      worst[EXP], worst[SIGMOID], worst[SOFTPLUS], worst[TANH], worst[EXP_GAP], worst[GAP],
                      worst[SINCOS], worst[DECAY], worst[ERFC]);
    assert_true(worst[EXP] < 1.5);
    assert_true(worst[SIGMOID] < 3);
    assert_true(worst[SOFTPLUS] < 3);
    assert_true(worst[ERFC] < 1e-6);
    assert_true(worst[TANH] < 3);
    assert_true(worst[EXP_GAP] < 1.5);
    assert_true(worst[GAP] < 2.5);
    assert_true(worst[SINCOS] < 2.5);
    assert_true(worst[DECAY] < 7); /* without FMA, as here, products near 9 are rounded by 4.8e-7: 5.5 ulp */

    assert_true(vmath_exp(0) == 1);
    assert_true(vmath_exp(-INFINITY) == 0);
    assert_true(vmath_exp(-100) == 0);
    assert_true(vmath_exp(-3e38f) == 0);
    assert_true(isinf(vmath_exp(INFINITY)));
    assert_true(isinf(vmath_exp(89)));
    assert_true(isfinite(vmath_exp(88.722f)));
    assert_true(isnan(vmath_exp(NAN)));
    assert_true(vmath_exp_gap(-INFINITY, &gap) == 0 && gap == 1);
    assert_true(vmath_exp_gap(-3e38f, &gap) == 0 && gap == 1);
    assert_true(vmath_exp_gap(-0.0f, &gap) == 1 && gap == 0);
    assert_true(isnan(vmath_exp_gap(NAN, &gap)) && isnan(gap));
    assert_true(vmath_decay(0, -5) == 1);
    assert_true(vmath_decay(1, -1) == 0.5f);
    assert_true(vmath_decay(10, -20) == 0);
    assert_true(vmath_decay(3e38f, -3e38f) == 0);
    assert_true(vmath_decay(INFINITY, -1) == 0);
    assert_true(isnan(vmath_decay(NAN, -1)));
    assert_true(isnan(vmath_decay(1, NAN)));
    assert_true(isnan(vmath_sigmoid(NAN)));
    assert_true(isnan(vmath_softplus(NAN)));
    assert_true(isnan(vmath_normcdf(NAN)));
    assert_true(vmath_softplus(INFINITY) == INFINITY);
    assert_true(vmath_softplus(-INFINITY) == 0);
    assert_true(vmath_sigmoid(-INFINITY) == 0);
    assert_true(vmath_sigmoid(INFINITY) == 1);
    assert_true(isnan(vmath_tanh(NAN)));
    assert_true(vmath_tanh(INFINITY) == 1);
    assert_true(vmath_tanh(-INFINITY) == -1);
    assert_true(vmath_tanh(-3e38f) == -1);
    assert_true(vmath_tanh(9.1f) == 1);
    assert_true(vmath_tanh(8.5f) < 1);
    assert_true(vmath_tanh(0) == 0 && signbit(vmath_tanh(-0.0f)));
    assert_true(vmath_tanh(1e-20f) == 1e-20f);
    assert_true(vmath_normcdf(20) == 1);
    assert_true(vmath_normcdf(-20) == 0);
}

static double act_value(enum act kind, double x, double cap)
{
    switch (kind) {
    case ACT_GELU:
        return x * 0.5 * erfc(-x / sqrt(2.0));
    case ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case ACT_RELU2:
        return x > 0 ? x * x : 0;
    case ACT_SILU:
        return x / (1 + exp(-x));
    default:
        return cap * tanh(x / cap);
    }
}

struct act_case {
    enum act kind;
    double cap;
    struct mat *x, *u, *y, *dy;
};

static double act_loss(void *ctx)
{
    struct act_case *c = ctx;

    for (int64_t i = 0; i < c->x->rows * c->x->cols; i++)
        c->y->d[i] = act_value(c->kind, c->x->d[i], c->cap) * (c->u ? c->u->d[i] : 1);
    return mat_dot(c->y->d, c->dy);
}

static void one_act(enum act kind, bool gated, int64_t M, int64_t D)
{
    /* a cap of 3 for numbers up to 8: from the straight part to where it is nearly flat */
    struct act_case c = { .kind = kind,
                          .cap = 3,
                          .x = mat_rand(M, D, 2, -8, 8),
                          .u = gated ? mat_rand(M, D, 4, -2, 2) : NULL,
                          .y = mat_new(M, D, 1),
                          .dy = mat_rand(M, D, 0, -1, 1) };
    struct mat *dx = mat_new(M, D, 5), *du = gated ? mat_new(M, D, 1) : NULL, *same = mat_copy(c.x);
    struct mat *grad = mat_copy(c.dy), *du_same = gated ? mat_new(M, D, 0) : NULL;
    struct activation a = { .kind = kind,
                            .M = M,
                            .D = D,
                            .cap = kind == ACT_SOFTCAP ? c.cap : 0,
                            .x = mat_tensor(c.x),
                            .u = mat_tensor(c.u),
                            .y = mat_tensor(c.y),
                            .dy = mat_tensor(c.dy),
                            .dx = mat_tensor(dx),
                            .du = mat_tensor(du) };

    ops_be->act_fwd(&a);
    ops_be->act_bwd(&a);
    act_loss(&c);
    mat_close("act y", c.y, NULL, c.y->d, 5e-7);
    mat_check_grad("act x", act_loss, &c, c.x, dx, NULL, 2103, 2e-6);
    if (gated)
        mat_check_grad("act u", act_loss, &c, c.u, du, NULL, 2103, 2e-6);
    a.dx = a.dy = mat_tensor(grad);
    a.du = mat_tensor(du_same);
    ops_be->act_bwd(&a);
    mat_same_bits("act dx in place", grad, dx);
    if (gated)
        mat_same_bits("act du when dx is in place", du_same, du);
    a.x = a.y = mat_tensor(same);
    ops_be->act_fwd(&a);
    mat_same_bits("act y in place", same, c.y);
    c.x->f[D / 2] = NAN;
    a.x = mat_tensor(c.x);
    a.y = mat_tensor(c.y);
    ops_be->act_fwd(&a);
    assert_true(isnan(c.y->f[D / 2]));
}

void test_act(void **state)
{
    (void)state;
    ops_seed(10);
    for (enum act kind = ACT_GELU; kind <= ACT_SOFTCAP; kind++)
        for (int gated = 0; gated < 2; gated++) {
            one_act(kind, gated, 3, 701);
            one_act(kind, gated, 5, 1);
        }
}

/* Soft caps near 0, where cap tanh(x/cap) is x, and far beyond the cap */
void test_act_softcap_ends(void **state)
{
    struct mat *x = mat_new(1, 40, 0), *y = mat_new(1, 40, 0), *dy = mat_rand(1, 40, 0, 1, 2);
    struct mat *dx = mat_new(1, 40, 0);
    struct activation a = { .kind = ACT_SOFTCAP,
                            .M = 1,
                            .D = 40,
                            .cap = 30,
                            .x = mat_tensor(x),
                            .y = mat_tensor(y),
                            .dy = mat_tensor(dy),
                            .dx = mat_tensor(dx) };

    (void)state;
    for (int i = 0; i < 40; i++)
        x->f[i] = (i % 2 ? -1 : 1) * (i < 20 ? ldexpf(1, -3 * i - 6) : 4e2f * powf(10, (float)(i - 20)));
    x->f[39] = -INFINITY;
    ops_be->act_fwd(&a);
    ops_be->act_bwd(&a);
    for (int i = 0; i < 40; i++) {
        double exact = 30 * tanh((double)x->f[i] / 30);

        /* relative, also of small numbers: three roundings of 6e-8 beside tanh's 2.5 ulp */
        assert_true(fabs((double)y->f[i] - exact) <= 5e-7 * fabs(exact));
        assert_true(i < 20 ? fabs((double)dx->f[i] / (double)dy->f[i] - 1) < 1e-6 : dx->f[i] == 0);
    }
}

/* Rows are independent: any number of threads gives the same bits. */
void test_act_threads(void **state)
{
    int threads = omp_get_max_threads();
    struct mat *kept[3] = { NULL };

    (void)state;
    for (int n = 1; n <= 3; n++) {
        struct mat *m[6];

        ops_seed(15);
        omp_set_num_threads(n);
        for (int i = 0; i < 6; i++)
            m[i] = i < 3 ? mat_rand(29, 77, i, -3, 3) : mat_new(29, 77, 0);
        struct activation a = { .kind = ACT_SILU,
                                .M = 29,
                                .D = 77,
                                .x = mat_tensor(m[0]),
                                .u = mat_tensor(m[1]),
                                .dy = mat_tensor(m[2]),
                                .y = mat_tensor(m[3]),
                                .dx = mat_tensor(m[4]),
                                .du = mat_tensor(m[5]) };

        ops_be->act_fwd(&a);
        ops_be->act_bwd(&a);
        for (int i = 0; i < 3; i++) {
            if (kept[i])
                mat_same_bits("act", m[3 + i], kept[i]);
            kept[i] = m[3 + i];
        }
    }
    omp_set_num_threads(threads);
}

struct norm_case {
    int64_t M, D, G; /* G = 0: norm */
    double eps;
    bool center, plus_one;
    struct mat *x, *z, *w, *y, *dy, *dx, *dz, *dw, *base, *rstd;
    struct mat *bias, *dbias, *base_bias, *mean; /* bias and what belongs to it may be NULL */
};

static double norm_loss(void *ctx)
{
    struct norm_case *c = ctx;
    int64_t G = c->G ? c->G : 1, n = c->D / G;

    for (int64_t m = 0; m < c->M; m++)
        for (int64_t g = 0; g < G; g++) {
            double sum = 0, mean = 0, *y = c->y->d + m * c->D + g * n;

            for (int64_t k = 0; k < n; k++) {
                double z = c->G ? c->z->d[m * c->D + g * n + k] : 0;

                y[k] = c->x->d[m * c->D + g * n + k] * (c->G ? z / (1 + exp(-z)) : 1);
                mean += y[k] / (double)n;
            }
            c->mean->d[m] = mean = c->center ? mean : 0;
            for (int64_t k = 0; k < n; k++)
                sum += (y[k] - mean) * (y[k] - mean);
            c->rstd->d[m * G + g] = 1 / sqrt(sum / (double)n + c->eps);
            for (int64_t k = 0; k < n; k++)
                y[k] = (c->w->d[g * n + k] + (c->plus_one ? 1 : 0)) * (y[k] - mean) * c->rstd->d[m * G + g] +
                       (c->bias ? c->bias->d[g * n + k] : 0);
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
    c.mean = mat_new(M, 1, 0);
    return c;
}

/* kind: bit 0 centers, bit 1 takes the weight from -1, bit 2 adds a bias */
static struct norm_case make_norm_kind(int64_t M, int64_t D, int kind, int64_t pad)
{
    struct norm_case c = make_norm(M, D, 0, pad);

    c.center = kind & 1;
    c.plus_one = kind & 2;
    for (int64_t k = 0; c.plus_one && k < D; k++)
        c.w->d[k] = c.w->f[k] -= 1;
    if (kind & 4) {
        c.bias = mat_rand(1, D, 0, -1, 1);
        c.dbias = mat_rand(1, D, 0, -1, 1);
        c.base_bias = mat_copy(c.dbias);
    }
    return c;
}

static struct norm norm_args(const struct norm_case *c)
{
    struct norm a = { .M = c->M,
                      .D = c->D,
                      .eps = c->eps,
                      .center = c->center,
                      .plus_one = c->plus_one,
                      .x = mat_tensor(c->x),
                      .w = mat_tensor(c->w),
                      .bias = mat_tensor(c->bias),
                      .y = mat_tensor(c->y),
                      .rstd = c->rstd->f,
                      .mean = c->center ? c->mean->f : NULL,
                      .dy = mat_tensor(c->dy),
                      .dx = mat_tensor(c->dx),
                      .dw = mat_tensor(c->dw),
                      .dbias = mat_tensor(c->dbias) };

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

/* Forward and backward of one case against the doubles; `tol` holds for all but the mean, which is a float
 * next to a number: half a unit in its last place. */
static void check_norm(struct norm_case *c, struct norm *a, double tol)
{
    ops_be->norm_fwd(a);
    norm_loss(c);
    mat_close("norm y", c->y, NULL, c->y->d, tol);
    mat_close("norm rstd", c->rstd, NULL, c->rstd->d, tol);
    if (c->center)
        mat_close("norm mean", c->mean, NULL, c->mean->d, fmin(tol, 1e-6));
    ops_be->norm_bwd(a);
    mat_check_grad("norm x", norm_loss, c, c->x, c->dx, NULL, 60, tol);
    mat_check_grad("norm w", norm_loss, c, c->w, c->dw, c->base, 60, tol);
    if (c->bias)
        mat_check_grad("norm bias", norm_loss, c, c->bias, c->dbias, c->base_bias, 60, tol);
}

static void one_norm(const int64_t *shape, int kind)
{
    struct norm_case c = make_norm_kind(shape[0], shape[1], kind, shape[2]);
    struct norm a = norm_args(&c);
    struct mat *first, *into = mat_rand(c.M, c.D, 1, -1, 1), *before = mat_copy(into), *dbias;

    check_norm(&c, &a, NORM_TOL);
    first = mat_copy(c.dx);
    a.dx = mat_tensor(into);
    a.accumulate_dx = true;
    ops_be->norm_bwd(&a);
    for (int64_t m = 0; m < c.M; m++)
        for (int64_t k = 0; k < c.D; k++)
            before->d[m * c.D + k] += (double)first->f[m * first->ld + k];
    mat_close("norm dx accumulated", into, NULL, before->d, 1e-6);
    a.accumulate_dx = false;
    a.dx = a.dy; /* in place */
    memcpy(c.dw->f, c.base->f, (size_t)c.D * sizeof(float));
    dbias = c.bias ? mat_copy(c.base_bias) : NULL;
    a.dbias = mat_tensor(dbias);
    ops_be->norm_bwd(&a);
    mat_same_bits("norm dx in place of dy", c.dy, first);
    mat_check_grad("norm w, dx in place of dy", norm_loss, &c, c.w, c.dw, c.base, 60, NORM_TOL);
    if (c.bias)
        mat_check_grad("norm bias, dx in place of dy", norm_loss, &c, c.bias, dbias, c.base_bias, 60,
                       NORM_TOL);
}

void test_norm(void **state)
{
    /* a few rows of two channels: a single one's gradient may cancel down to its rounding */
    static const int64_t shape[][3] = { { 6, 2, 0 }, { 1, 7, 0 }, { 37, 33, 3 }, { 130, 96, 0 } };

    (void)state;
    ops_seed(11);
    for (int kind = 0; kind < 8; kind++) {
        for (size_t i = kind & 1; i < sizeof(shape) / sizeof(shape[0]); i++)
            one_norm(shape[i], kind); /* two centered channels are +-1: their gradient is all rounding */
        ops_teardown(NULL);
    }
}

/* Rows whose mean is a thousand times their deviation. The floats x themselves are the input, so only the op's
 * own error counts: x - mean is exact, and what the rounding of the mean leaves is taken out. One pass over
 * x^2 would err by 1e6 2^-24 = 6e-2, a mean rounded to float by 3e-5; the tolerance is that of the other norms. */
void test_norm_large_mean(void **state)
{
    static const int64_t shape[][2] = { { 40, 768 }, { 3, 4099 } };

    (void)state;
    ops_seed(16);
    for (size_t i = 0; i < sizeof(shape) / sizeof(shape[0]); i++) {
        struct norm_case c = make_norm_kind(shape[i][0], shape[i][1], 5, 0);
        struct norm a = norm_args(&c);

        for (int64_t k = 0; k < c.M * c.D; k++) /* uniform, deviation 1 */
            c.x->d[k] = c.x->f[k] = 1000 + c.x->f[k] * 0.8660254f;
        check_norm(&c, &a, NORM_TOL);
    }
}

/* Rows without any deviation: h is 0 and y the bias; eps keeps r finite. */
void test_norm_equal_channels(void **state)
{
    struct norm_case c;
    struct norm a;

    (void)state;
    ops_seed(17);
    c = make_norm_kind(5, 301, 5, 0);
    a = norm_args(&c);
    for (int64_t k = 0; k < c.M * c.D; k++)
        c.x->f[k] = ldexpf(1000.1f, -10 * (int)(k / c.D));
    ops_be->norm_fwd(&a);
    ops_be->norm_bwd(&a);
    for (int64_t k = 0; k < c.M * c.D; k++)
        assert_true(fabs((double)c.y->f[k] - (double)c.bias->f[k % c.D]) < 1e-5);
    assert_false(mat_has_nan(c.dx));
    assert_false(mat_has_nan(c.dw));
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
    a = norm_args(&c);
    ops_be->norm_fwd(&a);
    assert_false(isnan(c.y->f[0]));
    for (int64_t k = 0; k < c.D; k++)
        assert_true(isnan(c.y->f[c.y->ld + k]));
    a.center = true;
    a.mean = c.mean->f;
    ops_be->norm_fwd(&a);
    assert_false(isnan(c.y->f[0]));
    assert_true(isnan(c.rstd->f[1]) && isnan(c.mean->f[1]));
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
    struct mat *kept[6] = { NULL };

    (void)state;
    for (int n = 1; n <= 3; n++) {
        struct norm_case c, l;
        struct gatednorm g;
        struct norm a;

        ops_seed(14);
        omp_set_num_threads(n);
        c = make_norm(301, 80, 2, 0);
        g = gated_args(&c);
        ops_be->gatednorm_fwd(&g);
        ops_be->gatednorm_bwd(&g);
        a = norm_args(&c);
        ops_be->norm_fwd(&a);
        ops_be->norm_bwd(&a);
        l = make_norm_kind(301, 83, 5, 0);
        a = norm_args(&l);
        ops_be->norm_fwd(&a);
        ops_be->norm_bwd(&a);

        struct mat *now[] = { c.y, c.dw, c.dz, l.dx, l.dw, l.dbias };

        for (int i = 0; i < 6; i++) {
            if (kept[i])
                mat_same_bits("norm", now[i], kept[i]);
            kept[i] = now[i];
        }
    }
    omp_set_num_threads(threads);
}

void test_cast(void **state)
{
    struct mat *x, *y;

    (void)state;
    ops_seed(27);
    x = mat_rand(13, 37, 3, -1, 1);
    y = mat_new(13, 37, 8);
    x->f[1] = NAN;
    x->f[2] = INFINITY;
    x->f[3] = -0.0f;
    ops_be->cast(&(struct cast){ .M = 13, .D = 37, .x = mat_tensor(x), .y = mat_tensor(y) });
    mat_same_bits("cast of floats to floats", y, x);
}
