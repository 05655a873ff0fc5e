/* tiktoken.c - rank files: a token a line, its bytes in base64 and its rank, which is its id
 * SPDX-License-Identifier: MIT
 *
 * The file does not say how text is cut into words nor what the special tokens are: a name does, as in
 * tiktoken:cl100k:FILE. Patterns and specials are those of tiktoken's openai_public.py.
 */
#include <stdlib.h>
#include <string.h>

#include "bytelevel.h"
#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "kinds.h"

enum { MOST_BYTES = 256 << 20, MOST_SPECIALS = 5 };

struct encoding {
    const char *name, *pattern;
    struct {
        const char *text;
        uint32_t id;
    } special[MOST_SPECIALS];
};
static const struct encoding encodings[] = {
    { "gpt2", "gpt2", { { "<|endoftext|>", 50256 } } },
    { "r50k", "gpt2", { { "<|endoftext|>", 50256 } } },
    { "p50k", "gpt2", { { "<|endoftext|>", 50256 } } },
    { "cl100k",
      "cl100k",
      { { "<|endoftext|>", 100257 },
        { "<|fim_prefix|>", 100258 },
        { "<|fim_middle|>", 100259 },
        { "<|fim_suffix|>", 100260 },
        { "<|endofprompt|>", 100276 } } },
    { "o200k", "o200k", { { "<|endoftext|>", 199999 }, { "<|endofprompt|>", 200018 } } },
};

/* ---- the file ---- */

