#!/usr/bin/env python3
# make.py - makes tests/golden: tiny models of other people's families, stored as they store them, and their logits
# SPDX-License-Identifier: MIT
#
# Usage: make.py [-o FOLDER] [CASE...]        (README.md here says what has to be installed)
#
# Every case is a folder with a model as transformers, state-spaces/mamba or Megatron-LM would write it, and
# logits.bin: little-endian int32 B, T, V, int32 ids[B*T], float32 logits[B*T*V], computed in fp32 by transformers
# from exactly the values in the folder. Parameters are random, but none has a value that hides its use: biases are
# not 0, norm weights not 1, dt runs from 0.001 to 0.5. Each tensor is checked to move the logits, and each folder to
# hold what was computed with.
import argparse
import io
import json
import math
import os
import random
import re
import shutil
import struct
import sys
import types
import warnings
import zlib

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
warnings.filterwarnings("ignore")

import numpy as np
import torch
import transformers as tf
from transformers.utils import logging as tf_logging

tf_logging.disable_progress_bar()
torch.set_num_threads(1)

SEED = 20260
BATCH, TOKENS, VOCAB = 2, 21, 61  # odd, more than two chunks of 8, more than any window here
HERE = os.path.dirname(os.path.abspath(__file__))


# ---- parameters -------------------------------------------------------------------------------------------------

def inverse_softplus(y):
    return y + torch.log(-torch.expm1(-y))


def uniform(shape, low, high, gen):
    return low + (high - low) * torch.rand(shape, generator=gen)


def draw(name, p, one_plus, gen):
    """A value for parameter NAME: the released init where its range matters, else wide enough to be seen."""
    leaf, shape = name.rsplit(".", 1)[-1], p.shape
    normal = torch.randn(shape, generator=gen)
    if leaf == "A_log":
        if p.ndim == 2:  # Mamba-1: A[c, n] near n + 1
            return torch.log(torch.arange(1, shape[1] + 1.0)) + 0.2 * normal
        return torch.log(uniform(shape, 1, 16, gen))
    if leaf == "D":
        return 1 + 0.5 * normal
    if leaf == "dt_bias" or name.endswith("dt_proj.bias"):
        dt = torch.exp(uniform(shape, math.log(1e-3), math.log(0.5), gen))
        dt[0], dt[-1] = 1e-3, 0.5
        return inverse_softplus(dt)
    if leaf == "recurrent_param":  # softplus(a_param) = -log r
        r2 = uniform(shape, 0.9**2, 0.999**2, gen) + 1e-8
        return torch.log(torch.exp(-0.5 * torch.log(r2)) - 1)
    if "norm" in name:
        return 0.3 * normal if one_plus or leaf == "bias" else 1 + 0.3 * normal
    if "conv" in name and leaf == "weight":
        return uniform(shape, -1, 1, gen)
    if leaf.endswith("bias"):
        return 0.3 * normal
    if "embed" in name:
        return 0.7 * normal
    if name.endswith("dt_proj.weight"):
        return uniform(shape, -1, 1, gen) * shape[1] ** -0.5
    if leaf.endswith("_gate_weight"):  # [block, in, out], x @ W
        return normal * shape[1] ** -0.5
    if re.search(r"[qk]_proj", name):  # scores of a few units: the softmax is far from flat
        return 2 * normal * shape[-1] ** -0.5
    return 1.2 * normal * shape[-1] ** -0.5


# Kept in fp32 in the files, as careful writers do; all else is bf16.
FP32 = r"(A_log|\.D|dt_bias|dt_proj\.bias|recurrent_param)$"


def build(cls, config, keep=FP32, dtype=torch.bfloat16, patch=None):
    """A model in fp32 whose values are those the file will hold, and the names kept in fp32."""
    torch.manual_seed(SEED)
    model = cls(config).eval()
    if patch:
        patch(model)
    gen = torch.Generator().manual_seed(SEED + zlib.crc32(cls.__name__.encode()) % 1000)
    one_plus = cls in (tf.RecurrentGemmaForCausalLM, tf.NemotronForCausalLM)
    kept = set()
    with torch.no_grad():
        for name, p in model.named_parameters():
            value = draw(name, p, one_plus, gen)
            if keep and re.search(keep, name):
                kept.add(name)
            elif dtype != torch.float32:
                value = value.to(dtype).float()
            p.copy_(value)
    return model, kept


