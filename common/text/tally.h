/* tally.h - how often each word occurs
 * SPDX-License-Identifier: MIT
 *
 * A tally of text that is cut in any way and counted in any order holds the same words and counts. Its size is
 * that of its distinct words, TALLY_WORD bytes and its own length each, whatever way it came to be: what does not fit
 * into the limit here does not fit into it on another machine or with more ranks.
 */
#ifndef SSM_TALLY_H
#define SSM_TALLY_H

#include <stddef.h>
#include <stdint.h>

enum { TALLY_WORD = 48 }; /* bytes of a word besides its own */

struct tally;
struct tally *tally_new(int64_t most_bytes);
void tally_free(struct tally *t); /* NULL is allowed */

/* Counts a word `times` more. 0, or -1 with err_last() when the tally would grow beyond its limit. */
int tally_try_add(struct tally *t, const void *word, size_t n, int64_t times)
    __attribute__((warn_unused_result));

size_t tally_words(const struct tally *t); /* distinct ones */
int64_t tally_total(const struct tally *t);
/* Word i < tally_words(), in order of their first coming; its bytes and how often. Valid until a word is added. */
const unsigned char *tally_word(const struct tally *t, size_t i, size_t *n, int64_t *times);

#endif
