/* ssmtrain.c - trains a model on token shards
 * SPDX-License-Identifier: MIT
 *
 * Data parallel over the ranks of the job. The run directory holds everything: started again with the same
 * arguments, the tool goes on from the newest valid checkpoint. See ssmtrain.1 and common/io/rundir.h.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/opt.h"
#include "common/base/out.h"
#include "common/base/signals.h"
#include "common/base/threads.h"
#include "common/dist/comm.h"
#include "common/io/rundir.h"
#include "common/model/net.h"
#include "common/model/placement.h"
#include "common/train/checkpoints.h"
#include "common/train/data.h"
#include "common/train/deadline.h"
#include "common/train/length.h"
#include "common/train/loader.h"
#include "common/train/order.h"
#include "common/train/plan.h"
#include "common/train/resume.h"
#include "common/train/run.h"
#include "common/train/schedule.h"
#include "common/train/trainer.h"
#include "common/train/tune.h"
#include "common/train/valids.h"
#include "common/train/watch.h"
#include "kernels/profile.h"

static struct {
    const char *config, *model, *run, *blend, *ramp, *init_from, *freeze, *valid, *tune, *plans;
    int64_t steps, samples, tokens, batch, micro, seq_len, warmup, lr_decay, seed, save_every, keep,
        keep_every, log_every, slowest_every, threads, stop_at, valid_every, valid_tokens, max_skips, profile, bucket;
    double lr, min_lr, beta1, beta2, eps, decay, clip, save_minutes, ema, skip_loss_z, skip_grad_z,
        time_limit, hang_limit;
    int schedule, style, order, recompute, sync, on_spike;
    bool dry, keep_optimizer, tensorboard;
    struct placement_options place;
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
        .slowest_every = 1000,
        .lr = 1e-3,
        .min_lr = -1,
        .beta1 = 0.9,
        .beta2 = 0.95,
        .eps = 1e-8,
        .decay = 0.1,
        .clip = 1,
        .bucket = 16 << 20 };

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
    OPT_REAL(0, "skip-loss-z", "X", &o.skip_loss_z, 0, HEALTH_HIGHEST_Z,
             "skip steps whose loss is X deviations above the last 128; 0: none"),
    OPT_REAL(0, "skip-grad-z", "X", &o.skip_grad_z, 0, HEALTH_HIGHEST_Z, "the same of the gradient norm; 0: none"),
    OPT_CHOICE(0, "on-spike", &o.on_spike, "skip|rewind",
               "such a step is skipped, or the run goes back to a checkpoint and past the samples since"),
    OPT_INT(0, "max-skips", "N", &o.max_skips, 1, 1e12,
            "end with 93 when so many steps in a row were skipped, or led back to one checkpoint"),
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
    OPT_REAL(0, "hang-limit", "X", &o.hang_limit, 0, 1e9,
             "a rank that is at one thing for more seconds says so and ends with 75; 0: never"),
    OPT_FLAG(0, "tensorboard", &o.tensorboard, "write event files for TensorBoard beside the metrics"),
    OPT_INT(0, "log-every", "N", &o.log_every, 1, 1e9, "seconds between lines when there is no terminal"),
    OPT_INT(0, "slowest-every", "N", &o.slowest_every, 0, 1e12,
            "steps between lines that tell which of several ranks is the slowest; 0: none"),
    OPT_DEVICE(&o.place.device),
    OPT_PRECISION(&o.place.precision),
    OPT_RESIDUAL(&o.place.residual),
    OPT_INT(0, "bucket-size", "N", &o.bucket, 1, 1e12,
            "gradients that GPUs sum at a time, beside the backward pass"),
    OPT_STR(0, "tune-gemm", "FILE", &o.tune,
            "measure, on a GPU, the algorithms of such a training's matrix products, write FILE, and end"),
    OPT_STR(0, "gemm-plans", "FILE", &o.plans,
            "take the algorithms of --tune-gemm; a run goes on with those that it began with"),
    OPT_INT(0, "profile", "N", &o.profile, 0, 1e6,
            "measure the ops of rank 0 for N steps, after the first three, and print a table; 0: no"),
    OPT_INT(0, "threads", "N", &o.threads, 0, 4096,
            "a rank; 0: OMP_NUM_THREADS, or the cores shared by the ranks"),
    OPT_FLAG('n', "dry-run", &o.dry, "print shapes, parameters, FLOPs and memory, and end"),
    OPT_END,
};

/* ---- what the options mean together ---- */

