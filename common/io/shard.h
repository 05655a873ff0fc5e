/* shard.h - sets of tokenised documents
 * SPDX-License-Identifier: MIT
 *
 * A shard file (member of a set, see set.h):
 *   /tokens     u16 when vocab <= 65536, else u32; [n_tokens]; chunked (256 Ki tokens), zstd (filter 32015)
 *   /doc_end    u64 [n_docs], contiguous: end of each document, exclusive, its end token counted
 *   attributes  kind, format, tokenizer (name), tokenizer_hash, vocab, eod (id of the end-of-document token),
 *               n_tokens, n_docs, n_bytes (bytes of text), n_replaced (U+FFFD that stand in it for what was no
 *               UTF-8; files without it: 0), source, content (hash of tokens and ends), history
 * A packed file, for fine-tuning, has besides
 *   /loss_mask  u8 [n_tokens], chunked as /tokens: 1: the token counts as a target, 0: it does not
 *   /sample_end u64 [n_samples], contiguous: end of each sample, exclusive. A sample is a row of a batch: one or more
 *               whole documents, seq_len tokens at most; the last one ends where the tokens do
 *   attributes  seq_len, n_samples, n_targets (ones in the mask); format is 2, for an older program would take every
 *               token for a target; content is a hash of mask and ends of samples too
 * All members of a set are packed, with one seq_len, or none is.
 * A set: members in the order of their parts. Its index.h5 repeats tokenizer, vocab, eod and source, sums the
 * counts, and has /parts: n_tokens, n_docs, n_bytes, content of each member; and /tokens, virtual. That of a packed set
 * also has seq_len, the columns n_samples and n_targets, and /loss_mask, virtual. Token offsets below run over the whole
 * set; those in /doc_end and /sample_end over the member.
 */
#ifndef SSM_SHARD_H
#define SSM_SHARD_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/attrs.h"
#include "set.h"

struct shard_info {
    char tokenizer[64];
    uint64_t tokenizer_hash;
    int64_t vocab;
    int64_t eod;
    int64_t n_tokens, n_docs, n_bytes;
    int64_t n_replaced; /* U+FFFD put in for what was no UTF-8 */
    int64_t seq_len;    /* packed: most tokens of a sample; else 0 */
    int64_t n_samples, n_targets; /* packed; else 0 */
    char source[64];    /* what the set was made from, as its maker words it (a fingerprint); may be "" */
};

/* ---- writing ---- */

struct shard_writer;
/* Starts the shard file `path` (temporary until the end). info: tokenizer, hash, vocab, eod, source, seq_len are read.
 * A file with no documents at all is fine. seq_len > 0 makes a packed one. level: zstd level. Dies on failure. */
struct shard_writer *shard_create(const char *path, const struct shard_info *info, int level, bool force);
/* Not packed: adds tokens of the current document (any number of calls), then ends it: the eod token is added here, and
 * n_bytes of text counted. Tokens are checked against the vocabulary (bug() when they do not fit). */
void shard_add(struct shard_writer *w, const uint32_t *tokens, int64_t n);
void shard_end_doc(struct shard_writer *w, int64_t n_bytes);
/* Packed: adds a document of n > 0 tokens, the last of them the eod token, with their mask of 0 and 1, to the current
 * sample, of which the second one is the end. bug() where that makes more than seq_len tokens. */
void shard_add_doc(struct shard_writer *w, const uint32_t *tokens, const uint8_t *mask, int64_t n, int64_t n_bytes);
void shard_end_sample(struct shard_writer *w);
/* n more U+FFFD stand in the text that were not in the input. */
void shard_add_replaced(struct shard_writer *w, int64_t n);
/* Writes what is left, syncs, renames; frees w; info (may be NULL) gets the counts. */
void shard_commit(struct shard_writer *w, struct shard_info *info);
void shard_abort(struct shard_writer *w);

/* Makes the shard file `to` of what the shard file `from` holds, with another `source`: the same tokens (their chunks
 * go over as they are stored), documents, counts and content hash. `from` is checked as it is when a set is
 * opened, no deeper. Dies on failure. */
void shard_copy(const char *from, const char *to, const char *source, bool force, struct shard_info *info);

/* What one finished member file says of itself, index or not (is it there already, and made from the same?).
 * 0, or -1 with err_last(). */
int shard_try_info(const char *path, struct shard_info *info) __attribute__((warn_unused_result));

/* Opens the members named in `names` (in this order), checks that they agree (tokenizer, vocab, eod, source), and
 * renames index.h5 into place in `dir`. Dies with the reason when they do not fit together. */
void shards_write_index(const char *dir, const char *const *names, int n, bool force);

/* ---- reading; one thread per struct shards ---- */

struct shards;
/* Opens a set by its folder (all members checked for size; attributes, shapes and types for sense).
 * NULL with err_last() when that fails. */
struct shards *shards_try_open(const char *dir) __attribute__((warn_unused_result));
void shards_close(struct shards *s);
const struct shard_info *shards_info(const struct shards *s);
const char *shards_dir(const struct shards *s);
/* A hash of what all members hold, in order: two sets with the same value hold the same tokens and documents. It
 * does not change when the set is made again from the same text in the same parts. */
uint64_t shards_hash(const struct shards *s);
int shards_count(const struct shards *s);
const struct set_member *shards_member(const struct shards *s, int i);
/* Verifies one member deeply: file checksum, every chunk decodes, tokens < vocab, doc_end ascending and
 * each at an eod token, samples of whole documents and no longer than they may be, a mask of 0 and 1, counts. 0, or -1 with err_last(). */
int shards_try_verify(struct shards *s, int i) __attribute__((warn_unused_result));

/* Tokens [offset, offset+n) of the set, across members. 0, or -1 with err_last() (also for a token >= vocab). */
int shards_try_read(struct shards *s, int64_t offset, int64_t n, uint32_t *tokens)
    __attribute__((warn_unused_result));
/* Ends (exclusive token offsets in the set) of the documents that end in (offset, offset+n], ascending, at
 * most `cap` of them. Returns how many there are (may be more than cap), or -1 with err_last(). */
int64_t shards_try_doc_ends(struct shards *s, int64_t offset, int64_t n, int64_t *ends, int64_t cap)
    __attribute__((warn_unused_result));
/* End of document i (0 <= i < n_docs), exclusive, or -1 with err_last(). */
int64_t shards_try_doc_end(struct shards *s, int64_t i) __attribute__((warn_unused_result));
/* Where sample i (0 <= i < n_samples) of a packed set begins and ends (exclusive). 0, or -1 with err_last(). */
int shards_try_sample(struct shards *s, int64_t i, int64_t *from, int64_t *to) __attribute__((warn_unused_result));
/* Which of the tokens [offset, offset+n) count as targets, 0 or 1 each; of a set that is not packed all do. 0, or -1
 * with err_last(). */
int shards_try_mask(struct shards *s, int64_t offset, int64_t n, uint8_t *mask) __attribute__((warn_unused_result));
/* From now on shards_try_mask() says that all do. */
void shards_drop_mask(struct shards *s);

#endif
