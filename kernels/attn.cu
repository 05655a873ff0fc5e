/* attn.cu - causal attention forward, bf16 products
 * SPDX-License-Identifier: MIT
 *
 * FlashAttention-2 (Dao 2023, alg. 1): a block owns a tile of queries of one head and runs over the tiles
 * of keys that any of them sees. A warp owns 16 MT rows of the tile: its scores and its output never leave
 * its registers, and the accumulators of the scores are the operand of the second product as they lie.
 * Keys and values come in the background, one tile ahead. Tiles that a warp sees wholly are not masked;
 * those that it does not see are passed over. Exponentials are powers of 2: the score's factor has log2 e
 * in it. Last tiles of queries, the longest, begin first.
 */
#include "attn.cuh"

/* Masks, exponentiates in base 2 and sums the scores of a warp; the output fades where the maximum grew. */
template <int HD, int MT, int NT>
__device__ __forceinline__ void softmax_tile(float (*s)[NT][4], float (*o)[HD / 8][4], float (*top)[2],
                                             float (*sum)[2], float factor)
{
    float fade[MT][2];
    bool grew = false;

    UNROLL
    for (int i = 0; i < MT; i++)
        UNROLL
        for (int r = 0; r < 2; r++) {
            float most = top[i][r], base, add = 0;

            UNROLL
            for (int j = 0; j < NT; j++)
                most = fmaxf(most, fmaxf(s[i][j][2 * r], s[i][j][2 * r + 1]));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
            base = most == -INFINITY ? 0.0f : most * factor; /* a row that has seen no key yet */
            fade[i][r] = fast_exp2(top[i][r] * factor - base);
            top[i][r] = most;
            grew = grew || fade[i][r] != 1.0f;
            UNROLL
            for (int j = 0; j < NT; j++)
                UNROLL
                for (int e = 2 * r; e < 2 * r + 2; e++) {
                    s[i][j][e] = fast_exp2(s[i][j][e] * factor - base);
                    add += s[i][j][e];
                }
            sum[i][r] = sum[i][r] * fade[i][r] + add;
        }
    if (!__any_sync(0xffffffffu, grew))
        return;
    UNROLL
    for (int i = 0; i < MT; i++)
        UNROLL
        for (int j = 0; j < HD / 8; j++)
            UNROLL
            for (int e = 0; e < 4; e++)
                o[i][j][e] *= fade[i][e / 2];
}

/* s = -inf where the query does not see the key. pos: position of the lane's first row */
template <int MT, int NT>
__device__ __forceinline__ void mask_tile(float (*s)[NT][4], const int (*lo)[2], int pos, int k0)
{
    int k = k0 + threadIdx.x % 4 * 2;

    UNROLL
    for (int i = 0; i < MT; i++)
        UNROLL
        for (int j = 0; j < NT; j++)
            UNROLL
            for (int e = 0; e < 4; e++) {
                int key = k + j * 8 + e % 2;

                if (key < lo[i][e / 2] || key > pos + i * 16 + e / 2 * 8)
                    s[i][j][e] = -INFINITY;
            }
}

