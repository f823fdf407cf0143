#!/usr/bin/env python3
"""clang-tidy over the C++ files that changed.

    tools/tidy.py [--base REV] [--most 12] [FILE …]

Without FILEs: what changed since --base (default: where this branch left origin/main, or the last commit's parent), new
files included; a header counts as a source that includes it. Configures build/lint, where each source is compiled by itself,
and makes the protobuf headers, but builds nothing else. Exit 1 if anything was found.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "lint"
LINT = BUILD / "tidy"  # the compile database as clang likes it
OPTIONS = ["--quiet", "--extra-arg=-Wno-unknown-warning-option", "--extra-arg=-Wno-ignored-optimization-argument"]
NOISE = re.compile(r"^\d+ warnings?( and \d+ errors?)? (generated|treated as errors?)\.?$|^Suppressed \d+|^Use -header-filter")


def git(*arguments):
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.split() if done.returncode == 0 else []


def default_base():
    head = git("rev-parse", "HEAD")
    fork = git("merge-base", "origin/main", "HEAD")
    return fork[0] if fork and fork != head else (git("rev-parse", "--verify", "HEAD~1") or ["HEAD"])[0]


def changed(base):
    patterns = ["*.h", "*.cc"]
    return sorted({*git("diff", "--name-only", "--diff-filter=d", base, "--", *patterns),
                   *git("ls-files", "--others", "--exclude-standard", "--", *patterns)})


def source_of(path):
    """The source by which a file is checked: itself; for a header its own source, or the nearest that includes it."""
    seen, headers = set(), [path]
    while headers:
        path = headers.pop(0)
        own = path[:-2] + ".cc" if path.endswith(".h") else path
        if (ROOT / own).exists():
            return own
        users = git("grep", "-l", "--fixed-strings", f'#include "{path}"', "--", "*.cc", "*.h")
        users.sort(key=lambda user: (user.endswith(".h"), os.path.dirname(user) != os.path.dirname(path), user))
        headers += [user for user in users if user not in seen]
        seen.update(users)
    return None


def prepare():
    """A compile database for clang: GCC's precompiled header gives way to the header it was made from."""
    headers = [f"proto/{path.relative_to(ROOT / 'proto')}".replace(".proto", ".pb.h")
               for path in sorted((ROOT / "proto").rglob("*.proto"))]
    subprocess.run([ROOT / "tools" / "build.sh", "lint", str(os.cpu_count()), *headers], check=True,
                   stdout=subprocess.DEVNULL)
    entries = json.loads((BUILD / "compile_commands.json").read_text())
    for entry in entries:
        words = [word for word in shlex.split(entry.pop("command")) if word not in ("-Winvalid-pch", "-fopenmp")]  # clang has no omp.h
        entry["arguments"] = [str(ROOT / "worker" / "torch_pch.h") if word.endswith("/cmake_pch.hxx") else word
                              for word in words]
    LINT.mkdir(exist_ok=True)
    (LINT / "compile_commands.json").write_text(json.dumps(entries, indent=1))
    return {str(pathlib.Path(entry["file"]).relative_to(ROOT)) for entry in entries
            if pathlib.Path(entry["file"]).is_relative_to(ROOT)}


def check(path):
    done = subprocess.run(["clang-tidy", "-p", LINT, *OPTIONS, path], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    lines = [line for line in done.stdout.splitlines() if line and not NOISE.match(line)]
    return "\n".join(lines), done.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default=os.environ.get("EMOE_LINT_BASE") or None)
    parser.add_argument("--most", type=int, default=12, help="files looked at; one with LibTorch takes half a minute")
    parser.add_argument("files", nargs="*")
    arguments = parser.parse_args()
    wanted = arguments.files or changed(arguments.base or default_base())
    sources = list(dict.fromkeys(filter(None, map(source_of, sorted(wanted, key=lambda path: path.endswith(".h"))))))
    if not sources:
        return 0
    known = prepare()
    if other := [path for path in sources if path not in known]:
        print(f"[lint] not in this build (CUDA?), not looked at: {' '.join(other)}")
    sources = [path for path in sources if path in known]
    if left_out := sources[arguments.most:]:
        print(f"[lint] {len(left_out)} of {len(sources)} files left out; all of them: tools/tidy.py --most {len(sources)}")
    failed = False
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for text, code in pool.map(check, sources[:arguments.most]):
            if text:
                print(text, flush=True)
            failed |= code != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
