/* ckpt.c - checkpoints: named global tensors, in pieces, in a set of files
 * SPDX-License-Identifier: MIT
 *
 * Reading: a member is opened by HDF5 once, to learn where each of its pieces lies; from then on its
 * bytes are read by pread into the caller's memory, in the longest runs that piece and slab have in common.
 */
#define _GNU_SOURCE
#include "ckpt.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/out.h"
#include "h5.h"

static const char KIND_SET[] = "ssmtools checkpoint", KIND_FILE[] = "ssmtools checkpoint member";
enum { FORMAT = 1, OPEN_MAX = 64, MAX_DATASET = 136 };

/* A row of /pieces; packed. */
struct row {
    char tensor[CKPT_MAX_NAME];
    char dataset[MAX_DATASET];
    int64_t ndim, shape[CKPT_MAX_DIM], offset[CKPT_MAX_DIM], count[CKPT_MAX_DIM];
    int64_t member;
};

static const struct h5_column columns[] = {
    { "tensor", H5_TEXT, CKPT_MAX_NAME, offsetof(struct row, tensor) },
    { "dataset", H5_TEXT, MAX_DATASET, offsetof(struct row, dataset) },
    { "ndim", H5_I64, 1, offsetof(struct row, ndim) },
    { "shape", H5_I64, CKPT_MAX_DIM, offsetof(struct row, shape) },
    { "offset", H5_I64, CKPT_MAX_DIM, offsetof(struct row, offset) },
    { "count", H5_I64, CKPT_MAX_DIM, offsetof(struct row, count) },
    { "member", H5_I64, 1, offsetof(struct row, member) },
};
enum { N_COLUMNS = sizeof columns / sizeof *columns };

struct rows {
    struct row *r;
    size_t n, cap;
};

/* ---- shapes and names ---- */

/* -1 when the product does not fit. */
static int64_t product(int64_t ndim, const int64_t *shape)
{
    int64_t n = 1;
    for (int64_t i = 0; i < ndim; i++)
        if (__builtin_mul_overflow(n, shape[i], &n))
            return -1;
    return n;
}

int64_t ckpt_elements(int ndim, const int64_t *shape)
{
    int64_t n = product(ndim, shape);
    if (n < 0)
        bug("a shape of more elements than 64 bits count");
    return n;
}

/* Names become paths in HDF5 files and are printed: plain characters, no empty or dotted steps. '%' has a
 * meaning in virtual datasets, '@' in members; other groups are the format's own. */
static bool is_name(const char *s)
{
    if (strlen(s) >= CKPT_MAX_NAME ||
        (strncmp(s, "model/", 6) != 0 && strncmp(s, "optim/", 6) != 0 && strncmp(s, "state/", 6) != 0))
        return false;
    for (const char *c = s; *c; c++) {
        if (!isalnum((unsigned char)*c) && !strchr("._-/:+", *c))
            return false;
        if ((c == s || c[-1] == '/') && (*c == '/' || *c == '.'))
            return false;
    }
    return s[strlen(s) - 1] != '/';
}

static int try_piece(const char *name, int64_t ndim, const int64_t *shape, const int64_t *offset,
                     const int64_t *count)
{
    if (!is_name(name))
        return err_set("'%.130s' is not a tensor's name", name);
    if (ndim < 1 || ndim > CKPT_MAX_DIM)
        return err_set("tensor '%s' has %lld dimensions", name, (long long)ndim);
    for (int64_t i = 0; i < ndim; i++)
        if (shape[i] < 1 || offset[i] < 0 || count[i] < 1 || offset[i] > shape[i] - count[i])
            return err_set("tensor '%s': a piece does not lie inside it", name);
    int64_t n = product(ndim, shape);
    if (n < 0 || n > INT64_MAX / (int64_t)sizeof(float))
        return err_set("tensor '%s' has more elements than fit", name);
    return 0;
}

/* By tensor, then place. */
static int row_order(const void *pa, const void *pb)
{
    const struct row *a = pa, *b = pb;
    int d = strcmp(a->tensor, b->tensor);
    for (int i = 0; d == 0 && i < CKPT_MAX_DIM; i++)
        d = (a->offset[i] > b->offset[i]) - (a->offset[i] < b->offset[i]);
    return d;
}

