/* backend.h - the op table: what a model may ask of a device
 * SPDX-License-Identifier: MIT
 *
 * A backend is a table of functions: memory, copies, and each op forward, backward and, for layers
 * with memory, one token at a time ("step"). The formula stands beside the struct of each op.
 * The CPU version (op.c) is the readable specification; a device version stands beside it (op.cu).
 *
 * Conventions
 *   B sequences, T tokens of each, M = B*T rows (row b*T+t), C channels, D width of the model, V vocabulary.
 *   A tensor is rows of contiguous elements; `ld` is the distance of two rows, in elements, so an op
 *   can read some columns of a wider matrix in place. data == NULL: the tensor is absent.
 *   The letter before a shape: "=" the op overwrites it, "+=" the op adds to it, none: read only.
 *   Backward passes overwrite gradients of activations and add to gradients of parameters, unless
 *   the field says otherwise.
 *   `start` [B,T] int32, ld T: the row position at which the token's document begins; negative when it
 *   began before this row (then initial state, conv halo and earlier keys count). The value is exact:
 *   with -2 the conv sees two inputs of the halo and attention two keys before the row; -(1 << 30)
 *   means before everything. NULL: every token's document began before everything. start[t] <= t, and
 *   start does not fall along a row. Positions before the row without a given state read as zero.
 *   `work`: scratch memory that the caller provides; its size in bytes is what op_work() returns for
 *   the same struct and number of threads. It may hold anything. Ops allocate nothing, keep nothing,
 *   and call nothing above them. Tensors overlap only where a field says "may be".
 *   Dtypes: the activations of one call, and the matrices that they meet, have one dtype, but for the residual stream
 *   (matmul's c and add, norm's x and dx, embed's y and dy), which may be F32 beside activations in less. What is
 *   saved beside activations (rstd, lse, ...), states, halos, other parameters and all gradients of parameters are
 *   F32. Accumulation is in fp32 or better. For the same shapes, pointers' alignment aside, and the same number of
 *   threads an op returns the same bits: no atomics, fixed reduction order.
 *
 * To add an op: (1) its struct and formula here, (2) its slots in struct backend, (3) kernels/OP.c,
 * (4) the line in kernels/cpu.c, (5) its cases in tests/ops.c: against a naive double-precision
 * reference, gradients against central differences, odd sizes, documents; (6) kernels/OP.cu, with what device.cuh offers;
 * (7) its functions in kernels/cuda/cuda.h and kernels/cuda/open.c, its cost in kernels/cost.h; (8) its cases in
 * tests/device_*.c, against the CPU's. A slot left empty fails `make check`.
 */
#ifndef SSM_BACKEND_H
#define SSM_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dtype { F32, BF16, F16 };

struct tensor {
    void *data;
    int64_t ld;        /* elements from one row to the next */
    enum dtype dtype;
};

/* A tensor of floats with rows ld elements apart. */
static inline struct tensor tensor_f32(const float *p, int64_t ld)
{
    struct tensor t = { (void *)(uintptr_t)p, ld, F32 };
    return t;
}

/* c [M,N] = op(a) op(b) + add + bias: op(a) [M,K], op(b) [K,N]; a transposed operand is stored [K,M], [N,K].
 * A linear layer's forward is trans_b (weights are stored [out,in]); `add` fuses the residual stream into it.
 * batch > 1: so many products, whose operands begin step_x elements apart (a block-diagonal linear layer). */
struct matmul {
    int64_t M, N, K;            /* K > 0 on a device */
    bool trans_a, trans_b;
    struct tensor a, b, c;
    struct tensor add;          /* [M,N] or absent; may be c: c += op(a) op(b). In a batch steps as c */
    struct tensor bias;         /* [N] or absent */
    int64_t batch;              /* 0 is 1 */
    int64_t step_a, step_b, step_c, step_bias;
};

