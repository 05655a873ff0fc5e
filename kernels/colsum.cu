/* colsum.cu - sums of columns, and the last stage of every gradient that is a sum over rows
 * SPDX-License-Identifier: MIT
 *
 * A block sums a piece of the rows for 32 packs of columns: its 8 warps take turns at the rows, each lane walks down its
 * own columns, ROWS rows under way at once; then the warps' sums are added in order and written to work. x is read
 * once. A second kernel adds the pieces, also in order, to y.
 */
#include "rows.cuh"

namespace {

enum { WARPS = 8, ROWS = 4, LEAST = 4 * WARPS * ROWS, PER_PROCESSOR = 6, ADDERS = 16 };

template <class T, int N>
__global__ void __launch_bounds__(32 * WARPS) colsum_kernel(struct colsum a, int64_t rows, int64_t column_blocks)
{
    __shared__ float room[WARPS][32 * N + 1];
    int lane = threadIdx.x, warp = threadIdx.y;
    int64_t piece = blockIdx.x / column_blocks, c = (blockIdx.x % column_blocks * 32 + lane) * N;
    int64_t end = (piece + 1) * rows < a.M ? (piece + 1) * rows : a.M;
    const T *x = (const T *)a.x.data + c;
    float sum[N] = {};

    if (c < a.D) {
        for (int64_t m = piece * rows + warp; m < end; m += WARPS * ROWS) {
            elements<T, N> held[ROWS];
            for (int i = 0; i < ROWS; i++)
                if (m + i * WARPS < end)
                    held[i].read(x + (m + i * WARPS) * a.x.ld);
                else
                    held[i].clear();
            for (int i = 0; i < ROWS; i++) {
                float v[N];
                held[i].get(v);
                for (int k = 0; k < N; k++)
                    sum[k] += v[k];
            }
        }
    }
    for (int k = 0; k < N; k++)
        room[warp][32 * k + lane] = sum[k];
    __syncthreads();
    for (int i = warp * 32 + lane; i < 32 * N; i += 32 * WARPS) {
        int64_t column = (blockIdx.x % column_blocks * 32 + i % 32) * N + i / 32;
        float all = 0.0f;
        for (int w = 0; w < WARPS; w++)
            all += room[w][i];
        if (column < a.D)
            ((float *)a.work)[piece * a.D + column] = all;
    }
}

/* 32 columns by ADDERS turns at the parts */
__global__ void __launch_bounds__(32 * ADDERS) add_parts_kernel(struct add_parts a)
{
    __shared__ float room[ADDERS][33];
    int lane = threadIdx.x, warp = threadIdx.y;
    int64_t c0 = (int64_t)blockIdx.x * 32, plane = blockIdx.y;
    const float *part = a.part + plane * a.part_plane + c0 + lane;
    float sum = 0.0f;

    if (c0 + lane < a.D)
#pragma unroll 8
        for (int64_t p = warp; p < a.parts; p += ADDERS)
            sum += part[p * a.ld];
    room[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || c0 + lane >= a.D)
        return;
    for (int w = 1; w < ADDERS; w++)
        sum += room[w][lane];
    *(plane < a.planes ? a.out + plane * a.out_plane + (c0 + lane) * a.out_step : a.last + c0 + lane) += sum;
}

int64_t pieces_of(int64_t M, int64_t D, int n)
{
    int64_t most = ceil_div((int64_t)cuda_processors() * PER_PROCESSOR, ceil_div(D, 32 * n));
    return ceil_div(M, LEAST) < most ? ceil_div(M, LEAST) : most;
}

template <class T, int N> void launch_colsum(const struct colsum *a)
{
    int64_t blocks = ceil_div(a->D, 32 * N), pieces = pieces_of(a->M, a->D, N);
    int64_t rows = ceil_div(a->M, pieces);
    struct add_parts last = { pieces, a->D, a->D, 1, 0, 0, 1, (const float *)a->work, (float *)a->y.data,
                              NULL };

    LAUNCH((colsum_kernel<T, N>), (unsigned)(blocks * pieces), dim3(32, WARPS), 0, *a, rows, blocks);
    cuda_add_parts(&last);
}

}

void cuda_add_parts(const struct add_parts *a)
{
    LAUNCH(add_parts_kernel, dim3((unsigned)ceil_div(a->D, 32), (unsigned)(a->planes + (a->last != NULL))), dim3(32, ADDERS), 0, *a);
}

size_t cuda_colsum_work(const struct colsum *a)
{
    if (a->M < 1 || a->D < 1)
        return 0;
    return (size_t)(pieces_of(a->M, a->D, 8) * a->D) * sizeof(float); /* the widest packs have the most pieces */
}

void cuda_colsum(const struct colsum *a)
{
    CUDA_NEED("colsum", a, x);
    CUDA_NEED("colsum", a, y);
    if (a->M < 1 || a->D < 1)
        return;
    WITH_TYPE(a->x.dtype, T, {
        constexpr int N = 16 / sizeof(T);
        if (a->D % N == 0 && aligned_rows(&a->x, 16))
            launch_colsum<T, N>(a);
        else
            launch_colsum<T, 1>(a);
    });
}
