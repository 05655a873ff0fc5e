/* split.c - text to words: the streams, and what stages do one after the other
 * SPDX-License-Identifier: MIT
 *
 * Text goes through normalisation, then through stages; the first sees the piece, each further one every word of the
 * one before it as a text of its own. A stage cuts its text into segments, some of which are matches, and what its
 * behaviour makes of them are words. Of the first stage alone it matters that text comes in parts: a word is handed on
 * when no further text can change it. The common case, one stage with a scanner, has a way of its own (straight).
 */
#include "split.h"
#include "split_private.h"

#include "common/base/err.h"

enum { SLICE = 1 << 16, BATCH = 2048 };

struct span {
    size_t from, to;
};
struct spans {
    struct span *at;
    size_t n, cap;
};

/* What a stage works with in one stream. */
struct level {
    struct split_match *match;
    struct spans words;
    struct buf text; /* with the blank in front */
};

struct split_stream {
    const struct split *s;
    /* the part that split_put() brought, and what is left of it */
    const unsigned char *in;
    size_t in_n;
    bool last;                     /* the part is the last one */
    bool begun;                    /* text of this piece has come */
    struct buf raw;                /* not yet normalised */
    struct buf text;               /* normalised; words are cut from `from` on */
    size_t from, tried, raw_tried; /* lengths that were not enough for a word, or for normalising */
    size_t work;
    size_t ends[BATCH];
    struct buf out; /* words of several stages */
    size_t *out_end, out_n, out_cap;
    struct level level[SPLIT_STAGES];
};

/* ---- one stage ---- */

static bool is_ascii_punctuation(unsigned c)
{
    return c - 33 < 15 || c - 58 < 7 || c - 91 < 6 || c - 123 < 4;
}

static bool in_ranges(const struct split_range *r, unsigned c)
{
    for (; r->to; r++)
        if (c >= r->from && c <= r->to)
            return true;
    return false;
}

static bool in_set(enum split_set set, unsigned c)
{
    unsigned class_of = split_class[split_kind_of(c)];
    switch (set) {
    case SET_DIGITS:
        return class_of == C_NUMBER || (c > 0xffff && in_ranges(split_more_digits, c));
    case SET_PUNCTUATION:
        return c < 128 ? is_ascii_punctuation(c) : in_ranges(split_punctuation, c);
    case SET_SPACES:
        return class_of >= C_SPACE;
    }
    return false;
}

static int find_bytes(const unsigned char *p, size_t from, size_t n, bool last, const unsigned char *what,
                      size_t len, size_t *a, size_t *b)
{
    for (size_t i = from; i + len <= n; i++) {
        const unsigned char *q = memchr(p + i, what[0], n - len + 1 - i);
        if (!q)
            break;
        i = (size_t)(q - p);
        if (memcmp(q, what, len) == 0) {
            *a = i;
            *b = i + len;
            return 1;
        }
    }
    *a = n - from < len ? from : n - len + 1;
    return last ? 0 : -1;
}

/* The next match from `from` on, as split_regex_find(). */
static int find(const struct stage *g, struct level *lv, const unsigned char *p, size_t from, size_t n,
                bool last, size_t *a, size_t *b)
{
    if (g->kind == STAGE_REGEX)
        return split_regex_find(g->regex, lv->match, p, from, n, last, a, b);
    if (g->kind == STAGE_BYTES)
        return find_bytes(p, from, n, last, (const unsigned char *)g->bytes.data, g->bytes.len, a, b);
    if (!last)
        n = split_whole_chars(p, n);
    size_t len;
    for (*a = from; *a < n; *a += len)
        if (in_set(g->set, split_decode(p + *a, n - *a, &len))) {
            *b = *a + len;
            return 1;
        }
    return last ? 0 : -1;
}

static void add_span(struct spans *s, size_t from, size_t to)
{
    *(struct span *)grow(&s->at, &s->n, &s->cap, sizeof *s->at) = (struct span){ from, to };
}

