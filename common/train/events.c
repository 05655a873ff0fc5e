/* events.c - event files for TensorBoard
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include "events.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"

struct events {
    int fd;
    char *path;
};

uint32_t events_crc(const void *data, size_t n)
{
    static uint32_t table[256];
    const unsigned char *p = data;
    uint32_t c = 0xffffffff;
    for (uint32_t i = 0; !table[255] && i < 256; i++) {
        uint32_t r = i;
        for (int k = 0; k < 8; k++)
            r = r >> 1 ^ (r & 1 ? 0x82f63b78 : 0);
        table[i] = r;
    }
    for (size_t i = 0; i < n; i++)
        c = c >> 8 ^ table[(c ^ p[i]) & 255];
    return ~c;
}

/* ---- bytes of protocol buffers ---- */

static void add_le(struct buf *b, uint64_t x, int bytes)
{
    for (int i = 0; i < bytes; i++)
        buf_add(b, &(unsigned char){ (unsigned char)(x >> 8 * i) }, 1);
}

static void add_varint(struct buf *b, uint64_t x)
{
    for (; x > 127; x >>= 7)
        buf_add(b, &(unsigned char){ (unsigned char)(x | 128) }, 1);
    buf_add(b, &(unsigned char){ (unsigned char)x }, 1);
}

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };
static void add_key(struct buf *b, int field, int type) { add_varint(b, (uint64_t)(field << 3 | type)); }

static void add_bytes(struct buf *b, int field, const void *data, size_t n)
{
    add_key(b, field, BYTES);
    add_varint(b, n);
    buf_add(b, data, n);
}

static void add_head(struct buf *b, int64_t step)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    uint64_t bits;
    memcpy(&bits, &seconds, sizeof bits);
    add_key(b, 1, FIXED64);
    add_le(b, bits, 8);
    add_key(b, 2, VARINT);
    add_varint(b, (uint64_t)step);
}

static uint32_t masked(const void *data, size_t n)
{
    uint32_t c = events_crc(data, n);
    return (c >> 15 | c << 17) + 0xa282ead8;
}

/* Frees the event. */
static void put(struct events *e, struct buf *event)
{
    struct buf r = { 0 };
    add_le(&r, event->len, 8);
    add_le(&r, masked(r.data, 8), 4);
    buf_add(&r, event->data, event->len);
    add_le(&r, masked(event->data, event->len), 4);
    for (size_t done = 0; done < r.len;) {
        ssize_t k = write(e->fd, r.data + done, r.len - done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            die_errno("cannot write '%s'", e->path);
        done += (size_t)k;
    }
    buf_free(&r);
    buf_free(event);
}

struct events *events_open(const char *dir)
{
    static const char version[] = "brain.Event:2";
    char host[64] = "host";
    struct buf b = { 0 };
    gethostname(host, sizeof host - 1);
    struct events *e = xcalloc(1, sizeof *e);
    e->path =
        xasprintf("%s/events.out.tfevents.%010lld.%s.%ld", dir, (long long)time(NULL), host, (long)getpid());
    e->fd = open(e->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (e->fd < 0)
        die_errno("cannot write '%s'", e->path);
    add_head(&b, 0);
    add_bytes(&b, 3, version, sizeof version - 1);
    put(e, &b);
    return e;
}

void events_write(struct events *e, int64_t step, const struct scalar *s, size_t n)
{
    struct buf b = { 0 }, summary = { 0 };
    for (size_t i = 0; i < n; i++) {
        struct buf value = { 0 };
        float x = (float)s[i].value;
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        add_bytes(&value, 1, s[i].tag, strlen(s[i].tag));
        add_key(&value, 2, FIXED32);
        add_le(&value, bits, 4);
        add_bytes(&summary, 1, value.data, value.len);
        buf_free(&value);
    }
    add_head(&b, step);
    add_bytes(&b, 5, summary.data, summary.len);
    buf_free(&summary);
    put(e, &b);
}

void events_close(struct events *e)
{
    if (!e)
        return;
    close(e->fd);
    free(e->path);
    free(e);
}
