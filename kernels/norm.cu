/* norm.cu - RMSNorm and LayerNorm
 * SPDX-License-Identifier: MIT
 *
 * The formulas are norm.c's, with its second centering. A row belongs to the 32..512 threads that hold it in registers,
 * 16 elements each, while they sum over it; so forward reads x and writes y once, and backward reads x and dy (dx too
 * when it adds to it) and writes dx once. Blocks walk over the rows with w in registers, the next row's elements under
 * way while one is worked at; forward gives short rows a warp each instead. Backward sums dw and dbias of a block's rows
 * in registers and writes them to work at the end; cuda_add_parts adds them up. Rows that are longer than a block can
 * hold, or not aligned, are read again for each use, by the same code, and their dw is summed in work.
 */
#include "rows.cuh"

namespace {

enum { FWD_RESIDENT = 1024, BWD_RESIDENT = 512 };
enum { SHORT = 1024, SHORT_ROWS = 8 }; /* longest row of one warp; rows of a block */

/* w as it is multiplied by. */
template <int N> __device__ __forceinline__ void weights(const struct norm &a, float (&w)[N], int c)
{
    read_floats(w, (const float *)a.w.data + (int64_t)c * N);
    if (a.plus_one)
        for (int k = 0; k < N; k++)
            w[k] += 1.0f;
}

/* w of a thread's packs: held likewise. */
template <int N, int K> struct row_weights {
    float held[K ? K : 1][N];

    __device__ __forceinline__ void load(const struct norm &a, int packs)
    {
        for (int i = 0; i < K; i++) {
            int c = threadIdx.x + i * blockDim.x;
            if (c < packs)
                weights(a, held[i], c);
            else
                for (int k = 0; k < N; k++)
                    held[i][k] = 0.0f;
        }
    }
    __device__ __forceinline__ void get(const struct norm &a, float (&w)[N], int i) const
    {
        if constexpr (K > 0)
            for (int k = 0; k < N; k++)
                w[k] = held[i][k];
        else
            weights(a, w, threadIdx.x + i * blockDim.x);
    }
};

/* Pack c of row m of y, of x in v. The mean comes in two parts, of which the second mends the first's rounding. */
template <class Y, int N, bool FULL>
__device__ __forceinline__ void write_pack(const struct norm &a, int64_t m, int c, float (&v)[N], const float (&w)[N],
                                           float mean, float rest, float r)
{
    float bias[N] = {};
    if (FULL && a.bias.data)
        read_floats(bias, (const float *)a.bias.data + (int64_t)c * N);
    for (int k = 0; k < N; k++)
        v[k] = w[k] * (FULL ? (v[k] - mean - rest) * r : v[k] * r) + (FULL ? bias[k] : 0.0f);
    write_floats((Y *)a.y.data + m * a.y.ld + (int64_t)c * N, v);
}

/* FULL: LayerNorm or a bias; else RMSNorm without. */
template <class X, class Y, int N, int K, bool FULL>
__global__ void __launch_bounds__(ROW_THREADS, K ? 2 : 1) norm_fwd_kernel(struct norm a)
{
    __shared__ row_room<1> room;
    __shared__ row_room<2> room2;
    int packs = (int)(a.D / N), turns = row_turns<K>(packs), turn = 0, turn2 = 0;
    int64_t stride = (int64_t)gridDim.x * blockDim.y, m = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    const X *x_data = (const X *)a.x.data;
    float per = 1.0f / (float)a.D, eps = (float)a.eps, v[N];
    row_weights<N, K> weight;
    row_packs<X, N, K> x, next;

    weight.load(a, packs);
    next.load(x_data + m * a.x.ld, packs, m < a.M);
    for (int64_t m0 = (int64_t)blockIdx.x * blockDim.y; m0 < a.M; m0 += stride, m += stride) {
        float mean = 0.0f, rest = 0.0f, var, r, sum[1] = { 0.0f };

        x = next;
        next.load(x_data + (m + stride) * a.x.ld, packs, m + stride < a.M);
        for (int i = 0; i < turns; i++) {
            x.get(v, i);
            for (int k = 0; k < N; k++)
                sum[0] += FULL && a.center ? v[k] : v[k] * v[k];
        }
        row_sums(sum, room, turn);
        if (FULL && a.center) {
            float both[2] = { 0.0f, 0.0f };
            mean = sum[0] * per;
            for (int i = 0; i < turns; i++) {
                x.get(v, i);
                for (int k = 0; k < N && (int)(threadIdx.x + i * blockDim.x) < packs; k++) {
                    float t = v[k] - mean;
                    both[0] += t;
                    both[1] += t * t;
                }
            }
            row_sums(both, room2, turn2);
            rest = both[0] * per;
            var = both[1] * per - rest * rest;
            var = var < 0.0f ? 0.0f : var;
        } else {
            var = sum[0] * per;
        }
        r = rsqrtf(var + eps);
        if (m >= a.M)
            continue;
        if (threadIdx.x == 0) {
            a.rstd[m] = r;
            if (FULL && a.center)
                a.mean[m] = mean + rest;
        }
        for (int i = 0; i < turns; i++) {
            int c = threadIdx.x + i * blockDim.x;
            float w[N];
            if (c >= packs)
                break;
            weight.get(a, w, i);
            x.get(v, i);
            write_pack<Y, N, FULL>(a, m, c, v, w, mean, rest, r);
        }
    }
}

/* Rows of at most SHORT elements: a warp has one, and what else it needs comes from the L1 cache, so that nothing is waited
 * for but the row, and many of them are under way. */
template <class X, class Y, int N, bool FULL>
__global__ void __launch_bounds__(32 * SHORT_ROWS) norm_short_kernel(struct norm a)
{
    constexpr int K = SHORT / 32 / N;
    int packs = (int)(a.D / N);
    int64_t m = (int64_t)blockIdx.x * SHORT_ROWS + threadIdx.y;
    float per = 1.0f / (float)a.D, sum = 0.0f, mean = 0.0f, rest = 0.0f, var, v[N];
    row_packs<X, N, K> x;

    if (m >= a.M)
        return;
    x.load((const X *)a.x.data + m * a.x.ld, packs, true);
    UNROLL
    for (int i = 0; i < K; i++) {
        x.get(v, i);
        for (int k = 0; k < N; k++)
            sum += FULL && a.center ? v[k] : v[k] * v[k];
    }
    sum = warp_sum(sum);
    if (FULL && a.center) {
        float squares = 0.0f;
        mean = sum * per;
        UNROLL
        for (int i = 0; i < K; i++) {
            x.get(v, i);
            for (int k = 0; k < N && (int)threadIdx.x + i * 32 < packs; k++) {
                float t = v[k] - mean;
                rest += t;
                squares += t * t;
            }
        }
        rest = warp_sum(rest) * per;
        var = warp_sum(squares) * per - rest * rest;
        var = var < 0.0f ? 0.0f : var;
    } else {
        var = sum * per;
    }
    float r = rsqrtf(var + (float)a.eps);
    if (threadIdx.x == 0) {
        a.rstd[m] = r;
        if (FULL && a.center)
            a.mean[m] = mean + rest;
    }
    UNROLL
    for (int i = 0; i < K; i++) {
        int c = threadIdx.x + i * 32;
        float w[N];
        if (c >= packs)
            break;
        weights(a, w, c);
        x.get(v, i);
        write_pack<Y, N, FULL>(a, m, c, v, w, mean, rest, r);
    }
}

/* FULL: LayerNorm or dbias; else RMSNorm without. */
template <class X, class Y, int N, int K, bool FULL>
__global__ void __launch_bounds__(ROW_THREADS, 1) norm_bwd_kernel(struct norm a)
{
    __shared__ row_room<FULL ? 3 : 1> room;
    __shared__ float parts_room[K ? ROW_ROOM : 1];
    int packs = (int)(a.D / N), turns = row_turns<K>(packs), turn = 0;
    int64_t stride = (int64_t)gridDim.x * blockDim.y, m = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    const X *x_data = (const X *)a.x.data;
    const Y *dy_data = (const Y *)a.dy.data;
    float *part = (float *)a.work + (int64_t)blockIdx.x * a.D, *part_bias = part + (int64_t)gridDim.x * a.D;
    float per = 1.0f / (float)a.D, x[N], dy[N], w[N];
    float dw[K ? K : 1][N] = {}, dbias[K ? K : 1][N] = {};
    row_weights<N, K> weight;
    row_packs<X, N, K> xs, next_x;
    row_packs<Y, N, K> dys, next_dy;
    row_packs<X, N, K> into;

    weight.load(a, packs);
    if (K == 0)
        for (int c = threadIdx.x; c < packs * N; c += blockDim.x)
            part[c] = part_bias[c] = 0.0f;
    next_x.load(x_data + m * a.x.ld, packs, m < a.M);
    next_dy.load(dy_data + m * a.dy.ld, packs, m < a.M);
    for (int64_t m0 = (int64_t)blockIdx.x * blockDim.y; m0 < a.M; m0 += stride, m += stride) {
        bool valid = m < a.M;
        float r = valid ? a.rstd[m] : 0.0f, mean = FULL && a.center && valid ? a.mean[m] : 0.0f;
        float rest = 0.0f, shift = 0.0f, q, sum[FULL ? 3 : 1] = {};

        xs = next_x;
        dys = next_dy;
        next_x.load(x_data + (m + stride) * a.x.ld, packs, m + stride < a.M);
        next_dy.load(dy_data + (m + stride) * a.dy.ld, packs, m + stride < a.M);
        into.load((const X *)a.dx.data + m * a.dx.ld, packs, valid && a.accumulate_dx);
        for (int i = 0; i < turns; i++) {
            xs.get(x, i);
            dys.get(dy, i);
            weight.get(a, w, i);
            if (FULL && a.center) {
                for (int k = 0; k < N && (int)(threadIdx.x + i * blockDim.x) < packs; k++) {
                    float t = x[k] - mean, v = w[k] * dy[k];
                    sum[0] += v * t;
                    sum[FULL ? 1 : 0] += t;
                    sum[FULL ? 2 : 0] += v;
                }
            } else {
                for (int k = 0; k < N; k++)
                    sum[0] += w[k] * dy[k] * x[k];
            }
        }
        row_sums(sum, room, turn);
        if (FULL && a.center) {
            rest = sum[FULL ? 1 : 0] * per;
            shift = sum[FULL ? 2 : 0] * per;
            q = (sum[0] - rest * sum[FULL ? 2 : 0]) * r * per;
        } else {
            q = sum[0] * r * per;
        }
        if (!valid)
            continue;
        for (int i = 0; i < turns; i++) {
            int c = threadIdx.x + i * blockDim.x;
            X *dx = (X *)a.dx.data + m * a.dx.ld + (int64_t)c * N;
            float d[N] = {};
            if (c >= packs)
                break;
            if (K > 0 || a.accumulate_dx)
                into.get(d, i);
            xs.get(x, i);
            dys.get(dy, i);
            weight.get(a, w, i);
            for (int k = 0; k < N; k++) {
                float h = (FULL ? x[k] - mean - rest : x[k]) * r;
                if (K > 0) {
                    dw[i][k] += dy[k] * h;
                    dbias[i][k] += FULL ? dy[k] : 0.0f;
                } else {
                    part[c * N + k] += dy[k] * h;
                    part_bias[c * N + k] += dy[k];
                }
                d[k] += r * (w[k] * dy[k] - (FULL ? shift : 0.0f) - q * h);
            }
            write_floats(dx, d);
        }
    }
    if constexpr (K > 0) {
        write_part(part, dw, packs, parts_room);
        if (FULL && a.dbias.data) {
            __syncthreads();
            write_part(part_bias, dbias, packs, parts_room);
        }
    }
}

template <class X, class Y, int N, int K, bool FULL> void launch_fwd(const struct norm *a)
{
    struct row_shape s = row_shape(a->M, a->D, K > 0, FWD_RESIDENT, 1);
    LAUNCH((norm_fwd_kernel<X, Y, N, K, FULL>), (unsigned)s.blocks, dim3(s.threads, s.rows), 0, *a);
}

template <class X, class Y, int N, bool FULL> void launch_short(const struct norm *a)
{
    LAUNCH((norm_short_kernel<X, Y, N, FULL>), (unsigned)ceil_div(a->M, SHORT_ROWS), dim3(32, SHORT_ROWS), 0, *a);
}

template <class X, class Y, int N, int K, bool FULL> void launch_bwd(const struct norm *a)
{
    struct row_shape s = row_shape(a->M, a->D, K > 0, BWD_RESIDENT, 1);
    struct add_parts sums = { s.blocks, a->D, a->D, 1, s.blocks * a->D, 0, 1, (const float *)a->work, (float *)a->dw.data,
                              (float *)a->dbias.data };

    LAUNCH((norm_bwd_kernel<X, Y, N, K, FULL>), (unsigned)s.blocks, dim3(s.threads, s.rows), 0, *a);
    cuda_add_parts(&sums);
}

/* The widest packs that all tensors allow: 8 elements where the rows are all bf16, else 4. */
template <class X, class Y> constexpr int width() { return sizeof(X) + sizeof(Y) == 4 ? 8 : 4; }

static bool held(const struct norm *a, int n)
{
    return a->D % n == 0 && a->D <= ROW_LONGEST && wide_rows(&a->x, n) && wide_rows(&a->y, n) &&
           wide_rows(&a->dy, n) && wide_rows(&a->dx, n) && wide_vector(&a->w) && wide_vector(&a->bias);
}

template <class X, class Y> void fwd(const struct norm *a)
{
    constexpr int N = width<X, Y>(), K = ROW_EACH / N;
    bool full = a->center || a->bias.data;
    if (!held(a, N))
        launch_fwd<X, Y, 1, 0, true>(a);
    else if (a->D <= SHORT && full)
        launch_short<X, Y, N, true>(a);
    else if (a->D <= SHORT)
        launch_short<X, Y, N, false>(a);
    else if (full)
        launch_fwd<X, Y, N, K, true>(a);
    else
        launch_fwd<X, Y, N, K, false>(a);
}

template <class X, class Y> void bwd(const struct norm *a)
{
    constexpr int N = width<X, Y>(), K = ROW_EACH / N;
    bool full = a->center || a->dbias.data;
    if (!held(a, N))
        launch_bwd<X, Y, 1, 0, true>(a);
    else if (full)
        launch_bwd<X, Y, N, K, true>(a);
    else
        launch_bwd<X, Y, N, K, false>(a);
}

void check(const struct norm *a, const char *op)
{
    CUDA_NEED(op, a, x);
    CUDA_NEED(op, a, w);
    if (!a->rstd)
        cuda_fault(op, "rstd", "is absent");
    if (a->center && !a->mean)
        cuda_fault(op, "mean", "is absent");
}

}

