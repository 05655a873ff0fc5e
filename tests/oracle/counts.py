#!/usr/bin/env python3
# counts.py - parameters of the released models, counted by building them on torch's meta device
# SPDX-License-Identifier: MIT
#
# Usage: counts.py >tests/oracle/counts.tsv
#
# Columns: name, parameters (a tied embedding once, vocabulary as padded in the release), source. Where transformers
# cannot build a model, the figure is one cited, and the source says from where.
import os
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
warnings.filterwarnings("ignore")

import torch
import transformers as tf

META = f"transformers {tf.__version__} meta"


def count(cls, config):
    with torch.device("meta"):
        model = cls(config)
    return sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())


def rows():
    # state-spaces: vocabulary 50277 padded to 50280 (Mamba-1) and 50288 (Mamba-2)
    for name, d, n in (("130m", 768, 24), ("370m", 1024, 48), ("790m", 1536, 48), ("1.4b", 2048, 48),
                       ("2.8b", 2560, 64)):
        yield "mamba-" + name, count(tf.MambaForCausalLM, tf.MambaConfig(
            vocab_size=50280, hidden_size=d, num_hidden_layers=n)), META
    for name, d, n in (("130m", 768, 24), ("370m", 1024, 48), ("780m", 1536, 48), ("1.3b", 2048, 48),
                       ("2.7b", 2560, 64)):
        yield "mamba2-" + name, count(tf.Mamba2ForCausalLM, tf.Mamba2Config(
            vocab_size=50288, hidden_size=d, num_hidden_layers=n, num_heads=d * 2 // 64, head_dim=64, n_groups=1,
            tie_word_embeddings=True)), META

    # NVIDIA's 8B study: vocabulary 256000, untied
    yield "mamba-8b", count(tf.MambaForCausalLM, tf.MambaConfig(
        vocab_size=256000, hidden_size=4096, num_hidden_layers=56, state_size=128,
        tie_word_embeddings=False)), META + ", state 128"
    yield "mamba2-8b", count(tf.NemotronHForCausalLM, nemotron_h(
        "M" * 56, 4096, 16384, 32, 128, 64, 128, vocab_size=256000)), META + ", as NemotronH"
    yield "mamba2-hybrid-8b", count(tf.NemotronHForCausalLM, nemotron_h(
        "M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-", 4096, 16384, 32, 128, 64, 128,
        vocab_size=256000)), META + ", as NemotronH"
    yield "gpt-8b", count(tf.NemotronForCausalLM, tf.NemotronConfig(
        vocab_size=256000, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32,
        intermediate_size=16384)), META + ", as Nemotron: LayerNorm1P with biases"

    # Nemotron-H
    p52 = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"
    p98 = ("M-M-M-M-M-M-M-M-M*-M-M-M-M-M-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-M-M---MM---M-M*"
           "-M-M-M-M-M-")
    p118 = "M-M-M-M*" + "-M-M-M-M-M*" * 9 + "-M-M-M-M-M-"
    p56 = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"
    p62 = "M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-"
    for name, pattern, layers, mix, args in (
            ("nemotron-h-4b", p52, 52, (24, 4, 24), (3072, 12288, 32, 112, 64, 128)),
            ("nemotron-h-8b", p52, 52, (24, 4, 24), (4096, 21504, 32, 128, 64, 128)),
            ("nemotron-h-47b", p98, 98, (45, 5, 48), (8192, 30720, 64, 256, 64, 256)),
            ("nemotron-h-56b", p118, 118, (54, 10, 54), (8192, 32768, 64, 256, 64, 256)),
            ("nemotron-nano-9b-v2", p56, 56, (27, 4, 25), (4480, 15680, 40, 128, 80, 128)),
            ("nemotron-nano-12b-v2", p62, 62, (28, 6, 28), (5120, 20480, 40, 128, 80, 128))):
        assert (len(pattern), tuple(pattern.count(c) for c in "M*-")) == (layers, mix), name
        yield name, count(tf.NemotronHForCausalLM, nemotron_h(pattern, *args)), META

    for name, d, ff, heads, n in (("2b", 2560, 7680, 10, 26), ("9b", 4096, 12288, 16, 38)):
        yield "recurrentgemma-" + name, count(tf.RecurrentGemmaForCausalLM, tf.RecurrentGemmaConfig(
            vocab_size=256000, hidden_size=d, intermediate_size=2 * ff, num_attention_heads=heads,
            num_key_value_heads=1, num_hidden_layers=n)), META
    yield "griffin-7b", count(tf.RecurrentGemmaForCausalLM, tf.RecurrentGemmaConfig(
        vocab_size=256000, hidden_size=4096, intermediate_size=2 * 12288, num_attention_heads=32, lru_width=5632,
        num_key_value_heads=1, num_hidden_layers=32)), META + ", as RecurrentGemma, vocabulary 256000"
    yield "hawk-7b", count(tf.RecurrentGemmaForCausalLM, tf.RecurrentGemmaConfig(
        vocab_size=256000, hidden_size=4096, intermediate_size=2 * 12288, num_attention_heads=32, lru_width=5632,
        num_key_value_heads=1, num_hidden_layers=32, block_types=["recurrent"])), META + ", as RecurrentGemma, vocabulary 256000"

    # ibm-fms/Bamba-9B's config.json
    yield "bamba-9b", count(tf.BambaForCausalLM, tf.BambaConfig(
        vocab_size=128256, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        attn_layer_indices=[9, 18, 27], intermediate_size=14336, mamba_n_heads=128, mamba_d_head=64,
        mamba_d_state=128, mamba_n_groups=1)), META


def nemotron_h(pattern, d, ff, heads, ssm_heads, headdim, state, vocab_size=131072):
    return tf.NemotronHConfig(
        vocab_size=vocab_size, hybrid_override_pattern=pattern, hidden_size=d, intermediate_size=ff,
        num_attention_heads=heads, num_key_value_heads=8, head_dim=128, mamba_num_heads=ssm_heads,
        mamba_head_dim=headdim, ssm_state_size=state, n_groups=8)


print("# name\tparameters\tsource")
for row in rows():
    print(*row, sep="\t", flush=True)
