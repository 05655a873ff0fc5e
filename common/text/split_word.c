/* split_word.c - what a word is made of, for added tokens that want to stand alone
 * SPDX-License-Identifier: MIT
 */
#include "split.h"

#include "split_private.h"

/* Unicode's \w (UTS #18, annex C): alphabetic, marks, decimal digits, connectors, the two joiners. Alphabetic beyond the
 * letters, letter numbers and marks are only the circled and squared letters. */
bool split_word_char(unsigned c)
{
    switch (split_category[split_kind_of(c)]) {
    case CAT_LL:
    case CAT_LM:
    case CAT_LO:
    case CAT_LT:
    case CAT_LU:
    case CAT_MC:
    case CAT_ME:
    case CAT_MN:
    case CAT_ND:
    case CAT_NL:
    case CAT_PC:
        return true;
    default:
        return c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
               (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
    }
}
