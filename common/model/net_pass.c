/* net_pass.c - the network as calls of ops: losses, gradients, logits
 * SPDX-License-Identifier: MIT
 */
#include <math.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "net_private.h"

/* A tensor outside the layers in a slab; no data when the model has none of that name. */
static struct tensor in_slab(const struct net *n, struct tensor slab, const char *name)
{
    const struct param *p = params_find(&n->ps, name);
    return p ? tensor_from(slab, p->offset) : (struct tensor){ 0 };
}

static struct tensor weight(const struct net *n, const char *name)
{
    return in_slab(n, tensor_f32(n->weights, n->c.d_model), name);
}

static struct tensor grad(const struct net *n, const char *name)
{
    return in_slab(n, tensor_f32(n->grads, n->c.d_model), name);
}

static struct tensor matrix(const struct net *n, const char *name)
{
    return n->half ? in_slab(n, tensor_of(n->half, n->c.d_model, BF16), name) : weight(n, name);
}

static const char *head_name(const struct net *n) { return n->c.tied ? "embeddings.weight" : "lm_head.weight"; }

static void shape_slots(struct net_ctx *x, int64_t B, int64_t T)
{
    if (B > x->B || T > x->T || B < 1 || T < 1)
        bug("a batch of %lld x %lld in a context of %lld x %lld", (long long)B, (long long)T, (long long)x->B,
            (long long)x->T);
    if (B == x->shaped_B && T == x->shaped_T)
        return;
    net_make_slots(x->slots, &x->n->c, x->n->precision, B, T, x->train);
    x->shaped_B = B;
    x->shaped_T = T;
}

