/* cast.cu - a matrix in another dtype, on the GPU
 * SPDX-License-Identifier: MIT
 *
 * One read, one write; four elements at a time where one side is F32, else eight.
 */
#include "cells.cuh"

namespace {

enum { PACKS = 4 };

template <class X, class Y, int N>
__global__ void __launch_bounds__(CELL_THREADS) cast_kernel(cells c, matrix<const X> x, matrix<Y> y)
{
    cell_walk<PACKS> walk(c);
    pack<X, N> in[PACKS];
    int64_t row, p;

#pragma unroll
    for (int k = 0; k < PACKS; k++)
        if (walk.at(k, &row, &p))
            in[k] = load_pack<X, N>(x.at(row, p * N));
#pragma unroll
    for (int k = 0; k < PACKS; k++) {
        if (!walk.at(k, &row, &p))
            continue;
        pack<Y, N> out;
#pragma unroll
        for (int i = 0; i < N; i++)
            out.v[i] = from_float<Y>(to_float(in[k].v[i]));
        store_pack(y.at(row, p * N), out);
    }
}

template <class X, class Y, int N> void launch(const struct cast *a)
{
    cells c = cells_of("cast", a->M, a->D / N);

    LAUNCH((cast_kernel<X, Y, N>), cells_grid(c, PACKS), CELL_THREADS, 0, c, matrix_of<const X>(&a->x),
           matrix_of<Y>(&a->y));
}

template <class X, class Y> void widest(const struct cast *a)
{
    constexpr int N = 16 / (sizeof(X) > sizeof(Y) ? sizeof(X) : sizeof(Y));

    if (a->D % N == 0 && aligned_rows(&a->x, N * sizeof(X)) && aligned_rows(&a->y, N * sizeof(Y)))
        launch<X, Y, N>(a);
    else
        launch<X, Y, 1>(a);
}

}

void cuda_cast(const struct cast *a)
{
    CUDA_NEED("cast", a, x);
    CUDA_NEED("cast", a, y);
    if (a->M <= 0 || a->D <= 0)
        return;
    WITH_TYPE(a->x.dtype, X, WITH_TYPE(a->y.dtype, Y, widest<X, Y>(a)));
}
