/* comm.h - groups of ranks and what they say to each other
 * SPDX-License-Identifier: MIT
 *
 * A struct comm is a group of ranks on a transport: MPI for host memory (mpi.c), or nobody, when a tool runs as one
 * process (solo.c: no MPI library call is made, so tools start on any login node), or what the device brings for its
 * own memory (linked.c: NCCL between GPUs). Everything above talks through these functions only.
 *
 * "Collective": every rank of the group must call it, in the same order. Sums are taken in rank order,
 * so they are the same bits wherever the ranks sit and however messages arrive (MPI_Allreduce does not
 * promise that).
 */
#ifndef SSM_COMM_H
#define SSM_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct comm {
    int rank, size;
    const struct transport *t;
    void *impl;
};

/* The table a transport fills; counts are bytes unless said, all may exceed 2^31. */
struct transport {
    const char *name;
    void (*barrier)(struct comm *c);
    void (*bcast)(struct comm *c, void *data, size_t bytes, int root);
    /* all[r*bytes...] = mine of rank r */
    void (*all_gather)(struct comm *c, const void *mine, size_t bytes, void *all);
    /* rank r gets send[sdispl[r]...+scount[r]]; all arrays have one entry a rank */
    void (*all_to_all)(struct comm *c, const void *send, const size_t *scount, const size_t *sdispl, void *recv,
                       const size_t *rcount, const size_t *rdispl);
    void (*send)(struct comm *c, const void *data, size_t bytes, int to, int tag);
    void (*recv)(struct comm *c, void *data, size_t bytes, int from, int tag);
    struct comm *(*split)(struct comm *c, int color, int key);
    void (*release)(struct comm *c);
    /* Of a device, NULL elsewhere: */
    void (*sum_f32)(struct comm *c, float *x, int64_t n);
    void (*sum_scatter_f32)(struct comm *c, const float *x, int64_t each, float *mine);
    void (*join)(struct comm *c);
};

/* Starts MPI when a launcher started us (mpiexec, srun with an MPI plugin), else we are alone. Dies when Slurm
 * started several tasks without MPI (srun --mpi=none), which would silently be as many separate runs.
 * Finishes MPI at exit(), aborts it at die(). Call it first in main(), after err_init(). */
void comm_init(int *argc, char ***argv);
/* Ends the process at once, and the job with it, with this exit code where the launcher allows it. For a thread of which others
 * hang in MPI. */
void comm_leave(int code) __attribute__((noreturn));
struct comm *comm_world(void);
/* Rank among those on this host, and how many they are. */
int comm_local_rank(void);
int comm_local_size(void);

struct backend;
/* Collective over c, which stays. The same ranks for memory of this backend; where that is host memory, or there is one
 * rank, c itself. Of the functions below it serves bcast, all_gather, all_to_all, send, recv, the sums of f32, split, barrier;
 * they return at once: ops that are begun later wait for them after comm_join(). Sums are added in the device's own order, the
 * same in every run on the same machines. Dies when the devices cannot reach each other. */
struct comm *comm_on_device(struct comm *c, const struct backend *be);
/* What the device is given next waits until it has done what this group was given. Nothing on the host. */
void comm_join(struct comm *c);

/* Collective. The ranks of one color, ordered by key, then rank. color < 0: NULL. */
struct comm *comm_split(struct comm *c, int color, int key);
void comm_free(struct comm *c);

/* All collective. */
void comm_barrier(struct comm *c);
void comm_bcast(struct comm *c, void *data, size_t bytes, int root);
void comm_all_gather(struct comm *c, const void *mine, size_t bytes, void *all);
/* Rank r gets scount[r] bytes at send + sdispl[r]; the rcount[s] bytes of rank s come to recv + rdispl[s]. */
void comm_all_to_all(struct comm *c, const void *send, const size_t *scount, const size_t *sdispl, void *recv,
                     const size_t *rcount, const size_t *rdispl);
/* In place sums in rank order; scratch for f32: every rank adds its share of the elements. */
void comm_sum_f32(struct comm *c, float *x, int64_t n);
/* mine [each] = the sum over the ranks of x [size, each], row `rank` of it (reduce-scatter). */
void comm_sum_scatter_f32(struct comm *c, const float *x, int64_t each, float *mine);
void comm_sum_f64(struct comm *c, double *x, int64_t n);
void comm_sum_i64(struct comm *c, int64_t *x, int64_t n);
int64_t comm_max_i64(struct comm *c, int64_t x);
/* The worst of the ranks' exit codes (93 over 2 over 1 over 75 over 0), for all to leave with. */
int comm_agree(struct comm *c, int code);

/* Not collective: pairs. */
void comm_send(struct comm *c, const void *data, size_t bytes, int to, int tag);
void comm_recv(struct comm *c, void *data, size_t bytes, int from, int tag);

#endif
