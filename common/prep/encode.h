/* encode.h - documents of text files, or conversations, to one set of token shards, by many jobs, ranks and threads
 * SPDX-License-Identifier: MIT
 *
 * The input bytes are cut in even parts; the documents of one part become one member file. Jobs and their ranks
 * take runs of parts, the threads of a rank its parts one after the other. Nothing is shared, so an array of jobs
 * needs no messages, and what is there already need not be made again: a member carries a fingerprint of inputs
 * and options (`source`). The set becomes valid when its index is written: by rank 0 of a job that makes
 * all of it, or by parts_join() (parts.h).
 *
 * Members hold the documents in the order of the inputs. The documents of a set and their order depend on
 * inputs and options only; the bytes of a member (but for its history) on these and on how many parts there are,
 * not on who makes which.
 *
 * With `pack` each line of JSONL is a conversation, and the set a packed one (pack.h). Each member is packed by itself, so
 * how the conversations stand in rows depends on how many parts there are; which they are does not.
 *
 * The bytes of a document that are hashed, counted and encoded are those that the UTF-8 policy leaves; a conversation's are hashed as its line.
 */
#ifndef SSM_ENCODE_H
#define SSM_ENCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/text/docs.h"
#include "common/base/utf8.h"
#include "pack.h"

enum encode_take { ENCODE_ALL, ENCODE_TRAIN, ENCODE_VALID };

struct comm;
struct ids;
struct tokenizer;
struct encode {
    const char *output; /* folder of the set */
    const struct tokenizer *tokenizer;
    struct docs_options docs; /* mend follows from utf8 */
    const struct pack *pack;  /* conversations; docs is JSONL without text_key. NULL: documents */
    enum utf8_policy utf8;    /* auto: reject when the tokenizer needs UTF-8, else keep */
    bool unpack;              /* gzip and zstd */
    const struct ids *take_ids, *drop_ids; /* only these, not these documents; NULL: no such list */
    enum encode_take take;
    double valid_share;   /* of the documents, when not all are taken */
    const char *settings; /* text of all options that decide what is in the members, n_settings bytes */
    size_t n_settings;
    int64_t job, jobs; /* this is job `job` of `jobs`, from 0 */
    int64_t shards;    /* parts of the set, at most PARTS_MOST; 0: one for each thread of each rank of each job */
    int threads;       /* of each rank */
    bool whole;        /* of one: it writes the index too */
    int level;         /* of zstd */
    double log_seconds;
    bool force, dry_run; /* replace what is there; write nothing */
};

struct encode_counts {           /* only int64_t: ranks add them up as an array */
    int64_t docs, tokens, bytes; /* in the members */
    int64_t empty, bad, other;   /* documents left out: without bytes, bad lines, the other share's */
    int64_t dropped;             /* and those that the lists of ids leave out */
    int64_t replaced;            /* U+FFFD put in for what was no UTF-8, in the members */
    int64_t kept, made;          /* members that were there already; that were not */
    int64_t samples, targets;    /* packed: in the members */
    int64_t too_long, shortened, no_target; /* packed, of members made now: as in pack.h */
    int64_t input;               /* bytes of all inputs; of the standard input, of its documents */
};

/* Collective. Makes the members of this job, and the index when it makes the whole set. Dies when an input is
 * not the same on all ranks or would be overwritten, when something else is in the way and not `force`, and
 * when a whole set would have no document; warns when one file is named twice. k: of all ranks. */
void encode_run(const struct encode *e, char **inputs, int n, struct comm *c, struct encode_counts *k);

#endif
