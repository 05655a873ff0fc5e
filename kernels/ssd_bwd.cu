/* ssd_bwd.cu - state-space duality: backward on the device
 * SPDX-License-Identifier: MIT
 *
 * ssd_bwd.cuh says what is done, and in which order; here is what its two versions share.
 */
#include "ssd_bwd_mma.cuh"
#include "ssd_bwd_plain.cuh"
#include "ssd_bwd_walk.cuh"

#define SPAN_BYTES ((size_t)1 << 30) /* of `work`, as long as a chunk needs no more */
enum { SLICE_HEADS = 16, SLICE_LEAST = 4, BLOCK_HEADS = 32 };

/* ---- prepare, finish: a block per tile and 32 heads, a warp per head, two tokens a lane ---- */

/* grid: [B,tiles], H / 32 */
template <class T> __global__ void __launch_bounds__(256) ssd_bwd_prepare(const struct ssd_bwd c)
{
    __shared__ float raw[SSD_TILE][BLOCK_HEADS + 1];
    const struct ssd &a = c.a;
    int64_t b = blockIdx.x / c.tiles, k = blockIdx.x % c.tiles, h0 = (int64_t)blockIdx.y * BLOCK_HEADS;
    struct ssd_tile u = ssd_find_tile(a, c.p, c.first + k);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    /* an empty tile leaves the state as it is */
    int last = u.n > 0 ? ssd_begin(a, b, u.t0 + u.n - 1, u.t0) : -1;
    float lo = (float)a.dt_min, hi = (float)a.dt_max;

    for (int t = warp; t < SSD_TILE; t += 8)
        raw[t][lane] =
            t < u.n && h0 + lane < a.H
                ? to_float(((const T *)a.dt_raw.data)[(b * a.T + u.t0 + t) * a.dt_raw.ld + h0 + lane])
                : 0.0f;
    __syncthreads();
    for (int i = warp; i < BLOCK_HEADS && h0 + i < a.H; i += 8) {
        int64_t h = h0 + i;
        float A = -expf(((const float *)a.A_log.data)[h]), bias = ((const float *)a.dt_bias.data)[h];
        float z[RECORD][2], upper, lower;
        double step[2], sum, cum[2];

        for (int e = 0; e < 2; e++) {
            int t = 2 * lane + e;
            float v = raw[t][i] + bias, soft = softplus(v), dt = t < u.n ? ssd_clamp(soft, lo, hi) : 0.0f;
            float da = dt * A;
            z[DT][e] = dt;
            z[SLOPE][e] = t >= u.n || soft < lo || soft > hi ? 0.0f : sigmoid(v);
            step[e] = (double)(da < SSD_GONE ? SSD_GONE : da);
        }
        sum = step[0] + step[1];
        for (int d = 1; d < 32; d *= 2) {
            double before = __shfl_up_sync(0xffffffffu, sum, (unsigned)d);
            sum += lane >= d ? before : 0.0;
        }
        cum[0] = __shfl_up_sync(0xffffffffu, sum, 1u);
        cum[0] = (lane > 0 ? cum[0] : 0.0) + step[0];
        cum[1] = cum[0] + step[1];
        for (int e = 0; e < 2; e++) {
            z[CUM][e] = (float)cum[e];
            z[LOW][e] = (float)(cum[e] - (double)z[CUM][e]);
        }
        upper = __shfl_sync(0xffffffffu, z[CUM][1], 31);
        lower = __shfl_sync(0xffffffffu, z[LOW][1], 31);
        for (int e = 0; e < 2; e++) {
            int t = 2 * lane + e, begin = t < u.n ? ssd_begin(a, b, u.t0 + t, u.t0) : last;
            z[IN][e] = begin < 0 ? expf(z[CUM][e]) : 0.0f;
            z[TAIL][e] = t < u.n && t >= last ? expf((upper - z[CUM][e]) + (lower - z[LOW][e])) : 0.0f;
        }
        for (int j = 0; j < RECORD; j++)
            *(float2 *)(ssd_record(c, b, k, h) + j * SSD_TILE + 2 * lane) = make_float2(z[j][0], z[j][1]);
    }
}

