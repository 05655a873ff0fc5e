/* device.cuh - what the kernels of the CUDA backend share
 * SPDX-License-Identifier: MIT
 *
 * Every .cu file begins with it. nvcc makes device code of them; g++ with -DSSM_EMULATE makes code that runs on the
 * CPU, a thread of a block being a fibre (emulate.h), so that the same kernels are tested where there is no GPU.
 * Instructions that C++ has no word for (matrix products of a warp, copies to shared memory behind the program's back) are
 * functions here, with both versions.
 *
 * A kernel is begun by LAUNCH(kernel, grid, block, bytes of dynamic shared memory, arguments...); a template's instance
 * stands in parentheses: LAUNCH((norm_kernel<bf16, 4>), ...).
 */
#ifndef SSM_DEVICE_CUH
#define SSM_DEVICE_CUH

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "cuda/cuda.h"

#ifdef SSM_EMULATE

#include "emulate.h"

#define LAUNCH(kernel, grid, block, smem, ...) \
    emu_launch(#kernel, dim3(grid), dim3(block), smem, [&] { kernel(__VA_ARGS__); })
/* Dynamic shared memory as an array of `type` called `name`. */
#define DYNAMIC_SHARED(type, name) type *name = (type *)emu_dynamic()

#else

#include <cuda_bf16.h>
#include <cuda_runtime.h>

typedef __nv_bfloat16 bf16;

#define LAUNCH(kernel, grid, block, smem, ...)                                                         \
    do {                                                                                               \
        if ((smem) > 16 * 1024) /* a kernel's static shared memory counts, too, towards the 48 KiB that need no leave */ \
            cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)(smem)); \
        kernel<<<grid, block, smem, (cudaStream_t)cuda_stream()>>>(__VA_ARGS__);                       \
        cuda_note(#kernel, (int)cudaGetLastError());                                                   \
    } while (0)
#define DYNAMIC_SHARED(type, name)                                \
    extern __shared__ __align__(128) unsigned char cuda_dynamic[]; \
    type *name = (type *)cuda_dynamic

#endif

/* Before a loop whose arrays must stay in registers. */
#ifdef SSM_EMULATE
#define UNROLL
#else
#define UNROLL _Pragma("unroll")
#endif

/* ---- numbers ---- */

__device__ __forceinline__ float to_float(float x) { return x; }
template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }

#ifdef SSM_EMULATE
inline float to_float(bf16 x) { return emu_bf16_float(x.bits); }
template <> inline bf16 from_float<bf16>(float x) { return bf16{ emu_float_bf16(x) }; }
inline uint32_t pack2(float lo, float hi) { return emu_float_bf16(lo) | (uint32_t)emu_float_bf16(hi) << 16; }
#else
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }
/* Two bf16 in a register, `lo` in the lower half: what mma operands are made of. */
__device__ __forceinline__ uint32_t pack2(float lo, float hi)
{
    __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
    return *(const uint32_t *)&v;
}
#endif
__device__ __forceinline__ float unpack_lo(uint32_t v) { return __uint_as_float(v << 16); }
__device__ __forceinline__ float unpack_hi(uint32_t v) { return __uint_as_float(v & 0xffff0000u); }

/* N elements that are read and written at once; of 16 bytes where rows are aligned to 16 bytes. */
template <class T, int N> struct alignas(sizeof(T) * N) pack {
    T v[N];
};
template <class T, int N> __device__ __forceinline__ pack<T, N> load_pack(const T *p)
{
    return *(const pack<T, N> *)p;
}
template <class T, int N> __device__ __forceinline__ void store_pack(T *p, const pack<T, N> &v)
{
    *(pack<T, N> *)p = v;
}
/* 16 or 8 bytes to global memory in one store, which the compiler does not always make of four or two. */
#ifdef SSM_EMULATE
inline void store_words4(void *p, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    uint32_t u[4] = { a, b, c, d };
    memcpy(p, u, sizeof u);
}
inline void store_words2(void *p, uint32_t a, uint32_t b)
{
    uint32_t u[2] = { a, b };
    memcpy(p, u, sizeof u);
}
#else
__device__ __forceinline__ void store_words4(void *p, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};"
                 :: "l"(__cvta_generic_to_global(p)), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
