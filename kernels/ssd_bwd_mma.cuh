/* ssd_bwd_mma.cuh - state-space duality, backward: tiles (ssd_bwd.cuh) on tensor cores, for BF16
 * SPDX-License-Identifier: MIT
 *
 * A block of 16 warps per tile and slice; a warp has 16 of the tile's 64 tokens (`strip`) and a quarter of
 * the columns of each product. dB, dC and dCB are summed over the slice's heads in registers. Per head
 *   1 scores [s,t] = x dy^T; with C B^T (made once, kept in registers) and the decays M^T = C B^T d, to
 *     shared memory
 *   2 dB += f x dS;  dC += e dy S;  dxs = B dS^T
 *   3 after a barrier: dx = dt (tail dxs + M^T dy) + D dy
 * The next head's x, dy, S, dS come meanwhile, where shared memory has room for two. Each is read once: of a
 * token and head 6 P + 4 P N / SSD_TILE bytes with dx written, P 64, N 128: 896.
 */
#ifndef SSM_SSD_BWD_MMA_CUH
#define SSM_SSD_BWD_MMA_CUH

#include "ssd_fragments.cuh"

namespace {

template <int P, int N> struct tiles_shape {
    enum { LDP = P + 8, LDN = N + 8, LDM = SSD_TILE + 8 };
    /* elements, bytes, floats */
    enum { TOKENS = SSD_TILE * LDP, STATE = P * LDN, GROUP = SSD_TILE * LDN, SCORES = SSD_TILE * LDM };
    enum { STAGE = (2 * TOKENS + 2 * STATE) * 2 + RECORD * SSD_TILE * 4 };
    enum { SUMS = 5 * 4 * SSD_TILE + SSD_TILE + 16 };
    enum { FIXED = (2 * GROUP + SCORES) * 2 + 2 * SUMS * 4 + SSD_TILE * 4 };
    enum { STAGES = FIXED + 2 * STAGE <= 227 * 1024 ? 2 : 1, BYTES = FIXED + STAGES * STAGE };
    enum { PAIRS_P = (P / 16 + 3) / 4, PAIRS_N = N / 64 }; /* pairs of 8 columns of a warp */
    static_assert((int)BYTES <= 227 * 1024, "more shared memory than a block can have");
};

/* Sums by token, of each quarter (LATER, of each strip) its own: parts of the record's fields of ssd_bwd.cuh.
 * LATER[t] = sum of R[t,s] over s, EARLIER[s] = over t, ENTER[t]: what reaches t through S. */
enum { LATER, EARLIER, ENTER, LEAVE, GDT };

/* Where the block is. */
struct tiles_place {
    int64_t b, k, g, row; /* row: the tile's first in x, dy, ... */
    int n;
    int strip, quarter;
    int s0, t; /* this lane's rows of a fragment are s0 and s0 + 8, its columns 2 t and 2 t + 1 */
};

template <int P, int N>
__device__ __forceinline__ void tiles_copy(const struct ssd_bwd &c, const struct tiles_place &at,
                                           unsigned char *stage, int64_t h)
{
    typedef tiles_shape<P, N> shape;
    const struct ssd &a = c.a;
    bf16 *X = (bf16 *)stage, *dY = X + shape::TOKENS, *S = dY + shape::TOKENS, *dS = S + shape::STATE;
    int64_t state = ((at.b * c.tiles + at.k) * a.H + h) * (P * N);

    copy_rows<512, SSD_TILE, P>(X, shape::LDP, (const bf16 *)a.x.data + at.row * a.x.ld + h * P, a.x.ld,
                                at.n);
    copy_rows<512, SSD_TILE, P>(dY, shape::LDP, (const bf16 *)a.dy.data + at.row * a.dy.ld + h * P, a.dy.ld,
                                at.n);
    copy_rows<512, P, N>(S, shape::LDN, (const bf16 *)c.S + state, N, P);
    copy_rows<512, P, N>(dS, shape::LDN, (const bf16 *)c.dS + state, N, P);
    copy_record<512>((float *)(dS + shape::STATE), ssd_record(c, at.b, at.k, h));
    copy_async_commit();
}

/* Step 1 for the warp's [16 s, 16 t], which is not wholly above the diagonal: G = x dy^T, M^T, dCB^T, sums of
 * R. */
template <int P>
__device__ __forceinline__ void
tiles_scores(const struct tiles_place &at, const uint32_t (*xf)[4], const bf16 *dY, const float *z,
             const int *sees, const float cb[2][4], float dcb[2][4], bf16 *M, int ldm, float *sums)
{
    float G[2][4] = {}, row[2] = {}, col[4] = {}, late[4];
    int t0 = 16 * at.quarter, from[4];

#pragma unroll
    for (int k = 0; k < P / 16; k++) {
        uint32_t bv[4];
        load_b_trans(bv, dY, P + 8, t0, 16 * k);
        mma_pair(G, xf[k], bv);
    }
#pragma unroll
    for (int e = 0; e < 4; e++) {
        late[e] = z[CUM * SSD_TILE + t0 + e / 2 * 8 + 2 * at.t + e % 2];
        from[e] = sees[t0 + e / 2 * 8 + 2 * at.t + e % 2];
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int s = at.s0 + 8 * r;
        float dt = z[DT * SSD_TILE + s], cum = z[CUM * SSD_TILE + s], m[4];
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int t = t0 + e / 2 * 8 + 2 * at.t + e % 2;
            bool see = (s <= t) & (s >= from[e]);
            float v = G[e / 2][2 * r + e % 2], CB = cb[e / 2][2 * r + e % 2];
            float d = __expf(late[e] - cum), w = v * dt * d; /* error 2^-21, below bf16's 2^-9 */

            w = see ? w : 0.0f;
            m[e] = see ? CB * d : 0.0f;
            dcb[e / 2][2 * r + e % 2] += w;
            w = s < t ? w : 0.0f;
            row[r] += w * CB;
            col[e] += w * CB;
            if (at.quarter == at.strip && s == t)
                sums[5 * 4 * SSD_TILE + s] = v;
        }
#pragma unroll
        for (int j = 0; j < 2; j++)
            *(uint32_t *)(M + s * ldm + t0 + 8 * j + 2 * at.t) = pack2(m[2 * j], m[2 * j + 1]);
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        row[r] += __shfl_xor_sync(0xffffffffu, row[r], 1);
        row[r] += __shfl_xor_sync(0xffffffffu, row[r], 2);
        if (at.t == 0)
            sums[(EARLIER * 4 + at.quarter) * SSD_TILE + at.s0 + 8 * r] = row[r];
    }
    /* of the four columns the lane goes on with two, then with one */
    bool right = threadIdx.x & 16, odd = threadIdx.x & 8;
    float got0 = __shfl_xor_sync(0xffffffffu, right ? col[0] : col[2], 16);
    float got1 = __shfl_xor_sync(0xffffffffu, right ? col[1] : col[3], 16);
    float keep0 = (right ? col[2] : col[0]) + got0, keep1 = (right ? col[3] : col[1]) + got1;
    keep0 = (odd ? keep1 : keep0) + __shfl_xor_sync(0xffffffffu, odd ? keep0 : keep1, 8);
    keep0 += __shfl_xor_sync(0xffffffffu, keep0, 4);
    if (!(threadIdx.x & 4))
        sums[(LATER * 4 + at.strip) * SSD_TILE + t0 + 8 * right + 2 * at.t + odd] = keep0;
}

