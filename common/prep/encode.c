/* encode.c - documents of text files, or conversations, to one set of token shards, by many jobs, ranks and threads
 * SPDX-License-Identifier: MIT
 */
#include "encode.h"

#include <pthread.h>
#include <signal.h>
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
#include "common/text/ids.h"
#include "common/text/stream.h"
#include "common/text/tokenizer.h"
#include "clean.h"
#include "parts.h"

enum { TEXT_BLOCK = 64 << 10 };

struct member {
    char *path;
    bool there; /* already */
    bool empty; /* has no documents, and is not written yet: are there any in the others? */
    struct shard_info info;
};

struct job {
    const struct encode *o;
    struct docs_file *files;
    int n_files;
    int64_t parts; /* of the set */
    int64_t first; /* of this rank */
    struct member *member;
    int64_t n_members;
    struct shard_info info;
    uint64_t below; /* hashes below are valid documents */
    enum utf8_policy utf8;

    /* The threads' */
    pthread_mutex_t lock;
    int64_t next; /* member that nobody has taken yet */
    struct encode_counts *k;
    int64_t done; /* input bytes behind all threads */
    struct progress bar;
};

/* ---- what is asked for, and what is there ---- */

static int by_node(const void *a, const void *b)
{
    const struct docs_file *x = *(const struct docs_file *const *)a, *y = *(const struct docs_file *const *)b;
    if (x->node != y->node)
        return x->node < y->node ? -1 : 1;
    if (x->device != y->device)
        return x->device < y->device ? -1 : 1;
    return x < y ? -1 : x > y;
}

/* One file under two names, or one name twice: it may be meant (twice the weight), so it is said and done. */
static void tell_duplicates(const struct job *j)
{
    int twice = 0;
    const struct docs_file **sorted = xcalloc((size_t)j->n_files, sizeof *sorted), *a = NULL, *b = NULL;
    for (int i = 0; i < j->n_files; i++)
        sorted[i] = &j->files[i];
    qsort(sorted, (size_t)j->n_files, sizeof *sorted, by_node);
    for (int i = 1; i < j->n_files; i++) {
        const struct docs_file *x = sorted[i - 1], *y = sorted[i];
        if (x->node != y->node || x->device != y->device)
            continue;
        twice++;
        if (!a || x < a) {
            a = x;
            b = y;
        }
    }
    if (twice && a->is_stdin)
        die("the standard input is named twice");
    if (twice && strcmp(a->path, b->path) == 0)
        warn("'%s' is named more than once, and its documents are taken as often%s", a->path,
             twice > 1 ? "; so are others" : "");
    else if (twice)
        warn("'%s' and '%s' are one file, and its documents are taken as often%s", a->path, b->path,
             twice > 1 ? "; so are others" : "");
    free(sorted);
}

/* What cannot be cut may leave ranks idle. */
static void tell_idle(const struct job *j)
{
    int64_t packed = 0, plain = 0;
    for (int i = 0; i < j->n_files; i++) {
        packed += j->files[i].pack != STREAM_PLAIN;
        plain += j->files[i].pack == STREAM_PLAIN;
    }
    if (packed && !plain && packed < j->parts)
        note(1, "%lld packed files and %lld parts: a packed file is read as a whole, some parts stay empty",
             (long long)packed, (long long)j->parts);
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
        if (is_output(paths[i], j->o->output))
            die("'%s' is both input and output", paths[i]);
        docs_look(paths[i], j->o->unpack, &j->files[i]);
        if (j->o->docs.id_key && !docs_is_jsonl(&j->files[i], &j->o->docs))
            die("'%s' is text and has no ids (--id-key)", paths[i]);
        if (j->files[i].is_stdin && j->parts > 1)
            die("the standard input is for one part; there are %lld", (long long)j->parts);
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
    if (c->rank == 0) {
        tell_duplicates(j);
        tell_idle(j);
    }
}

