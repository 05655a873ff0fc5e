/* attrs.c - a small ordered list of named values, as it travels between programs and files
 * SPDX-License-Identifier: MIT
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attrs.h"
#include "err.h"
#include "mem.h"

const struct attr *attrs_find(const struct attrs *as, const char *name)
{
    for (size_t i = 0; i < as->n; i++)
        if (strcmp(as->a[i].name, name) == 0)
            return &as->a[i];
    return NULL;
}

static struct attr *place(struct attrs *as, const char *name)
{
    struct attr *a = (struct attr *)(uintptr_t)attrs_find(as, name);
    if (a) {
        free(a->s);
    } else {
        a = grow(&as->a, &as->n, &as->cap, sizeof *as->a);
    }
    *a = (struct attr){ 0 };
    if ((size_t)snprintf(a->name, sizeof a->name, "%s", name) >= sizeof a->name)
        bug("attribute name '%s' is too long", name);
    return a;
}

void attrs_set_int(struct attrs *as, const char *name, int64_t v)
{
    struct attr *a = place(as, name);
    a->kind = ATTR_INT;
    a->i = v;
}

void attrs_set_real(struct attrs *as, const char *name, double v)
{
    struct attr *a = place(as, name);
    a->kind = ATTR_REAL;
    a->r = v;
}

void attrs_set_str(struct attrs *as, const char *name, const char *v)
{
    char *copy = xstrdup(v); /* v may live in the place that is about to go */
    struct attr *a = place(as, name);
    a->kind = ATTR_STR;
    a->s = copy;
}

static const struct attr *need(const struct attrs *as, const char *name, int kind)
{
    const struct attr *a = attrs_find(as, name);
    if (!a)
        err_set("'%s' is missing", name);
    else if ((int)a->kind != kind)
        err_set("'%s' has the wrong type", name);
    else
        return a;
    return NULL;
}

int attrs_try_int(const struct attrs *as, const char *name, int64_t *v)
{
    const struct attr *a = need(as, name, ATTR_INT);
    if (!a)
        return -1;
    *v = a->i;
    return 0;
}

int attrs_try_real(const struct attrs *as, const char *name, double *v)
{
    const struct attr *a = need(as, name, ATTR_REAL);
    if (!a)
        return -1;
    *v = a->r;
    return 0;
}

int attrs_try_str(const struct attrs *as, const char *name, const char **v)
{
    const struct attr *a = need(as, name, ATTR_STR);
    if (!a)
        return -1;
    *v = a->s;
    return 0;
}

static bool same(const struct attr *a, const struct attr *b)
{
    if (a->kind != b->kind)
        return false;
    switch (a->kind) {
    case ATTR_INT:
        return a->i == b->i;
    case ATTR_REAL:
        return memcmp(&a->r, &b->r, sizeof a->r) == 0;
    case ATTR_STR:
        return strcmp(a->s, b->s) == 0;
    }
    return false;
}

bool attrs_equal(const struct attrs *a, const struct attrs *b)
{
    for (size_t i = 0; i < a->n; i++) {
        const struct attr *o = attrs_find(b, a->a[i].name);
        if (!o || !same(&a->a[i], o)) {
            err_set("'%s' differs", a->a[i].name);
            return false;
        }
    }
    for (size_t i = 0; i < b->n; i++)
        if (!attrs_find(a, b->a[i].name)) {
            err_set("'%s' differs", b->a[i].name);
            return false;
        }
    return true;
}

void attrs_free(struct attrs *as)
{
    for (size_t i = 0; i < as->n; i++)
        free(as->a[i].s);
    free(as->a);
    *as = (struct attrs){ 0 };
}
