/* precision.c - tests of the network and the trainer on devices: their own memory, bf16, two dtypes of the residual stream
 * SPDX-License-Identifier: MIT
 *
 * A device is the stand-in of precision_far.h, whose floats must give the CPU's bits; and, where SSM_CUDA names the CUDA backend
 * or there is a GPU, that one too.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/file.h"
#include "common/base/half.h"
#include "common/base/mem.h"
#include "common/base/out.h"
#include "common/base/rng.h"
#include "common/io/ckpt.h"
#include "common/io/set.h"
#include "common/train/trainer.h"
#include "kernels/device.h"
#include "model.h"
#include "precision_far.h"

/* All that a network says of a batch. */
enum { VOCAB = 37, STEPS = 6 };
struct answers {
    float loss[M], train_loss[M], stream_loss[M], logits[STEPS][VOCAB], rows[STEPS][2][VOCAB];
    double logp[M];
    bool greedy[M];
    float *grads;
    struct params ps;
};

static void train_loss(struct net *n, struct net_ctx *x, const struct batch *b, struct net_state *in,
                       struct net_state *out, float *host)
{
    float *loss = n->be->alloc(M * sizeof *loss);
    net_train(x, b, in, out, loss, NULL);
    n->be->download(host, loss, (size_t)(b->B * b->T) * sizeof *loss);
    n->be->free(loss);
}

/* Two windows of a stream, the second of which begins with what the first leaves. */
static void run_stream(struct net *n, const struct batch *b, struct answers *a)
{
    struct net_ctx *x = net_ctx_create(n, B, T, true, RECOMPUTE_FULL, 0);
    struct net_state *s[2] = { net_state_create(n, B, 0), net_state_create(n, B, 0) };
    train_loss(n, x, b, s[0], s[1], a->stream_loss);
    train_loss(n, x, b, s[1], s[0], a->stream_loss);
    net_state_free(s[0]);
    net_state_free(s[1]);
    net_ctx_free(x);
}

static void run_decode(struct net *n, const int32_t *ids, struct answers *a)
{
    struct net_ctx *one = net_ctx_create(n, 1, T, false, RECOMPUTE_NONE, T);
    struct net_ctx *two = net_ctx_create(n, 2, 1, false, RECOMPUTE_NONE, T);
    struct net_state *s = net_state_create(n, 1, T), *rows = net_state_create(n, 2, T);
    int64_t pos[2] = { 9, 12 };
    net_decode(one, s, ids, 9, a->logits[0]);
    net_state_copy_row(rows, 0, s, 0);
    for (int k = 1; k < STEPS; k++) {
        net_decode(one, s, ids + 8 + k, 1, a->logits[k]);
        if (k == 3)
            net_state_copy_row(rows, 1, s, 0);
    }
    for (int k = 0; k < STEPS; k++, pos[0]++, pos[1]++)
        net_decode_rows(two, rows, (const int32_t[]){ ids[pos[0]], ids[pos[1]] }, pos, a->rows[k][0]);
    net_state_free(s);
    net_state_free(rows);
    net_ctx_free(one);
    net_ctx_free(two);
}

static struct answers *ask(int family, const struct backend *be, struct precision precision)
{
    struct config c = small(families[family].pattern, families[family].flavour);
    struct net *n = net_create(&c, be, precision, true);
    struct answers *a = calloc(1, sizeof *a);
    int32_t ids[M], targets[M], start[M];
    init(n, 11);
    random_batch(5, ids, targets);
    some_documents(start);
    const struct batch b = { .B = B, .T = T, .ids = ids, .targets = targets, .start = start };
    struct net_ctx *train = net_ctx_create(n, B, T, true, RECOMPUTE_NONE, 0);
    struct net_ctx *eval = net_ctx_create(n, B, T, false, RECOMPUTE_NONE, 0);
    train_loss(n, train, &b, NULL, NULL, a->train_loss);
    params_init(&a->ps, &c);
    a->grads = malloc((size_t)a->ps.slab * sizeof *a->grads);
    be->download(a->grads, n->grads, (size_t)a->ps.slab * sizeof *a->grads);
    net_loss(eval, &b, NULL, a->loss);
    net_score(eval, &b, a->logp, a->greedy);
    run_stream(n, &b, a);
    run_decode(n, ids, a);
    assert_null(be->sync());
    net_ctx_free(train);
    net_ctx_free(eval);
    net_free(n);
    return a;
}

static void forget(struct answers *a)
{
    free(a->grads);
    params_free(&a->ps);
    free(a);
}

/* Memory of its own changes no bit. */
static void same_bits(void **state)
{
    (void)state;
    for (int f = 0; f < FAMILIES; f++) {
        struct answers *cpu = ask(f, backend_cpu(), fp32), *far = ask(f, far_backend(), fp32);
        assert_memory_equal(cpu, far, offsetof(struct answers, grads));
        assert_memory_equal(cpu->grads, far->grads, (size_t)cpu->ps.slab * sizeof(float));
        forget(cpu);
        forget(far);
    }
}