/* Two sums over the warp's columns, of rows s0 and s0 + 8, to the quarter's place. */
__device__ __forceinline__ void tiles_sum(const struct tiles_place &at, float *sums, int which, float v0,
                                          float v1)
{
#pragma unroll
    for (int k = 1; k <= 2; k++) {
        v0 += __shfl_xor_sync(0xffffffffu, v0, k);
        v1 += __shfl_xor_sync(0xffffffffu, v1, k);
    }
    float *to = sums + (which * 4 + at.quarter) * SSD_TILE;
    if (at.t == 0) {
        to[at.s0] = v0;
        to[at.s0 + 8] = v1;
    }
}

/* Two elements that lie beside each other */
__device__ __forceinline__ uint32_t two_at(const bf16 *p) { return *(const uint32_t *)p; }

/* Step 2 for two products of the same form, d += scale * (a m), a [16,P] of the warp's rows, m [P,N]; what is
 * added is given to use(pair, its two fragments, unscaled). */
template <int P, int N, class Use>
__device__ __forceinline__ void tiles_product(const struct tiles_place &at, const uint32_t (*av)[4],
                                              const bf16 *m, float scale0, float scale1, float (*d)[4],
                                              Use use)
{
#pragma unroll
    for (int j = 0; j < N / 64; j++) {
        int col = at.quarter * (N / 4) + 16 * j;
        float own[2][4] = {};
#pragma unroll
        for (int k = 0; k < P / 16; k++) {
            uint32_t bv[4];
            load_b(bv, m, N + 8, 16 * k, col);
            mma_pair(own, av[k], bv);
        }
#pragma unroll
        for (int i = 0; i < 8; i++)
            d[2 * j + i / 4][i % 4] += (i % 4 < 2 ? scale0 : scale1) * own[i / 4][i % 4];
        use(col, own);
    }
}

