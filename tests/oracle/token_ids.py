#!/usr/bin/env python3
# token_ids.py - other people's tokenizers against ours: the small ones of tests/golden/tokenizer, and real vocabularies
# SPDX-License-Identifier: MIT
#
# Usage: token_ids.py make [-o FOLDER]                 makes tests/golden/tokenizer
#        token_ids.py check [options] VOCAB... [-- FILE...]
#
# VOCAB is NAME=PATH of a tokenizer.json, tiktoken:ENC=PATH of a rank file, hf:ENC=PATH, the same ranks turned into a
# tokenizer.json, or spm:NAME=PATH of a SentencePiece model. Each is compared on generated text (many languages, code, white
# space, added tokens, a long run of one letter, random UTF-8) and on FILEs, in pieces of several sizes. Prints a table;
# exit code 1 when any id differs. --bytes N takes so much of each file: gigabytes are welcome, a block at a time.
#
# pip install tokenizers tiktoken sentencepiece numpy      Vocabularies: corpora.sh
import argparse
import base64
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

os.environ.setdefault("RAYON_NUM_THREADS", "1")
HERE = os.path.dirname(os.path.abspath(__file__))

import numpy
import sentencepiece
import tiktoken
from tiktoken_ext import openai_public
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SEED = 20260


# ---- text -------------------------------------------------------------------------------------------------------

RANGES = {
    "latin": [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x17F), (0x1E00, 0x1EFF)], "greek": [(0x370, 0x3FF), (0x1F00, 0x1FFF)],
    "cyrillic": [(0x400, 0x52F)], "hebrew": [(0x591, 0x5F4)], "arabic": [(0x600, 0x6FF)], "devanagari": [(0x900, 0x97F)],
    "bengali": [(0x980, 0x9FF)], "tamil": [(0xB80, 0xBFF)], "thai": [(0xE00, 0xE5B)], "georgian": [(0x10A0, 0x10FF)],
    "hangul": [(0xAC00, 0xD7A3), (0x1100, 0x11FF)], "kana": [(0x3041, 0x30FF)], "han": [(0x4E00, 0x9FFF)],
    "ethiopic": [(0x1200, 0x137F)], "khmer": [(0x1780, 0x17F9)], "emoji": [(0x1F300, 0x1FAFF), (0x2600, 0x27BF)],
    "math": [(0x1D400, 0x1D7FF), (0x2200, 0x22FF)], "marks": [(0x300, 0x36F)], "digits": [(0x660, 0x669), (0x2160, 0x2188)],
    "old": [(0x10000, 0x1013F), (0x13000, 0x133FF)],
}
BLANKS = [" ", "  ", "   ", "    ", "\n", "\n\n", "\r\n", "\r", "\t", "\t\t", "\u00a0", "\u2003", "\u3000", "\u2028", "\x0b",
          "\x0c", "\x85", "\u200b", "\ufeff", " " * 9, " " * 24, " " * 30, "\n" * 7, " \n", "\n ", " \t ", "\u1680"]
BITS = ["'s", "'S", "'\u017f", "'re", "'LL", "'t", "don't", "I'm", "it's", "1", "12", "123", "1234567", "3.14", "x_1", "_", "__init__",
        "(", ")", "{}", "=>", "//", "/*", "*/", "#include", "\"", "...", "!!", "?!", "--", "-", "e\u0301", "a\u030a", "\u212b",
        "\u1e9b\u0323", "\u0344", "K\u212a", "\uac01", "\u1100\u1161\u11a8", "\u0915\u093c", "A", "a", "The", "the", "HTTP",
        "camelCase", "\u00df", "\u01c5", "\u0130", "\u0149", "\U0001f468\u200d\U0001f469", "\U0001f1e9\U0001f1ea", "\u0e01\u0e33", "\x00", "\x7f"]


def word(rng, script, most=9):
    out = []
    for _ in range(rng.randint(1, most)):
        a, b = rng.choice(RANGES[script])
        out.append(chr(rng.randint(a, b)))
    return "".join(out)


def languages(rng, n):
    out, have = [], 0
    while have < n:
        script = rng.choice(list(RANGES))
        text = " ".join(word(rng, script) for _ in range(rng.randint(1, 40))) + rng.choice(BLANKS + [". ", ", "])
        out.append(text)
        have += len(text.encode())
    return "".join(out)


