/* prep.c - tests of common/prep: blend files, the figures of a set
 * SPDX-License-Identifier: MIT
 */
#include "io.h"

#include <math.h>

#include "common/io/set.h"
#include "common/io/shard.h"
#include "common/prep/blend.h"
#include "common/prep/stats.h"

static char *make_set(const char *name, int64_t vocab, const int64_t *lengths, int n)
{
    char *dir = at(name), *path = path_join(dir, "a.h5");
    const struct shard_info info = { .tokenizer = "t", .vocab = vocab, .eod = 0 };
    set_prepare(dir, true);
    struct shard_writer *w = shard_create(path, &info, 1, true);
    for (int d = 0; d < n; d++) {
        for (int64_t i = 1; i < lengths[d]; i++)
            shard_add(w, &(uint32_t){ (uint32_t)(1 + i % (vocab - 1)) }, 1);
        shard_end_doc(w, lengths[d]);
    }
    shard_commit(w, NULL);
    shards_write_index(dir, (const char *const[]){ "a.h5" }, 1, true);
    free(path);
    return dir;
}

static int ascending(const void *a, const void *b)
{
    return (*(const int64_t *)a > *(const int64_t *)b) - (*(const int64_t *)a < *(const int64_t *)b);
}

static void check_stats(int64_t *lengths, int n)
{
    char *dir = make_set("stats", 100, lengths, n);
    struct shards *s = shards_try_open(dir);
    struct stats st;
    int64_t bins[STATS_BINS] = { 0 }, tokens = 0;
    assert_non_null(s);
    stats_of(s, &st);
    qsort(lengths, (size_t)n, sizeof *lengths, ascending);
    for (int i = 0; i < n; i++) {
        bins[(int)floor(log2((double)lengths[i]))]++;
        tokens += lengths[i];
    }
    assert_int_equal(st.min, lengths[0]);
    assert_int_equal(st.median, lengths[(n + 1) / 2 - 1]);
    assert_int_equal(st.p90, lengths[(n * 90 + 99) / 100 - 1]);
    assert_int_equal(st.p99, lengths[(n * 99 + 99) / 100 - 1]);
    assert_int_equal(st.max, lengths[n - 1]);
    assert_memory_equal(st.bin, bins, sizeof bins);
    assert_int_equal(tokens, shards_info(s)->n_tokens);
    shards_close(s);
    free(dir);
}

static void test_stats(void **state)
{
    (void)state;
    int64_t one[] = { 1 }, few[] = { 7, 1, 64, 63, 8 }, longs[] = { 3, 1 << 20, (1 << 20) - 1, (1 << 20) + 1, 1 << 21 },
            many[1001];
    for (int i = 0; i < 1001; i++)
        many[i] = 1 + draw(1 + draw(300));
    check_stats(one, 1);
    check_stats(few, 5);
    check_stats(longs, 5);
    check_stats(many, 1001);
    check_stats(many, 100);
}

static void test_vocabulary(void **state)
{
    (void)state;
    const int64_t lengths[] = { 4, 3 }; /* 2 3 4 0 2 3 0 */
    char *dir = make_set("vocab", 10, lengths, 2);
    struct shards *s = shards_try_open(dir);
    struct stats st;
    assert_non_null(s);
    stats_of(s, &st);
    assert_int_equal(st.ids_seen, 4);
    assert_int_equal(st.top_id, 0);
    assert_int_equal(st.top_count, 2);
    double want = 3 * 2.0 / 7 * log2(7.0 / 2) + 1.0 / 7 * log2(7.0);
    assert_true(fabs(st.bits - want) < 1e-12);
    shards_close(s);
    free(dir);
}

