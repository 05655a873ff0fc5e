/* cost.c - what a call of an op must compute and move at least (cost.h)
 * SPDX-License-Identifier: MIT
 */
#include "cost.h"

#define TILE 64 /* tokens of a chunk in the count of ssd's products */

/* Bytes of n elements of a tensor, 0 when it is absent. */
static double bytes(const struct tensor *t, double n) { return t->data ? n * (t->dtype == F32 ? 4 : 2) : 0; }

static double many(double n, const struct tensor *const *t, int count)
{
    double sum = 0;

    for (int i = 0; i < count; i++)
        sum += bytes(t[i], n);
    return sum;
}

/* Bytes of n elements of each of the tensors */
#define EACH(n, ...)                                                                                         \
    many(n, (const struct tensor *const[]){ __VA_ARGS__ },                                                   \
         sizeof((const struct tensor *const[]){ __VA_ARGS__ }) / sizeof(const struct tensor *))

struct cost cost_matmul(const struct matmul *a)
{
    double n = a->batch ? (double)a->batch : 1, M = (double)a->M, N = (double)a->N, K = (double)a->K;

    return (struct cost){ 2 * n * M * N * K,
                          n * (bytes(&a->a, M * K) + bytes(&a->b, K * N) + bytes(&a->bias, N) +
                               EACH(M * N, &a->c, &a->add)),
                          a->a.dtype };
}

struct cost cost_colsum(const struct colsum *a)
{
    return (struct cost){ 0, bytes(&a->x, (double)a->M * (double)a->D) + 2 * bytes(&a->y, (double)a->D),
                          a->x.dtype };
}

struct cost cost_embed_fwd(const struct embed *a)
{
    return (struct cost){ 0, EACH((double)a->M * (double)a->D, &a->table, &a->y) + 4 * (double)a->M,
                          a->y.dtype };
}

/* A row of the table's gradient is read and written once a token: most tokens of a batch are different. */
struct cost cost_embed_bwd(const struct embed *a)
{
    return (struct cost){
        0, EACH((double)a->M * (double)a->D, &a->dy, &a->dtable, &a->dtable) + 4 * (double)a->M, a->dy.dtype
    };
}

struct cost cost_norm_fwd(const struct norm *a)
{
    return (struct cost){ 0, EACH((double)a->M * (double)a->D, &a->x, &a->y), a->y.dtype };
}

struct cost cost_norm_bwd(const struct norm *a)
{
    double n = (double)a->M * (double)a->D;

    return (struct cost){ 0, EACH(n, &a->x, &a->dy, &a->dx) + (a->accumulate_dx ? bytes(&a->dx, n) : 0),
                          a->dy.dtype };
}

struct cost cost_gatednorm_fwd(const struct gatednorm *a)
{
    return (struct cost){ 0, EACH((double)a->M * (double)a->D, &a->x, &a->z, &a->y), a->x.dtype };
}

struct cost cost_gatednorm_bwd(const struct gatednorm *a)
{
    return (struct cost){ 0, EACH((double)a->M * (double)a->D, &a->x, &a->z, &a->dy, &a->dx, &a->dz),
                          a->x.dtype };
}

static double conv_elements(const struct conv1d *a) { return (double)a->B * (double)a->T * (double)a->C; }

struct cost cost_conv1d_fwd(const struct conv1d *a)
{
    return (struct cost){ 0, EACH(conv_elements(a), &a->x, &a->y), a->x.dtype };
}

struct cost cost_conv1d_bwd(const struct conv1d *a)
{
    return (struct cost){ 0, EACH(conv_elements(a), &a->x, &a->dy, &a->dx), a->x.dtype };
}

struct cost cost_conv1d_step(const struct conv1d *a)
{
    double rows = (double)a->B * (double)a->C, taps = (double)a->W;

    return (struct cost){ 0,
                          EACH(rows, &a->x, &a->y) + 2 * bytes(&a->halo, rows * (taps - 1)) +
                              bytes(&a->w, (double)a->C * taps) + bytes(&a->bias, (double)a->C),
                          a->x.dtype };
}

/* The chunked products with chunks of TILE tokens; the causal half of the scores of a group and of what they
 * weigh. */
static double ssd_products(const struct ssd *a, double scores, double weighed, double states)
{
    double t = (double)a->B * (double)a->T, P = (double)a->P, N = (double)a->N;

    return t * (double)a->H * (weighed * (TILE + 1) * P + states * N * P) +
           scores * t * (TILE + 1) * (double)a->G * N;
}

