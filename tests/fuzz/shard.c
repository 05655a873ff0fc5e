/* shard.c - fuzz target: a set of shards whose numbers, types, chunks and ends are not what they should be, or whose bytes
 * SPDX-License-Identifier: MIT
 * Seeds: *.idx *.model
 *
 * HDF5's metadata have checksums, so bits that flip in a file rarely come through to our readers. Here the input is a
 * list of decisions instead: two members and an index are written through HDF5, each number true or a lie. At the end
 * of the list everything is true. The last bytes may still flip bits in the files.
 */
#include "fuzz.h"

#include <hdf5.h>
#include <sys/stat.h>

#include "common/base/hash.h"
#include "common/base/mem.h"
#include "common/io/shard_private.h"

struct choices {
    const uint8_t *p;
    size_t n;
};

static unsigned choose(struct choices *c, unsigned n) /* 0 .. n-1; 0 at the end */
{
    if (c->n == 0)
        return 0;
    c->n--;
    return *c->p++ % n;
}

/* Mostly the truth. */
static int64_t number(struct choices *c, int64_t truth)
{
    static const int64_t odd[] = { 0, 1, -1, 2, 255, 65535, 65536, 65537, 1 << 18, (1 << 18) + 1, INT32_MAX,
                                   (int64_t)UINT32_MAX, (int64_t)UINT32_MAX + 1, INT64_MAX, INT64_MIN, INT64_MAX - 1 };
    switch (choose(c, 12)) {
    case 1: return odd[choose(c, sizeof odd / sizeof *odd)];
    case 2: return truth + 1;
    case 3: return truth - 1;
    default: return truth;
    }
}

static const char *word(struct choices *c, const char *truth)
{
    static const char *const other[] = { "", "x", "../x", "ffffffffffffffff", "part-1.h5",
        "a name that is so long that it does not fit into the places where names are kept, whatever they are for, ever" };
    return choose(c, 16) == 1 ? other[choose(c, sizeof other / sizeof *other)] : truth;
}

static void put_int(struct choices *c, struct h5 *f, const char *name, int64_t truth)
{
    switch (choose(c, 24)) {
    case 1: return;
    case 2: h5_put_real(f, "/", name, 0.5); return;
    case 3: h5_put_str(f, "/", name, "1"); return;
    default: h5_put_int(f, "/", name, number(c, truth));
    }
}

static void put_str(struct choices *c, struct h5 *f, const char *name, const char *truth)
{
    switch (choose(c, 24)) {
    case 1: return;
    case 2: h5_put_int(f, "/", name, 7); return;
    default: h5_put_str(f, "/", name, word(c, truth));
    }
}

static void put_info(struct choices *c, struct h5 *f, const struct shard_info *i)
{
    put_str(c, f, "tokenizer", "bytes");
    put_str(c, f, "tokenizer_hash", "0000000000000001");
    put_int(c, f, "vocab", i->vocab);
    put_int(c, f, "eod", i->eod);
    put_int(c, f, "n_tokens", i->n_tokens);
    put_int(c, f, "n_docs", i->n_docs);
    put_int(c, f, "n_bytes", i->n_bytes);
    put_int(c, f, "n_replaced", 0);
    put_str(c, f, "source", "s");
}

enum { MOST = 600 };

