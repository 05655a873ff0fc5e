/* torchzip.c - the zip files of torch.save()
 * SPDX-License-Identifier: MIT
 *
 * The format: APPNOTE.TXT of PKWARE, 4.3.7 local header, 4.3.12 directory, 4.3.14 to 16 its end, 4.5.3
 * zip64.
 */
#include "torchzip.h"

#include "common/base/err.h"
#include "common/base/mem.h"
#include "pickle.h"

enum {
    MAX_ENTRIES = 1000000,
    MAX_DIRECTORY = 128 << 20, /* bytes */
    MAX_NAME = 1000,
    LOCAL = 30,
    CENTRAL = 46,
    END = 22,
    LOCATOR = 20,
    END64 = 56 /* bytes of the fixed parts */
};

struct entry {
    const char *name; /* n bytes in the directory */
    size_t n;
    int64_t header; /* of its local header */
    int64_t bytes;  /* of its data */
    int64_t limit;  /* where the next one begins */
    uint32_t method, flags;
};

struct zip {
    const char *path;
    int fd;
    char *directory;
    struct entry *e; /* sorted by name */
    size_t n;
    char prefix[MAX_NAME + 1]; /* with its slash */
};

static uint64_t le(const void *p, int bytes)
{
    uint64_t v = 0;
    for (int i = bytes - 1; i >= 0; i--)
        v = v << 8 | ((const unsigned char *)p)[i];
    return v;
}

/* The end record: where the directory is, how long, how many entries. */
static int try_end(struct zip *z, int64_t size, int64_t *at, int64_t *bytes, int64_t *entries)
{
    size_t n = size < END + 65535 ? (size_t)size : END + 65535;
    int64_t base = size - (int64_t)n, end = -1;
    char *tail = xmalloc(n + 1);
    int bad = foreign_try_pread(z->path, z->fd, base, tail, n);
    for (size_t i = n < END ? 0 : n - END + 1; !bad && end < 0 && i-- > 0;)
        if (memcmp(tail + i, "PK\5\6", 4) == 0 && i + END + le(tail + i + 20, 2) == n)
            end = (int64_t)i;
    if (!bad && end < 0)
        bad = err_set("%s: the zip directory at its end is missing (is the file whole?)", z->path);
    if (bad) {
        free(tail);
        return -1;
    }
    const char *p = tail + end;
    uint64_t disks = le(p + 4, 2) | le(p + 6, 2), count = le(p + 10, 2), length = le(p + 12, 4),
             offset = le(p + 16, 4);
    bool wide = count == 0xffff || length == 0xffffffff || offset == 0xffffffff;
    free(tail);
    end += base; /* where the directory must end */
    if (wide) {
        char locator[LOCATOR], record[END64];
        if (end < LOCATOR || foreign_try_pread(z->path, z->fd, end - LOCATOR, locator, LOCATOR) < 0 ||
            memcmp(locator, "PK\6\7", 4) != 0)
            return err_set("%s: the zip64 locator is missing", z->path);
        uint64_t place = le(locator + 8, 8);
        if (place > (uint64_t)end || (uint64_t)end - place < END64 + LOCATOR)
            return err_set("%s: the zip64 directory's end is said to be at byte %llu", z->path,
                           (unsigned long long)place);
        if (foreign_try_pread(z->path, z->fd, (int64_t)place, record, END64) < 0)
            return -1;
        if (memcmp(record, "PK\6\6", 4) != 0)
            return err_set("%s: there is no zip64 directory's end at byte %llu", z->path,
                           (unsigned long long)place);
        disks = le(record + 16, 4) | le(record + 20, 4);
        count = le(record + 32, 8);
        length = le(record + 40, 8);
        offset = le(record + 48, 8);
        end = (int64_t)place;
    }
    if (disks != 0)
        return err_set("%s: a part of a zip archive of several", z->path);
    if (count > MAX_ENTRIES || length > MAX_DIRECTORY)
        return err_set("%s: a zip directory of %llu entries and %llu bytes; %d and %d are allowed", z->path,
                       (unsigned long long)count, (unsigned long long)length, MAX_ENTRIES, MAX_DIRECTORY);
    if (offset > (uint64_t)end || length > (uint64_t)end - offset)
        return err_set("%s: the zip directory is said to be at byte %llu, %llu bytes long", z->path,
                       (unsigned long long)offset, (unsigned long long)length);
    *at = (int64_t)offset;
    *bytes = (int64_t)length;
    *entries = (int64_t)count;
    return 0;
}

