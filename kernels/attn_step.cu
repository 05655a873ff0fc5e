/* attn_step.cu - attention of one query a sequence to keys in a ring
 * SPDX-License-Identifier: MIT
 *
 * All keys and values in sight are read once: the bound is memory. The keys of a sequence are shared out
 * to blocks, in runs by their numbers (not by their rows: the size of the ring does not change the
 * result). In a block HD/8 lanes hold a key, 8 dimensions each, of up to R query heads that share it; each
 * such group of lanes has a softmax of its own, over every so many keys, UNROLLED at once and as many
 * under way. The groups' softmaxes are put together in the order of the groups, and those of the blocks by
 * a second kernel, in the order of the keys.
 */
#include "attn.cuh"

constexpr int BLOCKS = 264, LEAST = 256; /* blocks that keep a device busy; keys that are worth one */
constexpr int THREADS = 256, HEADS = 8;

struct step_plan {
    int64_t rep, heads, sets, splits, run; /* query heads of a key head, of a block; keys of a block */
};

static struct step_plan make_plan(const struct attn *a)
{
    struct step_plan p;
    int64_t keys = a->window && a->window < a->S ? a->window : a->S, jobs;

    p.rep = a->Hq / a->Hkv;
    p.sets = ceil_div(p.rep, attn_wide(a, &a->q) && attn_wide(a, &a->k) && attn_wide(a, &a->v) ? HEADS : 1);
    p.heads = ceil_div(p.rep, p.sets);
    jobs = a->B * a->Hkv * p.sets;
    p.splits = max((int64_t)1, min(ceil_div(BLOCKS, max(jobs, (int64_t)1)), ceil_div(keys, (int64_t)LEAST)));
    p.run = ceil_div(keys, p.splits);
    p.splits = ceil_div(keys, p.run);
    return p;
}

/* [splits][B,Hq][hd + 2], for any number of keys and up to B sequences */
size_t attn_step_work(const struct attn *a)
{
    return (size_t)((ceil_div(BLOCKS, a->Hkv) + a->B) * a->Hq * (a->hd + 2)) * sizeof(float);
}

/* 8 elements of a row, zeros from hd on */
template <class T, bool WIDE> __device__ __forceinline__ pack<T, 8> load8(const T *p, int left)
{
    constexpr int N = WIDE ? 16 / sizeof(T) : 1;
    pack<T, 8> x;

    UNROLL
    for (int i = 0; i < 8; i += N) {
        pack<T, N> v;

        UNROLL
        for (int e = 0; e < N; e++)
            v.v[e] = from_float<T>(0);
        if (i < left)
            v = load_pack<T, N>(p + i);
        UNROLL
        for (int e = 0; e < N; e++)
            x.v[i + e] = v.v[e];
    }
    return x;
}

/* What sums up to a largest score (in base 2) count beside those up to a larger one. */
__device__ __forceinline__ float fade_to(float top, float both)
{
    return both == -INFINITY ? 0.0f : fast_exp2(top - both);
}

