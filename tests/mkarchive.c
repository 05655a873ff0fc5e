/* mkarchive.c - compares and changes other people's models, for tests
 * SPDX-License-Identifier: MIT
 *
 *   mkarchive ls A                  a line a tensor: name, dtype, shape
 *   mkarchive same A B [FROM=TO]    every tensor of A is in B, bit for bit, and nothing else is; a name that begins
 *                                   with FROM begins with TO in B. Says the first difference
 *   mkarchive edit A DIR CHANGE...  A as DIR/model.safetensors, but: drop=NAME; add=NAME=2x3, of zeros; poke=NAME,
 *                                   another last byte; type=NAME, integers; prefix=FROM=TO, names that begin so
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/out.h"
#include "common/io/archive.h"
#include "common/io/safetensors.h"

static struct archive *open_archive(const char *path)
{
    struct archive *a = archive_try_open(path);
    if (!a)
        die("%s", err_last());
    return a;
}

static void *read_all(const struct archive *a, const struct foreign_tensor *t)
{
    void *data = xmalloc((size_t)t->bytes + 1);
    if (archive_try_read_bytes(a, t, 0, t->elements, data) < 0)
        die("%s", err_last());
    return data;
}

/* The name with FROM at its beginning replaced. */
static char *renamed(const char *name, char **pairs, int n)
{
    for (int i = 0; i < n; i++) {
        const char *eq = strchr(pairs[i], '=');
        if (!eq)
            die_usage("'%s' is not FROM=TO", pairs[i]);
        if (strncmp(name, pairs[i], (size_t)(eq - pairs[i])) == 0)
            return xasprintf("%s%s", eq + 1, name + (eq - pairs[i]));
    }
    return xstrdup(name);
}

static int same(const char *pa, const char *pb, char **pairs, int n)
{
    struct archive *a = open_archive(pa), *b = open_archive(pb);
    for (int64_t i = 0; i < archive_tensors(a); i++) {
        const struct foreign_tensor *x = archive_tensor(a, i);
        char *name = renamed(x->name, pairs, n);
        const struct foreign_tensor *y = archive_find(b, name);
        if (!y)
            die("'%s' is only in '%s'", name, pa);
        if (x->dtype != y->dtype || x->ndim != y->ndim || memcmp(x->shape, y->shape, sizeof x->shape) != 0)
            die("'%s' has another type or shape", name);
        void *p = read_all(a, x), *q = read_all(b, y);
        if (memcmp(p, q, (size_t)x->bytes) != 0)
            die("'%s' differs", name);
        free(p);
        free(q);
        free(name);
    }
    if (archive_tensors(a) != archive_tensors(b))
        die("'%s' has %" PRId64 " tensors, '%s' %" PRId64, pa, archive_tensors(a), pb, archive_tensors(b));
    archive_close(a);
    archive_close(b);
    return EXIT_DONE;
}

static int list(const char *path)
{
    struct archive *a = open_archive(path);
    for (int64_t i = 0; i < archive_tensors(a); i++) {
        const struct foreign_tensor *t = archive_tensor(a, i);
        printf("%s\t%s\t", t->name, foreign_dtype_name(t->dtype));
        for (int d = 0; d < t->ndim; d++)
            printf("%s%" PRId64, d ? "x" : "", t->shape[d]);
        putchar('\n');
    }
    archive_close(a);
    return EXIT_DONE;
}

static int edit(const char *path, const char *dir, char **changes, int n)
{
    struct archive *a = open_archive(path);
    struct foreign_list l = { 0 };
    unsigned char **data = NULL;
    size_t n_data = 0, cap = 0;
    for (int64_t i = 0; i < archive_tensors(a); i++) {
        struct foreign_tensor t = *archive_tensor(a, i);
        unsigned char *d = read_all(a, &t);
        bool drop = false;
        t.name = xstrdup(t.name);
        for (int k = 0; k < n; k++) {
            const char *value = strchr(changes[k], '=') + 1;
            bool it = strcmp(value, t.name) == 0;
            drop |= it && strncmp(changes[k], "drop=", 5) == 0;
            if (it && strncmp(changes[k], "poke=", 5) == 0)
                d[t.bytes - 1] ^= 1;
            if (it && strncmp(changes[k], "type=", 5) == 0)
                t.dtype = foreign_dtype_size(t.dtype) == 2 ? FOREIGN_I16 : FOREIGN_I32;
            if (strncmp(changes[k], "prefix=", 7) == 0) {
                char *old = t.name, *pair = changes[k] + 7;
                t.name = renamed(old, &pair, 1);
                free(old);
            }
        }
        if (drop)
            continue;
        *(struct foreign_tensor *)grow(&l.t, &l.n, &l.cap, sizeof *l.t) = t;
        *(unsigned char **)grow(&data, &n_data, &cap, sizeof *data) = d;
    }
    for (int k = 0; k < n; k++) {
        if (strncmp(changes[k], "add=", 4) != 0)
            continue;
        struct foreign_tensor t = { .dtype = FOREIGN_F32 };
        char *name = xstrdup(changes[k] + 4), *at = strchr(name, '=');
        *at = '\0';
        t.name = name;
        for (char *s = at + 1; t.ndim < FOREIGN_MAX_DIM; s++) {
            t.shape[t.ndim++] = strtoll(s, &s, 10);
            if (*s != 'x')
                break;
        }
        if (foreign_try_size(&t) < 0)
            die("%s", err_last());
        *(struct foreign_tensor *)grow(&l.t, &l.n, &l.cap, sizeof *l.t) = t;
        *(unsigned char **)grow(&data, &n_data, &cap, sizeof *data) = xcalloc((size_t)t.bytes + 1, 1);
    }
    out_make_dirs(dir);
    struct safetensors_writer *w = safetensors_create(dir, l.t, l.n, 0, true);
    for (size_t i = 0; i < l.n; i++)
        safetensors_put_raw(w, data[i], l.t[i].elements);
    safetensors_commit(w);
    return EXIT_DONE;
}

int main(int argc, char **argv)
{
    err_init("mkarchive");
    if (argc == 3 && strcmp(argv[1], "ls") == 0)
        return list(argv[2]);
    if (argc >= 4 && strcmp(argv[1], "same") == 0)
        return same(argv[2], argv[3], argv + 4, argc - 4);
    if (argc >= 4 && strcmp(argv[1], "edit") == 0)
        return edit(argv[2], argv[3], argv + 4, argc - 4);
    die_usage("see the top of tests/mkarchive.c");
}
