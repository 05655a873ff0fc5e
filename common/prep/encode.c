/* encode.c - documents of text files to one set of token shards, by many ranks and many jobs
 * SPDX-License-Identifier: MIT
 */
#include "encode.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/out.h"
#include "common/dist/comm.h"
#include "common/io/shard.h"
#include "common/text/tokenizer.h"
#include "parts.h"

enum { TEXT_BLOCK = 64 << 10 };

struct job {
    const struct encode *o;
    struct docs_file *files;
    int n_files;
    int64_t part, parts; /* of this rank, of all */
    struct shard_info info;
    uint64_t below; /* hashes below are valid documents */
    char *member;   /* path of the file that this rank makes */
    bool there;     /* it is there already */
};

/* ---- what is asked for, and what is there ---- */

/* The members of a set are cut out of the same files everywhere: rank 0's view holds, others must see it. */
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
    struct buf b = { 0 };
    buf_add(&b, j->o->settings, j->o->n_settings);
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
    if (j->o->force || !path_exists(j->member))
        return;
    if (shard_try_info(j->member, &old) < 0)
        die("'%s' exists and is not a shard (%s); --force replaces it", j->member, err_last());
    if (strcmp(old.source, j->info.source) != 0 || old.tokenizer_hash != j->info.tokenizer_hash)
        die("'%s' exists, made from other inputs or options; --force replaces it", j->member);
    j->there = true;
    j->info = old;
}

/* An input that this job, or a later one in that folder, would take away. */
static bool is_output(const char *input, const char *output)
{
    int64_t part, parts;
    const char *name = path_base(input);
    char *dir = name == input ? xstrdup(".") : xasprintf("%.*s", (int)(name - input), input);
    bool ours = strcmp(name, "index.h5") == 0 || parts_parse(name, &part, &parts);
    ours = path_same(input, output) || (ours && path_same(dir, output));
    free(dir);
    return ours;
}

static void prepare_output(struct job *j, struct comm *c)
{
    const struct encode *o = j->o;
    char *name = parts_name(j->part, j->parts);
    j->member = path_join(o->output, name);
    free(name);
    for (int i = 0; i < j->n_files; i++)
        if (is_output(j->files[i].path, o->output))
            die("'%s' is both input and output", j->files[i].path);
    if (!o->dry_run) {
        if (c->rank == 0) {
            out_make_dirs(o->output);
            set_lock(o->output, o->whole);
        }
        if (c->rank == 0 && o->whole) {
            set_prepare(o->output, o->force);
        } else if (c->rank == 0) {
            if (o->force)
                parts_drop_index(o->output);
        }
        comm_barrier(c);
        look_at_member(j);
    }
    if (!j->there && !o->force && set_exists(o->output))
        die("'%s' holds a whole set; --force replaces it", o->output);
}

/* ---- documents to tokens ---- */

/* A document's share is decided by its bytes alone: in every run and part the same, twins stay together. */
static bool wanted(const struct job *j, struct docs *d, struct hash *h)
{
    if (j->o->take == ENCODE_ALL)
        return true;
    const char *p;
    size_t n;
    while ((p = docs_piece(d, &n)))
        hash_add(h, p, n);
    docs_rewind(d);
    return (hash_end(h) < j->below) == (j->o->take == ENCODE_VALID);
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

static void encode_docs(const struct job *j, struct docs *d, struct shard_writer *w, struct encode_counts *k)
{
    struct encoder e = { .docs = d, .stream = token_stream_new(j->o->tokenizer), .w = w };
    struct hash *h = hash_new();
    int64_t bytes;
    progress_begin(&e.bar, 0, docs_input_bytes(d), j->o->log_seconds);
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

/* ---- the job ---- */

static void start_job(struct job *j, const struct encode *o, const struct comm *c)
{
    const struct tokenizer_info *t = tokenizer_info(o->tokenizer);
    *j = (struct job){ .o = o,
                       .part = o->job * c->size + c->rank,
                       .parts = o->jobs * c->size,
                       .below = (uint64_t)ldexp(o->valid_share, 64),
                       .info = { .tokenizer_hash = t->hash, .vocab = t->vocab, .eod = t->eod } };
    memcpy(j->info.tokenizer, t->name, sizeof t->name);
}

/* This rank's member. It is not committed yet, and returned, when it has no documents and it depends on the
 * others' whether there is a set at all. */
static struct shard_writer *make_member(const struct job *j, struct encode_counts *k)
{
    const struct encode *o = j->o;
    struct docs *d = docs_open(j->files, j->n_files, &o->docs, j->part, j->parts);
    struct shard_writer *w = o->dry_run ? NULL : shard_create(j->member, &j->info, o->level, o->force);
    k->made = 1;
    encode_docs(j, d, w, k);
    docs_close(d);
    if (w && (k->docs > 0 || !o->whole)) {
        shard_commit(w, NULL);
        w = NULL;
    }
    return w;
}

void encode_run(const struct encode *o, char **inputs, int n, struct comm *c, struct encode_counts *k)
{
    struct job j;
    struct shard_writer *w = NULL;
    start_job(&j, o, c);
    look_at_inputs(&j, n, inputs, c);
    fingerprint(&j);
    prepare_output(&j, c);
    *k = (struct encode_counts){ 0 };
    if (j.there) {
        k->docs = j.info.n_docs;
        k->tokens = j.info.n_tokens;
        k->bytes = j.info.n_bytes;
        k->kept = 1;
    } else
        w = make_member(&j, k);
    comm_sum_i64(c, (int64_t *)k, sizeof *k / sizeof(int64_t));
    bool nothing = k->docs == 0 && o->whole;
    if (w && nothing)
        shard_abort(w);
    else if (w)
        shard_commit(w, NULL); /* a part without documents, of a set that has some */
    comm_barrier(c);
    if (c->rank == 0 && nothing)
        die("no documents in '%s'%s", inputs[0], n > 1 ? " and the other inputs" : "");
    if (c->rank == 0 && o->whole && !o->dry_run)
        parts_write_index(o->output, j.parts, o->force);
    for (int i = 0; i < n; i++)
        k->input += j.files[i].bytes;
    free(j.member);
    free(j.files);
}
