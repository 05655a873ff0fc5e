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

/* JSON knows no infinity and no NaN. */
static void add_real(struct buf *b, const char *name, const char *format, double x)
{
    buf_addf(b, ",\"%s\":", name);
    char text[40];
    snprintf(text, sizeof text, format, x);
    buf_addf(b, "%s", isfinite(x) ? text : "null");
}

void metrics_write(struct metrics *m, const struct metrics_line *l)
{
    struct buf b = { 0 };
    buf_addf(&b, "{\"step\":%lld,\"samples\":%lld,\"tokens\":%lld", (long long)l->step, (long long)l->samples,
             (long long)l->tokens);
    add_real(&b, "loss", "%.17g", l->loss); /* all digits: curves are compared bit by bit */
    add_real(&b, "lr", "%.9g", l->lr);
    add_real(&b, "grad_norm", "%.17g", l->grad_norm);
    add_real(&b, "loss_z", "%.4f", l->loss_z);
    add_real(&b, "grad_norm_z", "%.4f", l->norm_z);
    buf_addf(&b, ",\"skip\":%d,\"skipped\":%lld,\"rewinds\":%lld", l->skip, (long long)l->skipped, (long long)l->rewinds);
    add_real(&b, "seconds", "%.6f", l->seconds);
    add_real(&b, "tokens_per_s", "%.1f", l->tokens_per_s);
    add_real(&b, "flops_per_s", "%.4g", l->flops_per_s);
    add_real(&b, "mfu", "%.4f", l->mfu);
    add_real(&b, "data_wait", "%.6f", l->data_wait);
    buf_addf(&b, ",\"memory\":%lld", (long long)l->memory);
    add_real(&b, "device_memory", "%.0f", l->device_memory);
    add_real(&b, "eta", "%.1f", l->eta);
    add_real(&b, "limit", "%.1f", l->limit);
    buf_addf(&b, "}\n");
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
    add_real(&b, "loss", "%.17g", l->loss);
    add_real(&b, "ppl", "%.9g", l->ppl);
    add_real(&b, "bpb", "%.9g", l->bpb);
    add_real(&b, "seconds", "%.6f", l->seconds);
    buf_addf(&b, "}\n");
    put(m, &b);
}

void metrics_write_slowest(struct metrics *m, int64_t step, const struct slowest *s)
{
    struct buf b = { 0 };
    buf_addf(&b, "{\"step\":%lld,\"steps\":%lld,\"rank\":%d,\"host\":\"", (long long)step, (long long)s->steps, s->rank);
    add_text(&b, s->host);
    buf_addf(&b, "\"");
    add_real(&b, "compute", "%.6f", s->compute);
    add_real(&b, "data_wait", "%.6f", s->wait);
    add_real(&b, "mean_compute", "%.6f", s->mean_compute);
    add_real(&b, "mean_data_wait", "%.6f", s->mean_wait);
    buf_addf(&b, "}\n");
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
