/* h5_table.c - tables of structs in HDF5 files, with a checksum
 * SPDX-License-Identifier: MIT
 */
#include "h5_private.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/mem.h"

static const char TABLE_HASH[] = "xxh3";

static size_t row_size(const struct h5_column *cols, int n_cols)
{
    size_t size = 0;
    for (int i = 0; i < n_cols; i++) {
        if (cols[i].offset != size)
            bug("column '%s' of a table is not packed", cols[i].name);
        size += (size_t)cols[i].n * h5_type_size(cols[i].type);
    }
    return size;
}

static hid_t table_type(const struct h5_column *cols, int n_cols)
{
    hid_t table = H5Tcreate(H5T_COMPOUND, row_size(cols, n_cols));
    for (int i = 0; table >= 0 && i < n_cols; i++) {
        hsize_t n = (hsize_t)cols[i].n;
        hid_t t = cols[i].type == H5_TEXT ? h5_text_type((size_t)n)
                  : n > 1                 ? H5Tarray_create2(h5_type_id(cols[i].type), 1, &n)
                                          : H5Tcopy(h5_type_id(cols[i].type));
        if (t < 0 || H5Tinsert(table, cols[i].name, cols[i].offset, t) < 0)
            table = -1;
        else
            H5Tclose(t);
    }
    if (table < 0)
        die("cannot make an HDF5 table type: %s", h5_reason());
    return table;
}

void h5_put_table(struct h5 *f, const char *path, const struct h5_column *cols, int n_cols, const void *rows,
                  int64_t n)
{
    h5_enter();
    hid_t type = table_type(cols, n_cols);
    struct h5_data *d = h5_make_data_of(f, path, type, 1, &n);
    h5_write(d, &(int64_t){ 0 }, &n, rows);
    h5_end_data(d);
    H5Tclose(type);
    h5_put_int(f, path, TABLE_HASH, (int64_t)hash_bytes(rows, (size_t)n * row_size(cols, n_cols)));
}

/* HDF5's metadata have checksums of their own, data have not. */
static int check_table(struct h5 *f, const char *path, const void *rows, size_t bytes)
{
    struct attrs as = { 0 };
    int64_t want = 0;
    int rc = h5_try_attrs(f, path, &as);
    if (rc == 0 && attrs_try_int(&as, TABLE_HASH, &want) < 0)
        rc = err_set("'%s': '%s': attribute %s", f->name, path, err_last());
    if (rc == 0 && (uint64_t)want != hash_bytes(rows, bytes))
        rc = err_set("'%s': '%s' is damaged: its checksum differs", f->name, path);
    attrs_free(&as);
    return rc;
}

int h5_try_table(struct h5 *f, const char *path, const struct h5_column *cols, int n_cols, void **rows,
                 int64_t *n)
{
    h5_enter();
    hid_t type = table_type(cols, n_cols);
    size_t size = row_size(cols, n_cols);
    int64_t at;
    int rc = h5_try_locate_of(f, path, type, "of this table", 1, n, &at);
    H5Tclose(type);
    if (rc < 0)
        return -1;
    char *data = xcalloc((size_t)*n, size); /* not more than the file holds */
    rc = h5_try_pread(f, at, data, (size_t)*n * size);
    if (rc == 0)
        rc = check_table(f, path, data, (size_t)*n * size);
    for (int64_t i = 0; rc == 0 && i < *n; i++)
        for (int c = 0; c < n_cols; c++)
            if (cols[c].type == H5_TEXT &&
                !memchr(data + (size_t)i * size + cols[c].offset, 0, (size_t)cols[c].n))
                rc = err_set("'%s': '%s': '%s' of row %lld has no end", f->name, path, cols[c].name,
                             (long long)i);
    if (rc < 0)
        free(data);
    else
        *rows = data;
    return rc;
}
