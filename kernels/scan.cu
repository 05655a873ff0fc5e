/* scan.cu - selective scan on the GPU: forward, and one step
 * SPDX-License-Identifier: MIT
 *
 * The layout stands at the top of scan.cuh. A token costs an exponential, a product and two multiply-adds for
 * each number of the state; the exponentials (16 a clock and multiprocessor) are the limit. Memory: x,
 * dt_raw, y once.
 */
#include "scan.cuh"

/* The sums over n of four tokens, over the four lanes of a channel: the lane gets that of token `sub`. */
__device__ __forceinline__ float sum_four(const float y[4], int sub)
{
    bool odd = sub & 1, high = sub & 2;
    float low2 = odd ? y[1] : y[0], top2 = odd ? y[3] : y[2];
    low2 += __shfl_xor_sync(0xffffffffu, odd ? y[0] : y[1], 1);
    top2 += __shfl_xor_sync(0xffffffffu, odd ? y[2] : y[3], 1);
    return (high ? top2 : low2) + __shfl_xor_sync(0xffffffffu, high ? low2 : top2, 2);
}

/* The same, whatever the number of lanes; the first puts them to cells that are `row` apart. */
__device__ __forceinline__ void sum_lanes(const float y[4], int lanes, int sub, scan_fwd_cell *to, int row)
{
    for (int i = 0; i < 4; i++) {
        float sum = y[i];
        for (int k = 1; k < lanes; k <<= 1)
            sum += __shfl_xor_sync(0xffffffffu, sum, k);
        if (sub == 0)
            to[i * row].dt = sum;
    }
}

/* y of tokens m .. m+n-1 */
template <class T, int V, int TILE, class P>
__device__ __forceinline__ void store_y(const struct scan &a, const P &at, int64_t m, int n,
                                        const scan_fwd_cell *cells)
{
#pragma unroll
    for (int i = 0; i < (scan_share<V, TILE, P>::rounds(at)); i++) {
        const scan_share<V, TILE, P> s(at, i);
        int64_t c = at.c0 + s.k;
        if (s.t >= n || c >= a.C)
            continue;
        pack<float, V> D = load_pack<float, V>((const float *)a.D.data + c);
        pack<T, V> y;
        for (int j = 0; j < V; j++) {
            scan_fwd_cell from = cells[s.t * SCAN_ROW(at.channels) + s.k + j];
            y.v[j] = from_float<T>(from.dt + D.v[j] * from.x);
        }
        store_pack((T *)a.y.data + (m + s.t) * a.y.ld + c, y);
    }
}

/* Four tokens: the state goes on, y = S C. row, width: from a token to the next in the cells, in B and in
 * C. begins: bit i, the token begins its document; RESETS: some bit is set. */
template <int PER, bool RESETS>
__device__ __forceinline__ void four_tokens(const scan_fwd_cell *cell, int row, const float *bc, int width,
                                            unsigned begins, const float A2[PER], float S[PER], float *sum_dt,
                                            float y[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        scan_fwd_cell in = cell[i * row];
        float u = in.dt * in.x, B[PER], C[PER];
        scan_load<PER>(B, bc + i * 2 * width);
        scan_load<PER>(C, bc + i * 2 * width + width);
        y[i] = 0;
        *sum_dt += in.dt;
        for (int k = 0; k < PER; k++) {
            float before = RESETS && (begins >> i & 1) ? 0.0f : S[k];
            S[k] = fast_exp2(in.dt * A2[k]) * before + u * B[k];
            y[i] += S[k] * C[k];
        }
    }
}

/* SUMMARY: a segment by itself, from a state of zero; no y. */
template <class T, int V, int PER, int LANES, int TILE, bool SUMMARY>
__global__ void __launch_bounds__(SCAN_THREADS) scan_fwd_kernel(const struct scan a, const struct scan_plan p)
{
    using place = scan_place<PER, LANES>;
    const place at(a, p);
    const int row = SCAN_ROW(at.channels);
    DYNAMIC_SHARED(float, bc);
    scan_fwd_cell *cells = (scan_fwd_cell *)(bc + TILE * 2 * at.width), *mine = cells + at.channel;
    float S[PER], A2[PER], sum_dt = 0;
    bool forgets = false;

    for (int k = 0; k < PER; k++)
        A2[k] = scan_decay_rate(a, at, k);
    float *work = (float *)a.work;
    if (SUMMARY || !at.inside)
        scan_read<PER>(S, nullptr, 0, 0);
    else if (p.segments > 1)
        scan_read<PER>(S, work + p.add + at.cell(a) * p.width, at.n0, a.N);
    else
        scan_read<PER>(S, scan_state_row(a, a.h0, at.b, at.c), at.n0, a.N);
    for (int64_t chunk = at.first; chunk < at.last; chunk++) {
        if (!SUMMARY && a.states && at.inside)
            scan_write<PER>(S, scan_saved(a, p, at.b, chunk, at.c), at.n0, a.N);
        for (int tile = 0; tile < scan_tiles(a, chunk, TILE); tile++) {
            int64_t t0 = chunk * a.Q + tile * TILE, m = at.b * a.T + t0;
            int n = scan_tokens(a, chunk, tile, TILE);
            scan_stage<T, V, TILE>(a, at, m, n, false, cells);
            scan_stage_bc<T, V, TILE>(a, at, m, n, bc);
            unsigned resets = scan_resets(a, at.b, t0, n);
            forgets |= resets != 0;
            __syncthreads();
            for (int t4 = 0; t4 < n; t4 += 4) {
                float y[4];
                const float *from = bc + t4 * 2 * at.width + at.n0;
                unsigned begins = resets >> t4 & 15;
                if (begins)
                    four_tokens<PER, true>(mine + t4 * row, row, from, at.width, begins, A2, S, &sum_dt, y);
                else
                    four_tokens<PER, false>(mine + t4 * row, row, from, at.width, 0, A2, S, &sum_dt, y);
                if (SUMMARY)
                    continue;
                __syncwarp(); /* all lanes of the channel have read the cells */
                if constexpr (LANES == 4)
                    mine[(t4 + at.sub) * row].dt = sum_four(y, at.sub);
                else
                    sum_lanes(y, at.lanes, at.sub, mine + t4 * row, row);
            }
            __syncthreads();
            if (!SUMMARY)
                store_y<T, V, TILE>(a, at, m, n, cells);
        }
    }
    if (!at.inside)
        return;
    if (SUMMARY) {
        scan_write<PER>(S, work + p.add + at.cell(a) * p.width, at.n0, a.N);
        if (at.sub == 0)
            work[p.sum + at.cell(a)] = forgets ? (float)SCAN_FORGETS : sum_dt;
    } else if (a.hT.data && at.last == p.chunks) {
        scan_write<PER>(S, scan_state_row(a, a.hT, at.b, at.c), at.n0, a.N);
    }
}

