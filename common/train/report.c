/* report.c - what a run tells of its steps: metrics, event files, the progress line
 * SPDX-License-Identifier: MIT
 */
#include "report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/out.h"
#include "common/model/net.h"

static struct metrics *open_metrics(const struct report *r, const char *name)
{
    char *path = path_join(rundir_path(r->dir), name);
    struct metrics *m = metrics_open(path);
    free(path);
    return m;
}

void report_begin(struct report *r, const struct trainer *t, struct rundir *dir,
                  const struct deadline *deadline, int64_t last, double log_every, bool looks, bool slowest, bool events)
{
    *r = (struct report){ .t = t, .deadline = deadline, .dir = dir, .first = t->step, .last = last };
    if (!dir)
        return;
    r->flops = 3 * net_flops(&t->net->c, t->opt.seq_len);
    r->log_every = log_every;
    r->steps = open_metrics(r, "metrics.jsonl");
    r->looks = looks ? open_metrics(r, "valid.jsonl") : NULL;
    r->slowest = slowest ? open_metrics(r, "slowest.jsonl") : NULL;
    progress_begin(&r->bar, r->first, last, log_every);
    r->started = now_seconds();
    r->events = events ? events_open(rundir_path(dir)) : NULL;
    r->warned = isinf(deadline->at);
}

/* The device is asked at the first step, and then as often as there are progress lines. */
static void ask_device(struct report *r, double now)
{
    if (r->asked > 0 && now - r->asked < r->log_every)
        return;
    struct device_info d;
    r->t->net->be->info(&d);
    r->peak = d.peak[r->t->opt.precision.act] * r->t->comm->size;
    r->device_memory = (double)(d.memory_total - d.memory_free);
    r->asked = now;
}

/* "MFU 41.3%" behind what separates it from the rate before, or nothing where the peak is not known. Returns text. */
static char *format_mfu(const struct report *r, const char *separator, char text[32])
{
    text[0] = '\0';
    if (r->peak > 0)
        snprintf(text, 32, "%sMFU %.1f%%", separator, 100 * r->flops * r->speed / r->peak);
    return text;
}

/* A progress line: the running mean of the loss, and what else of the step people look at. */
static void print_line(char *text, size_t size, const struct report *r, const struct metrics_line *l)
{
    char a[32], b[32], c[32], limit[48] = "", skipped[40] = "", mfu[32], used[40] = "";
    if (isfinite(l->limit))
        snprintf(limit, sizeof limit, "  limit %s", format_duration(fmax(l->limit, 0), a));
    if (l->skipped)
        snprintf(skipped, sizeof skipped, "  skipped %lld", (long long)l->skipped);
    if (isfinite(l->device_memory))
        snprintf(used, sizeof used, "  device %sB", format_si(l->device_memory, a));
    snprintf(text, size,
             "loss %.4f (z %.1f)  lr %.2e  grad %.3f (z %.1f)  %stok/s  %sFLOP/s%s  %sB%s  wait %.0f%%%s%s",
             r->loss, l->loss_z, l->lr, l->grad_norm, l->norm_z, format_si(r->speed, a),
             format_si(r->flops * r->speed, b), format_mfu(r, "  ", mfu),
             format_si((double)l->memory, c), used,
             100 * l->data_wait / l->seconds, skipped, limit);
}

static void write_events(struct events *e, const struct metrics_line *l)
{
    struct scalar s[15] = { { "train/loss", l->loss },
                                { "train/lr", l->lr },
                                { "train/grad_norm", l->grad_norm },
                                { "train/loss_z", l->loss_z },
                                { "train/grad_norm_z", l->norm_z },
                                { "train/skipped", (double)l->skipped },
                                { "train/rewinds", (double)l->rewinds },
                                { "train/samples", (double)l->samples },
                                { "speed/tokens_per_s", l->tokens_per_s },
                                { "speed/flops_per_s", l->flops_per_s },
                                { "speed/seconds", l->seconds },
                                { "speed/data_wait", l->data_wait },
                                { "speed/memory", (double)l->memory } };
    size_t n = 13;
    if (isfinite(l->mfu))
        s[n++] = (struct scalar){ "speed/mfu", l->mfu };
    if (isfinite(l->device_memory))
        s[n++] = (struct scalar){ "speed/device_memory", l->device_memory };
    events_write(e, l->step, s, n);
}

