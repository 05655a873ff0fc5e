/* tasks.c - runs tasks with a model: figures, the harness' results file, samples
 * SPDX-License-Identifier: MIT
 */
#include "tasks.h"

#include <math.h>
#include <time.h>

#include "common/base/err.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/out.h"
#include "common/base/version.h"
#include "common/io/set.h"
#include "common/base/utf8.h"
#include "generate.h"
#include "loglik.h"
#include "task.h"

/* What a document's requests came to. */
struct outcome {
    size_t first, n;        /* of the log-likelihoods: several a request where a text is scored in windows */
    size_t prompt;
    double *ll;             /* [requests] */
    bool *greedy;
};

struct run {
    struct task *t;
    struct outcome *of;     /* [t->n] */
};

struct work {
    const struct tasks_options *o;
    struct run *run;
    int n_runs;
    struct loglik *ll;
    size_t n_ll, cap_ll;
    struct prompt *prompt;
    size_t n_prompts, cap_prompts;
    int64_t cut;            /* requests that were too long */
};

static struct text joined(struct text a, struct text b, struct buf *room)
{
    buf_clear(room);
    buf_add(room, a.p ? a.p : "", a.n);
    buf_add(room, b.p ? b.p : "", b.n);
    return (struct text){ room->data, room->len };
}

/* ---- asking ---- */

static void ask_generate(struct work *w, struct encoder *e, const struct task *t, const struct task_doc *d)
{
    struct token_ids ids = { 0 };
    int64_t most = w->o->seq_len - t->max_gen_toks;
    if (most < 1)
        die("%s: 'max_gen_toks' %lld leaves no room for a context: --seq-len is %lld", t->path,
            (long long)t->max_gen_toks, (long long)w->o->seq_len);
    if (e->always || d->context.n == 0) {
        *token_ids_room(&ids, 1) = e->prefix;
        ids.n = 1;
    }
    if (encoder_try_text(e, d->context.p, d->context.n, &ids) < 0)
        die("%s: %s", d->where, err_last());
    struct prompt *p = grow(&w->prompt, &w->n_prompts, &w->cap_prompts, sizeof *p);
    int64_t n = (int64_t)ids.n, kept = n < most ? n : most;
    memmove(ids.id, ids.id + n - kept, (size_t)kept * sizeof *ids.id);
    w->cut += kept < n;
    *p = (struct prompt){ .ids = ids.id, .n = kept, .tokens = t->max_gen_toks, .stop = t->until, .stops = t->n_until };
}

static void ask(struct work *w, struct encoder *e, struct run *r)
{
    const struct task *t = r->t;
    struct buf room = { 0 };
    r->of = xcalloc(t->n, sizeof *r->of);
    for (size_t k = 0; k < t->n; k++) {
        const struct task_doc *d = &t->doc[k];
        struct outcome *of = &r->of[k];
        size_t requests = task_requests(t, d);
        *of = (struct outcome){ .first = w->n_ll, .prompt = w->n_prompts };
        of->ll = xcalloc(requests + 1, sizeof *of->ll);
        of->greedy = xcalloc(requests + 1, sizeof *of->greedy);
        if (t->kind == TASK_GENERATE)
            ask_generate(w, e, t, d);
        else if (t->kind == TASK_ROLLING) {
            if (loglik_try_rolling(&w->ll, &w->n_ll, &w->cap_ll, e, d->text.p, d->text.n) < 0)
                die("%s: %s", d->where, err_last());
        } else
            for (size_t i = 0; i < requests; i++) {
                struct text context, more;
                task_request(t, d, i, &context, &more);
                if (t->kind == TASK_CHOICE)
                    more = joined(t->delimiter, more, &room);
                struct loglik one;
                if (loglik_try_pair(&one, e, context.p, context.n, more.p, more.n) < 0)
                    die("%s: %s", d->where, err_last());
                w->cut += one.cut;
                *(struct loglik *)grow(&w->ll, &w->n_ll, &w->cap_ll, sizeof one) = one;
            }
        of->n = w->n_ll - of->first;
    }
    buf_free(&room);
}

/* ---- running ---- */

