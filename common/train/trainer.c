/* trainer.c - one optimizer step
 * SPDX-License-Identifier: MIT
 */
#include "trainer.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "watch.h"

int trainer_try_frozen(const struct params *ps, const char *patterns, bool *frozen, int64_t *left)
{
    *left = ps->count;
    memset(frozen, 0, ps->n * sizeof *frozen);
    char *copy = xstrdup(patterns ? patterns : ""), *rest = NULL;
    int rc = 0;
    for (char *p = strtok_r(copy, ",", &rest); p && rc == 0; p = strtok_r(NULL, ",", &rest)) {
        bool met = false;
        for (size_t i = 0; i < ps->n; i++)
            if (fnmatch(p, ps->p[i].name, 0) == 0) {
                *left -= frozen[i] ? 0 : ps->p[i].count;
                met = frozen[i] = true;
            }
        if (!met)
            rc = err_set("no tensor is called '%s'", p);
    }
    free(copy);
    if (rc == 0 && *left == 0)
        rc = err_set("'%s' leaves nothing to train", patterns);
    return rc;
}

static void *must_alloc(const struct backend *be, size_t bytes, const char *what)
{
    void *p = be->alloc(bytes);
    if (!p)
        die("not enough memory: %s need %zu MiB", what, bytes >> 20);
    return p;
}

/* What AdamW does to the elements of a slab, on the device: nothing to frozen tensors and to what lies between. */
static uint8_t *make_mask(const struct net *n, const bool *frozen)
{
    size_t bytes = (size_t)n->ps.slab / 16;
    uint8_t *host = xcalloc(bytes, 1), *mask = must_alloc(n->be, bytes, "masks of the optimizer");
    for (size_t i = 0; i < n->ps.n; i++) {
        const struct param *p = &n->ps.p[i];
        if (!frozen[i])
            memset(host + p->offset / 16, ADAMW_UPDATE | (p->decay ? ADAMW_DECAY : 0), (size_t)(p->count + 15) / 16);
    }
    n->be->upload(mask, host, bytes);
    free(host);
    return mask;
}

struct trainer *trainer_create(const struct config *c, const struct backend *be, struct comm *comm,
                               const struct trainer_options *opt)
{
    struct trainer *t = xcalloc(1, sizeof *t);
    t->opt = *opt;
    t->comm = comm;
    t->device = comm_on_device(comm, be);
    t->net = net_create(c, be, opt->precision, true);
    t->ctx = net_ctx_create(t->net, opt->micro_rows, opt->seq_len, true, opt->recompute, 0);
    size_t bytes = (size_t)t->net->ps.slab * sizeof(float);
    int64_t left;
    t->frozen = xcalloc(t->net->ps.n, sizeof *t->frozen);
    if (trainer_try_frozen(&t->net->ps, opt->freeze, t->frozen, &left) < 0)
        die_usage("freeze: %s", err_last());
    t->mask = make_mask(t->net, t->frozen);
    if (opt->ema > 0)
        t->ema = must_alloc(be, bytes, "the running means of the weights");
    t->m = must_alloc(be, bytes, "the optimizer's first moments");
    t->v = must_alloc(be, bytes, "the optimizer's second moments");
    size_t losses = mul_size((size_t)opt->rows, (size_t)opt->seq_len, "losses");
    t->loss = must_alloc(be, losses * sizeof *t->loss, "losses");
    t->seen = must_alloc(be, (size_t)(2 + 2 * comm->size) * sizeof *t->seen, "sums");
    t->verdict = must_alloc(be, sizeof *t->verdict, "sums");
    if (opt->stream) {
        int64_t k = opt->rows / opt->micro_rows;
        t->in = xcalloc((size_t)k, sizeof *t->in);
        t->out = xcalloc((size_t)k, sizeof *t->out);
        for (int64_t i = 0; i < k; i++) {
            t->in[i] = net_state_create(t->net, opt->micro_rows, 0);
            t->out[i] = net_state_create(t->net, opt->micro_rows, 0);
        }
    }
    return t;
}

void trainer_free(struct trainer *t)
{
    if (!t)
        return;
    for (int64_t i = 0; t->in && i < t->opt.rows / t->opt.micro_rows; i++) {
        net_state_free(t->in[i]);
        net_state_free(t->out[i]);
    }
    free(t->in);
    free(t->out);
    t->net->be->free(t->loss);
    t->net->be->free(t->seen);
    t->net->be->free(t->verdict);
    t->net->be->free(t->mask);
    t->net->be->free(t->m);
    t->net->be->free(t->v);
    t->net->be->free(t->ema);
    free(t->frozen);
    if (t->snapshot_of_backend)
        t->net->be->host_free(t->snapshot);
    else
        free(t->snapshot);
    if (t->device != t->comm)
        comm_free(t->device);
    net_ctx_free(t->ctx);
    net_free(t->net);
    free(t);
}

