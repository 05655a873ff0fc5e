/* attn_f32.cu - causal attention forward and backward in fp32
 * SPDX-License-Identifier: MIT
 *
 * The passes of attn.cu and attn_bwd.cu with products of floats: 16 x 16 threads, thread (y,x) has rows y,
 * y+16, ... of a tile of TS queries and keys, columns x, x+16, ... of scores and 4x .. 4x+3, 4x+64 .. of
 * outputs. Operands lie in shared memory, a row 16 bytes longer than it need be: 8 threads that read 16
 * bytes of 8 rows meet 32 banks.
 */
#include "attn.cuh"

template <int HD> struct shape {
    static constexpr int TS = HD > 128 ? 32 : 64; /* queries and keys of a tile */
    static constexpr int N = TS / 16;             /* of a thread */
    static constexpr int LD = HD + 4, LS = TS + 4;
    static constexpr int TILE = TS * LD, SQUARE = TS * LS;
};

/* The tile's rows; zeros beyond them and beyond hd. In the background when wide. */
template <int HD>
__device__ void load_tile(float *dst, const struct tensor &t, int64_t row, int64_t col, int rows, int hd,
                          bool wide)
{
    const float *src = (const float *)t.data + row * t.ld + col;

    for (int i = threadIdx.x; i < shape<HD>::TS * HD / 4; i += 256) {
        int r = i / (HD / 4), c = i % (HD / 4) * 4;
        float *to = dst + r * shape<HD>::LD + c;

        if (wide)
            copy_async16(to, src + r * t.ld + c, r < rows && c < hd);
        for (int e = 0; !wide && e < 4; e++)
            to[e] = r < rows && c + e < hd ? src[r * t.ld + c + e] : 0.0f;
    }
}

/* s [N][N] = A B^T */
template <int HD> __device__ void product_nt(float (*s)[shape<HD>::N], const float *A, const float *B)
{
    constexpr int N = shape<HD>::N, LD = shape<HD>::LD;

    A += threadIdx.x / 16 * LD;
    B += threadIdx.x % 16 * LD;
    UNROLL
    for (int i = 0; i < N; i++)
        UNROLL
        for (int j = 0; j < N; j++)
            s[i][j] = 0;
    for (int k = 0; k < HD; k += 4) {
        pack<float, 4> x[N], y[N];

        UNROLL
        for (int i = 0; i < N; i++) {
            x[i] = load_pack<float, 4>(A + i * 16 * LD + k);
            y[i] = load_pack<float, 4>(B + i * 16 * LD + k);
        }
        UNROLL
        for (int e = 0; e < 4; e++)
            UNROLL
            for (int i = 0; i < N; i++)
                UNROLL
                for (int j = 0; j < N; j++)
                    s[i][j] += x[i].v[e] * y[j].v[e];
    }
}

/* o [N][HD/16] += P B, P [TS,LS] in shared memory */
template <int HD> __device__ void product_nn(float (*o)[HD / 16], const float *P, const float *B)
{
    constexpr int N = shape<HD>::N, LD = shape<HD>::LD, LS = shape<HD>::LS;

    P += threadIdx.x / 16 * LS;
    B += threadIdx.x % 16 * 4;
    for (int k = 0; k < shape<HD>::TS; k += 4) {
        pack<float, 4> x[N];

        UNROLL
        for (int i = 0; i < N; i++)
            x[i] = load_pack<float, 4>(P + i * 16 * LS + k);
        UNROLL
        for (int e = 0; e < 4; e++)
            UNROLL
            for (int j = 0; j < HD / 64; j++) {
                pack<float, 4> y = load_pack<float, 4>(B + (k + e) * LD + j * 64);

                UNROLL
                for (int i = 0; i < N; i++)
                    UNROLL
                    for (int c = 0; c < 4; c++)
                        o[i][j * 4 + c] += x[i].v[e] * y.v[c];
            }
    }
}

template <int HD> __device__ void put_square(float *dst, const float (*s)[shape<HD>::N])
{
    UNROLL
    for (int i = 0; i < shape<HD>::N; i++)
        UNROLL
        for (int j = 0; j < shape<HD>::N; j++)
            dst[(threadIdx.x / 16 + i * 16) * shape<HD>::LS + threadIdx.x % 16 + j * 16] = s[i][j];
}

