/* rglru.cu - the real-gated linear recurrent unit on the GPU
 * SPDX-License-Identifier: MIT
 *
 * The formulas and names stand in rglru.c. As there, what is computed of a decay a is the gap 1 - a, which
 * keeps its digits where a is near 1: h moves by in - gap h, and what is left of a state after several tokens
 * is kept as its gap too.
 *
 * A tile is TOKENS tokens of WIDE channels of one sequence; each of its warps has TOKENS/WARPS tokens, a lane
 * VEC channels. Every input is read once, into registers: a warp runs through its tokens from a state of zero
 * and tells the others what it adds and what gap it makes; the tile tells later tiles the same for all its
 * tokens. The state that enters a tile comes from the tiles before it that are still at work: tiles stand in
 * groups of GROUP, the last of a group makes the state after it known, and all others begin with that of the
 * group before and with what the tiles of their own group have told. So a chain has tokens/(TOKENS GROUP)
 * links, and each sum has one order. Backward is the same with the gradient of the state, from the last token
 * to the first.
 */
#include "device.cuh"

enum { WARPS = 8, VEC = 2, WIDE = 32 * VEC, GROUP = 8, THREADS = 32 * WARPS };

/* In the place of a gap: a document begins in between, and nothing goes on. */
#define CUT 2.0f

/* Sizes of a pass with tiles of `tokens` tokens; offsets into `work`, in floats */
struct rglru_plan {
    int tokens;
    int64_t tiles, columns; /* of a sequence; of WIDE channels */
    int64_t told,
        after; /* [tiles,B,columns,32,2 VEC]: gap and what is added; [tiles/GROUP,B,columns,32,VEC]: state */
    int64_t sums;  /* [tiles,B,C]: sums for da_param */
    int64_t flags; /* [2,tiles,B,columns] int: told, after */
    int64_t total;
};

static struct rglru_plan make_plan(const struct rglru *a, int tokens)
{
    struct rglru_plan p = {};
    p.tokens = tokens;
    p.tiles = ceil_div(a->T, tokens);
    p.columns = ceil_div(a->C, WIDE);
    int64_t cells = p.tiles * a->B * p.columns;
    p.after = cells * 2 * WIDE;
    p.sums = p.after + ceil_div(p.tiles, GROUP) * a->B * p.columns * WIDE;
    p.flags = p.sums + p.tiles * a->B * a->C;
    p.total = p.flags + 2 * cells;
    return p;
}

/* Tokens of a warp: what its registers hold. */
template <class T> struct per_warp {
    static constexpr int FWD = sizeof(T) == 2 ? 16 : 8, BWD = sizeof(T) == 2 ? 8 : 4;
};
static int fwd_tokens(enum dtype t)
{
    return WARPS * (t == BF16 ? per_warp<bf16>::FWD : per_warp<float>::FWD);
}
static int bwd_tokens(enum dtype t)
{
    return WARPS * (t == BF16 ? per_warp<bf16>::BWD : per_warp<float>::BWD);
}

size_t cuda_rglru_work(const struct rglru *a)
{
    int64_t fwd = make_plan(a, fwd_tokens(a->x.dtype)).total,
            bwd = make_plan(a, bwd_tokens(a->x.dtype)).total;
    return (size_t)max(fwd, bwd) * sizeof(float);
}

/* ---- one number ---- */

/* 1 - exp(-L), L >= 0: a series below ln(2)/2, where the difference would lose digits. *a = exp(-L) */
__device__ __forceinline__ float gap_of(float L, float *a)
{
    float q = 1.989104592e-4f, e = fast_exp2(-1.44269504f * L), gap;
    q = 1.393369961e-3f - q * L;
    q = 8.333310876e-3f - q * L;
    q = 4.166646448e-2f - q * L;
    q = 1.666666668e-1f - q * L;
    q = 5.000000014e-1f - q * L;
    gap = L - q * L * L;
    *a = L < 0.34657359f ? 1.0f - gap : e;
    return L < 0.34657359f ? gap : 1.0f - e;
}

