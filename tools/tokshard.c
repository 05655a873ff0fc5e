/* tokshard.c - text to token shards, and a look at them
 * SPDX-License-Identifier: MIT
 *
 * Option tables, checks, calls, last words: the work is done by common/prep (documents to a set of shards, sets
 * to and from other programs' files) and common/io (the set).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/opt.h"
#include "common/base/out.h"
#include "common/dist/comm.h"
#include "common/io/set.h"
#include "common/io/shard.h"
#include "common/prep/blend.h"
#include "common/prep/chat_template.h"
#include "common/prep/convert.h"
#include "common/prep/encode.h"
#include "common/prep/inputs.h"
#include "common/prep/inspect.h"
#include "common/prep/learn.h"
#include "common/prep/merge.h"
#include "common/prep/pack.h"
#include "common/prep/parts.h"
#include "common/prep/stats.h"
#include "common/text/ids.h"
#include "common/text/tokenizer.h"

static struct {
    const char *output, *tokenizer, *eod, *separator, *text_key, *part;
    const char *files_from, *id_key, *take_ids, *drop_ids;
    int split, format, take, compression, utf8, specials;
    int64_t max_line, level, shards, threads;
    double valid_share, log_seconds;
    bool skip_bad, force, dry_run, null;
} en = { .tokenizer = "bytes", .text_key = "text", .threads = 1, .max_line = 256 << 20, .level = 1, .log_seconds = 10 };

static struct opt encode_opts[] = {
    OPT_STR('o', "output", "DIR", &en.output, "folder of the set"),
    OPT_STR(0, "tokenizer", "SPEC", &en.tokenizer, "bytes, a tokenizer.json or its folder, tiktoken:NAME:FILE, FILE.model"),
    OPT_CHOICE(0, "specials", &en.specials, "text|parse", "what special tokens are that stand in a document"),
    OPT_STR(0, "eod", "TOKEN", &en.eod, "the token that ends a document; the usual ones are found"),
    OPT_CHOICE(0, "format", &en.format, "auto|text|jsonl",
               "auto: .jsonl and .ndjson are JSONL, all else is text"),
    OPT_CHOICE(0, "compression", &en.compression, "auto|none",
               "auto: unpack gzip and zstd, known by their bytes"),
    OPT_STR(0, "files-from", "LIST", &en.files_from,
            "more inputs, one name a line of LIST; -: standard input"),
    OPT_FLAG(0, "null", &en.null, "the names in LIST end with NUL, not LF"),
    OPT_CHOICE(0, "split", &en.split, "file|line|para|sep", "what a document is in text"),
    OPT_STR(0, "separator", "STR", &en.separator, "with --split sep: the line between two documents"),
    OPT_STR(0, "text-key", "KEY", &en.text_key, "JSONL: the key that holds the text"),
    OPT_INT(0, "max-line", "BYTES", &en.max_line, 2, 1LL << 40,
            "JSONL: longer lines are bad; standard input: so are longer documents"),
    OPT_FLAG(0, "skip-bad", &en.skip_bad, "skip and count bad lines of JSONL, text that is not UTF-8"),
    OPT_CHOICE(0, "utf8", &en.utf8, "auto|reject|replace|keep",
               "invalid UTF-8; auto: reject if the tokenizer needs UTF-8, else keep"),
    OPT_STR(0, "id-key", "KEY", &en.id_key, "JSONL: the key that holds the document's id"),
    OPT_STR(0, "take-ids", "FILE", &en.take_ids, "only documents with these ids, one a line"),
    OPT_STR(0, "drop-ids", "FILE", &en.drop_ids, "no documents with these ids, one a line"),
    OPT_STR(0, "part", "I/N", &en.part, "make only the I-th of N parts, and no index"),
    OPT_INT(0, "shards", "N", &en.shards, 0, PARTS_MOST, "files of the set; 0: one for each thread of each rank of each part"),
    OPT_INT(0, "threads", "N", &en.threads, 1, 1024, "of a rank; each takes file after file"),
    OPT_CHOICE(0, "take", &en.take, "all|train|valid", "which documents"),
    OPT_REAL(0, "valid-share", "X", &en.valid_share, 0, 1, "share of the documents that are 'valid'"),
    OPT_INT(0, "level", "N", &en.level, 1, 19, "zstd level"),
    OPT_REAL(0, "log-every", "SECONDS", &en.log_seconds, 0, 1e9, "time between progress lines in a log"),
    OPT_FLAG('f', "force", &en.force, "replace what is there"),
    OPT_FLAG('n', "dry-run", &en.dry_run, "read and count, write nothing"),
    OPT_END
};

static struct {
    bool index_force, ids, mask;
    int64_t doc, budget;
    const char *sep, *tokenizer, *blend;
} show = { .doc = -1 };

static struct opt index_opts[] = { OPT_FLAG('f', "force", &show.index_force, "replace the index"), OPT_END };
static struct opt cat_opts[] = {
    OPT_INT(0, "doc", "I", &show.doc, -1, OPT_MAX_INT, "only document I, from 0; -1: all"),
    OPT_FLAG(0, "ids", &show.ids, "token ids instead of text, one document a line"),
    OPT_FLAG(0, "mask", &show.mask, "the loss mask instead of text: 1 where a token counts, one document a line"),
    OPT_STR(0, "sep", "STR", &show.sep, "write STR after each document; C escapes"),
    OPT_STR(0, "tokenizer", "SPEC", &show.tokenizer, "the one that the set was made with"), OPT_END
};
static struct opt stat_opts[] = {
    OPT_STR(0, "blend", "FILE", &show.blend, "the sets of a blend file instead: tokens, weight, epochs of each"),
    OPT_INT(0, "budget", "N", &show.budget, 0, 1e18, "--blend: epochs of a run of N tokens; 0: of as many as there are"),
    OPT_END
};
static struct opt no_opts[] = { OPT_END };

/* ---- encode, pack ---- */

