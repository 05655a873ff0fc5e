#!/usr/bin/env python3
# spread.py - how far transformers' own bf16 logits lie from its fp32 ones, for the models of tests/golden
# SPDX-License-Identifier: MIT
#
# Usage: spread.py FOLDER... >tests/golden/spread.tsv      (README.md here says what has to be installed)
#
# For each model that transformers opens: largest and root-mean-square difference of the logits of the model in bf16 from
# those in logits.bin (fp32), on the CPU. tests/golden holds our bf16 logits against it.
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
print("model\tlargest\trms")
for folder in sys.argv[1:]:
    with open(os.path.join(folder, "logits.bin"), "rb") as f:
        b, t, v = struct.unpack("<3i", f.read(12))
        ids = np.frombuffer(f.read(4 * b * t), "<i4").reshape(b, t)
        want = np.frombuffer(f.read(4 * b * t * v), "<f4").reshape(b, t, v)
    try:
        model = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    except Exception as e:  # stored as another program stores it
        print(f"{folder}: {str(e).splitlines()[0]}", file=sys.stderr)
        continue
    with torch.no_grad():
        have = model(torch.tensor(ids.astype(np.int64))).logits.float().numpy()
    d = np.abs(have[..., :v] - want[..., : have.shape[-1]])
    print(f"{os.path.basename(folder.rstrip('/'))}\t{d.max():.5g}\t{np.sqrt((d.astype(float) ** 2).mean()):.5g}")
