/* split_regex.c - expressions that have no scanner: from Oniguruma's language to PCRE2, of which this is the one owner
 * SPDX-License-Identifier: MIT
 *
 * The two languages share most of their words but not all of their meanings, and PCRE2's Unicode is older or newer
 * than the tables here. So an expression is read and written anew: what means the same is copied, classes of
 * characters are written out of our tables where PCRE2's differ, and everything else is refused by name. Nothing may
 * look behind a match, so that text can be cut at any match.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "split_private.h"

#include <pcre2.h>
#include <stdio.h>

#include "common/base/err.h"

struct split_regex {
    pcre2_code *code;
    char *expression; /* for messages */
};

struct split_match {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

struct reader {
    const char *p;
    size_t n, i;
    struct buf out;
    int folding; /* depth of (?i: */
};

static int no(const char *what) { return err_set("the expression has %s", what); }

/* ---- classes of characters ---- */

static const char *const cats[] = { "Cn", "Cc", "Cf", "Co", "Cs", "Ll", "Lm", "Lo", "Lt", "Lu", "Mc",
                                    "Me", "Mn", "Nd", "Nl", "No", "Pc", "Pd", "Pe", "Pf", "Pi", "Po",
                                    "Ps", "Sc", "Sk", "Sm", "So", "Zl", "Zp", "Zs", "Cc", "Cc" };

static bool in_category(unsigned c, const char *name)
{
    const char *cat = cats[split_category[split_kind_of(c)]];
    return cat[0] == name[0] && (!name[1] || cat[1] == name[1]);
}

enum { CODE_POINTS = 0x110000 };

static bool a_character(unsigned c) { return c < CODE_POINTS && (c & 0x1ff800) != 0xd800; }

/* Sets has[c] for what PCRE2 takes for a category: it is asked with a text of all characters. */
static void ask_category(const char *name, unsigned char *has)
{
    struct buf all = { 0 };
    char expression[16];
    snprintf(expression, sizeof expression, "\\p{%s}+", name);
    for (unsigned c = 0; c < CODE_POINTS; c++) {
        if (!a_character(c))
            continue;
        unsigned char u[4] = { (unsigned char)c };
        size_t len = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        for (size_t k = len, rest = c; len > 1 && k > 0; k--, rest >>= 6)
            u[k - 1] = (unsigned char)(k > 1 ? 0x80 | (rest & 63) : rest | (0xf00u >> len & 0xff));
        buf_add(&all, u, len);
    }
    int code;
    PCRE2_SIZE at = 0;
    pcre2_code *re =
        pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    if (!re)
        bug("PCRE2 does not know %s", expression);
    pcre2_jit_compile(re, PCRE2_JIT_COMPLETE);
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(re, NULL);
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(data);
    for (at = 0; pcre2_match(re, (PCRE2_SPTR)all.data, all.len, at, PCRE2_NO_UTF_CHECK, data, NULL) > 0;
         at = o[1])
        for (size_t i = o[0], len; i < o[1]; i += len)
            has[split_decode((const unsigned char *)all.data + i, o[1] - i, &len)] = 1;
    pcre2_match_data_free(data);
    pcre2_code_free(re);
    buf_free(&all);
}

/* The items of [...] for a category, or for all others. PCRE2 is quick with its own categories, so those are taken, and
 * what its Unicode lacks is added. */
static void add_category(struct buf *out, const char *name, bool negated)
{
    unsigned char *want = xcalloc(CODE_POINTS + 1, 1), *has = xcalloc(CODE_POINTS, 1);
    bool over = negated;
    for (unsigned c = 0; c < CODE_POINTS; c++)
        want[c] = a_character(c) && in_category(c, name) != negated;
    if (!negated) {
        ask_category(name, has);
        for (unsigned c = 0; c < CODE_POINTS; c++)
            over = over || (has[c] && !want[c]);
    }
    if (!over)
        buf_addf(out, "\\p{%s}", name);
    bool inside = false;
    for (unsigned c = 0; c <= CODE_POINTS; c++) {
        bool is = want[c] && (over || !has[c]);
        if (is && !inside)
            buf_addf(out, "\\x{%x}", c);
        else if (!is && inside)
            buf_addf(out, "-\\x{%x}", c - 1);
        inside = is;
    }
    free(want);
    free(has);
}

#define SPACE_RANGES                                                                                         \
    "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NOT_SPACE_RANGES                                                                                     \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}!-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{"  \
    "2027}"                                                                                                  \
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"

static int try_property(struct reader *r, bool negated, bool in_class)
{
    static const char *const known[] = { "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",
                                         "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po",
                                         "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp" };
    const char *close = r->i < r->n && r->p[r->i] == '{' ? memchr(r->p + r->i, '}', r->n - r->i) : NULL;
    if (!close)
        return no("\\p without {NAME}");
    const char *name = r->p + r->i + 1;
    size_t len = (size_t)(close - name);
    if (len && name[0] == '^') {
        negated = !negated;
        name++, len--;
    }
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
        if (strlen(known[k]) != len || memcmp(known[k], name, len) != 0)
            continue;
        if (r->folding)
            return no("\\p inside of (?i:");
        r->i = (size_t)(close + 1 - r->p);
        if (!in_class)
            buf_addf(&r->out, "[");
        add_category(&r->out, known[k], negated);
        if (!in_class)
            buf_addf(&r->out, "]");
        return 0;
    }
    return err_set("the expression has \\p{%.*s}, which is not supported", len > 40 ? 40 : (int)len, name);
}

