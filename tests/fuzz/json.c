/* json.c - fuzz target: a configuration; what is read and written again stays what it is
 * SPDX-License-Identifier: MIT
 * Seeds: *.json
 */
#include "fuzz.h"

#include "common/base/json.h"

/* Asks every key for everything. */
static void look(const struct json *j, int depth)
{
    const char *key, *s, **strs;
    const struct json *v;
    int64_t i, *ints;
    double r;
    bool b;
    size_t n;
    for (const void *it = json_next(j, NULL, &key, &v); it && depth < 50; it = json_next(j, it, &key, &v)) {
        bool null = json_kind(v) == JSON_NONE;
        PROMISE((json_try_int(j, key, -5, 5, &i) == 1) <= (json_try_real(j, key, -5, 5, &r) == 1));
        PROMISE((json_try_bool(j, key, &b) == 0) == null && (json_try_str(j, key, &s) == 0) == null);
        if (json_try_ints(j, key, INT64_MIN, INT64_MAX, &ints, &n) == 1)
            free(ints);
        if (json_try_strs(j, key, &strs, &n) == 1)
            free(strs);
        look(v, depth + 1);
    }
    for (size_t k = 0; json_kind(j) == JSON_LIST && k < json_count(j) && depth < 50; k++)
        look(json_item(j, k), depth + 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct json *j = json_try_block("F", data, n), *again;
    if (!j) {
        PROMISE(strncmp(err_last(), "F: line ", 8) == 0 && !strchr(err_last(), '\n'));
        return 0;
    }
    look(j, 0);
    char *text = json_text(j, JSON_PRETTY), *text2;
    again = json_try_block("F", text, strlen(text));
    PROMISE(again);
    text2 = json_text(again, JSON_PRETTY);
    PROMISE(strcmp(text, text2) == 0);
    free(text);
    free(text2);
    json_free(j);
    json_free(again);
    return 0;
}
