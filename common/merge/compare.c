/* compare.c - what differs between two checkpoints, whatever their layouts are
 * SPDX-License-Identifier: MIT
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blocks.h"
#include "look.h"

struct verdict {
    int64_t differences; /* attributes and tensors */
    const char *group;   /* of the attributes that are compared */
    double tolerance;
    bool model_only;
    float *a, *b; /* blocks */
};

static void attr_differs(void *arg, const struct attr *a, const struct attr *b)
{
    struct verdict *v = arg;
    struct buf text = { 0 };
    attr_format(a, &text);
    buf_addf(&text, " / ");
    attr_format(b, &text);
    printf("%s\t%s\t-\t-\t%s\n", v->group, (a ? a : b)->name, text.data);
    buf_free(&text);
    v->differences++;
}

static void compare_attrs(struct verdict *v, const char *group, const struct attrs *a, const struct attrs *b)
{
    v->group = group;
    attrs_differ(a, b, attr_differs, v);
}

/* What differs between two tensors. */
struct gap {
    int64_t count, first; /* elements; index of the first, flat */
    float a, b;           /* there */
    double max;
};

static void measure(struct gap *g, double tolerance, const float *a, const float *b, int64_t n, int64_t at)
{
    if (memcmp(a, b, (size_t)n * sizeof *a) == 0)
        return;
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(&a[i], &b[i], sizeof *a) == 0)
            continue;
        double d = fabs((double)a[i] - (double)b[i]);
        d = isnan(d) ? INFINITY : d;
        if (tolerance > 0 && d <= tolerance)
            continue;
        if (g->count++ == 0) {
            g->first = at + i;
            g->a = a[i];
            g->b = b[i];
        }
        g->max = d > g->max ? d : g->max;
    }
}

static void compare_tensor(struct verdict *v, struct ckpt *ca, struct ckpt *cb, const struct ckpt_tensor *t)
{
    struct gap g = { 0 };
    for (struct block b = block_begin(t, 0, t->shape[0]); block_next(&b);) {
        block_read(ca, t, &b, v->a);
        block_read(cb, t, &b, v->b);
        measure(&g, v->tolerance, v->a, v->b, block_elements(&b), b.offset[0] * b.width);
    }
    if (!g.count)
        return;
    v->differences++;
    printf("tensor\t%s\t%" PRId64 "\t%.9g\t[", t->name, g.count, g.max);
    int64_t rest = g.first, inner = ckpt_elements(t->ndim, t->shape);
    for (int d = 0; d < t->ndim; d++) {
        inner /= t->shape[d];
        printf("%s%" PRId64, d ? "," : "", rest / inner);
        rest %= inner;
    }
    printf("] %.9g / %.9g\n", (double)g.a, (double)g.b);
}

static void tensor_alone(struct verdict *v, const struct ckpt_tensor *t, const char *text)
{
    printf("tensor\t%s\t-\t-\t%s\n", t->name, text);
    v->differences++;
}

/* Values within a tolerance may well come from different types. */
static void compare_dtypes(struct verdict *v, const struct ckpt_tensor *a, const struct ckpt_tensor *b)
{
    if (a->dtype == b->dtype)
        return;
    printf("dtype\t%s\t-\t-\t%s / %s\n", a->name, ckpt_dtype_name(a->dtype), ckpt_dtype_name(b->dtype));
    v->differences += v->tolerance == 0;
}

/* The next tensor at or behind i that counts. */
static const struct ckpt_tensor *tensor_from(const struct verdict *v, const struct ckpt *c, int *i)
{
    for (; *i < ckpt_tensors(c); ++*i) {
        const struct ckpt_tensor *t = ckpt_tensor(c, *i);
        if (!v->model_only || is_model_tensor(t))
            return t;
    }
    return NULL;
}

int64_t look_compare(struct ckpt *ca, struct ckpt *cb, double tolerance, bool model_only)
{
    struct verdict v = { .tolerance = tolerance, .model_only = model_only };
    v.a = block_buffer(ca, sizeof *v.a);
    v.b = block_buffer(ca, sizeof *v.b);
    printf("#what\tname\tdiffering\tmax_abs\tfirst\n");
    compare_attrs(&v, "config", ckpt_config(ca), ckpt_config(cb));
    if (!model_only)
        compare_attrs(&v, "state", ckpt_state(ca), ckpt_state(cb));
    for (int i = 0, j = 0;;) {
        const struct ckpt_tensor *a = tensor_from(&v, ca, &i), *b = tensor_from(&v, cb, &j);
        int d = !a || !b ? !a - !b : strcmp(a->name, b->name);
        if (!a && !b)
            break;
        if (d < 0) {
            tensor_alone(&v, a, "only in the first");
        } else if (d > 0) {
            tensor_alone(&v, b, "only in the second");
        } else if (!same_shape(a, b)) {
            tensor_alone(&v, a, "another shape");
        } else {
            compare_dtypes(&v, a, b);
            compare_tensor(&v, ca, cb, a);
        }
        i += d <= 0;
        j += d >= 0;
    }
    free(v.a);
    free(v.b);
    return v.differences;
}
