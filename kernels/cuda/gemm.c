/* gemm.c - matrix products by cuBLASLt
 * SPDX-License-Identifier: MIT
 *
 * Row-major C [M,N] = op(a) op(b) is column-major C' [N,M] = op(b)' op(a)', so b goes in as cuBLASLt's A. The
 * plan of a product (descriptors and algorithm) is made once a shape and kept. The algorithm is the one that
 * the book has for it (plans.h), where a training was given one; else the first that the heuristic names,
 * which is the same in every run on one kind of GPU and version of the library. Those that add up in an order
 * of chance (in-place reductions), or in bf16 (reductions in the type of the output), are neither asked for
 * nor taken.
 */
#include <math.h>
#include <string.h>

#include <cublasLt.h>

#include "gemm.h"
#include "plans.h"
#include "runtime.h"

enum { PLANS = 1024, NEAR = 8, BIAS_ROOM = 1 << 20 };
enum { CANDIDATES = 16, RUNS = 5 }; /* of a product that is measured: algorithms, and runs of each */
static const size_t workspace_bytes = (size_t)64 << 20;

struct plan {
    bool used;
    struct plans_key key;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
};

static cublasLtHandle_t lt;
static bool has_tf32;
static void *workspace, *bias_room;
static struct plan plans[PLANS];

static bool good(cublasStatus_t s)
{
    if (s != CUBLAS_STATUS_SUCCESS)
        cuda_note_text("cuBLASLt", cublasLtGetStatusString(s));
    return s == CUBLAS_STATUS_SUCCESS;
}

bool gemm_begin(bool tf32, const char *gpu)
{
    char maker[160];
    snprintf(maker, sizeof maker, "%zu, %.100s", cublasLtGetVersion(), gpu);
    plans_begin(maker);
    int e = cudaMalloc(&workspace, workspace_bytes);
    if (!e)
        e = cudaMalloc(&bias_room, BIAS_ROOM);
    cuda_note("room for matrix products", e);
    has_tf32 = tf32;
    return !e && good(cublasLtCreate(&lt));
}

static cudaDataType_t type_of(enum dtype t) { return t == BF16 ? CUDA_R_16BF : CUDA_R_32F; }

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

