/* shard_private.h - what the writer and the reader of token shards share
 * SPDX-License-Identifier: MIT
 *
 * Only shard*.c includes it. shard.c: what a shard file says of itself; shard_write.c: files and index;
 * shard_read.c: tokens and document ends of a set; shard_verify.c: every byte of it.
 */
#ifndef SSM_SHARD_PRIVATE_H
#define SSM_SHARD_PRIVATE_H

#include "h5.h"
#include "shard.h"

#define SHARD_KIND_SET "ssmtools token shards"
#define SHARD_KIND_FILE "ssmtools token shard"
/* Format 1 is that of sets that are not packed, and stays it. */
enum { SHARD_FORMAT = 2, SHARD_CHUNK = 256 << 10, SHARD_ENDS_BLOCK = 64 << 10 }; /* tokens; ends */
enum { SHARD_LONGEST = 1 << 30 }; /* tokens of a sample: rows are counted in 32 bits */

/* A row of /parts; without padding. Only packed sets have the last columns, elsewhere they are 0. */
struct shard_part {
    int64_t n_tokens, n_docs, n_bytes;
    uint64_t content;
    int64_t n_samples, n_targets;
};
enum { SHARD_PART_COLUMNS = 6, SHARD_PLAIN_COLUMNS = 4 };
enum { SHARD_PLAIN_ROW = 32 }; /* bytes of the first columns */
extern const struct h5_column shard_part_columns[SHARD_PART_COLUMNS];

static inline enum h5_type shard_token_type(int64_t vocab) { return vocab <= 65536 ? H5_U16 : H5_U32; }
static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t shard_format(const struct shard_info *i) { return i->seq_len ? 2 : 1; }

/* The content hash: a chain over chunks of tokens, one over blocks of document ends, then both; in packed files, then
 * chains over chunks of the mask and blocks of sample ends. */
uint64_t shard_mix(uint64_t h, const void *data, size_t n);
struct shard_hashes {
    uint64_t tokens, docs, mask, samples;
};
uint64_t shard_content_hash(const struct shard_info *i, const struct shard_hashes *h);

/* ---- attributes and counts; 0, or -1 with err_last() ---- */

bool shard_vocab_fits(const struct shard_info *i);
void shard_put_info(struct h5 *f, const struct shard_info *info);
int shard_try_attrs(const struct attrs *as, struct shard_info *info) __attribute__((warn_unused_result));
int shard_try_counts(const struct shard_part *p, int64_t seq_len) __attribute__((warn_unused_result));
/* All shards of a set speak the same language. */
int shard_try_alike(const char *path, const struct shard_info *set, const struct shard_info *b)
    __attribute__((warn_unused_result));
int shard_try_add_counts(struct shard_info *sum, const struct shard_part *p)
    __attribute__((warn_unused_result));

/* ---- one open shard file ---- */

struct shard_member {
    struct h5 *file; /* NULL when not open */
    struct h5_chunks *tokens, *mask; /* mask: NULL when not packed */
    int64_t ends_at[2];              /* places of /doc_end and /sample_end in the file */
    int64_t last_use;
};

/* Opens a shard file and checks all that can be checked without reading its data. */
int shard_open_member(const char *path, struct shard_member *m, struct shard_info *info, struct shard_part *p)
    __attribute__((warn_unused_result));
void shard_close_member(struct shard_member *m);

/* ---- an open set ---- */

enum { SHARDS_CACHE = 8 };

struct shards_cached {
    int member; /* -1: empty */
    int64_t chunk, last_use;
    void *tokens;  /* SHARD_CHUNK of them */
    uint8_t *mask; /* as many; packed */
};

struct shards {
    char *dir;
    struct shard_info info;
    int n;
    struct set_member *table;
    struct shard_part *parts;
    int64_t *token0, *doc0, *sample0; /* [n+1] where a member's tokens, documents, samples begin in the set */
    bool no_mask;                     /* every token is a target */
    struct shard_member *members;
    struct shards_cached cache[SHARDS_CACHE];
    int64_t clock; /* counts uses */
    int n_open;
};

/* Opens member i if it is not. */
int shards_use_member(struct shards *s, int i) __attribute__((warn_unused_result));
/* A decoded chunk, owned by the cache; NULL with err_last(). */
const struct shards_cached *shards_use_chunk(struct shards *s, int member, int64_t chunk)
    __attribute__((warn_unused_result));
enum shard_ends { SHARD_DOCS, SHARD_SAMPLES };
/* Entries [first, first+n) of a member's /doc_end or /sample_end. */
int shards_read_ends(struct shards *s, int member, enum shard_ends which, int64_t first, int64_t n, uint64_t *ends)
    __attribute__((warn_unused_result));

#endif
