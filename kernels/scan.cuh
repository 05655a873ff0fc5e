/* scan.cuh - selective scan on the GPU: the layout, and what its passes share
 * SPDX-License-Identifier: MIT
 *
 *   dt = softplus(dt_raw + dt_bias),  S[t,n] = exp(dt a[n]) S[t-1,n] + dt x B[n],  y = sum_n S[n] C[n] + D x
 *
 * Every (token, channel, n) has a decay of its own: the work is the exponentials, not memory. A thread has
 * `per` numbers n of one channel in registers and goes from token to token; `lanes` neighbours make up a
 * channel and add what they have by shuffles. A block has SCAN_THREADS/lanes channels of one sequence. Its
 * inputs come by tiles of tokens through shared memory, so that rows are read in wide accesses, and softplus
 * is computed once. Tokens beyond a tile's end are zeros, which leave a state as it is.
 *
 * Where sequences and channels are too few to fill the device, a sequence is cut into segments of whole
 * chunks. Each is first run through by itself, for the state that it adds and the sum of its dt (that of
 * exponents is the decay over the segment); then the states are carried from one to the next; then the real
 * pass begins each with its state.
 */
#ifndef SSM_SCAN_CUH
#define SSM_SCAN_CUH

#include "device.cuh"

enum { SCAN_THREADS = 128, SCAN_FORGETS = -1 };

/* Sizes. Offsets into `work` are in floats. */
struct scan_plan {
    int per, lanes, width; /* numbers n of a thread, threads of a channel, their product >= N */
    int channels;          /* of a block */
    int64_t blocks;        /* of channels */
    int64_t chunks, span;  /* chunks of a sequence and of a segment */
    int64_t segments;
    int64_t add; /* [segments,B,C,width]: what a segment adds to the state; then the state it begins with */
    int64_t sum; /* [segments,B,C]: sum of dt, SCAN_FORGETS where a document begins inside */
    int64_t total;
};

/* fill: blocks that keep the device busy; few: with fewer blocks than that segments are worth their price. */
static inline struct scan_plan scan_make_plan(const struct scan *a, int64_t fill, int64_t few)
{
    struct scan_plan p = {};
    p.per = a->N > 128 ? 8 : 4;
    for (p.lanes = 1; p.lanes * p.per < a->N; p.lanes *= 2)
        ;
    p.width = p.lanes * p.per;
    p.channels = SCAN_THREADS / p.lanes;
    p.blocks = ceil_div(a->C, p.channels);
    p.chunks = p.span = ceil_div(a->T, a->Q);
    int64_t jobs = p.blocks * a->B;
    if (jobs < few && fill / jobs > 1)
        p.span = ceil_div(p.chunks, min(p.chunks, fill / jobs));
    p.segments = ceil_div(p.chunks, p.span);
    if (p.segments > 1) {
        p.sum = p.segments * a->B * a->C * p.width;
        p.total = round_up(p.sum + p.segments * a->B * a->C, 4);
    }
    return p;
}

static inline void scan_check(const struct scan *a, const char *op)
{
    CUDA_NEED(op, a, x);
    CUDA_NEED(op, a, dt_raw);
    CUDA_NEED(op, a, Bm);
    CUDA_NEED(op, a, Cm);
    CUDA_NEED(op, a, A_log);
    CUDA_NEED(op, a, dt_bias);
    CUDA_NEED(op, a, D);
    if (a->N < 1 || a->N > 256)
        cuda_fault(op, "N", "is not in 1..256");
}

/* Whether the inputs can be read 16 bytes at a time; the fast kernels also have N = 16 in their code. */
static inline bool scan_is_fast(const struct scan *a)
{
    return a->N == 16 && a->C % 8 == 0 && (uintptr_t)a->dt_bias.data % 32 == 0 &&
           (uintptr_t)a->D.data % 32 == 0 && aligned_rows(&a->x, 16) && aligned_rows(&a->dt_raw, 16) &&
           aligned_rows(&a->Bm, 16) && aligned_rows(&a->Cm, 16);
}

