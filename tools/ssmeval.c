/* ssmeval.c - scores and generates with a trained model
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/opt.h"
#include "common/base/out.h"
#include "common/base/threads.h"
#include "common/dist/comm.h"
#include "common/eval/loglik.h"
#include "common/eval/prompts.h"
#include "common/eval/synth.h"
#include "common/eval/tasks.h"
#include "common/model/placement.h"
#include "common/model/score.h"
#include "common/model/weights.h"
#include "common/text/tokenizer.h"

static struct {
    int64_t seq_len, stride, task_len, batch, limit, threads, tokens, top_k, seed, bootstrap, length, shortest, count, shots;
    double temperature, top_p, min_p, penalty;
    const char *prompt, *prompt_file, *prompts, *tokenizer, *stop, *output, *synth_tokenizer;
    bool past_end, no_mask, bos, log_samples, force;
    int synth_as;
    struct placement_options place;
} o = { .seq_len = 1024, .task_len = 2048, .batch = 4, .tokens = 256, .temperature = 0.8, .top_p = 1, .penalty = 1,
        .seed = 1, .bootstrap = 100000, .length = 1024, .count = 100, .shots = 2, .synth_tokenizer = "bytes" };

#define OPT_PLACE OPT_DEVICE(&o.place.device), OPT_PRECISION(&o.place.precision)
#define OPT_THREADS OPT_INT(0, "threads", "N", &o.threads, 0, 4096, "a rank; 0: OMP_NUM_THREADS, or the cores shared by the ranks")

static struct opt ppl_options[] = {
    OPT_INT(0, "seq-len", "N", &o.seq_len, 1, 1 << 30, "tokens of a window"),
    OPT_INT(0, "stride", "N", &o.stride, 0, 1 << 30, "a window begins every N tokens and scores what is new; 0: seq-len"),
    OPT_INT(0, "batch", "N", &o.batch, 1, 1 << 20, "windows at a time"),
    OPT_INT(0, "limit", "N", &o.limit, 0, 1e15, "score the first N tokens only; 0: all"),
    OPT_FLAG(0, "no-mask", &o.no_mask, "packed sets: score every token, not those alone that count as targets"),
    OPT_PLACE,
    OPT_THREADS,
    OPT_END,
};

static struct opt generate_options[] = {
    OPT_STR(0, "prompt", "TEXT", &o.prompt, "what the text begins with"),
    OPT_STR(0, "prompt-file", "FILE", &o.prompt_file, "the same from a file, '-': standard input"),
    OPT_STR(0, "prompts", "FILE", &o.prompts, "a text for each {\"prompt\": ..., \"id\": ...} of a JSONL file, '-': standard input"),
    OPT_INT(0, "batch", "N", &o.batch, 1, 1 << 20, "texts of --prompts at a time"),
    OPT_STR(0, "tokenizer", "SPEC", &o.tokenizer, "the model's; as in tokshard. Default: its name in the model"),
    OPT_INT(0, "tokens", "N", &o.tokens, 1, 1 << 30, "tokens to generate at most"),
    OPT_REAL(0, "temperature", "X", &o.temperature, 0, 100, "0: always the likeliest token"),
    OPT_INT(0, "top-k", "N", &o.top_k, 0, 1 << 30, "draw from the N likeliest tokens; 0: from all"),
    OPT_REAL(0, "top-p", "X", &o.top_p, 1e-6, 1, "draw from the likeliest tokens that hold this probability"),
    OPT_REAL(0, "min-p", "X", &o.min_p, 0, 1, "draw from tokens at least X times as likely as the likeliest"),
    OPT_REAL(0, "repetition-penalty", "X", &o.penalty, 1e-3, 1e3, "make tokens that were there before less likely; 1: no"),
    OPT_STR(0, "stop", "TEXT", &o.stop, "end before this text, or any of a JSON list of texts"),
    OPT_INT(0, "seed", "N", &o.seed, 0, OPT_MAX_INT, "of the draw"),
    OPT_FLAG(0, "past-end", &o.past_end, "go on with another document when one ends"),
    OPT_PLACE,
    OPT_THREADS,
    OPT_END,
};

static struct opt tasks_options[] = {
    OPT_STR(0, "tokenizer", "SPEC", &o.tokenizer, "the model's; as in tokshard. Default: its name in the model"),
    OPT_INT(0, "seq-len", "N", &o.task_len, 2, 1 << 30, "tokens of a request at most; more are cut off on the left"),
    OPT_INT(0, "batch", "N", &o.batch, 1, 1 << 20, "requests at a time"),
    OPT_INT(0, "limit", "N", &o.limit, 0, 1e15, "the first N documents of each task only; 0: all"),
    OPT_INT(0, "bootstrap", "N", &o.bootstrap, 0, 1e9, "resamplings for the errors of perplexities; 0: no errors"),
    OPT_FLAG(0, "bos", &o.bos, "the token that ends documents stands before every text, as in training"),
    OPT_STR('o', "output", "DIR", &o.output, "write DIR/results.json, as lm-evaluation-harness does"),
    OPT_FLAG(0, "log-samples", &o.log_samples, "and DIR/samples_TASK.jsonl, what was asked and answered"),
    OPT_FLAG('f', "force", &o.force, "replace files that exist"),
    OPT_PLACE,
    OPT_THREADS,
    OPT_END,
};

static struct opt synth_options[] = {
    OPT_INT(0, "length", "N", &o.length, 1, 1 << 30, "tokens of a document and its answer at most"),
    OPT_INT(0, "shortest", "N", &o.shortest, 0, 1 << 30, "lengths differ, evenly between N and --length; 0: all as long"),
    OPT_INT(0, "count", "N", &o.count, 1, 1 << 30, "documents"),
    OPT_INT(0, "seed", "N", &o.seed, 0, OPT_MAX_INT, "another seed, other documents"),
    OPT_INT(0, "shots", "N", &o.shots, 0, 1 << 20, "examples before the question (phone books)"),
    OPT_CHOICE(0, "as", &o.synth_as, "task|text|messages", "to be scored; text to train on; conversations for 'tokshard pack'"),
    OPT_STR(0, "tokenizer", "SPEC", &o.synth_tokenizer, "whose tokens are counted; as in tokshard"),
    OPT_STR('o', "output", "FILE", &o.output, "default: standard output"),
    OPT_FLAG('f', "force", &o.force, "replace a file that exists"),
    OPT_END,
};

/* Collective. */
static struct net *load_model(const char *path)
{
    const struct placement where = placement_open(comm_world(), &o.place);
    struct ckpt *c = weights_open(comm_world(), path, true);
    struct config config;
    if (config_try_from_attrs(&config, ckpt_config(c)) < 0)
        die("'%s': %s", ckpt_dir(c), err_last());
    threads_set((int)o.threads, comm_local_size());
    struct net *n = net_create(&config, where.be, where.precision, false);
    weights_load(n, c, "model", n->weights);
    net_refresh_half(n);
    ckpt_close(c);
    return n;
}

