#!/usr/bin/env python3
"""`make bench`: one LoRA step of ours, of transformers + PEFT, and the step's bare matrix products, in turn.

    bench/run.py [--rounds 3] [--only float32|bfloat16] [--threads 2] [--tiny]

A 110 M Llama (random weights), 4 x 512 tokens, LoRA r=8 on q and v, dropout 0, no padding. The programs take turns, and
a ratio is taken within a round, minutes apart on the same machine, because only that holds when a machine's speed drifts;
the median over the rounds counts. Writes build/bench/step.json and prints a table. --tiny: a model of no consequence, to
see that the programs run (a test does); writes nothing.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "bench"
OURS = pathlib.Path(os.environ.get("EMOE_BIN_DIR") or ROOT / "build" / "bin") / "step_bench"
PYTHON = ROOT / "build" / "python" / "bin" / "python"
TINY = {"hidden": 64, "ffn": 96, "layers": 2, "heads": 4, "kv-heads": 2, "vocab": 128, "rows": 2, "length": 32, "steps": 1}


def measure(command, threads):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed ({done.returncode}):\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def one_round(options, threads):
    ours = measure([OURS, *options], threads)
    peer = measure([PYTHON, ROOT / "bench" / "peer_step.py", *options], threads)
    return {"ours": ours["tokens_per_second"], "peer": peer["tokens_per_second"], "replay": ours["replay_tokens_per_second"],
            "ours_over_peer": ours["tokens_per_second"] / peer["tokens_per_second"],
            "step_over_replay": ours["step_over_replay"]}


def bench(dtype, args):
    """The rounds of one dtype, and the median of each of their figures."""
    options = ["--dtype", dtype, "--threads", args.threads]
    options += [part for name, value in TINY.items() for part in (f"--{name}", value)] if args.tiny else []
    rounds = []
    for number in range(args.rounds):
        print(f"{dtype}, round {number + 1} of {args.rounds} …", file=sys.stderr, flush=True)
        rounds.append(one_round(options, args.threads))
    return {"dtype": dtype, "threads": args.threads, "rounds": rounds,
            **{name: statistics.median(each[name] for each in rounds) for name in rounds[0]}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("float32", "bfloat16"))
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    results = [bench(dtype, args) for dtype in ("float32", "bfloat16") if args.only in (None, dtype)]
    print(f"{'tokens/s':<10}{'ours':>8}{'peer':>8}{'replay':>8}{'ours/peer':>12}{'step/replay':>13}")
    for row in results:
        print(f"{row['dtype']:<10}{row['ours']:>8.0f}{row['peer']:>8.0f}{row['replay']:>8.0f}"
              f"{row['ours_over_peer']:>11.2f}x{row['step_over_replay']:>12.2f}x")
    if args.tiny:
        return
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "step.json").write_text(json.dumps(results, indent=1) + "\n")
    for row in results:
        if row["ours_over_peer"] < 1:
            print(f"WARNING: in {row['dtype']} our step is slower than transformers + PEFT", file=sys.stderr)


if __name__ == "__main__":
    main()
