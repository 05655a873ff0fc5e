/* ops_adamw.c - tests of what ends a step: adamw, total, judge
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <string.h>

#include "ops.h"

void test_adamw(void **state)
{
    const int64_t n = 10007;
    const float gscale = 0.37F;
    struct mat *p, *m, *v, *g, *ema;

    (void)state;
    ops_seed(6);
    p = mat_rand(1, n, 0, -1, 1);
    ema = mat_rand(1, n, 0, -1, 1);
    m = mat_rand(1, n, 0, -0.1, 0.1);
    v = mat_rand(1, n, 0, 0, 0.1);
    for (int64_t step = 1; step <= 3; step++) {
        struct adamw a = { .n = n,
                           .step = step,
                           .lr = 3e-3,
                           .beta1 = 0.9,
                           .beta2 = 0.95,
                           .eps = 1e-8,
                           .decay = 0.1,
                           .gscale = &gscale,
                           .ema_decay = 0.75,
                           .ema = step > 1 ? ema->f : NULL };

        g = mat_rand(1, n, 0, -1, 1);
        a.grad = g->f;
        a.p = p->f;
        a.m = m->f;
        a.v = v->f;
        ops_be->adamw(&a);
        for (int64_t i = 0; i < n; i++) {
            double gi = g->d[i] * (double)gscale;

            m->d[i] = a.beta1 * m->d[i] + (1 - a.beta1) * gi;
            v->d[i] = a.beta2 * v->d[i] + (1 - a.beta2) * gi * gi;
            p->d[i] -= a.lr * (m->d[i] / (1 - pow(a.beta1, (double)step)) /
                                   (sqrt(v->d[i] / (1 - pow(a.beta2, (double)step))) + a.eps) +
                               a.decay * p->d[i]);
            if (step > 1)
                ema->d[i] = a.ema_decay * ema->d[i] + (1 - a.ema_decay) * p->d[i];
        }
        mat_close("m", m, NULL, m->d, 5e-7);
        mat_close("v", v, NULL, v->d, 5e-7);
        mat_close("p", p, NULL, p->d, 5e-7);
        mat_close("ema", ema, NULL, ema->d, 5e-7);
    }
    g->f[5] = NAN;
    ops_be->adamw(&(struct adamw){ .n = n,
                                   .step = 4,
                                   .lr = 1e-3,
                                   .beta1 = 0.9,
                                   .beta2 = 0.95,
                                   .eps = 1e-8,
                                   .grad = g->f,
                                   .p = p->f,
                                   .m = m->f,
                                   .v = v->f });
    assert_true(isnan(p->f[5]));
    assert_false(isnan(p->f[4]));
}

/* Masked: frozen parts stand still, undecayed ones do what decay 0 does; a mask of all is none. */
void test_adamw_mask(void **state)
{
    const int64_t n = 9001, groups = (n + 15) / 16;
    const float gscale = 0.37F;
    struct mat *start[4], *run[4][4]; /* p, m, v, ema as they begin, and after each of the runs */
    struct mat *g;
    uint8_t *mask = ops_bytes((size_t)groups), *all = ops_bytes((size_t)groups);

    (void)state;
    ops_seed(19);
    g = mat_rand(1, n, 0, -1, 1);
    for (int i = 0; i < 4; i++)
        start[i] = mat_rand(1, n, 0, i == 2 ? 0 : -1, 1);
    for (int64_t i = 0; i < groups; i++) { /* runs of equals, within and across the blocks of threads */
        mask[i] = (uint8_t)(i / 7 % 3 ? ops_below(4) : i / 100 % 4);
        all[i] = ADAMW_UPDATE | ADAMW_DECAY;
    }
    for (int k = 0; k < 4; k++) { /* none, of all, none and no decay, the mask */
        struct adamw a = { .n = n,
                           .step = 3,
                           .lr = 3e-3,
                           .beta1 = 0.9,
                           .beta2 = 0.95,
                           .eps = 1e-8,
                           .decay = k == 2 ? 0 : 0.1,
                           .gscale = &gscale,
                           .ema_decay = 0.75,
                           .mask = k == 1 ? all : k == 3 ? mask : NULL,
                           .grad = g->f };

        for (int i = 0; i < 4; i++)
            run[k][i] = mat_copy(start[i]);
        a.p = run[k][0]->f;
        a.m = run[k][1]->f;
        a.v = run[k][2]->f;
        a.ema = run[k][3]->f;
        ops_be->adamw(&a);
    }
    for (int i = 0; i < 4; i++) {
        mat_same_bits("a mask of all", run[1][i], run[0][i]);
        for (int64_t j = 0; j < n; j++) {
            int what = mask[j / 16];
            const struct mat *like = !(what & ADAMW_UPDATE) ? start[i] : run[what & ADAMW_DECAY ? 0 : 2][i];

            if (memcmp(&run[3][i]->f[j], &like->f[j], sizeof(float)) != 0)
                fail_msg("tensor %d, element %lld, mask %d: %.9g in place of %.9g", i, (long long)j, what,
                         (double)run[3][i]->f[j], (double)like->f[j]);
        }
    }
}

