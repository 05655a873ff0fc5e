/* space.h - what Python takes for white space
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_SPACE_H
#define SSM_SPACE_H

#include <stddef.h>

/* Bytes of the white space character (str.isspace(), and \s of re, in UTF-8) that p begins with; 0: it begins with none. */
size_t space_at(const char *p, size_t n);
/* Bytes of p without the white space at its end: str.rstrip(). */
size_t space_strip(const char *p, size_t n);

#endif
