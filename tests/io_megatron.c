/* io_megatron.c - tests of common/io/{idfile,megatron,llmc}: files of other programs, exact, huge and hostile
 * SPDX-License-Identifier: MIT
 */
#include "io.h"

#include <sys/stat.h>

#include "common/io/llmc.h"
#include "common/io/megatron.h"

static char *golden(const char *name)
{
    const char *top = getenv("SSM_TOP");
    return xasprintf("%s/tests/golden/megatron-data/%s", top ? top : ".", name);
}

/* The ids of NAME.txt, a document a line, as one text again: what walk() below makes. */
static void expected(const char *name, struct buf *b)
{
    char *file = xasprintf("%s.txt", name), *path = golden(file);
    read_file(path, b);
    free(file);
    free(path);
}

/* All ids, a document a line; -1 at the first refusal. */
static int walk(struct megatron *m, int64_t vocab, struct buf *b)
{
    struct megatron_sequence q;
    int rc;
    bool fresh = true;
    megatron_rewind(m);
    buf_clear(b);
    while ((rc = megatron_try_next(m, &q)) > 0) {
        uint32_t *ids = xmalloc((size_t)q.tokens * sizeof *ids + 1);
        int64_t half = q.tokens / 2;
        rc = megatron_try_read(m, &q, 0, half, vocab, ids);
        if (rc == 0)
            rc = megatron_try_read(m, &q, half, q.tokens - half, vocab, ids + half);
        for (int64_t i = 0; rc == 0 && i < q.tokens; i++) {
            buf_addf(b, fresh ? "%u" : " %u", ids[i]);
            fresh = false;
        }
        free(ids);
        if (rc < 0)
            return -1;
        if (q.last && !fresh) {
            buf_addf(b, "\n");
            fresh = true;
        }
    }
    return rc;
}

static void test_goldens(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum id_type type;
        int64_t vocab, sequences, documents;
    } cases[] = {
        { "u16", ID_U16, 50257, 40, 40 },
        { "split-i32", ID_I32, 70000, 79, 30 },
        { "i64", ID_I64, 128256, 12, 12 },
        { "modes-i16", ID_I16, 30000, 12, 12 },
        { "i8", ID_I8, 128, 12, 12 },
    };
    struct buf want = { 0 }, got = { 0 };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = golden(cases[i].name);
        struct megatron *m = megatron_try_open(path);
        assert_non_null(m);
        const struct megatron_info *info = megatron_info(m);
        assert_int_equal(info->type, cases[i].type);
        assert_int_equal(info->sequences, cases[i].sequences);
        assert_int_equal(info->documents, cases[i].documents);
        assert_int_equal(info->unused, 0);
        assert_int_equal(info->modes, cases[i].type == ID_I16);
        expected(cases[i].name, &want);
        for (int k = 0; k < 2; k++) {
            assert_int_equal(walk(m, cases[i].vocab, &got), 0);
            assert_string_equal(got.data, want.data);
        }
        assert_int_equal(walk(m, 100, &got), -1);
        megatron_close(m);
        free(path);
    }
    char *path = golden("floats");
    assert_null(megatron_try_open(path));
    assert_non_null(strstr(err_last(), "holds f32, not ids"));
    free(path);
    buf_free(&want);
    buf_free(&got);
}

/* Each line of ids is a document; the files have the golden's bytes. */
static void test_written(void **state)
{
    (void)state;
    struct buf text = { 0 }, a = { 0 }, b = { 0 };
    char *prefix = at("written");
    expected("u16", &text);
    struct megatron_writer *w = megatron_create(prefix, ID_U16, 40, false);
    for (char *p = text.data; *p;) {
        uint32_t id = (uint32_t)strtoul(p, &p, 10);
        megatron_add(w, &id, 1);
        if (*p == '\n') {
            megatron_end_doc(w);
            p++;
        }
    }
    megatron_commit(w);
    for (int i = 0; i < 2; i++) {
        char *mine = xasprintf("%s.%s", prefix, i ? "idx" : "bin"), *theirs = golden(i ? "u16.idx" : "u16.bin");
        read_file(mine, &a);
        read_file(theirs, &b);
        assert_int_equal(a.len, b.len);
        assert_memory_equal(a.data, b.data, a.len);
        free(mine);
        free(theirs);
    }
    free(prefix);
    buf_free(&text);
    buf_free(&a);
    buf_free(&b);
}

