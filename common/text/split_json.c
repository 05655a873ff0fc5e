/* split_json.c - the normalizer and the pre-tokenizer of a tokenizer.json
 * SPDX-License-Identifier: MIT
 *
 * Keys and defaults as `tokenizers` 0.23 has them. Every key is known here or refused.
 */
#include "split.h"
#include "split_private.h"

#include "common/base/err.h"
#include "common/base/json.h"

static bool nothing(const struct json *j) { return json_kind(j) == JSON_NONE; }

/* The type of a node; its keys must be "type" and those in `keys`, which ends with NULL. */
static int try_keys(const struct json *j, const char *type, const char *const *keys)
{
    const char *key;
    const struct json *value;
    for (const void *it = json_next(j, NULL, &key, &value); it; it = json_next(j, it, &key, &value)) {
        bool known = strcmp(key, "type") == 0;
        for (size_t i = 0; keys[i]; i++)
            known = known || strcmp(key, keys[i]) == 0;
        if (!known)
            return err_set("%s has a key '%s', which is not supported", type, key);
    }
    return 0;
}
#define KEYS(...) ((const char *const[]){ __VA_ARGS__ NULL })

/* The type of a normalizer or pre_tokenizer, which is what. */
static int try_type(const struct json *j, const char *what, int depth, const char **type)
{
    if (depth > 8)
        return err_set("a Sequence in a Sequence in a Sequence, too deep");
    if (json_kind(j) != JSON_MAP)
        return err_set("%s is not an object", what);
    return json_try_str(j, "type", type) == 1 ? 0 : err_set("%s: %s", what, err_last());
}

/* ---- normalizer ---- */

static int try_normalizer(struct split *s, const struct json *j, int depth)
{
    const char *type;
    const struct json *list;
    if (nothing(j))
        return 0;
    if (try_type(j, "normalizer", depth, &type) < 0)
        return -1;
    if (strcmp(type, "NFC") == 0) {
        s->nfc = true;
        return try_keys(j, type, KEYS());
    }
    if (strcmp(type, "Sequence") == 0) {
        if (json_try_list(j, "normalizers", &list) != 1)
            return err_set("normalizer: %s", err_last());
        for (size_t i = 0; i < json_count(list); i++)
            if (try_normalizer(s, json_item(list, i), depth + 1))
                return -1;
        return try_keys(j, type, KEYS("normalizers", ));
    }
    return err_set("normalizer %s is not supported", type);
}

/* ---- pre-tokenizer ---- */

static int try_behaviour(const struct json *j, enum split_behaviour *b)
{
    static const char *const names[] = { "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                         "Contiguous" };
    const char *name = NULL;
    int there = json_try_str(j, "behavior", &name);
    if (there <= 0)
        return there;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], name) == 0) {
            *b = (enum split_behaviour)i;
            return 0;
        }
    return err_set("behavior '%s' is not supported", name);
}

static struct stage *try_stage(struct split *s)
{
    struct stage *g = split_add_stage(s);
    if (!g)
        err_set("a pre-tokenizer of more than %d stages is not supported", SPLIT_STAGES);
    return g;
}

static int try_byte_level(struct split *s, const struct json *j)
{
    bool blank = true, regex = true, trim;
    if (json_try_bool(j, "add_prefix_space", &blank) < 0 || json_try_bool(j, "use_regex", &regex) < 0 ||
        json_try_bool(j, "trim_offsets", &trim) < 0 ||
        try_keys(j, "ByteLevel", KEYS("add_prefix_space", "use_regex", "trim_offsets", )))
        return -1;
    s->on_bytes = true;
    if (!blank && !regex)
        return 0;
    struct stage *g = try_stage(s);
    if (!g)
        return -1;
    g->kind = regex ? STAGE_SCAN : STAGE_WHOLE;
    g->pattern = SCAN_GPT2;
    g->blank = blank;
    return 0;
}

