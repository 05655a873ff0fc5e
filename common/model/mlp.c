/* mlp.c - sub-layer -: two linears and an activation between them
 * SPDX-License-Identifier: MIT
 */
#include "layer.h"

enum { UP = 1, DOWN };
enum { HIDDEN = 2, ACTIVE, D_HIDDEN, D_NORMED };

static void add_params(struct params *ps, const struct config *c, int layer)
{
    int64_t D = c->d_model, F = c->d_ff;
    pre_norm_params(ps, c, layer);
    struct param *p = params_add(ps, layer, "mixer.up_proj.weight", (const int64_t[]){ F, D, 0 });
    param_init_linear(p, c, D, false);
    param_cut(p, CUT_ROWS, F, 1);
    p = params_add(ps, layer, "mixer.down_proj.weight", (const int64_t[]){ D, F, 0 });
    param_init_linear(p, c, F, true);
    param_cut(p, CUT_COLUMNS, F, 1);
}

static void add_slots(struct slots *ss, const struct config *c, int64_t B, int64_t T, bool train)
{
    int64_t M = B * T;
    pre_norm_slots(ss, c, B, T);
    slots_add(ss, SLOT_SAVED, "hidden", M * c->d_ff);
    slots_add(ss, SLOT_SAVED, "active", M * c->d_ff);
    slots_add(ss, SLOT_SCRATCH, "d_hidden", train ? M * c->d_ff : 0);
    slots_add(ss, SLOT_SCRATCH, "d_normed", train ? M * c->d_model : 0);
}

static struct activation act_op(const struct pass *p)
{
    int64_t F = p->c->d_ff;
    return (struct activation){ .kind = (enum act)p->c->activation, .M = p->B * p->T, .D = F,
                                .x = tensor_f32(pass_slot(p, HIDDEN), F), .y = tensor_f32(pass_slot(p, ACTIVE), F) };
}

static size_t work(const struct pass *p)
{
    struct norm n = pre_norm(p);
    return p->be->norm_work(&n);
}

static void forward(const struct pass *p)
{
    int64_t D = p->c->d_model, F = p->c->d_ff, M = p->B * p->T;
    struct norm n = pre_norm(p);
    p->be->norm_fwd(&n);
    linear_forward(p->be, M, D, F, pass_slot(p, PRE_NORM_SLOT), D, pass_weight(p, UP), pass_slot(p, HIDDEN), F, false);
    struct activation a = act_op(p);
    p->be->act_fwd(&a);
    if (p->y)
        linear_forward(p->be, M, F, D, pass_slot(p, ACTIVE), F, pass_weight(p, DOWN), p->y, D, true);
}

static void backward(const struct pass *p)
{
    int64_t D = p->c->d_model, F = p->c->d_ff, M = p->B * p->T;
    float *d_hidden = pass_slot(p, D_HIDDEN), *d_normed = pass_slot(p, D_NORMED);
    linear_backward(p->be, M, F, D, pass_slot(p, ACTIVE), F, pass_weight(p, DOWN), p->dy, D, d_hidden, F, false,
                    pass_grad(p, DOWN));
    struct activation a = act_op(p);
    a.dy = a.dx = tensor_f32(d_hidden, F);
    p->be->act_bwd(&a);
    linear_backward(p->be, M, D, F, pass_slot(p, PRE_NORM_SLOT), D, pass_weight(p, UP), d_hidden, F, d_normed, D,
                    false, pass_grad(p, UP));
    pre_norm_backward(p, d_normed);
}

static int carries(struct carry *out, const struct config *c, int64_t room)
{
    (void)out, (void)c, (void)room;
    return 0;
}

static double flops(const struct config *c, int64_t T)
{
    (void)T;
    return 4.0 * (double)c->d_model * (double)c->d_ff;
}

extern const struct layer_kind layer_mlp;
const struct layer_kind layer_mlp = { .symbol = '-', .name = "MLP", .params = add_params, .slots = add_slots,
                                      .work = work, .forward = forward, .backward = backward, .step = forward,
                                      .carries = carries, .flops = flops };
