/* score.c - perplexity and bits per byte of a set of shards
 * SPDX-License-Identifier: MIT
 */
#include "score.h"

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/io/window.h"

struct score score_set(struct comm *comm, struct net *n, const char *dir, int64_t seq_len, int64_t stride,
                       int64_t batch, int64_t limit)
{
    struct shards *s = shards_try_open(dir);
    if (!s)
        die("%s", err_last());
    const struct shard_info *info = shards_info(s);
    if (info->n_tokens < 1)
        die("'%s' has no tokens", dir);
    if (info->vocab > n->c.vocab)
        die("'%s' has %lld tokens, the model's 'vocab' is %lld", dir, (long long)info->vocab, (long long)n->c.vocab);
    char hash[17];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)info->tokenizer_hash);
    if (n->c.tokenizer_hash && *n->c.tokenizer_hash && strcmp(hash, n->c.tokenizer_hash) != 0)
        die("'%s' was made by tokenizer '%s' (%s), the model knows '%s' (%s)", dir, info->tokenizer, hash,
            n->c.tokenizer, n->c.tokenizer_hash);
    int64_t tokens = limit > 0 && limit < info->n_tokens ? limit : info->n_tokens;
    int64_t windows = 1 + (tokens > seq_len ? (tokens - seq_len + stride - 1) / stride : 0);
    int64_t share = (windows + comm->size - 1) / comm->size; /* of each rank, in order */
    int64_t from = comm->rank * share < windows ? comm->rank * share : windows;
    int64_t to = from + share < windows ? from + share : windows;
    size_t M = mul_size((size_t)batch, (size_t)seq_len, "batch");
    int32_t *ids = xmalloc(3 * M * sizeof *ids), *targets = ids + M, *start = ids + 2 * M;
    float *loss = xmalloc(M * sizeof *loss);
    double *sums = xcalloc((size_t)share, sizeof *sums);
    double *all = xcalloc((size_t)(share * comm->size), sizeof *all);
    struct net_ctx *x = net_ctx_create(n, batch, seq_len, false, RECOMPUTE_NONE, 0);
    struct progress bar;
    progress_begin(&bar, 0, to - from, 10);
    for (int64_t w = from; w < to; w += batch) {
        int64_t rows = to - w < batch ? to - w : batch;
        for (int64_t r = 0; r < rows; r++) {
            int64_t at = (w + r) * stride, left = tokens - at, seen = w + r > 0 ? seq_len - stride : 0;
            if (window_try_read(s, at, at, left < seq_len ? left : seq_len, seq_len, ids + r * seq_len,
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
            for (int64_t t = 0; t < seq_len; t++)
                sums[w - from + r] += loss[r * seq_len + t];
        if (comm->rank == 0)
            progress_at(&bar, w + rows - from, "windows");
    }
    progress_end(&bar);
    comm_all_gather(comm, sums, (size_t)share * sizeof *sums, all);
    struct score sc = { .tokens = tokens };
    for (int64_t w = 0; w < windows; w++)
        sc.nats += all[w]; /* shares are whole and in order: window w stands at place w */
    double part = (double)tokens / (double)info->n_tokens;
    sc.docs = (int64_t)((double)info->n_docs * part + 0.5);
    sc.bytes = (int64_t)((double)info->n_bytes * part + 0.5);
    net_ctx_free(x);
    free(ids);
    free(loss);
    free(sums);
    free(all);
    shards_close(s);
    return sc;
}
