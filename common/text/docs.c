/* docs.c - the documents of text and JSONL files, one after the other, in bounded memory
 * SPDX-License-Identifier: MIT
 *
 * One window of a file is in memory. The scanner goes forward line by line and finds where a document begins
 * and ends; only then are its bytes handed out. A document that fits is still in the window by then; a longer
 * one is read again, piece by piece, so its length does not matter. Offsets are within the file unless they
 * say otherwise. Only this file knows jansson.
 * Over 500 lines: the ways to split are one scanner over one window.
 */
#include "docs.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"

struct line {
    int64_t begin, end, next; /* end: of its LF, or of the file; next: where the line after it begins */
    bool blank;
};

struct docs {
    const struct docs_file *files;
    int n_files, file; /* file: the one that is open, or the next to be */
    struct docs_options o;
    int64_t cut_lo, cut_hi; /* this part, in bytes of all files together */
    int64_t base;           /* where the current file begins in these */
    struct docs_counts counts;

    int fd; /* -1: none is open */
    const char *path;
    int64_t size, hi; /* documents that begin at hi or later are not ours */
    bool json;
    int64_t pos;         /* of the next line to look at */
    int64_t line_number; /* of that line; 0: unknown, since this part did not begin with the file */

    char *window;
    size_t room; /* of the window */
    int64_t at;  /* where the window begins */
    size_t n;
    int64_t keep; /* the scanner is in a document that began here, or -1 */

    int64_t doc_begin, doc_end, doc_pos;
    struct buf long_line; /* a JSONL line that straddles windows */
    json_t *root;
    const char *text; /* the document of a JSONL line; doc_* count from it */
};

/* ---- bytes of a file ---- */

void docs_look(const char *path, struct docs_file *f)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0)
        die_errno("cannot open '%s'", path);
    close(fd);
    if (S_ISDIR(st.st_mode))
        die("'%s' is a folder; name the files in it", path);
    if (!S_ISREG(st.st_mode))
        die("'%s' is not a plain file, and only such can be cut into parts", path);
    *f = (struct docs_file){ .path = path,
                             .bytes = st.st_size,
                             .mtime = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec };
}

static void fill(struct docs *d)
{
    int64_t left = d->size - (d->at + (int64_t)d->n);
    size_t want = d->room - d->n;
    if ((int64_t)want > left)
        want = (size_t)left;
    while (want > 0) {
        ssize_t k = pread(d->fd, d->window + d->n, want, (off_t)(d->at + (int64_t)d->n));
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            die_errno("cannot read '%s'", d->path);
        if (k == 0)
            die("'%s' became shorter while it was read", d->path);
        d->n += (size_t)k;
        want -= (size_t)k;
    }
}

static bool in_window(const struct docs *d, int64_t off)
{
    return off >= d->at && off < d->at + (int64_t)d->n;
}

static void load(struct docs *d, int64_t off)
{
    d->at = off;
    d->n = 0;
    fill(d);
}

/* The bytes at off (< size), as many as are in memory: at least one. A document being scanned stays in
 * the window while it fills no more than half of it. */
static const char *see(struct docs *d, int64_t off, size_t *n)
{
    if (!in_window(d, off)) {
        int64_t end = d->at + (int64_t)d->n;
        if (d->keep >= d->at && off == end && end - d->keep <= (int64_t)(d->room / 2)) {
            d->n = (size_t)(end - d->keep);
            memmove(d->window, d->window + (d->keep - d->at), d->n);
            d->at = d->keep;
            fill(d);
        } else
            load(d, off);
    }
    *n = (size_t)(d->at + (int64_t)d->n - off);
    return d->window + (off - d->at);
}

/* One byte, usually one behind others that were looked at. */
static char byte_at(struct docs *d, int64_t off)
{
    int64_t back = (int64_t)(d->room / 4);
    if (!in_window(d, off))
        load(d, off > back ? off - back : 0);
    return d->window[off - d->at];
}

