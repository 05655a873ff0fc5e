/* runtime_emulated.c - streams of CUDA's runtime, for tests where there is no GPU
 * SPDX-License-Identifier: MIT
 *
 * The ops' stream, NULL, does everything at once. Copies on another one are made as late as may be: when something waits for an
 * event that was recorded on it, so that who changes too early what is copied is seen.
 */
#include <pthread.h>

#include "runtime.h"

struct copy {
    void *to;
    const void *from;
    size_t bytes;
};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* threads may wait beside the ops' */
static struct copy *late;
static size_t lates, room;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    (void)flags;
    *s = malloc(1);
    return *s ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, cudaStream_t s)
{
    (void)kind;
    if (!s) {
        memmove(to, from, bytes);
        return cudaSuccess;
    }
    pthread_mutex_lock(&lock);
    if (lates == room) {
        struct copy *more = realloc(late, (2 * room + 64) * sizeof *late);
        if (!more)
            abort();
        late = more;
        room = 2 * room + 64;
    }
    late[lates++] = (struct copy){ to, from, bytes };
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

static void catch_up(void)
{
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < lates; i++)
        memcpy(late[i].to, late[i].from, late[i].bytes);
    lates = 0;
    pthread_mutex_unlock(&lock);
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    if (e->on)
        catch_up();
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags)
{
    (void)s, (void)flags;
    return cudaEventSynchronize(e);
}
