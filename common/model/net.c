/* net.c - the network: embedding, sub-layers, norm, head, as calls of ops
 * SPDX-License-Identifier: MIT
 */
#include "net.h"

#include <math.h>

#include "common/base/err.h"
#include "common/base/mem.h"

struct net_ctx {
    struct net *n;
    int64_t B, T;               /* room for */
    bool train;
    enum recompute recompute;
    int32_t *ids, *targets, *start;
    struct slots *slots;        /* [layers], for the current shape */
    int64_t shaped_B, shaped_T; /* the shape that `slots` were made for */
    float *residual;            /* train: [layers+1][B*T*D]; else [B*T*D] */
    float *saved;               /* train without recompute: all layers' one after another; else one layer's */
    float *normed, *rstd, *mean; /* in front of the head */
    float *grad;                /* [B*T*D] gradient of the residual stream */
    float *loss, *logits;
    int64_t head_rows;          /* rows of `logits`, and of `host` */
    float *host;                /* logits on their way out of net_score(); NULL: train */
};

enum { SCORE_ROWS = 32 };       /* rows that pass the head at once in net_score() */

struct net_state {
    struct net *n;
    int64_t B, room, pos;
    float *data;
    int tensors;
    struct {
        int layer;
        const char *name;
        int64_t count;
        float *data;
    } *t;
    float *(*by_layer)[MAX_CARRIES];
};

static void *must_alloc(const struct backend *be, int64_t floats, const char *what)
{
    void *p = be->alloc(mul_size((size_t)(floats ? floats : 1), sizeof(float), what));
    if (!p)
        die("not enough memory: %s need %lld MiB", what, (long long)(floats * 4 >> 20));
    return p;
}

/* ---- the net ---- */

/* Each layer's parameters by role; free it. */
static const struct param *(*by_role(const struct params *ps, int64_t layers))[MAX_ROLES]
{
    const struct param *(*roles)[MAX_ROLES] = xcalloc((size_t)layers + 1, sizeof *roles);
    for (size_t i = 0; i < ps->n; i++)
        if (ps->p[i].layer >= 0)
            roles[ps->p[i].layer][ps->p[i].role] = &ps->p[i];
    return roles;
}

struct net *net_create(const struct config *c, const struct backend *be, bool train)
{
    struct net *n = xcalloc(1, sizeof *n);
    n->be = be;
    n->c = *c;
    params_init(&n->ps, c);
    n->roles = by_role(&n->ps, c->layers);
    n->weights = must_alloc(be, n->ps.slab, "weights");
    if (train)
        n->grads = must_alloc(be, n->ps.slab, "gradients");
    return n;
}

void net_free(struct net *n)
{
    if (!n)
        return;
    n->be->free(n->weights);
    n->be->free(n->grads);
    n->be->free(n->scratch);
    n->be->free(n->work);
    free(n->roles);
    params_free(&n->ps);
    free(n);
}

void net_init(struct net *n, uint64_t seed)
{
    for (size_t i = 0; i < n->ps.n; i++) {
        const struct param *p = &n->ps.p[i];
        float *host = xmalloc((size_t)p->count * sizeof *host);
        param_fill(p, seed, 0, p->count, host);
        n->be->upload(n->weights + p->offset, host, (size_t)p->count * sizeof *host);
        free(host);
    }
}

/* A tensor outside the layers in a slab; no data when the model has none of that name. */
static struct tensor in_slab(const struct net *n, float *slab, const char *name)
{
    const struct param *p = params_find(&n->ps, name);
    return tensor_f32(p ? slab + p->offset : NULL, n->c.d_model);
}

static struct tensor head_in(const struct net *n, float *slab)
{
    return in_slab(n, slab, n->c.tied ? "embeddings.weight" : "lm_head.weight");
}

/* ---- memory of a context, from the tables ---- */

struct need {
    int64_t saved_all, saved_most, scratch; /* floats */
    size_t work;
};

static struct xent head_op(const struct config *c, int64_t M, bool train, void *work)
{
    static float something;
    struct xent e = { .M = M, .D = c->d_model, .V = c->vocab, .softcap = c->softcap, .work = work };
    if (train)
        e.dx = e.dw = tensor_f32(&something, c->d_model);
    return e;
}

