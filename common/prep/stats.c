/* stats.c - the figures of a set of token shards: lengths of its documents, use of its vocabulary, entropy
 * SPDX-License-Identifier: MIT
 */
#include "stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/mem.h"
#include "common/io/shard.h"
#include "inspect.h"

/* Shorter lengths are counted each, the longer ones listed: a set of a Ti of tokens has at most a Mi of them. */
enum { SHORT = 1 << 20 };

struct count {
    int64_t *seen;  /* [vocab] */
    int64_t *docs;  /* [SHORT] documents of each length */
    int64_t *longs; /* lengths from SHORT on */
    size_t n_longs, cap_longs;
    int64_t length; /* of this document so far */
};

static void count_piece(void *arg, const uint32_t *ids, size_t n, bool last)
{
    struct count *c = arg;
    for (size_t i = 0; i < n; i++)
        c->seen[ids[i]]++;
    c->length += (int64_t)n;
    if (!last)
        return;
    if (c->length < SHORT)
        c->docs[c->length]++;
    else
        *(int64_t *)grow(&c->longs, &c->n_longs, &c->cap_longs, sizeof *c->longs) = c->length;
    c->length = 0;
}

static int ascending(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The length of the document that stands at `rank`, from 1, when they are sorted by length. */
static int64_t length_at(const struct count *c, int64_t rank)
{
    for (int64_t l = 0; l < SHORT; l++) {
        rank -= c->docs[l];
        if (rank <= 0)
            return l;
    }
    return c->longs[rank - 1];
}

static int64_t part_of(int64_t n, int64_t per_cent) /* rounded up, at least 1 */
{
    return n / 100 * per_cent + (n % 100 * per_cent + 99) / 100;
}

static void lengths(const struct count *c, int64_t n, struct stats *st)
{
    if (c->n_longs)
        qsort(c->longs, c->n_longs, sizeof *c->longs, ascending);
    st->min = length_at(c, 1);
    st->median = length_at(c, part_of(n, 50));
    st->p90 = length_at(c, part_of(n, 90));
    st->p99 = length_at(c, part_of(n, 99));
    st->max = length_at(c, n);
    for (int64_t l = 1; l < SHORT; l++)
        st->bin[63 - __builtin_clzll((unsigned long long)l)] += c->docs[l];
    for (size_t i = 0; i < c->n_longs; i++)
        st->bin[63 - __builtin_clzll((unsigned long long)c->longs[i])]++;
}

static void vocabulary(const struct count *c, const struct shard_info *info, struct stats *st)
{
    const double all = (double)info->n_tokens;
    for (int64_t i = 0; i < info->vocab; i++) {
        if (!c->seen[i])
            continue;
        st->bits -= (double)c->seen[i] / all * log2((double)c->seen[i] / all);
        st->ids_seen++;
        if (c->seen[i] > st->top_count) {
            st->top_count = c->seen[i];
            st->top_id = i;
        }
    }
}

void stats_of(struct shards *s, struct stats *st)
{
    const struct shard_info *info = shards_info(s);
    struct count c = { .seen = xcalloc((size_t)info->vocab, sizeof *c.seen), .docs = xcalloc(SHORT, sizeof *c.docs) };
    *st = (struct stats){ 0 };
    if (info->n_docs) {
        inspect_walk(s, -1, count_piece, &c);
        lengths(&c, info->n_docs, st);
        vocabulary(&c, info, st);
    }
    free(c.seen);
    free(c.docs);
    free(c.longs);
}
