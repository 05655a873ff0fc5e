/* chat_template.c - how the messages of a conversation are wrapped: a template file; a conversation to ids and mask
 * SPDX-License-Identifier: MIT
 */
#include "chat_template.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/hash.h"
#include "common/base/mem.h"

enum { MOST_BYTES = 1 << 20 };

enum part_kind { PART_TEXT, PART_TOKEN, PART_CONTENT, PART_ROLE, PART_ANSWER, PART_EOD };
static const char *const part_names[] = { [PART_CONTENT] = "{content}", [PART_ROLE] = "{role}",
                                          [PART_ANSWER] = "{answer}", [PART_EOD] = "{eod}" };

struct part {
    enum part_kind kind;
    uint32_t id;    /* of a token */
    size_t from, n; /* of text */
};

struct wrap {
    char *text; /* NULL: not given */
    size_t n_text;
    struct part *part;
    size_t n, cap;
    int line;
};

/* The keys of a file; the first are the roles. */
enum key { KEY_MESSAGE = CHAT_ROLES, KEY_BEGIN, KEY_NO_SYSTEM, KEY_ANSWER, KEY_TOKENS, KEY_TRIM, KEYS };
static const char *const key_names[KEYS] = { "system",    "user",   "assistant", "tool", "message", "begin",
                                             "no_system", "answer", "tokens",    "trim" };

struct chat_template {
    struct wrap wrap[KEYS];
    bool trim;
    struct named_token {
        const char *name; /* in wrap[KEY_TOKENS].text */
        size_t n;
        uint32_t id;
    } *token;
    size_t n_tokens, cap_tokens;
    uint32_t eod;
    uint64_t hash;
};

void chat_template_free(struct chat_template *t)
{
    if (!t)
        return;
    for (int k = 0; k < KEYS; k++) {
        free(t->wrap[k].text);
        free(t->wrap[k].part);
    }
    free(t->token);
    free(t);
}

uint64_t chat_template_hash(const struct chat_template *t) { return t->hash; }

/* ---- a line ---- */

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

static const char *skip_blanks(const char *p, const char *end)
{
    while (p < end && is_blank(*p))
        p++;
    return p;
}

/* What stands between double quotes at *p, which goes behind them. */
static int quoted(const char **p, const char *end, struct buf *out)
{
    static const char from[] = "nt\"\\", to[] = "\n\t\"\\";
    const char *q = *p;
    buf_add(out, "", 0);
    if (q == end || *q++ != '"')
        return err_set("the value does not stand between double quotes");
    for (; q < end && *q != '"'; q++) {
        char c = *q;
        if (c == '\\') {
            const char *k = ++q < end && *q ? strchr(from, *q) : NULL;
            if (!k)
                return err_set("an unknown escape: there are \\n, \\t, \\\" and \\\\");
            c = to[k - from];
        }
        buf_add(out, &c, 1);
    }
    if (q == end)
        return err_set("a quote without end");
    *p = q + 1;
    return 0;
}

static int try_trim(struct chat_template *t, const char **p, const char *end)
{
    const char *from = *p;
    while (*p < end && !is_blank(**p) && **p != '#')
        ++*p;
    size_t n = (size_t)(*p - from);
    if (!(n == 4 && memcmp(from, "true", 4) == 0) && !(n == 5 && memcmp(from, "false", 5) == 0))
        return err_set("'trim' is true or false");
    t->trim = n == 4;
    return 0;
}

static int parse_line(struct chat_template *t, const char *p, const char *end, int number)
{
    p = skip_blanks(p, end);
    if (p == end || *p == '#')
        return 0;
    const char *name = p;
    while (p < end && !is_blank(*p) && *p != '=')
        p++;
    int len = (int)(p - name < 60 ? p - name : 60), key = 0;
    while (key < KEYS && (strlen(key_names[key]) != (size_t)(p - name) || memcmp(key_names[key], name, (size_t)(p - name))))
        key++;
    p = skip_blanks(p, end);
    if (p == end || *p != '=')
        return err_set("'%.*s' is not followed by '='", len, name);
    if (key == KEYS)
        return err_set("unknown key '%.*s'", len, name);
    if (t->wrap[key].line)
        return err_set("key '%s' stands here twice", key_names[key]);
    t->wrap[key].line = number;
    p = skip_blanks(p + 1, end);
    struct buf text = { 0 };
    int rc = key == KEY_TRIM ? try_trim(t, &p, end) : quoted(&p, end, &text);
    t->wrap[key].text = text.data;
    t->wrap[key].n_text = text.len;
    if (rc < 0)
        return -1;
    p = skip_blanks(p, end);
    if (p < end && *p != '#')
        return err_set("'%.*s' is too much", (int)(end - p < 60 ? end - p : 60), p);
    return 0;
}

