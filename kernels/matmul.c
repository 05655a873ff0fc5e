/* matmul.c - matrix products through the library (oneDNN; CBLAS with -DSSM_CBLAS)
 * SPDX-License-Identifier: MIT
 *
 * The one file that includes a matrix library. Row-major on both sides. oneDNN's sgemm picks its
 * kernel by the CPU at run time, so this file is compiled once, for the lowest instruction set.
 * No signal handler may run in a thread that computes here: oneDNN 2.6.3's AVX-512 kernels use the
 * stack pointer for other things, and a signal frame then overwrites memory (common/base/signals.h).
 */
#include <string.h>

#include "cpu.h"

#ifdef SSM_CBLAS
#include <cblas.h>
#else
#include <oneapi/dnnl/dnnl.h>
#endif

static int64_t atleast1(int64_t n) { return n > 0 ? n : 1; }

/* c = add + bias, whichever are there; false when neither is: then the product alone makes c. */
static bool prepare(const struct matmul *a, const float *add, const float *bias, float *c)
{
    bool copy = add && add != c;

    if (copy && bias) {
#pragma omp parallel for schedule(static)
        for (int64_t m = 0; m < a->M; m++)
            for (int64_t n = 0; n < a->N; n++)
                c[m * a->c.ld + n] = add[m * a->add.ld + n] + bias[n];
    } else if (copy) {
#pragma omp parallel for schedule(static)
        for (int64_t m = 0; m < a->M; m++)
            memcpy(c + m * a->c.ld, add + m * a->add.ld, (size_t)a->N * sizeof(float));
    } else if (bias && add) {
#pragma omp parallel for schedule(static)
        for (int64_t m = 0; m < a->M; m++)
            for (int64_t n = 0; n < a->N; n++)
                c[m * a->c.ld + n] += bias[n];
    } else if (bias) {
#pragma omp parallel for schedule(static)
        for (int64_t m = 0; m < a->M; m++)
            memcpy(c + m * a->c.ld, bias, (size_t)a->N * sizeof(float));
    }
    return add || bias;
}

static void one(const struct matmul *a, const float *pa, const float *pb, const float *add, const float *bias,
                float *pc)
{
    bool onto = prepare(a, add, bias, pc);
    int64_t lda, ldb, ldc;

    if (a->K <= 0) {
        for (int64_t m = 0; !onto && m < a->M; m++)
            memset(pc + m * a->c.ld, 0, (size_t)a->N * sizeof(float));
        return;
    }
    /* The library checks ld even where there is only one row, when ours may be anything. */
    lda = atleast1((a->trans_a ? a->K : a->M) == 1 ? (a->trans_a ? a->M : a->K) : a->a.ld);
    ldb = atleast1((a->trans_b ? a->N : a->K) == 1 ? (a->trans_b ? a->K : a->N) : a->b.ld);
    ldc = a->M == 1 ? a->N : a->c.ld;
#ifdef SSM_CBLAS
    if (a->M > INT32_MAX || a->N > INT32_MAX || a->K > INT32_MAX || lda > INT32_MAX || ldb > INT32_MAX ||
        ldc > INT32_MAX)
        cpu_fault("matmul", "M, N, K", "exceed the 32-bit sizes of this CBLAS");
    cblas_sgemm(CblasRowMajor, a->trans_a ? CblasTrans : CblasNoTrans, a->trans_b ? CblasTrans : CblasNoTrans,
                (int)a->M, (int)a->N, (int)a->K, 1.0f, pa, (int)lda, pb, (int)ldb, onto ? 1.0f : 0.0f, pc,
                (int)ldc);
#else
    if (dnnl_sgemm(a->trans_a ? 'T' : 'N', a->trans_b ? 'T' : 'N', a->M, a->N, a->K, 1.0f, pa, lda, pb, ldb,
                   onto ? 1.0f : 0.0f, pc, ldc) != dnnl_success)
        cpu_fault("matmul", "M, N, K", "were refused by oneDNN");
#endif
}

void cpu_matmul(const struct matmul *a)
{
    const float *pa = a->a.data, *pb = a->b.data, *add = a->add.data, *bias = a->bias.data;
    float *pc = a->c.data;

    CPU_NEED("matmul", a, a);
    CPU_NEED("matmul", a, b);
    CPU_NEED("matmul", a, c);
    CPU_ALLOW("matmul", a, add);
    CPU_ALLOW("matmul", a, bias);
    if (add == pc && a->M > 1 && a->add.ld != a->c.ld)
        cpu_fault("matmul", "add", "is c, but its rows lie elsewhere");
    if (a->M <= 0 || a->N <= 0)
        return;
    for (int64_t i = 0; i < cpu_max(1, a->batch); i++)
        one(a, pa + i * a->step_a, pb + i * a->step_b, add ? add + i * a->step_c : NULL,
            bias ? bias + i * a->step_bias : NULL, pc + i * a->step_c);
}
