/* rows.cuh - what the kernels that walk over rows share: elements as floats, sums over a row, sums of partial sums
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_ROWS_CUH
#define SSM_ROWS_CUH

#include "device.cuh"

/* N elements as they lie in memory: in words, that the compiler may not take bf16 apart before they are used, and read
 * in accesses of at most 16 bytes, which the address must be aligned to. N = 1 is any element. */
template <int N> struct alignas(4 * N) words {
    uint32_t u[N];
} __attribute__((may_alias));

template <class T, int N> struct elements {
    static constexpr int BYTES = sizeof(T) * N, AT_ONCE = BYTES < 16 ? BYTES / 4 : 4;
    alignas(AT_ONCE * 4) uint32_t u[BYTES / 4];

    __device__ __forceinline__ void read(const T *p)
    {
        for (int i = 0; i < BYTES / 4; i += AT_ONCE) {
            words<AT_ONCE> w = *(const words<AT_ONCE> *)((const char *)p + 4 * i);
            for (int k = 0; k < AT_ONCE; k++)
                u[i + k] = w.u[k];
        }
    }
    __device__ __forceinline__ void write(T *p) const
    {
        for (int i = 0; i < BYTES / 4; i += AT_ONCE)
            if constexpr (AT_ONCE == 4)
                store_words4((char *)p + 4 * i, u[i], u[i + 1], u[i + 2], u[i + 3]);
            else if constexpr (AT_ONCE == 2)
                store_words2((char *)p + 4 * i, u[i], u[i + 1]);
            else
                *(words<1> *)((char *)p + 4 * i) = { { u[i] } };
    }
    __device__ __forceinline__ void clear()
    {
        for (int i = 0; i < BYTES / 4; i++)
            u[i] = 0;
    }
    __device__ __forceinline__ void get(float (&to)[N]) const
    {
        for (int i = 0; i < BYTES / 4; i++)
            if constexpr (sizeof(T) == 4) {
                to[i] = __uint_as_float(u[i]);
            } else {
                to[2 * i] = unpack_lo(u[i]);
                to[2 * i + 1] = unpack_hi(u[i]);
            }
    }
    __device__ __forceinline__ void set(const float (&from)[N])
    {
        for (int i = 0; i < BYTES / 4; i++)
            if constexpr (sizeof(T) == 4)
                u[i] = __float_as_uint(from[i]);
            else
                u[i] = pack2(from[2 * i], from[2 * i + 1]);
    }
};

template <class T> struct elements<T, 1> {
    T x;

    __device__ __forceinline__ void read(const T *p) { x = *p; }
    __device__ __forceinline__ void write(T *p) const { *p = x; }
    __device__ __forceinline__ void clear() { x = from_float<T>(0.0f); }
    __device__ __forceinline__ void get(float (&to)[1]) const { to[0] = to_float(x); }
    __device__ __forceinline__ void set(const float (&from)[1]) { x = from_float<T>(from[0]); }
};

template <class T, int N> __device__ __forceinline__ void read_floats(float (&to)[N], const T *p)
{
    elements<T, N> e;
    e.read(p);
    e.get(to);
}

template <class T, int N> __device__ __forceinline__ void write_floats(T *p, const float (&from)[N])
{
    elements<T, N> e;
    e.set(from);
    e.write(p);
}

/* Whether N elements of each row can be accessed at once; absent tensors can. */
static inline bool wide_rows(const struct tensor *t, int n)
{
    int size = n * (t->dtype == F32 ? 4 : 2);
    return !t->data || aligned_rows(t, size < 16 ? size : 16);
}
static inline bool wide_vector(const struct tensor *t) { return (uintptr_t)t->data % 16 == 0; }

/* ---- rows of `n` elements, each the business of blockDim.x threads; blockDim.y rows at once ---- */

enum {
    ROW_EACH = 16,     /* elements that a thread holds in registers */
    ROW_THREADS = 512, /* most threads of a block */
    ROW_LONGEST = ROW_EACH * ROW_THREADS,
};

struct row_shape {
    unsigned threads, rows; /* blockDim.x, blockDim.y */
    int64_t blocks;         /* each takes every blocks-th `rows` rows */
};

/* held: the row lies in registers, else it is read anew for each use, and a block has one row. resident: threads that
 * a multiprocessor has at once; groups: kinds of rows that share it. */
