/* transformers.c - families of Hugging Face's transformers: config.json and names
 * SPDX-License-Identifier: MIT
 *
 * Keys, defaults and quirks as transformers 5.23.0 reads them; tests/oracle/NOTES.md has what was found out
 * and how, tests/golden the models that prove it.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "common/base/half.h"
#include "common/base/mem.h"
#include "family.h"
#include "kernels/backend.h"

static const char *const rotary[] = { "rotary_emb.inv_freq",
                                      NULL }; /* kept by old releases, computed by all */

/* Keys that every one of them has. */
static void common_keys(struct keys *k, struct config *c, bool tied)
{
    keys_need_int(k, "hidden_size", 1, KEYS_BIG, &c->d_model);
    keys_rows(k, "vocab_size", c);
    if (!keys_writing(k)) {
        c->tied = tied;
        c->norm = CONFIG_NORM_RMS;
        c->d_conv = 4;
        c->conv_bias = true;
    }
    keys_eod(k, "eos_token_id", c);
    keys_none(k,
              "quantization_config compression_config pruned_heads tie_encoder_decoder add_cross_attention "
              "is_encoder_decoder per_layer_config sliding_window");
    if (keys_writing(k)) { /* else their defaults would count */
        json_put_null(k->out, "bos_token_id");
        json_put_null(k->out, "pad_token_id");
    }
}

/* A width that must be a whole multiple of the model's there. */
static int64_t expansion(struct keys *k, const struct config *c, int64_t inner)
{
    if (keys_writing(k) && inner % c->d_model)
        keys_fail(k, "no place for an inner width of %lld: it must be a multiple of 'd_model' %lld",
                  (long long)inner, (long long)c->d_model);
    return keys_writing(k) ? inner / c->d_model : 2;
}

static void check_expansion(struct keys *k, const struct config *c, int64_t expand, const char *key)
{
    if (!k->failed && expand * c->d_model != c->n_heads * c->headdim)
        keys_fail(k, "'%s' %lld times the width %lld is not %lld heads of %lld", key, (long long)expand,
                  (long long)c->d_model, (long long)c->n_heads, (long long)c->headdim);
}

/* Rotary position embedding: rope_parameters of transformers 5, or its parts at the top. `top`: a factor
 * there counts. */
static void rope(struct keys *k, struct config *c, bool top)
{
    double base = keys_writing(k) ? c->rope_base : 10000, factor = 0.5, ignored;
    if (keys_writing(k)) {
        factor = (double)c->rotary_dim / (double)c->attn_headdim;
        while (factor < 1 && (int64_t)((double)c->attn_headdim * factor) < c->rotary_dim)
            factor = nextafter(factor, 1);
        if (c->rotary_dim == 0)
            keys_fail(k, "no place for 'rotary_dim' 0");
    }
    keys_real(k, "rope_theta", 1, 1e12, &base);
    keys_none(k, "rope_scaling");
    keys_real(k, "partial_rotary_factor", 0, 1, top || keys_writing(k) ? &factor : &ignored);
    if (keys_writing(k) || keys_has(k, "rope_parameters")) {
        struct keys inner = keys_enter(k, "rope_parameters");
        keys_only_str(&inner, "rope_type", "default");
        keys_skip(&inner, "type");
        keys_real(&inner, "rope_theta", 1, 1e12, &base);
        keys_real(&inner, "partial_rotary_factor", 0, 1, &factor);
        keys_refuse_unknown(&inner);
        keys_leave(k, &inner);
    }
    c->rope_base = base;
    c->rotary_dim = (int64_t)((double)c->attn_headdim * factor);
    if (!k->failed && (c->rotary_dim < 2 || c->rotary_dim % 2))
        keys_fail(k, "'partial_rotary_factor' %g of %lld dimensions is no even number above 0", factor,
                  (long long)c->attn_headdim);
}

static void heads(struct keys *k, struct config *c, int64_t kv)
{
    keys_need_int(k, "num_attention_heads", 1, KEYS_BIG, &c->attn_heads);
    if (!keys_writing(k))
        c->attn_kv_heads = kv ? kv : c->attn_heads;
    keys_int(k, "num_key_value_heads", 1, KEYS_BIG, &c->attn_kv_heads);
    if (!keys_writing(k) && !k->failed)
        c->attn_headdim = c->d_model / c->attn_heads;
}

