/* attn_bwd.cu - causal attention backward, bf16 products
 * SPDX-License-Identifier: MIT
 *
 * With p = exp(score - lse), ds = p (do v^T - delta) f', delta = rowsum(do o):
 *   dv = p^T do,  dk = scale ds^T q   a block owns KEYS keys of one key head and runs over the tiles of queries that see
 *                                     them, query head by query head: sums over heads have one order
 *   dq = scale ds k                   a block owns a tile of queries and runs over tiles of keys
 * Scores are made in both (7 products, where one pass that adds to dq in memory would have 5): so nothing is added to by two
 * blocks. The first holds scores transposed, [key][query]: in both passes the accumulators of p and ds are
 * operands of the next product as they lie. A warp owns 16 rows of the block's.
 *
 * Where key heads and keys are too few to fill a device, `splits` blocks share the query heads of a key head; their parts are
 * added in order by a third kernel.
 */
#include "attn.cuh"

constexpr int WARPS = 8, THREADS = WARPS * 32, QUERIES = 16 * WARPS;
constexpr int ENOUGH = 396; /* blocks that fill a device three times: the last, short ones then even out the rest */
static_assert(KEYS == 16 * WARPS, "a warp has 16 keys");

static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

/* For every plan of as many or fewer rows or keys the total is no larger: a caller may reserve for the longest. */
static struct attn_plan make_plan(const struct attn *a)
{
    struct attn_plan p;
    int64_t rep = a->Hq / a->Hkv, jobs, most, window = a->window ? a->window : a->S;

    p.first = a->q0 - window + 1 > 0 ? (a->q0 - window + 1) / KEYS * KEYS : 0;
    p.blocks = ceil_div(a->S - p.first, KEYS);
    p.room = p.blocks * KEYS;
    jobs = p.blocks * a->B * a->Hkv;
    p.splits = jobs ? at_most(rep, ceil_div(ENOUGH, jobs)) : 1;
    p.delta = round_up(a->B * a->Hq * a->T, 32);
    most = a->B * a->Hkv * ceil_div(at_most(a->S, a->T + window - 1) + KEYS - 1, KEYS);
    most = rep > 1 ? at_most(rep * most, ENOUGH + most) : 0;
    p.total = p.delta + most * 2 * KEYS * a->hd;
    return p;
}

size_t cuda_attn_work(const struct attn *a)
{
    size_t rows = (size_t)make_plan(a).total * sizeof(float), step = attn_step_work(a);

    return (rows > step ? rows : step) + 128;
}

/* delta [B,Hq,T]: 8 lanes a row of a head */
template <class T, int N> __global__ void __launch_bounds__(256) attn_delta_kernel(const struct attn a, float *delta)
{
    int64_t i = ((int64_t)blockIdx.x * 256 + threadIdx.x) / 8, rows = a.B * a.T * a.Hq;
    int64_t m = min(i, rows - 1) / a.Hq, h = min(i, rows - 1) % a.Hq;
    const T *o = (const T *)a.o.data + m * a.o.ld + h * a.hd, *d = (const T *)a.dout.data + m * a.dout.ld + h * a.hd;
    float sum = 0;

    UNROLL
    for (int k = 0; k < 256 / 8 / N; k++) {
        int c = (threadIdx.x % 8 + 8 * k) * N;

        if (c < a.hd) {
            pack<T, N> x = load_pack<T, N>(o + c), y = load_pack<T, N>(d + c);

            UNROLL
            for (int e = 0; e < N; e++)
                sum += to_float(x.v[e]) * to_float(y.v[e]);
        }
    }
    for (int k = 4; k > 0; k >>= 1)
        sum += __shfl_xor_sync(0xffffffffu, sum, k);
    if (threadIdx.x % 8 == 0 && i < rows)
        delta[(m / a.T * a.Hq + h) * a.T + m % a.T] = sum;
}

template <class T> static void find_delta(const struct attn &a, float *delta)
{
    unsigned blocks = (unsigned)ceil_div(a.B * a.T * a.Hq, 32);

    if (attn_wide(&a, &a.o) && attn_wide(&a, &a.dout))
        LAUNCH((attn_delta_kernel<T, 16 / sizeof(T)>), blocks, 256, 0, a, delta);
    else
        LAUNCH((attn_delta_kernel<T, 1>), blocks, 256, 0, a, delta);
}

template <int N> __device__ __forceinline__ void clear(float (*d)[4])
{
    UNROLL
    for (int j = 0; j < N; j++)
        UNROLL
        for (int e = 0; e < 4; e++)
            d[j][e] = 0;
}

