/* io_archive.c - tests of common/io/archive: files as Python writes them (tests/golden), folders, damage
 * SPDX-License-Identifier: MIT
 */
#include "archive.h"

#include <dirent.h>
#include <math.h>

#include "common/base/json.h"

static void test_index(void **state)
{
    (void)state;
    static const struct {
        const char *json, *words;
    } cases[] = {
        { "{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"two.safetensors\"}}", NULL },
        { "{\"weight_map\":{\"a\":\"one.safetensors\"}}", NULL }, /* b's shard is not asked for */
        { "{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"one.safetensors\"}}",
          "tensor 'b' is not in one.safetensors" },
        { "{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\"}}",
          "tensor 'a' is in one.safetensors, by the weight_map in two.safetensors" },
        { "{\"weight_map\":{\"c\":\"one.safetensors\"}}",
          "tensor 'a' of one.safetensors is not in the weight_map" },
        { "{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"three.safetensors\"}}",
          "three.safetensors': No such file" },
        { "{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"again.safetensors\"}}",
          "tensor 'a' is in again.safetensors" },
        { "{\"weight_map\":{\"a\":\"../one.safetensors\"}}", "'a' is in the shard '../one.safetensors'" },
        { "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "shards are files in the folder" },
        { "{\"weight_map\":{\"a\":\"..\"}}", "shards are files in the folder" },
        { "{\"weight_map\":{\"a\":\"\"}}", "shards are files in the folder" },
        { "{\"weight_map\":{\"a\":1}}", "'a' is 1, not a string" },
        { "{\"weight_map\":{}}", "0 shards" },
        { "{\"weight_map\":[]}", "'weight_map' is an array" },
        { "{}", "'weight_map' is missing" },
        { "[]", "'weight_map' is missing" },
        { "", "line 1" },
    };
    char *dir = at("set"), *index = at("set/model.safetensors.index.json"), *one = at("set/one.safetensors");
    char *two = at("set/two.safetensors"), *again = at("set/again.safetensors");
    out_make_dirs(dir);
    refused(dir, "holds no model.safetensors");
    put_safetensors(one, "{\"a\":" T("[2]", 0, 8) ",\"__metadata__\":{\"format\":\"pt\"}}", 8);
    put_safetensors(two, "{\"b\":" T("[2]", 0, 8) ",\"__metadata__\":{\"format\":\"pt\"}}", 8);
    put_safetensors(again, "{\"a\":" T("[2]", 0, 8) "}", 8);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file(index, cases[i].json, strlen(cases[i].json));
        if (cases[i].words)
            refused(dir, cases[i].words);
        else
            archive_close(opened(dir));
    }
    char *both = at("set/model.safetensors");
    put_safetensors(both, "{}", 0);
    refused(dir, "holds both");
    free(dir);
    free(index);
    free(one);
    free(two);
    free(again);
    free(both);
}

static void test_state_dict(void **state)
{
    (void)state;
    char *path = golden("torch/state.pt");
    struct archive *a = opened(path);
    static const struct {
        const char *name;
        enum foreign_dtype d;
        int ndim;
        int64_t shape[3], first;
    } want[] = {
        { "brain.high", FOREIGN_BF16, 2, { 2, 3 }, 4 }, { "brain.low", FOREIGN_BF16, 2, { 2, 2 }, 0 },
        { "double", FOREIGN_F64, 3, { 1, 2, 1 }, 0 },   { "embedding.weight", FOREIGN_F32, 2, { 3, 4 }, 0 },
        { "half", FOREIGN_F16, 1, { 5 }, 0 },           { "lm_head.weight", FOREIGN_F32, 2, { 3, 4 }, 0 },
        { "none", FOREIGN_F32, 2, { 0, 4 }, 0 },        { "other.Bool", FOREIGN_BOOL, 1, { 8 }, 0 },
        { "other.Byte", FOREIGN_U8, 1, { 8 }, 0 },      { "other.Char", FOREIGN_I8, 1, { 8 }, 0 },
        { "other.Int", FOREIGN_I32, 1, { 8 }, 0 },      { "other.Short", FOREIGN_I16, 1, { 8 }, 0 },
        { "scalar", FOREIGN_I64, 0, { 0 }, 0 },
    };
    assert_int_equal(archive_tensors(a), sizeof want / sizeof *want);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const struct foreign_tensor *t = archive_tensor(a, (int64_t)i);
        float f[16];
        assert_string_equal(t->name, want[i].name);
        assert_int_equal(t->dtype, want[i].d);
        assert_int_equal(t->ndim, want[i].ndim);
        assert_memory_equal(t->shape, want[i].shape, (size_t)t->ndim * sizeof *t->shape);
        if (t->dtype <= FOREIGN_BF16) {
            assert_int_equal(archive_try_read_f32(a, t, 0, t->elements, f), 0);
            for (int64_t k = 0; k < t->elements; k++)
                assert_true(f[k] == (float)(k + want[i].first) / 2 - 3);
        }
    }
    int32_t ints[8];
    assert_int_equal(archive_try_read_bytes(a, archive_find(a, "other.Int"), 0, 8, ints), 0);
    assert_int_equal(ints[0], -3);
    assert_true(archive_find(a, "lm_head.weight")->offset == archive_find(a, "embedding.weight")->offset);
    archive_close(a);
    free(path);
    path = golden("torch/transposed.pt");
    refused(path, "'a.wide' is not contiguous");
    free(path);
    path = golden("torch/big.pt");
    refused(path, "byte order is 'big'");
    free(path);
}

