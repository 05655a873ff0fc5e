/* shard_write.c - shard files, and the index over them
 * SPDX-License-Identifier: MIT
 */
#include "shard_private.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/out.h"

struct shard_writer {
    struct out *out;
    struct h5 *file;
    struct h5_chunks *tokens, *masks; /* masks: NULL when not packed */
    struct shard_info info;
    size_t token_size;
    void *chunk;   /* SHARD_CHUNK tokens */
    uint8_t *mask; /* and their mask */
    int64_t fill;  /* tokens in it */
    uint64_t *ends, *sample_ends;
    size_t n_ends, cap_ends, n_sample_ends, cap_sample_ends;
    int64_t doc_begin, sample_begin;
    struct shard_hashes hash; /* of the tokens, and their mask, so far */
};

struct shard_writer *shard_create(const char *path, const struct shard_info *info, int level, bool force)
{
    if (!shard_vocab_fits(info))
        bug("shard with a vocabulary of %lld tokens, end token %lld", (long long)info->vocab,
            (long long)info->eod);
    struct shard_writer *w = xcalloc(1, sizeof *w);
    w->out = out_open(path, force);
    w->file = h5_create(out_temp(w->out), path);
    w->info = *info;
    w->info.n_tokens = w->info.n_docs = w->info.n_bytes = w->info.n_replaced = 0;
    w->info.n_samples = w->info.n_targets = 0;
    w->token_size = h5_type_size(shard_token_type(info->vocab));
    w->tokens = h5_make_chunks(w->file, "/tokens", shard_token_type(info->vocab), SHARD_CHUNK, level);
    w->chunk = xmalloc(SHARD_CHUNK * w->token_size);
    if (!info->seq_len)
        return w;
    if (info->seq_len < 0 || info->seq_len > SHARD_LONGEST)
        bug("samples of %lld tokens", (long long)info->seq_len);
    w->masks = h5_make_chunks(w->file, "/loss_mask", H5_U8, SHARD_CHUNK, level);
    w->mask = xmalloc(SHARD_CHUNK);
    return w;
}

static void flush_chunk(struct shard_writer *w)
{
    if (!w->fill)
        return;
    w->hash.tokens = shard_mix(w->hash.tokens, w->chunk, (size_t)w->fill * w->token_size);
    h5_put_chunk(w->tokens, w->chunk, w->fill);
    if (w->masks) {
        w->hash.mask = shard_mix(w->hash.mask, w->mask, (size_t)w->fill);
        h5_put_chunk(w->masks, w->mask, w->fill);
    }
    w->fill = 0;
}

/* Appends tokens that fit into the chunk, and their mask (NULL: not packed). */
static void fill_chunk(struct shard_writer *w, const uint32_t *tokens, const uint8_t *mask, int64_t n)
{
    uint32_t max = 0;
    for (int64_t j = 0; j < n; j++)
        max = tokens[j] > max ? tokens[j] : max;
    if ((int64_t)max >= w->info.vocab)
        bug("token %u in a vocabulary of %lld", max, (long long)w->info.vocab);
    if (w->token_size == 2) {
        uint16_t *to = (uint16_t *)w->chunk + w->fill;
        for (int64_t j = 0; j < n; j++)
            to[j] = (uint16_t)tokens[j];
    } else {
        memcpy((uint32_t *)w->chunk + w->fill, tokens, (size_t)n * sizeof *tokens);
    }
    for (int64_t j = 0; mask && j < n; j++) {
        if (mask[j] > 1)
            bug("a mask of %d", mask[j]);
        w->mask[w->fill + j] = mask[j];
        w->info.n_targets += mask[j];
    }
    w->fill += n;
    w->info.n_tokens += n;
}

static void add(struct shard_writer *w, const uint32_t *tokens, const uint8_t *mask, int64_t n)
{
    if (!mask != !w->masks)
        bug("shard '%s': tokens %s a mask", out_temp(w->out), mask ? "with" : "without");
    while (n > 0) {
        int64_t k = min64(n, SHARD_CHUNK - w->fill);
        fill_chunk(w, tokens, mask, k);
        if (w->fill == SHARD_CHUNK)
            flush_chunk(w);
        tokens += k;
        mask += mask ? k : 0;
        n -= k;
    }
}

void shard_add(struct shard_writer *w, const uint32_t *tokens, int64_t n) { add(w, tokens, NULL, n); }

static void end_doc(struct shard_writer *w, int64_t n_bytes)
{
    uint64_t *end = grow(&w->ends, &w->n_ends, &w->cap_ends, sizeof *w->ends);
    *end = (uint64_t)w->info.n_tokens;
    w->doc_begin = w->info.n_tokens;
    w->info.n_docs++;
    w->info.n_bytes += n_bytes;
}

