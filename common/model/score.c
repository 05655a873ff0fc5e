/* score.c - perplexity and bits per byte of a set of shards
 * SPDX-License-Identifier: MIT
 */
#include "score.h"

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/io/window.h"

/* The targets of window w among the first `tokens` of a set: [*from, *to). */
static void window_at(struct shards *s, int64_t w, int64_t seq_len, int64_t stride, int64_t tokens, int64_t *from,
                      int64_t *to)
{
    if (shards_info(s)->seq_len) {
        if (shards_try_sample(s, w, from, to) < 0)
            die("%s", err_last());
    } else {
        *from = w * stride;
        *to = tokens - *from < seq_len ? tokens : *from + seq_len;
    }
}

/* How many windows there are in the first *tokens of a set; *tokens becomes those that they hold. */
static int64_t count_windows(struct shards *s, int64_t seq_len, int64_t stride, int64_t *tokens)
{
    const struct shard_info *info = shards_info(s);
    int64_t lo = 1, hi = info->n_samples, from, to = *tokens;
    if (!info->seq_len)
        return 1 + (*tokens > seq_len ? (*tokens - seq_len + stride - 1) / stride : 0);
    while (lo < hi) { /* the last sample that ends within them, or else the first */
        int64_t mid = lo + (hi - lo + 1) / 2;
        window_at(s, mid - 1, seq_len, stride, *tokens, &from, &to);
        if (to <= *tokens)
            lo = mid;
        else
            hi = mid - 1;
    }
    window_at(s, lo - 1, seq_len, stride, *tokens, &from, &to);
    *tokens = to;
    return lo;
}

struct window_sum { /* only doubles: ranks gather them */
    double nats, scored;
};

void score_check_set(const struct config *c, const struct shards *s, int64_t seq_len)
{
    const struct shard_info *info = shards_info(s);
    const char *dir = shards_dir(s);
    char hash[17];
    set_format_hash(info->tokenizer_hash, hash);
    if (info->n_tokens < 1)
        die("'%s' has no tokens", dir);
    if (c->tokenizer_hash && *c->tokenizer_hash && strcmp(hash, c->tokenizer_hash) != 0)
        die("'%s' was made by tokenizer '%s' (%s), the model knows '%s' (%s)", dir, info->tokenizer, hash,
            c->tokenizer, c->tokenizer_hash);
    if (info->vocab > c->vocab)
        die("'%s' has %lld tokens, the model's 'vocab' is %lld", dir, (long long)info->vocab,
            (long long)c->vocab);
    if (info->seq_len > seq_len)
        die("'%s' has samples of up to %lld tokens, --seq-len is %lld", dir, (long long)info->seq_len,
            (long long)seq_len);
}

struct score score_set(struct comm *comm, struct net *n, const char *dir, const struct score_options *opt)
{
    int64_t seq_len = opt->seq_len, stride = opt->stride, batch = opt->batch, limit = opt->limit;
    struct shards *s = shards_try_open(dir);
    if (!s)
        die("%s", err_last());
    const struct shard_info *info = shards_info(s);
    score_check_set(&n->c, s, seq_len);
    if (info->seq_len && stride != seq_len)
        die("'%s' is a packed set, whose rows do not overlap: no --stride", dir);
    bool masked = info->n_targets < info->n_tokens && info->seq_len && !opt->no_mask;
    if (masked && !opt->quiet)
        note(1, "'%s': its mask counts %lld of %lld tokens as targets: only these are scored", dir,
             (long long)info->n_targets, (long long)info->n_tokens);
    if (!masked)
        shards_drop_mask(s);
    int64_t tokens = limit > 0 && limit < info->n_tokens ? limit : info->n_tokens;
    int64_t windows = count_windows(s, seq_len, stride, &tokens);
    int64_t share = (windows + comm->size - 1) / comm->size; /* of each rank, in order */
    int64_t from = comm->rank * share < windows ? comm->rank * share : windows;
    int64_t to = from + share < windows ? from + share : windows;
    size_t M = mul_size((size_t)batch, (size_t)seq_len, "batch");
    int32_t *ids = xmalloc(3 * M * sizeof *ids), *targets = ids + M, *start = ids + 2 * M;
    float *loss = xmalloc(M * sizeof *loss);
    struct window_sum *sums = xcalloc((size_t)share, sizeof *sums);
    struct window_sum *all = xcalloc((size_t)(share * comm->size), sizeof *all);
    struct net_ctx *x = net_ctx_create(n, batch, seq_len, false, RECOMPUTE_NONE, 0);
    struct progress bar;
    progress_begin(&bar, 0, to - from, 10);
    for (int64_t w = from; w < to; w += batch) {
        int64_t rows = to - w < batch ? to - w : batch;
        for (int64_t r = 0; r < rows; r++) {
            int64_t at, end, seen = w + r > 0 ? seq_len - stride : 0;
            window_at(s, w + r, seq_len, stride, tokens, &at, &end);
            if (window_try_read(s, at, at, end - at, seq_len, ids + r * seq_len,
                                targets + r * seq_len, start + r * seq_len) < 0)
                die("%s", err_last());
            for (int64_t t = 0; t < seen; t++)
                targets[r * seq_len + t] = -1; /* the window before has scored it */
        }
        net_loss(x, &(struct batch){ rows, seq_len, ids, targets, start }, NULL, loss);
        const char *fault = n->be->sync();
        if (fault)
            die("%s", fault);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t t = 0; t < seq_len; t++) {
                sums[w - from + r].nats += loss[r * seq_len + t];
                sums[w - from + r].scored += targets[r * seq_len + t] >= 0;
            }
        if (comm->rank == 0 && !opt->quiet)
            progress_at(&bar, w + rows - from, "windows");
    }
    progress_end(&bar);
    comm_all_gather(comm, sums, (size_t)share * sizeof *sums, all);
    struct score sc = { 0 };
    for (int64_t w = 0; w < windows; w++) { /* shares are whole and in order: window w stands at place w */
        sc.nats += all[w].nats;
        sc.tokens += (int64_t)all[w].scored;
    }
    if (sc.tokens == 0)
        die("'%s': none of its first %lld tokens is a target", dir, (long long)tokens);
    double part = (double)tokens / (double)info->n_tokens;
    sc.docs = (int64_t)((double)info->n_docs * part + 0.5);
    sc.bytes = masked ? 0 : (int64_t)((double)info->n_bytes * part + 0.5);
    net_ctx_free(x);
    free(ids);
    free(loss);
    free(sums);
    free(all);
    shards_close(s);
    return sc;
}
