/* io_torch.c - tests of common/io/torchzip and pickle: hostile zip files and pickles, made by bytes
 * SPDX-License-Identifier: MIT
 */
#include "archive.h"

#include "common/io/pickle.h"

static void patch(const char *path, size_t place, uint64_t v, int bytes)
{
    struct buf b = { 0 };
    read_file(path, &b);
    assert_true(place + (size_t)bytes <= b.len);
    for (int i = 0; i < bytes; i++)
        b.data[place + (size_t)i] = (char)(v >> 8 * i);
    write_file(path, b.data, b.len);
    buf_free(&b);
}

static void test_zip(void **state)
{
    (void)state;
    char *path = at("zip.pt");
    const size_t n = sizeof GOOD - 1;
    float f[4];
    for (int wide = 0; wide < 2; wide++) {
        put_zip(path, GOOD, n, wide);
        struct archive *a = opened(path);
        assert_int_equal(archive_kind(a), ARCHIVE_TORCH);
        assert_int_equal(archive_tensors(a), 1);
        const struct foreign_tensor *t = archive_find(a, "w");
        assert_int_equal(archive_try_read_f32(a, t, 0, 4, f), 0);
        assert_memory_equal(f, four(), sizeof f);
        archive_close(a);
    }
    /* Where things stand: local headers, the directory with its two entries, the end. */
    const size_t local2 = 30 + 14 + n, directory = local2 + 30 + 12 + 16, entry2 = directory + 46 + 14;
    const size_t end = entry2 + 46 + 12;
    const struct {
        size_t place;
        uint64_t v;
        int bytes;
        const char *words;
    } cases[] = {
        { end + 10, 3, 2, "3 entries in a zip directory of 118 bytes" },
        { end + 10, 0, 2, "without NAME/data.pkl" },
        { end + 10, 60000, 2, "60000 entries in a zip directory of" },
        { end + 12, 0xfffffff0, 4, "a zip directory of 2 entries and 4294967280 bytes" },
        { end + 12, 0x7000000, 4, "the zip directory is said to be at byte" },
        { end + 16, 0x7fffffff, 4, "the zip directory is said to be at byte 2147483647" },
        { end + 16, 0xffffffff, 4, "the zip64 locator is missing" },
        { end + 4, 1, 2, "a part of a zip archive of several" },
        { end, 0, 4, "the zip directory at its end is missing" },
        { end + 20, 5, 2, "the zip directory at its end is missing" },
        { directory, 0, 4, "entry 0 of the zip directory is damaged" },
        { entry2 + 10, 8, 2, "zip entry 'model/data/0' is compressed" },
        { entry2 + 8, 1, 2, "zip entry 'model/data/0' is encrypted" },
        { entry2 + 20, 17, 4, "'model/data/0' has two sizes, 17 and 16" },
        { entry2 + 28, 60000, 2, "entry 1 of the zip directory is damaged" },
        { entry2 + 30, 1, 2, "entry 1 of the zip directory is damaged" },
        { entry2 + 42, 0x7fffffff, 4, "'model/data/0' is said to be at byte 2147483647" },
        { entry2 + 42, 0xffffffff, 4, "'model/data/0' lacks its zip64 sizes" },
        { entry2 + 42, 8, 4, "overlaps the next one" },
        { entry2 + 42, 0, 4, "overlaps the next one" },
        { entry2 + 42, local2 - 1, 4, "overlaps the next one" },
        { entry2 + 46, 'M', 1, "there is no zip entry 'model/data/0'" },
        { entry2 + 46 + 11, '\n', 1, "a name that is not allowed" },
        { entry2 + 46 + 11, '1', 1, "there is no zip entry 'model/data/0'" },
        { directory + 46, '/', 1, "without NAME/data.pkl" },
        { local2, 0, 4, "'model/data/0' has no header of its own" },
        { local2 + 8, 8, 2, "'model/data/0' has no header of its own" },
        { local2 + 26, 11, 2, "'model/data/0' has no header of its own" },
        { local2 + 30, 'M', 1, "'model/data/0' has no header of its own" },
        { local2 + 28, 1, 2, "'model/data/0' overlaps the next one" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_zip(path, GOOD, n, false);
        patch(path, cases[i].place, cases[i].v, cases[i].bytes);
        refused(path, cases[i].words);
    }
    /* zip64's own end: its place, and the numbers in it */
    const struct {
        size_t place;
        uint64_t v;
        const char *words;
    } wide[] = {
        { end + 56 + 8, UINT64_MAX, "the zip64 directory's end is said to be at byte 18446744073709551615" },
        { end + 56 + 8, end + 1, "the zip64 directory's end is said to be at byte" },
        { end + 56 + 8, end - 1, "there is no zip64 directory's end" },
        { end + 32, UINT64_MAX, "a zip directory of 18446744073709551615 entries" },
        { end + 40, UINT64_MAX, "and 18446744073709551615 bytes" },
        { end + 48, UINT64_MAX, "the zip directory is said to be at byte 18446744073709551615" },
    };
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) {
        put_zip(path, GOOD, n, true);
        patch(path, wide[i].place, wide[i].v, 8);
        refused(path, wide[i].words);
    }
    struct zip z = { 0 };
    for (int twice = 0; twice < 3; twice++) {
        zip_add(&z, "model/data.pkl", GOOD, n);
        zip_add(&z, "model/data/0", four(), FOUR);
        zip_add(&z,
                twice == 0   ? "model/data/0"
                : twice == 1 ? "other/data.pkl"
                             : "model/byteorder",
                "big", 3);
        zip_end(&z, false);
        write_file(path, z.file.data, z.file.len);
        zip_free(&z);
        refused(path, twice == 0   ? "two zip entries are called 'model/data/0'"
                      : twice == 1 ? "two pickles, 'model/data.pkl' and 'other/data.pkl'"
                                   : "its byte order is 'big'");
    }
    /* Two entries that nobody reads, in one place. */
    zip_add(&z, "model/data.pkl", GOOD, n);
    zip_add(&z, "model/data/0", four(), FOUR);
    size_t local3 = z.file.len;
    zip_add(&z, "model/x", "12345678", 8);
    zip_add(&z, "model/y", "12345678", 8);
    zip_end(&z, false);
    write_file(path, z.file.data, z.file.len);
    patch(path, z.file.len - 22 - 7 - 4, local3, 4);
    zip_free(&z);
    refused(path, "overlaps the next one");
    write_file(path, "\x80\2\x8a\nl\xfc\x9c\x46\xf9 \x6a\xa8P\x19.", 15);
    refused(path, "before torch 1.6");
    write_file(path, "hello, this is no model", 23);
    refused(path, "neither a safetensors file nor a zip file");
    free(path);
}

