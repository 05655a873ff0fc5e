/* average.c - the mean of several checkpoints of one model
 * SPDX-License-Identifier: MIT
 *
 * As in Izmailov et al. 2018, "Averaging weights leads to wider optima and better generalization", and in model soups
 * (Wortsman et al. 2022).
 */
#define _GNU_SOURCE
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "blocks.h"
#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/opt.h"
#include "common/model/config.h"
#include "look.h"
#include "rewrite.h"

/* ---- may they be averaged? ---- */

/* The configuration with the defaults of what an older version did not write; as it is, where it is no model's. */
static struct attrs whole_config(const struct ckpt *c)
{
    struct config config;
    struct attrs as = { 0 };
    if (config_try_from_attrs(&config, ckpt_config(c)) == 0) {
        config_to_attrs(&config, &as);
        return as;
    }
    for (size_t i = 0; i < ckpt_config(c)->n; i++) {
        const struct attr *a = &ckpt_config(c)->a[i];
        if (a->kind == ATTR_INT)
            attrs_set_int(&as, a->name, a->i);
        else if (a->kind == ATTR_REAL)
            attrs_set_real(&as, a->name, a->r);
        else
            attrs_set_str(&as, a->name, a->s);
    }
    return as;
}

static void tell_attr(void *arg, const struct attr *a, const struct attr *b)
{
    struct buf *text = arg;
    buf_addf(text, "%s%s ", text->len ? ", " : "", (a ? a : b)->name);
    attr_format(a, text);
    buf_addf(text, " / ");
    attr_format(b, text);
}

/* Dies where b is not the same model as a; both hold their tensors by name. */
static void check_same(const struct ckpt *a, const struct ckpt *b)
{
    struct attrs ca = whole_config(a), cb = whole_config(b);
    struct buf text = { 0 };
    attrs_differ(&ca, &cb, tell_attr, &text);
    if (text.len)
        die("'%s' and '%s' are different models: %s", ckpt_dir(a), ckpt_dir(b), text.data);
    for (int turn = 0; turn < 2; turn++) {
        const struct ckpt *x = turn ? b : a, *y = turn ? a : b;
        for (int i = 0; i < ckpt_tensors(x); i++) {
            const struct ckpt_tensor *t = ckpt_tensor(x, i);
            int at = is_model_tensor(t) ? ckpt_find(y, t->name) : i;
            if (at < 0)
                die("'%s' has no tensor '%s', which '%s' has", ckpt_dir(y), t->name, ckpt_dir(x));
            if (is_model_tensor(t) && !same_shape(t, ckpt_tensor(y, at)))
                die("tensor '%s' has another shape in '%s' than in '%s'", t->name, ckpt_dir(y), ckpt_dir(x));
        }
    }
    buf_free(&text);
    attrs_free(&ca);
    attrs_free(&cb);
}

/* ---- the mean ---- */

struct mean {
    struct ckpt **c;
    const double *weights;
    double total; /* of the weights */
    int n;
    double *sum; /* a block */
    float *x;    /* a block */
};

static void put_mean(void *arg, struct ckpt_writer *w, const struct ckpt_tensor *t, const struct block *b)
{
    struct mean *m = arg;
    int64_t n = block_elements(b);
    memset(m->sum, 0, (size_t)n * sizeof *m->sum);
    for (int k = 0; k < m->n; k++) {
        block_read(m->c[k], t, b, m->x);
        for (int64_t i = 0; i < n; i++) {
            m->sum[i] += m->weights[k] * (double)m->x[i];
            if (!isfinite(m->x[i]))
                die("'%s': tensor '%s' holds %g, which has no mean with anything", ckpt_dir(m->c[k]), t->name,
                    (double)m->x[i]);
        }
    }
    for (int64_t i = 0; i < n; i++)
        m->x[i] = (float)(m->sum[i] / m->total);
    ckpt_put_rows(w, m->x, b->count[0]);
}

/* A line for each source, its own history below it, and this program's line. */
static void tell_history(const struct mean *m, struct buf *text)
{
    for (int k = 0; k < m->n; k++) {
        int64_t step;
        buf_addf(text, "source %d of %d, weight ", k + 1, m->n);
        format_real(m->weights[k], text);
        buf_addf(text, ", '%s'", ckpt_dir(m->c[k]));
        if (attrs_find(ckpt_state(m->c[k]), "step") && attrs_try_int(ckpt_state(m->c[k]), "step", &step) == 0)
            buf_addf(text, ", step %lld", (long long)step);
        const char *line = ckpt_history(m->c[k]);
        buf_addf(text, "\n");
        while (*line) {
            int len = (int)strcspn(line, "\n");
            buf_addf(text, "    %.*s\n", len, line);
            line += len + (line[len] == '\n');
        }
    }
    char *now = meter_history();
    buf_addf(text, "%s", now);
    free(now);
}

void rewrite_average(struct ckpt **c, const double *weights, int n, const struct rewrite *r)
{
    struct mean m = { .c = c, .weights = weights, .n = n };
    for (int k = 0; k < n; k++) {
        rewrite_check_out(r, c[k]);
        if (k > 0)
            check_same(c[0], c[k]);
        m.total += weights[k];
    }
    struct ckpt_tensor *t = xcalloc((size_t)ckpt_tensors(c[0]), sizeof *t);
    int tensors = 0;
    for (int i = 0; i < ckpt_tensors(c[0]); i++)
        if (is_model_tensor(ckpt_tensor(c[0], i)))
            t[tensors++] = *ckpt_tensor(c[0], i);
    if (tensors == 0)
        die("'%s' holds no model", ckpt_dir(c[0]));
    rewrite_cast(c[0], t, tensors, (enum ckpt_dtype)r->dtype);
    struct buf history = { 0 };
    struct attrs config = whole_config(c[0]);
    tell_history(&m, &history);
    m.sum = block_buffer(c[0], sizeof *m.sum);
    m.x = block_buffer(c[0], sizeof *m.x);
    rewrite_tensors(r, t, tensors, &config, NULL, history.data, put_mean, &m);
    free(m.sum);
    free(m.x);
    buf_free(&history);
    attrs_free(&config);
    free(t);
}
