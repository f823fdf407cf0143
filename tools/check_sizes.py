#!/usr/bin/env python3
"""Fails when a source file is longer than a reader can know: 400 lines; tests and scripts 500."""
import subprocess
import sys

LIMITS = {".h": 400, ".cc": 400, ".cu": 400, ".py": 500, ".sh": 300, ".proto": 500}


def main():
    files = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout.split("\0")
    bad = 0
    for path in files:
        limit = LIMITS.get(path[path.rfind("."):]) if "." in path else None
        if limit is None:
            continue
        if path.startswith("tests/"):
            limit = max(limit, 500)
        with open(path, encoding="utf-8") as source:
            lines = sum(1 for _ in source)
        if lines > limit:
            print(f"{path}: {lines} lines, at most {limit}: split it")
            bad += 1
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
