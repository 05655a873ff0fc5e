/* model.c - tests of the parameter table, the network, and its invariants
 * SPDX-License-Identifier: MIT
 *
 * The ops are tested one by one elsewhere; here stands what must hold of a whole model: gradients, memory
 * settings that change nothing, documents that do not see each other, and token-by-token decoding.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/err.h"
#include "common/base/rng.h"
#include "common/model/net.h"

/* Every layer kind, odd sizes, groups and shared keys, chunks that do not divide the sequence. */
static struct config small(const char *pattern, bool tied)
{
    struct config c;
    struct opt rows[CONFIG_ROWS + 1];
    config_table(&c, rows);
    c.pattern = pattern;
    c.d_model = 20;
    c.vocab = 37;
    c.tied = tied;
    c.n_heads = 6;
    c.headdim = 7;
    c.n_groups = 2;
    c.d_state = 9;
    c.chunk = 8;
    c.attn_heads = 4;
    c.attn_kv_heads = 2;
    c.attn_headdim = 6;
    c.d_ff = 33;
    c.init_std = 0.4;
    assert_int_equal(config_try_check(&c), 0);
    return c;
}

enum { B = 2, T = 29, M = B * T };

static void random_batch(uint64_t seed, int32_t *ids, int32_t *targets)
{
    for (int i = 0; i < M; i++) {
        ids[i] = (int32_t)(rng_u64(seed, 1, (uint64_t)i) % 37);
        targets[i] = (int32_t)(rng_u64(seed, 2, (uint64_t)i) % 37);
    }
    targets[5] = -1;
}

/* Documents that begin at some positions of each row; the first began before the row. */
static void some_documents(int32_t *start)
{
    for (int i = 0; i < M; i++) {
        int t = i % T;
        start[i] = i < T ? (t < 11 ? -1 : t < 12 ? 11 : 12) : (t < 16 ? 0 : 16);
    }
}

static double sum(const float *x, int n)
{
    double s = 0;
    for (int i = 0; i < n; i++)
        s += x[i];
    return s;
}

/* Directional derivatives of every tensor against central differences of the whole network. fp32 losses carry a
 * noise of some 1e-6, so a difference over 2 h is not known better than 1e-6 / h; h is small beside the weights. */
static void check_gradients(const char *pattern, bool tied)
{
    struct config c = small(pattern, tied);
    const struct backend *be = backend_cpu();
    struct net *n = net_create(&c, be, true);
    struct net_ctx *train = net_ctx_create(n, B, T, true, RECOMPUTE_NONE, 0);
    struct net_ctx *eval = net_ctx_create(n, B, T, false, RECOMPUTE_NONE, 0);
    int32_t ids[M], targets[M], start[M];
    float loss[M];
    net_init(n, 11);
    random_batch(5, ids, targets);
    some_documents(start);
    struct batch b = { .B = B, .T = T, .ids = ids, .targets = targets, .start = start };
    net_train(train, &b, NULL, NULL, loss);
    double base = sum(loss, M);
    net_loss(eval, &b, NULL, loss);
    assert_true(fabs(sum(loss, M) - base) <= 1e-6 * base); /* one code, two memory plans */
    for (size_t i = 0; i < n->ps.n; i++) {
        const struct param *p = &n->ps.p[i];
        float *w = n->weights + p->offset, *keep = malloc((size_t)p->count * sizeof *keep);
        double norm = 0, dot = 0;
        memcpy(keep, w, (size_t)p->count * sizeof *keep);
        for (int64_t k = 0; k < p->count; k++)
            norm += pow(n->grads[p->offset + k], 2);
        norm = sqrt(norm);
        assert_true(norm > 0); /* every tensor is reached */
        /* along the gradient plus something else, so that both size and direction matter */
        double *d = malloc((size_t)p->count * sizeof *d), dn = 0, h = fmin(0.02 / norm, 0.03);
        for (int64_t k = 0; k < p->count; k++) {
            d[k] = n->grads[p->offset + k] / norm + 0.5 * rng_normal(3, i, (uint64_t)k) / sqrt((double)p->count);
            dn += d[k] * d[k];
        }
        for (int64_t k = 0; k < p->count; k++)
            dot += n->grads[p->offset + k] * d[k];
        double side[2];
        for (int s = 0; s < 2; s++) {
            for (int64_t k = 0; k < p->count; k++)
                w[k] = (float)(keep[k] + (s ? -h : h) * d[k]);
            net_loss(eval, &b, NULL, loss);
            side[s] = sum(loss, M);
        }
        memcpy(w, keep, (size_t)p->count * sizeof *keep);
        double numeric = (side[0] - side[1]) / (2 * h);
        if (fabs(numeric - dot) > 1e-2 * fabs(dot) + 2e-6 / h)
            fail_msg("pattern %s, %s: gradient %g, central difference %g (dn %g)", pattern, p->name, dot, numeric, dn);
        free(keep);
        free(d);
    }
    net_ctx_free(train);
    net_ctx_free(eval);
    net_free(n);
}

