/* layer.h - what a kind of sub-layer is
 * SPDX-License-Identifier: MIT
 *
 * Each symbol of the pattern is a struct layer_kind (mamba2.c, mamba1.c, griffin.c, attention.c, mlp.c): its parameters, the tensors it keeps, its state, and y = x + f(norm(x)) forward, backward, token by token, all
 * as calls of ops. The network (net.c) knows nothing of what is inside.
 *
 * Precision. Activations, their gradients and the matrices that they meet have one dtype (precision.act), the residual
 * stream and its gradient may have another (precision.residual); statistics of the norms, carried states and the halos
 * of convolutions are F32, and so are all other parameters and all gradients of parameters. Kinds move struct tensors
 * about and know none of this but whether a slot holds an activation. What a pass points to is the device's memory.
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

struct precision {
    enum dtype act;         /* activations and matrices */
    enum dtype residual;    /* the residual stream */
};

static inline int64_t dtype_bytes(enum dtype d) { return d == F32 ? 4 : 2; }

/* What becomes of a tensor of a layer after the layer's forward pass. */
enum slot_use {
    SLOT_SAVED,     /* the backward pass reads it: kept a layer, or with recompute made again, in shared memory */
    SLOT_SCRATCH    /* nobody reads it when the layer's pass is over: shared by all layers */
};

struct slot {
    const char *name;
    enum slot_use use;
    enum dtype dtype;
    int64_t count;  /* elements */
    int64_t offset; /* bytes, among those of the same use */
};

enum { MAX_SLOTS = 24 };
struct slots {
    struct precision precision;
    int n;
    struct slot s[MAX_SLOTS];
    int64_t saved, scratch; /* bytes of each use */
};
/* Layer kinds call them in the order of their slot enums: activations, and what is F32 whatever these are. */
void slots_add(struct slots *ss, enum slot_use use, const char *name, int64_t count);
void slots_add_f32(struct slots *ss, enum slot_use use, const char *name, int64_t count);

/* A tensor that a layer carries from token to token; it has one copy a sequence. */
struct carry {
    const char *name;
    int64_t count;      /* elements of one sequence */
    bool act;           /* of the activations' dtype, else F32 */
};
enum { MAX_CARRIES = 4 };

/* What the layers of a model call their parameters by: roles, an enum of each kind's file, and by role the parameter,
 * NULL where the configuration has none (a bias). */
enum { MAX_ROLES = 16 };

/* Everything that one call of a layer sees. */
struct pass {
    const struct backend *be;
    const struct config *c;
    int layer;                      /* its symbol is c->pattern[layer] */
    const struct slots *slots;
    const struct param *const *params; /* by role */
    const float *weights;           /* slab of all weights: the masters */
    const void *half;               /* the slab in bf16, where act is BF16 */
    float *grads;                   /* slab, += in backward */
    int64_t B, T;                   /* sequences, tokens of each */
    const int32_t *start;           /* [B,T] or NULL, see backend.h */
    char *saved, *scratch;          /* this layer's memory */
    void *work;
    struct tensor x;                /* [B*T,d_model] input of the layer; stays unless y is x */
    struct tensor y;                /* = [B*T,d_model] forward: x + f; may be x; absent when only the saved tensors are
                                     * wanted (recompute) */
    struct tensor dy;               /* [B*T,d_model] backward: gradient of y in, gradient of x out */
    /* State: what the layer carries, in the order of its carries; NULL when the pass begins from nothing and
     * leaves nothing. carry_out may be carry_in. */
    void *const *carry_in;
    void *const *carry_out;
    int64_t pos;                    /* tokens before this pass, all sequences alike */
    int64_t room;                   /* tokens that caches of keys and values hold */
};

struct layer_kind {
    char symbol;
    const char *name;
    void (*params)(struct params *ps, const struct config *c, int layer);
    /* `train`: a backward pass will follow. */
    void (*slots)(struct slots *ss, const struct config *c, int layer, int64_t B, int64_t T, bool train);
    /* Scratch bytes of the ops; p has be, c, layer, B, T, room. */
    size_t (*work)(const struct pass *p);
    void (*forward)(const struct pass *p);
    void (*backward)(const struct pass *p);
    /* One token of each sequence (T = 1), not the first (pos > 0), with state: carry_in is read and moved on in
     * place. */
    void (*step)(const struct pass *p);
    /* Its step reads `pos`: sequences at different places are stepped one by one. */
    bool positional;
    /* Fills the carried tensors, returns how many. `room`: tokens of context that must be kept. */
    int (*carries)(struct carry *out, const struct config *c, int layer, int64_t room);
    /* Floating-point operations of the forward pass per token, in sequences of T tokens, matrix products and
     * the mixing itself, causal half counted only; a multiply-add is two. */
    double (*flops)(const struct config *c, int layer, int64_t T);
};

