/* sample.h - from logits to the next token
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_SAMPLE_H
#define SSM_SAMPLE_H

#include <stdint.h>

struct sampling {
    double temperature;     /* 0: the likeliest token (lowest id on a tie) */
    int64_t top_k;          /* only the k likeliest; 0: all */
    double top_p;           /* only the smallest set of likeliest tokens that holds this much, > 0; 1: all */
    uint64_t seed;
};

/* Token number `i` of sequence `stream`: a function of logits [vocab], the options and (seed, stream, i) alone. */
int32_t sample_token(const struct sampling *s, const float *logits, int64_t vocab, uint64_t stream, uint64_t i);

#endif
