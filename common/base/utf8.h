/* utf8.h - is it UTF-8? bytes in pieces, checked or mended
 * SPDX-License-Identifier: MIT
 *
 * UTF-8 as RFC 3629 and Unicode define it: no surrogates, nothing above U+10FFFF, no long forms. What is
 * wrong comes in "maximal subparts" (Unicode 3.9, table 3-8): as many bytes as begin some character, or one
 * byte that begins none. Mended, each of them is one U+FFFD: what Python's errors='replace' and the WHATWG
 * decoder do. A text may come in pieces of any size; the result is that of the whole.
 */
#ifndef SSM_UTF8_H
#define SSM_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem.h"

enum utf8_policy { UTF8_AUTO, UTF8_REJECT, UTF8_REPLACE, UTF8_KEEP }; /* auto: as the tokenizer needs */

/* Bytes of ASCII that p begins with; of whole characters that it begins with. */
size_t utf8_ascii(const void *p, size_t n);
size_t utf8_valid(const void *p, size_t n);

/* Zero-initialise. Between the pieces of a text it holds what the last one cut; after `last` it is ready for
 * another text. */
struct utf8 {
    int64_t at;       /* of the first byte not yet judged, in the text */
    int64_t replaced; /* U+FFFD put in, over all texts */
    size_t n;         /* bytes below */
    unsigned char cut[4];
};

/* One more piece. 0, or -1 with err_last() for the first wrong byte, u->at is its place and the stream is
 * ready for another text but for that. */
int utf8_try_check(struct utf8 *u, const char *p, size_t n, bool last) __attribute__((warn_unused_result));
/* The mended bytes of one more piece: p itself where nothing is wrong, else in `room`. *n gets their number,
 * which may be 0. They are valid until `room` is used again. */
const char *utf8_replace(struct utf8 *u, const char *p, size_t *n, bool last, struct buf *room);
/* Forgets the current text; the count stays. */
void utf8_begin(struct utf8 *u);

#endif
