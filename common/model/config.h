/* config.h - the numbers that make a model
 * SPDX-License-Identifier: MIT
 *
 * A model is a pattern, one symbol a pre-norm residual sub-layer (x += f(norm(x))), and a few widths. Presets
 * are files of "name = value" (pipelines/models/NAME.conf); a checkpoint carries the same names as attributes.
 *   M  Mamba-2      S  Mamba-1      R  Griffin's recurrent block (RG-LRU)
 *   *  causal attention             L  causal attention in a sliding window
 *   -  MLP
 */
#ifndef SSM_CONFIG_H
#define SSM_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/attrs.h"
#include "common/base/opt.h"

struct config {
    const char *pattern;        /* owned by the option table's strings: lives as long as the process */
    int64_t d_model;
    int64_t vocab;              /* real tokens; 0 in a preset: as the data says */
    int64_t vocab_multiple;     /* rows of the embedding are padded to a multiple of this */
    bool tied;                  /* the head is the embedding */
    double embed_scale;         /* the embedding is multiplied by it */
    double softcap;             /* logits = softcap tanh(logits/softcap); 0: none */
    int norm;                   /* enum config_norm */
    double norm_eps;
    /* M, S and R */
    int64_t d_conv, d_state, chunk;
    bool conv_bias, mixer_bias; /* the convolution has a bias; the linears in and out have */
    /* M */
    int64_t n_heads, headdim, n_groups;
    double dt_min, dt_max;      /* the step is clamped; dt_max 0: no limit */
    /* S */
    int64_t d_inner, dt_rank;
    /* R */
    int64_t lru_width, lru_blocks;
    /* * and L */
    int64_t attn_heads, attn_kv_heads, attn_headdim;
    int64_t rotary_dim;         /* of each head's dimensions the first so many are rotated; 0: none */
    double rope_base;
    double attn_softcap;
    bool attn_bias, attn_out_bias; /* of q, k, v; of the projection out */
    int64_t window;             /* L: keys that a query sees, itself counted */
    /* - */
    int64_t d_ff;
    int activation;             /* enum act of kernels/backend.h */
    bool mlp_gated, mlp_bias;
    /* initialisation */
    int init;                   /* enum config_init */
    double init_std;
    /* what the model was trained on; no preset sets these */
    const char *tokenizer;      /* name, NULL or "": none yet */
    const char *tokenizer_hash; /* 16 hex digits */
    int64_t eod;                /* end-of-document token, -1: none */
    int64_t layers;             /* derived: length of the pattern */
};

enum config_init {
    CONFIG_INIT_FAN_IN,         /* linears U(+-1/sqrt(fan_in)), as state-spaces/mamba */
    CONFIG_INIT_NORMAL,         /* linears N(0, init_std), as Megatron */
    CONFIG_INIT_LECUN           /* linears N(0, 1/sqrt(fan_in)), as recurrentgemma */
};
enum config_norm { CONFIG_NORM_RMS, CONFIG_NORM_RMS1P, CONFIG_NORM_LAYER, CONFIG_NORM_LAYER1P };
static inline bool config_norm_centers(const struct config *c) { return c->norm >= CONFIG_NORM_LAYER; }
static inline bool config_norm_plus_one(const struct config *c) { return c->norm & 1; }

enum { CONFIG_ROWS = 42 };
/* Fills rows (CONFIG_ROWS + 1 of them) that read and write *c. Also sets the defaults. */
void config_table(struct config *c, struct opt *rows);

/* Reads a preset: a file when `name` has a '/' or ends in ".conf", else NAME.conf in $SSM_MODELS, beside the installed
 * program (../share/ssmtools/models) or in its source tree. Checks it. 0, or -1 with err_last(). */
int config_try_load(struct config *c, const char *name) __attribute__((warn_unused_result));
/* Checks that the numbers fit together; sets `layers`. `vocab` 0 is allowed. 0, or -1 with err_last(). */
int config_try_check(struct config *c) __attribute__((warn_unused_result));

void config_to_attrs(const struct config *c, struct attrs *out);
int config_try_from_attrs(struct config *c, const struct attrs *in) __attribute__((warn_unused_result));

/* Rows of the embedding: vocab rounded up to vocab_multiple. */
int64_t config_vocab_rows(const struct config *c);

#endif
