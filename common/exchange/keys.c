/* keys.c - the keys of another program's configuration, read or written by the same calls
 * SPDX-License-Identifier: MIT
 */
#include "keys.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "kernels/backend.h"

/* What PretrainedConfig of transformers puts into every config.json, and what tools leave there: text
 * generation, labels of classifiers, storage. None of it changes the logits of a causal language model. */
static const char everywhere[] =
    "add_cross_attention architectures attn_implementation auto_map bad_words_ids begin_suppress_tokens "
    "bos_token_id "
    "chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample "
    "dtype "
    "early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task "
    "forced_bos_token_id forced_eos_token_id id2label is_decoder is_encoder_decoder label2id length_penalty "
    "max_length max_position_embeddings min_length model_type name_or_path no_repeat_ngram_size "
    "num_beam_groups "
    "num_beams num_logits_to_keep num_return_sequences output_attentions output_hidden_states output_scores "
    "pad_token_id prefix problem_type pruned_heads remove_invalid_values repetition_penalty return_dict "
    "return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss "
    "tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p "
    "use_bfloat16 use_cache use_return_dict initializer_range";

/* True when the word of n bytes is in a list of words. */
static bool listed(const char *list, char between, const char *word, size_t n)
{
    while (list && *list) {
        const char *end = strchr(list, between);
        size_t len = end ? (size_t)(end - list) : strlen(list);
        if (len == n && memcmp(list, word, n) == 0)
            return true;
        list += len + (end != NULL);
    }
    return false;
}

void keys_free(struct keys *k)
{
    free(k->seen);
    k->seen = NULL;
    k->n_seen = k->cap_seen = 0;
}

void keys_fail(struct keys *k, const char *fmt, ...)
{
    char text[sizeof k->error];
    va_list ap;
    if (k->failed)
        return;
    k->failed = true;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (char *c = text; *c; c++) /* names and strings of the file may hold anything */
        *c = (unsigned char)*c < ' ' || *c == 127 ? '?' : *c;
    if (k->inside)
        snprintf(k->error, sizeof k->error, "'%s': %.*s", k->inside, (int)(sizeof k->error / 2), text);
    else
        snprintf(k->error, sizeof k->error, "%s", text);
}

/* The value as the message shows it. */
static void fail_value(struct keys *k, const char *key, const struct json *v, const char *what)
{
    char *text = v ? json_text(v, JSON_FLAT) : xstrdup("null");
    keys_fail(k, "'%s' is %.80s%s, %s", key, text, strlen(text) > 80 ? "..." : "", what);
    free(text);
}

static void see(struct keys *k, const char *list)
{
    *(const char **)grow(&k->seen, &k->n_seen, &k->cap_seen, sizeof *k->seen) = list;
}

/* Writes the i-th spelling of the key into `one`; false behind the last. */
static bool spelling(const char *key, int i, char one[80])
{
    for (; i > 0; i--) {
        key = strchr(key, '|');
        if (!key)
            return false;
        key++;
    }
    snprintf(one, 80, "%.*s", (int)strcspn(key, "|"), key);
    return true;
}

static void arg_name(char name[100], const char *key) { snprintf(name, 100, "args.%s", key); }

static bool is_there(const struct keys *k, const char *one)
{
    char arg[100];
    if (!k->args)
        return json_at(k->in, one) != NULL;
    arg_name(arg, one);
    const struct foreign_value *v = archive_find_value(k->args, arg);
    return v && v->kind != FOREIGN_NONE;
}

/* The spelling that counts: the last that is there, else the first. */
static void choose(struct keys *k, const char *key, char one[80])
{
    char next[80];
    spelling(key, 0, one);
    for (int i = 1; !k->out && spelling(key, i, next); i++)
        if (is_there(k, next))
            memcpy(one, next, sizeof next);
    see(k, key);
}

void keys_int(struct keys *k, const char *key, int64_t lo, int64_t hi, int64_t *v)
{
    char one[80], arg[100];
    if (k->failed)
        return;
    choose(k, key, one);
    arg_name(arg, one);
    if (k->out)
        json_put_int(k->out, one, *v);
    else if ((k->args ? archive_meta_int(k->args, arg, lo, hi, v) : json_try_int(k->in, one, lo, hi, v)) < 0)
        keys_fail(k, "%s", err_last());
}

