/* io_h5.c - tests of common/io/h5: attributes, tables, shapes that no file holds
 * SPDX-License-Identifier: MIT
 */
#include "io.h"

#include <hdf5.h>
#include <math.h>

#include "common/io/h5.h"

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

/* A file made again later has the same bytes: nothing in it says when. */
static void test_no_time(void **state)
{
    (void)state;
    char *path = at("time.h5");
    static const char *const objects[] = { "/", "/a", "/a/b", "/a/b/data", "/c", "/c/d", "/e", "/e/chunks" };
    struct h5 *f = h5_create(path, path);
    int64_t one = 1;
    h5_put_group(f, "/c/d");
    struct h5_data *d = h5_make_data(f, "/a/b/data", H5_F32, 1, &one);
    h5_write(d, &(int64_t){ 0 }, &one, &(float){ 1 });
    h5_end_data(d);
    h5_end_chunks(h5_make_chunks(f, "/e/chunks", H5_U16, 1024, 1));
    h5_finish(f);
    hid_t id = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    for (size_t i = 0; i < sizeof objects / sizeof *objects; i++) {
        H5O_info_t info;
        assert_true(H5Oget_info_by_name1(id, objects[i], &info, H5P_DEFAULT) >= 0);
        assert_true(info.atime == 0 && info.mtime == 0 && info.ctime == 0 && info.btime == 0);
    }
    H5Fclose(id);
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

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attributes),
        cmocka_unit_test(test_no_time),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_hostile_shapes),
    };
    io_begin("io_h5", argc, argv);
    return io_end(cmocka_run_group_tests(tests, NULL, NULL));
}
