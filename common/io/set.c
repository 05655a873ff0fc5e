/* set.c - a set of HDF5 files that becomes valid in one instant
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "set.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "h5.h"
#include "common/base/hash.h"
#include "common/base/mem.h"
#include "common/base/out.h"

static const struct h5_column columns[] = {
    { "name", H5_TEXT, sizeof((struct set_member *)0)->name, offsetof(struct set_member, name) },
    { "bytes", H5_I64, 1, offsetof(struct set_member, bytes) },
    { "xxh3", H5_U64, 1, offsetof(struct set_member, hash) },
};
enum { N_COLUMNS = sizeof columns / sizeof *columns };

void set_lock(const char *dir, bool exclusive)
{
    int fd =
        open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* stays open: the lock lives as long as the process */
    if (fd < 0)
        die_errno("cannot open the folder '%s'", dir);
    if (flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) < 0 && errno == EWOULDBLOCK)
        die("another process is writing into '%s'", dir);
}

char *set_index_path(const char *dir) { return path_join(dir, "index.h5"); }

bool set_exists(const char *dir)
{
    char *index = set_index_path(dir);
    bool there = path_exists(index);
    free(index);
    return there;
}

void set_prepare(const char *dir, bool force)
{
    if (!set_exists(dir)) {
        out_make_dirs(dir);
        return;
    }
    if (!force)
        die("'%s' holds a set already; --force replaces it", dir);
    struct set_member *members = NULL;
    int n = 0;
    struct h5 *old = set_try_open(dir, NULL, 0, NULL, &members, &n);
    h5_close(old); /* an index that cannot be read names no members, and they are left */
    char *index = set_index_path(dir);
    if (unlink(index) < 0 && errno != ENOENT)
        die_errno("cannot remove '%s'", index);
    free(index);
    out_sync_dir(dir);
    for (int i = 0; old && i < n; i++) {
        char *path = path_join(dir, members[i].name);
        if (unlink(path) < 0 && errno != ENOENT)
            die_errno("cannot remove '%s'", path);
        free(path);
    }
    free(members);
}

void set_describe(const char *dir, const char *name, struct set_member *m)
{
    *m = (struct set_member){ 0 };
    if ((size_t)snprintf(m->name, sizeof m->name, "%s", name) >= sizeof m->name)
        die("'%s': the file name is longer than %zu bytes", name, sizeof m->name - 1);
    char *path = path_join(dir, name);
    if (hash_try_file(path, &m->hash, &m->bytes) < 0)
        die("%s", err_last());
    free(path);
}

int set_try_check(const char *dir, const struct set_member *m, bool deep)
{
    char *path = path_join(dir, m->name);
    struct stat st;
    uint64_t hash = m->hash;
    int64_t bytes = 0;
    int rc = 0;
    if (stat(path, &st) < 0)
        rc = err_set("cannot open '%s': %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = err_set("'%s' is not a regular file", path);
    else if ((int64_t)st.st_size != m->bytes)
        rc = err_set("'%s' has %lld bytes, its index says %lld", path, (long long)st.st_size,
                     (long long)m->bytes);
    else if (deep)
        rc = hash_try_file(path, &hash, &bytes);
    if (rc == 0 && hash != m->hash)
        rc = err_set("'%s' has checksum %016" PRIx64 ", its index says %016" PRIx64, path, hash, m->hash);
    free(path);
    return rc;
}

void set_put_head(struct h5 *index, const char *kind, int64_t format, const char *history,
                  const struct set_member *members, int n)
{
    h5_put_str(index, "/", "kind", kind);
    h5_put_int(index, "/", "format", format);
    h5_put_str(index, "/", "history", history);
    h5_put_table(index, "/members", columns, N_COLUMNS, members, n);
}

/* A plain file name: no folder, nothing hidden, nothing that a terminal would obey. */
static bool is_plain(const char *name)
{
    if (!*name || *name == '.')
        return false;
    for (const char *c = name; *c; c++)
        if (*c == '/' || (unsigned char)*c < ' ' || *c == 127)
            return false;
    return true;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int set_try_members(const char *dir, const struct set_member *m, int64_t n)
{
    if (n > INT_MAX)
        return err_set("'%s' has %lld members", dir, (long long)n);
    const char **names = xcalloc((size_t)n, sizeof *names);
    int rc = 0;
    for (int64_t i = 0; rc == 0 && i < n; i++) {
        names[i] = m[i].name;
        if (!is_plain(m[i].name) || strcmp(m[i].name, "index.h5") == 0 || m[i].bytes < 0)
            rc = err_set("the index of '%s' names the member '%s' of %lld bytes", dir, m[i].name,
                         (long long)m[i].bytes);
    }
    if (rc == 0)
        qsort(names, (size_t)n, sizeof *names, by_name);
    for (int64_t i = 1; rc == 0 && i < n; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            rc = err_set("the index of '%s' names the member '%s' twice", dir, names[i]);
    free(names);
    return rc;
}

int set_try_kind(const struct attrs *as, const char *file, const char *kind, int64_t format)
{
    const char *k;
    int64_t f;
    if (attrs_try_str(as, "kind", &k) < 0 || attrs_try_int(as, "format", &f) < 0)
        return err_set("'%s': attribute %s", file, err_last());
    if (kind && strcmp(k, kind) != 0)
        return err_set("'%s' holds '%s', not '%s'", file, k, kind);
    if (kind && (f < 1 || f > format))
        return err_set("'%s' has format %lld, this program reads %s%lld", file, (long long)f,
                       format > 1 ? "1 to " : "", (long long)format);
    return 0;
}

struct h5 *set_try_open(const char *dir, const char *kind, int64_t format, char **history,
                        struct set_member **members, int *n)
{
    struct attrs as = { 0 };
    char *path = set_index_path(dir);
    const char *text = "";
    void *rows = NULL;
    int64_t count = 0;
    struct h5 *f = NULL;
    int rc = 0;
    if (path_is_dir(dir) && !path_exists(path))
        rc = err_set("'%s' has no index.h5: it is not a set of files, or not a whole one", dir);
    else if (!(f = h5_try_open(path)))
        rc = -1;
    if (rc == 0)
        rc = h5_try_attrs(f, "/", &as);
    if (rc == 0)
        rc = set_try_kind(&as, path, kind, format);
    if (rc == 0 && attrs_try_str(&as, "history", &text) < 0)
        rc = err_set("'%s': attribute %s", path, err_last());
    if (rc == 0)
        rc = h5_try_table(f, "/members", columns, N_COLUMNS, &rows, &count);
    if (rc == 0)
        rc = set_try_members(dir, rows, count);
    if (rc == 0) {
        if (history)
            *history = xstrdup(text);
        *members = rows;
        *n = (int)count;
    } else {
        free(rows);
        h5_close(f);
        f = NULL;
    }
    attrs_free(&as);
    free(path);
    return f;
}

void set_format_hash(uint64_t hash, char text[17]) { snprintf(text, 17, "%016" PRIx64, hash); }

int set_try_parse_hash(const char *text, uint64_t *hash)
{
    if (strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
        return err_set("'%.32s' is not a checksum of 16 hexadecimal digits", text);
    *hash = strtoull(text, NULL, 16);
    return 0;
}
