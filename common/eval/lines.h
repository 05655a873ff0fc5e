/* lines.h - the objects of a JSONL file, one after the other, with the place that each has in it
 * SPDX-License-Identifier: MIT
 *
 * Lines end with LF or CR LF, blank ones are passed over, a byte order mark at the begin of the file is dropped.
 * Files packed by gzip or zstd are read as their contents; "-" is the standard input.
 */
#ifndef SSM_LINES_H
#define SSM_LINES_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/json.h"

enum { LINES_LONGEST = 64 << 20 }; /* bytes of a line at most */

struct lines;
/* Dies when the file cannot be opened. `path` must stay. */
struct lines *lines_open(const char *path);
void lines_close(struct lines *l);
/* The next object, to be freed by json_free(); NULL after the last. Dies with "FILE:LINE: reason" when a line is none,
 * is too long, or the file cannot be read. */
struct json *lines_next(struct lines *l);
/* "FILE:LINE" of the object that came last. Owned by l. */
const char *lines_where(const struct lines *l);
/* XXH3 of all bytes read so far, unpacked. */
uint64_t lines_hash(struct lines *l);

#endif
