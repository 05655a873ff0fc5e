/* ops.h - shared by the op tests: matrices with guards, random data, comparisons, gradient checks
 * SPDX-License-Identifier: MIT
 *
 * A `struct mat` holds the floats that an op works on and, as doubles, what the reference works on.
 * Its columns between `cols` and `ld`, and one row behind the last, hold a guard value; the teardown of
 * every test checks that no op wrote there, and frees all of them.
 */
#ifndef SSM_TESTS_OPS_H
#define SSM_TESTS_OPS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "backend.h"

struct mat {
    int64_t rows, cols, ld;
    float *f;  /* [rows+1,ld] */
    double *d; /* [rows,cols]: exactly f when it was filled, then the test's own */
};

extern const struct backend *ops_be;

/* Uniform in [0,1) and integers in [0,n), from the seed that ops_seed set. */
void ops_seed(uint64_t seed);
double ops_uniform(void);
int64_t ops_below(int64_t n);

/* New matrices. pad: columns that ld exceeds cols by. */
struct mat *mat_new(int64_t rows, int64_t cols, int64_t pad); /* NaN: outputs */
struct mat *mat_rand(int64_t rows, int64_t cols, int64_t pad, double lo, double hi);
struct mat *mat_copy(const struct mat *m);
struct tensor mat_tensor(const struct mat *m); /* NULL: absent */
void *ops_bytes(size_t bytes);                 /* freed likewise */
int ops_teardown(void **state);

/* Packed documents: start [B,T]. carry: the first document of each sequence began before the row.
 * every > 0: documents of that length, else random lengths up to 2 |every|. */
int32_t *ops_documents(int64_t B, int64_t T, bool carry, int64_t every);

/* |m.f - base - ref| <= tol max|ref|: the largest element sets the scale. base may be NULL. */
void mat_close(const char *what, const struct mat *m, const struct mat *base, const double *ref, double tol);
void mat_same_bits(const char *what, const struct mat *a, const struct mat *b);
bool mat_has_nan(const struct mat *m);

/* Checks an op's gradient of `input` against central differences of loss(ctx), a function of the
 * doubles of `input`, in at most `probes` random elements. grad.f - base.f is the op's gradient. */
void mat_check_grad(const char *what, double (*loss)(void *ctx), void *ctx, struct mat *input,
                    const struct mat *grad, const struct mat *base, int probes, double tol);

/* sum of a.d[i] b.d[i]: the loss of a test is the projection of its outputs */
double mat_dot(const double *out, const struct mat *direction);

void ops_perf(void);

/* The tests, by file. */
void test_table_complete(void **state);
void test_variant_refused(void **state);
void test_memory(void **state);
void test_marks(void **state);
void test_info(void **state);

void test_huge_rows(void **state);

void test_matmul(void **state);
void test_matmul_blocks(void **state);
void test_colsum(void **state);
void test_colsum_threads(void **state);
void test_embed(void **state);
void test_xent(void **state);
void test_xent_gradients(void **state);
void test_xent_softcap(void **state);
void test_xent_nan(void **state);
void test_adamw(void **state);
void test_adamw_mask(void **state);
void test_total(void **state);
void test_judge(void **state);
void test_adamw_none(void **state);

void test_vmath(void **state);
void test_act(void **state);
void test_act_softcap_ends(void **state);
void test_act_threads(void **state);
void test_norm(void **state);
void test_norm_large_mean(void **state);
void test_norm_equal_channels(void **state);
void test_gatednorm(void **state);
void test_norm_nan(void **state);
void test_norm_threads(void **state);

void test_cast(void **state);

void test_conv1d(void **state);
void test_conv1d_pieces(void **state);
void test_conv1d_documents(void **state);
void test_conv1d_threads(void **state);

void test_ssd_forward(void **state);
void test_ssd_gradients(void **state);
void test_ssd_chunks(void **state);
void test_ssd_pieces(void **state);
void test_ssd_steps(void **state);
void test_ssd_documents(void **state);
void test_ssd_extremes(void **state);
void test_ssd_threads(void **state);

void test_rglru(void **state);
void test_rglru_cut_off(void **state);
void test_rglru_slow(void **state);
void test_rglru_pieces(void **state);
void test_rglru_documents(void **state);
void test_rglru_extremes(void **state);
void test_rglru_threads(void **state);
void test_rope(void **state);
void test_rope_far(void **state);
void test_rope_shift(void **state);
void test_rope_documents(void **state);
void test_rope_threads(void **state);
void test_scan_forward(void **state);
void test_scan_gradients(void **state);
void test_scan_chunks(void **state);
void test_scan_pieces(void **state);
void test_scan_steps(void **state);
void test_scan_documents(void **state);
void test_scan_extremes(void **state);
void test_scan_threads(void **state);

void test_attn_forward(void **state);
void test_attn_gradients(void **state);
void test_attn_wide(void **state);
void test_attn_halo(void **state);
void test_attn_skips(void **state);
void test_attn_tail(void **state);
void test_attn_steps(void **state);
void test_attn_ring(void **state);
void test_attn_documents(void **state);
void test_attn_threads(void **state);

#endif
