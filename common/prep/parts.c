/* parts.c - the numbered members of a set of shards: their names, and the index over them
 * SPDX-License-Identifier: MIT
 */
#include "parts.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/out.h"
#include "common/io/shard.h"

char *parts_name(int64_t part, int64_t parts)
{
    return xasprintf("part-%05lld-of-%05lld.h5", (long long)part, (long long)parts);
}

bool parts_parse(const char *name, int64_t *part, int64_t *parts)
{
    long long i, n;
    if (sscanf(name, "part-%lld-of-%lld.h5", &i, &n) != 2 || i < 0 || n < 1 || i >= n || n > PARTS_MOST)
        return false;
    char *same = parts_name(i, n);
    bool yes = strcmp(same, name) == 0;
    free(same);
    *part = i;
    *parts = n;
    return yes;
}

bool parts_is_there(const char *path, const struct shard_info *want, bool force, struct shard_info *have)
{
    if (force || !path_exists(path))
        return false;
    if (shard_try_info(path, have) < 0)
        die("'%s' exists and is not a shard (%s); --force replaces it", path, err_last());
    if (strcmp(have->source, want->source) != 0 || have->tokenizer_hash != want->tokenizer_hash)
        die("'%s' exists, made from other inputs or options; --force replaces it", path);
    return true;
}

static char **all_names(int64_t parts)
{
    char **names = xcalloc((size_t)parts, sizeof *names);
    for (int64_t i = 0; i < parts; i++)
        names[i] = parts_name(i, parts);
    return names;
}

static void free_names(char **names, int64_t parts)
{
    for (int64_t i = 0; i < parts; i++)
        free(names[i]);
    free(names);
}

void parts_write_index(const char *dir, int64_t parts, bool force)
{
    char **names = all_names(parts);
    shards_write_index(dir, (const char *const *)names, (int)parts, force);
    free_names(names, parts);
}

/* How many members `dir` holds; dies when some are missing or two sets lie there. */
static int64_t count_members(const char *dir)
{
    bool *there = NULL;
    int64_t part, parts, count = 0, found = 0;
    DIR *d = opendir(dir);
    if (!d)
        die_errno("cannot open the folder '%s'", dir);
    struct dirent *e;
    while ((errno = 0, e = readdir(d))) {
        if (!parts_parse(e->d_name, &part, &parts))
            continue;
        if (count && parts != count)
            die("'%s' holds files of %lld and of %lld parts; remove those that are not meant", dir,
                (long long)count, (long long)parts);
        if (!count)
            there = xcalloc((size_t)parts, sizeof *there);
        count = parts;
        there[part] = true;
        found++;
    }
    if (errno)
        die_errno("cannot read the folder '%s'", dir);
    closedir(d);
    if (!found)
        die("no part-*-of-*.h5 in '%s'", dir);
    for (int64_t i = 0; i < count; i++)
        if (!there[i])
            die("%lld of %lld parts are missing in '%s', the first is part %lld of %lld",
                (long long)(count - found), (long long)count, dir, (long long)(i + 1), (long long)count);
    free(there);
    return count;
}

void parts_join(const char *dir, bool force)
{
    int64_t docs = 0, tokens = 0, bytes = 0;
    if (set_exists(dir) && !force)
        die("'%s' holds a whole set; --force replaces its index", dir);
    int64_t n = count_members(dir);
    char **names = all_names(n);
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
    shards_write_index(dir, (const char *const *)names, (int)n, force);
    note(1, "%lld parts, %lld documents, %lld tokens, %lld bytes", (long long)n, (long long)docs,
         (long long)tokens, (long long)bytes);
    free_names(names, n);
}

void parts_drop_index(const char *dir)
{
    char *index = set_index_path(dir);
    if (unlink(index) < 0 && errno != ENOENT)
        die_errno("cannot remove '%s'", index);
    out_sync_dir(dir);
    free(index);
}
