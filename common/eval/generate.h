/* generate.h - texts that a model makes of prompts, many at a time
 * SPDX-License-Identifier: MIT
 *
 * A prompt is read by whole passes, alone; then a batch of texts grows a token a time, each at its own place, and where one
 * ends the next prompt takes its row. A text is a function of the model, its prompt, its stream of random numbers
 * and the options: neighbours have no part in it, but that another number of rows may change the rounding of logits
 * (that of the matrix library), which shows where two tokens are equally likely to all digits.
 */
#ifndef SSM_GENERATE_H
#define SSM_GENERATE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/mem.h"
#include "common/dist/comm.h"
#include "common/model/net.h"
#include "common/text/tokenizer.h"
#include "sample.h"

enum finish { FINISH_LENGTH, FINISH_STOP, FINISH_END }; /* enough tokens; a stop string; the document ended */
const char *finish_name(enum finish f); /* "length", "stop", "end" */

struct prompt {
    uint32_t *ids;          /* [n], n >= 1; owned */
    int64_t n;
    int64_t tokens;         /* to make at most, >= 1 */
    const char *const *stop; /* [stops] strings, of which none is empty; the caller's */
    size_t stops;
    uint64_t stream;        /* of random numbers */
    struct buf text;        /* result: what was made, without the stop string; bytes */
    int64_t made;           /* result: tokens, the end of the document included */
    enum finish finish;
};

struct generation {
    struct sampling sampling;
    int64_t batch;          /* texts at a time */
    int64_t eod;            /* ends a text */
    bool past_end;          /* but here it does not: a line end is written for it */
    int64_t room;           /* tokens of the longest prompt and what is made of it */
    /* NULL, or hears of every piece of text that no stop string will take back. false: make no more of it. */
    bool (*emit)(void *to, const char *text, size_t n);
    void *to;
};

/* Not collective: this rank's prompts. `progress`: tell how many are done. */
void generate_run(struct net *n, const struct tokenizer *t, const struct generation *g, struct prompt **ps,
                  size_t count, bool progress);
/* Collective. Gives the texts to all ranks: rank r made those of prompts r, r + size, ... */
void generate_share(struct comm *comm, struct prompt *p, size_t n);
void prompt_free(struct prompt *p);

#endif
