/* foreign.h - tensors and plain values as other people's model files hold them
 * SPDX-License-Identifier: MIT
 *
 * What the readers of one format (safetensors.h, torchzip.h) fill and archive.h offers.
 */
#ifndef SSM_FOREIGN_H
#define SSM_FOREIGN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FOREIGN_MAX_DIM = 8, FOREIGN_MAX_NAME = 1000 };

enum foreign_dtype {
    FOREIGN_F64, FOREIGN_F32, FOREIGN_F16, FOREIGN_BF16,      /* these four can be read as fp32 */
    FOREIGN_I64, FOREIGN_I32, FOREIGN_I16, FOREIGN_I8,
    FOREIGN_U64, FOREIGN_U32, FOREIGN_U16, FOREIGN_U8, FOREIGN_BOOL,
    FOREIGN_F8_E4M3, FOREIGN_F8_E5M2,                         /* as bytes only */
    FOREIGN_DTYPES
};

struct foreign_tensor {
    char *name;                     /* as in the file; owned by the list it is in */
    enum foreign_dtype dtype;       /* as stored, little endian, rows first */
    int ndim;                       /* 0: a scalar, one element */
    int64_t shape[FOREIGN_MAX_DIM];
    int64_t elements;               /* their product; 0 is allowed */
    int file;                       /* which file of the archive */
    int64_t offset, bytes;          /* where the elements stand in that file */
};

/* A number, truth value, string or None that is not in a tensor. */
struct foreign_value {
    char *name;                     /* dotted: "args.num_layers", "iteration", "__metadata__.format" */
    enum foreign_kind { FOREIGN_NONE, FOREIGN_TRUTH, FOREIGN_INT, FOREIGN_REAL, FOREIGN_STR } kind;
    int64_t i;                      /* also a truth value, 0 or 1 */
    double r;
    char *s;                        /* UTF-8 */
};

struct foreign_list {               /* zero-initialise */
    struct foreign_tensor *t;
    size_t n, cap;
    struct foreign_value *v;
    size_t nv, capv;
};

const char *foreign_dtype_name(enum foreign_dtype d);   /* as safetensors spells it: "BF16" */
int foreign_dtype_size(enum foreign_dtype d);           /* bytes an element */
/* Elements and bytes of a tensor from its dtype and shape: 0, or -1 with err_last() when 63 bits do not
 * hold them or a dimension is negative. */
int foreign_try_size(struct foreign_tensor *t) __attribute__((warn_unused_result));
/* fp32 from F64, F32, F16 or BF16 (F64 is rounded to nearest even), and to F32, F16 or BF16, rounded
 * likewise; F64 exactly. Raw elements need no alignment. foreign_try_pack() is -1 with err_last() when a
 * finite number does not fit F16 or BF16 ("70000 does not fit F16"), and unpack when the stored type is
 * none of the four. */
int foreign_try_unpack(enum foreign_dtype from, const void *raw, int64_t n, float *out)
    __attribute__((warn_unused_result));
int foreign_try_pack(enum foreign_dtype to, const float *in, int64_t n, void *raw)
    __attribute__((warn_unused_result));

/* Adds an element, cleared, and returns its place; the list owns the names and strings that are put into
 * it. */
struct foreign_tensor *foreign_add(struct foreign_list *l);
struct foreign_value *foreign_add_value(struct foreign_list *l);
/* Sorts by name. 0, or -1 with err_last() when two tensors, or two values, have one name. */
int foreign_try_sort(struct foreign_list *l) __attribute__((warn_unused_result));
/* In a sorted list; NULL when there is none. */
const struct foreign_tensor *foreign_find(const struct foreign_list *l, const char *name);
const struct foreign_value *foreign_find_value(const struct foreign_list *l, const char *name);
/* Forgets the values that were added after the first n. */
void foreign_drop_values(struct foreign_list *l, size_t n);
void foreign_free(struct foreign_list *l);

/* Names are 1 to FOREIGN_MAX_NAME bytes without control bytes: 0, or -1 with err_last(). */
int foreign_try_name(const char *name, size_t n) __attribute__((warn_unused_result));
/* pread() of exactly n bytes at an offset: 0, or -1 with err_last(), "FILE: ..." (the file ends before,
 * or the reason). */
int foreign_try_pread(const char *path, int fd, int64_t offset, void *data, size_t n)
    __attribute__((warn_unused_result));

#endif