/* x, dt_raw and y or the like; B and C; the states of the chunks */
static double ssd_bytes(const struct ssd *a, const struct tensor *wide, const struct tensor *dt,
                        const struct tensor *B, const struct tensor *C)
{
    double t = (double)a->B * (double)a->T;

    return bytes(wide, t * (double)(a->H * a->P)) + bytes(dt, t * (double)a->H) +
           EACH(t * (double)(a->G * a->N), B, C);
}

static double ssd_states(const struct ssd *a)
{
    double chunks = (double)((a->T + a->Q - 1) / a->Q),
           state = (double)a->B * (double)(a->H * a->P) * (double)a->N;

    return bytes(&a->states, chunks * state);
}

struct cost cost_ssd_fwd(const struct ssd *a)
{
    double state = (double)a->B * (double)(a->H * a->P) * (double)a->N,
           wide = (double)(a->B * a->T) * (double)(a->H * a->P);

    return (struct cost){ ssd_products(a, 1, 1, 4),
                          ssd_bytes(a, &a->x, &a->dt_raw, &a->Bm, &a->Cm) + bytes(&a->y, wide) +
                              ssd_states(a) + EACH(state, &a->h0, &a->hT),
                          a->x.dtype };
}

struct cost cost_ssd_bwd(const struct ssd *a)
{
    double state = (double)a->B * (double)(a->H * a->P) * (double)a->N,
           wide = (double)(a->B * a->T) * (double)(a->H * a->P);

    return (struct cost){ ssd_products(a, 2, 2, 10),
                          ssd_bytes(a, &a->x, &a->dt_raw, &a->Bm, &a->Cm) + bytes(&a->dy, wide) +
                              ssd_states(a) + ssd_bytes(a, &a->dx, &a->ddt_raw, &a->dBm, &a->dCm) +
                              EACH(state, &a->dhT, &a->dh0),
                          a->x.dtype };
}

struct cost cost_ssd_step(const struct ssd *a)
{
    return (struct cost){ 0, 2 * bytes(&a->h0, (double)a->B * (double)(a->H * a->P) * (double)a->N),
                          a->x.dtype };
}

/* An element of the scan is one number of the state at one token. It takes at least 15 vector instructions
 * forward (12 of them for exp) and 22 backward, each in the place of a multiplication and an addition. */
static struct cost scan_cost(const struct scan *a, double flop, double moved)
{
    double t = (double)a->B * (double)a->T, chunks = (double)((a->T + a->Q - 1) / a->Q);
    double state = (double)a->B * (double)a->C * (double)a->N;

    return (struct cost){ flop * t * (double)a->C * (double)a->N,
                          moved + (a->states ? 4 * chunks * state : 0), F32 };
}

struct cost cost_scan_fwd(const struct scan *a)
{
    double t = (double)a->B * (double)a->T, state = (double)a->B * (double)a->C * (double)a->N;

    return scan_cost(a, 30,
                     EACH(t * (double)a->C, &a->x, &a->dt_raw, &a->y) +
                         EACH(t * (double)a->N, &a->Bm, &a->Cm) + EACH(state, &a->h0, &a->hT));
}

struct cost cost_scan_bwd(const struct scan *a)
{
    double t = (double)a->B * (double)a->T, state = (double)a->B * (double)a->C * (double)a->N;

    return scan_cost(a, 44,
                     EACH(t * (double)a->C, &a->x, &a->dt_raw, &a->dy, &a->dx, &a->ddt_raw) +
                         EACH(t * (double)a->N, &a->Bm, &a->Cm, &a->dBm, &a->dCm) +
                         EACH(state, &a->dhT, &a->dh0));
}

struct cost cost_scan_step(const struct scan *a)
{
    double state = (double)a->C * (double)a->N;

    return (struct cost){ 0, bytes(&a->A_log, state) + 2 * bytes(&a->h0, (double)a->B * state), F32 };
}

struct cost cost_rglru_fwd(const struct rglru *a)
{
    return (struct cost){ 0, EACH((double)(a->B * a->T) * (double)a->C, &a->x, &a->gate_x, &a->gate_a, &a->y),
                          a->x.dtype };
}