static void both_biases(struct keys *k, struct config *c)
{
    if (keys_writing(k) && c->attn_bias != c->attn_out_bias)
        keys_fail(k, "no place for 'attn_out_bias' %s beside 'attn_bias' %s", c->attn_out_bias ? "yes" : "no",
                  c->attn_bias ? "yes" : "no");
    keys_flag(k, "attention_bias", &c->attn_bias);
    c->attn_out_bias = c->attn_bias;
}

static const char fresh[] = /* how weights begin, and dropout: training from scratch only */
    "initializer_range rescale_prenorm_residual time_step_max time_step_floor time_step_scale "
    "time_step_init_scheme "
    "attention_dropout hidden_dropout residual_in_fp32 use_mamba_kernels use_mambapy use_associative_scan "
    "use_falcon_mambapy mamba_ssm_cache_dtype is_mamba_ssm_cache_fp32 mamba_dt_max mamba_dt_init_floor";

/* ---- mamba ---- */

/* What the conversion of state-spaces' models left in config.json. */
static void state_spaces(struct keys *k, const struct config *c)
{
    keys_same_int(k, "d_model", c->d_model);
    keys_same_int(k, "n_layer", k->failed ? 0 : (int64_t)strlen(c->pattern));
    keys_none(k, "ssm_cfg attn_cfg attn_layer_idx d_intermediate");
    keys_skip(k, "d_inner fused_add_norm pad_vocab_size_multiple");
}

static void mamba_keys(struct keys *k, struct config *c)
{
    common_keys(k, c, true);
    keys_repeat(k, "num_hidden_layers", "S", c);
    int64_t expand = expansion(k, c, c->d_inner);
    keys_int(k, "expand", 1, KEYS_BIG, &expand);
    c->d_inner = expand * c->d_model;
    if (keys_writing(k)) /* read by no program, but written by theirs */
        json_put_int(k->out, "intermediate_size", c->d_inner);
    keys_need_int(k, "state_size", 1, KEYS_BIG, &c->d_state);
    keys_int(k, "conv_kernel", 1, KEYS_BIG, &c->d_conv);
    if (json_kind(keys_value(k, "time_step_rank")) == JSON_TEXT)
        keys_only_str(k, "time_step_rank", "auto");
    else
        keys_int(k, "time_step_rank", 1, KEYS_BIG, &c->dt_rank);
    keys_flag(k, "use_bias", &c->mixer_bias);
    keys_flag(k, "use_conv_bias", &c->conv_bias);
    keys_real(k, "layer_norm_epsilon", 1e-12, 1, &c->norm_eps);
    keys_flag(k, "tie_word_embeddings", &c->tied);
    keys_only_str(k, "hidden_act", "silu");
    if (!keys_writing(k))
        keys_only_flag(k, "rms_norm", true);
    keys_skip(k, "intermediate_size time_step_min");
    state_spaces(k, c);
    keys_skip(k, fresh);
}

#define BACKBONE                                                                                             \
    { NULL, "embeddings.", "backbone.embeddings.", ROWS_SAME },                                              \
        { NULL, "embeddings.", "backbone.embedding.", ROWS_SAME },                                           \
        { NULL, "norm_f.", "backbone.norm_f.", ROWS_SAME },                                                  \
    {                                                                                                        \
        NULL, "lm_head.", "lm_head.", ROWS_SAME                                                              \
    }
#define RULES_END                                                                                            \
    {                                                                                                        \
        NULL, NULL, NULL, ROWS_SAME                                                                          \
    }

static const struct rule mamba_rules[] = { BACKBONE,
                                           { "S", "", "backbone.layers.#.", ROWS_SAME },
                                           RULES_END };
extern const struct family family_mamba;
const struct family family_mamba = { .name = "mamba",
                                     .architecture = "MambaForCausalLM",
                                     .per_layer = 1,
                                     .prefix = "",
                                     .passed_over = rotary,
                                     .rules = mamba_rules,
                                     .keys = mamba_keys };

