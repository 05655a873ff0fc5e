/* base.c - tests of common/base: numbers, options, random numbers, output files
 * SPDX-License-Identifier: MIT
 */
#include <dirent.h>
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/attrs.h"
#include "common/base/err.h"
#include "common/base/half.h"
#include "common/base/hash.h"
#include "common/base/opt.h"
#include "common/base/out.h"
#include "common/base/rng.h"

static void numbers(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t value;
    } good[] = {
        { "0", 0 },           { "-7", -7 },    { "10k", 10000 },        { "64Mi", 1 << 26 },
        { "2G", 2000000000 }, { "1Ki", 1024 }, { "3T", 3000000000000 }, { "9223372036854775807", INT64_MAX }
    };
    static const char *const bad[] = {
        "",    " 1",  "1 ", "10x", "1e3", "k", "1kk", "1Kib", "0x10", "9223372036854775808", "9999999999G",
        "1.5", "nan", "--1"
    };
    static const char *const bad_reals[] = { "", "nan", "inf", "-inf", "1e999", "1,5", "3x", " 2", "2 " };
    int64_t v;
    double x;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(parse_int(good[i].text, &v), 0);
        assert_true(v == good[i].value);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (parse_int(bad[i], &v) == 0)
            fail_msg("'%s' was taken for a whole number", bad[i]);
    assert_int_equal(parse_real("3e-4", &x), 0);
    assert_true(x == 3e-4);
    for (size_t i = 0; i < sizeof bad_reals / sizeof *bad_reals; i++)
        if (parse_real(bad_reals[i], &x) == 0)
            fail_msg("'%s' was taken for a number", bad_reals[i]);
}

static void config_files(void **state)
{
    (void)state;
    int64_t n = 3;
    double lr = 0.5;
    int kind = 0;
    bool flag = false;
    const char *name = NULL;
    struct opt rows[] = { OPT_INT(0, "n", "N", &n, 1, 100, ""),
                          OPT_REAL(0, "lr", "X", &lr, 0, 1, ""),
                          OPT_CHOICE(0, "kind", &kind, "red|green", ""),
                          OPT_FLAG(0, "flag", &flag, ""),
                          OPT_STR(0, "name", "S", &name, ""),
                          OPT_END };
    assert_int_equal(
        opt_try_read_text(rows, "f",
                          "# head\n n = 7 # seven\n\nlr=0.25\nkind = green\nflag = true\nname = a b\n"),
        0);
    assert_true(n == 7 && lr == 0.25 && kind == 1 && flag);
    assert_string_equal(name, "a b");
    struct buf text = { 0 };
    opt_write(rows, &text);
    assert_string_equal(text.data, "n = 7\nlr = 0.25\nkind = green\nflag = true\nname = a b\n");
    buf_free(&text);
    static const struct {
        const char *text, *why;
    } bad[] = { { "n = 7\nn = 8\n", "f:2: key 'n' stands here twice" },
                { "m = 7\n", "f:1: unknown key 'm'" },
                { "\nn = 0\n", "f:2: '0' of 'n' is below 1" },
                { "n = 101\n", "f:1: '101' of 'n' is above 100" },
                { "n = 10x\n", "f:1: '10x' of 'n' is not a whole number" },
                { "lr = nan\n", "f:1: 'nan' of 'lr' is not a finite number" },
                { "kind = blue\n", "f:1: 'blue' of 'kind' is none of red|green" },
                { "n\n", "f:1: 'n' is not 'name = value'" },
                { "n =\n", "f:1: key 'n' has no value" } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(opt_try_read_text(rows, "f", bad[i].text), -1);
        assert_string_equal(err_last(), bad[i].why);
    }
    rows[0].set_by = 2; /* the command line has the last word */
    n = 42;
    assert_int_equal(opt_try_read_text(rows, "f", "n = 9\n"), 0);
    assert_true(n == 42);
}

/* Known answers of the paper's reference implementation (Random123, kat_vectors, philox4x32 10). */
static void philox(void **state)
{
    (void)state;
    uint32_t w[4];
    rng_philox(0, 0, 0, w);
    assert_true(w[0] == 0x6627e8d5 && w[1] == 0xe169c58d && w[2] == 0xbc57ac4c && w[3] == 0x9b00dbd8);
    rng_philox(UINT64_MAX, UINT64_MAX, UINT64_MAX, w);
    assert_true(w[0] == 0x408f276d && w[1] == 0x41c83b0e && w[2] == 0xa20bc7c6 && w[3] == 0x6d5451fd);
}

static void permutation(void **state)
{
    (void)state;
    static const uint64_t sizes[] = { 1, 2, 3, 17, 64, 65, 1000 };
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        uint64_t n = sizes[k], same = 0;
        bool *seen = calloc(n, sizeof *seen);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t p = rng_permute(5, k, n, i);
            assert_true(p < n && !seen[p]);
            seen[p] = true;
            same += p == rng_permute(6, k, n, i);
        }
        assert_true(n < 64 || same < n / 4); /* another seed, another order */
        free(seen);
    }
    assert_true(rng_permute(1, 1, 1ull << 62, 12345) < 1ull << 62);
}

