/* gemm.c - matrix products by cuBLASLt
 * SPDX-License-Identifier: MIT
 *
 * Row-major C [M,N] = op(a) op(b) is column-major C' [N,M] = op(b)' op(a)', so b goes in as cuBLASLt's A. The plan of a
 * product (descriptors and algorithm) is made once a shape and kept. The algorithm is the first that the heuristic
 * names, which is the same in every run on one kind of GPU and version of the library; those that add up in an order of
 * chance (in-place reductions), or in bf16 (reductions in the type of the output), are not asked for.
 */
#include <string.h>

#include <cublasLt.h>

#include "gemm.h"
#include "runtime.h"

enum { PLANS = 1024, NEAR = 8, BIAS_ROOM = 1 << 20 };
static const size_t workspace_bytes = (size_t)64 << 20;

/* What tells one product from another. Compared as bytes. */
struct key {
    int64_t M, N, K, lda, ldb, ldc, batch, step_a, step_b, step_c, step_bias;
    int32_t trans_a, trans_b, in, out, add, bias, align_a, align_b, align_c, align_add, processors;
};

struct plan {
    bool used;
    struct key key;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
};

static cublasLtHandle_t lt;
static cublasComputeType_t compute_f32;
static void *workspace, *bias_room;
static struct plan plans[PLANS];

static bool good(cublasStatus_t s)
{
    if (s != CUBLAS_STATUS_SUCCESS)
        cuda_note_text("cuBLASLt", cublasLtGetStatusString(s));
    return s == CUBLAS_STATUS_SUCCESS;
}

bool gemm_begin(bool tf32)
{
    int e = cudaMalloc(&workspace, workspace_bytes);
    if (!e)
        e = cudaMalloc(&bias_room, BIAS_ROOM);
    cuda_note("room for matrix products", e);
    compute_f32 = tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    return !e && good(cublasLtCreate(&lt));
}

static cudaDataType_t type_of(enum dtype t) { return t == BF16 ? CUDA_R_16BF : CUDA_R_32F; }

/* What an address and the distances from it are multiples of, up to 16 bytes. */
static int32_t alignment(const void *p, int64_t ld, int64_t step, enum dtype t)
{
    size_t bytes = t == BF16 ? 2 : 4;
    uintptr_t all = (uintptr_t)p | (uintptr_t)((size_t)ld * bytes) | (uintptr_t)((size_t)step * bytes) | 16;
    return (int32_t)(all & -all);
}

static cublasLtMatrixLayout_t layout(enum dtype t, int64_t rows, int64_t cols, int64_t ld, int32_t batch, int64_t step)
{
    cublasLtMatrixLayout_t l = NULL;
    good(cublasLtMatrixLayoutCreate(&l, type_of(t), (uint64_t)rows, (uint64_t)cols, ld));
    good(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch));
    good(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step));
    return l;
}

#define SET_OP(plan, what, value) good(cublasLtMatmulDescSetAttribute((plan)->op, what, &(value), sizeof(value)))
#define SET_PREF(pref, what, value) good(cublasLtMatmulPreferenceSetAttribute(pref, what, &(value), sizeof(value)))

