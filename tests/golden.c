/* golden.c - other people's models, imported, give the logits that their own programs give
 * SPDX-License-Identifier: MIT
 *
 *   golden [CASE...]     folders of tests/golden; all without arguments
 * Each case: reads the model with the functions of 'ckmerge import', compares logits.bin
 * (tests/oracle/README.md) with whole passes over every prefix and with decoding token by token, and checks
 * that a checkpoint holds the same weights. Where there is a device (SSM_CUDA, or a GPU) those of spread.tsv are put to it as
 * well: in fp32, and in bf16, which may lie no further from fp32 than transformers' own bf16 does.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/out.h"
#include "common/exchange/import.h"
#include "common/model/weights.h"
#include "kernels/device.h"

/* What other orders of summation move these logits by is 1.1e-5, the smallest mistake 5e-3
 * (tests/oracle/README.md). */
static const double tolerance = 1e-4;

struct answer {
    int32_t B, T, V;
    int32_t *ids;
    float *logits;
};

static char *golden_path(const char *name, const char *file)
{
    const char *top = getenv("SSM_TOP");
    return xasprintf("%s/tests/golden/%s%s%s", top ? top : ".", name, *file ? "/" : "", file);
}

static struct answer read_answer(const char *name)
{
    struct answer a;
    char *path = golden_path(name, "logits.bin");
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fread(&a, sizeof(int32_t), 3, f), 3);
    assert_in_range(a.B, 1, 64);
    assert_in_range(a.T, 1, 4096);
    assert_in_range(a.V, 1, 1 << 20);
    size_t tokens = (size_t)a.B * (size_t)a.T, n = tokens * (size_t)a.V;
    a.ids = xcalloc(tokens, sizeof *a.ids);
    a.logits = xcalloc(n, sizeof *a.logits);
    assert_int_equal(fread(a.ids, sizeof *a.ids, tokens, f), tokens);
    assert_int_equal(fread(a.logits, sizeof *a.logits, n, f), n);
    fclose(f);
    free(path);
    return a;
}

/* Of logits from those of logits.bin. */
struct error {
    double largest, squares;
    int64_t n;
};

static double rms(const struct error *e) { return sqrt(e->squares / (double)e->n); }

/* The logits [B,vocab] behind token t; rows of theirs may be padded. */
static void compare(struct error *e, const struct answer *a, int t, const float *logits, int64_t vocab)
{
    for (int b = 0; b < a->B; b++) {
        for (int64_t v = 0; v < vocab; v++) {
            double want = (double)a->logits[((int64_t)b * a->T + t) * a->V + v],
                   have = (double)logits[b * vocab + v];
            double d = fabs(have - want);
            e->largest = isnan(d) ? INFINITY : fmax(d, e->largest);
            e->squares += d * d;
        }
    }
    e->n += a->B * vocab;
}

/* Tokens from .. from+n-1 of every sequence, one behind the other. */
static void take_ids(const struct answer *a, int from, int n, int32_t *out)
{
    for (int b = 0; b < a->B; b++)
        memcpy(out + b * n, a->ids + b * a->T + from, (size_t)n * sizeof *out);
}

