/* judge.h - the verdict on a step, which the CPU and the GPU share (struct judge of backend.h)
 * SPDX-License-Identifier: MIT
 *
 * All ranks must come to the same one, to the bit: doubles, in one order, and no operation that IEEE 754 leaves open.
 */
#ifndef SSM_JUDGE_H
#define SSM_JUDGE_H

#include <math.h>

#include "backend.h"

#ifdef __CUDACC__
__host__ __device__
#endif
static inline void judge_step(const struct judge *a)
{
    struct verdict v = { 0, sqrt(a->seen[1]) / a->count, 0 };

    for (int64_t r = 0; r < a->ranks; r++)
        v.loss += a->seen[2 * r];
    v.loss /= a->count;
    bool finite = v.loss - v.loss == 0 && v.norm - v.norm == 0; /* isfinite() is another thing in C and in C++ */
    if (finite && (float)v.loss <= a->loss_limit && (float)v.norm <= a->norm_limit)
        v.gscale = (float)((a->clip > 0 && v.norm > a->clip ? a->clip / v.norm : 1) / a->count);
    *a->verdict = v;
}

#endif
