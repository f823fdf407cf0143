#!/usr/bin/env python3
"""Runs the fuzz targets, one after another: run.py [--seconds 600] [--build build/fuzz] [TARGET …]

Each begins with its seeds (tests/fuzz/corpus/TARGET) and what earlier runs found worth keeping (build/fuzz-corpus/TARGET, not
part of the repository). A finding is a crash, a sanitizer's report, an expectation that does not hold, more than 2 GiB of
memory or 10 s for one input; it is left in build/fuzz-findings and the exit code is 1. Add its input to the seeds, with
its correction.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGETS = ("yaml", "safetensors", "rows", "tokenizer", "requests", "reports", "admission")
# No check of new against free: SentencePiece's module binds its own operator new (as for the asan tests).
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1:alloc_dealloc_mismatch=0", "UBSAN_OPTIONS": "print_stacktrace=1"}


def run(target, build, seconds):
    kept, findings = ROOT / "build" / "fuzz-corpus" / target, ROOT / "build" / "fuzz-findings"
    for folder in (kept, findings):
        folder.mkdir(parents=True, exist_ok=True)
    seeds = ROOT / "tests" / "fuzz" / "corpus" / target
    log = ROOT / "build" / f"fuzz-{target}.log"
    command = [build / "fuzz" / f"{target}_fuzz", f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048",
               "-max_len=16384", "-print_final_stats=1", f"-artifact_prefix={findings}/{target}-", kept, seeds]
    with open(log, "wb") as file:
        code = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                              env={**os.environ, **OPTIONS}, check=False).returncode
    text = log.read_text(errors="replace")
    executions = re.findall(r"stat::number_of_executed_units:\s*(\d+)", text)
    coverage = re.findall(r"cov: (\d+)", text)
    print(f"{target}: {'no finding' if code == 0 else f'FINDING (exit code {code}), see {log}'}, "
          f"{executions[-1] if executions else '?'} inputs, {coverage[-1] if coverage else '?'} edges, {seconds} s", flush=True)
    return code == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build" / "fuzz")
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    results = [run(target, options.build, options.seconds) for target in options.targets or TARGETS]
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
