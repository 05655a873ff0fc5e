/* attn_bwd.cu - causal attention backward, bf16 products
 * SPDX-License-Identifier: MIT
 *
 * With p = exp(score - lse), ds = p (do v^T - delta) f', delta = rowsum(do o):
 *   dv = p^T do,  dk = scale ds^T q   a block owns KEYS keys of one key head and runs over the tiles of queries
 *                                     that see them, query head by query head: their sum has one order
 *   dq = scale ds k                   a block owns a tile of queries and runs over tiles of keys
 * Scores are made in both (7 products, where one pass that adds to dq in memory would have 5): so nothing is
 * added to by two blocks. The first holds scores transposed, [key][query]: in both passes the accumulators of
 * p and ds are operands of the next product as they lie. A warp owns 16 or 32 rows of the block's.
 *
 * Where key heads and keys are too few to fill a device, `splits` blocks share the query heads of a key
 * head; their parts are added in order by a third kernel.
 */
#include "attn.cuh"

/* blocks that fill a device three times: the last, short ones then even out the rest */
constexpr int ENOUGH = 396;

static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

/* For every plan of as many or fewer rows or keys the total is no larger: a caller may reserve for the
 * longest. */
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
template <class T, int N>
__global__ void __launch_bounds__(256) attn_delta_kernel(const struct attn a, float *delta)
{
    int64_t i = ((int64_t)blockIdx.x * 256 + threadIdx.x) / 8, rows = a.B * a.T * a.Hq;
    int64_t m = min(i, rows - 1) / a.Hq, h = min(i, rows - 1) % a.Hq;
    const T *o = (const T *)a.o.data + m * a.o.ld + h * a.hd,
            *d = (const T *)a.dout.data + m * a.dout.ld + h * a.hd;
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
    /* p in place of the product s; with a softcap the slope f' */
    __device__ __forceinline__ void p(float &s, float lse) const { s = fast_exp2(s * factor - lse); }
    __device__ __forceinline__ float p_capped(float &s, float lse) const
    {
        float r = tanh_fast(s * inv);

        s = fast_exp2(cap * r - lse);
        return 1.0f - r * r;
    }
};

/* What the queries of the lane's part of 8 columns have saved: lse in base 2 and delta, of two rows or of
 * two columns. */
struct saved {
    float lse[2], delta[2];
};

/* s [16, 8 NT] products q k^T become p, and ds (products do v^T) p (ds - delta) f'; get(j) is what was
 * saved for columns 8j.., element e having entry by(e). Then both are 0 where seen(j, e) says that the
 * query does not see the key. */
template <int NT, bool DS, class Get, class By, class Seen>
__device__ __forceinline__ void backward_tile(float (*s)[4], float (*ds)[4], const scores &f, bool all,
                                              Get get, By by, Seen seen)
{
    if (f.cap > 0) {
        UNROLL
        for (int j = 0; j < NT; j++) {
            saved w = get(j);

            UNROLL
            for (int e = 0; e < 4; e++) {
                float slope = f.p_capped(s[j][e], w.lse[by(e)]);

                if (DS)
                    ds[j][e] = s[j][e] * (ds[j][e] - w.delta[by(e)]) * slope;
            }
        }
    } else {
        UNROLL
        for (int j = 0; j < NT; j++) {
            saved w = get(j);

            UNROLL
            for (int e = 0; e < 4; e++) {
                f.p(s[j][e], w.lse[by(e)]);
                if (DS)
                    ds[j][e] = s[j][e] * (ds[j][e] - w.delta[by(e)]);
            }
        }
    }
    if (all)
        return;
    UNROLL
    for (int j = 0; j < NT; j++) {
        saved w = get(j);

        UNROLL
        for (int e = 0; e < 4; e++)
            /* the NaN of a query counts for all keys of a tile, as exp(-inf - lse) would; a key's does not */
            if (!seen(j, e)) {
                s[j][e] = w.lse[by(e)] * 0.0f;
                if (DS)
                    ds[j][e] = s[j][e];
            }
    }
}

/* ---- dk, dv ---- */

/* Which of dv, dk a block makes: at HD = 256 the registers hold one of them. */
enum { DV = 1, DK = 2 };

struct keys_rows {
    int part, key, b, g, split; /* row of a part, key, whose */
};

/* 16 rows of dk (i = 0) or dv times a factor: to the gradient, through `rows` in shared memory, which the
 * warp owns; or to the parts, [splits][2][B,room,Hkv*hd] */
