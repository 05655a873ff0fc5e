/* ssmeval.c - scores and generates with a trained model
 * SPDX-License-Identifier: MIT
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/opt.h"
#include "common/base/out.h"
#include "common/base/threads.h"
#include "common/dist/comm.h"
#include "common/eval/sample.h"
#include "common/eval/score.h"
#include "common/io/rundir.h"
#include "common/model/weights.h"
#include "common/text/tokenizer.h"

static struct {
    int64_t seq_len, batch, limit, threads, tokens, top_k, seed;
    double temperature, top_p;
    const char *prompt, *prompt_file, *tokenizer;
    bool past_end;
} o = { .seq_len = 1024, .batch = 4, .tokens = 256, .temperature = 0.8, .top_p = 1, .seed = 1 };

#define OPT_THREADS OPT_INT(0, "threads", "N", &o.threads, 0, 4096, "a rank; 0: OMP_NUM_THREADS, or the cores shared by the ranks")

static struct opt ppl_options[] = {
    OPT_INT(0, "seq-len", "N", &o.seq_len, 1, 1 << 30, "tokens of a window"),
    OPT_INT(0, "batch", "N", &o.batch, 1, 1 << 20, "windows at a time"),
    OPT_INT(0, "limit", "N", &o.limit, 0, 1e15, "score the first N tokens only; 0: all"),
    OPT_THREADS,
    OPT_END,
};

static struct opt generate_options[] = {
    OPT_STR(0, "prompt", "TEXT", &o.prompt, "what the text begins with"),
    OPT_STR(0, "prompt-file", "FILE", &o.prompt_file, "the same from a file, '-': standard input"),
    OPT_STR(0, "tokenizer", "SPEC", &o.tokenizer, "the model's; as in tokshard. Default: its name in the model"),
    OPT_INT(0, "tokens", "N", &o.tokens, 1, 1 << 30, "tokens to generate at most"),
    OPT_REAL(0, "temperature", "X", &o.temperature, 0, 100, "0: always the likeliest token"),
    OPT_INT(0, "top-k", "N", &o.top_k, 0, 1 << 30, "draw from the N likeliest tokens; 0: from all"),
    OPT_REAL(0, "top-p", "X", &o.top_p, 1e-6, 1, "draw from the likeliest tokens that hold this probability"),
    OPT_INT(0, "seed", "N", &o.seed, 0, OPT_MAX_INT, "of the draw"),
    OPT_FLAG(0, "past-end", &o.past_end, "go on with another document when one ends"),
    OPT_THREADS,
    OPT_END,
};

/* Collective. The model of a checkpoint, or of the newest one of a run directory. */
static struct net *load_model(const char *path)
{
    struct ckpt *c = rundir_try_open_ckpt(path, true);
    if (!c)
        die("%s", err_last());
    struct config config;
    if (config_try_from_attrs(&config, ckpt_config(c)) < 0)
        die("'%s': %s", ckpt_dir(c), err_last());
    threads_set((int)o.threads, comm_local_size());
    struct net *n = net_create(&config, backend_cpu(), false);
    weights_load(n, c, "model", n->weights);
    ckpt_close(c);
    return n;
}

