/* device_dense.c - device against CPU: products of matrices, embedding, loss, optimizer
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device_trial.h"

static void matmul_case(const struct setting *s, struct matmul a, bool add, bool alias, bool bias)
{
    int64_t n = a.batch ? a.batch : 1;

    trial_begin(s, "M %d N %d K %d%s%s batch %d%s%s%s", (int)a.M, (int)a.N, (int)a.K, a.trans_a ? " ta" : "",
                a.trans_b ? " tb" : "", (int)a.batch, add ? " add" : "", alias ? " onto" : "",
                bias ? " bias" : "");
    /* The operands of a batch lie side by side, as the blocks of a block-diagonal layer do. */
    a.step_a = a.trans_a ? a.M : a.K;
    a.step_b = a.trans_b ? a.K : a.N;
    a.step_c = a.step_bias = a.N;
    TEN(matmul, a, ACT, a.trans_a ? a.K : a.M, n * a.step_a, IN, NO, -1, 1);
    TEN(matmul, b, ACT, a.trans_b ? a.N : a.K, n * a.step_b, IN, NO, -1, 1);
    TEN(matmul, c, RES, a.M, n * a.N, alias ? INOUT : OUT, NO, -1, 1);
    if (alias)
        ALIAS(matmul, add, "c");
    else if (add)
        TEN(matmul, add, RES, a.M, n * a.N, IN, NO, -1, 1);
    if (bias)
        TEN(matmul, bias, FLT, 1, n * a.N, IN, NO, -1, 1);
    trial_limits((struct limits){ 2e-5, 0x1p-7, 2e-5 }); /* a library's algorithm may round to bf16 twice */
    trial_run(&a, "matmul", "matmul", NULL);
}

static void matmul_cases(const struct setting *s)
{
    static const int64_t shape[][3] = { { 1, 1, 1 },    { 1, 70, 33 },   { 65, 1, 17 },    { 16, 16, 16 },
                                        { 64, 64, 64 }, { 37, 43, 129 }, { 130, 136, 24 }, { 8, 200, 72 } };

    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int k = 0; k < 4; k++) {
            struct matmul a = {
                .M = shape[i][0], .N = shape[i][1], .K = shape[i][2], .trans_a = k & 1, .trans_b = k & 2
            };

            matmul_case(s, a, false, false, false);
            if (i % 4 == 1)
                matmul_case(s, a, true, false, k & 1);
            if (i % 4 == 2) /* a gradient: c += a^T b */
                matmul_case(s, a, true, true, false);
            if (i == 5)
                matmul_case(s, a, false, false, true);
            if (i == 3 || i == 1) {
                a.batch = 3;
                matmul_case(s, a, k & 1, k == 3, k & 2);
            }
        }
}

void dev_matmul(void **state)
{
    (void)state;
    device_seed(1);
    each_setting(matmul_cases, true);
}

static void colsum_cases(const struct setting *s)
{
    static const int64_t shape[][2] = {
        { 1, 1 }, { 1, 40 }, { 300, 1 }, { 67, 130 }, { 512, 64 }, { 1030, 9 }
    };

    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        struct colsum a = { .M = shape[i][0], .D = shape[i][1] };

        trial_begin(s, "M %d D %d", (int)a.M, (int)a.D);
        TEN(colsum, x, ACT, a.M, a.D, IN, NO, -1, 1);
        TEN(colsum, y, FLT, 1, a.D, INOUT, NO, -1, 1);
        trial_run(&a, "colsum", "colsum", NULL);
    }
}

void dev_colsum(void **state)
{
    (void)state;
    device_seed(2);
    each_setting(colsum_cases, false);
}

