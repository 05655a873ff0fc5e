/* inputs.c - tests of common/text: damaged streams, UTF-8 checked and mended, ids, what is refused
 * SPDX-License-Identifier: MIT
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
#include "common/text/ids.h"
#include "common/text/jsonl.h"
#include "common/text/stream.h"
#include "common/base/utf8.h"
#include "pack.h"

static uint64_t draws;
static FILE *file;

static uint32_t draw(uint32_t n)
{
    draws++;
    return (uint32_t)(hash_bytes(&draws, sizeof draws) % n);
}

/* ---- streams ---- */

/* All that `data` unpacks to, in reads of `step` bytes. */
static int unpack(const void *data, size_t n, enum stream_pack kind, size_t step, struct buf *out)
{
    int fd = fileno(file), rc = 0;
    size_t got = step;
    char block[4096];
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(pwrite(fd, data, n, 0), n);
    struct stream *s = stream_open("name.gz", fd, true, kind);
    buf_clear(out);
    while (rc == 0 && got == step) {
        rc = stream_try_read(s, block, step, &got);
        buf_add(out, block, got);
    }
    if (rc == 0)
        assert_int_equal(stream_done(s), n);
    stream_close(s);
    return rc;
}

/* Cut anywhere, or with one byte changed anywhere: refused, or the same text; never another one. */
static void test_damage(void **state)
{
    static const enum stream_pack kinds[] = { STREAM_GZIP, STREAM_ZSTD };
    struct buf text = { 0 }, packed = { 0 }, out = { 0 }, hurt = { 0 };
    (void)state;
    for (int i = 0; i < 300; i++)
        buf_addf(&text, "line %u of %d\n", draw(100), i);
    for (int k = 0; k < 2; k++) {
        buf_clear(&packed);
        pack(kinds[k], text.data, 1000, 6, &packed);
        size_t first = packed.len;
        pack(kinds[k], text.data + 1000, text.len - 1000, 6, &packed);
        assert_int_equal(unpack(packed.data, packed.len, kinds[k], 100, &out), 0);
        assert_int_equal(out.len, text.len);
        assert_memory_equal(out.data, text.data, text.len);
        for (size_t n = 0; n < packed.len; n++) {
            int rc = unpack(packed.data, n, kinds[k], 1 + draw(4000), &out);
            if (rc == 0 && n == first)
                continue; /* between the two */
            assert_int_equal(rc, -1);
            assert_non_null(strstr(err_last(), "'name.gz': damaged at byte "));
            assert_true(out.len <= text.len && memcmp(out.data, text.data, out.len) == 0);
        }
        int refused = 0;
        for (size_t at = 0; at < packed.len; at++) {
            buf_clear(&hurt);
            buf_add(&hurt, packed.data, packed.len);
            hurt.data[at] = (char)(hurt.data[at] ^ (1 << draw(8)));
            if (unpack(hurt.data, hurt.len, kinds[k], 1 + draw(4000), &out) < 0)
                refused++;
            else if (out.len != text.len || memcmp(out.data, text.data, out.len) != 0)
                fail_msg("kind %d, byte %zu: another text", k, at);
        }
        assert_true(refused > (int)packed.len - 40); /* the rest: time, name and system in gzip's headers */
        buf_add(&packed, "junk", 4);
        assert_int_equal(unpack(packed.data, packed.len, kinds[k], 4096, &out), -1);
        assert_non_null(strstr(err_last(), "something else follows"));
    }
    buf_free(&text);
    buf_free(&packed);
    buf_free(&out);
    buf_free(&hurt);
}

static void test_what_is_it(void **state)
{
    (void)state;
    assert_int_equal(stream_detect("\x1f\x8b\x08\0", 4), STREAM_GZIP);
    assert_int_equal(stream_detect("\x28\xb5\x2f\xfd", 4), STREAM_ZSTD);
    assert_int_equal(stream_detect("\x5f\x2a\x4d\x18", 4), STREAM_ZSTD);
    assert_int_equal(stream_detect("\x28\xb5\x2f", 3), STREAM_PLAIN);
    assert_int_equal(stream_detect("", 0), STREAM_PLAIN);
    assert_string_equal(stream_foreign("BZh51AY&", 8), "bzip2");
    assert_string_equal(stream_foreign("\xfd"
                                       "7zXZ\0\0\4",
                                       8),
                        "xz");
    assert_null(stream_foreign("PAR1 is", 7));
    assert_null(stream_foreign("", 0));
}

/* ---- UTF-8 ---- */

/* Mended in pieces of random sizes. */
static void mend(struct utf8 *u, const char *p, size_t n, struct buf *out)
{
    struct buf room = { 0 };
    size_t at = 0;
    for (bool last = false; !last;) {
        size_t k = draw(4) ? draw(4) : (uint32_t)n;
        k = k < n - at ? k : n - at;
        last = at + k == n && draw(2);
        size_t made = k;
        const char *q = utf8_replace(u, p + at, &made, last, &room);
        buf_add(out, q, made);
        at += k;
    }
    buf_free(&room);
}

