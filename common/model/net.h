/* net.h - the network: embedding, sub-layers, norm, head, as calls of ops; and what it costs
 * SPDX-License-Identifier: MIT
 *
 * struct net holds the weights; struct net_ctx the activations of one micro-batch in flight (several for
 * pipelines); struct net_state what generation, or training on a stream, carries from call to call.
 * Nothing is allocated inside a step. Weights, gradients and states are the device's memory: the host reaches them by
 * the backend's upload and download alone, unless memory_is_host().
 */
#ifndef SSM_NET_H
#define SSM_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "layer.h"

enum recompute { RECOMPUTE_NONE, RECOMPUTE_FULL };

struct net {
    const struct backend *be;
    struct precision precision;
    struct config c;
    struct params ps;
    float *weights;             /* [ps.slab] fp32 masters */
    void *half;                 /* [ps.slab] what the matrices are read from when activations are bf16; else NULL */
    float *grads;               /* [ps.slab] or NULL */
    const struct param *(*roles)[MAX_ROLES]; /* each layer's parameters by role */
    void *scratch;              /* shared by all layers and contexts */
    int64_t scratch_bytes;
    void *work;
    size_t work_bytes;
};

/* Weights are zero. `c` is checked and has vocab > 0; the backend serves the precision's dtypes; activations are no
 * wider than the residual stream. train: gradients too. Dies when memory is short. */
struct net *net_create(const struct config *c, const struct backend *be, struct precision precision, bool train);
void net_free(struct net *n);
/* Fills the weights from the table: a function of the seed alone. */
void net_init(struct net *n, uint64_t seed);
/* Makes `half` of the weights: to be called by whoever sets these otherwise. */
void net_refresh_half(struct net *n);
/* The backend's memory may be read and written where it lies. */
bool memory_is_host(const struct backend *be);

struct net_state;
/* Zero state of B sequences. room: tokens of context for attention; 0: attention carries nothing. */
struct net_state *net_state_create(struct net *n, int64_t B, int64_t room);
void net_state_free(struct net_state *s);
/* Zeroes one sequence: it begins anew. */
void net_state_clear(struct net_state *s, int64_t b);
/* Sequence b of one state becomes sequence a of another, of the same net and room. */
void net_state_copy_row(struct net_state *to, int64_t b, const struct net_state *from, int64_t a);
/* Tokens that the state has seen. To be set when its data come from elsewhere. */
int64_t net_state_pos(const struct net_state *s);
void net_state_set_pos(struct net_state *s, int64_t pos);
int net_state_tensors(const struct net_state *s);
/* Tensor i: its name "layers.3.ssm", elements of one sequence, and its data [B, count] on the device. */
struct tensor net_state_tensor(const struct net_state *s, int i, char name[64], int64_t *count);
/* The same data as floats [B, count], whatever its dtype: out of the device and into it. */
void net_state_download(const struct net_state *s, int i, float *host);
void net_state_upload(struct net_state *s, int i, const float *host);

struct net_ctx;
/* B sequences of at most T tokens. room: of the states it will be used with. Dies when memory is short. */
struct net_ctx *net_ctx_create(struct net *n, int64_t B, int64_t T, bool train, enum recompute recompute,
                               int64_t room);
void net_ctx_free(struct net_ctx *x);

struct batch {
    int64_t B, T;
    const int32_t *ids;         /* [B,T] */
    const int32_t *targets;     /* [B,T]; negative: not scored */
    const int32_t *start;       /* [B,T], see backend.h; NULL: one document that began before */
};

/* Loss of each token into loss [B,T] (0 where the target is negative), by a forward pass; state (may be NULL) is
 * read and moved on. */
void net_loss(struct net_ctx *x, const struct batch *b, struct net_state *state, float *loss);
/* Hears of gradients that are whole: those of the slab from element `begin` on. Comes from the slab's end down to 0. */
struct net_ready {
    void (*done)(void *arg, int64_t begin);
    void *arg;
};
/* The same with the backward pass: adds the gradient of the SUM of the losses to net->grads. The losses stay on the
 * device, whose memory `loss` is, and nothing waits for them. in/out: NULL, or the state that the rows begin with and,
 * apart from it, the one they leave. ready: NULL, or who hears of each stretch of gradients when the ops that make it
 * have been begun. */
void net_train(struct net_ctx *x, const struct batch *b, struct net_state *in, struct net_state *out, float *loss,
               const struct net_ready *ready);
/* Reads T tokens of each sequence, moves the state on, and gives the logits [B,vocab] after the last one. T = 1 takes
 * the one-token path. */
void net_decode(struct net_ctx *x, struct net_state *state, const int32_t *ids, int64_t T, float *logits);
/* One more token of sequences that stand at different places: sequence b has seen pos[b] > 0 tokens, fewer than the
 * state's room; the state's own count is neither read nor moved, the caller keeps his. Of one sequence's logits and
 * state nothing depends on what the others are; their number may change the rounding (that of the matrix library). */
void net_decode_rows(struct net_ctx *x, struct net_state *state, const int32_t *ids, const int64_t *pos,
                     float *logits);
/* What a net thinks of the tokens whose target is not negative: the logarithm of the target's probability into
 * logp [B,T], and whether it is the likeliest (of equals the lowest id) into greedy [B,T]; elsewhere 0 and false. Only
 * these tokens pass the head. */
void net_score(struct net_ctx *x, const struct batch *b, double *logp, bool *greedy);

/* What a rank needs, in bytes, from the tables, without allocating. */
struct net_memory {
    int64_t weights, half, grads, residual, saved, scratch, work, total;
};
struct net_memory net_memory(const struct config *c, const struct backend *be, struct precision precision, int64_t B,
                             int64_t T, bool train, enum recompute recompute);
/* FLOPs per token of a forward pass on sequences of T tokens (backward: twice as many). */
double net_flops(const struct config *c, int64_t T);

#endif
