/* mlp.c - sub-layer -: linear, activation, linear; with a gate SwiGLU, GeGLU and their kin (Shazeer 2020)
 * SPDX-License-Identifier: MIT
 *
 *   plain   out = down_proj(act(up_proj(norm(u))))
 *   gated   out = down_proj(act(gate_proj(norm(u))) up_proj(norm(u)))
 */
#include "layer.h"

enum { GATE = FIRST_ROLE, UP = GATE + 2, DOWN = UP + 2 };
enum { S_GATE = FIRST_SLOT, S_UP, ACTIVE, D_GATE, D_UP, D_NORMED };

static void add_params(struct params *ps, const struct config *c, int layer)
{
    pre_norm_params(ps, c, layer);
    for (int i = c->mlp_gated ? 0 : 1; i < 2; i++) {
        struct param *p = add_linear(ps, c, layer, i ? UP : GATE, i ? "up_proj" : "gate_proj", c->d_ff, c->d_model,
                                     c->mlp_bias, false);
        for (int b = 0; b <= c->mlp_bias; b++)
            param_cut(&p[b], CUT_ROWS, c->d_ff, 1);
    }
    struct param *p = add_linear(ps, c, layer, DOWN, "down_proj", c->d_model, c->d_ff, c->mlp_bias, true);
    param_cut(p, CUT_COLUMNS, c->d_ff, 1);
}

static void add_slots(struct slots *ss, const struct config *c, int layer, int64_t B, int64_t T, bool train)
{
    (void)layer;
    int64_t M = B * T, wide = M * c->d_ff;
    pre_norm_slots(ss, c, B, T, train);
    slots_add(ss, SLOT_SAVED, "gate", c->mlp_gated ? wide : 0);
    slots_add(ss, SLOT_SAVED, "up", wide);
    slots_add(ss, SLOT_SAVED, "active", wide);
    slots_add(ss, SLOT_SCRATCH, "d_gate", train && c->mlp_gated ? wide : 0);
    slots_add(ss, SLOT_SCRATCH, "d_up", train ? wide : 0);
    slots_add(ss, SLOT_SCRATCH, "d_normed", train ? M * c->d_model : 0);
}

static struct linear linear(const struct pass *p, int w)
{
    int64_t D = p->c->d_model, F = p->c->d_ff, M = p->B * p->T;
    if (w == DOWN)
        return (struct linear){ .M = M, .in = F, .out = D, .w = w, .x = pass_slot(p, ACTIVE, F) };
    return (struct linear){ .M = M, .in = D, .out = F, .w = w, .x = pass_slot(p, NORMED, D),
                            .y = pass_slot(p, w == UP ? S_UP : S_GATE, F) };
}

static struct activation act_op(const struct pass *p)
{
    int64_t F = p->c->d_ff;
    bool gated = p->c->mlp_gated;
    return (struct activation){ .kind = (enum act)p->c->activation, .M = p->B * p->T, .D = F,
                                .x = pass_slot(p, gated ? S_GATE : S_UP, F),
                                .u = gated ? pass_slot(p, S_UP, F) : (struct tensor){ 0 },
                                .y = pass_slot(p, ACTIVE, F) };
}

static size_t work(const struct pass *p)
{
    size_t most = pre_norm_work(p);
    at_least(&most, linear_work(p, p->c->d_ff > p->c->d_model ? p->c->d_ff : p->c->d_model));
    return most;
}

static void forward(const struct pass *p)
{
    struct linear gate = linear(p, GATE), up = linear(p, UP), down = linear(p, DOWN);
    struct activation a = act_op(p);
    pre_norm_forward(p);
    if (p->c->mlp_gated)
        linear_forward(p, &gate);
    linear_forward(p, &up);
    p->be->act_fwd(&a);
    linear_residual(p, &down);
}

static void backward(const struct pass *p)
{
    int64_t D = p->c->d_model, F = p->c->d_ff;
    struct linear gate = linear(p, GATE), up = linear(p, UP), down = linear(p, DOWN);
    struct tensor d_gate = pass_slot(p, D_GATE, F), d_up = pass_slot(p, D_UP, F);
    struct tensor d_normed = pass_slot(p, D_NORMED, D);
    linear_residual_backward(p, &down, d_up);
    struct activation a = act_op(p);
    a.dy = a.dx = d_up;
    if (p->c->mlp_gated) {
        a.dx = d_gate;
        a.du = d_up; /* element by element: du may be dy */
    }
    p->be->act_bwd(&a);
    linear_backward(p, &up, d_up, d_normed, false);
    if (p->c->mlp_gated)
        linear_backward(p, &gate, d_gate, d_normed, true);
    pre_norm_backward(p, d_normed);
}

static int carries(struct carry *out, const struct config *c, int layer, int64_t room)
{
    (void)out, (void)c, (void)layer, (void)room;
    return 0;
}

static double flops(const struct config *c, int layer, int64_t T)
{
    (void)layer, (void)T;
    return (c->mlp_gated ? 6.0 : 4.0) * (double)c->d_model * (double)c->d_ff;
}

extern const struct layer_kind layer_mlp;
const struct layer_kind layer_mlp = { .symbol = '-', .name = "MLP", .params = add_params, .slots = add_slots,
                                      .work = work, .forward = forward, .backward = backward, .step = forward,
                                      .carries = carries, .flops = flops };
