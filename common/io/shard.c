/* shard.c - sets of tokenised documents
 * SPDX-License-Identifier: MIT
 *
 * Reading: members are opened when a token of theirs is wanted, at most OPEN_MAX at a time; decoded chunks are
 * kept in a small cache, because rows of one chunk are often read together. /doc_end is never loaded: it may
 * be larger than memory, and a binary search by pread costs microseconds.
 * Over 500 lines: writer, index, reader and verification are one format, and are read together.
 */
#define _GNU_SOURCE
#include "shard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/out.h"
#include "h5.h"

static const char KIND_SET[] = "ssmtools token shards", KIND_FILE[] = "ssmtools token shard";
enum { FORMAT = 1, CHUNK = 256 << 10, ENDS_BLOCK = 64 << 10, OPEN_MAX = 32, CACHE = 8 };

/* A row of /parts; packed. */
struct part {
    int64_t n_tokens, n_docs, n_bytes;
    uint64_t content;
};

static const struct h5_column part_columns[] = {
    { "n_tokens", H5_I64, 1, offsetof(struct part, n_tokens) },
    { "n_docs", H5_I64, 1, offsetof(struct part, n_docs) },
    { "n_bytes", H5_I64, 1, offsetof(struct part, n_bytes) },
    { "content", H5_U64, 1, offsetof(struct part, content) },
};
enum { N_COLUMNS = sizeof part_columns / sizeof *part_columns };

static enum h5_type token_type(int64_t vocab) { return vocab <= 65536 ? H5_U16 : H5_U32; }

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- the content hash: a chain over chunks of tokens, one over blocks of document ends, then both ---- */

static uint64_t mix(uint64_t h, const void *data, size_t n)
{
    const uint64_t pair[2] = { h, hash_bytes(data, n) };
    return hash_bytes(pair, sizeof pair);
}

static uint64_t content_hash(uint64_t tokens, uint64_t ends) { return mix(tokens, &ends, sizeof ends); }

/* ---- attributes ---- */

static void put_info(struct h5 *f, const struct shard_info *info)
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
    h5_put_str(f, "/", "source", info->source);
}

static int try_counts(int64_t n_tokens, int64_t n_docs, int64_t n_bytes)
{
    if (n_tokens < 0 || n_docs < 0 || n_bytes < 0 || n_docs > n_tokens || (n_docs == 0 && n_tokens > 0))
        return err_set("%lld tokens, %lld documents, %lld bytes cannot be", (long long)n_tokens,
                       (long long)n_docs, (long long)n_bytes);
    return 0;
}

static bool vocab_fits(const struct shard_info *i)
{
    return i->vocab >= 1 && i->vocab <= UINT32_MAX && i->eod >= 0 && i->eod < i->vocab;
}

static int try_info(const struct attrs *as, struct shard_info *info)
{
    const char *tokenizer, *hash, *source;
    *info = (struct shard_info){ 0 };
    if (attrs_try_str(as, "tokenizer", &tokenizer) < 0 || attrs_try_str(as, "tokenizer_hash", &hash) < 0 ||
        attrs_try_int(as, "vocab", &info->vocab) < 0 || attrs_try_int(as, "eod", &info->eod) < 0 ||
        attrs_try_int(as, "n_tokens", &info->n_tokens) < 0 ||
        attrs_try_int(as, "n_docs", &info->n_docs) < 0 || attrs_try_int(as, "n_bytes", &info->n_bytes) < 0 ||
        attrs_try_str(as, "source", &source) < 0)
        return err_set("attribute %s", err_last());
    if ((size_t)snprintf(info->tokenizer, sizeof info->tokenizer, "%s", tokenizer) >= sizeof info->tokenizer)
        return err_set("the tokenizer's name is longer than %zu bytes", sizeof info->tokenizer - 1);
    if ((size_t)snprintf(info->source, sizeof info->source, "%s", source) >= sizeof info->source)
        return err_set("the attribute 'source' is longer than %zu bytes", sizeof info->source - 1);
    if (set_try_parse_hash(hash, &info->tokenizer_hash) < 0)
        return -1;
    if (!vocab_fits(info))
        return err_set("a vocabulary of %lld tokens with end token %lld cannot be", (long long)info->vocab,
                       (long long)info->eod);
    return try_counts(info->n_tokens, info->n_docs, info->n_bytes);
}

