/* checkpoints.c - the checkpoints of a run: begun, published, removed
 * SPDX-License-Identifier: MIT
 */
#include "checkpoints.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/err.h"
#include "common/base/meter.h"
#include "common/base/out.h"
#include "control.h"
#include "watch.h"

static bool still_ours(void *arg)
{
    struct checkpoints *k = arg;
    return rundir_is_newest(k->dir);
}

/* Rank 0. What the control file asked for is done; a newer incarnation's word is not ours. */
static void take_word(const struct checkpoints *k)
{
    rundir_demand_newest(k->dir);
    control_done(k->run);
}

void checkpoints_tell_stay(const struct checkpoints *k)
{
    if (k->dir)
        rundir_tell(k->dir, "stay", k->t->step);
}

void checkpoints_publish(struct checkpoints *k)
{
    if (!k->t->saving)
        return;
    watch_phase("publishing a checkpoint", k->t->step);
    if (!trainer_save_publish(k->t, still_ours, k)) {
        if (k->dir)
            rundir_demand_newest(k->dir);
        die("a newer incarnation of '%s' has begun: this one ends without publishing", k->run);
    }
    if (k->dir)
        rundir_prune(k->dir, (int)k->keep, k->keep_every, k->back);
    if (k->told && control_read(k->run) == CONTROL_SAVE) /* not another word that came since */
        take_word(k);
    k->told = false;
    double seconds = now_seconds() - k->begun;
    k->deadline->save = fmax(k->deadline->save, seconds);
    note(2, "saved step %lld in %.2f s", (long long)k->step, seconds);
}

/* Collective. Is there room for a checkpoint? Rank 0 looks; it has the reason in err_last(). */
static bool is_room(const struct checkpoints *k)
{
    int64_t room =
        !k->dir || out_try_room(rundir_path(k->dir), trainer_save_bytes(k->t), k->t->comm->size + 2) == 0;
    comm_bcast(k->t->comm, &room, sizeof room, 0);
    return room;
}

static void begin(struct checkpoints *k, bool last)
{
    char dir[4096] = "";
    int64_t step = k->t->step;
    checkpoints_publish(k);
    watch_phase("save", step);
    if (!trainer_is_finite(k->t)) {
        checkpoints_tell_stay(k);
        die_code(
            EXIT_STAY,
            "step %lld: the run has diverged: there are weights that are not finite, which are not saved",
            (long long)step);
    }
    k->begun = now_seconds();
    if (!is_room(k)) {
        if (last)
            die("step %lld is not saved: %s", (long long)step, k->dir ? err_last() : "there is no room");
        warn("step %lld is not saved, the training goes on: %s", (long long)step, err_last());
        return;
    }
    if (k->dir) {
        char *path = rundir_step_path(k->dir, step);
        snprintf(dir, sizeof dir, "%s", path);
        set_prepare(path, false);
        free(path);
    }
    comm_bcast(k->t->comm, dir, sizeof dir, 0);
    struct attrs state = { 0 };
    if (k->back > 0 && step % k->back == 0)
        k->t->rewinds_in_row = 0;
    resume_identity(&state, &k->identity);
    bool background = k->background && !last;
    trainer_save_begin(k->t, dir, &state, k->history, background);
    attrs_free(&state);
    k->step = step;
    if (!background)
        checkpoints_publish(k);
}

void checkpoints_begin(struct checkpoints *k, bool told)
{
    begin(k, false);
    k->told = told && k->t->saving;
    if (told && !k->t->saving)
        take_word(k); /* saved already, or refused */
}

void checkpoints_finish(struct checkpoints *k)
{
    if (k->step != k->t->step)
        begin(k, true);
    checkpoints_publish(k);
    if (k->dir && control_read(k->run) != CONTROL_NONE)
        take_word(k); /* all is saved, and this is the end */
}

bool checkpoints_rewind(struct checkpoints *k)
{
    checkpoints_publish(k);
    watch_phase("going back to a checkpoint", k->t->step);
    struct ckpt *c = resume_open_newest(k->t->comm, k->run, k->back);
    if (!c)
        return false;
    trainer_rewind(k->t, c);
    ckpt_close(c);
    k->step = k->t->step;
    if (k->dir)
        rundir_go_back(k->dir, k->step);
    return true;
}
