/* ops_perf.c - tests/ops --perf: what the ops cost
 * SPDX-License-Identifier: MIT
 *
 * Shapes: one layer of mamba2-130m on 1 x 1024 tokens, and of the demo model on 1 x 512; of RecurrentGemma-2B
 * and a small one of its kind. GFLOP/s and GB/s count what the op must do (kernels/cost.h), not what it does. Times are
 * the fastest of several runs.
 * "share" is the part of the best rate of a matrix product (of a layer's shapes, by the faster of two libraries),
 * measured in the same process.
 */
#include <dlfcn.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cost.h"
#include "ops.h"

static double sgemm_rate; /* FLOP/s */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Fastest call of f(arg), from as many as fit in about 0.2 s, at least three after a warm-up. */
static double fastest(void (*f)(void *), void *arg)
{
    double best = INFINITY, begin;

    f(arg);
    begin = now();
    for (int i = 0; i < 3 || now() - begin < 0.2; i++) {
        double t = now();

        f(arg);
        t = now() - t;
        best = t < best ? t : best;
    }
    return best;
}

static void report(const char *op, const char *shape, double s, struct cost c)
{
    printf("%-14s %-34s %9.3f", op, shape, s * 1e3);
    if (c.flop > 0)
        printf(" %9.1f %6.0f", c.flop / s * 1e-9, 100 * c.flop / s / sgemm_rate);
    else
        printf(" %9s %6s", "-", "-");
    printf(" %8.1f\n", c.bytes / s * 1e-9);
}

static struct tensor rnd(int64_t rows, int64_t cols, double lo, double hi)
{
    float *p = ops_bytes((size_t)(rows * cols) * sizeof(float));

    for (int64_t i = 0; i < rows * cols; i++)
        p[i] = (float)(lo + (hi - lo) * ops_uniform());
    return tensor_f32(p, cols);
}

#define CALL(op, type)                                                                                       \
    static inline void call_##op(void *a) { ops_be->op((const struct type *)a); }
COST_OPS(CALL)

/* Times an op and counts what the call costs. */
#define PERF(op, shape, arg) report(#op, shape, fastest(call_##op, arg), cost_##op(arg))

static void perf_matmul(const char *what, int64_t M, int64_t N, int64_t K, bool ta, bool tb)
{
    struct matmul a = { .M = M,
                        .N = N,
                        .K = K,
                        .trans_a = ta,
                        .trans_b = tb,
                        .a = ta ? rnd(K, M, -1, 1) : rnd(M, K, -1, 1),
                        .b = tb ? rnd(N, K, -1, 1) : rnd(K, N, -1, 1),
                        .c = rnd(M, N, -1, 1) };
    char shape[64];

    snprintf(shape, sizeof(shape), "%s %lldx%lldx%lld%s%s", what, (long long)M, (long long)N, (long long)K,
             ta ? " ta" : "", tb ? " tb" : "");
    PERF(matmul, shape, &a);
}

/* The other library, if this machine has it: its cblas_sgemm, or NULL. It picks its kernel by the name of the
 * CPU, and may not know a new one: tests/perf/train.sh tells it by the CPU's flags. */
typedef void cblas_fn(int, int, int, int, int, int, float, const float *, int, const float *, int, float, float *, int);
static cblas_fn *other_sgemm;

static void other_matmul(void *arg)
{
    const struct matmul *a = arg;

    other_sgemm(101, a->trans_a ? 112 : 111, a->trans_b ? 112 : 111, (int)a->M, (int)a->N, (int)a->K, 1,
                a->a.data, (int)a->a.ld, a->b.data, (int)a->b.ld, 0, a->c.data, (int)a->c.ld);
}

/* The rate of a layer's three products: 1024 tokens of mamba2-130m through in_proj, forward and backward. */
static double rate_of(void (*f)(void *))
{
    const int64_t M = 1024, N = 3352, K = 768;
    struct tensor x = rnd(M, K, -1, 1), w = rnd(N, K, -1, 1), y = rnd(M, N, -1, 1), dx = rnd(M, K, 0, 0);
    struct tensor dw = rnd(N, K, 0, 0), out = rnd(M, N, 0, 0);
    struct matmul kind[3] = { { .M = M, .N = N, .K = K, .trans_b = true, .a = x, .b = w, .c = out },
                              { .M = M, .N = K, .K = N, .a = y, .b = w, .c = dx },
                              { .M = N, .N = K, .K = M, .trans_a = true, .a = y, .b = x, .c = dw } };
    double best = 0;

    for (int i = 0; i < 3; i++)
        best = fmax(best, 2.0 * (double)M * (double)N * (double)K / fastest(f, &kind[i]));
    return best;
}

