"""Rows of experts: P4, the FFN of 64 experts against the dense one, and P5, the k-means that makes them."""
import json
import os
import subprocess
import tempfile
import time

from measure import BIN, DTYPES, ROOT, row, run_json

# The FFN of 64 experts against the dense one: shapes with rounds, and by 1 / share of the experts how many times faster it is
# to be. The larger shape is that of a 7B model.
FFN_SHAPES = [({"hidden": 768, "ffn": 2048, "tokens": 2048}, 5), ({"hidden": 4096, "ffn": 11008, "tokens": 1024}, 1)]
TINY_FFN = [({"hidden": 32, "ffn": 128, "tokens": 16}, 1)]
FFN_GOALS = {4: 2.5, 2: 1.4}
FFN_SECONDS = 60  # kept for them
# Balanced k-means of a layer's gate rows, one restart on one thread: a 7B and a 30B layer with the seconds the peer takes.
KMEANS_SHAPES = [({"rows": 11008, "clusters": 64, "width": 4096}, 30), ({"rows": 17920, "clusters": 256, "width": 6656}, 150)]
TINY_KMEANS = [({"rows": 4200, "clusters": 20, "width": 16}, 10)]
KMEANS_SECONDS = 30  # kept for them
KMEANS_GOAL = 50
KMEANS_PYTHON = os.environ.get("EMOE_KMEANS_PYTHON")  # with k-means-constrained, see peer_kmeans.py


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
