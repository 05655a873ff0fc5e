#!/usr/bin/env python3
# encode.py - MB/s of one core, text to ids: ours, where its time goes, and gigatoken, tiktoken and tokenizers in turns
# SPDX-License-Identifier: MIT
#
# Usage: encode.py VOCAB TEXT [TIMES]       VOCAB: gpt2.tiktoken (tests/oracle/corpora.sh fetches it), or a tokenizer.json
# Environment: SSM_BIN, SSM_TESTS. pip install tokenizers tiktoken gigatoken sentencepiece numpy; those that are not there are
# left out.
#
# All read the same text, in documents of 1 MB, with nothing remembered from before; each has its turn in each of TIMES (5)
# rounds, and the best counts, by processor time, one thread. 'tokshard encode' is the whole way, from a file in the page
# cache to a shard that is on the disk; the others make ids in memory.
import os
import resource
import subprocess
import sys
import tempfile
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
here = os.path.dirname(os.path.abspath(__file__))
sys.path = [p for p in sys.path if os.path.abspath(p or ".") != here]  # this file is called like the library

vocab, path = sys.argv[1:3]
times = int(sys.argv[3]) if len(sys.argv) > 3 else 5
bin = os.environ.get("SSM_BIN", "build/release/bin")
tests = os.environ.get("SSM_TESTS", os.path.join(bin, "..", "tests"))
text = open(path, encoding="utf-8", errors="replace").read()
docs = [text[i:i + 1000000] for i in range(0, len(text), 1000000)]

given = [d.encode() for d in docs]
few = docs[:8]  # of the slow ones
few_size = sum(len(d.encode()) for d in few)
size = sum(map(len, given))


def children():
    u = resource.getrusage(resource.RUSAGE_CHILDREN)
    return u.ru_utime + u.ru_stime


def timed(call, n):
    begin = time.process_time()
    call()
    return 1e-6 * n / (time.process_time() - begin)


def of_mktokens(spec):
    r = subprocess.run([os.path.join(tests, "mktokens"), spec, "time", "1", path], stdout=subprocess.PIPE, text=True, check=True)
    return float(r.stdout.split()[0])


def of_tokshard(spec, folder):
    before = children()
    subprocess.run([os.path.join(bin, "tokshard"), "encode", "-q", "-f", "--split", "para", "--utf8", "replace",
                    "--tokenizer", spec, "-o", os.path.join(folder, "set"), path], check=True)
    return 1e-6 * size / (children() - before)


def programs(folder):
    """name -> a call that returns MB/s"""
    made, spec, hf = {}, vocab, vocab
    try:
        import importlib.util
        loader = importlib.util.spec_from_file_location("oracle", os.path.join(here, "..", "oracle", "token_ids.py"))
        oracle = importlib.util.module_from_spec(loader)
        loader.loader.exec_module(oracle)
    except ImportError as e:
        print(f"# no tokenizers, no tiktoken: {e}")
        oracle = None
    if vocab.endswith(".tiktoken"):
        spec = f"tiktoken:gpt2:{vocab}"
        hf = oracle.hf_of("gpt2", vocab, folder) if oracle else None
    made["tokshard encode, to the disk"] = lambda: of_tokshard(spec, folder)
    made["ours, ids"] = lambda: of_mktokens(spec)
    try:
        import gigatoken

        def of_gigatoken():  # a new one each time: it remembers words
            t = gigatoken.Tokenizer(hf)
            return timed(lambda: t.encode_batch(given, parallel=False), size)
        if hf:
            of_gigatoken()
            made["gigatoken, ids"] = of_gigatoken
    except Exception as e:
        print(f"# no gigatoken: {e}")
    if oracle:
        if vocab.endswith(".tiktoken"):
            tik = oracle.tiktoken_of("gpt2", vocab)[0]
            made["tiktoken, ids"] = lambda: timed(lambda: [tik.encode_ordinary(d) for d in few], few_size)
        t = oracle.Hf(hf).t
        made["tokenizers, ids"] = lambda: timed(lambda: [t.encode(d, add_special_tokens=False) for d in few], few_size)
    return made, hf


with tempfile.TemporaryDirectory() as folder:
    made, hf = programs(folder)
    best = {}
    for _ in range(times):
        for name, call in made.items():
            best[name] = max(best.get(name, 0), call())
    print(f"# program\tMB/s a core\t({os.path.basename(path)}, {size} bytes, {os.path.basename(vocab)}, cold, best of {times})")
    for name, rate in best.items():
        print(f"{name}\t{rate:.1f}")
    if hf:
        sys.stdout.flush()
        subprocess.run([os.path.join(tests, "mktokens"), hf, "profile", str(times), path, folder], check=True)
