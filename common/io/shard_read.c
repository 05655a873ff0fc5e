/* shard_read.c - tokens, document ends, masks and samples of a set of shards
 * SPDX-License-Identifier: MIT
 *
 * Members are opened when a token of theirs is wanted, at most OPEN_MAX at a time; decoded chunks are kept in
 * a small cache, because rows of one chunk are often read together. /doc_end and /sample_end are never loaded: they may be
 * larger than memory, and a binary search by pread costs microseconds.
 */
#include "shard_private.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/out.h"

enum { OPEN_MAX = 32 };

const struct shard_info *shards_info(const struct shards *s) { return &s->info; }
const char *shards_dir(const struct shards *s) { return s->dir; }
int shards_count(const struct shards *s) { return s->n; }
const struct set_member *shards_member(const struct shards *s, int i) { return &s->table[i]; }

uint64_t shards_hash(const struct shards *s)
{
    uint64_t h = s->info.tokenizer_hash;
    for (int i = 0; i < s->n; i++)
        h = shard_mix(h, &s->parts[i], SHARD_PLAIN_ROW); /* content covers the rest */
    return h;
}

static void close_oldest(struct shards *s)
{
    int oldest = -1;
    for (int j = 0; j < s->n; j++)
        if (s->members[j].file && (oldest < 0 || s->members[j].last_use < s->members[oldest].last_use))
            oldest = j;
    shard_close_member(&s->members[oldest]);
    s->n_open--;
}

