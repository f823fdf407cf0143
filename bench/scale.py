#!/usr/bin/env python3
"""Steps of many ranks by plan/scale_model.h, whose memory PlanJob plans with: predictions for 1, 2 and 4 ranks of this machine beside
what they take, and for 8, 64 and 512 GPUs that nobody measured.

    bench/scale.py [--seconds 300]
    bench/scale.py --docs    also puts both tables into docs/PERFORMANCE.md
    bench/scale.py --tiny    a model of no consequence, to see that the programs run; writes nothing

Rates come from one rank alone and from a gather between ranks; nothing is fitted to what is predicted. Writes
build/bench/scale.json.
"""
import argparse
import datetime
import json
import os
import subprocess
import sys
import time

from measure import BIN, OUT, TimeIsUp, measure, processor, write_section

MODEL = {"hidden": 512, "ffn": 1376, "layers": 8, "heads": 8, "kv-heads": 8, "vocab": 8000}
ROWS, LENGTH = 8, 256
# (what, ranks, tensor, shard, full)
PLANS = [("LoRA", 1, 1, 0, 0), ("LoRA", 2, 1, 0, 0), ("LoRA, shard_base", 2, 1, 1, 0), ("LoRA, tensor 2", 2, 2, 0, 0),
         ("LoRA", 4, 1, 0, 0), ("full", 1, 1, 0, 1), ("full", 2, 1, 0, 1), ("full, shard_base", 2, 1, 1, 1), ("full", 4, 1, 0, 1)]
GPU_MODELS = {"7B": {"hidden": 4096, "ffn": 11008, "layers": 32, "heads": 32, "kv-heads": 32, "vocab": 32000},
              "30B": {"hidden": 6656, "ffn": 17920, "layers": 60, "heads": 52, "kv-heads": 52, "vocab": 32000}}
GPU_PLANS = [("LoRA", 1, 0, 0), ("LoRA, shard_base", 1, 1, 0), ("LoRA, tensor 4, shard_base", 4, 1, 0), ("full, shard_base", 1, 1, 1)]
GPUS = (8, 64, 512)
GPU_LENGTH = 2048
# Assumed, of no machine that was measured: half of an H200's 989 TFLOP/s in bf16; NVLink inside a node of 8, 400 Gbit/s a GPU
# between nodes, at nine tenths; 141 GB.
GPU = {"flops_per_second": 0.5 * 989e12, "ranks_per_node": 8, "inside": [1e-5, 380e9], "between": [2e-5, 45e9], "overlaps": True}
GPU_BYTES = 141e9
GPU_ROWS, GPU_MICRO_BATCHES = 2, 4
NOTE = (f"assumed: {GPU['flops_per_second'] / 1e12:.0f} TFLOP/s reached in a step, {GPU['inside'][1] / 1e9:.0f} GB/s between GPUs of a node, "
        f"{GPU['between'][1] / 1e9:.0f} GB/s a GPU between nodes of {GPU['ranks_per_node']}, {GPU_BYTES / 1e9:.0f} GB a GPU, {GPU_MICRO_BATCHES} "
        f"micro-batches of {GPU_ROWS} rows of {GPU_LENGTH} tokens a step; never run")


def mpirun(ranks):
    return ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", ranks]


