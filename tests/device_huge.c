/* device_huge.c - tensors of more than 2^31 elements on a device: offsets must be 64 bits wide
 * SPDX-License-Identifier: MIT
 *
 * Rows that lie 2^30 elements apart, in an arena of 16 GiB: every op must give there what it gives on rows
 * that lie together.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "device_trial.h"

#define ROWS 4
#define COLS 96
#define LD (1LL << 30)
#define SLOT 1024 /* elements of each row that one tensor has */
#define BYTES ((size_t)(LD * (ROWS - 1) + 16 * SLOT) * sizeof(float))

static unsigned char *arena, *near;
static enum dtype type;

/* Tensor k far apart, and together. */
static struct tensor far_of(int k)
{
    return (struct tensor){ arena + (size_t)(k * SLOT) * device_size(type), LD, type };
}
static struct tensor near_of(int k)
{
    return (struct tensor){ near + (size_t)(k * ROWS * SLOT) * device_size(type), SLOT, type };
}
static struct tensor place(int k, bool far) { return far ? far_of(k) : near_of(k); }

static void fill(int k)
{
    unsigned char row[COLS * sizeof(float)];

    for (int r = 0; r < ROWS; r++) {
        size_t size = device_size(type);

        for (int c = 0; c < COLS; c++) {
            float x = device_round((float)(2 * device_uniform() - 1), type);
            uint32_t bits;

            memcpy(&bits, &x, 4);
            bits >>= size == 2 ? 16 : 0;
            memcpy(row + (size_t)c * size, &bits, size); /* little-endian */
        }
        device_be->upload((unsigned char *)near_of(k).data + (size_t)(r * SLOT) * size, row, COLS * size);
        device_be->upload((unsigned char *)far_of(k).data + (size_t)(r * LD) * size, row, COLS * size);
    }
}

/* To the bit: only where the rows lie is different. */
static void check(const char *what, int k)
{
    unsigned char a[COLS * sizeof(float)], b[COLS * sizeof(float)];
    size_t size = device_size(type);

    for (int r = 0; r < ROWS; r++) {
        device_be->download(a, (unsigned char *)near_of(k).data + (size_t)(r * SLOT) * size, COLS * size);
        device_be->download(b, (unsigned char *)far_of(k).data + (size_t)(r * LD) * size, COLS * size);
        if (memcmp(a, b, COLS * size) != 0)
            fail_msg("%s: row %d, far apart, differs", what, r);
    }
}

static void *bytes(size_t n)
{
    void *p = device_be->alloc(n);

    assert_non_null(p);
    return p;
}

static void *work_of(const char *name, const void *a)
{
    size_t at;

    return bytes(device_work(device_be, name, a, &at) + 1);
}

/* Inputs are the tensors 0..4, outputs those from 5 on. */
static void points(bool far)
{
    float *ones = bytes(COLS * 4 * sizeof(float)), *rstd = bytes(ROWS * sizeof(float));
    int32_t order[ROWS] = { 3, 1, 0, 2 }, *ids = bytes(sizeof order);
    struct norm n = { .M = ROWS,
                      .D = COLS,
                      .eps = 1e-5,
                      .x = place(0, far),
                      .w = tensor_f32(ones, COLS),
                      .y = place(5, far),
                      .rstd = rstd };
    struct gatednorm g = { .M = ROWS,
                           .D = COLS,
                           .G = 1,
                           .eps = 1e-5,
                           .x = place(0, far),
                           .z = place(1, far),
                           .w = tensor_f32(ones, COLS),
                           .y = place(6, far),
                           .rstd = rstd };
    struct activation s = {
        .kind = ACT_SILU, .M = ROWS, .D = COLS, .x = place(0, far), .u = place(1, far), .y = place(7, far)
    };
    struct conv1d c = { .B = 1,
                        .T = ROWS,
                        .C = COLS,
                        .W = 4,
                        .silu = true,
                        .x = place(0, far),
                        .w = tensor_f32(ones, 4),
                        .y = place(8, far) };
    struct rope r = { .B = 1, .T = ROWS, .H = 2, .hd = COLS / 2, .R = 32, .base = 1e4, .x = place(4, far) };
    struct embed e = {
        .M = ROWS, .D = COLS, .V = ROWS, .ids = ids, .table = place(0, far), .y = place(9, far)
    };
    struct cast t = { .M = ROWS, .D = COLS, .x = place(0, far), .y = place(10, far) };
    struct matmul m = {
        .M = ROWS, .N = COLS, .K = ROWS, .a = place(0, far), .b = place(1, far), .c = place(11, far)
    };
    float w[COLS * 4];

    for (int i = 0; i < COLS * 4; i++)
        w[i] = 1;
    device_be->upload(ones, w, sizeof w);
    device_be->upload(ids, order, sizeof order);
    device_be->norm_fwd(&n);
    device_be->gatednorm_fwd(&g);
    device_be->act_fwd(&s);
    device_be->conv1d_fwd(&c);
    device_be->rope(&r);
    device_be->embed_fwd(&e);
    device_be->cast(&t);
    device_be->matmul(&m);
    assert_null(device_be->sync());
    device_be->free(ones);
    device_be->free(rstd);
    device_be->free(ids);
}

