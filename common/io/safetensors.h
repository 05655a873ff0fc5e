/* safetensors.h - the safetensors format: header of a file, and a writer
 * SPDX-License-Identifier: MIT
 *
 * A file is: u64 length of the header (little endian; at most 100 MB), the header, the data. The header
 * is a JSON object
 *   { "__metadata__": { "format": "pt" }, "NAME": { "dtype": "BF16", "shape": [2, 3], "data_offsets": [0,
 *   12] }, ... }
 * with offsets counted from the first byte of the data; the tensors cover the data without gap or overlap.
 * Several files have an index beside them, model.safetensors.index.json:
 *   { "metadata": { "total_size": BYTES }, "weight_map": { "NAME": "model-00001-of-00002.safetensors",
 *   ... } }
 */
#ifndef SSM_SAFETENSORS_H
#define SSM_SAFETENSORS_H

#include "foreign.h"

/* ---- reading ---- */

/* Reads the header of an open file of `size` bytes and adds its tensors (with `file` as file index) and
 * the strings of its __metadata__ to the list. 0, or -1 with err_last(), "PATH: ...". Users read through
 * archive.h. */
int safetensors_try_header(const char *path, int fd, int64_t size, int file, struct foreign_list *l)
    __attribute__((warn_unused_result));

/* ---- writing ---- */

/* Writes a model into a folder that exists: all its tensors are known at first (name, dtype, ndim and
 * shape are looked at), their elements come one behind the other in the same order. One file,
 * model.safetensors; or, if the data are more than shard_bytes > 0, shards of at most that many bytes (a
 * tensor is never cut: one that is larger has a shard alone), model-00001-of-0000N.safetensors, and the
 * index, which is written last. Each file is whole or not there (out.h). If there is a model already,
 * dies without `force`, and removes it first with it.
 *
 *     struct safetensors_writer *w = safetensors_create(dir, tensors, n, 5LL << 30, force);
 *     for each tensor: safetensors_put_f32(w, rows, count), as often as it takes
 *     safetensors_commit(w);
 *
 * Everything dies on failure (a full disk, a name that comes twice). */
struct safetensors_writer;
struct safetensors_writer *safetensors_create(const char *dir, const struct foreign_tensor *t, size_t n,
                                              int64_t shard_bytes, bool force);
/* The next elements of the current tensor, converted to its dtype (F32, BF16, F16, F64; rounded to
 * nearest even; a finite number that does not fit is an error). A call must not go beyond the end of a
 * tensor. */
void safetensors_put_f32(struct safetensors_writer *w, const float *data, int64_t n);
/* The same for any dtype, as stored: n elements. */
void safetensors_put_raw(struct safetensors_writer *w, const void *data, int64_t n);
/* All elements must have come. Frees w. */
void safetensors_commit(struct safetensors_writer *w);

#endif