/* What turns products q k^T into powers of 2, and the slope of the softcap there. */
struct scores {
    float factor, cap, inv;

    __device__ __forceinline__ explicit scores(const struct attn &a)
        : factor((float)(a.scale * LOG2E)), cap((float)a.softcap * LOG2E),
          inv(a.softcap > 0 ? (float)(a.scale / a.softcap) : 0.0f)
    {
    }
    /* p in place of the product s; the slope f' when there is a softcap */
    __device__ __forceinline__ void p(float &s, float lse) const { s = fast_exp2(s * factor - lse); }
    __device__ __forceinline__ float p_capped(float &s, float lse) const
    {
        float r = tanh_fast(s * inv);

        s = fast_exp2(cap * r - lse);
        return 1.0f - r * r;
    }
};

/* s [16, 8 NT] products q k^T become p, and ds (products do v^T) p (ds - delta) f'. Row r of the lane's two, column e:
 * seen(j, e) says whether the query sees the key, lse(j, e) in base 2 and delta(j, e) are the query's. */
template <int NT, bool DS, class Seen, class Lse, class Delta>
__device__ __forceinline__ void backward_tile(float (*s)[4], float (*ds)[4], const scores &f, bool all, Seen seen, Lse lse,
                                              Delta delta)
{
    UNROLL
    for (int j = 0; j < NT; j++)
        UNROLL
        for (int e = 0; e < 4; e++) {
            float slope = 1.0f;

            if (f.cap > 0)
                slope = f.p_capped(s[j][e], lse(j, e));
            else
                f.p(s[j][e], lse(j, e));
            if (!all && !seen(j, e))
                s[j][e] = 0;
            if (DS) {
                float v = s[j][e] * (ds[j][e] - delta(j, e)) * slope;

                ds[j][e] = all || seen(j, e) ? v : 0.0f; /* a NaN of a key that is not seen stays there */
            }
        }
}

/* ---- dk, dv ---- */

/* Which of dv, dk a block makes: at HD = 256 the registers hold one of them. */
enum { DV = 1, DK = 2 };

/* What a tile of queries brings beside q and do: for each query log2 of the softmax' denominator, delta, first key. */
template <int BM> struct query_stats {
    float lse[BM], delta[BM];
    int lo[BM];
};