/* All that decides what is in the members, hashed: two jobs with the same value make the same set. */
static void fingerprint(struct job *j)
{
    struct buf b = { 0 };
    buf_add(&b, j->o->settings, j->o->n_settings);
    buf_addf(&b, "%016llx", (unsigned long long)j->info.tokenizer_hash);
    if (j->o->take_ids)
        buf_addf(&b, "take %016llx", (unsigned long long)ids_hash(j->o->take_ids));
    if (j->o->drop_ids)
        buf_addf(&b, "drop %016llx", (unsigned long long)ids_hash(j->o->drop_ids));
    for (int i = 0; i < j->n_files; i++) {
        buf_addf(&b, "%lld %lld %s", (long long)j->files[i].bytes, (long long)j->files[i].mtime,
                 j->files[i].path);
        buf_add(&b, "", 1);
    }
    set_format_hash(hash_bytes(b.data, b.len), j->info.source);
    buf_free(&b);
}

/* Sets m->there when the member is whole and made from the same. Dies when it is something else. */
static void look_at_member(struct job *j, struct member *m)
{
    if (!parts_is_there(m->path, &j->info, j->o->force, &m->info))
        return;
    for (int i = 0; i < j->n_files; i++)
        if (j->files[i].is_stdin)
            die("'%s' exists, made from a standard input; --force replaces it", m->path);
    m->there = true;
}

static void prepare_output(struct job *j, struct comm *c)
{
    const struct encode *o = j->o;
    bool all_there = true;
    for (int64_t i = 0; i < j->n_members; i++) {
        char *name = parts_name(j->first + i, j->parts);
        j->member[i].path = path_join(o->output, name);
        free(name);
    }
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
        for (int64_t i = 0; i < j->n_members; i++)
            look_at_member(j, &j->member[i]);
    }
    for (int64_t i = 0; i < j->n_members; i++)
        all_there = all_there && j->member[i].there;
    if (!all_there && !o->force && set_exists(o->output))
        die("'%s' holds a whole set; --force replaces it", o->output);
}

/* ---- documents to tokens ---- */

struct encoder {
    struct job *job;
    struct docs *docs;
    int64_t told; /* of its input bytes, to the job */
    struct clean text;
    struct token_stream *stream;
    struct token_ids ids;
    struct shard_writer *w; /* NULL: a dry run */
    struct packer *packer;  /* NULL: documents */
    struct buf line;
};

static bool listed(const struct encode *o, const char *id, size_t n)
{
    return (!o->take_ids || ids_has(o->take_ids, id, n)) && !(o->drop_ids && ids_has(o->drop_ids, id, n));
}

/* Whether the document is one of ours; counts it when not. */
static bool wanted(struct encoder *e, int64_t bytes, struct encode_counts *k)
{
    const struct encode *o = e->job->o;
    size_t n;
    const char *id = docs_id(e->docs, &n);
    if (id && !listed(o, id, n)) {
        k->dropped++;
        return false;
    }
    if (o->docs.skip_bad && !clean_passes(&e->text)) {
        docs_count_bad(e->docs, bytes);
        return false;
    }
    if (o->take == ENCODE_ALL || (clean_hash(&e->text) < e->job->below) == (o->take == ENCODE_VALID))
        return true;
    k->other++;
    return false;
}

static void show_progress(struct encoder *e)
{
    struct job *j = e->job;
    char text[64];
    int64_t now = docs_input_done(e->docs);
    pthread_mutex_lock(&j->lock);
    j->done += now - e->told;
    e->told = now;
    snprintf(text, sizeof text, "%.1f MB/s a rank",
             1e-6 * (double)j->done / (now_seconds() - j->bar.start + 1e-9));
    if (j->done < j->bar.total || j->bar.drawn) /* the counts that follow tell the end */
        progress_at(&j->bar, j->done, text);
    pthread_mutex_unlock(&j->lock);
}

static int64_t add_ids(struct encoder *e)
{
    int64_t n = (int64_t)e->ids.n;
    if (e->w && n)
        shard_add(e->w, e->ids.id, n);
    e->ids.n = 0;
    return n;
}

