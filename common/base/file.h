/* file.h - reading files whole, and in parts
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_FILE_H
#define SSM_FILE_H

#include <stdint.h>
#include <stdio.h>

#include "mem.h"

/* Up to n bytes at an offset: *have of them, fewer only where the file ends. 0, or -1 with errno. */
int file_pread(int fd, int64_t offset, void *data, size_t n, size_t *have) __attribute__((warn_unused_result));

/* A whole plain file of at most `limit` bytes: *n of them, a NUL behind them, to be freed. NULL with err_last(), which
 * names it; what is no plain file (a pipe, a device) is not waited for. */
char *file_try_read(const char *path, size_t limit, size_t *n) __attribute__((warn_unused_result));

/* A file that comes with the program: NAME in the folder that the environment variable `env` names, in
 * PREFIX/share/ssmtools/FOLDER, or in pipelines/FOLDER of the tree in whose build/VARIANT/bin the program lies. To be
 * freed; NULL: nowhere. */
char *file_find_data(const char *env, const char *folder, const char *name);

/* Appends what is left of a stream, until its end or until *b holds more than `limit` bytes. 0, or -1 with errno. */
int file_slurp(FILE *f, size_t limit, struct buf *b) __attribute__((warn_unused_result));

#endif
