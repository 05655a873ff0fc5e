/* json.c - JSON: configurations of other people's models, indices, headers; only this file knows jansson
 * SPDX-License-Identifier: MIT
 *
 * struct json is jansson's json_t under another name.
 */
#include "json.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>

#include "err.h"
#include "file.h"
#include "mem.h"
#include "out.h"

static struct json *ours(json_t *j) { return (struct json *)j; }
static json_t *theirs(const struct json *j) { return (json_t *)(uintptr_t)j; }

/* ---- reading ---- */

/* An empty array takes two bytes of text and some hundred of memory: a file is not to take it all. */
enum { MAX_VALUES = 4000000 };

/* Copies JSON and puts what only Python takes for JSON into words that all take: NaN and Infinity into
 * quotes, "e0" behind integers of more than 18 digits. Strings are left alone; what is wrong stays wrong.
 * Returns how many values there are at most. */
static size_t to_plain(const char *d, size_t n, struct buf *out)
{
    static const char *const words[] = { "NaN", "Infinity", "-Infinity" };
    size_t from = 0, i = 0, values = 1;
    while (i < n) {
        if (d[i] == '"') {
            for (i++; i < n && d[i] != '"'; i++)
                if (d[i] == '\\')
                    i++;
            i++;
        } else if (d[i] == 'N' || d[i] == 'I' || (d[i] == '-' && i + 1 < n && d[i + 1] == 'I')) {
            size_t len = 0;
            for (int w = 0; w < 3; w++)
                if (n - i >= strlen(words[w]) && memcmp(d + i, words[w], strlen(words[w])) == 0)
                    len = strlen(words[w]);
            if (len > 0) {
                buf_add(out, d + from, i - from);
                buf_addf(out, "\"%.*s\"", (int)len, d + i);
                from = i + len;
            }
            i += len ? len : 1;
        } else if (d[i] >= '0' && d[i] <= '9') {
            size_t digits = 0, start = i;
            while (i < n && d[i] && strchr("0123456789.eE+-", d[i]))
                digits += d[i] >= '0' && d[i] <= '9', i++;
            if (digits == i - start &&
                (digits > 19 || (digits == 19 && memcmp(d + start, "9223372036854775807", 19) > 0))) {
                buf_add(out, d + from, i - from);
                buf_add(out, "e0", 2);
                from = i;
            }
        } else {
            values += d[i] == ',' || d[i] == '[' || d[i] == '{';
            i++;
        }
    }
    if (from < n)
        buf_add(out, d + from, n - from);
    return values;
}

/* jansson's words may quote the input: one line, nothing that plays with a terminal. */
static void set_error(const char *name, const json_error_t *e)
{
    char text[JSON_ERROR_TEXT_LENGTH];
    snprintf(text, sizeof text, "%s", e->text);
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 127)
            *p = '?';
    if (name)
        err_set("%s: line %d: %s", name, e->line, text);
    else
        err_set("%s", text);
}

struct json *json_try_block(const char *name, const void *data, size_t n)
{
    json_error_t e;
    struct buf plain = { 0 };
    if (to_plain(data, n, &plain) > MAX_VALUES) {
        buf_free(&plain);
        err_set("%s: more than %d values", name, MAX_VALUES);
        return NULL;
    }
    json_t *j = json_loadb(plain.data ? plain.data : "", plain.len, JSON_REJECT_DUPLICATES, &e);
    buf_free(&plain);
    if (!j)
        set_error(name, &e);
    return ours(j);
}

struct json *json_try_line(const char *line, size_t n)
{
    json_error_t e;
    json_t *j = json_loadb(line, n, JSON_ALLOW_NUL, &e);
    if (!j && json_error_code(&e) == json_error_numeric_overflow) { /* hashes of 64 bits are common, beside what we read */
        struct buf plain = { 0 };
        (void)to_plain(line, n, &plain);
        j = json_loadb(plain.data, plain.len, JSON_ALLOW_NUL, &e);
        buf_free(&plain);
    }
    if (!j)
        set_error(NULL, &e);
    return ours(j);
}

struct json *json_try_file(const char *path, size_t limit)
{
    size_t n;
    char *data = file_try_read(path, limit, &n);
    struct json *j = data ? json_try_block(path, data, n) : NULL;
    free(data);
    return j;
}

void json_free(struct json *root) { json_decref(theirs(root)); }

enum json_kind json_kind(const struct json *j)
{
    if (!j)
        return JSON_NONE;
    switch (json_typeof(theirs(j))) {
    case JSON_OBJECT:
        return JSON_MAP;
    case JSON_ARRAY:
        return JSON_LIST;
    case JSON_STRING:
        return JSON_TEXT;
    case JSON_INTEGER:
        return JSON_INT;
    case JSON_REAL:
        return JSON_FLOAT;
    case JSON_TRUE:
    case JSON_FALSE:
        return JSON_BOOL;
    case JSON_NULL:
        break;
    }
    return JSON_NONE;
}

