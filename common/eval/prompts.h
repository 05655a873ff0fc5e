/* prompts.h - texts for a whole file of prompts
 * SPDX-License-Identifier: MIT
 *
 * JSONL in: {"prompt": TEXT, "id": STRING or INTEGER}, the id is the line's number among the prompts, from 0, where there is none.
 * JSONL out, in the same order: {"id", "text", "tokens", "finish"}; the text is UTF-8, what the model made of broken
 * characters is U+FFFD. The random numbers of a text are a function of the seed and its id.
 */
#ifndef SSM_PROMPTS_H
#define SSM_PROMPTS_H

#include "common/dist/comm.h"
#include "generate.h"

/* Collective. Rank 0 reads `path` ("-": the standard input) and prints; `proto` has the limit of tokens and the stop
 * strings of each prompt, `g` the rest, but for its room. Returns the tokens made. */
int64_t prompts_run(struct comm *comm, struct net *n, const struct tokenizer *t, const struct generation *g,
                    const struct prompt *proto, const char *path);

#endif
