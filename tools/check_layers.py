#!/usr/bin/env python3
"""Fails when an #include points against the direction of the house (docs/ARCHITECTURE.md draws it).

A folder may include itself, the folders listed for it, and whatever those may include. Programs' main files and tests
may include anything. Two more rules keep third-party headers apart: LibTorch and protobuf never meet in one file
(the wheel bundles another protobuf), and only files named below see the generated gRPC services.
"""
import re
import subprocess
import sys

ALLOWED = {
    "base": [],
    "format": ["base"],
    "data": ["format"],
    "plan": ["format"],
    "text": ["data", "format"],
    "config": ["data", "format", "text"],
    "metrics": ["base"],
    "launcher": ["base"],
    "launcher/local": ["launcher"],
    "launcher/slurm": ["launcher/local"],
    "launcher/kubernetes": ["launcher/local"],
    "server/job": ["config", "data", "format", "plan", "text", "worker/train"],
    "server/scheduler": ["server/job", "launcher"],
    "server/session": ["server/job"],
    "server/control": ["server/job", "server/scheduler", "server/session", "launcher", "metrics"],
    "server/security": ["server/job", "config", "metrics"],
    "server/rpc": ["server/control", "server/security"],
    "server": ["server/rpc", "server/security", "server/control", "server/job", "server/scheduler", "server/session", "launcher", "launcher/local", "launcher/slurm", "launcher/kubernetes", "metrics"],
    "cli": ["config", "text", "worker/train"],
    "worker": [],
    "worker/device": ["base"],
    "worker/comm": ["worker/device"],
    "worker/tensor": ["worker/device", "format"],
    "worker/emoe": ["worker/device", "worker/tensor"],
    "worker/model": ["worker/comm", "worker/emoe", "worker/tensor", "worker"],
    "worker/weights": ["worker/model", "text"],
    "worker/report": ["metrics", "worker/comm"],
    "worker/preflight": ["base", "worker/report"],
    "worker/batching": ["worker/model", "text"],
    "worker/eval": ["worker/batching", "worker/comm", "worker/weights", "worker/report"],
    "worker/train": ["worker/eval", "plan"],
    "worker/run": ["worker/train", "worker/preflight", "config", "metrics", "text"],
    "bench": ["worker/train", "config", "plan", "server/scheduler"],
}
FREE = re.compile(r"^tests/|_main\.cc$|/main\.cc$")
GRPC = re.compile(r"^server/rpc/|^cli/|^worker/report/session_|^server/main\.cc$|^bench/service_|^tests/")
TORCH = re.compile(r"^<?(ATen|torch|c10)/")
PROTOBUF = re.compile(r"^(google/protobuf/|grpcpp/|emoe/v1/|config/config\.h)")


def closure(folder, seen=None):
    seen = set() if seen is None else seen
    for target in ALLOWED.get(folder, []):
        if target not in seen:
            seen.add(target)
            closure(target, seen)
    return seen


def folder_of(path):
    parts = path.split("/")[:-1]
    while parts and "/".join(parts) not in ALLOWED:
        parts.pop()
    return "/".join(parts)


def includes(path):
    with open(path, encoding="utf-8") as source:
        for number, line in enumerate(source, 1):
            match = re.match(r'\s*#\s*include\s+["<]([^">]+)[">]', line)
            if match:
                yield number, match.group(1)


def problems(path):
    folder, seen = folder_of(path), {"torch": None, "protobuf": None}
    allowed = closure(folder) | {folder}
    for number, target in includes(path):
        home = folder_of(target)
        if home and home != "worker" and home not in allowed and not FREE.search(path):
            yield f"{path}:{number}: {folder or path} may not include {target}"
        if target.endswith(".grpc.pb.h") and not GRPC.search(path):
            yield f"{path}:{number}: only the rpc, session and cli files may include {target}"
        for kind, pattern in (("torch", TORCH), ("protobuf", PROTOBUF)):
            if pattern.match(target):
                seen[kind] = number
    if seen["torch"] and seen["protobuf"]:
        yield f"{path}:{seen['protobuf']}: LibTorch (line {seen['torch']}) and protobuf headers in one file"


def main():
    files = subprocess.run(["git", "ls-files", "*.h", "*.cc", "*.cu"], check=True, capture_output=True, text=True)
    found = [problem for path in files.stdout.split() for problem in problems(path)]
    print("\n".join(found), end="\n" if found else "")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