static bool overlap(const struct row *a, const struct row *b)
{
    for (int64_t i = 0; i < a->ndim; i++)
        if (a->offset[i] >= b->offset[i] + b->count[i] || b->offset[i] >= a->offset[i] + a->count[i])
            return false;
    return true;
}

/* Rows [0,n) are the sorted pieces of one tensor: no two share an element, and their elements are as many as
 * the tensor's, so every element is there once. */
static int try_coverage(const struct row *r, size_t n)
{
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        if (r[i].ndim != r[0].ndim || memcmp(r[i].shape, r[0].shape, sizeof r->shape) != 0)
            return err_set("tensor '%s' has two different shapes", r[0].tensor);
        for (size_t j = i + 1; j < n && r[j].offset[0] < r[i].offset[0] + r[i].count[0]; j++)
            if (overlap(&r[i], &r[j]))
                return err_set("tensor '%s': two pieces hold the same elements, from row %lld", r[0].tensor,
                               (long long)r[j].offset[0]);
        sum += product(r[i].ndim, r[i].count); /* no more than the tensor has, as they do not overlap */
    }
    int64_t all = product(r[0].ndim, r[0].shape);
    if (sum != all)
        return err_set("tensor '%s': the pieces hold %lld of its %lld elements", r[0].tensor, (long long)sum,
                       (long long)all);
    return 0;
}

/* Sorts the rows and checks all that can be wrong with them. */
static int try_rows(struct row *r, size_t n, int64_t members)
{
    for (size_t i = 0; i < n; i++) {
        if (try_piece(r[i].tensor, r[i].ndim, r[i].shape, r[i].offset, r[i].count) < 0)
            return -1;
        if (r[i].member < 0 || r[i].member >= members)
            return err_set("tensor '%s': a piece is in member %lld of %lld", r[i].tensor,
                           (long long)r[i].member, (long long)members);
        for (int64_t d = r[i].ndim; d < CKPT_MAX_DIM; d++)
            r[i].shape[d] = r[i].count[d] = 1, r[i].offset[d] = 0;
    }
    qsort(r, n, sizeof *r, row_order);
    for (size_t i = 0; i < n;) {
        size_t k = 1;
        while (i + k < n && strcmp(r[i].tensor, r[i + k].tensor) == 0)
            k++;
        if (try_coverage(r + i, k) < 0)
            return -1;
        i += k;
    }
    return 0;
}

/* ---- sharing rows ---- */

struct cut {
    int tensor;
    int64_t row;
};

/* The cut in front of part `part`. */
static struct cut cut_at(const struct ckpt_tensor *t, int n, int part, int parts)
{
    int64_t total = 0, begin = 0;
    for (int i = 0; i < n; i++)
        total += ckpt_elements(t[i].ndim, t[i].shape);
    int64_t at = total / parts * part + total % parts * part / parts; /* total*part/parts, without overflow */
    for (int i = 0; i < n; i++) {
        int64_t size = ckpt_elements(t[i].ndim, t[i].shape), width = size / t[i].shape[0];
        if (at < begin + size) {
            int64_t row = (at - begin) / width, rest = (at - begin) % width;
            return (struct cut){ i, row + (rest >= width - rest) };
        }
        begin += size;
    }
    return (struct cut){ n, 0 };
}

int ckpt_cut_rows(const struct ckpt_tensor *t, int n, int part, int parts, struct ckpt_piece *out)
{
    if (part < 0 || part >= parts)
        bug("part %d of %d", part, parts);
    struct cut a = cut_at(t, n, part, parts), b = cut_at(t, n, part + 1, parts);
    int used = 0;
    for (int i = a.tensor; i < n && i <= b.tensor; i++) {
        int64_t first = i == a.tensor ? a.row : 0, end = i == b.tensor ? b.row : t[i].shape[0];
        if (first >= end)
            continue;
        struct ckpt_piece *p = &out[used++];
        *p = (struct ckpt_piece){ .tensor = t[i] };
        memcpy(p->count, t[i].shape, sizeof p->count);
        p->offset[0] = first;
        p->count[0] = end - first;
    }
    return used;
}

/* ---- writing ---- */

