/* device_sequence.c - device against CPU: the recurrences, ssd, scan and rglru
 * SPDX-License-Identifier: MIT
 */
#include <math.h>

#include "device_trial.h"

struct options {
    enum documents documents;
    bool h0, nan;
    bool clamp, no_states; /* ssd */
};

static void documents_field(size_t at, int64_t B, int64_t T, int64_t edge, enum documents d)
{
    if (d == DOC_NULL)
        return;
    trial_field("start", at, false, INT, B, T, IN, IN, 0, 0);
    make_documents(trial_values("start"), B, T, edge, d);
}

/* bf16: what goes into a product of matrices (decayed scores, states, dt x) is rounded to bf16, 2^-9 of each
 * factor; a sum of such terms is off by some of them, and gradients by the decays are differences of sums. */
static const struct limits products = { 2e-5, 0x1p-7, 0x1p-7 };

static void ssd_inputs(const struct ssd *a, enum role bwd)
{
    TEN(ssd, x, ACT, a->B * a->T, a->H * a->P, IN, bwd, -1, 1);
    TEN(ssd, dt_raw, ACT, a->B * a->T, a->H, IN, bwd, -1, 1);
    TEN(ssd, Bm, ACT, a->B * a->T, a->G * a->N, IN, bwd, -1, 1);
    TEN(ssd, Cm, ACT, a->B * a->T, a->G * a->N, IN, bwd, -1, 1);
    TEN(ssd, dt_bias, FLT, 1, a->H, IN, bwd, -4, -1);
    TEN(ssd, A_log, FLT, 1, a->H, IN, bwd, 0, 2.7);
    TEN(ssd, D, FLT, 1, a->H, IN, bwd, 0, 1);
    TEN(ssd, y, ACT, a->B * a->T, a->H * a->P, OUT, NO, 0, 0);
}

static void ssd_gradients(const struct ssd *a)
{
    TEN(ssd, dy, ACT, a->B * a->T, a->H * a->P, NO, IN, -1, 1);
    TEN(ssd, dx, ACT, a->B * a->T, a->H * a->P, NO, OUT, 0, 0);
    TEN(ssd, ddt_raw, ACT, a->B * a->T, a->H, NO, OUT, 0, 0);
    TEN(ssd, dBm, ACT, a->B * a->T, a->G * a->N, NO, OUT, 0, 0);
    TEN(ssd, dCm, ACT, a->B * a->T, a->G * a->N, NO, OUT, 0, 0);
    TEN(ssd, ddt_bias, FLT, 1, a->H, NO, INOUT, -1, 1);
    TEN(ssd, dA_log, FLT, 1, a->H, NO, INOUT, -1, 1);
    TEN(ssd, dD, FLT, 1, a->H, NO, INOUT, -1, 1);
}

static void ssd_case(const struct setting *s, struct ssd a, struct options o)
{
    int64_t chunks = (a.T + a.Q - 1) / a.Q, state = a.B * a.H * a.P;

    a.dt_max = o.clamp ? 0.3 : INFINITY;
    a.dt_min = o.clamp ? 0.05 : 0;
    trial_begin(s, "B %d T %d H %d P %d G %d N %d Q %d documents %d%s%s%s%s", (int)a.B, (int)a.T, (int)a.H,
                (int)a.P, (int)a.G, (int)a.N, (int)a.Q, o.documents, o.h0 ? " h0" : "",
                o.clamp ? " clamp" : "", o.no_states ? " no states" : "", o.nan ? " NaN" : "");
    trial_limits(products);
    ssd_inputs(&a, IN);
    documents_field(offsetof(struct ssd, start), a.B, a.T, a.Q, o.documents);
    if (!o.no_states)
        TEN(ssd, states, ACT, a.B * chunks * a.H * a.P, a.N, OUT, IN, 0, 0);
    if (o.h0) {
        TEN(ssd, h0, FLT, state, a.N, IN, IN, -1, 1);
        TEN(ssd, hT, FLT, state, a.N, OUT, NO, 0, 0);
        TEN(ssd, dhT, FLT, state, a.N, NO, IN, -1, 1);
        TEN(ssd, dh0, FLT, state, a.N, NO, OUT, 0, 0);
    }
    ssd_gradients(&a);
    if (o.nan) {
        trial_nan_spreads(); /* through products with masked zeros */
        trial_values("x")[a.H * a.P * (a.T / 2)] = NAN;
    }
    trial_run(&a, "ssd", "ssd_fwd", o.no_states ? NULL : "ssd_bwd");
}

