"""Running the programs of a bench in turn, and what their figures become."""
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "bench"
BIN = pathlib.Path(os.environ.get("EMOE_BIN_DIR") or ROOT / "build" / "bin")
PYTHON = ROOT / "build" / "python" / "bin" / "python"
DTYPES = ("float32", "bfloat16")
# Threads wait as those of a job do, see worker/run/main.cc.
WAITING = {"GOMP_SPINCOUNT": "1000"}


class TimeIsUp(Exception):
    """A program was ended because the time for everything has passed."""


def measure(command, shape, steps, dtype, args, threads=None):
    """What a program printed, and the seconds it took in all."""
    threads = threads or args.threads
    environment = {**os.environ, **WAITING, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    options = [part for name, value in shape.items() for part in (f"--{name}", value)]
    command = [*command, "--dtype", dtype, "--threads", threads, "--steps", steps, *options]
    start = time.monotonic()
    try:
        done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True,
                              timeout=max(args.deadline - start, 0.1))
    except subprocess.TimeoutExpired as error:
        raise TimeIsUp from error
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed ({done.returncode}):\n{done.stderr}")
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "all_seconds": time.monotonic() - start}


def interleaved(commands, dtype, args):
    """What programs that take turns printed of one step, after one to warm up; None where the time does not suffice."""
    try:
        return {name: measure(command, shape, 1, dtype, args) for name, (command, shape) in commands.items()}
    except TimeIsUp:
        print(f"NOTE: {', '.join(commands)} in {dtype} are not measured: time is up", flush=True)
        return None


def run_json(command, args, threads=1, folder=None, environment=None):
    """The last line that a program printed; None where it printed none."""
    environment = {**os.environ, **WAITING, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads), **(environment or {})}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True, env=environment, cwd=folder,
                          timeout=max(args.deadline - time.monotonic(), 0.1))
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else None


def instruction_set():
    flags = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()  # as set to try out what an older processor does
    if limit == "AVX2" or "avx512f" not in flags:
        return "AVX2"
    return "AMX" if "amx_bf16" in flags and not limit else "AVX-512"


def row(identity, what, value, better, goal, unit="ratio"):
    met = None if goal is None else value >= goal if better == "higher" else value <= goal
    return {"id": identity, "what": what, "value": round(value, 3), "unit": unit, "better": better, "goal": goal, "met": met}


def processor():
    found = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return found.group(1).strip() if found else platform.machine()


def versions():
    code = "import torch, transformers, peft; print(f'LibTorch {torch.__version__}, transformers {transformers.__version__}, PEFT {peft.__version__}')"
    return subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def write_section(head, about, lines):
    """A section of docs/PERFORMANCE.md, anew or in the place of the one with this head."""
    file = ROOT / "docs" / "PERFORMANCE.md"
    block = "\n".join([head, about, "", *lines]) + "\n"
    text = file.read_text(encoding="utf-8")
    section = re.compile(re.escape(head) + r"\n.*?(?=\n## |\Z)", re.S)
    text = section.sub(lambda _: block, text) if section.search(text) else text.rstrip("\n") + "\n\n" + block
    file.write_text(text, encoding="utf-8")