static double norm(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

/* |a - b| / (|b| + least) */
static double distance(const float *a, const float *b, int64_t n, double least)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += pow((double)a[i] - (double)b[i], 2);
    return sqrt(sum) / (norm(b, n) + least);
}

struct limits {
    double losses, logits, grads;
};

static void check_near(const char *what, const struct answers *a, const struct answers *want, const struct limits *most)
{
    double loss = fmax(distance(a->loss, want->loss, M, 0),
                       fmax(distance(a->train_loss, want->train_loss, M, 0),
                            distance(a->stream_loss, want->stream_loss, M, 0)));
    double logits = fmax(distance(a->logits[0], want->logits[0], STEPS * VOCAB, 0),
                         distance(a->rows[0][0], want->rows[0][0], STEPS * 2 * VOCAB, 0));
    /* The bias of keys that do not turn has no gradient but rounding errors: softmax does not see it. */
    double worst = 0, least = 1e-3 * norm(want->grads, want->ps.slab);
    const char *name = "";
    for (size_t i = 0; i < a->ps.n; i++) {
        const struct param *p = &a->ps.p[i];
        double d = distance(a->grads + p->offset, want->grads + p->offset, p->count, least);
        if (!(d <= worst)) {
            worst = d;
            name = p->name;
        }
    }
    printf("# %s: losses %.2g, logits %.2g, gradients %.2g (%s)\n", what, loss, logits, worst, name);
    fflush(stdout);
    assert_true(loss <= most->losses && logits <= most->logits && worst <= most->grads);
    for (int i = 0; i < M; i++)
        assert_true(fabs(a->logp[i] + (double)a->loss[i]) < 0.02 * (1 + fabs(a->logp[i])));
}

/* bf16 rounds by up to 2^-9, and some ten roundings, which do not add up in one direction, lie between a weight and the loss.
 * Gradients of small tensors are sums that cancel, so that errors weigh more. */
static void check_bf16(int family, const struct backend *be, enum dtype residual, const struct answers *want)
{
    static const struct limits most = { 0.006, 0.02, 0.1 };
    char what[64];
    snprintf(what, sizeof what, "%s %s, residual %s", be->name, families[family].pattern, residual == BF16 ? "bf16" : "fp32");
    struct answers *a = ask(family, be, (struct precision){ BF16, residual });
    check_near(what, a, want, &most);
    forget(a);
}

static void bf16(void **state)
{
    (void)state;
    for (int f = 0; f < FAMILIES; f++) {
        struct answers *want = ask(f, backend_cpu(), fp32);
        check_bf16(f, far_backend(), F32, want);
        check_bf16(f, far_backend(), BF16, want);
        forget(want);
    }
}

/* ---- the trainer ---- */

enum { ROWS = 4, LEN = 12, LEARN = 40 };

static struct trainer *make_trainer(const struct backend *be, struct precision precision, bool stream)
{
    struct config c = small("MSR-L", TIED);
    const struct trainer_options opt = { .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1,
                                         .ema = 0.5, .freeze = "*norm*", .micro_rows = 2, .rows = ROWS, .batch = ROWS,
                                         .seq_len = LEN, .precision = precision, .stream = stream };
    struct trainer *t = trainer_create(&c, be, comm_world(), &opt);
    net_init(t->net, 3);
    return t;
}

static double some_steps(struct trainer *t, int n)
{
    int32_t ids[ROWS * LEN], targets[ROWS * LEN], start[ROWS * LEN];
    bool carries[ROWS];
    double loss = 0;
    while (n-- > 0) {
        for (int i = 0; i < ROWS * LEN; i++) {
            ids[i] = (int32_t)(rng_u64(5, (uint64_t)t->samples, (uint64_t)i) % VOCAB);
            targets[i] = (ids[i] + 1) % VOCAB;
            start[i] = t->opt.stream ? -(1 << 30) : 0;
            carries[i % ROWS] = t->opt.stream;
        }
        const struct loaded b = { .rows = ROWS, .T = LEN, .ids = ids, .targets = targets, .start = start, .carries = carries,
                                  .n_targets = ROWS * LEN, .n = t->samples, .batch = ROWS };
        loss = trainer_step(t, &b, 0.01, (struct step_wish){ 0 }).loss;
    }
    return loss;
}

static bool always(void *arg) { return arg == NULL; }

/* Weights, moments and running mean, one after the other. Free it. */
static float *slabs_of(const struct trainer *t)
{
    const float *const slabs[] = { t->net->weights, t->m, t->v, t->ema };
    size_t n = (size_t)t->net->ps.slab;
    float *all = malloc(4 * n * sizeof *all);
    for (size_t i = 0; i < 4; i++)
        t->net->be->download(all + i * n, slabs[i], n * sizeof *all);
    return all;
}

