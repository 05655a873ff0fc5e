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
    { "n_samples", H5_I64, 1, offsetof(struct shard_part, n_samples) },
    { "n_targets", H5_I64, 1, offsetof(struct shard_part, n_targets) },
};

uint64_t shard_mix(uint64_t h, const void *data, size_t n)
{
    const uint64_t pair[2] = { h, hash_bytes(data, n) };
    return hash_bytes(pair, sizeof pair);
}

uint64_t shard_content_hash(const struct shard_info *i, const struct shard_hashes *h)
{
    uint64_t all = shard_mix(h->tokens, &h->docs, sizeof h->docs);
    if (i->seq_len) {
        all = shard_mix(all, &h->mask, sizeof h->mask);
        all = shard_mix(all, &h->samples, sizeof h->samples);
    }
    return all;
}

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
    if (!info->seq_len)
        return;
    h5_put_int(f, "/", "seq_len", info->seq_len);
    h5_put_int(f, "/", "n_samples", info->n_samples);
    h5_put_int(f, "/", "n_targets", info->n_targets);
}

int shard_try_counts(const struct shard_part *p, int64_t seq_len)
{
    if (p->n_tokens < 0 || p->n_docs < 0 || p->n_bytes < 0 || p->n_docs > p->n_tokens ||
        (p->n_docs == 0 && p->n_tokens > 0))
        return err_set("%lld tokens, %lld documents, %lld bytes cannot be", (long long)p->n_tokens,
                       (long long)p->n_docs, (long long)p->n_bytes);
    if (seq_len && (p->n_samples < 0 || p->n_samples > p->n_docs || p->n_targets < 0 || p->n_targets > p->n_tokens ||
                    p->n_samples < (p->n_tokens - 1) / seq_len + (p->n_tokens > 0)))
        return err_set("%lld tokens, %lld of them targets, in %lld samples of %lld at most cannot be",
                       (long long)p->n_tokens, (long long)p->n_targets, (long long)p->n_samples, (long long)seq_len);
    return 0;
}

/* What packed files have besides; format 2 says that they are. */
static int try_packed(const struct attrs *as, struct shard_info *info)
{
    int64_t format = 0;
    if (attrs_try_int(as, "format", &format) < 0)
        return err_set("attribute %s", err_last());
    if (format < 2)
        return 0;
    if (attrs_try_int(as, "seq_len", &info->seq_len) < 0 || attrs_try_int(as, "n_samples", &info->n_samples) < 0 ||
        attrs_try_int(as, "n_targets", &info->n_targets) < 0)
        return err_set("attribute %s", err_last());
    if (info->seq_len < 1 || info->seq_len > SHARD_LONGEST)
        return err_set("samples of %lld tokens at most cannot be", (long long)info->seq_len);
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
    if (try_packed(as, info) < 0)
        return -1;
    const struct shard_part p = { info->n_tokens, info->n_docs, info->n_bytes, 0, info->n_samples, info->n_targets };
    return shard_try_counts(&p, info->seq_len);
}

/* ---- one open shard file ---- */

void shard_close_member(struct shard_member *m)
{
    h5_end_chunks(m->tokens);
    h5_end_chunks(m->mask);
    h5_close(m->file);
    *m = (struct shard_member){ 0 };
}

static int wrong_size(const char *path, const char *what, int64_t is, int64_t want)
{
    return err_set("'%s': '%s' has %lld elements, it should be %lld", path, what, (long long)is, (long long)want);
}

static int open_chunks(struct shard_member *m, const char *path, const char *what, enum h5_type type, int64_t want,
                       struct h5_chunks **c)
{
    int64_t n = 0, chunk = 0;
    *c = h5_try_chunks(m->file, what, type, &n, &chunk);
    if (!*c)
        return -1;
    if (chunk != SHARD_CHUNK)
        return err_set("'%s': '%s' has chunks of %lld elements, not %d", path, what, (long long)chunk, SHARD_CHUNK);
    return n == want ? 0 : wrong_size(path, what, n, want);
}

static int find_ends(struct shard_member *m, const char *path, const char *what, int64_t want, int64_t *at)
{
    int64_t n = 0;
    if (h5_try_locate(m->file, what, H5_U64, 1, &n, at) < 0)
        return -1;
    return n == want ? 0 : wrong_size(path, what, n, want);
}

/* The datasets, and that they have the sizes that the attributes say. */
static int open_data(struct shard_member *m, const char *path, const struct shard_info *info)
{
    if (open_chunks(m, path, "/tokens", shard_token_type(info->vocab), info->n_tokens, &m->tokens) < 0 ||
        find_ends(m, path, "/doc_end", info->n_docs, &m->ends_at[SHARD_DOCS]) < 0)
        return -1;
    if (!info->seq_len)
        return 0;
    return open_chunks(m, path, "/loss_mask", H5_U8, info->n_tokens, &m->mask) < 0 ||
                   find_ends(m, path, "/sample_end", info->n_samples, &m->ends_at[SHARD_SAMPLES]) < 0
               ? -1
               : 0;
}

int shard_open_member(const char *path, struct shard_member *m, struct shard_info *info, struct shard_part *p)
{
    struct attrs as = { 0 };
    const char *hash;
    *m = (struct shard_member){ .file = h5_try_open(path) };
    int rc = m->file ? h5_try_attrs(m->file, "/", &as) : -1;
    if (rc == 0)
        rc = set_try_kind(&as, path, SHARD_KIND_FILE, SHARD_FORMAT);
    if (rc == 0 && (shard_try_attrs(&as, info) < 0 || attrs_try_str(&as, "content", &hash) < 0 ||
                    set_try_parse_hash(hash, &p->content) < 0))
        rc = err_set("'%s': %s", path, err_last());
    if (rc == 0)
        rc = open_data(m, path, info);
    attrs_free(&as);
    if (rc < 0) {
        shard_close_member(m);
        return -1;
    }
    p->n_tokens = info->n_tokens;
    p->n_docs = info->n_docs;
    p->n_bytes = info->n_bytes;
    p->n_samples = info->n_samples;
    p->n_targets = info->n_targets;
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
    if (set->seq_len != b->seq_len)
        return err_set("'%s' has samples of %lld tokens at most, the set of %lld (0: not packed)", path,
                       (long long)b->seq_len, (long long)set->seq_len);
    if (strcmp(set->source, b->source) != 0)
        return err_set("'%s' was made from other text or options (%s) than the set (%s)", path, b->source,
                       set->source);
    return 0;
}

int shard_try_add_counts(struct shard_info *sum, const struct shard_part *p)
{
    if (__builtin_add_overflow(sum->n_tokens, p->n_tokens, &sum->n_tokens) ||
        __builtin_add_overflow(sum->n_docs, p->n_docs, &sum->n_docs) ||
        __builtin_add_overflow(sum->n_bytes, p->n_bytes, &sum->n_bytes) ||
        __builtin_add_overflow(sum->n_samples, p->n_samples, &sum->n_samples) ||
        __builtin_add_overflow(sum->n_targets, p->n_targets, &sum->n_targets))
        return err_set("the counts of the shards do not fit 64 bits");
    return 0;
}
