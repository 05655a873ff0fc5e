/* keys.h - the keys of another program's configuration, read or written by the same calls
 * SPDX-License-Identifier: MIT
 *
 * A family (family.h) goes over its keys once, with one function for both directions: keys_int(k,
 * "hidden_size", ...) sets the variable from the file, or puts the variable into the file that is made.
 * Reading can be from an object of JSON or from the values of an archive whose names begin with "args."
 * (Megatron-LM's).
 *
 * The first error is kept (keys_fail()); after it the calls do nothing, so families need not look at each.
 * What is absent or null leaves the variable as it is: the caller sets the other program's default first. A
 * key may have other spellings behind it, "n_groups|mamba_n_groups": the last that is there counts, and the
 * first is written.
 */
#ifndef SSM_KEYS_H
#define SSM_KEYS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/json.h"
#include "common/io/archive.h"
#include "common/model/config.h"

struct keys {
    const struct json *in;          /* one of these three */
    const struct archive *args;
    struct json *out;
    const char *ignore;             /* comma-separated keys that are passed over unread, or NULL */
    const char *inside;             /* "ssm_cfg": the object they stand in; NULL: the outermost */
    bool failed;
    char error[400];
    char *pattern;                  /* config.pattern, if reading made one: the caller's to free */
    const char **seen;              /* keys that somebody asked for; free with keys_free() */
    size_t n_seen, cap_seen;
};

enum { KEYS_BIG = 1 << 24, KEYS_MAX_LAYERS = 4096 };

void keys_free(struct keys *k); /* not the pattern */
static inline bool keys_writing(const struct keys *k) { return k->out != NULL; }
void keys_fail(struct keys *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Optional and required numbers and flags. */
void keys_int(struct keys *k, const char *key, int64_t lo, int64_t hi, int64_t *v);
void keys_need_int(struct keys *k, const char *key, int64_t lo, int64_t hi, int64_t *v);
void keys_real(struct keys *k, const char *key, double lo, double hi, double *v);
void keys_flag(struct keys *k, const char *key, bool *v);
/* Strings are not written. *v belongs to the file that is read. */
void keys_str(struct keys *k, const char *key, const char **v);
/* True when the key is there and not null. */
bool keys_has(struct keys *k, const char *key);
/* The value under a key, of any kind; NULL when absent, when writing, and in an archive. */
const struct json *keys_value(struct keys *k, const char *key);

/* What is supported with one value only: another one is refused. Writing puts it. */
void keys_only_flag(struct keys *k, const char *key, bool v);
void keys_only_str(struct keys *k, const char *key, const char *v);
/* Other spellings of a number that is known already, which must agree with it. `list`: keys with blanks
 * between. */
void keys_same_int(struct keys *k, const char *list, int64_t v);
void keys_same_real(struct keys *k, const char *list, double v);
/* Refused unless absent, null, false, 0 or empty. `list`: keys with blanks between. Writing puts nothing. */
void keys_none(struct keys *k, const char *list);
/* Keys that do not change what the model computes. */
void keys_skip(struct keys *k, const char *list);

/* Activation functions by transformers' names. */
void keys_activation(struct keys *k, const char *key, int *act);
/* [least, greatest] of the time step; no upper limit is infinity there and 0 here. */
void keys_limit(struct keys *k, const char *key, struct config *c);
/* The end-of-document token: a number or the first of a list; null: none. */
void keys_eod(struct keys *k, const char *key, struct config *c);
/* Rows of the embedding; reading leaves the vocabulary unpadded. */
void keys_rows(struct keys *k, const char *key, struct config *c);
/* The pattern is so many times `unit`. */
void keys_repeat(struct keys *k, const char *key, const char *unit, struct config *c);
/* Makes room for a pattern of n sub-layers, which reading is about to fill. NULL after an error. */
char *keys_make_pattern(struct keys *k, int64_t n, struct config *c);

/* An object inside: of the file that is read (empty when absent) or one that is made. Close it, also after an
 * error. */
struct keys keys_enter(struct keys *k, const char *key);
void keys_leave(struct keys *k, struct keys *inner);
/* Reading: refuses every key of the object that nobody asked for, is not in k->ignore and says something.
 * Keys that begin with '_', and what every model of transformers has, say nothing. */
void keys_refuse_unknown(struct keys *k);

#endif
