/* text.c - tests of common/text: documents whatever the cuts and windows, tokens there and back
 * SPDX-License-Identifier: MIT
 *
 * The splitter here is the slow and plain one: a whole text in memory, line by line. The reader must agree
 * with it for any text, any number of parts, any window.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/mem.h"
#include "common/text/docs.h"
#include "common/text/tokenizer.h"
#include "pack.h"

enum { MOST_FILES = 4 };

static uint64_t draws;
static char *paths[MOST_FILES];

static uint32_t draw(uint32_t n)
{
    draws++;
    return (uint32_t)(hash_bytes(&draws, sizeof draws) % n);
}

/* Documents as text: each as "[length]bytes". */
static void note_doc(struct buf *out, const char *p, size_t n)
{
    buf_addf(out, "[%zu]", n);
    buf_add(out, p, n);
}

static bool blank(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r", p[i]) || !p[i])
            return false;
    return true;
}

static size_t cut_end(const char *p, size_t n)
{
    if (n && p[n - 1] == '\n') {
        n--;
        if (n && p[n - 1] == '\r')
            n--;
    }
    return n;
}

static void add(struct buf *out, int64_t *empty, const char *p, size_t n)
{
    n = cut_end(p, n);
    if (n)
        note_doc(out, p, n);
    else
        ++*empty;
}

static void split_plainly(const char *p, size_t n, enum docs_split split, const char *sep, struct buf *out,
                          int64_t *empty)
{
    size_t doc = 0; /* where the current document began */
    bool inside = split == DOCS_SEP && n > 0;
    if (split == DOCS_FILE && n > 0)
        note_doc(out, p, n);
    if (split == DOCS_FILE)
        return;
    for (size_t i = 0, next; i < n; i = next) {
        const char *lf = memchr(p + i, '\n', n - i);
        size_t len = lf ? (size_t)(lf - (p + i)) : n - i; /* without the LF */
        next = i + len + (lf != NULL);
        if (split == DOCS_LINE) {
            if (blank(p + i, len))
                ++*empty;
            else
                add(out, empty, p + i, next - i);
        } else if (split == DOCS_PARA) {
            if (!inside && !blank(p + i, len)) {
                inside = true;
                doc = i;
            } else if (inside && blank(p + i, len)) {
                add(out, empty, p + doc, i - doc);
                inside = false;
            }
        } else {
            size_t bare = len && p[i + len - 1] == '\r' && len == strlen(sep) + 1 ? len - 1 : len;
            if (bare == strlen(sep) && memcmp(p + i, sep, bare) == 0) {
                add(out, empty, p + doc, i - doc);
                doc = next;
                inside = next < n;
            }
        }
    }
    if (inside)
        add(out, empty, p + doc, n - doc);
}

static void write_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(n ? fwrite(data, 1, n, f) : 0, n);
    assert_int_equal(fclose(f), 0);
}

/* The same as a plain file, or packed, in one piece or in several. */
static void write_input(const char *path, const char *data, size_t n)
{
    static const enum stream_pack packs[] = { STREAM_PLAIN, STREAM_GZIP, STREAM_ZSTD };
    enum stream_pack kind = packs[draw(3)];
    struct buf out = { 0 };
    if (kind == STREAM_PLAIN) {
        write_file(path, data, n);
        return;
    }
    size_t at = 0;
    do {
        size_t k = draw(2) ? n - at : draw((uint32_t)(n - at) + 1);
        pack(kind, n ? data + at : "", k, 1 + (int)draw(3), &out);
        at += k;
    } while (at < n);
    if (draw(4) == 0 && kind == STREAM_GZIP)
        buf_add(&out, "\0\0\0\0\0\0\0\0\0", 1 + draw(9)); /* padding */
    if (draw(4) == 0 && kind == STREAM_ZSTD)
        buf_add(&out, "\x5a\x2a\x4d\x18\3\0\0\0abc", 11); /* a skippable frame */
    write_file(path, out.data, out.len);
    buf_free(&out);
}

