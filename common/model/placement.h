/* placement.h - where a model runs and in what precision: the options of the tools that run one
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_PLACEMENT_H
#define SSM_PLACEMENT_H

#include "common/base/opt.h"
#include "common/dist/comm.h"
#include "layer.h"

struct placement_options {
    int device, precision, residual; /* choices; the first of each is "auto" */
};

#define OPT_DEVICE(v) OPT_CHOICE(0, "device", v, "auto|cpu|cuda", "where the model runs; auto: a GPU if one works, else the CPU")
#define OPT_PRECISION(v)                                                                                       \
    OPT_CHOICE(0, "precision", v, "auto|fp32|tf32|bf16",                                                       \
               "of activations and matrix products; auto: bf16 on a GPU, fp32 on the CPU")
#define OPT_RESIDUAL(v) OPT_CHOICE(0, "residual", v, "auto|bf16|fp32", "of the residual stream; auto: as the activations")

struct placement {
    const struct backend *be;
    const char *name;           /* of the precision: "fp32", "tf32", "bf16" */
    struct precision precision;
};

/* Collective. Opens the device, this rank's if the host has several. Dies when there is none such, or when it (usage) does
 * not compute so. */
struct placement placement_open(struct comm *comm, const struct placement_options *o);

#endif