def mess(rng, n, added):
    out, have = [], 0
    while have < n:
        kind = rng.random()
        if kind < 0.3:
            text = rng.choice(BLANKS) * rng.choice([1, 1, 1, 2, 5])
        elif kind < 0.6:
            text = rng.choice(BITS)
        elif kind < 0.75 and added:
            text = rng.choice(added)
            if rng.random() < 0.2:
                text = text[:rng.randint(0, len(text))]
        elif kind < 0.9:
            text = word(rng, "latin", 12)
        else:
            text = word(rng, rng.choice(list(RANGES)), 4)
        out.append(text)
        have += len(text.encode())
    return "".join(out)


def any_utf8(rng, n):
    def char():
        c = rng.choice([rng.randint(0, 0x7F), rng.randint(0x80, 0x7FF), rng.randint(0x800, 0xFFFF), rng.randint(0x10000, 0x10FFFF)])
        return chr(c) if not 0xD800 <= c < 0xE000 else "x"
    out, have = [], 0
    while have < n:
        out.append(char())
        have += len(out[-1].encode())
    return "".join(out)


def documents(make, total, most, seed):
    """Documents of make(rng, bytes), of 1 to `most` bytes, `total` in all."""
    rng, out = random.Random(seed), []
    while total > 0:
        n = min(total, int(most ** rng.random()) + 1)
        out.append(make(rng, n))
        total -= len(out[-1].encode())
    return [d for d in out if d]


def generated(added, total):
    yield "languages", documents(languages, total, 50000, SEED)
    yield "white space, added tokens", documents(lambda r, n: mess(r, n, added), total, 20000, SEED + 1)
    yield "random UTF-8", documents(any_utf8, total, 20000, SEED + 2)
    long_ones = ["a" * 1000000, " " * 300000, "\n" * 100000, "ab" * 200000, "\u4e2d" * 100000, "-" * 100000 + "=" * 100000,
                 "".join(random.Random(SEED).choice("ab") for _ in range(300000)), "1" * 100000, "a\u0301" * 50000]
    yield "long words", long_ones


BLOCK = 1 << 25


def blocks(path, total):
    """Documents of 1 to 200,000 characters, as lists of some 32 MB."""
    rng = random.Random(SEED)
    with open(path, "rb") as f:
        while total > 0:
            text = f.read(min(total, BLOCK)).decode("utf-8", "replace")
            if not text:
                return
            total -= BLOCK
            out, at = [], 0
            while at < len(text):
                n = int(200000 ** rng.random()) + 1
                out.append(text[at:at + n])
                at += n
            yield out


# ---- tokenizers -------------------------------------------------------------------------------------------------

def tiktoken_of(name, path):
    ranks = {}
    with open(path, "rb") as f:
        for line in f:
            if line.strip():
                token, rank = line.split()
                ranks[base64.b64decode(token)] = int(rank)
    gpt2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
    saved = openai_public.load_tiktoken_bpe
    openai_public.load_tiktoken_bpe = lambda *a, **k: ranks
    try:
        if name in ("cl100k", "o200k", "p50k"):
            made = getattr(openai_public, name + "_base")()
            made.pop("explicit_n_vocab", None)
        else:
            made = {"name": name, "pat_str": gpt2, "mergeable_ranks": ranks, "special_tokens": {"<|endoftext|>": 50256}}
    finally:
        openai_public.load_tiktoken_bpe = saved
    return tiktoken.Encoding(**made), made