/* By symbol, or NULL. */
const struct layer_kind *layer_kind(char symbol);
const char *layer_symbols(void);

/* ---- helpers for the kinds ---- */

/* The tensor from an element on: other columns of the same rows, or later rows. */
static inline struct tensor tensor_from(struct tensor t, int64_t element)
{
    if (t.data)
        t.data = (char *)t.data + element * dtype_bytes(t.dtype);
    return t;
}

/* Parameters of a role, rows ld apart; absent when the model has none. A matrix meets activations; other parameters
 * are read from the masters. */
static inline struct tensor pass_param(const struct pass *p, int role, int64_t ld)
{
    return tensor_f32(p->params[role] ? p->weights + p->params[role]->offset : NULL, ld);
}

static inline struct tensor pass_matrix(const struct pass *p, int role, int64_t ld)
{
    if (!p->half)
        return pass_param(p, role, ld);
    struct tensor half = { (void *)(uintptr_t)p->half, ld, BF16 };
    return tensor_from(half, p->params[role]->offset);
}

static inline struct tensor pass_grad(const struct pass *p, int role, int64_t ld)
{
    return tensor_f32(p->params[role] ? p->grads + p->params[role]->offset : NULL, ld);
}

/* Slot k as a tensor with rows ld apart; absent when it is empty. */
static inline struct tensor pass_slot(const struct pass *p, int k, int64_t ld)
{
    const struct slot *s = &p->slots->s[k];
    char *memory = s->use == SLOT_SAVED ? p->saved : p->scratch;
    return (struct tensor){ s->count ? memory + s->offset : NULL, ld, s->dtype };
}

/* A slot that was added by slots_add_f32(). */
static inline float *pass_floats(const struct pass *p, int k) { return pass_slot(p, k, 1).data; }

static inline void at_least(size_t *most, size_t need) { *most = need > *most ? need : *most; }

/* A linear layer of a pass: y [M,out] = x [M,in] w^T + bias (+ add). w is a role; the bias' role is w + 1, and the model
 * may have no parameter there. */
struct linear {
    int64_t M, in, out;
    int w;
    struct tensor x;
    struct tensor y;    /* absent in the layer's last one, whose output is the residual stream */
    struct tensor add;  /* absent, or may be y */
};
void linear_forward(const struct pass *p, const struct linear *l);
/* dx [M,in] = or += dy w;  dw += dy^T x;  dbias += sum of dy. dy is an activation's gradient. */
void linear_backward(const struct pass *p, const struct linear *l, struct tensor dy, struct tensor dx, bool accumulate_dx);
/* Scratch of the gradient of a bias of so many elements. */
size_t linear_work(const struct pass *p, int64_t out);
/* The layer's last linear: p->y = p->x + x w^T + bias, if p->y is wanted; and dx = p->dy w. */
void linear_residual(const struct pass *p, const struct linear *l);
void linear_residual_backward(const struct pass *p, const struct linear *l, struct tensor dx);

/* The norm in front of every sub-layer: roles 0 and 1, slots 0 (normalised input), 1 (rstd) and 2 (mean). Slot 3 takes
 * the gradient of the layer's output as an activation's, where the residual stream has another dtype. */
enum { PRE_NORM_W, PRE_NORM_BIAS, FIRST_ROLE };
enum { NORMED, PRE_NORM_RSTD, PRE_NORM_MEAN, D_OUTPUT, FIRST_SLOT };
void pre_norm_params(struct params *ps, const struct config *c, int layer);
void pre_norm_slots(struct slots *ss, const struct config *c, int64_t B, int64_t T, bool train);
size_t pre_norm_work(const struct pass *p);
void pre_norm_forward(const struct pass *p);
/* dxn: gradient of the normalised input; adds the norm's gradient to p->dy. */
void pre_norm_backward(const struct pass *p, struct tensor dxn);
/* The op as the configuration has it, for M rows; tensors are the caller's. */
struct norm norm_op(const struct config *c, int64_t M);

/* The convolution over a pass, or one token of it: its halo is carried in tensor `carry`. A pass keeps the halo that it
 * began with in cv->halo, a saved slot: the backward pass may come after carry_out has replaced carry_in. */
void conv_forward(const struct pass *p, struct conv1d *cv, int carry);
void conv_step(const struct pass *p, struct conv1d *cv, int carry);

/* Parameters that several kinds have. The bias, if `bias`, takes the role after the weight's. */
struct param *add_linear(struct params *ps, const struct config *c, int layer, int role, const char *name,
                         int64_t out, int64_t in, bool bias, bool residual);
/* mixer.conv1d.{weight,bias} of `channels`, uniform in +-1/sqrt(d_conv) (the bias as well). cut() is told of both. */
void add_conv(struct params *ps, const struct config *c, int layer, int role, int64_t channels,
              void (*cut)(struct param *p, const struct config *c));

#endif
