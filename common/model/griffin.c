/* griffin.c - sub-layer R: Griffin's recurrent block (De et al. 2024, sect. 2.3)
 * SPDX-License-Identifier: MIT
 *
 *   y = gelu_tanh(linear_y(norm(u)));  x = conv1d(linear_x(norm(u)))            no activation behind the convolution
 *   h = RG-LRU(x, gates from block-diagonal linears of x);  out = linear_out(h y)
 * A gate's weight is [blocks,width,width], applied from the right: gate[j] = sum_i x[i] W[i,j], as recurrentgemma
 * stores it.
 */
#include <math.h>

#include "layer.h"

enum { LINEAR_X = FIRST_ROLE, LINEAR_Y = LINEAR_X + 2, CONV_W = LINEAR_Y + 2, CONV_B, INPUT_GATE,
       RECURRENT_GATE = INPUT_GATE + 2, A_PARAM = RECURRENT_GATE + 2, LINEAR_OUT };
enum { X = FIRST_SLOT, BRANCH, CONV, GATE_X, GATE_A, H, MERGED, HALO, H0, D_MERGED, D_BRANCH, D_H, D_CONV, D_GATE_X,
       D_GATE_A, D_X, D_NORMED };
enum { CARRY_CONV, CARRY_LRU };

static void cut_channels(struct param *p, const struct config *c)
{
    param_cut(p, CUT_ROWS, c->lru_width, c->lru_width / c->lru_blocks);
}

static void add_params(struct params *ps, const struct config *c, int layer)
{
    int64_t D = c->d_model, W = c->lru_width, n = c->lru_blocks, bw = W / n;
    pre_norm_params(ps, c, layer);
    for (int i = 0; i < 2; i++) {
        struct param *p = add_linear(ps, c, layer, i ? LINEAR_Y : LINEAR_X, i ? "linear_y" : "linear_x", W, D,
                                     c->mixer_bias, false);
        for (int b = 0; b <= c->mixer_bias; b++)
            cut_channels(&p[b], c);
    }
    size_t first = ps->n;
    add_conv(ps, c, layer, CONV_W, W, cut_channels);
    ps->p[first].init = INIT_NORMAL; /* recurrentgemma: variance 0.01/d_conv, bias 0 */
    ps->p[first].a = sqrt(0.01 / (double)c->d_conv);
    if (c->conv_bias)
        ps->p[first + 1].init = INIT_CONST, ps->p[first + 1].a = 0;

    static const char *const gates[2][2] = {
        { "mixer.rg_lru.input_gate.weight", "mixer.rg_lru.input_gate.bias" },
        { "mixer.rg_lru.recurrent_gate.weight", "mixer.rg_lru.recurrent_gate.bias" }
    };
    for (int i = 0; i < 2; i++) {
        int role = i ? RECURRENT_GATE : INPUT_GATE;
        struct param *p = params_add(ps, layer, role, gates[i][0], (const int64_t[]){ n, bw, bw, 0 });
        p->init = INIT_NORMAL;
        p->a = 1 / sqrt((double)bw);
        p->decay = false; /* recurrentgemma decays nothing of the RG-LRU */
        param_cut(p, CUT_ROWS, n, 1);
        p = params_add(ps, layer, role + 1, gates[i][1], (const int64_t[]){ n, bw, 0 });
        p->decay = false;
        param_cut(p, CUT_ROWS, n, 1);
    }
    struct param *p = params_add(ps, layer, A_PARAM, "mixer.rg_lru.a_param", (const int64_t[]){ W, 0 });
    p->init = INIT_LRU;
    p->a = 0.9;
    p->b = 0.999;
    p->always_f32 = true;
    cut_channels(p, c);
    p = add_linear(ps, c, layer, LINEAR_OUT, "linear_out", D, W, c->mixer_bias, true);
    param_cut(p, CUT_COLUMNS, W, bw);
}

static void add_slots(struct slots *ss, const struct config *c, int layer, int64_t B, int64_t T, bool train)
{
    (void)layer;
    int64_t M = B * T, W = M * c->lru_width, back = train ? W : 0;
    static const char *const saved[] = { "x", "branch", "conv", "gate_x", "gate_a", "h", "merged" };
    static const char *const scratch[] = { "d_merged", "d_branch", "d_h", "d_conv", "d_gate_x", "d_gate_a", "d_x" };
    pre_norm_slots(ss, c, B, T, train);
    for (size_t i = 0; i < sizeof saved / sizeof *saved; i++)
        slots_add(ss, SLOT_SAVED, saved[i], W);
    slots_add_f32(ss, SLOT_SAVED, "halo", B * (c->d_conv - 1) * c->lru_width);
    slots_add_f32(ss, SLOT_SAVED, "h0", B * c->lru_width);
    for (size_t i = 0; i < sizeof scratch / sizeof *scratch; i++)
        slots_add(ss, SLOT_SCRATCH, scratch[i], back);
    slots_add(ss, SLOT_SCRATCH, "d_normed", train ? M * c->d_model : 0);
}

