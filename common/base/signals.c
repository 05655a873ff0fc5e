/* signals.c - being told to stop, without interrupting a computation
 * SPDX-License-Identifier: MIT
 */
#include "signals.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "err.h"

static atomic_bool told;
static sigset_t watched;

static void *await(void *arg)
{
    (void)arg;
    for (int sig, interrupts = 0; sigwait(&watched, &sig) == 0;) {
        atomic_store(&told, true);
        if (sig == SIGINT && ++interrupts > 1) {
            sigset_t one;
            sigemptyset(&one);
            sigaddset(&one, SIGINT);
            signal(SIGINT, SIG_DFL);
            pthread_sigmask(SIG_UNBLOCK, &one, NULL);
            raise(SIGINT);
        }
    }
    return NULL;
}

void signals_watch(void)
{
    static const int sigs[] = { SIGTERM, SIGUSR1, SIGINT, SIGHUP };
    pthread_t thread;
    sigemptyset(&watched);
    for (size_t i = 0; i < sizeof sigs / sizeof *sigs; i++) {
        struct sigaction a;
        sigaction(sigs[i], NULL, &a);
        if (a.sa_handler != SIG_IGN) /* nohup(1) and shells ignore some on purpose */
            sigaddset(&watched, sigs[i]);
    }
    pthread_sigmask(SIG_BLOCK, &watched, NULL);
    if (pthread_create(&thread, NULL, await, NULL) != 0)
        die("cannot start the thread that waits for signals");
    pthread_detach(thread);
}

bool signals_told(void) { return atomic_load(&told); }
