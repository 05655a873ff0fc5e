/* pack.h - conversations to the samples of a packed set: rows of at most so many tokens
 * SPDX-License-Identifier: MIT
 *
 * Conversations are collected until they have `window` tokens. Then they go, the longest first (of like length in their
 * order), each to the row in which the least room is left behind it (best fit, decreasing), and the rows are written in a
 * keyed permutation of the order in which they began. So what a file holds depends on its conversations, their order and
 * these options; nothing is drawn.
 */
#ifndef SSM_PACK_H
#define SSM_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "chat.h"
#include "chat_template.h"

/* What becomes of a conversation of more than seq_len tokens: it is left out; its first user message loses tokens at its
 * front, and where that is not enough it is left out; it is a bad line. */
enum pack_long { PACK_DROP, PACK_TRUNCATE, PACK_REFUSE };

enum { PACK_LONGEST = 1 << 24 }; /* of seq_len */

struct pack {
    const struct chat_template *template;
    enum chat_shape shape;
    bool all;    /* every token counts, not the answers alone */
    bool single; /* one conversation a row */
    enum pack_long too_long;
    int64_t seq_len;
    int64_t window; /* tokens */
    uint64_t seed;
};

struct pack_counts { /* only int64_t: ranks add them up; docs to targets: of what is in the rows */
    int64_t docs, tokens, bytes, samples, targets;
    int64_t too_long, shortened, no_target; /* conversations left out, shortened, left out for nothing in them counts */
};

struct packer;
struct shard_writer;
/* `o` and what it names must live as long. w: a packed one of the same seq_len; NULL: it is only counted. */
struct packer *packer_new(const struct pack *o, const struct tokenizer *t, struct shard_writer *w);
/* One line of JSONL. 1: it is in, 0: it was left out and counted, -1 with err_last(): a bad line. Dies when the
 * file cannot be written. */
int packer_try_add(struct packer *p, const char *line, size_t n) __attribute__((warn_unused_result));
/* Writes what is collected; *k gets the counts. */
void packer_end(struct packer *p, struct pack_counts *k);

#endif
