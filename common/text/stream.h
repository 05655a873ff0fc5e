/* stream.h - bytes one after the other: out of files packed by gzip or zstd, and of the standard input
 * SPDX-License-Identifier: MIT
 *
 * A packed file is one or more gzip members (RFC 1952) or zstd frames (RFC 8878), read as one; zeros behind the
 * last gzip member are padding, anything else that is not another member or frame is an error. Checksums are
 * verified. Nothing is unpacked to disk. Memory: 128 KiB of packed bytes; gzip 44 KiB; zstd the frame's window,
 * at most 128 MiB (what zstd(1) reads without --long; larger ones are refused).
 *
 * A stream is read forward; stream_restart() goes back to its begin, which the standard input has not.
 */
#ifndef SSM_STREAM_H
#define SSM_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum stream_pack { STREAM_PLAIN, STREAM_GZIP, STREAM_ZSTD, STREAM_DETECT /* by the first bytes */ };
enum { STREAM_MAGIC = 8 }; /* bytes that tell what a file is */

/* What a file that begins with these n bytes is packed with. */
enum stream_pack stream_detect(const void *p, size_t n);
/* "xz", "bzip2", ...: what no text begins with and we do not read; NULL: nothing known. */
const char *stream_foreign(const void *p, size_t n);
/* "gzip", "zstd". */
const char *stream_pack_name(enum stream_pack pack);

struct stream;
/* `name` is for messages and must stay; the descriptor stays the caller's. from_start: it can be read with
 * pread(); else it is a pipe or a terminal. Reads nothing yet. */
struct stream *stream_open(const char *name, int fd, bool from_start, enum stream_pack pack);
void stream_close(struct stream *s);
/* The next n bytes; fewer (*got) only at the end. 0, or -1 with err_last(), which names the file, the packed
 * offset and the reason. */
int stream_try_read(struct stream *s, void *to, size_t n, size_t *got) __attribute__((warn_unused_result));
void stream_restart(struct stream *s);
/* Bytes of the file behind us. */
int64_t stream_done(const struct stream *s);

/* ---- what unpacks: ungzip.c owns zlib, unzstd.c owns libzstd ---- */

struct unpacker {
    void *(*start)(void);
    void (*again)(void *state); /* a new member or frame begins */
    /* Takes up to n_in bytes and makes up to n_out: *used and *made are set. 1: the member or frame is whole;
     * 0: it goes on; -1 with err_last(), the reason alone. */
    int (*step)(void *state, const unsigned char *in, size_t n_in, size_t *used, void *out, size_t n_out,
                size_t *made);
    void (*stop)(void *state);
};
extern const struct unpacker unpacker_gzip, unpacker_zstd;

#endif
