/* split.h - text to words, as other people's tokenizers cut it before they look anything up
 * SPDX-License-Identifier: MIT
 *
 * A `struct split` is what the normalizer and the pre-tokenizer of a Hugging Face tokenizer.json, or the
 * pattern of a tiktoken rank file, do to a piece of text between added tokens. It never changes, so threads
 * may share it. What it does is exact: what is not supported is refused by name when it is made.
 *
 * Words are bytes. The byte-to-letter alphabet of ByteLevel (space -> U+0120) is the caller's: look words up as the
 * bytes that they stand for (split_on_bytes()). Words stand one behind the other in memory; together they
 * are the normalised text, less what was removed and with the blanks that add_prefix_space adds.
 *
 *     struct split_stream *st = split_stream_new(s);              one a thread
 *     for each part of the piece:
 *         split_put(st, part, n, is_the_last_part);
 *         struct split_words w;
 *         while (split_get(st, &w))
 *             for (size_t i = 0, at = 0; i < w.n; at = w.end[i++])
 *                 word(w.text + at, w.end[i] - at);
 *
 * A piece may come in parts of any size, cut anywhere, even within a character: the words are the same as for the
 * whole. Time is linear in the text; memory is that of the longest word. Parts of 16 KiB and more are best. Text should
 * be UTF-8; any other bytes are cut somehow, and nothing else happens.
 */
#ifndef SSM_SPLIT_H
#define SSM_SPLIT_H

#include <stdbool.h>
#include <stddef.h>

struct json;
struct split;

/* From the values under "normalizer" and "pre_tokenizer"; NULL or JSON's null: none (all of a piece is one
 * word). Nothing of them is kept. NULL with err_last(), which names what is not supported. */
struct split *split_try_new(const struct json *normalizer, const struct json *pre_tokenizer)
    __attribute__((warn_unused_result));
/* The patterns that belong to rank files: "gpt2" (r50k and p50k too), "cl100k", "llama3", "o200k". */
struct split *split_try_known(const char *name) __attribute__((warn_unused_result));
void split_free(struct split *s); /* NULL is allowed */

/* All that decides where words end, in one line: the same text, the same words. To be hashed and shown:
 * "nfc (Unicode 12.1.0), gpt2 (Unicode 16.0.0)". */
const char *split_name(const struct split *s);
/* The Unicode version of the letter and number classes, "16.0.0". */
const char *split_unicode(void);
/* The vocabulary is of bytes: the pre-tokenizer ends in ByteLevel, or a rank file has it. */
bool split_on_bytes(const struct split *s);

/* Words 0 .. n-1 (n > 0): word i is text[end[i-1]] .. text[end[i]-1], and word 0
 * begins at text[0]. No word is empty. Valid until the next call with this stream. */
struct split_words {
    const unsigned char *text;
    const size_t *end;
    size_t n;
};

/* Whether regular expressions call it a word character (\w); c is below 0x110000. */
bool split_word_char(unsigned c);

struct split_stream;
struct split_stream *split_stream_new(const struct split *s);
void split_stream_free(struct split_stream *st); /* NULL is allowed */

/* n more bytes of the piece; with `last` the piece ends behind them. They must stay until split_get() says false. */
void split_put(struct split_stream *st, const void *text, size_t n, bool last);
/* The next words that are certain. False: no more until the next split_put(), which begins another piece if this one
 * had its last part. */
bool split_get(struct split_stream *st, struct split_words *w);
/* Bytes that this stream has looked for words in, as often as it did: for tests of linear time. */
size_t split_work(const struct split_stream *st);

#endif