/* ---- writing ---- */

struct shard_writer {
    struct out *out;
    struct h5 *file;
    struct h5_chunks *tokens;
    struct shard_info info;
    size_t token_size;
    void *chunk;  /* CHUNK tokens */
    int64_t fill; /* tokens in it */
    uint64_t *ends;
    size_t n_ends, cap_ends;
    int64_t doc_begin;
    uint64_t hash; /* of the tokens so far */
};

struct shard_writer *shard_create(const char *path, const struct shard_info *info, int level, bool force)
{
    if (!vocab_fits(info))
        bug("shard with a vocabulary of %lld tokens, end token %lld", (long long)info->vocab,
            (long long)info->eod);
    struct shard_writer *w = xcalloc(1, sizeof *w);
    w->out = out_open(path, force);
    w->file = h5_create(out_temp(w->out), path);
    w->info = *info;
    w->info.n_tokens = w->info.n_docs = w->info.n_bytes = 0;
    w->token_size = h5_type_size(token_type(info->vocab));
    w->tokens = h5_make_chunks(w->file, "/tokens", token_type(info->vocab), CHUNK, level);
    w->chunk = xmalloc(CHUNK * w->token_size);
    return w;
}

static void flush_chunk(struct shard_writer *w)
{
    if (!w->fill)
        return;
    w->hash = mix(w->hash, w->chunk, (size_t)w->fill * w->token_size);
    h5_put_chunk(w->tokens, w->chunk, w->fill);
    w->fill = 0;
}

/* Appends tokens that fit into the chunk. */
static void fill_chunk(struct shard_writer *w, const uint32_t *tokens, int64_t n)
{
    uint32_t max = 0;
    for (int64_t j = 0; j < n; j++)
        max = tokens[j] > max ? tokens[j] : max;
    if ((int64_t)max >= w->info.vocab)
        bug("token %u in a vocabulary of %lld", max, (long long)w->info.vocab);
    if (w->token_size == 2) {
        uint16_t *to = (uint16_t *)w->chunk + w->fill;
        for (int64_t j = 0; j < n; j++)
            to[j] = (uint16_t)tokens[j];
    } else {
        memcpy((uint32_t *)w->chunk + w->fill, tokens, (size_t)n * sizeof *tokens);
    }
    w->fill += n;
    w->info.n_tokens += n;
}

void shard_add(struct shard_writer *w, const uint32_t *tokens, int64_t n)
{
    while (n > 0) {
        int64_t k = min64(n, CHUNK - w->fill);
        fill_chunk(w, tokens, k);
        if (w->fill == CHUNK)
            flush_chunk(w);
        tokens += k;
        n -= k;
    }
}

void shard_end_doc(struct shard_writer *w, int64_t n_bytes)
{
    shard_add(w, &(uint32_t){ (uint32_t)w->info.eod }, 1);
    uint64_t *end = grow(&w->ends, &w->n_ends, &w->cap_ends, sizeof *w->ends);
    *end = (uint64_t)w->info.n_tokens;
    w->doc_begin = w->info.n_tokens;
    w->info.n_docs++;
    w->info.n_bytes += n_bytes;
}

static void release_writer(struct shard_writer *w)
{
    free(w->chunk);
    free(w->ends);
    free(w);
}

static void put_ends(struct shard_writer *w)
{
    int64_t n = w->info.n_docs;
    uint64_t hash = 0;
    struct h5_data *d = h5_make_data(w->file, "/doc_end", H5_U64, 1, &n);
    for (int64_t i = 0; i < n; i += ENDS_BLOCK) {
        int64_t k = min64(n - i, ENDS_BLOCK);
        h5_write(d, &i, &k, w->ends + i);
        hash = mix(hash, w->ends + i, (size_t)k * sizeof *w->ends);
    }
    h5_end_data(d);
    char content[17];
    set_format_hash(content_hash(w->hash, hash), content);
    h5_put_str(w->file, "/", "content", content);
}

