/* weights.h - the tensors of a model in checkpoints
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_WEIGHTS_H
#define SSM_WEIGHTS_H

#include <stdbool.h>

#include "common/dist/comm.h"
#include "common/io/ckpt.h"
#include "net.h"

/* Collective. A checkpoint, or the newest one of a run directory, the same on all ranks: rank 0 says which (and checks all
 * of it, with `deep`), since a run that goes on may make, and remove, some while the ranks look. Dies with the reason. */
struct ckpt *weights_open(struct comm *comm, const char *path, bool deep);

/* The tensors of one group ("model", "optim/m", "optim/v") as checkpoints name them, in the order of the parameter
 * table; n->ps.n of them. Free it. */
struct ckpt_tensor *weights_list(const struct net *n, const char *group);

/* Reads a group from a checkpoint of any layout into a slab of the net's. Dies when a tensor is missing or has another
 * shape. Not collective. */
void weights_load(const struct net *n, struct ckpt *c, const char *group, float *slab);

#endif
