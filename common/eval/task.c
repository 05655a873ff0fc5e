/* task.c - a task: documents out of a JSONL file, and what a model is asked about each of them
 * SPDX-License-Identifier: MIT
 */
#include "task.h"

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/out.h"
#include "lines.h"

static const char *const kinds[TASK_KINDS] = { "loglikelihood", "multiple_choice", "generate_until",
                                               "loglikelihood_rolling" };

/* By metric: its name, the kinds that have it, the kinds that have it unasked. */
#define KIND(k) (1 << TASK_##k)
static const struct {
    const char *name;
    int kinds, unasked;
    bool lower;
} metrics[METRICS] = {
    [METRIC_PERPLEXITY] = { "perplexity", KIND(LOGLIKELIHOOD), KIND(LOGLIKELIHOOD), true },
    [METRIC_ACC] = { "acc", KIND(LOGLIKELIHOOD) | KIND(CHOICE), KIND(LOGLIKELIHOOD) | KIND(CHOICE), false },
    [METRIC_ACC_NORM] = { "acc_norm", KIND(CHOICE), KIND(CHOICE), false },
    [METRIC_ACC_BYTES] = { "acc_bytes", KIND(CHOICE), 0, false },
    [METRIC_EXACT_MATCH] = { "exact_match", KIND(GENERATE) | KIND(CHOICE), KIND(GENERATE), false },
    [METRIC_CONTAINS_ALL] = { "contains_all", KIND(GENERATE), 0, false },
    [METRIC_CONTAINS_ANY] = { "contains_any", KIND(GENERATE), 0, false },
    [METRIC_WORD_PERPLEXITY] = { "word_perplexity", KIND(ROLLING), KIND(ROLLING), true },
    [METRIC_BYTE_PERPLEXITY] = { "byte_perplexity", KIND(ROLLING), KIND(ROLLING), true },
    [METRIC_BITS_PER_BYTE] = { "bits_per_byte", KIND(ROLLING), KIND(ROLLING), true },
};

const char *task_kind_name(enum task_kind k) { return kinds[k]; }
const char *task_metric_name(enum task_metric m) { return metrics[m].name; }
bool task_metric_higher_is_better(enum task_metric m) { return !metrics[m].lower; }

/* ---- reading: a -1 has err_last(), to which the caller adds the place ---- */

static int try_text(const struct json *j, const char *key, struct text *t)
{
    return json_try_text(j, key, &t->p, &t->n);
}

/* A list of strings; one string is a list of one if `single`. */
static int try_texts(const struct json *j, const char *key, bool single, struct text **list, size_t *n)
{
    const struct json *v = json_at(j, key);
    const char **s = NULL;
    *n = 0;
    if (single && json_kind(v) == JSON_TEXT) {
        *list = xcalloc(1, sizeof **list);
        *n = 1;
        return try_text(j, key, *list);
    }
    int rc = json_try_strs(j, key, &s, n);
    if (rc != 1)
        return rc;
    *list = xcalloc(*n + 1, sizeof **list);
    for (size_t i = 0; i < *n; i++)
        (*list)[i] = (struct text){ s[i], json_length(json_item(v, i)) };
    free(s);
    if (*n == 0)
        return err_set("'%s' is empty", key);
    return 1;
}

static int try_gold(const struct json *j, struct task_doc *d)
{
    int64_t last = (int64_t)d->n_choices - 1;
    if (json_kind(json_at(j, "gold")) == JSON_LIST) {
        int rc = json_try_ints(j, "gold", 0, last, &d->gold, &d->n_gold);
        return rc == 1 && d->n_gold == 0 ? err_set("'gold' is empty") : rc;
    }
    d->gold = xcalloc(1, sizeof *d->gold);
    d->n_gold = 1;
    return json_try_int(j, "gold", 0, last, d->gold);
}

static int try_choices(struct task_doc *d)
{
    const struct json *j = d->root;
    if (try_texts(j, "choices", false, &d->choices, &d->n_choices) != 1 || try_gold(j, d) != 1)
        return -1;
    for (size_t i = 0; i < d->n_choices; i++)
        if (d->choices[i].n == 0) /* nothing to divide by */
            return err_set("'choices[%zu]' is empty", i);
    if (!json_at(j, "contexts"))
        return try_text(j, "context", &d->context) == 1 ? 0 : -1;
    if (json_at(j, "context"))
        return err_set("there is both 'context' and 'contexts'");
    if (try_texts(j, "contexts", false, &d->contexts, &d->n_contexts) != 1 ||
        try_text(j, "continuation", &d->continuation) != 1)
        return -1;
    if (d->n_contexts != d->n_choices)
        return err_set("%zu 'contexts' for %zu 'choices'", d->n_contexts, d->n_choices);
    return 0;
}

