#!/usr/bin/env python3
"""split.py - compares common/text/split with tokenizers and tiktoken; makes tests/golden/split
SPDX-License-Identifier: MIT

    pip install tokenizers tiktoken unicodedata2==16.0.0
    python3 tests/oracle/split.py golden             writes tests/golden/split/*.bin
    python3 tests/oracle/split.py compare [ROUNDS [NAME...]]   ROUNDS x 1000 random texts a setting, then every
                                                     code point in contexts; tiktoken's settings are 'tiktoken NAME'

The library is built from the sources into a temporary folder. A tokenizer.json is built for each setting and given to
both sides. tiktoken does not say where words end, so each text gets an encoding of its own in which every piece of it
is a token.
"""
import ctypes
import json
import os
import random
import subprocess
import sys
import tempfile


import tiktoken
from tiktoken_ext import openai_public
from tokenizers import Tokenizer

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
CL100K_OLD = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
              r"|\s+(?!\S)|\s+")
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
          r"|\s+(?!\S)|\s")
R50K = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
CASED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]%s[\p{Ll}\p{Lm}\p{Lo}\p{M}]%s(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = "|".join([CASED % ("*", "+"), CASED % ("+", "*"), r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+",
                  r"\s+(?!\S)", r"\s+"])
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level(blank=False, regex=True):
    return {"type": "ByteLevel", "add_prefix_space": blank, "trim_offsets": True, "use_regex": regex}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


END = byte_level(regex=False)
NFC = {"type": "NFC"}
SETTINGS = {  # name: (normalizer, pre_tokenizer)
    "none": (None, None), "nfc": (NFC, None),
    "gpt2": (None, byte_level()), "gpt2-blank": (None, byte_level(True)), "neox": (NFC, byte_level()),
    "llama3": (None, sequence(split(LLAMA3), END)), "qwen2": (NFC, sequence(split(QWEN2), END)),
    "cl100k-removed": (None, sequence(split(LLAMA3, "Removed", True), END)),
    "cl100k-old": (None, sequence(split(CL100K_OLD), END)), "cl100k-onig": (None, sequence(split(CL100K), END)),
    "r50k": (None, split(R50K)), "o200k": (None, sequence(split(O200K), END)),
    "deepseek-v3": (None, sequence(split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK), END)),
    "deepseek": (None, sequence(split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"),
                                split("[一-龥ࠀ-一가-퟿]+"), {"type": "Digits", "individual_digits": True}, END)),
    "starcoder": (None, sequence({"type": "Digits", "individual_digits": True}, byte_level())),
    "digits": (None, {"type": "Digits", "individual_digits": False}),
    "spaces": (NFC, sequence({"type": "WhitespaceSplit"}, byte_level(True))),
    "lower": (None, split(r"(?i:'s|k|we)|\S\d+\s|[\P{L}a]+?x", "Isolated")),
}
for b in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
    SETTINGS["punct-" + b] = (None, {"type": "Punctuation", "behavior": b})
    for inv in (False, True):
        tail = b + ("-not" if inv else "")
        SETTINGS["string-" + tail] = (None, split(" a", b, inv, "String"))
        SETTINGS["regex-" + tail] = (None, split(r"\p{N}{1,2}|\s(?=\p{L})|(?:'[a-z]+)", b, inv))

ALPHABET = {}  # ByteLevel's letters, back to bytes
extra = 0
for byte in range(256):
    if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174:
        ALPHABET[chr(byte)] = byte
    else:
        ALPHABET[chr(256 + extra)] = byte
        extra += 1


class Words(ctypes.Structure):
    _fields_ = [("text", ctypes.c_void_p), ("end", ctypes.POINTER(ctypes.c_size_t)), ("n", ctypes.c_size_t)]


def build():
    folder = tempfile.mkdtemp()
    lib = os.path.join(folder, "split.so")
    import glob
    base = ["err", "mem", "out", "json", "half", "attrs", "opt", "rng", "meter"]
    src = sorted(glob.glob(TOP + "/common/text/split*.c")) + [f"{TOP}/common/base/{b}.c" for b in base]
    gen = os.path.join(folder, "buildinfo.h")
    with open(gen, "w") as f:
        f.write('#define SSM_VERSION "0"\n#define SSM_BUILD "oracle"\n')
    subprocess.run(["gcc", "-std=c11", "-D_POSIX_C_SOURCE=200809L", "-O2", "-g", "-fPIC", "-shared", "-I" + TOP,
                    "-I" + folder, "-o", lib, *src, "-ljansson", "-lpcre2-8", "-lutf8proc", "-lm"], check=True)
    c = ctypes.CDLL(lib)
    for name, res, args in [
            ("json_try_block", ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]),
            ("json_at", ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]),
            ("split_try_new", ctypes.c_void_p, [ctypes.c_void_p] * 2), ("err_last", ctypes.c_char_p, []),
            ("split_try_known", ctypes.c_void_p, [ctypes.c_char_p]),
            ("split_stream_new", ctypes.c_void_p, [ctypes.c_void_p]),
            ("split_put", None, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_bool]),
            ("split_get", ctypes.c_bool, [ctypes.c_void_p, ctypes.POINTER(Words)])]:
        f = getattr(c, name)
        f.restype, f.argtypes = res, args
    return c


