/* docs.h - the documents of text and JSONL files, one after the other, in bounded memory
 * SPDX-License-Identifier: MIT
 *
 * A line ends with LF or at the end of its file; it is blank when it holds nothing but spaces, tabs and CRs.
 * "The last line end" of a document is its final LF, or CR LF. What a document is, byte for byte:
 *   file    all bytes of the file
 *   line    each line that is not blank, without its line end
 *   para    blank lines separate: from the first byte of a line that is not blank and has none such before
 * it, to the end of the last such line, inner line ends kept, without the last line end sep     lines equal
 * to the separator (a CR before the LF does not count) separate: all bytes between two of them, without the
 * last line end JSONL   the string under the text key of the object on each line that is not blank, decoded
 * to UTF-8 No document crosses files. Documents without bytes are skipped and counted, so are blank lines in
 * `line` and JSONL.
 *
 * Parts: the files' bytes, one file after the other, are cut evenly, and part k of n holds the documents
 * whose first byte (JSONL: the line's first byte) lies in [size*k/n, size*(k+1)/n). Whether a document starts
 * at a line is decided by that line and the one before, so the documents and their order do not depend on n.
 */
#ifndef SSM_DOCS_H
#define SSM_DOCS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum docs_format { DOCS_AUTO, DOCS_TEXT, DOCS_JSONL }; /* auto: by the name, .jsonl and .ndjson are JSONL */
enum docs_split { DOCS_FILE, DOCS_LINE, DOCS_PARA, DOCS_SEP };

struct docs_file {
    const char *path;     /* the caller's */
    int64_t bytes, mtime; /* mtime in ns */
};

struct docs_options {
    enum docs_format format;
    enum docs_split split; /* for text */
    const char *separator; /* for DOCS_SEP: not empty, no LF or CR in it */
    const char *text_key;  /* for JSONL */
    int64_t max_line;      /* for JSONL: longer lines are bad */
    bool skip_bad;         /* count bad JSONL lines instead of dying */
    size_t window;         /* bytes of a file in memory at once, at least 4; 0: 4 MiB */
};

struct docs_counts {
    int64_t docs, bytes; /* handed out */
    int64_t empty;       /* without bytes */
    int64_t bad;         /* JSONL lines skipped */
};

/* Looks at an input. Dies when it is not there, not a plain file, or may not be read. */
void docs_look(const char *path, struct docs_file *f);

struct docs;
/* `files` and the strings of `o` must live as long as the reader. Reads nothing yet. */
struct docs *docs_open(const struct docs_file *files, int n, const struct docs_options *o, int64_t part,
                       int64_t parts);
void docs_close(struct docs *d);

/* Goes to the next document and tells its bytes (> 0), or returns false after the last. Dies, in one line
 * with file and line (or byte offset, where a part does not begin with its file), when an input cannot be
 * read, changes while it is read, or holds a bad line. */
bool docs_next(struct docs *d, int64_t *bytes);
/* The next piece of the current document, *n bytes, valid until the next call; NULL at its end. */
const char *docs_piece(struct docs *d, size_t *n);
/* docs_piece() begins again with the first piece. */
void docs_rewind(struct docs *d);

const struct docs_counts *docs_counts(const struct docs *d);
/* Bytes of input behind us, of docs_input_bytes() that this part begins with. */
int64_t docs_input_done(const struct docs *d);
int64_t docs_input_bytes(const struct docs *d);

#endif
