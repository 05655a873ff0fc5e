/* net_private.h - what net.c, net_state.c and net_pass.c share
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_NET_PRIVATE_H
#define SSM_NET_PRIVATE_H

#include "net.h"

struct net_ctx {
    struct net *n;
    int64_t B, T;               /* room for */
    bool train;
    enum recompute recompute;
    int32_t *ids, *targets, *start;
    struct slots *slots;        /* [layers], for the current shape */
    int64_t shaped_B, shaped_T; /* the shape that `slots` were made for */
    void *residual;             /* train: [layers+1][B*T*D]; else [B*T*D] */
    char *saved;                /* train without recompute: all layers' one after another; else one layer's */
    void *normed;               /* in front of the head */
    float *rstd, *mean;
    void *grad;                 /* [B*T*D] gradient of the residual stream */
    void *d_normed;             /* [B*T*D] of the head's input; where the dtype is that of the residual stream, it is grad */
    float *loss, *logits;       /* no losses when training: they are the caller's */
    int64_t head_rows;          /* rows of `logits`, and of `host` */
    float *host;                /* logits on their way out of net_score(); NULL: train */
};

struct net_state {
    struct net *n;
    int64_t B, room, pos;
    void *data;
    int tensors;
    struct state_tensor {
        int layer;
        const char *name;
        int64_t count;          /* of one sequence */
        struct tensor t;        /* [B, count] */
    } *t;
    void *(*by_layer)[MAX_CARRIES];
};

static inline struct tensor tensor_of(void *p, int64_t ld, enum dtype dtype) { return (struct tensor){ p, ld, dtype }; }

/* What belongs to sequence b, and its size in bytes. */
static inline void *sequence(const struct state_tensor *t, int64_t b) { return tensor_from(t->t, b * t->count).data; }
static inline size_t sequence_bytes(const struct state_tensor *t) { return (size_t)(t->count * dtype_bytes(t->t.dtype)); }

/* Dies when memory is short: `what` needs it. */
void *net_alloc(const struct backend *be, int64_t count, int64_t size, const char *what);
/* The layers' slots for a shape. */
void net_make_slots(struct slots *slots, const struct config *c, struct precision precision, int64_t B, int64_t T,
                    bool train);
/* The head and its loss over M rows; its tensors are the caller's, but for dtypes. */
struct xent net_head(const struct config *c, enum dtype act, int64_t M, bool train, void *work);

#endif