static void embed_case(const struct setting *s, struct embed a)
{
    float *ids;

    trial_begin(s, "M %d D %d V %d scale %g", (int)a.M, (int)a.D, (int)a.V, a.scale);
    PTR(embed, ids, INT, a.M, 1, IN, IN, 0, 0);
    TEN(embed, table, ACT, a.V, a.D, IN, NO, -1, 1);
    TEN(embed, y, RES, a.M, a.D, OUT, NO, 0, 0);
    TEN(embed, dy, RES, a.M, a.D, NO, IN, -1, 1);
    TEN(embed, dtable, FLT, a.V, a.D, NO, INOUT, -1, 1);
    ids = trial_values("ids");
    for (int64_t m = 0; m < a.M; m++) /* half of them are one token */
        ids[m] = (float)(device_uniform() < 0.5 ? a.V / 2 : device_below(a.V));
    trial_run(&a, "embed", "embed_fwd", "embed_bwd");
}

static void embed_cases(const struct setting *s)
{
    embed_case(s, (struct embed){ .M = 1, .D = 1, .V = 1 });
    embed_case(s, (struct embed){ .M = 37, .D = 19, .V = 5 });
    embed_case(s, (struct embed){ .M = 300, .D = 64, .V = 257 });
    embed_case(s, (struct embed){ .M = 9001, .D = 12, .V = 600 });
    embed_case(s, (struct embed){ .M = 21, .D = 136, .V = 1000, .scale = 50.5 });
    embed_case(s, (struct embed){ .M = 40, .D = 2060, .V = 30 });
}

void dev_embed(void **state)
{
    (void)state;
    device_seed(3);
    each_setting(embed_cases, true);
}

/* scale: of the logits */
static void xent_case(const struct setting *s, struct xent a, int64_t Vpad, bool grad, double scale, bool nan)
{
    float *target;

    trial_begin(s, "M %d D %d V %d of %d cap %g%s scale %g%s", (int)a.M, (int)a.D, (int)a.V, (int)Vpad,
                a.softcap, grad ? " grad" : "", scale, nan ? " NaN" : "");
    /* bf16: the softmax is rounded to bf16 before its products, 2^-9 of each term; the scale is the largest
     * sum. With a gradient logits are rounded too: those of 100 by up to 0.25. */
    double rough = scale > 10 ? 0x1p-2 : 0x1p-7;
    trial_limits((struct limits){ 2e-5, rough, grad ? rough : 5e-5 });
    TEN(xent, x, ACT, a.M, a.D, IN, NO, -scale, scale);
    a.rows = nan ? 0 : Vpad; /* 0 times what is not a number is not 0 */
    TEN(xent, w, ACT, Vpad, a.D, IN, NO, -1, 1);
    PTR(xent, target, INT, a.M, 1, IN, NO, 0, 0);
    PTR(xent, loss, FLT, a.M, 1, OUT, NO, 0, 0);
    TEN(xent, dx, ACT, a.M, a.D, grad ? OUT : NO, NO, 0, 0);
    TEN(xent, dw, FLT, Vpad, a.D, grad ? INOUT : NO, NO, -0.1, 0.1);
    target = trial_values("target");
    for (int64_t m = 0; m < a.M; m++)
        target[m] = (float)(m % 5 == 3 ? -1 - device_below(100) : device_below(a.V));
    if (nan)
        trial_values("x")[a.D * (a.M / 2)] = NAN;
    trial_run(&a, "xent", "xent", NULL);
}

static void xent_cases(const struct setting *s)
{
    for (int grad = 0; grad < 2; grad++) {
        xent_case(s, (struct xent){ .M = 1, .D = 3, .V = 2 }, 2, grad, 1, false);
        xent_case(s, (struct xent){ .M = 70, .D = 24, .V = 257 }, 272, grad, 1, false);
        xent_case(s, (struct xent){ .M = 9, .D = 17, .V = 1000, .softcap = 2.5 }, 1000, grad, 3, false);
        xent_case(s, (struct xent){ .M = 33, .D = 40, .V = 500 }, 512, grad, 30, false);
        xent_case(s, (struct xent){ .M = 6, .D = 8, .V = 100 }, 104, grad, 1, true);
        xent_case(s, (struct xent){ .M = 5, .D = 8, .V = 100 }, 1000, grad, 1, false); /* many rows of padding */
        /* rows that a GPU's shared memory holds, and that it does not hold */
        xent_case(s, (struct xent){ .M = 2, .D = 4, .V = 20001 }, 20001, grad, 1, false);
        xent_case(s, (struct xent){ .M = 2, .D = 4, .V = 60000, .softcap = 5 }, 60000, grad, 1, false);
    }
}