void shard_commit(struct shard_writer *w, struct shard_info *info)
{
    if (w->doc_begin != w->info.n_tokens)
        bug("shard '%s' ends inside a document", out_temp(w->out));
    flush_chunk(w);
    h5_end_chunks(w->tokens);
    put_ends(w);
    h5_put_str(w->file, "/", "kind", KIND_FILE);
    h5_put_int(w->file, "/", "format", FORMAT);
    put_info(w->file, &w->info);
    h5_put_str(w->file, "/", "history", meter_history());
    h5_finish(w->file);
    out_commit(w->out);
    if (info)
        *info = w->info;
    release_writer(w);
}

void shard_abort(struct shard_writer *w)
{
    h5_end_chunks(w->tokens);
    h5_drop(w->file);
    out_abort(w->out);
    release_writer(w);
}

/* ---- one open shard file ---- */

struct member {
    struct h5 *file; /* NULL when not open */
    struct h5_chunks *tokens;
    int64_t chunk;   /* tokens a chunk */
    int64_t ends_at; /* place of /doc_end in the file */
    int64_t last_use;
};

static void close_member(struct member *m)
{
    h5_end_chunks(m->tokens);
    h5_close(m->file);
    *m = (struct member){ 0 };
}

/* Opens a shard file and checks all that can be checked without reading its data. */
static int open_member(const char *path, struct member *m, struct shard_info *info, uint64_t *content)
{
    struct attrs as = { 0 };
    const char *hash;
    int64_t n = 0, n_docs = 0;
    *m = (struct member){ .file = h5_try_open(path) };
    int rc = m->file ? h5_try_attrs(m->file, "/", &as) : -1;
    if (rc == 0)
        rc = set_try_kind(&as, path, KIND_FILE, FORMAT);
    if (rc == 0 && (try_info(&as, info) < 0 || attrs_try_str(&as, "content", &hash) < 0 ||
                    set_try_parse_hash(hash, content) < 0))
        rc = err_set("'%s': %s", path, err_last());
    if (rc == 0) {
        m->tokens = h5_try_chunks(m->file, "/tokens", token_type(info->vocab), &n, &m->chunk);
        rc = m->tokens ? h5_try_locate(m->file, "/doc_end", H5_U64, 1, &n_docs, &m->ends_at) : -1;
    }
    if (rc == 0 && (n != info->n_tokens || n_docs != info->n_docs || m->chunk != CHUNK))
        rc = err_set(
            "'%s' holds %lld tokens (%lld a chunk) and %lld documents, it should be %lld (%d) and %lld", path,
            (long long)n, (long long)m->chunk, (long long)n_docs, (long long)info->n_tokens, CHUNK,
            (long long)info->n_docs);
    attrs_free(&as);
    if (rc < 0)
        close_member(m);
    return rc;
}

int shard_try_info(const char *path, struct shard_info *info)
{
    struct member m;
    uint64_t content;
    if (open_member(path, &m, info, &content) < 0)
        return -1;
    close_member(&m);
    return 0;
}

/* All shards of a set speak the same language. */
static int try_alike(const char *path, const struct shard_info *set, const struct shard_info *b)
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

static int try_add_counts(struct shard_info *sum, const struct part *p)
{
    if (__builtin_add_overflow(sum->n_tokens, p->n_tokens, &sum->n_tokens) ||
        __builtin_add_overflow(sum->n_docs, p->n_docs, &sum->n_docs) ||
        __builtin_add_overflow(sum->n_bytes, p->n_bytes, &sum->n_bytes))
        return err_set("the counts of the shards do not fit 64 bits");
    return 0;
}

/* ---- the index ---- */