static int hex(const char *p, size_t n, unsigned *v)
{
    *v = 0;
    if (n == 0 || n > 6)
        return -1;
    for (size_t i = 0; i < n; i++) {
        const char *digits = "0123456789abcdef";
        int low = p[i] >= 'A' && p[i] <= 'F' ? p[i] + 32 : p[i];
        const char *at = low ? strchr(digits, low) : NULL;
        if (!at)
            return -1;
        *v = *v * 16 + (unsigned)(at - digits);
    }
    return *v < 0x110000 && (*v & 0x1ff800) != 0xd800 ? 0 : -1;
}

/* Behind a backslash. *range: it may be an end of a range. */
static int try_escape(struct reader *r, bool in_class, bool *range)
{
    if (r->i >= r->n)
        return no("a backslash at its end");
    char c = r->p[r->i++];
    unsigned v;
    *range = false;
    switch (c) {
    case 'p':
    case 'P':
        return try_property(r, c == 'P', in_class);
    case 's':
        buf_addf(&r->out, in_class ? "%s" : "[%s]", SPACE_RANGES);
        return 0;
    case 'S':
        buf_addf(&r->out, in_class ? "%s" : "[%s]", NOT_SPACE_RANGES);
        return 0;
    case 'd':
    case 'D':
        if (!in_class)
            buf_addf(&r->out, "[");
        add_category(&r->out, "Nd", c == 'D');
        if (!in_class)
            buf_addf(&r->out, "]");
        return 0;
    case 'n':
    case 'r':
    case 't':
    case 'f':
        buf_addf(&r->out, "\\%c", c);
        *range = true;
        return 0;
    case 'x':
        if (r->i < r->n && r->p[r->i] == '{') {
            const char *close = memchr(r->p + r->i, '}', r->n - r->i);
            if (!close || hex(r->p + r->i + 1, (size_t)(close - r->p) - r->i - 1, &v))
                return no("an unusual \\x{...}");
            r->i = (size_t)(close + 1 - r->p);
        } else {
            if (r->n - r->i < 2 || hex(r->p + r->i, 2, &v) || v > 0x7f)
                return no("a \\x of a byte that is not ASCII");
            r->i += 2;
        }
        break;
    case 'u':
        if (r->n - r->i < 4 || hex(r->p + r->i, 4, &v))
            return no("an unusual \\u");
        r->i += 4;
        break;
    default:
        if ((unsigned char)c >= 0x80 || (unsigned)(c | 0x20) - 'a' < 26 || (unsigned)c - '0' < 10)
            return err_set("the expression has \\%c, which is not supported", c);
        v = (unsigned char)c;
    }
    if (r->folding)
        return no("an escaped character inside of (?i:");
    buf_addf(&r->out, "\\x{%x}", v);
    *range = true;
    return 0;
}

