/* device_point.c - device against CPU: norms, activations, convolution, rotary positions
 * SPDX-License-Identifier: MIT
 */
#include <math.h>

#include "device_trial.h"

struct norm_options {
    bool bias, in_place, nan;
    double offset; /* added to x: a mean that is large beside the deviation */
};

static void norm_case(const struct setting *s, struct norm a, struct norm_options o)
{
    trial_begin(s, "M %d D %d%s%s%s%s%s%s offset %g", (int)a.M, (int)a.D, a.center ? " center" : "",
                a.plus_one ? " plus_one" : "", a.accumulate_dx ? " accumulate" : "", o.bias ? " bias" : "",
                o.in_place ? " dx is dy" : "", o.nan ? " NaN" : "", o.offset);
    a.eps = 1e-5;
    TEN(norm, x, RES, a.M, a.D, IN, IN, o.offset - 2, o.offset + 2);
    TEN(norm, w, FLT, 1, a.D, IN, IN, 0.5, 1.5);
    if (o.bias) {
        TEN(norm, bias, FLT, 1, a.D, IN, NO, -1, 1);
        TEN(norm, dbias, FLT, 1, a.D, NO, INOUT, -1, 1);
    }
    TEN(norm, y, ACT, a.M, a.D, OUT, NO, 0, 0);
    PTR(norm, rstd, FLT, a.M, 1, OUT, IN, 0, 0);
    if (a.center)
        PTR(norm, mean, FLT, a.M, 1, OUT, IN, 0, 0);
    TEN(norm, dy, ACT, a.M, a.D, NO, o.in_place ? INOUT : IN, -1, 1);
    if (o.in_place)
        ALIAS(norm, dx, "dy");
    else
        TEN(norm, dx, RES, a.M, a.D, NO, a.accumulate_dx ? INOUT : OUT, -1, 1);
    TEN(norm, dw, FLT, 1, a.D, NO, INOUT, -1, 1);
    if (o.nan)
        trial_values("x")[a.D * (a.M / 2)] = NAN;
    trial_run(&a, "norm", "norm_fwd", "norm_bwd");
}

static void norm_cases(const struct setting *s)
{
    static const int64_t shape[][2] = { { 1, 2 },    { 5, 8 },    { 67, 33 }, { 9, 256 },
                                        { 3, 1000 }, { 130, 64 }, { 2, 2560 } };

    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int k = i % 2; k < 8; k += 2) {
            struct norm a = { .M = shape[i][0],
                              .D = shape[i][1],
                              .center = k & 2,
                              .plus_one = k & 4,
                              .accumulate_dx = (size_t)k / 2 % 2 == i % 2 };

            norm_case(s, a, (struct norm_options){ .bias = k & 1, .offset = i == 4 && k & 2 ? 30 : 0 });
        }
    norm_case(s, (struct norm){ .M = 6, .D = 40, .accumulate_dx = true },
              (struct norm_options){ .nan = true });
    norm_case(s, (struct norm){ .M = 6, .D = 40, .center = true }, (struct norm_options){ .nan = true });
    if (s->act == s->res)
        norm_case(s, (struct norm){ .M = 11, .D = 48 }, (struct norm_options){ .in_place = true });
}

void dev_norm(void **state)
{
    (void)state;
    device_seed(10);
    each_setting(norm_cases, true);
}

static void gatednorm_case(const struct setting *s, int64_t M, int64_t D, int64_t G, bool nan)
{
    struct gatednorm a = { .M = M, .D = D, .G = G, .eps = 1e-5 };

    trial_begin(s, "M %d D %d G %d%s", (int)M, (int)D, (int)G, nan ? " NaN" : "");
    TEN(gatednorm, x, ACT, M, D, IN, IN, -2, 2);
    TEN(gatednorm, z, ACT, M, D, IN, IN, -4, 4);
    TEN(gatednorm, w, FLT, 1, D, IN, IN, 0.5, 1.5);
    TEN(gatednorm, y, ACT, M, D, OUT, NO, 0, 0);
    PTR(gatednorm, rstd, FLT, M, G, OUT, IN, 0, 0);
    TEN(gatednorm, dy, ACT, M, D, NO, IN, -1, 1);
    TEN(gatednorm, dx, ACT, M, D, NO, OUT, 0, 0);
    TEN(gatednorm, dz, ACT, M, D, NO, OUT, 0, 0);
    TEN(gatednorm, dw, FLT, 1, D, NO, INOUT, -1, 1);
    if (nan)
        trial_values("z")[D * (M / 2)] = NAN;
    trial_run(&a, "gatednorm", "gatednorm_fwd", "gatednorm_bwd");
}

static void gatednorm_cases(const struct setting *s)
{
    gatednorm_case(s, 1, 2, 1, false);
    gatednorm_case(s, 7, 33, 1, false);
    gatednorm_case(s, 67, 64, 8, false);
    gatednorm_case(s, 5, 1536, 1, false);
    gatednorm_case(s, 10, 36, 4, false);
    gatednorm_case(s, 4, 1024, 2, false);
    gatednorm_case(s, 6, 40, 2, true);
}

