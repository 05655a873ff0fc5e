/* json.h - JSON: configurations of other people's models, indices, headers; the one owner of jansson
 * SPDX-License-Identifier: MIT
 *
 * A value is a `const struct json *` that belongs to the root it was read or built with. Readers look
 * keys up in an object; what a getter says names the key and the value ("'n_layer' is \"twelve\", not an
 * integer"), the caller adds the file's name: err_set("%s: %s", path, err_last()).
 *
 * Getters return 1: there, *v is set; 0: absent or null, *v keeps what it had (the default) and
 * err_last() says "'KEY' is missing"; -1: there but wrong, with err_last(). So an optional key is `if
 * (json_try_int(...) < 0)`, a required one `if (json_try_int(...) != 1)`.
 */
#ifndef SSM_JSON_H
#define SSM_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json;

#define JSON_MUST __attribute__((warn_unused_result))

/* ---- reading ---- */

/* A whole file, of at most `limit` bytes. NULL with err_last() in one line, "FILE: line N: ..." when it
 * is not JSON. A key that comes twice in an object is refused, and so are more than 4 million values.
 * What Python writes beyond JSON is read: NaN, Infinity and -Infinity (as json_try_real() takes them),
 * integers that 64 bits do not hold (as reals). */
struct json *json_try_file(const char *path, size_t limit) JSON_MUST;
/* The same from memory; `name` is what messages call it. */
struct json *json_try_block(const char *name, const void *data, size_t n) JSON_MUST;
/* One line of JSONL: JSON to the letter, but strings may hold NUL and of a key that comes twice the last
 * counts. */
struct json *json_try_line(const char *line, size_t n) JSON_MUST;
/* The root, and with it every value in it. NULL is allowed. */
void json_free(struct json *root);

enum json_kind { JSON_NONE, JSON_BOOL, JSON_INT, JSON_FLOAT, JSON_TEXT, JSON_LIST, JSON_MAP };
/* NULL is JSON_NONE, as is null. */
enum json_kind json_kind(const struct json *j);

/* The value under a key of an object; NULL when it is absent or null, or `object` is no object. */
const struct json *json_at(const struct json *object, const char *key);

int json_try_int(const struct json *object, const char *key, int64_t lo, int64_t hi, int64_t *v) JSON_MUST;
/* An integer is a real too; so are "Infinity" and its kin if lo or hi is infinite. NaN never fits. */
int json_try_real(const struct json *object, const char *key, double lo, double hi, double *v) JSON_MUST;
int json_try_bool(const struct json *object, const char *key, bool *v) JSON_MUST;
int json_try_str(const struct json *object, const char *key, const char **v) JSON_MUST;
/* With its length, for strings that may hold NUL. */
int json_try_text(const struct json *object, const char *key, const char **v, size_t *n) JSON_MUST;
/* An object, or an array, under the key. */
int json_try_map(const struct json *object, const char *key, const struct json **v) JSON_MUST;
int json_try_list(const struct json *object, const char *key, const struct json **v) JSON_MUST;
/* Arrays of one kind. The array is the caller's to free(); strings belong to the root. */
int json_try_ints(const struct json *object, const char *key, int64_t lo, int64_t hi, int64_t **v,
                  size_t *n) JSON_MUST;
int json_try_strs(const struct json *object, const char *key, const char ***v, size_t *n) JSON_MUST;

/* Elements of an array, or pairs of an object (in the file's order); 0 for anything else. */
size_t json_count(const struct json *j);
/* Bytes of a string, which may hold NUL. */
size_t json_length(const struct json *text);
/* Element i of an array; NULL beyond its end. */
const struct json *json_item(const struct json *array, size_t i);
/* Goes over an object: NULL at first, then what it returned last; NULL after the last pair.
 *     for (const void *it = json_next(o, NULL, &k, &v); it; it = json_next(o, it, &k, &v))  */
const void *json_next(const struct json *object, const void *after, const char **key,
                      const struct json **value);
/* A value that stands for itself (an element, a pair's value): 0, or -1 with err_last(), in which `what`
 * names it. */
int json_try_int_of(const struct json *j, const char *what, int64_t lo, int64_t hi, int64_t *v) JSON_MUST;
int json_try_real_of(const struct json *j, const char *what, double lo, double hi, double *v) JSON_MUST;
int json_try_str_of(const struct json *j, const char *what, const char **v) JSON_MUST;

/* ---- building ---- */

/* Strings must be UTF-8, reals finite: anything else is a bug of the caller. A key that is there is
 * replaced. */
struct json *json_make_map(void);
struct json *json_make_list(void);
void json_put_int(struct json *map, const char *key, int64_t v);
void json_put_real(struct json *map, const char *key, double v);
void json_put_bool(struct json *map, const char *key, bool v);
void json_put_str(struct json *map, const char *key, const char *v);
/* n bytes, which may hold NUL. */
void json_put_text(struct json *map, const char *key, const char *v, size_t n);
void json_put_null(struct json *map, const char *key);
void json_put(struct json *map, const char *key, struct json *v); /* takes v over */
void json_add_int(struct json *list, int64_t v);
void json_add_real(struct json *list, double v);
void json_add_str(struct json *list, const char *v);
void json_add_text(struct json *list, const char *v, size_t n);
/* A value of another root, copied with all that is in it. */
struct json *json_clone(const struct json *j);
void json_add(struct json *list, struct json *v);                 /* takes v over */

enum json_form { JSON_FLAT = 0, JSON_PRETTY = 1, JSON_BY_KEY = 2 }; /* or-ed; by key: else as inserted */
/* The text, to be freed. Reals have as many digits as bring them back. */
char *json_text(const struct json *j, int form);
/* A whole file with a line end behind it, through out.h. Dies on failure, and if `path` exists and not
 * `force`. */
void json_write(const char *path, const struct json *j, int form, bool force);

#endif
