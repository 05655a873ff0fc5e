/* bytelevel.c - a tokenizer of byte-level BPE: added tokens, then words, then merges
 * SPDX-License-Identifier: MIT
 */
#include "bytelevel.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/mem.h"

enum { PART = 64 << 10 };

struct state {
    const struct bytelevel *t;
    struct added_scan *raw, *normal;
    struct split_stream *norm, *split;
    struct bpe_words *words;
    struct buf hold;       /* text before the normaliser, from its last ASCII byte */
    bool open, norm_open;  /* a piece has begun in `split`, in `norm` */
    struct token_ids *ids; /* where to, during a call */
};

/* ---- text between added tokens, from the last stage to the first ---- */

static void put_words(struct state *s, const unsigned char *p, size_t n, bool last)
{
    struct split_words w;
    split_put(s->split, p, n, last);
    while (split_get(s->split, &w))
        bpe_encode(s->words, w.text, w.end, w.n, s->ids);
    s->open = !last;
}

static void words_text(void *to, const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i += PART)
        put_words(to, p + i, n - i < PART ? n - i : PART, false);
}

static void words_end(struct state *s)
{
    if (s->open)
        put_words(s, (const unsigned char *)"", 0, true);
}

static void push(struct state *s, uint32_t id)
{
    *token_ids_room(s->ids, 1) = id;
    s->ids->n++;
}

static void words_token(void *to, uint32_t id)
{
    words_end(to);
    push(to, id);
}

/* Normalised text of a piece. */
static void normal_text(struct state *s, const unsigned char *p, size_t n)
{
    static const struct added_sink sink = { words_text, words_token };
    if (n && s->normal)
        added_feed(s->normal, p, n, false, &sink, s);
    else if (n)
        words_text(s, p, n);
}

static void normal_end(struct state *s)
{
    static const struct added_sink sink = { words_text, words_token };
    if (s->normal)
        added_feed(s->normal, "", 0, true, &sink, s);
    words_end(s);
}

static void normalise(struct state *s, const unsigned char *p, size_t n, bool last)
{
    struct split_words w;
    split_put(s->norm, p, n, last);
    while (split_get(s->norm, &w))
        normal_text(s, w.text, w.end[w.n - 1]);
    s->norm_open = !last;
}

static bool is_ascii(const unsigned char *p, size_t n)
{
    unsigned char all = 0;
    for (size_t i = 0; i < n; i++)
        all |= p[i];
    return all < 0x80;
}

/* Text whose neighbours are ASCII or an end of the piece, but for a last ASCII byte that is not in it. */
static void norm_stretch(struct state *s, const unsigned char *p, size_t n)
{
    if (is_ascii(p, n))
        normal_text(s, p, n);
    else
        normalise(s, p, n, true);
}

/* Nothing composes with an ASCII character in front of it, so before one the text may be cut; that one may compose
 * with what follows, so it is held back. */
static void piece_text(void *to, const unsigned char *p, size_t n)
{
    struct state *s = to;
    if (!s->norm) {
        normal_text(s, p, n);
        return;
    }
    if (!s->t->norm_cuts) {
        if (n)
            normalise(s, p, n, false);
        return;
    }
    size_t first = 0, last = n;
    while (first < n && p[first] >= 0x80)
        first++;
    buf_add(&s->hold, p, first);
    if (first == n)
        return;
    norm_stretch(s, (const unsigned char *)s->hold.data, s->hold.len);
    buf_clear(&s->hold);
    while (p[--last] >= 0x80)
        ;
    norm_stretch(s, p + first, last - first);
    buf_add(&s->hold, p + last, n - last);
}

static void piece_end(struct state *s)
{
    if (s->norm && s->t->norm_cuts && s->hold.len)
        norm_stretch(s, (const unsigned char *)s->hold.data, s->hold.len);
    else if (s->norm_open)
        normalise(s, (const unsigned char *)"", 0, true);
    buf_clear(&s->hold);
    normal_end(s);
}

static void piece_token(void *to, uint32_t id)
{
    piece_end(to);
    push(to, id);
}

/* ---- a kind's functions ---- */

void *bytelevel_new_state(const struct tokenizer *t)
{
    const struct bytelevel *bl = t->impl;
    struct state *s = xcalloc(1, sizeof *s);
    s->t = bl;
    s->raw = bl->raw ? added_scan_new(bl->raw) : NULL;
    s->normal = bl->normal ? added_scan_new(bl->normal) : NULL;
    s->norm = bl->norm ? split_stream_new(bl->norm) : NULL;
    s->split = split_stream_new(bl->words);
    return s;
}

void bytelevel_free_state(void *state)
{
    struct state *s = state;
    if (!s)
        return;
    added_scan_free(s->raw);
    added_scan_free(s->normal);
    split_stream_free(s->norm);
    split_stream_free(s->split);
    bpe_words_free(s->words);
    buf_free(&s->hold);
    free(s);
}

