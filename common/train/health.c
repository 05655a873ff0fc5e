/* health.c - is this step like those before it?
 * SPDX-License-Identifier: MIT
 */
#include "health.h"

#include <math.h>

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
