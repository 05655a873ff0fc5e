/* valids.h - held-out sets that are looked at while a model trains
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_VALIDS_H
#define SSM_VALIDS_H

#include <stddef.h>
#include <stdint.h>

#include "metrics.h"
#include "trainer.h"

struct valids {
    char **dir;         /* [n] */
    size_t n, cap;
};

/* Takes folders, with commas between them (NULL: none), and dies of what would end the run at its first look
 * at them. valids_free() it. */
struct valids valids_open(const char *list, const struct config *c, int64_t seq_len);
void valids_free(struct valids *v);
/* Collective. Scores set i, at most `tokens` of it (0: all), with the weights as they are; reads the state of
 * the training only. */
struct metrics_valid valids_look(const struct valids *v, size_t i, const struct trainer *t, int64_t tokens);

#endif
