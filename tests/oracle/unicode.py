#!/usr/bin/env python3
"""unicode.py - writes common/text/split_table.c: what pre-tokenisation needs to know of each code point
SPDX-License-Identifier: MIT

    pip install unicodedata2==16.0.0
    python3 tests/oracle/unicode.py >common/text/split_table.c

General categories are those of Unicode 16.0.0, which Oniguruma in `tokenizers` 0.23 and Rust's `regex-syntax` 0.8.11
in `tiktoken` 0.14 have. Three parts of `tokenizers` have other versions, all checked by split.py for every code point:
NFC is of 9.0.0 (a later character is inert), Punctuation of 8.0.0, Digits of 17.0.0. What was assigned when is asked
of perl.
"""
import subprocess
import unicodedata2 as U

assert U.unidata_version == "16.0.0", U.unidata_version
CATS = "Cn Cc Cf Co Cs Ll Lm Lo Lt Lu Mc Me Mn Nd Nl No Pc Pd Pe Pf Pi Po Ps Sc Sk Sm So Zl Zp Zs".split()
SPACES = [9, 11, 12, 0x85]
LINES = [10, 13]
SPACE_CAT, LINE_CAT, UNASSIGNED, SLOW = 30, 31, 254, 255
CLASS = {"Lu": 1, "Lt": 1, "Ll": 2, "Lm": 3, "Lo": 3, "Mc": 4, "Me": 4, "Mn": 4, "Nd": 5, "Nl": 5, "No": 5,
         "Zl": 6, "Zp": 6, "Zs": 6}


def present(version):
    code = r"no warnings; for (0 .. 0x10ffff) { print qq($_\n) if chr($_) =~ /\p{In=%s}/ }" % version
    return set(map(int, subprocess.run(["perl", "-e", code], capture_output=True, check=True).stdout.split()))


in8, in9 = present("8.0"), present("9.0")
# NFC_Quick_Check is not Yes: the character changes, or something can compose with it as the second.
seconds = set()
for c in in9:
    d = U.decomposition(chr(c))
    if d and d[0] != "<" and len(d.split()) == 2 and U.normalize("NFC", U.normalize("NFD", chr(c))) == chr(c):
        seconds.add(int(d.split()[1], 16))
seconds |= set(range(0x1161, 0x1176)) | set(range(0x11a8, 0x11c3))  # Hangul vowels and tails


def nfc(c):
    if 0xD800 <= c < 0xE000:
        return 0
    if c not in in9:
        return UNASSIGNED
    if c in seconds or U.normalize("NFC", chr(c)) != chr(c):
        return SLOW
    assert U.combining(chr(c)) < UNASSIGNED
    return U.combining(chr(c))


def category(c):
    return SPACE_CAT if c in SPACES else LINE_CAT if c in LINES else CATS.index(U.category(chr(c)))


kinds, blocks, first, seen = {}, [], [], {}
for top in range(0, 0x110000, 128):
    block = tuple(kinds.setdefault((category(c), nfc(c)), len(kinds)) for c in range(top, top + 128))
    if block not in seen:
        seen[block] = len(blocks)
        blocks.append(block)
    first.append(seen[block])
assert len(kinds) <= 256 and len(blocks) <= 65536


def ranges(cps):
    out = []
    for c in sorted(cps):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def table(decl, values):
    print(f"{decl} = {{")
    line = "   "
    for v in values:
        item = f" {v},"
        if line.strip() and len(line) + len(item) > 108:
            print(line)
            line = "   "
        line += item
    print(line + "\n};")


print("""/* split_table.c - Unicode 16.0.0 for pre-tokenisation; written by tests/oracle/unicode.py
 * SPDX-License-Identifier: MIT
 */
#include "split_private.h"

/* clang-format off */""")
cats = [k[0] for k in kinds]
table("const unsigned char split_category[]", cats)
table("const unsigned char split_class[]",
      [6 if c == SPACE_CAT else 7 if c == LINE_CAT else CLASS.get(CATS[c], 0) for c in cats])
table("const unsigned char split_nfc[]", [k[1] for k in kinds])
print("/* Digits: numbers of Unicode 17.0.0 that 16.0.0 does not have. */")
table("const struct split_range split_more_digits[]",
      ["{ 0x%x, 0x%x }" % tuple(r) for r in ranges([*range(0x11de0, 0x11dea), 0x16ff4, 0x16ff5, 0x16ff6])] + ["{ 0, 0 }"])
p16 = {c for c in range(0x110000) if U.category(chr(c))[0] == "P"}
p8 = {c for c in p16 & in8} | {0x166d, 0x111c9}
print("/* Punctuation of Unicode 8.0.0, beyond ASCII. */")
table("const struct split_range split_punctuation[]",
      ["{ 0x%x, 0x%x }" % tuple(r) for r in ranges(c for c in p8 if c > 127)] + ["{ 0, 0 }"])
print("/* 128 code points a block. */")
table("const unsigned short split_block[]", first)
table("const unsigned char split_kind[][128]", ["{" + ",".join(map(str, b)) + "}" for b in blocks])
