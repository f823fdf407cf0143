#!/usr/bin/env python3
"""`make bench`: training steps of ours, of transformers + PEFT, and the step's bare matrix products, in turn; rows of
Alpaca's lengths; EMoE steps beside LoRA steps; the FFN of experts beside the dense one, and the k-means that makes
experts beside k-means-constrained; ranks, memory, files, what plans foretell, and each fused operation.

    bench/run.py [--only float32|bfloat16] [--threads N] [--seconds 590]
    bench/run.py --against DIR    step times of another build (its step_bench lies in DIR/bin or DIR) beside this one's
    bench/run.py --docs           also puts the table into docs/PERFORMANCE.md, in the place of the last one of such a machine
    bench/run.py --tiny           a model of no consequence, to see that the programs run; writes nothing

A 110 M Llama (random weights), 4 x 512 tokens, LoRA r=8 on q and v, dropout 0, no padding. A step is what a training
loop runs: forward, backward, clipping, AdamW; ours through the trainer, with one rank. The programs take turns, and a
ratio is taken within a round, seconds apart on the same machine, because only that holds when a machine's speed drifts;
the median over the rounds counts. Where the time (--seconds, for everything) does not suffice, fewer steps or a smaller
model are measured, and the output says so. Writes build/bench/results.json and prints a table, beside what the run before
it on this machine had.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

import experts
import pieces
import plans
import steps
import texts
from measure import DTYPES, OUT, TimeIsUp, instruction_set, processor, versions, write_section

PIECES_SECONDS = 30  # kept for files and the single operations


def write_docs(rows, machine):
    """The section of this kind of machine in docs/PERFORMANCE.md, written anew."""
    head = f"## {machine['processor']}, {machine['instruction_set']}, {machine['threads']} threads"
    lines = ["| id | what | measured | goal | met |", "|---|---|---|---|---|"]
    for each in rows:
        goal = "" if each["goal"] is None else f"{'≥' if each['better'] == 'higher' else '≤'} {each['goal']}"
        met = {None: "", True: "yes", False: "no"}[each["met"]]
        lines.append(f"| {each['id']} | {each['what']} | {each['value']:.2f}{'' if each['unit'] == 'ratio' else ' ' + each['unit']} | {goal} | {met} |")
    write_section(head, f"{datetime.date.today()}, {machine['versions']}.", lines)


def last_values(machine):
    """The rows of the run before, by id; none where it was on another machine."""
    try:
        last = json.loads((OUT / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    same = all(last["machine"].get(key) == machine[key] for key in ("processor", "instruction_set", "threads"))
    return {each["id"]: each["value"] for each in last["rows"]} if same else {}


def print_table(rows, last):
    print(f"\n{'id':<34}{'value':>10} {'unit':<8}{'goal':>8}  {'met':<4}{'last run':>10}{'change':>9}")
    for each in rows:
        goal = "" if each["goal"] is None else f"{each['goal']:g}"
        before = last.get(each["id"])
        change = "" if not before else f"{(each['value'] / before - 1) * 100:+.1f} %"
        print(f"{each['id']:<34}{each['value']:>10.3f} {each['unit']:<8}{goal:>8}  {({None: '', True: 'yes', False: 'NO'})[each['met']]:<4}"
              f"{'' if before is None else f'{before:.3f}':>10}{change:>9}")


def all_rows(results, programs, args):
    rows = [each for result in results for each in steps.rows_of(result, args)]
    for result in results:
        dtype = result["dtype"]
        peer = result["rounds"][-1]["peer"] if args.tiny or result["shape"] == steps.FULL else None
        rows += steps.bench_rows(dtype, steps.median(result, steps.over_peer), programs, args)
        rows += steps.bench_memory(dtype, peer, programs, args)
        rows += steps.bench_full(dtype, programs, args)
    parts = {"the FFN of experts": lambda: experts.bench_ffn(args), "files": lambda: pieces.bench_files(args),
             "k-means": lambda: experts.bench_kmeans(args), "plans": lambda: plans.bench_plans(args),
             "text": lambda: texts.bench_text(args), "single operations": lambda: pieces.bench_micro(args)}
    for what, measure_part in parts.items():
        try:
            rows += measure_part()
        except (TimeIsUp, subprocess.TimeoutExpired):
            print(f"NOTE: {what}: not measured, time is up", flush=True)
    return rows


def report(results, programs, args):
    steps.print_steps(results)
    rows = all_rows(results, programs, args)
    if args.tiny:
        return
    machine = {"name": platform.node(), "system": platform.platform(), "processor": processor(),
               "instruction_set": instruction_set(), "cores": os.cpu_count(), "threads": args.threads, "versions": versions()}
    print_table(rows, last_values(machine))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "results.json").write_text(json.dumps({"machine": machine, "rows": rows, "details": results}, indent=1) + "\n")
    if args.docs:
        write_docs(rows, machine)
    for result in results:
        if steps.median(result, steps.over_peer) < 1:
            print(f"WARNING: in {result['dtype']} our step is slower than transformers + PEFT", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=590, help="for everything; no program runs longer than this")
    parser.add_argument("--only", choices=DTYPES)
    parser.add_argument("--against", metavar="DIR", help="another build folder, with a step_bench of its own")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/PERFORMANCE.md")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    args.deadline = time.monotonic() + args.seconds
    programs = steps.PROGRAMS
    if args.against:
        found = [path for path in (pathlib.Path(args.against, "bin", "step_bench"), pathlib.Path(args.against, "step_bench"))
                 if path.exists()]
        if not found:
            sys.exit(f"no step_bench in {args.against}: build it there first")
        programs = {"ours": [steps.OURS], "other": [found[0]]}
    dtypes = [dtype for dtype in DTYPES if args.only in (None, dtype)]
    kept = 0
    if not args.against and not args.tiny:
        kept = experts.FFN_SECONDS + experts.KMEANS_SECONDS + PIECES_SECONDS + plans.SECONDS + texts.SECONDS + len(dtypes) * steps.SINGLE_SECONDS
    results = []
    # bf16 first: where it is the faster one, it leaves the rest of its half to fp32.
    for left, dtype in zip(range(len(dtypes), 0, -1), reversed(dtypes)):
        try:
            results.insert(0, steps.bench(dtype, programs, args, (args.deadline - kept - time.monotonic()) / left))
        except TimeIsUp:
            print(f"NOTE: {dtype} is not measured: time is up", flush=True)
    results = list(filter(None, results))
    if not results:
        sys.exit(f"nothing could be measured within {args.seconds:.0f} s")
    steps.report_against(results) if args.against else report(results, programs, args)


if __name__ == "__main__":
    main()
