/* stats.h - the figures of a set of token shards: lengths of its documents, use of its vocabulary, entropy
 * SPDX-License-Identifier: MIT
 *
 * One pass over the tokens, in memory of the size of the vocabulary and 8 MiB. Lengths count the end token, so they
 * add up to the tokens of the set. Not collective. Dies when the set cannot be read.
 */
#ifndef SSM_STATS_H
#define SSM_STATS_H

#include <stdint.h>

struct shards;

enum { STATS_BINS = 63 };

struct stats {
    double bits; /* a token, when each is coded by its frequency in the set */
    int64_t ids_seen;           /* different ones */
    int64_t top_id, top_count;  /* the most frequent one; the smallest of several */
    int64_t min, median, p90, p99, max; /* of lengths: the q-th is the smallest that q of all do not exceed */
    int64_t bin[STATS_BINS];    /* documents of length [2^k, 2^(k+1)) */
};
/* A set without documents has zeros. */
void stats_of(struct shards *s, struct stats *st);

#endif
