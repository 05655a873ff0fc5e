/* shard.c - what a shard file says of itself, and whether it is true
 * SPDX-License-Identifier: MIT
 */
#include "shard_private.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/hash.h"

const struct h5_column shard_part_columns[SHARD_PART_COLUMNS] = {
    { "n_tokens", H5_I64, 1, offsetof(struct shard_part, n_tokens) },
    { "n_docs", H5_I64, 1, offsetof(struct shard_part, n_docs) },
    { "n_bytes", H5_I64, 1, offsetof(struct shard_part, n_bytes) },
    { "content", H5_U64, 1, offsetof(struct shard_part, content) },
};

uint64_t shard_mix(uint64_t h, const void *data, size_t n)
{
    const uint64_t pair[2] = { h, hash_bytes(data, n) };
    return hash_bytes(pair, sizeof pair);
}

uint64_t shard_content_hash(uint64_t tokens, uint64_t ends) { return shard_mix(tokens, &ends, sizeof ends); }

/* ---- attributes ---- */

void shard_put_info(struct h5 *f, const struct shard_info *info)
{
    char hash[17];
    set_format_hash(info->tokenizer_hash, hash);
    h5_put_str(f, "/", "tokenizer", info->tokenizer);
    h5_put_str(f, "/", "tokenizer_hash", hash);
    h5_put_int(f, "/", "vocab", info->vocab);
    h5_put_int(f, "/", "eod", info->eod);
    h5_put_int(f, "/", "n_tokens", info->n_tokens);
    h5_put_int(f, "/", "n_docs", info->n_docs);
    h5_put_int(f, "/", "n_bytes", info->n_bytes);
    h5_put_int(f, "/", "n_replaced", info->n_replaced);
    h5_put_str(f, "/", "source", info->source);
}

int shard_try_counts(int64_t n_tokens, int64_t n_docs, int64_t n_bytes)
{
    if (n_tokens < 0 || n_docs < 0 || n_bytes < 0 || n_docs > n_tokens || (n_docs == 0 && n_tokens > 0))
        return err_set("%lld tokens, %lld documents, %lld bytes cannot be", (long long)n_tokens,
                       (long long)n_docs, (long long)n_bytes);
    return 0;
}

bool shard_vocab_fits(const struct shard_info *i)
{
    return i->vocab >= 1 && i->vocab <= UINT32_MAX && i->eod >= 0 && i->eod < i->vocab;
}

int shard_try_attrs(const struct attrs *as, struct shard_info *info)
{
    const char *tokenizer, *hash, *source;
    *info = (struct shard_info){ 0 };
    if (attrs_try_str(as, "tokenizer", &tokenizer) < 0 || attrs_try_str(as, "tokenizer_hash", &hash) < 0 ||
        attrs_try_int(as, "vocab", &info->vocab) < 0 || attrs_try_int(as, "eod", &info->eod) < 0 ||
        attrs_try_int(as, "n_tokens", &info->n_tokens) < 0 ||
        attrs_try_int(as, "n_docs", &info->n_docs) < 0 || attrs_try_int(as, "n_bytes", &info->n_bytes) < 0 ||
        attrs_try_str(as, "source", &source) < 0)
        return err_set("attribute %s", err_last());
    if (attrs_find(as, "n_replaced") &&
        (attrs_try_int(as, "n_replaced", &info->n_replaced) < 0 || info->n_replaced < 0))
        return err_set("attribute 'n_replaced' is no count");
    if ((size_t)snprintf(info->tokenizer, sizeof info->tokenizer, "%s", tokenizer) >= sizeof info->tokenizer)
        return err_set("the tokenizer's name is longer than %zu bytes", sizeof info->tokenizer - 1);
    if ((size_t)snprintf(info->source, sizeof info->source, "%s", source) >= sizeof info->source)
        return err_set("the attribute 'source' is longer than %zu bytes", sizeof info->source - 1);
    if (set_try_parse_hash(hash, &info->tokenizer_hash) < 0)
        return -1;
    if (!shard_vocab_fits(info))
        return err_set("a vocabulary of %lld tokens with end token %lld cannot be", (long long)info->vocab,
                       (long long)info->eod);
    return shard_try_counts(info->n_tokens, info->n_docs, info->n_bytes);
}