/* The run is measured in one unit; the command line wins over a config file. */
static struct length length_of_run(void)
{
    static const char *const names[] = { "steps", "samples", "tokens" };
    const int64_t lengths[] = { o.steps, o.samples, o.tokens };
    enum length_unit unit = LENGTH_STEPS;
    int by = opt_find(options, names[LENGTH_STEPS])->set_by;
    for (int u = LENGTH_SAMPLES; u <= LENGTH_TOKENS; u++) {
        int set = lengths[u] > 0 ? opt_find(options, names[u])->set_by : 0;
        if (set && set == by)
            die_usage("--%s and --%s: give one of them", names[unit], names[u]);
        if (set > by) {
            by = set;
            unit = (enum length_unit)u;
        }
    }
    return (struct length){
        .unit = unit, .n = lengths[unit], .seq_len = o.seq_len, .ramp = { .full = o.batch }
    };
}

static struct schedule schedule_of_run(int64_t length)
{
    struct schedule s = { .kind = o.schedule,
                          .style = o.style,
                          .peak = o.lr,
                          .floor = o.min_lr < 0 ? o.lr / 10 : o.min_lr,
                          .warmup = o.warmup,
                          .decay = o.lr_decay,
                          .length = length };
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

/* Sets the ramp of the batch, and the micro-batch; returns the rows of a rank in a full batch. */
static int64_t share_batch(struct ramp *ramp, int ranks)
{
    if (o.ramp && ramp_try_parse(ramp, o.ramp) < 0)
        die_usage("rampup-batch-size: %s", err_last());
    if (o.ramp && o.order == ORDER_STREAM)
        die_usage("--order stream has as many rows from begin to end: no --rampup-batch-size");
    if (o.batch % ranks)
        die_usage("'%lld' of 'batch' is not a multiple of the %d ranks", (long long)o.batch, ranks);
    if (ramp->samples && (ramp->start % ranks || ramp->increment % ranks))
        die_usage("'%s' of 'rampup-batch-size': start and increment are not multiples of the %d ranks",
                  o.ramp, ranks);
    int64_t rows = o.batch / ranks, first = ramp->samples ? ramp->start / ranks : rows, all = first;
    /* What divides every batch of the ramp. */
    for (int64_t b = ramp->samples ? ramp->increment / ranks : rows; b;) {
        int64_t rest = all % b;
        all = b;
        b = rest;
    }
    o.micro = o.micro ? o.micro : all;
    if (all % o.micro)
        die_usage("'%lld' of 'micro-batch' does not divide the %lld sequences of a rank%s",
                  (long long)o.micro, (long long)first, ramp->samples ? " and each increment" : "");
    return rows;
}

/* ---- the run ---- */

/* The options, the model and the tools of this start, beside what it writes. */
static void write_record(const struct rundir *dir, const struct config *c, const struct data *data,
                         const char *plans)
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
    for (int i = 0; i < data->n; i++)
        buf_addf(&text, "# data: %s\n", data->dirs[i]);
    char *path = path_join(rundir_path(dir), "options.conf");
    out_write_file(path, text.data, text.len, true);
    free(path);
    buf_clear(&text);
    opt_write(rows, &text);
    path = path_join(rundir_path(dir), "model.conf");
    out_write_file(path, text.data, text.len, true);
    free(path);
    buf_free(&text);
    if (!plans)
        return;
    path = path_join(rundir_path(dir), TUNE_FILE);
    out_write_file(path, plans, strlen(plans), true);
    free(path);
}

/* Rank 0's ops are measured when that is asked for. */
static const struct backend *measured(const struct backend *be, const struct comm *comm)
{
    return o.profile && comm->rank == 0 ? profile_wrap(be, o.profile, stdout) : be;
}

static void tell_frozen(const struct trainer *t)
{
    int64_t left = 0;
    for (size_t i = 0; i < t->net->ps.n; i++)
        left += t->frozen[i] ? 0 : t->net->ps.p[i].count;
    if (o.freeze)
        note(1, "%lld of %lld parameters train", (long long)left, (long long)t->net->ps.count);
}