struct ckpt_writer {
    char *dir, *name;
    struct out *out;
    struct h5 *file;
    struct rows rows;
    struct h5_data *data; /* of the open piece, or NULL */
    struct ckpt_piece piece;
    int64_t done; /* rows of it */
    int part;
};

struct ckpt_writer *ckpt_create_member(const char *dir, int part, int parts)
{
    struct ckpt_writer *w = xcalloc(1, sizeof *w);
    w->dir = xstrdup(dir);
    w->name = xasprintf("part-%05d-of-%05d.h5", part, parts);
    w->part = part;
    char *path = path_join(dir, w->name);
    w->out = out_open(path, true);
    w->file = h5_create(out_temp(w->out), path);
    free(path);
    return w;
}

static void end_piece(struct ckpt_writer *w)
{
    if (!w->data)
        return;
    if (w->done != w->piece.count[0])
        bug("'%s': %lld of %lld rows of '%s' are written", w->name, (long long)w->done,
            (long long)w->piece.count[0], w->piece.tensor.name);
    h5_end_data(w->data);
    w->data = NULL;
}

void ckpt_begin_piece(struct ckpt_writer *w, const struct ckpt_piece *p)
{
    const struct ckpt_tensor *t = &p->tensor;
    end_piece(w);
    if (try_piece(t->name, t->ndim, t->shape, p->offset, p->count) < 0)
        bug("%s", err_last());
    struct row *r = grow(&w->rows.r, &w->rows.n, &w->rows.cap, sizeof *r);
    *r = (struct row){ .ndim = t->ndim, .member = w->part };
    snprintf(r->tensor, sizeof r->tensor, "%s", t->name);
    snprintf(r->dataset, sizeof r->dataset, "/%s", t->name);
    for (int k = 1; h5_has(w->file, r->dataset); k++)
        snprintf(r->dataset, sizeof r->dataset, "/%s@%d", t->name, k);
    for (int i = 0; i < CKPT_MAX_DIM; i++) {
        r->shape[i] = i < t->ndim ? t->shape[i] : 1;
        r->offset[i] = i < t->ndim ? p->offset[i] : 0;
        r->count[i] = i < t->ndim ? p->count[i] : 1;
    }
    w->piece = *p;
    w->done = 0;
    w->data = h5_make_data(w->file, r->dataset, H5_F32, t->ndim, p->count);
}

void ckpt_put_rows(struct ckpt_writer *w, const float *data, int64_t rows)
{
    int64_t offset[CKPT_MAX_DIM] = { w->done }, count[CKPT_MAX_DIM];
    if (!w->data || rows < 0 || rows > w->piece.count[0] - w->done)
        bug("'%s': %lld rows too many for '%s'", w->name, (long long)rows, w->piece.tensor.name);
    memcpy(count, w->piece.count, sizeof count);
    count[0] = rows;
    h5_write(w->data, offset, count, data);
    w->done += rows;
}

void ckpt_commit_member(struct ckpt_writer *w, struct set_member *m)
{
    end_piece(w);
    h5_put_str(w->file, "/", "kind", KIND_FILE);
    h5_put_int(w->file, "/", "format", FORMAT);
    h5_put_table(w->file, "/pieces", columns, N_COLUMNS, w->rows.r, (int64_t)w->rows.n);
    h5_finish(w->file);
    out_commit(w->out);
    set_describe(w->dir, w->name, m);
    free(w->rows.r);
    free(w->dir);
    free(w->name);
    free(w);
}

void ckpt_write_member(const char *dir, int part, int parts, const struct ckpt_piece *pieces, int n,
                       struct set_member *m)
{
    struct ckpt_writer *w = ckpt_create_member(dir, part, parts);
    for (int i = 0; i < n; i++)
        if (product(pieces[i].tensor.ndim, pieces[i].count) != 0) {
            ckpt_begin_piece(w, &pieces[i]);
            ckpt_put_rows(w, pieces[i].data, pieces[i].count[0]);
        }
    ckpt_commit_member(w, m);
}

/* ---- the index ---- */

