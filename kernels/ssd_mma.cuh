/* ssd_mma.cuh - state-space duality on tensor cores: tiles in shared memory, states in registers
 * SPDX-License-Identifier: MIT
 *
 * A block has SSD_ROWS rows (P) of one head's state [P,N] and SSD_THREADS threads; each of its four warps has
 * 16 rows, as accumulators of products. Tiles of SSD_TILE tokens lie in shared memory in rows of 16-byte
 * units, unit u of row r at u ^ (r % 8), so that the eight rows of an ldmatrix meet all banks.
 */
#ifndef SSM_SSD_MMA_CUH
#define SSM_SSD_MMA_CUH

#include "ssd.cuh"

#define SSD_ROWS 64
#define SSD_THREADS 128

/* ---- tiles in shared memory ---- */

/* Byte of the 16-byte unit `unit` of row `row`, COLS elements a row. */
template <int COLS> __device__ __forceinline__ int unit_at(int row, int unit)
{
    return row * COLS * 2 + ((unit ^ (row & 7)) << 4);
}

/* Begins the copy of n rows of `cols` elements; what is beyond becomes zero. */
template <int COLS>
__device__ __forceinline__ void copy_tile(unsigned char *tile, const bf16 *from, int64_t ld, int n, int cols)
{
    constexpr int UNITS = COLS / 8, STEP = SSD_THREADS / UNITS;
    int unit = threadIdx.x % UNITS, first = threadIdx.x / UNITS, end = unit * 8 < cols ? n : 0;
    const bf16 *at = from + first * ld + unit * 8;

#pragma unroll
    for (int row = first; row < first + SSD_TILE; row += STEP, at += STEP * ld)
        copy_async16(tile + unit_at<COLS>(row, unit), at, row < end);
}

/* Word q of lane t of each four lanes <-> word t of lane q: of an accumulator's rows of 2 columns makes units
 * of 8. */
__device__ __forceinline__ void transpose4(uint32_t w[4])
{
    bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
    uint32_t r0 = __shfl_xor_sync(0xffffffffu, odd ? w[0] : w[1], 1),
             r1 = __shfl_xor_sync(0xffffffffu, odd ? w[2] : w[3], 1);

    w[0] = odd ? r0 : w[0];
    w[1] = odd ? w[1] : r0;
    w[2] = odd ? r1 : w[2];
    w[3] = odd ? w[3] : r1;
    r0 = __shfl_xor_sync(0xffffffffu, high ? w[0] : w[2], 2);
    r1 = __shfl_xor_sync(0xffffffffu, high ? w[1] : w[3], 2);
    w[0] = high ? r0 : w[0];
    w[2] = high ? w[2] : r0;
    w[1] = high ? r1 : w[1];
    w[3] = high ? w[3] : r1;
}

/* ---- the state in registers ----
 * S[j][i]: columns 8j + 2 (lane % 4) + i % 2 of row 16 warp + lane / 4 + 8 (i / 2) */

/* From and to the rows `place`.. of a tensor, of which there are `rows`. */
template <int N>
__device__ __forceinline__ void load_state(float S[N / 8][4], const struct ssd &a, const struct tensor &from,
                                           int64_t place, int rows)
{
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4, t = lane % 4;

    if (from.dtype == F32) {
        const float *at = (const float *)from.data + (place + row) * from.ld + 2 * t;
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            float2 lo = make_float2(0, 0), hi = lo;
            if (row < rows && 8 * j < a.N)
                lo = *(const float2 *)(at + 8 * j);
            if (row + 8 < rows && 8 * j < a.N)
                hi = *(const float2 *)(at + 8 * from.ld + 8 * j);
            S[j][0] = lo.x, S[j][1] = lo.y, S[j][2] = hi.x, S[j][3] = hi.y;
        }
        return;
    }
    row += t % 2 * 8;
    const bf16 *at = (const bf16 *)from.data + (place + row) * from.ld + t / 2 * 8;
    uint4 v[N / 16];
#pragma unroll
    for (int j = 0; j < N / 8; j += 2) {
        v[j / 2] = make_uint4(0, 0, 0, 0);
        if (row < rows && 8 * (j + t / 2) < a.N)
            v[j / 2] = *(const uint4 *)(at + 8 * j);
    }
