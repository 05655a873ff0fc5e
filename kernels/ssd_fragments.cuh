/* ssd_fragments.cuh - matrices in shared memory, and parts of them as the operands of mma_bf16
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_SSD_FRAGMENTS_CUH
#define SSM_SSD_FRAGMENTS_CUH

#include "ssd_bwd.cuh"

namespace {

/* ---- fragments (device.cuh has the layouts) from matrices in shared memory, rows ld elements apart ---- */

/* A [16,16] at (row, col); trans: the matrix holds the transposed, A(i, k) at (row + k, col + i) */
__device__ __forceinline__ void load_a(uint32_t a[4], const bf16 *m, int ld, int row, int col)
{
    int lane = threadIdx.x % 32;
    ldmatrix4(a, m + (row + lane % 16) * ld + col + lane / 16 * 8);
}
__device__ __forceinline__ void load_a_trans(uint32_t a[4], const bf16 *m, int ld, int row, int col)
{
    int lane = threadIdx.x % 32;
    ldmatrix4_trans(a, m + (row + lane / 16 * 8 + lane % 8) * ld + col + lane / 8 % 2 * 8);
}
/* Two B [16,8] side by side, b and b + 2; B(k, n) at (row + k, col + n); trans: at (row + n, col + k) */
__device__ __forceinline__ void load_b(uint32_t b[4], const bf16 *m, int ld, int row, int col)
{
    int lane = threadIdx.x % 32;
    ldmatrix4_trans(b, m + (row + lane % 16) * ld + col + lane / 16 * 8);
}
__device__ __forceinline__ void load_b_trans(uint32_t b[4], const bf16 *m, int ld, int row, int col)
{
    int lane = threadIdx.x % 32;
    ldmatrix4(b, m + (row + lane / 16 * 8 + lane % 8) * ld + col + lane / 8 % 2 * 8);
}
__device__ __forceinline__ uint32_t scale2(uint32_t v, float lo, float hi)
{
    return pack2(unpack_lo(v) * lo, unpack_hi(v) * hi);
}
/* d [16,16] += a b, as two D fragments */
__device__ __forceinline__ void mma_pair(float d[2][4], const uint32_t a[4], const uint32_t b[4])
{
    mma_bf16(d[0], a, b);
    mma_bf16(d[1], a, b + 2);
}

/* The lanes of a quad have words w[0..3]; then lane t has the quad's words w[t]. */
__device__ __forceinline__ void quad_transpose(uint32_t w[4])
{
    int t = threadIdx.x % 4;

    for (int k = 1; k <= 2; k++) {
        bool odd = t & k;
        for (int j = 0; j < 2; j++) {
            int lo = k == 1 ? 2 * j : j, hi = lo + k;
            uint32_t got = __shfl_xor_sync(0xffffffffu, odd ? w[lo] : w[hi], k);
            if (odd)
                w[lo] = got;
            else
                w[hi] = got;
        }
    }
}

/* The warp's rows g (half 0) or g+8 (half 1) of a pair of D fragments [16,16], 8 bytes a lane; p: column 0 of
 * this lane's row. All lanes call. */
__device__ __forceinline__ void store_pair(bf16 *p, bool valid, const float d[2][4], int half)
{
    int t = threadIdx.x % 4;
    uint32_t w0 = pack2(d[0][2 * half], d[0][2 * half + 1]), w1 = pack2(d[1][2 * half], d[1][2 * half + 1]);
    uint32_t got = __shfl_xor_sync(0xffffffffu, t & 1 ? w0 : w1, 1);

    if (valid)
        store_pack<uint32_t, 2>((uint32_t *)(p + t % 2 * 8 + t / 2 * 4),
                                { { t & 1 ? got : w0, t & 1 ? w1 : got } });
}

/* ---- copies in the background ---- */

/* ROWS of COLS elements, of which n are read and the others become zeros */
template <int THREADS, int ROWS, int COLS>
__device__ __forceinline__ void copy_rows(bf16 *to, int ldt, const bf16 *from, int64_t ld, int n)
{
    enum { PACKS = COLS / 8, ALL = ROWS * PACKS };
#pragma unroll
    for (int k = 0; k < (ALL + THREADS - 1) / THREADS; k++) {
        int i = k * THREADS + (int)threadIdx.x, r = i / PACKS, c = i % PACKS * 8;
        if (ALL % THREADS == 0 || i < ALL)
            copy_async16(to + r * ldt + c, from + r * ld + c, r < n);
    }
}
template <int THREADS> __device__ __forceinline__ void copy_record(float *to, const float *from)
{
    enum { ALL = RECORD * SSD_TILE / 4 };
#pragma unroll
    for (int k = 0; k < (ALL + THREADS - 1) / THREADS; k++) {
        int i = k * THREADS + (int)threadIdx.x;
        if (i < ALL)
            copy_async16(to + 4 * i, from + 4 * i, true);
    }
}

}

#endif