void dev_gatednorm(void **state)
{
    (void)state;
    device_seed(11);
    each_setting(gatednorm_cases, false);
}

static void act_case(const struct setting *s, struct activation a, bool gated, int place, bool nan)
{
    static const char *const name[] = { "gelu", "gelu_tanh", "relu2", "silu", "softcap" };
    static const char *const where[] = { "", " dx is dy", " du is dy" };

    a.cap = 2;
    trial_begin(s, "%s %dx%d%s%s%s", name[a.kind], (int)a.M, (int)a.D, gated ? " gated" : "", where[place],
                nan ? " NaN" : "");
    TEN(activation, x, ACT, a.M, a.D, IN, IN, -6, 6);
    if (gated)
        TEN(activation, u, ACT, a.M, a.D, IN, IN, -2, 2);
    TEN(activation, y, ACT, a.M, a.D, OUT, NO, 0, 0);
    TEN(activation, dy, ACT, a.M, a.D, NO, place ? INOUT : IN, -1, 1);
    if (place == 1)
        ALIAS(activation, dx, "dy");
    else
        TEN(activation, dx, ACT, a.M, a.D, NO, OUT, 0, 0);
    if (gated && place == 2)
        ALIAS(activation, du, "dy");
    else if (gated)
        TEN(activation, du, ACT, a.M, a.D, NO, OUT, 0, 0);
    if (nan) {
        trial_values("x")[1] = NAN;
        trial_values("x")[a.D + 2] = INFINITY;
        trial_values("x")[a.D + 3] = -INFINITY;
    }
    trial_run(&a, "activation", "act_fwd", "act_bwd");
}

static void act_on_itself(const struct setting *s, enum act kind)
{
    struct activation a = { .kind = kind, .M = 9, .D = 44, .cap = 3 };

    trial_begin(s, "kind %d y is x", (int)kind);
    TEN(activation, x, ACT, a.M, a.D, INOUT, NO, -6, 6);
    ALIAS(activation, y, "x");
    trial_run(&a, "activation", "act_fwd", NULL);
}

static void act_cases(const struct setting *s)
{
    for (int k = ACT_GELU; k <= ACT_SOFTCAP; k++)
        for (int gated = 0; gated < 2; gated++) {
            enum act kind = (enum act)k;

            act_case(s, (struct activation){ .kind = kind, .M = 1, .D = 1 }, gated, 0, false);
            act_case(s, (struct activation){ .kind = kind, .M = 37, .D = 27 }, gated, 0, false);
            act_case(s, (struct activation){ .kind = kind, .M = 3, .D = 520 }, gated, 1, false);
            act_case(s, (struct activation){ .kind = kind, .M = 16, .D = 64 }, gated, gated ? 2 : 1, false);
            act_case(s, (struct activation){ .kind = kind, .M = 2, .D = 24 }, gated, 0, true);
            act_on_itself(s, kind);
        }
}

void dev_act(void **state)
{
    (void)state;
    device_seed(12);
    each_setting(act_cases, false);
}

struct conv_options {
    enum documents documents;
    bool bias, halo, nan;
};

static void conv_fields(const struct conv1d *a, const struct conv_options *o)
{
    int64_t rows = a->B * a->T, before = a->B * (a->W - 1);

    TEN(conv1d, x, ACT, rows, a->C, IN, IN, -1, 1);
    TEN(conv1d, w, FLT, a->C, a->W, IN, IN, -1, 1);
    TEN(conv1d, y, ACT, rows, a->C, OUT, NO, 0, 0);
    TEN(conv1d, dy, ACT, rows, a->C, NO, IN, -1, 1);
    TEN(conv1d, dx, ACT, rows, a->C, NO, OUT, 0, 0);
    TEN(conv1d, dw, FLT, a->C, a->W, NO, INOUT, -1, 1);
    if (o->bias) {
        TEN(conv1d, bias, FLT, 1, a->C, IN, IN, -1, 1);
        TEN(conv1d, dbias, FLT, 1, a->C, NO, INOUT, -1, 1);
    }
    if (o->halo) {
        TEN(conv1d, halo, FLT, before, a->C, IN, IN, -1, 1);
        TEN(conv1d, halo_out, FLT, before, a->C, OUT, NO, 0, 0);
        TEN(conv1d, dhalo, FLT, before, a->C, NO, OUT, 0, 0);
    }
}

