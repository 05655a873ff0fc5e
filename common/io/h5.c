/* h5.c - the part of HDF5 that we use: the library, its errors, files and groups
 * SPDX-License-Identifier: MIT
 */
#include "h5_private.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"

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
    .id = H5_ZSTD_FILTER,
    .encoder_present = 1,
    .decoder_present = 1,
    .name = "zstd",
    .filter = no_pipeline,
};

static void start_library(void)
{
    /* Files are closed by us or not at all: when another rank aborts, MPI calls exit() from wherever this process is. */
    if (H5dont_atexit() < 0 || H5open() < 0 || H5Zregister(&zstd_class) < 0)
        die("cannot start the HDF5 library");
}

void h5_enter(void)
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

const char *h5_reason(void)
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

hid_t h5_must(const struct h5 *f, const char *object, hid_t id)
{
    if (id < 0)
        die("cannot write '%s': '%s': %s", f->name, object, h5_reason());
    return id;
}

int h5_refuse(const struct h5 *f, const char *object)
{
    return err_set("'%s': '%s': %s", f->name, object, h5_reason());
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
        die("cannot set up HDF5: %s", h5_reason());
    return p;
}

bool h5_is_threadsafe(void)
{
    hbool_t yes = false;
    return H5is_library_threadsafe(&yes) >= 0 && yes;
}

struct h5 *h5_create(const char *path, const char *name)
{
    h5_enter();
    struct h5 *f = xcalloc(1, sizeof *f);
    f->name = xstrdup(name);
    f->fd = -1;
    hid_t access = file_access(), create = H5Pcreate(H5P_FILE_CREATE);
    h5_must(f, "/", create);
    h5_must(f, "/", H5Pset_obj_track_times(create, false));
    f->id = h5_must(f, "/", H5Fcreate(path, H5F_ACC_TRUNC, create, access));
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
    h5_enter();
    h5_must(f, "/", H5Fflush(f->id, H5F_SCOPE_LOCAL));
    if (H5Fget_obj_count(f->id, H5F_OBJ_ALL | H5F_OBJ_LOCAL) != 1)
        bug("'%s' is closed with objects still open", f->name);
    h5_must(f, "/", H5Fclose(f->id));
    release(f);
}

void h5_drop(struct h5 *f)
{
    h5_enter();
    H5Fclose(f->id);
    H5Eclear2(H5E_DEFAULT);
    release(f);
}

struct h5 *h5_try_open(const char *path)
{
    h5_enter();
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
        err_set("'%s' is not a whole HDF5 file: %s", path, h5_reason());
        release(f);
        return NULL;
    }
    return f;
}

void h5_close(struct h5 *f)
{
    if (!f)
        return;
    h5_enter();
    H5Fclose(f->id);
    H5Eclear2(H5E_DEFAULT);
    release(f);
}

bool h5_is_here(struct h5 *f, const char *path)
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
    h5_enter();
    return h5_is_here(f, object);
}

/* ---- groups ---- */

static void make_group(struct h5 *f, const char *path)
{
    hid_t create = h5_must(f, path, H5Pcreate(H5P_GROUP_CREATE));
    h5_must(f, path, H5Pset_obj_track_times(create, false));
    h5_must(f, path, H5Gclose(h5_must(f, path, H5Gcreate2(f->id, path, H5P_DEFAULT, create, H5P_DEFAULT))));
    H5Pclose(create);
}

void h5_make_groups_above(struct h5 *f, const char *path)
{
    char *part = xstrdup(path);
    for (char *s = strchr(part + 1, '/'); s; s = strchr(s + 1, '/')) {
        *s = '\0';
        if (h5_must(f, path, H5Lexists(f->id, part, H5P_DEFAULT)) == 0)
            make_group(f, part);
        *s = '/';
    }
    free(part);
}

void h5_put_group(struct h5 *f, const char *path)
{
    h5_enter();
    h5_make_groups_above(f, path);
    make_group(f, path);
}
