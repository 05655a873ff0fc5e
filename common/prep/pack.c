/* pack.c - conversations to the samples of a packed set: rows of at most so many tokens
 * SPDX-License-Identifier: MIT
 */
#include "pack.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/io/shard.h"

struct item {
    size_t at; /* in the packer's ids and mask */
    int64_t n, bytes;
    int64_t order, next; /* next: in its row, -1: the last */
};

struct row {
    int64_t first, last; /* items */
    int64_t older;       /* another row with as much room, -1: none */
};

struct packer {
    const struct pack *o;
    struct shard_writer *w;
    struct token_stream *stream;
    struct chat chat;
    struct chat_ids one;
    uint32_t *ids; /* of the conversations collected */
    uint8_t *mask;
    size_t n_ids, cap_ids;
    struct item *item;
    size_t n_items, cap_items;
    struct row *row;
    size_t n_rows, cap_rows;
    int64_t *by_room; /* [seq_len+1] the youngest row with so much room, -1: none */
    uint64_t *some;   /* bits: there is one */
    uint64_t windows;
    struct pack_counts counts;
};

struct packer *packer_new(const struct pack *o, const struct tokenizer *t, struct shard_writer *w)
{
    struct packer *p = xcalloc(1, sizeof *p);
    if (o->seq_len < 1 || o->seq_len > PACK_LONGEST)
        bug("rows of %lld tokens", (long long)o->seq_len);
    p->o = o;
    p->w = w;
    p->stream = token_stream_new(t);
    p->by_room = xcalloc((size_t)o->seq_len + 1, sizeof *p->by_room);
    p->some = xcalloc((size_t)o->seq_len / 64 + 1, sizeof *p->some);
    memset(p->by_room, -1, ((size_t)o->seq_len + 1) * sizeof *p->by_room);
    return p;
}

/* ---- rows ---- */

