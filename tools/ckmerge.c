/* ckmerge.c - looks into checkpoints, checks and compares them, and writes them anew
 * SPDX-License-Identifier: MIT
 *
 * The work is in common/merge and common/exchange. Works as one process, so it starts on any login node.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/opt.h"
#include "common/base/out.h"
#include "common/dist/comm.h"
#include "common/exchange/export.h"
#include "common/exchange/import.h"
#include "common/merge/look.h"
#include "common/merge/rewrite.h"

static struct {
    const char *out, *weights;
    bool force, dry_run, drop_optimizer, ema, model_only;
    int64_t parts;
    double tolerance;
    int dtype;      /* 0: stored; 1 + enum ckpt_dtype */
    int mean_dtype; /* enum ckpt_dtype */
} o = { .parts = 1 };

static int run_ls(int n_args, char **args)
{
    (void)n_args;
    struct ckpt *c = look_open(args[0], false);
    look_list(c);
    ckpt_close(c);
    return EXIT_DONE;
}

static int run_verify(int n_args, char **args)
{
    for (int i = 0; i < n_args; i++) {
        struct ckpt *c = look_open(args[i], false);
        look_verify(c);
        ckpt_close(c);
    }
    return EXIT_DONE;
}

static int run_compare(int n_args, char **args)
{
    (void)n_args;
    struct ckpt *a = look_open(args[0], false), *b = look_open(args[1], false);
    int64_t differences = look_compare(a, b, o.tolerance, o.model_only);
    ckpt_close(a);
    ckpt_close(b);
    return differences ? EXIT_FAILED : EXIT_DONE;
}

static struct rewrite output(int parts, int dtype)
{
    if (!o.out || !*o.out)
        die_usage("no output: -o DIR");
    return (struct rewrite){ .out = o.out,
                             .parts = parts,
                             .force = o.force,
                             .dry_run = o.dry_run,
                             .drop_optimizer = o.drop_optimizer || o.ema,
                             .ema = o.ema,
                             .dtype = dtype };
}

/* An input that will be read whole; the output must not be in its place. */
static struct ckpt *open_source(const char *path)
{
    struct ckpt *c = look_open(path, true);
    if (path_same(path, o.out))
        die("'%s' is both input and output", o.out);
    return c;
}

/* "1,2,0.5": a weight for each of n inputs; equal ones without the option. Free it. */
static double *parse_weights(int n)
{
    double *w = xcalloc((size_t)n, sizeof *w), total = 0;
    char *list = o.weights ? xstrdup(o.weights) : NULL, *rest = list;
    for (int i = 0; i < n; i++) {
        char *text = list ? strsep(&rest, ",") : NULL;
        if (list && !text)
            die_usage("--weights has %d numbers for %d checkpoints", i, n);
        w[i] = 1;
        if (text && parse_real(text, &w[i]) < 0)
            die_usage("--weights: '%s' is not a number", text);
        if (w[i] < 0)
            die_usage("--weights: %s is below 0", text);
        total += w[i];
    }
    if (rest)
        die_usage("--weights has more numbers than there are checkpoints, %d", n);
    if (!(total > 1e-100 && total < 1e100)) /* sums of products with fp32 numbers stay in double's range */
        die_usage("--weights add up to %g", total);
    free(list);
    return w;
}

static int run_average(int n_args, char **args)
{
    struct rewrite r = output(1, o.mean_dtype);
    double *weights = parse_weights(n_args);
    struct ckpt **c = xcalloc((size_t)n_args, sizeof *c);
    for (int i = 0; i < n_args; i++)
        c[i] = open_source(args[i]);
    rewrite_average(c, weights, n_args, &r);
    for (int i = 0; i < n_args; i++)
        ckpt_close(c[i]);
    free(c);
    free(weights);
    if (!o.dry_run)
        meter_last_words(NULL);
    return EXIT_DONE;
}

static int rewrite(const char *input, int parts, int dtype)
{
    struct rewrite r = output(parts, dtype);
    struct ckpt *c = open_source(input);
    rewrite_ckpt(c, &r);
    ckpt_close(c);
    if (!o.dry_run)
        meter_last_words(NULL);
    return EXIT_DONE;
}

static int run_merge(int n_args, char **args)
{
    (void)n_args;
    return rewrite(args[0], 1, o.dtype - 1); /* "stored" comes first */
}

static int run_split(int n_args, char **args)
{
    (void)n_args;
    return rewrite(args[0], (int)o.parts, DTYPE_STORED);
}

static struct {
    const char *as, *ignore;
    struct export_options out;
    int dtype;
} foreign = { .out = { .shard_bytes = 5000000000 } };

static int run_import(int n_args, char **args)
{
    (void)n_args;
    if (!o.out)
        die_usage("no output: -o DIR");
    if (path_same(args[0], o.out))
        die("'%s' is both input and output", o.out);
    if (!o.force && set_exists(o.out))
        die("'%s' holds a set already; --force replaces it", o.out);
    struct import *im = import_try_open(args[0], foreign.as, foreign.ignore);
    if (!im)
        die("%s", err_last());
    char *history = meter_history();
    import_write(im, o.out, (int)o.parts, history, o.force);
    free(history);
    note(1, "'%s' is of family %s, %" PRId64 " parameters", args[0], import_family(im), import_params(im)->count);
    meter_last_words(NULL);
    import_close(im);
    return EXIT_DONE;
}

