/* llmc.c - token files of llm.c: a header of 256 int32, then ids
 * SPDX-License-Identifier: MIT
 */
#include "llmc.h"

#include <stdlib.h>

#include "common/base/err.h"
#include "common/base/mem.h"

enum { HEAD_INTS = 256, HEAD = HEAD_INTS * 4 };

static const struct kind {
    int32_t magic, version;
    enum id_type type;
} kinds[] = { { 20240520, 1, ID_U16 }, { 20240801, 7, ID_U32 } };
enum { KINDS = sizeof kinds / sizeof *kinds };

struct llmc {
    struct id_reader *r;
    enum id_type type;
    int64_t tokens;
};

static const struct kind *find_kind(int32_t magic)
{
    for (int i = 0; i < KINDS; i++)
        if (kinds[i].magic == magic)
            return &kinds[i];
    return NULL;
}

bool llmc_looks_like(const char *path)
{
    struct id_reader *r = id_reader_try_open(path);
    int32_t m;
    bool yes = r && id_reader_try_bytes(r, 0, &m, sizeof m) == 0 && find_kind(m);
    id_reader_close(r);
    return yes;
}

static int read_head(struct llmc *f, const char *path)
{
    int32_t head[HEAD_INTS];
    int64_t bytes = id_reader_bytes(f->r);
    if (bytes < HEAD)
        return err_set("'%s' has %lld bytes: it is not a token file of llm.c", path, (long long)bytes);
    if (id_reader_try_bytes(f->r, 0, head, HEAD) < 0)
        return -1;
    const struct kind *k = find_kind(head[0]);
    if (!k)
        return err_set("'%s' is not a token file of llm.c: it begins with %d", path, head[0]);
    if (head[1] != k->version)
        return err_set("'%s' has version %d, this program reads %d", path, head[1], k->version);
    f->type = k->type;
    f->tokens = head[2];
    if (head[2] < 0 || bytes != HEAD + f->tokens * id_type_size(f->type))
        return err_set("'%s' has %lld bytes, which %d ids of type %s do not make", path, (long long)bytes, head[2],
                       id_type_name(f->type));
    return 0;
}

struct llmc *llmc_try_open(const char *path)
{
    struct llmc *f = xcalloc(1, sizeof *f);
    f->r = id_reader_try_open(path);
    if (!f->r || read_head(f, path) < 0) {
        llmc_close(f);
        return NULL;
    }
    return f;
}

void llmc_close(struct llmc *f)
{
    if (!f)
        return;
    id_reader_close(f->r);
    free(f);
}

int64_t llmc_tokens(const struct llmc *f) { return f->tokens; }

int llmc_try_read(struct llmc *f, int64_t from, int64_t n, int64_t vocab, uint32_t *ids)
{
    return id_reader_try_ids(f->r, f->type, HEAD + from * id_type_size(f->type), n, vocab, ids);
}

struct llmc_writer {
    struct id_writer *w;
    const struct kind *kind;
    int64_t tokens;
};

struct llmc_writer *llmc_create(const char *path, enum id_type type, bool force)
{
    struct llmc_writer *w = xcalloc(1, sizeof *w);
    const int32_t head[HEAD_INTS] = { 0 };
    for (int i = 0; i < KINDS; i++)
        if (kinds[i].type == type)
            w->kind = &kinds[i];
    if (!w->kind)
        bug("llm.c has no ids of type %s", id_type_name(type));
    w->w = id_writer_open(path, force);
    id_writer_bytes(w->w, head, sizeof head); /* the counts come at the end */
    return w;
}

void llmc_add(struct llmc_writer *w, const uint32_t *ids, int64_t n)
{
    w->tokens += n;
    if (w->tokens > INT32_MAX)
        bug("%lld ids in a file of llm.c", (long long)w->tokens);
    id_writer_ids(w->w, w->kind->type, ids, n);
}

void llmc_commit(struct llmc_writer *w)
{
    const int32_t head[3] = { w->kind->magic, w->kind->version, (int32_t)w->tokens };
    id_writer_flush(w->w);
    id_writer_put(w->w, 0, head, sizeof head);
    id_writer_commit(w->w);
    free(w);
}
