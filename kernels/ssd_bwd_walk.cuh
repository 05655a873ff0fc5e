/* ssd_bwd_walk.cuh - state-space duality, backward: walk (ssd_bwd.cuh) on tensor cores, for BF16
 * SPDX-License-Identifier: MIT
 *
 * A block per state [P,N], which lies in registers, 16x64 of it in each warp. Per tile it reads the tile's
 * tokens and writes the state as BF16: of a token and head 2 P + 2 P N / SSD_TILE bytes, and 2 N that heads
 * share, from the L2 cache.
 */
#ifndef SSM_SSD_BWD_WALK_CUH
#define SSM_SSD_BWD_WALK_CUH

#include "ssd_fragments.cuh"

namespace {

template <int P, int N> struct walk_shape {
    enum { THREADS = P * N / 32, BLOCKS = THREADS < 768 ? 768 / THREADS : 1, LDP = P + 8, LDN = N + 8 };
    enum { STAGE = SSD_TILE * (LDP + LDN) * 2 + RECORD * SSD_TILE * 4 }; /* bytes */
};

template <int P, int N, bool BACK>
__device__ __forceinline__ void walk_copy(const struct ssd_bwd &c, unsigned char *stage, int64_t b, int64_t h,
                                          int64_t g, int64_t k)
{
    typedef walk_shape<P, N> shape;
    const struct tensor &v = BACK ? c.a.dy : c.a.x, &m = BACK ? c.a.Cm : c.a.Bm;
    struct ssd_tile u = ssd_find_tile(c.a, c.p, c.first + k);
    int64_t row = b * c.a.T + u.t0;
    bf16 *V = (bf16 *)stage, *K = V + SSD_TILE * shape::LDP;

    copy_rows<shape::THREADS, SSD_TILE, P>(V, shape::LDP, (const bf16 *)v.data + row * v.ld + h * P, v.ld,
                                           u.n);
    copy_rows<shape::THREADS, SSD_TILE, N>(K, shape::LDN, (const bf16 *)m.data + row * m.ld + g * N, m.ld,
                                           u.n);
    copy_record<shape::THREADS>((float *)(K + SSD_TILE * shape::LDN), ssd_record(c, b, k, h));
    copy_async_commit();
}

/* The warp's 16x64 of a state, F32 or BF16 or absent; (row, col): this lane's first element. */
__device__ __forceinline__ void walk_begin(float state[8][4], const struct tensor &from, int64_t row,
                                           int64_t col)
{
    int64_t at = row * from.ld + col;

#pragma unroll
    for (int i = 0; i < 32; i++)
        state[i / 4][i % 4] = 0;
    if (from.data && from.dtype == BF16)
#pragma unroll
        for (int i = 0; i < 32; i++)
            state[i / 4][i % 4] =
                to_float(((const bf16 *)from.data)[at + i / 2 % 2 * 8 * from.ld + i / 4 * 8 + i % 2]);
    else if (from.data)
#pragma unroll
        for (int i = 0; i < 32; i++)
            state[i / 4][i % 4] =
                ((const float *)from.data)[at + i / 2 % 2 * 8 * from.ld + i / 4 * 8 + i % 2];
}

/* `len` tiles from tile `begin` on, forward S, or all tiles back dS; row: of the state that it begins with,
 * in P rows. */
template <int P, int N, bool BACK>
__device__ __forceinline__ void walk(const struct ssd_bwd &c, int64_t b, int64_t h, int64_t begin,
                                     int64_t len, int64_t row, const struct tensor &from,
                                     const struct tensor &to)
{
    typedef walk_shape<P, N> shape;
    DYNAMIC_SHARED(unsigned char, shared);
    const struct ssd &a = c.a;
    int64_t g = h / c.p.rep;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, t = lane % 4;
    int p0 = warp / (N / 64) * 16, n0 = warp % (N / 64) * 64;
    float state[8][4];

    walk_copy<P, N, BACK>(c, shared, b, h, g, begin + (BACK ? len - 1 : 0));
    walk_begin(state, from, row * P + p0 + lane / 4, n0 + 2 * t);
    for (int64_t i = 0; i < len; i++) {
        int64_t k = begin + (BACK ? len - 1 - i : i);
        unsigned char *stage = shared + i % 2 * shape::STAGE;
        const bf16 *V = (const bf16 *)stage, *K = V + SSD_TILE * shape::LDP;
        const float *z = (const float *)(K + SSD_TILE * shape::LDN);
        bf16 *out = (bf16 *)(BACK ? c.dS : c.S) + ((b * c.tiles + k) * a.H + h) * (P * N);

        copy_async_wait<0>();
        __syncthreads();
        if (i + 1 < len)
            walk_copy<P, N, BACK>(c, shared + (i + 1) % 2 * shape::STAGE, b, h, g, BACK ? k - 1 : k + 1);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            uint32_t w[4];
            int half = j / 2, left = j % 2 * 4; /* rows g or g+8, 32 columns at a time */
#pragma unroll
            for (int e = 0; e < 4; e++)
                w[e] = pack2(state[left + e][2 * half], state[left + e][2 * half + 1]);
            quad_transpose(w);
            *(uint4 *)(out + (p0 + lane / 4 + half * 8) * N + n0 + 8 * (left + t)) =
                make_uint4(w[0], w[1], w[2], w[3]);
        }
        if (!BACK && i + 1 == len)
            break;
        float keep = z[IN * SSD_TILE + SSD_TILE - 1];
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                state[j][e] *= keep;
#pragma unroll
        for (int s = 0; s < SSD_TILE; s += 16) {
            uint32_t av[4], bv[4];
            float f[4];
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int at = s + 2 * t + e % 2 + e / 2 * 8;
                f[e] = BACK ? z[IN * SSD_TILE + at] : z[DT * SSD_TILE + at] * z[TAIL * SSD_TILE + at];
            }
            load_a_trans(av, V, shape::LDP, s, p0);
            av[0] = scale2(av[0], f[0], f[1]);
            av[1] = scale2(av[1], f[0], f[1]);
            av[2] = scale2(av[2], f[2], f[3]);
            av[3] = scale2(av[3], f[2], f[3]);
#pragma unroll
            for (int j = 0; j < 8; j += 2) {
                load_b(bv, K, shape::LDN, s, n0 + 8 * j);
                mma_pair(state + j, av, bv);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < 8 && BACK && to.data; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            ((float *)to.data)[(row * P + p0 + lane / 4 + e / 2 * 8) * to.ld + n0 + 8 * j + 2 * t + e % 2] =
                state[j][e];
}

/* grid: the walks back of all [B,H], which take longest, then forward those of [chunks,B,H]; so the few that
 * are long and the many that are short share the device. */
template <int P, int N>
__global__ void __launch_bounds__((walk_shape<P, N>::THREADS), (walk_shape<P, N>::BLOCKS))
    ssd_bwd_walk(const struct ssd_bwd c, struct tensor from, struct tensor to)
{
    int64_t bh = c.a.B * c.a.H, at = blockIdx.x % bh, b = at / c.a.H, h = at % c.a.H,
            chunk = blockIdx.x / bh - 1;

    if (chunk < 0)
        walk<P, N, true>(c, b, h, 0, c.tiles, at, from, to);
    else
        walk<P, N, false>(c, b, h, chunk * c.p.per, c.p.per,
                          (b * c.p.chunks + c.first / c.p.per + chunk) * c.a.H + h, c.a.states, {});
}

}

#endif