static struct pass layer_pass(struct net_ctx *x, int64_t l, int64_t B, int64_t T, const int32_t *start,
                              char *saved)
{
    struct net *n = x->n;
    return (struct pass){ .be = n->be, .c = &n->c, .layer = (int)l, .slots = &x->slots[l], .params = n->roles[l],
                          .weights = n->weights, .half = n->half, .grads = n->grads, .B = B, .T = T, .start = start,
                          .saved = saved, .scratch = n->scratch, .work = n->work };
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

/* The residual stream from a row on. */
static struct tensor stream(const struct net_ctx *x, int64_t row)
{
    int64_t D = x->n->c.d_model;
    return tensor_from(tensor_of(x->residual, D, x->n->precision.residual), row * D);
}

static void embed(struct net_ctx *x, const int32_t *ids, int64_t M)
{
    const struct config *c = &x->n->c;
    x->n->be->embed_fwd(&(struct embed){ .M = M, .D = c->d_model, .V = config_vocab_rows(c),
                                         .scale = c->embed_scale, .ids = ids,
                                         .table = matrix(x->n, "embeddings.weight"), .y = stream(x, 0) });
}

static struct norm final_norm(struct net_ctx *x, struct tensor in, int64_t M)
{
    const struct config *c = &x->n->c;
    struct norm fn = norm_op(c, M);
    fn.x = in;
    fn.w = weight(x->n, "norm_f.weight");
    fn.bias = weight(x->n, "norm_f.bias");
    fn.mean = x->mean;
    fn.y = tensor_of(x->normed, c->d_model, x->n->precision.act);
    fn.rstd = x->rstd;
    fn.work = x->n->work;
    return fn;
}

/* All sub-layers in inference: the residual stream is one buffer. */
static void run_layers(struct net_ctx *x, int64_t B, int64_t T, const int32_t *start, struct net_state *state)
{
    for (int64_t l = 0; l < x->n->c.layers; l++) {
        struct pass p = layer_pass(x, l, B, T, start, x->saved);
        p.x = p.y = stream(x, 0);
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
    struct norm fn = final_norm(x, stream(x, 0), M);
    n->be->norm_fwd(&fn);
    struct xent e = net_head(&n->c, n->precision.act, M, false, n->work);
    e.x = fn.y;
    e.w = matrix(n, head_name(n));
    e.target = stage(x, x->targets, b->targets, M);
    e.loss = x->loss;
    n->be->xent(&e);
    n->be->download(loss, x->loss, (size_t)M * sizeof *loss);
}

/* The first element in the slab of a layer's parameters; layers lie there in their order. */
static int64_t layer_begin(const struct net *n, int64_t l)
{
    size_t i = 0;
    while (n->ps.p[i].layer != l)
        i++;
    return n->ps.p[i].offset;
}

void net_train(struct net_ctx *x, const struct batch *b, struct net_state *in, struct net_state *out, float *loss,
               const struct net_ready *ready)
{
    struct net *n = x->n;
    const struct backend *be = n->be;
    int64_t M = b->B * b->T, D = n->c.d_model, L = n->c.layers;
    if (!x->train || (in && in == out))
        bug("net_train: a context for inference, or one state for both ends");
    shape_slots(x, b->B, b->T);
    const int32_t *ids = stage(x, x->ids, b->ids, M), *start = stage(x, x->start, b->start, M);

    struct tensor dstream = tensor_of(x->grad, D, n->precision.residual);
    char *saved = x->saved;
    embed(x, ids, M);
    for (int64_t l = 0; l < L; l++) {
        struct pass p = layer_pass(x, l, b->B, b->T, start, saved);
        p.x = stream(x, l * M);
        p.y = stream(x, (l + 1) * M);
        use_state(&p, l, in, out);
        layer_kind(n->c.pattern[l])->forward(&p);
        if (!x->recompute)
            saved += x->slots[l].saved;
    }

    struct norm fn = final_norm(x, stream(x, L * M), M);
    be->norm_fwd(&fn);
    struct xent e = net_head(&n->c, n->precision.act, M, true, n->work);
    e.x = fn.y;
    e.w = matrix(n, head_name(n));
    e.target = stage(x, x->targets, b->targets, M);
    e.loss = loss;
    e.dx = tensor_of(x->d_normed, D, n->precision.act);
    e.dw = grad(n, head_name(n));
    be->xent(&e);
    fn.dy = e.dx;
    fn.dx = dstream;
    fn.dw = grad(n, "norm_f.weight");
    fn.dbias = grad(n, "norm_f.bias");
    be->norm_bwd(&fn);

    for (int64_t l = L - 1; l >= 0; l--) {
        if (!x->recompute)
            saved -= x->slots[l].saved;
        struct pass p = layer_pass(x, l, b->B, b->T, start, saved);
        p.x = stream(x, l * M);
        p.dy = dstream;
        use_state(&p, l, in, NULL);
        const struct layer_kind *k = layer_kind(n->c.pattern[l]);
        if (x->recompute)
            k->forward(&p);
        k->backward(&p);
        if (ready)
            ready->done(ready->arg, layer_begin(n, l));
    }
    be->embed_bwd(&(struct embed){ .M = M, .D = D, .V = config_vocab_rows(&n->c), .ids = ids,
                                   .scale = n->c.embed_scale, .dy = dstream,
                                   .dtable = grad(n, "embeddings.weight"), .work = n->work });
    if (ready)
        ready->done(ready->arg, 0);
    if (out)
        out->pos = (in ? in->pos : 0) + b->T;
}

/* Logits of M rows of normed input into x->logits. */
static void head_logits(struct net_ctx *x, struct tensor in, int64_t M)
{
    struct net *n = x->n;
    int64_t rows = config_vocab_rows(&n->c);
    struct tensor out = tensor_f32(x->logits, rows);
    n->be->matmul(&(struct matmul){ .M = M, .N = rows, .K = n->c.d_model, .trans_b = true, .a = in,
                                    .b = matrix(n, head_name(n)), .c = out });
    if (n->c.softcap > 0)
        n->be->act_fwd(&(struct activation){ .kind = ACT_SOFTCAP, .M = M, .D = rows, .cap = n->c.softcap,
                                             .x = out, .y = out });
}

/* What has come from the device is not to be used when something failed there. */
static void check_device(const struct net *n)
{
    const char *fault = n->be->sync();
    if (fault)
        die("%s", fault);
}

/* The logits [B,vocab] after the last token of each sequence. */
static void decode_head(struct net_ctx *x, int64_t B, int64_t T, float *logits)
{
    struct net *n = x->n;
    int64_t D = n->c.d_model, rows = config_vocab_rows(&n->c);
    struct norm fn = final_norm(x, stream(x, T - 1), B);
    fn.x.ld = T * D;
    n->be->norm_fwd(&fn);
    head_logits(x, fn.y, B);
    for (int64_t b = 0; b < B; b++)
        n->be->download(logits + b * n->c.vocab, x->logits + b * rows, (size_t)n->c.vocab * sizeof *logits);
    check_device(n);
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
    int64_t B = state->B;
    for (int64_t b = 0; b < B; b++)
        if (pos[b] < 1 || (state->room && pos[b] >= state->room))
            bug("token %lld of a sequence in a state with room for %lld", (long long)pos[b], (long long)state->room);
    shape_slots(x, B, 1);
    embed(x, stage(x, x->ids, ids, B), B);
    for (int64_t l = 0, t = 0; l < n->c.layers; l++) {
        struct pass p = layer_pass(x, l, B, 1, NULL, x->saved);
        const struct layer_kind *k = layer_kind(n->c.pattern[l]);
        p.x = p.y = stream(x, 0);
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
            void *carry[MAX_CARRIES];
            for (int64_t i = first; i < t; i++)
                carry[i - first] = sequence(&state->t[i], b);
            row.B = 1;
            row.x = row.y = stream(x, b);
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
    struct norm fn = final_norm(x, stream(x, 0), M);
    n->be->norm_fwd(&fn);
    /* The residual stream has done its work: its memory takes the rows that are scored. */
    struct tensor picked = tensor_of(x->residual, D, n->precision.act);
    size_t row_bytes = (size_t)(D * dtype_bytes(n->precision.act));
    int64_t *place = xmalloc((size_t)x->head_rows * sizeof *place);
    for (int64_t m = 0; m < M;) {
        int64_t k = 0;
        for (; m < M && k < x->head_rows; m++) {
            logp[m] = 0;
            greedy[m] = false;
            if (b->targets[m] < 0)
                continue;
            n->be->copy(tensor_from(picked, k * D).data, tensor_from(fn.y, m * D).data, row_bytes);
            place[k++] = m;
        }
        if (k == 0)
            break;
        head_logits(x, picked, k);
        for (int64_t i = 0; i < k; i++)
            n->be->download(x->host + i * V, x->logits + i * rows, (size_t)V * sizeof *x->host);
        check_device(n);
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
