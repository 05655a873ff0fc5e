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
    if (!i->seq_len)
        return;
    put_int(c, f, "seq_len", i->seq_len);
    put_int(c, f, "n_samples", i->n_samples);
    put_int(c, f, "n_targets", i->n_targets);
}

enum { MOST = 600, DOCS = 15 };
static const enum h5_type types[] = { H5_U16, H5_U32, H5_U8, H5_I64, H5_F32, H5_U64 };

static void put_chunks(struct choices *c, struct h5 *f, const char *path, enum h5_type type, const void *data, int64_t n)
{
    size_t size = h5_type_size(type);
    int64_t chunk = choose(c, 24) == 1 ? 1 << choose(c, 20) : SHARD_CHUNK;
    if (choose(c, 32) == 1)
        return;
    if (choose(c, 24) == 1)
        type = types[choose(c, 6)];
    struct h5_chunks *d = h5_make_chunks(f, path, type, chunk < n ? n : chunk, 1);
    if (n > 0 && h5_type_size(type) <= size)
        h5_put_chunk(d, data, n);
    h5_end_chunks(d);
}

static void put_ends(struct choices *c, struct h5 *f, const char *path, const uint64_t *ends, int64_t n)
{
    int64_t shape = choose(c, 24) == 1 ? choose(c, 17) : n, at = 0, k = shape < n ? shape : n;
    if (choose(c, 32) == 1)
        return;
    struct h5_data *d = h5_make_data(f, path, choose(c, 24) == 1 ? types[choose(c, 6)] : H5_U64, 1, &shape);
    if (k > 0)
        h5_write(d, &at, &k, ends);
    h5_end_data(d);
}

/* Tokens, their mask, documents, samples of one member; mostly such as belong together. */
struct contents {
    uint32_t wide[SHARD_CHUNK];
    uint16_t narrow[SHARD_CHUNK];
    uint8_t mask[SHARD_CHUNK];
    uint64_t docs[DOCS + 1], samples[DOCS + 1];
    int64_t n, n_docs, n_samples, n_targets;
};

static void make_contents(struct choices *c, struct contents *x)
{
    x->n = choose(c, 256) + choose(c, 256);
    x->n_docs = x->n_samples = x->n_targets = 0;
    for (int64_t k = 0; k < x->n; k++) {
        x->wide[k] = choose(c, 8) == 1 ? (uint32_t)number(c, 256) : choose(c, 256);
        x->mask[k] = choose(c, 64) == 1 ? (uint8_t)choose(c, 256) : choose(c, 2);
        if (k == x->n - 1 || (x->n_docs < DOCS && choose(c, 32) == 1)) {
            x->wide[k] = choose(c, 32) == 1 ? 255 : 256;
            x->docs[x->n_docs++] = (uint64_t)number(c, k + 1);
            if (k == x->n - 1 || choose(c, 3) == 1)
                x->samples[x->n_samples++] = (uint64_t)number(c, k + 1);
        }
        x->narrow[k] = (uint16_t)x->wide[k];
        x->n_targets += x->mask[k] == 1;
    }
}

static void make_member(struct choices *c, const char *path, struct shard_info *i, struct shard_part *p)
{
    static struct contents x;
    bool wide = choose(c, 16) == 1, packed = choose(c, 2) == 1;
    make_contents(c, &x);
    const void *tokens = wide ? (void *)x.wide : (void *)x.narrow;
    *i = (struct shard_info){ .vocab = wide ? 70000 : 257, .eod = 256, .n_tokens = x.n, .n_docs = x.n_docs,
                              .n_bytes = x.n - x.n_docs, .seq_len = packed ? 300 : 0,
                              .n_samples = packed ? x.n_samples : 0, .n_targets = packed ? x.n_targets : 0 };
    const struct shard_hashes h = {
        .tokens = x.n ? shard_mix(0, tokens, (size_t)x.n * (wide ? 4 : 2)) : 0,
        .docs = x.n_docs ? shard_mix(0, x.docs, (size_t)x.n_docs * 8) : 0,
        .mask = x.n ? shard_mix(0, x.mask, (size_t)x.n) : 0,
        .samples = x.n_samples ? shard_mix(0, x.samples, (size_t)x.n_samples * 8) : 0
    };
    uint64_t content = shard_content_hash(i, &h);
    char text[17];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)content);
    struct h5 *f = h5_create(path, path);
    put_chunks(c, f, "/tokens", wide ? H5_U32 : H5_U16, tokens, x.n);
    put_ends(c, f, "/doc_end", x.docs, x.n_docs);
    if (packed) {
        put_chunks(c, f, "/loss_mask", H5_U8, x.mask, x.n);
        put_ends(c, f, "/sample_end", x.samples, x.n_samples);
    }
    put_info(c, f, i);
    put_str(c, f, "kind", SHARD_KIND_FILE);
    put_int(c, f, "format", packed ? 2 : 1);
    put_str(c, f, "content", text);
    put_str(c, f, "history", "h");
    h5_finish(f);
    *p = (struct shard_part){ number(c, x.n),  number(c, x.n_docs), number(c, x.n - x.n_docs), (uint64_t)number(c, (int64_t)content),
                              number(c, i->n_samples), number(c, i->n_targets) };
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
        sum.seq_len = k == 0 || sum.seq_len ? i.seq_len : 0;
        sum.n_samples += i.n_samples;
        sum.n_targets += i.n_targets;
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
    put_int(c, f, "format", sum.seq_len ? 2 : 1);
    put_str(c, f, "history", "h");
    put_info(c, f, &sum);
    if (choose(c, 32) != 1)
        h5_put_table(f, "/members", columns, 3, m, choose(c, 24) == 1 ? choose(c, 3) : n);
    int wanted = choose(c, 24) == 1 ? 3 : (sum.seq_len != 0) != (choose(c, 24) == 1) ? SHARD_PART_COLUMNS : SHARD_PLAIN_COLUMNS;
    struct {
        int64_t number[4];
    } plain[2];
    for (int k = 0; k < n; k++)
        memcpy(&plain[k], &p[k], sizeof plain[k]);
    if (choose(c, 32) != 1 && wanted != 3)
        h5_put_table(f, "/parts", shard_part_columns, wanted, wanted == SHARD_PART_COLUMNS ? (void *)p : (void *)plain,
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
    uint8_t *mask = xcalloc(2 * MOST, 1);
    bool masked = shards_try_mask(s, 0, tokens, mask) == 0;
    int64_t ones = 0, from, to, last = 0;
    PROMISE(masked || !whole);
    for (int64_t k = 0; masked && k < tokens; k++)
        ones += mask[k];
    PROMISE(!whole || ones == (i->seq_len ? i->n_targets : tokens));
    for (int64_t k = 0; i->seq_len && k < i->n_samples && k < 64; k++)
        if (shards_try_sample(s, k, &from, &to) == 0) {
            PROMISE(from >= 0 && from < to && to <= tokens && to - from <= i->seq_len);
            PROMISE(!whole || from == last);
            last = to;
        } else
            PROMISE(!whole);
    PROMISE(!whole || !i->seq_len || last == tokens);
    free(mask);
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
