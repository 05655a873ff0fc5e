/* bpe_train.c - learns the merges of a byte-level BPE from counted words
 * SPDX-License-Identifier: MIT
 *
 * All words lie as symbols in one array. A pair of symbols has a count and, while words are looked at, a list of words
 * in which it has just come about. Such a list becomes an entry of a heap, by count. Counts change while entries
 * wait, nearly all downwards, so the top is put right when it is reached, and sinks if it was wrong. The top's words are
 * rewritten in place; what that does to the neighbouring pairs makes the next lists.
 */
#include "bpe_train.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "tally.h"

struct pair {
    uint64_t key; /* first id << 32 | second id */
    int64_t count;
    int64_t last; /* its latest merge, or -1 */
    uint32_t *word;
    uint32_t n, cap;
};

struct entry {
    int64_t count;
    uint64_t key;
    uint64_t begun; /* older entries of the same pair first */
    uint32_t *word;
    uint32_t n, pair;
};

struct learner {
    uint32_t *symbol;
    uint64_t *from; /* where a word's symbols begin */
    uint32_t *n_symbols;
    int64_t *times;
    uint32_t n_words;

    struct pair *pair;
    size_t n_pairs, cap_pairs;
    uint32_t *slot; /* 1 + number of a pair, by key; a power of two, at most half of them taken */
    size_t slot_mask;
    uint32_t *touched; /* pairs with words in their lists */
    size_t n_touched, cap_touched;

    struct entry *heap;
    size_t n_heap, cap_heap;
    uint64_t begun;

    struct bpe_learnt *out;
    size_t cap_tokens, cap_merges;
    uint32_t *known; /* 1 + id, by string */
    size_t known_mask;
};

/* ---- strings of tokens ---- */

