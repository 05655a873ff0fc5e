/* split.c - tests of common/text/split: words as other tokenizers cut them, however the text comes; split --perf times it
 * SPDX-License-Identifier: MIT
 *
 * tests/golden/split/ holds what tokenizers and tiktoken make of small texts (oracle/split.py, which also compares
 * every code point and as many random texts as one likes).
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/text/split.h"

static uint64_t draws;

static uint32_t draw(uint32_t n)
{
    draws++;
    return (uint32_t)(hash_bytes(&draws, sizeof draws) % n);
}

static struct split *from_text(const char *text)
{
    struct json *j = json_try_block("setting", text, strlen(text));
    assert_non_null(j);
    const char *known;
    struct split *s = json_try_str(j, "known", &known) == 1
                          ? split_try_known(known)
                          : split_try_new(json_at(j, "normalizer"), json_at(j, "pre_tokenizer"));
    json_free(j);
    return s;
}

/* Words as "[length]bytes". */
static void collect(struct split_stream *st, const void *text, size_t n, bool last, struct buf *out)
{
    struct split_words w;
    split_put(st, text, n, last);
    while (split_get(st, &w)) {
        assert_true(w.n > 0);
        for (size_t i = 0, at = 0; i < w.n; at = w.end[i++]) {
            assert_true(w.end[i] > at);
            buf_addf(out, "[%zu]", w.end[i] - at);
            buf_add(out, w.text + at, w.end[i] - at);
        }
    }
}

static void same(const char *name, const struct buf *got, const struct buf *want)
{
    if (got->len == want->len && (got->len == 0 || memcmp(got->data, want->data, got->len) == 0))
        return;
    print_message("# %s\n# got    %.*s\n# wanted %.*s\n", name, (int)got->len, got->data, (int)want->len,
                  want->data);
    fail();
}

/* ---- goldens ---- */

typedef void each_text(const char *name, struct split_stream *st, const unsigned char *text, size_t n,
                       const struct buf *want);

static size_t u16(const unsigned char **p)
{
    *p += 2;
    return (size_t)((*p)[-2] | (*p)[-1] << 8);
}

static void golden_file(const char *path, each_text *each)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    static unsigned char data[1 << 20];
    size_t size = fread(data, 1, sizeof data, f);
    fclose(f);
    assert_true(size > 0 && size < sizeof data);
    struct split *s = from_text((const char *)data);
    if (!s)
        print_message("# %s: %s\n", path, err_last());
    assert_non_null(s);
    struct split_stream *st = split_stream_new(s);
    struct buf want = { 0 };
    for (const unsigned char *p = data + strlen((const char *)data) + 1; p < data + size;) {
        size_t n = u16(&p);
        const unsigned char *text = p;
        p += n;
        buf_clear(&want);
        for (size_t k = u16(&p); k > 0; k--) {
            buf_addf(&want, "[%d]", *p);
            buf_add(&want, p + 1, *p);
            p += *p + 1;
        }
        each(path, st, text, n, &want);
    }
    buf_free(&want);
    split_stream_free(st);
    split_free(s);
}

static int golden_files(each_text *each)
{
    const char *top = getenv("SSM_TOP");
    char *dir = xasprintf("%s/tests/golden/split", top ? top : ".");
    DIR *d = opendir(dir);
    assert_non_null(d);
    int files = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (!strstr(e->d_name, ".bin"))
            continue;
        char *path = xasprintf("%s/%s", dir, e->d_name);
        golden_file(path, each);
        free(path);
        files++;
    }
    closedir(d);
    free(dir);
    return files;
}

static void whole(const char *name, struct split_stream *st, const unsigned char *text, size_t n,
                  const struct buf *want)
{
    struct buf got = { 0 };
    collect(st, text, n, true, &got);
    same(name, &got, want);
    buf_free(&got);
}

static void test_goldens(void **state)
{
    (void)state;
    assert_true(golden_files(whole) > 30);
}

/* Cut in two anywhere, the second part closed by an empty one; byte by byte. Parts are on the heap for ASan. */
static void in_parts(const char *name, struct split_stream *st, const unsigned char *text, size_t n,
                     const struct buf *want)
{
    struct buf got = { 0 };
    for (size_t at = 0; at <= n; at++) {
        char *a = xmalloc(at + 1), *b = xmalloc(n - at + 1);
        memcpy(a, text, at);
        memcpy(b, text + at, n - at);
        collect(st, a, at, false, &got);
        collect(st, b, n - at, at % 2, &got);
        if (at % 2 == 0)
            collect(st, b, 0, true, &got);
        same(name, &got, want);
        buf_clear(&got);
        free(a);
        free(b);
    }
    for (size_t i = 0; i < n; i++)
        collect(st, text + i, 1, i + 1 == n, &got);
    same(name, &got, want);
    buf_free(&got);
}

