#!/usr/bin/env python3
# load.py - loads folders that 'ckmerge export' wrote with transformers, and compares logits
# SPDX-License-Identifier: MIT
#
# Usage: load.py MODEL=LOGITS.BIN...    (README.md here says what has to be installed)
#
# Prints the largest difference of each; exit status 1 when one is over 1e-4, or a tensor is missing or unexpected.
import os
import struct
import sys
import warnings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
warnings.filterwarnings("ignore")

import numpy as np
import torch
import transformers as tf
from transformers.utils import logging as tf_logging

tf_logging.disable_progress_bar()
torch.set_num_threads(1)


def golden(path):
    with open(path, "rb") as f:
        b, t, v = struct.unpack("<3i", f.read(12))
        ids = np.frombuffer(f.read(4 * b * t), "<i4").reshape(b, t)
        logits = np.frombuffer(f.read(4 * b * t * v), "<f4").reshape(b, t, v)
    return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(logits.copy())


bad = False
for arg in sys.argv[1:]:
    folder, answer = arg.split("=")
    ids, want = golden(answer)
    model, info = tf.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    strange = {k: v for k, v in info.items() if v and k != "error_msgs"}
    with torch.no_grad():
        got = model.eval()(input_ids=ids, use_cache=False).logits.float()
    diff = (got[..., :want.shape[-1]] - want).abs().max().item()
    print(f"{folder}\t{type(model).__name__}\t{diff:.3g}\t{strange or ''}", flush=True)
    bad |= not diff <= 1e-4 or bool(strange)
sys.exit(bad)
