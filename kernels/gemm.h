/* gemm.h - small matrix products inside one thread
 * SPDX-License-Identifier: MIT
 *
 * The tile work of SSD and attention: C [M,N] = beta C + A [M,K] B [K,N] with all of B in the caches.
 * A is read by single elements, so any strides do (a transposed A costs nothing); B and C are rows
 * of whole vectors: N must be a multiple of GEMM_PAD, which callers reach by padding their scratch
 * tiles with zeros. A register tile of MR x NR vectors of C stays in registers over the whole of K.
 *
 * Each element of C is one chain of additions over k in rising order: neither M nor the position in
 * the tile changes the result.
 */
#ifndef SSM_GEMM_H
#define SSM_GEMM_H

#include <stdint.h>
#include <string.h>

#define GEMM_PAD 16 /* floats; columns of B and C come in multiples of this */

#if defined(__AVX512F__)
#define GEMM_VL 16
#elif defined(__AVX__)
#define GEMM_VL 8
#else
#define GEMM_VL 4
#endif

/* Vector types need a typedef; the second one is for loads and stores at any float address. */
typedef float gemm_vec __attribute__((vector_size(4 * GEMM_VL)));
typedef float gemm_mem __attribute__((vector_size(4 * GEMM_VL), aligned(4), may_alias));
typedef float gemm_quad __attribute__((vector_size(16)));
typedef float gemm_qmem __attribute__((vector_size(16), aligned(4), may_alias));

static inline int64_t gemm_pad(int64_t n) { return (n + GEMM_PAD - 1) / GEMM_PAD * GEMM_PAD; }

/* One register tile; MR and NR are constants wherever this is inlined. beta 0 does not read c. */
static inline __attribute__((always_inline)) void gemm_tile(const int MR, const int NR, int64_t K,
                                                            const float *a, int64_t ars, int64_t acs,
                                                            const float *b, int64_t ldb, float beta, float *c,
                                                            int64_t ldc)
{
    gemm_vec s[8][6];

#pragma GCC unroll 8
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 6
        for (int j = 0; j < NR; j++)
            s[i][j] = (gemm_vec){ 0 };
    for (int64_t k = 0; k < K; k++) {
        gemm_vec bv[6];

#pragma GCC unroll 6
        for (int j = 0; j < NR; j++)
            bv[j] = *(const gemm_mem *)(b + k * ldb + j * GEMM_VL);
#pragma GCC unroll 8
        for (int i = 0; i < MR; i++)
#pragma GCC unroll 6
            for (int j = 0; j < NR; j++)
                s[i][j] += a[i * ars + k * acs] * bv[j];
    }
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 6
        for (int j = 0; j < NR; j++) {
            gemm_mem *p = (gemm_mem *)(c + i * ldc + j * GEMM_VL);

            if (beta != 0.0f)
                s[i][j] += beta * *p;
            *p = s[i][j];
        }
}

/* All rows of one panel of NR vectors of columns, MR rows at a time, then one by one. */
static inline __attribute__((always_inline)) void gemm_panel(const int MR, const int NR, int64_t M, int64_t K,
                                                             const float *a, int64_t ars, int64_t acs,
                                                             const float *b, int64_t ldb, float beta,
                                                             float *c, int64_t ldc)
{
    int64_t i = 0;

    for (; i + MR <= M; i += MR)
        gemm_tile(MR, NR, K, a + i * ars, ars, acs, b, ldb, beta, c + i * ldc, ldc);
    for (; i + 2 <= M; i += 2)
        gemm_tile(2, NR, K, a + i * ars, ars, acs, b, ldb, beta, c + i * ldc, ldc);
    for (; i < M; i++)
        gemm_tile(1, NR, K, a + i * ars, ars, acs, b, ldb, beta, c + i * ldc, ldc);
}