/* The largest ids of each type, more documents than a block of the index, empty ones among them. */
static void test_types(void **state)
{
    (void)state;
    enum { DOCS = 20000 };
    for (enum id_type t = ID_U8; t <= ID_U16; t++) {
        if (id_type_range(t) == 0)
            continue;
        int64_t range = id_type_range(t), vocab = range < UINT32_MAX ? range : UINT32_MAX;
        char *prefix = at("typed");
        struct megatron_writer *w = megatron_create(prefix, t, DOCS, true);
        for (int64_t d = 0; d < DOCS; d++) {
            const uint32_t ids[3] = { 0, (uint32_t)(vocab - 1), (uint32_t)(d % vocab) };
            megatron_add(w, ids, d % 4);
            megatron_end_doc(w);
        }
        megatron_commit(w);
        struct megatron *m = megatron_try_open(prefix);
        struct megatron_sequence q;
        assert_non_null(m);
        assert_int_equal(megatron_info(m)->tokens, DOCS / 4 * 6);
        for (int64_t d = 0; d < DOCS; d++) {
            uint32_t ids[3];
            assert_int_equal(megatron_try_next(m, &q), 1);
            assert_int_equal(q.tokens, d % 4);
            assert_int_equal(q.document, d);
            assert_true(q.last);
            assert_int_equal(megatron_try_read(m, &q, 0, q.tokens, vocab, ids), 0);
            assert_true(q.tokens < 2 || ids[1] == (uint32_t)(vocab - 1));
            assert_true(q.tokens < 3 || ids[2] == (uint32_t)(d % vocab));
        }
        assert_int_equal(megatron_try_next(m, &q), 0);
        megatron_close(m);
        free(prefix);
    }
}

/* ---- an index made by hand ---- */

struct parts {
    uint64_t version, s, d;
    int type;
    int32_t lengths[4];
    int64_t pointers[4], documents[5];
    signed char modes[4];
    int n, n_docs, n_modes, extra; /* entries that are written */
};

static void write_pair(const char *prefix, const struct parts *p, int64_t bin_bytes)
{
    struct buf b = { 0 };
    char *idx = xasprintf("%s.idx", prefix), *bin = xasprintf("%s.bin", prefix);
    buf_add(&b, "MMIDIDX\0", 9);
    buf_add(&b, &p->version, 8);
    buf_add(&b, &(char){ (char)p->type }, 1);
    buf_add(&b, &p->s, 8);
    buf_add(&b, &p->d, 8);
    buf_add(&b, p->lengths, (size_t)p->n * 4);
    buf_add(&b, p->pointers, (size_t)p->n * 8);
    buf_add(&b, p->documents, (size_t)p->n_docs * 8);
    buf_add(&b, p->modes, (size_t)(p->n_modes + p->extra));
    write_file(idx, b.data, b.len);
    write_file(bin, "", 0);
    assert_int_equal(truncate(bin, (off_t)bin_bytes), 0);
    buf_free(&b);
    free(idx);
    free(bin);
}

static const struct parts good = { .version = 1, .s = 3, .d = 3, .type = ID_U16, .lengths = { 2, 0, 5 },
                                   .pointers = { 0, 4, 4 }, .documents = { 0, 2, 3 }, .n = 3, .n_docs = 3 };

static void refused(const char *why, struct parts p, int64_t bin_bytes)
{
    char *prefix = at("hostile");
    write_pair(prefix, &p, bin_bytes);
    struct megatron *m = megatron_try_open(prefix);
    if (m || !strstr(err_last(), why) || strchr(err_last(), '\n'))
        fail_msg("%s: %s", why, m ? "opened" : err_last());
    free(prefix);
}

