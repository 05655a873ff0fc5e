/* plans.c - tests of kernels/cuda/plans.c: keys of matrix products, and the text of what was measured
 * SPDX-License-Identifier: MIT
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cuda/plans.h"

static const char *why;

static bool any(const struct plans_choice *c)
{
    (void)c;
    return true;
}

static bool not_7(const struct plans_choice *c) { return c->algo[0] != 7; }

static struct matmul product(int64_t M)
{
    static float room[64] __attribute__((aligned(64)));
    return (struct matmul){ .M = M,
                            .N = 12,
                            .K = 20,
                            .trans_b = true,
                            .a = { room, 20, BF16 },
                            .b = { room + 16, 20, BF16 },
                            .c = { room + 32, 12, F32 } };
}

static struct plans_choice choice(int64_t M, uint32_t algo)
{
    struct matmul m = product(M);
    return (struct plans_choice){ .key = plans_key_of(&m, false, 132),
                                  .calls = 3,
                                  .first_ms = 2,
                                  .best_ms = 0.5,
                                  .algo = { algo, 0xffffffff, [15] = 0xabcdef01 } };
}

/* The text of so many products, to be freed. */
static char *measured(int n)
{
    struct plans_sum sum;
    plans_begin("130100, NVIDIA H200");
    assert_int_equal(plans_take(NULL, any, &why), PLANS_TAKEN);
    assert_true(plans_measuring());
    for (int i = 1; i <= n; i++) {
        struct plans_choice c = choice(i, (uint32_t)i);
        plans_add(&c);
    }
    char *text = strdup(plans_tell(&sum));
    assert_true(sum.products == n && sum.first_ms == 6.0 * n && sum.best_ms == 1.5 * n);
    return text;
}

static void keys(void **state)
{
    (void)state;
    struct matmul m = product(5);
    struct plans_key k = plans_key_of(&m, true, 128), other;
    assert_true(k.M == 5 && k.N == 12 && k.K == 20 && k.lda == 20 && k.ldb == 20 && k.ldc == 12);
    assert_true(k.trans_b && !k.trans_a && k.in == BF16 && k.out == F32 && !k.add && !k.bias);
    assert_true(k.batch == 1 && k.processors == 128);
    assert_true(!k.tf32); /* of floats only */
    assert_true(k.align_a == 8 && k.align_c == 16 && k.align_add == 16);
    m.step_a = m.step_c = 3; /* of one product: nothing */
    other = plans_key_of(&m, true, 128);
    assert_memory_equal(&k, &other, sizeof k);
    m.batch = 2;
    m.add = m.c;
    m.a.dtype = m.b.dtype = F32;
    k = plans_key_of(&m, true, 128);
    assert_true(k.batch == 2 && k.step_a == 3 && k.add && k.tf32);
    assert_true(k.align_a == 4 && k.align_b == 16 && k.align_c == 4);
    m.a.data = (char *)m.a.data + 2;
    m.a.dtype = m.b.dtype = BF16;
    k = plans_key_of(&m, true, 128);
    assert_int_equal(k.align_a, 2);
}

static void there_and_back(void **state)
{
    (void)state;
    char *text = measured(3);
    struct plans_sum sum;
    assert_int_equal(plans_take(text, any, &why), PLANS_TAKEN);
    assert_null(why);
    assert_false(plans_measuring());
    for (uint32_t i = 1; i <= 3; i++) {
        struct plans_choice want = choice(i, i), *have = plans_find(&want.key);
        assert_non_null(have);
        assert_memory_equal(have, &want, sizeof want);
        want.key.processors--;
        assert_null(plans_find(&want.key));
    }
    assert_string_equal(plans_tell(&sum), text);
    free(text);
    text = measured(0);
    assert_int_equal(plans_take(text, any, &why), PLANS_TAKEN);
    free(text);
}

static void refused(void **state)
{
    (void)state;
    char *text = measured(9);
    struct plans_choice seventh = choice(7, 7), last = choice(9, 9);
    assert_int_equal(plans_take(text, not_7, &why), PLANS_TAKEN);
    assert_string_equal(why, "1 of 9 algorithms are refused");
    assert_null(plans_find(&seventh.key));
    assert_non_null(plans_find(&last.key));
    free(text);
}

