/* emulate.h - CUDA's kernels on the CPU, for tests where there is no GPU
 * SPDX-License-Identifier: MIT
 *
 * Blocks run one after another in order; the threads of a block are fibres that run until they wait for each other
 * (__syncthreads, shuffles, products of a warp). Shared memory begins as NaN. The environment variable SSM_EMULATE_ORDER=reverse
 * runs the threads of a block backwards: a kernel whose result depends on that has a race. What a GPU forbids (too
 * large a block, grid, shared memory; a barrier that some threads do not reach) ends the program with a line that says so.
 * Atomics are plain, cp.async is done at once.
 */
#ifndef SSM_EMULATE_H
#define SSM_EMULATE_H

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __restrict__ __restrict
#define __align__(n) alignas(n)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned X = 1, unsigned Y = 1, unsigned Z = 1) : x(X), y(Y), z(Z) {}
};
struct uint3 {
    unsigned x, y, z;
};
struct bf16 {
    uint16_t bits;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
static inline float4 make_float4(float x, float y, float z, float w) { return { x, y, z, w }; }
static inline float2 make_float2(float x, float y) { return { x, y }; }
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return { x, y, z, w }; }

/* Where the running fibre is. */
struct emu_place {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
};
extern const struct emu_place *emu_now;
#define threadIdx (emu_now->thread)
#define blockIdx (emu_now->block)
#define blockDim (emu_now->block_dim)
#define gridDim (emu_now->grid_dim)

void emu_launch(const char *name, dim3 grid, dim3 block, size_t smem, const std::function<void()> &kernel);
void *emu_dynamic();
void emu_block_barrier();
/* Every lane of the warp gives `bytes` (at most 64) and gets the warp's: lane l's at 64 l. */
const unsigned char *emu_exchange(const void *mine, size_t bytes);
unsigned emu_lane();

uint16_t emu_float_bf16(float x);
float emu_bf16_float(uint16_t x);
void emu_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]);
void emu_ldmatrix(uint32_t *r, const void *row, bool trans);

static inline void __syncthreads() { emu_block_barrier(); }
static inline void __syncwarp(unsigned = 0xffffffffu) { emu_exchange(nullptr, 0); }
static inline void __threadfence() {}

template <class T> static inline T emu_from(T v, unsigned lane)
{
    T out;
    memcpy(&out, emu_exchange(&v, sizeof v) + 64 * (lane % 32), sizeof out);
    return out;
}
template <class T> static inline T __shfl_sync(unsigned, T v, int lane) { return emu_from(v, (unsigned)lane); }
template <class T> static inline T __shfl_xor_sync(unsigned, T v, int mask) { return emu_from(v, emu_lane() ^ (unsigned)mask); }
template <class T> static inline T __shfl_up_sync(unsigned, T v, unsigned n)
{
    unsigned lane = emu_lane();
    return emu_from(v, lane >= n ? lane - n : lane);
}
template <class T> static inline T __shfl_down_sync(unsigned, T v, unsigned n)
{
    unsigned lane = emu_lane();
    return emu_from(v, lane + n < 32 ? lane + n : lane);
}
static inline unsigned __ballot_sync(unsigned, int p)
{
    int v = p != 0;
    const unsigned char *all = emu_exchange(&v, sizeof v);
    unsigned bits = 0;
    for (int i = 0; i < 32; i++)
        bits |= (unsigned)(all[64 * i] != 0) << i;
    return bits;
}
static inline int __any_sync(unsigned m, int p) { return __ballot_sync(m, p) != 0; }

static inline float __uint_as_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline uint32_t __float_as_uint(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
#define __expf expf
static inline float __fdividef(float a, float b) { return a / b; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <class T> static inline T atomicAdd(T *p, T v)
{
    T old = *p;
    *p += v;
    return old;
}
using std::max;
using std::min;

#endif
