/* embed.cu - token embedding on the GPU: a row of the table per token
 * SPDX-License-Identifier: MIT
 *
 * Forward: a gather; table and y are moved once. A row whose id is outside the table becomes NaN.
 *
 * Backward: dtable[id] += scale (sum of the rows of dy with this id), in a fixed order and without atomics of floats. The
 * tokens are sorted by id (a stable radix sort of (id, row), BITS at a time, its traffic next to nothing), then cut into
 * pieces of PIECE tokens, however often an id occurs: text has one id in every 20th token. A block adds up the runs of
 * equal ids in its piece; a run that lies in one piece is added to the table at once, of one that crosses pieces each piece
 * leaves its part in `work` (at most two of a piece: the run that came in and the one that goes on), and a second kernel adds
 * these in order. dy is read once, the rows of dtable that occur are read and written once.
 */
#include "cells.cuh"

namespace {

enum { FWD_PACKS = 4 };
enum { BITS = 9, DIGITS = 1 << BITS, SORT_THREADS = DIGITS, WARPS = SORT_THREADS / 32, ROUNDS = 4 };
enum { TILE = SORT_THREADS * ROUNDS };
enum { PIECE = 32, BATCH = 4, PARTS = 2 };

float scale_of(const struct embed *a) { return a->scale == 0 ? 1.0f : (float)a->scale; }

/* ---- forward ---- */

template <class T, class Y, int N>
__global__ void __launch_bounds__(CELL_THREADS)
    gather_kernel(cells c, const int32_t *ids, int32_t V, float scale, matrix<const T> table, matrix<Y> y)
{
    cell_walk<FWD_PACKS> walk(c);
    elements<T, N> in[FWD_PACKS];
    Y *to[FWD_PACKS];
    int32_t id[FWD_PACKS];
    int64_t row, p;

#pragma unroll
    for (int k = 0; k < FWD_PACKS; k++)
        id[k] = walk.at(k, &row, &p) ? ids[row] : -1;
#pragma unroll
    for (int k = 0; k < FWD_PACKS; k++) {
        to[k] = nullptr;
        in[k].clear();
        if (!walk.at(k, &row, &p))
            continue;
        to[k] = y.at(row, p * N);
        if (id[k] >= 0 && id[k] < V)
            in[k].read(table.at(id[k], p * N));
    }
#pragma unroll
    for (int k = 0; k < FWD_PACKS; k++) {
        if (!to[k])
            continue;
        float v[N], by = id[k] >= 0 && id[k] < V ? scale : NAN;
        in[k].get(v);
#pragma unroll
        for (int i = 0; i < N; i++)
            v[i] *= by;
        write_floats(to[k], v);
    }
}

template <class T, class Y, int N> void gather(const struct embed *a)
{
    cells c = cells_of("embed_fwd", a->M, a->D / N);

    LAUNCH((gather_kernel<T, Y, N>), cells_grid(c, FWD_PACKS), CELL_THREADS, 0, c, a->ids, (int32_t)a->V, scale_of(a),
           matrix_of<const T>(&a->table), matrix_of<Y>(&a->y));
}

template <class T, class Y> void gather_widest(const struct embed *a)
{
    constexpr int N = 16 / (sizeof(T) > sizeof(Y) ? sizeof(T) : sizeof(Y));

    if (a->D % N == 0 && aligned_rows(&a->table, N * sizeof(T)) && aligned_rows(&a->y, N * sizeof(Y)))
        gather<T, Y, N>(a);
    else
        gather<T, Y, 1>(a);
}

/* ---- backward: the sort ---- */

/* V, behind all others, for an id outside the table. */
__device__ __forceinline__ int32_t key_of(int32_t id, int32_t V) { return id < 0 || id > V ? V : id; }

/* count[tile][digit]: how often this digit occurs in the keys of each tile. */
__global__ void __launch_bounds__(SORT_THREADS)
    count_kernel(const int32_t *keys, int64_t M, int32_t V, int shift, int32_t *count)
{
    __shared__ int32_t n[DIGITS];
    int64_t i0 = (int64_t)blockIdx.x * TILE + threadIdx.x;

    int32_t key[ROUNDS];

    n[threadIdx.x] = 0;
#pragma unroll
    for (int k = 0; k < ROUNDS; k++)
        key[k] = i0 + k * SORT_THREADS < M ? key_of(keys[i0 + k * SORT_THREADS], V) : -1;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < ROUNDS; k++)
        if (key[k] >= 0)
            atomicAdd(&n[key[k] >> shift & (DIGITS - 1)], 1);
    __syncthreads();
    count[(int64_t)blockIdx.x * DIGITS + threadIdx.x] = n[threadIdx.x];
}