template <int HD>
__device__ __forceinline__ void put_keys(const struct attn &a, const struct attn_plan &p, float *parts,
                                         const keys_rows &at, int i, const float (*d)[4], float factor,
                                         bf16 *rows, bool wide)
{
    const struct tensor &to = i ? a.dv : a.dk;
    const int lane = threadIdx.x % 32, hd = (int)a.hd;

    if (p.splits == 1) {
        __syncwarp();
        put_rows<HD>(rows, d, factor, factor);
        __syncwarp();
        store_rows<HD>((bf16 *)to.data + (at.b * a.Smax + at.key) * to.ld + at.g * hd, to.ld, rows,
                       (int)a.S - at.key, hd, wide);
        return;
    }
    parts += (((int64_t)at.split * 2 + i) * a.B + at.b) * p.room * a.Hkv * hd + at.g * hd;
    UNROLL
    for (int r = 0; r < 2; r++) {
        float *row = parts + (at.part + lane / 4 + r * 8) * a.Hkv * hd;

        UNROLL
        for (int j = 0; j < HD / 8; j++)
            UNROLL
            for (int e = 0; e < 2; e++)
                if (j * 8 + lane % 4 * 2 + e < hd)
                    row[j * 8 + lane % 4 * 2 + e] = d[j][2 * r + e] * factor;
    }
}

/* What a tile of queries brings beside q and do: lse in base 2, delta and first key of each query. */
template <int BM> struct query_stats {
    alignas(16) float lse[BM], delta[BM];
    int lo[BM];
};

