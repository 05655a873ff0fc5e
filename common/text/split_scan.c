/* split_scan.c - the known patterns, by hand
 * SPDX-License-Identifier: MIT
 *
 * Each scanner is one regular expression whose alternatives are told apart by the class of a word's first one or two
 * characters, so nothing is tried twice. A word is certain when the character behind it is there: no rule looks
 * further, but for contractions and the runs that say so. All loops go forward; what is looked at beyond a word's end
 * is looked at again at most twice.
 */
#include "split_private.h"

#include <string.h>

#include "common/base/err.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

size_t split_whole_chars(const unsigned char *p, size_t n)
{
    size_t back = 0;
    while (back < n && back < 3 && (p[n - 1 - back] & 0xc0) == 0x80)
        back++;
    if (back == n)
        return n;
    unsigned a = p[n - 1 - back];
    size_t len = a >= 0xf0 ? 4 : a >= 0xe0 ? 3 : a >= 0xc0 ? 2 : 1;
    return len > back + 1 ? n - 1 - back : n;
}

/* ASCII by class; the rest is decoded. */
#define X C_OTHER
#define S C_SPACE
#define L C_LINE
#define N C_NUMBER
#define U C_UPPER
#define W C_LOWER
static const unsigned char ascii[128] = {
    X, X, X, X, X, X, X, X, X, S, L, S, S, L, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X,
    S, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, N, N, N, N, N, N, N, N, N, N, X, X, X, X, X, X,
    X, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, X, X, X, X, X,
    X, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, W, X, X, X, X, X,
};
#undef X
#undef S
#undef L
#undef N
#undef U
#undef W

INLINE unsigned class_at(const unsigned char *p, size_t n, size_t i, size_t *len)
{
    if (p[i] < 0x80) {
        *len = 1;
        return ascii[p[i]];
    }
    return split_class[split_kind_of(split_decode(p + i, n - i, len))];
}

INLINE bool is_letter(unsigned c) { return c - 1 < 3; }
INLINE bool is_space(unsigned c) { return c >= C_SPACE; }
INLINE bool is_other(unsigned c) { return c == C_OTHER || c == C_MARK; }

/* The end of a run of ASCII letters; `most` bytes of it may be looked at. */
INLINE size_t ascii_letters(const unsigned char *p, size_t n, size_t i)
{
#ifdef __SSE2__
    for (; i + 16 <= n; i += 16) {
        __m128i c =
            _mm_or_si128(_mm_loadu_si128((const __m128i *)(const void *)(p + i)), _mm_set1_epi8(0x20));
        /* 'a'..'z' moved to the lowest signed bytes */
        __m128i low = _mm_add_epi8(c, _mm_set1_epi8((char)(128 - 'a')));
        unsigned is = (unsigned)_mm_movemask_epi8(_mm_cmplt_epi8(low, _mm_set1_epi8(-128 + 26)));
        if (is != 0xffff)
            return i + (size_t)__builtin_ctz(~is);
    }
#endif
    while (i < n && (unsigned)(p[i] | 0x20) - 'a' < 26)
        i++;
    return i;
}

INLINE size_t letters(const unsigned char *p, size_t n, size_t i)
{
    for (;;) {
        i = ascii_letters(p, n, i);
        if (i >= n || p[i] < 0x80)
            return i;
        size_t len;
        while (i < n && p[i] >= 0x80) {
            if (!is_letter(class_at(p, n, i, &len)))
                return i;
            i += len;
        }
    }
}

INLINE size_t numbers(const unsigned char *p, size_t n, size_t i, size_t most)
{
    for (size_t len; most > 0 && i < n && class_at(p, n, i, &len) == C_NUMBER; most--)
        i += len;
    return i;
}

INLINE size_t others(const unsigned char *p, size_t n, size_t i)
{
    for (size_t len; i < n && is_other(class_at(p, n, i, &len));)
        i += len;
    return i;
}

/* The end of a run of white space, where its last character begins, where its last line end ends (0: none). */
INLINE size_t spaces(const unsigned char *p, size_t n, size_t i, size_t *last_char, size_t *line)
{
    *line = 0;
    *last_char = i;
    for (size_t len; i < n; i += len) {
        unsigned c = class_at(p, n, i, &len);
        if (!is_space(c))
            break;
        *last_char = i;
        if (c == C_LINE)
            *line = i + len;
    }
    return i;
}

enum { NEED = -1 };
/* The length of 's 't 're 've 'm 'll 'd at p, which begins with an apostrophe; 0, or NEED more text. (?i:s) is also
 * the long s, U+017F. */