/* All documents of all parts, in order, read twice each (docs_rewind). */
static void read_parts(const struct docs_file *files, int n, const struct docs_options *o, int parts,
                       struct buf *out, struct docs_counts *sum)
{
    struct buf doc = { 0 };
    *sum = (struct docs_counts){ 0 };
    for (int part = 0; part < parts; part++) {
        struct docs *d = docs_open(files, n, o, part, parts);
        int64_t bytes, docs = 0;
        while (docs_next(d, &bytes)) {
            const char *p;
            size_t k;
            buf_clear(&doc);
            if ((p = docs_piece(d, &k)))
                assert_true(k > 0 && (int64_t)k <= bytes);
            docs_rewind(d);
            while ((p = docs_piece(d, &k)))
                buf_add(&doc, p, k);
            assert_null(docs_piece(d, &k));
            assert_int_equal(doc.len, bytes);
            note_doc(out, doc.data, doc.len);
            docs++;
        }
        assert_int_equal(docs, docs_counts(d)->docs);
        assert_int_equal(docs_input_done(d), docs_input_bytes(d));
        sum->docs += docs;
        sum->bytes += docs_counts(d)->bytes;
        sum->empty += docs_counts(d)->empty;
        sum->bad += docs_counts(d)->bad;
        docs_close(d);
    }
    buf_free(&doc);
}

static void assert_same(const struct buf *a, const struct buf *b, const char *what)
{
    if (a->len != b->len || (a->len && memcmp(a->data, b->data, a->len) != 0))
        fail_msg("%s: wanted\n%s\ngot\n%s", what, a->len ? a->data : "", b->len ? b->data : "");
}

/* Random texts of the bytes that matter, in one to four files. */
static void test_any_cut(void **state)
{
    static const char *const words[] = { "a",  "b",     "\n",   "\n",   "\r\n",      "\n\n",   " ",
                                         "\t", "\r",    "#-",   "#-\n", "\n#-\n",    "#-\r\n", "#",
                                         "-",  "\n \n", "word", "\xff", "\n#-\n#-\n" };
    (void)state;
    for (int round = 0; round < 3000; round++) {
        struct buf want = { 0 };
        struct docs_file files[MOST_FILES];
        struct docs_counts sum;
        int64_t empty = 0, total = 0;
        int n = 1 + (int)draw(MOST_FILES);
        static const size_t windows[] = { 0, 4, 5, 8, 13, 32 };
        struct docs_options o = { .format = DOCS_TEXT,
                                  .split = (enum docs_split)draw(4),
                                  .separator = "#-",
                                  .text_key = "text",
                                  .max_line = 100,
                                  .window = windows[draw(6)] };
        for (int i = 0; i < n; i++) {
            struct buf text = { 0 };
            for (uint32_t k = draw(4) ? draw(30) : 0; k > 0; k--) {
                const char *w = words[draw(sizeof words / sizeof *words)];
                buf_add(&text, w, strlen(w));
            }
            if (draw(8) == 0)
                buf_add(&text, "", 1);
            split_plainly(text.data, text.len, o.split, o.separator, &want, &empty);
            write_input(paths[i], text.data, text.len);
            docs_look(paths[i], true, &files[i]);
            total += files[i].bytes;
            buf_free(&text);
        }
        int parts[] = { 1, 2, 3, 1 + (int)draw(40), (int)total + 1 };
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            struct buf got = { 0 };
            char what[80];
            snprintf(what, sizeof what, "round %d split %d window %zu parts %d", round, (int)o.split,
                     o.window, parts[i]);
            read_parts(files, n, &o, parts[i], &got, &sum);
            assert_same(&want, &got, what);
            if (empty != sum.empty)
                fail_msg("%s: empty: wanted %lld, got %lld", what, (long long)empty, (long long)sum.empty);
            buf_free(&got);
        }
        buf_free(&want);
    }
}

/* Bytes that this process has asked files for; -1 where the system does not say. */
static int64_t bytes_read(void)
{
    long long n = -1;
    FILE *f = fopen("/proc/self/io", "r");
    if (!f)
        return -1;
    if (fscanf(f, "rchar: %lld", &n) != 1)
        n = -1;
    fclose(f);
    return n;
}

static void read_document(struct docs *d)
{
    size_t n;
    while (docs_piece(d, &n))
        ;
}

/* Many long documents in a packed file, each read three times: the file is read four times at most. */
static void test_packed_once_a_pass(void **state)
{
    enum { DOCS = 40, LONG = 64 << 10 };
    struct buf text = { 0 }, packed = { 0 };
    struct docs_options o = { .format = DOCS_TEXT, .split = DOCS_LINE, .window = 16 << 10 };
    struct docs_file file;
    int64_t bytes, before = bytes_read(), docs = 0;
    (void)state;
    if (before < 0)
        skip();
    for (int i = 0; i < DOCS * LONG; i++) {
        char c = i % LONG == LONG - 1 ? '\n' : (char)('a' + draw(26));
        buf_add(&text, &c, 1);
    }
    pack(STREAM_GZIP, text.data, text.len, 1, &packed);
    write_file(paths[0], packed.data, packed.len);
    docs_look(paths[0], true, &file);
    before = bytes_read();
    struct docs *d = docs_open(&file, 1, &o, 0, 1);
    for (; docs_next(d, &bytes); docs++)
        for (int pass = 0; pass < 3; pass++) {
            if (pass)
                docs_rewind(d);
            read_document(d);
        }
    docs_close(d);
    assert_int_equal(docs, DOCS);
    assert_true(bytes_read() - before < 4 * file.bytes + (1 << 20));
    buf_free(&text);
    buf_free(&packed);
}

