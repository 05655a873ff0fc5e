/* plans.h - which algorithm each matrix product takes: measured, told as text, read again
 * SPDX-License-Identifier: MIT
 *
 * The book behind plans_take and plans_tell of backend.h. It knows products by their key and algorithms as
 * words, and calls nothing of CUDA; gemm.c measures and checks. The text, a product a line, tabs between
 * fields:
 *   # ssmtools: algorithms of matrix products, measured; format 1
 *   # cuBLASLt 130100, NVIDIA H200         the maker, which must be the same when it is read
 *   # ...                                  any more comments
 *   M N K ... calls first_ms best_ms algo  names: those of the key, then as below
 *   4096 5120 2560 ...                     algo: its words, in hex, blanks between them
 */
#ifndef SSM_CUDA_PLANS_H
#define SSM_CUDA_PLANS_H

#include "kernels/backend.h"

enum { PLANS_MOST = 4096, PLANS_ALGO_WORDS = 16 };

/* What tells one product from another, with the least and the largest value of each. in, out: enum dtype.
 * align_x: what the address and the distances of x are multiples of, in bytes. processors: the
 * multiprocessors that are left for it. */
#define PLANS_KEY(F)                                                                                         \
    F(M, 1, INT64_MAX)                                                                                       \
    F(N, 1, INT64_MAX)                                                                                       \
    F(K, 1, INT64_MAX)                                                                                       \
    F(lda, 0, INT64_MAX)                                                                                     \
    F(ldb, 0, INT64_MAX)                                                                                     \
    F(ldc, 0, INT64_MAX)                                                                                     \
    F(batch, 1, INT32_MAX)                                                                                   \
    F(step_a, 0, INT64_MAX)                                                                                  \
    F(step_b, 0, INT64_MAX)                                                                                  \
    F(step_c, 0, INT64_MAX)                                                                                  \
    F(step_bias, 0, INT64_MAX)                                                                               \
    F(trans_a, 0, 1)                                                                                         \
    F(trans_b, 0, 1)                                                                                         \
    F(in, F32, BF16)                                                                                         \
    F(out, F32, BF16)                                                                                        \
    F(tf32, 0, 1)                                                                                            \
    F(add, 0, 1)                                                                                             \
    F(bias, 0, 1)                                                                                            \
    F(align_a, 1, 16)                                                                                        \
    F(align_b, 1, 16)                                                                                        \
    F(align_c, 1, 16)                                                                                        \
    F(align_add, 1, 16)                                                                                      \
    F(processors, 1, INT32_MAX)

struct plans_key {
#define FIELD(name, least, most) int64_t name;
    PLANS_KEY(FIELD)
#undef FIELD
};

struct plans_choice {
    struct plans_key key;
    int64_t calls;              /* while it was measured */
    double first_ms, best_ms;   /* of the heuristic's first choice, and of the one that is taken */
    uint32_t algo[PLANS_ALGO_WORDS];
};

struct plans_key plans_key_of(const struct matmul *m, bool tf32, int processors);

/* Who makes the choices: "cuBLASLt 130100, NVIDIA H200". */
void plans_begin(const char *maker);
/* As plans_take of backend.h. Choices that are not `usable` are left out. */
enum plans_fit plans_take(const char *text, bool (*usable)(const struct plans_choice *), const char **why);
/* Products that are not in the book are to be measured and added. */
bool plans_measuring(void);
/* NULL: not in the book. */
struct plans_choice *plans_find(const struct plans_key *k);
/* A full book takes no more. */
void plans_add(const struct plans_choice *c);
const char *plans_tell(struct plans_sum *sum);

#endif
