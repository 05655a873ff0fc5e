#!/usr/bin/env python3
"""sentencepiece_ids.py - tiny SentencePiece models, texts, and the ids that PyPI's sentencepiece gives them.
SPDX-License-Identifier: MIT

usage: sentencepiece_ids.py [-o DIR] [CASE...]       (default: tests/golden/sentencepiece, all cases)

DIR/CASE.model; DIR/CASE.jsonl: one object a text, {"hex": bytes, "ids": [...], "out": bytes of decode(ids), or null
where those are not UTF-8 (decode() then puts U+FFFD, tokshard the bytes)}.
"""
import argparse, io, json, os, random
import sentencepiece as sp

CORPUS = """The quick brown fox jumps over the lazy dog, and then the dog sleeps for 1234 hours.
Der schnelle braune Fuchs springt über den faulen Hund; Größe und Maß, Straße und Äpfel.
Le renard brun saute par-dessus le chien paresseux. L'été, ça va très bien, merci à tous.
Быстрая коричневая лиса перепрыгивает через ленивую собаку. Это просто текст на русском языке.
敏捷的棕色狐狸跳过了懒狗。这是一个用于测试的中文文本。 素早い茶色の狐は怠け者の犬を飛び越えます。
السلام عليكم ورحمة الله وبركاته، هذا نص عربي للاختبار. नमस्ते दुनिया, यह एक परीक्षण है।
for (int i = 0; i < n; i++) { sum += x[i] * y[i]; } /* 3.14159 */ return sum;
안녕하세요 세계, 이것은 시험입니다. Γειά σου Κόσμε, αυτό είναι ένα τεστ.""".split("\n")

TEXTS = [t.encode() for t in CORPUS] + [
    b"", b" ", b"  ", b"a", b" a", b"a ", b"  two  blanks  ", b"tab\there\nline\r\nend\n", b"\n\n\n", b"\x00nul\x00 in it",
    "e\u0301 vs \u00e9, \uff21\uff22\uff23 \u00bd \u2460 \ufb01".encode(), "\u2581low\u2581line".encode(), "\ufeffmark".encode(),
    "emoji \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 end".encode(), "\u3000ideographic\u00a0blank".encode(),
    b"<s> and </s> and <unk> and <0x41> and <sep>x<sep> <sep> y", b"bad \xff\xfe\xc3 utf-8 \xe4\xb8 \xed\xa0\x80 end\xf0\x9f",
    b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 9, b"0123456789" * 5, ("ſ ß ẞ ı İ ǅ " * 3).encode(),
    "漢字かな交じり文 and ünïcödé 🎉🎉🎉 mixed всё вместе".encode()]

RULES = "41 42\t61 62\n41\t61\nE9\t65 301\nFB01\t66 69\n1F389\t\n21\t20 21\n"  # hex: source, target (may be nothing)
CASES = {
    # as Llama 2 and its kin: nothing normalised, blanks kept, bytes for what is unknown
    "bpe-bytes": dict(model_type="bpe", vocab_size=640, byte_fallback=True, normalization_rule_name="identity",
                      remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True),
    # the defaults, but for the rules of normalisation: those of NFKC are a file of 240 kB
    "unigram": dict(model_type="unigram", vocab_size=420, normalization_rule_tsv=True, character_coverage=0.98),
    "unigram-bytes": dict(model_type="unigram", vocab_size=600, byte_fallback=True, normalization_rule_name="identity",
                          add_dummy_prefix=False, user_defined_symbols=["<sep>", "  "]),
    "bpe-suffix": dict(model_type="bpe", vocab_size=420, normalization_rule_name="identity", character_coverage=0.98,
                       treat_whitespace_as_suffix=True, pad_id=3, eos_id=2),
    # not for the golden folder: 240 kB
    "nfkc": dict(model_type="unigram", vocab_size=420, byte_fallback=False, character_coverage=0.99),
}
STORED = [c for c in CASES if c != "nfkc"]


def texts():
    draw = random.Random(1)
    words = " ".join(CORPUS).split()
    for n in (3, 30, 150):
        yield " ".join(draw.choice(words) for _ in range(n)).encode()
    for _ in range(4):
        yield "".join(chr(draw.choice([draw.randrange(32, 127), draw.randrange(0xA0, 0x3000), draw.randrange(0x4E00, 0x9FFF)]))
                      for _ in range(40)).encode()


def make(case, folder):
    o = dict(CASES[case])
    if o.pop("normalization_rule_tsv", None):
        rules = os.path.join(folder, "rules.tmp")
        with open(rules, "w") as f:
            f.write(RULES)
        o["normalization_rule_tsv"] = rules
    model = io.BytesIO()
    sp.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS * 3), model_writer=model, num_threads=1, minloglevel=2,
                                  hard_vocab_limit=False, **o)
    if "normalization_rule_tsv" in o:
        os.remove(o["normalization_rule_tsv"])
    with open(os.path.join(folder, case + ".model"), "wb") as f:
        f.write(model.getvalue())
    p = sp.SentencePieceProcessor(model_proto=model.getvalue())
    with open(os.path.join(folder, case + ".jsonl"), "w") as f:
        for t in TEXTS + list(texts()):
            ids = p.encode(t)
            out = p.decode(ids)
            exact = "\ufffd" not in out
            f.write(json.dumps({"hex": t.hex(), "ids": ids, "out": out.encode().hex() if exact else None},
                               separators=(",", ":")) + "\n")
    print(case, p.get_piece_size(), "pieces, eos", p.eos_id(), len(model.getvalue()), "bytes")


if __name__ == "__main__":
    a = argparse.ArgumentParser()
    a.add_argument("-o", default=os.path.join(os.path.dirname(__file__), "../golden/sentencepiece"))
    a.add_argument("case", nargs="*", default=STORED)
    a = a.parse_args()
    os.makedirs(a.o, exist_ok=True)
    for c in a.case:
        make(c, a.o)