void shard_end_doc(struct shard_writer *w, int64_t n_bytes)
{
    shard_add(w, &(uint32_t){ (uint32_t)w->info.eod }, 1);
    end_doc(w, n_bytes);
}

void shard_add_doc(struct shard_writer *w, const uint32_t *tokens, const uint8_t *mask, int64_t n, int64_t n_bytes)
{
    if (n < 1 || tokens[n - 1] != (uint32_t)w->info.eod || n > w->info.seq_len - (w->info.n_tokens - w->sample_begin))
        bug("shard '%s': a document of %lld tokens after %lld in a sample of %lld", out_temp(w->out), (long long)n,
            (long long)(w->info.n_tokens - w->sample_begin), (long long)w->info.seq_len);
    add(w, tokens, mask, n);
    end_doc(w, n_bytes);
}

void shard_end_sample(struct shard_writer *w)
{
    if (w->sample_begin == w->info.n_tokens)
        bug("shard '%s': a sample without documents", out_temp(w->out));
    *(uint64_t *)grow(&w->sample_ends, &w->n_sample_ends, &w->cap_sample_ends, sizeof(uint64_t)) =
        (uint64_t)w->info.n_tokens;
    w->sample_begin = w->info.n_tokens;
    w->info.n_samples++;
}

void shard_add_replaced(struct shard_writer *w, int64_t n) { w->info.n_replaced += n; }

static void release_writer(struct shard_writer *w)
{
    free(w->chunk);
    free(w->mask);
    free(w->ends);
    free(w->sample_ends);
    free(w);
}

/* Writes them; returns their hash. */
static uint64_t put_ends(struct shard_writer *w, const char *name, const uint64_t *ends, int64_t n)
{
    uint64_t hash = 0;
    struct h5_data *d = h5_make_data(w->file, name, H5_U64, 1, &n);
    for (int64_t i = 0; i < n; i += SHARD_ENDS_BLOCK) {
        int64_t k = min64(n - i, SHARD_ENDS_BLOCK);
        h5_write(d, &i, &k, ends + i);
        hash = shard_mix(hash, ends + i, (size_t)k * sizeof *ends);
    }
    h5_end_data(d);
    return hash;
}

/* All that a shard file says of itself. */
static void put_words(struct h5 *file, const struct shard_info *info, const char *content)
{
    h5_put_str(file, "/", "content", content);
    h5_put_str(file, "/", "kind", SHARD_KIND_FILE);
    h5_put_int(file, "/", "format", shard_format(info));
    shard_put_info(file, info);
    char *history = meter_history();
    h5_put_str(file, "/", "history", history);
    free(history);
}

void shard_commit(struct shard_writer *w, struct shard_info *info)
{
    if (w->doc_begin != w->info.n_tokens)
        bug("shard '%s' ends inside a document", out_temp(w->out));
    if (w->masks && w->sample_begin != w->info.n_tokens)
        bug("shard '%s' ends inside a sample", out_temp(w->out));
    flush_chunk(w);
    h5_end_chunks(w->tokens);
    h5_end_chunks(w->masks);
    w->hash.docs = put_ends(w, "/doc_end", w->ends, w->info.n_docs);
    if (w->masks)
        w->hash.samples = put_ends(w, "/sample_end", w->sample_ends, w->info.n_samples);
    char content[17];
    set_format_hash(shard_content_hash(&w->info, &w->hash), content);
    put_words(w->file, &w->info, content);
    h5_finish(w->file);
    out_commit(w->out);
    if (info)
        *info = w->info;
    release_writer(w);
}

void shard_abort(struct shard_writer *w)
{
    h5_end_chunks(w->tokens);
    h5_end_chunks(w->masks);
    h5_drop(w->file);
    out_abort(w->out);
    release_writer(w);
}

/* ---- the same again, for another set ---- */

static void copy_ends(struct shard_member *m, const char *name, enum shard_ends which, int64_t n, struct h5 *file)
{
    uint64_t *block = xmalloc(SHARD_ENDS_BLOCK * sizeof *block);
    struct h5_data *d = h5_make_data(file, name, H5_U64, 1, &n);
    for (int64_t i = 0; i < n; i += SHARD_ENDS_BLOCK) {
        int64_t k = min64(n - i, SHARD_ENDS_BLOCK);
        if (h5_try_pread(m->file, m->ends_at[which] + i * 8, block, (size_t)k * sizeof *block) < 0)
            die("%s", err_last());
        h5_write(d, &i, &k, block);
    }
    h5_end_data(d);
    free(block);
}

static void copy_chunks(struct h5_chunks *from, const char *name, enum h5_type type, int64_t n, struct h5 *file)
{
    struct h5_chunks *to = h5_make_chunks(file, name, type, SHARD_CHUNK, 1); /* nothing is compressed */
    for (int64_t i = 0; i * SHARD_CHUNK < n; i++)
        if (h5_try_copy_chunk(from, i, to) < 0)
            die("%s", err_last());
    h5_end_chunks(to);
}

