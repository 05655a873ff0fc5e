/* layer.c - the list of layer kinds, and what all of them share
 * SPDX-License-Identifier: MIT
 */
#include "layer.h"

#include <math.h>

#include "common/base/err.h"

extern const struct layer_kind layer_mamba2, layer_mamba1, layer_griffin, layer_attention, layer_window, layer_mlp;
static const struct layer_kind *const kinds[] = { &layer_mamba2,    &layer_mamba1, &layer_griffin,
                                                  &layer_attention, &layer_window, &layer_mlp };
enum { KINDS = sizeof kinds / sizeof *kinds };

const struct layer_kind *layer_kind(char symbol)
{
    for (int i = 0; i < KINDS; i++)
        if (kinds[i]->symbol == symbol)
            return kinds[i];
    return NULL;
}

const char *layer_symbols(void)
{
    static char text[2 * KINDS + 1];
    for (int i = 0; i < KINDS; i++) {
        text[2 * i] = kinds[i]->symbol;
        text[2 * i + 1] = i + 1 < KINDS ? ' ' : '\0';
    }
    return text;
}

void slots_add(struct slots *ss, enum slot_use use, const char *name, int64_t count)
{
    if (ss->n == MAX_SLOTS)
        bug("a layer with more than %d slots", MAX_SLOTS);
    int64_t *total = use == SLOT_SAVED ? &ss->saved : &ss->scratch;
    ss->s[ss->n++] = (struct slot){ name, use, count, *total };
    *total += (count + 15) / 16 * 16;
}

void linear_forward(const struct pass *p, const struct linear *l)
{
    p->be->matmul(&(struct matmul){ .M = l->M, .N = l->out, .K = l->in, .trans_b = true,
                                    .a = tensor_f32(l->x, l->ldx), .b = tensor_f32(pass_weight(p, l->w), l->in),
                                    .c = tensor_f32(l->y, l->ldy), .add = tensor_f32(l->add, l->ldy),
                                    .bias = tensor_f32(pass_weight(p, l->w + 1), l->out) });
}

static struct colsum bias_grad(const struct pass *p, const struct linear *l, const float *dy)
{
    return (struct colsum){ .M = l->M, .D = l->out, .x = tensor_f32(dy, l->ldy),
                            .y = tensor_f32(pass_grad(p, l->w + 1), l->out), .work = p->work };
}

void linear_backward(const struct pass *p, const struct linear *l, const float *dy, float *dx, int64_t lddx,
                     bool accumulate_dx)
{
    float *dw = pass_grad(p, l->w);
    p->be->matmul(&(struct matmul){ .M = l->M, .N = l->in, .K = l->out, .a = tensor_f32(dy, l->ldy),
                                    .b = tensor_f32(pass_weight(p, l->w), l->in), .c = tensor_f32(dx, lddx),
                                    .add = tensor_f32(accumulate_dx ? dx : NULL, lddx) });
    p->be->matmul(&(struct matmul){ .M = l->out, .N = l->in, .K = l->M, .trans_a = true,
                                    .a = tensor_f32(dy, l->ldy), .b = tensor_f32(l->x, l->ldx),
                                    .c = tensor_f32(dw, l->in), .add = tensor_f32(dw, l->in) });
    if (p->params[l->w + 1]) {
        struct colsum s = bias_grad(p, l, dy);
        p->be->colsum(&s);
    }
}

size_t linear_work(const struct pass *p, int64_t out)
{
    struct colsum s = { .M = p->B * p->T, .D = out };
    return p->be->colsum_work(&s);
}

void linear_residual(const struct pass *p, const struct linear *l)
{
    struct linear last = *l;
    last.y = p->y;
    last.add = p->x;
    if (p->y)
        linear_forward(p, &last);
}

void pre_norm_params(struct params *ps, const struct config *c, int layer)
{
    params_add_norm(ps, c, layer, PRE_NORM_W, "norm");
}

