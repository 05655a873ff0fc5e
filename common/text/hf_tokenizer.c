/* hf_tokenizer.c - Hugging Face's tokenizer.json: byte-level BPE
 * SPDX-License-Identifier: MIT
 *
 * What is read is what the `tokenizers` library would do with the file, or it is refused by name. The bytes of a token are
 * spelled in letters, a byte a letter (space is U+0120); merges are read in these letters and done in bytes.
 * Ids are those of encode(text, add_special_tokens=False): what a post_processor would put around a text is not in them.
 * So `post_processor`, `truncation` and `padding` decide nothing here.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bytelevel.h"
#include "common/base/err.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "kinds.h"

enum { MOST_BYTES = 256 << 20 };

struct reader {
    const char *path;
    const struct json *root, *model, *vocab, *added;
    struct bytelevel *bl;
    size_t n_vocab;
    int64_t highest_added; /* -1: none yet */
    enum tokenizer_specials specials;
};

/* ---- letters to bytes ---- */

/* The byte that a letter of ByteLevel's alphabet stands for, or -1. */
static int byte_of(uint32_t c)
{
    static const unsigned char last = 0xad;
    if ((c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff))
        return (int)c;
    if (c < 0x100 || c > 0x143)
        return -1;
    c -= 0x100; /* the others, in order: 00 to 20, 7f to a0, ad */
    return c < 0x21 ? (int)c : c < 0x43 ? (int)(0x7f + c - 0x21) : last;
}

/* Appends the bytes of a key, which is UTF-8. False, and the key's own bytes, when some letter is not of the alphabet. */
static bool key_bytes(const char *key, struct buf *out)
{
    size_t from = out->len;
    for (const unsigned char *p = (const unsigned char *)key; *p; p++) {
        int byte = *p < 0x80 ? byte_of(*p) : -1;
        if (*p >= 0xc2 && *p < 0xe0) { /* two bytes; the alphabet has no letter of three */
            byte = byte_of((uint32_t)(p[0] & 31) << 6 | (p[1] & 63));
            p++;
        }
        if (byte < 0) {
            out->len = from;
            buf_add(out, key, strlen(key));
            return false;
        }
        char one = (char)byte;
        buf_add(out, &one, 1);
    }
    return out->len > from;
}

/* ---- the model ---- */

static int wrong(const struct reader *r, const char *where)
{
    char *why = xstrdup(err_last());
    err_set("%s: %s: %s", r->path, where, why);
    free(why);
    return -1;
}

/* Keys that must be as if they were not there. */
static int refuse_extras(const struct reader *r)
{
    static const char *const keys[] = {
        "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback"
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const struct json *v = json_at(r->model, keys[i]);
        const char *text = "";
        double x = 0;
        bool on = false, ok = v == NULL;
        if (json_kind(v) == JSON_BOOL)
            ok = json_try_bool(r->model, keys[i], &on) == 1 && !on;
        else if (json_kind(v) == JSON_TEXT)
            ok = json_try_str_of(v, keys[i], &text) == 0 && !*text;
        else if (json_kind(v) == JSON_INT || json_kind(v) == JSON_FLOAT)
            ok = json_try_real_of(v, keys[i], -1e9, 1e9, &x) == 0 && x == 0;
        if (!ok)
            return err_set("%s: model: '%s' is not supported", r->path, keys[i]);
    }
    return 0;
}

static int read_vocab(struct reader *r)
{
    const char *key;
    const struct json *v;
    struct buf bytes = { 0 };
    int result = 0;
    for (const void *it = json_next(r->vocab, NULL, &key, &v); it && result == 0;
         it = json_next(r->vocab, it, &key, &v)) {
        int64_t id;
        buf_clear(&bytes);
        bool word = key_bytes(key, &bytes);
        if (json_try_int_of(v, key, 0, BPE_MAX_ID, &id) < 0 ||
            bpe_try_add(r->bl->bpe, (uint32_t)id, bytes.data, bytes.len, word) < 0)
            result = wrong(r, "model: vocab");
    }
    buf_free(&bytes);
    r->n_vocab = json_count(r->vocab);
    return result;
}

