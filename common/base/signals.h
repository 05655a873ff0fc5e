/* signals.h - being told to stop, without interrupting a computation
 * SPDX-License-Identifier: MIT
 *
 * The signals are blocked in every thread and awaited by one of their own. Not for elegance: a signal frame is pushed
 * where the stack pointer points, and matrix kernels may have it elsewhere. With oneDNN 2.6.3 (Debian 12) any handler
 * that runs while dnnl_sgemm computes overwrites memory of the process, even an empty one.
 */
#ifndef SSM_SIGNALS_H
#define SSM_SIGNALS_H

#include <stdbool.h>

/* Watches SIGTERM, SIGUSR1, SIGINT and SIGHUP from now on. Call it before any other thread starts (also those of
 * MPI), since threads inherit what is blocked. A second SIGINT ends the process at once, as if unhandled. */
void signals_watch(void);
/* True when one of them has come. */
bool signals_told(void);

#endif
