/* device.h - opens the backend that a user asks for
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_DEVICE_H
#define SSM_DEVICE_H

#include "backend.h"

struct device_options {
    int local_rank;     /* among the ranks of this host: takes a GPU each */
    bool tf32;          /* products of floats may use TF32 */
};

/* name: "cpu"; "cuda": the shared object libssmcuda.so, looked for where SSM_CUDA says, or in ../lib beside the folder of the program;
 * "auto": cuda if it can be had, else cpu. NULL: *why says in one line why not. With "auto" *why may say why a GPU that is
 * there is not used; otherwise it is NULL. To be called once. */
const struct backend *device_open(const char *name, const struct device_options *o, const char **why);

/* The one symbol of the shared object. version: BACKEND_VERSION. *absent: there is no GPU, or no driver, at all. */
typedef const struct backend *device_entry(int version, const struct device_options *o, const char **why, bool *absent);
#define DEVICE_ENTRY "ssm_device_open"

#endif
