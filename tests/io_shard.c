/* io_shard.c - tests of common/io/shard: what is written is read back, what is damaged is refused
 * SPDX-License-Identifier: MIT
 */
#include "io.h"

#include <pthread.h>

#include "common/io/set.h"
#include "common/io/shard.h"

/* The set's tokens and document ends, as they should be. */
struct truth {
    uint32_t *tokens;
    int64_t *ends;
    size_t n, cap, n_ends, cap_ends;
};

static void free_truth(struct truth *t)
{
    free(t->tokens);
    free(t->ends);
    *t = (struct truth){ 0 };
}

static void make_shard(const char *dir, const char *name, const struct shard_info *info, int64_t docs,
                       int64_t longest, struct truth *t)
{
    char *path = path_join(dir, name);
    struct shard_writer *w = shard_create(path, info, 1, true);
    struct shard_info got;
    int64_t tokens = 0;
    for (int64_t d = 0; d < docs; d++) {
        int64_t n = draw(longest + 1);
        uint32_t *doc = xcalloc((size_t)n, sizeof *doc);
        for (int64_t i = 0; i < n; i++)
            doc[i] = (uint32_t)draw(info->vocab);
        int64_t half = draw(n + 1);
        shard_add(w, doc, half);
        shard_add(w, doc + half, n - half);
        shard_end_doc(w, n * 3);
        tokens += n + 1;
        for (int64_t i = 0; i <= n; i++) {
            uint32_t *to = grow(&t->tokens, &t->n, &t->cap, sizeof *t->tokens);
            *to = i < n ? doc[i] : (uint32_t)info->eod;
        }
        *(int64_t *)grow(&t->ends, &t->n_ends, &t->cap_ends, sizeof *t->ends) = (int64_t)t->n;
        free(doc);
    }
    shard_commit(w, &got);
    assert_int_equal(got.n_tokens, tokens);
    assert_int_equal(got.n_docs, docs);
    free(path);
}

static const char *const three[] = { "a.h5", "empty.h5", "b.h5" };

/* Three shards, the middle one empty. */
static char *make_shards(const char *name, int64_t vocab, int64_t docs, int64_t longest, struct truth *t)
{
    char *dir = at(name);
    struct shard_info info = { .tokenizer = "gpt2",
                               .tokenizer_hash = 0xfedcba9876543210,
                               .vocab = vocab,
                               .eod = vocab - 1,
                               .source = "these files" };
    set_prepare(dir, true);
    make_shard(dir, three[0], &info, docs, longest, t);
    make_shard(dir, three[1], &info, 0, 0, t);
    make_shard(dir, three[2], &info, docs, longest, t);
    shards_write_index(dir, three, 3, true);
    return dir;
}

/* Reads at random; true when all that was read is right, false at the first error. Wrong data fail the test. */
static bool read_shards(struct shards *s, const struct truth *t, int rounds, bool check_ends)
{
    int64_t n = (int64_t)t->n, *ends = xcalloc(t->n_ends, sizeof *ends);
    uint32_t *got = xcalloc(t->n, sizeof *got);
    bool ok = shards_info(s)->n_tokens == n;
    for (int i = 0; ok && i < rounds; i++) {
        int64_t from = i ? draw(n + 1) : 0, len = i ? draw(n - from + 1) : n;
        ok = shards_try_read(s, from, len, got) == 0;
        if (ok)
            assert_memory_equal(got, t->tokens + from, (size_t)len * sizeof *got);
        if (!ok || i % 2)
            continue;
        size_t lo = 0, hi;
        while (lo < t->n_ends && t->ends[lo] <= from)
            lo++;
        for (hi = lo; hi < t->n_ends && t->ends[hi] <= from + len;)
            hi++;
        int64_t cap = i % 4 ? draw((int64_t)t->n_ends + 1) : (int64_t)t->n_ends;
        int64_t k = shards_try_doc_ends(s, from, len, ends, cap);
        if (!check_ends)
            continue;
        assert_int_equal(k, hi - lo);
        k = k < cap ? k : cap;
        assert_memory_equal(ends, t->ends + lo, (size_t)k * sizeof *ends);
    }
    free(ends);
    free(got);
    return ok;
}

