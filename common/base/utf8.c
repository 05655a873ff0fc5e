/* utf8.c - is it UTF-8? bytes in pieces, checked or mended
 * SPDX-License-Identifier: MIT
 */
#include "utf8.h"

#include <string.h>

#include "err.h"

static const uint64_t high_bits = UINT64_C(0x8080808080808080);

size_t utf8_ascii(const void *text, size_t n)
{
    const unsigned char *p = text;
    size_t i = 0;
    uint64_t w[8];
    for (; n - i >= sizeof w; i += sizeof w) { /* eight words at once: compilers make vectors of it */
        uint64_t any = 0;
        memcpy(w, p + i, sizeof w);
        for (int k = 0; k < 8; k++)
            any |= w[k];
        if (any & high_bits)
            break;
    }
    for (; n - i >= sizeof *w; i += sizeof *w) {
        memcpy(w, p + i, sizeof *w);
        if (*w & high_bits)
            break;
    }
    while (i < n && p[i] < 0x80)
        i++;
    return i;
}

/* The bytes at p (n > 0): 1 a character of *len bytes; -1 a maximal subpart of *len bytes that is wrong; 0 the
 * begin of a character that goes on behind n. */
static int look(const unsigned char *p, size_t n, size_t *len)
{
    unsigned char b = p[0], lo = 0x80, hi = 0xbf;
    *len = 1;
    if (b < 0x80)
        return 1;
    if (b < 0xc2 || b > 0xf4)
        return -1;
    size_t all = b < 0xe0 ? 2 : b < 0xf0 ? 3 : 4;
    switch (b) {
    case 0xe0:
        lo = 0xa0;
        break; /* no long forms */
    case 0xed:
        hi = 0x9f;
        break; /* no surrogates */
    case 0xf0:
        lo = 0x90;
        break;
    case 0xf4:
        hi = 0x8f;
        break; /* nothing above U+10FFFF */
    }
    for (; *len < all; ++*len) {
        if (*len == n)
            return 0;
        if (p[*len] < lo || p[*len] > hi)
            return -1;
        lo = 0x80;
        hi = 0xbf;
    }
    return 1;
}

size_t utf8_valid(const void *text, size_t n)
{
    const unsigned char *p = text;
    size_t i = 0, len;
    while (i < n) {
        if (p[i] < 0x80)
            i += utf8_ascii(p + i, n - i);
        else if (look(p + i, n - i, &len) == 1)
            i += len;
        else
            break;
    }
    return i;
}

void utf8_begin(struct utf8 *u)
{
    u->at = 0;
    u->n = 0;
}

/* Judges what the last piece cut with the bytes that follow. Adds to u->cut until it is clear; returns how
 * many bytes of p belong to it, and *what look() said (0: still open, all of p is in it). */
static size_t finish_cut(struct utf8 *u, const unsigned char *p, size_t n, int *what)
{
    size_t used = 0, len;
    *what = 0;
    while (used < n) {
        u->cut[u->n++] = p[used];
        *what = look(u->cut, u->n, &len);
        if (*what < 0) {
            u->n--; /* that byte begins something else */
            break;
        }
        used++;
        if (*what > 0)
            break;
    }
    return used;
}

static int refuse(int64_t at, unsigned char b)
{
    return err_set("invalid UTF-8: byte 0x%02x at offset %lld", b, (long long)at);
}

int utf8_try_check(struct utf8 *u, const char *text, size_t n, bool last)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t i = 0, len;
    int what;
    if (u->n > 0) {
        i = finish_cut(u, p, n, &what);
        if (what < 0 || (what == 0 && last)) {
            u->n = 0;
            return refuse(u->at, u->cut[0]);
        }
        if (what == 0)
            return 0;
        u->at += (int64_t)u->n;
        u->n = 0;
    }
    size_t good = utf8_valid(p + i, n - i);
    u->at += (int64_t)good;
    i += good;
    if (i < n) {
        if (look(p + i, n - i, &len) < 0 || last)
            return refuse(u->at, p[i]);
        u->n = n - i;
        memcpy(u->cut, p + i, u->n);
    }
    if (last)
        u->at = 0;
    return 0;
}

static void put_mark(struct utf8 *u, struct buf *out)
{
    buf_add(out, "\xef\xbf\xbd", 3);
    u->replaced++;
}

const char *utf8_replace(struct utf8 *u, const char *text, size_t *n, bool last, struct buf *out)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t i = 0, len, end = *n;
    int what = 0;
    buf_clear(out);
    if (u->n > 0) {
        i = finish_cut(u, p, end, &what);
        if (what < 0)
            put_mark(u, out);
        else if (what > 0)
            buf_add(out, u->cut, u->n);
        if (what != 0)
            u->n = 0;
    }
    while (i < end) {
        size_t good = utf8_valid(p + i, end - i);
        bool clean = i == 0 && out->len == 0; /* so far: no need to copy */
        if (i + good == end) {
            if (clean)
                return text;
        } else if (look(p + i + good, end - i - good, &len) == 0) {
            u->n = end - i - good;
            memcpy(u->cut, p + i + good, u->n);
            if (clean && !last) {
                *n = good;
                return text;
            }
            end = i + good;
        } else {
            buf_add(out, p + i, good);
            put_mark(u, out);
            i += good + len;
            continue;
        }
        buf_add(out, p + i, good);
        break;
    }
    if (last && u->n > 0) {
        put_mark(u, out);
        u->n = 0;
    }
    *n = out->len;
    return out->len ? out->data : text;
}