/* From what the tiles' kernel left. grid: [B,tiles], H / 32 */
template <class T> __global__ void __launch_bounds__(256) ssd_bwd_finish(const struct ssd_bwd c)
{
    __shared__ float out[SSD_TILE][BLOCK_HEADS + 1];
    const struct ssd &a = c.a;
    int64_t b = blockIdx.x / c.tiles, k = blockIdx.x % c.tiles, h0 = (int64_t)blockIdx.y * BLOCK_HEADS;
    struct ssd_tile u = ssd_find_tile(a, c.p, c.first + k);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    for (int i = warp; i < BLOCK_HEADS && h0 + i < a.H; i += 8) {
        int64_t h = h0 + i;
        float A = -expf(((const float *)a.A_log.data)[h]), ddta[2], sum[3] = {};
        float2 z[RECORD];

        for (int j = 0; j < RECORD && u.n > 0; j++)
            z[j] = *(const float2 *)(ssd_record(c, b, k, h) + j * SSD_TILE + 2 * lane);
        if (u.n > 0) {
            ddta[0] = z[DECAY].x;
            ddta[1] = z[DECAY].y;
            if (c.mma) {
                float after = ddta[0] + ddta[1], before = z[PAST].x + z[PAST].y, v;
                for (int d = 1; d < 32; d *= 2) {
                    v = __shfl_down_sync(0xffffffffu, after, (unsigned)d);
                    after += lane + d < 32 ? v : 0.0f;
                    v = __shfl_up_sync(0xffffffffu, before, (unsigned)d);
                    before += lane >= d ? v : 0.0f;
                }
                v = __shfl_down_sync(0xffffffffu, after, 1u);
                ddta[1] += lane < 31 ? v : 0.0f;
                v = __shfl_up_sync(0xffffffffu, before, 1u);
                before = lane > 0 ? v : 0.0f;
                ddta[0] = after + before;
                ddta[1] += before + z[PAST].x;
            }
            float d0 = z[SLOPE].x == 0.0f ? 0.0f : (z[DIRECT].x + A * ddta[0]) * z[SLOPE].x;
            float d1 = z[SLOPE].y == 0.0f ? 0.0f : (z[DIRECT].y + A * ddta[1]) * z[SLOPE].y;
            out[2 * lane][i] = d0;
            out[2 * lane + 1][i] = d1;
            sum[0] = warp_sum((ddta[0] * z[DT].x + ddta[1] * z[DT].y) * A);
            sum[1] = warp_sum(d0 + d1);
            sum[2] = warp_sum(z[SKIP].x + z[SKIP].y);
        }
        for (int j = 0; j < 3 && lane == 0; j++)
            c.sums[((b * c.tiles + k) * a.H + h) * 3 + j] = sum[j];
    }
    __syncthreads();
    for (int t = warp; t < u.n; t += 8)
        if (h0 + lane < a.H)
            ((T *)a.ddt_raw.data)[(b * a.T + u.t0 + t) * a.ddt_raw.ld + h0 + lane] =
                from_float<T>(out[t][lane]);
}

/* ---- reduce ---- */

/* dA_log, ddt_bias, dD of a head. grid: H */
__global__ void __launch_bounds__(256) ssd_bwd_parameters(const struct ssd_bwd c)
{
    __shared__ float room[33];
    int64_t h = blockIdx.x, slots = c.a.B * c.tiles;
    float *to[3] = { (float *)c.a.dA_log.data, (float *)c.a.ddt_bias.data, (float *)c.a.dD.data };

    for (int j = 0; j < 3; j++) {
        float v = 0;
        for (int64_t i = threadIdx.x; i < slots; i += 256)
            v += c.sums[(i * c.a.H + h) * 3 + j];
        v = block_sum(v, room);
        if (threadIdx.x == 0)
            to[j][h] += v;
    }
}

/* V elements a thread of dB or dC over the slices. grid: [B,tiles], then pieces of its rows */
template <class T, int V>
__global__ void __launch_bounds__(256)
    ssd_bwd_group(const struct ssd_bwd c, const float *part, struct tensor to)
{
    int64_t width = c.a.G * c.a.N, stride = c.a.B * c.tiles * SSD_TILE * width;
    int64_t b = blockIdx.x / c.tiles, k = blockIdx.x % c.tiles;
    struct ssd_tile u = ssd_find_tile(c.a, c.p, c.first + k);
    int64_t at = ((int64_t)blockIdx.y * 256 + threadIdx.x) * V, row = at / width;

    if (row >= u.n)
        return;
    part += blockIdx.x * SSD_TILE * width + at;
    pack<float, V> sum = load_pack<float, V>(part);
    for (int64_t s = 1; s < c.slices; s++) {
        pack<float, V> v = load_pack<float, V>(part + s * stride);
        for (int i = 0; i < V; i++)
            sum.v[i] += v.v[i];
    }
    pack<T, V> out;
    for (int i = 0; i < V; i++)
        out.v[i] = from_float<T>(sum.v[i]);
    store_pack<T, V>((T *)to.data + (b * c.a.T + u.t0 + row) * to.ld + at % width, out);
}

/* ---- plan ---- */

