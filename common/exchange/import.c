/* import.c - another program's model as one of ours
 * SPDX-License-Identifier: MIT
 */
#include "import.h"

#include <inttypes.h>
#include <stdio.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/out.h"
#include "family.h"

enum { BLOCK = 4 << 20, CONFIG_BYTES = 16 << 20 }; /* bytes of rows in memory, or one row; of a config.json */

struct origin {
    const struct foreign_tensor *t;
    struct place at;
};

struct import {
    const char *source; /* of the caller's; for messages */
    const struct family *family;
    struct archive *archive;
    struct json *json;
    char *pattern;
    struct config config;
    struct params ps;
    struct origin *origins; /* one a parameter */
    bool *used;             /* one a tensor of the archive */
};

static int64_t index_of(const struct archive *a, const char *name)
{
    int64_t lo = 0, hi = archive_tensors(a);
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        int d = strcmp(archive_tensor(a, mid)->name, name);
        if (d == 0)
            return mid;
        if (d < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return -1;
}

static void shape_text(char out[120], int ndim, const int64_t *shape)
{
    size_t len = 0;
    *out = '\0';
    for (int d = 0; d < ndim && len < 100; d++)
        len += (size_t)snprintf(out + len, 120 - len, "%s%" PRId64, d ? "x" : "", shape[d]);
    if (ndim == 0)
        snprintf(out, 120, "a scalar");
}

/* Their tensor of a place, if it is there, marked as used. */
static const struct foreign_tensor *take(struct import *im, const struct place *at)
{
    int64_t i = index_of(im->archive, at->name);
    if (i < 0)
        return NULL;
    im->used[i] = true;
    return archive_tensor(im->archive, i);
}

static int try_check(const struct import *im, const struct foreign_tensor *t, const struct place *at)
{
    char have[120], want[120];
    bool same = t->ndim == at->ndim && memcmp(t->shape, at->shape, (size_t)at->ndim * sizeof *at->shape) == 0;
    shape_text(have, t->ndim, t->shape);
    shape_text(want, at->ndim, at->shape);
    if (!same)
        return err_set("%s: '%s' is %s, by the configuration %s", im->source, t->name, have, want);
    if (t->dtype != FOREIGN_F32 && t->dtype != FOREIGN_BF16 && t->dtype != FOREIGN_F16)
        return err_set("%s: '%s' is of type %s, none of F32, BF16 and F16", im->source, t->name,
                       foreign_dtype_name(t->dtype));
    return 0;
}

static int try_find(struct import *im, size_t i)
{
    const struct param *p = &im->ps.p[i];
    struct origin *o = &im->origins[i];
    struct place first;
    for (int k = 0; family_place(im->family, &im->config, p, k, &o->at); k++) {
        if (k == 0)
            first = o->at;
        o->t = take(im, &o->at);
        if (o->t)
            return try_check(im, o->t, &o->at);
    }
    return err_set("%s: no tensor '%s'", im->source, first.name);
}

static int try_same(const struct import *im, const struct foreign_tensor *a, const struct foreign_tensor *b)
{
    int size = foreign_dtype_size(a->dtype);
    int64_t step = BLOCK / size;
    char *x = xmalloc(BLOCK), *y = xmalloc(BLOCK);
    int rc = 0;
    if (a->dtype != b->dtype)
        rc = err_set("%s: '%s' is of type %s and '%s' of %s, though they are tied", im->source, a->name,
                     foreign_dtype_name(a->dtype), b->name, foreign_dtype_name(b->dtype));
    for (int64_t at = 0; rc == 0 && at < a->elements; at += step) {
        int64_t n = a->elements - at < step ? a->elements - at : step;
        rc = archive_try_read_bytes(im->archive, a, at, n, x);
        if (rc == 0)
            rc = archive_try_read_bytes(im->archive, b, at, n, y);
        if (rc == 0 && memcmp(x, y, (size_t)(n * size)) != 0)
            rc = err_set("%s: '%s' differs from '%s', though the configuration ties them", im->source,
                         a->name, b->name);
    }
    free(x);
    free(y);
    return rc;
}

/* A head in the file of a tied model must be the embedding. */
static int try_tied(struct import *im)
{
    const struct param *table = &im->ps.p[0];
    struct param head = *table;
    struct place at;
    if (!im->config.tied)
        return 0;
    snprintf(head.name, sizeof head.name, "lm_head.weight");
    for (int k = 0; family_place(im->family, &im->config, &head, k, &at); k++) {
        const struct foreign_tensor *t = take(im, &at);
        if (t && (try_check(im, t, &at) < 0 || try_same(im, t, im->origins[0].t) < 0))
            return -1;
    }
    return 0;
}

static bool passed_over(const struct family *f, const char *name)
{
    size_t n = strlen(name);
    if (strncmp(name, f->prefix, strlen(f->prefix)) != 0)
        return true;
    for (const char *const *s = f->passed_over; *s; s++)
        if (n >= strlen(*s) && strcmp(name + n - strlen(*s), *s) == 0)
            return true;
    return false;
}

static int try_map(struct import *im)
{
    int64_t n = archive_tensors(im->archive);
    im->used = xcalloc((size_t)n + 1, sizeof *im->used);
    im->origins = xcalloc(im->ps.n, sizeof *im->origins);
    for (size_t i = 0; i < im->ps.n; i++)
        if (try_find(im, i) < 0)
            return -1;
    if (try_tied(im) < 0)
        return -1;
    for (int64_t i = 0; i < n; i++)
        if (!im->used[i] && !passed_over(im->family, archive_tensor(im->archive, i)->name))
            return err_set("%s: the model has no place for tensor '%s'", im->source,
                           archive_tensor(im->archive, i)->name);
    return 0;
}

static int try_config(struct import *im, const char *as, const char *ignore)
{
    bool megatron = as ? strcmp(as, "megatron") == 0 : archive_kind(im->archive) == ARCHIVE_MEGATRON;
    if (as && !(im->family = family_try_find(as)))
        return -1;
    if (megatron) {
        im->family = family_of_megatron(im->archive);
        if (family_try_read(im->family, NULL, im->archive, NULL, &im->config, &im->pattern) < 0)
            return err_set("%s: %s", im->source, err_last());
        return 0;
    }
    char *path = path_join(archive_dir(im->archive), "config.json");
    int rc = 0;
    im->json = json_try_file(path, CONFIG_BYTES);
    if (!im->json)
        rc = -1;
    else if ((!im->family && !(im->family = family_try_detect(im->json))) ||
             family_try_read(im->family, im->json, NULL, ignore, &im->config, &im->pattern) < 0)
        rc = err_set("%s: %s", path, err_last());
    free(path);
    return rc;
}

struct import *import_try_open(const char *source, const char *as, const char *ignore)
{
    struct archive *a = archive_try_open(source);
    if (!a)
        return NULL;
    struct import *im = xcalloc(1, sizeof *im);
    im->source = source;
    im->archive = a;
    int rc = try_config(im, as, ignore);
    if (rc == 0) {
        params_init(&im->ps, &im->config);
        rc = try_map(im);
    }
    if (rc == 0)
        return im;
    import_close(im);
    return NULL;
}

void import_close(struct import *im)
{
    if (!im)
        return;
    params_free(&im->ps);
    archive_close(im->archive);
    json_free(im->json);
    free(im->pattern);
    free(im->origins);
    free(im->used);
    free(im);
}

const char *import_family(const struct import *im) { return im->family->name; }
const struct config *import_config(const struct import *im) { return &im->config; }
const struct params *import_params(const struct import *im) { return &im->ps; }

enum ckpt_dtype import_dtype(const struct import *im, size_t i)
{
    enum foreign_dtype d = im->origins[i].t->dtype;
    return d == FOREIGN_F32 ? CKPT_F32 : d == FOREIGN_BF16 ? CKPT_BF16 : CKPT_F16;
}

/* Either is not NULL. */
static int try_rows(const struct import *im, size_t i, int64_t row, int64_t rows, float *f32, char *raw)
{
    const struct origin *o = &im->origins[i];
    int64_t width = im->ps.p[i].count / im->ps.p[i].shape[0], size = foreign_dtype_size(o->t->dtype);
    while (rows > 0) {
        int64_t run = row / o->at.run, in = row % o->at.run,
                n = o->at.run - in < rows ? o->at.run - in : rows;
        int64_t first = (o->at.base + run * o->at.stride + in) * width;
        if ((f32 ? archive_try_read_f32(im->archive, o->t, first, n * width, f32)
                 : archive_try_read_bytes(im->archive, o->t, first, n * width, raw)) < 0)
            return -1;
        f32 += f32 ? n * width : 0;
        raw += raw ? n * width * size : 0;
        row += n;
        rows -= n;
    }
    return 0;
}

int import_try_rows(const struct import *im, size_t i, int64_t first, int64_t rows, float *out)
{
    return try_rows(im, i, first, rows, out, NULL);
}

int import_try_raw_rows(const struct import *im, size_t i, int64_t first, int64_t rows, void *out)
{
    return try_rows(im, i, first, rows, NULL, out);
}

/* The rows of a block of parameter i. */
static int64_t block_rows(const struct param *p, size_t size)
{
    int64_t row = p->count / p->shape[0] * (int64_t)size;
    return row < BLOCK ? BLOCK / row : 1;
}

static void write_part(const struct import *im, const struct ckpt_tensor *list, const char *dir, int part,
                       int parts, struct progress *bar, int64_t *done, struct set_member *m)
{
    struct ckpt_piece *pieces = xcalloc(im->ps.n, sizeof *pieces);
    int n = ckpt_cut_rows(list, (int)im->ps.n, part, parts, pieces);
    struct ckpt_writer *w = ckpt_create_member(dir, part, parts);
    for (int k = 0; k < n; k++) {
        const struct param *p = params_find(&im->ps, pieces[k].tensor.name + strlen("model/"));
        size_t i = (size_t)(p - im->ps.p), size = ckpt_dtype_size(pieces[k].tensor.dtype);
        int64_t most = block_rows(p, size), row = pieces[k].offset[0], end = row + pieces[k].count[0];
        char *block = xmalloc((size_t)(most * (p->count / p->shape[0])) * size);
        ckpt_begin_piece(w, &pieces[k]);
        while (row < end) {
            int64_t rows = end - row < most ? end - row : most;
            if (import_try_raw_rows(im, i, row, rows, block) < 0)
                die("%s", err_last());
            ckpt_put_raw_rows(w, block, rows);
            row += rows;
            *done += rows * (p->count / p->shape[0]);
            progress_at(bar, *done, "elements");
        }
        free(block);
    }
    ckpt_commit_member(w, m);
    free(pieces);
}

void import_write(const struct import *im, const char *dir, int parts, const char *history, bool force)
{
    struct set_member *members = xcalloc((size_t)parts, sizeof *members);
    struct ckpt_tensor *list = xcalloc(im->ps.n, sizeof *list);
    struct attrs config = { 0 };
    struct progress bar;
    int64_t done = 0;
    for (size_t i = 0; i < im->ps.n; i++) {
        const struct param *p = &im->ps.p[i];
        list[i].ndim = p->ndim;
        list[i].dtype = import_dtype(im, i);
        memcpy(list[i].shape, p->shape, sizeof list[i].shape);
        snprintf(list[i].name, sizeof list[i].name, "model/%s", p->name);
    }
    set_prepare(dir, force);
    progress_begin(&bar, 0, im->ps.count, 10);
    for (int part = 0; part < parts; part++)
        write_part(im, list, dir, part, parts, &bar, &done, &members[part]);
    progress_end(&bar);
    config_to_attrs(&im->config, &config);
    ckpt_write_index(dir, members, parts, &config, NULL, history, force);
    attrs_free(&config);
    free(list);
    free(members);
}
