/* mamba2.c - sub-layer M: Mamba-2 (Dao & Gu 2024)
 * SPDX-License-Identifier: MIT
 *
 *   [z | x | B | C | dt] = in_proj(norm(u))        rows in this order, of di, di, G N, G N, H
 *   x, B, C = silu(conv1d([x | B | C]))
 *   y = SSD(x, dt, B, C);  out = out_proj(gated norm(y, z))
 * di = heads x headdim, which need not be 2 d_model.
 */
#include <math.h>

#include "layer.h"

enum { IN_PROJ = FIRST_ROLE, CONV_W = IN_PROJ + 2, CONV_B, DT_BIAS, A_LOG, SKIP, GATE_NORM, OUT_PROJ };
enum { PROJ = FIRST_SLOT, CONV, STATES, Y, GATED, GATE_RSTD, HALO, D_GATED, D_Y, D_PROJ, D_CONV, D_NORMED };
enum { CARRY_CONV, CARRY_SSM };

/* row: how far the rows of proj lie apart: whole cache lines, or the ops that take a part of them would move half as much again
 * where heads and groups make up an odd width (3352 of mamba2-130m) */
struct dims {
    int64_t D, di, GN, H, conv, proj, row, M;
};

static struct dims dims_of(const struct config *c, int64_t M)
{
    struct dims d = { .D = c->d_model, .di = c->n_heads * c->headdim, .GN = c->n_groups * c->d_state,
                      .H = c->n_heads, .M = M };
    d.conv = d.di + 2 * d.GN;
    d.proj = d.di + d.conv + d.H;
    d.row = (d.proj + 63) / 64 * 64;
    return d;
}

static void cut_conv(struct param *p, const struct config *c)
{
    struct dims d = dims_of(c, 0);
    param_cut_section(p, d.di, c->headdim);
    param_cut_section(p, d.GN, c->d_state);
    param_cut_section(p, d.GN, c->d_state);
}

static void add_params(struct params *ps, const struct config *c, int layer)
{
    struct dims d = dims_of(c, 0);
    pre_norm_params(ps, c, layer);
    struct param *p = add_linear(ps, c, layer, IN_PROJ, "in_proj", d.proj, d.D, c->mixer_bias, false);
    for (int i = 0; i <= c->mixer_bias; i++) {
        param_cut_section(&p[i], d.di, c->headdim);
        cut_conv(&p[i], c);
        param_cut_section(&p[i], d.H, 1);
    }
    add_conv(ps, c, layer, CONV_W, d.conv, cut_conv);

    static const char *const per_head[3] = { "mixer.dt_bias", "mixer.A_log", "mixer.D" };
    for (int i = 0; i < 3; i++) {
        p = params_add(ps, layer, DT_BIAS + i, per_head[i], (const int64_t[]){ d.H, 0 });
        p->always_f32 = true;
        param_cut(p, CUT_ROWS, d.H, 1);
    }
    p = &ps->p[ps->n - 3];
    p[0].init = INIT_DT_BIAS;
    p[0].a = 1e-3;
    p[0].b = 0.1;
    p[1].init = INIT_LOG_UNIFORM;
    p[1].a = 1;
    p[1].b = 16;
    p[2].a = 1; /* D = 1 */

    p = params_add(ps, layer, GATE_NORM, "mixer.norm.weight", (const int64_t[]){ d.di, 0 });
    p->a = 1;
    param_cut(p, CUT_ROWS, d.di, c->headdim);
    p = add_linear(ps, c, layer, OUT_PROJ, "out_proj", d.D, d.di, c->mixer_bias, true);
    param_cut(p, CUT_COLUMNS, d.di, c->headdim);
}

