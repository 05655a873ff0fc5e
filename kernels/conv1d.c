/* conv1d.c - causal depthwise convolution along the sequence
 * SPDX-License-Identifier: MIT
 *
 * y[t] = act(bias + sum_j w[c,W-1-j] x[t-j]) over the taps t-j >= start[t]; x before the row is the
 * halo, or zero. With g[t] = dy[t] act'(...):
 *   dx[t] = sum_j w[c,W-1-j] g[t+j] over t >= start[t+j];  dw[c,W-1-j] = sum_t g[t] x[t-j].
 *
 * A tile is TILE tokens x CB channels. The backward pass makes g for the tile and the W-1 tokens
 * behind it (which its dx needs; their dw belongs to the next tile), in a buffer on the stack. Tiles
 * of one piece of a sequence share the partial sums of dw; pieces are then added in order.
 */
#include <string.h>

#include "cpu.h"
#include "vmath.h"

#define MAXW 8
#define TILE 64
#define CB 64

static void check(const struct conv1d *a, const char *op)
{
    CPU_NEED(op, a, x);
    CPU_NEED(op, a, w);
    CPU_ALLOW(op, a, bias);
    CPU_ALLOW(op, a, halo);
    if (a->W < 1 || a->W > MAXW)
        cpu_fault(op, "W", "is not in 1..8");
}

/* Pieces of the sequences: rows of one piece are a multiple of TILE. */
static int64_t piece_rows(const struct conv1d *a)
{
    int64_t wanted = cpu_max(1, 64 / cpu_max(1, a->B)); /* pieces per sequence */

    return cpu_max(1, cpu_ceil(cpu_ceil(a->T, wanted), TILE)) * TILE;
}

size_t cpu_conv1d_work(const struct conv1d *a)
{
    /* at most, for any smaller B and T too */
    int64_t pieces = cpu_min(a->B * cpu_ceil(a->T, TILE), cpu_max(64, a->B));

    return (size_t)(pieces * (a->W + 1) * cpu_round(a->C)) * sizeof(float) + CPU_SLACK;
}

/* The input of sequence b at token t, t >= -(W-1); NULL where it reads as zero. */
static const float *input(const struct conv1d *a, int64_t b, int64_t t)
{
    if (t >= 0)
        return cpu_row(&a->x, b * a->T + t);
    return a->halo.data ? cpu_row(&a->halo, b * (a->W - 1) + a->W - 1 + t) : NULL;
}

/* How many taps of token t lie in its document and in known inputs. */
static int64_t taps(const struct conv1d *a, int64_t b, int64_t t)
{
    int64_t first = cpu_start(a->start, b * a->T + t);

    if (!a->halo.data)
        first = cpu_max(first, 0);
    return cpu_min(a->W, t - first + 1);
}

/* wt [W+1][CB] = the block's taps, current token first, then its bias */
static void load_taps(const struct conv1d *a, int64_t c0, int64_t n, float (*wt)[CB])
{
    for (int64_t c = 0; c < n; c++) {
        const float *w = cpu_row(&a->w, c0 + c);

        for (int64_t j = 0; j < a->W; j++)
            wt[j][c] = w[a->W - 1 - j];
        wt[a->W][c] = a->bias.data ? ((const float *)a->bias.data)[c0 + c] : 0.0f;
    }
}

/* out [n] = bias + sum over k taps of token t */
static void sum_taps(const struct conv1d *a, int64_t b, int64_t t, int64_t k, int64_t c0, int64_t n,
                     float (*wt)[CB], float *restrict out)
{
    const float *x[MAXW], *bias = wt[a->W];

    for (int64_t j = 0; j < k; j++)
        x[j] = input(a, b, t - j) + c0;
    if (k == 4) { /* the width of every Mamba model */
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            out[c] =
                bias[c] + wt[3][c] * x[3][c] + wt[2][c] * x[2][c] + wt[1][c] * x[1][c] + wt[0][c] * x[0][c];
        return;
    }
    memcpy(out, bias, (size_t)n * sizeof(float));
    for (int64_t j = k - 1; j >= 0; j--)
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            out[c] += wt[j][c] * x[j][c];
}

static void silu_row(int64_t n, float *y)
{
#pragma omp simd
    for (int64_t c = 0; c < n; c++)
        y[c] *= vmath_sigmoid(y[c]);
}

