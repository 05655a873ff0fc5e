/* sample.h - from logits to the next token
 * SPDX-License-Identifier: MIT
 *
 * The filters are those of transformers' generate(), in its order: repetition penalty, temperature, top-k, top-p,
 * min-p; each sees what the ones before it left.
 */
#ifndef SSM_SAMPLE_H
#define SSM_SAMPLE_H

#include <stdint.h>

struct sampling {
    double penalty;         /* logits of tokens that were there before are divided by it if positive, else multiplied
                             * (Keskar et al. 2019, section 4.1); 1: none */
    double temperature;     /* logits are divided by it; 0: the likeliest token (lowest id on a tie) */
    int64_t top_k;          /* only the k likeliest, and all that are as likely as the k-th; 0: all */
    double top_p;           /* only the smallest set of likeliest tokens that holds this much, > 0; 1: all */
    double min_p;           /* only tokens at least min_p times as likely as the likeliest; 0: all */
    uint64_t seed;
};

/* Room for one vocabulary; one a thread. */
struct sampler;
struct sampler *sampler_new(const struct sampling *s, int64_t vocab);
void sampler_free(struct sampler *r);

/* Token number `i` of sequence `stream`: a function of logits [vocab], seen [vocab] (not 0: the token was there before;
 * NULL: none was), the options and (seed, stream, i) alone. */
int32_t sampler_token(struct sampler *r, const float *logits, const uint8_t *seen, uint64_t stream, uint64_t i);
/* The same filters without the draw: the probability of each token into p [vocab]. */
void sampler_probabilities(struct sampler *r, const float *logits, const uint8_t *seen, double *p);

#endif
