/* err.c - how a tool speaks to people and how it ends
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "err.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE 2048

static const char *program = "ssmtools";
static char who[128];              /* "ssmtrain" or "ssmtrain[3@node07]" */
static int my_rank;
static int verbosity = 1;
static void (*hooks[8])(int);
static int n_hooks;
static void (*end_hook)(void);
static void (*patience)(void);
static _Thread_local char last[LINE];
static _Thread_local struct err_caught *caught;
static pthread_mutex_t dying = PTHREAD_MUTEX_INITIALIZER;

/* A file that we open must not take the place of a standard stream that the caller has closed: messages would go into
 * it. Writing to a standard output that is closed fails, as on a full disk. */
static void fill_standard_streams(void)
{
    static const char *const stand_in[] = { "/dev/null", "/dev/full", "/dev/null" };
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open(stand_in[fd], O_RDWR) != fd)
            _exit(EXIT_FAILED);
}

void err_init(const char *name)
{
    fill_standard_streams();
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes shows as a failed write, which is answered like a full disk */
    program = name;
    snprintf(who, sizeof who, "%s", name);
}

void err_set_rank(int rank, int size)
{
    my_rank = rank;
    if (size > 1) {
        char host[64] = "?";
        gethostname(host, sizeof host - 1);
        snprintf(who, sizeof who, "%s[%d@%s]", program, rank, host);
    }
}

const char *err_program(void) { return program; }
int err_rank(void) { return my_rank; }
void err_set_verbosity(int level) { verbosity = level; }
int err_verbosity(void) { return verbosity; }

static void say(const char *kind, const char *fmt, va_list ap, const char *tail)
{
    char line[LINE];
    size_t n = (size_t)snprintf(line, sizeof line, "%s: %s", who[0] ? who : program, kind);
    int m = vsnprintf(line + n, sizeof line - n, fmt, ap);
    n = m < 0 || n + (size_t)m >= sizeof line ? sizeof line - 1 : n + (size_t)m;
    if (tail) {
        m = snprintf(line + n, sizeof line - n, ": %s", tail);
        n = n + (size_t)m >= sizeof line ? sizeof line - 1 : n + (size_t)m;
    }
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)line[i] < ' ' || line[i] == 127)
            line[i] = '?';
    if (n == sizeof line - 1)
        n--;
    line[n++] = '\n';
    for (size_t done = 0; done < n;) {
        ssize_t k = write(STDERR_FILENO, line + done, n - done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            break; /* stderr is gone: nobody is left to tell */
        done += (size_t)k;
    }
}

/* All ranks often meet the same error at once. The others give rank 0 the time to say it and to end them with it, so
 * that people read one line; an error of their own comes a moment later. Meanwhile they must answer: rank 0's
 * abort waits for it. */
static void let_rank_0_speak(void)
{
    for (int ms = 0; my_rank != 0 && ms < 1000; ms++) {
        if (patience)
            patience();
        usleep(1000);
    }
}

void err_catch(struct err_caught *e)
{
    *e = (struct err_caught){ 0 };
    caught = e;
}

/* Ends a thread whose errors are caught. */
static void end_thread(int code, const char *fmt, va_list ap, const char *tail)
{
    vsnprintf(caught->text, sizeof caught->text, fmt, ap);
    size_t n = strlen(caught->text);
    if (tail)
        snprintf(caught->text + n, sizeof caught->text - n, ": %s", tail);
    caught->code = code;
    pthread_exit(NULL);
}

static void leave(int code)
{
    while (n_hooks > 0)
        hooks[--n_hooks](code);
    fflush(stdout);
    _exit(code);
}

#define SAY_AND_LEAVE(code, tail)                                                                           \
    do {                                                                                                    \
        va_list ap;                                                                                         \
        if (caught) {                                                                                       \
            va_start(ap, fmt);                                                                              \
            end_thread(code, fmt, ap, tail);                                                                \
            va_end(ap);                                                                                     \
        }                                                                                                   \
        pthread_mutex_lock(&dying); /* one thread ends the process; others that fail meanwhile wait here */ \
        let_rank_0_speak();         /* calls MPI, which takes one thread at a time */                       \
        va_start(ap, fmt);                                                                                  \
        say("", fmt, ap, tail);                                                                             \
        va_end(ap);                                                                                         \
        leave(code);                                                                                        \
        _exit(code);                                                                                        \
    } while (0)

void die(const char *fmt, ...) { SAY_AND_LEAVE(EXIT_FAILED, NULL); }

void die_errno(const char *fmt, ...)
{
    int e = errno;
    SAY_AND_LEAVE(EXIT_FAILED, strerror(e));
}

void die_usage(const char *fmt, ...)
{
    char hint[80];
    snprintf(hint, sizeof hint, "try '%s --help'", program);
    SAY_AND_LEAVE(EXIT_USAGE, hint);
}

void die_code(int code, const char *fmt, ...) { SAY_AND_LEAVE(code, NULL); }

void bug(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say("bug: ", fmt, ap, NULL);
    va_end(ap);
    abort();
}

void warn(const char *fmt, ...)
{
    if (my_rank != 0)
        return;
    va_list ap;
    va_start(ap, fmt);
    say("warning: ", fmt, ap, NULL);
    va_end(ap);
}

void note(int level, const char *fmt, ...)
{
    if (my_rank != 0 || level > verbosity)
        return;
    va_list ap;
    va_start(ap, fmt);
    say("", fmt, ap, NULL);
    va_end(ap);
}

void err_at_end(void (*hook)(void)) { end_hook = hook; }
void err_at_wait(void (*hook)(void)) { patience = hook; }

void err_end(int code)
{
    if (end_hook)
        end_hook();
    exit(code);
}

int err_set(const char *fmt, ...)
{
    char text[LINE]; /* the arguments may hold err_last() itself */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    memcpy(last, text, sizeof last);
    return -1;
}

const char *err_last(void) { return last; }

void err_at_die(void (*hook)(int))
{
    if (n_hooks == (int)(sizeof hooks / sizeof *hooks))
        bug("more than %d hooks at die", n_hooks);
    hooks[n_hooks++] = hook;
}
