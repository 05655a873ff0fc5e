/* unzstd.c - zstd frames unpacked; of this room only this file knows libzstd
 * SPDX-License-Identifier: MIT
 */
#include "stream.h"

#include <zstd.h>
#include <zstd_errors.h>

#include "common/base/err.h"

enum { WINDOW_LOG = 27 }; /* 128 MiB, as zstd(1) without --long */

static void *start(void)
{
    ZSTD_DCtx *z = ZSTD_createDCtx();
    if (!z || ZSTD_isError(ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, WINDOW_LOG)))
        die("out of memory");
    return z;
}

static void again(void *state) { (void)ZSTD_DCtx_reset(state, ZSTD_reset_session_only); }
static void stop(void *state) { (void)ZSTD_freeDCtx(state); }

static int step(void *state, const unsigned char *in, size_t n_in, size_t *used, void *out, size_t n_out,
                size_t *made)
{
    ZSTD_inBuffer from = { in, n_in, 0 };
    ZSTD_outBuffer to = { out, n_out, 0 };
    size_t r = ZSTD_decompressStream(state, &to, &from);
    *used = from.pos;
    *made = to.pos;
    if (!ZSTD_isError(r))
        return r == 0;
    if (ZSTD_getErrorCode(r) == ZSTD_error_frameParameter_windowTooLarge)
        return err_set("it needs a window of more than 128 MiB (zstd --long=28 and up); pack it with less");
    return err_set("%s", ZSTD_getErrorName(r));
}

const struct unpacker unpacker_zstd = { .start = start, .again = again, .step = step, .stop = stop };