static void check_shards(int64_t vocab, int64_t docs, int64_t longest, int rounds)
{
    struct truth t = { 0 };
    uint32_t one;
    int64_t end;
    char *dir = make_shards("shards", vocab, docs, longest, &t);
    struct shards *s = shards_try_open(dir);
    assert_non_null(s);
    assert_int_equal(shards_count(s), 3);
    assert_int_equal(shards_info(s)->vocab, vocab);
    assert_int_equal(shards_info(s)->n_docs, (int64_t)t.n_ends);
    assert_int_equal(shards_info(s)->n_bytes, (int64_t)(t.n - t.n_ends) * 3);
    assert_true(shards_info(s)->tokenizer_hash == 0xfedcba9876543210);
    assert_true(read_shards(s, &t, rounds, true));
    for (size_t i = 0; i < t.n_ends; i += 1 + t.n_ends / 50)
        assert_int_equal(shards_try_doc_end(s, (int64_t)i), t.ends[i]);
    assert_int_equal(shards_try_doc_end(s, (int64_t)t.n_ends), -1);
    assert_int_equal(shards_try_read(s, (int64_t)t.n, 1, &one), -1);
    assert_int_equal(shards_try_read(s, -1, 1, &one), -1);
    assert_int_equal(shards_try_doc_ends(s, 0, (int64_t)t.n + 1, &end, 1), -1);
    for (int i = 0; i < 3; i++)
        assert_int_equal(shards_try_verify(s, i), 0);
    shards_close(s);
    free_truth(&t);
    free(dir);
}

static void test_shards_u16(void **state)
{
    (void)state;
    check_shards(50257, 700, 1500, 60); /* about two chunks a shard */
    check_shards(65536, 3, 4, 60);
}

static void test_shards_u32(void **state)
{
    (void)state;
    check_shards(65537, 400, 1500, 40);
    check_shards(250000, 1, 600000, 20);
}

static void test_empty_set(void **state)
{
    (void)state;
    struct truth t = { 0 };
    char *dir = make_shards("empty", 100, 0, 0, &t);
    struct shards *s = shards_try_open(dir);
    int64_t end;
    assert_non_null(s);
    assert_int_equal(shards_info(s)->n_tokens, 0);
    assert_int_equal(shards_try_read(s, 0, 0, NULL), 0);
    assert_int_equal(shards_try_doc_ends(s, 0, 0, &end, 1), 0);
    assert_int_equal(shards_try_doc_end(s, 0), -1);
    for (int i = 0; i < 3; i++)
        assert_int_equal(shards_try_verify(s, i), 0);
    shards_close(s);
    free(dir);
}

static uint64_t hash_of(const char *dir)
{
    struct shards *s = shards_try_open(dir);
    assert_non_null(s);
    uint64_t h = shards_hash(s);
    shards_close(s);
    return h;
}

/* The same documents, made again, have the same hash; other ones another. */
static void test_shard_hash(void **state)
{
    (void)state;
    struct truth t = { 0 };
    uint64_t before = draws, h[3];
    for (int i = 0; i < 3; i++) {
        draws = i < 2 ? before : before + 1;
        char *dir = make_shards("hashed", 1000, 20, 50, &t);
        h[i] = hash_of(dir);
        free(dir);
    }
    assert_true(h[0] == h[1]);
    assert_true(h[0] != h[2]);
    free_truth(&t);
}

static void try_mixed_index(void *dir) { shards_write_index(dir, three, 3, true); }
static void try_index_twice(void *dir)
{
    shards_write_index(dir, (const char *const[]){ "a.h5", "a.h5" }, 2, true);
}
static void try_index_missing(void *dir)
{
    shards_write_index(dir, (const char *const[]){ "nil.h5" }, 1, true);
}