/* Where a thread is. LANES and PER: of the plan, LANES 0: not known to the compiler. */
template <int PER, int LANES> struct scan_place {
    int lanes, channels, width;
    int channel, sub; /* within the block; which of its lanes */
    int64_t b, block, segment, c0, c;
    bool inside;         /* the channel is below C */
    int n0;              /* first number of the thread */
    int64_t first, last; /* chunks of the segment: first <= chunk < last */

    __device__ __forceinline__ scan_place(const struct scan &a, const struct scan_plan &p)
    {
        lanes = LANES ? LANES : p.lanes;
        channels = SCAN_THREADS / lanes;
        width = PER * lanes;
        channel = (int)threadIdx.x / lanes;
        sub = (int)threadIdx.x % lanes;
        block = blockIdx.x % p.blocks;
        b = blockIdx.x / p.blocks % a.B;
        segment = blockIdx.x / p.blocks / a.B;
        c0 = block * channels;
        c = c0 + channel;
        inside = c < a.C;
        n0 = sub * PER;
        first = segment * p.span;
        last = min(first + p.span, p.chunks);
    }
    /* Row of a [segments,B,C] array */
    __device__ __forceinline__ int64_t cell(const struct scan &a) const
    {
        return (segment * a.B + b) * a.C + c;
    }
};

/* x[k] = row[n0+k] within N, else 0; and back */
template <int PER>
__device__ __forceinline__ void scan_read(float x[PER], const float *row, int n0, int64_t N)
{
    for (int k = 0; k < PER; k++)
        x[k] = row && n0 + k < N ? row[n0 + k] : 0.0f;
}
template <int PER>
__device__ __forceinline__ void scan_write(const float x[PER], float *row, int n0, int64_t N)
{
    if (N % 4 == 0 && (uintptr_t)row % 16 == 0) {
        for (int k = 0; k < PER; k += 4)
            if (n0 + k < N)
                *(float4 *)(row + n0 + k) = make_float4(x[k], x[k + 1], x[k + 2], x[k + 3]);
        return;
    }
    for (int k = 0; k < PER; k++)
        if (n0 + k < N)
            row[n0 + k] = x[k];
}
/* A thread's numbers where all of them are there, aligned to 16 bytes */
template <int PER> __device__ __forceinline__ void scan_load(float x[PER], const float *p)
{
    for (int k = 0; k < PER; k += 4) {
        float4 v = *(const float4 *)(p + k);
        x[k] = v.x, x[k + 1] = v.y, x[k + 2] = v.z, x[k + 3] = v.w;
    }
}
template <int PER> __device__ __forceinline__ void scan_store(float *p, const float x[PER])
{
    for (int k = 0; k < PER; k += 4)
        *(float4 *)(p + k) = make_float4(x[k], x[k + 1], x[k + 2], x[k + 3]);
}
__device__ __forceinline__ float *scan_state_row(const struct scan &a, const struct tensor &h, int64_t b,
                                                 int64_t c)
{
    return h.data ? (float *)h.data + (b * a.C + c) * h.ld : nullptr;
}
__device__ __forceinline__ float *scan_saved(const struct scan &a, const struct scan_plan &p, int64_t b,
                                             int64_t chunk, int64_t c)
{
    return a.states + ((b * p.chunks + chunk) * a.C + c) * a.N;
}

/* a log2(e), so that decays are powers of two. Finite, so that a token with dt = 0 keeps the state. */
template <class P> __device__ __forceinline__ float scan_decay_rate(const struct scan &a, const P &at, int k)
{
    if (!at.inside || at.n0 + k >= a.N)
        return 0.0f;
    float x = -1.44269504f * expf(((const float *)a.A_log.data)[at.c * a.A_log.ld + at.n0 + k]);
    return x < -3e38f ? -3e38f : x;
}

/* log(1 + e^x) = max(x, 0) + 2 atanh(s), s = e/(2+e) <= 1/3, e = exp(-|x|): no digit is lost where it is
 * small. *slope = its derivative. */
