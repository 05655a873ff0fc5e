/* save.c - the whole state of a run in and out of checkpoints
 * SPDX-License-Identifier: MIT
 *
 * Replicated tensors are cut along rows into as many even parts as there are data-parallel ranks; each rank
 * writes its own. Loading reads whatever slices it needs from whatever files hold them. Files hold fp32, whatever
 * the run computes in.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/mem.h"
#include "common/base/out.h"
#include "common/model/weights.h"
#include "trainer.h"

static int64_t row_floats(const struct ckpt_tensor *t)
{
    int64_t n = 1;
    for (int k = 1; k < t->ndim; k++)
        n *= t->shape[k];
    return n;
}

/* Pieces of the slabs and then of the carried states show to the device's memory; the rest to the host's. */
struct piece_list {
    struct ckpt_piece *p;
    size_t n, cap;
    size_t slabs, device;       /* how many are of the slabs, of the device */
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
static struct ckpt_tensor carried_tensor(const struct trainer *t, const struct net_state *s, int i)
{
    struct ckpt_tensor ct = { .ndim = 2 };
    char name[64];
    net_state_tensor(s, i, name, &ct.shape[1]);
    ct.shape[0] = t->opt.batch;
    snprintf(ct.name, sizeof ct.name, "state/%s", name);
    return ct;
}

/* Micro-batches that carry a state. */
static int64_t streams(const struct trainer *t) { return t->opt.stream ? t->opt.rows / t->opt.micro_rows : 0; }

static void add_carried(struct piece_list *list, const struct trainer *t)
{
    for (int64_t k = 0; k < streams(t); k++)
        for (int i = 0; i < net_state_tensors(t->in[k]); i++) {
            char name[64];
            struct ckpt_piece p = { .tensor = carried_tensor(t, t->in[k], i) };
            p.offset[0] = t->opt.first_row + k * t->opt.micro_rows;
            p.count[0] = t->opt.micro_rows;
            p.count[1] = p.tensor.shape[1];
            p.data = net_state_tensor(t->in[k], i, name, &p.count[1]).data;
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
    struct ckpt_piece loss = { .tensor = health_tensor("loss"),
                               .count = { HEALTH_WINDOW },
                               .data = t->health.loss };
    struct ckpt_piece norm = { .tensor = health_tensor("norm"),
                               .count = { HEALTH_WINDOW },
                               .data = t->health.norm };
    *(struct ckpt_piece *)grow(&list->p, &list->n, &list->cap, sizeof *list->p) = loss;
    *(struct ckpt_piece *)grow(&list->p, &list->n, &list->cap, sizeof *list->p) = norm;
}

/* Older checkpoints know of no rewinds. */
static int try_rewinds(struct trainer *t, const struct attrs *s)
{
    t->rewinds = t->rewinds_in_row = 0;
    if (!attrs_find(s, "rewinds"))
        return 0;
    return attrs_try_int(s, "rewinds", &t->rewinds) < 0 ? -1 : attrs_try_int(s, "rewinds_in_row", &t->rewinds_in_row);
}

/* Older checkpoints have none: the window fills anew. */
static void load_health(struct trainer *t, struct ckpt *c)
{
    const int64_t zero[CKPT_MAX_DIM] = { 0 }, count[CKPT_MAX_DIM] = { HEALTH_WINDOW };
    const struct attrs *s = ckpt_state(c);
    t->health = (struct health){ 0 };
    if (!attrs_find(s, "health_n"))
        return;
    if (attrs_try_int(s, "health_n", &t->health.n) < 0 || attrs_try_int(s, "skipped", &t->skipped) < 0 ||
        attrs_try_int(s, "skipped_in_row", &t->skipped_in_row) < 0 || try_rewinds(t, s) < 0)
        die("'%s': %s", ckpt_dir(c), err_last());
    if (t->health.n < 0 || ckpt_try_read(c, health_tensor("loss").name, zero, count, t->health.loss) < 0 ||
        ckpt_try_read(c, health_tensor("norm").name, zero, count, t->health.norm) < 0)
        die("'%s': the window of the last steps: %s", ckpt_dir(c),
            t->health.n < 0 ? "its count is below 0" : err_last());
}

struct saving {
    const struct backend *be;
    char *dir, *history;
    struct piece_list list;
    struct set_member member;   /* this rank's */
    struct attrs state, config; /* rank 0's index */
    int rank, ranks;
    bool threaded;
    pthread_t thread;
    atomic_bool written;
    struct err_caught error;
};

static void *write_member(void *arg)
{
    struct saving *s = arg;
    const char *fault = s->be->wait_downloads();
    if (fault)
        die("'%s': the device's memory cannot be copied: %s", s->dir, fault);
    ckpt_write_member(s->dir, s->rank, s->ranks, s->list.p, (int)s->list.n, &s->member);
    return NULL;
}

/* The thread. A die in it ends it; what it leaves open is gone with the process, which ends at the next step. */
static void note_written(void *arg) { atomic_store(&((struct saving *)arg)->written, true); }
static void *write_apart(void *arg)
{
    struct saving *s = arg;
    err_catch(&s->error);
    pthread_cleanup_push(note_written, s);
    write_member(s);
    pthread_cleanup_pop(1);
    return NULL;
}

static int64_t elements(const struct ckpt_piece *p) { return ckpt_elements(p->tensor.ndim, p->count); }

/* Piece i of the carried states, in the order of add_carried(). */
static void download_carried(const struct trainer *t, size_t i, float *to)
{
    size_t tensors = (size_t)net_state_tensors(t->in[0]);
    net_state_download(t->in[i / tensors], (int)(i % tensors), to);
}

/* The layout of a run does not change, and with it the size of its parts; a mean may be begun. */
static void make_snapshot(struct trainer *t, const struct piece_list *list)
{
    int64_t n = 0;
    for (size_t i = 0; i < list->n; i++)
        n += elements(&list->p[i]);
    size_t bytes = mul_size((size_t)(n + (t->ema && !t->averaging ? n / 2 + t->net->ps.slab : 0)), sizeof(float),
                            "copy of a checkpoint");
    t->snapshot = t->net->be->host_alloc(bytes);
    t->snapshot_of_backend = t->snapshot;
    if (!t->snapshot)
        t->snapshot = xmalloc(bytes);
}

/* Lets the pieces show to a copy, on the host, of what they are now. The slabs', which stand still until the next update, come
 * beside what the device does until then; last, for all other downloads would wait behind them. */
static void take_copy(struct trainer *t, struct piece_list *list)
{
    const struct backend *be = t->net->be;
    if (!t->snapshot)
        make_snapshot(t, list);
    float *to = t->snapshot;
    for (size_t i = list->n; i-- > 0;) {
        struct ckpt_piece *p = &list->p[i];
        size_t bytes = (size_t)elements(p) * sizeof *to;
        if (i < list->slabs)
            (t->snapshot_of_backend ? be->download_beside : be->download)(to, p->data, bytes);
        else if (i < list->device)
            download_carried(t, i - list->slabs, to);
        else
            memcpy(to, p->data, bytes);
        p->data = to;
        to += elements(p);
    }
}

bool trainer_save_copies(const struct backend *be, struct precision precision, bool background)
{
    return background || !memory_is_host(be) || precision.act != F32;
}

void trainer_save_begin(struct trainer *t, const char *dir, struct attrs *state, const char *history,
                        bool background)
{
    if (t->saving)
        bug("'%s' is begun before another checkpoint is published", dir);
    struct saving *s = xcalloc(1, sizeof *s);
    s->be = t->net->be;
    s->dir = xstrdup(dir);
    s->history = xstrdup(history);
    s->rank = t->comm->rank;
    s->ranks = t->comm->size;
    add_group(&s->list, t, "model", t->net->weights);
    add_group(&s->list, t, "optim/m", t->m);
    add_group(&s->list, t, "optim/v", t->v);
    if (t->averaging)
        add_group(&s->list, t, "optim/ema", t->ema);
    s->list.slabs = s->list.n;
    add_carried(&s->list, t);
    s->list.device = s->list.n;
    if (s->rank == 0)
        add_health(&s->list, t);
    config_to_attrs(&t->net->c, &s->config);
    attrs_set_int(state, "step", t->step);
    attrs_set_int(state, "samples", t->samples);
    attrs_set_int(state, "tokens", t->tokens);
    attrs_set_int(state, "updates", t->updates);
    attrs_set_int(state, "skipped", t->skipped);
    attrs_set_int(state, "skipped_in_row", t->skipped_in_row);
    attrs_set_int(state, "rewinds", t->rewinds);
    attrs_set_int(state, "rewinds_in_row", t->rewinds_in_row);
    attrs_set_int(state, "health_n", t->health.n);
    if (t->opt.stream)
        attrs_set_int(state, "stream_pos", net_state_pos(t->in[0]));
    s->state = *state; /* taken over */
    *state = (struct attrs){ 0 };
    atomic_init(&s->written, false);
    t->saving = s;
    bool apart = background && ckpt_may_thread();
    if (trainer_save_copies(t->net->be, t->opt.precision, apart))
        take_copy(t, &s->list);
    const char *fault = apart ? NULL : t->net->be->sync(); /* apart, the next step looks */
    if (fault)
        die("'%s': the device's memory cannot be copied: %s", dir, fault);
    if (apart)
        s->threaded = pthread_create(&s->thread, NULL, write_apart, s) == 0;
    if (!s->threaded) { /* or no thread can be had */
        write_member(s);
        note_written(s);
    }
}

bool trainer_save_is_written(const struct trainer *t)
{
    return !t->saving || atomic_load(&t->saving->written);
}

bool trainer_save_publish(struct trainer *t, bool (*still_ours)(void *), void *arg)
{
    struct saving *s = t->saving;
    if (s->threaded)
        pthread_join(s->thread, NULL);
    if (s->error.code)
        die_code(s->error.code, "%s", s->error.text);
    struct set_member *all = xcalloc((size_t)s->ranks, sizeof *all);
    comm_all_gather(t->comm, &s->member, sizeof s->member, all);
    int64_t ours = 1;
    if (s->rank == 0) {
        struct out *index = ckpt_make_index(s->dir, all, s->ranks, &s->config, &s->state, s->history, false);
        ours = out_commit_if(index, still_ours, arg);
    }
    comm_bcast(t->comm, &ours, sizeof ours, 0);
    free(all);
    free(s->dir);
    free(s->history);
    free(s->list.p);
    attrs_free(&s->state);
    attrs_free(&s->config);
    free(s);
    t->saving = NULL;
    return ours;
}

int64_t trainer_save_bytes(const struct trainer *t)
{
    int64_t floats = (t->ema ? 4 : 3) * t->net->ps.count;
    for (int64_t k = 0; k < streams(t); k++)
        for (int i = 0; i < net_state_tensors(t->in[k]); i++)
            floats += ckpt_elements(2, carried_tensor(t, t->in[k], i).shape) / streams(t);
    int64_t names = 2048 * (int64_t)t->net->ps.n; /* of the tensors, in members and index */
    return floats * (int64_t)sizeof(float) + names + (int64_t)t->comm->size * 16384;
}

/* Carried states come back when the batch has the same rows; otherwise the streams begin anew elsewhere. */
static void load_carried(struct trainer *t, struct ckpt *c)
{
    int64_t pos;
    if (t->opt.stream && attrs_try_int(ckpt_state(c), "stream_pos", &pos) < 0)
        die("'%s' holds no state of streams: %s", ckpt_dir(c), err_last());
    for (int64_t k = 0; k < streams(t); k++)
        net_state_set_pos(t->in[k], pos);
    for (int64_t k = 0; k < streams(t); k++)
        for (int i = 0; i < net_state_tensors(t->in[k]); i++) {
            struct ckpt_tensor want = carried_tensor(t, t->in[k], i);
            const int64_t offset[CKPT_MAX_DIM] = { t->opt.first_row + k * t->opt.micro_rows, 0 };
            const int64_t count[CKPT_MAX_DIM] = { t->opt.micro_rows, want.shape[1] };
            if (want.shape[1] == 0) /* the halo of a convolution of one tap: nothing was stored */
                continue;
            int at = ckpt_find(c, want.name);
            if (at < 0 || ckpt_tensor(c, at)->shape[0] != t->opt.batch)
                die("'%s' holds no state of %lld streams: --order stream resumes with the same --batch",
                    ckpt_dir(c), (long long)t->opt.batch);
            float *host = xmalloc((size_t)ckpt_elements(2, count) * sizeof *host);
            if (ckpt_try_read(c, want.name, offset, count, host) < 0)
                die("%s", err_last());
            net_state_upload(t->in[k], i, host);
            free(host);
        }
}

/* The running mean of the weights goes on; or it begins, or ends, when the run is told so. */
static void load_mean(struct trainer *t, struct ckpt *c)
{
    char name[CKPT_MAX_NAME];
    t->averaging = false;
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
    t->net->be->join_downloads(); /* of a checkpoint */
    weights_load(t->net, c, "model", t->net->weights);
    net_refresh_half(t->net);
    if (upto < TRAINER_OPTIMIZER)
        return;
    weights_load(t->net, c, "optim/m", t->m);
    weights_load(t->net, c, "optim/v", t->v);
    const struct attrs *s =
        ckpt_state(c); /* of older runs, each of whose steps was an update, it says no updates */
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

void trainer_rewind(struct trainer *t, struct ckpt *c)
{
    const struct trainer was = *t;
    trainer_load(t, c, TRAINER_RUN);
    t->samples = was.samples;
    t->tokens = was.tokens;
    t->skipped = was.skipped;
    t->rewinds = was.rewinds + 1;
    t->rewinds_in_row = was.rewinds_in_row + 1;
}
