/* sample.c - from logits to the next token
 * SPDX-License-Identifier: MIT
 */
#include "sample.h"

#include <math.h>
#include <stdbool.h>

#include "common/base/mem.h"
#include "common/base/rng.h"

struct candidate {
    double weight;      /* probability, up to a factor */
    float logit;        /* after the penalty */
    int32_t id;
};

struct sampler {
    struct sampling s;
    int64_t vocab;
    struct candidate *c;
};

struct sampler *sampler_new(const struct sampling *s, int64_t vocab)
{
    struct sampler *r = xcalloc(1, sizeof *r);
    r->s = *s;
    r->vocab = vocab;
    r->c = xmalloc(mul_size((size_t)vocab, sizeof *r->c, "candidates"));
    return r;
}

void sampler_free(struct sampler *r)
{
    if (r)
        free(r->c);
    free(r);
}

static int likelier_first(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static float penalised(const struct sampler *r, const float *logits, const uint8_t *seen, int64_t v)
{
    if (!seen || !seen[v])
        return logits[v];
    return (float)(logits[v] > 0 ? logits[v] / r->s.penalty : logits[v] * r->s.penalty);
}

/* The candidates that the filters leave, in r->c; the sum of their weights into *total. */
static int64_t filter(struct sampler *r, const float *logits, const uint8_t *seen, double *total)
{
    const struct sampling *s = &r->s;
    struct candidate *c = r->c;
    int64_t n = r->vocab;
    float best = -INFINITY;
    for (int64_t v = 0; v < n; v++) {
        c[v] = (struct candidate){ .logit = penalised(r, logits, seen, v), .id = (int32_t)v };
        best = c[v].logit > best ? c[v].logit : best;
    }
    if (s->top_k > 0 || s->top_p < 1)
        qsort(c, (size_t)n, sizeof *c, likelier_first);
    if (s->top_k > 0 && s->top_k < n) {
        int64_t k = s->top_k;
        while (k < n && c[k].logit == c[s->top_k - 1].logit)
            k++;
        n = k;
    }
    *total = 0;
    for (int64_t k = 0; k < n; k++)
        *total += c[k].weight = exp(((double)c[k].logit - (double)best) / s->temperature);
    if (s->top_p < 1) {
        double sum = 0;
        int64_t k = 0;
        while (k < n && sum < s->top_p * *total)
            sum += c[k++].weight;
        n = k; /* at least one: top_p > 0 */
        *total = sum;
    }
    if (s->min_p > 0) {
        int64_t kept = 0;
        *total = 0;
        for (int64_t k = 0; k < n; k++)
            if (c[k].weight >= s->min_p) { /* the likeliest has weight 1 */
                *total += c[k].weight;
                c[kept++] = c[k];
            }
        n = kept;
    }
    return n;
}

static int32_t likeliest(const struct sampler *r, const float *logits, const uint8_t *seen)
{
    int32_t best = 0;
    for (int64_t v = 1; v < r->vocab; v++)
        if (penalised(r, logits, seen, v) > penalised(r, logits, seen, best))
            best = (int32_t)v;
    return best;
}

int32_t sampler_token(struct sampler *r, const float *logits, const uint8_t *seen, uint64_t stream, uint64_t i)
{
    if (r->s.temperature <= 0)
        return likeliest(r, logits, seen);
    double total, at;
    int64_t n = filter(r, logits, seen, &total);
    if (n < 1 || !(total > 0)) /* not finite: whoever called sees that at this logit */
        return likeliest(r, logits, seen);
    at = rng_uniform(r->s.seed, stream, i) * total;
    for (int64_t k = 0; k < n; k++) {
        at -= r->c[k].weight;
        if (at < 0)
            return r->c[k].id;
    }
    return r->c[n - 1].id;
}

void sampler_probabilities(struct sampler *r, const float *logits, const uint8_t *seen, double *p)
{
    double total = 1;
    int64_t n = 1;
    if (r->s.temperature > 0)
        n = filter(r, logits, seen, &total);
    else
        r->c[0] = (struct candidate){ .weight = 1, .id = likeliest(r, logits, seen) };
    for (int64_t v = 0; v < r->vocab; v++)
        p[v] = 0;
    for (int64_t k = 0; k < n; k++)
        p[r->c[k].id] = r->c[k].weight / total;
}