/* ---- the parts of a value ---- */

static int find_tokens(struct chat_template *t, const struct tokenizer *tokenizer)
{
    const char *text = t->wrap[KEY_TOKENS].text;
    while (text && *(text += strspn(text, " "))) {
        size_t n = strcspn(text, " ");
        char *name = xasprintf("%.*s", (int)n, text);
        int64_t id = tokenizer_find_special(tokenizer, name);
        if (id < 0)
            err_set("'%s' is not a special token of the tokenizer '%s'", name, tokenizer_info(tokenizer)->name);
        free(name);
        if (id < 0)
            return -1;
        struct named_token *new = grow(&t->token, &t->n_tokens, &t->cap_tokens, sizeof *new);
        *new = (struct named_token){ text, n, (uint32_t)id };
        text += n;
    }
    return 0;
}

static struct part *new_part(struct wrap *w, enum part_kind kind)
{
    struct part *p = grow(&w->part, &w->n, &w->cap, sizeof *p);
    *p = (struct part){ .kind = kind };
    return p;
}

static bool begins(const char *text, size_t n, const char *with, size_t len) { return n >= len && memcmp(text, with, len) == 0; }

/* Appends the part that begins with byte `at`, and returns its length; -1 with err_last(). */
static int64_t add_part(const struct chat_template *t, struct wrap *w, size_t at)
{
    const char *p = w->text + at;
    size_t left = w->n_text - at, best = 0;
    for (int k = PART_CONTENT; k <= PART_EOD; k++)
        if (begins(p, left, part_names[k], strlen(part_names[k]))) {
            new_part(w, (enum part_kind)k);
            return (int64_t)strlen(part_names[k]);
        }
    if (*p == '{') {
        size_t n = 1 + strspn(p + 1, "abcdefghijklmnopqrstuvwxyz_");
        if (n > 1 && n < left && p[n] == '}')
            return err_set("'%.*s' is none of {content}, {role}, {answer}, {eod}", (int)(n + 1 < 60 ? n + 1 : 60), p);
    }
    uint32_t id = 0;
    for (size_t i = 0; i < t->n_tokens; i++)
        if (t->token[i].n > best && begins(p, left, t->token[i].name, t->token[i].n)) {
            best = t->token[i].n;
            id = t->token[i].id;
        }
    if (best) {
        new_part(w, PART_TOKEN)->id = id;
        return (int64_t)best;
    }
    if (w->n == 0 || w->part[w->n - 1].kind != PART_TEXT)
        new_part(w, PART_TEXT)->from = at;
    w->part[w->n - 1].n++;
    return 1;
}

static int count(const struct wrap *w, enum part_kind kind)
{
    int n = 0;
    for (size_t i = 0; i < w->n; i++)
        n += w->part[i].kind == kind;
    return n;
}

static int split_value(struct chat_template *t, int key)
{
    struct wrap *w = &t->wrap[key];
    for (size_t at = 0; at < w->n_text;) {
        int64_t n = add_part(t, w, at);
        if (n < 0)
            return -1;
        at += (size_t)n;
    }
    bool bare = key == KEY_BEGIN || key == KEY_NO_SYSTEM;
    int contents = key == CHAT_ASSISTANT || bare ? 0 : 1, answers = key == CHAT_ASSISTANT;
    if (count(w, PART_CONTENT) != contents || count(w, PART_ANSWER) != answers)
        return err_set("'%s' must have %s{content} and %s{answer}", key_names[key], contents ? "one " : "no ",
                       answers ? "one " : "no ");
    if (bare && count(w, PART_ROLE))
        return err_set("'%s' is of no role: no {role}", key_names[key]);
    return 0;
}

static int at_line(const char *file, int line)
{
    char *why = xstrdup(err_last());
    err_set("%s:%d: %s", file, line, why);
    free(why);
    return -1;
}