template <int HD, int MT, int WARPS, int BM, int WHAT>
__global__ void __launch_bounds__(WARPS * 32)
    attn_keys_kernel(const struct attn a, const struct attn_plan p, const float *delta, float *parts,
                     bool wide, bool wide_out)
{
    constexpr int NT = BM / 8, TILE = BM * HD, THREADS = WARPS * 32, NK = WHAT & DK ? HD / 8 : 1,
                  NV = WHAT & DV ? HD / 8 : 1;
    static_assert(KEYS == 16 * MT * WARPS && BM <= THREADS,
                  "a warp has 16 MT keys, a thread one query's stats");
    DYNAMIC_SHARED(bf16, ks);                    /* [KEYS,HD] */
    bf16 *vs = ks + KEYS * HD;                   /* [KEYS,HD], with DK only */
    bf16 *qd = vs + (WHAT & DK ? KEYS * HD : 0); /* [2 tiles under way][q, do][BM,HD] */
    __shared__ query_stats<BM> stats[2];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int splits = (int)p.splits, jobs = (int)(a.B * a.Hkv) * splits;
    const int split = blockIdx.x % splits, bg = blockIdx.x % jobs / splits, b = bg / (int)a.Hkv,
              g = bg % (int)a.Hkv;
    const int rep = (int)(a.Hq / a.Hkv), h0 = g * rep + rep * split / splits,
              h1 = g * rep + rep * (split + 1) / splits;
    const int k0 = (int)p.first + blockIdx.x / jobs * KEYS, kw = k0 + warp * 16 * MT, left = (int)a.S - k0;
    const int T = (int)a.T, q0 = (int)a.q0, hd = (int)a.hd;
    const scores f(a);
    float dk[MT][NK][4], dv[MT][NV][4];
    int at[2] = { 0, 0 }, count, h = h0, t = 0; /* head and first query of the tile that comes next */
    float next_lse = 0, next_delta = 0;
    int next_lo = 0;

    /* Rows in the background; stats through registers, since they are worked on. */
    auto load = [&](int n) {
        int64_t row = (int64_t)b * T + t;
        bf16 *to = qd + n % 2 * 2 * TILE;

        load_tile<BM, HD, THREADS>(to, (const bf16 *)a.q.data + row * a.q.ld + h * hd, a.q.ld, T - t, hd,
                                   wide);
        load_tile<BM, HD, THREADS>(to + TILE, (const bf16 *)a.dout.data + row * a.dout.ld + h * hd, a.dout.ld,
                                   T - t, hd, wide);
        if (threadIdx.x < BM) {
            int mine = t + threadIdx.x;
            int64_t i = ((int64_t)b * a.Hq + h) * T + min(mine, T - 1);

            next_lse = a.lse[i];
            next_delta = delta[i];
            next_lo = mine < T ? first_key(a, b, mine) : 1 << 30; /* sees nothing */
        }
        t += BM;
        if (t >= at[1]) {
            t = at[0];
            h++;
        }
    };
    auto put_stats = [&](int n) {
        if (threadIdx.x < BM) {
            stats[n % 2].lse[threadIdx.x] = next_lse * LOG2E;
            stats[n % 2].delta[threadIdx.x] = next_delta;
            stats[n % 2].lo[threadIdx.x] = next_lo;
        }
    };

    UNROLL
    for (int i = 0; i < MT; i++) {
        clear<NK>(dk[i]);
        clear<NV>(dv[i]);
    }
    find_queries(a, b, k0, KEYS, at);
    at[0] = at[0] / BM * BM;
    t = at[0];
    count = at[1] > at[0] ? (at[1] - at[0] + BM - 1) / BM * (h1 - h0) : 0;
    if (count > 0) {
        load_tile<KEYS, HD, THREADS>(ks, (const bf16 *)a.k.data + (b * a.Smax + k0) * a.k.ld + g * hd, a.k.ld,
                                     left, hd, wide);
        if (WHAT & DK)
            load_tile<KEYS, HD, THREADS>(vs, (const bf16 *)a.v.data + (b * a.Smax + k0) * a.v.ld + g * hd,
                                         a.v.ld, left, hd, wide);
        load(0);
        put_stats(0);
    }
    copy_async_commit();
    for (int n = 0, t0 = at[0]; n < count; n++) {
        const query_stats<BM> &st = stats[n % 2];
        const bf16 *qs = qd + n % 2 * 2 * TILE, *gs = qs + TILE;
        const int pos = q0 + t0;

        copy_async_wait<0>();
        __syncthreads(); /* this tile has come, and no warp reads the other any more */
        t0 = t;
        if (n + 1 < count)
            load(n + 1);
        copy_async_commit();
        if (pos + BM > kw && kw < (int)a.S) { /* else the warp's keys are all behind the queries */
            bool all = st.lo[BM - 1] <= kw && kw + 16 * MT - 1 <= pos;
            float s[MT][NT][4], ds[MT][NT][4];

            UNROLL
            for (int i = 0; i < MT; i++) {
                clear<NT>(s[i]);
                clear<NT>(ds[i]);
            }
            product_nt<HD, NT, MT>(s, ks + warp * 16 * MT * HD, qs);
            if constexpr ((WHAT & DK) != 0)
                product_nt<HD, NT, MT>(ds, vs + warp * 16 * MT * HD, gs);
            UNROLL
            for (int i = 0; i < MT; i++)
                backward_tile<NT, (WHAT & DK) != 0>(
                    s[i], ds[i], f, all,
                    [&](int j) {
                        pack<float, 2> l = load_pack<float, 2>(st.lse + j * 8 + lane % 4 * 2);
                        pack<float, 2> d = load_pack<float, 2>(st.delta + j * 8 + lane % 4 * 2);

                        return saved{ { l.v[0], l.v[1] }, { d.v[0], d.v[1] } };
                    },
                    [](int e) { return e % 2; },
                    [&](int j, int e) {
                        int key = kw + i * 16 + lane / 4 + e / 2 * 8, q = j * 8 + lane % 4 * 2 + e % 2;

                        return key >= st.lo[q] && key <= pos + q;
                    });
            if constexpr ((WHAT & DV) != 0)
                product_nn<HD, NT, MT>(dv, s, gs);
            if constexpr ((WHAT & DK) != 0)
                product_nn<HD, NT, MT>(dk, ds, qs);
        }
        if (n + 1 < count)
            put_stats(n + 1);
    }

    UNROLL
    for (int i = 0; i < MT; i++) {
        keys_rows out = { (int)(kw - p.first) + i * 16, kw + i * 16, b, g, split };

        if constexpr ((WHAT & DK) != 0)
            put_keys<HD>(a, p, parts, out, 0, dk[i], (float)a.scale, ks + (warp * MT + i) * 16 * HD,
                         wide_out);
        if constexpr ((WHAT & DV) != 0)
            put_keys<HD>(a, p, parts, out, 1, dv[i], 1.0f, ks + (warp * MT + i) * 16 * HD, wide_out);
    }
}

/* Keys before `first` have no gradient; those behind it the sum of their parts, if there are any. Two
 * tensors, a row of one of them for a block. */
