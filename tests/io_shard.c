/* io_shard.c - tests of common/io/shard: what is written is read back, what is damaged is refused
 * SPDX-License-Identifier: MIT
 */
#include "io.h"

#include <pthread.h>

#include "common/io/h5.h"
#include "common/io/set.h"
#include "common/io/shard.h"
#include "common/io/window.h"

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

/* ---- packed sets ---- */

/* What a packed set should hold. */
struct rows {
    struct truth t;
    uint8_t *mask;
    int64_t *samples;
    size_t n_mask, cap_mask, n_samples, cap_samples;
    int64_t targets;
};

static void free_rows(struct rows *r)
{
    free_truth(&r->t);
    free(r->mask);
    free(r->samples);
    *r = (struct rows){ 0 };
}

static const struct shard_info packed_info = { .tokenizer = "gpt2", .vocab = 50257, .eod = 50256, .source = "talks", .seq_len = 100 };

/* `samples` rows of one to four documents. */
static void make_packed(const char *dir, const char *name, int64_t samples, struct rows *r)
{
    char *path = path_join(dir, name);
    struct shard_writer *w = shard_create(path, &packed_info, 1, true);
    for (int64_t k = 0; k < samples; k++) {
        for (int64_t d = draw(4); d >= 0; d--) {
            uint32_t doc[25];
            uint8_t mask[25];
            int64_t n = 1 + draw(25);
            for (int64_t i = 0; i < n; i++) {
                doc[i] = i < n - 1 ? (uint32_t)draw(50257) : 50256;
                mask[i] = (uint8_t)draw(2);
                r->targets += mask[i];
                *(uint32_t *)grow(&r->t.tokens, &r->t.n, &r->t.cap, sizeof doc[0]) = doc[i];
                *(uint8_t *)grow(&r->mask, &r->n_mask, &r->cap_mask, 1) = mask[i];
            }
            shard_add_doc(w, doc, mask, n, 2 * n);
            *(int64_t *)grow(&r->t.ends, &r->t.n_ends, &r->t.cap_ends, sizeof *r->t.ends) = (int64_t)r->t.n;
        }
        shard_end_sample(w);
        *(int64_t *)grow(&r->samples, &r->n_samples, &r->cap_samples, sizeof *r->samples) = (int64_t)r->t.n;
    }
    shard_commit(w, NULL);
    free(path);
}

static char *make_packed_set(const char *name, int64_t samples, struct rows *r)
{
    char *dir = at(name);
    set_prepare(dir, true);
    make_packed(dir, three[0], samples, r);
    make_packed(dir, three[1], 0, r);
    make_packed(dir, three[2], samples, r);
    shards_write_index(dir, three, 3, true);
    return dir;
}

/* Whether all that is read is right; false at the first error. */
static bool read_packed(struct shards *s, const struct rows *r, int rounds)
{
    int64_t n = (int64_t)r->t.n, from, to;
    uint8_t *mask = xcalloc(r->t.n, 1);
    bool ok = shards_info(s)->n_samples == (int64_t)r->n_samples && shards_info(s)->n_targets == r->targets;
    for (int i = 0; ok && i < rounds; i++) {
        int64_t at = i ? draw(n + 1) : 0, len = i ? draw(n - at + 1) : n, k = draw((int64_t)r->n_samples);
        ok = shards_try_mask(s, at, len, mask) == 0;
        if (ok)
            assert_memory_equal(mask, r->mask + at, (size_t)len);
        ok = ok && shards_try_sample(s, k, &from, &to) == 0;
        if (ok)
            ok = from == (k ? r->samples[k - 1] : 0) && to == r->samples[k];
    }
    free(mask);
    return ok;
}

static void test_packed_shards(void **state)
{
    (void)state;
    struct rows r = { 0 };
    char *dir = make_packed_set("packed", 6000, &r), *to = at("packed copies");
    int64_t from, end;
    struct shards *s = shards_try_open(dir);
    assert_non_null(s);
    assert_true(r.t.n > 2 * 262144 / 2 + 1000); /* a member has more than one chunk */
    assert_int_equal(shards_info(s)->seq_len, 100);
    assert_true(read_shards(s, &r.t, 20, true));
    assert_true(read_packed(s, &r, 200));
    assert_int_equal(shards_try_sample(s, 12000, &from, &end), -1);
    assert_int_equal(shards_try_sample(s, -1, &from, &end), -1);
    for (int i = 0; i < 3; i++)
        assert_int_equal(shards_try_verify(s, i), 0);
    uint8_t all[1000];
    shards_drop_mask(s);
    assert_int_equal(shards_try_mask(s, 5, 1000, all), 0);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(all[i], 1);
    shards_close(s);
    uint64_t before = hash_of(dir); /* and the same of copies */
    set_prepare(to, true);
    for (int i = 0; i < 3; i++) {
        struct shard_info info;
        char *a = path_join(dir, three[i]), *b = path_join(to, three[i]);
        shard_copy(a, b, "another source", false, &info);
        free(a);
        free(b);
    }
    shards_write_index(to, three, 3, false);
    assert_true(hash_of(to) == before);
    s = shards_try_open(to);
    assert_true(read_shards(s, &r.t, 20, true) && read_packed(s, &r, 100));
    for (int i = 0; i < 3; i++)
        assert_int_equal(shards_try_verify(s, i), 0);
    shards_close(s);
    free_rows(&r);
    free(dir);
    free(to);
}

