/* tokenizer.h - text to token ids and back
 * SPDX-License-Identifier: MIT
 *
 * A tokenizer is read once and never changes, so threads may share it. What an encoder or decoder remembers
 * between the pieces of a document (the word that a piece cut in two, a leading blank to drop) lives in a
 * struct token_stream, one a thread and direction. A document may come in pieces of any size: the ids are the
 * same as for the whole. Whoever stores documents adds the end-of-document id; text makes it only if it is asked to
 * read special tokens in it (SPECIALS_PARSE), or an added token that is not special ends documents.
 *
 * To add a kind: a static struct tokenizer_kind in a file of its own and its row in tokenizer.c's table.
 */
#ifndef SSM_TOKENIZER_H
#define SSM_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/mem.h"

struct tokenizer_info {
    char name[64]; /* as files record it: "bytes" */
    uint64_t hash; /* of all that decides ids: the same hash, the same ids for every text */
    int64_t vocab; /* ids are 0 .. vocab-1 */
    int64_t eod;   /* end of document */
    bool needs_utf8; /* text to encode must be valid UTF-8 */
};

/* Growing array of ids. Zero-initialise; set n = 0 to use it again. */
struct token_ids {
    uint32_t *id;
    size_t n, cap;
};
void token_ids_free(struct token_ids *ids);

/* What "<|endoftext|>" in a document is: text like any other, or the token of that name. */
enum tokenizer_specials { SPECIALS_TEXT, SPECIALS_PARSE };

struct tokenizer_options {
    enum tokenizer_specials specials;
    const char *eod; /* the token that ends a document; NULL: the usual one */
    bool eod_known;  /* with eod NULL: it is the id eod_id */
    int64_t eod_id;
};

struct tokenizer;
/* By what a user names: "bytes"; a tokenizer.json of Hugging Face, or a folder with one; "tiktoken:NAME:FILE";
 * FILE.model of SentencePiece.
 * NULL options: all zero. NULL with err_last(). */
struct tokenizer *tokenizer_try_open(const char *spec, const struct tokenizer_options *o)
    __attribute__((warn_unused_result));
/* The one that a file was made with, which tells its hash and eod: the options are found out. NULL with err_last()
 * when spec names another. `what` is who asks. */
struct tokenizer *tokenizer_try_open_same(const char *what, const char *spec, uint64_t hash, int64_t eod)
    __attribute__((warn_unused_result));
void tokenizer_free(struct tokenizer *t);
const struct tokenizer_info *tokenizer_info(const struct tokenizer *t);

/* The id of a special token, one that text never makes under SPECIALS_TEXT; -1: there is no such. */
int64_t tokenizer_find_special(const struct tokenizer *t, const char *name);

struct token_stream;
struct token_stream *token_stream_new(const struct tokenizer *t);
void token_stream_free(struct token_stream *s);

/* Appends to *ids what is certain after n more bytes of the current document; with `last` the rest too, and
 * the stream is ready for another document. Any bytes will do. */
void tokenizer_encode(struct token_stream *s, const void *text, size_t n, bool last, struct token_ids *ids);

/* Appends to *text the bytes of n more ids of the current document; with `last` the document ends. The id eod
 * has no bytes. 0, or -1 with err_last() when an id is not in the vocabulary. */
int tokenizer_try_decode(struct token_stream *s, const uint32_t *ids, size_t n, bool last, struct buf *text)
    __attribute__((warn_unused_result));

/* What a kind provides. `state` is per stream, made by new_state (NULL: it needs none), taken back by free_state. */
struct tokenizer_kind {
    const char *name;                /* as messages call it */
    bool (*takes)(const char *spec); /* the first kind that does opens it */
    /* Fills info and impl; NULL impl is fine. */
    int (*try_open)(struct tokenizer *t, const char *spec, const struct tokenizer_options *o);
    void (*release)(struct tokenizer *t);
    int64_t (*find_special)(const struct tokenizer *t, const char *name); /* NULL: there are none */
    void *(*new_state)(const struct tokenizer *t);
    void (*free_state)(void *state);
    void (*encode)(const struct tokenizer *t, void *state, const unsigned char *text, size_t n, bool last,
                   struct token_ids *ids);
    int (*try_decode)(const struct tokenizer *t, void *state, const uint32_t *ids, size_t n, bool last,
                      struct buf *text);
};

struct tokenizer {
    struct tokenizer_info info;
    const struct tokenizer_kind *kind;
    void *impl;
};

extern const struct tokenizer_kind tokenizer_sentencepiece; /* sentencepiece.c */

/* Makes room for n more ids and returns where they go; the caller adds to ids->n. For kinds. */
uint32_t *token_ids_room(struct token_ids *ids, size_t n);

#endif