enum { JOBS_MOST = 1000000 }; /* more would not have a file each, and times ranks and files they must fit 63 bits */

/* Which of how many jobs this is, with `part` I/N or NULL; into how many files they and their threads divide the set. */
static void parse_part(const char *part, int64_t shards, int64_t threads, struct encode *e, const struct comm *c)
{
    int64_t i = 1, n = 1;
    if (part) {
        const char *slash = strchr(part, '/');
        char *left = xasprintf("%.*s", slash ? (int)(slash - part) : 0, part);
        if (!slash || parse_int(left, &i) < 0 || parse_int(slash + 1, &n) < 0 || i < 1 || i > n || n > JOBS_MOST)
            die_usage("'%s' of 'part' is not I/N with 1 <= I <= N <= %d", part, JOBS_MOST);
        free(left);
    }
    if (!shards && n > PARTS_MOST / c->size / threads)
        die_usage("%lld parts of %d ranks of %lld threads are more than %d files; '--shards N' makes fewer", (long long)n,
                  c->size, (long long)threads, PARTS_MOST);
    e->job = i - 1;
    e->jobs = n;
    e->shards = shards;
    e->threads = (int)threads;
    e->whole = !part;
}

static void check_take(int take, double share)
{
    if ((take != ENCODE_ALL) != (share > 0 && share < 1))
        die_usage("'--take train|valid' and '--valid-share X' with 0 < X < 1 need each other");
}

static void check_options(void)
{
    if (!en.output)
        die_usage("where to? -o DIR is missing");
    if ((en.split == DOCS_SEP) != (en.separator != NULL))
        die_usage("'--split sep' and '--separator STR' need each other");
    if (en.separator && (!*en.separator || strpbrk(en.separator, "\r\n")))
        die_usage("the separator is one line, not empty");
    check_take(en.take, en.valid_share);
    if ((en.take_ids || en.drop_ids) && !en.id_key)
        die_usage("'--take-ids' and '--drop-ids' need '--id-key KEY'");
    if (en.id_key && en.format == DOCS_TEXT)
        die_usage("'--id-key' is for JSONL, not for '--format text'");
    if (en.null && !en.files_from)
        die_usage("'--null' is for '--files-from LIST'");
}

/* The options that decide what is in the members, as text. */
static void settings(const struct opt *o, struct buf *b)
{
    /* the tokenizer's hash stands for it, wherever its file is; so does the template's */
    static const char *const no_matter[] = { "output",     "part", "level",    "log-every", "force",     "dry-run", "shards", "threads",
                                             "files-from", "null", "take-ids", "drop-ids",  "tokenizer", "specials",
                                             "eod",        "template" };
    for (; o->kind; o++) {
        bool matters = true;
        for (size_t i = 0; i < sizeof no_matter / sizeof *no_matter; i++)
            matters = matters && strcmp(o->name, no_matter[i]) != 0;
        if (!matters)
            continue;
        buf_addf(b, "%s=", o->name);
        opt_format(o, b);
        buf_add(b, "", 1);
    }
}

static void tell(const struct encode_counts *k, const struct ids *take, double seconds)
{
    if (en.dry_run && err_rank() == 0)
        printf("documents\t%lld\ntokens\t%lld\nbytes\t%lld\nempty\t%lld\nbad\t%lld\nleft_out\t%lld\n"
               "dropped\t%lld\nreplaced\t%lld\n",
               (long long)k->docs, (long long)k->tokens, (long long)k->bytes, (long long)k->empty,
               (long long)k->bad, (long long)k->other, (long long)k->dropped, (long long)k->replaced);
    note(
        1,
        "%lld documents, %lld tokens, %lld bytes; skipped: %lld empty, %lld bad; left to the other set: %lld",
        (long long)k->docs, (long long)k->tokens, (long long)k->bytes, (long long)k->empty, (long long)k->bad,
        (long long)k->other);
    if (take)
        note(1, "of %lld ids to take", (long long)ids_count(take));
    if (k->dropped)
        note(1, "left out by their ids: %lld documents", (long long)k->dropped);
    if (k->replaced)
        note(1, "not UTF-8, U+FFFD put in: %lld times", (long long)k->replaced);
    if (k->kept)
        note(1, "%lld of %lld files were there already", (long long)k->kept, (long long)(k->kept + k->made));
    char rate[64];
    snprintf(rate, sizeof rate, "%.1f MB/s", 1e-6 * (double)k->input / (seconds + 1e-9));
    meter_last_words(k->kept || en.part ? NULL : rate);
}