static int try_member_rows(const char *path, int member, struct rows *all)
{
    struct attrs as = { 0 };
    void *rows = NULL;
    int64_t n = 0;
    struct h5 *f = h5_try_open(path);
    int rc = f ? h5_try_attrs(f, "/", &as) : -1;
    if (rc == 0)
        rc = set_try_kind(&as, path, KIND_FILE, FORMAT);
    if (rc == 0)
        rc = h5_try_table(f, "/pieces", columns, N_COLUMNS, &rows, &n);
    for (int64_t i = 0; rc == 0 && i < n; i++) {
        struct row *r = grow(&all->r, &all->n, &all->cap, sizeof *r);
        *r = ((struct row *)rows)[i];
        r->member = member;
    }
    free(rows);
    attrs_free(&as);
    h5_close(f);
    return rc;
}

/* A virtual dataset of each tensor; rows are sorted. */
static void put_virtual(struct h5 *index, const struct rows *all, const struct set_member *members)
{
    struct h5_source *src = xcalloc(all->n, sizeof *src);
    for (size_t i = 0; i < all->n;) {
        const struct row *r = all->r + i;
        int k = 0;
        for (; i < all->n && strcmp(all->r[i].tensor, r->tensor) == 0; i++, k++) {
            src[k].file = members[all->r[i].member].name;
            src[k].dataset = all->r[i].dataset;
            memcpy(src[k].offset, all->r[i].offset, sizeof src->offset);
            memcpy(src[k].count, all->r[i].count, sizeof src->count);
        }
        char *path = xasprintf("/%s", r->tensor);
        h5_put_virtual(index, path, H5_F32, (int)r->ndim, r->shape, src, k);
        free(path);
    }
    free(src);
}

void ckpt_write_index(const char *dir, const struct set_member *members, int n, const struct attrs *config,
                      const struct attrs *state, const char *history, bool force)
{
    struct rows all = { 0 };
    if (set_try_members(dir, members, n) < 0)
        die("%s", err_last());
    for (int i = 0; i < n; i++) {
        char *path = path_join(dir, members[i].name);
        if (set_try_check(dir, &members[i], false) < 0 || try_member_rows(path, i, &all) < 0)
            die("%s", err_last());
        free(path);
    }
    if (try_rows(all.r, all.n, n) < 0)
        die("cannot make the checkpoint '%s': %s", dir, err_last());
    char *path = set_index_path(dir);
    struct out *o = out_open(path, force);
    struct h5 *index = h5_create(out_temp(o), path);
    set_put_head(index, KIND_SET, FORMAT, history ? history : "", members, n);
    h5_put_table(index, "/pieces", columns, N_COLUMNS, all.r, (int64_t)all.n);
    h5_put_group(index, "/config");
    h5_put_attrs(index, "/config", config);
    if (state) {
        h5_put_group(index, "/state");
        h5_put_attrs(index, "/state", state);
    }
    put_virtual(index, &all, members);
    h5_finish(index);
    out_commit(o);
    free(path);
    free(all.r);
}

/* ---- reading ---- */

struct source {
    int fd;       /* -1: not open */
    bool located; /* its pieces' places are known */
    int64_t last_use;
};

struct ckpt {
    char *dir, *history;
    struct attrs config, state;
    struct set_member *members;
    struct source *sources;
    int n_members, n_open;
    int64_t clock;
    struct row *rows; /* sorted by tensor */
    struct ckpt_piece *pieces;
    int64_t *places; /* of the pieces' data in their files */
    int n_pieces;
    struct ckpt_tensor *tensors;
    int *first; /* [n_tensors+1] a tensor's pieces */
    int n_tensors;
};

const char *ckpt_dir(const struct ckpt *c) { return c->dir; }
const struct attrs *ckpt_config(const struct ckpt *c) { return &c->config; }
const struct attrs *ckpt_state(const struct ckpt *c) { return &c->state; }
const char *ckpt_history(const struct ckpt *c) { return c->history; }
int ckpt_members(const struct ckpt *c) { return c->n_members; }
const struct set_member *ckpt_member(const struct ckpt *c, int i) { return &c->members[i]; }
int ckpt_tensors(const struct ckpt *c) { return c->n_tensors; }
const struct ckpt_tensor *ckpt_tensor(const struct ckpt *c, int i) { return &c->tensors[i]; }
int ckpt_pieces(const struct ckpt *c) { return c->n_pieces; }
const struct ckpt_piece *ckpt_piece(const struct ckpt *c, int i) { return &c->pieces[i]; }

