/* ckpt_write.c - members of checkpoints, and the index over them
 * SPDX-License-Identifier: MIT
 */
#include "ckpt_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/half.h"
#include "common/base/mem.h"
#include "common/base/out.h"

enum { HALF_BLOCK = 32 << 10 }; /* elements that are rounded at a time, or a row */

struct rows {
    struct ckpt_row *r;
    size_t n, cap;
};

bool ckpt_may_thread(void) { return h5_is_threadsafe(); }

/* ---- members ---- */

struct ckpt_writer {
    char *dir, *name;
    struct out *out;
    struct h5 *file;
    struct rows rows;
    struct h5_data *data; /* of the open piece, or NULL */
    struct ckpt_piece piece;
    int64_t done; /* rows of it */
    int part;
    uint16_t *half; /* a block of rows on its way to 16 bits */
    int64_t half_room;
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
    if (ckpt_try_piece(t->name, t->ndim, t->shape, p->offset, p->count) < 0)
        bug("%s", err_last());
    if ((int)t->dtype < 0 || t->dtype >= CKPT_DTYPES)
        bug("tensor '%s' has elements of type %d", t->name, (int)t->dtype);
    struct ckpt_row *r = grow(&w->rows.r, &w->rows.n, &w->rows.cap, sizeof *r);
    *r = (struct ckpt_row){ .ndim = t->ndim, .member = w->part, .dtype = t->dtype };
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
    w->data = h5_make_data(w->file, r->dataset, ckpt_h5_type(t->dtype), t->ndim, p->count);
}

void ckpt_put_raw_rows(struct ckpt_writer *w, const void *data, int64_t rows)
{
    int64_t offset[CKPT_MAX_DIM] = { w->done }, count[CKPT_MAX_DIM];
    if (!w->data || rows < 0 || rows > w->piece.count[0] - w->done)
        bug("'%s': %lld rows too many for '%s'", w->name, (long long)rows, w->piece.tensor.name);
    memcpy(count, w->piece.count, sizeof count);
    count[0] = rows;
    h5_write(w->data, offset, count, data);
    w->done += rows;
}

void ckpt_put_rows(struct ckpt_writer *w, const float *data, int64_t rows)
{
    enum ckpt_dtype dtype = w->piece.tensor.dtype;
    if (dtype == CKPT_F32 || !w->data) {
        ckpt_put_raw_rows(w, data, rows);
        return;
    }
    int64_t width = ckpt_product(w->piece.tensor.ndim, w->piece.count) / w->piece.count[0];
    int64_t step = width < HALF_BLOCK ? HALF_BLOCK / width : 1;
    if (w->half_room < step * width) {
        w->half_room = step * width;
        w->half = xrealloc(w->half, mul_size((size_t)w->half_room, sizeof *w->half, "block of rows"));
    }
    for (int64_t done = 0; done < rows; done += step) {
        int64_t k = rows - done < step ? rows - done : step;
        const float *from = data + done * width;
        int64_t bad = (dtype == CKPT_F16 ? half_to_f16 : half_to_bf16)(from, k * width, w->half);
        if (bad >= 0)
            die("tensor '%s': %.9g does not fit %s", w->piece.tensor.name, (double)from[bad],
                ckpt_dtype_name(dtype));
        ckpt_put_raw_rows(w, w->half, k);
    }
}

void ckpt_commit_member(struct ckpt_writer *w, struct set_member *m)
{
    end_piece(w);
    h5_put_str(w->file, "/", "kind", CKPT_KIND_FILE);
    h5_put_int(w->file, "/", "format", CKPT_FORMAT);
    h5_put_table(w->file, "/pieces", ckpt_columns, CKPT_COLUMNS, w->rows.r, (int64_t)w->rows.n);
    h5_finish(w->file);
    out_commit(w->out);
    set_describe(w->dir, w->name, m);
    free(w->rows.r);
    free(w->half);
    free(w->dir);
    free(w->name);
    free(w);
}

void ckpt_write_member(const char *dir, int part, int parts, const struct ckpt_piece *pieces, int n,
                       struct set_member *m)
{
    struct ckpt_writer *w = ckpt_create_member(dir, part, parts);
    for (int i = 0; i < n; i++)
        if (ckpt_product(pieces[i].tensor.ndim, pieces[i].count) != 0) {
            ckpt_begin_piece(w, &pieces[i]);
            ckpt_put_rows(w, pieces[i].data, pieces[i].count[0]);
        }
    ckpt_commit_member(w, m);
}

/* ---- the index ---- */

static int try_member_rows(const char *path, int member, struct rows *all)
{
    struct attrs as = { 0 };
    struct ckpt_row *rows = NULL;
    int64_t n = 0;
    struct h5 *f = h5_try_open(path);
    int rc = f ? h5_try_attrs(f, "/", &as) : -1;
    if (rc == 0)
        rc = set_try_kind(&as, path, CKPT_KIND_FILE, CKPT_FORMAT);
    if (rc == 0)
        rc = ckpt_try_table(f, &as, &rows, &n);
    for (int64_t i = 0; rc == 0 && i < n; i++) {
        struct ckpt_row *r = grow(&all->r, &all->n, &all->cap, sizeof *r);
        *r = rows[i];
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
        const struct ckpt_row *r = all->r + i;
        int k = 0;
        for (; i < all->n && strcmp(all->r[i].tensor, r->tensor) == 0; i++, k++) {
            src[k].file = members[all->r[i].member].name;
            src[k].dataset = all->r[i].dataset;
            memcpy(src[k].offset, all->r[i].offset, sizeof src->offset);
            memcpy(src[k].count, all->r[i].count, sizeof src->count);
        }
        char *path = xasprintf("/%s", r->tensor);
        h5_put_virtual(index, path, ckpt_h5_type((enum ckpt_dtype)r->dtype), (int)r->ndim, r->shape, src, k);
        free(path);
    }
    free(src);
}

struct out *ckpt_make_index(const char *dir, const struct set_member *members, int n, const struct attrs *config,
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
    if (ckpt_try_rows(all.r, all.n, n) < 0)
        die("cannot make the checkpoint '%s': %s", dir, err_last());
    char *path = set_index_path(dir);
    struct out *o = out_open(path, force);
    struct h5 *index = h5_create(out_temp(o), path);
    set_put_head(index, CKPT_KIND_SET, CKPT_FORMAT, history ? history : "", members, n);
    h5_put_table(index, "/pieces", ckpt_columns, CKPT_COLUMNS, all.r, (int64_t)all.n);
    h5_put_group(index, "/config");
    h5_put_attrs(index, "/config", config);
    if (state) {
        h5_put_group(index, "/state");
        h5_put_attrs(index, "/state", state);
    }
    put_virtual(index, &all, members);
    h5_finish(index);
    free(path);
    free(all.r);
    return o;
}

void ckpt_write_index(const char *dir, const struct set_member *members, int n, const struct attrs *config,
                      const struct attrs *state, const char *history, bool force)
{
    out_commit(ckpt_make_index(dir, members, n, config, state, history, force));
}
