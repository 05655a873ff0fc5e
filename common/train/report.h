/* report.h - what a run tells of its steps: metrics, event files, the progress line
 * SPDX-License-Identifier: MIT
 *
 * Only rank 0 tells; on the others all of this does nothing.
 */
#ifndef SSM_REPORT_H
#define SSM_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/meter.h"
#include "common/io/rundir.h"
#include "deadline.h"
#include "events.h"
#include "metrics.h"
#include "trainer.h"

struct report {
    const struct trainer *t;
    const struct deadline *deadline;
    struct rundir *dir;         /* NULL but on rank 0 */
    struct metrics *steps, *looks, *slowest;
    struct events *events;      /* NULL: none are wanted */
    struct progress bar;
    int64_t first, last;        /* steps: first is now less those made in this start; of the run */
    double started;             /* by now_seconds() */
    double flops;               /* of a token, forward and backward */
    double loss, speed;         /* running means: nats a token, computed tokens a second; 0: none yet */
    double peak;                /* FLOP/s of all ranks' devices in the precision of the activations; 0: not known */
    double device_memory;       /* bytes in use on this rank's; 0: not known */
    double asked, log_every;    /* when it said so, by now_seconds(); seconds until it is asked again */
    bool warned;                /* that the job is shorter than the run */
};

/* Begins metrics.jsonl, valid.jsonl with `looks`, slowest.jsonl with `slowest`, and an event file with `events`, in the
 * incarnation's folder `dir` (rank 0's, else NULL). Trainer, dir and deadline must outlive it. last: the step that ends the
 * run. log_every: seconds between lines when there is no terminal. Dies when a file cannot be written. */
void report_begin(struct report *r, const struct trainer *t, struct rundir *dir,
                  const struct deadline *deadline, int64_t last, double log_every, bool looks, bool slowest, bool events);
/* Tells of the step that is done, and is the incarnation's heartbeat. Dies when a newer one has begun. rate: the learning rate; seconds of the
 * step, `wait` of them for data. */
void report_step(struct report *r, const struct step_report *s, double rate, double seconds, double wait);
/* Tells of a look at a held-out set, in the same way. */
void report_look(struct report *r, const struct metrics_valid *look);
/* The trainer has gone back from this step; the run ends with step `last` now. */
void report_rewind(struct report *r, int64_t from, int64_t last);
/* Tells which rank was the slowest. */
void report_slowest(struct report *r, const struct slowest *s);
/* Ends the progress line on a terminal, so that other messages begin a line. */
void report_pause(struct report *r);
/* Closes the files and says the last words. */
void report_end(struct report *r);

#endif
