/* idfile.c - raw token ids in files of other programs: a plain array of integers of one type
 * SPDX-License-Identifier: MIT
 */
#include "idfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/base/out.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "raw ids are read and written on little-endian machines only"
#endif

enum { WINDOW = 1 << 20, MUCH = 32 << 10 }; /* bytes; a read of so many goes past the window */

static const struct {
    const char *name;
    int size;
    int64_t range;
} types[ID_TYPES + 1] = {
    [ID_U8] = { "u8", 1, 1LL << 8 },    [ID_I8] = { "i8", 1, 1LL << 7 },    [ID_I16] = { "i16", 2, 1LL << 15 },
    [ID_I32] = { "i32", 4, 1LL << 31 }, [ID_I64] = { "i64", 8, 1LL << 32 }, [ID_F64] = { "f64", 8, 0 },
    [ID_F32] = { "f32", 4, 0 },         [ID_U16] = { "u16", 2, 1LL << 16 }, [ID_U32] = { "u32", 4, 1LL << 32 },
};

const char *id_type_name(enum id_type t) { return types[t].name; }
int id_type_size(enum id_type t) { return types[t].size; }
int64_t id_type_range(enum id_type t) { return types[t].range; }

/* ---- reading ---- */

struct id_reader {
    char *path;
    int fd;
    int64_t bytes;
    int64_t from; /* the window holds [from, from+have) */
    size_t have, cap;
    unsigned char *window;
};

struct id_reader *id_reader_try_open(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would make us wait */
    if (fd < 0 || fstat(fd, &st) < 0) {
        int why = errno;
        if (fd >= 0)
            close(fd);
        err_set("cannot open '%s': %s", path, strerror(why));
        return NULL;
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        err_set("'%s' is not a plain file", path);
        return NULL;
    }
    struct id_reader *r = xcalloc(1, sizeof *r);
    r->path = xstrdup(path);
    r->fd = fd;
    r->bytes = (int64_t)st.st_size;
    r->cap = r->bytes < WINDOW ? (size_t)r->bytes : WINDOW;
    return r;
}

void id_reader_close(struct id_reader *r)
{
    if (!r)
        return;
    close(r->fd);
    free(r->path);
    free(r->window);
    free(r);
}

int64_t id_reader_bytes(const struct id_reader *r) { return r->bytes; }
const char *id_reader_path(const struct id_reader *r) { return r->path; }

/* Reads up to n bytes; fewer at the end of the file. */
static int try_pread(struct id_reader *r, int64_t offset, unsigned char *to, size_t n, size_t *have)
{
    if (file_pread(r->fd, offset, to, n, have) < 0)
        return err_set("'%s': cannot read: %s", r->path, strerror(errno));
    return 0;
}

static int fill_window(struct id_reader *r, int64_t offset)
{
    if (!r->window)
        r->window = xmalloc(r->cap);
    r->from = offset;
    if (try_pread(r, offset, r->window, r->cap, &r->have) < 0)
        return -1;
    return r->have ? 0 : err_set("'%s' has become shorter", r->path);
}

int id_reader_try_bytes(struct id_reader *r, int64_t offset, void *to, size_t n)
{
    unsigned char *out = to;
    if (offset < 0 || offset > r->bytes || (uint64_t)n > (uint64_t)(r->bytes - offset))
        return err_set("'%s' ends before byte %lld", r->path, (long long)offset + (long long)n);
    while (n > 0) {
        if (offset < r->from || offset >= r->from + (int64_t)r->have) {
            size_t have;
            if (n >= MUCH) {
                if (try_pread(r, offset, out, n, &have) < 0)
                    return -1;
                return have == n ? 0 : err_set("'%s' has become shorter", r->path);
            }
            if (fill_window(r, offset) < 0)
                return -1;
        }
        size_t in = (size_t)(offset - r->from), k = r->have - in < n ? r->have - in : n;
        memcpy(out, r->window + in, k);
        out += k;
        offset += (int64_t)k;
        n -= k;
    }
    return 0;
}

/* The i-th integer of a block, which lies anywhere. */
#define WIDEN(type)                               \
    for (int64_t i = 0; i < n; i++) {             \
        type x;                                   \
        memcpy(&x, raw + (size_t)i * sizeof x, sizeof x); \
        if ((uint64_t)(int64_t)x >= (uint64_t)vocab) \
            return i;                             \
        ids[i] = (uint32_t)x;                     \
    }                                             \
    return n

