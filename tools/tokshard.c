/* tokshard.c - text to token shards, and a look at them
 * SPDX-License-Identifier: MIT
 *
 * Option tables, checks, calls, last words: the work is done by common/prep (documents to a set of shards)
 * and common/io (the set).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/opt.h"
#include "common/dist/comm.h"
#include "common/io/set.h"
#include "common/io/shard.h"
#include "common/prep/encode.h"
#include "common/prep/inputs.h"
#include "common/prep/inspect.h"
#include "common/prep/parts.h"
#include "common/text/ids.h"
#include "common/text/tokenizer.h"

static struct {
    const char *output, *tokenizer, *separator, *text_key, *part;
    const char *files_from, *id_key, *take_ids, *drop_ids;
    int split, format, take, compression, utf8;
    int64_t max_line, level;
    double valid_share, log_seconds;
    bool skip_bad, force, dry_run, null;
} en = { .tokenizer = "bytes", .text_key = "text", .max_line = 256 << 20, .level = 1, .log_seconds = 10 };

static struct opt encode_opts[] = {
    OPT_STR('o', "output", "DIR", &en.output, "folder of the set"),
    OPT_STR(0, "tokenizer", "NAME", &en.tokenizer, "bytes"),
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
    OPT_CHOICE(0, "take", &en.take, "all|train|valid", "which documents"),
    OPT_REAL(0, "valid-share", "X", &en.valid_share, 0, 1, "share of the documents that are 'valid'"),
    OPT_INT(0, "level", "N", &en.level, 1, 19, "zstd level"),
    OPT_REAL(0, "log-every", "SECONDS", &en.log_seconds, 0, 1e9, "time between progress lines in a log"),
    OPT_FLAG('f', "force", &en.force, "replace what is there"),
    OPT_FLAG('n', "dry-run", &en.dry_run, "read and count, write nothing"),
    OPT_END
};

static struct {
    bool index_force, ids;
    int64_t doc;
    const char *sep;
} show = { .doc = -1 };

static struct opt index_opts[] = { OPT_FLAG('f', "force", &show.index_force, "replace the index"), OPT_END };
static struct opt cat_opts[] = {
    OPT_INT(0, "doc", "I", &show.doc, -1, OPT_MAX_INT, "only document I, from 0; -1: all"),
    OPT_FLAG(0, "ids", &show.ids, "token ids instead of text, one document a line"),
    OPT_STR(0, "sep", "STR", &show.sep, "write STR after each document; C escapes"), OPT_END
};
static struct opt no_opts[] = { OPT_END };

/* ---- encode ---- */

/* Which of how many jobs this is, with `part` I/N. */
static void parse_part(struct encode *e, const struct comm *c)
{
    int64_t i = 1, n = 1;
    if (en.part) {
        const char *slash = strchr(en.part, '/');
        char *left = xasprintf("%.*s", slash ? (int)(slash - en.part) : 0, en.part);
        if (!slash || parse_int(left, &i) < 0 || parse_int(slash + 1, &n) < 0 || i < 1 || i > n)
            die_usage("'%s' of 'part' is not I/N with 1 <= I <= N", en.part);
        free(left);
    }
    if (n > PARTS_MOST / c->size)
        die_usage("%lld parts of %d ranks are more than %d files", (long long)n, c->size, PARTS_MOST);
    e->job = i - 1;
    e->jobs = n;
    e->whole = !en.part;
}

static void check_options(void)
{
    if (!en.output)
        die_usage("where to? -o DIR is missing");
    if ((en.split == DOCS_SEP) != (en.separator != NULL))
        die_usage("'--split sep' and '--separator STR' need each other");
    if (en.separator && (!*en.separator || strpbrk(en.separator, "\r\n")))
        die_usage("the separator is one line, not empty");
    if ((en.take != ENCODE_ALL) != (en.valid_share > 0 && en.valid_share < 1))
        die_usage("'--take train|valid' and '--valid-share X' with 0 < X < 1 need each other");
    if ((en.take_ids || en.drop_ids) && !en.id_key)
        die_usage("'--take-ids' and '--drop-ids' need '--id-key KEY'");
    if (en.id_key && en.format == DOCS_TEXT)
        die_usage("'--id-key' is for JSONL, not for '--format text'");
    if (en.null && !en.files_from)
        die_usage("'--null' is for '--files-from LIST'");
}

/* The options that decide what is in the members, as text. */
static void settings(struct buf *b)
{
    static const char *const no_matter[] = { "output",  "part",       "level", "log-every", "force",
                                             "dry-run", "files-from", "null",  "take-ids",  "drop-ids" };
    for (struct opt *o = encode_opts; o->kind; o++) {
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
    parse_part(&e, c);
    check_options();
    struct tokenizer *t = tokenizer_try_open(en.tokenizer);
    if (!t)
        die_usage("%s", err_last());
    struct buf text = { 0 };
    settings(&text);
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
    if (show.sep && show.ids)
        die_usage("--sep does not go with --ids, which ends each document with a line end");
    unescape(show.sep ? show.sep : "", &sep);
    struct shards *s = open_set(dir);
    inspect_print(s, &(struct inspect_print){ show.doc, show.ids, sep.data, sep.len });
    buf_free(&sep);
    shards_close(s);
}

static void stat_set(const char *dir)
{
    struct shards *s = open_set(dir);
    const struct shard_info *i = shards_info(s);
    double bits = inspect_entropy(s);
    double tokens = (double)i->n_tokens, bytes = (double)i->n_bytes;
    printf("documents\t%lld\ntokens\t%lld\nbytes\t%lld\n", (long long)i->n_docs, (long long)i->n_tokens,
           (long long)i->n_bytes);
    printf("tokens_per_byte\t%.6g\nmembers\t%d\ntokenizer\t%s\nvocab\t%lld\nreplaced\t%lld\n", tokens / bytes,
           shards_count(s), i->tokenizer, (long long)i->vocab, (long long)i->n_replaced);
    printf("unigram_bits_per_token\t%.6f\nunigram_bits_per_byte\t%.6f\nhash\t%016llx\n", bits,
           bits * tokens / bytes, (unsigned long long)shards_hash(s));
    shards_close(s);
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
    (void)n;
    if (err_rank() == 0)
        stat_set(args[0]);
    return comm_agree(comm_world(), EXIT_DONE);
}

static int check_main(int n, char **args)
{
    (void)n;
    return comm_agree(comm_world(), err_rank() == 0 ? check_set(args[0]) : EXIT_DONE);
}

static const struct command commands[] = {
    { "tokshard encode", "[options] -o DIR [INPUT...]",
      "Turn the documents of text or JSONL files into token shards.", encode_opts, NULL, 0, -1, encode },
    { "tokshard index", "[options] DIR", "Close a set whose parts were made one by one.", index_opts, NULL, 1,
      1, index_main },
    { "tokshard cat", "[options] DIR", "Write the documents of a set to the standard output.", cat_opts, NULL,
      1, 1, cat_main },
    { "tokshard check", "DIR", "Verify every byte of a set; one line a problem.", no_opts, NULL, 1, 1,
      check_main },
    { "tokshard stat", "DIR", "Count a set and its unigram entropy, as TSV.", no_opts, NULL, 1, 1,
      stat_main },
    { NULL, NULL, NULL, NULL, NULL, 0, 0, NULL }
};

int main(int argc, char **argv)
{
    err_init("tokshard");
    comm_init(&argc, &argv);
    command_dispatch("tokshard", "Text to token shards, and a look at them.", commands, argc, argv);
}
