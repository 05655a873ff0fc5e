/* device_perf.c - tests/device --perf: what the ops cost on a device
 * SPDX-License-Identifier: MIT
 *
 * Shapes of the layers of released models, B rows of T tokens, in each dtype that the device has. A time is
 * the median over batches of calls, each between two of the device's marks. TFLOP/s and GB/s count what the op
 * must do (kernels/cost.h), not what it does. limit% is the part of what this device allows: the larger of the
 * times that the products take at the rate of an 8192^3 product and that the bytes take at the rate of a copy,
 * both measured first, by the time taken.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cost.h"
#include "device_trial.h"

#define RUNS 10
#define BATCH_S 1e-3
#define KEPT 64
#define BLOCK (4 << 20) /* bytes of random numbers, repeated */

static const char *only;
static enum dtype type;
static double product_rate, copy_rate; /* FLOP/s and bytes/s */
static void *kept[KEPT];
static int kept_count;
static bool short_of_memory; /* since the last forget() */

static bool wanted(const char *op) { return !only || strstr(op, only); }

static void *bytes(size_t n)
{
    void *p = kept_count < KEPT ? device_be->alloc(n) : NULL;

    if (p)
        kept[kept_count++] = p;
    else
        short_of_memory = true;
    return p;
}

static void forget(void)
{
    while (kept_count)
        device_be->free(kept[--kept_count]);
    short_of_memory = false;
}

/* Uniform numbers, as bf16 or fp32. */
static struct tensor filled(enum dtype d, int64_t rows, int64_t cols, double lo, double hi)
{
    size_t all = (size_t)(rows * cols) * device_size(d), part = all < BLOCK ? all : BLOCK;
    unsigned char *dev = bytes(all), *host = malloc(part + 4);

    for (size_t i = 0; host && i < part; i += device_size(d)) {
        float x = device_round((float)(lo + (hi - lo) * device_uniform()), d);
        uint32_t u;

        memcpy(&u, &x, 4);
        u >>= d == F32 ? 0 : 16;
        memcpy(host + i, &u, device_size(d)); /* little-endian */
    }
    if (dev && host)
        device_be->upload(dev, host, part);
    for (size_t done = part; dev && done < all; done += done < all - done ? done : all - done)
        device_be->copy(dev + done, dev, done < all - done ? done : all - done);
    free(host);
    return (struct tensor){ dev, cols, d };
}

static struct tensor act(int64_t rows, int64_t cols) { return filled(type, rows, cols, -1, 1); }
static struct tensor param(int64_t rows, int64_t cols, double lo, double hi)
{
    return filled(F32, rows, cols, lo, hi);
}
static float *floats(int64_t n) { return bytes((size_t)n * sizeof(float)); }

