/* bpe.c - tests of byte-level BPE: the ids of other people's programs, any cut, merges against the plain rule, hostile files
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
#include "common/base/mem.h"
#include "common/text/added.h"
#include "common/text/bpe.h"
#include "common/text/tokenizer.h"

static uint64_t draws;
static char *path; /* of a file that a test writes */

static uint32_t draw(uint32_t n)
{
    draws++;
    return (uint32_t)(hash_bytes(&draws, sizeof draws) % n);
}

static void read_file(const char *name, struct buf *out)
{
    char block[4096];
    size_t n;
    FILE *f = fopen(name, "rb");
    if (!f)
        fail_msg("cannot open '%s'", name);
    while ((n = fread(block, 1, sizeof block, f)) > 0)
        buf_add(out, block, n);
    fclose(f);
}

static void write_file(const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* ---- goldens ---- */

static const char *const goldens[] = { "gpt2", "neox", "llama3", "added" };
enum { GOLDENS = sizeof goldens / sizeof *goldens };

static struct tokenizer *open_golden(int i, enum tokenizer_specials specials)
{
    const char *top = getenv("SSM_TOP");
    char *folder = xasprintf("%s/tests/golden/tokenizer/%s", top ? top : ".", goldens[i]);
    struct tokenizer *t = tokenizer_try_open(folder, &(struct tokenizer_options){ .specials = specials });
    if (!t)
        fail_msg("%s", err_last());
    assert_string_equal(tokenizer_info(t)->name, goldens[i]);
    free(folder);
    return t;
}

/* The ids of a whole document in pieces of at most `most` bytes; 0: in one. */
static void encode(struct token_stream *s, const char *p, size_t n, size_t most, struct token_ids *ids)
{
    ids->n = 0;
    for (size_t at = 0, k; at < n; at += k) {
        k = most ? 1 + draw((uint32_t)most) : n;
        k = k < n - at ? k : n - at;
        char *exact = xmalloc(k); /* so that sanitizers see who reads beyond it */
        memcpy(exact, p + at, k);
        tokenizer_encode(s, exact, k, false, ids);
        free(exact);
    }
    tokenizer_encode(s, "", 0, true, ids);
}

static void test_goldens(void **state)
{
    (void)state;
    for (int g = 0; g < GOLDENS; g++) {
        const char *top = getenv("SSM_TOP");
        char *name = xasprintf("%s/tests/golden/tokenizer/%s/cases.bin", top ? top : ".", goldens[g]);
        struct buf cases = { 0 };
        read_file(name, &cases);
        free(name);
        for (int mode = 0; mode < 2; mode++) {
            struct tokenizer *t = open_golden(g, mode ? SPECIALS_PARSE : SPECIALS_TEXT);
            struct token_stream *s = token_stream_new(t);
            struct token_ids ids = { 0 };
            int n = 0;
            for (size_t at = 0; at < cases.len; n++) {
                static const size_t most[] = { 0, 1, 2, 3, 5, 8, 50 };
                uint32_t len[3];
                memcpy(len, cases.data + at, sizeof len);
                const char *text = cases.data + at + sizeof len,
                           *want = text + len[0] + (mode ? 2 * len[1] : 0);
                for (size_t k = 0; k < sizeof most / sizeof *most; k++) {
                    encode(s, text, len[0], most[k], &ids);
                    if (ids.n != len[1 + mode])
                        fail_msg("%s %d case %d, pieces of %zu: %zu ids, not %u", goldens[g], mode, n,
                                 most[k], ids.n, len[1 + mode]);
                    for (size_t i = 0; i < ids.n; i++) {
                        uint16_t id;
                        memcpy(&id, want + 2 * i, 2);
                        if (id != ids.id[i])
                            fail_msg("%s %d case %d, pieces of %zu: id %zu is %u, not %u", goldens[g], mode,
                                     n, most[k], i, ids.id[i], id);
                    }
                }
                at += sizeof len + len[0] + 2 * (size_t)(len[1] + len[2]);
            }
            assert_true(n > 50);
            token_ids_free(&ids);
            token_stream_free(s);
            tokenizer_free(t);
        }
        buf_free(&cases);
    }
}

/* Any bytes come back, where nothing is normalised or eaten by added tokens; and pieces do not matter for them. */
static void test_any_bytes(void **state)
{
    (void)state;
    for (int g = 0; g < GOLDENS; g++) {
        struct tokenizer *t = open_golden(g, SPECIALS_TEXT);
        struct token_stream *in = token_stream_new(t), *out = token_stream_new(t);
        struct token_ids ids = { 0 }, again = { 0 };
        struct buf back = { 0 };
        for (int round = 0; round < 400; round++) {
            static const char *const bits[] = { " ",        "  ",       "\n",    "a",    "the ",
                                                "\xc3\xa9", "\xcc\x81", "\xff",  "\xe3", "\x80",
                                                "\xf0\x9f", "<mask>",   "</s>",  "<",    "1",
                                                "'s",       "\xc2",     "e\xcc", "word", "<|endoftext|>" };
            struct buf text = { 0 };
            for (uint32_t k = draw(60); k > 0; k--) {
                const char *b = bits[draw(sizeof bits / sizeof *bits)];
                char c = (char)draw(256);
                if (draw(3))
                    buf_add(&text, b, strlen(b));
                else
                    buf_add(&text, &c, 1);
            }
            buf_add(&text, "", 0);
            encode(in, text.data, text.len, 0, &ids);
            encode(in, text.data, text.len, 1 + draw(4), &again);
            if (ids.n != again.n || (ids.n && memcmp(ids.id, again.id, ids.n * sizeof *ids.id) != 0)) {
                for (size_t i = 0; i < text.len; i++)
                    fprintf(stderr, "%02x", (unsigned char)text.data[i]);
                fail_msg("%s round %d: %zu ids, in pieces %zu", goldens[g], round, ids.n, again.n);
            }
            buf_clear(&back);
            assert_int_equal(tokenizer_try_decode(out, ids.id, ids.n, true, &back), 0);
            if (strcmp(goldens[g], "gpt2") == 0 || strcmp(goldens[g], "llama3") == 0) {
                assert_int_equal(back.len, text.len);
                assert_memory_equal(back.data, text.data, text.len);
            }
            buf_free(&text);
        }
        uint32_t beyond = (uint32_t)tokenizer_info(t)->vocab;
        assert_int_equal(tokenizer_try_decode(out, &beyond, 1, true, &back), -1);
        assert_non_null(strstr(err_last(), "not in the vocabulary"));
        buf_free(&back);
        token_ids_free(&ids);
        token_ids_free(&again);
        token_stream_free(in);
        token_stream_free(out);
        tokenizer_free(t);
    }
}

/* The hash tells apart what gives other ids, and finds the options again. */
static void test_hashes(void **state)
{
    uint64_t seen[2 * GOLDENS];
    (void)state;
    for (int g = 0; g < 2 * GOLDENS; g++) {
        struct tokenizer *t = open_golden(g / 2, g % 2 ? SPECIALS_PARSE : SPECIALS_TEXT);
        const struct tokenizer_info *info = tokenizer_info(t);
        const char *top = getenv("SSM_TOP");
        char *file =
            xasprintf("%s/tests/golden/tokenizer/%s/tokenizer.json", top ? top : ".", goldens[g / 2]);
        seen[g] = info->hash;
        for (int k = 0; k < g; k++)
            assert_true(seen[k] != seen[g]);
        struct tokenizer *same = tokenizer_try_open_same("here", file, info->hash, info->eod);
        assert_non_null(same);
        assert_string_equal(tokenizer_info(same)->name, goldens[g / 2]);
        tokenizer_free(same);
        assert_null(tokenizer_try_open_same("here", file, info->hash + 1, info->eod));
        assert_non_null(strstr(err_last(), "another tokenizer"));
        struct tokenizer *other = tokenizer_try_open(file, &(struct tokenizer_options){ .eod = "!" });
        assert_non_null(other);
        assert_true(tokenizer_info(other)->hash != info->hash && tokenizer_info(other)->eod != info->eod);
        tokenizer_free(other);
        assert_null(tokenizer_try_open(file, &(struct tokenizer_options){ .eod = "no such" }));
        assert_non_null(strstr(err_last(), "--eod"));
        free(file);
        tokenizer_free(t);
    }
}

/* ---- merges ---- */

struct plain_merge {
    uint32_t left, right, made;
};

/* The rule itself: of all pairs the one of the lowest rank, of equals the leftmost, until none merges. */
static size_t merge_plainly(const struct plain_merge *m, size_t n_merges, uint32_t *sym, size_t n)
{
    for (;;) {
        size_t best = n_merges, at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t k = 0; k < best; k++)
                if (m[k].left == sym[i] && m[k].right == sym[i + 1]) {
                    best = k;
                    at = i;
                }
        if (best == n_merges)
            return n;
        sym[at] = m[best].made;
        memmove(sym + at + 1, sym + at + 2, (n - at - 2) * sizeof *sym);
        n--;
    }
}

