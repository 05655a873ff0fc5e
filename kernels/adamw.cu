/* adamw.cu - the end of a step on the GPU: sums of losses and squares, the verdict on them, the AdamW update
 * SPDX-License-Identifier: MIT
 *
 * Formulas: adamw.c; the scalars are made in double, once. A thread takes four elements, which share a byte of the
 * mask: 16 bytes read and 12 written an element, 2 more for the copy in bf16, 8 more for the running mean. The verdict is made
 * here, so that the update does not wait for the host.
 */
#include "device.cuh"
#include "judge.h"

namespace {

enum { THREADS = 256 };

struct scalars {
    float b1, c1, b2, c2, lr_m, scale_v, lr_p, eps, c_ema;
};

__device__ __forceinline__ float updated(const scalars &s, float gscale, float shrink, float grad, float p, float *m,
                                         float *v)
{
    float g = grad * gscale;

    *m = s.b1 * *m + s.c1 * g;
    *v = s.b2 * *v + s.c2 * g * g;
    return p - (s.lr_m * *m / (sqrtf(*v * s.scale_v) + s.eps) + shrink * p);
}

template <int N>
__global__ void __launch_bounds__(THREADS)
    adamw_kernel(scalars s, const float *scale, int64_t n, const uint8_t *mask, const float *grad, float *p, float *m,
                 float *v, float *ema, bf16 *half)
{
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N;

    if (i >= n)
        return;
    int what = mask ? mask[i / 16] : ADAMW_UPDATE | ADAMW_DECAY;
    float gscale = scale ? *scale : 1.0f;
    if (!(what & ADAMW_UPDATE) || gscale == 0.0f)
        return;
    auto gs = load_pack<float, N>(grad + i), ps = load_pack<float, N>(p + i), ms = load_pack<float, N>(m + i),
         vs = load_pack<float, N>(v + i);
    pack<float, N> es = ps;
    if (ema)
        es = load_pack<float, N>(ema + i);
    pack<bf16, N> hs;
    float shrink = what & ADAMW_DECAY ? s.lr_p : 0.0f;
#pragma unroll
    for (int k = 0; k < N; k++) {
        ps.v[k] = updated(s, gscale, shrink, gs.v[k], ps.v[k], &ms.v[k], &vs.v[k]);
        es.v[k] += s.c_ema * (ps.v[k] - es.v[k]);
        hs.v[k] = from_float<bf16>(ps.v[k]);
    }
    store_pack(p + i, ps);
    store_pack(m + i, ms);
    store_pack(v + i, vs);
    if (ema)
        store_pack(ema + i, es);
    if (half)
        store_pack(half + i, hs);
}

bool aligned(const void *p, int bytes) { return (uintptr_t)p % bytes == 0; }

/* Elements from `first` on, `n` of them, a multiple of N. */
template <int N> void launch(const struct adamw *a, const scalars &s, int64_t first, int64_t n)
{
    if (n <= 0)
        return;
    LAUNCH((adamw_kernel<N>), (unsigned)ceil_div(n / N, THREADS), THREADS, 0, s, a->gscale, n, a->mask ? a->mask + first / 16 : nullptr,
           a->grad + first, a->p + first, a->m + first, a->v + first, a->ema ? a->ema + first : nullptr,
           a->half ? (bf16 *)a->half + first : nullptr);
}

/* A block's sum; of all its threads, in the first. */
__device__ __forceinline__ double block_sum(double x)
{
    __shared__ double room[THREADS / 32];

    for (int k = 16; k > 0; k >>= 1)
        x += __shfl_xor_sync(0xffffffffu, x, k);
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int w = 0; w < THREADS / 32; w++)
        x += room[w];
    return x;
}

/* Each block goes through the array in steps of all blocks; x^2 is exact in double. */
template <int N, bool SQUARE>
__global__ void __launch_bounds__(THREADS) sum_kernel(const float *p, int64_t n, double *part)
{
    enum { PACKS = 4 };
    const int64_t step = (int64_t)CUDA_TOTAL_PARTS * THREADS;
    int64_t packs = n / N, i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    double sum = 0;

    for (; i < packs; i += PACKS * step) {
        pack<float, N> x[PACKS];
#pragma unroll
        for (int k = 0; k < PACKS; k++) {
            x[k] = {};
            if (i + k * step < packs)
                x[k] = load_pack<float, N>(p + (i + k * step) * N);
        }
#pragma unroll
        for (int k = 0; k < PACKS; k++)
#pragma unroll
            for (int j = 0; j < N; j++)
                sum += (double)x[k].v[j] * (SQUARE ? (double)x[k].v[j] : 1.0);
    }
    if (blockIdx.x == 0 && threadIdx.x < n % N) {
        double x = p[packs * N + threadIdx.x];
        sum += x * (SQUARE ? x : 1.0);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        part[blockIdx.x] = sum;
}

/* One block adds the parts up. */
__global__ void __launch_bounds__(THREADS) sum_parts_kernel(const double *part, bool add, double *to)
{
    double sum = 0;

    for (int i = threadIdx.x; i < CUDA_TOTAL_PARTS; i += THREADS)
        sum += part[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        *to = add ? *to + sum : sum;
}

template <int N> void launch_sum(const struct total *a, double *part)
{
    if (a->square)
        LAUNCH((sum_kernel<N, true>), CUDA_TOTAL_PARTS, THREADS, 0, a->x, a->n, part);
    else
        LAUNCH((sum_kernel<N, false>), CUDA_TOTAL_PARTS, THREADS, 0, a->x, a->n, part);
}

__global__ void judge_kernel(struct judge a) { judge_step(&a); }

}

void cuda_adamw(const struct adamw *a)
{
    scalars s;

    if (a->step < 1)
        cuda_fault("adamw", "step", "is less than 1");
    if (a->n <= 0)
        return;
    s.b1 = (float)a->beta1;
    s.c1 = (float)(1.0 - a->beta1);
    s.b2 = (float)a->beta2;
    s.c2 = (float)(1.0 - a->beta2);
    s.lr_m = (float)(a->lr / (1.0 - pow(a->beta1, (double)a->step)));
    s.scale_v = (float)(1.0 / (1.0 - pow(a->beta2, (double)a->step)));
    s.lr_p = (float)(a->lr * a->decay);
    s.eps = (float)a->eps;
    s.c_ema = (float)(1.0 - a->ema_decay);
    bool wide = aligned(a->grad, 16) && aligned(a->p, 16) && aligned(a->m, 16) && aligned(a->v, 16) &&
                aligned(a->ema, 16) && aligned(a->half, 8);
    int64_t whole = wide ? a->n / 16 * 16 : 0; /* so that the rest begins with a byte of the mask */
    launch<4>(a, s, 0, whole);
    launch<1>(a, s, whole, a->n - whole);
}

void cuda_total(const struct total *a)
{
    double *part = cuda_total_parts();

    if (aligned(a->x, 16))
        launch_sum<4>(a, part);
    else
        launch_sum<1>(a, part);
    LAUNCH(sum_parts_kernel, 1, THREADS, 0, part, a->add, a->sum);
}

void cuda_judge(const struct judge *a) { LAUNCH(judge_kernel, 1, 1, 0, *a); }
