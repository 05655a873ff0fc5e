/* opt.h - options: one table parses, checks, prints --help and writes down what was used
 * SPDX-License-Identifier: MIT
 *
 * A tool (or one command of a tool) describes its options in an array that ends with OPT_END. The same
 * rows serve the command line ("--lr=3e-4", "--lr 3e-4", "-o DIR", "-o=DIR" is not a thing), a config file
 * ("lr = 3e-4", '#' starts a comment), bash completion and the record of the run. The command line wins
 * over the file whatever the order. An unknown name, a name twice in one place, a value that is not wholly
 * a number or lies outside the range: exit 2 with one line.
 *
 * To add an option: a row in the tool's table, its use, its line in the man page (a test compares the two), a test of
 * what it does (tests/cli/5000-options.t names it; for ssmtrain any test).
 */
#ifndef SSM_OPT_H
#define SSM_OPT_H

#include <stdbool.h>
#include <stdint.h>

#include "mem.h"

enum opt_kind { OPT_KIND_END, OPT_KIND_FLAG, OPT_KIND_INT, OPT_KIND_REAL, OPT_KIND_STR, OPT_KIND_CHOICE };

struct opt {
    enum opt_kind kind;
    const char *name;       /* long name, as in "--name" and "name = " */
    char letter;            /* short form or 0 */
    const char *arg;        /* what the value is, in help: "N", "FILE" */
    void *value;            /* bool, int64_t, double, const char *, int (index of a choice) */
    double lo, hi;          /* numbers: the range, both ends allowed */
    const char *choices;    /* "none|full" */
    const char *help;
    int set_by;             /* 0 default, 1 config file, 2 command line */
};

#define OPT_FLAG(l, n, v, h) { OPT_KIND_FLAG, n, l, NULL, v, 0, 0, NULL, h, 0 }
#define OPT_INT(l, n, a, v, lo, hi, h) { OPT_KIND_INT, n, l, a, v, lo, hi, NULL, h, 0 }
#define OPT_REAL(l, n, a, v, lo, hi, h) { OPT_KIND_REAL, n, l, a, v, lo, hi, NULL, h, 0 }
#define OPT_STR(l, n, a, v, h) { OPT_KIND_STR, n, l, a, v, 0, 0, NULL, h, 0 }
#define OPT_CHOICE(l, n, v, c, h) { OPT_KIND_CHOICE, n, l, NULL, v, 0, 0, c, h, 0 }
#define OPT_END { OPT_KIND_END, NULL, 0, NULL, NULL, 0, 0, NULL, NULL, 0 }
#define OPT_MAX_INT 9007199254740992.0 /* 2^53: whole in a double */

struct command {
    const char *name;       /* "tokshard encode" */
    const char *synopsis;   /* "[options] -o DIR INPUT..." */
    const char *purpose;    /* one sentence */
    struct opt *opts;
    const char **config;    /* where --config's value goes when this command reads a config file, else NULL */
    int min_args, max_args; /* operands; max -1: any number */
    int (*run)(int n_args, char **args);
};

/* Parses argv[1..] for one command, calls its run() with the operands, and ends the process with its exit code.
 * --help, --version, --quiet, --verbose and --complete (option names, one a line, for shells) are everywhere. */
void command_main(const struct command *cmd, int argc, char **argv) __attribute__((noreturn));
/* The same for a tool with commands: argv[1] picks one. `cmds` ends with a NULL name. */
void command_dispatch(const char *tool, const char *purpose, const struct command *cmds, int argc, char **argv)
    __attribute__((noreturn));

/* Reads "name = value" lines into a table. Returns 0, or -1 with err_last() = "FILE:LINE: reason". */
int opt_try_read_file(struct opt *opts, const char *path) __attribute__((warn_unused_result));
/* The same from text that has been read already; `path` names it in messages. */
int opt_try_read_text(struct opt *opts, const char *path, const char *text) __attribute__((warn_unused_result));
/* Appends "name = value" lines of all values that are not NULL strings. */
void opt_write(const struct opt *opts, struct buf *out);
/* Appends one value as text. */
void opt_format(const struct opt *o, struct buf *out);
/* The row of that name or NULL. */
struct opt *opt_find(struct opt *opts, const char *name);
/* Sets one value from text: 0, or -1 with err_last() naming value and reason. */
int opt_try_set(struct opt *o, const char *text) __attribute__((warn_unused_result));

/* Whole-string numbers: "10k" = 10 000, "64Mi" = 2^26 (k M G T, Ki Mi Gi Ti). 0 or -1. */
int parse_int(const char *s, int64_t *value) __attribute__((warn_unused_result));
int parse_real(const char *s, double *value) __attribute__((warn_unused_result)); /* finite only */
/* Appends the shortest text that reads back to the same number. */
void format_real(double x, struct buf *out);

#endif
