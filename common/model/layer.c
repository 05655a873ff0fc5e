/* layer.c - the list of layer kinds, and what all of them share
 * SPDX-License-Identifier: MIT
 */
#include "layer.h"

#include "common/base/err.h"

extern const struct layer_kind layer_mamba2, layer_attention, layer_mlp;
static const struct layer_kind *const kinds[] = { &layer_mamba2, &layer_attention, &layer_mlp };
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

void linear_forward(const struct backend *be, int64_t M, int64_t in, int64_t out, const float *x, int64_t ldx,
                    const float *w, float *y, int64_t ldy, bool accumulate)
{
    be->matmul(&(struct matmul){ .M = M, .N = out, .K = in, .trans_b = true, .a = tensor_f32(x, ldx),
                                 .b = tensor_f32(w, in), .c = tensor_f32(y, ldy),
                                 .add = tensor_f32(accumulate ? y : NULL, ldy) });
}

void linear_backward(const struct backend *be, int64_t M, int64_t in, int64_t out, const float *x, int64_t ldx,
                     const float *w, const float *dy, int64_t ldy, float *dx, int64_t lddx, bool accumulate_dx,
                     float *dw)
{
    be->matmul(&(struct matmul){ .M = M, .N = in, .K = out, .a = tensor_f32(dy, ldy), .b = tensor_f32(w, in),
                                 .c = tensor_f32(dx, lddx), .add = tensor_f32(accumulate_dx ? dx : NULL, lddx) });
    be->matmul(&(struct matmul){ .M = out, .N = in, .K = M, .trans_a = true, .a = tensor_f32(dy, ldy),
                                 .b = tensor_f32(x, ldx), .c = tensor_f32(dw, in), .add = tensor_f32(dw, in) });
}

void pre_norm_params(struct params *ps, const struct config *c, int layer)
{
    params_add(ps, layer, "norm.weight", (const int64_t[]){ c->d_model, 0 })->a = 1;
}

void pre_norm_slots(struct slots *ss, const struct config *c, int64_t B, int64_t T)
{
    slots_add(ss, SLOT_SAVED, "normed", B * T * c->d_model);
    slots_add(ss, SLOT_SAVED, "rstd", B * T);
}

struct norm pre_norm(const struct pass *p)
{
    int64_t D = p->c->d_model;
    return (struct norm){ .M = p->B * p->T, .D = D, .eps = p->c->norm_eps, .x = tensor_f32(p->x, D),
                             .w = tensor_f32(pass_weight(p, PRE_NORM_PARAM), D),
                             .y = tensor_f32(pass_slot(p, PRE_NORM_SLOT), D),
                             .rstd = pass_slot(p, PRE_NORM_RSTD), .work = p->work };
}

void pre_norm_backward(const struct pass *p, const float *dxn)
{
    int64_t D = p->c->d_model;
    struct norm n = pre_norm(p);
    n.dy = tensor_f32(dxn, D);
    n.dx = tensor_f32(p->dy, D);
    n.accumulate_dx = true;
    n.dw = tensor_f32(pass_grad(p, PRE_NORM_PARAM), D);
    p->be->norm_bwd(&n);
}
