"""Rows of what is beside the step: P10, a model folder opened and exported against the rate of the disk; and each fused
operation by itself."""
import json
import subprocess
import time

from measure import BIN, DTYPES, OUT, row, run_json

TINY_FILES = {"hidden": 32, "ffn": 64, "layers": 1, "heads": 2, "vocab": 64}
TINY_MICRO = {"tokens": 32, "length": 16, "hidden": 32, "ffn": 64, "heads": 2, "vocab": 64}


def words(shape):
    return [word for name, value in shape.items() for word in (f"--{name}", value)]


def bench_files(args):
    """P10, in build/bench: the same disk for both."""
    OUT.mkdir(parents=True, exist_ok=True)
    done = run_json([BIN / "files_bench", *words(TINY_FILES if args.tiny else {})], args, args.threads, OUT)
    size = done["bytes"]
    gigabytes = size / 1e9
    rows = [row("P10.export", "rate of an export (written and hashed) over that of dd with fsync", done["dd_seconds"] / done["export_seconds"],
                "higher", 0.7),
            row("P10.memory", "tensors of an export at its peak, beyond one shard", (done["export_tensor_bytes"] - size) / 1e6, "lower",
                200, "MB"),
            row("P10.open", "a model folder opened and its weights in memory", gigabytes / (done["open_seconds"] + done["load_seconds"]),
                "higher", None, "GB/s"),
            row("P10.hash", "SHA-256 of a file in the page cache", gigabytes / done["hash_seconds"], "higher", None, "GB/s"),
            row("P10.verified", "an export with its check", gigabytes / done["verified_export_seconds"], "higher", None, "GB/s")]
    for each in rows:
        print(f"{each['what']}: {each['value']:.2f} {each['unit']}", flush=True)
    return rows


def bench_micro(args):
    """Each fused operation, forward and backward."""
    rows = []
    for dtype in DTYPES:
        command = [BIN / "micro_bench", "--dtype", dtype, "--threads", args.threads, *words(TINY_MICRO if args.tiny else {})]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True,
                              timeout=max(args.deadline - time.monotonic(), 0.1))
        for line in map(json.loads, done.stdout.splitlines()):
            rows.append(row(f"micro.{line['name']}.{dtype}", f"{line['name']}, forward and backward", line["rate"], "higher", None,
                            line["unit"]))
    return rows