static struct tensor columns(struct tensor t, int64_t from)
{
    return (struct tensor){ (char *)t.data + (size_t)from * device_size(t.dtype), t.ld, t.dtype };
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Median time of a call, in seconds; a NaN where it failed. Calls stand in batches of at least BATCH_S, each as long as calls one after
 * the other take: a mark between two kernels costs as much as some of them. */
static double median(void (*f)(const void *), const void *arg)
{
    double time[RUNS];
    int mark[RUNS + 1];
    const char *fault;

    f(arg);
    mark[0] = device_be->mark(MARK_NEXT);
    f(arg);
    mark[1] = device_be->mark(MARK_NEXT);
    int calls = 1 + (int)(BATCH_S / fmax(device_be->between(mark[0], mark[1]), 1e-6));
    mark[0] = device_be->mark(MARK_NEXT);
    for (int i = 0; i < RUNS; i++) {
        for (int k = 0; k < calls; k++)
            f(arg);
        mark[i + 1] = device_be->mark(MARK_NEXT);
    }
    for (int i = 0; i < RUNS; i++)
        time[i] = device_be->between(mark[i], mark[i + 1]) / calls;
    fault = device_be->sync();
    if (fault)
        fprintf(stderr, "device: %s\n", fault);
    qsort(time, RUNS, sizeof *time, by_size);
    return fault ? NAN : (time[RUNS / 2 - 1] + time[RUNS / 2]) / 2;
}

static void column(bool known, const char *format, double x)
{
    putchar('\t');
    if (known)
        printf(format, x);
    else
        putchar('-');
}

/* tokens: 0 where there are none to speak of */
static void report(const char *op, const char *shape, double s, struct cost c, int64_t tokens)
{
    static const char *const dtype[] = { "f32", "bf16" };
    double least = fmax(c.flop > 0 ? c.flop / product_rate : 0, c.bytes / copy_rate);

    printf("%s\t%s\t%s\t%.4f", op, shape, dtype[type], s * 1e3);
    column(tokens > 0, "%.3f", s / (double)tokens * 1e9);
    column(c.flop > 0, "%.2f", c.flop / s * 1e-12);
    column(c.bytes > 0, "%.1f", c.bytes / s * 1e-9);
    column(least > 0 && isfinite(least), "%.1f", 100 * least / s);
    putchar('\n');
    fflush(stdout);
}

#define CALL(op, type)                                                                                       \
    static inline void call_##op(const void *a) { device_be->op((const struct type *)a); }
COST_OPS(CALL)

/* Times a call of an op and counts what it costs; returns the time. */
#define PERF(op, shape, arg, tokens) perf(#op, shape, call_##op, arg, cost_##op(arg), tokens)

static double perf(const char *op, const char *shape, void (*f)(const void *), const void *arg, struct cost c,
                   int64_t tokens)
{
    double s;

    if (!wanted(op))
        return 0;
    if (short_of_memory) {
        printf("# %s %s: not enough memory\n", op, shape);
        return NAN;
    }
    s = median(f, arg);
    report(op, shape, s, c, tokens);
    return s;
}

static void *work_of(const char *name, const void *a)
{
    size_t at, n = device_work(device_be, name, a, &at);

    return n ? bytes(n) : NULL;
}

/* ---- the limits ---- */

struct copying {
    char *to, *from;
    size_t n;
};

static void call_copy(const void *arg)
{
    const struct copying *c = arg;

    device_be->copy(c->to, c->from, c->n);
}

/* 4 GiB, or less where there is less. */
static void measure_copy(void)
{
    struct copying c = { NULL, NULL, (size_t)4 << 30 };
    char shape[40];
    double s;

    for (; c.n > 1 << 20; c.n /= 4) {
        c.to = bytes(c.n);
        c.from = bytes(c.n);
        if (!short_of_memory)
            break;
        forget();
    }
    s = median(call_copy, &c);
    copy_rate = 2 * (double)c.n / s;
    snprintf(shape, sizeof shape, "%zu MiB", c.n >> 20);
    report("copy", shape, s, (struct cost){ 0, 2 * (double)c.n, F32 }, 0);
    forget();
}

static struct matmul product(int64_t M, int64_t N, int64_t K, bool ta, bool tb)
{
    return (struct matmul){ .M = M,
                            .N = N,
                            .K = K,
                            .trans_a = ta,
                            .trans_b = tb,
                            .a = ta ? act(K, M) : act(M, K),
                            .b = tb ? act(N, K) : act(K, N),
                            .c = act(M, N) };
}

/* n: 8192, or less on what is not a GPU. */
static void measure_product(int64_t n)
{
    struct matmul a = product(n, n, n, false, true);
    char shape[40];
    double s = median(call_matmul, &a);

    product_rate = 2 * (double)n * (double)n * (double)n / s;
    snprintf(shape, sizeof shape, "limit %lld^3", (long long)n);
    report("matmul", shape, s, cost_matmul(&a), 0);
    forget();
}

/* ---- layers ---- */

/* A linear layer on M tokens: forward, to the input, to the weight (which is added to, in F32). */
static void perf_linear(const char *what, int64_t M, int64_t in, int64_t out)
{
    static const char *const pass[] = { "fwd", "dx", "dw" };

    if (!wanted("matmul"))
        return;
    for (int k = 0; k < 3; k++) {
        struct matmul a = k == 0   ? product(M, out, in, false, true)
                          : k == 1 ? product(M, in, out, false, false)
                                   : product(out, in, M, true, false);
        char shape[100];

        if (k == 2)
            a.c = a.add = param(out, in, 0, 0);
        snprintf(shape, sizeof shape, "%s %s %lldx%lldx%lld", what, pass[k], (long long)a.M, (long long)a.N,
                 (long long)a.K);
        PERF(matmul, shape, &a, M);
        forget();
    }
}

static void perf_norms(const char *what, int64_t M, int64_t D, int64_t E)
{
    struct norm n = { .M = M, .D = D, .eps = 1e-5, .accumulate_dx = true };
    struct gatednorm g = { .M = M, .D = E, .G = 1, .eps = 1e-5 };
    char shape[100];

    if (wanted("norm_fwd") || wanted("norm_bwd")) {
        n.x = act(M, D);
        n.w = param(1, D, 0.5, 1.5);
        n.y = act(M, D);
        n.dy = act(M, D);
        n.dx = act(M, D);
        n.dw = param(1, D, 0, 0);
        n.rstd = floats(M);
        n.work = work_of("norm", &n);
        snprintf(shape, sizeof shape, "%s %lldx%lld", what, (long long)M, (long long)D);
        PERF(norm_fwd, shape, &n, M);
        PERF(norm_bwd, shape, &n, M);
        forget();
    }
    if (E && (wanted("gatednorm_fwd") || wanted("gatednorm_bwd"))) {
        g.x = act(M, E);
        g.z = act(M, E);
        g.w = param(1, E, 0.5, 1.5);
        g.y = act(M, E);
        g.dy = act(M, E);
        g.dx = act(M, E);
        g.dz = act(M, E);
        g.dw = param(1, E, 0, 0);
        g.rstd = floats(M);
        g.work = work_of("gatednorm", &g);
        snprintf(shape, sizeof shape, "%s %lldx%lld", what, (long long)M, (long long)E);
        PERF(gatednorm_fwd, shape, &g, M);
        PERF(gatednorm_bwd, shape, &g, M);
        forget();
    }
}

/* The convolution of C columns of a matrix that is `ld` wide. */
static void perf_conv(const char *what, int64_t B, int64_t T, int64_t C, int64_t ld)
{
    struct conv1d a = { .B = B, .T = T, .C = C, .W = 4, .silu = true };
    char shape[100];

    if (!wanted("conv1d_fwd") && !wanted("conv1d_bwd"))
        return;
    a.x = act(B * T, ld);
    a.w = param(C, 4, -1, 1);
    a.bias = param(1, C, -1, 1);
    a.y = act(B * T, C);
    a.dy = act(B * T, C);
    a.dx = act(B * T, ld);
    a.dw = param(C, 4, 0, 0);
    a.dbias = param(1, C, 0, 0);
    a.work = work_of("conv1d", &a);
    snprintf(shape, sizeof shape, "%s %lldx%lldx%lld", what, (long long)B, (long long)T, (long long)C);
    PERF(conv1d_fwd, shape, &a, B * T);
    PERF(conv1d_bwd, shape, &a, B * T);
    forget();
}

static void perf_ssd(const char *what, int64_t B, int64_t T, int64_t H)
{
    const int64_t P = 64, N = 128, E = H * P, M = B * T;
    struct ssd a = { .B = B, .T = T, .H = H, .P = P, .G = 1, .N = N, .Q = 256, .dt_max = INFINITY };
    struct tensor wide, dwide;
    char shape[100], line[120];
    double both;

    if (!wanted("ssd_fwd") && !wanted("ssd_bwd"))
        return;
    a.x = wide = act(M, E + 2 * N);
    a.dx = dwide = act(M, E + 2 * N);
    a.Bm = columns(wide, E);
    a.Cm = columns(wide, E + N);
    a.dBm = columns(dwide, E);
    a.dCm = columns(dwide, E + N);
    a.dt_raw = act(M, H);
    a.ddt_raw = act(M, H);
    a.dt_bias = param(1, H, -4, -1);
    a.A_log = param(1, H, 0, 2.7);
    a.D = param(1, H, 0, 1);
    a.y = act(M, E);
    a.dy = act(M, E);
    a.states = act(B * ((T + a.Q - 1) / a.Q) * E, N);
    a.ddt_bias = param(1, H, 0, 0);
    a.dA_log = param(1, H, 0, 0);
    a.dD = param(1, H, 0, 0);
    a.work = work_of("ssd", &a);
    snprintf(shape, sizeof shape, "%s %lldx%lld H %lld P %lld N %lld", what, (long long)B, (long long)T,
             (long long)H, (long long)P, (long long)N);
    both = PERF(ssd_fwd, shape, &a, M);
    both += PERF(ssd_bwd, shape, &a, M);
    snprintf(line, sizeof line, "%s fwd+bwd", shape);
    if (wanted("ssd_fwd") && wanted("ssd_bwd")) {
        struct cost f = cost_ssd_fwd(&a), b = cost_ssd_bwd(&a);

        report("ssd", line, both, (struct cost){ f.flop + b.flop, f.bytes + b.bytes, f.dtype }, M);
    }
    forget();
}

static void perf_ends(const char *what, int64_t M, int64_t D, int64_t V)
{
    struct xent x = { .M = M, .D = D, .V = V - 11, .rows = V }; /* 50277 and its padding */
    struct embed e = { .M = M, .D = D, .V = V };
    int32_t *ids = malloc((size_t)M * sizeof *ids);
    char shape[100];

    if (ids && (wanted("xent") || wanted("embed_fwd") || wanted("embed_bwd"))) {
        int32_t *dev = bytes((size_t)M * sizeof *ids);

        for (int64_t m = 0; m < M; m++)
            ids[m] = (int32_t)device_below(V);
        if (dev)
            device_be->upload(dev, ids, (size_t)M * sizeof *ids);
        x.target = e.ids = dev;
        x.x = act(M, D);
        x.w = e.table = act(V, D);
        x.loss = floats(M);
        x.dx = e.dy = e.y = act(M, D);
        x.dw = e.dtable = param(V, D, 0, 0);
        x.work = work_of("xent", &x);
        e.work = work_of("embed", &e);
        snprintf(shape, sizeof shape, "%s M %lld D %lld V %lld", what, (long long)M, (long long)D,
                 (long long)V);
        PERF(embed_fwd, shape, &e, M);
        PERF(embed_bwd, shape, &e, M);
        PERF(xent, shape, &x, M);
    }
    free(ids);
    forget();
}

/* D model width, H heads of 64: layers of Mamba-2 as they were released. */
static void perf_mamba2(const char *what, int64_t B, int64_t T, int64_t D, int64_t H)
{
    int64_t E = 64 * H, rows = 2 * E + 2 * 128 + H, M = B * T;
    char name[60];

    snprintf(name, sizeof name, "%s in_proj", what);
    perf_linear(name, M, D, rows);
    snprintf(name, sizeof name, "%s out_proj", what);
    perf_linear(name, M, E, D);
    perf_norms(what, M, D, E);
    perf_conv(what, B, T, E + 256, (rows + 63) / 64 * 64); /* as the model lays them out */
    perf_ssd(what, B, T, H);
    perf_ends(what, M, D, 50288);
}

static void perf_scan(const char *what, int64_t B, int64_t T, int64_t C, int64_t N)
{
    struct scan a = { .B = B, .T = T, .C = C, .N = N, .Q = 64 };
    int64_t M = B * T;
    char shape[100];

    if (!wanted("scan_fwd") && !wanted("scan_bwd"))
        return;
    a.x = act(M, C);
    a.dt_raw = act(M, C);
    a.Bm = act(M, 2 * N);
    a.Cm = columns(a.Bm, N);
    a.A_log = param(C, N, 0, 2.7);
    a.dt_bias = param(1, C, -6, -2);
    a.D = param(1, C, 0, 1);
    a.y = act(M, C);
    a.dy = act(M, C);
    a.dx = act(M, C);
    a.ddt_raw = act(M, C);
    a.dBm = act(M, 2 * N);
    a.dCm = columns(a.dBm, N);
    a.ddt_bias = param(1, C, 0, 0);
    a.dA_log = param(C, N, 0, 0);
    a.dD = param(1, C, 0, 0);
    a.states = floats(B * ((T + a.Q - 1) / a.Q) * C * N);
    a.work = work_of("scan", &a);
    snprintf(shape, sizeof shape, "%s %lldx%lld C %lld N %lld", what, (long long)B, (long long)T,
             (long long)C, (long long)N);
    PERF(scan_fwd, shape, &a, M);
    PERF(scan_bwd, shape, &a, M);
    forget();
}

static void perf_rglru(const char *what, int64_t B, int64_t T, int64_t C)
{
    struct rglru a = { .B = B, .T = T, .C = C };
    int64_t M = B * T;
    char shape[100];

    if (!wanted("rglru_fwd") && !wanted("rglru_bwd"))
        return;
    a.x = act(M, C);
    a.gate_x = act(M, C);
    a.gate_a = act(M, C);
    a.a_param = param(1, C, -9, -4);
    a.y = act(M, C);
    a.dy = act(M, C);
    a.dx = act(M, C);
    a.dgate_x = act(M, C);
    a.dgate_a = act(M, C);
    a.da_param = param(1, C, 0, 0);
    a.work = work_of("rglru", &a);
    snprintf(shape, sizeof shape, "%s %lldx%lld C %lld", what, (long long)B, (long long)T, (long long)C);
    PERF(rglru_fwd, shape, &a, M);
    PERF(rglru_bwd, shape, &a, M);
    forget();
}

static void perf_attn(int64_t B, int64_t T, int64_t Hq, int64_t Hkv, int64_t hd, int64_t window)
{
    struct attn a = { .B = B,
                      .T = T,
                      .S = T,
                      .Smax = T,
                      .Hq = Hq,
                      .Hkv = Hkv,
                      .hd = hd,
                      .window = window,
                      .scale = 1 / sqrt((double)hd) };
    struct rope r = { .B = B, .T = T, .H = Hq, .hd = hd, .R = hd, .base = 1e4 };
    int64_t M = B * T;
    char shape[100];

    if (!wanted("attn_fwd") && !wanted("attn_bwd") && !wanted("rope"))
        return;
    a.q = r.x = act(M, Hq * hd);
    a.k = act(M, Hkv * hd);
    a.v = act(M, Hkv * hd);
    a.o = act(M, Hq * hd);
    a.lse = floats(B * Hq * T);
    a.dout = act(M, Hq * hd);
    a.dq = act(M, Hq * hd);
    a.dk = act(M, Hkv * hd);
    a.dv = act(M, Hkv * hd);
    a.work = work_of("attn", &a);
    snprintf(shape, sizeof shape, "%lldx%lld heads %lld/%lld hd %lld window %lld", (long long)B, (long long)T,
             (long long)Hq, (long long)Hkv, (long long)hd, (long long)window);
    PERF(attn_fwd, shape, &a, M);
    PERF(attn_bwd, shape, &a, M);
    PERF(rope, shape, &r, M);
    forget();
}

static void perf_act(const char *what, int64_t M, int64_t D, enum act kind)
{
    struct activation a = { .kind = kind, .M = M, .D = D, .cap = 2 };
    char shape[100];

    if (!wanted("act_fwd") && !wanted("act_bwd"))
        return;
    a.x = act(M, D);
    a.u = act(M, D);
    a.y = act(M, D);
    a.dy = act(M, D);
    a.dx = act(M, D);
    a.du = act(M, D);
    snprintf(shape, sizeof shape, "%s gated %lldx%lld", what, (long long)M, (long long)D);
    PERF(act_fwd, shape, &a, M);
    PERF(act_bwd, shape, &a, M);
    forget();
}

static void perf_adamw(int64_t n)
{
    struct adamw a = {
        .n = n, .step = 5, .lr = 1e-4, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1
    };
    char shape[60];

    if (!wanted("adamw") && !wanted("total"))
        return;
    a.grad = param(1, n, -1, 1).data;
    a.p = param(1, n, -1, 1).data;
    a.m = param(1, n, -1, 1).data;
    a.v = param(1, n, 0, 1).data;
    if (type == BF16)
        a.half = bytes((size_t)n * 2);
    snprintf(shape, sizeof shape, "%lld million", (long long)(n / 1000000));
    PERF(adamw, shape, &a, 0);
    struct total t = { .n = n, .square = true, .x = a.grad, .sum = bytes(sizeof(double)) };
    PERF(total, shape, &t, 0);
    forget();
}

static void perf_cast(int64_t n)
{
    struct cast a = { .M = n / 4096, .D = 4096 };

    if (type == F32 || !wanted("cast"))
        return;
    a.x = param(a.M, a.D, -1, 1);
    a.y = act(a.M, a.D);
    PERF(cast, "f32 to bf16, 256 Mi", &a, 0);
    forget();
}

void device_perf(const char *which)
{
    bool host = strcmp(device_be->name, "cpu") == 0; /* then few tokens, to see that it works */
    int64_t part = host ? 64 : 1;
    struct device_info info;

    only = which;
    device_be->info(&info);
    device_seed(1);
    printf("# %s: %s\n# op\tshape\tdtype\tms\tns/token\tTFLOP/s\tGB/s\tlimit%%\n", device_be->name,
           info.name);
    for (int d = BF16; d >= F32; d--) {
        type = (enum dtype)d;
        if (!(device_be->dtypes & 1u << type))
            continue;
        measure_copy();
        measure_product(host ? 1024 : 8192);
        perf_mamba2("mamba2-130m", 16, 2048 / part, 768, 24);
        perf_mamba2("mamba2-1.3b", 4, 4096 / part, 2048, 64);
        perf_mamba2("mamba2-2.7b", 4, 4096 / part, 2560, 80);
        perf_scan("mamba-2.8b", 4, 4096 / part, 5120, 16);
        perf_act("silu", 4 * 4096 / part, 5120, ACT_SILU);
        perf_rglru("recurrentgemma-2b", 4, 4096 / part, 2560);
        perf_act("gelu_tanh", 4 * 4096 / part, 7680, ACT_GELU_TANH);
        perf_attn(4, 4096 / part, 32, 8, 128, 0);
        perf_attn(1, 32768 / part, 32, 8, 128, 0);
        perf_attn(4, 4096 / part, 10, 1, 256, 2048 / part);
        perf_cast((256 << 20) / part);
        perf_adamw(130000000 / part);
        perf_adamw(1300000000 / part);
    }
}
