/* cost.h - what a call of an op must compute and move at least
 * SPDX-License-Identifier: MIT
 *
 * flop: of the products that the op must do, a multiplication and an addition being two. Ops that do none to
 * speak of have 0: memory is their limit. bytes: each input read once and each output written once, "+="
 * outputs both. dtype: in which the products are done. The dtypes and which tensors are absent are taken from
 * the call.
 */
#ifndef SSM_COST_H
#define SSM_COST_H

#include "backend.h"

struct cost {
    double flop, bytes;
    enum dtype dtype;
};

/* The ops of the table: X(slot, type of its struct). */
#define COST_OPS(X)                                                                                          \
    X(matmul, matmul)                                                                                        \
    X(colsum, colsum)                                                                                        \
    X(embed_fwd, embed)                                                                                      \
    X(embed_bwd, embed)                                                                                      \
    X(norm_fwd, norm)                                                                                        \
    X(norm_bwd, norm)                                                                                        \
    X(gatednorm_fwd, gatednorm)                                                                              \
    X(gatednorm_bwd, gatednorm)                                                                              \
    X(conv1d_fwd, conv1d)                                                                                    \
    X(conv1d_bwd, conv1d)                                                                                    \
    X(conv1d_step, conv1d)                                                                                   \
    X(ssd_fwd, ssd)                                                                                          \
    X(ssd_bwd, ssd)                                                                                          \
    X(ssd_step, ssd)                                                                                         \
    X(scan_fwd, scan)                                                                                        \
    X(scan_bwd, scan)                                                                                        \
    X(scan_step, scan)                                                                                       \
    X(rglru_fwd, rglru)                                                                                      \
    X(rglru_bwd, rglru)                                                                                      \
    X(rglru_step, rglru)                                                                                     \
    X(rope, rope)                                                                                            \
    X(attn_fwd, attn)                                                                                        \
    X(attn_bwd, attn)                                                                                        \
    X(attn_step, attn)                                                                                       \
    X(act_fwd, activation)                                                                                   \
    X(act_bwd, activation)                                                                                   \
    X(xent, xent)                                                                                            \
    X(cast, cast)                                                                                            \
    X(total, total)                                                                                          \
    X(judge, judge)                                                                                          \
    X(adamw, adamw)

#define COST_DECLARE(op, type) struct cost cost_##op(const struct type *a);
COST_OPS(COST_DECLARE)
#undef COST_DECLARE

#endif
