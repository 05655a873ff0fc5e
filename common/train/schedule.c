/* schedule.c - the learning rate as a pure function of how far the run is
 * SPDX-License-Identifier: MIT
 */
#include "schedule.h"

#include <math.h>

static double fall(int style, double u)
{
    switch (style) {
    case STYLE_COSINE:
        return 0.5 * (1 + cos(3.141592653589793 * u));
    case STYLE_EXPONENTIAL:
        return 2 * pow(0.5, u) - 1;
    case STYLE_MINUS_SQRT:
        return 1 - sqrt(u);
    default:
        return 1 - u;
    }
}

double schedule_rate(const struct schedule *s, int64_t at)
{
    if (at <= s->warmup)
        return s->peak * (double)at / (double)s->warmup;
    if (s->kind == SCHEDULE_CONSTANT)
        return s->peak;
    if (s->kind == SCHEDULE_INVERSE_SQRT)
        return fmax(s->floor, s->peak * sqrt((double)(s->warmup > 1 ? s->warmup : 1) / (double)at));
    int64_t begin = s->kind == SCHEDULE_WSD ? s->length - s->decay : s->warmup;
    int style = s->kind == SCHEDULE_WSD ? s->style : s->kind == SCHEDULE_LINEAR ? STYLE_LINEAR : STYLE_COSINE;
    if (at <= begin)
        return s->peak;
    if (at - begin >= s->decay)
        return s->floor;
    return s->floor + (s->peak - s->floor) * fall(style, (double)(at - begin) / (double)s->decay);
}
