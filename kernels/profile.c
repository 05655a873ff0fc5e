/* profile.c - a backend in front of another that measures each call (profile.h)
 * SPDX-License-Identifier: MIT
 */
#include "profile.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "cost.h"

#define FIRST 3      /* steps that are left out: they warm up caches, clocks and allocators */
#define PENDING 1000 /* calls between two looks at the marks, of which a backend remembers 4096 */

enum {
#define ROW(op, type) ROW_##op,
    COST_OPS(ROW)
#undef ROW
        ROW_copy,
    ROW_zero,
    ROWS
};

struct row {
    const char *name;
    int64_t calls;
    double seconds, flop, bytes;
    double least; /* seconds that the device's limits ask for, as far as they are known */
};

static struct {
    const struct backend *be; /* the one behind; NULL: nothing is wrapped */
    struct backend front;
    struct device_info info;
    FILE *out;
    int64_t want, seen; /* steps */
    bool on;
    struct row row[ROWS];
    struct {
        int row, from, to;
    } pending[PENDING];
    int n;
    int last; /* the mark up to which time is in `elapsed` */
    double elapsed;
} p = {
    .row = {
#define ROW(op, type) { .name = #op },
        COST_OPS(ROW)
#undef ROW
        { .name = "copy" }, { .name = "zero" },
    },
};

/* Waits for the device. */
static void look(void)
{
    int now = p.be->mark(MARK_NEXT);

    for (int i = 0; i < p.n; i++)
        p.row[p.pending[i].row].seconds += p.be->between(p.pending[i].from, p.pending[i].to);
    p.elapsed += p.be->between(p.last, now);
    p.last = now;
    p.n = 0;
}

static void record(int row, int from, struct cost c)
{
    struct row *r = &p.row[row];
    double by_flop = p.info.peak[c.dtype] > 0 ? c.flop / p.info.peak[c.dtype] : 0;
    double by_bytes = p.info.bandwidth > 0 ? c.bytes / p.info.bandwidth : 0;

    p.pending[p.n].row = row;
    p.pending[p.n].from = from;
    p.pending[p.n++].to = p.be->mark(MARK_NEXT);
    r->calls++;
    r->flop += c.flop;
    r->bytes += c.bytes;
    r->least += fmax(by_flop, by_bytes);
    if (p.n == PENDING)
        look();
}

#define MEASURED(op, type)                                                                                   \
    static void front_##op(const struct type *a)                                                             \
    {                                                                                                        \
        int from = p.on ? p.be->mark(MARK_NEXT) : 0;                                                         \
                                                                                                             \
        p.be->op(a);                                                                                         \
        if (p.on)                                                                                            \
            record(ROW_##op, from, cost_##op(a));                                                            \
    }
COST_OPS(MEASURED)

static void front_copy(void *dst, const void *src, size_t bytes)
{
    int from = p.on ? p.be->mark(MARK_NEXT) : 0;

    p.be->copy(dst, src, bytes);
    if (p.on)
        record(ROW_copy, from, (struct cost){ .bytes = 2 * (double)bytes });
}

static void front_zero(void *x, size_t bytes)
{
    int from = p.on ? p.be->mark(MARK_NEXT) : 0;

    p.be->zero(x, bytes);
    if (p.on)
        record(ROW_zero, from, (struct cost){ .bytes = (double)bytes });
}

const struct backend *profile_wrap(const struct backend *be, int64_t steps, FILE *out)
{
    p.be = be;
    p.want = steps;
    p.out = out;
    be->info(&p.info);
    p.front = *be;
#define FRONT(op, type) p.front.op = front_##op;
    COST_OPS(FRONT)
#undef FRONT
    p.front.copy = front_copy;
    p.front.zero = front_zero;
    return &p.front;
}

static int by_seconds(const void *a, const void *b)
{
    const struct row *x = a, *y = b;

    return (x->seconds < y->seconds) - (x->seconds > y->seconds);
}

static void number(double x, const char *format)
{
    fputc('\t', p.out);
    if (x > 0)
        fprintf(p.out, format, x);
    else
        fputc('-', p.out);
}

static void line(const struct row *r, double steps)
{
    fprintf(p.out, "%s\t%.1f\t%.3f\t%.1f", r->name, (double)r->calls / steps, r->seconds / steps * 1e3,
            100 * r->seconds / p.elapsed);
    number(r->flop / r->seconds * 1e-9, "%.1f");
    number(r->bytes / r->seconds * 1e-9, "%.1f");
    number(100 * r->least / r->seconds, "%.1f");
    fputc('\n', p.out);
}

/* Ends the measuring. */
static void print(void)
{
    double steps = (double)(p.seen - FIRST);
    struct row whole = { .name = "step" }, other = { .name = "other" };

    look();
    p.on = false;
    other.seconds = whole.seconds = p.elapsed;
    for (int i = 0; i < ROWS; i++) {
        other.seconds -= p.row[i].seconds;
        whole.calls += p.row[i].calls;
        whole.flop += p.row[i].flop;
        whole.least += p.row[i].least;
    }
    fprintf(p.out, "# profile of steps %d to %" PRId64 " on %s\n", FIRST + 1, p.seen, p.info.name);
    fprintf(p.out, "# op\tcalls\tms\tshare%%\tGFLOP/s\tGB/s\tlimit%%\n");
    qsort(p.row, ROWS, sizeof *p.row, by_seconds);
    for (int i = 0; i < ROWS; i++)
        if (p.row[i].calls)
            line(&p.row[i], steps);
    line(&other, steps);
    line(&whole, steps);
    fflush(p.out);
}

void profile_step(void)
{
    if (!p.be)
        return;
    p.seen++;
    if (p.seen == FIRST) {
        p.on = true;
        p.last = p.be->mark(MARK_NEXT);
    }
    if (p.seen == FIRST + p.want)
        print();
}

void profile_end(void)
{
    if (p.be && p.seen <= FIRST)
        fprintf(p.out, "# no profile: it begins with the step after the first %d\n", FIRST);
    else if (p.be && p.on)
        print();
}
