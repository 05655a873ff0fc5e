/* h5.c - the part of HDF5 that we use
 * SPDX-License-Identifier: MIT
 *
 * Over 500 lines because it is the only place that knows the library; one section for each kind of object.
 * Ids of HDF5 are closed on the error paths of readers only: a writer's error ends the process.
 */
#define _GNU_SOURCE
#include "h5.h"

#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/mem.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the files are little-endian and are read in place"
#endif

enum { ZSTD_FILTER = 32015 };
static const char TABLE_HASH[] = "xxh3";
#define MAX_TEXT (16 << 20)  /* bytes of a text attribute */
#define MAX_CHUNK (16 << 20) /* elements of a chunk */

struct h5 {
    hid_t id;
    char *name; /* as messages call it */
    int fd;     /* readers only, else -1 */
    int64_t bytes;
};

struct h5_data {
    struct h5 *f;
    char *path;
    hid_t id, type;
    int ndim;
};

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

/* ---- the library ---- */

/* HDF5 must know the filter to let a dataset name it. Our chunks pass its pipeline by, in both directions. */
static size_t no_pipeline(unsigned flags, size_t n_params, const unsigned params[], size_t n, size_t *size,
                          void **buf)
{
    (void)flags, (void)n_params, (void)params, (void)n, (void)size, (void)buf;
    return 0; /* fails the call */
}

static const H5Z_class2_t zstd_class = {
    .version = H5Z_CLASS_T_VERS,
    .id = ZSTD_FILTER,
    .encoder_present = 1,
    .decoder_present = 1,
    .name = "zstd",
    .filter = no_pipeline,
};

static void start_library(void)
{
    if (H5open() < 0 || H5Zregister(&zstd_class) < 0)
        die("cannot start the HDF5 library");
}

/* First thing in every function that calls HDF5. Its error stack, and whether it prints, belong to the thread. */
static void enter(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static _Thread_local bool silent;
    pthread_once(&once, start_library);
    if (!silent) {
        H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
        silent = true;
    }
}

static herr_t keep_innermost(unsigned depth, const H5E_error2_t *e, void *text)
{
    if (depth == 0)
        snprintf(text, 300, "%s", e->desc ? e->desc : "");
    return 0;
}

/* The innermost line of the stack, and of that the system's own words where it quotes them. */
static const char *reason(void)
{
    static _Thread_local char text[300];
    text[0] = '\0';
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, text);
    H5Eclear2(H5E_DEFAULT);
    static const char quote[] = "error message = '";
    const char *from = strstr(text, quote);
    if (from) {
        from += sizeof quote - 1;
        size_t n = strcspn(from, "'");
        memmove(text, from, n);
        text[n] = '\0';
    }
    return text[0] ? text : "HDF5 gives no reason";
}

const char *h5_version(void)
{
    static char text[32];
    unsigned a = 0, b = 0, c = 0;
    H5get_libversion(&a, &b, &c);
    snprintf(text, sizeof text, "%u.%u.%u", a, b, c);
    return text;
}

static void failed(const struct h5 *f, const char *object) __attribute__((noreturn));
static void failed(const struct h5 *f, const char *object)
{
    die("cannot write '%s': '%s': %s", f->name, object, reason());
}

/* Passes an id or a status on, or dies. */
static hid_t must(const struct h5 *f, const char *object, hid_t id)
{
    if (id < 0)
        failed(f, object);
    return id;
}

static int refuse(const struct h5 *f, const char *object)
{
    return err_set("'%s': '%s': %s", f->name, object, reason());
}

static hid_t type_id(enum h5_type t)
{
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
    case H5_TEXT:
        break;
    }
    bug("HDF5 type %d", (int)t);
}

size_t h5_type_size(enum h5_type t)
{
    static const size_t size[] = { 1, 2, 4, 8, 8, 4, 1 };
    return size[t];
}

static const char *type_name(enum h5_type t)
{
    static const char *const name[] = { "u8", "u16", "u32", "u64", "i64", "f32", "text" };
    return name[t];
}

