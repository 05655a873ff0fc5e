/* device_trial.c - runs one call of an op on a device and on the CPU, and compares (device_trial.h)
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cost.h"
#include "device_trial.h"

#define GUARD 0xffc5u  /* a NaN as bf16, and twice as fp32 */
#define POISON 0xffffu /* another */
#define FIELDS 40
#define BEHIND 64 /* guarded elements behind the last row */
#define MOST 4096 /* bytes of an op's struct */
#define CANCELS 0.1 /* a gradient that cancels to less keeps the rounding of its terms, which are of about 1 */

struct field {
    const char *name;
    size_t at;
    bool tensor, device_only;
    enum width width;
    int64_t rows, cols;
    enum role role[2];
    int alias;    /* the field whose memory it shares, or -1 */
    int mirror;   /* the field that it must become equal to, or -1 */
    float *value; /* [rows,cols] */
    float *ref;   /* [rows,cols]: what the CPU made of it */
};

/* The memory of a field: rows ld elements apart from `lead` elements on, guards around them. */
struct image {
    enum width as; /* never ACT or RES */
    int64_t lead, ld;
    size_t bytes;
    unsigned char *host, *dev;
};

static struct {
    struct setting s;
    struct limits limits;
    bool exact, nan_spreads;
    char title[160];
    struct field f[FIELDS];
    int n;
} t;

static uint64_t rng;
static int failures;

void device_seed(uint64_t seed) { rng = seed * 0x9e3779b97f4a7c15u + 1; }

