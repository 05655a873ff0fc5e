/* bpe.c - byte-pair merges over bytes: words to ids, exactly and fast
 * SPDX-License-Identifier: MIT
 *
 * Nine words in ten were seen before: they come out of a cache that is keyed by the word's own bytes. The others are
 * merged: short ones by looking for the lowest rank again and again, long ones with a heap of ranks.
 */
#include "bpe.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/mem.h"

#define NO_PAIR UINT64_MAX /* rank and id of a pair that does not merge */

struct pair {
    uint64_t key; /* left << 32 | right */
    uint64_t to;  /* rank << 32 | made; NO_PAIR: an empty place */
};

struct token {
    size_t at;  /* in `bytes` */
    uint32_t n; /* 0: there is no such id */
    bool word;
};

struct bpe {
    struct token *token; /* by id */
    uint32_t n_ids, cap_ids;
    struct buf bytes;
    uint64_t *word; /* upper half of its hash << 32 | id, by hash, open addressing; UINT64_MAX: empty */
    size_t n_words, cap_words;
    struct pair *pair; /* by hash, open addressing */
    size_t n_pairs, cap_pairs;
    unsigned char *
        mark; /* of each place in `pair`, a byte of its key's hash; 0: empty. Small enough for a near cache */
    int pair_shift;
    bool whole_words;
    bool gaps;          /* some bytes, which no UTF-8 has, are no words */
    uint32_t byte[256]; /* BPE_NONE: such a one */
    uint64_t first[65536]; /* as pair.to, of two bytes */
};

/* ---- the vocabulary ---- */

struct bpe *bpe_new(void)
{
    struct bpe *b = xcalloc(1, sizeof *b);
    return b;
}

void bpe_free(struct bpe *b)
{
    if (!b)
        return;
    free(b->token);
    free(b->word);
    free(b->pair);
    free(b->mark);
    buf_free(&b->bytes);
    free(b);
}

const unsigned char *bpe_bytes(const struct bpe *b, uint32_t id, size_t *n)
{
    if (id >= b->n_ids || b->token[id].n == 0)
        return NULL;
    *n = b->token[id].n;
    return (const unsigned char *)b->bytes.data + b->token[id].at;
}

uint32_t bpe_ids(const struct bpe *b) { return b->n_ids; }

/* FNV-1a: the hashes of all prefixes come on the way. */
#define FNV_BEGIN UINT64_C(0xcbf29ce484222325)
static uint64_t fnv(uint64_t h, unsigned char c) { return (h ^ c) * UINT64_C(0x100000001b3); }
static uint64_t mix(uint64_t h) { return (h ^ h >> 29) * UINT64_C(0x9e3779b97f4a7c15); }

static uint32_t find_hashed(const struct bpe *b, uint64_t h, const void *bytes, size_t n)
{
    if (!b->cap_words)
        return BPE_NONE;
    h = mix(h);
    for (size_t i = (h >> 20) & (b->cap_words - 1); b->word[i] != UINT64_MAX;
         i = (i + 1) & (b->cap_words - 1)) {
        if ((b->word[i] ^ h) >> 32)
            continue;
        const struct token *t = &b->token[(uint32_t)b->word[i]];
        if (t->n == n && memcmp(b->bytes.data + t->at, bytes, n) == 0)
            return (uint32_t)b->word[i];
    }
    return BPE_NONE;
}

static uint64_t hash_word(const void *bytes, size_t n)
{
    const unsigned char *p = bytes;
    uint64_t h = FNV_BEGIN;
    for (size_t i = 0; i < n; i++)
        h = fnv(h, p[i]);
    return h;
}

uint32_t bpe_find(const struct bpe *b, const void *bytes, size_t n)
{
    return find_hashed(b, hash_word(bytes, n), bytes, n);
}

static void put_word(struct bpe *b, uint32_t id)
{
    const struct token *t = &b->token[id];
    uint64_t h = mix(hash_word(b->bytes.data + t->at, t->n));
    size_t i = (h >> 20) & (b->cap_words - 1);
    while (b->word[i] != UINT64_MAX)
        i = (i + 1) & (b->cap_words - 1);
    b->word[i] = (h & ~(uint64_t)UINT32_MAX) | id;
}