static int run_ppl(int n_args, char **args)
{
    struct comm *comm = comm_world();
    if (o.stride > o.seq_len)
        die_usage("--stride %lld is more than --seq-len %lld: tokens between windows would not be scored",
                  (long long)o.stride, (long long)o.seq_len);
    struct net *n = load_model(args[0]);
    if (comm->rank == 0)
        printf("# data\ttokens\tdocuments\tbytes\tnats_per_token\tperplexity\tbits_per_token\tbits_per_byte\n");
    double begin = now_seconds();
    int64_t tokens = 0;
    const struct score_options opt = { .seq_len = o.seq_len,
                                       .stride = o.stride ? o.stride : o.seq_len,
                                       .batch = o.batch,
                                       .limit = o.limit,
                                       .no_mask = o.no_mask };
    for (int i = 1; i < n_args; i++) {
        struct score s = score_set(comm, n, args[i], &opt);
        double nats = s.nats / (double)s.tokens;
        tokens += s.tokens;
        if (comm->rank == 0)
            printf("%s\t%lld\t%lld\t%lld\t%.6f\t%.6f\t%.6f\t%.6f\n", args[i], (long long)s.tokens, (long long)s.docs,
                   (long long)s.bytes, nats, exp(nats), nats / log(2), s.bytes ? s.nats / log(2) / (double)s.bytes : NAN);
        if (!isfinite(s.nats))
            die("'%s': the score is not finite (%g)", args[i], s.nats);
    }
    char rate[64], a[32];
    snprintf(rate, sizeof rate, "%stokens/s", format_si((double)tokens / (now_seconds() - begin), a));
    meter_last_words(rate);
    net_free(n);
    return comm_agree(comm, EXIT_DONE);
}