void keys_need_int(struct keys *k, const char *key, int64_t lo, int64_t hi, int64_t *v)
{
    char one[80];
    if (!k->failed && !k->out && !keys_has(k, key)) {
        spelling(key, 0, one);
        keys_fail(k, "'%s' is missing", one);
    }
    keys_int(k, key, lo, hi, v);
}

void keys_real(struct keys *k, const char *key, double lo, double hi, double *v)
{
    char one[80], arg[100];
    if (k->failed)
        return;
    choose(k, key, one);
    arg_name(arg, one);
    if (k->out)
        json_put_real(k->out, one, *v);
    else if ((k->args ? archive_meta_real(k->args, arg, lo, hi, v) : json_try_real(k->in, one, lo, hi, v)) <
             0)
        keys_fail(k, "%s", err_last());
}

void keys_flag(struct keys *k, const char *key, bool *v)
{
    char one[80], arg[100];
    if (k->failed)
        return;
    choose(k, key, one);
    arg_name(arg, one);
    if (k->out)
        json_put_bool(k->out, one, *v);
    else if ((k->args ? archive_meta_bool(k->args, arg, v) : json_try_bool(k->in, one, v)) < 0)
        keys_fail(k, "%s", err_last());
}

void keys_str(struct keys *k, const char *key, const char **v)
{
    char one[80], arg[100];
    if (k->failed || k->out)
        return;
    choose(k, key, one);
    arg_name(arg, one);
    if ((k->args ? archive_meta_str(k->args, arg, v) : json_try_str(k->in, one, v)) < 0)
        keys_fail(k, "%s", err_last());
}

bool keys_has(struct keys *k, const char *key)
{
    char one[80];
    if (k->failed || k->out)
        return false;
    choose(k, key, one);
    return is_there(k, one);
}

const struct json *keys_value(struct keys *k, const char *key)
{
    char one[80];
    if (k->failed || k->out || k->args)
        return NULL;
    choose(k, key, one);
    return json_at(k->in, one);
}

void keys_only_flag(struct keys *k, const char *key, bool v)
{
    bool have = v;
    keys_flag(k, key, &have);
    if (!k->failed && have != v)
        keys_fail(k, "'%s' is %s, which is not supported", key, have ? "true" : "false");
}

void keys_only_str(struct keys *k, const char *key, const char *v)
{
    const char *have = v;
    keys_str(k, key, &have);
    if (!k->failed && k->out)
        json_put_str(k->out, key, v);
    else if (!k->failed && strcmp(have, v) != 0)
        keys_fail(k, "'%s' is \"%.60s\", which is not supported (\"%s\" is)", key, have, v);
}

/* The next word of a list into `one`; false at its end. */
static bool next_word(const char **list, char one[80])
{
    size_t n = strcspn(*list, " ");
    snprintf(one, 80, "%.*s", (int)n, *list);
    *list += n + ((*list)[n] == ' ');
    return n > 0;
}

void keys_same_int(struct keys *k, const char *list, int64_t v)
{
    char one[80];
    see(k, list);
    for (const char *s = list; !k->failed && !k->out && next_word(&s, one);) {
        int64_t have = v;
        if (json_try_int(k->in, one, INT64_MIN, INT64_MAX, &have) < 0)
            keys_fail(k, "%s", err_last());
        else if (have != v)
            keys_fail(k, "'%s' is %lld, but %lld by the other keys", one, (long long)have, (long long)v);
    }
}

void keys_same_real(struct keys *k, const char *list, double v)
{
    char one[80];
    see(k, list);
    for (const char *s = list; !k->failed && !k->out && next_word(&s, one);) {
        double have = v;
        if (json_try_real(k->in, one, -HUGE_VAL, HUGE_VAL, &have) < 0)
            keys_fail(k, "%s", err_last());
        else if (have != v)
            keys_fail(k, "'%s' is %g, but %g by the other keys", one, have, v);
    }
}

