/* bpe.h - byte-pair merges over bytes: words to ids, exactly and fast
 * SPDX-License-Identifier: MIT
 *
 * A word begins as one token a byte. Of all neighbours that may merge, those of the lowest rank do, the leftmost first,
 * until none may. A `struct bpe` holds vocabulary and merges; once bpe_try_finish() has seen it, it never
 * changes, and threads may share it. A `struct bpe_words` is one thread's: it remembers the ids of words, in at most
 * some 12 MiB. What it remembers changes nothing but the time.
 *
 * Time for a word of n bytes that is not remembered: of order n log n whatever the word; memory 40 bytes a byte. One of
 * more than BPE_MAX_WORD ends the program.
 */
#ifndef SSM_BPE_H
#define SSM_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tokenizer.h"

enum { BPE_MAX_ID = (1 << 24) - 1, BPE_MAX_WORD = 64 << 20 };
#define BPE_NONE UINT32_MAX

/* ---- building ---- */

struct bpe;
struct bpe *bpe_new(void);
void bpe_free(struct bpe *b); /* NULL is allowed */

/* A token of the vocabulary, its bytes copied. A `word` can come out of merges (and of whole words); other tokens only
 * have bytes. -1 with err_last() when the id is above BPE_MAX_ID or comes twice, or two words have the same
 * bytes, or it has none. */
int bpe_try_add(struct bpe *b, uint32_t id, const void *bytes, size_t n, bool word)
    __attribute__((warn_unused_result));
/* left and right, side by side, become `made`, words all three. The same pair again: the last call counts. */
void bpe_merge(struct bpe *b, uint32_t left, uint32_t right, uint32_t made, uint32_t rank);
/* All pairs of words whose bytes, joined, are a word merge, in order of its id: the rule of rank files. */
void bpe_merge_by_id(struct bpe *b);
/* With whole_words a word that is in the vocabulary is that token, whatever the merges say. -1 with err_last() when a
 * byte is no word that UTF-8 uses; GPT-NeoX's vocabulary has none for the other thirteen (0xc0, 0xc1, 0xf5 to 0xff),
 * which bpe_encode() then leaves out. */
int bpe_try_finish(struct bpe *b, bool whole_words) __attribute__((warn_unused_result));

/* ---- asking ---- */

uint32_t bpe_find(const struct bpe *b, const void *bytes, size_t n); /* a word's id, or BPE_NONE */
/* NULL when the id is not in the vocabulary. */
const unsigned char *bpe_bytes(const struct bpe *b, uint32_t id, size_t *n);
uint32_t bpe_ids(const struct bpe *b); /* highest id + 1 */
/* Adds all that decides ids to a hash. */
struct hash;
void bpe_hash(const struct bpe *b, struct hash *h);

/* ---- encoding ---- */

struct bpe_words;
struct bpe_words *bpe_words_new(const struct bpe *b);
void bpe_words_free(struct bpe_words *w); /* NULL is allowed */
/* Appends the ids of words 0 .. n-1, none empty: word i is text[end[i-1]] .. text[end[i]-1], word 0 begins at text[0]. */
void bpe_encode(struct bpe_words *w, const unsigned char *text, const size_t *end, size_t n,
                struct token_ids *ids);

#endif