/* The last W-1 rows of halo|x, oldest first; ascending, since halo_out may be the halo. */
static void copy_halo(const struct conv1d *a)
{
    for (int64_t b = 0; b < a->B; b++)
        for (int64_t i = 0; i < a->W - 1; i++) {
            const float *from = input(a, b, a->T - (a->W - 1) + i);
            float *to = cpu_row(&a->halo_out, b * (a->W - 1) + i);

            if (from)
                memmove(to, from, (size_t)a->C * sizeof(float));
            else
                memset(to, 0, (size_t)a->C * sizeof(float));
        }
}

void cpu_conv1d_fwd(const struct conv1d *a)
{
    int64_t tiles = cpu_ceil(a->T, TILE), blocks = cpu_ceil(a->C, CB);

    check(a, "conv1d_fwd");
    CPU_NEED("conv1d_fwd", a, y);
    CPU_ALLOW("conv1d_fwd", a, halo_out);
#pragma omp parallel for schedule(static)
    for (int64_t job = 0; job < a->B * tiles * blocks; job++) {
        int64_t b = job / (tiles * blocks), t0 = job / blocks % tiles * TILE;
        int64_t c0 = job % blocks * CB, n = cpu_min(CB, a->C - c0);
        float wt[MAXW + 1][CB];

        load_taps(a, c0, n, wt);
        for (int64_t t = t0; t < cpu_min(a->T, t0 + TILE); t++) {
            float *y = cpu_row(&a->y, b * a->T + t) + c0;

            sum_taps(a, b, t, taps(a, b, t), c0, n, wt, y);
            if (a->silu)
                silu_row(n, y);
        }
    }
    if (a->halo_out.data && a->W > 1)
        copy_halo(a);
}

/* g [n] = dy act'(bias + ...) of token t */
static void grad_row(const struct conv1d *a, int64_t b, int64_t t, int64_t k, int64_t c0, int64_t n,
                     float (*wt)[CB], float *restrict g)
{
    const float *dy = cpu_row(&a->dy, b * a->T + t) + c0;

    if (!a->silu) {
        memcpy(g, dy, (size_t)n * sizeof(float));
        return;
    }
    sum_taps(a, b, t, k, c0, n, wt, g);
#pragma omp simd
    for (int64_t c = 0; c < n; c++) {
        float v = g[c], s = vmath_sigmoid(v);

        g[c] = dy[c] * (s + v * s * (1.0f - s));
    }
}

/* dst [n] = sum_j w_j g[t+j], over the tokens t+j whose tap j exists; row 0 of g is token t0 */
static void input_grad(const struct conv1d *a, int64_t t, int64_t t0, int64_t n, const int64_t *k,
                       float (*wt)[CB], float (*g)[CB], float *restrict dst)
{
    int64_t first = cpu_max(0, -t), last = cpu_min(a->W, a->T - t); /* j from, to */
    bool full = first == 0 && last == 4;

    for (int64_t j = first; full && j < last; j++)
        full = k[t + j - t0] > j;
    if (full) {
        float(*r)[CB] = g + (t - t0);

#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            dst[c] = wt[0][c] * r[0][c] + wt[1][c] * r[1][c] + wt[2][c] * r[2][c] + wt[3][c] * r[3][c];
        return;
    }
    memset(dst, 0, (size_t)n * sizeof(float));
    for (int64_t j = first; j < last; j++)
        if (k[t + j - t0] > j)
#pragma omp simd
            for (int64_t c = 0; c < n; c++)
                dst[c] += wt[j][c] * g[t + j - t0][c];
}

/* part [W+1][CB] += the tile's sums of g[t] x[t-j] for each tap j, then of g[t] */
static void weight_grad(const struct conv1d *a, int64_t b, int64_t t0, int64_t t1, int64_t c0, int64_t n,
                        const int64_t *k, float (*g)[CB], float (*part)[CB])
{
    for (int64_t t = t0; t < t1; t++) {
        const float *gt = g[t - t0];
        const float *x[MAXW];

        for (int64_t j = 0; j < k[t - t0]; j++)
            x[j] = input(a, b, t - j) + c0;
        if (k[t - t0] == 4 && a->W == 4) {
#pragma omp simd
            for (int64_t c = 0; c < n; c++) {
                part[0][c] += gt[c] * x[0][c];
                part[1][c] += gt[c] * x[1][c];
                part[2][c] += gt[c] * x[2][c];
                part[3][c] += gt[c] * x[3][c];
                part[4][c] += gt[c];
            }
            continue;
        }
        for (int64_t j = 0; j < k[t - t0]; j++)
#pragma omp simd
            for (int64_t c = 0; c < n; c++)
                part[j][c] += gt[c] * x[j][c];
#pragma omp simd
        for (int64_t c = 0; c < n; c++)
            part[a->W][c] += gt[c];
    }
}

