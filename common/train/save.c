/* save.c - the whole state of a run in and out of checkpoints
 * SPDX-License-Identifier: MIT
 *
 * Replicated tensors are cut along rows into as many even parts as there are data-parallel ranks; each rank
 * writes its own. Loading reads whatever slices it needs from whatever files hold them.
 */
#include <stdio.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/model/weights.h"
#include "trainer.h"

static int64_t row_floats(const struct ckpt_tensor *t)
{
    int64_t n = 1;
    for (int k = 1; k < t->ndim; k++)
        n *= t->shape[k];
    return n;
}

struct piece_list {
    struct ckpt_piece *p;
    size_t n, cap;
};

static void add_group(struct piece_list *list, const struct trainer *t, const char *group, const float *slab)
{
    const struct net *n = t->net;
    struct ckpt_tensor *tensors = weights_list(n, group);
    struct ckpt_piece *cut = xcalloc(n->ps.n, sizeof *cut);
    int k = ckpt_cut_rows(tensors, (int)n->ps.n, t->comm->rank, t->comm->size, cut);
    for (int i = 0, j = 0; i < k; i++) {
        while (strcmp(tensors[j].name, cut[i].tensor.name) != 0)
            j++;
        cut[i].data = slab + n->ps.p[j].offset + cut[i].offset[0] * row_floats(&tensors[j]);
        *(struct ckpt_piece *)grow(&list->p, &list->n, &list->cap, sizeof *list->p) = cut[i];
    }
    free(cut);
    free(tensors);
}

/* Name and shape of carried tensor i over all rows of the batch. */
static struct ckpt_tensor carried_tensor(const struct trainer *t, const struct net_state *s, int i, float **data)
{
    struct ckpt_tensor ct = { .ndim = 2 };
    char name[64];
    net_state_tensor(s, i, name, &ct.shape[1], data);
    ct.shape[0] = t->opt.batch;
    snprintf(ct.name, sizeof ct.name, "state/%s", name);
    return ct;
}

static void add_carried(struct piece_list *list, const struct trainer *t)
{
    for (int64_t k = 0; t->opt.stream && k < t->opt.rows / t->opt.micro_rows; k++)
        for (int i = 0; i < net_state_tensors(t->in[k]); i++) {
            float *data;
            struct ckpt_piece p = { .tensor = carried_tensor(t, t->in[k], i, &data) };
            p.offset[0] = t->opt.first_row + k * t->opt.micro_rows;
            p.count[0] = t->opt.micro_rows;
            p.count[1] = p.tensor.shape[1];
            p.data = data;
            *(struct ckpt_piece *)grow(&list->p, &list->n, &list->cap, sizeof *list->p) = p;
        }
}

/* The window of the last steps: rank 0 writes it. */
static struct ckpt_tensor health_tensor(const char *what)
{
    struct ckpt_tensor t = { .ndim = 1, .shape = { HEALTH_WINDOW } };
    snprintf(t.name, sizeof t.name, "state/health.%s", what);
    return t;
}

static void add_health(struct piece_list *list, const struct trainer *t)
{
    struct ckpt_piece loss = { .tensor = health_tensor("loss"), .count = { HEALTH_WINDOW }, .data = t->health.loss };
    struct ckpt_piece norm = { .tensor = health_tensor("norm"), .count = { HEALTH_WINDOW }, .data = t->health.norm };
    *(struct ckpt_piece *)grow(&list->p, &list->n, &list->cap, sizeof *list->p) = loss;
    *(struct ckpt_piece *)grow(&list->p, &list->n, &list->cap, sizeof *list->p) = norm;
}

/* Older checkpoints have none: the window fills anew. */
static void load_health(struct trainer *t, struct ckpt *c)
{
    const int64_t zero[CKPT_MAX_DIM] = { 0 }, count[CKPT_MAX_DIM] = { HEALTH_WINDOW };
    const struct attrs *s = ckpt_state(c);
    if (!attrs_find(s, "health_n"))
        return;
    if (attrs_try_int(s, "health_n", &t->health.n) < 0 || attrs_try_int(s, "skipped", &t->skipped) < 0 ||
        attrs_try_int(s, "skipped_in_row", &t->skipped_in_row) < 0)
        die("'%s': %s", ckpt_dir(c), err_last());
    if (t->health.n < 0 || ckpt_try_read(c, health_tensor("loss").name, zero, count, t->health.loss) < 0 ||
        ckpt_try_read(c, health_tensor("norm").name, zero, count, t->health.norm) < 0)
        die("'%s': the window of the last steps: %s", ckpt_dir(c), t->health.n < 0 ? "its count is below 0" : err_last());
}

