/* attention.c - sub-layer *: causal attention with grouped keys and values, no positional encoding
 * SPDX-License-Identifier: MIT
 *
 *   q, k, v = projections of norm(u);  out = o_proj(softmax(q k^T / sqrt(headdim)) v)
 * Keys and values of earlier passes are carried in caches of `room` tokens; without room nothing is carried and
 * the first token of the pass is the first key.
 */
#include <math.h>

#include "layer.h"

enum { Q_PROJ = 1, K_PROJ, V_PROJ, O_PROJ };
enum { QUERY = 2, KEY, VALUE, OUT, LSE, D_OUT, D_QUERY, D_KEY, D_VALUE, D_NORMED };
enum { CARRY_KEY, CARRY_VALUE };

static void add_params(struct params *ps, const struct config *c, int layer)
{
    int64_t D = c->d_model, dq = c->attn_heads * c->attn_headdim, dkv = c->attn_kv_heads * c->attn_headdim;
    static const char *const names[3] = { "mixer.q_proj.weight", "mixer.k_proj.weight", "mixer.v_proj.weight" };
    pre_norm_params(ps, c, layer);
    for (int i = 0; i < 3; i++) {
        int64_t rows = i ? dkv : dq;
        struct param *p = params_add(ps, layer, names[i], (const int64_t[]){ rows, D, 0 });
        param_init_linear(p, c, D, false);
        param_cut(p, CUT_ROWS, rows, c->attn_headdim);
    }
    struct param *p = params_add(ps, layer, "mixer.o_proj.weight", (const int64_t[]){ D, dq, 0 });
    param_init_linear(p, c, dq, true);
    param_cut(p, CUT_COLUMNS, dq, c->attn_headdim);
}

static void add_slots(struct slots *ss, const struct config *c, int64_t B, int64_t T, bool train)
{
    int64_t M = B * T, dq = M * c->attn_heads * c->attn_headdim, dkv = M * c->attn_kv_heads * c->attn_headdim;
    pre_norm_slots(ss, c, B, T);
    slots_add(ss, SLOT_SAVED, "q", dq);
    slots_add(ss, SLOT_SAVED, "k", dkv);
    slots_add(ss, SLOT_SAVED, "v", dkv);
    slots_add(ss, SLOT_SAVED, "out", dq);
    slots_add(ss, SLOT_SAVED, "lse", M * c->attn_heads);
    slots_add(ss, SLOT_SCRATCH, "d_out", train ? dq : 0);
    slots_add(ss, SLOT_SCRATCH, "d_q", train ? dq : 0);
    slots_add(ss, SLOT_SCRATCH, "d_k", train ? dkv : 0);
    slots_add(ss, SLOT_SCRATCH, "d_v", train ? dkv : 0);
    slots_add(ss, SLOT_SCRATCH, "d_normed", train ? M * c->d_model : 0);
}

static struct attn attn_op(const struct pass *p)
{
    const struct config *c = p->c;
    int64_t dq = c->attn_heads * c->attn_headdim, dkv = c->attn_kv_heads * c->attn_headdim;
    bool cached = p->room > 0 && p->carry_out;
    return (struct attn){ .B = p->B, .T = p->T, .S = (cached ? p->pos : 0) + p->T, .q0 = cached ? p->pos : 0,
                          .Smax = cached ? p->room : p->T, .Hq = c->attn_heads, .Hkv = c->attn_kv_heads,
                          .hd = c->attn_headdim, .scale = 1 / sqrt((double)c->attn_headdim), .start = p->start,
                          .q = tensor_f32(pass_slot(p, QUERY), dq),
                          .k = tensor_f32(cached ? p->carry_out[CARRY_KEY] : pass_slot(p, KEY), dkv),
                          .v = tensor_f32(cached ? p->carry_out[CARRY_VALUE] : pass_slot(p, VALUE), dkv),
                          .o = tensor_f32(pass_slot(p, OUT), dq), .lse = pass_slot(p, LSE), .work = p->work };
}

static size_t work(const struct pass *p)
{
    struct pass longest = *p; /* a cache may be full when the scratch is needed */
    longest.pos = p->room > p->T ? p->room - p->T : 0;
    struct norm n = pre_norm(p);
    struct attn a = attn_op(&longest);
    a.S = a.Smax = p->room > p->T ? p->room : p->T;
    a.q0 = a.S - a.T;
    size_t x = p->be->norm_work(&n), y = p->be->attn_work(&a);
    return x > y ? x : y;
}

