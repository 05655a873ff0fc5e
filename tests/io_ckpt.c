/* io_ckpt.c - tests of common/io/ckpt and set: any cut is read back, holes and damage are refused
 * SPDX-License-Identifier: MIT
 */
#include "io.h"

#include <math.h>
#include <signal.h>

#include "common/base/half.h"
#include "common/io/ckpt.h"
#include "common/io/set.h"

enum { MAX_TENSORS = 12, MAX_PIECES = 400 };

/* A checkpoint of random tensors of random types, each cut into random blocks, dealt to the members at random.
 * `value` is what can be read: where the type is short, the weaver's numbers rounded to it. */
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

/* The numbers as their type stores them, into `raw`. */
static void encode(enum ckpt_dtype d, const float *x, int64_t n, void *raw)
{
    if (d == CKPT_F32)
        memcpy(raw, x, (size_t)n * sizeof *x);
    else
        assert_int_equal((d == CKPT_F16 ? half_to_f16 : half_to_bf16)(x, n, raw), -1);
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
        t->dtype = (enum ckpt_dtype)draw(CKPT_DTYPES);
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
        uint16_t *half = xcalloc((size_t)n, sizeof *half);
        if (t->dtype != CKPT_F32) {
            encode(t->dtype, c->value[i], n, half);
            (t->dtype == CKPT_F16 ? half_from_f16 : half_from_bf16)(half, n, c->value[i]);
        }
        free(half);
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
    ckpt_write_index(dir, m, members, &config, &st, "made by io_ckpt.c", false);
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
        if (ok) {
            ok = ckpt_try_read_raw(c, p.tensor.name, p.offset, p.count, got) == 0;
            float *stored = xcalloc((size_t)n, sizeof *stored);
            encode(p.tensor.dtype, want, n, stored);
            if (ok && exact)
                assert_memory_equal(got, stored, (size_t)n * ckpt_dtype_size(p.tensor.dtype));
            free(stored);
        }
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
        assert_string_equal(ckpt_history(c), "made by io_ckpt.c");
        assert_true(read_cloth(c, &w, 60, true));
        for (int i = 0; i < w.n; i++)
            assert_int_equal(ckpt_tensor(c, ckpt_find(c, w.t[i].name))->dtype, w.t[i].dtype);
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

/* ---- element types ---- */

struct one {
    const char *dir;
    struct ckpt_piece p[2];
    int n;
};

static void try_one(void *arg)
{
    struct one *o = arg;
    struct set_member m;
    set_prepare(o->dir, true);
    ckpt_write_member(o->dir, 0, 1, o->p, o->n, &m);
    ckpt_write_index(o->dir, &m, 1, &(struct attrs){ 0 }, NULL, NULL, false);
}

/* All codes, put and read as they are, NaNs too; in blocks that do not end where rows of the other side do. */
static void test_raw(void **state)
{
    (void)state;
    enum { ROWS = 1 << 11, WIDTH = 1 << 5 };
    char *dir = at("raw");
    static uint16_t code[ROWS * WIDTH], got[ROWS * WIDTH];
    static float value[ROWS * WIDTH], want[ROWS * WIDTH];
    const int64_t zero[CKPT_MAX_DIM] = { 0 };
    for (int i = 0; i < ROWS * WIDTH; i++)
        code[i] = (uint16_t)i;
    for (int d = CKPT_BF16; d <= CKPT_F16; d++) {
        struct ckpt_piece p = { .tensor = { "model/a", 2, { ROWS, WIDTH }, (enum ckpt_dtype)d },
                                .count = { ROWS, WIDTH } };
        struct set_member m;
        set_prepare(dir, true);
        struct ckpt_writer *w = ckpt_create_member(dir, 0, 1);
        ckpt_begin_piece(w, &p);
        ckpt_put_raw_rows(w, code, 1000);
        ckpt_put_raw_rows(w, code + 1000 * WIDTH, ROWS - 1000);
        snprintf(p.tensor.name, sizeof p.tensor.name, "model/b");
        (d == CKPT_F16 ? half_from_f16 : half_from_bf16)(code, ROWS * WIDTH, want);
        ckpt_begin_piece(w, &p);
        ckpt_put_rows(w, want, 1);
        ckpt_put_rows(w, want + WIDTH, ROWS - 1);
        ckpt_commit_member(w, &m);
        ckpt_write_index(dir, &m, 1, &(struct attrs){ 0 }, NULL, NULL, false);
        struct ckpt *c = ckpt_try_open(dir);
        assert_non_null(c);
        for (int i = 0; i < 2; i++) {
            const char *name = i ? "model/b" : "model/a";
            assert_int_equal(ckpt_try_read_raw(c, name, zero, p.count, got), 0);
            assert_memory_equal(got, code, sizeof code);
            assert_int_equal(ckpt_try_read(c, name, zero, p.count, value), 0);
            assert_memory_equal(value, want, sizeof want);
        }
        ckpt_close(c);
    }
    free(dir);
}

/* A number that does not fit, and pieces of one tensor in two types. */
static void test_dtypes_refused(void **state)
{
    (void)state;
    char *dir = at("refused");
    static float x[100 * 500];
    struct ckpt_piece p = { .tensor = { "model/a", 2, { 100, 500 }, CKPT_F16 },
                            .count = { 100, 500 },
                            .data = x };
    struct one o = { dir, { p }, 1 };
    assert_int_equal(run_child(try_one, &o), 0);
    x[99 * 500 + 499] = INFINITY;
    assert_int_equal(run_child(try_one, &o), 0);
    x[99 * 500 + 499] = -65520; /* half-way to what 2^16 would be */
    assert_int_equal(run_child(try_one, &o), 1);
    assert_null(ckpt_try_open(dir));
    o.p[0].tensor.dtype = CKPT_BF16;
    assert_int_equal(run_child(try_one, &o), 0);
    o.p[0].count[0] = 40;
    o.p[1] = o.p[0];
    o.p[1].offset[0] = 40;
    o.p[1].count[0] = 60;
    o.n = 2;
    assert_int_equal(run_child(try_one, &o), 0);
    o.p[1].tensor.dtype = CKPT_F32;
    assert_int_equal(run_child(try_one, &o), 1);
    o.p[1].tensor.dtype = CKPT_DTYPES;
    assert_int_equal(run_child(try_one, &o), -SIGABRT);
    free(dir);
}

/* A checkpoint of format 1, kept in the tree. */
static void test_format_1(void **state)
{
    (void)state;
    const char *top = getenv("SSM_TOP");
    char *dir = path_join(top ? top : ".", "tests/data/ckpt-1");
    static const float b[5] = { 0.040420793f, -0.761299849f, 0.42997998f, 1.34997165f, -1.17477846f };
    const int64_t zero[CKPT_MAX_DIM] = { 0 }, five[CKPT_MAX_DIM] = { 5 };
    float got[5];
    struct ckpt *c = ckpt_try_open(dir);
    if (!c)
        fail_msg("%s", err_last());
    assert_int_equal(ckpt_tensors(c), 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(ckpt_tensor(c, i)->dtype, CKPT_F32);
    assert_int_equal(ckpt_try_verify(c, 0), 0);
    assert_int_equal(ckpt_try_read(c, "model/b", zero, five, got), 0);
    for (int i = 0; i < 5; i++)
        assert_true(got[i] == b[i]);
    ckpt_close(c);
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

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checkpoints), cmocka_unit_test(test_coverage),
        cmocka_unit_test(test_raw),         cmocka_unit_test(test_dtypes_refused),
        cmocka_unit_test(test_format_1),    cmocka_unit_test(test_damaged_checkpoints),
        cmocka_unit_test(test_cut_rows),    cmocka_unit_test(test_prepare),
    };
    io_begin("io_ckpt", argc, argv);
    return io_end(cmocka_run_group_tests(tests, NULL, NULL));
}
