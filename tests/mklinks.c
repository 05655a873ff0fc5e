/* mklinks.c - checks the transport of device memory against that of host memory; prints "ok N ranks" from rank 0
 * SPDX-License-Identifier: MIT
 *
 * usage: mpiexec -n N mklinks [FLOATS]
 * A GPU for each rank, or the emulation. Every collective, in the whole group and in halves of it, on odd sizes and on one of FLOATS (4 Mi + 3).
 * Sums may differ from those in rank order by rounding, but not between two runs of them. With two ranks they must not differ.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/dist/comm.h"
#include "kernels/device.h"

static const struct backend *be;

static void *on_device(const void *host, size_t bytes)
{
    void *p = be->alloc(bytes ? bytes : 1);
    if (!p)
        die("no device memory");
    if (host)
        be->upload(p, host, bytes);
    return p;
}

static void settle(struct comm *d)
{
    comm_join(d);
    const char *fault = be->sync();
    if (fault)
        die("%s", fault);
}

static float *draw(const struct comm *c, int64_t n)
{
    float *x = xcalloc((size_t)n + 1, sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)rng_normal(1, (uint64_t)c->rank, (uint64_t)i);
    return x;
}

/* What came to this rank against what the host says. 0: the same bits. */
static void compare(const char *what, const float *got, const float *want, int64_t n, double most)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= most * (1 + fabs((double)want[i]))))
            die("%s: element %lld of %lld is %.9g, on the host %.9g", what, (long long)i, (long long)n, (double)got[i],
                (double)want[i]);
}

static void check_sums(struct comm *h, struct comm *d, int64_t n)
{
    double most = h->size <= 2 ? 0 : 1e-6 * h->size;
    size_t bytes = (size_t)n * sizeof(float), whole = bytes * (size_t)h->size;
    float *x = draw(h, n), *got = xmalloc(bytes + 4), *again = xmalloc(bytes + 4);
    for (int i = 0; i < 2; i++) {
        float *p = on_device(x, bytes);
        comm_sum_f32(d, p, n);
        settle(d);
        be->download(i ? again : got, p, bytes);
        be->free(p);
    }
    if (memcmp(got, again, bytes) != 0)
        die("a sum of %lld is not the same a second time", (long long)n);
    comm_sum_f32(h, x, n);
    compare("sum", got, x, n, most);
    free(x);

    x = draw(h, n * h->size);
    float *p = on_device(x, whole), *q = on_device(NULL, bytes);
    comm_sum_scatter_f32(d, p, n, q);
    settle(d);
    be->download(got, q, bytes);
    comm_sum_scatter_f32(h, x, n, again);
    compare("scattered sum", got, again, n, most);
    be->free(p);
    be->free(q);
    free(x);
    free(got);
    free(again);
}

static void check_moves(struct comm *h, struct comm *d, int64_t n)
{
    size_t bytes = (size_t)n * sizeof(float), ranks = (size_t)h->size;
    float *x = draw(h, n * h->size), *got = xmalloc(bytes * ranks + 4), *want = xmalloc(bytes * ranks + 4);
    float *p = on_device(x, bytes * ranks), *q = on_device(NULL, bytes * ranks);

    comm_all_gather(d, p, bytes, q);
    settle(d);
    be->download(got, q, bytes * ranks);
    comm_all_gather(h, x, bytes, want);
    compare("all-gather", got, want, n * h->size, 0);

    /* rank a sends a + b elements more than none to rank b */
    size_t *counts = xcalloc(4 * ranks, sizeof *counts), *sc = counts, *sd = sc + ranks, *rc = sd + ranks, *rd = rc + ranks;
    for (size_t r = 0; r < ranks; r++) {
        size_t k = ((size_t)h->rank + r) * sizeof(float);
        sc[r] = rc[r] = k < bytes ? k : bytes;
        sd[r] = rd[r] = r * bytes;
    }
    be->zero(q, bytes * ranks);
    memset(want, 0, bytes * ranks);
    comm_all_to_all(d, p, sc, sd, q, rc, rd);
    settle(d);
    be->download(got, q, bytes * ranks);
    comm_all_to_all(h, x, sc, sd, want, rc, rd);
    compare("all-to-all", got, want, n * h->size, 0);
    free(counts);

    int root = h->size - 1;
    comm_bcast(d, p, bytes, root);
    settle(d);
    be->download(got, p, bytes);
    comm_bcast(h, x, bytes, root);
    compare("broadcast", got, x, n, 0);

    if (h->size > 1) { /* a ring, one after the other */
        int next = (h->rank + 1) % h->size, before = (h->rank + h->size - 1) % h->size;
        if (h->rank == 0)
            comm_send(d, p, bytes, next, 1);
        comm_recv(d, q, bytes, before, 1);
        if (h->rank != 0)
            comm_send(d, q, bytes, next, 1);
        settle(d);
        be->download(got, q, bytes);
        compare("ring", got, x, n, 0);
    }
    be->free(p);
    be->free(q);
    free(x);
    free(got);
    free(want);
}

int main(int argc, char **argv)
{
    err_init("mklinks");
    comm_init(&argc, &argv);
    struct comm *h = comm_world();
    const char *why;
    be = device_open("cuda", &(struct device_options){ .local_rank = comm_local_rank() }, &why);
    if (!be)
        die("%s", why);
    int64_t most = argc > 1 ? atoll(argv[1]) : (4 << 20) + 3;
    struct comm *d = comm_on_device(h, be);
    struct comm *hh = comm_split(h, h->rank % 2, -h->rank), *dh = d == h ? hh : comm_split(d, h->rank % 2, -h->rank);
    if (dh->rank != hh->rank || dh->size != hh->size)
        die("rank %d of %d in a group, on the host %d of %d", dh->rank, dh->size, hh->rank, hh->size);
    const int64_t sizes[] = { 1, 7, 1000, most };
    for (int i = 0; i < 4; i++) {
        check_sums(h, d, sizes[i]);
        check_moves(h, d, sizes[i]);
        check_sums(hh, dh, sizes[i]);
        check_moves(hh, dh, sizes[i]);
    }
    comm_barrier(d);
    if (h->rank == 0)
        printf("ok %d ranks, %s\n", h->size, d->t->name);
    fflush(stdout);
    err_end(EXIT_DONE);
}