static struct need measure(const struct config *c, const struct param *(*roles)[MAX_ROLES],
                           const struct backend *be, int64_t B, int64_t T, bool train, int64_t room,
                           struct slots *slots)
{
    struct need need = { 0 };
    struct xent e = head_op(c, B * T, train, NULL);
    struct norm fn = norm_op(c, B * T);
    need.work = be->xent_work(&e);
    size_t w = be->norm_work(&fn);
    need.work = w > need.work ? w : need.work;
    for (int64_t l = 0; l < c->layers; l++) {
        const struct layer_kind *k = layer_kind(c->pattern[l]);
        struct slots *ss = &slots[l];
        *ss = (struct slots){ 0 };
        k->slots(ss, c, (int)l, B, T, train);
        need.saved_all += ss->saved;
        need.saved_most = ss->saved > need.saved_most ? ss->saved : need.saved_most;
        need.scratch = ss->scratch > need.scratch ? ss->scratch : need.scratch;
        /* Only shapes are read: the pointers of the ops lead nowhere here. */
        struct pass p = { .be = be, .c = c, .layer = (int)l, .slots = ss, .params = roles[l], .B = B, .T = T,
                          .room = room };
        static float nowhere[16];
        p.weights = p.saved = p.scratch = nowhere;
        w = k->work(&p);
        need.work = w > need.work ? w : need.work;
    }
    return need;
}

static void reserve(struct net *n, int64_t scratch, size_t work)
{
    if (scratch > n->scratch_floats) {
        n->be->free(n->scratch);
        n->scratch = must_alloc(n->be, scratch, "scratch of the layers");
        n->scratch_floats = scratch;
    }
    if (work > n->work_bytes) {
        n->be->free(n->work);
        n->work = must_alloc(n->be, (int64_t)(work / sizeof(float) + 1), "scratch of the ops");
        n->work_bytes = work;
    }
}

struct net_ctx *net_ctx_create(struct net *n, int64_t B, int64_t T, bool train, enum recompute recompute,
                               int64_t room)
{
    const struct config *c = &n->c;
    const struct backend *be = n->be;
    struct net_ctx *x = xcalloc(1, sizeof *x);
    *x = (struct net_ctx){ .n = n, .B = B, .T = T, .train = train, .recompute = recompute, .shaped_B = B,
                           .shaped_T = T };
    x->slots = xcalloc((size_t)c->layers, sizeof *x->slots);
    int64_t M = B * T;
    struct need need = measure(c, n->roles, be, B, T, train, room, x->slots);
    reserve(n, need.scratch, need.work);
    x->saved = must_alloc(be, train && !recompute ? need.saved_all : need.saved_most, "activations");
    x->residual = must_alloc(be, M * c->d_model * (train ? c->layers + 1 : 1), "residual stream");
    x->normed = must_alloc(be, M * c->d_model, "activations");
    x->rstd = must_alloc(be, M, "activations");
    x->mean = must_alloc(be, M, "activations");
    x->ids = must_alloc(be, M, "tokens");
    x->targets = must_alloc(be, M, "tokens");
    x->start = must_alloc(be, M, "tokens");
    x->loss = must_alloc(be, M, "losses");
    x->head_rows = B;
    if (!train && M > B)
        x->head_rows = B > SCORE_ROWS ? B : M < SCORE_ROWS ? M : SCORE_ROWS;
    x->logits = must_alloc(be, x->head_rows * config_vocab_rows(c), "logits");
    if (!train)
        x->host = xmalloc(mul_size((size_t)(x->head_rows * c->vocab), sizeof *x->host, "logits"));
    if (train)
        x->grad = must_alloc(be, M * c->d_model, "gradients of activations");
    return x;
}

void net_ctx_free(struct net_ctx *x)
{
    if (!x)
        return;
    void *all[] = { x->saved, x->residual, x->normed, x->rstd, x->mean, x->ids, x->targets, x->start, x->loss, x->logits,
                    x->grad };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        x->n->be->free(all[i]);
    free(x->slots);
    free(x->host);
    free(x);
}