__device__ __forceinline__ float gate(float z) { return fast_rcp(1.0f + fast_exp2(-1.44269504f * z)); }

/* The same and its derivative, without the cancellation of 1 - sigmoid */
__device__ __forceinline__ float gate_slope(float z, float *slope)
{
    float e = fast_exp2(-1.44269504f * fabsf(z)), q = fast_rcp(1.0f + e);
    *slope = e * q * q;
    return z < 0.0f ? e * q : q;
}

/* What a stretch of tokens does with a state: h becomes h + (add - gap h), or add where gap is CUT. */
struct change {
    float gap, add;
};
__device__ __forceinline__ float apply(struct change c, float h)
{
    return c.gap == CUT ? c.add : h + (c.add - c.gap * h);
}
/* First a, then b, which is not cut; cut: whether a is. */
__device__ __forceinline__ struct change then(struct change a, struct change b, bool cut)
{
    return { cut ? CUT : a.gap + (b.gap - b.gap * a.gap), a.add + (b.add - b.gap * a.add) };
}
__device__ __forceinline__ struct change follow(struct change a, struct change b)
{
    return b.gap == CUT ? b : then(a, b, a.gap == CUT);
}
/* Whether a document begins in tokens 0..i. */
__device__ __forceinline__ bool begun(unsigned firsts, int i) { return (firsts & ((2u << i) - 1)) != 0; }

/* ---- one tile ---- */

struct rglru_place {
    int64_t b, column, tile; /* tiles count in the order in which the pass takes them */
    int64_t cell;            /* of [tiles,B,columns] */
    int64_t c;               /* the lane's first channel */
    int lane, warp;
};

/* Tiles of one place in time are neighbours among the blocks: each waits only for those before it. */
__device__ __forceinline__ struct rglru_place find_place(const struct rglru &a, const struct rglru_plan &p)
{
    struct rglru_place at;
    int64_t columns = a.B * p.columns;
    at.cell = blockIdx.x;
    at.tile = at.cell / columns;
    at.b = at.cell % columns / p.columns;
    at.column = at.cell % p.columns;
    at.lane = threadIdx.x % 32;
    at.warp = (int)threadIdx.x / 32;
    at.c = at.column * WIDE + at.lane * VEC;
    return at;
}

/* VEC channels as they lie in memory: a register of two bf16, or two floats */
template <class T> struct duo;
template <> struct alignas(8) duo<float> {
    float v[VEC];
    __device__ __forceinline__ float operator[](int k) const { return v[k]; }
};
template <> struct duo<bf16> {
    uint32_t v;
    __device__ __forceinline__ float operator[](int k) const { return k ? unpack_hi(v) : unpack_lo(v); }
};
__device__ __forceinline__ void set_duo(duo<float> *to, float lo, float hi) { *to = { { lo, hi } }; }
__device__ __forceinline__ void set_duo(duo<bf16> *to, float lo, float hi) { to->v = pack2(lo, hi); }

/* The first `have` of VEC channels at p; zeros in the place of others. PAIRS: all of them are there, or
 * none, and they may be read at once. */
template <class T, bool PAIRS> __device__ __forceinline__ duo<T> load_channels(const T *p, int have)
{
    duo<T> v;
    set_duo(&v, 0.0f, 0.0f);
    if constexpr (PAIRS) {
        if (have)
            v = *(const duo<T> *)p;
    } else {
        if (have)
            set_duo(&v, to_float(p[0]), have > 1 ? to_float(p[1]) : 0.0f);
    }
    return v;
}
template <class T, bool PAIRS>
__device__ __forceinline__ void store_channels(T *p, int have, const float x[VEC])
{
    if constexpr (PAIRS) {
        duo<T> v;
        set_duo(&v, x[0], x[1]);
        if (have)
            *(duo<T> *)p = v;
    } else {
        for (int k = 0; k < VEC; k++)
            if (k < have)
                p[k] = from_float<T>(x[k]);
    }
}
/* Tokens first .. n-1 of N rows from `row` on */
template <class T, bool PAIRS, int N>
__device__ __forceinline__ void load_rows(const struct tensor &t, int64_t row, int64_t c, int first, int n,
                                          int have, duo<T> *to)
{
    const T *p = (const T *)t.data + row * t.ld + c;
#pragma unroll
    for (int i = 0; i < N; i++, p += t.ld)
        to[i] = load_channels<T, PAIRS>(p, i >= first && i < n ? have : 0);
}

