/* look.c - what is in a checkpoint, and whether it is whole
 * SPDX-License-Identifier: MIT
 */
#include "look.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blocks.h"
#include "common/base/err.h"
#include "common/base/meter.h"
#include "common/base/opt.h"
#include "common/io/rundir.h"

struct ckpt *look_open(const char *path, bool deep)
{
    struct ckpt *c = rundir_try_open_ckpt(path, deep);
    if (!c)
        die("%s", err_last());
    return c;
}

/* ---- attributes ---- */

void attr_format(const struct attr *a, struct buf *out)
{
    if (!a)
        buf_addf(out, "missing");
    else if (a->kind == ATTR_INT)
        buf_addf(out, "%" PRId64, a->i);
    else if (a->kind == ATTR_REAL)
        format_real(a->r, out);
    else
        buf_addf(out, "'%.60s'", a->s);
}

bool attr_same(const struct attr *a, const struct attr *b)
{
    if (!a || !b || a->kind != b->kind)
        return a == b;
    if (a->kind == ATTR_STR)
        return strcmp(a->s, b->s) == 0;
    return a->kind == ATTR_INT ? a->i == b->i : memcmp(&a->r, &b->r, sizeof a->r) == 0;
}

void attrs_differ(const struct attrs *as, const struct attrs *bs,
                  void (*f)(void *arg, const struct attr *a, const struct attr *b), void *arg)
{
    for (size_t i = 0; i < as->n; i++) {
        const struct attr *b = attrs_find(bs, as->a[i].name);
        if (!attr_same(&as->a[i], b))
            f(arg, &as->a[i], b);
    }
    for (size_t i = 0; i < bs->n; i++)
        if (!attrs_find(as, bs->a[i].name))
            f(arg, NULL, &bs->a[i]);
}

/* ---- list ---- */

static void print_attrs(const char *group, const struct attrs *as)
{
    struct buf text = { 0 };
    for (size_t i = 0; i < as->n; i++) {
        const struct attr *a = &as->a[i];
        buf_clear(&text);
        if (a->kind == ATTR_STR)
            buf_addf(&text, "%s", a->s);
        else
            attr_format(a, &text);
        printf("#%s.%s=", group, a->name);
        for (const char *s = text.data; *s; s++) /* one line, whatever the text holds */
            putchar((unsigned char)*s < ' ' || *s == 127 ? ' ' : *s);
        putchar('\n');
    }
    buf_free(&text);
}

void look_list(const struct ckpt *c)
{
    int64_t total = 0;
    int first = 0;
    printf("#path=%s\n#members=%d\n", ckpt_dir(c), ckpt_members(c));
    print_attrs("config", ckpt_config(c));
    print_attrs("state", ckpt_state(c));
    printf("#name\tdtype\tshape\tpieces\n");
    for (int i = 0; i < ckpt_tensors(c); i++) {
        const struct ckpt_tensor *t = ckpt_tensor(c, i);
        int end = first;
        while (end < ckpt_pieces(c) && strcmp(ckpt_piece(c, end)->tensor.name, t->name) == 0)
            end++;
        printf("%s\t%s\t", t->name, ckpt_dtype_name(t->dtype));
        for (int d = 0; d < t->ndim; d++)
            printf("%s%" PRId64, d ? "x" : "", t->shape[d]);
        printf("\t%d\n", end - first);
        first = end;
        if (is_model_tensor(t))
            total += ckpt_elements(t->ndim, t->shape);
    }
    printf("#parameters=%" PRId64 "\n", total);
}

/* ---- verify ---- */

void look_verify(struct ckpt *c)
{
    int64_t bytes = 0;
    for (int i = 0; i < ckpt_members(c); i++) {
        if (ckpt_try_verify(c, i) < 0)
            die("%s", err_last());
        bytes += ckpt_member(c, i)->bytes;
    }
    for (int i = 0; i < ckpt_pieces(c); i++) { /* every piece is where the index says */
        const struct ckpt_piece *p = ckpt_piece(c, i);
        float x;
        if (ckpt_try_read(c, p->tensor.name, p->offset, (const int64_t[CKPT_MAX_DIM]){ 1, 1, 1, 1 }, &x) < 0)
            die("%s", err_last());
    }
    char size[32];
    note(1, "'%s' is whole: %d tensors, %d members, %sB", ckpt_dir(c), ckpt_tensors(c), ckpt_members(c),
         format_si((double)bytes, size));
}
