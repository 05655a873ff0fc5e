/* scan_bwd.cu - selective scan on the GPU: backward
 * SPDX-License-Identifier: MIT
 *
 * The layout stands at the top of scan.cuh. From the last token to the first, with e = exp(dt a), u = dt x:
 *   g[n] = dS[n] + dy C[n],  q[n] = e g[n], dS of the token before,  w[n] = q[n] S[t-1,n]
 *   dC[n] = sum_c dy S[t,n],  dB[n] = sum_c g[n] u,  da[n] = sum_t w[n] dt
 *   dx = dt sum_n g[n] B[n] + D dy,  d dt = x sum_n g[n] B[n] + sum_n w[n] a[n]
 *
 * A block goes through a chunk twice: forward from the saved state, to note the state before every MARK
 * tokens (in work, which stays in the L2 cache); then backward, the states and decays of MARK tokens at a
 * time being remade in registers. dB and dC are summed over a block's channels there, and over the blocks by
 * a second kernel; sums over tokens are kept by tile, segment and sequence and put together by a third.
 */
#include "scan.cuh"

enum { MARK = 8, WARPS = SCAN_THREADS / 32 };

/* What follows the carries in `work`. Parameters' gradients by segment and sequence: */
struct bwd_plan {
    struct scan_plan scan;
    int64_t da;            /* [segments,B,C,width]: sum of w dt */
    int64_t dbias, dD;     /* [segments,B,C] */
    int64_t parts;         /* [blocks,B*T,2 width]: dB and dC of a block's channels */
    int64_t marks, marked; /* [jobs,marked,SCAN_THREADS,per]: states of a chunk */
    int64_t total;
};

static struct bwd_plan make_plan(const struct scan *a)
{
    /* five blocks of a multiprocessor at once; the first pass of segments costs a fifth of the real one */
    struct bwd_plan p = {};
    p.scan = scan_make_plan(a, 5 * cuda_processors(), 3 * cuda_processors());
    int64_t cells = p.scan.segments * a->B * a->C;
    p.da = p.scan.total;
    p.dbias = p.da + cells * p.scan.width;
    p.dD = p.dbias + cells;
    p.parts = round_up(p.dD + cells, 4);
    p.marks = p.parts + p.scan.blocks * a->B * a->T * 2 * p.scan.width;
    p.marked = ceil_div(min(a->Q, a->T), MARK);
    p.total = p.marks + p.scan.blocks * a->B * p.scan.segments * p.marked * SCAN_THREADS * p.scan.per;
    return p;
}

size_t cuda_scan_work(const struct scan *a)
{
    /* the forward pass has as many segments at most */
    return a->B < 1 || a->T < 1 ? 0 : (size_t)make_plan(a).total * sizeof(float);
}

/* The segments by themselves: dS that each hands back when it is given none. */
template <class T, int V, int PER, int LANES, int TILE>
__global__ void __launch_bounds__(SCAN_THREADS)
    scan_bwd_segments(const struct scan a, const struct scan_plan p)
{
    const scan_place<PER, LANES> at(a, p);
    const int row = SCAN_ROW(at.channels);
    DYNAMIC_SHARED(float, bc);
    scan_bwd_cell *cells = (scan_bwd_cell *)(bc + TILE * 2 * at.width), *mine = cells + at.channel;
    float dS[PER] = {}, A2[PER], sum_dt = 0;
    bool forgets = false;

    for (int k = 0; k < PER; k++)
        A2[k] = scan_decay_rate(a, at, k);
    for (int64_t chunk = at.last - 1; chunk >= at.first; chunk--)
        for (int tile = scan_tiles(a, chunk, TILE) - 1; tile >= 0; tile--) {
            int64_t t0 = chunk * a.Q + tile * TILE, m = at.b * a.T + t0;
            int n = scan_tokens(a, chunk, tile, TILE);
            __syncthreads();
            scan_stage<T, V, TILE>(a, at, m, n, true, cells);
            scan_stage_bc<T, V, TILE>(a, at, m, n, bc);
            unsigned resets = scan_resets(a, at.b, t0, n);
            forgets |= resets != 0;
            __syncthreads();
#pragma unroll 4
            for (int t = n - 1; t >= 0; t--) {
                scan_bwd_cell in = mine[t * row];
                float C[PER];
                scan_load<PER>(C, bc + t * 2 * at.width + at.width + at.n0);
                for (int k = 0; k < PER; k++)
                    dS[k] = fast_exp2(in.dt * A2[k]) * (dS[k] + in.dy * C[k]);
                sum_dt += in.dt;
                if (resets >> t & 1)
                    scan_read<PER>(dS, nullptr, 0, 0);
            }
        }
    if (!at.inside)
        return;
    float *work = (float *)a.work;
    scan_write<PER>(dS, work + p.add + at.cell(a) * p.width, at.n0, a.N);
    if (at.sub == 0)
        work[p.sum + at.cell(a)] = forgets ? (float)SCAN_FORGETS : sum_dt;
}

