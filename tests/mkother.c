/* mkother.c - changes what a checkpoint says of its model, for tests
 * SPDX-License-Identifier: MIT
 *
 *   mkother DIR NAME=VALUE...
 * The index is written anew with other values in its configuration; the tensors stay.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/meter.h"
#include "common/base/opt.h"
#include "common/io/ckpt.h"

static void change(struct attrs *config, const char *text)
{
    const char *eq = strchr(text, '=');
    if (!eq)
        die_usage("'%s' is not NAME=VALUE", text);
    char *name = xasprintf("%.*s", (int)(eq - text), text);
    const struct attr *old = attrs_find(config, name);
    int64_t whole;
    double real;
    if (!old)
        die_usage("there is no '%s'", name);
    if (old->kind == ATTR_STR)
        attrs_set_str(config, name, eq + 1);
    else if (old->kind == ATTR_INT && parse_int(eq + 1, &whole) == 0)
        attrs_set_int(config, name, whole);
    else if (old->kind == ATTR_REAL && parse_real(eq + 1, &real) == 0)
        attrs_set_real(config, name, real);
    else
        die_usage("'%s' is not a value of '%s'", eq + 1, name);
    free(name);
}

int main(int argc, char **argv)
{
    err_init("mkother");
    meter_start(argc, argv);
    if (argc < 3)
        die_usage("usage: mkother DIR NAME=VALUE...");
    struct ckpt *c = ckpt_try_open(argv[1]);
    if (!c)
        die("%s", err_last());
    int n = ckpt_members(c);
    struct set_member *m = xcalloc((size_t)n, sizeof *m);
    for (int i = 0; i < n; i++)
        m[i] = *ckpt_member(c, i);
    struct attrs config = { 0 };
    const struct attrs *old = ckpt_config(c);
    for (size_t i = 0; i < old->n; i++) {
        const struct attr *a = &old->a[i];
        if (a->kind == ATTR_INT)
            attrs_set_int(&config, a->name, a->i);
        else if (a->kind == ATTR_REAL)
            attrs_set_real(&config, a->name, a->r);
        else
            attrs_set_str(&config, a->name, a->s);
    }
    for (int i = 2; i < argc; i++)
        change(&config, argv[i]);
    char *history = meter_history();
    ckpt_write_index(argv[1], m, n, &config, NULL, history, true);
    free(history);
    ckpt_close(c);
    attrs_free(&config);
    free(m);
    return EXIT_DONE;
}
