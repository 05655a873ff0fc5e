/* llmc.h - token files of llm.c: a header of 256 int32, then ids
 * SPDX-License-Identifier: MIT
 *
 * header[0] 20240520: u16 ids, header[1] 1; 20240801: u32 ids, header[1] 7. header[2]: how many ids, below 2^31.
 * There is no index of documents: llm.c writes the end-of-document id in front of each. Format as in llm.c's
 * dev/data/data_common.py.
 */
#ifndef SSM_LLMC_H
#define SSM_LLMC_H

#include <stdbool.h>
#include <stdint.h>

#include "idfile.h"

struct llmc;
/* Header and size fit together. NULL with err_last(). */
struct llmc *llmc_try_open(const char *path) __attribute__((warn_unused_result));
void llmc_close(struct llmc *f); /* NULL is fine */
int64_t llmc_tokens(const struct llmc *f);
/* Ids [from, from+n), all below vocab. */
int llmc_try_read(struct llmc *f, int64_t from, int64_t n, int64_t vocab, uint32_t *ids)
    __attribute__((warn_unused_result));
/* True when the file begins with one of the magic numbers. */
bool llmc_looks_like(const char *path);

/* type: ID_U16 or ID_U32. Dies. */
struct llmc_writer;
struct llmc_writer *llmc_create(const char *path, enum id_type type, bool force);
void llmc_add(struct llmc_writer *w, const uint32_t *ids, int64_t n); /* 2^31 - 1 at most in all */
void llmc_commit(struct llmc_writer *w);

#endif
