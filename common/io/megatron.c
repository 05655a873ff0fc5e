/* megatron.c - Megatron-LM's indexed datasets (MMapIndexedDataset): PREFIX.bin and PREFIX.idx
 * SPDX-License-Identifier: MIT
 */
#include "megatron.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/out.h"

enum { HEAD = 34, BLOCK = 8192 }; /* bytes; entries of an array that are in memory */
static const char magic[9] = "MMIDIDX\0";

/* Where the arrays of S sequences and D entries stand. */
struct places {
    int64_t lengths, pointers, documents, modes, end;
};

/* False when 63 bits do not hold them. */
static bool find_places(int64_t s, int64_t d, struct places *p)
{
    int64_t bytes;
    p->lengths = HEAD;
    if (s < 0 || d < 0 || __builtin_mul_overflow(s, 4, &bytes) || __builtin_add_overflow(HEAD, bytes, &p->pointers) ||
        __builtin_mul_overflow(s, 8, &bytes) || __builtin_add_overflow(p->pointers, bytes, &p->documents) ||
        __builtin_mul_overflow(d, 8, &bytes) || __builtin_add_overflow(p->documents, bytes, &p->modes) ||
        __builtin_add_overflow(p->modes, s, &p->end))
        return false;
    return true;
}

static char *file_name(const char *prefix, const char *ending) { return xasprintf("%s%s", prefix, ending); }

/* ---- reading ---- */

/* An array of the index, of which a block is in memory. */
struct column {
    int64_t at, n; /* first byte, entries */
    int size;      /* bytes of one */
    int64_t first, have;
    unsigned char block[BLOCK * 8];
};

struct megatron {
    struct id_reader *bin, *idx;
    struct column lengths, pointers, documents, modes;
    struct megatron_info info;
    int64_t next, document; /* the sequence that comes; a document that does not end before it */
};

static int try_entry(struct megatron *m, struct column *c, int64_t i, int64_t *v)
{
    if (i < c->first || i >= c->first + c->have) {
        c->first = i;
        c->have = c->n - i < BLOCK ? c->n - i : BLOCK;
        if (id_reader_try_bytes(m->idx, c->at + i * c->size, c->block, (size_t)(c->have * c->size)) < 0) {
            c->have = 0;
            return -1;
        }
    }
    const unsigned char *p = c->block + (i - c->first) * c->size;
    if (c->size == 8) {
        memcpy(v, p, sizeof *v);
    } else if (c->size == 4) {
        int32_t x;
        memcpy(&x, p, sizeof x);
        *v = x;
    } else
        *v = *p;
    return 0;
}

static void set_column(struct column *c, int64_t at, int64_t n, int size)
{
    c->at = at;
    c->n = n;
    c->size = size;
}

static int read_head(struct megatron *m, struct id_reader *idx)
{
    const char *path = id_reader_path(idx);
    unsigned char head[HEAD];
    uint64_t version, s, d;
    if (id_reader_bytes(idx) < HEAD)
        return err_set("'%s' has %lld bytes: it is not an index of Megatron-LM", path, (long long)id_reader_bytes(idx));
    if (id_reader_try_bytes(idx, 0, head, HEAD) < 0)
        return -1;
    memcpy(&version, head + 9, 8);
    memcpy(&s, head + 18, 8);
    memcpy(&d, head + 26, 8);
    if (memcmp(head, magic, sizeof magic) != 0)
        return err_set("'%s' is not an index of Megatron-LM: it does not begin with MMIDIDX", path);
    if (version != 1)
        return err_set("'%s' has version %llu, this program reads 1", path, (unsigned long long)version);
    if (head[17] < ID_U8 || head[17] > ID_U16)
        return err_set("'%s': there is no type of ids %d", path, head[17]);
    m->info.type = (enum id_type)head[17];
    if (id_type_range(m->info.type) == 0)
        return err_set("'%s' holds %s, not ids", path, id_type_name(m->info.type));
    struct places p;
    if (d < 1)
        return err_set("'%s' has no document indices, not even the 0 in front", path);
    if (s > INT64_MAX || d > INT64_MAX || !find_places((int64_t)s, (int64_t)d, &p) ||
        (id_reader_bytes(idx) != p.modes && id_reader_bytes(idx) != p.end))
        return err_set("'%s' has %lld bytes, which %llu sequences and %llu document indices do not make", path,
                       (long long)id_reader_bytes(idx), (unsigned long long)s, (unsigned long long)d);
    m->info.sequences = (int64_t)s;
    m->info.documents = (int64_t)d - 1;
    m->info.modes = s > 0 && id_reader_bytes(idx) == p.end;
    set_column(&m->lengths, p.lengths, (int64_t)s, 4);
    set_column(&m->pointers, p.pointers, (int64_t)s, 8);
    set_column(&m->documents, p.documents, (int64_t)d, 8);
    set_column(&m->modes, p.modes, m->info.modes ? (int64_t)s : 0, 1);
    return 0;
}

