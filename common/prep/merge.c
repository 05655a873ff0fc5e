/* merge.c - one set of token shards from several
 * SPDX-License-Identifier: MIT
 */
#include "merge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/mem.h"
#include "common/base/out.h"
#include "common/dist/comm.h"
#include "common/io/set.h"
#include "common/io/shard.h"
#include "parts.h"

static struct shards *open_set(const char *dir)
{
    struct shards *s = shards_try_open(dir);
    if (!s)
        die("%s", err_last());
    return s;
}

static void check_alike(const struct shard_info *a, const char *dir_a, const struct shard_info *b, const char *dir_b)
{
    if (strcmp(a->tokenizer, b->tokenizer) != 0 || a->tokenizer_hash != b->tokenizer_hash)
        die("'%s' was made by tokenizer '%s' (%016llx), '%s' by '%s' (%016llx)", dir_a, a->tokenizer,
            (unsigned long long)a->tokenizer_hash, dir_b, b->tokenizer, (unsigned long long)b->tokenizer_hash);
    if (a->vocab != b->vocab || a->eod != b->eod)
        die("'%s' has vocabulary %lld and end token %lld, '%s' has %lld and %lld", dir_a, (long long)a->vocab,
            (long long)a->eod, dir_b, (long long)b->vocab, (long long)b->eod);
    if (!a->seq_len != !b->seq_len)
        die("'%s' is packed and '%s' is not: sets to be merged are of one kind", a->seq_len ? dir_a : dir_b,
            a->seq_len ? dir_b : dir_a);
    if (a->seq_len != b->seq_len)
        die("'%s' has samples of %lld tokens at most, '%s' of %lld", dir_a, (long long)a->seq_len, dir_b,
            (long long)b->seq_len);
}

/* Looks at all sets: what they are together, and how many members they have. */
static int64_t look(const char *output, char **sets, int n, struct shard_info *sum)
{
    struct buf text = { 0 };
    int64_t parts = 0, docs = 0;
    for (int i = 0; i < n; i++) {
        if (path_same(sets[i], output))
            die("'%s' is both input and output", sets[i]);
        struct shards *s = open_set(sets[i]);
        const struct shard_info *info = shards_info(s);
        if (i == 0)
            *sum = *info;
        check_alike(sum, sets[0], info, sets[i]);
        parts += shards_count(s);
        docs += info->n_docs;
        buf_addf(&text, "%016llx %d ", (unsigned long long)shards_hash(s), shards_count(s));
        shards_close(s);
    }
    if (parts > PARTS_MOST)
        die("the sets have %lld files together, more than %d", (long long)parts, PARTS_MOST);
    if (docs == 0)
        die("no documents in '%s'%s", sets[0], n > 1 ? " and the other sets" : "");
    set_format_hash(hash_bytes(text.data, text.len), sum->source);
    buf_free(&text);
    return parts;
}

static void copy_member(const struct shards *s, int i, const char *to, const struct shard_info *sum, bool force,
                        struct merge_counts *k)
{
    const struct set_member *m = shards_member(s, i);
    struct shard_info info;
    if (parts_is_there(to, sum, force, &info)) {
        k->kept++;
    } else {
        char *from = path_join(shards_dir(s), m->name);
        if (set_try_check(shards_dir(s), m, true) < 0)
            die("%s", err_last());
        shard_copy(from, to, sum->source, force, &info);
        k->made++;
        free(from);
    }
    k->docs += info.n_docs;
    k->tokens += info.n_tokens;
    k->bytes += info.n_bytes;
}

void merge_sets(const char *output, char **sets, int n, bool force, struct comm *c, struct merge_counts *k)
{
    struct shard_info sum;
    int64_t parts = look(output, sets, n, &sum), part = 0;
    *k = (struct merge_counts){ 0 };
    if (c->rank == 0) {
        out_make_dirs(output);
        set_lock(output, true);
        set_prepare(output, force);
    }
    comm_barrier(c);
    for (int i = 0; i < n; i++) {
        struct shards *s = open_set(sets[i]);
        for (int m = 0; m < shards_count(s); m++, part++) {
            if (part % c->size != c->rank)
                continue;
            char *name = parts_name(part, parts), *to = path_join(output, name);
            copy_member(s, m, to, &sum, force, k);
            free(name);
            free(to);
        }
        shards_close(s);
    }
    comm_sum_i64(c, (int64_t *)k, sizeof *k / sizeof(int64_t));
    if (c->rank == 0)
        parts_write_index(output, parts, force);
}
