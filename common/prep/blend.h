/* blend.h - a blend file: which sets of token shards, and how much of each
 * SPDX-License-Identifier: MIT
 *
 *     # comment
 *     PATH WEIGHT       a set and its share of the samples, any scale; 1 when there is no WEIGHT
 *     PATH epochs=E     the set E times: weight E * tokens
 *     alpha = A         weights tokens^A, of lines with only a PATH
 * A packed set counts with its padding, as so many tokens as its samples would have if all were full: a sample of it is
 * a row of a batch, as so many tokens of another set are.
 *
 * A file has lines of one of the three kinds. Fields stand between blanks; a PATH with blanks or a '#' stands between
 * double quotes, and one that is not absolute begins at the folder of the file. A '#' behind a blank begins a comment.
 * The weights depend on the sets alone, not on the length of a run, so a run may be made longer.
 */
#ifndef SSM_BLEND_H
#define SSM_BLEND_H

#include <stddef.h>
#include <stdint.h>

#include "common/io/shard.h"

struct blend_set {
    char *path;             /* owned */
    double weight, epochs;  /* as written; 0: not given */
    struct shard_info info; /* of the set, and its hash, by blend_try_open() */
    uint64_t hash;
};

struct blend { /* zero-initialise */
    struct blend_set *set;
    size_t n, cap;
    double alpha; /* 0: none */
};

/* 0, or -1 with err_last(), "FILE:LINE: reason" in one line. */
int blend_try_read(struct blend *b, const char *file) __attribute__((warn_unused_result));
/* The same from text; `file` is its name. */
int blend_try_parse(struct blend *b, const char *file, const char *text, size_t n)
    __attribute__((warn_unused_result));
/* Adds a set with this weight. */
void blend_add(struct blend *b, const char *path, double weight);
/* Opens each set, fills info and hash, and makes weights of epochs and alpha. Sets of different tokenizers, and sets
 * without tokens, are an error. */
int blend_try_open(struct blend *b) __attribute__((warn_unused_result));
void blend_free(struct blend *b);
/* The tokens of a set as weights and epochs count them. */
double blend_tokens(const struct shard_info *info);

#endif