static void grow_words(struct bpe *b)
{
    b->cap_words = b->cap_words ? 2 * b->cap_words : 1024;
    b->word = xrealloc(b->word, mul_size(b->cap_words, sizeof *b->word, "words"));
    memset(b->word, 0xff, b->cap_words * sizeof *b->word);
    for (uint32_t id = 0; id < b->n_ids; id++)
        if (b->token[id].n && b->token[id].word)
            put_word(b, id);
}

int bpe_try_add(struct bpe *b, uint32_t id, const void *bytes, size_t n, bool word)
{
    if (id > BPE_MAX_ID)
        return err_set("id %lu is above %d", (unsigned long)id, BPE_MAX_ID);
    if (n == 0 || n > INT32_MAX)
        return err_set("id %lu has %zu bytes", (unsigned long)id, n);
    if (id < b->n_ids && b->token[id].n)
        return err_set("id %lu comes twice", (unsigned long)id);
    if (word && bpe_find(b, bytes, n) != BPE_NONE)
        return err_set("ids %lu and %lu are the same bytes", (unsigned long)bpe_find(b, bytes, n),
                       (unsigned long)id);
    if (id >= b->cap_ids) {
        uint32_t cap = id + id / 2 + 1024;
        b->token = xrealloc(b->token, mul_size(cap, sizeof *b->token, "vocabulary"));
        memset(b->token + b->cap_ids, 0, (cap - b->cap_ids) * sizeof *b->token);
        b->cap_ids = cap;
    }
    if (id >= b->n_ids)
        b->n_ids = id + 1;
    if (word && 2 * (b->n_words + 1) > b->cap_words)
        grow_words(b);
    b->token[id] = (struct token){ b->bytes.len, (uint32_t)n, word };
    buf_add(&b->bytes, bytes, n);
    if (word) {
        put_word(b, id);
        b->n_words++;
    }
    return 0;
}

/* ---- merges ---- */

static uint64_t pair_hash(uint64_t key) { return (key ^ key >> 32) * UINT64_C(0x9e3779b97f4a7c15); }
static unsigned char mark_of(uint64_t h) { return (unsigned char)(h >> 24 | 1); }

static struct pair *pair_slot(const struct bpe *b, uint64_t key)
{
    size_t i = (size_t)(pair_hash(key) >> b->pair_shift);
    while (b->pair[i].to != NO_PAIR && b->pair[i].key != key)
        i = (i + 1) & (b->cap_pairs - 1);
    return &b->pair[i];
}

static void grow_pairs(struct bpe *b)
{
    struct pair *old = b->pair;
    size_t n = b->cap_pairs;
    b->cap_pairs = n ? 2 * n : 1024;
    b->pair_shift = n ? b->pair_shift - 1 : 54;
    b->pair = xmalloc(mul_size(b->cap_pairs, sizeof *b->pair, "merges"));
    for (size_t i = 0; i < b->cap_pairs; i++)
        b->pair[i] = (struct pair){ 0, NO_PAIR };
    for (size_t i = 0; i < n; i++)
        if (old[i].to != NO_PAIR)
            *pair_slot(b, old[i].key) = old[i];
    free(old);
}

void bpe_merge(struct bpe *b, uint32_t left, uint32_t right, uint32_t made, uint32_t rank)
{
    if (2 * (b->n_pairs + 1) > b->cap_pairs)
        grow_pairs(b);
    uint64_t key = (uint64_t)left << 32 | right;
    struct pair *p = pair_slot(b, key);
    b->n_pairs += p->to == NO_PAIR;
    *p = (struct pair){ key, (uint64_t)rank << 32 | made };
}

