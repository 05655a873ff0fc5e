/* ssmtrain.c - trains a model on token shards
 * SPDX-License-Identifier: MIT
 *
 * Data parallel over the ranks of the job. The run directory holds everything: started again with the same
 * arguments, the tool goes on from the newest valid checkpoint. See ssmtrain.1 and common/io/rundir.h.
 */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/opt.h"
#include "common/base/out.h"
#include "common/base/signals.h"
#include "common/base/threads.h"
#include "common/dist/comm.h"
#include "common/io/rundir.h"
#include "common/io/shard.h"
#include "common/model/net.h"
#include "common/model/score.h"
#include "common/prep/blend.h"
#include "common/train/control.h"
#include "common/train/events.h"
#include "common/train/loader.h"
#include "common/train/metrics.h"
#include "common/train/order.h"
#include "common/train/ramp.h"
#include "common/train/schedule.h"
#include "common/train/trainer.h"

static struct {
    const char *config, *model, *run, *blend, *ramp, *init_from, *freeze, *valid;
    int64_t steps, samples, tokens, batch, micro, seq_len, warmup, lr_decay, seed, save_every, keep,
        keep_every, log_every, threads, stop_at, valid_every, valid_tokens, max_skips;
    double lr, min_lr, beta1, beta2, eps, decay, clip, save_minutes, ema, skip_loss_z, skip_grad_z,
        time_limit;
    int schedule, style, order, recompute, sync;
    bool dry, keep_optimizer, tensorboard;
} o = { .steps = 1000,
        .batch = 8,
        .seq_len = 1024,
        .warmup = -1,
        .lr_decay = -1,
        .seed = 1,
        .save_every = 500,
        .valid_every = 250,
        .max_skips = 10,
        .keep = 3,
        .log_every = 10,
        .lr = 1e-3,
        .min_lr = -1,
        .beta1 = 0.9,
        .beta2 = 0.95,
        .eps = 1e-8,
        .decay = 0.1,
        .clip = 1 };

static struct opt options[] = {
    OPT_STR('o', "run", "DIR", &o.run, "run directory; goes on from its newest checkpoint"),
    OPT_STR(0, "model", "NAME|FILE", &o.model,
            "preset name, or file of 'name = value'; without it the checkpoint's"),
    OPT_STR(0, "init-from", "DIR", &o.init_from,
            "begin with the weights of a checkpoint, or of a run's newest"),
    OPT_FLAG(0, "keep-optimizer", &o.keep_optimizer, "begin with its AdamW moments too"),
    OPT_STR(0, "freeze", "GLOB,...", &o.freeze, "tensors that do not train"),
    OPT_STR(0, "blend", "FILE", &o.blend, "the sets and their weights, in place of DATA"),
    OPT_INT(0, "steps", "N", &o.steps, 1, 1e12, "length of the run in optimizer steps"),
    OPT_INT(0, "samples", "N", &o.samples, 0, 1e15, "length of the run in sequences, in place of --steps"),
    OPT_INT(0, "tokens", "N", &o.tokens, 0, 1e18, "length of the run in tokens, --seq-len a sequence"),
    OPT_INT(0, "batch", "N", &o.batch, 1, 1 << 24, "sequences of a step, all ranks together"),
    OPT_STR(0, "rampup-batch-size", "START,INCREMENT,SAMPLES", &o.ramp,
            "begin with a batch of START, and reach --batch after SAMPLES"),
    OPT_INT(0, "micro-batch", "N", &o.micro, 0, 1 << 20,
            "sequences a rank computes at a time; 0: all its own"),
    OPT_INT(0, "seq-len", "N", &o.seq_len, 1, 1 << 30, "tokens of a sequence"),
    OPT_REAL(0, "lr", "X", &o.lr, 0, 10, "peak learning rate"),
    OPT_REAL(0, "min-lr", "X", &o.min_lr, -1, 10, "last learning rate; -1: a tenth of --lr"),
    OPT_CHOICE(0, "schedule", &o.schedule, "cosine|linear|inverse-sqrt|wsd|constant",
               "the rate after the warm-up"),
    OPT_INT(0, "warmup", "N", &o.warmup, -1, 1e18,
            "the rate rises from 0, in the unit of the run's length; -1: a twentieth of it"),
    OPT_INT(0, "lr-decay", "N", &o.lr_decay, -1, 1e18,
            "the rate falls, in the same unit; -1: to the run's end, of wsd in the last tenth"),
    OPT_CHOICE(0, "lr-decay-style", &o.style, "linear|cosine|exponential|minus-sqrt", "how wsd falls"),
    OPT_REAL(0, "beta1", "X", &o.beta1, 0, 0.999999, "AdamW: decay of the first moment"),
    OPT_REAL(0, "beta2", "X", &o.beta2, 0, 0.999999, "AdamW: decay of the second moment"),
    OPT_REAL(0, "eps", "X", &o.eps, 1e-30, 1, "AdamW: epsilon"),
    OPT_REAL(0, "weight-decay", "X", &o.decay, 0, 10, "AdamW: decay of tensors with two and more dimensions"),
    OPT_REAL(0, "ema", "X", &o.ema, 0, 0.9999999,
             "decay of a running mean of the weights, kept beside them; 0: none"),
    OPT_REAL(0, "clip", "X", &o.clip, 0, 1e9, "largest gradient norm; 0: no clipping"),
    OPT_REAL(0, "skip-loss-z", "X", &o.skip_loss_z, 0, 1e9,
             "skip steps whose loss is X deviations above the last 128; 0: none"),
    OPT_REAL(0, "skip-grad-z", "X", &o.skip_grad_z, 0, 1e9, "the same of the gradient norm; 0: none"),
    OPT_INT(0, "max-skips", "N", &o.max_skips, 1, 1e12,
            "end with 93 when so many steps in a row were skipped"),
    OPT_INT(0, "seed", "N", &o.seed, 0, OPT_MAX_INT, "of the initial weights and the data order"),
    OPT_CHOICE(0, "order", &o.order, "shuffle|stream",
               "windows in random order, or documents on end with state"),
    OPT_CHOICE(0, "recompute", &o.recompute, "none|full",
               "keep activations, or make them again in the backward pass"),
    OPT_STR(0, "valid", "DIR,...", &o.valid, "held-out sets that are looked at on the way"),
    OPT_INT(0, "valid-every", "N", &o.valid_every, 0, 1e12,
            "steps between looks at --valid; 0: at the end only"),
    OPT_INT(0, "valid-tokens", "N", &o.valid_tokens, 0, OPT_MAX_INT,
            "tokens of each that are scored; 0: all"),
    OPT_INT(0, "save-every", "N", &o.save_every, 0, 1e12, "steps between checkpoints; 0: at the end only"),
    OPT_REAL(0, "save-minutes", "X", &o.save_minutes, 0, 1e6, "also after so many minutes; 0: no"),
    OPT_INT(0, "keep", "N", &o.keep, 1, 1 << 20, "newest checkpoints to keep"),
    OPT_INT(0, "keep-every", "N", &o.keep_every, 0, 1e12, "keep also checkpoints of each N-th step; 0: none"),
    OPT_CHOICE(0, "save-async", &o.sync, "on|off",
               "write checkpoints from a copy while the training goes on"),
    OPT_INT(0, "stop-at", "N", &o.stop_at, 0, 1e12, "save and exit 75 after this step; 0: no"),
    OPT_REAL(0, "time-limit", "X", &o.time_limit, 0, 1e9,
             "save and exit 75 before so many minutes of this start are over; 0: no"),
    OPT_FLAG(0, "tensorboard", &o.tensorboard, "write event files for TensorBoard beside the metrics"),
    OPT_INT(0, "log-every", "N", &o.log_every, 1, 1e9, "seconds between lines when there is no terminal"),
    OPT_INT(0, "threads", "N", &o.threads, 0, 4096,
            "a rank; 0: OMP_NUM_THREADS, or the cores shared by the ranks"),
    OPT_FLAG('n', "dry-run", &o.dry, "print shapes, parameters, FLOPs and memory, and end"),
    OPT_END,
};

