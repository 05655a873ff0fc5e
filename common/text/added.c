/* added.c - tokens that are looked for in the text itself, before it is cut into words
 * SPDX-License-Identifier: MIT
 *
 * A trie, walked from every place whose first two bytes some token begins with. What a token does to the text around
 * it is that of Hugging Face's tokenizers (added_vocabulary.rs), of which this is the streaming form.
 */
#include "added.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "split.h"

struct node {
    int32_t child, sibling; /* 0: none */
    int32_t token;          /* index, -1: none ends here */
    unsigned char byte;
};

struct added {
    struct node *node; /* 0 is the root */
    size_t n, cap;
    struct added_token *token;
    size_t n_tokens, cap_tokens;
    bool any, any_lstrip, any_rstrip, any_single, any_blank;
    uint64_t begins[65536 / 64]; /* first byte | second << 8 */
};

static const struct node fresh = { 0, 0, -1, 0 };

struct added *added_new(void)
{
    struct added *a = xcalloc(1, sizeof *a);
    *(struct node *)grow(&a->node, &a->n, &a->cap, sizeof fresh) = fresh;
    return a;
}

void added_free(struct added *a)
{
    if (!a)
        return;
    free(a->node);
    free(a->token);
    free(a);
}

static int32_t child_of(const struct added *a, int32_t at, unsigned char byte)
{
    int32_t c = a->node[at].child;
    while (c && a->node[c].byte != byte)
        c = a->node[c].sibling;
    return c;
}

static void mark(struct added *a, unsigned first, unsigned second)
{
    unsigned i = first | second << 8;
    a->begins[i / 64] |= UINT64_C(1) << i % 64;
}

/* ---- characters: all that matters here is white space (Unicode's White_Space) and words ---- */

/* Bytes of the white space at the begin of p[0..n); 0: none. *cut: not enough bytes to tell. */
static size_t space_at(const unsigned char *p, size_t n, bool *cut)
{
    *cut = n == 0;
    if (n == 0)
        return 0;
    if (p[0] < 0x80)
        return p[0] == ' ' || (p[0] >= 9 && p[0] <= 13);
    if (p[0] == 0xc2) {
        *cut = n < 2;
        return n >= 2 && (p[1] == 0x85 || p[1] == 0xa0) ? 2 : 0;
    }
    if (p[0] < 0xe1 || p[0] > 0xe3)
        return 0;
    *cut = n < 3;
    if (n < 3)
        return 0;
    unsigned c = (unsigned)(p[0] & 15) << 12 | (unsigned)(p[1] & 63) << 6 | (p[2] & 63);
    if ((p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80)
        return 0;
    return c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
                   c == 0x205f || c == 0x3000
               ? 3
               : 0;
}

/* Where the white space that ends at p + at begins; not before p + from. */
static size_t space_before(const unsigned char *p, size_t from, size_t at)
{
    bool cut;
    for (;;) {
        size_t len = 0;
        for (size_t k = 1; k <= 3 && at - from >= k && !len; k++)
            len = space_at(p + at - k, k, &cut) == k ? k : 0;
        if (!len)
            return at;
        at -= len;
    }
}

/* Where the last character of p[0..n) begins if more bytes could belong to it; else n. */
static size_t whole_end(const unsigned char *p, size_t n)
{
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        unsigned char c = p[n - k];
        if (c < 0x80)
            return n;
        if (c >= 0xc0)
            return (c >= 0xf0 ? 4u : c >= 0xe0 ? 3u : 2u) > k ? n - k : n;
    }
    return n;
}

/* The character at p, and its bytes; UINT32_MAX, 1 when it is none. */
static uint32_t char_at(const unsigned char *p, size_t n, size_t *len)
{
    size_t want = n == 0 || p[0] < 0x80 ? 1 : p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    *len = 1;
    if (n < want || (p[0] >= 0x80 && (p[0] < 0xc2 || p[0] > 0xf4)))
        return UINT32_MAX;
    uint32_t c = want == 1 ? p[0] : p[0] & (0xffu >> (want + 1));
    for (size_t i = 1; i < want; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return UINT32_MAX;
        c = c << 6 | (p[i] & 63);
    }
    *len = want;
    return c;
}

static bool word_char(uint32_t c)
{
    if (c < 0x80)
        return c == '_' || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
    return c < 0x110000 && split_word_char(c);
}

static bool word_before(const unsigned char *p, size_t n)
{
    size_t k = 1, len;
    while (k < 4 && k < n && (p[n - k] & 0xc0) == 0x80)
        k++;
    return n && word_char(char_at(p + n - k, k, &len)) && len == k;
}

static bool word_after(const unsigned char *p, size_t n)
{
    size_t len;
    return word_char(char_at(p, n, &len));
}

/* ---- the set ---- */

int added_try_add(struct added *a, const void *text, size_t n, const struct added_token *t)
{
    const unsigned char *p = text;
    bool cut;
    int32_t at = 0;
    if (n == 0)
        return err_set("an added token without text");
    for (size_t i = 0; i < n; i++) {
        int32_t next = child_of(a, at, p[i]);
        if (!next) {
            next = (int32_t)a->n;
            struct node *new = grow(&a->node, &a->n, &a->cap, sizeof fresh);
            *new = (struct node){ 0, a->node[at].child, -1, p[i] };
            a->node[at].child = next;
        }
        at = next;
    }
    if (a->node[at].token >= 0)
        return err_set("an added token comes twice");
    a->node[at].token = (int32_t)a->n_tokens;
    *(struct added_token *)grow(&a->token, &a->n_tokens, &a->cap_tokens, sizeof *t) = *t;
    for (unsigned second = 0; second < 256; second++)
        if (n == 1 || second == p[1])
            mark(a, p[0], second);
    a->any |= !t->skip;
    a->any_lstrip |= t->lstrip && !t->skip;
    a->any_rstrip |= t->rstrip && !t->skip;
    a->any_single |= t->single_word && !t->skip;
    a->any_blank |= space_at(p, n, &cut) > 0;
    return 0;
}

