/* cpu.h - what the files of the CPU backend share: op names, argument checks, partitions
 * SPDX-License-Identifier: MIT
 *
 * Threads: work is cut into pieces whose number and bounds depend on the shapes only, and each
 * output element, or each partial sum, belongs to one piece. So an op returns the same bits for any
 * number of threads, except where it calls the matrix library (matmul, xent).
 */
#ifndef SSM_CPU_H
#define SSM_CPU_H

#include <stdio.h>
#include <stdlib.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "backend.h"

void cpu_matmul(const struct matmul *a);
size_t cpu_colsum_work(const struct colsum *a);
void cpu_colsum(const struct colsum *a);
size_t cpu_embed_work(const struct embed *a);
void cpu_embed_fwd(const struct embed *a);
void cpu_embed_bwd(const struct embed *a);
size_t cpu_norm_work(const struct norm *a);
void cpu_norm_fwd(const struct norm *a);
void cpu_norm_bwd(const struct norm *a);
size_t cpu_gatednorm_work(const struct gatednorm *a);
void cpu_gatednorm_fwd(const struct gatednorm *a);
void cpu_gatednorm_bwd(const struct gatednorm *a);
size_t cpu_conv1d_work(const struct conv1d *a);
void cpu_conv1d_fwd(const struct conv1d *a);
void cpu_conv1d_bwd(const struct conv1d *a);
void cpu_conv1d_step(const struct conv1d *a);
size_t cpu_ssd_work(const struct ssd *a);
void cpu_ssd_fwd(const struct ssd *a);
void cpu_ssd_bwd(const struct ssd *a);
void cpu_ssd_step(const struct ssd *a);
size_t cpu_scan_work(const struct scan *a);
void cpu_scan_fwd(const struct scan *a);
void cpu_scan_bwd(const struct scan *a);
void cpu_scan_step(const struct scan *a);
size_t cpu_rglru_work(const struct rglru *a);
void cpu_rglru_fwd(const struct rglru *a);
void cpu_rglru_bwd(const struct rglru *a);
void cpu_rglru_step(const struct rglru *a);
void cpu_rope(const struct rope *a);
size_t cpu_attn_work(const struct attn *a);
void cpu_attn_fwd(const struct attn *a);
void cpu_attn_bwd(const struct attn *a);
void cpu_attn_step(const struct attn *a);
void cpu_act_fwd(const struct activation *a);
void cpu_act_bwd(const struct activation *a);
size_t cpu_xent_work(const struct xent *a);
void cpu_xent(const struct xent *a);
void cpu_adamw(const struct adamw *a);
void cpu_total(const struct total *a);
void cpu_judge(const struct judge *a);

/* A mistake of the caller: one line, then abort. */
static inline _Noreturn void cpu_fault(const char *op, const char *field, const char *what)
{
    fprintf(stderr, "cpu: %s: '%s' %s\n", op, field, what);
    abort();
}

/* A tensor that must be there, and one that may be absent; the CPU serves floats only. */
static inline void cpu_need(const char *op, const char *field, const struct tensor *t)
{
    if (!t->data)
        cpu_fault(op, field, "is absent");
    if (t->dtype != F32)
        cpu_fault(op, field, "is not F32, the only dtype that the CPU serves");
}

static inline void cpu_allow(const char *op, const char *field, const struct tensor *t)
{
    if (t->data)
        cpu_need(op, field, t);
}

#define CPU_NEED(op, a, field) cpu_need(op, #field, &(a)->field)
#define CPU_ALLOW(op, a, field) cpu_allow(op, #field, &(a)->field)

static inline float *cpu_row(const struct tensor *t, int64_t row) { return (float *)t->data + row * t->ld; }

/* An int32 that stands far before any row: what `start` reads as when it is NULL. */
static inline int64_t cpu_start(const int32_t *start, int64_t row) { return start ? start[row] : INT32_MIN; }

static inline int cpu_threads(void)
{
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

static inline int cpu_thread(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

static inline int64_t cpu_min(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t cpu_max(int64_t a, int64_t b) { return a > b ? a : b; }

static inline int64_t cpu_ceil(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Rows of one piece when M rows are cut into at most 64 pieces of at least `least` rows. */
static inline int64_t cpu_piece(int64_t M, int64_t least) { return cpu_max(least, cpu_ceil(M, 64)); }

/* Pieces that any number of rows up to M may have: what scratch is reserved for. */
static inline int64_t cpu_most_pieces(int64_t M, int64_t least) { return cpu_min(64, cpu_ceil(M, least)); }

/* Decayed states, moments of rare tokens and tails of a softmax sink below FLT_MIN, where a product
 * takes a hundred cycles on x86. Between begin and end such numbers count as 0 in this thread. */
static inline unsigned cpu_flush_begin(void)
{
#if defined(__x86_64__)
    unsigned old = __builtin_ia32_stmxcsr();

    __builtin_ia32_ldmxcsr(old | 0x8040); /* flush to zero, denormals are zero */
    return old;
#else
    return 0;
#endif
}

static inline void cpu_flush_end(unsigned old)
{
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(old);
#else
    (void)old;
#endif
}

/* Scratch is cut into pieces that start at cache lines: a size in floats, rounded up, and the first
 * such address in the caller's memory. Sizes that op_work returns include this slack. */
#define CPU_LINE 16
#define CPU_SLACK 64

static inline int64_t cpu_round(int64_t floats) { return cpu_ceil(floats, CPU_LINE) * CPU_LINE; }

static inline float *cpu_scratch(const char *op, void *work)
{
    if (!work)
        cpu_fault(op, "work", "is absent");
    return (float *)(((uintptr_t)work + 63) & ~(uintptr_t)63);
}

/* sum over pieces of part [pieces,ld] into dst [n], in the order of the pieces */
static inline void cpu_add_parts(int64_t pieces, int64_t n, const float *part, int64_t ld, float *dst)
{
#pragma omp parallel for schedule(static)
    for (int64_t c0 = 0; c0 < n; c0 += 64) {
        int64_t c1 = cpu_min(n, c0 + 64);

        for (int64_t p = 0; p < pieces; p++)
#pragma omp simd
            for (int64_t c = c0; c < c1; c++)
                dst[c] += part[p * ld + c];
    }
}

#endif