static void normals(void **state)
{
    (void)state;
    double sum = 0, squares = 0;
    enum { N = 20000 };
    for (uint64_t i = 0; i < N; i++) {
        double x = rng_normal(3, 4, i);
        assert_true(isfinite(x));
        sum += x;
        squares += x * x;
    }
    assert_true(fabs(sum / N) < 0.03 && fabs(squares / N - 1) < 0.05); /* 4 standard errors and more */
}

static void attributes(void **state)
{
    (void)state;
    struct attrs a = { 0 }, b = { 0 };
    int64_t i;
    attrs_set_int(&a, "i", 1);
    attrs_set_str(&a, "s", "x");
    attrs_set_real(&a, "r", 0.1);
    attrs_set_int(&a, "i", 2);
    assert_int_equal(attrs_try_int(&a, "i", &i), 0);
    assert_true(i == 2 && a.n == 3);
    assert_int_equal(attrs_try_int(&a, "s", &i), -1);
    assert_int_equal(attrs_try_int(&a, "t", &i), -1);
    attrs_set_real(&b, "r", 0.1);
    attrs_set_str(&b, "s", "x");
    attrs_set_int(&b, "i", 2);
    assert_true(attrs_equal(&a, &b));
    attrs_set_str(&b, "s", "y");
    assert_false(attrs_equal(&a, &b));
    attrs_free(&a);
    attrs_free(&b);
}