/* y[c] += sum over m of x[m,c]: the gradient of a bias */
struct colsum {
    int64_t M, D;
    struct tensor x;            /* [M,D] */
    struct tensor y;            /* += [D] */
    void *work;
};

/* y[m] = scale table[ids[m]];  dtable[ids[m]] += scale dy[m] */
struct embed {
    int64_t M, D, V;
    double scale;               /* 0 is 1 */
    const int32_t *ids;         /* [M], 0 <= id < V */
    struct tensor table;        /* [V,D] */
    struct tensor y;            /* = [M,D] */
    struct tensor dy;           /* [M,D] */
    struct tensor dtable;       /* += [V,D] */
    void *work;
};

/* The norms in front of sub-layers, by row:
 *   y = w (x - mean) r + bias,  r = 1/sqrt(mean((x - mean)^2) + eps)
 * RMSNorm (Zhang & Sennrich 2019, eq. 4) has mean = 0; LayerNorm (Ba et al. 2016, eq. 4) centers. With `plus_one` the
 * stored weight is that of the formula minus 1 (RecurrentGemma's zero-centred RMSNorm, Megatron's LayerNorm-1p). */
struct norm {
    int64_t M, D;
    double eps;
    bool center, plus_one;
    struct tensor x;            /* [M,D] */
    struct tensor w;            /* [D] */
    struct tensor bias;         /* [D] or absent */
    struct tensor y;            /* = [M,D] */
    float *rstd;                /* = [M], saved for the backward pass */
    float *mean;                /* = [M], saved; only with center */
    struct tensor dy;           /* [M,D] */
    struct tensor dx;           /* = [M,D], or += with accumulate_dx (dx may be dy only when !accumulate_dx) */
    bool accumulate_dx;
    struct tensor dw;           /* += [D] */
    struct tensor dbias;        /* += [D] or absent */
    void *work;
};

/* Gated grouped RMSNorm of Mamba-2 (norm_before_gate = False): u = x silu(z),
 * y = w u / sqrt(mean over the group's D/G channels of u^2 + eps). */
struct gatednorm {
    int64_t M, D, G;            /* G divides D */
    double eps;
    struct tensor x, z;         /* [M,D] */
    struct tensor w;            /* [D] */
    struct tensor y;            /* = [M,D] */
    float *rstd;                /* = [M,G], saved */
    struct tensor dy;           /* [M,D] */
    struct tensor dx, dz;       /* = [M,D] */
    struct tensor dw;           /* += [D] */
    void *work;
};

/* Causal depthwise convolution: y[t] = act(bias + sum_j w[c,W-1-j] x[t-j]), j = 0..W-1, over the taps
 * t-j >= start[t]; taps before the row read `halo`; act = SiLU or identity. */
struct conv1d {
    int64_t B, T, C, W;         /* W <= 8 */
    bool silu;
    const int32_t *start;       /* [B,T] or NULL */
    struct tensor x;            /* [B*T,C] */
    struct tensor w;            /* [C,W], the last tap is the current token */
    struct tensor bias;         /* [C] or absent */
    struct tensor halo;         /* [B*(W-1),C] or absent: the inputs before the row, oldest first */
    struct tensor y;            /* = [B*T,C] */
    struct tensor halo_out;     /* = [B*(W-1),C] or absent: the last W-1 inputs of halo|x */
    struct tensor dy;           /* [B*T,C] */
    struct tensor dx;           /* = [B*T,C] */
    struct tensor dw, dbias;    /* += */
    struct tensor dhalo;        /* = [B*(W-1),C] or absent */
    void *work;
    /* step: x, y [B,C]; halo [B*(W-1),C] is read and moved on by one token in place; the token
     * belongs to the document of the halo. To start a document zero the halo. */
};

