/* h5_chunks.c - datasets in chunks, each one zstd frame, in HDF5 files
 * SPDX-License-Identifier: MIT
 */
#include "h5_private.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "common/base/err.h"
#include "common/base/mem.h"

#define MAX_CHUNK (16 << 20) /* elements of a chunk */

struct h5_chunks {
    struct h5 *f;
    char *path;
    hid_t id;
    enum h5_type type;
    int64_t n, chunk; /* elements so far, or of the dataset; elements a chunk */
    void *packed;
    size_t packed_cap;
    ZSTD_CCtx *cctx; /* writers */
    ZSTD_DCtx *dctx; /* readers */
};

static struct h5_chunks *new_chunks(struct h5 *f, const char *path, enum h5_type type)
{
    struct h5_chunks *c = xcalloc(1, sizeof *c);
    c->f = f;
    c->path = xstrdup(path);
    c->type = type;
    c->id = -1;
    return c;
}

static void set_frames(struct h5_chunks *c, int64_t chunk)
{
    c->chunk = chunk;
    c->packed_cap = ZSTD_compressBound((size_t)chunk * h5_type_size(c->type));
    c->packed = xmalloc(c->packed_cap);
}

struct h5_chunks *h5_make_chunks(struct h5 *f, const char *path, enum h5_type type, int64_t chunk, int level)
{
    h5_enter();
    if (chunk < 1 || chunk > MAX_CHUNK)
        bug("chunk of %lld elements", (long long)chunk);
    struct h5_chunks *c = new_chunks(f, path, type);
    set_frames(c, chunk);
    c->cctx = ZSTD_createCCtx();
    if (!c->cctx || ZSTD_isError(ZSTD_CCtx_setParameter(c->cctx, ZSTD_c_compressionLevel, level)) ||
        ZSTD_isError(ZSTD_CCtx_setParameter(c->cctx, ZSTD_c_checksumFlag, 1)))
        die("cannot set up zstd, level %d", level);
    hsize_t none = 0, any = H5S_UNLIMITED, size = (hsize_t)chunk;
    const unsigned params[1] = { (unsigned)level };
    hid_t create = h5_dataset_plist(f, path);
    h5_make_groups_above(f, path);
    h5_must(f, path, H5Pset_chunk(create, 1, &size));
    h5_must(f, path, H5Pset_filter(create, H5_ZSTD_FILTER, H5Z_FLAG_MANDATORY, 1, params));
    hid_t space = h5_must(f, path, H5Screate_simple(1, &none, &any));
    c->id =
        h5_must(f, path, H5Dcreate2(f->id, path, h5_type_id(type), space, H5P_DEFAULT, create, H5P_DEFAULT));
    H5Sclose(space);
    H5Pclose(create);
    return c;
}

void h5_put_chunk(struct h5_chunks *c, const void *data, int64_t n)
{
    h5_enter();
    size_t size = h5_type_size(c->type), whole = (size_t)c->chunk * size;
    if (n < 1 || n > c->chunk || c->n % c->chunk != 0)
        bug("'%s' of '%s': a chunk of %lld elements after %lld", c->path, c->f->name, (long long)n,
            (long long)c->n);
    void *padded = NULL;
    if (n < c->chunk) { /* HDF5 stores the last chunk whole */
        padded = xcalloc(whole, 1);
        memcpy(padded, data, (size_t)n * size);
    }
    size_t packed = ZSTD_compress2(c->cctx, c->packed, c->packed_cap, padded ? padded : data, whole);
    if (ZSTD_isError(packed))
        die("cannot write '%s': '%s': zstd: %s", c->f->name, c->path, ZSTD_getErrorName(packed));
    hsize_t at = (hsize_t)c->n, extent = (hsize_t)(c->n + n);
    h5_must(c->f, c->path, H5Dset_extent(c->id, &extent));
    h5_must(c->f, c->path, H5Dwrite_chunk(c->id, H5P_DEFAULT, 0, &at, packed, c->packed));
    c->n += n;
    free(padded);
}

void h5_end_chunks(struct h5_chunks *c)
{
    if (!c)
        return;
    h5_enter();
    if (c->cctx)
        h5_must(c->f, c->path, H5Dclose(c->id));
    else if (c->id >= 0)
        H5Dclose(c->id);
    ZSTD_freeCCtx(c->cctx);
    ZSTD_freeDCtx(c->dctx);
    free(c->packed);
    free(c->path);
    free(c);
}

