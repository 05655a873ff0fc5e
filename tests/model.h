/* model.h - models and batches for tests: every layer kind, odd sizes
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_TESTS_MODEL_H
#define SSM_TESTS_MODEL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/base/rng.h"
#include "common/model/net.h"

static const struct precision fp32 = { F32, F32 };

/* Options that a family brings with it; PLAIN: RMSNorm, no biases, no positions. */
enum flavour { PLAIN, TIED, GPT, GRIFFIN, BIASED };

/* Every layer kind, odd sizes, groups and shared keys, chunks and windows that do not divide the sequence. */
static inline struct config small(const char *pattern, enum flavour flavour)
{
    struct config c;
    struct opt rows[CONFIG_ROWS + 1];
    config_table(&c, rows);
    c.pattern = pattern;
    c.d_model = 20;
    c.vocab = 37;
    c.tied = flavour == TIED || flavour == GRIFFIN;
    c.n_heads = 6;
    c.headdim = 7;
    c.n_groups = 2;
    c.d_state = 9;
    c.chunk = 8;
    c.d_inner = 30;
    c.dt_rank = 3;
    c.lru_width = 28;
    c.lru_blocks = 4;
    c.attn_heads = 4;
    c.attn_kv_heads = 2;
    c.attn_headdim = 6;
    c.window = 7;
    c.d_ff = 33;
    c.init_std = 0.4;
    if (flavour == GPT) {
        c.norm = CONFIG_NORM_LAYER1P;
        c.rotary_dim = 4;
        c.mlp_gated = true;
        c.activation = ACT_SILU;
    }
    if (flavour == GRIFFIN) {
        c.norm = CONFIG_NORM_RMS1P;
        c.rotary_dim = 6;
        c.rope_base = 100;
        c.embed_scale = 4.5;
        c.softcap = 5;
        c.attn_softcap = 3;
        c.mixer_bias = c.attn_out_bias = c.mlp_bias = c.mlp_gated = true;
        c.activation = ACT_GELU_TANH;
        c.init = CONFIG_INIT_LECUN;
    }
    if (flavour == BIASED) {
        c.norm = CONFIG_NORM_LAYER;
        c.mixer_bias = c.attn_bias = c.attn_out_bias = c.mlp_bias = true;
        c.conv_bias = false;
        c.activation = ACT_RELU2;
        c.dt_min = 0.004;
        c.dt_max = 0.09;
    }
    assert_int_equal(config_try_check(&c), 0);
    return c;
}

/* What begins at a constant would hide mistakes: norms and biases get noise. */
static inline void init(struct net *n, uint64_t seed)
{
    for (size_t i = 0; i < n->ps.n; i++) {
        const struct param *p = &n->ps.p[i];
        float *host = malloc((size_t)p->count * sizeof *host);
        param_fill(p, seed, 0, p->count, host);
        if (p->init == INIT_CONST)
            for (int64_t k = 0; k < p->count; k++)
                host[k] += 0.3f * (float)rng_normal(seed, 1000 + i, (uint64_t)k);
        n->be->upload(n->weights + p->offset, host, (size_t)p->count * sizeof *host);
        free(host);
    }
    net_refresh_half(n);
}

/* Models of every family, as patterns of sub-layers. */
static const struct {
    const char *pattern;
    enum flavour flavour;
} families[] = { { "MM*-M--", PLAIN }, { "SS", TIED },     { "*-*-", GPT },   { "R-R-L-", GRIFFIN },
                 { "S-L*R", PLAIN },   { "M*S-R-L", BIASED } };
enum { FAMILIES = sizeof families / sizeof *families };

enum { B = 2, T = 29, M = B * T };

static inline void random_batch(uint64_t seed, int32_t *ids, int32_t *targets)
{
    for (int i = 0; i < M; i++) {
        ids[i] = (int32_t)(rng_u64(seed, 1, (uint64_t)i) % 37);
        targets[i] = (int32_t)(rng_u64(seed, 2, (uint64_t)i) % 37);
    }
    targets[5] = -1;
}

/* Documents that begin at some positions of each row; the first began before the row. */
static inline void some_documents(int32_t *start)
{
    for (int i = 0; i < M; i++) {
        int t = i % T;
        start[i] = i < T ? (t < 11 ? -1 : t < 12 ? 11 : 12) : (t < 16 ? 0 : 16);
    }
}

#endif