template <class T, int LANES, int R, bool WIDE>
__global__ void __launch_bounds__(THREADS)
    attn_step_kernel(const struct attn a, const struct step_plan p, float *parts)
{
    constexpr int GROUPS = THREADS / LANES, UNROLLED = R > 4 ? 2 : 4;
    const int lane = threadIdx.x % LANES, group = threadIdx.x / LANES, left = (int)a.hd - lane * 8;
    const int split = blockIdx.x % (int)p.splits, job = blockIdx.x / (int)p.splits, set = job % (int)p.sets;
    const int64_t b = job / p.sets / a.Hkv, g = job / p.sets % a.Hkv;
    const int h0 = (int)(g * p.rep + set * p.heads), n = (int)min(p.heads, p.rep - set * p.heads);
    const int64_t first = a.window ? max((int64_t)0, a.S - a.window) : 0;
    const int64_t begin = first + split * p.run, end = min(a.S, begin + p.run), row0 = begin % a.Smax;
    const float factor = (float)(a.scale * LOG2E), cap = (float)a.softcap * LOG2E;
    const float inv = a.softcap > 0 ? (float)(a.scale / a.softcap) : 0.0f;
    const T *ks = (const T *)a.k.data + b * a.Smax * a.k.ld + g * a.hd + lane * 8;
    const T *vs = (const T *)a.v.data + b * a.Smax * a.v.ld + g * a.hd + lane * 8;
    __shared__ float tops[GROUPS][R], sums[GROUPS][R], outs[THREADS / 32][32 * 8 + 1];
    float q[R][8], o[R][8], top[R], sum[R];

    UNROLL
    for (int r = 0; r < R; r++) {
        pack<T, 8> x =
            load8<T, WIDE>((const T *)a.q.data + b * a.q.ld + (h0 + min(r, n - 1)) * a.hd + lane * 8, left);

        top[r] = -INFINITY;
        sum[r] = 0;
        UNROLL
        for (int e = 0; e < 8; e++) {
            q[r][e] = to_float(x.v[e]);
            o[r][e] = 0;
        }
    }
    pack<T, 8> next_k[UNROLLED], next_v[UNROLLED];
    auto load = [&](int64_t k0) {
        UNROLL
        for (int u = 0; u < UNROLLED; u++) {
            int64_t row = row0 + min(k0 + u * GROUPS + group, end - 1) - begin;

            row -= row >= a.Smax ? a.Smax : 0; /* no more keys than rows are in sight */
            next_k[u] = load8<T, WIDE>(ks + row * a.k.ld, left);
            next_v[u] = load8<T, WIDE>(vs + row * a.v.ld, left);
        }
    };
    load(begin);
    /* every lane of a warp makes the same number of rounds; a group past the end repeats the last key
     * without weight */
    for (int64_t k0 = begin; k0 < end; k0 += GROUPS * UNROLLED) {
        pack<T, 8> k[UNROLLED], v[UNROLLED];

        UNROLL
        for (int u = 0; u < UNROLLED; u++) {
            k[u] = next_k[u];
            v[u] = next_v[u];
        }
        load(k0 + GROUPS * UNROLLED);
        UNROLL
        for (int r = 0; r < R; r++) {
            float s[UNROLLED], most = top[r], fade;

            UNROLL
            for (int u = 0; u < UNROLLED; u++) {
                s[u] = 0;
                UNROLL
                for (int e = 0; e < 8; e++)
                    s[u] += q[r][e] * to_float(k[u].v[e]);
                UNROLL
                for (int m = LANES / 2; m > 0; m >>= 1)
                    s[u] += __shfl_xor_sync(0xffffffffu, s[u], m);
                s[u] = cap > 0 ? cap * tanhf(s[u] * inv) : s[u] * factor;
                if (k0 + u * GROUPS + group >= end)
                    s[u] = -INFINITY;
                most = fmaxf(most, s[u]);
            }
            fade = fade_to(top[r], most);
            top[r] = most;
            sum[r] *= fade;
            UNROLL
            for (int e = 0; e < 8; e++)
                o[r][e] *= fade;
            UNROLL
            for (int u = 0; u < UNROLLED; u++) {
                bool in = k0 + u * GROUPS + group < end;
                float w = in ? fast_exp2(s[u] - (most == -INFINITY ? 0.0f : most)) : 0.0f;

                sum[r] += w;
                UNROLL
                for (int e = 0; e < 8; e++)
                    o[r][e] += in ? w * to_float(v[u].v[e]) : 0.0f;
            }
        }
    }
    if (lane == 0)
        UNROLL
        for (int r = 0; r < R; r++) {
            tops[group][r] = top[r];
            sums[group][r] = sum[r];
        }
    __syncthreads();
    UNROLL
    for (int r = 0; r < R; r++) {
        float most = -INFINITY, all = 0, fade;

        for (int i = 0; i < GROUPS; i++)
            most = fmaxf(most, tops[i][r]);
        for (int i = 0; i < GROUPS; i++)
            all += sums[i][r] * fade_to(tops[i][r], most);
        fade = fade_to(top[r], most);
        UNROLL
        for (int e = 0; e < 8; e++) { /* the groups of a warp, then the warps */
            float x = o[r][e] * fade;

            UNROLL
            for (int m = LANES; m < 32; m <<= 1)
                x += __shfl_xor_sync(0xffffffffu, x, m);
            if (threadIdx.x % 32 < LANES)
                outs[threadIdx.x / 32][lane * 8 + e] = x;
        }
        __syncthreads();
        float *part = parts + ((split * a.B + b) * a.Hq + h0 + r) * (a.hd + 2);
        for (int c = threadIdx.x; r < n && c < (int)a.hd; c += THREADS) {
            float x = 0;

            for (int w = 0; w < THREADS / 32; w++)
                x += outs[w][c];
            if (p.splits == 1)
                ((T *)a.o.data)[b * a.o.ld + (h0 + r) * a.hd + c] = from_float<T>(x / all);
            else
                part[2 + c] = x;
        }
        if (threadIdx.x == 0 && r < n && p.splits > 1) {
            part[0] = most;
            part[1] = all;
        }
        if (threadIdx.x == 0 && r < n && p.splits == 1 && a.lse)
            a.lse[b * a.Hq + h0 + r] = most * LN2 + logf(all);
        __syncthreads();
    }
}