/* The faster of the two libraries is the limit. */
static void measure_sgemm(void)
{
    void *lib = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    double one = rate_of(call_matmul), other = 0;
    char *(*core)(void) = NULL;

    if (lib) {
        void *f = dlsym(lib, "cblas_sgemm"), *g = dlsym(lib, "openblas_get_corename");

        memcpy(&other_sgemm, &f, sizeof(f)); /* ISO C has no cast from object to function */
        memcpy(&core, &g, sizeof(g));
        other = other_sgemm ? rate_of(other_matmul) : 0;
    }
    sgemm_rate = fmax(one, other);
    printf("# variant %s, %d threads, sgemm %.1f GFLOP/s: oneDNN %.1f", ops_be->variant, omp_get_max_threads(),
           sgemm_rate * 1e-9, one * 1e-9);
    if (other > 0)
        printf(", OpenBLAS (%s) %.1f\n", core ? core() : "?", other * 1e-9);
    else
        printf(", OpenBLAS is not on this machine\n");
    ops_teardown(NULL);
}

/* One Mamba-2 layer's ops, D model width, H heads of P, N state, T tokens. */
static void perf_layer(int64_t T, int64_t D, int64_t H, int64_t P, int64_t N, int64_t Q, int64_t V)
{
    int64_t E = H * P, C = E + 2 * N, rows = 2 * E + 2 * N + H;
    char shape[64];
    struct norm rms = { .M = T,
                           .D = D,
                           .eps = 1e-5,
                           .x = rnd(T, D, -1, 1),
                           .w = rnd(1, D, 0, 1),
                           .y = rnd(T, D, 0, 0),
                           .dy = rnd(T, D, -1, 1),
                           .dx = rnd(T, D, 0, 0),
                           .dw = rnd(1, D, 0, 0) };
    struct gatednorm gn = { .M = T,
                            .D = E,
                            .G = 1,
                            .eps = 1e-5,
                            .x = rnd(T, E, -1, 1),
                            .z = rnd(T, E, -1, 1),
                            .w = rnd(1, E, 0, 1),
                            .y = rnd(T, E, 0, 0),
                            .dy = rnd(T, E, -1, 1),
                            .dx = rnd(T, E, 0, 0),
                            .dz = rnd(T, E, 0, 0),
                            .dw = rnd(1, E, 0, 0) };
    struct conv1d cv = { .B = 1,
                         .T = T,
                         .C = C,
                         .W = 4,
                         .silu = true,
                         .x = rnd(T, C, -1, 1),
                         .w = rnd(C, 4, -1, 1),
                         .bias = rnd(1, C, -1, 1),
                         .y = rnd(T, C, 0, 0),
                         .halo = rnd(3, C, -1, 1),
                         .dy = rnd(T, C, -1, 1),
                         .dx = rnd(T, C, 0, 0),
                         .dw = rnd(C, 4, 0, 0),
                         .dbias = rnd(1, C, 0, 0) };
    struct ssd sd = { .B = 1,
                      .T = T,
                      .H = H,
                      .P = P,
                      .G = 1,
                      .N = N,
                      .Q = Q,
                      .dt_max = INFINITY,
                      .x = rnd(T, C, -1, 1),
                      .dt_raw = rnd(T, H, -1, 1),
                      .dt_bias = rnd(1, H, -4, -1),
                      .A_log = rnd(1, H, 0, 2.7),
                      .D = rnd(1, H, 0, 1),
                      .y = rnd(T, E, 0, 0),
                      .h0 = rnd(E, N, -1, 1),
                      .dy = rnd(T, E, -1, 1),
                      .dx = rnd(T, C, 0, 0),
                      .ddt_raw = rnd(T, H, 0, 0),
                      .ddt_bias = rnd(1, H, 0, 0),
                      .dA_log = rnd(1, H, 0, 0),
                      .dD = rnd(1, H, 0, 0) };
    struct xent xe = { .M = T, .D = D, .V = V, .x = rnd(T, D, -1, 1), .w = rnd(V, D, -1, 1) };
    struct embed em = { .M = T,
                        .D = D,
                        .V = V,
                        .table = xe.w,
                        .y = rnd(T, D, 0, 0),
                        .dy = rnd(T, D, 0, 0),
                        .dtable = rnd(V, D, 0, 0) };
    int32_t *ids = ops_bytes((size_t)T * sizeof(*ids));

    perf_matmul("one token", 1, rows, D, false, true);
    perf_matmul("in_proj fwd", T, rows, D, false, true);
    perf_matmul("in_proj dx", T, D, rows, false, false);
    perf_matmul("in_proj dw", rows, D, T, true, false);
    perf_matmul("out_proj fwd", T, D, E, false, true);

    snprintf(shape, sizeof(shape), "T %lld D %lld", (long long)T, (long long)D);
    rms.rstd = ops_bytes((size_t)T * sizeof(float));
    rms.work = ops_bytes(ops_be->norm_work(&rms));
    PERF(norm_fwd, shape, &rms);
    PERF(norm_bwd, shape, &rms);
    rms.center = true;
    rms.mean = ops_bytes((size_t)T * sizeof(float));
    rms.bias = rnd(1, D, -1, 1);
    rms.dbias = rnd(1, D, 0, 0);
    snprintf(shape, sizeof(shape), "layernorm T %lld D %lld", (long long)T, (long long)D);
    PERF(norm_fwd, shape, &rms);
    PERF(norm_bwd, shape, &rms);

    snprintf(shape, sizeof(shape), "T %lld D %lld", (long long)T, (long long)E);
    gn.rstd = ops_bytes((size_t)T * sizeof(float));
    gn.work = ops_bytes(ops_be->gatednorm_work(&gn));
    PERF(gatednorm_fwd, shape, &gn);
    PERF(gatednorm_bwd, shape, &gn);

    snprintf(shape, sizeof(shape), "T %lld C %lld W 4", (long long)T, (long long)C);
    cv.work = ops_bytes(ops_be->conv1d_work(&cv));
    PERF(conv1d_fwd, shape, &cv);
    PERF(conv1d_bwd, shape, &cv);
    PERF(conv1d_step, "one token", &cv);

    snprintf(shape, sizeof(shape), "T %lld H %lld P %lld N %lld Q %lld", (long long)T, (long long)H,
             (long long)P, (long long)N, (long long)Q);
    sd.Bm = tensor_f32((float *)sd.x.data + E, C);
    sd.Cm = tensor_f32((float *)sd.x.data + E + N, C);
    sd.dBm = tensor_f32((float *)sd.dx.data + E, C);
    sd.dCm = tensor_f32((float *)sd.dx.data + E + N, C);
    sd.states = tensor_f32(ops_bytes((size_t)((T + Q - 1) / Q * E * N) * sizeof(float)), N);
    sd.work = ops_bytes(ops_be->ssd_work(&sd));
    PERF(ssd_fwd, shape, &sd);
    PERF(ssd_bwd, shape, &sd);
    PERF(ssd_step, "one token", &sd);

    snprintf(shape, sizeof(shape), "M %lld D %lld V %lld", (long long)T, (long long)D, (long long)V);
    for (int64_t m = 0; m < T; m++)
        ids[m] = (int32_t)ops_below(V);
    xe.target = em.ids = ids;
    xe.loss = ops_bytes((size_t)T * sizeof(float));
    xe.work = ops_bytes(ops_be->xent_work(&xe));
    report("xent (eval)", shape, fastest(call_xent, &xe), cost_xent(&xe));
    xe.dx = rnd(T, D, 0, 0);
    xe.dw = em.dtable;
    PERF(xent, shape, &xe);
    PERF(embed_fwd, shape, &em);
    PERF(embed_bwd, shape, &em);
    ops_teardown(NULL);
}

