/* linked.c - the transport of device memory: what the backend brings (NCCL), as a struct comm
 * SPDX-License-Identifier: MIT
 */
#include <stdlib.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "kernels/backend.h"
#include "transport.h"

struct linked {
    const struct backend *be;
    void *group;
};

static const struct transport over_links;

static const struct links *links_of(const struct comm *c) { return ((const struct linked *)c->impl)->be->links; }
static void *group_of(const struct comm *c) { return ((const struct linked *)c->impl)->group; }

static struct comm *wrap(const struct backend *be, void *group, int rank, int size)
{
    struct comm *c = xcalloc(1, sizeof *c);
    struct linked *impl = xmalloc(sizeof *impl);
    *impl = (struct linked){ be, group };
    *c = (struct comm){ .rank = rank, .size = size, .t = &over_links, .impl = impl };
    return c;
}

static void join(struct comm *c) { links_of(c)->join(); }

static void bcast(struct comm *c, void *data, size_t bytes, int root)
{
    links_of(c)->bcast(group_of(c), data, bytes, root);
}

static void all_gather(struct comm *c, const void *mine, size_t bytes, void *all)
{
    links_of(c)->gather(group_of(c), mine, bytes, all);
}

static void all_to_all(struct comm *c, const void *send, const size_t *scount, const size_t *sdispl, void *recv,
                       const size_t *rcount, const size_t *rdispl)
{
    links_of(c)->all_to_all(group_of(c), send, scount, sdispl, recv, rcount, rdispl);
}

/* Messages between two ranks arrive in the order in which they were sent; there are no tags. */
static void send_to(struct comm *c, const void *data, size_t bytes, int to, int tag)
{
    (void)tag;
    links_of(c)->send(group_of(c), data, bytes, to);
}

static void recv_from(struct comm *c, void *data, size_t bytes, int from, int tag)
{
    (void)tag;
    links_of(c)->recv(group_of(c), data, bytes, from);
}

static void sum_f32(struct comm *c, float *x, int64_t n) { links_of(c)->sum(group_of(c), x, n, F32); }

static void sum_scatter_f32(struct comm *c, const float *x, int64_t each, float *mine)
{
    links_of(c)->sum_scatter(group_of(c), x, mine, each, F32);
}

static void barrier(struct comm *c)
{
    const struct backend *be = ((const struct linked *)c->impl)->be;
    float *one = be->alloc(sizeof *one);
    if (!one)
        die("not enough device memory for a barrier");
    sum_f32(c, one, 1);
    join(c);
    const char *fault = be->sync();
    be->free(one);
    if (fault)
        die("%s", fault);
}

static struct comm *split(struct comm *c, int color, int key)
{
    const struct backend *be = ((const struct linked *)c->impl)->be;
    void *part = NULL;
    /* The device's library does not say where a rank comes to stand: by key, then rank. */
    int32_t mine[2] = { color, key }, *all = xmalloc(mul_size((size_t)c->size, sizeof mine, "groups"));
    void *there = be->alloc(sizeof mine), *theirs = be->alloc((size_t)c->size * sizeof mine);
    if (!there || !theirs)
        die("not enough device memory for a group");
    be->upload(there, mine, sizeof mine);
    all_gather(c, there, sizeof mine, theirs);
    join(c);
    be->download(all, theirs, (size_t)c->size * sizeof mine);
    be->free(there);
    be->free(theirs);
    int rank = 0, size = 0;
    for (int r = 0; r < c->size; r++)
        if (all[2 * r] == color) {
            size++;
            rank += all[2 * r + 1] < key || (all[2 * r + 1] == key && r < c->rank);
        }
    free(all);
    const char *fault = links_of(c)->split(&part, group_of(c), color, key);
    if (fault)
        die("a group of devices: %s", fault);
    return color < 0 ? NULL : wrap(be, part, rank, size);
}

static void release(struct comm *c)
{
    links_of(c)->close(group_of(c));
    free(c->impl);
}

static const struct transport over_links = {
    .name = "device",
    .barrier = barrier,
    .bcast = bcast,
    .all_gather = all_gather,
    .all_to_all = all_to_all,
    .send = send_to,
    .recv = recv_from,
    .split = split,
    .release = release,
    .sum_f32 = sum_f32,
    .sum_scatter_f32 = sum_scatter_f32,
    .join = join,
};

struct comm *comm_on_device(struct comm *c, const struct backend *be)
{
    const struct links *l = be->links;
    if (!l || c->size == 1)
        return c;
    char *id = xcalloc(1, l->id_bytes);
    const char *fault = c->rank == 0 ? l->draw_id(id) : NULL;
    void *group = NULL;
    comm_bcast(c, id, l->id_bytes, 0);
    if (!fault)
        fault = l->open(&group, id, c->rank, c->size);
    if (fault)
        die("the devices of %d ranks cannot be joined: %s", c->size, fault);
    free(id);
    return wrap(be, group, c->rank, c->size);
}
