/* solo.c - the transport of a tool that runs alone
 * SPDX-License-Identifier: MIT
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "transport.h"

static const struct transport solo;

static void barrier(struct comm *c) { (void)c; }

static void bcast(struct comm *c, void *data, size_t bytes, int root)
{
    (void)c, (void)data, (void)bytes, (void)root;
}

static void all_gather(struct comm *c, const void *mine, size_t bytes, void *all)
{
    (void)c;
    if (bytes)
        memmove(all, mine, bytes);
}

static void all_to_all(struct comm *c, const void *send, const size_t *scount, const size_t *sdispl, void *recv,
                       const size_t *rcount, const size_t *rdispl)
{
    (void)c, (void)rcount;
    if (scount[0])
        memmove((char *)recv + rdispl[0], (const char *)send + sdispl[0], scount[0]);
}

static void no_peer(struct comm *c, const void *data, size_t bytes, int peer, int tag)
{
    (void)c, (void)data, (void)bytes;
    bug("message %d to or from rank %d of one", tag, peer);
}

static void send_none(struct comm *c, const void *data, size_t bytes, int to, int tag)
{
    no_peer(c, data, bytes, to, tag);
}

static void recv_none(struct comm *c, void *data, size_t bytes, int from, int tag)
{
    no_peer(c, data, bytes, from, tag);
}

static struct comm *make(void)
{
    struct comm *c = xcalloc(1, sizeof *c);
    c->size = 1;
    c->t = &solo;
    return c;
}

static struct comm *split(struct comm *c, int color, int key)
{
    (void)c, (void)key;
    return color < 0 ? NULL : make();
}

static void release(struct comm *c) { (void)c; }

static const struct transport solo = {
    .name = "solo",
    .barrier = barrier,
    .bcast = bcast,
    .all_gather = all_gather,
    .all_to_all = all_to_all,
    .send = send_none,
    .recv = recv_none,
    .split = split,
    .release = release,
};

struct comm *solo_world(void) { return make(); }
