/* ssd.cu - state-space duality: forward, and one step
 * SPDX-License-Identifier: MIT
 *
 * Forward is a chain of kernels (the formulas stand in ssd_tile.h, dt and cum come from ssd_prepare.cu):
 *   local    every chunk on its own: the state that it leaves when none enters, to its place in `states`
 *   passing  along the chunks: there the state that enters takes its place, S = chunk's decay S + local
 *   scan     every chunk on its own: y, from the state that enters
 * So all chunks of all heads are worked on at once, for 4 accesses to each state of a chunk. Local and scan
 * exist twice: ssd_mma.cu has products of matrices on tensor cores for BF16; here is the recurrence itself in
 * float, for F32, and for shapes that the other does not take. A warp has ROWS rows of the state, its lanes
 * the columns.
 */
#include "ssd.cuh"

#define AHEAD 8 /* states that passing reads at once */

/* ---- the recurrence ---- */

/* Sums of ROWS values over the warp; lane l gets the sum of value l / (32 / ROWS). */
template <int ROWS> __device__ __forceinline__ float warp_sums(float *v)
{
    int lane = threadIdx.x % 32, off = 16;

#pragma unroll
    for (int half = ROWS / 2; half > 0; half /= 2, off /= 2)
#pragma unroll
        for (int j = 0; j < half; j++) {
            float give = lane & off ? v[j] : v[j + half], keep = lane & off ? v[j + half] : v[j];
            v[j] = keep + __shfl_xor_sync(0xffffffffu, give, off);
        }
    for (; off > 0; off /= 2)
        v[0] += __shfl_xor_sync(0xffffffffu, v[0], off);
    return v[0];
}