/* splitmix64 (Steele, Lea & Flood 2014) */
double device_uniform(void)
{
    uint64_t z = rng += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

int64_t device_below(int64_t n) { return (int64_t)(device_uniform() * (double)n); }

int device_failures(void)
{
    int n = failures;

    failures = 0;
    return n;
}

static uint32_t bits_of(float x)
{
    uint32_t u;

    memcpy(&u, &x, sizeof u);
    return u;
}

static float of_bits(uint32_t u)
{
    float x;

    memcpy(&x, &u, sizeof x);
    return x;
}

/* To nearest, ties to even; a NaN stays one. */
static uint16_t to_bf16(float x)
{
    uint32_t u = bits_of(x);

    return (uint16_t)(isnan(x) ? (u >> 16) | 0x40 : (u + 0x7fff + (u >> 16 & 1)) >> 16);
}

float device_round(float x, enum dtype d) { return d == BF16 ? of_bits((uint32_t)to_bf16(x) << 16) : x; }

size_t device_size(enum dtype d) { return d == F32 ? 4 : 2; }

static enum dtype dtype_of(enum width c) { return c == HALF ? BF16 : F32; }

/* The width that a field has on the device, and on the CPU, which has floats only. */
static enum width width_on(const struct field *f, bool device)
{
    if (f->width == INT || f->width == BYTE)
        return f->width;
    if (!device || f->width == FLT)
        return FLT;
    return (f->width == ACT ? t.s.act : f->width == RES ? t.s.res : BF16) == BF16 ? HALF : FLT;
}

/* ---- the table by name ---- */

#define X(op, type)                                                                                          \
    static void call_##op(const struct backend *be, const void *a) { be->op((const struct type *)a); }
COST_OPS(X)
#undef X

bool device_call(const struct backend *be, const char *op, const void *a)
{
    static const struct {
        const char *name;
        void (*call)(const struct backend *, const void *);
    } ops[] = {
#define X(op, type) { #op, call_##op },
        COST_OPS(X)
#undef X
    };

    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (strcmp(ops[i].name, op) == 0) {
            ops[i].call(be, a);
            return true;
        }
    return false;
}

#define WORKS(X) X(colsum) X(embed) X(norm) X(gatednorm) X(conv1d) X(ssd) X(scan) X(rglru) X(attn) X(xent)

size_t device_work(const struct backend *be, const char *type, const void *a, size_t *at)
{
#define X(op)                                                                                                \
    if (strcmp(type, #op) == 0) {                                                                            \
        *at = offsetof(struct op, work);                                                                     \
        return be->op##_work((const struct op *)a);                                                          \
    }
    WORKS(X)
#undef X
    *at = 0;
    return 0;
}

/* ---- the list of fields ---- */

void trial_begin(const struct setting *s, const char *format, ...)
{
    static const char *const dtype[] = { "f32", "bf16" }, *const layout[] = { "tight", "aligned", "odd" };
    va_list ap;
    int n = snprintf(t.title, sizeof t.title, "%s/%s %s ", dtype[s->act], dtype[s->res], layout[s->layout]);

    va_start(ap, format);
    vsnprintf(t.title + n, sizeof t.title - (size_t)n, format, ap);
    va_end(ap);
    t.s = *s;
    t.n = 0;
    t.exact = t.nan_spreads = false;
    /* fp32: sums of some hundred terms in another order, and other exponentials. bf16: rounded once, 2^-9 of
     * its own size, and what is stored may have been rounded from a number on the other side of a tie. mixed:
     * bf16 inputs are exact to both, so that only the order of sums counts. */
    t.limits = (struct limits){ 2e-5, 0x1p-8, 5e-5 };
}

void trial_limits(struct limits l) { t.limits = l; }
void trial_exact(void) { t.exact = true; }
void trial_nan_spreads(void) { t.nan_spreads = true; }

static int find(const char *name)
{
    for (int i = 0; i < t.n; i++)
        if (strcmp(t.f[i].name, name) == 0)
            return i;
    fail_msg("%s: no field '%s'", t.title, name);
    return -1;
}

static void *room(int64_t n, size_t size)
{
    void *p = calloc((size_t)n + 1, size);

    assert_non_null(p);
    return p;
}

void trial_field(const char *name, size_t at, bool tensor, enum width width, int64_t rows, int64_t cols,
                 enum role fwd, enum role bwd, double lo, double hi)
{
    struct field *f = &t.f[t.n++];

    assert_true(t.n <= FIELDS);
    *f = (struct field){ name, at, tensor, false, width, rows, cols, { fwd, bwd }, -1, -1, NULL, NULL };
    f->value = room(rows * cols, sizeof(float));
    f->ref = room(rows * cols, sizeof(float));
    for (int64_t i = 0; i < rows * cols; i++)
        f->value[i] = (float)(lo + (hi - lo) * device_uniform());
}

float *trial_values(const char *name) { return t.f[find(name)].value; }

void trial_alias(const char *name, size_t at, const char *of)
{
    struct field *f = &t.f[t.n++];

    assert_true(t.n <= FIELDS);
    *f = (struct field){ .name = name, .at = at, .tensor = true, .alias = find(of), .mirror = -1 };
}

void trial_mirror(const char *name, const char *of)
{
    struct field *f = &t.f[find(name)];

    f->mirror = find(of);
    f->device_only = true;
    memcpy(f->value, t.f[f->mirror].value, (size_t)(f->rows * f->cols) * sizeof(float));
}

/* ---- memory ---- */

static size_t element(enum width as) { return as == HALF ? 2 : as == BYTE ? 1 : 4; }

static void encode(unsigned char *to, enum width as, float x)
{
    uint32_t u = bits_of(x);
    uint16_t h = to_bf16(x);
    int32_t i = as == INT || as == BYTE ? (int32_t)x : 0;
    unsigned char b = (unsigned char)i;

    memcpy(to,
           as == HALF   ? (void *)&h
           : as == INT  ? (void *)&i
           : as == BYTE ? (void *)&b
                        : (void *)&u,
           element(as));
}

/* A poison stays recognisable. */
static float decode(const unsigned char *from, enum width as)
{
    uint32_t u = 0;
    uint16_t h = 0;

    if (as == FLT) {
        memcpy(&u, from, 4);
        return of_bits(u);
    }
    assert_int_equal(as, HALF);
    memcpy(&h, from, 2);
    return of_bits(h == POISON ? 0xffffffffu : (uint32_t)h << 16);
}

static bool is_poison(float x) { return bits_of(x) == 0xffffffffu; }

static unsigned char *place(const struct image *m, int64_t r, int64_t c)
{
    return m->host + (size_t)(m->lead + r * m->ld + c) * element(m->as);
}

static void image_make(struct image *m, const struct field *f, enum role role, const struct backend *be,
                       bool device)
{
    enum layout l = device ? t.s.layout : TIGHT;

    m->as = width_on(f, device);
    m->lead = f->tensor && l == ALIGNED ? 8 : f->tensor && l == ODD ? 3 : 0;
    m->ld = !f->tensor || l == TIGHT ? f->cols : l == ODD ? f->cols + 5 : (f->cols + 15) / 8 * 8;
    m->bytes = (size_t)(m->lead + f->rows * m->ld + BEHIND) * element(m->as);
    m->host = room((int64_t)m->bytes, 1);
    for (size_t i = 0; i < m->bytes; i++)
        m->host[i] = i % 2 ? GUARD >> 8 : GUARD & 0xff;
    for (int64_t r = 0; r < f->rows; r++)
        for (int64_t c = 0; c < f->cols; c++)
            if (role == OUT)
                memset(place(m, r, c), POISON & 0xff, element(m->as));
            else
                encode(place(m, r, c), m->as, f->value[r * f->cols + c]);
    m->dev = be->alloc(m->bytes);
    assert_non_null(m->dev);
    be->upload(m->dev, m->host, m->bytes);
}

static void image_free(struct image *m, const struct backend *be)
{
    be->free(m->dev);
    free(m->host);
}

static void point(unsigned char *op, const struct field *f, const struct image *m)
{
    struct tensor x = { NULL, 0, F32 };

    if (m) {
        x = (struct tensor){ m->dev + (size_t)m->lead * element(m->as), m->ld, dtype_of(m->as) };
    }
    if (f->tensor)
        memcpy(op + f->at, &x, sizeof x);
    else
        memcpy(op + f->at, &x.data, sizeof x.data);
}

/* ---- comparisons ---- */

static void complain(const char *op, const struct field *f, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void complain(const char *op, const struct field *f, const char *format, ...)
{
    char text[300];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    print_error("%s %s: %s: %s\n", op, t.title, f->name, text);
    failures++;
}

/* Nothing around the rows has changed, nor in them when they are inputs. */
static void check_outside(const char *op, const struct field *f, enum role role, struct image *m,
                          const unsigned char *after)
{
    size_t line = (size_t)f->cols * element(m->as), row = (size_t)m->ld * element(m->as),
           lead = (size_t)m->lead * element(m->as);

    for (size_t i = 0; i < m->bytes; i++) {
        bool inside = i >= lead && i < lead + (size_t)f->rows * row && (i - lead) % row < line;

        if ((!inside || role == IN) && after[i] != m->host[i]) {
            complain(op, f, "byte %lld %s was written", (long long)i - (long long)lead,
                     inside ? "of an input" : "outside of its rows");
            return;
        }
    }
}

static void check_close(const char *op, const struct field *f, int phase, const struct image *m)
{
    enum dtype d = dtype_of(m->as);
    double limit = d == BF16        ? t.limits.bf16
                   : t.s.act == F32 ? t.limits.f32
                                    : t.limits.mixed,
           scale = phase ? CANCELS : 1e-30, worst = 0;
    int64_t at = -1, nans = 0, nans_ref = 0;

    for (int64_t i = 0; i < f->rows * f->cols; i++)
        if (isfinite(f->ref[i]))
            scale = fmax(scale, fabs((double)f->ref[i]));
    for (int64_t i = 0; i < f->rows * f->cols; i++) {
        float got = decode(place(m, i / f->cols, i % f->cols), m->as), ref = f->ref[i];
        double err = INFINITY;

        nans += isnan(got);
        nans_ref += isnan(ref);
        if (is_poison(ref) || is_poison(got))
            err = is_poison(ref) && is_poison(got) ? 0 : INFINITY;
        else if (isnan(ref) || isnan(got))
            err = t.nan_spreads || (isnan(ref) && isnan(got)) ? 0 : INFINITY;
        else if (t.exact)
            err = got == device_round(ref, d) ? 0 : INFINITY;
        else
            err = got == ref ? 0 : fabs((double)got - (double)ref) / scale;
        if (at < 0 || !(err <= worst)) {
            worst = err;
            at = i;
        }
    }
    if (nans == 0 && nans_ref > 0)
        complain(op, f, "has no NaN, and CPU has %lld", (long long)nans_ref);
    else if (!(worst <= limit) || (t.exact && worst > 0))
        complain(
            op, f, "[%lld,%lld] of [%lld,%lld] is %.9g, CPU has %.9g: error %.2g of the largest, limit %.2g",
            (long long)(at / f->cols), (long long)(at % f->cols), (long long)f->rows, (long long)f->cols,
            (double)decode(place(m, at / f->cols, at % f->cols), m->as), (double)f->ref[at], worst, limit);
    else if (getenv("DEVICE_VERBOSE"))
        print_message("%s %s: %s: error %.2g, limit %.2g\n", op, t.title, f->name, worst, limit);
}

/* ---- runs ---- */

/* Calls `op` with memory of `be`; images are the caller's to free. slack: guarded bytes behind the scratch */
static void call(const struct backend *be, bool device, int phase, const void *sizes, const char *type,
                 const char *op, size_t slack, struct image *image)
{
    static unsigned char args[MOST] __attribute__((aligned(16)));
    unsigned char *junk, *work;
    const char *fault;
    size_t at, bytes;

    memcpy(args, sizes, MOST);
    for (int i = 0; i < t.n; i++) {
        const struct field *f = &t.f[i];

        memset(&image[i], 0, sizeof image[i]);
        if (f->alias >= 0) {
            bool there = t.f[f->alias].role[phase] != NO;

            point(args, f, there ? &image[f->alias] : NULL);
        } else if (f->role[phase] == NO || (f->device_only && !device)) {
            point(args, f, NULL);
        } else {
            image_make(&image[i], f, f->role[phase], be, device);
            point(args, f, &image[i]);
        }
    }
    bytes = device_work(be, type, args, &at);
    junk = room((int64_t)(bytes + slack), 1);
    memset(junk, 0xff, bytes + slack);
    work = be->alloc(bytes + slack);
    assert_non_null(work);
    be->upload(work, junk, bytes + slack);
    if (at)
        memcpy(args + at, &work, sizeof work);
    if (!device_call(be, op, args))
        fail_msg("no op '%s'", op);
    fault = be->sync();
    if (fault)
        fail_msg("%s %s: %s", op, t.title, fault);
    memset(junk, 0, bytes + slack);
    be->download(junk, work, bytes + slack);
    for (size_t i = 0; i < slack; i++)
        if (junk[bytes + i] != 0xff) {
            print_error("%s %s: wrote byte %zu behind its scratch of %zu\n", op, t.title, i, bytes);
            failures++;
            break;
        }
    be->free(work);
    free(junk);
}

static void run_cpu(int phase, const void *sizes, const char *type, const char *op)
{
    const struct backend *be = backend_cpu();
    static struct image image[FIELDS];

    call(be, false, phase, sizes, type, op, 0, image);
    for (int i = 0; i < t.n; i++) {
        struct field *f = &t.f[i];

        if (!image[i].host)
            continue;
        be->download(image[i].host, image[i].dev, image[i].bytes);
        if (f->role[phase] != IN)
            for (int64_t k = 0; k < f->rows * f->cols; k++)
                f->ref[k] = decode(place(&image[i], k / f->cols, k % f->cols), image[i].as);
        image_free(&image[i], be);
    }
    for (int i = 0; i < t.n; i++)
        if (t.f[i].mirror >= 0)
            memcpy(t.f[i].ref, t.f[t.f[i].mirror].ref, (size_t)(t.f[i].rows * t.f[i].cols) * sizeof(float));
}

static void run_device(int phase, const void *sizes, const char *type, const char *op)
{
    static struct image first[FIELDS], second[FIELDS];

    /* Once with scratch that ends where it ends, for tools that watch that, and once with room to see what is
     * there. */
    call(device_be, true, phase, sizes, type, op, 0, first);
    call(device_be, true, phase, sizes, type, op, 256, second);
    for (int i = 0; i < t.n; i++) {
        const struct field *f = &t.f[i];
        struct image *m = &first[i];
        unsigned char *after;

        if (!m->host)
            continue;
        after = room((int64_t)m->bytes, 1);
        device_be->download(after, m->dev, m->bytes);
        device_be->download(second[i].host, second[i].dev, m->bytes);
        check_outside(op, f, f->role[phase], m, after);
        if (memcmp(after, second[i].host, m->bytes) != 0)
            complain(op, f, "a second call gives other bits");
        memcpy(m->host, after, m->bytes);
        if (f->role[phase] != IN)
            check_close(op, f, phase, m);
        free(after);
        image_free(&second[i], device_be);
        image_free(m, device_be);
    }
}

/* What the op reads has the dtype that the device has it in. */
static void round_inputs(void)
{
    for (int i = 0; i < t.n; i++)
        for (int64_t k = 0; t.f[i].alias < 0 && k < t.f[i].rows * t.f[i].cols; k++)
            t.f[i].value[k] = device_round(t.f[i].value[k], dtype_of(width_on(&t.f[i], true)));
}

static const struct {
    const char *name;
    size_t size;
} types[] = {
#define X(op, type) { #type, sizeof(struct type) },
    COST_OPS(X)
#undef X
};

void trial_run(const void *op, const char *type, const char *fwd, const char *bwd)
{
    static unsigned char sizes[MOST];
    static int turn;
    int phases = turn++ % trial_every ? 0 : bwd ? 2 : 1;

    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, type) == 0)
            memcpy(sizes, op, types[i].size);
    for (int phase = 0; phase < phases; phase++) {
        const char *name = phase ? bwd : fwd;

        round_inputs();
        run_cpu(phase, sizes, type, name);
        run_device(phase, sizes, type, name);
        for (int i = 0; i < t.n; i++) /* what was saved */
            if (t.f[i].alias < 0 && t.f[i].role[phase] == OUT)
                memcpy(t.f[i].value, t.f[i].ref, (size_t)(t.f[i].rows * t.f[i].cols) * sizeof(float));
    }
    for (int i = 0; i < t.n; i++) {
        free(t.f[i].value);
        free(t.f[i].ref);
    }
    t.n = 0;
}

/* ---- settings and documents ---- */

void each_setting(void (*f)(const struct setting *s), bool residual)
{
    static int turn;

    for (int act = F32; act <= BF16; act++)
        for (int res = F32; res <= BF16; res++)
            if ((device_be->dtypes & 1u << act) && (device_be->dtypes & 1u << res) &&
                (res == act || (residual && res == F32)))
                for (int i = 0; i < (residual && act != res ? 1 : LAYOUTS); i++)
                    f(&(struct setting){ (enum dtype)act, (enum dtype)res,
                                         (enum layout)((i + turn++) % LAYOUTS) });
    assert_int_equal(device_failures(), 0);
}

void make_documents(float *start, int64_t B, int64_t T, int64_t edge, enum documents kind)
{
    for (int64_t b = 0; b < B; b++) {
        float begin = kind == DOC_BEFORE           ? -0x1p30f
                      : kind == DOC_TAIL           ? -2
                      : kind == DOC_EDGES && b % 2 ? -1000
                                                   : 0;
        int64_t next = kind == DOC_RANDOM ? device_below(12) : T;

        for (int64_t i = 0; i < T; i++) {
            int64_t off = i % edge;
            bool cut = (kind == DOC_ONE) ||
                       (kind == DOC_EDGES && i > 1 && (off == 0 || off == 1 || off == edge - 1)) ||
                       (kind == DOC_TAIL && i == T - 2);

            if (kind == DOC_RANDOM && i == next) {
                cut = true;
                next = i + 1 + device_below(2 * edge);
            }
            start[b * T + i] = begin = cut ? (float)i : begin;
        }
    }
}