static int try_doc(const struct task *t, struct task_doc *d)
{
    const struct json *j = d->root;
    switch (t->kind) {
    case TASK_LOGLIKELIHOOD:
        if (try_text(j, "context", &d->context) != 1 || try_text(j, "continuation", &d->continuation) != 1)
            return -1;
        return d->continuation.n ? 0 : err_set("'continuation' is empty");
    case TASK_CHOICE:
        return try_choices(d);
    case TASK_GENERATE:
        if (try_text(j, "context", &d->context) != 1)
            return -1;
        return try_texts(j, "target", true, &d->targets, &d->n_targets) == 1 ? 0 : -1;
    case TASK_ROLLING:
    case TASK_KINDS:
        break;
    }
    if (try_text(j, "text", &d->text) != 1)
        return -1;
    if (d->text.n == 0)
        return err_set("'text' is empty");
    d->words = metric_words(d->text.p, d->text.n);
    d->bytes = (int64_t)d->text.n;
    return json_try_int(j, "words", 1, INT64_MAX, &d->words) < 0 ||
                   json_try_int(j, "bytes", 1, INT64_MAX, &d->bytes) < 0
               ? -1
               : 0;
}

static int try_metrics(struct task *t)
{
    const char **names = NULL;
    size_t n = 0;
    int rc = json_try_strs(t->head, "metrics", &names, &n);
    for (int m = 0; m < METRICS && rc == 0; m++)
        t->wanted[m] = metrics[m].unasked & 1 << t->kind;
    for (size_t i = 0; i < n && rc == 1; i++) {
        int m = 0;
        while (m < METRICS && (strcmp(names[i], metrics[m].name) != 0 || !(metrics[m].kinds & 1 << t->kind)))
            m++;
        if (m == METRICS)
            rc = err_set("'metrics[%zu]' is \"%s\", which %s does not have", i, names[i], kinds[t->kind]);
        else
            t->wanted[m] = true;
    }
    if (rc == 1 && n == 0)
        rc = err_set("'metrics' is empty");
    free(names);
    return rc < 0 ? -1 : 0;
}

static int try_head(struct task *t)
{
    static const char *const known[] = { "task", "output_type", "version", "num_fewshot", "metrics", "config",
        "target_delimiter", "until", "max_gen_toks", "ignore_case", "ignore_punctuation", "ignore_numbers", "strip" };
    const struct json *j = t->head, *v;
    const char *key, *name = NULL, *kind;
    if (json_try_str(j, "output_type", &kind) != 1)
        return err_set("the first line describes the task: %s", err_last());
    for (const void *it = json_next(j, NULL, &key, &v); it; it = json_next(j, it, &key, &v)) {
        size_t k = 0;
        while (k < sizeof known / sizeof *known && strcmp(key, known[k]) != 0)
            k++;
        if (k == sizeof known / sizeof *known)
            return err_set("a task has no key '%s'", key);
    }
    while (t->kind < TASK_KINDS && strcmp(kind, kinds[t->kind]) != 0)
        t->kind++;
    if (t->kind == TASK_KINDS)
        return err_set("'output_type' is \"%s\", none of loglikelihood, multiple_choice, generate_until, "
                       "loglikelihood_rolling", kind);
    int rc = json_try_str(j, "task", &name);
    if (rc < 0)
        return -1;
    const char *base = rc == 1 ? name : strcmp(t->path, "-") == 0 ? "task" : path_base(t->path);
    t->name = xasprintf("%.*s", rc == 1 ? (int)strlen(name) : (int)strcspn(base, "."), base);
    if (!*t->name || strchr(t->name, '/') || t->name[0] == '.')
        return err_set("'task' is \"%s\", no name that a file may have", t->name);
    t->delimiter = (struct text){ " ", 1 };
    t->max_gen_toks = 256;
    const struct json *config;
    if (json_try_int(j, "num_fewshot", 0, 1 << 20, &t->fewshot) < 0 ||
        json_try_int(j, "max_gen_toks", 1, 1 << 30, &t->max_gen_toks) < 0 ||
        try_text(j, "target_delimiter", &t->delimiter) < 0 || json_try_strs(j, "until", &t->until, &t->n_until) < 0 ||
        json_try_bool(j, "ignore_case", &t->match.ignore_case) < 0 ||
        json_try_bool(j, "ignore_punctuation", &t->match.ignore_punctuation) < 0 ||
        json_try_bool(j, "ignore_numbers", &t->match.ignore_numbers) < 0 ||
        json_try_bool(j, "strip", &t->match.strip) < 0 || json_try_map(j, "config", &config) < 0)
        return -1;
    for (size_t i = 0; i < t->n_until; i++)
        if (!*t->until[i])
            return err_set("'until[%zu]' is empty", i);
        else if (strlen(t->until[i]) != json_length(json_item(json_at(j, "until"), i)))
            return err_set("'until[%zu]' holds a NUL", i);
    return try_metrics(t);
}