/* Rows of states, always F32 */
__device__ __forceinline__ void load_state(const struct tensor &t, int64_t b, int64_t c, int64_t C,
                                           float h[VEC])
{
    for (int k = 0; k < VEC; k++)
        h[k] = t.data && c + k < C ? ((const float *)t.data)[b * t.ld + c + k] : 0.0f;
}
__device__ __forceinline__ void store_state(const struct tensor &t, int64_t b, int64_t c, int64_t C,
                                            const float h[VEC])
{
    for (int k = 0; k < VEC; k++)
        if (c + k < C)
            ((float *)t.data)[b * t.ld + c + k] = h[k];
}

__device__ __forceinline__ void load_rates(const struct rglru &a, int64_t c, float rate[VEC])
{
    for (int k = 0; k < VEC; k++)
        rate[k] = c + k < a.C ? 8.0f * softplus(((const float *)a.a_param.data)[c + k]) : 0.0f;
}

/* Bit i: token t0+i, i < n <= 32, is the first of its document, or of a row without a state before it. */
__device__ __forceinline__ unsigned first_tokens(const struct rglru &a, int64_t b, int64_t t0, int n)
{
    int64_t t = t0 + threadIdx.x % 32;
    bool is = t - t0 < n && t < a.T && ((a.start && a.start[b * a.T + t] == t) || (t == 0 && !a.h0.data));
    return __ballot_sync(0xffffffffu, is);
}

/* The state with which this warp begins, from what each warp's tokens do: `own`, VEC channels a lane.
 * edge: the state before the first tile. told: [WARPS,32,VEC] and enters: [32,VEC] of shared memory. */
__device__ __forceinline__ void carry_tiles(const struct rglru &a, const struct rglru_plan &p,
                                            const struct rglru_place &at, const struct tensor &edge,
                                            const struct change own[VEC], struct change *told, float *enters,
                                            float h[VEC])
{
    const int64_t step = a.B * p.columns; /* from a tile to the next in time */
    float *work = (float *)a.work;
    int *flags = (int *)(work + p.flags), *after = flags + p.tiles * step;

    for (int k = 0; k < VEC; k++)
        told[(at.warp * 32 + at.lane) * VEC + k] = own[k];
    __syncthreads();
    if (at.warp == 0) {
        struct change all[VEC];
        int64_t in_group = at.tile % GROUP, group = at.tile / GROUP;
        bool last = in_group == GROUP - 1;
        for (int k = 0; k < VEC; k++) {
            all[k] = own[k];
            for (int w = 1; w < WARPS; w++)
                all[k] = follow(all[k], told[(w * 32 + at.lane) * VEC + k]);
        }
        /* the state before the row is read before anything is told: what comes of it may be written over
         * it */
        if (group == 0)
            load_state(edge, at.b, at.c, a.C, h);
        struct change *tell = (struct change *)(work + p.told) + at.cell * WIDE + at.lane * VEC;
        if (!last && at.tile + 1 < p.tiles) {
            for (int k = 0; k < VEC; k++)
                tell[k] = all[k];
            __syncwarp();
            if (at.lane == 0)
                publish(flags + at.cell);
        }
        int64_t place = at.cell % step;
        if (group > 0) {
            int64_t before = (group - 1) * step + place;
            await(after + before);
            for (int k = 0; k < VEC; k++)
                h[k] = work[p.after + before * WIDE + at.lane * VEC + k];
        }
        for (int64_t i = in_group; i > 0; i--) {
            int64_t cell = at.cell - i * step;
            await(flags + cell);
            const struct change *from = (const struct change *)(work + p.told) + cell * WIDE + at.lane * VEC;
            for (int k = 0; k < VEC; k++)
                h[k] = apply(from[k], h[k]);
        }
        if (last && at.tile + 1 < p.tiles) {
            for (int k = 0; k < VEC; k++)
                work[p.after + (group * step + place) * WIDE + at.lane * VEC + k] = apply(all[k], h[k]);
            __syncwarp();
            if (at.lane == 0)
                publish(after + group * step + place);
        }
        for (int k = 0; k < VEC; k++)
            enters[at.lane * VEC + k] = h[k];
    }
    __syncthreads();
    for (int k = 0; k < VEC; k++) {
        h[k] = enters[at.lane * VEC + k];
        for (int w = 0; w < at.warp; w++)
            h[k] = apply(told[(w * 32 + at.lane) * VEC + k], h[k]);
    }
}