/* What matrices are read from is the masters, rounded. */
static void check_half(const struct trainer *t)
{
    size_t n = (size_t)t->net->ps.slab;
    uint16_t *half = malloc(2 * n * sizeof *half);
    float *slabs = slabs_of(t);
    t->net->be->download(half, t->net->half, n * sizeof *half);
    half_to_bf16(slabs, (int64_t)n, half + n);
    assert_memory_equal(half, half + n, n * sizeof *half);
    free(half);
    free(slabs);
}

/* Trains, saves, trains on, comes back: what follows is the same, bit for bit. In `more` steps it has learnt. */
static void check_trainer(const struct backend *be, struct precision precision, bool stream, bool background, int more)
{
    struct trainer *t = make_trainer(be, precision, stream);
    char dir[] = "/tmp/ssm-precision.XXXXXX";
    assert_non_null(mkdtemp(dir));
    char *path = path_join(dir, "step");
    set_prepare(path, false);
    struct attrs attrs = { 0 };
    some_steps(t, 3);
    trainer_save_begin(t, path, &attrs, "", background);
    assert_true(trainer_save_publish(t, always, NULL));
    double first = some_steps(t, 2);
    float *want = slabs_of(t);
    trainer_free(t);

    t = make_trainer(be, precision, stream);
    struct ckpt *from = ckpt_try_open(path);
    assert_non_null(from);
    trainer_load(t, from, TRAINER_RUN);
    ckpt_close(from);
    assert_true(some_steps(t, 2) == first);
    float *have = slabs_of(t);
    assert_memory_equal(have, want, 4 * (size_t)t->net->ps.slab * sizeof *have);
    if (precision.act == BF16)
        check_half(t);
    assert_true(more == 0 || some_steps(t, more) < 0.8 * first);
    trainer_free(t);
    free(want);
    free(have);
    free(path);
    out_remove_tree(dir);
}

static void save(struct trainer *t, const char *dir, bool background, int steps)
{
    struct attrs attrs = { 0 };
    set_prepare(dir, false);
    trainer_save_begin(t, dir, &attrs, "", background);
    some_steps(t, steps);
    assert_true(trainer_save_publish(t, always, NULL));
}

/* What is written beside steps is what is written without any, each time. */
static void check_beside(const struct backend *be, struct precision precision, bool stream)
{
    struct trainer *t[] = { make_trainer(be, precision, stream), make_trainer(be, precision, stream) };
    char dir[] = "/tmp/ssm-precision.XXXXXX";
    assert_non_null(mkdtemp(dir));
    for (int round = 0; round < 2; round++) {
        char *paths[2], *data[2];
        size_t n[2];
        for (int k = 0; k < 2; k++) {
            paths[k] = xasprintf("%s/%d-%d", dir, round, k);
            save(t[k], paths[k], k, 2 * k);
            char *member = path_join(paths[k], "part-00000-of-00001.h5");
            data[k] = file_try_read(member, 1 << 24, &n[k]);
            assert_non_null(data[k]);
            free(member);
        }
        assert_true(n[0] == n[1] && n[0] > 10000);
        assert_memory_equal(data[0], data[1], n[0]);
        some_steps(t[0], 2);
        for (int k = 0; k < 2; k++) {
            free(paths[k]);
            free(data[k]);
        }
    }
    trainer_free(t[0]);
    trainer_free(t[1]);
    out_remove_tree(dir);
}

static void *no_memory(size_t bytes)
{
    (void)bytes;
    return NULL;
}

static void beside(void **state)
{
    (void)state;
    struct backend poor = *far_backend();
    poor.host_alloc = no_memory;
    check_beside(backend_cpu(), fp32, true);
    check_beside(far_backend(), fp32, false);
    check_beside(far_backend(), (struct precision){ BF16, BF16 }, true);
    check_beside(&poor, fp32, false);
}

static void trainers(void **state)
{
    (void)state;
    const struct backend *far = far_backend();
    struct trainer *a = make_trainer(backend_cpu(), fp32, false), *b = make_trainer(far, fp32, false);
    assert_true(some_steps(a, 4) == some_steps(b, 4));
    float *x = slabs_of(a), *y = slabs_of(b);
    assert_memory_equal(x, y, 4 * (size_t)a->net->ps.slab * sizeof *x);
    free(x);
    free(y);
    trainer_free(a);
    trainer_free(b);
    for (int k = 0; k < 4; k++) {
        check_trainer(far, (struct precision){ BF16, F32 }, k & 1, k & 2, LEARN);
        check_trainer(far, (struct precision){ BF16, BF16 }, k & 1, k & 2, LEARN);
    }
}

