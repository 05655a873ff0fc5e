/* rng.h - random numbers as a function of (key, counter)
 * SPDX-License-Identifier: MIT
 *
 * Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): no state, so the
 * i-th number of a tensor is the same on any number of ranks and in any order of evaluation.
 */
#ifndef SSM_RNG_H
#define SSM_RNG_H

#include <stdint.h>

/* Four independent 32-bit words for a 64-bit key and a 128-bit counter (hi, lo). Pure. */
void rng_philox(uint64_t key, uint64_t hi, uint64_t lo, uint32_t out[4]);

/* 64 random bits of stream `stream` at position i. Pure. */
uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t i);
/* Uniform in [0,1), 53 bits; uniform in (0,1] is 1 - that. Pure. */
double rng_uniform(uint64_t seed, uint64_t stream, uint64_t i);
/* Standard normal (Box & Muller 1958). Pure. */
double rng_normal(uint64_t seed, uint64_t stream, uint64_t i);

/* A bijection of [0, n) chosen by (seed, stream): a 6-round Feistel network on the next even number of
 * bits, walked until the value falls below n (Black & Rogaway 2002, cycle walking). Pure; n >= 1, i < n. */
uint64_t rng_permute(uint64_t seed, uint64_t stream, uint64_t n, uint64_t i);

/* A 64-bit stream number from a name (FNV-1a). */
uint64_t rng_stream(const char *name);

#endif
