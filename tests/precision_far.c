/* precision_far.c - a device for tests: the CPU's kernels behind memory that the host cannot touch, with bf16
 * SPDX-License-Identifier: MIT
 */
#include "precision_far.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/half.h"
#include "common/base/mem.h"

#define AWAY ((uintptr_t)1 << 60) /* no address of a process is that high */

static void *near(const void *p) { return p ? (void *)((uintptr_t)p - AWAY) : NULL; }
static void *away(void *p) { return p ? (void *)((uintptr_t)p + AWAY) : NULL; }

/* What a tensor is to its call, and so which dtypes it may have. */
enum kind { ACT, RESIDUAL, PARAM };

struct field {
    struct tensor *t;
    int64_t rows, cols;
    enum kind kind;
};

struct loan { /* of one tensor in bf16: floats, and where they go back to */
    struct tensor was;
    int64_t rows, cols;
    float *floats;
};

enum { MAX_FIELDS = 24 };
struct loans {
    int n;
    struct loan l[MAX_FIELDS];
};

static void check_dtypes(const char *op, const struct field *f, int n)
{
    int act = -1;
    for (int i = 0; i < n; i++) {
        if (!f[i].t->data)
            continue;
        int d = (int)f[i].t->dtype;
        bool bad = f[i].kind == PARAM && d != F32;
        if (f[i].kind == ACT) {
            bad |= act >= 0 && d != act;
            act = d;
        }
        if (bad) {
            fprintf(stderr, "far: %s: tensor %d has dtype %d\n", op, i, d);
            abort();
        }
    }
}

/* Tensors of one address share their floats, as they share their memory. */
static float *borrow_one(struct loans *l, const struct field *f)
{
    for (int i = 0; i < l->n; i++)
        if (l->l[i].was.data == f->t->data)
            return l->l[i].floats;
    struct loan *new = &l->l[l->n++];
    *new = (struct loan){ *f->t, f->rows, f->cols, xmalloc((size_t)(f->rows * f->t->ld + 1) * sizeof(float)) };
    for (int64_t r = 0; r < f->rows; r++)
        half_from_bf16((uint16_t *)f->t->data + r * f->t->ld, f->cols, new->floats + r * f->t->ld);
    return new->floats;
}

static struct loans borrow(const char *op, struct field *f, int n)
{
    struct loans l = { 0 };
    check_dtypes(op, f, n);
    for (int i = 0; i < n; i++) {
        f[i].t->data = near(f[i].t->data);
        if (!f[i].t->data || f[i].t->dtype == F32)
            continue;
        f[i].t->data = borrow_one(&l, &f[i]);
        f[i].t->dtype = F32;
    }
    return l;
}

static void give_back(struct loans *l)
{
    for (int i = 0; i < l->n; i++) {
        const struct loan *o = &l->l[i];
        for (int64_t r = 0; r < o->rows; r++)
            half_to_bf16(o->floats + r * o->was.ld, o->cols, (uint16_t *)o->was.data + r * o->was.ld);
        free(o->floats);
    }
}