static void test_shards_that_do_not_fit(void **state)
{
    (void)state;
    struct truth t = { 0 };
    char *dir = make_shards("mixed", 1000, 5, 50, &t);
    struct shard_info info = { .tokenizer = "gpt2",
                               .tokenizer_hash = 0xfedcba9876543210,
                               .vocab = 1000,
                               .eod = 999,
                               .source = "these files" };
    struct shard_info old;
    char *path = path_join(dir, "b.h5");
    assert_int_equal(run_child(try_mixed_index, dir), 0);
    assert_int_equal(shard_try_info(path, &old), 0);
    assert_int_equal(old.n_docs, 5);
    assert_string_equal(old.source, "these files");
    assert_string_equal(old.tokenizer, "gpt2");
    free(path);
    path = set_index_path(dir); /* another kind */
    assert_int_equal(shard_try_info(path, &old), -1);
    free(path);
    snprintf(info.source, sizeof info.source, "other files");
    make_shard(dir, "b.h5", &info, 5, 50, &t);
    assert_int_equal(run_child(try_mixed_index, dir), 1);
    snprintf(info.source, sizeof info.source, "these files");
    info.tokenizer_hash++;
    make_shard(dir, "b.h5", &info, 5, 50, &t);
    assert_int_equal(run_child(try_mixed_index, dir), 1);
    assert_int_equal(run_child(try_index_twice, dir), 1);
    assert_int_equal(run_child(try_index_missing, dir), 1);
    assert_null(shards_try_open(dir)); /* b.h5 is not what the index says */
    free_truth(&t);
    free(dir);
}

/* Every damage to a shard is an error or changes nothing that is read; verification sees all of it. */
static void test_damaged_shards(void **state)
{
    (void)state;
    struct truth t = { 0 };
    char *dir = make_shards("damaged", 60000, 30, 80, &t),
         *path[2] = { path_join(dir, "a.h5"), set_index_path(dir) };
    for (int f = 0; f < 2; f++) {
        struct buf whole = { 0 };
        int refused = 0;
        read_file(path[f], &whole);
        for (int i = 0; damage(path[f], &whole, i, 24, 500); i++) {
            struct shards *s = shards_try_open(dir);
            bool ok = s != NULL;
            if (ok) {
                ok = read_shards(s, &t, 3, f == 1);
                bool verified = shards_try_verify(s, 0) == 0;
                assert_true(f == 0 ? !verified : ok && verified); /* an index that opens is as it was */
            }
            refused += !ok;
            if (i < 24)
                assert_null(s);
            shards_close(s);
        }
        assert_true(refused > 24);
        write_file(path[f], whole.data, whole.len);
        buf_free(&whole);
        free(path[f]);
    }
    struct shards *s = shards_try_open(dir);
    assert_non_null(s);
    assert_int_equal(shards_try_verify(s, 0), 0);
    shards_close(s);
    free_truth(&t);
    free(dir);
}

/* The same tokens and documents under another source, and the very chunks. */
static void test_copied_shards(void **state)
{
    (void)state;
    static const int64_t vocabs[] = { 50257, 70000 };
    for (int v = 0; v < 2; v++) {
        struct truth t = { 0 };
        char *dir = make_shards("origin", vocabs[v], 700, 1500, &t), *to = at("copies");
        uint64_t before = hash_of(dir);
        set_prepare(to, true);
        for (int i = 0; i < 3; i++) {
            struct shard_info info;
            char *a = path_join(dir, three[i]), *b = path_join(to, three[i]);
            shard_copy(a, b, "another source", false, &info);
            assert_string_equal(info.source, "another source");
            free(a);
            free(b);
        }
        shards_write_index(to, three, 3, false);
        struct shards *s = shards_try_open(to);
        assert_non_null(s);
        assert_true(shards_hash(s) == before);
        assert_true(read_shards(s, &t, 20, true));
        for (int i = 0; i < 3; i++)
            assert_int_equal(shards_try_verify(s, i), 0);
        shards_close(s);
        out_remove_tree(to);
        free_truth(&t);
        free(dir);
        free(to);
    }
}