static int parse_all(struct chat_template *t, const char *file, const char *text, size_t n, const struct tokenizer *tokenizer)
{
    int number = 0;
    if (memchr(text, 0, n))
        return err_set("'%s' is not a text file", file);
    for (const char *p = text, *end = text + n; p < end;) {
        const char *nl = memchr(p, '\n', (size_t)(end - p)), *stop = nl ? nl : end;
        if (parse_line(t, p, stop, ++number) < 0)
            return at_line(file, number);
        p = stop + 1;
    }
    if (find_tokens(t, tokenizer) < 0)
        return at_line(file, t->wrap[KEY_TOKENS].line);
    for (int k = 0; k <= KEY_ANSWER; k++)
        if (t->wrap[k].line && split_value(t, k) < 0)
            return at_line(file, t->wrap[k].line);
    if (!t->wrap[CHAT_ASSISTANT].line || !t->wrap[KEY_ANSWER].line)
        return err_set("%s: 'assistant' or 'answer' is missing", file);
    if (!t->wrap[CHAT_USER].line && !t->wrap[KEY_MESSAGE].line)
        return err_set("%s: 'user' and 'message' are missing", file);
    return 0;
}

struct chat_template *chat_template_try_parse(const char *file, const char *text, size_t n, const struct tokenizer *tokenizer)
{
    struct chat_template *t = xcalloc(1, sizeof *t);
    t->hash = hash_bytes(text, n);
    t->eod = (uint32_t)tokenizer_info(tokenizer)->eod;
    if (parse_all(t, file, text, n, tokenizer) == 0)
        return t;
    chat_template_free(t);
    return NULL;
}

struct chat_template *chat_template_try_open(const char *name, const struct tokenizer *tokenizer)
{
    static const char end[] = ".template";
    size_t len = strlen(name), n, m = sizeof end - 1;
    bool is_file = strchr(name, '/') || (len > m && strcmp(name + len - m, end) == 0);
    char *file = xasprintf("%s%s", name, end);
    char *path = is_file ? xstrdup(name) : file_find_data("SSM_TEMPLATES", "templates", file);
    free(file);
    if (!path) {
        err_set("no template '%s' (no such file in $SSM_TEMPLATES, share/ssmtools/templates or pipelines/templates)", name);
        return NULL;
    }
    char *text = file_try_read(path, MOST_BYTES, &n);
    struct chat_template *t = text ? chat_template_try_parse(path, text, n, tokenizer) : NULL;
    free(text);
    free(path);
    return t;
}

/* ---- a conversation ---- */

void chat_ids_free(struct chat_ids *c)
{
    token_ids_free(&c->ids);
    token_ids_free(&c->part);
    free(c->mask);
    buf_free(&c->text);
    *c = (struct chat_ids){ 0 };
}

struct encoding {
    const struct chat_template *t;
    struct token_stream *s;
    struct chat_ids *out;
    bool counts; /* what comes now */
    int64_t most, had;
};

static void mark(struct encoding *e, size_t from)
{
    struct chat_ids *o = e->out;
    if (o->ids.n > o->cap_mask) {
        o->cap_mask = o->ids.n + o->ids.n / 2;
        o->mask = xrealloc(o->mask, o->cap_mask);
    }
    memset(o->mask + from, e->counts, o->ids.n - from);
}

static void put_token(struct encoding *e, uint32_t id)
{
    *token_ids_room(&e->out->ids, 1) = id;
    e->out->ids.n++;
    mark(e, e->out->ids.n - 1);
}

/* Text must not make what only the template may say. A tokenizer that keeps specials out of text makes none, but for an
 * end token that is no special one. */
static int check_text(const struct encoding *e, const uint32_t *id, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bool named = id[i] == e->t->eod;
        for (size_t k = 0; k < e->t->n_tokens; k++)
            named = named || id[i] == e->t->token[k].id;
        if (named)
            return err_set("text makes the token %lu, which only the template may", (unsigned long)id[i]);
    }
    return 0;
}

/* Gives the text so far to the tokenizer. */
static int flush(struct encoding *e)
{
    struct chat_ids *o = e->out;
    size_t from = o->ids.n;
    if (!o->text.len)
        return 0;
    tokenizer_encode(e->s, o->text.data, o->text.len, true, &o->ids);
    buf_clear(&o->text);
    if (o->ids.n == from)
        return 0;
    mark(e, from);
    return check_text(e, o->ids.id + from, o->ids.n - from);
}