void shard_copy(const char *from, const char *to, const char *source, bool force, struct shard_info *info)
{
    struct shard_member m;
    struct shard_part p;
    char content[17];
    if (shard_open_member(from, &m, info, &p) < 0)
        die("%s", err_last());
    snprintf(info->source, sizeof info->source, "%s", source);
    set_format_hash(p.content, content);
    struct out *out = out_open(to, force);
    struct h5 *file = h5_create(out_temp(out), to);
    copy_chunks(m.tokens, "/tokens", shard_token_type(info->vocab), info->n_tokens, file);
    if (m.mask)
        copy_chunks(m.mask, "/loss_mask", H5_U8, info->n_tokens, file);
    copy_ends(&m, "/doc_end", SHARD_DOCS, info->n_docs, file);
    if (m.mask)
        copy_ends(&m, "/sample_end", SHARD_SAMPLES, info->n_samples, file);
    put_words(file, info, content);
    h5_finish(file);
    out_commit(out);
    shard_close_member(&m);
}

/* ---- the index ---- */

/* A value a token: the members' on end. */
static void put_virtual(struct h5 *index, const char *name, enum h5_type type, const struct shard_info *sum,
                        const struct set_member *members, const struct shard_part *parts, int n)
{
    struct h5_source *src = xcalloc((size_t)n, sizeof *src);
    int64_t at = 0;
    int used = 0;
    for (int i = 0; i < n; i++) {
        if (!parts[i].n_tokens)
            continue;
        src[used].file = members[i].name;
        src[used].dataset = name;
        src[used].offset[0] = at;
        src[used++].count[0] = parts[i].n_tokens;
        at += parts[i].n_tokens;
    }
    if (used)
        h5_put_virtual(index, name, type, 1, &sum->n_tokens, src, used);
    free(src);
}

static void put_parts(struct h5 *index, const struct shard_info *sum, const struct shard_part *parts, int n)
{
    if (sum->seq_len) {
        h5_put_table(index, "/parts", shard_part_columns, SHARD_PART_COLUMNS, parts, n);
        return;
    }
    char *rows = xcalloc((size_t)n, SHARD_PLAIN_ROW);
    for (int i = 0; i < n; i++)
        memcpy(rows + (size_t)i * SHARD_PLAIN_ROW, &parts[i], SHARD_PLAIN_ROW);
    h5_put_table(index, "/parts", shard_part_columns, SHARD_PLAIN_COLUMNS, rows, n);
    free(rows);
}

/* Opens, checks and describes member i, and adds it to the sum. */
static void index_member(const char *dir, const char *name, int i, struct shard_info *sum,
                         struct set_member *m, struct shard_part *p)
{
    char *path = path_join(dir, name);
    struct shard_info info;
    struct shard_member open;
    if (strchr(name, '/'))
        die("'%s' is not the name of a file in '%s'", name, dir);
    if (shard_open_member(path, &open, &info, p) < 0)
        die("%s", err_last());
    shard_close_member(&open);
    if (i == 0) {
        *sum = info;
        sum->n_tokens = sum->n_docs = sum->n_bytes = sum->n_replaced = sum->n_samples = sum->n_targets = 0;
    }
    if (shard_try_alike(path, sum, &info) < 0 || shard_try_add_counts(sum, p) < 0)
        die("%s", err_last());
    sum->n_replaced += info.n_replaced;
    set_describe(dir, name, m);
    free(path);
}

void shards_write_index(const char *dir, const char *const *names, int n, bool force)
{
    if (n < 1)
        die("no shards for the index of '%s'", dir);
    struct set_member *members = xcalloc((size_t)n, sizeof *members);
    struct shard_part *parts = xcalloc((size_t)n, sizeof *parts);
    struct shard_info sum = { 0 };
    for (int i = 0; i < n; i++)
        index_member(dir, names[i], i, &sum, &members[i], &parts[i]);
    if (set_try_members(dir, members, n) < 0)
        die("%s", err_last());
    char *path = set_index_path(dir);
    struct out *o = out_open(path, force);
    struct h5 *index = h5_create(out_temp(o), path);
    char *history = meter_history();
    set_put_head(index, SHARD_KIND_SET, shard_format(&sum), history, members, n);
    free(history);
    shard_put_info(index, &sum);
    put_parts(index, &sum, parts, n);
    put_virtual(index, "/tokens", shard_token_type(sum.vocab), &sum, members, parts, n);
    if (sum.seq_len)
        put_virtual(index, "/loss_mask", H5_U8, &sum, members, parts, n);
    h5_finish(index);
    out_commit(o);
    free(path);
    free(members);
    free(parts);
}
