/* pickle.h - what torch.save() pickles, read by a machine that builds values and can call nothing
 * SPDX-License-Identifier: MIT
 *
 * A pickle is a program for a stack machine whose opcodes may import and call anything. This machine
 * knows the opcodes of protocols 2 to 5 that Python's pickler emits, and gives a meaning of its own to a
 * short list of imported names (pickle_names.c): dictionaries, tensors and their storages, torch's
 * dtypes, argparse.Namespace; some more make values that nobody looks at (paths, enumerations, numpy's
 * random state). Any other name, opcode or call is refused. Nothing is executed.
 *
 * Time and memory are bounded by the size of the pickle and by the limits at the top of pickle_private.h.
 */
#ifndef SSM_PICKLE_H
#define SSM_PICKLE_H

#include "foreign.h"

enum { PICKLE_MAX = 64 << 20 };     /* bytes */

/* Where the bytes of storage `key` (n bytes of text) stand: 0 with *offset and *bytes, or -1 with
 * err_last(). */
typedef int pickle_find_storage(void *arg, const char *key, size_t n, int64_t *offset, int64_t *bytes);

/* Runs a pickle of at most PICKLE_MAX bytes and adds the tensors (with `file` as file index) and plain
 * values that its result holds to the list, by dotted names (archive.h). 0, or -1 with err_last(), "PATH:
 * ...". */
int pickle_try_read(const char *path, const void *data, size_t n, pickle_find_storage *find, void *arg,
                    int file, struct foreign_list *l) __attribute__((warn_unused_result));

#endif
