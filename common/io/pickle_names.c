/* pickle_names.c - the imported names that the pickle machine knows, and what they mean
 * SPDX-License-Identifier: MIT
 *
 * Nothing else may be named. To add one: either its meaning is one of those below, or, if nobody will
 * look at what it makes, M_OPAQUE.
 */
#include "pickle_private.h"

#include <string.h>

const struct pickle_global pickle_globals[] = {
    { "collections.OrderedDict", M_ORDERED_DICT, 0 },
    { "torch._utils._rebuild_tensor_v2", M_TENSOR, 0 },
    { "torch._utils._rebuild_parameter", M_PARAMETER, 0 },
    { "torch.Size", M_SIZE, 0 },
    { "argparse.Namespace", M_NAMESPACE, 0 },
    { "torch.DoubleStorage", M_STORAGE, FOREIGN_F64 },
    { "torch.FloatStorage", M_STORAGE, FOREIGN_F32 },
    { "torch.HalfStorage", M_STORAGE, FOREIGN_F16 },
    { "torch.BFloat16Storage", M_STORAGE, FOREIGN_BF16 },
    { "torch.LongStorage", M_STORAGE, FOREIGN_I64 },
    { "torch.IntStorage", M_STORAGE, FOREIGN_I32 },
    { "torch.ShortStorage", M_STORAGE, FOREIGN_I16 },
    { "torch.CharStorage", M_STORAGE, FOREIGN_I8 },
    { "torch.ByteStorage", M_STORAGE, FOREIGN_U8 },
    { "torch.BoolStorage", M_STORAGE, FOREIGN_BOOL },
    { "torch.UntypedStorage", M_STORAGE, FOREIGN_U8 },
    { "torch.storage.UntypedStorage", M_STORAGE, FOREIGN_U8 },
    { "torch.storage._UntypedStorage", M_STORAGE, FOREIGN_U8 },
    { "torch.storage.TypedStorage", M_STORAGE, FOREIGN_U8 },
    { "torch.storage._TypedStorage", M_STORAGE, FOREIGN_U8 },
    { "torch.float64", M_DTYPE, 0 },
    { "torch.float32", M_DTYPE, 0 },
    { "torch.float16", M_DTYPE, 0 },
    { "torch.bfloat16", M_DTYPE, 0 },
    { "torch.float8_e4m3fn", M_DTYPE, 0 },
    { "torch.float8_e5m2", M_DTYPE, 0 },
    { "torch.int64", M_DTYPE, 0 },
    { "torch.int32", M_DTYPE, 0 },
    { "torch.int16", M_DTYPE, 0 },
    { "torch.int8", M_DTYPE, 0 },
    { "torch.uint8", M_DTYPE, 0 },
    { "torch.bool", M_DTYPE, 0 },
    { "torch.device", M_OPAQUE, 0 },
    { "io.BytesIO", M_OPAQUE, 0 },
    { "_io.BytesIO", M_OPAQUE, 0 },
    { "_codecs.encode", M_OPAQUE, 0 },      /* how protocol 2 spells bytes */
    { "__builtin__.bytes", M_OPAQUE, 0 },
    { "__builtin__.bytearray", M_OPAQUE, 0 },
    { "builtins.bytearray", M_OPAQUE, 0 },
    { "__builtin__.set", M_OPAQUE, 0 },
    { "builtins.set", M_OPAQUE, 0 },
    { "pathlib.Path", M_OPAQUE, 0 },
    { "pathlib.PosixPath", M_OPAQUE, 0 },
    { "pathlib._local.PosixPath", M_OPAQUE, 0 },
    { "numpy.ndarray", M_OPAQUE, 0 },
    { "numpy.dtype", M_OPAQUE, 0 },
    { "numpy.core.multiarray._reconstruct", M_OPAQUE, 0 },
    { "numpy._core.multiarray._reconstruct", M_OPAQUE, 0 },
    { "numpy.core.multiarray.scalar", M_OPAQUE, 0 },
    { "numpy._core.multiarray.scalar", M_OPAQUE, 0 },
    { "megatron enumeration", M_OPAQUE, 0 }, /* the last: any class of a module megatron.*.enums */
};

enum { N_GLOBALS = sizeof pickle_globals / sizeof *pickle_globals };

static bool is_enum_module(const char *name, size_t n)
{
    return n >= 14 && memcmp(name, "megatron.", 9) == 0 && memcmp(name + n - 6, ".enums", 6) == 0;
}

int pickle_find_global(const char *full, const char *module, size_t module_len)
{
    if (is_enum_module(module, module_len))
        return N_GLOBALS - 1;
    for (int i = 0; i < N_GLOBALS - 1; i++)
        if (strcmp(pickle_globals[i].name, full) == 0)
            return i;
    return -1;
}
