/* weights.c - the tensors of a model in checkpoints
 * SPDX-License-Identifier: MIT
 */
#include "weights.h"

#include <stdio.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/io/rundir.h"

struct ckpt *weights_open(struct comm *comm, const char *path, bool deep)
{
    char dir[4096] = "";
    struct ckpt *c = NULL;
    if (comm->rank == 0) {
        c = rundir_try_open_ckpt(path, deep);
        if (!c)
            die("%s", err_last());
        if ((size_t)snprintf(dir, sizeof dir, "%s", ckpt_dir(c)) >= sizeof dir)
            die("'%.64s...': the path is too long", path);
    }
    comm_bcast(comm, dir, sizeof dir, 0);
    if (!c)
        c = ckpt_try_open(dir);
    if (!c)
        die("%s", err_last());
    return c;
}

struct ckpt_tensor *weights_list(const struct net *n, const char *group)
{
    struct ckpt_tensor *list = xcalloc(n->ps.n, sizeof *list);
    for (size_t i = 0; i < n->ps.n; i++) {
        const struct param *p = &n->ps.p[i];
        snprintf(list[i].name, sizeof list[i].name, "%s/%s", group, p->name);
        list[i].ndim = p->ndim;
        for (int k = 0; k < p->ndim; k++)
            list[i].shape[k] = p->shape[k];
    }
    return list;
}

/* A tensor that the model has no place for would be lost in silence. */
static void refuse_surplus(const struct net *n, const struct ckpt *c, const char *group,
                           const struct ckpt_tensor *known)
{
    size_t prefix = strlen(group), have = 0;
    for (int i = 0; i < ckpt_tensors(c); i++) {
        const char *name = ckpt_tensor(c, i)->name;
        have += strncmp(name, group, prefix) == 0 && name[prefix] == '/';
    }
    /* The caller finds every tensor that is missing; then only more of them can hide a stranger. */
    for (int i = 0; have > n->ps.n && i < ckpt_tensors(c); i++) {
        const char *name = ckpt_tensor(c, i)->name;
        bool ours = strncmp(name, group, prefix) != 0 || name[prefix] != '/';
        for (size_t k = 0; k < n->ps.n && !ours; k++)
            ours = strcmp(name, known[k].name) == 0;
        if (!ours)
            die("'%s' has a tensor '%s' that the model does not have", ckpt_dir(c), name);
    }
}

void weights_load(const struct net *n, struct ckpt *c, const char *group, float *slab)
{
    struct ckpt_tensor *tensors = weights_list(n, group);
    refuse_surplus(n, c, group, tensors);
    for (size_t i = 0; i < n->ps.n; i++) {
        const struct param *p = &n->ps.p[i];
        const int64_t zero[CKPT_MAX_DIM] = { 0 };
        int at = ckpt_find(c, tensors[i].name);
        if (at < 0)
            die("'%s' has no tensor '%s'", ckpt_dir(c), tensors[i].name);
        const struct ckpt_tensor *have = ckpt_tensor(c, at);
        bool same = have->ndim == p->ndim;
        for (int k = 0; k < p->ndim && same; k++)
            same = have->shape[k] == p->shape[k];
        if (!same)
            die("'%s': tensor '%s' has another shape than the model", ckpt_dir(c), tensors[i].name);
        float *host = xmalloc((size_t)p->count * sizeof *host);
        if (ckpt_try_read(c, tensors[i].name, zero, tensors[i].shape, host) < 0)
            die("%s", err_last());
        n->be->upload(slab + p->offset, host, (size_t)p->count * sizeof *host);
        free(host);
    }
    free(tensors);
}