#pragma unroll
    for (int j = 0; j < N / 8; j += 2) {
        uint32_t w[4] = { v[j / 2].x, v[j / 2].y, v[j / 2].z, v[j / 2].w };
        transpose4(w);
#pragma unroll
        for (int q = 0; q < 4; q++) {
            S[j + q / 2][q % 2 * 2] = unpack_lo(w[q]);
            S[j + q / 2][q % 2 * 2 + 1] = unpack_hi(w[q]);
        }
    }
}

template <int N>
__device__ __forceinline__ void store_state(const float S[N / 8][4], const struct ssd &a,
                                            const struct tensor &to, int64_t place, int rows)
{
    int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4, t = lane % 4;

    if (to.dtype == F32) {
        float *at = (float *)to.data + (place + row) * to.ld + 2 * t;
#pragma unroll
        for (int j = 0; j < N / 8; j++) {
            if (row < rows && 8 * j < a.N)
                *(float2 *)(at + 8 * j) = make_float2(S[j][0], S[j][1]);
            if (row + 8 < rows && 8 * j < a.N)
                *(float2 *)(at + 8 * to.ld + 8 * j) = make_float2(S[j][2], S[j][3]);
        }
        return;
    }
    row += t % 2 * 8;
    bf16 *at = (bf16 *)to.data + (place + row) * to.ld + t / 2 * 8;
#pragma unroll
    for (int j = 0; j < N / 8; j += 2) {
        uint32_t w[4] = { pack2(S[j][0], S[j][1]), pack2(S[j][2], S[j][3]), pack2(S[j + 1][0], S[j + 1][1]),
                          pack2(S[j + 1][2], S[j + 1][3]) };
        transpose4(w);
        if (row < rows && 8 * (j + t / 2) < a.N)
            *(uint4 *)(at + 8 * j) = make_uint4(w[0], w[1], w[2], w[3]);
    }
}

/* x of the warp's 16 rows (P) and tokens 16k..16k+15: x[0], x[1] are rows 0-7, 8-15 of the first 8 tokens,
 * x[2], x[3] of the others: an operand A of x^T, and at the same time two operands B, { x[0], x[2] } and {
 * x[1], x[3] }, of x. */
__device__ __forceinline__ void load_x(uint32_t x[4], const unsigned char *X, int k)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    ldmatrix4_trans(x, X + unit_at<SSD_ROWS>(16 * k + lane / 16 * 8 + lane % 8, 2 * warp + lane / 8 % 2));
}

/* Two bf16 times two floats. */
__device__ __forceinline__ uint32_t scale2(uint32_t v, float2 f)
{
    return pack2(unpack_lo(v) * f.x, unpack_hi(v) * f.y);
}

/* S = keep S + sum over the tile of weight[s] x[s] (x) B[s]; keep < 0: the old S is forgotten. */
template <int N>
__device__ __forceinline__ void add_tile(float S[N / 8][4], const unsigned char *X, const unsigned char *B,
                                         const float *weight, float keep)
{
    int lane = threadIdx.x % 32, t = lane % 4;

    if (keep < 0.0f) {
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            S[i / 4][i % 4] = 0.0f;
    } else {
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            S[i / 4][i % 4] *= keep;
    }
#pragma unroll
    for (int k = 0; k < SSD_TILE / 16; k++) {
        uint32_t x[4], b[4];
        float2 lo = *(const float2 *)(weight + 16 * k + 2 * t),
               hi = *(const float2 *)(weight + 16 * k + 8 + 2 * t);

        load_x(x, X, k);
        x[0] = scale2(x[0], lo);
        x[1] = scale2(x[1], lo);
        x[2] = scale2(x[2], hi);
        x[3] = scale2(x[3], hi);
#pragma unroll
        for (int j = 0; j < N / 8; j += 2) {
            ldmatrix4_trans(b, B + unit_at<N>(16 * k + lane / 8 % 2 * 8 + lane % 8, j + lane / 16));
            mma_bf16(S[j], x, b);
            mma_bf16(S[j + 1], x, b + 2);
        }
    }
}

#endif