static int64_t format_of(const char *dir, const char *name)
{
    char *path = path_join(dir, name);
    struct h5 *f = h5_try_open(path);
    struct attrs as = { 0 };
    int64_t format = 0;
    assert_non_null(f);
    assert_int_equal(h5_try_attrs(f, "/", &as), 0);
    assert_int_equal(attrs_try_int(&as, "format", &format), 0);
    attrs_free(&as);
    h5_close(f);
    free(path);
    return format;
}

/* Mask and samples are part of what a set is; only a packed one is kept from programs that do not know them. */
static void test_packed_hash(void **state)
{
    (void)state;
    static const uint32_t doc[4] = { 1, 2, 3, 50256 };
    char *dir = at("packed hash");
    uint64_t h[4];
    for (int k = 0; k < 4; k++) { /* other mask; other samples; not packed */
        struct shard_info info = packed_info;
        info.seq_len = k < 3 ? 100 : 0;
        set_prepare(dir, true);
        char *path = path_join(dir, "a.h5");
        struct shard_writer *w = shard_create(path, &info, 1, true);
        for (int d = 0; d < 2; d++) {
            if (k == 3) {
                shard_add(w, doc, 3);
                shard_end_doc(w, 3);
                continue;
            }
            shard_add_doc(w, doc, (const uint8_t[4]){ 0, k == 1, 1, 1 }, 4, 3);
            if (d || k == 2)
                shard_end_sample(w);
        }
        shard_commit(w, NULL);
        shards_write_index(dir, three, 1, true);
        h[k] = hash_of(dir);
        assert_int_equal(format_of(dir, "a.h5"), k < 3 ? 2 : 1);
        assert_int_equal(format_of(dir, "index.h5"), k < 3 ? 2 : 1);
        free(path);
        for (int j = 0; j < k; j++)
            assert_true(h[j] != h[k]);
    }
    free(dir);
}

/* One packed file of documents of two, two and four tokens, written by hand with something wrong in it. */
struct wrong {
    int64_t seq_len, n_samples, n_targets, n_mask;
    uint64_t sample_end[4];
    uint8_t mask[8];
    bool packed; /* its members and index can be opened: only verification sees it */
    const char *why;
};

