/* safetensors.c - the safetensors format: header of a file, and a writer
 * SPDX-License-Identifier: MIT
 */
#include "safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/base/out.h"

enum { MAX_HEADER = 100 << 20 };

/* ---- reading ---- */

static int try_dtype(const char *name, enum foreign_dtype *d)
{
    for (int i = 0; i < FOREIGN_DTYPES; i++)
        if (strcmp(name, foreign_dtype_name((enum foreign_dtype)i)) == 0) {
            *d = (enum foreign_dtype)i;
            return 0;
        }
    return err_set("the dtype '%.20s' is not known", name);
}

/* One tensor of the header; t->offset counts from the first byte of the data. */
static int try_tensor(const struct json *j, int64_t data_size, struct foreign_tensor *t)
{
    const char *dtype;
    int64_t *shape = NULL, *offsets = NULL;
    size_t ndim, two;
    int bad = -1;
    if (json_kind(j) != JSON_MAP)
        return err_set("not an object");
    if (json_try_str(j, "dtype", &dtype) != 1 || try_dtype(dtype, &t->dtype) < 0)
        return -1;
    if (json_try_ints(j, "shape", 0, INT64_MAX, &shape, &ndim) != 1)
        goto out;
    if (ndim > FOREIGN_MAX_DIM) {
        err_set("%zu dimensions; %d are allowed", ndim, FOREIGN_MAX_DIM);
        goto out;
    }
    t->ndim = (int)ndim;
    for (size_t i = 0; i < ndim; i++)
        t->shape[i] = shape[i];
    if (foreign_try_size(t) < 0 || json_try_ints(j, "data_offsets", 0, data_size, &offsets, &two) != 1)
        goto out;
    if (two != 2 || offsets[1] < offsets[0]) {
        err_set("data_offsets are not two numbers that rise");
        goto out;
    }
    if (offsets[1] - offsets[0] != t->bytes) {
        err_set("its shape makes %lld bytes, its data_offsets %lld", (long long)t->bytes,
                (long long)(offsets[1] - offsets[0]));
        goto out;
    }
    t->offset = offsets[0];
    bad = 0;
out:
    free(shape);
    free(offsets);
    return bad;
}

static int try_metadata(const struct json *j, struct foreign_list *l)
{
    const char *key, *text;
    const struct json *value;
    if (json_kind(j) != JSON_MAP)
        return err_set("not an object");
    for (const void *it = json_next(j, NULL, &key, &value); it; it = json_next(j, it, &key, &value)) {
        if (json_try_str_of(value, key, &text) < 0 || foreign_try_name(key, strlen(key)) < 0)
            return -1;
        struct foreign_value *v = foreign_add_value(l);
        v->name = xasprintf("__metadata__.%s", key);
        v->kind = FOREIGN_STR;
        v->s = xstrdup(text);
    }
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct foreign_tensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* those without elements first */
}

int safetensors_try_header(const char *path, int fd, int64_t size, int file, struct foreign_list *l)
{
    unsigned char head[8];
    uint64_t n = 0;
    if (size < 8)
        return err_set("%s: %lld bytes are too few for a safetensors file", path, (long long)size);
    if (foreign_try_pread(path, fd, 0, head, 8) < 0)
        return -1;
    for (int i = 0; i < 8; i++)
        n |= (uint64_t)head[i] << 8 * i;
    if (n > MAX_HEADER || (int64_t)n > size - 8)
        return err_set("%s: a header of %llu bytes; the file has %lld bytes, headers at most %d", path,
                       (unsigned long long)n, (long long)size, MAX_HEADER);
    int64_t base = 8 + (int64_t)n, data_size = size - base, end = 0;
    char *text = xmalloc(n + 1);
    if (foreign_try_pread(path, fd, 8, text, n) < 0) {
        free(text);
        return -1;
    }
    struct json *root = json_try_block(path, text, n);
    bool brace = n > 0 && text[0] == '{';
    free(text);
    if (!root)
        return -1;
    const char *name;
    const struct json *value;
    size_t first = l->n;
    int bad =
        !brace || json_kind(root) != JSON_MAP ? err_set("%s: the header is not a JSON object", path) : 0;
    for (const void *it = bad ? NULL : json_next(root, NULL, &name, &value); it && !bad;
         it = json_next(root, it, &name, &value)) {
        if (strcmp(name, "__metadata__") == 0) {
            if (try_metadata(value, l) < 0)
                bad = err_set("%s: __metadata__: %s", path, err_last());
            continue;
        }
        struct foreign_tensor t = { .file = file };
        if (foreign_try_name(name, strlen(name)) < 0)
            bad = err_set("%s: %s", path, err_last());
        else if (try_tensor(value, data_size, &t) < 0)
            bad = err_set("%s: tensor '%s': %s", path, name, err_last());
        else {
            t.name = xstrdup(name);
            *foreign_add(l) = t;
        }
    }
    json_free(root);
    if (bad)
        return -1;
    if (l->n > first)
        qsort(l->t + first, l->n - first, sizeof *l->t, by_offset);
    for (size_t i = first; i < l->n; i++) {
        struct foreign_tensor *t = &l->t[i];
        if (t->offset != end)
            return err_set("%s: tensor '%s' begins at %lld, where the one before ends at %lld", path, t->name,
                           (long long)t->offset, (long long)end);
        end += t->bytes;
        t->offset += base;
    }
    if (end != data_size)
        return err_set("%s: %lld bytes behind the last tensor", path, (long long)(data_size - end));
    return 0;
}