static void test_hostile_fields(void **state)
{
    (void)state;
    struct parts p = good;
    char *prefix = at("hostile");
    write_pair(prefix, &p, 14);
    struct megatron *m = megatron_try_open(prefix);
    assert_non_null(m);
    megatron_close(m);
    refused("sequence 2, 10 bytes at 4, does not lie in", good, 13);
#define REFUSED(why, ...) p = good, __VA_ARGS__, refused(why, p, 14)
    REFUSED("has version 2", p.version = 2);
    REFUSED("no type of ids 0", p.type = 0);
    REFUSED("no type of ids 9", p.type = ID_U32);
    REFUSED("holds f64", p.type = ID_F64);
    REFUSED("do not make", p.s = 4);
    REFUSED("do not make", p.s = UINT64_MAX);
    REFUSED("do not make", p.s = 1ULL << 61);
    REFUSED("do not make", p.s = INT64_MAX / 12);
    REFUSED("do not make", p.d = UINT64_MAX);
    REFUSED("do not make", p.d = (1ULL << 61) + 3); /* times 8 it is what 3 are */
    REFUSED("do not make", p.d = 4);
    REFUSED("do not make", p.extra = 1);
    REFUSED("no document indices", p.d = 0);
    REFUSED("has -1 tokens", p.lengths[1] = -1);
    REFUSED("has -2147483648 tokens", p.lengths[2] = INT32_MIN);
    REFUSED("does not lie in", p.lengths[2] = INT32_MAX);
    REFUSED("before the end of the one before it", p.pointers[2] = 3);
    REFUSED("before the end of the one before it", p.pointers[1] = INT64_MIN);
    REFUSED("does not lie in", p.pointers[2] = INT64_MAX);
    REFUSED("does not lie in", p.pointers[2] = 5);
    REFUSED("document index 0", p.documents[0] = 1);
    REFUSED("document index 1", p.documents[1] = 4);
    REFUSED("document index 1", p.documents[1] = -1);
    REFUSED("document index 2", p.documents[2] = 1);
    REFUSED("documents end at sequence 2", p.documents[2] = 2);
    REFUSED("has mode 1", p.n_modes = 3, p.modes[2] = 1);
    char *idx = xasprintf("%s.idx", prefix);
    write_file(idx, "MMIDIDX\0", 9);
    assert_null(megatron_try_open(prefix));
    assert_int_equal(unlink(idx), 0);
    assert_null(megatron_try_open(prefix));
    assert_int_equal(mkfifo(idx, 0600), 0);
    assert_null(megatron_try_open(prefix)); /* and does not wait */
    unlink(idx);
    free(idx);
    free(prefix);
}

