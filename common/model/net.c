/* net.c - the network: its weights, what it needs and what it costs
 * SPDX-License-Identifier: MIT
 */
#include "net.h"

#include "common/base/err.h"
#include "common/base/mem.h"
#include "net_private.h"

enum { SCORE_ROWS = 32 };       /* rows that pass the head at once in net_score() */

void *net_alloc(const struct backend *be, int64_t count, int64_t size, const char *what)
{
    void *p = be->alloc(mul_size((size_t)(count ? count : 1), (size_t)size, what));
    if (!p)
        die("not enough memory: %s need %lld MiB", what, (long long)(count * size >> 20));
    return p;
}

static float *must_alloc_f32(const struct backend *be, int64_t count, const char *what)
{
    return net_alloc(be, count, sizeof(float), what);
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

struct net *net_create(const struct config *c, const struct backend *be, struct precision precision, bool train)
{
    struct net *n = xcalloc(1, sizeof *n);
    n->be = be;
    n->precision = precision;
    n->c = *c;
    params_init(&n->ps, c);
    n->roles = by_role(&n->ps, c->layers);
    n->weights = must_alloc_f32(be, n->ps.slab, "weights");
    if (precision.act == BF16)
        n->half = net_alloc(be, n->ps.slab, dtype_bytes(BF16), "weights in bf16");
    if (train)
        n->grads = must_alloc_f32(be, n->ps.slab, "gradients");
    return n;
}

void net_free(struct net *n)
{
    if (!n)
        return;
    n->be->free(n->weights);
    n->be->free(n->half);
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
    net_refresh_half(n);
}

void net_refresh_half(struct net *n)
{
    int64_t wide = 16; /* slabs are a multiple of it */
    if (n->half)
        n->be->cast(&(struct cast){ .M = n->ps.slab / wide, .D = wide, .x = tensor_f32(n->weights, wide),
                                    .y = { n->half, wide, BF16 } });
}

bool memory_is_host(const struct backend *be) { return !be->links; }

/* ---- memory of a context, from the tables ---- */

struct need {
    int64_t saved_all, saved_most, scratch; /* bytes */
    size_t work;
};

static float nowhere[16]; /* where only shapes are read, pointers lead here */

struct xent net_head(const struct config *c, enum dtype act, int64_t M, bool train, void *work)
{
    int64_t D = c->d_model;
    struct xent e = { .M = M, .D = D, .V = c->vocab, .rows = config_vocab_rows(c), .softcap = c->softcap,
                      .work = work };
    e.x = e.w = tensor_of(nowhere, D, act);
    if (train) {
        e.dx = e.x;
        e.dw = tensor_f32(nowhere, D);
    }
    return e;
}

void net_make_slots(struct slots *slots, const struct config *c, struct precision precision, int64_t B, int64_t T,
                    bool train)
{
    for (int64_t l = 0; l < c->layers; l++) {
        slots[l] = (struct slots){ .precision = precision };
        layer_kind(c->pattern[l])->slots(&slots[l], c, (int)l, B, T, train);
    }
}

static struct need measure(const struct config *c, const struct param *(*roles)[MAX_ROLES],
                           const struct backend *be, struct precision precision, int64_t B, int64_t T, bool train,
                           int64_t room, struct slots *slots)
{
    struct need need = { 0 };
    struct xent e = net_head(c, precision.act, B * T, train, NULL);
    struct norm fn = norm_op(c, B * T);
    fn.x.dtype = precision.residual;
    fn.y.dtype = precision.act;
    net_make_slots(slots, c, precision, B, T, train);
    need.work = be->xent_work(&e);
    size_t w = be->norm_work(&fn);
    need.work = w > need.work ? w : need.work;
    struct embed table = { .M = train ? B * T : 0, .D = c->d_model, .V = config_vocab_rows(c) };
    w = be->embed_work(&table);
    need.work = w > need.work ? w : need.work;
    for (int64_t l = 0; l < c->layers; l++) {
        const struct layer_kind *k = layer_kind(c->pattern[l]);
        const struct slots *ss = &slots[l];
        need.saved_all += ss->saved;
        need.saved_most = ss->saved > need.saved_most ? ss->saved : need.saved_most;
        need.scratch = ss->scratch > need.scratch ? ss->scratch : need.scratch;
        struct pass p = { .be = be, .c = c, .layer = (int)l, .slots = ss, .params = roles[l], .B = B, .T = T,
                          .room = room };
        p.weights = nowhere;
        p.saved = p.scratch = (char *)nowhere;
        p.x = tensor_of(nowhere, c->d_model, precision.residual);
        w = k->work(&p);
        need.work = w > need.work ? w : need.work;
    }
    return need;
}

static void reserve(struct net *n, int64_t scratch, size_t work)
{
    if (scratch > n->scratch_bytes) {
        n->be->free(n->scratch);
        n->scratch = net_alloc(n->be, scratch, 1, "scratch of the layers");
        n->scratch_bytes = scratch;
    }
    if (work > n->work_bytes) {
        n->be->free(n->work);
        n->work = net_alloc(n->be, (int64_t)work, 1, "scratch of the ops");
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
    int64_t M = B * T, act = dtype_bytes(n->precision.act), residual = dtype_bytes(n->precision.residual);
    struct need need = measure(c, n->roles, be, n->precision, B, T, train, room, x->slots);
    reserve(n, need.scratch, need.work);
    x->saved = net_alloc(be, train && !recompute ? need.saved_all : need.saved_most, 1, "activations");
    x->residual = net_alloc(be, M * c->d_model * (train ? c->layers + 1 : 1), residual, "residual stream");
    x->normed = net_alloc(be, M * c->d_model, act, "activations");
    x->rstd = must_alloc_f32(be, M, "activations");
    x->mean = must_alloc_f32(be, M, "activations");
    x->ids = net_alloc(be, M, sizeof *x->ids, "tokens");
    x->targets = net_alloc(be, M, sizeof *x->targets, "tokens");
    x->start = net_alloc(be, M, sizeof *x->start, "tokens");
    x->head_rows = B;
    if (!train && M > B)
        x->head_rows = B > SCORE_ROWS ? B : M < SCORE_ROWS ? M : SCORE_ROWS;
    x->logits = must_alloc_f32(be, x->head_rows * config_vocab_rows(c), "logits");
    if (!train) {
        x->loss = must_alloc_f32(be, M, "losses");
        x->host = xmalloc(mul_size((size_t)(x->head_rows * c->vocab), sizeof *x->host, "logits"));
        return x;
    }
    x->d_normed = x->grad = net_alloc(be, M * c->d_model, residual, "gradients of activations");
    if (act != residual)
        x->d_normed = net_alloc(be, M * c->d_model, act, "gradients of activations");
    return x;
}

void net_ctx_free(struct net_ctx *x)
{
    if (!x)
        return;
    void *all[] = { x->saved, x->residual, x->normed, x->rstd, x->mean, x->ids, x->targets, x->start, x->loss, x->logits,
                    x->grad, x->d_normed == x->grad ? NULL : x->d_normed };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        x->n->be->free(all[i]);
    free(x->slots);
    free(x->host);
    free(x);
}

struct net_memory net_memory(const struct config *c, const struct backend *be, struct precision precision, int64_t B,
                             int64_t T, bool train, enum recompute recompute)
{
    struct params ps;
    params_init(&ps, c);
    const struct param *(*roles)[MAX_ROLES] = by_role(&ps, c->layers);
    struct slots *slots = xcalloc((size_t)c->layers, sizeof *slots);
    struct need need = measure(c, roles, be, precision, B, T, train, 0, slots);
    int64_t F = sizeof(float), act = dtype_bytes(precision.act), residual = dtype_bytes(precision.residual);
    /* of the width of the model: the stream and, of training, its gradient; the head's input and, where the dtypes
     * differ, its gradient */
    int64_t row = (train ? c->layers + 2 : 1) * residual + (train && act != residual ? 2 : 1) * act;
    struct net_memory m = { .weights = ps.slab * F, .half = precision.act == BF16 ? ps.slab * act : 0,
                            .grads = train ? ps.slab * F : 0, .residual = B * T * c->d_model * row,
                            .saved = train && !recompute ? need.saved_all : need.saved_most,
                            .scratch = need.scratch, .work = (int64_t)need.work };
    m.total = m.weights + m.half + m.grads + m.residual + m.saved + m.scratch + m.work;
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