static int encode(int n, char **operands)
{
    struct comm *c = comm_world();
    double start = now_seconds();
    struct encode e = { 0 };
    struct inputs in;
    if (n == 0 && !en.files_from)
        die_usage("too few arguments: no INPUT, and no --files-from");
    parse_part(en.part, en.shards, en.threads, &e, c);
    check_options();
    struct tokenizer *t = tokenizer_try_open(
        en.tokenizer,
        &(struct tokenizer_options){ .specials = (enum tokenizer_specials)en.specials, .eod = en.eod });
    if (!t)
        die_usage("%s", err_last());
    struct buf text = { 0 };
    settings(encode_opts, &text);
    e.output = en.output;
    e.tokenizer = t;
    e.docs = (struct docs_options){ .format = (enum docs_format)en.format,
                                    .split = (enum docs_split)en.split,
                                    .separator = en.separator,
                                    .text_key = en.text_key,
                                    .id_key = en.id_key,
                                    .max_line = en.max_line,
                                    .skip_bad = en.skip_bad };
    e.utf8 = (enum utf8_policy)en.utf8;
    e.unpack = en.compression == 0;
    struct ids *take = en.take_ids ? ids_read(en.take_ids) : NULL;
    struct ids *drop = en.drop_ids ? ids_read(en.drop_ids) : NULL;
    e.take_ids = take;
    e.drop_ids = drop;
    e.take = (enum encode_take)en.take;
    e.valid_share = en.valid_share;
    e.settings = text.data;
    e.n_settings = text.len;
    e.level = (int)en.level;
    e.log_seconds = en.log_seconds;
    e.force = en.force;
    e.dry_run = en.dry_run;
    struct encode_counts k;
    inputs_read(&in, operands, n, en.files_from, en.null, c);
    encode_run(&e, in.path, in.n, c, &k);
    tell(&k, e.take_ids, now_seconds() - start);
    buf_free(&text);
    inputs_free(&in);
    ids_free(take);
    ids_free(drop);
    tokenizer_free(t);
    return comm_agree(c, EXIT_DONE);
}

static struct {
    const char *output, *tokenizer, *eod, *template, *part, *files_from;
    int shape, loss, too_long, rows, take, compression, utf8;
    int64_t seq_len, window, seed, max_line, level, shards, threads;
    double valid_share, log_seconds;
    bool skip_bad, force, dry_run, null;
} pk = { .tokenizer = "bytes",
         .seq_len = 2048,
         .threads = 1,
         .window = 16 << 20,
         .seed = 1,
         .max_line = 256 << 20,
         .level = 1,
         .log_seconds = 10 };

static struct opt pack_opts[] = {
    OPT_STR('o', "output", "DIR", &pk.output, "folder of the set"),
    OPT_STR(0, "template", "NAME|FILE", &pk.template, "how messages are wrapped: plain, bare, nemo, chatml, nemotron, llama3, or a file"),
    OPT_CHOICE(0, "shape", &pk.shape, CHAT_SHAPES, "the keys of a line; auto: by the first one"),
    OPT_CHOICE(0, "loss", &pk.loss, "answers|all", "which tokens count as targets"),
    OPT_INT(0, "seq-len", "N", &pk.seq_len, 2, PACK_LONGEST, "tokens of a row at most"),
    OPT_CHOICE(0, "too-long", &pk.too_long, "drop|truncate|refuse",
               "conversations longer than that; truncate: the first user message, at its front"),
    OPT_CHOICE(0, "rows", &pk.rows, "packed|single", "conversations of a row: as many as fit, or one"),
    OPT_INT(0, "window", "TOKENS", &pk.window, 1, 1LL << 40, "conversations that are packed together have so many tokens"),
    OPT_INT(0, "seed", "N", &pk.seed, 0, OPT_MAX_INT, "of the order of the rows"),
    OPT_STR(0, "tokenizer", "SPEC", &pk.tokenizer, "as for encode"),
    OPT_STR(0, "eod", "TOKEN", &pk.eod, "as for encode"),
    OPT_CHOICE(0, "compression", &pk.compression, "auto|none", "as for encode"),
    OPT_STR(0, "files-from", "LIST", &pk.files_from, "as for encode"),
    OPT_FLAG(0, "null", &pk.null, "as for encode"),
    OPT_INT(0, "max-line", "BYTES", &pk.max_line, 2, 1LL << 40, "longer lines are bad"),
    OPT_FLAG(0, "skip-bad", &pk.skip_bad, "skip and count bad lines"),
    OPT_CHOICE(0, "utf8", &pk.utf8, "reject|replace", "lines that are not UTF-8 are bad, or get U+FFFD"),
    OPT_STR(0, "part", "I/N", &pk.part, "as for encode"),
    OPT_INT(0, "shards", "N", &pk.shards, 0, PARTS_MOST, "as for encode"),
    OPT_INT(0, "threads", "N", &pk.threads, 1, 1024, "as for encode"),
    OPT_CHOICE(0, "take", &pk.take, "all|train|valid", "which conversations"),
    OPT_REAL(0, "valid-share", "X", &pk.valid_share, 0, 1, "share of the conversations that are 'valid'"),
    OPT_INT(0, "level", "N", &pk.level, 1, 19, "zstd level"),
    OPT_REAL(0, "log-every", "SECONDS", &pk.log_seconds, 0, 1e9, "time between progress lines in a log"),
    OPT_FLAG('f', "force", &pk.force, "replace what is there"),
    OPT_FLAG('n', "dry-run", &pk.dry_run, "read and count, write nothing"),
    OPT_END
};

