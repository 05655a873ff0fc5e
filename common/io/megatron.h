/* megatron.h - Megatron-LM's indexed datasets (MMapIndexedDataset): PREFIX.bin and PREFIX.idx
 * SPDX-License-Identifier: MIT
 *
 * .bin holds the ids of all sequences, raw. .idx, little endian and packed (its arrays are not aligned):
 *      0  "MMIDIDX\0\0"
 *      9  u64     version, 1
 *     17  u8      type of the ids: 1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 6 f64, 7 f32, 8 u16
 *     18  u64     S, sequences
 *     26  u64     D, entries of the last array: documents + 1
 *     34  i32[S]  tokens of each sequence
 *         i64[S]  byte in .bin at which it begins
 *         i64[D]  sequence at which each document begins; 0 first, S last
 *         i8[S]   modes, in multimodal datasets only
 * A document is one sequence or more (preprocess_data.py --split-sentences). Format as in Megatron-LM's
 * megatron/core/datasets/indexed_dataset.py.
 *
 * Memory is bounded whatever S and D are: .idx is read, and written, in blocks.
 */
#ifndef SSM_MEGATRON_H
#define SSM_MEGATRON_H

#include <stdbool.h>
#include <stdint.h>

#include "idfile.h"

struct megatron_info {
    enum id_type type;
    int64_t sequences, documents;
    int64_t tokens;
    int64_t unused; /* bytes of .bin that belong to no sequence */
    bool modes;     /* there are modes, all 0 */
};

/* ---- reading; -1 or NULL with err_last() ---- */

struct megatron;
/* Reads all of .idx once: counts, lengths and places fit .bin, sequences ascend and do not overlap, documents
 * ascend. Floats and modes other than 0 are refused. */
struct megatron *megatron_try_open(const char *prefix) __attribute__((warn_unused_result));
void megatron_close(struct megatron *m); /* NULL is fine */
const struct megatron_info *megatron_info(const struct megatron *m);

struct megatron_sequence {
    int64_t tokens;
    int64_t at;       /* its first byte in .bin */
    int64_t document; /* counted from 0 */
    bool last;        /* of its document */
};
/* Goes to the next sequence, from the first one: 1, 0 after the last, or -1. */
int megatron_try_next(struct megatron *m, struct megatron_sequence *s) __attribute__((warn_unused_result));
/* Begins with the first sequence again. */
void megatron_rewind(struct megatron *m);
/* Tokens [from, from+n) of a sequence; ids are below vocab. */
int megatron_try_read(struct megatron *m, const struct megatron_sequence *s, int64_t from, int64_t n,
                      int64_t vocab, uint32_t *ids) __attribute__((warn_unused_result));

/* ---- writing; dies ---- */

struct megatron_writer;
/* Documents of one sequence each; how many there will be must be known. The ids must fit the type. With
 * `force` a pair that is there is replaced. */
struct megatron_writer *megatron_create(const char *prefix, enum id_type type, int64_t documents, bool force);
void megatron_add(struct megatron_writer *w, const uint32_t *ids, int64_t n);
void megatron_end_doc(struct megatron_writer *w);
/* .bin gets its name first, .idx last; an old .idx goes before: there is never an .idx beside the wrong .bin. */
void megatron_commit(struct megatron_writer *w);
void megatron_abort(struct megatron_writer *w);

#endif