/* Mamba-1's scan. share% is the part of what the vector units can do (cost.c). */
static void perf_scan(int64_t T, int64_t C, int64_t N, int64_t Q)
{
    double each = (double)T * (double)C * (double)N;
    struct scan s = { .B = 1,
                      .T = T,
                      .C = C,
                      .N = N,
                      .Q = Q,
                      .x = rnd(T, C, -1, 1),
                      .dt_raw = rnd(T, C, -1, 1),
                      .Bm = rnd(T, 2 * N, -1, 1),
                      .A_log = rnd(C, N, 0, 2.7),
                      .dt_bias = rnd(1, C, -6, -2),
                      .D = rnd(1, C, 0, 1),
                      .h0 = rnd(C, N, -1, 1),
                      .y = rnd(T, C, 0, 0),
                      .dy = rnd(T, C, -1, 1),
                      .dx = rnd(T, C, 0, 0),
                      .ddt_raw = rnd(T, C, 0, 0),
                      .dBm = rnd(T, 2 * N, 0, 0),
                      .ddt_bias = rnd(1, C, 0, 0),
                      .dA_log = rnd(C, N, 0, 0),
                      .dD = rnd(1, C, 0, 0) };
    double fwd, bwd;
    char shape[64];

    s.Cm = tensor_f32((float *)s.Bm.data + N, 2 * N);
    s.dCm = tensor_f32((float *)s.dBm.data + N, 2 * N);
    s.states = ops_bytes((size_t)((T + Q - 1) / Q * C * N) * sizeof(float));
    s.work = ops_bytes(ops_be->scan_work(&s));
    fwd = fastest(call_scan_fwd, &s);
    bwd = fastest(call_scan_bwd, &s);
    snprintf(shape, sizeof(shape), "T %lld C %lld N %lld Q %lld", (long long)T, (long long)C, (long long)N,
             (long long)Q);
    report("scan_fwd", shape, fwd, cost_scan_fwd(&s));
    report("scan_bwd", shape, bwd, cost_scan_bwd(&s));
    PERF(scan_step, "one token", &s);
    printf("# ns per element of the scan: forward %.3f, limit %.3f; backward %.3f, limit %.3f\n",
           fwd / each * 1e9, 30 / sgemm_rate * 1e9, bwd / each * 1e9, 44 / sgemm_rate * 1e9);
    ops_teardown(NULL);
}

