/* shard_verify.c - every byte of a member: checksum, chunks, vocabulary, document ends, counts
 * SPDX-License-Identifier: MIT
 */
#include "shard_private.h"

#include <stdlib.h>

#include "common/base/err.h"
#include "common/base/mem.h"

/* A walk along a member's /doc_end, a block at a time. */
struct ends_walk {
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
        w->n = min64(s->parts[i].n_docs - w->first, SHARD_ENDS_BLOCK);
        if (w->n == 0) {
            *end = UINT64_MAX;
            return 0;
        }
        if (shards_read_ends(s, i, w->first, w->n, w->block) < 0)
            return -1;
        w->hash = shard_mix(w->hash, w->block, (size_t)w->n * sizeof *w->block);
    }
    *end = w->block[w->next - w->first];
    if (*end <= w->last)
        return err_set("'%s/%s': '/doc_end' is not ascending at %lld", s->dir, s->table[i].name,
                       (long long)w->next);
    return 0;
}

/* The ends ascend, each stands behind an end token, the contents have the hash that the attributes say. */
static int walk_tokens(struct shards *s, int i, struct ends_walk *w, uint32_t *tokens)
{
    const size_t size = h5_type_size(shard_token_type(s->info.vocab));
    const int64_t n = s->parts[i].n_tokens;
    uint64_t end, hash = 0;
    if (next_end(s, i, w, &end) < 0)
        return -1;
    for (int64_t at = 0; at < n; at += SHARD_CHUNK) {
        int64_t k = min64(n - at, SHARD_CHUNK);
        if (shards_try_read(s, s->token0[i] + at, k, tokens) < 0)
            return -1;
        const void *raw = shards_use_chunk(s, i, at / SHARD_CHUNK);
        if (!raw)
            return -1;
        hash = shard_mix(hash, raw, (size_t)k * size);
        while (end <= (uint64_t)(at + k)) {
            if (tokens[end - 1 - (uint64_t)at] != (uint32_t)s->info.eod)
                return err_set("'%s/%s': document %lld does not end with the end token", s->dir,
                               s->table[i].name, (long long)w->next);
            w->last = end;
            w->next++;
            if (next_end(s, i, w, &end) < 0)
                return -1;
        }
    }
    if (w->next != s->parts[i].n_docs || w->last != (uint64_t)n)
        return err_set("'%s/%s': the last document does not end where the tokens do", s->dir,
                       s->table[i].name);
    if (shard_content_hash(hash, w->hash) != s->parts[i].content)
        return err_set("'%s/%s': the contents have another hash than the attributes say", s->dir,
                       s->table[i].name);
    return 0;
}

int shards_try_verify(struct shards *s, int i)
{
    if (set_try_check(s->dir, &s->table[i], true) < 0 || shards_use_member(s, i) < 0)
        return -1;
    struct ends_walk w = { .block = xcalloc(SHARD_ENDS_BLOCK, sizeof *w.block) };
    uint32_t *tokens = xcalloc(SHARD_CHUNK, sizeof *tokens);
    int rc = walk_tokens(s, i, &w, tokens);
    free(w.block);
    free(tokens);
    return rc;
}
