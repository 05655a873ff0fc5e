/* mktokens.c - a program for tests: the ids of documents, for others to compare with, and how long they take
 * SPDX-License-Identifier: MIT
 *
 * mktokens SPEC text|parse PIECE [EOD] <DOCS >IDS    each document as its length (uint32) and its bytes, given to the
 *                                                   tokenizer in pieces of PIECE bytes; out: count and ids, all uint32
 * mktokens SPEC time N FILE                         FILE as one document, N times with a cold cache: MB/s of
 *                                                   processor time of each
 * mktokens TOKENIZER.json profile N FILE FOLDER     where the time of 'tokshard encode' goes, best of N; the shard
 *                                                   is written to FOLDER
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/opt.h"
#include "common/io/shard.h"
#include "common/text/docs.h"
#include "common/text/split.h"
#include "common/text/tokenizer.h"

enum { BLOCK = 1 << 16 };

static void encode(struct token_stream *s, const char *p, size_t n, size_t piece, struct token_ids *ids)
{
    for (size_t i = 0; i < n; i += piece)
        tokenizer_encode(s, p + i, n - i < piece ? n - i : piece, false, ids);
    tokenizer_encode(s, "", 0, true, ids);
}

static double cpu_seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }

/* All of the text through a stream; returns the processor's seconds, and the ids when they are asked for. */
static double encode_all(struct token_stream *s, const struct buf *text, struct token_ids *ids, bool keep, size_t *tokens)
{
    double begin = cpu_seconds();
    *tokens = ids->n = 0;
    for (size_t at = 0; at < text->len; at += BLOCK) {
        tokenizer_encode(s, text->data + at, text->len - at < BLOCK ? text->len - at : BLOCK, false, ids);
        *tokens += keep ? 0 : ids->n;
        ids->n = keep ? ids->n : 0;
    }
    tokenizer_encode(s, "", 0, true, ids);
    *tokens += ids->n;
    return cpu_seconds() - begin;
}

static void slurp(const char *path, struct buf *text)
{
    FILE *f = fopen(path, "rb");
    if (!f || file_slurp(f, SIZE_MAX, text) < 0)
        die_errno("cannot read '%s'", path);
    fclose(f);
}

static void time_it(const struct tokenizer *t, int64_t times, const char *path)
{
    struct buf text = { 0 };
    slurp(path, &text);
    for (int64_t i = 0; i < times; i++) {
        struct token_ids ids = { 0 };
        size_t tokens;
        struct token_stream *s = token_stream_new(t);
        double seconds = encode_all(s, &text, &ids, false, &tokens);
        printf("%.1f MB/s\t%zu bytes\t%zu tokens\n", 1e-6 * (double)text.len / seconds, text.len, tokens);
        token_stream_free(s);
        token_ids_free(&ids);
    }
    buf_free(&text);
}

/* ---- profile ---- */

enum { READ, SPLIT, LOOK_UP, MERGE, COMPRESS, WRITE, STAGES };
static const char *const stages[STAGES] = { "read", "split", "look-up", "merge", "compress", "write" };

static double time_read(const char *path)
{
    double begin = cpu_seconds();
    struct docs_file f;
    struct docs_options o = { .split = DOCS_PARA, .max_line = 1 << 28 };
    int64_t bytes;
    size_t n;
    docs_look(path, false, &f);
    struct docs *d = docs_open(&f, 1, &o, 0, 1);
    while (docs_next(d, &bytes))
        while (docs_piece(d, &n))
            ;
    docs_close(d);
    return cpu_seconds() - begin;
}

static double time_split(const struct split *split, const struct buf *text)
{
    double begin = cpu_seconds();
    struct split_stream *s = split_stream_new(split);
    struct split_words w;
    for (size_t at = 0; at < text->len; at += BLOCK) {
        split_put(s, text->data + at, text->len - at < BLOCK ? text->len - at : BLOCK, at + BLOCK >= text->len);
        while (split_get(s, &w))
            ;
    }
    split_stream_free(s);
    return cpu_seconds() - begin;
}

/* The ids to a shard: seconds of the processor, and those that pass. */
static double time_shard(const struct tokenizer *t, const struct token_ids *ids, const char *folder, double *wall)
{
    const struct tokenizer_info *i = tokenizer_info(t);
    struct shard_info info = { .tokenizer_hash = i->hash, .vocab = i->vocab, .eod = i->eod };
    char *path = xasprintf("%s/profile.%ld.h5", folder, (long)getpid());
    double begin = cpu_seconds(), start = now_seconds();
    struct shard_writer *w = shard_create(path, &info, 1, true);
    shard_add(w, ids->id, (int64_t)ids->n);
    shard_end_doc(w, 1);
    shard_commit(w, NULL);
    double cpu = cpu_seconds() - begin;
    *wall = now_seconds() - start;
    unlink(path);
    free(path);
    return cpu;
}