static __global__ void rglru_clear(int *flags, int64_t n)
{
    int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i < n)
        flags[i] = 0;
}

/* A warp's tokens from a state of zero: after each of them the state h, and the gap of them all so far;
 * own: of all. n: so many tokens there are. PLAIN: N, and no document begins among them. */
template <int N, bool PLAIN, class D>
__device__ __forceinline__ void run_tokens(int n, unsigned firsts, const float rate[VEC], const D x[N],
                                           const D gx[N], const D ga[N], float gap[N][VEC], float h[N][VEC],
                                           struct change own[VEC])
{
    for (int k = 0; k < VEC; k++)
        own[k] = { 0.0f, 0.0f };
#pragma unroll
    for (int i = 0; i < N; i++)
        for (int k = 0; k < VEC; k++) {
            float decay, g = gap_of(rate[k] * gate(ga[i][k]), &decay), m = fast_sqrt(g * (2.0f - g));
            float in = gate(gx[i][k]) * x[i][k];
            if (PLAIN) {
                own[k] = then(own[k], { g, m * in }, false);
            } else {
                bool first = firsts >> i & 1;
                g = i < n ? g : 0.0f;
                own[k] = first ? change{ CUT, in } : then(own[k], { g, m * in }, begun(firsts, i));
            }
            gap[i][k] = own[k].gap;
            h[i][k] = own[k].add;
        }
}

template <class T, bool PAIRS>
__global__ void __launch_bounds__(THREADS, 2)
    rglru_fwd_kernel(const struct rglru a, const struct rglru_plan p)
{
    constexpr int N = per_warp<T>::FWD;
    __shared__ struct change told[WARPS * WIDE];
    __shared__ float enters[WIDE];
    const struct rglru_place at = find_place(a, p);
    const int64_t t0 = at.tile * p.tokens + at.warp * N, m = at.b * a.T + t0;
    const int n = (int)min((int64_t)N, a.T - t0), have = (int)max((int64_t)0, min((int64_t)VEC, a.C - at.c));
    duo<T> x[N], gx[N], ga[N];
    float rate[VEC], gap[N][VEC], h[N][VEC], enter[VEC];
    struct change own[VEC];

    load_rows<T, PAIRS, N>(a.gate_a, m, at.c, 0, n, have, ga);
    load_rows<T, PAIRS, N>(a.gate_x, m, at.c, 0, n, have, gx);
    load_rows<T, PAIRS, N>(a.x, m, at.c, 0, n, have, x);
    load_rates(a, at.c, rate);
    unsigned firsts = first_tokens(a, at.b, t0, N);
    if (firsts == 0 && n == N)
        run_tokens<N, true>(n, 0, rate, x, gx, ga, gap, h, own);
    else
        run_tokens<N, false>(n, firsts, rate, x, gx, ga, gap, h, own);
    carry_tiles(a, p, at, a.h0, own, told, enters, enter);
    T *y = (T *)a.y.data + m * a.y.ld + at.c;
#pragma unroll
    for (int i = 0; i < N; i++, y += a.y.ld)
        if (i < n) {
            for (int k = 0; k < VEC; k++)
                h[i][k] = begun(firsts, i) ? h[i][k] : enter[k] + (h[i][k] - gap[i][k] * enter[k]);
            store_channels<T, PAIRS>(y, have, h[i]);
            if (a.hT.data && t0 + i == a.T - 1)
                store_state(a.hT, at.b, at.c, a.C, h[i]);
        }
}

