/* h5_data.c - contiguous and virtual datasets in HDF5 files
 * SPDX-License-Identifier: MIT
 */
#include "h5_private.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/mem.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the files are little-endian and are read in place"
#endif

struct h5_data {
    struct h5 *f;
    char *path;
    hid_t id, type;
    int ndim;
};

/* ---- types and shapes ---- */

static hid_t f16_type = -1, bf16_type = -1;

/* HDF5 1.10 has no names for these. Sign, exponent, mantissa from the top bit down, exponents offset by `bias`: any
 * program that reads HDF5's floats reads them. */
static hid_t small_float(size_t exponent_bits, size_t bias)
{
    hid_t t = H5Tcopy(H5T_IEEE_F32LE);
    size_t mantissa_bits = 15 - exponent_bits;
    if (t < 0 || H5Tset_fields(t, 15, mantissa_bits, exponent_bits, 0, mantissa_bits) < 0 ||
        H5Tset_size(t, 2) < 0 || H5Tset_ebias(t, bias) < 0 || H5Tlock(t) < 0)
        die("cannot make an HDF5 type of 16 bits: %s", h5_reason());
    return t;
}

/* They live as long as the process. */
static void make_small_floats(void)
{
    f16_type = small_float(5, 15);
    bf16_type = small_float(8, 127);
}

hid_t h5_type_id(enum h5_type t)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_small_floats);
    switch (t) {
    case H5_U8:
        return H5T_STD_U8LE;
    case H5_U16:
        return H5T_STD_U16LE;
    case H5_U32:
        return H5T_STD_U32LE;
    case H5_U64:
        return H5T_STD_U64LE;
    case H5_I64:
        return H5T_STD_I64LE;
    case H5_F32:
        return H5T_IEEE_F32LE;
    case H5_F16:
        return f16_type;
    case H5_BF16:
        return bf16_type;
    case H5_TEXT:
        break;
    }
    bug("HDF5 type %d", (int)t);
}

size_t h5_type_size(enum h5_type t)
{
    static const size_t size[] = { 1, 2, 4, 8, 8, 4, 2, 2, 1 };
    return size[t];
}

const char *h5_type_name(enum h5_type t)
{
    static const char *const name[] = { "u8", "u16", "u32", "u64", "i64", "f32", "f16", "bf16", "text" };
    return name[t];
}

int64_t h5_elements(int ndim, const int64_t *shape, size_t size)
{
    int64_t n = 1, bytes;
    for (int i = 0; i < ndim; i++)
        if (shape[i] < 0 || __builtin_mul_overflow(n, shape[i], &n))
            return -1;
    return __builtin_mul_overflow(n, (int64_t)size, &bytes) ? -1 : n;
}

void h5_to_hsize(int ndim, const int64_t *from, hsize_t *to)
{
    for (int i = 0; i < ndim; i++) {
        if (from[i] < 0)
            bug("HDF5 length %lld", (long long)from[i]);
        to[i] = (hsize_t)from[i];
    }
}

hid_t h5_text_type(size_t bytes)
{
    hid_t t = H5Tcopy(H5T_C_S1);
    if (t < 0 || H5Tset_size(t, bytes) < 0 || H5Tset_cset(t, H5T_CSET_UTF8) < 0 ||
        H5Tset_strpad(t, H5T_STR_NULLTERM) < 0)
        die("cannot make an HDF5 text type: %s", h5_reason());
    return t;
}

/* ---- writing ---- */

hid_t h5_dataset_plist(const struct h5 *f, const char *path)
{
    hid_t p = h5_must(f, path, H5Pcreate(H5P_DATASET_CREATE));
    h5_must(f, path, H5Pset_obj_track_times(p, false));
    h5_must(f, path, H5Pset_fill_time(p, H5D_FILL_TIME_NEVER)); /* all of it is written */
    return p;
}

struct h5_data *h5_make_data_of(struct h5 *f, const char *path, hid_t type, int ndim, const int64_t *shape)
{
    struct h5_data *d = xcalloc(1, sizeof *d);
    d->f = f;
    d->path = xstrdup(path);
    d->type = type;
    d->ndim = ndim;
    hsize_t dims[H5_MAX_DIM];
    if (ndim < 1 || ndim > H5_MAX_DIM || h5_elements(ndim, shape, H5Tget_size(type)) < 0)
        bug("'%s' in '%s': bad shape", path, f->name);
    h5_to_hsize(ndim, shape, dims);
    hid_t create = h5_dataset_plist(f, path);
    h5_make_groups_above(f, path);
    h5_must(f, path, H5Pset_alloc_time(create, H5D_ALLOC_TIME_EARLY));
    hid_t space = h5_must(f, path, H5Screate_simple(ndim, dims, NULL));
    d->id = h5_must(f, path, H5Dcreate2(f->id, path, type, space, H5P_DEFAULT, create, H5P_DEFAULT));
    H5Sclose(space);
    H5Pclose(create);
    return d;
}

struct h5_data *h5_make_data(struct h5 *f, const char *path, enum h5_type type, int ndim,
                             const int64_t *shape)
{
    h5_enter();
    return h5_make_data_of(f, path, h5_type_id(type), ndim, shape);
}

void h5_write(struct h5_data *d, const int64_t *offset, const int64_t *count, const void *data)
{
    h5_enter();
    hsize_t at[H5_MAX_DIM], n[H5_MAX_DIM];
    h5_to_hsize(d->ndim, offset, at);
    h5_to_hsize(d->ndim, count, n);
    if (h5_elements(d->ndim, count, 1) == 0)
        return;
    hid_t there = h5_must(d->f, d->path, H5Dget_space(d->id));
    hid_t here = h5_must(d->f, d->path, H5Screate_simple(d->ndim, n, NULL));
    h5_must(d->f, d->path, H5Sselect_hyperslab(there, H5S_SELECT_SET, at, NULL, n, NULL));
    h5_must(d->f, d->path, H5Dwrite(d->id, d->type, here, there, H5P_DEFAULT, data));
    H5Sclose(here);
    H5Sclose(there);
}

