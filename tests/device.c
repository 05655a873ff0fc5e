/* device.c - tests of every op of a device against the CPU: main
 * SPDX-License-Identifier: MIT
 *
 * usage: device [--backend cpu|cuda] [--only OP] [--huge] [--every N]   TAP on stdout, for prove; one trial of N
 *        device [--backend ...] [--only OP] --perf          a table of times (device_perf.c)
 * Without --backend it is cuda, and skipped where the environment has no SSM_CUDA, the backend's shared
 * object. --huge: also tensors of more than 2^31 elements, which take the memory of a large device.
 * DEVICE_VERBOSE=1 prints every error beside its limit.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cost.h"
#include "device_trial.h"
#include "kernels/device.h"

const struct backend *device_be;
int trial_every = 1;

/* Every slot of the table from `alloc` to `adamw` is a pointer: none may be NULL. */
static void dev_table(void **state)
{
    const char *p = (const char *)device_be + offsetof(struct backend, alloc);
    const char *last = (const char *)device_be + offsetof(struct backend, adamw);
    struct device_info info;

    (void)state;
    assert_int_equal(device_be->version, BACKEND_VERSION);
    assert_non_null(device_be->name);
    assert_non_null(device_be->variant);
    assert_true(device_be->dtypes & 1 << F32);
    for (int slot = 0; p <= last; p += sizeof(void (*)(void)), slot++) {
        void (*f)(void);

        memcpy(&f, p, sizeof f);
        if (!f)
            fail_msg("slot %d of the table is empty", slot);
    }
    device_be->info(&info);
    assert_true(strlen(info.name) > 0 && strlen(info.name) < sizeof info.name);
    assert_true(info.memory_free <= info.memory_total);
    assert_true(info.bandwidth >= 0 && info.peak[F32] >= 0);
    print_message("%s: %s, %lld MiB of %lld free\n", device_be->name, info.name,
                  (long long)(info.memory_free >> 20), (long long)(info.memory_total >> 20));
}

/* Copies beside what the device is given next: after what it was given before, and before what it is given after the join. */
static void dev_beside(void **state)
{
    enum { N = 40 << 20 }; /* in more than one piece */
    unsigned char *p = device_be->alloc(N), *host = device_be->host_alloc(N), *want = calloc(1, N);

    (void)state;
    assert_true(p && host && want);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i += 1000)
            want[i] = (unsigned char)(i / 1000 + round);
        device_be->upload(p, want, N);
        device_be->download_beside(host, p, N / 2 + 1);
        device_be->download_beside(host + N / 2 + 1, p + N / 2 + 1, N - N / 2 - 1);
        if (round == 2)
            assert_null(device_be->wait_downloads());
        device_be->join_downloads();
        device_be->zero(p, N);
        assert_null(device_be->wait_downloads());
        assert_memory_equal(host, want, N);
    }
    device_be->join_downloads(); /* there are none */
    assert_null(device_be->wait_downloads());
    device_be->download_beside(host, p, 0);
    assert_null(device_be->sync());
    device_be->free(p);
    device_be->host_free(host);
    device_be->host_free(NULL);
    assert_null(device_be->host_alloc(SIZE_MAX / 2));
    assert_null(device_be->sync()); /* that was an answer, not an error */
    free(want);
}

static void dev_memory(void **state)
{
    char text[100] = "words", zeros[1000] = { 1 };
    unsigned char *p = device_be->alloc(1000);

    (void)state;
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 64, 0);
    device_be->download(zeros, p, sizeof zeros);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(zeros[i], 0);
    device_be->upload(p, text, sizeof text);
    device_be->copy(p + 500, p, sizeof text);
    device_be->zero(p, sizeof text);
    device_be->download(text, p, sizeof text);
    assert_int_equal(text[0], 0);
    device_be->download(text, p + 500, sizeof text);
    assert_string_equal(text, "words");
    device_be->upload(p + 13, text, 5); /* nothing is aligned, and what `host` holds may change at once */
    text[0] = 'W';
    device_be->download(zeros, p + 13, 5);
    assert_memory_equal(zeros, "words", 5);
    device_be->copy(p, p, 0);
    device_be->zero(p, 0);
    assert_null(device_be->sync());
    device_be->free(p);
    device_be->free(NULL);
    assert_null(device_be->alloc(SIZE_MAX / 2));
    assert_null(device_be->sync()); /* that was an answer, not an error */
    p = device_be->alloc(0);
    device_be->free(p);
}