__device__ __forceinline__ float scan_softplus(float x, float *slope)
{
    float e = fast_exp2(-1.44269504f * fabsf(x)), s = e * fast_rcp(2.0f + e), u = s * s,
          r = fast_rcp(1.0f + e), q;
    q = 0.2081700414f;
    q = q * u + 0.1745736039f;
    q = q * u + 0.2226534485f;
    q = q * u + 0.2857028377f;
    q = q * u + 0.4000001103f;
    q = q * u + 0.6666666665f;
    *slope = x < 0.0f ? e * r : r;
    return (x < 0.0f ? 0.0f : x) + (2.0f * s + s * u * q);
}

/* What is staged of a (token, channel). After the scan: forward dt is y less D x; backward dt, x are dx,
 * ddt_raw. */
struct scan_fwd_cell {
    float dt, x;
};
struct alignas(16) scan_bwd_cell {
    float dt, x, dy, slope;
};
__device__ __forceinline__ void scan_put(scan_fwd_cell *to, float dt, float x, float, float)
{
    *to = { dt, x };
}
__device__ __forceinline__ void scan_put(scan_bwd_cell *to, float dt, float x, float dy, float slope)
{
    *to = { dt, x, dy, slope };
}
/* Cells from one token to the next: two more, for the banks of shared memory. */
#define SCAN_ROW(channels) ((channels) + 2)

/* Which cells of a tile a thread stages and later stores: V channels from `k` of token `t`, in round i of
 * ROUNDS. */
template <int V, int TILE, class P> struct scan_share {
    int t, k;
    bool mine;
    static __device__ __forceinline__ int rounds(const P &at)
    {
        return (TILE * at.channels + SCAN_THREADS * V - 1) / (SCAN_THREADS * V);
    }
    __device__ __forceinline__ scan_share(const P &at, int i)
    {
        int cell = (i * SCAN_THREADS + (int)threadIdx.x) * V;
        t = cell / at.channels;
        k = cell % at.channels;
        mine = t < TILE;
    }
};

/* The cells of tokens m .. m+n-1; with_dy: dy is read too. Where there is no token or channel, another is
 * read, so that all loads can begin at once, and zeros are put. */
template <class T, int V, int TILE, class CELL, class P>
__device__ __forceinline__ void scan_stage(const struct scan &a, const P &at, int64_t m, int n, bool with_dy,
                                           CELL *cells)
{
#pragma unroll
    for (int i = 0; i < (scan_share<V, TILE, P>::rounds(at)); i++) {
        const scan_share<V, TILE, P> s(at, i);
        bool in = s.t < n && at.c0 + s.k < a.C;
        int64_t c = min(at.c0 + s.k, a.C - V), row = m + min(s.t, n - 1);
        pack<T, V> raw = load_pack<T, V>((const T *)a.dt_raw.data + row * a.dt_raw.ld + c);
        pack<T, V> x = load_pack<T, V>((const T *)a.x.data + row * a.x.ld + c), dy = x;
        pack<float, V> bias = load_pack<float, V>((const float *)a.dt_bias.data + c);
        if (with_dy)
            dy = load_pack<T, V>((const T *)a.dy.data + row * a.dy.ld + c);
        for (int j = 0; j < V && s.mine; j++) {
            float slope, dt = scan_softplus(to_float(raw.v[j]) + bias.v[j], &slope);
            scan_put(cells + s.t * SCAN_ROW(at.channels) + s.k + j, in ? dt : 0.0f,
                     in ? to_float(x.v[j]) : 0.0f, in ? to_float(dy.v[j]) : 0.0f, in ? slope : 0.0f);
        }
    }
}

