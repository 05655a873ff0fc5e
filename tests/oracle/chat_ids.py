#!/usr/bin/env python3
"""chat_ids.py - ids and masks of conversations as transformers' apply_chat_template() makes them, for 'tokshard pack'.
SPDX-License-Identifier: MIT

usage: chat_ids.py golden TOKENIZER.json [-o DIR]     (default: tests/golden/chat)
           DIR/tokenizer.json, a copy; DIR/talks.jsonl, conversations; DIR/chatml.txt, DIR/llama3.txt: 'ids|mask' of each,
           the end-of-document token behind it, which does not count
       chat_ids.py check TOKENIZER.json TEMPLATE TALKS.jsonl <IDS_AND_MASKS
           holds lines of 'tokshard cat --ids' and '--mask', joined by '|', against transformers, in any order

The tokenizer is one of 'tokshard train', with the special tokens of both templates; the first of them ends a document. Not
among the conversations: special tokens in messages, which transformers takes for what they look like, and answers that begin with
white space, whose first token transformers may let begin in front of the answer.
"""
import argparse, json, os, random, shutil, sys
from transformers import PreTrainedTokenizerFast, __version__

TEMPLATES = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>"
              "{% endgeneration %}{% else %}{{ m['content'] }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}", # a bare line end behind a tag goes
    "llama3": "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{% if m['role'] == 'assistant' %}"
              "{% generation %}{{ m['content'] | trim }}<|eot_id|>{% endgeneration %}{% else %}{{ m['content'] | trim }}<|eot_id|>{% endif %}{% endfor %}",
}


def load(path):
    specials = [t["content"] for t in json.load(open(path))["added_tokens"]]
    return PreTrainedTokenizerFast(tokenizer_file=path, clean_up_tokenization_spaces=False), specials


def lines(tok, specials, template, talks):
    tok.chat_template = TEMPLATES[template]
    eod = tok.convert_tokens_to_ids(specials[0])
    for talk in talks:
        r = tok.apply_chat_template(talk["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        yield "%s|%s" % (" ".join(map(str, r["input_ids"] + [eod])), " ".join(map(str, r["assistant_masks"] + [0])))


def make_talks():
    draw = random.Random(5)
    words = ["the", "model", "Training", "tokens", "é", "日本語", "12345", "it's", "x = y + 1;", "documents", "\n", "  ", "\n\n", "\t", "?", "...", "HDF5", "🙂", "see"]
    text = lambda n: " ".join(draw.choice(words) for _ in range(draw.randrange(1, n)))
    for i in range(24):
        messages = [{"role": "system", "content": text(8)}] if i % 3 == 0 else []
        for _ in range(draw.randrange(1, 4)):
            messages += [{"role": "user", "content": text(20)}, {"role": "assistant", "content": "So " + text(20)}]
        yield {"messages": messages}


def main():
    a = argparse.ArgumentParser()
    a.add_argument("what", choices=["golden", "check"])
    a.add_argument("tokenizer")
    a.add_argument("rest", nargs="*")
    a.add_argument("-o", default=os.path.join(os.path.dirname(__file__), "..", "golden", "chat"))
    a = a.parse_args()
    tok, specials = load(a.tokenizer)
    if a.what == "check":
        template, path = a.rest
        want = sorted(lines(tok, specials, template, [json.loads(l) for l in open(path)]))
        got = sorted(l.rstrip("\n") for l in sys.stdin)
        bad = sum(x != y for x, y in zip(want, got)) + abs(len(want) - len(got))
        print("transformers %s: %d conversations, %d differ" % (__version__, len(want), bad))
        return bad > 0
    os.makedirs(a.o, exist_ok=True)
    talks = list(make_talks())
    shutil.copy(a.tokenizer, os.path.join(a.o, "tokenizer.json"))
    with open(os.path.join(a.o, "talks.jsonl"), "w") as f:
        f.writelines(json.dumps(t) + "\n" for t in talks)
    for template in TEMPLATES:
        with open(os.path.join(a.o, template + ".txt"), "w") as f:
            f.writelines(l + "\n" for l in lines(tok, specials, template, talks))


if __name__ == "__main__":
    sys.exit(main())
