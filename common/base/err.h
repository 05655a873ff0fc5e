/* err.h - how a tool speaks to people and how it ends
 * SPDX-License-Identifier: MIT
 *
 * The process is the unit of recovery: a tool that cannot go on says one line and ends; the scheduler
 * starts it again from a checkpoint. Where failure is an answer, a function is called x_try_verb(),
 * returns -1 and leaves the reason in err_last().
 *
 * One message is one write() of one line to stderr: "ssmtrain[3@node07]: cannot open 'x.h5': No such file".
 * Control bytes in it are masked, so hostile file names cannot play with a terminal.
 */
#ifndef SSM_ERR_H
#define SSM_ERR_H

#include <stdarg.h>

/* Promises to scripts; ranks agree on the code before they leave (comm_agree). */
enum exit_code {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    EXIT_AGAIN = 75,  /* state is saved, more to do: run me again (EX_TEMPFAIL) */
    EXIT_STAY = 93    /* do not run me again: no progress, or diverged */
};

#define ERR_FMT(a, b) __attribute__((format(printf, a, b)))

/* Names the program in messages; call it first in main(). Not thread-safe. */
void err_init(const char *program);
/* Adds "[rank@host]" to messages when there are several ranks; only rank 0 prints notes and warnings. */
void err_set_rank(int rank, int size);
const char *err_program(void);
int err_rank(void);

void die(const char *fmt, ...) ERR_FMT(1, 2) __attribute__((noreturn));            /* exit 1 */
void die_errno(const char *fmt, ...) ERR_FMT(1, 2) __attribute__((noreturn));      /* ": strerror", exit 1 */
void die_usage(const char *fmt, ...) ERR_FMT(1, 2) __attribute__((noreturn));      /* exit 2 */
void die_code(int code, const char *fmt, ...) ERR_FMT(2, 3) __attribute__((noreturn));
void bug(const char *fmt, ...) ERR_FMT(1, 2) __attribute__((noreturn));            /* abort() */
void warn(const char *fmt, ...) ERR_FMT(1, 2);
/* level 0: always; 1: unless --quiet; 2: with --verbose. Rank 0 only. */
void note(int level, const char *fmt, ...) ERR_FMT(2, 3);
void err_set_verbosity(int level);   /* 0 quiet, 1 normal, 2 verbose */
int err_verbosity(void);

/* Text behind a -1. err_set() formats it and returns -1. */
int err_set(const char *fmt, ...) ERR_FMT(1, 2);
const char *err_last(void);

/* From now on a die in this thread ends the thread alone, and leaves its line and code in *e for whoever joins it: a thread
 * that works for the main one must neither speak nor end the process, since other ranks want to be told. */
struct err_caught {
    int code;               /* 0: nothing went wrong */
    char text[1024];
};
void err_catch(struct err_caught *e);

/* Runs before a die ends the process, newest first (temporary files go, other ranks are told).
 * A hook must not die. At most 8. */
void err_at_die(void (*hook)(int code));
/* Ends the process in good order: runs the hook below, if any, then exit(code). Only our own code comes here, so the
 * hook may talk to other ranks (an exit() from inside a library, when another rank aborts, does not run it). */
void err_end(int code) __attribute__((noreturn));
void err_at_end(void (*hook)(void));
/* Called again and again while a dying rank lets rank 0 speak first: what answers other ranks' messages. */
void err_at_wait(void (*hook)(void));

#endif