void h5_end_data(struct h5_data *d)
{
    h5_enter();
    h5_must(d->f, d->path, H5Dclose(d->id));
    free(d->path);
    free(d);
}

void h5_put_virtual(struct h5 *f, const char *path, enum h5_type type, int ndim, const int64_t *shape,
                    const struct h5_source *src, int n)
{
    h5_enter();
    hsize_t dims[H5_MAX_DIM], at[H5_MAX_DIM], count[H5_MAX_DIM];
    h5_to_hsize(ndim, shape, dims);
    hid_t create = h5_must(f, path, H5Pcreate(H5P_DATASET_CREATE));
    h5_make_groups_above(f, path);
    h5_must(f, path, H5Pset_obj_track_times(create, false));
    hid_t space = h5_must(f, path, H5Screate_simple(ndim, dims, NULL));
    for (int i = 0; i < n; i++) {
        h5_to_hsize(ndim, src[i].offset, at);
        h5_to_hsize(ndim, src[i].count, count);
        hid_t there = h5_must(f, path, H5Screate_simple(ndim, count, NULL));
        h5_must(f, path, H5Sselect_hyperslab(space, H5S_SELECT_SET, at, NULL, count, NULL));
        h5_must(f, path, H5Pset_virtual(create, space, src[i].file, src[i].dataset, there));
        H5Sclose(there);
    }
    h5_must(f, path, H5Sselect_all(space));
    h5_must(
        f, path,
        H5Dclose(h5_must(
            f, path, H5Dcreate2(f->id, path, h5_type_id(type), space, H5P_DEFAULT, create, H5P_DEFAULT))));
    H5Sclose(space);
    H5Pclose(create);
}

/* ---- reading ---- */

hid_t h5_try_open_data(struct h5 *f, const char *path, hid_t type, const char *type_text, int ndim,
                       int64_t *dims)
{
    if (!h5_is_here(f, path))
        return err_set("'%s': '%s' is missing", f->name, path);
    hid_t id = H5Dopen2(f->id, path, H5P_DEFAULT);
    if (id < 0)
        return h5_refuse(f, path);
    hid_t t = H5Dget_type(id), space = H5Dget_space(id);
    hsize_t n[H5_MAX_DIM] = { 0 };
    int rc = 0;
    if (t < 0 || space < 0)
        rc = h5_refuse(f, path);
    else if (H5Tequal(t, type) <= 0)
        rc = err_set("'%s': '%s' is not of type %s", f->name, path, type_text);
    else if (H5Sget_simple_extent_ndims(space) != ndim)
        rc = err_set("'%s': '%s' has %d dimensions instead of %d", f->name, path,
                     H5Sget_simple_extent_ndims(space), ndim);
    else if (H5Sget_simple_extent_dims(space, n, NULL) < 0)
        rc = h5_refuse(f, path);
    for (int i = 0; i < ndim; i++)
        dims[i] = n[i] <= INT64_MAX ? (int64_t)n[i] : -1;
    if (rc == 0 && h5_elements(ndim, dims, H5Tget_size(type)) < 0)
        rc = err_set("'%s': '%s' has an impossible shape", f->name, path);
    if (t >= 0)
        H5Tclose(t);
    if (space >= 0)
        H5Sclose(space);
    if (rc < 0) {
        H5Dclose(id);
        return rc;
    }
    return id;
}

int h5_try_locate_of(struct h5 *f, const char *path, hid_t type, const char *type_text, int ndim,
                     int64_t *shape, int64_t *at)
{
    hid_t id = h5_try_open_data(f, path, type, type_text, ndim, shape);
    if (id < 0)
        return -1;
    int64_t bytes = h5_elements(ndim, shape, 1) * (int64_t)H5Tget_size(type);
    hid_t create = H5Dget_create_plist(id);
    int rc = 0;
    if (create < 0)
        rc = h5_refuse(f, path);
    else if (H5Pget_layout(create) != H5D_CONTIGUOUS || H5Pget_nfilters(create) != 0 ||
             H5Pget_external_count(create) != 0)
        rc = err_set("'%s': '%s' is not contiguous", f->name, path);
    haddr_t where = bytes > 0 ? H5Dget_offset(id) : 0;
    if (rc == 0 && (where == HADDR_UNDEF || where > (haddr_t)f->bytes || bytes > f->bytes - (int64_t)where))
        rc = err_set("'%s': '%s' (%lld bytes) lies beyond the end of the file", f->name, path,
                     (long long)bytes);
    *at = rc == 0 ? (int64_t)where : 0;
    if (create >= 0)
        H5Pclose(create);
    H5Dclose(id);
    H5Eclear2(H5E_DEFAULT);
    return rc;
}

int h5_try_locate(struct h5 *f, const char *path, enum h5_type type, int ndim, int64_t *shape, int64_t *at)
{
    h5_enter();
    return h5_try_locate_of(f, path, h5_type_id(type), h5_type_name(type), ndim, shape, at);
}

int h5_try_pread(struct h5 *f, int64_t at, void *out, size_t n)
{
    size_t have;
    int rc = file_pread(f->fd, at, out, n, &have);
    if (rc < 0 || have < n)
        return err_set("cannot read '%s': %s", f->name, rc < 0 ? strerror(errno) : "the file ends too early");
    return 0;
}