static int digit(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* Base64 with its padding. Appends the bytes; false when it is wrong. */
static bool from_base64(const char *p, size_t n, struct buf *out)
{
    if (n == 0 || n % 4)
        return false;
    for (size_t i = 0; i < n; i += 4) {
        int pad = i + 4 == n ? (p[i + 3] == '=') + (p[i + 3] == '=' && p[i + 2] == '=') : 0;
        uint32_t bits = 0;
        for (int k = 0; k < 4; k++) {
            int d = k >= 4 - pad ? 0 : digit(p[i + (size_t)k]);
            if (d < 0)
                return false;
            bits = bits << 6 | (uint32_t)d;
        }
        char bytes[3] = { (char)(bits >> 16), (char)(bits >> 8), (char)bits };
        if (pad && (bits & ((1u << 8 * pad) - 1)))
            return false;
        buf_add(out, bytes, 3 - (size_t)pad);
    }
    return true;
}

static int read_line(struct bpe *b, const char *line, size_t n, struct buf *bytes)
{
    const char *gap = memchr(line, ' ', n);
    uint64_t id = 0;
    buf_clear(bytes);
    if (!gap || !from_base64(line, (size_t)(gap - line), bytes))
        return err_set("not 'base64 rank'");
    const char *p = gap + 1, *end = line + n;
    for (; p < end && *p >= '0' && *p <= '9' && id <= BPE_MAX_ID; p++)
        id = 10 * id + (uint64_t)(*p - '0');
    if (p != end || p == gap + 1)
        return err_set("'%.*s' is not a rank from 0 to %d", (int)(end - gap - 1 < 40 ? end - gap - 1 : 40),
                       gap + 1, BPE_MAX_ID);
    return bpe_try_add(b, (uint32_t)id, bytes->data, bytes->len, true);
}

static int read_ranks(struct bpe *b, const char *path, const char *data, size_t n)
{
    struct buf bytes = { 0 };
    int result = 0;
    size_t line = 1;
    for (size_t i = 0; i < n && result == 0; line++) {
        const char *lf = memchr(data + i, '\n', n - i);
        size_t len = lf ? (size_t)(lf - data) - i : n - i, next = i + len + 1;
        len -= len && data[i + len - 1] == '\r';
        if (len && read_line(b, data + i, len, &bytes) < 0) {
            char *why = xstrdup(err_last());
            result = err_set("%s: line %zu: %s", path, line, why);
            free(why);
        }
        i = next;
    }
    buf_free(&bytes);
    return result;
}

/* ---- the kind ---- */

static int64_t find_text(const void *with, const char *text)
{
    const struct encoding *e = with;
    for (int i = 0; i < MOST_SPECIALS && e->special[i].text; i++)
        if (strcmp(e->special[i].text, text) == 0)
            return e->special[i].id;
    return -1;
}

static int add_specials(struct bytelevel *bl, const struct encoding *e, const struct tokenizer_options *o,
                        const char *path, struct buf *hashed)
{
    bl->raw = o->specials == SPECIALS_PARSE ? added_new() : NULL;
    for (int i = 0; i < MOST_SPECIALS && e->special[i].text; i++) {
        const char *text = e->special[i].text;
        struct added_token t = { .id = e->special[i].id };
        if (bpe_try_add(bl->bpe, t.id, text, strlen(text), false) < 0 ||
            (bl->raw && added_try_add(bl->raw, text, strlen(text), &t) < 0)) {
            char *why = xstrdup(err_last());
            err_set("%s: '%s' of %s: %s", path, text, e->name, why);
            free(why);
            return -1;
        }
        buf_addf(hashed, "%lu %d %s ", (unsigned long)t.id, bl->raw != NULL, text);
        if (!bl->raw)
            bytelevel_add_special(bl, text, t.id);
    }
    return 0;
}

static int read_all(struct tokenizer *t, const struct encoding *e, const char *path, const char *data,
                    size_t n, const struct tokenizer_options *o)
{
    struct bytelevel *bl = t->impl;
    struct buf hashed = { 0 };
    bl->bpe = bpe_new();
    bl->words = split_try_known(e->pattern);
    if (!bl->words)
        return err_set("%s: %s", path, err_last());
    if (read_ranks(bl->bpe, path, data, n) < 0)
        return -1;
    bpe_merge_by_id(bl->bpe);
    if (bpe_try_finish(bl->bpe, true) < 0) {
        char *why = xstrdup(err_last());
        err_set("%s: %s", path, why);
        free(why);
        return -1;
    }
    int result = add_specials(bl, e, o, path, &hashed);
    if (result == 0)
        result = bytelevel_try_eod(t, o, path, find_text, e);
    if (result == 0)
        bytelevel_describe(t, &hashed);
    buf_free(&hashed);
    return result;
}

static int try_open(struct tokenizer *t, const char *spec, const struct tokenizer_options *o)
{
    const char *name = spec + strlen("tiktoken:"), *colon = strchr(name, ':');
    const struct encoding *e = NULL;
    for (size_t i = 0; colon && i < sizeof encodings / sizeof *encodings; i++)
        if (strlen(encodings[i].name) == (size_t)(colon - name) &&
            memcmp(encodings[i].name, name, (size_t)(colon - name)) == 0)
            e = &encodings[i];
    if (!e)
        return err_set("'%s' is not tiktoken:NAME:FILE with NAME gpt2, r50k, p50k, cl100k or o200k", spec);
    size_t n;
    char *data = file_try_read(colon + 1, MOST_BYTES, &n);
    if (!data)
        return -1;
    t->impl = xcalloc(1, sizeof(struct bytelevel));
    snprintf(t->info.name, sizeof t->info.name, "%s", e->name);
    int result = read_all(t, e, colon + 1, data, n, o);
    if (result < 0)
        bytelevel_release(t);
    free(data);
    return result;
}

static bool takes(const char *spec) { return strncmp(spec, "tiktoken:", 9) == 0; }

const struct tokenizer_kind tokenizer_tiktoken = { .name = "tiktoken:NAME:FILE",
                                                   .takes = takes,
                                                   .try_open = try_open,
                                                   .release = bytelevel_release,
                                                   .find_special = bytelevel_find_special,
                                                   .new_state = bytelevel_new_state,
                                                   .free_state = bytelevel_free_state,
                                                   .encode = bytelevel_encode,
                                                   .try_decode = bytelevel_try_decode };