/* Step 2, dC += e dy S; ENTER[t] = C[t] . this head's part of dC[t] */
template <int P, int N>
__device__ __forceinline__ void tiles_queries(const struct tiles_place &at, const bf16 *dY, const bf16 *S,
                                              const bf16 *C, float e0, float e1, float (*dC)[4], float *sums)
{
    uint32_t av[P / 16][4];
    float into[2] = {};

#pragma unroll
    for (int k = 0; k < P / 16; k++)
        load_a(av[k], dY, P + 8, 16 * at.strip, 16 * k);
    tiles_product<P, N>(at, av, S, e0, e1, dC, [&](int col, const float(*own)[4]) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int r = i % 2;
            uint32_t v = two_at(C + (at.s0 + 8 * r) * (N + 8) + col + i / 2 * 8 + 2 * at.t);
            into[r] += unpack_lo(v) * own[i / 2][2 * r] + unpack_hi(v) * own[i / 2][2 * r + 1];
        }
    });
    tiles_sum(at, sums, ENTER, e0 * into[0], e1 * into[1]);
}

/* Step 2, dx (so far) = tail B dS; LEAVE[s] = dt[s] tail[s] x[s] . B dS */
template <int P, int N>
__device__ __forceinline__ void tiles_leave(const struct tiles_place &at, const bf16 *X, const bf16 *dS,
                                            const bf16 *B, const float *tail, const float *dt,
                                            float (*dx)[2][4], float *sums)
{
    float past[2] = {};

#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        uint32_t av[4], bv[4];
        load_a(av, B, N + 8, 16 * at.strip, 16 * k);
#pragma unroll
        for (int j = 0; j < tiles_shape<P, N>::PAIRS_P; j++) {
            int pair = 4 * j + at.quarter;
            if (P % 64 == 0 || pair < P / 16) {
                load_b_trans(bv, dS, N + 8, 16 * pair, 16 * k);
                mma_pair(dx[j], av, bv);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < tiles_shape<P, N>::PAIRS_P; j++) {
        int pair = 4 * j + at.quarter;
        if (P % 64 != 0 && pair >= P / 16)
            break;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int r = i % 2;
            uint32_t v = two_at(X + (at.s0 + 8 * r) * (P + 8) + 16 * pair + i / 2 * 8 + 2 * at.t);
            float *d = dx[j][i / 2] + 2 * r;
            d[0] *= tail[r];
            d[1] *= tail[r];
            past[r] += unpack_lo(v) * d[0] + unpack_hi(v) * d[1];
        }
    }
    tiles_sum(at, sums, LEAVE, dt[0] * past[0], dt[1] * past[1]);
}