def tokens():
    return torch.randint(0, VOCAB, (BATCH, TOKENS), generator=torch.Generator().manual_seed(SEED))


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()


def check_alive(model, ids):
    """Every parameter has a gradient somewhere: none can be dropped unnoticed."""
    model.zero_grad()
    (model(input_ids=ids, use_cache=False).logits.float() ** 2).mean().backward()
    for name, p in model.named_parameters():
        if p.grad is None or not bool((p.grad != 0).any()):
            sys.exit(f"{name} does not move the logits")
    model.zero_grad()


def write_logits(folder, ids, logits):
    with open(os.path.join(folder, "logits.bin"), "wb") as f:
        f.write(struct.pack("<3i", *logits.shape))
        f.write(ids.numpy().astype("<i4").tobytes())
        f.write(logits.numpy().astype("<f4").tobytes())


# ---- transformers -----------------------------------------------------------------------------------------------

def save_hf(folder, model, kept, shard=None, config_text=None):
    """save_pretrained's files; CONFIG_TEXT, a function of config.json's dict, gives another spelling of it."""
    for name, p in model.named_parameters():
        p.data = p.data if name in kept else p.data.to(torch.bfloat16)
    model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    os.unlink(os.path.join(folder, "generation_config.json"))
    if config_text:
        path = os.path.join(folder, "config.json")
        with open(path) as f:
            text = config_text(json.load(f))
        with open(path, "w") as f:
            f.write(text)


def hub_mamba2(c):
    """The spelling of transformers 4: a bare Infinity, which strict JSON readers refuse."""
    c["time_step_limit"] = [0.0, math.inf]
    c["torch_dtype"] = c.pop("dtype")
    c["transformers_version"] = "4.42.0"
    return json.dumps(c, indent=2, sort_keys=True) + "\n"


def hub_nemotron_h(c):
    """The keys of NVIDIA's released configs: a pattern string and attention_head_dim beside head_dim."""
    letter = {"linear_attention": "M", "full_attention": "*", "mlp": "-"}
    c["hybrid_override_pattern"] = "".join(letter[x] for x in c.pop("layers_block_type"))
    c["num_hidden_layers"] = len(c["hybrid_override_pattern"])
    c["attention_head_dim"] = c["head_dim"]
    c["torch_dtype"] = c.pop("dtype")
    for key in [k for k in c if "moe" in k or "expert" in k or k.startswith("mtp") or k in ("n_group", "topk_group")]:
        del c[key]
    c["transformers_version"] = "4.48.0.dev0"
    return json.dumps(c, indent=2, sort_keys=True) + "\n"


def hub_rope(c):
    """transformers 4: rope_theta and partial_rotary_factor at the top."""
    rope = c.pop("rope_parameters")
    c["rope_theta"], c["partial_rotary_factor"] = rope["rope_theta"], rope["partial_rotary_factor"]
    c["torch_dtype"] = c.pop("dtype")
    c["transformers_version"] = "4.44.0"
    return json.dumps(c, indent=2, sort_keys=True) + "\n"


def hf_case(cls, config, **save):
    def make(folder):
        model, kept = build(cls, config)
        ids = tokens()
        logits = logits_of(model, ids)
        check_alive(model, ids)
        save_hf(folder, model, kept, **save)
        again = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation=config._attn_implementation).eval()
        diff = (logits_of(again, ids) - logits).abs().max().item()
        if diff > 0:
            sys.exit(f"{folder}: read back, the logits differ by {diff}")
        write_logits(folder, ids, logits)
        return model, logits
    return make


# ---- state-spaces/mamba -----------------------------------------------------------------------------------------

def save_ssm(folder, model, config, dtype):
    """pytorch_model.bin and config.json of mamba_ssm's MambaLMHeadModel.save_pretrained; lm_head shares storage."""
    state = {}
    for name, p in model.state_dict().items():
        state[name.replace("backbone.embeddings.", "backbone.embedding.")] = p.to(dtype)
    state["lm_head.weight"] = state["backbone.embedding.weight"]
    torch.save(state, os.path.join(folder, "pytorch_model.bin"))
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=4)
        f.write("\n")


