/* polite.c - two cures for MPICH over UCX, as Debian 12 ships it
 * SPDX-License-Identifier: MIT
 *
 * 1. MPICH's wait loops never give the core away. With more ranks than cores a barrier takes 8 to 34 ms, since
 *    the rank that is waited for does not run. Cure: yield after a hundred polls that found nothing.
 * 2. MPI_Finalize over TCP can hang with three or more ranks: one rank waits for its peers to help it disconnect,
 *    while the peers already block in a read() from the process manager. Cure: as long as a UCX worker is being
 *    taken down, poll it until that read has something to read.
 *
 * The functions below stand in front of UCX's own (and of read()) because the dynamic linker prefers the
 * program's symbols; each calls the real one. Without UCX in the process they are never called, and read()
 * passes through.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

unsigned ucp_worker_progress(void *worker);
void *ucp_disconnect_nb(void *endpoint);
void ucp_worker_destroy(void *worker);

static void *newest;    /* the worker that was polled last */
static void *going;     /* the worker whose connections are being taken down */

/* dlsym returns an object pointer; POSIX guarantees that it holds a function's. */
#define NEXT(type, name)                                 \
    static type next;                                    \
    if (!next)                                           \
        *(void **)&next = dlsym(RTLD_NEXT, name)

unsigned ucp_worker_progress(void *worker)
{
    typedef unsigned (*progress_fn)(void *);
    NEXT(progress_fn, "ucp_worker_progress");
    static _Thread_local unsigned empty;
    newest = worker;
    unsigned events = next(worker);
    empty = events ? 0 : empty + 1;
    if (empty == 100) {
        empty = 0;
        sched_yield();
    }
    return events;
}

void *ucp_disconnect_nb(void *endpoint)
{
    typedef void *(*disconnect_fn)(void *);
    NEXT(disconnect_fn, "ucp_disconnect_nb");
    going = newest;
    return next(endpoint);
}

void ucp_worker_destroy(void *worker)
{
    typedef void (*destroy_fn)(void *);
    NEXT(destroy_fn, "ucp_worker_destroy");
    going = newest = NULL;
    next(worker);
}

ssize_t read(int fd, void *data, size_t n)
{
    typedef ssize_t (*read_fn)(int, void *, size_t);
    NEXT(read_fn, "read");
    const char *pmi = going ? getenv("PMI_FD") : NULL;
    if (pmi && (int)strtol(pmi, NULL, 10) == fd) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        while (going && poll(&p, 1, 0) == 0)
            ucp_worker_progress(going);
    }
    return next(fd, data, n);
}
