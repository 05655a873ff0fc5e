/* weights.h - the tensors of a model in checkpoints
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_WEIGHTS_H
#define SSM_WEIGHTS_H

#include "common/io/ckpt.h"
#include "net.h"

/* The tensors of one group ("model", "optim/m", "optim/v") as checkpoints name them, in the order of the parameter
 * table; n->ps.n of them. Free it. */
struct ckpt_tensor *weights_list(const struct net *n, const char *group);

/* Reads a group from a checkpoint of any layout into a slab of the net's. Dies when a tensor is missing or has another
 * shape. Not collective. */
void weights_load(const struct net *n, struct ckpt *c, const char *group, float *slab);

#endif