void dev_xent(void **state)
{
    (void)state;
    device_seed(4);
    each_setting(xent_cases, false);
}

static void cast_case(const struct setting *s, enum width from, enum width to, int64_t M, int64_t D)
{
    struct cast a = { .M = M, .D = D };
    float *x;

    trial_begin(s, "%s to %s %dx%d", from == HALF ? "bf16" : "f32", to == HALF ? "bf16" : "f32", (int)M,
                (int)D);
    TEN(cast, x, from, M, D, IN, NO, -300, 300);
    TEN(cast, y, to, M, D, OUT, NO, 0, 0);
    x = trial_values("x");
    if (M * D > 8) {
        x[0] = NAN;
        x[1] = INFINITY;
        x[2] = -INFINITY;
        x[3] = 1 + 0x1p-8f;     /* a tie, to the even one below */
        x[4] = 1 + 3 * 0x1p-8f; /* and above */
        x[5] = 0x1.fffffep127f; /* rounds to infinity in bf16 */
        x[6] = 0x1p-130f;       /* subnormal */
        x[7] = -0.0f;
    }
    trial_exact();
    trial_run(&a, "cast", "cast", NULL);
}

static void cast_cases(const struct setting *s)
{
    enum width last = device_be->dtypes & 1 << BF16 ? HALF : FLT;

    for (int from = FLT; from <= (int)last; from++)
        for (int to = FLT; to <= (int)last; to++) {
            cast_case(s, (enum width)from, (enum width)to, 1, 1);
            cast_case(s, (enum width)from, (enum width)to, 13, 37);
            cast_case(s, (enum width)from, (enum width)to, 3, 1024);
        }
}

void dev_cast(void **state)
{
    (void)state;
    device_seed(5);
    each_setting(cast_cases, false);
}

static void adamw_case(const struct setting *s, struct adamw a, bool mask, bool ema, bool half)
{
    float *what;

    a.lr = 3e-3;
    a.beta1 = 0.9;
    a.beta2 = 0.95;
    a.eps = 1e-8;
    a.ema_decay = 0.75;
    trial_begin(s, "n %d step %d decay %g%s%s%s", (int)a.n, (int)a.step, a.decay, mask ? " mask" : "",
                ema ? " ema" : "", half ? " half" : "");
    trial_limits((struct limits){ 5e-7, 0x1p-8, 5e-7 }); /* a few roundings; a NaN case has none */
    float scale = a.n == 16 ? 0 : 0.37F; /* 0: no update */
    if (a.n != 15)                       /* 1 */
        PTR(adamw, gscale, FLT, 1, 1, IN, NO, (double)scale, (double)scale);
    PTR(adamw, grad, FLT, 1, a.n, IN, NO, -1, 1);
    PTR(adamw, p, FLT, 1, a.n, INOUT, NO, -1, 1);
    PTR(adamw, m, FLT, 1, a.n, INOUT, NO, -0.1, 0.1);
    PTR(adamw, v, FLT, 1, a.n, INOUT, NO, 0, 0.1);
    if (ema)
        PTR(adamw, ema, FLT, 1, a.n, INOUT, NO, -1, 1);
    if (half) {
        PTR(adamw, half, HALF, 1, a.n, INOUT, NO, 0, 0);
        trial_mirror("half", "p"); /* which may keep what it is where p stands still */
    }
    if (mask) {
        PTR(adamw, mask, BYTE, 1, (a.n + 15) / 16, IN, NO, 0, 0);
        what = trial_values("mask");
        for (int64_t i = 0; i < (a.n + 15) / 16; i++)
            what[i] = (float)(i / 3 % 2 ? ADAMW_UPDATE | ADAMW_DECAY : device_below(4));
    }
    if (a.n > 2)
        trial_values("grad")[2] = NAN;
    trial_run(&a, "adamw", "adamw", NULL);
}