static struct linear linear(const struct pass *p, int w)
{
    int64_t D = p->c->d_model, W = p->c->lru_width, M = p->B * p->T;
    if (w == LINEAR_OUT)
        return (struct linear){ .M = M, .in = W, .out = D, .w = w, .x = pass_slot(p, MERGED, W) };
    return (struct linear){ .M = M, .in = D, .out = W, .w = w, .x = pass_slot(p, NORMED, D),
                            .y = pass_slot(p, w == LINEAR_X ? X : BRANCH, W) };
}

/* The block-diagonal linear of a gate: one batch of small products over columns of x. */
static void gate_forward(const struct pass *p, int w, int y)
{
    int64_t W = p->c->lru_width, n = p->c->lru_blocks, bw = W / n;
    p->be->matmul(&(struct matmul){ .M = p->B * p->T, .N = bw, .K = bw, .a = pass_slot(p, CONV, W),
                                    .b = pass_matrix(p, w, bw), .c = pass_slot(p, y, W),
                                    .bias = pass_param(p, w + 1, bw), .batch = n, .step_a = bw,
                                    .step_b = bw * bw, .step_c = bw, .step_bias = bw });
}

/* Adds to the gradient of the convolution's output. */
static void gate_backward(const struct pass *p, int w, int dy)
{
    int64_t W = p->c->lru_width, n = p->c->lru_blocks, bw = W / n, M = p->B * p->T;
    struct tensor d = pass_slot(p, dy, W), dx = pass_slot(p, D_CONV, W);
    struct tensor dw = pass_grad(p, w, bw);
    p->be->matmul(&(struct matmul){ .M = M, .N = bw, .K = bw, .trans_b = true, .a = d,
                                    .b = pass_matrix(p, w, bw), .c = dx, .add = dx, .batch = n,
                                    .step_a = bw, .step_b = bw * bw, .step_c = bw });
    p->be->matmul(&(struct matmul){ .M = bw, .N = bw, .K = M, .trans_a = true,
                                    .a = pass_slot(p, CONV, W), .b = d, .c = dw, .add = dw, .batch = n,
                                    .step_a = bw, .step_b = bw, .step_c = bw * bw });
    struct colsum s = { .M = M, .D = W, .x = d, .y = pass_grad(p, w + 1, W), .work = p->work };
    p->be->colsum(&s);
}

static struct conv1d conv_op(const struct pass *p)
{
    const struct config *c = p->c;
    int64_t W = c->lru_width;
    return (struct conv1d){ .B = p->B, .T = p->T, .C = W, .W = c->d_conv, .start = p->start,
                            .x = pass_slot(p, X, W), .w = pass_param(p, CONV_W, c->d_conv),
                            .bias = pass_param(p, CONV_B, W),
                            .halo = tensor_f32(p->carry_in ? pass_floats(p, HALO) : NULL, W),
                            .y = pass_slot(p, CONV, W), .work = p->work };
}

static struct rglru lru_op(const struct pass *p)
{
    int64_t W = p->c->lru_width;
    bool continues = p->carry_in && p->pos > 0; /* else the first token begins its document */
    return (struct rglru){ .B = p->B, .T = p->T, .C = W, .start = p->start, .x = pass_slot(p, CONV, W),
                           .gate_x = pass_slot(p, GATE_X, W),
                           .gate_a = pass_slot(p, GATE_A, W),
                           .a_param = pass_param(p, A_PARAM, W),
                           .h0 = tensor_f32(continues ? pass_floats(p, H0) : NULL, W),
                           .y = pass_slot(p, H, W), .work = p->work };
}

static struct activation merge_op(const struct pass *p)
{
    int64_t W = p->c->lru_width;
    return (struct activation){ .kind = ACT_GELU_TANH, .M = p->B * p->T, .D = W,
                                .x = pass_slot(p, BRANCH, W), .u = pass_slot(p, H, W),
                                .y = pass_slot(p, MERGED, W) };
}

static size_t work(const struct pass *p)
{
    struct conv1d cv = conv_op(p);
    struct rglru lru = lru_op(p);
    size_t most = pre_norm_work(p);
    at_least(&most, p->be->conv1d_work(&cv));
    at_least(&most, p->be->rglru_work(&lru));
    at_least(&most, linear_work(p, p->c->lru_width > p->c->d_model ? p->c->lru_width : p->c->d_model));
    return most;
}

