/* mktokens.c - a program for tests: the ids of documents, for others to compare with, and how long they take
 * SPDX-License-Identifier: MIT
 *
 * mktokens SPEC text|parse PIECE [EOD] <DOCS >IDS    each document as its length (uint32) and its bytes, given to the
 *                                                   tokenizer in pieces of PIECE bytes; out: count and ids, all uint32
 * mktokens SPEC time N FILE                         FILE as one document, N times with a cold cache: MB/s of
 *                                                   processor time of each
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/opt.h"
#include "common/text/tokenizer.h"

static void encode(struct token_stream *s, const char *p, size_t n, size_t piece, struct token_ids *ids)
{
    for (size_t i = 0; i < n; i += piece)
        tokenizer_encode(s, p + i, n - i < piece ? n - i : piece, false, ids);
    tokenizer_encode(s, "", 0, true, ids);
}

static void time_it(const struct tokenizer *t, int64_t times, const char *path)
{
    struct buf text = { 0 };
    char block[1 << 16];
    size_t k;
    FILE *f = fopen(path, "rb");
    if (!f)
        die_errno("cannot open '%s'", path);
    while ((k = fread(block, 1, sizeof block, f)) > 0)
        buf_add(&text, block, k);
    fclose(f);
    for (int64_t i = 0; i < times; i++) {
        struct token_ids ids = { 0 };
        size_t tokens = 0;
        clock_t begin = clock();
        struct token_stream *s = token_stream_new(t);
        for (size_t at = 0; at < text.len; at += 1 << 16) {
            tokenizer_encode(s, text.data + at, text.len - at < 1 << 16 ? text.len - at : 1 << 16, false,
                             &ids);
            tokens += ids.n;
            ids.n = 0;
        }
        tokenizer_encode(s, "", 0, true, &ids);
        tokens += ids.n;
        double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
        printf("%.1f MB/s\t%zu bytes\t%zu tokens\n", 1e-6 * (double)text.len / seconds, text.len, tokens);
        token_stream_free(s);
        token_ids_free(&ids);
    }
    buf_free(&text);
}

int main(int argc, char **argv)
{
    int64_t n;
    err_init("mktokens");
    if (argc < 4 || parse_int(argv[3], &n) < 0 || n < 1)
        die_usage("mktokens SPEC text|parse PIECE, or mktokens SPEC time N FILE");
    struct tokenizer_options o = { .specials =
                                       strcmp(argv[2], "parse") == 0 ? SPECIALS_PARSE : SPECIALS_TEXT };
    if (argc > 4 && strcmp(argv[2], "time") != 0)
        o.eod = argv[4];
    struct tokenizer *t = tokenizer_try_open(argv[1], &o);
    if (!t)
        die("%s", err_last());
    if (strcmp(argv[2], "time") == 0 && argc == 5) {
        time_it(t, n, argv[4]);
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
