/* gemm.h - matrix products of the CUDA backend (cuda_matmul)
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_CUDA_GEMM_H
#define SSM_CUDA_GEMM_H

#include "cuda.h"

/* tf32: products of floats may use TF32. false: see memory_sync(). */
bool gemm_begin(bool tf32);

/* Products that are begun from now on leave so many multiprocessors to others: one that counts on all of them would take
 * twice as long beside a single block that stays. */
void gemm_spare(int processors);

#endif
