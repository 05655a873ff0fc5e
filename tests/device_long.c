/* device_long.c - one long sequence through the mixing of a large Mamba-2 layer, against the CPU on some heads
 * SPDX-License-Identifier: MIT
 *
 * d_model 4096, 128 heads of 64, 8 groups, state 128, 1 x 262144 tokens: the widest tensor has 4.9e9 elements. The rows repeat
 * after 4099, a prime, so that a row at a wrong place (offsets cut to 32 bits are off by a power of two) is another
 * row. What a head makes of its inputs does not depend on the other heads, but for the gradients of B and C.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "device_trial.h"

enum { H = 128, P = 64, G = 8, N = 128, Q = 256, W = 4, PERIOD = 4099, E = H * P, C = E + 2 * G * N, PROJ = E + C + H };
static const int64_t T = 262144;

struct tokens {
    struct tensor proj, conv, y, dy, dconv, dproj, states;
    float *conv_w, *conv_b, *dt_bias, *A_log, *D;           /* on the device */
    float host_w[C * W], host_b[C], host_dt[H], host_A[H], host_D[H];
    uint16_t *row, *drow;                                   /* [PERIOD,PROJ] and [PERIOD,E] of proj and dy, bf16 */
};

static void *room(size_t bytes)
{
    void *p = device_be->alloc(bytes);
    if (!p)
        fail_msg("no %zu MiB on the device", bytes >> 20);
    return p;
}

static struct tensor rows(int64_t n, int64_t cols) { return (struct tensor){ room((size_t)(n * cols) * 2), cols, BF16 }; }

static struct tensor columns(struct tensor t, int64_t from)
{
    t.data = (char *)t.data + from * (t.dtype == BF16 ? 2 : 4);
    return t;
}

static float value(uint16_t bits)
{
    union {
        uint32_t u;
        float f;
    } v = { (uint32_t)bits << 16 };
    return v.f;
}

static uint16_t drawn(double lo, double hi)
{
    union {
        float f;
        uint32_t u;
    } v = { device_round((float)(lo + (hi - lo) * device_uniform()), BF16) };
    return (uint16_t)(v.u >> 16);
}

/* The first PERIOD rows, again and again. */
static void repeat(struct tensor t, const uint16_t *first)
{
    size_t bytes = (size_t)t.ld * 2;
    device_be->upload(t.data, first, PERIOD * bytes);
    for (int64_t r = PERIOD; r < T; r += PERIOD) {
        int64_t n = T - r < PERIOD ? T - r : PERIOD;
        device_be->copy((char *)t.data + (size_t)r * bytes, t.data, (size_t)n * bytes);
    }
}

static float *parameters(float *host, int64_t n, double lo, double hi)
{
    float *p = room((size_t)n * 4);
    for (int64_t i = 0; i < n; i++)
        host[i] = (float)(lo + (hi - lo) * device_uniform());
    device_be->upload(p, host, (size_t)n * 4);
    return p;
}

static struct conv1d conv_of(struct tokens *k)
{
    return (struct conv1d){ .B = 1, .T = T, .C = C, .W = W, .silu = true, .x = columns(k->proj, E), .w = tensor_f32(k->conv_w, W),
                            .bias = tensor_f32(k->conv_b, C), .y = k->conv, .dy = k->dconv, .dx = columns(k->dproj, E) };
}

static struct ssd ssd_of(struct tokens *k)
{
    return (struct ssd){ .B = 1, .T = T, .H = H, .P = P, .G = G, .N = N, .Q = Q, .dt_max = INFINITY, .x = k->conv,
                         .Bm = columns(k->conv, E), .Cm = columns(k->conv, E + G * N), .dt_raw = columns(k->proj, E + C),
                         .dt_bias = tensor_f32(k->dt_bias, H), .A_log = tensor_f32(k->A_log, H), .D = tensor_f32(k->D, H),
                         .y = k->y, .states = k->states, .dy = k->dy, .dx = k->dconv, .dBm = columns(k->dconv, E),
                         .dCm = columns(k->dconv, E + G * N), .ddt_raw = columns(k->dproj, E + C) };
}

