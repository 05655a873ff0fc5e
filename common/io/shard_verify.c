/* shard_verify.c - every byte of a member: checksum, chunks, vocabulary, ends of documents and samples, mask, counts
 * SPDX-License-Identifier: MIT
 */
#include "shard_private.h"

#include <stdlib.h>

#include "common/base/err.h"
#include "common/base/mem.h"

/* A walk along a member's /doc_end or /sample_end, a block at a time. */
struct ends_walk {
    enum shard_ends which;
    int64_t count;
    uint64_t *block;
    int64_t first, n; /* entries in it */
    int64_t next;     /* the entry wanted next */
    uint64_t last;    /* the entry before it */
    uint64_t hash;    /* of the blocks so far */
};

/* The entry wanted next; behind the last one, a value that no token reaches. */
static int next_end(struct shards *s, int i, struct ends_walk *w, uint64_t *end)
{
    if (w->next == w->first + w->n) {
        w->first = w->next;
        w->n = min64(w->count - w->first, SHARD_ENDS_BLOCK);
        if (w->n == 0) {
            *end = UINT64_MAX;
            return 0;
        }
        if (shards_read_ends(s, i, w->which, w->first, w->n, w->block) < 0)
            return -1;
        w->hash = shard_mix(w->hash, w->block, (size_t)w->n * sizeof *w->block);
    }
    *end = w->block[w->next - w->first];
    if (*end <= w->last)
        return err_set("'%s/%s': '%s' is not ascending at %lld", s->dir, s->table[i].name,
                       w->which == SHARD_DOCS ? "/doc_end" : "/sample_end", (long long)w->next);
    return 0;
}

/* A document ends at `end`: does a sample too? None may end between two ends of documents. */
static int pass_sample(struct shards *s, int i, struct ends_walk *w, uint64_t end)
{
    uint64_t sample;
    if (next_end(s, i, w, &sample) < 0)
        return -1;
    if (sample < end)
        return err_set("'%s/%s': sample %lld ends inside a document", s->dir, s->table[i].name, (long long)w->next);
    if (sample > end)
        return 0;
    if (end - w->last > (uint64_t)s->info.seq_len)
        return err_set("'%s/%s': sample %lld has %llu tokens, more than %lld", s->dir, s->table[i].name,
                       (long long)w->next, (unsigned long long)(end - w->last), (long long)s->info.seq_len);
    w->last = end;
    w->next++;
    return 0;
}

/* The ends ascend, each stands behind an end token, the contents have the hash that the attributes say. */
static int walk_tokens(struct shards *s, int i, struct ends_walk *w, struct ends_walk *samples, uint32_t *tokens,
                       uint8_t *mask)
{
    const size_t size = h5_type_size(shard_token_type(s->info.vocab));
    const int64_t n = s->parts[i].n_tokens;
    struct shard_hashes hash = { 0 };
    int64_t targets = 0;
    uint64_t end;
    if (next_end(s, i, w, &end) < 0)
        return -1;
    for (int64_t at = 0; at < n; at += SHARD_CHUNK) {
        int64_t k = min64(n - at, SHARD_CHUNK);
        if (shards_try_read(s, s->token0[i] + at, k, tokens) < 0)
            return -1;
        const struct shards_cached *raw = shards_use_chunk(s, i, at / SHARD_CHUNK);
        if (!raw)
            return -1;
        hash.tokens = shard_mix(hash.tokens, raw->tokens, (size_t)k * size);
        if (s->info.seq_len) {
            hash.mask = shard_mix(hash.mask, raw->mask, (size_t)k);
            if (shards_try_mask(s, s->token0[i] + at, k, mask) < 0)
                return -1;
            for (int64_t j = 0; j < k; j++)
                targets += mask[j];
        }
        while (end <= (uint64_t)(at + k)) {
            if (tokens[end - 1 - (uint64_t)at] != (uint32_t)s->info.eod)
                return err_set("'%s/%s': document %lld does not end with the end token", s->dir,
                               s->table[i].name, (long long)w->next);
            if (s->info.seq_len && pass_sample(s, i, samples, end) < 0)
                return -1;
            w->last = end;
            w->next++;
            if (next_end(s, i, w, &end) < 0)
                return -1;
        }
    }
    if (w->next != s->parts[i].n_docs || w->last != (uint64_t)n)
        return err_set("'%s/%s': the last document does not end where the tokens do", s->dir,
                       s->table[i].name);
    if (s->info.seq_len && (samples->next != samples->count || samples->last != (uint64_t)n))
        return err_set("'%s/%s': the last sample does not end where the tokens do", s->dir, s->table[i].name);
    if (s->info.seq_len && targets != s->parts[i].n_targets)
        return err_set("'%s/%s': '/loss_mask' has %lld targets, the attributes say %lld", s->dir, s->table[i].name,
                       (long long)targets, (long long)s->parts[i].n_targets);
    hash.docs = w->hash;
    hash.samples = samples->hash;
    if (shard_content_hash(&s->info, &hash) != s->parts[i].content)
        return err_set("'%s/%s': the contents have another hash than the attributes say", s->dir,
                       s->table[i].name);
    return 0;
}

int shards_try_verify(struct shards *s, int i)
{
    if (set_try_check(s->dir, &s->table[i], true) < 0 || shards_use_member(s, i) < 0)
        return -1;
    struct ends_walk docs = { .which = SHARD_DOCS, .count = s->parts[i].n_docs }, samples = { .which = SHARD_SAMPLES };
    samples.count = s->parts[i].n_samples;
    docs.block = xcalloc(SHARD_ENDS_BLOCK, sizeof *docs.block);
    samples.block = xcalloc(SHARD_ENDS_BLOCK, sizeof *samples.block);
    uint32_t *tokens = xcalloc(SHARD_CHUNK, sizeof *tokens);
    uint8_t *mask = xcalloc(SHARD_CHUNK, 1);
    int rc = walk_tokens(s, i, &docs, &samples, tokens, mask);
    free(docs.block);
    free(samples.block);
    free(tokens);
    free(mask);
    return rc;
}