/* Puts segments together to words. */
struct joiner {
    const struct stage *g;
    struct spans *words;
    size_t from, to; /* the word that may still grow; from < to if there is one */
    bool match;      /* of its last segment */
};

static void put_word(struct joiner *j)
{
    if (j->to > j->from)
        add_span(j->words, j->from, j->to);
    j->from = j->to;
}

static void put_segment(struct joiner *j, size_t a, size_t b, bool match)
{
    bool first = j->to == j->from, joins = false;
    match ^= j->g->invert;
    switch (j->g->behaviour) {
    case SPLIT_REMOVED:
    case SPLIT_ISOLATED:
        break;
    case SPLIT_CONTIGUOUS:
        joins = !first && match == j->match;
        break;
    case SPLIT_WITH_PREVIOUS:
        joins = !first && match && !j->match;
        break;
    case SPLIT_WITH_NEXT:
        joins = !first && !match && j->match;
        break;
    }
    if (!joins) {
        put_word(j);
        j->from = a;
    }
    j->to = b;
    j->match = match;
    if (j->g->behaviour == SPLIT_ISOLATED)
        put_word(j);
    else if (j->g->behaviour == SPLIT_REMOVED) {
        if (match)
            j->from = b;
        else
            put_word(j);
    }
}

/* The certain words of p[0..n); where what is not certain begins. */
static size_t cut(const struct stage *g, struct level *lv, const unsigned char *p, size_t n, bool last)
{
    struct spans *words = &lv->words;
    words->n = 0;
    if (g->kind == STAGE_SCAN) {
        size_t ends[256], at = 0, k;
        do {
            k = split_scan(g->pattern, p + at, n - at, last, ends, 256);
            size_t from = 0;
            for (size_t i = 0; i < k; i++) {
                add_span(words, at + from, at + ends[i]);
                from = ends[i];
            }
            at += from;
        } while (k == 256);
        return at;
    }
    if (g->kind == STAGE_WHOLE) {
        if (last && n)
            add_span(words, 0, n);
        return last ? n : 0;
    }
    struct joiner j = { .g = g, .words = words };
    for (size_t at = 0, a, b; at < n; at = b) {
        int found = find(g, lv, p, at, n, last, &a, &b);
        if (found < 0) /* a segment may end here, or go on: look again from where it began */
            return j.to > j.from ? j.from : at;
        if (!found)
            a = b = n;
        if (a > at)
            put_segment(&j, at, a, false);
        if (b > a)
            put_segment(&j, a, b, true);
    }
    if (!last && j.to > j.from)
        return j.from;
    put_word(&j);
    return n;
}

/* ---- all stages ---- */

/* One word of the stage before k, as a text of its own. */
static void descend(struct split_stream *st, size_t k, const unsigned char *p, size_t n)
{
    if (n == 0)
        return;
    if (k == st->s->n) {
        buf_add(&st->out, p, n);
        *(size_t *)grow(&st->out_end, &st->out_n, &st->out_cap, sizeof *st->out_end) = st->out.len;
        return;
    }
    const struct stage *g = &st->s->stage[k];
    struct level *lv = &st->level[k];
    if (g->blank && p[0] != ' ') {
        buf_clear(&lv->text);
        buf_add(&lv->text, " ", 1);
        buf_add(&lv->text, p, n);
        p = (const unsigned char *)lv->text.data;
        n = lv->text.len;
    }
    cut(g, lv, p, n, true);
    for (size_t i = 0; i < lv->words.n; i++)
        descend(st, k + 1, p + lv->words.at[i].from, lv->words.at[i].to - lv->words.at[i].from);
}

