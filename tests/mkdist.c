/* mkdist.c - checks common/dist on however many ranks it is started with; prints "ok N ranks" from rank 0
 * SPDX-License-Identifier: MIT
 *
 * A program for tests/cli/0300-dist.t, which starts it with mpiexec. It ends with code 1 and a line on the first
 * thing that is wrong.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/rng.h"
#include "common/dist/comm.h"

static float value(int rank, int64_t i) { return (float)rng_normal(1, (uint64_t)rank, (uint64_t)i); }

/* Sums are those of a loop in rank order, bit for bit, for lengths that the ranks do not divide. */
static void check_sums(struct comm *c)
{
    for (int64_t n = 0; n < 40; n += 13) {
        float *x = xcalloc((size_t)n + 1, sizeof *x);
        double d[2] = { 0.1 * c->rank, 1e300 };
        for (int64_t i = 0; i < n; i++)
            x[i] = value(c->rank, i);
        comm_sum_f32(c, x, n);
        for (int64_t i = 0; i < n; i++) {
            float sum = value(0, i);
            for (int r = 1; r < c->size; r++)
                sum += value(r, i);
            if (memcmp(&sum, &x[i], sizeof sum) != 0)
                die("sum of element %lld of %lld: %.9g, should be %.9g", (long long)i, (long long)n, x[i], sum);
        }
        comm_sum_f64(c, d, 2);
        double sum = 0;
        for (int r = 0; r < c->size; r++)
            sum += 0.1 * r;
        if (d[0] != sum)
            die("sum of doubles");
        free(x);
    }
    int64_t k[2] = { c->rank, 1 };
    comm_sum_i64(c, k, 2);
    if (k[0] != c->size * (c->size - 1) / 2 || k[1] != c->size)
        die("sum of integers");
    if (comm_max_i64(c, -c->rank) != 0)
        die("maximum");
}

static void check_scatter(struct comm *c)
{
    enum { EACH = 7 };
    float *x = xcalloc((size_t)c->size * EACH, sizeof *x), mine[EACH];
    for (int64_t i = 0; i < c->size * EACH; i++)
        x[i] = value(c->rank, i);
    comm_sum_scatter_f32(c, x, EACH, mine);
    for (int64_t i = 0; i < EACH; i++) {
        float sum = value(0, c->rank * EACH + i);
        for (int r = 1; r < c->size; r++)
            sum += value(r, c->rank * EACH + i);
        if (memcmp(&sum, &mine[i], sizeof sum) != 0)
            die("scattered sum %lld: %.9g, should be %.9g", (long long)i, mine[i], sum);
    }
    free(x);
}

static void check_moves(struct comm *c)
{
    char text[32];
    for (int root = 0; root < c->size; root++) {
        snprintf(text, sizeof text, "from %d", c->rank);
        comm_bcast(c, text, sizeof text, root);
        char want[32];
        snprintf(want, sizeof want, "from %d", root);
        if (strcmp(text, want) != 0)
            die("broadcast from %d gave '%s'", root, text);
    }
    /* a ring, once around */
    int token = c->rank, next = (c->rank + 1) % c->size, before = (c->rank + c->size - 1) % c->size;
    if (c->size > 1) {
        if (c->rank == 0) {
            comm_send(c, &token, sizeof token, next, 3);
            comm_recv(c, &token, sizeof token, before, 3);
            if (token != c->size - 1)
                die("the ring brought %d", token);
        } else {
            int got;
            comm_recv(c, &got, sizeof got, before, 3);
            if (got != before)
                die("rank %d got %d", c->rank, got);
            comm_send(c, &token, sizeof token, next, 3);
        }
    }
    comm_barrier(c);
}

int main(int argc, char **argv)
{
    err_init("mkdist");
    comm_init(&argc, &argv);
    struct comm *c = comm_world();
    check_sums(c);
    check_scatter(c);
    check_moves(c);
    struct comm *half = comm_split(c, c->rank % 2, -c->rank);
    struct comm *none = comm_split(c, c->rank == 0 ? -1 : 0, 0);
    if ((c->rank == 0) != (none == NULL))
        die("a negative color");
    if (half->size != (c->size + 1 - c->rank % 2) / 2)
        die("a group of %d", half->size);
    if (half->rank != half->size - 1 - c->rank / 2)
        die("rank %d by key", half->rank);
    check_sums(half);
    check_scatter(half);
    check_moves(half);
    comm_free(half);
    comm_free(none);
    if (comm_agree(c, c->rank == 0 ? EXIT_AGAIN : EXIT_DONE) != EXIT_AGAIN ||
        comm_agree(c, c->rank == c->size - 1 ? EXIT_STAY : EXIT_FAILED) != EXIT_STAY)
        die("agreement");
    if (argc > 1 && strcmp(argv[1], "die") == 0 && c->rank == c->size - 1)
        die_code(EXIT_STAY, "on purpose");
    if (argc > 1)
        comm_barrier(c);
    if (c->rank == 0)
        printf("ok %d ranks\n", c->size);
    fflush(stdout);
    err_end(EXIT_DONE);
}