static void gradients(void **state)
{
    (void)state;
    check_gradients("M", true);
    check_gradients("*", false);
    check_gradients("-", true);
    check_gradients("MM*-M--", false);
}

/* Full recompute gives the same bits as keeping everything. */
static void recompute(void **state)
{
    (void)state;
    struct config c = small("M-*M-", true);
    struct net *n[2];
    float loss[2][M];
    int32_t ids[M], targets[M], start[M];
    random_batch(7, ids, targets);
    some_documents(start);
    struct batch b = { .B = B, .T = T, .ids = ids, .targets = targets, .start = start };
    for (int k = 0; k < 2; k++) {
        n[k] = net_create(&c, backend_cpu(), true);
        net_init(n[k], 3);
        struct net_ctx *x = net_ctx_create(n[k], B, T, true, k ? RECOMPUTE_FULL : RECOMPUTE_NONE, 0);
        net_train(x, &b, NULL, NULL, loss[k]);
        net_ctx_free(x);
    }
    assert_memory_equal(loss[0], loss[1], sizeof loss[0]);
    assert_memory_equal(n[0]->grads, n[1]->grads, (size_t)n[0]->ps.slab * sizeof(float));
    struct net_memory none = net_memory(&c, backend_cpu(), B, T, true, RECOMPUTE_NONE);
    struct net_memory full = net_memory(&c, backend_cpu(), B, T, true, RECOMPUTE_FULL);
    assert_true(full.saved * 2 < none.saved);
    net_free(n[0]);
    net_free(n[1]);
}

/* A packed row scores each document as if it stood alone. */
static void packed(void **state)
{
    (void)state;
    struct config c = small("M-*MM", false);
    struct net *n = net_create(&c, backend_cpu(), true);
    struct net_ctx *x = net_ctx_create(n, 1, T, false, RECOMPUTE_NONE, 0);
    int32_t ids[M], targets[M], start[T];
    float whole[T], part[T];
    net_init(n, 21);
    random_batch(9, ids, targets);
    static const int begin[] = { 0, 1, 12, 13, 22, T };
    for (int d = 0; d < 5; d++)
        for (int t = begin[d]; t < begin[d + 1]; t++)
            start[t] = begin[d];
    net_loss(x, &(struct batch){ 1, T, ids, targets, start }, NULL, whole);
    for (int d = 0; d < 5; d++) {
        int from = begin[d], len = begin[d + 1] - from;
        net_loss(x, &(struct batch){ 1, len, ids + from, targets + from, NULL }, NULL, part);
        for (int t = 0; t < len; t++) /* other tile shapes, so other roundings */
            assert_true(fabsf(part[t] - whole[from + t]) < 2e-5f);
    }
    net_ctx_free(x);
    net_free(n);
}

static void logits_after(struct net *n, struct net_ctx *x, const int32_t *ids, const int *cuts, float *out)
{
    struct net_state *s = net_state_create(n, 1, T + 3);
    for (int i = 0; cuts[i] < T; i++)
        net_decode(x, s, ids + cuts[i], cuts[i + 1] - cuts[i], out);
    assert_int_equal(net_state_pos(s), T);
    net_state_free(s);
}