/* State-space duality, Mamba-2 (Dao & Gu 2024, eq. 16, sect. 6), per head h of group g = h/(H/G):
 *   dt = clamp(softplus(dt_raw + dt_bias), dt_min, dt_max),  a = -exp(A_log)
 *   S[t] = exp(dt a) S[t-1] + dt x[t] (x) B[t]      S [P,N]; S[t-1] = 0 at the start of a document
 *   y[t] = S[t] C[t] + D x[t]
 * Chunked: inside a chunk of Q tokens by products of matrices, between chunks by the state. */
struct ssd {
    int64_t B, T, H, P, G, N, Q; /* heads, head dim, groups (divide H), state size, chunk */
    double dt_min, dt_max;      /* 0 and INFINITY: no clamp */
    const int32_t *start;       /* [B,T] or NULL */
    struct tensor x;            /* [B*T,H*P] */
    struct tensor dt_raw;       /* [B*T,H] */
    struct tensor Bm, Cm;       /* [B*T,G*N] */
    struct tensor dt_bias, A_log, D; /* [H], always fp32 */
    struct tensor h0;           /* [B*H*P,N] fp32 or absent: the state before the row */
    struct tensor y;            /* = [B*T,H*P] */
    struct tensor hT;           /* = [B*H*P,N] fp32 or absent: the state after the row; may be h0 */
    struct tensor states;       /* = [B*ceil(T/Q)*H*P,N], the state that enters each chunk; saved; absent in a forward pass
                                 * without backward */
    struct tensor dy;           /* [B*T,H*P] */
    struct tensor dhT;          /* [B*H*P,N] or absent */
    struct tensor dx;           /* = [B*T,H*P] */
    struct tensor ddt_raw;      /* = [B*T,H] */
    struct tensor dBm, dCm;     /* = [B*T,G*N] */
    struct tensor ddt_bias, dA_log, dD; /* += [H] */
    struct tensor dh0;          /* = [B*H*P,N] or absent */
    void *work;
    /* step (T = 1): h0 [B*H*P,N] is read and updated in place (hT is not used) */
};

/* Selective scan, Mamba-1 (Gu & Dao 2023, alg. 2), per channel c with a state of N numbers:
 *   dt = softplus(dt_raw + dt_bias),  a[n] = -exp(A_log[c,n])
 *   S[t,n] = exp(dt a[n]) S[t-1,n] + dt x[t] B[t,n]        S[t-1] = 0 at the start of a document
 *   y[t] = sum_n S[t,n] C[t,n] + D x[t]
 * The backward pass makes the states again from those that entered each chunk of Q tokens. */
struct scan {
    int64_t B, T, C, N, Q;
    const int32_t *start;       /* [B,T] or NULL */
    struct tensor x;            /* [B*T,C] */
    struct tensor dt_raw;       /* [B*T,C], without dt_bias */
    struct tensor Bm, Cm;       /* [B*T,N] */
    struct tensor A_log;        /* [C,N], always fp32 */
    struct tensor dt_bias, D;   /* [C], always fp32 */
    struct tensor h0;           /* [B*C,N] fp32 or absent: the state before the row */
    struct tensor y;            /* = [B*T,C] */
    struct tensor hT;           /* = [B*C,N] fp32 or absent: the state after the row; may be h0 */
    float *states;              /* = [B,ceil(T/Q),C,N], the state that enters each chunk; saved; NULL in a forward
                                 * pass without backward */
    struct tensor dy;           /* [B*T,C] */
    struct tensor dhT;          /* [B*C,N] or absent */
    struct tensor dx;           /* = [B*T,C] */
    struct tensor ddt_raw;      /* = [B*T,C] */
    struct tensor dBm, dCm;     /* = [B*T,N] */
    struct tensor ddt_bias, dA_log, dD; /* += [C], [C,N], [C] */
    struct tensor dh0;          /* = [B*C,N] or absent */
    void *work;
    /* step (T = 1): h0 is read and updated in place (hT is not used) */
};

