/* learn.c - a tokenizer.json out of text files, by many ranks
 * SPDX-License-Identifier: MIT
 */
#include "learn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/out.h"
#include "common/dist/comm.h"
#include "common/text/split.h"
#include "common/text/tally.h"
#include "clean.h"

enum { TEXT_BLOCK = 64 << 10, WORDS_TAG = 71 };

/* The pre-tokenizers as Hugging Face's files have them; words are cut by just what the file will say. */
#define BYTES_ONLY                                                                                           \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}"
#define SPLIT_BY(regex)                                                                                      \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"},"   \
    "\"behavior\":\"Isolated\",\"invert\":false}," BYTES_ONLY "]}"
#define SHORT "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define UPPER "[\\\\p{Lu}\\\\p{Lt}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define LOWER "[\\\\p{Ll}\\\\p{Lm}\\\\p{Lo}\\\\p{M}]"
#define NO_LETTER "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?"
static const char *const patterns[] = {
    [LEARN_GPT2] =
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}",
    [LEARN_CL100K] =
        SPLIT_BY(SHORT "|" NO_LETTER "\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*"
                       "|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"),
    [LEARN_O200K] = SPLIT_BY(NO_LETTER UPPER "*" LOWER "+" SHORT "?|" NO_LETTER UPPER "+" LOWER "*" SHORT "?"
                                             "|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n/]*"
                                             "|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"),
};

/* Rank 0's view of the inputs holds; others must see the same. */
static struct docs_file *look_at_inputs(char **paths, int n, struct comm *c, int64_t *bytes)
{
    struct docs_file *files = xcalloc((size_t)n, sizeof *files);
    int64_t(*seen)[2] = xcalloc((size_t)n, sizeof *seen);
    if (c->rank > 0) /* rank 0 looks before the others: a missing file is told once */
        comm_bcast(c, seen, (size_t)n * sizeof *seen, 0);
    for (int i = 0; i < n; i++) {
        docs_look(paths[i], true, &files[i]);
        if (files[i].is_stdin && c->size > 1)
            die("the standard input is read by one rank, not by %d", c->size);
        if (c->rank > 0 && (files[i].bytes != seen[i][0] || files[i].mtime != seen[i][1]))
            die("'%s' is not the same file here and at rank 0 (size or time differ)", paths[i]);
        seen[i][0] = files[i].bytes;
        seen[i][1] = files[i].mtime;
        *bytes += files[i].bytes;
    }
    if (c->rank == 0)
        comm_bcast(c, seen, (size_t)n * sizeof *seen, 0);
    free(seen);
    return files;
}

static void add_word(struct tally *t, const void *word, size_t n, int64_t times)
{
    if (tally_try_add(t, word, n, times) < 0)
        die("%s: --memory allows more; fewer documents need less", err_last());
}

/* ---- counting ---- */

struct counter {
    const struct learn *l;
    struct docs *docs;
    struct split_stream *split;
    struct tally *tally;
    struct clean text;
    struct progress bar;
};

static void count_words(struct counter *x, const char *text, size_t n, bool last)
{
    struct split_words w;
    split_put(x->split, text, n, last);
    while (split_get(x->split, &w))
        for (size_t i = 0, at = 0; i < w.n; at = w.end[i++])
            add_word(x->tally, w.text + at, w.end[i] - at, 1);
}

static void show_progress(struct counter *x)
{
    char text[96];
    int64_t done = docs_input_done(x->docs);
    snprintf(text, sizeof text, "%zu distinct words, %.1f MB/s a rank", tally_words(x->tally),
             1e-6 * (double)done / (now_seconds() - x->bar.start + 1e-9));
    if (done < docs_input_bytes(x->docs) || x->bar.drawn)
        progress_at(&x->bar, done, text);
}

/* Returns the bytes that were counted. */
static int64_t count_doc(struct counter *x)
{
    const char *p;
    size_t n;
    int64_t bytes = 0;
    while (clean_piece(&x->text, &p, &n)) {
        bytes += (int64_t)n;
        for (size_t i = 0; i < n; i += TEXT_BLOCK)
            count_words(x, p + i, n - i < TEXT_BLOCK ? n - i : TEXT_BLOCK, false);
        if (n > TEXT_BLOCK)
            show_progress(x);
    }
    count_words(x, "", 0, true);
    return bytes;
}

static void count_docs(struct counter *x, struct learn_counts *k)
{
    uint64_t below = clean_below(x->l->valid_share);
    int64_t bytes;
    clean_begin(&x->text, x->docs, x->l->utf8);
    progress_begin(&x->bar, 0, docs_input_bytes(x->docs), x->l->log_seconds);
    x->bar.last_draw = x->bar.start; /* a short job says nothing on its way */
    while (docs_next(x->docs, &bytes)) {
        if (x->l->docs.skip_bad && !clean_passes(&x->text))
            docs_count_bad(x->docs, bytes);
        else if (below && clean_hash(&x->text) < below)
            k->other++;
        else {
            int64_t before = x->text.utf8.replaced;
            k->bytes += count_doc(x);
            k->replaced += docs_replaced(x->docs) + x->text.utf8.replaced - before;
            k->docs++;
        }
        if ((k->docs + k->other) % 1024 == 0)
            show_progress(x);
    }
    progress_end(&x->bar);
    k->empty = docs_counts(x->docs)->empty;
    k->bad = docs_counts(x->docs)->bad;
    clean_end(&x->text);
}

/* ---- from many tallies to one ---- */