INLINE int contraction(const unsigned char *p, size_t n, bool last, bool any_case)
{
    if (n < 2)
        return last ? 0 : NEED;
    unsigned c = p[1], second = 0;
    if (any_case && c - 'A' < 26)
        c |= 0x20;
    switch (c) {
    case 's':
    case 't':
    case 'm':
    case 'd':
        return 2;
    case 'r':
    case 'v':
        second = 'e';
        break;
    case 'l':
        second = 'l';
        break;
    case 0xc5:
        return any_case && n > 2 && p[2] == 0xbf ? 3 : 0;
    default:
        return 0;
    }
    if (n < 3)
        return last ? 0 : NEED;
    return p[2] == second || (any_case && p[2] == (second ^ 0x20)) ? 3 : 0;
}

/* ---- 64 bytes at once ---- */

enum block_rules { RULES_GPT2, RULES_CL100K, RULES_O200K };
enum { BLOCK = 64 };

#ifdef __SSE2__
struct masks {
    uint64_t upper, letter, digit, blank, space, line, slash, quote,
        high; /* blank is ' ', space the other white space */
};

INLINE uint64_t below(__m128i c, char from, char n)
{
    __m128i low = _mm_add_epi8(c, _mm_set1_epi8((char)(128 - from)));
    return (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmplt_epi8(low, _mm_set1_epi8((char)(n - 128))));
}

INLINE uint64_t equal(__m128i c, char to)
{
    return (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(c, _mm_set1_epi8(to)));
}

INLINE struct masks look(const unsigned char *p, enum block_rules rules)
{
    struct masks m = { 0 };
    for (int i = 0; i < BLOCK; i += 16) {
        __m128i c = _mm_loadu_si128((const __m128i *)(const void *)(p + i));
        m.letter |= below(_mm_or_si128(c, _mm_set1_epi8(0x20)), 'a', 26) << i;
        m.digit |= below(c, '0', 10) << i;
        m.blank |= equal(c, ' ') << i;
        m.space |= below(c, '\t', 5) << i;
        m.quote |= equal(c, '\'') << i;
        m.high |= (uint64_t)(unsigned)_mm_movemask_epi8(c) << i;
        if (rules != RULES_GPT2)
            m.line |= (equal(c, '\n') | equal(c, '\r')) << i;
        if (rules == RULES_O200K) {
            m.upper |= below(c, 'A', 26) << i;
            m.slash |= equal(c, '/') << i;
        }
    }
    return m;
}

INLINE size_t first_bit(uint64_t m) { return m ? (size_t)__builtin_ctzll(m) : BLOCK; }

/* Where words begin behind p, where one begins: bits of 64 bytes, as far as ASCII and these 64 bytes tell. What depends
 * on more ends it: other characters, contractions, digits by threes, line ends. Each line is a rule of the
 * expressions at the end of this file; << 1 asks for the character before. */
INLINE uint64_t begins(const unsigned char *p, enum block_rules rules, size_t *high)
{
    struct masks m = look(p, rules);
    uint64_t white = m.blank | m.space, other = ~(m.letter | m.digit | white | m.high);
    uint64_t other_begins = other & ~(other << 1) & ~(m.blank << 1);
    uint64_t begin = other_begins | (white & (~(white << 1) | ~(white >> 1)));
    size_t end = first_bit(m.high);
    *high = end;
    end = end > 0 ? end - 1 : 0; /* the last one has to know its next */
    end = end < BLOCK - 1 ? end : BLOCK - 1;
    size_t stop = BLOCK;
    if (rules == RULES_GPT2) {
        begin |= m.letter & ~((m.letter | m.blank) << 1);
        begin |= m.digit & ~((m.digit | m.blank) << 1);
        stop = first_bit(m.quote & other_begins) + 1;
    } else {
        begin |= m.letter & ~((m.letter | m.blank | (m.space & ~m.line) | other_begins) << 1);
        begin |= m.digit & ~(m.digit << 1);
        size_t digits = first_bit(m.digit & m.digit << 1 & m.digit << 2 & m.digit << 3);
        /* Line ends belong to the signs before them, else to the white space before them, up to the last one in it. */
        uint64_t plain = white & ~m.line, behind = plain & (m.line << 1);
        begin &= ~(m.line & (white | other) << 1);
        begin |= behind;
        size_t line = BLOCK;
        uint64_t run = plain + behind; /* carries to what stands behind white space behind a line end */
        if (m.line && (run < plain || (run & ~plain & (m.line | m.high)) || (m.slash & m.line << 1)))
            line = first_bit(m.line);
        size_t quote;
        if (rules == RULES_CL100K) {
            quote = first_bit(m.quote & other_begins) + 1;
        } else {
            begin |= m.upper & (m.letter & ~m.upper) << 1;
            quote = first_bit(m.quote & m.letter << 1);
        }
        stop = digits < line ? digits : line;
        stop = quote < stop ? quote : stop;
    }
    end = stop < end ? stop : end;
    return begin & ((UINT64_C(1) << end) - 1) & ~UINT64_C(1);
}