/* ---- writing ---- */

struct safetensors_writer {
    char *dir;
    bool force;
    struct foreign_tensor *t; /* file: the shard */
    size_t n, at;             /* the current tensor ... */
    int64_t done;             /* ... and how many of its elements have come */
    int shards, shard;        /* how many; which one is open, -1 at first */
    struct out *out;
    FILE *f;
    char *path;
};

static char *shard_name(int shard, int shards)
{
    return shards == 1 ? xstrdup("model.safetensors")
                       : xasprintf("model-%05d-of-%05d.safetensors", shard + 1, shards);
}

/* A name that this writer may have given to a shard. */
static bool is_shard(const char *name)
{
    int a, b, end = 0;
    return sscanf(name, "model-%5d-of-%5d.safetensors%n", &a, &b, &end) == 2 && end > 0 && !name[end];
}

/* A model that is replaced goes first, its index before its shards: what is there is valid or it is not
 * there. */
static void remove_old(const char *dir, bool force)
{
    static const char *const whole[] = { "model.safetensors.index.json", "model.safetensors" };
    for (int i = 0; i < 2; i++) {
        char *path = path_join(dir, whole[i]);
        if (path_exists(path)) {
            if (!force)
                die("'%s' exists; --force replaces it", path);
            if (unlink(path) < 0)
                die_errno("cannot remove '%s'", path);
        }
        free(path);
    }
    if (!force)
        return;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!is_shard(e->d_name))
            continue;
        char *path = path_join(dir, e->d_name);
        if (unlink(path) < 0)
            die_errno("cannot remove '%s'", path);
        free(path);
    }
    if (d)
        closedir(d);
}

static void write_or_die(struct safetensors_writer *w, const void *data, size_t n)
{
    if (n > 0 && fwrite(data, 1, n, w->f) != n)
        die_errno("cannot write '%s'", w->path);
}

/* Tensors fill a shard until the next one would not fit. */
static void deal_shards(struct safetensors_writer *w, int64_t shard_bytes)
{
    int64_t used = 0;
    w->shards = 1;
    for (size_t i = 0; i < w->n; i++) {
        if (shard_bytes > 0 && used > 0 && w->t[i].bytes > 0 && w->t[i].bytes > shard_bytes - used) {
            w->shards++;
            used = 0;
        }
        used += w->t[i].bytes;
        w->t[i].file = w->shards - 1;
    }
    if (w->shards > 99999)
        die("%d shards of %lld bytes; 99999 are the most", w->shards, (long long)shard_bytes);
}

static void open_shard(struct safetensors_writer *w, int shard)
{
    char *name = shard_name(shard, w->shards);
    w->shard = shard;
    w->path = path_join(w->dir, name);
    w->out = out_open(w->path, w->force);
    w->f = fopen(out_temp(w->out), "wbe");
    if (!w->f)
        die_errno("cannot write '%s'", w->path);
    struct json *root = json_make_map(), *meta = json_make_map();
    json_put_str(meta, "format", "pt");
    json_put(root, "__metadata__", meta);
    int64_t end = 0;
    for (size_t i = w->at; i < w->n && w->t[i].file == shard; i++) {
        const struct foreign_tensor *t = &w->t[i];
        struct json *j = json_make_map(), *shape = json_make_list(), *offsets = json_make_list();
        for (int k = 0; k < t->ndim; k++)
            json_add_int(shape, t->shape[k]);
        json_add_int(offsets, end);
        end += t->bytes;
        json_add_int(offsets, end);
        json_put_str(j, "dtype", foreign_dtype_name(t->dtype));
        json_put(j, "shape", shape);
        json_put(j, "data_offsets", offsets);
        json_put(root, t->name, j);
    }
    char *text = json_text(root, JSON_FLAT);
    size_t len = strlen(text), padded = (len + 7) / 8 * 8;
    if (padded > MAX_HEADER)
        die("'%s': a header of %zu bytes; %d are the most", w->path, padded, MAX_HEADER);
    unsigned char head[8];
    for (int i = 0; i < 8; i++)
        head[i] = (unsigned char)((uint64_t)padded >> 8 * i);
    write_or_die(w, head, 8);
    write_or_die(w, text, len);
    write_or_die(w, "        ", padded - len);
    free(text);
    free(name);
    json_free(root);
}

