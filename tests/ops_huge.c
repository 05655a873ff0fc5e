/* ops_huge.c - tensors of more than 2^31 elements: offsets must be 64 bits wide
 * SPDX-License-Identifier: MIT
 *
 * Four rows that lie 2^31-64 elements apart, in 32 GiB of address space of which only the touched pages
 * exist. Every op must give there what it gives on rows that lie together.
 */
#define _DEFAULT_SOURCE
#include <math.h>
#include <string.h>
#include <sys/mman.h>

#include <stdio.h>

#include "ops.h"

#define ROWS 4
#define COLS 96
#define LD ((1LL << 31) - 64) /* the largest multiple of 64 that a CBLAS with 32-bit sizes takes */
#define BYTES ((size_t)(LD * (ROWS - 1) + (1 << 20)) * sizeof(float))

static float *arena;

/* Tensor k of the arena: k KiB of floats into each row. */
static struct tensor far(int64_t k) { return tensor_f32(arena + k * 1024, LD); }

static void fill(int64_t k, const struct mat *m)
{
    for (int64_t r = 0; r < m->rows; r++)
        memcpy(arena + k * 1024 + r * LD, m->f + r * m->ld, (size_t)m->cols * sizeof(float));
}

static void check(const char *what, int64_t k, const struct mat *near)
{
    struct mat *m = mat_new(near->rows, near->cols, 0);

    for (int64_t r = 0; r < m->rows; r++)
        for (int64_t c = 0; c < m->cols; c++) {
            m->f[r * m->ld + c] = arena[k * 1024 + r * LD + c];
            m->d[r * m->cols + c] = near->f[r * near->ld + c];
        }
    mat_close(what, m, NULL, m->d, 1e-6);
}

static void huge_points(const struct mat *x)
{
    struct mat *y = mat_new(ROWS, COLS, 0), *w = mat_rand(1, COLS, 0, 0, 1);
    struct mat *rstd = mat_new(1, ROWS, 0), *sq = mat_new(ROWS, ROWS, 0);
    static const int32_t ids[2] = { 3, 2 };
    struct norm r = { .M = ROWS,
                         .D = COLS,
                         .eps = 1e-5,
                         .x = mat_tensor(x),
                         .w = mat_tensor(w),
                         .y = mat_tensor(y),
                         .rstd = rstd->f };
    struct activation a = { .kind = ACT_SILU, .M = ROWS, .D = COLS, .x = mat_tensor(x), .y = mat_tensor(y) };
    struct matmul m = { .M = ROWS,
                        .N = ROWS,
                        .K = COLS,
                        .trans_b = true,
                        .a = mat_tensor(x),
                        .b = mat_tensor(x),
                        .c = mat_tensor(sq) };
    struct embed e = { .M = 2, .D = COLS, .V = ROWS, .ids = ids, .table = far(0), .y = far(1) };

    ops_be->norm_fwd(&r);
    r.x = far(0);
    r.y = far(1);
    ops_be->norm_fwd(&r);
    check("norm", 1, y);
    ops_be->act_fwd(&a);
    a.x = far(0);
    a.y = far(1);
    ops_be->act_fwd(&a);
    check("act", 1, y);
    ops_be->matmul(&m);
    m.a = m.b = far(0);
    m.c = far(1);
    ops_be->matmul(&m);
    check("matmul", 1, sq);
    ops_be->embed_fwd(&e);
    for (int i = 0; i < 2; i++)
        assert_memory_equal(arena + 1024 + i * LD, x->f + ids[i] * x->ld, COLS * sizeof(float));
}

