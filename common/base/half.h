/* half.h - 16-bit floating-point numbers, bf16 and IEEE half, to and from fp32
 * SPDX-License-Identifier: MIT
 *
 * Every 16-bit number is an fp32 number, so reading is exact. Writing rounds to nearest, ties to even. NaNs keep their
 * sign and upper bits, so a code that is read and written again is the same code, all 65536 of them. The 16-bit side
 * needs no alignment and does not overlap the other.
 */
#ifndef SSM_HALF_H
#define SSM_HALF_H

#include <stdint.h>

void half_from_bf16(const void *in, int64_t n, float *out);
void half_from_f16(const void *in, int64_t n, float *out);
/* The index of the first finite number that is too large and became infinite, or -1. */
int64_t half_to_bf16(const float *in, int64_t n, void *out);
int64_t half_to_f16(const float *in, int64_t n, void *out);

#endif
