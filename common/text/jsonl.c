/* jsonl.c - the text of one line of JSONL; only this file knows jansson
 * SPDX-License-Identifier: MIT
 */
#include "jsonl.h"

#include <jansson.h>

#include "common/base/err.h"

void jsonl_clear(struct jsonl *j)
{
    json_decref(j->root);
    *j = (struct jsonl){ 0 };
}

int jsonl_try_text(struct jsonl *j, const char *line, size_t len, const char *key)
{
    json_error_t e;
    jsonl_clear(j);
    j->root = json_loadb(line, len, JSON_ALLOW_NUL, &e);
    if (!j->root)
        return err_set("bad JSON: %s", e.text);
    if (!json_is_object(j->root))
        return err_set("the line is not a JSON object");
    json_t *value = json_object_get(j->root, key);
    if (!value)
        return err_set("there is no key '%s'", key);
    if (!json_is_string(value))
        return err_set("the value of '%s' is not a string", key);
    j->text = json_string_value(value);
    j->n = json_string_length(value);
    return 0;
}
