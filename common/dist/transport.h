/* transport.h - what comm.c needs of its transports (private to this folder)
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_TRANSPORT_H
#define SSM_TRANSPORT_H

#include "comm.h"

/* One rank, no library. Never fails. */
struct comm *solo_world(void);

/* MPI: starts it; finishes or aborts it. Only mpi.c includes mpi.h. */
struct comm *mpi_world(int *argc, char ***argv);
void mpi_finish(void);
void mpi_abort(int code);
/* Tells the launcher that the job ends, without MPI. Returns when it does not hear. */
void mpi_leave(int code);
/* Answers what other ranks want of the library. */
void mpi_answer(void);
/* Collective over the world: rank and number of ranks on this host. */
void mpi_local(int *rank, int *size);

#endif