def predict(wanted):
    """What scale_model says of a list of runs."""
    rename = [{**each, "model": {key.replace("-", "_"): value for key, value in each["model"].items()}} for each in wanted]
    done = subprocess.run([BIN / "scale_model"], input=json.dumps(rename), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def run_of(ranks, tensor, shard, full, rows, length, micro_batches=1, dtype_bytes=4, cuda=False):
    return {"ranks": ranks, "tensor": tensor, "shard": bool(shard), "full": bool(full), "dtype_bytes": dtype_bytes, "rows": rows,
            "length": length, "micro_batches": micro_batches, "lora_rank": 8, "cuda": cuda}


def link_between(ranks, args):
    """[seconds, bytes per second] of a gather between so many ranks."""
    done = subprocess.run([str(part) for part in [*mpirun(ranks), BIN / "step_bench", "--threads", 1, "--links", 1]], capture_output=True,
                          text=True, check=True, timeout=max(args.deadline - time.monotonic(), 0.1), env={**os.environ, "OMP_NUM_THREADS": "1"})
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return [found["link_seconds"], found["link_bytes_per_second"]]


def measured(plan, args):
    _, ranks, tensor, shard, full = plan
    shape = {**args.model, "rows": args.rows, "length": args.length, "tensor": tensor, "shard": shard, "full": full, "replay": 0}
    command = [*(mpirun(ranks) if ranks > 1 else []), BIN / "step_bench"]
    return measure(command, shape, args.steps, "float32", args, threads=1)


def beside(args):
    """Rows of this machine: prediction and measurement, in turns; None where the time did not suffice."""
    links = {ranks: link_between(ranks, args) for ranks in sorted({plan[1] for plan in PLANS}) if ranks > 1}
    best = {}
    try:
        for _ in range(args.rounds):
            for plan in PLANS:
                done = measured(plan, args)
                if plan not in best or done["step_seconds"] < best[plan]["step_seconds"]:
                    best[plan] = done
    except TimeIsUp:
        if len(best) < len(PLANS):
            return None
    rows = []
    for plan in PLANS:
        what, ranks, tensor, shard, full = plan
        alone = best[next(each for each in PLANS if each[1] == 1 and each[4] == full)]
        cores = os.cpu_count() or 1
        speed = alone["flops"] / alone["step_seconds"] * min(1.0, cores / ranks)
        link = links.get(ranks, [0, 1])
        wanted = {"model": args.model, "run": run_of(ranks, tensor, shard, full, args.rows * tensor // ranks, args.length),
                  "cluster": {"flops_per_second": speed, "ranks_per_node": ranks, "inside": link, "between": link, "overlaps": False}}
        said, = predict([wanted])
        taken = best[plan]["step_seconds"]
        rows.append({"what": what, "ranks": ranks, "predicted_seconds": said["seconds"], "measured_seconds": taken,
                     "error": said["seconds"] / taken - 1, **{key: said[key] for key in ("compute", "exchange", "gathers", "sums")}})
    return rows


def on_gpus():
    wanted, names = [], []
    for model, shape in GPU_MODELS.items():
        for what, tensor, shard, full in GPU_PLANS:
            for gpus in GPUS:
                names.append((model, what, gpus))
                wanted.append({"model": shape, "cluster": GPU,
                               "run": run_of(gpus, tensor, shard, full, GPU_ROWS, GPU_LENGTH, GPU_MICRO_BATCHES, dtype_bytes=2, cuda=True)})
    return [{"model": model, "what": what, "gpus": gpus, "tokens_per_second": said["tokens"] / said["seconds"],
             "computing_share": said["compute"] / said["seconds"], "rank_bytes": said["rank_bytes"], "fits": said["rank_bytes"] <= GPU_BYTES}
            for (model, what, gpus), said in zip(names, predict(wanted), strict=True)]


def tables(rows, gpus):
    lines = ["| plan | ranks | predicted | measured | off | compute | exchange | gathers | sums |", "|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        parts = " | ".join(f"{row[key]:.3f}" for key in ("compute", "exchange", "gathers", "sums"))
        # One rank alone is what the rates are from.
        predicted, error = ("", "") if row["ranks"] == 1 else (f"{row['predicted_seconds']:.3f} s", f"{100 * row['error']:+.0f} %")
        lines.append(f"| {row['what']} | {row['ranks']} | {predicted} | {row['measured_seconds']:.3f} s | {error} | {parts} |")
    lines += ["", f"On GPUs ({NOTE}):", "", "| model | plan | GPUs | tokens/s | of it computing | a rank takes |", "|---|---|---|---|---|---|"]
    for row in gpus:
        fits = "" if row["fits"] else ", does not fit"
        lines.append(f"| {row['model']} | {row['what']} | {row['gpus']} | {row['tokens_per_second']:,.0f} | {100 * row['computing_share']:.0f} % | "
                     f"{row['rank_bytes'] / 1e9:.1f} GB{fits} |")
    return lines


def write_docs(lines):
    write_section("## Many ranks, predicted and measured",
                  f"{datetime.date.today()}, {processor()}, {os.cpu_count()} cores, fp32; `bench/scale.py` (one thread a rank, 4 ranks share "
                  "the cores; rates of one rank alone).",
                  lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--docs", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    args.deadline, args.threads, args.steps = time.monotonic() + args.seconds, 1, 3
    args.model, args.rows, args.length = MODEL, ROWS, LENGTH
    if args.tiny:
        args.model, args.rows, args.length, args.steps, args.rounds = {**MODEL, "hidden": 64, "ffn": 96, "layers": 2, "vocab": 128}, 4, 32, 1, 1
    rows, gpus = beside(args), on_gpus()
    if rows is None:
        sys.exit("time is up before every plan was measured; give more --seconds")
    lines = tables(rows, gpus)
    print("\n".join(lines))
    if args.tiny:
        return
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "scale.json").write_text(json.dumps({"here": rows, "gpus": gpus}, indent=1) + "\n", encoding="utf-8")
    if args.docs:
        write_docs(lines)


if __name__ == "__main__":
    main()
