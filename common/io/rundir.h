/* rundir.h - the folder of a training run: incarnations, liveness, the newest valid checkpoint
 * SPDX-License-Identifier: MIT
 *
 *   RUN/inc-0001/lock               held (OFD write lock) by the living process; "host pid job attempt\n", and "ended\n"
 *                                   behind it once rundir_end() has run; its time of change is the heartbeat. job:
 *                                   SLURM_ARRAY_JOB_ID, or else SLURM_JOB_ID, or "-"; attempt: "TASK.RESTART" of
 *                                   SLURM_ARRAY_TASK_ID and SLURM_RESTART_COUNT, 0 where there is none
 *   RUN/inc-0001/state              one line, "WORD STEP\n", always whole: "running STEP", the step that this start goes
 *                                   on from (0 until that is known); at the end "done STEP", "again STEP" (exit code
 *                                   75) or "stay STEP" (93). It stays at running when the start failed or was killed
 *   RUN/inc-0001/metrics.jsonl ...  what this start wrote
 *   RUN/inc-0001/step-00000100/     a checkpoint (ckpt.h)
 * Every start takes the next number (its folder is renamed into place with the lock held, which is atomic) and
 * writes below its own folder only, and a reader takes the newest valid checkpoint of all of them.
 *
 * Slurm starts a job again when a node does not answer, whatever still computes there. So a later attempt of the
 * job that holds the run takes it over at once, and the older incarnation is fenced: as soon as the folder of the
 * next number is there it publishes no checkpoint, removes nothing, writes no line and takes no word, but dies.
 * That is asked right before each such act (of a checkpoint: between the sync of its index and the rename that makes it
 * valid), so one of them may be under way at the moment of the take-over; each leaves the run whole. Only rank 0 uses this module.
 */
#ifndef SSM_RUNDIR_H
#define SSM_RUNDIR_H

#include <stdbool.h>
#include <stdint.h>

struct rundir;
/* Takes the next incarnation. Dies when another process lives in the newest one: its lock is held; or it was
 * written by another host and its heartbeat moves while we watch (`patience` seconds; 0: do not watch). From an
 * earlier attempt of our own Slurm job it takes over, with a warning unless that one is known to be dead. */
struct rundir *rundir_begin(const char *run, double patience);
void rundir_end(struct rundir *r);      /* releases the lock */
const char *rundir_path(const struct rundir *r);  /* RUN/inc-NNNN */
int rundir_number(const struct rundir *r);
/* Replaces RUN/inc-NNNN/state. Warns when it cannot: then the file says what it said. */
void rundir_tell(const struct rundir *r, const char *word, int64_t step);
void rundir_beat(struct rundir *r);     /* touches the lock file, at most once a second */
bool rundir_is_newest(const struct rundir *r); /* false: a newer incarnation has begun, publish nothing more */
/* The fence: dies when a newer incarnation has begun. To be called before each write that others see. */
void rundir_demand_newest(const struct rundir *r);
/* RUN/inc-NNNN/step-SSSSSSSS; free it. */
char *rundir_step_path(const struct rundir *r, int64_t step);

/* All step folders of all incarnations that hold an index and whose step is a multiple of `every`, newest first (higher
 * incarnation wins for one step, a higher step wins otherwise). Returns how many; *paths and its strings are the
 * caller's (rundir_free_list). */
int rundir_list(const char *run, int64_t every, char ***paths);
void rundir_free_list(char **paths, int n);
/* Opens what a user means by a path: a checkpoint's folder, or of a run's folder the newest checkpoint that opens
 * (with a warning for each newer one that does not). With `deep` the members' checksums are checked as well, as
 * whoever goes on with the numbers must. NULL with err_last(). */
struct ckpt;
struct ckpt *rundir_try_open_ckpt(const char *path, bool deep) __attribute__((warn_unused_result));
/* Keeps the newest `keep` checkpoints (>= 1) of all incarnations, the newest `keep` of this one (after a resume
 * from an older step the two differ), those whose step is a multiple of `every` (0: no others), and the newest whose step
 * is one of `back` (0: none), and removes the others' folders, index first; also folders of dead incarnations'
 * checkpoints that never got an index. Does nothing when this incarnation is not the newest any more. */
void rundir_prune(const struct rundir *r, int keep, int64_t every, int64_t back);
/* Removes all checkpoints of later steps, newest first: the run has gone back to this one. Dies when this incarnation is
 * not the newest any more. */
void rundir_go_back(const struct rundir *r, int64_t step);

#endif