/* Real-gated linear recurrent unit, Griffin (De et al. 2024, eq. 1-6), per channel; the gates' linears came before:
 *   r = sigmoid(gate_a),  i = sigmoid(gate_x),  log a = -8 r softplus(a_param),  m = sqrt(1 - a^2)
 *   h[t] = a h[t-1] + m i x[t]
 * The first token of a document has a = 0 and m = 1, and so has the first of a row without h0. In the backward
 * pass the square root's derivative is cut off: d sqrt(u)/du = 1/sqrt(max(4 u, 1e-6)), as recurrentgemma does. */
struct rglru {
    int64_t B, T, C;
    const int32_t *start;       /* [B,T] or NULL */
    struct tensor x, gate_x, gate_a; /* [B*T,C] */
    struct tensor a_param;      /* [C], always fp32 */
    struct tensor h0;           /* [B,C] fp32 or absent */
    struct tensor y;            /* = [B*T,C], h; the backward pass reads it */
    struct tensor hT;           /* = [B,C] fp32 or absent; may be h0 */
    struct tensor dy;           /* [B*T,C] */
    struct tensor dhT;          /* [B,C] or absent */
    struct tensor dx, dgate_x, dgate_a; /* = [B*T,C] */
    struct tensor da_param;     /* += [C] */
    struct tensor dh0;          /* = [B,C] or absent */
    void *work;
    /* step (T = 1): h0 is read and updated in place (hT is not used); the token continues its document */
};

/* Rotary position embedding (Su et al. 2021, eq. 34, pairs as in GPT-NeoX), in place, of the first R dimensions
 * of each head: (x[i], x[i+R/2]) turns by the angle pos base^(-2i/R), i < R/2. The position of token t is
 * t - start[t]; where start is NULL or says "before everything" (below -(1 << 29)) it is pos0 + t: attention sees
 * differences only. */
struct rope {
    int64_t B, T, H, hd, R;     /* R even, <= hd */
    int64_t rows;               /* rows between two sequences in x; 0 is T */
    int64_t pos0;
    double base;
    bool inverse;               /* turns back: the gradient */
    const int32_t *start;       /* [B,T] or NULL */
    struct tensor x;            /* [B*rows,H*hd], in place */
};

/* Causal attention with grouped keys and values (GQA), in tiles, never T x S scores in memory
 * (Dao et al. 2022, alg. 1; backward: Dao 2023, alg. 2):
 *   query t stands at key position q0+t and sees the keys k of its document with k <= q0+t, that is
 *   k - q0 >= start[t], and with a window only the last `window` of them, itself counted;
 *   o = softmax(f(scale q k^T)) v,  f(s) = s, or softcap tanh(s/softcap). Query head h uses key head h/(Hq/Hkv). */
struct attn {
    int64_t B, T, S;            /* queries and keys of each sequence, S = q0+T */
    int64_t q0;                 /* keys before the first query */
    int64_t Smax;               /* rows between two sequences in k, v (>= S) */
    int64_t Hq, Hkv, hd;        /* Hkv divides Hq */
    int64_t window;             /* 0: no window */
    double scale;               /* usually 1/sqrt(hd) */
    double softcap;             /* 0: none */
    const int32_t *start;       /* [B,T] or NULL: all keys up to the query's own count */
    struct tensor q;            /* [B*T,Hq*hd] */
    struct tensor k, v;         /* [B*Smax,Hkv*hd] */
    struct tensor o;            /* = [B*T,Hq*hd] */
    float *lse;                 /* = [B,Hq,T] log of the softmax' denominator, saved; may be NULL in forward */
    struct tensor dout;         /* [B*T,Hq*hd] gradient of o */
    struct tensor dq;           /* = [B*T,Hq*hd] */
    struct tensor dk, dv;       /* = [B*Smax,Hkv*hd], rows < S of each sequence */
    void *work;
    /* step: T = 1; k and v are rings: key j of a sequence lies in its row j % Smax. The query sees the sequence's S
     * keys, the newest included, or with a window the last of them; S may exceed Smax when Smax >= window > 0. */
};