#define NEAR(p) ((p) = near(p))
/* far_NAME(): an op of the CPU with its pointers (a statement on `b`) and its tensors (a list) brought near. */
#define OP(name, type, pointers, ...)                                                                          \
    static void far_##name(const struct type *a)                                                               \
    {                                                                                                          \
        struct type b = *a;                                                                                    \
        pointers;                                                                                              \
        struct field f[] = { __VA_ARGS__ };                                                                    \
        struct loans l = borrow(#name, f, sizeof f / sizeof *f);                                               \
        backend_cpu()->name(&b);                                                                               \
        give_back(&l);                                                                                         \
    }

static void far_matmul(const struct matmul *a)
{
    for (int64_t i = 0; i < (a->batch ? a->batch : 1); i++) {
        struct matmul b = *a;
        struct tensor *t[] = { &b.a, &b.b, &b.c, &b.add, &b.bias };
        const int64_t step[] = { a->step_a, a->step_b, a->step_c, a->step_c, a->step_bias };
        for (int k = 0; k < 5; k++)
            t[k]->data = t[k]->data ? (char *)t[k]->data + i * step[k] * (t[k]->dtype == F32 ? 4 : 2) : NULL;
        b.batch = 1;
        struct field f[] = { { &b.a, a->trans_a ? a->K : a->M, a->trans_a ? a->M : a->K, ACT },
                             { &b.b, a->trans_b ? a->N : a->K, a->trans_b ? a->K : a->N, ACT },
                             { &b.c, a->M, a->N, RESIDUAL },
                             { &b.add, a->M, a->N, RESIDUAL },
                             { &b.bias, 1, a->N, PARAM } };
        struct loans l = borrow("matmul", f, 5);
        backend_cpu()->matmul(&b);
        give_back(&l);
    }
}

OP(colsum, colsum, NEAR(b.work), { &b.x, a->M, a->D, ACT }, { &b.y, 1, a->D, PARAM })

#define EMBED { &b.table, a->V, a->D, ACT }, { &b.y, a->M, a->D, RESIDUAL }, { &b.dy, a->M, a->D, RESIDUAL }, { &b.dtable, a->V, a->D, PARAM }
OP(embed_fwd, embed, NEAR(b.ids), EMBED)
OP(embed_bwd, embed, (NEAR(b.ids), NEAR(b.work)), EMBED)

#define NORM                                                                                                   \
    { &b.x, a->M, a->D, RESIDUAL }, { &b.w, 1, a->D, PARAM }, { &b.bias, 1, a->D, PARAM }, { &b.y, a->M, a->D, ACT },  \
        { &b.dy, a->M, a->D, ACT }, { &b.dx, a->M, a->D, RESIDUAL }, { &b.dw, 1, a->D, PARAM },                 \
        { &b.dbias, 1, a->D, PARAM }
OP(norm_fwd, norm, (NEAR(b.rstd), NEAR(b.mean), NEAR(b.work)), NORM)
OP(norm_bwd, norm, (NEAR(b.rstd), NEAR(b.mean), NEAR(b.work)), NORM)

#define GATEDNORM                                                                                              \
    { &b.x, a->M, a->D, ACT }, { &b.z, a->M, a->D, ACT }, { &b.w, 1, a->D, PARAM }, { &b.y, a->M, a->D, ACT },  \
        { &b.dy, a->M, a->D, ACT }, { &b.dx, a->M, a->D, ACT }, { &b.dz, a->M, a->D, ACT }, { &b.dw, 1, a->D, PARAM }
OP(gatednorm_fwd, gatednorm, (NEAR(b.rstd), NEAR(b.work)), GATEDNORM)
OP(gatednorm_bwd, gatednorm, (NEAR(b.rstd), NEAR(b.work)), GATEDNORM)

#define CONV                                                                                                   \
    { &b.x, a->B * a->T, a->C, ACT }, { &b.y, a->B * a->T, a->C, ACT }, { &b.dy, a->B * a->T, a->C, ACT },      \
        { &b.dx, a->B * a->T, a->C, ACT }, { &b.w, a->C, a->W, PARAM }, { &b.bias, 1, a->C, PARAM },            \
        { &b.halo, 0, 0, PARAM }, { &b.halo_out, 0, 0, PARAM }, { &b.dw, 0, 0, PARAM }, { &b.dbias, 0, 0, PARAM }, \
        { &b.dhalo, 0, 0, PARAM }
OP(conv1d_fwd, conv1d, (NEAR(b.start), NEAR(b.work)), CONV)
OP(conv1d_bwd, conv1d, (NEAR(b.start), NEAR(b.work)), CONV)
OP(conv1d_step, conv1d, (NEAR(b.start), NEAR(b.work)), CONV)

#define ROWS (a->B * a->T)
#define SSD                                                                                                    \
    { &b.x, ROWS, a->H * a->P, ACT }, { &b.dt_raw, ROWS, a->H, ACT }, { &b.Bm, ROWS, a->G * a->N, ACT },        \
        { &b.Cm, ROWS, a->G * a->N, ACT }, { &b.y, ROWS, a->H * a->P, ACT },                                    \
        { &b.states, a->B * ((a->T + a->Q - 1) / a->Q) * a->H * a->P, a->N, RESIDUAL },                         \
        { &b.dy, ROWS, a->H * a->P, ACT }, { &b.dx, ROWS, a->H * a->P, ACT }, { &b.ddt_raw, ROWS, a->H, ACT },  \
        { &b.dBm, ROWS, a->G * a->N, ACT }, { &b.dCm, ROWS, a->G * a->N, ACT }, { &b.dt_bias, 0, 0, PARAM },    \
        { &b.A_log, 0, 0, PARAM }, { &b.D, 0, 0, PARAM }, { &b.h0, 0, 0, PARAM }, { &b.hT, 0, 0, PARAM },       \
        { &b.dhT, 0, 0, PARAM }, { &b.ddt_bias, 0, 0, PARAM }, { &b.dA_log, 0, 0, PARAM }, { &b.dD, 0, 0, PARAM }, \
        { &b.dh0, 0, 0, PARAM }
OP(ssd_fwd, ssd, (NEAR(b.start), NEAR(b.work)), SSD)
OP(ssd_bwd, ssd, (NEAR(b.start), NEAR(b.work)), SSD)
OP(ssd_step, ssd, (NEAR(b.start), NEAR(b.work)), SSD)

#define SCAN                                                                                                   \
    { &b.x, ROWS, a->C, ACT }, { &b.dt_raw, ROWS, a->C, ACT }, { &b.Bm, ROWS, a->N, ACT },                      \
        { &b.Cm, ROWS, a->N, ACT }, { &b.y, ROWS, a->C, ACT }, { &b.dy, ROWS, a->C, ACT },                      \
        { &b.dx, ROWS, a->C, ACT }, { &b.ddt_raw, ROWS, a->C, ACT }, { &b.dBm, ROWS, a->N, ACT },               \
        { &b.dCm, ROWS, a->N, ACT }, { &b.dt_bias, 0, 0, PARAM }, { &b.A_log, 0, 0, PARAM }, { &b.D, 0, 0, PARAM }, \
        { &b.h0, 0, 0, PARAM }, { &b.hT, 0, 0, PARAM }, { &b.dhT, 0, 0, PARAM }, { &b.ddt_bias, 0, 0, PARAM },  \
        { &b.dA_log, 0, 0, PARAM }, { &b.dD, 0, 0, PARAM }, { &b.dh0, 0, 0, PARAM }
OP(scan_fwd, scan, (NEAR(b.start), NEAR(b.states), NEAR(b.work)), SCAN)
OP(scan_bwd, scan, (NEAR(b.start), NEAR(b.states), NEAR(b.work)), SCAN)
OP(scan_step, scan, (NEAR(b.start), NEAR(b.states), NEAR(b.work)), SCAN)

#define RGLRU                                                                                                  \
    { &b.x, ROWS, a->C, ACT }, { &b.gate_x, ROWS, a->C, ACT }, { &b.gate_a, ROWS, a->C, ACT },                  \
        { &b.y, ROWS, a->C, ACT }, { &b.dy, ROWS, a->C, ACT }, { &b.dx, ROWS, a->C, ACT },                      \
        { &b.dgate_x, ROWS, a->C, ACT }, { &b.dgate_a, ROWS, a->C, ACT }, { &b.a_param, 0, 0, PARAM },          \
        { &b.h0, 0, 0, PARAM }, { &b.hT, 0, 0, PARAM }, { &b.dhT, 0, 0, PARAM }, { &b.da_param, 0, 0, PARAM },  \
        { &b.dh0, 0, 0, PARAM }
OP(rglru_fwd, rglru, (NEAR(b.start), NEAR(b.work)), RGLRU)
OP(rglru_bwd, rglru, (NEAR(b.start), NEAR(b.work)), RGLRU)
OP(rglru_step, rglru, (NEAR(b.start), NEAR(b.work)), RGLRU)

OP(rope, rope, NEAR(b.start), { &b.x, (a->B - 1) * (a->rows ? a->rows : a->T) + a->T, a->H * a->hd, ACT })

#define KEYS ((a->B - 1) * a->Smax + (a->S < a->Smax ? a->S : a->Smax))
#define ATTN                                                                                                   \
    { &b.q, ROWS, a->Hq * a->hd, ACT }, { &b.k, KEYS, a->Hkv * a->hd, ACT }, { &b.v, KEYS, a->Hkv * a->hd, ACT }, \
        { &b.o, ROWS, a->Hq * a->hd, ACT }, { &b.dout, ROWS, a->Hq * a->hd, ACT },                              \
        { &b.dq, ROWS, a->Hq * a->hd, ACT }, { &b.dk, KEYS, a->Hkv * a->hd, ACT }, { &b.dv, KEYS, a->Hkv * a->hd, ACT }
OP(attn_fwd, attn, (NEAR(b.start), NEAR(b.lse), NEAR(b.work)), ATTN)
OP(attn_bwd, attn, (NEAR(b.start), NEAR(b.lse), NEAR(b.work)), ATTN)
OP(attn_step, attn, (NEAR(b.start), NEAR(b.lse), NEAR(b.work)), ATTN)

#define ACTIVATION                                                                                             \
    { &b.x, a->M, a->D, ACT }, { &b.u, a->M, a->D, ACT }, { &b.y, a->M, a->D, ACT }, { &b.dy, a->M, a->D, ACT }, \
        { &b.dx, a->M, a->D, ACT }, { &b.du, a->M, a->D, ACT }
OP(act_fwd, activation, (void)0, ACTIVATION)
OP(act_bwd, activation, (void)0, ACTIVATION)

OP(xent, xent, (NEAR(b.target), NEAR(b.loss), NEAR(b.work)), { &b.x, a->M, a->D, ACT }, { &b.w, a->V, a->D, ACT },
   { &b.dx, a->M, a->D, ACT }, { &b.dw, a->V, a->D, PARAM })
OP(cast, cast, (void)0, { &b.x, a->M, a->D, RESIDUAL }, { &b.y, a->M, a->D, RESIDUAL })

static void far_adamw(const struct adamw *a)
{
    struct adamw b = *a;
    NEAR(b.gscale), NEAR(b.mask), NEAR(b.grad), NEAR(b.p), NEAR(b.m), NEAR(b.v), NEAR(b.ema);
    b.half = NULL;
    backend_cpu()->adamw(&b);
    if (a->half)
        half_to_bf16(b.p, b.n, near(a->half));
}

static void far_total(const struct total *a)
{
    struct total b = *a;
    NEAR(b.x), NEAR(b.sum);
    backend_cpu()->total(&b);
}

static void far_judge(const struct judge *a)
{
    struct judge b = *a;
    NEAR(b.seen), NEAR(b.verdict);
    backend_cpu()->judge(&b);
}

static void far_ask(const void *dev, size_t bytes) { backend_cpu()->ask(near(dev), bytes); }
static void *far_alloc(size_t bytes) { return away(backend_cpu()->alloc(bytes)); }
static void far_free(void *p) { backend_cpu()->free(near(p)); }
static void far_upload(void *dev, const void *host, size_t bytes) { memcpy(near(dev), host, bytes); }
static void far_download(void *host, const void *dev, size_t bytes) { memcpy(host, near(dev), bytes); }
static void far_copy(void *dst, const void *src, size_t bytes) { memcpy(near(dst), near(src), bytes); }
static void far_zero(void *p, size_t bytes) { memset(near(p), 0, bytes); }

/* Copies beside the ops are made at the join; who waits for them lets that come first, for a while. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t made;
    struct copy {
        void *to;
        const void *from;
        size_t bytes;
    } *copy;
    size_t n, cap;
} late = { .lock = PTHREAD_MUTEX_INITIALIZER, .made = PTHREAD_COND_INITIALIZER };

static void far_download_beside(void *host, const void *dev, size_t bytes)
{
    pthread_mutex_lock(&late.lock);
    *(struct copy *)grow(&late.copy, &late.n, &late.cap, sizeof *late.copy) = (struct copy){ host, near(dev), bytes };
    pthread_mutex_unlock(&late.lock);
}

static void make_copies(void)
{
    for (size_t i = 0; i < late.n; i++)
        memcpy(late.copy[i].to, late.copy[i].from, late.copy[i].bytes);
    late.n = 0;
    pthread_cond_signal(&late.made);
}

static void far_join_downloads(void)
{
    pthread_mutex_lock(&late.lock);
    make_copies();
    pthread_mutex_unlock(&late.lock);
}

static const char *far_wait_downloads(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 250000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&late.lock);
    while (late.n > 0 && pthread_cond_timedwait(&late.made, &late.lock, &until) == 0)
        ;
    make_copies();
    pthread_mutex_unlock(&late.lock);
    return NULL;
}

const struct backend *far_backend(void)
{
    static struct backend be;
    static const struct links links; /* there is one rank, which calls none */
    be = *backend_cpu(); /* version, info, marks, sizes of scratch */
    be.name = "far";
    be.dtypes = 1 << F32 | 1 << BF16;
    be.links = &links;
#define TAKE(name) be.name = far_##name
    TAKE(alloc), TAKE(free), TAKE(upload), TAKE(download), TAKE(ask), TAKE(copy), TAKE(zero);
    TAKE(download_beside), TAKE(join_downloads), TAKE(wait_downloads);
    TAKE(matmul), TAKE(colsum), TAKE(embed_fwd), TAKE(embed_bwd), TAKE(norm_fwd), TAKE(norm_bwd);
    TAKE(gatednorm_fwd), TAKE(gatednorm_bwd), TAKE(conv1d_fwd), TAKE(conv1d_bwd), TAKE(conv1d_step);
    TAKE(ssd_fwd), TAKE(ssd_bwd), TAKE(ssd_step), TAKE(scan_fwd), TAKE(scan_bwd), TAKE(scan_step);
    TAKE(rglru_fwd), TAKE(rglru_bwd), TAKE(rglru_step), TAKE(rope), TAKE(attn_fwd), TAKE(attn_bwd), TAKE(attn_step);
    TAKE(act_fwd), TAKE(act_bwd), TAKE(xent), TAKE(cast), TAKE(total), TAKE(judge), TAKE(adamw);
    return &be;
}
