/* resume.c - what a run begins with, or goes on from
 * SPDX-License-Identifier: MIT
 */
#include "resume.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/io/rundir.h"
#include "common/model/net.h"
#include "common/model/weights.h"

/* Collective. True when the checkpoint, which is NULL where a rank cannot open it, is whole: each rank checks
 * its share of the files. Else rank 0 says why not, as a warning. */
static bool is_whole(struct comm *comm, struct ckpt *c, const char *dir)
{
    int bad = !c;
    for (int m = comm->rank; c && m < ckpt_members(c) && !bad; m += comm->size)
        bad = ckpt_try_verify(c, m) < 0;
    if (bad && comm->rank == 0)
        warn("checkpoint passed over: %s", err_last());
    if (!comm_max_i64(comm, bad))
        return true;
    if (!bad && comm->rank == 0)
        warn("checkpoint passed over: '%s' is damaged", dir);
    return false;
}

struct ckpt *resume_open_newest(struct comm *comm, const char *run, int64_t every)
{
    char **paths = NULL;
    int64_t n = comm->rank == 0 ? rundir_list(run, every, &paths) : 0;
    comm_bcast(comm, &n, sizeof n, 0);
    struct ckpt *found = NULL;
    for (int64_t i = 0; i < n && !found; i++) {
        char dir[4096];
        snprintf(dir, sizeof dir, "%s", comm->rank == 0 ? paths[i] : "");
        comm_bcast(comm, dir, sizeof dir, 0);
        found = ckpt_try_open(dir);
        if (!is_whole(comm, found, dir)) {
            ckpt_close(found);
            found = NULL;
        }
    }
    if (comm->rank == 0)
        rundir_free_list(paths, (int)n);
    if (n > 0 && !found)
        die("run '%s': none of its %lld checkpoints can be used; remove them to begin anew", run,
            (long long)n);
    return found;
}

struct ckpt *resume_open_base(struct comm *comm, const char *run, const char *init_from, bool preset,
                              bool check)
{
    char **paths = NULL;
    int64_t own = comm->rank == 0 && run ? rundir_list(run, 1, &paths) : 0;
    if (comm->rank == 0 && run)
        rundir_free_list(paths, (int)own);
    comm_bcast(comm, &own, sizeof own, 0);
    if (own > 0 ? preset : !init_from)
        return NULL;
    const char *path = own > 0 ? run : init_from;
    struct ckpt *c = weights_open(comm, path, false);
    if (own == 0 && check && !is_whole(comm, c, path))
        die("'%s' cannot be begun with", path);
    return c;
}

struct config resume_config(const struct ckpt *c)
{
    struct config saved;
    if (config_try_from_attrs(&saved, ckpt_config(c)) <
        0) /* numbers that it does not have take their defaults */
        die("'%s': %s", ckpt_dir(c), err_last());
    return saved;
}

void resume_check_model(const struct ckpt *c, const struct config *saved, const struct config *config)
{
    struct attrs mine = { 0 }, theirs = { 0 };
    config_to_attrs(config, &mine);
    config_to_attrs(saved, &theirs);
    if (!attrs_equal(&mine, &theirs))
        die("'%s' is a checkpoint of another model: %s", ckpt_dir(c), err_last());
    attrs_free(&mine);
    attrs_free(&theirs);
}

void resume_identity(struct attrs *a, const struct identity *id)
{
    attrs_set_str(a, "data", id->data);
    attrs_set_int(a, "seed", id->seed);
    attrs_set_int(a, "seq_len", id->seq_len);
    attrs_set_str(a, "order", id->order == ORDER_STREAM ? "stream" : "shuffle");
}

void resume_check_run(const struct ckpt *c, const struct config *config, const struct identity *id)
{
    struct attrs mine = { 0 };
    struct config saved = resume_config(c);
    resume_check_model(c, &saved, config);
    if (ckpt_state(c)->n == 0)
        die("'%s' holds a model without the state of a run", ckpt_dir(c));
    resume_identity(&mine, id);
    for (size_t i = 0; i < mine.n; i++) {
        struct attrs one = { .a = &mine.a[i], .n = 1 };
        const struct attr *have = attrs_find(ckpt_state(c), mine.a[i].name);
        struct attrs other = { .a = (struct attr *)(uintptr_t)have, .n = have ? 1 : 0 };
        if (!attrs_equal(&one, &other))
            die("'%s' cannot go on with these arguments: %s", ckpt_dir(c), err_last());
    }
    attrs_free(&mine);
}

char *resume_load(struct trainer *t, struct ckpt *from, struct ckpt *base, bool moments, int64_t seed)
{
    char *now = meter_history();
    if (from) {
        trainer_load(t, from, TRAINER_RUN);
        note(1, "goes on from '%s'", ckpt_dir(from));
    } else if (base) {
        trainer_load(t, base, moments ? TRAINER_OPTIMIZER : TRAINER_WEIGHTS);
        note(1, "begins with the weights%s of '%s'", moments ? " and moments" : "", ckpt_dir(base));
    } else {
        net_init(t->net, (uint64_t)seed);
        return now;
    }
    char *history = xasprintf("%s\n%s", ckpt_history(from ? from : base), now);
    free(now);
    return history;
}
