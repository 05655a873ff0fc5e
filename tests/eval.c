/* eval.c - common/eval: the filters of sampling, the figures of tasks
 * SPDX-License-Identifier: MIT
 *
 *   eval                               the tests
 *   eval filter PENALTY T K P M <FILE  probabilities that the filters leave, for oracle/filters.py: FILE has a vocabulary's
 *                                      logits on its first line, whether each token was seen on its second
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/err.h"
#include "common/base/rng.h"
#include "common/eval/metric.h"
#include "common/eval/sample.h"

enum { V = 50 };

/* The filters by their definitions, one after the other, on probabilities: slow and plain. */
static void plain_filters(const struct sampling *s, const float *logits, const uint8_t *seen, double *p)
{
    double z[V], top = -INFINITY, sum = 0;
    bool in[V];
    for (int v = 0; v < V; v++) {
        z[v] = logits[v];
        if (seen[v])
            z[v] = z[v] < 0 ? z[v] * s->penalty : z[v] / s->penalty;
        z[v] /= s->temperature;
        top = fmax(top, z[v]);
    }
    for (int v = 0; v < V; v++) {
        int more = 0;
        for (int u = 0; u < V; u++)
            more += z[u] > z[v];
        in[v] = s->top_k == 0 || more < s->top_k;
        sum += in[v] ? exp(z[v] - top) : 0;
    }
    bool keep[V];
    for (int v = 0; v < V; v++) { /* stays when those before it in line hold less than top_p */
        double before = 0;
        for (int u = 0; u < V; u++)
            before += in[u] && (z[u] > z[v] || (z[u] == z[v] && u < v)) ? exp(z[u] - top) : 0;
        keep[v] = in[v] && (s->top_p >= 1 || before < s->top_p * sum) && exp(z[v] - top) >= s->min_p;
    }
    sum = 0;
    for (int v = 0; v < V; v++)
        sum += keep[v] ? exp(z[v] - top) : 0;
    for (int v = 0; v < V; v++)
        p[v] = keep[v] ? exp(z[v] - top) / sum : 0;
}

static void random_logits(uint64_t seed, float *logits, uint8_t *seen)
{
    for (uint64_t v = 0; v < V; v++) {
        logits[v] = (float)(2 * rng_normal(seed, 1, v));
        seen[v] = rng_uniform(seed, 2, v) < 0.3;
    }
    logits[7] = logits[8]; /* equals */
}

static void filters(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        float logits[V];
        uint8_t seen[V];
        double want[V], got[V];
        random_logits(seed, logits, seen);
        struct sampling s = { .penalty = seed % 2 ? 1 : 1.7, .temperature = 0.3 + 0.2 * (double)(seed % 7),
                              .top_k = seed % 3 ? (int64_t)(seed % 40) : 0, .top_p = seed % 5 ? 0.1 * (double)(seed % 11 + 1) : 1,
                              .min_p = seed % 4 ? 0 : 0.05 * (double)(seed % 9) };
        s.top_p = s.top_p > 1 ? 1 : s.top_p;
        struct sampler *r = sampler_new(&s, V);
        sampler_probabilities(r, logits, seen, got);
        plain_filters(&s, logits, seen, want);
        for (int v = 0; v < V; v++)
            assert_true(fabs(want[v] - got[v]) < 1e-6);
        sampler_free(r);
    }
}

/* Draws have the probabilities that the filters leave, and are a function of seed, stream and place. */
static void draws(void **state)
{
    (void)state;
    float logits[V];
    uint8_t seen[V];
    double p[V], count[V] = { 0 };
    struct sampling s = { .penalty = 1.3, .temperature = 0.9, .top_k = 12, .top_p = 0.9, .seed = 5 };
    struct sampler *r = sampler_new(&s, V);
    random_logits(4, logits, seen);
    sampler_probabilities(r, logits, seen, p);
    enum { N = 20000 };
    for (uint64_t i = 0; i < N; i++) {
        int32_t id = sampler_token(r, logits, seen, i % 7, i);
        assert_int_equal(id, sampler_token(r, logits, seen, i % 7, i));
        count[id]++;
    }
    for (int v = 0; v < V; v++) /* five standard deviations */
        assert_true(fabs(count[v] / N - p[v]) <= 5 * sqrt(p[v] * (1 - p[v]) / N));
    s.temperature = 0;
    struct sampler *greedy = sampler_new(&s, V);
    int32_t best = sampler_token(greedy, logits, NULL, 0, 0);
    for (int v = 0; v < V; v++)
        assert_true(logits[v] <= logits[best]);
    memset(seen, 0, sizeof seen);
    seen[best] = 1;
    s.penalty = 100;
    sampler_free(greedy);
    greedy = sampler_new(&s, V);
    assert_int_not_equal(sampler_token(greedy, logits, seen, 0, 0), best);
    sampler_free(greedy);
    sampler_free(r);
}

