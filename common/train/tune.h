/* tune.h - the algorithms of matrix products, where a device has several: measured once, and kept by a run
 * SPDX-License-Identifier: MIT
 *
 * Another algorithm adds up in another order. So what a run begins with it goes on with: each start keeps the
 * text that it goes by as RUN/inc-NNNN/gemm-plans.tsv, and the next one takes it from beside the checkpoint
 * that it goes on from. The text is the device's (plans_take of kernels/backend.h).
 */
#ifndef SSM_TUNE_H
#define SSM_TUNE_H

#include "common/dist/comm.h"
#include "common/io/ckpt.h"
#include "common/model/config.h"
#include "trainer.h"

#define TUNE_FILE "gemm-plans.tsv"

/* Measures the products of a training on its only rank, by one micro-batch of made-up tokens forward and
 * backward, and writes the new file `path`. Dies, with usage where the device has nothing to choose. */
void tune_measure(const char *path, const struct config *c, const struct backend *be, struct comm *comm,
                  const struct trainer_options *to);
/* Collective. Makes the device go by what the run of checkpoint `from` went by, or, where that is NULL, by
 * the file `given` (NULL: none). Returns the text, which this start keeps, or NULL; free it. Dies, with
 * usage, when there is something wrong with it. */
char *tune_settle(struct comm *comm, const struct backend *be, const char *given, const struct ckpt *from);

#endif