/* Columns of a tensor of the device, as floats on the host. */
static float *fetch(struct tensor t, int64_t from, int64_t n)
{
    float *flat = room((size_t)(T * n) * 4), *host = malloc((size_t)(T * n) * 4);
    assert_non_null(host);
    device_be->cast(&(struct cast){ .M = T, .D = n, .x = columns(t, from), .y = tensor_f32(flat, n) });
    device_be->download(host, flat, (size_t)(T * n) * 4);
    device_be->free(flat);
    return host;
}

static float *host_floats(int64_t n)
{
    float *p = calloc((size_t)n, 4);
    assert_non_null(p);
    return p;
}

/* Columns of the input, on the host. */
static float *input(const uint16_t *first, int64_t ld, int64_t from, int64_t n)
{
    float *p = host_floats(T * n);
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < n; i++)
            p[t * n + i] = value(first[t % PERIOD * ld + from + i]);
    return p;
}

/* The convolution of some channels, rounded as the device stores it. */
static float *convolved(const struct tokens *k, float *x, int64_t from, int64_t n, struct conv1d *op)
{
    const struct backend *cpu = backend_cpu();
    float *y = host_floats(T * n);
    *op = (struct conv1d){ .B = 1, .T = T, .C = n, .W = W, .silu = true, .x = tensor_f32(x, n), .w = tensor_f32(k->host_w + from * W, W),
                           .bias = tensor_f32(k->host_b + from, n), .y = tensor_f32(y, n) };
    cpu->conv1d_fwd(op);
    for (int64_t i = 0; i < T * n; i++)
        y[i] = device_round(y[i], BF16);
    return y;
}

/* bf16 operands of products and results: errors of some 2^-9 of the largest, as in the short cases of ssd. */
static void compare(const char *what, int64_t head, float *device, float *cpu, int64_t n)
{
    double most = 0, worst = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < T * n; i++) {
        double d = fabs((double)device[i] - (double)cpu[i]);
        most = fmax(most, fabs((double)cpu[i]));
        if (!(d <= worst)) {
            worst = d;
            at = i;
        }
    }
    printf("# long: %s of head %d: largest difference %.3g of the largest, at token %lld\n", what, (int)head, worst / most,
           (long long)(at / n));
    if (!(worst <= 0.016 * most))
        fail_msg("%s of head %d, token %lld: %g, on the CPU %g (largest %g)", what, (int)head, (long long)(at / n),
                 (double)device[at], (double)cpu[at], most);
    free(device);
    free(cpu);
}

