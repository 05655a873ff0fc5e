/* scan.c - selective scan: forward, and one step
 * SPDX-License-Identifier: MIT
 *
 * The algorithm, its layout, and the names of its quantities stand at the top of scan_block.h.
 */
#include "scan_block.h"

size_t cpu_scan_work(const struct scan *a)
{
    return (size_t)scan_make_plan(a).total * sizeof(float) + CPU_SLACK;
}

/* n tokens of one block, whose columns dt, u and y are: S [N,SCAN_VL] goes on, y [n,SCAN_WIDE] = S C. */
static inline __attribute__((always_inline)) void fwd_block(const struct scan *a, const int64_t N, int64_t m,
                                                            int64_t t0, int64_t n, const float *dt,
                                                            const float *u, const float *A2, float *S,
                                                            float *y)
{
    for (int64_t t = 0; t < n; t++) {
        const float *B = cpu_row(&a->Bm, m + t), *C = cpu_row(&a->Cm, m + t);
        gemm_vec d = scan_load(dt + t * SCAN_WIDE), in = scan_load(u + t * SCAN_WIDE), sum = { 0 };

        if (scan_resets(a, m, t0, t))
            memset(S, 0, (size_t)(N * SCAN_VL) * sizeof(float));
        for (int64_t k = 0; k < N; k++) {
            gemm_vec s = scan_decay(d, scan_load(A2 + k * SCAN_VL)) * scan_load(S + k * SCAN_VL) + in * B[k];

            scan_store(S + k * SCAN_VL, s);
            sum += s * C[k];
        }
        scan_store(y + t * SCAN_WIDE, sum);
    }
}

/* One group of one sequence; own: A2, S [SCAN_VECS,N,SCAN_VL], then dt, u, y [SCAN_TILE,SCAN_WIDE] */
static void fwd_group(const struct scan *a, const struct scan_plan *p, int64_t b, int64_t g, float *own)
{
    float *A2 = own, *S = A2 + p->state, *dt = S + p->state, *u = dt + SCAN_TILE * SCAN_WIDE;
    float *out = u + SCAN_TILE * SCAN_WIDE;
    int64_t c0 = g * SCAN_WIDE, width = scan_width(a, g), n;
    const float *D = (const float *)a->D.data + c0;

    scan_load_decays(a, g, A2);
    scan_load_state(a, g, scan_state_row(a, &a->h0, b, g), a->h0.ld, S);
    for (int64_t t0 = 0; t0 < a->T; t0 += n) {
        int64_t m = b * a->T + t0, chunk = t0 / a->Q;

        n = cpu_min(SCAN_TILE, cpu_min(a->T, (chunk + 1) * a->Q) - t0);
        if (a->states && t0 == chunk * a->Q)
            scan_save_state(a, g, S, scan_saved(a, p, b, chunk, g), a->N);
        scan_prepare(a, g, m, n, dt, u);
        for (int64_t c = 0; c < width; c += SCAN_VL)
            fwd_block(a, a->N, m, t0, n, dt + c, u + c, A2 + c * a->N, S + c * a->N, out + c);
        for (int64_t t = 0; t < n; t++) {
            const float *x = cpu_row(&a->x, m + t) + c0, *s = out + t * SCAN_WIDE;
            float *y = cpu_row(&a->y, m + t) + c0;

#pragma omp simd
            for (int64_t c = 0; c < width; c++)
                y[c] = s[c] + D[c] * x[c];
        }
    }
    if (a->hT.data)
        scan_save_state(a, g, S, scan_state_row(a, &a->hT, b, g), a->hT.ld);
}

void cpu_scan_fwd(const struct scan *a)
{
    struct scan_plan p;
    float *w = cpu_scratch("scan_fwd", a->work);

    scan_check(a, "scan_fwd");
    CPU_NEED("scan_fwd", a, y);
    if (a->B < 1 || a->T < 1)
        return;
    p = scan_make_plan(a);
#pragma omp parallel
    {
        unsigned mode = cpu_flush_begin();

#pragma omp for schedule(static)
        for (int64_t job = 0; job < a->B * p.groups; job++)
            fwd_group(a, &p, job / p.groups, job % p.groups, w + p.thread + cpu_thread() * p.own);
        cpu_flush_end(mode);
    }
}

/* One token of the channels of one group of one sequence; here n lies in the lanes, as it does in h0. */
static void step_group(const struct scan *a, int64_t b, int64_t g)
{
    int64_t c0 = g * SCAN_WIDE;
    const float *x = cpu_row(&a->x, b) + c0, *B = cpu_row(&a->Bm, b), *C = cpu_row(&a->Cm, b);
    const float *D = (const float *)a->D.data + c0;
    float *y = cpu_row(&a->y, b) + c0, dt[SCAN_WIDE], u[SCAN_WIDE];

    scan_prepare(a, g, b, 1, dt, u);
    for (int64_t c = 0; c < scan_width(a, g); c++) {
        const float *A = cpu_row(&a->A_log, c0 + c);
        float *S = cpu_row(&a->h0, b * a->C + c0 + c), d = dt[c], in = u[c], sum = 0;

#pragma omp simd reduction(+ : sum)
        for (int64_t n = 0; n < a->N; n++) {
            S[n] = vmath_decay(d, -vmath_exp(A[n]) * VMATH_LOG2E) * S[n] + in * B[n];
            sum += S[n] * C[n];
        }
        y[c] = sum + D[c] * x[c];
    }
}

void cpu_scan_step(const struct scan *a)
{
    int64_t groups = cpu_ceil(a->C, SCAN_WIDE);

    scan_check(a, "scan_step");
    CPU_NEED("scan_step", a, y);
    CPU_NEED("scan_step", a, h0);
#pragma omp parallel
    {
        unsigned mode = cpu_flush_begin();

#pragma omp for schedule(static)
        for (int64_t job = 0; job < a->B * groups; job++)
            step_group(a, job / groups, job % groups);
        cpu_flush_end(mode);
    }
}
