/* plan.h - what a run costs, before it begins
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_PLAN_H
#define SSM_PLAN_H

#include <stdbool.h>

#include "common/model/placement.h"
#include "length.h"
#include "trainer.h"

/* Counts are 64-bit; dies (usage) of what no machine could hold, before they overflow. */
void plan_check_sizes(const struct config *c, const struct trainer_options *to, const struct length *l);
/* Bytes that a rank needs on its device, by the tables; of a checkpoint that is being saved: none. looks: there are
 * held-out sets. */
int64_t plan_device_memory(const struct config *c, const struct placement *where, const struct trainer_options *to, bool looks);
/* Prints the table of the tensors, then lines name=value: shapes, counts, FLOPs, and the bytes that a rank
 * needs. background: checkpoints are written from a copy; looks: there are held-out sets. Dies (usage) when
 * the patterns of what is frozen do not fit. */
void plan_print(const struct config *c, const struct placement *where, const struct trainer_options *to,
                const struct length *l, int ranks, bool background, bool looks);

#endif
