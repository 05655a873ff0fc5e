/* h5.h - the part of HDF5 that we use
 * SPDX-License-Identifier: MIT
 *
 * Only h5*.c (and the filter plugin) know hdf5.h and zstd.h. Three ideas:
 *   Writers die. What they write has a temporary name (out.h), so death leaves nothing behind.
 *   Readers return -1 and leave "'file': 'object': reason" in err_last(). Files are made in HDF5's 1.10 format, whose
 *     metadata carry checksums; what they promise (types, shapes, sizes) is checked before any memory is taken.
 *   A contiguous dataset is a place in a file: h5_try_locate() says where, h5_try_pread() reads there, and
 *     neither HDF5's global lock nor its caches stand in between.
 * Strings are of fixed length and scalars are i64 or f64, so that plain tools show them well.
 * Objects carry no time stamps: the same contents give the same bytes.
 * A struct h5 is for one thread at a time; several threads may have one each.
 */
#ifndef SSM_H5_H
#define SSM_H5_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/attrs.h"

enum { H5_MAX_DIM = 4 };

/* H5_F16 is IEEE half, H5_BF16 the upper half of fp32. */
enum h5_type { H5_U8, H5_U16, H5_U32, H5_U64, H5_I64, H5_F32, H5_F16, H5_BF16, H5_TEXT };
size_t h5_type_size(enum h5_type t);     /* of one element; 1 for H5_TEXT */

/* One column of a table of structs. n: how many of that type (H5_TEXT: bytes, with the NUL). */
struct h5_column {
    const char *name;
    enum h5_type type;
    int n;
    size_t offset;          /* inside the struct, which has no padding */
};

struct h5;

/* ---- writing: these die, naming file and reason ---- */

/* The library was built to lock itself against other threads. */
bool h5_is_threadsafe(void);
/* Makes (or empties) the file `path`; messages call it `name`, its final name. */
struct h5 *h5_create(const char *path, const char *name);
/* Flushes and closes; a full disk shows here at the latest. Frees f. */
void h5_finish(struct h5 *f);
/* Closes without caring what becomes of the file. */
void h5_drop(struct h5 *f);

/* Makes a group and those above it. */
void h5_put_group(struct h5 *f, const char *path);
/* Attributes of an existing object ("/" is the file's root). */
void h5_put_int(struct h5 *f, const char *object, const char *name, int64_t v);
void h5_put_real(struct h5 *f, const char *object, const char *name, double v);
void h5_put_str(struct h5 *f, const char *object, const char *name, const char *v);
void h5_put_attrs(struct h5 *f, const char *object, const struct attrs *as);

/* A table: 1-D dataset of structs, with the XXH3-64 of its bytes in the attribute xxh3. */
void h5_put_table(struct h5 *f, const char *path, const struct h5_column *cols, int n_cols, const void *rows, int64_t n);

/* A contiguous dataset, written by hyperslabs. Groups above it are made. */
struct h5_data;
struct h5_data *h5_make_data(struct h5 *f, const char *path, enum h5_type type, int ndim, const int64_t *shape);
void h5_write(struct h5_data *d, const int64_t *offset, const int64_t *count, const void *data);
void h5_end_data(struct h5_data *d);

/* A 1-D dataset in chunks of `chunk` elements, each one zstd frame (filter 32015) with a checksum. */
struct h5_chunks;
struct h5_chunks *h5_make_chunks(struct h5 *f, const char *path, enum h5_type type, int64_t chunk, int level);
/* Appends a chunk; n < chunk only for the last one. */
void h5_put_chunk(struct h5_chunks *c, const void *data, int64_t n);
void h5_end_chunks(struct h5_chunks *c);    /* either kind, reading or writing */

/* A virtual dataset: block `offset`, `count` of it is the whole dataset `dataset` of `file` (a name in the same
 * folder). For other people's tools; see set.h. */
struct h5_source {
    const char *file, *dataset;
    int64_t offset[H5_MAX_DIM], count[H5_MAX_DIM];
};
void h5_put_virtual(struct h5 *f, const char *path, enum h5_type type, int ndim, const int64_t *shape,
                    const struct h5_source *src, int n);

/* ---- reading: -1 or NULL with err_last() ---- */

struct h5 *h5_try_open(const char *path) __attribute__((warn_unused_result));
void h5_close(struct h5 *f);                /* NULL is fine */
/* True when the object is there. */
bool h5_has(struct h5 *f, const char *object);
/* Adds all attributes of an object to *as. Those of a type that we never write are an error. */
int h5_try_attrs(struct h5 *f, const char *object, struct attrs *as) __attribute__((warn_unused_result));

/* A whole table, its checksum checked; *rows is the caller's to free. The columns must be exactly these; texts end with a NUL. */
int h5_try_table(struct h5 *f, const char *path, const struct h5_column *cols, int n_cols, void **rows, int64_t *n)
    __attribute__((warn_unused_result));
/* Where the contiguous dataset begins in the file (*at; 0 when it is empty) and its shape. All of it lies inside. */
int h5_try_locate(struct h5 *f, const char *path, enum h5_type type, int ndim, int64_t *shape, int64_t *at)
    __attribute__((warn_unused_result));
/* Exactly n bytes from there. */
int h5_try_pread(struct h5 *f, int64_t at, void *out, size_t n) __attribute__((warn_unused_result));

/* A dataset as h5_make_chunks() makes it. n: elements; chunk: elements a chunk (at most 16 Mi). f must stay open. */
struct h5_chunks *h5_try_chunks(struct h5 *f, const char *path, enum h5_type type, int64_t *n, int64_t *chunk)
    __attribute__((warn_unused_result));
/* Chunk i, decoded; `out` holds a whole chunk (the last one is padded with zeros). */
int h5_try_chunk(struct h5_chunks *c, int64_t i, void *out) __attribute__((warn_unused_result));
/* Appends chunk i of `from` to a dataset of the same type and chunk as it is stored, neither decoded nor checked. */
int h5_try_copy_chunk(struct h5_chunks *from, int64_t i, struct h5_chunks *to) __attribute__((warn_unused_result));

#endif
