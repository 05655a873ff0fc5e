/* rope.cu - rotary position embedding, in place
 * SPDX-License-Identifier: MIT
 *
 * Angles are counted in quarter turns, q = pos base^(-2i/R) 2/pi, in double, as rope.c does: what is left of q after its
 * nearest whole number goes through polynomials in float, and the whole number mod 4 says which of +-sin and
 * +-cos these are. A thread makes the sines and cosines of N pairs of a token, once, and turns them in several
 * heads. The rotated part of x is read and written once.
 */
#include "rows.cuh"

constexpr int PAIRS = 128, THREADS = 256, BATCH = 2;

struct frequencies { /* of PAIRS pairs from i0 on, in quarter turns a position */
    double f[PAIRS];
};

/* Sine and cosine of q quarter turns, |q| < 2^51: 1.5 2^52 rounds to a whole number and leaves it in the low bits of the
 * sum. The polynomials are vmath.h's. */
__device__ __forceinline__ void turn(double q, float *sine, float *cosine)
{
    double z = q + 6755399441055744.0;
    int64_t bits;

    memcpy(&bits, &z, sizeof bits);
    int quarter = (int)bits & 3;
    float x = (float)(q - (z - 6755399441055744.0)), u = x * x, s, c, to_s, to_c;

    s = ((-4.602149213e-3f * u + 7.968021765e-2f) * u - 6.459634777e-1f) * u * x + x * 1.570796322f;
    c = (((9.067398984e-4f * u - 2.086152834e-2f) * u + 2.536694104e-1f) * u - 1.233700549f) * u + 1.0f;
    to_s = quarter & 1 ? c : s;
    to_c = quarter & 1 ? s : c;
    *sine = quarter & 2 ? -to_s : to_s;
    *cosine = (quarter + 1) & 2 ? -to_c : to_c;
}

/* Pairs i0 .. i0+n-1 of `each` heads a blockIdx.y. x points at pair i0 of the first head. */
template <class T, int N>
__global__ void __launch_bounds__(THREADS) rope_kernel(const struct rope a, const struct frequencies f, T *x, int n, int each)
{
    __shared__ double frequency[PAIRS]; /* a warp reads parameters one address at a time */
    const int packs = n / N, tokens = THREADS / packs, token = threadIdx.x / packs, p = threadIdx.x % packs;
    const int64_t m = (int64_t)blockIdx.x * tokens + token, half = a.R / 2;
    const int head0 = blockIdx.y * each, heads = min(each, (int)a.H - head0);

    for (int i = threadIdx.x; i < n; i += THREADS)
        frequency[i] = f.f[i];
    __syncthreads();
    if (token >= tokens || m >= a.B * a.T)
        return;

    const int64_t row = m / a.T, t = m - row * a.T, start = a.start ? a.start[m] : -(1LL << 31);
    const int64_t pos = start < -(1LL << 29) ? a.pos0 + t : t - start;
    float sine[N], cosine[N];

    x += (row * a.rows + t) * a.x.ld + head0 * a.hd + p * N;
    UNROLL
    for (int e = 0; e < N; e++)
        turn((double)(a.inverse ? -pos : pos) * frequency[p * N + e], &sine[e], &cosine[e]);
    for (int h0 = 0; h0 < heads; h0 += BATCH) {
        elements<T, N> us[BATCH], vs[BATCH];

        UNROLL
        for (int j = 0; j < BATCH; j++) {
            T *at = x + min(h0 + j, heads - 1) * a.hd;

            us[j].read(at);
            vs[j].read(at + half);
        }
        UNROLL
        for (int j = 0; j < BATCH; j++) {
            float u[N], v[N];

            if (h0 + j >= heads)
                continue;
            us[j].get(u);
            vs[j].get(v);
            UNROLL
            for (int e = 0; e < N; e++) {
                float first = u[e] * cosine[e] - v[e] * sine[e];

                v[e] = v[e] * cosine[e] + u[e] * sine[e];
                u[e] = first;
            }
            write_floats(x + (h0 + j) * a.hd, u);
            write_floats(x + (h0 + j) * a.hd + half, v);
        }
    }
}

template <class T, int N> static void pairs(const struct rope &a, const struct frequencies &f, T *x, int n)
{
    int64_t tokens = THREADS / (n / N), blocks = ceil_div(a.B * a.T, tokens);
    int64_t parts = ceil_div((int64_t)cuda_processors() * 8, blocks); /* of the heads: 8 blocks to a processor */
    int64_t each = round_up(ceil_div(a.H, parts), BATCH);
    dim3 grid((unsigned)blocks, (unsigned)ceil_div(a.H, each));

    LAUNCH((rope_kernel<T, N>), grid, THREADS, 0, a, f, x, n, (int)each);
}

template <class T> static void rope(const struct rope &a)
{
    constexpr int N = 16 / sizeof(T);
    int64_t half = a.R / 2;
    bool wide = aligned_rows(&a.x, 16) && a.hd % N == 0 && half % N == 0;

    for (int64_t i0 = 0; i0 < half; i0 += PAIRS) {
        int n = (int)(half - i0 < PAIRS ? half - i0 : PAIRS);
        struct frequencies f = {};
        T *x = (T *)a.x.data + i0;

        for (int i = 0; i < n; i++)
            f.f[i] = pow(a.base, -2.0 * (double)(i0 + i) / (double)a.R) * 0.63661977236758134308;
        if (wide)
            pairs<T, N>(a, f, x, n);
        else
            pairs<T, 1>(a, f, x, n);
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
