#!/usr/bin/env python3
# harness_export.py - tasks of lm-evaluation-harness as files for 'ssmeval tasks'
# SPDX-License-Identifier: MIT
#
# Usage: harness_export.py [--num-fewshot N] [--limit N] [--include-path DIR] [--fewshot-seed N] -o DIR TASK...
#
# Needs Python with lm_eval (0.4.9 or later) and what the tasks need (data sets, a network); writes DIR/TASK.jsonl, which need neither.
# Contexts hold their few-shot examples, as the harness builds them. What a task wants that 'ssmeval tasks' does not have
# (sampling, repeats, filters, other metrics alone) is refused by name; metrics that it does not have beside others are left out
# and told. The format: common/eval/task.h.
import argparse
import json
import sys

METRICS = {
    "loglikelihood": ["perplexity", "acc"],
    "multiple_choice": ["acc", "acc_norm", "acc_bytes", "exact_match"],
    "generate_until": ["exact_match"],
    "loglikelihood_rolling": ["word_perplexity", "byte_perplexity", "bits_per_byte"],
}


def refuse(name, why):
    sys.exit(f"harness_export: task '{name}': {why}")


def documents(task):
    """(doc, its requests in order), one after the other."""
    by_doc = {}
    for one in task.instances:
        by_doc.setdefault(one.doc_id, []).append(one)
    for doc_id in sorted(by_doc):
        asked = sorted(by_doc[doc_id], key=lambda one: one.idx)
        yield asked[0].doc, asked


def head_of(name, task, kind):
    config = task.config
    listed = [m["metric"] for m in config.metric_list or []] or METRICS[kind]
    metrics = [m for m in listed if m in METRICS[kind]]
    if not metrics:
        refuse(name, f"of its metrics {listed} there is none")
    for m in listed:
        if m not in metrics:
            print(f"harness_export: task '{name}': metric '{m}' is left out", file=sys.stderr)
    filters = [step["function"] for f in config.filter_list or [] for step in f["filter"]]
    if [f for f in filters if f != "take_first"] or len(config.filter_list or []) > 1:
        refuse(name, f"filters {filters}")
    if config.repeats > 1:
        refuse(name, "repeats")
    if callable(config.process_results) and kind != "loglikelihood_rolling":
        refuse(name, "scores its documents by a function of its own")
    head = {"task": name, "output_type": kind, "version": task.VERSION, "num_fewshot": config.num_fewshot or 0,
            "metrics": metrics}
    if kind == "multiple_choice":
        head["target_delimiter"] = config.target_delimiter
    if kind == "generate_until":
        how = dict(config.generation_kwargs or {})
        if how.pop("do_sample", False) or how.pop("temperature", 0):
            refuse(name, "samples")
        until = how.pop("until", [])
        head["until"] = [u for u in ([until] if isinstance(until, str) else until) if u]
        for key in "max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens":
            if key in how:
                head.setdefault("max_gen_toks", how.pop(key))
        if how:
            refuse(name, f"generation_kwargs {sorted(how)}")
        for one in config.metric_list or []:
            if one["metric"] == "exact_match":
                for key in "ignore_case", "ignore_punctuation", "ignore_numbers":
                    head[key] = bool(one.get(key, False))
                if one.get("regexes_to_ignore"):
                    refuse(name, "regexes_to_ignore")
    head["config"] = {k: v for k, v in task.dump_config().items() if isinstance(v, (str, int, float, bool, type(None)))}
    return head


def choice(name, task, doc, asked, delimiter):
    choices = list(task.doc_to_choice(doc))
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    if isinstance(gold, str):
        gold = choices.index(gold)
    asked = asked[:len(choices)]  # acc_mutual_info asks more
    line = {"choices": choices, "gold": gold}
    if task.multiple_input:
        continuation = asked[0].args[1]
        if not continuation.startswith(delimiter):
            refuse(name, "a continuation without its delimiter")
        line |= {"contexts": [one.args[0] for one in asked], "continuation": continuation[len(delimiter):]}
    else:
        line["context"] = asked[0].args[0]
    return line


def line_of(name, task, kind, doc, asked):
    if kind == "multiple_choice":
        return choice(name, task, doc, asked, task.config.target_delimiter)
    if kind == "loglikelihood":
        context, continuation = asked[0].args
        return {"context": context, "continuation": continuation}
    if kind == "generate_until":
        target = task.doc_to_target(doc)
        if task.config.doc_to_choice is not None:
            target = task.doc_to_choice(doc)[target]
        return {"context": asked[0].args[0], "target": [str(t) for t in target] if isinstance(target, list) else str(target)}
    counts = task.process_results(doc, (0.0,))
    return {"text": asked[0].args[0], "words": counts["word_perplexity"][1], "bytes": counts["byte_perplexity"][1]}


def export(name, task, folder, limit):
    kind = task.OUTPUT_TYPE
    if kind not in METRICS:
        refuse(name, f"output_type {kind}")
    head = head_of(name, task, kind)
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    path, n = f"{folder}/{name}.jsonl", 0
    with open(path, "w", encoding="utf-8") as f:
        f.write(json.dumps(head, ensure_ascii=False) + "\n")
        for doc, asked in documents(task):
            f.write(json.dumps(line_of(name, task, kind, doc, asked), ensure_ascii=False) + "\n")
            n += 1
    print(f"{path}\t{kind}\t{n} documents")


def main():
    parser = argparse.ArgumentParser(description="Tasks of lm-evaluation-harness as files for 'ssmeval tasks'.")
    parser.add_argument("--num-fewshot", type=int, metavar="N", help="examples in each context; default: the task's")
    parser.add_argument("--fewshot-seed", type=int, default=1234, metavar="N", help="of the examples' choice (1234, the harness')")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N documents of each task")
    parser.add_argument("--include-path", metavar="DIR", help="a folder of further tasks")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="an existing folder")
    parser.add_argument("task", nargs="+")
    args = parser.parse_args()
    from lm_eval.tasks import TaskManager
    loaded = TaskManager(include_path=args.include_path).load(args.task)["tasks"]
    for name, task in loaded.items():
        if args.num_fewshot is not None:
            task.set_config(key="num_fewshot", value=args.num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=args.fewshot_seed)
        export(name, task, args.output, args.limit)


if __name__ == "__main__":
    main()