static void tell_packed(const struct encode_counts *k)
{
    double filled = k->samples ? (double)k->tokens / ((double)k->samples * (double)pk.seq_len) : 0;
    if (pk.dry_run && err_rank() == 0)
        printf("documents\t%lld\ntokens\t%lld\ntargets\t%lld\nsamples\t%lld\nsamples_filled\t%.6f\nbytes\t%lld\n"
               "too_long\t%lld\nshortened\t%lld\nno_target\t%lld\nempty\t%lld\nbad\t%lld\nleft_out\t%lld\nreplaced\t%lld\n",
               (long long)k->docs, (long long)k->tokens, (long long)k->targets, (long long)k->samples, filled,
               (long long)k->bytes, (long long)k->too_long, (long long)k->shortened, (long long)k->no_target,
               (long long)k->empty, (long long)k->bad, (long long)k->other, (long long)k->replaced);
    note(1, "%lld conversations, %lld tokens, %lld of them targets, in %lld rows of %lld (%.1f %% filled)",
         (long long)k->docs, (long long)k->tokens, (long long)k->targets, (long long)k->samples, (long long)pk.seq_len,
         100 * filled);
    note(1, "left out: %lld too long, %lld without a target, %lld bad; shortened: %lld; left to the other set: %lld",
         (long long)k->too_long, (long long)k->no_target, (long long)k->bad, (long long)k->shortened, (long long)k->other);
    if (k->replaced)
        note(1, "not UTF-8, U+FFFD put in: %lld times", (long long)k->replaced);
    if (k->kept)
        note(1, "%lld of %lld files were there already", (long long)k->kept, (long long)(k->kept + k->made));
    meter_last_words(NULL);
}

static int pack(int n, char **operands)
{
    struct comm *c = comm_world();
    struct encode e = { .output = pk.output,
                        .docs = { .format = DOCS_JSONL, .max_line = pk.max_line, .skip_bad = pk.skip_bad },
                        .utf8 = pk.utf8 ? UTF8_REPLACE : UTF8_REJECT,
                        .unpack = pk.compression == 0,
                        .take = (enum encode_take)pk.take,
                        .valid_share = pk.valid_share,
                        .level = (int)pk.level,
                        .log_seconds = pk.log_seconds,
                        .force = pk.force,
                        .dry_run = pk.dry_run };
    struct inputs in;
    struct buf text = { 0 };
    struct encode_counts k;
    if (n == 0 && !pk.files_from)
        die_usage("too few arguments: no FILE, and no --files-from");
    parse_part(pk.part, pk.shards, pk.threads, &e, c);
    if (!pk.output)
        die_usage("where to? -o DIR is missing");
    if (!pk.template)
        die_usage("how are messages wrapped? --template NAME is missing");
    check_take(pk.take, pk.valid_share);
    if (pk.null && !pk.files_from)
        die_usage("'--null' is for '--files-from LIST'");
    struct tokenizer *t = tokenizer_try_open(pk.tokenizer, &(struct tokenizer_options){ .eod = pk.eod });
    struct chat_template *template = t ? chat_template_try_open(pk.template, t) : NULL;
    if (!template)
        die_usage("%s", err_last());
    settings(pack_opts, &text);
    buf_addf(&text, "template %016llx", (unsigned long long)chat_template_hash(template));
    const struct pack p = { .template = template,
                            .shape = (enum chat_shape)pk.shape,
                            .all = pk.loss == 1,
                            .single = pk.rows == 1,
                            .too_long = (enum pack_long)pk.too_long,
                            .seq_len = pk.seq_len,
                            .window = pk.window,
                            .seed = (uint64_t)pk.seed };
    e.tokenizer = t;
    e.pack = &p;
    e.settings = text.data;
    e.n_settings = text.len;
    inputs_read(&in, operands, n, pk.files_from, pk.null, c);
    encode_run(&e, in.path, in.n, c, &k);
    tell_packed(&k);
    buf_free(&text);
    inputs_free(&in);
    chat_template_free(template);
    tokenizer_free(t);
    return comm_agree(c, EXIT_DONE);
}

/* ---- train ---- */

static struct {
    const char *output, *specials, *separator, *text_key;
    int pattern, split, format, utf8;
    int64_t vocab, min_frequency, max_line, memory;
    double valid_share, log_seconds;
    bool skip_bad, force;
} tr = { .specials = "<|endoftext|>",
         .text_key = "text",
         .min_frequency = 2,
         .max_line = 256 << 20,
         .memory = 4LL << 30,
         .log_seconds = 10 };

static struct opt train_opts[] = {
    OPT_STR('o', "output", "FILE", &tr.output, "the tokenizer, a tokenizer.json"),
    OPT_INT(0, "vocab", "N", &tr.vocab, 0, 1 << 30, "tokens, the special ones and 256 bytes among them"),
    OPT_CHOICE(0, "pattern", &tr.pattern, LEARN_PATTERNS, "what cuts text into words"),
    OPT_INT(0, "min-frequency", "N", &tr.min_frequency, 1, OPT_MAX_INT, "pairs that occur less often stay apart"),
    OPT_STR(0, "specials", "LIST", &tr.specials, "special tokens, with commas between; the first ends a document"),
    OPT_REAL(0, "valid-share", "X", &tr.valid_share, 0, 1, "leave out what 'encode --take valid' would take"),
    OPT_CHOICE(0, "format", &tr.format, "auto|text|jsonl", "as for encode"),
    OPT_CHOICE(0, "split", &tr.split, "file|line|para|sep", "as for encode"),
    OPT_STR(0, "separator", "STR", &tr.separator, "as for encode"),
    OPT_STR(0, "text-key", "KEY", &tr.text_key, "as for encode"),
    OPT_INT(0, "max-line", "BYTES", &tr.max_line, 2, 1LL << 40, "as for encode"),
    OPT_FLAG(0, "skip-bad", &tr.skip_bad, "as for encode"),
    OPT_CHOICE(0, "utf8", &tr.utf8, "auto|reject|replace", "invalid UTF-8, as for encode; auto: reject"),
    OPT_INT(0, "memory", "BYTES", &tr.memory, 1024, OPT_MAX_INT, "most bytes of distinct words"),
    OPT_REAL(0, "log-every", "SECONDS", &tr.log_seconds, 0, 1e9, "time between progress lines in a log"),
    OPT_FLAG('f', "force", &tr.force, "replace what is there"),
    OPT_END
};