/* ---- how long the run is ---- */

enum unit { STEPS, SAMPLES, TOKENS };

/* The unit that the run is measured in. One of them; the command line wins over a config file. */
static enum unit unit_of_run(void)
{
    static const char *const names[] = { "steps", "samples", "tokens" };
    enum unit unit = STEPS;
    int by = opt_find(options, names[STEPS])->set_by;
    for (int u = SAMPLES; u <= TOKENS; u++) {
        int set = (u == SAMPLES ? o.samples : o.tokens) > 0 ? opt_find(options, names[u])->set_by : 0;
        if (set && set == by)
            die_usage("--%s and --%s: give one of them", names[unit], names[u]);
        if (set > by) {
            by = set;
            unit = (enum unit)u;
        }
    }
    return unit;
}

static int64_t length_of_run(void)
{
    const int64_t length[] = { o.steps, o.samples, o.tokens };
    return length[unit_of_run()];
}

/* Where a run is after so many steps and samples. */
static int64_t position(int64_t step, int64_t samples)
{
    const int64_t at[] = { step, samples, samples * o.seq_len };
    return at[unit_of_run()];
}

static struct ramp ramp; /* of the batch */

/* Steps to go from there, and (may be NULL) the samples that are taken then. */
static int64_t steps_left(int64_t step, int64_t samples, int64_t *end)
{
    int64_t length = length_of_run(), n = samples, steps;
    if (unit_of_run() == STEPS)
        steps = ramp_walk(&ramp, &n, INT64_MAX, length > step ? length - step : 0);
    else
        steps =
            ramp_walk(&ramp, &n, unit_of_run() == SAMPLES ? length : (length - 1) / o.seq_len + 1, INT64_MAX);
    if (end)
        *end = n;
    return steps;
}

/* Samples of the whole run. */
static int64_t samples_of_run(void)
{
    int64_t n;
    steps_left(0, 0, &n);
    return n;
}

static struct schedule schedule_of_run(void)
{
    struct schedule s = { o.schedule, o.style,    o.lr,           o.min_lr < 0 ? o.lr / 10 : o.min_lr,
                          o.warmup,   o.lr_decay, length_of_run() };
    if (o.min_lr > o.lr)
        die_usage("'%g' of 'min-lr' is above '%g' of 'lr'", o.min_lr, o.lr);
    if (s.warmup < 0)
        s.warmup = s.length / 20;
    if (s.warmup >= s.length)
        die_usage("'%lld' of 'warmup' is not below the length of the run, %lld", (long long)s.warmup,
                  (long long)s.length);
    bool falls = o.schedule != SCHEDULE_INVERSE_SQRT && o.schedule != SCHEDULE_CONSTANT;
    if (o.lr_decay >= 0 && !falls)
        die_usage("'lr-decay' is for cosine, linear and wsd");
    if (opt_find(options, "lr-decay-style")->set_by && o.schedule != SCHEDULE_WSD)
        die_usage("'lr-decay-style' is for wsd");
    if (s.decay < 0)
        s.decay = o.schedule == SCHEDULE_WSD ? s.length / 10 : s.length - s.warmup;
    if (o.schedule == SCHEDULE_WSD && s.decay > s.length - s.warmup)
        die_usage("'%lld' of 'lr-decay' and '%lld' of 'warmup' are more than the length of the run, %lld",
                  (long long)s.decay, (long long)s.warmup, (long long)s.length);
    return s;
}

/* ---- data ---- */

