#!/usr/bin/env python3
# encode.py - MB/s of one core, GPT-2's vocabulary, a cold cache: ours beside tiktoken and tokenizers, in turns
# SPDX-License-Identifier: MIT
#
# Usage: encode.py RANK-FILE TEXT [TIMES]      (gpt2.tiktoken of PyPI's openai-whisper; pip install tokenizers tiktoken)
# Environment: MKTOKENS. All read the same text in documents of 1 MB; each prints its best of TIMES (3), by processor time.
import os
import subprocess
import sys
import tempfile
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
here = os.path.dirname(os.path.abspath(__file__))
sys.path = [p for p in sys.path if os.path.abspath(p or ".") != here]  # this file is called like the library
import importlib.util

spec = importlib.util.spec_from_file_location("oracle", os.path.join(here, "..", "oracle", "token_ids.py"))
oracle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(oracle)

ranks, path = sys.argv[1:3]
times = int(sys.argv[3]) if len(sys.argv) > 3 else 3
program = os.environ.get("MKTOKENS", "build/release/tests/mktokens")
text = open(path, encoding="utf-8", errors="replace").read()
docs = [text[i:i + 1000000] for i in range(0, len(text), 1000000)]
part = docs[:8]  # of the slow ones
size = sum(len(d.encode()) for d in part)
best = {}
with tempfile.TemporaryDirectory() as folder:
    hf = oracle.hf_of("gpt2", ranks, folder)
    for _ in range(times):
        for name, what in (("ours, rank file", f"tiktoken:gpt2:{ranks}"), ("ours, tokenizer.json", hf)):
            r = subprocess.run([program, what, "time", "1", path], stdout=subprocess.PIPE, text=True, check=True)
            best[name] = max(best.get(name, 0), float(r.stdout.split()[0]))
        for name, encode in (("tiktoken", oracle.tiktoken_of("gpt2", ranks)[0].encode_ordinary),
                             ("tokenizers", lambda d, t=oracle.Hf(hf): t.t.encode(d, add_special_tokens=False))):
            begin = time.process_time()
            for d in part:
                encode(d)
            best[name] = max(best.get(name, 0), 1e-6 * size / (time.process_time() - begin))
print(f"# program\tMB/s a core\t({os.path.basename(path)}, GPT-2, cold, best of {times})")
for name, rate in best.items():
    print(f"{name}\t{rate:.1f}")