/* Words of what text there is; false when more is needed. */
static bool straight(struct split_stream *st, bool last, struct split_words *w)
{
    const unsigned char *p = (const unsigned char *)st->text.data + st->from;
    size_t n = st->text.len - st->from;
    size_t k = n ? split_scan(st->s->stage[0].pattern, p, n, last, st->ends, BATCH) : 0;
    st->work += k ? st->ends[k - 1] : n;
    if (!k)
        return false;
    st->from += st->ends[k - 1];
    *w = (struct split_words){ p, st->ends, k };
    return true;
}

static bool in_stages(struct split_stream *st, bool last, struct split_words *w)
{
    struct level *lv = &st->level[0];
    const unsigned char *p = (const unsigned char *)st->text.data + st->from;
    buf_clear(&st->out);
    st->out_n = 0;
    st->work += st->text.len - st->from;
    size_t used = cut(&st->s->stage[0], lv, p, st->text.len - st->from, last);
    for (size_t i = 0; i < lv->words.n; i++)
        descend(st, 1, p + lv->words.at[i].from, lv->words.at[i].to - lv->words.at[i].from);
    st->from += used;
    *w = (struct split_words){ (const unsigned char *)st->out.data, st->out_end, st->out_n };
    return st->out_n > 0;
}

/* ---- streams ---- */

struct split_stream *split_stream_new(const struct split *s)
{
    struct split_stream *st = xcalloc(1, sizeof *st);
    st->s = s;
    for (size_t i = 0; i < s->n; i++)
        if (s->stage[i].kind == STAGE_REGEX)
            st->level[i].match = split_match_new(s->stage[i].regex);
    return st;
}

void split_stream_free(struct split_stream *st)
{
    if (!st)
        return;
    for (size_t i = 0; i < SPLIT_STAGES; i++) {
        split_match_free(st->level[i].match);
        free(st->level[i].words.at);
        buf_free(&st->level[i].text);
    }
    buf_free(&st->raw);
    buf_free(&st->text);
    buf_free(&st->out);
    free(st->out_end);
    free(st);
}

void split_put(struct split_stream *st, const void *text, size_t n, bool last)
{
    if (st->in_n || st->last)
        bug("split_put() before split_get() was done");
    st->in = text;
    st->in_n = n;
    st->last = last;
}

/* Drops the first n bytes. */
static void drop(struct buf *b, size_t n)
{
    if (n == 0)
        return;
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
}

/* Brings a slice of the part into st->text, at least as long as what waits there, so that a long word is looked at a
 * few times only. False: there is no more of it. */
static bool fetch(struct split_stream *st)
{
    if (!st->in_n)
        return false;
    drop(&st->text, st->from);
    st->from = 0;
    size_t n = st->text.len + st->raw.len > SLICE ? st->text.len + st->raw.len : SLICE;
    if (n > st->in_n)
        n = st->in_n;
    bool last = st->last && n == st->in_n;
    if (!st->begun && st->s->stage[0].blank && st->in[0] != ' ')
        buf_add(&st->text, " ", 1);
    st->begun = true;
    if (!st->s->nfc) {
        buf_add(&st->text, st->in, n);
    } else if (st->raw.len) {
        buf_add(&st->raw, st->in, n);
    } else {
        size_t used = split_nfc_add(st->in, n, last, &st->text);
        buf_add(&st->raw, st->in + used, n - used);
        st->raw_tried = 0;
    }
    st->in += n;
    st->in_n -= n;
    if (st->raw.len && (last || st->raw.len >= 2 * st->raw_tried)) {
        size_t used = split_nfc_add((const unsigned char *)st->raw.data, st->raw.len, last, &st->text);
        drop(&st->raw, used);
        st->raw_tried = st->raw.len;
    }
    return true;
}

