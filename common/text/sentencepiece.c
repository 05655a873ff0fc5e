/* sentencepiece.c - tokenizer kind "sentencepiece": model files of SentencePiece, through its own library
 * SPDX-License-Identifier: MIT
 *
 * The ids are those of the library, which wants a text whole: its normaliser looks across words, and the unigram
 * model adds up scores from the first character to the last in single precision. There is no cut of a text that
 * provably leaves the ids alone, so a document is collected, and one beyond MOST_TEXT bytes ends the run with a line
 * that says so: never ids that differ from those of the whole.
 *
 * Decoding is by piece, and needs no library. Byte pieces give their byte, whatever its neighbours make of it.
 * As in the library, a leading blank goes that encoding put there, and one at the end (treat_whitespace_as_suffix) stays.
 * What encoding took away does not come back: rewritten characters (normalisation), blanks that were removed, the
 * difference of U+2581 and a blank, unknown characters (U+2047 between blanks), bytes that are not UTF-8 (U+FFFD).
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/hash.h"
#include "kinds.h"

#ifndef SSM_SENTENCEPIECE
#define SSM_SENTENCEPIECE 0
#endif

static bool sentencepiece_takes(const char *spec)
{
    size_t n = strlen(spec);
    return n > 6 && strcmp(spec + n - 6, ".model") == 0;
}

#if SSM_SENTENCEPIECE
#include "sentencepiece_shim.h"

/* The library takes some 200 bytes of memory for one of text: 3.4 GB for the longest document. */
enum { MOST_TEXT = 16 << 20, MOST_MODEL = 256 << 20 };

/* What the model file says about decoding; see sentencepiece_model.proto. */
struct look {
    const unsigned char *unknown; /* what an unknown piece is written as */
    size_t n_unknown;
    uint64_t type; /* 1 unigram, 2 BPE, 3 words, 4 characters */
    bool trainer, normalizer, no_dummy, no_strip, denormalizes;
};

struct model {
    struct spm *spm;
    struct look look;
    unsigned char *bytes; /* the file; look points into it */
};

/* ---- the file: protocol buffers, as far as we want to know ---- */

struct wire {
    const unsigned char *at, *end;
};
struct field {
    unsigned number, type;
    uint64_t value;            /* of a varint; else the length */
    const unsigned char *data; /* of what has a length */
};

static bool varint(struct wire *w, uint64_t *v)
{
    *v = 0;
    for (unsigned shift = 0; w->at < w->end && shift < 64; shift += 7) {
        unsigned char c = *w->at++;
        *v |= (uint64_t)(c & 0x7f) << shift;
        if (c < 0x80)
            return true;
    }
    return false;
}

/* 1: a field; 0: the end; -1: this is no message. */
static int next_field(struct wire *w, struct field *f)
{
    uint64_t key;
    if (w->at == w->end)
        return 0;
    if (!varint(w, &key) || key >> 3 == 0 || key >> 3 > 536870911)
        return -1;
    *f = (struct field){ .number = (unsigned)(key >> 3), .type = (unsigned)(key & 7) };
    if (f->type == 0)
        return varint(w, &f->value) ? 1 : -1;
    if (f->type == 2 && !varint(w, &f->value))
        return -1;
    if (f->type != 2)
        f->value = f->type == 1 ? 8 : f->type == 5 ? 4 : UINT64_MAX;
    if (f->value > (uint64_t)(w->end - w->at))
        return -1;
    f->data = w->at;
    w->at += f->value;
    return 1;
}

static struct wire inside(const struct field *f) { return (struct wire){ f->data, f->data + f->value }; }

static int look_at_trainer(struct wire w, struct look *l)
{
    struct field f;
    int more;
    while ((more = next_field(&w, &f)) > 0) {
        if (f.number == 3 && f.type == 0)
            l->type = f.value;
        else if (f.number == 44 && f.type == 2) {
            l->unknown = f.data;
            l->n_unknown = (size_t)f.value;
        }
    }
    return more;
}

static int look_at_normalizer(struct wire w, struct look *l)
{
    struct field f;
    int more;
    while ((more = next_field(&w, &f)) > 0) {
        if (f.number == 3 && f.type == 0)
            l->no_dummy = !f.value;
        else if (f.number == 4 && f.type == 0)
            l->no_strip = !f.value;
    }
    return more;
}

