/* gemm.h - matrix products of the CUDA backend (cuda_matmul)
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_CUDA_GEMM_H
#define SSM_CUDA_GEMM_H

#include "cuda.h"

/* tf32: products of floats may use TF32. gpu: its name. false: see memory_sync(). */
bool gemm_begin(bool tf32, const char *gpu);
/* See plans_take of backend.h. */
enum plans_fit gemm_plans_take(const char *text, const char **why);

#endif
