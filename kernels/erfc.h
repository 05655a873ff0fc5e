/* erfc.h - the fit of erfc that the CPU and the GPU share
 * SPDX-License-Identifier: MIT
 *
 * ERFC_FIT(t) = P(t) of erfc(x) = t P(t) exp(-x^2) for x >= 0, t = 1/(1+0.4x): relative error 8e-7 up to x = 3. A macro, since
 * it is worked out in C as in CUDA, in vectors of the compiler's making.
 */
#ifndef SSM_ERFC_H
#define SSM_ERFC_H

/* clang-format off */
#define ERFC_FIT(t) \
    (((((((((-3.350112687e-2f * (t) + 2.187853561e-1f) * (t) - 5.465026178e-1f) * (t) + 6.093421803e-1f) * (t) - \
    3.343118762e-1f) * (t) + 2.979731946e-1f) * (t) + 1.210599825e-1f) * (t) + 2.166893860e-1f) * (t) + \
    2.247486653e-1f) * (t) + 2.257168574e-1f)
/* clang-format on */

#endif
