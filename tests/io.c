/* io.c - tests of common/io: what is written is read back, what is damaged is refused, the dead are known
 * SPDX-License-Identifier: MIT
 *
 * Functions that die are called in a child (dies()). Damaged files are read in this process: a crash is a failure.
 * Over 500 lines: one file a floor, so that the fixtures are shared.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <hdf5.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/out.h"
#include "common/base/rng.h"
#include "common/io/ckpt.h"
#include "common/io/h5.h"
#include "common/io/rundir.h"
#include "common/io/set.h"
#include "common/io/shard.h"

static char *scratch;
static uint64_t draws;

/* A random number below n; the sequence is the same in every run. */
static int64_t draw(int64_t n) { return (int64_t)(rng_u64(2026, 1, draws++) % (uint64_t)n); }

static char *at(const char *name) { return path_join(scratch, name); }

/* Runs f(arg) in a child; its exit code, or -signal. What it says is thrown away. */
static int run_child(void (*f)(void *), void *arg)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDERR_FILENO);
        f(arg);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void read_file(const char *path, struct buf *b)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char block[65536];
    size_t n;
    buf_clear(b);
    while ((n = fread(block, 1, sizeof block, f)) > 0)
        buf_add(b, block, n);
    fclose(f);
}

static void write_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* The next way to damage a file: cut off at one of `cuts` places, then one byte changed somewhere. Returns false
 * when all are done. The file is restored by write_file(path, whole). */
static bool damage(const char *path, const struct buf *whole, int i, int cuts, int flips)
{
    if (i < cuts) {
        write_file(path, whole->data, whole->len * (size_t)i / (size_t)cuts);
        return true;
    }
    if (i >= cuts + flips)
        return false;
    struct buf b = { 0 };
    buf_add(&b, whole->data, whole->len);
    size_t where = (whole->len * (size_t)(i - cuts) + (size_t)draw((int64_t)whole->len)) / (size_t)flips;
    b.data[where < whole->len ? where : whole->len - 1] ^= (char)(1 + draw(255));
    write_file(path, b.data, b.len);
    buf_free(&b);
    return true;
}

/* ---- h5 ---- */

static void test_attributes(void **state)
{
    (void)state;
    struct attrs a = { 0 }, b = { 0 };
    char *path = at("attrs.h5"), *history = xcalloc(200001, 1);
    memset(history, 'h', 200000);
    attrs_set_int(&a, "least", INT64_MIN);
    attrs_set_int(&a, "most", INT64_MAX);
    attrs_set_real(&a, "third", 1.0 / 3);
    attrs_set_real(&a, "nan", NAN);
    attrs_set_str(&a, "empty", "");
    attrs_set_str(&a, "umlaut", "Z\xc3\xbcrich\nline 2");
    attrs_set_str(&a, "long", history);
    for (int i = 0; i < 40; i++) {
        char name[16];
        snprintf(name, sizeof name, "n%d", i);
        attrs_set_int(&a, name, i);
    }
    struct h5 *f = h5_create(path, path);
    h5_put_group(f, "/a/b");
    h5_put_attrs(f, "/a/b", &a);
    h5_finish(f);
    f = h5_try_open(path);
    assert_non_null(f);
    assert_true(h5_has(f, "/a/b"));
    assert_false(h5_has(f, "/a/c"));
    assert_int_equal(h5_try_attrs(f, "/a/c", &b), -1);
    assert_int_equal(h5_try_attrs(f, "/a/b", &b), 0);
    assert_true(attrs_equal(&a, &b));
    h5_close(f);
    attrs_free(&a);
    attrs_free(&b);
    free(history);
    free(path);
}

struct pair {
    int64_t a[2];
    char name[16];
};

