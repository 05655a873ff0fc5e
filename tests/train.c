/* train.c - tests of the data order, rates, batches and lengths, the job's time, z-scores, event files, and sampling
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE /* M_PI */
#include <glob.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/err.h"
#include "common/base/opt.h"
#include "common/base/out.h"
#include "common/base/rng.h"
#include "common/io/set.h"
#include "common/train/deadline.h"
#include "common/train/events.h"
#include "common/train/health.h"
#include "common/train/length.h"
#include "common/train/order.h"
#include "common/train/ramp.h"
#include "common/train/schedule.h"
#include "common/train/trainer.h"

/* Each window once an epoch, other orders in other epochs, and every token of the set once. */
static void one_set(void **state)
{
    (void)state;
    struct order o;
    enum { TOKENS = 1003, T = 10, W = 101 };
    order_init(&o, 7, ORDER_SHUFFLE, T, 4, &(struct order_set){ TOKENS, 2.5, 0 }, 1);
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
    const struct order_set sets[3] = { { 5000, 0.7, 0 }, { 90, 0.25, 0 }, { 400, 0.05, 0 } };
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

/* Each sample of a packed set once an epoch, among the windows of another. */
static void packed(void **state)
{
    (void)state;
    struct order o;
    enum { N = 37 };
    const struct order_set sets[2] = { { 1000, 1, N }, { 320, 1, 0 } };
    order_init(&o, 5, ORDER_SHUFFLE, 10, 4, sets, 2);
    int seen[N] = { 0 }, moved = 0, windows = 0;
    for (int64_t i = 0, k = 0; k < 3 * N; i++) {
        struct sample s = order_at(&o, i - i % 4, i % 4);
        if (s.set == 1) {
            assert_int_equal(s.packed, -1);
            assert_int_equal(s.length, 10);
            windows++;
            continue;
        }
        assert_int_equal(s.epoch, k / N);
        assert_in_range(s.packed, 0, N - 1);
        assert_int_equal(seen[s.packed]++, k / N);
        moved += s.packed != k % N;
        k++;
    }
    assert_true(moved > 2 * N && windows > 100);
    assert_true(fabs(order_epochs(&o, 0, 2 * N) - 1) < 1e-9);
    order_free(&o);
}

/* Each row walks its own stretch in order and says so; together they see every token once an epoch. */
static void stream(void **state)
{
    (void)state;
    struct order o;
    const struct order_set sets[2] = { { 995, 3, 0 }, { 41, 1, 0 } };
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
    order_init(&o, 3, ORDER_SHUFFLE, 4096, 1024, &(struct order_set){ 20000000000000, 1, 0 }, 1);
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
    health_add(&h, 1e6, 7.5, &lz, &nz); /* one that stands out from equals: the highest there is */
    assert_true(lz > 11.26 && lz < HEALTH_HIGHEST_Z && nz > 11.26 && nz < HEALTH_HIGHEST_Z);
}

/* A limit's score is not beyond what it stands for, and that of the next float is. */
static void z_limits(void **state)
{
    (void)state;
    struct health h = { .n = 0 };
    double lz, nz;
    float loss, norm;
    for (int64_t i = 0; i < 3 * HEALTH_WINDOW; i++) {
        health_limits(&h, i % 3 ? 2.5 : 0, 0.1 * (double)(1 + i % 112), &loss, &norm);
        bool full = h.n + 1 >= HEALTH_WINDOW;
        assert_int_equal(isinf(loss), !full || i % 3 == 0);
        assert_int_equal(isinf(norm), !full);
        if (!isinf(norm)) {
            struct health at = h, above = h;
            health_add(&at, 1, (double)norm, &lz, &nz);
            assert_true(nz <= 0.1 * (double)(1 + i % 112));
            health_add(&above, 1, (double)nextafterf(norm, INFINITY), &lz, &nz);
            assert_true(nz > 0.1 * (double)(1 + i % 112));
        }
        if (!isinf(loss)) {
            struct health above = h;
            health_add(&above, (double)nextafterf(loss, INFINITY), 1, &lz, &nz);
            assert_true(lz > 2.5);
        }
        health_add(&h, 5 * rng_uniform(1, 2, (uint64_t)i) - 2, 3 + rng_uniform(3, 4, (uint64_t)i), &lz, &nz);
    }
    for (int i = 0; i < HEALTH_WINDOW; i++)
        health_add(&h, 7, -7, &lz, &nz);
    health_limits(&h, 4, 4, &loss, &norm); /* equals: nothing above them */
    assert_true(loss == 7 && norm == -7);
    health_limits(&h, HEALTH_HIGHEST_Z, HEALTH_HIGHEST_Z, &loss, &norm); /* which nothing reaches */
    assert_true(isinf(loss) && isinf(norm));
}

/* CRC-32C bit by bit, and records and protocol buffers read back as their specifications say. */
static uint32_t slow_crc(const unsigned char *p, size_t n)
{
    uint32_t c = ~0u;
    for (size_t i = 0; i < n * 8; i++) {
        uint32_t bit = (c ^ (uint32_t)(p[i / 8] >> i % 8)) & 1;
        c = c >> 1 ^ (bit ? 0x82f63b78 : 0);
    }
    return ~c;
}

static uint64_t le(const unsigned char *p, int n)
{
    uint64_t x = 0;
    while (n--)
        x = x << 8 | p[n];
    return x;
}

static uint64_t varint(const unsigned char **p)
{
    uint64_t x = 0;
    for (int shift = 0;; shift += 7) {
        x |= (uint64_t)(**p & 127) << shift;
        if (!(*(*p)++ & 128))
            return x;
    }
}

static uint32_t masked(const unsigned char *p, size_t n)
{
    uint32_t c = slow_crc(p, n);
    return ((c >> 15) | (c << 17)) + 0xa282ead8;
}

struct read_event {
    double wall;
    int64_t step;
    char version[32], tag[8][32];
    float value[8];
    int n;
};

static void read_values(const unsigned char *p, const unsigned char *end, struct read_event *e)
{
    while (p < end) {
        assert_int_equal(*p++, 1 << 3 | 2); /* value */
        const unsigned char *stop = p + 1;
        size_t n = varint(&p);
        stop = p + n;
        assert_int_equal(*p++, 1 << 3 | 2);
        n = varint(&p);
        memcpy(e->tag[e->n], p, n);
        p += n;
        assert_int_equal(*p++, 2 << 3 | 5);
        uint32_t bits = (uint32_t)le(p, 4);
        memcpy(&e->value[e->n++], &bits, 4);
        assert_ptr_equal(p + 4, stop);
        p = stop;
    }
}

static const unsigned char *read_record(const unsigned char *p, struct read_event *e)
{
    size_t n = le(p, 8);
    *e = (struct read_event){ 0 };
    assert_int_equal(le(p + 8, 4), masked(p, 8));
    assert_int_equal(le(p + 12 + n, 4), masked(p + 12, n));
    const unsigned char *end = p + 12 + n;
    for (p += 12; p < end;) {
        uint64_t key = varint(&p), bits;
        switch (key) {
        case 1 << 3 | 1:
            bits = le(p, 8);
            memcpy(&e->wall, &bits, 8);
            p += 8;
            break;
        case 2 << 3 | 0:
            e->step = (int64_t)varint(&p);
            break;
        case 3 << 3 | 2:
        case 5 << 3 | 2:
            n = varint(&p);
            if (key >> 3 == 3)
                memcpy(e->version, p, n);
            else
                read_values(p, p + n, e);
            p += n;
            break;
        default:
            fail_msg("field %d", (int)key);
        }
    }
    return end + 4;
}

static void event_files(void **state)
{
    (void)state;
    char dir[] = "/tmp/ssm-events.XXXXXX", pattern[64];
    static unsigned char data[4096];
    const char *long_tag = "a tag that is longer than others";
    assert_int_equal(events_crc("123456789", 9), 0xe3069283);
    assert_non_null(mkdtemp(dir));
    struct events *w = events_open(dir);
    events_write(w, 3, (const struct scalar[]){ { "train/loss", 2.5 }, { "lr", 1e-3 } }, 2);
    events_write(w, 5000000000, (const struct scalar[]){ { long_tag + 1, NAN } }, 1);
    events_close(w);
    glob_t g;
    snprintf(pattern, sizeof pattern, "%s/events.out.tfevents.*", dir);
    assert_int_equal(glob(pattern, 0, NULL, &g), 0);
    FILE *f = fopen(g.gl_pathv[0], "rb");
    size_t n = fread(data, 1, sizeof data, f);
    fclose(f);
    globfree(&g);
    out_remove_tree(dir);
    struct read_event e;
    const unsigned char *p = read_record(data, &e);
    assert_string_equal(e.version, "brain.Event:2");
    assert_true(e.wall > 1.7e9 && e.wall < 1e11);
    p = read_record(p, &e);
    assert_true(e.step == 3 && e.n == 2 && e.value[0] == 2.5f && e.value[1] == 1e-3f);
    assert_string_equal(e.tag[0], "train/loss");
    assert_string_equal(e.tag[1], "lr");
    p = read_record(p, &e);
    assert_true(e.step == 5000000000 && e.n == 1 && isnan(e.value[0]));
    assert_string_equal(e.tag[0], long_tag + 1);
    assert_ptr_equal(p, data + n);
}

/* One run in three units: as many steps and samples, whatever the unit; the last step may go beyond the length. */
static void lengths(void **state)
{
    (void)state;
    struct length l[3] = { { .unit = LENGTH_STEPS, .n = 71 },
                           { .unit = LENGTH_SAMPLES, .n = 1000 },
                           { .unit = LENGTH_TOKENS, .n = 1000 * 32 } };
    const int64_t at[] = { 50, 600, 600 * 32 };
    for (int u = 0; u < 3; u++) {
        int64_t end;
        l[u].seq_len = 32;
        l[u].ramp = (struct ramp){ .full = 20, .start = 10, .increment = 10, .samples = 400 };
        assert_int_equal(length_steps_left(&l[u], 0, 0, &end), u == LENGTH_STEPS ? 71 : 70);
        assert_int_equal(end, u == LENGTH_STEPS ? 1020 : 1000); /* 40 steps of 10, then 20 each */
        assert_int_equal(length_samples(&l[u]), end);
        assert_int_equal(length_steps_left(&l[u], 50, 600, &end), u == LENGTH_STEPS ? 21 : 20);
        assert_int_equal(length_steps_left(&l[u], 71, 1020, NULL), 0);
        assert_int_equal(length_position(&l[u], 50, 600), at[u]);
    }
}

enum { ROWS = 3, LEN = 12, VOCAB = 37 };
static void some_steps(struct trainer *t, int n)
{
    int32_t ids[ROWS * LEN], targets[ROWS * LEN], start[ROWS * LEN] = { 0 };
    bool carries[ROWS] = { false };
    while (n-- > 0) {
        for (int i = 0; i < ROWS * LEN; i++) {
            ids[i] = (int32_t)(rng_u64(5, (uint64_t)t->samples, (uint64_t)i) % VOCAB);
            targets[i] = (ids[i] + 1) % VOCAB;
        }
        trainer_step(t, &(struct loaded){ .rows = ROWS, .T = LEN, .ids = ids, .targets = targets, .start = start, .carries = carries,
                                          .n_targets = ROWS * LEN, .n = t->samples, .batch = ROWS }, 0.01, (struct step_wish){ 0 });
    }
}

static bool always(void *arg) { return arg == NULL; }

/* A trainer that goes back is what it was then, but for its place in the data and the counts of what was refused. */
static void goes_back(void **state)
{
    (void)state;
    struct config c;
    struct opt rows[CONFIG_ROWS + 1];
    config_table(&c, rows);
    c.pattern = "M-";
    c.d_model = 20;
    c.vocab = VOCAB;
    c.n_heads = c.headdim = c.n_groups = 2;
    c.d_state = 9;
    c.chunk = 8;
    c.d_ff = 33;
    assert_int_equal(config_try_check(&c), 0);
    const struct trainer_options opt = { .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .clip = 1, .ema = 0.5, .micro_rows = ROWS,
                                         .rows = ROWS, .batch = ROWS, .seq_len = LEN };
    struct trainer *t = trainer_create(&c, backend_cpu(), comm_world(), &opt);
    net_init(t->net, 3);
    some_steps(t, 4);
    t->skipped = 1;
    char dir[] = "/tmp/ssm-rewind.XXXXXX";
    assert_non_null(mkdtemp(dir));
    char *path = path_join(dir, "step");
    set_prepare(path, false);
    struct attrs attrs = { 0 };
    trainer_save_begin(t, path, &attrs, "", false);
    assert_true(trainer_save_publish(t, always, NULL));
    size_t bytes = (size_t)t->net->ps.slab * sizeof(float);
    const struct trainer was = *t;
    float *const slabs[] = { t->net->weights, t->m, t->v, t->ema };
    char *copy = malloc(4 * bytes);
    for (int i = 0; i < 4; i++)
        memcpy(copy + (size_t)i * bytes, slabs[i], bytes);

    some_steps(t, 3);
    t->skipped = 2;
    for (int i = 0; i < 4; i++)
        assert_memory_not_equal(copy + (size_t)i * bytes, slabs[i], bytes);
    struct ckpt *from = ckpt_try_open(path);
    assert_non_null(from);
    trainer_rewind(t, from);
    ckpt_close(from);
    for (int i = 0; i < 4; i++)
        assert_memory_equal(copy + (size_t)i * bytes, slabs[i], bytes);
    assert_memory_equal(&t->health, &was.health, sizeof was.health);
    assert_true(t->step == 4 && t->updates == 4 && t->averaging);
    assert_true(t->samples == 7 * ROWS && t->tokens == 7 * ROWS * LEN && t->skipped == 2);
    assert_true(t->rewinds == 1 && t->rewinds_in_row == 1);
    free(copy);
    free(path);
    out_remove_tree(dir);
    trainer_free(t);
}

/* The earlier of the two ends counts; a step and a save have to fit in twice. */
static void deadlines(void **state)
{
    (void)state;
    unsetenv("SLURM_JOB_END_TIME");
    struct deadline d = deadline_of_job(0);
    d.step = d.save = 1e9;
    assert_true(isinf(d.at) && !deadline_is_near(&d, false));
    d = deadline_of_job(1e6);
    d.step = d.save = 2e5;
    assert_false(deadline_is_near(&d, false));
    d.look = 1.1e5;
    assert_true(!deadline_is_near(&d, false) && deadline_is_near(&d, true));
    d.save = 3.1e5;
    assert_true(deadline_is_near(&d, false));
    setenv("SLURM_JOB_END_TIME", "1000", 1); /* long ago */
    d = deadline_of_job(1e6);
    assert_true(deadline_is_near(&d, false));
    setenv("SLURM_JOB_END_TIME", "99999999999", 1);
    struct deadline later = deadline_of_job(1e6);
    assert_false(deadline_is_near(&later, true));
    assert_true(later.at > d.at);
    setenv("SLURM_JOB_END_TIME", "soon", 1); /* not a time: none */
    d = deadline_of_job(0);
    assert_true(isinf(d.at));
    unsetenv("SLURM_JOB_END_TIME");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_set),
        cmocka_unit_test(blend),
        cmocka_unit_test(packed),
        cmocka_unit_test(stream),
        cmocka_unit_test(large),
        cmocka_unit_test(rates),
        cmocka_unit_test(warmup_stable_decay),
        cmocka_unit_test(ramps),
        cmocka_unit_test(lengths),
        cmocka_unit_test(deadlines),
        cmocka_unit_test(goes_back),
        cmocka_unit_test(z_scores), cmocka_unit_test(z_limits),
        cmocka_unit_test(event_files),
    };
    err_init("train");
    comm_init(&argc, &argv);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("train", tests, NULL, NULL);
}