void bytelevel_encode(const struct tokenizer *t, void *state, const unsigned char *text, size_t n, bool last,
                      struct token_ids *ids)
{
    static const struct added_sink sink = { piece_text, piece_token };
    struct state *s = state;
    (void)t;
    if (!s->words) /* a stream that only decodes needs no cache */
        s->words = bpe_words_new(s->t->bpe);
    s->ids = ids;
    if (s->raw && (n || last))
        added_feed(s->raw, text, n, last, &sink, s);
    else if (n)
        piece_text(s, text, n);
    if (last)
        piece_end(s);
    s->ids = NULL;
}

int bytelevel_try_decode(const struct tokenizer *t, void *state, const uint32_t *ids, size_t n, bool last,
                         struct buf *text)
{
    const struct bytelevel *bl = t->impl;
    (void)state, (void)last;
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const unsigned char *p = bpe_bytes(bl->bpe, ids[i], &len);
        if ((int64_t)ids[i] == t->info.eod)
            continue;
        if (!p)
            return err_set("token %lu is not in the vocabulary of '%s'", (unsigned long)ids[i], t->info.name);
        buf_add(text, p, len);
    }
    return 0;
}

void bytelevel_release(struct tokenizer *t)
{
    struct bytelevel *bl = t->impl;
    if (!bl)
        return;
    bpe_free(bl->bpe);
    split_free(bl->words);
    split_free(bl->norm);
    added_free(bl->raw);
    added_free(bl->normal);
    for (size_t i = 0; i < bl->n_special; i++)
        free(bl->special[i].name);
    free(bl->special);
    free(bl);
    t->impl = NULL;
}

void bytelevel_add_special(struct bytelevel *bl, const char *name, uint32_t id)
{
    struct bytelevel_special *s = grow(&bl->special, &bl->n_special, &bl->cap_special, sizeof *s);
    *s = (struct bytelevel_special){ xstrdup(name), id };
}

int64_t bytelevel_find_special(const struct tokenizer *t, const char *name)
{
    const struct bytelevel *bl = t->impl;
    for (size_t i = 0; i < bl->n_special; i++)
        if (strcmp(bl->special[i].name, name) == 0)
            return bl->special[i].id;
    return -1;
}

void bytelevel_describe(struct tokenizer *t, const struct buf *more)
{
    static const char version[] = "ssmtools byte-level bpe 1";
    const struct bytelevel *bl = t->impl;
    struct hash *h = hash_new();
    t->info.vocab = bpe_ids(bl->bpe);
    if (t->info.eod >= t->info.vocab)
        t->info.vocab = t->info.eod + 1;
    hash_add(h, version, sizeof version);
    hash_add(h, split_name(bl->words), strlen(split_name(bl->words)) + 1);
    if (bl->norm)
        hash_add(h, split_name(bl->norm), strlen(split_name(bl->norm)) + 1);
    bpe_hash(bl->bpe, h);
    t->info.needs_utf8 = true; /* the words are cut from characters */
    hash_add(h, &t->info.eod, sizeof t->info.eod);
    hash_add(h, more->data, more->len);
    t->info.hash = hash_end(h);
    hash_free(h);
}

int bytelevel_try_eod(struct tokenizer *t, const struct tokenizer_options *o, const char *file,
                      int64_t (*find)(const void *with, const char *text), const void *with)
{
    static const char *const usual[] = { "<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>" };
    t->info.eod = -1;
    if (o->eod) {
        t->info.eod = find(with, o->eod);
        if (t->info.eod < 0)
            return err_set("%s: there is no token '%s' to end documents with (--eod)", file, o->eod);
        return 0;
    }
    if (o->eod_known) {
        size_t n;
        const struct bytelevel *bl = t->impl;
        if (o->eod_id < 0 || o->eod_id > BPE_MAX_ID || !bpe_bytes(bl->bpe, (uint32_t)o->eod_id, &n))
            return err_set("%s: there is no token %lld to end documents with", file, (long long)o->eod_id);
        t->info.eod = o->eod_id;
        return 0;
    }
    for (size_t i = 0; i < sizeof usual / sizeof *usual && t->info.eod < 0; i++)
        t->info.eod = find(with, usual[i]);
    if (t->info.eod < 0)
        return err_set("%s: none of <|endoftext|>, </s>, <|end_of_text|>, <eos> is a token of it: --eod "
                       "TOKEN says which "
                       "one ends a document",
                       file);
    return 0;
}

void bytelevel_set_name(struct tokenizer *t, const char *path)
{
    size_t n = strlen(path), from;
    for (int folder = 0; folder < 2; folder++) {
        while (n > 1 && path[n - 1] == '/')
            n--;
        from = n;
        while (from > 0 && path[from - 1] != '/')
            from--;
        if (n - from != 14 || memcmp(path + from, "tokenizer.json", 14) != 0 || from < 2)
            break;
        n = from;
    }
    size_t len = n - from < sizeof t->info.name ? n - from : sizeof t->info.name - 1;
    memcpy(t->info.name, path + from, len);
    t->info.name[len] = 0;
    if (strcmp(t->info.name, "bytes") == 0 || strcmp(t->info.name, ".") == 0 ||
        strcmp(t->info.name, "..") == 0)
        memcpy(t->info.name, "tokenizer.json", sizeof "tokenizer.json");
}
