/* stream.c - bytes one after the other: out of files packed by gzip or zstd, and of the standard input
 * SPDX-License-Identifier: MIT
 */
#include "stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"

enum { IN_ROOM = 128 << 10 };

struct stream {
    const char *name;
    int fd;
    bool from_start; /* pread() */
    enum stream_pack pack;
    const struct unpacker *u;
    void *state;
    bool inside;   /* a member or frame has begun and not ended */
    int64_t whole; /* members and frames behind us */
    int64_t read;  /* bytes of the file that were read */
    bool end;      /* of the file */
    size_t in_at, in_n;
    unsigned char in[IN_ROOM];
};

/* ---- what is it? ---- */

static const struct magic {
    const char *name, *bytes;
    size_t n;
} foreign[] = {
    { "xz",
      "\xfd"
      "7zXZ\0",
      6 },
    { "lz4", "\x04\x22\x4d\x18", 4 },
    { "zip", "PK\3\4", 4 },
    { "7-zip", "7z\xbc\xaf\x27\x1c", 6 },
    { "HDF5", "\x89HDF\r\n\x1a\n", 8 },
    { "Parquet", "PAR1\x15", 5 },
    { "Arrow", "ARROW1\0\0", 8 },
};

static bool begins(const unsigned char *p, size_t n, const char *with, size_t len)
{
    return n >= len && memcmp(p, with, len) == 0;
}

/* A zstd frame, or one that decoders skip (pzstd and others put their tables there). */
static bool zstd_begins(const unsigned char *p, size_t n)
{
    return begins(p, n, "\x28\xb5\x2f\xfd", 4) ||
           (n >= 4 && (p[0] & 0xf0) == 0x50 && begins(p + 1, 3, "\x2a\x4d\x18", 3));
}

enum stream_pack stream_detect(const void *p, size_t n)
{
    if (begins(p, n, "\x1f\x8b\x08", 3))
        return STREAM_GZIP;
    return zstd_begins(p, n) ? STREAM_ZSTD : STREAM_PLAIN;
}

const char *stream_foreign(const void *p, size_t n)
{
    const unsigned char *b = p;
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (begins(b, n, foreign[i].bytes, foreign[i].n))
            return foreign[i].name;
    if (begins(b, n, "BZh", 3) && n >= 8 && b[3] >= '1' && b[3] <= '9' && begins(b + 4, n - 4, "1AY&", 4))
        return "bzip2";
    return NULL;
}

const char *stream_pack_name(enum stream_pack pack)
{
    return pack == STREAM_GZIP ? "gzip" : pack == STREAM_ZSTD ? "zstd" : "plain";
}

/* ---- reading ---- */

struct stream *stream_open(const char *name, int fd, bool from_start, enum stream_pack pack)
{
    struct stream *s = xcalloc(1, sizeof *s);
    s->name = name;
    s->fd = fd;
    s->from_start = from_start;
    s->pack = pack;
    return s;
}

void stream_close(struct stream *s)
{
    if (s && s->u)
        s->u->stop(s->state);
    free(s);
}

void stream_restart(struct stream *s)
{
    if (!s->from_start)
        bug("'%s' cannot be read twice", s->name);
    s->in_at = s->in_n = 0;
    s->read = s->whole = 0;
    s->end = s->inside = false;
}

int64_t stream_done(const struct stream *s) { return s->read - (int64_t)(s->in_n - s->in_at); }

/* Makes at least `least` bytes lie there, unless the file ends. */
static int refill(struct stream *s, size_t least)
{
    if (s->in_n - s->in_at >= least || s->end)
        return 0;
    s->in_n -= s->in_at;
    memmove(s->in, s->in + s->in_at, s->in_n);
    s->in_at = 0;
    while (s->in_n < least && !s->end) {
        size_t want = IN_ROOM - s->in_n;
        ssize_t k = s->from_start ? pread(s->fd, s->in + s->in_n, want, (off_t)s->read)
                                  : read(s->fd, s->in + s->in_n, want);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return err_set("cannot read '%s': %s", s->name, strerror(errno));
        s->end = k == 0;
        s->in_n += (size_t)k;
        s->read += k;
    }
    return 0;
}

static int damaged(const struct stream *s, const char *why)
{
    return err_set("'%s': damaged at byte %lld of the %s file: %s", s->name, (long long)stream_done(s),
                   stream_pack_name(s->pack), why);
}

/* Between members: 1 another begins, 0 the file ends, -1 neither. */
static int begin_member(struct stream *s)
{
    if (s->pack == STREAM_GZIP && s->whole > 0) /* padding */
        while (refill(s, 1) == 0 && s->in_at < s->in_n && s->in[s->in_at] == 0)
            s->in_at++;
    if (refill(s, STREAM_MAGIC) < 0)
        return -1;
    const unsigned char *p = s->in + s->in_at;
    size_t n = s->in_n - s->in_at;
    if (n == 0 && s->whole > 0)
        return 0;
    if (n == 0)
        return damaged(s, "it is empty");
    if (n >= 4 && stream_detect(p, n) != s->pack)
        return damaged(s, s->whole > 0 ? "the packed data ends and something else follows"
                                       : "wrong first bytes");
    if (!s->u) {
        s->u = s->pack == STREAM_GZIP ? &unpacker_gzip : &unpacker_zstd;
        s->state = s->u->start();
    }
    s->u->again(s->state);
    s->inside = true;
    return 1;
}

static int read_packed(struct stream *s, char *to, size_t n, size_t *got)
{
    while (*got < n) {
        size_t used, made;
        if (!s->inside) {
            int more = begin_member(s);
            if (more <= 0)
                return more;
        }
        if (refill(s, 1) < 0)
            return -1;
        int r = s->u->step(s->state, s->in + s->in_at, s->in_n - s->in_at, &used, to + *got, n - *got, &made);
        s->in_at += used;
        *got += made;
        if (r < 0) {
            char *why = xstrdup(err_last());
            damaged(s, why);
            free(why);
            return -1;
        }
        if (r == 1) {
            s->inside = false;
            s->whole++;
        } else if (s->end && s->in_at == s->in_n && !used && !made)
            return damaged(s, "it ends early");
    }
    return 0;
}

int stream_try_read(struct stream *s, void *to, size_t n, size_t *got)
{
    *got = 0;
    if (s->pack == STREAM_DETECT) {
        if (refill(s, STREAM_MAGIC) < 0)
            return -1;
        const char *what = stream_foreign(s->in, s->in_n);
        if (what)
            return err_set("'%s' is %s, which is not read: unpack it, or --compression none", s->name, what);
        s->pack = stream_detect(s->in, s->in_n);
    }
    if (s->pack != STREAM_PLAIN)
        return read_packed(s, to, n, got);
    while (*got < n) {
        if (refill(s, 1) < 0)
            return -1;
        size_t k = s->in_n - s->in_at < n - *got ? s->in_n - s->in_at : n - *got;
        if (k == 0)
            break;
        memcpy((char *)to + *got, s->in + s->in_at, k);
        s->in_at += k;
        *got += k;
    }
    return 0;
}