/* Elements of a shape. -1: a negative length, or the bytes would not fit an int64. */
static int64_t elements(int ndim, const int64_t *shape, size_t size)
{
    int64_t n = 1, bytes;
    for (int i = 0; i < ndim; i++)
        if (shape[i] < 0 || __builtin_mul_overflow(n, shape[i], &n))
            return -1;
    return __builtin_mul_overflow(n, (int64_t)size, &bytes) ? -1 : n;
}

static void to_hsize(int ndim, const int64_t *from, hsize_t *to)
{
    for (int i = 0; i < ndim; i++) {
        if (from[i] < 0)
            bug("HDF5 length %lld", (long long)from[i]);
        to[i] = (hsize_t)from[i];
    }
}

/* ---- files ---- */

/* Locks off: they do not work on many cluster file systems, and our files are whole before they have a name.
 * The 1.10 format, for its checksums. Large datasets begin at a page. */
static hid_t file_access(void)
{
    hid_t p = H5Pcreate(H5P_FILE_ACCESS);
    if (p < 0 || H5Pset_file_locking(p, false, true) < 0 ||
        H5Pset_libver_bounds(p, H5F_LIBVER_V110, H5F_LIBVER_V110) < 0 ||
        H5Pset_alignment(p, 1 << 20, 4096) < 0)
        die("cannot set up HDF5: %s", reason());
    return p;
}

struct h5 *h5_create(const char *path, const char *name)
{
    enter();
    struct h5 *f = xcalloc(1, sizeof *f);
    f->name = xstrdup(name);
    f->fd = -1;
    hid_t access = file_access(), create = H5Pcreate(H5P_FILE_CREATE);
    must(f, "/", create);
    must(f, "/", H5Pset_obj_track_times(create, false));
    f->id = must(f, "/", H5Fcreate(path, H5F_ACC_TRUNC, create, access));
    H5Pclose(create);
    H5Pclose(access);
    return f;
}

static void release(struct h5 *f)
{
    if (f->fd >= 0)
        close(f->fd);
    free(f->name);
    free(f);
}

void h5_finish(struct h5 *f)
{
    enter();
    must(f, "/", H5Fflush(f->id, H5F_SCOPE_LOCAL));
    if (H5Fget_obj_count(f->id, H5F_OBJ_ALL | H5F_OBJ_LOCAL) != 1)
        bug("'%s' is closed with objects still open", f->name);
    must(f, "/", H5Fclose(f->id));
    release(f);
}

void h5_drop(struct h5 *f)
{
    enter();
    H5Fclose(f->id);
    H5Eclear2(H5E_DEFAULT);
    release(f);
}

