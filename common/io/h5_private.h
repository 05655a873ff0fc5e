/* h5_private.h - what the files that own HDF5 share
 * SPDX-License-Identifier: MIT
 *
 * Only h5*.c includes it. h5.c: the library, errors, files, groups; h5_attrs.c: attributes; h5_data.c:
 * contiguous and virtual datasets; h5_table.c: tables; h5_chunks.c: chunks of zstd frames.
 * Ids of HDF5 are closed on the error paths of readers only: a writer's error ends the process.
 */
#ifndef SSM_H5_PRIVATE_H
#define SSM_H5_PRIVATE_H

#include <hdf5.h>

#include "h5.h"

enum { H5_ZSTD_FILTER = 32015 };

struct h5 {
    hid_t id;
    char *name; /* as messages call it */
    int fd;     /* readers only, else -1 */
    int64_t bytes;
};

/* First thing in every function that calls HDF5. Its error stack, and whether it prints, belong to
 * the thread. */
void h5_enter(void);
/* The innermost line of the stack, and of that the system's own words where it quotes them. */
const char *h5_reason(void);
/* Passes an id or a status on, or dies: "cannot write". */
hid_t h5_must(const struct h5 *f, const char *object, hid_t id);
/* -1, with the reason in err_last(). */
int h5_refuse(const struct h5 *f, const char *object);
/* Every step of the path is there and a hard link: soft and external ones could lead into other files. */
bool h5_is_here(struct h5 *f, const char *path);

hid_t h5_type_id(enum h5_type t);
const char *h5_type_name(enum h5_type t);
hid_t h5_text_type(size_t bytes); /* close it */
/* Elements of a shape. -1: a negative length, or the bytes would not fit an int64. */
int64_t h5_elements(int ndim, const int64_t *shape, size_t size);
void h5_to_hsize(int ndim, const int64_t *from, hsize_t *to);

/* Makes the groups above an object. HDF5 could, but gives those time stamps. */
void h5_make_groups_above(struct h5 *f, const char *path);
/* Property list: no time stamps, data are not filled. Close it. */
hid_t h5_dataset_plist(const struct h5 *f, const char *path);

/* h5_make_data(), h5_try_locate() for any type. type_text: how messages call it. */
struct h5_data *h5_make_data_of(struct h5 *f, const char *path, hid_t type, int ndim, const int64_t *shape);
int h5_try_locate_of(struct h5 *f, const char *path, hid_t type, const char *type_text, int ndim,
                     int64_t *shape, int64_t *at) __attribute__((warn_unused_result));
/* Opens a dataset whose type and number of dimensions are known; its shape goes to dims. An id, or -1 with
 * err_last(). */
hid_t h5_try_open_data(struct h5 *f, const char *path, hid_t type, const char *type_text, int ndim,
                       int64_t *dims) __attribute__((warn_unused_result));

#endif