template <class T>
__global__ void __launch_bounds__(256)
    attn_parts_kernel(const struct attn a, const struct attn_plan p, const float *parts, int64_t rows)
{
    int64_t width = a.Hkv * a.hd, each = a.B * p.room * width, b = blockIdx.x / 2 / rows,
            key = blockIdx.x / 2 % rows;
    int i = blockIdx.x % 2;
    T *to = i ? (T *)a.dv.data + (b * a.Smax + key) * a.dv.ld : (T *)a.dk.data + (b * a.Smax + key) * a.dk.ld;

    for (int64_t c = threadIdx.x; c < width; c += 256) {
        float sum = 0;

        for (int n = 0; key >= p.first && n < p.splits; n++)
            sum += parts[(n * 2 + i) * each + (b * p.room + key - p.first) * width + c];
        to[c] = from_float<T>(sum);
    }
}

template <int HD, int MT, int BM, int WHAT>
static void launch_keys(const struct attn &a, const struct attn_plan &p, const float *delta, float *parts)
{
    constexpr int WARPS = KEYS / 16 / MT;
    bool wide = attn_wide(&a, &a.q) && attn_wide(&a, &a.k) && attn_wide(&a, &a.v) && attn_wide(&a, &a.dout);

    LAUNCH((attn_keys_kernel<HD, MT, WARPS, BM, WHAT>), (unsigned)(p.blocks * a.B * a.Hkv * p.splits),
           WARPS * 32, (KEYS * (WHAT & DK ? 2 : 1) + 4 * BM) * HD * sizeof(bf16), a, p, delta, parts, wide,
           attn_wide(&a, &a.dk) && attn_wide(&a, &a.dv));
}

/* ---- dq ---- */

