/* look.h - what is in a checkpoint, whether it is whole, and what differs between two
 * SPDX-License-Identifier: MIT
 *
 * These print tables on standard output; the man page of ckmerge describes them.
 */
#ifndef SSM_LOOK_H
#define SSM_LOOK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/attrs.h"
#include "common/base/mem.h"
#include "common/io/ckpt.h"

/* Opens a checkpoint, or the newest one of a run; `deep`: checks its files' checksums. Dies where it cannot. */
struct ckpt *look_open(const char *path, bool deep);

void look_list(const struct ckpt *c);
/* Reads all of it; dies, naming file and reason, when it is not whole. */
void look_verify(struct ckpt *c);
/* How many attributes and tensors differ. Elements may by up to `tolerance`; with 0 their bits count, and so do the
 * types they are stored in. model_only: leaves out state and optimizer. */
int64_t look_compare(struct ckpt *a, struct ckpt *b, double tolerance, bool model_only);

/* ---- attributes ---- */

/* Appends "'text'", the number, or "missing" for NULL. */
void attr_format(const struct attr *a, struct buf *out);
/* Both missing, or the same kind and value. */
bool attr_same(const struct attr *a, const struct attr *b);
/* Calls f for each name that the two do not say alike; a or b is NULL where it is missing. */
void attrs_differ(const struct attrs *as, const struct attrs *bs,
                  void (*f)(void *arg, const struct attr *a, const struct attr *b), void *arg);

#endif