static void test_blend_text(void **state)
{
    (void)state;
    static const char text[] = "# two sets\n\n  a 2.5\t# more of this\r\n/abs/b\n\"with # blank\" 1e-3\n../c#1 3";
    struct blend b = { 0 };
    assert_int_equal(blend_try_parse(&b, "dir/x.blend", text, sizeof text - 1), 0);
    assert_int_equal(b.n, 4);
    assert_string_equal(b.set[0].path, "dir/a");
    assert_true(b.set[0].weight == 2.5 && b.set[1].weight == 0 && b.set[2].weight == 1e-3 && b.set[3].weight == 3);
    assert_string_equal(b.set[1].path, "/abs/b");
    assert_string_equal(b.set[2].path, "dir/with # blank");
    assert_string_equal(b.set[3].path, "dir/../c#1");
    blend_free(&b);
    assert_int_equal(blend_try_parse(&b, "x", "alpha=0.7\nalpha\nb", 17), 0); /* a set of that name */
    assert_true(b.alpha == 0.7 && b.n == 2);
    assert_string_equal(b.set[0].path, "alpha");
    blend_free(&b);
    static const char *const bad[][2] = {
        { "a 0", "F:1: '0' is not a weight above 0" },
        { "\na x", "F:2: 'x' is not a weight above 0" },
        { "a -1", "'-1' is not a weight above 0" },
        { "a nan", "'nan' is not a weight above 0" },
        { "a 1 2", "'2' is too much" },
        { "a epochs=", "'' is not a number of epochs above 0" },
        { "a epochs=0", "'0' is not a number of epochs" },
        { "a \"1", "a quote without end" },
        { "\"\" 1", "a PATH without a name" },
        { "a epochs=2\nb 1", "1 of 2 lines have epochs=E" },
        { "a epochs=2\nb", "1 of 2 lines have epochs=E" },
        { "alpha = 0.5\na 1", "with alpha a line is a PATH alone" },
        { "alpha = 0.5\na epochs=1", "with alpha a line is a PATH alone" },
        { "alpha = 0", "'0' is not an alpha above 0" },
        { "alpha =", "alpha is one number" },
        { "alpha = 1 2", "alpha is one number" },
        { "alpha = 1\nalpha = 1\na", "F:2: alpha comes twice" },
        { "# nothing\n", "'F' names no sets" },
        { "", "'F' names no sets" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (blend_try_parse(&b, "F", bad[i][0], strlen(bad[i][0])) == 0 || !strstr(err_last(), bad[i][1]))
            fail_msg("'%s': %s", bad[i][0], err_last());
        blend_free(&b);
    }
    assert_int_equal(blend_try_parse(&b, "F", "a\0b", 3), -1);
    blend_free(&b);
    assert_int_equal(blend_try_read(&b, scratch), -1);
    assert_int_equal(blend_try_read(&b, "/nowhere/at/all"), -1);
}

static void test_blend_weights(void **state)
{
    (void)state;
    const int64_t lengths[] = { 100, 50 };
    free(make_set("small", 10, lengths + 1, 1));
    free(make_set("large", 10, lengths, 2));
    free(make_set("other", 11, lengths, 2));
    static const struct {
        const char *text;
        double a, b;
    } cases[] = { { "small\nlarge", 1, 1 },
                  { "small 3\nlarge", 3, 1 },
                  { "small epochs=4\nlarge epochs=0.5", 200, 75 },
                  { "alpha = 0.5\nsmall\nlarge", 7.0710678118654755, 12.24744871391589 } };
    char *file = at("blend");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct blend b = { 0 };
        write_file(file, cases[i].text, strlen(cases[i].text));
        assert_int_equal(blend_try_read(&b, file), 0);
        assert_int_equal(blend_try_open(&b), 0);
        assert_int_equal(b.set[1].info.n_tokens, 150);
        assert_true(fabs(b.set[0].weight - cases[i].a) < 1e-12 && fabs(b.set[1].weight - cases[i].b) < 1e-12);
        blend_free(&b);
    }
    struct blend b = { 0 };
    write_file(file, "small\nother", 11);
    assert_int_equal(blend_try_read(&b, file), 0);
    assert_int_equal(blend_try_open(&b), -1);
    assert_non_null(strstr(err_last(), "other' by 't'"));
    blend_free(&b);
    free(file);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_vocabulary),
        cmocka_unit_test(test_blend_text),
        cmocka_unit_test(test_blend_weights),
    };
    io_begin("prep", argc, argv);
    return io_end(cmocka_run_group_tests(tests, NULL, NULL));
}
