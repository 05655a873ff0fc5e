/* convert.h - token files of other programs to a set of shards, and back
 * SPDX-License-Identifier: MIT
 *
 * Every document of ours ends with the end-of-document token. A document of Megatron-LM is the concatenation of its
 * sequences; it has that token already, or gets it (append_eod); one without any token is skipped. In llm.c's files
 * the token stands in front of each document: the first one is taken off, and the last document gets its own, so the
 * same tokens come back on the way out. Files of one import are one stream.
 *
 * Memory is bounded: a block of tokens, a block of each index, the document ends of the member that is being made.
 */
#ifndef SSM_CONVERT_H
#define SSM_CONVERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/io/idfile.h"
#include "common/io/shard.h"

enum convert_format { CONVERT_AUTO, CONVERT_MEGATRON, CONVERT_LLMC };

struct comm;
struct tokenizer;
struct convert_import {
    const char *output;         /* folder of the set */
    enum convert_format format; /* auto: Megatron-LM's where there is an .idx, else llm.c's */
    struct shard_info info;     /* tokenizer, hash, vocab, eod: what the ids are */
    const struct tokenizer *tokenizer; /* counts the bytes of the text; NULL: they stay unknown, 0 */
    bool append_eod, sequences; /* each sequence is a document, whatever the index says of documents */
    int64_t part_tokens;        /* tokens of a member, about; 0: CONVERT_PART, fewer when ranks would idle */
    int level;                  /* of zstd */
    double log_seconds;
    bool force;
};
#define CONVERT_PART (1LL << 30)

struct convert_counts { /* only int64_t: ranks add them up */
    int64_t docs, tokens, bytes;
    int64_t empty, added; /* documents without tokens; end tokens that were not there (of members made now) */
    int64_t kept, made;   /* members */
};
/* Collective: ranks share the members. A name with or without .bin or .idx at its end. Dies with one line. */
void convert_import(const struct convert_import *o, char **inputs, int n, struct comm *c,
                    struct convert_counts *k);

struct convert_export {
    const char *prefix;
    enum convert_format format; /* not auto */
    enum id_type type;          /* 0: as the format's own tools choose */
    bool drop_eod;              /* Megatron-LM: documents without their end token */
    int64_t file_tokens;        /* llm.c: tokens of a file at most */
    bool force;
};
/* Megatron-LM: PREFIX.bin, PREFIX.idx, a document a sequence. llm.c: PREFIX_000000.bin and so on. Returns the number
 * of tokens written. Not collective. Dies. */
int64_t convert_export(struct shards *s, const struct convert_export *o);

#endif
