/* ssm.c - models of state-spaces/mamba: its names and its config.json, for Mamba-1 and Mamba-2
 * SPDX-License-Identifier: MIT
 *
 * The vocabulary is padded up to a multiple; files hold lm_head.weight though it is the embedding. The
 * epsilon of the norms is no key but always 1e-5. Defaults are those of mamba_ssm's MambaConfig, Mamba and
 * Mamba2.
 */
#include "common/base/mem.h"
#include "family.h"

static void rank(struct keys *k, struct config *c)
{
    const char *text = NULL;
    const struct json *v = keys_value(k, "dt_rank");
    if (json_kind(v) == JSON_TEXT) {
        keys_str(k, "dt_rank", &text);
        if (text && strcmp(text, "auto") != 0)
            keys_fail(k, "'dt_rank' is \"%.40s\", not a number or \"auto\"", text);
    } else
        keys_int(k, "dt_rank", 1, KEYS_BIG, &c->dt_rank);
}

static void mixer(struct keys *k, struct config *c, bool two)
{
    int64_t expand = 2, inner = two ? c->n_heads * c->headdim : c->d_inner;
    c->d_state = keys_writing(k) ? c->d_state : two ? 128 : 16;
    keys_int(k, "d_state", 1, KEYS_BIG, &c->d_state);
    keys_int(k, "d_conv", 1, KEYS_BIG, &c->d_conv);
    if (keys_writing(k)) {
        expand = inner / c->d_model;
        if (expand * c->d_model != inner)
            keys_fail(k, "no place for an inner width of %lld: it must be a multiple of 'd_model' %lld",
                      (long long)inner, (long long)c->d_model);
    }
    keys_int(k, "expand", 1, KEYS_BIG, &expand);
    keys_flag(k, "bias", &c->mixer_bias);
    keys_flag(k, "conv_bias", &c->conv_bias);
    inner = expand * c->d_model;
    if (!two) {
        c->d_inner = inner;
        rank(k, c);
    } else {
        keys_int(k, "headdim", 1, KEYS_BIG, &c->headdim);
        keys_int(k, "ngroups", 1, KEYS_BIG, &c->n_groups);
        if (!k->failed && inner % c->headdim)
            keys_fail(k, "'headdim' %lld does not divide the inner width %lld", (long long)c->headdim,
                      (long long)inner);
        c->n_heads = inner / c->headdim;
        keys_int(k, "chunk_size", 1, 4096, &c->chunk);
        keys_limit(k, "dt_limit", c);
        keys_none(k, "d_ssm D_has_hdim norm_before_gate");
        if (keys_has(k, "rmsnorm"))
            keys_only_flag(k, "rmsnorm", true);
        if (keys_has(k, "activation"))
            keys_only_str(k, "activation", "silu");
    }
    keys_skip(
        k,
        "dt_min dt_max dt_init dt_scale dt_init_floor A_init_range use_fast_path use_mem_eff_path conv_init");
}

static void keys(struct keys *k, struct config *c)
{
    const char *layer = "Mamba1";
    bool two = keys_writing(k) && *c->pattern == 'M', rms = true;
    if (!keys_writing(k)) {
        c->tied = true;
        c->norm_eps = 1e-5;
        c->vocab_multiple = 8;
    }
    keys_need_int(k, "d_model", 1, KEYS_BIG, &c->d_model);
    keys_none(k, "d_intermediate attn_layer_idx attn_cfg");
    struct keys inner = keys_enter(k, "ssm_cfg");
    if (keys_writing(k))
        json_put_str(inner.out, "layer", two ? "Mamba2" : "Mamba1");
    keys_str(&inner, "layer", &layer);
    if (!keys_writing(k))
        two = strcmp(layer, "Mamba2") == 0;
    if (!two && strcmp(layer, "Mamba1") != 0)
        keys_fail(&inner, "'layer' is \"%.40s\", which is not supported", layer);
    mixer(&inner, c, two);
    keys_refuse_unknown(&inner);
    keys_leave(k, &inner);
    keys_repeat(k, "n_layer", two ? "M" : "S", c);
    keys_need_int(k, "vocab_size", 1, 1 << 30, &c->vocab);
    keys_int(k, "pad_vocab_size_multiple", 1, 65536, &c->vocab_multiple);
    keys_flag(k, "tie_embeddings", &c->tied);
    if (keys_writing(k))
        rms = c->norm == CONFIG_NORM_RMS;
    keys_flag(k, "rms_norm", &rms);
    c->norm = keys_writing(k) ? c->norm : rms ? CONFIG_NORM_RMS : CONFIG_NORM_LAYER;
    keys_skip(k, "residual_in_fp32 fused_add_norm");
    if (keys_writing(k)) { /* what MambaConfig asks for and is always so */
        json_put_int(k->out, "d_intermediate", 0);
        json_put(k->out, "attn_layer_idx", json_make_list());
        json_put(k->out, "attn_cfg", json_make_map());
        json_put_bool(k->out, "residual_in_fp32", true);
        json_put_bool(k->out, "fused_add_norm", true);
    }
}

static const struct rule rules[] = {
    { NULL, "embeddings.", "backbone.embedding.", ROWS_SAME },
    { NULL, "embeddings.", "backbone.embeddings.", ROWS_SAME },
    { NULL, "norm_f.", "backbone.norm_f.", ROWS_SAME },
    { NULL, "lm_head.", "lm_head.", ROWS_SAME },
    { "MS", "", "backbone.layers.#.", ROWS_SAME },
    { NULL, NULL, NULL, ROWS_SAME },
};
static const char *const nothing[] = { NULL };

extern const struct family family_mamba_ssm;
const struct family family_mamba_ssm = { .name = "mamba-ssm",
                                         .untyped = true,
                                         .head_always = true,
                                         .per_layer = 1,
                                         .prefix = "",
                                         .passed_over = nothing,
                                         .rules = rules,
                                         .keys = keys };