static void test_merges(void **state)
{
    enum { LONGEST = 400, MERGES = 60 };
    (void)state;
    for (int round = 0; round < 120; round++) {
        struct bpe *b = bpe_new();
        struct plain_merge m[MERGES];
        uint32_t base = draw(2) ? 0 : 1000; /* bytes first or tokens first: ids are not ranks */
        uint32_t letters = 1 + draw(4);
        size_t n_merges = 0;
        for (uint32_t i = 0; i < 256; i++) {
            char c = (char)i;
            assert_int_equal(bpe_try_add(b, i + base, &c, 1, true), 0);
        }
        for (int tries = 0; tries < 200 && n_merges < MERGES; tries++) {
            struct plain_merge *x = &m[n_merges];
            size_t l, r;
            x->left = n_merges && draw(2) ? m[draw((uint32_t)n_merges)].made : base + 'a' + draw(letters);
            x->right = n_merges && draw(2) ? m[draw((uint32_t)n_merges)].made : base + 'a' + draw(letters);
            struct buf joined = { 0 };
            const unsigned char *p = bpe_bytes(b, x->left, &l);
            buf_add(&joined, p, l);
            p = bpe_bytes(b, x->right, &r);
            buf_add(&joined, p, r);
            x->made = bpe_find(b, joined.data, joined.len);
            bool again = joined.len > 30; /* a pair that is there already, or too long */
            for (size_t k = 0; k < n_merges; k++)
                again |= m[k].left == x->left && m[k].right == x->right;
            if (!again && x->made == BPE_NONE) {
                x->made = (base ? 0 : 2000) + (uint32_t)(n_merges * 7 % 100);
                assert_int_equal(bpe_try_add(b, x->made, joined.data, joined.len, true), 0);
            }
            n_merges += !again;
            buf_free(&joined);
        }
        for (size_t k = 0; k < n_merges; k++)
            bpe_merge(b, m[k].left, m[k].right, m[k].made, (uint32_t)k);
        assert_int_equal(bpe_try_finish(b, false), 0);
        struct bpe_words *w = bpe_words_new(b);
        for (int words = 0; words < 60; words++) {
            unsigned char text[3 * LONGEST];
            uint32_t sym[LONGEST];
            size_t end[3], all = 0, want_n = 0;
            uint32_t want[3 * LONGEST];
            struct token_ids ids = { 0 };
            for (int k = 0; k < 3; k++) { /* three words, often the same as before */
                size_t n = 1 + draw(draw(3) ? 18 : draw(2) ? 130 : LONGEST - 1);
                for (size_t i = 0; i < n; i++) {
                    text[all + i] = (unsigned char)('a' + draw(letters));
                    sym[i] = base + text[all + i];
                }
                all += n;
                end[k] = all;
                n = merge_plainly(m, n_merges, sym, n);
                memcpy(want + want_n, sym, n * sizeof *sym);
                want_n += n;
            }
            unsigned char *exact = xmalloc(all);
            memcpy(exact, text, all);
            for (int times = 0; times < 3; times++) { /* new, then remembered */
                ids.n = 0;
                bpe_encode(w, exact, end, 3, &ids);
                assert_int_equal(ids.n, want_n);
                assert_memory_equal(ids.id, want, want_n * sizeof *want);
            }
            free(exact);
            token_ids_free(&ids);
        }
        bpe_words_free(w);
        bpe_free(b);
    }
}

