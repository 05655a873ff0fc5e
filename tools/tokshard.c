/* tokshard.c - text to token shards, and a look at them
 * SPDX-License-Identifier: MIT
 *
 * encode: the input bytes are cut in N (--part I/N) times R (ranks) even parts; each rank turns the documents
 * of its part into one member file. Nothing is shared, so an array job of N tasks needs no messages, and what
 * is there already need not be made again: a member carries a fingerprint of inputs and options (`source`).
 * The set becomes valid when its index is written: by rank 0 of a whole job, or by `tokshard index`.
 * Over 500 lines: five commands, each short, that share the names and the checks of a set.
 */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/opt.h"
#include "common/base/out.h"
#include "common/dist/comm.h"
#include "common/io/shard.h"
#include "common/text/docs.h"
#include "common/text/tokenizer.h"

enum { MOST_PARTS = 99999, TEXT_BLOCK = 64 << 10, TOKEN_BLOCK = 256 << 10 };
enum take { TAKE_ALL, TAKE_TRAIN, TAKE_VALID };

static struct {
    const char *output, *tokenizer, *separator, *text_key, *part;
    int split, format, take;
    int64_t max_line, level;
    double valid_share, log_seconds;
    bool skip_bad, force, dry_run;
} en = { .tokenizer = "bytes", .text_key = "text", .max_line = 256 << 20, .level = 1, .log_seconds = 10 };

