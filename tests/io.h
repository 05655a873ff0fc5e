/* io.h - what the tests of common/io share: scratch folder, random numbers, children that die, damage
 * SPDX-License-Identifier: MIT
 *
 * Functions that die are called in a child (run_child()). Damaged files are read in this process: a crash is
 * a failure.
 */
#ifndef SSM_TESTS_IO_H
#define SSM_TESTS_IO_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/out.h"
#include "common/base/rng.h"

static char *scratch; /* a folder, gone at the end */
static uint64_t draws;

/* A random number below n; the sequence is the same in every run. */
static inline int64_t draw(int64_t n) { return (int64_t)(rng_u64(2026, 1, draws++) % (uint64_t)n); }

static inline char *at(const char *name) { return path_join(scratch, name); }

/* Runs f(arg) in a child; its exit code, or -signal. What it says is thrown away. */
static inline int run_child(void (*f)(void *), void *arg)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDERR_FILENO);
        f(arg);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static inline void read_file(const char *path, struct buf *b)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char block[65536];
    size_t n;
    buf_clear(b);
    while ((n = fread(block, 1, sizeof block, f)) > 0)
        buf_add(b, block, n);
    fclose(f);
}

static inline void write_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* The next way to damage a file: cut off at one of `cuts` places, then one byte changed somewhere. Returns
 * false when all are done. The file is restored by write_file(path, whole). */
static inline bool damage(const char *path, const struct buf *whole, int i, int cuts, int flips)
{
    if (i < cuts) {
        write_file(path, whole->data, whole->len * (size_t)i / (size_t)cuts);
        return true;
    }
    if (i >= cuts + flips)
        return false;
    struct buf b = { 0 };
    buf_add(&b, whole->data, whole->len);
    size_t where = (whole->len * (size_t)(i - cuts) + (size_t)draw((int64_t)whole->len)) / (size_t)flips;
    b.data[where < whole->len ? where : whole->len - 1] ^= (char)(1 + draw(255));
    write_file(path, b.data, b.len);
    buf_free(&b);
    return true;
}

/* NAME [PATTERN]: the tests whose names fit, all by default. */
static inline void io_begin(const char *name, int argc, char **argv)
{
    const char *tmp = getenv("TMPDIR");
    err_init(name);
    meter_start(1, argv);
    scratch = xasprintf("%s/ssm-%s.%ld", tmp ? tmp : "/tmp", name, (long)getpid());
    out_make_dirs(scratch);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
}

/* Hands on the number of tests that failed. */
static inline int io_end(int failed)
{
    out_remove_tree(scratch);
    free(scratch);
    return failed;
}

#endif
