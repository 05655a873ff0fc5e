/* parts.h - the numbered members of a set of shards: their names, and the index over them
 * SPDX-License-Identifier: MIT
 *
 * A set that is made in N parts has the members part-00000-of-0000N.h5 and so on, counted from 0. Whoever
 * makes them, one job or N of an array, they are joined in this order.
 */
#ifndef SSM_PARTS_H
#define SSM_PARTS_H

#include <stdbool.h>
#include <stdint.h>

enum { PARTS_MOST = 99999 };

/* "part-00001-of-00004.h5"; free it. */
char *parts_name(int64_t part, int64_t parts);
/* The other way: which of how many. False: that is no such name. */
bool parts_parse(const char *name, int64_t *part, int64_t *parts);

struct shard_info;
/* Is the member at `path` there, made from the same (source, tokenizer) as `want` says, so that it need not be made
 * again? *have gets what it says of itself. Dies when it is something else. With `force`: never. */
bool parts_is_there(const char *path, const struct shard_info *want, bool force, struct shard_info *have);

/* Writes the index over all `parts` members in `dir`. Dies when they do not fit together. */
void parts_write_index(const char *dir, int64_t parts, bool force);
/* The same for members that were made one by one: finds how many there are; dies when some are missing, when
 * two sets lie there, and when there is no document in any. Says what it found. */
void parts_join(const char *dir, bool force);
/* Takes away the index, if there is one, and leaves the members. */
void parts_drop_index(const char *dir);

#endif