static struct scan_plan make_plan(const struct scan *a)
{
    return scan_make_plan(a, 4 * cuda_processors(), cuda_processors());
}

template <class T, int V, int PER, int LANES, int TILE>
static void launch(const struct scan *a, const struct scan_plan *p)
{
    unsigned grid = (unsigned)(p->blocks * a->B * p->segments);
    size_t smem = TILE * (2 * p->width * sizeof(float) + SCAN_ROW(p->channels) * sizeof(scan_fwd_cell));
    if (p->segments > 1) {
        LAUNCH((scan_fwd_kernel<T, V, PER, LANES, TILE, true>), grid, SCAN_THREADS, smem, *a, *p);
        scan_launch_carry(a, p, &a->h0, false);
    }
    LAUNCH((scan_fwd_kernel<T, V, PER, LANES, TILE, false>), grid, SCAN_THREADS, smem, *a, *p);
}

void cuda_scan_fwd(const struct scan *a)
{
    scan_check(a, "scan_fwd");
    CUDA_NEED("scan_fwd", a, y);
    if (a->B < 1 || a->T < 1)
        return;
    struct scan_plan p = make_plan(a);
    bool fast = scan_is_fast(a) && aligned_rows(&a->y, 16);
    SCAN_WITH_KERNEL(a, fast, p, launch<T, V, PER, LANES, TILE>(a, &p));
}

/* One token. A thread has four numbers of a channel at a time; `lanes` neighbours make up the channel. */
template <class T> __global__ void scan_step_kernel(const struct scan a, int lanes)
{
    int64_t i = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / lanes;
    int sub = (int)threadIdx.x % lanes;
    bool inside = i < a.B * a.C;
    int64_t b = inside ? i / a.C : 0, c = inside ? i % a.C : 0;
    const T *B = (const T *)a.Bm.data + b * a.Bm.ld, *C = (const T *)a.Cm.data + b * a.Cm.ld;
    const float *A = (const float *)a.A_log.data + c * a.A_log.ld;
    float *S = scan_state_row(a, a.h0, b, c), slope, sum = 0;
    float x = to_float(((const T *)a.x.data)[b * a.x.ld + c]);
    float raw = to_float(((const T *)a.dt_raw.data)[b * a.dt_raw.ld + c]);
    float dt = scan_softplus(raw + ((const float *)a.dt_bias.data)[c], &slope);

    for (int n0 = 4 * sub; inside && n0 < a.N; n0 += 4 * lanes) {
        float s[4];
        scan_read<4>(s, S, n0, a.N);
        for (int k = 0; k < 4 && n0 + k < a.N; k++) {
            s[k] = fast_exp2(dt * -1.44269504f * expf(A[n0 + k])) * s[k] + dt * x * to_float(B[n0 + k]);
            sum += s[k] * to_float(C[n0 + k]);
        }
        scan_write<4>(s, S, n0, a.N);
    }
    for (int k = 1; k < lanes; k <<= 1)
        sum += __shfl_xor_sync(0xffffffffu, sum, k);
    if (inside && sub == 0)
        ((T *)a.y.data)[b * a.y.ld + c] = from_float<T>(sum + ((const float *)a.D.data)[c] * x);
}

void cuda_scan_step(const struct scan *a)
{
    scan_check(a, "scan_step");
    CUDA_NEED("scan_step", a, y);
    CUDA_NEED("scan_step", a, h0);
    if (a->B < 1)
        return;
    int lanes = 1;
    while (lanes < 32 && lanes * 4 < a->N)
        lanes *= 2;
    unsigned grid = (unsigned)ceil_div(a->B * a->C * lanes, 128);
    WITH_TYPE(a->x.dtype, T, LAUNCH((scan_step_kernel<T>), grid, 128, 0, *a, lanes));
}
