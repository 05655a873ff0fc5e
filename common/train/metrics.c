/* metrics.c - metrics.jsonl: one line a step
 * SPDX-License-Identifier: MIT
 */
#include "metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"

struct metrics {
    int fd;
    char *path;
};

struct metrics *metrics_open(const char *path)
{
    struct metrics *m = xcalloc(1, sizeof *m);
    m->path = xstrdup(path);
    m->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (m->fd < 0)
        die_errno("cannot write '%s'", path);
    return m;
}

/* One write() a line, so that a reader sees whole lines. Frees b. */
static void put(struct metrics *m, struct buf *b)
{
    for (size_t done = 0; done < b->len;) {
        ssize_t k = write(m->fd, b->data + done, b->len - done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            die_errno("cannot write '%s'", m->path);
        done += (size_t)k;
    }
    buf_free(b);
}

void metrics_write(struct metrics *m, const struct metrics_line *l)
{
    struct buf b = { 0 };
    /* loss and gradient norm with all digits: curves are compared bit by bit */
    buf_addf(&b,
             "{\"step\":%lld,\"samples\":%lld,\"tokens\":%lld,\"loss\":%.17g,\"lr\":%.9g,\"grad_norm\":%.17g,"
             "\"seconds\":%.6f,\"tokens_per_s\":%.1f,\"flops_per_s\":%.4g,\"data_wait\":%.6f}\n",
             (long long)l->step, (long long)l->samples, (long long)l->tokens, l->loss, l->lr, l->grad_norm,
             l->seconds, l->tokens_per_s, l->flops_per_s, l->data_wait);
    put(m, &b);
}

/* A JSON string; a path may hold any bytes, and what is not printable ASCII becomes '?', as in messages. */
static void add_text(struct buf *b, const char *s)
{
    for (; *s; s++)
        if (*s == '"' || *s == '\\')
            buf_addf(b, "\\%c", *s);
        else
            buf_addf(b, "%c", *s < ' ' || *s == 127 ? '?' : *s);
}

void metrics_write_valid(struct metrics *m, const struct metrics_valid *l)
{
    struct buf b = { 0 };
    buf_addf(&b, "{\"step\":%lld,\"samples\":%lld,\"set\":\"", (long long)l->step, (long long)l->samples);
    add_text(&b, l->set);
    buf_addf(&b, "\",\"tokens\":%lld", (long long)l->tokens);
    if (isfinite(l->loss)) /* JSON knows no other numbers */
        buf_addf(&b, ",\"loss\":%.17g,\"ppl\":%.9g,\"bpb\":%.9g", l->loss, l->ppl < 1e300 ? l->ppl : 1e300, l->bpb);
    else
        buf_addf(&b, ",\"loss\":null,\"ppl\":null,\"bpb\":null");
    buf_addf(&b, ",\"seconds\":%.6f}\n", l->seconds);
    put(m, &b);
}

void metrics_close(struct metrics *m)
{
    if (!m)
        return;
    close(m->fd);
    free(m->path);
    free(m);
}