static void test_values(void **state)
{
    (void)state;
    for (int protocol = 2; protocol <= 5; protocol++) {
        char *name = xasprintf("torch/args%d.pt", protocol), *path = golden(name);
        struct archive *a = opened(path);
        int64_t i = 7;
        double r;
        bool b;
        const char *s;
        assert_int_equal(archive_tensors(a), 1);
        assert_string_equal(archive_tensor(a, 0)->name, "model.decoder.weight");
        assert_int_equal(archive_meta_int(a, "args.num_layers", 1, 100, &i), 1);
        assert_int_equal(i, 56);
        assert_int_equal(archive_meta_int(a, "args.num_layers", 1, 10, &i), -1);
        said("'args.num_layers' is 56, not an integer from 1 to 10");
        assert_int_equal(archive_meta_int(a, "args.low", -100000, 0, &i), 1);
        assert_int_equal(i, -70000);
        assert_int_equal(archive_meta_int(a, "iteration", 0, INT64_MAX, &i), 1);
        assert_int_equal(i, 700000);
        assert_int_equal(archive_meta_int(a, "args.load", 0, 9, &i), 0); /* None */
        assert_int_equal(archive_meta_int(a, "args.absent", 0, 9, &i), 0);
        said("'args.absent' is missing");
        assert_int_equal(archive_meta_int(a, "args.big", 0, 9, &i), 0); /* 2^100 */
        assert_int_equal(i, 700000);
        assert_int_equal(archive_meta_int(a, "layers.1.a", 0, 9, &i), 1);
        assert_int_equal(archive_meta_real(a, "args.norm_epsilon", 0, 1, &r), 1);
        assert_true(r == 1e-5);
        assert_int_equal(archive_meta_real(a, "args.num_layers", 0, 100, &r), 1);
        assert_int_equal(archive_meta_real(a, "args.betas.1", 0, 1, &r), 1);
        assert_true(r == 0.95);
        assert_int_equal(archive_meta_real(a, "args.normalization", 0, 1, &r), -1);
        said("'args.normalization' is 'RMSNorm', not a number");
        assert_int_equal(archive_meta_bool(a, "args.swiglu", &b), 1);
        assert_false(b);
        assert_int_equal(archive_meta_bool(a, "args.num_layers", &b), -1);
        assert_int_equal(archive_meta_str(a, "args.normalization", &s), 1);
        assert_string_equal(s, "RMSNorm");
        assert_int_equal(archive_meta_str(a, "args.params_dtype", &s), 1);
        assert_string_equal(s, "torch.bfloat16");
        assert_int_equal(archive_meta_str(a, "args.swiglu", &s), -1);
        said("'args.swiglu' is False, not a string");
        assert_non_null(archive_find_value(a, "args.load"));
        assert_null(archive_find_value(a, "args.model_type"));
        archive_close(a);
        free(name);
        free(path);
    }
}

