/* family.c - families of other people's models: what they call our tensors and our numbers
 * SPDX-License-Identifier: MIT
 */
#include "family.h"

#include <stdio.h>

#include "common/base/err.h"
#include "common/base/mem.h"

extern const struct family family_mamba, family_mamba2, family_nemotron_h, family_nemotron, family_bamba,
    family_recurrent_gemma, family_mamba_ssm, family_megatron;
const struct family *const families[] = { &family_mamba,     &family_mamba2,          &family_nemotron,
                                          &family_bamba,     &family_recurrent_gemma, &family_nemotron_h,
                                          &family_mamba_ssm, &family_megatron,        NULL };

static void list_families(struct buf *text, bool writable)
{
    for (int i = 0; families[i]; i++)
        if (!writable || !families[i]->read_only)
            buf_addf(text, "%s%s", text->len ? ", " : "", families[i]->name);
}

const struct family *family_try_find(const char *name)
{
    for (int i = 0; families[i]; i++)
        if (strcmp(families[i]->name, name) == 0)
            return families[i];
    struct buf all = { 0 };
    list_families(&all, false);
    err_set("family '%.60s' is none of %s", name, all.data);
    buf_free(&all);
    return NULL;
}

const struct family *family_try_detect(const struct json *config)
{
    const char *type = NULL;
    if (json_kind(config) != JSON_MAP) {
        err_set("not an object");
        return NULL;
    }
    if (json_try_str(config, "model_type", &type) < 0)
        return NULL;
    for (int i = 0; type && families[i]; i++)
        if (!families[i]->untyped && strcmp(families[i]->name, type) == 0)
            return families[i];
    if (!type && json_at(config, "d_model") && json_at(config, "n_layer"))
        return &family_mamba_ssm;
    struct buf all = { 0 };
    list_families(&all, false);
    if (type)
        err_set("model_type '%.60s' is none of %s", type, all.data);
    else
        err_set("has no model_type (--as names one of %s)", all.data);
    buf_free(&all);
    return NULL;
}

/* ---- configurations ---- */

/* Numbers that no sub-layer of the pattern looks at become what they are by default. */
static void forget_unused(struct config *c)
{
    struct config d;
    struct opt rows[CONFIG_ROWS + 1];
    bool M = strchr(c->pattern, 'M'), S = strchr(c->pattern, 'S'), R = strchr(c->pattern, 'R');
    bool window = strchr(c->pattern, 'L'), attention = window || strchr(c->pattern, '*');
    config_table(&d, rows);
    if (!M && !S && !R)
        c->d_conv = d.d_conv, c->conv_bias = d.conv_bias, c->mixer_bias = d.mixer_bias;
    if (!M && !S)
        c->d_state = d.d_state;
    if (!M)
        c->n_heads = d.n_heads, c->headdim = d.headdim, c->n_groups = d.n_groups, c->dt_min = d.dt_min,
        c->dt_max = d.dt_max;
    if (!S)
        c->d_inner = d.d_inner, c->dt_rank = d.dt_rank;
    if (!R)
        c->lru_width = d.lru_width, c->lru_blocks = d.lru_blocks;
    if (!attention)
        c->attn_heads = d.attn_heads, c->attn_kv_heads = d.attn_kv_heads, c->attn_headdim = d.attn_headdim,
        c->rotary_dim = 0, c->attn_softcap = 0, c->attn_bias = false, c->attn_out_bias = false;
    if (c->rotary_dim == 0)
        c->rope_base = d.rope_base;
    if (!window)
        c->window = d.window;
    if (!strchr(c->pattern, '-'))
        c->d_ff = d.d_ff, c->activation = d.activation, c->mlp_gated = d.mlp_gated, c->mlp_bias = d.mlp_bias;
}