static void adamw_cases(const struct setting *s)
{
    static const int64_t size[] = { 1, 15, 16, 1000, 5003 };
    bool half = device_be->dtypes & 1 << BF16;

    for (size_t i = 0; i < sizeof size / sizeof *size; i++)
        for (int k = 0; k < 4; k++)
            adamw_case(s, (struct adamw){ .n = size[i], .step = 1 + 40 * (k / 2), .decay = k == 3 ? 0 : 0.1 },
                       k & 1, k & 2, half && k % 3 != 1);
}

void dev_adamw(void **state)
{
    (void)state;
    device_seed(6);
    each_setting(adamw_cases, false);
}

static double total(struct total t)
{
    double sum;

    device_be->total(&t);
    device_be->download(&sum, t.sum, sizeof sum);
    return sum;
}

void dev_total(void **state)
{
    static const int64_t size[] = { 0, 1, 17, 4096, 100001 };
    double *out = device_be->alloc(sizeof *out);

    (void)state;
    assert_non_null(out);
    device_seed(7);
    for (size_t i = 0; i < 2 * sizeof size / sizeof *size; i++) {
        int64_t n = size[i / 2];
        size_t bytes = (size_t)(n + 1) * sizeof(float);
        float *x = malloc(bytes + sizeof *x), *dev = device_be->alloc(bytes + sizeof *x);
        struct total t = { .n = n, .square = i & 1, .x = dev + (i & 1 ? 0 : 1), .sum = out };
        double sum = 0;

        assert_non_null(x);
        assert_non_null(dev);
        for (int64_t k = 0; k <= n; k++)
            x[k] = k == n ? NAN : (float)(t.square ? 6 * device_uniform() - 3 : device_uniform());
        for (int64_t k = 0; k < n; k++)
            sum += (double)x[k] * (t.square ? (double)x[k] : 1);
        device_be->upload((void *)t.x, x, bytes);
        double got = total(t);
        assert_true(fabs(got - sum) <= 1e-12 * sum); /* in double */
        assert_true(got == total(t));
        t.add = true;
        assert_true(total(t) == 2 * got);
        t.n++;
        assert_true(isnan(total(t)));
        assert_null(device_be->sync());
        device_be->free(dev);
        free(x);
    }
    device_be->free(out);
}

/* The CPU's verdict, bit for bit, asked for before what is given next. */
void dev_judge(void **state)
{
    enum { RANKS = 5 };
    double seen[2 * RANKS], *dev = device_be->alloc(sizeof seen);
    struct verdict want, got, *out = device_be->alloc(sizeof want);
    int made = 0;

    (void)state;
    assert_true(dev && out);
    device_seed(8);
    for (int i = 0; i < 200; i++) {
        struct judge j = { .ranks = 1 + i % RANKS,
                           .count = 1 + device_below(100000),
                           .clip = i % 3 ? 1e-3 * device_uniform() : 0,
                           .loss_limit = i % 4 ? INFINITY : 0.002F,
                           .norm_limit = i % 5 ? INFINITY : 0.0002F,
                           .seen = seen,
                           .verdict = &want };
        for (int k = 0; k < 2 * RANKS; k++)
            seen[k] = 100 * device_uniform();
        if (i % 7 == 6)
            seen[i % 2] = i % 3 ? NAN : INFINITY;
        backend_cpu()->judge(&j);
        device_be->upload(dev, seen, sizeof seen);
        j.seen = dev;
        j.verdict = out;
        device_be->judge(&j);
        device_be->ask(out, sizeof got);
        device_be->zero(out, sizeof got);
        device_be->answer(&got);
        assert_true(got.gscale == want.gscale);
        if (got.gscale != 0)
            assert_true(got.loss == want.loss && got.norm == want.norm);
        made += got.gscale != 0;
    }
    assert_true(made > 60 && made < 180);
    assert_null(device_be->fault());
    device_be->free(dev);
    device_be->free(out);
}
