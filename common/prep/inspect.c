/* inspect.c - a look at a set of token shards: its documents, as text or ids
 * SPDX-License-Identifier: MIT
 */
#include "inspect.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/io/shard.h"
#include "common/text/tokenizer.h"

enum { TOKEN_BLOCK = 256 << 10 };

static int64_t block_of(int64_t left) { return left < TOKEN_BLOCK ? left : TOKEN_BLOCK; }

static void put(const void *data, size_t n)
{
    if (fwrite(data, 1, n, stdout) != n)
        die_errno("cannot write the standard output");
}

static void put_ids(const uint32_t *ids, size_t n, bool *fresh)
{
    char text[16 * 1024];
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (used > sizeof text - 16) {
            put(text, used);
            used = 0;
        }
        used += (size_t)snprintf(text + used, 16, *fresh ? "%lu" : " %lu", (unsigned long)ids[i]);
        *fresh = false;
    }
    put(text, used);
}

struct printer {
    const struct inspect_print *o;
    struct token_stream *stream;
    struct buf text;
    bool fresh; /* nothing of this document is out yet */
};

/* A piece of one document; with `last` its end token too. */
static void put_tokens(void *arg, const uint32_t *ids, size_t n, bool last)
{
    struct printer *p = arg;
    if (p->o->ids || p->o->mask) {
        put_ids(ids, n, &p->fresh);
        if (last)
            put("\n", 1);
    } else {
        buf_clear(&p->text);
        if (tokenizer_try_decode(p->stream, ids, n, last, &p->text) < 0)
            die("%s", err_last());
        put(p->text.data, p->text.len);
        if (last)
            put(p->o->sep, p->o->n_sep);
    }
    p->fresh = last;
}

static void range_of_doc(struct shards *s, int64_t doc, int64_t *from, int64_t *to)
{
    const struct shard_info *info = shards_info(s);
    *from = 0;
    *to = info->n_tokens;
    if (doc < 0)
        return;
    if (doc >= info->n_docs)
        die("'%s' has %lld documents, so there is no document %lld (they count from 0)", shards_dir(s),
            (long long)info->n_docs, (long long)doc);
    if (doc > 0)
        *from = shards_try_doc_end(s, doc - 1);
    *to = shards_try_doc_end(s, doc);
    if (*from < 0 || *to < 0)
        die("%s", err_last());
}

static struct tokenizer *tokenizer_of(const struct shards *s, const char *spec)
{
    const struct shard_info *info = shards_info(s);
    if (!spec && strcmp(info->tokenizer, "bytes") != 0)
        die("'%s': made with the tokenizer '%s': --tokenizer FILE says where it is, --ids shows the ids", shards_dir(s),
            info->tokenizer);
    struct tokenizer *t =
        tokenizer_try_open_same(shards_dir(s), spec ? spec : info->tokenizer, info->tokenizer_hash, info->eod);
    if (!t)
        die("%s", err_last());
    return t;
}

static int try_mask(struct shards *s, int64_t at, int64_t n, uint32_t *to)
{
    uint8_t *mask = xmalloc((size_t)n);
    int rc = shards_try_mask(s, at, n, mask);
    for (int64_t i = 0; i < n && rc == 0; i++)
        to[i] = mask[i];
    free(mask);
    return rc;
}

/* The ids, or the mask in their place. */
static void walk(struct shards *s, int64_t doc, bool mask, inspect_piece *f, void *arg)
{
    uint32_t *ids = xmalloc(TOKEN_BLOCK * sizeof *ids);
    int64_t *ends = xmalloc(TOKEN_BLOCK * sizeof *ends);
    int64_t at, to;
    range_of_doc(s, doc, &at, &to);
    while (at < to) {
        int64_t n = block_of(to - at);
        int64_t n_ends = shards_try_doc_ends(s, at, n, ends, TOKEN_BLOCK);
        if (n_ends < 0 || (mask ? try_mask(s, at, n, ids) : shards_try_read(s, at, n, ids)) < 0)
            die("%s", err_last());
        int64_t from = at;
        for (int64_t i = 0; i < n_ends; i++) {
            f(arg, ids + (from - at), (size_t)(ends[i] - from), true);
            from = ends[i];
        }
        if (from < at + n)
            f(arg, ids + (from - at), (size_t)(at + n - from), false);
        at += n;
    }
    free(ids);
    free(ends);
}

void inspect_walk(struct shards *s, int64_t doc, inspect_piece *f, void *arg) { walk(s, doc, false, f, arg); }

void inspect_print(struct shards *s, const struct inspect_print *o)
{
    struct tokenizer *t = o->ids || o->mask ? NULL : tokenizer_of(s, o->tokenizer);
    struct printer p = { .o = o, .stream = t ? token_stream_new(t) : NULL, .fresh = true };
    walk(s, o->doc, o->mask, put_tokens, &p);
    buf_free(&p.text);
    token_stream_free(p.stream);
    tokenizer_free(t);
}