static void test_megatron(void **state)
{
    (void)state;
    char *pt = golden("torch/args2.pt"), *dir = at("megatron"),
         *tracker = at("megatron/latest_checkpointed_iteration.txt");
    static const char *const folders[] = { "release", "iter_0000300" }, *const says[] = { "release",
                                                                                          "300\n" };
    struct buf b = { 0 };
    read_file(pt, &b);
    for (int i = 0; i < 2; i++) {
        char *iteration = path_join(dir, folders[i]), *rank = path_join(iteration, "mp_rank_00");
        char *file = path_join(rank, "model_optim_rng.pt");
        out_make_dirs(rank);
        write_file(file, b.data, b.len);
        write_file(tracker, says[i], strlen(says[i]));
        struct archive *a = opened(dir);
        assert_int_equal(archive_kind(a), ARCHIVE_MEGATRON);
        assert_string_equal(archive_file(a, 0), file);
        archive_close(a);
        a = opened(iteration); /* named itself */
        assert_int_equal(archive_kind(a), ARCHIVE_MEGATRON);
        archive_close(a);
        static const char *const others[] = { "mp_rank_01", "mp_rank_00_001" };
        for (int k = 0; k < 2; k++) {
            char *other = path_join(iteration, others[k]);
            out_make_dirs(other);
            refused(dir, others[k]);
            refused(iteration, "merge it to one");
            out_remove_tree(other);
            free(other);
        }
        out_remove_tree(iteration);
        free(iteration);
        free(rank);
        free(file);
    }
    static const char *const bad[] = { "", "../..", "-1", "12345678901", "3x" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_file(tracker, bad[i], strlen(bad[i]));
        refused(dir, "neither 'release' nor the number");
    }
    write_file(tracker, "17", 2);
    refused(dir, "iter_0000017");
    buf_free(&b);
    free(pt);
    free(dir);
    free(tracker);
}

/* Files cut off and changed in one byte: an answer of some kind, and what is said to be in the file is
 * read from it. */
static void test_damage(void **state)
{
    (void)state;
    char *paths[] = { golden("torch/state.pt"), golden("torch/args2.pt"), at("zip.pt"),
                      at("damage.safetensors") };
    char *path = at("damaged");
    put_zip(paths[2], GOOD, sizeof GOOD - 1, true);
    put_safetensors(paths[3], "{\"a\":" T("[2]", 0, 8) ",\"b\":" T("[3]", 8, 20) "}", 20);
    for (int p = 0; p < 4; p++) {
        struct buf whole = { 0 };
        int opens = 0;
        read_file(paths[p], &whole);
        for (int i = 0; damage(path, &whole, i, 60, 400); i++) {
            struct archive *a = archive_try_open(path);
            if (!a) {
                assert_int_equal(memcmp(err_last(), path, strlen(path)), 0);
                continue;
            }
            opens++;
            for (int64_t k = 0; k < archive_tensors(a); k++) {
                const struct foreign_tensor *t = archive_tensor(a, k);
                char *data = xmalloc((size_t)t->bytes + 1);
                assert_int_equal(archive_try_read_bytes(a, t, 0, t->elements, data), 0);
                free(data);
            }
            archive_close(a);
        }
        assert_in_range(opens, 1, 400);
        buf_free(&whole);
        free(paths[p]);
    }
    free(path);
}

/* Every model in tests/golden opens, and its numbers are numbers. */
static void test_golden_models(void **state)
{
    (void)state;
    char *top = golden("");
    DIR *d = opendir(top);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        char *dir = path_join(top, e->d_name), *config = path_join(dir, "config.json");
        char *tracker = path_join(dir, "latest_checkpointed_iteration.txt");
        if (e->d_name[0] != '.' && (path_exists(config) || path_exists(tracker))) {
            struct archive *a = opened(dir);
            int64_t numbers = 0;
            for (int64_t i = 0; i < archive_tensors(a); i++) {
                const struct foreign_tensor *t = archive_tensor(a, i);
                if (t->dtype > FOREIGN_BF16)
                    continue;
                float *f = xcalloc((size_t)t->elements + 1, sizeof *f);
                assert_int_equal(archive_try_read_f32(a, t, 0, t->elements, f), 0);
                for (int64_t k = 0; k < t->elements; k++)
                    assert_true(isfinite(f[k]));
                numbers += t->elements;
                free(f);
            }
            assert_true(numbers > 0);
            archive_close(a);
            struct json *j = path_exists(config) ? json_try_file(config, 1 << 20) : NULL;
            assert_int_equal(j != NULL, path_exists(config));
            json_free(j);
        }
        free(dir);
        free(config);
        free(tracker);
    }
    closedir(d);
    free(top);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_state_dict),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_megatron),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_golden_models),
    };
    io_begin("io_archive", argc, argv);
    return io_end(cmocka_run_group_tests(tests, NULL, NULL));
}