__device__ __forceinline__ void store_words2(void *p, uint32_t a, uint32_t b)
{
    asm volatile("st.global.v2.b32 [%0], {%1,%2};" :: "l"(__cvta_generic_to_global(p)), "r"(a), "r"(b) : "memory");
}
#endif
/* Whether rows of a tensor can be read so many bytes at a time. */
static inline bool aligned_rows(const struct tensor *t, int bytes)
{
    size_t size = t->dtype == F32 ? 4 : 2;
    return (uintptr_t)t->data % bytes == 0 && (size_t)t->ld * size % bytes == 0;
}

/* One instruction each, whose results are off by 2 units in the last place at most and are 0 where they would be
 * denormal: 2^x, 1/x, sqrt(x). */
#ifdef SSM_EMULATE
inline float fast_exp2(float x) { return x < -126.0f ? 0.0f : exp2f(x); }
inline float fast_rcp(float x) { return 1.0f / x; }
inline float fast_sqrt(float x) { return sqrtf(x); }
#else
__device__ __forceinline__ float fast_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float fast_rcp(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float fast_sqrt(float x)
{
    float y;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

/* From block to block of one launch: what a block's thread wrote before publish() is seen by a thread that await()ed
 * it. A block may await only those with a smaller blockIdx.x (and no y, z), which are begun before it. */
#ifdef SSM_EMULATE
inline void publish(int *flag) { *flag = 1; }
inline void await(const int *flag)
{
    if (*flag != 1)
        cuda_fault("await", "flag", "is not set: blocks are not in order");
}
#else
__device__ __forceinline__ void publish(int *flag)
{
    __threadfence();
    asm volatile("st.release.gpu.global.s32 [%0], 1;" :: "l"(flag) : "memory");
}
__device__ __forceinline__ void await(const int *flag)
{
    int v;
    do
        asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(flag) : "memory");
    while (v != 1);
}
#endif

/* Off by some units in the last place, by 2^-126 below x = -87: fast_rcp gives 0 there. */
__device__ __forceinline__ float sigmoid(float x) { return fast_rcp(1.0f + fast_exp2(-1.44269504f * x)); }
/* log(1 + e^x); beyond 20 it is x to the last bit of a float. log1pf keeps small results exact. */
__device__ __forceinline__ float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

/* ---- sums ---- */

__device__ __forceinline__ float warp_sum(float x)
{
    for (int k = 16; k > 0; k >>= 1)
        x += __shfl_xor_sync(0xffffffffu, x, k);
    return x;
}
/* Sum over a block of `threads` (a multiple of 32, at most 1024), given to all of them. room: 33 floats of shared
 * memory. Begins and ends with the room free. */
__device__ __forceinline__ float block_sum(float x, float *room)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_sum(x);
    if (lane == 0)
        room[warp] = x;
    __syncthreads();
    if (warp == 0) {
        float all = warp_sum(lane < warps ? room[lane] : 0.0f);
        if (lane == 0)
            room[32] = all;
    }
    __syncthreads();
    x = room[32];
    __syncthreads();
    return x;
}

/* ---- products of matrices by a warp ----
 * Fragments as PTX has them (ISA 9.7.14, mma.m16n8k16 and ldmatrix); g = lane / 4, t = lane % 4:
 *   A [16,16]: a[0] row g, columns 2t, 2t+1; a[1] row g+8; a[2], a[3] the same 8 columns to the right
 *   B [16,8]:  b[0] rows 2t, 2t+1 of column g; b[1] the same 8 rows below
 *   D [16,8]:  d[0], d[1] row g, columns 2t, 2t+1; d[2], d[3] row g+8
 */
