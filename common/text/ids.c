/* ids.c - a list of documents' ids, to ask whether one is in it
 * SPDX-License-Identifier: MIT
 *
 * A table with open addressing, never more than half full; 0 is an empty place.
 */
#include "ids.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/mem.h"

struct ids {
    uint64_t *table;
    size_t room, n; /* room: a power of two */
    uint64_t hash;
};

static uint64_t key_of(const void *id, size_t n)
{
    uint64_t h = hash_bytes(id, n);
    return h ? h : 1;
}

static uint64_t *place(const struct ids *s, uint64_t key)
{
    size_t i = key & (s->room - 1);
    while (s->table[i] && s->table[i] != key)
        i = (i + 1) & (s->room - 1);
    return &s->table[i];
}

static void add(struct ids *s, uint64_t key)
{
    if (2 * (s->n + 1) > s->room) {
        struct ids old = *s;
        s->room = old.room ? old.room * 2 : 1024;
        s->table = xcalloc(s->room, sizeof *s->table);
        for (size_t i = 0; i < old.room; i++)
            if (old.table[i])
                *place(s, old.table[i]) = old.table[i];
        free(old.table);
    }
    uint64_t *at = place(s, key);
    s->n += !*at;
    *at = key;
}

struct ids *ids_read(const char *path)
{
    struct ids *s = xcalloc(1, sizeof *s);
    struct hash *h = hash_new();
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    FILE *f = fopen(path, "rb");
    if (!f)
        die_errno("cannot open '%s'", path);
    while ((len = getline(&line, &cap, f)) >= 0) {
        size_t n = (size_t)len;
        hash_add(h, line, n);
        n -= n && line[n - 1] == '\n';
        n -= n && line[n - 1] == '\r';
        if (n)
            add(s, key_of(line, n));
    }
    if (ferror(f))
        die_errno("cannot read '%s'", path);
    fclose(f);
    free(line);
    if (s->n == 0)
        die("no ids in '%s'", path);
    s->hash = hash_end(h);
    hash_free(h);
    return s;
}

void ids_free(struct ids *s)
{
    if (s)
        free(s->table);
    free(s);
}

bool ids_has(const struct ids *s, const void *id, size_t n) { return *place(s, key_of(id, n)) != 0; }
int64_t ids_count(const struct ids *s) { return (int64_t)s->n; }
uint64_t ids_hash(const struct ids *s) { return s->hash; }