/* Words from *s on, as many as blocks tell. Where other characters are, it is not tried again before *next. */
INLINE size_t by_blocks(const unsigned char *p, size_t n, size_t *s, size_t *next, enum block_rules rules,
                        size_t *end, size_t k, size_t max)
{
    while (*s >= *next && n - *s >= BLOCK && max - k >= BLOCK) {
        size_t high, at = *s;
        uint64_t bits = begins(p + at, rules, &high);
        if (high < BLOCK / 2)
            *next = at + high + BLOCK;
        if (!bits)
            break;
        do {
            end[k++] = at + (size_t)__builtin_ctzll(bits);
            bits &= bits - 1;
        } while (bits);
        *s = end[k - 1];
    }
    return k;
}
#else
INLINE size_t by_blocks(const unsigned char *p, size_t n, size_t *s, size_t *next, enum block_rules rules,
                        size_t *end, size_t k, size_t max)
{
    (void)p, (void)n, (void)s, (void)next, (void)rules, (void)end, (void)max;
    return k;
}
#endif

/* ---- GPT-2 ---- */

static size_t gpt2(const unsigned char *p, size_t n, bool last, size_t *end, size_t max)
{
    size_t k = 0;
    for (size_t s = 0, next_try = 0, e, len; s < n && k < max; s = e) {
        k = by_blocks(p, n, &s, &next_try, RULES_GPT2, end, k, max);
        if (k == max)
            break;
        size_t j = s + (p[s] == ' ' && s + 1 < n);
        unsigned c = class_at(p, n, j, &len);
        if (is_letter(c)) {
            e = letters(p, n, j + len);
        } else if (p[s] == '\'') {
            int cut = contraction(p + s, n - s, last, false);
            if (cut == NEED)
                break;
            e = cut ? s + (size_t)cut : others(p, n, s + 1);
        } else if (c == C_NUMBER) {
            e = numbers(p, n, j + len, SIZE_MAX);
        } else if (!is_space(c)) {
            e = others(p, n, j + len);
        } else {
            size_t tail, line;
            e = spaces(p, n, s, &tail, &line);
            if (e < n && tail > s)
                e = tail;
            else if (e == n && !last)
                break;
        }
        if (e == n && !last)
            break;
        end[k++] = e;
    }
    return k;
}

/* ---- cl100k and its kin ---- */

/* White space from s on, of which the first character belongs to no other word: *e. False: need more. `to_end`: what
 * reaches the end of the text is one word, else only what is behind its last line end. */
INLINE bool blanks(const unsigned char *p, size_t n, size_t s, bool last, bool to_end, size_t *e)
{
    size_t tail, line;
    size_t t = spaces(p, n, s, &tail, &line);
    if (t == n && !last)
        return false;
    if (t == n && to_end)
        *e = t;
    else if (line)
        *e = line;
    else
        *e = t < n && tail > s ? tail : t;
    return true;
}

INLINE size_t cl100k(const unsigned char *p, size_t n, bool last, size_t *end, size_t max, size_t digits,
                     bool to_end)
{
    size_t k = 0;
    for (size_t s = 0, next_try = 0, e, len, len2; s < n && k < max; s = e) {
        if (digits == 3)
            k = by_blocks(p, n, &s, &next_try, RULES_CL100K, end, k, max);
        if (k == max)
            break;
        unsigned c = class_at(p, n, s, &len);
        if (is_letter(c)) {
            e = letters(p, n, s + len);
        } else if (c == C_NUMBER) {
            e = numbers(p, n, s + len, digits - 1);
        } else {
            int cut = p[s] == '\'' ? contraction(p + s, n - s, last, true) : 0;
            if (cut == NEED)
                break;
            size_t j = s + len;
            unsigned next = j < n ? class_at(p, n, j, &len2) : C_LINE;
            if (cut) {
                e = s + (size_t)cut;
            } else if (c != C_LINE && is_letter(next)) {
                e = letters(p, n, j + len2);
            } else if (is_other(c) || (p[s] == ' ' && is_other(next))) {
                e = others(p, n, j);
                while (e < n && (p[e] == '\n' || p[e] == '\r'))
                    e++;
            } else if (!blanks(p, n, s, last, to_end, &e)) {
                break;
            }
        }
        if (e == n && !last)
            break;
        end[k++] = e;
    }
    return k;
}

/* ---- o200k ---- */

/* Letters and marks in the two kinds that overlap. */
INLINE bool is_upper(unsigned c) { return c == C_UPPER || c == C_LETTER || c == C_MARK; }
INLINE bool is_lower(unsigned c) { return c == C_LOWER || c == C_LETTER || c == C_MARK; }

/* Upper* Lower+ from i on: 1 and *e when it matches, else 0 and the end of Upper* (which may be i); NEED. Upper*
 * is greedy and gives back up to its last character that is also Lower, if no Lower follows. */
