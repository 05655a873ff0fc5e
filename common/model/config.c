/* config.c - the numbers that make a model
 * SPDX-License-Identifier: MIT
 */
#include "config.h"

#include <assert.h>

#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/out.h"
#include "layer.h"

void config_table(struct config *c, struct opt *rows)
{
    *c = (struct config){ .vocab_multiple = 8, .embed_scale = 1, .norm_eps = 1e-5, .d_conv = 4, .d_state = 128,
                          .chunk = 128, .conv_bias = true, .headdim = 64, .n_groups = 1, .rope_base = 10000,
                          .init_std = 0.02, .eod = -1 };
    const double big = 1 << 24;
    const struct opt table[CONFIG_ROWS + 1] = {
        OPT_STR(0, "pattern", "M-S*", &c->pattern,
                "one symbol a sub-layer: M Mamba-2, S Mamba-1, R RG-LRU, * attention, L windowed attention, - MLP"),
        OPT_INT(0, "d_model", "N", &c->d_model, 1, big, "width of the residual stream"),
        OPT_INT(0, "vocab", "N", &c->vocab, 0, 1 << 30, "tokens; 0: as the data says"),
        OPT_INT(0, "vocab_multiple", "N", &c->vocab_multiple, 1, 65536, "pad the embedding to a multiple of this"),
        OPT_FLAG(0, "tied", &c->tied, "the head is the embedding"),
        OPT_REAL(0, "embed_scale", "X", &c->embed_scale, 1e-6, 1e6, "multiplies the embedding"),
        OPT_REAL(0, "softcap", "X", &c->softcap, 0, 1e6, "logits are softcap tanh(logits/softcap); 0: as they are"),
        OPT_CHOICE(0, "norm", &c->norm, "rms|rms1p|layer|layer1p", "kind; 1p: the stored weight is one less"),
        OPT_REAL(0, "norm_eps", "X", &c->norm_eps, 1e-12, 1, "epsilon of the norms"),
        OPT_INT(0, "d_conv", "N", &c->d_conv, 1, 8, "M S R: width of the convolution"),
        OPT_INT(0, "d_state", "N", &c->d_state, 1, 4096, "M S: state size"),
        OPT_INT(0, "chunk", "N", &c->chunk, 1, 4096, "M S: tokens of a chunk"),
        OPT_FLAG(0, "conv_bias", &c->conv_bias, "M S R: the convolution has a bias"),
        OPT_FLAG(0, "mixer_bias", &c->mixer_bias, "M S R: the linears in and out have biases"),
        OPT_INT(0, "n_heads", "N", &c->n_heads, 0, big, "M: heads"),
        OPT_INT(0, "headdim", "N", &c->headdim, 1, 1024, "M: width of a head"),
        OPT_INT(0, "n_groups", "N", &c->n_groups, 1, big, "M: groups of heads that share B and C"),
        OPT_REAL(0, "dt_min", "X", &c->dt_min, 0, 1e6, "M: least time step"),
        OPT_REAL(0, "dt_max", "X", &c->dt_max, 0, 1e6, "M: greatest time step; 0: no limit"),
        OPT_INT(0, "d_inner", "N", &c->d_inner, 0, big, "S: channels"),
        OPT_INT(0, "dt_rank", "N", &c->dt_rank, 0, big, "S: rank of the time step; 0: d_model/16"),
        OPT_INT(0, "lru_width", "N", &c->lru_width, 0, big, "R: channels"),
        OPT_INT(0, "lru_blocks", "N", &c->lru_blocks, 0, big, "R: diagonal blocks of the gates"),
        OPT_INT(0, "attn_heads", "N", &c->attn_heads, 0, big, "* L: query heads"),
        OPT_INT(0, "attn_kv_heads", "N", &c->attn_kv_heads, 0, big, "* L: key and value heads"),
        OPT_INT(0, "attn_headdim", "N", &c->attn_headdim, 0, 1024, "* L: width of a head"),
        OPT_INT(0, "rotary_dim", "N", &c->rotary_dim, 0, 1024, "* L: rotated dimensions of a head; 0: none"),
        OPT_REAL(0, "rope_base", "X", &c->rope_base, 1, 1e12, "* L: base of the rotary embedding"),
        OPT_REAL(0, "attn_softcap", "X", &c->attn_softcap, 0, 1e6, "* L: soft-cap of the scores; 0: none"),
        OPT_FLAG(0, "attn_bias", &c->attn_bias, "* L: q, k and v have biases"),
        OPT_FLAG(0, "attn_out_bias", &c->attn_out_bias, "* L: the projection out has a bias"),
        OPT_INT(0, "window", "N", &c->window, 0, 1 << 30, "L: keys that a query sees, itself counted"),
        OPT_INT(0, "d_ff", "N", &c->d_ff, 0, big, "-: inner width"),
        OPT_CHOICE(0, "activation", &c->activation, "gelu|gelu_tanh|relu2|silu", "-: activation"),
        OPT_FLAG(0, "mlp_gated", &c->mlp_gated, "-: gated (SwiGLU is silu, GeGLU gelu)"),
        OPT_FLAG(0, "mlp_bias", &c->mlp_bias, "-: the linears have biases"),
        OPT_CHOICE(0, "init", &c->init, "fan_in|normal|lecun", "how linears begin"),
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
    const double caps[2] = { c->softcap, c->attn_softcap };
    for (int i = 0; i < 2; i++)
        if (caps[i] > 0 && caps[i] < 1e-3)
            return err_set("'%s' %g is below 0.001 (0: none)", i ? "attn_softcap" : "softcap", caps[i]);
    bool attention = strpbrk(c->pattern, "*L") != NULL;
    if (strchr(c->pattern, 'M')) {
        if (c->n_heads < 1)
            return err_set("'n_heads' is missing (the pattern has M)");
        if (c->n_heads % c->n_groups)
            return err_set("'n_groups' %lld does not divide 'n_heads' %lld", (long long)c->n_groups,
                           (long long)c->n_heads);
        if (c->dt_max > 0 && c->dt_max < c->dt_min)
            return err_set("'dt_max' %g is less than 'dt_min' %g", c->dt_max, c->dt_min);
    }
    if (strchr(c->pattern, 'S')) {
        if (c->d_inner < 1)
            return err_set("'d_inner' is missing (the pattern has S)");
        if (c->dt_rank == 0)
            c->dt_rank = (c->d_model + 15) / 16;
    }
    if (strchr(c->pattern, 'R')) {
        if (c->lru_width < 1 || c->lru_blocks < 1)
            return err_set("'lru_width' or 'lru_blocks' is missing (the pattern has R)");
        if (c->lru_width % c->lru_blocks)
            return err_set("'lru_blocks' %lld does not divide 'lru_width' %lld", (long long)c->lru_blocks,
                           (long long)c->lru_width);
    }
    if (attention) {
        if (c->attn_heads < 1 || c->attn_headdim < 1)
            return err_set("'attn_heads' or 'attn_headdim' is missing (the pattern has attention)");
        if (c->attn_kv_heads < 1)
            c->attn_kv_heads = c->attn_heads;
        if (c->attn_heads % c->attn_kv_heads)
            return err_set("'attn_kv_heads' %lld does not divide 'attn_heads' %lld", (long long)c->attn_kv_heads,
                           (long long)c->attn_heads);
        if (c->rotary_dim % 2 || c->rotary_dim > c->attn_headdim)
            return err_set("'rotary_dim' %lld is odd or exceeds 'attn_headdim' %lld", (long long)c->rotary_dim,
                           (long long)c->attn_headdim);
    }
    if (strchr(c->pattern, 'L') && c->window < 1)
        return err_set("'window' is missing (the pattern has L)");
    if (strchr(c->pattern, '-') && c->d_ff < 1)
        return err_set("'d_ff' is missing (the pattern has -)");
    /* Bounds what later sums and products of these numbers can be. */
    double widest = 3.0 * (double)c->d_ff + 2.0 * (double)c->n_heads * (double)(c->headdim + 1) +
                    2.0 * (double)c->n_groups * (double)c->d_state + 4.0 * (double)c->attn_heads * (double)c->attn_headdim +
                    (double)c->d_inner * (4.0 + (double)c->d_state) + (double)c->dt_rank + 5.0 * (double)c->lru_width;
    double square = (double)c->lru_width * (double)c->lru_width + (double)c->d_inner * (double)c->dt_rank;
    if ((widest * (double)c->layers + 2.0 * (double)c->vocab) * (double)c->d_model + square * (double)c->layers > 1e15)
        return err_set("the model has over 1e15 parameters");
    return 0;
}

int config_try_load(struct config *c, const char *name)
{
    struct opt rows[CONFIG_ROWS + 1];
    config_table(c, rows);
    size_t len = strlen(name);
    bool is_file = strchr(name, '/') || (len > 5 && strcmp(name + len - 5, ".conf") == 0);
    char *file = xasprintf("%s.conf", name), *path = is_file ? xstrdup(name) : file_find_data("SSM_MODELS", "models", file);
    free(file);
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
        if (attrs_find(in, o->name) == NULL) /* written before the number was known: its default */
            continue;
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