static void put_virtual_tokens(struct h5 *index, const struct shard_info *sum,
                               const struct set_member *members, const struct part *parts, int n)
{
    struct h5_source *src = xcalloc((size_t)n, sizeof *src);
    int64_t at = 0;
    int used = 0;
    for (int i = 0; i < n; i++) {
        if (!parts[i].n_tokens)
            continue;
        src[used].file = members[i].name;
        src[used].dataset = "/tokens";
        src[used].offset[0] = at;
        src[used++].count[0] = parts[i].n_tokens;
        at += parts[i].n_tokens;
    }
    if (used)
        h5_put_virtual(index, "/tokens", token_type(sum->vocab), 1, &sum->n_tokens, src, used);
    free(src);
}

/* Opens, checks and describes member i, and adds it to the sum. */
static void index_member(const char *dir, const char *name, int i, struct shard_info *sum,
                         struct set_member *m, struct part *p)
{
    char *path = path_join(dir, name);
    struct shard_info info;
    struct member open;
    if (strchr(name, '/'))
        die("'%s' is not the name of a file in '%s'", name, dir);
    if (open_member(path, &open, &info, &p->content) < 0)
        die("%s", err_last());
    close_member(&open);
    if (i == 0) {
        *sum = info;
        sum->n_tokens = sum->n_docs = sum->n_bytes = 0;
    }
    p->n_tokens = info.n_tokens;
    p->n_docs = info.n_docs;
    p->n_bytes = info.n_bytes;
    if (try_alike(path, sum, &info) < 0 || try_add_counts(sum, p) < 0)
        die("%s", err_last());
    set_describe(dir, name, m);
    free(path);
}

void shards_write_index(const char *dir, const char *const *names, int n, bool force)
{
    if (n < 1)
        die("no shards for the index of '%s'", dir);
    struct set_member *members = xcalloc((size_t)n, sizeof *members);
    struct part *parts = xcalloc((size_t)n, sizeof *parts);
    struct shard_info sum = { 0 };
    for (int i = 0; i < n; i++)
        index_member(dir, names[i], i, &sum, &members[i], &parts[i]);
    if (set_try_members(dir, members, n) < 0)
        die("%s", err_last());
    char *path = set_index_path(dir);
    struct out *o = out_open(path, force);
    struct h5 *index = h5_create(out_temp(o), path);
    set_put_head(index, KIND_SET, FORMAT, meter_history(), members, n);
    put_info(index, &sum);
    h5_put_table(index, "/parts", part_columns, N_COLUMNS, parts, n);
    put_virtual_tokens(index, &sum, members, parts, n);
    h5_finish(index);
    out_commit(o);
    free(path);
    free(members);
    free(parts);
}

/* ---- reading ---- */

struct cached {
    int member; /* -1: empty */
    int64_t chunk, last_use;
    void *tokens; /* CHUNK of them */
};

struct shards {
    char *dir;
    struct shard_info info;
    int n;
    struct set_member *table;
    struct part *parts;
    int64_t *token0, *doc0; /* [n+1] where a member's tokens and documents begin in the set */
    struct member *members;
    struct cached cache[CACHE];
    int64_t clock; /* counts uses */
    int n_open;
};

const struct shard_info *shards_info(const struct shards *s) { return &s->info; }
const char *shards_dir(const struct shards *s) { return s->dir; }
int shards_count(const struct shards *s) { return s->n; }
const struct set_member *shards_member(const struct shards *s, int i) { return &s->table[i]; }

uint64_t shards_hash(const struct shards *s)
{
    uint64_t h = s->info.tokenizer_hash;
    for (int i = 0; i < s->n; i++)
        h = mix(h, &s->parts[i], sizeof s->parts[i]);
    return h;
}

static void close_oldest(struct shards *s)
{
    int oldest = -1;
    for (int j = 0; j < s->n; j++)
        if (s->members[j].file && (oldest < 0 || s->members[j].last_use < s->members[oldest].last_use))
            oldest = j;
    close_member(&s->members[oldest]);
    s->n_open--;
}

