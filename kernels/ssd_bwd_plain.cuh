/* ssd_bwd_plain.cuh - state-space duality, backward: walk and tiles (ssd_bwd.cuh) for floats and for shapes
 * that the tensor cores' kernels do not take; all in float
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_SSD_BWD_PLAIN_CUH
#define SSM_SSD_BWD_PLAIN_CUH

#include "ssd_bwd.cuh"

namespace {

/* ---- walk: a thread per element of the state [P,N] ---- */

/* A segment of `len` tiles: forward S from a chunk's saved state, or back dS. grid: segments, then [B,H],
 * then parts. */
template <class T, bool BACK>
__global__ void __launch_bounds__(256)
    ssd_bwd_walk_plain(const struct ssd_bwd c, int64_t len, struct tensor from, struct tensor to)
{
    const struct ssd &a = c.a;
    const struct tensor &v = BACK ? a.dy : a.x, &m = BACK ? a.Cm : a.Bm;
    int64_t size = a.P * a.N, parts = (size + 255) / 256, at = blockIdx.x / parts,
            e = blockIdx.x % parts * 256 + threadIdx.x;
    int64_t segment = at / (a.B * a.H), b = at / a.H % a.B, h = at % a.H, row = b * a.H + h, g = h / c.p.rep;
    int64_t p = e / a.N, n = e % a.N;

    if (e >= size)
        return;
    if (!BACK)
        row = (b * c.p.chunks + c.first / c.p.per + segment) * a.H + h;
    float state = ssd_state_at(from, row * a.P + p, n);
    for (int64_t i = 0; i < len; i++) {
        int64_t k = segment * len + (BACK ? len - 1 - i : i);
        struct ssd_tile u = ssd_find_tile(a, c.p, c.first + k);
        const float *z = ssd_record(c, b, k, h);
        const T *vt = (const T *)v.data + (b * a.T + u.t0) * v.ld + h * a.P + p;
        const T *mt = (const T *)m.data + (b * a.T + u.t0) * m.ld + g * a.N + n;
        float sum = 0;

        ((float *)(BACK ? c.dS : c.S))[((b * c.tiles + k) * a.H + h) * size + e] = state;
        for (int t = 0; t < u.n; t++) {
            float w = BACK ? z[IN * SSD_TILE + t] : z[DT * SSD_TILE + t] * z[TAIL * SSD_TILE + t];
            sum += w * to_float(vt[t * v.ld]) * to_float(mt[t * m.ld]);
        }
        state = z[IN * SSD_TILE + SSD_TILE - 1] * state + sum;
    }
    if (BACK && to.data)
        ((float *)to.data)[((b * a.H + h) * a.P + p) * to.ld + n] = state;
}

/* ---- tiles: a block of 8 warps, each of which has 8 tokens ---- */

enum { PLAIN_ROWS = 8, PLAIN_PAD = SSD_TILE + 1 };

/* acc[i] = sum over k of x(i, k) y(k) for the warp's rows i */
template <class X, class Y>
__device__ __forceinline__ void plain_product(float *acc, int64_t k0, int64_t k1, X x, Y y)
{
    for (int i = 0; i < PLAIN_ROWS; i++)
        acc[i] = 0;
    for (int64_t k = k0; k < k1; k++) {
        float f = y(k);
        for (int i = 0; i < PLAIN_ROWS; i++)
            acc[i] += x(i, k) * f;
    }
}

static inline size_t ssd_plain_shared(const struct ssd *a)
{
    return (size_t)(5 * SSD_TILE * PLAIN_PAD + 2 * SSD_TILE * (a->P + 1) + SSD_TILE) * sizeof(float);
}

/* What the block has in shared memory; matrices of tokens [t,s] have rows of PLAIN_PAD. */
struct plain_room {
    float *CB, *dCB, *M, *R, *E; /* E: sums of R over s < j */
    float *x, *dy;               /* rows of P + 1 */
    int *sees;
};

