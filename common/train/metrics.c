/* metrics.c - metrics.jsonl: one line a step
 * SPDX-License-Identifier: MIT
 */
#include "metrics.h"

#include <errno.h>
#include <fcntl.h>
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

void metrics_write(struct metrics *m, const struct metrics_line *l)
{
    struct buf b = { 0 };
    /* loss and gradient norm with all digits: curves are compared bit by bit */
    buf_addf(&b,
             "{\"step\":%lld,\"samples\":%lld,\"tokens\":%lld,\"loss\":%.17g,\"lr\":%.9g,\"grad_norm\":%.17g,"
             "\"seconds\":%.6f,\"tokens_per_s\":%.1f,\"flops_per_s\":%.4g,\"data_wait\":%.6f}\n",
             (long long)l->step, (long long)l->samples, (long long)l->tokens, l->loss, l->lr, l->grad_norm,
             l->seconds, l->tokens_per_s, l->flops_per_s, l->data_wait);
    for (size_t done = 0; done < b.len;) {
        ssize_t k = write(m->fd, b.data + done, b.len - done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            die_errno("cannot write '%s'", m->path);
        done += (size_t)k;
    }
    buf_free(&b);
}

void metrics_close(struct metrics *m)
{
    if (!m)
        return;
    close(m->fd);
    free(m->path);
    free(m);
}
