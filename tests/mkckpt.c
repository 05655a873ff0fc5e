/* mkckpt.c - makes a small random checkpoint for tests
 * SPDX-License-Identifier: MIT
 *
 *   mkckpt DIR SEED PARTS [NAME=2x3x4[:bf16][*SCALE] | FILE.conf[*SCALE] ...]
 * Without names: a little model with optimizer and state. FILE.conf: the tensors of the model of that preset, and its
 * configuration. Values depend on seed and name only, times SCALE ("nan": all are). Each tensor's rows
 * are dealt to the parts in runs whose lengths depend on the seed, so layouts are uneven on purpose.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/opt.h"
#include "common/base/rng.h"
#include "common/io/ckpt.h"
#include "common/model/param.h"

static const char *const model[] = {
    "model/embeddings.weight=101x16",
    "model/layers.0.norm.weight=16",
    "model/layers.0.mixer.in_proj.weight=70x16",
    "model/layers.0.mixer.conv1d.weight=40x1x4",
    "model/layers.0.mixer.A_log=4",
    "model/norm_f.weight=16",
    "optim/m/embeddings.weight=101x16",
    "optim/m/norm_f.weight=16",
    "optim/v/embeddings.weight=101x16",
    "optim/v/norm_f.weight=16",
    "state/ssm=2x3x4x5",
};

struct plan {
    struct ckpt_tensor t;
    double scale;
};

static struct plan *plans;
static size_t n_plans, cap_plans;
static struct config config;
static bool has_config;

static double parse_scale(const char *text)
{
    const char *star = strchr(text, '*');
    return star ? strtod(star + 1, NULL) : 1;
}

static struct ckpt_tensor parse(const char *text)
{
    struct ckpt_tensor t = { .ndim = 0 };
    const char *eq = strchr(text, '=');
    if (!eq || (size_t)(eq - text) >= sizeof t.name)
        die_usage("'%s' is not NAME=SHAPE", text);
    snprintf(t.name, sizeof t.name, "%.*s", (int)(eq - text), text);
    for (const char *s = eq; (*s == '=' || *s == 'x') && t.ndim < CKPT_MAX_DIM; t.ndim++) {
        char *end;
        t.shape[t.ndim] = strtoll(s + 1, &end, 10);
        s = end;
        if (*s == ':')
            while (strncmp(s + 1, ckpt_dtype_name(t.dtype), strlen(ckpt_dtype_name(t.dtype))) != 0)
                if (++t.dtype == CKPT_DTYPES)
                    die_usage("'%s' has no type of ours", text);
    }
    return t;
}

/* One argument: a tensor, or those of a model. */
static void plan(const char *text)
{
    double scale = parse_scale(text);
    if (strchr(text, '=')) {
        *(struct plan *)grow(&plans, &n_plans, &cap_plans, sizeof *plans) =
            (struct plan){ parse(text), scale };
        return;
    }
    char *path = xasprintf("%.*s", (int)strcspn(text, "*"), text);
    struct params ps;
    if (config_try_load(&config, path) < 0)
        die("%s", err_last());
    config.vocab = config.vocab ? config.vocab : 257;
    has_config = true;
    params_init(&ps, &config);
    for (size_t i = 0; i < ps.n; i++) {
        struct plan p = { { .ndim = ps.p[i].ndim }, scale };
        snprintf(p.t.name, sizeof p.t.name, "model/%s", ps.p[i].name);
        memcpy(p.t.shape, ps.p[i].shape, sizeof p.t.shape);
        *(struct plan *)grow(&plans, &n_plans, &cap_plans, sizeof *plans) = p;
    }
    params_free(&ps);
    free(path);
}

/* First row of a tensor that part `part` holds. */
static int64_t first_row(uint64_t seed, const struct ckpt_tensor *t, int part, int parts)
{
    if (part == 0 || part == parts)
        return part ? t->shape[0] : 0;
    int64_t even = t->shape[0] * part / parts, room = t->shape[0] / parts;
    int64_t jitter =
        room > 1 ? (int64_t)(rng_u64(seed, rng_stream(t->name), (uint64_t)part) % (uint64_t)room) : 0;
    return even + jitter < t->shape[0] ? even + jitter : t->shape[0];
}

int main(int argc, char **argv)
{
    int64_t seed, parts;
    err_init("mkckpt");
    meter_start(argc, argv);
    if (argc < 4 || parse_int(argv[2], &seed) < 0 || parse_int(argv[3], &parts) < 0)
        die_usage("usage: mkckpt DIR SEED PARTS [NAME=SHAPE|FILE.conf...]");
    for (int i = 4; i < argc; i++)
        plan(argv[i]);
    for (size_t i = 0; argc == 4 && i < sizeof model / sizeof *model; i++)
        plan(model[i]);
    int n = (int)n_plans;
    struct ckpt_piece *p = xcalloc((size_t)n, sizeof *p);
    struct set_member *m = xcalloc((size_t)parts, sizeof *m);
    set_prepare(argv[1], true);
    for (int part = 0; part < (int)parts; part++) {
        for (int i = 0; i < n; i++) {
            struct ckpt_tensor t = plans[i].t;
            int64_t a = first_row((uint64_t)seed, &t, part, (int)parts);
            int64_t b = first_row((uint64_t)seed, &t, part + 1, (int)parts);
            int64_t width = ckpt_elements(t.ndim, t.shape) / t.shape[0];
            p[i] = (struct ckpt_piece){ .tensor = t };
            memcpy(p[i].count, t.shape, sizeof t.shape);
            p[i].offset[0] = a;
            p[i].count[0] = b - a;
            float *x = xcalloc((size_t)((b - a) * width), sizeof *x);
            for (int64_t j = 0; j < (b - a) * width; j++)
                x[j] = (float)(plans[i].scale *
                               rng_normal((uint64_t)seed, rng_stream(t.name), (uint64_t)(a * width + j)));
            p[i].data = x;
        }
        ckpt_write_member(argv[1], part, (int)parts, p, n, &m[part]);
        for (int i = 0; i < n; i++)
            free((void *)(uintptr_t)p[i].data);
    }
    struct attrs numbers = { 0 }, state = { 0 };
    if (has_config) {
        config_to_attrs(&config, &numbers);
    } else {
        attrs_set_int(&numbers, "d_model", 16);
        attrs_set_real(&numbers, "norm_eps", 1e-5);
        attrs_set_str(&numbers, "pattern", "M");
    }
    attrs_set_int(&state, "step", seed);
    attrs_set_int(&state, "samples", seed * 64);
    char *history = meter_history();
    ckpt_write_index(argv[1], m, (int)parts, &numbers, argc > 4 ? NULL : &state, history, true);
    free(history);
    attrs_free(&numbers);
    attrs_free(&state);
    free(p);
    free(m);
    free(plans);
    return EXIT_DONE;
}
