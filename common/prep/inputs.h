/* inputs.h - the names of the inputs: operands, and those in a list
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_INPUTS_H
#define SSM_INPUTS_H

#include <stdbool.h>

struct comm;
struct inputs {
    char **path;
    int n;
    char *text; /* of the list, in which its names stand */
};

/* Collective. The operands, then the names in `list` (NULL: none; "-": the standard input), which rank 0 reads
 * and all get: one a line, or each ended by NUL; empty ones are skipped; nothing in them is expanded. Dies
 * when the list cannot be read or names a "-" while it is the standard input itself. */
void inputs_read(struct inputs *in, char **operands, int n, const char *list, bool null, struct comm *c);
void inputs_free(struct inputs *in);

#endif
