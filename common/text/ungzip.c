/* ungzip.c - gzip members unpacked; only this file knows zlib
 * SPDX-License-Identifier: MIT
 */
#include "stream.h"

#include <limits.h>
#include <stdlib.h>
#define ZLIB_CONST
#include <zlib.h>

#include "common/base/err.h"
#include "common/base/mem.h"

enum { GZIP_ONLY = 16 }; /* added to the window bits: a gzip header, no other */

static void *start(void)
{
    z_stream *z = xcalloc(1, sizeof *z);
    if (inflateInit2(z, 15 + GZIP_ONLY) != Z_OK)
        die("out of memory");
    return z;
}

static void again(void *state) { (void)inflateReset(state); }

static void stop(void *state)
{
    (void)inflateEnd(state);
    free(state);
}

static uInt most(size_t n) { return n < UINT_MAX ? (uInt)n : UINT_MAX; }

static int step(void *state, const unsigned char *in, size_t n_in, size_t *used, void *out, size_t n_out,
                size_t *made)
{
    z_stream *z = state;
    z->next_in = in;
    z->avail_in = most(n_in);
    z->next_out = out;
    z->avail_out = most(n_out);
    int r = inflate(z, Z_NO_FLUSH);
    *used = most(n_in) - z->avail_in;
    *made = most(n_out) - z->avail_out;
    if (r == Z_STREAM_END)
        return 1;
    if (r == Z_OK || r == Z_BUF_ERROR) /* the latter: nothing to do with so little */
        return 0;
    return err_set("%s", z->msg ? z->msg : r == Z_MEM_ERROR ? "out of memory" : "not gzip");
}

const struct unpacker unpacker_gzip = { .start = start, .again = again, .step = step, .stop = stop };
