/* pickle.c - fuzz target: the pickle in a file of torch.save(), every storage of which is there
 * SPDX-License-Identifier: MIT
 * Seeds: *.pkl
 */
#include "fuzz.h"

#include "common/io/pickle.h"

enum { STORAGE = 4096 };

static int find(void *arg, const char *key, size_t n, int64_t *offset, int64_t *bytes)
{
    (void)arg;
    if (n == 0 || key[0] == '!')
        return err_set("F: no such storage");
    *offset = 0;
    *bytes = STORAGE;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct foreign_list l = { 0 };
    fuzz_check(pickle_try_read("F", data, n, find, NULL, 0, &l), &l, STORAGE);
    return 0;
}
