/* plans.c - which algorithm each matrix product takes: measured, told as text, read again
 * SPDX-License-Identifier: MIT
 */
#include "plans.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TITLE "# ssmtools: algorithms of matrix products, measured; format 1"
#define MAKER "# cuBLASLt "

static const struct {
    const char *name;
    int64_t least, most;
} fields[] = {
#define FIELD(name, least, most) { #name, least, most },
    PLANS_KEY(FIELD)
#undef FIELD
};
enum { FIELDS = sizeof fields / sizeof *fields };
_Static_assert(sizeof(struct plans_key) == FIELDS * sizeof(int64_t), "a key is its fields, nothing between");

static struct plans_choice book[PLANS_MOST];
static int n_choices;
static bool measuring;
static char made_by[200], reason[300];

/* What an address and the distances from it are multiples of, up to 16 bytes. */
static int64_t alignment(const void *p, int64_t ld, int64_t step, enum dtype t)
{
    size_t bytes = t == BF16 ? 2 : 4;
    uintptr_t all = (uintptr_t)p | (uintptr_t)((size_t)ld * bytes) | (uintptr_t)((size_t)step * bytes) | 16;
    return (int64_t)(all & -all);
}

struct plans_key plans_key_of(const struct matmul *m, bool tf32, int processors)
{
    struct plans_key k = { .M = m->M, .N = m->N, .K = m->K, .lda = m->a.ld, .ldb = m->b.ld, .ldc = m->c.ld };
    k.batch = 1;
    if (m->batch > 1) {
        k.batch = m->batch;
        k.step_a = m->step_a;
        k.step_b = m->step_b;
        k.step_c = m->step_c;
        k.step_bias = m->step_bias;
    }
    k.trans_a = m->trans_a;
    k.trans_b = m->trans_b;
    k.in = m->a.dtype;
    k.out = m->c.dtype;
    k.tf32 = tf32 && m->a.dtype == F32;
    k.add = m->add.data != NULL;
    k.bias = m->bias.data != NULL;
    k.processors = processors;
    k.align_a = alignment(m->a.data, m->a.ld, k.step_a, m->a.dtype);
    k.align_b = alignment(m->b.data, m->b.ld, k.step_b, m->b.dtype);
    k.align_c = alignment(m->c.data, m->c.ld, k.step_c, m->c.dtype);
    k.align_add = alignment(m->add.data ? m->add.data : m->c.data, m->c.ld, k.step_c, m->c.dtype);
    return k;
}

void plans_begin(const char *maker) { snprintf(made_by, sizeof made_by, MAKER "%s", maker); }

bool plans_measuring(void) { return measuring; }

struct plans_choice *plans_find(const struct plans_key *k)
{
    for (int i = 0; i < n_choices; i++)
        if (memcmp(&book[i].key, k, sizeof *k) == 0)
            return &book[i];
    return NULL;
}

void plans_add(const struct plans_choice *c)
{
    if (n_choices < PLANS_MOST)
        book[n_choices++] = *c;
}

/* ---- text ---- */

static void print_names(FILE *f)
{
    for (int i = 0; i < FIELDS; i++)
        fprintf(f, "%s\t", fields[i].name);
    fprintf(f, "calls\tfirst_ms\tbest_ms\talgo");
}

static void print_choice(FILE *f, const struct plans_choice *c)
{
    const int64_t *value = (const int64_t *)&c->key;
    for (int i = 0; i < FIELDS; i++)
        fprintf(f, "%lld\t", (long long)value[i]);
    fprintf(f, "%lld\t%.5f\t%.5f\t", (long long)c->calls, c->first_ms, c->best_ms);
    for (int i = 0; i < PLANS_ALGO_WORDS; i++)
        fprintf(f, "%08x%c", (unsigned)c->algo[i], i + 1 < PLANS_ALGO_WORDS ? ' ' : '\n');
}

const char *plans_tell(struct plans_sum *sum)
{
    static char *text;
    size_t bytes;
    free(text);
    text = NULL;
    *sum = (struct plans_sum){ .products = n_choices };
    FILE *f = open_memstream(&text, &bytes);
    if (!f)
        return NULL;
    fprintf(f, TITLE "\n%s\n# in, out: 0 fp32, 1 bf16; ms: of one call\n", made_by);
    print_names(f);
    fputc('\n', f);
    for (int i = 0; i < n_choices; i++) {
        print_choice(f, &book[i]);
        sum->first_ms += (double)book[i].calls * book[i].first_ms;
        sum->best_ms += (double)book[i].calls * book[i].best_ms;
    }
    return fclose(f) == 0 ? text : NULL;
}

/* ---- and back ---- */

/* The text up to the next `end` or NUL, which it ends; *at: behind that, or NULL where the text ends. */
static char *cut(char **at, char end)
{
    char *begin = *at, *stop = strchr(begin, end);
    *at = stop ? stop + 1 : NULL;
    if (stop)
        *stop = '\0';
    return begin;
}