static bool same_bytes(struct docs *d, int64_t off, const char *s, size_t len)
{
    while (len > 0) {
        size_t n;
        const char *p = see(d, off, &n);
        n = n < len ? n : len;
        if (memcmp(p, s, n) != 0)
            return false;
        off += (int64_t)n;
        s += n;
        len -= n;
    }
    return true;
}

/* ---- lines ---- */

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

static struct line line_at(struct docs *d, int64_t begin)
{
    struct line l = { .begin = begin, .blank = true };
    for (l.end = begin; l.end < d->size;) {
        size_t n;
        const char *p = see(d, l.end, &n);
        const char *lf = memchr(p, '\n', n);
        size_t len = lf ? (size_t)(lf - p) : n;
        for (size_t i = 0; l.blank && i < len; i++)
            l.blank = is_blank(p[i]);
        l.end += (int64_t)len;
        if (lf)
            break;
    }
    l.next = l.end < d->size ? l.end + 1 : l.end;
    return l;
}

static void step(struct docs *d, const struct line *l)
{
    d->pos = l->next;
    if (d->line_number)
        d->line_number++;
}

/* The end of [begin, next) without its last line end. */
static int64_t without_line_end(struct docs *d, int64_t begin, int64_t next)
{
    if (next > begin && byte_at(d, next - 1) == '\n') {
        next--;
        if (next > begin && byte_at(d, next - 1) == '\r')
            next--;
    }
    return next;
}

/* The bytes [begin, end) of a line are the separator, give or take a CR. */
static bool is_separator(struct docs *d, int64_t begin, int64_t end)
{
    int64_t len = (int64_t)strlen(d->o.separator);
    if (end - begin == len + 1)
        return byte_at(d, end - 1) == '\r' && same_bytes(d, begin, d->o.separator, (size_t)len);
    return end - begin == len && same_bytes(d, begin, d->o.separator, (size_t)len);
}

/* Looks back from the line start q > 0: the line that ends there is blank. */
static bool blank_before(struct docs *d, int64_t q)
{
    for (int64_t i = q - 2; i >= 0; i--) {
        char c = byte_at(d, i);
        if (c == '\n')
            break;
        if (!is_blank(c))
            return false;
    }
    return true;
}

static bool separator_before(struct docs *d, int64_t q)
{
    int64_t begin = q - 1;
    int64_t most = (int64_t)strlen(d->o.separator) + 1;
    while (begin > 0 && q - 1 - begin <= most && byte_at(d, begin - 1) != '\n')
        begin--;
    return is_separator(d, begin, q - 1);
}

/* ---- from file to file ---- */