/* Long words of few letters: time of order n log n, whatever they are. */
static void test_huge_words(void **state)
{
    (void)state;
    struct tokenizer *t = open_golden(0, SPECIALS_TEXT);
    struct token_stream *s = token_stream_new(t), *out = token_stream_new(t);
    struct token_ids ids = { 0 };
    enum { N = 2000000 };
    char *text = xmalloc(N);
    for (int kind = 0; kind < 3; kind++) {
        struct buf back = { 0 };
        for (size_t i = 0; i < N; i++)
            text[i] = kind == 0 ? 'a' : kind == 1 ? "th"[i % 2] : (char)('a' + draw(5));
        encode(s, text, N, 1 << 17, &ids);
        assert_int_equal(tokenizer_try_decode(out, ids.id, ids.n, true, &back), 0);
        assert_int_equal(back.len, N);
        assert_memory_equal(back.data, text, N);
        buf_free(&back);
    }
    free(text);
    token_ids_free(&ids);
    token_stream_free(s);
    token_stream_free(out);
    tokenizer_free(t);
}

/* ---- files ---- */

static void put_vocab(struct buf *b, int but)
{
    for (int i = 0, other = 0; i < 256; i++) {
        bool same = (i >= 0x21 && i <= 0x7e) || (i >= 0xa1 && i != 0xad);
        int c = same ? i : 256 + other++;
        if (i == but)
            continue;
        if (c == '"' || c == '\\')
            buf_addf(b, "\"\\%c\":%d,", c, i);
        else if (c < 128)
            buf_addf(b, "\"%c\":%d,", c, i);
        else
            buf_addf(b, "\"%c%c\":%d,", 0xc0 | c >> 6, 0x80 | (c & 63), i);
    }
}