enum act { ACT_GELU, ACT_GELU_TANH, ACT_RELU2, ACT_SILU, ACT_SOFTCAP };
/* y = f(x) u.  gelu x Phi(x) by erf; its tanh approximation (Hendrycks & Gimpel 2016); relu(x)^2; x sigmoid(x);
 * cap tanh(x/cap). With u: gated linear units (Shazeer 2020: SwiGLU, GeGLU), and Mamba-1's and Griffin's gates. */
struct activation {
    enum act kind;
    int64_t M, D;
    double cap;                 /* ACT_SOFTCAP */
    struct tensor x;            /* [M,D] */
    struct tensor u;            /* [M,D] or absent (1) */
    struct tensor y;            /* = [M,D]; may be x in a forward pass without backward */
    struct tensor dy;           /* [M,D] */
    struct tensor dx;           /* = [M,D]; may be dy */
    struct tensor du;           /* = [M,D], with u; may be dy when dx is not */
};

/* Linear head and softmax cross-entropy in one, a block of rows at a time (never all logits):
 *   z = f(x w^T) over the first V rows of w, f(s) = s or softcap tanh(s/softcap)
 *   loss[m] = logsumexp(z) - z[target[m]]
 * Rows whose target is negative are left out: loss 0, gradient 0.
 * With dx: also  dx = e w,  dw += e^T x,  e = (softmax(z) - onehot) f',  summed over the
 * rows, not averaged (the optimizer divides by the number of targets of the whole batch). */
struct xent {
    int64_t M, D, V;            /* V: real vocabulary; padded rows of w beyond it take no part */
    int64_t rows;               /* of w, 0: V. A multiple of 8 makes faster products; the padded rows of dw get 0 added */
    double softcap;             /* 0: none */
    const int32_t *target;      /* [M] */
    struct tensor x;            /* [M,D] */
    struct tensor w;            /* [>=V,D] */
    float *loss;                /* = [M] */
    struct tensor dx;           /* = [M,D] or absent: forward only */
    struct tensor dw;           /* += [>=V,D] */
    void *work;
};

/* y = x, in the dtype of y */
struct cast {
    int64_t M, D;
    struct tensor x;            /* [M,D] */
    struct tensor y;            /* = [M,D] */
};

/* The sum of an array, or of its squares, in double. */
struct total {
    int64_t n;
    bool square, add;
    const float *x;             /* [n] */
    double *sum;                /* = [1], with add += */
};

/* Whether an update is made of the gradients, and by what they are multiplied, from what the ranks have seen:
 *   loss = sum_r seen[r,0] / count;  norm = sqrt(seen[0,1]) / count
 *   gscale = min(1, clip / norm) / count, or 0 where loss or norm is not finite or, as a float, above its limit */
struct verdict {
    double loss, norm;
    float gscale;               /* 0: no update */
};
struct judge {
    int64_t ranks;
    double count;               /* of what the losses are summed over */
    double clip;                /* the largest norm; 0: any */
    float loss_limit, norm_limit; /* INFINITY: none */
    const double *seen;         /* [ranks,2] sums of losses, and of the gradients' squares */
    struct verdict *verdict;    /* = [1] */
};

/* AdamW (Loshchilov & Hutter 2019, alg. 2) on n elements; step counts from 1:
 *   g = grad gscale;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
 *   p = p - lr ( (m/(1-b1^step)) / (sqrt(v/(1-b2^step)) + eps) + decay p )
 * and, where ema is not NULL, the running mean of the new p: ema = ema_decay ema + (1-ema_decay) p; where half is
 * not NULL, it becomes the new p in bf16. One call serves a whole slab of tensors. Where *gscale is 0 nothing changes. */
