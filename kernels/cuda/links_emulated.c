/* links_emulated.c - exchange of device memory between ranks, for tests where there is no GPU
 * SPDX-License-Identifier: MIT
 *
 * The ranks of a group share a piece of this host's memory, in which each pair of them has a box for each direction. As on a
 * GPU, what is begun goes on beside the ops: it is done as late as may be, at the join, so that who changes too early what
 * is sent, or looks too early at what comes, is seen.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "links.h"

enum { BOX = 1 << 16, NAME = 48 };

struct box {
    _Atomic int full;
    size_t bytes;
    char data[BOX];
};
struct group {
    char name[NAME];
    int rank, size, parts;      /* parts: groups that were split off */
    size_t bytes;
    struct shared {
        _Atomic int here;
        struct box box[];       /* [from, to] */
    } *shared;
};

/* What is begun. */
enum what { SUM, SUM_SCATTER, GATHER, BCAST, ALL_TO_ALL, SEND, RECV };
struct task {
    enum what what;
    struct group *g;
    const void *from;
    void *to;
    size_t bytes;
    int peer;
    size_t *counts;             /* [4,size] of ALL_TO_ALL, of its own */
};
static struct task *tasks;
static size_t n_tasks, room;

static void *need(void *p)
{
    if (!p)
        cuda_fault("links", "memory", "is short");
    return p;
}

/* To one rank and from one at a time; a negative one is none. */
static void move(struct group *g, int to, const char *out, size_t out_bytes, int from, char *in, size_t in_bytes)
{
    struct box *full = from < 0 ? NULL : &g->shared->box[from * g->size + g->rank];
    struct box *empty = to < 0 ? NULL : &g->shared->box[g->rank * g->size + to];
    size_t sent = empty ? 0 : out_bytes, got = full ? 0 : in_bytes;
    while (sent < out_bytes || got < in_bytes) {
        bool idle = true;
        if (sent < out_bytes && !empty->full) {
            empty->bytes = out_bytes - sent < BOX ? out_bytes - sent : BOX;
            memcpy(empty->data, out + sent, empty->bytes);
            sent += empty->bytes;
            empty->full = 1;
            idle = false;
        }
        if (got < in_bytes && full->full) {
            memcpy(in + got, full->data, full->bytes);
            got += full->bytes;
            full->full = 0;
            idle = false;
        }
        if (idle)
            sched_yield();
    }
}

/* counts: how much goes to each rank and where it lies, how much comes and where to. */
static void exchange(struct group *g, const char *out, char *in, const size_t *counts)
{
    const size_t *sc = counts, *sd = sc + g->size, *rc = sd + g->size, *rd = rc + g->size;
    if (rc[g->rank])
        memmove(in + rd[g->rank], out + sd[g->rank], sc[g->rank]);
    for (int k = 1; k < g->size; k++) {
        int to = (g->rank + k) % g->size, from = (g->rank + g->size - k) % g->size;
        move(g, to, out + sd[to], sc[to], from, in + rd[from], rc[from]);
    }
}

/* The same amount to each: all from one place, or each its own. */
static void spread(struct group *g, const void *out, size_t apart, size_t bytes, void *in)
{
    size_t *counts = need(calloc(4 * (size_t)g->size, sizeof *counts)), size = (size_t)g->size;
    for (size_t r = 0; r < size; r++) {
        counts[r] = counts[2 * size + r] = bytes;
        counts[size + r] = r * apart;
        counts[3 * size + r] = r * bytes;
    }
    exchange(g, out, in, counts);
    free(counts);
}

/* Of floats that come from each rank, in the order of ranks. */
static void add_up(const struct group *g, const float *all, size_t n, float *to)
{
    for (size_t i = 0; i < n; i++) {
        float sum = all[i];
        for (size_t r = 1; r < (size_t)g->size; r++)
            sum += all[r * n + i];
        to[i] = sum;
    }
}

static void run(const struct task *t)
{
    struct group *g = t->g;
    float *all = NULL;
    switch (t->what) {
    case SUM:
    case SUM_SCATTER:
        all = need(malloc(t->bytes * (size_t)g->size + 1));
        spread(g, t->from, t->what == SUM ? 0 : t->bytes, t->bytes, all);
        add_up(g, all, t->bytes / sizeof *all, t->to);
        break;
    case GATHER:
        spread(g, t->from, 0, t->bytes, t->to);
        break;
    case BCAST:
        for (int r = 0; r < g->size; r++)
            if (g->rank == t->peer && r != t->peer)
                move(g, r, t->from, t->bytes, -1, NULL, 0);
        if (g->rank != t->peer)
            move(g, -1, NULL, 0, t->peer, t->to, t->bytes);
        break;
    case ALL_TO_ALL:
        exchange(g, t->from, t->to, t->counts);
        break;
    case SEND:
        move(g, t->peer, t->from, t->bytes, -1, NULL, 0);
        break;
    case RECV:
        move(g, -1, NULL, 0, t->peer, t->to, t->bytes);
        break;
    }
    free(all);
    free(t->counts);
}

