/* threads.h - how many threads this process computes with
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_THREADS_H
#define SSM_THREADS_H

/* Sets the number of OpenMP threads: `asked` when above 0; else what OMP_NUM_THREADS says; else the cores that the
 * process may use, shared evenly by the `local_ranks` processes on this host. Returns the number. */
int threads_set(int asked, int local_ranks);

#endif