static int look_at_denormalizer(struct wire w, struct look *l)
{
    struct field f;
    int more;
    while ((more = next_field(&w, &f)) > 0)
        l->denormalizes |= f.number == 2 && f.type == 2 && f.value > 0;
    return more;
}

static bool look_at_model(const unsigned char *data, size_t n, struct look *l)
{
    static const unsigned char default_unknown[] = " \xe2\x81\x87 ";
    struct wire w = { data, data + n };
    struct field f;
    int more, sub = 0;
    *l = (struct look){ .unknown = default_unknown, .n_unknown = sizeof default_unknown - 1, .type = 1 };
    while (sub >= 0 && (more = next_field(&w, &f)) > 0) {
        if (f.type != 2)
            continue;
        if (f.number == 2) {
            sub = look_at_trainer(inside(&f), l);
            l->trainer = true;
        } else if (f.number == 3) {
            sub = look_at_normalizer(inside(&f), l);
            l->normalizer = true;
        } else if (f.number == 5)
            sub = look_at_denormalizer(inside(&f), l);
    }
    return sub >= 0 && more == 0 && l->trainer && l->normalizer && l->type >= 1 && l->type <= 4;
}

static unsigned char *read_model(const char *path, size_t *n)
{
    char *data = file_try_read(path, MOST_MODEL, n);
    if (data && *n == 0) {
        err_set("'%s' is empty", path);
        free(data);
        return NULL;
    }
    return (unsigned char *)data;
}

/* ---- the kind ---- */

static void sentencepiece_release(struct tokenizer *t)
{
    struct model *m = t->impl;
    if (m) {
        spm_free(m->spm);
        free(m->bytes);
    }
    free(m);
    t->impl = NULL;
}

/* The token that ends a document: by its piece, by its id, or the model's own end of sentence. */
static int try_eod(struct tokenizer *t, const struct tokenizer_options *o, const char *spec)
{
    const struct model *m = t->impl;
    t->info.eod = o->eod ? -1 : o->eod_known ? o->eod_id : spm_eos(m->spm);
    for (int id = 0; o->eod && id < spm_pieces(m->spm) && t->info.eod < 0; id++) {
        size_t n;
        const char *piece = spm_piece(m->spm, id, &n);
        if (n == strlen(o->eod) && memcmp(piece, o->eod, n) == 0)
            t->info.eod = id;
    }
    if (o->eod && t->info.eod < 0)
        return err_set("'%s': there is no piece '%s' to end documents with (--eod)", spec, o->eod);
    if (t->info.eod < 0 || t->info.eod >= spm_pieces(m->spm))
        return err_set("'%s': the model has no </s> to end a document with: --eod PIECE says which does", spec);
    return 0;
}

static int sentencepiece_try_open(struct tokenizer *t, const char *spec, const struct tokenizer_options *o)
{
    char why[256];
    size_t n;
    struct model *m = xcalloc(1, sizeof *m);
    t->impl = m;
    m->bytes = read_model(spec, &n);
    if (!m->bytes) {
        sentencepiece_release(t);
        return -1;
    }
    if (!look_at_model(m->bytes, n, &m->look))
        err_set("'%s' is not a SentencePiece model", spec);
    else if (!(m->spm = spm_try_open(m->bytes, n, why, sizeof why)))
        err_set("'%s': SentencePiece says: %s", spec, why);
    else if (try_eod(t, o, spec) == 0) {
        struct hash *h = hash_new();
        snprintf(t->info.name, sizeof t->info.name, "sentencepiece");
        hash_add(h, m->bytes, n);
        hash_add(h, &t->info.eod, sizeof t->info.eod);
        t->info.hash = hash_end(h);
        hash_free(h);
        t->info.vocab = spm_pieces(m->spm);
        t->info.needs_utf8 = true;
        return 0;
    }
    sentencepiece_release(t);
    return -1;
}

/* A stream goes one way, or the other. */
struct stream {
    struct buf text; /* encoding: the document so far */
    bool inside;     /* decoding: something of this document is out */
};

static void *sentencepiece_new_state(const struct tokenizer *t)
{
    (void)t;
    return xcalloc(1, sizeof(struct stream));
}

static void sentencepiece_free_state(void *state)
{
    struct stream *s = state;
    buf_free(&s->text);
    free(s);
}

