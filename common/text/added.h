/* added.h - tokens that are looked for in the text itself, before it is cut into words
 * SPDX-License-Identifier: MIT
 *
 * The "added tokens" of a tokenizer.json and the specials of a rank file. Of those that begin at the first place where
 * one begins the longest is taken; the search goes on behind it. Text comes in parts of any size, cut anywhere; what
 * is found is the same as in the whole.
 */
#ifndef SSM_ADDED_H
#define SSM_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct added_token {
    uint32_t id;
    bool skip;           /* found, it stays text (and hides what begins within it) */
    bool lstrip, rstrip; /* white space before it, behind it belongs to it */
    bool single_word;    /* not beside a letter, digit, mark or connector: then it stays text */
};

/* Never changes while threads scan with it. */
struct added;
struct added *added_new(void);
void added_free(struct added *a); /* NULL is allowed */
/* -1 with err_last() when it has no bytes or is there already. */
int added_try_add(struct added *a, const void *text, size_t n, const struct added_token *t)
    __attribute__((warn_unused_result));
/* After the last one. -1 with err_last() when they do not go together (rstrip, and one that begins with white space). */
int added_try_finish(struct added *a) __attribute__((warn_unused_result));
bool added_any(const struct added *a); /* one that is not skipped */

/* Where it goes: text in parts, that of one piece until the next token. No part is empty. */
struct added_sink {
    void (*text)(void *to, const unsigned char *p, size_t n);
    void (*token)(void *to, uint32_t id);
};

struct added_scan; /* one a thread */
struct added_scan *added_scan_new(const struct added *a);
void added_scan_free(struct added_scan *s);
/* n more bytes; with `last` the text ends behind them. Holds back no more than the longest token and, before an
 * lstrip one, white space. */
void added_feed(struct added_scan *s, const void *text, size_t n, bool last, const struct added_sink *sink,
                void *to);

#endif
