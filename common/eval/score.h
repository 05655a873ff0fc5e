/* score.h - perplexity and bits per byte of a set of shards
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_SCORE_H
#define SSM_SCORE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/dist/comm.h"
#include "common/io/shard.h"
#include "common/model/net.h"

struct score {
    int64_t tokens, docs, bytes;    /* scored; end tokens are tokens, not bytes; bytes are 0 where a mask left some out */
    double nats;                    /* sum of the losses */
};

/* Collective. Scores every token of the set exactly once, in windows of seq_len tokens (documents see nothing of each
 * other, and nothing before their window), of which one begins every `stride` tokens, 1 <= stride <= seq_len: behind the first
 * window a token has at least seq_len - stride tokens before it, or its document. `batch` windows at a time; at most `limit` tokens
 * (0: all), then documents and bytes are scaled with the tokens. Windows are shared by the ranks and
 * their sums added in the order of the windows, so the result is the same on any number of ranks.
 * Of a packed set (shard.h) the samples are the windows, which do not overlap, as many as end within `limit` but one at
 * least, and only what its mask counts as targets is scored; no_mask: every token. */
struct score score_set(struct comm *comm, struct net *n, const char *dir, int64_t seq_len, int64_t stride,
                       int64_t batch, int64_t limit, bool no_mask);

#endif