struct net_memory net_memory(const struct config *c, const struct backend *be, int64_t B, int64_t T, bool train,
                             enum recompute recompute)
{
    struct params ps;
    params_init(&ps, c);
    const struct param *(*roles)[MAX_ROLES] = by_role(&ps, c->layers);
    struct slots *slots = xcalloc((size_t)c->layers, sizeof *slots);
    struct need need = measure(c, roles, be, B, T, train, 0, slots);
    int64_t M = B * T, F = sizeof(float);
    struct net_memory m = { .weights = ps.slab * F, .grads = train ? ps.slab * F : 0,
                            .residual = M * c->d_model * (train ? c->layers + 3 : 2) * F,
                            .saved = (train && !recompute ? need.saved_all : need.saved_most) * F,
                            .scratch = need.scratch * F, .work = (int64_t)need.work };
    m.total = m.weights + m.grads + m.residual + m.saved + m.scratch + m.work;
    free(slots);
    free(roles);
    params_free(&ps);
    return m;
}

double net_flops(const struct config *c, int64_t T)
{
    double sum = 2.0 * (double)c->d_model * (double)c->vocab;
    for (int l = 0; l < c->layers; l++)
        sum += layer_kind(c->pattern[l])->flops(c, l, T);
    return sum;
}

/* ---- state ---- */

struct net_state *net_state_create(struct net *n, int64_t B, int64_t room)
{
    struct net_state *s = xcalloc(1, sizeof *s);
    struct carry carry[MAX_CARRIES];
    int64_t floats = 0;
    *s = (struct net_state){ .n = n, .B = B, .room = room };
    s->t = xcalloc((size_t)n->c.layers * MAX_CARRIES, sizeof *s->t);
    s->by_layer = xcalloc((size_t)n->c.layers, sizeof *s->by_layer);
    for (int l = 0; l < n->c.layers; l++) {
        int k = layer_kind(n->c.pattern[l])->carries(carry, &n->c, l, room);
        for (int i = 0; i < k; i++) {
            s->t[s->tensors].layer = l;
            s->t[s->tensors].name = carry[i].name;
            s->t[s->tensors++].count = carry[i].count;
            floats += B * carry[i].count;
        }
    }
    s->data = must_alloc(n->be, floats, "state");
    float *at = s->data;
    for (int i = 0, k = 0; i < s->tensors; i++) {
        k = i && s->t[i].layer == s->t[i - 1].layer ? k + 1 : 0;
        s->by_layer[s->t[i].layer][k] = s->t[i].data = at;
        at += B * s->t[i].count;
    }
    return s;
}

void net_state_free(struct net_state *s)
{
    if (!s)
        return;
    s->n->be->free(s->data);
    free(s->t);
    free(s->by_layer);
    free(s);
}

void net_state_clear(struct net_state *s, int64_t b)
{
    for (int i = 0; i < s->tensors; i++)
        s->n->be->zero(s->t[i].data + b * s->t[i].count, (size_t)s->t[i].count * sizeof(float));
}

void net_state_copy_row(struct net_state *to, int64_t b, const struct net_state *from, int64_t a)
{
    for (int i = 0; i < to->tensors; i++) {
        int64_t n = to->t[i].count;
        if (n != from->t[i].count)
            bug("states of different room");
        to->n->be->copy(to->t[i].data + b * n, from->t[i].data + a * n, (size_t)n * sizeof(float));
    }
}

int64_t net_state_pos(const struct net_state *s) { return s->pos; }
void net_state_set_pos(struct net_state *s, int64_t pos) { s->pos = pos; }
int net_state_tensors(const struct net_state *s) { return s->tensors; }

void net_state_tensor(const struct net_state *s, int i, char name[64], int64_t *floats, float **data)
{
    snprintf(name, 64, "layers.%d.%s", s->t[i].layer, s->t[i].name);
    *floats = s->t[i].count;
    *data = s->t[i].data;
}

/* ---- passes ---- */