static void join(void)
{
    for (size_t i = 0; i < n_tasks; i++)
        run(&tasks[i]);
    n_tasks = 0;
}

static void begin(struct task t)
{
    if (n_tasks == room)
        tasks = need(realloc(tasks, (room = 2 * room + 16) * sizeof *tasks));
    tasks[n_tasks++] = t;
}

static size_t floats(int64_t n, enum dtype t)
{
    if (t != F32)
        cuda_fault("links", "dtype", "is not F32");
    return (size_t)n * sizeof(float);
}

static void sum(void *group, void *x, int64_t n, enum dtype t)
{
    begin((struct task){ .what = SUM, .g = group, .from = x, .to = x, .bytes = floats(n, t) });
}

static void sum_scatter(void *group, const void *x, void *mine, int64_t each, enum dtype t)
{
    begin((struct task){ .what = SUM_SCATTER, .g = group, .from = x, .to = mine, .bytes = floats(each, t) });
}

static void gather(void *group, const void *mine, size_t bytes, void *all)
{
    begin((struct task){ .what = GATHER, .g = group, .from = mine, .to = all, .bytes = bytes });
}

static void bcast(void *group, void *data, size_t bytes, int root)
{
    begin((struct task){ .what = BCAST, .g = group, .from = data, .to = data, .bytes = bytes, .peer = root });
}

static void all_to_all(void *group, const void *send, const size_t *scount, const size_t *sdispl, void *recv,
                       const size_t *rcount, const size_t *rdispl)
{
    const struct group *g = group;
    size_t n = (size_t)g->size, *counts = need(malloc(4 * n * sizeof *counts));
    memcpy(counts, scount, n * sizeof *counts);
    memcpy(counts + n, sdispl, n * sizeof *counts);
    memcpy(counts + 2 * n, rcount, n * sizeof *counts);
    memcpy(counts + 3 * n, rdispl, n * sizeof *counts);
    begin((struct task){ .what = ALL_TO_ALL, .g = group, .from = send, .to = recv, .counts = counts });
}

static void send_to(void *group, const void *data, size_t bytes, int to)
{
    begin((struct task){ .what = SEND, .g = group, .from = data, .bytes = bytes, .peer = to });
}

static void recv_from(void *group, void *data, size_t bytes, int from)
{
    begin((struct task){ .what = RECV, .g = group, .to = data, .bytes = bytes, .peer = from });
}

static const char *draw_id(void *id)
{
    static int drawn;
    memset(id, 0, NAME);
    snprintf(id, NAME, "/ssmtools-%ld-%d", (long)getpid(), drawn++);
    return NULL;
}

static const char *open_group(void **group, const void *id, int rank, int size)
{
    struct group *g = need(calloc(1, sizeof *g));
    memcpy(g->name, id, NAME);
    g->rank = rank;
    g->size = size;
    g->bytes = sizeof *g->shared + (size_t)size * (size_t)size * sizeof *g->shared->box;
    int fd = shm_open(g->name, O_CREAT | O_RDWR, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)g->bytes) != 0)
        return "no shared memory";
    g->shared = mmap(NULL, g->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (g->shared == MAP_FAILED)
        return "no shared memory";
    g->shared->here++;
    while (g->shared->here < size)
        sched_yield();
    shm_unlink(g->name); /* the first one's goes through */
    *group = g;
    return NULL;
}

static const char *split(void **part, void *group, int color, int key)
{
    struct group *g = group;
    int mine[2] = { color, key }, *all = need(malloc((size_t)g->size * sizeof mine)), rank = 0, size = 0;
    char name[NAME] = "";
    join();
    spread(g, mine, 0, sizeof mine, all);
    for (int r = 0; r < g->size; r++)
        if (all[2 * r] == color) {
            size++;
            rank += all[2 * r + 1] < key || (all[2 * r + 1] == key && r < g->rank);
        }
    free(all);
    snprintf(name, sizeof name, "%.30s.%d-%d", g->name, g->parts++, color);
    *part = NULL;
    return color < 0 ? NULL : open_group(part, name, rank, size);
}

static void close_group(void *group)
{
    struct group *g = group;
    join();
    munmap(g->shared, g->bytes);
    free(g);
}

static const struct links over_memory = {
    .id_bytes = NAME,
    .draw_id = draw_id,
    .open = open_group,
    .split = split,
    .close = close_group,
    .sum = sum,
    .sum_scatter = sum_scatter,
    .gather = gather,
    .bcast = bcast,
    .all_to_all = all_to_all,
    .send = send_to,
    .recv = recv_from,
    .join = join,
};

const struct links *links_begin(void) { return &over_memory; }