template <int HD> __device__ void clear(float (*o)[HD / 16])
{
    UNROLL
    for (int i = 0; i < shape<HD>::N; i++)
        UNROLL
        for (int c = 0; c < HD / 16; c++)
            o[i][c] = 0;
}

/* Rows of the tensor = o times a factor of each row */
template <int HD>
__device__ void store_tile(const struct tensor &t, int64_t row, int64_t col, int rows, int hd,
                           const float (*o)[HD / 16], const float *factor)
{
    UNROLL
    for (int i = 0; i < shape<HD>::N; i++) {
        int r = threadIdx.x / 16 + i * 16;
        float *to = (float *)t.data + (row + r) * t.ld + col;

        UNROLL
        for (int c = 0; c < HD / 16; c++) {
            int at = c / 4 * 64 + threadIdx.x % 16 * 4 + c % 4;

            if (r < rows && at < hd)
                to[at] = o[i][c] * factor[i];
        }
    }
}

struct scores_f32 {
    float scale, cap, inv;

    __device__ explicit scores_f32(const struct attn &a)
        : scale((float)a.scale), cap((float)a.softcap),
          inv(a.softcap > 0 ? (float)(a.scale / a.softcap) : 0.0f)
    {
    }
    __device__ float score(float s) const { return cap > 0 ? cap * tanhf(s * inv) : s * scale; }
    /* p (dp - delta) f' for the product s; p in its place */
    __device__ float gradient(float &s, float dp, float lse, float delta) const
    {
        float r = cap > 0 ? tanhf(s * inv) : 0.0f;

        s = expf((cap > 0 ? cap * r : s * scale) - lse);
        return s * (dp - delta) * (1.0f - r * r);
    }
};

/* Which tile of queries of which head a block has; the longest first. */
struct query_block {
    int b, h, g, t0, begin, end;

    __device__ query_block(const struct attn &a, int size)
    {
        int heads = (int)(a.B * a.Hq), bh = blockIdx.x % heads;

        b = bh / (int)a.Hq;
        h = bh % (int)a.Hq;
        g = h / (int)(a.Hq / a.Hkv);
        t0 = (((int)a.T + size - 1) / size - 1 - blockIdx.x / heads) * size;
        begin = first_key(a, b, t0) / size * size;
        end = (int)a.q0 + min((int)a.T, t0 + size);
    }
};

template <int HD> __global__ void __launch_bounds__(256) attn_fwd_f32(const struct attn a, bool wide)
{
    constexpr int N = shape<HD>::N, TS = shape<HD>::TS, TILE = shape<HD>::TILE;
    DYNAMIC_SHARED(float, qs);
    float *ks = qs + TILE, *vs = ks + TILE, *ps = vs + TILE;
    const query_block u(a, TS);
    const int y = threadIdx.x / 16, x = threadIdx.x % 16, hd = (int)a.hd, T = (int)a.T;
    const scores_f32 f(a);
    float o[N][HD / 16], top[N], sum[N];
    int lo[N];

    clear<HD>(o);
    UNROLL
    for (int i = 0; i < N; i++) {
        top[i] = -INFINITY;
        sum[i] = 0;
        lo[i] = first_key(a, u.b, min(u.t0 + y + i * 16, T - 1));
    }
    load_tile<HD>(qs, a.q, (int64_t)u.b * T + u.t0, u.h * hd, T - u.t0, hd, wide);
    for (int k0 = u.begin; k0 < u.end; k0 += TS) {
        float s[N][N];

        load_tile<HD>(ks, a.k, u.b * a.Smax + k0, u.g * hd, (int)a.S - k0, hd, wide);
        load_tile<HD>(vs, a.v, u.b * a.Smax + k0, u.g * hd, (int)a.S - k0, hd, wide);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        product_nt<HD>(s, qs, ks);
        UNROLL
        for (int i = 0; i < N; i++) {
            int pos = (int)a.q0 + u.t0 + y + i * 16;
            float most = top[i], fade, base, add = 0;

            UNROLL
            for (int j = 0; j < N; j++) {
                int key = k0 + x + j * 16;

                s[i][j] = key < lo[i] || key > pos ? -INFINITY : f.score(s[i][j]);
                most = fmaxf(most, s[i][j]);
            }
            for (int k = 8; k > 0; k >>= 1)
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, k));
            base = most == -INFINITY ? 0.0f : most; /* a row that has seen no key yet */
            fade = expf(top[i] - base);
            top[i] = most;
            UNROLL
            for (int j = 0; j < N; j++) {
                s[i][j] = expf(s[i][j] - base);
                add += s[i][j];
            }
            sum[i] = sum[i] * fade + add;
            UNROLL
            for (int c = 0; c < HD / 16; c++)
                o[i][c] *= fade;
        }
        put_square<HD>(ps, s);
        __syncthreads();
        product_nn<HD>(o, ps, vs);
        __syncthreads();
    }
    UNROLL
    for (int i = 0; i < N; i++) {
        int t = u.t0 + y + i * 16;

        for (int k = 8; k > 0; k >>= 1)
            sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], k);
        if (a.lse && x == 0 && t < T)
            a.lse[(int64_t)(u.b * a.Hq + u.h) * T + t] = top[i] + logf(sum[i]);
        sum[i] = 1.0f / sum[i];
    }
    store_tile<HD>(a.o, (int64_t)u.b * T + u.t0, u.h * hd, T - u.t0, hd, o, sum);
}