static void shape_slots(struct net_ctx *x, int64_t B, int64_t T)
{
    if (B > x->B || T > x->T || B < 1 || T < 1)
        bug("a batch of %lld x %lld in a context of %lld x %lld", (long long)B, (long long)T, (long long)x->B,
            (long long)x->T);
    if (B == x->shaped_B && T == x->shaped_T)
        return;
    for (int64_t l = 0; l < x->n->c.layers; l++) {
        x->slots[l] = (struct slots){ 0 };
        layer_kind(x->n->c.pattern[l])->slots(&x->slots[l], &x->n->c, (int)l, B, T, x->train);
    }
    x->shaped_B = B;
    x->shaped_T = T;
}

static struct pass layer_pass(struct net_ctx *x, int64_t l, int64_t B, int64_t T, const int32_t *start,
                              float *saved)
{
    struct net *n = x->n;
    return (struct pass){ .be = n->be, .c = &n->c, .layer = (int)l, .slots = &x->slots[l], .params = n->roles[l],
                          .weights = n->weights, .grads = n->grads, .B = B, .T = T, .start = start, .saved = saved,
                          .scratch = n->scratch, .work = n->work };
}

static void use_state(struct pass *p, int64_t l, struct net_state *in, struct net_state *out)
{
    if (in && p->B > in->B)
        bug("%lld sequences in a state of %lld", (long long)p->B, (long long)in->B);
    p->carry_in = in ? in->by_layer[l] : NULL;
    p->carry_out = out ? out->by_layer[l] : NULL;
    p->pos = in ? in->pos : 0;
    p->room = in ? in->room : 0;
}

static const int32_t *stage(struct net_ctx *x, int32_t *to, const int32_t *from, int64_t M)
{
    if (!from)
        return NULL;
    x->n->be->upload(to, from, (size_t)M * sizeof *to);
    return to;
}

static float *embed(struct net_ctx *x, const int32_t *ids, int64_t M)
{
    const struct config *c = &x->n->c;
    x->n->be->embed_fwd(&(struct embed){ .M = M, .D = c->d_model, .V = config_vocab_rows(c),
                                         .scale = c->embed_scale, .ids = ids,
                                         .table = in_slab(x->n, x->n->weights, "embeddings.weight"),
                                         .y = tensor_f32(x->residual, c->d_model) });
    return x->residual;
}

static struct norm final_norm(struct net_ctx *x, const float *in, int64_t M)
{
    const struct config *c = &x->n->c;
    struct norm fn = norm_op(c, M);
    fn.x = tensor_f32(in, c->d_model);
    fn.w = in_slab(x->n, x->n->weights, "norm_f.weight");
    fn.bias = in_slab(x->n, x->n->weights, "norm_f.bias");
    fn.mean = x->mean;
    fn.y = tensor_f32(x->normed, c->d_model);
    fn.rstd = x->rstd;
    fn.work = x->n->work;
    return fn;
}

/* All sub-layers in inference: the residual stream is one buffer. */
static void run_layers(struct net_ctx *x, int64_t B, int64_t T, const int32_t *start, struct net_state *state)
{
    for (int64_t l = 0; l < x->n->c.layers; l++) {
        struct pass p = layer_pass(x, l, B, T, start, x->saved);
        p.x = p.y = x->residual;
        use_state(&p, l, state, state);
        const struct layer_kind *k = layer_kind(x->n->c.pattern[l]);
        if (T == 1 && !start && state && state->pos > 0) /* a step knows no start of a document */
            k->step(&p);
        else
            k->forward(&p);
    }
    if (state)
        state->pos += T;
}

void net_loss(struct net_ctx *x, const struct batch *b, struct net_state *state, float *loss)
{
    struct net *n = x->n;
    int64_t M = b->B * b->T;
    if (x->train)
        bug("net_loss with a context for training");
    shape_slots(x, b->B, b->T);
    const int32_t *ids = stage(x, x->ids, b->ids, M), *start = stage(x, x->start, b->start, M);
    embed(x, ids, M);
    run_layers(x, b->B, b->T, start, state);
    struct norm fn = final_norm(x, x->residual, M);
    n->be->norm_fwd(&fn);
    struct xent e = head_op(&n->c, M, false, n->work);
    e.x = fn.y;
    e.w = head_in(n, n->weights);
    e.target = stage(x, x->targets, b->targets, M);
    e.loss = x->loss;
    n->be->xent(&e);
    n->be->download(loss, x->loss, (size_t)M * sizeof *loss);
}