/* Marks are points in time, in order, and the last 4096 are remembered, beside those of one's own. */
static void dev_marks(void **state)
{
    const int64_t n = 1 << 16;
    float *p = device_be->alloc((size_t)n * sizeof(float));
    int first = device_be->mark(MARK_NEXT), middle, last;
    double one, two, both;

    (void)state;
    assert_non_null(p);
    device_be->zero(p, (size_t)n * sizeof(float));
    middle = device_be->mark(MARK_NEXT);
    device_be->copy(p, p + n / 2, (size_t)n / 2 * sizeof(float));
    last = device_be->mark(MARK_NEXT);
    one = device_be->between(first, middle);
    two = device_be->between(middle, last);
    both = device_be->between(first, last);
    assert_true(one >= 0 && two >= 0 && both < 10);
    assert_true(fabs(one + two - both) <
                1e-5); /* seconds: a device's marks have a grain of about a microsecond */
    assert_true(device_be->between(last, last) == 0);
    int mine = device_be->mark(OWN_MARKS - 1);
    first = device_be->mark(MARK_NEXT);
    for (int i = 0; i < 4095; i++)
        last = device_be->mark(MARK_NEXT);
    assert_true(device_be->between(first, last) >= 0);
    for (int i = 0; i < 5000; i++)
        last = device_be->mark(MARK_NEXT);
    assert_true(device_be->between(last, device_be->mark(MARK_NEXT)) >= 0);
    assert_true(device_be->between(mine, last) > both);
    assert_null(device_be->sync());
    device_be->free(p);
}

static const struct CMUnitTest tests[] = {
    { "table", dev_table, NULL, NULL, NULL },   { "memory", dev_memory, NULL, NULL, NULL },
    { "beside", dev_beside, NULL, NULL, NULL },
    { "marks", dev_marks, NULL, NULL, NULL },   { "matmul", dev_matmul, NULL, NULL, NULL },
    { "colsum", dev_colsum, NULL, NULL, NULL }, { "embed", dev_embed, NULL, NULL, NULL },
    { "xent", dev_xent, NULL, NULL, NULL },     { "cast", dev_cast, NULL, NULL, NULL },
    { "adamw", dev_adamw, NULL, NULL, NULL },   { "total", dev_total, NULL, NULL, NULL },
    { "judge", dev_judge, NULL, NULL, NULL },
    { "norm", dev_norm, NULL, NULL, NULL },     { "gatednorm", dev_gatednorm, NULL, NULL, NULL },
    { "conv1d", dev_conv1d, NULL, NULL, NULL }, { "act", dev_act, NULL, NULL, NULL },
    { "rope", dev_rope, NULL, NULL, NULL },     { "ssd", dev_ssd, NULL, NULL, NULL },
    { "scan", dev_scan, NULL, NULL, NULL },     { "rglru", dev_rglru, NULL, NULL, NULL },
    { "attn", dev_attn, NULL, NULL, NULL },     { "huge", dev_huge, NULL, NULL, NULL },
    { "long", dev_long, NULL, NULL, NULL },
};

static int usage(void)
{
    fprintf(stderr, "usage: device [--backend cpu|cuda] [--only OP] [--huge] [--every N] [--perf]\n");
    return 2;
}

int main(int argc, char **argv)
{
    const char *name = NULL, *only = NULL, *why = "";
    bool perf = false, huge = false;

    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--backend") == 0 && i + 1 < argc)
            name = argv[++i];
        else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc)
            only = argv[++i];
        else if (strcmp(argv[i], "--every") == 0 && i + 1 < argc && strtol(argv[i + 1], NULL, 10) > 0)
            trial_every = (int)strtol(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--huge") == 0)
            huge = true;
        else if (strcmp(argv[i], "--perf") == 0)
            perf = true;
        else
            return usage();
    if (!name && !getenv("SSM_CUDA")) {
        printf("1..0 # SKIP no SSM_CUDA, and no --backend\n");
        return 0;
    }
    device_be = device_open(name ? name : "cuda", &(struct device_options){ 0 }, &why);
    if (!device_be) {
        fprintf(stderr, "device: %s: %s\n", name ? name : "cuda", why);
        return 1;
    }
    if (perf) {
        device_perf(only);
        return fflush(stdout) != 0 || ferror(stdout);
    }
    cmocka_set_message_output(CM_OUTPUT_TAP);
    if (only)
        cmocka_set_test_filter(only);
    /* huge and long are the last */
    return _cmocka_run_group_tests("device", tests, sizeof tests / sizeof *tests - (huge ? 0 : 2), NULL, NULL) != 0;
}
