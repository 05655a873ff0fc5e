/* pickle_private.h - the machine of pickle.c as its walk (pickle_walk.c) and its names (pickle_names.c)
 * see it SPDX-License-Identifier: MIT
 */
#ifndef SSM_PICKLE_PRIVATE_H
#define SSM_PICKLE_PRIVATE_H

#include "pickle.h"

enum {
    MAX_VALUES = 4000000,
    MAX_STACK = 1000000,
    MAX_TENSORS = 1000000,       /* also storages */
    MAX_ITEMS = 16000000,        /* in all containers together */
    MAX_DEPTH = 64,              /* containers in containers */
    MAX_VISITS = 4000000,        /* of values, on all paths */
    MAX_TEXT = 64 << 20,         /* bytes of names and strings of the result */
    MAX_STRING = 1 << 16,        /* longer ones are no configuration: left out */
    MAX_GLOBAL = 200             /* bytes of a module's or a class's name */
};

enum kind {
    NONE, TRUTH, INT, REAL, STRING,
    LIST, TUPLE, DICT, SPACE,    /* SPACE: an argparse.Namespace, kept as its dictionary */
    GLOBAL, STORAGE, TENSOR,
    OPAQUE                       /* there is something, nobody looks at it */
};

struct value {
    enum kind kind;
    union {
        int64_t i;
        double r;
        struct {
            uint32_t at, n;      /* in the pickle */
        } s;
        uint32_t row;            /* of lists, storages, tensors; of pickle_globals */
    } u;
};

struct list {                    /* a dictionary: key, value, key, value ... */
    uint32_t *v;
    size_t n, cap;
    bool busy;                   /* the walk is in it */
};

struct storage {
    uint32_t key;                /* the value that is its key */
    enum foreign_dtype dtype;
    int64_t elements;
};

struct tensor {
    uint32_t storage;
    int64_t first;               /* element of the storage */
    bool packed;                 /* contiguous, rows first */
    int ndim;
    int64_t shape[FOREIGN_MAX_DIM];
};

struct machine {
    const char *path;
    const unsigned char *data;
    size_t n, at;
    struct value *values;
    size_t n_values, cap_values;
    uint32_t *stack;
    size_t n_stack, cap_stack;
    size_t *marks;               /* heights of the stack */
    size_t n_marks, cap_marks;
    uint32_t *memo;              /* value + 1; 0: none */
    size_t n_memo, used_memo;
    struct list *lists;
    size_t n_lists, cap_lists, n_items;
    struct storage *storages;
    size_t n_storages, cap_storages;
    struct tensor *tensors;
    size_t n_tensors, cap_tensors;
    /* the walk */
    pickle_find_storage *find;
    void *find_arg;
    int file;
    struct foreign_list *out;
    char name[FOREIGN_MAX_NAME + 1];
    size_t name_len, visits, text;
};

/* ---- the names that have a meaning (pickle_names.c) ---- */

enum meaning {
    M_ORDERED_DICT, M_TENSOR, M_PARAMETER, M_SIZE, M_NAMESPACE,
    M_STORAGE,                   /* a class of storages; arg: its dtype */
    M_DTYPE,                     /* a value by itself: its name */
    M_OPAQUE                     /* whatever it is called with */
};

struct pickle_global {
    const char *name;
    enum meaning meaning;
    enum foreign_dtype dtype;    /* of a class of storages */
};
extern const struct pickle_global pickle_globals[];
/* The row of "MODULE.NAME", or -1: a name that this reader does not know. */
int pickle_find_global(const char *full, const char *module, size_t module_len);

/* ---- values ---- */

static inline const char *text_of(const struct machine *m, const struct value *v)
{
    return (const char *)m->data + v->u.s.at;
}
static inline bool has_list(const struct value *v) { return v->kind >= LIST && v->kind <= SPACE; }
static inline struct list *list_of(struct machine *m, const struct value *v) { return &m->lists[v->u.row]; }
static inline const struct value *item(const struct machine *m, const struct list *l, size_t i)
{
    return &m->values[l->v[i]];
}

/* Walks through the value in `row` with all that it holds and hands on tensors and plain values
 * (pickle_walk.c). 0, or -1 with err_last(). */
int pickle_walk(struct machine *m, uint32_t row, int depth);

#endif
