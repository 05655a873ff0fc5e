/* config.c - the numbers that make a model
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "config.h"

#include <assert.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/out.h"
#include "layer.h"

void config_table(struct config *c, struct opt *rows)
{
    *c = (struct config){ .vocab_multiple = 8, .norm_eps = 1e-5, .headdim = 64, .n_groups = 1, .d_state = 128,
                          .d_conv = 4, .chunk = 128, .init_std = 0.02, .eod = -1 };
    const double big = 1 << 24;
    const struct opt table[CONFIG_ROWS + 1] = {
        OPT_STR(0, "pattern", "M-M*", &c->pattern, "one symbol a sub-layer: M Mamba-2, * attention, - MLP"),
        OPT_INT(0, "d_model", "N", &c->d_model, 1, big, "width of the residual stream"),
        OPT_INT(0, "vocab", "N", &c->vocab, 0, 1 << 30, "tokens; 0: as the data says"),
        OPT_INT(0, "vocab_multiple", "N", &c->vocab_multiple, 1, 65536, "pad the embedding to a multiple of this"),
        OPT_FLAG(0, "tied", &c->tied, "the head is the embedding"),
        OPT_REAL(0, "norm_eps", "X", &c->norm_eps, 1e-12, 1, "epsilon of the norms"),
        OPT_INT(0, "n_heads", "N", &c->n_heads, 0, big, "M: heads"),
        OPT_INT(0, "headdim", "N", &c->headdim, 1, 1024, "M: width of a head"),
        OPT_INT(0, "n_groups", "N", &c->n_groups, 1, big, "M: groups of heads that share B and C"),
        OPT_INT(0, "d_state", "N", &c->d_state, 1, 4096, "M: state size"),
        OPT_INT(0, "d_conv", "N", &c->d_conv, 1, 8, "M: width of the convolution"),
        OPT_INT(0, "chunk", "N", &c->chunk, 1, 4096, "M: tokens of a chunk"),
        OPT_INT(0, "attn_heads", "N", &c->attn_heads, 0, big, "*: query heads"),
        OPT_INT(0, "attn_kv_heads", "N", &c->attn_kv_heads, 0, big, "*: key and value heads"),
        OPT_INT(0, "attn_headdim", "N", &c->attn_headdim, 0, 1024, "*: width of a head"),
        OPT_INT(0, "d_ff", "N", &c->d_ff, 0, big, "-: inner width"),
        OPT_CHOICE(0, "activation", &c->activation, "gelu|gelu_tanh|relu2|silu", "-: activation"),
        OPT_CHOICE(0, "init", &c->init, "fan_in|normal", "how linears begin"),
        OPT_REAL(0, "init_std", "X", &c->init_std, 0, 10, "deviation of the embedding and of init = normal"),
        OPT_STR(0, "tokenizer", "NAME", &c->tokenizer, "that the data were made with"),
        OPT_STR(0, "tokenizer_hash", "HEX", &c->tokenizer_hash, "its hash"),
        OPT_INT(0, "eod", "N", &c->eod, -1, 1 << 30, "end-of-document token; -1: none"),
        OPT_END,
    };
    static_assert(sizeof table == (CONFIG_ROWS + 1) * sizeof *table, "CONFIG_ROWS counts the rows");
    memcpy(rows, table, sizeof table);
}

int64_t config_vocab_rows(const struct config *c)
{
    return (c->vocab + c->vocab_multiple - 1) / c->vocab_multiple * c->vocab_multiple;
}

int config_try_check(struct config *c)
{
    if (!c->pattern || !*c->pattern)
        return err_set("the model has no 'pattern'");
    c->layers = (int64_t)strlen(c->pattern);
    if (c->layers > 4096)
        return err_set("'pattern' has %lld sub-layers, more than 4096", (long long)c->layers);
    if (c->d_model < 1)
        return err_set("'d_model' is missing");
    for (const char *s = c->pattern; *s; s++)
        if (!layer_kind(*s))
            return err_set("symbol '%c' of 'pattern' is none of %s", *s, layer_symbols());
    if (strchr(c->pattern, 'M')) {
        if (c->n_heads < 1)
            return err_set("'n_heads' is missing (the pattern has M)");
        if (c->n_heads % c->n_groups)
            return err_set("'n_groups' %lld does not divide 'n_heads' %lld", (long long)c->n_groups,
                           (long long)c->n_heads);
    }
    if (strchr(c->pattern, '*')) {
        if (c->attn_heads < 1 || c->attn_headdim < 1)
            return err_set("'attn_heads' or 'attn_headdim' is missing (the pattern has *)");
        if (c->attn_kv_heads < 1)
            c->attn_kv_heads = c->attn_heads;
        if (c->attn_heads % c->attn_kv_heads)
            return err_set("'attn_kv_heads' %lld does not divide 'attn_heads' %lld", (long long)c->attn_kv_heads,
                           (long long)c->attn_heads);
    }
    if (strchr(c->pattern, '-') && c->d_ff < 1)
        return err_set("'d_ff' is missing (the pattern has -)");
    double widest = (double)c->d_ff + 2.0 * (double)c->n_heads * (double)(c->headdim + 1) +
                    2.0 * (double)c->n_groups * (double)c->d_state + (double)c->attn_heads * (double)c->attn_headdim;
    if ((widest * (double)c->layers + 2.0 * (double)c->vocab) * (double)c->d_model > 1e15)
        return err_set("the model has over 1e15 parameters");
    return 0;
}

/* The folder of presets, or NULL: $SSM_MODELS, PREFIX/share/ssmtools/models, or the source tree of build/VARIANT/bin. */
static char *find_preset(const char *name)
{
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(exe, '/');
    if (slash)
        *slash = '\0';
    const char *env = getenv("SSM_MODELS");
    char *dirs[] = { env ? xstrdup(env) : NULL, xasprintf("%s/../share/ssmtools/models", exe),
                     xasprintf("%s/../../../pipelines/models", exe) };
    char *found = NULL;
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        if (dirs[i] && !found) {
            found = xasprintf("%s/%s.conf", dirs[i], name);
            if (!path_exists(found)) {
                free(found);
                found = NULL;
            }
        }
        free(dirs[i]);
    }
    return found;
}

