/* exchange.c - tests of common/exchange: names and rows of other people's tensors, configurations both ways
 * SPDX-License-Identifier: MIT
 *
 * Whole models are golden.c's and cli/3100-exchange.t's; here stands what the folders of tests/golden do not
 * have.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/exchange/family.h"
#include "kernels/backend.h"

static struct config preset(const char *name)
{
    struct config c;
    if (config_try_load(&c, name) < 0)
        fail_msg("%s", err_last());
    c.vocab = c.vocab ? c.vocab : 257;
    return c;
}

static const struct family *chosen(const struct config *c)
{
    const struct family *f = family_try_choose(c);
    if (!f)
        fail_msg("%s", err_last());
    return f;
}

/* Every preset has a family, and its configuration comes back. */
static void presets(void **state)
{
    (void)state;
    static const struct {
        const char *name, *family;
    } known[] = {
        { "mamba2-130m", "mamba2" }, { "mamba2-2.7b", "mamba2" },          { "mamba2-8b", "mamba2" },
        { "mamba2-demo", "mamba2" }, { "mamba2-hybrid-8b", "nemotron_h" }, { "hybrid-demo", "nemotron_h" },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        struct config c = preset(known[i].name), back;
        const struct family *f = chosen(&c);
        char *pattern;
        assert_string_equal(f->name, known[i].family);
        struct json *j = family_try_write(f, &c);
        assert_non_null(j);
        assert_int_equal(family_try_read(f, j, NULL, NULL, &back, &pattern), 0);
        assert_string_equal(back.pattern, c.pattern);
        assert_int_equal(back.d_state, c.d_state);
        json_free(j);
        free(pattern);
    }
}

/* Configurations with the keys that released models have (what says nothing left out), and their parameters,
 * as tests/oracle/counts.tsv has them. */
