/* inspect.h - a look at a set of token shards: its documents, as text or ids
 * SPDX-License-Identifier: MIT
 *
 * Not collective. These die: they serve tools, which have nothing else to do when a set cannot be read.
 */
#ifndef SSM_INSPECT_H
#define SSM_INSPECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct shards;

/* Hands over the documents of a set in order, in pieces of any size: n ids of one document, with `last` its end token
 * too. doc: only this one, from 0; -1: all. */
typedef void inspect_piece(void *arg, const uint32_t *ids, size_t n, bool last);
void inspect_walk(struct shards *s, int64_t doc, inspect_piece *f, void *arg);

struct inspect_print {
    int64_t doc;           /* only this one, from 0; -1: all */
    bool ids;              /* token ids, one document a line, instead of text */
    bool mask;             /* so the loss mask, 0 and 1 (all 1 where there is none) */
    const char *sep;       /* text: n_sep bytes behind each document */
    size_t n_sep;
    const char *tokenizer; /* text: as tokenizer_try_open() takes it; NULL: by its name in the set */
};
/* Writes documents to the standard output. */
void inspect_print(struct shards *s, const struct inspect_print *o);

#endif