/* Token i of four logits, two of them equal. */
static int32_t one_of_four(double temperature, int64_t top_k, double top_p, uint64_t i)
{
    static const float logits[4] = { 1.0f, 3.0f, 2.0f, 3.0f };
    struct sampling s = { .penalty = 1, .temperature = temperature, .top_k = top_k, .top_p = top_p, .seed = 9 };
    struct sampler *r = sampler_new(&s, 4);
    int32_t id = sampler_token(r, logits, NULL, 0, i);
    sampler_free(r);
    return id;
}

static void sampling(void **state)
{
    (void)state;
    static const double share[4] = { 0.053, 0.395, 0.145, 0.395 }; /* exp(logit) over their sum, about */
    int count[4] = { 0 };
    assert_int_equal(one_of_four(0, 0, 1, 0), 1);
    for (uint64_t i = 0; i < 4000; i++)
        count[one_of_four(1, 0, 1, i)]++;
    for (int v = 0; v < 4; v++) /* five standard errors */
        assert_true(fabs(count[v] - 4000 * share[v]) < 5 * sqrt(4000 * 0.25));
    for (uint64_t i = 0; i < 500; i++) {
        int k = one_of_four(1, 1, 1, i); /* the first and its equal */
        assert_true(k == 1 || k == 3);
        k = one_of_four(1, 0, 0.5, i);
        assert_true(k == 1 || k == 3);
        assert_int_equal(one_of_four(1, 0, 0.1, i), 1);
    }
}

/* What Python's random.Random(k).choices() and statistics give: the numbers are its. */
static void errors(void **state)
{
    (void)state;
    static const double x[] = { -1.5, -0.25, -3, -2.125, -0.5 };
    assert_true(fabs(metric_mean(x, 5) + 1.475) < 1e-12);
    assert_true(fabs(metric_mean_stderr(x, 5) - 0.5099019513592785) < 1e-12);
    assert_true(fabs(metric_perplexity(x, 5) - 4.371035772929758) < 1e-12);
    assert_true(fabs(metric_perplexity_stderr(x, 5, 2000) - 2.36847824557625) < 1e-9);
    assert_true(fabs(metric_perplexity_stderr(x, 5, 10) - 2.1865139959761484) < 1e-9);
}

static void texts(void **state)
{
    (void)state;
    assert_int_equal(metric_words("", 0), 1);
    assert_int_equal(metric_words("a b", 3), 2);
    assert_int_equal(metric_words(" a  b\n\t", 7), 4);
    assert_int_equal(metric_words("a\xe3\x80\x80" "b\xc2\x85", 7), 3);
    assert_int_equal(metric_characters("a\xc3\xa9\xf0\x9f\x98\x80", 7), 3);
    assert_true(metric_contains("xABCy", 5, "abc", 3) && metric_contains("a", 1, "", 0));
    assert_false(metric_contains("ab", 2, "abc", 3) || metric_contains("xabdy", 5, "abc", 3));
    struct metric_match m = { .ignore_punctuation = true };
    assert_true(metric_exact_match(&m, "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~a", 33, "a", 1));
    assert_false(metric_exact_match(&m, "A", 1, "a", 1));
}

/* A line of n numbers. */
static void read_line(double *x, int n)
{
    for (int i = 0; i < n; i++)
        if (scanf("%lf", &x[i]) != 1)
            die("too few numbers");
}

static int filter(char **arg)
{
    struct sampling s = { .penalty = strtod(arg[0], NULL), .temperature = strtod(arg[1], NULL),
                          .top_k = strtoll(arg[2], NULL, 10), .top_p = strtod(arg[3], NULL), .min_p = strtod(arg[4], NULL) };
    double z[V], was[V], p[V];
    float logits[V];
    uint8_t seen[V];
    read_line(z, V);
    read_line(was, V);
    for (int v = 0; v < V; v++) {
        logits[v] = (float)z[v];
        seen[v] = was[v] != 0;
    }
    struct sampler *r = sampler_new(&s, V);
    sampler_probabilities(r, logits, seen, p);
    for (int v = 0; v < V; v++)
        printf("%.9g\n", p[v]);
    sampler_free(r);
    return EXIT_DONE;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(filters),
        cmocka_unit_test(draws),
        cmocka_unit_test(sampling),
        cmocka_unit_test(errors),
        cmocka_unit_test(texts),
    };
    err_init("eval");
    if (argc == 7 && strcmp(argv[1], "filter") == 0)
        return filter(argv + 2);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("eval", tests, NULL, NULL);
}
