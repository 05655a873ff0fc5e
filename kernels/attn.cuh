/* attn.cuh - what the attention kernels share: which keys a query sees, tiles of bf16 in shared memory
 * SPDX-License-Identifier: MIT
 *
 * A tile is ROWS x HD in shared memory, HD the head dim padded with zeros to 64, 128 or 256. Its rows are
 * cut into chunks of 16 bytes, and chunk c of row r lies at c ^ (r % 8): the eight rows that ldmatrix
 * reads at once then lie in eight different groups of banks.
 */
#ifndef SSM_ATTN_CUH
#define SSM_ATTN_CUH

#include "device.cuh"

constexpr float LOG2E = 1.44269504088896341f, LN2 = 0.693147180559945309f;

/* The part of `work` that the backward pass uses, in floats: delta [B,Hq,T], then the parts of dk and dv
 * where the query heads of a key head are shared out between `splits` blocks: [splits][2][B,room,Hkv*hd],
 * for the keys from `first` on. */
constexpr int KEYS = 128; /* keys of a block of the pass for dk, dv */
struct attn_plan {
    int64_t first, blocks, room, splits, delta, total;
};

/* Launchers of the dtypes' kernels. The struct is as attn_normal() leaves it. */
void attn_f32_fwd(const struct attn *a);
void attn_f32_bwd(const struct attn *a, const float *delta);
size_t attn_step_work(const struct attn *a);

/* Whether rows of all heads can be read 16 bytes at a time. */
static inline bool attn_wide(const struct attn *a, const struct tensor *t)
{
    return aligned_rows(t, 16) && a->hd * (t->dtype == F32 ? 4 : 2) % 16 == 0;
}

static inline void attn_check(const struct attn *a, const char *op)
{
    CUDA_NEED(op, a, q);
    CUDA_NEED(op, a, k);
    CUDA_NEED(op, a, v);
    CUDA_NEED(op, a, o);
    if (a->k.dtype != a->q.dtype || a->v.dtype != a->q.dtype || a->o.dtype != a->q.dtype)
        cuda_fault(op, "q", "has not the dtype of k, v and o");
    if (a->Hkv < 1 || a->Hq % a->Hkv)
        cuda_fault(op, "Hkv", "does not divide Hq");
    if (a->hd < 1 || a->hd > 256)
        cuda_fault(op, "hd", "is not in 1..256");
    if (a->window < 0)
        cuda_fault(op, "window", "is negative");
    if (!(a->softcap >= 0))
        cuda_fault(op, "softcap", "is negative");
    if (!(a->scale > 0))
        cuda_fault(op, "scale", "is not above 0"); /* the largest product has the largest score */
    if (a->S >= 1 << 30)
        cuda_fault(op, "S", "is 2^30 or more");
}

/* Checks a pass over rows; then the window is never 0. */
static inline struct attn attn_normal(const struct attn *a, const char *op)
{
    struct attn n = *a;

    attn_check(a, op);
    if (a->S != a->q0 + a->T)
        cuda_fault(op, "S", "is not q0 + T");
    if (a->S > a->Smax)
        cuda_fault(op, "S", "is more than Smax");
    n.window = a->window == 0 || a->window > a->S ? a->S : a->window;
    return n;
}

/* The first key that query t of sequence b sees; it does not fall along a row. */
__device__ __forceinline__ int first_key(const struct attn &a, int b, int t)
{
    int lo = max(0, (int)(a.q0 + t - a.window + 1));

    return a.start ? max(lo, (int)a.q0 + a.start[b * a.T + t]) : lo;
}

/* The queries [at[0], at[1]) that see any of the keys k0 .. k0+n-1 */
__device__ __forceinline__ void find_queries(const struct attn &a, int b, int k0, int n, int at[2])
{
    int last = min(k0 + n, (int)a.S) - 1;
    int lo = max(0, k0 - (int)a.q0), hi = (int)min(a.T, last + a.window - a.q0);

    at[0] = lo;
    while (a.start && lo < hi) { /* the first query whose document begins behind them */
        int mid = (lo + hi) / 2;

        if (first_key(a, b, mid) > last)
            hi = mid;
        else
            lo = mid + 1;
    }
    at[1] = hi;
}

/* tanh with an absolute error of 2e-7 */
__device__ __forceinline__ float tanh_fast(float x)
{
    return 1.0f - __fdividef(2.0f, 1.0f + fast_exp2(x * (2 * LOG2E)));
}

/* ---- tiles of bf16 ---- */

/* `rows` rows of hd columns, the rest of the tile zero. In the background when wide: the caller commits
 * and waits. */
template <int ROWS, int HD, int THREADS>
__device__ __forceinline__ void load_tile(bf16 *dst, const bf16 *src, int64_t ld, int rows, int hd, bool wide)
{
    constexpr int CHUNKS = HD / 8, STEP = THREADS / CHUNKS;
    int r = threadIdx.x / CHUNKS, c = threadIdx.x % CHUNKS;

    static_assert(ROWS % STEP == 0 && THREADS % CHUNKS == 0, "every thread copies the same number of chunks");
    src += r * ld + c * 8;
    if (wide) {
        UNROLL
        for (int i = 0; i < ROWS; i += STEP, src += STEP * ld)
            copy_async16(dst + (r + i) * HD + (c ^ (r + i) % 8) * 8, src, r + i < rows && c * 8 < hd);
        return;
    }
    for (int i = 0; i < ROWS; i += STEP, src += STEP * ld) {
        pack<bf16, 8> v;

        UNROLL
        for (int e = 0; e < 8; e++)
            v.v[e] = r + i < rows && c * 8 + e < hd ? src[e] : from_float<bf16>(0);
        store_pack(dst + (r + i) * HD + (c ^ (r + i) % 8) * 8, v);
    }
}

