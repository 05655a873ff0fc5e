/* encode.h - documents of text files to one set of token shards, by many ranks and many jobs
 * SPDX-License-Identifier: MIT
 *
 * The input bytes are cut in N (jobs) times R (ranks) even parts; each rank turns the documents of its part
 * into one member file. Nothing is shared, so an array of N jobs needs no messages, and what is there already
 * need not be made again: a member carries a fingerprint of inputs and options (`source`). The set becomes
 * valid when its index is written: by rank 0 of a job that makes all of it, or by parts_join() (parts.h).
 */
#ifndef SSM_ENCODE_H
#define SSM_ENCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/text/docs.h"

enum encode_take { ENCODE_ALL, ENCODE_TRAIN, ENCODE_VALID };

struct comm;
struct tokenizer;
struct encode {
    const char *output; /* folder of the set */
    const struct tokenizer *tokenizer;
    struct docs_options docs;
    enum encode_take take;
    double valid_share;   /* of the documents, when not all are taken */
    const char *settings; /* text of all options that decide what is in the members, n_settings bytes */
    size_t n_settings;
    int64_t job, jobs; /* this is job `job` of `jobs`, from 0 */
    bool whole;        /* of one: it writes the index too */
    int level;         /* of zstd */
    double log_seconds;
    bool force, dry_run; /* replace what is there; write nothing */
};

struct encode_counts {           /* only int64_t: ranks add them up as an array */
    int64_t docs, tokens, bytes; /* in the members */
    int64_t empty, bad, other;   /* documents left out: without bytes, bad lines, the other share's */
    int64_t kept, made;          /* members that were there already; that were not */
    int64_t input;               /* bytes of all inputs */
};

/* Collective. Makes the members of this job, and the index when it makes the whole set. Dies when an input is
 * not the same on all ranks or would be overwritten, when something else is in the way and not `force`, and
 * when a whole set would have no document. k: of all ranks. */
void encode_run(const struct encode *e, char **inputs, int n, struct comm *c, struct encode_counts *k);

#endif
