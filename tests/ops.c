/* ops.c - tests of every op of the backend: main, shared helpers, table and memory
 * SPDX-License-Identifier: MIT
 *
 * usage: ops            TAP on stdout, for prove
 *        ops --perf     a table of times (ops_perf.c)
 * SSM_CPU=v2|v3|v4 picks the variant of the CPU backend.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ops.h"

#define GUARD 12345.0f
#define KEPT 512

const struct backend *ops_be;

static uint64_t rng_state;
static struct mat *mats[KEPT];
static void *kept[KEPT];
static int mat_count, kept_count;

void ops_seed(uint64_t seed)
{
    rng_state = seed * 0x9e3779b97f4a7c15u + 1;
    print_message("seed %llu\n", (unsigned long long)seed);
}

/* splitmix64 (Steele, Lea & Flood 2014) */
static uint64_t rng_next(void)
{
    uint64_t z = rng_state += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double ops_uniform(void) { return (double)(rng_next() >> 11) * 0x1p-53; }

int64_t ops_below(int64_t n) { return (int64_t)(ops_uniform() * (double)n); }

void *ops_bytes(size_t bytes)
{
    void *p = ops_be->alloc(bytes);

    assert_non_null(p);
    assert_true(kept_count < KEPT);
    kept[kept_count++] = p;
    return p;
}

struct mat *mat_new(int64_t rows, int64_t cols, int64_t pad)
{
    struct mat *m = malloc(sizeof(*m));

    assert_non_null(m);
    assert_true(mat_count < KEPT);
    m->rows = rows;
    m->cols = cols;
    m->ld = cols + pad;
    m->f = malloc((size_t)((rows + 1) * m->ld) * sizeof(float));
    m->d = calloc((size_t)(rows * cols + 1), sizeof(double));
    assert_non_null(m->f);
    assert_non_null(m->d);
    for (int64_t i = 0; i < (rows + 1) * m->ld; i++)
        m->f[i] = i < rows * m->ld && i % m->ld < cols ? NAN : GUARD;
    mats[mat_count++] = m;
    return m;
}

struct mat *mat_rand(int64_t rows, int64_t cols, int64_t pad, double lo, double hi)
{
    struct mat *m = mat_new(rows, cols, pad);

    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++) {
            float v = (float)(lo + (hi - lo) * ops_uniform());

            m->f[r * m->ld + c] = v;
            m->d[r * cols + c] = v;
        }
    return m;
}

struct mat *mat_copy(const struct mat *m)
{
    struct mat *n = mat_new(m->rows, m->cols, m->ld - m->cols);

    memcpy(n->f, m->f, (size_t)((m->rows + 1) * m->ld) * sizeof(float));
    memcpy(n->d, m->d, (size_t)(m->rows * m->cols) * sizeof(double));
    return n;
}

struct tensor mat_tensor(const struct mat *m)
{
    return m ? tensor_f32(m->f, m->ld) : (struct tensor){ NULL, 0, F32 };
}

int ops_teardown(void **state)
{
    int broken = 0;

    (void)state;
    for (int i = 0; i < mat_count; i++) {
        struct mat *m = mats[i];

        for (int64_t k = 0; k < (m->rows + 1) * m->ld; k++)
            if ((k >= m->rows * m->ld || k % m->ld >= m->cols) && m->f[k] != GUARD)
                broken = 1;
        free(m->f);
        free(m->d);
        free(m);
    }
    for (int i = 0; i < kept_count; i++)
        ops_be->free(kept[i]);
    mat_count = kept_count = 0;
    if (broken)
        print_error("an op wrote outside its rows\n");
    return broken;
}

int32_t *ops_documents(int64_t B, int64_t T, bool carry, int64_t every)
{
    int32_t *start = ops_bytes((size_t)(B * T) * sizeof(*start));

    for (int64_t b = 0; b < B; b++) {
        int64_t begin = carry ? -1000000 : 0, next = every > 0 ? every : 1 + ops_below(-2 * every);

        for (int64_t t = 0; t < T; t++) {
            if (t == next) {
                begin = t;
                next = t + (every > 0 ? every : 1 + ops_below(-2 * every));
            }
            start[b * T + t] = (int32_t)begin;
        }
    }
    return start;
}

