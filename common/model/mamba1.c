/* mamba1.c - sub-layer S: Mamba-1, the selective scan (Gu & Dao 2023, sect. 3.4)
 * SPDX-License-Identifier: MIT
 *
 *   [x | z] = in_proj(norm(u))                     rows in this order, d_inner each
 *   x = silu(conv1d(x));  [r | B | C] = x_proj(x)  rows dt_rank, d_state, d_state
 *   y = scan(x, dt_proj(r), B, C);  out = out_proj(y silu(z))
 * dt_proj's bias is the scan's dt_bias: it is added in there, in fp32.
 */
#include <math.h>

#include "layer.h"

enum { IN_PROJ = FIRST_ROLE, CONV_W = IN_PROJ + 2, CONV_B, X_PROJ, DT_PROJ = X_PROJ + 2, DT_BIAS, A_LOG, SKIP, OUT_PROJ };
enum { PROJ = FIRST_SLOT, CONV, XDB, DT, STATES, Y, GATED, HALO, D_GATED, D_Y, D_PROJ, D_CONV, D_XDB, D_DT, D_NORMED };
enum { CARRY_CONV, CARRY_SSM };

struct dims {
    int64_t D, di, R, N, xdb, M;
};

static struct dims dims_of(const struct config *c, int64_t M)
{
    return (struct dims){ .D = c->d_model, .di = c->d_inner, .R = c->dt_rank, .N = c->d_state,
                          .xdb = c->dt_rank + 2 * c->d_state, .M = M };
}

static void cut_channels(struct param *p, const struct config *c) { param_cut(p, CUT_ROWS, c->d_inner, 1); }

static void add_params(struct params *ps, const struct config *c, int layer)
{
    struct dims d = dims_of(c, 0);
    pre_norm_params(ps, c, layer);
    struct param *p = add_linear(ps, c, layer, IN_PROJ, "in_proj", 2 * d.di, d.D, c->mixer_bias, false);
    for (int i = 0; i <= c->mixer_bias; i++) {
        param_cut_section(&p[i], d.di, 1);
        param_cut_section(&p[i], d.di, 1);
    }
    add_conv(ps, c, layer, CONV_W, d.di, cut_channels);
    p = add_linear(ps, c, layer, X_PROJ, "x_proj", d.xdb, d.di, false, false);
    param_cut(p, CUT_COLUMNS, d.di, 1);

    /* U(+-dt_rank^-1/2), whatever other linears begin with: it keeps the variance of dt (Gu & Dao 2023) */
    p = params_add(ps, layer, DT_PROJ, "mixer.dt_proj.weight", (const int64_t[]){ d.di, d.R, 0 });
    p->init = INIT_UNIFORM;
    p->b = 1 / sqrt((double)d.R);
    p->a = -p->b;
    cut_channels(p, c);
    p = params_add(ps, layer, DT_BIAS, "mixer.dt_proj.bias", (const int64_t[]){ d.di, 0 });
    p->init = INIT_DT_BIAS;
    p->a = 1e-3;
    p->b = 0.1;
    p->always_f32 = true;
    cut_channels(p, c);
    p = params_add(ps, layer, A_LOG, "mixer.A_log", (const int64_t[]){ d.di, d.N, 0 });
    p->init = INIT_LOG_COUNT;
    p->a = (double)d.N;
    p->always_f32 = true;
    p->decay = false; /* two-dimensional, yet no matrix: state-spaces/mamba marks it so */
    cut_channels(p, c);
    p = params_add(ps, layer, SKIP, "mixer.D", (const int64_t[]){ d.di, 0 });
    p->a = 1;
    p->always_f32 = true;
    cut_channels(p, c);
    p = add_linear(ps, c, layer, OUT_PROJ, "out_proj", d.D, d.di, c->mixer_bias, true);
    param_cut(p, CUT_COLUMNS, d.di, 1);
}

static void add_slots(struct slots *ss, const struct config *c, int layer, int64_t B, int64_t T, bool train)
{
    (void)layer;
    struct dims d = dims_of(c, B * T);
    int64_t chunks = (T + c->chunk - 1) / c->chunk, back = train ? d.M : 0;
    pre_norm_slots(ss, c, B, T, train);
    slots_add(ss, SLOT_SAVED, "proj", d.M * 2 * d.di);
    slots_add(ss, SLOT_SAVED, "conv", d.M * d.di);
    slots_add(ss, SLOT_SAVED, "xdb", d.M * d.xdb);
    slots_add(ss, SLOT_SAVED, "dt", d.M * d.di);
    slots_add_f32(ss, SLOT_SAVED, "states", train ? B * chunks * d.di * d.N : 0);
    slots_add(ss, SLOT_SAVED, "y", d.M * d.di);
    slots_add(ss, SLOT_SAVED, "gated", d.M * d.di);
    slots_add_f32(ss, SLOT_SAVED, "halo", B * (c->d_conv - 1) * d.di);
    slots_add(ss, SLOT_SCRATCH, "d_gated", back * d.di);
    slots_add(ss, SLOT_SCRATCH, "d_y", back * d.di);
    slots_add(ss, SLOT_SCRATCH, "d_proj", back * 2 * d.di);
    slots_add(ss, SLOT_SCRATCH, "d_conv", back * d.di);
    slots_add(ss, SLOT_SCRATCH, "d_xdb", back * d.xdb);
    slots_add(ss, SLOT_SCRATCH, "d_dt", back * d.di);
    slots_add(ss, SLOT_SCRATCH, "d_normed", back * d.D);
}

