/* ckpt_read.c - slabs of the tensors of a checkpoint
 * SPDX-License-Identifier: MIT
 *
 * A member is opened by HDF5 once, to learn where each of its pieces lies; from then on its bytes are read by
 * pread into the caller's memory, in the longest runs that piece and slab have in common. Elements of 16 bits pass
 * through a block on their way to fp32.
 */
#include "ckpt_private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/half.h"
#include "common/base/mem.h"
#include "common/base/out.h"

enum { OPEN_MAX = 64, OPEN_ALL = 512, HALF_BLOCK = 32 << 10 }; /* files open: of one checkpoint, of all; elements */

static _Atomic int n_ckpts; /* that are open */

static int most_open(void)
{
    int n = n_ckpts;
    return n * OPEN_MAX <= OPEN_ALL ? OPEN_MAX : n < OPEN_ALL ? OPEN_ALL / n : 1;
}

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
    struct ckpt_row *rows; /* sorted by tensor */
    struct ckpt_piece *pieces;
    int64_t *places; /* of the pieces' data in their files */
    int n_pieces;
    struct ckpt_tensor *tensors;
    int *first; /* [n_tensors+1] a tensor's pieces */
    int n_tensors;
    uint16_t *half; /* [HALF_BLOCK], when needed */
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

static int by_name(const void *name, const void *tensor)
{
    return strcmp(name, ((const struct ckpt_tensor *)tensor)->name);
}

int ckpt_find(const struct ckpt *c, const char *name)
{
    const struct ckpt_tensor *t = c->tensors;
    t = bsearch(name, t, (size_t)c->n_tensors, sizeof *t, by_name);
    return t ? (int)(t - c->tensors) : -1;
}

static void name_tensors(struct ckpt *c)
{
    int n = c->n_pieces;
    c->pieces = xcalloc((size_t)n, sizeof *c->pieces);
    c->places = xcalloc((size_t)n, sizeof *c->places);
    c->tensors = xcalloc((size_t)n, sizeof *c->tensors);
    c->first = xcalloc((size_t)n + 1, sizeof *c->first);
    for (int i = 0; i < n; i++) {
        const struct ckpt_row *r = &c->rows[i];
        struct ckpt_piece *p = &c->pieces[i];
        memcpy(p->tensor.name, r->tensor, sizeof p->tensor.name);
        p->tensor.ndim = (int)r->ndim;
        memcpy(p->tensor.shape, r->shape, sizeof r->shape);
        p->tensor.dtype = (enum ckpt_dtype)r->dtype;
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
    struct attrs root = { 0 };
    int64_t n = 0;
    int rc = h5_try_attrs(index, "/", &root);
    if (rc == 0)
        rc = h5_try_attrs(index, "/config", &c->config);
    if (rc == 0 && h5_has(index, "/state"))
        rc = h5_try_attrs(index, "/state", &c->state);
    if (rc == 0)
        rc = ckpt_try_table(index, &root, &c->rows, &n);
    attrs_free(&root);
    if (rc < 0)
        return -1;
    if (n > INT_MAX)
        return err_set("'%s' has %lld pieces", c->dir, (long long)n);
    if (ckpt_try_rows(c->rows, (size_t)n, c->n_members) < 0)
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
    n_ckpts++;
    c->dir = xstrdup(dir);
    struct h5 *index = set_try_open(dir, CKPT_KIND_SET, CKPT_FORMAT, &c->history, &c->members, &c->n_members);
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
    n_ckpts--;
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
    free(c->half);
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
        const struct ckpt_row *r = &c->rows[i];
        int64_t shape[CKPT_MAX_DIM];
        if (r->member != member)
            continue;
        rc = h5_try_locate(f, r->dataset, ckpt_h5_type((enum ckpt_dtype)r->dtype), (int)r->ndim, shape,
                           &c->places[i]);
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
    for (int most = most_open(); c->n_open >= most;)
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

static int read_bytes(const struct ckpt *c, int member, int64_t at, void *out, size_t n)
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

/* n elements of a piece from element `from` on: as fp32, or, `raw`, as they are. */
static int read_run(struct ckpt *c, int piece, int64_t from, void *out, int64_t n, bool raw)
{
    enum ckpt_dtype dtype = (enum ckpt_dtype)c->rows[piece].dtype;
    int64_t size = (int64_t)ckpt_dtype_size(dtype), at = c->places[piece] + from * size;
    int member = (int)c->rows[piece].member;
    if (raw || dtype == CKPT_F32)
        return read_bytes(c, member, at, out, (size_t)(n * size));
    if (!c->half)
        c->half = xcalloc(HALF_BLOCK, sizeof *c->half);
    for (int64_t done = 0; done < n; done += HALF_BLOCK) {
        int64_t k = n - done < HALF_BLOCK ? n - done : HALF_BLOCK;
        if (read_bytes(c, member, at + done * size, c->half, (size_t)(k * size)) < 0)
            return -1;
        (dtype == CKPT_F16 ? half_from_f16 : half_from_bf16)(c->half, k, (float *)out + done);
    }
    return 0;
}

/* Copies what a piece and the wanted slab have in common. `out` has the slab's shape. */
static int read_common(struct ckpt *c, int piece, const int64_t *offset, const int64_t *count, void *out,
                       bool raw)
{
    const struct ckpt_row *r = &c->rows[piece];
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
    int64_t size = raw ? (int64_t)ckpt_dtype_size((enum ckpt_dtype)r->dtype) : (int64_t)sizeof(float);
    int inner = CKPT_MAX_DIM - 1; /* dimensions behind it are whole on both sides: one run goes over them */
    while (inner > 0 && n[inner] == count[inner] && n[inner] == r->count[inner])
        inner--;
    int64_t run = ckpt_product(CKPT_MAX_DIM - inner, n + inner), at[CKPT_MAX_DIM] = { 0 };
    for (;;) {
        int64_t from = 0, to = 0;
        for (int d = 0; d < CKPT_MAX_DIM; d++) {
            from = from * r->count[d] + lo[d] + at[d] - r->offset[d];
            to = to * count[d] + lo[d] + at[d] - offset[d];
        }
        if (read_run(c, piece, from, (char *)out + to * size, run, raw) < 0)
            return -1;
        int d = inner - 1;
        while (d >= 0 && ++at[d] == n[d])
            at[d--] = 0;
        if (d < 0)
            return 0;
    }
}

static int try_read(struct ckpt *c, const char *name, const int64_t *offset, const int64_t *count, void *out,
                    bool raw)
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
        if (read_common(c, p, at, n, out, raw) < 0)
            return -1;
    return 0;
}

int ckpt_try_read(struct ckpt *c, const char *name, const int64_t *offset, const int64_t *count, float *out)
{
    return try_read(c, name, offset, count, out, false);
}

int ckpt_try_read_raw(struct ckpt *c, const char *name, const int64_t *offset, const int64_t *count,
                      void *out)
{
    return try_read(c, name, offset, count, out, true);
}
