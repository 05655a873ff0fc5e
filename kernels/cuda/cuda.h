/* cuda.h - what the files of the CUDA backend share: op names, errors, the stream
 * SPDX-License-Identifier: MIT
 *
 * Ops are begun on one stream and return at once; nothing but sync(), download(), wait_downloads(), between() and
 * answer() waits, and matmul while products are measured. An error is kept until fault() or sync() tells it.
 */
#ifndef SSM_CUDA_H
#define SSM_CUDA_H

#include <stdio.h>
#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/backend.h"

void cuda_matmul(const struct matmul *a);
size_t cuda_colsum_work(const struct colsum *a);
void cuda_colsum(const struct colsum *a);
size_t cuda_embed_work(const struct embed *a);
void cuda_embed_fwd(const struct embed *a);
void cuda_embed_bwd(const struct embed *a);
size_t cuda_norm_work(const struct norm *a);
void cuda_norm_fwd(const struct norm *a);
void cuda_norm_bwd(const struct norm *a);
size_t cuda_gatednorm_work(const struct gatednorm *a);
void cuda_gatednorm_fwd(const struct gatednorm *a);
void cuda_gatednorm_bwd(const struct gatednorm *a);
size_t cuda_conv1d_work(const struct conv1d *a);
void cuda_conv1d_fwd(const struct conv1d *a);
void cuda_conv1d_bwd(const struct conv1d *a);
void cuda_conv1d_step(const struct conv1d *a);
size_t cuda_ssd_work(const struct ssd *a);
void cuda_ssd_fwd(const struct ssd *a);
void cuda_ssd_bwd(const struct ssd *a);
void cuda_ssd_step(const struct ssd *a);
size_t cuda_scan_work(const struct scan *a);
void cuda_scan_fwd(const struct scan *a);
void cuda_scan_bwd(const struct scan *a);
void cuda_scan_step(const struct scan *a);
size_t cuda_rglru_work(const struct rglru *a);
void cuda_rglru_fwd(const struct rglru *a);
void cuda_rglru_bwd(const struct rglru *a);
void cuda_rglru_step(const struct rglru *a);
void cuda_rope(const struct rope *a);
size_t cuda_attn_work(const struct attn *a);
void cuda_attn_fwd(const struct attn *a);
void cuda_attn_bwd(const struct attn *a);
void cuda_attn_step(const struct attn *a);
void cuda_act_fwd(const struct activation *a);
void cuda_act_bwd(const struct activation *a);
size_t cuda_xent_work(const struct xent *a);
void cuda_xent(const struct xent *a);
void cuda_cast(const struct cast *a);
void cuda_total(const struct total *a);
void cuda_judge(const struct judge *a);
void cuda_adamw(const struct adamw *a);
/* [CUDA_TOTAL_PARTS] for sums that are under way, in device memory */
enum { CUDA_TOTAL_PARTS = 1024 };
double *cuda_total_parts(void);

/* The stream that ops run on (a cudaStream_t). */
void *cuda_stream(void);
/* Multiprocessors of the device. */
int cuda_processors(void);
/* Exchanges with other ranks hold so many of them, until they hold 0. */
void cuda_hold(int processors);
/* The others. A kernel that has a block for each multiprocessor takes twice as long when it has one too many, so those that choose
 * their number of blocks, and products of matrices, go by this one; scratch is sized by all. */
int cuda_processors_left(void);
/* Keeps the first error: `what` failed with this cudaError_t. 0 is none. */
void cuda_note(const char *what, int error);
void cuda_note_text(const char *what, const char *text);

/* A mistake of the caller: one line, then abort. */
static inline void cuda_fault(const char *op, const char *field, const char *what)
{
    fprintf(stderr, "cuda: %s: '%s' %s\n", op, field, what);
    abort();
}

static inline void cuda_need(const char *op, const char *field, const struct tensor *t)
{
    if (!t->data)
        cuda_fault(op, field, "is absent");
    if (t->dtype != F32 && t->dtype != BF16)
        cuda_fault(op, field, "is neither F32 nor BF16");
}
#define CUDA_NEED(op, a, field) cuda_need(op, #field, &(a)->field)

#ifdef __cplusplus
}
#endif

#endif
