/* learn.h - a tokenizer.json out of text files, by many ranks
 * SPDX-License-Identifier: MIT
 *
 * Each rank counts the words of its share of the documents; words go to the rank that owns their hash, where counts
 * are added up, and all to rank 0, which learns (common/text/bpe_train.h). Counts are integers, and a document is
 * cut into words whole, so the result is the same bytes for any number of ranks.
 */
#ifndef SSM_LEARN_H
#define SSM_LEARN_H

#include <stdbool.h>
#include <stdint.h>

#include "common/text/bpe_train.h"
#include "common/text/docs.h"

enum learn_pattern { LEARN_GPT2, LEARN_CL100K, LEARN_O200K };
#define LEARN_PATTERNS "gpt2|cl100k|o200k"

struct comm;
struct learn {
    const char *output; /* a file */
    struct docs_options docs; /* mend follows from utf8 */
    enum utf8_policy utf8;    /* reject or replace */
    struct bpe_train bpe;
    enum learn_pattern pattern;
    double valid_share; /* of the documents, by hash as in encode.h, that are left out; 0: none */
    int64_t memory;     /* most bytes of distinct words (tally.h) */
    double log_seconds;
    bool force;
};

struct learn_counts {
    int64_t docs, bytes, empty, bad, other, replaced; /* as in encode.h, of all ranks */
    int64_t input;                          /* bytes of all inputs */
    int64_t words, distinct, tokens, merges;
    double counted, learnt; /* seconds */
};

/* Collective. Writes the file at rank 0. Dies when it is there and not `force`, an input is not the same on all
 * ranks, no document is left, or the distinct words need more than `memory`. k: at rank 0. */
void learn_run(const struct learn *l, char **inputs, int n, struct comm *c, struct learn_counts *k);

#endif