const struct json *json_at(const struct json *object, const char *key)
{
    json_t *v = json_object_get(theirs(object), key);
    return json_is_null(v) ? NULL : ours(v);
}

/* "'WHAT' is VALUE, not WANTED". */
static int wrong(const char *what, const struct json *j, const char *wanted)
{
    char *text = NULL;
    const char *shown = json_kind(j) == JSON_MAP    ? "an object"
                        : json_kind(j) == JSON_LIST ? "an array"
                                                    : NULL;
    if (!shown)
        text = json_dumps(theirs(j), JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    err_set("'%s' is %.60s%s, not %s", what,
            shown  ? shown
            : text ? text
                   : "?",
            text && strlen(text) > 60 ? "..." : "", wanted);
    free(text);
    return -1;
}

static int missing(const char *key)
{
    err_set("'%s' is missing", key);
    return 0;
}

int json_try_int_of(const struct json *j, const char *what, int64_t lo, int64_t hi, int64_t *v)
{
    char range[80] = "an integer";
    if (lo != INT64_MIN || hi != INT64_MAX)
        snprintf(range, sizeof range, "an integer from %" PRId64 " to %" PRId64, lo, hi);
    if (json_kind(j) != JSON_INT)
        return wrong(what, j, range);
    int64_t i = json_integer_value(theirs(j));
    if (i < lo || i > hi)
        return wrong(what, j, range);
    *v = i;
    return 0;
}

int json_try_real_of(const struct json *j, const char *what, double lo, double hi, double *v)
{
    char range[80] = "a number";
    if (lo > -HUGE_VAL || hi < HUGE_VAL)
        snprintf(range, sizeof range, "a number from %g to %g", lo, hi);
    const struct json *boxed = json_at(j, "__float__"); /* transformers 4.57 and later */
    const char *word = json_string_value(theirs(boxed ? boxed : j));
    double r;
    if (json_is_number(theirs(j)))
        r = json_number_value(theirs(j));
    else if (word && strcmp(word, "Infinity") == 0)
        r = HUGE_VAL;
    else if (word && strcmp(word, "-Infinity") == 0)
        r = -HUGE_VAL;
    else
        return wrong(what, j, range);
    if (!(r >= lo && r <= hi))
        return wrong(what, j, range);
    *v = r;
    return 0;
}

int json_try_str_of(const struct json *j, const char *what, const char **v)
{
    if (json_kind(j) != JSON_TEXT)
        return wrong(what, j, "a string");
    *v = json_string_value(theirs(j));
    return 0;
}

int json_try_int(const struct json *object, const char *key, int64_t lo, int64_t hi, int64_t *v)
{
    const struct json *j = json_at(object, key);
    return !j ? missing(key) : json_try_int_of(j, key, lo, hi, v) < 0 ? -1 : 1;
}

int json_try_real(const struct json *object, const char *key, double lo, double hi, double *v)
{
    const struct json *j = json_at(object, key);
    return !j ? missing(key) : json_try_real_of(j, key, lo, hi, v) < 0 ? -1 : 1;
}

int json_try_bool(const struct json *object, const char *key, bool *v)
{
    const struct json *j = json_at(object, key);
    if (!j)
        return missing(key);
    if (json_kind(j) != JSON_BOOL)
        return wrong(key, j, "true or false");
    *v = json_is_true(theirs(j));
    return 1;
}

int json_try_str(const struct json *object, const char *key, const char **v)
{
    const struct json *j = json_at(object, key);
    return !j ? missing(key) : json_try_str_of(j, key, v) < 0 ? -1 : 1;
}

int json_try_text(const struct json *object, const char *key, const char **v, size_t *n)
{
    int found = json_try_str(object, key, v);
    if (found == 1)
        *n = json_string_length(theirs(json_at(object, key)));
    return found;
}

static int try_container(const struct json *object, const char *key, enum json_kind kind,
                         const struct json **v)
{
    const struct json *j = json_at(object, key);
    if (!j)
        return missing(key);
    if (json_kind(j) != kind)
        return wrong(key, j, kind == JSON_MAP ? "an object" : "an array");
    *v = j;
    return 1;
}

int json_try_map(const struct json *object, const char *key, const struct json **v)
{
    return try_container(object, key, JSON_MAP, v);
}

int json_try_list(const struct json *object, const char *key, const struct json **v)
{
    return try_container(object, key, JSON_LIST, v);
}

int json_try_ints(const struct json *object, const char *key, int64_t lo, int64_t hi, int64_t **v, size_t *n)
{
    const struct json *list;
    int found = json_try_list(object, key, &list);
    if (found != 1)
        return found;
    size_t m = json_count(list);
    int64_t *a = xcalloc(m + 1, sizeof *a);
    for (size_t i = 0; i < m; i++) {
        char *what = xasprintf("%s[%zu]", key, i);
        int bad = json_try_int_of(json_item(list, i), what, lo, hi, &a[i]);
        free(what);
        if (bad < 0) {
            free(a);
            return -1;
        }
    }
    *v = a;
    *n = m;
    return 1;
}

int json_try_strs(const struct json *object, const char *key, const char ***v, size_t *n)
{
    const struct json *list;
    int found = json_try_list(object, key, &list);
    if (found != 1)
        return found;
    size_t m = json_count(list);
    const char **a = xcalloc(m + 1, sizeof *a);
    for (size_t i = 0; i < m; i++) {
        char *what = xasprintf("%s[%zu]", key, i);
        int bad = json_try_str_of(json_item(list, i), what, &a[i]);
        free(what);
        if (bad < 0) {
            free(a);
            return -1;
        }
    }
    *v = a;
    *n = m;
    return 1;
}

size_t json_count(const struct json *j)
{
    return json_kind(j) == JSON_MAP ? json_object_size(theirs(j)) : json_array_size(theirs(j));
}

size_t json_length(const struct json *text) { return json_string_length(theirs(text)); }

const struct json *json_item(const struct json *array, size_t i)
{
    return ours(json_array_get(theirs(array), i));
}

const void *json_next(const struct json *object, const void *after, const char **key,
                      const struct json **value)
{
    json_t *o = theirs(object);
    void *it = after ? json_object_iter_next(o, (void *)(uintptr_t)after) : json_object_iter(o);
    if (it) {
        *key = json_object_iter_key(it);
        *value = ours(json_object_iter_value(it));
    }
    return it;
}

/* ---- building ---- */

static json_t *made(json_t *j, const char *what)
{
    if (!j)
        bug("JSON cannot hold %s", what);
    return j;
}

static void put(struct json *map, const char *key, json_t *v)
{
    if (json_object_set_new(theirs(map), key, v) < 0)
        bug("JSON cannot hold the key '%s'", key);
}

static void add(struct json *list, json_t *v)
{
    if (json_array_append_new(theirs(list), v) < 0)
        bug("JSON cannot hold an element");
}

struct json *json_make_map(void) { return ours(made(json_object(), "an object")); }
struct json *json_make_list(void) { return ours(made(json_array(), "an array")); }
void json_put_int(struct json *map, const char *key, int64_t v) { put(map, key, made(json_integer(v), key)); }
void json_put_real(struct json *map, const char *key, double v) { put(map, key, made(json_real(v), key)); }
void json_put_bool(struct json *map, const char *key, bool v) { put(map, key, json_boolean(v)); }
void json_put_str(struct json *map, const char *key, const char *v)
{
    put(map, key, made(json_string(v), key));
}
void json_put_text(struct json *map, const char *key, const char *v, size_t n)
{
    put(map, key, made(json_stringn(v, n), key));
}
void json_put_null(struct json *map, const char *key) { put(map, key, json_null()); }
void json_put(struct json *map, const char *key, struct json *v) { put(map, key, theirs(v)); }
void json_add_int(struct json *list, int64_t v) { add(list, made(json_integer(v), "an element")); }
void json_add_real(struct json *list, double v) { add(list, made(json_real(v), "an element")); }
void json_add_str(struct json *list, const char *v) { add(list, made(json_string(v), "an element")); }
void json_add_text(struct json *list, const char *v, size_t n)
{
    add(list, made(json_stringn(v, n), "an element"));
}
struct json *json_clone(const struct json *j) { return ours(made(json_deep_copy(theirs(j)), "a copy")); }
void json_add(struct json *list, struct json *v) { add(list, theirs(v)); }

/* The fewest digits, of 15 to 17, that bring back every real: 1e-5 and not 1.0000000000000001e-5. */
static size_t digits_of(json_t *j)
{
    size_t most = 15, i;
    if (json_is_real(j)) {
        char text[40];
        while (most < 17) {
            snprintf(text, sizeof text, "%.*g", (int)most, json_real_value(j));
            if (strtod(text, NULL) == json_real_value(j))
                break;
            most++;
        }
    }
    const char *key;
    json_t *v;
    json_object_foreach(j, key, v)
    {
        size_t d = digits_of(v);
        most = d > most ? d : most;
    }
    json_array_foreach(j, i, v)
    {
        size_t d = digits_of(v);
        most = d > most ? d : most;
    }
    return most;
}

char *json_text(const struct json *j, int form)
{
    size_t flags = JSON_ENCODE_ANY | JSON_REAL_PRECISION(digits_of(theirs(j)));
    flags |= form & JSON_PRETTY ? JSON_INDENT(2) : JSON_COMPACT;
    flags |= form & JSON_BY_KEY ? JSON_SORT_KEYS : 0;
    char *text = json_dumps(theirs(j), flags);
    if (!text)
        bug("JSON that cannot be written");
    return text;
}

void json_write(const char *path, const struct json *j, int form, bool force)
{
    struct buf b = { 0 };
    char *text = json_text(j, form);
    buf_add(&b, text, strlen(text));
    buf_add(&b, "\n", 1);
    out_write_file(path, b.data, b.len, force);
    buf_free(&b);
    free(text);
}