static bool choose(struct plan *p)
{
    const struct key *k = &p->key;
    cublasLtMatmulPreference_t pref;
    if (!good(cublasLtMatmulPreferenceCreate(&pref)))
        return false;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    uint32_t align_a = (uint32_t)k->align_b, align_b = (uint32_t)k->align_a, align_c = (uint32_t)k->align_add,
             align_d = (uint32_t)k->align_c;
    SET_PREF(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
    SET_PREF(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions);
    SET_PREF(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align_a);
    SET_PREF(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align_b);
    SET_PREF(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align_c);
    SET_PREF(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align_d);
    cublasLtMatmulHeuristicResult_t found;
    int n = 0;
    bool ok = good(cublasLtMatmulAlgoGetHeuristic(lt, p->op, p->a, p->b, p->c, p->c, pref, 1, &found, &n));
    cublasLtMatmulPreferenceDestroy(pref);
    if (ok && n == 0)
        cuda_note_text("cuBLASLt", "no algorithm for a matrix product");
    p->algo = found.algo;
    return ok && n > 0;
}

static bool make(struct plan *p)
{
    const struct key *k = &p->key;
    int32_t batch = (int32_t)k->batch;
    cublasOperation_t op_a = k->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = k->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    if (!good(cublasLtMatmulDescCreate(&p->op, k->in == BF16 ? CUBLAS_COMPUTE_32F : compute_f32, CUDA_R_32F)))
        return false;
    SET_OP(p, CUBLASLT_MATMUL_DESC_TRANSA, op_a);
    SET_OP(p, CUBLASLT_MATMUL_DESC_TRANSB, op_b);
    if (k->bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        SET_OP(p, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
        SET_OP(p, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, k->step_bias);
    }
    if (k->processors < cuda_processors())
        SET_OP(p, CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, k->processors);
    p->a = k->trans_b ? layout(k->in, k->K, k->N, k->ldb, batch, k->step_b) : layout(k->in, k->N, k->K, k->ldb, batch, k->step_b);
    p->b = k->trans_a ? layout(k->in, k->M, k->K, k->lda, batch, k->step_a) : layout(k->in, k->K, k->M, k->lda, batch, k->step_a);
    p->c = layout(k->out, k->N, k->M, k->ldc, batch, k->step_c);
    return choose(p);
}

static void forget(struct plan *p)
{
    cublasLtMatrixLayoutDestroy(p->a);
    cublasLtMatrixLayoutDestroy(p->b);
    cublasLtMatrixLayoutDestroy(p->c);
    cublasLtMatmulDescDestroy(p->op);
    *p = (struct plan){ .used = false };
}

/* The plan of a product, made when it is met for the first time; NULL: an error was noted. A training has some dozens of
 * shapes; texts of all lengths have any number, so a plan that is in the way makes room. */
static struct plan *plan_of(const struct key *k)
{
    static uint64_t turn;
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < sizeof *k; i++)
        h = (h ^ ((const unsigned char *)k)[i]) * 1099511628211u; /* FNV-1a */
    struct plan *room = NULL;
    for (uint64_t i = 0; i < NEAR; i++) {
        struct plan *p = &plans[(h + i) % PLANS];
        if (p->used && memcmp(&p->key, k, sizeof *k) == 0)
            return p;
        if (!p->used && !room)
            room = p;
    }
    if (!room) {
        room = &plans[(h + turn++ % NEAR) % PLANS];
        forget(room);
    }
    room->key = *k;
    room->used = make(room);
    return room->used ? room : NULL;
}

/* The bias in the dtype of the output, which is all that the library adds. */
static const void *bias_like(const struct matmul *m, int64_t batch)
{
    int64_t span = m->step_bias * (batch - 1) + m->N;
    if (m->bias.dtype == m->c.dtype)
        return m->bias.data;
    if (span > BIAS_ROOM / 4)
        cuda_fault("matmul", "bias", "is longer than there is room for");
    cuda_cast(&(struct cast){ .M = 1, .D = span, .x = { m->bias.data, span, m->bias.dtype },
                              .y = { bias_room, span, m->c.dtype } });
    return bias_room;
}

void cuda_matmul(const struct matmul *m)
{
    CUDA_NEED("matmul", m, a);
    CUDA_NEED("matmul", m, b);
    CUDA_NEED("matmul", m, c);
    if (m->a.dtype != m->b.dtype || (m->add.data && m->add.dtype != m->c.dtype))
        cuda_fault("matmul", "dtype", "of a and b, or of add and c, differs");
    if (m->add.data && m->add.ld != m->c.ld && m->M > 1)
        cuda_fault("matmul", "add", "has not the row distance of c");
    if (m->M < 1 || m->N < 1 || m->K < 1)
        return;
    int64_t batch = m->batch > 1 ? m->batch : 1;
    struct key k = { .M = m->M, .N = m->N, .K = m->K, .lda = m->a.ld, .ldb = m->b.ld, .ldc = m->c.ld, .batch = batch };
    if (batch > 1) {
        k.step_a = m->step_a;
        k.step_b = m->step_b;
        k.step_c = m->step_c;
        k.step_bias = m->step_bias;
    }
    const void *add = m->add.data ? m->add.data : m->c.data, *bias = m->bias.data ? bias_like(m, batch) : NULL;
    k.trans_a = m->trans_a;
    k.trans_b = m->trans_b;
    k.in = m->a.dtype;
    k.out = m->c.dtype;
    k.add = m->add.data != NULL;
    k.bias = bias != NULL;
    k.processors = cuda_processors_left();
    k.align_a = alignment(m->a.data, m->a.ld, k.step_a, m->a.dtype);
    k.align_b = alignment(m->b.data, m->b.ld, k.step_b, m->b.dtype);
    k.align_c = alignment(m->c.data, m->c.ld, k.step_c, m->c.dtype);
    k.align_add = alignment(add, m->c.ld, k.step_c, m->c.dtype);
    struct plan *p = plan_of(&k);
    if (!p)
        return;
    if (bias)
        SET_OP(p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    float one = 1, beta = m->add.data ? 1 : 0;
    good(cublasLtMatmul(lt, p->op, &one, m->b.data, p->a, m->a.data, p->b, &beta, add, p->c, m->c.data, p->c, &p->algo,
                        workspace, workspace_bytes, cuda_stream()));
}