/* The pipeline is our filter alone, and the chunks are of a sane size. */
static int check_chunks(struct h5_chunks *c, int64_t *chunk)
{
    hid_t create = H5Dget_create_plist(c->id);
    if (create < 0)
        return h5_refuse(c->f, c->path);
    hsize_t size = 0;
    unsigned flags, config;
    size_t n_params = 0;
    int rc = 0;
    if (H5Pget_layout(create) != H5D_CHUNKED || H5Pget_chunk(create, 1, &size) != 1)
        rc = err_set("'%s': '%s' is not stored in chunks", c->f->name, c->path);
    else if (H5Pget_nfilters(create) != 1 ||
             H5Pget_filter2(create, 0, &flags, &n_params, NULL, 0, NULL, &config) != H5_ZSTD_FILTER)
        rc = err_set("'%s': '%s' is not compressed by zstd (filter %d) alone", c->f->name, c->path,
                     H5_ZSTD_FILTER);
    else if (size < 1 || size > MAX_CHUNK)
        rc = err_set("'%s': '%s' has chunks of %llu elements", c->f->name, c->path, (unsigned long long)size);
    *chunk = (int64_t)size;
    H5Pclose(create);
    H5Eclear2(H5E_DEFAULT);
    return rc;
}

struct h5_chunks *h5_try_chunks(struct h5 *f, const char *path, enum h5_type type, int64_t *n, int64_t *chunk)
{
    h5_enter();
    struct h5_chunks *c = new_chunks(f, path, type);
    c->id = h5_try_open_data(f, path, h5_type_id(type), h5_type_name(type), 1, &c->n);
    if (c->id < 0 || check_chunks(c, chunk) < 0) {
        h5_end_chunks(c);
        return NULL;
    }
    set_frames(c, *chunk);
    c->dctx = ZSTD_createDCtx();
    if (!c->dctx)
        die("out of memory");
    *n = c->n;
    return c;
}

/* Reads chunk i as it is stored into c->packed. `skipped`: the filters that it did not go through. */
static int read_stored(struct h5_chunks *c, int64_t i, size_t *bytes, uint32_t *skipped)
{
    const char *file = c->f->name;
    if (i < 0 || i > (c->n - 1) / c->chunk || c->n == 0)
        return err_set("'%s': '%s' has no chunk %lld", file, c->path, (long long)i);
    hsize_t at = (hsize_t)(i * c->chunk), size = 0;
    if (H5Dget_chunk_storage_size(c->id, &at, &size) < 0)
        return h5_refuse(c->f, c->path);
    if (size == 0 || size > c->packed_cap)
        return err_set("'%s': '%s': chunk %lld has %llu bytes", file, c->path, (long long)i,
                       (unsigned long long)size);
    *skipped = 0;
    if (H5Dread_chunk(c->id, H5P_DEFAULT, &at, skipped, c->packed) < 0)
        return h5_refuse(c->f, c->path);
    *bytes = (size_t)size;
    return 0;
}

int h5_try_copy_chunk(struct h5_chunks *from, int64_t i, struct h5_chunks *to)
{
    h5_enter();
    size_t bytes;
    uint32_t skipped;
    if (from->type != to->type || from->chunk != to->chunk || to->n % to->chunk != 0)
        bug("'%s' of '%s' does not take chunks of '%s'", to->path, to->f->name, from->f->name);
    if (read_stored(from, i, &bytes, &skipped) < 0)
        return -1;
    int64_t left = from->n - i * from->chunk;
    hsize_t at = (hsize_t)to->n, extent = (hsize_t)(to->n + (left < to->chunk ? left : to->chunk));
    h5_must(to->f, to->path, H5Dset_extent(to->id, &extent));
    h5_must(to->f, to->path, H5Dwrite_chunk(to->id, H5P_DEFAULT, skipped, &at, bytes, from->packed));
    to->n = (int64_t)extent;
    return 0;
}

int h5_try_chunk(struct h5_chunks *c, int64_t i, void *out)
{
    h5_enter();
    const char *file = c->f->name;
    size_t whole = (size_t)c->chunk * h5_type_size(c->type), size;
    uint32_t skipped;
    if (read_stored(c, i, &size, &skipped) < 0)
        return -1;
    if (skipped) { /* another writer's: this chunk went in as it was */
        if (size != whole)
            return err_set("'%s': '%s': chunk %lld has %zu bytes", file, c->path, (long long)i, size);
        memcpy(out, c->packed, whole);
        return 0;
    }
    size_t got = ZSTD_decompressDCtx(c->dctx, out, whole, c->packed, size);
    if (ZSTD_isError(got))
        return err_set("'%s': '%s': chunk %lld: zstd: %s", file, c->path, (long long)i,
                       ZSTD_getErrorName(got));
    if (got != whole)
        return err_set("'%s': '%s': chunk %lld decodes to %zu bytes instead of %zu", file, c->path,
                       (long long)i, got, whole);
    return 0;
}