static void check_head(struct tokens *k, int64_t h)
{
    const struct backend *cpu = backend_cpu();
    int64_t g = h / (H / G), b0 = E + g * N, c0 = E + G * N + g * N;
    struct conv1d cx, cb, cc;
    float *px = input(k->row, PROJ, E + h * P, P), *pb = input(k->row, PROJ, E + b0, N), *pc = input(k->row, PROJ, E + c0, N);
    float *x = convolved(k, px, h * P, P, &cx), *Bm = convolved(k, pb, b0, N, &cb), *Cm = convolved(k, pc, c0, N, &cc);
    float *dt = input(k->row, PROJ, E + C + h, 1), *dy = input(k->drow, E, h * P, P);
    float *y = host_floats(T * P), *dx = host_floats(T * P), *ddt = host_floats(T), *dB = host_floats(T * N), *dC = host_floats(T * N);
    float *states = host_floats((T + Q - 1) / Q * P * N), sum[3] = { 0 }, *dproj = host_floats(T * P), *dw = host_floats(P * (W + 1));
    struct ssd s = { .B = 1, .T = T, .H = 1, .P = P, .G = 1, .N = N, .Q = Q, .dt_max = INFINITY, .x = tensor_f32(x, P), .dt_raw = tensor_f32(dt, 1),
                     .Bm = tensor_f32(Bm, N), .Cm = tensor_f32(Cm, N), .dt_bias = tensor_f32(k->host_dt + h, 1), .A_log = tensor_f32(k->host_A + h, 1),
                     .D = tensor_f32(k->host_D + h, 1), .y = tensor_f32(y, P), .states = tensor_f32(states, N), .dy = tensor_f32(dy, P),
                     .dx = tensor_f32(dx, P), .ddt_raw = tensor_f32(ddt, 1), .dBm = tensor_f32(dB, N), .dCm = tensor_f32(dC, N),
                     .ddt_bias = tensor_f32(sum, 1), .dA_log = tensor_f32(sum + 1, 1), .dD = tensor_f32(sum + 2, 1) };
    s.work = malloc(cpu->ssd_work(&s));
    cpu->ssd_fwd(&s);
    cpu->ssd_bwd(&s);
    free(s.work);
    cx.dy = tensor_f32(dx, P);
    cx.dx = tensor_f32(dproj, P);
    cx.dw = tensor_f32(dw, W);
    cx.dbias = tensor_f32(dw + P * W, P);
    cx.work = malloc(cpu->conv1d_work(&cx));
    cpu->conv1d_bwd(&cx);
    free(cx.work);
    compare("y", h, fetch(k->y, h * P, P), y, P);
    compare("gradient of x", h, fetch(k->dproj, E + h * P, P), dproj, P);
    compare("gradient of dt", h, fetch(k->dproj, E + C + h, 1), ddt, 1);
    float *all[] = { px, pb, pc, x, Bm, Cm, dt, dy, dx, dB, dC, states, dw };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

void dev_long(void **state)
{
    struct tokens *k = calloc(1, sizeof *k);
    (void)state;
    if (!(device_be->dtypes & 1u << BF16))
        skip();
    assert_non_null(k);
    device_seed(77);
    k->row = malloc((size_t)PERIOD * PROJ * 2);
    k->drow = malloc((size_t)PERIOD * E * 2);
    assert_true(k->row && k->drow);
    for (int64_t i = 0; i < (int64_t)PERIOD * PROJ; i++)
        k->row[i] = drawn(-1, 1);
    for (int64_t i = 0; i < (int64_t)PERIOD * E; i++)
        k->drow[i] = drawn(-1, 1);
    k->conv_w = parameters(k->host_w, C * W, -0.5, 0.5);
    k->conv_b = parameters(k->host_b, C, -0.1, 0.1);
    k->dt_bias = parameters(k->host_dt, H, -5, -1);
    k->A_log = parameters(k->host_A, H, 0, 2.7);
    k->D = parameters(k->host_D, H, 0.5, 1.5);
    k->proj = rows(T, PROJ);
    k->dproj = rows(T, PROJ);
    k->conv = rows(T, C);
    k->dconv = rows(T, C);
    k->y = rows(T, E);
    k->dy = rows(T, E);
    k->states = rows((T + Q - 1) / Q * H * P, N);
    repeat(k->proj, k->row);
    repeat(k->dy, k->drow);

    struct conv1d cv = conv_of(k);
    struct ssd s = ssd_of(k);
    float *sums = room((size_t)(3 * H + C * (W + 1)) * 4);
    s.ddt_bias = tensor_f32(sums, H);
    s.dA_log = tensor_f32(sums + H, H);
    s.dD = tensor_f32(sums + 2 * H, H);
    cv.dw = tensor_f32(sums + 3 * H, W);
    cv.dbias = tensor_f32(sums + 3 * H + C * W, C);
    size_t work = device_be->ssd_work(&s), other = device_be->conv1d_work(&cv);
    s.work = cv.work = room(work > other ? work : other);
    device_be->conv1d_fwd(&cv);
    device_be->ssd_fwd(&s);
    device_be->ssd_bwd(&s);
    device_be->conv1d_bwd(&cv);
    assert_null(device_be->sync());
    for (int64_t h = 0; h < H; h += 63) /* the first, one in the middle, one near the end */
        check_head(k, h);
    void *all[] = { k->proj.data, k->dproj.data, k->conv.data, k->dconv.data, k->y.data, k->dy.data, k->states.data,
                    k->conv_w, k->conv_b, k->dt_bias, k->A_log, k->D, sums, s.work };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        device_be->free(all[i]);
    free(k->row);
    free(k->drow);
    free(k);
}
