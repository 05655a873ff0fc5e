/* docs.c - the documents of text and JSONL files, one after the other, in bounded memory
 * SPDX-License-Identifier: MIT
 *
 * A view of a file is in memory (view.h). The scanner goes forward line by line and finds where a document
 * begins and ends; only then are its bytes handed out. A document that fits is still in view by then; a longer
 * one is read again, piece by piece, so its length does not matter. From a plain file the scanner's own view
 * does that; a stream has views that follow the scanner's and go forward too. Offsets are within the file, or
 * what it unpacks to, unless they say otherwise.
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
#include "stream.h"
#include "view.h"

struct line {
    int64_t begin, end, next; /* end: of its LF, or of the file; next: where the line after it begins */
    bool blank;
};

enum { ROOM = 4 << 20, STREAM_MOST = 64 << 20, FOLLOW_ROOM = 256 << 10, STDIN_LEAST = 1 << 20 };
/* Times that a document is read: is it good? which share is it of? what are its tokens? */
enum { FOLLOWERS = 3 };

struct docs {
    const struct docs_file *files;
    int n_files, file; /* file: the one that is open, or the next to be */
    struct docs_options o;
    int64_t cut_lo, cut_hi; /* this part, in bytes of all files together */
    int64_t base;           /* where the current file begins in these */
    int64_t ours, behind;   /* bytes of this part, plain and packed; those of the files behind us */
    struct docs_counts counts;

    struct view v;         /* of the open file */
    struct view follow[FOLLOWERS]; /* of a stream: what is handed out, at first and after each rewind */
    int pass;              /* of the current document: times it was rewound */
    bool in_view;          /* it lies in v */
    int64_t lo, hi;        /* documents that begin in front of lo, or at hi or later, are not ours */
    bool json, mark;       /* mark: its first line has a byte order mark, which is no part of JSON */
    int64_t pos;           /* of the next line to look at */
    int64_t line_number;   /* of that line; 0: unknown, since this part did not begin with the file */
    int64_t doc_line;      /* JSONL: of the current document */
    int64_t line_begin;    /* and its offset */

    int64_t doc_begin, doc_end, doc_pos;
    struct buf long_line; /* a JSONL line that straddles windows */
    struct buf mended, where;
    int64_t replaced;  /* by mending, in the current document's line */
    struct jsonl line; /* the document of a JSONL line; doc_* count from its text */
};

static bool ends_in(const char *s, size_t n, const char *end)
{
    size_t m = strlen(end);
    return n >= m && memcmp(s + n - m, end, m) == 0;
}

static enum stream_pack named_pack(const char *path)
{
    size_t n = strlen(path);
    return ends_in(path, n, ".gz") ? STREAM_GZIP : ends_in(path, n, ".zst") ? STREAM_ZSTD : STREAM_PLAIN;
}

/* What the file is packed with: its first bytes say, and its name must not say otherwise. */
static int look_at_pack(const char *path, int fd)
{
    unsigned char first[STREAM_MAGIC];
    ssize_t k = pread(fd, first, sizeof first, 0);
    if (k < 0)
        die_errno("cannot read '%s'", path);
    enum stream_pack named = named_pack(path), found = stream_detect(first, (size_t)k);
    const char *what = stream_foreign(first, (size_t)k);
    if (what)
        die("'%s' is %s, which is not read: unpack it, or --compression none takes its bytes", path, what);
    if (named != STREAM_PLAIN && k < (ssize_t)sizeof first)
        die("'%s' ends before its first %s data: it was cut off", path, stream_pack_name(named));
    if (named != STREAM_PLAIN && found != named)
        die("'%s' is named as %s and is %s: rename it, or --compression none takes its bytes", path,
            stream_pack_name(named), found == STREAM_PLAIN ? "not packed" : stream_pack_name(found));
    return (int)found;
}

void docs_look(const char *path, bool unpack, struct docs_file *f)
{
    struct stat st;
    if (strcmp(path, "-") == 0) {
        *f = (struct docs_file){ .path = path,
                                 .is_stdin = true,
                                 .pack = unpack ? STREAM_DETECT : STREAM_PLAIN };
        return;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0)
        die_errno("cannot open '%s'", path);
    if (S_ISDIR(st.st_mode))
        die("'%s' is a folder; name the files in it (find '%s' -type f | ... --files-from -)", path, path);
    if (!S_ISREG(st.st_mode))
        die("'%s' is not a plain file, and only such can be cut into parts (- is the standard input)", path);
    *f = (struct docs_file){ .path = path,
                             .bytes = st.st_size,
                             .mtime = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec,
                             .device = (uint64_t)st.st_dev,
                             .node = (uint64_t)st.st_ino,
                             .pack = unpack ? look_at_pack(path, fd) : STREAM_PLAIN };
    close(fd);
}