/* With room for dbias whether it is there or not, and for either kind of rows: a caller may ask before it knows. */
size_t cuda_norm_work(const struct norm *a)
{
    if (a->M < 1 || a->D < 1)
        return 0;
    int64_t held = row_shape(a->M, a->D, true, BWD_RESIDENT, 1).blocks;
    int64_t read_again = row_shape(a->M, a->D, false, BWD_RESIDENT, 1).blocks;
    return (size_t)(2 * (held > read_again ? held : read_again) * a->D) * sizeof(float);
}

void cuda_norm_fwd(const struct norm *a)
{
    check(a, "norm_fwd");
    CUDA_NEED("norm_fwd", a, y);
    if (a->M > 0 && a->D > 0)
        WITH_TYPE(a->x.dtype, X, WITH_TYPE(a->y.dtype, Y, fwd<X, Y>(a)));
}

void cuda_norm_bwd(const struct norm *a)
{
    check(a, "norm_bwd");
    CUDA_NEED("norm_bwd", a, dy);
    CUDA_NEED("norm_bwd", a, dx);
    CUDA_NEED("norm_bwd", a, dw);
    if (a->dx.dtype != a->x.dtype)
        cuda_fault("norm_bwd", "dx", "is not of x's dtype");
    if (a->M > 0 && a->D > 0)
        WITH_TYPE(a->x.dtype, X, WITH_TYPE(a->dy.dtype, Y, bwd<X, Y>(a)));
}