/* to [TILE, 2 width]: B and C of tokens m .. m+n-1 */
template <class T, int V, int TILE, class P>
__device__ __forceinline__ void scan_stage_bc(const struct scan &a, const P &at, int64_t m, int n, float *to)
{
    const int rounds = (TILE * 2 * at.width + SCAN_THREADS * V - 1) / (SCAN_THREADS * V);
#pragma unroll
    for (int i = 0; i < rounds; i++) {
        int k = (i * SCAN_THREADS + (int)threadIdx.x) * V, t = k / (2 * at.width), j = k % (2 * at.width);
        const T *data = (const T *)(j < at.width ? a.Bm.data : a.Cm.data);
        int64_t ld = j < at.width ? a.Bm.ld : a.Cm.ld;
        j %= at.width;
        pack<T, V> v = load_pack<T, V>(data + (m + min(t, n - 1)) * ld + min((int64_t)j, a.N - V));
        for (int l = 0; l < V && t < TILE; l++)
            to[k + l] = t < n && j < a.N ? to_float(v.v[l]) : 0.0f;
    }
}

/* Bit t: token t0+t of the sequence, t < n <= 32, begins its document. All lanes of a warp ask at once. */
__device__ __forceinline__ unsigned scan_resets(const struct scan &a, int64_t b, int64_t t0, int n)
{
    int lane = threadIdx.x % 32;
    return a.start ? __ballot_sync(0xffffffffu, lane < n && a.start[b * a.T + t0 + lane] == t0 + lane) : 0;
}

/* A chunk's tiles: where tile i of the chunk begins, and its tokens */
__device__ __forceinline__ int scan_tokens(const struct scan &a, int64_t chunk, int tile, int TILE)
{
    int64_t end = min(a.T, (chunk + 1) * a.Q);
    return (int)min((int64_t)TILE, end - chunk * a.Q - (int64_t)tile * TILE);
}
__device__ __forceinline__ int scan_tiles(const struct scan &a, int64_t chunk, int TILE)
{
    return (int)((min(a.T, (chunk + 1) * a.Q) - chunk * a.Q + TILE - 1) / TILE);
}

/* From what each segment adds to the state with which each begins, in place; reverse: from the last one
 * on. from: the state [B*C,N] outside, or absent. A thread has one number of one channel. */
static __global__ void scan_carry(const struct scan a, const struct scan_plan p, const struct tensor from,
                                  bool reverse)
{
    int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x, rows = a.B * a.C;
    if (i >= rows * p.width)
        return;
    int64_t row = i / p.width, c = row % a.C;
    int n = (int)(i % p.width);
    if (n >= a.N)
        return;
    float *add = (float *)a.work + p.add, *sum = (float *)a.work + p.sum;
    float rate = -1.44269504f * expf(((const float *)a.A_log.data)[c * a.A_log.ld + n]);
    float h = from.data ? ((const float *)from.data)[row * from.ld + n] : 0.0f;
    for (int64_t k = 0; k < p.segments; k++) {
        int64_t cell = (reverse ? p.segments - 1 - k : k) * rows + row;
        float own = add[cell * p.width + n], dt = sum[cell];
        add[cell * p.width + n] = h;
        h = dt == SCAN_FORGETS ? own : fast_exp2(rate * dt) * h + own;
    }
}

static inline void scan_launch_carry(const struct scan *a, const struct scan_plan *p,
                                     const struct tensor *from, bool reverse)
{
    LAUNCH(scan_carry, (unsigned)ceil_div(a->B * a->C * p->width, 256), 256, 0, *a, *p, *from, reverse);
}

/* Runs the statement with the constants of the kernels for this call: T, V, PER, LANES, TILE. */
#define SCAN_WITH_KERNEL(a, fast, p, ...)                                                                    \
    WITH_TYPE((a)->x.dtype, T,                                                                               \
              if (fast) {                                                                                    \
                  constexpr int V = 16 / sizeof(T), PER = 4, LANES = 4, TILE = 32;                           \
                  __VA_ARGS__;                                                                               \
              } else if ((p).per == 4) {                                                                     \
                  constexpr int V = 1, PER = 4, LANES = 0, TILE = 8;                                         \
                  __VA_ARGS__;                                                                               \
              } else {                                                                                       \
                  constexpr int V = 1, PER = 8, LANES = 0, TILE = 8;                                         \
                  __VA_ARGS__;                                                                               \
              })

#endif