/* The state before every MARK tokens of a chunk, to marks [marked,SCAN_THREADS,PER] */
template <class T, int V, int PER, int LANES, int TILE, class P>
__device__ __forceinline__ void make_marks(const struct scan &a, const struct scan_plan &p, const P &at,
                                           int64_t chunk, const float A2[PER], float *bc,
                                           scan_bwd_cell *cells, float *marks)
{
    const int row = SCAN_ROW(at.channels), tiles = scan_tiles(a, chunk, TILE);
    float S[PER];
    scan_read<PER>(S, at.inside ? scan_saved(a, p, at.b, chunk, at.c) : nullptr, at.n0, a.N);
    for (int tile = 0; tile < tiles; tile++) {
        int64_t t0 = chunk * a.Q + tile * TILE, m = at.b * a.T + t0;
        int n = scan_tokens(a, chunk, tile, TILE);
        __syncthreads();
        scan_stage<T, V, TILE>(a, at, m, n, false, cells);
        scan_stage_bc<T, V, TILE>(a, at, m, n, bc);
        unsigned resets = scan_resets(a, at.b, t0, n);
        __syncthreads();
        for (int t0 = 0; t0 < n; t0 += MARK) {
            scan_store<PER>(
                marks + ((tile * (TILE / MARK) + t0 / MARK) * SCAN_THREADS + (int)threadIdx.x) * PER, S);
            if (tile == tiles - 1 && t0 + MARK >= n)
                break;
#pragma unroll
            for (int i = 0; i < MARK; i++) {
                int t = t0 + i;
                scan_bwd_cell in = cells[t * row + at.channel];
                float u = in.dt * in.x, B[PER];
                scan_load<PER>(B, bc + t * 2 * at.width + at.n0);
                if (resets >> t & 1)
                    scan_read<PER>(S, nullptr, 0, 0);
                for (int k = 0; k < PER; k++)
                    S[k] = fast_exp2(in.dt * A2[k]) * S[k] + u * B[k];
            }
        }
    }
}

/* Adds b and c of the four numbers over the eight channels of a warp; to [2 * 16]: B, then C. Each
 * exchange halves what a lane is left with, in the end one of 32 sums. */
__device__ __forceinline__ void sum_channels(const float b[4], const float c[4], float *to)
{
    int lane = threadIdx.x % 32;
    bool is_c = lane & 16, high = lane & 8, odd = lane & 4;
    float v[4];
    for (int k = 0; k < 4; k++)
        v[k] = (is_c ? c[k] : b[k]) + __shfl_xor_sync(0xffffffffu, is_c ? b[k] : c[k], 16);
    for (int k = 0; k < 2; k++)
        v[k] = (high ? v[k + 2] : v[k]) + __shfl_xor_sync(0xffffffffu, high ? v[k] : v[k + 2], 8);
    v[0] = (odd ? v[1] : v[0]) + __shfl_xor_sync(0xffffffffu, odd ? v[0] : v[1], 4);
    to[(is_c ? 16 : 0) + lane % 4 * 4 + (high ? 2 : 0) + (odd ? 1 : 0)] = v[0];
}

/* The same for any number of lanes a channel */
template <int PER>
__device__ __forceinline__ void sum_channels_plain(const float b[PER], const float c[PER], int lanes, int n0,
                                                   float *to)
{
    int lane = threadIdx.x % 32;
    for (int k = 0; k < PER; k++) {
        float sb = b[k], sc = c[k];
        for (int l = lanes; l < 32; l <<= 1) {
            sb += __shfl_xor_sync(0xffffffffu, sb, l);
            sc += __shfl_xor_sync(0xffffffffu, sc, l);
        }
        if (lane < lanes) {
            to[n0 + k] = sb;
            to[lanes * PER + n0 + k] = sc;
        }
    }
}

