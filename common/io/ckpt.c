/* ckpt.c - the pieces of checkpoints: what can be wrong with them, and how writers share tensors
 * SPDX-License-Identifier: MIT
 */
#include "ckpt_private.h"

#include <ctype.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"

const struct h5_column ckpt_columns[CKPT_COLUMNS] = {
    { "tensor", H5_TEXT, CKPT_MAX_NAME, offsetof(struct ckpt_row, tensor) },
    { "dataset", H5_TEXT, CKPT_MAX_DATASET, offsetof(struct ckpt_row, dataset) },
    { "ndim", H5_I64, 1, offsetof(struct ckpt_row, ndim) },
    { "shape", H5_I64, CKPT_MAX_DIM, offsetof(struct ckpt_row, shape) },
    { "offset", H5_I64, CKPT_MAX_DIM, offsetof(struct ckpt_row, offset) },
    { "count", H5_I64, CKPT_MAX_DIM, offsetof(struct ckpt_row, count) },
    { "member", H5_I64, 1, offsetof(struct ckpt_row, member) },
    { "dtype", H5_I64, 1, offsetof(struct ckpt_row, dtype) },
};

int ckpt_try_table(struct h5 *f, const struct attrs *root, struct ckpt_row **rows, int64_t *n)
{
    int64_t format = CKPT_FORMAT;
    void *table = NULL;
    if (attrs_try_int(root, "format", &format) < 0)
        return -1;
    bool first = format < 2; /* its rows end before the dtype */
    if (h5_try_table(f, "/pieces", ckpt_columns, first ? CKPT_COLUMNS - 1 : CKPT_COLUMNS, &table, n) < 0)
        return -1;
    size_t size = first ? offsetof(struct ckpt_row, dtype) : sizeof **rows;
    *rows = xcalloc((size_t)*n, sizeof **rows);
    for (int64_t i = 0; i < *n; i++)
        memcpy(&(*rows)[i], (char *)table + (size_t)i * size, size);
    free(table);
    return 0;
}

/* ---- element types ---- */

static const struct {
    const char *name;
    size_t size;
    enum h5_type type;
} dtypes[CKPT_DTYPES] = {
    [CKPT_F32] = { "f32", 4, H5_F32 },
    [CKPT_BF16] = { "bf16", 2, H5_BF16 },
    [CKPT_F16] = { "f16", 2, H5_F16 },
};

const char *ckpt_dtype_name(enum ckpt_dtype d) { return dtypes[d].name; }
size_t ckpt_dtype_size(enum ckpt_dtype d) { return dtypes[d].size; }
enum h5_type ckpt_h5_type(enum ckpt_dtype d) { return dtypes[d].type; }

/* ---- shapes and names ---- */

int64_t ckpt_product(int64_t ndim, const int64_t *shape)
{
    int64_t n = 1;
    for (int64_t i = 0; i < ndim; i++)
        if (__builtin_mul_overflow(n, shape[i], &n))
            return -1;
    return n;
}

int64_t ckpt_elements(int ndim, const int64_t *shape)
{
    int64_t n = ckpt_product(ndim, shape);
    if (n < 0)
        bug("a shape of more elements than 64 bits count");
    return n;
}

/* Names become paths in HDF5 files and are printed: plain characters, no empty or dotted steps. '%' has a
 * meaning in virtual datasets, '@' in members; other groups are the format's own. */
static bool is_name(const char *s)
{
    if (strlen(s) >= CKPT_MAX_NAME ||
        (strncmp(s, "model/", 6) != 0 && strncmp(s, "optim/", 6) != 0 && strncmp(s, "state/", 6) != 0))
        return false;
    for (const char *c = s; *c; c++) {
        if (!isalnum((unsigned char)*c) && !strchr("._-/:+", *c))
            return false;
        if ((c == s || c[-1] == '/') && (*c == '/' || *c == '.'))
            return false;
    }
    return s[strlen(s) - 1] != '/';
}

int ckpt_try_piece(const char *name, int64_t ndim, const int64_t *shape, const int64_t *offset,
                   const int64_t *count)
{
    if (!is_name(name))
        return err_set("'%.130s' is not a tensor's name", name);
    if (ndim < 1 || ndim > CKPT_MAX_DIM)
        return err_set("tensor '%s' has %lld dimensions", name, (long long)ndim);
    for (int64_t i = 0; i < ndim; i++)
        if (shape[i] < 1 || offset[i] < 0 || count[i] < 1 || offset[i] > shape[i] - count[i])
            return err_set("tensor '%s': a piece does not lie inside it", name);
    int64_t n = ckpt_product(ndim, shape);
    if (n < 0 || n > INT64_MAX / (int64_t)sizeof(float))
        return err_set("tensor '%s' has more elements than fit", name);
    return 0;
}

/* By tensor, then place. */
static int row_order(const void *pa, const void *pb)
{
    const struct ckpt_row *a = pa, *b = pb;
    int d = strcmp(a->tensor, b->tensor);
    for (int i = 0; d == 0 && i < CKPT_MAX_DIM; i++)
        d = (a->offset[i] > b->offset[i]) - (a->offset[i] < b->offset[i]);
    return d;
}