void bpe_merge_by_id(struct bpe *b)
{
    for (uint32_t id = 0; id < b->n_ids; id++) {
        const struct token *t = &b->token[id];
        const unsigned char *p = (const unsigned char *)b->bytes.data + t->at;
        uint64_t h = FNV_BEGIN;
        if (!t->word)
            continue;
        for (uint32_t i = 1; i < t->n; i++) {
            h = fnv(h, p[i - 1]);
            uint32_t left = find_hashed(b, h, p, i);
            uint32_t right = left == BPE_NONE ? BPE_NONE : bpe_find(b, p + i, t->n - i);
            if (right != BPE_NONE)
                bpe_merge(b, left, right, id, id);
        }
    }
}

/* Once bpe_try_finish() has made the marks: most pairs do not merge, and they say so. */
static uint64_t look_up(const struct bpe *b, uint32_t left, uint32_t right)
{
    uint64_t key = (uint64_t)left << 32 | right, h = pair_hash(key);
    size_t i = (size_t)(h >> b->pair_shift);
    for (; b->mark[i]; i = (i + 1) & (b->cap_pairs - 1))
        if (b->mark[i] == mark_of(h) && b->pair[i].key == key)
            return b->pair[i].to;
    return NO_PAIR;
}

int bpe_try_finish(struct bpe *b, bool whole_words)
{
    if (!b->cap_pairs)
        grow_pairs(b);
    b->whole_words = whole_words;
    free(b->mark);
    b->mark = xcalloc(b->cap_pairs, 1);
    for (size_t i = 0; i < b->cap_pairs; i++)
        b->mark[i] = b->pair[i].to == NO_PAIR ? 0 : mark_of(pair_hash(b->pair[i].key));
    b->gaps = false;
    for (int i = 0; i < 256; i++) {
        unsigned char c = (unsigned char)i;
        b->byte[i] = bpe_find(b, &c, 1);
        if (b->byte[i] != BPE_NONE)
            continue;
        if (c != 0xc0 && c != 0xc1 && c < 0xf5)
            return err_set("there is no token for the byte 0x%02x", c);
        b->gaps = true;
    }
    for (int i = 0; i < 65536; i++)
        b->first[i] = look_up(b, b->byte[i >> 8], b->byte[i & 255]);
    return 0;
}

static int by_rank(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;
    if (x->to != y->to)
        return x->to < y->to ? -1 : 1;
    return (x->key > y->key) - (x->key < y->key);
}

void bpe_hash(const struct bpe *b, struct hash *h)
{
    for (uint32_t id = 0; id < b->n_ids; id++) {
        const struct token *t = &b->token[id];
        uint32_t head[3] = { id, t->n, t->word };
        if (!t->n)
            continue;
        hash_add(h, head, sizeof head);
        hash_add(h, b->bytes.data + t->at, t->n);
    }
    struct pair *all = xmalloc(mul_size(b->n_pairs, sizeof *all, "merges"));
    size_t n = 0;
    for (size_t i = 0; i < b->cap_pairs; i++)
        if (b->pair[i].to != NO_PAIR)
            all[n++] = b->pair[i];
    qsort(all, n, sizeof *all, by_rank);
    for (size_t i = 0; i < n; i++) { /* their order counts, not the numbers */
        uint32_t merge[3] = { (uint32_t)(all[i].key >> 32), (uint32_t)all[i].key, (uint32_t)all[i].to };
        hash_add(h, merge, sizeof merge);
    }
    hash_add(h, &b->whole_words, sizeof b->whole_words);
    free(all);
}

/* ---- a word that was not seen before ---- */

enum { SHORT = 48 };

