#!/usr/bin/env python3
# harness.py - 'ssmeval tasks' against lm-evaluation-harness, figure by figure and request by request
# SPDX-License-Identifier: MIT
#
# Usage: harness.py BIN FOLDER      (README.md here says what has to be installed; lm_eval besides)
#
# BIN holds the tools. Makes FOLDER: a tokenizer of 'tokshard train', a small Mamba-2 that 'ssmtrain' has trained on a text made
# here, the same model for transformers by 'ckmerge export', tasks of all kinds out of local files. Runs both programs on them,
# zero and two examples in each context, a length that cuts contexts. Prints the largest differences; exit status 1 when one is
# over 1e-5, relative to 1 or to the figure. FOLDER/golden is what tests/golden/tasks holds.
import json
import math
import os
import random
import subprocess
import sys

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
TOP = os.path.abspath(os.path.dirname(__file__) + "/../..")
TOLERANCE = 1e-5
WORDS = {"d": "the a one every no".split(), "s": "cat dog bird stone river naïve größe".split(),
         "v": "sees eats likes fears".split()}


def sentence(r):
    return " ".join(r.choice(WORDS[k]) for k in "dsvds") + "."


def write_lines(path, rows):
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def make_tasks(folder):
    """Data of each kind as JSONL, and the tasks' YAML."""
    r = random.Random(5)
    rows = {k: [] for k in ("last", "choose", "blank", "tell", "roll")}
    for i in range(30):
        s = sentence(r)
        rows["last"].append({"text": s, "start": s.rsplit(" ", 1)[0] + "  " * (i % 3 == 0), "end": " " + s.rsplit(" ", 1)[1]})
        options = r.sample(WORDS["s"], 3)
        options[i % 3] += r.choice(["", "s", " sees", "!!!"])
        start = " ".join(sentence(r) for _ in range(i % 5)) + " the"
        rows["choose"].append({"q": start.strip(), "options": options, "answer": r.randrange(3)})
        rows["blank"].append({"options": [f"{a} {b}" for a, b in zip(r.sample(WORDS["d"], 2), r.sample(WORDS["s"], 2))],
                              "answer": i % 2, "rest": r.choice(WORDS["v"]) + " a dog."})
        rows["tell"].append({"q": sentence(r) + " " + r.choice(WORDS["d"]), "a": [f" {w.upper()}," for w in r.sample(WORDS["s"], 3)]})
        rows["roll"].append({"text": "\n".join(sentence(r) for _ in range(1 + 3 * (i % 4)))})
    os.makedirs(f"{folder}/yaml", exist_ok=True)
    common = "dataset_path: json\ntest_split: test\nfewshot_split: test\nmetadata:\n  version: 1.5\n"
    yaml = {
        "last": 'output_type: loglikelihood\ndoc_to_text: "{{start}}"\ndoc_to_target: "{{end}}"\nmetric_list:\n'
                "  - metric: perplexity\n    aggregation: perplexity\n    higher_is_better: false\n"
                "  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n",
        "choose": 'output_type: multiple_choice\ndoc_to_text: "{{q}}"\ndoc_to_choice: options\ndoc_to_target: answer\nmetric_list:\n'
                  + "".join(f"  - metric: {m}\n    aggregation: mean\n    higher_is_better: true\n"
                            for m in ("acc", "acc_norm", "acc_bytes", "exact_match")),
        "blank": "output_type: multiple_choice\ndoc_to_text: answer\ndoc_to_choice: options\ndoc_to_target: rest\nmetric_list:\n"
                 "  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n",
        "tell": 'output_type: generate_until\ndoc_to_text: "{{q}}"\ndoc_to_target: a\ngeneration_kwargs:\n  until: [" sees", " eats", " likes", " fears", ".", "\\n\\n"]\n'
                "  do_sample: false\n  max_gen_toks: 12\nmetric_list:\n  - metric: exact_match\n    aggregation: mean\n"
                "    higher_is_better: true\n    ignore_case: true\n    ignore_punctuation: true\n",
        "roll": 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\nmetric_list:\n'
                + "".join(f"  - metric: {m}\n" for m in ("word_perplexity", "byte_perplexity", "bits_per_byte")),
    }
    for kind, body in yaml.items():
        write_lines(f"{folder}/yaml/{kind}.data", rows[kind])
        with open(f"{folder}/yaml/{kind}.yaml", "w", encoding="utf-8") as f:
            f.write(f"task: toy_{kind}\n" + common + body
                    + f"dataset_kwargs:\n  data_files:\n    test: {folder}/yaml/{kind}.data\n")
    return ["toy_" + k for k in yaml]


