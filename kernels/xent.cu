/* xent.cu - linear head and softmax cross-entropy on the GPU, a block of rows at a time
 * SPDX-License-Identifier: MIT
 *
 * As xent.c: z = x w^T;  loss = logsumexp(f(z)) - f(z[target]);  e = (softmax - onehot) f'(z) in the place of z;
 * dx = e w;  dw += e^T x. The products are matmul's and take nearly all of the time. With a gradient logits and e have the
 * dtype of x: in BF16 logits are rounded, as they are where a linear layer comes before the loss. Without, logits are
 * floats and the loss is exact. Sums are of floats. Only one block of rows is in memory, LOGIT_BYTES of it; a smaller
 * one would make the products read and write dw too often. Between the products a block of threads has a row: it reads it
 * once for the largest logit and the sum, kept together (Milakov & Gimelshein 2018), and once more to write e: from shared
 * memory if the row fits, else mostly from the L2 cache.
 */
#include "cells.cuh"

namespace {

enum { THREADS = 512, BATCH = 4, PAD = 64 };
enum { KEPT_BYTES = 112 << 10 }; /* of a row in shared memory, with two blocks a multiprocessor */
const int64_t LOGIT_BYTES = 512 << 20;

/* ---- a row ---- */

constexpr float LOG2E = 1.442695041f;

/* e^(z - base). Float work is done with exact functions; logits that were rounded to bf16 need none, and a row of
 * them is bound by instructions: two of them here, and what they flush to 0 is nothing beside the largest. */
template <class T> __device__ __forceinline__ float exponential(float z, float base)
{
    return sizeof(T) == 2 ? fast_exp2(fmaf(z, LOG2E, -LOG2E * base)) : expf(z - base);
}
/* The sum of exp(z - top), and the largest so far. */
struct running {
    float top, sum;
};

/* While nothing but -inf has come, differences are taken from 0: -inf - -inf would be NaN. */
__device__ __forceinline__ float base_of(float top) { return top == -INFINITY ? 0.0f : top; }

template <class T> __device__ __forceinline__ running merged(running a, running b)
{
    float top = fmaxf(a.top, b.top), base = base_of(top);
    return { top, a.sum * exponential<T>(a.top, base) + b.sum * exponential<T>(b.top, base) };
}

template <class T> __device__ __forceinline__ running block_merged(running r, running *room)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    for (int k = 16; k > 0; k >>= 1)
        r = merged<T>(r, { __shfl_xor_sync(0xffffffffu, r.top, k), __shfl_xor_sync(0xffffffffu, r.sum, k) });
    if (lane == 0)
        room[warp] = r;
    __syncthreads();
    r = { -INFINITY, 0.0f };
    if (lane < THREADS / 32)
        r = room[lane];
    for (int k = 16; k > 0; k >>= 1)
        r = merged<T>(r, { __shfl_xor_sync(0xffffffffu, r.top, k), __shfl_xor_sync(0xffffffffu, r.sum, k) });
    return r;
}

struct cap {
    float most, inverse;
};

template <class T, int N> __device__ __forceinline__ void keep(T *shared, const elements<T, N> &e)
{
    *(words<4> *)shared = { { e.u[0], e.u[1], e.u[2], e.u[3] } };
}

/* cap tanh(z/cap); tanh(y) = 1 - 2/(1 + exp(2y)), whose error near 0 is 1e-7 cap, is enough for bf16. */
template <bool CAPPED, class T> __device__ __forceinline__ float capped(float z, const cap &c)
{
    if (!CAPPED)
        return z;
    float y = z * c.inverse;
    return c.most * (sizeof(T) == 2 ? 1.0f - 2.0f * fast_rcp(1.0f + fast_exp2(2.0f * LOG2E * y)) : tanhf(y));
}

/* Its derivative, from the capped logit; rounding must not turn the sign. */
template <bool CAPPED> __device__ __forceinline__ float cap_slope(float z, const cap &c)
{
    if (!CAPPED)
        return 1.0f;
    float slope = 1.0f - z * c.inverse * (z * c.inverse);
    return slope < 0.0f ? 0.0f : slope;
}

template <bool CAPPED, int PACKS, class T, int N>
__device__ __forceinline__ void take_packs(running *r, const elements<T, N> *in, const cap &c)
{
    float z[PACKS][N], top = r->top;

#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        in[k].get(z[k]);
#pragma unroll
        for (int j = 0; j < N; j++) {
            z[k][j] = capped<CAPPED, T>(z[k][j], c);
            top = fmaxf(top, z[k][j]);
        }
    }
    float base = base_of(top), sum = r->sum * exponential<T>(r->top, base);