/* A block a query head */
template <class T>
__global__ void __launch_bounds__(256)
    attn_step_join(const struct attn a, const struct step_plan p, const float *parts)
{
    const int64_t row = a.hd + 2, step = a.B * a.Hq * row, b = blockIdx.x / a.Hq, h = blockIdx.x % a.Hq;
    float most = -INFINITY, all = 0, x = 0;

    parts += blockIdx.x * row;
    for (int64_t i = 0; i < p.splits; i++)
        most = fmaxf(most, parts[i * step]);
    for (int64_t i = 0; i < p.splits; i++) {
        float fade = fade_to(parts[i * step], most);

        all += parts[i * step + 1] * fade;
        if (threadIdx.x < a.hd)
            x += parts[i * step + 2 + threadIdx.x] * fade;
    }
    if (threadIdx.x < a.hd)
        ((T *)a.o.data)[b * a.o.ld + h * a.hd + threadIdx.x] = from_float<T>(x / all);
    if (threadIdx.x == 0 && a.lse)
        a.lse[blockIdx.x] = most * LN2 + logf(all);
}

template <class T, int LANES>
static void launch(const struct attn &a, const struct step_plan &p, float *parts)
{
    unsigned blocks = (unsigned)(a.B * a.Hkv * p.sets * p.splits);

    if (!attn_wide(&a, &a.q) || !attn_wide(&a, &a.k) || !attn_wide(&a, &a.v))
        LAUNCH((attn_step_kernel<T, LANES, 1, false>), blocks, THREADS, 0, a, p, parts);
    else if (p.heads == 1)
        LAUNCH((attn_step_kernel<T, LANES, 1, true>), blocks, THREADS, 0, a, p, parts);
    else if (p.heads <= 4)
        LAUNCH((attn_step_kernel<T, LANES, 4, true>), blocks, THREADS, 0, a, p, parts);
    else
        LAUNCH((attn_step_kernel<T, LANES, HEADS, true>), blocks, THREADS, 0, a, p, parts);
}

template <class T> static void step(const struct attn &a, float *parts)
{
    struct step_plan p = make_plan(&a);

    if (a.hd <= 64)
        launch<T, 8>(a, p, parts);
    else if (a.hd <= 128)
        launch<T, 16>(a, p, parts);
    else
        launch<T, 32>(a, p, parts);
    if (p.splits > 1)
        LAUNCH((attn_step_join<T>), (unsigned)(a.B * a.Hq), 256, 0, a, p, parts);
}

void cuda_attn_step(const struct attn *a)
{
    attn_check(a, "attn_step");
    if (a->Smax < (a->window && a->window < a->S ? a->window : a->S))
        cuda_fault("attn_step", "Smax", "is less than the keys in sight");
    if (!a->work)
        cuda_fault("attn_step", "work", "is absent");
    if (a->B == 0)
        return;
    WITH_TYPE(a->q.dtype, T, step<T>(*a, (float *)(((uintptr_t)a->work + 127) / 128 * 128)));
}