static struct opt encode_opts[] = {
    OPT_STR('o', "output", "DIR", &en.output, "folder of the set"),
    OPT_STR(0, "tokenizer", "NAME", &en.tokenizer, "bytes"),
    OPT_CHOICE(0, "format", &en.format, "auto|text|jsonl",
               "auto: .jsonl and .ndjson are JSONL, all else is text"),
    OPT_CHOICE(0, "split", &en.split, "file|line|para|sep", "what a document is in text"),
    OPT_STR(0, "separator", "STR", &en.separator, "with --split sep: the line between two documents"),
    OPT_STR(0, "text-key", "KEY", &en.text_key, "JSONL: the key that holds the text"),
    OPT_INT(0, "max-line", "BYTES", &en.max_line, 2, 1LL << 40, "JSONL: longer lines are bad"),
    OPT_FLAG(0, "skip-bad", &en.skip_bad, "JSONL: skip and count bad lines"),
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

struct job {
    struct docs_file *files;
    int n_files;
    struct docs_options docs;
    int64_t part, parts; /* of this rank, of all */
    struct tokenizer *tokenizer;
    struct shard_info info;
    uint64_t below; /* hashes below are valid documents */
    char *member;   /* path of the file that this rank makes */
    bool there;     /* it is there already */
};

struct counts { /* only int64_t: ranks add them up as an array */
    int64_t docs, tokens, bytes, empty, bad, other, kept, made;
};

static char *member_name(int64_t part, int64_t parts)
{
    return xasprintf("part-%05lld-of-%05lld.h5", (long long)part, (long long)parts);
}

/* "part-00001-of-00004.h5": which of how many. */
static bool parse_member(const char *name, int64_t *part, int64_t *parts)
{
    long long i, n;
    if (sscanf(name, "part-%lld-of-%lld.h5", &i, &n) != 2 || i < 0 || n < 1 || i >= n || n > MOST_PARTS)
        return false;
    char *same = member_name(i, n);
    bool yes = strcmp(same, name) == 0;
    free(same);
    *part = i;
    *parts = n;
    return yes;
}

static void parse_part(struct job *j, const struct comm *c)
{
    int64_t i = 1, n = 1;
    if (en.part) {
        const char *slash = strchr(en.part, '/');
        char *left = xasprintf("%.*s", slash ? (int)(slash - en.part) : 0, en.part);
        if (!slash || parse_int(left, &i) < 0 || parse_int(slash + 1, &n) < 0 || i < 1 || i > n)
            die_usage("'%s' of 'part' is not I/N with 1 <= I <= N", en.part);
        free(left);
    }
    if (n > MOST_PARTS / c->size)
        die_usage("%lld parts of %d ranks are more than %d files", (long long)n, c->size, MOST_PARTS);
    j->part = (i - 1) * c->size + c->rank;
    j->parts = n * c->size;
}

static void check_options(struct job *j)
{
    if (!en.output)
        die_usage("where to? -o DIR is missing");
    if ((en.split == DOCS_SEP) != (en.separator != NULL))
        die_usage("'--split sep' and '--separator STR' need each other");
    if (en.separator && (!*en.separator || strpbrk(en.separator, "\r\n")))
        die_usage("the separator is one line, not empty");
    if ((en.take != TAKE_ALL) != (en.valid_share > 0 && en.valid_share < 1))
        die_usage("'--take train|valid' and '--valid-share X' with 0 < X < 1 need each other");
    j->docs = (struct docs_options){ .format = (enum docs_format)en.format,
                                     .split = (enum docs_split)en.split,
                                     .separator = en.separator,
                                     .text_key = en.text_key,
                                     .max_line = en.max_line,
                                     .skip_bad = en.skip_bad };
    j->below = (uint64_t)ldexp(en.valid_share, 64);
    j->tokenizer = tokenizer_try_open(en.tokenizer);
    if (!j->tokenizer)
        die_usage("%s", err_last());
    const struct tokenizer_info *t = tokenizer_info(j->tokenizer);
    j->info = (struct shard_info){ .tokenizer_hash = t->hash, .vocab = t->vocab, .eod = t->eod };
    memcpy(j->info.tokenizer, t->name, sizeof t->name);
}

/* The members of a set are cut out of the same files everywhere: rank 0's view holds, and others must see it.
 */
static void look_at_inputs(struct job *j, int n, char **paths, struct comm *c)
{
    j->n_files = n;
    j->files = xcalloc((size_t)n, sizeof *j->files);
    int64_t *mine = xcalloc((size_t)n * 2, sizeof *mine);
    int64_t *first = xcalloc((size_t)n * 2, sizeof *first);
    if (c->rank > 0) /* rank 0 looks before the others: a missing file is told once */
        comm_bcast(c, first, (size_t)n * 2 * sizeof *first, 0);
    for (int i = 0; i < n; i++) {
        docs_look(paths[i], &j->files[i]);
        mine[2 * i] = j->files[i].bytes;
        mine[2 * i + 1] = j->files[i].mtime;
    }
    if (c->rank == 0) {
        memcpy(first, mine, (size_t)n * 2 * sizeof *first);
        comm_bcast(c, first, (size_t)n * 2 * sizeof *first, 0);
    }
    for (int i = 0; i < n; i++)
        if (mine[2 * i] != first[2 * i] || mine[2 * i + 1] != first[2 * i + 1])
            die("'%s' is not the same file here and at rank 0 (size or time differ)", paths[i]);
    free(mine);
    free(first);
}

/* All that decides what is in the members, hashed: two jobs with the same value make the same set. */
static void fingerprint(struct job *j)
{
    static const char *const no_matter[] = { "output", "part", "level", "log-every", "force", "dry-run" };
    struct buf b = { 0 };
    for (struct opt *o = encode_opts; o->kind; o++) {
        bool matters = true;
        for (size_t i = 0; i < sizeof no_matter / sizeof *no_matter; i++)
            matters = matters && strcmp(o->name, no_matter[i]) != 0;
        if (!matters)
            continue;
        buf_addf(&b, "%s=", o->name);
        opt_format(o, &b);
        buf_add(&b, "", 1);
    }
    buf_addf(&b, "%016llx", (unsigned long long)j->info.tokenizer_hash);
    for (int i = 0; i < j->n_files; i++) {
        buf_addf(&b, "%lld %lld %s", (long long)j->files[i].bytes, (long long)j->files[i].mtime,
                 j->files[i].path);
        buf_add(&b, "", 1);
    }
    snprintf(j->info.source, sizeof j->info.source, "%016llx", (unsigned long long)hash_bytes(b.data, b.len));
    buf_free(&b);
}

/* Sets j->there when the member is whole and made from the same. Dies when it is something else. */
static void look_at_member(struct job *j)
{
    struct shard_info old;
    if (en.force || !path_exists(j->member))
        return;
    if (shard_try_info(j->member, &old) < 0)
        die("'%s' exists and is not a shard (%s); --force replaces it", j->member, err_last());
    if (strcmp(old.source, j->info.source) != 0 || old.tokenizer_hash != j->info.tokenizer_hash)
        die("'%s' exists, made from other inputs or options; --force replaces it", j->member);
    j->there = true;
    j->info = old;
}

/* Several jobs may make parts of one set at the same time, so they take away no more than the index. */
static void drop_index(const char *dir)
{
    char *index = path_join(dir, "index.h5");
    if (unlink(index) < 0 && errno != ENOENT)
        die_errno("cannot remove '%s'", index);
    out_sync_dir(dir);
    free(index);
}

/* An input that this job, or a later one in that folder, would take away. */
static bool is_output(const char *input)
{
    int64_t part, parts;
    const char *name = path_base(input);
    char *dir = name == input ? xstrdup(".") : xasprintf("%.*s", (int)(name - input), input);
    bool ours = strcmp(name, "index.h5") == 0 || parse_member(name, &part, &parts);
    ours = path_same(input, en.output) || (ours && path_same(dir, en.output));
    free(dir);
    return ours;
}

static void prepare_output(struct job *j, struct comm *c)
{
    char *name = member_name(j->part, j->parts);
    j->member = path_join(en.output, name);
    free(name);
    for (int i = 0; i < j->n_files; i++)
        if (is_output(j->files[i].path))
            die("'%s' is both input and output", j->files[i].path);
    if (!en.dry_run) {
        if (c->rank == 0 && !en.part) {
            set_prepare(en.output, en.force);
        } else if (c->rank == 0) {
            out_make_dirs(en.output);
            if (en.force)
                drop_index(en.output);
        }
        comm_barrier(c);
        look_at_member(j);
    }
    if (!j->there && !en.force && set_exists(en.output))
        die("'%s' holds a whole set; --force replaces it", en.output);
}

/* The share of a document is decided by its bytes alone: in every run and part the same, twins stay together.
 */
static bool wanted(const struct job *j, struct docs *d, struct hash *h)
{
    if (en.take == TAKE_ALL)
        return true;
    const char *p;
    size_t n;
    while ((p = docs_piece(d, &n)))
        hash_add(h, p, n);
    docs_rewind(d);
    return (hash_end(h) < j->below) == (en.take == TAKE_VALID);
}

struct encoder {
    struct docs *docs;
    struct token_stream *stream;
    struct token_ids ids;
    struct shard_writer *w; /* NULL: a dry run */
    struct progress bar;
};

static void show_progress(struct encoder *e)
{
    char text[64];
    int64_t done = docs_input_done(e->docs);
    snprintf(text, sizeof text, "%.1f MB/s a rank",
             1e-6 * (double)done / (now_seconds() - e->bar.start + 1e-9));
    if (done < docs_input_bytes(e->docs) || e->bar.drawn) /* the counts that follow tell the end */
        progress_at(&e->bar, done, text);
}

static int64_t add_ids(struct encoder *e)
{
    int64_t n = (int64_t)e->ids.n;
    if (e->w && n)
        shard_add(e->w, e->ids.id, n);
    e->ids.n = 0;
    return n;
}

/* Returns the number of tokens without the end token. */
static int64_t encode_doc(struct encoder *e)
{
    const char *p;
    size_t n;
    int64_t tokens = 0;
    while ((p = docs_piece(e->docs, &n))) {
        for (size_t i = 0; i < n; i += TEXT_BLOCK) {
            tokenizer_encode(e->stream, p + i, n - i < TEXT_BLOCK ? n - i : TEXT_BLOCK, false, &e->ids);
            tokens += add_ids(e);
        }
        if (n > TEXT_BLOCK)
            show_progress(e);
    }
    tokenizer_encode(e->stream, "", 0, true, &e->ids);
    return tokens + add_ids(e);
}

static void encode_docs(const struct job *j, struct docs *d, struct shard_writer *w, struct counts *k)
{
    struct encoder e = { .docs = d, .stream = token_stream_new(j->tokenizer), .w = w };
    struct hash *h = hash_new();
    int64_t bytes;
    progress_begin(&e.bar, 0, docs_input_bytes(d), en.log_seconds);
    e.bar.last_draw = e.bar.start; /* a short job says nothing on its way */
    while (docs_next(d, &bytes)) {
        if (wanted(j, d, h)) {
            k->docs++;
            k->bytes += bytes;
            k->tokens += encode_doc(&e) + 1;
            if (w)
                shard_end_doc(w, bytes);
        } else
            k->other++;
        if ((k->docs + k->other) % 1024 == 0)
            show_progress(&e);
    }
    progress_end(&e.bar);
    k->empty = docs_counts(d)->empty;
    k->bad = docs_counts(d)->bad;
    hash_free(h);
    token_ids_free(&e.ids);
    token_stream_free(e.stream);
}

static void write_index(const struct job *j)
{
    char **names = xcalloc((size_t)j->parts, sizeof *names);
    for (int64_t i = 0; i < j->parts; i++)
        names[i] = member_name(i, j->parts);
    shards_write_index(en.output, (const char *const *)names, (int)j->parts, en.force);
    for (int64_t i = 0; i < j->parts; i++)
        free(names[i]);
    free(names);
}

static void tell(const struct job *j, const struct counts *k, double seconds)
{
    if (en.dry_run && err_rank() == 0)
        printf("documents\t%lld\ntokens\t%lld\nbytes\t%lld\nempty\t%lld\nbad\t%lld\nleft_out\t%lld\n",
               (long long)k->docs, (long long)k->tokens, (long long)k->bytes, (long long)k->empty,
               (long long)k->bad, (long long)k->other);
    note(
        1,
        "%lld documents, %lld tokens, %lld bytes; skipped: %lld empty, %lld bad; left to the other set: %lld",
        (long long)k->docs, (long long)k->tokens, (long long)k->bytes, (long long)k->empty, (long long)k->bad,
        (long long)k->other);
    if (k->kept)
        note(1, "%lld of %lld files were there already", (long long)k->kept, (long long)(k->kept + k->made));
    int64_t total = 0;
    for (int i = 0; i < j->n_files; i++)
        total += j->files[i].bytes;
    char rate[64];
    snprintf(rate, sizeof rate, "%.1f MB/s", 1e-6 * (double)total / (seconds + 1e-9));
    meter_last_words(k->kept || en.part ? NULL : rate);
}

static int encode(int n, char **inputs)
{
    struct comm *c = comm_world();
    struct job j = { 0 };
    struct counts k = { 0 };
    double start = now_seconds();
    parse_part(&j, c);
    check_options(&j);
    look_at_inputs(&j, n, inputs, c);
    fingerprint(&j);
    prepare_output(&j, c);
    struct shard_writer *w = NULL;
    if (j.there) {
        k = (struct counts){
            .docs = j.info.n_docs, .tokens = j.info.n_tokens, .bytes = j.info.n_bytes, .kept = 1
        };
    } else {
        struct docs *d = docs_open(j.files, j.n_files, &j.docs, j.part, j.parts);
        k.made = 1;
        if (!en.dry_run)
            w = shard_create(j.member, &j.info, (int)en.level, en.force);
        encode_docs(&j, d, w, &k);
        docs_close(d);
        if (w && (k.docs > 0 || en.part)) {
            shard_commit(w, NULL);
            w = NULL;
        }
    }
    comm_sum_i64(c, (int64_t *)&k, sizeof k / sizeof(int64_t));
    bool nothing = k.docs == 0 && !en.part;
    if (w && nothing)
        shard_abort(w);
    else if (w)
        shard_commit(w, NULL); /* a part without documents, of a set that has some */
    comm_barrier(c);
    if (c->rank == 0 && nothing)
        die("no documents in '%s'%s", inputs[0], n > 1 ? " and the other inputs" : "");
    if (c->rank == 0 && !en.part && !en.dry_run)
        write_index(&j);
    tell(&j, &k, now_seconds() - start);
    free(j.member);
    free(j.files);
    tokenizer_free(j.tokenizer);
    return comm_agree(c, EXIT_DONE);
}

/* ---- index ---- */

/* The names of all members in `dir`, in order; dies when some are missing or two sets lie there. */
static char **find_members(const char *dir, int64_t *count)
{
    char **names = NULL;
    int64_t part, parts, found = 0;
    *count = 0;
    DIR *d = opendir(dir);
    if (!d)
        die_errno("cannot open the folder '%s'", dir);
    struct dirent *e;
    while ((errno = 0, e = readdir(d))) {
        if (!parse_member(e->d_name, &part, &parts))
            continue;
        if (*count && parts != *count)
            die("'%s' holds files of %lld and of %lld parts; remove those that are not meant", dir,
                (long long)*count, (long long)parts);
        if (!*count)
            names = xcalloc((size_t)parts, sizeof *names);
        *count = parts;
        names[part] = xstrdup(e->d_name);
        found++;
    }
    if (errno)
        die_errno("cannot read the folder '%s'", dir);
    closedir(d);
    if (!found)
        die("no part-*-of-*.h5 in '%s'", dir);
    for (int64_t i = 0; i < *count; i++)
        if (!names[i])
            die("%lld of %lld parts are missing in '%s', the first is part %lld of %lld",
                (long long)(*count - found), (long long)*count, dir, (long long)(i + 1), (long long)*count);
    return names;
}

static void make_index(const char *dir)
{
    int64_t n, docs = 0, tokens = 0, bytes = 0;
    if (set_exists(dir) && !show.index_force)
        die("'%s' holds a whole set; --force replaces its index", dir);
    char **names = find_members(dir, &n);
    struct shard_info first = { 0 };
    for (int64_t i = 0; i < n; i++) {
        struct shard_info info;
        char *path = path_join(dir, names[i]);
        if (shard_try_info(path, &info) < 0)
            die("%s", err_last());
        if (i == 0)
            first = info;
        if (strcmp(info.source, first.source) != 0)
            die("'%s' and '%s' in '%s' were made from different inputs or options", names[0], names[i], dir);
        docs += info.n_docs;
        tokens += info.n_tokens;
        bytes += info.n_bytes;
        free(path);
    }
    if (docs == 0)
        die("no documents in the %lld parts in '%s'", (long long)n, dir);
    shards_write_index(dir, (const char *const *)names, (int)n, show.index_force);
    note(1, "%lld parts, %lld documents, %lld tokens, %lld bytes", (long long)n, (long long)docs,
         (long long)tokens, (long long)bytes);
    for (int64_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
}

/* ---- cat, stat, check ---- */

static struct shards *open_set(const char *dir)
{
    struct shards *s = shards_try_open(dir);
    if (!s)
        die("%s", err_last());
    return s;
}

static void put(const void *data, size_t n)
{
    if (fwrite(data, 1, n, stdout) != n)
        die_errno("cannot write the standard output");
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

static void put_ids(const uint32_t *ids, size_t n, bool *fresh)
{
    char text[16 * 1024];
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (used > sizeof text - 16) {
            put(text, used);
            used = 0;
        }
        used += (size_t)snprintf(text + used, 16, *fresh ? "%lu" : " %lu", (unsigned long)ids[i]);
        *fresh = false;
    }
    put(text, used);
}

struct printer {
    struct token_stream *stream;
    struct buf text, sep;
    bool fresh; /* nothing of this document is out yet */
};

/* A piece of one document; with `last` its end token too. */
static void put_tokens(struct printer *p, const uint32_t *ids, size_t n, bool last)
{
    if (show.ids) {
        put_ids(ids, n, &p->fresh);
        if (last)
            put("\n", 1);
    } else {
        buf_clear(&p->text);
        if (tokenizer_try_decode(p->stream, ids, n, last, &p->text) < 0)
            die("%s", err_last());
        put(p->text.data, p->text.len);
        if (last)
            put(p->sep.data, p->sep.len);
    }
    p->fresh = last;
}

static void range_of_doc(struct shards *s, int64_t doc, int64_t *from, int64_t *to)
{
    const struct shard_info *info = shards_info(s);
    *from = 0;
    *to = info->n_tokens;
    if (doc < 0)
        return;
    if (doc >= info->n_docs)
        die("'%s' has %lld documents, so there is no document %lld (they count from 0)", shards_dir(s),
            (long long)info->n_docs, (long long)doc);
    if (doc > 0)
        *from = shards_try_doc_end(s, doc - 1);
    *to = shards_try_doc_end(s, doc);
    if (*from < 0 || *to < 0)
        die("%s", err_last());
}

static struct tokenizer *tokenizer_of(const struct shards *s)
{
    const struct shard_info *info = shards_info(s);
    struct tokenizer *t = tokenizer_try_open(info->tokenizer);
    if (!t || tokenizer_info(t)->hash != info->tokenizer_hash)
        die("'%s': its tokenizer '%s' is none of ours; --ids shows the ids", shards_dir(s), info->tokenizer);
    return t;
}

static void cat_set(const char *dir)
{
    struct printer p = { .fresh = true };
    if (show.sep && show.ids)
        die_usage("--sep does not go with --ids, which ends each document with a line end");
    unescape(show.sep ? show.sep : "", &p.sep);
    struct shards *s = open_set(dir);
    struct tokenizer *t = show.ids ? NULL : tokenizer_of(s);
    p.stream = t ? token_stream_new(t) : NULL;
    uint32_t *ids = xmalloc(TOKEN_BLOCK * sizeof *ids);
    int64_t *ends = xmalloc(TOKEN_BLOCK * sizeof *ends);
    int64_t at, to;
    range_of_doc(s, show.doc, &at, &to);
    while (at < to) {
        int64_t n = to - at < TOKEN_BLOCK ? to - at : TOKEN_BLOCK;
        int64_t n_ends = shards_try_doc_ends(s, at, n, ends, TOKEN_BLOCK);
        if (n_ends < 0 || shards_try_read(s, at, n, ids) < 0)
            die("%s", err_last());
        int64_t from = at;
        for (int64_t i = 0; i < n_ends; i++) {
            put_tokens(&p, ids + (from - at), (size_t)(ends[i] - from), true);
            from = ends[i];
        }
        if (from < at + n)
            put_tokens(&p, ids + (from - at), (size_t)(at + n - from), false);
        at += n;
    }
    free(ids);
    free(ends);
    buf_free(&p.text);
    buf_free(&p.sep);
    token_stream_free(p.stream);
    tokenizer_free(t);
    shards_close(s);
}

/* Bits per token when every token is coded by its frequency in the set. */
static double unigram_entropy(struct shards *s)
{
    const struct shard_info *info = shards_info(s);
    int64_t *seen = xcalloc((size_t)info->vocab, sizeof *seen);
    uint32_t *ids = xmalloc(TOKEN_BLOCK * sizeof *ids);
    for (int64_t at = 0, n; at < info->n_tokens; at += n) {
        n = info->n_tokens - at < TOKEN_BLOCK ? info->n_tokens - at : TOKEN_BLOCK;
        if (shards_try_read(s, at, n, ids) < 0)
            die("%s", err_last());
        for (int64_t i = 0; i < n; i++)
            seen[ids[i]]++;
    }
    double bits = 0, all = (double)info->n_tokens;
    for (int64_t i = 0; i < info->vocab; i++)
        if (seen[i])
            bits -= (double)seen[i] / all * log2((double)seen[i] / all);
    free(ids);
    free(seen);
    return bits;
}

static void stat_set(const char *dir)
{
    struct shards *s = open_set(dir);
    const struct shard_info *i = shards_info(s);
    double bits = unigram_entropy(s);
    double tokens = (double)i->n_tokens, bytes = (double)i->n_bytes;
    printf("documents\t%lld\ntokens\t%lld\nbytes\t%lld\n", (long long)i->n_docs, (long long)i->n_tokens,
           (long long)i->n_bytes);
    printf("tokens_per_byte\t%.6g\nmembers\t%d\ntokenizer\t%s\nvocab\t%lld\n", tokens / bytes,
           shards_count(s), i->tokenizer, (long long)i->vocab);
    printf("unigram_bits_per_token\t%.6f\nunigram_bits_per_byte\t%.6f\nhash\t%016llx\n", bits,
           bits * tokens / bytes, (unsigned long long)shards_hash(s));
    shards_close(s);
}

static int check_set(const char *dir)
{
    struct shards *s = shards_try_open(dir);
    int bad = 0;
    if (!s)
        die("%s", err_last());
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
    if (err_rank() == 0)
        make_index(args[0]);
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
    { "tokshard encode", "[options] -o DIR INPUT...",
      "Turn the documents of text or JSONL files into token shards.", encode_opts, NULL, 1, -1, encode },
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
