/* lines.c - the objects of a JSONL file, one after the other, with the place that each has in it
 * SPDX-License-Identifier: MIT
 */
#include "lines.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/mem.h"
#include "common/text/jsonl.h"
#include "common/text/stream.h"

enum { PIECE = 1 << 16 };

struct lines {
    const char *path;
    int fd;
    struct stream *s;
    struct hash *h;
    char *where;
    int64_t line;
    struct buf text;        /* of the current line */
    char piece[PIECE];
    size_t at, n;           /* of the piece: bytes used, bytes there */
    bool end;
};

struct lines *lines_open(const char *path)
{
    struct lines *l = xcalloc(1, sizeof *l);
    bool standard = strcmp(path, "-") == 0;
    struct stat st;
    *l = (struct lines){ .path = standard ? "standard input" : path };
    l->fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (l->fd < 0 || fstat(l->fd, &st) < 0)
        die_errno("cannot open '%s'", path);
    if (S_ISDIR(st.st_mode))
        die("'%s' is a folder", path);
    l->s = stream_open(l->path, l->fd, !standard && S_ISREG(st.st_mode), STREAM_DETECT);
    l->h = hash_new();
    l->where = xasprintf("%s:0", l->path);
    return l;
}

void lines_close(struct lines *l)
{
    stream_close(l->s);
    if (l->fd != STDIN_FILENO)
        close(l->fd);
    hash_free(l->h);
    buf_free(&l->text);
    free(l->where);
    free(l);
}

const char *lines_where(const struct lines *l) { return l->where; }
uint64_t lines_hash(struct lines *l) { return hash_end(l->h); }

/* Reads on when the piece is used up; false at the end of the file. */
static bool more(struct lines *l)
{
    if (l->at < l->n || l->end)
        return l->at < l->n;
    l->at = 0;
    if (stream_try_read(l->s, l->piece, PIECE, &l->n) < 0)
        die("%s", err_last());
    l->end = l->n < PIECE;
    hash_add(l->h, l->piece, l->n);
    return l->n > 0;
}

/* The next line into l->text, without its end; false after the last. */
static bool read_line(struct lines *l)
{
    if (!more(l))
        return false;
    free(l->where);
    l->where = xasprintf("%s:%lld", l->path, (long long)++l->line);
    buf_clear(&l->text);
    buf_add(&l->text, "", 0);
    for (bool found = false; !found && more(l);) {
        char *lf = memchr(l->piece + l->at, '\n', l->n - l->at);
        size_t n = lf ? (size_t)(lf - l->piece) - l->at : l->n - l->at;
        if (l->text.len + n > LINES_LONGEST)
            die("%s: the line is longer than %d MiB", l->where, LINES_LONGEST >> 20);
        buf_add(&l->text, l->piece + l->at, n);
        l->at += n + (lf ? 1 : 0);
        found = lf != NULL;
    }
    return true;
}

struct json *lines_next(struct lines *l)
{
    while (read_line(l)) {
        const char *p = l->text.data;
        size_t n = l->text.len, blank;
        if (l->line == 1 && n >= 3 && memcmp(p, "\xEF\xBB\xBF", 3) == 0)
            p += 3, n -= 3;
        for (blank = 0; blank < n && strchr(" \t\r", p[blank]) && p[blank]; blank++)
            ;
        if (blank == n)
            continue;
        struct json *j = jsonl_try_object(p, n);
        if (!j)
            die("%s: %s", l->where, err_last());
        return j;
    }
    return NULL;
}