/* A value that says "not here". */
static bool says_nothing(const struct json *v)
{
    int64_t whole = 1;
    double real = 1;
    bool flag = true;
    const char *text = "x";
    switch (json_kind(v)) {
    case JSON_NONE:
        return true;
    case JSON_INT:
        return json_try_int_of(v, "", INT64_MIN, INT64_MAX, &whole) == 0 && whole == 0;
    case JSON_FLOAT:
        return json_try_real_of(v, "", -HUGE_VAL, HUGE_VAL, &real) == 0 && real == 0;
    case JSON_TEXT:
        return json_try_str_of(v, "", &text) == 0 && !*text;
    case JSON_LIST:
    case JSON_MAP:
        return json_count(v) == 0;
    case JSON_BOOL: {
        char *t = json_text(v, JSON_FLAT);
        flag = strcmp(t, "false") != 0;
        free(t);
        return !flag;
    }
    }
    return false;
}

void keys_none(struct keys *k, const char *list)
{
    char one[80];
    for (const char *s = list; !k->failed && !k->out && next_word(&s, one);) {
        if (k->args) {
            char arg[100];
            arg_name(arg, one);
            const struct foreign_value *v = archive_find_value(k->args, arg);
            if (!v || v->kind == FOREIGN_NONE || (v->kind <= FOREIGN_INT && v->i == 0) ||
                (v->kind == FOREIGN_REAL && v->r == 0) || (v->kind == FOREIGN_STR && !*v->s))
                continue;
            if (v->kind == FOREIGN_STR)
                keys_fail(k, "'%s' is '%.60s', which is not supported", arg, v->s);
            else if (v->kind == FOREIGN_REAL)
                keys_fail(k, "'%s' is %g, which is not supported", arg, v->r);
            else if (v->kind == FOREIGN_INT)
                keys_fail(k, "'%s' is %lld, which is not supported", arg, (long long)v->i);
            else
                keys_fail(k, "'%s' is set, which is not supported", arg);
        } else if (!says_nothing(json_at(k->in, one)))
            fail_value(k, one, json_at(k->in, one), "which is not supported");
    }
    keys_skip(k, list);
}

void keys_skip(struct keys *k, const char *list) { see(k, list); }

void keys_activation(struct keys *k, const char *key, int *act)
{
    static const struct {
        const char *name;
        enum act act;
    } known[] = { { "gelu", ACT_GELU },          { "gelu_pytorch_tanh", ACT_GELU_TANH },
                  { "gelu_new", ACT_GELU_TANH }, { "relu2", ACT_RELU2 },
                  { "silu", ACT_SILU },          { "swish", ACT_SILU } };
    const char *name = NULL;
    keys_str(k, key, &name);
    if (k->failed || (!k->out && !name))
        return;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (k->out ? (int)known[i].act == *act : strcmp(known[i].name, name) == 0) {
            *act = (int)known[i].act;
            if (k->out)
                json_put_str(k->out, key, known[i].name);
            return;
        }
    }
    keys_fail(k, "'%s' is \"%.60s\", which is not supported", key, name ? name : "?");
}

void keys_limit(struct keys *k, const char *key, struct config *c)
{
    if (k->failed)
        return;
    if (k->out) {
        if (c->dt_min <= 0 && c->dt_max <= 0)
            return; /* their default, which plain JSON could not say */
        struct json *pair = json_make_list();
        json_add_real(pair, c->dt_min);
        if (c->dt_max > 0) {
            json_add_real(pair, c->dt_max);
        } else {
            struct json *infinity = json_make_map(); /* as transformers 5 writes it */
            json_put_str(infinity, "__float__", "Infinity");
            json_add(pair, infinity);
        }
        json_put(k->out, key, pair);
        return;
    }
    const struct json *v = keys_value(k, key);
    double lo = 0, hi = HUGE_VAL;
    if (!v)
        return;
    if (json_kind(v) != JSON_LIST || json_count(v) != 2)
        fail_value(k, key, v, "not a pair of numbers");
    else if (json_try_real_of(json_item(v, 0), key, 0, HUGE_VAL, &lo) < 0 ||
             json_try_real_of(json_item(v, 1), key, 0, HUGE_VAL, &hi) < 0)
        keys_fail(k, "%s", err_last());
    else if (isinf(lo) || hi <= 0)
        fail_value(k, key, v, "which is no range of time steps");
    else {
        c->dt_min = lo;
        c->dt_max = isinf(hi) ? 0 : hi;
    }
}