static void doc_free(struct task_doc *d)
{
    json_free(d->root);
    free(d->where);
    free(d->contexts);
    free(d->choices);
    free(d->targets);
    free(d->gold);
}

struct task *task_read(const char *path, int64_t limit)
{
    struct task *t = xcalloc(1, sizeof *t);
    struct lines *l = lines_open(path);
    size_t cap = 0;
    t->path = path;
    t->head = lines_next(l);
    if (!t->head)
        die("'%s' is empty: its first line describes the task", path);
    if (try_head(t) < 0)
        die("%s: %s", lines_where(l), err_last());
    for (struct json *j; (j = lines_next(l)); t->total++) {
        struct task_doc d = { .root = j };
        if (try_doc(t, &d) < 0)
            die("%s: %s", lines_where(l), err_last());
        if (limit > 0 && t->total >= (size_t)limit) {
            doc_free(&d);
            continue;
        }
        d.where = xstrdup(lines_where(l));
        *(struct task_doc *)grow(&t->doc, &t->n, &cap, sizeof d) = d;
    }
    if (t->n == 0)
        die("'%s' has no documents", path);
    t->hash = lines_hash(l);
    lines_close(l);
    return t;
}

void task_free(struct task *t)
{
    for (size_t i = 0; i < t->n; i++)
        doc_free(&t->doc[i]);
    json_free(t->head);
    free(t->until);
    free(t->name);
    free(t->doc);
    free(t);
}

/* ---- asking ---- */

size_t task_requests(const struct task *t, const struct task_doc *d)
{
    return t->kind == TASK_CHOICE ? d->n_choices : t->kind == TASK_LOGLIKELIHOOD || t->kind == TASK_ROLLING;
}

void task_request(const struct task *t, const struct task_doc *d, size_t i, struct text *context,
                  struct text *continuation)
{
    *context = d->contexts ? d->contexts[i] : d->context;
    *continuation = t->kind == TASK_CHOICE && !d->contexts ? d->choices[i] : d->continuation;
}

/* ---- scoring ---- */

/* The likeliest choice, the first of equals, by log-likelihood over 1, characters or bytes. */
static size_t pick(const struct task_doc *d, enum task_metric m, const double *ll)
{
    size_t best = 0;
    double top = 0;
    for (size_t i = 0; i < d->n_choices; i++) {
        const struct text *c = &d->choices[i];
        double length = m == METRIC_ACC_NORM ? (double)metric_characters(c->p, c->n) : (double)c->n;
        double score = m == METRIC_ACC ? ll[i] : ll[i] / length;
        if (i == 0 || score > top)
            top = score, best = i;
    }
    return best;
}

static double score_choice(const struct task_doc *d, enum task_metric m, const double *ll, const bool *greedy)
{
    size_t best = m == METRIC_EXACT_MATCH ? 0 : pick(d, m, ll);
    for (size_t i = 0; i < d->n_gold; i++)
        if (m == METRIC_EXACT_MATCH ? greedy[d->gold[i]] : d->gold[i] == (int64_t)best)
            return 1;
    return 0;
}

double task_score(const struct task *t, const struct task_doc *d, enum task_metric m, const double *ll,
                  const bool *greedy, struct text answer)
{
    double hits = 0;
    if (t->kind == TASK_CHOICE)
        return score_choice(d, m, ll, greedy);
    if (t->kind != TASK_GENERATE)
        return m == METRIC_ACC ? greedy[0] : ll[0];
    for (size_t i = 0; i < d->n_targets; i++) {
        const struct text *want = &d->targets[i];
        hits += m == METRIC_EXACT_MATCH ? metric_exact_match(&t->match, answer.p, answer.n, want->p, want->n)
                                        : metric_contains(answer.p, answer.n, want->p, want->n);
    }
    return m == METRIC_CONTAINS_ALL ? hits / (double)d->n_targets : hits > 0;
}

double task_weight(const struct task_doc *d, enum task_metric m)
{
    return m == METRIC_WORD_PERPLEXITY ? (double)d->words : (double)d->bytes;
}