/* A step whose loss is not finite changes nothing but carried states, and the next one learns again. */
static void check_skip(const struct backend *be)
{
    struct trainer *t = make_trainer(be, fp32, true);
    float was, none = NAN;
    some_steps(t, 2);
    be->download(&was, t->net->weights, sizeof was);
    be->upload(t->net->weights, &none, sizeof none);
    float *want = slabs_of(t);
    assert_true(isnan(some_steps(t, 1)));
    float *have = slabs_of(t);
    assert_memory_equal(have, want, 4 * (size_t)t->net->ps.slab * sizeof *have);
    assert_true(t->step == 3 && t->updates == 2 && t->skipped == 1);
    be->upload(t->net->weights, &was, sizeof was);
    assert_true(isfinite(some_steps(t, 1)));
    assert_true(t->updates == 3 && t->skipped_in_row == 0);
    trainer_free(t);
    free(want);
    free(have);
}

static void skips(void **state)
{
    (void)state;
    check_skip(backend_cpu());
    check_skip(far_backend());
}

/* A step allocates nothing, and until its update is given away the host waits for nothing of the device. */
static struct {
    const struct backend *be;
    int allocs, waits, updates;
} watched;

static void *watched_alloc(size_t bytes)
{
    watched.allocs++;
    return watched.be->alloc(bytes);
}

static void watched_download(void *host, const void *dev, size_t bytes)
{
    watched.waits++;
    watched.be->download(host, dev, bytes);
}

static void watched_answer(void *host)
{
    watched.waits++;
    watched.be->answer(host);
}

static const char *watched_sync(void)
{
    watched.waits++;
    return watched.be->sync();
}

static double watched_between(int from, int to)
{
    watched.waits++;
    return watched.be->between(from, to);
}

static void watched_adamw(const struct adamw *a)
{
    assert_int_equal(watched.waits, 0);
    watched.updates++;
    watched.be->adamw(a);
}

static void no_waits(void **state)
{
    (void)state;
    struct backend be = *far_backend();
    watched.be = far_backend();
    be.alloc = watched_alloc;
    be.download = watched_download;
    be.answer = watched_answer;
    be.sync = watched_sync;
    be.between = watched_between;
    be.adamw = watched_adamw;
    for (int stream = 0; stream < 2; stream++) {
        struct trainer *t = make_trainer(&be, (struct precision){ BF16, F32 }, stream);
        watched.updates = 0;
        for (int i = 0; i < 3; i++) {
            watched.allocs = watched.waits = 0;
            some_steps(t, 1);
            assert_int_equal(watched.allocs, 0);
            assert_true(watched.waits > 0);
        }
        assert_int_equal(watched.updates, 3);
        trainer_free(t);
    }
}

/* The CUDA backend, which SSM_CUDA names or a GPU is there for; else NULL. */
static const struct backend *open_cuda(void)
{
    const char *named = getenv("SSM_CUDA"), *why;
    const struct backend *be = device_open("cuda", &(struct device_options){ 0 }, &why);
    if (!be && named && *named)
        fail_msg("%s", why);
    return be;
}

/* Sums in another order than the CPU's, then bf16; and what a run was interrupted in makes no difference. The emulation, which is
 * slow, takes each family in one precision of the three. */
static void cuda(void **state)
{
    (void)state;
    static const struct limits most = { 2e-5, 1e-4, 1e-3 };
    const struct backend *be = open_cuda();
    if (!be) { /* cmocka's skip() says "not ok" */
        printf("# no GPU and no SSM_CUDA: the CUDA backend is not tested\n");
        return;
    }
    bool slow = strcmp(be->variant, "emulated") == 0;
    for (int f = 0; f < FAMILIES; f++) {
        struct answers *want = ask(f, backend_cpu(), fp32);
        if (!slow || f % 3 == 0) {
            struct answers *a = ask(f, be, fp32);
            check_near(families[f].pattern, a, want, &most);
            forget(a);
        }
        for (int k = 0; k < 2; k++)
            if (!slow || f % 3 == k + 1)
                check_bf16(f, be, k ? BF16 : F32, want);
        forget(want);
    }
    check_beside(be, (struct precision){ BF16, BF16 }, true);
    check_skip(be);
    int steps = slow ? 0 : LEARN;
    check_trainer(be, fp32, true, true, steps);
    check_trainer(be, (struct precision){ BF16, F32 }, false, true, steps);
    check_trainer(be, (struct precision){ BF16, BF16 }, true, false, steps);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(same_bits), cmocka_unit_test(bf16), cmocka_unit_test(trainers),
                                        cmocka_unit_test(beside), cmocka_unit_test(skips), cmocka_unit_test(no_waits), cmocka_unit_test(cuda) };
    err_init("precision");
    comm_init(&argc, &argv);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("precision", tests, NULL, NULL);
}