/* At most SHORT bytes to sym, of as many places: the next merge is looked for among all. Returns how many are left. */
static size_t merge_short(const struct bpe *b, const unsigned char *p, size_t n, uint32_t *sym)
{
    uint64_t to[SHORT]; /* of the pair (i, i+1) */
    size_t last = n - 1;
    for (size_t i = 0; i < last; i++) {
        sym[i] = b->byte[p[i]];
        to[i] = b->first[p[i] << 8 | p[i + 1]];
    }
    sym[last] = b->byte[p[last]];
    while (last > 0) {
        uint64_t best = to[0];
        size_t at = 0;
        for (size_t i = 1; i < last;
             i++) { /* of equals the leftmost; no branch, which nobody could predict */
            uint64_t less = (uint64_t)0 - (to[i] < best);
            best ^= (best ^ to[i]) & less;
            at ^= (at ^ i) & less;
        }
        if (best == NO_PAIR)
            break;
        sym[at] = (uint32_t)best;
        last--;
        for (size_t i = at + 1; i <= last; i++)
            sym[i] = sym[i + 1];
        for (size_t i = at + 1; i < last; i++)
            to[i] = to[i + 1];
        if (at > 0)
            to[at - 1] = look_up(b, sym[at - 1], sym[at]);
        if (at < last)
            to[at] = look_up(b, sym[at], sym[at + 1]);
    }
    return last + 1;
}

struct symbol {
    uint64_t to; /* of the pair with the next one; NO_PAIR: does not merge, or is no more */
    uint32_t id, prev, next;
};

struct long_word {
    struct symbol *s;
    uint64_t *heap; /* rank << 32 | place; what does not agree with the symbol there is out of date */
    size_t n, cap_s, cap_heap;
};

static void sift_down(uint64_t *heap, size_t n, size_t i)
{
    uint64_t x = heap[i];
    for (size_t kid; (kid = 2 * i + 1) < n; i = kid) {
        kid += kid + 1 < n && heap[kid + 1] < heap[kid];
        if (heap[kid] >= x)
            break;
        heap[i] = heap[kid];
    }
    heap[i] = x;
}

static uint64_t heap_entry(uint64_t to, uint32_t at) { return (to & ~(uint64_t)UINT32_MAX) | at; }

/* The pair that begins at `at` is a new one. Each merge takes a symbol away and adds two entries at most: 3n in all. */
static void renew(const struct bpe *b, struct long_word *w, uint32_t at)
{
    struct symbol *s = &w->s[at];
    s->to = s->next == BPE_NONE ? NO_PAIR : look_up(b, s->id, w->s[s->next].id);
    if (s->to == NO_PAIR)
        return;
    size_t i = w->n++;
    uint64_t x = heap_entry(s->to, at);
    for (; i > 0 && w->heap[(i - 1) / 2] > x; i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = x;
}

static void merge_long(const struct bpe *b, struct long_word *w, const unsigned char *p, size_t n,
                       struct token_ids *ids)
{
    if (n > BPE_MAX_WORD)
        die("a word of %zu bytes is too long to tokenise: %d are the most", n, BPE_MAX_WORD);
    if (n > w->cap_s) {
        w->cap_s = n + n / 2;
        free(w->s);
        free(w->heap);
        w->s = xmalloc(mul_size(w->cap_s, sizeof *w->s, "a word"));
        w->heap = xmalloc(mul_size(3 * w->cap_s, sizeof *w->heap, "a word"));
    }
    w->n = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t to = i + 1 < n ? b->first[p[i] << 8 | p[i + 1]] : NO_PAIR;
        w->s[i] = (struct symbol){ to, b->byte[p[i]], i - 1, i + 1 < n ? i + 1 : BPE_NONE };
        if (to != NO_PAIR)
            w->heap[w->n++] = heap_entry(to, i);
    }
    for (size_t i = w->n / 2; i-- > 0;)
        sift_down(w->heap, w->n, i);
    while (w->n > 0) {
        uint64_t top = w->heap[0];
        uint32_t at = (uint32_t)top;
        struct symbol *s = &w->s[at];
        w->heap[0] = w->heap[--w->n];
        if (w->n)
            sift_down(w->heap, w->n, 0);
        if (s->to == NO_PAIR || heap_entry(s->to, at) != top)
            continue;
        struct symbol *right = &w->s[s->next];
        s->id = (uint32_t)s->to;
        s->next = right->next;
        right->to = NO_PAIR;
        if (s->next != BPE_NONE)
            w->s[s->next].prev = at;
        if (s->prev != BPE_NONE)
            renew(b, w, s->prev);
        renew(b, w, at);
    }
    size_t left = 0;
    for (uint32_t i = 0; i != BPE_NONE; i = w->s[i].next)
        left++;
    uint32_t *id = token_ids_room(ids, left);
    for (uint32_t i = 0; i != BPE_NONE; i = w->s[i].next)
        *id++ = w->s[i].id;
    ids->n += left;
    if (w->cap_s > 1 << 20) { /* one such word is no reason to keep so much */
        free(w->s);
        free(w->heap);
        *w = (struct long_word){ 0 };
    }
}

