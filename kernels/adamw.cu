/* adamw.cu - AdamW update of a slab, and the sum of squares for clipping, on the GPU
 * SPDX-License-Identifier: MIT
 *
 * Formulas: adamw.c; the scalars are made in double, once. A thread takes four elements, which share a byte of the
 * mask: 16 bytes read and 12 written an element, 2 more for the copy in bf16, 8 more for the running mean.
 */
#include "device.cuh"

namespace {

enum { THREADS = 256 };

struct scalars {
    float b1, c1, b2, c2, lr_m, scale_v, lr_p, eps, gscale, c_ema;
};

__device__ __forceinline__ float updated(const scalars &s, float shrink, float grad, float p, float *m, float *v)
{
    float g = grad * s.gscale;

    *m = s.b1 * *m + s.c1 * g;
    *v = s.b2 * *v + s.c2 * g * g;
    return p - (s.lr_m * *m / (sqrtf(*v * s.scale_v) + s.eps) + shrink * p);
}

template <int N>
__global__ void __launch_bounds__(THREADS)
    adamw_kernel(scalars s, int64_t n, const uint8_t *mask, const float *grad, float *p, float *m, float *v, float *ema,
                 bf16 *half)
{
    int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * N;

    if (i >= n)
        return;
    int what = mask ? mask[i / 16] : ADAMW_UPDATE | ADAMW_DECAY;
    if (!(what & ADAMW_UPDATE))
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
        ps.v[k] = updated(s, shrink, gs.v[k], ps.v[k], &ms.v[k], &vs.v[k]);
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
    LAUNCH((adamw_kernel<N>), (unsigned)ceil_div(n / N, THREADS), THREADS, 0, s, n, a->mask ? a->mask + first / 16 : nullptr,
           a->grad + first, a->p + first, a->m + first, a->v + first, a->ema ? a->ema + first : nullptr,
           a->half ? (bf16 *)a->half + first : nullptr);
}

/* Each block goes through the array in steps of all blocks; x^2 is exact in double. */
template <int N> __global__ void __launch_bounds__(THREADS) sumsq_kernel(const float *p, int64_t n, double *part)
{
    enum { PACKS = 4 };
    __shared__ double room[THREADS / 32];
    const int64_t step = (int64_t)CUDA_SUMSQ_PARTS * THREADS;
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
                sum += (double)x[k].v[j] * (double)x[k].v[j];
    }
    if (blockIdx.x == 0 && threadIdx.x < n % N) {
        double x = p[packs * N + threadIdx.x];
        sum += x * x;
    }
    for (int k = 16; k > 0; k >>= 1)
        sum += __shfl_xor_sync(0xffffffffu, sum, k);
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0)
        return;
    sum = 0;
    for (int w = 0; w < THREADS / 32; w++)
        sum += room[w];
    part[blockIdx.x] = sum;
}

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
    s.gscale = (float)a->gscale;
    s.c_ema = (float)(1.0 - a->ema_decay);
    bool wide = aligned(a->grad, 16) && aligned(a->p, 16) && aligned(a->m, 16) && aligned(a->v, 16) &&
                aligned(a->ema, 16) && aligned(a->half, 8);
    int64_t whole = wide ? a->n / 16 * 16 : 0; /* so that the rest begins with a byte of the mask */
    launch<4>(a, s, 0, whole);
    launch<1>(a, s, whole, a->n - whole);
}

void cuda_sumsq_parts(const float *p, int64_t n, double *part)
{
    if (aligned(p, 16))
        LAUNCH((sumsq_kernel<4>), CUDA_SUMSQ_PARTS, THREADS, 0, p, n, part);
    else
        LAUNCH((sumsq_kernel<1>), CUDA_SUMSQ_PARTS, THREADS, 0, p, n, part);
}