/* The device that is not the CPU: its name, the peak that MFU is a share of, and its memory, planned and as the driver says. */
static void tell_device(const struct config *c, const struct placement *where, const struct trainer_options *to, bool looks)
{
    struct device_info d;
    where->be->info(&d);
    if (d.memory_total == 0)
        return;
    char peak[32], planned[32], used[32], total[32], text[96] = "";
    if (d.peak[where->precision.act] > 0)
        snprintf(text, sizeof text, ", peak %sFLOP/s", format_si(d.peak[where->precision.act], peak));
    note(1, "device %s: %s%s; memory: %sB planned, %sB of %sB in use", d.name, where->name, text,
         format_si((double)plan_device_memory(c, where, to, looks), planned),
         format_si((double)(d.memory_total - d.memory_free), used), format_si((double)d.memory_total, total));
}

/* The model's configuration, which is a preset's in *c already when one is named, else the checkpoint's; with
 * the tokenizer of the data. */
static void complete_model(struct config *c, const struct ckpt *base, const struct data *data)
{
    if (!o.model)
        *c = resume_config(base);
    if (data->n == 0 && c->vocab == 0)
        die_usage("no data, and model '%s' has no 'vocab' of its own", o.model ? o.model : ckpt_dir(base));
    data_adopt_tokenizer(c, &data->info);
    if (base && o.model) {
        struct config theirs = resume_config(base);
        data_adopt_tokenizer(&theirs, &data->info);
        resume_check_model(base, &theirs, c);
    }
}

static void print_plan(const struct config *c, const struct placement *where, const struct trainer_options *to,
                       const struct length *length, int ranks, bool looks, const struct data *data)
{
    struct order order;
    plan_print(c, where, to, length, ranks, !o.sync, looks);
    if (!data->n)
        return;
    order_init(&order, (uint64_t)o.seed, (enum order_mode)o.order, o.seq_len, o.batch, data->sets, data->n);
    data_tell(data, &order, length_samples(length), true);
    order_free(&order);
}

/* Collective. Trains from where the checkpoints' trainer is. */
static int train(struct checkpoints *k, const struct data *data, const struct valids *valids,
                 const struct run_options *ro)
{
    const struct trainer *t = k->t;
    struct order order;
    order_init(&order, (uint64_t)o.seed, (enum order_mode)o.order, o.seq_len, o.batch, data->sets, data->n);
    if (o.order == ORDER_STREAM && t->samples % o.batch)
        die_usage("--order stream: %lld samples are done, not a multiple of 'batch' %lld",
                  (long long)t->samples, (long long)o.batch);
    data_tell(data, &order, length_samples(&ro->length), false);
    struct loader *loader =
        loader_create(&order, data->dirs, t->opt.first_row, t->opt.rows, &ro->length.ramp, t->samples);
    int code = run_train(k, loader, valids, ro);
    loader_free(loader);
    order_free(&order);
    return code;
}