static int try_class(struct reader *r)
{
    buf_addf(&r->out, "[");
    if (r->i < r->n && r->p[r->i] == '^') {
        buf_addf(&r->out, "^");
        r->i++;
    }
    bool range = false, to = false; /* the last item may begin a range; a '-' stands behind it */
    for (size_t items = 0;; items++) {
        if (r->i >= r->n)
            return no("a [ without its ]");
        char c = r->p[r->i++];
        if (c == ']') {
            if (!items)
                return no("an empty []");
            break;
        }
        if (c == '[')
            return no("a [ inside of [...]");
        if (c == '&' && r->i < r->n && r->p[r->i] == '&')
            return no("&& inside of [...]");
        if (c == '-') {
            bool end = r->i < r->n && r->p[r->i] == ']';
            if (end || items == 0) {
                buf_addf(&r->out, "\\-");
                range = false;
                continue;
            }
            if (!range || to)
                return no("an unusual - inside of [...]");
            buf_addf(&r->out, "-");
            to = true;
            continue;
        }
        bool one = true;
        if (c == '\\') {
            if (try_escape(r, true, &one))
                return -1;
            if (to && !one)
                return no("an unusual range inside of [...]");
        } else {
            if (r->folding && c != '\'' && (unsigned)(c | 0x20) - 'a' >= 26)
                return no("more than letters inside of (?i:");
            size_t len;
            unsigned v = split_decode((const unsigned char *)r->p + r->i - 1, r->n - r->i + 1, &len);
            r->i += len - 1;
            buf_addf(&r->out, "\\x{%x}", v);
        }
        if (to && r->folding)
            return no("a range inside of (?i:");
        range = one && !to;
        to = false;
    }
    buf_addf(&r->out, "]");
    return 0;
}

/* Letters that Oniguruma also finds as one (sharp s, ligatures) when case does not count. */
static bool folds_together(char a, char b)
{
    static const char pairs[][3] = { "ss", "ff", "fi", "fl", "st" };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (pairs[i][0] == (a | 0x20) && pairs[i][1] == (b | 0x20))
            return true;
    return false;
}

static int try_translate(struct reader *r)
{
    enum { DEEPEST = 64 };
    bool fold_here[DEEPEST];
    int depth = 0;
    bool dummy;
    while (r->i < r->n) {
        char c = r->p[r->i++];
        const char *rest = r->p + r->i;
        size_t left = r->n - r->i;
        switch (c) {
        case '\\':
            if (try_escape(r, false, &dummy))
                return -1;
            break;
        case '[':
            if (try_class(r))
                return -1;
            break;
        case '(': {
            if (depth == DEEPEST)
                return no("too many groups");
            bool fold = false;
            if (left && rest[0] == '?') {
                static const char *const groups[] = { "?:", "?=", "?!", "?>", "?i:" };
                size_t k = 0;
                while (k < 5 &&
                       (left < strlen(groups[k]) || strncmp(rest, groups[k], strlen(groups[k])) != 0))
                    k++;
                if (k == 5)
                    return no("a group other than (?: (?i: (?= (?! (?>");
                fold = k == 4;
                buf_addf(&r->out, "(%s", groups[k]);
                r->i += strlen(groups[k]);
            } else {
                buf_addf(&r->out, "(?:");
            }
            fold_here[depth++] = fold;
            r->folding += fold;
            break;
        }
        case ')':
            if (depth == 0)
                return no("a ) too many");
            r->folding -= fold_here[--depth];
            buf_addf(&r->out, ")");
            break;
        case '^':
        case '$':
            return err_set("the expression has %c, which looks at lines", c);
        case '{': {
            char *close = memchr(rest, '}', left);
            size_t len = close ? (size_t)(close - rest) : 0;
            unsigned commas = 0;
            if (!len || len > 12 || rest[0] == ',')
                return no("an unusual {");
            for (size_t k = 0; k < len; k++) {
                commas += rest[k] == ',';
                if (rest[k] != ',' && (unsigned)rest[k] - '0' >= 10)
                    return no("an unusual {");
            }
            if (commas > 1)
                return no("an unusual {");
            r->i += len + 1;
            buf_add(&r->out, r->p + r->i - len - 2, len + 2);
            if (r->i < r->n && strchr("+?*", r->p[r->i]))
                return no("a + or ? or * behind {...}, which languages read differently");
            break;
        }
        case '*':
        case '+':
        case '?':
            buf_addf(&r->out, "%c", c);
            if (left && (rest[0] == '+' || rest[0] == '?')) {
                buf_addf(&r->out, "%c", rest[0]);
                r->i++;
                left--, rest++;
            }
            if (left && strchr("*+?", rest[0]))
                return no("a repeated repetition");
            break;
        case '|':
        case '.':
            if (c == '.' && r->folding)
                return no("more than letters inside of (?i:");
            buf_addf(&r->out, "%s", c == '.' ? "[^\\n]" : "|");
            break;
        default: {
            size_t len;
            unsigned v = split_decode((const unsigned char *)rest - 1, left + 1, &len);
            if (r->folding && c != '\'' && (v > 0x7f || (v | 0x20) - 'a' >= 26))
                return no("more than letters inside of (?i:");
            if (r->folding && left && folds_together(c, rest[0]))
                return no("letters that fold together inside of (?i:");
            r->i += len - 1;
            buf_addf(&r->out, "\\x{%x}", v);
        }
        }
    }
    return depth ? no("a ( without its )") : 0;
}