static void generate_all(struct comm *comm, struct net *n, const struct tokenizer *t, struct work *w)
{
    size_t count = w->n_prompts, mine = 0;
    struct prompt **ps = xcalloc(count + 1, sizeof *ps);
    struct generation g = { .sampling = { .penalty = 1, .top_p = 1 }, .eod = tokenizer_info(t)->eod,
                            .batch = (int64_t)count < w->o->batch ? (int64_t)count : w->o->batch };
    for (size_t i = 0; i < count; i++)
        g.room = w->prompt[i].n + w->prompt[i].tokens > g.room ? w->prompt[i].n + w->prompt[i].tokens : g.room;
    for (size_t i = (size_t)comm->rank; i < count; i += (size_t)comm->size)
        ps[mine++] = &w->prompt[i];
    if (mine > 0)
        generate_run(n, t, &g, ps, mine, comm->rank == 0);
    free(ps);
    generate_share(comm, w->prompt, count);
    /* What is no UTF-8 becomes U+FFFD, as where tokens are decoded to Python's strings. */
    for (size_t i = 0; i < count; i++) {
        struct utf8 u = { 0 };
        struct buf room = { 0 };
        size_t len = w->prompt[i].text.len;
        const char *text = utf8_replace(&u, w->prompt[i].text.data, &len, true, &room);
        if (text != w->prompt[i].text.data) {
            buf_clear(&w->prompt[i].text);
            buf_add(&w->prompt[i].text, text, len);
        }
        buf_free(&room);
    }
}

static void answer(struct work *w, struct run *r)
{
    for (size_t k = 0; k < r->t->n; k++) {
        struct outcome *of = &r->of[k];
        bool rolling = r->t->kind == TASK_ROLLING;
        for (size_t i = 0; i < of->n; i++) {
            of->ll[rolling ? 0 : i] += w->ll[of->first + i].sum;
            of->greedy[rolling ? 0 : i] = w->ll[of->first + i].greedy;
        }
    }
}

static struct text answer_text(const struct work *w, const struct run *r, size_t k)
{
    const struct prompt *p = r->t->kind == TASK_GENERATE ? &w->prompt[r->of[k].prompt] : NULL;
    return p ? (struct text){ p->text.data, p->text.len } : (struct text){ "", 0 };
}

static double doc_score(const struct work *w, const struct run *r, size_t k, enum task_metric m)
{
    return task_score(r->t, &r->t->doc[k], m, r->of[k].ll, r->of[k].greedy, answer_text(w, r, k));
}

/* ---- telling ---- */

/* The figure of a metric, and its error, NAN where there is none. */
static double figure(const struct work *w, const struct run *r, enum task_metric m, double *error)
{
    size_t n = r->t->n;
    double *x = xcalloc(n, sizeof *x), weights = 0, value;
    for (size_t k = 0; k < n; k++) {
        x[k] = doc_score(w, r, k, m);
        weights += task_weight(&r->t->doc[k], m);
    }
    *error = NAN;
    bool wanted = w->o->bootstrap > 0 && n > 1;
    switch (m) {
    case METRIC_PERPLEXITY:
        value = metric_perplexity(x, n);
        if (wanted && w->o->bootstrap > 1)
            *error = metric_perplexity_stderr(x, n, w->o->bootstrap);
        break;
    case METRIC_WORD_PERPLEXITY:
    case METRIC_BYTE_PERPLEXITY:
        value = exp(-metric_mean(x, n) * (double)n / weights);
        break;
    case METRIC_BITS_PER_BYTE:
        value = -metric_mean(x, n) * (double)n / weights / log(2);
        break;
    default:
        value = metric_mean(x, n);
        if (wanted)
            *error = metric_mean_stderr(x, n);
    }
    free(x);
    return value;
}

static void put_error(struct json *map, const char *key, double error)
{
    if (isfinite(error))
        json_put_real(map, key, error);
    else
        json_put_str(map, key, "N/A");
}

/* Rank 0: prints the task's lines, and puts them into the results. */
static void tell(const struct work *w, const struct run *r, struct json *results, struct json *better)
{
    struct json *here = json_make_map(), *higher = json_make_map();
    json_put_str(here, "name", r->t->name);
    json_put_str(here, "alias", r->t->name);
    json_put_int(here, "sample_len", (int64_t)r->t->n);
    for (int m = 0; m < METRICS; m++) {
        if (!r->t->wanted[m])
            continue;
        const char *name = task_metric_name((enum task_metric)m);
        double error, value = figure(w, r, (enum task_metric)m, &error);
        char shown[32] = "N/A", key[64];
        if (isfinite(error))
            snprintf(shown, sizeof shown, "%.6f", error);
        printf("%s\t%s\t%.6f\t%s\t%zu\n", r->t->name, name, value, shown, r->t->n);
        snprintf(key, sizeof key, "%s,none", name);
        if (isfinite(value))
            json_put_real(here, key, value);
        else
            json_put_null(here, key); /* JSON knows no infinity */
        snprintf(key, sizeof key, "%s_stderr,none", name);
        put_error(here, key, error);
        json_put_bool(higher, name, task_metric_higher_is_better((enum task_metric)m));
    }
    json_put(results, r->t->name, here);
    json_put(better, r->t->name, higher);
}

