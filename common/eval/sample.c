/* sample.c - from logits to the next token
 * SPDX-License-Identifier: MIT
 */
#include "sample.h"

#include <math.h>

#include "common/base/mem.h"
#include "common/base/rng.h"

struct candidate {
    float logit;
    int32_t id;
};

static int likelier_first(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit < y->logit ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

int32_t sample_token(const struct sampling *s, const float *logits, int64_t vocab, uint64_t stream, uint64_t i)
{
    int32_t best = 0;
    for (int64_t v = 1; v < vocab; v++)
        if (logits[v] > logits[best])
            best = (int32_t)v;
    if (s->temperature <= 0)
        return best;
    struct candidate *c = xmalloc(mul_size((size_t)vocab, sizeof *c, "candidates"));
    for (int64_t v = 0; v < vocab; v++)
        c[v] = (struct candidate){ logits[v], (int32_t)v };
    int64_t n = vocab;
    if (s->top_k > 0 || s->top_p < 1)
        qsort(c, (size_t)vocab, sizeof *c, likelier_first);
    if (s->top_k > 0 && s->top_k < n)
        n = s->top_k;
    double total = 0;
    for (int64_t k = 0; k < n; k++)
        total += exp(((double)c[k].logit - logits[best]) / s->temperature);
    if (s->top_p < 1) {
        double sum = 0;
        int64_t k = 0;
        while (k < n && sum < s->top_p * total)
            sum += exp(((double)c[k++].logit - logits[best]) / s->temperature);
        n = k; /* at least one: top_p > 0 */
        total = sum;
    }
    double at = rng_uniform(s->seed, stream, i) * total;
    int32_t id = c[n - 1].id;
    for (int64_t k = 0; k < n; k++) {
        at -= exp(((double)c[k].logit - logits[best]) / s->temperature);
        if (at < 0) {
            id = c[k].id;
            break;
        }
    }
    free(c);
    return id;
}
