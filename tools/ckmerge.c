/* ckmerge.c - looks into checkpoints, checks and compares them, and changes their layout
 * SPDX-License-Identifier: MIT
 *
 * Everything streams: a block of rows of one tensor is in memory, never a model. Works as one process, so it
 * starts on any login node.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/opt.h"
#include "common/base/out.h"
#include "common/dist/comm.h"
#include "common/io/ckpt.h"
#include "common/io/rundir.h"

enum { BLOCK = 2 << 20 }; /* elements in memory at once, or one row where that is longer */

static struct {
    const char *out;
    bool force, dry_run, drop_optimizer, model_only;
    int64_t parts;
    double tolerance;
} o = { .parts = 1 };

static struct ckpt *open_input(const char *path, bool deep)
{
    struct ckpt *c = rundir_try_open_ckpt(path, deep);
    if (!c)
        die("%s", err_last());
    return c;
}

static void print_shape(const struct ckpt_tensor *t)
{
    for (int d = 0; d < t->ndim; d++)
        printf("%s%" PRId64, d ? "x" : "", t->shape[d]);
}

/* ---- blocks of rows ---- */

struct block {
    int64_t offset[CKPT_MAX_DIM], count[CKPT_MAX_DIM];
    int64_t end;   /* rows of the walk end here */
    int64_t width; /* elements a row */
};

/* A walk over the rows [first, end) of a tensor. */
static struct block block_begin(const struct ckpt_tensor *t, int64_t first, int64_t end)
{
    struct block b = { .end = end, .width = ckpt_elements(t->ndim, t->shape) / t->shape[0] };
    memcpy(b.count, t->shape, sizeof b.count);
    b.offset[0] = first;
    b.count[0] = 0;
    return b;
}

/* Steps to the next block; false behind the last one. */
static bool block_next(struct block *b)
{
    int64_t rows = b->width < BLOCK ? BLOCK / b->width : 1;
    b->offset[0] += b->count[0];
    b->count[0] = b->end - b->offset[0] < rows ? b->end - b->offset[0] : rows;
    return b->count[0] > 0;
}

/* Elements of the largest block of any tensor. */
static size_t block_elements(const struct ckpt *c)
{
    int64_t most = BLOCK;
    for (int i = 0; i < ckpt_tensors(c); i++) {
        const struct ckpt_tensor *t = ckpt_tensor(c, i);
        int64_t width = ckpt_elements(t->ndim, t->shape) / t->shape[0];
        most = width > most ? width : most;
    }
    return (size_t)most;
}

static float *block_buffer(const struct ckpt *c)
{
    return xmalloc(mul_size(block_elements(c), sizeof(float), "block of rows"));
}

static void read_block(struct ckpt *c, const struct ckpt_tensor *t, const struct block *b, float *data)
{
    if (ckpt_try_read(c, t->name, b->offset, b->count, data) < 0)
        die("%s", err_last());
}

/* ---- ls ---- */

/* The shortest text that reads back to the same number. */
static void print_real(double x)
{
    char s[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, x);
        if (strtod(s, NULL) == x)
            break;
    }
    printf("%s", s);
}

static void print_attrs(const char *group, const struct attrs *as)
{
    for (size_t i = 0; i < as->n; i++) {
        const struct attr *a = &as->a[i];
        printf("#%s.%s=", group, a->name);
        if (a->kind == ATTR_INT)
            printf("%" PRId64 "\n", a->i);
        else if (a->kind == ATTR_REAL) {
            print_real(a->r);
            putchar('\n');
        } else {
            for (const char *s = a->s; *s; s++) /* one line, whatever the text holds */
                putchar((unsigned char)*s < ' ' || *s == 127 ? ' ' : *s);
            putchar('\n');
        }
    }
}

static int run_ls(int n_args, char **args)
{
    (void)n_args;
    struct ckpt *c = open_input(args[0], false);
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
        printf("%s\tf32\t", t->name);
        print_shape(t);
        printf("\t%d\n", end - first);
        first = end;
        if (strncmp(t->name, "model/", 6) == 0)
            total += ckpt_elements(t->ndim, t->shape);
    }
    printf("#parameters=%" PRId64 "\n", total);
    ckpt_close(c);
    return EXIT_DONE;
}

