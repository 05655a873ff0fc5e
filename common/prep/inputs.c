/* inputs.c - the names of the inputs: operands, and those in a list
 * SPDX-License-Identifier: MIT
 */
#include "inputs.h"

#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/mem.h"
#include "common/dist/comm.h"

static void read_list(const char *list, bool null, struct buf *text)
{
    bool is_stdin = strcmp(list, "-") == 0;
    FILE *f = is_stdin ? stdin : fopen(list, "rb");
    if (!f)
        die_errno("cannot open '%s'", list);
    if (file_slurp(f, SIZE_MAX, text) < 0)
        die_errno("cannot read '%s'", list);
    if (!is_stdin)
        fclose(f);
    if (!null && text->len && memchr(text->data, '\0', text->len))
        die("'%s' has NUL bytes in it: is it a list for --null?", list);
    if (null && text->len && !memchr(text->data, '\0', text->len) && memchr(text->data, '\n', text->len))
        die("'%s' has lines and no NUL bytes: it is no list for --null", list);
}

static void share(struct buf *text, struct comm *c)
{
    uint64_t n = text->len;
    comm_bcast(c, &n, sizeof n, 0);
    if (c->rank > 0) {
        text->data = xmalloc((size_t)n + 1);
        text->data[n] = '\0';
        text->len = (size_t)n;
    }
    comm_bcast(c, text->data, (size_t)n, 0);
}

void inputs_read(struct inputs *in, char **operands, int n, const char *list, bool null, struct comm *c)
{
    struct buf text = { 0 };
    size_t used = 0, cap = 0;
    *in = (struct inputs){ 0 };
    char **path = NULL;
    for (int i = 0; i < n; i++)
        *(char **)grow(&path, &used, &cap, sizeof *path) = operands[i];
    if (list) {
        if (c->rank == 0)
            read_list(list, null, &text);
        share(&text, c);
        for (char *p = text.data, *end = text.data + text.len, *stop; p < end; p = stop + 1) {
            stop = memchr(p, null ? '\0' : '\n', (size_t)(end - p));
            if (!stop)
                stop = end; /* buf has a NUL there */
            *stop = '\0';
            if (*p && strcmp(list, "-") == 0 && strcmp(p, "-") == 0)
                die("'-' stands in a list that is the standard input itself");
            if (*p)
                *(char **)grow(&path, &used, &cap, sizeof *path) = p;
        }
    }
    if (used == 0)
        die("no names in '%s'", list ? list : "");
    if (used > INT_MAX / 2)
        die("%zu inputs are more than can be counted", used);
    in->path = path;
    in->n = (int)used;
    in->text = text.data;
}

void inputs_free(struct inputs *in)
{
    free(in->path);
    free(in->text);
    *in = (struct inputs){ 0 };
}
