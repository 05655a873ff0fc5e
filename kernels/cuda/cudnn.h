/* cudnn.h - attention by cuDNN, where it is there and serves the call
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_CUDA_CUDNN_H
#define SSM_CUDA_CUDNN_H

#include "cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Loads libcudnn, unless the environment says SSM_CUDNN=0; its version as cuDNN counts, 91400 for 9.14.0. 0: there is none, and
 * nothing below serves anything. */
int cudnn_begin(void);
/* False, and nothing done, when the call is not served. */
bool cudnn_attn_fwd(const struct attn *a);
bool cudnn_attn_bwd(const struct attn *a);

#ifdef __cplusplus
}
#endif

#endif
