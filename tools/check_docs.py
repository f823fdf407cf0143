#!/usr/bin/env python3
"""Fails when docs/ and the code name different things: job keys and their defaults, metrics, reasons,
warnings, exit codes, tests.

A page's names are the first cells of its tables ("| `name` | …"), so text around them is free.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def sources(*folders):
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".h", ".cc"):
                yield path.read_text(encoding="utf-8")


def rows(page, heading=""):
    """The tables' rows as lists of cells, of the whole page or below one heading."""
    text = read(f"docs/{page}")
    if heading:
        _, _, below = text.partition(f"\n## {heading}\n")
        text = re.split(r"^## ", below, maxsplit=1, flags=re.MULTILINE)[0]
    for line in text.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def names(page, pattern, heading=""):
    return {name for cells in rows(page, heading) for name in re.findall(r"`([^`]+)`", cells[0])
            if re.fullmatch(pattern, name)}


def compare(page, what, documented, existing):
    for name in sorted(existing - documented):
        yield f"docs/{page}: {what} {name} is missing"
    for name in sorted(documented - existing):
        yield f"docs/{page}: {what} {name} does not exist"


def job_keys():
    """{key: default} of the keys that hold a value."""
    table = read("config/schema.cc").split("const Schema& coordinator_schema() {")[0]
    found = {key: re.search(r'\.fallback = "((?:[^"\\]|\\.)*)"', rest)
             for key, rest in re.findall(r'\{\.key = "([^"]+)"(.*)\},', table)}
    return {key: (default.group(1).replace('\\"', '"') if default else "") for key, default in found.items()
            if not any(other.startswith(key + ".") for other in found)}


def check_config():
    keys = job_keys()
    documented = {cells[0].strip("`"): cells[1].strip("`") for cells in rows("CONFIG.md") if cells[0].startswith("`")}
    yield from compare("CONFIG.md", "key", documented.keys(), keys.keys())
    for key in documented.keys() & keys.keys():
        default = "" if keys[key] == '""' else keys[key]
        if documented[key] not in (default, *([] if default else ["required"])):
            yield f"docs/CONFIG.md: {key} has the default {default or 'none'}, not {documented[key]}"


def check_metrics():
    existing = {name for text in sources("server", "worker/report")
                for name in re.findall(r'\w\(\s*"(emoe_[a-z0-9_]+)"', text)}
    yield from compare("METRICS.md", "metric", names("METRICS.md", "emoe_[a-z0-9_]+"), existing)


def check_reasons():
    existing = {name for text in sources("server")
                for call in re.findall(r"\b(?:make_error|with_reason)\(([^;]*)", text)
                for name in re.findall(r'"([A-Z]{2,}(?:_[A-Z]+)*)"', call)[:1]}
    existing |= {name for text in sources("server") for name in re.findall(r'"(INVALID_(?!ARGUMENT")[A-Z_]+)"', text)}
    documented = names("ERRORS.md", "[A-Z_]+", "Reasons of calls") | names("ERRORS.md", "[A-Z_]+", "Reasons in a rank's session")
    yield from compare("ERRORS.md", "reason", documented, existing)
    ends = set(re.findall(r"^\s+(REASON_\w+) = [1-9]", read("proto/emoe/v1/job.proto"), re.MULTILINE))
    yield from compare("ERRORS.md", "reason", names("ERRORS.md", r"REASON_\w+"), ends)


def check_warnings():
    existing = set(re.findall(r'\bk\w+\[\] = "([A-Z_]+)";', read("base/warning.h")))
    yield from compare("ERRORS.md", "warning", names("ERRORS.md", "[A-Z_]+", "Warnings"), existing)


def check_exit_codes():
    worker = set(re.findall(r"^\s+\w+ = (\d+),", read("base/exit_code.h"), re.MULTILINE))
    client = worker | set(re.findall(r"\bkExit\w+ = (\d+)", "".join(sources("cli"))))
    for program, existing in (("emoe-worker", worker), ("emoectl", client)):
        documented = {cells[0] for cells in rows("ERRORS.md", f"Exit codes of {program}") if cells[0].isdigit()}
        yield from compare("ERRORS.md", f"exit code of {program}", documented, existing)


def check_inputs():
    for cells in rows("INPUTS.md"):
        for path, name in re.findall(r"`(tests/[^:`]+): (\w+)`", cells[1]):
            if not (ROOT / path).exists() or not re.search(rf"\b{name}\b", read(path)):
                yield f"docs/INPUTS.md: there is no {name} in {path}"


def main():
    found = [*check_config(), *check_metrics(), *check_reasons(), *check_warnings(), *check_exit_codes(), *check_inputs()]
    print("\n".join(found), end="\n" if found else "")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