bool split_get(struct split_stream *st, struct split_words *w)
{
    for (;;) {
        bool last = st->last && !st->in_n;
        if (last && st->raw.len) { /* the last part was empty */
            split_nfc_add((const unsigned char *)st->raw.data, st->raw.len, true, &st->text);
            buf_clear(&st->raw);
        }
        size_t n = st->text.len - st->from;
        if (n && (last || n >= 2 * st->tried)) {
            if (st->s->straight ? straight(st, last, w) : in_stages(st, last, w)) {
                st->tried = 0;
                return true;
            }
            st->tried = st->text.len - st->from;
        }
        if (!fetch(st))
            break;
    }
    if (st->last) {
        buf_clear(&st->text);
        st->from = st->tried = st->raw_tried = 0;
        st->last = st->begun = false;
    }
    return false;
}

size_t split_work(const struct split_stream *st) { return st->work; }

/* ---- the whole ---- */

struct split *split_alloc(void) { return xcalloc(1, sizeof(struct split)); }

struct stage *split_add_stage(struct split *s) { return s->n < SPLIT_STAGES ? &s->stage[s->n++] : NULL; }

struct split *split_finish(struct split *s)
{
    static const char *const behaviours[] = { "removed", "isolated", "with-previous", "with-next",
                                              "contiguous" };
    static const char *const sets[] = { "digits (Unicode 17.0.0)", "punctuation (Unicode 8.0.0)", "spaces" };
    struct buf name = { 0 };
    if (s->n == 0)
        split_add_stage(s)->kind = STAGE_WHOLE;
    if (s->nfc)
        buf_addf(&name, "nfc (Unicode %s), ", SPLIT_NFC_UNICODE);
    for (size_t i = 0; i < s->n; i++) {
        const struct stage *g = &s->stage[i];
        buf_addf(&name, "%s%s", i ? ", " : "", g->blank ? "blank in front, " : "");
        switch (g->kind) {
        case STAGE_WHOLE:
            buf_addf(&name, "whole");
            continue;
        case STAGE_SCAN:
            buf_addf(&name, "%s (Unicode %s)", split_scan_name(g->pattern), SPLIT_UNICODE);
            continue;
        case STAGE_REGEX:
        case STAGE_BYTES:
            buf_addf(&name, "%s '", g->kind == STAGE_REGEX ? "expression" : "text");
            for (size_t k = 0; k < g->bytes.len; k++) {
                unsigned char c = (unsigned char)g->bytes.data[k];
                if (c < 32 || c == 127)
                    buf_addf(&name, "<%02x>", c);
                else
                    buf_add(&name, &c, 1);
            }
            buf_addf(&name, "'%s", g->kind == STAGE_REGEX ? " (Unicode " SPLIT_UNICODE ")" : "");
            break;
        case STAGE_SET:
            buf_addf(&name, "%s", sets[g->set]);
            break;
        }
        buf_addf(&name, " %s%s", behaviours[g->behaviour], g->invert ? " inverted" : "");
    }
    s->name = name.data;
    s->straight = s->n == 1 && s->stage[0].kind == STAGE_SCAN;
    return s;
}

struct split *split_try_known(const char *name)
{
    static const struct {
        const char *name;
        enum split_pattern pattern;
    } known[] = {
        { "gpt2", SCAN_GPT2 }, { "cl100k", SCAN_CL100K }, { "o200k", SCAN_O200K }, { "llama3", SCAN_LLAMA3 }
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i].name, name) != 0)
            continue;
        struct split *s = split_alloc();
        struct stage *g = split_add_stage(s);
        g->kind = STAGE_SCAN;
        g->pattern = known[i].pattern;
        s->on_bytes = true;
        return split_finish(s);
    }
    err_set("no pattern is called '%s' (there are: gpt2, cl100k, o200k, llama3)", name);
    return NULL;
}

void split_free(struct split *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n; i++) {
        split_regex_free(s->stage[i].regex);
        buf_free(&s->stage[i].bytes);
    }
    free(s->name);
    free(s);
}

const char *split_name(const struct split *s) { return s->name; }
const char *split_unicode(void) { return SPLIT_UNICODE; }
bool split_on_bytes(const struct split *s) { return s->on_bytes; }
