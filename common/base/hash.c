/* hash.c - 64-bit checksums of bytes and files (XXH3)
 * SPDX-License-Identifier: MIT
 */
#include "hash.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "err.h"
#include "mem.h"

uint64_t hash_bytes(const void *data, size_t n) { return XXH3_64bits(data, n); }

struct hash {
    XXH3_state_t *state;
};

struct hash *hash_new(void)
{
    struct hash *h = xcalloc(1, sizeof *h);
    h->state = XXH3_createState();
    if (!h->state)
        die("out of memory");
    XXH3_64bits_reset(h->state);
    return h;
}

void hash_add(struct hash *h, const void *data, size_t n) { XXH3_64bits_update(h->state, data, n); }

uint64_t hash_end(struct hash *h)
{
    uint64_t value = XXH3_64bits_digest(h->state);
    XXH3_64bits_reset(h->state);
    return value;
}

void hash_free(struct hash *h)
{
    if (!h)
        return;
    XXH3_freeState(h->state);
    free(h);
}

int hash_try_file(const char *path, uint64_t *hash, int64_t *bytes)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_set("cannot open '%s': %s", path, strerror(errno));
    enum { BLOCK = 1 << 20 };
    void *block = xmalloc(BLOCK);
    XXH3_state_t *state = XXH3_createState();
    if (!state)
        die("out of memory");
    XXH3_64bits_reset(state);
    size_t n;
    int64_t total = 0;
    while ((n = fread(block, 1, BLOCK, f)) > 0) {
        XXH3_64bits_update(state, block, n);
        total += (int64_t)n;
    }
    int rc = ferror(f) ? err_set("cannot read '%s': %s", path, strerror(errno)) : 0;
    fclose(f);
    *hash = XXH3_64bits_digest(state);
    if (bytes)
        *bytes = total;
    XXH3_freeState(state);
    free(block);
    return rc;
}