struct data {
    int n;
    struct blend blend;
    const char **dirs; /* they belong to the blend */
    struct order_set *sets;
    struct buf hashes;      /* "dir-independent" identity of the sets and their weights */
    struct shard_info info; /* of the first; the others have the same tokenizer */
};

/* An operand "DIR" or "DIR@WEIGHT". */
static void add_operand(struct blend *b, const char *arg)
{
    const char *at = path_is_dir(arg) ? NULL : strrchr(arg, '@'); /* a folder's name may hold one */
    double weight = 1;
    if (at && (parse_real(at + 1, &weight) < 0 || !(weight > 0)))
        die_usage("'%s' is not a weight above 0 in '%s'", at + 1, arg);
    char *dir = at ? xasprintf("%.*s", (int)(at - arg), arg) : xstrdup(arg);
    blend_add(b, dir, weight);
    free(dir);
}

static struct data open_data(int n, char **args)
{
    struct data d = { 0 };
    if (o.blend && n)
        die_usage("the data come from '%s' of 'blend': '%s' is too much", o.blend, args[0]);
    if (o.blend && blend_try_read(&d.blend, o.blend) < 0)
        die_usage("%s", err_last());
    for (int i = 0; i < n; i++)
        add_operand(&d.blend, args[i]);
    if (blend_try_open(&d.blend) < 0)
        die("%s", err_last());
    d.n = (int)d.blend.n;
    d.dirs = xcalloc((size_t)d.n, sizeof *d.dirs);
    d.sets = xcalloc((size_t)d.n, sizeof *d.sets);
    for (int i = 0; i < d.n; i++) {
        const struct blend_set *s = &d.blend.set[i];
        d.dirs[i] = s->path;
        if (s->info.seq_len > o.seq_len)
            die_usage("'%s' has samples of up to %lld tokens, '--seq-len' is %lld", s->path, (long long)s->info.seq_len,
                      (long long)o.seq_len);
        if (s->info.seq_len && o.order == ORDER_STREAM)
            die_usage("'%s' is packed: its samples have no order to be walked in ('--order stream')", s->path);
        d.sets[i] = (struct order_set){ s->info.n_tokens, s->weight, s->info.n_samples };
        d.info = s->info;
        buf_addf(&d.hashes, "%s%016llx@%.17g", i ? " " : "", (unsigned long long)s->hash, s->weight);
    }
    return d;
}

static void free_data(struct data *d)
{
    free(d->dirs);
    free(d->sets);
    blend_free(&d->blend);
    buf_free(&d->hashes);
}

/* What the run takes of each set: lines of the plan, or notes. */
static void tell_data(const struct data *d, const struct order *order, bool plan)
{
    if (plan)
        printf("# data\ttokens\tweight\tshare\tepochs\n");
    for (int i = 0; i < d->n; i++) {
        double epochs = order_epochs(order, i, samples_of_run());
        if (plan)
            printf("%s\t%lld\t%g\t%.6f\t%.4f\n", d->dirs[i], (long long)d->sets[i].tokens, d->sets[i].weight,
                   order->set[i].share, epochs);
        else
            note(1, "data '%s': %lld tokens, weight %g, %.4f of the samples, %.4f epochs", d->dirs[i],
                 (long long)d->sets[i].tokens, d->sets[i].weight, order->set[i].share, epochs);
    }
}

static void plan_data(const struct data *d)
{
    struct order order;
    if (!d->n)
        return;
    order_init(&order, (uint64_t)o.seed, (enum order_mode)o.order, o.seq_len, o.batch, d->sets, d->n);
    tell_data(d, &order, true);
    order_free(&order);
}

/* ---- held-out sets ---- */

static char **valids; /* their folders */
static size_t n_valids, cap_valids;

/* Finds out at the begin what would end the run at its first look. */
static void open_valids(const struct config *c)
{
    char *rest = NULL, *list = xstrdup(o.valid ? o.valid : "");
    for (char *dir = strtok_r(list, ",", &rest); dir; dir = strtok_r(NULL, ",", &rest)) {
        struct shards *s = shards_try_open(dir);
        if (!s)
            die("%s", err_last());
        score_check_set(c, s, o.seq_len);
        shards_close(s);
        *(char **)grow(&valids, &n_valids, &cap_valids, sizeof *valids) = xstrdup(dir);
    }
    free(list);
}

static void free_valids(void)
{
    for (size_t i = 0; i < n_valids; i++)
        free(valids[i]);
    free(valids);
}

/* Collective. Scores the sets with the weights as they are; reads the state of the training only. `out`, and `events`
 * if wanted, on rank 0. */
static void look_at_valids(struct comm *comm, const struct trainer *t, struct metrics *out,
                           struct events *events)
{
    for (size_t i = 0; i < n_valids; i++) {
        double begin = now_seconds();
        const struct score_options so = { .seq_len = o.seq_len,
                                          .stride = o.seq_len,
                                          .batch = t->opt.micro_rows,
                                          .limit = o.valid_tokens,
                                          .quiet = true };
        struct score s = score_set(comm, t->net, valids[i], &so);
        struct metrics_valid l = { t->step, t->samples, valids[i], s.tokens, s.nats / (double)s.tokens,
                                   0,       0,          0 };
        l.ppl = exp(l.loss);
        l.bpb = s.bytes > 0 ? s.nats / log(2) / (double)s.bytes : 0;
        l.seconds = now_seconds() - begin;
        if (comm->rank == 0)
            metrics_write_valid(out, &l);
        if (events) {
            char *loss = xasprintf("valid/loss/%s", l.set), *bpb = xasprintf("valid/bits_per_byte/%s", l.set);
            const struct scalar both[] = { { loss, l.loss }, { bpb, l.bpb } };
            events_write(events, l.step, both, 2);
            free(loss);
            free(bpb);
        }
        note(1, "step %lld  valid '%s'  loss %.4f  ppl %.4g  bits/byte %.4f", (long long)l.step, l.set,
             l.loss, l.ppl, l.bpb);
    }
}

