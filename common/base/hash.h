/* hash.h - 64-bit checksums of bytes and files (XXH3)
 * SPDX-License-Identifier: MIT
 *
 * Guards against truncation, mix-ups and bit rot, not against an attacker. Only hash.c knows xxHash.
 */
#ifndef SSM_HASH_H
#define SSM_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t hash_bytes(const void *data, size_t n);

/* The same value for bytes that come in pieces. hash_end() gives it and makes h ready for the next bytes. */
struct hash;
struct hash *hash_new(void);
void hash_add(struct hash *h, const void *data, size_t n);
uint64_t hash_end(struct hash *h);
void hash_free(struct hash *h);

/* Whole file, streamed. 0, or -1 with err_last(). `bytes` (may be NULL) gets its size. */
int hash_try_file(const char *path, uint64_t *hash, int64_t *bytes) __attribute__((warn_unused_result));

#endif
