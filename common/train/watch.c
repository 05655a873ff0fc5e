/* watch.c - a rank that waits for too long says where, and ends
 * SPDX-License-Identifier: MIT
 */
#include "watch.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/meter.h"
#include "common/dist/comm.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the next three, held for moments only */
static const char *phase = "start";
static int64_t step;
static double begun;
static double limit;                                     /* 0: nobody watches */
static char host[64] = "?";

static void nap(double seconds)
{
    struct timespec t = { (time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9) };
    nanosleep(&t, NULL);
}

static void say(const char *what, int64_t at, double seconds)
{
    char line[320];
    int n = snprintf(line, sizeof line,
                     "%s: hangs: rank %d on %s, step %lld, %s for %.1f s: more than --hang-limit %g\n",
                     err_program(), err_rank(), host, (long long)at, what, seconds, limit);
    if (n > 0 && write(STDERR_FILENO, line, (size_t)n) < 0)
        return; /* nobody is left to tell */
}

static void *watch(void *unused)
{
    (void)unused;
    for (;;) {
        nap(limit > 4 ? 1 : limit / 4);
        pthread_mutex_lock(&lock);
        const char *what = phase;
        int64_t at = step;
        double seconds = now_seconds() - begun;
        pthread_mutex_unlock(&lock);
        if (seconds <= limit)
            continue;
        say(what, at, seconds);
        nap(2);
        comm_leave(EXIT_AGAIN);
    }
}

void watch_begin(double seconds)
{
    pthread_t thread;
    if (seconds <= 0)
        return;
    gethostname(host, sizeof host - 1);
    limit = seconds;
    begun = now_seconds();
    if (pthread_create(&thread, NULL, watch, NULL) != 0)
        die("cannot start the thread of --hang-limit");
    pthread_detach(thread);
}

void watch_phase(const char *name, int64_t at)
{
    if (limit <= 0)
        return;
    pthread_mutex_lock(&lock);
    phase = name;
    step = at;
    begun = now_seconds();
    pthread_mutex_unlock(&lock);
}