def ssm_case(cls, hf_config, config, dtype):
    def make(folder):
        model, _ = build(cls, hf_config, keep=None, dtype=dtype)
        ids = tokens()
        logits = logits_of(model, ids)
        check_alive(model, ids)
        save_ssm(folder, model, config, dtype)
        state = torch.load(os.path.join(folder, "pytorch_model.bin"), weights_only=True)
        tied = state["lm_head.weight"].data_ptr() == state["backbone.embedding.weight"].data_ptr()
        state["backbone.embeddings.weight"] = state.pop("backbone.embedding.weight")
        again = cls(hf_config).eval()
        again.load_state_dict({k: v.float() for k, v in state.items()})
        if not tied or (logits_of(again, ids) - logits).abs().max() > 0:
            sys.exit(f"{folder}: read back, it differs")
        write_logits(folder, ids, logits)
        return model, logits
    return make


# ---- Megatron-LM ------------------------------------------------------------------------------------------------

def stand_in(module, name, values):
    """An enum that pickles under Megatron's name, so that the file refers to a class its reader does not have."""
    import enum
    parts = module.split(".")
    for i in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
    cls = enum.Enum(name, values, module=module, qualname=name)
    setattr(sys.modules[module], name, cls)
    return cls


def extra_states(prefixes):
    """Transformer Engine's _extra_state entries in the three shapes they come in."""
    out = {}
    for i, prefix in enumerate(prefixes):
        value = [io.BytesIO(b"\x80\x04N."), torch.empty(0, dtype=torch.uint8), None][i % 3]
        out[prefix + "._extra_state"] = value
    return out