/* The state is moved on where it lies. */
static void ssd_in_place(const struct setting *s, struct ssd a, bool step)
{
    a.dt_max = INFINITY;
    trial_begin(s, "B %d T %d H %d P %d G %d N %d hT is h0", (int)a.B, (int)a.T, (int)a.H, (int)a.P, (int)a.G,
                (int)a.N);
    trial_limits(products);
    ssd_inputs(&a, NO);
    TEN(ssd, h0, FLT, a.B * a.H * a.P, a.N, INOUT, NO, -1, 1);
    if (!step)
        ALIAS(ssd, hT, "h0");
    trial_run(&a, "ssd", step ? "ssd_step" : "ssd_fwd", NULL);
}

static void ssd_cases(const struct setting *s)
{
    static const struct ssd shape[] = {
        { .B = 1, .T = 1, .H = 1, .P = 1, .G = 1, .N = 1, .Q = 1 },
        { .B = 2, .T = 19, .H = 2, .P = 3, .G = 1, .N = 5, .Q = 8 },
        { .B = 1, .T = 50, .H = 4, .P = 16, .G = 2, .N = 16, .Q = 16 },
        { .B = 2, .T = 33, .H = 3, .P = 8, .G = 3, .N = 24, .Q = 32 },
        { .B = 1, .T = 70, .H = 2, .P = 64, .G = 1, .N = 64, .Q = 64 },
    };

    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int d = DOC_NULL; d < DOCUMENTS; d++)
            if (i == 2 || (size_t)d % 3 == i % 3 || (i < 4 && d == DOC_EDGES))
                ssd_case(s, shape[i],
                         (struct options){ .documents = (enum documents)d,
                                           .h0 = d != DOC_NULL || i % 2,
                                           .clamp = d == DOC_RANDOM });
    ssd_case(s, shape[2], (struct options){ .no_states = true });
    ssd_case(s, shape[1], (struct options){ .nan = true });
    /* of real models: one chunk and a bit of mamba2's heads; longer chunks than the tokens */
    ssd_case(s, (struct ssd){ .B = 1, .T = 66, .H = 2, .P = 64, .G = 1, .N = 128, .Q = 256 },
             (struct options){ .h0 = true });
    ssd_in_place(s, shape[2], false);
    ssd_in_place(s, (struct ssd){ .B = 1, .T = 1, .H = 1, .P = 1, .G = 1, .N = 1, .Q = 1 }, true);
    ssd_in_place(s, (struct ssd){ .B = 3, .T = 1, .H = 4, .P = 16, .G = 2, .N = 40, .Q = 64 }, true);
    ssd_in_place(s, (struct ssd){ .B = 1, .T = 1, .H = 2, .P = 64, .G = 1, .N = 128, .Q = 256 }, true);
}

void dev_ssd(void **state)
{
    (void)state;
    device_seed(20);
    each_setting(ssd_cases, false);
}

static void scan_inputs(const struct scan *a, enum role bwd)
{
    TEN(scan, x, ACT, a->B * a->T, a->C, IN, bwd, -1, 1);
    TEN(scan, dt_raw, ACT, a->B * a->T, a->C, IN, bwd, -1, 1);
    TEN(scan, Bm, ACT, a->B * a->T, a->N, IN, bwd, -1, 1);
    TEN(scan, Cm, ACT, a->B * a->T, a->N, IN, bwd, -1, 1);
    TEN(scan, A_log, FLT, a->C, a->N, IN, bwd, 0, 2.7);
    TEN(scan, dt_bias, FLT, 1, a->C, IN, bwd, -4, -1);
    TEN(scan, D, FLT, 1, a->C, IN, bwd, 0, 1);
    TEN(scan, y, ACT, a->B * a->T, a->C, OUT, NO, 0, 0);
}

