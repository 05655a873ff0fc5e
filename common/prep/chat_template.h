/* chat_template.h - how the messages of a conversation are wrapped: a template file; a conversation to ids and mask
 * SPDX-License-Identifier: MIT
 *
 *     # comment
 *     tokens    = "<|im_start|> <|im_end|>"    special tokens of the tokenizer, with blanks between
 *     trim      = true                         white space around a message's text goes; default false
 *     begin     = "TEXT"                       of every conversation
 *     no_system = "TEXT"                       behind that, when no system message follows
 *     message   = "TEXT"                       around a message whose role has no line of its own
 *     system    = "TEXT"                       around a system message; so user, tool, assistant
 *     answer    = "TEXT"                       what of an assistant's message counts as target
 *
 * A TEXT stands between double quotes, with \n, \t, \", \\. In it stand for others
 *     {content}  the text of the message     {role}    system, user, assistant or tool
 *     {answer}   in `assistant`: `answer`    {eod}     the end-of-document token
 * and each of `tokens` is that token; all else is text, as all of a message is: what looks like a special token there
 * stays text. `assistant` and `answer` must be there, and `user` or `message`.
 *
 * Text is given to the tokenizer from one special token to the next, but for the begin and the end of what counts, where
 * it is cut: the tokens in front of an answer are those of a prompt without it. A conversation is one document. Its end
 * token counts when it is the last token of the last message ("{eod}"); else it is added, and does not.
 */
#ifndef SSM_CHAT_TEMPLATE_H
#define SSM_CHAT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "chat.h"
#include "common/text/tokenizer.h"

struct chat_template;
/* A file, when the name holds a '/' or ends in .template; else NAME.template of $SSM_TEMPLATES, share/ssmtools/templates
 * or pipelines/templates. NULL with err_last(), "FILE:LINE: reason". */
struct chat_template *chat_template_try_open(const char *name, const struct tokenizer *t) __attribute__((warn_unused_result));
/* The same from text; `file` is its name. */
struct chat_template *chat_template_try_parse(const char *file, const char *text, size_t n, const struct tokenizer *t)
    __attribute__((warn_unused_result));
void chat_template_free(struct chat_template *t);
/* Of its text: the same hash, the same ids and masks. */
uint64_t chat_template_hash(const struct chat_template *t);

/* A conversation as ids and mask. Zero-initialise; may be used again. */
struct chat_ids {
    struct token_ids ids;
    uint8_t *mask;   /* [ids.n]: 1 where it counts */
    size_t cap_mask;
    int64_t bytes;   /* of the texts of the messages */
    int64_t targets; /* ones in the mask */
    struct token_ids part;
    struct buf text; /* not yet given to the tokenizer */
};
void chat_ids_free(struct chat_ids *c);

/* all: every token counts. most < 0: the whole conversation; else only the last `most` tokens of the first user message,
 * which is given to the tokenizer by itself then; *had (may be NULL) gets how many those are. 0, or -1 with err_last()
 * when text makes a token that the template names. */
int chat_template_try_encode(const struct chat_template *t, const struct chat *c, bool all, int64_t most,
                             struct token_stream *s, struct chat_ids *out, int64_t *had)
    __attribute__((warn_unused_result));

#endif
