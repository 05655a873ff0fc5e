/* param.h - the parameter table: every tensor of a model, and all that is known of it
 * SPDX-License-Identifier: MIT
 *
 * Initialisation, optimizer, communication, checkpoints, counts: all read this one table. A tensor is
 * always the global one, in the layout of its canonical name.
 */
#ifndef SSM_PARAM_H
#define SSM_PARAM_H

#include <stdbool.h>
#include <stdint.h>

#include "config.h"

enum { PARAM_MAX_DIM = 4, PARAM_MAX_SECTIONS = 5 };

enum param_init {
    INIT_CONST,         /* a */
    INIT_NORMAL,        /* N(0, a) */
    INIT_UNIFORM,       /* U(a, b) */
    INIT_LOG_UNIFORM,   /* log of U(a, b): Mamba-2's A_log */
    INIT_LOG_COUNT,     /* log(1 + i mod a), i the element: Mamba-1's A_log */
    INIT_DT_BIAS,       /* softplus^-1 of exp(U(log a, log b)), at least 1e-4: Mamba's dt_bias */
    INIT_LRU            /* softplus^-1 of -log r, r^2 from U(a^2, b^2): the RG-LRU's a_param */
};

/* How tensor parallelism cuts a tensor. A granule is what may not be cut: the rows (or columns) of a head, of a group,
 * of a gate block. Sections are cut each on its own; a section whose granules are fewer than the ranks (B and C
 * with few groups) is held by every rank that needs it. */
enum cut_kind { CUT_WHOLE, CUT_ROWS, CUT_COLUMNS, CUT_SECTIONS };

struct cut {
    enum cut_kind kind;
    int n_sections;
    struct {
        int64_t size, granule;
    } section[PARAM_MAX_SECTIONS];  /* ROWS and COLUMNS use section[0] */
};

struct param {
    char name[96];
    int ndim;
    int64_t shape[PARAM_MAX_DIM];
    int layer;                      /* -1: none */
    int role;                       /* what it is to its layer, see layer.h */
    enum param_init init;
    double a, b;
    bool decay;                     /* weight decay applies */
    bool always_f32;                /* never stored or computed in less (A_log, D, dt_bias) */
    struct cut cut;
    int64_t count;                  /* elements */
    int64_t offset;                 /* first element in a slab of all parameters; multiples of 16 */
};

struct params {
    struct param *p;
    size_t n, cap;
    int64_t slab;                   /* elements of a slab, padding between tensors counted */
    int64_t count;                  /* elements of all tensors */
};

/* The table of a checked config with vocab > 0. Free with params_free(). */
void params_init(struct params *ps, const struct config *c);
void params_free(struct params *ps);

/* Used by the layer kinds while the table is made: adds a tensor, returns it to be filled further. shape ends
 * with 0. Decay follows Megatron: tensors of two and more dimensions. */
struct param *params_add(struct params *ps, int layer, int role, const char *name, const int64_t *shape);
/* The tensor of that name, or NULL. */
const struct param *params_find(const struct params *ps, const char *name);
/* The norm's weight and, where its kind has one, bias: NAME.weight, NAME.bias in the roles `role` and role + 1. */
void params_add_norm(struct params *ps, const struct config *c, int layer, int role, const char *name);
/* Sets the initialisation of a linear layer's weight as the config says; `residual`: its output goes to the
 * residual stream, so it begins smaller by sqrt(number of sub-layers). */
void param_init_linear(struct param *p, const struct config *c, int64_t fan_in, bool residual);
/* One section cut by granules. */
void param_cut(struct param *p, enum cut_kind kind, int64_t size, int64_t granule);
void param_cut_section(struct param *p, int64_t size, int64_t granule);

/* Fills elements [from, from+n) of tensor p: a function of (seed, name, index) alone. */
void param_fill(const struct param *p, uint64_t seed, int64_t from, int64_t n, float *out);

#endif
