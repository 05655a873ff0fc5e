/* comm.c - groups of ranks and what they say to each other
 * SPDX-License-Identifier: MIT
 */
#include "comm.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "transport.h"

static struct comm *world;
static int local_rank, local_size = 1;

/* A launcher that speaks PMI or PMIx leaves one of these behind. */
static bool launched(void)
{
    static const char *const names[] = { "PMI_RANK", "PMI_FD", "PMIX_RANK", "OMPI_COMM_WORLD_RANK",
                                         "MPI_LOCALRANKID", "PALS_RANKID", "ALPS_APP_PE" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i]))
            return true;
    return false;
}

static int64_t env_int(const char *name)
{
    const char *s = getenv(name);
    return s ? strtoll(s, NULL, 10) : 0;
}

static void finish(void)
{
    if (strcmp(world->t->name, "mpi") == 0)
        mpi_finish();
}

void comm_init(int *argc, char ***argv)
{
    if (world)
        return;
    if (launched()) {
        world = mpi_world(argc, argv);
        mpi_local(&local_rank, &local_size);
        err_at_die(mpi_abort);
        err_at_wait(mpi_answer);
    } else {
        /* A batch script itself has SLURM_PROCID = 0 and no step id of a task. */
        if (getenv("SLURM_STEP_ID") && env_int("SLURM_STEP_NUM_TASKS") > 1)
            die_code(EXIT_USAGE, "Slurm started %lld tasks without MPI; use 'srun --mpi=pmi2' (or the plugin of your MPI)",
                     (long long)env_int("SLURM_STEP_NUM_TASKS"));
        world = solo_world();
    }
    err_set_rank(world->rank, world->size);
    err_at_end(finish);
}

void comm_leave(int code)
{
    mpi_leave(code);
    _exit(code);
}

struct comm *comm_world(void)
{
    if (!world)
        bug("comm_world before comm_init");
    return world;
}

int comm_local_rank(void) { return local_rank; }
int comm_local_size(void) { return local_size; }

struct comm *comm_split(struct comm *c, int color, int key) { return c->t->split(c, color, key); }

void comm_free(struct comm *c)
{
    if (!c || c == world)
        return;
    c->t->release(c);
    free(c);
}

void comm_join(struct comm *c)
{
    if (c->t->join)
        c->t->join(c);
}

void comm_barrier(struct comm *c) { c->t->barrier(c); }
void comm_bcast(struct comm *c, void *data, size_t bytes, int root) { c->t->bcast(c, data, bytes, root); }

void comm_all_gather(struct comm *c, const void *mine, size_t bytes, void *all)
{
    c->t->all_gather(c, mine, bytes, all);
}

void comm_all_to_all(struct comm *c, const void *send, const size_t *scount, const size_t *sdispl, void *recv,
                     const size_t *rcount, const size_t *rdispl)
{
    c->t->all_to_all(c, send, scount, sdispl, recv, rcount, rdispl);
}

void comm_send(struct comm *c, const void *data, size_t bytes, int to, int tag) { c->t->send(c, data, bytes, to, tag); }
void comm_recv(struct comm *c, void *data, size_t bytes, int from, int tag) { c->t->recv(c, data, bytes, from, tag); }

/* Rank r owns the elements [n r/size, n (r+1)/size): it gets everybody's copy of them, adds these in rank
 * order, and hands the sums to all. Twice the traffic of a ring, the same bits everywhere. */