/* A line that lies in many parts: only the part where it begins reads it. */
static void test_long_line_read_once(void **state)
{
    enum { LONG = 4 << 20, PARTS = 64, WINDOW = 16 << 10 };
    struct docs_options o = { .format = DOCS_TEXT, .split = DOCS_LINE, .window = WINDOW };
    struct docs_file file;
    struct buf got = { 0 };
    struct docs_counts sum;
    char *line = xmalloc(LONG);
    (void)state;
    memset(line, 'x', LONG);
    write_file(paths[0], line, LONG);
    docs_look(paths[0], true, &file);
    int64_t before = bytes_read();
    if (before < 0)
        skip();
    read_parts(&file, 1, &o, PARTS, &got, &sum);
    assert_int_equal(sum.docs, 1);
    assert_true(bytes_read() - before < 4 * (LONG + PARTS * WINDOW));
    buf_free(&got);
    free(line);
}

/* Documents longer than a window, of about its half, and lines of nothing but blanks as long. */
static void test_long_documents(void **state)
{
    (void)state;
    for (int round = 0; round < 60; round++) {
        struct buf text = { 0 }, want = { 0 };
        struct docs_counts sum;
        struct docs_file file;
        int64_t empty = 0;
        struct docs_options o = {
            .format = DOCS_TEXT, .split = (enum docs_split)draw(4), .separator = "====", .window = 1024
        };
        for (int k = 0; k < 12; k++) {
            static const size_t about[] = { 3, 510, 1022, 2046, 5000 };
            char c = " x\ty"[draw(4)];
            for (size_t i = about[draw(5)] + draw(5); i > 0; i--)
                buf_add(&text, &c, 1);
            static const char *const ends[] = {
                "\n", "\r\n", "\n\n", "\r\n\r\n", "\n====\n", "\r\n====\r\n"
            };
            const char *end = ends[draw(6)];
            buf_add(&text, end, strlen(end));
        }
        split_plainly(text.data, text.len, o.split, o.separator, &want, &empty);
        write_input(paths[0], text.data, text.len);
        docs_look(paths[0], true, &file);
        for (int parts = 1; parts <= 9; parts++) {
            struct buf got = { 0 };
            read_parts(&file, 1, &o, parts, &got, &sum);
            assert_same(&want, &got, "long documents");
            assert_int_equal(sum.empty, empty);
            buf_free(&got);
        }
        buf_free(&text);
        buf_free(&want);
    }
}

static void test_jsonl(void **state)
{
    static const char text[] =
        "\xef\xbb\xbf{\"text\": \"one\\n\\u00e9\", \"id\": 1}\n"
        "\n"
        "{\"id\": 2, \"text\": \"\"}\r\n"
        "{\"text\": \"nul \\u0000 in it\"}\r\n"
        "not json\n"
        "{\"text\": 5}\n"
        "{\"txt\": \"x\"}\n"
        "[\"text\"]\n"
        "{\"text\": \"\xff\"}\n"
        "{\"text\": \"a line that is far longer than the limit of sixty-four bytes, alas\"}\n"
        "  {\"text\":\"\xc3\xa9\\ud83d\\ude00\"}  \n"
        "{\"text\": \"cut o";
    static const char want[] = "[6]one\n\xc3\xa9"
                               "[11]nul \0 in it"
                               "[6]\xc3\xa9\xf0\x9f\x98\x80";
    struct docs_file file;
    (void)state;
    static const size_t windows[] = { 0, 4, 16, 100 };
    for (int parts = 1; parts < 60; parts++) {
        struct buf got = { 0 };
        write_input(paths[0], text, sizeof text - 1);
        docs_look(paths[0], true, &file);
        struct docs_counts sum;
        struct docs_options o = { .format = DOCS_JSONL,
                                  .text_key = "text",
                                  .max_line = 64,
                                  .skip_bad = true,
                                  .window = windows[parts % 4] };
        read_parts(&file, 1, &o, parts, &got, &sum);
        assert_int_equal(got.len, sizeof want - 1);
        assert_memory_equal(got.data, want, sizeof want - 1);
        assert_int_equal(sum.empty, 2);
        assert_int_equal(sum.bad, 7);
        buf_free(&got);
    }
}

