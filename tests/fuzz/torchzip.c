/* torchzip.c - fuzz target: a zip file of torch.save()
 * SPDX-License-Identifier: MIT
 * Seeds: *.pt *.bin
 */
#include "fuzz.h"

#include "common/io/torchzip.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct foreign_list l = { 0 };
    fuzz_check(torchzip_try_read("F", fuzz_file(data, n), (int64_t)n, 0, &l), &l, (int64_t)n);
    return 0;
}