/* What the file, which is JSON, can hold. */
static bool is_text(const char *s)
{
    struct buf b = { 0 };
    buf_add(&b, "[\"", 2);
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == '"' || *s == '\\')
            buf_addf(&b, "\\u%04x", (unsigned)*s);
        else
            buf_add(&b, s, 1);
    buf_add(&b, "\"]", 2);
    struct json *j = json_try_block("text", b.data, b.len);
    bool fine = j != NULL;
    buf_free(&b);
    json_free(j);
    return fine;
}

/* "a,b" to its parts, in place. */
static const char **parse_specials(char *list, size_t *n)
{
    const char **part = NULL;
    size_t cap = 0;
    *n = 0;
    if (!is_text(list))
        die_usage("'%s' of 'specials' is not UTF-8", tr.specials);
    while (*list) {
        size_t len = strcspn(list, ",");
        bool more = list[len] == ',';
        if (len == 0 || (more && !list[len + 1]))
            die_usage("'%s' of 'specials' has an empty token", tr.specials);
        list[len] = '\0';
        *(const char **)grow(&part, n, &cap, sizeof *part) = list;
        list += len + more;
    }
    return part;
}

static int train(int n, char **inputs)
{
    struct learn_counts k;
    if (!tr.output)
        die_usage("where to? -o FILE is missing");
    if ((tr.split == DOCS_SEP) != (tr.separator != NULL))
        die_usage("'--split sep' and '--separator STR' need each other");
    if (tr.separator && (!*tr.separator || strpbrk(tr.separator, "\r\n")))
        die_usage("the separator is one line, not empty");
    if (!tr.vocab)
        die_usage("how many tokens? --vocab N is missing");
    if (tr.valid_share >= 1)
        die_usage("'--valid-share %g' leaves nothing to learn from", tr.valid_share);
    char *list = xstrdup(tr.specials);
    struct learn l = { .output = tr.output,
                       .docs = { .format = (enum docs_format)tr.format,
                                 .split = (enum docs_split)tr.split,
                                 .separator = tr.separator,
                                 .text_key = tr.text_key,
                                 .max_line = tr.max_line,
                                 .skip_bad = tr.skip_bad },
                       .utf8 = tr.utf8 == UTF8_REPLACE ? UTF8_REPLACE : UTF8_REJECT,
                       .bpe = { .vocab = tr.vocab, .least = tr.min_frequency },
                       .pattern = (enum learn_pattern)tr.pattern,
                       .valid_share = tr.valid_share,
                       .memory = tr.memory,
                       .log_seconds = tr.log_seconds,
                       .force = tr.force };
    l.bpe.specials = parse_specials(list, &l.bpe.n_specials);
    if (tr.vocab < 256 + (int64_t)l.bpe.n_specials)
        die_usage("'--vocab %lld' is less than 256 bytes and %zu special tokens", (long long)tr.vocab, l.bpe.n_specials);
    learn_run(&l, inputs, n, comm_world(), &k);
    note(1, "%lld documents, %lld bytes; skipped: %lld empty, %lld bad; left out: %lld", (long long)k.docs,
         (long long)k.bytes, (long long)k.empty, (long long)k.bad, (long long)k.other);
    if (k.replaced)
        note(1, "not UTF-8, U+FFFD put in: %lld times", (long long)k.replaced);
    note(1, "%lld words, %lld distinct, counted in %.1f s; %lld merges learnt in %.1f s", (long long)k.words,
         (long long)k.distinct, k.counted, (long long)k.merges, k.learnt);
    if (err_rank() == 0 && k.tokens < tr.vocab)
        warn("only %lld tokens, not %lld: no other pair occurs %lld times", (long long)k.tokens, (long long)tr.vocab,
             (long long)tr.min_frequency);
    meter_last_words(NULL);
    free((void *)l.bpe.specials);
    free(list);
    return comm_agree(comm_world(), EXIT_DONE);
}

/* ---- cat, stat, check ---- */

static struct shards *open_set(const char *dir)
{
    struct shards *s = shards_try_open(dir);
    if (!s)
        die("%s", err_last());
    return s;
}

/* "\n", "\t", "\\", "\0", "\xHH" ... to bytes. */
static void unescape(const char *s, struct buf *out)
{
    static const char from[] = "ntr0\\abfv", to[] = "\n\t\r\0\\\a\b\f\v";
    for (; *s; s++) {
        char c = *s;
        if (c == '\\') {
            const char *k = s[1] ? strchr(from, s[1]) : NULL;
            unsigned hex;
            int used = 0;
            if (k) {
                c = to[k - from];
                s++;
            } else if (s[1] == 'x' && sscanf(s + 2, "%2x%n", &hex, &used) == 1 && used == 2) {
                c = (char)hex;
                s += 3;
            } else
                die_usage("'%s' of 'sep' has an unknown escape", show.sep);
        }
        buf_add(out, &c, 1);
    }
    buf_add(out, "", 0);
}

