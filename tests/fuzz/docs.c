/* docs.c - fuzz target: documents; any parts, any window, packed or not, the same ones; and any bytes as a stream
 * SPDX-License-Identifier: MIT
 * Seeds: *.json *.txt
 *
 * Byte 0 picks format and split, byte 1 the window, byte 2 the parts; the rest is the text. Bad lines are
 * skipped, so nothing of this dies.
 */
#include "fuzz.h"

#include "common/base/mem.h"
#include "common/text/docs.h"
#include "common/base/utf8.h"
#include "pack.h"

static void read_all(const struct docs_file *f, const struct docs_options *o, int parts, struct buf *out)
{
    for (int part = 0; part < parts; part++) {
        struct docs *d = docs_open(f, 1, o, part, parts);
        int64_t bytes;
        while (docs_next(d, &bytes)) {
            const char *p;
            size_t n, before;
            if (bytes % 2)
                (void)docs_piece(d, &n);
            docs_rewind(d);
            buf_addf(out, "[%lld]", (long long)bytes);
            before = out->len;
            while ((p = docs_piece(d, &n)))
                buf_add(out, p, n);
            PROMISE(out->len - before == (size_t)bytes && *docs_where(d, 0));
        }
        PROMISE(docs_input_done(d) == docs_input_bytes(d));
        docs_close(d);
    }
}

/* The bytes as a packed file: it ends, or is refused with a reason. */
static void unpack(int fd, enum stream_pack kind)
{
    struct stream *s = stream_open("F", fd, true, kind);
    char block[1000];
    size_t got = sizeof block;
    int rc = 0;
    for (int64_t all = 0; rc == 0 && got == sizeof block && all < (64 << 20); all += (int64_t)got)
        rc = stream_try_read(s, block, sizeof block, &got);
    PROMISE(rc == 0 || (strncmp(err_last(), "'F'", 3) == 0 && !strchr(err_last(), '\n')));
    stream_close(s);
}

static void mend(const char *p, size_t n, size_t step)
{
    struct utf8 u = { 0 }, c = { 0 };
    struct buf room = { 0 }, out = { 0 };
    int bad = 0;
    for (size_t at = 0; at <= n; at += step) {
        size_t k = n - at < step ? n - at : step, made = k;
        bool last = at + step > n;
        const char *q = utf8_replace(&u, p + at, &made, last, &room);
        buf_add(&out, q, made);
        bad = bad ? bad : utf8_try_check(&c, p + at, k, last);
    }
    PROMISE(utf8_valid(out.len ? out.data : "", out.len) == out.len);
    PROMISE((bad == 0) == (u.replaced == 0) && (bad == 0) == (utf8_valid(p, n) == n));
    if (bad == 0)
        PROMISE(out.len == n && (n == 0 || memcmp(out.data, p, n) == 0));
    else
        PROMISE(c.at == (int64_t)utf8_valid(p, n));
    buf_free(&room);
    buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const size_t windows[] = { 4, 5, 7, 16, 33, 100, 1000, 10000 };
    enum { MOST = 4000 };
    if (n < 3)
        return 0;
    struct docs_options o = { .format = data[0] & 4 ? DOCS_JSONL : DOCS_TEXT,
                              .split = (enum docs_split)(data[0] & 3),
                              .separator = "--",
                              .text_key = "text",
                              .id_key = data[0] & 8 ? "id" : NULL,
                              .mend = data[0] & 16,
                              .max_line = 1000,
                              .skip_bad = true,
                              .window = MOST + 1 };
    size_t window = windows[data[1] % 8];
    int parts = 1 + data[2] % 9;
    const char *text = (const char *)data + 3;
    n = n - 3 < MOST ? n - 3 : MOST;
    mend(text, n, 1 + data[1]);
    int fd = fuzz_file((const uint8_t *)text, n);
    unpack(fd, STREAM_GZIP);
    unpack(fd, STREAM_ZSTD);
    char *path = xasprintf("/proc/self/fd/%d", fd);
    struct buf want = { 0 };
    for (int kind = STREAM_PLAIN; kind <= STREAM_ZSTD; kind++) {
        struct buf got = { 0 }, packed = { 0 };
        struct docs_file f = { .path = path, .pack = kind };
        if (kind != STREAM_PLAIN) {
            pack(kind, text, n / 3, 1, &packed);
            pack(kind, text + n / 3, n - n / 3, 1, &packed);
            (void)fuzz_file((const uint8_t *)packed.data, packed.len);
        }
        f.bytes = kind == STREAM_PLAIN ? (int64_t)n : (int64_t)packed.len;
        if (kind == STREAM_PLAIN) {
            read_all(&f, &o, 1, &want);
            o.window = window;
        }
        read_all(&f, &o, parts, &got);
        PROMISE(want.len == got.len && (want.len == 0 || memcmp(want.data, got.data, got.len) == 0));
        buf_free(&got);
        buf_free(&packed);
    }
    buf_free(&want);
    free(path);
    return 0;
}