/* As rglru_fwd_kernel, from the last token to the first: tiles, warps and tokens count backwards. What
 * goes from token to token is a g, the gradient that the state before gets: g = dy + that of the token
 * behind. */
template <class T, bool PAIRS>
__global__ void __launch_bounds__(THREADS, 2)
    rglru_bwd_kernel(const struct rglru a, const struct rglru_plan p)
{
    constexpr int N = per_warp<T>::BWD;
    __shared__ struct change told[WARPS * WIDE];
    __shared__ float enters[WIDE], sums[WARPS * WIDE];
    const struct rglru_place at = find_place(a, p);
    const int64_t t0 = (p.tiles - 1 - at.tile) * p.tokens + (WARPS - 1 - at.warp) * N, m = at.b * a.T + t0;
    const int n = (int)min((int64_t)N, a.T - t0), have = (int)max((int64_t)0, min((int64_t)VEC, a.C - at.c));
    duo<T> x[N], gx[N], ga[N], y[N], dy[N]; /* y of the token before */
    float rate[VEC], gap[N][VEC], later[N][VEC], h0[VEC], enter[VEC], sum[VEC] = {};
    struct change own[VEC];

    load_rows<T, PAIRS, N>(a.gate_a, m, at.c, 0, n, have, ga);
    load_rows<T, PAIRS, N>(a.dy, m, at.c, 0, n, have, dy);
    load_rows<T, PAIRS, N>(a.x, m, at.c, 0, n, have, x);
    load_rows<T, PAIRS, N>(a.gate_x, m, at.c, 0, n, have, gx);
    load_rows<T, PAIRS, N>(a.y, m - 1, at.c, t0 == 0, n, have, y);
    load_state(a.h0, at.b, at.c, a.C, h0);
    load_rates(a, at.c, rate);
    unsigned firsts = first_tokens(a, at.b, t0, N);
    for (int k = 0; k < VEC; k++)
        own[k] = { 0.0f, 0.0f };
#pragma unroll
    for (int i = N - 1; i >= 0; i--)
        for (int k = 0; k < VEC; k++) {
            float decay, g = gap_of(rate[k] * gate(ga[i][k]), &decay);
            gap[i][k] = own[k].gap;
            later[i][k] = own[k].add;
            if (i < n)
                own[k] = firsts >> i & 1 ? change{ CUT, 0.0f }
                                         : then(own[k], { g, decay * dy[i][k] }, firsts >> i);
        }
    carry_tiles(a, p, at, a.dhT, own, told, enters, enter);
    T *to_x = (T *)a.dx.data + (m + N) * a.dx.ld + at.c,
      *to_gx = (T *)a.dgate_x.data + (m + N) * a.dgate_x.ld + at.c;
    T *to_ga = (T *)a.dgate_a.data + (m + N) * a.dgate_a.ld + at.c;
#pragma unroll
    for (int i = N - 1; i >= 0; i--) {
        bool first = firsts >> i & 1;
        float dx[VEC], dgx[VEC], dga[VEC];
        for (int k = 0; k < VEC; k++) {
            float slope_i, slope_r, decay, in_x = x[i][k];
            float in = gate_slope(gx[i][k], &slope_i), r = gate_slope(ga[i][k], &slope_r);
            float before = t0 + i == 0 ? h0[k] : y[i][k];
            float behind = enter[k] + (later[i][k] - gap[i][k] * enter[k]);
            float g = dy[i][k] + (firsts >> i >> 1 ? later[i][k] : behind);
            float own_gap = gap_of(rate[k] * r, &decay), root = fast_sqrt(own_gap * (2.0f - own_gap));
            float slope =
                2.0f * decay * decay * fast_rcp(2.0f * root < 1e-3f ? 1e-3f : 2.0f * root); /* dm/dL */
            float dL = g * (in * in_x * slope - decay * before);
            dL = first ? 0.0f : dL;
            root = first ? 1.0f : root;
            dx[k] = g * root * in;
            dgx[k] = g * root * in_x * slope_i;
            dga[k] = dL * rate[k] * slope_r;
            if (i < n)
                sum[k] += dL * r;
            if (t0 + i == 0)
                enter[k] = first ? 0.0f : decay * g;
        }
        to_x -= a.dx.ld;
        to_gx -= a.dgate_x.ld;
        to_ga -= a.dgate_a.ld;
        if (i >= n)
            continue;
        store_channels<T, PAIRS>(to_x, have, dx);
        store_channels<T, PAIRS>(to_gx, have, dgx);
        store_channels<T, PAIRS>(to_ga, have, dga);
        if (t0 + i == 0 && a.dh0.data)
            store_state(a.dh0, at.b, at.c, a.C, enter);
    }
    for (int k = 0; k < VEC; k++)
        sums[at.warp * WIDE + at.lane * VEC + k] = sum[k];
    __syncthreads();
    int64_t c = at.column * WIDE + threadIdx.x;
    if (threadIdx.x >= WIDE || c >= a.C)
        return;
    float all = 0;
    for (int w = 0; w < WARPS; w++)
        all += sums[w * WIDE + (int)threadIdx.x];
    ((float *)a.work)[p.sums + (at.tile * a.B + at.b) * a.C + c] = all;
}

