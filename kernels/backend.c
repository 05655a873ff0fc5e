/* backend.c - picks the CPU backend's variant at run time
 * SPDX-License-Identifier: MIT
 *
 * On x86-64 the kernels are compiled three times (x86-64-v2, v3, v4) and this file, compiled for the
 * lowest of them, takes the best that the machine has. A build for one instruction set only (other
 * machines, sanitizers) defines CPU_ONE_VARIANT.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"

#if defined(__x86_64__) && !defined(CPU_ONE_VARIANT)

extern const struct backend backend_cpu_v2, backend_cpu_v3, backend_cpu_v4;

/* Highest level of x86-64 that CPU and operating system support, 1 for the oldest machines. */
static int cpu_level(void)
{
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("ssse3") &&
          __builtin_cpu_supports("popcnt")))
        return 1;
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
          __builtin_cpu_supports("bmi2")))
        return 2;
    if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
          __builtin_cpu_supports("avx512vl")))
        return 3;
    return 4;
}

const struct backend *backend_cpu(void)
{
    static const struct backend *const table[] = { &backend_cpu_v2, &backend_cpu_v3, &backend_cpu_v4 };
    const char *want = getenv("SSM_CPU");
    int have = cpu_level(), take = have;

    if (want && *want) {
        if (want[0] != 'v' || want[1] < '2' || want[1] > '4' || want[2]) {
            fprintf(stderr, "SSM_CPU: '%s' is not one of v2, v3, v4\n", want);
            exit(2);
        }
        take = want[1] - '0';
    }
    if (take > have) {
        fprintf(stderr, "SSM_CPU: this machine has x86-64-v%d, not '%s'\n", have, want);
        exit(2);
    }
    if (take < 2) {
        fprintf(stderr, "this machine is older than x86-64-v2, the least that the kernels need\n");
        exit(2);
    }
    return table[take - 2];
}

#else

extern const struct backend backend_cpu_generic;

const struct backend *backend_cpu(void)
{
    const char *want = getenv("SSM_CPU");

    if (want && *want && strcmp(want, "generic") != 0) {
        fprintf(stderr, "SSM_CPU: '%s' is not in this build, which has one variant only\n", want);
        exit(2);
    }
    return &backend_cpu_generic;
}

#endif
