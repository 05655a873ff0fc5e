/* sentencepiece.c - SentencePiece models: ids and texts as its Python package gives them
 * SPDX-License-Identifier: MIT
 *
 * tests/golden/sentencepiece comes from tests/oracle/sentencepiece_ids.py.
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
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/text/tokenizer.h"

static const char *const cases[] = { "bpe-bytes", "unigram", "unigram-bytes", "bpe-suffix" };
static char *scratch;

static char *golden(const char *name, const char *ending)
{
    const char *dir = getenv("SPM_GOLDEN"), *top = getenv("SSM_TOP");
    return dir ? xasprintf("%s/%s%s", dir, name, ending)
               : xasprintf("%s/tests/golden/sentencepiece/%s%s", top ? top : ".", name, ending);
}

static struct tokenizer *open_or_skip(const char *path)
{
    if (strstr(path, "golden") && access(path, R_OK) < 0) /* as in a bundle */
        skip();
    struct tokenizer *t = tokenizer_try_open(path, NULL);
    if (!t && strstr(err_last(), "SENTENCEPIECE=1")) {
        print_message("skipped: built without SentencePiece\n");
        skip();
    }
    return t;
}

static void unhex(const char *s, struct buf *b)
{
    unsigned v;
    buf_clear(b);
    for (; *s; s += 2) {
        assert_int_equal(sscanf(s, "%2x", &v), 1);
        buf_add(b, (char[1]){ (char)v }, 1);
    }
    buf_add(b, "", 0);
}

/* One text: encoded in pieces of `cut` bytes and decoded in blocks of `cut` ids. */
static void check_text(const char *name, int line, const struct json *j, size_t cut, struct token_stream *in,
                       struct token_stream *out)
{
    const char *hex;
    int64_t *want;
    size_t n;
    struct buf text = { 0 }, back = { 0 };
    struct token_ids ids = { 0 };
    assert_int_equal(json_try_str(j, "hex", &hex), 1);
    assert_int_equal(json_try_ints(j, "ids", 0, UINT32_MAX, &want, &n), 1);
    unhex(hex, &text);
    for (size_t at = 0; at < text.len; at += cut)
        tokenizer_encode(in, text.data + at, text.len - at < cut ? text.len - at : cut, false, &ids);
    tokenizer_encode(in, "", 0, true, &ids);
    if (ids.n != n)
        fail_msg("%s:%d: %zu ids, not %zu", name, line, ids.n, n);
    for (size_t i = 0; i < n; i++)
        if (ids.id[i] != want[i])
            fail_msg("%s:%d: id %zu is %lu, not %lld", name, line, i, (unsigned long)ids.id[i],
                     (long long)want[i]);
    if (json_try_str(j, "out", &hex) == 1) {
        unhex(hex, &text);
        for (size_t at = 0; at < n; at += cut)
            assert_int_equal(
                tokenizer_try_decode(out, ids.id + at, n - at < cut ? n - at : cut, false, &back), 0);
        assert_int_equal(tokenizer_try_decode(out, NULL, 0, true, &back), 0);
        if (back.len != text.len || (text.len && memcmp(back.data, text.data, text.len) != 0))
            fail_msg("%s:%d: decodes to '%s', not '%s'", name, line, back.len ? back.data : "", text.data);
    }
    free(want);
    buf_free(&text);
    buf_free(&back);
    token_ids_free(&ids);
}

static void check_case(const char *name)
{
    static char text[1 << 16];
    int lines = 0;
    char *model = golden(name, ".model"), *path = golden(name, ".jsonl");
    struct tokenizer *t = open_or_skip(model);
    if (!t)
        fail_msg("%s", err_last());
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_string_equal(tokenizer_info(t)->name, "sentencepiece");
    assert_int_equal(tokenizer_info(t)->eod, 2);
    struct token_stream *in = token_stream_new(t), *out = token_stream_new(t);
    while (fgets(text, sizeof text, f)) {
        struct json *j = json_try_line(text, strlen(text));
        assert_non_null(j);
        lines++;
        check_text(name, lines, j, (size_t)-1 >> 1, in, out);
        check_text(name, lines, j, 1, in, out);
        check_text(name, lines, j, 7, in, out);
        json_free(j);
    }
    assert_true(lines > 30);
    token_stream_free(in);
    token_stream_free(out);
    tokenizer_free(t);
    fclose(f);
    free(model);
    free(path);
}

static void test_same_as_python(void **state)
{
    (void)state;
    if (getenv("SPM_CASE"))
        check_case(getenv("SPM_CASE"));
    else
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            check_case(cases[i]);
}

/* Bytes that are not UTF-8 are lost when they are encoded, not when they are decoded. */
static void test_bytes_are_exact(void **state)
{
    (void)state;
    char *model = golden("bpe-bytes", ".model");
    struct tokenizer *t = open_or_skip(model);
    struct buf back = { 0 };
    assert_non_null(t);
    struct token_stream *out = token_stream_new(t);
    for (uint32_t id = 3; id < 259; id++) /* <0x00> follows <unk>, <s>, </s> */
        assert_int_equal(tokenizer_try_decode(out, &id, 1, id == 258, &back), 0);
    assert_int_equal(back.len, 256);
    for (int i = 0; i < 256; i++)
        assert_int_equal((unsigned char)back.data[i], i);
    uint32_t beyond = (uint32_t)tokenizer_info(t)->vocab;
    assert_int_equal(tokenizer_try_decode(out, &beyond, 1, true, &back), -1);
    assert_non_null(strstr(err_last(), "not in the vocabulary"));
    buf_free(&back);
    token_stream_free(out);
    tokenizer_free(t);
    free(model);
}

static void refused(const void *data, size_t n, const char *reason)
{
    FILE *f = fopen(scratch, "wb");
    assert_non_null(f);
    assert_int_equal(n ? fwrite(data, 1, n, f) : 0, n);
    assert_int_equal(fclose(f), 0);
    assert_null(open_or_skip(scratch));
    if (!strstr(err_last(), reason))
        fail_msg("'%s' does not say '%s'", err_last(), reason);
}

static void test_bad_files(void **state)
{
    (void)state;
    char *model = golden("unigram", ".model");
    static char whole[1 << 16];
    refused("", 0, "is empty");
    refused("{\"model\": {}}\n", 14, "not a SentencePiece model");
    FILE *f = fopen(model, "rb");
    assert_non_null(f);
    size_t n = fread(whole, 1, sizeof whole, f);
    fclose(f);
    for (size_t cut = 1; cut < n; cut += 1 + n / 50) /* a file that was cut off: one line, no crash */
        refused(whole, cut, "SentencePiece");
    unlink(scratch);
    assert_null(open_or_skip("/nowhere/x.model"));
    assert_non_null(strstr(err_last(), "cannot open '/nowhere/x.model'"));
    free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_same_as_python),
                                        cmocka_unit_test(test_bytes_are_exact),
                                        cmocka_unit_test(test_bad_files) };
    err_init("sentencepiece");
    const char *tmp = getenv("TMPDIR");
    scratch = xasprintf("%s/ssm-spm.%ld.model", tmp ? tmp : "/tmp", (long)getpid());
    cmocka_set_message_output(CM_OUTPUT_TAP);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(scratch);
    free(scratch);
    return failed;
}
