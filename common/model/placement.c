/* placement.c - where a model runs and in what precision
 * SPDX-License-Identifier: MIT
 */
#include "placement.h"

#include <string.h>

#include "common/base/err.h"
#include "kernels/device.h"

enum { PRECISION_AUTO, PRECISION_FP32, PRECISION_TF32, PRECISION_BF16 };
enum { RESIDUAL_AUTO, RESIDUAL_BF16, RESIDUAL_FP32 };
static const char *const devices[] = { "auto", "cpu", "cuda" };
static const char *const precisions[] = { "auto", "fp32", "tf32", "bf16" };

/* What is left to each rank may come out differently: a GPU that is missing would go unseen. */
static void check_same(struct comm *comm, const struct backend *be)
{
    char first[32] = "";
    snprintf(first, sizeof first, "%s", be->name);
    comm_bcast(comm, first, sizeof first, 0);
    if (strcmp(first, be->name) != 0)
        die("rank 0 runs on '%s', this rank would on '%s': --device says where all do", first, be->name);
}

struct placement placement_open(struct comm *comm, const struct placement_options *o)
{
    const struct device_options how = { .local_rank = comm_local_rank(), .tf32 = o->precision == PRECISION_TF32 };
    const char *why = NULL;
    const struct backend *be = device_open(devices[o->device], &how, &why);
    if (!be)
        die("no device '%s': %s", devices[o->device], why);
    if (why)
        warn("the GPU is not used: %s", why);
    check_same(comm, be);
    bool has_bf16 = be->dtypes & 1u << BF16;
    int precision = o->precision ? o->precision : has_bf16 ? PRECISION_BF16 : PRECISION_FP32;
    if (precision != PRECISION_FP32 && !has_bf16) /* what has bf16 has TF32 */
        die_usage("'%s' of 'precision': the device, '%s', computes in fp32 only", precisions[precision], be->name);
    enum dtype act = precision == PRECISION_BF16 ? BF16 : F32;
    if (o->residual == RESIDUAL_BF16 && act == F32)
        die_usage("'bf16' of 'residual' is less than the activations have, '%s'", precisions[precision]);
    return (struct placement){ be, precisions[precision],
                               { act, o->residual == RESIDUAL_FP32 ? F32 : act } };
}