int shards_use_member(struct shards *s, int i)
{
    struct shard_member *m = &s->members[i];
    m->last_use = ++s->clock;
    if (m->file)
        return 0;
    if (s->n_open == OPEN_MAX)
        close_oldest(s);
    struct shard_part p = { 0 };
    struct shard_info info;
    char *path = path_join(s->dir, s->table[i].name);
    int rc = shard_open_member(path, m, &info, &p);
    if (rc == 0) {
        rc = shard_try_alike(path, &s->info, &info);
        if (rc == 0 && memcmp(&p, &s->parts[i], sizeof p) != 0)
            rc = err_set("'%s' is not the shard that its index describes", path);
        if (rc < 0)
            shard_close_member(m);
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
    if (rc == 0 && shard_try_attrs(&as, &s->info) < 0)
        rc = err_set("the index of '%s': %s", s->dir, err_last());
    if (rc == 0)
        rc = h5_try_table(index, "/parts", shard_part_columns,
                          s->info.seq_len ? SHARD_PART_COLUMNS : SHARD_PLAIN_COLUMNS, &rows, &n);
    if (rc == 0 && n != s->n)
        rc = err_set("the index of '%s' has %d members and %lld parts", s->dir, s->n, (long long)n);
    s->parts = xcalloc((size_t)s->n, sizeof *s->parts);
    for (int i = 0; rc == 0 && i < s->n; i++) {
        const size_t size = s->info.seq_len ? sizeof *s->parts : SHARD_PLAIN_ROW;
        memcpy(&s->parts[i], (const char *)rows + (size_t)i * size, size);
    }
    free(rows);
    s->token0 = xcalloc((size_t)s->n + 1, sizeof *s->token0);
    s->sample0 = xcalloc((size_t)s->n + 1, sizeof *s->sample0);
    s->doc0 = xcalloc((size_t)s->n + 1, sizeof *s->doc0);
    struct shard_info sum = { 0 };
    for (int i = 0; rc == 0 && i < s->n; i++) {
        const struct shard_part *p = &s->parts[i];
        if (shard_try_counts(p, s->info.seq_len) < 0 || shard_try_add_counts(&sum, p) < 0)
            rc = err_set("the index of '%s': part %d: %s", s->dir, i, err_last());
        s->token0[i + 1] = sum.n_tokens;
        s->doc0[i + 1] = sum.n_docs;
        s->sample0[i + 1] = sum.n_samples;
    }
    if (rc == 0 &&
        (sum.n_tokens != s->info.n_tokens || sum.n_docs != s->info.n_docs || sum.n_bytes != s->info.n_bytes ||
         sum.n_samples != s->info.n_samples || sum.n_targets != s->info.n_targets))
        rc = err_set("the index of '%s' does not add up", s->dir);
    attrs_free(&as);
    return rc;
}

struct shards *shards_try_open(const char *dir)
{
    struct set_member *table = NULL;
    int n = 0;
    struct h5 *index = set_try_open(dir, SHARD_KIND_SET, SHARD_FORMAT, NULL, &table, &n);
    if (!index)
        return NULL;
    struct shards *s = xcalloc(1, sizeof *s);
    s->dir = xstrdup(dir);
    s->table = table;
    s->n = n;
    s->members = xcalloc((size_t)n, sizeof *s->members);
    for (int i = 0; i < SHARDS_CACHE; i++)
        s->cache[i].member = -1;
    int rc = read_parts(s, index);
    h5_close(index);
    for (int i = 0; rc == 0 && i < n; i++)
        rc = set_try_check(dir, &table[i], false) < 0 ? -1 : shards_use_member(s, i);
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
        shard_close_member(&s->members[i]);
    for (int i = 0; i < SHARDS_CACHE; i++) {
        free(s->cache[i].tokens);
        free(s->cache[i].mask);
    }
    free(s->members);
    free(s->table);
    free(s->parts);
    free(s->token0);
    free(s->doc0);
    free(s->sample0);
    free(s->dir);
    free(s);
}

/* The member in which element i lies, by the begins of all members; those without any are passed over. */
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

const struct shards_cached *shards_use_chunk(struct shards *s, int member, int64_t chunk)
{
    struct shards_cached *c = &s->cache[0]; /* to be replaced: an empty one, or the one unused for longest */
    for (int i = 0; i < SHARDS_CACHE; i++) {
        struct shards_cached *k = &s->cache[i];
        if (k->member == member && k->chunk == chunk) {
            k->last_use = ++s->clock;
            return k;
        }
        if (c->member >= 0 && (k->member < 0 || k->last_use < c->last_use))
            c = k;
    }
    if (shards_use_member(s, member) < 0)
        return NULL;
    c->member = -1;
    if (!c->tokens)
        c->tokens = xcalloc(SHARD_CHUNK, h5_type_size(shard_token_type(s->info.vocab)));
    if (h5_try_chunk(s->members[member].tokens, chunk, c->tokens) < 0)
        return NULL;
    if (s->info.seq_len && !c->mask)
        c->mask = xcalloc(SHARD_CHUNK, 1);
    if (s->info.seq_len && h5_try_chunk(s->members[member].mask, chunk, c->mask) < 0)
        return NULL;
    c->member = member;
    c->chunk = chunk;
    c->last_use = ++s->clock;
    return c;
}

/* Widens n tokens; false when one is outside the vocabulary. */
static bool widen(const void *from, int64_t at, int64_t n, int64_t vocab, uint32_t *to)
{
    uint32_t max = 0;
    if (shard_token_type(vocab) == H5_U16) {
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
        int64_t local = offset - s->token0[i], in = local % SHARD_CHUNK;
        int64_t k = min64(n, min64(SHARD_CHUNK - in, s->token0[i + 1] - offset));
        const struct shards_cached *chunk = shards_use_chunk(s, i, local / SHARD_CHUNK);
        if (!chunk)
            return -1;
        if (!widen(chunk->tokens, in, k, s->info.vocab, tokens))
            return err_set("'%s/%s': '/tokens': a token outside the vocabulary of %lld near %lld", s->dir,
                           s->table[i].name, (long long)s->info.vocab, (long long)local);
        tokens += k;
        offset += k;
        n -= k;
    }
    return 0;
}

void shards_drop_mask(struct shards *s) { s->no_mask = true; }

int shards_try_mask(struct shards *s, int64_t offset, int64_t n, uint8_t *mask)
{
    if (check_range(s, offset, n) < 0)
        return -1;
    if (!s->info.seq_len || s->no_mask) {
        memset(mask, 1, (size_t)n);
        return 0;
    }
    while (n > 0) {
        int i = find_member(s->token0, s->n, offset);
        int64_t local = offset - s->token0[i], in = local % SHARD_CHUNK;
        int64_t k = min64(n, min64(SHARD_CHUNK - in, s->token0[i + 1] - offset));
        const struct shards_cached *chunk = shards_use_chunk(s, i, local / SHARD_CHUNK);
        if (!chunk)
            return -1;
        for (int64_t j = 0; j < k; j++) {
            mask[j] = chunk->mask[in + j];
            if (mask[j] > 1)
                return err_set("'%s/%s': '/loss_mask': %d at %lld is neither 0 nor 1", s->dir, s->table[i].name,
                               mask[j], (long long)(local + j));
        }
        mask += k;
        offset += k;
        n -= k;
    }
    return 0;
}

int shards_read_ends(struct shards *s, int member, enum shard_ends which, int64_t first, int64_t n, uint64_t *ends)
{
    if (shards_use_member(s, member) < 0)
        return -1;
    const struct shard_member *m = &s->members[member];
    if (h5_try_pread(m->file, m->ends_at[which] + first * 8, ends, (size_t)n * 8) < 0)
        return -1;
    for (int64_t i = 0; i < n; i++)
        if (ends[i] == 0 || ends[i] > (uint64_t)s->parts[member].n_tokens ||
            (i > 0 && ends[i] <= ends[i - 1]))
            return err_set("'%s/%s': '%s': entry %lld (%llu) does not fit", s->dir, s->table[member].name,
                           which == SHARD_DOCS ? "/doc_end" : "/sample_end", (long long)(first + i),
                           (unsigned long long)ends[i]);
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
        if (shards_read_ends(s, member, SHARD_DOCS, mid, 1, &end) < 0)
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
            if (shards_read_ends(s, i, SHARD_DOCS, lo, k, (uint64_t *)ends + found) < 0)
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
    if (shards_read_ends(s, m, SHARD_DOCS, i - s->doc0[m], 1, &end) < 0)
        return -1;
    return s->token0[m] + (int64_t)end;
}

int shards_try_sample(struct shards *s, int64_t i, int64_t *from, int64_t *to)
{
    if (i < 0 || i >= s->info.n_samples)
        return err_set("'%s' has no sample %lld, it has %lld", s->dir, (long long)i, (long long)s->info.n_samples);
    int m = find_member(s->sample0, s->n, i);
    int64_t k = i - s->sample0[m];
    uint64_t ends[2] = { 0, 0 };
    if (shards_read_ends(s, m, SHARD_SAMPLES, k > 0 ? k - 1 : 0, k > 0 ? 2 : 1, ends + (k == 0)) < 0)
        return -1;
    if (ends[1] - ends[0] > (uint64_t)s->info.seq_len)
        return err_set("'%s/%s': '/sample_end': sample %lld has %llu tokens, more than %lld", s->dir, s->table[m].name,
                       (long long)k, (unsigned long long)(ends[1] - ends[0]), (long long)s->info.seq_len);
    *from = s->token0[m] + (int64_t)ends[0];
    *to = s->token0[m] + (int64_t)ends[1];
    return 0;
}