static struct linear linear(const struct pass *p, int w)
{
    struct dims d = dims_of(p->c, p->B * p->T);
    switch (w) {
    case IN_PROJ:
        return (struct linear){ .M = d.M, .in = d.D, .out = 2 * d.di, .w = w, .x = pass_slot(p, NORMED, d.D),
                                .y = pass_slot(p, PROJ, 2 * d.di) };
    case X_PROJ:
        return (struct linear){ .M = d.M, .in = d.di, .out = d.xdb, .w = w, .x = pass_slot(p, CONV, d.di),
                                .y = pass_slot(p, XDB, d.xdb) };
    default:
        return (struct linear){ .M = d.M, .in = d.di, .out = d.D, .w = w, .x = pass_slot(p, GATED, d.di) };
    }
}

/* dt before its bias: the role after DT_PROJ is not this linear's, so it is a product of its own. */
static void dt_forward(const struct pass *p)
{
    struct dims d = dims_of(p->c, p->B * p->T);
    p->be->matmul(&(struct matmul){ .M = d.M, .N = d.di, .K = d.R, .trans_b = true,
                                    .a = pass_slot(p, XDB, d.xdb),
                                    .b = pass_matrix(p, DT_PROJ, d.R),
                                    .c = pass_slot(p, DT, d.di) });
}

static void dt_backward(const struct pass *p)
{
    struct dims d = dims_of(p->c, p->B * p->T);
    struct tensor dy = pass_slot(p, D_DT, d.di), dw = pass_grad(p, DT_PROJ, d.R);
    p->be->matmul(&(struct matmul){ .M = d.M, .N = d.R, .K = d.di, .a = dy,
                                    .b = pass_matrix(p, DT_PROJ, d.R),
                                    .c = pass_slot(p, D_XDB, d.xdb) });
    p->be->matmul(&(struct matmul){ .M = d.di, .N = d.R, .K = d.M, .trans_a = true, .a = dy,
                                    .b = pass_slot(p, XDB, d.xdb), .c = dw, .add = dw });
}

static struct conv1d conv_op(const struct pass *p)
{
    const struct config *c = p->c;
    int64_t di = c->d_inner;
    return (struct conv1d){ .B = p->B, .T = p->T, .C = di, .W = c->d_conv, .silu = true, .start = p->start,
                            .x = pass_slot(p, PROJ, 2 * di),
                            .w = pass_param(p, CONV_W, c->d_conv),
                            .bias = pass_param(p, CONV_B, di),
                            .halo = tensor_f32(p->carry_in ? pass_floats(p, HALO) : NULL, di),
                            .y = pass_slot(p, CONV, di), .work = p->work };
}

static struct scan scan_op(const struct pass *p)
{
    const struct config *c = p->c;
    struct dims d = dims_of(c, p->B * p->T);
    struct tensor xdb = pass_slot(p, XDB, d.xdb);
    return (struct scan){ .B = p->B, .T = p->T, .C = d.di, .N = d.N, .Q = c->chunk, .start = p->start,
                          .x = pass_slot(p, CONV, d.di), .dt_raw = pass_slot(p, DT, d.di),
                          .Bm = tensor_from(xdb, d.R), .Cm = tensor_from(xdb, d.R + d.N),
                          .A_log = pass_param(p, A_LOG, d.N),
                          .dt_bias = pass_param(p, DT_BIAS, d.di),
                          .D = pass_param(p, SKIP, d.di), .y = pass_slot(p, Y, d.di),
                          .states = pass_floats(p, STATES), .work = p->work };
}

static struct activation gate_op(const struct pass *p)
{
    struct dims d = dims_of(p->c, p->B * p->T);
    return (struct activation){ .kind = ACT_SILU, .M = d.M, .D = d.di,
                                .x = tensor_from(pass_slot(p, PROJ, 2 * d.di), d.di),
                                .u = pass_slot(p, Y, d.di), .y = pass_slot(p, GATED, d.di) };
}

