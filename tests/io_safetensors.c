/* io_safetensors.c - tests of common/io/foreign and safetensors: numbers, the writer, hostile headers
 * SPDX-License-Identifier: MIT
 */
#include "archive.h"

#include <math.h>

#include "common/io/safetensors.h"

static void test_numbers(void **state)
{
    (void)state;
    /* All 65536: to fp32 and back. NaNs stay NaNs. */
    for (uint32_t u = 0; u < 65536; u++) {
        uint16_t h = (uint16_t)u, back;
        float f;
        for (int k = 0; k < 2; k++) {
            enum foreign_dtype d = k ? FOREIGN_F16 : FOREIGN_BF16;
            assert_int_equal(foreign_try_unpack(d, &h, 1, &f), 0);
            assert_int_equal(foreign_try_pack(d, &f, 1, &back), 0);
            if (isnan(f))
                assert_int_equal(foreign_try_unpack(d, &back, 1, &f) + isnan(f), 1);
            else
                assert_int_equal(back, h);
        }
    }
    static const struct {
        enum foreign_dtype d;
        float in, out;
    } cases[] = {
        /* halves go to the even neighbour, what is above them up */
        { FOREIGN_BF16, 1 + 0x1p-8f, 1 },
        { FOREIGN_BF16, 1 + 0x1p-8f + 0x1p-20f, 1 + 0x1p-7f },
        { FOREIGN_BF16, 1 + 3 * 0x1p-8f, 1 + 0x1p-6f },
        { FOREIGN_F16, 1 + 0x1p-11f, 1 },
        { FOREIGN_F16, 1 + 0x1p-11f + 0x1p-20f, 1 + 0x1p-10f },
        { FOREIGN_F16, -1 - 3 * 0x1p-11f, -1 - 0x1p-9f },
        { FOREIGN_F16, 65504, 65504 },
        { FOREIGN_F16, 65519, 65504 },
        { FOREIGN_F16, 0x1p-24f, 0x1p-24f },
        { FOREIGN_F16, 0x1p-25f, 0 },
        { FOREIGN_F16, 0x1.8p-25f, 0x1p-24f },
        { FOREIGN_F16, 0x1.ffep-15f, 0x1p-14f }, /* rounds up into the normal numbers */
        { FOREIGN_F16, INFINITY, INFINITY },
        { FOREIGN_BF16, -INFINITY, -INFINITY },
        { FOREIGN_F64, 0.1f, 0.1f },
        { FOREIGN_F32, -0.0f, -0.0f },
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        double raw;
        float f;
        assert_int_equal(foreign_try_pack(cases[k].d, &cases[k].in, 1, &raw), 0);
        assert_int_equal(foreign_try_unpack(cases[k].d, &raw, 1, &f), 0);
        assert_true(f == cases[k].out);
    }
    float big = 65520, huge = 3.4e38f, f;
    char raw[8];
    assert_int_equal(foreign_try_pack(FOREIGN_F16, &big, 1, raw), -1);
    said("65520 does not fit F16");
    assert_int_equal(foreign_try_pack(FOREIGN_BF16, &huge, 1, raw), -1);
    assert_int_equal(foreign_try_pack(FOREIGN_I64, &big, 1, raw), -1);
    assert_int_equal(foreign_try_unpack(FOREIGN_I64, raw, 1, &f), -1);
    double third = 1.0 / 3;
    assert_int_equal(foreign_try_unpack(FOREIGN_F64, &third, 1, &f), 0);
    assert_true(f == (float)(1.0 / 3));
}

static struct foreign_tensor tensor(const char *name, enum foreign_dtype d, int ndim, int64_t a, int64_t b)
{
    return (struct foreign_tensor){
        .name = (char *)(uintptr_t)name, .dtype = d, .ndim = ndim, .shape = { a, b }
    };
}

