#!/usr/bin/env python3
"""`make bench`: training steps of ours, of transformers + PEFT, and the step's bare matrix products, in turn; rows of
Alpaca's lengths; EMoE steps beside LoRA steps; the FFN of experts beside the dense one, and the k-means that makes
experts beside k-means-constrained.

    bench/run.py [--rounds 3] [--only float32|bfloat16] [--threads N] [--seconds 570]
    bench/run.py --against DIR    step times of another build (its step_bench lies in DIR/bin or DIR) beside this one's
    bench/run.py --docs           also puts the table into docs/PERFORMANCE.md, in the place of the last one of such a machine
    bench/run.py --tiny           a model of no consequence, to see that the programs run; writes nothing

A 110 M Llama (random weights), 4 x 512 tokens, LoRA r=8 on q and v, dropout 0, no padding. A step is what a training
loop runs: forward, backward, clipping, AdamW; ours through the trainer, with one rank. The programs take turns, and a
ratio is taken within a round, seconds apart on the same machine, because only that holds when a machine's speed drifts;
the median over the rounds counts. Where the time (--seconds, for everything) does not suffice, fewer steps or a smaller
model are measured, and the output says so. Writes build/bench/results.json and prints a table.
"""
import argparse
import datetime
import json
import math
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "bench"
BIN = pathlib.Path(os.environ.get("EMOE_BIN_DIR") or ROOT / "build" / "bin")
OURS = BIN / "step_bench"
PYTHON = ROOT / "build" / "python" / "bin" / "python"
DTYPES = ("float32", "bfloat16")
FULL = {"hidden": 768, "ffn": 2048, "layers": 12, "heads": 12, "kv-heads": 12, "vocab": 32000, "rows": 4, "length": 512}
SHAPES = [FULL, {**FULL, "layers": 4, "rows": 2, "length": 256}, {**FULL, "layers": 2, "rows": 1, "length": 128}]
# Steps by which those of FULL are judged. The first costs little on any machine, but does small products, slowly.
PROBES = [{**FULL, "layers": 1, "vocab": 4000, "rows": 1, "length": 32}, {**FULL, "layers": 2, "rows": 1, "length": 256}]
TINY = {"hidden": 64, "ffn": 96, "layers": 2, "heads": 4, "kv-heads": 2, "vocab": 128, "rows": 2, "length": 32}
STEPS = 3  # measured in each round, after one to warm up
# The FFN of 64 experts against the dense one: shapes with rounds, and by 1 / share of the experts how many times faster it is
# to be. The larger shape is that of a 7B model.
FFN_SHAPES = [({"hidden": 768, "ffn": 2048, "tokens": 2048}, 5), ({"hidden": 4096, "ffn": 11008, "tokens": 1024}, 1)]
TINY_FFN = [({"hidden": 32, "ffn": 128, "tokens": 16}, 1)]
FFN_GOALS = {4: 2.5, 2: 1.4}
FFN_SECONDS = 90  # kept for them
# Balanced k-means of a layer's gate rows, one restart on one thread: a 7B and a 30B layer with the seconds the peer takes.
KMEANS_SHAPES = [({"rows": 11008, "clusters": 64, "width": 4096}, 30), ({"rows": 17920, "clusters": 256, "width": 6656}, 150)]
TINY_KMEANS = [({"rows": 4200, "clusters": 20, "width": 16}, 10)]
KMEANS_SECONDS = 30  # kept for them
KMEANS_GOAL = 50
KMEANS_PYTHON = os.environ.get("EMOE_KMEANS_PYTHON")  # with k-means-constrained, see peer_kmeans.py
# 16 rows as long as Alpaca's 52,000 are in tokens of Llama: one of two templates, then a log-normal number of tokens.
TEMPLATES = (33, 45)
MEDIAN, DEVIATION, PROMPT_SHARE = 68, 0.65, 0.45
EXPERTS = {"experts": 64, "top-k": 16}
# Layers converted (every so many), and the goal of an EMoE step over the LoRA step.
EMOE_GOALS = {"all layers": (1, 0.85), "8 of 32 layers": (4, 0.97)}
ROW_SECONDS = 75  # kept for both, of each dtype
# Over the peer at least, over the replay at most.
GOALS = {"float32": (1.35, 1.25), "bfloat16 AMX": (3.0, 1.4), "bfloat16 AVX-512": (1.8, 1.3)}


