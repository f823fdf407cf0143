#!/usr/bin/env python3
"""What a rank holds where ranks share the weights and each layer, beside what plan/rank_memory.h says, with which PlanJob plans.

    bench/rank_memory.py [--seconds 300]
    bench/rank_memory.py --docs     also puts the table into docs/PERFORMANCE.md
    bench/rank_memory.py --short    a few of the runs, on a smaller model; writes nothing

Base, gradients and moments are bytes of tensors as LibTorch's allocator is asked for them, the process is what the kernel says was
resident at most (program and libraries are in it, and in the plan); of the rank that has most of each. Ends with 1 where one of them
is off by more than a tenth. Writes build/bench/rank_memory.json.
"""
import argparse
import datetime
import json
import sys
import time

from measure import BIN, OUT, TimeIsUp, measure, processor, write_section

MODEL = {"hidden": 512, "ffn": 2048, "layers": 8, "heads": 8, "kv-heads": 8, "vocab": 4000, "experts": 0, "top_k": 4, "every": 2}
SHORT = {**MODEL, "vocab": 1000}
LENGTH = 128
ROWS = 2  # of a group of ranks that share each layer
# (ranks, tensor)
GRIDS = [(1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (4, 2)]
# (what, full, experts, dtype of the run, base stored in bf16)
METHODS = [("LoRA, fp32, base stored in bf16", 0, 0, "float32", 1), ("LoRA, bf16, 16 experts", 0, 16, "bfloat16", 1), ("full, fp32", 1, 0, "float32", 0),
           ("full, bf16, 16 experts", 1, 16, "bfloat16", 1)]
SHORT_RUNS = [(METHODS[0], (2, 1)), (METHODS[1], (2, 2)), (METHODS[2], (2, 1)), (METHODS[3], (2, 2))]
PARTS = ("base", "gradients", "optimizer", "process")
MOST_OFF = 0.10
# Parts below this are a rank's norms and padding, not what anybody plans with.
SMALL = 1 << 20


def held(method, grid, args):
    _, full, experts, dtype, halves = method
    ranks, tensor = grid
    shape = {**args.model, "experts": experts, "rows": ROWS * ranks // tensor, "length": LENGTH, "tensor": tensor, "shard": 1, "full": full,
             "halves": halves, "memory": 1, "replay": 0}
    started = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", ranks] if ranks > 1 else []
    done = measure([*started, BIN / "step_bench"], shape, 2, dtype, args, threads=1)
    return {"what": method[0], "ranks": ranks, "tensor": tensor, "held": done["held"], "planned": done["planned"], "ffn": done["ffn"]}


def off(row, part):
    planned, measured = row["planned"][part], row["held"][part]
    return planned / measured - 1 if max(planned, measured) > SMALL else 0.0


def table(rows):
    lines = ["| run | ranks | tensor | base | gradients | moments | process |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        parts = " | ".join(f"{row['held'][part] / 2**20:.1f} ({100 * off(row, part):+.0f} %)" for part in PARTS)
        lines.append(f"| {row['what']} | {row['ranks']} | {row['tensor']} | {parts} |")
    return lines


def write_docs(lines):
    write_section("## Sharded and split ranks",
                  f"{datetime.date.today()}, {processor()}; `bench/rank_memory.py`: a model of {MODEL['layers']} layers, hidden size "
                  f"{MODEL['hidden']}, {MODEL['ffn']} neurons, {ROWS} rows of {LENGTH} tokens for each group of ranks that share each layer, "
                  "`shard_base: true`. MiB of the rank that has most: of tensors, and of the process at its peak, program and libraries "
                  "included; and how far the plan is off (`plan/rank_memory.h`).",
                  lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--short", action="store_true")
    args = parser.parse_args()
    args.deadline, args.threads = time.monotonic() + args.seconds, 1
    args.model = SHORT if args.short else MODEL
    runs = SHORT_RUNS if args.short else [(method, grid) for method in METHODS for grid in GRIDS]
    rows = []
    try:
        for method, grid in runs:
            rows.append(held(method, grid, args))
            print(table(rows)[-1], flush=True)
    except TimeIsUp:
        sys.exit("time is up before every run was measured; give more --seconds")
    if not args.short:
        OUT.mkdir(parents=True, exist_ok=True)
        (OUT / "rank_memory.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if args.docs:
        write_docs(table(rows))
    wrong = [f"{row['what']}, {row['ranks']} ranks, tensor {row['tensor']}: {part} is {row['held'][part]:.0f}, planned {row['planned'][part]}"
             for row in rows for part in PARTS if abs(off(row, part)) > MOST_OFF]
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