/* ---- mamba2 ---- */

static void mamba2_keys(struct keys *k, struct config *c)
{
    common_keys(k, c, false);
    keys_repeat(k, "num_hidden_layers", "M", c);
    if (!keys_writing(k)) {
        c->n_heads = 128;
        c->d_state = 128;
        c->n_groups = 8;
    }
    keys_int(k, "num_heads", 1, KEYS_BIG, &c->n_heads);
    keys_int(k, "head_dim", 1, KEYS_BIG, &c->headdim);
    keys_int(k, "state_size", 1, KEYS_BIG, &c->d_state);
    keys_int(k, "n_groups", 1, KEYS_BIG, &c->n_groups);
    int64_t expand = expansion(k, c, c->n_heads * c->headdim);
    keys_int(k, "expand", 1, KEYS_BIG, &expand);
    check_expansion(k, c, expand, "expand");
    keys_int(k, "conv_kernel", 1, KEYS_BIG, &c->d_conv);
    keys_int(k, "chunk_size", 1, 4096, &c->chunk);
    keys_limit(k, "time_step_limit", c);
    keys_flag(k, "use_bias", &c->mixer_bias);
    keys_flag(k, "use_conv_bias", &c->conv_bias);
    keys_real(k, "layer_norm_epsilon", 1e-12, 1, &c->norm_eps);
    keys_flag(k, "tie_word_embeddings", &c->tied);
    keys_only_str(k, "hidden_act", "silu");
    if (!keys_writing(k))
        keys_only_flag(k, "rms_norm", true);
    /* norm_before_gate: their code norms after the gate whatever it says, and so were the released models
     * made */
    keys_skip(k, "intermediate_size time_step_min time_step_rank norm_before_gate");
    state_spaces(k, c);
    keys_skip(k, fresh);
}

static const struct rule mamba2_rules[] = { BACKBONE,
                                            { "M", "", "backbone.layers.#.", ROWS_SAME },
                                            RULES_END };
extern const struct family family_mamba2;
const struct family family_mamba2 = { .name = "mamba2",
                                      .architecture = "Mamba2ForCausalLM",
                                      .per_layer = 1,
                                      .prefix = "",
                                      .passed_over = rotary,
                                      .rules = mamba2_rules,
                                      .keys = mamba2_keys };

/* ---- nemotron_h ---- */

/* The order of the sub-layers: a list of words, which wins, or a string of symbols. */
static void nemotron_h_layers(struct keys *k, struct config *c)
{
    static const struct {
        const char *word;
        char symbol;
    } words[] = { { "linear_attention", 'M' }, { "mamba", 'M' },     { "mamba2", 'M' },
                  { "full_attention", '*' },   { "attention", '*' }, { "mlp", '-' } };
    const char *text = NULL;
    const struct json *list = keys_value(k, "layers_block_type|layer_types");
    keys_str(k, "hybrid_override_pattern", &text);
    if (k->failed)
        return;
    if (keys_writing(k)) {
        json_put_str(k->out, "hybrid_override_pattern", c->pattern);
        json_put_int(k->out, "num_hidden_layers", c->layers);
        return;
    }
    int64_t n = list ? (int64_t)json_count(list) : text ? (int64_t)strlen(text) : 0, said = n;
    if (!list && !text)
        keys_fail(k, "'hybrid_override_pattern' is missing");
    char *pattern = keys_make_pattern(k, n, c);
    for (int64_t i = 0; pattern && !k->failed && i < n; i++) {
        const char *word = NULL;
        pattern[i] = list ? '?' : text[i];
        if (list && json_try_str_of(json_item(list, (size_t)i), "layers_block_type", &word) < 0)
            keys_fail(k, "'layers_block_type' is no list of strings");
        for (size_t w = 0; word && w < sizeof words / sizeof *words; w++)
            if (strcmp(word, words[w].word) == 0)
                pattern[i] = words[w].symbol;
        if (!k->failed && !strchr("M*-", pattern[i])) {
            if (word)
                keys_fail(k, "layer %lld is \"%.40s\", which is not supported", (long long)i, word);
            else
                keys_fail(k, "layer %lld of 'hybrid_override_pattern' is '%c', which is not supported",
                          (long long)i, pattern[i]);
        }
    }
    keys_int(k, "num_hidden_layers", 1, KEYS_MAX_LAYERS, &said);
    if (!k->failed && said != n)
        keys_fail(k, "'num_hidden_layers' %lld is not the length of the pattern, %lld", (long long)said,
                  (long long)n);
}