static struct json *configuration(const struct task *t)
{
    const struct json *given = json_at(t->head, "config");
    struct json *c = given ? json_clone(given) : json_make_map(), *list = json_make_list();
    json_put_str(c, "task", t->name);
    json_put_str(c, "output_type", task_kind_name(t->kind));
    json_put_str(c, "dataset_path", t->path);
    json_put_int(c, "num_fewshot", t->fewshot);
    json_put_text(c, "target_delimiter", t->delimiter.p, t->delimiter.n);
    for (int m = 0; m < METRICS; m++) {
        if (!t->wanted[m])
            continue;
        struct json *one = json_make_map();
        json_put_str(one, "metric", task_metric_name((enum task_metric)m));
        json_put_bool(one, "higher_is_better", task_metric_higher_is_better((enum task_metric)m));
        if (m == METRIC_EXACT_MATCH && t->kind == TASK_GENERATE) {
            json_put_bool(one, "ignore_case", t->match.ignore_case);
            json_put_bool(one, "ignore_punctuation", t->match.ignore_punctuation);
            json_put_bool(one, "ignore_numbers", t->match.ignore_numbers);
            json_put_bool(one, "strip", t->match.strip);
        }
        json_add(list, one);
    }
    json_put(c, "metric_list", list);
    if (t->kind == TASK_GENERATE) {
        struct json *g = json_make_map(), *until = json_make_list();
        for (size_t i = 0; i < t->n_until; i++)
            json_add_str(until, t->until[i]);
        json_put(g, "until", until);
        json_put_int(g, "max_gen_toks", t->max_gen_toks);
        json_put_bool(g, "do_sample", false);
        json_put(c, "generation_kwargs", g);
    }
    return c;
}

static void put_version(struct json *versions, const struct task *t)
{
    const struct json *v = json_at(t->head, "version");
    if (v)
        json_put(versions, t->name, json_clone(v));
    else
        json_put_null(versions, t->name);
}

/* Everything of the results file but the figures. */
static void describe(const struct work *w, struct json *root, const struct net *n, const struct tokenizer *tok,
                     double began)
{
    const struct tasks_options *o = w->o;
    struct json *subtasks = json_make_map(), *configs = json_make_map(), *versions = json_make_map(),
                *shots = json_make_map(), *samples = json_make_map(), *hashes = json_make_map(),
                *config = json_make_map();
    for (int i = 0; i < w->n_runs; i++) {
        const struct task *t = w->run[i].t;
        struct json *count = json_make_map();
        char hash[17];
        set_format_hash(t->hash, hash);
        json_put(subtasks, t->name, json_make_list());
        json_put(configs, t->name, configuration(t));
        put_version(versions, t);
        json_put_int(shots, t->name, t->fewshot);
        json_put_int(count, "original", (int64_t)t->total);
        json_put_int(count, "effective", (int64_t)t->n);
        json_put(samples, t->name, count);
        json_put_str(hashes, t->name, hash);
    }
    json_put(root, "group_subtasks", subtasks);
    json_put(root, "configs", configs);
    json_put(root, "versions", versions);
    json_put(root, "n-shot", shots);
    json_put(root, "n-samples", samples);
    json_put_str(config, "model", "ssmtools");
    json_put_str(config, "model_args", o->model);
    json_put_int(config, "model_num_parameters", n->ps.count);
    json_put_str(config, "model_dtype", "torch.float32");
    json_put_int(config, "batch_size", o->batch);
    json_put_str(config, "device", "cpu");
    if (o->limit)
        json_put_int(config, "limit", o->limit);
    else
        json_put_null(config, "limit");
    json_put_int(config, "bootstrap_iters", o->bootstrap);
    json_put_bool(config, "add_bos_token", o->bos);
    json_put(root, "config", config);
    json_put_str(root, "git_hash", SSM_VERSION);
    json_put_int(root, "date", (int64_t)time(NULL));
    json_put(root, "task_hashes", hashes);
    json_put_str(root, "model_source", "ssmtools");
    json_put_str(root, "model_name", o->model);
    json_put_int(root, "eot_token_id", tokenizer_info(tok)->eod);
    json_put_int(root, "max_length", o->seq_len);
    json_put_int(root, "truncated_requests", w->cut);
    char *seconds = xasprintf("%.3f", now_seconds() - began);
    json_put_str(root, "total_evaluation_time_seconds", seconds);
    free(seconds);
}

