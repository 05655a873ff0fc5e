/* gatednorm.cu - gated grouped RMSNorm of Mamba-2
 * SPDX-License-Identifier: MIT
 *
 * The formulas are gatednorm.c's; the plan is norm.cu's, a group of a row being what a row is there: held in registers
 * between its sum and its outputs, so that every tensor is read or written once (6 bytes an element forward, 10 backward
 * in bf16). A block keeps to one group, whose w it holds; blocks of a row's groups stand beside each other.
 */
#include "rows.cuh"

namespace {

enum { FWD_RESIDENT = 1024, BWD_RESIDENT = 512 };

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

template <class T, int N, int K>
__global__ void __launch_bounds__(ROW_THREADS, K ? 2 : 1) gatednorm_fwd_kernel(struct gatednorm a)
{
    __shared__ row_room<1> room;
    struct place at = place_of(a);
    int packs = at.n / N, turns = row_turns<K>(packs), turn = 0;
    int64_t stride = at.parts * blockDim.y, m = at.part * blockDim.y + threadIdx.y;
    const T *x_data = (const T *)a.x.data + at.first, *z_data = (const T *)a.z.data + at.first;
    float per = 1.0f / (float)at.n, eps = (float)a.eps, x[N], z[N], w[N];
    group_weights<N, K> weight;
    row_packs<T, N, K> xs, zs, next_x, next_z;

    weight.load((const float *)a.w.data + at.first, packs);
    next_x.load(x_data + m * a.x.ld, packs, m < a.M);
    next_z.load(z_data + m * a.z.ld, packs, m < a.M);
    for (int64_t m0 = at.part * blockDim.y; m0 < a.M; m0 += stride, m += stride) {
        float sum[1] = { 0.0f };

        xs = next_x;
        zs = next_z;
        next_x.load(x_data + (m + stride) * a.x.ld, packs, m + stride < a.M);
        next_z.load(z_data + (m + stride) * a.z.ld, packs, m + stride < a.M);
        for (int i = 0; i < turns; i++) {
            xs.get(x, i);
            zs.get(z, i);
            for (int k = 0; k < N; k++) {
                float u = x[k] * (z[k] * sigmoid(z[k]));
                sum[0] += u * u;
            }
        }
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
            xs.get(x, i);
            zs.get(z, i);
            for (int k = 0; k < N; k++)
                x[k] = w[k] * (x[k] * (z[k] * sigmoid(z[k])) * r);
            write_floats((T *)a.y.data + m * a.y.ld + at.first + (int64_t)c * N, x);
        }
    }
}

template <class T, int N, int K>
__global__ void __launch_bounds__(ROW_THREADS, 1) gatednorm_bwd_kernel(struct gatednorm a)
{
    __shared__ row_room<1> room;
    __shared__ float parts_room[K ? ROW_ROOM : 1];
    struct place at = place_of(a);
    int packs = at.n / N, turns = row_turns<K>(packs), turn = 0;
    int64_t stride = at.parts * blockDim.y, m = at.part * blockDim.y + threadIdx.y;
    const T *x_data = (const T *)a.x.data + at.first, *z_data = (const T *)a.z.data + at.first;
    const T *dy_data = (const T *)a.dy.data + at.first;
    float *part = (float *)a.work + at.part * a.D + at.first;
    float per = 1.0f / (float)at.n, x[N], z[N], dy[N], w[N], dw[K ? K : 1][N] = {};
    group_weights<N, K> weight;
    row_packs<T, N, K> xs, zs, dys, next_x, next_z, next_dy;

    weight.load((const float *)a.w.data + at.first, packs);
    if (K == 0)
        for (int c = threadIdx.x; c < at.n; c += blockDim.x)
            part[c] = 0.0f;
    next_x.load(x_data + m * a.x.ld, packs, m < a.M);
    next_z.load(z_data + m * a.z.ld, packs, m < a.M);
    next_dy.load(dy_data + m * a.dy.ld, packs, m < a.M);
    for (int64_t m0 = at.part * blockDim.y; m0 < a.M; m0 += stride, m += stride) {
        bool valid = m < a.M;
        float r = valid ? a.rstd[m * a.G + at.group] : 0.0f, sum[1] = { 0.0f };

        xs = next_x;
        zs = next_z;
        dys = next_dy;
        next_x.load(x_data + (m + stride) * a.x.ld, packs, m + stride < a.M);
        next_z.load(z_data + (m + stride) * a.z.ld, packs, m + stride < a.M);
        next_dy.load(dy_data + (m + stride) * a.dy.ld, packs, m + stride < a.M);
        for (int i = 0; i < turns; i++) {
            xs.get(x, i);
            zs.get(z, i);
            dys.get(dy, i);
            weight.get(w, i);
            for (int k = 0; k < N; k++)
                sum[0] += w[k] * dy[k] * (x[k] * (z[k] * sigmoid(z[k])));
        }
        row_sums(sum, room, turn);
        float q = sum[0] * r * r * r * per;
        if (!valid)
            continue;
        for (int i = 0; i < turns; i++) {
            int c = threadIdx.x + i * blockDim.x;
            if (c >= packs)
                break;
            xs.get(x, i);
            zs.get(z, i);
            dys.get(dy, i);
            weight.get(w, i);
            for (int k = 0; k < N; k++) {
                float s = sigmoid(z[k]), silu = z[k] * s, u = x[k] * silu, g = dy[k] * (u * r);
                float du = r * w[k] * dy[k] - q * u;
                if (K > 0)
                    dw[i][k] += g;
                else
                    part[c * N + k] += g;
                z[k] = du * x[k] * (s + silu * (1.0f - s));
                x[k] = du * silu;
            }
            write_floats((T *)a.dx.data + m * a.dx.ld + at.first + (int64_t)c * N, x);
            write_floats((T *)a.dz.data + m * a.dz.ld + at.first + (int64_t)c * N, z);
        }
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
    struct row_shape s = shape_of(a, K > 0, FWD_RESIDENT);
    LAUNCH((gatednorm_fwd_kernel<T, N, K>), (unsigned)(s.blocks * a->G), dim3(s.threads, s.rows), 0, *a);
}

template <class T, int N, int K> void launch_bwd(const struct gatednorm *a)
{
    struct row_shape s = shape_of(a, K > 0, BWD_RESIDENT);
    struct add_parts last = { s.blocks, a->D, a->D, 1, 0, 0, 1, (const float *)a->work, (float *)a->dw.data };

    LAUNCH((gatednorm_bwd_kernel<T, N, K>), (unsigned)(s.blocks * a->G), dim3(s.threads, s.rows), 0, *a);
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
    int64_t held = shape_of(a, true, BWD_RESIDENT).blocks, read_again = shape_of(a, false, BWD_RESIDENT).blocks;
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