/* M = C B^T d dt and, by (t,s), R; dCB (+)= G d. */
template <class T>
__device__ __forceinline__ void plain_scores(const struct ssd_bwd &c, const struct plain_room &m, float *z,
                                             bool first)
{
    int64_t P = c.a.P;
    int row = threadIdx.x / 32 * PLAIN_ROWS, lane = threadIdx.x % 32;

    for (int s = lane; s < SSD_TILE; s += 32) {
        float acc[PLAIN_ROWS];

        plain_product(
            acc, 0, P, [&](int i, int64_t k) { return m.dy[(row + i) * (P + 1) + k]; },
            [&](int64_t k) { return m.x[s * (P + 1) + k]; });
        for (int i = 0; i < PLAIN_ROWS; i++) {
            int t = row + i, at = t * PLAIN_PAD + s;
            bool see = s <= t && s >= m.sees[t];
            float d = see ? expf((z[CUM * SSD_TILE + t] - z[CUM * SSD_TILE + s]) +
                                 (z[LOW * SSD_TILE + t] - z[LOW * SSD_TILE + s]))
                          : 0.0f;
            float w = see ? acc[i] * z[DT * SSD_TILE + s] * d : 0.0f;

            m.M[at] = see ? m.CB[at] * d : 0.0f;
            m.R[at] = see && s < t ? w * m.CB[at] : 0.0f;
            m.dCB[at] = first ? w : m.dCB[at] + w;
        }
    }
}

/* dx of a head, its part of dB, and DIRECT, SKIP and PAST. */
template <class T>
__device__ __forceinline__ void plain_keys(const struct ssd_bwd &c, const struct plain_room &m,
                                           const struct ssd_tile &u, int64_t b, int64_t h, const float *z,
                                           const float *dS, float *dB, bool first, float *past, float *direct,
                                           float *skip)
{
    const struct ssd &a = c.a;
    int64_t P = a.P, N = a.N, g = h / c.p.rep, from = b * a.T + u.t0;
    int row = threadIdx.x / 32 * PLAIN_ROWS, lane = threadIdx.x % 32;
    float D = ((const float *)a.D.data)[h];
    const T *B = (const T *)a.Bm.data + from * a.Bm.ld + g * N;

    for (int i = 0; i < PLAIN_ROWS; i++)
        past[i] = direct[i] = skip[i] = 0;
    for (int64_t p = lane; p < P; p += 32) {
        float in[PLAIN_ROWS], out[PLAIN_ROWS];

        plain_product(
            in, row, SSD_TILE, [&](int i, int64_t k) { return m.M[k * PLAIN_PAD + row + i]; },
            [&](int64_t k) { return m.dy[k * (P + 1) + p]; });
        plain_product(
            out, 0, N,
            [&](int i, int64_t k) { return row + i < u.n ? to_float(B[(row + i) * a.Bm.ld + k]) : 0.0f; },
            [&](int64_t k) { return dS[p * N + k]; });
        for (int i = 0; i < PLAIN_ROWS; i++) {
            int s = row + i;
            float x = m.x[s * (P + 1) + p], dy = m.dy[s * (P + 1) + p], dt = z[DT * SSD_TILE + s];
            float later = z[TAIL * SSD_TILE + s] * out[i], gx = in[i] + later;

            if (s >= u.n)
                continue;
            past[i] += dt * later * x;
            direct[i] += gx * x;
            skip[i] += dy * x;
            ((T *)a.dx.data)[(from + s) * a.dx.ld + h * P + p] = from_float<T>(dt * gx + D * dy);
        }
    }
    for (int64_t n = lane; n < N; n += 32) {
        float acc[PLAIN_ROWS];

        plain_product(
            acc, 0, P, [&](int i, int64_t k) { return m.x[(row + i) * (P + 1) + k]; },
            [&](int64_t k) { return dS[k * N + n]; });
        for (int i = 0; i < PLAIN_ROWS; i++) {
            float *to = dB + (row + i) * a.G * N + n,
                  v = z[DT * SSD_TILE + row + i] * z[TAIL * SSD_TILE + row + i] * acc[i];
            *to = first ? v : *to + v;
        }
    }
}