static void make_member(struct choices *c, const char *path, struct shard_info *i, struct shard_part *p)
{
    static const enum h5_type types[] = { H5_U16, H5_U32, H5_U8, H5_I64, H5_F32, H5_U64 };
    static uint32_t tokens[SHARD_CHUNK];
    uint64_t ends[16];
    int64_t n = choose(c, 256) + choose(c, 256), docs = 0;
    struct h5 *f = h5_create(path, path);
    for (int64_t k = 0; k < n; k++) {
        tokens[k] = choose(c, 8) == 1 ? (uint32_t)number(c, 256) : choose(c, 256);
        if (k == n - 1 || (docs < 15 && choose(c, 32) == 1)) {
            tokens[k] = choose(c, 32) == 1 ? 255 : 256;
            ends[docs++] = (uint64_t)number(c, k + 1);
        }
    }
    bool wide = choose(c, 16) == 1;
    static uint16_t narrow[SHARD_CHUNK];
    for (int64_t k = 0; k < n; k++)
        narrow[k] = (uint16_t)tokens[k];
    enum h5_type type = choose(c, 24) == 1 ? types[choose(c, 6)] : wide ? H5_U32 : H5_U16;
    int64_t chunk = choose(c, 24) == 1 ? 1 << choose(c, 20) : SHARD_CHUNK;
    if (choose(c, 32) != 1) {
        struct h5_chunks *d = h5_make_chunks(f, "/tokens", type, chunk < n ? n : chunk, 1);
        if (n > 0 && h5_type_size(type) <= 4)
            h5_put_chunk(d, h5_type_size(type) == 4 ? (void *)tokens : (void *)narrow, n);
        h5_end_chunks(d);
    }
    if (choose(c, 32) != 1) {
        int64_t shape = choose(c, 24) == 1 ? choose(c, 17) : docs;
        struct h5_data *d = h5_make_data(f, "/doc_end", choose(c, 24) == 1 ? types[choose(c, 6)] : H5_U64, 1, &shape);
        int64_t at = 0, k = shape < docs ? shape : docs;
        if (k > 0)
            h5_write(d, &at, &k, ends);
        h5_end_data(d);
    }
    uint64_t th = n ? shard_mix(0, wide ? (void *)tokens : (void *)narrow, (size_t)n * (wide ? 4 : 2)) : 0;
    uint64_t eh = docs ? shard_mix(0, ends, (size_t)docs * 8) : 0;
    char content[17];
    snprintf(content, sizeof content, "%016llx", (unsigned long long)shard_content_hash(th, eh));
    *i = (struct shard_info){ .vocab = wide ? 70000 : 257, .eod = 256, .n_tokens = n, .n_docs = docs, .n_bytes = n - docs };
    put_info(c, f, i);
    put_str(c, f, "kind", SHARD_KIND_FILE);
    put_int(c, f, "format", SHARD_FORMAT);
    put_str(c, f, "content", content);
    put_str(c, f, "history", "h");
    h5_finish(f);
    *p = (struct shard_part){ number(c, n), number(c, docs), number(c, n - docs), (uint64_t)number(c, (int64_t)shard_content_hash(th, eh)) };
}

static void flip(struct choices *c, const char *path)
{
    struct stat st;
    FILE *f = fopen(path, "r+b");
    PROMISE(f && fstat(fileno(f), &st) == 0);
    for (unsigned k = choose(c, 4); k > 0; k--) {
        long at = (long)((choose(c, 256) << 16 | choose(c, 256) << 8 | choose(c, 256)) % (unsigned)st.st_size);
        fseek(f, at, SEEK_SET);
        int was = fgetc(f);
        fseek(f, at, SEEK_SET);
        fputc(was ^ (1 << choose(c, 8)), f);
    }
    if (choose(c, 32) == 1)
        PROMISE(ftruncate(fileno(f), (off_t)choose(c, 256) * st.st_size / 256) == 0);
    PROMISE(fclose(f) == 0);
}