/* Opens member i if it is not. */
static int use_member(struct shards *s, int i)
{
    struct member *m = &s->members[i];
    m->last_use = ++s->clock;
    if (m->file)
        return 0;
    if (s->n_open == OPEN_MAX)
        close_oldest(s);
    struct part p = { 0 };
    struct shard_info info;
    char *path = path_join(s->dir, s->table[i].name);
    int rc = open_member(path, m, &info, &p.content);
    if (rc == 0) {
        p.n_tokens = info.n_tokens;
        p.n_docs = info.n_docs;
        p.n_bytes = info.n_bytes;
        rc = try_alike(path, &s->info, &info);
        if (rc == 0 && memcmp(&p, &s->parts[i], sizeof p) != 0)
            rc = err_set("'%s' is not the shard that its index describes", path);
        if (rc < 0)
            close_member(m);
    }
    free(path);
    if (rc < 0)
        return -1;
    m->last_use = s->clock;
    s->n_open++;
    return 0;
}

static int read_parts(struct shards *s, struct h5 *index)
{
    struct attrs as = { 0 };
    void *rows = NULL;
    int64_t n = 0;
    int rc = h5_try_attrs(index, "/", &as);
    if (rc == 0 && try_info(&as, &s->info) < 0)
        rc = err_set("the index of '%s': %s", s->dir, err_last());
    if (rc == 0)
        rc = h5_try_table(index, "/parts", part_columns, N_COLUMNS, &rows, &n);
    s->parts = rows;
    if (rc == 0 && n != s->n)
        rc = err_set("the index of '%s' has %d members and %lld parts", s->dir, s->n, (long long)n);
    s->token0 = xcalloc((size_t)s->n + 1, sizeof *s->token0);
    s->doc0 = xcalloc((size_t)s->n + 1, sizeof *s->doc0);
    struct shard_info sum = { 0 };
    for (int i = 0; rc == 0 && i < s->n; i++) {
        const struct part *p = &s->parts[i];
        if (try_counts(p->n_tokens, p->n_docs, p->n_bytes) < 0 || try_add_counts(&sum, p) < 0)
            rc = err_set("the index of '%s': part %d: %s", s->dir, i, err_last());
        s->token0[i + 1] = sum.n_tokens;
        s->doc0[i + 1] = sum.n_docs;
    }
    if (rc == 0 &&
        (sum.n_tokens != s->info.n_tokens || sum.n_docs != s->info.n_docs || sum.n_bytes != s->info.n_bytes))
        rc = err_set("the index of '%s' does not add up", s->dir);
    attrs_free(&as);
    return rc;
}

struct shards *shards_try_open(const char *dir)
{
    struct set_member *table = NULL;
    int n = 0;
    struct h5 *index = set_try_open(dir, KIND_SET, FORMAT, NULL, &table, &n);
    if (!index)
        return NULL;
    struct shards *s = xcalloc(1, sizeof *s);
    s->dir = xstrdup(dir);
    s->table = table;
    s->n = n;
    s->members = xcalloc((size_t)n, sizeof *s->members);
    for (int i = 0; i < CACHE; i++)
        s->cache[i].member = -1;
    int rc = read_parts(s, index);
    h5_close(index);
    for (int i = 0; rc == 0 && i < n; i++)
        rc = set_try_check(dir, &table[i], false) < 0 ? -1 : use_member(s, i);
    if (rc < 0) {
        shards_close(s);
        return NULL;
    }
    return s;
}

void shards_close(struct shards *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->n; i++)
        close_member(&s->members[i]);
    for (int i = 0; i < CACHE; i++)
        free(s->cache[i].tokens);
    free(s->members);
    free(s->table);
    free(s->parts);
    free(s->token0);
    free(s->doc0);
    free(s->dir);
    free(s);
}

