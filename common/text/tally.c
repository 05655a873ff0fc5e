/* tally.c - how often each word occurs
 * SPDX-License-Identifier: MIT
 */
#include "tally.h"

#include <string.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/mem.h"

/* A slot: the upper 24 bits of the word's hash, and 1 + its number in the lower 40; 0 is free. */
static const uint64_t NUMBER = (UINT64_C(1) << 40) - 1;

struct entry {
    uint64_t at; /* where the word begins; it ends where the next begins */
    int64_t times;
};

struct tally {
    struct buf text;
    struct entry *entry; /* n, and one behind the last */
    size_t n, cap;
    uint64_t *slot; /* a power of two, at most half of them taken */
    size_t mask;
    int64_t total, bytes, most;
};

struct tally *tally_new(int64_t most_bytes)
{
    struct tally *t = xcalloc(1, sizeof *t);
    t->most = most_bytes;
    t->mask = 1023;
    t->slot = xcalloc(t->mask + 1, sizeof *t->slot);
    t->cap = 512;
    t->entry = xcalloc(t->cap + 1, sizeof *t->entry);
    return t;
}

void tally_free(struct tally *t)
{
    if (!t)
        return;
    buf_free(&t->text);
    free(t->entry);
    free(t->slot);
    free(t);
}

static size_t length(const struct tally *t, size_t i)
{
    return (size_t)(t->entry[i + 1].at - t->entry[i].at);
}

/* The slot of that word, or the free one where it belongs. */
static uint64_t *find(const struct tally *t, const void *word, size_t n, uint64_t hash)
{
    for (size_t i = hash & t->mask;; i = (i + 1) & t->mask) {
        uint64_t s = t->slot[i];
        if (!s)
            return &t->slot[i];
        size_t k = (size_t)(s & NUMBER) - 1;
        if ((s ^ hash) <= NUMBER && length(t, k) == n && memcmp(t->text.data + t->entry[k].at, word, n) == 0)
            return &t->slot[i];
    }
}

static void widen(struct tally *t)
{
    t->cap *= 2;
    t->entry = xrealloc(t->entry, mul_size(t->cap + 1, sizeof *t->entry, "words"));
    free(t->slot);
    t->mask = 2 * t->mask + 1;
    t->slot = xcalloc(t->mask + 1, sizeof *t->slot);
    for (size_t k = 0; k < t->n; k++) {
        uint64_t hash = hash_bytes(t->text.data + t->entry[k].at, length(t, k));
        size_t i = hash & t->mask;
        while (t->slot[i])
            i = (i + 1) & t->mask;
        t->slot[i] = (hash & ~NUMBER) | (k + 1);
    }
}

int tally_try_add(struct tally *t, const void *word, size_t n, int64_t times)
{
    uint64_t hash = hash_bytes(word, n);
    uint64_t *slot = find(t, word, n, hash);
    t->total += times;
    if (*slot) {
        t->entry[(*slot & NUMBER) - 1].times += times;
        return 0;
    }
    t->bytes += (int64_t)n + TALLY_WORD;
    if (t->bytes > t->most)
        return err_set("the %zu distinct words so far need more than %lld bytes", t->n + 1,
                       (long long)t->most);
    if (t->n == t->cap) {
        widen(t);
        slot = find(t, word, n, hash);
    }
    *slot = (hash & ~NUMBER) | (t->n + 1);
    buf_add(&t->text, word, n);
    t->entry[t->n++].times = times;
    t->entry[t->n] = (struct entry){ .at = t->text.len };
    return 0;
}

size_t tally_words(const struct tally *t) { return t->n; }

int64_t tally_total(const struct tally *t) { return t->total; }

const unsigned char *tally_word(const struct tally *t, size_t i, size_t *n, int64_t *times)
{
    *n = length(t, i);
    *times = t->entry[i].times;
    return (const unsigned char *)t->text.data + t->entry[i].at;
}
