/* ckpt_private.h - what the writer and the reader of checkpoints share: the table of pieces
 * SPDX-License-Identifier: MIT
 *
 * Only ckpt*.c includes it. ckpt.c: pieces, what can be wrong with them, how writers share tensors;
 * ckpt_write.c: members and index; ckpt_read.c: slabs of tensors.
 */
#ifndef SSM_CKPT_PRIVATE_H
#define SSM_CKPT_PRIVATE_H

#include "ckpt.h"
#include "h5.h"

#define CKPT_KIND_SET "ssmtools checkpoint"
#define CKPT_KIND_FILE "ssmtools checkpoint member"
enum { CKPT_FORMAT = 2, CKPT_MAX_DATASET = 136, CKPT_COLUMNS = 8 };

/* A row of /pieces; packed. */
struct ckpt_row {
    char tensor[CKPT_MAX_NAME];
    char dataset[CKPT_MAX_DATASET];
    int64_t ndim, shape[CKPT_MAX_DIM], offset[CKPT_MAX_DIM], count[CKPT_MAX_DIM];
    int64_t member;
    int64_t dtype; /* enum ckpt_dtype; not in format 1 */
};
extern const struct h5_column ckpt_columns[CKPT_COLUMNS];

/* Reads /pieces of a file with these attributes of "/"; *rows is the caller's to free. 0, or -1 with err_last(). */
int ckpt_try_table(struct h5 *f, const struct attrs *root, struct ckpt_row **rows, int64_t *n)
    __attribute__((warn_unused_result));
enum h5_type ckpt_h5_type(enum ckpt_dtype d);

/* Elements of a shape; -1 when the product does not fit. */
int64_t ckpt_product(int64_t ndim, const int64_t *shape);
/* Name, dimensions and place of one piece make sense. 0, or -1 with err_last(). */
int ckpt_try_piece(const char *name, int64_t ndim, const int64_t *shape, const int64_t *offset,
                   const int64_t *count) __attribute__((warn_unused_result));
/* Sorts the rows (by tensor, then place), fills up dimensions that are not used, and checks all that can be
 * wrong with them. 0, or -1 with err_last(). */
int ckpt_try_rows(struct ckpt_row *r, size_t n, int64_t members) __attribute__((warn_unused_result));

#endif