template <int HD>
__global__ void __launch_bounds__(256) attn_queries_f32(const struct attn a, const float *delta, bool wide)
{
    constexpr int N = shape<HD>::N, TS = shape<HD>::TS, TILE = shape<HD>::TILE;
    DYNAMIC_SHARED(float, qs);
    float *gs = qs + TILE, *ks = gs + TILE, *vs = ks + TILE, *ps = vs + TILE;
    const query_block u(a, TS);
    const int y = threadIdx.x / 16, x = threadIdx.x % 16, hd = (int)a.hd, T = (int)a.T;
    const scores_f32 f(a);
    float dq[N][HD / 16], lse[N], del[N], scale[N];
    int lo[N];

    clear<HD>(dq);
    UNROLL
    for (int i = 0; i < N; i++) {
        int t = min(u.t0 + y + i * 16, T - 1);

        lo[i] = first_key(a, u.b, t);
        lse[i] = a.lse[(u.b * a.Hq + u.h) * T + t];
        del[i] = delta[(u.b * a.Hq + u.h) * T + t];
        scale[i] = f.scale;
    }
    load_tile<HD>(qs, a.q, (int64_t)u.b * T + u.t0, u.h * hd, T - u.t0, hd, wide);
    load_tile<HD>(gs, a.dout, (int64_t)u.b * T + u.t0, u.h * hd, T - u.t0, hd, wide);
    for (int k0 = u.begin; k0 < u.end; k0 += TS) {
        float s[N][N], dp[N][N];

        load_tile<HD>(ks, a.k, u.b * a.Smax + k0, u.g * hd, (int)a.S - k0, hd, wide);
        load_tile<HD>(vs, a.v, u.b * a.Smax + k0, u.g * hd, (int)a.S - k0, hd, wide);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        product_nt<HD>(s, qs, ks);
        product_nt<HD>(dp, gs, vs);
        UNROLL
        for (int i = 0; i < N; i++)
            UNROLL
            for (int j = 0; j < N; j++) {
                int key = k0 + x + j * 16, pos = (int)a.q0 + u.t0 + y + i * 16;
                float d = f.gradient(s[i][j], dp[i][j], lse[i], del[i]);

                s[i][j] = key < lo[i] || key > pos ? 0.0f : d;
            }
        put_square<HD>(ps, s);
        __syncthreads();
        product_nn<HD>(dq, ps, ks);
        __syncthreads();
    }
    store_tile<HD>(a.dq, (int64_t)u.b * T + u.t0, u.h * hd, T - u.t0, hd, dq, scale);
}

