/* out.h - output files that are whole or not there
 * SPDX-License-Identifier: MIT
 *
 * A file is written under a temporary name in the folder of its final one, synced, renamed, and the
 * folder synced. Whoever finds the final name finds the whole file. Temporaries go when the process
 * dies by die() or by SIGINT, SIGTERM, SIGHUP (if not handled otherwise); after kill -9 a later
 * out_open() of the same name in the same folder sweeps those whose process is gone.
 */
#ifndef SSM_OUT_H
#define SSM_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct out;

/* Reserves a temporary beside `path`; the caller writes the file out_temp() names by any means.
 * Dies if `path` exists and not `force`, or the folder cannot be written. */
struct out *out_open(const char *path, bool force);
const char *out_temp(const struct out *o);
/* Syncs the temporary, renames it into place, syncs the folder, frees o. Dies on any failure. */
void out_commit(struct out *o);
/* The same, if `still` (NULL: always) says so of `arg` between the sync, which may take long, and the rename; else as
 * out_abort(). Returns what it said. */
bool out_commit_if(struct out *o, bool (*still)(void *), void *arg);
/* Removes the temporary and frees o. */
void out_abort(struct out *o);

/* Writes the whole of a small file through the above. */
void out_write_file(const char *path, const void *data, size_t n, bool force);

/* mkdir -p. Dies with the reason. */
void out_make_dirs(const char *path);
/* Room for `bytes` in `files` new files on the file system of a folder: 0, or -1 with err_last() saying what is short. */
int out_try_room(const char *dir, int64_t bytes, int64_t files) __attribute__((warn_unused_result));
/* fsync of a folder, after names in it changed. */
void out_sync_dir(const char *path);
/* Removes a folder and all that it holds (one level of files and folders of files). Dies with the reason. */
void out_remove_tree(const char *path);

/* Flushes and closes stdout, dies if anything written there was lost (a full disk, a closed pipe). */
void out_close_stdout(void);

bool path_exists(const char *path);
bool path_is_dir(const char *path);
/* "dir/name"; free it. */
char *path_join(const char *dir, const char *name);
/* The part behind the last '/', in place. */
const char *path_base(const char *path);
/* True when both names lead to one file or folder that exists. */
bool path_same(const char *a, const char *b);

#endif