static void take_ids(void *to, const int *from, size_t n)
{
    struct token_ids *ids = to;
    uint32_t *id = token_ids_room(ids, n);
    for (size_t i = 0; i < n; i++)
        id[i] = (uint32_t)from[i];
    ids->n += n;
}

static void sentencepiece_encode(const struct tokenizer *t, void *state, const unsigned char *text, size_t n,
                                 bool last, struct token_ids *ids)
{
    const struct model *m = t->impl;
    struct stream *s = state;
    char why[256];
    if (n > MOST_TEXT - s->text.len)
        die("a document has more than %d MiB: SentencePiece needs documents whole, in memory; split it",
            MOST_TEXT >> 20);
    buf_add(&s->text, text, n);
    if (!last)
        return;
    if (spm_encode(m->spm, s->text.data, s->text.len, take_ids, ids, why, sizeof why) < 0)
        die("SentencePiece cannot encode a document of %zu bytes: %s", s->text.len, why);
    if (s->text.cap > 1 << 20)
        buf_free(&s->text); /* one long document in a million need not stay */
    buf_clear(&s->text);
}

static void put(struct stream *s, const void *data, size_t n, struct buf *text)
{
    s->inside = s->inside || n;
    buf_add(text, data, n);
}

/* A piece in which U+2581 stands for a blank. The first of a document may stand for none. */
static void put_piece(const struct look *l, struct stream *s, const char *p, size_t n, struct buf *text)
{
    static const char blank[] = "\xe2\x96\x81";
    if (!s->inside && !(l->no_dummy && l->no_strip) && n >= 3 && memcmp(p, blank, 3) == 0) {
        p += 3;
        n -= 3;
        s->inside = s->inside || l->no_strip; /* else all blanks at the begin go */
    }
    while (n > 0) {
        size_t run = 0;
        while (run < n && !(n - run >= 3 && memcmp(p + run, blank, 3) == 0))
            run++;
        put(s, p, run, text);
        if (run < n) {
            put(s, " ", 1, text);
            run += 3;
        }
        p += run;
        n -= run;
    }
}

static int sentencepiece_try_decode(const struct tokenizer *t, void *state, const uint32_t *ids, size_t n,
                                    bool last, struct buf *text)
{
    const struct model *m = t->impl;
    struct stream *s = state;
    if (m->look.denormalizes)
        return err_set(
            "the SentencePiece model rewrites decoded text (denormalizer), which is not done here");
    for (size_t i = 0; i < n; i++) {
        size_t len;
        unsigned byte;
        if (ids[i] >= t->info.vocab)
            return err_set("token %lu is not in the vocabulary of 'sentencepiece'", (unsigned long)ids[i]);
        const char *p = spm_piece(m->spm, (int)ids[i], &len);
        switch (spm_sort(m->spm, (int)ids[i])) {
        case SPM_CONTROL:
            break;
        case SPM_UNKNOWN:
            put(s, m->look.unknown, m->look.n_unknown, text);
            break;
        case SPM_BYTE:
            if (len == 6 && sscanf(p, "<0x%2x>", &byte) == 1)
                put(s, (char[1]){ (char)byte }, 1, text);
            break;
        case SPM_TEXT:
            put_piece(&m->look, s, p, len, text);
        }
    }
    if (last)
        s->inside = false;
    return 0;
}

const struct tokenizer_kind tokenizer_sentencepiece = { .name = "sentencepiece",
                                                        .takes = sentencepiece_takes,
                                                        .try_open = sentencepiece_try_open,
                                                        .release = sentencepiece_release,
                                                        .new_state = sentencepiece_new_state,
                                                        .free_state = sentencepiece_free_state,
                                                        .encode = sentencepiece_encode,
                                                        .try_decode = sentencepiece_try_decode };

#else

static int sentencepiece_try_open(struct tokenizer *t, const char *spec, const struct tokenizer_options *o)
{
    (void)t, (void)o;
    return err_set(
        "'%s' needs SentencePiece, and this program was built without it: install libsentencepiece-dev "
        "and g++, then make SENTENCEPIECE=1",
        spec);
}

const struct tokenizer_kind tokenizer_sentencepiece = { .name = "sentencepiece",
                                                        .takes = sentencepiece_takes,
                                                        .try_open = sentencepiece_try_open };

#endif