/* A tokenizer.json with this in front, model keys, more vocabulary, merges, added tokens. */
static struct tokenizer *open_made(const char *front, const char *keys, const char *vocab, const char *merges,
                                   const char *added)
{
    struct buf b = { 0 };
    buf_addf(&b, "{%s\"added_tokens\":[%s],\"model\":{%s\"vocab\":{", front, added, keys);
    put_vocab(&b, -1);
    buf_addf(&b, "%s},\"merges\":[%s]}}", vocab, merges);
    write_file(b.data, b.len);
    buf_free(&b);
    return tokenizer_try_open(path, &(struct tokenizer_options){ .eod = "ab" });
}

#define BYTELEVEL "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
#define REFUSES(why, ...)                                                                                    \
    do {                                                                                                     \
        struct tokenizer *t_ = open_made(__VA_ARGS__);                                                       \
        assert_null(t_);                                                                                     \
        if (!strstr(err_last(), why) || !strstr(err_last(), path) || strchr(err_last(), '\n'))               \
            fail_msg("said '%s', not '%s'", err_last(), why);                                                \
    } while (0)

/* GPT-NeoX's file has no tokens for the thirteen bytes that UTF-8 does not use; none of the others may be absent. */
static void test_gaps(void **state)
{
    (void)state;
    for (int but = 0; but < 256; but++) {
        struct buf b = { 0 };
        buf_addf(&b, "{%s\"model\":{\"vocab\":{", BYTELEVEL);
        put_vocab(&b, but);
        buf_addf(&b, "\"ab\":256},\"merges\":[\"a b\"]}}");
        write_file(b.data, b.len);
        buf_free(&b);
        struct tokenizer *t = tokenizer_try_open(path, &(struct tokenizer_options){ .eod = "ab" });
        if (but != 0xc0 && but != 0xc1 && but < 0xf5) {
            assert_null(t);
            continue;
        }
        if (!t)
            fail_msg("%s", err_last());
        struct token_stream *s = token_stream_new(t);
        struct token_ids ids = { 0 };
        char text[200];
        memset(text, but, sizeof text); /* as a short word and as a long one */
        memcpy(text, "ab \xe4", 4);
        memcpy(text + 10, "ab", 2);
        memcpy(text + 198, "ab", 2);
        const uint32_t want[] = { 256, ' ', 0xe4, 256, 256 };
        for (size_t most = 0; most < 4; most++) {
            encode(s, text, sizeof text, most, &ids);
            assert_int_equal(ids.n, 5);
            assert_memory_equal(ids.id, want, sizeof want);
        }
        token_ids_free(&ids);
        token_stream_free(s);
        tokenizer_free(t);
    }
}