void bpe_letters(unsigned short letter[256])
{
    unsigned short next = 256;
    for (unsigned b = 0; b < 256; b++)
        letter[b] =
            (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae ? (unsigned short)b : next++;
}

static uint32_t *find_token(const struct learner *l, const char *s)
{
    size_t i = hash_bytes(s, strlen(s)) & l->known_mask;
    while (l->known[i] && strcmp(l->out->token[l->known[i] - 1], s) != 0)
        i = (i + 1) & l->known_mask;
    return &l->known[i];
}

/* Takes s over. The id: a new one, unless the string is a token already. */
static uint32_t add_token(struct learner *l, char *s)
{
    uint32_t *known = find_token(l, s);
    if (*known) {
        free(s);
        return *known - 1;
    }
    *(char **)grow(&l->out->token, &l->out->n_tokens, &l->cap_tokens, sizeof s) = s;
    *known = (uint32_t)l->out->n_tokens;
    return *known - 1;
}

static void add_first_tokens(struct learner *l, const struct bpe_train *o, uint32_t id_of_byte[256])
{
    unsigned short letter[256];
    for (size_t i = 0; i < o->n_specials; i++)
        add_token(l, xstrdup(o->specials[i]));
    l->out->n_specials = l->out->n_tokens;
    bpe_letters(letter);
    for (unsigned c = 0; c < 512; c++)
        for (unsigned b = 0; b < 256; b++)
            if (letter[b] == c)
                id_of_byte[b] =
                    add_token(l, c < 128 ? xasprintf("%c", (int)c)
                                         : xasprintf("%c%c", (int)(0xc0 | c >> 6), (int)(0x80 | (c & 63))));
}

/* ---- pairs ---- */

static size_t slot_of(const struct learner *l, uint64_t key)
{
    return (size_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 20) & l->slot_mask;
}

static void widen_slots(struct learner *l)
{
    free(l->slot);
    l->slot_mask = 2 * l->slot_mask + 1;
    l->slot = xcalloc(l->slot_mask + 1, sizeof *l->slot);
    for (size_t k = 0; k < l->n_pairs; k++) {
        size_t i = slot_of(l, l->pair[k].key);
        while (l->slot[i])
            i = (i + 1) & l->slot_mask;
        l->slot[i] = (uint32_t)k + 1;
    }
}

static struct pair *pair_at(struct learner *l, uint32_t a, uint32_t b)
{
    uint64_t key = (uint64_t)a << 32 | b;
    size_t i = slot_of(l, key);
    for (; l->slot[i]; i = (i + 1) & l->slot_mask)
        if (l->pair[l->slot[i] - 1].key == key)
            return &l->pair[l->slot[i] - 1];
    if (l->n_pairs >= UINT32_MAX - 1)
        die("more than 4 billion pairs of tokens");
    struct pair *p = grow(&l->pair, &l->n_pairs, &l->cap_pairs, sizeof *p);
    *p = (struct pair){ .key = key, .last = -1 };
    l->slot[i] = (uint32_t)l->n_pairs;
    if (l->n_pairs * 2 > l->slot_mask)
        widen_slots(l);
    return p;
}

/* The pair has come about in a word, which goes to its list once. */
static void came(struct learner *l, uint32_t a, uint32_t b, uint32_t word)
{
    struct pair *p = pair_at(l, a, b);
    p->count += l->times[word];
    if (p->n && p->word[p->n - 1] == word)
        return;
    if (!p->n)
        *(uint32_t *)grow(&l->touched, &l->n_touched, &l->cap_touched, sizeof *l->touched) =
            (uint32_t)(p - l->pair);
    if (p->n == p->cap) {
        p->cap = p->cap ? p->cap + p->cap / 2 + 1 : 2;
        p->word = xrealloc(p->word, p->cap * sizeof *p->word);
    }
    p->word[p->n++] = word;
}

/* ---- the heap ---- */

static bool above(const struct entry *x, const struct entry *y)
{
    if (x->count != y->count)
        return x->count > y->count;
    return x->key != y->key ? x->key < y->key : x->begun < y->begun;
}

static void push(struct learner *l, struct entry e)
{
    grow(&l->heap, &l->n_heap, &l->cap_heap, sizeof e);
    size_t i = l->n_heap - 1;
    for (size_t up; i > 0 && above(&e, &l->heap[up = (i - 1) / 2]); i = up)
        l->heap[i] = l->heap[up];
    l->heap[i] = e;
}

/* Lets e sink from the top, whose place is free. */
static void sink(struct learner *l, struct entry e)
{
    size_t i = 0;
    for (size_t down; (down = 2 * i + 1) < l->n_heap; i = down) {
        if (down + 1 < l->n_heap && above(&l->heap[down + 1], &l->heap[down]))
            down++;
        if (!above(&l->heap[down], &e))
            break;
        l->heap[i] = l->heap[down];
    }
    l->heap[i] = e;
}

static struct entry pop(struct learner *l)
{
    struct entry top = l->heap[0];
    l->n_heap--;
    if (l->n_heap)
        sink(l, l->heap[l->n_heap]);
    return top;
}

static void push_touched(struct learner *l)
{
    for (size_t i = 0; i < l->n_touched; i++) {
        struct pair *p = &l->pair[l->touched[i]];
        if (p->count > 0)
            push(l, (struct entry){ .count = p->count,
                                    .key = p->key,
                                    .begun = l->begun++,
                                    .word = p->word,
                                    .n = p->n,
                                    .pair = l->touched[i] });
        else
            free(p->word);
        p->word = NULL;
        p->n = p->cap = 0;
    }
    l->n_touched = 0;
}

/* ---- learning ---- */

static void take_words(struct learner *l, const struct tally *words, const uint32_t id_of_byte[256])
{
    size_t n, all = tally_words(words), symbols = 0, used = 0;
    int64_t times;
    for (size_t i = 0; i < all; i++) {
        tally_word(words, i, &n, &times);
        symbols += n;
        if (n > UINT32_MAX)
            die("a word of %zu bytes is too long", n);
    }
    if (all >= UINT32_MAX)
        die("more than 4 billion distinct words");
    l->symbol = xmalloc(mul_size(symbols + 1, sizeof *l->symbol, "symbols"));
    l->from = xmalloc(mul_size(all + 1, sizeof *l->from, "words"));
    l->n_symbols = xmalloc(mul_size(all + 1, sizeof *l->n_symbols, "words"));
    l->times = xmalloc(mul_size(all + 1, sizeof *l->times, "words"));
    for (size_t i = 0; i < all; i++) {
        const unsigned char *w = tally_word(words, i, &n, &times);
        if (n < 2)
            continue;
        l->from[l->n_words] = used;
        l->n_symbols[l->n_words] = (uint32_t)n;
        l->times[l->n_words] = times;
        for (size_t k = 0; k < n; k++)
            l->symbol[used++] = id_of_byte[w[k]];
        for (size_t k = 1; k < n; k++)
            came(l, l->symbol[used - n + k - 1], l->symbol[used - n + k], l->n_words);
        l->n_words++;
    }
}

/* a, b become c in one word. The pairs at both sides go and come; the pair itself is not counted down. */
static void merge_in_word(struct learner *l, uint32_t word, uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t *s = l->symbol + l->from[word], n = l->n_symbols[word], to = 0;
    int64_t times = l->times[word];
    for (uint32_t at = 0; at < n;) {
        if (s[at] != a || at + 1 == n || s[at + 1] != b) {
            s[to++] = s[at++];
            continue;
        }
        at += 2;
        if (to > 0) {
            pair_at(l, s[to - 1], a)->count -= times;
            came(l, s[to - 1], c, word);
        }
        s[to++] = c;
        if (at < n) {
            pair_at(l, b, s[at])->count -= times;
            came(l, c, s[at], word);
        }
    }
    l->n_symbols[word] = to;
}

static void add_merge(struct learner *l, uint32_t pair, uint32_t a, uint32_t b)
{
    l->pair[pair].last = (int64_t)l->out->n_merges;
    uint32_t *m = grow(&l->out->merge, &l->out->n_merges, &l->cap_merges, sizeof *l->out->merge);
    m[0] = a;
    m[1] = b;
}

static void learn(struct learner *l, const struct bpe_train *o)
{
    push_touched(l);
    while (l->out->n_tokens < (size_t)o->vocab && l->n_heap > 0) {
        struct entry top = l->heap[0];
        int64_t now = l->pair[top.pair].count;
        if (top.count != now) {
            top.count = now;
            sink(l, top);
            continue;
        }
        if (top.count < 1 || top.count < o->least)
            break;
        top = pop(l);
        uint32_t a = (uint32_t)(top.key >> 32), b = (uint32_t)top.key;
        uint32_t c = add_token(l, xasprintf("%s%s", l->out->token[a], l->out->token[b]));
        add_merge(l, top.pair, a, b);
        for (uint32_t i = 0; i < top.n; i++)
            merge_in_word(l, top.word[i], a, b, c);
        free(top.word);
        push_touched(l);
    }
}

/* Of a pair that was merged more than once the last time counts. */
static void keep_last_merges(struct learner *l)
{
    size_t kept = 0;
    struct bpe_learnt *out = l->out;
    for (size_t i = 0; i < out->n_merges; i++)
        if (pair_at(l, out->merge[i][0], out->merge[i][1])->last == (int64_t)i) {
            memmove(out->merge[kept], out->merge[i], sizeof *out->merge);
            kept++;
        }
    out->n_merges = kept;
}

struct bpe_learnt *bpe_learn(const struct bpe_train *o, const struct tally *words)
{
    uint32_t id_of_byte[256];
    struct learner l = { .slot_mask = (1 << 16) - 1, .known_mask = 1023 };
    l.out = xcalloc(1, sizeof *l.out);
    while (l.known_mask < 2 * ((size_t)o->vocab + o->n_specials + 256))
        l.known_mask = 2 * l.known_mask + 1;
    l.known = xcalloc(l.known_mask + 1, sizeof *l.known);
    l.slot = xcalloc(l.slot_mask + 1, sizeof *l.slot);
    add_first_tokens(&l, o, id_of_byte);
    take_words(&l, words, id_of_byte);
    learn(&l, o);
    keep_last_merges(&l);
    for (size_t i = 0; i < l.n_heap; i++)
        free(l.heap[i].word);
    free(l.heap);
    free(l.touched);
    free(l.pair);
    free(l.slot);
    free(l.known);
    free(l.symbol);
    free(l.from);
    free(l.n_symbols);
    free(l.times);
    return l.out;
}

void bpe_learnt_free(struct bpe_learnt *b)
{
    if (!b)
        return;
    for (size_t i = 0; i < b->n_tokens; i++)
        free(b->token[i]);
    free(b->token);
    free(b->merge);
    free(b);
}

/* ---- the file ---- */

static struct json *byte_level(void)
{
    struct json *j = json_make_map();
    json_put_str(j, "type", "ByteLevel");
    json_put_bool(j, "add_prefix_space", false);
    json_put_bool(j, "trim_offsets", true);
    json_put_bool(j, "use_regex", true);
    return j;
}

static struct json *added_tokens(const struct bpe_learnt *b)
{
    static const char *const flags[] = { "single_word", "lstrip", "rstrip", "normalized" };
    struct json *list = json_make_list();
    for (size_t i = 0; i < b->n_specials; i++) {
        struct json *t = json_make_map();
        json_put_int(t, "id", (int64_t)i);
        json_put_str(t, "content", b->token[i]);
        for (size_t k = 0; k < sizeof flags / sizeof *flags; k++)
            json_put_bool(t, flags[k], false);
        json_put_bool(t, "special", true);
        json_add(list, t);
    }
    return list;
}

static struct json *model(const struct bpe_learnt *b)
{
    static const char *const absent[] = { "dropout", "unk_token", "continuing_subword_prefix",
                                          "end_of_word_suffix" };
    static const char *const off[] = { "fuse_unk", "byte_fallback", "ignore_merges" };
    struct json *m = json_make_map(), *vocab = json_make_map(), *merges = json_make_list();
    json_put_str(m, "type", "BPE");
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        json_put_null(m, absent[i]);
    for (size_t i = 0; i < sizeof off / sizeof *off; i++)
        json_put_bool(m, off[i], false);
    for (size_t i = 0; i < b->n_tokens; i++)
        json_put_int(vocab, b->token[i], (int64_t)i);
    for (size_t i = 0; i < b->n_merges; i++) {
        struct json *two = json_make_list();
        json_add_str(two, b->token[b->merge[i][0]]);
        json_add_str(two, b->token[b->merge[i][1]]);
        json_add(merges, two);
    }
    json_put(m, "vocab", vocab);
    json_put(m, "merges", merges);
    return m;
}

struct json *bpe_learnt_json(const struct bpe_learnt *b, const char *pre_tokenizer)
{
    struct json *j = json_make_map();
    struct json *pre = json_try_block("pre_tokenizer", pre_tokenizer, strlen(pre_tokenizer));
    if (!pre)
        bug("%s", err_last());
    json_put_str(j, "version", "1.0");
    json_put_null(j, "truncation");
    json_put_null(j, "padding");
    json_put(j, "added_tokens", added_tokens(b));
    json_put_null(j, "normalizer");
    json_put(j, "pre_tokenizer", pre);
    json_put(j, "post_processor", byte_level());
    json_put(j, "decoder", byte_level());
    json_put(j, "model", model(b));
    return j;
}