class Ours:
    def __init__(self, c, normalizer=None, pre=None, known=None):
        self.c = c
        if known:
            s = c.split_try_known(known.encode())
        else:
            text = json.dumps({"normalizer": normalizer, "pre_tokenizer": pre}).encode()
            root = c.json_try_block(b"setting", text, len(text))
            s = c.split_try_new(c.json_at(root, b"normalizer"), c.json_at(root, b"pre_tokenizer"))
        if not s:
            raise SystemExit(f"{pre or known}: {c.err_last().decode()}")
        self.st = c.split_stream_new(s)

    def words(self, text, parts=()):
        b, out, w = text.encode(), [], Words()
        cuts = [0, *sorted(p % (len(b) + 1) for p in parts), len(b)]
        for i in range(len(cuts) - 1):
            part = b[cuts[i]:cuts[i + 1]]
            self.c.split_put(self.st, part, len(part), i == len(cuts) - 2)
            while self.c.split_get(self.st, ctypes.byref(w)):
                ends = w.end[:w.n]
                data = ctypes.string_at(w.text, ends[-1])
                out += [data[a:e] for a, e in zip([0, *ends], ends)]
        return out


class Theirs:
    def __init__(self, normalizer, pre):
        model = {"type": "BPE", "vocab": {}, "merges": []}
        self.t = Tokenizer.from_str(json.dumps({"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
                                                "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": None,
                                                "decoder": None, "model": model}))
        self.bytes = pre is not None and "ByteLevel" in json.dumps(pre)

    def words(self, text):
        if self.t.normalizer:
            text = self.t.normalizer.normalize_str(text)
        if not self.t.pre_tokenizer:
            return [text.encode()] if text else []
        found = [w for w, _ in self.t.pre_tokenizer.pre_tokenize_str(text)]
        return [bytes(ALPHABET[c] for c in w) if self.bytes else w.encode() for w in found]


def tiktoken_words(pattern, text):
    t, ranks = text.encode(), {bytes([i]): i for i in range(256)}
    longest = len(t) if len(t) < 250 else 60
    for i in range(len(t)):
        for j in range(i + 2, min(len(t), i + longest) + 1):
            ranks.setdefault(t[i:j], len(ranks))
    e = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return [e.decode_single_token_bytes(i) for i in e.encode_ordinary(text)]


NASTY = list("   aAbBsStdmlrveREVLMDT''''‘’ſK019٣৭²½Ⅻ.,!?/-_\\\"()[]{}$€+\t\n\n\r\x0b\x0c\x85\xa0\u1680\u2003\u2028\u2029"
             "\u202f\u205f\u3000\u200b\ufeff\x00\x7f\xad" "éeßſtﬁŉİıǅʰªºñn\u0301\u0327\u0323\u0345\u0344\u093c\u0958"
             "\u0915\u094d\u0928\u200d한글\u1100\u1161\u11a8中日一龥ひカードжЖяשלוםالعربيةไทย𝒜𝔞😀🏳👨\u20e3\ue000\ufffd\uffff"
             "\U0010ffff\U0001e030\U00011f12\u1c89\ua7cb\u0897\u08d3\u11de0\U000105c9\U00011de0\u212b\u2126\ufb1d\uac00\u0f73")
ASCII = ["a", "B", "word", "iPhone", "USA", "1", "23", " ", " ", " ", "  ", "\n", "\r\n", "\t", "'s", "'", "'Ll", ".", "/", "!!", "\n  \n",
         "\x0b", "é"]
PHRASES = ["Hello world, it's 2024!  We'll see\n\nI'VE done.\t", "def f(x):\n    return x**2 + 1.5e-10  # ok\r\n\r\n",
           "Größe ÄÖÜ naïve café e\u0301cole ", "Привет, мир! Ёлка 123 ", "你好，世界。今天是2024年。", "日本語のテキスト、カタカナ 한국어 문장 ",
           "हिन्दी में क़लम १२३ ", "العربية نصٌّ ١٢٣ ", "שָׁלוֹם עוֹלָם ", "ภาษาไทย ทดสอบ ", "Ελληνικά ΌΧΙ ώρα ", "👨‍👩‍👧 🇩🇪 ☕️ ",
           "    \n   x", "\n \n  \n", "HTTPServer iPhoneX XMLfoo's A's ABC'll ", "a/b//c/\n/ http://x.y/?q=1&r=%20 ", "'''s 'S's'T 're' 'l ",
           "Việt Nam tiếng Tiê\u0301ng ", "x\u0301\u0327\u0323 q\u0307\u0323 ", "12345678 1,234,567.89 Ⅻ² "]


