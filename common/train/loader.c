/* loader.c - batches of this rank, read ahead by a thread
 * SPDX-License-Identifier: MIT
 */
#include "loader.h"

#include <pthread.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/io/shard.h"
#include "common/io/window.h"

struct loader {
    const struct order *o;
    struct shards **sets;
    int64_t first, rows;        /* of the full batch */
    const struct ramp *ramp;
    int64_t next;               /* sample count of the step that the thread fills next */
    struct loaded slot[2];
    bool full[2];
    int reading;                /* slot that loader_next hands out next */
    bool in_hand;               /* slot 1 - reading is with the caller */
    bool stop, failed;
    char error[1024];
    pthread_mutex_t lock;
    pthread_cond_t change;
    pthread_t thread;
};

/* Where the sample of a packed set lies. */
static int find_packed(struct shards *set, int64_t T, struct sample *s)
{
    int64_t end;
    if (shards_try_sample(set, s->packed, &s->offset, &end) < 0)
        return -1;
    s->origin = s->offset;
    s->length = end - s->offset;
    if (s->length > T)
        return err_set("'%s': sample %lld has %lld tokens, a row only %lld", shards_dir(set), (long long)s->packed,
                       (long long)s->length, (long long)T);
    return 0;
}

static int fill(struct loader *l, struct loaded *b, int64_t n)
{
    b->n = n;
    b->batch = ramp_batch(l->ramp, n);
    b->rows = l->rows * b->batch / l->ramp->full;
    b->n_targets = 0;
    int64_t first = l->first / l->rows * b->rows;
    for (int64_t r = 0; r < b->rows; r++) {
        struct sample s = order_at(l->o, n, first + r);
        b->carries[r] = s.carries;
        if (s.packed >= 0 && find_packed(l->sets[s.set], b->T, &s) < 0)
            return -1;
        if (window_try_read(l->sets[s.set], s.origin, s.offset, s.length, b->T, b->ids + r * b->T,
                            b->targets + r * b->T, b->start + r * b->T) < 0)
            return -1;
        for (int64_t t = 0; t < s.length; t++)
            b->n_targets += b->targets[r * b->T + t] >= 0;
    }
    return 0;
}

static void *run(void *arg)
{
    struct loader *l = arg;
    for (int k = 0;; k = 1 - k) {
        pthread_mutex_lock(&l->lock);
        while (!l->stop && l->full[k])
            pthread_cond_wait(&l->change, &l->lock);
        bool stop = l->stop;
        int64_t n = l->next;
        pthread_mutex_unlock(&l->lock);
        if (stop)
            return NULL;
        int rc = fill(l, &l->slot[k], n);
        pthread_mutex_lock(&l->lock);
        if (rc < 0) {
            l->failed = true;
            snprintf(l->error, sizeof l->error, "%s", err_last());
        }
        l->next += l->slot[k].batch;
        l->full[k] = true;
        pthread_cond_broadcast(&l->change);
        pthread_mutex_unlock(&l->lock);
        if (rc < 0)
            return NULL;
    }
}

struct loader *loader_create(const struct order *o, const char *const *dirs, int64_t first, int64_t rows,
                             const struct ramp *ramp, int64_t n)
{
    struct loader *l = xcalloc(1, sizeof *l);
    l->o = o;
    l->first = first;
    l->rows = rows;
    l->ramp = ramp;
    l->next = n;
    l->sets = xcalloc((size_t)o->sets, sizeof *l->sets);
    for (int d = 0; d < o->sets; d++)
        if (!(l->sets[d] = shards_try_open(dirs[d])))
            die("%s", err_last());
    for (int k = 0; k < 2; k++) {
        struct loaded *b = &l->slot[k];
        size_t m = mul_size((size_t)(rows * o->seq_len), sizeof(int32_t), "batch");
        *b = (struct loaded){ .rows = rows, .T = o->seq_len, .ids = xmalloc(m), .targets = xmalloc(m),
                              .start = xmalloc(m), .carries = xcalloc((size_t)rows, sizeof(bool)) };
    }
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->change, NULL);
    if (pthread_create(&l->thread, NULL, run, l) != 0)
        die("cannot start the loader's thread");
    return l;
}

const struct loaded *loader_next(struct loader *l, double *wait)
{
    double begin = now_seconds();
    pthread_mutex_lock(&l->lock);
    if (l->in_hand) { /* the caller is done with the batch it has */
        l->full[1 - l->reading] = false;
        pthread_cond_broadcast(&l->change);
    }
    while (!l->full[l->reading])
        pthread_cond_wait(&l->change, &l->lock);
    bool failed = l->failed;
    pthread_mutex_unlock(&l->lock);
    if (failed)
        die("%s", l->error);
    *wait += now_seconds() - begin;
    const struct loaded *b = &l->slot[l->reading];
    l->reading = 1 - l->reading;
    l->in_hand = true;
    return b;
}

void loader_free(struct loader *l)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->change);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    for (int d = 0; d < l->o->sets; d++)
        shards_close(l->sets[d]);
    free(l->sets);
    for (int k = 0; k < 2; k++) {
        free(l->slot[k].ids);
        free(l->slot[k].targets);
        free(l->slot[k].start);
        free(l->slot[k].carries);
    }
    free(l);
}