#ifdef SSM_EMULATE
inline void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) { emu_mma_bf16(d, a, b); }
inline void ldmatrix4(uint32_t r[4], const void *row) { emu_ldmatrix(r, row, false); }
inline void ldmatrix4_trans(uint32_t r[4], const void *row) { emu_ldmatrix(r, row, true); }
inline void copy_async16(void *shared, const void *global, bool valid)
{
    if (valid)
        memcpy(shared, global, 16);
    else
        memset(shared, 0, 16);
}
template <int BYTES> inline void copy_async(void *shared, const void *global) { memcpy(shared, global, BYTES); }
inline void copy_async_commit() {}
template <int N> inline void copy_async_wait() {}
typedef char *shared_place;
inline shared_place shared_place_of(void *shared) { return (char *)shared; }
template <int BYTES> inline void copy_async_to(shared_place to, const void *global) { memcpy(to, global, BYTES); }
template <class E> inline void read_shared(E &e, shared_place from) { memcpy((void *)&e, from, sizeof e); }
#else
/* d += a b, bf16 operands, float sums */
__device__ __forceinline__ void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* Four 8x8 matrices of bf16 from shared memory: lanes 8j..8j+7 name the rows (16 bytes, aligned) of matrix j; a lane
 * gets row g, columns 2t, 2t+1 of matrix j in r[j]; _trans: rows 2t, 2t+1 of column g. */
__device__ __forceinline__ void ldmatrix4(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row)) : "memory");
}
__device__ __forceinline__ void ldmatrix4_trans(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row)) : "memory");
}
/* 16 bytes from global to shared memory (both aligned to 16) in the background; !valid: zeros, `global` is not read.
 * _commit closes a group, _wait<N> waits until at most N of this thread's groups are under way; then __syncthreads. */
__device__ __forceinline__ void copy_async16(void *shared, const void *global, bool valid)
{
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"((uint32_t)__cvta_generic_to_shared(shared)), "l"(global), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}
/* An address in shared memory that is worked out once: the compiler would do it anew in each turn of a loop. 4, 8 or 16 bytes,
 * aligned to as many, are copied there in the background, 2 at once; and read from there. */
typedef uint32_t shared_place;
__device__ __forceinline__ shared_place shared_place_of(void *shared)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("" : "+r"(at));
    return at;
}
template <int BYTES> __device__ __forceinline__ void copy_async_to(shared_place to, const void *global)
{
    if constexpr (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to), "l"(global) : "memory");
    else if constexpr (BYTES == 2)
        asm volatile("st.shared.u16 [%0], %1;" :: "r"(to), "h"(*(const uint16_t *)global) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" :: "r"(to), "l"(global), "n"(BYTES) : "memory");
}
/* The same for a pointer. */
template <int BYTES> __device__ __forceinline__ void copy_async(void *shared, const void *global)
{
    copy_async_to<BYTES>((shared_place)__cvta_generic_to_shared(shared), global);
}
template <class E> __device__ __forceinline__ void read_shared(E &e, shared_place from)
{
    if constexpr (sizeof(E) == 2) {
        uint16_t u;
        asm volatile("ld.shared.u16 %0, [%1];" : "=h"(u) : "r"(from) : "memory");
        memcpy((void *)&e, &u, sizeof e);
    } else {
        uint32_t u[sizeof(E) / 4];
        if constexpr (sizeof(E) == 16)
            asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(u[0]), "=r"(u[1]), "=r"(u[2]), "=r"(u[3]) : "r"(from) : "memory");
        else if constexpr (sizeof(E) == 8)
            asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(u[0]), "=r"(u[1]) : "r"(from) : "memory");
        else
            asm volatile("ld.shared.u32 %0, [%1];" : "=r"(u[0]) : "r"(from) : "memory");
        memcpy((void *)&e, u, sizeof e);
    }
}
#endif

/* ---- for the host side of an op ---- */

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/* Runs the statement with T = the type of a dtype: WITH_TYPE(a->x.dtype, T, launch_norm<T>(a)); */
#define WITH_TYPE(dt, T, ...)          \
    do {                               \
        if ((dt) == BF16) {            \
            using T = bf16;            \
            __VA_ARGS__;               \
        } else {                       \
            using T = float;           \
            __VA_ARGS__;               \
        }                              \
    } while (0)

#endif
