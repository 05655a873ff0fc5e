/* split_nfc.c - NFC as tokenizers has it; the one owner of utf8proc
 * SPDX-License-Identifier: MIT
 *
 * Text is cut before each starter that composes with nothing before it (UAX #15, 9.1): what lies between two cuts
 * is normalised alone, and only where a quick look cannot tell that it is NFC already. Characters that Unicode 9
 * does not know are inert there, whatever utf8proc knows of them, so all that it is asked about is old enough to
 * be the same in every version.
 */
#include "split_private.h"

#include <utf8proc.h>

#include "common/base/err.h"

static unsigned char class_of(int32_t c) { return (unsigned char)utf8proc_get_property(c)->combining_class; }

/* Canonical order of a run of marks: stable, linear in n beyond a few. */
static void order_marks(int32_t *c, size_t n)
{
    if (n <= 16) {
        for (size_t i = 1; i < n; i++) {
            int32_t x = c[i];
            size_t j = i;
            for (; j > 0 && class_of(c[j - 1]) > class_of(x); j--)
                c[j] = c[j - 1];
            c[j] = x;
        }
        return;
    }
    size_t at[257] = { 0 };
    int32_t *sorted = xmalloc(mul_size(n, sizeof *sorted, "marks"));
    for (size_t i = 0; i < n; i++)
        at[class_of(c[i]) + 1]++;
    for (size_t i = 1; i < 257; i++)
        at[i] += at[i - 1];
    for (size_t i = 0; i < n; i++)
        sorted[at[class_of(c[i])]++] = c[i];
    memcpy(c, sorted, n * sizeof *c);
    free(sorted);
}

static void normalise(const unsigned char *p, size_t n, struct buf *out)
{
    int32_t *c = NULL;
    size_t used = 0, cap = 0;
    for (size_t i = 0, len; i < n; i += len) {
        int32_t one = (int32_t)split_decode(p + i, n - i, &len), part[8];
        int bound = 0;
        utf8proc_ssize_t k =
            utf8proc_decompose_char(one, part, 8, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &bound);
        if (k < 0 || k > 8)
            bug("U+%04lX has a decomposition of %ld", (unsigned long)one, (long)k);
        for (utf8proc_ssize_t j = 0; j < k; j++)
            *(int32_t *)grow(&c, &used, &cap, sizeof *c) = part[j];
    }
    for (size_t i = 0; i < used;) {
        size_t j = i;
        while (j < used && class_of(c[j]))
            j++;
        order_marks(c + i, j - i);
        i = j + 1;
    }
    utf8proc_ssize_t k =
        utf8proc_normalize_utf32(c, (utf8proc_ssize_t)used, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    for (utf8proc_ssize_t i = 0; i < k; i++) {
        unsigned char bytes[4];
        buf_add(out, bytes, (size_t)utf8proc_encode_char(c[i], bytes));
    }
    free(c);
}

/* From one cut to the next. */
static void add_slow(const unsigned char *p, size_t n, struct buf *out)
{
    size_t len;
    unsigned c = split_decode(p, n, &len);
    if (c != 0xffff && split_nfc[split_kind_of(c)] != NFC_UNASSIGNED)
        len = 0;
    buf_add(out, p, len);
    if (n > len)
        normalise(p + len, n - len, out);
}

size_t split_nfc_add(const unsigned char *p, size_t n, bool last, struct buf *out)
{
    size_t copied = 0, cut = 0; /* p[cut..i) is what the next characters may change */
    unsigned before = 0;        /* combining class */
    bool slow = false;
    if (!last)
        n = split_whole_chars(p, n);
    for (size_t i = 0, len; i < n; i += len) {
        unsigned v = 0;
        len = 1;
        if (p[i] >= 0x80) {
            unsigned c = split_decode(p + i, n - i, &len);
            v = c == 0xffff ? NFC_UNASSIGNED : split_nfc[split_kind_of(c)];
        }
        if (v == 0 || v == NFC_UNASSIGNED) {
            if (slow) {
                buf_add(out, p + copied, cut - copied);
                add_slow(p + cut, i - cut, out);
                copied = i;
                slow = false;
            }
            before = 0;
            if (len == 1)
                for (uint64_t w; i + 9 <= n; i += 8) {
                    memcpy(&w, p + i + 1, 8);
                    if (w & UINT64_C(0x8080808080808080))
                        break;
                }
            cut = i;
        } else {
            slow = slow || v == NFC_SLOW || v < before;
            before = v;
        }
    }
    if (!last) {
        buf_add(out, p + copied, cut - copied);
        return cut;
    }
    buf_add(out, p + copied, (slow ? cut : n) - copied);
    if (slow)
        add_slow(p + cut, n - cut, out);
    return n;
}