/* ---- one open shard file ---- */

void shard_close_member(struct shard_member *m)
{
    h5_end_chunks(m->tokens);
    h5_close(m->file);
    *m = (struct shard_member){ 0 };
}

int shard_open_member(const char *path, struct shard_member *m, struct shard_info *info, struct shard_part *p)
{
    struct attrs as = { 0 };
    const char *hash;
    int64_t n = 0, n_docs = 0;
    *m = (struct shard_member){ .file = h5_try_open(path) };
    int rc = m->file ? h5_try_attrs(m->file, "/", &as) : -1;
    if (rc == 0)
        rc = set_try_kind(&as, path, SHARD_KIND_FILE, SHARD_FORMAT);
    if (rc == 0 && (shard_try_attrs(&as, info) < 0 || attrs_try_str(&as, "content", &hash) < 0 ||
                    set_try_parse_hash(hash, &p->content) < 0))
        rc = err_set("'%s': %s", path, err_last());
    if (rc == 0) {
        m->tokens = h5_try_chunks(m->file, "/tokens", shard_token_type(info->vocab), &n, &m->chunk);
        rc = m->tokens ? h5_try_locate(m->file, "/doc_end", H5_U64, 1, &n_docs, &m->ends_at) : -1;
    }
    if (rc == 0 && (n != info->n_tokens || n_docs != info->n_docs || m->chunk != SHARD_CHUNK))
        rc = err_set(
            "'%s' holds %lld tokens (%lld a chunk) and %lld documents, it should be %lld (%d) and %lld", path,
            (long long)n, (long long)m->chunk, (long long)n_docs, (long long)info->n_tokens, SHARD_CHUNK,
            (long long)info->n_docs);
    attrs_free(&as);
    if (rc < 0) {
        shard_close_member(m);
        return -1;
    }
    p->n_tokens = info->n_tokens;
    p->n_docs = info->n_docs;
    p->n_bytes = info->n_bytes;
    return 0;
}

int shard_try_info(const char *path, struct shard_info *info)
{
    struct shard_member m;
    struct shard_part p;
    if (shard_open_member(path, &m, info, &p) < 0)
        return -1;
    shard_close_member(&m);
    return 0;
}

int shard_try_alike(const char *path, const struct shard_info *set, const struct shard_info *b)
{
    if (strcmp(set->tokenizer, b->tokenizer) != 0)
        return err_set("'%s' was made with tokenizer '%s', the set with '%s'", path, b->tokenizer,
                       set->tokenizer);
    if (set->tokenizer_hash != b->tokenizer_hash)
        return err_set("'%s' was made with another version of tokenizer '%s'", path, set->tokenizer);
    if (set->vocab != b->vocab || set->eod != b->eod)
        return err_set("'%s' has vocabulary %lld and end token %lld, the set has %lld and %lld", path,
                       (long long)b->vocab, (long long)b->eod, (long long)set->vocab, (long long)set->eod);
    if (strcmp(set->source, b->source) != 0)
        return err_set("'%s' was made from other text or options (%s) than the set (%s)", path, b->source,
                       set->source);
    return 0;
}

int shard_try_add_counts(struct shard_info *sum, const struct shard_part *p)
{
    if (__builtin_add_overflow(sum->n_tokens, p->n_tokens, &sum->n_tokens) ||
        __builtin_add_overflow(sum->n_docs, p->n_docs, &sum->n_docs) ||
        __builtin_add_overflow(sum->n_bytes, p->n_bytes, &sum->n_bytes))
        return err_set("the counts of the shards do not fit 64 bits");
    return 0;
}
