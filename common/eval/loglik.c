/* loglik.c - how likely a model finds texts after other texts
 * SPDX-License-Identifier: MIT
 */
#include "loglik.h"

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "space.h"

int encoder_try_text(struct encoder *e, const char *text, size_t n, struct token_ids *ids)
{
    size_t from = ids->n;
    tokenizer_encode(e->in, text, n, true, ids);
    for (size_t i = from; i < ids->n; i++)
        if (ids->id[i] >= (uint64_t)e->vocab)
            return err_set("token %u is not below the model's 'vocab' %lld", ids->id[i], (long long)e->vocab);
    return 0;
}

/* The request of ids of which the last `scored` are; keeps at most seq_len inputs. Takes the ids over. */
static int make(struct loglik *r, struct encoder *e, struct token_ids *ids, int64_t scored)
{
    int64_t n = (int64_t)ids->n, most = e->seq_len + 1;
    *r = (struct loglik){ .ids = ids->id, .n = n < most ? n : most, .scored = scored, .cut = n > most };
    if (scored < 1)
        err_set("there is no token to score");
    else if (scored > e->seq_len)
        err_set("%lld tokens to score are more than --seq-len %lld", (long long)scored, (long long)e->seq_len);
    else {
        memmove(r->ids, r->ids + n - r->n, (size_t)r->n * sizeof *r->ids);
        return 0;
    }
    loglik_free(r);
    return -1;
}

int loglik_try_pair(struct loglik *r, struct encoder *e, const char *context, size_t n_context,
                    const char *continuation, size_t n_continuation)
{
    struct token_ids alone = { 0 }, whole = { 0 };
    struct buf text = { 0 };
    size_t kept = space_strip(context, n_context);
    bool prefix = e->always || n_context == 0;
    buf_add(&text, context, n_context);
    buf_add(&text, continuation, n_continuation);
    if (prefix) {
        *token_ids_room(&whole, 1) = e->prefix;
        whole.n = 1;
    }
    int rc = encoder_try_text(e, context, kept, &alone);
    rc = rc < 0 ? rc : encoder_try_text(e, text.data, text.len, &whole);
    buf_free(&text);
    int64_t given = (int64_t)alone.n + prefix;
    token_ids_free(&alone);
    /* A context of white space alone leaves nothing before the first token, which then only gives. So does, as in the
     * harness, a continuation's own first token that is the prefix. */
    if (rc == 0 && n_context == 0 && whole.n > 1 && whole.id[1] == e->prefix)
        memmove(whole.id, whole.id + 1, --whole.n * sizeof *whole.id);
    if (rc == 0 && given == 0)
        given = 1;
    if (rc < 0) {
        token_ids_free(&whole);
        return rc;
    }
    return make(r, e, &whole, (int64_t)whole.n - given);
}

int loglik_try_rolling(struct loglik **rs, size_t *n, size_t *cap, struct encoder *e, const char *text, size_t bytes)
{
    struct token_ids all = { 0 };
    *token_ids_room(&all, 1) = e->prefix;
    all.n = 1;
    int rc = encoder_try_text(e, text, bytes, &all);
    int64_t total = (int64_t)all.n, max = e->seq_len;
    for (int64_t at = 1; at < total && rc == 0;) { /* all.id[at]: the first that is not scored yet */
        int64_t scored = total - at < max ? total - at : max, end = at + scored;
        int64_t from = at == 1 ? 0 : end - max - 1;
        struct loglik *r = grow(rs, n, cap, sizeof **rs);
        *r = (struct loglik){ .n = end - from, .scored = scored };
        r->ids = xmalloc((size_t)r->n * sizeof *r->ids);
        memcpy(r->ids, all.id + from, (size_t)r->n * sizeof *r->ids);
        at = end;
    }
    token_ids_free(&all);
    return rc;
}

void loglik_free(struct loglik *r)
{
    free(r->ids);
    r->ids = NULL;
}

/* ---- running ---- */

struct place {
    int64_t n;
    size_t i;
};