def make_model(tools, folder):
    r = random.Random(3)
    with open(f"{folder}/text", "w", encoding="utf-8") as f:
        for i in range(3000):
            f.write(sentence(r) + ("\n\n" if i % 5 == 4 else " "))
    with open(f"{folder}/tiny.conf", "w", encoding="utf-8") as f:
        f.write("pattern = MM\nd_model = 32\nn_heads = 8\nheaddim = 8\nd_state = 16\nchunk = 16\ntied = true\nvocab_multiple = 1\n")

    def run(tool, *args):
        subprocess.run([f"{tools}/{tool}", *args], check=True, cwd=folder)
    run("tokshard", "train", "-q", "-f", "--vocab", "300", "-o", "tokenizer.json", "text")
    run("tokshard", "encode", "-q", "-f", "--tokenizer", "tokenizer.json", "--split", "para", "-o", "data", "text")
    run("ssmtrain", "-q", "--model", "./tiny.conf", "--steps", "150", "--warmup", "10", "--lr", "5e-3", "--batch", "8",
        "--seq-len", "128", "-o", "run", "data")
    run("ckmerge", "merge", "-q", "-f", "--drop-optimizer", "-o", "model", "run")
    run("ckmerge", "export", "-q", "-f", "-o", "hf", "model")
    spec = json.load(open(f"{folder}/tokenizer.json", encoding="utf-8"))
    end = [t["content"] for t in spec["added_tokens"]][0]
    os.replace(f"{folder}/tokenizer.json", f"{folder}/hf/tokenizer.json")
    with open(f"{folder}/hf/tokenizer_config.json", "w", encoding="utf-8") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "pad_token": end}, f)


def theirs(folder, tasks, shots, length, limit=None):
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    # logits_cache: lm_eval 0.4.13 takes requests that share all tokens but the last for one, also where they split them
    # into context and continuation elsewhere, and gives one of them the other's figure.
    model = HFLM(pretrained=f"{folder}/hf", device="cpu", dtype="float32", batch_size=4, max_length=length, logits_cache=False)
    return lm_eval.simple_evaluate(model=model, tasks=tasks, num_fewshot=shots, bootstrap_iters=2000, limit=limit,
                                   task_manager=TaskManager(include_path=f"{folder}/yaml", include_defaults=False))


def ours(tools, folder, tasks, shots, length, here):
    os.makedirs(f"{folder}/{here}/tasks", exist_ok=True)
    subprocess.run([sys.executable, f"{TOP}/pipelines/harness_export.py", "--include-path", f"{folder}/yaml",
                    "--num-fewshot", str(shots), "-o", f"{folder}/{here}/tasks", *tasks], check=True)
    subprocess.run([f"{tools}/ssmeval", "tasks", "-q", "-f", "--tokenizer", f"{folder}/hf", "--seq-len", str(length),
                    "--bootstrap", "2000", "--log-samples", "-o", f"{folder}/{here}", f"{folder}/model",
                    *[f"{folder}/{here}/tasks/{t}.jsonl" for t in tasks]], check=True, stdout=subprocess.DEVNULL)
    samples = {t: [json.loads(line) for line in open(f"{folder}/{here}/samples_{t}.jsonl", encoding="utf-8")] for t in tasks}
    return json.load(open(f"{folder}/{here}/results.json", encoding="utf-8")), samples