/* "a b" or ["a", "b"] to a and b, which stay valid until the next call. 0; 1: not a merge; -1 with err_last(). */
static int merge_parts(const struct json *v, struct buf *text, const char **a, const char **b)
{
    const char *line, *gap;
    if (json_kind(v) == JSON_LIST) {
        if (json_count(v) != 2 || json_kind(json_item(v, 0)) != JSON_TEXT ||
            json_kind(json_item(v, 1)) != JSON_TEXT)
            return err_set("not a pair of strings");
        return json_try_str_of(json_item(v, 0), "merge", a) < 0 ||
                       json_try_str_of(json_item(v, 1), "merge", b) < 0
                   ? -1
                   : 0;
    }
    if (json_try_str_of(v, "merge", &line) < 0)
        return -1;
    if (strncmp(line, "#version", 8) == 0)
        return 1;
    gap = strchr(line, ' ');
    if (!gap || strchr(gap + 1, ' '))
        return err_set("'%.40s' is not two parts with a space between them", line);
    buf_clear(text);
    buf_add(text, line, strlen(line));
    text->data[gap - line] = 0;
    *a = text->data;
    *b = text->data + (gap - line) + 1;
    return 0;
}

/* The id of a part that letters spell; -1 with err_last(). *word: it can come up in a text. */
static int try_part(const struct reader *r, const char *key, int64_t *id, bool *word)
{
    size_t n;
    if (json_try_int(r->vocab, key, 0, BPE_MAX_ID, id) != 1)
        return err_set("'%.40s' is not in 'vocab'", key);
    const unsigned char *bytes = bpe_bytes(r->bl->bpe, (uint32_t)*id, &n);
    *word = *word && bytes && bpe_find(r->bl->bpe, bytes, n) == *id;
    return 0;
}

static int read_merges(struct reader *r, const struct json *merges)
{
    struct buf text = { 0 }, joined = { 0 };
    size_t n = json_count(merges);
    int result = 0;
    for (size_t i = 0; i < n && result == 0; i++) {
        const char *a = NULL, *b = NULL;
        int64_t left = 0, right = 0, made = 0;
        bool word = true;
        int bad = merge_parts(json_item(merges, i), &text, &a, &b);
        if (bad > 0)
            continue;
        if (bad == 0) {
            buf_clear(&joined);
            buf_addf(&joined, "%s%s", a, b);
            bad = try_part(r, a, &left, &word) < 0 || try_part(r, b, &right, &word) < 0 ||
                  try_part(r, joined.data, &made, &word) < 0;
        }
        if (bad) {
            char where[60];
            snprintf(where, sizeof where, "model: merges[%zu]", i);
            result = wrong(r, where);
        } else if (word)
            bpe_merge(r->bl->bpe, (uint32_t)left, (uint32_t)right, (uint32_t)made, (uint32_t)i);
    }
    buf_free(&text);
    buf_free(&joined);
    return result;
}

static int read_model(struct reader *r)
{
    const char *type = "BPE";
    const struct json *merges;
    bool whole = false;
    if (json_try_map(r->root, "model", &r->model) != 1)
        return err_set("%s: %s", r->path, err_last());
    /* old files do not say what they are; of the kinds only BPE has merges */
    if (json_try_str(r->model, "type", &type) < 0)
        return wrong(r, "model");
    if (strcmp(type, "BPE") != 0)
        return err_set("%s: model: 'type' is '%.40s'; only BPE is supported", r->path, type);
    if (refuse_extras(r) < 0)
        return -1;
    if (json_try_bool(r->model, "ignore_merges", &whole) < 0 ||
        json_try_map(r->model, "vocab", &r->vocab) != 1 || json_try_list(r->model, "merges", &merges) != 1)
        return wrong(r, "model");
    if (read_vocab(r) < 0 || read_merges(r, merges) < 0)
        return -1;
    return bpe_try_finish(r->bl->bpe, whole) < 0 ? wrong(r, "model: vocab") : 0;
}

/* ---- added tokens ---- */

/* The library does not read their ids: it counts on from the vocabulary's size. Where that gives another id than
 * the file says, nobody can know which is meant. */
static int64_t id_given(const struct reader *r, const char *text)
{
    int64_t id;
    if (json_try_int(r->vocab, text, 0, BPE_MAX_ID, &id) == 1)
        return id;
    return r->highest_added >= (int64_t)r->n_vocab ? r->highest_added + 1 : (int64_t)r->n_vocab;
}