/* Read at once, in pieces, or token by token: the same logits; and they are the ones that training scores. */
static void decode(void **state)
{
    (void)state;
    struct config c = small("M-*M*M", false);
    struct net *n = net_create(&c, backend_cpu(), true);
    struct net_ctx *x = net_ctx_create(n, 1, T, false, RECOMPUTE_NONE, T + 3);
    int32_t ids[M], targets[M];
    int each[T + 1], pieces[] = { 0, 1, 3, 4, 20, T }, once[] = { 0, T };
    float a[37], b[37], d[37], loss[T];
    for (int t = 0; t <= T; t++)
        each[t] = t;
    net_init(n, 8);
    random_batch(4, ids, targets);
    logits_after(n, x, ids, once, a);
    logits_after(n, x, ids, pieces, b);
    logits_after(n, x, ids, each, d);
    double most = 0, total = 0;
    for (int v = 0; v < 37; v++) {
        most = fmax(most, fmax(fabs(a[v] - b[v]), fabs(a[v] - d[v])));
        total += exp(a[v]);
    }
    assert_true(most < 5e-5);
    net_loss(x, &(struct batch){ 1, T, ids, targets, NULL }, NULL, loss);
    assert_true(fabs(log(total) - a[targets[T - 1]] - loss[T - 1]) < 1e-4);
    net_ctx_free(x);
    net_free(n);
}

/* A stream trained window by window: the state that a window leaves is the one the next begins with, so the losses
 * are those of one long window (attention sees its own window only: none in this pattern). */
static void stream(void **state)
{
    (void)state;
    struct config c = small("M-M", true);
    struct net *n = net_create(&c, backend_cpu(), true);
    struct net_ctx *x = net_ctx_create(n, 1, T, true, RECOMPUTE_FULL, 0);
    struct net_state *s[2] = { net_state_create(n, 1, 0), net_state_create(n, 1, 0) };
    int32_t ids[M], targets[M], start[T];
    float whole[T], part[T];
    net_init(n, 2);
    random_batch(6, ids, targets);
    for (int t = 0; t < T; t++)
        start[t] = t < 17 ? 0 : 17;
    net_train(x, &(struct batch){ 1, T, ids, targets, start }, NULL, NULL, whole);
    for (int from = 0, k = 0; from < T; k = 1 - k) {
        int len = T - from < 10 ? T - from : 10;
        int32_t local[T];
        for (int t = 0; t < len; t++)
            local[t] = start[from + t] - from;
        net_train(x, &(struct batch){ 1, len, ids + from, targets + from, local }, s[k], s[1 - k], part);
        for (int t = 0; t < len; t++)
            assert_true(fabsf(part[t] - whole[from + t]) < 2e-5f);
        from += len;
    }
    net_state_free(s[0]);
    net_state_free(s[1]);
    net_ctx_free(x);
    net_free(n);
}

/* The chunk is an implementation matter. */
static void chunks(void **state)
{
    (void)state;
    int32_t ids[M], targets[M];
    float loss[3][M];
    random_batch(1, ids, targets);
    for (int k = 0; k < 3; k++) {
        struct config c = small("MM", true);
        c.chunk = k == 0 ? 1 : k == 1 ? 5 : 64;
        struct net *n = net_create(&c, backend_cpu(), true);
        struct net_ctx *x = net_ctx_create(n, B, T, false, RECOMPUTE_NONE, 0);
        net_init(n, 8);
        net_loss(x, &(struct batch){ B, T, ids, targets, NULL }, NULL, loss[k]);
        net_ctx_free(x);
        net_free(n);
    }
    for (int i = 0; i < M; i++)
        assert_true(fabsf(loss[0][i] - loss[1][i]) < 2e-5f && fabsf(loss[0][i] - loss[2][i]) < 2e-5f);
}