INLINE int cased(const unsigned char *p, size_t n, size_t i, bool last, size_t *e)
{
    size_t both = 0, len;
    for (; i < n; i += len) {
        unsigned c = class_at(p, n, i, &len);
        if (c == C_LOWER) {
            for (i += len; i < n && is_lower(class_at(p, n, i, &len)); i += len)
                ;
            *e = i;
            return 1;
        }
        if (!is_upper(c))
            break;
        if (c != C_UPPER)
            both = i + len;
    }
    if (i >= n && !last)
        return NEED;
    *e = both ? both : i;
    return both > 0;
}

static size_t o200k(const unsigned char *p, size_t n, bool last, size_t *end, size_t max)
{
    size_t k = 0;
    for (size_t s = 0, next_try = 0, e, len, len2; s < n && k < max; s = e) {
        k = by_blocks(p, n, &s, &next_try, RULES_O200K, end, k, max);
        if (k == max)
            break;
        unsigned c = class_at(p, n, s, &len);
        size_t j = s + len;
        bool word = is_letter(c);
        if (word) {
            if (cased(p, n, s, last, &e) == NEED)
                break;
        } else if (c == C_NUMBER) {
            e = numbers(p, n, j, 2);
        } else {
            unsigned next = C_LINE;
            if (j < n)
                next = class_at(p, n, j, &len2);
            else if (!last)
                break;
            if (c != C_LINE && next >= C_UPPER && next <= C_MARK) {
                int is = cased(p, n, j, last, &e);
                if (is == NEED)
                    break;
                word = true;
                if (!is && c == C_MARK) /* the mark alone is Lower+ */
                    e = j;
            } else if (c == C_MARK) {
                word = true;
                e = j;
            } else if (c == C_OTHER || (p[s] == ' ' && is_other(next))) {
                e = others(p, n, j);
                while (e < n && (p[e] == '\n' || p[e] == '\r' || p[e] == '/'))
                    e++;
            } else if (!blanks(p, n, s, last, false, &e)) {
                break;
            }
        }
        if (e == n && !last)
            break;
        if (word && e < n && p[e] == '\'') {
            int cut = contraction(p + e, n - e, last, true);
            if (cut == NEED)
                break;
            e += (size_t)cut;
            if (e == n && !last)
                break;
        }
        end[k++] = e;
    }
    return k;
}

/* ---- by name and by expression ---- */

size_t split_scan(enum split_pattern pattern, const unsigned char *p, size_t n, bool last, size_t *end,
                  size_t max)
{
    if (!last)
        n = split_whole_chars(p, n);
    switch (pattern) {
    case SCAN_GPT2:
        return gpt2(p, n, last, end, max);
    case SCAN_LLAMA3:
        return cl100k(p, n, last, end, max, 3, false);
    case SCAN_QWEN2:
        return cl100k(p, n, last, end, max, 1, false);
    case SCAN_CL100K:
        return cl100k(p, n, last, end, max, 3, true);
    case SCAN_CL100K_ONIG:
        return cl100k(p, n, last, end, max, SIZE_MAX, true);
    case SCAN_O200K:
        return o200k(p, n, last, end, max);
    default:
        bug("no scanner %d", (int)pattern);
    }
}

const char *split_scan_name(enum split_pattern pattern)
{
    static const char *const names[] = { "gpt2", "llama3", "qwen2", "cl100k", "cl100k-onig", "o200k" };
    return names[pattern];
}

#define TAIL "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define SUFFIX "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define CASED_1                                                                                              \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+" SUFFIX "?"
#define CASED_2                                                                                              \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*" SUFFIX "?"

int split_scan_find(const char *expression)
{
    static const struct {
        const char *expression;
        enum split_pattern pattern;
    } known[] = {
        { "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", SCAN_GPT2 },
        { "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", SCAN_GPT2 },
        { "'(?:[sdmt]|ll|ve|re)| ?\\p{L}++| ?\\p{N}++| ?[^\\s\\p{L}\\p{N}]++|\\s++$|\\s+(?!\\S)|\\s",
          SCAN_GPT2 },
        { SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" TAIL,
          SCAN_LLAMA3 },
        { SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" TAIL, SCAN_QWEN2 },
        { "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*"
          "|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+",
          SCAN_LLAMA3 },
        /* Ruby's {1,3}+ is not possessive but a run of runs: all digits are one word. */
        { "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+| "
          "?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++$"
          "|\\s*[\\r\\n]|\\s+(?!\\S)|\\s",
          SCAN_CL100K_ONIG },
        { CASED_1 "|" CASED_2 "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" TAIL, SCAN_O200K },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].expression, expression) == 0)
            return (int)known[i].pattern;
    return -1;
}