struct h5 *h5_try_open(const char *path)
{
    enter();
    struct stat st;
    int fd = -1;
    if (stat(path, &st) < 0 || (S_ISREG(st.st_mode) && (fd = open(path, O_RDONLY | O_CLOEXEC)) < 0) ||
        (fd >= 0 && fstat(fd, &st) < 0)) {
        err_set("cannot open '%s': %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    if (fd < 0) {
        err_set("'%s' is not a regular file", path);
        return NULL;
    }
    struct h5 *f = xcalloc(1, sizeof *f);
    f->name = xstrdup(path);
    f->fd = fd;
    f->bytes = st.st_size;
    hid_t access = file_access();
    f->id = H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    if (f->id < 0) {
        err_set("'%s' is not a whole HDF5 file: %s", path, reason());
        release(f);
        return NULL;
    }
    return f;
}

void h5_close(struct h5 *f)
{
    if (!f)
        return;
    enter();
    H5Fclose(f->id);
    H5Eclear2(H5E_DEFAULT);
    release(f);
}

int64_t h5_bytes(const struct h5 *f) { return f->bytes; }

/* Every step of the path is a hard link: soft and external ones could lead into other files. */
static bool is_here(struct h5 *f, const char *path)
{
    char *part = xstrdup(path);
    bool here = path[0] == '/';
    for (char *s = part; here && *s;) {
        char *end = strchr(s + 1, '/');
        if (end)
            *end = '\0';
        H5L_info_t info;
        here = strcmp(path, "/") == 0 ||
               (H5Lexists(f->id, part, H5P_DEFAULT) > 0 &&
                H5Lget_info(f->id, part, &info, H5P_DEFAULT) >= 0 && info.type == H5L_TYPE_HARD);
        if (!end)
            break;
        *end = '/';
        s = end;
    }
    free(part);
    H5Eclear2(H5E_DEFAULT);
    return here;
}

bool h5_has(struct h5 *f, const char *object)
{
    enter();
    return is_here(f, object);
}

/* ---- groups and attributes ---- */

static hid_t link_plist(const struct h5 *f)
{
    hid_t p = must(f, "/", H5Pcreate(H5P_LINK_CREATE));
    must(f, "/", H5Pset_create_intermediate_group(p, 1));
    return p;
}

void h5_put_group(struct h5 *f, const char *path)
{
    enter();
    hid_t create = must(f, path, H5Pcreate(H5P_GROUP_CREATE)), links = link_plist(f);
    must(f, path, H5Pset_obj_track_times(create, false));
    must(f, path, H5Gclose(must(f, path, H5Gcreate2(f->id, path, links, create, H5P_DEFAULT))));
    H5Pclose(links);
    H5Pclose(create);
}

static void put_attr(struct h5 *f, const char *object, const char *name, hid_t type, const void *v)
{
    hid_t space = must(f, object, H5Screate(H5S_SCALAR));
    hid_t a =
        must(f, object,
             H5Acreate_by_name(f->id, object, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    must(f, object, H5Awrite(a, type, v));
    must(f, object, H5Aclose(a));
    H5Sclose(space);
}

void h5_put_int(struct h5 *f, const char *object, const char *name, int64_t v)
{
    enter();
    put_attr(f, object, name, H5T_STD_I64LE, &v);
}

void h5_put_real(struct h5 *f, const char *object, const char *name, double v)
{
    enter();
    put_attr(f, object, name, H5T_IEEE_F64LE, &v);
}

static hid_t text_type(size_t bytes)
{
    hid_t t = H5Tcopy(H5T_C_S1);
    if (t < 0 || H5Tset_size(t, bytes) < 0 || H5Tset_cset(t, H5T_CSET_UTF8) < 0 ||
        H5Tset_strpad(t, H5T_STR_NULLTERM) < 0)
        die("cannot make an HDF5 text type: %s", reason());
    return t;
}

void h5_put_str(struct h5 *f, const char *object, const char *name, const char *v)
{
    enter();
    if (strlen(v) >= MAX_TEXT)
        die("cannot write '%s': attribute '%s' of '%s' has %zu bytes", f->name, name, object, strlen(v));
    hid_t type = text_type(strlen(v) + 1);
    put_attr(f, object, name, type, v);
    H5Tclose(type);
}

void h5_put_attrs(struct h5 *f, const char *object, const struct attrs *as)
{
    for (size_t i = 0; i < as->n; i++) {
        const struct attr *a = &as->a[i];
        if (a->kind == ATTR_INT)
            h5_put_int(f, object, a->name, a->i);
        else if (a->kind == ATTR_REAL)
            h5_put_real(f, object, a->name, a->r);
        else
            h5_put_str(f, object, a->name, a->s);
    }
}

/* Texts: fixed length, with or without a NUL at the end. */
static int read_text(hid_t a, hid_t type, const char *name, struct attrs *as)
{
    size_t n = H5Tget_size(type);
    if (H5Tis_variable_str(type) != 0)
        return err_set("attribute '%s' is a text of variable length", name);
    if (n == 0 || n > MAX_TEXT)
        return err_set("attribute '%s' has %zu bytes", name, n);
    char *s = xcalloc(n + 1, 1);
    int rc = H5Aread(a, type, s) < 0 ? err_set("attribute '%s': %s", name, reason()) : 0;
    if (rc == 0)
        attrs_set_str(as, name, s);
    free(s);
    return rc;
}

static int read_attr(hid_t a, const char *name, struct attrs *as)
{
    hid_t type = H5Aget_type(a), space = H5Aget_space(a);
    int rc;
    int64_t i;
    double r;
    if (type < 0 || space < 0)
        rc = err_set("attribute '%s': %s", name, reason());
    else if (H5Sget_simple_extent_npoints(space) != 1)
        rc = err_set("attribute '%s' is not one value", name);
    else if (H5Tget_class(type) == H5T_STRING)
        rc = read_text(a, type, name, as);
    else if (H5Tget_size(type) > 8 || (H5Tget_class(type) != H5T_INTEGER && H5Tget_class(type) != H5T_FLOAT))
        rc = err_set("attribute '%s' is neither a number nor a text", name);
    else if (H5Tget_class(type) == H5T_INTEGER) {
        rc = H5Aread(a, H5T_NATIVE_INT64, &i) < 0 ? err_set("attribute '%s': %s", name, reason()) : 0;
        if (rc == 0)
            attrs_set_int(as, name, i);
    } else {
        rc = H5Aread(a, H5T_NATIVE_DOUBLE, &r) < 0 ? err_set("attribute '%s': %s", name, reason()) : 0;
        if (rc == 0)
            attrs_set_real(as, name, r);
    }
    if (type >= 0)
        H5Tclose(type);
    if (space >= 0)
        H5Sclose(space);
    return rc;
}

int h5_try_attrs(struct h5 *f, const char *object, struct attrs *as)
{
    enter();
    if (!is_here(f, object))
        return err_set("'%s': '%s' is missing", f->name, object);
    H5O_info_t info;
    if (H5Oget_info_by_name1(f->id, object, &info, H5P_DEFAULT) < 0)
        return refuse(f, object);
    for (hsize_t i = 0; i < info.num_attrs; i++) {
        char name[sizeof as->a->name + 1];
        hid_t a = H5Aopen_by_idx(f->id, object, H5_INDEX_NAME, H5_ITER_INC, i, H5P_DEFAULT, H5P_DEFAULT);
        if (a < 0)
            return refuse(f, object);
        ssize_t len = H5Aget_name(a, sizeof name, name);
        int rc = 0;
        if (len < 0)
            rc = refuse(f, object);
        else if ((size_t)len >= sizeof as->a->name)
            rc = err_set("'%s': '%s': the name of attribute '%.40s...' is too long", f->name, object, name);
        else if (read_attr(a, name, as) < 0)
            rc = err_set("'%s': '%s': %s", f->name, object, err_last());
        H5Aclose(a);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* ---- contiguous datasets ---- */

static hid_t dataset_plist(const struct h5 *f, const char *path)
{
    hid_t p = must(f, path, H5Pcreate(H5P_DATASET_CREATE));
    must(f, path, H5Pset_obj_track_times(p, false));
    must(f, path, H5Pset_fill_time(p, H5D_FILL_TIME_NEVER)); /* all of it is written */
    return p;
}

static struct h5_data *make_data(struct h5 *f, const char *path, hid_t type, int ndim, const int64_t *shape)
{
    struct h5_data *d = xcalloc(1, sizeof *d);
    d->f = f;
    d->path = xstrdup(path);
    d->type = type;
    d->ndim = ndim;
    hsize_t dims[H5_MAX_DIM];
    if (ndim < 1 || ndim > H5_MAX_DIM || elements(ndim, shape, H5Tget_size(type)) < 0)
        bug("'%s' in '%s': bad shape", path, f->name);
    to_hsize(ndim, shape, dims);
    hid_t create = dataset_plist(f, path), links = link_plist(f);
    must(f, path, H5Pset_alloc_time(create, H5D_ALLOC_TIME_EARLY));
    hid_t space = must(f, path, H5Screate_simple(ndim, dims, NULL));
    d->id = must(f, path, H5Dcreate2(f->id, path, type, space, links, create, H5P_DEFAULT));
    H5Sclose(space);
    H5Pclose(links);
    H5Pclose(create);
    return d;
}

struct h5_data *h5_make_data(struct h5 *f, const char *path, enum h5_type type, int ndim,
                             const int64_t *shape)
{
    enter();
    return make_data(f, path, type_id(type), ndim, shape);
}

void h5_write(struct h5_data *d, const int64_t *offset, const int64_t *count, const void *data)
{
    enter();
    hsize_t at[H5_MAX_DIM], n[H5_MAX_DIM];
    to_hsize(d->ndim, offset, at);
    to_hsize(d->ndim, count, n);
    if (elements(d->ndim, count, 1) == 0)
        return;
    hid_t there = must(d->f, d->path, H5Dget_space(d->id));
    hid_t here = must(d->f, d->path, H5Screate_simple(d->ndim, n, NULL));
    must(d->f, d->path, H5Sselect_hyperslab(there, H5S_SELECT_SET, at, NULL, n, NULL));
    must(d->f, d->path, H5Dwrite(d->id, d->type, here, there, H5P_DEFAULT, data));
    H5Sclose(here);
    H5Sclose(there);
}

void h5_end_data(struct h5_data *d)
{
    enter();
    must(d->f, d->path, H5Dclose(d->id));
    free(d->path);
    free(d);
}

/* Opens a dataset whose type and number of dimensions are known; its shape goes to dims. */
static hid_t open_data(struct h5 *f, const char *path, hid_t type, const char *type_text, int ndim,
                       int64_t *dims)
{
    if (!is_here(f, path))
        return err_set("'%s': '%s' is missing", f->name, path);
    hid_t id = H5Dopen2(f->id, path, H5P_DEFAULT);
    if (id < 0)
        return refuse(f, path);
    hid_t t = H5Dget_type(id), space = H5Dget_space(id);
    hsize_t n[H5_MAX_DIM] = { 0 };
    int rc = 0;
    if (t < 0 || space < 0)
        rc = refuse(f, path);
    else if (H5Tequal(t, type) <= 0)
        rc = err_set("'%s': '%s' is not of type %s", f->name, path, type_text);
    else if (H5Sget_simple_extent_ndims(space) != ndim)
        rc = err_set("'%s': '%s' has %d dimensions instead of %d", f->name, path,
                     H5Sget_simple_extent_ndims(space), ndim);
    else if (H5Sget_simple_extent_dims(space, n, NULL) < 0)
        rc = refuse(f, path);
    for (int i = 0; i < ndim; i++)
        dims[i] = n[i] <= INT64_MAX ? (int64_t)n[i] : -1;
    if (rc == 0 && elements(ndim, dims, H5Tget_size(type)) < 0)
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

static int locate(struct h5 *f, const char *path, hid_t type, const char *type_text, int ndim, int64_t *shape,
                  int64_t *at)
{
    hid_t id = open_data(f, path, type, type_text, ndim, shape);
    if (id < 0)
        return -1;
    int64_t bytes = elements(ndim, shape, 1) * (int64_t)H5Tget_size(type);
    hid_t create = H5Dget_create_plist(id);
    int rc = 0;
    if (create < 0)
        rc = refuse(f, path);
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
    enter();
    return locate(f, path, type_id(type), type_name(type), ndim, shape, at);
}

int h5_try_pread(struct h5 *f, int64_t at, void *out, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = pread(f->fd, (char *)out + done, n - done, (off_t)(at + (int64_t)done));
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return err_set("cannot read '%s': %s", f->name,
                           k < 0 ? strerror(errno) : "the file ends too early");
        done += (size_t)k;
    }
    return 0;
}

/* ---- tables ---- */

static size_t row_size(const struct h5_column *cols, int n_cols)
{
    size_t size = 0;
    for (int i = 0; i < n_cols; i++) {
        if (cols[i].offset != size)
            bug("column '%s' of a table is not packed", cols[i].name);
        size += (size_t)cols[i].n * h5_type_size(cols[i].type);
    }
    return size;
}

static hid_t table_type(const struct h5_column *cols, int n_cols)
{
    hid_t table = H5Tcreate(H5T_COMPOUND, row_size(cols, n_cols));
    for (int i = 0; table >= 0 && i < n_cols; i++) {
        hsize_t n = (hsize_t)cols[i].n;
        hid_t t = cols[i].type == H5_TEXT ? text_type((size_t)n)
                  : n > 1                 ? H5Tarray_create2(type_id(cols[i].type), 1, &n)
                                          : H5Tcopy(type_id(cols[i].type));
        if (t < 0 || H5Tinsert(table, cols[i].name, cols[i].offset, t) < 0)
            table = -1;
        else
            H5Tclose(t);
    }
    if (table < 0)
        die("cannot make an HDF5 table type: %s", reason());
    return table;
}

void h5_put_table(struct h5 *f, const char *path, const struct h5_column *cols, int n_cols, const void *rows,
                  int64_t n)
{
    enter();
    hid_t type = table_type(cols, n_cols);
    struct h5_data *d = make_data(f, path, type, 1, &n);
    h5_write(d, &(int64_t){ 0 }, &n, rows);
    h5_end_data(d);
    H5Tclose(type);
    h5_put_int(f, path, TABLE_HASH, (int64_t)hash_bytes(rows, (size_t)n * row_size(cols, n_cols)));
}

/* HDF5's metadata have checksums of their own, data have not. */
static int check_table(struct h5 *f, const char *path, const void *rows, size_t bytes)
{
    struct attrs as = { 0 };
    int64_t want = 0;
    int rc = h5_try_attrs(f, path, &as);
    if (rc == 0 && attrs_try_int(&as, TABLE_HASH, &want) < 0)
        rc = err_set("'%s': '%s': attribute %s", f->name, path, err_last());
    if (rc == 0 && (uint64_t)want != hash_bytes(rows, bytes))
        rc = err_set("'%s': '%s' is damaged: its checksum differs", f->name, path);
    attrs_free(&as);
    return rc;
}

int h5_try_table(struct h5 *f, const char *path, const struct h5_column *cols, int n_cols, void **rows,
                 int64_t *n)
{
    enter();
    hid_t type = table_type(cols, n_cols);
    size_t size = row_size(cols, n_cols);
    int64_t at;
    int rc = locate(f, path, type, "of this table", 1, n, &at);
    H5Tclose(type);
    if (rc < 0)
        return -1;
    char *data = xcalloc((size_t)*n, size); /* not more than the file holds */
    rc = h5_try_pread(f, at, data, (size_t)*n * size);
    if (rc == 0)
        rc = check_table(f, path, data, (size_t)*n * size);
    for (int64_t i = 0; rc == 0 && i < *n; i++)
        for (int c = 0; c < n_cols; c++)
            if (cols[c].type == H5_TEXT &&
                !memchr(data + (size_t)i * size + cols[c].offset, 0, (size_t)cols[c].n))
                rc = err_set("'%s': '%s': '%s' of row %lld has no end", f->name, path, cols[c].name,
                             (long long)i);
    if (rc < 0)
        free(data);
    else
        *rows = data;
    return rc;
}

/* ---- chunks, one zstd frame each ---- */

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
    enter();
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
    hid_t create = dataset_plist(f, path), links = link_plist(f);
    must(f, path, H5Pset_chunk(create, 1, &size));
    must(f, path, H5Pset_filter(create, ZSTD_FILTER, H5Z_FLAG_MANDATORY, 1, params));
    hid_t space = must(f, path, H5Screate_simple(1, &none, &any));
    c->id = must(f, path, H5Dcreate2(f->id, path, type_id(type), space, links, create, H5P_DEFAULT));
    H5Sclose(space);
    H5Pclose(links);
    H5Pclose(create);
    return c;
}

void h5_put_chunk(struct h5_chunks *c, const void *data, int64_t n)
{
    enter();
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
    must(c->f, c->path, H5Dset_extent(c->id, &extent));
    must(c->f, c->path, H5Dwrite_chunk(c->id, H5P_DEFAULT, 0, &at, packed, c->packed));
    c->n += n;
    free(padded);
}

void h5_end_chunks(struct h5_chunks *c)
{
    if (!c)
        return;
    enter();
    if (c->cctx)
        must(c->f, c->path, H5Dclose(c->id));
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
        return refuse(c->f, c->path);
    hsize_t size = 0;
    unsigned flags, config;
    size_t n_params = 0;
    int rc = 0;
    if (H5Pget_layout(create) != H5D_CHUNKED || H5Pget_chunk(create, 1, &size) != 1)
        rc = err_set("'%s': '%s' is not stored in chunks", c->f->name, c->path);
    else if (H5Pget_nfilters(create) != 1 ||
             H5Pget_filter2(create, 0, &flags, &n_params, NULL, 0, NULL, &config) != ZSTD_FILTER)
        rc = err_set("'%s': '%s' is not compressed by zstd (filter %d) alone", c->f->name, c->path,
                     ZSTD_FILTER);
    else if (size < 1 || size > MAX_CHUNK)
        rc = err_set("'%s': '%s' has chunks of %llu elements", c->f->name, c->path, (unsigned long long)size);
    *chunk = (int64_t)size;
    H5Pclose(create);
    H5Eclear2(H5E_DEFAULT);
    return rc;
}

struct h5_chunks *h5_try_chunks(struct h5 *f, const char *path, enum h5_type type, int64_t *n, int64_t *chunk)
{
    enter();
    struct h5_chunks *c = new_chunks(f, path, type);
    c->id = open_data(f, path, type_id(type), type_name(type), 1, &c->n);
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

int h5_try_chunk(struct h5_chunks *c, int64_t i, void *out)
{
    enter();
    const char *file = c->f->name;
    size_t whole = (size_t)c->chunk * h5_type_size(c->type);
    if (i < 0 || i > (c->n - 1) / c->chunk || c->n == 0)
        return err_set("'%s': '%s' has no chunk %lld", file, c->path, (long long)i);
    hsize_t at = (hsize_t)(i * c->chunk), size = 0;
    if (H5Dget_chunk_storage_size(c->id, &at, &size) < 0)
        return refuse(c->f, c->path);
    if (size == 0 || size > c->packed_cap)
        return err_set("'%s': '%s': chunk %lld has %llu bytes", file, c->path, (long long)i,
                       (unsigned long long)size);
    uint32_t skipped = 0;
    if (H5Dread_chunk(c->id, H5P_DEFAULT, &at, &skipped, c->packed) < 0)
        return refuse(c->f, c->path);
    if (skipped) { /* another writer's: this chunk went in as it was */
        if (size != whole)
            return err_set("'%s': '%s': chunk %lld has %llu bytes", file, c->path, (long long)i,
                           (unsigned long long)size);
        memcpy(out, c->packed, whole);
        return 0;
    }
    size_t got = ZSTD_decompressDCtx(c->dctx, out, whole, c->packed, (size_t)size);
    if (ZSTD_isError(got))
        return err_set("'%s': '%s': chunk %lld: zstd: %s", file, c->path, (long long)i,
                       ZSTD_getErrorName(got));
    if (got != whole)
        return err_set("'%s': '%s': chunk %lld decodes to %zu bytes instead of %zu", file, c->path,
                       (long long)i, got, whole);
    return 0;
}

/* ---- virtual datasets ---- */

void h5_put_virtual(struct h5 *f, const char *path, enum h5_type type, int ndim, const int64_t *shape,
                    const struct h5_source *src, int n)
{
    enter();
    hsize_t dims[H5_MAX_DIM], at[H5_MAX_DIM], count[H5_MAX_DIM];
    to_hsize(ndim, shape, dims);
    hid_t create = must(f, path, H5Pcreate(H5P_DATASET_CREATE)), links = link_plist(f);
    must(f, path, H5Pset_obj_track_times(create, false));
    hid_t space = must(f, path, H5Screate_simple(ndim, dims, NULL));
    for (int i = 0; i < n; i++) {
        to_hsize(ndim, src[i].offset, at);
        to_hsize(ndim, src[i].count, count);
        hid_t there = must(f, path, H5Screate_simple(ndim, count, NULL));
        must(f, path, H5Sselect_hyperslab(space, H5S_SELECT_SET, at, NULL, count, NULL));
        must(f, path, H5Pset_virtual(create, space, src[i].file, src[i].dataset, there));
        H5Sclose(there);
    }
    must(f, path, H5Sselect_all(space));
    must(f, path,
         H5Dclose(must(f, path, H5Dcreate2(f->id, path, type_id(type), space, links, create, H5P_DEFAULT))));
    H5Sclose(space);
    H5Pclose(links);
    H5Pclose(create);
}
