/* ids.h - a list of documents' ids, to ask whether one is in it
 * SPDX-License-Identifier: MIT
 *
 * One id a line, a CR before the LF does not count, empty lines neither. Of each id its 64-bit hash is kept
 * (32 bytes of memory an id at most), so among n ids another one is found with a chance of n / 2^64.
 */
#ifndef SSM_IDS_H
#define SSM_IDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ids;
/* Dies when the file cannot be read or has no id in it. */
struct ids *ids_read(const char *path);
void ids_free(struct ids *s);
bool ids_has(const struct ids *s, const void *id, size_t n);
int64_t ids_count(const struct ids *s); /* different ones */
uint64_t ids_hash(const struct ids *s); /* of the file */

#endif