/* A head's part of dC through the state that enters; into: what of it comes from the decay up to t. */
template <class T>
__device__ __forceinline__ void plain_queries(const struct ssd_bwd &c, const struct plain_room &m,
                                              const struct ssd_tile &u, int64_t b, int64_t g, const float *z,
                                              const float *S, float *dC, bool first, float *into)
{
    const struct ssd &a = c.a;
    int64_t P = a.P, N = a.N;
    int row = threadIdx.x / 32 * PLAIN_ROWS, lane = threadIdx.x % 32;
    const T *C = (const T *)a.Cm.data + (b * a.T + u.t0) * a.Cm.ld + g * N;

    for (int i = 0; i < PLAIN_ROWS; i++)
        into[i] = 0;
    for (int64_t n = lane; n < N; n += 32) {
        float acc[PLAIN_ROWS];

        plain_product(
            acc, 0, P, [&](int i, int64_t k) { return m.dy[(row + i) * (P + 1) + k]; },
            [&](int64_t k) { return S[k * N + n]; });
        for (int i = 0; i < PLAIN_ROWS; i++) {
            float *to = dC + (row + i) * a.G * N + n, v = z[IN * SSD_TILE + row + i] * acc[i];

            *to = first ? v : *to + v;
            if (row + i < u.n)
                into[i] += v * to_float(C[(row + i) * a.Cm.ld + n]);
        }
    }
}

/* dC += dCB B and dB += dCB^T C, once for all heads of the slice. */
template <class T>
__device__ __forceinline__ void plain_shared_scores(const struct ssd_bwd &c, const struct plain_room &m,
                                                    const struct ssd_tile &u, int64_t b, int64_t g, float *dB,
                                                    float *dC)
{
    const struct ssd &a = c.a;
    int row = threadIdx.x / 32 * PLAIN_ROWS, lane = threadIdx.x % 32;
    const T *B = (const T *)a.Bm.data + (b * a.T + u.t0) * a.Bm.ld + g * a.N;
    const T *C = (const T *)a.Cm.data + (b * a.T + u.t0) * a.Cm.ld + g * a.N;

    for (int64_t n = lane; n < a.N; n += 32) {
        float acc[PLAIN_ROWS];

        plain_product(
            acc, 0, min(u.n, row + PLAIN_ROWS),
            [&](int i, int64_t k) { return m.dCB[(row + i) * PLAIN_PAD + k]; },
            [&](int64_t k) { return to_float(B[k * a.Bm.ld + n]); });
        for (int i = 0; i < PLAIN_ROWS; i++)
            dC[(row + i) * a.G * a.N + n] += acc[i];
        plain_product(
            acc, row, u.n, [&](int i, int64_t k) { return m.dCB[k * PLAIN_PAD + row + i]; },
            [&](int64_t k) { return to_float(C[k * a.Cm.ld + n]); });
        for (int i = 0; i < PLAIN_ROWS; i++)
            dB[(row + i) * a.G * a.N + n] += acc[i];
    }
}

/* d(dt a)[j] = sum of R[t,s] over s < j <= t, + into of later tokens, + past of earlier ones, + through;
 * written over CUM. Never a difference of two sums, which cancels. */
__device__ __forceinline__ void plain_decay(const struct plain_room &m, float *z, const float *into,
                                            const float *past, float through)
{
    int j = threadIdx.x;

    if (j < SSD_TILE) {
        float run = 0;
        for (int s = 0; s <= j; s++) {
            m.E[j * PLAIN_PAD + s] = run;
            run += m.R[j * PLAIN_PAD + s];
        }
    }
    __syncthreads();
    if (j < SSD_TILE) {
        float sum = through;
        for (int t = j; t < SSD_TILE; t++)
            sum += m.E[t * PLAIN_PAD + j] + into[t];
        for (int s = 0; s < j; s++)
            sum += past[s];
        z[DECAY * SSD_TILE + j] = sum;
    }
}