static void released(void **state)
{
    (void)state;
    static const struct {
        int64_t parameters;
        const char *text;
    } known[] = {
        { 129135360, /* mamba-130m-hf */
          "{'model_type':'mamba','conv_kernel':4,'d_inner':1536,'d_model':768,'eos_token_id':0,'expand':2,"
          "'fused_add_norm':true,'hidden_act':'silu','hidden_size':768,'intermediate_size':1536,"
          "'layer_norm_epsilon':1e-05,'n_layer':24,'num_hidden_layers':24,'pad_vocab_size_multiple':8,"
          "'rescale_prenorm_residual':false,'residual_in_fp32':true,'rms_norm':true,'ssm_cfg':{},'state_size'"
          ":16,"
          "'time_step_floor':0.0001,'time_step_init_scheme':'random','time_step_max':0.1,'time_step_min':0."
          "001,"
          "'time_step_rank':48,'time_step_scale':1.0,'torch_dtype':'float32','use_bias':false,'use_cache':"
          "true,"
          "'use_conv_bias':true,'vocab_size':50280}" },
        { 2768345600, /* mamba-2.8b */
          "{'d_model':2560,'n_layer':64,'vocab_size':50277,'ssm_cfg':{},'rms_norm':true,'residual_in_fp32':"
          "true,"
          "'fused_add_norm':true,'pad_vocab_size_multiple':8}" },
        { 2702599680, /* mamba2-2.7b */
          "{'d_model':2560,'d_intermediate':0,'n_layer':64,'vocab_size':50277,'ssm_cfg':{'layer':'Mamba2'},"
          "'attn_layer_idx':[],'attn_cfg':{},'rms_norm':true,'residual_in_fp32':true,'fused_add_norm':true,"
          "'pad_vocab_size_multiple':16,'tie_embeddings':true}" },
        { 780161280, /* mamba2-780m as transformers has it */
          "{'model_type':'mamba2','num_hidden_layers':48,'hidden_size':1536,'vocab_size':50288,'state_size':"
          "128,"
          "'num_heads':48,'head_dim':64,'expand':2,'conv_kernel':4,'n_groups':1,'chunk_size':256,"
          "'time_step_limit':[0.0,Infinity],'time_step_rank':96,'rms_norm':true,'norm_before_gate':true,'use_"
          "bias':false,"
          "'use_conv_bias':true,'hidden_act':'silu','layer_norm_epsilon':1e-5,'residual_in_fp32':true,"
          "'tie_word_embeddings':true}" },
        { 8100852736, /* Nemotron-H-8B */
          "{'model_type':'nemotron_h','attention_bias':false,'attention_dropout':0.0,'attention_head_dim':"
          "128,"
          "'chunk_size':256,'conv_kernel':4,'expand':2,'hidden_dropout':0.0,'hidden_size':4096,"
          "'hybrid_override_pattern':'M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-','intermediate_"
          "size':21504,"
          "'layer_norm_epsilon':1e-05,'mamba_head_dim':64,'mamba_hidden_act':'silu','mamba_num_heads':128,"
          "'mamba_proj_bias':false,'max_position_embeddings':8192,'mlp_bias':false,'mlp_hidden_act':'relu2','"
          "n_groups':8,"
          "'num_attention_heads':32,'num_hidden_layers':52,'num_key_value_heads':8,'num_logits_to_keep':1,"
          "'rescale_prenorm_residual':true,'residual_in_fp32':false,'rms_norm_eps':1e-05,'sliding_window':"
          "null,"
          "'ssm_state_size':128,'tie_word_embeddings':false,'use_bias':false,'use_conv_bias':true,"
          "'use_mamba_kernels':true,'vocab_size':131072}" },
        { 0, /* Nemotron-4 4B */
          "{'model_type':'nemotron','hidden_act':'relu2','hidden_size':3072,'intermediate_size':9216,"
          "'max_position_embeddings':4096,'num_attention_heads':24,'num_hidden_layers':32,'num_key_value_"
          "heads':8,"
          "'norm_eps':1e-05,'rope_theta':10000,'partial_rotary_factor':0.5,'tie_word_embeddings':false,"
          "'vocab_size':256000,'kv_channels':128}" },
        { 2682862080, /* recurrentgemma-2b */
          "{'model_type':'recurrent_gemma','_block_types':['recurrent','recurrent','attention'],'attention_"
          "bias':false,"
          "'attention_window_size':2048,'conv1d_width':4,'embeddings_scale_by_sqrt_dim':true,'head_dim':256,"
          "'hidden_activation':'gelu_pytorch_tanh','hidden_size':2560,'intermediate_size':15360,'logits_soft_"
          "cap':30.0,"
          "'lru_width':2560,'num_attention_heads':10,'num_hidden_layers':26,'num_key_value_heads':1,"
          "'partial_rotary_factor':0.5,'rms_norm_eps':1e-06,'rope_theta':10000.0,'vocab_size':256000}" },
        { 9780235392, /* Bamba-9B */
          "{'model_type':'bamba','attention_bias':false,'attn_layer_indices':[9,18,27],'attn_rotary_emb':64,"
          "'hidden_act':'silu','hidden_size':4096,'intermediate_size':14336,'mamba_chunk_size':256,"
          "'mamba_conv_bias':true,'mamba_d_conv':4,'mamba_d_head':64,'mamba_d_state':128,'mamba_expand':2,"
          "'mamba_n_groups':1,'mamba_n_heads':128,'mamba_proj_bias':false,'mlp_bias':false,'num_attention_"
          "heads':32,"
          "'num_hidden_layers':32,'num_key_value_heads':8,'rms_norm_eps':1e-05,'rope_scaling':null,"
          "'rope_theta':10000.0,'tie_word_embeddings':false,'use_mamba_kernels':true,'vocab_size':128256}" },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        char *text = xstrdup(known[i].text), *pattern;
        struct config c;
        struct params ps;
        for (char *s = text; *s; s++)
            *s = *s == '\'' ? '"' : *s;
        struct json *j = json_try_block("released", text, strlen(text));
        assert_non_null(j);
        const struct family *f = family_try_detect(j);
        if (!f || family_try_read(f, j, NULL, NULL, &c, &pattern) < 0)
            fail_msg("%s: %s", known[i].text, err_last());
        params_init(&ps, &c);
        if (known[i].parameters)
            assert_int_equal(ps.count, known[i].parameters);
        params_free(&ps);
        json_free(j);
        free(pattern);
        free(text);
    }
}

static struct config gated(void)
{
    struct config c;
    struct opt rows[CONFIG_ROWS + 1];
    config_table(&c, rows);
    c.pattern = "*-*-";
    c.d_model = 12, c.vocab = 20, c.attn_heads = 6, c.attn_kv_heads = 2, c.attn_headdim = 4, c.d_ff = 10;
    c.activation = ACT_SILU, c.mlp_gated = true, c.rotary_dim = 2, c.attn_bias = true;
    assert_int_equal(config_try_check(&c), 0);
    return c;
}

static struct place place_of(const struct family *f, const struct config *c, const char *name, int i)
{
    struct params ps;
    struct place at;
    params_init(&ps, c);
    const struct param *p = params_find(&ps, name);
    assert_non_null(p);
    assert_true(family_place(f, c, p, i, &at));
    params_free(&ps);
    return at;
}

