/* ckpt.h - checkpoints: named global tensors, in pieces, in a set of files
 * SPDX-License-Identifier: MIT
 *
 * A checkpoint is a set (set.h) of kind "ssmtools checkpoint". A tensor is known by group and name:
 *   model/NAME    the weights            optim/m/NAME, optim/v/NAME   AdamW's moments
 *   optim/ema/NAME   the running mean of the weights, if the run keeps one
 *   state/...     arrays of the run (carried states)
 * (letters, digits and ._-:+/ only) and always has its global shape, whatever the layout of the program that
 * wrote it. Its elements are stored as fp32, bf16 or IEEE half, all pieces alike, as HDF5 floats, so that other tools
 * see numbers; in memory they are fp32. Each member holds datasets (contiguous, unfiltered, so they can be read with
 * pread) of hyperslabs of such tensors. index.h5 has
 *   /members      see set.h
 *   /pieces       table: tensor, dataset, ndim, shape (global), offset, count, member (row of /members),
 *                 dtype (enum ckpt_dtype)
 *   /config       attributes: the model's configuration
 *   /state        attributes: step, samples, ... of the run; absent in a model without optimizer
 *   /model/NAME   virtual datasets of the whole tensors, for other people's tools
 * The pieces of a tensor cover it exactly once; this is checked when a checkpoint is opened.
 * A member, alone, has the attributes kind and format, its own /pieces, and the datasets: /model/NAME for the first
 * piece of a tensor in this file, /model/NAME@1, NAME@2 for further ones.
 * Format 2. Format 1, which is still read, has no column dtype: all is fp32.
 */
#ifndef SSM_CKPT_H
#define SSM_CKPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/attrs.h"
#include "set.h"

enum { CKPT_MAX_DIM = 4, CKPT_MAX_NAME = 120 };

/* How elements are stored; the numbers are the format's. */
enum ckpt_dtype { CKPT_F32, CKPT_BF16, CKPT_F16, CKPT_DTYPES };

struct ckpt_tensor {
    char name[CKPT_MAX_NAME];   /* "model/layers.0.mixer.in_proj.weight" */
    int ndim;
    int64_t shape[CKPT_MAX_DIM];
    enum ckpt_dtype dtype;      /* 0: fp32 */
};

struct ckpt_piece {
    struct ckpt_tensor tensor;
    int64_t offset[CKPT_MAX_DIM], count[CKPT_MAX_DIM];
    const float *data;          /* contiguous, `count` elements; only for writing, whatever the dtype */
};

const char *ckpt_dtype_name(enum ckpt_dtype d);     /* "f32", "bf16", "f16" */
size_t ckpt_dtype_size(enum ckpt_dtype d);          /* bytes of an element */

/* ---- writing ---- */

/* True when a thread may write a member while another one reads or writes other files: the HDF5 library locks itself. */
bool ckpt_may_thread(void);

/* Writes one member, `part-PPPPP-of-NNNNN.h5`, into the folder of a set (set_prepare() has run), under a
 * temporary name, then renames it and describes it in *m. Pieces without elements are left out. Dies on failure
 * (disk full, ...): the folder then has no index. */
void ckpt_write_member(const char *dir, int part, int parts, const struct ckpt_piece *pieces, int n,
                       struct set_member *m);
/* The same piece by piece, and each piece by rows (of its first dimension), for those who have not all in
 * memory. All rows of a piece must have come before the next one begins. Values are rounded to the tensor's dtype, to
 * nearest even; a finite one that would become infinite is a failure that names tensor and value. */
struct ckpt_writer;
struct ckpt_writer *ckpt_create_member(const char *dir, int part, int parts);
void ckpt_begin_piece(struct ckpt_writer *w, const struct ckpt_piece *piece);
void ckpt_put_rows(struct ckpt_writer *w, const float *data, int64_t rows);
/* Rows whose elements have the tensor's dtype already (ckpt_try_read_raw()): the bytes as they are. */
void ckpt_put_raw_rows(struct ckpt_writer *w, const void *data, int64_t rows);
void ckpt_commit_member(struct ckpt_writer *w, struct set_member *m);

/* Reads the piece tables of the members, checks that they cover every tensor exactly once, and makes index.h5, with which
 * the checkpoint is there once the caller commits it (out.h). `state` may be NULL. `history`: lines, newest last, or NULL.
 * Dies on failure. One process calls it, after all members. */
struct out *ckpt_make_index(const char *dir, const struct set_member *members, int n, const struct attrs *config,
                            const struct attrs *state, const char *history, bool force);
/* And commits it. */
void ckpt_write_index(const char *dir, const struct set_member *members, int n, const struct attrs *config,
                      const struct attrs *state, const char *history, bool force);

/* How `parts` writers share tensors: all of them, one behind the other in the given order, are cut at multiples of
 * total/parts elements, each cut moved to the nearest row of the tensor that it falls into. So every row has
 * exactly one owner and the shares are even to a row. Fills out[0..] (room for n) with the pieces of `part`
 * (0 <= part < parts; data NULL), one a tensor, leaving out tensors of which it has nothing; returns how many. */
int ckpt_cut_rows(const struct ckpt_tensor *t, int n, int part, int parts, struct ckpt_piece *out);
/* Elements of a shape. */
int64_t ckpt_elements(int ndim, const int64_t *shape);

/* ---- reading ---- */

struct ckpt;
/* Opens by folder: index, members' sizes, coverage. NULL with err_last(). */
struct ckpt *ckpt_try_open(const char *dir) __attribute__((warn_unused_result));
void ckpt_close(struct ckpt *c);
const char *ckpt_dir(const struct ckpt *c);
const struct attrs *ckpt_config(const struct ckpt *c);
const struct attrs *ckpt_state(const struct ckpt *c);   /* empty when there is none */
const char *ckpt_history(const struct ckpt *c);
int ckpt_members(const struct ckpt *c);
const struct set_member *ckpt_member(const struct ckpt *c, int i);
int ckpt_tensors(const struct ckpt *c);
const struct ckpt_tensor *ckpt_tensor(const struct ckpt *c, int i); /* sorted by name */
/* Index of a tensor by its full name, or -1. */
int ckpt_find(const struct ckpt *c, const char *name);
int ckpt_pieces(const struct ckpt *c);
/* Piece i; data is NULL. */
const struct ckpt_piece *ckpt_piece(const struct ckpt *c, int i);
/* Checks one member's checksum. 0, or -1 with err_last(). Ranks share the members. */
int ckpt_try_verify(const struct ckpt *c, int member) __attribute__((warn_unused_result));
/* Any hyperslab of a tensor, gathered from whatever pieces hold it, into contiguous memory; fp32 holds every value of
 * every dtype. 0, or -1 with err_last() (no such tensor, another shape than offset+count allows, unreadable file). */
int ckpt_try_read(struct ckpt *c, const char *name, const int64_t *offset, const int64_t *count, float *out)
    __attribute__((warn_unused_result));
/* The same, elements as they are stored: ckpt_dtype_size() bytes each, NaNs with their bits. */
int ckpt_try_read_raw(struct ckpt *c, const char *name, const int64_t *offset, const int64_t *count, void *out)
    __attribute__((warn_unused_result));

#endif