template <int HD, int MT, int WARPS, int BN>
__global__ void __launch_bounds__(WARPS * 32)
    attn_queries_kernel(const struct attn a, const float *delta, bool wide, bool wide_out)
{
    constexpr int NT = BN / 8, TILE = BN * HD, THREADS = WARPS * 32, BM = 16 * MT * WARPS;
    DYNAMIC_SHARED(bf16, qs); /* [BM,HD] */
    bf16 *gs = qs + BM * HD;  /* do, [BM,HD] */
    bf16 *kv = gs + BM * HD;  /* [2 tiles under way][k, v][BN,HD] */
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int heads = (int)(a.B * a.Hq), T = (int)a.T, q0 = (int)a.q0, hd = (int)a.hd;
    const int bh = blockIdx.x % heads, b = bh / (int)a.Hq, h = bh % (int)a.Hq, g = h / (int)(a.Hq / a.Hkv);
    const int t0 = ((T + BM - 1) / BM - 1 - blockIdx.x / heads) * BM, w0 = t0 + warp * 16 * MT;
    const int begin = first_key(a, b, t0) / BN * BN, end = q0 + min(T, t0 + BM);
    const int64_t row = (int64_t)b * T + t0;
    const bf16 *k = (const bf16 *)a.k.data + b * a.Smax * a.k.ld + g * hd;
    const bf16 *v = (const bf16 *)a.v.data + b * a.Smax * a.v.ld + g * hd;
    /* keys that some row of the warp sees, [w_first, w_last], and that all rows see, [w_all, q0 + w0] */
    const int w_first = first_key(a, b, min(w0, T - 1)), w_all = first_key(a, b, min(w0 + 16 * MT, T) - 1);
    const int w_last = w0 < T ? q0 + min(T, w0 + 16 * MT) - 1 : -1;
    const scores f(a);
    float dq[MT][HD / 8][4];
    saved own[MT];
    int lo[MT][2];

    load_tile<BM, HD, THREADS>(qs, (const bf16 *)a.q.data + row * a.q.ld + h * hd, a.q.ld, T - t0, hd, wide);
    load_tile<BM, HD, THREADS>(gs, (const bf16 *)a.dout.data + row * a.dout.ld + h * hd, a.dout.ld, T - t0,
                               hd, wide);
    load_tile<BN, HD, THREADS>(kv, k + begin * a.k.ld, a.k.ld, (int)a.S - begin, hd, wide);
    load_tile<BN, HD, THREADS>(kv + TILE, v + begin * a.v.ld, a.v.ld, (int)a.S - begin, hd, wide);
    copy_async_commit();
    UNROLL
    for (int i = 0; i < MT; i++) {
        UNROLL
        for (int r = 0; r < 2; r++) {
            int t = min(w0 + i * 16 + r * 8 + lane / 4, T - 1);

            lo[i][r] = first_key(a, b, t);
            own[i].lse[r] = a.lse[(int64_t)bh * T + t] * LOG2E;
            own[i].delta[r] = delta[(int64_t)bh * T + t];
        }
        clear<HD / 8>(dq[i]);
    }
    for (int k0 = begin, at = 0; k0 < end; k0 += BN, at ^= 1) {
        const bf16 *ks = kv + at * 2 * TILE, *vs = ks + TILE;
        float s[MT][NT][4], ds[MT][NT][4];

        copy_async_wait<0>();
        __syncthreads(); /* this tile has come, and no warp reads the other any more */
        if (k0 + BN < end) {
            bf16 *to = kv + (at ^ 1) * 2 * TILE;

            load_tile<BN, HD, THREADS>(to, k + (k0 + BN) * a.k.ld, a.k.ld, (int)a.S - k0 - BN, hd, wide);
            load_tile<BN, HD, THREADS>(to + TILE, v + (k0 + BN) * a.v.ld, a.v.ld, (int)a.S - k0 - BN, hd,
                                       wide);
        }
        copy_async_commit();
        if (k0 > w_last || k0 + BN <= w_first)
            continue;
        bool all = k0 >= w_all && k0 + BN - 1 <= q0 + w0;

        UNROLL
        for (int i = 0; i < MT; i++) {
            clear<NT>(s[i]);
            clear<NT>(ds[i]);
        }
        product_nt<HD, NT, MT>(s, qs + warp * 16 * MT * HD, ks);
        product_nt<HD, NT, MT>(ds, gs + warp * 16 * MT * HD, vs);
        UNROLL
        for (int i = 0; i < MT; i++)
            backward_tile<NT, true>(
                s[i], ds[i], f, all, [&](int) { return own[i]; }, [](int e) { return e / 2; },
                [&](int j, int e) {
                    int key = k0 + j * 8 + lane % 4 * 2 + e % 2;

                    return key >= lo[i][e / 2] && key <= q0 + w0 + i * 16 + lane / 4 + e / 2 * 8;
                });
        product_nn<HD, NT, MT>(dq, ds, ks);
    }
    UNROLL
    for (int i = 0; i < MT; i++) {
        bf16 *rows = qs + (warp * MT + i) * 16 * HD; /* the warp's own queries are read no more */
        int t = w0 + i * 16;

        __syncwarp();
        put_rows<HD>(rows, dq[i], (float)a.scale, (float)a.scale);
        __syncwarp();
        store_rows<HD>((bf16 *)a.dq.data + ((int64_t)b * T + t) * a.dq.ld + h * hd, a.dq.ld, rows, T - t, hd,
                       wide_out);
    }
}

template <int HD, int MT, int WARPS, int BN>
static void launch_queries(const struct attn &a, const float *delta)
{
    constexpr int BM = 16 * MT * WARPS;
    bool wide = attn_wide(&a, &a.q) && attn_wide(&a, &a.k) && attn_wide(&a, &a.v) && attn_wide(&a, &a.dout);

    LAUNCH((attn_queries_kernel<HD, MT, WARPS, BN>), (unsigned)(ceil_div(a.T, BM) * a.B * a.Hq), WARPS * 32,
           (2 * BM + 4 * BN) * HD * sizeof(bf16), a, delta, wide, attn_wide(&a, &a.dq));
}

/* Shared memory gives a warp's operands more slowly than they are multiplied, the less so the more rows a
 * warp has: 32 where its registers hold the sums. */
static void bwd(const struct attn &a, const struct attn_plan &p, const float *delta, float *parts)
{
    if (a.hd <= 64) {
        launch_keys<64, 2, 32, DV | DK>(a, p, delta, parts);
        launch_queries<64, 2, 4, 64>(a, delta);
    } else if (a.hd <= 128) {
        launch_keys<128, 1, 64, DV | DK>(a, p, delta, parts);
        launch_queries<128, 2, 8, 32>(a, delta);
    } else {
        launch_keys<256, 1, 32, DV>(a, p, delta, parts);
        launch_keys<256, 1, 32, DK>(a, p, delta, parts);
        launch_queries<256, 1, 8, 32>(a, delta);
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
