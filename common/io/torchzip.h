/* torchzip.h - the zip files of torch.save()
 * SPDX-License-Identifier: MIT
 *
 * A zip file without compression: PREFIX/data.pkl is a pickle (pickle.h), PREFIX/data/KEY are the
 * storages that it names, PREFIX/byteorder is "little" if it is there. The directory at the end of the
 * file, zip64 or not, says where each entry stands; entries must not overlap, and no name may come twice.
 */
#ifndef SSM_TORCHZIP_H
#define SSM_TORCHZIP_H

#include "foreign.h"

/* Adds the tensors (with `file` as file index) and values of an open file of `size` bytes to the list.
 * 0, or -1 with err_last(), "PATH: ...". Users read through archive.h. */
int torchzip_try_read(const char *path, int fd, int64_t size, int file, struct foreign_list *l)
    __attribute__((warn_unused_result));

#endif