struct split_regex *split_regex_try_new(const char *expression, size_t n)
{
    struct reader rd = { .p = expression, .n = n };
    buf_addf(&rd.out, "%s", "");
    if (try_translate(&rd)) {
        buf_free(&rd.out);
        return NULL;
    }
    int code = 0;
    PCRE2_SIZE at = 0;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)rd.out.data, rd.out.len,
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF, &code, &at, NULL);
    buf_free(&rd.out);
    if (!re) {
        PCRE2_UCHAR text[120];
        pcre2_get_error_message(code, text, sizeof text);
        err_set("the expression is wrong: %s", (const char *)text);
        return NULL;
    }
    uint32_t empty = 0, behind = 0;
    pcre2_pattern_info(re, PCRE2_INFO_MATCHEMPTY, &empty);
    pcre2_pattern_info(re, PCRE2_INFO_MAXLOOKBEHIND, &behind);
    if (empty || behind) {
        pcre2_code_free(re);
        no(empty ? "a match of no characters" : "a look behind");
        return NULL;
    }
    pcre2_jit_compile(re, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD); /* slower without, no more */
    struct split_regex *r = xcalloc(1, sizeof *r);
    r->code = re;
    r->expression = xstrdup(expression);
    return r;
}

void split_regex_free(struct split_regex *r)
{
    if (!r)
        return;
    pcre2_code_free(r->code);
    free(r->expression);
    free(r);
}

struct split_match *split_match_new(const struct split_regex *r)
{
    struct split_match *m = xcalloc(1, sizeof *m);
    m->data = pcre2_match_data_create_from_pattern(r->code, NULL);
    m->context = pcre2_match_context_create(NULL);
    m->stack = pcre2_jit_stack_create((size_t)32 << 10, (size_t)64 << 20, NULL);
    if (!m->data || !m->context)
        die("out of memory");
    pcre2_jit_stack_assign(m->context, NULL, m->stack);
    return m;
}

void split_match_free(struct split_match *m)
{
    if (!m)
        return;
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
    free(m);
}

int split_regex_find(const struct split_regex *r, struct split_match *m, const unsigned char *p, size_t from,
                     size_t n, bool last, size_t *a, size_t *b)
{
    if (!last) {
        n = split_whole_chars(p, n);
        if (n <= from) {
            *a = from;
            return -1;
        }
    }
    int rc = pcre2_match(r->code, p, n, from, last ? 0 : PCRE2_PARTIAL_HARD, m->data, m->context);
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(m->data);
    *a = n;
    if (rc == PCRE2_ERROR_NOMATCH)
        return last ? 0 : -1;
    if (rc < 0 && rc != PCRE2_ERROR_PARTIAL)
        die("'%s' gives up on this text: PCRE2 error %d", r->expression, rc);
    *a = o[0];
    *b = o[1];
    return rc == PCRE2_ERROR_PARTIAL ? -1 : 1;
}
