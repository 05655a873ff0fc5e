/* megatron.c - models of Megatron-LM: names, and numbers out of the arguments of the run that saved them
 * SPDX-License-Identifier: MIT
 *
 * Read only. Two kinds: GPTs, whose layers are attention and MLP, and hybrids, whose layers are one symbol
 * each. What arguments of older releases leave out the shapes tell. Time steps are not clamped, gated norms
 * go by group.
 */
#include <stdio.h>
#include <string.h>

#include "family.h"
#include "kernels/backend.h"

static const struct foreign_tensor *layer_tensor(const struct keys *k, int64_t layer, const char *leaf)
{
    char name[160];
    snprintf(name, sizeof name, "model.decoder.layers.%lld.%s", (long long)layer, leaf);
    return archive_find(k->args, name);
}

/* A GPT's layer is an attention and an MLP. */
static bool is_gpt(const struct keys *k)
{
    return layer_tensor(k, 0, "self_attention.linear_qkv.weight") &&
           layer_tensor(k, 0, "mlp.linear_fc1.weight");
}

/* The symbols as the tensors tell them. */
static void pattern_of_tensors(struct keys *k, int64_t n, struct config *c)
{
    char *pattern = keys_make_pattern(k, n, c);
    for (int64_t i = 0; pattern && !k->failed && i < n; i++) {
        bool M = layer_tensor(k, i, "mixer.in_proj.weight"),
             mlp = layer_tensor(k, i, "mlp.linear_fc1.weight");
        bool attention = layer_tensor(k, i, "self_attention.linear_qkv.weight");
        if (M + attention + mlp != 1)
            keys_fail(k, "layer %lld of %lld is not one of Mamba-2, attention and MLP", (long long)i,
                      (long long)n);
        pattern[i] = M ? 'M' : attention ? '*' : '-';
    }
}

static void layers(struct keys *k, struct config *c)
{
    const char *text = NULL;
    int64_t n = 0;
    if (is_gpt(k)) {
        keys_repeat(k, "num_layers", "*-", c);
        return;
    }
    keys_need_int(k, "num_layers", 1, KEYS_MAX_LAYERS, &n);
    keys_str(k, "hybrid_override_pattern|hybrid_layer_pattern", &text);
    if (k->failed)
        return;
    if (!text || !*text) {
        pattern_of_tensors(k, n, c);
        return;
    }
    if ((int64_t)strlen(text) != n || strspn(text, "M*-") != (size_t)n) {
        keys_fail(k, "'args.hybrid_override_pattern' is '%.80s', which is not %lld symbols of M, * and -",
                  text, (long long)n);
        return;
    }
    char *pattern = keys_make_pattern(k, n, c);
    if (pattern)
        memcpy(pattern, text, (size_t)n);
}

static void mamba(struct keys *k, struct config *c)
{
    int64_t at = strchr(c->pattern, 'M') - c->pattern;
    const struct foreign_tensor *A = layer_tensor(k, at, "mixer.A_log"),
                                *conv = layer_tensor(k, at, "mixer.conv1d.weight");
    const struct foreign_tensor *out = layer_tensor(k, at, "mixer.out_proj.weight");
    if (!A || !conv || !out || A->ndim != 1 || conv->ndim != 3 || out->ndim != 2 || A->elements < 1) {
        keys_fail(
            k,
            "layer %lld has no 'mixer.A_log', 'mixer.conv1d.weight' and 'mixer.out_proj.weight' of a Mamba-2 "
            "layer",
            (long long)at);
        return;
    }
    c->n_heads = A->shape[0];
    c->headdim = out->shape[1] / A->shape[0];
    c->d_conv = conv->shape[2];
    c->d_state = 128;
    c->n_groups = 8;
    keys_int(k, "mamba_state_dim", 1, KEYS_BIG, &c->d_state);
    keys_int(k, "mamba_head_dim", 1, KEYS_BIG, &c->headdim);
    keys_int(k, "mamba_num_groups", 1, KEYS_BIG, &c->n_groups);
    c->mixer_bias = layer_tensor(k, at, "mixer.in_proj.bias") != NULL;
    c->conv_bias = layer_tensor(k, at, "mixer.conv1d.bias") != NULL;
}

