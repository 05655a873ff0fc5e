/* attention.c - sub-layers * and L: causal attention with grouped keys and values; L in a sliding window
 * SPDX-License-Identifier: MIT
 *
 *   q, k, v = projections of norm(u), q and k rotated;  out = o_proj(softmax(q k^T / sqrt(headdim)) v)
 *
 * What is carried. `*`: keys and values of earlier passes, in caches of `room` tokens; without room nothing, and the
 * first token of the pass is the first key. L: always, its window, in rings of `window` tokens (or `room`, if that is
 * less): key j lies in row j mod ring. A pass of several tokens lays the ring's keys in order before its own.
 */
#include <math.h>

#include "layer.h"

enum { Q_PROJ = FIRST_ROLE, K_PROJ = Q_PROJ + 2, V_PROJ = K_PROJ + 2, O_PROJ = V_PROJ + 2 };
enum { QUERY = FIRST_SLOT, KEY, VALUE, OUT, LSE, D_OUT, D_QUERY, D_KEY, D_VALUE, D_NORMED };
enum { CARRY_KEY, CARRY_VALUE };

static bool windowed(const struct config *c, int layer) { return c->pattern[layer] == 'L'; }
static int64_t width_q(const struct config *c) { return c->attn_heads * c->attn_headdim; }
static int64_t width_kv(const struct config *c) { return c->attn_kv_heads * c->attn_headdim; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static void add_params(struct params *ps, const struct config *c, int layer)
{
    static const char *const names[3] = { "q_proj", "k_proj", "v_proj" };
    pre_norm_params(ps, c, layer);
    for (int i = 0; i < 3; i++) {
        int64_t rows = i ? width_kv(c) : width_q(c);
        struct param *p = add_linear(ps, c, layer, Q_PROJ + 2 * i, names[i], rows, c->d_model, c->attn_bias, false);
        for (int b = 0; b <= c->attn_bias; b++)
            param_cut(&p[b], CUT_ROWS, rows, c->attn_headdim);
    }
    struct param *p = add_linear(ps, c, layer, O_PROJ, "o_proj", c->d_model, width_q(c), c->attn_out_bias, true);
    param_cut(p, CUT_COLUMNS, width_q(c), c->attn_headdim);
}

static void add_slots(struct slots *ss, const struct config *c, int layer, int64_t B, int64_t T, bool train)
{
    int64_t M = B * T, dq = M * width_q(c);
    int64_t dkv = B * (T + (windowed(c, layer) ? c->window - 1 : 0)) * width_kv(c);
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

/* Rows of the ring that L carries. */
static int64_t ring_rows(const struct config *c, int64_t room) { return room > 0 ? smaller(room, c->window) : c->window; }

/* `*` with a cache: keys and values are written into the caches and read there. */
static bool cached(const struct pass *p)
{
    return !windowed(p->c, p->layer) && p->room > 0 && p->carry_out;
}

/* Keys before the first query that the pass sees. */
static int64_t keys_before(const struct pass *p)
{
    if (windowed(p->c, p->layer))
        return p->carry_in ? smaller(p->pos, ring_rows(p->c, p->room) - 1) : 0;
    return cached(p) ? p->pos : 0;
}

static struct attn attn_op(const struct pass *p)
{
    const struct config *c = p->c;
    int64_t dq = width_q(c), dkv = width_kv(c), before = keys_before(p);
    return (struct attn){ .B = p->B, .T = p->T, .S = before + p->T, .q0 = before,
                          .Smax = cached(p) ? p->room : before + p->T, .Hq = c->attn_heads, .Hkv = c->attn_kv_heads,
                          .hd = c->attn_headdim, .window = windowed(c, p->layer) ? c->window : 0,
                          .scale = 1 / sqrt((double)c->attn_headdim), .softcap = c->attn_softcap, .start = p->start,
                          .q = tensor_f32(pass_slot(p, QUERY), dq),
                          .k = tensor_f32(cached(p) ? p->carry_out[CARRY_KEY] : pass_slot(p, KEY), dkv),
                          .v = tensor_f32(cached(p) ? p->carry_out[CARRY_VALUE] : pass_slot(p, VALUE), dkv),
                          .o = tensor_f32(pass_slot(p, OUT), dq), .lse = pass_slot(p, LSE), .work = p->work };
}

static struct linear linear(const struct pass *p, int w)
{
    int64_t D = p->c->d_model, dq = width_q(p->c), M = p->B * p->T;
    if (w == O_PROJ)
        return (struct linear){ .M = M, .in = dq, .out = D, .w = w, .x = pass_slot(p, OUT), .ldx = dq, .ldy = D };
    return (struct linear){ .M = M, .in = D, .out = dq, .w = w, .x = pass_slot(p, NORMED), .ldx = D,
                            .y = pass_slot(p, QUERY), .ldy = dq };
}

static size_t work(const struct pass *p)
{
    /* The scratch must do for the longest sequence of keys: a cache or a window that is full. */
    static float *nowhere[2];
    struct pass longest = *p;
    if (windowed(p->c, p->layer) || p->room > 0) {
        longest.carry_in = longest.carry_out = nowhere;
        longest.pos = windowed(p->c, p->layer) ? p->c->window : p->room > p->T ? p->room - p->T : 0;
    }
    struct attn a = attn_op(&longest);
    a.Smax = a.Smax > a.S ? a.Smax : a.S;
    size_t most = pre_norm_work(p);
    at_least(&most, p->be->attn_work(&a));
    at_least(&most, linear_work(p, width_q(p->c) > p->c->d_model ? width_q(p->c) : p->c->d_model));
    at_least(&most, linear_work(p, width_kv(p->c)));
    return most;
}

/* Rotates T rows of each sequence, `rows` rows apart, or turns them back. */
static void rotate(const struct pass *p, float *x, int64_t heads, int64_t rows, bool inverse)
{
    const struct config *c = p->c;
    struct rope r = { .B = p->B, .T = p->T, .H = heads, .hd = c->attn_headdim, .R = c->rotary_dim, .rows = rows,
                      .pos0 = p->pos, .base = c->rope_base, .inverse = inverse, .start = p->start,
                      .x = tensor_f32(x, heads * c->attn_headdim) };
    if (c->rotary_dim)
        p->be->rope(&r);
}

/* Queries to their slot; keys (i = 0) and values of the T tokens to row `row` of each sequence in k and v. */
static void project(const struct pass *p, const struct attn *a, int64_t row)
{
    int64_t D = p->c->d_model, dkv = width_kv(p->c);
    struct linear q = linear(p, Q_PROJ);
    pre_norm_forward(p);
    linear_forward(p, &q);
    rotate(p, q.y, a->Hq, p->T, false);
    for (int i = 0; i < 2; i++) {
        float *to = (float *)(i ? a->v.data : a->k.data) + row * dkv;
        int w = i ? V_PROJ : K_PROJ;
        bool together = a->Smax == p->T; /* the sequences lie without a gap: one product */
        p->be->matmul(&(struct matmul){ .M = together ? p->B * p->T : p->T, .N = dkv, .K = D, .trans_b = true,
                                        .a = tensor_f32(pass_slot(p, NORMED), D),
                                        .b = tensor_f32(pass_weight(p, w), D), .c = tensor_f32(to, dkv),
                                        .bias = tensor_f32(pass_weight(p, w + 1), dkv),
                                        .batch = together ? 1 : p->B, .step_a = p->T * D,
                                        .step_c = a->Smax * dkv });
        if (i == 0)
            rotate(p, to, a->Hkv, a->Smax, false);
    }
}

/* Rows [from, from+n) of a sequence of keys, into or out of the ring that holds key j in row j mod rows. */
static void ring_copy(const struct backend *be, float *ring, int64_t rows, float *line, int64_t from, int64_t n,
                      int64_t width, bool out)
{
    for (int64_t done = 0, part; done < n; done += part) {
        int64_t at = (from + done) % rows;
        part = smaller(n - done, rows - at);
        float *r = ring + at * width, *l = line + done * width;
        be->copy(out ? l : r, out ? r : l, (size_t)(part * width) * sizeof(float));
    }
}

/* The keys before the pass out of the rings (out), or the newest of the pass into them. */
static void rings(const struct pass *p, const struct attn *a, float *const *carry, bool out)
{
    int64_t rows = ring_rows(p->c, p->room), width = width_kv(p->c), n = out ? a->q0 : smaller(rows, a->S);
    int64_t row = out ? 0 : a->S - n, from = p->pos - a->q0 + row;
    for (int i = 0; i < 2; i++)
        for (int64_t b = 0; b < p->B; b++)
            ring_copy(p->be, carry[i] + b * rows * width, rows,
                      (float *)(i ? a->v.data : a->k.data) + (b * a->Smax + row) * width, from, n, width, out);
}

static void finish(const struct pass *p)
{
    struct linear out = linear(p, O_PROJ);
    linear_residual(p, &out);
}

static void forward(const struct pass *p)
{
    struct attn a = attn_op(p);
    bool ring = windowed(p->c, p->layer);
    if (ring && p->carry_in)
        rings(p, &a, p->carry_in, true);
    project(p, &a, a.q0);
    if (ring && p->carry_out)
        rings(p, &a, p->carry_out, false);
    p->be->attn_fwd(&a);
    finish(p);
}

static void step(const struct pass *p)
{
    struct attn a = attn_op(p);
    if (windowed(p->c, p->layer)) {
        a.Smax = ring_rows(p->c, p->room);
        a.S = p->pos + 1;
        a.window = smaller(a.window, a.Smax);
        a.k.data = p->carry_in[CARRY_KEY];
        a.v.data = p->carry_in[CARRY_VALUE];
    }
    project(p, &a, p->pos % a.Smax);
    p->be->attn_step(&a);
    finish(p);
}

static void backward(const struct pass *p)
{
    int64_t D = p->c->d_model, dq = width_q(p->c), dkv = width_kv(p->c);
    struct attn a = attn_op(p);
    struct linear q = linear(p, Q_PROJ), out = linear(p, O_PROJ);
    float *d_normed = pass_slot(p, D_NORMED), *d_k = pass_slot(p, D_KEY), *d_v = pass_slot(p, D_VALUE);
    linear_backward(p, &out, p->dy, pass_slot(p, D_OUT), dq, false);
    a.dout = tensor_f32(pass_slot(p, D_OUT), dq);
    a.dq = tensor_f32(pass_slot(p, D_QUERY), dq);
    a.dk = tensor_f32(d_k, dkv);
    a.dv = tensor_f32(d_v, dkv);
    p->be->attn_bwd(&a);
    rotate(p, pass_slot(p, D_QUERY), a.Hq, p->T, true);
    rotate(p, d_k + a.q0 * dkv, a.Hkv, a.Smax, true);
    linear_backward(p, &q, pass_slot(p, D_QUERY), d_normed, D, false);
    /* The gradient of the keys before the pass ends here: backpropagation is truncated at the row. */
    int64_t sequences = a.Smax == p->T ? 1 : p->B, M = p->B * p->T / sequences;
    for (int64_t b = 0; b < sequences; b++)
        for (int i = 0; i < 2; i++) {
            struct linear kv = { .M = M, .in = D, .out = dkv, .w = i ? V_PROJ : K_PROJ,
                                 .x = pass_slot(p, NORMED) + b * M * D, .ldx = D, .ldy = dkv };
            linear_backward(p, &kv, (i ? d_v : d_k) + (b * a.Smax + a.q0) * dkv, d_normed + b * M * D, D, true);
        }
    pre_norm_backward(p, d_normed);
}

static int carries(struct carry *out, const struct config *c, int layer, int64_t room)
{
    int64_t rows = windowed(c, layer) ? ring_rows(c, room) : room;
    if (rows == 0)
        return 0;
    out[CARRY_KEY] = (struct carry){ "key", rows * width_kv(c) };
    out[CARRY_VALUE] = (struct carry){ "value", rows * width_kv(c) };
    return 2;
}

static double flops(const struct config *c, int layer, int64_t T)
{
    double dq = (double)width_q(c), t = (double)T, w = (double)c->window;
    double linear = 2.0 * (double)c->d_model * (2 * dq + 2 * (double)width_kv(c));
    /* q k^T and p v over the keys that a query sees on average: half of T, or the window but for its run-up */
    double keys = windowed(c, layer) && w < t ? w - w * w / (2 * t) : t / 2;
    return linear + 4.0 * dq * keys;
}

extern const struct layer_kind layer_attention, layer_window;
#define FUNCTIONS                                                                                              \
    .params = add_params, .slots = add_slots, .work = work, .forward = forward, .backward = backward,          \
    .step = step, .positional = true, .carries = carries, .flops = flops
const struct layer_kind layer_attention = { .symbol = '*', .name = "attention", FUNCTIONS };
const struct layer_kind layer_window = { .symbol = 'L', .name = "windowed attention", FUNCTIONS };
