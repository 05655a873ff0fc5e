/* train.c - tests of the data order, the learning rate, and sampling
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* M_PI */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/err.h"
#include "common/eval/sample.h"
#include "common/train/health.h"
#include "common/train/order.h"
#include "common/train/ramp.h"
#include "common/train/schedule.h"

/* Each window once an epoch, other orders in other epochs, and every token of the set once. */
static void one_set(void **state)
{
    (void)state;
    struct order o;
    enum { TOKENS = 1003, T = 10, W = 101 };
    order_init(&o, 7, ORDER_SHUFFLE, T, 4, &(struct order_set){ TOKENS, 2.5 }, 1);
    int64_t first[W];
    int moved = 0;
    for (int epoch = 0; epoch < 3; epoch++) {
        bool seen[W] = { false };
        int64_t total = 0;
        for (int i = 0; i < W; i++) {
            int64_t n = (epoch * W + i) / 4 * 4; /* as a step of four rows asks */
            struct sample s = order_at(&o, n, epoch * W + i - n);
            assert_int_equal(s.epoch, epoch);
            assert_int_equal(s.offset % T, 0);
            assert_false(seen[s.offset / T]);
            assert_false(s.carries);
            seen[s.offset / T] = true;
            total += s.length;
            if (epoch == 0)
                first[i] = s.offset;
            else
                moved += s.offset != first[i];
        }
        assert_int_equal(total, TOKENS);
    }
    assert_true(moved > W);
    order_free(&o);
}

/* A blend keeps its weights in every stretch of samples, and walks each set as if it were alone. */
static void blend(void **state)
{
    (void)state;
    struct order o;
    const struct order_set sets[3] = { { 5000, 0.7 }, { 90, 0.25 }, { 400, 0.05 } };
    order_init(&o, 1, ORDER_SHUFFLE, 10, 8, sets, 3);
    int64_t count[3] = { 0 }, epoch[3] = { 0 };
    for (int64_t i = 0; i < 20000; i++) {
        struct sample s = order_at(&o, i - i % 8, i % 8);
        count[s.set]++;
        assert_true(s.epoch == epoch[s.set] || s.epoch == epoch[s.set] + 1);
        epoch[s.set] = s.epoch;
        assert_int_equal(s.epoch, (count[s.set] - 1) / ((sets[s.set].tokens + 9) / 10));
        for (int d = 0; d < 3; d++)
            assert_true(fabs((double)count[d] - sets[d].weight * (double)(i + 1)) < 2 + 0.002 * (double)i);
    }
    order_free(&o);
}

/* Each row walks its own stretch in order and says so; together they see every token once an epoch. */
static void stream(void **state)
{
    (void)state;
    struct order o;
    const struct order_set sets[2] = { { 995, 3 }, { 41, 1 } };
    order_init(&o, 1, ORDER_STREAM, 10, 4, sets, 2);
    int64_t expect[4] = { 0 }, total = 0;
    for (int64_t step = 0; step < 34; step++)
        for (int64_t row = 0; row < 4; row++) {
            struct sample s = order_at(&o, step * 4, row);
            if (s.set == 0) {
                total += s.length;
                assert_int_equal(s.epoch, 0);
            }
            if (s.carries)
                assert_int_equal(s.offset, expect[row]);
            expect[row] = s.offset + 10;
        }
    assert_int_equal(total, 995); /* three rows, stretches of 34 windows */
    assert_int_equal(order_at(&o, 34 * 4, 0).epoch, 1);
    assert_false(order_at(&o, 34 * 4, 0).carries);
    order_free(&o);
}

/* Beyond 2^31 samples and tokens nothing wraps. */
static void large(void **state)
{
    (void)state;
    struct order o;
    order_init(&o, 3, ORDER_SHUFFLE, 4096, 1024, &(struct order_set){ 20000000000000, 1 }, 1);
    for (int64_t n = 0; n < 4; n++) {
        struct sample s = order_at(&o, 4000000000 + n * 1024, 1023);
        assert_true(s.offset >= 0 && s.offset < 20000000000000 && s.length > 0 && s.epoch == 0);
    }
    order_free(&o);
}

static double rate(struct schedule s, int64_t at) { return schedule_rate(&s, at); }
#define NEAR(x, y) assert_true(fabs((x) - (y)) < 1e-12)

/* Each schedule against its closed form, and at its corners. */
static void rates(void **state)
{
    (void)state;
    struct schedule s = { SCHEDULE_COSINE, 0, 1.0, 0.1, 10, 100, 200 };
    NEAR(rate(s, 1), 0.1);
    assert_true(rate(s, 10) == 1.0);
    NEAR(rate(s, 60), 0.55);
    for (int64_t at = 11; at < 110; at++)
        NEAR(rate(s, at), 0.1 + 0.45 * (1 + cos(M_PI * (double)(at - 10) / 100)));
    assert_true(rate(s, 110) == 0.1 && rate(s, 111) == 0.1 && rate(s, 200) == 0.1);
    s.kind = SCHEDULE_LINEAR;
    NEAR(rate(s, 35), 0.775);
    assert_true(rate(s, 110) == 0.1 && rate(s, 150) == 0.1);
    s.kind = SCHEDULE_CONSTANT;
    assert_true(rate(s, 5) == 0.5 && rate(s, 99) == 1.0 && rate(s, 200) == 1.0);
    s.kind = SCHEDULE_INVERSE_SQRT;
    assert_true(rate(s, 5) == 0.5 && rate(s, 10) == 1.0);
    NEAR(rate(s, 40), 0.5);
    NEAR(rate(s, 160), 0.25);
    assert_true(rate(s, 1001) == 0.1);
    s.warmup = 0;
    assert_true(rate(s, 1) == 1.0);
    NEAR(rate(s, 4), 0.5);
    s.kind = SCHEDULE_COSINE;
    s.decay = 0; /* nothing to divide by */
    assert_true(rate(s, 1) == 0.1);
}