def qkv(sd, at, heads, groups, dim):
    """linear_qkv's rows: for each group its queries, then one key, one value."""
    q, k, v = (sd[f"{at}.{x}_proj.weight"] for x in "qkv")
    d = q.shape[1]
    q = q.reshape(groups, heads // groups * dim, d)
    k, v = (x.reshape(groups, dim, d) for x in (k, v))
    return torch.cat([q, k, v], dim=1).reshape(-1, d)


def hybrid_state(sd, config, pattern, fused):
    """NemotronH's tensors under Megatron's names. FUSED: the norm before in_proj lies within in_proj (2025 and
    later); else it is the layer's own (the released 8B models)."""
    out = {"embedding.word_embeddings.weight": sd["model.embeddings.weight"]}
    for i, symbol in enumerate(pattern):
        here, there = f"model.layers.{i}", f"decoder.layers.{i}"
        norm = sd[f"{here}.norm.weight"]
        if symbol == "M":
            for leaf in ("dt_bias", "A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias", "norm.weight",
                         "out_proj.weight"):
                out[f"{there}.mixer.{leaf}"] = sd[f"{here}.mixer.{leaf}"]
            out[f"{there}.mixer.in_proj.layer_norm_weight" if fused else f"{there}.norm.weight"] = norm
            out.update(extra_states([f"{there}.mixer.in_proj", f"{there}.mixer.out_proj"]))
        elif symbol == "*":
            out[f"{there}.self_attention.linear_proj.weight"] = sd[f"{here}.mixer.o_proj.weight"]
            out[f"{there}.self_attention.linear_qkv.layer_norm_weight"] = norm
            out[f"{there}.self_attention.linear_qkv.weight"] = qkv(
                sd, f"{here}.mixer", config.num_attention_heads, config.num_key_value_heads, config.head_dim)
            out.update(extra_states([f"{there}.self_attention.{x}" for x in
                                     ("core_attention", "linear_proj", "linear_qkv")]))
        else:
            out[f"{there}.mlp.linear_fc1.layer_norm_weight"] = norm
            out[f"{there}.mlp.linear_fc1.weight"] = sd[f"{here}.mixer.up_proj.weight"]
            out[f"{there}.mlp.linear_fc2.weight"] = sd[f"{here}.mixer.down_proj.weight"]
            out.update(extra_states([f"{there}.mlp.linear_fc1", f"{there}.mlp.linear_fc2"]))
    out["decoder.final_norm.weight"] = sd["model.norm_f.weight"]
    out["output_layer.weight"] = sd["lm_head.weight"]
    out["output_layer._extra_state"] = None
    return out


def gpt_state(sd, config):
    out = {"embedding.word_embeddings.weight": sd["model.embed_tokens.weight"]}
    for i in range(config.num_hidden_layers):
        here, there = f"model.layers.{i}", f"decoder.layers.{i}"
        out[f"{there}.self_attention.linear_proj.weight"] = sd[f"{here}.self_attn.o_proj.weight"]
        out[f"{there}.self_attention.linear_qkv.layer_norm_weight"] = sd[f"{here}.input_layernorm.weight"]
        out[f"{there}.self_attention.linear_qkv.layer_norm_bias"] = sd[f"{here}.input_layernorm.bias"]
        out[f"{there}.self_attention.linear_qkv.weight"] = qkv(
            sd, f"{here}.self_attn", config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        out[f"{there}.mlp.linear_fc1.layer_norm_weight"] = sd[f"{here}.post_attention_layernorm.weight"]
        out[f"{there}.mlp.linear_fc1.layer_norm_bias"] = sd[f"{here}.post_attention_layernorm.bias"]
        out[f"{there}.mlp.linear_fc1.weight"] = sd[f"{here}.mlp.up_proj.weight"]
        out[f"{there}.mlp.linear_fc2.weight"] = sd[f"{here}.mlp.down_proj.weight"]
        out.update(extra_states([f"{there}.{x}" for x in (
            "self_attention.core_attention", "self_attention.linear_proj", "self_attention.linear_qkv",
            "mlp.linear_fc1", "mlp.linear_fc2")]))
    out["decoder.final_layernorm.weight"] = sd["model.norm.weight"]
    out["decoder.final_layernorm.bias"] = sd["model.norm.bias"]
    out["output_layer.weight"] = sd["lm_head.weight"]
    out["output_layer._extra_state"] = None
    return out


def swiglu_state(sd, config):
    """Llama's tensors: RMSNorm, fc1 is gate over up, the head tied."""
    out = {"embedding.word_embeddings.weight": sd["model.embed_tokens.weight"]}
    for i in range(config.num_hidden_layers):
        here, there = f"model.layers.{i}", f"decoder.layers.{i}"
        out[f"{there}.self_attention.linear_proj.weight"] = sd[f"{here}.self_attn.o_proj.weight"]
        out[f"{there}.self_attention.linear_qkv.layer_norm_weight"] = sd[f"{here}.input_layernorm.weight"]
        out[f"{there}.self_attention.linear_qkv.weight"] = qkv(
            sd, f"{here}.self_attn", config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        out[f"{there}.mlp.linear_fc1.layer_norm_weight"] = sd[f"{here}.post_attention_layernorm.weight"]
        out[f"{there}.mlp.linear_fc1.weight"] = torch.cat(
            [sd[f"{here}.mlp.gate_proj.weight"], sd[f"{here}.mlp.up_proj.weight"]])
        out[f"{there}.mlp.linear_fc2.weight"] = sd[f"{here}.mlp.down_proj.weight"]
    out["decoder.final_layernorm.weight"] = sd["model.norm.weight"]
    return out


def save_megatron(folder, state, args, kept, iteration):
    """release/mp_rank_00/model_optim_rng.pt; bf16 but for A_log and D, which Megatron keeps in fp32."""
    model_type = stand_in("megatron.core.enums", "ModelType", {"encoder_or_decoder": 1, "retro_encoder": 2})
    backend = stand_in("megatron.core.transformer.enums", "AttnBackend", {"flash": 1, "fused": 2, "auto": 5})
    common = dict(
        num_layers=None, encoder_num_layers=None, hidden_size=None, ffn_hidden_size=None, num_attention_heads=None,
        kv_channels=None, group_query_attention=False, num_query_groups=1, seq_length=TOKENS,
        max_position_embeddings=TOKENS, position_embedding_type="none", use_rotary_position_embeddings=False,
        rotary_percent=1.0, rotary_base=10000, rotary_interleaved=False, normalization="RMSNorm", norm_epsilon=1e-5,
        apply_layernorm_1p=False, swiglu=False, squared_relu=False, openai_gelu=False, add_bias_linear=False,
        add_qkv_bias=False, add_position_embedding=True, untie_embeddings_and_output_weights=True,
        hybrid_attention_ratio=0.0, hybrid_mlp_ratio=0.0, hybrid_override_pattern=None,
        make_vocab_size_divisible_by=1, padded_vocab_size=VOCAB, vocab_size=None,
        tokenizer_type="GPTSentencePieceTokenizer", tokenizer_model="tokenizer.model",
        tensor_model_parallel_size=1, pipeline_model_parallel_size=1, sequence_parallel=True, world_size=1,
        params_dtype=torch.bfloat16, bf16=True, fp16=False, init_method_std=0.02, lr=1e-4, min_lr=1e-5,
        adam_beta1=0.9, adam_beta2=0.95, weight_decay=0.1, micro_batch_size=1, global_batch_size=256,
        consumed_train_samples=iteration * 256, consumed_valid_samples=0, iteration=iteration,
        model_type=model_type.encoder_or_decoder, attention_backend=backend.auto, data_path=["1.0", "corpus"],
        split="99,1,0", load=None, save="checkpoints", use_checkpoint_args=False)
    common.update(args)
    common["encoder_num_layers"] = common["num_layers"]
    rng = random.Random(SEED)
    np_state = np.random.RandomState(SEED).get_state()
    model = {k: (v if not isinstance(v, torch.Tensor) or v.dtype == torch.uint8 or k in kept else v.to(torch.bfloat16))
             for k, v in state.items()}
    data = {
        "args": argparse.Namespace(**common),
        "checkpoint_version": 3.0,
        "iteration": iteration,
        "model": model,
        "opt_param_scheduler": {"max_lr": 1e-4, "lr_warmup_steps": 122000, "num_steps": iteration * 256,
                                "lr_decay_style": "cosine", "lr_decay_steps": 10**8, "min_lr": 1e-5,
                                "start_wd": 0.1, "end_wd": 0.1, "wd_incr_style": "constant", "wd_incr_steps": 10},
        "rng_state": [{"random_rng_state": rng.getstate(), "np_rng_state": np_state,
                       "torch_rng_state": torch.Generator().manual_seed(SEED).get_state(),
                       "cuda_rng_state": torch.zeros(16, dtype=torch.uint8), "rng_tracker_states": {}}],
    }
    at = os.path.join(folder, "release", "mp_rank_00")
    os.makedirs(at)
    torch.save(data, os.path.join(at, "model_optim_rng.pt"))
    with open(os.path.join(folder, "latest_checkpointed_iteration.txt"), "w") as f:
        f.write("release")


def mega_case(cls, config, state_of, args, iteration, patch=None, keep=r"(A_log|\.D)$"):
    def make(folder):
        model, _ = build(cls, config, keep=keep, patch=patch)
        ids = tokens()
        logits = logits_of(model, ids)
        check_alive(model, ids)
        state = state_of({k: v.detach().clone() for k, v in model.state_dict().items()})
        kept = {k for k in state if re.search(keep, k)}
        save_megatron(folder, state, args, kept, iteration)
        file = os.path.join(folder, "release", "mp_rank_00", "model_optim_rng.pt")
        again = torch.load(file, weights_only=False)["model"]
        for k, v in state.items():  # nothing was lost in bf16
            if isinstance(v, torch.Tensor) and not torch.equal(v.float(), again[k].float()):
                sys.exit(f"{folder}: {k} differs")
        write_logits(folder, ids, logits)
        return model, logits
    return make


def no_clamp(model):
    """Megatron and mamba_ssm do not clamp dt; transformers' NemotronH does, at time_step_min."""
    for m in model.modules():
        if hasattr(m, "time_step_limit"):
            m.time_step_limit = (0.0, float("inf"))


# ---- the cases --------------------------------------------------------------------------------------------------

def cases():
    eager = dict(vocab_size=VOCAB, attn_implementation="eager")
    out = {}

    # Mamba-1
    out["mamba"] = hf_case(tf.MambaForCausalLM, tf.MambaConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=5, time_step_rank=3))
    out["mamba-bias"] = hf_case(tf.MambaForCausalLM, tf.MambaConfig(
        vocab_size=VOCAB, hidden_size=24, num_hidden_layers=2, state_size=4, expand=3, conv_kernel=3, use_bias=True,
        use_conv_bias=False, layer_norm_epsilon=1e-2, residual_in_fp32=False, tie_word_embeddings=False))

    # Mamba-2
    out["mamba2"] = hf_case(tf.Mamba2ForCausalLM, tf.Mamba2Config(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_heads=8, head_dim=8, state_size=16, n_groups=1,
        chunk_size=8, tie_word_embeddings=True), config_text=hub_mamba2)
    out["mamba2-groups"] = hf_case(tf.Mamba2ForCausalLM, tf.Mamba2Config(
        vocab_size=VOCAB, hidden_size=24, expand=3, num_hidden_layers=2, num_heads=9, head_dim=8, state_size=6,
        n_groups=3, chunk_size=8, conv_kernel=3, use_bias=True, use_conv_bias=False, layer_norm_epsilon=1e-2,
        time_step_limit=(0.02, 0.2), tie_word_embeddings=False))

    # Nemotron-H
    out["nemotron_h"] = hf_case(tf.NemotronHForCausalLM, tf.NemotronHConfig(
        **eager, hidden_size=32, hybrid_override_pattern="M-M*-MM--*", mamba_num_heads=6, mamba_head_dim=8, n_groups=2,
        ssm_state_size=8, chunk_size=8, num_attention_heads=4, num_key_value_heads=2, head_dim=6,
        intermediate_size=40), shard="25KB")
    out["nemotron_h-80"] = hf_case(tf.NemotronHForCausalLM, tf.NemotronHConfig(
        **eager, hidden_size=36, hybrid_override_pattern="*M-", mamba_num_heads=2, mamba_head_dim=80, n_groups=2,
        ssm_state_size=7, chunk_size=8, conv_kernel=3, num_attention_heads=3, num_key_value_heads=1, head_dim=10,
        intermediate_size=45, use_bias=True, mlp_bias=True, attention_bias=True, use_conv_bias=False,
        layer_norm_epsilon=1e-2, time_step_min=0.03, time_step_limit=(0.0, 0.02)), config_text=hub_nemotron_h)

    # Nemotron
    out["nemotron"] = hf_case(tf.NemotronForCausalLM, tf.NemotronConfig(
        **eager, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
        intermediate_size=44, max_position_embeddings=64))
    out["nemotron-bias"] = hf_case(tf.NemotronForCausalLM, tf.NemotronConfig(
        **eager, hidden_size=40, num_hidden_layers=2, num_attention_heads=5, num_key_value_heads=5,
        intermediate_size=33, max_position_embeddings=64, attention_bias=True, mlp_bias=True, norm_eps=1e-2,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.75},
        tie_word_embeddings=True), config_text=hub_rope)

    # Bamba
    out["bamba"] = hf_case(tf.BambaForCausalLM, tf.BambaConfig(
        **eager, hidden_size=32, num_hidden_layers=3, attn_layer_indices=[1], num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=44, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=6,
        mamba_n_groups=1, mamba_chunk_size=8, max_position_embeddings=64))
    out["bamba-bias"] = hf_case(tf.BambaForCausalLM, tf.BambaConfig(
        **eager, hidden_size=24, num_hidden_layers=3, attn_layer_indices=[0, 2], num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=29, mamba_expand=3, mamba_n_heads=6, mamba_d_head=12,
        mamba_d_state=5, mamba_n_groups=2, mamba_d_conv=3, mamba_chunk_size=8, mamba_conv_bias=False,
        mamba_proj_bias=True, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-2, time_step_limit=(0.02, 0.2),
        max_position_embeddings=64, tie_word_embeddings=True), config_text=hub_rope)

    # RecurrentGemma
    out["recurrent_gemma"] = hf_case(tf.RecurrentGemmaForCausalLM, tf.RecurrentGemmaConfig(
        **eager, hidden_size=24, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1, lru_width=36,
        attention_window_size=6, intermediate_size=60))
    out["recurrent_gemma-bias"] = hf_case(tf.RecurrentGemmaForCausalLM, tf.RecurrentGemmaConfig(
        **eager, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, lru_width=20,
        attention_window_size=5, intermediate_size=46, block_types=["attention", "recurrent"], conv1d_width=3,
        attention_bias=True, logits_soft_cap=5.0, rms_norm_eps=1e-2,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}),
        config_text=hub_rope)

    # state-spaces: the vocabulary 61 is padded to a multiple of 8 or 16
    pad = 64
    ssm = dict(d_model=24, d_intermediate=0, n_layer=2, vocab_size=VOCAB, ssm_cfg=None, attn_layer_idx=[], attn_cfg={},
               rms_norm=True, residual_in_fp32=True, fused_add_norm=True, pad_vocab_size_multiple=8,
               tie_embeddings=True)
    out["mamba-ssm"] = ssm_case(tf.MambaForCausalLM, tf.MambaConfig(
        vocab_size=pad, hidden_size=24, num_hidden_layers=2, state_size=5, time_step_rank=3),
        dict(ssm, ssm_cfg={"layer": "Mamba1", "d_state": 5, "dt_rank": 3}), torch.float32)
    out["mamba2-ssm"] = ssm_case(tf.Mamba2ForCausalLM, tf.Mamba2Config(
        vocab_size=pad, hidden_size=24, num_hidden_layers=2, num_heads=6, head_dim=8, state_size=10, n_groups=1,
        chunk_size=8, tie_word_embeddings=True),
        dict(ssm, ssm_cfg={"layer": "Mamba2", "d_state": 10, "headdim": 8, "chunk_size": 8},
             pad_vocab_size_multiple=16), torch.float16)

    # Megatron-LM
    def hybrid(pattern, fused, iteration, **kw):
        c = tf.NemotronHConfig(
            **eager, hidden_size=32, hybrid_override_pattern=pattern, mlp_hidden_act="gelu", mamba_num_heads=8,
            mamba_head_dim=8, n_groups=4, ssm_state_size=6, chunk_size=8, num_attention_heads=4, num_key_value_heads=2,
            head_dim=8, intermediate_size=40)
        args = dict(num_layers=len(pattern), hidden_size=32, ffn_hidden_size=40, num_attention_heads=4, kv_channels=8,
                    group_query_attention=True, num_query_groups=2, hybrid_override_pattern=pattern,
                    mamba_state_dim=6, mamba_head_dim=8, mamba_num_groups=4, **kw)
        return mega_case(tf.NemotronHForCausalLM, c, lambda sd: hybrid_state(sd, c, pattern, fused), args, iteration,
                         patch=no_clamp)
    out["megatron-hybrid"] = hybrid("M-*M", False, 3000, hybrid_attention_ratio=0.08, hybrid_mlp_ratio=0.5)
    out["megatron-mamba2"] = hybrid("MM", True, 2000, mamba_num_heads=None)
    g = tf.NemotronConfig(
        **eager, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=44, max_position_embeddings=TOKENS)
    out["megatron-gpt"] = mega_case(
        tf.NemotronForCausalLM, g, lambda sd: gpt_state(sd, g),
        dict(num_layers=2, hidden_size=32, ffn_hidden_size=44, num_attention_heads=4, kv_channels=8,
             group_query_attention=True, num_query_groups=2, position_embedding_type="rope", rotary_percent=0.5,
             use_rotary_position_embeddings=True, normalization="LayerNorm", apply_layernorm_1p=True,
             squared_relu=True, add_position_embedding=False), 1000)
    w = tf.LlamaConfig(
        **eager, hidden_size=24, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, head_dim=8,
        intermediate_size=20, rms_norm_eps=1e-2, tie_word_embeddings=True, max_position_embeddings=TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    out["megatron-swiglu"] = mega_case(
        tf.LlamaForCausalLM, w, lambda sd: swiglu_state(sd, w),
        dict(num_layers=2, hidden_size=24, ffn_hidden_size=20, num_attention_heads=6, kv_channels=8,
             group_query_attention=True, num_query_groups=2, position_embedding_type="rope", rotary_base=500,
             norm_epsilon=1e-2, swiglu=True, untie_embeddings_and_output_weights=False,
             add_position_embedding=False), 500)
    return out


def main():
    ap = argparse.ArgumentParser(description="Makes tests/golden.")
    ap.add_argument("-o", default=os.path.join(HERE, "..", "golden"))
    ap.add_argument("case", nargs="*")
    opt = ap.parse_args()
    todo = cases()
    print(f"# transformers {tf.__version__} torch {torch.__version__}")
    print("# case\tparameters\tbytes\tstd of logits\tlargest")
    for name in opt.case or todo:
        folder = os.path.join(opt.o, name)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        model, logits = todo[name](folder)
        size = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(folder) for f in fs)
        n = sum(p.numel() for p in model.parameters())
        print(f"{name}\t{n}\t{size}\t{logits.std():.3f}\t{logits.abs().max():.3f}", flush=True)


if __name__ == "__main__":
    main()