/* ---- verify ---- */

static void verify(const char *path)
{
    struct ckpt *c = open_input(path, false);
    int64_t bytes = 0;
    for (int i = 0; i < ckpt_members(c); i++) {
        if (ckpt_try_verify(c, i) < 0)
            die("%s", err_last());
        bytes += ckpt_member(c, i)->bytes;
    }
    float *row = block_buffer(c);
    for (int i = 0; i < ckpt_pieces(c); i++) { /* every piece is where the index says */
        const struct ckpt_piece *p = ckpt_piece(c, i);
        if (ckpt_try_read(c, p->tensor.name, p->offset, (const int64_t[CKPT_MAX_DIM]){ 1, 1, 1, 1 }, row) < 0)
            die("%s", err_last());
    }
    char size[32];
    note(1, "'%s' is whole: %d tensors, %d members, %sB", ckpt_dir(c), ckpt_tensors(c), ckpt_members(c),
         format_si((double)bytes, size));
    free(row);
    ckpt_close(c);
}

static int run_verify(int n_args, char **args)
{
    for (int i = 0; i < n_args; i++)
        verify(args[i]);
    return EXIT_DONE;
}

/* ---- compare ---- */

struct verdict {
    int64_t differences; /* attributes and tensors */
    float *a, *b;        /* blocks */
};

static void print_value(const struct attr *a)
{
    if (!a)
        printf("missing");
    else if (a->kind == ATTR_INT)
        printf("%" PRId64, a->i);
    else if (a->kind == ATTR_REAL)
        print_real(a->r);
    else
        printf("'%.60s'", a->s);
}

static bool same_attr(const struct attr *a, const struct attr *b)
{
    if (!a || !b || a->kind != b->kind)
        return a == b;
    if (a->kind == ATTR_STR)
        return strcmp(a->s, b->s) == 0;
    return a->kind == ATTR_INT ? a->i == b->i : memcmp(&a->r, &b->r, sizeof a->r) == 0;
}

static void compare_attr(struct verdict *v, const char *group, const struct attr *a, const struct attr *b)
{
    if (same_attr(a, b))
        return;
    printf("%s\t%s\t-\t-\t", group, (a ? a : b)->name);
    print_value(a);
    printf(" / ");
    print_value(b);
    printf("\n");
    v->differences++;
}

static void compare_attrs(struct verdict *v, const char *group, const struct attrs *a, const struct attrs *b)
{
    for (size_t i = 0; i < a->n; i++)
        compare_attr(v, group, &a->a[i], attrs_find(b, a->a[i].name));
    for (size_t i = 0; i < b->n; i++)
        if (!attrs_find(a, b->a[i].name))
            compare_attr(v, group, NULL, &b->a[i]);
}

/* What differs between two tensors. */
struct gap {
    int64_t count, first; /* elements; index of the first, flat */
    float a, b;           /* there */
    double max;
};

static void measure(struct gap *g, const float *a, const float *b, int64_t n, int64_t at)
{
    if (memcmp(a, b, (size_t)n * sizeof *a) == 0)
        return;
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(&a[i], &b[i], sizeof *a) == 0)
            continue;
        double d = fabs((double)a[i] - (double)b[i]);
        d = isnan(d) ? INFINITY : d;
        if (o.tolerance > 0 && d <= o.tolerance)
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
        read_block(ca, t, &b, v->a);
        read_block(cb, t, &b, v->b);
        measure(&g, v->a, v->b, b.count[0] * b.width, b.offset[0] * b.width);
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

/* The next tensor at or behind i that counts. */
static const struct ckpt_tensor *tensor_from(const struct ckpt *c, int *i)
{
    for (; *i < ckpt_tensors(c); ++*i) {
        const struct ckpt_tensor *t = ckpt_tensor(c, *i);
        if (!o.model_only || strncmp(t->name, "model/", 6) == 0)
            return t;
    }
    return NULL;
}

