/* run.h - the training loop
 * SPDX-License-Identifier: MIT
 *
 * Steps to the end of the run, or until something stops it: --stop-at, a signal, the control file, the end of
 * the job's time. In between held-out sets are looked at, and checkpoints begun and published. What is told of
 * it: report.h.
 */
#ifndef SSM_RUN_H
#define SSM_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "checkpoints.h"
#include "length.h"
#include "loader.h"
#include "schedule.h"
#include "valids.h"

struct run_options {
    struct length length;
    struct schedule schedule;   /* in the unit of the length */
    int64_t save_every;         /* steps; 0: at the end only */
    double save_minutes;        /* also after so many; 0: no */
    int64_t valid_every;        /* steps; 0: at the end only */
    int64_t valid_tokens;       /* of a set that are scored; 0: all */
    int64_t stop_at;            /* stop after this step; 0: no */
    int64_t slowest_every;      /* steps between lines of the slowest of several ranks; 0: none */
    int64_t max_skips;          /* so many steps skipped in a row, or rewinds to one checkpoint, end the run */
    double log_every;           /* seconds between lines when there is no terminal */
    bool events;                /* write an event file */
};

/* Collective. Trains the trainer of k from where it is; at the end the checkpoint of the last step is valid.
 * Returns EXIT_DONE, or EXIT_AGAIN when there is more to do; dies with EXIT_STAY when the run has diverged.
 * */
int run_train(struct checkpoints *k, struct loader *loader, const struct valids *valids,
              const struct run_options *o);

#endif