/* What is written comes back, whatever the shards; numbers are multiples of 1/8, which all types hold. */
static void test_safetensors_round_trip(void **state)
{
    (void)state;
    const struct foreign_tensor t[] = {
        tensor("none", FOREIGN_F32, 2, 0, 5),         tensor("z", FOREIGN_F32, 2, 30, 7),
        tensor("b.weight", FOREIGN_BF16, 1, 9, 0),    tensor("a", FOREIGN_F16, 2, 3, 3),
        tensor("scalar", FOREIGN_F64, 0, 0, 0),       tensor("ids", FOREIGN_I64, 1, 4, 0),
        tensor("\xc3\xbc", FOREIGN_F32, 2, 1, 40000), tensor("last none", FOREIGN_BF16, 1, 0, 0),
    };
    enum { N = sizeof t / sizeof *t };
    float in[40000], got[40000];
    for (int i = 0; i < 40000; i++)
        in[i] = (float)(i % 200 - 100) / 8;
    const int64_t ids[4] = { 1, -2, INT64_MAX, 0 };
    static const struct {
        int64_t shard_bytes;
        int files;
    } cases[] = { { 0, 1 }, { 1000000, 1 }, { 916, 2 }, { 900, 3 }, { 1, 6 } };
    char *dir = at("st"), *index = at("st/model.safetensors.index.json");
    out_make_dirs(dir);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct safetensors_writer *w = safetensors_create(dir, t, N, cases[c].shard_bytes, c > 0);
        for (int i = 0; i < N; i++) {
            struct foreign_tensor s = t[i];
            assert_int_equal(foreign_try_size(&s), 0);
            if (s.dtype == FOREIGN_I64) {
                safetensors_put_raw(w, ids, 4);
                continue;
            }
            for (int64_t k = 0, n; k < s.elements; k += n) {
                n = 1 + draw(s.elements - k);
                safetensors_put_f32(w, in + k, n);
            }
        }
        safetensors_commit(w);
        assert_int_equal(path_exists(index), cases[c].files > 1);
        struct archive *a = opened(dir);
        assert_int_equal(archive_kind(a), ARCHIVE_SAFETENSORS);
        assert_string_equal(archive_dir(a), dir);
        assert_int_equal(archive_files(a), cases[c].files);
        assert_int_equal(archive_tensors(a), N);
        for (int i = 0; i < N; i++) {
            const struct foreign_tensor *f = archive_find(a, t[i].name);
            assert_non_null(f);
            assert_int_equal(f->dtype, t[i].dtype);
            assert_int_equal(f->ndim, t[i].ndim);
            assert_memory_equal(f->shape, t[i].shape, (size_t)f->ndim * sizeof *f->shape);
            if (f->dtype == FOREIGN_I64) {
                int64_t two[2];
                assert_int_equal(archive_try_read_bytes(a, f, 1, 2, two), 0);
                assert_memory_equal(two, ids + 1, 16);
                assert_int_equal(archive_try_read_f32(a, f, 0, 1, got), -1);
                said("stored as I64");
                continue;
            }
            int64_t first = draw(f->elements + 1), n = draw(f->elements - first + 1);
            assert_int_equal(archive_try_read_f32(a, f, 0, f->elements, got), 0);
            assert_memory_equal(got, in, (size_t)f->elements * 4);
            assert_int_equal(archive_try_read_f32(a, f, first, n, got), 0);
            assert_memory_equal(got, in + first, (size_t)n * 4);
            assert_int_equal(archive_try_read_f32(a, f, 1, f->elements, got), -1);
            assert_int_equal(archive_try_read_f32(a, f, -1, 1, got), -1);
            assert_int_equal(archive_try_read_f32(a, f, 0, INT64_MAX, got), -1);
        }
        assert_null(archive_find(a, "absent"));
        const char *format;
        assert_int_equal(archive_meta_str(a, "__metadata__.format", &format), 1);
        assert_string_equal(format, "pt");
        archive_close(a);
    }
    struct archive *a = opened(index); /* an index can be named itself */
    archive_close(a);
    free(dir);
    free(index);
}

static void create_twice(void *arg)
{
    const struct foreign_tensor t[2] = { tensor("a", FOREIGN_F32, 1, 1, 0),
                                         tensor("a", FOREIGN_F32, 1, 1, 0) };
    safetensors_create(arg, t, 2, 0, true);
}

static void create_over(void *arg) { safetensors_create(arg, NULL, 0, 0, false); }

static void write_infinite(void *arg)
{
    const struct foreign_tensor t[1] = { tensor("a", FOREIGN_F16, 1, 1, 0) };
    struct safetensors_writer *w = safetensors_create(arg, t, 1, 0, true);
    safetensors_put_f32(w, &(float){ 1e6f }, 1);
}

static void test_safetensors_writer_dies(void **state)
{
    (void)state;
    char *dir = at("dies");
    out_make_dirs(dir);
    const struct foreign_tensor t = tensor("a", FOREIGN_F32, 1, 2, 0);
    struct safetensors_writer *w = safetensors_create(dir, &t, 1, 0, false);
    safetensors_put_f32(w, (float[]){ 1, 2 }, 2);
    safetensors_commit(w);
    assert_int_equal(run_child(create_twice, dir), EXIT_FAILED);
    assert_int_equal(run_child(create_over, dir), EXIT_FAILED);
    archive_close(opened(dir)); /* the first is still whole */
    assert_int_equal(run_child(write_infinite, dir), EXIT_FAILED);
    free(dir);
}