enum { ADAMW_UPDATE = 1, ADAMW_DECAY = 2 };
struct adamw {
    int64_t n, step;
    double lr, beta1, beta2, eps, decay, ema_decay;
    const uint8_t *mask;        /* [ceil(n/16)] what is done to each 16 elements; NULL: both. Others stand still */
    const float *gscale;        /* [1]; NULL: 1 */
    const float *grad;
    float *p, *m, *v, *ema;     /* updated in place */
    void *half;                 /* [n] bf16 or NULL */
};

/* What a device is. Rates are the vendor's for dense products, 0 where not known. */
struct device_info {
    char name[128];             /* "NVIDIA H200, 143155 MiB, CUDA 13.0, cuDNN 9.14" */
    int64_t memory_total, memory_free; /* bytes; 0: not known */
    double peak[3];             /* FLOP/s by enum dtype; F32: as this backend multiplies floats (TF32 or not) */
    double bandwidth;           /* bytes/s of device memory */
};

/* How ranks with a device each exchange device memory (NCCL between GPUs). A group is opened by all its ranks with the id
 * that one of them drew. What is begun here runs on a stream of its own: after all that ops were given before, beside what
 * they are given next, until join() makes these wait. Functions with a text return NULL or why they failed; what fails
 * later is told by sync(). Sums of the same group, sizes and machines are the same bits. Counts may exceed 2^31. */
struct links {
    size_t id_bytes;
    const char *(*draw_id)(void *id);
    const char *(*open)(void **group, const void *id, int rank, int size);
    const char *(*split)(void **part, void *group, int color, int key); /* color < 0: *part = NULL */
    void (*close)(void *group);
    void (*sum)(void *group, void *x, int64_t n, enum dtype dtype);     /* all-reduce in place */
    void (*sum_scatter)(void *group, const void *x, void *mine, int64_t each, enum dtype dtype); /* reduce-scatter */
    void (*gather)(void *group, const void *mine, size_t bytes, void *all); /* all-gather */
    void (*bcast)(void *group, void *data, size_t bytes, int root);
    void (*all_to_all)(void *group, const void *send, const size_t *scount, const size_t *sdispl, void *recv,
                       const size_t *rcount, const size_t *rdispl);     /* bytes; see comm_all_to_all() */
    void (*send)(void *group, const void *data, size_t bytes, int to);
    void (*recv)(void *group, void *data, size_t bytes, int from);
    void (*join)(void);
};

/* Which algorithms matrix products take, where a library has several: measured once, kept as text, given back to
 * later runs. */
enum plans_fit {
    PLANS_TAKEN,                /* *why: NULL, or that some of them could not be */
    PLANS_FOREIGN,              /* made by another library or for another device: nothing is taken */
    PLANS_BAD                   /* no such text, "LINE: reason": nothing is taken */
};
struct plans_sum {
    int64_t products;           /* different ones */
    double first_ms, best_ms;   /* of all their calls, by the library's first choices and by the fastest */
};

#define BACKEND_VERSION 6

enum { ASK_MOST = 4096, OWN_MARKS = 2, MARK_NEXT = -1 };

struct backend {
    int version;
    const char *name;           /* "cpu" ... */
    const char *variant;        /* which instruction set the kernels were compiled for */
    unsigned dtypes;            /* of activations and of the matrices they meet: 1 << F32 | ... */

