/* safetensors.c - fuzz target: the header of a safetensors file
 * SPDX-License-Identifier: MIT
 * Seeds: *.safetensors
 */
#include "fuzz.h"

#include "common/io/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct foreign_list l = { 0 };
    fuzz_check(safetensors_try_header("F", fuzz_file(data, n), (int64_t)n, 0, &l), &l, (int64_t)n);
    return 0;
}