static int run_export(int n_args, char **args)
{
    (void)n_args;
    if (!o.out)
        die_usage("no output: -o DIR");
    struct ckpt *c = look_open(args[0], true);
    foreign.out.force = o.force;
    foreign.out.dtype = (enum export_dtype)foreign.dtype;
    if (path_same(ckpt_dir(c), o.out) || path_same(args[0], o.out))
        die("'%s' is both input and output", o.out);
    struct export *e = export_try_open(c, &foreign.out);
    if (!e)
        die("%s", err_last());
    export_write(e, o.out);
    note(1, "'%s' is of family %s", o.out, export_family(e));
    meter_last_words(NULL);
    export_close(e);
    ckpt_close(c);
    return EXIT_DONE;
}

int main(int argc, char **argv)
{
    static struct opt none[] = { OPT_END };
    static struct opt compare[] = {
        OPT_REAL(0, "tolerance", "X", &o.tolerance, 0, 1e30,
                 "elements may differ by so much; 0: bit for bit"),
        OPT_FLAG(0, "model-only", &o.model_only, "leave out state and optimizer"),
        OPT_END,
    };
    static struct opt merge[] = {
        OPT_STR('o', "output", "DIR", &o.out, "folder of the new checkpoint"),
        OPT_FLAG('f', "force", &o.force, "replace the checkpoint in DIR"),
        OPT_FLAG('n', "dry-run", &o.dry_run, "say what would be written, write nothing"),
        OPT_FLAG(0, "drop-optimizer", &o.drop_optimizer,
                 "write the model alone, without state and optimizer"),
        OPT_FLAG(0, "ema", &o.ema, "write the running mean of the weights as the model, alone"),
        OPT_CHOICE(0, "dtype", &o.dtype, "stored|f32|bf16|f16", "store the model's tensors as this type"),
        OPT_END,
    };
    static struct opt average[] = {
        OPT_STR('o', "output", "DIR", &o.out, "folder of the new checkpoint"),
        OPT_STR(0, "weights", "X,X,...", &o.weights, "a weight for each checkpoint; equal without it"),
        OPT_CHOICE(0, "dtype", &o.mean_dtype, "f32|bf16|f16", "store the tensors as this type"),
        OPT_FLAG('f', "force", &o.force, "replace the checkpoint in DIR"),
        OPT_FLAG('n', "dry-run", &o.dry_run, "say what would be written, write nothing"),
        OPT_END,
    };
    static struct opt split[] = {
        OPT_STR('o', "output", "DIR", &o.out, "folder of the new checkpoint"),
        OPT_INT(0, "parts", "N", &o.parts, 1, 99999, "files to write"),
        OPT_FLAG('f', "force", &o.force, "replace the checkpoint in DIR"),
        OPT_FLAG('n', "dry-run", &o.dry_run, "say what would be written, write nothing"),
        OPT_FLAG(0, "drop-optimizer", &o.drop_optimizer,
                 "write the model alone, without state and optimizer"),
        OPT_END,
    };
    static struct opt import[] = {
        OPT_STR('o', "output", "DIR", &o.out, "folder of the new checkpoint"),
        OPT_STR(0, "as", "FAMILY", &foreign.as, "read it as that; default: as its configuration says"),
        OPT_STR(0, "ignore", "KEYS", &foreign.ignore, "unknown keys of config.json to pass over, with commas between"),
        OPT_INT(0, "parts", "N", &o.parts, 1, 99999, "files to write"),
        OPT_FLAG('f', "force", &o.force, "replace the checkpoint in DIR"),
        OPT_END,
    };
    static struct opt export[] = {
        OPT_STR('o', "output", "DIR", &o.out, "folder of the new model"),
        OPT_STR(0, "to", "FAMILY", &foreign.out.to, "write it as that; default: the first that can hold it"),
        OPT_CHOICE(0, "dtype", &foreign.dtype, "stored|f32|bf16|f16", "element type of the tensors"),
        OPT_INT(0, "shard-size", "BYTES", &foreign.out.shard_bytes, 0, OPT_MAX_INT, "most bytes a file; 0: one file"),
        OPT_FLAG('f', "force", &o.force, "replace the model in DIR"),
        OPT_END,
    };
    static const struct command commands[] = {
        { "ckmerge ls", "CHECKPOINT", "List tensors, configuration and state.", none, NULL, 1, 1, run_ls },
        { "ckmerge verify", "CHECKPOINT...", "Read everything and check the checksums.", none, NULL, 1, -1,
          run_verify },
        { "ckmerge compare", "[options] A B",
          "Say what differs; exit 0 when nothing does, 1 when something does.", compare, NULL, 2, 2,
          run_compare },
        { "ckmerge merge", "[options] -o DIR CHECKPOINT", "Write a checkpoint of any layout as one file.",
          merge, NULL, 1, 1, run_merge },
        { "ckmerge split", "[options] -o DIR --parts N CHECKPOINT",
          "Write a checkpoint of any layout as N files.", split, NULL, 1, 1, run_split },
        { "ckmerge average", "[options] -o DIR CHECKPOINT CHECKPOINT...",
          "Write the mean of models of one configuration, without optimizer.", average, NULL, 2, -1,
          run_average },
        { "ckmerge import", "[options] -o DIR SOURCE", "Write another program's model as a checkpoint.", import, NULL,
          1, 1, run_import },
        { "ckmerge export", "[options] -o DIR CHECKPOINT",
          "Write a checkpoint's model as config.json and safetensors.", export, NULL, 1, 1, run_export },
        { NULL, NULL, NULL, NULL, NULL, 0, 0, NULL },
    };
    err_init("ckmerge");
    comm_init(&argc, &argv);
    if (comm_world()->size > 1)
        die_usage("ckmerge runs as one process, not as %d ranks", comm_world()->size);
    command_dispatch("ckmerge",
                     "Looks into checkpoints, checks, compares and averages them, writes them anew, exchanges models.",
                     commands, argc, argv);
}