/* The model learns the tokens of the data, and remembers whose they are. */
static void adopt_tokenizer(struct config *c, const struct shard_info *info)
{
    if (c->vocab == 0)
        c->vocab = info->vocab;
    if (info->vocab > c->vocab)
        die("the data have %lld tokens, the model's 'vocab' is %lld", (long long)info->vocab,
            (long long)c->vocab);
    if (info->vocab > 0) {
        char hash[17];
        snprintf(hash, sizeof hash, "%016llx", (unsigned long long)info->tokenizer_hash);
        if (c->tokenizer_hash && *c->tokenizer_hash && strcmp(hash, c->tokenizer_hash) != 0)
            die("the data were made by tokenizer '%s' (%s), the model knows '%s' (%s)", info->tokenizer, hash,
                c->tokenizer, c->tokenizer_hash);
        c->tokenizer = xstrdup(info->tokenizer);
        c->tokenizer_hash = xasprintf("%016llx", (unsigned long long)info->tokenizer_hash);
        c->eod = info->eod;
    }
}

/* ---- what the run costs ---- */

/* Counts are 64-bit; what no machine could hold is refused before they overflow. */
static void check_sizes(const struct config *c)
{
    double rows = (double)o.micro * (double)o.seq_len;
    double width = (double)c->d_model + (double)c->d_ff + 4.0 * (double)(c->n_heads * c->headdim) +
                   2.0 * (double)(c->n_groups * c->d_state) + (double)(c->attn_heads * c->attn_headdim) +
                   (double)c->d_inner * (double)(8 + c->d_state) + 8.0 * (double)c->lru_width +
                   (double)c->vocab;
    if ((double)o.steps * (double)o.batch > 4e18 || rows * width * (double)c->layers > 1e17 ||
        (double)samples_of_run() * (double)o.seq_len > 4e18)
        die_usage("%lld steps of %lld sequences (%lld at a time) of %lld tokens are too much to count",
                  (long long)(unit_of_run() == STEPS ? o.steps : steps_left(0, 0, NULL)), (long long)o.batch,
                  (long long)o.micro, (long long)o.seq_len);
}

static void print_plan(const struct config *c, const struct backend *be, int64_t rank_rows, int ranks)
{
    struct params ps;
    params_init(&ps, c);
    bool *frozen = xcalloc(ps.n, sizeof *frozen);
    int64_t left;
    if (trainer_try_frozen(&ps, o.freeze, frozen, &left) < 0)
        die_usage("freeze: %s", err_last());
    struct net_memory m = net_memory(c, be, o.micro, o.seq_len, true, (enum recompute)o.recompute);
    double flops = net_flops(c, o.seq_len);
    printf("# tensor\tshape\tdecay\ttrains\n");
    for (size_t i = 0; i < ps.n; i++) {
        printf("%s\t", ps.p[i].name);
        for (int k = 0; k < ps.p[i].ndim; k++)
            printf("%s%lld", k ? "x" : "", (long long)ps.p[i].shape[k]);
        printf("\t%s\t%s\n", ps.p[i].decay ? "yes" : "no", frozen[i] ? "no" : "yes");
    }
    printf("pattern=%s\nparameters=%lld\nparameters_trained=%lld\nvocab=%lld\n", c->pattern,
           (long long)ps.count, (long long)left, (long long)c->vocab);
    printf("steps=%lld\nbatch=%lld\nseq_len=%lld\nranks=%d\nrows_per_rank=%lld\nmicro_batch=%lld\n",
           (long long)steps_left(0, 0, NULL), (long long)o.batch, (long long)o.seq_len, ranks,
           (long long)rank_rows, (long long)o.micro);
    int64_t tokens = samples_of_run() * o.seq_len;
    printf("tokens=%lld\n", (long long)tokens);
    printf("flops_per_token_forward=%.0f\nflops_per_token_training=%.0f\nflops_total=%.4g\n", flops,
           3 * flops, 3 * flops * (double)tokens);
    int64_t moments = 2 * ps.slab * (int64_t)sizeof(float), mean = o.ema > 0 ? moments / 2 : 0, valid = 0;
    int64_t copy = o.sync ? 0 : (m.weights + moments + mean) / ranks;
    if (n_valids) { /* activations of a look, which come beside those of the training; weights and scratch are shared */
        struct net_memory v = net_memory(c, be, o.micro, o.seq_len, false, RECOMPUTE_NONE);
        valid = v.residual + v.saved;
    }
    printf("memory_weights=%lld\nmemory_gradients=%lld\nmemory_moments=%lld\nmemory_ema=%lld\nmemory_valid=%"
           "lld\nmemory_save=%lld\nmemory_residual=%lld\n"
           "memory_saved=%lld\nmemory_scratch=%lld\nmemory_rank=%lld\n",
           (long long)m.weights, (long long)m.grads, (long long)moments, (long long)mean, (long long)valid,
           (long long)copy, (long long)m.residual, (long long)m.saved, (long long)(m.scratch + m.work),
           (long long)(m.total + moments + mean + valid + copy));
    free(frozen);
    params_free(&ps);
}

/* ---- what a run begins with, or goes on from ---- */

/* Collective. True when the checkpoint, which is NULL where a rank cannot open it, is whole: each rank checks its share of
 * the files. Else rank 0 says why not, as a warning. */
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

/* Collective. Opens the newest of the run's checkpoints that are whole. NULL: there is none. */
static struct ckpt *open_newest(struct comm *comm)
{
    char **paths = NULL;
    int64_t n = comm->rank == 0 ? rundir_list(o.run, &paths) : 0;
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
        die("run '%s': none of its %lld checkpoints can be used; remove them to begin anew", o.run,
            (long long)n);
    return found;
}

