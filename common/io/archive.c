/* archive.c - the tensors of other people's models, whatever files they are in
 * SPDX-License-Identifier: MIT
 */
#include "archive.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/base/out.h"
#include "safetensors.h"
#include "torchzip.h"

enum { MAX_FILES = 10000, MAX_INDEX = 100 << 20 };

struct file {
    char *path;
    int fd;
};

struct archive {
    enum archive_kind kind;
    char *dir;
    struct file *files;
    size_t n_files, cap_files;
    struct foreign_list list; /* sorted */
};

/* ---- opening ---- */

/* Opens a file as the next one of the archive and reads what is in it. */
static int try_file(struct archive *a, const char *path)
{
    struct stat st;
    char head[4] = { 0 };
    /* O_NONBLOCK: a pipe of that name must not stop us. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_set("cannot open '%s': %s", path, strerror(errno));
    int file = (int)a->n_files;
    struct file *f = grow(&a->files, &a->n_files, &a->cap_files, sizeof *a->files);
    f->path = xstrdup(path);
    f->fd = fd;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return err_set("%s: not a plain file", path);
    if (st.st_size < 4)
        return err_set("%s: %lld bytes are too few for a model", path, (long long)st.st_size);
    if (foreign_try_pread(path, fd, 0, head, 4) < 0)
        return -1;
    size_t n = strlen(path);
    bool named = n > 12 && strcmp(path + n - 12, ".safetensors") == 0;
    if (!named && memcmp(head, "PK\3\4", 4) == 0) {
        a->kind = ARCHIVE_TORCH;
        return torchzip_try_read(path, fd, st.st_size, file, &a->list);
    }
    if (!named && head[0] == '\x80' && head[1] >= 2 && head[1] <= 5)
        return err_set("%s: in the format before torch 1.6; load and save it again with a newer torch", path);
    a->kind = ARCHIVE_SAFETENSORS;
    if (!named) {
        char brace = 0;
        if (st.st_size < 9 || foreign_try_pread(path, fd, 8, &brace, 1) < 0 || brace != '{')
            return err_set("%s: neither a safetensors file nor a zip file of torch.save()", path);
    }
    return safetensors_try_header(path, fd, st.st_size, file, &a->list);
}

static char *dir_of(const char *path)
{
    const char *base = path_base(path);
    if (base == path)
        return xstrdup(".");
    return xasprintf("%.*s", base - path > 1 ? (int)(base - path - 1) : 1, path);
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* The files of a weight_map, each once, sorted. */
static int try_shard_names(const char *path, const struct json *map, const char ***names, size_t *n)
{
    const char *tensor, *shard;
    const struct json *value;
    size_t m = 0, kept = 0;
    const char **all = xcalloc(json_count(map) + 1, sizeof *all);
    for (const void *it = json_next(map, NULL, &tensor, &value); it;
         it = json_next(map, it, &tensor, &value)) {
        if (json_try_str_of(value, tensor, &shard) < 0) {
            free(all);
            return err_set("%s: %s", path, err_last());
        }
        if (foreign_try_name(shard, strlen(shard)) < 0 || strchr(shard, '/') || shard[0] == '.') {
            free(all);
            return err_set("%s: '%s' is in the shard '%s'; shards are files in the folder of the index", path,
                           tensor, shard);
        }
        all[m++] = shard;
    }
    qsort(all, m, sizeof *all, by_text);
    for (size_t i = 0; i < m; i++)
        if (kept == 0 || strcmp(all[kept - 1], all[i]) != 0)
            all[kept++] = all[i];
    *names = all;
    *n = kept;
    if (kept == 0 || kept > MAX_FILES) {
        free(all);
        return err_set("%s: %zu shards; 1 to %d are allowed", path, kept, MAX_FILES);
    }
    return 0;
}

/* The map says what is where: both must name the same tensors, in the same shards. */
static int try_index(struct archive *a, const char *path)
{
    const char **names = NULL, *tensor, *shard;
    const struct json *map, *value;
    size_t n = 0;
    int bad = -1;
    struct json *root = json_try_file(path, MAX_INDEX);
    if (!root)
        return -1;
    if (json_try_map(root, "weight_map", &map) != 1) {
        err_set("%s: %s", path, err_last());
        goto out;
    }
    if (try_shard_names(path, map, &names, &n) < 0)
        goto out;
    for (size_t i = 0; i < n; i++) {
        char *file = path_join(a->dir, names[i]);
        size_t values = a->list.nv;
        int failed = try_file(a, file);
        free(file);
        if (failed)
            goto out_names;
        if (i > 0) /* they say the same of themselves (__metadata__.format): the first is heard */
            foreign_drop_values(&a->list, values);
    }
    for (size_t i = 0; i < a->list.n; i++) {
        const struct foreign_tensor *t = &a->list.t[i];
        const char *file = path_base(a->files[t->file].path);
        const struct json *at = json_at(map, t->name);
        if (!at || json_try_str_of(at, t->name, &shard) < 0) {
            err_set("%s: tensor '%s' of %s is not in the weight_map", path, t->name, file);
            goto out_names;
        }
        if (strcmp(shard, file) != 0) {
            err_set("%s: tensor '%s' is in %s, by the weight_map in %s", path, t->name, file, shard);
            goto out_names;
        }
    }
    if (foreign_try_sort(&a->list) < 0) {
        err_set("%s: %s", path, err_last());
        goto out_names;
    }
    for (const void *it = json_next(map, NULL, &tensor, &value); it; it = json_next(map, it, &tensor, &value))
        if (!foreign_find(&a->list, tensor)) {
            err_set("%s: tensor '%s' is not in %s", path, tensor,
                    json_try_str_of(value, tensor, &shard) < 0 ? "its shard" : shard);
            goto out_names;
        }
    bad = 0;
out_names:
    free(names);
out:
    json_free(root);
    return bad;
}

/* Parts of tensor or pipeline parallel ranks would have to be put together. */
static int try_one_rank(const char *dir)
{
    DIR *d = opendir(dir);
    int bad = 0;
    if (!d)
        return err_set("cannot open '%s': %s", dir, strerror(errno));
    for (struct dirent *e; !bad && (e = readdir(d));)
        if (strncmp(e->d_name, "mp_rank_", 8) == 0 && strcmp(e->d_name, "mp_rank_00") != 0)
            bad = err_set("%s: has '%s': a model in the parts of several ranks is not read; merge it to one "
                          "tensor-parallel and one pipeline-parallel rank with Megatron-LM first",
                          dir, e->d_name);
    closedir(d);
    return bad;
}

static int try_megatron_iteration(struct archive *a, const char *dir)
{
    if (try_one_rank(dir) < 0)
        return -1;
    char *path = xasprintf("%s/mp_rank_00/model_optim_rng.pt", dir);
    int bad = try_file(a, path);
    free(path);
    a->kind = ARCHIVE_MEGATRON;
    return bad;
}

/* The file holds "release" or the number of an iteration. */
static int try_megatron(struct archive *a, const char *tracker)
{
    char text[33] = "", *end;
    int fd = open(tracker, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    int e = errno;
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return err_set("cannot read '%s': %s", tracker, strerror(e));
    text[strcspn(text, " \r\n")] = 0;
    long iteration = strtol(text, &end, 10);
    char *dir;
    if (strcmp(text, "release") == 0)
        dir = path_join(a->dir, "release");
    else if (text[0] >= '0' && text[0] <= '9' && !*end && strlen(text) < 10)
        dir = xasprintf("%s/iter_%07ld", a->dir, iteration);
    else
        return err_set("%s: '%s' is neither 'release' nor the number of an iteration", tracker, text);
    int bad = try_megatron_iteration(a, dir);
    free(dir);
    return bad;
}

/* What a folder may hold, in order; a pair is one model whole and in shards. */
static int try_dir(struct archive *a)
{
    static const char *const pairs[][2] = { { "model.safetensors", "model.safetensors.index.json" },
                                            { "pytorch_model.bin", "pytorch_model.bin.index.json" } };
    for (int i = 0; i < 2; i++) {
        char *whole = path_join(a->dir, pairs[i][0]), *index = path_join(a->dir, pairs[i][1]);
        int state = path_exists(whole) + 2 * path_exists(index), bad = 0;
        if (state == 3)
            bad = err_set("%s: holds both %s and %s; name one of them", a->dir, pairs[i][0], pairs[i][1]);
        else if (state)
            bad = state == 1 ? try_file(a, whole) : try_index(a, index);
        free(whole);
        free(index);
        if (state)
            return bad;
    }
    char *tracker = path_join(a->dir, "latest_checkpointed_iteration.txt");
    char *rank = path_join(a->dir, "mp_rank_00");
    int bad;
    if (path_exists(tracker))
        bad = try_megatron(a, tracker);
    else if (path_exists(rank))
        bad = try_megatron_iteration(a, a->dir);
    else
        bad = err_set("%s: holds no model.safetensors, no pytorch_model.bin, no index of one of them, and no "
                      "latest_checkpointed_iteration.txt",
                      a->dir);
    free(tracker);
    free(rank);
    return bad;
}

struct archive *archive_try_open(const char *path)
{
    struct archive *a = xcalloc(1, sizeof *a);
    size_t n = strlen(path);
    int bad;
    if (path_is_dir(path)) {
        a->dir = xstrdup(path);
        bad = try_dir(a);
    } else {
        a->dir = dir_of(path);
        bad = n > 11 && strcmp(path + n - 11, ".index.json") == 0 ? try_index(a, path) : try_file(a, path);
    }
    if (!bad && foreign_try_sort(&a->list) < 0)
        bad = err_set("%s: %s", path, err_last());
    if (bad) {
        archive_close(a);
        return NULL;
    }
    return a;
}

void archive_close(struct archive *a)
{
    if (!a)
        return;
    for (size_t i = 0; i < a->n_files; i++) {
        close(a->files[i].fd);
        free(a->files[i].path);
    }
    free(a->files);
    foreign_free(&a->list);
    free(a->dir);
    free(a);
}

enum archive_kind archive_kind(const struct archive *a) { return a->kind; }
const char *archive_dir(const struct archive *a) { return a->dir; }
int archive_files(const struct archive *a) { return (int)a->n_files; }
const char *archive_file(const struct archive *a, int i) { return a->files[i].path; }

/* ---- tensors ---- */

int64_t archive_tensors(const struct archive *a) { return (int64_t)a->list.n; }
const struct foreign_tensor *archive_tensor(const struct archive *a, int64_t i) { return &a->list.t[i]; }
const struct foreign_tensor *archive_find(const struct archive *a, const char *name)
{
    return foreign_find(&a->list, name);
}

static int try_range(const struct archive *a, const struct foreign_tensor *t, int64_t first, int64_t n)
{
    if (first < 0 || n < 0 || first > t->elements || n > t->elements - first)
        return err_set("%s: tensor '%s' has %lld elements, not %lld from %lld on", a->files[t->file].path,
                       t->name, (long long)t->elements, (long long)n, (long long)first);
    return 0;
}

int archive_try_read_bytes(const struct archive *a, const struct foreign_tensor *t, int64_t first, int64_t n,
                           void *out)
{
    const struct file *f = &a->files[t->file];
    int size = foreign_dtype_size(t->dtype);
    if (try_range(a, t, first, n) < 0)
        return -1;
    return foreign_try_pread(f->path, f->fd, t->offset + first * size, out, (size_t)(n * size));
}

int archive_try_read_f32(const struct archive *a, const struct foreign_tensor *t, int64_t first, int64_t n,
                         float *out)
{
    char block[32768];
    int64_t most = (int64_t)sizeof block / foreign_dtype_size(t->dtype);
    if (try_range(a, t, first, n) < 0)
        return -1;
    if (t->dtype == FOREIGN_F32) /* as it is */
        return archive_try_read_bytes(a, t, first, n, out);
    if (foreign_try_unpack(t->dtype, NULL, 0, NULL) < 0)
        return err_set("%s: tensor '%s': %s", a->files[t->file].path, t->name, err_last());
    for (int64_t i = 0, m; i < n; i += m) {
        m = n - i < most ? n - i : most;
        if (archive_try_read_bytes(a, t, first + i, m, block) < 0 ||
            foreign_try_unpack(t->dtype, block, m, out + i) < 0)
            return -1;
    }
    return 0;
}

/* ---- values ---- */

const struct foreign_value *archive_find_value(const struct archive *a, const char *name)
{
    return foreign_find_value(&a->list, name);
}

static const struct foreign_value *present(const struct archive *a, const char *name)
{
    const struct foreign_value *v = archive_find_value(a, name);
    if (v && v->kind != FOREIGN_NONE)
        return v;
    err_set("%s: '%s' is missing", a->files[0].path, name);
    return NULL;
}

static int wrong(const struct archive *a, const struct foreign_value *v, const char *wanted)
{
    char text[80] = "None";
    if (v->kind == FOREIGN_TRUTH)
        snprintf(text, sizeof text, "%s", v->i ? "True" : "False");
    else if (v->kind == FOREIGN_INT)
        snprintf(text, sizeof text, "%" PRId64, v->i);
    else if (v->kind == FOREIGN_REAL)
        snprintf(text, sizeof text, "%g", v->r);
    else if (v->kind == FOREIGN_STR)
        snprintf(text, sizeof text, "'%.60s'", v->s);
    return err_set("%s: '%s' is %s, not %s", a->files[0].path, v->name, text, wanted);
}

int archive_meta_int(const struct archive *a, const char *name, int64_t lo, int64_t hi, int64_t *v)
{
    const struct foreign_value *f = present(a, name);
    char range[80];
    if (!f)
        return 0;
    snprintf(range, sizeof range, "an integer from %" PRId64 " to %" PRId64, lo, hi);
    if (f->kind != FOREIGN_INT || f->i < lo || f->i > hi)
        return wrong(a, f, range);
    *v = f->i;
    return 1;
}

int archive_meta_real(const struct archive *a, const char *name, double lo, double hi, double *v)
{
    const struct foreign_value *f = present(a, name);
    char range[80];
    if (!f)
        return 0;
    snprintf(range, sizeof range, "a number from %g to %g", lo, hi);
    double r = f->kind == FOREIGN_INT ? (double)f->i : f->kind == FOREIGN_REAL ? f->r : NAN;
    if (!(r >= lo && r <= hi))
        return wrong(a, f, range);
    *v = r;
    return 1;
}

int archive_meta_bool(const struct archive *a, const char *name, bool *v)
{
    const struct foreign_value *f = present(a, name);
    if (!f)
        return 0;
    if (f->kind != FOREIGN_TRUTH)
        return wrong(a, f, "True or False");
    *v = f->i != 0;
    return 1;
}

int archive_meta_str(const struct archive *a, const char *name, const char **v)
{
    const struct foreign_value *f = present(a, name);
    if (!f)
        return 0;
    if (f->kind != FOREIGN_STR)
        return wrong(a, f, "a string");
    *v = f->s;
    return 1;
}