static void make_set(struct choices *c, const char *dir)
{
    static const struct h5_column columns[] = {
        { "name", H5_TEXT, sizeof((struct set_member *)0)->name, offsetof(struct set_member, name) },
        { "bytes", H5_I64, 1, offsetof(struct set_member, bytes) },
        { "xxh3", H5_U64, 1, offsetof(struct set_member, hash) },
    };
    struct set_member m[2] = { 0 };
    struct shard_part p[2];
    struct shard_info sum = { 0 }, i;
    char path[100];
    int n = 2;
    for (int k = 0; k < n; k++) {
        snprintf(path, sizeof path, "%s/part-%d.h5", dir, k);
        make_member(c, path, &i, &p[k]);
        sum.vocab = i.vocab;
        sum.eod = i.eod;
        sum.n_tokens += i.n_tokens;
        sum.n_docs += i.n_docs;
        sum.n_bytes += i.n_bytes;
    }
    if (c->n && c->p[c->n - 1] % 4 == 1)
        for (int k = 0; k < n; k++) {
            snprintf(path, sizeof path, "%s/part-%d.h5", dir, k);
            flip(c, path);
        }
    for (int k = 0; k < n; k++) {
        snprintf(path, sizeof path, "%s/part-%d.h5", dir, k);
        PROMISE(hash_try_file(path, &m[k].hash, &m[k].bytes) == 0);
        m[k].bytes = number(c, m[k].bytes);
        m[k].hash = (uint64_t)number(c, (int64_t)m[k].hash);
        snprintf(m[k].name, sizeof m[k].name, "%s", word(c, k ? "part-1.h5" : "part-0.h5"));
    }
    snprintf(path, sizeof path, "%s/index.h5", dir);
    struct h5 *f = h5_create(path, path);
    put_str(c, f, "kind", SHARD_KIND_SET);
    put_int(c, f, "format", SHARD_FORMAT);
    put_str(c, f, "history", "h");
    put_info(c, f, &sum);
    if (choose(c, 32) != 1)
        h5_put_table(f, "/members", columns, 3, m, choose(c, 24) == 1 ? choose(c, 3) : n);
    if (choose(c, 32) != 1)
        h5_put_table(f, "/parts", shard_part_columns, choose(c, 24) == 1 ? 3 : SHARD_PART_COLUMNS, p,
                     choose(c, 24) == 1 ? choose(c, 3) : n);
    h5_finish(f);
    if (c->n && c->p[c->n - 1] % 4 == 2)
        flip(c, path);
}

static void try_set(const char *dir)
{
    struct shards *s = shards_try_open(dir);
    if (!s) {
        PROMISE(*err_last() && !strchr(err_last(), '\n'));
        return;
    }
    const struct shard_info *i = shards_info(s);
    bool whole = true;
    for (int k = 0; k < shards_count(s); k++)
        whole = shards_try_verify(s, k) == 0 && whole;
    uint32_t *ids = xcalloc(2 * MOST, sizeof *ids);
    int64_t ends[64], tokens = i->n_tokens;
    PROMISE(tokens <= 2 * MOST); /* what is there, whatever was said */
    bool fine = shards_try_read(s, 0, tokens, ids) == 0;
    PROMISE(fine || !whole);
    for (int64_t k = 0; fine && k < tokens; k++)
        PROMISE(ids[k] < i->vocab);
    int64_t found = shards_try_doc_ends(s, 0, tokens, ends, 64);
    PROMISE(!whole || found == i->n_docs);
    for (int64_t k = 0; whole && k < found; k++)
        PROMISE(ends[k] > (k ? ends[k - 1] : 0) && ids[ends[k] - 1] == i->eod && shards_try_doc_end(s, k) == ends[k]);
    PROMISE(!whole || tokens == 0 || ends[found - 1] == tokens);
    for (int64_t k = 0; k < i->n_docs; k += 3)
        PROMISE(shards_try_doc_end(s, k) <= tokens);
    PROMISE(shards_try_read(s, tokens, 1, ids) == -1 && shards_try_read(s, -1, 1, ids) == -1);
    free(ids);
    shards_close(s);
}

/* Opens, reads and closes the set; then HDF5 has nothing open that is ours. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static char dir[64];
    if (!*dir) {
        snprintf(dir, sizeof dir, "/dev/shm/fuzz-shard-%ld", (long)getpid());
        PROMISE(mkdir(dir, 0700) == 0);
    }
    struct choices c = { data, n };
    make_set(&c, dir);
    try_set(dir);
    PROMISE(H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL) == 0);
    return 0;
}