void comm_sum_f32(struct comm *c, float *x, int64_t n)
{
    if (c->size == 1 || n == 0)
        return;
    if (c->t->sum_f32) {
        c->t->sum_f32(c, x, n);
        return;
    }
    static float *scratch; /* grows to the largest call; a step calls with the same size each time */
    static size_t room;
    size_t ranks = (size_t)c->size;
    int64_t lo = n * c->rank / c->size, hi = n * (c->rank + 1) / c->size;
    size_t own = (size_t)(hi - lo);
    if (room < own * ranks) {
        room = own * ranks;
        scratch = xrealloc(scratch, mul_size(room, sizeof *scratch, "all-reduce"));
    }
    size_t *count = xmalloc(4 * ranks * sizeof *count);
    size_t *scount = count, *sdispl = count + ranks, *rcount = count + 2 * ranks, *rdispl = count + 3 * ranks;
    for (size_t r = 0; r < ranks; r++) {
        int64_t a = n * (int64_t)r / c->size, b = n * (int64_t)(r + 1) / c->size;
        sdispl[r] = (size_t)a * sizeof *x;
        scount[r] = (size_t)(b - a) * sizeof *x;
        rdispl[r] = r * own * sizeof *x;
        rcount[r] = own * sizeof *x;
    }
    c->t->all_to_all(c, x, scount, sdispl, scratch, rcount, rdispl);
    for (size_t r = 1; r < ranks; r++)
        for (size_t i = 0; i < own; i++)
            scratch[i] += scratch[r * own + i];
    /* the sums go back the way they came: to rank r mine, from rank r its own */
    for (size_t r = 0; r < ranks; r++) {
        size_t d = sdispl[r], k = scount[r];
        sdispl[r] = 0;
        scount[r] = own * sizeof *x;
        rdispl[r] = d;
        rcount[r] = k;
    }
    c->t->all_to_all(c, scratch, scount, sdispl, x, rcount, rdispl);
    free(count);
}

void comm_sum_scatter_f32(struct comm *c, const float *x, int64_t each, float *mine)
{
    if (c->t->sum_scatter_f32) {
        c->t->sum_scatter_f32(c, x, each, mine);
        return;
    }
    size_t ranks = (size_t)c->size, own = (size_t)each;
    float *all = xmalloc(mul_size(ranks * own + 1, sizeof *all, "reduce-scatter"));
    size_t *count = xmalloc(3 * ranks * sizeof *count);
    size_t *scount = count, *sdispl = count + ranks, *rdispl = count + 2 * ranks;
    for (size_t r = 0; r < ranks; r++) {
        scount[r] = own * sizeof *x;
        sdispl[r] = rdispl[r] = r * own * sizeof *x;
    }
    c->t->all_to_all(c, x, scount, sdispl, all, scount, rdispl);
    for (size_t i = 0; i < own; i++) {
        mine[i] = all[i];
        for (size_t r = 1; r < ranks; r++)
            mine[i] += all[r * own + i];
    }
    free(count);
    free(all);
}

void comm_sum_f64(struct comm *c, double *x, int64_t n)
{
    if (c->size == 1 || n == 0)
        return;
    size_t k = (size_t)n;
    double *all = xmalloc(mul_size(k * (size_t)c->size, sizeof *all, "all-reduce"));
    comm_all_gather(c, x, k * sizeof *x, all);
    for (size_t i = 0; i < k; i++) {
        double sum = 0;
        for (size_t r = 0; r < (size_t)c->size; r++)
            sum += all[r * k + i];
        x[i] = sum;
    }
    free(all);
}

static int64_t *gather_i64(struct comm *c, const int64_t *x, size_t n)
{
    int64_t *all = xmalloc(mul_size(n * (size_t)c->size, sizeof *all, "all-gather"));
    comm_all_gather(c, x, n * sizeof *x, all);
    return all;
}

void comm_sum_i64(struct comm *c, int64_t *x, int64_t n)
{
    size_t k = (size_t)n;
    int64_t *all = gather_i64(c, x, k);
    for (size_t i = 0; i < k; i++) {
        x[i] = 0;
        for (size_t r = 0; r < (size_t)c->size; r++)
            x[i] += all[r * k + i];
    }
    free(all);
}

int64_t comm_max_i64(struct comm *c, int64_t x)
{
    int64_t *all = gather_i64(c, &x, 1);
    for (int r = 0; r < c->size; r++)
        x = all[r] > x ? all[r] : x;
    free(all);
    return x;
}

int comm_agree(struct comm *c, int code)
{
    static const int worst_last[] = { EXIT_DONE, EXIT_AGAIN, EXIT_FAILED, EXIT_USAGE, EXIT_STAY };
    int n = (int)(sizeof worst_last / sizeof *worst_last), severity = 2;
    for (int i = 0; i < n; i++)
        if (worst_last[i] == code)
            severity = i;
    return worst_last[comm_max_i64(c, severity)];
}
