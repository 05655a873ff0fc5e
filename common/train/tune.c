/* tune.c - the algorithms of matrix products, where a device has several: measured once, and kept by a run
 * SPDX-License-Identifier: MIT
 */
#include "tune.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/base/out.h"
#include "common/base/rng.h"

enum { LARGEST = 8 << 20 }; /* bytes of a text */

/* ---- measuring ---- */

/* One micro-batch on random weights and tokens: multiplying zeros takes less power, and so less time. */
static void train_once(const struct config *c, const struct backend *be, struct comm *comm,
                       const struct trainer_options *to)
{
    struct trainer_options once = *to;
    once.rows = once.batch = to->micro_rows;
    struct trainer *t = trainer_create(c, be, comm, &once);
    net_init(t->net, 1);
    size_t n = mul_size((size_t)once.rows, (size_t)to->seq_len, "tokens");
    int32_t *ids = xcalloc(n + 1, sizeof *ids), *start = xcalloc(n, sizeof *start);
    bool *carries = xcalloc((size_t)once.rows, sizeof *carries);
    for (size_t i = 0; i <= n; i++)
        ids[i] = (int32_t)(rng_u64(1, 0, i) % (uint64_t)c->vocab);
    const struct loaded made_up = { .rows = once.rows,
                                    .T = to->seq_len,
                                    .ids = ids,
                                    .targets = ids + 1,
                                    .start = start,
                                    .carries = carries,
                                    .n_targets = (int64_t)n,
                                    .batch = once.batch };
    trainer_step(t, &made_up, 0, (struct step_wish){ 0 });
    free(carries);
    free(start);
    free(ids);
    trainer_free(t);
}

void tune_measure(const char *path, const struct config *c, const struct backend *be, struct comm *comm,
                  const struct trainer_options *to)
{
    const char *why;
    struct plans_sum sum;
    if (!be->plans_take)
        die_usage("--tune-gemm: the device, '%s', has no algorithms to choose from", be->name);
    if (comm->size > 1)
        die_usage("--tune-gemm measures on one GPU: one rank, not %d", comm->size);
    if (path_exists(path))
        die("'%s' exists; remove it to measure anew", path);
    struct out *probe = out_open(path, false); /* better now than after the measuring */
    be->plans_take(NULL, &why);
    train_once(c, be, comm, to);
    const char *text = be->plans_tell(&sum);
    out_abort(probe);
    if (!text)
        die("'%s': no memory for the text", path);
    out_write_file(path, text, strlen(text), false);
    double saved = sum.first_ms > 0 ? 1 - sum.best_ms / sum.first_ms : 0;
    note(1, "%lld matrix products measured; a micro-batch spends %.3f ms in them by the first choices, %.3f ms "
            "by the fastest (%.1f%% less)",
         (long long)sum.products, sum.first_ms, sum.best_ms, 100 * saved);
}

/* ---- going by it ---- */

/* What the run of a checkpoint went by lies in the folder of the start that wrote the checkpoint. */
static char *path_of_copy(const struct ckpt *from)
{
    const char *dir = ckpt_dir(from);
    return xasprintf("%.*s" TUNE_FILE, (int)(path_base(dir) - dir), dir);
}

/* Rank 0: the text that the run goes by, or NULL. */
static char *read_text(const char *given, const char *copy)
{
    size_t n;
    char *new = given ? file_try_read(given, LARGEST, &n) : NULL, *old = NULL;
    if (!copy) {
        if (given && !new)
            die_usage("%s", err_last());
        return new;
    }
    if (path_exists(copy) && !(old = file_try_read(copy, LARGEST, &n)))
        die("%s", err_last());
    if (given && !old)
        warn("'%s' is not used: the run began without --gemm-plans, and goes on so", given);
    else if (given && (!new || strcmp(new, old) != 0))
        warn("'%s' is not what the run began with: it goes on with '%s'", given, copy);
    free(new);
    return old;
}

static char *bcast_text(struct comm *comm, char *text)
{
    int64_t n = text ? (int64_t)strlen(text) : -1;
    comm_bcast(comm, &n, sizeof n, 0);
    if (n < 0)
        return NULL;
    if (!text)
        text = xcalloc((size_t)n + 1, 1);
    comm_bcast(comm, text, (size_t)n, 0);
    return text;
}

char *tune_settle(struct comm *comm, const struct backend *be, const char *given, const struct ckpt *from)
{
    char *copy = from ? path_of_copy(from) : NULL;
    const char *path = copy ? copy : given, *why = NULL;
    char *text = bcast_text(comm, comm->rank == 0 ? read_text(given, copy) : NULL);
    if (text && !be->plans_take) {
        warn("'%s' is not used: the device, '%s', has no algorithms to choose from", path, be->name);
    } else if (text) {
        enum plans_fit fit = be->plans_take(text, &why);
        if (fit == PLANS_BAD)
            die_usage("%s:%s", path, why);
        if (why)
            warn("'%s': %s; the first choices are taken for %s", path, why,
                 fit == PLANS_FOREIGN ? "all products" : "these");
    }
    free(copy);
    return text;
}
