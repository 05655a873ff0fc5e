/* fuzz.h - what the fuzz targets share: input as a file, the promises of a list of tensors
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_FUZZ_H
#define SSM_FUZZ_H

#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/io/foreign.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define PROMISE(x) ((x) ? (void)0 : (fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #x), abort()))

/* A file in memory that holds the input; one for all inputs. */
static inline int fuzz_file(const uint8_t *data, size_t n)
{
    static int fd = -1;
    if (fd < 0)
        fd = memfd_create("fuzz", MFD_CLOEXEC);
    PROMISE(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite(fd, data, n, 0) == (ssize_t)n);
    return fd;
}

/* A refusal says why and where; what was read lies in the file. Frees the list. */
static inline void fuzz_check(int result, struct foreign_list *l, int64_t size)
{
    PROMISE(result == 0 || (result == -1 && strncmp(err_last(), "F: ", 3) == 0));
    if (result == 0)
        result = foreign_try_sort(l);
    for (size_t i = 0; i < l->n && result == 0; i++) {
        const struct foreign_tensor *t = &l->t[i];
        PROMISE(foreign_find(l, t->name) == t && foreign_try_name(t->name, strlen(t->name)) == 0);
        PROMISE(t->ndim >= 0 && t->ndim <= FOREIGN_MAX_DIM && t->elements >= 0);
        PROMISE(t->bytes == t->elements * foreign_dtype_size(t->dtype));
        PROMISE(t->offset >= 0 && t->offset <= size && t->bytes <= size - t->offset);
    }
    foreign_free(l);
}

#endif