static int run_compare(int n_args, char **args)
{
    (void)n_args;
    struct ckpt *ca = open_input(args[0], false), *cb = open_input(args[1], false);
    struct verdict v = { .a = block_buffer(ca), .b = block_buffer(ca) };
    printf("#what\tname\tdiffering\tmax_abs\tfirst\n");
    compare_attrs(&v, "config", ckpt_config(ca), ckpt_config(cb));
    if (!o.model_only)
        compare_attrs(&v, "state", ckpt_state(ca), ckpt_state(cb));
    for (int i = 0, j = 0;;) {
        const struct ckpt_tensor *a = tensor_from(ca, &i), *b = tensor_from(cb, &j);
        int d = !a || !b ? !a - !b : strcmp(a->name, b->name);
        if (!a && !b)
            break;
        if (d < 0)
            tensor_alone(&v, a, "only in the first");
        else if (d > 0)
            tensor_alone(&v, b, "only in the second");
        else if (a->ndim != b->ndim || memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof *a->shape) != 0)
            tensor_alone(&v, a, "another shape");
        else
            compare_tensor(&v, ca, cb, a);
        i += d <= 0;
        j += d >= 0;
    }
    free(v.a);
    free(v.b);
    ckpt_close(ca);
    ckpt_close(cb);
    return v.differences ? EXIT_FAILED : EXIT_DONE;
}

/* ---- merge, split ---- */

static bool wanted(const struct ckpt_tensor *t)
{
    return !o.drop_optimizer || strncmp(t->name, "model/", 6) == 0;
}

static void print_plan(const struct ckpt_tensor *t, int n, int parts)
{
    struct ckpt_piece *pieces = xcalloc((size_t)n, sizeof *pieces);
    printf("#part\tpieces\telements\tbytes\n");
    for (int p = 0; p < parts; p++) {
        int64_t elements = 0;
        int k = ckpt_cut_rows(t, n, p, parts, pieces);
        for (int i = 0; i < k; i++)
            elements += ckpt_elements(t->ndim ? pieces[i].tensor.ndim : 0, pieces[i].count);
        printf("%d\t%d\t%" PRId64 "\t%" PRId64 "\n", p, k, elements, elements * (int64_t)sizeof(float));
    }
    free(pieces);
}

static void write_part(struct ckpt *c, const struct ckpt_piece *pieces, int n, int part, int parts,
                       float *block, struct progress *bar, int64_t *done, struct set_member *m)
{
    struct ckpt_writer *w = ckpt_create_member(o.out, part, parts);
    for (int i = 0; i < n; i++) {
        const struct ckpt_piece *p = &pieces[i];
        ckpt_begin_piece(w, p);
        for (struct block b = block_begin(&p->tensor, p->offset[0], p->offset[0] + p->count[0]);
             block_next(&b);) {
            read_block(c, &p->tensor, &b, block);
            ckpt_put_rows(w, block, b.count[0]);
            *done += b.count[0] * b.width;
            progress_at(bar, *done, "elements");
        }
    }
    ckpt_commit_member(w, m);
}

static void write_all(struct ckpt *c, const struct ckpt_tensor *t, int n, int parts)
{
    struct set_member *members = xcalloc((size_t)parts, sizeof *members);
    struct ckpt_piece *pieces = xcalloc((size_t)n, sizeof *pieces);
    float *block = block_buffer(c);
    struct progress bar;
    int64_t total = 0, done = 0;
    for (int i = 0; i < n; i++)
        total += ckpt_elements(t[i].ndim, t[i].shape);
    set_prepare(o.out, o.force);
    progress_begin(&bar, 0, total, 10);
    for (int p = 0; p < parts; p++) {
        int k = ckpt_cut_rows(t, n, p, parts, pieces);
        write_part(c, pieces, k, p, parts, block, &bar, &done, &members[p]);
    }
    progress_end(&bar);
    const char *before = ckpt_history(c);
    char *history = xasprintf("%s%s%s", before, *before ? "\n" : "", meter_history());
    bool state = !o.drop_optimizer && ckpt_state(c)->n > 0;
    ckpt_write_index(o.out, members, parts, ckpt_config(c), state ? ckpt_state(c) : NULL, history, o.force);
    free(history);
    free(block);
    free(pieces);
    free(members);
}