/* ROWS rows of the state of a head over a chunk: COLS columns a lane, TOKENS tokens read at once. */
template <class T, bool SCAN, int COLS, int ROWS, int TOKENS>
__global__ void __launch_bounds__(128)
    ssd_recurrence_kernel(struct ssd a, struct ssd_plan p, struct tensor states)
{
    int lane = threadIdx.x % 32, mine = lane / (32 / ROWS);
    int64_t job = (int64_t)blockIdx.x * 4 + threadIdx.x / 32, groups = (a.P + ROWS - 1) / ROWS;
    int64_t row0 = job % groups * ROWS, h = job / groups % a.H, c = job / groups / a.H % p.chunks;
    int64_t b = job / groups / a.H / p.chunks, g = h / p.rep, t0 = c * a.Q,
            end = t0 + a.Q < a.T ? t0 + a.Q : a.T;
    int64_t place = ((b * p.chunks + c) * a.H + h) * a.P + row0;
    const float *dts = p.dt + ((b * a.H + h) * p.tiles + c * p.per) * SSD_TILE;
    float A = -expf(((const float *)a.A_log.data)[h]), D = ((const float *)a.D.data)[h], S[ROWS][COLS];
    bool own = row0 + mine < a.P;

    if (b >= a.B)
        return;
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int j = 0; j < COLS; j++)
            S[r][j] = SCAN && row0 + r < a.P && lane + 32 * j < a.N
                          ? ssd_load_state(states, place + r, lane + 32 * j)
                          : 0.0f;
    for (int64_t t = t0; t < end; t += TOKENS) {
        float x[TOKENS], dt[TOKENS], Bv[TOKENS][COLS], Cv[TOKENS][COLS];
        bool begins[TOKENS];

#pragma unroll
        for (int u = 0; u < TOKENS; u++) {
            int64_t m = b * a.T + t + u;
            bool in = t + u < end;

            x[u] = in && own ? to_float(((const T *)a.x.data)[m * a.x.ld + h * a.P + row0 + mine]) : 0.0f;
            dt[u] = in ? dts[t + u - t0] : 0.0f;
            begins[u] = in && a.start && a.start[m] == t + u;
#pragma unroll
            for (int j = 0; j < COLS; j++) {
                bool col = in && lane + 32 * j < a.N;
                int64_t n = g * a.N + lane + 32 * j;

                Bv[u][j] = col ? to_float(((const T *)a.Bm.data)[m * a.Bm.ld + n]) : 0.0f;
                Cv[u][j] = SCAN && col ? to_float(((const T *)a.Cm.data)[m * a.Cm.ld + n]) : 0.0f;
            }
        }
#pragma unroll
        for (int u = 0; u < TOKENS; u++) {
            float keep = expf(dt[u] * A), in = dt[u] * x[u], y[ROWS];

#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                float xr = __shfl_sync(0xffffffffu, in, r * (32 / ROWS));

                y[r] = 0.0f;
#pragma unroll
                for (int j = 0; j < COLS; j++) {
                    S[r][j] = (begins[u] ? 0.0f : keep * S[r][j]) + xr * Bv[u][j];
                    y[r] += S[r][j] * Cv[u][j];
                }
            }
            if (SCAN) {
                float sum = warp_sums<ROWS>(y);
                if (own && t + u < end && lane % (32 / ROWS) == 0)
                    ((T *)a.y.data)[(b * a.T + t + u) * a.y.ld + h * a.P + row0 + mine] =
                        from_float<T>(sum + D * x[u]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int j = 0; j < COLS; j++)
            if (!SCAN && row0 + r < a.P && lane + 32 * j < a.N)
                ssd_store_state(states, place + r, lane + 32 * j, S[r][j]);
}

template <class T, bool SCAN>
static void recurrence(const struct ssd *a, const struct ssd_plan *p, const struct tensor *states)
{
    int64_t heads = a->B * p->chunks * a->H;
    int rows = a->N <= 128 ? 8 : a->N <= 256 ? 4 : 1;
    unsigned blocks = (unsigned)ceil_div(heads * ceil_div(a->P, rows), 4);

    if (a->N <= 32)
        LAUNCH((ssd_recurrence_kernel<T, SCAN, 1, 8, 4>), blocks, 128, 0, *a, *p, *states);
    else if (a->N <= 128)
        LAUNCH((ssd_recurrence_kernel<T, SCAN, 4, 8, 4>), blocks, 128, 0, *a, *p, *states);
    else if (a->N <= 256)
        LAUNCH((ssd_recurrence_kernel<T, SCAN, 8, 4, 2>), blocks, 128, 0, *a, *p, *states);
    else
        LAUNCH((ssd_recurrence_kernel<T, SCAN, 32, 1, 1>), blocks, 128, 0, *a, *p, *states);
}

/* ---- passing ---- */

/* What a chunk leaves of the state that enters it; negative: nothing, a document begins inside. */
__device__ __forceinline__ float chunk_decay(const struct ssd &a, const struct ssd_plan &p, int64_t b,
                                             int64_t h, int64_t c)
{
    const float *cum = p.cum + ((b * a.H + h) * p.tiles + c * p.per) * SSD_TILE;
    int64_t last = (c + 1) * a.Q < a.T ? (c + 1) * a.Q - 1 : a.T - 1;
    float sum = 0.0f;

    if (ssd_begin(a, b, last, c * a.Q) >= 0)
        return -1.0f;
    for (int64_t k = 0; k < p.per; k++)
        sum += cum[k * SSD_TILE + SSD_TILE - 1];
    return exp2f(sum);
}

/* V elements of a head's state a thread, along the chunks. */
template <class S, int V>
__global__ void __launch_bounds__(256)
    ssd_passing_kernel(struct ssd a, struct ssd_plan p, struct tensor states)
{
    __shared__ float keep[256];
    int64_t parts = (a.P * a.N + 256 * V - 1) / (256 * V), bh = blockIdx.x / parts, b = bh / a.H,
            h = bh % a.H;
    int64_t e = (blockIdx.x % parts * 256 + threadIdx.x) * V, row = e / a.N, col = e % a.N;
    int64_t step = a.H * a.P * states.ld;
    S *at = (S *)states.data + ((b * p.chunks * a.H + h) * a.P + row) * states.ld + col;
    bool mine = e < a.P * a.N;
    float s[V];

    for (int i = 0; i < V; i++)
        s[i] = mine && a.h0.data ? ((const float *)a.h0.data)[(bh * a.P + row) * a.h0.ld + col + i] : 0.0f;
    for (int64_t c = 0; c < p.chunks; c += AHEAD, at += AHEAD * step) {
        pack<S, V> local[AHEAD];

        if (c % 256 == 0) {
            __syncthreads();
            if (c + threadIdx.x < p.chunks)
                keep[threadIdx.x] = chunk_decay(a, p, b, h, c + threadIdx.x);
            __syncthreads();
        }
        if (!mine)
            continue;
#pragma unroll
        for (int u = 0; u < AHEAD; u++)
            if (c + u < p.chunks)
                local[u] = load_pack<S, V>(at + u * step);
#pragma unroll
        for (int u = 0; u < AHEAD; u++) {
            pack<S, V> enters;
            float k = c + u < p.chunks ? keep[(c + u) % 256] : 0.0f;

            if (c + u >= p.chunks)
                break;
            for (int i = 0; i < V; i++) {
                enters.v[i] = from_float<S>(s[i]);
                s[i] = k < 0.0f ? to_float(local[u].v[i]) : k * s[i] + to_float(local[u].v[i]);
            }
            store_pack<S, V>(at + u * step, enters);
        }
    }
    for (int i = 0; i < V; i++)
        if (mine && a.hT.data)
            ((float *)a.hT.data)[(bh * a.P + row) * a.hT.ld + col + i] = s[i];
}

void ssd_passing(const struct ssd *a, const struct ssd_plan *p, const struct tensor *states)
{
    WITH_TYPE(states->dtype, S, {
        constexpr int V = 16 / sizeof(S);
        if (a->N % V == 0 && aligned_rows(states, 16))
            LAUNCH((ssd_passing_kernel<S, V>), (unsigned)(a->B * a->H * ceil_div(a->P * a->N, 256 * V)), 256,
                   0, *a, *p, *states);
        else
            LAUNCH((ssd_passing_kernel<S, 1>), (unsigned)(a->B * a->H * ceil_div(a->P * a->N, 256)), 256, 0,
                   *a, *p, *states);
    });
}

/* ---- one token ---- */

/* Four rows of a head's state at a time by LANES lanes, V columns each; read and written once. */
template <class T, int V, int LANES> __global__ void __launch_bounds__(128) ssd_step_kernel(struct ssd a)
{
    constexpr int ROWS = 4;
    int64_t parts = (a.P + 128 / LANES * ROWS - 1) / (128 / LANES * ROWS), bh = blockIdx.x / parts,
            b = bh / a.H;
    int64_t h = bh % a.H, row0 = (blockIdx.x % parts * (128 / LANES) + threadIdx.x / LANES) * ROWS;
    int64_t group = h / (a.H / a.G) * a.N;
    const T *Bv = (const T *)a.Bm.data + b * a.Bm.ld + group,
            *Cv = (const T *)a.Cm.data + b * a.Cm.ld + group;
    float raw =
        to_float(((const T *)a.dt_raw.data)[b * a.dt_raw.ld + h]) + ((const float *)a.dt_bias.data)[h];
    float dt = ssd_clamp(softplus(raw), (float)a.dt_min, (float)a.dt_max), D = ((const float *)a.D.data)[h];
    float keep = expf(-expf(((const float *)a.A_log.data)[h]) * dt), x[ROWS], sum[ROWS];
    int lane = threadIdx.x % LANES;

#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        x[r] = row0 + r < a.P ? to_float(((const T *)a.x.data)[b * a.x.ld + h * a.P + row0 + r]) : 0.0f;
        sum[r] = 0.0f;
    }
    for (int64_t n = lane * V; n < a.N; n += LANES * V) {
        pack<float, V> s[ROWS] = {};
        pack<T, V> bn = load_pack<T, V>(Bv + n), cn = load_pack<T, V>(Cv + n);
        float *at = (float *)a.h0.data + (bh * a.P + row0) * a.h0.ld + n;

#pragma unroll
        for (int r = 0; r < ROWS; r++)
            if (row0 + r < a.P)
                s[r] = load_pack<float, V>(at + r * a.h0.ld);
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            if (row0 + r < a.P) {
                for (int i = 0; i < V; i++) {
                    s[r].v[i] = keep * s[r].v[i] + dt * x[r] * to_float(bn.v[i]);
                    sum[r] += s[r].v[i] * to_float(cn.v[i]);
                }
                store_pack<float, V>(at + r * a.h0.ld, s[r]);
            }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        for (int k = LANES / 2; k > 0; k /= 2)
            sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], k);
        if (lane == 0 && row0 + r < a.P)
            ((T *)a.y.data)[b * a.y.ld + h * a.P + row0 + r] = from_float<T>(sum[r] + D * x[r]);
    }
}