void pre_norm_slots(struct slots *ss, const struct config *c, int64_t B, int64_t T)
{
    slots_add(ss, SLOT_SAVED, "normed", B * T * c->d_model);
    slots_add(ss, SLOT_SAVED, "rstd", B * T);
    slots_add(ss, SLOT_SAVED, "mean", config_norm_centers(c) ? B * T : 0);
}

struct norm norm_op(const struct config *c, int64_t M)
{
    return (struct norm){ .M = M, .D = c->d_model, .eps = c->norm_eps, .center = config_norm_centers(c),
                          .plus_one = config_norm_plus_one(c) };
}

static struct norm pre_norm(const struct pass *p)
{
    int64_t D = p->c->d_model;
    struct norm n = norm_op(p->c, p->B * p->T);
    n.x = tensor_f32(p->x, D);
    n.w = tensor_f32(pass_weight(p, PRE_NORM_W), D);
    n.bias = tensor_f32(pass_weight(p, PRE_NORM_BIAS), D);
    n.y = tensor_f32(pass_slot(p, NORMED), D);
    n.rstd = pass_slot(p, PRE_NORM_RSTD);
    n.mean = pass_slot(p, PRE_NORM_MEAN);
    n.work = p->work;
    return n;
}

size_t pre_norm_work(const struct pass *p)
{
    struct norm n = norm_op(p->c, p->B * p->T);
    return p->be->norm_work(&n);
}

void pre_norm_forward(const struct pass *p)
{
    struct norm n = pre_norm(p);
    p->be->norm_fwd(&n);
}

void pre_norm_backward(const struct pass *p, const float *dxn)
{
    int64_t D = p->c->d_model;
    struct norm n = pre_norm(p);
    n.dy = tensor_f32(dxn, D);
    n.dx = tensor_f32(p->dy, D);
    n.accumulate_dx = true;
    n.dw = tensor_f32(pass_grad(p, PRE_NORM_W), D);
    n.dbias = tensor_f32(pass_grad(p, PRE_NORM_BIAS), D);
    p->be->norm_bwd(&n);
}

void conv_forward(const struct pass *p, struct conv1d *cv, int carry)
{
    if (p->carry_in)
        p->be->copy(cv->halo.data, p->carry_in[carry], (size_t)(p->B * (cv->W - 1) * cv->C) * sizeof(float));
    if (p->carry_out)
        cv->halo_out = tensor_f32(p->carry_out[carry], cv->C);
    p->be->conv1d_fwd(cv);
}

void conv_step(const struct pass *p, struct conv1d *cv, int carry)
{
    cv->halo = tensor_f32(p->carry_in[carry], cv->C);
    p->be->conv1d_step(cv);
}

struct param *add_linear(struct params *ps, const struct config *c, int layer, int role, const char *name,
                         int64_t out, int64_t in, bool bias, bool residual)
{
    char full[64];
    size_t at = ps->n;
    snprintf(full, sizeof full, "mixer.%s.weight", name);
    param_init_linear(params_add(ps, layer, role, full, (const int64_t[]){ out, in, 0 }), c, in, residual);
    if (bias) {
        snprintf(full, sizeof full, "mixer.%s.bias", name);
        params_add(ps, layer, role + 1, full, (const int64_t[]){ out, 0 });
    }
    return &ps->p[at];
}

void add_conv(struct params *ps, const struct config *c, int layer, int role, int64_t channels,
              void (*cut)(struct param *p, const struct config *c))
{
    double bound = 1 / sqrt((double)c->d_conv); /* PyTorch's default, U(+-1/sqrt(fan_in)) */
    for (int i = 0; i <= c->conv_bias; i++) {
        struct param *p = i ? params_add(ps, layer, role + 1, "mixer.conv1d.bias", (const int64_t[]){ channels, 0 })
                            : params_add(ps, layer, role, "mixer.conv1d.weight",
                                         (const int64_t[]){ channels, 1, c->d_conv, 0 });
        p->init = INIT_UNIFORM;
        p->a = -bound;
        p->b = bound;
        cut(p, c);
    }
}