template <int HD, int BM, int WHAT>
__global__ void __launch_bounds__(THREADS) attn_keys_kernel(const struct attn a, const struct attn_plan p,
                                                            const float *delta, float *parts, bool wide, bool wide_out)
{
    constexpr int NT = BM / 8, TILE = BM * HD;
    DYNAMIC_SHARED(bf16, ks);          /* [KEYS,HD] */
    bf16 *vs = ks + KEYS * HD;         /* [KEYS,HD], with DK only */
    bf16 *qd = vs + (WHAT & DK ? KEYS * HD : 0); /* [2 tiles under way][q, do][BM,HD] */
    __shared__ query_stats<BM> stats[2];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int splits = (int)p.splits, jobs = (int)(a.B * a.Hkv) * splits;
    const int split = blockIdx.x % splits, bg = blockIdx.x % jobs / splits, b = bg / (int)a.Hkv, g = bg % (int)a.Hkv;
    const int rep = (int)(a.Hq / a.Hkv), h0 = g * rep + rep * split / splits, h1 = g * rep + rep * (split + 1) / splits;
    const int k0 = (int)p.first + blockIdx.x / jobs * KEYS, kw = k0 + warp * 16, T = (int)a.T, q0 = (int)a.q0, hd = (int)a.hd;
    const int left = (int)a.S - k0;
    const scores f(a);
    float dk[WHAT & DK ? HD / 8 : 1][4], dv[WHAT & DV ? HD / 8 : 1][4];
    int at[2], tiles;

    find_queries(a, b, k0, KEYS, at);
    at[0] = at[0] / BM * BM;
    tiles = at[1] > at[0] ? (at[1] - at[0] + BM - 1) / BM : 0;

    /* Tile n of all: its rows in the background; its stats through registers, since they are worked on. */
    auto load = [&](int n) {
        int h = h0 + n / tiles, t = at[0] + n % tiles * BM;
        int64_t row = (int64_t)b * T + t;
        bf16 *to = qd + n % 2 * 2 * TILE;

        load_tile<BM, HD, THREADS>(to, (const bf16 *)a.q.data + row * a.q.ld + h * hd, a.q.ld, T - t, hd, wide);
        load_tile<BM, HD, THREADS>(to + TILE, (const bf16 *)a.dout.data + row * a.dout.ld + h * hd, a.dout.ld, T - t, hd,
                                   wide);
        copy_async_commit();
    };
    float next_lse = 0, next_delta = 0;
    int next_lo = 0;
    auto load_stats = [&](int n) {
        int h = h0 + n / tiles, t = at[0] + n % tiles * BM + threadIdx.x;

        if (threadIdx.x < BM) {
            int64_t i = ((int64_t)b * a.Hq + h) * T + min(t, T - 1);

            next_lse = a.lse[i] * LOG2E;
            next_delta = delta[i];
            next_lo = t < T ? first_key(a, b, t) : 1 << 30; /* sees nothing */
        }
    };
    auto put_stats = [&](int n) {
        if (threadIdx.x < BM) {
            stats[n % 2].lse[threadIdx.x] = next_lse;
            stats[n % 2].delta[threadIdx.x] = next_delta;
            stats[n % 2].lo[threadIdx.x] = next_lo;
        }
    };

    clear<WHAT & DK ? HD / 8 : 1>(dk);
    clear<WHAT & DV ? HD / 8 : 1>(dv);
    tiles = max(tiles, 1);
    const int count = at[1] > at[0] ? tiles * (h1 - h0) : 0;

    if (count > 0) {
        load_tile<KEYS, HD, THREADS>(ks, (const bf16 *)a.k.data + (b * a.Smax + k0) * a.k.ld + g * hd, a.k.ld, left, hd, wide);
        if (WHAT & DK)
            load_tile<KEYS, HD, THREADS>(vs, (const bf16 *)a.v.data + (b * a.Smax + k0) * a.v.ld + g * hd, a.v.ld, left, hd,
                                         wide);
        load(0);
        load_stats(0);
        put_stats(0);
    }
    for (int n = 0; n < count; n++) {
        const query_stats<BM> &st = stats[n % 2];
        const bf16 *qs = qd + n % 2 * 2 * TILE, *ds = qs + TILE;
        const int t0 = at[0] + n % tiles * BM;
        float s[NT][4], dp[NT][4];

        copy_async_wait<0>();
        __syncthreads();
        if (n + 1 < count) {
            load(n + 1);
            load_stats(n + 1);
        }
        /* passed over when the warp's keys are all behind the queries */
        if (q0 + t0 + BM > kw && kw < (int)a.S) {
            bool all = st.lo[BM - 1] <= kw && kw + 15 <= q0 + t0;
            auto seen = [&](int j, int e) {
                int key = kw + lane / 4 + e / 2 * 8, t = j * 8 + lane % 4 * 2 + e % 2;

                return key >= st.lo[t] && key <= q0 + t0 + t;
            };
            auto lse = [&](int j, int e) { return st.lse[j * 8 + lane % 4 * 2 + e % 2]; };
            auto del = [&](int j, int e) { return st.delta[j * 8 + lane % 4 * 2 + e % 2]; };

            clear<NT>(s);
            product_nt<HD, NT, 1>(&s, ks + warp * 16 * HD, qs);
            if constexpr ((WHAT & DK) != 0) {
                clear<NT>(dp);
                product_nt<HD, NT, 1>(&dp, vs + warp * 16 * HD, ds);
            }
            backward_tile<NT, (WHAT & DK) != 0>(s, dp, f, all, seen, lse, del);
            if constexpr ((WHAT & DV) != 0)
                product_nn<HD, NT, 1>(&dv, &s, ds);
            if constexpr ((WHAT & DK) != 0)
                product_nn<HD, NT, 1>(&dk, &dp, qs);
        }
        if (n + 1 < count)
            put_stats(n + 1);
    }

    /* parts: [splits][2][B,room,Hkv*hd] */
    const float scale = (float)a.scale;
    UNROLL
    for (int i = 0; i < 2; i++) {
        float (*from)[4] = i ? dv : dk;
        const struct tensor &to = i ? a.dv : a.dk;

        if (!(WHAT & (i ? DV : DK)))
            continue;
        if (splits == 1) {
            bf16 *rows = ks + warp * 16 * HD; /* the warp's own keys are read no more */

            __syncwarp();
            put_rows<HD>(rows, from, i ? 1.0f : scale, i ? 1.0f : scale);
            __syncwarp();
            store_rows<HD>((bf16 *)to.data + (b * a.Smax + kw) * to.ld + g * hd, to.ld, rows, (int)a.S - kw, hd, wide_out);
            continue;
        }
        float *part = parts + (((int64_t)split * 2 + i) * a.B + b) * p.room * a.Hkv * hd + g * hd;
        UNROLL
        for (int j = 0; j < HD / 8; j++)
            UNROLL
            for (int e = 0; e < 4; e++) {
                int key = kw - (int)p.first + lane / 4 + e / 2 * 8, c = j * 8 + lane % 4 * 2 + e % 2;

                if (c < hd)
                    part[key * a.Hkv * hd + c] = from[j][e] * (i ? 1.0f : scale);
            }
    }
}