def letters():
    keep = list(range(0x21, 0x7F)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    table, n = {}, 0
    for b in range(256):
        table[b] = chr(b) if b in keep else chr(256 + n)
        n += b not in keep
    return table


def merges_of(ranks):
    """The pair that each token is made of, in order: what a rank file says without saying it."""
    for token, rank in sorted(ranks.items(), key=lambda x: x[1]):
        parts = [token[i:i + 1] for i in range(len(token))]
        while len(parts) > 2:
            best = min((ranks.get(parts[i] + parts[i + 1], 1 << 60), i) for i in range(len(parts) - 1))
            if best[0] >= rank:
                break
            parts[best[1]:best[1] + 2] = [parts[best[1]] + parts[best[1] + 1]]
        if len(parts) == 2:
            yield parts


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def hf_of(name, path, folder):
    _, made = tiktoken_of(name, path)
    spell, ranks = letters(), made["mergeable_ranks"]

    def spelled(token):
        return "".join(spell[b] for b in token)
    t = Tokenizer(models.BPE(vocab={spelled(k): v for k, v in ranks.items()},
                             merges=[(spelled(a), spelled(b)) for a, b in merges_of(ranks)], ignore_merges=name != "gpt2"))
    if name in ("gpt2", "p50k"):
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        t.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    out = os.path.join(folder, f"{name}.json")
    t.save(out)
    return out


class Hf:
    def __init__(self, path):
        self.t = Tokenizer.from_file(path)
        self.t.no_truncation()
        self.t.no_padding()

    def encode(self, docs, parse):
        self.t.encode_special_tokens = not parse
        return [e.ids for e in self.t.encode_batch_fast(docs, add_special_tokens=False)]

    def added(self):
        return [t.content for t in self.t.get_added_tokens_decoder().values()]


class Tik:
    def __init__(self, name, path):
        self.t = tiktoken_of(name, path)[0]

    def encode(self, docs, parse):
        if parse:
            return [self.t.encode(d, allowed_special="all") for d in docs]
        return [self.t.encode_ordinary(d) for d in docs]

    def added(self):
        return sorted(self.t.special_tokens_set)


class Spm:
    def __init__(self, path):
        self.t = sentencepiece.SentencePieceProcessor(model_file=path)

    def encode(self, docs, parse):
        return self.t.encode([d.encode() for d in docs])

    def added(self):
        return ["<s>", "</s>", "<unk>", "<0x41>"]


# ---- check ------------------------------------------------------------------------------------------------------

def ours(program, spec, docs, parse, piece, eod):
    given = [d.encode() for d in docs]
    data = b"".join(struct.pack("<I", len(d)) + d for d in given)
    r = subprocess.run([program, spec, "parse" if parse else "text", str(piece)] + ([eod] if eod else []),
                       input=data, stdout=subprocess.PIPE)
    if r.returncode != 0:
        sys.exit(f"{spec}: exit code {r.returncode}")
    words, out, at = numpy.frombuffer(r.stdout, "<u4"), [], 0
    for _ in docs:
        n = int(words[at])
        out.append(words[at + 1:at + 1 + n])
        at += 1 + n
    return out


def differ(want, got):
    return len(want) != len(got) or not numpy.array_equal(numpy.asarray(want, "u4"), got)


def compare(program, name, spec, oracle, title, corpus, parse, piece, eod):
    """One row of the table. corpus: lists of documents."""
    n = size = tokens = bad = 0
    for docs in corpus:
        want, got = oracle.encode(docs, parse), ours(program, spec, docs, parse, piece, eod)
        wrong = [i for i in range(len(docs)) if differ(want[i], got[i])]
        n += len(docs)
        size += sum(len(d.encode()) for d in docs)
        tokens += sum(map(len, want))
        if wrong and not bad:
            i = min(wrong, key=lambda i: len(docs[i]))
            k = next((k for k, (a, b) in enumerate(zip(want[i], got[i])) if a != b), min(len(want[i]), len(got[i])))
            print(f"  document {i} of {len(docs[i])} characters, token {k}: {want[i][k:k + 8]} is ours "
                  f"{got[i][k:k + 8]}: {docs[i][:300]!r}", file=sys.stderr)
        bad += len(wrong)
    print(f"{name}\t{title}{', specials parsed' if parse else ''}\t{piece}\t{n}\t{size}\t{tokens}\t{bad}", flush=True)
    return bad


def check(args):
    bad = 0
    print("# tokenizer\tcorpus\tpiece\tdocuments\tbytes\ttokens\tdocuments_that_differ")
    with tempfile.TemporaryDirectory() as folder:
        for vocab in args.vocab:
            name, path = vocab.split("=", 1)
            if name.startswith("tiktoken:"):
                enc = name.split(":")[1]
                oracle, spec = Tik(enc, path), f"tiktoken:{enc}:{path}"
            elif name.startswith("spm:"):
                oracle, spec = Spm(path), path
            else:
                path = hf_of(name[3:], path, folder) if name.startswith("hf:") else path
                oracle, spec = Hf(path), path
            rng = random.Random(SEED)
            added = oracle.added()
            added = rng.sample(added, min(len(added), 60))
            for title, docs in generated(added, args.generated) if args.generated else []:
                for parse in (False, True):
                    if parse and (title not in ("white space, added tokens", "random UTF-8") or name.startswith("spm:")):
                        continue
                    for piece in args.pieces:
                        bad += compare(args.mktokens, name, spec, oracle, title, [docs], parse, piece, args.eod)
            for file in args.file:
                bad += compare(args.mktokens, name, spec, oracle, os.path.basename(file), blocks(file, args.bytes), False,
                               args.pieces[0], args.eod)
    sys.exit(1 if bad else 0)


# ---- goldens ----------------------------------------------------------------------------------------------------

def trained(vocab, pre, norm=None, ignore=False, words=None):
    t = Tokenizer(models.BPE(ignore_merges=ignore))
    if norm:
        t.normalizer = norm
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    rng = random.Random(SEED)
    with open(os.path.join(HERE, "..", "..", "README.md"), encoding="utf-8") as f:
        text = f.read().split("\n")
    t.train_from_iterator(text + [languages(rng, 3000), mess(rng, 3000, [])] + (words or []), trainer)
    return t


def golden_gpt2():
    t = trained(700, pre_tokenizers.ByteLevel(add_prefix_space=False))
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.add_special_tokens([AddedToken("<|endoftext|>", normalized=True)])
    return t


def golden_neox():
    t = trained(600, pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC())
    t.add_special_tokens([AddedToken("<|endoftext|>", normalized=False), AddedToken("<|padding|>", normalized=False)])
    t.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    t.add_tokens([AddedToken("\u00e9t\u00e9", normalized=True), AddedToken("a\u030angstrom", normalized=True)])
    return t


def golden_llama3():
    t = trained(800, pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        ignore=True)
    t.add_special_tokens([AddedToken(s, normalized=False) for s in ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")])
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 800)])])
    d = json.loads(t.to_str())  # words that no merge makes: only ignore_merges finds them
    spare = [k for k in d["model"]["vocab"] if len(k) == 4][:12]
    d["model"]["merges"] = [m for m in d["model"]["merges"] if "".join(m) not in spare and not any(p in spare for p in m)]
    return Tokenizer.from_str(json.dumps(d))


