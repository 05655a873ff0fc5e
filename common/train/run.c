/* run.c - the training loop
 * SPDX-License-Identifier: MIT
 */
#include "run.h"

#include <math.h>

#include "common/base/err.h"
#include "common/base/meter.h"
#include "common/base/signals.h"
#include "control.h"
#include "kernels/profile.h"
#include "pace.h"
#include "report.h"
#include "watch.h"

/* The control file's word, on rank 0, but for a save that is under way already. */
static enum control read_control(const struct checkpoints *k)
{
    if (k->dir)
        rundir_demand_newest(k->dir); /* a word that is none is removed when it is read */
    enum control c = k->dir ? control_read(k->run) : CONTROL_NONE;
    return c == CONTROL_SAVE && k->told ? CONTROL_NONE : c;
}

/* What this rank is asked for: signals come to any, the clock and the control file are rank 0's. */
static struct step_wish wish(const struct checkpoints *k, enum control control, double save_minutes, bool look_is_due)
{
    bool by_time = k->dir && save_minutes > 0 && now_seconds() - k->begun >= 60 * save_minutes;
    bool up = k->dir && deadline_is_near(k->deadline, look_is_due);
    return (struct step_wish){ .stop = signals_told() || control == CONTROL_STOP || up,
                               .save = by_time || control == CONTROL_SAVE };
}

/* The run ends, and the last checkpoint stays as it is. */
__attribute__((noreturn)) static void give_up(struct checkpoints *k, const struct step_report *s, int64_t times, const char *what)
{
    checkpoints_publish(k); /* what was good when it was begun */
    checkpoints_tell_stay(k);
    die_code(EXIT_STAY, "step %lld: the run has diverged: %lld %s (loss %g, gradient norm %g)", (long long)k->t->step,
             (long long)times, what, fabs(s->loss), fabs(s->grad_norm)); /* not "-nan" */
}

/* A skipped step is told, and is gone back from when that is wanted and can be; too many end the run. True: it went back. */
static bool heed_skip(struct checkpoints *k, const struct step_report *s, int64_t max_skips)
{
    const struct trainer *t = k->t;
    int64_t step = t->step;
    if (!s->skipped)
        return false;
    note(1, "step %lld skipped: loss %g (z %.2f), gradient norm %g (z %.2f); %lld in a row, %lld in all",
         (long long)t->step, fabs(s->loss), s->loss_z, fabs(s->grad_norm), s->norm_z,
         (long long)t->skipped_in_row, (long long)t->skipped);
    if (t->skipped_in_row >= max_skips)
        give_up(k, s, t->skipped_in_row, "steps in a row are skipped");
    if (k->back == 0)
        return false;
    if (t->rewinds_in_row + 1 >= max_skips)
        give_up(k, s, max_skips, "times from one checkpoint on");
    if (!checkpoints_rewind(k)) {
        note(1, "there is no checkpoint to go back to");
        return false;
    }
    note(1, "goes back from step %lld to the checkpoint of step %lld, and on with sample %lld; %lld times from there, %lld in all",
         (long long)step, (long long)t->step, (long long)t->samples, (long long)t->rewinds_in_row, (long long)t->rewinds);
    return true;
}

/* Does something that is due every so many steps (0: never) come after this one? */
static bool is_due(int64_t step, int64_t every) { return every > 0 && step % every == 0; }

int run_train(struct checkpoints *k, struct loader *loader, const struct valids *valids,
              const struct run_options *o)
{
    struct trainer *t = k->t;
    int64_t last = t->step + length_steps_left(&o->length, t->step, t->samples, NULL);
    struct report report;
    int64_t slowest_every = t->comm->size > 1 ? o->slowest_every : 0;
    struct pace pace = { 0 };
    report_begin(&report, t, k->dir, k->deadline, last, o->log_every, valids->n > 0, slowest_every > 0, o->events);
    for (bool stop = false; t->step < last && !stop;) {
        double begin = now_seconds(), wait = 0;
        watch_phase("waiting for data", t->step + 1);
        const struct loaded *batch = loader_next(loader, &wait);
        double rate =
            schedule_rate(&o->schedule, length_position(&o->length, t->step + 1, t->samples + batch->batch));
        enum control control = read_control(k);
        struct step_report s = trainer_step(t, batch, rate, wish(k, control, o->save_minutes, valids->n && is_due(t->step + 1, o->valid_every)));
        profile_step();
        double seconds = now_seconds() - begin;
        watch_phase("report", t->step);
        stop = s.stop || (o->stop_at > 0 && t->step >= o->stop_at);
        k->deadline->step = fmax(k->deadline->step, seconds);
        report_step(&report, &s, rate, seconds, wait);
        pace_add(&pace, s.compute, wait);
        if (is_due(t->step, slowest_every)) {
            struct slowest slowest = pace_slowest(&pace, t->comm);
            report_slowest(&report, &slowest);
        }
        if (s.written)
            checkpoints_publish(k);
        int64_t from = t->step;
        if (heed_skip(k, &s, o->max_skips)) {
            last = t->step + length_steps_left(&o->length, t->step, t->samples, NULL);
            report_rewind(&report, from, last);
            continue;
        }
        /* Before the save: what is looked at once is not looked at again by who goes on from there. */
        if (valids->n && !stop && (t->step == last || is_due(t->step, o->valid_every))) {
            double looked = now_seconds();
            report_pause(&report);
            for (size_t i = 0; i < valids->n; i++) {
                watch_phase("look at a held-out set", t->step);
                struct metrics_valid look = valids_look(valids, i, t, o->valid_tokens);
                report_look(&report, &look);
            }
            k->deadline->look = fmax(k->deadline->look, now_seconds() - looked);
        }
        if ((s.save || is_due(t->step, o->save_every)) && t->step < last && !stop)
            checkpoints_begin(k, control == CONTROL_SAVE);
    }
    profile_end();
    report_pause(&report);
    checkpoints_finish(k);
    report_end(&report);
    return t->step < last ? EXIT_AGAIN : EXIT_DONE;
}
