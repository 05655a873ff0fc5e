/* convert.c - token files of other programs to a set of shards
 * SPDX-License-Identifier: MIT
 *
 * The way back is convert_out.c.
 */
#include "convert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/out.h"
#include "common/dist/comm.h"
#include "common/io/llmc.h"
#include "common/io/megatron.h"
#include "common/io/set.h"
#include "common/text/tokenizer.h"
#include "parts.h"

enum { BLOCK = 64 << 10 }; /* tokens */

/* ---- documents to members: a document goes to the member in whose share of the tokens it begins ---- */

struct sink {
    const struct convert_import *o;
    const struct comm *c;
    struct convert_counts *k;
    struct shard_info info;
    int64_t total, share, parts; /* tokens of all inputs; of a member */
    int64_t part;                /* the member that documents go to; -1: none yet */
    struct shard_writer *w;      /* NULL: it is another rank's, or there already */
    struct token_stream *stream;
    struct buf text;
    int64_t doc_bytes;
    uint32_t last; /* token of the document, held back: it may be the end token */
    bool held;
    struct progress bar;
};

static void next_part(struct sink *s)
{
    if (s->w)
        shard_commit(s->w, NULL);
    s->w = NULL;
    if (++s->part >= s->parts || s->part % s->c->size != s->c->rank)
        return;
    char *name = parts_name(s->part, s->parts), *path = path_join(s->o->output, name);
    struct shard_info have;
    if (parts_is_there(path, &s->info, s->o->force, &have)) {
        s->k->kept++;
        s->k->docs += have.n_docs;
        s->k->tokens += have.n_tokens;
        s->k->bytes += have.n_bytes;
    } else {
        s->w = shard_create(path, &s->info, s->o->level, s->o->force);
        s->k->made++;
    }
    free(name);
    free(path);
}

static void begin_doc(struct sink *s, int64_t at)
{
    int64_t part = at / s->share < s->parts ? at / s->share : s->parts - 1;
    while (s->part < part)
        next_part(s);
    s->held = false;
    s->doc_bytes = 0;
}

static void put_tokens(struct sink *s, const uint32_t *ids, int64_t n, bool last)
{
    if (n > 0)
        shard_add(s->w, ids, n);
    s->k->tokens += n;
    if (!s->stream)
        return;
    buf_clear(&s->text);
    if (tokenizer_try_decode(s->stream, ids, (size_t)n, last, &s->text) < 0)
        die("%s", err_last());
    s->doc_bytes += (int64_t)s->text.len;
}

static void add_tokens(struct sink *s, const uint32_t *ids, int64_t n)
{
    if (!s->w || n == 0)
        return;
    if (s->held)
        put_tokens(s, &s->last, 1, false);
    put_tokens(s, ids, n - 1, false);
    s->last = ids[n - 1];
    s->held = true;
}

static void end_doc(struct sink *s, const char *input, int64_t doc)
{
    if (!s->w)
        return;
    if (!s->held) {
        s->k->empty++;
        return;
    }
    bool there = (int64_t)s->last == s->info.eod;
    if (!there && !s->o->append_eod)
        die("document %lld of '%s' ends with %u, not with the end token %lld; --append-eod adds it", (long long)doc,
            input, s->last, (long long)s->info.eod);
    put_tokens(s, &s->last, there ? 0 : 1, true);
    shard_end_doc(s->w, s->doc_bytes);
    s->k->added += !there;
    s->k->docs++;
    s->k->tokens++;
    s->k->bytes += s->doc_bytes;
}

static void show(struct sink *s, int64_t at)
{
    char text[64];
    snprintf(text, sizeof text, "%.1f Mtok/s", 1e-6 * (double)at / (now_seconds() - s->bar.start + 1e-9));
    if (at < s->total || s->bar.drawn) /* the counts that follow tell the end */
        progress_at(&s->bar, at, text);
}

/* ---- Megatron-LM ---- */