bool docs_is_jsonl(const struct docs_file *f, const struct docs_options *o)
{
    size_t n = strlen(f->path);
    if (o->format != DOCS_AUTO)
        return o->format == DOCS_JSONL;
    if (f->pack != STREAM_PLAIN && named_pack(f->path) == STREAM_GZIP)
        n -= strlen(".gz");
    else if (f->pack != STREAM_PLAIN && named_pack(f->path) == STREAM_ZSTD)
        n -= strlen(".zst");
    return ends_in(f->path, n, ".jsonl") || ends_in(f->path, n, ".ndjson");
}

/* ---- lines ---- */

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

static struct line line_at(struct docs *d, int64_t begin)
{
    struct line l = { .begin = begin, .blank = true };
    for (l.end = begin; view_has(&d->v, l.end);) {
        size_t n;
        const char *p = view_see(&d->v, l.end, &n);
        const char *lf = memchr(p, '\n', n);
        size_t len = lf ? (size_t)(lf - p) : n;
        for (size_t i = 0; l.blank && i < len; i++)
            l.blank = is_blank(p[i]);
        l.end += (int64_t)len;
        if (lf) {
            l.next = l.end + 1;
            return l;
        }
    }
    l.next = l.end;
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

/* The first line that begins behind `off` and before d->hi, or d->hi: who has the rest of a long line need not see it. */
static int64_t next_begin(struct docs *d, int64_t off)
{
    for (size_t n; off < d->hi; off += (int64_t)n) {
        const char *p = view_see(&d->v, off, &n), *lf = memchr(p, '\n', n);
        if (lf)
            return off + (lf - p) + 1;
    }
    return d->hi;
}

/* From a byte where this part begins in a file to the first line at or after it that may start a document. */
static void find_start(struct docs *d, int64_t lo)
{
    d->pos = lo;
    d->line_number = lo == 0;
    d->mark = lo == 0 && d->json && view_has(&d->v, 2) && view_same(&d->v, 0, "\xef\xbb\xbf", 3);
    if (lo == 0)
        return;
    if (!d->json && d->o.split == DOCS_FILE) {
        d->pos = d->v.size;
        return;
    }
    if (view_byte(&d->v, lo - 1) != '\n')
        d->pos = next_begin(d, lo);
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

/* Which bytes of a file are this part's; false: none. */
static bool share(const struct docs *d, const struct docs_file *f, int64_t base, int64_t *lo, int64_t *hi)
{
    *lo = d->cut_lo > base ? d->cut_lo - base : 0;
    *hi = d->cut_hi - base < f->bytes ? d->cut_hi - base : f->bytes;
    if (f->pack != STREAM_PLAIN && *lo < *hi)
        *hi = *lo == 0 ? f->bytes : 0; /* all or nothing */
    return *lo < *hi;
}

static void open_file(struct docs *d, int64_t lo, int64_t hi)
{
    const struct docs_file *f = &d->files[d->file];
    d->v.most = d->o.window ? d->v.room : STREAM_MOST;
    if (f->is_stdin) {
        int64_t most = d->o.max_line < INT64_MAX / 4 ? 2 * (d->o.max_line + STDIN_LEAST) : INT64_MAX / 2;
        d->v.most = (uint64_t)most < SIZE_MAX ? (size_t)most : SIZE_MAX;
        view_open_stdin(&d->v, f->pack);
    } else
        view_open(&d->v, f->path, f->bytes, f->pack);
    d->lo = lo;
    d->hi = d->v.stream ? INT64_MAX : hi;
    d->json = docs_is_jsonl(f, &d->o);
    find_start(d, lo);
}

static void close_file(struct docs *d)
{
    const struct docs_file *f = &d->files[d->file];
    int64_t lo, hi;
    view_close(&d->v);
    for (int i = 0; i < FOLLOWERS; i++)
        view_release(&d->follow[i]);
    if (share(d, f, d->base, &lo, &hi))
        d->behind += hi - lo;
    d->base += f->bytes;
    d->file++;
}

/* To the next file that has bytes of this part; false when there is none. */
static bool next_file(struct docs *d)
{
    if (d->v.open)
        close_file(d);
    for (; d->file < d->n_files; d->base += d->files[d->file++].bytes) {
        int64_t lo, hi;
        if (share(d, &d->files[d->file], d->base, &lo, &hi) || d->files[d->file].is_stdin) {
            open_file(d, lo, hi);
            return true;
        }
    }
    return false;
}

/* Where there may be another document of the open file. */
static bool more_here(struct docs *d)
{
    return d->v.open && d->pos < d->hi && (!d->v.stream || view_has(&d->v, d->pos));
}

/* total * k / n, rounded down, without overflow. */
static int64_t cut(int64_t total, int64_t k, int64_t n) { return total / n * k + total % n * k / n; }

struct docs *docs_open(const struct docs_file *files, int n, const struct docs_options *o, int64_t part,
                       int64_t parts)
{
    if (part < 0 || part >= parts)
        bug("part %lld of %lld", (long long)part, (long long)parts);
    int64_t total = 0, base = 0, lo, hi;
    bool has_stdin = false;
    for (int i = 0; i < n; i++) {
        total += files[i].bytes;
        has_stdin = has_stdin || files[i].is_stdin;
    }
    if (has_stdin && parts > 1)
        bug("the standard input in %lld parts", (long long)parts);
    struct docs *d = xcalloc(1, sizeof *d);
    d->files = files;
    d->n_files = n;
    d->o = *o;
    d->cut_lo = cut(total, part, parts);
    d->cut_hi = cut(total, part + 1, parts);
    for (int i = 0; i < n; base += files[i++].bytes)
        if (share(d, &files[i], base, &lo, &hi))
            d->ours += hi - lo;
    size_t room = o->window ? o->window : ROOM;
    view_init(&d->v, has_stdin && room < STDIN_LEAST ? STDIN_LEAST : room);
    for (int i = 0; i < FOLLOWERS; i++)
        d->follow[i].fd = -1;
    return d;
}

void docs_close(struct docs *d)
{
    if (!d)
        return;
    jsonl_clear(&d->line);
    buf_free(&d->long_line);
    buf_free(&d->mended);
    buf_free(&d->where);
    for (int i = 0; i < FOLLOWERS; i++)
        view_release(&d->follow[i]);
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
        if (!more_here(d))
            return false;
        l = line_at(d, d->pos);
    }
    d->doc_begin = d->v.keep = l.begin;
    while (!l.blank) {
        d->doc_end = l.next;
        step(d, &l);
        if (!view_has(&d->v, d->pos))
            break;
        l = line_at(d, d->pos);
    }
    d->doc_end = without_line_end(d, d->doc_begin, d->doc_end);
    return true;
}

static void next_sep_doc(struct docs *d)
{
    d->doc_begin = d->doc_end = d->v.keep = d->pos;
    while (view_has(&d->v, d->pos)) {
        struct line l = line_at(d, d->pos);
        step(d, &l);
        if (is_separator(d, l.begin, l.end))
            break;
        d->doc_end = l.next;
    }
    d->doc_end = without_line_end(d, d->doc_begin, d->doc_end);
}

/* [begin, end), which the scanner has seen, is in its view still. */
static bool in_view(const struct docs *d, int64_t begin, int64_t end)
{
    return begin >= d->v.at && end <= d->v.at + (int64_t)d->v.n;
}

/* The view that a stream's bytes in front of the scanner's view come from; d->v for plain files. */
static struct view *follower(struct docs *d)
{
    const struct docs_file *f = &d->files[d->file];
    struct view *v = &d->follow[d->pass < FOLLOWERS ? d->pass : FOLLOWERS - 1];
    if (!d->v.stream)
        return &d->v;
    if (f->is_stdin)
        die("the standard input: the document at byte %lld has more than %lld bytes (--max-line; a file has "
            "no "
            "such limit)",
            (long long)d->doc_begin, (long long)d->o.max_line);
    if (!v->data)
        view_init(v, d->o.window ? d->o.window : FOLLOW_ROOM);
    if (!v->open)
        view_open(v, f->path, f->bytes, f->pack);
    return v;
}

/* Bytes [begin, end) in one piece of memory. */
static const char *gather(struct docs *d, int64_t begin, int64_t end)
{
    size_t n;
    struct view *v = in_view(d, begin, end) ? &d->v : follower(d);
    const char *p = view_see(v, begin, &n);
    if ((int64_t)n >= end - begin)
        return p;
    buf_clear(&d->long_line);
    while (begin < end) {
        p = view_see(v, begin, &n);
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
    size_t len = (size_t)(l->end - l->begin);
    if (l->end - l->begin > d->o.max_line)
        return err_set("the line has %lld bytes, more than %lld (--max-line)", (long long)(l->end - l->begin),
                       (long long)d->o.max_line);
    const char *text = gather(d, l->begin, l->end);
    if (d->o.mend)
        text = jsonl_mend(text, &len, &d->mended, &d->replaced);
    if (!d->o.text_key) { /* in view, or in a buffer of ours, until the next one is looked for */
        d->line.text = text;
        d->line.n = len;
    } else if (jsonl_try_text(&d->line, text, len, d->o.text_key, d->o.id_key) < 0)
        return -1;
    d->doc_end = (int64_t)d->line.n;
    return 0;
}

/* False: the line was bad and is skipped. */
static bool next_json_doc(struct docs *d)
{
    d->v.keep = d->doc_begin = d->pos == 0 && d->mark ? 3 : d->pos;
    struct line l = line_at(d, d->doc_begin);
    d->doc_line = d->line_number;
    d->line_begin = l.begin;
    step(d, &l);
    int bad = l.blank ? 0 : try_json(d, &l);
    d->doc_begin = 0;
    if (bad == 0) {
        d->doc_end = l.blank ? 0 : d->doc_end;
        return true;
    }
    char *why = xstrdup(err_last());
    if (!d->o.skip_bad)
        die("%s: %s", docs_where(d, 0), why);
    note(2, "skipped %s: %s", docs_where(d, 0), why);
    free(why);
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
        for (d->pos = d->v.stream ? d->pos : d->v.size; view_has(&d->v, d->pos);
             d->pos = d->v.at + (int64_t)d->v.n)
            ;
        d->doc_end = d->pos;
        return true;
    }
    bug("split %d", (int)d->o.split);
}

bool docs_next(struct docs *d, int64_t *bytes)
{
    jsonl_clear(&d->line);
    d->pass = 0;
    d->replaced = 0;
    for (;;) {
        while (!more_here(d))
            if (!next_file(d))
                return false;
        bool found = next_in_file(d);
        d->v.keep = -1;
        if (found && d->doc_end > d->doc_begin)
            break;
        d->counts.empty += found;
        jsonl_clear(&d->line);
    }
    d->doc_pos = d->doc_begin;
    d->in_view = in_view(d, d->doc_begin, d->doc_end);
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
    const char *p =
        d->line.text ? d->line.text + d->doc_pos : view_see(d->in_view ? &d->v : follower(d), d->doc_pos, n);
    if (d->line.text || (int64_t)*n > left)
        *n = (size_t)left;
    d->doc_pos += (int64_t)*n;
    return p;
}

void docs_rewind(struct docs *d)
{
    d->pass += d->doc_pos > d->doc_begin;
    d->doc_pos = d->doc_begin;
}

const char *docs_id(const struct docs *d, size_t *n)
{
    *n = d->line.n_id;
    return d->line.id;
}

int64_t docs_replaced(const struct docs *d) { return d->replaced; }

const char *docs_where(struct docs *d, int64_t at)
{
    enum { ID_MOST = 80 };
    buf_clear(&d->where);
    if (!d->json)
        buf_addf(&d->where, "%s:byte %lld", d->v.path, (long long)(d->doc_begin + at));
    else if (d->doc_line)
        buf_addf(&d->where, "%s:%lld", d->v.path, (long long)d->doc_line);
    else
        buf_addf(&d->where, "%s:byte %lld", d->v.path, (long long)d->line_begin);
    if (d->line.id)
        buf_addf(&d->where, " (id '%.*s%s')", d->line.n_id < ID_MOST ? (int)d->line.n_id : ID_MOST,
                 d->line.id, d->line.n_id > ID_MOST ? "..." : "");
    return d->where.data;
}

void docs_count_bad(struct docs *d, int64_t bytes)
{
    d->counts.docs--;
    d->counts.bytes -= bytes;
    d->counts.bad++;
}

const struct docs_counts *docs_counts(const struct docs *d) { return &d->counts; }

int64_t docs_input_bytes(const struct docs *d) { return d->ours; }

int64_t docs_input_done(const struct docs *d)
{
    int64_t here = 0;
    if (d->v.open && d->v.stream && !d->files[d->file].is_stdin)
        here = stream_done(d->v.stream);
    else if (d->v.open && !d->v.stream) {
        bool inside = !d->line.text && d->doc_pos < d->doc_end;
        here = inside ? d->doc_pos : d->pos;
        here = here < d->hi ? here - d->lo : d->hi - d->lo;
    }
    int64_t done = d->behind + (here > 0 ? here : 0);
    return done < d->ours ? done : d->ours;
}