static size_t work(const struct pass *p)
{
    struct conv1d cv = conv_op(p);
    struct scan sc = scan_op(p);
    size_t most = pre_norm_work(p);
    at_least(&most, p->be->conv1d_work(&cv));
    at_least(&most, p->be->scan_work(&sc));
    at_least(&most, linear_work(p, p->c->d_model > 2 * p->c->d_inner ? p->c->d_model : 2 * p->c->d_inner));
    return most;
}

static void project(const struct pass *p)
{
    struct linear in = linear(p, IN_PROJ);
    pre_norm_forward(p);
    linear_forward(p, &in);
}

static void project_dt(const struct pass *p)
{
    struct linear x = linear(p, X_PROJ);
    linear_forward(p, &x);
    dt_forward(p);
}

static void finish(const struct pass *p)
{
    struct activation g = gate_op(p);
    struct linear out = linear(p, OUT_PROJ);
    p->be->act_fwd(&g);
    linear_residual(p, &out);
}

static void forward(const struct pass *p)
{
    project(p);
    struct conv1d cv = conv_op(p);
    conv_forward(p, &cv, CARRY_CONV);
    project_dt(p);
    struct scan sc = scan_op(p);
    if (p->carry_in)
        sc.h0 = tensor_f32(p->carry_in[CARRY_SSM], sc.N);
    if (p->carry_out)
        sc.hT = tensor_f32(p->carry_out[CARRY_SSM], sc.N);
    p->be->scan_fwd(&sc);
    finish(p);
}

static void backward(const struct pass *p)
{
    struct dims d = dims_of(p->c, p->B * p->T);
    struct linear in = linear(p, IN_PROJ), xp = linear(p, X_PROJ), out = linear(p, OUT_PROJ);
    struct tensor d_proj = pass_slot(p, D_PROJ, 2 * d.di), d_conv = pass_slot(p, D_CONV, d.di);
    struct tensor d_xdb = pass_slot(p, D_XDB, d.xdb), d_normed = pass_slot(p, D_NORMED, d.D);

    linear_residual_backward(p, &out, pass_slot(p, D_GATED, d.di));
    struct activation g = gate_op(p);
    g.dy = pass_slot(p, D_GATED, d.di);
    g.dx = tensor_from(d_proj, d.di);
    g.du = pass_slot(p, D_Y, d.di);
    p->be->act_bwd(&g);

    struct scan sc = scan_op(p);
    sc.dy = g.du;
    sc.dx = d_conv;
    sc.ddt_raw = pass_slot(p, D_DT, d.di);
    sc.dBm = tensor_from(d_xdb, d.R);
    sc.dCm = tensor_from(d_xdb, d.R + d.N);
    sc.dA_log = pass_grad(p, A_LOG, d.N);
    sc.ddt_bias = pass_grad(p, DT_BIAS, d.di);
    sc.dD = pass_grad(p, SKIP, d.di);
    p->be->scan_bwd(&sc);
    dt_backward(p);
    linear_backward(p, &xp, d_xdb, d_conv, true);

    struct conv1d cv = conv_op(p);
    cv.dy = d_conv;
    cv.dx = d_proj;
    cv.dw = pass_grad(p, CONV_W, cv.W);
    cv.dbias = pass_grad(p, CONV_B, d.di);
    p->be->conv1d_bwd(&cv);
    linear_backward(p, &in, d_proj, d_normed, false);
    pre_norm_backward(p, d_normed);
}

static void step(const struct pass *p)
{
    project(p);
    struct conv1d cv = conv_op(p);
    conv_step(p, &cv, CARRY_CONV);
    project_dt(p);
    struct scan sc = scan_op(p);
    sc.h0 = tensor_f32(p->carry_in[CARRY_SSM], sc.N);
    p->be->scan_step(&sc);
    finish(p);
}

static int carries(struct carry *out, const struct config *c, int layer, int64_t room)
{
    (void)layer, (void)room;
    out[CARRY_CONV] = (struct carry){ "conv", (c->d_conv - 1) * c->d_inner, false };
    out[CARRY_SSM] = (struct carry){ "ssm", c->d_inner * c->d_state, false };
    return 2;
}

static double flops(const struct config *c, int layer, int64_t T)
{
    (void)layer, (void)T;
    struct dims d = dims_of(c, 0);
    double di = (double)d.di;
    double linear = 2.0 * (3.0 * (double)d.D * di + di * (double)d.xdb + (double)d.R * di);
    /* per channel and state: dt a, decay, dt x B and its sum, C S and its sum (the exponential is not counted) */
    return linear + 2.0 * (double)c->d_conv * di + 7.0 * di * (double)d.N;
}

extern const struct layer_kind layer_mamba1;
const struct layer_kind layer_mamba1 = { .symbol = 'S', .name = "Mamba-1", .params = add_params, .slots = add_slots,
                                         .work = work, .forward = forward, .backward = backward, .step = step,
                                         .carries = carries, .flops = flops };
