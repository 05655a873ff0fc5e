/* chat.c - a conversation out of a line of JSONL, of the shapes that are in use
 * SPDX-License-Identifier: MIT
 */
#include "chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/base/err.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/text/jsonl.h"

const char *const chat_role_names[CHAT_ROLES] = { "system", "user", "assistant", "tool" };

static const struct {
    const char *name;
    enum chat_role role;
} roles[] = {
    { "system", CHAT_SYSTEM },      { "developer", CHAT_SYSTEM }, { "user", CHAT_USER },
    { "human", CHAT_USER },         { "assistant", CHAT_ASSISTANT }, { "gpt", CHAT_ASSISTANT },
    { "model", CHAT_ASSISTANT },    { "bot", CHAT_ASSISTANT },    { "tool", CHAT_TOOL },
    { "function", CHAT_TOOL },      { "observation", CHAT_TOOL },
};

/* The list of messages of a shape, and what its elements are called; or its two keys. */
static const struct {
    const char *first, *second; /* second: NULL where first is a list */
    const char *role, *text;
} shapes[] = {
    [CHAT_MESSAGES] = { "messages", NULL, "role", "content" },
    [CHAT_CONVERSATIONS] = { "conversations", NULL, "from", "value" },
    [CHAT_PROMPT] = { "prompt", "completion", NULL, NULL },
    [CHAT_INPUT] = { "input", "output", NULL, NULL },
};

void chat_free(struct chat *c)
{
    json_free(c->root);
    free(c->message);
    *c = (struct chat){ 0 };
}

static int need_text(const struct json *object, const char *key, const char **text, size_t *n)
{
    if (json_kind(json_at(object, key)) != JSON_NONE && json_kind(json_at(object, key)) != JSON_TEXT)
        return err_set("the value of '%s' is not a string", key);
    return json_try_text(object, key, text, n) == 1 ? 0 : err_set("there is no key '%s'", key);
}

static int try_role(const struct json *object, const char *key, enum chat_role *role)
{
    const char *name;
    size_t n;
    if (need_text(object, key, &name, &n) < 0)
        return -1;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strlen(roles[i].name) == n && strncasecmp(name, roles[i].name, n) == 0) {
            *role = roles[i].role;
            return 0;
        }
    return err_set("nobody knows the role '%.40s' of '%s'", name, key);
}

/* Who may speak after whom; `after` NULL: the first. */
static bool may_follow(const struct chat_message *after, enum chat_role role)
{
    if (!after)
        return role == CHAT_SYSTEM || role == CHAT_USER;
    switch (role) {
    case CHAT_USER:
        return after->role == CHAT_SYSTEM || after->role == CHAT_ASSISTANT;
    case CHAT_ASSISTANT:
        return after->role == CHAT_USER || after->role == CHAT_TOOL;
    case CHAT_TOOL:
        return after->role == CHAT_ASSISTANT || after->role == CHAT_TOOL;
    default:
        return false;
    }
}

static int add(struct chat *c, enum chat_role role, const char *text, size_t n, bool counts)
{
    const struct chat_message *last = c->n ? &c->message[c->n - 1] : NULL;
    if (!may_follow(last, role))
        return last ? err_set("the role '%s' after '%s'", chat_role_names[role], chat_role_names[last->role])
                    : err_set("the role '%s' at the begin", chat_role_names[role]);
    if (role == CHAT_ASSISTANT && n == 0)
        return err_set("an answer without text");
    if (role == CHAT_SYSTEM && n == 0)
        return 0;
    struct chat_message *m = grow(&c->message, &c->n, &c->cap, sizeof *m);
    *m = (struct chat_message){ role, text, n, counts && role == CHAT_ASSISTANT };
    return 0;
}

static int try_message(struct chat *c, const struct json *m, enum chat_shape shape)
{
    enum chat_role role;
    const char *text;
    size_t n;
    int64_t weight = 1;
    if (json_kind(m) != JSON_MAP)
        return err_set("not an object");
    if (try_role(m, shapes[shape].role, &role) < 0 || need_text(m, shapes[shape].text, &text, &n) < 0 ||
        (shape == CHAT_MESSAGES && json_try_int(m, "weight", 0, 1, &weight) < 0))
        return -1;
    return add(c, role, text, n, weight);
}

static int try_list(struct chat *c, enum chat_shape shape)
{
    const char *key = shapes[shape].first, *text;
    const struct json *list = json_at(c->root, key);
    enum chat_role masked = CHAT_USER;
    size_t n;
    if (json_kind(list) != JSON_LIST)
        return err_set(json_kind(list) == JSON_NONE ? "there is no key '%s'" : "the value of '%s' is not a list", key);
    if (shape == CHAT_CONVERSATIONS) {
        if (json_at(c->root, "mask") && try_role(c->root, "mask", &masked) < 0)
            return -1;
        if (masked != CHAT_USER)
            return err_set("'mask' is not the user's role: only answers count");
        if (json_at(c->root, "system") &&
            (need_text(c->root, "system", &text, &n) < 0 || add(c, CHAT_SYSTEM, text, n, false) < 0))
            return -1;
    }
    for (size_t i = 0; i < json_count(list); i++)
        if (try_message(c, json_item(list, i), shape) < 0) {
            char *why = xstrdup(err_last());
            err_set("%s[%zu]: %s", key, i, why);
            free(why);
            return -1;
        }
    return json_count(list) ? 0 : err_set("'%s' is empty", key);
}

static int try_pair(struct chat *c, enum chat_shape shape)
{
    const char *text, *answer;
    size_t n, n_answer;
    if (need_text(c->root, shapes[shape].first, &text, &n) < 0 ||
        need_text(c->root, shapes[shape].second, &answer, &n_answer) < 0 || add(c, CHAT_USER, text, n, false) < 0)
        return -1;
    return n_answer ? add(c, CHAT_ASSISTANT, answer, n_answer, true)
                    : err_set("the value of '%s' is empty", shapes[shape].second);
}

int chat_try_parse(struct chat *c, const char *line, size_t n, enum chat_shape shape)
{
    json_free(c->root);
    c->n = 0;
    c->root = jsonl_try_object(line, n);
    if (!c->root)
        return -1;
    for (int s = CHAT_MESSAGES; shape == CHAT_AUTO && s <= CHAT_INPUT; s++)
        if (json_at(c->root, shapes[s].first))
            shape = (enum chat_shape)s;
    if (shape == CHAT_AUTO)
        return err_set("none of the keys messages, conversations, prompt, input");
    return shapes[shape].second ? try_pair(c, shape) : try_list(c, shape);
}