static bool takes_mma(const struct ssd *a)
{
    bool state = (a->N == 64 && (a->P == 32 || a->P == 64)) || (a->N == 256 && a->P == 64) ||
                 (a->N == 128 && (a->P == 32 || a->P == 64 || a->P == 80 || a->P == 128));
    return a->x.dtype == BF16 && state;
}

static bool is_aligned(const struct ssd *a)
{
    return aligned_rows(&a->x, 16) && aligned_rows(&a->dy, 16) && aligned_rows(&a->Bm, 16) &&
           aligned_rows(&a->Cm, 16) && aligned_rows(&a->dx, 8) && aligned_rows(&a->dBm, 8) &&
           aligned_rows(&a->dCm, 8);
}

/* Lays the parts of a span of so many chunks out in work; returns their bytes. */
static size_t plan_span(struct ssd_bwd *c, bool mma, int64_t span)
{
    const struct ssd *a = &c->a;
    int64_t tiles = span * c->p.per, slots = a->B * tiles, state = a->H * a->P * a->N, part;
    int64_t fill = ceil_div(2 * cuda_processors(), slots * a->G);
    size_t at = 0, element = mma ? 2 : 4;
    auto take = [&](size_t bytes) {
        void *p = (void *)((uintptr_t)a->work + at);
        at += (bytes + 255) / 256 * 256;
        return p;
    };

    c->mma = mma;
    c->span = span;
    c->slices = ceil_div(c->p.rep, SLICE_HEADS);
    fill = fill < ceil_div(c->p.rep, SLICE_LEAST) ? fill : ceil_div(c->p.rep, SLICE_LEAST);
    c->slices = fill > c->slices ? fill : c->slices;
    c->heads = ceil_div(c->p.rep, c->slices);
    c->slices = ceil_div(c->p.rep, c->heads);
    part = c->slices * slots * SSD_TILE * a->G * a->N;
    c->record = (float *)take((size_t)(slots * a->H * RECORD * SSD_TILE) * 4);
    c->S = take((size_t)(slots * state) * element);
    c->dS = take((size_t)(slots * state) * element);
    c->carry = (float *)take((size_t)(a->B * state) * 4);
    c->dB = (float *)take((size_t)part * 4);
    c->dC = (float *)take((size_t)part * 4);
    c->sums = (float *)take((size_t)(slots * a->H * 3) * 4);
    return at;
}

/* The longest span, of equal ones, that fits into so many bytes; at least a chunk. */
static size_t plan_bytes(struct ssd_bwd *c, bool mma, size_t most)
{
    for (int64_t spans = 1;; spans += spans / 8 + 1) {
        int64_t span = ceil_div(c->p.chunks, spans);
        size_t bytes = plan_span(c, mma, span);

        if (bytes <= most || span == 1)
            return bytes;
    }
}

static struct ssd_bwd make_plan(const struct ssd *a)
{
    struct ssd_bwd c = {};

    c.a = *a;
    c.p = ssd_make_plan(a);
    return c;
}

/* Rows that are not aligned go the plain way, in shorter spans of the same work. */
size_t ssd_bwd_work(const struct ssd *a)
{
    struct ssd_bwd c = make_plan(a);
    size_t bytes, least;

    if (a->B < 1 || a->T < 1)
        return 0;
    if (!takes_mma(a))
        return plan_bytes(&c, false, SPAN_BYTES);
    bytes = plan_bytes(&c, true, SPAN_BYTES);
    least = plan_span(&c, false, 1);
    return bytes > least ? bytes : least;
}

/* ---- launchers ---- */

struct walks {
    struct tensor from, to; /* of dS */
};

template <int P, int N> static void launch_mma(const struct ssd_bwd &c, const struct walks &w)
{
    unsigned walks = (unsigned)(c.a.B * c.a.H * (1 + c.tiles / c.p.per));

    LAUNCH((ssd_bwd_walk<P, N>), walks, (walk_shape<P, N>::THREADS), (2 * walk_shape<P, N>::STAGE), c, w.from,
           w.to);
    LAUNCH((ssd_bwd_tiles<P, N>), (unsigned)(c.a.B * c.tiles * c.a.G * c.slices), 512,
           (tiles_shape<P, N>::BYTES), c);
}

static void launch_mma_shape(const struct ssd_bwd &c, const struct walks &w)
{
    int64_t P = c.a.P;

    if (c.a.N == 256)
        launch_mma<64, 256>(c, w);
    else if (c.a.N == 64)
        P == 32 ? launch_mma<32, 64>(c, w) : launch_mma<64, 64>(c, w);
    else if (P == 32)
        launch_mma<32, 128>(c, w);
    else if (P == 64)
        launch_mma<64, 128>(c, w);
    else if (P == 80)
        launch_mma<80, 128>(c, w);
    else
        launch_mma<128, 128>(c, w);
}