/* Each stage's own share of the seconds, the best of so many times. Look-up is what words cost that a second pass over the
 * text finds in the cache; merge what the first pass costs more; write what a disk costs more than /dev/shm. */
static void profile(const char *spec, const struct tokenizer *t, int64_t times, const char *path, const char *folder)
{
    double best[STAGES], all = 0;
    struct buf text = { 0 };
    struct json *j = json_try_file(spec, 64 << 20);
    struct split *split = j ? split_try_new(json_at(j, "normalizer"), json_at(j, "pre_tokenizer")) : NULL;
    if (!split)
        die("%s (profile takes a tokenizer.json)", err_last());
    slurp(path, &text);
    for (int64_t i = 0; i < times; i++) {
        struct token_ids ids = { 0 };
        struct token_stream *s = token_stream_new(t);
        double now[STAGES], wall, shm;
        size_t tokens;
        now[READ] = time_read(path);
        now[SPLIT] = time_split(split, &text);
        double cold = encode_all(s, &text, &ids, false, &tokens), warm = encode_all(s, &text, &ids, false, &tokens);
        now[LOOK_UP] = warm - now[SPLIT];
        now[MERGE] = cold - warm;
        encode_all(s, &text, &ids, true, &tokens);
        now[COMPRESS] = time_shard(t, &ids, "/dev/shm", &shm);
        time_shard(t, &ids, folder, &wall);
        now[WRITE] = wall - shm;
        for (int k = 0; k < STAGES; k++)
            best[k] = i == 0 || now[k] < best[k] ? now[k] : best[k];
        token_stream_free(s);
        token_ids_free(&ids);
    }
    for (int k = 0; k < STAGES; k++)
        all += best[k] = best[k] < 0 ? 0 : best[k];
    printf("# stage\tns a byte\tMB/s\tshare %%\n");
    for (int k = 0; k < STAGES; k++)
        if (best[k] > 0)
            printf("%s\t%.2f\t%.0f\t%.0f\n", stages[k], 1e9 * best[k] / (double)text.len,
                   1e-6 * (double)text.len / best[k], 100 * best[k] / all);
        else
            printf("%s\t0\t-\t0\n", stages[k]); /* below the noise */
    printf("all\t%.2f\t%.0f\t100\n", 1e9 * all / (double)text.len, 1e-6 * (double)text.len / all);
    split_free(split);
    json_free(j);
    buf_free(&text);
}

int main(int argc, char **argv)
{
    int64_t n;
    err_init("mktokens");
    if (argc < 4 || parse_int(argv[3], &n) < 0 || n < 1)
        die_usage("mktokens SPEC text|parse PIECE, SPEC time N FILE, or TOKENIZER.json profile N FILE FOLDER");
    struct tokenizer_options o = { .specials =
                                       strcmp(argv[2], "parse") == 0 ? SPECIALS_PARSE : SPECIALS_TEXT };
    if (argc == 5 && strcmp(argv[2], "time") != 0)
        o.eod = argv[4];
    struct tokenizer *t = tokenizer_try_open(argv[1], &o);
    if (!t)
        die("%s", err_last());
    if (strcmp(argv[2], "time") == 0 && argc == 5) {
        time_it(t, n, argv[4]);
        tokenizer_free(t);
        return 0;
    }
    if (strcmp(argv[2], "profile") == 0 && argc == 6) {
        profile(argv[1], t, n, argv[4], argv[5]);
        tokenizer_free(t);
        return 0;
    }
    struct token_stream *s = token_stream_new(t);
    struct token_ids ids = { 0 };
    struct buf text = { 0 };
    uint32_t len;
    while (fread(&len, sizeof len, 1, stdin) == 1) {
        buf_clear(&text);
        text.data = len + (size_t)1 > text.cap ? xrealloc(text.data, text.cap = len + (size_t)1) : text.data;
        if (fread(text.data, 1, len, stdin) != len)
            die("the documents end too soon");
        ids.n = 0;
        encode(s, text.data, len, (size_t)n, &ids);
        uint32_t count = (uint32_t)ids.n;
        fwrite(&count, sizeof count, 1, stdout);
        fwrite(ids.id, sizeof *ids.id, ids.n, stdout);
    }
    if (fflush(stdout) != 0)
        die_errno("cannot write");
    buf_free(&text);
    token_ids_free(&ids);
    token_stream_free(s);
    tokenizer_free(t);
    return 0;
}
