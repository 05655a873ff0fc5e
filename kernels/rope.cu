/* rope.cu - rotary position embedding, in place
 * SPDX-License-Identifier: MIT
 *
 * Angles are counted in quarter turns, q = pos base^(-2i/R) 2/pi, in double, as rope.c does: what is left
 * of q after its nearest whole number goes through polynomials in float, and the whole number mod 4 says
 * which of +-sin and +-cos these are. A block has TOKENS tokens: it makes their sines and cosines once, in
 * shared memory, then turns all heads. The rotated part of x is read and written once.
 */
#include "device.cuh"

constexpr int PAIRS = 128, TOKENS = 8, THREADS = 256;

struct frequencies { /* of PAIRS pairs from i0 on, in quarter turns a position */
    double f[PAIRS];
};

/* Sine and cosine of q quarter turns, |q| < 2^51. The polynomials are vmath.h's. */
__device__ __forceinline__ void turn(double q, float *sine, float *cosine)
{
    double z = rint(q);
    int quarter = (int)((long long)z & 3);
    float x = (float)(q - z), u = x * x, s, c, to_s, to_c;

    s = ((-4.602149213e-3f * u + 7.968021765e-2f) * u - 6.459634777e-1f) * u * x + x * 1.570796322f;
    c = (((9.067398984e-4f * u - 2.086152834e-2f) * u + 2.536694104e-1f) * u - 1.233700549f) * u + 1.0f;
    to_s = quarter & 1 ? c : s;
    to_c = quarter & 1 ? s : c;
    *sine = quarter & 2 ? -to_s : to_s;
    *cosine = (quarter + 1) & 2 ? -to_c : to_c;
}

/* Pairs i0 .. i0+n-1 of all heads; N pairs at once. x points at pair i0 of the first head. */
template <class T, int N>
__global__ void __launch_bounds__(THREADS)
    rope_kernel(const struct rope a, const struct frequencies f, T *x, int n)
{
    __shared__ float sine[TOKENS][PAIRS], cosine[TOKENS][PAIRS];
    const int64_t m0 = (int64_t)blockIdx.x * TOKENS, half = a.R / 2;
    const int tokens = (int)min((int64_t)TOKENS, a.B * a.T - m0), packs = n / N, each = (int)a.H * packs;

    for (int k = threadIdx.x; k < tokens * n; k += THREADS) {
        int64_t m = m0 + k / n, start = a.start ? a.start[m] : -(1LL << 31);
        int64_t pos = start < -(1LL << 29) ? a.pos0 + m % a.T : m % a.T - start;

        turn((double)(a.inverse ? -pos : pos) * f.f[k % n], &sine[k / n][k % n], &cosine[k / n][k % n]);
    }
    __syncthreads();
    UNROLL
    for (int k0 = threadIdx.x; k0 < tokens * each; k0 += 4 * THREADS) {
        pack<T, N> u[4], v[4];
        T *at[4];
        int w[4]; /* token and first pair, in sine and cosine */

        UNROLL
        for (int j = 0; j < 4; j++) {
            int k = min(k0 + j * THREADS, tokens * each - 1), token = k / each, h = k % each / packs;
            int64_t m = m0 + token;

            w[j] = token * PAIRS + k % packs * N;
            at[j] = x + (m / a.T * a.rows + m % a.T) * a.x.ld + h * a.hd + k % packs * N;
            u[j] = load_pack<T, N>(at[j]);
            v[j] = load_pack<T, N>(at[j] + half);
        }
        UNROLL
        for (int j = 0; j < 4; j++) {
            UNROLL
            for (int e = 0; e < N; e++) {
                float s = sine[0][w[j] + e], c = cosine[0][w[j] + e], p = to_float(u[j].v[e]),
                      q = to_float(v[j].v[e]);

                u[j].v[e] = from_float<T>(p * c - q * s);
                v[j].v[e] = from_float<T>(q * c + p * s);
            }
            if (k0 + j * THREADS < tokens * each) {
                store_pack(at[j], u[j]);
                store_pack(at[j] + half, v[j]);
            }
        }
    }
}

template <class T> static void rope(const struct rope &a)
{
    constexpr int N = 16 / sizeof(T);
    int64_t half = a.R / 2;
    bool wide = aligned_rows(&a.x, 16) && a.hd % N == 0 && half % N == 0;

    for (int64_t i0 = 0; i0 < half; i0 += PAIRS) {
        int n = (int)(half - i0 < PAIRS ? half - i0 : PAIRS);
        unsigned blocks = (unsigned)ceil_div(a.B * a.T, TOKENS);
        struct frequencies f = {};
        T *x = (T *)a.x.data + i0;

        for (int i = 0; i < n; i++)
            f.f[i] = pow(a.base, -2.0 * (double)(i0 + i) / (double)a.R) * 0.63661977236758134308;
        if (wide)
            LAUNCH((rope_kernel<T, N>), blocks, THREADS, 0, a, f, x, n);
        else
            LAUNCH((rope_kernel<T, 1>), blocks, THREADS, 0, a, f, x, n);
    }
}

void cuda_rope(const struct rope *a)
{
    struct rope n = *a;

    CUDA_NEED("rope", a, x);
    if (a->R < 0 || a->R > a->hd || a->R % 2)
        cuda_fault("rope", "R", "is odd or not in 0..hd");
    if (a->rows && a->rows < a->T)
        cuda_fault("rope", "rows", "is less than T");
    if (a->R > 0 && !(a->base > 0))
        cuda_fault("rope", "base", "is not above 0");
    n.rows = a->rows ? a->rows : a->T;
    if (n.B * n.T * n.H > 0)
        WITH_TYPE(n.x.dtype, T, rope<T>(n));
}