/* What a normaliser makes of text. */
static void normalised(const struct split *norm, const char *text, size_t n, struct buf *out)
{
    struct split_words w;
    struct split_stream *s = split_stream_new(norm);
    split_put(s, text, n, true);
    while (split_get(s, &w))
        buf_add(out, w.text, w.end[w.n - 1]);
    split_stream_free(s);
}

static int read_added_token(struct reader *r, const struct json *j, bool *normal, struct buf *hashed)
{
    int64_t id;
    const char *text = NULL;
    size_t n = 0;
    bool special = false;
    struct added_token t = { 0 };
    if (json_try_int(j, "id", 0, BPE_MAX_ID, &id) != 1 || json_try_text(j, "content", &text, &n) != 1 ||
        json_try_bool(j, "special", &special) < 0 || json_try_bool(j, "single_word", &t.single_word) < 0 ||
        json_try_bool(j, "lstrip", &t.lstrip) < 0 || json_try_bool(j, "rstrip", &t.rstrip) < 0)
        return -1;
    *normal = !special;
    if (json_try_bool(j, "normalized", normal) < 0)
        return -1;
    if (id != id_given(r, text))
        return err_set("'id' of '%.40s' is %lld, but the library would make it %lld", text, (long long)id,
                       (long long)id_given(r, text));
    if (!json_at(r->vocab, text) && bpe_try_add(r->bl->bpe, (uint32_t)id, text, n, false) < 0)
        return -1;
    r->highest_added = id > r->highest_added ? id : r->highest_added;
    t.id = (uint32_t)id;
    t.skip = special && r->specials == SPECIALS_TEXT;
    if (t.skip && strlen(text) == n)
        bytelevel_add_special(r->bl, text, t.id);
    buf_addf(hashed, "%lld %d %d%d%d%d %zu ", (long long)id, *normal, t.skip, t.lstrip, t.rstrip,
             t.single_word, n);
    buf_add(hashed, text, n);
    struct buf plain = { 0 };
    if (*normal && r->bl->norm)
        normalised(r->bl->norm, text, n, &plain);
    else
        buf_add(&plain, text, n);
    int result = added_try_add(*normal ? r->bl->normal : r->bl->raw, plain.data, plain.len, &t);
    buf_free(&plain);
    return result;
}

static bool any_normalised(const struct json *added)
{
    for (size_t i = 0; i < json_count(added); i++) {
        bool special = false, normal;
        const struct json *j = json_item(added, i);
        if (json_try_bool(j, "special", &special) < 0)
            continue; /* told later */
        normal = !special;
        if (json_try_bool(j, "normalized", &normal) >= 0 && normal)
            return true;
    }
    return false;
}

static int read_added(struct reader *r, struct buf *hashed)
{
    r->highest_added = -1;
    r->bl->raw = added_new();
    r->bl->normal = added_new();
    for (size_t i = 0; i < json_count(r->added); i++) {
        bool normal;
        if (json_kind(json_item(r->added, i)) != JSON_MAP)
            return err_set("%s: added_tokens[%zu] is not an object", r->path, i);
        if (read_added_token(r, json_item(r->added, i), &normal, hashed) < 0) {
            char where[60];
            snprintf(where, sizeof where, "added_tokens[%zu]", i);
            return wrong(r, where);
        }
    }
    if (added_try_finish(r->bl->raw) < 0 || added_try_finish(r->bl->normal) < 0)
        return wrong(r, "added_tokens");
    if (!added_any(r->bl->raw)) {
        added_free(r->bl->raw);
        r->bl->raw = NULL;
    }
    if (!added_any(r->bl->normal)) {
        added_free(r->bl->normal);
        r->bl->normal = NULL;
    }
    return 0;
}

/* ---- words ---- */

/* Unicode's normal forms leave ASCII alone and see no further than the next ASCII character. */
static bool is_normal_form(const struct json *normalizer)
{
    const char *type = "";
    return json_try_str(normalizer, "type", &type) == 1 && strncmp(type, "NF", 2) == 0;
}