def texts(rng, n):
    for _ in range(n):
        how = rng.random()
        if how < .5:
            some = rng.sample(NASTY, rng.randint(1, 12))
            yield "".join(rng.choice(some) for _ in range(rng.randint(0, 24)))
        elif how < .75:
            yield "".join(rng.choice(NASTY) for _ in range(rng.randint(0, 30)))
        elif how < .9:
            yield "".join(rng.choice(PHRASES) for _ in range(rng.randint(1, 3)))
        elif how < .93:
            some = rng.sample(ASCII, rng.randint(2, 14))
            yield "".join(rng.choice(some) for _ in range(rng.randint(30, 150)))
        else:
            out = []
            for _ in range(rng.randint(1, 16)):
                c = rng.randrange(0x20000 if rng.random() < .8 else 0x110000)
                out.append("\ufffd" if 0xD800 <= c < 0xE000 else chr(c))
                out.append(rng.choice(["", "", "a", "1", " ", "'", "\u0301", "\n"]))
            yield "".join(out)


# 64 code points a text; of the planes in which nothing is assigned, some
BLOCKS = [b for b in range(0, 0x110000, 64) if b < 0x33800 or 0xe0000 <= b < 0xe0200 or b % 0x4000 in (0, 0x3fc0)]
CONTEXTS = ["a{0}1{0} {0}", "{0}{0}A{0}b", "'{0} '{0}'s{0}'S", " {0}a\n{0}\n", "B{0}c\u0301{0}\u0334{0}", "!{0}{0}1"]


def check(name, ours, theirs, text, rng):
    want = theirs(text)
    for parts in ((), (rng.randrange(1000), rng.randrange(1000))):
        got = ours.words(text, parts)
        if got != want:
            print(f"{name}: {text!r} in parts {parts}\n  ours   {got}\n  theirs {want}", flush=True)
            return 1
    return 0


def compare(rounds, only):
    c, bad, rng = build(), 0, random.Random(1)
    for name, (norm, pre) in SETTINGS.items():
        if only and name not in only:
            continue
        ours, theirs, wrong, done = Ours(c, norm, pre), Theirs(norm, pre), 0, 0
        for text in texts(rng, rounds * 1000):
            done += 1
            wrong += check(name, ours, theirs.words, text, rng)
            if wrong > 5:
                break
        for first in BLOCKS:
            cps = [chr(x) for x in range(first, first + 64) if not 0xD800 <= x < 0xE000]
            for context in CONTEXTS:
                if wrong > 5 or not cps:
                    break
                done += 1
                text = "x\n".join(context.format(ch) for ch in cps)
                if ours.words(text) != theirs.words(text):
                    wrong += sum(check(name, ours, theirs.words, context.format(ch), rng) for ch in cps) or 1
        print(f"tokenizers {name}: {done} texts, {wrong} differ", flush=True)
        bad += wrong
    for name, pattern in (("gpt2", R50K), ("cl100k", CL100K), ("o200k", O200K), ("llama3", LLAMA3)):
        if only and "tiktoken " + name not in only:
            continue
        ours, wrong, done = Ours(c, known=name), 0, 0
        for text in texts(rng, rounds * 250):
            if len(text) < 60 and wrong < 6:
                done += 1
                wrong += check("tiktoken " + name, ours, lambda t: tiktoken_words(pattern, t), text, rng)
        for first in BLOCKS:
            cps = [chr(x) for x in range(first, first + 64) if not 0xD800 <= x < 0xE000]
            if not cps or wrong > 5:
                continue
            text = "x\n".join(CONTEXTS[first // 64 % 6].format(ch) for ch in cps)
            done += 1
            wrong += ours.words(text) != tiktoken_words(pattern, text)
        print(f"tiktoken {name}: {done} texts, {wrong} differ", flush=True)
        bad += wrong
    return bad


def golden():
    """A file: JSON of the setting and a NUL; then for each text u16 length, text, u16 words, each u8 length and bytes."""
    folder = os.path.join(TOP, "tests", "golden", "split")
    os.makedirs(folder, exist_ok=True)
    rng = random.Random(2)
    every = [t for t in texts(rng, 400) if len(t.encode()) < 120][:55] + PHRASES + [""]

    def write(name, head, words):
        with open(os.path.join(folder, name.lower() + ".bin"), "wb") as f:
            f.write(json.dumps(head, ensure_ascii=True).encode() + b"\0")
            for t in every:
                w = words(t)
                f.write(len(t.encode()).to_bytes(2, "little") + t.encode() + len(w).to_bytes(2, "little"))
                for x in w:
                    f.write(bytes([len(x)]) + x)
    for name, (norm, pre) in SETTINGS.items():
        write(name, {"normalizer": norm, "pre_tokenizer": pre}, Theirs(norm, pre).words)
    for name, pattern in (("gpt2", R50K), ("cl100k", CL100K), ("o200k", O200K)):
        write("tiktoken-" + name, {"known": name}, lambda t: tiktoken_words(pattern, t))


if __name__ == "__main__":
    assert openai_public.cl100k_base is not None
    if sys.argv[1:2] == ["golden"]:
        golden()
    else:
        sys.exit(compare(int(sys.argv[2]) if len(sys.argv) > 2 else 1, sys.argv[3:]) > 0)