static void sequences(bool far)
{
    float *zeros = bytes(COLS * 32 * sizeof(float)), *states = bytes(ROWS * COLS * 32 * sizeof(float));
    struct tensor none = tensor_f32(zeros, 32);
    struct ssd s = { .B = 1,
                     .T = ROWS,
                     .H = 2,
                     .P = COLS / 2,
                     .G = 1,
                     .N = 32,
                     .Q = 64,
                     .dt_max = INFINITY,
                     .x = place(0, far),
                     .dt_raw = place(1, far),
                     .Bm = place(2, far),
                     .Cm = place(3, far),
                     .dt_bias = none,
                     .A_log = none,
                     .D = none,
                     .y = place(12, far) };
    struct scan n = { .B = 1,
                      .T = ROWS,
                      .C = COLS,
                      .N = 16,
                      .Q = 64,
                      .x = place(0, far),
                      .dt_raw = place(1, far),
                      .Bm = place(2, far),
                      .Cm = place(3, far),
                      .A_log = none,
                      .dt_bias = none,
                      .D = none,
                      .y = place(13, far),
                      .states = states };
    struct rglru g = { .B = 1,
                       .T = ROWS,
                       .C = COLS,
                       .x = place(0, far),
                       .gate_x = place(1, far),
                       .gate_a = place(2, far),
                       .a_param = none,
                       .y = place(14, far) };
    struct attn a = { .B = 1,
                      .T = ROWS,
                      .S = ROWS,
                      .Smax = ROWS,
                      .Hq = 2,
                      .Hkv = 2,
                      .hd = COLS / 2,
                      .scale = 0.2,
                      .q = place(0, far),
                      .k = place(1, far),
                      .v = place(2, far),
                      .o = place(15, far) };
    void *work[4];

    s.work = work[0] = work_of("ssd", &s);
    n.work = work[1] = work_of("scan", &n);
    g.work = work[2] = work_of("rglru", &g);
    a.work = work[3] = work_of("attn", &a);
    device_be->ssd_fwd(&s);
    device_be->scan_fwd(&n);
    device_be->rglru_fwd(&g);
    device_be->attn_fwd(&a);
    assert_null(device_be->sync());
    for (int i = 0; i < 4; i++)
        device_be->free(work[i]);
    device_be->free(zeros);
    device_be->free(states);
}

/* Rows without end: the last of them. */
static void long_tensor(void)
{
    const int64_t M = (1LL << 21) + 3, D = 1024;
    size_t size = device_size(type), all = (size_t)(M * D) * size, last = (size_t)((M - 1) * D) * size;
    unsigned char *x = bytes(all), *y = bytes(all), got[16], one[16];
    struct activation a = { .kind = ACT_SILU, .M = M, .D = D, .x = { x, D, type }, .y = { y, D, type } };

    device_be->upload(x + last, (unsigned char *)memset(one, 0x3f, sizeof one), sizeof one); /* some 0.7 */
    device_be->act_fwd(&a);
    device_be->download(got, y + last, sizeof got);
    device_be->upload(x, one, sizeof one);
    a.M = 1;
    device_be->act_fwd(&a);
    device_be->download(one, y, sizeof one);
    assert_null(device_be->sync());
    assert_memory_equal(got, one, sizeof one);
    assert_true(got[3] != 0);
    device_be->free(x);
    device_be->free(y);
}

/* One long array. */
static void long_arrays(void)
{
    const int64_t n = (1LL << 31) + 1000;
    float end[4] = { 1, 2, 3, 4 }, *x = bytes((size_t)n * sizeof(float)),
          *p = bytes((size_t)n * sizeof(float));
    struct adamw a = { .n = n, .step = 1, .lr = 1, .eps = 1e-8, .grad = x, .p = p };

    device_be->upload(x + n - 4, end, sizeof end);
    double sum, *out = bytes(sizeof *out);
    device_be->total(&(struct total){ .n = n, .square = true, .x = x, .sum = out });
    device_be->download(&sum, out, sizeof sum);
    device_be->free(out);
    assert_true(sum == 30);
    a.m = bytes((size_t)n * sizeof(float));
    a.v = bytes((size_t)n * sizeof(float));
    device_be->adamw(&a); /* betas of 0: a step of lr in the direction of the sign */
    device_be->download(end, p + n - 4, sizeof end);
    assert_null(device_be->sync());
    for (int i = 0; i < 4; i++)
        assert_true(fabs((double)end[i] + 1) < 1e-5);
    device_be->free(a.m);
    device_be->free(a.v);
    device_be->free(p);
    device_be->free(x);
}

void dev_huge(void **state)
{
    static const char *const what[] = { "norm",   "gatednorm", "act",  "conv1d", "embed", "cast",
                                        "matmul", "ssd",       "scan", "rglru",  "attn" };
    static const int at[] = { 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };

    (void)state;
    device_seed(50);
    for (type = F32; type <= BF16; type++) {
        if (!(device_be->dtypes & 1u << type))
            continue;
        arena = device_be->alloc(BYTES);
        near = device_be->alloc((size_t)(16 * ROWS * SLOT) * sizeof(float));
        if (!arena) {
            print_message("skipped: %zu MiB are not to be had\n", BYTES >> 20);
            skip();
        }
        for (int k = 0; k < 5; k++)
            fill(k);
        for (int far = 0; far < 2; far++) {
            points(far);
            sequences(far);
        }
        check("rope", 4);
        for (size_t i = 0; i < sizeof at / sizeof *at; i++)
            check(what[i], at[i]);
        device_be->free(arena);
        device_be->free(near);
        long_tensor();
    }
    long_arrays();
}