def golden_added():
    t = trained(520, pre_tokenizers.ByteLevel(add_prefix_space=True))
    t.add_special_tokens([AddedToken("</s>", normalized=False), AddedToken("<mask>", lstrip=True, normalized=False)])
    t.add_special_tokens([AddedToken("<mask>>", normalized=False), AddedToken("<right>", rstrip=True, normalized=False)])
    t.add_tokens([AddedToken("word", single_word=True, normalized=False), AddedToken("<both>", lstrip=True, rstrip=True),
                  AddedToken("wordy", normalized=True), AddedToken("\u00e9", single_word=True, normalized=True)])
    return t


def make(args):
    for name, build in (("gpt2", golden_gpt2), ("neox", golden_neox), ("llama3", golden_llama3), ("added", golden_added)):
        t = build()
        folder = os.path.join(args.output, name)
        os.makedirs(folder, exist_ok=True)
        d = json.loads(t.to_str())
        if name == "gpt2":  # the spelling of old files
            d["model"]["merges"] = [" ".join(m) for m in d["model"]["merges"]]
            for key in ("ignore_merges", "byte_fallback", "type"):
                d["model"].pop(key)
        path = os.path.join(folder, "tokenizer.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(d, f, ensure_ascii=False, separators=(",", ":"))
            f.write("\n")
        oracle = Hf(path)
        docs = documents(lambda r, n: mess(r, n, oracle.added()), 6000, 900, SEED) + documents(languages, 2000, 900, SEED)
        docs += documents(any_utf8, 1000, 300, SEED) + ["a" * 2000, " " * 500, "word", "word " * 20, "x<mask>", " <mask> <mask>"]
        with open(os.path.join(folder, "cases.bin"), "wb") as f:  # little-endian: three lengths, text, ids of it as text, parsed
            for doc, plain, parsed in zip(docs, oracle.encode(docs, False), oracle.encode(docs, True)):
                text, ids = doc.encode(), plain + parsed
                f.write(struct.pack("<3I", len(text), len(plain), len(parsed)) + text + struct.pack(f"<{len(ids)}H", *ids))


def main():
    p = argparse.ArgumentParser()
    sub = p.add_subparsers(required=True)
    m = sub.add_parser("make")
    m.add_argument("-o", "--output", default=os.path.join(HERE, "..", "golden", "tokenizer"))
    m.set_defaults(run=make)
    c = sub.add_parser("check")
    c.add_argument("--mktokens", default="build/release/tests/mktokens")
    c.add_argument("--generated", type=int, default=2000000, help="bytes of each generated corpus")
    c.add_argument("--bytes", type=int, default=1 << 40, help="bytes of each file")
    c.add_argument("--pieces", type=lambda s: [int(x) for x in s.split(",")], default=[65536, 7])
    c.add_argument("--eod", help="the end token, where none of the usual ones is there")
    c.add_argument("--file", action="append", default=[], help="text to compare on")
    c.add_argument("vocab", nargs="+")
    c.set_defaults(run=check)
    args = p.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
