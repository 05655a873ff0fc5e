/* resume.h - what a run begins with, or goes on from
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_RESUME_H
#define SSM_RESUME_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/attrs.h"
#include "common/dist/comm.h"
#include "common/io/ckpt.h"
#include "common/model/config.h"
#include "order.h"
#include "trainer.h"

/* What must be the same when a run goes on; what may change is the rest of the options. */
struct identity {
    const char *data;       /* struct data's hashes */
    int64_t seed, seq_len;
    enum order_mode order;
};
/* Its attributes, as each checkpoint has them among its state. */
void resume_identity(struct attrs *a, const struct identity *id);

/* Collective. Opens the newest of the run's checkpoints that are whole and whose step is a multiple of `every`, with a
 * warning for each newer one that is damaged. NULL: the run has none. Dies when it has some, and all are damaged. */
struct ckpt *resume_open_newest(struct comm *comm, const char *run, int64_t every);
/* Collective. The checkpoint that says what the model is, or that gives its weights: of a run (may be NULL)
 * that has some its own newest one, unless a preset says what the model is; else that of `init_from`, a
 * checkpoint or run, or NULL. NULL: there is none. check: also that init_from's is whole. Dies when it cannot
 * be used. */
struct ckpt *resume_open_base(struct comm *comm, const char *run, const char *init_from, bool preset,
                              bool check);

/* The model of a checkpoint. Dies when it is none. */
struct config resume_config(const struct ckpt *c);
/* Dies when `saved`, what checkpoint c holds, is another model than `config`. */
void resume_check_model(const struct ckpt *c, const struct config *saved, const struct config *config);
/* Dies when the run of checkpoint c cannot go on as this model and identity. */
void resume_check_run(const struct ckpt *c, const struct config *config, const struct identity *id);

/* Collective. Fills the trainer: all of `from`; or, where that is NULL, the weights, and moments if wanted,
 * of `base`; or, without both, new weights from the seed. Returns the history for the checkpoints to come;
 * free it. */
char *resume_load(struct trainer *t, struct ckpt *from, struct ckpt *base, bool moments, int64_t seed);

#endif
