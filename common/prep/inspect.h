/* inspect.h - a look at a set of token shards: its documents as text or ids, its unigram entropy
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

struct inspect_print {
    int64_t doc;     /* only this one, from 0; -1: all */
    bool ids;        /* token ids, one document a line, instead of text */
    const char *sep; /* text: n_sep bytes behind each document */
    size_t n_sep;
};
/* Writes documents to the standard output. */
void inspect_print(struct shards *s, const struct inspect_print *o);

/* Bits per token when every token is coded by its frequency in the set. */
double inspect_entropy(struct shards *s);

#endif