static void test_parts(void **state)
{
    (void)state;
    golden_files(in_parts);
}

/* ---- hostile ---- */

static const char *const settings[] = {
    "{\"known\": \"gpt2\"}",
    "{\"known\": \"cl100k\"}",
    "{\"known\": \"llama3\"}",
    "{\"known\": \"o200k\"}",
    "{\"normalizer\": {\"type\": \"NFC\"}, \"pre_tokenizer\": {\"type\": \"ByteLevel\"}}",
    "{\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": ["
    "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[^\\\\s\\\\p{L}]+|\\\\p{Lu}\"}, \"behavior\": "
    "\"MergedWithNext\"},"
    "{\"type\": \"Digits\"}, {\"type\": \"Punctuation\", \"behavior\": \"Contiguous\"}]}}",
    "{\"normalizer\": {\"type\": \"NFC\"}, \"pre_tokenizer\": null}",
};
enum { SETTINGS = sizeof settings / sizeof *settings };

static void random_text(unsigned char *p, size_t n)
{
    static const char *const bits[] = { "a",
                                        "B",
                                        "1",
                                        " ",
                                        "\n",
                                        "'",
                                        "s",
                                        "'ll",
                                        "\xc5\xbf",
                                        "\xcc\x81",
                                        "e",
                                        ".",
                                        "\xe4\xb8\x80",
                                        "\xf0\x9f\x98\x80",
                                        "\t",
                                        "/",
                                        "\xe0\xa5\x98",
                                        "\r" };
    bool any = draw(2);
    for (size_t i = 0; i < n;) {
        if (any || draw(8) == 0) {
            p[i++] = (unsigned char)draw(256);
            continue;
        }
        const char *b = bits[draw(sizeof bits / sizeof *bits)];
        for (; *b && i < n; b++)
            p[i++] = (unsigned char)*b;
    }
}

static void test_any_bytes(void **state)
{
    (void)state;
    for (int k = 0; k < SETTINGS; k++) {
        struct split *s = from_text(settings[k]);
        assert_non_null(s);
        struct split_stream *st = split_stream_new(s);
        for (int round = 0; round < 1500; round++) {
            size_t n = draw(90), at = draw((uint32_t)n + 1);
            unsigned char *text = xmalloc(n + 1), *a = xmalloc(at + 1);
            struct buf all = { 0 }, parts = { 0 };
            random_text(text, n);
            memcpy(a, text, at);
            unsigned char *exact = n ? realloc(text, n) : text; /* so that ASan sees a byte too far */
            assert_non_null(exact);
            collect(st, exact, n, true, &all);
            collect(st, a, at, false, &parts);
            collect(st, exact + at, n - at, true, &parts);
            same(settings[k], &parts, &all);
            buf_free(&all);
            buf_free(&parts);
            free(exact);
            free(a);
        }
        split_stream_free(st);
        split_free(s);
    }
}

/* Text in which 64 bytes are looked at once: given in parts of fewer bytes, it is cut one word at a time. */
static void test_blocks(void **state)
{
    (void)state;
    static const char *const bits[] = {
        "a", "Bc", "DEF", "gHi", "word",   "1",        "23",       "4567",         " ",        " ",
        " ", "  ", "\n",  "\n",  "\r\n",   "'",        "'s",       "'ll",          "'VE",      ".",
        "/", "!!", "\t",  "\v",  "\n  \n", "\xc3\xa9", "\xc2\x85", "\xe4\xb8\x80", "\xcc\x81", "    "
    };
    enum { BITS = sizeof bits / sizeof *bits };
    for (int k = 0; k < 5; k++) {
        struct split *s = from_text(settings[k]);
        struct split_stream *st = split_stream_new(s);
        for (int round = 0; round < 4000; round++) {
            struct buf text = { 0 }, all = { 0 }, parts = { 0 };
            size_t kinds = 1 + draw(BITS), shift = draw(BITS), ascii = draw(3);
            for (size_t n = 1 + draw(120); n > 0; n--) {
                const char *b = bits[(draw((uint32_t)kinds) + shift) % BITS];
                if (ascii == 0 || (*b & 0x80) == 0)
                    buf_add(&text, b, strlen(b));
            }
            collect(st, text.data, text.len, true, &all);
            for (size_t i = 0; i < text.len; i += 16)
                collect(st, text.data + i, text.len - i < 16 ? text.len - i : 16, i + 16 >= text.len, &parts);
            same(settings[k], &parts, &all);
            buf_free(&text);
            buf_free(&all);
            buf_free(&parts);
        }
        split_stream_free(st);
        split_free(s);
    }
}

/* A megabyte in small parts: what is looked at grows with the text, not with its square; and it is the same at once. */
static void test_long_words(void **state)
{
    (void)state;
    enum { N = 1 << 20, PART = 1000 };
    static const char *const units[] = { "a",
                                         "A",
                                         " ",
                                         "\n",
                                         "1",
                                         "'",
                                         "\xcc\x81",
                                         "A\xcc\x81",
                                         " \n",
                                         "\xe0\xa5\x98",
                                         "\xe4\xb8\x80",
                                         ".",
                                         "\xcc\xa3\xcc\x81",
                                         "\xc2\xa0" };
    unsigned char *text = xmalloc(N + 8);
    for (int k = 0; k < SETTINGS; k++) {
        struct split *s = from_text(settings[k]);
        struct split_stream *st = split_stream_new(s);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            size_t len = strlen(units[u]), n = N / len * len;
            for (size_t i = 0; i < n; i++)
                text[i] = (unsigned char)units[u][i % len];
            uint64_t sum[2];
            for (int way = 0; way < 2; way++) {
                struct buf out = { 0 };
                size_t before = split_work(st);
                for (size_t i = 0, part = way ? n : PART; i < n; i += part)
                    collect(st, text + i, n - i < part ? n - i : part, i + part >= n, &out);
                assert_true(split_work(st) - before < 8 * (size_t)N);
                sum[way] = hash_bytes(out.data, out.len);
                buf_free(&out);
            }
            assert_true(sum[0] == sum[1]);
        }
        split_stream_free(st);
        split_free(s);
    }
    free(text);
}