static void check_rows(const struct place *at, const char *name, int64_t rows, int64_t base, int64_t run,
                       int64_t stride)
{
    assert_string_equal(at->name, name);
    assert_int_equal(at->shape[0], rows);
    assert_int_equal(at->base, base);
    assert_int_equal(at->run, run);
    assert_int_equal(at->stride, stride);
}

/* Megatron: fc1 is gate over up; linear_qkv goes by group; the layer is one symbol each in a hybrid. */
static void megatron_rows(void **state)
{
    (void)state;
    const struct family *f = family_try_find("megatron");
    struct config c = gated();
    struct place at = place_of(f, &c, "layers.1.mixer.gate_proj.weight", 0);
    check_rows(&at, "model.decoder.layers.1.mlp.linear_fc1.weight", 20, 0, 10, 10);
    at = place_of(f, &c, "layers.1.mixer.up_proj.weight", 0);
    check_rows(&at, "model.decoder.layers.1.mlp.linear_fc1.weight", 20, 10, 10, 10);
    at = place_of(f, &c, "layers.2.mixer.q_proj.weight", 0);
    check_rows(&at, "model.decoder.layers.2.self_attention.linear_qkv.weight", 40, 0, 12, 20);
    at = place_of(f, &c, "layers.2.mixer.k_proj.bias", 0);
    check_rows(&at, "model.decoder.layers.2.self_attention.linear_qkv.bias", 40, 12, 4, 20);
    at = place_of(f, &c, "layers.2.mixer.v_proj.weight", 0);
    check_rows(&at, "model.decoder.layers.2.self_attention.linear_qkv.weight", 40, 16, 4, 20);
    at = place_of(f, &c, "layers.1.norm.weight", 0);
    assert_string_equal(at.name, "model.decoder.layers.1.mlp.linear_fc1.layer_norm_weight");
    at = place_of(f, &c, "layers.1.norm.weight", 1);
    assert_string_equal(at.name, "model.decoder.layers.1.pre_mlp_layernorm.weight");
    c.mlp_gated = false;
    at = place_of(f, &c, "layers.1.mixer.up_proj.weight", 0);
    check_rows(&at, "model.decoder.layers.1.mlp.linear_fc1.weight", 10, 0, 10, 10);
}

static void names(void **state)
{
    (void)state;
    struct config c = gated();
    struct place at = place_of(family_try_find("bamba"), &c, "layers.3.mixer.gate_proj.weight", 0);
    assert_string_equal(at.name, "model.layers.1.feed_forward.gate_proj.weight");
    at = place_of(family_try_find("nemotron_h"), &c, "norm_f.weight", 1);
    assert_string_equal(at.name, "model.norm_f.weight");
    assert_null(family_try_find("lamp"));
    assert_non_null(strstr(err_last(), "recurrent_gemma"));
}

/* What no family has a place for is named. */
static void refusals(void **state)
{
    (void)state;
    struct config c = gated();
    c.attn_out_bias = true;
    c.rope_base = 1234.5;
    assert_string_equal(chosen(&c)->name, "bamba");
    c.softcap = 30;
    assert_null(family_try_choose(&c));
    assert_non_null(strstr(err_last(), "no place for 'softcap' 30"));
    c.softcap = 0;
    c.attn_out_bias = false;
    assert_null(family_try_choose(&c));
    assert_non_null(strstr(err_last(), "'attn_out_bias' no"));
    c = preset("mamba2-130m");
    c.embed_scale = 2;
    assert_null(family_try_choose(&c));
    assert_non_null(strstr(err_last(), "'embed_scale' 2"));
}

/* The rotated share of a head survives its way through a fraction. */
static void rotary_share(void **state)
{
    (void)state;
    struct config c = gated(), back;
    c.attn_out_bias = true;
    char *pattern;
    for (c.attn_headdim = 2; c.attn_headdim <= 256; c.attn_headdim += 2) {
        for (c.rotary_dim = 2; c.rotary_dim <= c.attn_headdim; c.rotary_dim += 2) {
            struct json *j = family_try_write(family_try_find("bamba"), &c);
            if (!j)
                fail_msg("%s", err_last());
            assert_int_equal(family_try_read(family_try_find("bamba"), j, NULL, NULL, &back, &pattern), 0);
            assert_int_equal(back.rotary_dim, c.rotary_dim);
            json_free(j);
            free(pattern);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presets), cmocka_unit_test(released), cmocka_unit_test(megatron_rows),
        cmocka_unit_test(names),   cmocka_unit_test(refusals), cmocka_unit_test(rotary_share),
    };
    err_init("exchange");
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("exchange", tests, NULL, NULL);
}