static void close_shard(struct safetensors_writer *w)
{
    if (fclose(w->f) != 0)
        die_errno("cannot write '%s'", w->path);
    out_commit(w->out);
    free(w->path);
    w->f = NULL;
    w->path = NULL;
}

/* Goes on to the tensor whose elements come next, over those that have none, and opens its shard. */
static void go_on(struct safetensors_writer *w)
{
    while (w->at < w->n && w->done == w->t[w->at].elements) {
        w->at++;
        w->done = 0;
        if (w->at < w->n && w->t[w->at].file != w->shard) {
            close_shard(w);
            open_shard(w, w->t[w->at].file);
        }
    }
}

struct safetensors_writer *safetensors_create(const char *dir, const struct foreign_tensor *t, size_t n,
                                              int64_t shard_bytes, bool force)
{
    struct safetensors_writer *w = xcalloc(1, sizeof *w);
    w->dir = xstrdup(dir);
    w->force = force;
    w->n = n;
    w->t = xcalloc(n + 1, sizeof *w->t);
    struct foreign_list names = { 0 };
    for (size_t i = 0; i < n; i++) {
        w->t[i] = t[i];
        w->t[i].name = foreign_add(&names)->name = xstrdup(t[i].name);
        if (foreign_try_name(t[i].name, strlen(t[i].name)) < 0 || foreign_try_size(&w->t[i]) < 0)
            die("tensor '%s': %s", t[i].name, err_last());
        if (strcmp(t[i].name, "__metadata__") == 0)
            die("no tensor can be called '__metadata__' in a safetensors file");
    }
    if (foreign_try_sort(&names) < 0)
        die("%s", err_last());
    free(names.t); /* the names are ours */
    remove_old(dir, force);
    deal_shards(w, shard_bytes);
    open_shard(w, 0);
    go_on(w);
    return w;
}

static struct foreign_tensor *current(struct safetensors_writer *w, int64_t n)
{
    if (w->at == w->n || n > w->t[w->at].elements - w->done)
        bug("safetensors: %lld elements beyond the end of '%s'", (long long)n,
            w->at < w->n ? w->t[w->at].name : "the last tensor");
    return &w->t[w->at];
}

void safetensors_put_raw(struct safetensors_writer *w, const void *data, int64_t n)
{
    if (n == 0)
        return;
    struct foreign_tensor *t = current(w, n);
    write_or_die(w, data, (size_t)(n * foreign_dtype_size(t->dtype)));
    w->done += n;
    go_on(w);
}

void safetensors_put_f32(struct safetensors_writer *w, const float *data, int64_t n)
{
    char block[32768];
    if (n == 0)
        return;
    struct foreign_tensor *t = current(w, n);
    int size = foreign_dtype_size(t->dtype);
    for (int64_t i = 0, m; i < n; i += m) {
        m = n - i < (int64_t)sizeof block / size ? n - i : (int64_t)sizeof block / size;
        if (foreign_try_pack(t->dtype, data + i, m, block) < 0)
            die("'%s': tensor '%s': %s", w->path, t->name, err_last());
        write_or_die(w, block, (size_t)(m * size));
    }
    w->done += n;
    go_on(w);
}

static void write_index(struct safetensors_writer *w)
{
    struct json *root = json_make_map(), *meta = json_make_map(), *map = json_make_map();
    int64_t total = 0;
    for (size_t i = 0; i < w->n; i++) {
        char *name = shard_name(w->t[i].file, w->shards);
        json_put_str(map, w->t[i].name, name);
        free(name);
        total += w->t[i].bytes;
    }
    json_put_int(meta, "total_size", total);
    json_put(root, "metadata", meta);
    json_put(root, "weight_map", map);
    char *path = path_join(w->dir, "model.safetensors.index.json");
    json_write(path, root, JSON_PRETTY | JSON_BY_KEY, w->force);
    free(path);
    json_free(root);
}

void safetensors_commit(struct safetensors_writer *w)
{
    if (w->at < w->n)
        bug("safetensors: '%s' got %lld of %lld elements", w->t[w->at].name, (long long)w->done,
            (long long)w->t[w->at].elements);
    close_shard(w);
    if (w->shards > 1)
        write_index(w);
    for (size_t i = 0; i < w->n; i++)
        free(w->t[i].name);
    free(w->t);
    free(w->dir);
    free(w);
}
