/* foreign.c - tensors and plain values as other people's model files hold them
 * SPDX-License-Identifier: MIT
 */
#include "foreign.h"

#include <errno.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/half.h"
#include "common/base/mem.h"
#include "common/base/utf8.h"

static const struct {
    const char *name;
    int size;
} types[FOREIGN_DTYPES] = {
    [FOREIGN_F64] = { "F64", 8 },         [FOREIGN_F32] = { "F32", 4 },
    [FOREIGN_F16] = { "F16", 2 },         [FOREIGN_BF16] = { "BF16", 2 },
    [FOREIGN_I64] = { "I64", 8 },         [FOREIGN_I32] = { "I32", 4 },
    [FOREIGN_I16] = { "I16", 2 },         [FOREIGN_I8] = { "I8", 1 },
    [FOREIGN_U64] = { "U64", 8 },         [FOREIGN_U32] = { "U32", 4 },
    [FOREIGN_U16] = { "U16", 2 },         [FOREIGN_U8] = { "U8", 1 },
    [FOREIGN_BOOL] = { "BOOL", 1 },       [FOREIGN_F8_E4M3] = { "F8_E4M3", 1 },
    [FOREIGN_F8_E5M2] = { "F8_E5M2", 1 },
};

const char *foreign_dtype_name(enum foreign_dtype d) { return types[d].name; }
int foreign_dtype_size(enum foreign_dtype d) { return types[d].size; }

int foreign_try_size(struct foreign_tensor *t)
{
    int64_t most = INT64_MAX / types[t->dtype].size, n = 1;
    bool empty = false;
    for (int i = 0; i < t->ndim; i++) {
        if (t->shape[i] < 0)
            return err_set("a dimension of %lld", (long long)t->shape[i]);
        if (t->shape[i] == 0)
            empty = true;
        else if (n > most / t->shape[i])
            return err_set("a shape of more than 2^63 bytes");
        else
            n *= t->shape[i];
    }
    t->elements = empty ? 0 : n;
    t->bytes = t->elements * types[t->dtype].size;
    return 0;
}

/* ---- numbers ---- */

int foreign_try_unpack(enum foreign_dtype from, const void *raw, int64_t n, float *out)
{
    const char *p = raw;
    double d;
    switch (from) {
    case FOREIGN_F32:
        if (n > 0)
            memcpy(out, raw, (size_t)n * 4);
        return 0;
    case FOREIGN_BF16:
        half_from_bf16(raw, n, out);
        return 0;
    case FOREIGN_F16:
        half_from_f16(raw, n, out);
        return 0;
    case FOREIGN_F64:
        for (int64_t i = 0; i < n; i++) {
            memcpy(&d, p + 8 * i, 8);
            out[i] = (float)d;
        }
        return 0;
    default:
        return err_set("stored as %s, which is not read as numbers", types[from].name);
    }
}

int foreign_try_pack(enum foreign_dtype to, const float *in, int64_t n, void *raw)
{
    char *p = raw;
    switch (to) {
    case FOREIGN_F32:
        if (n > 0)
            memcpy(raw, in, (size_t)n * 4);
        return 0;
    case FOREIGN_BF16:
    case FOREIGN_F16: {
        int64_t bad = (to == FOREIGN_F16 ? half_to_f16 : half_to_bf16)(in, n, raw);
        return bad < 0 ? 0 : err_set("%g does not fit %s", (double)in[bad], types[to].name);
    }
    case FOREIGN_F64:
        for (int64_t i = 0; i < n; i++)
            memcpy(p + 8 * i, &(double){ in[i] }, 8);
        return 0;
    default:
        return err_set("numbers are not written as %s", types[to].name);
    }
}

/* ---- lists ---- */

struct foreign_tensor *foreign_add(struct foreign_list *l)
{
    struct foreign_tensor *t = grow(&l->t, &l->n, &l->cap, sizeof *l->t);
    memset(t, 0, sizeof *t);
    return t;
}

struct foreign_value *foreign_add_value(struct foreign_list *l)
{
    struct foreign_value *v = grow(&l->v, &l->nv, &l->capv, sizeof *l->v);
    memset(v, 0, sizeof *v);
    return v;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct foreign_tensor *)a)->name, ((const struct foreign_tensor *)b)->name);
}

static int by_value_name(const void *a, const void *b)
{
    return strcmp(((const struct foreign_value *)a)->name, ((const struct foreign_value *)b)->name);
}

int foreign_try_sort(struct foreign_list *l)
{
    if (l->n > 1)
        qsort(l->t, l->n, sizeof *l->t, by_name);
    if (l->nv > 1)
        qsort(l->v, l->nv, sizeof *l->v, by_value_name);
    for (size_t i = 1; i < l->n; i++)
        if (strcmp(l->t[i - 1].name, l->t[i].name) == 0)
            return err_set("two tensors are called '%s'", l->t[i].name);
    for (size_t i = 1; i < l->nv; i++)
        if (strcmp(l->v[i - 1].name, l->v[i].name) == 0)
            return err_set("two values are called '%s'", l->v[i].name);
    return 0;
}

const struct foreign_tensor *foreign_find(const struct foreign_list *l, const char *name)
{
    struct foreign_tensor key = { .name = (char *)(uintptr_t)name };
    return l->n ? bsearch(&key, l->t, l->n, sizeof key, by_name) : NULL;
}

const struct foreign_value *foreign_find_value(const struct foreign_list *l, const char *name)
{
    struct foreign_value key = { .name = (char *)(uintptr_t)name };
    return l->nv ? bsearch(&key, l->v, l->nv, sizeof key, by_value_name) : NULL;
}

void foreign_drop_values(struct foreign_list *l, size_t n)
{
    while (l->nv > n) {
        l->nv--;
        free(l->v[l->nv].name);
        free(l->v[l->nv].s);
    }
}

void foreign_free(struct foreign_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->t[i].name);
    foreign_drop_values(l, 0);
    free(l->t);
    free(l->v);
    *l = (struct foreign_list){ 0 };
}

int foreign_try_name(const char *name, size_t n)
{
    if (n == 0 || n > FOREIGN_MAX_NAME)
        return err_set("a name of %zu bytes; 1 to %d are allowed", n, FOREIGN_MAX_NAME);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < ' ' || name[i] == 127)
            return err_set("a name with the control byte %d", (unsigned char)name[i]);
    if (utf8_valid(name, n) < n)
        return err_set("a name that is not UTF-8");
    return 0;
}

int foreign_try_pread(const char *path, int fd, int64_t offset, void *data, size_t n)
{
    size_t have;
    if (file_pread(fd, offset, data, n, &have) < 0)
        return err_set("%s: cannot read at byte %lld: %s", path, (long long)offset, strerror(errno));
    if (have < n)
        return err_set("%s: holds nothing at byte %lld, where %zu more should be", path,
                       (long long)(offset + (int64_t)have), n - have);
    return 0;
}
