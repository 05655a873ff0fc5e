/* chat.h - a conversation out of a line of JSONL, of the shapes that are in use
 * SPDX-License-Identifier: MIT
 *
 *   messages       {"messages": [{"role": R, "content": TEXT, "weight": 0|1}, ...]}    weight: of an assistant's message
 *                  that does not count as target: 0
 *   conversations  {"conversations": [{"from": R, "value": TEXT}, ...], "system": TEXT, "mask": R}    mask: the role whose
 *                  text does not count; it must be the user's
 *   prompt         {"prompt": TEXT, "completion": TEXT}
 *   input          {"input": TEXT, "output": TEXT}
 *
 * Other keys decide nothing. Roles, whatever their case: system, developer; user, human; assistant, gpt, model, bot;
 * tool, function, observation. A system message may come first; then the user's; after it no two of the user or of the
 * assistant follow each other, and a tool's follow the assistant's or a tool's.
 */
#ifndef SSM_CHAT_H
#define SSM_CHAT_H

#include <stdbool.h>
#include <stddef.h>

enum chat_role { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL, CHAT_ROLES };
extern const char *const chat_role_names[CHAT_ROLES]; /* "system", ... */

enum chat_shape { CHAT_AUTO, CHAT_MESSAGES, CHAT_CONVERSATIONS, CHAT_PROMPT, CHAT_INPUT };
#define CHAT_SHAPES "auto|messages|conversations|prompt|input"

struct chat_message {
    enum chat_role role;
    const char *text; /* n bytes of UTF-8, the line's; NUL may be among them */
    size_t n;
    bool counts;      /* an assistant's that is a target */
};

struct chat { /* zero-initialise; may be used again */
    struct json *root; /* what the texts belong to */
    struct chat_message *message;
    size_t n, cap;
};

/* auto: the shape whose (first) key is there, in the order above. What was there before goes. An empty system message
 * is none. 0, or -1 with err_last(): not JSON, no such key, not a string, a role that nobody knows or out of order, no
 * messages, an assistant's message without text. */
int chat_try_parse(struct chat *c, const char *line, size_t n, enum chat_shape shape) __attribute__((warn_unused_result));
void chat_free(struct chat *c);

#endif