static void test_tables(void **state)
{
    (void)state;
    const struct h5_column good[] = { { "a", H5_I64, 2, 0 }, { "name", H5_TEXT, 16, 16 } };
    const struct h5_column other[] = { { "a", H5_I64, 2, 0 }, { "nome", H5_TEXT, 16, 16 } };
    struct pair rows[3] = { { { 1, 2 }, "one" }, { { 3, 4 }, "" }, { { 5, 6 }, "fifteen bytes.." } }, *got;
    char *path = at("table.h5");
    void *data;
    int64_t n;
    struct h5 *f = h5_create(path, path);
    h5_put_table(f, "/t", good, 2, rows, 3);
    h5_put_table(f, "/none", good, 2, rows, 0);
    memset(rows[1].name, 'x', 16); /* no NUL */
    h5_put_table(f, "/endless", good, 2, rows, 3);
    h5_finish(f);
    f = h5_try_open(path);
    assert_int_equal(h5_try_table(f, "/t", good, 2, &data, &n), 0);
    assert_int_equal(n, 3);
    got = data;
    assert_string_equal(got[2].name, "fifteen bytes..");
    assert_int_equal(got[2].a[1], 6);
    free(data);
    assert_int_equal(h5_try_table(f, "/none", good, 2, &data, &n), 0);
    assert_int_equal(n, 0);
    free(data);
    assert_int_equal(h5_try_table(f, "/t", other, 2, &data, &n), -1);
    assert_int_equal(h5_try_table(f, "/endless", good, 2, &data, &n), -1);
    assert_int_equal(h5_try_table(f, "/missing", good, 2, &data, &n), -1);
    h5_close(f);
    free(path);
}

