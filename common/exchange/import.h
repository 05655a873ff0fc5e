/* import.h - another program's model as one of ours
 * SPDX-License-Identifier: MIT
 *
 * Opening reads configuration and headers and finds every tensor of our table in theirs: what is missing, has
 * another shape or type, or is left over, is said there, before anything is written. Then rows of tensors can
 * be read, or all be written as a checkpoint, block by block.
 */
#ifndef SSM_IMPORT_H
#define SSM_IMPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/io/ckpt.h"
#include "common/model/param.h"

struct import;

/* `source` as archive.h describes, with config.json beside it (not for Megatron-LM). `as`: a family's name,
 * or NULL: as the configuration says. `ignore`: comma-separated keys of config.json to pass over, or NULL.
 * NULL with err_last(), "SOURCE: what is wrong". */
struct import *import_try_open(const char *source, const char *as, const char *ignore)
    __attribute__((warn_unused_result));
void import_close(struct import *im); /* NULL is allowed */

const char *import_family(const struct import *im);
const struct config *import_config(const struct import *im);  /* lives as long as im */
const struct params *import_params(const struct import *im);
enum ckpt_dtype import_dtype(const struct import *im, size_t i);  /* as parameter i is stored */

/* Rows first .. first+rows-1 (of the first dimension) of parameter i as fp32. 0, or -1 with err_last(). */
int import_try_rows(const struct import *im, size_t i, int64_t first, int64_t rows, float *out)
    __attribute__((warn_unused_result));
/* The same rows as they are stored. */
int import_try_raw_rows(const struct import *im, size_t i, int64_t first, int64_t rows, void *out)
    __attribute__((warn_unused_result));

/* Writes the model as a checkpoint of `parts` files, tensors as they are stored there. `history`: its first
 * line. Dies on failure: the folder then has no index. */
void import_write(const struct import *im, const char *dir, int parts, const char *history, bool force);

#endif
