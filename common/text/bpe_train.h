/* bpe_train.h - learns the merges of a byte-level BPE from counted words
 * SPDX-License-Identifier: MIT
 *
 * The result is that of Hugging Face's BpeTrainer (tokenizers 0.20) with ByteLevel.alphabet() as the initial alphabet,
 * token by token and merge by merge. Ids: the special tokens in their order, the 256 bytes in the order of the
 * characters that stand for them (bpe_letters()), then what is learnt. The pair of tokens that occurs most often, each
 * word counted as often as it occurs, becomes a token; of equal counts the pair with the smaller first id, then with the
 * smaller second id. A pair whose string is a token already makes a merge and no token. It ends when there are `vocab`
 * tokens, or no pair occurs `least` times.
 *
 * Where a string comes about in two ways, a pair of tokens can come back after it was merged. BpeTrainer then
 * merges it again, in the words where it came back only, counts what it has merged as still there, and ranks it by the
 * last time; so do we. Two such comebacks with the same count at the same time come in the order in which they began;
 * in BpeTrainer that is left to the seed of its hash tables. Its counts are of 32 bits and wrap; ours are of 64.
 */
#ifndef SSM_BPE_TRAIN_H
#define SSM_BPE_TRAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tally;
struct json;

struct bpe_train {
    int64_t vocab;               /* tokens wanted, at least 256 and the specials */
    int64_t least;               /* a pair that occurs less often is left alone */
    const char *const *specials; /* UTF-8, not empty */
    size_t n_specials;
};

struct bpe_learnt {
    char **token; /* of id 0 .. n_tokens-1, in the letters that stand for bytes; UTF-8 */
    size_t n_tokens;
    uint32_t (*merge)[2]; /* in order; what they make is the token of the two strings together */
    size_t n_merges;
    size_t n_specials; /* of the tokens, the first; each once */
};

/* Time grows with the words' lengths times the merges in them, memory is some 40 bytes for one of distinct words. */
struct bpe_learnt *bpe_learn(const struct bpe_train *o, const struct tally *words);
void bpe_learnt_free(struct bpe_learnt *b);

/* The characters that stand for bytes 0 to 255: printable Latin-1 for itself, the others U+0100 and on, in order. */
void bpe_letters(unsigned short letter[256]);

/* A tokenizer.json: the tokens, with `pre_tokenizer` (copied text of JSON) in front. json_free() it. */
struct json *bpe_learnt_json(const struct bpe_learnt *b, const char *pre_tokenizer);

#endif