/* Sums of x and y over the lanes of a channel, given to all of them */
__device__ __forceinline__ void sum_pair(float *x, float *y, int lanes, int sub)
{
    if (lanes == 1)
        return;
    bool odd = sub & 1;
    float v = (odd ? *y : *x) + __shfl_xor_sync(0xffffffffu, odd ? *x : *y, 1);
    for (int k = 2; k < lanes; k <<= 1)
        v += __shfl_xor_sync(0xffffffffu, v, k);
    float other = __shfl_xor_sync(0xffffffffu, v, 1);
    *x = odd ? other : v;
    *y = odd ? v : other;
}

/* What a thread carries from token to token */
template <int PER> struct bwd_state {
    float A2[PER], dS[PER];
    float da[PER], dbias, dD; /* of this tile */
};

/* MARK tokens from t0 of the tile on, backward; S0: the state before them. part: their rows [2 width] of
 * this warp. RESETS: a document begins among them. */
template <int PER, int LANES, bool RESETS, class P>
__device__ __forceinline__ void bwd_tokens(const P &at, int t0, unsigned resets, float D, const float S0[PER],
                                           const float *bc, scan_bwd_cell *cells, float *part,
                                           bwd_state<PER> &z)
{
    const int row = SCAN_ROW(at.channels);
    float S[MARK + 1][PER], E[MARK][PER]; /* S[i]: before token i */

    for (int k = 0; k < PER; k++)
        S[0][k] = S0[k];
#pragma unroll
    for (int i = 0; i < MARK; i++) {
        int t = t0 + i;
        bool begins = RESETS && (resets >> t & 1);
        scan_bwd_cell in = cells[t * row + at.channel];
        float u = in.dt * in.x, B[PER];
        scan_load<PER>(B, bc + t * 2 * at.width + at.n0);
        for (int k = 0; k < PER; k++) {
            E[i][k] = fast_exp2(in.dt * z.A2[k]);
            S[i + 1][k] = E[i][k] * (begins ? 0.0f : S[i][k]) + u * B[k];
        }
    }
#pragma unroll
    for (int i = MARK - 1; i >= 0; i--) {
        int t = t0 + i;
        bool begins = RESETS && (resets >> t & 1);
        scan_bwd_cell in = cells[t * row + at.channel];
        float u = in.dt * in.x, B[PER], C[PER], b[PER], c[PER], sum_g = 0, sum_w = 0;
        scan_load<PER>(B, bc + t * 2 * at.width + at.n0);
        scan_load<PER>(C, bc + t * 2 * at.width + at.width + at.n0);
        for (int k = 0; k < PER; k++) {
            float g = z.dS[k] + in.dy * C[k], q = begins ? 0.0f : E[i][k] * g,
                  w = begins ? 0.0f : q * S[i][k];
            b[k] = g * u;
            c[k] = in.dy * S[i + 1][k];
            sum_g += g * B[k];
            sum_w += w * z.A2[k];
            z.da[k] += w * in.dt;
            z.dS[k] = q;
        }
        if constexpr (LANES == 4 && PER == 4)
            sum_channels(b, c, part + t * 2 * at.width);
        else
            sum_channels_plain<PER>(b, c, at.lanes, at.n0, part + t * 2 * at.width);
        sum_pair(&sum_g, &sum_w, at.lanes, at.sub);
        float ddt = (in.x * sum_g + 0.69314718f * sum_w) * in.slope;
        z.dbias += ddt;
        z.dD += in.dy * in.x;
        __syncwarp(); /* all lanes of the channel have read the cell */
        if (at.sub == 0) {
            cells[t * row + at.channel].dt = in.dt * sum_g + D * in.dy;
            cells[t * row + at.channel].x = ddt;
        }
    }
}

/* dx and ddt_raw of tokens m .. m+n-1 from the cells; the warps' sums for dB and dC to `parts` */
template <class T, int V, int TILE, class P>
__device__ __forceinline__ void store_tile(const struct scan &a, const P &at, int64_t m, int n,
                                           const scan_bwd_cell *cells, const float *part, float *parts)
{
#pragma unroll
    for (int i = 0; i < (scan_share<V, TILE, P>::rounds(at)); i++) {
        const scan_share<V, TILE, P> s(at, i);
        int64_t c = at.c0 + s.k;
        if (s.t >= n || c >= a.C)
            continue;
        pack<T, V> dx, ddt;
        for (int j = 0; j < V; j++) {
            float2 from = *(const float2 *)(cells + s.t * SCAN_ROW(at.channels) + s.k + j);
            dx.v[j] = from_float<T>(from.x);
            ddt.v[j] = from_float<T>(from.y);
        }
        store_pack((T *)a.dx.data + (m + s.t) * a.dx.ld + c, dx);
        store_pack((T *)a.ddt_raw.data + (m + s.t) * a.ddt_raw.ld + c, ddt);
    }
    float *to = parts + (at.block * a.B * a.T + m) * 2 * at.width;
    for (int i = (int)threadIdx.x * 4; i < n * 2 * at.width; i += SCAN_THREADS * 4) {
        float4 sum = *(const float4 *)(part + i);
        for (int w = 1; w < WARPS; w++) {
            float4 v = *(const float4 *)(part + w * TILE * 2 * at.width + i);
            sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        }
        *(float4 *)(to + i) = sum;
    }
}