static int check_sequences(struct megatron *m, const char *path)
{
    const int64_t size = id_type_size(m->info.type), bytes = id_reader_bytes(m->bin);
    int64_t end = 0, length, at, mode = 0;
    for (int64_t i = 0; i < m->info.sequences; i++) {
        if (try_entry(m, &m->lengths, i, &length) < 0 || try_entry(m, &m->pointers, i, &at) < 0 ||
            (m->info.modes && try_entry(m, &m->modes, i, &mode) < 0))
            return -1;
        if (length < 0)
            return err_set("'%s': sequence %lld has %lld tokens", path, (long long)i, (long long)length);
        if (at < end)
            return err_set("'%s': sequence %lld begins at byte %lld, before the end of the one before it, %lld",
                           path, (long long)i, (long long)at, (long long)end);
        if (at > bytes || length * size > bytes - at)
            return err_set("'%s': sequence %lld, %lld bytes at %lld, does not lie in '%s' of %lld bytes", path,
                           (long long)i, (long long)(length * size), (long long)at, id_reader_path(m->bin),
                           (long long)bytes);
        if (mode != 0)
            return err_set("'%s': sequence %lld has mode %lld: multimodal data are not for us", path, (long long)i,
                           (long long)mode);
        end = at + length * size;
        m->info.tokens += length;
    }
    m->info.unused = bytes - m->info.tokens * size;
    return 0;
}

static int check_documents(struct megatron *m, const char *path)
{
    int64_t before = 0, v;
    for (int64_t i = 0; i <= m->info.documents; i++) {
        if (try_entry(m, &m->documents, i, &v) < 0)
            return -1;
        if (v < before || v > m->info.sequences || (i == 0 && v != 0))
            return err_set("'%s': document index %lld is %lld after %lld, of %lld sequences", path, (long long)i,
                           (long long)v, (long long)before, (long long)m->info.sequences);
        before = v;
    }
    if (before != m->info.sequences)
        return err_set("'%s': the documents end at sequence %lld of %lld", path, (long long)before,
                       (long long)m->info.sequences);
    return 0;
}

struct megatron *megatron_try_open(const char *prefix)
{
    struct megatron *m = xcalloc(1, sizeof *m);
    char *bin = file_name(prefix, ".bin"), *path = file_name(prefix, ".idx");
    m->idx = id_reader_try_open(path);
    int rc = m->idx ? read_head(m, m->idx) : -1;
    if (rc == 0) {
        m->bin = id_reader_try_open(bin);
        rc = m->bin ? 0 : -1;
    }
    if (rc == 0 && (check_sequences(m, path) < 0 || check_documents(m, path) < 0))
        rc = -1;
    free(bin);
    free(path);
    if (rc < 0) {
        megatron_close(m);
        return NULL;
    }
    return m;
}

void megatron_close(struct megatron *m)
{
    if (!m)
        return;
    id_reader_close(m->bin);
    id_reader_close(m->idx);
    free(m);
}

const struct megatron_info *megatron_info(const struct megatron *m) { return &m->info; }

int megatron_try_next(struct megatron *m, struct megatron_sequence *s)
{
    int64_t end;
    if (m->next == m->info.sequences)
        return 0;
    for (;; m->document++) { /* documents without sequences are passed over */
        if (m->document == m->info.documents)
            return err_set("the index has changed");
        if (try_entry(m, &m->documents, m->document + 1, &end) < 0)
            return -1;
        if (end > m->next)
            break;
    }
    if (try_entry(m, &m->lengths, m->next, &s->tokens) < 0 || try_entry(m, &m->pointers, m->next, &s->at) < 0)
        return -1;
    if (s->tokens < 0)
        return err_set("the index has changed");
    s->document = m->document;
    s->last = ++m->next == end;
    return 1;
}

void megatron_rewind(struct megatron *m) { m->next = m->document = 0; }

