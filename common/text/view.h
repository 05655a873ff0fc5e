/* view.h - a moving view of a file: some of its bytes are in memory
 * SPDX-License-Identifier: MIT
 *
 * For a scanner that goes forward and now and then looks back. All that reads dies when it cannot, or when
 * the file became shorter. Offsets are within the file.
 */
#ifndef SSM_VIEW_H
#define SSM_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct view {
    int fd; /* -1: no file is open */
    const char *path;
    int64_t size;
    char *data;
    size_t room, n; /* bytes that fit; that are there */
    int64_t at;     /* where they begin */
    int64_t keep;   /* the scanner wants to come back to here, or -1 */
};

/* room: at least 4 bytes. */
void view_init(struct view *v, size_t room);
void view_release(struct view *v);
/* Dies when it has not `bytes` bytes any more. The path must stay. */
void view_open(struct view *v, const char *path, int64_t bytes);
void view_close(struct view *v);

/* The bytes at off (< size), as many as are in memory: at least one. What is kept stays in view while it
 * fills no more than half of it. */
const char *view_see(struct view *v, int64_t off, size_t *n);
/* One byte, usually one behind others that were looked at. */
char view_byte(struct view *v, int64_t off);
bool view_same(struct view *v, int64_t off, const char *s, size_t len);

#endif
