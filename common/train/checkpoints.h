/* checkpoints.h - the checkpoints of a run: begun, published, removed
 * SPDX-License-Identifier: MIT
 *
 * trainer.h writes one; this says where it lies in the run directory, when it becomes valid, and which are
 * kept.
 */
#ifndef SSM_CHECKPOINTS_H
#define SSM_CHECKPOINTS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/io/rundir.h"
#include "deadline.h"
#include "resume.h"
#include "trainer.h"

struct checkpoints { /* the caller's: all are borrowed */
    struct trainer *t;
    struct rundir *dir;         /* rank 0's, else NULL */
    const char *run;            /* its folder */
    struct identity identity;
    const char *history;
    int64_t keep, keep_every;   /* see rundir_prune() */
    int64_t back;               /* the run may go back to checkpoints of multiples of this step; 0: to none */
    bool background;            /* but for the last one */
    struct deadline *deadline;  /* learns how long one takes */
    int64_t step;               /* of the newest; -1: there is none */
    double begun;               /* when that was, by now_seconds() */
    bool told;                  /* rank 0: the control file asked for what is being written */
};

/* The run is not to be started again, says its state (rundir.h); for before dying with 93. */
void checkpoints_tell_stay(const struct checkpoints *k);
/* Collective. Begins a checkpoint of the step that is done. One that does not fit on the disk is refused with
 * a warning, and the training goes on. told: rank 0 was asked for it by the control file. Dies with 93 when a
 * weight is not finite, and as checkpoints_publish() does, for the one before. */
void checkpoints_begin(struct checkpoints *k, bool told);
/* Collective. The last one of this start: also written and published. Dies when there is no room. */
void checkpoints_finish(struct checkpoints *k);
/* Collective. Makes the checkpoint that was begun, if any, valid, and removes what is not kept. Dies with
 * 1 when a newer incarnation has begun, or writing has failed. */
void checkpoints_publish(struct checkpoints *k);
/* Collective. Goes back to the newest whole checkpoint whose step is a multiple of `back`, on with the next samples, and
 * removes those of later steps. The others, made when somebody asked or stopped the run, do not count: a run that was
 * stopped on the way goes back to where it would have without. False: there is none. */
bool checkpoints_rewind(struct checkpoints *k);

#endif