static void scan_case(const struct setting *s, struct scan a, struct options o)
{
    int64_t chunks = (a.T + a.Q - 1) / a.Q;

    trial_begin(s, "B %d T %d C %d N %d Q %d documents %d%s%s%s", (int)a.B, (int)a.T, (int)a.C, (int)a.N,
                (int)a.Q, o.documents, o.h0 ? " h0" : "", o.no_states ? " no states" : "",
                o.nan ? " NaN" : "");
    scan_inputs(&a, IN);
    documents_field(offsetof(struct scan, start), a.B, a.T, a.Q, o.documents);
    if (!o.no_states)
        PTR(scan, states, FLT, a.B * chunks * a.C, a.N, OUT, IN, 0, 0);
    if (o.h0) {
        TEN(scan, h0, FLT, a.B * a.C, a.N, IN, IN, -1, 1);
        TEN(scan, hT, FLT, a.B * a.C, a.N, OUT, NO, 0, 0);
        TEN(scan, dhT, FLT, a.B * a.C, a.N, NO, IN, -1, 1);
        TEN(scan, dh0, FLT, a.B * a.C, a.N, NO, OUT, 0, 0);
    }
    TEN(scan, dy, ACT, a.B * a.T, a.C, NO, IN, -1, 1);
    TEN(scan, dx, ACT, a.B * a.T, a.C, NO, OUT, 0, 0);
    TEN(scan, ddt_raw, ACT, a.B * a.T, a.C, NO, OUT, 0, 0);
    TEN(scan, dBm, ACT, a.B * a.T, a.N, NO, OUT, 0, 0);
    TEN(scan, dCm, ACT, a.B * a.T, a.N, NO, OUT, 0, 0);
    TEN(scan, ddt_bias, FLT, 1, a.C, NO, INOUT, -1, 1);
    TEN(scan, dA_log, FLT, a.C, a.N, NO, INOUT, -1, 1);
    TEN(scan, dD, FLT, 1, a.C, NO, INOUT, -1, 1);
    if (o.nan) {
        trial_nan_spreads();
        trial_values("x")[a.C * (a.T / 2)] = NAN;
    }
    trial_run(&a, "scan", "scan_fwd", o.no_states ? NULL : "scan_bwd");
}

static void scan_in_place(const struct setting *s, struct scan a, bool step)
{
    trial_begin(s, "B %d T %d C %d N %d hT is h0", (int)a.B, (int)a.T, (int)a.C, (int)a.N);
    scan_inputs(&a, NO);
    TEN(scan, h0, FLT, a.B * a.C, a.N, INOUT, NO, -1, 1);
    if (!step)
        ALIAS(scan, hT, "h0");
    trial_run(&a, "scan", step ? "scan_step" : "scan_fwd", NULL);
}

static void scan_cases(const struct setting *s)
{
    static const struct scan shape[] = {
        { .B = 1, .T = 1, .C = 1, .N = 1, .Q = 1 },     { .B = 2, .T = 19, .C = 5, .N = 3, .Q = 8 },
        { .B = 2, .T = 50, .C = 33, .N = 16, .Q = 16 }, { .B = 1, .T = 70, .C = 64, .N = 16, .Q = 64 },
        { .B = 1, .T = 10, .C = 8, .N = 32, .Q = 64 },
    };

    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int d = DOC_NULL; d < DOCUMENTS; d++)
            if (i == 1 || (size_t)d % 3 == i % 3 || (i < 3 && d == DOC_EDGES))
                scan_case(s, shape[i],
                          (struct options){ .documents = (enum documents)d, .h0 = d != DOC_NULL || i % 2 });
    scan_case(s, shape[2], (struct options){ .no_states = true });
    scan_case(s, shape[1], (struct options){ .nan = true });
    scan_in_place(s, shape[1], false);
    scan_in_place(s, (struct scan){ .B = 1, .T = 1, .C = 1, .N = 1, .Q = 1 }, true);
    scan_in_place(s, (struct scan){ .B = 3, .T = 1, .C = 70, .N = 16, .Q = 64 }, true);
}

