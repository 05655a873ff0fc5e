/* idfile.h - raw token ids in files of other programs: a plain array of integers of one type
 * SPDX-License-Identifier: MIT
 *
 * What the readers and writers of such formats (megatron.h, llmc.h) share. All is little endian, and nothing
 * is promised of alignment. Readers return -1 and leave "FILE: reason" in err_last(); writers die. One thread.
 */
#ifndef SSM_IDFILE_H
#define SSM_IDFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The values are Megatron-LM's codes; it has none for u32. */
enum id_type { ID_U8 = 1, ID_I8, ID_I16, ID_I32, ID_I64, ID_F64, ID_F32, ID_U16, ID_U32 };
enum { ID_TYPES = ID_U32 };
const char *id_type_name(enum id_type t); /* "u16" */
int id_type_size(enum id_type t);         /* bytes */
/* How many different ids the type can hold, at most 2^32; 0 for floats. */
int64_t id_type_range(enum id_type t);

/* ---- reading, through a window of at most 1 MiB ---- */

struct id_reader;
/* `path` must be a plain file. */
struct id_reader *id_reader_try_open(const char *path) __attribute__((warn_unused_result));
void id_reader_close(struct id_reader *r); /* NULL is fine */
int64_t id_reader_bytes(const struct id_reader *r);
const char *id_reader_path(const struct id_reader *r);
/* Exactly n bytes at an offset. */
int id_reader_try_bytes(struct id_reader *r, int64_t offset, void *to, size_t n) __attribute__((warn_unused_result));
/* n ids at a byte offset, each checked to be at least 0 and below vocab. */
int id_reader_try_ids(struct id_reader *r, enum id_type t, int64_t offset, int64_t n, int64_t vocab,
                      uint32_t *ids) __attribute__((warn_unused_result));

/* ---- writing; the file appears under its name at id_writer_commit() ---- */

struct id_writer;
struct id_writer *id_writer_open(const char *path, bool force);
/* Appends bytes; or ids, which must fit the type (bug()). */
void id_writer_bytes(struct id_writer *w, const void *data, size_t n);
void id_writer_ids(struct id_writer *w, enum id_type t, const uint32_t *ids, int64_t n);
/* Writes what is still in memory. */
void id_writer_flush(struct id_writer *w);
/* Bytes at a place of their own, past the window: after id_writer_flush(), or in a file that is only written so. */
void id_writer_put(struct id_writer *w, int64_t offset, const void *data, size_t n);
void id_writer_commit(struct id_writer *w);
void id_writer_abort(struct id_writer *w);

#endif