static void test_hostile_json(void **state)
{
    static const char two[] = "\"ab\":256,\"abc\":257", merges[] = "\"a b\",[\"ab\",\"c\"]";
    (void)state;
    struct tokenizer *t =
        open_made(BYTELEVEL, "\"unk_token\":\"\",\"dropout\":0.0,\"byte_fallback\":false,", two, merges, "");
    if (!t)
        fail_msg("%s", err_last());
    assert_int_equal(tokenizer_info(t)->eod, 256);
    assert_int_equal(tokenizer_info(t)->vocab, 258);
    tokenizer_free(t);
    REFUSES("'dropout'", BYTELEVEL, "\"dropout\":0.1,", two, merges, "");
    REFUSES("'unk_token'", BYTELEVEL, "\"unk_token\":\"a\",", two, merges, "");
    REFUSES("'byte_fallback'", BYTELEVEL, "\"byte_fallback\":true,", two, merges, "");
    REFUSES("'fuse_unk'", BYTELEVEL, "\"fuse_unk\":true,", two, merges, "");
    REFUSES("'continuing_subword_prefix'", BYTELEVEL, "\"continuing_subword_prefix\":\"##\",", two, merges,
            "");
    REFUSES("'end_of_word_suffix'", BYTELEVEL, "\"end_of_word_suffix\":\"</w>\",", two, merges, "");
    REFUSES("Unigram", BYTELEVEL, "\"type\":\"Unigram\",", two, merges, "");
    REFUSES("WordPiece", BYTELEVEL, "\"type\":\"WordPiece\",", two, merges, "");
    REFUSES("'ignore_merges'", BYTELEVEL, "\"ignore_merges\":1,", two, merges, "");
    REFUSES("comes twice", BYTELEVEL, "", "\"ab\":256,\"abc\":256", merges, "");
    REFUSES("integer from 0", BYTELEVEL, "", "\"ab\":-1", "", "");
    REFUSES("integer from 0", BYTELEVEL, "", "\"ab\":4000000000", "", "");
    REFUSES("integer from 0", BYTELEVEL, "", "\"ab\":\"256\"", "", "");
    REFUSES("has 0 bytes", BYTELEVEL, "", "\"ab\":256,\"\":300", "", "");
    REFUSES("merges[1]", BYTELEVEL, "", two, "\"a b\",\"ab d\"", "");
    REFUSES("merges[0]: 'zz' is not", BYTELEVEL, "", two, "\"zz b\"", "");
    REFUSES("merges[0]: 'zz' is not", BYTELEVEL, "", two, "[\"b\",\"zz\"]", "");
    REFUSES("merges[0]", BYTELEVEL, "", two, "\"ab\"", "");
    REFUSES("merges[0]", BYTELEVEL, "", two, "\"a b c\"", "");
    REFUSES("merges[0]", BYTELEVEL, "", two, "[\"a\"]", "");
    REFUSES("merges[0]", BYTELEVEL, "", two, "[\"a\",5]", "");
    REFUSES("merges[0]", BYTELEVEL, "", two, "7", "");
    REFUSES("ByteLevel", "", "", two, merges, "");
    REFUSES("decoder", BYTELEVEL "\"decoder\":{\"type\":\"WordPiece\"},", "", two, merges, "");
#define ADDED(id, text, more) "{\"id\":" id ",\"content\":\"" text "\",\"special\":true" more "}"
    t = open_made(BYTELEVEL, "", two, merges, ADDED("258", "<x>", "") "," ADDED("256", "ab", ""));
    if (!t)
        fail_msg("%s", err_last());
    tokenizer_free(t);
    REFUSES("added_tokens[0]: 'id'", BYTELEVEL, "", two, merges, ADDED("259", "<x>", ""));
    REFUSES("added_tokens[0]: 'id'", BYTELEVEL, "", two, merges, ADDED("12", "ab", ""));
    REFUSES("added_tokens[1]", BYTELEVEL, "", two, merges,
            ADDED("258", "<x>", "") "," ADDED("259", "<x>", ""));
    REFUSES("added_tokens[0]", BYTELEVEL, "", two, merges, ADDED("258", "", ""));
    REFUSES("'lstrip'", BYTELEVEL, "", two, merges, ADDED("258", "<x>", ",\"lstrip\":3"));
    REFUSES("added_tokens[0]", BYTELEVEL, "", two, merges, "[]");
    REFUSES("added_tokens[0]", BYTELEVEL, "", two, merges, "{\"id\":258}");
    REFUSES("line 1", BYTELEVEL "}", "", two, merges, "");
    struct buf b = { 0 };
    buf_addf(&b, "{%s\"model\":{\"vocab\":{", BYTELEVEL);
    put_vocab(&b, 0xad);
    buf_addf(&b, "\"ab\":256},\"merges\":[]}}");
    write_file(b.data, b.len);
    assert_null(tokenizer_try_open(path, NULL));
    assert_non_null(strstr(err_last(), "0xad"));
    buf_free(&b);
    for (const char *const *bad = (const char *const[]){ "", "[]", "{}", "{\"model\":3}", "null",
                                                         "{\"model\":{\"vocab\":{}}}", NULL };
         *bad; bad++) {
        write_file(*bad, strlen(*bad));
        assert_null(tokenizer_try_open(path, NULL));
        assert_non_null(strstr(err_last(), path));
    }
    assert_null(tokenizer_try_open("/nowhere/at/all", NULL));
    assert_non_null(strstr(err_last(), "/nowhere/at/all"));
}