static int find_storage(void *arg, const char *key, size_t n, int64_t *offset, int64_t *bytes)
{
    (void)arg;
    if (n != 1 || *key != '0')
        return err_set("F: there is no storage '%.*s'", (int)n, key);
    *offset = 100;
    *bytes = 16;
    return 0;
}

static int run_pickle(const void *data, size_t n, struct foreign_list *l)
{
    return pickle_try_read("F", data, n, find_storage, NULL, 0, l);
}

#define P(s) s, sizeof s - 1
#define CALL(module, name) "\x80\2c" module "\n" name "\n" STR("rm -rf /", "\x08") "\x85R."
#define ONE(size, stride, first) P(DICT("w", "\1", TENSOR(STORE("0", "\1", "K\4"), first, size, stride)))

static void test_pickle_hostile(void **state)
{
    (void)state;
    static const struct {
        const char *data;
        size_t n;
        const char *words;
    } cases[] = {
        { P(CALL("posix", "system")),
          "F: the pickle names 'posix.system', which this reader does not know; nothing was executed" },
        { P(CALL("os", "system")), "names 'os.system'" },
        { P(CALL("builtins", "eval")), "names 'builtins.eval'" },
        { P(CALL("__builtin__", "getattr")), "names '__builtin__.getattr'" },
        { P(CALL("torch.hub", "load")), "names 'torch.hub.load'" },
        { P(CALL("megatron.core.enums.x", "y")), "names 'megatron.core.enums.x.y'" },
        { P(CALL("evil.enums", "y")), "names 'evil.enums.y'" },
        { P(CALL("torch", "FloatStorage")), "a call of 'torch.FloatStorage'" },
        { P(CALL("torch", "float32")), "a call of 'torch.float32'" },
        { P("\x80\4\x8c\5posix\x8c\6system\x93."), "names 'posix.system'" },
        { P("\x80\4\x8c\5posixK\1\x93."), "an imported name that is no string" },
        { P("\x80\2cposix\nsystem"), "does not end" },
        { P("\x80\2(iposix\nsystem\n."), "opcode 0x69" },
        { P("\x80\2(cposix\nsystem\no."), "names 'posix.system'" },
        { P("\x80\2\x82\1."), "opcode 0x82" },
        { P("\x80\2}}R."), "a call of something that is not one of the known names" },
        { P("\x80\2}}\x81."), "an object of an unknown class" },
        { P("\x80\2ctorch\nSize\n)\x81."), "an object of 'torch.Size'" },
        { P("\x80\2cargparse\nNamespace\n)\x81K\1b."), "state is not a dictionary" },
        { P("\x80\2K\1}b."), "contents for an object that has none" },
        { P(""), "at byte 0: 1 bytes are to follow, 0 do" },
        { P("\x80\2"), "1 bytes are to follow" },
        { P("\x80\1N."), "protocol 1" },
        { P("\x80\6N."), "protocol 6" },
        { P("\x80\2."), "the stack holds 0 values where 1 are needed" },
        { P("\x80\2t."), "no mark" },
        { P("\x80\2Kx(s."), "the stack holds 0 values" },
        { P("\x80\2](}s."), "the stack holds 1 values where 3 are needed" },
        { P("\x80\2}(K\1u."), "a key without a value" },
        { P("\x80\2K\1K\1a."), "elements for something that is no list" },
        { P("\x80\2]K\1K\1s."), "elements for something that is no dictionary" },
        { P("\x80\2X\xff\xff\xff\xff"
            "abc."),
          "a string of 4294967295 bytes; 4 follow" },
        { P("\x80\2\x8d\xff\xff\xff\xff\xff\xff\xff\xff."), "a string of 18446744073709551615 bytes" },
        { P("\x80\2\x8b\xff\xff\xff\x7f."), "2147483647 bytes are to follow" },
        { P("\x80\2Nr\xff\xff\xff\xff."), "memo 4294967295; 4000000 are allowed" },
        { P("\x80\2h\1."), "memo 1 is empty" },
        { P("\x80\2j\xff\xff\xff\xff."), "memo 4294967295 is empty" },
        { P("\x80\2K\1Q."), "a persistent id that is not torch's" },
        { P("\x80\2(" STR("storage", "\7") "K\1" STR("0", "\1") STR("cpu", "\3") "K\4tQ."),
          "a persistent id that is not" },
        { P("\x80\2(" STR("storage", "\7") "ctorch\nSize\n" STR("0", "\1") STR("cpu", "\3") "K\4tQ."),
          "a persistent id that is not" },
        { P("\x80\2" STORE("0", "\1", "J\xff\xff\xff\xff") "."), "a persistent id that is not" },
        /* a list that contains itself, a dictionary that does, two that contain each other */
        { P("\x80\2]q\0h\0a."), "contains itself" },
        { P("\x80\2}q\0" STR("me", "\2") "h\0s."), "'me' contains itself" },
        { P("\x80\2]q\0]q\1h\0ah\1a."), "contains itself" },
        { P("\x80\2ccollections\nOrderedDict\n]q\0h\0a\x85R."), "something else than pairs" },
        { P("\x80\2ccollections\nOrderedDict\nK\1\x85R."), "something else than a list of pairs" },
        /* tensors */
        { P("\x80\2" TENSOR(STORE("0", "\1", "K\4"), "K\0", "K\2K\2\x86", "K\2K\1\x86") "."),
          "a tensor alone" },
        { ONE("K\2K\2\x86", "K\1K\2\x86", "K\0"), "'w' is not contiguous" },
        { ONE("K\2K\2\x86", "K\0K\0\x86", "K\0"), "'w' is not contiguous" },
        { ONE("K\2K\2\x86", "K\2K\1\x86", "K\1"), "'w' takes 4 elements from 1 on out of a storage of 4" },
        { ONE("K\2K\2\x86", "K\2K\1\x86", "J\xff\xff\xff\xff"), "'w' takes 4 elements from -1 on" },
        { ONE("K\1K\5\x86", "K\5K\1\x86", "K\0"), "'w' takes 5 elements from 0 on" },
        { ONE("J\xff\xff\xff\xffK\2\x86", "K\2K\1\x86", "K\0"), "a tensor with a dimension of -1" },
        { ONE("\x8a\x08\0\0\0\0\0\0\0\x40K\x08\x86", "K\x08K\1\x86", "K\0"), "more than 2^63 bytes" },
        { ONE("K\4\x85", "K\2K\1\x86", "K\0"), "1 dimensions and 2 strides" },
        { ONE("(K\1K\1K\1K\1K\1K\1K\1K\1K\1t", "(K\1K\1K\1K\1K\1K\1K\1K\1K\1t", "K\0"), "9 dimensions" },
        { ONE("NN\x86", "K\2K\1\x86", "K\0"), "not made of integers" },
        { ONE("K\4", "K\1", "K\0"), "a tensor that is not (storage, offset, size, stride" },
        { P(DICT("w", "\1", TENSOR(STORE("0", "\1", "K\5"), "K\0", "K\2K\2\x86", "K\2K\1\x86"))),
          "'w' is in a storage of 5 elements, of which the file holds 16 bytes" },
        { P(DICT("w", "\1", TENSOR(STORE("1", "\1", "K\4"), "K\0", "K\2K\2\x86", "K\2K\1\x86"))),
          "there is no storage '1'" },
        { P(DICT("w\n", "\2", TENSOR(STORE("0", "\1", "K\4"), "K\0", "K\4\x85", "K\1\x85"))),
          "control byte 10" },
        { P("\x80\2ctorch._utils\n_rebuild_parameter\nNNN\x87R."),
          "a parameter that is not made of a tensor" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct foreign_list l = { 0 };
        int bad = run_pickle(cases[i].data, cases[i].n, &l);
        foreign_free(&l);
        if (bad != -1)
            fail_msg("pickle %zu was read; to be refused because of '%s'", i, cases[i].words);
        said(cases[i].words);
        assert_memory_equal(err_last(), "F: ", 3);
    }
    /* Any beginning of a good one is refused. */
    for (size_t n = 0; n < sizeof GOOD - 1; n++) {
        struct foreign_list l = { 0 };
        char *copy = xmalloc(n + 1); /* so that ASan sees a step beyond */
        memcpy(copy, GOOD, n);
        char *exact = xrealloc(copy, n ? n : 1);
        assert_int_equal(run_pickle(exact, n, &l), -1);
        foreign_free(&l);
        free(exact);
    }
}

static void add_key(struct buf *b, size_t n)
{
    char size[4] = { (char)(n & 255), (char)(n >> 8 & 255), (char)(n >> 16 & 255), 0 };
    buf_add(b, "X", 1);
    buf_add(b, size, 4);
    for (size_t i = 0; i < n; i++)
        buf_add(b, "k", 1);
}

/* Dotted names around the longest that is allowed, {outer: {inner: 1}} and {outer: [1]}: read whole or refused. */
static void test_pickle_long_names(void **state)
{
    (void)state;
    static const size_t inner[] = { 0, 1, 3, 200, 100000 }; /* 0: a list */
    for (size_t outer = FOREIGN_MAX_NAME - 4; outer <= FOREIGN_MAX_NAME + 1; outer++)
        for (size_t i = 0; i < sizeof inner / sizeof *inner; i++) {
            struct buf b = { 0 };
            struct foreign_list l = { 0 };
            buf_add(&b, "\x80\2}", 3);
            add_key(&b, outer);
            if (inner[i]) {
                buf_add(&b, "}", 1);
                add_key(&b, inner[i]);
                buf_add(&b, "K\1ss.", 5);
            } else {
                buf_add(&b, "]K\1as.", 6);
            }
            bool fits = outer + 1 + (inner[i] ? inner[i] : 1) <= FOREIGN_MAX_NAME;
            assert_int_equal(run_pickle(b.data, b.len, &l), fits ? 0 : -1);
            foreign_free(&l);
            buf_free(&b);
        }
}

/* Small pickles that would take much: memory and time have bounds. */
static void test_pickle_bombs(void **state)
{
    (void)state;
    struct foreign_list l = { 0 };
    struct buf b = { 0 };
    double start = now_seconds();
    /* lists in lists, 100000 deep */
    buf_add(&b, "\x80\2", 2);
    for (int i = 0; i < 100000; i++)
        buf_add(&b, "]", 1);
    for (int i = 1; i < 100000; i++)
        buf_add(&b, "a", 1);
    buf_add(&b, ".", 1);
    assert_int_equal(run_pickle(b.data, b.len, &l), -1);
    said("nested deeper than 64");
    /* a list of two lists, each of two: 2^60 paths */
    for (int leaf = 0; leaf < 2; leaf++) {
        buf_clear(&b);
        buf_add(&b, leaf ? "\x80\2Nq\0" : "\x80\2]q\0", 5);
        for (int i = 0; i < 60; i++)
            buf_add(&b, "]q\1h\0ah\0aq\0", 11);
        buf_add(&b, ".", 1);
        foreign_free(&l);
        assert_int_equal(run_pickle(b.data, b.len, &l), -1);
        said(leaf ? "bytes" : "too many");
    }
    /* one long string, a thousand times */
    buf_clear(&b);
    buf_add(&b, "\x80\2]X\0\0\1\0", 8);
    for (int i = 0; i < 65536; i++)
        buf_add(&b, "x", 1);
    buf_add(&b, "q\0a", 3);
    for (int i = 0; i < 2000; i++)
        buf_add(&b, "h\0a", 3);
    buf_add(&b, ".", 1);
    foreign_free(&l);
    assert_int_equal(run_pickle(b.data, b.len, &l), -1);
    said("take more than 67108864 bytes");
    /* the stack, the marks, the values */
    static const char *const ops[] = { "2", "(", "N0", "h\0" };
    static const char *const words[] = { "values on the stack", "marks", "values", "values on the stack" };
    for (int k = 0; k < 4; k++) {
        buf_clear(&b);
        buf_add(&b, "\x80\2Nq\0", 5);
        size_t len = k == 2 ? 2 : k == 3 ? 2 : 1;
        for (int i = 0; i < 4200000; i++)
            buf_add(&b, ops[k], len);
        foreign_free(&l);
        assert_int_equal(run_pickle(b.data, b.len, &l), -1);
        said(words[k]);
    }
    foreign_free(&l);
    buf_free(&b);
    assert_int_equal(pickle_try_read("F", "", (size_t)PICKLE_MAX + 1, find_storage, NULL, 0, &l), -1);
    said("67108864 are allowed");
    if (now_seconds() - start > 60)
        fail_msg("took %.0f s", now_seconds() - start);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zip),
        cmocka_unit_test(test_pickle_hostile),
        cmocka_unit_test(test_pickle_long_names),
        cmocka_unit_test(test_pickle_bombs),
    };
    io_begin("io_torch", argc, argv);
    return io_end(cmocka_run_group_tests(tests, NULL, NULL));
}