void mat_close(const char *what, const struct mat *m, const struct mat *base, const double *ref, double tol)
{
    double scale = 1e-30, worst = 0;

    for (int64_t i = 0; i < m->rows * m->cols; i++)
        scale = fmax(scale, fabs(ref[i]));
    for (int64_t r = 0; r < m->rows; r++)
        for (int64_t c = 0; c < m->cols; c++) {
            double got = (double)m->f[r * m->ld + c] - (base ? (double)base->f[r * m->ld + c] : 0);
            double err = fabs(got - ref[r * m->cols + c]) / scale;

            worst = fmax(worst, err);
            if (!(err <= tol))
                fail_msg("%s[%lld,%lld] is %.9g, should be %.9g (error %.2g of the largest element, "
                         "limit %.2g)",
                         what, (long long)r, (long long)c, got, ref[r * m->cols + c], err, tol);
        }
    if (getenv("OPS_VERBOSE"))
        print_message("%s: error %.2g, limit %.2g\n", what, worst, tol);
}

void mat_same_bits(const char *what, const struct mat *a, const struct mat *b)
{
    assert_int_equal(a->rows, b->rows);
    assert_int_equal(a->cols, b->cols);
    for (int64_t r = 0; r < a->rows; r++)
        if (memcmp(a->f + r * a->ld, b->f + r * b->ld, (size_t)a->cols * sizeof(float)) != 0)
            fail_msg("%s: row %lld differs in its bits", what, (long long)r);
}

bool mat_has_nan(const struct mat *m)
{
    for (int64_t r = 0; r < m->rows; r++)
        for (int64_t c = 0; c < m->cols; c++)
            if (isnan(m->f[r * m->ld + c]))
                return true;
    return false;
}

void mat_check_grad(const char *what, double (*loss)(void *ctx), void *ctx, struct mat *input,
                    const struct mat *grad, const struct mat *base, int probes, double tol)
{
    int64_t n = input->rows * input->cols, count = n < probes ? n : probes;
    double *num = ops_bytes((size_t)count * sizeof(double)), worst = 0;
    double scale = 0.01; /* a gradient that cancels to (nearly) nothing keeps its terms' rounding */
    int64_t *at = ops_bytes((size_t)count * sizeof(int64_t));
    const double h = 1e-5; /* truncation h^2, rounding 1e-16/h: both far below float's 6e-8 */

#ifdef __SANITIZE_ADDRESS__ /* it looks for memory errors, and the op has run: the other build checks numbers */
    count = 0;
#endif
    for (int64_t i = 0; i < count; i++) {
        double keep, up;

        at[i] = n <= probes ? i : ops_below(n);
        keep = input->d[at[i]];
        input->d[at[i]] = keep + h;
        up = loss(ctx);
        input->d[at[i]] = keep - h;
        num[i] = (up - loss(ctx)) / (2 * h);
        input->d[at[i]] = keep;
        scale = fmax(scale, fabs(num[i]));
    }
    for (int64_t i = 0; i < count; i++) {
        int64_t r = at[i] / input->cols, c = at[i] % input->cols, k = r * grad->ld + c;
        double got = (double)grad->f[k] - (base ? (double)base->f[k] : 0);
        double err = fabs(got - num[i]) / scale;

        worst = fmax(worst, err);
        if (!(err <= tol))
            fail_msg("gradient of %s[%lld,%lld] is %.9g, differences give %.9g (error %.2g of the "
                     "largest, limit %.2g)",
                     what, (long long)r, (long long)c, got, num[i], err, tol);
    }
    if (getenv("OPS_VERBOSE"))
        print_message("gradient of %s: error %.2g, limit %.2g\n", what, worst, tol);
}

double mat_dot(const double *out, const struct mat *direction)
{
    double sum = 0;

    for (int64_t i = 0; i < direction->rows * direction->cols; i++)
        sum += out[i] * direction->d[i];
    return sum;
}

/* Every slot of the table from `alloc` to `adamw` is a pointer: none may be NULL. */
void test_table_complete(void **state)
{
    const char *p = (const char *)ops_be + offsetof(struct backend, alloc);
    const char *last = (const char *)ops_be + offsetof(struct backend, adamw);
    int slots = 0;

    (void)state;
    assert_int_equal(ops_be->version, BACKEND_VERSION);
    assert_string_equal(ops_be->name, "cpu");
    assert_non_null(ops_be->variant);
    for (; p <= last; p += sizeof(void (*)(void)), slots++) {
        void (*slot)(void);

        memcpy(&slot, p, sizeof(slot));
        if (!slot)
            fail_msg("slot %d of the table is empty", slots);
    }
    assert_true(slots >= 30);
}

/* An SSM_CPU that does not exist ends the program with status 2. */
void test_variant_refused(void **state)
{
    static const char *const bad[] = { "v9", "avx512", "v", "v33" };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        int status = 0;
        pid_t pid;

        fflush(NULL);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            if (!freopen("/dev/null", "w", stderr) || setenv("SSM_CPU", bad[i], 1) != 0)
                _exit(1);
            backend_cpu();
            _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 2);
    }
}

