/* rewrite.h - checkpoints written anew: in another layout, in other types, several made one
 * SPDX-License-Identifier: MIT
 *
 * Everything streams: a block of rows of one tensor is in memory, never a model.
 */
#ifndef SSM_REWRITE_H
#define SSM_REWRITE_H

#include <stdbool.h>

#include "common/io/ckpt.h"

enum { DTYPE_STORED = -1 };

struct rewrite {
    const char *out;            /* folder */
    int parts;                  /* files in it */
    bool force;                 /* replace what is there */
    bool dry_run;               /* print what each file would hold, write nothing */
    bool drop_optimizer;        /* the model alone, neither optimizer nor state */
    bool ema;                   /* the running mean of the weights in their place; only with drop_optimizer */
    int dtype;                  /* enum ckpt_dtype of the model, or DTYPE_STORED: as it is */
};

/* Writes a checkpoint of any layout. What keeps its type keeps its bits. A cast to 16 bits leaves fp32 what the model's
 * table of parameters says must be (A_log and its like), and there is none of a run with its optimizer, whose
 * moments and updates belong to fp32 weights. Dies on failure. */
void rewrite_ckpt(struct ckpt *c, const struct rewrite *r);

/* Writes the mean of n models of one configuration, each weighed by weights[i] / sum of weights (>= 0, not all 0). Sums
 * are double, in the order of the inputs. dtype is not DTYPE_STORED; there is neither optimizer nor state. The
 * history has those of the sources. Dies on failure. */
void rewrite_average(struct ckpt **c, const double *weights, int n, const struct rewrite *r);

/* ---- what they share ---- */

/* Dies when the output is this input, or holds a set and may not be replaced. */
void rewrite_check_out(const struct rewrite *r, const struct ckpt *c);
/* Sets the types of a model's tensors: `dtype`, or fp32 where the configuration of c asks for it. */
void rewrite_cast(const struct ckpt *c, struct ckpt_tensor *t, int n, enum ckpt_dtype dtype);
/* Writes the tensors, or prints the plan. put() gives the rows of a block to the writer. */
struct block;
void rewrite_tensors(const struct rewrite *r, const struct ckpt_tensor *t, int n, const struct attrs *config,
                     const struct attrs *state, const char *history,
                     void (*put)(void *arg, struct ckpt_writer *w, const struct ckpt_tensor *t,
                                 const struct block *b),
                     void *arg);

#endif
