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
enum { SHARD_FORMAT = 1, SHARD_CHUNK = 256 << 10, SHARD_ENDS_BLOCK = 64 << 10 }; /* tokens; document ends */

/* A row of /parts; packed. */
struct shard_part {
    int64_t n_tokens, n_docs, n_bytes;
    uint64_t content;
};
enum { SHARD_PART_COLUMNS = 4 };
extern const struct h5_column shard_part_columns[SHARD_PART_COLUMNS];

static inline enum h5_type shard_token_type(int64_t vocab) { return vocab <= 65536 ? H5_U16 : H5_U32; }
static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

/* The content hash: a chain over chunks of tokens, one over blocks of document ends, then both. */
uint64_t shard_mix(uint64_t h, const void *data, size_t n);
uint64_t shard_content_hash(uint64_t tokens, uint64_t ends);

/* ---- attributes and counts; 0, or -1 with err_last() ---- */

bool shard_vocab_fits(const struct shard_info *i);
void shard_put_info(struct h5 *f, const struct shard_info *info);
int shard_try_attrs(const struct attrs *as, struct shard_info *info) __attribute__((warn_unused_result));
int shard_try_counts(int64_t n_tokens, int64_t n_docs, int64_t n_bytes) __attribute__((warn_unused_result));
/* All shards of a set speak the same language. */
int shard_try_alike(const char *path, const struct shard_info *set, const struct shard_info *b)
    __attribute__((warn_unused_result));
int shard_try_add_counts(struct shard_info *sum, const struct shard_part *p)
    __attribute__((warn_unused_result));

/* ---- one open shard file ---- */

struct shard_member {
    struct h5 *file; /* NULL when not open */
    struct h5_chunks *tokens;
    int64_t chunk;   /* tokens a chunk */
    int64_t ends_at; /* place of /doc_end in the file */
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
    void *tokens; /* SHARD_CHUNK of them */
};

struct shards {
    char *dir;
    struct shard_info info;
    int n;
    struct set_member *table;
    struct shard_part *parts;
    int64_t *token0, *doc0; /* [n+1] where a member's tokens and documents begin in the set */
    struct shard_member *members;
    struct shards_cached cache[SHARDS_CACHE];
    int64_t clock; /* counts uses */
    int n_open;
};

/* Opens member i if it is not. */
int shards_use_member(struct shards *s, int i) __attribute__((warn_unused_result));
/* Decoded tokens of one chunk, owned by the cache; NULL with err_last(). */
const void *shards_use_chunk(struct shards *s, int member, int64_t chunk) __attribute__((warn_unused_result));
/* Entries [first, first+n) of a member's /doc_end. */
int shards_read_ends(struct shards *s, int member, int64_t first, int64_t n, uint64_t *ends)
    __attribute__((warn_unused_result));

#endif