bool trainer_save(struct trainer *t, const char *dir, struct attrs *state, const char *history,
                  bool (*still_ours)(void *), void *arg)
{
    struct piece_list list = { 0 };
    add_group(&list, t, "model", t->net->weights);
    add_group(&list, t, "optim/m", t->m);
    add_group(&list, t, "optim/v", t->v);
    if (t->averaging)
        add_group(&list, t, "optim/ema", t->ema);
    add_carried(&list, t);
    if (t->comm->rank == 0)
        add_health(&list, t);
    struct set_member mine, *all = xcalloc((size_t)t->comm->size, sizeof *all);
    ckpt_write_member(dir, t->comm->rank, t->comm->size, list.p, (int)list.n, &mine);
    comm_all_gather(t->comm, &mine, sizeof mine, all);
    int64_t ours = 1;
    if (t->comm->rank == 0) {
        ours = still_ours(arg);
        struct attrs config = { 0 };
        config_to_attrs(&t->net->c, &config);
        attrs_set_int(state, "step", t->step);
        attrs_set_int(state, "samples", t->samples);
        attrs_set_int(state, "tokens", t->tokens);
        attrs_set_int(state, "updates", t->updates);
        attrs_set_int(state, "skipped", t->skipped);
        attrs_set_int(state, "skipped_in_row", t->skipped_in_row);
        attrs_set_int(state, "health_n", t->health.n);
        if (t->opt.stream)
            attrs_set_int(state, "stream_pos", net_state_pos(t->in[0]));
        if (ours)
            ckpt_write_index(dir, all, t->comm->size, &config, state, history, false);
        attrs_free(&config);
    }
    comm_bcast(t->comm, &ours, sizeof ours, 0);
    free(all);
    free(list.p);
    return ours;
}

/* Carried states come back when the batch has the same rows; otherwise the streams begin anew elsewhere. */
static void load_carried(struct trainer *t, struct ckpt *c)
{
    int64_t pos;
    if (t->opt.stream && attrs_try_int(ckpt_state(c), "stream_pos", &pos) < 0)
        die("'%s' holds no state of streams: %s", ckpt_dir(c), err_last());
    for (int64_t k = 0; t->opt.stream && k < t->opt.rows / t->opt.micro_rows; k++)
        net_state_set_pos(t->in[k], pos);
    for (int64_t k = 0; t->opt.stream && k < t->opt.rows / t->opt.micro_rows; k++)
        for (int i = 0; i < net_state_tensors(t->in[k]); i++) {
            float *data;
            struct ckpt_tensor want = carried_tensor(t, t->in[k], i, &data);
            const int64_t offset[CKPT_MAX_DIM] = { t->opt.first_row + k * t->opt.micro_rows, 0 };
            const int64_t count[CKPT_MAX_DIM] = { t->opt.micro_rows, want.shape[1] };
            if (want.shape[1] == 0) /* the halo of a convolution of one tap: nothing was stored */
                continue;
            int at = ckpt_find(c, want.name);
            if (at < 0 || ckpt_tensor(c, at)->shape[0] != t->opt.batch)
                die("'%s' holds no state of %lld streams: --order stream resumes with the same --batch",
                    ckpt_dir(c), (long long)t->opt.batch);
            if (ckpt_try_read(c, want.name, offset, count, data) < 0)
                die("%s", err_last());
        }
}

/* The running mean of the weights goes on; or it begins, or ends, when the run is told so. */
static void load_mean(struct trainer *t, struct ckpt *c)
{
    char name[CKPT_MAX_NAME];
    snprintf(name, sizeof name, "optim/ema/%s", t->net->ps.p[0].name);
    bool there = ckpt_find(c, name) >= 0;
    if (there && !t->ema)
        warn("'%s' holds a running mean of the weights, which ends here: no --ema", ckpt_dir(c));
    if (!there && t->ema)
        note(1, "'%s' holds no running mean of the weights: it begins here", ckpt_dir(c));
    if (!there || !t->ema)
        return;
    weights_load(t->net, c, "optim/ema", t->ema);
    t->averaging = true;
}

void trainer_load(struct trainer *t, struct ckpt *c, enum trainer_part upto)
{
    weights_load(t->net, c, "model", t->net->weights);
    if (upto < TRAINER_OPTIMIZER)
        return;
    weights_load(t->net, c, "optim/m", t->m);
    weights_load(t->net, c, "optim/v", t->v);
    const struct attrs *s = ckpt_state(c); /* of older runs, each of whose steps was an update, it says no updates */
    if (attrs_try_int(s, attrs_find(s, "updates") ? "updates" : "step", &t->updates) < 0)
        die("'%s': %s", ckpt_dir(c), err_last());
    if (upto < TRAINER_RUN)
        return;
    load_mean(t, c);
    load_health(t, c);
    load_carried(t, c);
    if (attrs_try_int(s, "step", &t->step) < 0 || attrs_try_int(s, "samples", &t->samples) < 0 ||
        attrs_try_int(s, "tokens", &t->tokens) < 0)
        die("'%s': %s", ckpt_dir(c), err_last());
}