/* grid: [B,tiles,G,slices] */
template <class T> __global__ void __launch_bounds__(256) ssd_bwd_tiles_plain(const struct ssd_bwd c)
{
    __shared__ float into[SSD_TILE], past[SSD_TILE], room[33];
    DYNAMIC_SHARED(float, shared);
    const struct ssd &a = c.a;
    int64_t P = a.P, N = a.N, slice = blockIdx.x % c.slices, g = blockIdx.x / c.slices % a.G;
    int64_t k = blockIdx.x / (c.slices * a.G) % c.tiles, b = blockIdx.x / (c.slices * a.G) / c.tiles;
    struct ssd_tile u = ssd_find_tile(a, c.p, c.first + k);
    int64_t part = ((slice * a.B + b) * c.tiles + k) * SSD_TILE * a.G * N + g * N, from = b * a.T + u.t0;
    float *dB = c.dB + part, *dC = c.dC + part;
    int tid = threadIdx.x, row = tid / 32 * PLAIN_ROWS, lane = tid % 32, size = SSD_TILE * PLAIN_PAD;
    struct plain_room m = { shared,
                            shared + size,
                            shared + 2 * size,
                            shared + 3 * size,
                            shared + 4 * size,
                            shared + 5 * size,
                            shared + 5 * size + SSD_TILE * (P + 1),
                            (int *)(shared + 5 * size + 2 * SSD_TILE * (P + 1)) };

    if (u.n == 0)
        return;
    if (tid < SSD_TILE)
        m.sees[tid] = ssd_sees_from(c, b, u, tid);
    for (int s = lane; s < SSD_TILE; s += 32) {
        const T *B = (const T *)a.Bm.data + (from + s) * a.Bm.ld + g * N;
        const T *C = (const T *)a.Cm.data + (from + row) * a.Cm.ld + g * N;
        float acc[PLAIN_ROWS];

        plain_product(
            acc, 0, s < u.n ? N : 0,
            [&](int i, int64_t n) { return row + i < u.n ? to_float(C[i * a.Cm.ld + n]) : 0.0f; },
            [&](int64_t n) { return to_float(B[n]); });
        for (int i = 0; i < PLAIN_ROWS; i++)
            m.CB[(row + i) * PLAIN_PAD + s] = acc[i];
    }
    for (int64_t i = 0; i < c.heads && slice * c.heads + i < c.p.rep; i++) {
        int64_t h = g * c.p.rep + slice * c.heads + i, state = ((b * c.tiles + k) * a.H + h) * P * N;
        const float *S = (const float *)c.S + state, *dS = (const float *)c.dS + state;
        float *z = ssd_record(c, b, k, h), keep = z[IN * SSD_TILE + SSD_TILE - 1], through = 0;
        float sums[4][PLAIN_ROWS];

        __syncthreads();
        for (int64_t e = tid; e < SSD_TILE * P; e += 256) {
            int64_t t = e / P, p = e % P;
            m.x[t * (P + 1) + p] =
                t < u.n ? to_float(((const T *)a.x.data)[(from + t) * a.x.ld + h * P + p]) : 0.0f;
            m.dy[t * (P + 1) + p] =
                t < u.n ? to_float(((const T *)a.dy.data)[(from + t) * a.dy.ld + h * P + p]) : 0.0f;
        }
        for (int64_t e = tid; keep != 0.0f && e < P * N; e += 256)
            through += S[e] * dS[e];
        through = keep * block_sum(through, room); /* 0 where no token of the last document sees S */
        plain_scores<T>(c, m, z, i == 0);
        __syncthreads();
        plain_keys<T>(c, m, u, b, h, z, dS, dB, i == 0, sums[0], sums[1], sums[2]);
        plain_queries<T>(c, m, u, b, g, z, S, dC, i == 0, sums[3]);
        for (int r = 0; r < PLAIN_ROWS; r++) {
            for (int j = 0; j < 4; j++)
                sums[j][r] = warp_sum(sums[j][r]);
            if (lane == 0) {
                past[row + r] = sums[0][r];
                into[row + r] = sums[3][r];
            }
        }
        __syncthreads();
        for (int r = 0; r < PLAIN_ROWS && lane == 0; r++) {
            z[DIRECT * SSD_TILE + row + r] = sums[1][r];
            z[SKIP * SSD_TILE + row + r] = sums[2][r];
        }
        plain_decay(m, z, into, past, through);
    }
    __syncthreads();
    plain_shared_scores<T>(c, m, u, b, g, dB, dC);
}

}

#endif
