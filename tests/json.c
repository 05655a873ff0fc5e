/* json.c - tests of common/base/json: getters, what Python writes, refusals, writing
 * SPDX-License-Identifier: MIT
 */
#include "archive.h"

#include <math.h>

#include "common/base/json.h"

static struct json *parsed(const char *text)
{
    struct json *j = json_try_block("F", text, strlen(text));
    if (!j)
        fail_msg("%s", err_last());
    return j;
}

static void test_json_getters(void **state)
{
    (void)state;
    struct json *j = parsed(
        "{\"n\": 12, \"neg\": -3, \"r\": 1.5, \"yes\": true, \"no\": false, \"s\": \"M-*\", \"nil\": null,"
        "\"ints\": [1, 2, 3], \"strs\": [\"a\", \"b\"], \"mixed\": [1, \"b\"], \"map\": {\"k\": 7}}");
    int64_t i = 99, *ints;
    double r = 0.25;
    bool b = false;
    const char *s = "-", **strs;
    const struct json *m;
    size_t n;
    assert_int_equal(json_try_int(j, "n", 1, 12, &i), 1);
    assert_int_equal(i, 12);
    assert_int_equal(json_try_int(j, "absent", 1, 12, &i), 0);
    said("'absent' is missing");
    assert_int_equal(json_try_int(j, "nil", 1, 12, &i), 0);
    assert_int_equal(i, 12);
    assert_int_equal(json_try_int(j, "neg", 0, 12, &i), -1);
    said("'neg' is -3, not an integer from 0 to 12");
    assert_int_equal(json_try_int(j, "r", 0, 12, &i), -1);
    said("'r' is 1.5, not an integer");
    assert_int_equal(json_try_int(j, "s", INT64_MIN, INT64_MAX, &i), -1);
    said("'s' is \"M-*\", not an integer");
    assert_int_equal(json_try_int(j, "map", 0, 1, &i), -1);
    said("'map' is an object, not an integer");
    assert_int_equal(json_try_real(j, "r", 0, 2, &r), 1);
    assert_true(r == 1.5);
    assert_int_equal(json_try_real(j, "n", 0, 20, &r), 1);
    assert_true(r == 12);
    assert_int_equal(json_try_real(j, "n", 0, 2, &r), -1);
    assert_int_equal(json_try_bool(j, "yes", &b), 1);
    assert_true(b);
    assert_int_equal(json_try_bool(j, "no", &b), 1);
    assert_false(b);
    assert_int_equal(json_try_bool(j, "n", &b), -1);
    said("'n' is 12, not true or false");
    assert_int_equal(json_try_str(j, "s", &s), 1);
    assert_string_equal(s, "M-*");
    assert_int_equal(json_try_str(j, "n", &s), -1);
    assert_int_equal(json_try_ints(j, "ints", 1, 3, &ints, &n), 1);
    assert_int_equal(n, 3);
    assert_int_equal(ints[2], 3);
    free(ints);
    assert_int_equal(json_try_ints(j, "ints", 1, 2, &ints, &n), -1);
    said("'ints[2]' is 3");
    assert_int_equal(json_try_ints(j, "mixed", 1, 2, &ints, &n), -1);
    assert_int_equal(json_try_ints(j, "absent", 1, 2, &ints, &n), 0);
    assert_int_equal(json_try_strs(j, "strs", &strs, &n), 1);
    assert_string_equal(strs[1], "b");
    free(strs);
    assert_int_equal(json_try_strs(j, "mixed", &strs, &n), -1);
    said("'mixed[0]' is 1, not a string");
    assert_int_equal(json_try_map(j, "map", &m), 1);
    assert_int_equal(json_try_int(m, "k", 7, 7, &i), 1);
    assert_int_equal(json_try_map(j, "ints", &m), -1);
    assert_int_equal(json_try_list(j, "map", &m), -1);
    assert_int_equal(json_count(j), 11);
    const char *key, *order = "n neg r yes no s nil ints strs mixed map ";
    for (const void *it = json_next(j, NULL, &key, &m); it; it = json_next(j, it, &key, &m)) {
        assert_memory_equal(order, key, strlen(key));
        order += strlen(key) + 1;
    }
    assert_string_equal(order, "");
    json_free(j);
}