static void read_prompt(struct buf *text)
{
    buf_add(text, "", 0);
    if (o.prompt && o.prompt_file)
        die_usage("--prompt and --prompt-file exclude each other");
    if (o.prompt)
        buf_addf(text, "%s", o.prompt);
    if (!o.prompt_file)
        return;
    bool standard = strcmp(o.prompt_file, "-") == 0;
    FILE *f = standard ? stdin : fopen(o.prompt_file, "rb");
    if (!f)
        die_errno("cannot open '%s'", o.prompt_file);
    if (file_slurp(f, 1 << 26, text) < 0)
        die_errno("cannot read '%s'", o.prompt_file);
    if (text->len > 1 << 26)
        die("'%s' is longer than a prompt may be (64 MiB)", o.prompt_file);
    if (!standard)
        fclose(f);
}

/* The one that the model was trained with: by --tokenizer, else by its name, which is enough for "bytes". */
static struct tokenizer *open_tokenizer(const char *model, const struct config *c)
{
    bool named = c->tokenizer && *c->tokenizer && c->eod >= 0;
    const char *spec = o.tokenizer ? o.tokenizer : named ? c->tokenizer : NULL;
    struct tokenizer *t;
    if (!spec)
        die("'%s' does not say which tokenizer it was trained with: --tokenizer does", model);
    if (!named) {
        t = tokenizer_try_open(spec, NULL);
    } else if (c->tokenizer_hash && *c->tokenizer_hash) {
        char *end;
        uint64_t hash = strtoull(c->tokenizer_hash, &end, 16);
        if (*end)
            die("'%s': 'tokenizer_hash' is '%s'", model, c->tokenizer_hash);
        t = tokenizer_try_open_same(model, spec, hash, c->eod);
    } else
        t = tokenizer_try_open(spec, &(struct tokenizer_options){ .eod_known = true, .eod_id = c->eod });
    if (!t && !o.tokenizer && strcmp(spec, "bytes") != 0)
        die("'%s' was trained with the tokenizer '%s': --tokenizer says where it is", model, spec);
    if (!t)
        die("%s", err_last());
    return t;
}

/* --stop: a text, or a JSON list of texts. Lives as long as the process. */
static void read_stops(struct prompt *p)
{
    static const char *one[1];
    const char **list;
    if (!o.stop)
        return;
    if (*o.stop == '[') {
        char *text = xasprintf("{\"stop\":%s}", o.stop);
        struct json *j = json_try_block("--stop", text, strlen(text));
        if (!j || json_try_strs(j, "stop", &list, &p->stops) != 1)
            die_usage("--stop is no JSON list of strings: %s", err_last());
        p->stop = list;
        free(text);
    } else {
        one[0] = o.stop;
        p->stop = one;
        p->stops = 1;
    }
    for (size_t i = 0; i < p->stops; i++)
        if (!*p->stop[i])
            die_usage("--stop holds an empty text");
}

static bool print_piece(void *to, const char *text, size_t n)
{
    (void)to;
    fwrite(text, 1, n, stdout);
    fflush(stdout);
    return !ferror(stdout); /* else nobody listens any more */
}

/* One prompt, whose text is shown while it grows. */
static int64_t stream_text(struct net *n, const struct tokenizer *tok, struct generation *g, struct prompt *p)
{
    struct buf text = { 0 };
    struct token_ids ids = { 0 };
    struct encoder e = { .in = token_stream_new(tok), .vocab = n->c.vocab };
    read_prompt(&text);
    *token_ids_room(&ids, 1) = (uint32_t)g->eod; /* a document begins after the end of another */
    ids.n = 1;
    if (encoder_try_text(&e, text.data, text.len, &ids) < 0)
        die("the prompt: %s", err_last());
    p->ids = ids.id;
    p->n = (int64_t)ids.n;
    g->room = p->n + p->tokens;
    g->emit = print_piece;
    fwrite(text.data, 1, text.len, stdout);
    generate_run(n, tok, g, &p, 1, false);
    fputc('\n', stdout);
    token_stream_free(e.in);
    buf_free(&text);
    return p->made;
}

