/* pack.h - what the tests of text share: bytes packed by gzip and zstd, in members and frames of any size
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_TEST_PACK_H
#define SSM_TEST_PACK_H

#include <zlib.h>
#include <zstd.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/text/stream.h"

/* Appends one member or frame; zstd frames with a checksum, gzip has one always. */
static inline void pack(int kind, const void *p, size_t n, int level, struct buf *out)
{
    if (kind == STREAM_GZIP) {
        z_stream z = { .next_in = (Bytef *)(uintptr_t)p, .avail_in = (uInt)n };
        if (deflateInit2(&z, level, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
            die("deflateInit2");
        size_t room = deflateBound(&z, n) + 64;
        char *to = xmalloc(room);
        z.next_out = (Bytef *)to;
        z.avail_out = (uInt)room;
        if (deflate(&z, Z_FINISH) != Z_STREAM_END)
            die("deflate");
        buf_add(out, to, room - z.avail_out);
        (void)deflateEnd(&z);
        free(to);
    } else {
        ZSTD_CCtx *z = ZSTD_createCCtx();
        size_t room = ZSTD_compressBound(n);
        char *to = xmalloc(room);
        (void)ZSTD_CCtx_setParameter(z, ZSTD_c_checksumFlag, 1);
        (void)ZSTD_CCtx_setParameter(z, ZSTD_c_compressionLevel, level);
        size_t k = ZSTD_compress2(z, to, room, p, n);
        if (ZSTD_isError(k))
            die("zstd: %s", ZSTD_getErrorName(k));
        buf_add(out, to, k);
        (void)ZSTD_freeCCtx(z);
        free(to);
    }
}

#endif
