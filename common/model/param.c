/* param.c - the parameter table: every tensor of a model, and all that is known of it
 * SPDX-License-Identifier: MIT
 */
#include "param.h"

#include <math.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "layer.h"

struct param *params_add(struct params *ps, int layer, int role, const char *name, const int64_t *shape)
{
    struct param *p = grow(&ps->p, &ps->n, &ps->cap, sizeof *ps->p);
    *p = (struct param){ .layer = layer, .role = role, .count = 1, .offset = ps->slab };
    int n = layer < 0 ? snprintf(p->name, sizeof p->name, "%s", name)
                      : snprintf(p->name, sizeof p->name, "layers.%d.%s", layer, name);
    if (n >= (int)sizeof p->name)
        bug("parameter name '%s' is too long", name);
    for (; shape[p->ndim]; p->ndim++) {
        if (p->ndim == PARAM_MAX_DIM)
            bug("parameter '%s' has too many dimensions", name);
        p->shape[p->ndim] = shape[p->ndim];
        if (__builtin_mul_overflow(p->count, shape[p->ndim], &p->count))
            die("parameter '%s' is too large", p->name);
    }
    p->decay = p->ndim > 1;
    ps->slab += (p->count + 15) / 16 * 16;
    ps->count += p->count;
    return p;
}

void param_init_linear(struct param *p, const struct config *c, int64_t fan_in, bool residual)
{
    /* state-spaces/mamba divides by sqrt(layers) (mixer_seq_simple.py); GPT-2 and Megatron by sqrt(2 blocks), and a
     * block of theirs is two sub-layers of ours: the same number. */
    double scale = residual ? 1 / sqrt((double)c->layers) : 1;
    if (c->init == CONFIG_INIT_NORMAL) {
        p->init = INIT_NORMAL;
        p->a = c->init_std * scale;
    } else if (c->init == CONFIG_INIT_LECUN) {
        /* recurrentgemma: variance 1/fan_in, of output layers 2/blocks of that; its block is two sub-layers */
        p->init = INIT_NORMAL;
        p->a = (residual ? 2 * scale : 1) / sqrt((double)fan_in);
    } else {
        p->init = INIT_UNIFORM;
        p->b = scale / sqrt((double)fan_in);
        p->a = -p->b;
    }
}

void param_cut(struct param *p, enum cut_kind kind, int64_t size, int64_t granule)
{
    p->cut.kind = kind;
    p->cut.n_sections = 1;
    p->cut.section[0].size = size;
    p->cut.section[0].granule = granule;
}

void param_cut_section(struct param *p, int64_t size, int64_t granule)
{
    p->cut.kind = CUT_SECTIONS;
    if (p->cut.n_sections == PARAM_MAX_SECTIONS)
        bug("parameter '%s' has too many sections", p->name);
    p->cut.section[p->cut.n_sections].size = size;
    p->cut.section[p->cut.n_sections++].granule = granule;
}

void params_init(struct params *ps, const struct config *c)
{
    *ps = (struct params){ 0 };
    int64_t rows = config_vocab_rows(c);
    const int64_t table[] = { rows, c->d_model, 0 };
    struct param *p = params_add(ps, -1, 0, "embeddings.weight", table);
    p->init = INIT_NORMAL;
    p->a = c->init_std;
    param_cut(p, CUT_ROWS, rows, 1);
    for (int l = 0; l < c->layers; l++)
        layer_kind(c->pattern[l])->params(ps, c, l);
    params_add_norm(ps, c, -1, 0, "norm_f");
    if (!c->tied) {
        p = params_add(ps, -1, 0, "lm_head.weight", table);
        param_init_linear(p, c, c->d_model, false);
        param_cut(p, CUT_ROWS, rows, 1);
    }
}

const struct param *params_find(const struct params *ps, const char *name)
{
    for (size_t i = 0; i < ps->n; i++)
        if (strcmp(ps->p[i].name, name) == 0)
            return &ps->p[i];
    return NULL;
}

void params_add_norm(struct params *ps, const struct config *c, int layer, int role, const char *name)
{
    char full[64];
    const int64_t width[] = { c->d_model, 0 };
    snprintf(full, sizeof full, "%s.weight", name);
    params_add(ps, layer, role, full, width)->a = config_norm_plus_one(c) ? 0 : 1;
    if (config_norm_centers(c)) {
        snprintf(full, sizeof full, "%s.bias", name);
        params_add(ps, layer, role + 1, full, width);
    }
}

void params_free(struct params *ps)
{
    free(ps->p);
    *ps = (struct params){ 0 };
}

void param_fill(const struct param *p, uint64_t seed, int64_t from, int64_t n, float *out)
{
    uint64_t stream = rng_stream(p->name);
#pragma omp parallel for if (n > 65536)
    for (int64_t i = 0; i < n; i++) {
        uint64_t at = (uint64_t)(from + i);
        double v = 0;
        switch (p->init) {
        case INIT_CONST:
            v = p->a;
            break;
        case INIT_NORMAL:
            v = p->a * rng_normal(seed, stream, at);
            break;
        case INIT_UNIFORM:
            v = p->a + (p->b - p->a) * rng_uniform(seed, stream, at);
            break;
        case INIT_LOG_UNIFORM:
            v = log(p->a + (p->b - p->a) * rng_uniform(seed, stream, at));
            break;
        case INIT_LOG_COUNT:
            v = log((double)(1 + (from + i) % (int64_t)p->a));
            break;
        case INIT_LRU: {
            double r2 = p->a * p->a + (p->b * p->b - p->a * p->a) * rng_uniform(seed, stream, at);
            v = log(expm1(-0.5 * log(r2 + 1e-8)));
            break;
        }
        case INIT_DT_BIAS: {
            double dt = exp(log(p->a) + (log(p->b) - log(p->a)) * rng_uniform(seed, stream, at));
            dt = dt < 1e-4 ? 1e-4 : dt;
            v = dt + log(-expm1(-dt)); /* softplus(v) = dt */
            break;
        }
        }
        out[i] = (float)v;
    }
}
