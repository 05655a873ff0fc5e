/* archive.h - what the tests of other people's model files share: fixtures, refusals, files made by bytes
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_TESTS_ARCHIVE_H
#define SSM_TESTS_ARCHIVE_H

#include "io.h"

#include "common/io/archive.h"

static inline char *golden(const char *name)
{
    const char *top = getenv("SSM_TOP");
    return xasprintf("%s/tests/golden/%s", top ? top : ".", name);
}

static inline void le(struct buf *b, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        buf_add(b, &(unsigned char){ (unsigned char)(i < 8 ? v >> 8 * i : 0) }, 1);
}

/* The last error is one line with these words. */
static inline void said(const char *words)
{
    if (!strstr(err_last(), words) || strchr(err_last(), '\n'))
        fail_msg("said \"%s\", not \"%s\"", err_last(), words);
}

static inline void refused(const char *path, const char *words)
{
    struct archive *a = archive_try_open(path);
    if (a)
        fail_msg("'%s' was opened; to be refused because of '%s'", path, words);
    said(words);
}

static inline struct archive *opened(const char *path)
{
    struct archive *a = archive_try_open(path);
    if (!a)
        fail_msg("%s", err_last());
    return a;
}

/* ---- safetensors ---- */

static inline void put_safetensors(const char *path, const char *header, size_t data)
{
    struct buf b = { 0 };
    le(&b, strlen(header), 8);
    buf_add(&b, header, strlen(header));
    for (size_t i = 0; i < data; i++)
        buf_add(&b, "", 1);
    write_file(path, b.data, b.len);
    buf_free(&b);
}

#define T(shape, from, to) "{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to "]}"

/* ---- torch's zip files ---- */

struct zip {
    struct buf file, directory;
    int n;
};

/* An entry as torch writes it; damage is done to the bytes afterwards. */
static inline void zip_add(struct zip *z, const char *name, const void *data, size_t n)
{
    size_t at_byte = z->file.len, len = strlen(name);
    for (int central = 0; central < 2; central++) {
        struct buf *b = central ? &z->directory : &z->file;
        buf_add(b, central ? "PK\1\2\0\0" : "PK\3\4", central ? 6 : 4);
        le(b, 0, 6); /* version, flags, method */
        le(b, 0, 8); /* time, date, crc */
        le(b, n, 4);
        le(b, n, 4);
        le(b, len, 2);
        le(b, 0, 2);
        if (central) {
            le(b, 0, 10);
            le(b, at_byte, 4);
        }
        buf_add(b, name, len);
    }
    buf_add(&z->file, data, n);
    z->n++;
}

/* Ends it, with a zip64 end (which then holds the numbers) or without. */
static inline void zip_end(struct zip *z, bool wide)
{
    size_t directory = z->file.len;
    buf_add(&z->file, z->directory.data, z->directory.len);
    if (wide) {
        size_t end = z->file.len;
        buf_add(&z->file, "PK\6\6", 4);
        le(&z->file, 44, 8);
        le(&z->file, 0, 12);
        le(&z->file, (uint64_t)z->n, 8);
        le(&z->file, (uint64_t)z->n, 8);
        le(&z->file, z->directory.len, 8);
        le(&z->file, directory, 8);
        buf_add(&z->file, "PK\6\7", 4);
        le(&z->file, 0, 4);
        le(&z->file, end, 8);
        le(&z->file, 1, 4);
    }
    buf_add(&z->file, "PK\5\6", 4);
    le(&z->file, 0, 4);
    le(&z->file, wide ? 0xffff : (uint64_t)z->n, 2);
    le(&z->file, wide ? 0xffff : (uint64_t)z->n, 2);
    le(&z->file, wide ? 0xffffffff : z->directory.len, 4);
    le(&z->file, wide ? 0xffffffff : directory, 4);
    le(&z->file, 0, 2);
}

static inline void zip_free(struct zip *z)
{
    buf_free(&z->file);
    buf_free(&z->directory);
    *z = (struct zip){ 0 };
}

/* Pickles: pieces that make {"w": a tensor of 2 x 2 in storage "0" of 4 elements}. */
#define STR(s, n) "X" n "\0\0\0" s
#define STORE(key, keylen, elements)                                                                         \
    "(" STR("storage", "\7") "ctorch\nFloatStorage\n" STR(key, keylen) STR("cpu", "\3") elements "tQ"
#define TENSOR(storage, first, size, stride)                                                                 \
    "ctorch._utils\n_rebuild_tensor_v2\n(" storage first size stride "\x89"                                  \
    "ccollections\nOrderedDict\n)RtR"
#define DICT(name, n, value) "\x80\2}" STR(name, n) value "s."
#define GOOD DICT("w", "\1", TENSOR(STORE("0", "\1", "K\4"), "K\0", "K\2K\2\x86", "K\2K\1\x86"))

/* What storage "0" of put_zip() holds. */
enum { FOUR = 16 };
static inline const float *four(void)
{
    static const float f[4] = { 1, 2, 3, 4 };
    return f;
}

static inline void put_zip(const char *path, const char *pickle, size_t n, bool wide)
{
    struct zip z = { 0 };
    zip_add(&z, "model/data.pkl", pickle, n);
    zip_add(&z, "model/data/0", four(), FOUR);
    zip_end(&z, wide);
    write_file(path, z.file.data, z.file.len);
    zip_free(&z);
}

#endif