static void nemotron_h_keys(struct keys *k, struct config *c)
{
    bool M = !keys_writing(k) || strchr(c->pattern, 'M'),
         attention = !keys_writing(k) || strchr(c->pattern, '*');
    bool mlp = !keys_writing(k) || strchr(c->pattern, '-');
    common_keys(k, c, false);
    nemotron_h_layers(k, c);
    if (!keys_writing(k)) {
        c->n_heads = 128, c->headdim = 64, c->d_state = 128, c->n_groups = 8, c->dt_min = 0.001;
        c->attn_heads = 32, c->attn_kv_heads = 8, c->attn_headdim = 128;
        c->d_ff = 21504, c->activation = ACT_RELU2;
    }
    if (M) {
        keys_int(k, "mamba_num_heads", 1, KEYS_BIG, &c->n_heads);
        keys_int(k, "mamba_head_dim", 1, KEYS_BIG, &c->headdim);
        keys_int(k, "ssm_state_size", 1, KEYS_BIG, &c->d_state);
        keys_int(k, "n_groups|mamba_n_groups", 1, KEYS_BIG, &c->n_groups);
        keys_int(k, "conv_kernel|mamba_d_conv", 1, KEYS_BIG, &c->d_conv);
        keys_int(k, "chunk_size|mamba_chunk_size", 1, 4096, &c->chunk);
        keys_flag(k, "use_conv_bias|mamba_conv_bias", &c->conv_bias);
        keys_flag(k, "use_bias", &c->mixer_bias);
        /* their code clamps at time_step_min and does not look at time_step_limit */
        keys_real(k, "time_step_min|mamba_dt_min", 0, 1e6, &c->dt_min);
        keys_only_str(k, "mamba_hidden_act", "silu");
    }
    if (attention) {
        keys_int(k, "num_attention_heads", 1, KEYS_BIG, &c->attn_heads);
        keys_int(k, "num_key_value_heads", 1, KEYS_BIG, &c->attn_kv_heads);
        keys_int(k, "attention_head_dim", 1, KEYS_BIG, &c->attn_headdim);
        keys_int(k, "head_dim", 1, KEYS_BIG, &c->attn_headdim);
    }
    if (mlp) {
        keys_int(k, "intermediate_size", 1, KEYS_BIG, &c->d_ff);
        keys_activation(k, "mlp_hidden_act", &c->activation);
        keys_flag(k, "mlp_bias", &c->mlp_bias);
    }
    keys_real(k, "layer_norm_epsilon", 1e-12, 1, &c->norm_eps);
    keys_same_real(k, "rms_norm_eps norm_eps", c->norm_eps);
    keys_none(k, "num_nextn_predict_layers rope_scaling");
    /* neither attention's biases nor a tied head are made there whatever these say; the tensors tell */
    keys_skip(k, "attention_bias mamba_proj_bias expand mamba_expand time_step_limit mamba_dt_limit "
                 "tie_word_embeddings "
                 "time_step_rank");
    /* experts, of which the pattern has none */
    keys_skip(
        k,
        "moe_intermediate_size moe_latent_size moe_shared_expert_intermediate_size moe_shared_expert_overlap "
        "mtp_layers_block_type mtp_hybrid_override_pattern n_group n_routed_experts n_shared_experts "
        "norm_topk_prob num_experts_per_tok output_router_logits routed_scaling_factor topk_group");
    keys_skip(k, "rope_theta partial_rotary_factor rope_parameters"); /* no position embedding at all */
    keys_skip(k, fresh);
    if (keys_writing(k))
        json_put_bool(k->out, "tie_word_embeddings", false);
}

