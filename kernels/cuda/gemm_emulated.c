/* gemm_emulated.c - matrix products where CUDA is emulated: loops, in float, that read and write the device's dtypes
 * SPDX-License-Identifier: MIT
 *
 * There are two algorithms, of which the "heuristic" names 0: the sum over K from its begin, and, 1, from its
 * end. Measuring tries 1 alone, and takes it, so that a training shows in its bits what it goes by.
 */
#include <string.h>

#include "gemm.h"
#include "plans.h"

static bool has_tf32;

bool gemm_begin(bool tf32, const char *gpu)
{
    char maker[160];
    snprintf(maker, sizeof maker, "emulated, %s", gpu);
    plans_begin(maker);
    has_tf32 = tf32;
    return true;
}

static bool usable(const struct plans_choice *c) { return c->algo[0] <= 1; }

enum plans_fit gemm_plans_take(const char *text, const char **why) { return plans_take(text, usable, why); }

static uint32_t algorithm_of(const struct matmul *m)
{
    struct plans_key k = plans_key_of(m, has_tf32, cuda_processors_left());
    if (plans_measuring() && !plans_find(&k))
        plans_add(&(struct plans_choice){ .key = k, .first_ms = 2, .best_ms = 1, .algo = { 1 } });
    struct plans_choice *c = plans_find(&k);
    if (c && plans_measuring())
        c->calls++;
    return c ? c->algo[0] : 0;
}

static float get(const struct tensor *t, int64_t i)
{
    float f;
    if (t->dtype == F32)
        return ((const float *)t->data)[i];
    uint32_t u = (uint32_t)((const uint16_t *)t->data)[i] << 16;
    memcpy(&f, &u, 4);
    return f;
}

static void put(const struct tensor *t, int64_t i, float f)
{
    if (t->dtype == F32) {
        ((float *)t->data)[i] = f;
        return;
    }
    uint32_t u;
    memcpy(&u, &f, 4);
    ((uint16_t *)t->data)[i] = (uint16_t)(f != f ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16);
}

void cuda_matmul(const struct matmul *m)
{
    CUDA_NEED("matmul", m, a);
    CUDA_NEED("matmul", m, b);
    CUDA_NEED("matmul", m, c);
    if (m->a.dtype != m->b.dtype || (m->add.data && m->add.dtype != m->c.dtype))
        cuda_fault("matmul", "dtype", "of a and b, or of add and c, differs");
    if (m->M < 1 || m->N < 1)
        return;
    int64_t batch = m->batch > 1 ? m->batch : 1;
    bool from_end = algorithm_of(m) == 1;
#pragma omp parallel for collapse(2)
    for (int64_t g = 0; g < batch; g++)
        for (int64_t i = 0; i < m->M; i++)
            for (int64_t j = 0; j < m->N; j++) {
                int64_t a0 = g * m->step_a + (m->trans_a ? i : i * m->a.ld), da = m->trans_a ? m->a.ld : 1;
                int64_t b0 = g * m->step_b + (m->trans_b ? j * m->b.ld : j), db = m->trans_b ? 1 : m->b.ld;
                float sum = 0;
                for (int64_t i_k = 0; i_k < m->K; i_k++) {
                    int64_t k = from_end ? m->K - 1 - i_k : i_k;
                    sum += get(&m->a, a0 + k * da) * get(&m->b, b0 + k * db);
                }
                if (m->add.data)
                    sum += get(&m->add, g * m->step_c + i * m->add.ld + j);
                if (m->bias.data)
                    sum += get(&m->bias, g * m->step_bias + j);
                put(&m->c, g * m->step_c + i * m->c.ld + j, sum);
            }
}