/* ---- words that were seen before ---- */

/* Up to 15 bytes and 4 ids; two to a cache line, the one used last in front. The upper byte of key[1] is the length,
 * so an empty place, 0, is no word; the upper byte of id[0] is how many ids there are. */
struct seen {
    uint64_t key[2];
    uint32_t id[4];
};
enum { SEEN_LINES = 1 << 17 };

/* Longer ones, one to a place. */
enum { LONG_BYTES = 112, LONG_IDS = 32, LONG_PLACES = 1 << 14 };
struct seen_long {
    uint64_t hash;
    unsigned char n, n_ids, unused[6]; /* n = 0: empty */
    unsigned char text[LONG_BYTES];
    uint32_t id[LONG_IDS];
};

struct bpe_words {
    const struct bpe *b;
    struct seen *seen; /* within `memory`, at a cache line */
    void *memory;
    struct seen_long *seen_long;
    struct long_word work;
};

struct bpe_words *bpe_words_new(const struct bpe *b)
{
    struct bpe_words *w = xcalloc(1, sizeof *w);
    w->b = b;
    w->memory = xcalloc(SEEN_LINES * 2 + 2, sizeof *w->seen);
    w->seen = (struct seen *)(((uintptr_t)w->memory + 63) & ~(uintptr_t)63);
    w->seen_long = xcalloc(LONG_PLACES, sizeof *w->seen_long);
    return w;
}

void bpe_words_free(struct bpe_words *w)
{
    if (!w)
        return;
    free(w->memory);
    free(w->seen_long);
    free(w->work.s);
    free(w->work.heap);
    free(w);
}

static void drop_gaps(struct token_ids *ids, size_t from)
{
    size_t n = from;
    for (size_t i = from; i < ids->n; i++)
        if (ids->id[i] != BPE_NONE)
            ids->id[n++] = ids->id[i];
    ids->n = n;
}

static void encode_new(struct bpe_words *w, const unsigned char *p, size_t n, struct token_ids *ids)
{
    size_t from = ids->n;
    uint32_t whole = w->b->whole_words ? bpe_find(w->b, p, n) : BPE_NONE;
    if (whole != BPE_NONE) {
        *token_ids_room(ids, 1) = whole;
        ids->n++;
    } else if (n <= SHORT) {
        ids->n += merge_short(w->b, p, n, token_ids_room(ids, SHORT));
    } else
        merge_long(w->b, &w->work, p, n, ids);
    if (w->b->gaps)
        drop_gaps(ids, from);
}

static void encode_long(struct bpe_words *w, const unsigned char *p, size_t n, struct token_ids *ids)
{
    if (n > LONG_BYTES) {
        encode_new(w, p, n, ids);
        return;
    }
    uint64_t hash = hash_bytes(p, n);
    struct seen_long *s = &w->seen_long[hash & (LONG_PLACES - 1)];
    if (s->hash != hash || s->n != n || memcmp(s->text, p, n) != 0) {
        size_t from = ids->n;
        encode_new(w, p, n, ids);
        if (ids->n - from > LONG_IDS)
            return;
        s->hash = hash;
        s->n = (unsigned char)n;
        s->n_ids = (unsigned char)(ids->n - from);
        memcpy(s->text, p, n);
        memcpy(s->id, ids->id + from, (ids->n - from) * sizeof *s->id);
        return;
    }
    memcpy(token_ids_room(ids, s->n_ids), s->id, s->n_ids * sizeof *s->id);
    ids->n += s->n_ids;
}

