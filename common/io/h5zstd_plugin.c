/* h5zstd_plugin.c - HDF5 filter 32015: one chunk is one zstd frame
 * SPDX-License-Identifier: MIT
 *
 * A shared object for HDF5_PLUGIN_PATH, with which h5dump, h5repack and h5py read our shards; our tools do not
 * need it (h5_chunks.c). It calls nothing of libhdf5, so one object serves every build of the library.
 * Parameter 0 is the level.
 * Memory that the pipeline will free comes from malloc, as HDF5 itself takes it.
 */
#include <H5PLextern.h>
#include <stdlib.h>
#include <zstd.h>

enum { ZSTD_FILTER_ID = 32015, DEFAULT_LEVEL = 3 };
/* HDF5 chunks are below 4 GiB; a frame that claims more is garbage. */
#define MAX_CHUNK 0xffffffffULL

static size_t decode(size_t n, size_t *buf_size, void **buf)
{
    unsigned long long want = ZSTD_getFrameContentSize(*buf, n);
    if (want == ZSTD_CONTENTSIZE_ERROR || want == ZSTD_CONTENTSIZE_UNKNOWN || want > MAX_CHUNK)
        return 0;
    void *out = malloc(want ? (size_t)want : 1);
    if (!out)
        return 0;
    size_t got = ZSTD_decompress(out, (size_t)want, *buf, n);
    if (ZSTD_isError(got)) {
        free(out);
        return 0;
    }
    free(*buf);
    *buf = out;
    *buf_size = (size_t)want;
    return got;
}

static size_t encode(int level, size_t n, size_t *buf_size, void **buf)
{
    size_t bound = ZSTD_compressBound(n);
    void *out = malloc(bound);
    ZSTD_CCtx *ctx = ZSTD_createCCtx();
    size_t got = 0;
    if (out && ctx) {
        ZSTD_CCtx_setParameter(ctx, ZSTD_c_compressionLevel, level);
        ZSTD_CCtx_setParameter(ctx, ZSTD_c_checksumFlag, 1);
        got = ZSTD_compress2(ctx, out, bound, *buf, n);
        if (ZSTD_isError(got))
            got = 0;
    }
    ZSTD_freeCCtx(ctx);
    if (!got) {
        free(out);
        return 0;
    }
    free(*buf);
    *buf = out;
    *buf_size = bound;
    return got;
}

static size_t zstd_filter(unsigned flags, size_t n_params, const unsigned params[], size_t n,
                          size_t *buf_size, void **buf)
{
    if (flags & H5Z_FLAG_REVERSE)
        return decode(n, buf_size, buf);
    return encode(n_params > 0 ? (int)params[0] : DEFAULT_LEVEL, n, buf_size, buf);
}

static const H5Z_class2_t filter = {
    .version = H5Z_CLASS_T_VERS,
    .id = ZSTD_FILTER_ID,
    .encoder_present = 1,
    .decoder_present = 1,
    .name = "zstd",
    .filter = zstd_filter,
};

H5PL_type_t H5PLget_plugin_type(void) { return H5PL_TYPE_FILTER; }
const void *H5PLget_plugin_info(void) { return &filter; }