static void conv_case(const struct setting *s, struct conv1d a, struct conv_options o)
{
    trial_begin(s, "B %d T %d C %d W %d%s%s%s%s documents %d", (int)a.B, (int)a.T, (int)a.C, (int)a.W,
                a.silu ? " silu" : "", o.bias ? " bias" : "", o.halo ? " halo" : "", o.nan ? " NaN" : "",
                o.documents);
    conv_fields(&a, &o);
    if (o.documents != DOC_NULL) {
        PTR(conv1d, start, INT, a.B, a.T, IN, IN, 0, 0);
        make_documents(trial_values("start"), a.B, a.T, 16, o.documents);
    }
    if (o.nan) {
        trial_nan_spreads(); /* to the gradients of what it is multiplied by 0 with */
        trial_values("x")[a.C * (a.T / 2)] = NAN;
    }
    trial_run(&a, "conv1d", "conv1d_fwd", "conv1d_bwd");
}

static void conv_step(const struct setting *s, int64_t B, int64_t C, int64_t W, bool bias)
{
    struct conv1d a = { .B = B, .T = 1, .C = C, .W = W, .silu = bias };

    trial_begin(s, "B %d C %d W %d%s", (int)B, (int)C, (int)W, bias ? " bias silu" : "");
    TEN(conv1d, x, ACT, B, C, IN, NO, -1, 1);
    TEN(conv1d, w, FLT, C, W, IN, NO, -1, 1);
    if (bias)
        TEN(conv1d, bias, FLT, 1, C, IN, NO, -1, 1);
    TEN(conv1d, y, ACT, B, C, OUT, NO, 0, 0);
    TEN(conv1d, halo, FLT, B * (W - 1), C, INOUT, NO, -1, 1);
    trial_run(&a, "conv1d", "conv1d_step", NULL);
}

static void conv_cases(const struct setting *s)
{
    static const struct {
        int64_t B, T, C, W;
    } shape[] = { { 1, 1, 1, 4 },  { 2, 3, 9, 4 },  { 1, 70, 40, 4 }, { 2, 33, 64, 4 },
                  { 3, 17, 5, 2 }, { 1, 20, 8, 8 }, { 2, 9, 16, 1 } };

    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int d = DOC_NULL; d < DOCUMENTS; d++) {
            struct conv1d a = { .B = shape[i].B,
                                .T = shape[i].T,
                                .C = shape[i].C,
                                .W = shape[i].W,
                                .silu = (size_t)d % 2 == i % 2 };

            if (d == DOC_NULL || i == 2 || (size_t)d % 3 == i % 3)
                conv_case(s, a,
                          (struct conv_options){ (enum documents)d, d % 3 > 0, d < 6 && a.W > 1, false });
        }
    conv_case(s, (struct conv1d){ .B = 1, .T = 30, .C = 12, .W = 4, .silu = true },
              (struct conv_options){ .bias = true, .nan = true });
    conv_step(s, 1, 1, 4, false);
    conv_step(s, 3, 70, 4, true);
    conv_step(s, 2, 16, 1, true);
    conv_step(s, 2, 33, 8, false);
}

void dev_conv1d(void **state)
{
    (void)state;
    device_seed(13);
    each_setting(conv_cases, false);
}

static void rope_case(const struct setting *s, struct rope a, enum documents d)
{
    int64_t rows = a.rows ? a.rows : a.T;

    a.base = 1e4;
    trial_begin(s, "B %d T %d H %d hd %d R %d rows %d pos0 %d%s documents %d", (int)a.B, (int)a.T, (int)a.H,
                (int)a.hd, (int)a.R, (int)a.rows, (int)a.pos0, a.inverse ? " inverse" : "", d);
    TEN(rope, x, ACT, a.B * rows, a.H * a.hd, INOUT, NO, -1, 1);
    if (d != DOC_NULL) {
        PTR(rope, start, INT, a.B, a.T, IN, NO, 0, 0);
        make_documents(trial_values("start"), a.B, a.T, 16, d);
    }
    trial_run(&a, "rope", "rope", NULL);
}

static void rope_cases(const struct setting *s)
{
    rope_case(s, (struct rope){ .B = 1, .T = 1, .H = 1, .hd = 2, .R = 2 }, DOC_NULL);
    rope_case(s, (struct rope){ .B = 2, .T = 5, .H = 3, .hd = 10, .R = 6, .pos0 = 7 }, DOC_NULL);
    rope_case(s, (struct rope){ .B = 2, .T = 5, .H = 3, .hd = 64, .R = 0 }, DOC_NULL);
    for (int d = DOC_NULL; d < DOCUMENTS; d++)
        rope_case(s,
                  (struct rope){ .B = 2,
                                 .T = 35,
                                 .H = 2,
                                 .hd = 32,
                                 .R = d % 2 ? 32 : 16,
                                 .rows = d % 3 ? 40 : 0,
                                 .pos0 = 3,
                                 .inverse = d & 1 },
                  (enum documents)d);
    rope_case(s, (struct rope){ .B = 1, .T = 4, .H = 1, .hd = 64, .R = 64, .pos0 = 100000 }, DOC_NULL);
}

void dev_rope(void **state)
{
    (void)state;
    device_seed(14);
    each_setting(rope_cases, false);
}