/* Python's str() of a number: what the harness' samples hold. */
static void add_number(struct json *list, double v)
{
    struct buf b = { 0 };
    buf_addf(&b, "%.17g", v);
    json_add_str(list, b.data);
    buf_free(&b);
}

static void put_arguments(struct json *map, int i, struct text a, struct text b)
{
    char name[32];
    struct json *args = json_make_map();
    snprintf(name, sizeof name, "gen_args_%d", i);
    json_put_text(args, "arg_0", a.p, a.n);
    if (b.p)
        json_put_text(args, "arg_1", b.p, b.n);
    json_put(map, name, args);
}

static struct json *sample(const struct work *w, const struct run *r, size_t k)
{
    const struct task *t = r->t;
    const struct task_doc *d = &t->doc[k];
    struct json *s = json_make_map(), *args = json_make_map(), *resps = json_make_list(), *plain = json_make_list(),
                *names = json_make_list();
    struct buf room = { 0 };
    size_t requests = task_requests(t, d);
    struct text made = answer_text(w, r, k);
    for (size_t i = 0; i < requests; i++) {
        struct text a = d->text, b = { NULL, 0 };
        if (t->kind != TASK_ROLLING) {
            task_request(t, d, i, &a, &b);
            if (t->kind == TASK_CHOICE)
                b = joined(t->delimiter, b, &room);
        }
        put_arguments(args, (int)i, a, b);
        struct json *pair = json_make_list(), *one = json_make_list();
        add_number(pair, r->of[k].ll[i]);
        if (t->kind != TASK_ROLLING)
            json_add_str(pair, r->of[k].greedy[i] ? "True" : "False");
        json_add(one, json_clone(pair));
        json_add(resps, one);
        json_add(plain, pair);
    }
    if (t->kind == TASK_GENERATE) {
        struct json *one = json_make_list();
        put_arguments(args, 0, d->context, (struct text){ NULL, 0 });
        json_add_text(one, made.p, made.n);
        json_add(resps, one);
        json_add_text(plain, made.p, made.n);
    }
    json_put_int(s, "doc_id", (int64_t)k);
    json_put(s, "doc", json_clone(d->root));
    struct text target = t->kind == TASK_ROLLING ? d->text : d->continuation;
    if (t->kind == TASK_CHOICE)
        json_put(s, "target", json_clone(json_at(d->root, "gold")));
    else if (t->kind == TASK_GENERATE)
        json_put(s, "target", json_clone(json_at(d->root, "target")));
    else
        json_put_text(s, "target", target.p, target.n);
    json_put(s, "arguments", args);
    json_put(s, "resps", resps);
    json_put(s, "filtered_resps", plain);
    json_put_str(s, "filter", "none");
    for (int m = 0; m < METRICS; m++)
        if (t->wanted[m])
            json_add_str(names, task_metric_name((enum task_metric)m));
    json_put(s, "metrics", names);
    for (int m = 0; m < METRICS; m++)
        if (t->wanted[m]) {
            double v = doc_score(w, r, k, (enum task_metric)m);
            struct json *pair = json_make_list();
            json_add_real(pair, v);
            json_add_real(pair, task_weight(d, (enum task_metric)m));
            if (t->kind == TASK_ROLLING)
                json_put(s, task_metric_name((enum task_metric)m), pair);
            else {
                json_put_real(s, task_metric_name((enum task_metric)m), v);
                json_free(pair);
            }
        }
    buf_free(&room);
    return s;
}

