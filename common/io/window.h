/* window.h - a stretch of a token stream as rows of inputs, targets and document starts
 * SPDX-License-Identifier: MIT
 *
 * The input of a target is the token before it; before the first token of a set stands an end-of-document
 * token. The end token of a document is its last target and the first input of the next document, so every token is
 * scored exactly once, the first of a document given only that token. In a packed set that is so for every token that
 * the loss mask counts as a target; a sample of it is a row of its own, [from, to) of shards_try_sample() (shard.h).
 */
#ifndef SSM_WINDOW_H
#define SSM_WINDOW_H

#include "shard.h"

/* Fills one row for the targets [offset, offset+length) of a set, padded to T with unscored tokens (target -1, as of
 * tokens that the mask leaves out, and a document of their own): ids, targets [T], and start [T], the place in the row at which the token's document
 * begins, or what is left of it from token `origin` (<= offset) of the set on: what is carried began there, and with
 * origin = offset nothing is carried. Negative: before the row. 0, or -1 with err_last(). */
int window_try_read(struct shards *s, int64_t origin, int64_t offset, int64_t length, int64_t T, int32_t *ids,
                    int32_t *targets, int32_t *start) __attribute__((warn_unused_result));

#endif