/* The algorithms that the heuristic names, its first choice first; how many. */
static int candidates(const struct plan *p, cublasLtMatmulHeuristicResult_t *found, int most)
{
    const struct plans_key *k = &p->key;
    cublasLtMatmulPreference_t pref;
    if (!good(cublasLtMatmulPreferenceCreate(&pref)))
        return 0;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    uint32_t align_a = (uint32_t)k->align_b, align_b = (uint32_t)k->align_a, align_c = (uint32_t)k->align_add,
             align_d = (uint32_t)k->align_c;
    SET_PREF(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
    SET_PREF(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions);
    SET_PREF(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, align_a);
    SET_PREF(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, align_b);
    SET_PREF(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, align_c);
    SET_PREF(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, align_d);
    int n = 0;
    bool ok = good(cublasLtMatmulAlgoGetHeuristic(lt, p->op, p->a, p->b, p->c, p->c, pref, most, found, &n));
    cublasLtMatmulPreferenceDestroy(pref);
    if (ok && n == 0)
        cuda_note_text("cuBLASLt", "no algorithm for a matrix product");
    return ok ? n : 0;
}

/* What is recorded, else the heuristic's first. */
static bool choose(struct plan *p)
{
    const struct plans_choice *c = plans_find(&p->key);
    cublasLtMatmulHeuristicResult_t found;
    if (c)
        memcpy(&p->algo, c->algo, sizeof p->algo);
    else if (candidates(p, &found, 1) > 0)
        p->algo = found.algo;
    else
        return false;
    return true;
}

static bool describe(struct plan *p)
{
    const struct plans_key *k = &p->key;
    int32_t batch = (int32_t)k->batch;
    cublasOperation_t op_a = k->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = k->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    if (!good(cublasLtMatmulDescCreate(&p->op, k->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F)))
        return false;
    SET_OP(p, CUBLASLT_MATMUL_DESC_TRANSA, op_a);
    SET_OP(p, CUBLASLT_MATMUL_DESC_TRANSB, op_b);
    if (k->bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        SET_OP(p, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
        SET_OP(p, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, k->step_bias);
    }
    int32_t processors = (int32_t)k->processors;
    if (processors < cuda_processors())
        SET_OP(p, CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, processors);
    p->a = k->trans_b ? layout(k->in, k->K, k->N, k->ldb, batch, k->step_b) : layout(k->in, k->N, k->K, k->ldb, batch, k->step_b);
    p->b = k->trans_a ? layout(k->in, k->M, k->K, k->lda, batch, k->step_a) : layout(k->in, k->K, k->M, k->lda, batch, k->step_a);
    p->c = layout(k->out, k->N, k->M, k->ldc, batch, k->step_c);
    return p->a && p->b && p->c;
}

static void forget(struct plan *p)
{
    cublasLtMatrixLayoutDestroy(p->a);
    cublasLtMatrixLayoutDestroy(p->b);
    cublasLtMatrixLayoutDestroy(p->c);
    cublasLtMatmulDescDestroy(p->op);
    *p = (struct plan){ .used = false };
}

/* The plan of a product, made when it is met for the first time; NULL: an error was noted. A training has
 * some dozens of shapes; texts of all lengths have any number, so a plan that is in the way makes room. */
static struct plan *plan_of(const struct plans_key *k)
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
    room->used = describe(room) && choose(room);
    return room->used ? room : NULL;
}

static bool usable(const struct plans_choice *c)
{
    struct plan p = { .key = c->key };
    cublasLtMatmulHeuristicResult_t found;
    uint32_t reduction = 0;
    size_t written;
    memcpy(&p.algo, c->algo, sizeof p.algo);
    bool ok = describe(&p);
    if (ok && c->key.bias)
        SET_OP(&p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias_room); /* one may be asked for */
    ok = ok && !cublasLtMatmulAlgoCheck(lt, p.op, p.a, p.b, p.c, p.c, &p.algo, &found) &&
         found.workspaceSize <= workspace_bytes &&
         !cublasLtMatmulAlgoConfigGetAttribute(&p.algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &reduction,
                                               sizeof reduction, &written);
    forget(&p);
    return ok && (reduction & ~(uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) == 0;
}

enum plans_fit gemm_plans_take(const char *text, const char **why)
{
    for (int i = 0; i < PLANS; i++)
        if (plans[i].used)
            forget(&plans[i]);
    return plans_take(text, usable, why);
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

struct operands {
    const void *a, *b, *add;    /* add: c where nothing is added */
    void *c;
};

static cublasStatus_t multiply(const struct plan *p, const struct operands *o, const cublasLtMatmulAlgo_t *by)
{
    float one = 1, beta = p->key.add ? 1 : 0;
    return cublasLtMatmul(lt, p->op, &one, o->b, p->a, o->a, p->b, &beta, o->add, p->c, o->c, p->c, by, workspace,
                          workspace_bytes, cuda_stream());
}

/* ---- measuring ---- */

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The median of the milliseconds that a product takes by this algorithm; INFINITY: it does not serve. */
static double time_of(const struct plan *p, const struct operands *o, const cublasLtMatmulAlgo_t *algo)
{
    cudaEvent_t from = NULL, to = NULL;
    float ms[RUNS] = { 0 };
    int e = cudaEventCreateWithFlags(&from, cudaEventDefault);
    if (!e)
        e = cudaEventCreateWithFlags(&to, cudaEventDefault);
    bool serves = multiply(p, o, algo) == CUBLAS_STATUS_SUCCESS; /* warms up */
    for (int i = 0; i < RUNS && !e && serves; i++) {
        e = cudaEventRecord(from, cuda_stream());
        serves = multiply(p, o, algo) == CUBLAS_STATUS_SUCCESS;
        if (!e)
            e = cudaEventRecord(to, cuda_stream());
        if (!e)
            e = cudaEventSynchronize(to);
        if (!e)
            e = cudaEventElapsedTime(&ms[i], from, to);
    }
    if (!serves)
        cudaGetLastError(); /* that was an answer */
    cuda_note("measuring a matrix product", e);
    cudaEventDestroy(from);
    cudaEventDestroy(to);
    qsort(ms, RUNS, sizeof *ms, by_value);
    return serves && !e ? ms[RUNS / 2] : INFINITY;
}

/* Fills in what is taken and the times; writes to o->c. */
static bool find_best(const struct plan *p, const struct operands *o, struct plans_choice *c)
{
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    int n = candidates(p, found, CANDIDATES);
    c->best_ms = INFINITY;
    for (int i = 0; i < n; i++) {
        double ms = found[i].state == CUBLAS_STATUS_SUCCESS ? time_of(p, o, &found[i].algo) : INFINITY;
        if (i == 0)
            c->first_ms = ms;
        if (ms < c->best_ms) {
            c->best_ms = ms;
            memcpy(c->algo, &found[i].algo, sizeof c->algo);
        }
    }
    return isfinite(c->best_ms) && isfinite(c->first_ms);
}

/* Measures a product that is met for the first time, into memory of its own: the real one is multiplied once,
 * and may be added onto. A product for which there is no such memory goes by the first choice, unmeasured. */
static void measure(struct plan *p, const struct operands *real)
{
    _Static_assert(sizeof p->algo == sizeof(uint32_t) * PLANS_ALGO_WORDS, "an algorithm is its words");
    const struct plans_key *k = &p->key;
    struct plans_choice *known = plans_find(k), c = { .key = *k, .calls = 1 };
    struct operands o = *real;
    if (known) {
        known->calls++;
        return;
    }
    int64_t span = (k->batch - 1) * k->step_c + (k->M - 1) * k->ldc + k->N;
    if (cudaMalloc(&o.c, (size_t)span * (k->out == BF16 ? 2 : 4))) {
        cudaGetLastError(); /* that was an answer */
        return;
    }
    if (!k->add)
        o.add = o.c;
    if (find_best(p, &o, &c)) {
        plans_add(&c);
        memcpy(&p->algo, c.algo, sizeof p->algo);
    }
    cudaFree(o.c);
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
    struct plans_key k = plans_key_of(m, has_tf32, cuda_processors_left());
    struct plan *p = plan_of(&k);
    if (!p)
        return;
    const void *add = m->add.data ? m->add.data : m->c.data;
    struct operands o = { .a = m->a.data, .b = m->b.data, .add = add, .c = m->c.data };
    if (m->bias.data) {
        const void *bias = bias_like(m, k.batch);
        SET_OP(p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    }
    if (plans_measuring())
        measure(p, &o);
    good(multiply(p, &o, &p->algo));
}