static void foreign(void **state)
{
    (void)state;
    char *text = measured(2);
    struct plans_choice first = choice(1, 1);
    plans_begin("130200, NVIDIA H200");
    assert_int_equal(plans_take(text, any, &why), PLANS_FOREIGN);
    assert_string_equal(why, "made by 'cuBLASLt 130100, NVIDIA H200', and "
                             "this is 'cuBLASLt 130200, NVIDIA H200'");
    assert_null(plans_find(&first.key));
    free(text);
}

/* The text with the first `from` behind the n-th line end replaced by `to`. */
static char *spoilt(const char *text, int n, const char *from, const char *to)
{
    const char *at = text;
    while (n-- > 0)
        at = strchr(at, '\n') + 1;
    at = strstr(at, from);
    assert_non_null(at);
    char *new = malloc(strlen(text) + strlen(to) + 1);
    memcpy(new, text, (size_t)(at - text));
    snprintf(new + (at - text), strlen(at) + strlen(to) + 1, "%s%s", to, at + strlen(from));
    return new;
}

static void garbage(void **state)
{
    (void)state;
    static const struct {
        int line;               /* after this one */
        const char *from, *to, *why;
    } bad[] = {
        { 0, "format 1", "format 2", "1: this is no file" },
        { 0, "# ss", "ss", "1: this is no file" },
        { 1, "# cuBLASLt", "# cuBLAS", "4: it does not say who made it" },
        { 3, "lda", "ldx", "4: not the names" },
        { 3, "\talgo", "", "4: not the names" },
        { 4, "1\t12\t", "0\t12\t", "5: '0' of 'M'" },
        { 4, "1\t12\t", "1\t-2\t", "5: '-2' of 'N'" },
        { 4, "1\t12\t", "1\tx\t", "5: 'x' of 'N'" },
        { 4, "1\t12\t", "1\t99999999999999999999\t", "5: '99999999999999999999' of 'N'" },
        { 4, "1\t12\t", "1\t12\t12\t", "5: too few fields" },
        { 4, "1\t12\t", "12\t", "5: too few fields" },
        { 4, "\t132\t", "\t\t", "5: '' of 'processors'" },
        { 4, "3\t2.0", "3.5\t2.0", "5: 'calls'" },
        { 4, "2.00000", "nan", "5: 'first_ms'" },
        { 4, "0.50000", "0.5 ms", "5: 'first_ms'" },
        { 4, "ffffffff", "ffffffg0", "5: 'algo'" },
        { 4, "ffffffff", "fffffff", "5: 'algo'" },
        { 4, "ffffffff ", "", "5: 'algo'" },
        { 4, "abcdef01", "abcdef01 00000000", "5: 'algo'" },
        { 5, "2\t12\t", "1\t12\t", "6: this product was there before" },
        { 5, "2\t12\t", "\n2\t12\t", "6: too few fields" },
    };
    char *text = measured(2);
    struct plans_choice first = choice(1, 1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *s = spoilt(text, bad[i].line, bad[i].from, bad[i].to);
        assert_int_equal(plans_take(s, any, &why), PLANS_BAD);
        if (strncmp(why, bad[i].why, strlen(bad[i].why)) != 0)
            fail_msg("'%s' for '%s': '%s', not '%s'", bad[i].to, bad[i].from, why, bad[i].why);
        assert_null(plans_find(&first.key));
        free(s);
    }
    for (size_t n = 0; n + 1 < strlen(text); n++) { /* cut off anywhere: refused, or whole lines are left */
        char *s = strndup(text, n);
        if (plans_take(s, any, &why) != PLANS_BAD)
            assert_true(text[n] == '\n' || text[n - 1] == '\n');
        free(s);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys),    cmocka_unit_test(there_and_back), cmocka_unit_test(refused),
        cmocka_unit_test(foreign), cmocka_unit_test(garbage),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("plans", tests, NULL, NULL);
}