/* The member in which element i lies, by the begins of all members; those without elements are passed over. */
static int find_member(const int64_t *begin, int n, int64_t i)
{
    int lo = 0, hi = n; /* begin[lo] <= i < begin[hi] */
    while (hi - lo > 1) {
        int mid = lo + (hi - lo) / 2;
        if (begin[mid] <= i)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

/* Decoded tokens of one chunk, owned by the cache; NULL with err_last(). */
static const void *use_chunk(struct shards *s, int member, int64_t chunk)
{
    struct cached *c = &s->cache[0]; /* to be replaced: an empty one, or the one unused for longest */
    for (int i = 0; i < CACHE; i++) {
        struct cached *k = &s->cache[i];
        if (k->member == member && k->chunk == chunk) {
            k->last_use = ++s->clock;
            return k->tokens;
        }
        if (c->member >= 0 && (k->member < 0 || k->last_use < c->last_use))
            c = k;
    }
    if (use_member(s, member) < 0)
        return NULL;
    c->member = -1;
    if (!c->tokens)
        c->tokens = xcalloc(CHUNK, h5_type_size(token_type(s->info.vocab)));
    if (h5_try_chunk(s->members[member].tokens, chunk, c->tokens) < 0)
        return NULL;
    c->member = member;
    c->chunk = chunk;
    c->last_use = ++s->clock;
    return c->tokens;
}

/* Widens n tokens; false when one is outside the vocabulary. */
static bool widen(const void *from, int64_t at, int64_t n, int64_t vocab, uint32_t *to)
{
    uint32_t max = 0;
    if (token_type(vocab) == H5_U16) {
        const uint16_t *x = (const uint16_t *)from + at;
        for (int64_t i = 0; i < n; i++) {
            to[i] = x[i];
            max = to[i] > max ? to[i] : max;
        }
    } else {
        const uint32_t *x = (const uint32_t *)from + at;
        for (int64_t i = 0; i < n; i++) {
            to[i] = x[i];
            max = to[i] > max ? to[i] : max;
        }
    }
    return (int64_t)max < vocab;
}

static int check_range(const struct shards *s, int64_t offset, int64_t n)
{
    if (offset < 0 || n < 0 || offset > s->info.n_tokens || n > s->info.n_tokens - offset)
        return err_set("'%s' has no %lld tokens at %lld, it has %lld", s->dir, (long long)n,
                       (long long)offset, (long long)s->info.n_tokens);
    return 0;
}

int shards_try_read(struct shards *s, int64_t offset, int64_t n, uint32_t *tokens)
{
    if (check_range(s, offset, n) < 0)
        return -1;
    while (n > 0) {
        int i = find_member(s->token0, s->n, offset);
        int64_t local = offset - s->token0[i], in = local % CHUNK;
        int64_t k = min64(n, min64(CHUNK - in, s->token0[i + 1] - offset));
        const void *chunk = use_chunk(s, i, local / CHUNK);
        if (!chunk)
            return -1;
        if (!widen(chunk, in, k, s->info.vocab, tokens))
            return err_set("'%s/%s': '/tokens': a token outside the vocabulary of %lld near %lld", s->dir,
                           s->table[i].name, (long long)s->info.vocab, (long long)local);
        tokens += k;
        offset += k;
        n -= k;
    }
    return 0;
}

/* Entries [first, first+n) of a member's /doc_end. */
static int read_ends(struct shards *s, int member, int64_t first, int64_t n, uint64_t *ends)
{
    if (use_member(s, member) < 0)
        return -1;
    const struct member *m = &s->members[member];
    if (h5_try_pread(m->file, m->ends_at + first * 8, ends, (size_t)n * 8) < 0)
        return -1;
    for (int64_t i = 0; i < n; i++)
        if (ends[i] == 0 || ends[i] > (uint64_t)s->parts[member].n_tokens ||
            (i > 0 && ends[i] <= ends[i - 1]))
            return err_set("'%s/%s': '/doc_end': entry %lld (%llu) does not fit", s->dir,
                           s->table[member].name, (long long)(first + i), (unsigned long long)ends[i]);
    return 0;
}

/* How many documents of a member end at or before its token offset `local`; -1 on error. */
static int64_t docs_until(struct shards *s, int member, int64_t local)
{
    int64_t lo = 0, hi = s->parts[member].n_docs;
    if (local >= s->parts[member].n_tokens)
        return hi;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        uint64_t end;
        if (read_ends(s, member, mid, 1, &end) < 0)
            return -1;
        if (end <= (uint64_t)local)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

int64_t shards_try_doc_ends(struct shards *s, int64_t offset, int64_t n, int64_t *ends, int64_t cap)
{
    if (check_range(s, offset, n) < 0)
        return -1;
    int64_t found = 0;
    for (int64_t end = offset + n; offset < end;) {
        int i = find_member(s->token0, s->n, offset);
        int64_t begin = s->token0[i], stop = min64(s->token0[i + 1], end);
        int64_t lo = docs_until(s, i, offset - begin), hi = docs_until(s, i, stop - begin);
        if (lo < 0 || hi < 0)
            return -1;
        if (hi < lo)
            return err_set("'%s/%s': '/doc_end' is not ascending", s->dir, s->table[i].name);
        int64_t k = min64(hi - lo, cap - found);
        if (k > 0) {
            if (read_ends(s, i, lo, k, (uint64_t *)ends + found) < 0)
                return -1;
            for (int64_t j = 0; j < k; j++)
                ends[found + j] += begin;
        }
        found += hi - lo;
        offset = stop;
    }
    return found;
}

int64_t shards_try_doc_end(struct shards *s, int64_t i)
{
    if (i < 0 || i >= s->info.n_docs)
        return err_set("'%s' has no document %lld, it has %lld", s->dir, (long long)i,
                       (long long)s->info.n_docs);
    int m = find_member(s->doc0, s->n, i);
    uint64_t end;
    if (read_ends(s, m, i - s->doc0[m], 1, &end) < 0)
        return -1;
    return s->token0[m] + (int64_t)end;
}

/* ---- deep verification ---- */

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
        w->n = min64(s->parts[i].n_docs - w->first, ENDS_BLOCK);
        if (w->n == 0) {
            *end = UINT64_MAX;
            return 0;
        }
        if (read_ends(s, i, w->first, w->n, w->block) < 0)
            return -1;
        w->hash = mix(w->hash, w->block, (size_t)w->n * sizeof *w->block);
    }
    *end = w->block[w->next - w->first];
    if (*end <= w->last)
        return err_set("'%s/%s': '/doc_end' is not ascending at %lld", s->dir, s->table[i].name,
                       (long long)w->next);
    return 0;
}

/* The ends ascend, each stands behind an end token, and the contents have the hash that the attributes say. */
static int walk_tokens(struct shards *s, int i, struct ends_walk *w, uint32_t *tokens)
{
    const size_t size = h5_type_size(token_type(s->info.vocab));
    const int64_t n = s->parts[i].n_tokens;
    uint64_t end, hash = 0;
    if (next_end(s, i, w, &end) < 0)
        return -1;
    for (int64_t at = 0; at < n; at += CHUNK) {
        int64_t k = min64(n - at, CHUNK);
        if (shards_try_read(s, s->token0[i] + at, k, tokens) < 0)
            return -1;
        const void *raw = use_chunk(s, i, at / CHUNK);
        if (!raw)
            return -1;
        hash = mix(hash, raw, (size_t)k * size);
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
    if (content_hash(hash, w->hash) != s->parts[i].content)
        return err_set("'%s/%s': the contents have another hash than the attributes say", s->dir,
                       s->table[i].name);
    return 0;
}

int shards_try_verify(struct shards *s, int i)
{
    if (set_try_check(s->dir, &s->table[i], true) < 0 || use_member(s, i) < 0)
        return -1;
    struct ends_walk w = { .block = xcalloc(ENDS_BLOCK, sizeof *w.block) };
    uint32_t *tokens = xcalloc(CHUNK, sizeof *tokens);
    int rc = walk_tokens(s, i, &w, tokens);
    free(w.block);
    free(tokens);
    return rc;
}
