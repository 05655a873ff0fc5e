/* attrs.h - a small ordered list of named values, as it travels between programs and files
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_ATTRS_H
#define SSM_ATTRS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct attr {
    char name[64];
    enum { ATTR_INT, ATTR_REAL, ATTR_STR } kind;
    int64_t i;
    double r;
    char *s;                /* owned */
};

struct attrs {              /* zero-initialise */
    struct attr *a;
    size_t n, cap;
};

/* Set or replace. */
void attrs_set_int(struct attrs *as, const char *name, int64_t v);
void attrs_set_real(struct attrs *as, const char *name, double v);
void attrs_set_str(struct attrs *as, const char *name, const char *v);
/* NULL when there is none of that name. */
const struct attr *attrs_find(const struct attrs *as, const char *name);
/* 0, or -1 with err_last() when the name is missing or of another kind ("'step' is missing"). */
int attrs_try_int(const struct attrs *as, const char *name, int64_t *v) __attribute__((warn_unused_result));
int attrs_try_real(const struct attrs *as, const char *name, double *v) __attribute__((warn_unused_result));
int attrs_try_str(const struct attrs *as, const char *name, const char **v) __attribute__((warn_unused_result));
/* Same names, kinds and values, in any order. The first difference goes to err_last(). */
bool attrs_equal(const struct attrs *a, const struct attrs *b);
void attrs_free(struct attrs *as);

#endif