class TimeIsUp(Exception):
    """A program was ended because the time for everything has passed."""


def measure(command, shape, steps, dtype, args):
    """What a program printed, and the seconds it took in all."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    options = [part for name, value in shape.items() for part in (f"--{name}", value)]
    command = [*command, "--dtype", dtype, "--threads", args.threads, "--steps", steps, *options]
    start = time.monotonic()
    try:
        done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True,
                              timeout=max(args.deadline - start, 0.1))
    except subprocess.TimeoutExpired as error:
        raise TimeIsUp from error
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed ({done.returncode}):\n{done.stderr}")
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "all_seconds": time.monotonic() - start}


def products(shape):
    """Multiplications of a step but for a constant factor; attention, small at these lengths, left out."""
    head = shape["hidden"] // shape["heads"] * shape["kv-heads"]
    layer = 2 * shape["hidden"] * (shape["hidden"] + head) + 3 * shape["hidden"] * shape["ffn"]
    return shape["rows"] * shape["length"] * (shape["layers"] * layer + shape["vocab"] * shape["hidden"])


def probe(programs, shape, dtype, args):
    """Seconds of a round but for its steps, and of one step of FULL, all programs together."""
    fixed = step = 0.0
    for command in programs.values():
        done = measure(command, shape, 1, dtype, args)
        turn = done["step_seconds"] * (1 + 1 / done.get("step_over_replay", float("inf")))
        fixed += max(done["all_seconds"] - 2 * turn, 0.0)
        step += turn * products(FULL) / products(shape)
    return fixed, step


def fit(fixed, step, args, seconds):
    """The largest (shape, rounds, steps) for which so many seconds suffice."""
    for shape in SHAPES:
        each = step * products(shape) / products(FULL)
        for rounds, steps in ((args.rounds, STEPS), (min(args.rounds, 2), 2), (1, 1)):
            if rounds * (fixed + (steps + 1) * each) <= seconds:
                return shape, rounds, steps
    return SHAPES[-1], 1, 1


def choose(programs, dtype, args, seconds):
    end = time.monotonic() + seconds
    fixed, step = probe(programs, PROBES[0], dtype, args)
    chosen = fit(fixed, step, args, end - time.monotonic())
    if chosen != (FULL, args.rounds, STEPS) and 2 * step * products(PROBES[1]) / products(FULL) < seconds / 8:
        chosen = fit(*probe(programs, PROBES[1], dtype, args), args, end - time.monotonic())
    return chosen


def bench(dtype, programs, args, seconds):
    """The rounds of one dtype, or None where the time did not suffice for one."""
    shape, rounds, steps = TINY, args.rounds, 1
    if not args.tiny:
        shape, rounds, steps = choose(programs, dtype, args, seconds)
        if shape != FULL:
            print(f"NOTE: {dtype} is measured with a smaller model ({shape['layers']} layers, {shape['rows']} x "
                  f"{shape['length']} tokens): steps of the full one do not fit into {seconds:.0f} s here", flush=True)
        if (rounds, steps) != (args.rounds, STEPS):
            print(f"NOTE: {dtype} is measured in {rounds} round(s) of {steps} step(s) for lack of time", flush=True)
    done = []
    for number in range(rounds):
        print(f"{dtype}, round {number + 1} of {rounds} …", file=sys.stderr, flush=True)
        try:
            done.append({name: measure(command, shape, steps, dtype, args) for name, command in programs.items()})
        except TimeIsUp:
            print(f"NOTE: {dtype}: time is up after {number} of {rounds} rounds", flush=True)
            break
    return {"dtype": dtype, "shape": shape, "steps": steps, "rounds": done} if done else None


def median(result, figure):
    return statistics.median(figure(each) for each in result["rounds"])


def speed(program, name="tokens_per_second"):
    return lambda each: each[program][name]


def over_peer(each):
    return each["ours"]["tokens_per_second"] / each["peer"]["tokens_per_second"]


def over_replay(each):
    return each["ours"]["step_over_replay"]


def instruction_set():
    flags = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()  # as set to try out what an older processor does
    if limit == "AVX2" or "avx512f" not in flags:
        return "AVX2"
    return "AMX" if "amx_bf16" in flags and not limit else "AVX-512"


def row(identity, what, value, better, goal):
    met = None if goal is None else value >= goal if better == "higher" else value <= goal
    return {"id": identity, "what": what, "value": round(value, 3), "unit": "ratio", "better": better, "goal": goal, "met": met}


def rows_of(result):
    dtype = result["dtype"]
    peer, replay = GOALS.get(dtype if dtype == "float32" else f"{dtype} {instruction_set()}", (None, None))
    if result["shape"] != FULL:
        peer = replay = None  # the goals are of the full model
    return [row(f"P1.{dtype}", "tokens/s of a LoRA step over transformers + PEFT", median(result, over_peer), "higher", peer),
            row(f"P1.{dtype}.replay", "time of a LoRA step over its matrix products", median(result, over_replay), "lower", replay)]


def alpaca_lengths(count=16):
    """template:prompt:answer of each row, at the quantiles of the distribution."""
    rows = []
    for i in range(count):
        own = round(MEDIAN * math.exp(DEVIATION * statistics.NormalDist().inv_cdf((i + 0.5) / count)))
        prompt = max(1, round(PROMPT_SHARE * own))
        rows.append(f"{TEMPLATES[i % 5 in (1, 3)]}:{prompt}:{own - prompt}")
    return ",".join(rows)


def interleaved(commands, dtype, args, rounds=1, steps=2):
    """Best seconds per step and tokens/s of programs that take turns; None where the time does not suffice."""
    best = {}
    try:
        for _ in range(rounds):
            for name, (command, shape) in commands.items():
                done = measure(command, shape, steps, dtype, args)
                if name not in best or done["step_seconds"] < best[name]["step_seconds"]:
                    best[name] = done
    except TimeIsUp:
        print(f"NOTE: {', '.join(commands)} in {dtype} are not measured: time is up", flush=True)
        return None
    return best


def bench_rows(dtype, plain_ratio, programs, args):
    """P2: rows of Alpaca's lengths against the peer's padding, over the ratio of full-length rows."""
    shape = {**(TINY if args.tiny else FULL), "lengths": alpaca_lengths(3 if args.tiny else 16)}
    ours = {**shape, "replay": 0}
    done = interleaved({"ours": (programs["ours"], ours), "peer": (programs["peer"], shape)}, dtype, args)
    if done is None:
        return []
    ratio = done["ours"]["tokens_per_second"] / done["peer"]["tokens_per_second"]
    print(f"rows of Alpaca's lengths, {dtype}: {done['ours']['tokens_per_second']:.0f} tokens/s, "
          f"{ratio:.2f}x the peer with padding", flush=True)
    return [row(f"P2.{dtype}", "tokens/s on rows of Alpaca's lengths over transformers + PEFT with padding", ratio, "higher", None),
            row(f"P2.{dtype}.gain", "that ratio over P1's", ratio / plain_ratio, "higher", 2.0)]


def bench_emoe(dtype, programs, args):
    """P3: an EMoE step (64 experts, 16 a token) over the LoRA step of the same model."""
    shape = {**(TINY if args.tiny else FULL), "replay": 0}
    experts = {"experts": 8, "top-k": 2} if args.tiny else EXPERTS
    commands = {"LoRA": (programs["ours"], shape)}
    for name, (every, _) in EMOE_GOALS.items():
        commands[name] = (programs["ours"], {**shape, **experts, "every": every})
    done = interleaved(commands, dtype, args)
    rows = []
    for name, (every, goal) in EMOE_GOALS.items() if done else ():
        ratio = done[name]["step_seconds"] / done["LoRA"]["step_seconds"]
        print(f"EMoE step, {name}, {dtype}: {ratio:.2f} of the LoRA step, {done[name]['ffn']} FFN", flush=True)
        rows.append(row(f"P3.{dtype}.1/{every}", f"time of a step with 16 of 64 experts in {name} over the LoRA step", ratio,
                        "lower", goal))
    return rows


def bench_ffn(args):
    """Rows of the sparse FFN, as far as the time suffices."""
    rows = []
    for dtype in DTYPES:
        for shape, rounds in TINY_FFN if args.tiny else FFN_SHAPES:
            options = [f"--{name}={value}" for name, value in shape.items()]
            command = [BIN / "ffn_bench", f"--dtype={dtype}", f"--threads={args.threads}", f"--rounds={rounds}", *options]
            command = [word for part in command for word in str(part).split("=")]
            name = f"{dtype}.{shape['hidden']}x{shape['ffn']}"
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=True,
                                      timeout=max(args.deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                print(f"NOTE: the FFN of {name} is not measured: time is up", flush=True)
                continue
            for line in map(json.loads, done.stdout.splitlines()):
                share = line["share"]
                rows.append(row(f"P4.{name}.1/{share}", f"dense FFN over that of 1/{share} of 64 experts, forward and input gradient",
                                line["dense_over_sparse"], "higher", FFN_GOALS[share]))
                print(f"FFN {name:<22} 1/{share} of 64 experts {line['dense_over_sparse']:>8.2f}x the dense one "
                      f"(goal {FFN_GOALS[share]})", flush=True)
    return rows


def run_json(command, args):
    """The last line a program printed; it works on one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True, env=environment,
                          timeout=max(args.deadline - time.monotonic(), 0.1))
    return json.loads(done.stdout.strip().splitlines()[-1])