/* da_param: a block has 32 channels, each warp every eighth of the tiles' sums. */
static __global__ void rglru_sum(const struct rglru a, const struct rglru_plan p)
{
    __shared__ float room[WARPS][32];
    int lane = threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int64_t c = blockIdx.x * 32 + lane;
    const float *from = (const float *)a.work + p.sums + c;
    float sum = 0;
    if (c < a.C)
#pragma unroll 8
        for (int64_t i = warp; i < p.tiles * a.B; i += WARPS)
            sum += from[i * a.C];
    room[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || c >= a.C)
        return;
    for (int w = 1; w < WARPS; w++)
        sum += room[w][lane];
    ((float *)a.da_param.data)[c] += 8.0f * sigmoid(((const float *)a.a_param.data)[c]) * sum;
}

/* A row without tokens: the state stays, and so does its gradient. */
static __global__ void rglru_stay(const struct rglru a, const struct tensor from, const struct tensor to)
{
    int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i >= a.B * a.C)
        return;
    int64_t b = i / a.C, c = i % a.C;
    ((float *)to.data)[b * to.ld + c] = from.data ? ((const float *)from.data)[b * from.ld + c] : 0.0f;
}

/* One token, in place; a thread has one channel. */
template <class T> __global__ void rglru_step_kernel(const struct rglru a)
{
    int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i >= a.B * a.C)
        return;
    int64_t b = i / a.C, c = i % a.C;
    float *h = (float *)a.h0.data + b * a.h0.ld + c, decay;
    float rate = 8.0f * softplus(((const float *)a.a_param.data)[c]);
    float gap = gap_of(rate * gate(to_float(((const T *)a.gate_a.data)[b * a.gate_a.ld + c])), &decay);
    float in = gate(to_float(((const T *)a.gate_x.data)[b * a.gate_x.ld + c]));
    in *= to_float(((const T *)a.x.data)[b * a.x.ld + c]) * fast_sqrt(gap * (2.0f - gap));
    *h = apply({ gap, in }, *h);
    ((T *)a.y.data)[b * a.y.ld + c] = from_float<T>(*h);
}