void dev_scan(void **state)
{
    (void)state;
    device_seed(21);
    each_setting(scan_cases, false);
}

static void rglru_inputs(const struct rglru *a, enum role bwd)
{
    TEN(rglru, x, ACT, a->B * a->T, a->C, IN, bwd, -1, 1);
    TEN(rglru, gate_x, ACT, a->B * a->T, a->C, IN, bwd, -3, 3);
    TEN(rglru, gate_a, ACT, a->B * a->T, a->C, IN, bwd, -3, 3);
    TEN(rglru, a_param, FLT, 1, a->C, IN, bwd, -9, 0);
    TEN(rglru, y, ACT, a->B * a->T, a->C, OUT, bwd, 0, 0);
}

static void rglru_case(const struct setting *s, struct rglru a, struct options o)
{
    trial_begin(s, "B %d T %d C %d documents %d%s%s", (int)a.B, (int)a.T, (int)a.C, o.documents,
                o.h0 ? " h0" : "", o.nan ? " NaN" : "");
    rglru_inputs(&a, IN);
    documents_field(offsetof(struct rglru, start), a.B, a.T, 16, o.documents);
    if (o.h0) {
        TEN(rglru, h0, FLT, a.B, a.C, IN, IN, -1, 1);
        TEN(rglru, hT, FLT, a.B, a.C, OUT, NO, 0, 0);
        TEN(rglru, dhT, FLT, a.B, a.C, NO, IN, -1, 1);
        TEN(rglru, dh0, FLT, a.B, a.C, NO, OUT, 0, 0);
    }
    TEN(rglru, dy, ACT, a.B * a.T, a.C, NO, IN, -1, 1);
    TEN(rglru, dx, ACT, a.B * a.T, a.C, NO, OUT, 0, 0);
    TEN(rglru, dgate_x, ACT, a.B * a.T, a.C, NO, OUT, 0, 0);
    TEN(rglru, dgate_a, ACT, a.B * a.T, a.C, NO, OUT, 0, 0);
    TEN(rglru, da_param, FLT, 1, a.C, NO, INOUT, -1, 1);
    if (o.nan) {
        trial_nan_spreads();
        trial_values("x")[a.C * (a.T / 2)] = NAN;
    }
    trial_run(&a, "rglru", "rglru_fwd", "rglru_bwd");
}

static void rglru_in_place(const struct setting *s, struct rglru a, bool step)
{
    trial_begin(s, "B %d T %d C %d hT is h0", (int)a.B, (int)a.T, (int)a.C);
    rglru_inputs(&a, NO);
    TEN(rglru, h0, FLT, a.B, a.C, INOUT, NO, -1, 1);
    if (!step)
        ALIAS(rglru, hT, "h0");
    trial_run(&a, "rglru", step ? "rglru_step" : "rglru_fwd", NULL);
}

static void rglru_cases(const struct setting *s)
{
    static const struct rglru shape[] = { { .B = 1, .T = 1, .C = 1 },
                                          { .B = 2, .T = 33, .C = 9 },
                                          { .B = 1, .T = 300, .C = 20 },
                                          { .B = 3, .T = 64, .C = 40 } };

    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int d = DOC_NULL; d < DOCUMENTS; d++)
            if (i == 1 || (size_t)d % 3 == i % 3 || d == DOC_EDGES)
                rglru_case(s, shape[i],
                           (struct options){ .documents = (enum documents)d, .h0 = d != DOC_NULL || i % 2 });
    rglru_case(s, shape[1], (struct options){ .nan = true });
    rglru_in_place(s, shape[1], false);
    rglru_in_place(s, (struct rglru){ .B = 3, .T = 1, .C = 70 }, true);
    rglru_in_place(s, (struct rglru){ .B = 1, .T = 1, .C = 1 }, true);
}

void dev_rglru(void **state)
{
    (void)state;
    device_seed(22);
    each_setting(rglru_cases, false);
}