/* Collective. What the run begins with: --init-from, when it has no checkpoint of its own. NULL: nothing. */
static struct ckpt *open_base(struct comm *comm)
{
    if (!o.init_from && o.keep_optimizer)
        die_usage("--keep-optimizer: of what? --init-from is missing");
    char **paths = NULL;
    int64_t own = comm->rank == 0 && o.run ? rundir_list(o.run, &paths) : 0;
    if (comm->rank == 0 && o.run)
        rundir_free_list(paths, (int)own);
    comm_bcast(comm, &own, sizeof own, 0);
    if (!o.init_from && (o.model || own == 0))
        return NULL;
    const char *path = own > 0 ? o.run : o.init_from;
    if (own > 0 && o.model)
        return NULL; /* the run goes on by itself */
    struct ckpt *c = rundir_try_open_ckpt(path, false);
    if (!c)
        die("%s", err_last());
    if (own == 0 && !o.dry && !is_whole(comm, c, path))
        die("'%s' cannot be begun with", path);
    return c;
}

static struct config config_of(const struct ckpt *c)
{
    struct config saved;
    if (config_try_from_attrs(&saved, ckpt_config(c)) <
        0) /* numbers that it does not have take their defaults */
        die("'%s': %s", ckpt_dir(c), err_last());
    return saved;
}

static void check_same_model(const struct ckpt *c, const struct config *saved, const struct config *config)
{
    struct attrs mine = { 0 }, theirs = { 0 };
    config_to_attrs(config, &mine);
    config_to_attrs(saved, &theirs);
    if (!attrs_equal(&mine, &theirs))
        die("'%s' is a checkpoint of another model: %s", ckpt_dir(c), err_last());
    attrs_free(&mine);
    attrs_free(&theirs);
}

/* What must be the same when a run goes on; what may change is the rest of the options. */
static void identity(struct attrs *a, const struct data *d)
{
    attrs_set_str(a, "data", d->hashes.data);
    attrs_set_int(a, "seed", o.seed);
    attrs_set_int(a, "seq_len", o.seq_len);
    attrs_set_str(a, "order", o.order == ORDER_STREAM ? "stream" : "shuffle");
}

static void check_resume(const struct ckpt *c, const struct config *config, const struct data *d)
{
    struct attrs mine = { 0 };
    struct config saved = config_of(c);
    check_same_model(c, &saved, config);
    if (ckpt_state(c)->n == 0)
        die("'%s' holds a model without the state of a run", ckpt_dir(c));
    identity(&mine, d);
    for (size_t i = 0; i < mine.n; i++) {
        struct attrs one = { .a = &mine.a[i], .n = 1 };
        const struct attr *have = attrs_find(ckpt_state(c), mine.a[i].name);
        struct attrs other = { .a = (struct attr *)(uintptr_t)have, .n = have ? 1 : 0 };
        if (!attrs_equal(&one, &other))
            die("'%s' cannot go on with these arguments: %s", ckpt_dir(c), err_last());
    }
    attrs_free(&mine);
}

/* ---- the run ---- */

struct run {
    struct comm *comm;
    struct trainer *t;
    struct rundir *dir; /* rank 0 */
    struct data *data;
    char *history;
    int64_t saved_step; /* of the newest checkpoint, -1: none */
    double saved_at;    /* when it was begun */
    bool told_to_save;  /* rank 0: by the control file, which goes when that is done */
    double deadline;    /* rank 0: when the job ends, by now_seconds(); INFINITY: it does not */
    double step_seconds, save_seconds; /* rank 0: the slowest step and save so far, or what a save may take */
};

/* ---- the job's time ---- */

/* When the job will be ended: --time-limit from now on, or what Slurm says (seconds since 1970), whichever comes first. */
static double job_deadline(void)
{
    double now = now_seconds(), end = o.time_limit > 0 ? now + 60 * o.time_limit : INFINITY;
    const char *slurm = getenv("SLURM_JOB_END_TIME");
    int64_t at;
    if (slurm && *slurm && parse_int(slurm, &at) == 0)
        end = fmin(end, now + (double)(at - (int64_t)time(NULL)));
    return end;
}

/* True when another step, and the save after it, may not fit into the job's time any more. */
static bool time_is_up(const struct run *r)
{
    return now_seconds() + 2 * r->step_seconds + 2 * r->save_seconds >= r->deadline;
}

static bool still_ours(void *arg)
{
    struct run *r = arg;
    return rundir_is_newest(r->dir);
}

/* Collective. Makes the checkpoint that was begun valid, and removes what is not kept. */
static void publish(struct run *r)
{
    if (!r->t->saving)
        return;
    if (!trainer_save_publish(r->t, still_ours, r))
        die_code(EXIT_STAY, "a newer incarnation of '%s' has begun: this one ends without publishing", o.run);
    if (r->comm->rank == 0)
        rundir_prune(r->dir, (int)o.keep, o.keep_every);
    if (r->comm->rank == 0 && r->told_to_save &&
        control_read(o.run) == CONTROL_SAVE) /* not another word that came since */
        control_done(o.run);
    r->told_to_save = false;
    double seconds = now_seconds() - r->saved_at;
    r->save_seconds = fmax(r->save_seconds, seconds);
    note(2, "saved step %lld in %.2f s", (long long)r->saved_step, seconds);
}

/* Collective. Is there room for a checkpoint? Rank 0 looks; it has the reason in err_last(). */
static bool is_room(const struct run *r)
{
    int64_t room = r->comm->rank != 0 ||
                   out_try_room(rundir_path(r->dir), trainer_save_bytes(r->t), r->comm->size + 2) == 0;
    comm_bcast(r->comm, &room, sizeof room, 0);
    return room;
}