static void cat_set(const char *dir)
{
    struct buf sep = { 0 };
    if (show.ids && show.mask)
        die_usage("--ids and --mask exclude each other");
    if (show.sep && (show.ids || show.mask))
        die_usage("--sep does not go with --%s, which ends each document with a line end", show.ids ? "ids" : "mask");
    unescape(show.sep ? show.sep : "", &sep);
    struct shards *s = open_set(dir);
    inspect_print(s, &(struct inspect_print){ show.doc, show.ids, show.mask, sep.data, sep.len, show.tokenizer });
    buf_free(&sep);
    shards_close(s);
}

/* What is there for no bytes of text, as in sets that were imported, is not a number. */
static void print_ratio(const char *name, const char *format, double x, double y)
{
    printf("%s\t", name);
    printf(y > 0 ? format : "nan", x / y);
    putchar('\n');
}

static void print_stats(const struct stats *st, const struct shard_info *i)
{
    printf("length_min\t%lld\nlength_median\t%lld\nlength_p90\t%lld\nlength_p99\t%lld\nlength_max\t%lld\n",
           (long long)st->min, (long long)st->median, (long long)st->p90, (long long)st->p99, (long long)st->max);
    printf("ids_seen\t%lld\ntop_id\t%lld\n", (long long)st->ids_seen, (long long)st->top_id);
    print_ratio("top_id_share", "%.6f", (double)st->top_count, (double)i->n_tokens);
    int first = 0, last = STATS_BINS - 1;
    while (first < STATS_BINS && !st->bin[first])
        first++;
    while (last >= 0 && !st->bin[last])
        last--;
    for (int k = first; k <= last; k++)
        printf("documents_from_%lld\t%lld\n", 1LL << k, (long long)st->bin[k]);
}

static void stat_set(const char *dir)
{
    struct shards *s = open_set(dir);
    const struct shard_info *i = shards_info(s);
    struct stats st;
    stats_of(s, &st);
    double tokens = (double)i->n_tokens, bytes = (double)i->n_bytes;
    printf("documents\t%lld\ntokens\t%lld\nbytes\t%lld\n", (long long)i->n_docs, (long long)i->n_tokens,
           (long long)i->n_bytes);
    print_ratio("tokens_per_byte", "%.6g", tokens, bytes);
    printf("members\t%d\ntokenizer\t%s\nvocab\t%lld\nreplaced\t%lld\n", shards_count(s), i->tokenizer,
           (long long)i->vocab, (long long)i->n_replaced);
    if (i->seq_len) {
        printf("seq_len\t%lld\nsamples\t%lld\ntargets\t%lld\n", (long long)i->seq_len, (long long)i->n_samples,
               (long long)i->n_targets);
        print_ratio("samples_filled", "%.6f", tokens, (double)i->n_samples * (double)i->seq_len);
    }
    printf("unigram_bits_per_token\t%.6f\n", st.bits);
    print_ratio("unigram_bits_per_byte", "%.6f", st.bits * tokens, bytes);
    printf("hash\t%016llx\n", (unsigned long long)shards_hash(s));
    print_stats(&st, i);
    shards_close(s);
}

static void stat_blend(const char *file)
{
    struct blend b = { 0 };
    double weights = 0, budget = (double)show.budget;
    if (blend_try_read(&b, file) < 0 || blend_try_open(&b) < 0)
        die("%s", err_last());
    for (size_t i = 0; i < b.n; i++) {
        weights += b.set[i].weight;
        budget += show.budget ? 0 : blend_tokens(&b.set[i].info);
    }
    printf("# set\tdocuments\ttokens\tbytes\tweight\tshare\tepochs\n");
    for (size_t i = 0; i < b.n; i++) {
        const struct blend_set *x = &b.set[i];
        printf("%s\t%lld\t%lld\t%lld\t%g\t%.6f\t%.4f\n", x->path, (long long)x->info.n_docs,
               (long long)x->info.n_tokens, (long long)x->info.n_bytes, x->weight, x->weight / weights,
               budget * x->weight / weights / blend_tokens(&x->info));
    }
    blend_free(&b);
}

static int check_set(const char *dir)
{
    struct shards *s = open_set(dir);
    int bad = 0;
    for (int i = 0; i < shards_count(s); i++)
        if (shards_try_verify(s, i) < 0) {
            note(0, "%s", err_last());
            bad++;
        }
    if (!bad)
        note(1, "'%s' is whole: %d files, %lld documents, %lld tokens", dir, shards_count(s),
             (long long)shards_info(s)->n_docs, (long long)shards_info(s)->n_tokens);
    shards_close(s);
    return bad ? EXIT_FAILED : EXIT_DONE;
}

/* These are work for one; under mpiexec the other ranks wait for its end. */
static int index_main(int n, char **args)
{
    (void)n;
    if (err_rank() == 0) {
        set_lock(args[0], true);
        parts_join(args[0], show.index_force);
    }
    return comm_agree(comm_world(), EXIT_DONE);
}

static int cat_main(int n, char **args)
{
    (void)n;
    if (err_rank() == 0)
        cat_set(args[0]);
    return comm_agree(comm_world(), EXIT_DONE);
}

static int stat_main(int n, char **args)
{
    if ((n == 1) == (show.blend != NULL) || (show.budget && !show.blend))
        die_usage("one of DIR and '--blend FILE', and '--budget N' with the latter");
    if (err_rank() == 0 && show.blend)
        stat_blend(show.blend);
    else if (err_rank() == 0)
        stat_set(args[0]);
    return comm_agree(comm_world(), EXIT_DONE);
}