struct cost cost_rglru_bwd(const struct rglru *a)
{
    return (struct cost){ 0,
                          EACH((double)(a->B * a->T) * (double)a->C, &a->x, &a->gate_x, &a->gate_a, &a->y,
                               &a->dy, &a->dx, &a->dgate_x, &a->dgate_a),
                          a->x.dtype };
}

struct cost cost_rglru_step(const struct rglru *a)
{
    double n = (double)a->B * (double)a->C;

    return (struct cost){ 0, EACH(n, &a->x, &a->gate_x, &a->gate_a, &a->y, &a->h0, &a->h0), a->x.dtype };
}

struct cost cost_rope(const struct rope *a)
{
    return (struct cost){ 0, 2 * bytes(&a->x, (double)(a->B * a->T) * (double)(a->H * a->R)), a->x.dtype };
}

static double sum_to(double n) { return n > 0 ? n * (n + 1) / 2 : 0; }

/* Query-key pairs of one head: the keys up to each query, at most `window` of them; whatever documents are
 * there. */
static double attn_pairs(const struct attn *a)
{
    double T = (double)a->T, q0 = (double)a->q0, beyond = q0 + T - (double)a->window; /* the last query's */

    return sum_to(q0 + T) - sum_to(q0) - (a->window ? sum_to(beyond) - sum_to(beyond - T) : 0);
}

static struct cost attn_cost(const struct attn *a, double products, double moved)
{
    return (struct cost){ 2 * products * attn_pairs(a) * (double)(a->B * a->Hq * a->hd), moved, a->q.dtype };
}

struct cost cost_attn_fwd(const struct attn *a)
{
    double q = (double)(a->B * a->T) * (double)(a->Hq * a->hd),
           k = (double)(a->B * a->S) * (double)(a->Hkv * a->hd);

    return attn_cost(a, 2, EACH(q, &a->q, &a->o) + EACH(k, &a->k, &a->v));
}

struct cost cost_attn_bwd(const struct attn *a)
{
    double q = (double)(a->B * a->T) * (double)(a->Hq * a->hd),
           k = (double)(a->B * a->S) * (double)(a->Hkv * a->hd);

    return attn_cost(a, 5, EACH(q, &a->q, &a->o, &a->dout, &a->dq) + EACH(k, &a->k, &a->v, &a->dk, &a->dv));
}

struct cost cost_attn_step(const struct attn *a)
{
    double keys = (double)(a->window > 0 && a->window < a->S ? a->window : a->S);

    return (struct cost){ 0,
                          EACH((double)(a->B * a->Hkv * a->hd) * keys, &a->k, &a->v) +
                              EACH((double)(a->B * a->Hq * a->hd), &a->q, &a->o),
                          a->q.dtype };
}

struct cost cost_act_fwd(const struct activation *a)
{
    return (struct cost){ 0, EACH((double)a->M * (double)a->D, &a->x, &a->u, &a->y), a->x.dtype };
}

struct cost cost_act_bwd(const struct activation *a)
{
    double n = (double)a->M * (double)a->D;

    return (struct cost){ 0, EACH(n, &a->x, &a->u, &a->dy, &a->dx) + (a->u.data ? bytes(&a->du, n) : 0),
                          a->x.dtype };
}

struct cost cost_xent(const struct xent *a)
{
    double M = (double)a->M, D = (double)a->D, V = (double)a->V;

    return (struct cost){ (a->dx.data ? 6 : 2) * M * D * V,
                          EACH(M * D, &a->x, &a->dx) + bytes(&a->w, V * D) +
                              (a->dx.data ? 2 * bytes(&a->dw, V * D) : 0),
                          a->x.dtype };
}

struct cost cost_cast(const struct cast *a)
{
    return (struct cost){ 0, EACH((double)a->M * (double)a->D, &a->x, &a->y), a->y.dtype };
}

/* The gradient is read, weights and moments are read and written. */
struct cost cost_adamw(const struct adamw *a)
{
    return (struct cost){
        0, (double)a->n * (28 + (a->ema ? 8 : 0) + (a->half ? 2 : 0) + (a->mask ? 1.0 / 16 : 0)), F32
    };
}

struct cost cost_total(const struct total *a) { return (struct cost){ 0, 4 * (double)a->n + 8, F32 }; }

struct cost cost_judge(const struct judge *a)
{
    return (struct cost){ 0, 16 * (double)a->ranks + (double)sizeof *a->verdict, F32 };
}