static bool ends_in(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* From a byte where this part begins in a file to the first line at or after it that may start a document. */
static void find_start(struct docs *d, int64_t lo)
{
    d->pos = lo;
    d->line_number = lo == 0;
    if (lo == 0)
        return;
    if (!d->json && d->o.split == DOCS_FILE) {
        d->pos = d->size;
        return;
    }
    if (byte_at(d, lo - 1) != '\n')
        d->pos = line_at(d, lo).next;
    if (d->json || d->pos >= d->hi)
        return;
    if (d->o.split == DOCS_PARA && !blank_before(d, d->pos)) {
        struct line l;
        for (; d->pos < d->hi; d->pos = l.next) {
            l = line_at(d, d->pos);
            if (l.blank)
                break;
        }
    } else if (d->o.split == DOCS_SEP && !separator_before(d, d->pos)) {
        struct line l = { 0 };
        for (; d->pos < d->hi; d->pos = l.next) {
            l = line_at(d, d->pos);
            if (is_separator(d, l.begin, l.end)) {
                d->pos = l.next;
                break;
            }
        }
    }
}

static void open_file(struct docs *d, int64_t lo, int64_t hi)
{
    const struct docs_file *f = &d->files[d->file];
    struct stat st;
    d->fd = open(f->path, O_RDONLY | O_CLOEXEC);
    if (d->fd < 0 || fstat(d->fd, &st) < 0)
        die_errno("cannot open '%s'", f->path);
    if (st.st_size != f->bytes)
        die("'%s' changed: it had %lld bytes and has %lld now", f->path, (long long)f->bytes,
            (long long)st.st_size);
    (void)posix_fadvise(d->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    d->path = f->path;
    d->size = f->bytes;
    d->hi = hi;
    d->json = d->o.format == DOCS_JSONL ||
              (d->o.format == DOCS_AUTO && (ends_in(f->path, ".jsonl") || ends_in(f->path, ".ndjson")));
    d->at = 0;
    d->n = 0;
    d->keep = -1;
    find_start(d, lo);
}

/* To the next file that has bytes of this part; false when there is none. */
static bool next_file(struct docs *d)
{
    if (d->fd >= 0) {
        close(d->fd);
        d->fd = -1;
        d->base += d->size;
        d->file++;
    }
    for (; d->file < d->n_files; d->base += d->files[d->file++].bytes) {
        int64_t bytes = d->files[d->file].bytes;
        int64_t lo = d->cut_lo > d->base ? d->cut_lo - d->base : 0;
        int64_t hi = d->cut_hi - d->base < bytes ? d->cut_hi - d->base : bytes;
        if (lo < hi) {
            open_file(d, lo, hi);
            return true;
        }
    }
    return false;
}

/* total * k / n, rounded down, without overflow. */
static int64_t cut(int64_t total, int64_t k, int64_t n) { return total / n * k + total % n * k / n; }

struct docs *docs_open(const struct docs_file *files, int n, const struct docs_options *o, int64_t part,
                       int64_t parts)
{
    if (part < 0 || part >= parts)
        bug("part %lld of %lld", (long long)part, (long long)parts);
    int64_t total = 0;
    for (int i = 0; i < n; i++)
        total += files[i].bytes;
    struct docs *d = xcalloc(1, sizeof *d);
    d->files = files;
    d->n_files = n;
    d->o = *o;
    d->cut_lo = cut(total, part, parts);
    d->cut_hi = cut(total, part + 1, parts);
    d->fd = -1;
    d->room = o->window ? o->window : 4 << 20;
    d->window = xmalloc(d->room);
    return d;
}

void docs_close(struct docs *d)
{
    if (!d)
        return;
    if (d->fd >= 0)
        close(d->fd);
    json_decref(d->root);
    buf_free(&d->long_line);
    free(d->window);
    free(d);
}

/* ---- one document ---- */

static void next_line_doc(struct docs *d)
{
    struct line l = line_at(d, d->pos);
    d->doc_begin = l.begin;
    d->doc_end = l.blank ? l.begin : without_line_end(d, l.begin, l.next);
    step(d, &l);
}

static bool next_para_doc(struct docs *d)
{
    struct line l = line_at(d, d->pos);
    while (l.blank) {
        step(d, &l);
        if (d->pos >= d->hi)
            return false;
        l = line_at(d, d->pos);
    }
    d->doc_begin = d->keep = l.begin;
    while (!l.blank) {
        d->doc_end = l.next;
        step(d, &l);
        if (d->pos >= d->size)
            break;
        l = line_at(d, d->pos);
    }
    d->doc_end = without_line_end(d, d->doc_begin, d->doc_end);
    return true;
}

static void next_sep_doc(struct docs *d)
{
    d->doc_begin = d->doc_end = d->keep = d->pos;
    while (d->pos < d->size) {
        struct line l = line_at(d, d->pos);
        step(d, &l);
        if (is_separator(d, l.begin, l.end))
            break;
        d->doc_end = l.next;
    }
    d->doc_end = without_line_end(d, d->doc_begin, d->doc_end);
}

/* Bytes [begin, end) in one piece of memory. */
static const char *gather(struct docs *d, int64_t begin, int64_t end)
{
    size_t n;
    const char *p = see(d, begin, &n);
    if ((int64_t)n >= end - begin)
        return p;
    buf_clear(&d->long_line);
    while (begin < end) {
        p = see(d, begin, &n);
        if ((int64_t)n > end - begin)
            n = (size_t)(end - begin);
        buf_add(&d->long_line, p, n);
        begin += (int64_t)n;
    }
    return d->long_line.data;
}

/* Takes the text out of one line. 0, or -1 with err_last(). */
static int try_json(struct docs *d, const struct line *l)
{
    int64_t begin = l->begin;
    if (l->end - begin > d->o.max_line)
        return err_set("the line has %lld bytes, more than %lld (--max-line)", (long long)(l->end - begin),
                       (long long)d->o.max_line);
    if (begin == 0 && l->end >= 3 && same_bytes(d, 0, "\xef\xbb\xbf", 3))
        begin = 3; /* a byte order mark is no part of JSON */
    const char *text = gather(d, begin, l->end);
    json_error_t e;
    d->root = json_loadb(text, (size_t)(l->end - begin), JSON_ALLOW_NUL, &e);
    if (!d->root)
        return err_set("bad JSON: %s", e.text);
    if (!json_is_object(d->root))
        return err_set("the line is not a JSON object");
    json_t *value = json_object_get(d->root, d->o.text_key);
    if (!value)
        return err_set("there is no key '%s'", d->o.text_key);
    if (!json_is_string(value))
        return err_set("the value of '%s' is not a string", d->o.text_key);
    d->text = json_string_value(value);
    d->doc_end = (int64_t)json_string_length(value);
    return 0;
}

/* False: the line was bad and is skipped. */
static bool next_json_doc(struct docs *d)
{
    d->keep = d->pos;
    struct line l = line_at(d, d->pos);
    int64_t number = d->line_number;
    step(d, &l);
    d->doc_begin = d->doc_end = 0;
    if (l.blank || try_json(d, &l) == 0)
        return true;
    char where[48];
    snprintf(where, sizeof where, number ? "%lld" : "byte %lld", (long long)(number ? number : l.begin));
    if (!d->o.skip_bad)
        die("%s:%s: %s", d->path, where, err_last());
    note(2, "skipped %s:%s: %s", d->path, where, err_last());
    d->counts.bad++;
    return false;
}

/* Finds the next document of the open file, of any length; false when there was none after all. */
static bool next_in_file(struct docs *d)
{
    d->keep = d->pos;
    if (d->json)
        return next_json_doc(d);
    switch (d->o.split) {
    case DOCS_LINE:
        next_line_doc(d);
        return true;
    case DOCS_PARA:
        return next_para_doc(d);
    case DOCS_SEP:
        next_sep_doc(d);
        return true;
    case DOCS_FILE:
        d->doc_begin = d->pos;
        d->doc_end = d->pos = d->size;
        return true;
    }
    bug("split %d", (int)d->o.split);
}

bool docs_next(struct docs *d, int64_t *bytes)
{
    json_decref(d->root);
    d->root = NULL;
    d->text = NULL;
    for (;;) {
        while (d->fd < 0 || d->pos >= d->hi)
            if (!next_file(d))
                return false;
        bool found = next_in_file(d);
        d->keep = -1;
        if (found && d->doc_end > d->doc_begin)
            break;
        d->counts.empty += found;
        json_decref(d->root);
        d->root = NULL;
    }
    docs_rewind(d);
    *bytes = d->doc_end - d->doc_begin;
    d->counts.docs++;
    d->counts.bytes += *bytes;
    return true;
}

const char *docs_piece(struct docs *d, size_t *n)
{
    int64_t left = d->doc_end - d->doc_pos;
    if (left == 0)
        return NULL;
    const char *p = d->text ? d->text + d->doc_pos : see(d, d->doc_pos, n);
    if (d->text || (int64_t)*n > left)
        *n = (size_t)left;
    d->doc_pos += (int64_t)*n;
    return p;
}

void docs_rewind(struct docs *d) { d->doc_pos = d->doc_begin; }

const struct docs_counts *docs_counts(const struct docs *d) { return &d->counts; }

int64_t docs_input_bytes(const struct docs *d) { return d->cut_hi - d->cut_lo; }

int64_t docs_input_done(const struct docs *d)
{
    bool inside = !d->text && d->doc_pos < d->doc_end;
    int64_t here = d->fd < 0 ? 0 : inside ? d->doc_pos : d->pos < d->hi ? d->pos : d->hi;
    int64_t at = d->base + here - d->cut_lo;
    return at < 0 ? 0 : at > docs_input_bytes(d) ? docs_input_bytes(d) : at;
}