static int longest_first(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return x->n != y->n ? (x->n < y->n) - (x->n > y->n) : (x->i > y->i) - (x->i < y->i);
}

/* One batch: rows of the requests' inputs, padded on the right, where nothing is scored and nobody looks. */
static void run_batch(struct net_ctx *x, const struct net *n, struct loglik **rs, const struct place *order,
                      int64_t rows, int32_t *ids, double *logp, bool *greedy)
{
    int64_t T = order[0].n - 1, M = rows * T;
    int32_t *targets = ids + M, *start = ids + 2 * M;
    for (int64_t b = 0; b < rows; b++) {
        const struct loglik *r = rs[order[b].i];
        for (int64_t t = 0; t < T; t++) {
            bool there = t < r->n - 1;
            ids[b * T + t] = there ? (int32_t)r->ids[t] : 0;
            targets[b * T + t] = there && t >= r->n - 1 - r->scored ? (int32_t)r->ids[t + 1] : -1;
            start[b * T + t] = 0;
        }
    }
    net_score(x, &(struct batch){ rows, T, ids, targets, start }, logp, greedy);
    const char *fault = n->be->sync();
    if (fault)
        die("%s", fault);
    for (int64_t b = 0; b < rows; b++) {
        struct loglik *r = rs[order[b].i];
        r->greedy = true;
        for (int64_t t = r->n - 1 - r->scored; t < r->n - 1; t++) {
            r->sum += logp[b * T + t];
            r->greedy = r->greedy && greedy[b * T + t];
        }
    }
}

void loglik_run(struct comm *comm, struct net *n, struct loglik **rs, size_t count, int64_t batch)
{
    struct place *order = xcalloc(count, sizeof *order);
    for (size_t i = 0; i < count; i++) {
        order[i] = (struct place){ rs[i]->n, i };
        rs[i]->sum = 0;
        rs[i]->greedy = false;
    }
    qsort(order, count, sizeof *order, longest_first);
    int64_t batches = ((int64_t)count + batch - 1) / batch, room = 0;
    struct net_ctx *x = NULL;
    int32_t *ids = NULL;
    double *logp = NULL;
    bool *greedy = NULL;
    struct progress bar;
    progress_begin(&bar, 0, (int64_t)count, 10);
    for (int64_t k = comm->rank; k < batches; k += comm->size) {
        int64_t rows = (int64_t)count - k * batch < batch ? (int64_t)count - k * batch : batch;
        int64_t T = order[k * batch].n - 1, M = rows * T;
        if (4 * M < room || !x) { /* much less is needed from here on: memory goes back, caches see less of it */
            net_ctx_free(x);
            x = net_ctx_create(n, rows, T, false, RECOMPUTE_NONE, 0);
            room = M;
            ids = xrealloc(ids, mul_size((size_t)M, 3 * sizeof *ids, "a batch"));
            logp = xrealloc(logp, (size_t)M * sizeof *logp);
            greedy = xrealloc(greedy, (size_t)M * sizeof *greedy);
        }
        run_batch(x, n, rs, order + k * batch, rows, ids, logp, greedy);
        if (comm->rank == 0)
            progress_at(&bar, k * batch + rows, "requests");
    }
    progress_end(&bar);
    /* Every request was some rank's: adding the others' zeros changes nothing. */
    double *all = xcalloc(2 * count, sizeof *all);
    for (size_t i = 0; i < count; i++) {
        all[2 * i] = rs[i]->sum;
        all[2 * i + 1] = rs[i]->greedy;
    }
    comm_sum_f64(comm, all, 2 * (int64_t)count);
    for (size_t i = 0; i < count; i++) {
        rs[i]->sum = all[2 * i];
        rs[i]->greedy = all[2 * i + 1] != 0;
        if (!(rs[i]->sum > -1e300))
            die("a request's log-likelihood is not finite (%g)", rs[i]->sum);
    }
    net_ctx_free(x);
    free(ids);
    free(logp);
    free(greedy);
    free(all);
    free(order);
}