void net_train(struct net_ctx *x, const struct batch *b, struct net_state *in, struct net_state *out, float *loss)
{
    struct net *n = x->n;
    const struct backend *be = n->be;
    int64_t M = b->B * b->T, D = n->c.d_model, L = n->c.layers;
    if (!x->train || (in && in == out))
        bug("net_train: a context for inference, or one state for both ends");
    shape_slots(x, b->B, b->T);
    const int32_t *ids = stage(x, x->ids, b->ids, M), *start = stage(x, x->start, b->start, M);

    float *saved = x->saved;
    embed(x, ids, M);
    for (int64_t l = 0; l < L; l++) {
        struct pass p = layer_pass(x, l, b->B, b->T, start, saved);
        p.x = x->residual + l * M * D;
        p.y = x->residual + (l + 1) * M * D;
        use_state(&p, l, in, out);
        layer_kind(n->c.pattern[l])->forward(&p);
        if (!x->recompute)
            saved += x->slots[l].saved;
    }

    struct norm fn = final_norm(x, x->residual + L * M * D, M);
    be->norm_fwd(&fn);
    struct xent e = head_op(&n->c, M, true, n->work);
    e.x = fn.y;
    e.w = head_in(n, n->weights);
    e.target = stage(x, x->targets, b->targets, M);
    e.loss = x->loss;
    float *dnormed = x->grad;
    e.dx = tensor_f32(dnormed, D);
    e.dw = head_in(n, n->grads);
    be->xent(&e);
    fn.dy = fn.dx = tensor_f32(dnormed, D);
    fn.dw = in_slab(n, n->grads, "norm_f.weight");
    fn.dbias = in_slab(n, n->grads, "norm_f.bias");
    be->norm_bwd(&fn);

    for (int64_t l = L - 1; l >= 0; l--) {
        if (!x->recompute)
            saved -= x->slots[l].saved;
        struct pass p = layer_pass(x, l, b->B, b->T, start, saved);
        p.x = x->residual + l * M * D;
        p.dy = x->grad;
        use_state(&p, l, in, NULL);
        const struct layer_kind *k = layer_kind(n->c.pattern[l]);
        if (x->recompute)
            k->forward(&p);
        k->backward(&p);
    }
    be->embed_bwd(&(struct embed){ .M = M, .D = D, .V = config_vocab_rows(&n->c), .ids = ids,
                                   .scale = n->c.embed_scale, .dy = tensor_f32(x->grad, D),
                                   .dtable = in_slab(n, n->grads, "embeddings.weight") });
    if (out)
        out->pos = (in ? in->pos : 0) + b->T;
    be->download(loss, x->loss, (size_t)M * sizeof *loss);
}

/* Logits of M rows of normed input into x->logits. */
static void head_logits(struct net_ctx *x, struct tensor in, int64_t M)
{
    struct net *n = x->n;
    int64_t rows = config_vocab_rows(&n->c);
    struct tensor out = tensor_f32(x->logits, rows);
    n->be->matmul(&(struct matmul){ .M = M, .N = rows, .K = n->c.d_model, .trans_b = true, .a = in,
                                    .b = head_in(n, n->weights), .c = out });
    if (n->c.softcap > 0)
        n->be->act_fwd(&(struct activation){ .kind = ACT_SOFTCAP, .M = M, .D = rows, .cap = n->c.softcap,
                                             .x = out, .y = out });
}

/* The logits [B,vocab] after the last token of each sequence. */
static void decode_head(struct net_ctx *x, int64_t B, int64_t T, float *logits)
{
    struct net *n = x->n;
    int64_t D = n->c.d_model, rows = config_vocab_rows(&n->c);
    struct norm fn = final_norm(x, x->residual + (T - 1) * D, B);
    fn.x.ld = T * D;
    n->be->norm_fwd(&fn);
    head_logits(x, tensor_f32(x->normed, D), B);
    for (int64_t b = 0; b < B; b++)
        n->be->download(logits + b * n->c.vocab, x->logits + b * rows, (size_t)n->c.vocab * sizeof *logits);
}

