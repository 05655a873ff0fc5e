/* clean.h - the bytes of documents after the UTF-8 policy, and the share that a document falls in
 * SPDX-License-Identifier: MIT
 *
 * What `encode` tokenises and `train` counts: both must see the same bytes, and the same documents as held out.
 */
#ifndef SSM_CLEAN_H
#define SSM_CLEAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/text/docs.h"
#include "common/base/utf8.h"

struct hash;
struct clean {
    struct docs *docs;
    enum utf8_policy policy; /* not UTF8_AUTO */
    struct utf8 utf8;
    struct buf mended;
    struct hash *hash;
};

/* `docs` is the caller's. */
void clean_begin(struct clean *c, struct docs *docs, enum utf8_policy policy);
void clean_end(struct clean *c);

/* The next piece of the current document, *n bytes, which may be 0; false at its end. Dies, with the place, for what the
 * policy does not let pass. */
bool clean_piece(struct clean *c, const char **p, size_t *n);
/* Whether all of the document passes; says at -v why not. Then it is at its begin again. */
bool clean_passes(struct clean *c);
/* The hash of the document's bytes, which decides its share alone: in every run and part the same, twins stay together.
 * Then it is at its begin again. */
uint64_t clean_hash(struct clean *c);
/* Documents whose hash is below are the `share` that is held out. */
uint64_t clean_below(double share);

#endif