static bool is_nothing(const struct json *normalizer)
{
    const char *type = "";
    const struct json *list;
    return !normalizer || (json_try_str(normalizer, "type", &type) == 1 && strcmp(type, "Sequence") == 0 &&
                           json_try_list(normalizer, "normalizers", &list) == 1 && json_count(list) == 0);
}

static int read_words(struct reader *r)
{
    const struct json *normalizer = json_at(r->root, "normalizer"), *pre = json_at(r->root, "pre_tokenizer");
    struct bytelevel *bl = r->bl;
    if (any_normalised(r->added) && !is_nothing(normalizer)) {
        bl->norm = split_try_new(normalizer, NULL);
        bl->norm_cuts = is_normal_form(normalizer);
        if (!bl->norm)
            return err_set("%s: %s", r->path, err_last());
        normalizer = NULL;
    }
    bl->words = split_try_new(normalizer, pre);
    if (!bl->words)
        return err_set("%s: %s", r->path, err_last());
    if (!split_on_bytes(bl->words))
        return err_set(
            "%s: pre_tokenizer: it does not end in ByteLevel; other kinds of BPE are not supported", r->path);
    return 0;
}

static int check_decoder(const struct reader *r)
{
    const char *type = "ByteLevel";
    const struct json *d = json_at(r->root, "decoder");
    if (d && json_try_str(d, "type", &type) != 1)
        return wrong(r, "decoder");
    if (strcmp(type, "ByteLevel") != 0)
        return err_set("%s: decoder: 'type' is '%.40s'; only ByteLevel is supported", r->path, type);
    return 0;
}

/* ---- the file ---- */

static int64_t find_text(const void *with, const char *text)
{
    const struct reader *r = with;
    int64_t id, found = -1;
    const char *content;
    for (size_t i = 0; i < json_count(r->added); i++)
        if (json_try_str(json_item(r->added, i), "content", &content) == 1 && strcmp(content, text) == 0 &&
            json_try_int(json_item(r->added, i), "id", 0, BPE_MAX_ID, &id) == 1)
            found = id;
    if (found < 0 && json_try_int(r->vocab, text, 0, BPE_MAX_ID, &id) == 1)
        found = id;
    return found;
}

static int read_all(struct tokenizer *t, struct reader *r, const struct tokenizer_options *o)
{
    struct buf hashed = { 0 };
    if (json_kind(r->root) != JSON_MAP)
        return err_set("%s: not an object", r->path);
    if (json_try_list(r->root, "added_tokens", &r->added) < 0)
        return err_set("%s: %s", r->path, err_last());
    int result =
        read_model(r) < 0 || read_words(r) < 0 || check_decoder(r) < 0 || read_added(r, &hashed) < 0 ? -1 : 0;
    if (result == 0)
        result = bytelevel_try_eod(t, o, r->path, find_text, r);
    if (result == 0)
        bytelevel_describe(t, &hashed);
    buf_free(&hashed);
    return result;
}

static int try_open(struct tokenizer *t, const char *spec, const struct tokenizer_options *o)
{
    struct stat st;
    bool folder = stat(spec, &st) == 0 && S_ISDIR(st.st_mode);
    char *path = folder ? xasprintf("%s/tokenizer.json", spec) : xstrdup(spec);
    struct json *root = json_try_file(path, MOST_BYTES);
    int result = -1;
    if (root) {
        struct reader r = { .path = path, .root = root, .specials = o->specials };
        t->impl = r.bl = xcalloc(1, sizeof *r.bl);
        r.bl->bpe = bpe_new();
        bytelevel_set_name(t, path);
        result = read_all(t, &r, o);
        if (result < 0)
            bytelevel_release(t);
        json_free(root);
    }
    free(path);
    return result;
}

static bool takes(const char *spec)
{
    struct stat st;
    return stat(spec, &st) == 0;
}

const struct tokenizer_kind tokenizer_hf = { .name = "FILE",
                                             .takes = takes,
                                             .try_open = try_open,
                                             .release = bytelevel_release,
                                             .find_special = bytelevel_find_special,
                                             .new_state = bytelevel_new_state,
                                             .free_state = bytelevel_free_state,
                                             .encode = bytelevel_encode,
                                             .try_decode = bytelevel_try_decode };
