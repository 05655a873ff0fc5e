/* watch.h - a rank that waits for too long says where, and ends
 * SPDX-License-Identifier: MIT
 *
 * A collective has no time limit: when one rank stands still, all the others wait in MPI until the job's time is over. So a
 * thread of each rank looks at how long the phase lasts that this rank is in. Beyond the limit it says rank, host, step,
 * phase and seconds in one line; the other ranks get two seconds to say theirs, and the process ends with 75. It calls
 * neither MPI, whose abort waits for the other ranks, nor stdio, whose locks the thread that hangs may hold.
 */
#ifndef SSM_WATCH_H
#define SSM_WATCH_H

#include <stdint.h>

/* Begins to watch this process, in the phase "start"; limit: seconds of a phase; 0: no watch. Call it once, after
 * signals_watch() and comm_init(). */
void watch_begin(double limit);
/* This rank begins with that now; `phase` is not copied. step: being done. */
void watch_phase(const char *phase, int64_t step);

#endif