template <class T> static void launch_plain(const struct ssd_bwd &c, const struct walks &w)
{
    unsigned walkers = (unsigned)(c.a.B * c.a.H * ceil_div(c.a.P * c.a.N, 256));
    struct tensor none = {};

    LAUNCH((ssd_bwd_walk_plain<T, false>), (unsigned)(walkers * (c.tiles / c.p.per)), 256, 0, c, c.p.per,
           c.a.states, none);
    LAUNCH((ssd_bwd_walk_plain<T, true>), walkers, 256, 0, c, c.tiles, w.from, w.to);
    LAUNCH((ssd_bwd_tiles_plain<T>), (unsigned)(c.a.B * c.tiles * c.a.G * c.slices), 256,
           ssd_plain_shared(&c.a), c);
}

template <class T>
static void launch_group(const struct ssd_bwd &c, const float *part, const struct tensor &to)
{
    int64_t width = c.a.G * c.a.N;
    unsigned slots = (unsigned)(c.a.B * c.tiles);

    if (width % 4 == 0 && aligned_rows(&to, 4 * sizeof(T)))
        LAUNCH((ssd_bwd_group<T, 4>), dim3(slots, (unsigned)ceil_div(SSD_TILE * width, 1024)), 256, 0, c,
               part, to);
    else
        LAUNCH((ssd_bwd_group<T, 1>), dim3(slots, (unsigned)ceil_div(SSD_TILE * width, 256)), 256, 0, c, part,
               to);
}

template <class T> static void launch_span(const struct ssd_bwd &c, const struct walks &w)
{
    dim3 grid((unsigned)(c.a.B * c.tiles), (unsigned)ceil_div(c.a.H, BLOCK_HEADS));

    LAUNCH((ssd_bwd_prepare<T>), grid, 256, 0, c);
    if (c.mma)
        launch_mma_shape(c, w);
    else
        launch_plain<T>(c, w);
    LAUNCH((ssd_bwd_finish<T>), grid, 256, 0, c);
    LAUNCH(ssd_bwd_parameters, (unsigned)c.a.H, 256, 0, c);
    if (c.mma && c.slices == 1)
        return;
    launch_group<T>(c, c.dB, c.a.dBm);
    launch_group<T>(c, c.dC, c.a.dCm);
}

static void check_bwd(const struct ssd *a)
{
    CUDA_NEED("ssd_bwd", a, x);
    CUDA_NEED("ssd_bwd", a, dt_raw);
    CUDA_NEED("ssd_bwd", a, Bm);
    CUDA_NEED("ssd_bwd", a, Cm);
    CUDA_NEED("ssd_bwd", a, dt_bias);
    CUDA_NEED("ssd_bwd", a, A_log);
    CUDA_NEED("ssd_bwd", a, D);
    CUDA_NEED("ssd_bwd", a, states);
    CUDA_NEED("ssd_bwd", a, dy);
    CUDA_NEED("ssd_bwd", a, dx);
    CUDA_NEED("ssd_bwd", a, ddt_raw);
    CUDA_NEED("ssd_bwd", a, dBm);
    CUDA_NEED("ssd_bwd", a, dCm);
    CUDA_NEED("ssd_bwd", a, ddt_bias);
    CUDA_NEED("ssd_bwd", a, dA_log);
    CUDA_NEED("ssd_bwd", a, dD);
    if (a->G < 1 || a->H % a->G)
        cuda_fault("ssd_bwd", "G", "does not divide H");
    if (!takes_mma(a) && ssd_plain_shared(a) > 226 * 1024)
        cuda_fault("ssd_bwd", "P", "is too large");
}

void cuda_ssd_bwd(const struct ssd *a)
{
    struct ssd_bwd c = make_plan(a);
    struct walks w = {};

    check_bwd(a);
    if (a->B < 1 || a->T < 1)
        return;
    if (takes_mma(a) && is_aligned(a))
        plan_bytes(&c, true, SPAN_BYTES);
    else
        plan_bytes(&c, false, ssd_bwd_work(a));
    w.to = { c.carry, a->N, F32 };
    for (int64_t chunk = (c.p.chunks - 1) / c.span * c.span; chunk >= 0; chunk -= c.span) {
        int64_t chunks = c.p.chunks - chunk < c.span ? c.p.chunks - chunk : c.span;

        c.first = chunk * c.p.per;
        c.tiles = chunks * c.p.per;
        w.from = chunk + c.span >= c.p.chunks ? a->dhT : w.to;
        if (chunk == 0)
            w.to = a->dh0;
        WITH_TYPE(a->x.dtype, T, launch_span<T>(c, w));
    }
}
