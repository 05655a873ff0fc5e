/* vmath.h - exp and its relatives for vectorised loops
 * SPDX-License-Identifier: MIT
 *
 * Branch-free functions of one float. A loop over them under `#pragma omp simd` becomes vector code
 * on every instruction set, which calls of libm do not. The coefficients are Chebyshev fits in the
 * stated intervals, computed with 40 digits. NaN gives NaN and infinities give the limits, so a run
 * that diverges is seen; exp below 2^-125 is flushed to 0, since denormal operands are slow.
 *
 * Errors, measured by tests/ops_point.c: exp and 1-exp 1 ulp, sigmoid, softplus and tanh 2.5 ulp, sine and cosine
 * 2 ulp, decay 1.5 ulp (without FMA 6 ulp at products of -9, which are then rounded first), erfc 8e-7 relative for
 * arguments up to 3 (beyond that it grows with the rounding of x^2, as exp(-x^2) must).
 *
 * The files that include this must be compiled without -fassociative-math: vmath_exp relies on the
 * order of its additions.
 */
#ifndef SSM_VMATH_H
#define SSM_VMATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "erfc.h"

/* exp(r) - 1 for |r| <= ln(2)/2 */
static inline float vmath_expm1_near0(float r)
{
    float q = 1.989104592e-4f;

    q = q * r + 1.393369961e-3f;
    q = q * r + 8.333310876e-3f;
    q = q * r + 4.166646448e-2f;
    q = q * r + 1.666666668e-1f;
    q = q * r + 5.000000014e-1f;
    return q * r * r + r;
}

/* exp(x) = 2^n exp(r), n = round(x log2 e), |r| <= ln(2)/2. Adding 1.5 2^23 rounds to an integer and
 * leaves it in the low bits of the sum. ln 2 is split so that n times its upper part is exact. */
static inline float vmath_exp(float x)
{
    float z = x * 1.44269504f + 12582912.0f;
    float n = z - 12582912.0f;
    float r = x - n * 0.693359375f;
    int32_t bits;
    float q, scale;

    r = r + n * 2.12194440e-4f;
    q = vmath_expm1_near0(r) + 1.0f;
    memcpy(&bits, &z, sizeof(bits));
    bits = (int32_t)(((uint32_t)bits + 126u) << 23); /* 2^(n-1): n = 128 must not overflow */
    memcpy(&scale, &bits, sizeof(scale));
    q = q * scale * 2.0f;
    q = x > 88.72283f ? INFINITY : q;
    return x < -86.64339f ? 0.0f : q; /* n-1 < -126 has no normal scale */
}

/* tanh|x| = e/(e+2), e = exp(2|x|) - 1 = 2^n (exp(r) - 1) + (2^n - 1): near 0 no digit of e is lost. From
 * |x| = 10 on the quotient is 1 in float. */
static inline float vmath_tanh(float x)
{
    float t = fabsf(x) > 10.0f ? 20.0f : 2.0f * fabsf(x);
    float z = t * 1.44269504f + 12582912.0f;
    float n = z - 12582912.0f;
    float r = t - n * 0.693359375f;
    int32_t bits;
    float e, scale;

    r = r + n * 2.12194440e-4f;
    memcpy(&bits, &z, sizeof(bits));
    bits = (int32_t)(((uint32_t)bits + 127u) << 23);
    memcpy(&scale, &bits, sizeof(scale));
    e = vmath_expm1_near0(r) * scale + (scale - 1.0f);
    return copysignf(e / (e + 2.0f), x);
}

/* exp(x) for x <= 0, and *gap = 1 - exp(x), which keeps its digits where x is near 0: with p = exp(r)-1 and
 * s = 2^n it is (1-s) - s p, whose first difference is exact */
static inline float vmath_exp_gap(float x, float *gap)
{
    float z = x * 1.44269504f + 12582912.0f;
    float n = z - 12582912.0f;
    float r = x - n * 0.693359375f;
    int32_t bits;
    float p, s;

    r = r + n * 2.12194440e-4f;
    p = vmath_expm1_near0(r);
    memcpy(&bits, &z, sizeof(bits));
    bits = (int32_t)(((uint32_t)bits + 127u) << 23);
    memcpy(&s, &bits, sizeof(s));
    *gap = x < -86.64339f ? 1.0f : (1.0f - s) - s * p;
    return x < -86.64339f ? 0.0f : s * p + s;
}

#define VMATH_LOG2E 1.44269504f
#define VMATH_LN2 0.69314718f

/* 2^(x y) for x y <= 0: the decay of a recurrent state, for which it is made as cheap as it can be. With the
 * product fused into the sums it is rounded but once. 0 below 2^-127, where the scale 2^n has no exponent. */
static inline float vmath_decay(float x, float y)
{
    float z = x * y + 12583039.0f; /* 1.5 2^23 + 127: the low bits are n + 127 */
    float r = x * y - (z - 12583039.0f);
    uint32_t bits;
    float q, scale;

    q = 1.559467755e-4f;
    q = q * r + 1.340664390e-3f;
    q = q * r + 9.617692975e-3f;
    q = q * r + 5.550310551e-2f;
    q = q * r + 2.402265278e-1f;
    q = q * r + 6.931472150e-1f;
    q = q * r + 1.0f;
    memcpy(&bits, &z, sizeof(bits));
    bits <<= 23;
    memcpy(&scale, &bits, sizeof(scale));
    return z < 12582912.0f ? 0.0f : q * scale;
}

static inline float vmath_sigmoid(float x) { return 1.0f / (1.0f + vmath_exp(-x)); }

/* log(1+e) for 0 <= e <= 1, as 2 atanh(s), s = e/(2+e) <= 1/3 */
static inline float vmath_log1p01(float e)
{
    float s = e / (2.0f + e), u = s * s, q;

    q = 0.2081700414f;
    q = q * u + 0.1745736039f;
    q = q * u + 0.2226534485f;
    q = q * u + 0.2857028377f;
    q = q * u + 0.4000001103f;
    q = q * u + 0.6666666665f;
    return 2.0f * s + s * u * q;
}

/* log(1 + exp(x)) = max(x,0) + log(1 + exp(-|x|)) */
static inline float vmath_softplus(float x)
{
    float top = x < 0.0f ? 0.0f : x;

    return top + vmath_log1p01(vmath_exp(x < 0.0f ? x : -x));
}

/* erfc(x) for x >= 0 (erfc.h). Rounding of x^2 is carried along. */
static inline float vmath_erfc_pos(float x)
{
    float t = 1.0f / (1.0f + 0.4f * x);

    return t * ERFC_FIT(t) * vmath_exp(-x * x);
}

/* Phi(x), the normal distribution function, = erfc(-x/sqrt 2)/2: no cancellation in the left tail */
static inline float vmath_normcdf(float x)
{
    float h = 0.5f * vmath_erfc_pos((x < 0.0f ? -x : x) * 0.70710678f);

    return x < 0.0f ? h : 1.0f - h;
}

/* sin and cos of x quarter turns (x pi/2), |x| <= 1/2 */
static inline void vmath_sincos_quarter(float x, float *sine, float *cosine)
{
    float u = x * x, p, q;

    p = -4.602149213e-3f;
    p = p * u + 7.968021765e-2f;
    p = p * u - 6.459634777e-1f;
    q = 9.067398984e-4f;
    q = q * u - 2.086152834e-2f;
    q = q * u + 2.536694104e-1f;
    q = q * u - 1.233700549f;
    *sine = x * u * p + x * 1.570796322f;
    *cosine = q * u + 1.0f;
}

#endif
