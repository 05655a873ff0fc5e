/* pickle_walk.c - the result of a pickle, walked once: tensors and plain values with their paths
 * SPDX-License-Identifier: MIT
 */
#include "pickle_private.h"

#include "common/base/err.h"
#include "common/base/mem.h"

/* "FILE: 'PATH' ...": where it is in the result. */
static int refuse_here(const struct machine *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int refuse_here(const struct machine *m, const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_set("%s: '%.300s'%s %s", m->path, m->name, m->name_len > 300 ? "..." : "", text);
}

static int count_text(struct machine *m, size_t n)
{
    m->text += n;
    return m->text > MAX_TEXT ? refuse_here(m, "and the names before take more than %d bytes", MAX_TEXT) : 0;
}

static int emit_tensor(struct machine *m, const struct tensor *t)
{
    const struct storage *s = &m->storages[t->storage];
    struct foreign_tensor f = { .dtype = s->dtype, .ndim = t->ndim, .file = m->file };
    int size = foreign_dtype_size(s->dtype);
    int64_t offset, bytes;
    if (m->name_len == 0)
        return err_set("%s: a tensor alone, not a dictionary of tensors", m->path);
    memcpy(f.shape, t->shape, sizeof f.shape);
    if (foreign_try_size(&f) < 0)
        return refuse_here(m, "has %s", err_last());
    if (!t->packed)
        return refuse_here(m, "is not contiguous in memory (a view); it must be saved as a copy");
    const struct value *key = &m->values[s->key];
    if (m->find(m->find_arg, text_of(m, key), key->u.s.n, &offset, &bytes) < 0)
        return -1;
    if (s->elements > bytes / size)
        return refuse_here(m, "is in a storage of %lld elements, of which the file holds %lld bytes",
                           (long long)s->elements, (long long)bytes);
    if (t->first < 0 || t->first > s->elements || f.elements > s->elements - t->first)
        return refuse_here(m, "takes %lld elements from %lld on out of a storage of %lld",
                           (long long)f.elements, (long long)t->first, (long long)s->elements);
    f.offset = offset + t->first * size;
    f.name = xstrdup(m->name);
    *foreign_add(m->out) = f;
    return count_text(m, m->name_len);
}

static int emit_value(struct machine *m, const struct value *v)
{
    struct foreign_value f = { .kind = FOREIGN_NONE };
    const char *text = NULL;
    size_t n = 0;
    switch (v->kind) {
    case NONE:
        break;
    case TRUTH:
    case INT:
        f.kind = v->kind == INT ? FOREIGN_INT : FOREIGN_TRUTH;
        f.i = v->u.i;
        break;
    case REAL:
        f.kind = FOREIGN_REAL;
        f.r = v->u.r;
        break;
    case STRING:
        text = text_of(m, v);
        n = v->u.s.n;
        break;
    case GLOBAL:
        if (pickle_globals[v->u.row].meaning != M_DTYPE)
            return 0;
        text = pickle_globals[v->u.row].name;
        n = strlen(text);
        break;
    default:
        return 0;
    }
    if (m->name_len == 0 || (text && (n > MAX_STRING || memchr(text, 0, n))))
        return 0;
    if (count_text(m, m->name_len + n + sizeof f) < 0)
        return -1;
    if (text) {
        f.kind = FOREIGN_STR;
        f.s = xasprintf("%.*s", (int)n, text);
    }
    f.name = xstrdup(m->name);
    *foreign_add_value(m->out) = f;
    return 0;
}

static int walk_child(struct machine *m, const char *key, size_t n, uint32_t row, int depth)
{
    size_t len = m->name_len, dot = len > 0;
    if (n > FOREIGN_MAX_NAME || len + dot + n > FOREIGN_MAX_NAME)
        return refuse_here(m, "has an element with a name of %zu bytes; %d are allowed", n, FOREIGN_MAX_NAME);
    if (dot)
        m->name[len] = '.';
    memcpy(m->name + len + dot, key, n);
    m->name_len = len + dot + n;
    m->name[m->name_len] = 0;
    int bad = pickle_walk(m, row, depth);
    m->name_len = len;
    m->name[len] = 0;
    return bad;
}

int pickle_walk(struct machine *m, uint32_t row, int depth)
{
    const struct value *v = &m->values[row];
    if (++m->visits > MAX_VISITS)
        return refuse_here(m, "is value %d of the result: too many", MAX_VISITS);
    if (v->kind == TENSOR)
        return emit_tensor(m, &m->tensors[v->u.row]);
    if (!has_list(v))
        return emit_value(m, v);
    struct list *l = list_of(m, v);
    if (l->busy)
        return refuse_here(m, "contains itself");
    if (depth >= MAX_DEPTH)
        return refuse_here(m, "is nested deeper than %d", MAX_DEPTH);
    l->busy = true;
    int bad = 0;
    bool map = v->kind == DICT || v->kind == SPACE;
    for (size_t i = 0; i < l->n && bad == 0; i += map ? 2 : 1) {
        char number[24];
        const struct value *key = item(m, l, i);
        const char *text = number;
        size_t n = 0;
        if (!map)
            n = (size_t)snprintf(number, sizeof number, "%zu", i);
        else if (key->kind == INT)
            n = (size_t)snprintf(number, sizeof number, "%lld", (long long)key->u.i);
        else if (key->kind == STRING) {
            text = text_of(m, key);
            n = key->u.s.n;
            if (n == 0) /* the module itself in _metadata, a default in somebody's table */
                continue;
            if (n <= FOREIGN_MAX_NAME && foreign_try_name(text, n) < 0) {
                bad = refuse_here(m, "has %s", err_last());
                break;
            }
        } else
            continue; /* keys that make no name */
        bad = walk_child(m, text, n, l->v[map ? i + 1 : i], depth + 1);
    }
    l->busy = false;
    return bad;
}