/* Words as messages: bytes and times as int64_t, then the bytes; of those words only that rank r of n owns. */
static void pack(const struct tally *t, uint64_t r, uint64_t n, struct buf *out)
{
    for (size_t i = 0; i < tally_words(t); i++) {
        int64_t head[2];
        size_t len;
        const unsigned char *word = tally_word(t, i, &len, &head[1]);
        head[0] = (int64_t)len;
        if (n > 1 && (hash_bytes(word, len) >> 32) % n != r)
            continue;
        buf_add(out, head, sizeof head);
        buf_add(out, word, len);
    }
}

static void unpack(struct tally *t, const char *data, size_t n)
{
    for (size_t at = 0; at < n;) {
        int64_t head[2];
        memcpy(head, data + at, sizeof head);
        at += sizeof head;
        add_word(t, data + at, (size_t)head[0], head[1]);
        at += (size_t)head[0];
    }
}

/* Takes a tally of a rank's own documents, returns one of all documents, of the words that the rank owns. */
static struct tally *to_owners(struct tally *mine, const struct learn *l, struct comm *c)
{
    size_t n = (size_t)c->size, total = 0;
    size_t *scount = xcalloc(n, sizeof *scount), *sdispl = xcalloc(n, sizeof *sdispl);
    size_t *rcount = xcalloc(n, sizeof *rcount), *rdispl = xcalloc(n, sizeof *rdispl);
    size_t *all = xcalloc(n * n, sizeof *all);
    struct buf out = { 0 };
    for (size_t r = 0; r < n; r++) {
        sdispl[r] = out.len;
        pack(mine, r, n, &out);
        scount[r] = out.len - sdispl[r];
    }
    tally_free(mine);
    comm_all_gather(c, scount, n * sizeof *scount, all);
    for (size_t r = 0; r < n; r++) {
        rcount[r] = all[r * n + (size_t)c->rank];
        rdispl[r] = total;
        total += rcount[r];
    }
    char *in = xmalloc(total + 1);
    comm_all_to_all(c, out.data, scount, sdispl, in, rcount, rdispl);
    buf_free(&out);
    struct tally *owned = tally_new(l->memory);
    unpack(owned, in, total);
    free(in);
    free(scount);
    free(sdispl);
    free(rcount);
    free(rdispl);
    free(all);
    return owned;
}

/* All words at rank 0; the others keep nothing. */
static struct tally *to_first(struct tally *owned, struct comm *c)
{
    uint64_t n;
    if (c->rank > 0) {
        struct buf out = { 0 };
        pack(owned, 0, 1, &out);
        n = out.len;
        comm_send(c, &n, sizeof n, 0, WORDS_TAG);
        comm_send(c, out.data, out.len, 0, WORDS_TAG);
        buf_free(&out);
        tally_free(owned);
        return NULL;
    }
    for (int r = 1; r < c->size; r++) {
        comm_recv(c, &n, sizeof n, r, WORDS_TAG);
        char *in = xmalloc((size_t)n + 1);
        comm_recv(c, in, (size_t)n, r, WORDS_TAG);
        unpack(owned, in, (size_t)n);
        free(in);
    }
    return owned;
}

/* ---- all of it ---- */

static struct split *make_split(enum learn_pattern pattern)
{
    struct json *j = json_try_block("pre_tokenizer", patterns[pattern], strlen(patterns[pattern]));
    struct split *s = j ? split_try_new(NULL, j) : NULL;
    if (!s)
        bug("%s", err_last());
    json_free(j);
    return s;
}

static void learn_and_write(const struct learn *l, const struct tally *words, struct learn_counts *k)
{
    double start = now_seconds();
    struct bpe_learnt *b = bpe_learn(&l->bpe, words);
    struct json *j = bpe_learnt_json(b, patterns[l->pattern]);
    json_write(l->output, j, JSON_FLAT, l->force);
    k->words = tally_total(words);
    k->distinct = (int64_t)tally_words(words);
    k->tokens = (int64_t)b->n_tokens;
    k->merges = (int64_t)b->n_merges;
    k->learnt = now_seconds() - start;
    json_free(j);
    bpe_learnt_free(b);
}

void learn_run(const struct learn *l, char **inputs, int n, struct comm *c, struct learn_counts *k)
{
    double start = now_seconds();
    *k = (struct learn_counts){ 0 };
    if (c->rank == 0 && !l->force && path_exists(l->output))
        die("'%s' exists; --force replaces it", l->output);
    struct docs_file *files = look_at_inputs(inputs, n, c, &k->input);
    for (int i = 0; i < n; i++)
        if (path_same(inputs[i], l->output))
            die("'%s' is both input and output", inputs[i]);
    struct split *split = make_split(l->pattern);
    struct counter x = { .l = l, .split = split_stream_new(split), .tally = tally_new(l->memory) };
    struct docs_options options = l->docs;
    options.mend = l->utf8 == UTF8_REPLACE;
    x.docs = docs_open(files, n, &options, c->rank, c->size);
    count_docs(&x, k);
    docs_close(x.docs);
    split_stream_free(x.split);
    split_free(split);
    free(files);
    int64_t sums[] = { k->docs, k->bytes, k->empty, k->bad, k->other, k->replaced };
    comm_sum_i64(c, sums, 6);
    k->docs = sums[0];
    k->bytes = sums[1];
    k->empty = sums[2];
    k->bad = sums[3];
    k->other = sums[4];
    k->replaced = sums[5];
    if (c->rank == 0 && k->docs == 0)
        die("no documents in '%s'%s", inputs[0], n > 1 ? " and the other inputs" : "");
    struct tally *words = c->size > 1 ? to_first(to_owners(x.tally, l, c), c) : x.tally;
    k->counted = now_seconds() - start;
    if (c->rank == 0)
        learn_and_write(l, words, k);
    tally_free(words);
    comm_barrier(c);
}
