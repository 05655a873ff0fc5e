/* gatednorm.cu - gated grouped RMSNorm of Mamba-2
 * SPDX-License-Identifier: MIT
 *
 * The formulas are gatednorm.c's; the plan is norm.cu's, a group of a row being what a row is there: held,
 * forward in registers and backward in shared memory, between its sum and its outputs, so that every tensor
 * is read or written once (6 bytes an element forward, 10 backward in bf16). A block keeps to one group;
 * blocks of a row's groups stand beside each other.
 */
#include "rows.cuh"

namespace {

/* Threads that a multiprocessor has at once; those of 768 may have 80 registers each. */
template <class T> constexpr int FWD_RESIDENT = sizeof(T) == 2 ? 1024 : 768;
enum { BWD_RESIDENT = 768 };

/* Where a block works: group `first / n`, as part number `part` of `parts`. */
struct place {
    int64_t first, part, parts;
    int n, group;
};

__device__ __forceinline__ struct place place_of(const struct gatednorm &a)
{
    struct place p;
    p.group = (int)(blockIdx.x % a.G);
    p.n = (int)(a.D / a.G);
    p.first = (int64_t)p.group * p.n;
    p.part = blockIdx.x / a.G;
    p.parts = gridDim.x / a.G;
    return p;
}

template <int N, int K> struct group_weights {
    const float *w;
    float held[K ? K : 1][N];

    __device__ __forceinline__ void load(const float *from, int packs)
    {
        w = from;
        for (int i = 0; i < K; i++) {
            int c = threadIdx.x + i * blockDim.x;
            if (c < packs)
                read_floats(held[i], from + c * N);
            else
                for (int k = 0; k < N; k++)
                    held[i][k] = 0.0f;
        }
    }
    __device__ __forceinline__ void get(float (&to)[N], int i) const
    {
        if constexpr (K > 0)
            for (int k = 0; k < N; k++)
                to[k] = held[i][k];
        else
            read_floats(to, w + (int64_t)(threadIdx.x + i * blockDim.x) * N);
    }
};

/* x silu(z) of pack i */
template <class T, int N, int K>
__device__ __forceinline__ void gated(float (&u)[N], const row_packs<T, N, K> &xs, const row_packs<T, N, K> &zs, int i)
{
    float z[N];
    xs.get(u, i);
    zs.get(z, i);
    for (int k = 0; k < N; k++)
        u[k] *= z[k] * sigmoid(z[k]);
}

template <class T, int N, int K>
__global__ void __launch_bounds__(K ? FWD_RESIDENT<T> : ROW_THREADS, 1) gatednorm_fwd_kernel(struct gatednorm a)
{
    __shared__ row_room<1> room;
    struct place at = place_of(a);
    int packs = at.n / N, turns = row_turns<K>(packs), turn = 0;
    int64_t stride = at.parts * blockDim.y, m = at.part * blockDim.y + threadIdx.y;
    const T *x_data = (const T *)a.x.data + at.first, *z_data = (const T *)a.z.data + at.first;
    float per = 1.0f / (float)at.n, eps = (float)a.eps, y[N], w[N];
    float u[K ? K : 1][N]; /* x silu(z) */
    group_weights<N, sizeof(T) == 2 ? K : 0> weight; /* floats leave no registers for it */
    row_packs<T, N, K> next_x, next_z;

    weight.load((const float *)a.w.data + at.first, packs);
    next_x.load(x_data + m * a.x.ld, packs, m < a.M);
    next_z.load(z_data + m * a.z.ld, packs, m < a.M);
    for (int64_t m0 = at.part * blockDim.y; m0 < a.M; m0 += stride, m += stride) {
        float sum[1] = { 0.0f };
        row_packs<T, N, K> xs = next_x, zs = next_z;

        for (int i = 0; i < turns; i++) {
            gated(u[K ? i : 0], xs, zs, i);
            for (int k = 0; k < N; k++)
                sum[0] += u[K ? i : 0][k] * u[K ? i : 0][k];
        }
        next_x.load(x_data + (m + stride) * a.x.ld, packs, m + stride < a.M);
        next_z.load(z_data + (m + stride) * a.z.ld, packs, m + stride < a.M);
        row_sums(sum, room, turn);
        float r = rsqrtf(sum[0] * per + eps);
        if (m >= a.M)
            continue;
        if (threadIdx.x == 0)
            a.rstd[m * a.G + at.group] = r;
        for (int i = 0; i < turns; i++) {
            int c = threadIdx.x + i * blockDim.x;
            if (c >= packs)
                break;
            weight.get(w, i);
            if (K == 0)
                gated(u[0], xs, zs, i);
            for (int k = 0; k < N; k++)
                y[k] = w[k] * (u[K ? i : 0][k] * r);
            write_floats((T *)a.y.data + m * a.y.ld + at.first + (int64_t)c * N, y);
        }
    }
}

/* A thread's packs of a row on their way through shared memory, where each thread has K places of its own;
 * K = 0: in memory. */
template <class T, int N, int K> struct row_copies {
    elements<T, N> *room;
    const T *row;

    /* room: of as many packs as K times the block has threads; several tensors stand beside each other. */
    __device__ __forceinline__ row_copies(elements<T, N> *from, int tensor) : row(nullptr)
    {
        int threads = blockDim.x * blockDim.y;
        room = from + tensor * K * threads + threadIdx.y * blockDim.x + threadIdx.x;
    }
    __device__ __forceinline__ elements<T, N> *place(int i) const
    {
        return room + i * (int)(blockDim.x * blockDim.y);
    }
    __device__ __forceinline__ void bring(int i, const T *p)
    {
        if constexpr (K > 0)
            copy_async<(int)sizeof(elements<T, N>)>(place(i), p + (threadIdx.x + i * blockDim.x) * N);
    }
    __device__ __forceinline__ void get(float (&to)[N], int i) const
    {
        if constexpr (K > 0)
            place(i)->get(to);
        else
            read_floats(to, row + (int64_t)(threadIdx.x + i * blockDim.x) * N);
    }
};

/* Registers hold dw alone. w is read where it is used (it stays in the L1 cache); when the second use of a
 * pack has read it from shared memory, the next row's is brought to its place, while other blocks of the
 * multiprocessor work. */
template <class T, int N, int K>
__global__ void __launch_bounds__(BWD_RESIDENT, 1) gatednorm_bwd_kernel(struct gatednorm a)
{
    DYNAMIC_SHARED(uint4, copies);
    __shared__ row_room<1> room;
    __shared__ float parts_room[K ? ROW_ROOM : 1];
    struct place at = place_of(a);
    int packs = at.n / N, turn = 0;
    int turns = (int)threadIdx.x < packs ? (packs - 1 - (int)threadIdx.x) / (int)blockDim.x + 1 : 0;
    int64_t stride = at.parts * blockDim.y, m = at.part * blockDim.y + threadIdx.y;
    const T *x_row = (const T *)a.x.data + at.first + m * a.x.ld,
            *z_row = (const T *)a.z.data + at.first + m * a.z.ld;
    const T *dy_row = (const T *)a.dy.data + at.first + m * a.dy.ld;
    const float *w_data = (const float *)a.w.data + at.first;
    float *part = (float *)a.work + at.part * a.D + at.first;
    float per = 1.0f / (float)at.n, x[N], z[N], dy[N], w[N], dw[K ? K : 1][N] = {};
    float next_r = m < a.M ? a.rstd[m * a.G + at.group] : 0.0f;
    row_copies<T, N, K> xs((elements<T, N> *)copies, 0), zs((elements<T, N> *)copies, 1);
    row_copies<T, N, K> dys((elements<T, N> *)copies, 2);

    if (K == 0)
        for (int c = threadIdx.x; c < at.n; c += blockDim.x)
            part[c] = 0.0f;
    UNROLL
    for (int i = 0; i < (K ? K : turns); i++)
        if (i < turns && m < a.M) {
            xs.bring(i, x_row);
            zs.bring(i, z_row);
            dys.bring(i, dy_row);
        }
    copy_async_commit();
    for (int64_t m0 = at.part * blockDim.y; m0 < a.M; m0 += stride, m += stride) {
        bool valid = m < a.M, more = m + stride < a.M;
        float r = next_r, sum[1] = { 0.0f };

        copy_async_wait<0>();
        xs.row = x_row;
        zs.row = z_row;
        dys.row = dy_row;
        x_row += stride * a.x.ld;
        z_row += stride * a.z.ld;
        dy_row += stride * a.dy.ld;
        if (more)
            next_r = a.rstd[(m + stride) * a.G + at.group];
        UNROLL
        for (int i = 0; i < (K ? K : turns); i++) {
            if (i >= turns || !valid)
                break;
            xs.get(x, i);
            zs.get(z, i);
            dys.get(dy, i);
            read_floats(w, w_data + (threadIdx.x + i * blockDim.x) * N);
            for (int k = 0; k < N; k++)
                sum[0] += w[k] * dy[k] * (x[k] * (z[k] * sigmoid(z[k])));
        }
        row_sums(sum, room, turn);
        float q = sum[0] * r * r * r * per;
        UNROLL
        for (int i = 0; i < (K ? K : turns); i++) {
            int c = (threadIdx.x + i * blockDim.x) * N;
            if (i >= turns || !valid)
                break;
            xs.get(x, i);
            zs.get(z, i);
            dys.get(dy, i);
            if (more) {
                xs.bring(i, x_row);
                zs.bring(i, z_row);
                dys.bring(i, dy_row);
            }
            read_floats(w, w_data + c);
            for (int k = 0; k < N; k++) {
                float s = sigmoid(z[k]), silu = z[k] * s, u = x[k] * silu, g = dy[k] * (u * r);
                float du = r * w[k] * dy[k] - q * u;
                if (K > 0)
                    dw[K ? i : 0][k] += g;
                else
                    part[c + k] += g;
                z[k] = du * x[k] * (s + silu * (1.0f - s));
                x[k] = du * silu;
            }
            write_floats((T *)a.dx.data + m * a.dx.ld + at.first + c, x);
            write_floats((T *)a.dz.data + m * a.dz.ld + at.first + c, z);
        }
        copy_async_commit();
    }
    if constexpr (K > 0)
        write_part(part, dw, packs, parts_room);
}

bool held(const struct gatednorm *a, int n)
{
    int64_t group = a->D / a->G;
    return group % n == 0 && group <= ROW_LONGEST && wide_rows(&a->x, n) && wide_rows(&a->z, n) &&
           wide_rows(&a->y, n) && wide_rows(&a->dy, n) && wide_rows(&a->dx, n) && wide_rows(&a->dz, n) &&
           wide_vector(&a->w);
}

struct row_shape shape_of(const struct gatednorm *a, bool held, int resident)
{
    return row_shape(a->M, a->D / a->G, held, resident, a->G);
}

template <class T, int N, int K> void launch_fwd(const struct gatednorm *a)
{
    struct row_shape s = shape_of(a, K > 0, FWD_RESIDENT<T>);
    LAUNCH((gatednorm_fwd_kernel<T, N, K>), (unsigned)(s.blocks * a->G), dim3(s.threads, s.rows), 0, *a);
}

template <class T, int N, int K> void launch_bwd(const struct gatednorm *a)
{
    struct row_shape s = shape_of(a, K > 0, BWD_RESIDENT);
    struct add_parts last = { s.blocks, a->D, a->D, 1, 0, 0, 1, (const float *)a->work, (float *)a->dw.data,
                              NULL };
    size_t copies = 3 * K * sizeof(elements<T, N>) * s.threads * s.rows;

    LAUNCH((gatednorm_bwd_kernel<T, N, K>), (unsigned)(s.blocks * a->G), dim3(s.threads, s.rows), copies, *a);
    cuda_add_parts(&last);
}

void check(const struct gatednorm *a, const char *op)
{
    CUDA_NEED(op, a, x);
    CUDA_NEED(op, a, z);
    CUDA_NEED(op, a, w);
    if (!a->rstd)
        cuda_fault(op, "rstd", "is absent");
    if (a->G < 1 || a->D % a->G)
        cuda_fault(op, "G", "does not divide D");
}

}

