/* half.c - 16-bit floating-point numbers, bf16 and IEEE half, to and from fp32
 * SPDX-License-Identifier: MIT
 *
 * Each number is converted without branches, by integers and one exact or once rounded addition, so that the loops
 * run in vector lanes on any machine.
 */
#include "half.h"

#include <stdbool.h>
#include <string.h>

static inline float to_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* yes where the condition holds, else no. A choice between computed values; a branch would keep compilers from
 * computing both, since floating-point operations could trap. */
static inline uint32_t choose(bool when, uint32_t yes, uint32_t no)
{
    uint32_t mask = 0u - (uint32_t)when;
    return (yes & mask) | (no & ~mask);
}

enum { INFINITE = 0x7f800000 };

/* Exponent and mantissa move to their places in fp32; the exponent's offset grows from 15 to 127. A number below the
 * least normal one, m 2^-24, is read as (1 + m/1024) 2^-14, and the 2^-14 taken off again. */
static inline float from_f16(uint16_t h)
{
    uint32_t a = (uint32_t)(h & 0x7fff) << 13, sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t normal = a + (112u << 23), small = to_bits(to_float(a + (113u << 23)) - 0x1p-14f);
    uint32_t u = choose(a < 1u << 23, small, choose(a >= 31u << 23, a | INFINITE, normal));
    return to_float(u | sign);
}

/* Half an ulp of the result, less one where the result's last bit is 0, is added and the rest cut off. Below the
 * least normal number the addition of 1/2, whose ulp is 2^-24, rounds. */
static inline uint16_t to_f16(float f)
{
    uint32_t u = to_bits(f), a = u & 0x7fffffff, sign = u >> 16 & 0x8000;
    uint32_t normal = (a - (112u << 23) + 0xfff + (a >> 13 & 1)) >> 13;
    uint32_t small = to_bits(to_float(a) + 0.5f) - to_bits(0.5f);
    uint32_t nan = 0x7c00 | (a >> 13 & 0x3ff);
    nan |= choose((nan & 0x3ff) == 0, 0x200, 0);
    uint32_t h = choose(a < 113u << 23, small, choose(a >= 0x477ff000, 0x7c00, normal));
    return (uint16_t)(choose(a > INFINITE, nan, h) | sign);
}

static inline uint16_t to_bf16(float f)
{
    uint32_t u = to_bits(f), a = u & 0x7fffffff;
    uint32_t nan = u >> 16;
    nan |= choose((nan & 0x7f) == 0, 0x40, 0);
    return (uint16_t)choose(a > INFINITE, nan, (u + 0x7fff + (u >> 16 & 1)) >> 16);
}

void half_from_bf16(const void *in, int64_t n, float *out)
{
    const char *p = in;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        out[i] = to_float((uint32_t)h << 16);
    }
}

void half_from_f16(const void *in, int64_t n, float *out)
{
    const char *p = in;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        out[i] = from_f16(h);
    }
}

/* Only asked when there is one. */
static int64_t first_too_large(const float *in, int64_t n, uint32_t limit)
{
    int64_t i = 0;
    while (i < n && ((to_bits(in[i]) & 0x7fffffff) < limit || (to_bits(in[i]) & 0x7fffffff) >= INFINITE))
        i++;
    return i < n ? i : -1;
}

int64_t half_to_bf16(const float *in, int64_t n, void *out)
{
    char *p = out;
    uint32_t large = 0;
#pragma omp simd reduction(| : large)
    for (int64_t i = 0; i < n; i++) {
        uint32_t a = to_bits(in[i]) & 0x7fffffff;
        uint16_t h = to_bf16(in[i]);
        large |= (a >= 0x7f7f8000) & (a < INFINITE);
        memcpy(p + 2 * i, &h, 2);
    }
    return large ? first_too_large(in, n, 0x7f7f8000) : -1;
}

int64_t half_to_f16(const float *in, int64_t n, void *out)
{
    char *p = out;
    uint32_t large = 0;
#pragma omp simd reduction(| : large)
    for (int64_t i = 0; i < n; i++) {
        uint32_t a = to_bits(in[i]) & 0x7fffffff;
        uint16_t h = to_f16(in[i]);
        large |= (a >= 0x477ff000) & (a < INFINITE);
        memcpy(p + 2 * i, &h, 2);
    }
    return large ? first_too_large(in, n, 0x477ff000) : -1;
}