static void test_safetensors_hostile(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *words; /* NULL: is read */
    } cases[] = {
        { "{}", 0, NULL },
        { "{\"a\":" T("[2]", 0, 8) "}   ", 8, NULL },
        { "{\"a\":" T("[]", 0, 4) ",\"b\":" T("[0,7]", 4, 4) ",\"c\":" T("[1]", 4, 8) "}", 8, NULL },
        { "{\"a\":" T("[2]", 0, 8) ",\"b\":" T("[2]", 0, 8) "}", 8,
          "tensor 'b' begins at 0, where the one before ends at 8" },
        { "{\"a\":" T("[2]", 0, 8) ",\"b\":" T("[2]", 4, 12) "}", 12, "begins at 4" },
        { "{\"a\":" T("[2]", 0, 8) ",\"b\":" T("[2]", 12, 20) "}", 20, "begins at 12" },
        { "{\"a\":" T("[2]", 4, 12) "}", 12, "begins at 4" },
        { "{\"a\":" T("[2]", 0, 8) "}", 9, "1 bytes behind the last tensor" },
        { "{\"a\":" T("[2]", 0, 8) "}", 7, "'data_offsets[1]' is 8, not an integer from 0 to 7" },
        { "{}", 1, "1 bytes behind" },
        { "{\"a\":" T("[3]", 0, 8) "}", 8, "tensor 'a': its shape makes 12 bytes, its data_offsets 8" },
        { "{\"a\":" T("[2]", 8, 0) "}", 8, "not two numbers that rise" },
        { "{\"a\":" T("[-2]", 0, 8) "}", 8, "'shape[0]' is -2" },
        { "{\"a\":" T("[2.0]", 0, 8) "}", 8, "'shape[0]' is 2.0" },
        { "{\"a\":" T("[4294967296,4294967296]", 0, 0) "}", 0, "more than 2^63 bytes" },
        { "{\"a\":" T("[4611686018427387904,4]", 0, 0) "}", 0, "more than 2^63 bytes" },
        { "{\"a\":" T("[0,4294967296,4294967296]", 0, 0) "}", 0, "more than 2^63 bytes" },
        { "{\"a\":" T("[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, "9 dimensions; 8 are allowed" },
        { "{\"a\":" T("[2]", 0, 18446744073709551615) "}", 8, "data_offsets" },
        { "{\"a\":" T("[2]", -1, 7) "}", 8, "'data_offsets[0]' is -1" },
        { "{\"a\":{\"dtype\":\"F33\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
          "tensor 'a': the dtype 'F33' is not known" },
        { "{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "'dtype' is missing" },
        { "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "'shape' is missing" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "'data_offsets' is missing" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8, "not two numbers" },
        { "{\"a\":7}", 0, "tensor 'a': not an object" },
        { "{\"a\":" T("[2]", 0, 8) ",\"a\":" T("[2]", 0, 8) "}", 8, "duplicate" },
        { "{\"\":" T("[2]", 0, 8) "}", 8, "a name of 0 bytes" },
        { "{\"a\\nb\":" T("[2]", 0, 8) "}", 8, "control byte 10" },
        { "{\"__metadata__\":{\"a\":1}}", 0, "__metadata__: 'a' is 1, not a string" },
        { "{\"__metadata__\":[]}", 0, "__metadata__: not an object" },
        { "[]", 0, "not a JSON object" },
        { " {}", 0, "not a JSON object" },
        { "{", 0, "line 1" },
        { "", 0, "line 1" },
    };
    char *path = at("hostile.safetensors");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_safetensors(path, cases[i].header, cases[i].data);
        if (cases[i].words)
            refused(path, cases[i].words);
        else
            archive_close(opened(path));
    }
    struct buf b = { 0 };
    static const uint64_t lengths[] = { 3, 100, 104857601, 1ull << 62, 1ull << 63, UINT64_MAX };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        buf_clear(&b);
        le(&b, lengths[i], 8);
        buf_add(&b, "{}", 2);
        write_file(path, b.data, b.len);
        refused(path, "a header of ");
    }
    for (size_t n = 0; n < 8; n++) {
        write_file(path, "\2\0\0\0\0\0\0\0", n);
        refused(path, "too few");
    }
    refused("/no/such.safetensors", "No such file");
    refused("/dev/null", "not a plain file");
    /* A file that becomes shorter after it was opened. */
    put_safetensors(path, "{\"a\":" T("[2]", 0, 8) "}", 8);
    struct archive *a = opened(path);
    float f[2];
    assert_int_equal(truncate(path, 60), 0);
    assert_int_equal(archive_try_read_f32(a, archive_tensor(a, 0), 0, 2, f), -1);
    said("holds nothing at byte 62");
    archive_close(a);
    buf_free(&b);
    free(path);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_safetensors_round_trip),
        cmocka_unit_test(test_safetensors_writer_dies),
        cmocka_unit_test(test_safetensors_hostile),
    };
    io_begin("io_safetensors", argc, argv);
    return io_end(cmocka_run_group_tests(tests, NULL, NULL));
}