def bench_kmeans(args):
    """Rows of the balanced k-means; without the peer only the seconds are printed."""
    rows = []
    if not KMEANS_PYTHON:
        print("NOTE: k-means is measured without its peer: EMOE_KMEANS_PYTHON names no Python with k-means-constrained")
    for shape, peer_seconds in TINY_KMEANS if args.tiny else KMEANS_SHAPES:
        name = "x".join(str(value) for value in shape.values())
        if args.deadline - time.monotonic() < (peer_seconds if KMEANS_PYTHON else 15):
            print(f"NOTE: the k-means of {name} is not measured for lack of time", flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            options = [word for key, value in shape.items() for word in (f"--{key}", value)]
            ours = run_json([BIN / "kmeans_bench", "--keep", folder, *options], args)
            print(f"k-means {name:<20} {ours['seconds']:>8.2f} s, {ours['iterations']} iterations", flush=True)
            if not KMEANS_PYTHON:
                continue
            peer = run_json([KMEANS_PYTHON, ROOT / "bench" / "peer_kmeans.py", folder, shape["rows"], shape["clusters"]], args)
        rows.append(row(f"P5.{name}", "time of k-means-constrained over ours, same starts", peer["seconds"] / ours["seconds"],
                        "higher", KMEANS_GOAL))
        rows.append(row(f"P5.{name}.inertia", "our inertia over its", ours["inertia"] / peer["inertia"], "lower", 1 + 1e-6))
        print(f"k-means {name:<20} {rows[-2]['value']:>8.1f}x k-means-constrained (goal {KMEANS_GOAL}), inertia x "
              f"{ours['inertia'] / peer['inertia']:.7f}", flush=True)
    return rows


def processor():
    found = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return found.group(1).strip() if found else platform.machine()


def write_docs(rows, machine):
    """The section of this kind of machine in docs/PERFORMANCE.md, written anew."""
    file = ROOT / "docs" / "PERFORMANCE.md"
    head = f"## {machine['processor']}, {machine['instruction_set']}, {machine['threads']} threads"
    lines = [head, f"{datetime.date.today()}, {machine['versions']}.", "", "| id | what | measured | goal | met |", "|---|---|---|---|---|"]
    for each in rows:
        goal = "" if each["goal"] is None else f"{'≥' if each['better'] == 'higher' else '≤'} {each['goal']}"
        met = {None: "", True: "yes", False: "no"}[each["met"]]
        lines.append(f"| {each['id']} | {each['what']} | {each['value']:.2f} | {goal} | {met} |")
    text = file.read_text(encoding="utf-8")
    section = re.compile(re.escape(head) + r"\n.*?(?=\n## |\Z)", re.S)
    block = "\n".join(lines) + "\n"
    text = section.sub(lambda _: block, text) if section.search(text) else text.rstrip("\n") + "\n\n" + block
    file.write_text(text, encoding="utf-8")


def versions():
    code = "import torch, transformers, peft; print(f'LibTorch {torch.__version__}, transformers {transformers.__version__}, PEFT {peft.__version__}')"
    return subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def report(results, programs, args):
    print(f"{'tokens/s':<10}{'ours':>8}{'peer':>8}{'replay':>8}{'ours/peer':>12}{'step/replay':>13}")
    for result in results:
        print(f"{result['dtype']:<10}{median(result, speed('ours')):>8.0f}{median(result, speed('peer')):>8.0f}"
              f"{median(result, speed('ours', 'replay_tokens_per_second')):>8.0f}"
              f"{median(result, over_peer):>11.2f}x{median(result, over_replay):>12.2f}x")
    rows = [each for result in results for each in rows_of(result)]
    for result in results:
        rows += bench_rows(result["dtype"], median(result, over_peer), programs, args)
        rows += bench_emoe(result["dtype"], programs, args)
    rows += bench_ffn(args) + bench_kmeans(args)
    if args.tiny:
        return
    machine = {"name": platform.node(), "system": platform.platform(), "processor": processor(),
               "instruction_set": instruction_set(), "cores": os.cpu_count(), "threads": args.threads, "versions": versions()}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "results.json").write_text(json.dumps({"machine": machine, "rows": rows, "details": results}, indent=1) + "\n")
    if args.docs:
        write_docs(rows, machine)
    for result in results:
        if median(result, over_peer) < 1:
            print(f"WARNING: in {result['dtype']} our step is slower than transformers + PEFT", file=sys.stderr)