/* More members than may be open at once. */
static void test_many_shards(void **state)
{
    (void)state;
    enum { N = 80 };
    struct truth t = { 0 };
    struct shard_info info = { .tokenizer = "bytes", .vocab = 257, .eod = 256 };
    char *dir = at("many"), *names[N];
    set_prepare(dir, true);
    for (int i = 0; i < N; i++) {
        names[i] = xasprintf("part-%d.h5", i);
        make_shard(dir, names[i], &info, draw(3), 20, &t);
    }
    shards_write_index(dir, (const char *const *)names, N, false);
    struct shards *s = shards_try_open(dir);
    assert_non_null(s);
    assert_true(read_shards(s, &t, 100, true));
    shards_close(s);
    for (int i = 0; i < N; i++)
        free(names[i]);
    free_truth(&t);
    free(dir);
}

struct reader {
    const char *dir;
    const struct truth *t;
    bool ok;
};

/* Asserts belong to the main thread. */
static void *read_alone(void *arg)
{
    struct reader *r = arg;
    struct shards *s = shards_try_open(r->dir);
    uint32_t *got = xcalloc(r->t->n, sizeof *got);
    r->ok = s != NULL;
    for (int64_t i = 0; r->ok && i < 40; i++) {
        int64_t from = (int64_t)r->t->n / 41 * i, n = (int64_t)r->t->n / 41 + 1;
        r->ok = shards_try_read(s, from, n, got) == 0 &&
                memcmp(got, r->t->tokens + from, (size_t)n * sizeof *got) == 0;
        r->ok = r->ok && shards_try_read(s, -1, 1, got) == -1 && strstr(err_last(), "has no 1 tokens at -1");
    }
    free(got);
    shards_close(s);
    return NULL;
}

/* A set for each thread. */
static void test_threads(void **state)
{
    (void)state;
    enum { N = 4 };
    struct truth t = { 0 };
    char *dir = make_shards("threads", 50257, 700, 1500, &t);
    struct reader r[N];
    pthread_t id[N];
    for (int i = 0; i < N; i++) {
        r[i] = (struct reader){ dir, &t, false };
        assert_int_equal(pthread_create(&id[i], NULL, read_alone, &r[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        assert_int_equal(pthread_join(id[i], NULL), 0);
        assert_true(r[i].ok);
    }
    free_truth(&t);
    free(dir);
}

/* h5dump reads our shards through the plugin, and so what h5repack writes through it. */
static void test_plugin(void **state)
{
    (void)state;
    const char *plugin = getenv("SSM_PLUGIN");
    if (!plugin || system("h5dump -V >/dev/null 2>&1") != 0) {
        fprintf(stderr, "skipped: io_shard: the filter plugin: no SSM_PLUGIN or no h5dump\n");
        skip();
    }
    struct truth t = { 0 };
    char *dir = make_shards("plugged", 50000, 300, 1500, &t);
    char *cmd = xasprintf(
        "cd '%s' && export HDF5_PLUGIN_PATH='%s' && h5dump -d /tokens -b LE -o a.bin a.h5 >/dev/null && "
        "h5repack -f /tokens:UD=32015,0,1,5 a.h5 c.h5 && h5dump -d /tokens -b LE -o c.bin c.h5 "
        ">/dev/null && h5dump -d /tokens -b LE -o all.bin index.h5 >/dev/null && cmp a.bin c.bin",
        dir, plugin);
    assert_int_equal(system(cmd), 0);
    char *path = path_join(dir, "all.bin");
    struct buf b = { 0 };
    read_file(path, &b);
    assert_int_equal(b.len, t.n * sizeof(uint16_t));
    for (size_t i = 0; i < t.n; i++)
        assert_int_equal(((uint16_t *)(void *)b.data)[i], t.tokens[i]);
    buf_free(&b);
    free(path);
    free(cmd);
    free_truth(&t);
    free(dir);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shards_u16),
        cmocka_unit_test(test_shards_u32),
        cmocka_unit_test(test_empty_set),
        cmocka_unit_test(test_shard_hash),
        cmocka_unit_test(test_shards_that_do_not_fit),
        cmocka_unit_test(test_damaged_shards),
        cmocka_unit_test(test_copied_shards),
        cmocka_unit_test(test_many_shards),
        cmocka_unit_test(test_plugin),
        cmocka_unit_test(test_threads),
    };
    io_begin("io_shard", argc, argv);
    return io_end(cmocka_run_group_tests(tests, NULL, NULL));
}