/* Collective. Begins a checkpoint of the step that is done; the last one of this start is also written and published. One
 * that does not fit on the disk is refused with a warning, and the training goes on; at the end that is a failure. */
static void save(struct run *r, bool last)
{
    char dir[4096] = "";
    publish(r);
    if (!trainer_is_finite(r->t))
        die_code(
            EXIT_STAY,
            "step %lld: the run has diverged: there are weights that are not finite, which are not saved",
            (long long)r->t->step);
    r->saved_at = now_seconds();
    if (!is_room(r)) {
        if (last && r->comm->rank == 0)
            die("step %lld is not saved: %s", (long long)r->t->step, err_last());
        if (last)
            die("step %lld is not saved: there is no room", (long long)r->t->step);
        warn("step %lld is not saved, the training goes on: %s", (long long)r->t->step, err_last());
        return;
    }
    if (r->comm->rank == 0) {
        char *path = rundir_step_path(r->dir, r->t->step);
        snprintf(dir, sizeof dir, "%s", path);
        set_prepare(path, false);
        free(path);
    }
    comm_bcast(r->comm, dir, sizeof dir, 0);
    struct attrs state = { 0 };
    identity(&state, r->data);
    trainer_save_begin(r->t, dir, &state, r->history, !last && !o.sync);
    attrs_free(&state);
    r->saved_step = r->t->step;
    if (last || o.sync)
        publish(r);
}

/* What this rank is asked for: signals come to any, the clock and the control file are rank 0's. */
static struct step_wish wish(const struct run *r, enum control control)
{
    bool by_time =
        r->comm->rank == 0 && o.save_minutes > 0 && now_seconds() - r->saved_at >= 60 * o.save_minutes;
    bool up = r->comm->rank == 0 && time_is_up(r);
    return (struct step_wish){ .stop = signals_told() || control == CONTROL_STOP || up,
                               .save = by_time || control == CONTROL_SAVE };
}

/* A skipped step is told; too many in a row end the run, and the last checkpoint stays as it is. */
static void heed_skip(struct run *r, const struct step_report *s)
{
    const struct trainer *t = r->t;
    if (!s->skipped)
        return;
    note(1, "step %lld skipped: loss %g (z %.2f), gradient norm %g (z %.2f); %lld in a row, %lld in all",
         (long long)t->step, fabs(s->loss), s->loss_z, fabs(s->grad_norm), s->norm_z,
         (long long)t->skipped_in_row, (long long)t->skipped);
    if (t->skipped_in_row < o.max_skips)
        return;
    publish(r); /* what was good when it was begun */
    die_code(EXIT_STAY,
             "step %lld: the run has diverged: %lld steps in a row are skipped (loss %g, gradient norm %g)",
             (long long)t->step, (long long)t->skipped_in_row, fabs(s->loss),
             fabs(s->grad_norm)); /* not "-nan" */
}

static struct metrics *open_metrics(const struct run *r, const char *name)
{
    if (r->comm->rank != 0)
        return NULL;
    char *path = path_join(rundir_path(r->dir), name);
    struct metrics *m = metrics_open(path);
    free(path);
    return m;
}

/* A progress line: the running mean of the loss, and what else of the step people look at. */
static void print_line(char *text, size_t size, const struct metrics_line *l, double smooth, double speed,
                       double flops)
{
    char a[32], b[32], c[32], limit[48] = "", skipped[40] = "";
    if (isfinite(l->limit))
        snprintf(limit, sizeof limit, "  limit %s", format_duration(fmax(l->limit, 0), a));
    if (l->skipped)
        snprintf(skipped, sizeof skipped, "  skipped %lld", (long long)l->skipped);
    snprintf(text, size,
             "loss %.4f (z %.1f)  lr %.2e  grad %.3f (z %.1f)  %stok/s  %sFLOP/s  %sB  wait %.0f%%%s%s",
             smooth, l->loss_z, l->lr, l->grad_norm, l->norm_z, format_si(speed, a),
             format_si(flops * speed, b), format_si((double)l->memory, c), 100 * l->data_wait / l->seconds,
             skipped, limit);
}

static void write_events(struct events *e, const struct metrics_line *l)
{
    const struct scalar s[] = { { "train/loss", l->loss },
                                { "train/lr", l->lr },
                                { "train/grad_norm", l->grad_norm },
                                { "train/loss_z", l->loss_z },
                                { "train/grad_norm_z", l->norm_z },
                                { "train/skipped", (double)l->skipped },
                                { "train/samples", (double)l->samples },
                                { "speed/tokens_per_s", l->tokens_per_s },
                                { "speed/flops_per_s", l->flops_per_s },
                                { "speed/seconds", l->seconds },
                                { "speed/data_wait", l->data_wait },
                                { "speed/memory", (double)l->memory } };
    events_write(e, l->step, s, sizeof s / sizeof *s);
}

