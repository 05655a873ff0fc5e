/* data.h - the sets of token shards that a run reads, as the user named them
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_DATA_H
#define SSM_DATA_H

#include <stdbool.h>

#include "common/base/mem.h"
#include "common/model/config.h"
#include "common/prep/blend.h"
#include "order.h"

struct data {
    int n;                  /* sets; 0: none were named */
    struct blend blend;
    const char **dirs;      /* [n], of the blend */
    struct order_set *sets; /* [n] */
    struct buf hashes;      /* what the sets hold and their weights, wherever they lie */
    struct shard_info info; /* of the last; all have the same tokenizer */
};

/* Opens the sets of a blend file, or (file NULL) of n operands "DIR" or "DIR@WEIGHT". Dies, mostly with
 * usage, when one is none, or does not fit seq_len, the mode or the others. data_free() it. */
struct data data_open(const char *file, int n, char **operands, int64_t seq_len, enum order_mode mode);
void data_free(struct data *d);
/* A model without a vocabulary or a tokenizer takes that of the data, and its strings are never freed, as
 * those of config_try_load(). Dies when it has others. */
void data_adopt_tokenizer(struct config *c, const struct shard_info *info);
/* What `samples` in that order take of each set: a table on the standard output (plan), or notes. */
void data_tell(const struct data *d, const struct order *order, int64_t samples, bool plan);

#endif