/* Shapes that no file holds, links that lead away: refused before any memory is taken. */
static void test_hostile_shapes(void **state)
{
    (void)state;
    char *path = at("hostile.h5"), *victim = at("victim.h5");
    struct h5 *v = h5_create(victim, victim);
    struct h5_data *d = h5_make_data(v, "/x", H5_U64, 1, &(int64_t){ 4 });
    h5_write(d, &(int64_t){ 0 }, &(int64_t){ 4 }, (uint64_t[]){ 1, 2, 3, 4 });
    h5_end_data(d);
    h5_finish(v);
    hid_t f = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    hsize_t huge = (hsize_t)1 << 50, wide[2] = { (hsize_t)1 << 40, (hsize_t)1 << 40 }, chunk = 1024,
            big = 1u << 28;
    hid_t space = H5Screate_simple(1, &huge, NULL), plain = H5Pcreate(H5P_DATASET_CREATE);
    hid_t space2 = H5Screate_simple(2, wide, NULL);
    H5Dclose(H5Dcreate2(f, "/late", H5T_STD_U64LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Pset_filter(plain, 32015, H5Z_FLAG_OPTIONAL, 0, NULL);
    H5Pset_chunk(plain, 1, &chunk);
    H5Dclose(H5Dcreate2(f, "/chunks", H5T_STD_U16LE, space, H5P_DEFAULT, plain, H5P_DEFAULT));
    H5Pset_chunk(plain, 1, &big);
    H5Dclose(H5Dcreate2(f, "/bigchunk", H5T_STD_U16LE, space, H5P_DEFAULT, plain, H5P_DEFAULT));
    H5Dclose(H5Dcreate2(f, "/over", H5T_STD_U8LE, space2, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Lcreate_external("victim.h5", "/x", f, "/away", H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_soft("/late", f, "/soft", H5P_DEFAULT, H5P_DEFAULT);
    H5Sclose(space);
    H5Sclose(space2);
    H5Pclose(plain);
    H5Fclose(f);

    const struct h5_column cols[] = { { "a", H5_I64, 1, 0 } };
    int64_t shape[2], place, n, chunk_size;
    void *rows;
    uint16_t out[1024];
    struct h5 *h = h5_try_open(path);
    assert_non_null(h);
    assert_int_equal(h5_try_locate(h, "/late", H5_U64, 1, shape, &place), -1);
    assert_int_equal(h5_try_locate(h, "/over", H5_U8, 2, shape, &place), -1);
    assert_int_equal(h5_try_locate(h, "/over", H5_U8, 1, shape, &place), -1);
    assert_int_equal(h5_try_locate(h, "/away", H5_U64, 1, shape, &place), -1);
    assert_int_equal(h5_try_locate(h, "/soft", H5_U64, 1, shape, &place), -1);
    assert_int_equal(h5_try_table(h, "/late", cols, 1, &rows, &n), -1);
    assert_null(h5_try_chunks(h, "/bigchunk", H5_U16, &n, &chunk_size));
    assert_null(h5_try_chunks(h, "/late", H5_U64, &n, &chunk_size));
    assert_null(h5_try_chunks(h, "/chunks", H5_U32, &n, &chunk_size));
    struct h5_chunks *c = h5_try_chunks(h, "/chunks", H5_U16, &n, &chunk_size);
    assert_non_null(c);
    assert_int_equal(chunk_size, 1024);
    assert_int_equal(h5_try_chunk(c, 0, out), -1);
    assert_int_equal(h5_try_chunk(c, n / 1024, out), -1);
    assert_int_equal(h5_try_chunk(c, -1, out), -1);
    h5_end_chunks(c);
    h5_close(h);
    assert_null(h5_try_open(scratch));
    assert_null(h5_try_open("/dev/null"));
    free(path);
    free(victim);
}

/* ---- shards ---- */

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
        print_message("# SKIP test_plugin: no SSM_PLUGIN or no h5dump\n");
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

/* ---- checkpoints ---- */

enum { MAX_TENSORS = 12, MAX_PIECES = 400 };

/* A checkpoint of random tensors, each cut into random blocks, dealt to the members at random. */
struct cloth {
    struct ckpt_tensor t[MAX_TENSORS];
    float *value[MAX_TENSORS];
    int n;
    struct ckpt_piece piece[MAX_PIECES];
    int owner[MAX_PIECES], n_pieces;
};

/* The elements of a piece, contiguous. */
static float *gather(const struct cloth *c, const struct ckpt_piece *p, int tensor)
{
    int64_t n[4] = { 1, 1, 1, 1 }, o[4] = { 0 }, s[4] = { 1, 1, 1, 1 }, k = 0;
    for (int d = 0; d < p->tensor.ndim; d++) {
        n[d] = p->count[d];
        o[d] = p->offset[d];
        s[d] = p->tensor.shape[d];
    }
    float *out = xcalloc((size_t)(n[0] * n[1] * n[2] * n[3]), sizeof *out);
    for (int64_t a = 0; a < n[0]; a++)
        for (int64_t b = 0; b < n[1]; b++)
            for (int64_t e = 0; e < n[2]; e++)
                for (int64_t f = 0; f < n[3]; f++)
                    out[k++] = c->value[tensor]
                                       [(((o[0] + a) * s[1] + o[1] + b) * s[2] + o[2] + e) * s[3] + o[3] + f];
    return out;
}

/* Cuts a block in two at random, some times over. */
static void cut(struct cloth *c, struct ckpt_piece p, int times, int members)
{
    int d = (int)draw(p.tensor.ndim);
    if (times == 0 || p.count[d] < 2) {
        c->piece[c->n_pieces] = p;
        c->owner[c->n_pieces++] = (int)draw(members);
        return;
    }
    int64_t first = 1 + draw(p.count[d] - 1);
    struct ckpt_piece q = p;
    p.count[d] = first;
    q.offset[d] += first;
    q.count[d] -= first;
    cut(c, p, times - 1, members);
    cut(c, q, times - 1, members);
}

static void weave(struct cloth *c, int members)
{
    *c = (struct cloth){ .n = 1 + (int)draw(MAX_TENSORS) };
    for (int i = 0; i < c->n; i++) {
        struct ckpt_tensor *t = &c->t[i];
        snprintf(t->name, sizeof t->name, "%s/layers.%d.w",
                 i % 3 == 0   ? "model"
                 : i % 3 == 1 ? "optim/m"
                              : "state",
                 i);
        t->ndim = 1 + (int)draw(4);
        for (int d = 0; d < t->ndim; d++)
            t->shape[d] = 1 + draw(t->ndim < 3 ? 40 : 9);
        int64_t n = ckpt_elements(t->ndim, t->shape);
        c->value[i] = xcalloc((size_t)n, sizeof(float));
        for (int64_t j = 0; j < n; j++)
            c->value[i][j] = (float)rng_normal(7, draws, (uint64_t)j);
        struct ckpt_piece p = { .tensor = *t };
        memcpy(p.count, t->shape, sizeof p.count);
        int from = c->n_pieces;
        cut(c, p, (int)draw(5), members);
        for (int j = from; j < c->n_pieces; j++)
            c->piece[j].data = gather(c, &c->piece[j], i);
    }
}

static void unweave(struct cloth *c)
{
    for (int i = 0; i < c->n; i++)
        free(c->value[i]);
    for (int i = 0; i < c->n_pieces; i++)
        free((void *)(uintptr_t)c->piece[i].data);
}

static void write_cloth(const char *dir, const struct cloth *c, int members)
{
    struct set_member m[8];
    struct ckpt_piece *mine = xcalloc(MAX_PIECES, sizeof *mine);
    struct attrs config = { 0 }, st = { 0 };
    attrs_set_int(&config, "d_model", 64);
    attrs_set_str(&config, "pattern", "M*-");
    attrs_set_int(&st, "step", 100);
    set_prepare(dir, true);
    for (int i = 0; i < members; i++) {
        int n = 0;
        for (int j = 0; j < c->n_pieces; j++)
            if (c->owner[j] == i)
                mine[n++] = c->piece[j];
        ckpt_write_member(dir, i, members, mine, n, &m[i]);
    }
    ckpt_write_index(dir, m, members, &config, &st, "made by io.c", false);
    attrs_free(&config);
    attrs_free(&st);
    free(mine);
}

/* Reads random slabs; false at the first error. Wrong data fail the test, when they cannot be damaged. */
static bool read_cloth(struct ckpt *c, const struct cloth *w, int rounds, bool exact)
{
    bool ok = ckpt_tensors(c) == w->n;
    for (int i = 0; ok && i < rounds; i++) {
        int k = (int)draw(w->n);
        struct ckpt_piece p = { .tensor = w->t[k] };
        for (int d = 0; d < p.tensor.ndim; d++) {
            p.offset[d] = draw(p.tensor.shape[d]);
            p.count[d] = 1 + draw(p.tensor.shape[d] - p.offset[d]);
        }
        int64_t n = ckpt_elements(p.tensor.ndim, p.count);
        float *got = xcalloc((size_t)n, sizeof *got), *want = gather(w, &p, k);
        ok = ckpt_try_read(c, p.tensor.name, p.offset, p.count, got) == 0;
        if (ok && exact)
            assert_memory_equal(got, want, (size_t)n * sizeof *got);
        free(got);
        free(want);
    }
    return ok;
}

static void test_checkpoints(void **state)
{
    (void)state;
    char *dir = at("ckpt");
    for (int round = 0; round < 25; round++) {
        struct cloth w;
        int members = 1 + (int)draw(8);
        int64_t v, zero[4] = { 0 }, far[4] = { 1000, 1000, 1000, 1000 };
        float x;
        weave(&w, members);
        write_cloth(dir, &w, members);
        struct ckpt *c = ckpt_try_open(dir);
        assert_non_null(c);
        assert_int_equal(ckpt_members(c), members);
        assert_int_equal(ckpt_pieces(c), w.n_pieces);
        assert_int_equal(attrs_try_int(ckpt_config(c), "d_model", &v), 0);
        assert_int_equal(attrs_try_int(ckpt_state(c), "step", &v), 0);
        assert_int_equal(v, 100);
        assert_string_equal(ckpt_history(c), "made by io.c");
        assert_true(read_cloth(c, &w, 60, true));
        for (int i = 0; i < w.n; i++)
            assert_string_equal(ckpt_tensor(c, ckpt_find(c, w.t[i].name))->name, w.t[i].name);
        assert_int_equal(ckpt_find(c, "model/none"), -1);
        assert_int_equal(ckpt_try_read(c, "model/none", zero, zero, &x), -1);
        assert_int_equal(ckpt_try_read(c, w.t[0].name, far, zero, &x), -1);
        assert_int_equal(ckpt_try_read(c, w.t[0].name, zero, far, &x), -1);
        for (int i = 0; i < members; i++)
            assert_int_equal(ckpt_try_verify(c, i), 0);
        ckpt_close(c);
        unweave(&w);
    }
    free(dir);
}

struct attempt {
    const char *dir;
    const struct cloth *w;
    int members;
};

static void try_write(void *p)
{
    struct attempt *a = p;
    write_cloth(a->dir, a->w, a->members);
}

/* Left out, doubled, grown and shape-shifting pieces are all found when the index is made. */
static void test_coverage(void **state)
{
    (void)state;
    char *dir = at("holes");
    for (int round = 0; round < 30; round++) {
        struct cloth w, good;
        weave(&w, 3);
        good = w;
        struct attempt a = { dir, &w, 3 };
        int i = (int)draw(w.n_pieces);
        int64_t *shape = w.piece[i].tensor.shape;
        switch (round % 4) {
        case 0: /* a hole: still another piece of this tensor, or the tensor would just be gone */
            if (ckpt_elements(w.piece[i].tensor.ndim, w.piece[i].count) ==
                ckpt_elements(w.piece[i].tensor.ndim, shape))
                shape[0]++; /* whole tensors get a hole by growing */
            else
                w.owner[i] = -1;
            break;
        case 1:
            w.piece[w.n_pieces] = w.piece[i];
            w.owner[w.n_pieces++] = 1;
            break;
        case 2: /* the same number of elements, in the wrong place */
            if (w.piece[i].offset[0] == 0 && w.piece[i].count[0] == shape[0])
                shape[0]++;
            else
                w.piece[i].offset[0] += w.piece[i].offset[0] ? -1 : 1;
            break;
        case 3:
            snprintf(w.piece[i].tensor.name, CKPT_MAX_NAME, "%s", "model/../x");
            break;
        }
        assert_int_equal(run_child(try_write, &a), round % 4 == 3 ? -SIGABRT : 1);
        assert_false(set_exists(dir));
        assert_null(ckpt_try_open(dir));
        unweave(&good);
    }
    free(dir);
}

/* Damage to a member is always found by verification, damage to the index by opening (or does not matter). */
static void test_damaged_checkpoints(void **state)
{
    (void)state;
    struct cloth w;
    do
        weave(&w, 2);
    while (w.n < 4);
    char *dir = at("ckpt-damaged"),
         *path[2] = { path_join(dir, "part-00000-of-00002.h5"), set_index_path(dir) };
    write_cloth(dir, &w, 2);
    for (int f = 0; f < 2; f++) {
        struct buf whole = { 0 };
        int refused = 0;
        read_file(path[f], &whole);
        for (int i = 0; damage(path[f], &whole, i, 24, 500); i++) {
            struct ckpt *c = ckpt_try_open(dir);
            bool ok = c != NULL;
            if (ok)
                ok = read_cloth(c, &w, 10, f == 1);
            if (c && f == 0)
                assert_int_equal(ckpt_try_verify(c, 0), -1);
            else if (c)
                assert_true(ok && ckpt_try_verify(c, 0) == 0); /* an index that opens is as it was */
            if (i < 24)
                assert_null(c);
            refused += !ok;
            ckpt_close(c);
        }
        assert_true(refused > 24);
        write_file(path[f], whole.data, whole.len);
        buf_free(&whole);
    }
    unlink(path[0]);
    assert_null(ckpt_try_open(dir));
    free(path[0]);
    free(path[1]);
    unweave(&w);
    free(dir);
}

/* Every row has one owner, and no share is further from even than the rows at its two ends. */
static void test_cut_rows(void **state)
{
    (void)state;
    for (int round = 0; round < 300; round++) {
        struct ckpt_tensor t[8] = { 0 };
        struct ckpt_piece p[8];
        int64_t next[8] = { 0 }, total = 0, widest = 0;
        int n = 1 + (int)draw(8), parts = 1 + (int)draw(40);
        for (int i = 0; i < n; i++) {
            snprintf(t[i].name, sizeof t[i].name, "model/%d", i);
            t[i].ndim = 1 + (int)draw(3);
            for (int d = 0; d < t[i].ndim; d++)
                t[i].shape[d] = 1 + draw(30);
            int64_t size = ckpt_elements(t[i].ndim, t[i].shape);
            total += size;
            widest = size / t[i].shape[0] > widest ? size / t[i].shape[0] : widest;
        }
        for (int part = 0; part < parts; part++) {
            int k = ckpt_cut_rows(t, n, part, parts, p);
            int64_t share = 0;
            assert_in_range(k, 0, n);
            for (int i = 0; i < k; i++) {
                int j = p[i].tensor.name[6] - '0';
                assert_int_equal(p[i].offset[0], next[j]);
                assert_true(p[i].count[0] > 0);
                next[j] += p[i].count[0];
                share += ckpt_elements(p[i].tensor.ndim, p[i].count);
            }
            assert_true(fabs((double)share - (double)total / parts) <= (double)widest + 1);
        }
        for (int i = 0; i < n; i++)
            assert_int_equal(next[i], t[i].shape[0]);
    }
}

/* ---- sets ---- */

static void try_prepare(void *dir) { set_prepare(dir, false); }

static void test_prepare(void **state)
{
    (void)state;
    struct cloth w;
    weave(&w, 3);
    char *dir = at("prepared"), *foreign = path_join(dir, "notes.txt"),
         *part = path_join(dir, "part-00002-of-00003.h5");
    write_cloth(dir, &w, 3);
    write_file(foreign, "mine", 4);
    assert_int_equal(run_child(try_prepare, dir), 1);
    assert_true(path_exists(part));
    set_prepare(dir, true);
    assert_false(set_exists(dir));
    assert_false(path_exists(part));
    assert_true(path_exists(foreign));
    assert_int_equal(run_child(try_prepare, dir), 0);
    write_cloth(dir, &w, 3);
    char *index = set_index_path(dir);
    write_file(index, "garbage", 7); /* in the way it still is */
    assert_null(ckpt_try_open(dir));
    assert_int_equal(run_child(try_prepare, dir), 1);
    set_prepare(dir, true);
    assert_false(set_exists(dir));
    free(index);
    free(part);
    free(foreign);
    free(dir);
    unweave(&w);
}

/* ---- run folders ---- */

static void nap(double seconds)
{
    struct timespec t = { (time_t)seconds, (long)((seconds - floor(seconds)) * 1e9) };
    nanosleep(&t, NULL);
}

static double patience;

static void try_begin(void *run)
{
    struct rundir *r = rundir_begin(run, patience);
    rundir_end(r);
}

static void begin_and_stay(void *run)
{
    rundir_begin(run, 0);
    kill(getpid(), SIGKILL);
}

/* An incarnation of another host, without a lock. */
static char *fake_life(const char *run, int number, const char *text)
{
    char *inc = xasprintf("%s/inc-%04d", run, number), *lock = path_join(inc, "lock");
    out_make_dirs(inc);
    write_file(lock, text, strlen(text));
    free(inc);
    return lock;
}

static void test_incarnations(void **state)
{
    (void)state;
    char *run = at("run");
    patience = 0;
    struct rundir *r = rundir_begin(run, 0);
    assert_int_equal(rundir_number(r), 1);
    assert_true(rundir_is_newest(r));
    assert_int_equal(run_child(try_begin, run), 1); /* it lives */
    rundir_end(r);
    patience = 60; /* an orderly end and a dead process of this host need no watching */
    double before = now_seconds();
    assert_int_equal(run_child(try_begin, run), 0);
    assert_int_equal(run_child(begin_and_stay, run), -SIGKILL);
    r = rundir_begin(run, 60);
    assert_true(now_seconds() - before < 20);
    assert_int_equal(rundir_number(r), 4);
    char *newer = fake_life(run, 5, "elsewhere 1 7\n");
    assert_false(rundir_is_newest(r));
    rundir_end(r);
    free(newer);
    free(run);
}

static void test_other_hosts(void **state)
{
    (void)state;
    char *run = at("run2"), *lock = fake_life(run, 1, "elsewhere 4711 99\n");
    patience = 0.7;
    double before = now_seconds();
    assert_int_equal(run_child(try_begin, run), 0); /* no beat */
    assert_true(now_seconds() - before >= 0.6);
    free(lock);
    lock = fake_life(run, 3, "elsewhere 4711 99\n");
    pid_t heart = fork();
    if (heart == 0)
        for (;;) {
            utimensat(AT_FDCWD, lock, NULL, 0);
            nap(0.05);
        }
    patience = 10;
    int code = run_child(try_begin, run);
    kill(heart, SIGKILL);
    waitpid(heart, NULL, 0);
    assert_int_equal(code, 1);
    write_file(lock, "elsewhere 4711 99\nended\n", 24);
    before = now_seconds();
    assert_int_equal(run_child(try_begin, run), 0);
    assert_true(now_seconds() - before < 5);
    free(lock);
    free(run);
}

static void test_heartbeat(void **state)
{
    (void)state;
    char *run = at("run3");
    struct rundir *r = rundir_begin(run, 0);
    char *lock = path_join(rundir_path(r), "lock");
    struct timespec old[2] = { { 1000, 0 }, { 1000, 0 } };
    struct stat st;
    utimensat(AT_FDCWD, lock, old, 0);
    rundir_beat(r);
    assert_int_equal(stat(lock, &st), 0);
    assert_true(st.st_mtim.tv_sec > 1000);
    utimensat(AT_FDCWD, lock, old, 0);
    rundir_beat(r); /* too soon */
    assert_int_equal(stat(lock, &st), 0);
    assert_int_equal(st.st_mtim.tv_sec, 1000);
    rundir_end(r);
    free(lock);
    free(run);
}

/* A tiny checkpoint at RUN/inc-NNNN/step-SSSSSSSS, or what a killed writer leaves of one. */
static void put_step(const char *run, int number, int step, bool whole)
{
    char *dir = xasprintf("%s/inc-%04d/step-%08d", run, number, step);
    struct ckpt_piece p = { .tensor = { "model/x", 1, { 2 } }, .count = { 2 }, .data = (float[]){ 1, 2 } };
    struct set_member m;
    struct attrs none = { 0 };
    set_prepare(dir, true);
    ckpt_write_member(dir, 0, 1, &p, 1, &m);
    if (whole)
        ckpt_write_index(dir, &m, 1, &none, NULL, NULL, false);
    free(dir);
}

static bool has_step(const char *run, int number, int step)
{
    char *dir = xasprintf("%s/inc-%04d/step-%08d", run, number, step);
    bool there = path_exists(dir);
    free(dir);
    return there;
}

static void assert_list(const char *run, const char *want)
{
    char **paths;
    int n = rundir_list(run, &paths);
    struct buf b = { 0 };
    buf_add(&b, "", 0);
    for (int i = 0; i < n; i++)
        buf_addf(&b, "%s ", paths[i] + strlen(run) + 1);
    assert_string_equal(b.data, want);
    buf_free(&b);
    rundir_free_list(paths, n);
}

static void test_prune(void **state)
{
    (void)state;
    char *run = at("run4");
    assert_list(run, "");
    assert_null(rundir_try_open_ckpt(run));
    struct rundir *old = rundir_begin(run, 0);
    put_step(run, 1, 10, true);
    put_step(run, 1, 20, true);
    put_step(run, 1, 30, true);
    put_step(run, 1, 40, false);
    rundir_end(old);
    struct rundir *r = rundir_begin(run, 0);
    put_step(run, 2, 20, true);
    put_step(run, 2, 25, true);
    put_step(run, 2, 50, false);
    assert_list(run,
                "inc-0001/step-00000030 inc-0002/step-00000025 inc-0002/step-00000020 inc-0001/step-00000020 "
                "inc-0001/step-00000010 ");
    struct ckpt *c = rundir_try_open_ckpt(run);
    assert_non_null(c);
    assert_non_null(strstr(ckpt_dir(c), "inc-0001/step-00000030"));
    ckpt_close(c);
    rundir_prune(r, 1); /* the newest, and the newest of this incarnation */
    assert_list(run, "inc-0001/step-00000030 inc-0002/step-00000025 ");
    assert_false(has_step(run, 1, 40));
    assert_true(has_step(run, 2, 50)); /* perhaps being written just now */
    put_step(run, 2, 60, true);
    free(fake_life(run, 3, "elsewhere 1 7\n"));
    rundir_prune(r, 1); /* a newer one has begun: nothing is ours to remove */
    assert_list(run, "inc-0002/step-00000060 inc-0001/step-00000030 inc-0002/step-00000025 ");
    char *index = xasprintf("%s/inc-0002/step-00000060/index.h5", run);
    write_file(index, "torn", 4);
    fflush(NULL);
    int quiet = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY);
    dup2(null, STDERR_FILENO);
    c = rundir_try_open_ckpt(run); /* passes over it, with a warning */
    dup2(quiet, STDERR_FILENO);
    close(quiet);
    close(null);
    assert_non_null(c);
    assert_non_null(strstr(ckpt_dir(c), "inc-0001/step-00000030"));
    ckpt_close(c);
    free(index);
    rundir_end(r);
    free(run);
}

/* io [PATTERN]: the tests whose names fit, all by default. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attributes),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_hostile_shapes),
        cmocka_unit_test(test_shards_u16),
        cmocka_unit_test(test_shards_u32),
        cmocka_unit_test(test_empty_set),
        cmocka_unit_test(test_shard_hash),
        cmocka_unit_test(test_shards_that_do_not_fit),
        cmocka_unit_test(test_damaged_shards),
        cmocka_unit_test(test_many_shards),
        cmocka_unit_test(test_plugin),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_checkpoints),
        cmocka_unit_test(test_coverage),
        cmocka_unit_test(test_damaged_checkpoints),
        cmocka_unit_test(test_cut_rows),
        cmocka_unit_test(test_prepare),
        cmocka_unit_test(test_incarnations),
        cmocka_unit_test(test_other_hosts),
        cmocka_unit_test(test_heartbeat),
        cmocka_unit_test(test_prune),
    };
    err_init("io");
    meter_start(1, (char *[]){ (char[]){ "io" }, NULL });
    const char *tmp = getenv("TMPDIR");
    scratch = xasprintf("%s/ssm-io.%ld", tmp ? tmp : "/tmp", (long)getpid());
    out_make_dirs(scratch);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    out_remove_tree(scratch);
    free(scratch);
    return failed;
}
