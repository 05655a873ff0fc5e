/* layer.h - what a kind of sub-layer is
 * SPDX-License-Identifier: MIT
 *
 * Each symbol of the pattern is a struct layer_kind in a file of its own (mamba2.c, attention.c, mlp.c): its
 * parameters, the tensors it keeps, its state, and y = x + f(norm(x)) forward, backward, token by token, all
 * as calls of ops. The network (net.c) knows nothing of what is inside.
 *
 * To add a layer kind: a file with its struct layer_kind; its line in layer.c; its numbers in config.c with their
 * checks; its symbol in the tables of README and config.h; tests/model.c runs every kind in its list.
 */
#ifndef SSM_LAYER_H
#define SSM_LAYER_H

#include <stdbool.h>
#include <stdint.h>

#include "config.h"
#include "kernels/backend.h"
#include "param.h"

/* What becomes of a tensor of a layer after the layer's forward pass. */
enum slot_use {
    SLOT_SAVED,     /* the backward pass reads it: kept a layer, or with recompute made again, in shared memory */
    SLOT_SCRATCH    /* nobody reads it when the layer's pass is over: shared by all layers */
};

struct slot {
    const char *name;
    enum slot_use use;
    int64_t count;  /* floats */
    int64_t offset; /* among those of the same use */
};

enum { MAX_SLOTS = 20 };
struct slots {
    int n;
    struct slot s[MAX_SLOTS];
    int64_t saved, scratch; /* floats of each use */
};
/* Layer kinds call it in the order of their slot enums. */
void slots_add(struct slots *ss, enum slot_use use, const char *name, int64_t count);

/* A tensor that a layer carries from token to token; it has one copy a sequence. */
struct carry {
    const char *name;
    int64_t count;      /* floats of one sequence */
};
enum { MAX_CARRIES = 4 };

/* Everything that one call of a layer sees. */
struct pass {
    const struct backend *be;
    const struct config *c;
    const struct slots *slots;
    const struct param *params;     /* the layer's first */
    const float *weights;           /* slab of all weights */
    float *grads;                   /* slab, += in backward */
    int64_t B, T;                   /* sequences, tokens of each */
    const int32_t *start;           /* [B,T] or NULL, see backend.h */
    float *saved, *scratch;         /* this layer's memory */
    void *work;
    const float *x;                 /* [B*T,d_model] input of the layer; stays */
    float *y;                       /* [B*T,d_model] forward; holds x already (may be x): the layer adds f; NULL
                                     * when only the saved tensors are wanted (recompute) */
    float *dy;                      /* [B*T,d_model] backward: gradient of y in, gradient of x out */
    /* State: what the layer carries, in the order of its carries; NULL when the pass begins from nothing and
     * leaves nothing. carry_out may be carry_in. */
    float *const *carry_in;
    float *const *carry_out;
    int64_t pos;                    /* tokens before this pass, all sequences alike */
    int64_t room;                   /* tokens that caches of keys and values hold */
};

struct layer_kind {
    char symbol;
    const char *name;
    void (*params)(struct params *ps, const struct config *c, int layer);
    /* `train`: a backward pass will follow. */
    void (*slots)(struct slots *ss, const struct config *c, int64_t B, int64_t T, bool train);
    /* Scratch bytes of the ops; p has be, c, B, T, room. */
    size_t (*work)(const struct pass *p);
    void (*forward)(const struct pass *p);
    void (*backward)(const struct pass *p);
    /* One token of each sequence (T = 1) with state: carry_in is read and moved on in place. */
    void (*step)(const struct pass *p);
    /* Fills the carried tensors, returns how many. `room`: tokens of context that must be kept. */
    int (*carries)(struct carry *out, const struct config *c, int64_t room);
    /* Floating-point operations of the forward pass per token, in sequences of T tokens, matrix products and
     * the mixing itself, causal half counted only; a multiply-add is two. */
    double (*flops)(const struct config *c, int64_t T);
};

/* By symbol, or NULL. */
const struct layer_kind *layer_kind(char symbol);
const char *layer_symbols(void);

/* ---- helpers for the kinds ---- */

static inline const float *pass_weight(const struct pass *p, int k) { return p->weights + p->params[k].offset; }
static inline float *pass_grad(const struct pass *p, int k) { return p->grads + p->params[k].offset; }

static inline float *pass_slot(const struct pass *p, int k)
{
    const struct slot *s = &p->slots->s[k];
    if (s->count == 0)
        return NULL;
    return (s->use == SLOT_SAVED ? p->saved : p->scratch) + s->offset;
}

/* y [M,out] = or += x [M,in] w^T, rows of x and y ldx, ldy apart. */
void linear_forward(const struct backend *be, int64_t M, int64_t in, int64_t out, const float *x, int64_t ldx,
                    const float *w, float *y, int64_t ldy, bool accumulate);
/* dx [M,in] = or += dy w;  dw += dy^T x */
void linear_backward(const struct backend *be, int64_t M, int64_t in, int64_t out, const float *x, int64_t ldx,
                     const float *w, const float *dy, int64_t ldy, float *dx, int64_t lddx, bool accumulate_dx,
                     float *dw);
/* The norm in front of every sub-layer: parameter 0, slots 0 (normalised input) and 1 (rstd). */
enum { PRE_NORM_PARAM = 0, PRE_NORM_SLOT = 0, PRE_NORM_RSTD = 1 };
void pre_norm_params(struct params *ps, const struct config *c, int layer);
void pre_norm_slots(struct slots *ss, const struct config *c, int64_t B, int64_t T);
struct norm pre_norm(const struct pass *p);
/* dxn: gradient of the normalised input; adds the norm's gradient to p->dy. */
void pre_norm_backward(const struct pass *p, const float *dxn);

#endif