static void add_slots(struct slots *ss, const struct config *c, int layer, int64_t B, int64_t T, bool train)
{
    (void)layer;
    struct dims d = dims_of(c, B * T);
    int64_t chunks = (T + c->chunk - 1) / c->chunk, back = train ? d.M : 0;
    pre_norm_slots(ss, c, B, T, train);
    slots_add(ss, SLOT_SAVED, "proj", d.M * d.row);
    slots_add(ss, SLOT_SAVED, "conv", d.M * d.conv);
    slots_add(ss, SLOT_SAVED, "states", train ? B * chunks * d.di * c->d_state : 0);
    slots_add(ss, SLOT_SAVED, "y", d.M * d.di);
    slots_add(ss, SLOT_SAVED, "gated", d.M * d.di);
    slots_add_f32(ss, SLOT_SAVED, "gate_rstd", d.M * c->n_groups);
    slots_add_f32(ss, SLOT_SAVED, "halo", B * (c->d_conv - 1) * d.conv);
    slots_add(ss, SLOT_SCRATCH, "d_gated", back * d.di);
    slots_add(ss, SLOT_SCRATCH, "d_y", back * d.di);
    slots_add(ss, SLOT_SCRATCH, "d_proj", back * d.row);
    slots_add(ss, SLOT_SCRATCH, "d_conv", back * d.conv);
    slots_add(ss, SLOT_SCRATCH, "d_normed", back * d.D);
}

/* The ops of the layer as structs, filled from a pass; forward and backward share them. */

static struct conv1d conv_op(const struct pass *p)
{
    const struct config *c = p->c;
    struct dims d = dims_of(c, p->B * p->T);
    bool first = !p->carry_in;
    return (struct conv1d){ .B = p->B, .T = p->T, .C = d.conv, .W = c->d_conv, .silu = true, .start = p->start,
                            .x = tensor_from(pass_slot(p, PROJ, d.row), d.di),
                            .w = pass_param(p, CONV_W, c->d_conv),
                            .bias = pass_param(p, CONV_B, d.conv),
                            .halo = tensor_f32(first ? NULL : pass_floats(p, HALO), d.conv),
                            .y = pass_slot(p, CONV, d.conv), .work = p->work };
}

static struct ssd ssd_op(const struct pass *p)
{
    const struct config *c = p->c;
    struct dims d = dims_of(c, p->B * p->T);
    struct tensor conv = pass_slot(p, CONV, d.conv);
    return (struct ssd){ .B = p->B, .T = p->T, .H = d.H, .P = c->headdim, .G = c->n_groups, .N = c->d_state,
                         .Q = c->chunk, .dt_min = c->dt_min, .dt_max = c->dt_max > 0 ? c->dt_max : INFINITY,
                         .start = p->start,
                         .x = conv, .Bm = tensor_from(conv, d.di), .Cm = tensor_from(conv, d.di + d.GN),
                         .dt_raw = tensor_from(pass_slot(p, PROJ, d.row), d.di + d.conv),
                         .dt_bias = pass_param(p, DT_BIAS, d.H), .A_log = pass_param(p, A_LOG, d.H),
                         .D = pass_param(p, SKIP, d.H), .y = pass_slot(p, Y, d.di),
                         .states = pass_slot(p, STATES, c->d_state), .work = p->work };
}

static struct gatednorm gate_op(const struct pass *p)
{
    const struct config *c = p->c;
    struct dims d = dims_of(c, p->B * p->T);
    return (struct gatednorm){ .M = d.M, .D = d.di, .G = c->n_groups, .eps = c->norm_eps,
                               .x = pass_slot(p, Y, d.di), .z = pass_slot(p, PROJ, d.row),
                               .w = pass_param(p, GATE_NORM, d.di),
                               .y = pass_slot(p, GATED, d.di), .rstd = pass_floats(p, GATE_RSTD),
                               .work = p->work };
}

static struct linear in_proj(const struct pass *p)
{
    struct dims d = dims_of(p->c, p->B * p->T);
    return (struct linear){ .M = d.M, .in = d.D, .out = d.proj, .w = IN_PROJ, .x = pass_slot(p, NORMED, d.D),
                            .y = pass_slot(p, PROJ, d.row) };
}

static struct linear out_proj(const struct pass *p)
{
    struct dims d = dims_of(p->c, p->B * p->T);
    return (struct linear){ .M = d.M, .in = d.di, .out = d.D, .w = OUT_PROJ, .x = pass_slot(p, GATED, d.di) };
}

static size_t work(const struct pass *p)
{
    struct conv1d cv = conv_op(p);
    struct ssd sd = ssd_op(p);
    struct gatednorm g = gate_op(p);
    size_t most = pre_norm_work(p);
    at_least(&most, p->be->conv1d_work(&cv));
    at_least(&most, p->be->ssd_work(&sd));
    at_least(&most, p->be->gatednorm_work(&g));
    at_least(&most, linear_work(p, dims_of(p->c, 0).proj));
    return most;
}