def report_against(results):
    print(f"{'s per step':<10}{'ours':>8}{'other':>8}{'ours/other':>12}")
    for result in results:
        ratio = median(result, lambda each: each["ours"]["step_seconds"] / each["other"]["step_seconds"])
        print(f"{result['dtype']:<10}{median(result, speed('ours', 'step_seconds')):>8.3f}"
              f"{median(result, speed('other', 'step_seconds')):>8.3f}{ratio:>11.3f}x")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=570, help="for everything; no program runs longer than this")
    parser.add_argument("--only", choices=DTYPES)
    parser.add_argument("--against", metavar="DIR", help="another build folder, with a step_bench of its own")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/PERFORMANCE.md")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    args.deadline = time.monotonic() + args.seconds
    programs = {"ours": [OURS], "peer": [PYTHON, ROOT / "bench" / "peer_step.py"]}
    if args.against:
        found = [path for path in (pathlib.Path(args.against, "bin", "step_bench"), pathlib.Path(args.against, "step_bench"))
                 if path.exists()]
        if not found:
            sys.exit(f"no step_bench in {args.against}: build it there first")
        programs = {"ours": [OURS], "other": [found[0]]}
    dtypes = [dtype for dtype in DTYPES if args.only in (None, dtype)]
    kept = 0 if args.against or args.tiny else FFN_SECONDS + KMEANS_SECONDS + len(dtypes) * ROW_SECONDS
    results = []
    for left, dtype in zip(range(len(dtypes), 0, -1), dtypes):
        try:
            results.append(bench(dtype, programs, args, (args.deadline - kept - time.monotonic()) / left))
        except TimeIsUp:
            print(f"NOTE: {dtype} is not measured: time is up", flush=True)
    results = list(filter(None, results))
    if not results:
        sys.exit(f"nothing could be measured within {args.seconds:.0f} s")
    report_against(results) if args.against else report(results, programs, args)


if __name__ == "__main__":
    main()