static bool overlap(const struct ckpt_row *a, const struct ckpt_row *b)
{
    for (int64_t i = 0; i < a->ndim; i++)
        if (a->offset[i] >= b->offset[i] + b->count[i] || b->offset[i] >= a->offset[i] + a->count[i])
            return false;
    return true;
}

/* Rows [0,n) are the sorted pieces of one tensor: no two share an element, and their elements are as many as
 * the tensor's, so every element is there once. */
static int try_coverage(const struct ckpt_row *r, size_t n)
{
    int64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        if (r[i].ndim != r[0].ndim || memcmp(r[i].shape, r[0].shape, sizeof r->shape) != 0)
            return err_set("tensor '%s' has two different shapes", r[0].tensor);
        if (r[i].dtype != r[0].dtype)
            return err_set("tensor '%s' is %s in one piece and %s in another", r[0].tensor,
                           ckpt_dtype_name((enum ckpt_dtype)r[0].dtype),
                           ckpt_dtype_name((enum ckpt_dtype)r[i].dtype));
        for (size_t j = i + 1; j < n && r[j].offset[0] < r[i].offset[0] + r[i].count[0]; j++)
            if (overlap(&r[i], &r[j]))
                return err_set("tensor '%s': two pieces hold the same elements, from row %lld", r[0].tensor,
                               (long long)r[j].offset[0]);
        sum += ckpt_product(r[i].ndim, r[i].count); /* no more than the tensor has, as they do not overlap */
    }
    int64_t all = ckpt_product(r[0].ndim, r[0].shape);
    if (sum != all)
        return err_set("tensor '%s': the pieces hold %lld of its %lld elements", r[0].tensor, (long long)sum,
                       (long long)all);
    return 0;
}

int ckpt_try_rows(struct ckpt_row *r, size_t n, int64_t members)
{
    int64_t total = 0;
    for (size_t i = 0; i < n; i++) {
        if (ckpt_try_piece(r[i].tensor, r[i].ndim, r[i].shape, r[i].offset, r[i].count) < 0)
            return -1;
        if (r[i].member < 0 || r[i].member >= members)
            return err_set("tensor '%s': a piece is in member %lld of %lld", r[i].tensor,
                           (long long)r[i].member, (long long)members);
        if (r[i].dtype < 0 || r[i].dtype >= CKPT_DTYPES)
            return err_set("tensor '%s' has elements of the unknown type %lld", r[i].tensor,
                           (long long)r[i].dtype);
        for (int64_t d = r[i].ndim; d < CKPT_MAX_DIM; d++)
            r[i].shape[d] = r[i].count[d] = 1, r[i].offset[d] = 0;
    }
    qsort(r, n, sizeof *r, row_order);
    for (size_t i = 0; i < n;) {
        size_t k = 1;
        while (i + k < n && strcmp(r[i].tensor, r[i + k].tensor) == 0)
            k++;
        if (try_coverage(r + i, k) < 0)
            return -1;
        total += ckpt_product(r[i].ndim, r[i].shape); /* two of at most 2^61 each */
        if (total > INT64_MAX / (int64_t)sizeof(float))
            return err_set("the tensors have more elements than fit");
        i += k;
    }
    return 0;
}

/* ---- sharing rows ---- */

struct cut {
    int tensor;
    int64_t row;
};

/* The cut in front of part `part`. */
static struct cut cut_at(const struct ckpt_tensor *t, int n, int part, int parts)
{
    int64_t total = 0, begin = 0;
    for (int i = 0; i < n; i++)
        total += ckpt_elements(t[i].ndim, t[i].shape);
    int64_t at = total / parts * part + total % parts * part / parts; /* total*part/parts, without overflow */
    for (int i = 0; i < n; i++) {
        int64_t size = ckpt_elements(t[i].ndim, t[i].shape), width = size / t[i].shape[0];
        if (at < begin + size) {
            int64_t row = (at - begin) / width, rest = (at - begin) % width;
            return (struct cut){ i, row + (rest >= width - rest) };
        }
        begin += size;
    }
    return (struct cut){ n, 0 };
}

int ckpt_cut_rows(const struct ckpt_tensor *t, int n, int part, int parts, struct ckpt_piece *out)
{
    if (part < 0 || part >= parts)
        bug("part %d of %d", part, parts);
    struct cut a = cut_at(t, n, part, parts), b = cut_at(t, n, part + 1, parts);
    int used = 0;
    for (int i = a.tensor; i < n && i <= b.tensor; i++) {
        int64_t first = i == a.tensor ? a.row : 0, end = i == b.tensor ? b.row : t[i].shape[0];
        if (first >= end)
            continue;
        struct ckpt_piece *p = &out[used++];
        *p = (struct ckpt_piece){ .tensor = t[i] };
        memcpy(p->count, t[i].shape, sizeof p->count);
        p->offset[0] = first;
        p->count[0] = end - first;
    }
    return used;
}