static int run_ppl(int n_args, char **args)
{
    (void)n_args;
    struct comm *comm = comm_world();
    struct net *n = load_model(args[0]);
    if (comm->rank == 0)
        printf("# data\ttokens\tdocuments\tbytes\tnats_per_token\tperplexity\tbits_per_token\tbits_per_byte\n");
    double begin = now_seconds();
    int64_t tokens = 0;
    for (int i = 1; i < n_args; i++) {
        struct score s = score_set(comm, n, args[i], o.seq_len, o.batch, o.limit);
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

/* Reads the prompt in pieces of bounded size; the state that carries them to each other has a constant size
 * but for the keys and values of attention. */
static void prefill(struct net_ctx *x, struct net_state *s, const int32_t *ids, int64_t n, int64_t piece,
                    float *logits)
{
    for (int64_t at = 0; at < n; at += piece)
        net_decode(x, s, ids + at, n - at < piece ? n - at : piece, logits);
}

static void emit(struct token_stream *out, int32_t id)
{
    struct buf text = { 0 };
    uint32_t one = (uint32_t)id;
    if (tokenizer_try_decode(out, &one, 1, false, &text) < 0)
        die("%s", err_last());
    fwrite(text.data, 1, text.len, stdout);
    fflush(stdout);
    buf_free(&text);
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

static int run_generate(int n_args, char **args)
{
    (void)n_args;
    if (comm_world()->size > 1)
        die_usage("generate runs as one process, not as %d ranks", comm_world()->size);
    struct net *n = load_model(args[0]);
    const struct config *c = &n->c;
    struct tokenizer *tok = open_tokenizer(args[0], c);
    int64_t eod = tokenizer_info(tok)->eod;
    struct token_stream *in = token_stream_new(tok), *out = token_stream_new(tok);
    struct buf text = { 0 };
    struct token_ids ids = { 0 };
    read_prompt(&text);
    *token_ids_room(&ids, 1) = (uint32_t)eod; /* a document begins after the end of another */
    ids.n = 1;
    tokenizer_encode(in, text.data, text.len, true, &ids);
    for (size_t i = 0; i < ids.n; i++)
        if (ids.id[i] >= (uint64_t)c->vocab)
            die("token %u of the prompt is not below the model's 'vocab' %lld", ids.id[i], (long long)c->vocab);

    int64_t length = (int64_t)ids.n, piece = length < 2048 ? length : 2048;
    struct net_state *s = net_state_create(n, 1, length + o.tokens);
    struct net_ctx *x = net_ctx_create(n, 1, piece, false, RECOMPUTE_NONE, length + o.tokens);
    float *logits = xcalloc((size_t)c->vocab, sizeof *logits);
    struct sampling how = { o.temperature, o.top_k, o.top_p, (uint64_t)o.seed };
    double begin = now_seconds();
    prefill(x, s, (const int32_t *)ids.id, length, piece, logits);
    double read_in = now_seconds() - begin;
    fwrite(text.data, 1, text.len, stdout);
    int64_t made = 0;
    while (made < o.tokens) {
        int32_t id = sample_token(&how, logits, c->vocab, 0, (uint64_t)made);
        if (!isfinite(logits[id]))
            die("token %lld: the model's output is not finite", (long long)made);
        made++;
        if (id == eod && !o.past_end)
            break;
        if (id == eod)
            fputc('\n', stdout);
        else
            emit(out, id);
        if (ferror(stdout))
            break; /* nobody listens any more */
        if (made < o.tokens)
            net_decode(x, s, &id, 1, logits);
    }
    fputc('\n', stdout);
    double seconds = now_seconds() - begin - read_in;
    char rate[120], a[32], b[32];
    snprintf(rate, sizeof rate, "prompt %lld tokens at %stokens/s, %lld tokens at %stokens/s", (long long)length,
             format_si((double)length / read_in, a), (long long)made, format_si((double)made / seconds, b));
    meter_last_words(rate);
    free(logits);
    net_ctx_free(x);
    net_state_free(s);
    net_free(n);
    buf_free(&text);
    token_ids_free(&ids);
    token_stream_free(in);
    token_stream_free(out);
    tokenizer_free(tok);
    return EXIT_DONE;
}

int main(int argc, char **argv)
{
    static const struct command commands[] = {
        { "ssmeval ppl", "[options] MODEL DATA...", "Perplexity and bits per byte of sets of token shards.",
          ppl_options, NULL, 2, -1, run_ppl },
        { "ssmeval generate", "[options] MODEL", "Goes on with a text.", generate_options, NULL, 1, 1, run_generate },
        { 0 },
    };
    err_init("ssmeval");
    comm_init(&argc, &argv);
    command_dispatch("ssmeval", "Scores and generates with a trained model.", commands, argc, argv);
}
