/* pickle.c - what torch.save() pickles, read by a machine that builds values and can call nothing
 * SPDX-License-Identifier: MIT
 *
 * The opcodes are those of Python's Lib/pickletools.py. Values are numbers of rows in one array;
 * containers keep such numbers, so a value may be in several places, or, in a hostile file, in itself.
 * Strings stay where they are in the pickle. At the end the result is walked once, with a path, and what
 * is a tensor or a plain value goes to the list.
 */
#include "pickle_private.h"

#include "common/base/err.h"
#include "common/base/mem.h"

/* ---- values ---- */

static int refuse(const struct machine *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int refuse(const struct machine *m, const char *fmt, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_set("%s: the pickle, at byte %zu: %s", m->path, m->at, text);
}

static int push_row(struct machine *m, uint32_t value)
{
    if (m->n_stack >= MAX_STACK)
        return refuse(m, "more than %d values on the stack", MAX_STACK);
    *(uint32_t *)grow(&m->stack, &m->n_stack, &m->cap_stack, sizeof *m->stack) = value;
    return 0;
}

static int push(struct machine *m, struct value v)
{
    if (m->n_values >= MAX_VALUES)
        return refuse(m, "more than %d values", MAX_VALUES);
    uint32_t row = (uint32_t)m->n_values;
    *(struct value *)grow(&m->values, &m->n_values, &m->cap_values, sizeof *m->values) = v;
    return push_row(m, row);
}

static int push_kind(struct machine *m, enum kind kind) { return push(m, (struct value){ .kind = kind }); }

static int push_int(struct machine *m, int64_t i) { return push(m, (struct value){ .kind = INT, .u.i = i }); }

/* How many values are above the last mark. */
static size_t height(const struct machine *m)
{
    return m->n_stack - (m->n_marks ? m->marks[m->n_marks - 1] : 0);
}

static int need(const struct machine *m, size_t n)
{
    return height(m) < n ? refuse(m, "the stack holds %zu values where %zu are needed", height(m), n) : 0;
}

static uint32_t top_row(const struct machine *m, size_t below) { return m->stack[m->n_stack - 1 - below]; }
static struct value *top(const struct machine *m, size_t below) { return &m->values[top_row(m, below)]; }

static int pop_mark(struct machine *m, size_t *count)
{
    if (m->n_marks == 0)
        return refuse(m, "there is no mark on the stack");
    *count = height(m);
    m->n_marks--;
    return 0;
}

static int new_list(struct machine *m, enum kind kind)
{
    struct value v = { .kind = kind, .u.row = (uint32_t)m->n_lists };
    *(struct list *)grow(&m->lists, &m->n_lists, &m->cap_lists, sizeof *m->lists) = (struct list){ 0 };
    return push(m, v);
}

/* Adds the n upper values of the stack to a list, in order, and takes them off. */
static int append(struct machine *m, uint32_t row, size_t n)
{
    struct list *l = &m->lists[row];
    m->n_items += n;
    if (m->n_items > MAX_ITEMS)
        return refuse(m, "more than %d elements", MAX_ITEMS);
    for (size_t i = n; i > 0; i--)
        *(uint32_t *)grow(&l->v, &l->n, &l->cap, sizeof *l->v) = top_row(m, i - 1);
    m->n_stack -= n;
    return 0;
}

static int make_tuple(struct machine *m, size_t n)
{
    if (need(m, n) < 0 || new_list(m, TUPLE) < 0)
        return -1;
    uint32_t tuple = top_row(m, 0);
    m->n_stack--;
    return append(m, m->values[tuple].u.row, n) < 0 ? -1 : push_row(m, tuple);
}

/* ---- reading the pickle ---- */

static int take(struct machine *m, size_t n, const unsigned char **p)
{
    if (n > m->n - m->at) {
        refuse(m, "%zu bytes are to follow, %zu do", n, m->n - m->at);
        return -1;
    }
    *p = m->data + m->at;
    m->at += n;
    return 0;
}

static int take_uint(struct machine *m, int bytes, uint64_t *v)
{
    const unsigned char *p;
    if (take(m, (size_t)bytes, &p) < 0)
        return -1;
    *v = 0;
    for (int i = bytes - 1; i >= 0; i--)
        *v = *v << 8 | p[i];
    return 0;
}

/* A length in `bytes` bytes, and as many bytes of text or of something that nobody looks at. */
static int push_text(struct machine *m, int bytes, enum kind kind)
{
    uint64_t n;
    const unsigned char *p;
    if (take_uint(m, bytes, &n) < 0)
        return -1;
    if (n > m->n - m->at)
        return refuse(m, "a string of %llu bytes; %zu follow", (unsigned long long)n, m->n - m->at);
    if (take(m, (size_t)n, &p) < 0)
        return -1;
    return push(m, (struct value){ .kind = kind, .u.s = { (uint32_t)(p - m->data), (uint32_t)n } });
}

/* A signed number of n bytes; what 64 bits do not hold (states of random number generators) is opaque. */
static int push_long(struct machine *m, int bytes)
{
    uint64_t n, v = 0;
    const unsigned char *p;
    if (take_uint(m, bytes, &n) < 0 || take(m, (size_t)n, &p) < 0)
        return -1;
    if (n > 8)
        return push_kind(m, OPAQUE);
    for (size_t i = (size_t)n; i-- > 0;)
        v = v << 8 | p[i];
    if (n > 0 && n < 8 && p[n - 1] & 0x80)
        v |= ~(uint64_t)0 << 8 * n;
    return push_int(m, (int64_t)v);
}

static int push_real(struct machine *m)
{
    const unsigned char *p;
    uint64_t bits = 0;
    struct value v = { .kind = REAL };
    if (take(m, 8, &p) < 0)
        return -1;
    for (int i = 0; i < 8; i++) /* big endian, the only one here */
        bits = bits << 8 | p[i];
    memcpy(&v.u.r, &bits, 8);
    return push(m, v);
}

static int put_memo(struct machine *m, uint64_t i)
{
    if (need(m, 1) < 0)
        return -1;
    if (i >= MAX_VALUES)
        return refuse(m, "memo %llu; %d are allowed", (unsigned long long)i, MAX_VALUES);
    if (i >= m->n_memo) {
        size_t n = i < 1000 ? 1024 : (size_t)i * 2;
        m->memo = xrealloc(m->memo, n * sizeof *m->memo);
        memset(m->memo + m->n_memo, 0, (n - m->n_memo) * sizeof *m->memo);
        m->n_memo = n;
    }
    m->used_memo += m->memo[i] == 0;
    m->memo[i] = top_row(m, 0) + 1;
    return 0;
}

static int get_memo(struct machine *m, uint64_t i)
{
    if (i >= m->n_memo || m->memo[i] == 0)
        return refuse(m, "memo %llu is empty", (unsigned long long)i);
    return push_row(m, m->memo[i] - 1);
}

static int push_global(struct machine *m, const char *module, size_t nm, const char *name, size_t nn)
{
    char full[2 * MAX_GLOBAL + 2];
    if (nm > MAX_GLOBAL || nn > MAX_GLOBAL)
        return refuse(m, "a name of %zu bytes", nm > nn ? nm : nn);
    snprintf(full, sizeof full, "%.*s.%.*s", (int)nm, module, (int)nn, name);
    if (strlen(full) != nm + 1 + nn || foreign_try_name(full, nm + 1 + nn) < 0)
        return refuse(m, "an imported name with control bytes");
    int row = pickle_find_global(full, module, nm);
    if (row < 0)
        return err_set("%s: the pickle names '%s', which this reader does not know; nothing was executed",
                       m->path, full);
    return push(m, (struct value){ .kind = GLOBAL, .u.row = (uint32_t)row });
}

static int do_global(struct machine *m)
{
    const char *line = (const char *)m->data + m->at;
    const char *end = memchr(line, '\n', m->n - m->at);
    const char *end2 = end ? memchr(end + 1, '\n', m->n - m->at - (size_t)(end + 1 - line)) : NULL;
    if (!end2)
        return refuse(m, "an imported name does not end");
    m->at += (size_t)(end2 + 1 - line);
    return push_global(m, line, (size_t)(end - line), end + 1, (size_t)(end2 - end - 1));
}

static int do_stack_global(struct machine *m)
{
    if (need(m, 2) < 0)
        return -1;
    const struct value *name = top(m, 0), *module = top(m, 1);
    if (name->kind != STRING || module->kind != STRING)
        return refuse(m, "an imported name that is no string");
    m->n_stack -= 2;
    return push_global(m, text_of(m, module), module->u.s.n, text_of(m, name), name->u.s.n);
}

/* ---- what the known names do ---- */

/* ('storage', CLASS, KEY, LOCATION, ELEMENTS) */
static int do_persistent(struct machine *m)
{
    if (need(m, 1) < 0)
        return -1;
    const struct value *id = top(m, 0);
    const struct list *l = id->kind == TUPLE ? list_of(m, id) : NULL;
    if (!l || l->n < 5 || item(m, l, 0)->kind != STRING || item(m, l, 0)->u.s.n != 7 ||
        memcmp(text_of(m, item(m, l, 0)), "storage", 7) != 0 || item(m, l, 1)->kind != GLOBAL ||
        pickle_globals[item(m, l, 1)->u.row].meaning != M_STORAGE || item(m, l, 2)->kind != STRING ||
        item(m, l, 4)->kind != INT || item(m, l, 4)->u.i < 0)
        return refuse(m, "a persistent id that is not torch's ('storage', class, key, location, elements)");
    if (m->n_storages >= MAX_TENSORS)
        return refuse(m, "more than %d storages", MAX_TENSORS);
    struct storage s = { l->v[2], pickle_globals[item(m, l, 1)->u.row].dtype, item(m, l, 4)->u.i };
    struct value v = { .kind = STORAGE, .u.row = (uint32_t)m->n_storages };
    *(struct storage *)grow(&m->storages, &m->n_storages, &m->cap_storages, sizeof s) = s;
    m->n_stack--;
    return push(m, v);
}

/* (storage, first element, size, stride, requires_grad, hooks) */
static int make_tensor(struct machine *m, const struct list *l)
{
    if (l->n < 6 || item(m, l, 0)->kind != STORAGE || item(m, l, 1)->kind != INT ||
        item(m, l, 2)->kind != TUPLE || item(m, l, 3)->kind != TUPLE)
        return refuse(m, "a tensor that is not (storage, offset, size, stride, ...)");
    const struct list *size = list_of(m, item(m, l, 2)), *stride = list_of(m, item(m, l, 3));
    if (size->n != stride->n || size->n > FOREIGN_MAX_DIM)
        return refuse(m, "a tensor of %zu dimensions and %zu strides; %d are allowed", size->n, stride->n,
                      FOREIGN_MAX_DIM);
    struct tensor t = {
        .storage = item(m, l, 0)->u.row, .first = item(m, l, 1)->u.i, .packed = true, .ndim = (int)size->n
    };
    struct foreign_tensor f = { .ndim = t.ndim, .dtype = m->storages[t.storage].dtype };
    for (size_t i = 0; i < size->n; i++) {
        if (item(m, size, i)->kind != INT || item(m, stride, i)->kind != INT)
            return refuse(m, "a tensor whose size or stride is not made of integers");
        t.shape[i] = f.shape[i] = item(m, size, i)->u.i;
    }
    if (foreign_try_size(&f) < 0)
        return refuse(m, "a tensor with %s", err_last());
    int64_t step = 1;
    for (size_t i = size->n; f.elements > 0 && i-- > 0;) {
        if (t.shape[i] != 1 && item(m, stride, i)->u.i != step)
            t.packed = false;
        step *= t.shape[i];
    }
    if (m->n_tensors >= MAX_TENSORS)
        return refuse(m, "more than %d tensors", MAX_TENSORS);
    struct value v = { .kind = TENSOR, .u.row = (uint32_t)m->n_tensors };
    *(struct tensor *)grow(&m->tensors, &m->n_tensors, &m->cap_tensors, sizeof t) = t;
    return push(m, v);
}

/* OrderedDict() or OrderedDict([[key, value], ...]), as Python 2 spells it. */
static int make_dict(struct machine *m, const struct list *args)
{
    uint32_t pairs = args->n == 1 ? args->v[0] : 0;
    if (args->n > 1 || (args->n == 1 && m->values[pairs].kind != LIST))
        return refuse(m, "an OrderedDict of something else than a list of pairs");
    size_t n = args->n == 1 ? list_of(m, &m->values[pairs])->n : 0; /* args may move from here on */
    if (new_list(m, DICT) < 0)
        return -1;
    uint32_t dict = top(m, 0)->u.row;
    for (size_t i = 0; i < n; i++) {
        const struct value *pair = item(m, list_of(m, &m->values[pairs]), i);
        if ((pair->kind != LIST && pair->kind != TUPLE) || list_of(m, pair)->n != 2)
            return refuse(m, "an OrderedDict of something else than pairs");
        if (push_row(m, list_of(m, pair)->v[0]) < 0 || push_row(m, list_of(m, pair)->v[1]) < 0 ||
            append(m, dict, 2) < 0)
            return -1;
    }
    return 0;
}

/* callable arguments -> result */
static int do_reduce(struct machine *m)
{
    if (need(m, 2) < 0)
        return -1;
    const struct value *f = top(m, 1), *args = top(m, 0);
    if (f->kind != GLOBAL || args->kind != TUPLE)
        return refuse(m, "a call of something that is not one of the known names; nothing was executed");
    const struct pickle_global *g = &pickle_globals[f->u.row];
    const struct list *l = list_of(m, args);
    m->n_stack -= 2;
    switch (g->meaning) {
    case M_ORDERED_DICT:
        return make_dict(m, l);
    case M_TENSOR:
        return make_tensor(m, l);
    case M_PARAMETER:
        if (l->n < 1 || item(m, l, 0)->kind != TENSOR)
            return refuse(m, "a parameter that is not made of a tensor");
        return push_row(m, l->v[0]);
    case M_SIZE:
        if (l->n != 1 || item(m, l, 0)->kind != TUPLE)
            return refuse(m, "a torch.Size that is not made of a tuple");
        return push_row(m, l->v[0]);
    case M_NAMESPACE:
        return new_list(m, SPACE);
    case M_OPAQUE:
        return push_kind(m, OPAQUE);
    case M_STORAGE:
    case M_DTYPE:
        break;
    }
    return refuse(m, "a call of '%s'; nothing was executed", g->name);
}

/* class arguments [keywords] -> an object without contents */
static int do_newobj(struct machine *m, size_t n)
{
    if (need(m, n) < 0)
        return -1;
    const struct value *class = top(m, n - 1);
    if (class->kind != GLOBAL)
        return refuse(m, "an object of an unknown class; nothing was executed");
    const struct pickle_global *g = &pickle_globals[class->u.row];
    m->n_stack -= n;
    switch (g->meaning) {
    case M_NAMESPACE:
        return new_list(m, SPACE);
    case M_ORDERED_DICT:
        return new_list(m, DICT);
    case M_OPAQUE:
        return push_kind(m, OPAQUE);
    default:
        return refuse(m, "an object of '%s'; nothing was executed", g->name);
    }
}

/* object state -> object */
static int do_build(struct machine *m)
{
    if (need(m, 2) < 0)
        return -1;
    const struct value *state = top(m, 0), *object = top(m, 1);
    if (object->kind == SPACE) {
        if (state->kind != DICT)
            return refuse(m, "a Namespace whose state is not a dictionary");
        uint32_t from = state->u.row, to = object->u.row;
        size_t n = m->lists[from].n;
        m->n_stack--;
        for (size_t i = 0; i < n; i++) /* one by one: hostile files fill a list from itself */
            if (push_row(m, m->lists[from].v[i]) < 0 || append(m, to, 1) < 0)
                return -1;
        return 0;
    }
    /* The attributes of a state dict (_metadata: versions of modules) and the insides of what is opaque
     * do not matter. */
    if (object->kind != OPAQUE && object->kind != DICT)
        return refuse(m, "contents for an object that has none");
    m->n_stack--;
    return 0;
}

static int do_append(struct machine *m, size_t n, enum kind kind)
{
    if (need(m, n + 1) < 0)
        return -1;
    const struct value *to = top(m, n);
    if (kind == LIST && to->kind == OPAQUE) { /* a set */
        m->n_stack -= n;
        return 0;
    }
    if (to->kind != kind)
        return refuse(m, "elements for something that is no %s", kind == LIST ? "list" : "dictionary");
    if (kind == DICT && n % 2)
        return refuse(m, "a key without a value");
    return append(m, to->u.row, n);
}

/* ---- the machine ---- */

/* 0: go on, 1: the result is on the stack, -1. */
static int step(struct machine *m)
{
    const unsigned char *p;
    uint64_t v = 0;
    size_t n = 0;
    if (take(m, 1, &p) < 0)
        return -1;
    unsigned op = *p;
    switch (op) {
    case 0x80: /* PROTO */
        if (take_uint(m, 1, &v) < 0)
            return -1;
        return v < 2 || v > 5 ? refuse(m, "protocol %d; 2 to 5 are read", (int)v) : 0;
    case 0x95:
        return take_uint(m, 8, &v); /* FRAME: its length adds nothing */
    case '(':                       /* MARK */
        if (m->n_marks >= MAX_STACK)
            return refuse(m, "more than %d marks", MAX_STACK);
        *(size_t *)grow(&m->marks, &m->n_marks, &m->cap_marks, sizeof *m->marks) = m->n_stack;
        return 0;
    case '.':
        return need(m, 1) < 0 ? -1 : 1; /* STOP */
    case '0':                           /* POP: a value, or the mark */
        if (height(m) == 0)
            return pop_mark(m, &n);
        m->n_stack--;
        return 0;
    case '1': /* POP_MARK */
        if (pop_mark(m, &n) < 0)
            return -1;
        m->n_stack -= n;
        return 0;
    case '2':
        return need(m, 1) < 0 ? -1 : push_row(m, top_row(m, 0)); /* DUP */

    case 'N':
        return push_kind(m, NONE);
    case 0x88:
        return push(m, (struct value){ .kind = TRUTH, .u.i = 1 });
    case 0x89:
        return push(m, (struct value){ .kind = TRUTH, .u.i = 0 });
    case 'J':
        return take_uint(m, 4, &v) < 0 ? -1 : push_int(m, (int32_t)(uint32_t)v);
    case 'K':
        return take_uint(m, 1, &v) < 0 ? -1 : push_int(m, (int64_t)v);
    case 'M':
        return take_uint(m, 2, &v) < 0 ? -1 : push_int(m, (int64_t)v);
    case 0x8a:
        return push_long(m, 1);
    case 0x8b:
        return push_long(m, 4);
    case 'G':
        return push_real(m);

    case 0x8c:
        return push_text(m, 1, STRING); /* SHORT_BINUNICODE */
    case 'X':
        return push_text(m, 4, STRING); /* BINUNICODE */
    case 0x8d:
        return push_text(m, 8, STRING); /* BINUNICODE8 */
    case 'U':
        return push_text(m, 1, STRING); /* SHORT_BINSTRING, of Python 2 */
    case 'T':
        return push_text(m, 4, STRING); /* BINSTRING */
    case 'C':
        return push_text(m, 1, OPAQUE); /* bytes */
    case 'B':
        return push_text(m, 4, OPAQUE);
    case 0x8e:
        return push_text(m, 8, OPAQUE);
    case 0x96:
        return push_text(m, 8, OPAQUE); /* BYTEARRAY8 */

    case ']':
        return new_list(m, LIST);
    case ')':
        return new_list(m, TUPLE);
    case '}':
        return new_list(m, DICT);
    case 0x8f:
        return push_kind(m, OPAQUE); /* EMPTY_SET */
    case 'a':
        return do_append(m, 1, LIST);
    case 's':
        return do_append(m, 2, DICT);
    case 'e':
        return pop_mark(m, &n) < 0 ? -1 : do_append(m, n, LIST);
    case 0x90:
        return pop_mark(m, &n) < 0 ? -1 : do_append(m, n, LIST); /* ADDITEMS */
    case 'u':
        return pop_mark(m, &n) < 0 ? -1 : do_append(m, n, DICT);
    case 't':
        return pop_mark(m, &n) < 0 ? -1 : make_tuple(m, n);
    case 0x85:
        return make_tuple(m, 1);
    case 0x86:
        return make_tuple(m, 2);
    case 0x87:
        return make_tuple(m, 3);
    case 0x91: /* FROZENSET */
        if (pop_mark(m, &n) < 0)
            return -1;
        m->n_stack -= n;
        return push_kind(m, OPAQUE);

    case 'c':
        return do_global(m);
    case 0x93:
        return do_stack_global(m);
    case 'Q':
        return do_persistent(m);
    case 'R':
        return do_reduce(m);
    case 0x81:
        return do_newobj(m, 2);
    case 0x92:
        return do_newobj(m, 3);
    case 'b':
        return do_build(m);

    case 'q':
        return take_uint(m, 1, &v) < 0 ? -1 : put_memo(m, v);
    case 'r':
        return take_uint(m, 4, &v) < 0 ? -1 : put_memo(m, v);
    case 0x94:
        return put_memo(m, m->used_memo); /* MEMOIZE */
    case 'h':
        return take_uint(m, 1, &v) < 0 ? -1 : get_memo(m, v);
    case 'j':
        return take_uint(m, 4, &v) < 0 ? -1 : get_memo(m, v);
    default:
        m->at--;
        return refuse(m, "opcode 0x%02x, which this reader does not know; nothing was executed", op);
    }
}

int pickle_try_read(const char *path, const void *data, size_t n, pickle_find_storage *find, void *arg,
                    int file, struct foreign_list *l)
{
    struct machine m = {
        .path = path, .data = data, .n = n, .find = find, .find_arg = arg, .file = file, .out = l
    };
    int state = 0;
    if (n > PICKLE_MAX)
        return err_set("%s: a pickle of %zu bytes; %d are allowed", path, n, PICKLE_MAX);
    while (state == 0)
        state = step(&m);
    if (state == 1)
        state = pickle_walk(&m, top_row(&m, 0), 0);
    for (size_t i = 0; i < m.n_lists; i++)
        free(m.lists[i].v);
    free(m.lists);
    free(m.values);
    free(m.stack);
    free(m.marks);
    free(m.memo);
    free(m.storages);
    free(m.tensors);
    return state;
}