static void perf_attn(int64_t B, int64_t T, int64_t Hq, int64_t Hkv, int64_t hd, int64_t window,
                      double softcap)
{
    struct attn a = { .B = B,
                      .T = T,
                      .S = T,
                      .Smax = T,
                      .Hq = Hq,
                      .Hkv = Hkv,
                      .hd = hd,
                      .window = window,
                      .scale = 1 / sqrt((double)hd),
                      .softcap = softcap,
                      .q = rnd(B * T, Hq * hd, -1, 1),
                      .k = rnd(B * T, Hkv * hd, -1, 1),
                      .v = rnd(B * T, Hkv * hd, -1, 1),
                      .o = rnd(B * T, Hq * hd, 0, 0),
                      .dout = rnd(B * T, Hq * hd, -1, 1),
                      .dq = rnd(B * T, Hq * hd, 0, 0),
                      .dk = rnd(B * T, Hkv * hd, 0, 0),
                      .dv = rnd(B * T, Hkv * hd, 0, 0) };
    char shape[64];
    int n = snprintf(shape, sizeof(shape), "%lldx%lld heads %lld/%lld hd %lld", (long long)B, (long long)T,
                     (long long)Hq, (long long)Hkv, (long long)hd);

    if (window)
        n += snprintf(shape + n, sizeof(shape) - (size_t)n, " win %lld", (long long)window);
    if (softcap > 0)
        snprintf(shape + n, sizeof(shape) - (size_t)n, " cap %.0f", softcap);
    a.lse = ops_bytes((size_t)(B * Hq * T) * sizeof(float));
    a.work = ops_bytes(ops_be->attn_work(&a));
    PERF(attn_fwd, shape, &a);
    PERF(attn_bwd, shape, &a);
    a.T = 1;
    a.q0 = T - 1;
    PERF(attn_step, "one token", &a);
    ops_teardown(NULL);
}

struct copy {
    struct tensor to, from;
    int64_t rows;
};

/* What memory gives: all threads copy. */
static void call_copy(void *arg)
{
    const struct copy *c = arg;

#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < c->rows; r++)
        memcpy((float *)c->to.data + r * c->to.ld, (const float *)c->from.data + r * c->from.ld,
               (size_t)c->to.ld * sizeof(float));
}

/* The recurrent half of a Griffin layer, C channels, and the positions of its attention, H heads of hd; beside the
 * copy of as many tensors as rglru_fwd touches. The shape says what an element costs, in ns. */
