/* mpi.c - the transport over MPI, for host memory
 * SPDX-License-Identifier: MIT
 *
 * Any MPI-3. Counts are split into pieces of at most 1 GiB, since MPI-3 counts in int. Errors of MPI end the
 * job inside MPI (MPI_ERRORS_ARE_FATAL), which is what a failed collective calls for.
 */
#define _DEFAULT_SOURCE
#include <mpi.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "transport.h"

enum { PIECE = 1 << 30 };

static const struct transport over_mpi;
static MPI_Comm world = MPI_COMM_NULL;

static MPI_Comm of(const struct comm *c) { return *(const MPI_Comm *)c->impl; }

static struct comm *wrap(MPI_Comm m)
{
    struct comm *c = xcalloc(1, sizeof *c);
    MPI_Comm *impl = xmalloc(sizeof *impl);
    *impl = m;
    c->impl = impl;
    c->t = &over_mpi;
    MPI_Comm_rank(m, &c->rank);
    MPI_Comm_size(m, &c->size);
    return c;
}

static void barrier(struct comm *c) { MPI_Barrier(of(c)); }

static int piece(size_t left) { return left > PIECE ? PIECE : (int)left; }

static void bcast(struct comm *c, void *data, size_t bytes, int root)
{
    for (size_t at = 0; at < bytes; at += PIECE)
        MPI_Bcast((char *)data + at, piece(bytes - at), MPI_BYTE, root, of(c));
}

static void all_to_all(struct comm *c, const void *send, const size_t *scount, const size_t *sdispl, void *recv,
                       const size_t *rcount, const size_t *rdispl)
{
    size_t n = 0;
    for (int r = 0; r < c->size; r++)
        n += scount[r] / PIECE + rcount[r] / PIECE + 2;
    MPI_Request *reqs = xmalloc(mul_size(n, sizeof *reqs, "requests"));
    int used = 0;
    for (int r = 0; r < c->size; r++)
        for (size_t at = 0; at < rcount[r]; at += PIECE)
            MPI_Irecv((char *)recv + rdispl[r] + at, piece(rcount[r] - at), MPI_BYTE, r, 0, of(c), &reqs[used++]);
    for (int r = 0; r < c->size; r++)
        for (size_t at = 0; at < scount[r]; at += PIECE)
            MPI_Isend((const char *)send + sdispl[r] + at, piece(scount[r] - at), MPI_BYTE, r, 0, of(c),
                      &reqs[used++]);
    for (int i = 0; i < used; i++) /* not Waitall: gcc takes MPICH's MPI_STATUSES_IGNORE for an array */
        MPI_Wait(&reqs[i], MPI_STATUS_IGNORE);
    free(reqs);
}

static void all_gather(struct comm *c, const void *mine, size_t bytes, void *all)
{
    if (bytes <= PIECE) {
        MPI_Allgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, of(c));
        return;
    }
    for (int r = 0; r < c->size; r++) {
        char *slot = (char *)all + (size_t)r * bytes;
        if (r == c->rank)
            memmove(slot, mine, bytes);
        bcast(c, slot, bytes, r);
    }
}

static void send_to(struct comm *c, const void *data, size_t bytes, int to, int tag)
{
    for (size_t at = 0; at == 0 || at < bytes; at += PIECE)
        MPI_Send((const char *)data + at, piece(bytes - at), MPI_BYTE, to, tag, of(c));
}

static void recv_from(struct comm *c, void *data, size_t bytes, int from, int tag)
{
    for (size_t at = 0; at == 0 || at < bytes; at += PIECE)
        MPI_Recv((char *)data + at, piece(bytes - at), MPI_BYTE, from, tag, of(c), MPI_STATUS_IGNORE);
}

static struct comm *split(struct comm *c, int color, int key)
{
    MPI_Comm m;
    MPI_Comm_split(of(c), color < 0 ? MPI_UNDEFINED : color, key, &m);
    return m == MPI_COMM_NULL ? NULL : wrap(m);
}

static void release(struct comm *c)
{
    if (of(c) != world)
        MPI_Comm_free((MPI_Comm *)c->impl);
    free(c->impl);
}

static const struct transport over_mpi = {
    .name = "mpi",
    .barrier = barrier,
    .bcast = bcast,
    .all_gather = all_gather,
    .all_to_all = all_to_all,
    .send = send_to,
    .recv = recv_from,
    .split = split,
    .release = release,
};

struct comm *mpi_world(int *argc, char ***argv)
{
    int given;
    /* Other threads of ours never call MPI. */
    if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &given) != MPI_SUCCESS || given < MPI_THREAD_FUNNELED)
        die("MPI does not allow a process with threads (level %d)", given);
    MPI_Comm_dup(MPI_COMM_WORLD, &world);
    return wrap(world);
}

void mpi_finish(void)
{
    if (world == MPI_COMM_NULL)
        return;
    MPI_Comm_free(&world);
    MPI_Finalize();
}

/* How a failed rank's exit code becomes the job's. MPICH's launcher, Hydra, ends the job on its own abort command, with the
 * code in it; a rank that leaves without that command looks crashed to it, and when it sees the process end before the
 * connection, the job's exit code is 1. Slurm kills on that command and forgets the code: there MPI's abort of a
 * communicator that is not MPI_COMM_WORLD makes each rank leave with it. */
static bool by_hydra(void) { return getenv("HYDI_CONTROL_FD") != NULL; }

/* Until the launcher has taken what was written into a pipe to it; a second at most. */
static void wait_until_read(int fd)
{
    int left = 0;
    for (int ms = 0; ms < 1000 && ioctl(fd, FIONREAD, &left) == 0 && left > 0; ms++)
        usleep(1000);
}

/* Hydra drops words that it has not read when the job ends. Those of other ranks get a moment. */
static void let_hydra_read(void)
{
    wait_until_read(STDOUT_FILENO);
    wait_until_read(STDERR_FILENO);
    usleep(50000);
}

void mpi_abort(int code)
{
    if (world == MPI_COMM_NULL)
        return;
    if (by_hydra())
        let_hydra_read();
    /* The reason has been said in one line; MPI would add its own. */
    int null = open("/dev/null", O_WRONLY);
    if (null >= 0)
        dup2(null, STDERR_FILENO);
    MPI_Abort(by_hydra() ? MPI_COMM_WORLD : world, code);
}

void mpi_leave(int code)
{
    const char *pmi = getenv("PMI_FD");
    if (!by_hydra() || !pmi)
        return;
    let_hydra_read();
    char command[64];
    int n = snprintf(command, sizeof command, "cmd=abort exitcode=%d\n", code); /* PMI-1, which Hydra always understands */
    if (write((int)strtol(pmi, NULL, 10), command, (size_t)n) == n)
        sleep(1); /* until Hydra ends this process */
}

void mpi_answer(void)
{
    int there;
    if (world != MPI_COMM_NULL)
        MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, world, &there, MPI_STATUS_IGNORE);
}

void mpi_local(int *rank, int *size)
{
    MPI_Comm local;
    MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &local);
    MPI_Comm_rank(local, rank);
    MPI_Comm_size(local, size);
    MPI_Comm_free(&local);
}