static void attention(struct keys *k, struct config *c, bool bias)
{
    bool grouped = false, qkv_bias = false, rotate = false;
    const char *position = NULL;
    double share = 1;
    keys_need_int(k, "num_attention_heads", 1, KEYS_BIG, &c->attn_heads);
    keys_flag(k, "group_query_attention", &grouped);
    c->attn_kv_heads = c->attn_heads;
    if (grouped)
        keys_need_int(k, "num_query_groups", 1, KEYS_BIG, &c->attn_kv_heads);
    if (!k->failed)
        c->attn_headdim = c->d_model / c->attn_heads;
    keys_int(k, "kv_channels", 1, KEYS_BIG, &c->attn_headdim);
    keys_flag(k, "add_qkv_bias", &qkv_bias);
    c->attn_bias = bias || qkv_bias;
    c->attn_out_bias = bias;
    keys_str(k, "position_embedding_type", &position);
    keys_flag(k, "use_rotary_position_embeddings", &rotate); /* the older way to say it */
    if (k->failed)
        return;
    if (position && strcmp(position, "none") != 0 && strcmp(position, "rope") != 0 && !rotate) {
        keys_fail(k, "'args.position_embedding_type' is '%.40s', which is not supported", position);
        return;
    }
    rotate |= position && strcmp(position, "rope") == 0;
    if (!rotate)
        return;
    keys_real(k, "rotary_percent", 0, 1, &share);
    keys_real(k, "rotary_base", 1, 1e12, &c->rope_base);
    keys_none(k, "rotary_interleaved use_rope_scaling rotary_seq_len_interpolation_factor");
    c->rotary_dim = (int64_t)((double)c->attn_headdim * share);
}

static void mlp(struct keys *k, struct config *c, bool bias)
{
    bool swiglu = false, squared = false, tanh_form = false, fused = true;
    c->d_ff = 4 * c->d_model;
    keys_int(k, "ffn_hidden_size", 1, KEYS_BIG, &c->d_ff);
    keys_flag(k, "swiglu", &swiglu);
    keys_flag(k, "squared_relu", &squared);
    keys_flag(k, "openai_gelu", &tanh_form);
    keys_flag(k, "bias_gelu_fusion", &fused);
    keys_none(k, "quick_geglu quick_gelu onnx_safe");
    c->mlp_bias = bias;
    c->mlp_gated = swiglu;
    /* the kernel that adds a bias and takes the GELU has the tanh form; without biases it is not used */
    c->activation = swiglu                         ? ACT_SILU
                    : squared                      ? ACT_RELU2
                    : tanh_form || (bias && fused) ? ACT_GELU_TANH
                                                   : ACT_GELU;
}

/* args has the padded size; the tokenizer's, if it is there and leads to the same number of rows. */
static void vocabulary(struct keys *k, struct config *c)
{
    const struct foreign_tensor *table = archive_find(k->args, "model.embedding.word_embeddings.weight");
    int64_t rows = table && table->ndim == 2 ? table->shape[0] : 0, real = 0, multiple = 1, ranks = 1;
    keys_int(k, "padded_vocab_size", 1, 1 << 30, &rows);
    keys_int(k, "vocab_size", 1, 1 << 30, &real);
    keys_int(k, "make_vocab_size_divisible_by", 1, 65536, &multiple);
    keys_int(k, "tensor_model_parallel_size", 1, 65536, &ranks);
    c->vocab = real;
    c->vocab_multiple = multiple * ranks;
    if (real < 1 || c->vocab_multiple > 65536 || config_vocab_rows(c) != rows) {
        c->vocab = rows;
        c->vocab_multiple = 1;
    }
}