/* Where the first key of this tile with digit `threadIdx.x` goes. */
__device__ int32_t first_place(const int32_t *count, int32_t *room)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int32_t before = 0, total = 0, sum, warps_before = 0;

#pragma unroll 16
    for (unsigned tile = 0; tile < gridDim.x; tile++) {
        int32_t n = count[(int64_t)tile * DIGITS + threadIdx.x];
        total += n;
        before += tile < blockIdx.x ? n : 0;
    }
    sum = total; /* inclusive over the digits of the warp, then of the warps before it */
    for (int k = 1; k < 32; k <<= 1) {
        int32_t left = __shfl_up_sync(0xffffffffu, sum, k);
        sum += lane >= k ? left : 0;
    }
    if (lane == 31)
        room[warp] = sum;
    __syncthreads();
    for (int w = 0; w < warp; w++)
        warps_before += room[w];
    return warps_before + sum - total + before;
}

/* The lanes that have this lane's digit. */
__device__ __forceinline__ unsigned peers_of(int digit, bool valid)
{
    unsigned same = __ballot_sync(0xffffffffu, valid);

#pragma unroll
    for (int b = 0; b < BITS; b++) {
        unsigned set = __ballot_sync(0xffffffffu, digit >> b & 1);
        same &= digit >> b & 1 ? set : ~set;
    }
    return same;
}

/* Moves the (key, row) of a tile to their places by one digit; those of one digit keep their order. A warp has ROUNDS * 32
 * that follow each other. rows == NULL: the row is the position. */
__global__ void __launch_bounds__(SORT_THREADS)
    scatter_kernel(const int32_t *keys, const int32_t *rows, int64_t M, int32_t V, int shift, const int32_t *count,
                   int32_t *keys_out, int32_t *rows_out)
{
    __shared__ int32_t place[WARPS][DIGITS], room[WARPS]; /* place: first counts of a warp's digits */
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int64_t i0 = (int64_t)blockIdx.x * TILE + warp * (ROUNDS * 32) + lane;
    int32_t key[ROUNDS], row[ROUNDS], rank[ROUNDS];

#pragma unroll
    for (int k = 0; k < ROUNDS; k++) { /* on their way while the tiles are counted */
        int64_t i = i0 + k * 32;
        key[k] = i < M ? keys[i] : 0;
        row[k] = rows && i < M ? rows[i] : (int32_t)i;
    }
    int32_t next = first_place(count, room);
    for (int w = 0; w < WARPS; w++)
        place[w][threadIdx.x] = 0;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < ROUNDS; k++) {
        int64_t i = i0 + k * 32;
        key[k] = key_of(key[k], V);
        int digit = key[k] >> shift & (DIGITS - 1);
        unsigned peers = peers_of(digit, i < M), below = peers & ((1u << lane) - 1);
        rank[k] = place[warp][digit] + __popc(below);
        __syncwarp();
        if (i < M && !below)
            place[warp][digit] += __popc(peers);
        __syncwarp();
    }
    __syncthreads();
    for (int w = 0; w < WARPS; w++) {
        int32_t n = place[w][threadIdx.x];
        place[w][threadIdx.x] = next;
        next += n;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < ROUNDS; k++) {
        if (i0 + k * 32 >= M)
            continue;
        int32_t to = place[warp][key[k] >> shift & (DIGITS - 1)] + rank[k];
        keys_out[to] = key[k];
        rows_out[to] = row[k];
    }
}

/* ---- backward: the sums ---- */

struct sums {
    int64_t M, D, stride; /* stride: floats of a part */
    int32_t V;
    float scale;
    const int32_t *key, *row; /* sorted */
    float *part;              /* [pieces][2][stride]: of the run that came in, of the one that goes on */
};

/* sums of N columns at p += scale x */
template <int N> __device__ __forceinline__ void add_to(float *p, const elements<float, N> &old, const float (&x)[N], float scale)
{
    float v[N];

    old.get(v);
#pragma unroll
    for (int j = 0; j < N; j++)
        v[j] += scale * x[j];
    write_floats(p, v);
}

