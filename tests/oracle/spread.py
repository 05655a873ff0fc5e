#!/usr/bin/env python3
# spread.py - how far transformers' own bf16 logits lie from its fp32 ones, for the models of tests/golden
# SPDX-License-Identifier: MIT
#
# Usage: spread.py FOLDER... >tests/golden/spread.tsv      (README.md here says what has to be installed)
#
# For each model that transformers opens: largest and root-mean-square difference of the logits of the model in bf16 from
# those in logits.bin (fp32), on the CPU; and the largest of either that SEQUENCES further rows of random tokens of the same
# length have, for how far two right programs part depends on the tokens. tests/golden holds our bf16 logits against both.
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

tf.utils.logging.disable_progress_bar()
torch.set_num_threads(1)
SEQUENCES = 32


def spread(have, want):
    d = np.abs(have[..., : want.shape[-1]] - want[..., : have.shape[-1]]).astype(float)
    return d.max(), np.sqrt((d**2).mean())


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor(ids.astype(np.int64))).logits.float().numpy()


print("model\tlargest\trms\tmost_largest\tmost_rms")
for folder in sys.argv[1:]:
    with open(os.path.join(folder, "logits.bin"), "rb") as f:
        b, t, v = struct.unpack("<3i", f.read(12))
        ids = np.frombuffer(f.read(4 * b * t), "<i4").reshape(b, t)
        want = np.frombuffer(f.read(4 * b * t * v), "<f4").reshape(b, t, v)
    try:
        load = tf.AutoModelForCausalLM.from_pretrained
        model, exact = load(folder, dtype=torch.bfloat16).eval(), load(folder, dtype=torch.float32).eval()
    except Exception as e:  # stored as another program stores it
        print(f"{folder}: {str(e).splitlines()[0]}", file=sys.stderr)
        continue
    largest, rms = spread(logits(model, ids), want)
    most_largest, most_rms = largest, rms
    rng = np.random.default_rng(7)
    for _ in range(SEQUENCES):
        other = rng.integers(0, min(v, ids.max() + 1), ids.shape)
        l, r = spread(logits(model, other), logits(exact, other))
        most_largest, most_rms = max(l, most_largest), max(r, most_rms)
    print(f"{os.path.basename(folder.rstrip('/'))}\t{largest:.5g}\t{rms:.5g}\t{most_largest:.5g}\t{most_rms:.5g}")
