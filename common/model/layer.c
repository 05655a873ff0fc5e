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

static void add_slot(struct slots *ss, enum slot_use use, enum dtype dtype, const char *name, int64_t count)
{
    if (ss->n == MAX_SLOTS)
        bug("a layer with more than %d slots", MAX_SLOTS);
    int64_t *total = use == SLOT_SAVED ? &ss->saved : &ss->scratch;
    ss->s[ss->n++] = (struct slot){ name, use, dtype, count, *total };
    *total += (count * dtype_bytes(dtype) + 63) / 64 * 64;
}

void slots_add(struct slots *ss, enum slot_use use, const char *name, int64_t count)
{
    add_slot(ss, use, ss->precision.act, name, count);
}

void slots_add_f32(struct slots *ss, enum slot_use use, const char *name, int64_t count)
{
    add_slot(ss, use, F32, name, count);
}

void linear_forward(const struct pass *p, const struct linear *l)
{
    p->be->matmul(&(struct matmul){ .M = l->M, .N = l->out, .K = l->in, .trans_b = true, .a = l->x,
                                    .b = pass_matrix(p, l->w, l->in), .c = l->y, .add = l->add,
                                    .bias = pass_param(p, l->w + 1, l->out) });
}

void linear_backward(const struct pass *p, const struct linear *l, struct tensor dy, struct tensor dx, bool accumulate_dx)
{
    struct tensor dw = pass_grad(p, l->w, l->in);
    p->be->matmul(&(struct matmul){ .M = l->M, .N = l->in, .K = l->out, .a = dy, .b = pass_matrix(p, l->w, l->in),
                                    .c = dx, .add = accumulate_dx ? dx : (struct tensor){ 0 } });
    p->be->matmul(&(struct matmul){ .M = l->out, .N = l->in, .K = l->M, .trans_a = true, .a = dy, .b = l->x, .c = dw,
                                    .add = dw });
    if (p->params[l->w + 1])
        p->be->colsum(&(struct colsum){ .M = l->M, .D = l->out, .x = dy, .y = pass_grad(p, l->w + 1, l->out),
                                        .work = p->work });
}

size_t linear_work(const struct pass *p, int64_t out)
{
    struct colsum s = { .M = p->B * p->T, .D = out, .x = { .ld = out, .dtype = p->slots->precision.act } };
    return p->be->colsum_work(&s);
}

void linear_residual(const struct pass *p, const struct linear *l)
{
    struct linear last = *l;
    last.y = p->y;
    last.add = p->x;
    if (p->y.data)
        linear_forward(p, &last);
}

void linear_residual_backward(const struct pass *p, const struct linear *l, struct tensor dx)
{
    struct tensor dy = pass_slot(p, D_OUTPUT, l->out);
    if (dy.data)
        p->be->cast(&(struct cast){ .M = l->M, .D = l->out, .x = p->dy, .y = dy });
    linear_backward(p, l, dy.data ? dy : p->dy, dx, false);
}

void pre_norm_params(struct params *ps, const struct config *c, int layer)
{
    params_add_norm(ps, c, layer, PRE_NORM_W, "norm");
}

void pre_norm_slots(struct slots *ss, const struct config *c, int64_t B, int64_t T, bool train)
{
    bool two = ss->precision.residual != ss->precision.act;
    slots_add(ss, SLOT_SAVED, "normed", B * T * c->d_model);
    slots_add_f32(ss, SLOT_SAVED, "rstd", B * T);
    slots_add_f32(ss, SLOT_SAVED, "mean", config_norm_centers(c) ? B * T : 0);
    slots_add(ss, SLOT_SCRATCH, "d_output", train && two ? B * T * c->d_model : 0);
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
    n.x = p->x;
    n.w = pass_param(p, PRE_NORM_W, D);
    n.bias = pass_param(p, PRE_NORM_BIAS, D);
    n.y = pass_slot(p, NORMED, D);
    n.rstd = pass_floats(p, PRE_NORM_RSTD);
    n.mean = pass_floats(p, PRE_NORM_MEAN);
    n.work = p->work;
    return n;
}

size_t pre_norm_work(const struct pass *p)
{
    struct norm n = pre_norm(p);
    return p->be->norm_work(&n);
}

void pre_norm_forward(const struct pass *p)
{
    struct norm n = pre_norm(p);
    p->be->norm_fwd(&n);
}

void pre_norm_backward(const struct pass *p, struct tensor dxn)
{
    int64_t D = p->c->d_model;
    struct norm n = pre_norm(p);
    n.dy = dxn;
    n.dx = p->dy;
    n.accumulate_dx = true;
    n.dw = pass_grad(p, PRE_NORM_W, D);
    n.dbias = pass_grad(p, PRE_NORM_BIAS, D);
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
