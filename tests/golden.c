/* golden.c - other people's models, imported, give the logits that their own programs give
 * SPDX-License-Identifier: MIT
 *
 *   golden [CASE...]     folders of tests/golden; all without arguments
 * Each case: reads the model with the functions of 'ckmerge import', compares logits.bin
 * (tests/oracle/README.md) with whole passes over every prefix and with decoding token by token, and checks
 * that a checkpoint holds the same weights.
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
#include "kernels/backend.h"

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

/* The largest difference of the logits [B,vocab] behind token t; rows of theirs may be padded. */
static double difference(const struct answer *a, int t, const float *logits, int64_t vocab)
{
    double most = 0;
    for (int b = 0; b < a->B; b++) {
        for (int64_t v = 0; v < vocab; v++) {
            double want = (double)a->logits[((int64_t)b * a->T + t) * a->V + v],
                   have = (double)logits[b * vocab + v];
            double d = fabs(have - want);
            most = isnan(d) ? INFINITY : d > most ? d : most;
        }
    }
    return most;
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

static void golden(void **state)
{
    const char *name = *state;
    char *path = golden_path(name, "");
    struct answer a = read_answer(name);
    struct import *im = import_try_open(path, NULL, NULL);
    if (!im)
        fail_msg("%s", err_last());
    const struct config *c = import_config(im);
    const struct params *ps = import_params(im);
    struct net *n = net_create(c, backend_cpu(), (struct precision){ F32, F32 }, false);
    for (size_t i = 0; i < ps->n; i++)
        assert_int_equal(import_try_rows(im, i, 0, ps->p[i].shape[0], n->weights + ps->p[i].offset), 0);
    assert_true(c->vocab <= a.V);
    struct net_ctx *x = net_ctx_create(n, a.B, a.T, false, RECOMPUTE_NONE, a.T);
    float *logits = xcalloc((size_t)(a.B * c->vocab), sizeof *logits);
    int32_t *ids = xcalloc((size_t)(a.B * a.T), sizeof *ids);
    double whole = 0, steps = 0;

    for (int t = 0; t < a.T; t++) {
        struct net_state *s = net_state_create(n, a.B, a.T);
        take_ids(&a, 0, t + 1, ids);
        net_decode(x, s, ids, t + 1, logits);
        double d = difference(&a, t, logits, c->vocab);
        whole = d > whole ? d : whole;
        net_state_free(s);
    }
    struct net_state *s = net_state_create(n, a.B, a.T);
    for (int t = 0; t < a.T; t++) {
        take_ids(&a, t, 1, ids);
        net_decode(x, s, ids, 1, logits);
        double d = difference(&a, t, logits, c->vocab);
        steps = d > steps ? d : steps;
    }
    net_state_free(s);
    printf("# %s: %s, largest difference %.2g, token by token %.2g\n", name, import_family(im), whole, steps);
    fflush(stdout);
    assert_true(whole <= tolerance && steps <= tolerance);
    same_in_a_checkpoint(im, n);

    net_ctx_free(x);
    net_free(n);
    import_close(im);
    free(logits);
    free(ids);
    free(a.ids);
    free(a.logits);
    free(path);
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
    struct CMUnitTest *tests = xcalloc(n, sizeof *tests);
    for (size_t i = 0; i < n; i++)
        tests[i] = (struct CMUnitTest){ .name = names[i], .test_func = golden, .initial_state = names[i] };
    int bad = _cmocka_run_group_tests("golden", tests, n, NULL, NULL);
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
    free(tests);
    free(root);
    return bad;
}