void test_memory(void **state)
{
    char text[100] = "words", *p = ops_be->alloc(1000);

    (void)state;
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 64, 0);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(p[i], 0);
    ops_be->upload(p, text, sizeof(text));
    ops_be->copy(p + 500, p, sizeof(text));
    ops_be->zero(p, sizeof(text));
    assert_int_equal(p[0], 0);
    ops_be->download(text, p + 500, sizeof(text));
    assert_string_equal(text, "words");
    assert_null(ops_be->sync());
    ops_be->free(p);
    assert_null(ops_be->alloc(SIZE_MAX - 8));
    p = ops_be->alloc(0);
    ops_be->free(p);
}

/* Marks are points in time, in order; more of them than are remembered are no error. */
void test_marks(void **state)
{
    struct timespec pause = { 0, 20000000 };
    int first = ops_be->mark(MARK_NEXT), last;

    (void)state;
    nanosleep(&pause, NULL);
    last = ops_be->mark(MARK_NEXT);
    assert_true(ops_be->between(first, last) >= 0.02);
    assert_true(ops_be->between(first, last) < 10);
    assert_true(ops_be->between(first, first) == 0);
    for (int i = 0; i < 5000; i++)
        last = ops_be->mark(MARK_NEXT);
    assert_true(ops_be->between(last, ops_be->mark(MARK_NEXT)) >= 0);
}

/* What is not known is 0. */
void test_info(void **state)
{
    struct device_info d;

    (void)state;
    ops_be->info(&d);
    assert_non_null(strstr(d.name, "CPU"));
    assert_true(d.memory_free <= d.memory_total && d.bandwidth >= 0 && d.peak[F32] >= 0);
}

#define T(f) cmocka_unit_test_teardown(f, ops_teardown)

int main(int argc, char **argv)
{
    static const struct CMUnitTest tests[] = {
        T(test_table_complete),
        T(test_variant_refused),
        T(test_memory),
        T(test_marks),
        T(test_info),
        T(test_matmul),
        T(test_matmul_blocks),
        T(test_colsum),
        T(test_colsum_threads),
        T(test_embed),
        T(test_xent),
        T(test_xent_gradients),
        T(test_xent_softcap),
        T(test_xent_nan),
        T(test_adamw),
        T(test_adamw_mask),
        T(test_total),
        T(test_judge),
        T(test_adamw_none),
        T(test_vmath),
        T(test_act),
        T(test_act_softcap_ends),
        T(test_act_threads),
        T(test_norm),
        T(test_norm_large_mean),
        T(test_norm_equal_channels),
        T(test_gatednorm),
        T(test_norm_nan),
        T(test_norm_threads),
        T(test_cast),
        T(test_conv1d),
        T(test_conv1d_pieces),
        T(test_conv1d_documents),
        T(test_conv1d_threads),
        T(test_ssd_forward),
        T(test_ssd_gradients),
        T(test_ssd_chunks),
        T(test_ssd_pieces),
        T(test_ssd_steps),
        T(test_ssd_documents),
        T(test_ssd_extremes),
        T(test_ssd_threads),
        T(test_rglru),
        T(test_rglru_cut_off),
        T(test_rglru_slow),
        T(test_rglru_pieces),
        T(test_rglru_documents),
        T(test_rglru_extremes),
        T(test_rglru_threads),
        T(test_rope),
        T(test_rope_far),
        T(test_rope_shift),
        T(test_rope_documents),
        T(test_rope_threads),
        T(test_scan_forward),
        T(test_scan_gradients),
        T(test_scan_chunks),
        T(test_scan_pieces),
        T(test_scan_steps),
        T(test_scan_documents),
        T(test_scan_extremes),
        T(test_scan_threads),
        T(test_attn_forward),
        T(test_attn_gradients),
        T(test_attn_wide),
        T(test_attn_halo),
        T(test_attn_skips),
        T(test_attn_tail),
        T(test_attn_steps),
        T(test_attn_ring),
        T(test_attn_documents),
        T(test_attn_threads),
        T(test_huge_rows),
    };

    ops_be = backend_cpu();
    if (argc == 2 && strcmp(argv[1], "--perf") == 0) {
        ops_perf();
        return fflush(stdout) != 0 || ferror(stdout);
    }
    if (argc != 1) {
        fprintf(stderr, "usage: ops [--perf]\n");
        return 2;
    }
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("ops", tests, NULL, NULL) != 0;
}
