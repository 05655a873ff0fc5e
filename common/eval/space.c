/* space.c - what Python takes for white space
 * SPDX-License-Identifier: MIT
 */
#include "space.h"

#include <string.h>

static const char *const spaces[] = {
    " ",            "\n",           "\t",           "\r",           "\v",           "\f",           "\x1c",
    "\x1d",         "\x1e",         "\x1f",         "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80",
    "\xe2\x80\x81", "\xe2\x80\x82", "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86", "\xe2\x80\x87",
    "\xe2\x80\x88", "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f",
    "\xe3\x80\x80",
};
enum { SPACES = sizeof spaces / sizeof *spaces };

size_t space_at(const char *p, size_t n)
{
    for (int i = 0; i < SPACES; i++) {
        size_t len = strlen(spaces[i]);
        if (len <= n && memcmp(p, spaces[i], len) == 0)
            return len;
    }
    return 0;
}

size_t space_strip(const char *p, size_t n)
{
    for (size_t before = n + 1; n < before;) {
        before = n;
        for (size_t len = 1; len <= 3 && len <= n && n == before; len++)
            if (space_at(p + n - len, len) == len)
                n -= len;
    }
    return n;
}