template <class T, int V, int LANES> static void step(const struct ssd *a)
{
    LAUNCH((ssd_step_kernel<T, V, LANES>), (unsigned)(a->B * a->H * ceil_div(a->P, 128 / LANES * 4)), 128, 0,
           *a);
}

/* ---- the ops ---- */

static void ssd_check(const struct ssd *a, const char *op)
{
    CUDA_NEED(op, a, x);
    CUDA_NEED(op, a, dt_raw);
    CUDA_NEED(op, a, Bm);
    CUDA_NEED(op, a, Cm);
    CUDA_NEED(op, a, dt_bias);
    CUDA_NEED(op, a, A_log);
    CUDA_NEED(op, a, D);
    CUDA_NEED(op, a, y);
    if (a->G < 1 || a->H % a->G)
        cuda_fault(op, "G", "does not divide H");
    if (a->N > 1024)
        cuda_fault(op, "N", "is above 1024");
}

/* The states of the chunks: the caller's, or in `work`, of the activations' dtype. */
static struct tensor chunk_states(const struct ssd *a, const struct ssd_plan *p)
{
    struct tensor t = { (void *)((uintptr_t)a->work + p->bytes + ssd_mma_bytes(a, p)), a->N, a->x.dtype };

    return a->states.data ? a->states : t;
}