/* Returns the number of tokens without the end token. *bytes: that were encoded. */
static int64_t encode_doc(struct encoder *e, int64_t *bytes)
{
    const char *p;
    size_t n;
    int64_t tokens = 0;
    *bytes = 0;
    while (clean_piece(&e->text, &p, &n)) {
        *bytes += (int64_t)n;
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

static void add_document(struct encoder *e, struct encode_counts *k)
{
    int64_t bytes, before = e->text.utf8.replaced;
    k->docs++;
    k->tokens += encode_doc(e, &bytes) + 1;
    k->bytes += bytes;
    int64_t replaced = docs_replaced(e->docs) + e->text.utf8.replaced - before;
    k->replaced += replaced;
    if (e->w) {
        shard_end_doc(e->w, bytes);
        shard_add_replaced(e->w, replaced);
    }
}

static void add_conversation(struct encoder *e, int64_t bytes, struct encode_counts *k)
{
    const char *p;
    size_t n;
    buf_clear(&e->line);
    while ((p = docs_piece(e->docs, &n)))
        buf_add(&e->line, p, n);
    int added = packer_try_add(e->packer, e->line.data, e->line.len);
    if (added < 0) {
        char *why = xstrdup(err_last());
        if (!e->job->o->docs.skip_bad)
            die("%s: %s", docs_where(e->docs, 0), why);
        note(2, "skipped %s: %s", docs_where(e->docs, 0), why);
        docs_count_bad(e->docs, bytes);
        free(why);
    }
    if (added > 0) {
        k->replaced += docs_replaced(e->docs);
        if (e->w)
            shard_add_replaced(e->w, docs_replaced(e->docs));
    }
}

static void end_packing(struct encoder *e, struct encode_counts *k)
{
    struct pack_counts p;
    packer_end(e->packer, &p);
    k->docs = p.docs;
    k->tokens = p.tokens;
    k->bytes = p.bytes;
    k->samples = p.samples;
    k->targets = p.targets;
    k->too_long = p.too_long;
    k->shortened = p.shortened;
    k->no_target = p.no_target;
}

static void encode_docs(struct job *j, struct docs *d, struct shard_writer *w, struct encode_counts *k)
{
    struct encoder e = { .job = j, .docs = d, .stream = token_stream_new(j->o->tokenizer), .w = w };
    int64_t bytes, seen = 0;
    clean_begin(&e.text, d, j->utf8);
    if (j->o->pack)
        e.packer = packer_new(j->o->pack, j->o->tokenizer, w);
    while (docs_next(d, &bytes)) {
        if (wanted(&e, bytes, k)) {
            if (e.packer)
                add_conversation(&e, bytes, k);
            else
                add_document(&e, k);
        }
        if (++seen % 1024 == 0)
            show_progress(&e);
    }
    show_progress(&e);
    if (e.packer)
        end_packing(&e, k);
    k->empty = docs_counts(d)->empty;
    k->bad = docs_counts(d)->bad;
    clean_end(&e.text);
    buf_free(&e.line);
    token_ids_free(&e.ids);
    token_stream_free(e.stream);
}

/* ---- the job ---- */

static void start_job(struct job *j, const struct encode *o, const struct comm *c)
{
    const struct tokenizer_info *t = tokenizer_info(o->tokenizer);
    if (t->needs_utf8 && o->utf8 == UTF8_KEEP)
        die_usage("tokenizer '%s' takes UTF-8 only: --utf8 reject or replace", t->name);
    *j = (struct job){ .o = o,
                       .utf8 = o->utf8 != UTF8_AUTO ? o->utf8
                               : t->needs_utf8      ? UTF8_REJECT
                                                    : UTF8_KEEP,
                       .below = clean_below(o->valid_share),
                       .info = { .tokenizer_hash = t->hash, .vocab = t->vocab, .eod = t->eod } };
    memcpy(j->info.tokenizer, t->name, sizeof t->name);
    j->info.seq_len = o->pack ? o->pack->seq_len : 0;
    int64_t ranks = o->jobs * c->size, rank = o->job * c->size + c->rank;
    j->parts = o->shards ? o->shards : ranks * o->threads;
    j->first = j->parts * rank / ranks;
    j->n_members = j->parts * (rank + 1) / ranks - j->first;
    j->member = xcalloc((size_t)j->n_members, sizeof *j->member);
    pthread_mutex_init(&j->lock, NULL);
}

static void add_counts(struct encode_counts *to, const struct encode_counts *k)
{
    for (size_t i = 0; i < sizeof *k / sizeof(int64_t); i++)
        ((int64_t *)to)[i] += ((const int64_t *)k)[i];
}

static void write_empty(const struct job *j, const struct member *m)
{
    shard_commit(shard_create(m->path, &j->info, j->o->level, j->o->force), NULL);
}

static struct docs *open_docs(const struct job *j, int64_t i)
{
    struct docs_options options = j->o->docs;
    options.mend = j->utf8 == UTF8_REPLACE;
    return docs_open(j->files, j->n_files, &options, j->first + i, j->parts);
}

static void make_member(struct job *j, int64_t i, struct encode_counts *k)
{
    const struct encode *o = j->o;
    struct member *m = &j->member[i];
    struct docs *d = open_docs(j, i);
    struct shard_writer *w = o->dry_run ? NULL : shard_create(m->path, &j->info, o->level, o->force);
    k->made = 1;
    encode_docs(j, d, w, k);
    docs_close(d);
    m->empty = k->docs == 0 && w;
    if (m->empty)
        shard_abort(w);
    else if (w)
        shard_commit(w, NULL);
}

/* One thread: takes member after member. */
static void *make_members(void *arg)
{
    struct job *j = arg;
    for (;;) {
        struct encode_counts k = { 0 };
        pthread_mutex_lock(&j->lock);
        int64_t i = j->next++;
        pthread_mutex_unlock(&j->lock);
        if (i >= j->n_members)
            return NULL;
        const struct member *m = &j->member[i];
        if (m->there)
            k = (struct encode_counts){ .docs = m->info.n_docs, .tokens = m->info.n_tokens,
                                        .bytes = m->info.n_bytes, .replaced = m->info.n_replaced, .samples = m->info.n_samples,
                                        .targets = m->info.n_targets, .kept = 1 };
        else
            make_member(j, i, &k);
        pthread_mutex_lock(&j->lock);
        add_counts(j->k, &k);
        pthread_mutex_unlock(&j->lock);
    }
}

/* All members of this rank; those without documents are left to the caller. */
static void make_all(struct job *j, struct encode_counts *k)
{
    const struct encode *o = j->o;
    int n = o->threads < j->n_members ? o->threads : (int)j->n_members;
    pthread_t *thread = xcalloc((size_t)n + 1, sizeof *thread);
    double input = 0, share = 0; /* shares are even, but for packed files */
    for (int i = 0; i < j->n_files; i++)
        input += (double)j->files[i].bytes;
    for (int64_t i = 0; i < j->n_members; i++)
        share += !j->member[i].there / (double)j->parts;
    *k = (struct encode_counts){ 0 };
    j->k = k;
    progress_begin(&j->bar, 0, (int64_t)(input * share), o->log_seconds);
    j->bar.last_draw = j->bar.start; /* a short job says nothing on its way */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old); /* signals are this thread's */
    for (int t = 1; t < n; t++)
        if (pthread_create(&thread[t], NULL, make_members, j) != 0)
            die_errno("cannot start thread %d of %d", t + 1, n);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    make_members(j);
    for (int t = 1; t < n; t++)
        pthread_join(thread[t], NULL);
    progress_end(&j->bar);
    free(thread);
}

void encode_run(const struct encode *o, char **inputs, int n, struct comm *c, struct encode_counts *k)
{
    struct job j;
    start_job(&j, o, c);
    look_at_inputs(&j, n, inputs, c);
    fingerprint(&j);
    prepare_output(&j, c);
    make_all(&j, k);
    comm_sum_i64(c, (int64_t *)k, sizeof *k / sizeof(int64_t));
    bool nothing = k->docs == 0 && o->whole;
    for (int64_t i = 0; i < j.n_members; i++)
        if (j.member[i].empty && !nothing)
            write_empty(&j, &j.member[i]);
    comm_barrier(c);
    if (c->rank == 0 && nothing)
        die("no %s in '%s'%s", o->pack ? "conversations to train on" : "documents", inputs[0],
            n > 1 ? " and the other inputs" : "");
    if (c->rank == 0 && o->whole && !o->dry_run)
        parts_write_index(o->output, j.parts, o->force);
    for (int i = 0; i < n; i++)
        k->input += j.files[i].is_stdin ? k->bytes : j.files[i].bytes;
    for (int64_t i = 0; i < j.n_members; i++)
        free(j.member[i].path);
    free(j.member);
    free(j.files);
}