/* A thread has PARTS times N columns, blockDim.x N apart, so that a warp's accesses lie side by side in both dtypes. */
template <class T, int N>
__global__ void __launch_bounds__(CELL_THREADS) sum_kernel(sums s, matrix<const T> dy, matrix<float> dtable)
{
    __shared__ int32_t keys[PIECE + 2], rows[PIECE]; /* keys: with the one before and the one behind, -1 if none */
    const int32_t *key = keys + 1;
    int64_t i0 = (int64_t)blockIdx.x * PIECE, col[PARTS];
    int n = (int)min((int64_t)PIECE, s.M - i0);

    for (int t = threadIdx.x; t < n + 2; t += blockDim.x)
        keys[t] = i0 + t > 0 && i0 + t <= s.M ? s.key[i0 + t - 1] : -1;
    for (int t = threadIdx.x; t < n; t += blockDim.x)
        rows[t] = s.row[i0 + t];
    __syncthreads();
    UNROLL
    for (int c = 0; c < PARTS; c++)
        col[c] = (((int64_t)blockIdx.y * PARTS + c) * blockDim.x + threadIdx.x) * N;

    float *part = s.part + (int64_t)blockIdx.x * 2 * s.stride;
    float sum[PARTS][N] = {};
    for (int i = 0; i < n; i += BATCH) {
        elements<T, N> x[BATCH][PARTS];
        elements<float, N> old[BATCH][PARTS];
        UNROLL
        for (int j = 0; j < BATCH; j++) {
            int32_t k = i + j < n ? key[i + j] : -1;
            bool whole = i + j < n && k != key[i + j + 1] && k != key[-1] && k < s.V;
            UNROLL
            for (int c = 0; c < PARTS; c++) {
                x[j][c].clear();
                old[j][c].clear();
                if (i + j < n && col[c] < s.D)
                    x[j][c].read(dy.at(rows[i + j], col[c]));
                if (whole && col[c] < s.D)
                    old[j][c].read(dtable.at(k, col[c]));
            }
        }
        UNROLL
        for (int j = 0; j < BATCH; j++) {
            if (i + j >= n)
                continue;
            int32_t k = key[i + j];
            bool ends = k != key[i + j + 1];
            UNROLL
            for (int c = 0; c < PARTS; c++) {
                float v[N];
                x[j][c].get(v);
                UNROLL
                for (int e = 0; e < N; e++)
                    sum[c][e] += v[e];
                if (!ends)
                    continue; /* the run goes on */
                if (col[c] < s.D && k == key[-1])
                    write_floats(part + col[c], sum[c]);
                else if (col[c] < s.D && k < s.V)
                    add_to(dtable.at(k, col[c]), old[j][c], sum[c], s.scale);
                UNROLL
                for (int e = 0; e < N; e++)
                    sum[c][e] = 0.0f;
            }
        }
    }
    if (key[n - 1] != key[n])
        return;
    UNROLL
    for (int c = 0; c < PARTS; c++)
        if (col[c] < s.D)
            write_floats(part + (key[n - 1] == key[-1] ? 0 : s.stride) + col[c], sum[c]);
}

/* The block of the piece in which a run begins that crosses pieces adds up its parts. */
template <int N> __global__ void __launch_bounds__(CELL_THREADS) join_kernel(sums s, matrix<float> dtable)
{
    int64_t p = blockIdx.x, end = (p + 1) * PIECE, col = ((int64_t)blockIdx.y * blockDim.x + threadIdx.x) * N;

    if (end >= s.M || col >= s.D)
        return;
    int32_t id = s.key[end - 1];
    if (id >= s.V || id != s.key[end] || (p > 0 && id == s.key[p * PIECE - 1]))
        return;
    int64_t last = p + 1, none = (s.M + PIECE - 1) / PIECE; /* the last piece that begins in the run; one that does not */
    while (none - last > 1) {
        int64_t middle = (last + none) / 2;
        if (s.key[middle * PIECE] == id)
            last = middle;
        else
            none = middle;
    }
    float sum[N], more[N];
    elements<float, N> old;
    old.read(dtable.at(id, col));
    read_floats(sum, s.part + (2 * p + 1) * s.stride + col);
#pragma unroll 8
    for (int64_t q = p + 1; q <= last; q++) {
        read_floats(more, s.part + 2 * q * s.stride + col);
#pragma unroll
        for (int e = 0; e < N; e++)
            sum[e] += more[e];
    }
    add_to(dtable.at(id, col), old, sum, s.scale);
}

/* ---- backward: the host's side ---- */

/* What lies in `work`, as offsets in bytes. */
struct layout {
    size_t key[2], row[2], count, part, all;
};