/* Keys before `first` have no gradient; those behind it the sum of their parts, if there are any. Two tensors, a row of
 * one of them for a block. */
template <class T>
__global__ void __launch_bounds__(256) attn_parts_kernel(const struct attn a, const struct attn_plan p, const float *parts,
                                                         int64_t rows)
{
    int64_t width = a.Hkv * a.hd, each = a.B * p.room * width, b = blockIdx.x / 2 / rows, key = blockIdx.x / 2 % rows;
    int i = blockIdx.x % 2;
    T *to = i ? (T *)a.dv.data + (b * a.Smax + key) * a.dv.ld : (T *)a.dk.data + (b * a.Smax + key) * a.dk.ld;

    for (int64_t c = threadIdx.x; c < width; c += 256) {
        float sum = 0;

        for (int n = 0; key >= p.first && n < p.splits; n++)
            sum += parts[(n * 2 + i) * each + (b * p.room + key - p.first) * width + c];
        to[c] = from_float<T>(sum);
    }
}

template <int HD, int BM, int WHAT>
static void launch_keys(const struct attn &a, const struct attn_plan &p, const float *delta, float *parts)
{
    bool wide = attn_wide(&a, &a.q) && attn_wide(&a, &a.k) && attn_wide(&a, &a.v) && attn_wide(&a, &a.dout);

    LAUNCH((attn_keys_kernel<HD, BM, WHAT>), (unsigned)(p.blocks * a.B * a.Hkv * p.splits), THREADS,
           (KEYS * (WHAT & DK ? 2 : 1) + 4 * BM) * HD * sizeof(bf16), a, p, delta, parts, wide,
           attn_wide(&a, &a.dk) && attn_wide(&a, &a.dv));
}

/* ---- dq ---- */

template <int HD, int BN>
__global__ void __launch_bounds__(THREADS) attn_queries_kernel(const struct attn a, const float *delta, bool wide,
                                                               bool wide_out)
{
    constexpr int NT = BN / 8, TILE = BN * HD;
    DYNAMIC_SHARED(bf16, qs);          /* [QUERIES,HD] */
    bf16 *gs = qs + QUERIES * HD;      /* do, [QUERIES,HD] */
    bf16 *kv = gs + QUERIES * HD;      /* [2 tiles under way][k, v][BN,HD] */
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int heads = (int)(a.B * a.Hq), T = (int)a.T, q0 = (int)a.q0, hd = (int)a.hd;
    const int bh = blockIdx.x % heads, b = bh / (int)a.Hq, h = bh % (int)a.Hq, g = h / (int)(a.Hq / a.Hkv);
    const int t0 = ((T + QUERIES - 1) / QUERIES - 1 - blockIdx.x / heads) * QUERIES, w0 = t0 + warp * 16;
    const int begin = first_key(a, b, t0) / BN * BN, end = q0 + min(T, t0 + QUERIES);
    const bf16 *k = (const bf16 *)a.k.data + b * a.Smax * a.k.ld + g * hd;
    const bf16 *v = (const bf16 *)a.v.data + b * a.Smax * a.v.ld + g * hd;
    const int w_first = first_key(a, b, min(w0, T - 1)), w_all = first_key(a, b, min(w0 + 16, T) - 1);
    const int w_last = w0 < T ? q0 + min(T, w0 + 16) - 1 : -1;
    const scores f(a);
    float dq[HD / 8][4], lse[2], del[2];
    int lo[2];

    load_tile<QUERIES, HD, THREADS>(qs, (const bf16 *)a.q.data + ((int64_t)b * T + t0) * a.q.ld + h * hd, a.q.ld, T - t0,
                                    hd, wide);
    load_tile<QUERIES, HD, THREADS>(gs, (const bf16 *)a.dout.data + ((int64_t)b * T + t0) * a.dout.ld + h * hd, a.dout.ld,
                                    T - t0, hd, wide);
    load_tile<BN, HD, THREADS>(kv, k + begin * a.k.ld, a.k.ld, (int)a.S - begin, hd, wide);
    load_tile<BN, HD, THREADS>(kv + TILE, v + begin * a.v.ld, a.v.ld, (int)a.S - begin, hd, wide);
    copy_async_commit();
    UNROLL
    for (int r = 0; r < 2; r++) {
        int t = min(w0 + r * 8 + lane / 4, T - 1);

        lo[r] = first_key(a, b, t);
        lse[r] = a.lse[(int64_t)bh * T + t] * LOG2E;
        del[r] = delta[(int64_t)bh * T + t];
    }
    clear<HD / 8>(dq);
    for (int k0 = begin, at = 0; k0 < end; k0 += BN, at ^= 1) {
        const bf16 *ks = kv + at * 2 * TILE, *vs = ks + TILE;
        float s[NT][4], ds[NT][4];

        copy_async_wait<0>();
        __syncthreads();
        if (k0 + BN < end) {
            bf16 *to = kv + (at ^ 1) * 2 * TILE;

            load_tile<BN, HD, THREADS>(to, k + (k0 + BN) * a.k.ld, a.k.ld, (int)a.S - k0 - BN, hd, wide);
            load_tile<BN, HD, THREADS>(to + TILE, v + (k0 + BN) * a.v.ld, a.v.ld, (int)a.S - k0 - BN, hd, wide);
        }
        copy_async_commit();
        if (k0 > w_last || k0 + BN <= w_first)
            continue;
        bool all = k0 >= w_all && k0 + BN - 1 <= q0 + w0;
        auto seen = [&](int j, int e) {
            int key = k0 + j * 8 + lane % 4 * 2 + e % 2;

            return key >= lo[e / 2] && key <= q0 + w0 + lane / 4 + e / 2 * 8;
        };

        clear<NT>(s);
        clear<NT>(ds);
        product_nt<HD, NT, 1>(&s, qs + warp * 16 * HD, ks);
        product_nt<HD, NT, 1>(&ds, gs + warp * 16 * HD, vs);
        backward_tile<NT, true>(s, ds, f, all, seen, [&](int, int e) { return lse[e / 2]; },
                                [&](int, int e) { return del[e / 2]; });
        product_nn<HD, NT, 1>(&dq, &ds, ks);
    }
    bf16 *rows = qs + warp * 16 * HD;
    const float scale = (float)a.scale;
    __syncwarp();
    put_rows<HD>(rows, dq, scale, scale);
    __syncwarp();
    store_rows<HD>((bf16 *)a.dq.data + ((int64_t)b * T + w0) * a.dq.ld + h * hd, a.dq.ld, rows, T - w0, hd, wide_out);
}

