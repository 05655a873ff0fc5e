#!/usr/bin/env python3
# filters.py - the filters of sampling against the logits processors of transformers' generate()
# SPDX-License-Identifier: MIT
#
# Usage: filters.py TESTS      (the folder of the C tests: build/release/tests)
#
# Draws logits and options, runs the processors that generate() would make of the options, in its order, and 'eval filter'. Prints the largest
# difference of a probability; exit status 1 when it is over 1e-6 or another token is left.
import random
import subprocess
import sys

import torch
from transformers import GenerationConfig, PretrainedConfig
from transformers.generation.utils import GenerationMixin

V = 50


class Bare(GenerationMixin):
    """What _get_logits_processor() asks of a model."""
    config, generation_config = PretrainedConfig(), GenerationConfig()


def theirs(logits, seen, penalty, temperature, k, p, min_p):
    config = GenerationConfig(do_sample=True, repetition_penalty=penalty, temperature=temperature, top_k=k, top_p=p, min_p=min_p)
    processors = Bare()._get_logits_processor(generation_config=config, input_ids_seq_length=1, device="cpu")
    ids = torch.tensor([[v for v in range(V) if seen[v]] or [0]])
    if not any(seen):
        seen[0] = 1
    return processors(ids, torch.tensor([logits])).softmax(-1)[0].tolist(), [type(x).__name__ for x in processors]


def main():
    r = random.Random(1)
    worst, order = 0, set()
    for case in range(400):
        logits = [r.gauss(0, 2) for _ in range(V)]
        if case % 5 == 0:
            logits = [round(x) for x in logits]  # ties
        seen = [int(r.random() < 0.3) for _ in range(V)]
        options = [r.choice([1.0, 1.3, 0.7]), r.choice([0.5, 1.0, 1.7]), r.choice([0, 1, 5, 20]),
                   1.0 if case % 5 == 0 else r.choice([1.0, 0.9, 0.5, 0.05]), r.choice([0.0, 0.05, 0.3, 1.0])]
        want, names = theirs([float(x) for x in logits], seen, *options)
        order.add(" ".join(names))
        text = " ".join(f"{x:.9g}" for x in logits) + "\n" + " ".join(map(str, seen)) + "\n"
        got = [float(x) for x in subprocess.run([f"{sys.argv[1]}/eval", "filter", *map(str, options)], input=text, text=True,
                                                capture_output=True, check=True).stdout.split()]
        diff = max(abs(a - b) for a, b in zip(want, got, strict=True))
        if diff > 1e-6 or any((a == 0) != (b == 0) for a, b in zip(want, got)):
            print("options", options, "differ by", diff)
        worst = max(worst, diff)
    print(max(order, key=len))
    print("largest difference", worst)
    sys.exit(worst > 1e-6)


if __name__ == "__main__":
    main()
