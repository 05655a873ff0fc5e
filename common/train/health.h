/* health.h - is this step like those before it?
 * SPDX-License-Identifier: MIT
 *
 * A window of the last HEALTH_WINDOW values of loss and gradient norm; the z-score of a value is its distance from the
 * window's mean in standard deviations, the value itself counted in the window (as llm.c's outlier detector does). The values
 * are kept in fp32, so that a checkpoint carries them to the bit. Values that are not finite stay out.
 */
#ifndef SSM_HEALTH_H
#define SSM_HEALTH_H

#include <stdint.h>

enum { HEALTH_WINDOW = 128 };
/* Above every z-score: with itself in the window a value has at most sqrt(HEALTH_WINDOW - 1), 11.2694. */
#define HEALTH_HIGHEST_Z 11.27

struct health { /* zero-initialise */
    float loss[HEALTH_WINDOW], norm[HEALTH_WINDOW]; /* value i of the run at i mod window */
    int64_t n;                                      /* values so far */
};

/* Takes the values of a step (finite) in, and gives their z-scores; 0 while the window is not full, and where all its values
 * are one. */
void health_add(struct health *h, double loss, double norm, double *loss_z, double *norm_z);
/* The largest loss and gradient norm, rounded to fp32, whose z-scores as the next values are at most loss_z and norm_z (0:
 * not limited); INFINITY where none is too large. */
void health_limits(const struct health *h, double loss_z, double norm_z, float *loss, float *norm);

#endif