/* Counts of the released models: state-spaces' Mamba-2 family and NVIDIA's 8B study. */
static void counts(void **state)
{
    (void)state;
    static const struct {
        const char *preset;
        int64_t count;
    } known[] = { { "mamba2-130m", 128989632 },  { "mamba2-370m", 368346624 },   { "mamba2-780m", 780161280 },
                  { "mamba2-1.3b", 1343757312 }, { "mamba2-2.7b", 2702599680 },  { "mamba2-8b", 8236999680 },
                  { "mamba2-hybrid-8b", 8654517248 } };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        struct config c;
        struct params ps;
        if (config_try_load(&c, known[i].preset) < 0)
            fail_msg("%s", err_last());
        params_init(&ps, &c);
        assert_true(ps.count == known[i].count);
        params_free(&ps);
    }
}

/* The table itself: sections add up to the rows they cut, granules divide them, offsets do not overlap. */
static void table(void **state)
{
    (void)state;
    struct config c = small("M*-", false), back;
    struct params ps;
    struct attrs as = { 0 };
    params_init(&ps, &c);
    for (size_t i = 0; i < ps.n; i++) {
        const struct param *p = &ps.p[i];
        int64_t cut = 0;
        for (int s = 0; s < p->cut.n_sections; s++) {
            assert_int_equal(p->cut.section[s].size % p->cut.section[s].granule, 0);
            cut += p->cut.section[s].size;
        }
        if (p->cut.kind != CUT_WHOLE)
            assert_int_equal(cut, p->shape[p->cut.kind == CUT_COLUMNS ? 1 : 0]);
        assert_int_equal(p->offset % 16, 0);
        if (i)
            assert_true(p->offset >= ps.p[i - 1].offset + ps.p[i - 1].count);
        bool ssm = strstr(p->name, "A_log") || strstr(p->name, "dt_bias") || strstr(p->name, "mixer.D");
        assert_int_equal(p->always_f32, ssm);
        assert_int_equal(p->decay, p->ndim > 1);
    }
    params_free(&ps);
    config_to_attrs(&c, &as);
    assert_int_equal(config_try_from_attrs(&back, &as), 0);
    assert_string_equal(back.pattern, c.pattern);
    assert_int_equal(back.d_ff, c.d_ff);
    attrs_set_int(&as, "novelty", 1);
    assert_int_equal(config_try_from_attrs(&back, &as), -1);
    attrs_free(&as);
    c.n_groups = 4;
    assert_int_equal(config_try_check(&c), -1);
}

/* dt_bias gives softplus in [1e-3, 0.1], A_log in [0, log 16]; the numbers depend on (seed, name, index) only. */
static void initial_values(void **state)
{
    (void)state;
    struct config c = small("M", true);
    c.n_heads = 500;
    struct params ps;
    params_init(&ps, &c);
    for (size_t i = 0; i < ps.n; i++) {
        const struct param *p = &ps.p[i];
        float *all = malloc((size_t)p->count * sizeof *all), one;
        param_fill(p, 9, 0, p->count, all);
        param_fill(p, 9, p->count - 1, 1, &one);
        assert_true(one == all[p->count - 1]);
        for (int64_t k = 0; k < p->count; k++) {
            if (strstr(p->name, "dt_bias")) {
                double dt = log1p(exp(all[k]));
                assert_true(dt > 0.99e-3 && dt < 0.101);
            } else if (strstr(p->name, "A_log"))
                assert_true(all[k] >= 0 && all[k] <= log(16.0) + 1e-6);
            else if (strstr(p->name, "out_proj"))
                assert_true(fabs(all[k]) <= 1 / sqrt(3500.0) + 1e-9);
        }
        free(all);
    }
    params_free(&ps);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table),   cmocka_unit_test(initial_values), cmocka_unit_test(counts),
        cmocka_unit_test(gradients), cmocka_unit_test(recompute),    cmocka_unit_test(packed),
        cmocka_unit_test(decode),  cmocka_unit_test(stream),         cmocka_unit_test(chunks),
    };
    err_init("model");
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