static void test_formats_by_name(void **state)
{
    struct docs_file files[2];
    struct docs_counts sum;
    struct buf got = { 0 };
    struct docs_options o = { .format = DOCS_AUTO, .split = DOCS_LINE, .text_key = "t", .max_line = 1000 };
    (void)state;
    char *json = xasprintf("%s.ndjson", paths[0]);
    write_file(json, "{\"t\":\"x\"}\n", 10);
    write_file(paths[1], "{\"t\":\"x\"}\n", 10);
    docs_look(json, true, &files[0]);
    docs_look(paths[1], true, &files[1]);
    read_parts(files, 2, &o, 3, &got, &sum);
    assert_string_equal(got.data, "[1]x[9]{\"t\":\"x\"}");
    buf_clear(&got);
    write_file(json, "{\"t\":\"\"}\n", 9); /* nothing of it may show in the text behind it */
    docs_look(json, true, &files[0]);
    read_parts(files, 2, &o, 1, &got, &sum);
    assert_string_equal(got.data, "[9]{\"t\":\"x\"}");
    assert_int_equal(sum.empty, 1);
    buf_free(&got);
    unlink(json);
    free(json);
}

static void test_bytes_tokenizer(void **state)
{
    (void)state;
    struct tokenizer *t = tokenizer_try_open("bytes", NULL);
    assert_non_null(t);
    const struct tokenizer_info *info = tokenizer_info(t);
    assert_string_equal(info->name, "bytes");
    assert_int_equal(info->vocab, 257);
    assert_int_equal(info->eod, 256);
    assert_true(info->hash == UINT64_C(0x4f4bf0aa566ba48e));
    struct token_stream *in = token_stream_new(t), *out = token_stream_new(t);
    struct token_ids ids = { 0 };
    struct buf text = { 0 };
    unsigned char all[10000];
    for (size_t i = 0; i < sizeof all; i++)
        all[i] = (unsigned char)(i * 7);
    for (size_t at = 0, n; at < sizeof all; at += n) {
        n = 1 + draw(900);
        n = n < sizeof all - at ? n : sizeof all - at;
        tokenizer_encode(in, all + at, n, at + n == sizeof all, &ids);
    }
    assert_int_equal(ids.n, sizeof all);
    for (size_t i = 0; i < sizeof all; i++)
        assert_int_equal(ids.id[i], all[i]);
    *token_ids_room(&ids, 1) = 256;
    ids.n++;
    assert_int_equal(tokenizer_try_decode(out, ids.id, 17, false, &text), 0);
    assert_int_equal(tokenizer_try_decode(out, ids.id + 17, ids.n - 17, true, &text), 0);
    assert_int_equal(text.len, sizeof all);
    assert_memory_equal(text.data, all, sizeof all);
    ids.id[5000] = 257;
    assert_int_equal(tokenizer_try_decode(out, ids.id, ids.n, true, &text), -1);
    assert_non_null(strstr(err_last(), "257"));
    assert_null(tokenizer_try_open("klingon", NULL));
    assert_non_null(strstr(err_last(), "klingon"));
    token_ids_free(&ids);
    buf_free(&text);
    token_stream_free(in);
    token_stream_free(out);
    tokenizer_free(t);
}

static void test_hash_in_pieces(void **state)
{
    char data[3000];
    (void)state;
    struct hash *h = hash_new();
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (char)draw(256);
    for (size_t n = 0; n <= sizeof data; n += 1 + draw(50)) {
        size_t half = n ? draw((uint32_t)n) : 0;
        hash_add(h, data, half);
        hash_add(h, data + half, n - half);
        assert_true(hash_end(h) == hash_bytes(data, n));
    }
    hash_free(h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_cut),         cmocka_unit_test(test_long_documents),
        cmocka_unit_test(test_jsonl),           cmocka_unit_test(test_formats_by_name),
        cmocka_unit_test(test_bytes_tokenizer), cmocka_unit_test(test_hash_in_pieces),
        cmocka_unit_test(test_packed_once_a_pass), cmocka_unit_test(test_long_line_read_once),
    };
    err_init("text");
    const char *tmp = getenv("TMPDIR");
    for (int i = 0; i < MOST_FILES; i++)
        paths[i] = xasprintf("%s/ssm-text.%ld.%d", tmp ? tmp : "/tmp", (long)getpid(), i);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (int i = 0; i < MOST_FILES; i++) {
        unlink(paths[i]);
        free(paths[i]);
    }
    return failed;
}
