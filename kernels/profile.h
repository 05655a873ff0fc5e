/* profile.h - where the time of a training step goes, op by op
 * SPDX-License-Identifier: MIT
 *
 * A backend in front of another: each call is put between two marks and counted by cost.h. One a process.
 */
#ifndef SSM_PROFILE_H
#define SSM_PROFILE_H

#include <stdio.h>

#include "backend.h"

/* The same ops as `be`, which are measured for `steps` steps, after the first three; then a table goes to `out` and
 * measuring ends. */
const struct backend *profile_wrap(const struct backend *be, int64_t steps, FILE *out);
/* A step is over. Nothing when no backend is wrapped. */
void profile_step(void);
/* There are no more steps: prints what there is when fewer were made. */
void profile_end(void);

#endif