/* Returns n, or the place of the first id outside [0, vocab). */
static int64_t widen(enum id_type t, const unsigned char *raw, int64_t n, int64_t vocab, uint32_t *ids)
{
    switch (t) {
    case ID_U8: WIDEN(uint8_t);
    case ID_I8: WIDEN(int8_t);
    case ID_I16: WIDEN(int16_t);
    case ID_U16: WIDEN(uint16_t);
    case ID_I32: WIDEN(int32_t);
    case ID_U32: WIDEN(uint32_t);
    case ID_I64: WIDEN(int64_t);
    case ID_F64:
    case ID_F32: break;
    }
    bug("ids of type %d", (int)t);
}

static int64_t id_at(enum id_type t, const unsigned char *raw)
{
    int64_t x = 0;
    memcpy(&x, raw, (size_t)types[t].size);
    if (t == ID_I8 || t == ID_I16 || t == ID_I32) {
        int shift = 64 - 8 * types[t].size;
        x = (int64_t)((uint64_t)x << shift) >> shift;
    }
    return x;
}

int id_reader_try_ids(struct id_reader *r, enum id_type t, int64_t offset, int64_t n, int64_t vocab, uint32_t *ids)
{
    unsigned char raw[32 * 1024];
    const int size = types[t].size;
    while (n > 0) {
        int64_t k = n < (int64_t)sizeof raw / size ? n : (int64_t)sizeof raw / size;
        if (id_reader_try_bytes(r, offset, raw, (size_t)(k * size)) < 0)
            return -1;
        int64_t good = widen(t, raw, k, vocab, ids);
        if (good < k)
            return err_set("'%s': id %lld at byte %lld is outside the vocabulary of %lld", r->path,
                           (long long)id_at(t, raw + good * size), (long long)(offset + good * size),
                           (long long)vocab);
        offset += k * size;
        ids += k;
        n -= k;
    }
    return 0;
}

/* ---- writing ---- */

struct id_writer {
    char *path;
    struct out *out;
    int fd;
    int64_t bytes; /* of the file, the window's not counted */
    size_t fill;
    unsigned char window[WINDOW];
};

struct id_writer *id_writer_open(const char *path, bool force)
{
    struct id_writer *w = xcalloc(1, sizeof *w);
    w->path = xstrdup(path);
    w->out = out_open(path, force);
    w->fd = open(out_temp(w->out), O_WRONLY | O_CLOEXEC);
    if (w->fd < 0)
        die_errno("cannot write '%s'", path);
    return w;
}

void id_writer_put(struct id_writer *w, int64_t offset, const void *data, size_t n)
{
    const unsigned char *from = data;
    while (n > 0) {
        ssize_t done = pwrite(w->fd, from, n, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            die_errno("cannot write '%s'", w->path);
        from += done;
        offset += done;
        n -= (size_t)done;
    }
}

void id_writer_flush(struct id_writer *w)
{
    id_writer_put(w, w->bytes, w->window, w->fill);
    w->bytes += (int64_t)w->fill;
    w->fill = 0;
}

void id_writer_bytes(struct id_writer *w, const void *data, size_t n)
{
    const unsigned char *from = data;
    while (n > 0) {
        size_t k = WINDOW - w->fill < n ? WINDOW - w->fill : n;
        memcpy(w->window + w->fill, from, k);
        w->fill += k;
        from += k;
        n -= k;
        if (w->fill == WINDOW)
            id_writer_flush(w);
    }
}

/* One id in as many bytes as the type has: the low ones of a 64-bit number. */
void id_writer_ids(struct id_writer *w, enum id_type t, const uint32_t *ids, int64_t n)
{
    const size_t size = (size_t)types[t].size;
    for (int64_t i = 0; i < n; i++) {
        const uint64_t wide = ids[i];
        if ((int64_t)wide >= types[t].range)
            bug("id %u as %s", ids[i], types[t].name);
        if (WINDOW - w->fill < size)
            id_writer_flush(w);
        memcpy(w->window + w->fill, &wide, size);
        w->fill += size;
    }
}

static void release_writer(struct id_writer *w)
{
    close(w->fd);
    free(w->path);
    free(w);
}

void id_writer_commit(struct id_writer *w)
{
    id_writer_flush(w);
    out_commit(w->out);
    release_writer(w);
}

void id_writer_abort(struct id_writer *w)
{
    out_abort(w->out);
    release_writer(w);
}