enum { BEGUN, WHOLE }; /* marks: a step begins; its gradients of this rank are there */

/* Gradients that are whole go to the other ranks beside what the backward pass still does, where the transport works by
 * itself (a device's): in buckets, which large messages are good for. */
struct buckets {
    struct trainer *t;
    int64_t end;        /* from here on they are under way */
    int64_t last;       /* the end of the last bucket, which nothing is left to hide; 0: nothing was sent */
};

static void grads_done(void *arg, int64_t begin)
{
    struct buckets *b = arg;
    if (b->end - begin < b->t->opt.bucket && begin > 0)
        return;
    if (begin == 0) { /* what looks at the others may begin */
        b->t->net->be->mark(WHOLE);
        comm_join(b->t->device);
        b->last = b->end;
    }
    comm_sum_f32(b->t->device, b->t->net->grads + begin, b->end - begin);
    b->end = begin;
}

/* The device has a communicator of its own. */
static bool overlaps(const struct trainer *t) { return t->device != t->comm; }

/* Where the documents of the rows begin; NULL, which ops need not look at, when each row is one document. */
static const int32_t *begins(const struct trainer *t, const int32_t *start, int64_t n)
{
    if (t->opt.stream)
        return start;
    for (int64_t i = 0; i < n; i++)
        if (start[i] != 0)
            return start;
    return NULL;
}

/* The losses of all micro-batches are left in t->loss, the gradients' sum in net->grads; nothing is waited for. Returns
 * buckets.last. */
static int64_t accumulate(struct trainer *t, const struct loaded *b)
{
    int64_t T = t->opt.seq_len, micro = t->opt.micro_rows;
    struct buckets buckets = { t, t->net->ps.slab, 0 };
    const struct net_ready ready = { grads_done, &buckets };
    t->net->be->zero(t->net->grads, (size_t)t->net->ps.slab * sizeof(float));
    for (int64_t r = 0, k = 0; r < b->rows; r += micro, k++) {
        struct batch mb = { .B = micro,
                            .T = T,
                            .ids = b->ids + r * T,
                            .targets = b->targets + r * T,
                            .start = begins(t, b->start + r * T, micro * T) };
        struct net_state *in = NULL, *out = NULL;
        if (t->opt.stream) {
            in = t->in[k];
            out = t->out[k];
            for (int64_t i = 0; i < micro; i++)
                if (!b->carries[r + i])
                    net_state_clear(in, i);
            t->in[k] = out; /* what this step leaves, the next one begins with */
            t->out[k] = in;
        }
        net_train(t->ctx, &mb, in, out, t->loss + r * T, overlaps(t) && r + micro >= b->rows ? &ready : NULL);
    }
    if (!overlaps(t))
        t->net->be->mark(WHOLE);
    return buckets.last;
}

/* What a step that is not finite has left in the carried states is not worth carrying. */
static void clear_states(struct trainer *t)
{
    for (int64_t k = 0; t->opt.stream && k < t->opt.rows / t->opt.micro_rows; k++)
        for (int64_t i = 0; i < t->opt.micro_rows; i++)
            net_state_clear(t->in[k], i);
}

/* Made when the verdict says so; counted by who reads it. */
static void update(struct trainer *t, double rate)
{
    struct net *n = t->net;
    n->be->join_downloads(); /* of a checkpoint */
    if (t->ema && !t->averaging)
        n->be->copy(t->ema, n->weights, (size_t)n->ps.slab * sizeof(float));
    n->be->adamw(&(struct adamw){ .n = n->ps.slab,
                                  .step = t->updates + 1,
                                  .lr = rate,
                                  .beta1 = t->opt.beta1,
                                  .beta2 = t->opt.beta2,
                                  .eps = t->opt.eps,
                                  .decay = t->opt.weight_decay,
                                  .gscale = &t->verdict->gscale,
                                  .mask = t->mask,
                                  .grad = n->grads,
                                  .p = n->weights,
                                  .m = t->m,
                                  .v = t->v,
                                  .ema_decay = t->opt.ema,
                                  .ema = t->ema,
                                  .half = n->half });
}

