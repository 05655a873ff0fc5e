/* bytelevel.h - a tokenizer of byte-level BPE: added tokens, then words, then merges
 * SPDX-License-Identifier: MIT
 *
 * What the readers of files (hf_tokenizer.c, tiktoken.c) fill in, and the functions that are the same for them:
 *
 *     text -> raw added tokens -> normaliser -> normalised added tokens -> words -> merges -> ids
 *
 * Every arrow streams: a document comes in parts, and what is kept is that of the longest word.
 */
#ifndef SSM_BYTELEVEL_H
#define SSM_BYTELEVEL_H

#include "added.h"
#include "bpe.h"
#include "split.h"
#include "tokenizer.h"

struct bytelevel_special {
    char *name;
    uint32_t id;
};

struct bytelevel {
    struct bpe *bpe;
    struct split *words;
    struct split
        *norm;      /* the normaliser alone, when there are tokens to find behind it; else NULL: in `words` */
    bool norm_cuts; /* it may be given the text between two ASCII bytes, and leaves ASCII alone */
    struct added *raw, *normal; /* NULL: nothing to find */
    struct bytelevel_special *special; /* tokens that text does not make */
    size_t n_special, cap_special;
};

/* For struct tokenizer_kind; t->impl is a struct bytelevel from xcalloc(). */
void bytelevel_release(struct tokenizer *t);
void *bytelevel_new_state(const struct tokenizer *t);
void bytelevel_free_state(void *state);
void bytelevel_encode(const struct tokenizer *t, void *state, const unsigned char *text, size_t n, bool last,
                      struct token_ids *ids);
int bytelevel_try_decode(const struct tokenizer *t, void *state, const uint32_t *ids, size_t n, bool last,
                         struct buf *text);

int64_t bytelevel_find_special(const struct tokenizer *t, const char *name);

/* Remembers a special token that is not looked for in text. */
void bytelevel_add_special(struct bytelevel *bl, const char *name, uint32_t id);
/* Sets t->info's vocab, and its hash from what t->impl holds, eod, and `more`, what else decides ids. */
void bytelevel_describe(struct tokenizer *t, const struct buf *more);
/* t->info.eod by the options: the id with that text by find(), else one of the usual names. -1 with err_last(). */
int bytelevel_try_eod(struct tokenizer *t, const struct tokenizer_options *o, const char *file,
                      int64_t (*find)(const void *with, const char *text), const void *with)
    __attribute__((warn_unused_result));
/* t->info.name from what people call the file: the last name of its path, of its folder for tokenizer.json. */
void bytelevel_set_name(struct tokenizer *t, const char *path);

#endif