/* Scores are held [key][query]. */
template <int HD>
__global__ void __launch_bounds__(256) attn_keys_f32(const struct attn a, const float *delta, bool wide)
{
    constexpr int N = shape<HD>::N, TS = shape<HD>::TS, TILE = shape<HD>::TILE, SQUARE = shape<HD>::SQUARE;
    DYNAMIC_SHARED(float, ks);
    float *vs = ks + TILE, *qs = vs + TILE, *gs = qs + TILE, *ps = gs + TILE, *ds = ps + SQUARE;
    const int y = threadIdx.x / 16, x = threadIdx.x % 16, hd = (int)a.hd, T = (int)a.T;
    const int groups = (int)(a.B * a.Hkv), rep = (int)(a.Hq / a.Hkv);
    const int b = blockIdx.x % groups / (int)a.Hkv, g = blockIdx.x % (int)a.Hkv,
              k0 = blockIdx.x / groups * TS;
    const scores_f32 f(a);
    float dk[N][HD / 16], dv[N][HD / 16], scale[N], one[N];
    int at[2];

    clear<HD>(dk);
    clear<HD>(dv);
    find_queries(a, b, k0, TS, at);
    load_tile<HD>(ks, a.k, b * a.Smax + k0, g * hd, (int)a.S - k0, hd, wide);
    load_tile<HD>(vs, a.v, b * a.Smax + k0, g * hd, (int)a.S - k0, hd, wide);
    for (int h = g * rep; h < g * rep + rep; h++)
        for (int t0 = at[0] / TS * TS; t0 < at[1]; t0 += TS) {
            float s[N][N], dp[N][N];

            load_tile<HD>(qs, a.q, (int64_t)b * T + t0, h * hd, T - t0, hd, wide);
            load_tile<HD>(gs, a.dout, (int64_t)b * T + t0, h * hd, T - t0, hd, wide);
            copy_async_commit();
            copy_async_wait<0>();
            __syncthreads();
            product_nt<HD>(s, ks, qs);
            product_nt<HD>(dp, vs, gs);
            UNROLL
            for (int j = 0; j < N; j++) {
                int t = t0 + x + j * 16, in = min(t, T - 1), lo = first_key(a, b, in);
                float lse = a.lse[(b * a.Hq + h) * T + in], del = delta[(b * a.Hq + h) * T + in];

                UNROLL
                for (int i = 0; i < N; i++) {
                    int key = k0 + y + i * 16;
                    bool seen = t < T && key >= lo && key <= (int)a.q0 + t;
                    float d = f.gradient(s[i][j], dp[i][j], lse, del);

                    /* the NaN of a query counts for all keys of a tile, as exp(-inf - lse) would; a key's
                     * does not */
                    s[i][j] = seen ? s[i][j] : lse * 0.0f;
                    dp[i][j] = seen ? d : lse * 0.0f;
                }
            }
            put_square<HD>(ps, s);
            put_square<HD>(ds, dp);
            __syncthreads();
            product_nn<HD>(dv, ps, gs);
            product_nn<HD>(dk, ds, qs);
            __syncthreads();
        }
    copy_async_wait<0>(); /* of a block that no query sees */
    UNROLL
    for (int i = 0; i < N; i++) {
        scale[i] = f.scale;
        one[i] = 1.0f;
    }
    store_tile<HD>(a.dk, b * a.Smax + k0, g * hd, (int)a.S - k0, hd, dk, scale);
    store_tile<HD>(a.dv, b * a.Smax + k0, g * hd, (int)a.S - k0, hd, dv, one);
}

template <int HD> static void launch_fwd(const struct attn &a)
{
    bool wide = attn_wide(&a, &a.q) && attn_wide(&a, &a.k) && attn_wide(&a, &a.v);

    LAUNCH((attn_fwd_f32<HD>), (unsigned)(ceil_div(a.T, shape<HD>::TS) * a.B * a.Hq), 256,
           (3 * shape<HD>::TILE + shape<HD>::SQUARE) * sizeof(float), a, wide);
}

template <int HD> static void launch_bwd(const struct attn &a, const float *delta)
{
    bool wide = attn_wide(&a, &a.q) && attn_wide(&a, &a.k) && attn_wide(&a, &a.v) && attn_wide(&a, &a.dout);

    LAUNCH((attn_keys_f32<HD>), (unsigned)(ceil_div(a.S, shape<HD>::TS) * a.B * a.Hkv), 256,
           (4 * shape<HD>::TILE + 2 * shape<HD>::SQUARE) * sizeof(float), a, delta, wide);
    LAUNCH((attn_queries_f32<HD>), (unsigned)(ceil_div(a.T, shape<HD>::TS) * a.B * a.Hq), 256,
           (4 * shape<HD>::TILE + shape<HD>::SQUARE) * sizeof(float), a, delta, wide);
}

void attn_f32_fwd(const struct attn *a)
{
    if (a->hd <= 64)
        launch_fwd<64>(*a);
    else if (a->hd <= 128)
        launch_fwd<128>(*a);
    else
        launch_fwd<256>(*a);
}

void attn_f32_bwd(const struct attn *a, const float *delta)
{
    if (a->hd <= 64)
        launch_bwd<64>(*a, delta);
    else if (a->hd <= 128)
        launch_bwd<128>(*a, delta);
    else
        launch_bwd<256>(*a, delta);
}