static void base64(const unsigned char *p, size_t n, struct buf *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t bits =
            (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0);
        char four[4] = { digits[bits >> 18], digits[bits >> 12 & 63], digits[bits >> 6 & 63],
                         digits[bits & 63] };
        if (i + 1 >= n)
            four[2] = '=';
        if (i + 2 >= n)
            four[3] = '=';
        buf_add(out, four, 4);
    }
}

static struct tokenizer *open_ranks(const char *name, const char *more)
{
    struct buf b = { 0 };
    for (int i = 0; i < 256; i++) {
        unsigned char c = (unsigned char)i;
        base64(&c, 1, &b);
        buf_addf(&b, " %d\n", i);
    }
    buf_add(&b, more, strlen(more));
    write_file(b.data, b.len);
    buf_free(&b);
    char *spec = xasprintf("tiktoken:%s:%s", name, path);
    struct tokenizer *t = tokenizer_try_open(spec, NULL);
    free(spec);
    return t;
}

static void test_ranks(void **state)
{
    (void)state;
    /* aa 300, abc 299, abab 302: "abab" is found as a whole word only; aaa is aa a, the leftmost pair first */
    struct tokenizer *t = open_ranks("gpt2", "YWE= 300\r\n\nYWJj 299\nYWJhYg== 302\nYmM= 400");
    if (!t)
        fail_msg("%s", err_last());
    assert_string_equal(tokenizer_info(t)->name, "gpt2");
    assert_int_equal(tokenizer_info(t)->eod, 50256);
    assert_int_equal(tokenizer_info(t)->vocab, 50257);
    struct token_stream *s = token_stream_new(t);
    struct token_ids ids = { 0 };
    encode(s, "aaabc1abab\nabab", 14, 0, &ids);
    /* aaabc: aa a bc, as rank 300 goes before 400; then a bc is abc */
    static const uint32_t want[] = { 300, 299, '1', 302, '\n', 'a', 'b', 'a' };
    assert_int_equal(ids.n, sizeof want / sizeof *want);
    assert_memory_equal(ids.id, want, sizeof want);
    token_ids_free(&ids);
    token_stream_free(s);
    tokenizer_free(t);
    static const struct {
        const char *more, *why;
    } bad[] = { { "YWE= 255\n", "twice" },      { "YWE= 300\nYWE= 301\n", "same bytes" },
                { "YWE 300\n", "base64" },      { "YWE= -1\n", "rank" },
                { "YWE= 99999999\n", "above" }, { "YWE= 18446744073709551617\n", "rank" },
                { "YWE=300\n", "base64" },      { "YW=E 300\n", "base64" },
                { "YWF= 300\n", "base64" },     { "YWE= 300 4\n", "rank" },
                { " 300\n", "base64" },         { "YWE= \n", "rank" },
                { "YWE= 50256\n", "endoftext" } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_null(open_ranks("gpt2", bad[i].more));
        if (!strstr(err_last(), bad[i].why) || !strstr(err_last(), path))
            fail_msg("%zu: said '%s', not '%s'", i, err_last(), bad[i].why);
    }
    assert_null(open_ranks("gpt5", ""));
    assert_non_null(strstr(err_last(), "cl100k"));
    assert_null(tokenizer_try_open("tiktoken:gpt2:/nowhere", NULL));
    assert_non_null(strstr(err_last(), "/nowhere"));
}