/* The input as `parts` files in o.out. */
static int rewrite(const char *input, int parts)
{
    if (!o.out)
        die_usage("no output: -o DIR");
    struct ckpt *c = open_input(input, true);
    if (path_same(ckpt_dir(c), o.out) || path_same(input, o.out))
        die("'%s' is both input and output", o.out);
    if (!o.force && set_exists(o.out))
        die("'%s' holds a set already; --force replaces it", o.out);
    struct ckpt_tensor *t = xcalloc((size_t)ckpt_tensors(c), sizeof *t);
    int n = 0;
    for (int i = 0; i < ckpt_tensors(c); i++)
        if (wanted(ckpt_tensor(c, i)))
            t[n++] = *ckpt_tensor(c, i);
    if (n == 0)
        die("'%s' holds no tensor to write", ckpt_dir(c));
    if (o.dry_run) {
        print_plan(t, n, parts);
    } else {
        write_all(c, t, n, parts);
        meter_last_words(NULL);
    }
    free(t);
    ckpt_close(c);
    return EXIT_DONE;
}

static int run_merge(int n_args, char **args)
{
    (void)n_args;
    return rewrite(args[0], 1);
}

static int run_split(int n_args, char **args)
{
    (void)n_args;
    return rewrite(args[0], (int)o.parts);
}

int main(int argc, char **argv)
{
    static struct opt none[] = { OPT_END };
    static struct opt compare[] = {
        OPT_REAL(0, "tolerance", "X", &o.tolerance, 0, 1e30,
                 "elements may differ by so much; 0: bit for bit"),
        OPT_FLAG(0, "model-only", &o.model_only, "leave out state and optimizer"),
        OPT_END,
    };
    static struct opt merge[] = {
        OPT_STR('o', "output", "DIR", &o.out, "folder of the new checkpoint"),
        OPT_FLAG('f', "force", &o.force, "replace the checkpoint in DIR"),
        OPT_FLAG('n', "dry-run", &o.dry_run, "say what would be written, write nothing"),
        OPT_FLAG(0, "drop-optimizer", &o.drop_optimizer,
                 "write the model alone, without state and optimizer"),
        OPT_END,
    };
    static struct opt split[] = {
        OPT_STR('o', "output", "DIR", &o.out, "folder of the new checkpoint"),
        OPT_INT(0, "parts", "N", &o.parts, 1, 99999, "files to write"),
        OPT_FLAG('f', "force", &o.force, "replace the checkpoint in DIR"),
        OPT_FLAG('n', "dry-run", &o.dry_run, "say what would be written, write nothing"),
        OPT_FLAG(0, "drop-optimizer", &o.drop_optimizer,
                 "write the model alone, without state and optimizer"),
        OPT_END,
    };
    static const struct command commands[] = {
        { "ckmerge ls", "CHECKPOINT", "List tensors, configuration and state.", none, NULL, 1, 1, run_ls },
        { "ckmerge verify", "CHECKPOINT...", "Read everything and check the checksums.", none, NULL, 1, -1,
          run_verify },
        { "ckmerge compare", "[options] A B",
          "Say what differs; exit 0 when nothing does, 1 when something does.", compare, NULL, 2, 2,
          run_compare },
        { "ckmerge merge", "[options] -o DIR CHECKPOINT", "Write a checkpoint of any layout as one file.",
          merge, NULL, 1, 1, run_merge },
        { "ckmerge split", "[options] -o DIR --parts N CHECKPOINT",
          "Write a checkpoint of any layout as N files.", split, NULL, 1, 1, run_split },
        { NULL, NULL, NULL, NULL, NULL, 0, 0, NULL },
    };
    err_init("ckmerge");
    comm_init(&argc, &argv);
    if (comm_world()->size > 1)
        die_usage("ckmerge runs as one process, not as %d ranks", comm_world()->size);
    command_dispatch("ckmerge", "Looks into checkpoints, checks and compares them, and changes their layout.",
                     commands, argc, argv);
}
