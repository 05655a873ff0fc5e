/* score.h - perplexity and bits per byte of a set of shards
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_SCORE_H
#define SSM_SCORE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/dist/comm.h"
#include "common/io/shard.h"
#include "net.h"

struct score {
    int64_t tokens, docs, bytes;    /* scored; end tokens are tokens, not bytes; bytes are 0 where a mask left some out */
    double nats;                    /* sum of the losses */
};

struct score_options {
    int64_t seq_len;                /* tokens of a window */
    int64_t stride;                 /* one begins every so many tokens, 1 <= stride <= seq_len */
    int64_t batch;                  /* windows that a rank computes at a time */
    int64_t limit;                  /* tokens that are scored at most; 0: all */
    bool no_mask;                   /* of a packed set every token, not what its mask counts */
    bool quiet;                     /* no progress, no notes: for who has lines of his own */
};

/* Dies with the reason when sequences of up to seq_len tokens of this set are none that a model of that
 * configuration scores: other tokens, other lengths, or nothing in it. */
void score_check_set(const struct config *c, const struct shards *s, int64_t seq_len);

/* Collective. Scores every token of the set exactly once, in windows (documents see nothing of each other,
 * and nothing before their window): behind the first window a token has at least seq_len - stride tokens
 * before it, or its document. With a limit, documents and bytes are scaled with the tokens. Windows are
 * shared by the ranks and their sums added in the order of the windows, so the result is the same on any
 * number of ranks. Of a packed set (shard.h) the samples are the windows, which do not overlap, as many as
 * end within `limit` but one at least, and only what its mask counts as targets is scored. Dies as
 * score_check_set() does. */
struct score score_set(struct comm *comm, struct net *n, const char *dir, const struct score_options *opt);

#endif