/* The ranges of the option table, which a checkpoint's attributes must keep to. */
static int try_ranges(const struct config *c)
{
    struct config copy;
    struct opt rows[CONFIG_ROWS + 1];
    config_table(&copy, rows);
    copy = *c;
    for (const struct opt *o = rows; o->kind; o++) {
        double v = 0;
        if (o->kind == OPT_KIND_INT)
            v = (double)*(const int64_t *)o->value;
        else if (o->kind == OPT_KIND_REAL)
            v = *(const double *)o->value;
        else
            continue;
        if (!(v >= o->lo && v <= o->hi))
            return err_set("'%s' %g is not in %g .. %g", o->name, v, o->lo, o->hi);
    }
    return 0;
}

int family_try_read(const struct family *f, const struct json *in, const struct archive *args,
                    const char *ignore, struct config *c, char **pattern)
{
    struct opt rows[CONFIG_ROWS + 1];
    struct keys k = { .in = in, .args = in ? NULL : args, .ignore = ignore };
    int rc = 0;
    config_table(c, rows);
    *pattern = NULL;
    f->keys(&k, c);
    keys_refuse_unknown(&k);
    if (k.failed)
        rc = err_set("%s", k.error);
    if (rc == 0 && c->vocab < 1)
        rc = err_set("the vocabulary is empty");
    if (rc == 0)
        rc = config_try_check(c);
    if (rc == 0)
        rc = try_ranges(c);
    keys_free(&k);
    if (rc == 0)
        *pattern = k.pattern;
    else
        free(k.pattern);
    return rc;
}

/* The first number that differs; 0 when the models are the same. */
static int compare(const struct family *f, struct config a, struct config b)
{
    struct attrs x = { 0 }, y = { 0 };
    int rc = 0;
    if (config_vocab_rows(&a) != config_vocab_rows(&b))
        rc = err_set("%s has no place for 'vocab' %lld", f->name, (long long)a.vocab);
    /* How weights begin and what the tokenizer is called is lost; chunks are a matter of speed. */
    b.vocab = a.vocab, b.vocab_multiple = a.vocab_multiple, b.chunk = a.chunk, b.init = a.init;
    b.init_std = a.init_std, b.tokenizer = a.tokenizer, b.tokenizer_hash = a.tokenizer_hash, b.eod = a.eod;
    if (f->unties)
        b.tied = a.tied;
    forget_unused(&a);
    forget_unused(&b);
    config_to_attrs(&a, &x);
    config_to_attrs(&b, &y);
    for (size_t i = 0; i < x.n && rc == 0; i++) {
        const struct attr *p = &x.a[i], *q = &y.a[i];
        bool same = p->kind == ATTR_INT    ? p->i == q->i
                    : p->kind == ATTR_REAL ? p->r == q->r
                                           : strcmp(p->s, q->s) == 0;
        if (!same && p->kind == ATTR_INT)
            rc = err_set("%s has no place for '%s' %lld", f->name, p->name, (long long)p->i);
        else if (!same && p->kind == ATTR_REAL)
            rc = err_set("%s has no place for '%s' %g", f->name, p->name, p->r);
        else if (!same)
            rc = err_set("%s has no place for '%s' %.80s", f->name, p->name, p->s);
    }
    attrs_free(&x);
    attrs_free(&y);
    return rc;
}

struct json *family_try_write(const struct family *f, const struct config *c)
{
    struct config copy = *c, back;
    char *pattern = NULL;
    struct keys k = { .out = json_make_map() };
    if (f->architecture) {
        struct json *list = json_make_list();
        json_add_str(list, f->architecture);
        json_put(k.out, "architectures", list);
    }
    if (!f->untyped)
        json_put_str(k.out, "model_type", f->name);
    forget_unused(&copy);
    f->keys(&k, &copy);
    int rc = k.failed ? err_set("%s: %s", f->name, k.error) : 0;
    if (rc == 0 && (rc = family_try_read(f, k.out, NULL, NULL, &back, &pattern)) < 0)
        rc = err_set("%s cannot hold the model: %s", f->name, err_last());
    if (rc == 0)
        rc = compare(f, *c, back);
    free(pattern);
    keys_free(&k);
    if (rc == 0)
        return k.out;
    json_free(k.out);
    return NULL;
}