static int check_main(int n, char **args)
{
    (void)n;
    return comm_agree(comm_world(), err_rank() == 0 ? check_set(args[0]) : EXIT_DONE);
}

/* ---- merge ---- */

static struct {
    const char *output;
    bool force;
} mg;

static struct opt merge_opts[] = {
    OPT_STR('o', "output", "DIR", &mg.output, "folder of the new set"),
    OPT_FLAG('f', "force", &mg.force, "replace what is there"),
    OPT_END
};

static int merge_main(int n, char **sets)
{
    struct merge_counts k;
    if (!mg.output)
        die_usage("where to? -o DIR is missing");
    merge_sets(mg.output, sets, n, mg.force, comm_world(), &k);
    note(1, "%lld documents, %lld tokens, %lld bytes in %lld files", (long long)k.docs, (long long)k.tokens,
         (long long)k.bytes, (long long)(k.kept + k.made));
    if (k.kept)
        note(1, "%lld of %lld files were there already", (long long)k.kept, (long long)(k.kept + k.made));
    return comm_agree(comm_world(), EXIT_DONE);
}

/* ---- import, export ---- */

static struct {
    const char *output, *tokenizer, *hash;
    int format, specials;
    int64_t vocab, eod, part_tokens, level;
    double log_seconds;
    bool append_eod, sequences, force;
} im = { .tokenizer = "bytes", .vocab = -1, .eod = -1, .level = 1, .log_seconds = 10 };

static struct opt import_opts[] = {
    OPT_STR('o', "output", "DIR", &im.output, "folder of the set"),
    OPT_CHOICE(0, "format", &im.format, "auto|megatron|llmc", "auto: megatron where there is a FILE.idx"),
    OPT_STR(0, "tokenizer", "SPEC", &im.tokenizer, "whose ids they are; with --vocab any name"),
    OPT_CHOICE(0, "specials", &im.specials, "text|parse", "how text was encoded, as for encode"),
    OPT_INT(0, "vocab", "N", &im.vocab, -1, 4294967295.0, "ids are below N; -1: the tokenizer says"),
    OPT_INT(0, "eod", "ID", &im.eod, -1, 4294967294.0, "the end-of-document id; -1: the tokenizer says"),
    OPT_STR(0, "tokenizer-hash", "HEX", &im.hash, "of the tokenizer, with --vocab; sets to be mixed have the same"),
    OPT_FLAG(0, "append-eod", &im.append_eod, "megatron: end documents that lack it with the end token"),
    OPT_FLAG(0, "sequences", &im.sequences, "megatron: each sequence is a document"),
    OPT_INT(0, "part-tokens", "N", &im.part_tokens, 0, 1e18, "tokens of a file of the set; 0: 1 Gi at most"),
    OPT_INT(0, "level", "N", &im.level, 1, 19, "zstd level"),
    OPT_REAL(0, "log-every", "SECONDS", &im.log_seconds, 0, 1e9, "time between progress lines in a log"),
    OPT_FLAG('f', "force", &im.force, "replace what is there"),
    OPT_END
};

static struct {
    const char *prefix;
    int format, type;
    int64_t file_tokens;
    bool drop_eod, force;
} ex = { .file_tokens = INT32_MAX };

static struct opt export_opts[] = {
    OPT_STR('o', "output", "PREFIX", &ex.prefix, "PREFIX.bin and PREFIX.idx, or PREFIX_000000.bin and so on"),
    OPT_CHOICE(0, "format", &ex.format, "megatron|llmc", "whose files"),
    OPT_CHOICE(0, "dtype", &ex.type, "auto|u8|i8|i16|i32|i64|u16|u32", "type of the ids; auto: as those programs choose"),
    OPT_FLAG(0, "drop-eod", &ex.drop_eod, "megatron: documents without their end token"),
    OPT_INT(0, "file-tokens", "N", &ex.file_tokens, 1, INT32_MAX, "llmc: tokens of a file at most"),
    OPT_FLAG('f', "force", &ex.force, "replace what is there"),
    OPT_END
};

/* Whose ids: one of our tokenizers (returned, and to be freed), or the numbers that the options give (NULL). */
static struct tokenizer *imported_tokenizer(struct shard_info *info)
{
    struct tokenizer *t = NULL;
    struct tokenizer_options o = { .specials = (enum tokenizer_specials)im.specials,
                                   .eod_known = im.eod >= 0,
                                   .eod_id = im.eod };
    if (im.vocab >= 0 && im.eod < 0)
        die_usage("'--vocab N' needs '--eod ID'");
    if (im.hash && im.vocab < 0)
        die_usage("'--tokenizer-hash HEX' needs '--vocab N' and '--eod ID'");
    if (im.vocab >= 0 && im.specials)
        die_usage("'--specials parse' is for a tokenizer that is known, not for '--vocab N'");
    if (im.vocab < 0) {
        if (!(t = tokenizer_try_open(im.tokenizer, &o)))
            die_usage("%s; '--vocab N --eod ID' describe a foreign one", err_last());
        const struct tokenizer_info *ti = tokenizer_info(t);
        *info = (struct shard_info){ .tokenizer_hash = ti->hash, .vocab = ti->vocab, .eod = ti->eod };
        memcpy(info->tokenizer, ti->name, sizeof ti->name);
        return t;
    }
    *info = (struct shard_info){ .vocab = im.vocab, .eod = im.eod };
    if (im.eod >= im.vocab)
        die_usage("'%lld' of 'eod' is not below '%lld' of 'vocab'", (long long)im.eod, (long long)im.vocab);
    if (!*im.tokenizer ||
        (size_t)snprintf(info->tokenizer, sizeof info->tokenizer, "%s", im.tokenizer) >= sizeof info->tokenizer)
        die_usage("'%s' of 'tokenizer' is not a name of 1 to %zu bytes", im.tokenizer, sizeof info->tokenizer - 1);
    struct buf b = { 0 };
    buf_addf(&b, "%s %lld %lld", im.tokenizer, (long long)im.vocab, (long long)im.eod);
    info->tokenizer_hash = hash_bytes(b.data, b.len);
    if (im.hash && set_try_parse_hash(im.hash, &info->tokenizer_hash) < 0)
        die_usage("%s", err_last());
    buf_free(&b);
    return NULL;
}