int ckpt_find(const struct ckpt *c, const char *name)
{
    int lo = 0, hi = c->n_tensors;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2, d = strcmp(c->tensors[mid].name, name);
        if (d == 0)
            return mid;
        if (d < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return -1;
}

static void name_tensors(struct ckpt *c)
{
    int n = c->n_pieces;
    c->pieces = xcalloc((size_t)n, sizeof *c->pieces);
    c->places = xcalloc((size_t)n, sizeof *c->places);
    c->tensors = xcalloc((size_t)n, sizeof *c->tensors);
    c->first = xcalloc((size_t)n + 1, sizeof *c->first);
    for (int i = 0; i < n; i++) {
        const struct row *r = &c->rows[i];
        struct ckpt_piece *p = &c->pieces[i];
        memcpy(p->tensor.name, r->tensor, sizeof p->tensor.name);
        p->tensor.ndim = (int)r->ndim;
        memcpy(p->tensor.shape, r->shape, sizeof r->shape);
        memcpy(p->offset, r->offset, sizeof r->offset);
        memcpy(p->count, r->count, sizeof r->count);
        if (i == 0 || strcmp(r->tensor, r[-1].tensor) != 0) {
            c->first[c->n_tensors] = i;
            c->tensors[c->n_tensors++] = p->tensor;
        }
    }
    c->first[c->n_tensors] = n;
}

static int read_index(struct ckpt *c, struct h5 *index)
{
    void *rows = NULL;
    int64_t n = 0;
    if (h5_try_attrs(index, "/config", &c->config) < 0 ||
        (h5_has(index, "/state") && h5_try_attrs(index, "/state", &c->state) < 0) ||
        h5_try_table(index, "/pieces", columns, N_COLUMNS, &rows, &n) < 0)
        return -1;
    c->rows = rows;
    if (n > INT_MAX)
        return err_set("'%s' has %lld pieces", c->dir, (long long)n);
    if (try_rows(c->rows, (size_t)n, c->n_members) < 0)
        return err_set("the index of '%s': %s", c->dir, err_last());
    c->n_pieces = (int)n;
    name_tensors(c);
    for (int i = 0; i < c->n_members; i++)
        if (set_try_check(c->dir, &c->members[i], false) < 0)
            return -1;
    return 0;
}

struct ckpt *ckpt_try_open(const char *dir)
{
    struct ckpt *c = xcalloc(1, sizeof *c);
    c->dir = xstrdup(dir);
    struct h5 *index = set_try_open(dir, KIND_SET, FORMAT, &c->history, &c->members, &c->n_members);
    c->sources = xcalloc((size_t)c->n_members, sizeof *c->sources);
    for (int i = 0; i < c->n_members; i++)
        c->sources[i].fd = -1;
    int rc = index ? read_index(c, index) : -1;
    h5_close(index);
    if (rc < 0) {
        ckpt_close(c);
        return NULL;
    }
    return c;
}

void ckpt_close(struct ckpt *c)
{
    if (!c)
        return;
    for (int i = 0; i < c->n_members; i++)
        if (c->sources[i].fd >= 0)
            close(c->sources[i].fd);
    attrs_free(&c->config);
    attrs_free(&c->state);
    free(c->dir);
    free(c->history);
    free(c->members);
    free(c->sources);
    free(c->rows);
    free(c->pieces);
    free(c->places);
    free(c->tensors);
    free(c->first);
    free(c);
}

int ckpt_try_verify(const struct ckpt *c, int member)
{
    return set_try_check(c->dir, &c->members[member], true);
}

/* Learns where all pieces of a member lie. */
static int locate_pieces(struct ckpt *c, int member, const char *path)
{
    struct h5 *f = h5_try_open(path);
    int rc = f ? 0 : -1;
    for (int i = 0; rc == 0 && i < c->n_pieces; i++) {
        const struct row *r = &c->rows[i];
        int64_t shape[CKPT_MAX_DIM];
        if (r->member != member)
            continue;
        rc = h5_try_locate(f, r->dataset, H5_F32, (int)r->ndim, shape, &c->places[i]);
        if (rc == 0 && memcmp(shape, r->count, (size_t)r->ndim * sizeof *shape) != 0)
            rc = err_set("'%s': '%s' has another shape than the index says", path, r->dataset);
    }
    h5_close(f);
    return rc;
}

static void close_oldest(struct ckpt *c)
{
    int oldest = -1;
    for (int i = 0; i < c->n_members; i++)
        if (c->sources[i].fd >= 0 && (oldest < 0 || c->sources[i].last_use < c->sources[oldest].last_use))
            oldest = i;
    close(c->sources[oldest].fd);
    c->sources[oldest].fd = -1;
    c->n_open--;
}

static int use_member(struct ckpt *c, int member)
{
    struct source *s = &c->sources[member];
    s->last_use = ++c->clock;
    if (s->fd >= 0)
        return 0;
    if (c->n_open == OPEN_MAX)
        close_oldest(c);
    char *path = path_join(c->dir, c->members[member].name);
    int rc = s->located ? 0 : locate_pieces(c, member, path);
    if (rc == 0 && (s->fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
        rc = err_set("cannot open '%s': %s", path, strerror(errno));
    if (rc == 0) {
        s->located = true;
        c->n_open++;
    }
    free(path);
    return rc;
}

static int read_run(const struct ckpt *c, int member, int64_t at, void *out, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = pread(c->sources[member].fd, (char *)out + done, n - done, (off_t)(at + (int64_t)done));
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return err_set("cannot read '%s/%s': %s", c->dir, c->members[member].name,
                           k < 0 ? strerror(errno) : "the file ends too early");
        done += (size_t)k;
    }
    return 0;
}

/* Copies what a piece and the wanted slab have in common. `out` has the slab's shape. */
static int read_common(struct ckpt *c, int piece, const int64_t *offset, const int64_t *count, float *out)
{
    const struct row *r = &c->rows[piece];
    int64_t lo[CKPT_MAX_DIM], n[CKPT_MAX_DIM]; /* the common block, in the tensor */
    for (int d = 0; d < CKPT_MAX_DIM; d++) {
        int64_t a = offset[d] + count[d], b = r->offset[d] + r->count[d];
        lo[d] = offset[d] > r->offset[d] ? offset[d] : r->offset[d];
        n[d] = (a < b ? a : b) - lo[d];
        if (n[d] <= 0)
            return 0;
    }
    if (use_member(c, (int)r->member) < 0)
        return -1;
    int inner = CKPT_MAX_DIM - 1; /* dimensions behind it are whole on both sides: one run goes over them */
    while (inner > 0 && n[inner] == count[inner] && n[inner] == r->count[inner])
        inner--;
    int64_t run = product(CKPT_MAX_DIM - inner, n + inner), at[CKPT_MAX_DIM] = { 0 };
    for (;;) {
        int64_t from = 0, to = 0;
        for (int d = 0; d < CKPT_MAX_DIM; d++) {
            from = from * r->count[d] + lo[d] + at[d] - r->offset[d];
            to = to * count[d] + lo[d] + at[d] - offset[d];
        }
        if (read_run(c, (int)r->member, c->places[piece] + from * (int64_t)sizeof *out, out + to,
                     (size_t)run * sizeof *out) < 0)
            return -1;
        int d = inner - 1;
        while (d >= 0 && ++at[d] == n[d])
            at[d--] = 0;
        if (d < 0)
            return 0;
    }
}

int ckpt_try_read(struct ckpt *c, const char *name, const int64_t *offset, const int64_t *count, float *out)
{
    int i = ckpt_find(c, name);
    if (i < 0)
        return err_set("'%s' has no tensor '%s'", c->dir, name);
    const struct ckpt_tensor *t = &c->tensors[i];
    int64_t at[CKPT_MAX_DIM] = { 0 }, n[CKPT_MAX_DIM] = { 1, 1, 1, 1 };
    for (int d = 0; d < t->ndim; d++) {
        at[d] = offset[d];
        n[d] = count[d];
        if (at[d] < 0 || n[d] < 0 || at[d] > t->shape[d] || n[d] > t->shape[d] - at[d])
            return err_set("'%s': dimension %d of '%s' is %lld long; [%lld, +%lld) is not in it", c->dir, d,
                           name, (long long)t->shape[d], (long long)at[d], (long long)n[d]);
    }
    for (int p = c->first[i]; p < c->first[i + 1]; p++)
        if (read_common(c, p, at, n, out) < 0)
            return -1;
    return 0;
}
