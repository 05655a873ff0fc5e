/* jsonl.h - the text of one line of JSONL
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_JSONL_H
#define SSM_JSONL_H

#include <stddef.h>

/* Zero-initialise. */
struct jsonl {
    struct json *root;   /* what the text belongs to */
    const char *text;    /* UTF-8, n bytes; NULL: there is none */
    size_t n;
};

/* Takes the string under `key` out of the object on a line of `len` bytes; what was there before goes.
 * 0, or -1 with err_last(). */
int jsonl_try_text(struct jsonl *j, const char *line, size_t len, const char *key)
    __attribute__((warn_unused_result));
/* Forgets the text; *j can be used again. */
void jsonl_clear(struct jsonl *j);

#endif