static const struct rule nemotron_h_rules[] = {
    { NULL, "embeddings.", "backbone.embeddings.", ROWS_SAME },
    { NULL, "embeddings.", "model.embeddings.", ROWS_SAME },
    { NULL, "norm_f.", "backbone.norm_f.", ROWS_SAME },
    { NULL, "norm_f.", "model.norm_f.", ROWS_SAME },
    { NULL, "lm_head.", "lm_head.", ROWS_SAME },
    { "M*-", "", "backbone.layers.#.", ROWS_SAME },
    { "M*-", "", "model.layers.#.", ROWS_SAME },
    RULES_END,
};
extern const struct family family_nemotron_h;
const struct family family_nemotron_h = { .name = "nemotron_h",
                                          .architecture = "NemotronHForCausalLM",
                                          .per_layer = 1,
                                          .head_always = true,
                                          .unties = true,
                                          .prefix = "",
                                          .passed_over = rotary,
                                          .rules = nemotron_h_rules,
                                          .keys = nemotron_h_keys };

/* ---- nemotron ---- */

static void nemotron_keys(struct keys *k, struct config *c)
{
    common_keys(k, c, false);
    keys_repeat(k, "num_hidden_layers", "*-", c);
    heads(k, c, 0);
    keys_int(k, "head_dim", 1, KEYS_BIG, &c->attn_headdim);
    keys_same_int(k, "kv_channels", c->attn_headdim);
    rope(k, c, true);
    both_biases(k, c);
    keys_need_int(k, "intermediate_size", 1, KEYS_BIG, &c->d_ff);
    if (!keys_writing(k)) {
        c->activation = ACT_RELU2;
        c->norm = CONFIG_NORM_LAYER1P;
    }
    keys_activation(k, "hidden_act", &c->activation);
    keys_flag(k, "mlp_bias", &c->mlp_bias);
    keys_real(k, "norm_eps", 1e-12, 1, &c->norm_eps);
    keys_flag(k, "tie_word_embeddings", &c->tied);
    keys_skip(k, "rope_percent pretraining_tp"); /* the first: in some files, read by nobody */
    keys_skip(k, fresh);
}

static const struct rule nemotron_rules[] = {
    { NULL, "embeddings.", "model.embed_tokens.", ROWS_SAME },
    { NULL, "norm_f.", "model.norm.", ROWS_SAME },
    { NULL, "lm_head.", "lm_head.", ROWS_SAME },
    { "*", "norm.", "model.layers.#.input_layernorm.", ROWS_SAME },
    { "*", "mixer.", "model.layers.#.self_attn.", ROWS_SAME },
    { "-", "norm.", "model.layers.#.post_attention_layernorm.", ROWS_SAME },
    { "-", "mixer.", "model.layers.#.mlp.", ROWS_SAME },
    RULES_END,
};
extern const struct family family_nemotron;
const struct family family_nemotron = { .name = "nemotron",
                                        .architecture = "NemotronForCausalLM",
                                        .per_layer = 2,
                                        .prefix = "",
                                        .passed_over = rotary,
                                        .rules = nemotron_rules,
                                        .keys = nemotron_keys };

/* ---- bamba ---- */

/* Layers are Mamba-2 or attention, each with an MLP behind it. */
static void bamba_layers(struct keys *k, struct config *c)
{
    int64_t n = keys_writing(k) ? c->layers / 2 : 0;
    const char *const key = "attn_layer_indices";
    for (int64_t i = 0; keys_writing(k) && i < c->layers; i++)
        if (c->layers % 2 || !strchr(i % 2 ? "-" : "M*", c->pattern[i]))
            keys_fail(k, "no place for 'pattern' %.80s", c->pattern);
    keys_need_int(k, "num_hidden_layers", 1, KEYS_MAX_LAYERS / 2, &n);
    if (k->failed)
        return;
    if (keys_writing(k)) {
        struct json *list = json_make_list();
        for (int64_t i = 0; i < n; i++)
            if (c->pattern[2 * i] == '*')
                json_add_int(list, i);
        json_put(k->out, key, list);
        return;
    }
    char *pattern = keys_make_pattern(k, 2 * n, c);
    for (int64_t i = 0; pattern && i < 2 * n; i++)
        pattern[i] = i % 2 ? '-' : 'M';
    const struct json *list = keys_value(k, key);
    if (list && json_kind(list) != JSON_LIST)
        keys_fail(k, "'%s' is no list", key);
    for (size_t i = 0; pattern && !k->failed && i < json_count(list); i++) {
        int64_t at = 0;
        if (json_try_int_of(json_item(list, i), key, 0, n - 1, &at) < 0)
            keys_fail(k, "'%s' has a value that is not 0 to %lld", key, (long long)n - 1);
        pattern[2 * at] = '*';
    }
}

