/* bpe_train.c - merges learnt from counted words: as Hugging Face's BpeTrainer, and as plainly as can be
 * SPDX-License-Identifier: MIT
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/err.h"
#include "common/base/hash.h"
#include "common/base/json.h"
#include "common/base/mem.h"
#include "common/text/bpe_train.h"
#include "common/text/tally.h"

static uint64_t draws;

static uint32_t draw(uint32_t n)
{
    draws++;
    return (uint32_t)(hash_bytes(&draws, sizeof draws) % n);
}

static void add(struct tally *t, const char *word, int64_t times)
{
    assert_int_equal(tally_try_add(t, word, strlen(word), times), 0);
}

static void test_tally(void **state)
{
    (void)state;
    struct tally *t = tally_new(1 << 20);
    int64_t want[3000] = { 0 }, times, total = 0;
    size_t n, distinct = 0;
    char word[16];
    for (int i = 0; i < 20000; i++) {
        uint32_t k = draw(1 + draw(3000));
        distinct += want[k] == 0;
        want[k] += 1 + i % 3;
        total += 1 + i % 3;
        snprintf(word, sizeof word, "w%u", (unsigned)k);
        add(t, word, 1 + i % 3);
    }
    assert_int_equal(tally_words(t), distinct);
    assert_int_equal(tally_total(t), total);
    for (size_t i = 0; i < distinct; i++) {
        const unsigned char *w = tally_word(t, i, &n, &times);
        snprintf(word, sizeof word, "%.*s", (int)n, (const char *)w);
        assert_int_equal(times, want[strtol(word + 1, NULL, 10)]);
    }
    tally_free(t);
}

static void test_tally_is_bounded(void **state)
{
    (void)state;
    struct tally *t = tally_new(10 * (TALLY_WORD + 2));
    char word[16];
    for (int i = 10; i < 20; i++) {
        snprintf(word, sizeof word, "%d", i);
        add(t, word, 1);
        add(t, word, 1);
    }
    assert_int_equal(tally_try_add(t, "20", 2, 1), -1);
    assert_non_null(strstr(err_last(), "11 distinct words"));
    tally_free(t);
}

static void test_letters(void **state)
{
    unsigned short letter[256];
    (void)state;
    bpe_letters(letter);
    assert_int_equal(letter[' '], 0x120);
    assert_int_equal(letter['\n'], 0x10a);
    assert_int_equal(letter['!'], '!');
    assert_int_equal(letter[0x7f], 0x121);
    assert_int_equal(letter[0xa0], 0x142);
    assert_int_equal(letter[0xad], 0x143);
    assert_int_equal(letter[0xff], 0xff);
}

/* ---- against one that counts everything anew for each merge ---- */

enum { MOST = 40, WORDS = 30 };
struct plain {
    uint32_t s[WORDS][MOST];
    size_t n[WORDS];
    int64_t times[WORDS];
};

static int64_t occurrences(const struct plain *p, uint32_t a, uint32_t b)
{
    int64_t sum = 0;
    for (int w = 0; w < WORDS; w++)
        for (size_t i = 0; i + 1 < p->n[w]; i++)
            sum += p->s[w][i] == a && p->s[w][i + 1] == b ? p->times[w] : 0;
    return sum;
}

static void merge_plainly(struct plain *p, uint32_t a, uint32_t b, uint32_t c)
{
    for (int w = 0; w < WORDS; w++) {
        size_t to = 0;
        for (size_t i = 0; i < p->n[w]; i++) {
            bool both = i + 1 < p->n[w] && p->s[w][i] == a && p->s[w][i + 1] == b;
            p->s[w][to++] = both ? c : p->s[w][i];
            i += both;
        }
        p->n[w] = to;
    }
}

