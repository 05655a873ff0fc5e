/* rewrite.c - a checkpoint written anew, in another layout or other types
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "rewrite.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blocks.h"
#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/out.h"
#include "common/model/param.h"

void rewrite_check_out(const struct rewrite *r, const struct ckpt *c)
{
    if (path_same(ckpt_dir(c), r->out))
        die("'%s' is both input and output", r->out);
    if (!r->force && set_exists(r->out))
        die("'%s' holds a set already; --force replaces it", r->out);
}

/* ---- types ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct param *)a)->name, ((const struct param *)b)->name);
}

void rewrite_cast(const struct ckpt *c, struct ckpt_tensor *t, int n, enum ckpt_dtype dtype)
{
    struct config config;
    struct params ps = { 0 };
    for (int i = 0; i < n; i++)
        if (is_model_tensor(&t[i]))
            t[i].dtype = dtype;
    if (dtype == CKPT_F32)
        return;
    if (config_try_from_attrs(&config, ckpt_config(c)) < 0)
        die("'%s' does not say what must stay fp32: %s", ckpt_dir(c), err_last());
    if (config.vocab < 1)
        die("'%s' does not say what must stay fp32: its model has no vocabulary", ckpt_dir(c));
    params_init(&ps, &config);
    qsort(ps.p, ps.n, sizeof *ps.p, by_name); /* this table is ours alone */
    for (int i = 0; i < n; i++) {
        if (!is_model_tensor(&t[i]))
            continue;
        struct param key;
        snprintf(key.name, sizeof key.name, "%s", t[i].name + strlen("model/"));
        const struct param *p = strlen(t[i].name) - strlen("model/") < sizeof key.name
                                    ? bsearch(&key, ps.p, ps.n, sizeof key, by_name)
                                    : NULL;
        if (!p)
            die("'%s' has a tensor '%s' that its model does not have", ckpt_dir(c), t[i].name);
        if (p->always_f32)
            t[i].dtype = CKPT_F32;
    }
    params_free(&ps);
}

/* ---- writing ---- */

static void print_plan(const struct ckpt_tensor *t, int n, int parts)
{
    struct ckpt_piece *pieces = xcalloc((size_t)n, sizeof *pieces);
    printf("#part\tpieces\telements\tbytes\n");
    for (int p = 0; p < parts; p++) {
        int64_t elements = 0, bytes = 0;
        int k = ckpt_cut_rows(t, n, p, parts, pieces);
        for (int i = 0; i < k; i++) {
            int64_t here = ckpt_elements(pieces[i].tensor.ndim, pieces[i].count);
            elements += here;
            bytes += here * (int64_t)ckpt_dtype_size(pieces[i].tensor.dtype);
        }
        printf("%d\t%d\t%" PRId64 "\t%" PRId64 "\n", p, k, elements, bytes);
    }
    free(pieces);
}

void rewrite_tensors(const struct rewrite *r, const struct ckpt_tensor *t, int n, const struct attrs *config,
                     const struct attrs *state, const char *history,
                     void (*put)(void *arg, struct ckpt_writer *w, const struct ckpt_tensor *t,
                                 const struct block *b),
                     void *arg)
{
    if (r->dry_run) {
        print_plan(t, n, r->parts);
        return;
    }
    struct set_member *members = xcalloc((size_t)r->parts, sizeof *members);
    struct ckpt_piece *pieces = xcalloc((size_t)n, sizeof *pieces);
    struct progress bar;
    int64_t total = 0, done = 0;
    for (int i = 0; i < n; i++)
        total += ckpt_elements(t[i].ndim, t[i].shape);
    set_prepare(r->out, r->force);
    progress_begin(&bar, 0, total, 10);
    for (int part = 0; part < r->parts; part++) {
        int k = ckpt_cut_rows(t, n, part, r->parts, pieces);
        struct ckpt_writer *w = ckpt_create_member(r->out, part, r->parts);
        for (const struct ckpt_piece *p = pieces; p < pieces + k; p++) {
            ckpt_begin_piece(w, p);
            for (struct block b = block_begin(&p->tensor, p->offset[0], p->offset[0] + p->count[0]);
                 block_next(&b);) {
                put(arg, w, &p->tensor, &b);
                done += block_elements(&b);
                progress_at(&bar, done, "elements");
            }
        }
        ckpt_commit_member(w, &members[part]);
    }
    progress_end(&bar);
    ckpt_write_index(r->out, members, r->parts, config, state, history, r->force);
    free(pieces);
    free(members);
}