static void huge_sequences(const struct mat *x)
{
    struct mat *y = mat_new(ROWS, COLS, 0), *w = mat_rand(COLS, 4, 0, -1, 1);
    struct mat *one = mat_rand(1, 2, 0, -1, 1);
    struct conv1d c = { .B = 1,
                        .T = ROWS,
                        .C = COLS,
                        .W = 4,
                        .silu = true,
                        .x = mat_tensor(x),
                        .w = mat_tensor(w),
                        .y = mat_tensor(y) };
    struct ssd s = { .B = 1,
                     .T = ROWS,
                     .H = 2,
                     .P = COLS / 2,
                     .G = 1,
                     .N = 32,
                     .Q = 64,
                     .dt_max = INFINITY,
                     .x = mat_tensor(x),
                     .dt_raw = mat_tensor(x),
                     .Bm = mat_tensor(x),
                     .Cm = mat_tensor(x),
                     .dt_bias = mat_tensor(one),
                     .A_log = mat_tensor(one),
                     .D = mat_tensor(one),
                     .y = mat_tensor(y) };
    struct mat *A = mat_rand(COLS, 32, 0, 0, 2), *bias = mat_rand(1, COLS, 0, -3, -1);
    struct mat *ddt = mat_new(ROWS, COLS, 0), *dB = mat_new(ROWS, 32, 0), *dC = mat_new(ROWS, 32, 0);
    struct mat *sums = mat_rand(COLS, 32, 0, 0, 1);
    struct scan n = { .B = 1,
                      .T = ROWS,
                      .C = COLS,
                      .N = 32,
                      .Q = 2,
                      .x = mat_tensor(x),
                      .dt_raw = mat_tensor(x),
                      .Bm = mat_tensor(x),
                      .Cm = mat_tensor(x),
                      .A_log = mat_tensor(A),
                      .dt_bias = mat_tensor(bias),
                      .D = mat_tensor(bias),
                      .y = mat_tensor(y),
                      .dy = mat_tensor(x),
                      .dx = mat_tensor(y),
                      .ddt_raw = mat_tensor(ddt),
                      .dBm = mat_tensor(dB),
                      .dCm = mat_tensor(dC),
                      .ddt_bias = mat_tensor(sums),
                      .dA_log = mat_tensor(sums),
                      .dD = mat_tensor(sums) };
    struct attn a = { .B = 1,
                      .T = ROWS,
                      .S = ROWS,
                      .Smax = ROWS,
                      .Hq = 2,
                      .Hkv = 2,
                      .hd = COLS / 2,
                      .scale = 0.2,
                      .q = mat_tensor(x),
                      .k = mat_tensor(x),
                      .v = mat_tensor(x),
                      .o = mat_tensor(y) };
    struct mat *param = mat_rand(1, COLS, 0, -4, 1);
    struct rglru g = { .B = 1,
                       .T = ROWS,
                       .C = COLS,
                       .x = mat_tensor(x),
                       .gate_x = mat_tensor(x),
                       .gate_a = mat_tensor(x),
                       .a_param = mat_tensor(param),
                       .y = mat_tensor(y) };
    struct rope p = { .B = 1, .T = ROWS, .H = 2, .hd = COLS / 2, .R = 32, .base = 1e4, .x = mat_tensor(y) };

    ops_be->conv1d_fwd(&c);
    c.x = far(0);
    c.y = far(1);
    ops_be->conv1d_fwd(&c);
    check("conv1d", 1, y);
    s.work = ops_bytes(ops_be->ssd_work(&s));
    ops_be->ssd_fwd(&s);
    s.x = s.dt_raw = s.Bm = s.Cm = far(0);
    s.y = far(1);
    ops_be->ssd_fwd(&s);
    check("ssd", 1, y);
    ops_be->rglru_fwd(&g);
    g.x = g.gate_x = g.gate_a = far(0);
    g.y = far(1);
    ops_be->rglru_fwd(&g);
    check("rglru", 1, y);
    ops_be->rope(&p);
    p.x = far(1);
    ops_be->rope(&p);
    check("rope", 1, y);
    n.work = ops_bytes(ops_be->scan_work(&n));
    n.states = ops_bytes((size_t)(ROWS / 2 * COLS * 32) * sizeof(float));
    ops_be->scan_fwd(&n);
    n.x = n.dt_raw = n.Bm = n.Cm = far(0);
    n.y = far(1);
    ops_be->scan_fwd(&n);
    check("scan", 1, y);
    n.x = n.dt_raw = n.Bm = n.Cm = mat_tensor(x);
    ops_be->scan_bwd(&n);
    n.x = n.dt_raw = n.Bm = n.Cm = n.dy = far(0);
    n.dx = far(1);
    n.ddt_raw = far(2);
    n.dBm = far(3);
    n.dCm = far(4);
    ops_be->scan_bwd(&n);
    check("scan dx", 1, y);
    check("scan ddt_raw", 2, ddt);
    check("scan dB", 3, dB);
    check("scan dC", 4, dC);
    a.work = ops_bytes(ops_be->attn_work(&a));
    ops_be->attn_fwd(&a);
    a.q = a.k = a.v = far(0);
    a.o = far(1);
    ops_be->attn_fwd(&a);
    check("attn", 1, y);
}

void test_huge_rows(void **state)
{
    struct mat *x;

    (void)state;
    ops_seed(50);
    arena = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED) {
        fprintf(stderr, "skipped: ops: 2^31 elements: no address space here\n");
        skip();
    }
    x = mat_rand(ROWS, COLS, 0, -1, 1);
    fill(0, x);
    huge_points(x);
    huge_sequences(x);
    munmap(arena, BYTES);
}
