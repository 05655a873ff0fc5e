/* merge.h - one set of token shards from several
 * SPDX-License-Identifier: MIT
 *
 * The documents of the first set, then those of the second, ... The members go over one to one: each is checked
 * against its checksum and written anew, its compressed chunks as they are, so memory and work are those of
 * a copy. What is there already, from the same sets, is kept.
 */
#ifndef SSM_MERGE_H
#define SSM_MERGE_H

#include <stdbool.h>
#include <stdint.h>

struct comm;
struct merge_counts { /* only int64_t: ranks add them up */
    int64_t docs, tokens, bytes;
    int64_t kept, made; /* members */
};
/* Collective: ranks share the members. Dies when the sets are not of one tokenizer, when one of them would be
 * overwritten, when some are packed and others not (or for another seq_len), and when a member is damaged. A set may come twice. */
void merge_sets(const char *output, char **sets, int n, bool force, struct comm *c, struct merge_counts *k);

#endif