/* One piece of one sequence, one block of channels; part [W+1,ld] belongs to the piece. */
static void bwd_piece(const struct conv1d *a, int64_t b, int64_t p0, int64_t p1, int64_t c0, float *part,
                      int64_t ld)
{
    int64_t n = cpu_min(CB, a->C - c0);
    float wt[MAXW + 1][CB], sums[MAXW + 1][CB], g[TILE + MAXW][CB];

    load_taps(a, c0, n, wt);
    memset(sums, 0, sizeof(sums));
    for (int64_t t0 = p0; t0 < p1; t0 += TILE) {
        int64_t t1 = cpu_min(p1, t0 + TILE), k[TILE + MAXW];

        for (int64_t t = t0; t < cpu_min(a->T, t1 + a->W - 1); t++) {
            k[t - t0] = taps(a, b, t);
            grad_row(a, b, t, k[t - t0], c0, n, wt, g[t - t0]);
        }
        for (int64_t t = t0; t < t1; t++)
            input_grad(a, t, t0, n, k, wt, g, cpu_row(&a->dx, b * a->T + t) + c0);
        if (t0 == 0 && a->dhalo.data)
            for (int64_t i = 0; i < a->W - 1; i++)
                input_grad(a, i - (a->W - 1), 0, n, k, wt, g, cpu_row(&a->dhalo, b * (a->W - 1) + i) + c0);
        weight_grad(a, b, t0, t1, c0, n, k, g, sums);
    }
    for (int64_t j = 0; j <= a->W; j++)
        memcpy(part + j * ld + c0, sums[j], (size_t)n * sizeof(float));
}

void cpu_conv1d_bwd(const struct conv1d *a)
{
    int64_t rows = piece_rows(a), per = cpu_ceil(a->T, rows), pieces = a->B * per;
    int64_t blocks = cpu_ceil(a->C, CB), ld = cpu_round(a->C), stride = (a->W + 1) * ld;
    float *part = cpu_scratch("conv1d_bwd", a->work);

    check(a, "conv1d_bwd");
    CPU_NEED("conv1d_bwd", a, dy);
    CPU_NEED("conv1d_bwd", a, dx);
    CPU_NEED("conv1d_bwd", a, dw);
    CPU_ALLOW("conv1d_bwd", a, dbias);
    CPU_ALLOW("conv1d_bwd", a, dhalo);
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t job = 0; job < pieces * blocks; job++) {
            int64_t p = job / blocks, b = p / per, p0 = p % per * rows;

            bwd_piece(a, b, p0, cpu_min(a->T, p0 + rows), job % blocks * CB, part + p * stride, ld);
        }
#pragma omp for schedule(static)
        for (int64_t c = 0; c < a->C; c++) {
            float *dw = cpu_row(&a->dw, c);

            for (int64_t p = 0; p < pieces; p++) {
                for (int64_t j = 0; j < a->W; j++)
                    dw[a->W - 1 - j] += part[p * stride + j * ld + c];
                if (a->dbias.data)
                    ((float *)a->dbias.data)[c] += part[p * stride + a->W * ld + c];
            }
        }
    }
}

void cpu_conv1d_step(const struct conv1d *a)
{
    int64_t blocks = cpu_ceil(a->C, CB);

    check(a, "conv1d_step");
    CPU_NEED("conv1d_step", a, y);
    if (a->W > 1)
        CPU_NEED("conv1d_step", a, halo);
#pragma omp parallel for schedule(static)
    for (int64_t job = 0; job < a->B * blocks; job++) {
        int64_t b = job / blocks, c0 = job % blocks * CB, n = cpu_min(CB, a->C - c0);
        const float *x = cpu_row(&a->x, b) + c0;
        float *y = cpu_row(&a->y, b) + c0, wt[MAXW + 1][CB], out[CB];

        load_taps(a, c0, n, wt);
        memcpy(out, wt[a->W], (size_t)n * sizeof(float));
        for (int64_t j = a->W - 1; j >= 0; j--) {
            const float *v = j ? cpu_row(&a->halo, b * (a->W - 1) + a->W - 1 - j) + c0 : x;

#pragma omp simd
            for (int64_t c = 0; c < n; c++)
                out[c] += wt[j][c] * v[c];
        }
        if (a->silu)
            silu_row(n, out);
        for (int64_t i = 0; i < a->W - 1; i++)
            memcpy(cpu_row(&a->halo, b * (a->W - 1) + i) + c0,
                   i < a->W - 2 ? cpu_row(&a->halo, b * (a->W - 1) + i + 1) + c0 : x,
                   (size_t)n * sizeof(float));
        memcpy(y, out, (size_t)n * sizeof(float));
    }
}