/* ---- what is refused, and names ---- */

static void test_refused(void **state)
{
    (void)state;
    static const char *const bad[][2] = {
        /* setting, a word of the message */
        { "{\"known\": \"p99k\"}", "p99k" },
        { "{\"normalizer\": {\"type\": \"NFKC\"}}", "NFKC" },
        { "{\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Lowercase\"}]}}",
          "Lowercase" },
        { "{\"pre_tokenizer\": {\"type\": \"Metaspace\"}}", "Metaspace" },
        { "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"colour\": 1}}", "colour" },
        { "{\"pre_tokenizer\": 3}", "object" },
        { "{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"\"}, \"behavior\": "
          "\"Isolated\"}}",
          "empty" },
        { "{\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"x\"}, \"behavior\": "
          "\"Odd\"}}",
          "Odd" },
        { "{\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"ByteLevel\"},"
          "{\"type\": \"Digits\"}]}}",
          "Digits behind ByteLevel" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_null(from_text(bad[i][0]));
        if (!strstr(err_last(), bad[i][1]))
            print_message("# %s\n", err_last());
        assert_non_null(strstr(err_last(), bad[i][1]));
    }
    static const char *const regex[] = {
        "a*",         "(?<=a)b", "\\\\bx",         "^a",          "a$",       "\\\\w+",        "[a&&b]",
        "\\\\p{Han}", "(?i:ss)", "a{1,3}+",        "[[:alpha:]]", "(a)\\\\1", "(?i)ab",        "a{,3}",
        "\\\\h",      "(a",      "(?i:\\\\p{Lu})", "a**",         "[]a]",     "\\\\x{110000}", "(?i:[a-z])",
        "[a-\\\\s]"
    };
    for (size_t i = 0; i < sizeof regex / sizeof *regex; i++) {
        char *text = xasprintf(
            "{\"pre_tokenizer\": {\"type\": \"Split\", \"behavior\": \"Isolated\", \"invert\": false, "
            "\"pattern\": {\"Regex\": \"%s\"}}}",
            regex[i]);
        struct split *s = from_text(text);
        if (s)
            print_message("# taken: %s\n", regex[i]);
        assert_null(s);
        assert_non_null(strstr(err_last(), "pre_tokenizer: the expression "));
        free(text);
    }
}

static void test_names(void **state)
{
    (void)state;
    struct split *s = from_text(settings[4]);
    assert_string_equal(split_name(s), "nfc (Unicode 9.0.0), blank in front, gpt2 (Unicode 16.0.0)");
    assert_true(split_on_bytes(s));
    split_free(s);
    s = from_text("{}");
    assert_string_equal(split_name(s), "whole");
    assert_false(split_on_bytes(s));
    split_free(s);
    assert_string_equal(split_unicode(), "16.0.0");
}

/* ---- speed: split --perf [FILE...] ---- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void time_text(const char *name, const char *text, size_t n)
{
    enum { PART = 1 << 16, ROUNDS = 7 };
    char *copy = xmalloc(n);
    double best = 1e9;
    for (int r = 0; r < ROUNDS; r++) {
        double t = now();
        memcpy(copy, text, n);
        __asm__ volatile("" : : "r"(copy) : "memory");
        t = now() - t;
        best = t < best ? t : best;
    }
    free(copy);
    printf("%-12s %-10s %8.0f MB/s\n", name, "memcpy", 1e-6 * (double)n / best);
    for (int k = 0; k < 6; k++) {
        struct split *s = from_text(settings[k]);
        struct split_stream *st = split_stream_new(s);
        size_t words = 0;
        best = 1e9;
        for (int r = 0; r < (k < 5 ? ROUNDS : 2); r++) {
            double t = now();
            words = 0;
            for (size_t i = 0; i < n; i += PART) {
                struct split_words w;
                split_put(st, text + i, n - i < PART ? n - i : PART, i + PART >= n);
                while (split_get(st, &w))
                    words += w.n;
            }
            t = now() - t;
            best = t < best ? t : best;
        }
        static const char *const names[] = { "gpt2", "cl100k", "llama3", "o200k", "nfc+gpt2", "regex" };
        printf("%-12s %-10s %8.0f MB/s  %.2f bytes a word\n", name, names[k], 1e-6 * (double)n / best,
               (double)n / (double)(words ? words : 1));
        split_stream_free(st);
        split_free(s);
    }
}

static int perf(int n, char **files)
{
    static const struct {
        const char *name, *text;
    } made[] = {
        { "english",
          "It was the best of times, it was the worst of times; nobody's guess would've been better than "
          "1859. "
          "The committee published its recommendations yesterday, and \"everyone\" (almost) agreed.\n" },
        { "code",
          "static int try_set(struct split *s, const struct json *j)\n{\n    for (size_t i = 0; i < 10; "
          "i++)\n"
          "        if (s->at[i] != NULL && j->kind == 3)\n            return err_set(\"%s\", j->name);\n\n" },
        { "many", "Привет, мир! Это просто текст. 今天天气很好，我们去公园。Größe und Übermut. हिन्दी में लिखा "
                  "हुआ। 한국어 문장입니다. "
                  "النص العربي هنا. Ελληνικά γράμματα.\n" },
    };
    for (size_t i = 0; i < 3 && n == 0; i++) {
        struct buf b = { 0 };
        while (b.len < 8u << 20) { /* words in another order each time, for the branch predictor */
            size_t len = strlen(made[i].text), at = draw((uint32_t)len);
            while (at > 0 && made[i].text[at] != ' ')
                at--;
            buf_add(&b, made[i].text + at, len - at);
        }
        time_text(made[i].name, b.data, b.len);
        buf_free(&b);
    }
    for (int i = 0; i < n; i++) {
        FILE *f = fopen(files[i], "rb");
        if (!f)
            die_errno("cannot open '%s'", files[i]);
        struct buf b = { 0 };
        char block[4096];
        for (size_t k; (k = fread(block, 1, sizeof block, f)) > 0;)
            buf_add(&b, block, k);
        fclose(f);
        const char *slash = strrchr(files[i], '/');
        time_text(slash ? slash + 1 : files[i], b.data, b.len);
        buf_free(&b);
    }
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),    cmocka_unit_test(test_parts),   cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_long_words), cmocka_unit_test(test_refused), cmocka_unit_test(test_names),
        cmocka_unit_test(test_blocks),
    };
    err_init("split");
    if (argc > 1 && strcmp(argv[1], "--perf") == 0)
        return perf(argc - 2, argv + 2);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
