/* view.h - a moving view of a file or stream: some of its bytes are in memory
 * SPDX-License-Identifier: MIT
 *
 * For a scanner that goes forward and now and then looks back. All that reads dies when it cannot, or when
 * the file became shorter. Offsets are within the file, or within what a stream unpacks to.
 *
 * A plain file is looked at anywhere. A stream is unpacked forward; a look at what lies before the view begins
 * with its first byte again, which is slow, and not to be had of the standard input.
 */
#ifndef SSM_VIEW_H
#define SSM_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct stream;
struct view {
    bool open;
    int fd;
    const char *path;
    int64_t size;          /* INT64_MAX: a stream whose end was not seen */
    struct stream *stream; /* NULL: a plain file */
    char *data;
    size_t room, n; /* bytes that fit; that are there */
    size_t most;    /* of a stream: room grows up to here for what is kept */
    int64_t at;     /* where they begin */
    int64_t keep;   /* the scanner wants to come back to here, or -1 */
};

/* room: at least 4 bytes. */
void view_init(struct view *v, size_t room);
void view_release(struct view *v);
/* Dies when it has not `bytes` bytes any more. The path must stay. pack: an enum stream_pack. */
void view_open(struct view *v, const char *path, int64_t bytes, int pack);
/* The standard input, packed or not. */
void view_open_stdin(struct view *v, int pack);
void view_close(struct view *v);

/* There is a byte at off. */
bool view_more(struct view *v, int64_t off);
static inline bool view_has(struct view *v, int64_t off)
{
    return (off >= v->at && off < v->at + (int64_t)v->n) || view_more(v, off);
}
/* The bytes at off (where there is one), as many as are in memory: at least one. What is kept stays in view
 * while it fills no more than half of it. */
const char *view_see(struct view *v, int64_t off, size_t *n);
/* One byte, usually one behind others that were looked at. */
char view_byte(struct view *v, int64_t off);
bool view_same(struct view *v, int64_t off, const char *s, size_t len);

#endif
