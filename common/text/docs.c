/* docs.c - the documents of text and JSONL files, one after the other, in bounded memory
 * SPDX-License-Identifier: MIT
 *
 * A view of a file is in memory (view.h). The scanner goes forward line by line and finds where a document
 * begins and ends; only then are its bytes handed out. A document that fits is still in view by then; a longer
 * one is read again, piece by piece, so its length does not matter. Offsets are within the file unless they
 * say otherwise.
 */
#include "docs.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "jsonl.h"
#include "view.h"

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

    struct view v; /* of the open file */
    int64_t hi;    /* documents that begin at hi or later are not ours */
    bool json;
    int64_t pos;         /* of the next line to look at */
    int64_t line_number; /* of that line; 0: unknown, since this part did not begin with the file */

    int64_t doc_begin, doc_end, doc_pos;
    struct buf long_line; /* a JSONL line that straddles windows */
    struct jsonl line;    /* the document of a JSONL line; doc_* count from its text */
};

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

/* ---- lines ---- */

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

static struct line line_at(struct docs *d, int64_t begin)
{
    struct line l = { .begin = begin, .blank = true };
    for (l.end = begin; l.end < d->v.size;) {
        size_t n;
        const char *p = view_see(&d->v, l.end, &n);
        const char *lf = memchr(p, '\n', n);
        size_t len = lf ? (size_t)(lf - p) : n;
        for (size_t i = 0; l.blank && i < len; i++)
            l.blank = is_blank(p[i]);
        l.end += (int64_t)len;
        if (lf)
            break;
    }
    l.next = l.end < d->v.size ? l.end + 1 : l.end;
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
    if (next > begin && view_byte(&d->v, next - 1) == '\n') {
        next--;
        if (next > begin && view_byte(&d->v, next - 1) == '\r')
            next--;
    }
    return next;
}

/* The bytes [begin, end) of a line are the separator, give or take a CR. */
static bool is_separator(struct docs *d, int64_t begin, int64_t end)
{
    int64_t len = (int64_t)strlen(d->o.separator);
    if (end - begin == len + 1)
        return view_byte(&d->v, end - 1) == '\r' && view_same(&d->v, begin, d->o.separator, (size_t)len);
    return end - begin == len && view_same(&d->v, begin, d->o.separator, (size_t)len);
}

/* Looks back from the line start q > 0: the line that ends there is blank. */
static bool blank_before(struct docs *d, int64_t q)
{
    for (int64_t i = q - 2; i >= 0; i--) {
        char c = view_byte(&d->v, i);
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
    while (begin > 0 && q - 1 - begin <= most && view_byte(&d->v, begin - 1) != '\n')
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
        d->pos = d->v.size;
        return;
    }
    if (view_byte(&d->v, lo - 1) != '\n')
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
    view_open(&d->v, f->path, f->bytes);
    d->hi = hi;
    d->json = d->o.format == DOCS_JSONL ||
              (d->o.format == DOCS_AUTO && (ends_in(f->path, ".jsonl") || ends_in(f->path, ".ndjson")));
    find_start(d, lo);
}

/* To the next file that has bytes of this part; false when there is none. */
static bool next_file(struct docs *d)
{
    if (d->v.fd >= 0) {
        view_close(&d->v);
        d->base += d->v.size;
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
    view_init(&d->v, o->window ? o->window : 4 << 20);
    return d;
}

void docs_close(struct docs *d)
{
    if (!d)
        return;
    jsonl_clear(&d->line);
    buf_free(&d->long_line);
    view_release(&d->v);
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
    d->doc_begin = d->v.keep = l.begin;
    while (!l.blank) {
        d->doc_end = l.next;
        step(d, &l);
        if (d->pos >= d->v.size)
            break;
        l = line_at(d, d->pos);
    }
    d->doc_end = without_line_end(d, d->doc_begin, d->doc_end);
    return true;
}

static void next_sep_doc(struct docs *d)
{
    d->doc_begin = d->doc_end = d->v.keep = d->pos;
    while (d->pos < d->v.size) {
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
    const char *p = view_see(&d->v, begin, &n);
    if ((int64_t)n >= end - begin)
        return p;
    buf_clear(&d->long_line);
    while (begin < end) {
        p = view_see(&d->v, begin, &n);
        if ((int64_t)n > end - begin)
            n = (size_t)(end - begin);
        buf_add(&d->long_line, p, n);
        begin += (int64_t)n;
    }
    return d->long_line.data;
}

/* The text of one line of JSONL. 0, or -1 with err_last(). */
static int try_json(struct docs *d, const struct line *l)
{
    int64_t begin = l->begin;
    if (l->end - begin > d->o.max_line)
        return err_set("the line has %lld bytes, more than %lld (--max-line)", (long long)(l->end - begin),
                       (long long)d->o.max_line);
    if (begin == 0 && l->end >= 3 && view_same(&d->v, 0, "\xef\xbb\xbf", 3))
        begin = 3; /* a byte order mark is no part of JSON */
    const char *text = gather(d, begin, l->end);
    if (jsonl_try_text(&d->line, text, (size_t)(l->end - begin), d->o.text_key) < 0)
        return -1;
    d->doc_end = (int64_t)d->line.n;
    return 0;
}

/* False: the line was bad and is skipped. */
static bool next_json_doc(struct docs *d)
{
    d->v.keep = d->pos;
    struct line l = line_at(d, d->pos);
    int64_t number = d->line_number;
    step(d, &l);
    d->doc_begin = d->doc_end = 0;
    if (l.blank || try_json(d, &l) == 0)
        return true;
    char where[48];
    snprintf(where, sizeof where, number ? "%lld" : "byte %lld", (long long)(number ? number : l.begin));
    if (!d->o.skip_bad)
        die("%s:%s: %s", d->v.path, where, err_last());
    note(2, "skipped %s:%s: %s", d->v.path, where, err_last());
    d->counts.bad++;
    return false;
}

/* Finds the next document of the open file, of any length; false when there was none after all. */
static bool next_in_file(struct docs *d)
{
    d->v.keep = d->pos;
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
        d->doc_end = d->pos = d->v.size;
        return true;
    }
    bug("split %d", (int)d->o.split);
}

bool docs_next(struct docs *d, int64_t *bytes)
{
    jsonl_clear(&d->line);
    for (;;) {
        while (d->v.fd < 0 || d->pos >= d->hi)
            if (!next_file(d))
                return false;
        bool found = next_in_file(d);
        d->v.keep = -1;
        if (found && d->doc_end > d->doc_begin)
            break;
        d->counts.empty += found;
        jsonl_clear(&d->line);
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
    const char *p = d->line.text ? d->line.text + d->doc_pos : view_see(&d->v, d->doc_pos, n);
    if (d->line.text || (int64_t)*n > left)
        *n = (size_t)left;
    d->doc_pos += (int64_t)*n;
    return p;
}

void docs_rewind(struct docs *d) { d->doc_pos = d->doc_begin; }

const struct docs_counts *docs_counts(const struct docs *d) { return &d->counts; }

int64_t docs_input_bytes(const struct docs *d) { return d->cut_hi - d->cut_lo; }

int64_t docs_input_done(const struct docs *d)
{
    bool inside = !d->line.text && d->doc_pos < d->doc_end;
    int64_t here = d->v.fd < 0 ? 0 : inside ? d->doc_pos : d->pos < d->hi ? d->pos : d->hi;
    int64_t at = d->base + here - d->cut_lo;
    return at < 0 ? 0 : at > docs_input_bytes(d) ? docs_input_bytes(d) : at;
}