layout layout_of(const struct embed *a)
{
    layout l;
    size_t at = 0;
    auto take = [&](int64_t bytes) {
        size_t here = at;
        at += (size_t)round_up(bytes, 256);
        return here;
    };

    for (int i = 0; i < 2; i++) {
        l.key[i] = take(a->M * 4);
        l.row[i] = take(a->M * 4);
    }
    l.count = take(ceil_div(a->M, TILE) * DIGITS * 4);
    l.part = take(ceil_div(a->M, PIECE) * 2 * round_up(a->D, 4) * 4);
    l.all = at;
    return l;
}

/* Sorts; which of the two places holds the result. */
int sort(const struct embed *a, const layout &l, unsigned char *work)
{
    unsigned tiles = (unsigned)ceil_div(a->M, TILE);
    int32_t V = (int32_t)a->V, *count = (int32_t *)(work + l.count);
    const int32_t *keys = a->ids, *rows = NULL;
    int to = 0;

    for (int shift = 0; shift == 0 || V >> shift; shift += BITS) {
        to ^= 1;
        int32_t *keys_out = (int32_t *)(work + l.key[to]), *rows_out = (int32_t *)(work + l.row[to]);
        LAUNCH(count_kernel, tiles, SORT_THREADS, 0, keys, a->M, V, shift, count);
        LAUNCH(scatter_kernel, tiles, SORT_THREADS, 0, keys, rows, a->M, V, shift, count, keys_out, rows_out);
        keys = keys_out;
        rows = rows_out;
    }
    return to;
}

/* A grid over pieces and columns, a thread having `each` columns. */
dim3 pieces(const struct embed *a, int64_t each, unsigned *threads)
{
    int64_t width = ceil_div(a->D, each), blocks = ceil_div(width, CELL_THREADS);

    *threads = (unsigned)round_up(ceil_div(width, blocks), 32);
    return dim3((unsigned)ceil_div(a->M, PIECE), (unsigned)blocks);
}

template <class T, int N> void sum(const struct embed *a, const sums &s)
{
    unsigned threads;
    dim3 grid = pieces(a, N * PARTS, &threads);

    LAUNCH((sum_kernel<T, N>), grid, threads, 0, s, matrix_of<const T>(&a->dy), matrix_of<float>(&a->dtable));
    grid = pieces(a, N, &threads);
    LAUNCH((join_kernel<N>), grid, threads, 0, s, matrix_of<float>(&a->dtable));
}

void check(const struct embed *a, const char *op)
{
    if (!a->ids)
        cuda_fault(op, "ids", "is absent");
    if (a->M >= INT32_MAX || a->V >= INT32_MAX)
        cuda_fault(op, "M, V", "exceed 32 bits");
}

}

void cuda_embed_fwd(const struct embed *a)
{
    CUDA_NEED("embed_fwd", a, table);
    CUDA_NEED("embed_fwd", a, y);
    check(a, "embed_fwd");
    if (a->M <= 0 || a->D <= 0)
        return;
    WITH_TYPE(a->table.dtype, T, WITH_TYPE(a->y.dtype, Y, gather_widest<T, Y>(a)));
}

size_t cuda_embed_work(const struct embed *a) { return layout_of(a).all + 256; }

void cuda_embed_bwd(const struct embed *a)
{
    CUDA_NEED("embed_bwd", a, dy);
    CUDA_NEED("embed_bwd", a, dtable);
    check(a, "embed_bwd");
    if (a->dtable.dtype != F32)
        cuda_fault("embed_bwd", "dtable", "is not F32");
    if (!a->work)
        cuda_fault("embed_bwd", "work", "is absent");
    if (a->M <= 0 || a->D <= 0)
        return;
    layout l = layout_of(a);
    unsigned char *work = (unsigned char *)(((uintptr_t)a->work + 255) & ~(uintptr_t)255);
    int sorted = sort(a, l, work);
    sums s = { a->M, a->D, round_up(a->D, 4), (int32_t)a->V, scale_of(a), (const int32_t *)(work + l.key[sorted]),
               (const int32_t *)(work + l.row[sorted]), (float *)(work + l.part) };
    bool wide = a->D % 4 == 0 && aligned_rows(&a->dtable, 16);
    if (wide && aligned_rows(&a->dy, a->dy.dtype == BF16 ? 8 : 16))
        WITH_TYPE(a->dy.dtype, T, sum<T, 4>(a, s));
    else
        WITH_TYPE(a->dy.dtype, T, sum<T, 1>(a, s));
}