static void perf_griffin(int64_t T, int64_t C, int64_t H, int64_t hd)
{
    struct rglru a = { .B = 1,
                       .T = T,
                       .C = C,
                       .x = rnd(T, C, -1, 1),
                       .gate_x = rnd(T, C, -3, 3),
                       .gate_a = rnd(T, C, -3, 3),
                       .a_param = rnd(1, C, -9, -4),
                       .h0 = rnd(1, C, -1, 1),
                       .y = rnd(T, C, 0, 0),
                       .dy = rnd(T, C, -1, 1),
                       .dx = rnd(T, C, 0, 0),
                       .dgate_x = rnd(T, C, 0, 0),
                       .dgate_a = rnd(T, C, 0, 0),
                       .da_param = rnd(1, C, 0, 0) };
    struct rope p = { .B = 1, .T = T, .H = H, .hd = hd, .R = hd / 2, .base = 1e4, .x = rnd(T, H * hd, -1, 1) };
    struct copy c = { rnd(2 * T, C, 0, 0), rnd(2 * T, C, -1, 1), 2 * T };
    const struct {
        const char *op;
        void (*f)(void *);
        void *arg;
        int64_t T, C; /* elements */
        struct cost cost;
    } line[] = {
        { "copy", call_copy, &c, 2 * T, C, { 0, 16 * (double)(T * C), F32 } },
        { "rglru_fwd", call_rglru_fwd, &a, T, C, cost_rglru_fwd(&a) },
        { "rglru_bwd", call_rglru_bwd, &a, T, C, cost_rglru_bwd(&a) },
        { "rglru_step", call_rglru_step, &a, 1, C, cost_rglru_step(&a) },
        { "rope", call_rope, &p, T, H * hd, cost_rope(&p) },
    };

    a.work = ops_bytes(ops_be->rglru_work(&a));
    for (size_t i = 0; i < sizeof(line) / sizeof(line[0]); i++) {
        double s = fastest(line[i].f, line[i].arg);
        char shape[64];

        snprintf(shape, sizeof(shape), "T %lld C %lld, %.2f ns each", (long long)line[i].T, (long long)line[i].C,
                 s / (double)(line[i].T * line[i].C) * 1e9);
        report(line[i].op, shape, s, line[i].cost);
    }
    ops_teardown(NULL);
}

static void perf_points(int64_t M, int64_t D, int64_t n)
{
    static const char *const name[] = { "gelu", "gelu_tanh", "relu2", "silu", "softcap" };
    struct activation a = { .M = M,
                            .D = D,
                            .cap = 2,
                            .x = rnd(M, D, -3, 3),
                            .y = rnd(M, D, 0, 0),
                            .dy = rnd(M, D, -1, 1),
                            .dx = rnd(M, D, 0, 0) };
    struct adamw w = {
        .n = n, .step = 5, .lr = 1e-4, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1
    };
    char shape[64];

    for (int k = 0; k < 5; k++) {
        a.kind = (enum act)k;
        snprintf(shape, sizeof(shape), "%s %lldx%lld", name[k], (long long)M, (long long)D);
        PERF(act_fwd, shape, &a);
        PERF(act_bwd, shape, &a);
    }
    a.u = rnd(M, D, -1, 1);
    a.du = rnd(M, D, 0, 0);
    for (int k = ACT_GELU_TANH; k <= ACT_SILU; k += ACT_SILU - ACT_GELU_TANH) {
        a.kind = (enum act)k;
        snprintf(shape, sizeof(shape), "%s gated %lldx%lld", name[k], (long long)M, (long long)D);
        PERF(act_fwd, shape, &a);
        PERF(act_bwd, shape, &a);
    }
    w.grad = rnd(1, n, -1, 1).data;
    w.p = rnd(1, n, -1, 1).data;
    w.m = rnd(1, n, -1, 1).data;
    w.v = rnd(1, n, 0, 1).data;
    snprintf(shape, sizeof(shape), "n %lld", (long long)n);
    PERF(adamw, shape, &w);
    double sum;
    struct total t = { .n = n, .square = true, .x = w.p, .sum = &sum };
    PERF(total, shape, &t);
    ops_teardown(NULL);
}

void ops_perf(void)
{
    ops_seed(1);
    measure_sgemm();
    printf("# %-12s %-34s %9s %9s %6s %8s\n", "op", "shape", "ms", "GFLOP/s", "share%", "GB/s");
    perf_layer(1024, 768, 24, 64, 128, 256, 50288);
    perf_layer(512, 256, 8, 64, 64, 64, 257);
    perf_attn(1, 1024, 12, 12, 64, 0, 0);
    perf_attn(8, 512, 4, 4, 64, 0, 0); /* gpt-demo */
    perf_attn(1, 2048, 32, 8, 128, 0, 0);
    for (int64_t T = 1024; T <= 4096; T *= 2) /* time is linear in T */
        perf_attn(1, T, 10, 1, 256, 512, 0);
    perf_attn(1, 1024, 12, 12, 64, 0, 50);
    perf_griffin(1024, 2560, 10, 256);
    perf_griffin(512, 256, 4, 64);
    perf_scan(1024, 1536, 16, 64);
    perf_points(1024, 3072, 16 << 20);
}
