/* view.c - a moving view of a file or stream: some of its bytes are in memory
 * SPDX-License-Identifier: MIT
 */
#include "view.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "stream.h"

void view_init(struct view *v, size_t room)
{
    *v = (struct view){ .fd = -1, .keep = -1, .room = room, .most = room, .data = xmalloc(room) };
}

static void start(struct view *v, const char *path, int64_t bytes)
{
    v->open = true;
    v->path = path;
    v->size = bytes;
    v->at = 0;
    v->n = 0;
    v->keep = -1;
}

void view_open(struct view *v, const char *path, int64_t bytes, int pack)
{
    struct stat st;
    v->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (v->fd < 0 || fstat(v->fd, &st) < 0)
        die_errno("cannot open '%s'", path);
    if (st.st_size != bytes)
        die("'%s' changed: it had %lld bytes and has %lld now", path, (long long)bytes,
            (long long)st.st_size);
    (void)posix_fadvise(v->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    if (pack != STREAM_PLAIN)
        v->stream = stream_open(path, v->fd, true, (enum stream_pack)pack);
    start(v, path, v->stream ? INT64_MAX : bytes);
}

void view_open_stdin(struct view *v, int pack)
{
    start(v, "the standard input", INT64_MAX);
    v->stream = stream_open(v->path, STDIN_FILENO, false, (enum stream_pack)pack);
}

void view_close(struct view *v)
{
    stream_close(v->stream);
    v->stream = NULL;
    if (v->fd >= 0)
        close(v->fd);
    v->fd = -1;
    v->open = false;
}

void view_release(struct view *v)
{
    view_close(v);
    free(v->data);
    v->data = NULL;
}

static void fill_from_stream(struct view *v)
{
    size_t got, want = v->room - v->n;
    if (stream_try_read(v->stream, v->data + v->n, want, &got) < 0)
        die("%s", err_last());
    v->n += got;
    if (got < want)
        v->size = v->at + (int64_t)v->n;
}

static void fill(struct view *v)
{
    if (v->stream) {
        fill_from_stream(v);
        return;
    }
    int64_t left = v->size - (v->at + (int64_t)v->n);
    size_t want = v->room - v->n;
    if ((int64_t)want > left)
        want = (size_t)left;
    size_t have;
    if (file_pread(v->fd, v->at + (int64_t)v->n, v->data + v->n, want, &have) < 0)
        die_errno("cannot read '%s'", v->path);
    if (have < want)
        die("'%s' became shorter while it was read", v->path);
    v->n += have;
}

static bool in_window(const struct view *v, int64_t off)
{
    return off >= v->at && off < v->at + (int64_t)v->n;
}

/* Moves the view so that it begins with `from`, one of its bytes or its end, and goes on behind its end. */
static void slide(struct view *v, int64_t from)
{
    v->n = (size_t)(v->at + (int64_t)v->n - from);
    memmove(v->data, v->data + (from - v->at), v->n);
    v->at = from;
    fill(v);
}

static void load(struct view *v, int64_t off)
{
    v->at = off;
    v->n = 0;
    fill(v);
}

/* The next bytes of a stream. A quarter of the view stays whatever is kept, for looks back. */
static void unpack_more(struct view *v)
{
    int64_t end = v->at + (int64_t)v->n, from = end - (int64_t)(v->room / 4);
    if (v->keep >= v->at && v->keep < from) {
        if (end - v->keep > (int64_t)(v->room / 2) && v->room < v->most) {
            v->room = v->room < v->most / 2 ? v->room * 2 : v->most;
            v->data = xrealloc(v->data, v->room);
        }
        if (end - v->keep <= (int64_t)(v->room / 2))
            from = v->keep;
    }
    slide(v, from > v->at ? from : v->at);
}

static void unpack_to(struct view *v, int64_t off)
{
    if (off < v->at) {
        stream_restart(v->stream);
        load(v, 0);
    }
    while (!in_window(v, off) && v->at + (int64_t)v->n < v->size) {
        if (off > v->at + (int64_t)v->n + (int64_t)v->room)
            load(v, v->at + (int64_t)v->n);
        else
            unpack_more(v);
    }
}

bool view_more(struct view *v, int64_t off)
{
    if (v->stream && off >= v->at + (int64_t)v->n && off < v->size)
        unpack_to(v, off);
    return off < v->size;
}

const char *view_see(struct view *v, int64_t off, size_t *n)
{
    if (!in_window(v, off)) {
        int64_t end = v->at + (int64_t)v->n;
        if (v->stream)
            unpack_to(v, off);
        else if (v->keep >= v->at && off == end && end - v->keep <= (int64_t)(v->room / 2))
            slide(v, v->keep);
        else
            load(v, off);
    }
    if (!in_window(v, off))
        die("'%s' changed: it became shorter while it was read", v->path);
    *n = (size_t)(v->at + (int64_t)v->n - off);
    return v->data + (off - v->at);
}

char view_byte(struct view *v, int64_t off)
{
    int64_t back = (int64_t)(v->room / 4);
    size_t n;
    if (v->stream)
        return *view_see(v, off, &n);
    if (!in_window(v, off))
        load(v, off > back ? off - back : 0);
    return v->data[off - v->at];
}

bool view_same(struct view *v, int64_t off, const char *s, size_t len)
{
    while (len > 0) {
        size_t n;
        const char *p = view_see(v, off, &n);
        n = n < len ? n : len;
        if (memcmp(p, s, n) != 0)
            return false;
        off += (int64_t)n;
        s += n;
        len -= n;
    }
    return true;
}