static bool read_int(const char *s, int64_t least, int64_t most, int64_t *value)
{
    char *end;
    errno = 0;
    *value = strtoll(s, &end, 10);
    return end > s && !*end && !errno && *s >= '0' && *s <= '9' && *value >= least && *value <= most;
}

static bool read_ms(const char *s, double *ms)
{
    char *end;
    *ms = strtod(s, &end);
    return end > s && !*end && *s >= '0' && *s <= '9' && isfinite(*ms);
}

static bool read_algo(char *s, uint32_t *algo)
{
    for (int i = 0; i < PLANS_ALGO_WORDS; i++) {
        if (!s)
            return false;
        char *word = cut(&s, ' ');
        if (strlen(word) != 8 || strspn(word, "0123456789abcdef") != 8)
            return false;
        algo[i] = (uint32_t)strtoul(word, NULL, 16);
    }
    return !s;
}

/* NULL, or what is wrong with it. */
static const char *read_choice(char *line, struct plans_choice *c)
{
    static char wrong[200];
    char *field[FIELDS + 4], *at = line;
    int64_t *value = (int64_t *)&c->key;
    int n = 0;
    while (at && n < FIELDS + 4)
        field[n++] = cut(&at, '\t');
    if (at || n < FIELDS + 4)
        return "too few fields, or too many";
    for (int i = 0; i < FIELDS; i++)
        if (!read_int(field[i], fields[i].least, fields[i].most, &value[i])) {
            snprintf(wrong, sizeof wrong, "'%.40s' of '%s' cannot be", field[i], fields[i].name);
            return wrong;
        }
    if (!read_int(field[FIELDS], 0, INT64_MAX, &c->calls))
        return "'calls' is no number";
    if (!read_ms(field[FIELDS + 1], &c->first_ms) || !read_ms(field[FIELDS + 2], &c->best_ms))
        return "'first_ms' or 'best_ms' is no number";
    if (!read_algo(field[FIELDS + 3], c->algo))
        return "'algo' is not 16 words of 8 hex digits";
    if (plans_find(&c->key))
        return "this product was there before";
    return n_choices < PLANS_MOST ? NULL : "more products than there is room for";
}

struct reader {
    char *at;       /* NULL: at the end */
    int number;     /* of the line that was read last */
};

static char *next_line(struct reader *r)
{
    if (!r->at || !*r->at)
        return NULL;
    r->number++;
    return cut(&r->at, '\n');
}

static bool are_names(const char *line)
{
    char names[1000] = "";
    FILE *f = fmemopen(names, sizeof names, "w");
    if (!f)
        return false;
    print_names(f);
    fclose(f);
    return strcmp(line, names) == 0;
}

/* NULL, or what is wrong with the last line read. *ours: we made it; else `reason` says who did. */
static const char *read_lines(struct reader *r, bool *ours)
{
    char *line = next_line(r);
    bool made = *ours = false;
    if (!line || strcmp(line, TITLE) != 0)
        return "this is no file of measured matrix products, or of another format";
    while ((line = next_line(r)) && *line == '#')
        if (strncmp(line, MAKER, strlen(MAKER)) == 0) {
            made = true;
            *ours = strcmp(line, made_by) == 0;
            snprintf(reason, sizeof reason, "made by '%.120s', and this is '%.120s'", line + 2, made_by + 2);
        }
    if (!made)
        return "it does not say who made it";
    if (!line || !are_names(line))
        return "not the names of the fields";
    while ((line = next_line(r))) {
        struct plans_choice c;
        const char *wrong = read_choice(line, &c);
        if (wrong)
            return wrong;
        plans_add(&c);
    }
    return NULL;
}

static void leave_out(bool (*usable)(const struct plans_choice *), const char **why)
{
    int all = n_choices;
    n_choices = 0;
    for (int i = 0; i < all; i++)
        if (usable(&book[i]))
            book[n_choices++] = book[i];
    if (n_choices == all)
        return;
    snprintf(reason, sizeof reason, "%d of %d algorithms are refused", all - n_choices, all);
    *why = reason;
}

enum plans_fit plans_take(const char *text, bool (*usable)(const struct plans_choice *), const char **why)
{
    *why = NULL;
    n_choices = 0;
    measuring = !text;
    if (!text)
        return PLANS_TAKEN;
    char *copy = strdup(text);
    struct reader r = { copy, 0 };
    bool ours;
    const char *wrong = copy ? read_lines(&r, &ours) : "no memory to read it";
    free(copy);
    if (!wrong && ours) {
        leave_out(usable, why);
        return PLANS_TAKEN;
    }
    n_choices = 0;
    *why = reason;
    if (wrong)
        snprintf(reason, sizeof reason, "%d: %s", r.number ? r.number : 1, wrong);
    return wrong ? PLANS_BAD : PLANS_FOREIGN;
}