template <int HD, int MT, int WARPS, int BN>
__global__ void __launch_bounds__(WARPS * 32) attn_fwd_kernel(const struct attn a, bool wide, bool wide_o)
{
    constexpr int BM = MT * 16 * WARPS, THREADS = WARPS * 32, NT = BN / 8, TILE = BN * HD;
    DYNAMIC_SHARED(bf16, qs); /* [BM,HD] */
    bf16 *kv = qs + BM * HD;  /* [2 tiles under way][k, v][BN,HD] */
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int heads = (int)(a.B * a.Hq), T = (int)a.T, q0 = (int)a.q0, hd = (int)a.hd;
    const int bh = blockIdx.x % heads, b = bh / (int)a.Hq, h = bh % (int)a.Hq, g = h / (int)(a.Hq / a.Hkv);
    const int t0 = ((T + BM - 1) / BM - 1 - blockIdx.x / heads) * BM, w0 = t0 + warp * 16 * MT;
    const int begin = first_key(a, b, t0) / BN * BN, end = q0 + min(T, t0 + BM);
    const bf16 *k = (const bf16 *)a.k.data + b * a.Smax * a.k.ld + g * hd;
    const bf16 *v = (const bf16 *)a.v.data + b * a.Smax * a.v.ld + g * hd;
    const float factor = a.softcap > 0 ? 1.0f : (float)(a.scale * LOG2E);
    const float cap = (float)a.softcap * LOG2E, inv = a.softcap > 0 ? (float)(a.scale / a.softcap) : 0.0f;
    /* keys that some row of the warp sees, [w_first, w_last], and that all rows see, [w_all, q0 + w0] */
    const int w_first = first_key(a, b, min(w0, T - 1)), w_all = first_key(a, b, min(w0 + 16 * MT, T) - 1);
    const int w_last = w0 < T ? q0 + min(T, w0 + 16 * MT) - 1 : -1;
    float o[MT][HD / 8][4], top[MT][2], sum[MT][2];
    int lo[MT][2];

    load_tile<BM, HD, THREADS>(qs, (const bf16 *)a.q.data + ((int64_t)b * T + t0) * a.q.ld + h * hd, a.q.ld,
                               T - t0, hd, wide);
    load_tile<BN, HD, THREADS>(kv, k + begin * a.k.ld, a.k.ld, (int)a.S - begin, hd, wide);
    load_tile<BN, HD, THREADS>(kv + TILE, v + begin * a.v.ld, a.v.ld, (int)a.S - begin, hd, wide);
    copy_async_commit();
    UNROLL
    for (int i = 0; i < MT; i++) {
        UNROLL
        for (int r = 0; r < 2; r++) {
            lo[i][r] = first_key(a, b, min(w0 + i * 16 + r * 8 + lane / 4, T - 1));
            top[i][r] = -INFINITY;
            sum[i][r] = 0;
        }
        UNROLL
        for (int j = 0; j < HD / 8; j++)
            UNROLL
            for (int e = 0; e < 4; e++)
                o[i][j][e] = 0;
    }
    for (int k0 = begin, at = 0; k0 < end; k0 += BN, at ^= 1) {
        const bf16 *ks = kv + at * 2 * TILE, *vs = ks + TILE;
        float s[MT][NT][4];

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
        UNROLL
        for (int i = 0; i < MT; i++)
            UNROLL
            for (int j = 0; j < NT; j++)
                UNROLL
                for (int e = 0; e < 4; e++)
                    s[i][j][e] = 0;
        product_nt<HD, NT, MT>(s, qs + warp * 16 * MT * HD, ks);
        if (a.softcap > 0)
            UNROLL
            for (int i = 0; i < MT; i++)
                UNROLL
                for (int j = 0; j < NT; j++)
                    UNROLL
                    for (int e = 0; e < 4; e++)
                        s[i][j][e] = cap * tanh_fast(s[i][j][e] * inv);
        if (k0 < w_all || k0 + BN - 1 > q0 + w0)
            mask_tile<MT, NT>(s, lo, q0 + w0 + lane / 4, k0);
        softmax_tile<HD, MT, NT>(s, o, top, sum, factor);
        product_nn<HD, NT, MT>(o, s, vs);
    }
    UNROLL
    for (int i = 0; i < MT; i++) {
        bf16 *rows = qs + (warp * MT + i) * 16 * HD; /* the warp's own queries are read no more */
        int t = w0 + i * 16;

        UNROLL
        for (int r = 0; r < 2; r++) {
            sum[i][r] += __shfl_xor_sync(0xffffffffu, sum[i][r], 1);
            sum[i][r] += __shfl_xor_sync(0xffffffffu, sum[i][r], 2);
            if (a.lse && lane % 4 == 0 && t + r * 8 + lane / 4 < T)
                a.lse[(int64_t)bh * T + t + r * 8 + lane / 4] = top[i][r] * factor * LN2 + logf(sum[i][r]);
        }
        __syncwarp();
        put_rows<HD>(rows, o[i], 1.0f / sum[i][0], 1.0f / sum[i][1]);
        __syncwarp();
        store_rows<HD>((bf16 *)a.o.data + ((int64_t)b * T + t) * a.o.ld + h * hd, a.o.ld, rows, T - t, hd,
                       wide_o);
    }
}

template <int HD, int MT, int WARPS, int BN> static void launch_fwd(const struct attn &a)
{
    constexpr int BM = MT * 16 * WARPS;
    bool wide = attn_wide(&a, &a.q) && attn_wide(&a, &a.k) && attn_wide(&a, &a.v);

    LAUNCH((attn_fwd_kernel<HD, MT, WARPS, BN>), (unsigned)(ceil_div(a.T, BM) * a.B * a.Hq), WARPS * 32,
           (BM + 4 * BN) * HD * sizeof(bf16), a, wide, attn_wide(&a, &a.o));
}

void cuda_attn_fwd(const struct attn *a)
{
    struct attn n = attn_normal(a, "attn_fwd");

    if (n.B * n.T == 0)
        return;
    if (n.q.dtype == F32)
        attn_f32_fwd(&n);
    else if (n.hd <= 64)
        launch_fwd<64, 2, 4, 64>(n);
    else if (n.hd <= 128)
        launch_fwd<128, 2, 4, 64>(n);
    else
        launch_fwd<256, 1, 8, 64>(n);
}
