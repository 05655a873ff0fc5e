/* cells.cuh - for ops that treat matrices element by element: which elements a thread takes
 * SPDX-License-Identifier: MIT
 *
 * A row is cut into packs of N elements; the packs of all rows are numbered, row after row. A block takes
 * R * CELL_THREADS packs that follow each other, a thread every CELL_THREADS-th of them: rows of any length keep all threads
 * busy, and neighbours read neighbouring packs. Kernels read all R packs before they use the first, so that enough bytes
 * are under way.
 */
#ifndef SSM_CELLS_CUH
#define SSM_CELLS_CUH

#include "rows.cuh"

enum { CELL_THREADS = 256 };

template <class T> struct matrix {
    T *data;
    int64_t ld;
    __device__ __forceinline__ T *at(int64_t row, int64_t col) const { return data + row * ld + col; }
};

template <class T> static inline matrix<T> matrix_of(const struct tensor *t) { return { (T *)t->data, t->ld }; }

struct cells {
    int64_t total;
    uint32_t packs;        /* of a row */
    uint32_t times, shift; /* n / packs = (n + (n times >> 32)) >> shift, n < 2^31: a division costs as much as a pack */
};

static inline cells cells_of(const char *op, int64_t M, int64_t packs)
{
    uint32_t shift = 0;

    if (packs > 1 << 30)
        cuda_fault(op, "D", "is too large");
    while (1ll << shift < packs)
        shift++;
    return { M * packs, (uint32_t)packs, (uint32_t)((((1ull << shift) - packs) << 32) / packs + 1), shift };
}

static inline unsigned cells_grid(const cells &c, int R) { return (unsigned)ceil_div(c.total, (int64_t)CELL_THREADS * R); }

/* The packs of this thread. One long division a block. */
template <int R> struct cell_walk {
    int64_t row0, left;
    uint32_t pack0, packs, times, shift;

    __device__ __forceinline__ explicit cell_walk(const cells &c)
    {
        int64_t first = (int64_t)blockIdx.x * (CELL_THREADS * R);
        row0 = first / c.packs;
        pack0 = (uint32_t)(first - row0 * c.packs);
        left = c.total - first;
        packs = c.packs;
        times = c.times;
        shift = c.shift;
    }
    /* Where the k-th of them is; false: beyond the end. */
    __device__ __forceinline__ bool at(int k, int64_t *row, int64_t *pack) const
    {
        uint32_t i = (uint32_t)k * CELL_THREADS + threadIdx.x;
        if (i >= left)
            return false;
        i += pack0;
        uint32_t rows = (i + (uint32_t)((uint64_t)i * times >> 32)) >> shift;
        *row = row0 + rows;
        *pack = i - rows * packs;
        return true;
    }
};

#endif