static void same_in_a_checkpoint(const struct import *im, struct net *n)
{
    const char *tmp = getenv("TMPDIR");
    char *dir = xasprintf("%s/ssm-golden.XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(dir));
    float *again = xcalloc((size_t)n->ps.slab, sizeof *again);
    import_write(im, dir, 2, "golden", false);
    struct ckpt *c = ckpt_try_open(dir);
    assert_non_null(c);
    weights_load(n, c, "model", again);
    assert_memory_equal(again, n->weights, (size_t)n->ps.slab * sizeof *again);
    ckpt_close(c);
    out_remove_tree(dir);
    free(again);
    free(dir);
}

static struct net *load_net(const struct import *im, const struct backend *be, struct precision precision)
{
    const struct params *ps = import_params(im);
    struct net *n = net_create(import_config(im), be, precision, false);
    for (size_t i = 0; i < ps->n; i++) {
        float *host = xcalloc((size_t)ps->p[i].count, sizeof *host);
        assert_int_equal(import_try_rows(im, i, 0, ps->p[i].shape[0], host), 0);
        be->upload(n->weights + ps->p[i].offset, host, (size_t)ps->p[i].count * sizeof *host);
        free(host);
    }
    net_refresh_half(n);
    return n;
}

/* By whole passes over every prefix, and token by token. */
static void run(struct net *n, const struct answer *a, struct error *whole, struct error *steps)
{
    int64_t vocab = n->c.vocab;
    struct net_ctx *x = net_ctx_create(n, a->B, a->T, false, RECOMPUTE_NONE, a->T);
    float *logits = xcalloc((size_t)(a->B * vocab), sizeof *logits);
    int32_t *ids = xcalloc((size_t)(a->B * a->T), sizeof *ids);
    *whole = *steps = (struct error){ 0 };
    assert_true(vocab <= a->V);
    for (int t = 0; t < a->T; t++) {
        struct net_state *s = net_state_create(n, a->B, a->T);
        take_ids(a, 0, t + 1, ids);
        net_decode(x, s, ids, t + 1, logits);
        compare(whole, a, t, logits, vocab);
        net_state_free(s);
    }
    struct net_state *s = net_state_create(n, a->B, a->T);
    for (int t = 0; t < a->T; t++) {
        take_ids(a, t, 1, ids);
        net_decode(x, s, ids, 1, logits);
        compare(steps, a, t, logits, vocab);
    }
    net_state_free(s);
    net_ctx_free(x);
    free(logits);
    free(ids);
}

struct model {
    char *name;
    double largest, rms; /* of transformers' bf16 on these tokens, from spread.tsv; 0: not there */
    double most_largest, most_rms; /* on any tokens tried */
    struct answer a;
    struct import *im;
};

static void open_model(struct model *m)
{
    char *path = golden_path(m->name, "");
    m->a = read_answer(m->name);
    m->im = import_try_open(path, NULL, NULL);
    if (!m->im)
        fail_msg("%s", err_last());
    free(path);
}

static void close_model(struct model *m)
{
    import_close(m->im);
    free(m->a.ids);
    free(m->a.logits);
}

static void golden(void **state)
{
    struct model *m = *state;
    struct error whole, steps;
    open_model(m);
    struct net *n = load_net(m->im, backend_cpu(), (struct precision){ F32, F32 });
    run(n, &m->a, &whole, &steps);
    printf("# %s: %s, largest difference %.2g, token by token %.2g\n", m->name, import_family(m->im), whole.largest,
           steps.largest);
    fflush(stdout);
    assert_true(whole.largest <= tolerance && steps.largest <= tolerance);
    same_in_a_checkpoint(m->im, n);
    net_free(n);
    close_model(m);
}

static const struct backend *device;

/* bf16 on the device beside transformers' bf16, each by its difference from fp32. Both round at the same places, but no two programs
 * round alike, and a few tokens, whose roundings are made large by what follows, make most of it. So a model has the room that
 * transformers' own bf16 takes over many rows of tokens, and all models together, by the geometric mean, what it takes on these. */
static struct {
    double rms, largest; /* sums of logarithms */
    int n;
} ratios;

static bool near_bf16(struct model *m, enum dtype residual)
{
    struct error e[2];
    struct net *n = load_net(m->im, device, (struct precision){ BF16, residual });
    bool near = true;
    run(n, &m->a, &e[0], &e[1]);
    for (int k = 0; k < 2; k++) {
        double r = rms(&e[k]) / m->rms, largest = e[k].largest / m->largest;
        printf("# %s: %s bf16, residual %s, %s: rms %.2f and largest %.2f of transformers' own, %.2f and %.2f of its most\n",
               m->name, device->name, residual == BF16 ? "bf16" : "fp32", k ? "token by token" : "whole", r, largest,
               rms(&e[k]) / m->most_rms, e[k].largest / m->most_largest);
        near &= rms(&e[k]) <= m->most_rms && e[k].largest <= m->most_largest;
        ratios.rms += log(r);
        ratios.largest += log(largest);
        ratios.n++;
    }
    fflush(stdout);
    net_free(n);
    return near;
}

static void all_rows(void **state)
{
    (void)state;
    double r = exp(ratios.rms / ratios.n), largest = exp(ratios.largest / ratios.n);
    printf("# all models: %s bf16: rms %.2f and largest %.2f of transformers' own\n", device->name, r, largest);
    assert_true(r <= 1 && largest <= 1);
}

static void on_device(void **state)
{
    struct model *m = *state;
    struct error whole, steps;
    open_model(m);
    struct net *n = load_net(m->im, device, (struct precision){ F32, F32 });
    run(n, &m->a, &whole, &steps);
    printf("# %s: %s fp32, largest difference %.2g, token by token %.2g\n", m->name, device->name, whole.largest,
           steps.largest);
    fflush(stdout);
    assert_true(whole.largest <= tolerance && steps.largest <= tolerance);
    net_free(n);
    bool near = near_bf16(m, F32);
    near &= near_bf16(m, BF16);
    assert_true(near);
    close_model(m);
}

/* The rows of spread.tsv: what oracle/spread.py found. */
static void read_spread(struct model *m, size_t n)
{
    char *path = golden_path("spread.tsv", ""), line[256], name[64];
    struct model row = { 0 };
    FILE *f = fopen(path, "r");
    if (!f)
        die("'%s': cannot be opened", path);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "%63s %lf %lf %lf %lf", name, &row.largest, &row.rms, &row.most_largest, &row.most_rms) == 5)
            for (size_t i = 0; i < n; i++)
                if (strcmp(m[i].name, name) == 0) {
                    m[i].largest = row.largest;
                    m[i].rms = row.rms;
                    m[i].most_largest = row.most_largest;
                    m[i].most_rms = row.most_rms;
                }
    fclose(f);
    free(path);
}