/* A run that is longer than its job: says once, when the pace is known, how many jobs it needs. */
static void warn_of_limit(struct report *r, const struct metrics_line *l)
{
    if (r->warned || l->step - r->first < 10 || l->eta <= l->limit)
        return;
    note(1, "the job ends in %s, the run in %s: about %.0f more starts are needed",
         format_duration(l->limit, (char[32]){ 0 }), format_duration(l->eta, (char[32]){ 0 }),
         ceil(l->eta / fmax(l->limit, 1)) - 1);
    r->warned = true;
}

static double running_mean(double mean, double x) { return mean > 0 ? 0.9 * mean + 0.1 * x : x; }

void report_step(struct report *r, const struct step_report *s, double rate, double seconds, double wait)
{
    const struct trainer *t = r->t;
    if (!r->dir)
        return;
    rundir_demand_newest(r->dir);
    double now = now_seconds(), tokens_per_s = (double)s->computed / seconds;
    r->speed = running_mean(r->speed, tokens_per_s);
    ask_device(r, now);
    if (isfinite(s->loss))
        r->loss = running_mean(r->loss, s->loss);
    struct metrics_line line = { .step = t->step,
                                 .samples = t->samples,
                                 .tokens = t->tokens,
                                 .loss = s->loss,
                                 .lr = rate,
                                 .grad_norm = s->grad_norm,
                                 .loss_z = s->loss_z,
                                 .norm_z = s->norm_z,
                                 .skip = s->skipped,
                                 .skipped = t->skipped,
                                 .rewinds = t->rewinds,
                                 .seconds = seconds,
                                 .tokens_per_s = tokens_per_s,
                                 .flops_per_s = r->flops * tokens_per_s,
                                 .mfu = r->peak > 0 ? r->flops * tokens_per_s / r->peak : NAN,
                                 .data_wait = wait,
                                 .memory = meter_peak_memory(),
                                 .device_memory = r->device_memory > 0 ? r->device_memory : NAN,
                                 .eta = (now - r->started) / (double)(t->step - r->first) *
                                        (double)(r->last - t->step),
                                 .limit = r->deadline->at - now };
    metrics_write(r->steps, &line);
    if (r->events)
        write_events(r->events, &line);
    rundir_beat(r->dir);
    warn_of_limit(r, &line);
    char text[320];
    print_line(text, sizeof text, r, &line);
    progress_at(&r->bar, t->step, text);
}

void report_look(struct report *r, const struct metrics_valid *l)
{
    if (!r->dir)
        return;
    rundir_demand_newest(r->dir);
    metrics_write_valid(r->looks, l);
    if (r->events) {
        char *loss = xasprintf("valid/loss/%s", l->set), *bpb = xasprintf("valid/bits_per_byte/%s", l->set);
        const struct scalar both[] = { { loss, l->loss }, { bpb, l->bpb } };
        events_write(r->events, l->step, both, isnan(l->bpb) ? 1 : 2);
        free(loss);
        free(bpb);
    }
    char bits[40] = ""; /* masked sets do not know their bytes */
    if (!isnan(l->bpb))
        snprintf(bits, sizeof bits, "  bits/byte %.4f", l->bpb);
    note(1, "step %lld  valid '%s'  loss %.4f  ppl %.4g%s", (long long)l->step, l->set, l->loss, l->ppl, bits);
}

void report_rewind(struct report *r, int64_t from, int64_t last)
{
    r->first -= from - r->t->step;
    r->last = last;
    r->bar.first = r->first;
    r->bar.total = last;
}

void report_slowest(struct report *r, const struct slowest *s)
{
    if (!r->dir)
        return;
    rundir_demand_newest(r->dir);
    metrics_write_slowest(r->slowest, r->t->step, s);
    report_pause(r);
    note(1, "step %lld  slowest of %d ranks is %d on %s: %.3f s of computing and %.3f s of waiting for data a step; mean %.3f s and %.3f s",
         (long long)r->t->step, r->t->comm->size, s->rank, s->host, s->compute, s->wait, s->mean_compute, s->mean_wait);
}

void report_pause(struct report *r) { progress_end(&r->bar); }

void report_end(struct report *r)
{
    metrics_close(r->steps);
    metrics_close(r->looks);
    metrics_close(r->slowest);
    events_close(r->events);
    char words[160], a[32], b[32], mfu[32];
    snprintf(words, sizeof words, "step %lld of %lld, %stokens/s, %sFLOP/s%s", (long long)r->t->step, (long long)r->last,
             format_si(r->speed, a), format_si(r->flops * r->speed, b), format_mfu(r, ", ", mfu));
    meter_last_words(words);
}
