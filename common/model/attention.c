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
    pre_norm_slots(ss, c, B, T, train);
    slots_add(ss, SLOT_SAVED, "q", dq);
    slots_add(ss, SLOT_SAVED, "k", dkv);
    slots_add(ss, SLOT_SAVED, "v", dkv);
    slots_add(ss, SLOT_SAVED, "out", dq);
    slots_add_f32(ss, SLOT_SAVED, "lse", M * c->attn_heads);
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

/* Keys or values: where the pass writes and reads them. */
static struct tensor keys(const struct pass *p, int slot, int carry)
{
    struct tensor t = pass_slot(p, slot, width_kv(p->c));
    if (cached(p))
        t.data = p->carry_out[carry];
    return t;
}

static struct attn attn_op(const struct pass *p)
{
    const struct config *c = p->c;
    int64_t dq = width_q(c), before = keys_before(p);
    return (struct attn){ .B = p->B, .T = p->T, .S = before + p->T, .q0 = before,
                          .Smax = cached(p) ? p->room : before + p->T, .Hq = c->attn_heads, .Hkv = c->attn_kv_heads,
                          .hd = c->attn_headdim, .window = windowed(c, p->layer) ? c->window : 0,
                          .scale = 1 / sqrt((double)c->attn_headdim), .softcap = c->attn_softcap, .start = p->start,
                          .q = pass_slot(p, QUERY, dq), .k = keys(p, KEY, CARRY_KEY), .v = keys(p, VALUE, CARRY_VALUE),
                          .o = pass_slot(p, OUT, dq), .lse = pass_floats(p, LSE), .work = p->work };
}

static struct linear linear(const struct pass *p, int w)
{
    int64_t D = p->c->d_model, dq = width_q(p->c), M = p->B * p->T;
    if (w == O_PROJ)
        return (struct linear){ .M = M, .in = dq, .out = D, .w = w, .x = pass_slot(p, OUT, dq) };
    return (struct linear){ .M = M, .in = D, .out = dq, .w = w, .x = pass_slot(p, NORMED, D),
                            .y = pass_slot(p, QUERY, dq) };
}

static size_t work(const struct pass *p)
{
    /* The scratch must do for the longest sequence of keys: a cache or a window that is full. */
    static void *nowhere[2];
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
static void rotate(const struct pass *p, struct tensor x, int64_t heads, int64_t rows, bool inverse)
{
    const struct config *c = p->c;
    struct rope r = { .B = p->B, .T = p->T, .H = heads, .hd = c->attn_headdim, .R = c->rotary_dim, .rows = rows,
                      .pos0 = p->pos, .base = c->rope_base, .inverse = inverse, .start = p->start,
                      .x = x };
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
        struct tensor to = tensor_from(i ? a->v : a->k, row * dkv);
        int w = i ? V_PROJ : K_PROJ;
        bool together = a->Smax == p->T; /* the sequences lie without a gap: one product */
        p->be->matmul(&(struct matmul){ .M = together ? p->B * p->T : p->T, .N = dkv, .K = D, .trans_b = true,
                                        .a = pass_slot(p, NORMED, D), .b = pass_matrix(p, w, D), .c = to,
                                        .bias = pass_param(p, w + 1, dkv),
                                        .batch = together ? 1 : p->B, .step_a = p->T * D,
                                        .step_c = a->Smax * dkv });
        if (i == 0)
            rotate(p, to, a->Hkv, a->Smax, false);
    }
}

/* Rows [from, from+n) of a sequence of keys, into or out of the ring that holds key j in row j mod rows. */
static void ring_copy(const struct backend *be, char *ring, int64_t rows, char *line, int64_t from, int64_t n,
                      int64_t row_bytes, bool out)
{
    for (int64_t done = 0, part; done < n; done += part) {
        int64_t at = (from + done) % rows;
        part = smaller(n - done, rows - at);
        char *r = ring + at * row_bytes, *l = line + done * row_bytes;
        be->copy(out ? l : r, out ? r : l, (size_t)(part * row_bytes));
    }
}

/* The keys before the pass out of the rings (out), or the newest of the pass into them. */
static void rings(const struct pass *p, const struct attn *a, void *const *carry, bool out)
{
    int64_t rows = ring_rows(p->c, p->room), row_bytes = a->k.ld * dtype_bytes(a->k.dtype), n = out ? a->q0 : smaller(rows, a->S);
    int64_t row = out ? 0 : a->S - n, from = p->pos - a->q0 + row;
    for (int i = 0; i < 2; i++)
        for (int64_t b = 0; b < p->B; b++)
            ring_copy(p->be, (char *)carry[i] + b * rows * row_bytes, rows,
                      (char *)(i ? a->v.data : a->k.data) + (b * a->Smax + row) * row_bytes, from, n, row_bytes, out);
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
    struct tensor d_normed = pass_slot(p, D_NORMED, D), d_q = pass_slot(p, D_QUERY, dq);
    struct tensor d_k = pass_slot(p, D_KEY, dkv), d_v = pass_slot(p, D_VALUE, dkv);
    linear_residual_backward(p, &out, pass_slot(p, D_OUT, dq));
    a.dout = pass_slot(p, D_OUT, dq);
    a.dq = d_q;
    a.dk = d_k;
    a.dv = d_v;
    p->be->attn_bwd(&a);
    rotate(p, d_q, a.Hq, p->T, true);
    rotate(p, tensor_from(d_k, a.q0 * dkv), a.Hkv, a.Smax, true);
    linear_backward(p, &q, d_q, d_normed, false);
    /* The gradient of the keys before the pass ends here: backpropagation is truncated at the row. */
    int64_t sequences = a.Smax == p->T ? 1 : p->B, M = p->B * p->T / sequences;
    for (int64_t b = 0; b < sequences; b++)
        for (int i = 0; i < 2; i++) {
            struct linear kv = { .M = M, .in = D, .out = dkv, .w = i ? V_PROJ : K_PROJ,
                                 .x = tensor_from(pass_slot(p, NORMED, D), b * M * D) };
            linear_backward(p, &kv, tensor_from(i ? d_v : d_k, (b * a.Smax + a.q0) * dkv),
                            tensor_from(d_normed, b * M * D), true);
        }
    pre_norm_backward(p, d_normed);
}

static int carries(struct carry *out, const struct config *c, int layer, int64_t room)
{
    int64_t rows = windowed(c, layer) ? ring_rows(c, room) : room;
    if (rows == 0)
        return 0;
    out[CARRY_KEY] = (struct carry){ "key", rows * width_kv(c), true };
    out[CARRY_VALUE] = (struct carry){ "value", rows * width_kv(c), true };
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
