/* export.c - a model of ours as another program's
 * SPDX-License-Identifier: MIT
 */
#include "export.h"

#include <stdio.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/out.h"
#include "common/io/safetensors.h"
#include "family.h"

enum { BLOCK = 4 << 20 }; /* bytes of rows in memory, or one row */

struct export
{
    struct ckpt *ckpt;
    struct export_options o;
    const struct family *family;
    struct config config;
    struct params ps;
    struct json *json;
    size_t n; /* tensors: the parameters, and the head again where it is tied but must be there */
    struct foreign_tensor *list;
};

static enum foreign_dtype stored(enum ckpt_dtype d)
{
    return d == CKPT_F32 ? FOREIGN_F32 : d == CKPT_BF16 ? FOREIGN_BF16 : FOREIGN_F16;
}

static enum foreign_dtype written(const struct export *e, const struct param *p, enum ckpt_dtype have)
{
    if (e->o.dtype == EXPORT_STORED)
        return stored(have);
    if (p->always_f32 || e->o.dtype == EXPORT_F32)
        return FOREIGN_F32;
    return e->o.dtype == EXPORT_BF16 ? FOREIGN_BF16 : FOREIGN_F16;
}

static const struct param *param_of(const struct export *e, size_t i)
{
    return &e->ps.p[i < e->ps.n ? i : 0];
}

static const struct ckpt_tensor *source_of(const struct export *e, const struct param *p)
{
    char name[CKPT_MAX_NAME];
    snprintf(name, sizeof name, "model/%s", p->name);
    int at = ckpt_find(e->ckpt, name);
    return at < 0 ? NULL : ckpt_tensor(e->ckpt, at);
}

static int try_tensor(struct export *e, size_t i)
{
    const struct param *p = param_of(e, i);
    const struct ckpt_tensor *have = source_of(e, p);
    struct param named = *p;
    struct place at;
    if (!have)
        return err_set("no tensor 'model/%s'", p->name);
    if (have->ndim != p->ndim || memcmp(have->shape, p->shape, (size_t)p->ndim * sizeof *p->shape) != 0)
        return err_set("tensor 'model/%s' has another shape than its configuration says", p->name);
    if (i == e->ps.n)
        snprintf(named.name, sizeof named.name, "lm_head.weight");
    family_place(e->family, &e->config, &named, 0, &at);
    struct foreign_tensor *t = &e->list[i];
    t->name = xstrdup(at.name);
    t->dtype = written(e, p, have->dtype);
    t->ndim = p->ndim;
    memcpy(t->shape, p->shape, (size_t)p->ndim * sizeof *p->shape);
    return foreign_try_size(t);
}

static int try_open(struct export *e)
{
    int of_model = 0;
    if (config_try_from_attrs(&e->config, ckpt_config(e->ckpt)) < 0)
        return -1;
    if (e->config.vocab < 1)
        return err_set("does not say how large its vocabulary is");
    e->family = e->o.to ? family_try_find(e->o.to) : family_try_choose(&e->config);
    if (!e->family || !(e->json = family_try_write(e->family, &e->config)))
        return -1;
    params_init(&e->ps, &e->config);
    e->n = e->ps.n + (e->config.tied && e->family->head_always);
    e->list = xcalloc(e->n, sizeof *e->list);
    for (size_t i = 0; i < e->n; i++)
        if (try_tensor(e, i) < 0)
            return -1;
    for (int i = 0; i < ckpt_tensors(e->ckpt); i++) {
        const char *name = ckpt_tensor(e->ckpt, i)->name;
        of_model += strncmp(name, "model/", 6) == 0;
        if (strncmp(name, "model/", 6) == 0 && (size_t)of_model > e->ps.n && !params_find(&e->ps, name + 6))
            return err_set("tensor '%s' is not of the model", name);
    }
    if ((size_t)of_model > e->ps.n)
        return err_set("has tensors that are not of the model");
    if (!e->family->untyped) { /* what a loader that is told nothing makes of it */
        static const char *const names[] = { "float64", "float32", "float16", "bfloat16" };
        json_put_str(e->json, "torch_dtype", names[e->list[0].dtype]);
    }
    return 0;
}

struct export *export_try_open(struct ckpt *c, const struct export_options *o)
{
    struct export *e = xcalloc(1, sizeof *e);
    e->ckpt = c;
    e->o = *o;
    if (try_open(e) == 0)
        return e;
    err_set("%s: %s", ckpt_dir(c), err_last());
    export_close(e);
    return NULL;
}

void export_close(struct export *e)
{
    if (!e)
        return;
    for (size_t i = 0; i < e->n && e->list; i++)
        free(e->list[i].name);
    free(e->list);
    params_free(&e->ps);
    json_free(e->json);
    free(e);
}

const char *export_family(const struct export *e) { return e->family->name; }

static void write_tensor(struct export *e, struct safetensors_writer *w, size_t i, struct progress *bar,
                         int64_t *done)
{
    const struct param *p = param_of(e, i);
    const struct ckpt_tensor *t = source_of(e, p);
    bool raw = e->list[i].dtype == stored(t->dtype);
    int64_t width = p->count / p->shape[0], size = raw ? (int64_t)ckpt_dtype_size(t->dtype) : 4;
    int64_t most = width * size < BLOCK ? BLOCK / (width * size) : 1;
    int64_t offset[CKPT_MAX_DIM] = { 0 }, count[CKPT_MAX_DIM];
    void *block = xmalloc((size_t)(most * width * size));
    memcpy(count, t->shape, sizeof count);
    for (; offset[0] < p->shape[0]; offset[0] += count[0]) {
        count[0] = p->shape[0] - offset[0] < most ? p->shape[0] - offset[0] : most;
        if ((raw ? ckpt_try_read_raw(e->ckpt, t->name, offset, count, block)
                 : ckpt_try_read(e->ckpt, t->name, offset, count, block)) < 0)
            die("%s", err_last());
        if (raw)
            safetensors_put_raw(w, block, count[0] * width);
        else
            safetensors_put_f32(w, block, count[0] * width);
        *done += count[0] * width;
        progress_at(bar, *done, "elements");
    }
    free(block);
}

void export_write(struct export *e, const char *dir)
{
    struct progress bar;
    int64_t done = 0, total = 0;
    char *path = path_join(dir, "config.json");
    for (size_t i = 0; i < e->n; i++)
        total += e->list[i].elements;
    if (!e->o.force && path_exists(path))
        die("'%s' is there already; --force replaces it", path);
    out_make_dirs(dir);
    struct safetensors_writer *w = safetensors_create(dir, e->list, e->n, e->o.shard_bytes, e->o.force);
    progress_begin(&bar, 0, total, 10);
    for (size_t i = 0; i < e->n; i++)
        write_tensor(e, w, i, &bar, &done);
    progress_end(&bar);
    json_write(path, e->json, JSON_PRETTY, e->o.force);
    safetensors_commit(w);
    free(path);
}
