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
#include "model.h"

static double sum(const float *x, int n)
{
    double s = 0;
    for (int i = 0; i < n; i++)
        s += x[i];
    return s;
}

/* Directional derivatives of every tensor against central differences of the whole network. fp32 losses carry a
 * noise of some 1e-5, so a difference over 2 h is not known better than 1e-5 / h. */
static void check_gradients(const char *pattern, enum flavour flavour)
{
    struct config c = small(pattern, flavour);
    const struct backend *be = backend_cpu();
    struct net *n = net_create(&c, be, fp32, true);
    struct net_ctx *train = net_ctx_create(n, B, T, true, RECOMPUTE_NONE, 0);
    struct net_ctx *eval = net_ctx_create(n, B, T, false, RECOMPUTE_NONE, 0);
    int32_t ids[M], targets[M], start[M];
    float loss[M];
    init(n, 11);
    random_batch(5, ids, targets);
    some_documents(start);
    struct batch b = { .B = B, .T = T, .ids = ids, .targets = targets, .start = start };
    net_train(train, &b, NULL, NULL, loss, NULL);
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
        double *d = malloc((size_t)p->count * sizeof *d), dn = 0, h = fmin(0.02 / norm, 0.2);
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
        if (fabs(numeric - dot) > 1e-2 * fabs(dot) + 1e-5 / h)
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
    for (const char *symbol = "MSR*L-"; *symbol; symbol++) {
        char pattern[2] = { *symbol, '\0' };
        check_gradients(pattern, TIED);
    }
    for (int f = 0; f < FAMILIES; f++)
        check_gradients(families[f].pattern, families[f].flavour);
}

/* Full recompute gives the same bits as keeping everything. */
static void check_recompute(int f)
{
    struct config c = small(families[f].pattern, families[f].flavour);
    struct net *n[2];
    float loss[2][M];
    int32_t ids[M], targets[M], start[M];
    random_batch(7, ids, targets);
    some_documents(start);
    struct batch b = { .B = B, .T = T, .ids = ids, .targets = targets, .start = start };
    for (int k = 0; k < 2; k++) {
        n[k] = net_create(&c, backend_cpu(), fp32, true);
        init(n[k], 3);
        struct net_ctx *x = net_ctx_create(n[k], B, T, true, k ? RECOMPUTE_FULL : RECOMPUTE_NONE, 0);
        net_train(x, &b, NULL, NULL, loss[k], NULL);
        net_ctx_free(x);
    }
    assert_memory_equal(loss[0], loss[1], sizeof loss[0]);
    assert_memory_equal(n[0]->grads, n[1]->grads, (size_t)n[0]->ps.slab * sizeof(float));
    struct net_memory none = net_memory(&c, backend_cpu(), fp32, B, T, true, RECOMPUTE_NONE);
    struct net_memory full = net_memory(&c, backend_cpu(), fp32, B, T, true, RECOMPUTE_FULL);
    assert_true(full.saved * 3 < none.saved * 2);
    net_free(n[0]);
    net_free(n[1]);
}

static void recompute(void **state)
{
    (void)state;
    for (int f = 0; f < FAMILIES; f++)
        check_recompute(f);
}

