/* loglik.h - how likely a model finds texts after other texts
 * SPDX-License-Identifier: MIT
 *
 * The conventions are those of lm-evaluation-harness (lm_eval/api/model.py, models/huggingface.py), so that scores
 * can be compared: white space at the end of a context moves to what follows it; both are tokenised as one text, of
 * which the tokens beyond the number that the context alone has are scored; what is too long loses tokens on the left.
 */
#ifndef SSM_LOGLIK_H
#define SSM_LOGLIK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/dist/comm.h"
#include "common/model/net.h"
#include "common/text/tokenizer.h"

struct loglik {
    uint32_t *ids;      /* [n]: context and continuation; owned */
    int64_t n, scored;  /* the last `scored` of them are; 1 <= scored < n */
    bool cut;           /* tokens were lost on the left */
    double sum;         /* result: the logarithm of the probability of the scored tokens, nats */
    bool greedy;        /* result: each of them is the likeliest at its place */
};

/* What turns texts into ids. */
struct encoder {
    struct token_stream *in;
    int64_t vocab;      /* of the model: ids are below */
    uint32_t prefix;    /* stands where there is no context */
    bool always;        /* it stands before every context too */
    int64_t seq_len;    /* inputs of a request at most */
};

/* Appends a text's ids. 0, or -1 with err_last() when one is beyond the model's vocabulary. */
int encoder_try_text(struct encoder *e, const char *text, size_t n, struct token_ids *ids)
    __attribute__((warn_unused_result));
/* A continuation after a context. 0, or -1 with err_last() when the continuation has no token, or more than seq_len. */
int loglik_try_pair(struct loglik *r, struct encoder *e, const char *context, size_t n_context,
                    const char *continuation, size_t n_continuation) __attribute__((warn_unused_result));
/* A whole text in windows of seq_len tokens, each with the token before it, the last filled up with what came before
 * (the harness' rolling windows, context_len 1): appends its requests, whose sum is the text's. 0, or -1. */
int loglik_try_rolling(struct loglik **rs, size_t *n, size_t *cap, struct encoder *e, const char *text, size_t bytes)
    __attribute__((warn_unused_result));
void loglik_free(struct loglik *r);

/* Collective. Fills in the results of all requests, on all ranks; `batch` requests at a time, the longest first. The
 * batches do not depend on the number of ranks, so neither do the results, to the last bit; another batch may change
 * their rounding (that of the matrix library), nothing else. */
void loglik_run(struct comm *comm, struct net *n, struct loglik **rs, size_t count, int64_t batch);

#endif