/* Of the summed gradients; those from `last` on are there already, the others may be under way. Frozen tensors have none. */
static void sum_of_squares(const struct trainer *t, int64_t last, double *sum)
{
    const struct net *n = t->net;
    if (t->opt.freeze) {
        comm_join(t->device);
        last = 0;
    }
    for (size_t i = 0; i < n->ps.n; i++)
        if (t->frozen[i])
            n->be->zero(n->grads + n->ps.p[i].offset, (size_t)n->ps.p[i].count * sizeof(float));
    n->be->total(&(struct total){ .n = n->ps.slab - last, .square = true, .x = n->grads + last, .sum = sum });
    comm_join(t->device);
    if (last > 0)
        n->be->total(&(struct total){ .n = last, .square = true, .add = true, .x = n->grads, .sum = sum });
}

static void check_device(const struct trainer *t)
{
    const char *fault = t->net->be->fault();
    if (fault)
        die("step %lld: %s", (long long)t->step + 1, fault);
}

/* What all ranks see: the same, at each of them. */
static const double *seen_by_all(const struct trainer *t)
{
    if (t->comm->size == 1)
        return t->seen;
    comm_all_gather(t->device, t->seen, 2 * sizeof *t->seen, t->seen + 2);
    comm_join(t->device);
    return t->seen + 2;
}

/* Whether an update is made; answered by be->answer(). count: targets of all ranks. */
static void ask_for_verdict(const struct trainer *t, double count)
{
    const struct backend *be = t->net->be;
    struct judge judge = { .ranks = t->comm->size,
                           .count = count > 0 ? count : 1,
                           .clip = t->opt.clip,
                           .seen = seen_by_all(t),
                           .verdict = t->verdict };
    health_limits(&t->health, t->opt.skip_loss_z, t->opt.skip_norm_z, &judge.loss_limit, &judge.norm_limit);
    be->judge(&judge);
    be->ask(t->verdict, sizeof *t->verdict);
}

struct step_report trainer_step(struct trainer *t, const struct loaded *b, double rate, struct step_wish wish)
{
    const struct backend *be = t->net->be;
    be->mark(BEGUN);
    watch_phase("forward and backward", t->step + 1);
    int64_t last = accumulate(t, b);
    be->total(&(struct total){ .n = b->rows * t->opt.seq_len, .x = t->loss, .sum = &t->seen[0] });
    watch_phase("sum of the gradients", t->step + 1);
    double sums[4] = { (double)b->n_targets, wish.stop, wish.save, trainer_save_is_written(t) };
    comm_sum_f64(t->comm, sums, 4);
    if (!overlaps(t))
        comm_sum_f32(t->device, t->net->grads, t->net->ps.slab);
    double begin = now_seconds();
    sum_of_squares(t, last, &t->seen[1]);
    double compute = now_seconds() - begin;
    ask_for_verdict(t, sums[0]);
    check_device(t); /* of what could not be begun nothing is learnt */
    watch_phase("optimizer", t->step + 1);
    begin = now_seconds();
    bool empty = sums[0] == 0; /* masked altogether: there is nothing to learn from, and nothing wrong */
    if (!empty)
        update(t, rate);
    compute += now_seconds() - begin;
    watch_phase("forward and backward", t->step + 1); /* where a device is still at it */
    compute += be->between(BEGUN, WHOLE);
    watch_phase("sum of the gradients", t->step + 1);
    struct verdict verdict;
    be->answer(&verdict);
    check_device(t);

    struct step_report r = { .loss = verdict.loss,
                             .grad_norm = verdict.norm,
                             .tokens = (int64_t)sums[0],
                             .compute = compute,
                             .computed = b->batch * t->opt.seq_len,
                             .skipped = verdict.gscale == 0,
                             .stop = sums[1] > 0,
                             .save = sums[2] > 0,
                             .written = t->saving && sums[3] >= t->comm->size };
    if (!isfinite(r.loss) || !isfinite(r.grad_norm))
        clear_states(t);
    else if (!empty)
        health_add(&t->health, r.loss, r.grad_norm, &r.loss_z, &r.norm_z);
    t->step++;
    t->samples += b->batch;
    t->tokens += r.tokens;
    t->skipped += r.skipped;
    t->skipped_in_row = r.skipped ? t->skipped_in_row + 1 : 0;
    if (!r.skipped && !empty) {
        t->updates++;
        t->averaging = t->ema;
    }
    return r;
}

bool trainer_is_finite(struct trainer *t)
{
    double sum;
    t->net->be->total(&(struct total){ .n = t->net->ps.slab, .square = true, .x = t->net->weights, .sum = t->seen });
    t->net->be->download(&sum, t->seen, sizeof sum);
    check_device(t);
    int64_t bad = !isfinite(sum);
    return comm_max_i64(t->comm, bad) == 0;
}