static int run_generate(int n_args, char **args)
{
    (void)n_args;
    struct comm *comm = comm_world();
    if (comm->size > 1 && !o.prompts)
        die_usage("generate runs as one process, not as %d ranks, but for --prompts", comm->size);
    if (o.prompts && (o.prompt || o.prompt_file))
        die_usage("--prompts excludes --prompt and --prompt-file");
    struct prompt proto = { .tokens = o.tokens };
    read_stops(&proto);
    struct net *n = load_model(args[0]);
    struct tokenizer *tok = open_tokenizer(args[0], &n->c);
    struct generation g = { .sampling = { o.penalty, o.temperature, o.top_k, o.top_p, o.min_p, (uint64_t)o.seed },
                            .batch = o.prompts ? o.batch : 1, .eod = tokenizer_info(tok)->eod,
                            .past_end = o.past_end };
    double begin = now_seconds();
    int64_t made = o.prompts ? prompts_run(comm, n, tok, &g, &proto, o.prompts) : stream_text(n, tok, &g, &proto);
    char rate[120], a[32];
    snprintf(rate, sizeof rate, "%lld tokens at %stokens/s", (long long)made,
             format_si((double)made / (now_seconds() - begin), a));
    meter_last_words(rate);
    prompt_free(&proto);
    net_free(n);
    tokenizer_free(tok);
    return comm_agree(comm, EXIT_DONE);
}

static int run_tasks(int n_args, char **args)
{
    struct comm *comm = comm_world();
    if (o.log_samples && !o.output)
        die_usage("--log-samples needs --output");
    for (int i = 1; i < n_args && comm->size > 1; i++) /* each rank reads the tasks; the standard input is one rank's */
        if (strcmp(args[i], "-") == 0)
            die_usage("a task from standard input runs as one process, not as %d ranks", comm->size);
    struct net *n = load_model(args[0]);
    struct tokenizer *tok = open_tokenizer(args[0], &n->c);
    struct tasks_options how = { .model = args[0], .batch = o.batch, .seq_len = o.task_len, .limit = o.limit,
                                 .bootstrap = o.bootstrap, .bos = o.bos, .output = o.output,
                                 .log_samples = o.log_samples, .force = o.force };
    double begin = now_seconds();
    int64_t requests = tasks_run(comm, n, tok, &how, args + 1, n_args - 1);
    char rate[64], a[32];
    snprintf(rate, sizeof rate, "%srequests/s", format_si((double)requests / (now_seconds() - begin), a));
    meter_last_words(rate);
    net_free(n);
    tokenizer_free(tok);
    return comm_agree(comm, EXIT_DONE);
}

static int run_synth(int n_args, char **args)
{
    (void)n_args;
    struct synth_options how = { .length = o.length, .shortest = o.shortest, .count = o.count, .shots = o.shots,
                                 .seed = (uint64_t)o.seed, .as = (enum synth_as)o.synth_as };
    struct opt kind = OPT_CHOICE(0, "KIND", &how.kind, SYNTH_KINDS, "");
    if (comm_world()->size > 1)
        die_usage("synth runs as one process, not as %d ranks", comm_world()->size);
    if (opt_try_set(&kind, args[0]) < 0)
        die_usage("%s", err_last());
    if (o.shortest > o.length)
        die_usage("--shortest %lld is more than --length %lld", (long long)o.shortest, (long long)o.length);
    if (opt_find(synth_options, "shots")->set_by && how.kind > SYNTH_REVERSED)
        die_usage("--shots is for phone books, not for '%s'", args[0]);
    struct tokenizer *t = tokenizer_try_open(o.synth_tokenizer, NULL);
    if (!t)
        die("%s", err_last());
    struct out *file = o.output ? out_open(o.output, o.force) : NULL;
    FILE *f = file ? fopen(out_temp(file), "wb") : stdout;
    if (!f)
        die_errno("cannot write '%s'", out_temp(file));
    synth_write(&how, t, f);
    if (file) {
        if (ferror(f) | fclose(f))
            die_errno("cannot write '%s'", out_temp(file));
        out_commit(file);
    }
    tokenizer_free(t);
    return EXIT_DONE;
}

int main(int argc, char **argv)
{
    static const struct command commands[] = {
        { "ssmeval ppl", "[options] MODEL DATA...", "Perplexity and bits per byte of sets of token shards.",
          ppl_options, NULL, 2, -1, run_ppl },
        { "ssmeval tasks", "[options] MODEL TASK.jsonl...", "Runs tasks: choices, continuations, answers, perplexities.",
          tasks_options, NULL, 2, -1, run_tasks },
        { "ssmeval generate", "[options] MODEL", "Goes on with a text.", generate_options, NULL, 1, 1, run_generate },
        { "ssmeval synth", "[options] KIND", "Makes tasks, or text, of phone books, needles, variables and words.",
          synth_options, NULL, 1, 1, run_synth },
        { 0 },
    };
    err_init("ssmeval");
    comm_init(&argc, &argv);
    command_dispatch("ssmeval", "Scores and generates with a trained model.", commands, argc, argv);
}