def differ(a, b):
    if isinstance(a, str) or isinstance(b, str):
        return 0 if a == b else math.inf
    return abs(a - b) / max(1, abs(a))


def compare(want, got, samples, tasks):
    worst = 0
    for t in tasks:
        figures = {k: differ(v, got["results"][t].get(k, "missing")) for k, v in want["results"][t].items()
                   if "," in k}
        requests = 0
        texts = 0
        for a, b in zip(want["samples"][t], samples[t], strict=True):
            for x, y in zip(a["filtered_resps"], b["filtered_resps"], strict=True):
                if want["configs"][t]["output_type"] == "generate_until":
                    texts += x != y
                    continue
                x = x if isinstance(x, (tuple, list)) else (x,)
                requests = max(requests, differ(x[0], float(y[0])))
                texts += len(x) > 1 and str(bool(x[1])) != y[1]
        print(f"{t}\t{len(samples[t])} documents\tfigures {max(figures.values()):.2g}\trequests {requests:.2g}\t{texts} others",
              flush=True)
        if max(figures.values()) > TOLERANCE:
            print("    ", {k: (want["results"][t][k], got["results"][t].get(k)) for k, v in figures.items() if v > TOLERANCE})
        for table in "versions", "n-shot", "higher_is_better", "n-samples":
            if want[table][t] != got[table][t]:
                print("    ", table, want[table][t], got[table][t])
                worst = math.inf
        worst = max(worst, requests, texts, *figures.values())
    return worst


def golden(tools, folder, tasks):
    """What tests/golden/tasks holds: model, tokenizer, tasks, and the harness' figures and answers."""
    shots, length, limit, here = 1, 32, 10, f"{folder}/golden"
    os.makedirs(here, exist_ok=True)
    subprocess.run([sys.executable, f"{TOP}/pipelines/harness_export.py", "--include-path", f"{folder}/yaml",
                    "--num-fewshot", str(shots), "--limit", str(limit), "-o", here, *tasks], check=True)
    for t in tasks:  # without the paths of this machine
        lines = [json.loads(line) for line in open(f"{here}/{t}.jsonl", encoding="utf-8")]
        lines[0]["config"] = {}
        write_lines(f"{here}/{t}.jsonl", lines)
    for name in "model.safetensors", "config.json", "tokenizer.json":
        with open(f"{folder}/hf/{name}", "rb") as a, open(f"{here}/{name}", "wb") as b:
            b.write(a.read())
    want = theirs(folder, tasks, shots, length, limit)
    with open(f"{here}/figures.tsv", "w", encoding="utf-8") as f:
        for t in tasks:
            for key in want["results"][t]:
                if key.endswith(",none") and "_stderr" not in key:
                    error = want["results"][t][key.replace(",", "_stderr,")]
                    shown = error if isinstance(error, str) else f"{error:.9g}"
                    f.write(f"{t}\t{key[:-5]}\t{want['results'][t][key]:.9g}\t{shown}\n")
    with open(f"{here}/answers.tsv", "w", encoding="utf-8") as f:
        for t in tasks:
            for one in want["samples"][t]:
                for i, x in enumerate(one["filtered_resps"]):
                    x = x if isinstance(x, (tuple, list)) else (x,)
                    f.write(f"{t}\t{one['doc_id']}\t{i}\t{json.dumps(x[0])}\t{x[1] if len(x) > 1 else '-'}\n")


def main():
    tools, folder = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    os.makedirs(folder, exist_ok=True)
    tasks = make_tasks(folder)
    make_model(tools, folder)
    worst = 0
    for shots, length in ((0, 2048), (2, 2048), (2, 24)):
        print(f"# {shots} examples, at most {length} tokens", flush=True)
        got, samples = ours(tools, folder, tasks, shots, length, f"{shots}-{length}")
        want = theirs(folder, tasks, shots, length)
        worst = max(worst, compare(want, got, samples, tasks))
    golden(tools, folder, tasks)
    print("worst", worst)
    sys.exit(worst > TOLERANCE)


if __name__ == "__main__":
    main()