void keys_eod(struct keys *k, const char *key, struct config *c)
{
    if (k->failed)
        return;
    if (k->out) {
        if (c->eod >= 0)
            json_put_int(k->out, key, c->eod);
        else
            json_put_null(k->out, key);
        return;
    }
    const struct json *v = keys_value(k, key);
    if (json_kind(v) == JSON_LIST)
        v = json_item(v, 0);
    c->eod = -1;
    if (v && json_try_int_of(v, key, -1, 1 << 30, &c->eod) < 0)
        keys_fail(k, "%s", err_last());
}

void keys_rows(struct keys *k, const char *key, struct config *c)
{
    int64_t rows = keys_writing(k) ? config_vocab_rows(c) : 0;
    keys_need_int(k, key, 1, 1 << 30, &rows);
    if (!keys_writing(k)) {
        c->vocab = rows;
        c->vocab_multiple = 1;
    }
}

char *keys_make_pattern(struct keys *k, int64_t n, struct config *c)
{
    if (k->failed)
        return NULL;
    if (n < 1 || n > KEYS_MAX_LAYERS) {
        keys_fail(k, "%lld sub-layers are not 1 to %d", (long long)n, KEYS_MAX_LAYERS);
        return NULL;
    }
    free(k->pattern);
    k->pattern = xcalloc((size_t)n + 1, 1);
    c->pattern = k->pattern;
    return k->pattern;
}

void keys_repeat(struct keys *k, const char *key, const char *unit, struct config *c)
{
    int64_t len = (int64_t)strlen(unit), n = keys_writing(k) ? c->layers / len : 0;
    for (int64_t i = 0; keys_writing(k) && !k->failed && i < c->layers; i++)
        if (c->layers % len || c->pattern[i] != unit[i % len])
            keys_fail(k, "no place for 'pattern' %.80s", c->pattern);
    keys_need_int(k, key, 1, KEYS_MAX_LAYERS / len, &n);
    if (keys_writing(k))
        return;
    char *pattern = keys_make_pattern(k, n * len, c);
    for (int64_t i = 0; pattern && i < n * len; i++)
        pattern[i] = unit[i % len];
}

struct keys keys_enter(struct keys *k, const char *key)
{
    struct keys inner = { .inside = key, .ignore = k->ignore, .failed = k->failed };
    if (k->out) {
        inner.out = json_make_map();
        return inner;
    }
    const struct json *v = keys_value(k, key);
    if (v && json_kind(v) != JSON_MAP) {
        fail_value(k, key, v, "not an object");
        inner.failed = true;
    }
    inner.in = v && json_kind(v) == JSON_MAP ? v : NULL;
    return inner;
}

void keys_leave(struct keys *k, struct keys *inner)
{
    if (inner->failed && !k->failed) {
        k->failed = true;
        memcpy(k->error, inner->error, sizeof k->error);
    }
    if (inner->out)
        json_put(k->out, inner->inside, inner->out);
    keys_free(inner);
}

void keys_refuse_unknown(struct keys *k)
{
    const char *key;
    const struct json *v;
    if (k->failed || !k->in)
        return;
    for (const void *it = json_next(k->in, NULL, &key, &v); it; it = json_next(k->in, it, &key, &v)) {
        size_t n = strlen(key);
        bool known = *key == '_' || says_nothing(v) || listed(everywhere, ' ', key, n) ||
                     listed(k->ignore, ',', key, n);
        for (size_t i = 0; i < k->n_seen && !known; i++)
            known = listed(k->seen[i], strchr(k->seen[i], '|') ? '|' : ' ', key, n);
        if (!known) {
            fail_value(k, key, v, "a key that is not known here (--ignore passes over it)");
            return;
        }
    }
}