void net_decode(struct net_ctx *x, struct net_state *state, const int32_t *ids, int64_t T, float *logits)
{
    int64_t B = state->B;
    if (state->room && state->pos + T > state->room)
        bug("%lld tokens in a state with room for %lld", (long long)(state->pos + T), (long long)state->room);
    shape_slots(x, B, T);
    embed(x, stage(x, x->ids, ids, B * T), B * T);
    run_layers(x, B, T, NULL, state);
    decode_head(x, B, T, logits);
}

void net_decode_rows(struct net_ctx *x, struct net_state *state, const int32_t *ids, const int64_t *pos,
                     float *logits)
{
    struct net *n = x->n;
    int64_t B = state->B, D = n->c.d_model;
    for (int64_t b = 0; b < B; b++)
        if (pos[b] < 1 || (state->room && pos[b] >= state->room))
            bug("token %lld of a sequence in a state with room for %lld", (long long)pos[b], (long long)state->room);
    shape_slots(x, B, 1);
    embed(x, stage(x, x->ids, ids, B), B);
    for (int64_t l = 0, t = 0; l < n->c.layers; l++) {
        struct pass p = layer_pass(x, l, B, 1, NULL, x->saved);
        const struct layer_kind *k = layer_kind(n->c.pattern[l]);
        p.x = p.y = x->residual;
        use_state(&p, l, state, state);
        int64_t first = t;
        while (t < state->tensors && state->t[t].layer == l)
            t++;
        if (!k->positional) {
            p.pos = 1; /* any: the sequence goes on */
            k->step(&p);
            continue;
        }
        for (int64_t b = 0; b < B; b++) {
            struct pass row = p;
            float *carry[MAX_CARRIES];
            for (int64_t i = first; i < t; i++)
                carry[i - first] = state->t[i].data + b * state->t[i].count;
            row.B = 1;
            row.x = row.y = x->residual + b * D;
            row.carry_in = row.carry_out = carry;
            row.pos = pos[b];
            k->step(&row);
        }
    }
    decode_head(x, B, 1, logits);
}

/* log(sum(exp(z))) of n logits, and the place of the largest (the first of equals). */
static double log_sum_exp(const float *z, int64_t n, int64_t *best)
{
    double sum = 0;
    *best = 0;
    for (int64_t v = 1; v < n; v++)
        if (z[v] > z[*best])
            *best = v;
    for (int64_t v = 0; v < n; v++)
        sum += (double)expf(z[v] - z[*best]);
    return log(sum) + (double)z[*best];
}

void net_score(struct net_ctx *x, const struct batch *b, double *logp, bool *greedy)
{
    struct net *n = x->n;
    int64_t M = b->B * b->T, D = n->c.d_model, V = n->c.vocab, rows = config_vocab_rows(&n->c);
    if (x->train)
        bug("net_score with a context for training");
    shape_slots(x, b->B, b->T);
    const int32_t *ids = stage(x, x->ids, b->ids, M), *start = stage(x, x->start, b->start, M);
    embed(x, ids, M);
    run_layers(x, b->B, b->T, start, NULL);
    struct norm fn = final_norm(x, x->residual, M);
    n->be->norm_fwd(&fn);
    int64_t *place = xmalloc((size_t)x->head_rows * sizeof *place);
    for (int64_t m = 0; m < M;) {
        int64_t k = 0;
        for (; m < M && k < x->head_rows; m++) {
            logp[m] = 0;
            greedy[m] = false;
            if (b->targets[m] < 0)
                continue;
            /* The residual stream has done its work: it takes the rows that are scored. */
            n->be->copy(x->residual + k * D, x->normed + m * D, (size_t)D * sizeof(float));
            place[k++] = m;
        }
        if (k == 0)
            break;
        head_logits(x, tensor_f32(x->residual, D), k);
        for (int64_t i = 0; i < k; i++)
            n->be->download(x->host + i * V, x->logits + i * rows, (size_t)V * sizeof *x->host);
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < k; i++) {
            int64_t best;
            double lse = log_sum_exp(x->host + i * V, V, &best);
            logp[place[i]] = (double)x->host[i * V + b->targets[place[i]]] - lse;
            greedy[place[i]] = best == b->targets[place[i]];
        }
    }
    free(place);
}