    void *(*alloc)(size_t bytes);               /* 64-byte aligned, zeroed; NULL when there is none */
    void (*free)(void *p);
    void (*upload)(void *dev, const void *host, size_t bytes);
    void (*download)(void *host, const void *dev, size_t bytes);
    /* The same in two halves, of ASK_MOST bytes at most: the first asks for what it is now, the second waits for that
     * alone, not for the ops that stand between. No other copy between host and device may stand there. */
    void (*ask)(const void *dev, size_t bytes);
    void (*answer)(void *host);
    /* The same beside what the device is given next. `host` is memory of host_alloc(), which may hold anything, is slow to be
     * had, and is NULL when there is none. The copy begins after all that the device was given before. `dev` may change after
     * join_downloads(): what the device is given next waits for all copies that were begun, the host does not.
     * wait_downloads() waits until they have arrived: NULL, or why they have not. Any one thread may call it, while others
     * call anything but download_beside(). */
    void *(*host_alloc)(size_t bytes);
    void (*host_free)(void *p);
    void (*download_beside)(void *host, const void *dev, size_t bytes);
    void (*join_downloads)(void);
    const char *(*wait_downloads)(void);
    void (*copy)(void *dst, const void *src, size_t bytes);
    void (*zero)(void *p, size_t bytes);
    const char *(*fault)(void);                 /* NULL, or the text of the first error since the last call, as far as it is known */
    const char *(*sync)(void);                  /* the same, of all that the device was given: waits */
    void (*info)(struct device_info *);
    /* A point between two calls: number `own` of OWN_MARKS, or, with MARK_NEXT, one of 4096, of which the oldest are forgotten.
     * Seconds from one to another; waits for the second. */
    int (*mark)(int own);
    double (*between)(int from, int to);

    void (*matmul)(const struct matmul *);
    size_t (*colsum_work)(const struct colsum *);
    void (*colsum)(const struct colsum *);
    size_t (*embed_work)(const struct embed *); /* of the backward pass */
    void (*embed_fwd)(const struct embed *);
    void (*embed_bwd)(const struct embed *);
    size_t (*norm_work)(const struct norm *);
    void (*norm_fwd)(const struct norm *);
    void (*norm_bwd)(const struct norm *);
    size_t (*gatednorm_work)(const struct gatednorm *);
    void (*gatednorm_fwd)(const struct gatednorm *);
    void (*gatednorm_bwd)(const struct gatednorm *);
    size_t (*conv1d_work)(const struct conv1d *);
    void (*conv1d_fwd)(const struct conv1d *);
    void (*conv1d_bwd)(const struct conv1d *);
    void (*conv1d_step)(const struct conv1d *);
    size_t (*ssd_work)(const struct ssd *);     /* of forward and backward, whichever is more */
    void (*ssd_fwd)(const struct ssd *);
    void (*ssd_bwd)(const struct ssd *);
    void (*ssd_step)(const struct ssd *);
    size_t (*scan_work)(const struct scan *);   /* of forward and backward, whichever is more */
    void (*scan_fwd)(const struct scan *);
    void (*scan_bwd)(const struct scan *);
    void (*scan_step)(const struct scan *);
    size_t (*rglru_work)(const struct rglru *);
    void (*rglru_fwd)(const struct rglru *);
    void (*rglru_bwd)(const struct rglru *);
    void (*rglru_step)(const struct rglru *);
    void (*rope)(const struct rope *);
    size_t (*attn_work)(const struct attn *);
    void (*attn_fwd)(const struct attn *);
    void (*attn_bwd)(const struct attn *);
    void (*attn_step)(const struct attn *);
    void (*act_fwd)(const struct activation *);
    void (*act_bwd)(const struct activation *);
    size_t (*xent_work)(const struct xent *);
    void (*xent)(const struct xent *);
    void (*cast)(const struct cast *);
    void (*total)(const struct total *);
    void (*judge)(const struct judge *);
    void (*adamw)(const struct adamw *);

    /* Both NULL where there is nothing to choose. Take: products go by this text from now on; those that it lacks
     * by the library's first choice. NULL: each product that is met for the first time is measured, which waits and
     * takes memory, and goes by the fastest. Tell: what was measured since, as such a text, until the next call;
     * NULL: no memory. */
    enum plans_fit (*plans_take)(const char *text, const char **why);
    const char *(*plans_tell)(struct plans_sum *sum);
    const struct links *links;                  /* NULL: device memory is host memory, MPI serves it */
};

/* The CPU backend compiled for the best instruction set that this machine has. The environment variable
 * SSM_CPU (v2, v3, v4: the x86-64 levels) takes a lower one. Never NULL. */
const struct backend *backend_cpu(void);

#endif