template <class T, int V, int PER, int LANES, int TILE>
__global__ void __launch_bounds__(SCAN_THREADS, LANES ? 5 : 1)
    scan_bwd_kernel(const struct scan a, const struct bwd_plan p)
{
    const scan_place<PER, LANES> at(a, p.scan);
    DYNAMIC_SHARED(float, bc);
    float *part = bc + TILE * 2 * at.width, *total = part + WARPS * TILE * 2 * at.width;
    scan_bwd_cell *cells = (scan_bwd_cell *)(total + (PER + 2) * SCAN_THREADS);
    float *work = (float *)a.work,
          *marks = work + p.marks + (int64_t)blockIdx.x * p.marked * SCAN_THREADS * PER;
    const float D = at.inside ? ((const float *)a.D.data)[at.c] : 0.0f;
    bwd_state<PER> z;

    total += threadIdx.x;
    for (int k = 0; k < PER + 2; k++)
        total[k * SCAN_THREADS] = 0;
    for (int k = 0; k < PER; k++)
        z.A2[k] = scan_decay_rate(a, at, k);
    const float *from = p.scan.segments > 1 ? work + p.scan.add + at.cell(a) * at.width
                                            : scan_state_row(a, a.dhT, at.b, at.c);
    scan_read<PER>(z.dS, at.inside ? from : nullptr, at.n0, a.N);
    for (int64_t chunk = at.last - 1; chunk >= at.first; chunk--) {
        make_marks<T, V, PER, LANES, TILE>(a, p.scan, at, chunk, z.A2, bc, cells, marks);
        for (int tile = scan_tiles(a, chunk, TILE) - 1; tile >= 0; tile--) {
            int64_t t0 = chunk * a.Q + tile * TILE, m = at.b * a.T + t0;
            int n = scan_tokens(a, chunk, tile, TILE);
            __syncthreads();
            scan_stage<T, V, TILE>(a, at, m, n, true, cells);
            scan_stage_bc<T, V, TILE>(a, at, m, n, bc);
            unsigned resets = scan_resets(a, at.b, t0, n);
            __syncthreads();
            for (int k = 0; k < PER; k++)
                z.da[k] = 0;
            z.dbias = z.dD = 0;
            for (int i = (n - 1) / MARK; i >= 0; i--) {
                float S[PER];
                scan_load<PER>(S,
                               marks + ((tile * (TILE / MARK) + i) * SCAN_THREADS + (int)threadIdx.x) * PER);
                float *sums = part + threadIdx.x / 32 * TILE * 2 * at.width;
                if (resets >> (i * MARK) & 0xff)
                    bwd_tokens<PER, LANES, true>(at, i * MARK, resets, D, S, bc, cells, sums, z);
                else
                    bwd_tokens<PER, LANES, false>(at, i * MARK, resets, D, S, bc, cells, sums, z);
            }
            for (int k = 0; k < PER; k++)
                total[k * SCAN_THREADS] += z.da[k];
            total[PER * SCAN_THREADS] += z.dbias;
            total[(PER + 1) * SCAN_THREADS] += z.dD;
            __syncthreads();
            store_tile<T, V, TILE>(a, at, m, n, cells, part, work + p.parts);
        }
    }
    if (!at.inside)
        return;
    for (int k = 0; k < PER; k++)
        work[p.da + at.cell(a) * at.width + at.n0 + k] = total[k * SCAN_THREADS];
    if (at.sub == 0) {
        work[p.dbias + at.cell(a)] = total[PER * SCAN_THREADS];
        work[p.dD + at.cell(a)] = total[(PER + 1) * SCAN_THREADS];
    }
    if (a.dh0.data && at.first == 0)
        scan_write<PER>(z.dS, scan_state_row(a, a.dh0, at.b, at.c), at.n0, a.N);
}

