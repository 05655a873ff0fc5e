/* links.h - exchange of device memory between ranks (struct links of backend.h) by NCCL; emulated, by memory that they share
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_CUDA_LINKS_H
#define SSM_CUDA_LINKS_H

#include "cuda.h"

/* Never NULL: where there is no libnccl, opening a group says so. */
const struct links *links_begin(void);

#endif