/* ---- one checkpoint ---- */

#define EMA "optim/ema/" /* the group of the running mean */

struct copy {
    struct ckpt *c;
    bool ema;
    void *block;
};

static void put_copy(void *arg, struct ckpt_writer *w, const struct ckpt_tensor *t, const struct block *b)
{
    struct copy *copy = arg;
    struct ckpt_tensor from = *t; /* as it is called there */
    if (copy->ema)
        snprintf(from.name, sizeof from.name, EMA "%s", t->name + strlen("model/"));
    if (ckpt_tensor(copy->c, ckpt_find(copy->c, from.name))->dtype == t->dtype) {
        if (ckpt_try_read_raw(copy->c, from.name, b->offset, b->count, copy->block) < 0)
            die("%s", err_last());
        ckpt_put_raw_rows(w, copy->block, b->count[0]);
    } else {
        block_read(copy->c, &from, b, copy->block);
        ckpt_put_rows(w, copy->block, b->count[0]);
    }
}

/* The tensors to write, as they will be; free it. */
static struct ckpt_tensor *wanted_tensors(const struct ckpt *c, const struct rewrite *r, int *n)
{
    struct ckpt_tensor *t = xcalloc((size_t)ckpt_tensors(c), sizeof *t);
    const char *other = NULL;
    bool cast = false;
    *n = 0;
    for (int i = 0; i < ckpt_tensors(c); i++) {
        const struct ckpt_tensor *have = ckpt_tensor(c, i);
        bool mean = r->ema && strncmp(have->name, EMA, strlen(EMA)) == 0;
        if (mean || (!r->ema && (!r->drop_optimizer || is_model_tensor(have))))
            t[(*n)++] = *have;
        if (mean)
            snprintf(t[*n - 1].name, sizeof t->name, "model/%s", have->name + strlen(EMA));
    }
    if (*n == 0 && r->ema)
        die("'%s' holds no running mean of the weights (ssmtrain --ema)", ckpt_dir(c));
    if (*n == 0)
        die("'%s' holds no tensor to write", ckpt_dir(c));
    if (r->dtype == DTYPE_STORED)
        return t;
    rewrite_cast(c, t, *n, (enum ckpt_dtype)r->dtype);
    for (int i = 0; i < *n; i++) {
        cast |= r->ema || t[i].dtype != ckpt_tensor(c, ckpt_find(c, t[i].name))->dtype;
        if (!is_model_tensor(&t[i]))
            other = t[i].name;
    }
    if (cast && other)
        die("'%s' has '%s': a run goes on from the weights that it left, so --dtype %s needs "
            "--drop-optimizer",
            ckpt_dir(c), other, ckpt_dtype_name((enum ckpt_dtype)r->dtype));
    return t;
}

void rewrite_ckpt(struct ckpt *c, const struct rewrite *r)
{
    rewrite_check_out(r, c);
    int n;
    struct ckpt_tensor *t = wanted_tensors(c, r, &n);
    const char *before = ckpt_history(c);
    char *now = meter_history(), *history = xasprintf("%s%s%s", before, *before ? "\n" : "", now);
    free(now);
    bool state = !r->drop_optimizer && ckpt_state(c)->n > 0;
    struct copy copy = { c, r->ema, block_buffer(c, sizeof(float)) };
    rewrite_tensors(r, t, n, ckpt_config(c), state ? ckpt_state(c) : NULL, history, put_copy, &copy);
    free(copy.block);
    free(history);
    free(t);
}