/* dB and dC from the blocks' sums: a thread has four numbers of a row. */
template <class T> __global__ void scan_bwd_sum(const struct scan a, const struct bwd_plan p)
{
    int64_t i = 4 * (blockIdx.x * (int64_t)blockDim.x + threadIdx.x), size = a.B * a.T * 2 * p.scan.width;
    if (i >= size)
        return;
    const float *from = (const float *)a.work + p.parts + i;
    float sum[4] = {};
#pragma unroll 8
    for (int64_t k = 0; k < p.scan.blocks; k++) {
        float4 v = *(const float4 *)(from + k * size);
        sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
    }
    int64_t m = i / (2 * p.scan.width);
    int n = (int)(i % (2 * p.scan.width));
    const struct tensor &to = n < p.scan.width ? a.dBm : a.dCm;
    n %= p.scan.width;
    for (int k = 0; k < 4 && n + k < a.N; k++)
        ((T *)to.data)[m * to.ld + n + k] = from_float<T>(sum[k]);
}

/* The parameters' gradients: a thread has one number of one channel. dA_log = a da. */
static __global__ void scan_bwd_params(const struct scan a, const struct bwd_plan p)
{
    int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    if (i >= a.C * p.scan.width)
        return;
    int64_t c = i / p.scan.width, n = i % p.scan.width;
    const float *work = (const float *)a.work;
    float da = 0, dbias = 0, dD = 0;
    for (int64_t k = 0; k < p.scan.segments * a.B; k++) {
        int64_t cell = k * a.C + c;
        da += work[p.da + cell * p.scan.width + n];
        dbias += work[p.dbias + cell];
        dD += work[p.dD + cell];
    }
    if (n < a.N)
        ((float *)a.dA_log.data)[c * a.dA_log.ld + n] -=
            da * expf(((const float *)a.A_log.data)[c * a.A_log.ld + n]);
    if (n == 0) {
        ((float *)a.ddt_bias.data)[c] += dbias;
        ((float *)a.dD.data)[c] += dD;
    }
}

template <class T, int V, int PER, int LANES, int TILE>
static void launch(const struct scan *a, const struct bwd_plan *p)
{
    const struct scan_plan *s = &p->scan;
    unsigned grid = (unsigned)(s->blocks * a->B * s->segments);
    size_t staged = TILE * (2 * s->width * sizeof(float) + SCAN_ROW(s->channels) * sizeof(scan_bwd_cell));
    size_t sums = (WARPS * TILE * 2 * s->width + (PER + 2) * SCAN_THREADS) * sizeof(float);
    if (s->segments > 1) {
        LAUNCH((scan_bwd_segments<T, V, PER, LANES, TILE>), grid, SCAN_THREADS, staged, *a, *s);
        scan_launch_carry(a, s, &a->dhT, true);
    }
    LAUNCH((scan_bwd_kernel<T, V, PER, LANES, TILE>), grid, SCAN_THREADS, staged + sums, *a, *p);
    LAUNCH((scan_bwd_sum<T>), (unsigned)ceil_div(a->B * a->T * 2 * s->width / 4, 256), 256, 0, *a, *p);
    LAUNCH(scan_bwd_params, (unsigned)ceil_div(a->C * s->width, 128), 128, 0, *a, *p);
}

void cuda_scan_bwd(const struct scan *a)
{
    scan_check(a, "scan_bwd");
    CUDA_NEED("scan_bwd", a, dy);
    CUDA_NEED("scan_bwd", a, dx);
    CUDA_NEED("scan_bwd", a, ddt_raw);
    CUDA_NEED("scan_bwd", a, dBm);
    CUDA_NEED("scan_bwd", a, dCm);
    CUDA_NEED("scan_bwd", a, ddt_bias);
    CUDA_NEED("scan_bwd", a, dA_log);
    CUDA_NEED("scan_bwd", a, dD);
    if (!a->states)
        cuda_fault("scan_bwd", "states", "is absent");
    if (a->B < 1 || a->T < 1)
        return;
    struct bwd_plan p = make_plan(a);
    bool fast = scan_is_fast(a) && aligned_rows(&a->dy, 16) && aligned_rows(&a->dx, 16) &&
                aligned_rows(&a->ddt_raw, 16);
    SCAN_WITH_KERNEL(a, fast, p.scan, launch<T, V, PER, LANES, TILE>(a, &p));
}
