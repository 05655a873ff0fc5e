/* tokenizer.c - text to token ids and back: the kinds, and the simplest of them
 * SPDX-License-Identifier: MIT
 *
 * "bytes": id = byte, 256 = end of document. Nothing to download, nothing that cannot be said in it.
 */
#include "tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "kinds.h"

uint32_t *token_ids_room(struct token_ids *ids, size_t n)
{
    if (ids->cap - ids->n < n) {
        ids->cap = ids->n + n + ids->cap / 2;
        ids->id = xrealloc(ids->id, mul_size(ids->cap, sizeof *ids->id, "token ids"));
    }
    return ids->id + ids->n;
}

void token_ids_free(struct token_ids *ids)
{
    free(ids->id);
    *ids = (struct token_ids){ 0 };
}

/* ---- bytes ---- */

enum { BYTES_EOD = 256 };

static bool bytes_takes(const char *spec) { return strcmp(spec, "bytes") == 0; }

static int bytes_try_open(struct tokenizer *t, const char *spec, const struct tokenizer_options *o)
{
    static const char definition[] = "ssmtools bytes 1: ids 0-255 are bytes, 256 ends a document";
    (void)spec;
    if (o->eod)
        return err_set("'bytes' ends documents with id %d, not with '%s'", BYTES_EOD, o->eod);
    if (o->eod_known && o->eod_id != BYTES_EOD)
        return err_set("'bytes' ends documents with id %d, not with %lld", BYTES_EOD, (long long)o->eod_id);
    memcpy(t->info.name, "bytes", sizeof "bytes");
    t->info.hash = hash_bytes(definition, sizeof definition - 1);
    t->info.vocab = BYTES_EOD + 1;
    t->info.eod = BYTES_EOD;
    return 0;
}

static void bytes_encode(const struct tokenizer *t, void *state, const unsigned char *text, size_t n,
                         bool last, struct token_ids *ids)
{
    (void)t, (void)state, (void)last;
    uint32_t *id = token_ids_room(ids, n);
    for (size_t i = 0; i < n; i++)
        id[i] = text[i];
    ids->n += n;
}

static int bytes_try_decode(const struct tokenizer *t, void *state, const uint32_t *ids, size_t n, bool last,
                            struct buf *text)
{
    (void)t, (void)state, (void)last;
    while (n > 0) {
        char block[4096];
        size_t used = 0;
        size_t take = n < sizeof block ? n : sizeof block;
        for (size_t i = 0; i < take; i++) {
            if (ids[i] > BYTES_EOD)
                return err_set("token %lu is not in the vocabulary of 'bytes'", (unsigned long)ids[i]);
            if (ids[i] != BYTES_EOD)
                block[used++] = (char)ids[i];
        }
        buf_add(text, block, used);
        ids += take;
        n -= take;
    }
    return 0;
}

static const struct tokenizer_kind bytes = { .name = "bytes",
                                             .takes = bytes_takes,
                                             .try_open = bytes_try_open,
                                             .encode = bytes_encode,
                                             .try_decode = bytes_try_decode };

/* ---- all kinds ---- */

static const struct tokenizer_kind *const kinds[] = { &bytes, &tokenizer_tiktoken, &tokenizer_sentencepiece,
                                                  &tokenizer_hf };

struct tokenizer *tokenizer_try_open(const char *spec, const struct tokenizer_options *o)
{
    static const struct tokenizer_options none = { 0 };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (!kinds[i]->takes(spec))
            continue;
        struct tokenizer *t = xcalloc(1, sizeof *t);
        t->kind = kinds[i];
        if (t->kind->try_open(t, spec, o ? o : &none) == 0)
            return t;
        free(t);
        return NULL;
    }
    err_set("unknown tokenizer '%s': not bytes, tiktoken:NAME:FILE, FILE.model, nor a file or folder that is "
            "there",
            spec);
    return NULL;
}

struct tokenizer *tokenizer_try_open_same(const char *what, const char *spec, uint64_t hash, int64_t eod)
{
    struct tokenizer_options o = { .eod_known = true, .eod_id = eod };
    uint64_t got = 0;
    for (int i = 0; i < 2; i++) {
        o.specials = i ? SPECIALS_PARSE : SPECIALS_TEXT;
        struct tokenizer *t = tokenizer_try_open(spec, &o);
        if (!t || t->info.hash == hash)
            return t;
        got = i ? got : t->info.hash;
        tokenizer_free(t);
    }
    err_set("%s: made with another tokenizer (%016llx) than '%s' (%016llx)", what, (unsigned long long)hash,
            spec, (unsigned long long)got);
    return NULL;
}

void tokenizer_free(struct tokenizer *t)
{
    if (t && t->kind->release)
        t->kind->release(t);
    free(t);
}

int64_t tokenizer_find_special(const struct tokenizer *t, const char *name)
{
    return t->kind->find_special ? t->kind->find_special(t, name) : -1;
}

const struct tokenizer_info *tokenizer_info(const struct tokenizer *t) { return &t->info; }

struct token_stream {
    const struct tokenizer *t;
    void *state;
};

struct token_stream *token_stream_new(const struct tokenizer *t)
{
    struct token_stream *s = xcalloc(1, sizeof *s);
    s->t = t;
    s->state = t->kind->new_state ? t->kind->new_state(t) : NULL;
    return s;
}

void token_stream_free(struct token_stream *s)
{
    if (s && s->t->kind->free_state)
        s->t->kind->free_state(s->state);
    free(s);
}

void tokenizer_encode(struct token_stream *s, const void *text, size_t n, bool last, struct token_ids *ids)
{
    s->t->kind->encode(s->t, s->state, text, n, last, ids);
}

int tokenizer_try_decode(struct token_stream *s, const uint32_t *ids, size_t n, bool last, struct buf *text)
{
    return s->t->kind->try_decode(s->t, s->state, ids, n, last, text);
}