static void project(const struct pass *p)
{
    struct linear in = in_proj(p);
    pre_norm_forward(p);
    linear_forward(p, &in);
}

static void finish(const struct pass *p)
{
    struct gatednorm g = gate_op(p);
    struct linear out = out_proj(p);
    p->be->gatednorm_fwd(&g);
    linear_residual(p, &out);
}

static void forward(const struct pass *p)
{
    project(p);
    struct conv1d cv = conv_op(p);
    conv_forward(p, &cv, CARRY_CONV);
    struct ssd sd = ssd_op(p);
    if (p->carry_in)
        sd.h0 = tensor_f32(p->carry_in[CARRY_SSM], sd.N);
    if (p->carry_out)
        sd.hT = tensor_f32(p->carry_out[CARRY_SSM], sd.N);
    p->be->ssd_fwd(&sd);
    finish(p);
}

static void backward(const struct pass *p)
{
    const struct config *c = p->c;
    struct dims d = dims_of(c, p->B * p->T);
    struct tensor d_proj = pass_slot(p, D_PROJ, d.row), d_conv = pass_slot(p, D_CONV, d.conv);
    struct tensor d_normed = pass_slot(p, D_NORMED, d.D);

    struct linear in = in_proj(p), out = out_proj(p);
    linear_residual_backward(p, &out, pass_slot(p, D_GATED, d.di));
    struct gatednorm g = gate_op(p);
    g.dy = pass_slot(p, D_GATED, d.di);
    g.dx = pass_slot(p, D_Y, d.di);
    g.dz = d_proj;
    g.dw = pass_grad(p, GATE_NORM, d.di);
    p->be->gatednorm_bwd(&g);

    struct ssd sd = ssd_op(p);
    sd.dy = pass_slot(p, D_Y, d.di);
    sd.dx = d_conv;
    sd.dBm = tensor_from(d_conv, d.di);
    sd.dCm = tensor_from(d_conv, d.di + d.GN);
    sd.ddt_raw = tensor_from(d_proj, d.di + d.conv);
    sd.ddt_bias = pass_grad(p, DT_BIAS, d.H);
    sd.dA_log = pass_grad(p, A_LOG, d.H);
    sd.dD = pass_grad(p, SKIP, d.H);
    p->be->ssd_bwd(&sd);

    struct conv1d cv = conv_op(p);
    cv.dy = d_conv;
    cv.dx = tensor_from(d_proj, d.di);
    cv.dw = pass_grad(p, CONV_W, c->d_conv);
    cv.dbias = pass_grad(p, CONV_B, d.conv);
    p->be->conv1d_bwd(&cv);

    linear_backward(p, &in, d_proj, d_normed, false);
    pre_norm_backward(p, d_normed);
}

static void step(const struct pass *p)
{
    project(p);
    struct conv1d cv = conv_op(p);
    conv_step(p, &cv, CARRY_CONV);
    struct ssd sd = ssd_op(p);
    sd.h0 = tensor_f32(p->carry_in[CARRY_SSM], sd.N);
    p->be->ssd_step(&sd);
    finish(p);
}

static int carries(struct carry *out, const struct config *c, int layer, int64_t room)
{
    (void)layer, (void)room; /* the state has one size, whatever the context */
    struct dims d = dims_of(c, 0);
    out[CARRY_CONV] = (struct carry){ "conv", (c->d_conv - 1) * d.conv, false };
    out[CARRY_SSM] = (struct carry){ "ssm", d.di * c->d_state, false };
    return 2;
}

static double flops(const struct config *c, int layer, int64_t T)
{
    (void)layer;
    struct dims d = dims_of(c, 0);
    double Q = (double)(c->chunk < T ? c->chunk : T), di = (double)d.di, N = (double)c->d_state;
    double linear = 2.0 * (double)d.D * (double)(d.proj + d.di);
    double conv = 2.0 * (double)(c->d_conv * d.conv);
    /* state in and out, the causal half of (C B^T) x, and of C B^T */
    double ssd = 4 * di * N + di * Q + (double)d.GN * Q;
    return linear + conv + ssd;
}

extern const struct layer_kind layer_mamba2;
const struct layer_kind layer_mamba2 = { .symbol = 'M', .name = "Mamba-2", .params = add_params, .slots = add_slots,
                                         .work = work, .forward = forward, .backward = backward, .step = step,
                                         .carries = carries, .flops = flops };