static int entries(const char *dir)
{
    DIR *d = opendir(dir);
    int n = 0;
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static bool may(void *arg) { return *(bool *)arg && entries(".") == 1; } /* the temporary is all there is by then */

/* Asked when all but the name is done: a refused file leaves nothing. */
static void refused_output(void **state)
{
    (void)state;
    char dir[] = "/tmp/ssm-base-XXXXXX", home[4096];
    assert_non_null(mkdtemp(dir));
    assert_non_null(getcwd(home, sizeof home));
    assert_int_equal(chdir(dir), 0);
    for (int yes = 0; yes < 2; yes++) {
        bool answer = yes;
        struct out *o = out_open("x", false);
        FILE *f = fopen(out_temp(o), "w");
        fputs("all", f);
        fclose(f);
        assert_int_equal(out_commit_if(o, may, &answer), yes);
        assert_int_equal(entries("."), yes);
        assert_int_equal(path_exists("x"), yes);
    }
    assert_int_equal(chdir(home), 0);
    out_remove_tree(dir);
}

/* A file appears whole or not at all; a dying process takes its temporary along; leftovers of dead ones are swept. */
static void outputs(void **state)
{
    (void)state;
    char dir[] = "/tmp/ssm-base-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char *path = path_join(dir, "x");
    out_write_file(path, "abc", 3, false);
    uint64_t hash;
    int64_t bytes;
    assert_int_equal(hash_try_file(path, &hash, &bytes), 0);
    assert_true(bytes == 3 && hash == hash_bytes("abc", 3));
    for (int how = 0; how < 4; how++) {
        pid_t pid = fork();
        if (pid == 0) {
            close(STDERR_FILENO);
            if (how == 0)
                out_write_file(path, "d", 1, false); /* exists: refused */
            char *other = path_join(dir, "y");
            struct out *o = out_open(other, false);
            FILE *f = fopen(out_temp(o), "w");
            fputs("half", f);
            fclose(f);
            if (how == 1)
                die("on purpose");
            if (how == 2)
                raise(SIGTERM);
            _exit(0); /* as kill -9 would: the temporary stays */
        }
        int status;
        waitpid(pid, &status, 0);
        assert_true(how == 0   ? WEXITSTATUS(status) == 1
                    : how == 1 ? WEXITSTATUS(status) == 1
                    : how == 2 ? WIFSIGNALED(status)
                               : status == 0);
        assert_int_equal(entries(dir), how == 3 ? 2 : 1);
    }
    /* A folder is looked through by whoever comes to it anew: 'y.tmp...' goes, what only looks like one stays. */
    char *other = path_join(dir, "z"), *below = path_join(dir, "sub"), *file = path_join(below, "x");
    const char *const alike[] = { "y.tmp.nowhere.1", "y.tmp" };
    out_make_dirs(below);
    out_write_file(file, "x", 1, false);
    for (int i = 0; i < 2; i++) {
        char *p = path_join(dir, alike[i]);
        out_write_file(p, "", 0, false);
        free(p);
    }
    assert_int_equal(entries(dir), 4); /* these two, x and sub */
    out_write_file(other, "whole", 5, false);
    assert_int_equal(entries(dir), 5);
    free(file);
    free(below);
    out_remove_tree(dir);
    assert_false(path_exists(dir));
    free(other);
    free(path);
}

/* ---- 16-bit numbers ---- */

struct half_kind {
    int exponent, bias; /* bits; offset */
    void (*from)(const void *, int64_t, float *);
    int64_t (*to)(const float *, int64_t, void *);
};
static const struct half_kind half_kinds[] = { { 5, 15, half_from_f16, half_to_f16 },
                                               { 8, 127, half_from_bf16, half_to_bf16 } };

/* What the code says, by its definition; NaN where it is none. */
static double decode(const struct half_kind *k, uint16_t h)
{
    int bits = 15 - k->exponent, e = (h & 0x7fff) >> bits, m = h & ((1 << bits) - 1);
    double sign = h & 0x8000 ? -1 : 1;
    if (e == (1 << k->exponent) - 1)
        return m ? NAN : sign * INFINITY;
    return sign * ldexp(e ? m + (1 << bits) : m, (e ? e : 1) - k->bias - bits);
}

static uint16_t half_of(const struct half_kind *k, double x)
{
    float f = (float)x;
    uint16_t h;
    assert_true((double)f == x);
    int64_t bad = k->to(&f, 1, &h);
    assert_int_equal(bad, isinf(decode(k, h)) ? 0 : -1); /* x is finite */
    return h;
}

/* All codes: exactly read, and written again as they were, NaNs too; alone and in a row, aligned or not. */
static void halves_all(void **state)
{
    (void)state;
    static uint16_t code[1 << 16], again[1 << 16];
    static float value[1 << 16];
    static char odd[2 * (1 << 16) + 1];
    for (int i = 0; i < 1 << 16; i++)
        code[i] = (uint16_t)i;
    for (int k = 0; k < 2; k++) {
        const struct half_kind *h = &half_kinds[k];
        memcpy(odd + 1, code, sizeof code);
        h->from(odd + 1, 1 << 16, value);
        for (int i = 0; i < 1 << 16; i++) {
            double want = decode(h, code[i]);
            float alone;
            h->from(&code[i], 1, &alone);
            assert_memory_equal(&alone, &value[i], sizeof alone);
            assert_true(isnan(want) ? isnan(value[i]) : (double)value[i] == want);
            assert_int_equal(!!signbit(value[i]), i >> 15);
        }
        memset(odd, 0, sizeof odd);
        assert_int_equal(h->to(value, 1 << 16, odd + 1), -1);
        memcpy(again, odd + 1, sizeof again);
        assert_memory_equal(again, code, sizeof code);
        for (int i = 0; i < 1 << 16; i++)
            assert_true(h->to(&value[i], 1, &again[i]) == -1 && again[i] == code[i]);
    }
}

/* Half-way between any two neighbours the even one is taken; a step of fp32 beside it, the nearer one. */
static void halves_ties(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        const struct half_kind *h = &half_kinds[k];
        int infinite = ((1 << h->exponent) - 1) << (15 - h->exponent);
        for (int i = 0; i < infinite; i++) {
            double a = decode(h, (uint16_t)i), b = decode(h, (uint16_t)(i + 1));
            if (i + 1 == infinite) /* as if exponents went on */
                b = a + (a - decode(h, (uint16_t)(i - 1)));
            double middle = a + (b - a) / 2;
            float below = nextafterf((float)middle, 0), above = nextafterf((float)middle, INFINITY);
            int even = i & 1 ? i + 1 : i;
            for (int minus = 0; minus < 2; minus++) {
                double s = minus ? -1 : 1;
                assert_int_equal(half_of(h, s * middle), even | minus << 15);
                assert_int_equal(half_of(h, s * (double)below), i | minus << 15);
                assert_int_equal(half_of(h, s * (double)above), (i + 1) | minus << 15);
            }
        }
        float row[40], nan;
        uint16_t out[40];
        memcpy(&nan, &(uint32_t){ 0x7f800001 }, sizeof nan); /* its upper bits alone would be infinite */
        for (int i = 0; i < 40; i++)
            row[i] = i % 3 == 0 ? INFINITY : i % 3 == 1 ? nan : 1e-45f;
        assert_int_equal(h->to(row, 40, out), -1);
        for (int i = 0; i < 40; i++)
            assert_true(i % 3 == 0   ? out[i] == infinite
                        : i % 3 == 1 ? (out[i] & 0x7fff) > infinite
                                     : out[i] == 0);
        for (int i = 0; i < 40; i++) {
            float old = row[i];
            row[i] = -FLT_MAX;
            row[39] = FLT_MAX;
            assert_int_equal(h->to(row, 40, out), i);
            row[i] = old;
        }
        assert_int_equal(h->to(NULL, 0, NULL), -1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers),     cmocka_unit_test(config_files), cmocka_unit_test(philox),
        cmocka_unit_test(permutation), cmocka_unit_test(normals),      cmocka_unit_test(attributes),
        cmocka_unit_test(outputs),     cmocka_unit_test(refused_output),
        cmocka_unit_test(halves_all),   cmocka_unit_test(halves_ties),
    };
    err_init("base");
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
