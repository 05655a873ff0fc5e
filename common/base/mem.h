/* mem.h - memory that is there or the process ends, and the calls that nobody may use
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_MEM_H
#define SSM_MEM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>  /* declares what is poisoned below */
#include <stdlib.h>
#include <string.h>

/* Never NULL: they die on overflow of n*size and when there is no memory. Free with free(). */
void *xmalloc(size_t bytes) __attribute__((malloc));
void *xcalloc(size_t n, size_t size) __attribute__((malloc));
void *xrealloc(void *p, size_t bytes);
char *xstrdup(const char *s) __attribute__((malloc));
char *xasprintf(const char *fmt, ...) __attribute__((malloc, format(printf, 1, 2)));

/* Growing array: makes room for one more element at the end of the array that the pointer at `array` leads to, counts
 * it, and returns its place (not cleared). The array may move. */
void *grow(void *array, size_t *n, size_t *cap, size_t size);

/* n*size, or death by a clear message when that does not fit; `what` names the thing. */
size_t mul_size(size_t n, size_t size, const char *what);

/* A growing byte string. Zero-initialise; `data` is always NUL-terminated after a call. */
struct buf {
    char *data;
    size_t len, cap;
};
void buf_add(struct buf *b, const void *data, size_t n);
void buf_addf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_clear(struct buf *b); /* keeps the memory */
void buf_free(struct buf *b);

/* Calls that cannot be used safely. */
#ifdef __GNUC__
#pragma GCC poison strcpy strcat sprintf vsprintf strtok atoi atol atof gets rand srand
#endif

#endif
