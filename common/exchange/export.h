/* export.h - a model of ours as another program's
 * SPDX-License-Identifier: MIT
 *
 * A folder of config.json and safetensors. The model's file (or, of several, their index) is renamed into
 * place last.
 */
#ifndef SSM_EXPORT_H
#define SSM_EXPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/io/ckpt.h"

enum export_dtype { EXPORT_STORED, EXPORT_F32, EXPORT_BF16, EXPORT_F16 };

struct export_options {
    const char *to;             /* a family's name, or NULL: the first that has a place for everything */
    enum export_dtype dtype;    /* BF16 and F16 leave A_log, D and the like fp32 */
    int64_t shard_bytes;        /* a file holds at most so much; 0: all */
    bool force;                 /* replace the model that is in the folder */
};

struct export;
/* Finds the family, its config.json and the tensors. NULL with err_last(), "CHECKPOINT: why". c is used until
 * closed. */
struct export *export_try_open(struct ckpt *c, const struct export_options *o)
    __attribute__((warn_unused_result));
void export_close(struct export *e); /* NULL is allowed */
const char *export_family(const struct export *e);
/* Writes the folder, which may be there. Dies on failure: there is no model in it then. */
void export_write(struct export *e, const char *dir);

#endif