/* For either kind of rows. */
size_t cuda_gatednorm_work(const struct gatednorm *a)
{
    if (a->M < 1 || a->G < 1 || a->D < a->G)
        return 0;
    int64_t held = shape_of(a, true, BWD_RESIDENT).blocks;
    int64_t read_again = shape_of(a, false, BWD_RESIDENT).blocks;
    return (size_t)((held > read_again ? held : read_again) * a->D) * sizeof(float);
}

void cuda_gatednorm_fwd(const struct gatednorm *a)
{
    check(a, "gatednorm_fwd");
    CUDA_NEED("gatednorm_fwd", a, y);
    if (a->M < 1 || a->D < 1)
        return;
    WITH_TYPE(a->x.dtype, T, {
        constexpr int N = 16 / sizeof(T);
        if (held(a, N))
            launch_fwd<T, N, ROW_EACH / N>(a);
        else
            launch_fwd<T, 1, 0>(a);
    });
}

void cuda_gatednorm_bwd(const struct gatednorm *a)
{
    check(a, "gatednorm_bwd");
    CUDA_NEED("gatednorm_bwd", a, dy);
    CUDA_NEED("gatednorm_bwd", a, dx);
    CUDA_NEED("gatednorm_bwd", a, dz);
    CUDA_NEED("gatednorm_bwd", a, dw);
    if (a->M < 1 || a->D < 1)
        return;
    WITH_TYPE(a->x.dtype, T, {
        constexpr int N = 16 / sizeof(T);
        if (held(a, N))
            launch_bwd<T, N, ROW_EACH / N>(a);
        else
            launch_bwd<T, 1, 0>(a);
    });
}
