#!/usr/bin/env python3
"""bpe_train.py - holds 'tokshard train' against Hugging Face's BpeTrainer.
SPDX-License-Identifier: MIT

usage: bpe_train.py compare TOKENIZER.json TEXT [--vocab N] [--min-frequency N] [--split file|line]
           trains on the same documents: the same vocabulary, merges, and ids of the text?
       bpe_train.py golden [-o DIR]            (default: tests/golden/bpe_train)
           DIR/NAME.txt, and DIR/NAME.json: its words, and the tokens and merges that they should give
"""
import argparse, collections, json, os, random, sys, time
import tokenizers
from tokenizers import Tokenizer, models, trainers, pre_tokenizers, decoders, processors


def learn(docs, pre, vocab, least, specials):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre
    t.train_from_iterator(docs, trainers.BpeTrainer(
        vocab_size=vocab, min_frequency=least, special_tokens=specials, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return t


def parts(t):
    m = json.loads(t.to_str())["model"]
    merges = [tuple(x.split(" ")) if isinstance(x, str) else tuple(x) for x in m["merges"]]
    return m["vocab"], merges


def documents(path, split):
    text = open(path, "rb").read().decode()
    if split != "line":
        return [text]
    lines = text.split("\n")
    return [d[:-1] if d.endswith("\r") and i + 1 < len(lines) else d for i, d in enumerate(lines) if d.strip(" \t\r")]


def compare(a):
    docs = documents(a.text, a.split)
    ours = Tokenizer.from_file(a.tokenizer)
    j = json.load(open(a.tokenizer))
    specials = [x["content"] for x in j["added_tokens"]]
    start = time.time()
    theirs = learn(docs, ours.pre_tokenizer, a.vocab or ours.get_vocab_size(), a.min_frequency, specials)
    (v1, m1), (v2, m2) = parts(ours), parts(theirs)
    first = next((i for i, (x, y) in enumerate(zip(m1, m2)) if x != y), None)
    same = v1 == v2 and m1 == m2
    sample = "\n".join(docs)[:200000]
    ids = ours.encode(sample).ids == theirs.encode(sample).ids
    back = ours.decode(ours.encode(sample).ids, skip_special_tokens=False) == sample
    print("tokenizers %s: vocabulary %s (%d), merges %s (%d; first difference %s), ids %s, text back %s, %.1f s" % (
        tokenizers.__version__, v1 == v2, len(v1), m1 == m2, len(m1), first, ids, back, time.time() - start))
    return 0 if same and ids and back else 1


def golden(a):
    os.makedirs(a.o, exist_ok=True)
    draw = random.Random(2)
    syllables = ["ka", "to", "mi", "ra", "n", "shi", "be", "lo", "-", "é", "ж", "日本", "'s", "12", "aa", "aaa"]
    plain = " ".join("".join(draw.choice(syllables) for _ in range(draw.randrange(1, 6))) for _ in range(1500))
    runs = " ".join("".join(draw.choice("ab") * draw.choice([1, 1, 2, 3, 5, 8]) for _ in range(draw.randrange(1, 9)))
                    for _ in range(600)) + "\n" + "\n".join("-" * n + " " * (n % 7) + "=" * (n // 2) for n in range(60))
    for name, text, vocab, least, specials in [
            ("plain", plain, 600, 2, ["<|endoftext|>", "<pad>"]), ("runs", runs, 700, 1, []),
            ("clash", plain, 400, 3, ["a", "ka", "Ġto", "zz"])]:
        with open(os.path.join(a.o, name + ".txt"), "w") as f:
            f.write(text)
        t = learn([text], pre_tokenizers.ByteLevel(add_prefix_space=False), vocab, least, specials)
        v, m = parts(t)
        with open(os.path.join(a.o, name + ".json"), "w") as f:
            pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
            words = collections.Counter(text[x:y] for _, (x, y) in pre.pre_tokenize_str(text))
            json.dump({"vocab": vocab, "least": least, "specials": specials, "words": words,
                       "tokens": [k for k, _ in sorted(v.items(), key=lambda x: x[1])], "merges": m}, f,
                      ensure_ascii=False, separators=(",", ":"))
            f.write("\n")
        print(name, len(v), len(m))
    return 0


p = argparse.ArgumentParser()
s = p.add_subparsers(dest="what", required=True)
c = s.add_parser("compare")
c.add_argument("tokenizer")
c.add_argument("text")
c.add_argument("--vocab", type=int)
c.add_argument("--min-frequency", type=int, default=2)
c.add_argument("--split", default="file")
g = s.add_parser("golden")
g.add_argument("-o", default=os.path.join(os.path.dirname(__file__), "../golden/bpe_train"))
a = p.parse_args()
sys.exit(compare(a) if a.what == "compare" else golden(a))