/* NULL: there is none, and nobody has named one. */
static const struct backend *open_device(void)
{
    const char *named = getenv("SSM_CUDA"), *why;
    const struct backend *be = device_open("cuda", &(struct device_options){ 0 }, &why);
    if (!be && named && *named)
        die("SSM_CUDA: %s", why);
    return be && be->dtypes & 1u << BF16 ? be : NULL;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int main(int argc, char **argv)
{
    char *root = golden_path("", ""), **names = NULL;
    size_t n = 0, cap = 0;
    cmocka_set_message_output(CM_OUTPUT_TAP);
    err_init("golden");
    err_set_verbosity(0);
    DIR *d = argc > 1 ? NULL : opendir(root);
    for (struct dirent *e; d && (e = readdir(d));) {
        char *answer = golden_path(e->d_name, "logits.bin"); /* what has none is not for here */
        if (*e->d_name != '.' && path_exists(answer))
            *(char **)grow(&names, &n, &cap, sizeof *names) = xstrdup(e->d_name);
        free(answer);
    }
    for (int i = 1; i < argc; i++)
        *(char **)grow(&names, &n, &cap, sizeof *names) = xstrdup(argv[i]);
    if (n == 0)
        die("no models in '%s'", root);
    if (d)
        closedir(d);
    qsort(names, n, sizeof *names, by_name);
    struct model *models = xcalloc(n, sizeof *models);
    struct CMUnitTest *tests = xcalloc(2 * n + 1, sizeof *tests);
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        models[i].name = names[i];
        tests[k++] = (struct CMUnitTest){ .name = names[i], .test_func = golden, .initial_state = &models[i] };
    }
    device = open_device();
    read_spread(models, n);
    for (size_t i = 0; i < n && device; i++)
        if (models[i].rms > 0)
            tests[k++] = (struct CMUnitTest){ .name = xasprintf("%s on %s", names[i], device->name),
                                              .test_func = on_device, .initial_state = &models[i] };
    if (k > n && argc == 1)
        tests[k++] = (struct CMUnitTest){ .name = xasprintf("all models on %s", device->name), .test_func = all_rows };
    int bad = _cmocka_run_group_tests("golden", tests, k, NULL, NULL);
    for (size_t i = n; i < k; i++)
        free((char *)(uintptr_t)tests[i].name);
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
    free(models);
    free(tests);
    free(root);
    return bad;
}