static int train(struct run *r, struct loader *loader)
{
    struct trainer *t = r->t;
    struct schedule sched = schedule_of_run();
    int64_t last = t->step + steps_left(t->step, t->samples, NULL);
    double flops = 3 * net_flops(&t->net->c, o.seq_len);
    struct metrics *metrics = open_metrics(r, "metrics.jsonl"),
                   *valid = n_valids ? open_metrics(r, "valid.jsonl") : NULL;
    struct progress bar;
    progress_begin(&bar, t->step, last, (double)o.log_every);
    bool stop = false, warned = isinf(r->deadline);
    double smooth = 0, speed = 0, started = now_seconds();
    int64_t first = t->step;
    struct events *events = o.tensorboard && r->comm->rank == 0 ? events_open(rundir_path(r->dir)) : NULL;
    while (t->step < last && !stop) {
        double begin = now_seconds(), wait = 0;
        const struct loaded *batch = loader_next(loader, &wait);
        double rate = schedule_rate(&sched, position(t->step + 1, t->samples + batch->batch));
        enum control control = r->comm->rank == 0 ? control_read(o.run) : CONTROL_NONE;
        if (control == CONTROL_SAVE && r->told_to_save)
            control = CONTROL_NONE; /* that is under way */
        struct step_report s = trainer_step(t, batch, rate, wish(r, control));
        double seconds = now_seconds() - begin;
        stop = s.stop || (o.stop_at > 0 && t->step >= o.stop_at);
        speed = speed > 0 ? 0.9 * speed + 0.1 * (double)s.tokens / seconds : (double)s.tokens / seconds;
        if (isfinite(s.loss))
            smooth = smooth > 0 ? 0.9 * smooth + 0.1 * s.loss : s.loss;
        if (r->comm->rank == 0) {
            double now = now_seconds(), left = r->deadline - now;
            double eta = (now - started) / (double)(t->step - first) * (double)(last - t->step);
            r->step_seconds = fmax(r->step_seconds, seconds);
            struct metrics_line line = { .step = t->step,
                                         .samples = t->samples,
                                         .tokens = t->tokens,
                                         .loss = s.loss,
                                         .lr = rate,
                                         .grad_norm = s.grad_norm,
                                         .loss_z = s.loss_z,
                                         .norm_z = s.norm_z,
                                         .skip = s.skipped,
                                         .skipped = t->skipped,
                                         .seconds = seconds,
                                         .tokens_per_s = (double)s.tokens / seconds,
                                         .flops_per_s = flops * (double)s.tokens / seconds,
                                         .data_wait = wait,
                                         .memory = meter_peak_memory(),
                                         .eta = eta,
                                         .limit = left };
            metrics_write(metrics, &line);
            if (events)
                write_events(events, &line);
            rundir_beat(r->dir);
            if (!warned && t->step - first >= 10 && eta > left) {
                note(1, "the job ends in %s, the run in %s: about %.0f more starts are needed",
                     format_duration(left, (char[32]){ 0 }), format_duration(eta, (char[32]){ 0 }),
                     ceil(eta / fmax(left, 1)) - 1);
                warned = true;
            }
            char text[256];
            print_line(text, sizeof text, &line, smooth, speed, flops);
            progress_at(&bar, t->step, text);
        }
        if (s.written)
            publish(r);
        heed_skip(r, &s);
        /* Before the save: what is looked at once is not looked at again by who goes on from there. */
        if (n_valids && !stop && (t->step == last || (o.valid_every > 0 && t->step % o.valid_every == 0))) {
            progress_end(&bar);
            look_at_valids(r->comm, t, valid, events);
        }
        bool due = s.save || (o.save_every > 0 && t->step % o.save_every == 0);
        if (due && t->step < last && !stop) {
            save(r, false);
            r->told_to_save = control == CONTROL_SAVE && t->saving;
            if (control == CONTROL_SAVE && !t->saving)
                control_done(o.run); /* saved already, or refused */
        }
    }
    progress_end(&bar);
    if (r->saved_step != t->step)
        save(r, true);
    publish(r);
    if (r->comm->rank == 0 && control_read(o.run) != CONTROL_NONE)
        control_done(o.run); /* all is saved, and this is the end */
    metrics_close(metrics);
    metrics_close(valid);
    events_close(events);
    char words[80], a[32];
    snprintf(words, sizeof words, "step %lld of %lld, %stokens/s", (long long)t->step, (long long)last,
             format_si(speed, a));
    meter_last_words(words);
    return t->step < last ? EXIT_AGAIN : EXIT_DONE;
}

/* The options, the model and the tools of this start, beside what it writes. */
static void write_record(const struct run *r, const struct config *c)
{
    struct buf text = { 0 };
    struct config copy;
    struct opt rows[CONFIG_ROWS + 1];
    config_table(&copy, rows);
    copy = *c;
    char *history = meter_history();
    buf_addf(&text, "# %s\n", history);
    free(history);
    opt_write(options, &text);
    for (int i = 0; i < r->data->n; i++)
        buf_addf(&text, "# data: %s\n", r->data->dirs[i]);
    char *path = path_join(rundir_path(r->dir), "options.conf");
    out_write_file(path, text.data, text.len, true);
    free(path);
    buf_clear(&text);
    opt_write(rows, &text);
    path = path_join(rundir_path(r->dir), "model.conf");
    out_write_file(path, text.data, text.len, true);
    free(path);
    buf_free(&text);
}

static void tell_frozen(const struct trainer *t)
{
    int64_t left = 0;
    for (size_t i = 0; i < t->net->ps.n; i++)
        left += t->frozen[i] ? 0 : t->net->ps.p[i].count;
    if (o.freeze)
        note(1, "%lld of %lld parameters train", (long long)left, (long long)t->net->ps.count);
}

/* Sets ramp and micro-batch; returns the rows of a rank in a full batch. */
static int64_t share_batch(int ranks)
{
    ramp = (struct ramp){ .full = o.batch };
    if (o.ramp && ramp_try_parse(&ramp, o.ramp) < 0)
        die_usage("rampup-batch-size: %s", err_last());
    if (o.ramp && o.order == ORDER_STREAM)
        die_usage("--order stream has as many rows from begin to end: no --rampup-batch-size");
    if (o.batch % ranks)
        die_usage("'%lld' of 'batch' is not a multiple of the %d ranks", (long long)o.batch, ranks);
    if (ramp.samples && (ramp.start % ranks || ramp.increment % ranks))
        die_usage("'%s' of 'rampup-batch-size': start and increment are not multiples of the %d ranks",
                  o.ramp, ranks);
    int64_t rows = o.batch / ranks, first = ramp.samples ? ramp.start / ranks : rows, all = first;
    for (int64_t b = ramp.samples ? ramp.increment / ranks : rows;
         b;) { /* what divides every batch of the ramp */
        int64_t rest = all % b;
        all = b;
        b = rest;
    }
    o.micro = o.micro ? o.micro : all;
    if (all % o.micro)
        die_usage("'%lld' of 'micro-batch' does not divide the %lld sequences of a rank%s",
                  (long long)o.micro, (long long)first, ramp.samples ? " and each increment" : "");
    return rows;
}