static int import_main(int n, char **inputs)
{
    double start = now_seconds();
    struct convert_import o = { .output = im.output,
                                .format = (enum convert_format)im.format,
                                .append_eod = im.append_eod,
                                .sequences = im.sequences,
                                .part_tokens = im.part_tokens,
                                .level = (int)im.level,
                                .log_seconds = im.log_seconds,
                                .force = im.force };
    struct convert_counts k;
    if (!im.output)
        die_usage("where to? -o DIR is missing");
    struct tokenizer *t = imported_tokenizer(&o.info);
    o.tokenizer = t;
    convert_import(&o, inputs, n, comm_world(), &k);
    note(1, "%lld documents, %lld tokens, %lld bytes; %lld without tokens skipped, %lld end tokens added",
         (long long)k.docs, (long long)k.tokens, (long long)k.bytes, (long long)k.empty, (long long)k.added);
    if (k.kept)
        note(1, "%lld of %lld files were there already", (long long)k.kept, (long long)(k.kept + k.made));
    char rate[64];
    snprintf(rate, sizeof rate, "%.1f Mtok/s", 1e-6 * (double)k.tokens / (now_seconds() - start + 1e-9));
    meter_last_words(k.kept ? NULL : rate);
    tokenizer_free(t);
    return comm_agree(comm_world(), EXIT_DONE);
}

static void export_set(const char *dir)
{
    static const enum id_type types[] = { 0, ID_U8, ID_I8, ID_I16, ID_I32, ID_I64, ID_U16, ID_U32 };
    const struct convert_export o = { .prefix = ex.prefix,
                                      .format = ex.format ? CONVERT_LLMC : CONVERT_MEGATRON,
                                      .type = types[ex.type],
                                      .drop_eod = ex.drop_eod,
                                      .file_tokens = ex.file_tokens,
                                      .force = ex.force };
    if (!ex.prefix || !*path_base(ex.prefix))
        die_usage("where to? -o PREFIX is missing");
    if (ex.drop_eod && ex.format)
        die_usage("--drop-eod is for megatron: in files of llm.c nothing else divides documents");
    struct shards *s = open_set(dir);
    if (shards_info(s)->seq_len)
        die("'%s' is packed for fine-tuning: files of other programs have no place for its loss mask", dir);
    int64_t tokens = convert_export(s, &o);
    note(1, "%lld documents, %lld tokens", (long long)shards_info(s)->n_docs, (long long)tokens);
    shards_close(s);
}

static int export_main(int n, char **args)
{
    (void)n;
    if (err_rank() == 0)
        export_set(args[0]);
    return comm_agree(comm_world(), EXIT_DONE);
}

static const struct command commands[] = {
    { "tokshard encode", "[options] -o DIR [INPUT...]",
      "Turn the documents of text or JSONL files into token shards.", encode_opts, NULL, 0, -1, encode },
    { "tokshard pack", "[options] --template NAME -o DIR [FILE...]",
      "Turn conversations in JSONL into rows for fine-tuning, of which answers count.", pack_opts, NULL, 0, -1, pack },
    { "tokshard train", "[options] --vocab N -o FILE INPUT...",
      "Learn a byte-level BPE tokenizer from text or JSONL files.", train_opts, NULL, 1, -1, train },
    { "tokshard index", "[options] DIR", "Close a set whose parts were made one by one.", index_opts, NULL, 1,
      1, index_main },
    { "tokshard cat", "[options] DIR", "Write the documents of a set to the standard output.", cat_opts, NULL,
      1, 1, cat_main },
    { "tokshard check", "DIR", "Verify every byte of a set; one line a problem.", no_opts, NULL, 1, 1,
      check_main },
    { "tokshard stat", "DIR | --blend FILE", "Figures of a set, or of a blend of sets, as TSV.", stat_opts, NULL,
      0, 1, stat_main },
    { "tokshard merge", "[options] -o DIR SET...", "Make one set from several, documents in order.", merge_opts,
      NULL, 1, -1, merge_main },
    { "tokshard import", "[options] -o DIR FILE...",
      "Turn token files of Megatron-LM or llm.c into a set of shards.", import_opts, NULL, 1, -1, import_main },
    { "tokshard export", "[options] -o PREFIX DIR", "Write a set as token files of Megatron-LM or llm.c.",
      export_opts, NULL, 1, 1, export_main },
    { NULL, NULL, NULL, NULL, NULL, 0, 0, NULL }
};

int main(int argc, char **argv)
{
    err_init("tokshard");
    comm_init(&argc, &argv);
    command_dispatch("tokshard", "Text and token files to token shards and back, and a look at them.", commands, argc, argv);
}