/* A packed row scores each document as if it stood alone. */
static void check_packed(int f)
{
    struct config c = small(families[f].pattern, families[f].flavour);
    struct net *n = net_create(&c, backend_cpu(), fp32, true);
    struct net_ctx *x = net_ctx_create(n, 1, T, false, RECOMPUTE_NONE, 0);
    int32_t ids[M], targets[M], start[T];
    float whole[T], part[T];
    init(n, 21);
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

static void packed(void **state)
{
    (void)state;
    for (int f = 0; f < FAMILIES; f++)
        check_packed(f);
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
static void check_decode(int f)
{
    struct config c = small(families[f].pattern, families[f].flavour);
    struct net *n = net_create(&c, backend_cpu(), fp32, true);
    struct net_ctx *x = net_ctx_create(n, 1, T, false, RECOMPUTE_NONE, T + 3);
    int32_t ids[M], targets[M];
    int each[T + 1], pieces[] = { 0, 1, 3, 4, 20, T }, once[] = { 0, T };
    float a[37], b[37], d[37], loss[T];
    for (int t = 0; t <= T; t++)
        each[t] = t;
    init(n, 8);
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

static void decode(void **state)
{
    (void)state;
    for (int f = 0; f < FAMILIES; f++)
        check_decode(f);
}

/* Sequences at different places, stepped together: the logits of each alone; a state's row moves with its copy. */
static void check_rows(int f)
{
    enum { R = 3 };
    static const int64_t begin[R] = { 4, 1, 9 };
    struct config c = small(families[f].pattern, families[f].flavour);
    struct net *n = net_create(&c, backend_cpu(), fp32, false);
    struct net_ctx *one = net_ctx_create(n, 1, T, false, RECOMPUTE_NONE, T), *all = net_ctx_create(n, R, 1, false, RECOMPUTE_NONE, T);
    struct net_state *alone[R], *rows = net_state_create(n, R, T);
    int32_t ids[M], targets[M];
    int64_t pos[R];
    float want[37], got[R][37];
    init(n, 6);
    random_batch(11, ids, targets);
    for (int b = 0; b < R; b++) {
        alone[b] = net_state_create(n, 1, T);
        net_decode(one, alone[b], ids + 5 * b, begin[b], want);
        net_state_copy_row(rows, b, alone[b], 0);
        pos[b] = begin[b];
    }
    for (int k = 0; k < 12; k++) {
        int32_t next[R];
        for (int b = 0; b < R; b++)
            next[b] = ids[5 * b + pos[b]];
        net_decode_rows(all, rows, next, pos, got[0]);
        for (int b = 0; b < R; b++, pos[b - 1]++) {
            net_decode(one, alone[b], &next[b], 1, want);
            for (int v = 0; v < 37; v++)
                assert_true(fabsf(want[v] - got[b][v]) < 5e-5f);
        }
    }
    for (int b = 0; b < R; b++)
        net_state_free(alone[b]);
    net_state_free(rows);
    net_ctx_free(one);
    net_ctx_free(all);
    net_free(n);
}

/* Scores are minus the losses; a token is greedy when it has the greatest logit. More rows than pass the head at once. */
static void check_score(int f)
{
    struct config c = small(families[f].pattern, families[f].flavour);
    struct net *n = net_create(&c, backend_cpu(), fp32, false);
    struct net_ctx *x = net_ctx_create(n, B, T, false, RECOMPUTE_NONE, T);
    int32_t ids[M], targets[M], start[M];
    float loss[M], logits[37];
    double logp[M];
    bool greedy[M];
    init(n, 12);
    random_batch(13, ids, targets);
    some_documents(start);
    net_loss(x, &(struct batch){ B, T, ids, targets, start }, NULL, loss);
    net_score(x, &(struct batch){ B, T, ids, targets, start }, logp, greedy);
    for (int i = 0; i < M; i++)
        assert_true(fabs(logp[i] + (double)loss[i]) < 2e-5 && !(targets[i] < 0 && greedy[i]));
    struct net_state *s = net_state_create(n, 1, T);
    net_decode(x, s, ids, T, logits);
    int best = 0;
    for (int v = 1; v < 37; v++)
        best = logits[v] > logits[best] ? v : best;
    for (int i = 0; i < T; i++)
        start[i] = targets[i] = -1;
    for (int k = 0; k < 2; k++) {
        targets[T - 1] = k ? best : (best + 1) % 37;
        net_score(x, &(struct batch){ 1, T, ids, targets, start }, logp, greedy);
        assert_int_equal(greedy[T - 1], k);
    }
    net_state_free(s);
    net_ctx_free(x);
    net_free(n);
}

static void rows(void **state)
{
    (void)state;
    for (int f = 0; f < FAMILIES; f++)
        check_rows(f);
}

static void scores(void **state)
{
    (void)state;
    for (int f = 0; f < FAMILIES; f++)
        check_score(f);
}

/* A stream trained window by window: the state that a window leaves is the one the next begins with, so the losses
 * are those of one long window. Windowed attention carries its window; attention without one carries nothing in
 * training, so it is in none of these patterns. */
static void check_stream(const char *pattern, enum flavour flavour)
{
    struct config c = small(pattern, flavour);
    struct net *n = net_create(&c, backend_cpu(), fp32, true);
    struct net_ctx *x = net_ctx_create(n, 1, T, true, RECOMPUTE_FULL, 0);
    struct net_state *s[2] = { net_state_create(n, 1, 0), net_state_create(n, 1, 0) };
    int32_t ids[M], targets[M], start[T];
    float whole[T], part[T];
    init(n, 2);
    random_batch(6, ids, targets);
    for (int t = 0; t < T; t++)
        start[t] = t < 17 ? 0 : 17;
    net_train(x, &(struct batch){ 1, T, ids, targets, start }, NULL, NULL, whole, NULL);
    for (int from = 0, k = 0; from < T; k = 1 - k) {
        int len = T - from < 10 ? T - from : 10;
        int32_t local[T];
        for (int t = 0; t < len; t++)
            local[t] = start[from + t] - from;
        net_train(x, &(struct batch){ 1, len, ids + from, targets + from, local }, s[k], s[1 - k], part, NULL);
        for (int t = 0; t < len; t++)
            assert_true(fabsf(part[t] - whole[from + t]) < 2e-5f);
        from += len;
    }
    net_state_free(s[0]);
    net_state_free(s[1]);
    net_ctx_free(x);
    net_free(n);
}

static void stream(void **state)
{
    (void)state;
    check_stream("M-M", TIED);
    check_stream("S-S", PLAIN);
    check_stream("R-R-L-", GRIFFIN);
    check_stream("LML", GPT);
}

/* The chunk is an implementation matter. */
static void chunks(void **state)
{
    (void)state;
    int32_t ids[M], targets[M];
    float loss[3][M];
    random_batch(1, ids, targets);
    for (int k = 0; k < 3; k++) {
        struct config c = small("MSM", TIED);
        c.chunk = k == 0 ? 1 : k == 1 ? 5 : 64;
        struct net *n = net_create(&c, backend_cpu(), fp32, true);
        struct net_ctx *x = net_ctx_create(n, B, T, false, RECOMPUTE_NONE, 0);
        init(n, 8);
        net_loss(x, &(struct batch){ B, T, ids, targets, NULL }, NULL, loss[k]);
        net_ctx_free(x);
        net_free(n);
    }
    for (int i = 0; i < M; i++)
        assert_true(fabsf(loss[0][i] - loss[1][i]) < 2e-5f && fabsf(loss[0][i] - loss[2][i]) < 2e-5f);
}

/* Counts of the released models, from the file that says where each is from; and every preset can be loaded. */
static void counts(void **state)
{
    (void)state;
    char path[512], line[256], name[64], source[128];
    long long count;
    int found = 0;
    snprintf(path, sizeof path, "%s/tests/oracle/counts.tsv", getenv("SSM_TOP") ? getenv("SSM_TOP") : ".");
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        struct config c;
        struct params ps;
        if (line[0] == '#')
            continue;
        assert_int_equal(sscanf(line, "%63[^\t]\t%lld\t%127[^\n]", name, &count, source), 3);
        if (config_try_load(&c, name) < 0)
            fail_msg("%s", err_last());
        params_init(&ps, &c);
        if (ps.count != count)
            fail_msg("%s has %lld parameters, not the %lld of %s", name, (long long)ps.count, count, source);
        /* A token meets each matrix once: a multiply-add an element. The rest (states, convolutions) is some percent,
         * with a state of 256 eight. */
        double matrices = 0, flops = net_flops(&c, 2);
        for (size_t i = 0; i < ps.n; i++) {
            const struct param *p = &ps.p[i];
            bool head = strcmp(p->name, c.tied ? "embeddings.weight" : "lm_head.weight") == 0;
            if (head)
                matrices += (double)(c.vocab * c.d_model);
            else if (p->ndim > 1 && p->layer >= 0 && !strstr(p->name, "A_log") && !strstr(p->name, "conv1d"))
                matrices += (double)p->count;
        }
        if (flops < 2 * matrices || flops > 2.2 * matrices)
            fail_msg("%s: %g FLOPs a token with %g elements of matrices", name, flops, matrices);
        params_free(&ps);
        found++;
    }
    fclose(f);
    assert_true(found >= 24);
}

/* A context's scratch does for any smaller batch: the last of a set is shorter, and lanes depend on the shape. */
static void scratch(void **state)
{
    (void)state;
    static const int64_t lengths[] = { 1, 29, 64, 200, 1024 };
    for (int f = 0; f < FAMILIES + 1; f++) {
        struct config c = small(f < FAMILIES ? families[f].pattern : "ML*", f < FAMILIES ? families[f].flavour : PLAIN);
        if (f == FAMILIES) { /* many heads on one: lanes */
            c.n_groups = c.attn_kv_heads = 1;
            c.n_heads = c.attn_heads = 16;
            c.window = 64;
        }
        for (int train = 0; train < 2; train++)
            for (int64_t rows = 1; rows < 13; rows++)
                for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++)
                    for (int more = 0; more < 2; more++) { /* one sequence more, a longer one */
                        if (more && k + 1 == sizeof lengths / sizeof *lengths)
                            continue;
                        int64_t less = net_memory(&c, backend_cpu(), fp32, rows, lengths[k], train, 0).work;
                        int64_t most = net_memory(&c, backend_cpu(), fp32, rows + !more, lengths[k + more], train, 0).work;
                        if (less > most)
                            fail_msg("%s, %d x %d: %lld bytes, more than the %lld of a larger batch", c.pattern,
                                     (int)rows, (int)lengths[k], (long long)less, (long long)most);
                    }
    }
}

/* The table itself: sections add up to the rows they cut, granules divide them, offsets do not overlap. */
static void table(void **state)
{
    (void)state;
    struct config c = small("M*-SRL", BIASED), back;
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
        bool ssm = strstr(p->name, "A_log") || strstr(p->name, "dt_bias") || strstr(p->name, "mixer.D") ||
                   strstr(p->name, "dt_proj.bias") || strstr(p->name, "a_param");
        bool spared = strstr(p->name, "A_log") || strstr(p->name, "rg_lru");
        assert_int_equal(p->always_f32, ssm);
        assert_int_equal(p->decay, p->ndim > 1 && !spared);
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
    struct config c = small("MSR", TIED);
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
            if (strstr(p->name, "dt_bias") || strstr(p->name, "dt_proj.bias")) {
                double dt = log1p(exp(all[k]));
                assert_true(dt > 0.99e-3 && dt < 0.101);
            } else if (strstr(p->name, "a_param")) { /* a at a full gate, exp(-8 softplus), is r^8; r in [0.9, 0.999] */
                double r = exp(-log1p(exp(all[k])));
                assert_true(r > 0.8999 && r < 0.9991);
            } else if (strstr(p->name, "layers.1.mixer.A_log")) {
                assert_true(fabs(all[k] - log(1.0 + (double)(k % 9))) < 1e-6);
            } else if (strstr(p->name, "A_log"))
                assert_true(all[k] >= 0 && all[k] <= log(16.0) + 1e-6);
            else if (strstr(p->name, "layers.0.mixer.out_proj"))
                assert_true(fabs(all[k]) <= 1 / sqrt(3500.0 * 3) + 1e-9);
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
        cmocka_unit_test(scratch), cmocka_unit_test(rows),           cmocka_unit_test(scores),
    };
    err_init("model");
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