static int run(int n_args, char **args)
{
    struct comm *comm = comm_world();
    if (!o.run && !o.dry)
        die_usage("--run is missing");
    int64_t rows = share_batch(comm->size);
    schedule_of_run(); /* says what does not fit */
    struct ckpt *base = open_base(comm);
    if (!base && !o.model)
        die_usage("--model is missing");
    struct config c;
    if (o.model && config_try_load(&c, o.model) < 0)
        die_usage("%s", err_last());
    struct data data = open_data(n_args, args);
    if (!o.model)
        c = config_of(base);
    if (data.n == 0 && c.vocab == 0)
        die_usage("no data, and model '%s' has no 'vocab' of its own", o.model ? o.model : ckpt_dir(base));
    adopt_tokenizer(&c, &data.info);
    if (base && o.model) {
        struct config theirs = config_of(base);
        adopt_tokenizer(&theirs, &data.info);
        check_same_model(base, &theirs, &c);
    }
    open_valids(&c);
    check_sizes(&c);
    int threads = threads_set((int)o.threads, comm_local_size());
    const struct backend *be = backend_cpu();
    if (o.dry) {
        if (comm->rank == 0) {
            print_plan(&c, be, rows, comm->size);
            plan_data(&data);
        }
        ckpt_close(base);
        free_data(&data);
        free_valids();
        return EXIT_DONE;
    }
    if (data.n == 0)
        die_usage("no data: usage: ssmtrain [options] -o RUN DATA...");

    struct run r = {
        .comm = comm, .data = &data, .saved_step = -1, .saved_at = now_seconds(), .deadline = job_deadline()
    };
    if (comm->rank == 0)
        r.dir = rundir_begin(o.run, 12);
    comm_barrier(comm);
    struct ckpt *from = open_newest(comm);
    if (from)
        check_resume(from, &c, &data);
    if (comm->rank == 0)
        write_record(&r, &c);

    struct trainer_options to = { .beta1 = o.beta1,
                                  .beta2 = o.beta2,
                                  .eps = o.eps,
                                  .weight_decay = o.decay,
                                  .clip = o.clip,
                                  .ema = o.ema,
                                  .skip_loss_z = o.skip_loss_z,
                                  .skip_norm_z = o.skip_grad_z,
                                  .freeze = o.freeze,
                                  .micro_rows = o.micro,
                                  .rows = rows,
                                  .first_row = comm->rank * rows,
                                  .batch = o.batch,
                                  .seq_len = o.seq_len,
                                  .recompute = (enum recompute)o.recompute,
                                  .stream = o.order == ORDER_STREAM };
    r.t = trainer_create(&c, be, comm, &to);
    r.save_seconds =
        (double)r.t->net->ps.slab * 12 / comm->size / 2e8; /* until one is measured: 200 MB/s a rank */
    if (from) {
        trainer_load(r.t, from, TRAINER_RUN);
        r.saved_step = r.t->step;
        char *now = meter_history();
        r.history = xasprintf("%s\n%s", ckpt_history(from), now);
        free(now);
        note(1, "goes on from '%s'", ckpt_dir(from));
    } else if (base) {
        trainer_load(r.t, base, o.keep_optimizer ? TRAINER_OPTIMIZER : TRAINER_WEIGHTS);
        char *now = meter_history();
        r.history = xasprintf("%s\n%s", ckpt_history(base), now);
        free(now);
        note(1, "begins with the weights%s of '%s'", o.keep_optimizer ? " and moments" : "", ckpt_dir(base));
    } else {
        net_init(r.t->net, (uint64_t)o.seed);
        r.history = meter_history();
    }
    ckpt_close(from);
    ckpt_close(base);
    tell_frozen(r.t);
    note(1, "model %s: %lld parameters, %d rank%s x %d thread%s, kernels %s", o.model ? o.model : c.pattern,
         (long long)r.t->net->ps.count, comm->size, comm->size > 1 ? "s" : "", threads,
         threads > 1 ? "s" : "", be->variant);

    int code = EXIT_DONE;
    if (steps_left(r.t->step, r.t->samples, NULL) == 0) {
        note(1, "all %lld steps are done already", (long long)r.t->step);
    } else {
        struct order order;
        order_init(&order, (uint64_t)o.seed, (enum order_mode)o.order, o.seq_len, o.batch, data.sets, data.n);
        if (o.order == ORDER_STREAM && r.t->samples % o.batch)
            die_usage("--order stream: %lld samples are done, not a multiple of 'batch' %lld",
                      (long long)r.t->samples, (long long)o.batch);
        tell_data(&data, &order, false);
        struct loader *loader = loader_create(&order, data.dirs, to.first_row, rows, &ramp, r.t->samples);
        code = train(&r, loader);
        loader_free(loader);
        order_free(&order);
    }
    if (comm->rank == 0)
        rundir_end(r.dir);
    trainer_free(r.t);
    free(r.history);
    free_data(&data);
    free_valids();
    return comm_agree(comm, code);
}

int main(int argc, char **argv)
{
    static const struct command cmd = {
        .name = "ssmtrain",
        .synopsis = "[options] --model NAME -o RUN DATA[@WEIGHT]...",
        .purpose = "Trains a model on sets of token shards, data parallel over the ranks of the job.",
        .opts = options,
        .config = &o.config,
        .min_args = 0,
        .max_args = -1,
        .run = run,
    };
    err_init("ssmtrain");
    signals_watch();
    comm_init(&argc, &argv);
    command_main(&cmd, argc, argv);
}