/* A word of at most 15 bytes that is not in its line. */
static void encode_short(struct bpe_words *w, const unsigned char *p, const uint64_t *key, struct seen *line,
                         struct token_ids *ids)
{
    size_t from = ids->n, n = (size_t)(key[1] >> 56);
    encode_new(w, p, n, ids);
    size_t made = ids->n - from;
    if (made > 4)
        return;
    line[1] = line[0];
    line[0] = (struct seen){ { key[0], key[1] }, { 0 } };
    memcpy(line[0].id, ids->id + from, made * sizeof *ids->id);
    line[0].id[0] |= (uint32_t)made << 24;
}

static inline void make_key(const unsigned char *p, size_t n, size_t behind, uint64_t *key)
{
    static const uint64_t keep[16][2] = {
#define LOW(n) (UINT64_MAX >> (64 - 8 * (n)))
        { 0, 0 },           { LOW(1), 0 },      { LOW(2), 0 },      { LOW(3), 0 },
        { LOW(4), 0 },      { LOW(5), 0 },      { LOW(6), 0 },      { LOW(7), 0 },
        { LOW(8), 0 },      { LOW(8), LOW(1) }, { LOW(8), LOW(2) }, { LOW(8), LOW(3) },
        { LOW(8), LOW(4) }, { LOW(8), LOW(5) }, { LOW(8), LOW(6) }, { LOW(8), LOW(7) },
    };
    if (behind >= 16) { /* what follows the word may be read */
        memcpy(key, p, 16);
        key[0] &= keep[n][0];
        key[1] &= keep[n][1];
    } else {
        key[0] = key[1] = 0;
        memcpy(key, p, n);
    }
    key[1] |= (uint64_t)n << 56;
}

/* On a big-endian machine the length would lie over a byte of the word. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "bpe.c packs words in little-endian order");

static inline size_t line_of(const uint64_t *key)
{
    uint64_t h = (key[0] ^ (key[1] << 23 | key[1] >> 41)) * UINT64_C(0x9e3779b97f4a7c15);
    h = (h ^ h >> 32 ^ key[1]) * UINT64_C(0xd6e8feb86659fd93);
    return (size_t)(h >> 47) * 2;
}
_Static_assert(SEEN_LINES == 1 << (64 - 47), "line_of() gives a line");

enum { AHEAD = 16 }; /* words whose lines are asked for before they are looked at */

void bpe_encode(struct bpe_words *w, const unsigned char *text, const size_t *end, size_t n,
                struct token_ids *ids)
{
    uint64_t key[AHEAD][2];
    struct seen *line[AHEAD];
    size_t begin = 0, all = n ? end[n - 1] : 0;
    for (size_t i = 0; i < n; i += AHEAD) {
        size_t m = n - i < AHEAD ? n - i : AHEAD, at = begin;
        for (size_t k = 0; k < m; k++) {
            size_t len = end[i + k] - at;
            line[k] = NULL;
            if (len < 16) {
                make_key(text + at, len, all - at, key[k]);
                line[k] = w->seen + line_of(key[k]);
                __builtin_prefetch(line[k]);
            }
            at = end[i + k];
        }
        uint32_t *out = token_ids_room(ids, 4 * AHEAD);
        for (size_t k = 0; k < m; k++) {
            struct seen *s = line[k];
            size_t stop = end[i + k];
            if (s && s[0].key[0] == key[k][0] && s[0].key[1] == key[k][1]) {
                ;
            } else if (s && s[1].key[0] == key[k][0] && s[1].key[1] == key[k][1]) {
                struct seen second = s[1];
                s[1] = s[0];
                s[0] = second;
            } else {
                ids->n = (size_t)(out - ids->id);
                if (s)
                    encode_short(w, text + begin, key[k], s, ids);
                else
                    encode_long(w, text + begin, stop - begin, ids);
                out = token_ids_room(ids, 4 * AHEAD);
                begin = stop;
                continue;
            }
            memcpy(out, s->id, sizeof s->id);
            out[0] &= BPE_MAX_ID;
            out += s->id[0] >> 24;
            begin = stop;
        }
        ids->n = (size_t)(out - ids->id);
    }
}