template <int HD, int BN> static void launch_queries(const struct attn &a, const float *delta)
{
    bool wide = attn_wide(&a, &a.q) && attn_wide(&a, &a.k) && attn_wide(&a, &a.v) && attn_wide(&a, &a.dout);

    LAUNCH((attn_queries_kernel<HD, BN>), (unsigned)(ceil_div(a.T, QUERIES) * a.B * a.Hq), THREADS,
           (2 * QUERIES + 4 * BN) * HD * sizeof(bf16), a, delta, wide, attn_wide(&a, &a.dq));
}

static void bwd(const struct attn &a, const struct attn_plan &p, const float *delta, float *parts)
{
    if (a.hd <= 64) {
        launch_keys<64, 64, DV | DK>(a, p, delta, parts);
        launch_queries<64, 64>(a, delta);
    } else if (a.hd <= 128) {
        launch_keys<128, 64, DV | DK>(a, p, delta, parts);
        launch_queries<128, 64>(a, delta);
    } else {
        launch_keys<256, 32, DV>(a, p, delta, parts);
        launch_keys<256, 32, DK>(a, p, delta, parts);
        launch_queries<256, 32>(a, delta);
    }
}

void cuda_attn_bwd(const struct attn *a)
{
    struct attn n = attn_normal(a, "attn_bwd");
    struct attn_plan p = make_plan(a);
    float *delta = (float *)(((uintptr_t)a->work + 127) / 128 * 128);

    CUDA_NEED("attn_bwd", a, dout);
    CUDA_NEED("attn_bwd", a, dq);
    CUDA_NEED("attn_bwd", a, dk);
    CUDA_NEED("attn_bwd", a, dv);
    if (!a->lse)
        cuda_fault("attn_bwd", "lse", "is absent");
    if (!a->work)
        cuda_fault("attn_bwd", "work", "is absent");
    if (n.B * n.T == 0)
        return;
    WITH_TYPE(n.q.dtype, T, find_delta<T>(n, delta));
    if (n.q.dtype == F32) {
        attn_f32_bwd(&n, delta);
        return;
    }
    bwd(n, p, delta, delta + p.delta);
    int64_t rows = p.splits > 1 ? n.S : p.first;
    if (rows > 0)
        LAUNCH((attn_parts_kernel<bf16>), (unsigned)(n.B * rows * 2), 256, 0, n, p, delta + p.delta, rows);
}