size_t cuda_ssd_work(const struct ssd *a)
{
    struct ssd_plan p = ssd_make_plan(a);
    size_t fwd = p.bytes + ssd_mma_bytes(a, &p), bwd = ssd_bwd_work(a);

    if (!a->states.data)
        fwd += (size_t)(a->B * p.chunks * a->H * a->P * a->N) * (a->x.dtype == F32 ? 4 : 2);
    return fwd > bwd ? fwd : bwd;
}

void cuda_ssd_fwd(const struct ssd *a)
{
    struct ssd_plan p;
    struct tensor states;

    ssd_check(a, "ssd_fwd");
    if (a->B < 1 || a->T < 1)
        return;
    p = ssd_make_plan(a);
    states = chunk_states(a, &p);
    ssd_prepare(a, &p);
    if (ssd_mma_takes(a, &states)) {
        ssd_mma_forward(a, &p, &states);
        return;
    }
    WITH_TYPE(a->x.dtype, T, recurrence<T, false>(a, &p, &states));
    ssd_passing(a, &p, &states);
    WITH_TYPE(a->x.dtype, T, recurrence<T, true>(a, &p, &states));
}

void cuda_ssd_step(const struct ssd *a)
{
    ssd_check(a, "ssd_step");
    CUDA_NEED("ssd_step", a, h0);
    if (a->B < 1)
        return;
    WITH_TYPE(a->x.dtype, T, {
        int bytes = 4 * sizeof(T);
        if (a->N % 4 || !aligned_rows(&a->h0, 16) || !aligned_rows(&a->Bm, bytes) ||
            !aligned_rows(&a->Cm, bytes))
            step<T, 1, 32>(a);
        else if (a->N <= 64)
            step<T, 4, 16>(a);
        else
            step<T, 4, 32>(a);
    });
}