static void write_wrong(const char *path, const struct wrong *x)
{
    const uint16_t tokens[8] = { 1, 50256, 3, 50256, 1, 2, 3, 50256 };
    const uint64_t ends[3] = { 2, 4, 8 };
    const int64_t three_docs = 3, none = 0;
    struct h5 *f = h5_create(path, path);
    struct h5_chunks *c = h5_make_chunks(f, "/tokens", H5_U16, 256 << 10, 1);
    h5_put_chunk(c, tokens, 8);
    h5_end_chunks(c);
    c = h5_make_chunks(f, "/loss_mask", H5_U8, 256 << 10, 1);
    h5_put_chunk(c, x->mask, x->n_mask);
    h5_end_chunks(c);
    struct h5_data *d = h5_make_data(f, "/doc_end", H5_U64, 1, &three_docs);
    h5_write(d, &none, &three_docs, ends);
    h5_end_data(d);
    d = h5_make_data(f, "/sample_end", H5_U64, 1, &x->n_samples);
    h5_write(d, &none, &x->n_samples, x->sample_end);
    h5_end_data(d);
    h5_put_str(f, "/", "kind", "ssmtools token shard");
    h5_put_int(f, "/", "format", 2);
    h5_put_str(f, "/", "content", "0123456789abcdef");
    h5_put_str(f, "/", "tokenizer", "gpt2");
    h5_put_str(f, "/", "tokenizer_hash", "0000000000000000");
    h5_put_str(f, "/", "source", "by hand");
    h5_put_str(f, "/", "history", "");
    const struct { const char *name; int64_t v; } numbers[] = {
        { "vocab", 50257 }, { "eod", 50256 }, { "n_tokens", 8 }, { "n_docs", 3 }, { "n_bytes", 6 }, { "n_replaced", 0 },
        { "seq_len", x->seq_len }, { "n_samples", x->n_samples }, { "n_targets", x->n_targets },
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        h5_put_int(f, "/", numbers[i].name, numbers[i].v);
    h5_finish(f);
}

static void test_hostile_packed(void **state)
{
    (void)state;
    static const struct wrong wrong[] = {
        { 8, 2, 4, 8, { 4, 8 }, { 0, 0, 1, 1, 0, 0, 1, 1 }, true, "another hash" }, /* all else is right */
        { 8, 2, 4, 8, { 3, 8 }, { 0, 0, 1, 1, 0, 0, 1, 1 }, true, "sample 0 ends inside a document" },
        { 5, 2, 4, 8, { 3, 8 }, { 0, 0, 1, 1, 0, 0, 1, 1 }, true, "sample 0 ends inside a document" },
        { 7, 2, 4, 8, { 8, 8 }, { 0, 0, 1, 1, 0, 0, 1, 1 }, true, "'/sample_end': entry 1 (8) does not fit" },
        { 8, 2, 4, 8, { 4, 9 }, { 0, 0, 1, 1, 0, 0, 1, 1 }, true, "'/sample_end': entry 1 (9) does not fit" },
        { 8, 2, 4, 8, { 0, 8 }, { 0, 0, 1, 1, 0, 0, 1, 1 }, true, "'/sample_end': entry 0 (0) does not fit" },
        { 8, 1, 4, 8, { 4 }, { 0, 0, 1, 1, 0, 0, 1, 1 }, true, "last sample does not end where the tokens do" },
        { 8, 2, 4, 8, { 4, 8 }, { 0, 0, 1, 1, 0, 0, 2, 0 }, true, "'/loss_mask': 2 at 6 is neither 0 nor 1" },
        { 8, 2, 3, 8, { 4, 8 }, { 0, 0, 1, 1, 0, 0, 1, 1 }, true, "has 4 targets, the attributes say 3" },
        { 8, 2, 4, 7, { 4, 8 }, { 0, 0, 1, 1, 0, 0, 1, 1 }, false, "'/loss_mask' has 7 elements, it should be 8" },
        { 5, 2, 4, 8, { 2, 8 }, { 0, 0, 1, 1, 0, 0, 1, 1 }, true, "sample 1 has 6 tokens, more than 5" },
        { 8, 4, 4, 8, { 1, 2, 4, 8 }, { 0, 0, 1, 1, 0, 0, 1, 1 }, false, "cannot be" }, /* more samples than documents */
        { 8, 2, 9, 8, { 4, 8 }, { 0, 0, 1, 1, 0, 0, 1, 1 }, false, "cannot be" },
        { 7, 1, 4, 8, { 8 }, { 0, 0, 1, 1, 0, 0, 1, 1 }, false, "cannot be" },
        { 0, 2, 4, 8, { 4, 8 }, { 0, 0, 1, 1, 0, 0, 1, 1 }, false, "samples of 0 tokens at most cannot be" },
        { 1LL << 31, 2, 4, 8, { 4, 8 }, { 0, 0, 1, 1, 0, 0, 1, 1 }, false, "cannot be" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char *dir = at("hostile"), *path = path_join(dir, "a.h5");
        struct shard_info info;
        int64_t from, to;
        set_prepare(dir, true);
        write_wrong(path, &wrong[i]);
        if (!wrong[i].packed) {
            assert_int_equal(shard_try_info(path, &info), -1);
        } else {
            shards_write_index(dir, three, 1, true);
            struct shards *s = shards_try_open(dir);
            assert_non_null(s);
            for (int64_t k = 0; k < 2; k++) /* never out of range */
                if (shards_try_sample(s, k, &from, &to) == 0)
                    assert_true(from >= 0 && from < to && to <= 8 && to - from <= wrong[i].seq_len);
            assert_int_equal(shards_try_verify(s, 0), -1);
            shards_close(s);
        }
        if (!strstr(err_last(), wrong[i].why))
            fail_msg("%zu: '%s' instead of '%s'", i, err_last(), wrong[i].why);
        free(dir);
        free(path);
    }
}

/* Every damage to a packed shard is an error or changes nothing that is read; verification sees all of it. */
static void test_damaged_packed(void **state)
{
    (void)state;
    struct rows r = { 0 };
    char *dir = make_packed_set("damaged packed", 40, &r), *path[2] = { path_join(dir, "a.h5"), set_index_path(dir) };
    for (int f = 0; f < 2; f++) {
        struct buf whole = { 0 };
        int refused = 0;
        read_file(path[f], &whole);
        for (int i = 0; damage(path[f], &whole, i, 8, 150); i++) {
            struct shards *s = shards_try_open(dir);
            bool ok = s != NULL;
            if (ok && f == 1)
                assert_true(read_packed(s, &r, 3) && shards_try_verify(s, 0) == 0);
            else if (ok) {
                int64_t from, to;
                for (int64_t k = 0; k < 80; k++)
                    if (shards_try_sample(s, k, &from, &to) == 0)
                        assert_true(from >= 0 && from < to && to - from <= 100 && to <= (int64_t)r.t.n);
                ok = shards_try_verify(s, 0) == 0;
                assert_false(ok);
            }
            refused += !ok;
            shards_close(s);
        }
        assert_true(refused > 8);
        write_file(path[f], whole.data, whole.len);
        buf_free(&whole);
        free(path[f]);
    }
    free_rows(&r);
    free(dir);
}

/* A row is a sample; what the mask leaves out is not scored, and what was scored is scored once. */
static void test_packed_windows(void **state)
{
    (void)state;
    enum { T = 110 };
    struct rows r = { 0 };
    char *dir = make_packed_set("packed rows", 50, &r);
    struct shards *s = shards_try_open(dir);
    int32_t ids[T], targets[T], start[T];
    int64_t from, to, scored = 0;
    assert_non_null(s);
    for (int64_t k = 0; k < 100; k++) {
        size_t doc = 0;
        assert_int_equal(shards_try_sample(s, k, &from, &to), 0);
        assert_int_equal(window_try_read(s, from, from, to - from, T, ids, targets, start), 0);
        assert_int_equal(ids[0], 50256);
        while (r.t.ends[doc] <= from)
            doc++;
        for (int64_t t = 0, begin = from; t < T; t++) {
            if (from + t >= to) {
                assert_int_equal(targets[t], -1);
                continue;
            }
            if (r.t.ends[doc] == from + t)
                begin = r.t.ends[doc++];
            assert_int_equal(start[t], begin - from);
            assert_int_equal(targets[t], r.mask[from + t] ? (int32_t)r.t.tokens[from + t] : -1);
            if (t > 0)
                assert_int_equal(ids[t], r.t.tokens[from + t - 1]);
            scored += targets[t] >= 0;
        }
    }
    assert_int_equal(scored, r.targets);
    shards_close(s);
    free_rows(&r);
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

/* Runs a script of the shell, for which $1 and $2 are the two texts, whatever is in them. Returns its exit code. */
static int run_script(const char *script, const char *one, const char *two)
{
    int status = -1;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", script, "sh", one, two, (char *)NULL);
        _exit(127);
    }
    assert_true(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* h5dump reads our shards through the plugin, and so what h5repack writes through it. */
static void test_plugin(void **state)
{
    (void)state;
    const char *plugin = getenv("SSM_PLUGIN");
    if (!plugin || run_script("h5dump -V >/dev/null 2>&1", "", "") != 0) {
        fprintf(stderr, "skipped: io_shard: the filter plugin: no SSM_PLUGIN or no h5dump\n");
        skip();
    }
    struct truth t = { 0 };
    char *dir = make_shards("plugged", 50000, 300, 1500, &t);
    const char *script =
        "cd \"$1\" && export HDF5_PLUGIN_PATH=\"$2\" && h5dump -d /tokens -b LE -o a.bin a.h5 >/dev/null && "
        "h5repack -f /tokens:UD=32015,0,1,5 a.h5 c.h5 && h5dump -d /tokens -b LE -o c.bin c.h5 "
        ">/dev/null && h5dump -d /tokens -b LE -o all.bin index.h5 >/dev/null && cmp a.bin c.bin";
    assert_int_equal(run_script(script, dir, plugin), 0);
    char *path = path_join(dir, "all.bin");
    struct buf b = { 0 };
    read_file(path, &b);
    assert_int_equal(b.len, t.n * sizeof(uint16_t));
    for (size_t i = 0; i < t.n; i++)
        assert_int_equal(((uint16_t *)(void *)b.data)[i], t.tokens[i]);
    buf_free(&b);
    free(path);
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
        cmocka_unit_test(test_packed_shards),
        cmocka_unit_test(test_packed_hash),
        cmocka_unit_test(test_hostile_packed),
        cmocka_unit_test(test_damaged_packed),
        cmocka_unit_test(test_packed_windows),
        cmocka_unit_test(test_many_shards),
        cmocka_unit_test(test_plugin),
        cmocka_unit_test(test_threads),
    };
    io_begin("io_shard", argc, argv);
    return io_end(cmocka_run_group_tests(tests, NULL, NULL));
}