/* Reads documents that begin at token *at of all inputs. */
static void take_megatron(struct sink *s, const char *prefix, int64_t *at, uint32_t *ids)
{
    struct megatron *m = megatron_try_open(prefix);
    struct megatron_sequence q;
    bool fresh = true;
    int more;
    int64_t docs = 0; /* that ended */
    if (!m)
        die("%s", err_last());
    while ((more = megatron_try_next(m, &q)) > 0) {
        if (fresh)
            begin_doc(s, *at);
        for (int64_t from = 0, n; s->w && from < q.tokens; from += n) {
            n = q.tokens - from < BLOCK ? q.tokens - from : BLOCK;
            if (megatron_try_read(m, &q, from, n, s->info.vocab, ids) < 0)
                die("%s", err_last());
            add_tokens(s, ids, n);
            if (n == BLOCK || s->k->docs % 1024 == 1023)
                show(s, *at + from + n);
        }
        *at += q.tokens;
        fresh = q.last || s->o->sequences;
        if (fresh)
            end_doc(s, prefix, s->o->sequences ? docs : q.document);
        docs += fresh;
    }
    if (more < 0)
        die("'%s': %s", prefix, err_last());
    if (!s->o->sequences && s->c->rank == 0)
        s->k->empty += megatron_info(m)->documents - docs; /* without sequences */
    megatron_close(m);
}

/* Tokens of the pair; says what is odd about it. */
static int64_t look_at_megatron(const char *prefix)
{
    struct megatron *m = megatron_try_open(prefix);
    if (!m)
        die("%s", err_last());
    const struct megatron_info *i = megatron_info(m);
    int64_t tokens = i->tokens;
    if (i->modes)
        note(1, "'%s.idx' has modes, all 0: left out", prefix);
    if (i->unused)
        note(1, "'%s.bin': %lld bytes belong to no sequence", prefix, (long long)i->unused);
    if (i->sequences != i->documents)
        note(1, "'%s': %lld sequences in %lld documents", prefix, (long long)i->sequences, (long long)i->documents);
    megatron_close(m);
    return tokens;
}

/* ---- llm.c: one stream over all files ---- */

struct stream {
    bool begun, leads, open; /* leads: the end token stands in front of documents */
};

static void take_block(struct sink *s, struct stream *st, int64_t at, const uint32_t *ids, int64_t n)
{
    int64_t i = 0;
    if (!st->begun) {
        st->begun = true;
        st->leads = (int64_t)ids[0] == s->info.eod;
        i = st->leads;
    }
    while (i < n) {
        int64_t to = i;
        while (to < n && (int64_t)ids[to] != s->info.eod)
            to++;
        bool ends = to < n;
        if (!st->open)
            begin_doc(s, at + i);
        add_tokens(s, ids + i, to - i + ends);
        if (ends)
            end_doc(s, "", 0);
        st->open = !ends;
        i = to + ends;
    }
}

static void take_llmc(struct sink *s, const char *path, struct stream *st, int64_t *at, uint32_t *ids)
{
    struct llmc *f = llmc_try_open(path);
    if (!f)
        die("%s", err_last());
    for (int64_t from = 0, n, all = llmc_tokens(f); from < all; from += n) {
        n = all - from < BLOCK ? all - from : BLOCK;
        if (llmc_try_read(f, from, n, s->info.vocab, ids) < 0)
            die("%s", err_last());
        take_block(s, st, *at, ids, n);
        *at += n;
        show(s, *at);
    }
    llmc_close(f);
}

static void end_stream(struct sink *s, const struct stream *st, int64_t at)
{
    const uint32_t eod = (uint32_t)s->info.eod;
    if (!st->open && !st->leads)
        return;
    if (!st->open)
        begin_doc(s, at);
    add_tokens(s, &eod, 1);
    end_doc(s, "", 0);
    if (!st->leads) {
        s->k->added += s->w != NULL;
        note(1, "the last document had no end token: added");
    }
}

static int64_t look_at_llmc(const char *path)
{
    struct llmc *f = llmc_try_open(path);
    if (!f)
        die("%s", err_last());
    int64_t tokens = llmc_tokens(f);
    llmc_close(f);
    return tokens;
}

/* ---- the import ---- */

/* Without .bin or .idx at its end; free it. */
static char *bare(const char *name)
{
    size_t n = strlen(name);
    bool has = n > 4 && (strcmp(name + n - 4, ".bin") == 0 || strcmp(name + n - 4, ".idx") == 0);
    return xasprintf("%.*s", (int)(has ? n - 4 : n), name);
}

static enum convert_format find_format(enum convert_format f, const char *input)
{
    char *stem = bare(input), *idx = xasprintf("%s.idx", stem);
    if (f == CONVERT_AUTO && path_exists(idx))
        f = CONVERT_MEGATRON;
    else if (f == CONVERT_AUTO && llmc_looks_like(input))
        f = CONVERT_LLMC;
    else if (f == CONVERT_AUTO)
        die("'%s' is no token file that is known: there is no '%s', and it does not begin as those of llm.c do", input,
            idx);
    free(stem);
    free(idx);
    return f;
}