/* zip64: fields that are all ones stand, in this order, in the extra field 1. */
static int try_wide(const char *extra, size_t n, uint64_t *real, uint64_t *stored, uint64_t *header)
{
    if (*real != 0xffffffff && *stored != 0xffffffff && *header != 0xffffffff)
        return 0;
    for (size_t i = 0, len; n - i >= 4; i += 4 + len) {
        len = le(extra + i + 2, 2);
        if (len > n - i - 4)
            break;
        if (le(extra + i, 2) != 1)
            continue;
        const char *p = extra + i + 4, *end = p + len;
        uint64_t *const fields[] = { real, stored, header };
        for (int k = 0; k < 3; k++)
            if (*fields[k] == 0xffffffff) {
                if (end - p < 8)
                    return -1;
                *fields[k] = le(p, 8);
                p += 8;
            }
        return 0;
    }
    return -1;
}

static int by_place(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return (x->header > y->header) - (x->header < y->header);
}

static int by_name(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int d = memcmp(x->name, y->name, x->n < y->n ? x->n : y->n);
    return d ? d : (x->n > y->n) - (x->n < y->n);
}

static int try_directory(struct zip *z, int64_t size)
{
    int64_t at = 0, bytes = 0, entries = 0;
    if (try_end(z, size, &at, &bytes, &entries) < 0)
        return -1;
    z->directory = xmalloc((size_t)bytes + 1);
    if (foreign_try_pread(z->path, z->fd, at, z->directory, (size_t)bytes) < 0)
        return -1;
    /* An entry takes CENTRAL bytes at least: no more memory than the directory has reason for. */
    if (entries > bytes / CENTRAL)
        return err_set("%s: %lld entries in a zip directory of %lld bytes", z->path, (long long)entries,
                       (long long)bytes);
    z->e = xcalloc((size_t)entries + 1, sizeof *z->e);
    const char *p = z->directory, *end = p + bytes;
    for (; (int64_t)z->n < entries; z->n++) {
        if (end - p < CENTRAL || memcmp(p, "PK\1\2", 4) != 0)
            return err_set("%s: entry %zu of the zip directory is damaged", z->path, z->n);
        size_t n = le(p + 28, 2), extra = le(p + 30, 2), comment = le(p + 32, 2);
        if ((size_t)(end - p) - CENTRAL < n + extra + comment)
            return err_set("%s: entry %zu of the zip directory is damaged", z->path, z->n);
        uint64_t stored = le(p + 20, 4), real = le(p + 24, 4), header = le(p + 42, 4);
        struct entry *e = &z->e[z->n];
        e->name = p + CENTRAL;
        e->n = n;
        e->flags = (uint32_t)le(p + 8, 2);
        e->method = (uint32_t)le(p + 10, 2);
        if (n > MAX_NAME || foreign_try_name(e->name, n) < 0)
            return err_set("%s: entry %zu of the zip directory has a name that is not allowed", z->path,
                           z->n);
        if (try_wide(e->name + n, extra, &real, &stored, &header) < 0)
            return err_set("%s: zip entry '%.*s' lacks its zip64 sizes", z->path, (int)n, e->name);
        if (e->method == 0 && stored != real)
            return err_set("%s: zip entry '%.*s' has two sizes, %llu and %llu", z->path, (int)n, e->name,
                           (unsigned long long)stored, (unsigned long long)real);
        if (header > (uint64_t)at || stored > (uint64_t)at - header)
            return err_set("%s: zip entry '%.*s' is said to be at byte %llu, %llu bytes long", z->path,
                           (int)n, e->name, (unsigned long long)header, (unsigned long long)stored);
        e->header = (int64_t)header;
        e->bytes = (int64_t)stored;
        p += CENTRAL + n + extra + comment;
    }
    if (z->n > 1)
        qsort(z->e, z->n, sizeof *z->e, by_place);
    for (size_t i = 0; i < z->n; i++) {
        struct entry *e = &z->e[i];
        e->limit = i + 1 < z->n ? z->e[i + 1].header : at;
        if (e->limit - e->header < LOCAL + (int64_t)e->n + e->bytes)
            return err_set("%s: zip entry '%.*s' overlaps the next one", z->path, (int)e->n, e->name);
    }
    if (z->n > 1)
        qsort(z->e, z->n, sizeof *z->e, by_name);
    for (size_t i = 1; i < z->n; i++)
        if (by_name(&z->e[i - 1], &z->e[i]) == 0)
            return err_set("%s: two zip entries are called '%.*s'", z->path, (int)z->e[i].n, z->e[i].name);
    return 0;
}

/* Where the data of PREFIX/name begin: behind a local header, which must agree with the directory. 0; 1:
 * there is no such entry; -1 with err_last(). */