int config_try_load(struct config *c, const char *name)
{
    struct opt rows[CONFIG_ROWS + 1];
    config_table(c, rows);
    size_t len = strlen(name);
    bool is_file = strchr(name, '/') || (len > 5 && strcmp(name + len - 5, ".conf") == 0);
    char *path = is_file ? xstrdup(name) : find_preset(name);
    if (!path)
        return err_set("no model '%s' (no such file in $SSM_MODELS, share/ssmtools/models or pipelines/models)", name);
    int rc = opt_try_read_file(rows, path);
    if (rc == 0 && config_try_check(c) < 0)
        rc = err_set("%s: %s", path, err_last());
    free(path);
    return rc;
}

void config_to_attrs(const struct config *c, struct attrs *out)
{
    struct config copy;
    struct opt rows[CONFIG_ROWS + 1];
    config_table(&copy, rows);
    copy = *c;
    for (const struct opt *o = rows; o->kind; o++) {
        if (o->kind == OPT_KIND_INT)
            attrs_set_int(out, o->name, *(int64_t *)o->value);
        else if (o->kind == OPT_KIND_REAL)
            attrs_set_real(out, o->name, *(double *)o->value);
        else {
            struct buf text = { 0 };
            buf_add(&text, "", 0);
            opt_format(o, &text);
            attrs_set_str(out, o->name, text.data);
            buf_free(&text);
        }
    }
}

int config_try_from_attrs(struct config *c, const struct attrs *in)
{
    struct opt rows[CONFIG_ROWS + 1];
    config_table(c, rows);
    for (size_t i = 0; i < in->n; i++)
        if (!opt_find(rows, in->a[i].name))
            return err_set("the model has '%s', which this version does not know", in->a[i].name);
    for (struct opt *o = rows; o->kind; o++) {
        struct buf text = { 0 };
        int64_t whole;
        double real;
        const char *str;
        int rc;
        if (o->kind == OPT_KIND_INT) {
            if ((rc = attrs_try_int(in, o->name, &whole)) == 0)
                buf_addf(&text, "%lld", (long long)whole);
        } else if (o->kind == OPT_KIND_REAL) {
            if ((rc = attrs_try_real(in, o->name, &real)) == 0)
                buf_addf(&text, "%.17g", real);
        } else if ((rc = attrs_try_str(in, o->name, &str)) == 0)
            buf_addf(&text, "%s", str);
        if (rc == 0)
            rc = opt_try_set(o, text.data);
        buf_free(&text);
        if (rc < 0)
            return -1;
    }
    return config_try_check(c);
}