static void write_samples(const struct work *w, const struct run *r, struct out *out)
{
    FILE *f = fopen(out_temp(out), "wb");
    if (!f)
        die_errno("cannot write '%s'", out_temp(out));
    for (size_t k = 0; k < r->t->n; k++) {
        struct json *s = sample(w, r, k);
        char *text = json_text(s, JSON_FLAT);
        fprintf(f, "%s\n", text);
        free(text);
        json_free(s);
    }
    if (ferror(f) | fclose(f))
        die_errno("cannot write '%s'", out_temp(out));
    out_commit(out);
}

/* ---- all of it ---- */

static void check_names(const struct work *w)
{
    for (int i = 0; i < w->n_runs; i++)
        for (int k = 0; k < i; k++)
            if (strcmp(w->run[i].t->name, w->run[k].t->name) == 0)
                die("'%s' and '%s' are both called '%s'", w->run[k].t->path, w->run[i].t->path, w->run[i].t->name);
}

static void free_work(struct work *w)
{
    for (int i = 0; i < w->n_runs; i++) {
        for (size_t k = 0; k < w->run[i].t->n; k++) {
            free(w->run[i].of[k].ll);
            free(w->run[i].of[k].greedy);
        }
        free(w->run[i].of);
        task_free(w->run[i].t);
    }
    for (size_t i = 0; i < w->n_ll; i++)
        loglik_free(&w->ll[i]);
    for (size_t i = 0; i < w->n_prompts; i++)
        prompt_free(&w->prompt[i]);
    free(w->run);
    free(w->ll);
    free(w->prompt);
}

int64_t tasks_run(struct comm *comm, struct net *n, const struct tokenizer *t, const struct tasks_options *o,
                  char *const *paths, int n_paths)
{
    double began = now_seconds();
    struct work w = { .o = o, .n_runs = n_paths };
    struct encoder e = { .in = token_stream_new(t), .vocab = n->c.vocab, .prefix = (uint32_t)tokenizer_info(t)->eod,
                         .always = o->bos, .seq_len = o->seq_len };
    w.run = xcalloc((size_t)n_paths, sizeof *w.run);
    for (int i = 0; i < n_paths; i++)
        w.run[i].t = task_read(paths[i], o->limit);
    check_names(&w);
    /* Names are taken before the work is done. */
    struct out *results = NULL, **logs = xcalloc((size_t)n_paths, sizeof *logs);
    char *folder = xasprintf("%s/results.json", o->output ? o->output : "");
    if (o->output && comm->rank == 0) {
        out_make_dirs(o->output);
        results = out_open(folder, o->force);
        for (int i = 0; i < n_paths && o->log_samples; i++) {
            char *name = xasprintf("%s/samples_%s.jsonl", o->output, w.run[i].t->name);
            logs[i] = out_open(name, o->force);
            free(name);
        }
    }
    for (int i = 0; i < n_paths; i++)
        ask(&w, &e, &w.run[i]);
    token_stream_free(e.in);
    if (w.cut > 0)
        note(0, "%lld requests are longer than --seq-len %lld and lose tokens on the left", (long long)w.cut,
             (long long)o->seq_len);
    struct loglik **rs = xcalloc(w.n_ll + 1, sizeof *rs);
    for (size_t i = 0; i < w.n_ll; i++)
        rs[i] = &w.ll[i];
    if (w.n_ll > 0)
        loglik_run(comm, n, rs, w.n_ll, o->batch);
    free(rs);
    if (w.n_prompts > 0)
        generate_all(comm, n, t, &w);
    for (int i = 0; i < n_paths; i++)
        answer(&w, &w.run[i]);
    if (comm->rank == 0) {
        struct json *root = json_make_map(), *figures = json_make_map(), *better = json_make_map();
        printf("# task\tmetric\tvalue\tstderr\tdocuments\n");
        for (int i = 0; i < n_paths; i++) {
            tell(&w, &w.run[i], figures, better);
            if (logs[i])
                write_samples(&w, &w.run[i], logs[i]);
        }
        json_put(root, "results", figures);
        json_put(root, "higher_is_better", better);
        describe(&w, root, n, t, began);
        if (results) {
            char *text = json_text(root, JSON_PRETTY);
            FILE *f = fopen(out_temp(results), "wb");
            if (!f || fprintf(f, "%s\n", text) < 0 || fclose(f))
                die_errno("cannot write '%s'", out_temp(results));
            free(text);
            out_commit(results);
        }
        json_free(root);
    }
    int64_t requests = (int64_t)(w.n_ll + w.n_prompts);
    free(folder);
    free(logs);
    free_work(&w);
    return requests;
}