/* What Python writes although it is not JSON; what is wrong is said with its line. */
static void test_json_files(void **state)
{
    (void)state;
    double r;
    int64_t i;
    struct json *j = parsed(
        "{\"limit\": [0.0, Infinity], \"least\": -Infinity, \"nan\": NaN, \"text\": \"Infinity\\\" NaN\","
        "\"long\": 1000000000000000019884624838656, \"new\": {\"__float__\": \"Infinity\"}}");
    assert_int_equal(json_try_real_of(json_item(json_at(j, "limit"), 1), "x", 0, HUGE_VAL, &r), 0);
    assert_true(isinf(r) && r > 0);
    assert_int_equal(json_try_real_of(json_item(json_at(j, "limit"), 1), "x", 0, 1, &r), -1);
    assert_int_equal(json_try_real(j, "least", -HUGE_VAL, 0, &r), 1);
    assert_int_equal(json_try_real(j, "nan", -HUGE_VAL, HUGE_VAL, &r), -1);
    assert_int_equal(json_try_real(j, "long", 0, 1e31, &r), 1);
    assert_int_equal(json_try_int(j, "long", 0, INT64_MAX, &i), -1);
    assert_int_equal(json_try_real(j, "new", 0, HUGE_VAL, &r), 1);
    const char *s;
    assert_int_equal(json_try_str(j, "text", &s), 1);
    assert_string_equal(s, "Infinity\" NaN");
    json_free(j);

    static const struct {
        const char *text, *words;
    } bad[] = {
        { "", "bad.json: line 1: " },
        { "{\n\"a\": 1,\n\"a\": 2}", "bad.json: line 3: duplicate" },
        { "{\"a\": 1} x", "line 1" },
        { "{\"a\": \"\\u0000\"}", "line 1" },
        { "{\"a\": \"\xff\"}", "line 1" },
        { "{\"a\": \"line\nline\"}", "line 1" },
        { "{\"a\": Inf}", "line 1" },
        { "{\"a\": 1e999}", "line 1" },
        { "[1, 2", "line 1" },
    };
    char *path = at("bad.json");
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        write_file(path, bad[k].text, strlen(bad[k].text));
        assert_null(json_try_file(path, 1000));
        said(bad[k].words);
    }
    struct buf deep = { 0 };
    for (int k = 0; k < 100000; k++)
        buf_add(&deep, "[", 1);
    assert_null(json_try_block("deep", deep.data, deep.len));
    buf_clear(&deep);
    for (int k = 0; k < 4000001; k++)
        buf_add(&deep, "[,", 2);
    assert_null(json_try_block("many", deep.data, deep.len));
    said("many: more than 4000000 values");
    buf_free(&deep);
    write_file(path, "{}", 2);
    j = json_try_file(path, 2);
    assert_non_null(j);
    json_free(j);
    assert_null(json_try_file(path, 1));
    said("more than 1 are not read");
    assert_null(json_try_file(scratch, 100));
    assert_null(json_try_file("/no/such", 100));
    free(path);
}

static void test_json_writing(void **state)
{
    (void)state;
    struct json *j = json_make_map(), *list = json_make_list();
    json_put_int(j, "z", INT64_MIN);
    json_put_real(j, "eps", 1e-5);
    json_put_real(j, "one", 1);
    json_put_bool(j, "tie", true);
    json_put_null(j, "nil");
    json_put_str(j, "s", "a\"\n\xc3\xbc");
    json_add_int(list, 1);
    json_add_str(list, "x");
    json_add_real(list, 0.5);
    json_add(list, json_make_map());
    json_put(j, "a", list);
    char *text = json_text(j, JSON_FLAT);
    assert_string_equal(text,
                        "{\"z\":-9223372036854775808,\"eps\":1e-5,\"one\":1.0,\"tie\":true,\"nil\":null,"
                        "\"s\":\"a\\\"\\n\xc3\xbc\",\"a\":[1,\"x\",0.5,{}]}");
    free(text);
    json_put_real(j, "eps", 1.0 / 3); /* needs more digits, and has them */
    char *path = at("out.json");
    json_write(path, j, JSON_PRETTY | JSON_BY_KEY, false);
    struct json *again = json_try_file(path, 1000);
    double r;
    assert_int_equal(json_try_real(again, "eps", 0, 1, &r), 1);
    assert_true(r == 1.0 / 3);
    text = json_text(again, JSON_FLAT);
    assert_memory_equal(text, "{\"a\":", 5); /* sorted */
    free(text);
    json_free(again);
    json_free(j);
    free(path);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_getters),
        cmocka_unit_test(test_json_files),
        cmocka_unit_test(test_json_writing),
    };
    io_begin("json", argc, argv);
    return io_end(cmocka_run_group_tests(tests, NULL, NULL));
}
