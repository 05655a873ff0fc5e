/* precision_far.h - a device for tests: the CPU's kernels behind memory that the host cannot touch, with bf16
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_PRECISION_FAR_H
#define SSM_PRECISION_FAR_H

#include "kernels/backend.h"

/* Pointers that it hands out lead nowhere: who follows one on the host ends with SIGSEGV. Tensors in bf16 become floats for the
 * CPU's kernels and are rounded when these are done. A call whose dtypes are against backend.h's rules ends with SIGABRT.
 * Downloads beside the ops are made as late as may be. */
const struct backend *far_backend(void);

#endif