static int longest_first(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    if (x->n != y->n)
        return x->n > y->n ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

/* The least room of a row that takes n tokens, or -1. */
static int64_t find_room(const struct packer *p, int64_t n)
{
    int64_t word = n / 64, last = p->o->seq_len / 64;
    uint64_t bits = p->some[word] & (~UINT64_C(0) << n % 64);
    while (!bits && word < last)
        bits = p->some[++word];
    return bits ? word * 64 + __builtin_ctzll(bits) : -1;
}

static void put_room(struct packer *p, int64_t room, int64_t row)
{
    p->row[row].older = p->by_room[room];
    p->by_room[room] = row;
    p->some[room / 64] |= UINT64_C(1) << room % 64;
}

static int64_t take_room(struct packer *p, int64_t room)
{
    int64_t row = p->by_room[room];
    p->by_room[room] = p->row[row].older;
    if (p->by_room[room] < 0)
        p->some[room / 64] &= ~(UINT64_C(1) << room % 64);
    return row;
}

static void place(struct packer *p, int64_t i)
{
    int64_t n = p->item[i].n, room = p->o->single ? -1 : find_room(p, n);
    int64_t row = room >= 0 ? take_room(p, room) : (int64_t)p->n_rows;
    if (room < 0) {
        room = p->o->seq_len;
        *(struct row *)grow(&p->row, &p->n_rows, &p->cap_rows, sizeof *p->row) = (struct row){ i, i, -1 };
    } else {
        p->item[p->row[row].last].next = i;
        p->row[row].last = i;
    }
    put_room(p, room - n, row);
}

static void write_row(struct packer *p, const struct row *r)
{
    for (int64_t i = r->first; i >= 0; i = p->item[i].next) {
        const struct item *x = &p->item[i];
        p->counts.docs++;
        p->counts.tokens += x->n;
        p->counts.bytes += x->bytes;
        for (int64_t k = 0; k < x->n; k++)
            p->counts.targets += p->mask[x->at + (size_t)k];
        if (p->w)
            shard_add_doc(p->w, p->ids + x->at, p->mask + x->at, x->n, x->bytes);
    }
    p->counts.samples++;
    if (p->w)
        shard_end_sample(p->w);
}

/* Everything that is collected to rows. */
static void pack_window(struct packer *p)
{
    if (p->n_items)
        qsort(p->item, p->n_items, sizeof *p->item, longest_first);
    for (size_t i = 0; i < p->n_items; i++)
        place(p, (int64_t)i);
    for (size_t i = 0; i < p->n_rows; i++)
        write_row(p, &p->row[rng_permute(p->o->seed, rng_stream("pack") + p->windows, p->n_rows, i)]);
    p->windows++;
    p->n_ids = p->n_items = p->n_rows = 0;
    memset(p->by_room, -1, ((size_t)p->o->seq_len + 1) * sizeof *p->by_room);
    memset(p->some, 0, ((size_t)p->o->seq_len / 64 + 1) * sizeof *p->some);
}

/* ---- conversations ---- */

/* Shortens one that is too long. 1: it fits, 0: it cannot; -1: a bad line. */
static int shorten(struct packer *p)
{
    const struct pack *o = p->o;
    int64_t had = 0;
    if (chat_template_try_encode(o->template, &p->chat, o->all, INT64_MAX, p->stream, &p->one, &had) < 0)
        return -1;
    int64_t over = (int64_t)p->one.ids.n - o->seq_len;
    if (over > had)
        return 0;
    if (over > 0 &&
        chat_template_try_encode(o->template, &p->chat, o->all, had - over, p->stream, &p->one, NULL) < 0)
        return -1;
    p->counts.shortened++;
    return 1;
}

/* The conversation as it is to be, in p->one: 1; 0: left out; -1: a bad line. */
static int try_encode(struct packer *p)
{
    const struct pack *o = p->o;
    if (chat_template_try_encode(o->template, &p->chat, o->all, -1, p->stream, &p->one, NULL) < 0)
        return -1;
    int64_t n = (int64_t)p->one.ids.n;
    int fits = n <= o->seq_len;
    if (!fits && o->too_long == PACK_REFUSE)
        return err_set("the conversation has %lld tokens, more than %lld (--seq-len)", (long long)n, (long long)o->seq_len);
    if (!fits && o->too_long == PACK_TRUNCATE)
        fits = shorten(p);
    p->counts.too_long += fits == 0;
    return fits;
}

static void collect(struct packer *p)
{
    const struct chat_ids *c = &p->one;
    while (p->cap_ids - p->n_ids < c->ids.n) {
        p->cap_ids = p->cap_ids ? 2 * p->cap_ids : 64 << 10;
        p->ids = xrealloc(p->ids, mul_size(p->cap_ids, sizeof *p->ids, "conversations"));
        p->mask = xrealloc(p->mask, p->cap_ids);
    }
    memcpy(p->ids + p->n_ids, c->ids.id, c->ids.n * sizeof *p->ids);
    memcpy(p->mask + p->n_ids, c->mask, c->ids.n);
    struct item *x = grow(&p->item, &p->n_items, &p->cap_items, sizeof *x);
    *x = (struct item){ p->n_ids, (int64_t)c->ids.n, c->bytes, (int64_t)p->n_items, -1 };
    p->n_ids += c->ids.n;
}

int packer_try_add(struct packer *p, const char *line, size_t n)
{
    if (chat_try_parse(&p->chat, line, n, p->o->shape) < 0)
        return -1;
    int there = try_encode(p);
    if (there <= 0)
        return there;
    if (p->one.targets == 0) {
        p->counts.no_target++;
        return 0;
    }
    collect(p);
    if ((int64_t)p->n_ids >= p->o->window)
        pack_window(p);
    return 1;
}

void packer_end(struct packer *p, struct pack_counts *k)
{
    pack_window(p);
    *k = p->counts;
    token_stream_free(p->stream);
    chat_free(&p->chat);
    chat_ids_free(&p->one);
    free(p->ids);
    free(p->mask);
    free(p->item);
    free(p->row);
    free(p->by_room);
    free(p->some);
    free(p);
}