/* Whether the symbols of the pattern are such as the family has at all. */
static bool has_symbols(const struct family *f, const struct config *c)
{
    for (const char *s = c->pattern; *s; s++) {
        bool found = false;
        for (const struct rule *r = f->rules; r->theirs && !found; r++)
            found = r->symbols && strchr(r->symbols, *s);
        if (!found)
            return false;
    }
    return true;
}

const struct family *family_try_choose(const struct config *c)
{
    char *reason = NULL;
    for (int i = 0; families[i]; i++) {
        const struct family *f = families[i];
        if (f->read_only || !has_symbols(f, c))
            continue;
        struct json *j = family_try_write(f, c);
        if (j) {
            json_free(j);
            free(reason);
            return f;
        }
        /* nemotron_h takes any order of its sub-layers: where another one says no to the pattern, its reason
         * tells more */
        if (!reason || strstr(reason, "'pattern'")) {
            free(reason);
            reason = xstrdup(err_last());
        }
    }
    err_set("no family has a place for the model (%s)", reason ? reason : "for its pattern");
    free(reason);
    return NULL;
}

/* ---- tensors ---- */

static void set_rows(const struct rule *r, const struct config *c, struct place *at)
{
    int64_t d = c->attn_headdim, each = c->attn_kv_heads ? c->attn_heads / c->attn_kv_heads : 0;
    at->run = at->stride = at->shape[0];
    at->base = 0;
    switch (r->rows) {
    case ROWS_SAME:
        break;
    case ROWS_Q:
    case ROWS_K:
    case ROWS_V:
        at->run = r->rows == ROWS_Q ? each * d : d;
        at->base = r->rows == ROWS_Q ? 0 : r->rows == ROWS_K ? each * d : (each + 1) * d;
        at->stride = (each + 2) * d;
        at->shape[0] = c->attn_kv_heads * at->stride;
        break;
    case ROWS_GATE:
    case ROWS_UP:
        if (c->mlp_gated) {
            at->base = r->rows == ROWS_UP ? c->d_ff : 0;
            at->shape[0] = 2 * c->d_ff;
        }
        break;
    }
}

bool family_place(const struct family *f, const struct config *c, const struct param *p, int i,
                  struct place *out)
{
    const char *leaf = p->name;
    if (p->layer >= 0) {
        leaf = strchr(leaf, '.') + 1; /* behind "layers.N." */
        leaf = strchr(leaf, '.') + 1;
    }
    size_t matched = 0; /* rules of other lengths are for other tensors: the first that fits says how long */
    for (const struct rule *r = f->rules; r->theirs; r++) {
        size_t n = strlen(r->ours), len = 0;
        bool fits = p->layer < 0 ? !r->symbols : r->symbols && strchr(r->symbols, c->pattern[p->layer]);
        if (!fits || strncmp(leaf, r->ours, n) != 0 || (matched && n + 1 != matched))
            continue;
        matched = n + 1;
        if (i-- > 0)
            continue;
        *out = (struct place){ .ndim = p->ndim };
        memcpy(out->shape, p->shape, sizeof out->shape);
        for (const char *s = r->theirs; *s && len < sizeof out->name; s++)
            len += (size_t)snprintf(out->name + len, sizeof out->name - len, *s == '#' ? "%d" : "%c",
                                    *s == '#' ? p->layer / f->per_layer : *s);
        if (len < sizeof out->name)
            len += (size_t)snprintf(out->name + len, sizeof out->name - len, "%s", leaf + n);
        if (len >= sizeof out->name)
            bug("the name of '%s' in %s is too long", p->name, f->name);
        set_rows(r, c, out);
        return true;
    }
    if (!matched)
        bug("%s has no name for '%s'", f->name, p->name);
    return false;
}
