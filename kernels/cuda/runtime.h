/* runtime.h - the CUDA runtime for the host code of the backend; emulated, the few calls that it makes
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_CUDA_RUNTIME_H
#define SSM_CUDA_RUNTIME_H

#ifndef SSM_EMULATE
#include <cuda_runtime_api.h>
#else

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Device memory is host memory, and everything is done at once, but for what runtime_emulated.c does late. */
typedef int cudaError_t;
typedef void *cudaStream_t;
typedef struct emu_event {
    struct timespec at;
    cudaStream_t on;
} *cudaEvent_t;
enum { cudaSuccess, cudaErrorMemoryAllocation = 2 };
enum { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };

static inline const char *cudaGetErrorString(cudaError_t e) { return e ? "out of memory" : "no error"; }
static inline cudaError_t cudaGetLastError(void) { return cudaSuccess; }
static inline cudaError_t cudaMalloc(void **p, size_t bytes)
{
    return posix_memalign(p, 256, bytes) ? cudaErrorMemoryAllocation : cudaSuccess;
}
static inline cudaError_t cudaMallocHost(void **p, size_t bytes) { return cudaMalloc(p, bytes); }
static inline cudaError_t cudaFree(void *p)
{
    free(p);
    return cudaSuccess;
}
static inline cudaError_t cudaFreeHost(void *p) { return cudaFree(p); }
static inline cudaError_t cudaGetDevice(int *gpu)
{
    *gpu = 0;
    return cudaSuccess;
}
static inline cudaError_t cudaSetDevice(int gpu)
{
    (void)gpu;
    return cudaSuccess;
}
static inline cudaError_t cudaMemGetInfo(size_t *left, size_t *total) /* made up */
{
    *left = (size_t)3 << 30;
    *total = (size_t)4 << 30;
    return cudaSuccess;
}
static inline cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s)
{
    (void)s;
    memset(p, value, bytes);
    return cudaSuccess;
}
enum { cudaStreamNonBlocking = 1 };
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
static inline cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    (void)s;
    return cudaSuccess;
}
static inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags)
{
    (void)flags;
    *e = calloc(1, sizeof **e);
    return *e ? cudaSuccess : cudaErrorMemoryAllocation;
}
enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
static inline cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    clock_gettime(CLOCK_MONOTONIC, &e->at);
    e->on = s;
    return cudaSuccess;
}
static inline cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b)
{
    *ms = (float)((double)(b->at.tv_sec - a->at.tv_sec) * 1e3 + (double)(b->at.tv_nsec - a->at.tv_nsec) * 1e-6);
    return cudaSuccess;
}
#endif

#endif
