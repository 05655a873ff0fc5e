/* gemm.h - matrix products of the CUDA backend (cuda_matmul)
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_CUDA_GEMM_H
#define SSM_CUDA_GEMM_H

#include "cuda.h"

/* tf32: products of floats may use TF32. false: see memory_sync(). */
bool gemm_begin(bool tf32);

#endif
