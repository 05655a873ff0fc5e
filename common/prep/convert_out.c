/* convert_out.c - a set of shards to token files of other programs
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/out.h"
#include "common/io/llmc.h"
#include "common/io/megatron.h"
#include "convert.h"
#include "inspect.h"

/* ---- Megatron-LM ---- */

struct to_megatron {
    struct megatron_writer *w;
    bool drop_eod;
    int64_t tokens;
};

static void put_megatron(void *arg, const uint32_t *ids, size_t n, bool last)
{
    struct to_megatron *t = arg;
    int64_t k = (int64_t)n - (last && t->drop_eod);
    megatron_add(t->w, ids, k);
    t->tokens += k;
    if (last)
        megatron_end_doc(t->w);
}

/* As preprocess_data.py of Megatron-LM chooses: u16 while the vocabulary is below 65500, then i32. */
static enum id_type megatron_type(int64_t vocab)
{
    return vocab < 65500 ? ID_U16 : vocab <= id_type_range(ID_I32) ? ID_I32 : ID_I64;
}

static int64_t export_megatron(struct shards *s, const struct convert_export *o, enum id_type type)
{
    struct to_megatron t = { .drop_eod = o->drop_eod };
    t.w = megatron_create(o->prefix, type, shards_info(s)->n_docs, o->force);
    inspect_walk(s, -1, put_megatron, &t);
    megatron_commit(t.w);
    return t.tokens;
}

/* ---- llm.c ---- */

struct to_llmc {
    const struct convert_export *o;
    enum id_type type;
    struct llmc_writer *w; /* NULL: the next token begins a file */
    int64_t left;          /* tokens that still fit */
    int64_t files, tokens;
    uint32_t eod;
    bool inside; /* a document has begun */
};

static char *llmc_name(const char *prefix, int64_t i) { return xasprintf("%s_%06lld.bin", prefix, (long long)i); }

static void put_ids(struct to_llmc *t, const uint32_t *ids, int64_t n)
{
    t->tokens += n;
    while (n > 0) {
        if (!t->w) {
            char *name = llmc_name(t->o->prefix, t->files++);
            t->w = llmc_create(name, t->type, t->o->force);
            t->left = t->o->file_tokens;
            free(name);
        }
        int64_t k = n < t->left ? n : t->left;
        llmc_add(t->w, ids, k);
        ids += k;
        n -= k;
        t->left -= k;
        if (t->left == 0) {
            llmc_commit(t->w);
            t->w = NULL;
        }
    }
}

static void put_llmc(void *arg, const uint32_t *ids, size_t n, bool last)
{
    struct to_llmc *t = arg;
    if (!t->inside)
        put_ids(t, &t->eod, 1);
    put_ids(t, ids, (int64_t)n - last);
    t->inside = !last;
}

/* Files of an older, longer export, which a loader would take for ours. */
static void drop_others(const struct to_llmc *t)
{
    for (int64_t i = t->files;; i++) {
        char *name = llmc_name(t->o->prefix, i);
        bool there = path_exists(name);
        if (there && !t->o->force)
            die("'%s' exists, of another export; --force removes it", name);
        if (there && unlink(name) < 0)
            die_errno("cannot remove '%s'", name);
        free(name);
        if (!there)
            return;
    }
}

static int64_t export_llmc(struct shards *s, const struct convert_export *o, enum id_type type)
{
    const struct shard_info *info = shards_info(s);
    struct to_llmc t = { .o = o, .type = type, .eod = (uint32_t)info->eod };
    if (!o->force) { /* before the work */
        t.files = (info->n_tokens + o->file_tokens - 1) / o->file_tokens;
        drop_others(&t);
        t.files = 0;
    }
    inspect_walk(s, -1, put_llmc, &t);
    if (t.w)
        llmc_commit(t.w);
    drop_others(&t);
    return t.tokens;
}

int64_t convert_export(struct shards *s, const struct convert_export *o)
{
    const struct shard_info *info = shards_info(s);
    const bool llmc = o->format == CONVERT_LLMC;
    enum id_type type = o->type ? o->type : llmc ? (info->vocab <= id_type_range(ID_U16) ? ID_U16 : ID_U32)
                                                 : megatron_type(info->vocab);
    if (info->n_docs == 0)
        die("no documents in '%s'", shards_dir(s));
    if (llmc ? type != ID_U16 && type != ID_U32 : type == ID_U32)
        die_usage("%s has no ids of type %s", llmc ? "llm.c" : "Megatron-LM", id_type_name(type));
    if (id_type_range(type) < info->vocab)
        die_usage("ids of type %s do not hold the vocabulary of %lld", id_type_name(type), (long long)info->vocab);
    return llmc ? export_llmc(s, o, type) : export_megatron(s, o, type);
}