static double total(const float *x, int64_t n, bool square)
{
    double sum = NAN;

    ops_be->total(&(struct total){ .n = n, .square = square, .x = x, .sum = &sum });
    return sum;
}

void test_total(void **state)
{
    static const int64_t size[] = { 0, 1, 17, 4096, 300001 };

    (void)state;
    ops_seed(7);
    for (size_t i = 0; i < sizeof(size) / sizeof(size[0]); i++)
        for (int square = 0; square < 2; square++) {
            struct mat *m = mat_rand(1, size[i], 0, square ? -3 : 0, 3);
            double sum = 0, got = total(m->f, size[i], square), more = 5;

            for (int64_t k = 0; k < size[i]; k++)
                sum += square ? m->d[k] * m->d[k] : m->d[k];
            assert_true(fabs(got - sum) <= 1e-12 * sum);
            assert_true(got == total(m->f, size[i], square));
            ops_be->total(&(struct total){ .n = size[i], .square = square, .add = true, .x = m->f, .sum = &more });
            assert_true(fabs(more - 5 - sum) <= 1e-12 * (sum + 5));
        }
    struct mat *m = mat_rand(1, 100, 0, -3, 3);

    m->f[99] = NAN;
    assert_true(isnan(total(m->f, 100, true)) && isnan(total(m->f, 100, false)));
}

/* Means over the count; clipped; no update where something is not finite or beyond its limit. */
void test_judge(void **state)
{
    const double seen[] = { 30, 4 * 64, 6, 999, 12, -1 }; /* mean loss 4, norm 16/12 */
    static const struct {
        double loss, norm, clip;
        float loss_limit, norm_limit;
        double gscale; /* times the count */
    } is[] = {
        { 30, 256, 0, INFINITY, INFINITY, 1 },    { 30, 256, 2, INFINITY, INFINITY, 1 },
        { 30, 256, 0.5, INFINITY, INFINITY, 0.375 }, { 30, 256, 0.5, 4, 1.5F, 0.375 },
        { 30, 256, 0, 3.99F, INFINITY, 0 },       { 30, 256, 0, INFINITY, 1.3F, 0 },
        { NAN, 256, 1, INFINITY, INFINITY, 0 },   { 30, NAN, 1, INFINITY, INFINITY, 0 },
        { INFINITY, 256, 1, INFINITY, INFINITY, 0 }, { 30, INFINITY, 1, INFINITY, INFINITY, 0 },
        { -30, 0, 1, INFINITY, INFINITY, 1 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(is) / sizeof(is[0]); i++) {
        double all[6];
        struct verdict v = { 0, 0, -1 };

        memcpy(all, seen, sizeof(all));
        all[0] = is[i].loss;
        all[1] = is[i].norm;
        ops_be->judge(&(struct judge){ .ranks = 3,
                                       .count = 12,
                                       .clip = is[i].clip,
                                       .loss_limit = is[i].loss_limit,
                                       .norm_limit = is[i].norm_limit,
                                       .seen = all,
                                       .verdict = &v });
        assert_true(v.gscale == (float)(is[i].gscale / 12));
        if (isfinite(is[i].loss) && isfinite(is[i].norm))
            assert_true(v.loss == (is[i].loss + 18) / 12 && v.norm == sqrt(is[i].norm) / 12);
    }
}

/* No update: nothing changes, not even what a NaN meets. */
void test_adamw_none(void **state)
{
    const int64_t n = 5000;
    const float none = 0;
    struct mat *was[4], *is[4], *g;

    (void)state;
    ops_seed(23);
    g = mat_rand(1, n, 0, -1, 1);
    g->f[7] = NAN;
    for (int i = 0; i < 4; i++) {
        was[i] = mat_rand(1, n, 0, i == 2 ? 0 : -1, 1);
        is[i] = mat_copy(was[i]);
    }
    ops_be->adamw(&(struct adamw){ .n = n, .step = 3, .lr = 1, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1,
                                   .ema_decay = 0.5, .gscale = &none, .grad = g->f, .p = is[0]->f, .m = is[1]->f,
                                   .v = is[2]->f, .ema = is[3]->f });
    for (int i = 0; i < 4; i++)
        mat_same_bits("no update", is[i], was[i]);
}