/* C [M,N] = beta C + A B; element (i,k) of A is a[i*ars + k*acs]; N a multiple of GEMM_PAD. */
static inline void gemm_small(int64_t M, int64_t N, int64_t K, const float *a, int64_t ars, int64_t acs,
                              const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    int64_t j = 0;

#if GEMM_VL == 16 /* 16 sums, 4 vectors of b; gcc spills when there are 24 */
    for (; j + 64 <= N; j += 64)
        gemm_panel(4, 4, M, K, a, ars, acs, b + j, ldb, beta, c + j, ldc);
    for (; j + 48 <= N; j += 48)
        gemm_panel(4, 3, M, K, a, ars, acs, b + j, ldb, beta, c + j, ldc);
    for (; j + 32 <= N; j += 32)
        gemm_panel(8, 2, M, K, a, ars, acs, b + j, ldb, beta, c + j, ldc);
    for (; j < N; j += 16)
        gemm_panel(8, 1, M, K, a, ars, acs, b + j, ldb, beta, c + j, ldc);
#elif GEMM_VL == 8 /* 16 registers: 12 sums, 2 vectors of b, 1 element of a */
    for (; j < N; j += 16)
        gemm_panel(6, 2, M, K, a, ars, acs, b + j, ldb, beta, c + j, ldc);
#else
    for (; j < N; j += 8)
        gemm_panel(6, 2, M, K, a, ars, acs, b + j, ldb, beta, c + j, ldc);
#endif
}

/* dst [cols,ldd] = transpose of src [rows,cols], both counts any; dst rows beyond `rows` are kept. */
static inline void gemm_transpose(int64_t rows, int64_t cols, const float *src, int64_t lds, float *dst,
                                  int64_t ldd)
{
    int64_t r = 0;

    for (; r + 4 <= rows; r += 4) {
        const float *s = src + r * lds;
        float *d = dst + r;
        int64_t c = 0;

        for (; c + 4 <= cols; c += 4) {
            gemm_quad w0 = *(const gemm_qmem *)(s + c), w1 = *(const gemm_qmem *)(s + lds + c);
            gemm_quad w2 = *(const gemm_qmem *)(s + 2 * lds + c);
            gemm_quad w3 = *(const gemm_qmem *)(s + 3 * lds + c);
            gemm_quad l0 = __builtin_shufflevector(w0, w1, 0, 4, 1, 5);
            gemm_quad l1 = __builtin_shufflevector(w2, w3, 0, 4, 1, 5);
            gemm_quad h0 = __builtin_shufflevector(w0, w1, 2, 6, 3, 7);
            gemm_quad h1 = __builtin_shufflevector(w2, w3, 2, 6, 3, 7);

            *(gemm_qmem *)(d + c * ldd) = __builtin_shufflevector(l0, l1, 0, 1, 4, 5);
            *(gemm_qmem *)(d + (c + 1) * ldd) = __builtin_shufflevector(l0, l1, 2, 3, 6, 7);
            *(gemm_qmem *)(d + (c + 2) * ldd) = __builtin_shufflevector(h0, h1, 0, 1, 4, 5);
            *(gemm_qmem *)(d + (c + 3) * ldd) = __builtin_shufflevector(h0, h1, 2, 3, 6, 7);
        }
        for (; c < cols; c++)
            for (int64_t i = 0; i < 4; i++)
                d[c * ldd + i] = s[i * lds + c];
    }
    for (; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            dst[c * ldd + r] = src[r * lds + c];
}

/* dst [rows,padded] = scale src [rows,cols], zeros in the columns from cols on */
static inline void gemm_pack(int64_t rows, int64_t cols, const float *src, int64_t lds, float scale,
                             float *dst, int64_t ldd)
{
    for (int64_t r = 0; r < rows; r++) {
        const float *s = src + r * lds;
        float *d = dst + r * ldd;

#pragma omp simd
        for (int64_t c = 0; c < cols; c++)
            d[c] = scale * s[c];
        for (int64_t c = cols; c < ldd; c++)
            d[c] = 0.0f;
    }
}

#endif