static int try_regex(struct split *s, const char *expression, size_t n, enum split_behaviour behaviour,
                     bool invert)
{
    int known = strlen(expression) == n ? split_scan_find(expression) : -1;
    struct stage *g;
    if (known >= 0) { /* all of a text is matches of these */
        if (behaviour == SPLIT_REMOVED && !invert)
            return err_set("Split removes all text");
        if (behaviour == SPLIT_CONTIGUOUS)
            return 0;
        if (!(g = try_stage(s)))
            return -1;
        g->kind = STAGE_SCAN;
        g->pattern = (enum split_pattern)known;
        return 0;
    }
    if (!(g = try_stage(s)))
        return -1;
    g->kind = STAGE_REGEX;
    g->behaviour = behaviour;
    g->invert = invert;
    buf_add(&g->bytes, expression, n);
    g->regex = split_regex_try_new(expression, n);
    return g->regex ? 0 : -1;
}

static int try_split(struct split *s, const struct json *j)
{
    const struct json *pattern;
    const char *text;
    size_t n;
    enum split_behaviour behaviour;
    bool invert = false;
    if (json_try_map(j, "pattern", &pattern) != 1 || json_count(pattern) != 1 ||
        json_at(j, "behavior") == NULL)
        return err_set("Split without a pattern of one kind and a behavior is not supported");
    if (try_behaviour(j, &behaviour) || json_try_bool(j, "invert", &invert) < 0 ||
        try_keys(j, "Split", KEYS("pattern", "behavior", "invert", )))
        return -1;
    if (json_try_text(pattern, "Regex", &text, &n) == 1)
        return try_regex(s, text, n, behaviour, invert);
    if (json_try_text(pattern, "String", &text, &n) != 1)
        return err_set("Split: a pattern that is neither Regex nor String is not supported");
    if (n == 0)
        return err_set("Split: an empty String is not supported");
    struct stage *g = try_stage(s);
    if (!g)
        return -1;
    g->kind = STAGE_BYTES;
    g->behaviour = behaviour;
    g->invert = invert;
    buf_add(&g->bytes, text, n);
    return 0;
}

static int try_set(struct split *s, const struct json *j, const char *type)
{
    struct stage *g = try_stage(s);
    if (!g)
        return -1;
    g->kind = STAGE_SET;
    g->behaviour = SPLIT_ISOLATED;
    if (strcmp(type, "Digits") == 0) {
        bool each = false;
        if (json_try_bool(j, "individual_digits", &each) < 0 ||
            try_keys(j, type, KEYS("individual_digits", )))
            return -1;
        g->set = SET_DIGITS;
        g->behaviour = each ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS;
        return 0;
    }
    if (strcmp(type, "Punctuation") == 0) {
        g->set = SET_PUNCTUATION;
        return try_behaviour(j, &g->behaviour) ? -1 : try_keys(j, type, KEYS("behavior", ));
    }
    g->set = SET_SPACES;
    g->behaviour = SPLIT_REMOVED;
    return try_keys(j, type, KEYS());
}

static int try_pre_tokenizer(struct split *s, const struct json *j, int depth)
{
    const char *type;
    const struct json *list;
    if (nothing(j))
        return 0;
    if (try_type(j, "pre_tokenizer", depth, &type) < 0)
        return -1;
    if (strcmp(type, "Sequence") == 0) {
        if (json_try_list(j, "pretokenizers", &list) != 1)
            return err_set("pre_tokenizer: %s", err_last());
        for (size_t i = 0; i < json_count(list); i++)
            if (try_pre_tokenizer(s, json_item(list, i), depth + 1))
                return -1;
        return try_keys(j, type, KEYS("pretokenizers", ));
    }
    if (s->on_bytes)
        return err_set("pre_tokenizer: %s behind ByteLevel is not supported", type);
    int rc;
    if (strcmp(type, "ByteLevel") == 0)
        rc = try_byte_level(s, j);
    else if (strcmp(type, "Split") == 0)
        rc = try_split(s, j);
    else if (strcmp(type, "Digits") == 0 || strcmp(type, "Punctuation") == 0 ||
             strcmp(type, "WhitespaceSplit") == 0)
        rc = try_set(s, j, type);
    else
        return err_set("pre_tokenizer %s is not supported", type);
    return rc ? err_set("pre_tokenizer: %s", err_last()) : 0;
}

struct split *split_try_new(const struct json *normalizer, const struct json *pre_tokenizer)
{
    struct split *s = split_alloc();
    if (try_normalizer(s, normalizer, 0) == 0 && try_pre_tokenizer(s, pre_tokenizer, 0) == 0)
        return split_finish(s);
    split_free(s);
    return NULL;
}
