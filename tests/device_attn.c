/* device_attn.c - device against CPU: attention
 * SPDX-License-Identifier: MIT
 */
#include <math.h>

#include "device_trial.h"

/* bf16: probabilities and their gradients are rounded to bf16 before their products, 2^-9 of each term. fp32:
 * a score's error is amplified by what it is multiplied with in the backward pass, sums of some hundred
 * terms. */
static const struct limits limits = { 2e-5, 0x1p-7, 0x1p-7 };

static void attn_title(const struct setting *s, const struct attn *a, const char *more, int documents)
{
    trial_begin(s, "B %d T %d q0 %d Smax %d heads %d/%d hd %d window %d cap %g%s documents %d", (int)a->B,
                (int)a->T, (int)a->q0, (int)a->Smax, (int)a->Hq, (int)a->Hkv, (int)a->hd, (int)a->window,
                a->softcap, more, documents);
    trial_limits(limits);
}

static void attn_case(const struct setting *s, struct attn a, enum documents d, bool nan)
{
    int64_t room = a.Smax;

    a.S = a.q0 + a.T;
    a.Smax = a.S + room;
    a.scale = 1 / sqrt((double)a.hd);
    attn_title(s, &a, nan ? " NaN" : "", d);
    TEN(attn, q, ACT, a.B * a.T, a.Hq * a.hd, IN, IN, -2, 2);
    TEN(attn, k, ACT, a.B * a.Smax, a.Hkv * a.hd, IN, IN, -2, 2);
    TEN(attn, v, ACT, a.B * a.Smax, a.Hkv * a.hd, IN, IN, -1, 1);
    TEN(attn, o, ACT, a.B * a.T, a.Hq * a.hd, OUT, IN, 0, 0);
    PTR(attn, lse, FLT, a.B * a.Hq, a.T, OUT, IN, 0, 0);
    TEN(attn, dout, ACT, a.B * a.T, a.Hq * a.hd, NO, IN, -1, 1);
    TEN(attn, dq, ACT, a.B * a.T, a.Hq * a.hd, NO, OUT, 0, 0);
    TEN(attn, dk, ACT, a.B * a.Smax, a.Hkv * a.hd, NO, OUT, 0, 0);
    TEN(attn, dv, ACT, a.B * a.Smax, a.Hkv * a.hd, NO, OUT, 0, 0);
    if (d != DOC_NULL) {
        PTR(attn, start, INT, a.B, a.T, IN, IN, 0, 0);
        make_documents(trial_values("start"), a.B, a.T, 16, d);
    }
    if (nan) {
        trial_nan_spreads();
        trial_values("q")[a.Hq * a.hd * (a.T / 2)] = NAN;
    }
    trial_run(&a, "attn", "attn_fwd", "attn_bwd");
}

static void attn_without_lse(const struct setting *s)
{
    struct attn a = { .B = 1, .T = 20, .S = 20, .Smax = 20, .Hq = 2, .Hkv = 1, .hd = 16, .scale = 0.25 };

    attn_title(s, &a, " no lse", 0);
    TEN(attn, q, ACT, 20, 32, IN, NO, -2, 2);
    TEN(attn, k, ACT, 20, 16, IN, NO, -2, 2);
    TEN(attn, v, ACT, 20, 16, IN, NO, -1, 1);
    TEN(attn, o, ACT, 20, 32, OUT, NO, 0, 0);
    trial_run(&a, "attn", "attn_fwd", NULL);
}

/* a.S keys, in a ring of a.Smax rows */
static void attn_step(const struct setting *s, struct attn a, bool lse)
{
    a.T = 1;
    a.q0 = a.S - 1;
    a.scale = 1 / sqrt((double)a.hd);
    attn_title(s, &a, " step", 0);
    TEN(attn, q, ACT, a.B, a.Hq * a.hd, IN, NO, -2, 2);
    TEN(attn, k, ACT, a.B * a.Smax, a.Hkv * a.hd, IN, NO, -2, 2);
    TEN(attn, v, ACT, a.B * a.Smax, a.Hkv * a.hd, IN, NO, -1, 1);
    TEN(attn, o, ACT, a.B, a.Hq * a.hd, OUT, NO, 0, 0);
    if (lse)
        PTR(attn, lse, FLT, a.B * a.Hq, 1, OUT, NO, 0, 0);
    trial_run(&a, "attn", "attn_step", NULL);
}

static void attn_cases(const struct setting *s)
{
    attn_case(s, (struct attn){ .B = 1, .T = 1, .Hq = 1, .Hkv = 1, .hd = 2 }, DOC_NULL, false);
    attn_case(s, (struct attn){ .B = 2, .T = 13, .Hq = 3, .Hkv = 3, .hd = 5, .Smax = 4 }, DOC_NULL, false);
    for (int d = (int)s->layout; d < DOCUMENTS;
         d += LAYOUTS) /* each in one of the layouts: they take long emulated */
        attn_case(s,
                  (struct attn){ .B = 2,
                                 .T = 37,
                                 .Hq = 4,
                                 .Hkv = 2,
                                 .hd = 16,
                                 .q0 = d % 2 ? 5 : 0,
                                 .Smax = d % 3,
                                 .window = d % 3 == 2 ? 9 : 0,
                                 .softcap = d > 3 ? 1.5 : 0 },
                  (enum documents)d, false);
    attn_case(s, (struct attn){ .B = 1, .T = 70, .Hq = 2, .Hkv = 1, .hd = 64 }, DOC_NULL, false);
    attn_case(s, (struct attn){ .B = 1, .T = 33, .Hq = 2, .Hkv = 1, .hd = 128, .q0 = 40, .window = 20 },
              DOC_TAIL, false);
    attn_case(s, (struct attn){ .B = 1, .T = 18, .Hq = 5, .Hkv = 1, .hd = 256, .window = 1 }, DOC_NULL,
              false);
    attn_case(s, (struct attn){ .B = 1, .T = 20, .Hq = 2, .Hkv = 2, .hd = 24 }, DOC_RANDOM, true);
    attn_without_lse(s);
    attn_step(s, (struct attn){ .B = 1, .S = 1, .Smax = 1, .Hq = 1, .Hkv = 1, .hd = 2 }, false);
    attn_step(s, (struct attn){ .B = 2, .S = 37, .Smax = 40, .Hq = 6, .Hkv = 2, .hd = 24, .softcap = 2 },
              true);
    attn_step(s, (struct attn){ .B = 1, .S = 300, .Smax = 300, .Hq = 4, .Hkv = 1, .hd = 64 }, true);
    attn_step(s, (struct attn){ .B = 2, .S = 53, .Smax = 16, .Hq = 2, .Hkv = 1, .hd = 16, .window = 16 },
              true);
    attn_step(s, (struct attn){ .B = 1, .S = 30, .Smax = 40, .Hq = 2, .Hkv = 1, .hd = 128, .window = 7 },
              false);
}

void dev_attn(void **state)
{
    (void)state;
    device_seed(30);
    each_setting(attn_cases, false);
}
