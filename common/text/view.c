/* view.c - a moving view of a file: some of its bytes are in memory
 * SPDX-License-Identifier: MIT
 */
#include "view.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"

void view_init(struct view *v, size_t room)
{
    *v = (struct view){ .fd = -1, .keep = -1, .room = room, .data = xmalloc(room) };
}

void view_open(struct view *v, const char *path, int64_t bytes)
{
    struct stat st;
    v->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (v->fd < 0 || fstat(v->fd, &st) < 0)
        die_errno("cannot open '%s'", path);
    if (st.st_size != bytes)
        die("'%s' changed: it had %lld bytes and has %lld now", path, (long long)bytes,
            (long long)st.st_size);
    (void)posix_fadvise(v->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    v->path = path;
    v->size = bytes;
    v->at = 0;
    v->n = 0;
    v->keep = -1;
}

void view_close(struct view *v)
{
    if (v->fd >= 0)
        close(v->fd);
    v->fd = -1;
}

void view_release(struct view *v)
{
    view_close(v);
    free(v->data);
}

static void fill(struct view *v)
{
    int64_t left = v->size - (v->at + (int64_t)v->n);
    size_t want = v->room - v->n;
    if ((int64_t)want > left)
        want = (size_t)left;
    while (want > 0) {
        ssize_t k = pread(v->fd, v->data + v->n, want, (off_t)(v->at + (int64_t)v->n));
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            die_errno("cannot read '%s'", v->path);
        if (k == 0)
            die("'%s' became shorter while it was read", v->path);
        v->n += (size_t)k;
        want -= (size_t)k;
    }
}

static bool in_window(const struct view *v, int64_t off)
{
    return off >= v->at && off < v->at + (int64_t)v->n;
}

static void load(struct view *v, int64_t off)
{
    v->at = off;
    v->n = 0;
    fill(v);
}

const char *view_see(struct view *v, int64_t off, size_t *n)
{
    if (!in_window(v, off)) {
        int64_t end = v->at + (int64_t)v->n;
        if (v->keep >= v->at && off == end && end - v->keep <= (int64_t)(v->room / 2)) {
            v->n = (size_t)(end - v->keep);
            memmove(v->data, v->data + (v->keep - v->at), v->n);
            v->at = v->keep;
            fill(v);
        } else
            load(v, off);
    }
    *n = (size_t)(v->at + (int64_t)v->n - off);
    return v->data + (off - v->at);
}

char view_byte(struct view *v, int64_t off)
{
    int64_t back = (int64_t)(v->room / 4);
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