/* ---- launchers ---- */

static void check(const struct rglru *a, const char *op)
{
    CUDA_NEED(op, a, x);
    CUDA_NEED(op, a, gate_x);
    CUDA_NEED(op, a, gate_a);
    CUDA_NEED(op, a, a_param);
    CUDA_NEED(op, a, y);
}

static bool in_pairs(const struct rglru *a, bool bwd)
{
    const struct tensor *t[] = { &a->x,  &a->gate_x, &a->gate_a,  &a->y,
                                 &a->dy, &a->dx,     &a->dgate_x, &a->dgate_a };
    bool yes = a->C % VEC == 0;
    for (int i = 0; i < (bwd ? 8 : 4); i++)
        yes &= aligned_rows(t[i], VEC * (t[i]->dtype == BF16 ? 2 : 4));
    return yes;
}

static void stay(const struct rglru *a, const struct tensor *from, const struct tensor *to)
{
    if (to->data && a->B > 0)
        LAUNCH(rglru_stay, (unsigned)ceil_div(a->B * a->C, 256), 256, 0, *a, *from, *to);
}

static void clear_flags(const struct rglru *a, const struct rglru_plan *p)
{
    int64_t n = 2 * p->tiles * a->B * p->columns;
    LAUNCH(rglru_clear, (unsigned)ceil_div(n, 256), 256, 0, (int *)((float *)a->work + p->flags), n);
}

void cuda_rglru_fwd(const struct rglru *a)
{
    check(a, "rglru_fwd");
    if (a->T < 1)
        stay(a, &a->h0, &a->hT);
    if (a->T < 1 || a->B < 1)
        return;
    struct rglru_plan p = make_plan(a, fwd_tokens(a->x.dtype));
    unsigned grid = (unsigned)(p.tiles * a->B * p.columns);
    clear_flags(a, &p);
    if (in_pairs(a, false))
        WITH_TYPE(a->x.dtype, T, LAUNCH((rglru_fwd_kernel<T, true>), grid, THREADS, 0, *a, p));
    else
        WITH_TYPE(a->x.dtype, T, LAUNCH((rglru_fwd_kernel<T, false>), grid, THREADS, 0, *a, p));
}

void cuda_rglru_bwd(const struct rglru *a)
{
    check(a, "rglru_bwd");
    CUDA_NEED("rglru_bwd", a, dy);
    CUDA_NEED("rglru_bwd", a, dx);
    CUDA_NEED("rglru_bwd", a, dgate_x);
    CUDA_NEED("rglru_bwd", a, dgate_a);
    CUDA_NEED("rglru_bwd", a, da_param);
    if (a->T < 1)
        stay(a, &a->dhT, &a->dh0);
    if (a->T < 1 || a->B < 1)
        return;
    struct rglru_plan p = make_plan(a, bwd_tokens(a->x.dtype));
    unsigned grid = (unsigned)(p.tiles * a->B * p.columns);
    clear_flags(a, &p);
    if (in_pairs(a, true))
        WITH_TYPE(a->x.dtype, T, LAUNCH((rglru_bwd_kernel<T, true>), grid, THREADS, 0, *a, p));
    else
        WITH_TYPE(a->x.dtype, T, LAUNCH((rglru_bwd_kernel<T, false>), grid, THREADS, 0, *a, p));
    LAUNCH(rglru_sum, (unsigned)ceil_div(a->C, 32), THREADS, 0, *a, p);
}

void cuda_rglru_step(const struct rglru *a)
{
    check(a, "rglru_step");
    CUDA_NEED("rglru_step", a, h0);
    if (a->B < 1)
        return;
    WITH_TYPE(a->x.dtype, T,
              LAUNCH((rglru_step_kernel<T>), (unsigned)ceil_div(a->B * a->C, 128), 128, 0, *a));
}
