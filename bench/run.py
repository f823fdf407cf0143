#!/usr/bin/env python3
"""`make bench`: one LoRA step of ours, of transformers + PEFT, and the step's bare matrix products, in turn.

    bench/run.py [--rounds 2] [--only float32|bfloat16] [--threads 2]

A 110 M Llama (random weights), 4 x 512 tokens, LoRA r=8 on q and v, dropout 0, no padding. Every figure of a round is
taken on the same machine minutes apart, the programs in turn (A B A B), because only ratios hold when a machine's
speed drifts; each program's best round counts. Writes build/bench/step.json and prints a table.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "bench"
OURS = ROOT / "build" / "bin" / "step_bench"
PYTHON = ROOT / "build" / "python" / "bin" / "python"


def measure(command, threads):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed ({done.returncode}):\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def bench(dtype, rounds, threads):
    """The best of each program's rounds, interleaved."""
    best = {}
    for number in range(rounds):
        print(f"{dtype}, round {number + 1} of {rounds} …", file=sys.stderr, flush=True)
        ours = measure([OURS, "--dtype", dtype, "--threads", threads], threads)
        peer = measure([PYTHON, ROOT / "bench" / "peer_step.py", "--dtype", dtype, "--threads", threads], threads)
        rows = {"ours": ours["tokens_per_second"], "transformers + PEFT": peer["tokens_per_second"],
                "GEMM replay": ours["replay_tokens_per_second"]}
        best = {name: max(value, best.get(name, 0.0)) for name, value in rows.items()}
    return {"dtype": dtype, "threads": threads, "rounds": rounds, "tokens_per_second": best,
            "ours_over_peer": best["ours"] / best["transformers + PEFT"],
            "step_over_replay": best["GEMM replay"] / best["ours"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=("float32", "bfloat16"))
    args = parser.parse_args()
    results = [bench(dtype, args.rounds, args.threads) for dtype in ("float32", "bfloat16") if args.only in (None, dtype)]
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "step.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"{'tokens/s':<10}{'ours':>8}{'peer':>8}{'replay':>8}{'ours/peer':>12}{'step/replay':>13}")
    for row in results:
        speed = row["tokens_per_second"]
        print(f"{row['dtype']:<10}{speed['ours']:>8.0f}{speed['transformers + PEFT']:>8.0f}{speed['GEMM replay']:>8.0f}"
              f"{row['ours_over_peer']:>11.2f}x{row['step_over_replay']:>12.2f}x")


if __name__ == "__main__":
    main()