static void name_file(struct buf *b, const char *path)
{
    struct stat st = { 0 };
    if (stat(path, &st) < 0)
        die_errno("cannot open '%s'", path);
    buf_addf(b, "%s", path);
    buf_add(b, "", 1);
    buf_addf(b, "%lld %lld.%09ld ", (long long)st.st_size, (long long)st.st_mtime, (long)st.st_mtim.tv_nsec);
}

/* All that decides what is in the members, hashed; the same on all ranks. */
static void fingerprint(struct sink *s, enum convert_format format, char **names, int n, struct comm *c)
{
    struct buf b = { 0 };
    buf_addf(&b, "%d %d %d %lld %lld %lld %016llx ", (int)format, s->o->append_eod, s->o->sequences,
             (long long)s->share, (long long)s->info.vocab, (long long)s->info.eod,
             (unsigned long long)s->info.tokenizer_hash);
    for (int i = 0; i < n; i++) {
        char *idx = xasprintf("%s.idx", names[i]), *bin = xasprintf("%s.bin", names[i]);
        if (format == CONVERT_MEGATRON)
            name_file(&b, idx);
        name_file(&b, format == CONVERT_MEGATRON ? bin : names[i]);
        free(idx);
        free(bin);
    }
    int64_t h = (int64_t)(hash_bytes(b.data, b.len) >> 1), most = comm_max_i64(c, h), least = -comm_max_i64(c, -h);
    if (most != least)
        die("the inputs are not the same on all ranks");
    set_format_hash((uint64_t)h, s->info.source);
    buf_free(&b);
}

static void set_shares(struct sink *s, int ranks)
{
    int64_t share = s->o->part_tokens;
    if (!share) {
        share = s->total / ranks + 1;
        share = share < CONVERT_PART ? share : CONVERT_PART;
    }
    s->share = share;
    s->parts = (s->total - 1) / share + 1;
    if (s->parts > PARTS_MOST)
        die("%lld tokens in parts of %lld are more than %d files", (long long)s->total, (long long)share, PARTS_MOST);
}

void convert_import(const struct convert_import *o, char **inputs, int n, struct comm *c, struct convert_counts *k)
{
    struct sink s = { .o = o, .c = c, .k = k, .info = o->info, .part = -1 };
    enum convert_format format = find_format(o->format, inputs[0]);
    char **names = xcalloc((size_t)n, sizeof *names);
    int64_t at = 0;
    for (int i = 0; i < n; i++) {
        if (find_format(o->format, inputs[i]) != format)
            die("'%s' and '%s' are of different formats", inputs[0], inputs[i]);
        names[i] = format == CONVERT_MEGATRON ? bare(inputs[i]) : xstrdup(inputs[i]);
        int64_t more = format == CONVERT_MEGATRON ? look_at_megatron(names[i]) : look_at_llmc(names[i]);
        if (__builtin_add_overflow(s.total, more, &s.total))
            die("the inputs have more tokens than 63 bits count");
    }
    if (s.total == 0)
        die("no tokens in '%s'%s", inputs[0], n > 1 ? " and the other inputs" : "");
    *k = (struct convert_counts){ 0 };
    set_shares(&s, c->size);
    fingerprint(&s, format, names, n, c);
    if (c->rank == 0) {
        out_make_dirs(o->output);
        set_lock(o->output, true);
        set_prepare(o->output, o->force);
    }
    comm_barrier(c);
    uint32_t *ids = xmalloc(BLOCK * sizeof *ids);
    struct stream st = { 0 };
    s.stream = o->tokenizer ? token_stream_new(o->tokenizer) : NULL;
    progress_begin(&s.bar, 0, s.total, o->log_seconds);
    s.bar.last_draw = s.bar.start;
    for (int i = 0; i < n; i++)
        if (format == CONVERT_MEGATRON)
            take_megatron(&s, names[i], &at, ids);
        else
            take_llmc(&s, names[i], &st, &at, ids);
    if (format == CONVERT_LLMC)
        end_stream(&s, &st, at);
    while (s.part < s.parts)
        next_part(&s); /* the rest hold nothing */
    progress_end(&s.bar);
    comm_sum_i64(c, (int64_t *)k, sizeof *k / sizeof(int64_t));
    if (c->rank == 0)
        parts_write_index(o->output, s.parts, o->force);
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
    free(ids);
    buf_free(&s.text);
    token_stream_free(s.stream);
}