/* Step 3. */
template <int P, int N>
__device__ __forceinline__ void tiles_dx(const struct ssd_bwd &c, const struct tiles_place &at, int64_t h,
                                         const bf16 *X, const bf16 *dY, const bf16 *M, const float *dt,
                                         float (*dx)[2][4], float *sums)
{
    float D = ((const float *)c.a.D.data)[h], gdt[2] = {};

    for (int k = at.strip; k < 4; k++) {
        uint32_t av[4], bv[4];
        load_a(av, M, tiles_shape<P, N>::LDM, 16 * at.strip, 16 * k);
#pragma unroll
        for (int j = 0; j < tiles_shape<P, N>::PAIRS_P; j++) {
            int pair = 4 * j + at.quarter;
            if (P % 64 == 0 || pair < P / 16) {
                load_b(bv, dY, P + 8, 16 * k, 16 * pair);
                mma_pair(dx[j], av, bv);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < tiles_shape<P, N>::PAIRS_P; j++) {
        int pair = 4 * j + at.quarter;
        if (P % 64 != 0 && pair >= P / 16)
            break;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int r = i % 2, where = (at.s0 + 8 * r) * (P + 8) + 16 * pair + i / 2 * 8 + 2 * at.t;
            uint32_t x = two_at(X + where), dy = two_at(dY + where);
            float *d = dx[j][i / 2] + 2 * r;
            gdt[r] += unpack_lo(x) * d[0] + unpack_hi(x) * d[1];
            d[0] = dt[r] * d[0] + D * unpack_lo(dy);
            d[1] = dt[r] * d[1] + D * unpack_hi(dy);
        }
#pragma unroll
        for (int r = 0; r < 2; r++)
            store_pair((bf16 *)c.a.dx.data + (at.row + at.s0 + 8 * r) * c.a.dx.ld + h * P + 16 * pair,
                       at.s0 + 8 * r < at.n, dx[j], r);
    }
    tiles_sum(at, sums, GDT, gdt[0], gdt[1]);
}

/* Adds up the quarters' sums of a head, and leaves them in its record. */
__device__ __forceinline__ void tiles_leave_sums(const struct ssd_bwd &c, const struct tiles_place &at,
                                                 int64_t h, const float *sums)
{
    int what = threadIdx.x / SSD_TILE, r = threadIdx.x % SSD_TILE, own = r / 16;
    float *z = ssd_record(c, at.b, at.k, h), v = 0;
    const float *from = sums + r;

    if (what == 0) {
        for (int i = 0; i < 4; i++) {
            v += from[(ENTER * 4 + i) * SSD_TILE];
            v += i <= own ? from[(LATER * 4 + i) * SSD_TILE] : 0.0f;
            v -= i >= own ? from[(EARLIER * 4 + i) * SSD_TILE] : 0.0f;
        }
        for (int i = 0; i < 16 && r == SSD_TILE - 1; i++) /* through: before every token */
            v += sums[5 * 4 * SSD_TILE + SSD_TILE + i];
        z[DECAY * SSD_TILE + r] = v;
    } else if (what < 3) {
        for (int i = 0; i < 4; i++)
            v += from[((what == 1 ? LEAVE : GDT) * 4 + i) * SSD_TILE];
        z[(what == 1 ? PAST : DIRECT) * SSD_TILE + r] = v;
    } else if (what == 3) {
        z[SKIP * SSD_TILE + r] = sums[5 * 4 * SSD_TILE + r];
    }
}

/* The warp's part of keep <S, dS>: of each S dS^T [16,16] the diagonal. Twice as many products as needed are
 * cheaper than to unpack the elements. */
template <int P, int N>
__device__ __forceinline__ void tiles_through(const bf16 *S, const bf16 *dS, float keep, float *sums)
{
    int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4;
    float d[2][4] = {}, v = 0;

    if (keep != 0.0f) { /* else S is nothing to the last token's document */
#pragma unroll
        for (int i = 0; i < (P * N / 256 + 15) / 16; i++) {
            uint32_t av[4], bv[4];
            int block = 16 * i + warp, row = block / (N / 16) * 16, col = block % (N / 16) * 16;
            if (P * N / 256 % 16 != 0 && row >= P)
                break;
            load_a(av, S, N + 8, row, col);
            load_b_trans(bv, dS, N + 8, row, col);
            mma_pair(d, av, bv);
        }
        v = (g % 2 ? d[0][1] : d[0][0]) + (g % 2 ? d[1][3] : d[1][2]);
        v = keep * warp_sum(g / 2 == (int)threadIdx.x % 4 ? v : 0.0f);
    }
    if (threadIdx.x % 32 == 0)
        sums[5 * 4 * SSD_TILE + SSD_TILE + warp] = v;
}

/* After the heads: dC += dCB B, dB += dCB^T C; M: room for dCB^T. */
template <int P, int N>
__device__ __forceinline__ void tiles_shared_scores(const struct tiles_place &at, const float dcb[2][4],
                                                    bf16 *M, const bf16 *B, const bf16 *C, float (*dB)[4],
                                                    float (*dC)[4])
{
    enum { LDM = tiles_shape<P, N>::LDM };
    uint32_t av[4], bv[4];

    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; i++)
        *(uint32_t *)(M + (at.s0 + i % 2 * 8) * LDM + 16 * at.quarter + i / 2 * 8 + 2 * at.t) =
            pack2(dcb[i / 2][i % 2 * 2], dcb[i / 2][i % 2 * 2 + 1]);
    __syncthreads();
    for (int k = 0; k < 4; k++) {
        if (k >= at.strip)
            load_a(av, M, LDM, 16 * at.strip, 16 * k);
#pragma unroll
        for (int j = 0; j < N / 64 && k >= at.strip; j++) {
            load_b(bv, C, N + 8, 16 * k, at.quarter * (N / 4) + 16 * j);
            mma_pair(dB + 2 * j, av, bv);
        }
        if (k <= at.strip)
            load_a_trans(av, M, LDM, 16 * k, 16 * at.strip);
#pragma unroll
        for (int j = 0; j < N / 64 && k <= at.strip; j++) {
            load_b(bv, B, N + 8, 16 * k, at.quarter * (N / 4) + 16 * j);
            mma_pair(dC + 2 * j, av, bv);
        }
    }
}

