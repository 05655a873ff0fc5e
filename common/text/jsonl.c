/* jsonl.c - the text of one line of JSONL
 * SPDX-License-Identifier: MIT
 */
#include "jsonl.h"

#include "common/base/err.h"
#include "common/base/json.h"

void jsonl_clear(struct jsonl *j)
{
    json_free(j->root);
    *j = (struct jsonl){ 0 };
}

int jsonl_try_text(struct jsonl *j, const char *line, size_t len, const char *key)
{
    jsonl_clear(j);
    j->root = json_try_line(line, len);
    if (!j->root)
        return err_set("bad JSON: %s", err_last());
    if (json_kind(j->root) != JSON_MAP)
        return err_set("the line is not a JSON object");
    switch (json_try_text(j->root, key, &j->text, &j->n)) {
    case 1: return 0;
    case 0: return err_set("there is no key '%s'", key);
    default: return err_set("the value of '%s' is not a string", key);
    }
}