#pragma unroll
    for (int k = 0; k < PACKS * N; k++)
        sum += exponential<T>(z[k / N][k % N], base);
    *r = { top, sum };
}

/* The part of this thread: its packs of the whole ones, and one logit of the rest. KEPT: the packs stay in `kept`. */
template <bool CAPPED, bool KEPT, class T, int N>
__device__ __forceinline__ running row_sum(const T *z, T *kept, int64_t V, const cap &c)
{
    running r = { -INFINITY, 0.0f };
    int64_t whole = V / N, i = threadIdx.x;

    for (; i + (BATCH - 1) * THREADS < whole; i += BATCH * THREADS) {
        elements<T, N> in[BATCH];
#pragma unroll
        for (int k = 0; k < BATCH; k++)
            in[k].read(z + (i + k * THREADS) * N);
#pragma unroll
        for (int k = 0; KEPT && k < BATCH; k++)
            keep(kept + (i + k * THREADS) * N, in[k]);
        take_packs<CAPPED, BATCH>(&r, in, c);
    }
    for (; i < whole; i += THREADS) {
        elements<T, N> in;
        in.read(z + i * N);
        if (KEPT)
            keep(kept + i * N, in);
        take_packs<CAPPED, 1>(&r, &in, c);
    }
    if (whole * N + threadIdx.x < V)
        r = merged<T>(r, { capped<CAPPED, T>(to_float(z[whole * N + threadIdx.x]), c), 1.0f });
    return r;
}

/* e in the place of z, but for the target's. A thread takes from `kept` what it put there. */
template <bool CAPPED, bool KEPT, class T, int N>
__device__ __forceinline__ void row_gradient(T *z, const T *kept, int64_t V, int64_t ld, float base, float scale,
                                             const cap &c)
{
    auto gradient = [&](float logit) {
        float f = capped<CAPPED, T>(logit, c);
        return exponential<T>(f, base) * scale * cap_slope<CAPPED>(f, c);
    };
    int64_t whole = V / N, rest = whole * N + threadIdx.x;

#pragma unroll BATCH
    for (int64_t i = threadIdx.x; i < whole; i += THREADS) {
        float v[N];
        read_floats(v, (KEPT ? kept : z) + i * N);
#pragma unroll
        for (int j = 0; j < N; j++)
            v[j] = gradient(v[j]);
        write_floats(z + i * N, v);
    }
    for (; rest < ld; rest += THREADS)
        z[rest] = from_float<T>(rest < V ? gradient(to_float(z[rest])) : 0.0f);
}

template <class T, int N> __device__ void zero_row(T *z, int64_t ld)
{
    pack<T, N> zero;

    for (int j = 0; j < N; j++)
        zero.v[j] = from_float<T>(0.0f);
    for (int64_t i = threadIdx.x; i < ld / N; i += THREADS)
        store_pack(z + i * N, zero);
}

/* z [rows,V], ld a multiple of PAD; with GRADIENT it becomes e, and the columns from V to ld 0. A target beyond the
 * vocabulary makes the loss NaN. */
template <bool CAPPED, bool GRADIENT, bool KEPT, class T>
__global__ void __launch_bounds__(THREADS, 2)
    row_kernel(T *logits, int64_t V, int64_t ld, const int32_t *targets, float *loss, cap c)
{
    constexpr int N = 16 / sizeof(T);
    __shared__ running room[THREADS / 32];
    DYNAMIC_SHARED(T, kept);
    T *z = logits + (int64_t)blockIdx.x * ld;
    int32_t target = targets[blockIdx.x];

    if (target < 0) {
        if (threadIdx.x == 0)
            loss[blockIdx.x] = 0.0f;
        if (GRADIENT)
            zero_row<T, N>(z, ld);
        return;
    }
    float zt = target < V ? capped<CAPPED, T>(to_float(z[target]), c) : NAN;
    running r = block_merged<T>(row_sum<CAPPED, KEPT, T, N>(z, kept, V, c), room); /* all have read zt when it returns */
    float base = base_of(r.top), scale = 1.0f / r.sum;
    if (threadIdx.x == 0)
        loss[blockIdx.x] = logf(r.sum) + (base - zt);
    if (!GRADIENT)
        return;
    row_gradient<CAPPED, KEPT, T, N>(z, kept, V, ld, base, scale, c);
    __syncthreads();
    if (threadIdx.x == 0 && target < V)
        z[target] = from_float<T>((exponential<T>(zt, base) * scale - 1.0f) * cap_slope<CAPPED>(zt, c));
}

/* ---- the host's side ---- */

size_t size_of(enum dtype t) { return t == BF16 ? 2 : 4; }