/* 16 rows of a tile, those of one warp, to memory. */
template <int HD>
__device__ __forceinline__ void store_rows(bf16 *dst, int64_t ld, const bf16 *tile, int rows, int hd,
                                           bool wide)
{
    constexpr int CHUNKS = HD / 8;

    for (int i = threadIdx.x % 32; i < 16 * CHUNKS; i += 32) {
        int r = i / CHUNKS, c = i % CHUNKS;
        pack<bf16, 8> v = load_pack<bf16, 8>(tile + r * HD + (c ^ r % 8) * 8);

        if (wide && r < rows && c * 8 < hd)
            store_pack(dst + r * ld + c * 8, v);
        for (int e = 0; !wide && e < 8; e++)
            if (r < rows && c * 8 + e < hd)
                dst[r * ld + c * 8 + e] = v.v[e];
    }
}

/* Where this lane points ldmatrix to: for A operands [m][k] and for B operands [k][n] (_trans) at 16 rows,
 * and for B operands [n][k]; 16 columns further is ^ 16. The tile's rows begin at a multiple of 16. */
template <int HD> __device__ __forceinline__ int lane_offset()
{
    int lane = threadIdx.x % 32;

    return lane % 16 * HD + (lane / 16 ^ lane % 8) * 8;
}
template <int HD> __device__ __forceinline__ int lane_offset_n()
{
    int lane = threadIdx.x % 32;

    return (lane / 16 * 8 + lane % 8) * HD + (lane / 8 % 2 ^ lane % 8) * 8;
}

/* d [16 MT, 8 NT] += A B^T: A 16 MT rows, B 8 NT rows of a tile */
template <int HD, int NT, int MT>
__device__ __forceinline__ void product_nt(float (*d)[NT][4], const bf16 *A, const bf16 *B)
{
    int m = lane_offset<HD>(), n = lane_offset_n<HD>();

    UNROLL
    for (int k = 0; k < HD / 16; k++) {
        uint32_t af[MT][4];

        UNROLL
        for (int i = 0; i < MT; i++)
            ldmatrix4(af[i], A + i * 16 * HD + (m ^ k * 16));
        UNROLL
        for (int j = 0; j < NT / 2; j++) {
            uint32_t bf[4];

            ldmatrix4(bf, B + j * 16 * HD + (n ^ k * 16));
            UNROLL
            for (int i = 0; i < MT; i++) {
                mma_bf16(d[i][2 * j], af[i], bf);
                mma_bf16(d[i][2 * j + 1], af[i], bf + 2);
            }
        }
    }
}

/* The accumulators of 16 columns as an A operand */
__device__ __forceinline__ void to_operand(uint32_t f[4], const float s[2][4])
{
    f[0] = pack2(s[0][0], s[0][1]);
    f[1] = pack2(s[0][2], s[0][3]);
    f[2] = pack2(s[1][0], s[1][1]);
    f[3] = pack2(s[1][2], s[1][3]);
}

/* o [16 MT,HD] += P B: P [16 MT, 8 NT] in accumulators, B: 8 NT rows of a tile */
template <int HD, int NT, int MT>
__device__ __forceinline__ void product_nn(float (*o)[HD / 8][4], const float (*p)[NT][4], const bf16 *B)
{
    int m = lane_offset<HD>();

    UNROLL
    for (int k = 0; k < NT / 2; k++) {
        uint32_t af[MT][4];

        UNROLL
        for (int i = 0; i < MT; i++)
            to_operand(af[i], p[i] + 2 * k);
        UNROLL
        for (int j = 0; j < HD / 16; j++) {
            uint32_t bf[4];

            ldmatrix4_trans(bf, B + k * 16 * HD + (m ^ j * 16));
            UNROLL
            for (int i = 0; i < MT; i++) {
                mma_bf16(o[i][2 * j], af[i], bf);
                mma_bf16(o[i][2 * j + 1], af[i], bf + 2);
            }
        }
    }
}

/* Accumulators [16,HD] times one factor for each half of the rows, as bf16 into 16 rows of a tile. */
template <int HD>
__device__ __forceinline__ void put_rows(bf16 *tile, const float (*o)[4], float lo, float hi)
{
    int lane = threadIdx.x % 32, r = lane / 4;

    UNROLL
    for (int j = 0; j < HD / 8; j++) {
        bf16 *at = tile + r * HD + (j ^ r) * 8 + lane % 4 * 2;

        *(uint32_t *)at = pack2(o[j][0] * lo, o[j][1] * lo);
        *(uint32_t *)(at + 8 * HD) = pack2(o[j][2] * hi, o[j][3] * hi);
    }
}

#endif
