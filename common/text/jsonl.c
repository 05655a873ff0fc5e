/* jsonl.c - the object on one line of JSONL, and its text
 * SPDX-License-Identifier: MIT
 */
#include "jsonl.h"

#include <stdio.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/json.h"
#include "common/base/utf8.h"

/* An empty array takes two bytes of a line and some hundred of memory: one line is not to take it all. */
enum { MAX_VALUES = 4000000 };

void jsonl_clear(struct jsonl *j)
{
    json_free(j->root);
    *j = (struct jsonl){ 0 };
}

/* Values on a line, at most. */
static size_t count_values(const char *line, size_t len)
{
    size_t values = 1;
    for (size_t i = 0; i < len; i++) {
        if (line[i] == '"') {
            for (i++; i < len && line[i] != '"'; i++)
                i += line[i] == '\\';
        } else
            values += line[i] == ',' || line[i] == '[' || line[i] == '{';
    }
    return values;
}

static int try_id(struct jsonl *j, const char *key)
{
    const struct json *v = json_at(j->root, key);
    int64_t number;
    if (json_kind(v) == JSON_NONE)
        return err_set("there is no key '%s'", key);
    if (json_kind(v) == JSON_TEXT && json_try_text(j->root, key, &j->id, &j->n_id) == 1)
        return 0;
    if (json_kind(v) != JSON_INT || json_try_int_of(v, key, INT64_MIN, INT64_MAX, &number) < 0)
        return err_set("the value of '%s' is neither a string nor an integer", key);
    j->n_id = (size_t)snprintf(j->number, sizeof j->number, "%lld", (long long)number);
    j->id = j->number;
    return 0;
}

struct json *jsonl_try_object(const char *line, size_t len)
{
    if (len > MAX_VALUES && count_values(line, len) > MAX_VALUES) {
        err_set("more than %d values on the line", MAX_VALUES);
        return NULL;
    }
    struct json *root = json_try_line(line, len);
    if (!root) {
        struct utf8 u = { 0 };
        char *why = xstrdup(err_last());
        if (utf8_try_check(&u, line, len, true) == 0) /* else what it says is more to the point */
            err_set("bad JSON: %s", why);
        free(why);
        return NULL;
    }
    if (json_kind(root) != JSON_MAP) {
        json_free(root);
        err_set("the line is not a JSON object");
        return NULL;
    }
    return root;
}

int jsonl_try_text(struct jsonl *j, const char *line, size_t len, const char *key, const char *id_key)
{
    jsonl_clear(j);
    j->root = jsonl_try_object(line, len);
    if (!j->root)
        return -1;
    if (id_key && try_id(j, id_key) < 0)
        return -1;
    switch (json_try_text(j->root, key, &j->text, &j->n)) {
    case 1:
        return 0;
    case 0:
        j->text = NULL;
        return err_set("there is no key '%s'", key);
    default:
        j->text = NULL;
        return err_set("the value of '%s' is not a string", key);
    }
}

/* ---- mending ---- */

/* The value of the escape \uXXXX at p, or -1. */
static long escape(const char *p, size_t n)
{
    unsigned v;
    int used = 0;
    char hex[5] = { 0 };
    if (n < 6 || p[0] != '\\' || p[1] != 'u')
        return -1;
    memcpy(hex, p + 2, 4);
    if (strspn(hex, "0123456789abcdefABCDEF") != 4 || sscanf(hex, "%4x%n", &v, &used) != 1 || used != 4)
        return -1;
    return (long)v;
}

static bool high(long v) { return v >= 0xd800 && v <= 0xdbff; }
static bool low(long v) { return v >= 0xdc00 && v <= 0xdfff; }

/* Lone surrogates, in place: the escapes are as long. */
static int64_t mend_escapes(char *p, size_t n)
{
    int64_t mended = 0;
    for (size_t i = 0; i < n; i++) {
        char *b = memchr(p + i, '\\', n - i);
        if (!b)
            break;
        i = (size_t)(b - p);
        long v = escape(p + i, n - i);
        if (high(v) && low(escape(p + i + 6, n - i - 6)))
            i += 11;
        else if (high(v) || low(v)) {
            memcpy(p + i, "\\ufffd", 6);
            mended++;
            i += 5;
        } else
            i++; /* what is escaped begins nothing */
    }
    return mended;
}

static bool has_surrogates(const char *p, size_t n)
{
    for (const char *end = p + n, *b; (b = memchr(p, '\\', (size_t)(end - p))); p = b + 1) {
        long v = escape(b, (size_t)(end - b));
        if (high(v) || low(v))
            return true;
    }
    return false;
}

const char *jsonl_mend(const char *line, size_t *len, struct buf *room, int64_t *replaced)
{
    struct utf8 u = { 0 };
    const char *p = utf8_replace(&u, line, len, true, room);
    *replaced = u.replaced;
    if (!has_surrogates(p, *len))
        return p;
    if (p == line) {
        buf_clear(room);
        buf_add(room, line, *len);
    }
    *replaced += mend_escapes(room->data, *len);
    return room->data;
}