static void project(const struct pass *p)
{
    struct linear x = linear(p, LINEAR_X), y = linear(p, LINEAR_Y);
    pre_norm_forward(p);
    linear_forward(p, &x);
    linear_forward(p, &y);
}

static void gates(const struct pass *p)
{
    gate_forward(p, INPUT_GATE, GATE_X);
    gate_forward(p, RECURRENT_GATE, GATE_A);
}

static void finish(const struct pass *p)
{
    struct activation m = merge_op(p);
    struct linear out = linear(p, LINEAR_OUT);
    p->be->act_fwd(&m);
    linear_residual(p, &out);
}

static void forward(const struct pass *p)
{
    int64_t W = p->c->lru_width;
    project(p);
    struct conv1d cv = conv_op(p);
    conv_forward(p, &cv, CARRY_CONV);
    if (p->carry_in) /* kept as the convolution's halo is */
        p->be->copy(pass_floats(p, H0), p->carry_in[CARRY_LRU], (size_t)(p->B * W) * sizeof(float));
    gates(p);
    struct rglru lru = lru_op(p);
    if (p->carry_out)
        lru.hT = tensor_f32(p->carry_out[CARRY_LRU], W);
    p->be->rglru_fwd(&lru);
    finish(p);
}

static void step(const struct pass *p)
{
    int64_t W = p->c->lru_width;
    project(p);
    struct conv1d cv = conv_op(p);
    conv_step(p, &cv, CARRY_CONV);
    gates(p);
    struct rglru lru = lru_op(p);
    lru.h0 = tensor_f32(p->carry_in[CARRY_LRU], W);
    p->be->rglru_step(&lru);
    finish(p);
}

static void backward(const struct pass *p)
{
    int64_t D = p->c->d_model, W = p->c->lru_width;
    struct linear x = linear(p, LINEAR_X), y = linear(p, LINEAR_Y), out = linear(p, LINEAR_OUT);
    struct tensor d_normed = pass_slot(p, D_NORMED, D);

    linear_residual_backward(p, &out, pass_slot(p, D_MERGED, W));
    struct activation m = merge_op(p);
    m.dy = pass_slot(p, D_MERGED, W);
    m.dx = pass_slot(p, D_BRANCH, W);
    m.du = pass_slot(p, D_H, W);
    p->be->act_bwd(&m);

    struct rglru lru = lru_op(p);
    lru.dy = m.du;
    lru.dx = pass_slot(p, D_CONV, W);
    lru.dgate_x = pass_slot(p, D_GATE_X, W);
    lru.dgate_a = pass_slot(p, D_GATE_A, W);
    lru.da_param = pass_grad(p, A_PARAM, W);
    p->be->rglru_bwd(&lru);
    gate_backward(p, INPUT_GATE, D_GATE_X);
    gate_backward(p, RECURRENT_GATE, D_GATE_A);

    struct conv1d cv = conv_op(p);
    cv.dy = pass_slot(p, D_CONV, W);
    cv.dx = pass_slot(p, D_X, W);
    cv.dw = pass_grad(p, CONV_W, cv.W);
    cv.dbias = pass_grad(p, CONV_B, W);
    p->be->conv1d_bwd(&cv);
    linear_backward(p, &x, pass_slot(p, D_X, W), d_normed, false);
    linear_backward(p, &y, pass_slot(p, D_BRANCH, W), d_normed, true);
    pre_norm_backward(p, d_normed);
}

static int carries(struct carry *out, const struct config *c, int layer, int64_t room)
{
    (void)layer, (void)room;
    out[CARRY_CONV] = (struct carry){ "conv", (c->d_conv - 1) * c->lru_width, false };
    out[CARRY_LRU] = (struct carry){ "lru", c->lru_width, false };
    return 2;
}

static double flops(const struct config *c, int layer, int64_t T)
{
    (void)layer, (void)T;
    double D = (double)c->d_model, W = (double)c->lru_width, bw = W / (double)c->lru_blocks;
    /* three linears, two gates, the taps, and per channel h = a h + m i x with its gates */
    return 6.0 * D * W + 4.0 * W * bw + 2.0 * (double)c->d_conv * W + 10.0 * W;
}

extern const struct layer_kind layer_griffin;
const struct layer_kind layer_griffin = { .symbol = 'R', .name = "RG-LRU", .params = add_params, .slots = add_slots,
                                          .work = work, .forward = forward, .backward = backward, .step = step,
                                          .carries = carries, .flops = flops };
