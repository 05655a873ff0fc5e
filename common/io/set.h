/* set.h - a set of HDF5 files that becomes valid in one instant
 * SPDX-License-Identifier: MIT
 *
 * A set is a folder of member files and one index.h5. The members are written first, each under a temporary
 * name, synced, renamed. The set is valid from the moment index.h5 is renamed into place; a folder
 * without it is nobody's. index.h5 holds
 *   attributes of "/"     kind ("ssmtools token shards", "ssmtools checkpoint"), format (version), history, and
 *                         what the kind wants to say of the whole;
 *   /members              table: name, bytes, xxh3 (of the whole file);
 *   what the kind adds    its own tables, and virtual datasets for h5py and friends. HDF5 reads zeros where
 *                         the source of a virtual dataset is missing, so nothing of ours reads data through them.
 * Our tools open members through the table, check name, size and, where told, checksum.
 */
#ifndef SSM_SET_H
#define SSM_SET_H

#include <stdbool.h>
#include <stdint.h>

/* Plain data: ranks may send it to each other. */
struct set_member {
    char name[64];          /* file name inside the folder, no '/' */
    int64_t bytes;
    uint64_t hash;          /* XXH3-64 of the file */
};

/* True when `dir` holds an index.h5 (valid or not). */
bool set_exists(const char *dir);

/* Makes the folder ready for a new set: creates it, or dies when it holds a set and not `force`; with `force`
 * the old index goes first (the old set is invalid from then on), then its members. Foreign files are
 * never touched; `dir` holding files but no index is accepted. Not collective: one process calls it. */
void set_prepare(const char *dir, bool force);

/* Keeps other processes from writing into the folder until this one ends: `exclusive` for a whole set or its index,
 * shared for parts that several write side by side. Dies when somebody else holds it. On file systems without
 * locks nothing happens. */
void set_lock(const char *dir, bool exclusive);

/* Size and checksum of a member that has been renamed into place. Dies on failure. */
void set_describe(const char *dir, const char *name, struct set_member *m);

/* Checks that a member is there with the right size, and with `deep` the right checksum.
 * 0, or -1 with err_last() naming file and reason. */
int set_try_check(const char *dir, const struct set_member *m, bool deep) __attribute__((warn_unused_result));

/* ---- for the kinds (shard*.c, ckpt*.c) ---- */

struct h5;
/* Writes kind, format and history (lines, newest last) as attributes of "/", and /members. Dies on failure. */
void set_put_head(struct h5 *index, const char *kind, int64_t format, const char *history,
                  const struct set_member *members, int n);
/* Opens DIR/index.h5, checks kind (NULL: any) and format (this one or an older), reads the history (may be NULL: not wanted) and the
 * members, whose names are checked to be plain and different. History and members are the caller's to free. */
struct h5 *set_try_open(const char *dir, const char *kind, int64_t format, char **history,
                        struct set_member **members, int *n) __attribute__((warn_unused_result));
/* Checks that the names are plain file names and all different. */
int set_try_members(const char *dir, const struct set_member *m, int64_t n) __attribute__((warn_unused_result));
/* DIR/index.h5; free it. */
char *set_index_path(const char *dir);
/* Checks kind and format among attributes that were read from `file`. `format` is the newest; a kind goes on reading its
 * older ones. */
struct attrs;
int set_try_kind(const struct attrs *as, const char *file, const char *kind, int64_t format)
    __attribute__((warn_unused_result));
/* A string as it is written in attributes for a checksum: 16 hexadecimal digits. */
void set_format_hash(uint64_t hash, char text[17]);
int set_try_parse_hash(const char *text, uint64_t *hash) __attribute__((warn_unused_result));

#endif