static int run(int n_args, char **args)
{
    struct comm *comm = comm_world();
    if (!o.run && !o.dry && !o.tune)
        die_usage("--run is missing");
    struct length length = length_of_run();
    int64_t rows = share_batch(&length.ramp, comm->size);
    struct schedule schedule = schedule_of_run(length.n);
    if (o.on_spike && o.order == ORDER_STREAM)
        die_usage("--on-spike rewind goes past samples; --order stream carries states from one to the next");
    if (o.on_spike && o.save_every == 0)
        die_usage("--on-spike rewind goes back to the checkpoints of --save-every, which is 0");
    if (!o.init_from && o.keep_optimizer)
        die_usage("--keep-optimizer: of what? --init-from is missing");
    struct ckpt *base = resume_open_base(comm, o.run, o.init_from, o.model, !o.dry);
    if (!base && !o.model)
        die_usage("--model is missing");
    struct config c;
    if (o.model && config_try_load(&c, o.model) < 0)
        die_usage("%s", err_last());
    struct data data = data_open(o.blend, n_args, args, o.seq_len, (enum order_mode)o.order);
    complete_model(&c, base, &data);
    struct valids valids = valids_open(o.valid, &c, o.seq_len);
    const struct placement where = placement_open(comm, &o.place);
    struct trainer_options to = { .beta1 = o.beta1,
                                  .beta2 = o.beta2,
                                  .eps = o.eps,
                                  .weight_decay = o.decay,
                                  .clip = o.clip,
                                  .ema = o.ema,
                                  .bucket = o.bucket,
                                  .skip_loss_z = o.skip_loss_z,
                                  .skip_norm_z = o.skip_grad_z,
                                  .freeze = o.freeze,
                                  .micro_rows = o.micro,
                                  .rows = rows,
                                  .first_row = comm->rank * rows,
                                  .batch = o.batch,
                                  .seq_len = o.seq_len,
                                  .recompute = (enum recompute)o.recompute,
                                  .precision = where.precision,
                                  .stream = o.order == ORDER_STREAM };
    plan_check_sizes(&c, &to, &length);
    int threads = threads_set((int)o.threads, comm_local_size());
    if (o.dry || o.tune) {
        if (!o.dry)
            tune_measure(o.tune, &c, where.be, comm, &to);
        else if (comm->rank == 0)
            print_plan(&c, &where, &to, &length, comm->size, valids.n > 0, &data);
        ckpt_close(base);
        data_free(&data);
        valids_free(&valids);
        return EXIT_DONE;
    }
    if (data.n == 0)
        die_usage("no data: usage: ssmtrain [options] -o RUN DATA...");

    struct deadline deadline = deadline_of_job(60 * o.time_limit);
    struct checkpoints k = { .run = o.run,
                             .identity = { data.hashes.data, o.seed, o.seq_len, (enum order_mode)o.order },
                             .keep = o.keep,
                             .keep_every = o.keep_every,
                             .back = o.on_spike ? o.save_every : 0,
                             .background = !o.sync,
                             .deadline = &deadline,
                             .step = -1,
                             .begun = now_seconds() };
    watch_begin(o.hang_limit);
    if (comm->rank == 0)
        k.dir = rundir_begin(o.run, 12);
    comm_barrier(comm);
    watch_phase("opening a checkpoint", 0);
    struct ckpt *from = resume_open_newest(comm, o.run, 1);
    if (from)
        resume_check_run(from, &c, &k.identity);
    char *plans = tune_settle(comm, where.be, o.plans, from);
    if (comm->rank == 0)
        write_record(k.dir, &c, &data, plans);
    free(plans);
    struct trainer *t = k.t = trainer_create(&c, measured(where.be, comm), comm, &to);
    /* Until one is measured: 200 MB/s a rank. */
    deadline.save = (double)t->net->ps.slab * 12 / comm->size / 2e8;
    watch_phase("loading a checkpoint", 0);
    char *history = resume_load(t, from, base, o.keep_optimizer, o.seed);
    k.history = history;
    if (from)
        k.step = t->step;
    if (comm->rank == 0)
        rundir_tell(k.dir, "running", t->step);
    ckpt_close(from);
    ckpt_close(base);
    tell_frozen(t);
    note(1, "model %s: %lld parameters, %d rank%s x %d thread%s, kernels %s, %s", o.model ? o.model : c.pattern,
         (long long)t->net->ps.count, comm->size, comm->size > 1 ? "s" : "", threads, threads > 1 ? "s" : "",
         where.be->variant, where.name);
    tell_device(&c, &where, &to, valids.n > 0);

    const struct run_options ro = { .length = length,
                                    .schedule = schedule,
                                    .save_every = o.save_every,
                                    .save_minutes = o.save_minutes,
                                    .valid_every = o.valid_every,
                                    .valid_tokens = o.valid_tokens,
                                    .stop_at = o.stop_at,
                                    .slowest_every = o.slowest_every,
                                    .max_skips = o.max_skips,
                                    .log_every = (double)o.log_every,
                                    .events = o.tensorboard };
    int code = EXIT_DONE;
    if (length_steps_left(&length, t->step, t->samples, NULL) == 0)
        note(1, "all %lld steps are done already", (long long)t->step);
    else
        code = train(&k, &data, &valids, &ro);
    watch_phase("end", t->step);
    if (comm->rank == 0) {
        rundir_tell(k.dir, code == EXIT_DONE ? "done" : "again", t->step);
        rundir_end(k.dir);
    }
    trainer_free(t);
    free(history);
    data_free(&data);
    valids_free(&valids);
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
