/* rope.c - rotary position embedding, in place
 * SPDX-License-Identifier: MIT
 *
 * Angles are counted in quarter turns: q = pos f[i], f[i] = base^(-2i/R) 2/pi, in double. What is left of q after
 * its nearest whole number goes through polynomials in float; the whole number mod 4 says which of +-sin and
 * +-cos these are. The rounding of f and of the product is all that a far position costs: at 2^31 3e-7 of an
 * angle at most, the size of a float's own rounding.
 *
 * A job is TILE tokens; sine and cosine are made once a token, PAIRS pairs at a time, for all of its heads.
 */
#include <math.h>
#include <string.h>

#include "cpu.h"
#include "vmath.h"

#define PAIRS 128
#define TILE 16

/* Sine and cosine of the n angles of one token */
static void turn(int64_t n, double pos, const double *f, float *restrict sine, float *restrict cosine)
{
    float rest[PAIRS];
    int32_t quarter[PAIRS];

    /* 1.5 2^52 rounds to an integer and leaves it in the low bits of the sum: |q| < 2^51. */
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        double q = pos * f[i], z = q + 6755399441055744.0;
        int64_t bits;

        memcpy(&bits, &z, sizeof(bits));
        quarter[i] = (int32_t)(bits & 3);
        rest[i] = (float)(q - (z - 6755399441055744.0));
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float s, c, to_s, to_c;

        vmath_sincos_quarter(rest[i], &s, &c);
        to_s = quarter[i] & 1 ? c : s;
        to_c = quarter[i] & 1 ? s : c;
        sine[i] = quarter[i] & 2 ? -to_s : to_s;
        cosine[i] = (quarter[i] + 1) & 2 ? -to_c : to_c;
    }
}

/* (u,v) = (u cos - v sin, v cos + u sin) */
static void turn_pairs(int64_t n, const float *sine, const float *cosine, float *restrict u,
                       float *restrict v)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float s = sine[i], c = cosine[i], p = u[i], q = v[i];

        u[i] = p * c - q * s;
        v[i] = q * c + p * s;
    }
}

void cpu_rope(const struct rope *a)
{
    int64_t half = a->R / 2, M = a->B * a->T, rows = a->rows ? a->rows : a->T, jobs = cpu_ceil(M, TILE);

    CPU_NEED("rope", a, x);
    if (a->R < 0 || a->R > a->hd || a->R % 2)
        cpu_fault("rope", "R", "is odd or not in 0..hd");
    if (rows < a->T)
        cpu_fault("rope", "rows", "is less than T");
    if (a->R > 0 && !(a->base > 0))
        cpu_fault("rope", "base", "is not above 0");
    for (int64_t i0 = 0; i0 < half; i0 += PAIRS) {
        int64_t n = cpu_min(PAIRS, half - i0);
        double f[PAIRS];

        for (int64_t i = 0; i < n; i++)
            f[i] = pow(a->base, -2.0 * (double)(i0 + i) / (double)a->R) * 0.63661977236758134308;
#pragma omp parallel for schedule(static) if (jobs > 1)
        for (int64_t job = 0; job < jobs; job++)
            for (int64_t m = job * TILE; m < cpu_min(M, job * TILE + TILE); m++) {
                int64_t b = m / a->T, t = m % a->T, start = cpu_start(a->start, m);
                int64_t pos = start < -(1LL << 29) ? a->pos0 + t : t - start;
                float sine[PAIRS], cosine[PAIRS], *x = cpu_row(&a->x, b * rows + t) + i0;

                turn(n, (double)(a->inverse ? -pos : pos), f, sine, cosine);
                for (int64_t h = 0; h < a->H; h++)
                    turn_pairs(n, sine, cosine, x + h * a->hd, x + h * a->hd + half);
            }
    }
}