/* dB or dC: the slice's part, or with a single slice the result. */
template <int N>
__device__ __forceinline__ void tiles_store(const struct ssd_bwd &c, const struct tiles_place &at,
                                            int64_t slice, const float (*d)[4], float *part,
                                            const struct tensor &out)
{
    int64_t ld = c.a.G * N, rows = ((slice * c.a.B + at.b) * c.tiles + at.k) * SSD_TILE;

#pragma unroll
    for (int i = 0; i < N / 32; i++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int s = at.s0 + 8 * r;
            int64_t col = at.g * N + at.quarter * (N / 4) + 8 * i;
            if (c.slices > 1)
                *(float2 *)(part + (rows + s) * ld + col + 2 * at.t) =
                    make_float2(d[i][2 * r], d[i][2 * r + 1]);
            else if (i % 2 == 0)
                store_pair((bf16 *)out.data + (at.row + s) * out.ld + col, s < at.n, d + i, r);
        }
}

/* grid: [B,tiles,G,slices] */
template <int P, int N> __global__ void __launch_bounds__(512, 1) ssd_bwd_tiles(const struct ssd_bwd c)
{
    typedef tiles_shape<P, N> shape;
    DYNAMIC_SHARED(unsigned char, shared);
    const struct ssd &a = c.a;
    int64_t slice = blockIdx.x % c.slices, tile = blockIdx.x / (c.slices * a.G);
    struct ssd_tile u = ssd_find_tile(a, c.p, c.first + tile % c.tiles);
    struct tiles_place at;
    int64_t g = blockIdx.x / c.slices % a.G, h0 = g * c.p.rep + slice * c.heads;
    int heads = (int)min(c.heads, c.p.rep - slice * c.heads), warp = threadIdx.x / 32,
        lane = threadIdx.x % 32;
    bf16 *B = (bf16 *)shared, *C = B + shape::GROUP, *M = C + shape::GROUP;
    float *sums = (float *)(M + shape::SCORES);
    int *sees = (int *)(sums + 2 * shape::SUMS);
    unsigned char *stages = (unsigned char *)(sees + SSD_TILE);
    float dB[N / 32][4] = {}, dC[N / 32][4] = {}, cb[2][4] = {}, dcb[2][4] = {};

    if (u.n == 0)
        return;
    at.b = tile / c.tiles;
    at.k = tile % c.tiles;
    at.g = g;
    at.row = at.b * a.T + u.t0;
    at.n = u.n;
    at.quarter = warp / 4;
    at.strip =
        (warp + (0x9c >> 2 * at.quarter)) % 4; /* so that each scheduler has 2 or 3 warps with scores */
    at.s0 = 16 * at.strip + lane / 4;
    at.t = lane % 4;
    if (threadIdx.x < SSD_TILE)
        sees[threadIdx.x] = ssd_sees_from(c, at.b, u, threadIdx.x);
    copy_rows<512, SSD_TILE, N>(B, shape::LDN, (const bf16 *)a.Bm.data + at.row * a.Bm.ld + g * N, a.Bm.ld,
                                u.n);
    copy_rows<512, SSD_TILE, N>(C, shape::LDN, (const bf16 *)a.Cm.data + at.row * a.Cm.ld + g * N, a.Cm.ld,
                                u.n);
    tiles_copy<P, N>(c, at, stages, h0);
    for (int i = 0; i < heads; i++) {
        int64_t h = h0 + i;
        const bf16 *X = (const bf16 *)(stages + i % shape::STAGES * shape::STAGE), *dY = X + shape::TOKENS;
        const bf16 *S = dY + shape::TOKENS, *dS = S + shape::STATE;
        const float *z = (const float *)(dS + shape::STATE);
        float *own = sums + i % 2 * shape::SUMS;
        float dx[shape::PAIRS_P][2][4] = {};

        if (shape::STAGES == 1 && i > 0) {
            __syncthreads();
            tiles_copy<P, N>(c, at, stages, h);
        }
        copy_async_wait<0>();
        __syncthreads();
        if (shape::STAGES == 2 && i + 1 < heads)
            tiles_copy<P, N>(c, at, stages + (i + 1) % 2 * shape::STAGE, h + 1);
        if (i > 0)
            tiles_leave_sums(c, at, h - 1, sums + (i + 1) % 2 * shape::SUMS);
        if (i == 0 && at.quarter >= at.strip)
            for (int k = 0; k < N / 16; k++) {
                uint32_t av[4], bv[4];
                load_a(av, B, shape::LDN, 16 * at.strip, 16 * k);
                load_b_trans(bv, C, shape::LDN, 16 * at.quarter, 16 * k);
                mma_pair(cb, av, bv);
            }
        const float dt[2] = { z[DT * SSD_TILE + at.s0], z[DT * SSD_TILE + at.s0 + 8] };
        const float tail[2] = { z[TAIL * SSD_TILE + at.s0], z[TAIL * SSD_TILE + at.s0 + 8] };
        uint32_t xf[P / 16][4];
#pragma unroll
        for (int k = 0; k < P / 16; k++)
            load_a(xf[k], X, shape::LDP, 16 * at.strip, 16 * k);
        if (at.quarter >= at.strip)
            tiles_scores<P>(at, xf, dY, z, sees, cb, dcb, M, shape::LDM, own);
        tiles_product<P, N>(at, xf, dS, dt[0] * tail[0], dt[1] * tail[1], dB, [](int, const float(*)[4]) {});
        tiles_queries<P, N>(at, dY, S, C, z[IN * SSD_TILE + at.s0], z[IN * SSD_TILE + at.s0 + 8], dC, own);
        tiles_leave<P, N>(at, X, dS, B, tail, dt, dx, own);
        tiles_through<P, N>(S, dS, z[IN * SSD_TILE + SSD_TILE - 1], own);
        __syncthreads();
        tiles_dx<P, N>(c, at, h, X, dY, M, dt, dx, own);
    }
    tiles_shared_scores<P, N>(at, dcb, M, B, C, dB, dC);
    tiles_leave_sums(c, at, h0 + heads - 1, sums + (heads + 1) % 2 * shape::SUMS);
    tiles_store<N>(c, at, slice, dB, c.dB, a.dBm);
    tiles_store<N>(c, at, slice, dC, c.dC, a.dCm);
}

}

#endif
