/* split_private.h - what the files of split share: Unicode classes, stages, spans
 * SPDX-License-Identifier: MIT
 */
#ifndef SSM_SPLIT_PRIVATE_H
#define SSM_SPLIT_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/mem.h"

/* ---- Unicode (split_table.c) ---- */

#define SPLIT_UNICODE "16.0.0"
#define SPLIT_NFC_UNICODE "9.0.0"

/* What the known patterns tell apart. Letters are 1 to 3; MARK joins them in o200k; white space is >= SPACE. */
enum split_class_of { C_OTHER, C_UPPER, C_LOWER, C_LETTER, C_MARK, C_NUMBER, C_SPACE, C_LINE };

/* General categories, with the controls that are white space apart (SPACE_CAT; LF and CR: LINE_CAT). */
enum { CAT_CN, CAT_CC, CAT_CF, CAT_CO, CAT_CS, CAT_LL, CAT_LM, CAT_LO, CAT_LT, CAT_LU, CAT_MC, CAT_ME, CAT_MN, CAT_ND,
       CAT_NL, CAT_NO, CAT_PC, CAT_PD, CAT_PE, CAT_PF, CAT_PI, CAT_PO, CAT_PS, CAT_SC, CAT_SK, CAT_SM, CAT_SO, CAT_ZL,
       CAT_ZP, CAT_ZS, SPACE_CAT, LINE_CAT };

/* split_nfc[]: 0, a starter that NFC leaves alone; 1 to 240, a canonical combining class; or these. */
enum { NFC_UNASSIGNED = 254, /* in Unicode 9: inert */ NFC_SLOW = 255 /* Quick_Check is No or Maybe */ };

struct split_range {
    unsigned from, to;
};
/* Each by kind, which is split_kind[split_block[c / 128]][c % 128]. */
extern const unsigned char split_category[], split_class[], split_nfc[];
extern const unsigned short split_block[];
extern const unsigned char split_kind[][128];
extern const struct split_range split_more_digits[], split_punctuation[]; /* up to { 0, 0 } */

static inline unsigned split_kind_of(unsigned c) { return split_kind[split_block[c >> 7]][c & 127]; }

/* The code point at p, n >= 1 bytes before the end, and how many bytes it has. A byte that begins no
 * UTF-8 character stands alone, as U+FFFF (which has no class). */
static inline unsigned split_decode(const unsigned char *p, size_t n, size_t *len)
{
    unsigned a = p[0];
    *len = 1;
    if (a < 0x80)
        return a;
    if (a >= 0xc2 && a < 0xe0 && n >= 2 && (p[1] & 0xc0) == 0x80) {
        *len = 2;
        return (a & 31) << 6 | (p[1] & 63);
    }
    if (a >= 0xe0 && a < 0xf0 && n >= 3 && (p[1] & 0xc0) == 0x80 && (p[2] & 0xc0) == 0x80) {
        unsigned c = (a & 15) << 12 | (unsigned)(p[1] & 63) << 6 | (p[2] & 63);
        if (c >= 0x800 && (c & 0xf800) != 0xd800) {
            *len = 3;
            return c;
        }
    } else if (a >= 0xf0 && a < 0xf5 && n >= 4 && (p[1] & 0xc0) == 0x80 && (p[2] & 0xc0) == 0x80 &&
               (p[3] & 0xc0) == 0x80) {
        unsigned c = (a & 7) << 18 | (unsigned)(p[1] & 63) << 12 | (unsigned)(p[2] & 63) << 6 | (p[3] & 63);
        if (c >= 0x10000 && c < 0x110000) {
            *len = 4;
            return c;
        }
    }
    return 0xffff;
}

/* n less the bytes of a character that begins in p[0..n) and may go on behind it. */
size_t split_whole_chars(const unsigned char *p, size_t n);

/* ---- scanners (split_scan.c) ---- */

/* Known patterns, each of which covers every text: words follow each other without a gap. */
enum split_pattern { SCAN_GPT2, SCAN_LLAMA3, SCAN_QWEN2, SCAN_CL100K, SCAN_CL100K_ONIG, SCAN_O200K, SCAN_COUNT };
/* The ends of the words of p[0..n), at most `max`, into end[]; how many. Unless `last`, only words that no
 * further text can change. */
size_t split_scan(enum split_pattern pattern, const unsigned char *p, size_t n, bool last, size_t *end, size_t max);
const char *split_scan_name(enum split_pattern pattern);
/* The known pattern that Oniguruma reads this expression as, or -1. */
int split_scan_find(const char *expression);

/* ---- other expressions (split_regex.c, the one owner of PCRE2) ---- */

struct split_regex;
struct split_regex *split_regex_try_new(const char *expression, size_t n) __attribute__((warn_unused_result));
void split_regex_free(struct split_regex *r);
struct split_match; /* what one thread needs to match */
struct split_match *split_match_new(const struct split_regex *r);
void split_match_free(struct split_match *m);
/* The first match in p[from..n): 1 and *a, *b; 0 none; -1: not certain before there is more text, and there
 * is none before *a. */
int split_regex_find(const struct split_regex *r, struct split_match *m, const unsigned char *p, size_t from, size_t n,
                     bool last, size_t *a, size_t *b);

/* ---- stages (split.c), made by split_json.c ---- */

enum split_behaviour { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_WITH_PREVIOUS, SPLIT_WITH_NEXT, SPLIT_CONTIGUOUS };
enum split_set { SET_DIGITS, SET_PUNCTUATION, SET_SPACES };
enum { SPLIT_STAGES = 16 };

struct stage {
    enum { STAGE_WHOLE, STAGE_SCAN, STAGE_REGEX, STAGE_BYTES, STAGE_SET } kind;
    bool blank; /* a text that does not begin with a blank gets one */
    enum split_pattern pattern;
    struct split_regex *regex;
    struct buf bytes; /* the text of STAGE_BYTES, the expression of STAGE_REGEX */
    enum split_set set;
    enum split_behaviour behaviour; /* of the last three kinds; scanners isolate */
    bool invert;
};

struct split {
    bool nfc, on_bytes;
    bool straight; /* one scanner and nothing else */
    size_t n;
    struct stage stage[SPLIT_STAGES];
    char *name;
};

struct split *split_alloc(void);
struct stage *split_add_stage(struct split *s); /* NULL: too many */
struct split *split_finish(struct split *s);    /* names it; returns it */

/* ---- normalisation (split_nfc.c, the one owner of utf8proc) ---- */

/* Appends NFC of p[0..n) to *out as far as it is certain (all with `last`); how many bytes of p that were. */
size_t split_nfc_add(const unsigned char *p, size_t n, bool last, struct buf *out);

#endif