/* Queries to their slot; keys and values to their slots, or to the rows pos.. of the caches. */
static void project(const struct pass *p, const struct attn *a)
{
    int64_t D = p->c->d_model, M = p->B * p->T, dq = a->Hq * a->hd, dkv = a->Hkv * a->hd;
    struct norm n = pre_norm(p);
    p->be->norm_fwd(&n);
    const float *u = pass_slot(p, PRE_NORM_SLOT);
    linear_forward(p->be, M, D, dq, u, D, pass_weight(p, Q_PROJ), pass_slot(p, QUERY), dq, false);
    for (int i = 0; i < 2; i++) {
        float *to = i ? a->v.data : a->k.data;
        const float *w = pass_weight(p, i ? V_PROJ : K_PROJ);
        if (a->Smax == p->T)
            linear_forward(p->be, M, D, dkv, u, D, w, to, dkv, false);
        else
            for (int64_t b = 0; b < p->B; b++)
                linear_forward(p->be, p->T, D, dkv, u + b * p->T * D, D, w, to + (b * a->Smax + a->q0) * dkv, dkv,
                               false);
    }
}

static void finish(const struct pass *p, const struct attn *a)
{
    int64_t D = p->c->d_model, dq = a->Hq * a->hd;
    if (p->y)
        linear_forward(p->be, p->B * p->T, dq, D, pass_slot(p, OUT), dq, pass_weight(p, O_PROJ), p->y, D, true);
}

static void forward(const struct pass *p)
{
    struct attn a = attn_op(p);
    project(p, &a);
    p->be->attn_fwd(&a);
    finish(p, &a);
}

static void step(const struct pass *p)
{
    struct attn a = attn_op(p);
    project(p, &a);
    p->be->attn_step(&a);
    finish(p, &a);
}

static void backward(const struct pass *p)
{
    int64_t D = p->c->d_model, M = p->B * p->T;
    struct attn a = attn_op(p);
    int64_t dq = a.Hq * a.hd, dkv = a.Hkv * a.hd;
    const float *u = pass_slot(p, PRE_NORM_SLOT);
    float *d_normed = pass_slot(p, D_NORMED);
    linear_backward(p->be, M, dq, D, pass_slot(p, OUT), dq, pass_weight(p, O_PROJ), p->dy, D, pass_slot(p, D_OUT),
                    dq, false, pass_grad(p, O_PROJ));
    a.dout = tensor_f32(pass_slot(p, D_OUT), dq);
    a.dq = tensor_f32(pass_slot(p, D_QUERY), dq);
    a.dk = tensor_f32(pass_slot(p, D_KEY), dkv);
    a.dv = tensor_f32(pass_slot(p, D_VALUE), dkv);
    p->be->attn_bwd(&a);
    linear_backward(p->be, M, D, dq, u, D, pass_weight(p, Q_PROJ), pass_slot(p, D_QUERY), dq, d_normed, D, false,
                    pass_grad(p, Q_PROJ));
    linear_backward(p->be, M, D, dkv, u, D, pass_weight(p, K_PROJ), pass_slot(p, D_KEY), dkv, d_normed, D, true,
                    pass_grad(p, K_PROJ));
    linear_backward(p->be, M, D, dkv, u, D, pass_weight(p, V_PROJ), pass_slot(p, D_VALUE), dkv, d_normed, D, true,
                    pass_grad(p, V_PROJ));
    pre_norm_backward(p, d_normed);
}

static int carries(struct carry *out, const struct config *c, int64_t room)
{
    if (room == 0)
        return 0;
    out[CARRY_KEY] = (struct carry){ "key", room * c->attn_kv_heads * c->attn_headdim };
    out[CARRY_VALUE] = (struct carry){ "value", room * c->attn_kv_heads * c->attn_headdim };
    return 2;
}

static double flops(const struct config *c, int64_t T)
{
    double dq = (double)(c->attn_heads * c->attn_headdim), dkv = (double)(c->attn_kv_heads * c->attn_headdim);
    double linear = 2.0 * (double)c->d_model * (2 * dq + 2 * dkv);
    return linear + 2.0 * dq * (double)T; /* q k^T and p v, the causal half of 4 dq T */
}

extern const struct layer_kind layer_attention;
const struct layer_kind layer_attention = { .symbol = '*', .name = "attention", .params = add_params,
                                            .slots = add_slots, .work = work, .forward = forward,
                                            .backward = backward, .step = step, .carries = carries,
                                            .flops = flops };
