/* jsonl.h - the object on one line of JSONL, and its text
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_JSONL_H
#define SSM_JSONL_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/json.h"
#include "common/base/mem.h"

/* The object on a line of `len` bytes, to be freed by json_free(). NULL with err_last(). */
struct json *jsonl_try_object(const char *line, size_t len) __attribute__((warn_unused_result));

/* Zero-initialise. */
struct jsonl {
    struct json *root;   /* what the text belongs to */
    const char *text;    /* UTF-8, n bytes; NULL: there is none */
    size_t n;
    const char *id; /* n_id bytes; NULL: none was asked for, or found before the line turned out bad */
    size_t n_id;
    char number[24];
};

/* Takes the string under `key`, and the string or integer under `id_key` (NULL: none), out of the object on a
 * line of `len` bytes; what was there before goes. 0, or -1 with err_last(); the id may be there even then. */
int jsonl_try_text(struct jsonl *j, const char *line, size_t len, const char *key, const char *id_key)
    __attribute__((warn_unused_result));
/* The line with U+FFFD for each maximal subpart that is no UTF-8 and each escape \uD800-\uDFFF that is no half
 * of a pair. The line itself when there are none, else in `room`; *len and *replaced follow. */
const char *jsonl_mend(const char *line, size_t *len, struct buf *room, int64_t *replaced);
/* Forgets the text; *j can be used again. */
void jsonl_clear(struct jsonl *j);

#endif