/* As Python's bytes.decode('utf-8', 'replace') has it. */
static void test_replace(void **state)
{
    static const struct {
        const char *in;
        size_t n;
        const char *out;
    } cases[] = {
        { "", 0, "" },
        { "a\xc3(b", 4, "a\xef\xbf\xbd(b" },
        { "\xe2\x82", 2, "\xef\xbf\xbd" },
        { "\xf0\x90\x28\xbc", 4, "\xef\xbf\xbd(\xef\xbf\xbd" },
        { "\xed\xa0\x80", 3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { "\xf4\x90\x80\x80", 4, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { "\xc0\xaf", 2, "\xef\xbf\xbd\xef\xbf\xbd" },
        { "a\xf1\x80\x80\xe1\x80\xc2z\x80z\x80\xbfz", 13,
          "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbdz\xef\xbf\xbd\xef\xbf\xbdz" },
        { "\xef\xbb\xbfx\xff", 5, "\xef\xbb\xbfx\xef\xbf\xbd" },
        { "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9, "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80" },
    };
    struct buf out = { 0 };
    struct utf8 u = { 0 };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int round = 0; round < 50; round++) {
            buf_clear(&out);
            mend(&u, cases[i].in, cases[i].n, &out);
            buf_add(&out, "", 0);
            assert_string_equal(out.data, cases[i].out);
        }
    buf_free(&out);
}

/* All strings of four of the bytes that matter; the FNV-1a hash of what Python makes of them:
 *   for t in itertools.product(vals, repeat=4): h.update(bytes(t).decode('utf-8', 'replace').encode() + b'\xfe') */
static void test_replace_exhaustive(void **state)
{
    static const unsigned char vals[] = { 0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf,
                                          0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed, 0xee,
                                          0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff };
    enum { N = sizeof vals };
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    struct utf8 u = { 0 };
    struct buf out = { 0 };
    (void)state;
    for (int i = 0; i < N * N * N * N; i++) {
        char in[4] = { (char)vals[i / (N * N * N)], (char)vals[i / (N * N) % N], (char)vals[i / N % N],
                       (char)vals[i % N] };
        int64_t before = u.replaced;
        buf_clear(&out);
        mend(&u, in, 4, &out);
        buf_add(&out, "\xfe", 1);
        for (size_t k = 0; k < out.len; k++)
            h = (h ^ (unsigned char)out.data[k]) * UINT64_C(0x100000001b3);
        /* the checker agrees, whole and in pieces */
        struct utf8 c = { 0 };
        size_t cut = draw(5);
        int bad = utf8_try_check(&c, in, cut, false);
        if (bad == 0)
            bad = utf8_try_check(&c, in + cut, 4 - cut, true);
        assert_int_equal(bad<0, u.replaced> before);
        if (bad < 0)
            assert_int_equal(c.at, utf8_valid(in, 4));
        assert_int_equal(utf8_valid(in, 4) == 4, bad == 0);
    }
    assert_true(h == UINT64_C(0x5cc60cc82826d7e5));
    buf_free(&out);
}

static void test_ascii(void **state)
{
    unsigned char text[300];
    (void)state;
    for (size_t n = 0; n <= 200; n++)
        for (size_t bad = 0; bad <= n; bad++) {
            size_t skew = draw(64);
            memset(text, 'x', sizeof text);
            text[skew + bad] = 0x80;
            assert_int_equal(utf8_ascii(text + skew, n), bad);
            assert_int_equal(utf8_valid(text + skew, n), bad);
        }
}

static void test_check_tells_where(void **state)
{
    struct utf8 u = { 0 };
    (void)state;
    assert_int_equal(utf8_try_check(&u, "ab\xe2\x82", 4, false), 0);
    assert_int_equal(utf8_try_check(&u, "\xac\xe2", 2, false), 0);
    assert_int_equal(utf8_try_check(&u, "x", 1, true), -1);
    assert_int_equal(u.at, 5);
    assert_string_equal(err_last(), "invalid UTF-8: byte 0xe2 at offset 5");
    utf8_begin(&u);
    assert_int_equal(utf8_try_check(&u, "\xc3", 1, false), 0);
    assert_int_equal(utf8_try_check(&u, "", 0, true), -1);
    assert_int_equal(u.at, 0);
}

/* ---- JSONL ---- */

static void test_mend_jsonl(void **state)
{
    static const struct {
        const char *in, *out;
        int64_t replaced;
    } cases[] = {
        { "{\"t\":\"x\"}", "{\"t\":\"x\"}", 0 },
        { "\"\\ud83d\\ude00\"", "\"\\ud83d\\ude00\"", 0 },
        { "\"\\ud83d \\ude00\"", "\"\\ufffd \\ufffd\"", 2 },
        { "\"\\uDEAD\\uD83D\\uDe00\\ud800\"", "\"\\ufffd\\uD83D\\uDe00\\ufffd\"", 2 },
        { "\"\\\\ud800\"", "\"\\\\ud800\"", 0 },
        { "\"\\\\\\ud800\"", "\"\\\\\\ufffd\"", 1 },
        { "\"\xff\\ud800", "\"\xef\xbf\xbd\\ufffd", 2 },
        { "\\ud8", "\\ud8", 0 },
        { "\\", "\\", 0 },
    };
    struct buf room = { 0 };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t replaced;
        size_t n = strlen(cases[i].in);
        char *in = xmalloc(n + 1); /* so that sanitizers see one step too far */
        memcpy(in, cases[i].in, n);
        const char *p = jsonl_mend(in, &n, &room, &replaced);
        assert_int_equal(n, strlen(cases[i].out));
        assert_memory_equal(p, cases[i].out, n);
        assert_int_equal(replaced, cases[i].replaced);
        free(in);
    }
    buf_free(&room);
}

static int read_line(struct jsonl *j, const char *line, const char *id_key)
{
    return jsonl_try_text(j, line, strlen(line), "text", id_key);
}

static void test_ids_of_lines(void **state)
{
    struct jsonl j = { 0 };
    (void)state;
    assert_int_equal(read_line(&j, "{\"text\":\"x\",\"id\":\"a b\"}", "id"), 0);
    assert_int_equal(j.n_id, 3);
    assert_memory_equal(j.id, "a b", 3);
    assert_int_equal(read_line(&j, "{\"text\":\"x\",\"id\":-7}", "id"), 0);
    assert_int_equal(j.n_id, 2);
    assert_memory_equal(j.id, "-7", 2);
    assert_int_equal(read_line(&j, "{\"id\":\"q\",\"text\":5}", "id"),
                     -1); /* the id is known none the less */
    assert_memory_equal(j.id, "q", 1);
    assert_null(j.text);
    assert_int_equal(read_line(&j, "{\"text\":\"x\"}", "id"), -1);
    assert_string_equal(err_last(), "there is no key 'id'");
    assert_int_equal(read_line(&j, "{\"text\":\"x\",\"id\":[1]}", "id"), -1);
    assert_non_null(strstr(err_last(), "neither a string nor an integer"));
    assert_int_equal(read_line(&j, "{\"text\":\"x\",\"id\":1.5}", "id"), -1);
    assert_int_equal(read_line(&j, "{\"text\":\"x\"}", NULL), 0);
    assert_null(j.id);
    assert_int_equal(read_line(&j, "{\"text\":\"ab\xff\"}", NULL), -1);
    assert_string_equal(err_last(), "invalid UTF-8: byte 0xff at offset 11");
    jsonl_clear(&j);
}

/* A line of empty arrays would take a hundred times its size. */
static void test_many_values(void **state)
{
    enum { N = 9000000 };
    struct jsonl j = { 0 };
    char *line = xmalloc(N);
    (void)state;
    memset(line, ',', N);
    memcpy(line, "{\"text\":\"\\\"", 11);
    line[N - 2] = '"';
    line[N - 1] = '}';
    assert_int_equal(jsonl_try_text(&j, line, N, "text", NULL), 0); /* all commas are in the string */
    assert_int_equal(j.n, N - 12);
    memset(line, '[', N);
    assert_int_equal(jsonl_try_text(&j, line, N, "text", NULL), -1);
    assert_non_null(strstr(err_last(), "values on the line"));
    jsonl_clear(&j);
    free(line);
}

static void test_id_lists(void **state)
{
    enum { N = 5000 };
    char id[32];
    (void)state;
    char *path = xasprintf("/proc/self/fd/%d", fileno(file));
    assert_int_equal(ftruncate(fileno(file), 0), 0);
    rewind(file);
    for (int i = 0; i < N; i++)
        fprintf(file, "id-%d%s", i * 2, i % 3 ? "\n" : "\r\n\n");
    fprintf(file, "id-0\nlast");
    assert_int_equal(fflush(file), 0);
    struct ids *s = ids_read(path);
    assert_int_equal(ids_count(s), N + 1);
    for (int i = 0; i < 2 * N; i++) {
        int n = snprintf(id, sizeof id, "id-%d", i);
        assert_int_equal(ids_has(s, id, (size_t)n), i % 2 == 0);
    }
    assert_true(ids_has(s, "last", 4));
    assert_false(ids_has(s, "las", 3) || ids_has(s, "", 0));
    ids_free(s);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_damage),      cmocka_unit_test(test_what_is_it),
        cmocka_unit_test(test_replace),     cmocka_unit_test(test_replace_exhaustive),
        cmocka_unit_test(test_ascii),       cmocka_unit_test(test_check_tells_where),
        cmocka_unit_test(test_mend_jsonl),  cmocka_unit_test(test_ids_of_lines),
        cmocka_unit_test(test_many_values), cmocka_unit_test(test_id_lists),
    };
    err_init("inputs");
    file = tmpfile();
    if (!file)
        die_errno("tmpfile");
    cmocka_set_message_output(CM_OUTPUT_TAP);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fclose(file);
    return failed;
}