static double exponential(double u) { return 2 / pow(2, u) - 1; }
static double minus_sqrt(double u) { return 1 - sqrt(u); }
static double straight(double u) { return 1 - u; }
static double half_cosine(double u) { return (1 + cos(M_PI * u)) / 2; }

static void warmup_stable_decay(void **state)
{
    (void)state;
    double (*const f[])(double) = { straight, half_cosine, exponential, minus_sqrt };
    for (int style = 0; style < 4; style++) {
        struct schedule s = { SCHEDULE_WSD, style, 2.0, 0.5, 8, 25, 100 };
        NEAR(rate(s, 2), 0.5);
        for (int64_t at = 8; at <= 75; at++)
            assert_true(rate(s, at) == 2.0);
        for (int64_t at = 76; at <= 100; at++)
            NEAR(rate(s, at), 0.5 + 1.5 * f[style]((double)(at - 75) / 25));
        assert_true(rate(s, 100) == 0.5 && rate(s, 101) == 0.5);
        s.decay = 0;
        assert_true(rate(s, 100) == 2.0);
    }
    /* the same curve in samples as in steps */
    struct schedule a = { SCHEDULE_WSD, STYLE_MINUS_SQRT, 3e-4, 3e-5, 10, 20, 100 };
    struct schedule b = { SCHEDULE_WSD, STYLE_MINUS_SQRT, 3e-4, 3e-5, 80, 160, 800 };
    for (int64_t at = 1; at <= 100; at++)
        assert_true(rate(a, at) == rate(b, 8 * at));
}

/* Megatron-LM's rule, and steps counted in stretches against steps counted one by one. */
static void ramps(void **state)
{
    (void)state;
    struct ramp r = { .full = 64 };
    assert_int_equal(ramp_batch(&r, 0), 64);
    assert_int_equal(ramp_try_parse(&r, "16,8,1000"), 0);
    assert_int_equal(ramp_batch(&r, 0), 16); /* 6 increments of 166.7 samples each */
    assert_int_equal(ramp_batch(&r, 166), 16);
    assert_int_equal(ramp_batch(&r, 167), 24);
    assert_int_equal(ramp_batch(&r, 999), 56);
    assert_int_equal(ramp_batch(&r, 1000), 64);
    for (int64_t end = 0; end < 1300; end += 7) {
        int64_t n = 0, one = 0, steps = 0;
        while (one < end) {
            one += ramp_batch(&r, one);
            steps++;
        }
        assert_int_equal(ramp_walk(&r, &n, end, INT64_MAX), steps);
        assert_int_equal(n, one);
        n = 0;
        assert_int_equal(ramp_walk(&r, &n, INT64_MAX, steps), steps);
        assert_int_equal(n, one);
    }
    static const char *const bad[] = { "16", "16,8", "16,8,1000,1", "16,8,x", "0,8,1000", "16,-8,1000", "64,8,1000", "16,7,1000",
                                       "16,8,", "16,8,9000000000000000000" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct ramp b = { .full = 64 };
        assert_int_equal(ramp_try_parse(&b, bad[i]), -1);
    }
}

static void z_scores(void **state)
{
    (void)state;
    struct health h = { .n = 0 };
    double lz, nz;
    for (int i = 0; i < 3 * HEALTH_WINDOW + 5; i++) {
        health_add(&h, i, i % 2 ? 1 : 3, &lz, &nz); /* a ramp, and two values in turn */
        bool full = i >= HEALTH_WINDOW - 1;
        NEAR(lz, full ? 63.5 / sqrt((128.0 * 128 - 1) / 12) : 0);
        NEAR(nz, full ? (i % 2 ? -1 : 1) : 0);
    }
    for (int i = 0; i < HEALTH_WINDOW; i++)
        health_add(&h, 7, 7, &lz, &nz);
    assert_true(lz == 0 && nz == 0); /* no deviation, no score */
}

static void sampling(void **state)
{
    (void)state;
    const float logits[4] = { 1.0f, 3.0f, 2.0f, 3.0f };
    int count[4] = { 0 };
    assert_int_equal(sample_token(&(struct sampling){ 0, 0, 1, 1 }, logits, 4, 0, 0), 1);
    for (uint64_t i = 0; i < 4000; i++)
        count[sample_token(&(struct sampling){ 1, 0, 1, 9 }, logits, 4, 0, i)]++;
    double z = exp(1) + 2 * exp(3) + exp(2);
    for (int v = 0; v < 4; v++) /* five standard errors */
        assert_true(fabs(count[v] - 4000 * exp(logits[v]) / z) < 5 * sqrt(4000 * 0.25));
    for (uint64_t i = 0; i < 500; i++) {
        int k = sample_token(&(struct sampling){ 1, 2, 1, 9 }, logits, 4, 0, i);
        assert_true(k == 1 || k == 3);
        k = sample_token(&(struct sampling){ 1, 0, 0.5, 9 }, logits, 4, 0, i);
        assert_true(k == 1 || k == 3);
        assert_int_equal(sample_token(&(struct sampling){ 1, 0, 0.1, 9 }, logits, 4, 0, i), 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_set), cmocka_unit_test(blend), cmocka_unit_test(stream),
        cmocka_unit_test(large),   cmocka_unit_test(rates), cmocka_unit_test(warmup_stable_decay),
        cmocka_unit_test(ramps),   cmocka_unit_test(z_scores), cmocka_unit_test(sampling),
    };
    err_init("train");
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("train", tests, NULL, NULL);
}