/* 6.4e9 tokens, in files without blocks: places and sums beyond 2^32. */
static void test_huge(void **state)
{
    (void)state;
    struct parts p = { .version = 1, .s = 4, .d = 3, .type = ID_U16,
                       .lengths = { INT32_MAX, INT32_MAX, INT32_MAX, 3 }, .documents = { 0, 3, 4 }, .n = 4, .n_docs = 3 };
    for (int i = 1; i < 4; i++)
        p.pointers[i] = p.pointers[i - 1] + 2LL * p.lengths[i - 1];
    int64_t bytes = p.pointers[3] + 6;
    char *prefix = at("huge"), *bin = xasprintf("%s.bin", prefix);
    write_pair(prefix, &p, bytes);
    int fd = open(bin, O_WRONLY);
    const uint16_t tail[4] = { 11, 22, 33, 44 };
    assert_int_equal(pwrite(fd, tail, sizeof tail, (off_t)(bytes - 8)), 8);
    close(fd);
    struct megatron *m = megatron_try_open(prefix);
    struct megatron_sequence q = { 0 };
    uint32_t ids[3];
    assert_non_null(m);
    assert_true(megatron_info(m)->tokens == 3LL * INT32_MAX + 3);
    assert_int_equal(megatron_info(m)->unused, 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(megatron_try_next(m, &q), 1);
    assert_true(q.last && q.document == 0);
    assert_int_equal(megatron_try_read(m, &q, INT32_MAX - 1, 1, 100, ids), 0);
    assert_int_equal(ids[0], 11);
    assert_int_equal(megatron_try_next(m, &q), 1);
    assert_int_equal(megatron_try_read(m, &q, 0, 3, 100, ids), 0);
    assert_int_equal(ids[2], 44);
    assert_int_equal(megatron_try_read(m, &q, 0, 3, 44, ids), -1);
    assert_non_null(strstr(err_last(), "id 44 at byte 12884901886"));
    megatron_close(m);
    refused("does not lie in", p, bytes - 1);
    p.lengths[0]--;
    refused("does not lie in", p, bytes - 7);
    free(prefix);
    free(bin);
}

/* Whatever the damage: a refusal, or ids below the vocabulary. */
static void test_damaged(void **state)
{
    (void)state;
    struct buf whole = { 0 }, got = { 0 };
    char *prefix = at("damaged"), *idx = xasprintf("%s.idx", prefix), *bin = xasprintf("%s.bin", prefix);
    char *theirs = golden("split-i32.bin");
    int refusals = 0, opened = 0;
    read_file(theirs, &whole);
    write_file(bin, whole.data, whole.len);
    free(theirs);
    theirs = golden("split-i32.idx");
    read_file(theirs, &whole);
    for (int i = 0; damage(idx, &whole, i, 60, 3000); i++) {
        struct megatron *m = megatron_try_open(prefix);
        refusals += !m;
        opened += m && walk(m, 70000, &got) == 0;
        assert_true(m || i >= 60 || !strchr(err_last(), '\n'));
        megatron_close(m);
    }
    assert_true(refusals > 2000 && opened > 0);
    free(theirs);
    free(prefix);
    free(idx);
    free(bin);
    buf_free(&whole);
    buf_free(&got);
}

static void try_overwrite(void *prefix) { megatron_abort(megatron_create(prefix, ID_U16, 1, false)); }

static void test_pairs(void **state)
{
    (void)state;
    char *prefix = at("pair"), *idx = xasprintf("%s.idx", prefix), *bin = xasprintf("%s.bin", prefix);
    megatron_abort(megatron_create(prefix, ID_U16, 1, false));
    assert_false(path_exists(idx) || path_exists(bin));
    write_file(bin, "", 0); /* half a pair is somebody's */
    assert_int_equal(run_child(try_overwrite, prefix), 1);
    struct megatron_writer *w = megatron_create(prefix, ID_U16, 0, true);
    megatron_commit(w);
    assert_true(path_exists(idx));
    assert_int_equal(run_child(try_overwrite, prefix), 1);
    free(prefix);
    free(idx);
    free(bin);
}

/* ---- llm.c ---- */

static void llmc_header(const char *path, int32_t magic, int32_t version, int32_t n, int64_t bytes)
{
    int32_t head[256] = { magic, version, n };
    write_file(path, head, sizeof head);
    assert_int_equal(truncate(path, (off_t)bytes), 0);
}

static void test_llmc(void **state)
{
    (void)state;
    struct buf a = { 0 }, b = { 0 };
    char *copy = at("copy.bin");
    for (int wide = 0; wide < 2; wide++) {
        char *path = golden(wide ? "llmc-u32.bin" : "llmc-u16.bin");
        struct llmc *f = llmc_try_open(path);
        uint32_t ids[600];
        assert_non_null(f);
        assert_true(llmc_looks_like(path));
        int64_t n = llmc_tokens(f);
        assert_in_range(n, 1, 600);
        assert_int_equal(llmc_try_read(f, 0, 1, 128256, ids), 0);
        assert_int_equal(llmc_try_read(f, 1, n - 1, 128256, ids + 1), 0);
        assert_int_equal(llmc_try_read(f, 0, n, 1000, ids), -1);
        llmc_close(f);
        f = llmc_try_open(path);
        assert_int_equal(llmc_try_read(f, 0, n, 128256, ids), 0);
        llmc_close(f);
        struct llmc_writer *w = llmc_create(copy, wide ? ID_U32 : ID_U16, true);
        llmc_add(w, ids, n);
        llmc_commit(w);
        read_file(path, &a);
        read_file(copy, &b);
        assert_int_equal(a.len, b.len);
        assert_memory_equal(a.data, b.data, a.len);
        free(path);
    }
    static const struct {
        int32_t magic, version, n;
        int64_t bytes;
    } bad[] = { { 20240521, 1, 2, 1028 }, { 20240520, 7, 2, 1028 }, { 20240520, 1, 3, 1028 }, { 20240520, 1, -2, 1028 },
                { 20240520, 1, 2, 1000 }, { 20240801, 7, 1, 1028 + 1 }, { 20240520, 1, INT32_MAX, 1028 } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        llmc_header(copy, bad[i].magic, bad[i].version, bad[i].n, bad[i].bytes);
        assert_null(llmc_try_open(copy));
    }
    llmc_header(copy, 20240520, 1, INT32_MAX, 1024 + 2LL * INT32_MAX);
    struct llmc *f = llmc_try_open(copy);
    uint32_t id = 9;
    assert_non_null(f);
    assert_int_equal(llmc_try_read(f, INT32_MAX - 1, 1, 10, &id), 0);
    assert_int_equal(id, 0);
    llmc_close(f);
    free(copy);
    buf_free(&a);
    buf_free(&b);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens), cmocka_unit_test(test_written),        cmocka_unit_test(test_types),
        cmocka_unit_test(test_huge),    cmocka_unit_test(test_hostile_fields), cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_pairs),   cmocka_unit_test(test_llmc),
    };
    io_begin("io_megatron", argc, argv);
    return io_end(cmocka_run_group_tests(tests, NULL, NULL));
}