static void bamba_keys(struct keys *k, struct config *c)
{
    common_keys(k, c, false);
    bamba_layers(k, c);
    bool M = !k->failed && strchr(c->pattern, 'M'), attention = !k->failed && strchr(c->pattern, '*');
    if (!keys_writing(k)) {
        c->n_heads = 128, c->d_state = 256, c->n_groups = 1;
        c->attn_heads = 32;
        c->d_ff = 14336, c->activation = ACT_SILU, c->mlp_gated = true;
    }
    if (M) {
        int64_t expand = expansion(k, c, c->n_heads * c->headdim);
        keys_int(k, "mamba_expand", 1, KEYS_BIG, &expand);
        keys_int(k, "mamba_n_heads", 1, KEYS_BIG, &c->n_heads);
        if (!keys_writing(k) && !k->failed)
            c->headdim = expand * c->d_model / c->n_heads;
        if (json_kind(keys_value(k, "mamba_d_head")) == JSON_TEXT)
            keys_only_str(k, "mamba_d_head", "auto");
        else
            keys_int(k, "mamba_d_head", 1, KEYS_BIG, &c->headdim);
        check_expansion(k, c, expand, "mamba_expand");
        keys_int(k, "mamba_d_state", 1, KEYS_BIG, &c->d_state);
        keys_int(k, "mamba_n_groups", 1, KEYS_BIG, &c->n_groups);
        keys_int(k, "mamba_d_conv", 1, KEYS_BIG, &c->d_conv);
        keys_int(k, "mamba_chunk_size", 1, 4096, &c->chunk);
        keys_flag(k, "mamba_conv_bias", &c->conv_bias);
        keys_flag(k, "mamba_proj_bias", &c->mixer_bias);
        keys_limit(k, "time_step_limit", c);
    } else {
        keys_skip(k, "mamba_expand mamba_n_heads mamba_d_head mamba_d_state mamba_n_groups mamba_d_conv "
                     "mamba_chunk_size mamba_conv_bias mamba_proj_bias time_step_limit");
        if (keys_writing(k)) { /* they are held against each other even so */
            json_put_int(k->out, "mamba_expand", 2);
            json_put_int(k->out, "mamba_n_heads", 1);
            json_put_int(k->out, "mamba_d_head", 2 * c->d_model);
        }
    }
    if (attention) {
        int64_t turned;
        heads(k, c, 8);
        keys_int(k, "head_dim", 1, KEYS_BIG, &c->attn_headdim);
        rope(k, c, false);
        turned = c->rotary_dim;
        if (!keys_writing(k))
            keys_int(k, "attn_rotary_emb", 1, KEYS_BIG,
                     &turned); /* not read there, but it should be the same */
        if (!k->failed && turned != c->rotary_dim)
            keys_fail(k, "'attn_rotary_emb' %lld is not the %lld dimensions that are rotated",
                      (long long)turned, (long long)c->rotary_dim);
        both_biases(k, c);
    } else {
        keys_skip(
            k, "num_attention_heads num_key_value_heads head_dim attn_rotary_emb attention_bias rope_theta "
               "partial_rotary_factor rope_parameters rope_scaling");
        if (keys_writing(k)) {
            json_put_int(k->out, "num_attention_heads", 1);
            json_put_int(k->out, "num_key_value_heads", 1);
        }
    }
    keys_need_int(k, "intermediate_size", 1, KEYS_BIG, &c->d_ff);
    keys_only_str(k, "hidden_act", "silu");
    keys_flag(k, "mlp_bias", &c->mlp_bias);
    keys_real(k, "rms_norm_eps", 1e-12, 1, &c->norm_eps);
    keys_flag(k, "tie_word_embeddings", &c->tied);
    keys_skip(k, "z_loss_coefficient layer_types layers_block_type time_step_min");
    keys_skip(k, fresh);
}

