#!/usr/bin/env python3
# peer.py - tokens/s of a training step of PyTorch and transformers on this machine's CPU
# SPDX-License-Identifier: MIT
#
# Usage: OMP_NUM_THREADS=2 peer.py [-n STEPS] [--tokens N] [MODEL...]       MODEL: see MODELS below
#
# One step is forward, loss and backward in fp32; no optimizer, no compilation, the plain torch paths. Shapes are those
# of pipelines/models/MODEL.conf; a model that transformers has no class for is passed over. Prints
#   peer  MODEL  tokens/s  batch x tokens  threads  parameters  torch's sgemm GFLOP/s
import argparse
import os
import time
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
warnings.filterwarnings("ignore")

import torch
import transformers as tf

PRESETS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "pipelines", "models")
DEMO_VOCAB = 264  # demos take the vocabulary of their tokenizer (bytes, padded); --vocab says another


def preset(name):
    """The "name = value" lines of a preset; None without the file."""
    path = os.path.join(PRESETS, name + ".conf")
    if not os.path.exists(path):
        return None
    out = {}
    with open(path) as f:
        for line in f:
            key, eq, value = line.split("#")[0].partition("=")
            if eq:
                out[key.strip()] = value.strip()
    return out


def number(conf, name, default=None):
    if name not in conf and default is None:
        raise SystemExit(f"the preset has no '{name}'")
    return int(conf.get(name, default))


def vocab(conf, opt):
    v, m = int(conf.get("vocab", opt.vocab)), int(conf.get("vocab_multiple", 1))
    return (v + m - 1) // m * m


def mamba2(conf, opt):
    d, inner = number(conf, "d_model"), number(conf, "n_heads") * number(conf, "headdim")
    return tf.Mamba2ForCausalLM(tf.Mamba2Config(
        vocab_size=vocab(conf, opt), hidden_size=d, num_hidden_layers=len(conf["pattern"]), expand=inner // d,
        num_heads=number(conf, "n_heads"), head_dim=number(conf, "headdim"), n_groups=number(conf, "n_groups"),
        state_size=number(conf, "d_state"), chunk_size=number(conf, "chunk"), use_cache=False,
        tie_word_embeddings=conf.get("tied") == "true"))


def mamba(conf, opt):
    return tf.MambaForCausalLM(tf.MambaConfig(
        vocab_size=vocab(conf, opt), hidden_size=number(conf, "d_model"), num_hidden_layers=len(conf["pattern"]),
        expand=number(conf, "d_inner") // number(conf, "d_model"), state_size=number(conf, "d_state"), use_cache=False,
        tie_word_embeddings=conf.get("tied") == "true"))


def gpt(conf, opt):
    """A pattern of *- pairs with RMSNorm, RoPE and SwiGLU: Llama."""
    heads = number(conf, "attn_heads")
    return tf.LlamaForCausalLM(tf.LlamaConfig(
        vocab_size=vocab(conf, opt), hidden_size=number(conf, "d_model"), num_hidden_layers=conf["pattern"].count("*"),
        num_attention_heads=heads, num_key_value_heads=number(conf, "attn_kv_heads", default=heads),
        head_dim=number(conf, "attn_headdim"), intermediate_size=number(conf, "d_ff"), use_cache=False,
        tie_word_embeddings=conf.get("tied") == "true"))


def griffin(conf, opt):
    """A pattern of R and L, each followed by a gated MLP, as RecurrentGemma, whose gates have a block a head."""
    mixers = [c for c in conf["pattern"] if c in "RL"]
    if conf["pattern"] != "".join(c + "-" for c in mixers):
        raise SystemExit("griffin: the pattern is not of R- and L-")
    return tf.RecurrentGemmaForCausalLM(tf.RecurrentGemmaConfig(
        vocab_size=vocab(conf, opt), hidden_size=number(conf, "d_model"), num_hidden_layers=len(mixers),
        block_types=["recurrent" if c == "R" else "attention" for c in mixers],
        lru_width=number(conf, "lru_width"),
        num_attention_heads=number(conf, "attn_heads"), num_key_value_heads=number(conf, "attn_kv_heads", default=1),
        attention_window_size=number(conf, "window"), intermediate_size=2 * number(conf, "d_ff"),
        use_cache=False, tie_word_embeddings=conf.get("tied") == "true"))


MODELS = {"mamba2-130m": (mamba2, 1, 1024), "mamba-130m": (mamba, 1, 1024), "mamba2-demo": (mamba2, 8, 512),
          "mamba-demo": (mamba, 8, 512), "gpt-demo": (gpt, 8, 512), "griffin-demo": (griffin, 8, 512)}


def sgemm():
    """The best of a few sizes, GFLOP/s."""
    best = 0.0
    for n in (1024, 2048):
        a, b = torch.randn(n, n), torch.randn(n, n)
        torch.mm(a, b)
        for _ in range(5):
            t = time.perf_counter()
            torch.mm(a, b)
            best = max(best, 2 * n**3 / (time.perf_counter() - t) / 1e9)
    return best


def step(model, ids):
    t = time.perf_counter()
    model.zero_grad(set_to_none=True)
    logits = model(input_ids=ids, use_cache=False).logits
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    return time.perf_counter() - t


def main():
    ap = argparse.ArgumentParser(description="Times training steps of PyTorch and transformers.")
    ap.add_argument("-n", type=int, default=3, help="timed steps; the best counts")
    ap.add_argument("--tokens", type=int, help="tokens of a sequence, in place of the model's own number")
    ap.add_argument("--vocab", type=int, default=DEMO_VOCAB, help="vocabulary of a preset that has none")
    ap.add_argument("model", nargs="*", default=list(MODELS))
    opt = ap.parse_args()
    threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    limit = sgemm()
    print(f"# transformers {tf.__version__} torch {torch.__version__} sgemm {limit:.1f} GFLOP/s", flush=True)
    for name in opt.model:
        conf = preset(name)
        if conf is None or name not in MODELS:
            print(f"# no peer for {name}")
            continue
        make, batch, length = MODELS[name]
        length = opt.tokens or length
        model = make(conf, opt).train()
        ids = torch.randint(0, vocab(conf, opt), (batch, length))
        step(model, ids[:, :length // 4])  # warm
        best = min(step(model, ids) for _ in range(opt.n))
        n = sum(p.numel() for p in model.parameters())
        print(f"peer\t{name}\t{batch * length / best:.1f}\t{batch} x {length}\t{threads}\t{n}\t{limit:.1f}", flush=True)


if __name__ == "__main__":
    main()
