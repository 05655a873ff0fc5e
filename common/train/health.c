/* health.c - is this step like those before it?
 * SPDX-License-Identifier: MIT
 */
#include "health.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

/* The z-score of x, which is one of the window's values. */
static double score(const float *window, double x)
{
    double sum = 0, squares = 0;
    for (int i = 0; i < HEALTH_WINDOW; i++)
        sum += window[i];
    double mean = sum / HEALTH_WINDOW;
    for (int i = 0; i < HEALTH_WINDOW; i++)
        squares += (window[i] - mean) * (window[i] - mean);
    double deviation = sqrt(squares / HEALTH_WINDOW);
    return deviation > 0 ? (x - mean) / deviation : 0;
}

void health_add(struct health *h, double loss, double norm, double *loss_z, double *norm_z)
{
    int64_t at = h->n++ % HEALTH_WINDOW;
    h->loss[at] = (float)loss;
    h->norm[at] = (float)norm;
    *loss_z = *norm_z = 0;
    if (h->n < HEALTH_WINDOW)
        return;
    *loss_z = score(h->loss, h->loss[at]);
    *norm_z = score(h->norm, h->norm[at]);
}

/* The floats in their order: of two, the larger has the larger number. */
static int32_t rank_of(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits < 0 ? INT32_MIN - bits : bits;
}

static float of_rank(int32_t rank)
{
    int32_t bits = rank < 0 ? INT32_MIN - rank : rank;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The score grows with the value, so that what is too large can be found by halves. */
static float limit_of(const struct health *h, const float *values, double z)
{
    float window[HEALTH_WINDOW];
    if (z <= 0 || h->n + 1 < HEALTH_WINDOW)
        return INFINITY;
    memcpy(window, values, sizeof window);
    int64_t at = h->n % HEALTH_WINDOW, low = rank_of(-FLT_MAX), high = (int64_t)rank_of(FLT_MAX) + 1;
    while (high - low > 1) { /* low is not too large, and high is or is infinite */
        int64_t middle = low + (high - low) / 2;
        window[at] = of_rank((int32_t)middle);
        bool fits = score(window, window[at]) <= z;
        low = fits ? middle : low;
        high = fits ? high : middle;
    }
    return low == rank_of(FLT_MAX) ? INFINITY : of_rank((int32_t)low);
}

void health_limits(const struct health *h, double loss_z, double norm_z, float *loss, float *norm)
{
    *loss = limit_of(h, h->loss, loss_z);
    *norm = limit_of(h, h->norm, norm_z);
}