/* ---- added tokens ---- */

static struct buf heard;
static void hear_text(void *to, const unsigned char *p, size_t n)
{
    (void)to;
    assert_true(n > 0);
    buf_add(&heard, p, n);
}
static void hear_token(void *to, uint32_t id)
{
    (void)to;
    buf_addf(&heard, "[%u]", id);
}

static void test_added(void **state)
{
    static const struct added_sink sink = { hear_text, hear_token };
    static const struct {
        const char *text, *want;
    } cases[] = {
        { "a<x><xx>b", "a[1][2]b" },
        { "<<x<x", "<<x<x" },
        { "<skip<x>>", "<skip[1]>" },
        { "<skip><x>", "<skip>[1]" },
        { "a \t\xe3\x80\x80<l> b", "a[3] b" },
        { "one,onely one_ one\xc3\xa9 \xc3\xa9one one", "[4],onely one_ one\xc3\xa9 \xc3\xa9one [4]" },
        { "  <l>  <l>\xe3\x80", "[3][3]\xe3\x80" },
        { "<", "<" },
        { "", "" },
    };
    (void)state;
    struct added *a = added_new();
    assert_int_equal(added_try_add(a, "<x>", 3, &(struct added_token){ .id = 1 }), 0);
    assert_int_equal(added_try_add(a, "<xx>", 4, &(struct added_token){ .id = 2 }), 0);
    assert_int_equal(added_try_add(a, "<l>", 3, &(struct added_token){ .id = 3, .lstrip = true }), 0);
    assert_int_equal(added_try_add(a, "one", 3, &(struct added_token){ .id = 4, .single_word = true }), 0);
    assert_int_equal(added_try_add(a, "<skip>", 6, &(struct added_token){ .id = 5, .skip = true }), 0);
    assert_int_equal(added_try_add(a, "<x>", 3, &(struct added_token){ .id = 6 }), -1);
    assert_int_equal(added_try_finish(a), 0);
    struct added_scan *s = added_scan_new(a);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int round = 0; round < 50; round++) {
            size_t n = strlen(cases[i].text);
            buf_clear(&heard);
            buf_add(&heard, "", 0);
            for (size_t at = 0, k; at < n; at += k) {
                k = 1 + draw(round ? 4 : 100);
                k = k < n - at ? k : n - at;
                added_feed(s, cases[i].text + at, k, false, &sink, NULL);
            }
            added_feed(s, "", 0, true, &sink, NULL);
            assert_string_equal(heard.data, cases[i].want);
        }
    added_scan_free(s);
    added_free(a);
    buf_free(&heard);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gaps),     cmocka_unit_test(test_goldens),    cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_hashes),     cmocka_unit_test(test_merges),
        cmocka_unit_test(test_huge_words), cmocka_unit_test(test_hostile_json),
        cmocka_unit_test(test_ranks),      cmocka_unit_test(test_added),
    };
    err_init("bpe");
    const char *tmp = getenv("TMPDIR");
    path = xasprintf("%s/ssm-bpe.%ld", tmp ? tmp : "/tmp", (long)getpid());
    cmocka_set_message_output(CM_OUTPUT_TAP);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    free(path);
    return failed;
}