static inline struct row_shape row_shape(int64_t M, int64_t n, bool held, int resident, int64_t groups)
{
    struct row_shape s = { 256, 1, 1 };
    if (held) {
        s.threads = (unsigned)round_up(ceil_div(n < ROW_LONGEST ? n : (int64_t)ROW_LONGEST, ROW_EACH), 32);
        s.rows = s.threads < 256 ? 256 / s.threads : 1;
    }
    int64_t most = ceil_div((int64_t)cuda_processors_left() * (resident / (int)(s.threads * s.rows)), groups);
    s.blocks = ceil_div(M, s.rows) < most ? ceil_div(M, s.rows) : most;
    return s;
}

/* What a thread has of a row: packs threadIdx.x + i blockDim.x, held in registers, zeros beyond the row's end; K = 0:
 * in memory. */
template <class T, int N, int K> struct row_packs {
    const T *row;
    elements<T, N> held[K ? K : 1];

    __device__ __forceinline__ void load(const T *p, int packs, bool valid)
    {
        row = p;
        for (int i = 0; i < K; i++) {
            int c = threadIdx.x + i * blockDim.x;
            if (valid && c < packs)
                held[i].read(p + (int64_t)c * N);
            else
                held[i].clear();
        }
    }
    __device__ __forceinline__ void get(float (&to)[N], int i) const
    {
        if constexpr (K > 0)
            held[i].get(to);
        else
            read_floats(to, row + (int64_t)(threadIdx.x + i * blockDim.x) * N);
    }
};

/* How many packs a thread has; of held ones those beyond the row's end count too. */
template <int K> __device__ __forceinline__ int row_turns(int packs)
{
    if (K > 0)
        return K;
    return (int)threadIdx.x < packs ? (packs - 1 - (int)threadIdx.x) / (int)blockDim.x + 1 : 0;
}

/* Room for the sums of a block's warps, twice: who comes first to the next sum writes where nobody reads. */
template <int S> struct row_room {
    float of_warp[2][ROW_THREADS / 32][S];
};

/* Sums over the threads of a row, given to all of them. `turn` begins as 0. */
template <int S> __device__ __forceinline__ void row_sums(float (&x)[S], row_room<S> &room, int &turn)
{
    int lane = threadIdx.x % 32, warps = blockDim.x / 32, first = threadIdx.y * warps;
    for (int s = 0; s < S; s++)
        x[s] = warp_sum(x[s]);
    if (warps == 1)
        return;
    if (lane == 0)
        for (int s = 0; s < S; s++)
            room.of_warp[turn][first + threadIdx.x / 32][s] = x[s];
    __syncthreads();
    for (int s = 0; s < S; s++)
        x[s] = warp_sum(lane < warps ? room.of_warp[turn][first + lane][s] : 0.0f);
    turn ^= 1;
}

/* A column's sums of the block's rows at once, in order of the rows, written to part [columns]. `room` is free before;
 * after it, behind a __syncthreads. */
enum { ROW_ROOM = 256 * ROW_EACH };
template <int N, int K>
__device__ __forceinline__ void write_part(float *part, const float (&sum)[K][N], int packs, float *room)
{
    int n = packs * N;
    if (blockDim.y > 1) {
        for (int i = 0; i < K; i++) {
            int c = threadIdx.x + i * blockDim.x;
            if (c < packs)
                for (int k = 0; k < N; k++)
                    room[(int)threadIdx.y * n + c * N + k] = sum[i][k];
        }
        __syncthreads();
        for (int c = threadIdx.y * blockDim.x + threadIdx.x; c < n; c += blockDim.x * blockDim.y) {
            float all = room[c];
            for (int y = 1; y < (int)blockDim.y; y++)
                all += room[y * n + c];
            part[c] = all;
        }
    } else {
        for (int i = 0; i < K; i++) {
            int c = threadIdx.x + i * blockDim.x;
            if (c < packs)
                write_floats(part + c * N, sum[i]);
        }
    }
}

/* For each plane p < planes: out[p out_plane + c out_step] += sum over i < parts of part[i ld + p part_plane + c], c < D,
 * in a fixed order (colsum.cu); one more plane goes to last[c], if that is there. */
struct add_parts {
    int64_t parts, D, ld, planes, part_plane, out_plane, out_step;
    const float *part;
    float *out, *last;
};
void cuda_add_parts(const struct add_parts *a);

#endif
