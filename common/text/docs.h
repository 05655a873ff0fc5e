/* docs.h - the documents of text and JSONL files, one after the other, in bounded memory
 * SPDX-License-Identifier: MIT
 *
 * A line ends with LF or at the end of its file; it is blank when it holds nothing but spaces, tabs and CRs.
 * "The last line end" of a document is its final LF, or CR LF. What a document is, byte for byte:
 *   file    all bytes of the file
 *   line    each line that is not blank, without its line end
 *   para    blank lines separate: from the first byte of a line that is not blank and has none such before
 *           it, to the end of the last such line, inner line ends kept, without the last line end
 *   sep     lines equal to the separator (a CR before the LF does not count) separate: all bytes between two
 *           of them, without the last line end
 *   JSONL   the string under the text key of the object on each line that is not blank, decoded to UTF-8
 * No document crosses files. Documents without bytes are skipped and counted, so are blank lines in `line` and
 * JSONL. A byte order mark at the begin of a file is dropped in JSONL, of which it is no part, and kept in
 * text, where every byte is the document's (Python's utf-8 and HF's text loader keep it too).
 *
 * Packed files (gzip, zstd; stream.h) hold text or JSONL and are the same documents as their contents in a
 * plain file: `offset`, `line` and `byte` below are then those of the contents.
 *
 * Parts: the files' bytes, as they lie on the disk, one file after the other, are cut evenly. Part k of n
 * holds the documents of plain files whose first byte (JSONL: the line's first byte) lies in
 * [size*k/n, size*(k+1)/n), and all documents of the packed files whose first byte lies there: these can only
 * be read from their begin. Whether a document starts at a line is decided by that line and the one before, so
 * the documents and their order do not depend on n. The standard input cannot be cut: it is for n = 1.
 *
 * Memory: one window (4 MiB). A document longer than half of it is read twice from a plain file. A stream's
 * window grows to 64 MiB first; the documents that are longer still are unpacked again by a second reader, and
 * after each docs_rewind(), of two at most, by one more. Each goes forward only, so a packed file is unpacked four
 * times at most, however many long documents it has. On the standard input, which is there once, the window holds a whole
 * document, of at most `max_line` bytes.
 */
#ifndef SSM_DOCS_H
#define SSM_DOCS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/utf8.h"

/* auto: by the name, .jsonl and .ndjson are JSONL, .gz or .zst may follow; else text */
enum docs_format { DOCS_AUTO, DOCS_TEXT, DOCS_JSONL };
enum docs_split { DOCS_FILE, DOCS_LINE, DOCS_PARA, DOCS_SEP };

struct docs_file {
    const char *path;      /* the caller's */
    int64_t bytes, mtime;  /* of the standard input 0; mtime in ns */
    uint64_t device, node; /* the same for two names of one file */
    int pack;              /* an enum stream_pack */
    bool is_stdin;
};

struct docs_options {
    enum docs_format format;
    enum docs_split split; /* for text */
    const char *separator; /* for DOCS_SEP: not empty, no LF or CR in it */
    const char *text_key;  /* for JSONL; NULL: the document is the line itself, whatever it holds */
    const char *id_key;    /* for JSONL: the key of the documents' ids (strings or integers), or NULL, as with text_key */
    int64_t max_line;      /* JSONL: longer lines are bad; standard input: longer documents are fatal */
    bool skip_bad;         /* count bad JSONL lines instead of dying */
    bool mend;             /* JSONL: U+FFFD for what is no UTF-8, and for lone surrogates */
    size_t window;         /* bytes of a file in memory at once, at least 4; 0: 4 MiB, streams 64 MiB */
};

struct docs_counts {
    int64_t docs, bytes; /* handed out */
    int64_t empty;       /* without bytes */
    int64_t bad;         /* JSONL lines skipped */
};

/* Looks at an input; "-" is the standard input. unpack: what begins like gzip or zstd is unpacked; names that
 * say so and do not, and formats that cannot be text, are refused. Dies when it is not there, a folder, no
 * plain file, or may not be read. */
void docs_look(const char *path, bool unpack, struct docs_file *f);
/* These options read the file as JSONL. */
bool docs_is_jsonl(const struct docs_file *f, const struct docs_options *o);

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

/* The current document's id, *n bytes; NULL when there is no id_key. */
const char *docs_id(const struct docs *d, size_t *n);
/* U+FFFD that `mend` put into the current document's line. */
int64_t docs_replaced(const struct docs *d);
/* Where byte `at` of the current document lies, for messages: "FILE:byte 17". JSONL: "FILE:LINE". */
const char *docs_where(struct docs *d, int64_t at);
/* The current document is counted as bad, not as handed out. */
void docs_count_bad(struct docs *d, int64_t bytes);

const struct docs_counts *docs_counts(const struct docs *d);
/* Bytes of input behind us (packed ones of packed files), of docs_input_bytes(); the standard input not
 * counted, whose size nobody knows. */
int64_t docs_input_done(const struct docs *d);
int64_t docs_input_bytes(const struct docs *d);

#endif