int added_try_finish(struct added *a)
{
    if (a->any_rstrip && a->any_blank)
        return err_set(
            "an added token with 'rstrip' beside one that begins with white space is not supported");
    return 0;
}

bool added_any(const struct added *a) { return a->any; }

/* ---- the search ---- */

struct added_scan {
    const struct added *a;
    struct buf hold; /* of the text, from the first byte that is not given away */
    size_t looked;   /* no token begins in so many bytes of it */
    size_t blank;    /* of it are white space, which an lstrip token may take */
    bool word;       /* the last character that was given away is a word's */
    bool eating;     /* white space behind an rstrip token */
};

struct added_scan *added_scan_new(const struct added *a)
{
    struct added_scan *s = xcalloc(1, sizeof *s);
    s->a = a;
    return s;
}

void added_scan_free(struct added_scan *s)
{
    if (!s)
        return;
    buf_free(&s->hold);
    free(s);
}

/* The next place at or after i where a token may begin, or n. */
static size_t candidate(const struct added *a, const unsigned char *p, size_t i, size_t n)
{
    for (; i + 1 < n; i++) {
        unsigned k = p[i] | (unsigned)p[i + 1] << 8;
        if (a->begins[k / 64] >> k % 64 & 1)
            return i;
    }
    return i;
}

/* The longest token at p: its index or -1, *len its bytes; -2 when more bytes could change that. */
static int32_t longest(const struct added *a, const unsigned char *p, size_t n, bool last, size_t *len)
{
    int32_t at = 0, found = -1;
    for (size_t i = 0; i < n; i++) {
        at = child_of(a, at, p[i]);
        if (!at)
            return found;
        if (a->node[at].token >= 0) {
            found = a->node[at].token;
            *len = i + 1;
        }
    }
    return a->node[at].child && !last ? -2 : found;
}

/* Gives away p[from..to), which may be nothing. */
static void give(const unsigned char *p, size_t from, size_t to, const struct added_sink *sink, void *sink_to)
{
    if (to > from)
        sink->text(sink_to, p + from, to - from);
}

/* Eats white space from p + at. *wait: it may go on in what is still to come. */
static size_t eat(const unsigned char *p, size_t at, size_t n, bool last, bool *wait)
{
    bool cut;
    size_t len;
    while ((len = space_at(p + at, n - at, &cut)) > 0)
        at += len;
    *wait = cut && !last;
    return at;
}

/* Returns how much of the window p[0..n) is done with; s->looked is set, counted from there. */
static size_t scan(struct added_scan *s, const unsigned char *p, size_t n, bool last,
                   const struct added_sink *sink, void *to)
{
    const struct added *a = s->a;
    size_t done = 0, at = s->looked;
    if (s->eating) {
        done = at = eat(p, 0, n, last, &s->eating);
        if (s->eating) {
            s->looked = 0;
            return done;
        }
    }
    while (at < n) {
        size_t len = 0;
        at = candidate(a, p, at, n);
        int32_t found = at < n ? longest(a, p + at, n - at, last, &len) : -1;
        if (found == -2)
            break;
        if (found < 0) {
            at += at < n;
            continue;
        }
        const struct added_token *t = &a->token[found];
        size_t end = at + len, start = at, stop = end;
        bool cut = false;
        if (t->skip) {
            at = end;
            continue;
        }
        if (t->single_word) {
            cut = !last && (end == n || whole_end(p + end, n - end) == 0);
            if (cut)
                break;
            bool before = at > 0 ? word_before(p, at) : s->word;
            if (before || word_after(p + end, n - end)) {
                at = end;
                continue;
            }
        }
        if (t->lstrip)
            start = space_before(p, done, at);
        if (t->rstrip)
            stop = eat(p, end, n, last, &s->eating);
        give(p, done, start, sink, to);
        sink->token(to, t->id);
        done = at = stop;
        if (s->eating)
            break;
    }
    size_t upto = at, blank = done ? done : s->blank; /* where a look back may end */
    s->blank = 0;
    if (!last && (a->any_lstrip || a->any_single))
        upto = whole_end(p, upto);
    if (!last && a->any_lstrip && upto > done) {
        size_t end = upto;
        upto = blank < end ? space_before(p, blank, end) : end;
        if (upto == blank)
            upto = done;
        s->blank = end - upto;
    }
    if (upto < done)
        upto = done;
    give(p, done, upto, sink, to);
    s->looked = at > upto ? at - upto : 0;
    return upto;
}

void added_feed(struct added_scan *s, const void *text, size_t n, bool last, const struct added_sink *sink,
                void *to)
{
    const unsigned char *p = text;
    bool held = s->hold.len > 0;
    if (held) {
        buf_add(&s->hold, text, n);
        p = (const unsigned char *)s->hold.data;
        n = s->hold.len;
    }
    size_t used = scan(s, p, n, last, sink, to);
    if (used && s->a->any_single)
        s->word = word_before(p, used);
    if (!held)
        buf_add(&s->hold, p + used, n - used);
    else if (used) {
        memmove(s->hold.data, p + used, n - used);
        s->hold.len = n - used;
    }
    if (last) {
        buf_clear(&s->hold);
        s->looked = 0;
        s->word = s->eating = false;
    }
}
