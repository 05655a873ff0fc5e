/* h5_attrs.c - attributes of objects in HDF5 files
 * SPDX-License-Identifier: MIT
 */
#include "h5_private.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"

#define MAX_TEXT (16 << 20) /* bytes of a text attribute */

static void put_attr(struct h5 *f, const char *object, const char *name, hid_t type, const void *v)
{
    hid_t space = h5_must(f, object, H5Screate(H5S_SCALAR));
    hid_t a =
        h5_must(f, object,
                H5Acreate_by_name(f->id, object, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    h5_must(f, object, H5Awrite(a, type, v));
    h5_must(f, object, H5Aclose(a));
    H5Sclose(space);
}

void h5_put_int(struct h5 *f, const char *object, const char *name, int64_t v)
{
    h5_enter();
    put_attr(f, object, name, H5T_STD_I64LE, &v);
}

void h5_put_real(struct h5 *f, const char *object, const char *name, double v)
{
    h5_enter();
    put_attr(f, object, name, H5T_IEEE_F64LE, &v);
}

void h5_put_str(struct h5 *f, const char *object, const char *name, const char *v)
{
    h5_enter();
    if (strlen(v) >= MAX_TEXT)
        die("cannot write '%s': attribute '%s' of '%s' has %zu bytes", f->name, name, object, strlen(v));
    hid_t type = h5_text_type(strlen(v) + 1);
    put_attr(f, object, name, type, v);
    H5Tclose(type);
}

void h5_put_attrs(struct h5 *f, const char *object, const struct attrs *as)
{
    for (size_t i = 0; i < as->n; i++) {
        const struct attr *a = &as->a[i];
        if (a->kind == ATTR_INT)
            h5_put_int(f, object, a->name, a->i);
        else if (a->kind == ATTR_REAL)
            h5_put_real(f, object, a->name, a->r);
        else
            h5_put_str(f, object, a->name, a->s);
    }
}

static int read_value(hid_t a, hid_t type, const char *name, void *v)
{
    return H5Aread(a, type, v) < 0 ? err_set("attribute '%s': %s", name, h5_reason()) : 0;
}

/* Texts: fixed length, with or without a NUL at the end. */
static int read_text(hid_t a, hid_t type, const char *name, struct attrs *as)
{
    size_t n = H5Tget_size(type);
    if (H5Tis_variable_str(type) != 0)
        return err_set("attribute '%s' is a text of variable length", name);
    if (n == 0 || n > MAX_TEXT)
        return err_set("attribute '%s' has %zu bytes", name, n);
    char *s = xcalloc(n + 1, 1);
    int rc = read_value(a, type, name, s);
    if (rc == 0)
        attrs_set_str(as, name, s);
    free(s);
    return rc;
}

static int read_attr(hid_t a, const char *name, struct attrs *as)
{
    hid_t type = H5Aget_type(a), space = H5Aget_space(a);
    int rc;
    int64_t i;
    double r;
    if (type < 0 || space < 0)
        rc = err_set("attribute '%s': %s", name, h5_reason());
    else if (H5Sget_simple_extent_npoints(space) != 1)
        rc = err_set("attribute '%s' is not one value", name);
    else if (H5Tget_class(type) == H5T_STRING)
        rc = read_text(a, type, name, as);
    else if (H5Tget_size(type) > 8 || (H5Tget_class(type) != H5T_INTEGER && H5Tget_class(type) != H5T_FLOAT))
        rc = err_set("attribute '%s' is neither a number nor a text", name);
    else if (H5Tget_class(type) == H5T_INTEGER) {
        rc = read_value(a, H5T_NATIVE_INT64, name, &i);
        if (rc == 0)
            attrs_set_int(as, name, i);
    } else {
        rc = read_value(a, H5T_NATIVE_DOUBLE, name, &r);
        if (rc == 0)
            attrs_set_real(as, name, r);
    }
    if (type >= 0)
        H5Tclose(type);
    if (space >= 0)
        H5Sclose(space);
    return rc;
}

int h5_try_attrs(struct h5 *f, const char *object, struct attrs *as)
{
    h5_enter();
    if (!h5_is_here(f, object))
        return err_set("'%s': '%s' is missing", f->name, object);
    H5O_info_t info;
    if (H5Oget_info_by_name1(f->id, object, &info, H5P_DEFAULT) < 0)
        return h5_refuse(f, object);
    for (hsize_t i = 0; i < info.num_attrs; i++) {
        char name[sizeof as->a->name + 1];
        hid_t a = H5Aopen_by_idx(f->id, object, H5_INDEX_NAME, H5_ITER_INC, i, H5P_DEFAULT, H5P_DEFAULT);
        if (a < 0)
            return h5_refuse(f, object);
        ssize_t len = H5Aget_name(a, sizeof name, name);
        int rc = 0;
        if (len < 0)
            rc = h5_refuse(f, object);
        else if ((size_t)len >= sizeof as->a->name)
            rc = err_set("'%s': '%s': the name of attribute '%.40s...' is too long", f->name, object, name);
        else if (read_attr(a, name, as) < 0)
            rc = err_set("'%s': '%s': %s", f->name, object, err_last());
        H5Aclose(a);
        if (rc < 0)
            return rc;
    }
    return 0;
}