static void keys(struct keys *k, struct config *c)
{
    bool plus_one = false, bias = true, untied = false;
    const char *norm = "LayerNorm";
    if (!k->args) {
        keys_fail(k, keys_writing(k) ? "is read only" : "is not configured by a config.json");
        return;
    }
    if (!keys_has(k, "num_layers"))
        keys_fail(k, "holds no arguments of Megatron-LM ('args.num_layers')");
    keys_need_int(k, "hidden_size", 1, KEYS_BIG, &c->d_model);
    keys_flag(k, "add_bias_linear", &bias);
    keys_flag(k, "untie_embeddings_and_output_weights", &untied);
    c->tied = !untied;
    keys_str(k, "normalization", &norm);
    keys_flag(k, "apply_layernorm_1p", &plus_one);
    if (!k->failed && strcmp(norm, "RMSNorm") != 0 && strcmp(norm, "LayerNorm") != 0)
        keys_fail(k, "'args.normalization' is '%.40s', which is not supported", norm);
    c->norm = strcmp(norm, "RMSNorm") == 0 ? plus_one ? CONFIG_NORM_RMS1P : CONFIG_NORM_RMS
              : plus_one                   ? CONFIG_NORM_LAYER1P
                                           : CONFIG_NORM_LAYER;
    keys_real(k, "norm_epsilon|layernorm_epsilon", 1e-12, 1, &c->norm_eps);
    keys_none(
        k,
        "num_experts multi_latent_attention qk_layernorm window_size window_attn_skip_freq no_rope_freq "
        "softmax_scale "
        "apply_residual_connection_post_layernorm attention_output_gate mtp_num_layers retro_add_retriever "
        "heterogeneous_layers_config_path experimental_attention_variant");
    layers(k, c);
    vocabulary(k, c);
    if (k->failed)
        return;
    if (strchr(c->pattern, 'M'))
        mamba(k, c);
    if (!k->failed && strchr(c->pattern, '*'))
        attention(k, c, bias);
    if (!k->failed && strchr(c->pattern, '-'))
        mlp(k, c, bias);
}

#define LAYER "model.decoder.layers.#."
#define COMMON                                                                                               \
    { NULL, "embeddings.", "model.embedding.word_embeddings.", ROWS_SAME },                                  \
        { NULL, "norm_f.", "model.decoder.final_norm.", ROWS_SAME },                                         \
        { NULL, "norm_f.", "model.decoder.final_layernorm.", ROWS_SAME },                                    \
        { NULL, "lm_head.", "model.output_layer.", ROWS_SAME },                                              \
        { "*", "norm.", LAYER "self_attention.linear_qkv.layer_norm_", ROWS_SAME },                          \
        { "*", "norm.", LAYER "input_layernorm.", ROWS_SAME },                                               \
        { "*", "mixer.q_proj.", LAYER "self_attention.linear_qkv.", ROWS_Q },                                \
        { "*", "mixer.k_proj.", LAYER "self_attention.linear_qkv.", ROWS_K },                                \
        { "*", "mixer.v_proj.", LAYER "self_attention.linear_qkv.", ROWS_V },                                \
        { "*", "mixer.o_proj.", LAYER "self_attention.linear_proj.", ROWS_SAME },                            \
        { "-", "norm.", LAYER "mlp.linear_fc1.layer_norm_", ROWS_SAME },                                     \
        { "-", "norm.", LAYER "pre_mlp_layernorm.", ROWS_SAME },                                             \
        { "-", "mixer.gate_proj.", LAYER "mlp.linear_fc1.", ROWS_GATE },                                     \
        { "-", "mixer.up_proj.", LAYER "mlp.linear_fc1.", ROWS_UP },                                         \
    {                                                                                                        \
        "-", "mixer.down_proj.", LAYER "mlp.linear_fc2.", ROWS_SAME                                          \
    }

static const struct rule hybrid_rules[] = {
    COMMON,
    { "M", "norm.", LAYER "mixer.in_proj.layer_norm_", ROWS_SAME },
    { "M", "norm.", LAYER "norm.", ROWS_SAME },
    { "M", "mixer.", LAYER "mixer.", ROWS_SAME },
    { NULL, NULL, NULL, ROWS_SAME },
};

static const struct rule gpt_rules[] = { COMMON, { NULL, NULL, NULL, ROWS_SAME } };
static const char *const passed_over[] = { "_extra_state", "inv_freq", NULL };

extern const struct family family_megatron;
static const struct family family_gpt = { .name = "megatron",
                                          .read_only = true,
                                          .per_layer = 2,
                                          .prefix = "model.",
                                          .passed_over = passed_over,
                                          .rules = gpt_rules,
                                          .keys = keys };
const struct family family_megatron = { .name = "megatron",
                                        .read_only = true,
                                        .per_layer = 1,
                                        .prefix = "model.",
                                        .passed_over = passed_over,
                                        .rules = hybrid_rules,
                                        .keys = keys };

const struct family *family_of_megatron(const struct archive *a)
{
    return is_gpt(&(struct keys){ .args = a }) ? &family_gpt : &family_megatron;
}
