/* schedule.h - the learning rate as a pure function of how far the run is
 * SPDX-License-Identifier: MIT
 *
 * Positions and lengths are in one unit of the caller's: steps, samples or tokens. With w the warm-up, d the decay, L the
 * length of the run, the rate at position x is peak x/w up to x = w, and then
 *   cosine, linear   falls over d to the floor, and stays there
 *   inverse-sqrt     max(floor, peak sqrt(max(w,1)/x)) (Vaswani et al. 2017, 5.3, with the peak as the scale)
 *   wsd              the peak up to L - d, then falls over d to the floor (Hu et al. 2024, MiniCPM)
 *   constant         the peak
 * A fall goes by style; with u from 0 to 1 along it the rate is floor + (peak - floor) f(u),
 *   linear 1-u     cosine (1 + cos(pi u))/2     exponential 2 (1/2)^u - 1     minus-sqrt 1 - sqrt(u)
 * (the styles of Megatron-LM's WSD).
 */
#ifndef SSM_SCHEDULE_H
#define SSM_SCHEDULE_H

#include <stdint.h>

enum schedule_kind { SCHEDULE_COSINE, SCHEDULE_LINEAR, SCHEDULE_INVERSE_SQRT, SCHEDULE_WSD, SCHEDULE_CONSTANT };
enum schedule_style { STYLE_LINEAR, STYLE_COSINE, STYLE_EXPONENTIAL, STYLE_MINUS_SQRT };

struct schedule {
    int kind;               /* enum schedule_kind */
    int style;              /* enum schedule_style, of wsd's decay */
    double peak, floor;     /* learning rates */
    int64_t warmup, decay, length;
};

/* Rate of the step that ends at position `at` (1, 2, ... in steps; samples or tokens taken up to then). Pure. */
double schedule_rate(const struct schedule *s, int64_t at);

#endif