static const struct rule bamba_rules[] = {
    { NULL, "embeddings.", "model.embed_tokens.", ROWS_SAME },
    { NULL, "norm_f.", "model.final_layernorm.", ROWS_SAME },
    { NULL, "lm_head.", "lm_head.", ROWS_SAME },
    { "M*", "norm.", "model.layers.#.input_layernorm.", ROWS_SAME },
    { "M", "mixer.", "model.layers.#.mamba.", ROWS_SAME },
    { "*", "mixer.", "model.layers.#.self_attn.", ROWS_SAME },
    { "-", "norm.", "model.layers.#.pre_ff_layernorm.", ROWS_SAME },
    { "-", "mixer.", "model.layers.#.feed_forward.", ROWS_SAME },
    RULES_END,
};
extern const struct family family_bamba;
const struct family family_bamba = { .name = "bamba",
                                     .architecture = "BambaForCausalLM",
                                     .per_layer = 2,
                                     .prefix = "",
                                     .passed_over = rotary,
                                     .rules = bamba_rules,
                                     .keys = bamba_keys };

/* ---- recurrent_gemma ---- */

/* Rounded to bf16, as their embedding's scale is in a model of any type. */
static double bf16(double x)
{
    float f = (float)x;
    uint16_t code;
    (void)half_to_bf16(&f, 1, &code);
    half_from_bf16(&code, 1, &f);
    return (double)f;
}

static void gemma_layers(struct keys *k, struct config *c)
{
    int64_t n = keys_writing(k) ? c->layers / 2 : 0;
    const char *const key = "block_types";
    for (int64_t i = 0; keys_writing(k) && i < c->layers; i++)
        if (c->layers % 2 || !strchr(i % 2 ? "-" : "RL", c->pattern[i]))
            keys_fail(k, "no place for 'pattern' %.80s", c->pattern);
    keys_need_int(k, "num_hidden_layers", 1, KEYS_MAX_LAYERS / 2, &n);
    if (k->failed)
        return;
    if (keys_writing(k)) {
        struct json *list = json_make_list();
        for (int64_t i = 0; i < n; i++)
            json_add_str(list, c->pattern[2 * i] == 'L' ? "attention" : "recurrent");
        json_put(k->out, key, list);
        return;
    }
    const struct json *list = keys_value(k, key);
    list = list ? list : keys_value(k, "_block_types"); /* where some files have nothing else */
    int64_t types = (int64_t)json_count(list);
    if (list && (json_kind(list) != JSON_LIST || types < 1))
        keys_fail(k, "'%s' is no list of words", key);
    char *pattern = keys_make_pattern(k, 2 * n, c);
    for (int64_t i = 0; pattern && !k->failed && i < n; i++) { /* the list is gone through again and again */
        const char *word = i % 3 == 2 ? "attention" : "recurrent";
        if (list && json_try_str_of(json_item(list, (size_t)(i % types)), key, &word) < 0)
            keys_fail(k, "'%s' is no list of words", key);
        else if (strcmp(word, "attention") != 0 && strcmp(word, "recurrent") != 0)
            keys_fail(k, "'%s' has \"%.40s\", which is not supported", key, word);
        pattern[2 * i] = *word == 'a' ? 'L' : 'R';
        pattern[2 * i + 1] = '-';
    }
}

static void gemma_attention(struct keys *k, struct config *c)
{
    bool wrote = keys_writing(k);
    heads(k, c, 0);
    int64_t width = c->attn_headdim;
    keys_int(k, "head_dim", 1, KEYS_BIG, &width);
    if (!k->failed && (width != c->attn_headdim || width * c->attn_heads != c->d_model))
        keys_fail(k, "'head_dim' %lld is not the width %lld over %lld heads", (long long)width,
                  (long long)c->d_model, (long long)c->attn_heads);
    if (wrote && strchr(c->pattern, 'R') && c->lru_blocks != c->attn_heads)
        keys_fail(k, "no place for 'lru_blocks' %lld beside 'attn_heads' %lld", (long long)c->lru_blocks,
                  (long long)c->attn_heads);
    rope(k, c, true);
    keys_flag(k, "attention_bias", &c->attn_bias);
    if (!wrote) {
        c->window = 2048;
        c->lru_blocks = c->attn_heads;
        c->attn_out_bias = true;
    }
    keys_int(k, "attention_window_size", 1, 1 << 30, &c->window);
}