static int try_entry(const struct zip *z, const char *name, int64_t *offset, int64_t *bytes)
{
    char full[2 * MAX_NAME + 2], local[LOCAL], copy[MAX_NAME];
    int n = snprintf(full, sizeof full, "%s%s", z->prefix, name);
    struct entry key = { .name = full, .n = (size_t)n };
    const struct entry *e =
        n < (int)sizeof full && z->n ? bsearch(&key, z->e, z->n, sizeof key, by_name) : NULL;
    if (!e)
        return 1;
    if (e->method != 0 || (e->flags & 1))
        return err_set("%s: zip entry '%s' is %s; torch.save() only stores", z->path, full,
                       e->method ? "compressed" : "encrypted");
    if (foreign_try_pread(z->path, z->fd, e->header, local, LOCAL) < 0 ||
        foreign_try_pread(z->path, z->fd, e->header + LOCAL, copy, e->n) < 0)
        return -1;
    if (memcmp(local, "PK\3\4", 4) != 0 || le(local + 8, 2) != 0 || le(local + 26, 2) != e->n ||
        memcmp(copy, e->name, e->n) != 0)
        return err_set("%s: zip entry '%s' has no header of its own at byte %lld", z->path, full,
                       (long long)e->header);
    *offset = e->header + LOCAL + (int64_t)e->n + (int64_t)le(local + 28, 2);
    *bytes = e->bytes;
    if (*bytes > e->limit - *offset)
        return err_set("%s: zip entry '%s' overlaps the next one", z->path, full);
    return 0;
}

static int find_storage(void *arg, const char *key, size_t n, int64_t *offset, int64_t *bytes)
{
    const struct zip *z = arg;
    char name[MAX_NAME + 8];
    if (n == 0 || n > MAX_NAME - 8 || memchr(key, 0, n))
        return err_set("%s: a storage with a name of %zu bytes that is not allowed", z->path, n);
    snprintf(name, sizeof name, "data/%.*s", (int)n, key);
    int found = try_entry(z, name, offset, bytes);
    return found == 1 ? err_set("%s: there is no zip entry '%s%s'", z->path, z->prefix, name) : found;
}

/* The folder that everything is in. */
static int try_prefix(struct zip *z)
{
    static const char tail[] = "/data.pkl";
    const size_t len = sizeof tail - 1;
    for (size_t i = 0; i < z->n; i++) {
        const struct entry *e = &z->e[i];
        if (e->n <= len || memcmp(e->name + e->n - len, tail, len) != 0 || memchr(e->name, '/', e->n - len))
            continue;
        if (z->prefix[0])
            return err_set("%s: two pickles, '%sdata.pkl' and '%.*s'", z->path, z->prefix, (int)e->n,
                           e->name);
        snprintf(z->prefix, sizeof z->prefix, "%.*s", (int)(e->n - len + 1), e->name);
    }
    if (!z->prefix[0])
        return err_set("%s: a zip file without NAME/data.pkl: torch.save() did not write it", z->path);
    return 0;
}

static int try_byteorder(const struct zip *z)
{
    int64_t offset, bytes;
    char order[16] = "";
    int found = try_entry(z, "byteorder", &offset, &bytes);
    if (found != 0)
        return found < 0 ? -1 : 0;
    if (bytes >= (int64_t)sizeof order ||
        foreign_try_pread(z->path, z->fd, offset, order, (size_t)bytes) < 0 || strcmp(order, "little") != 0)
        return err_set("%s: its byte order is '%s'; only little endian is read", z->path, order);
    return 0;
}

int torchzip_try_read(const char *path, int fd, int64_t size, int file, struct foreign_list *l)
{
    struct zip z = { .path = path, .fd = fd };
    int64_t offset, bytes;
    char *pickle = NULL;
    int bad = -1;
    if (try_directory(&z, size) < 0 || try_prefix(&z) < 0 || try_byteorder(&z) < 0)
        goto out;
    if (try_entry(&z, "data.pkl", &offset, &bytes) != 0)
        goto out;
    if (bytes > PICKLE_MAX) {
        err_set("%s: a pickle of %lld bytes; %d are allowed", path, (long long)bytes, PICKLE_MAX);
        goto out;
    }
    pickle = xmalloc((size_t)bytes + 1);
    if (foreign_try_pread(path, fd, offset, pickle, (size_t)bytes) < 0)
        goto out;
    bad = pickle_try_read(path, pickle, (size_t)bytes, find_storage, &z, file, l);
out:
    free(pickle);
    free(z.e);
    free(z.directory);
    return bad;
}