enum dtype logits_dtype(const struct xent *a) { return a->dx.data ? a->x.dtype : F32; }

int64_t w_rows(const struct xent *a) { return a->rows > a->V ? a->rows : a->V; }
int64_t logits_ld(const struct xent *a) { return round_up(w_rows(a), PAD); }

/* The rows that a block may have: as many as LOGIT_BYTES hold. */
int64_t most_rows(const struct xent *a)
{
    int64_t most = LOGIT_BYTES / (logits_ld(a) * (int64_t)size_of(logits_dtype(a))) / 128 * 128;

    most = most < 128 ? 128 : most;
    return a->M < most ? a->M : most;
}

/* Rows at a time, blocks of nearly equal size. */
int64_t block_rows(const struct xent *a)
{
    int64_t blocks = ceil_div(a->M, most_rows(a));

    return blocks <= 1 ? a->M : round_up(ceil_div(a->M, blocks), 128);
}

struct tensor rows_from(const struct tensor &t, int64_t row)
{
    return { (char *)t.data + row * t.ld * (int64_t)size_of(t.dtype), t.ld, t.dtype };
}

template <bool GRADIENT, bool KEPT, class T> void rows_as(const struct xent *a, T *z, int64_t m0, int64_t n)
{
    int64_t ld = logits_ld(a);
    size_t room = KEPT ? (size_t)ld * sizeof(T) : 0;
    const int32_t *target = a->target + m0;
    cap c = { (float)a->softcap, a->softcap > 0 ? (float)(1 / a->softcap) : 0.0f };

    if (a->softcap > 0)
        LAUNCH((row_kernel<true, GRADIENT, KEPT, T>), (unsigned)n, THREADS, room, z, a->V, ld, target, a->loss + m0, c);
    else
        LAUNCH((row_kernel<false, GRADIENT, KEPT, T>), (unsigned)n, THREADS, room, z, a->V, ld, target, a->loss + m0, c);
}

template <bool GRADIENT, class T> void rows(const struct xent *a, T *z, int64_t m0, int64_t n)
{
    if (GRADIENT && logits_ld(a) * (int64_t)sizeof(T) <= KEPT_BYTES)
        rows_as<GRADIENT, GRADIENT, T>(a, z, m0, n);
    else
        rows_as<GRADIENT, false, T>(a, z, m0, n);
}

/* Rows m0 to m0 + n. */
void block(const struct xent *a, void *work, int64_t m0, int64_t n)
{
    struct tensor z = { work, logits_ld(a), logits_dtype(a) }, x = rows_from(a->x, m0);
    struct matmul head = {}, dx = {}, dw = {};

    head.M = n, head.N = w_rows(a), head.K = a->D;
    head.trans_b = true;
    head.a = x, head.b = a->w, head.c = z;
    cuda_matmul(&head);
    if (!a->dx.data)
        return rows<false>(a, (float *)work, m0, n);
    WITH_TYPE(z.dtype, T, rows<true>(a, (T *)work, m0, n));
    dx.M = n, dx.N = a->D, dx.K = w_rows(a);
    dx.a = z, dx.b = a->w, dx.c = rows_from(a->dx, m0);
    cuda_matmul(&dx);
    dw.M = w_rows(a), dw.N = a->D, dw.K = n;
    dw.trans_a = true;
    dw.a = z, dw.b = x, dw.c = dw.add = a->dw;
    cuda_matmul(&dw);
}

void check(const struct xent *a)
{
    CUDA_NEED("xent", a, x);
    CUDA_NEED("xent", a, w);
    if (a->dx.data) {
        CUDA_NEED("xent", a, dx);
        CUDA_NEED("xent", a, dw);
    }
    if (a->w.dtype != a->x.dtype)
        cuda_fault("xent", "w", "has another dtype than x");
    if (a->softcap < 0)
        cuda_fault("xent", "softcap", "is negative");
    if (!a->work)
        cuda_fault("xent", "work", "is absent");
}

}

/* That of the largest block, so that it serves fewer rows too. */
size_t cuda_xent_work(const struct xent *a)
{
    return (size_t)(most_rows(a) * logits_ld(a)) * size_of(logits_dtype(a)) + 256;
}

void cuda_xent(const struct xent *a)
{
    check(a);
    if (a->M <= 0)
        return;
    void *work = (void *)(((uintptr_t)a->work + 255) & ~(uintptr_t)255);
    int64_t rows = block_rows(a);
    for (int64_t m0 = 0; m0 < a->M; m0 += rows)
        block(a, work, m0, a->M - m0 < rows ? a->M - m0 : rows);
}