static void gemma_keys(struct keys *k, struct config *c)
{
    bool wrote = keys_writing(k);
    int64_t wide = 2 * c->d_ff;
    common_keys(k, c, true);
    gemma_layers(k, c);
    if (!k->failed && strchr(c->pattern, 'L')) {
        gemma_attention(k, c);
    } else {
        keys_need_int(k, "num_attention_heads", 1, KEYS_BIG, &c->lru_blocks);
        keys_skip(k, "num_key_value_heads head_dim attention_bias attention_window_size rope_theta "
                     "partial_rotary_factor "
                     "rope_parameters rope_scaling");
    }
    if (!wrote) {
        c->lru_width = c->d_model;
        c->mixer_bias = c->mlp_bias = c->mlp_gated = true;
        c->norm = CONFIG_NORM_RMS1P;
        c->norm_eps = 1e-6;
        c->softcap = 30;
        c->embed_scale = bf16(sqrt((double)c->d_model));
        c->activation = ACT_GELU_TANH;
    }
    if (!k->failed && strchr(c->pattern, 'R')) {
        keys_int(k, "lru_width", 1, KEYS_BIG, &c->lru_width);
        keys_int(k, "conv1d_width", 1, KEYS_BIG, &c->d_conv);
    } else
        keys_skip(k, "lru_width conv1d_width");
    keys_need_int(k, "intermediate_size", 2, 2 * KEYS_BIG, &wide);
    c->d_ff = wide / 2;
    keys_only_str(k, "hidden_activation", "gelu_pytorch_tanh");
    keys_real(k, "logits_soft_cap", wrote ? 0 : 1e-6, 1e6, &c->softcap);
    keys_real(k, "rms_norm_eps", 1e-12, 1, &c->norm_eps);
    keys_flag(k, "tie_word_embeddings", &c->tied);
    if (!wrote)
        keys_only_flag(k, "embeddings_scale_by_sqrt_dim", true);
    keys_skip(k, "w_init_variance_scale final_w_init_variance_scale");
    keys_skip(k, fresh);
}

static const struct rule gemma_rules[] = {
    { NULL, "embeddings.", "model.embed_tokens.", ROWS_SAME },
    { NULL, "norm_f.", "model.final_norm.", ROWS_SAME },
    { NULL, "lm_head.", "lm_head.", ROWS_SAME },
    { "RL", "norm.", "model.layers.#.temporal_pre_norm.", ROWS_SAME },
    { "R", "mixer.conv1d.", "model.layers.#.temporal_block.conv_1d.", ROWS_SAME },
    { "R", "mixer.rg_lru.a_param", "model.layers.#.temporal_block.rg_lru.recurrent_param", ROWS_SAME },
    { "R", "mixer.rg_lru.input_gate.", "model.layers.#.temporal_block.rg_lru.input_gate_", ROWS_SAME },
    { "R", "mixer.rg_lru.recurrent_gate.", "model.layers.#.temporal_block.rg_lru.recurrent_gate_",
      ROWS_SAME },
    { "RL", "mixer.", "model.layers.#.temporal_block.", ROWS_SAME },
    { "-", "norm.", "model.layers.#.channel_pre_norm.", ROWS_SAME },
    { "-", "mixer.", "model.layers.#.mlp_block.", ROWS_SAME },
    RULES_END,
};
extern const struct family family_recurrent_gemma;
const struct family family_recurrent_gemma = { .name = "recurrent_gemma",
                                               .architecture = "RecurrentGemmaForCausalLM",
                                               .per_layer = 2,
                                               .prefix = "",
                                               .passed_over = rotary,
                                               .rules = gemma_rules,
                                               .keys = gemma_keys };