/* No string comes about twice here, so that the plain rules are all there is. */
static void test_plain_rules(void **state)
{
    (void)state;
    for (int round = 0; round < 200; round++) {
        static struct plain p;
        struct tally *t = tally_new(1 << 20);
        int letters = 2 + (int)draw(4);
        memset(&p, 0, sizeof p);
        for (int w = 0; w < WORDS; w++) {
            char word[MOST + 1];
            size_t n = draw(MOST - 2);
            for (size_t i = 0; i < n; i++)
                word[i] = (char)('a' + (int)draw((uint32_t)letters));
            snprintf(word + n, sizeof word - n, "%d", w % 10);
            word[n + 1] = '\0';
            p.n[w] = n + 1;
            p.times[w] = 1 + draw(5);
            for (size_t i = 0; i <= n; i++) /* ids of bytes: '!' is 0 */
                p.s[w][i] = (uint32_t)(word[i] - '!');
            add(t, word, p.times[w]);
        }
        struct bpe_train o = { .vocab = 256 + 60, .least = 2 };
        struct bpe_learnt *b = bpe_learn(&o, t);
        for (size_t m = 0;; m++) {
            uint32_t best[2] = { 0, 0 };
            int64_t most = 0;
            for (int w = 0; w < WORDS; w++)
                for (size_t i = 0; i + 1 < p.n[w]; i++) {
                    uint32_t x = p.s[w][i], y = p.s[w][i + 1];
                    int64_t k = occurrences(&p, x, y);
                    if (k > most || (k == most && (x < best[0] || (x == best[0] && y < best[1])))) {
                        most = k;
                        best[0] = x;
                        best[1] = y;
                    }
                }
            if (most < o.least || m == 60) {
                assert_int_equal(b->n_merges, m);
                break;
            }
            assert_true(m < b->n_merges);
            assert_memory_equal(b->merge[m], best, sizeof best);
            merge_plainly(&p, best[0], best[1], (uint32_t)(256 + m));
        }
        assert_int_equal(b->n_tokens, 256 + b->n_merges);
        bpe_learnt_free(b);
        tally_free(t);
    }
}

/* ---- against BpeTrainer: tests/oracle/bpe_train.py ---- */

/* The golden files have the words too, so that this is about the learning alone. */
static void check_golden(const char *name)
{
    const char *top = getenv("SSM_TOP");
    char *path = xasprintf("%s/tests/golden/bpe_train/%s.json", top ? top : ".", name);
    if (access(path, R_OK) < 0) /* as in a bundle */
        skip();
    struct json *j = json_try_file(path, 1 << 20);
    if (!j)
        fail_msg("%s", err_last());
    struct bpe_train o = { 0 };
    const char **specials, **tokens;
    const struct json *words, *merges;
    size_t n_tokens;
    assert_int_equal(json_try_int(j, "vocab", 256, 1 << 20, &o.vocab), 1);
    assert_int_equal(json_try_int(j, "least", 0, 1 << 20, &o.least), 1);
    assert_int_equal(json_try_strs(j, "specials", &specials, &o.n_specials), 1);
    assert_int_equal(json_try_strs(j, "tokens", &tokens, &n_tokens), 1);
    assert_int_equal(json_try_map(j, "words", &words), 1);
    assert_int_equal(json_try_list(j, "merges", &merges), 1);
    o.specials = specials;
    struct tally *t = tally_new(1 << 24);
    const char *word;
    const struct json *v;
    for (const void *it = json_next(words, NULL, &word, &v); it; it = json_next(words, it, &word, &v)) {
        int64_t times;
        assert_int_equal(json_try_int_of(v, word, 1, INT64_MAX, &times), 0);
        add(t, word, times);
    }
    struct bpe_learnt *b = bpe_learn(&o, t);
    assert_int_equal(b->n_tokens, n_tokens);
    for (size_t i = 0; i < n_tokens; i++)
        assert_string_equal(b->token[i], tokens[i]);
    assert_int_equal(b->n_merges, json_count(merges));
    for (size_t i = 0; i < b->n_merges; i++)
        for (size_t k = 0; k < 2; k++) {
            const char *s;
            assert_int_equal(json_try_str_of(json_item(json_item(merges, i), k), "merge", &s), 0);
            assert_string_equal(b->token[b->merge[i][k]], s);
        }
    bpe_learnt_free(b);
    tally_free(t);
    free(specials);
    free(tokens);
    json_free(j);
    free(path);
}

static void test_as_hugging_face(void **state)
{
    (void)state;
    check_golden("plain");
    check_golden("runs");
    check_golden("clash");
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_tally), cmocka_unit_test(test_tally_is_bounded),
                                        cmocka_unit_test(test_letters), cmocka_unit_test(test_plain_rules),
                                        cmocka_unit_test(test_as_hugging_face) };
    err_init("bpe_train");
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