/* The last e->most tokens of a text by itself. */
static int put_shortened(struct encoding *e, const char *text, size_t n)
{
    struct chat_ids *o = e->out;
    if (flush(e) < 0)
        return -1;
    o->part.n = 0;
    if (n)
        tokenizer_encode(e->s, text, n, true, &o->part);
    e->had = (int64_t)o->part.n;
    if (check_text(e, o->part.id, o->part.n) < 0)
        return -1;
    for (size_t i = o->part.n > (size_t)e->most ? o->part.n - (size_t)e->most : 0; i < o->part.n; i++)
        put_token(e, o->part.id[i]);
    return 0;
}

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

static int put_wrap(struct encoding *e, int key, const struct chat_message *m, bool shorten);

static int put_part(struct encoding *e, const struct wrap *w, const struct part *p, const struct chat_message *m, bool shorten)
{
    const bool before = e->counts;
    const char *text = m ? m->text : "";
    size_t n = m ? m->n : 0;
    switch (p->kind) {
    case PART_TEXT:
        buf_add(&e->out->text, w->text + p->from, p->n);
        return 0;
    case PART_TOKEN:
    case PART_EOD:
        if (flush(e) < 0)
            return -1;
        put_token(e, p->kind == PART_EOD ? e->t->eod : p->id);
        return 0;
    case PART_ROLE:
        buf_add(&e->out->text, chat_role_names[m->role], strlen(chat_role_names[m->role]));
        return 0;
    case PART_CONTENT:
        for (; e->t->trim && n && is_space(text[n - 1]); n--)
            ;
        for (; e->t->trim && n && is_space(*text); n--)
            text++;
        if (m->role == CHAT_ASSISTANT && n == 0)
            return err_set("an answer without text");
        e->out->bytes += (int64_t)n;
        if (shorten)
            return put_shortened(e, text, n);
        buf_add(&e->out->text, text, n);
        return 0;
    case PART_ANSWER:
        if (flush(e) < 0)
            return -1;
        e->counts = before || m->counts;
        if (put_wrap(e, KEY_ANSWER, m, false) < 0 || flush(e) < 0)
            return -1;
        e->counts = before;
        return 0;
    }
    return 0;
}

static int put_wrap(struct encoding *e, int key, const struct chat_message *m, bool shorten)
{
    const struct wrap *w = &e->t->wrap[key];
    for (size_t i = 0; i < w->n; i++)
        if (put_part(e, w, &w->part[i], m, shorten) < 0)
            return -1;
    return 0;
}

static int put_message(struct encoding *e, const struct chat_message *m, bool shorten)
{
    int key = e->t->wrap[m->role].line ? (int)m->role : KEY_MESSAGE;
    if (!e->t->wrap[key].line)
        return err_set("the template has no '%s' and no 'message'", chat_role_names[m->role]);
    return put_wrap(e, key, m, shorten);
}

int chat_template_try_encode(const struct chat_template *t, const struct chat *c, bool all, int64_t most,
                             struct token_stream *s, struct chat_ids *out, int64_t *had)
{
    struct encoding e = { .t = t, .s = s, .out = out, .counts = all, .most = most };
    bool shorten = most >= 0;
    out->ids.n = 0;
    out->bytes = out->targets = 0;
    buf_clear(&out->text);
    if (put_wrap(&e, KEY_BEGIN, NULL, false) < 0 ||
        ((c->n == 0 || c->message[0].role != CHAT_SYSTEM) && put_wrap(&e, KEY_NO_SYSTEM, NULL, false) < 0))
        return -1;
    for (size_t i = 0; i < c->n; i++) {
        const bool user = c->message[i].role == CHAT_USER;
        if (put_message(&e, &c->message[i], shorten && user) < 0)
            return -1;
        shorten = shorten && !user;
    }
    if (flush(&e) < 0)
        return -1;
    if (out->ids.n == 0 || out->ids.id[out->ids.n - 1] != t->eod)
        put_token(&e, t->eod);
    for (size_t i = 0; i < out->ids.n; i++)
        out->targets += out->mask[i];
    if (had)
        *had = e.had;
    return 0;
}