int megatron_try_read(struct megatron *m, const struct megatron_sequence *s, int64_t from, int64_t n,
                      int64_t vocab, uint32_t *ids)
{
    if (from < 0 || n < 0 || from > s->tokens || n > s->tokens - from)
        bug("%lld tokens at %lld of a sequence of %lld", (long long)n, (long long)from, (long long)s->tokens);
    return id_reader_try_ids(m->bin, m->info.type, s->at + from * id_type_size(m->info.type), n, vocab, ids);
}

/* ---- writing ---- */

/* An array of the index that is being written: its block goes to a place of its own. */
struct column_out {
    int64_t at;
    int size;
    int64_t n; /* in the block */
    unsigned char block[BLOCK * 8];
};

struct megatron_writer {
    char *prefix;
    struct id_writer *bin, *idx;
    enum id_type type;
    struct places places;
    struct column_out lengths, pointers, documents;
    int64_t wanted, done; /* documents */
    int64_t tokens, begin; /* in all; before this document */
};

static void flush_column(struct megatron_writer *w, struct column_out *c)
{
    id_writer_put(w->idx, c->at, c->block, (size_t)(c->n * c->size));
    c->at += c->n * c->size;
    c->n = 0;
}

static void put_entry(struct megatron_writer *w, struct column_out *c, int64_t v)
{
    memcpy(c->block + c->n * c->size, &v, (size_t)c->size); /* little endian: the low bytes come first */
    if (++c->n == BLOCK)
        flush_column(w, c);
}

struct megatron_writer *megatron_create(const char *prefix, enum id_type type, int64_t documents, bool force)
{
    struct megatron_writer *w = xcalloc(1, sizeof *w);
    char *bin = file_name(prefix, ".bin"), *idx = file_name(prefix, ".idx");
    unsigned char head[HEAD] = { 0 };
    const uint64_t version = 1, s = (uint64_t)documents, d = s + 1;
    if (id_type_range(type) == 0 || type == ID_U32)
        bug("Megatron-LM has no ids of type %s", id_type_name(type));
    if (documents == INT64_MAX || !find_places(documents, documents + 1, &w->places))
        die("'%s' cannot hold %lld documents", idx, (long long)documents);
    w->prefix = xstrdup(prefix);
    w->type = type;
    w->wanted = documents;
    w->idx = id_writer_open(idx, force);
    w->bin = id_writer_open(bin, force);
    memcpy(head, magic, sizeof magic);
    memcpy(head + 9, &version, 8);
    head[17] = (unsigned char)type;
    memcpy(head + 18, &s, 8);
    memcpy(head + 26, &d, 8);
    id_writer_put(w->idx, 0, head, HEAD);
    w->lengths.at = w->places.lengths;
    w->lengths.size = 4;
    w->pointers.at = w->places.pointers;
    w->pointers.size = 8;
    w->documents.at = w->places.documents;
    w->documents.size = 8;
    put_entry(w, &w->documents, 0);
    free(bin);
    free(idx);
    return w;
}

void megatron_add(struct megatron_writer *w, const uint32_t *ids, int64_t n)
{
    id_writer_ids(w->bin, w->type, ids, n);
    w->tokens += n;
}

void megatron_end_doc(struct megatron_writer *w)
{
    int64_t n = w->tokens - w->begin;
    if (w->done == w->wanted)
        bug("a document more than the %lld of '%s.idx'", (long long)w->wanted, w->prefix);
    if (n > INT32_MAX)
        die("document %lld has %lld tokens; a sequence of Megatron-LM holds %d", (long long)w->done, (long long)n,
            INT32_MAX);
    put_entry(w, &w->lengths, n);
    put_entry(w, &w->pointers, w->begin * id_type_size(w->type));
    put_entry(w, &w->documents, ++w->done);
    w->begin = w->tokens;
}

static void release_writer(struct megatron_writer *w)
{
    free(w->prefix);
    free(w);
}

void megatron_commit(struct megatron_writer *w)
{
    if (w->done != w->wanted || w->begin != w->tokens)
        bug("%lld of %lld documents of '%s'", (long long)w->done, (long long)w->wanted, w->prefix);
    flush_column(w, &w->lengths);
    flush_column(w, &w->pointers);
    flush_column(w, &w->documents);
    char *idx = file_name(w->prefix, ".idx");
    if (unlink(idx) < 0 && errno != ENOENT)
        die_errno("cannot remove '%s'", idx);
    id_writer_commit(w->bin); /* syncs the folder, and so makes the old index go first */
    id_writer_commit(w->idx);
    free(idx);
    release_writer(w);
}

void megatron_abort(struct megatron_writer *w)
{
    id_writer_abort(w->bin);
    id_writer_abort(w->idx);
    release_writer(w);
}
